"""How runs are laid out on devices: the rules alone, and whole runs on eight."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from runs import assert_alike, tiny, tiny_convnet

from srigl_jax import make_plan
from srigl_jax import train as train_lib
from srigl_jax.sharding import (
    Placement,
    check_batch,
    gathered,
    kernel_spec,
    leaf_spec,
    make_mesh,
    mesh_shape,
)
from srigl_jax.sparsity.layout import Layout
from srigl_jax.train import train

PARAMS = {
    "hidden": {"kernel": jnp.ones((20, 16)), "bias": jnp.ones(16)},
    "head": {"kernel": jnp.ones((16, 10))},
}
PLAN = make_plan(PARAMS, 0.5)


@pytest.mark.parametrize(
    ("asked", "devices", "processes", "shape"),
    [
        ((None, 1), 1, 1, (1, 1)),
        ((None, 1), 8, 1, (8, 1)),
        ((None, 4), 8, 1, (2, 4)),
        ((2, 2), 8, 1, (2, 2)),
        ((None, 2), 8, 2, (4, 2)),
        ((None, 8), 16, 4, (2, 8)),
    ],
)
def test_devices_share_batches_unless_they_share_neurons(
    asked, devices, processes, shape
):
    assert mesh_shape(*asked, devices=devices, processes=processes) == shape


@pytest.mark.parametrize(
    ("asked", "devices", "processes", "message"),
    [
        (
            (None, 3),
            8,
            1,
            "mesh.neurons is 3, .* the 8 devices: give one of 1, 2, 4, 8",
        ),
        (
            (16, 1),
            8,
            1,
            "mesh.data is 16 .* 16 devices, but there are 8: lower .* to 8",
        ),
        ((1, 2), 8, 2, "mesh.data is 1 and mesh.neurons 2, .* all of their 8 devices"),
        ((None, 4), 12, 2, "mesh.neurons is 4, but each process has 6 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(asked, devices, processes, message):
    with pytest.raises(ValueError, match=message):
        mesh_shape(*asked, devices=devices, processes=processes)


def test_one_device_has_no_mesh_and_leaves_all_as_it_is():
    placement = Placement(make_mesh(1, 1), PLAN)
    assert placement.mesh is placement.copied is placement.shardings(PARAMS) is None
    assert placement.place(PARAMS) is PARAMS
    batch = {"label": np.arange(3)}
    assert next(placement.batches([batch])) is batch
    assert gathered(PARAMS)["head"]["kernel"] is PARAMS["head"]["kernel"]


def test_a_batch_that_devices_cannot_share_is_refused_with_the_way_out():
    check_batch(64, 4, 8)
    message = "batch_size is 100, .* 8 devices .* multiple of 8, or mesh.data=4"
    with pytest.raises(ValueError, match=message):
        check_batch(100, 1, 8)
    with pytest.raises(ValueError, match="in 16 micro-batches, evenly: .* mesh.data=4"):
        check_batch(64, 16, 8)


@pytest.mark.parametrize(
    ("layout", "neurons", "spec"),
    [
        (Layout((20, 16), (1,)), 4, P(None, "neurons")),
        (Layout((3, 3, 4, 16), (3,)), 8, P(None, None, None, "neurons")),
        (Layout((16, 20), (0,)), 4, P("neurons")),
        (Layout((20, 3, 4, 8), (1, 2, 3)), 4, P(None, None, "neurons")),
        (Layout((20, 10), (1,)), 4, P()),
    ],
)
def test_a_kernel_is_cut_at_the_first_axis_of_neurons_that_divides(
    layout, neurons, spec
):
    assert kernel_spec(layout, neurons) == spec


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("params/hidden/kernel", (20, 16), P(None, "neurons")),
        ("opt_state/masks/hidden/kernel", (20, 16), P(None, "neurons")),
        ("opt_state/inner/0/trace/hidden/kernel", (20, 16), P(None, "neurons")),
        ("explored/hidden/kernel", (3, 16), P(None, "neurons")),
        ("explored/head/kernel", (2, 10), P()),
        ("params/hidden/bias", (16,), P()),
        ("params/head/kernel", (16, 10), P()),
        ("opt_state/inner/0/factors/hidden/kernel", (20,), P()),
        ("params/overhidden/kernel", (20, 16), P()),
        ("step", (), P()),
    ],
)
def test_what_belongs_to_a_kernel_is_cut_like_it_and_all_else_copied(name, shape, spec):
    assert leaf_spec(name, shape, PLAN, 4) == spec


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Spares every run the pictures, which take longer than its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)
        yield


NETWORKS = {
    "mlp": lambda data_dir, **fields: tiny(data_dir, gamma_sal=0.9, ema=0.9, **fields),
    # Batch statistics are of the whole batch, or these would differ.
    "convnet": lambda data_dir, **fields: tiny_convnet(
        data_dir, accumulate=2, **fields
    ),
}
STEPS = 66


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """Gives the workdir of a network's run on one device, trained when first asked."""
    workdirs = {}

    def run(network):
        if network not in workdirs:
            workdirs[network] = tmp_path_factory.mktemp(network)
            train(NETWORKS[network](data_dir), workdirs[network])
        return workdirs[network]

    return run


@pytest.mark.parametrize(
    ("network", "data", "neurons"),
    [
        ("mlp", 8, 1),
        ("mlp", 2, 4),
        ("convnet", 8, 1),
        pytest.param("convnet", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_train_what_one_does_and_compile_once(
    alone, data_dir, tmp_path, monkeypatch, network, data, neurons
):
    expected = alone(network)
    steps = []
    make_config_step = train_lib.make_config_step

    def kept(*args, **options):
        steps.append(make_config_step(*args, **options))
        return steps[-1]

    monkeypatch.setattr(train_lib, "make_config_step", kept)
    config = NETWORKS[network](data_dir, mesh__data=data, mesh__neurons=neurons)
    train(config, tmp_path)
    assert_alike(tmp_path, expected, STEPS)
    assert steps[0]._cache_size() == 1


def test_a_run_resumes_on_another_number_of_devices(alone, data_dir, tmp_path, capsys):
    config = NETWORKS["mlp"](data_dir, mesh__data=2, mesh__neurons=4)
    stop_after(config, tmp_path, 40)
    config.mesh.data, config.mesh.neurons = 4, 1
    train(config, tmp_path)
    assert "resuming after step 40 of 66" in capsys.readouterr().out
    assert_alike(tmp_path, alone("mlp"), STEPS)


def stop_after(config, workdir, step):
    class Enough(Exception):
        pass

    save = train_lib.Checkpoints.save

    def save_and_stop(self, number, state):
        save(self, number, state)
        if number == step:
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib.Checkpoints, "save", save_and_stop)
        with pytest.raises(Enough):
            train(config, workdir)
