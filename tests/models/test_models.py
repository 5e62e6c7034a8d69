"""The networks: shapes, names, initial weights, modes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srigl_jax import models

NETWORKS = {
    "mlp": {"widths": (16, 8)},
    "linear": {"widths": ()},
    "convnet": {"widths": (4, 8), "hidden": 16},
    "resnet18": {"width": 2},
    "resnet50": {},
    "wide_resnet": {},
    "mobilenet_v3_small": {},
    "mobilenet_v3_large": {},
    "vit_b_16": {},
    "vit": {"patch": 1, "width": 6, "depth": 1, "heads": 2},
}


@functools.cache
def network(case, shape=(7, 5, 2), **options):
    name = "mlp" if case == "linear" else case
    options = NETWORKS[case] | options
    return models.create(name, shape, 3, rngs=nnx.Rngs(0), **options)


def images(batch=2, shape=(7, 5, 2)):
    values = np.random.default_rng(0).normal(size=(batch, *shape))
    return jnp.asarray(values, jnp.float32)


def shapes(model):
    leaves = jax.tree_util.tree_leaves_with_path(
        nnx.to_pure_dict(nnx.state(model, nnx.Param))
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }


@pytest.mark.parametrize("case", NETWORKS)
def test_there_is_a_logit_for_each_class(case):
    shape = (32, 16, 2) if case == "vit_b_16" else (7, 5, 2)

    def evaluate():
        model = network.__wrapped__(case, shape)
        model.eval()
        return model(images(shape=shape))

    logits = jax.eval_shape(evaluate)
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)


def test_parameters_of_the_mlp():
    assert shapes(network("mlp")) == {
        "layers/0/kernel": (70, 16),
        "layers/0/bias": (16,),
        "layers/1/kernel": (16, 8),
        "layers/1/bias": (8,),
        "layers/2/kernel": (8, 3),
        "layers/2/bias": (3,),
    }


def test_parameters_of_the_convnet():
    # Each convolution halves 7 x 5, rounding up: 4 x 3, then 2 x 2.
    assert shapes(network("convnet")) == {
        "convs/0/kernel": (3, 3, 2, 4),
        "convs/1/kernel": (3, 3, 4, 8),
        "hidden/kernel": (2 * 2 * 8, 16),
        "norms/0/bias": (4,),
        "norms/0/scale": (4,),
        "norms/1/bias": (8,),
        "norms/1/scale": (8,),
        "norms/2/bias": (16,),
        "norms/2/scale": (16,),
        "head/kernel": (16, 3),
        "head/bias": (3,),
    }


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_kernels_have_the_variance_of_he(name):
    model = network(name, shape=(16, 16, 4), widths=(64,))
    for kernel in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))):
        if kernel.ndim > 1 and kernel.size > 2000:
            fan_in = kernel[..., 0].size
            np.testing.assert_allclose(np.var(kernel), 2 / fan_in, rtol=0.1)


def test_the_seed_decides_the_weights():
    def linear(seed):
        return models.create("mlp", (7, 5, 2), 3, widths=(), rngs=nnx.Rngs(seed))

    first, again, other = (linear(s)(images()) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_dropout_drops_in_training_alone(name):
    model = network(name, dropout=0.5)
    model.eval()
    once, again = model(images()), model(images())
    assert np.array_equal(once, again)
    model.train()
    first, second = (model(images(), rngs=nnx.Rngs(dropout=s)) for s in (1, 2))
    assert not np.array_equal(first, second)


def test_the_mlp_is_linear_without_widths():
    model = network("linear")
    x = images()
    origin = model(jnp.zeros_like(x))
    np.testing.assert_allclose(
        model(3 * x) - origin, 3 * (model(x) - origin), rtol=1e-4, atol=1e-5
    )


def test_batch_normalisation_uses_the_running_statistics_in_evaluation():
    model = network("convnet")
    model.train()
    trained = model(images())
    model.eval()
    assert not np.allclose(model(images()), trained)


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"model.name is 'lenet': .*'convnet', 'mlp'"):
        models.create("lenet", (8, 8, 1), 10, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", models.MODELS)
def test_links_name_modules_of_the_network(name):
    shape = (32, 32, 3)
    model = nnx.eval_shape(lambda: models.create(name, shape, 10, rngs=nnx.Rngs(0)))
    paths = {"/".join(map(str, path)) for path, _ in nnx.iter_graph(model)}
    for link in model.links():
        assert {link.producer, *link.consumers} <= paths
        assert link.norm is None or link.norm in paths
