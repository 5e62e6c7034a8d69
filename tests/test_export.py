"""From a trainer's workdir to files, and back to what the masked network computes."""

import hashlib
import json
import shutil

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import tiny, tiny_convnet

from srigl_jax import export as export_lib
from srigl_jax.condensed import storage
from srigl_jax.condensed.description import Description
from srigl_jax.condensed.modules import CondensedLinear
from srigl_jax.condensed.representation import condense
from srigl_jax.export import export, main
from srigl_jax.predictor import load_predictor, stablehlo_files
from srigl_jax.train import train
from srigl_jax.trained import load_trained

STEP = 66


@pytest.fixture(scope="module")
def workdirs(data_dir, tmp_path_factory):
    """Runs of which hidden neurons were ablated, not to be changed."""
    made = {}
    for name, make in [("mlp", tiny), ("convnet", tiny_convnet)]:
        made[name] = tmp_path_factory.mktemp("runs") / name
        train(make(data_dir, gamma_sal=0.9), made[name])
    return made


@pytest.fixture(params=["mlp", "convnet"])
def workdir(request, workdirs, tmp_path):
    """A copy of one, to be changed."""
    return shutil.copytree(workdirs[request.param], tmp_path / request.param)


@pytest.fixture
def mlp(workdirs, tmp_path):
    return shutil.copytree(workdirs["mlp"], tmp_path / "mlp")


def masked_logits(workdir, images):
    trained = load_trained(workdir)
    mean, std = np.float32(trained.dataset.mean), np.float32(trained.dataset.std)
    return np.asarray(trained.model((images.astype(np.float32) - mean) / std))


def images(workdir, count):
    return load_trained(workdir).dataset.test.images[:count]


def test_the_last_checkpoint_is_taken_with_its_masks(workdirs):
    trained = load_trained(workdirs["mlp"])
    assert trained.step == STEP
    hidden = np.asarray(trained.masks["layers"][0]["kernel"])
    kernel = np.asarray(trained.model.layers[0].kernel.get_value())
    assert not hidden.any(axis=0).all()  # Some neurons are ablated.
    assert not kernel[~hidden].any()


def test_reading_a_workdir_leaves_it_alone(mlp):
    def digests():
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in mlp.rglob("*")
            if path.is_file()
        }

    before = digests()
    load_trained(mlp)
    assert digests() == before


def test_a_corrupt_checkpoint_is_passed_over(mlp):
    for path in (mlp / "checkpoints" / str(STEP)).rglob("d/*"):
        path.write_bytes(b"")
    assert load_trained(mlp).step == 60


@pytest.mark.parametrize("format", ["condensed", "dense"])
def test_a_directory_computes_what_the_masked_network_does(workdir, format):
    output = export(workdir, format)
    assert output == workdir / format
    x = images(workdir, 7)
    logits = load_predictor(output).logits(x)
    np.testing.assert_allclose(logits, masked_logits(workdir, x), atol=1e-5, rtol=1e-5)


def test_condensed_layers_are_chosen_by_density(mlp):
    # Whatever the machine, a layer of which every weight exists is dense.
    model, _ = storage.load(export(mlp, "condensed"))
    assert isinstance(model.layers[1], nnx.Linear)


def test_dense_has_no_condensed_layer_and_no_ablated_neuron(mlp):
    hidden = load_trained(mlp).masks["layers"][0]["kernel"]
    active = int(np.asarray(hidden).any(axis=0).sum())
    model, _ = storage.load(export(mlp, "dense"))
    assert model.layers[0].kernel.get_value().shape == (64, active)
    assert model.layers[1].kernel.get_value().shape == (active, 10)


def test_the_description_is_that_of_the_run(workdir):
    _, description = storage.load(export(workdir, "condensed", batch_size=3))
    assert description.dataset == "digits"
    assert description.image_shape == (8, 8, 1)
    assert description.class_names == tuple("0123456789")
    assert description.mean == load_trained(workdir).dataset.mean
    assert description.batch_size == 3


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("format", ["stablehlo", "stablehlo_condensed"])
def test_stablehlo_runs_without_this_library_at_any_batch_size(workdir, format, batch):
    output = export(workdir, format)
    exported = jax.export.deserialize(bytearray(output.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    is_condensed = "stablehlo.scatter" in exported.mlir_module()
    assert is_condensed == (format == "stablehlo_condensed")
    x = images(workdir, batch)
    found = exported.call(x)
    np.testing.assert_allclose(found, masked_logits(workdir, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_condensed_layer_with_ablated_neurons_runs_in_stablehlo(tmp_path, batch):
    what = Description(
        "mlp", {"widths": []}, "digits", (8, 8, 1), (8.0,), (4.0,), "abc"
    )
    model = what.fresh()
    mask = np.random.default_rng(0).random((64, 3)) < 0.1
    mask[:, 1] = False
    kernel = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    c = condense(kernel, mask, np.array([1, 2, 3], np.float32))
    model.layers[0] = CondensedLinear(c, implementation="xla")
    for path, content in stablehlo_files(tmp_path / "m", model, what).items():
        path.write_bytes(content)
    x = np.random.default_rng(2).integers(0, 17, (batch, 8, 8, 1)).astype(np.uint8)
    expected = (x.reshape(batch, 64) - 8.0) / 4 @ (kernel * mask) + [1, 2, 3]
    found = load_predictor(tmp_path / "m").logits(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_computes_what_the_masked_network_does(workdir, batch):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="pip install onnx onnxruntime to test ONNX"
    )
    pytest.importorskip("onnx", reason="pip install onnx to test ONNX")
    output = export(workdir, "onnx")
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    x = images(workdir, batch)
    (found,) = session.run(["logits"], {"images": x})
    np.testing.assert_allclose(found, masked_logits(workdir, x), atol=1e-5, rtol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["class_names"]) == list("0123456789")


def test_onnx_has_no_ablated_neuron(mlp):
    onnx = pytest.importorskip("onnx", reason="pip install onnx to test ONNX")
    hidden = load_trained(mlp).masks["layers"][0]["kernel"]
    active = int(np.asarray(hidden).any(axis=0).sum())
    model = onnx.load(export(mlp, "onnx"))
    shapes = {tuple(x.dims) for x in model.graph.initializer}
    assert {(64, active), (active, 10)} <= shapes


def test_without_onnxruntime_the_reference_of_onnx_checks(mlp, monkeypatch, capsys):
    pytest.importorskip("onnx", reason="pip install onnx to test ONNX")
    find_spec = export_lib.importlib.util.find_spec
    monkeypatch.setattr(
        export_lib.importlib.util,
        "find_spec",
        lambda name: None if name == "onnxruntime" else find_spec(name),
    )
    export(mlp, "onnx")
    assert "largest difference from the masked network" in capsys.readouterr().out


def test_what_is_printed(mlp, capsys):
    output = export(mlp, "condensed", batch_size=4)
    printed = capsys.readouterr().out
    size = sum(path.stat().st_size for path in output.iterdir())
    # 64 x 16 + 16 + 16 x 10 + 10 numbers.
    assert f"{size:,} bytes; the dense network has 4,840 in float32" in printed
    assert f"step {STEP}" in printed
    assert "layers/0" in printed and "64x16" in printed
    assert "largest difference from the masked network" in printed


def test_autotune_times_the_forms(mlp, capsys):
    export(mlp, "condensed", autotune=True)
    assert " us" in capsys.readouterr().out


def test_a_live_export_is_replaced_only_if_asked(mlp):
    output = export(mlp, "condensed")
    with pytest.raises(ValueError, match="condensed exists: --overwrite replaces it"):
        export(mlp, "condensed")
    assert export(mlp, "condensed", overwrite=True) == output
    storage.load(output)


def test_what_is_no_export_is_not_replaced(mlp, tmp_path):
    (tmp_path / "mine").mkdir()
    for format in ("condensed", "stablehlo"):
        with pytest.raises(ValueError, match="mine is not overwritten.*--output"):
            export(mlp, format, tmp_path / "mine", overwrite=True)


def test_a_network_that_computes_something_else_is_refused(mlp, monkeypatch):
    convert = export_lib.condense_model

    def wrong(*args, **options):
        conversion = convert(*args, **options)
        head = conversion.model.layers[1]
        head.bias = nnx.Param(head.bias.get_value() + 1)
        return conversion

    output = export(mlp, "dense")
    before = (output / storage.MANIFEST).read_bytes()
    monkeypatch.setattr(export_lib, "condense_model", wrong)
    with pytest.raises(ValueError, match="does not compute what the masked network"):
        export(mlp, "dense", overwrite=True)
    assert (output / storage.MANIFEST).read_bytes() == before
    with pytest.raises(ValueError, match="stablehlo is not written"):
        export(mlp, "stablehlo")
    assert not [*mlp.glob("*stablehlo*"), *mlp.glob(".*.tmp")]


def fails(capsys, *arguments):
    """The one line that a wrong command prints."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    if isinstance(stop.value.code, str):
        return stop.value.code
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_command_writes(mlp, tmp_path):
    arguments = ["--workdir", mlp, "--format", "dense", "--output", tmp_path / "a/b"]
    main([str(argument) for argument in arguments])
    storage.load(tmp_path / "a/b")


def test_what_is_no_workdir_is_named(tmp_path, capsys):
    line = fails(capsys, "--workdir", tmp_path, "--format", "condensed")
    assert line.startswith(f"error: {tmp_path} is no workdir of a run")
    assert "srigl_jax.train" in line


def test_a_workdir_without_checkpoint_is_named(mlp, capsys):
    shutil.rmtree(mlp / "checkpoints")
    line = fails(capsys, "--workdir", mlp, "--format", "condensed")
    assert line.startswith(f"error: {mlp} has no checkpoint yet: train first")
    assert not (mlp / "condensed").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"method": "srigl"}'])
def test_a_damaged_config_is_named(mlp, capsys, content):
    (mlp / "config.json").write_text(content)
    line = fails(capsys, "--workdir", mlp, "--format", "condensed")
    assert line.startswith(f"error: {mlp}/config.json is ")


def test_an_unknown_format_lists_the_known_ones(mlp, capsys):
    line = fails(capsys, "--workdir", mlp, "--format", "pickle")
    assert "invalid choice: 'pickle'" in line
    assert all(format in line for format in export_lib.FORMATS)


@pytest.mark.parametrize("size", ["0", "-3", "many", "1.5"])
def test_a_batch_size_of_nonsense_is_named(mlp, capsys, size):
    arguments = ["--workdir", mlp, "--format", "dense", f"--batch_size={size}"]
    assert f"--batch_size: '{size}': give a whole number" in fails(capsys, *arguments)


def test_an_unknown_flag_is_named(mlp, capsys):
    arguments = ["--workdir", mlp, "--format", "dense", "--batchsize=3"]
    assert "unrecognized arguments: --batchsize=3" in fails(capsys, *arguments)


def test_an_output_that_cannot_be_written_is_named_before_any_work(mlp, capsys):
    output = mlp / "config.json" / "model"
    line = fails(capsys, "--workdir", mlp, "--format", "dense", "--output", output)
    assert line.startswith(f"error: {output} cannot be written: {mlp}/config.json is")
    assert "reading" not in capsys.readouterr().out


def test_a_missing_data_set_is_named_with_our_flags(mlp, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["--workdir", mlp, "--format", "dense", "--data_dir", tmp_path / "file"]
    line = fails(capsys, *arguments)
    assert "digits cannot be prepared" in line
    assert "--data_dir=DIR" in line and "--config" not in line


def test_onnx_that_is_not_installed_is_named_with_the_command(mlp, capsys, monkeypatch):
    monkeypatch.setattr(export_lib.importlib.util, "find_spec", lambda name: None)
    line = fails(capsys, "--workdir", mlp, "--format", "onnx")
    assert line == (
        'error: the format onnx needs the package onnx: pip install "srigl_jax[onnx]"'
    )


@pytest.mark.parametrize("format", ["dense", "stablehlo", "stablehlo_condensed"])
def test_autotune_without_a_choice_is_refused(mlp, capsys, format):
    arguments = ["--workdir", mlp, "--format", format, "--autotune"]
    assert "autotune has nothing to choose" in fails(capsys, *arguments)


def test_all_tensors_are_float32_or_indices(mlp):
    model, _ = storage.load(export(mlp, "condensed"))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))}
    assert dtypes <= {jnp.dtype(n) for n in ("float32", "uint16", "uint32", "int32")}
