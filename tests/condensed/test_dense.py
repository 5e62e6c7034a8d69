"""Networks whose condensed layers are written out, and whole networks on disk."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from srigl_jax import models
from srigl_jax.condensed import choose, storage
from srigl_jax.condensed.convert import condense_model
from srigl_jax.condensed.dense import all_dense
from srigl_jax.condensed.description import Description
from srigl_jax.condensed.modules import CondensedConv, CondensedLinear

SHAPE = (4, 4, 2)
NETWORKS = {
    "mlp": {"widths": [8, 6]},
    "convnet": {"widths": [4, 3], "hidden": 6},
    "resnet18": {"width": 4},
    "vit": {"patch": 2, "width": 8, "depth": 1, "heads": 2},
}


def describe(name):
    return Description(
        name, NETWORKS[name], "noise", SHAPE, (0.0, 0.0), (1.0, 1.0), tuple("abc")
    )


def create(name):
    return models.create(name, SHAPE, 3, rngs=nnx.Rngs(0), **NETWORKS[name])


def run(model, x):
    definition, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(definition, state)(x))(state, x)


@pytest.fixture(scope="module", params=NETWORKS)
def converted(request):
    """A network with random masks and ablated neurons, and it with layers condensed."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("linear", "conv"):
            limits = ((math.inf, 0.99),)  # Condensed whatever the machine.
            patch.setitem(choose.CROSSOVERS, ("xla", kind), limits)
        return request.param, *convert(request.param)


def convert(name):
    """The masked network, and its conversion."""
    model = create(name)
    model.eval()
    random = np.random.default_rng(0)

    def mask_of(path, leaf):
        if not jax.tree_util.keystr(path).endswith("['kernel']"):
            return optax.MaskedNode()
        mask = random.random(leaf.shape) < 0.4
        mask[..., 1] &= "head" in jax.tree_util.keystr(path)
        return mask

    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    masks = jax.tree_util.tree_map_with_path(mask_of, params)
    kept = jax.tree.map(
        lambda p, m: p if isinstance(m, optax.MaskedNode) else p * m, params, masks
    )
    nnx.update(model, kept)
    return model, condense_model(model, masks, implementation="xla")


def images():
    values = np.random.default_rng(1).normal(size=(3, *SHAPE))
    return jnp.asarray(values, jnp.float32)


def condensed_modules(model):
    return [
        module
        for _, module in nnx.iter_modules(model)
        if isinstance(module, CondensedConv | CondensedLinear)
    ]


def test_a_network_without_condensed_layers_computes_the_same(converted):
    _, model, conversion = converted
    assert condensed_modules(conversion.model)
    dense = all_dense(conversion)
    assert not condensed_modules(dense.model)
    expected, found = (run(m, images()) for m in (model, dense.model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_table_says_that_all_layers_are_dense(converted):
    _, _, conversion = converted
    before = [choice.new_shape for choice in conversion.layers]
    layers = all_dense(conversion).layers
    assert {choice.form for choice in layers} <= {"dense", "narrowed dense"}
    assert [choice.new_shape for choice in layers] == before


def test_the_conversion_given_is_left_alone(converted):
    _, _, conversion = converted
    count = len(condensed_modules(conversion.model))
    all_dense(conversion)
    assert len(condensed_modules(conversion.model)) == count


@pytest.mark.parametrize("make", [lambda c: c, all_dense], ids=["condensed", "dense"])
def test_a_whole_network_comes_back_from_disk(converted, make, tmp_path):
    name, _, conversion = converted
    model = make(conversion).model
    storage.save(tmp_path / "model", model, describe(name))
    loaded, _ = storage.load(tmp_path / "model")
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    jax.tree.map(
        np.testing.assert_array_equal, *map(nnx.to_pure_dict, states(loaded, model))
    )


def states(*networks):
    return [nnx.state(network) for network in networks]


def test_a_whole_network_computes_the_same_in_onnx(converted):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="pip install onnx onnxruntime to test ONNX"
    )
    pytest.importorskip("onnx", reason="pip install onnx to test ONNX")
    from srigl_jax.onnx_writer import to_onnx

    _, model, conversion = converted
    dense = all_dense(conversion).model
    proto = to_onnx(lambda x: dense(x.astype(jnp.float32) / 100), SHAPE)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(2).integers(0, 256, (7, *SHAPE)).astype(np.uint8)
    (found,) = session.run(None, {"images": x})
    expected = run(model, jnp.asarray(x, jnp.float32) / 100)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
