"""Networks as training may leave them, and masks with all that can make trouble."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from srigl_jax import models
from srigl_jax.models import mobilenet_v3, resnet
from srigl_jax.sparsity.layout import infer_layout, is_kernel, leaf_name

OPTIONS = {
    "mlp": {"widths": (24, 20, 16)},
    "convnet": {"widths": (8, 12), "hidden": 16},
    "resnet18": {"width": 6},
    "vit": {"patch": 4, "width": 12, "depth": 2, "heads": 3, "mlp_ratio": 2},
}


# Of the kinds of block that deep networks repeat, a few.
SHORT = {
    "bottlenecks": lambda shape, classes, rngs: resnet.ResNet(
        shape,
        classes,
        block=resnet.Bottleneck,
        depths=(1, 2),
        width=4,
        rngs=rngs,
    ),
    "inverted residuals": lambda shape, classes, rngs: mobilenet_v3.MobileNetV3(
        shape,
        classes,
        rows=mobilenet_v3.SMALL[:1] + mobilenet_v3.SMALL[2:5],
        hidden=64,
        multiplier=0.25,
        rngs=rngs,
    ),
    "pre-activated": lambda shape, classes, rngs: models.WideResNet(
        shape, classes, depth=10, width=4, rngs=rngs
    ),
    "class token": lambda shape, classes, rngs: models.ViT(
        shape,
        classes,
        patch=4,
        width=6,
        depth=1,
        heads=2,
        class_token=True,
        rngs=rngs,
    ),
}


def trained_short(case, image_shape=(8, 8, 3), seed=0):
    """Like `trained`, of the networks in `SHORT`."""
    return scrambled(SHORT[case](image_shape, 5, rngs=nnx.Rngs(0)), seed)


def trained(name, image_shape=(8, 8, 3), seed=0, **options):
    """A network whose every parameter and statistic is random; in evaluation mode."""
    options = OPTIONS.get(name, {}) | options
    model = models.create(name, image_shape, 5, rngs=nnx.Rngs(0), **options)
    return scrambled(model, seed)


def scrambled(model, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = leaf_name(path).split("/")[-1]
        if name == "var":
            value = rng.uniform(0.5, 2, leaf.shape)
        elif name == "kernel":
            value = rng.normal(size=leaf.shape) / np.sqrt(leaf[..., 0].size / 4)
        else:
            value = rng.normal(size=leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    state = nnx.to_pure_dict(nnx.state(model))
    nnx.update(model, jax.tree.map_with_path(draw, state))
    model.eval()
    return model


def rough_masks(model, seed=0, dense=("head",), gone=()):
    """Masks with unequal fan-ins and a quarter of the neurons without a weight.

    Layers in `dense` have none; in `gone` no neuron has a weight.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = leaf_name(path)
        if not is_kernel(path, leaf) or name.removesuffix("/kernel") in dense:
            return optax.MaskedNode()
        layout = infer_layout(path, leaf.shape)
        density = rng.uniform(0.1, 0.5, layout.neurons)
        mask = rng.uniform(size=(layout.fan_in, layout.neurons)) < density
        ablated = rng.choice(layout.neurons, layout.neurons // 4, replace=False)
        mask[:, ablated] = False
        if name.removesuffix("/kernel") in gone:
            mask[:] = False
        return jnp.asarray(layout.from_matrix(mask))

    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return jax.tree.map_with_path(draw, params)


def masked(model, masks):
    """The judge: the network itself, its weights multiplied by its masks."""
    model = nnx.clone(model)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    is_dense = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    kept = jax.tree.map(
        lambda mask, leaf: leaf if is_dense(mask) else leaf * mask,
        masks,
        params,
        is_leaf=is_dense,
    )
    nnx.update(model, kept)
    model.eval()
    return model


def images(batch=3, shape=(8, 8, 3), dtype=jnp.float32):
    values = np.random.default_rng(7).normal(size=(batch, *shape))
    return jnp.asarray(values, dtype)


def outputs(model, x):
    definition, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(definition, state)(x))(state, x)
