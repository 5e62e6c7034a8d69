"""Networks with all their layers in one form, in memory and on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from srigl_jax import models
from srigl_jax.condensed import storage
from srigl_jax.condensed.convert import condense_model
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
def masked(request):
    """A network's name, it with random masks and ablated neurons, and the masks."""
    model = create(request.param)
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
    return request.param, model, masks


@pytest.fixture(scope="module", params=["condensed", "dense"])
def converted(request, masked):
    """The network's name, the form, and the network in it."""
    name, model, masks = masked
    form = request.param
    return name, form, condense_model(model, masks, form=form, implementation="xla")


def images():
    values = np.random.default_rng(1).normal(size=(3, *SHAPE))
    return jnp.asarray(values, jnp.float32)


def condensed_modules(model):
    return [
        module
        for _, module in nnx.iter_modules(model)
        if isinstance(module, CondensedConv | CondensedLinear)
    ]


def test_a_form_asked_for_is_that_of_all_layers_and_computes_the_same(
    masked, converted
):
    _, model, _ = masked
    _, form, conversion = converted
    forms = {choice.form for choice in conversion.layers}
    assert forms <= ({form} if form == "condensed" else {"dense", "narrowed dense"})
    count = len(condensed_modules(conversion.model))
    assert count == (len(conversion.layers) if form == "condensed" else 0)
    expected, found = (run(m, images()) for m in (model, conversion.model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_form_takes_nothing_from_what_is_folded_and_removed(masked):
    _, *network = masked
    condensed, dense = (
        condense_model(*network, form=form, implementation="xla")
        for form in ("condensed", "dense")
    )
    shapes = [[choice.new_shape for choice in c.layers] for c in (condensed, dense)]
    assert shapes[0] == shapes[1]
    assert any(choice.new_shape != choice.shape for choice in dense.layers)


def test_an_unknown_form_is_refused(masked):
    _, model, masks = masked
    with pytest.raises(ValueError, match="form is 'sparse': give \"dense\""):
        condense_model(model, masks, form="sparse")
    with pytest.raises(ValueError, match="autotune has nothing to choose"):
        condense_model(model, masks, form="dense", autotune=True, example_shape=SHAPE)


def test_a_whole_network_comes_back_from_disk(converted, tmp_path):
    name, _, conversion = converted
    model = conversion.model
    storage.save(tmp_path / "model", model, describe(name))
    loaded, _ = storage.load(tmp_path / "model")
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    jax.tree.map(
        np.testing.assert_array_equal, *map(nnx.to_pure_dict, states(loaded, model))
    )


def states(*networks):
    return [nnx.state(network) for network in networks]


def test_a_whole_network_computes_the_same_in_onnx(masked):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="pip install onnx onnxruntime to test ONNX"
    )
    pytest.importorskip("onnx", reason="pip install onnx to test ONNX")
    from srigl_jax.onnx_writer import to_onnx

    _, model, masks = masked
    dense = condense_model(model, masks, form="dense").model
    proto = to_onnx(lambda x: dense(x.astype(jnp.float32) / 100), SHAPE)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(2).integers(0, 256, (7, *SHAPE)).astype(np.uint8)
    (found,) = session.run(None, {"images": x})
    expected = run(model, jnp.asarray(x, jnp.float32) / 100)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
