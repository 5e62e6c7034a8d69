"""Whole networks of the benchmark: masked and dense, and converted."""

import collections
import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from bursts import Contender, local, one_line
from contenders import check, onnx_session, size_read
from flax import nnx
from foreign import Engine, describe_network

from srigl_jax import models
from srigl_jax.analysis.network import read_network
from srigl_jax.condensed.convert import condense_model
from srigl_jax.condensed.description import Description
from srigl_jax.predictor import stablehlo_files
from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.masks import init_masks, map_layers, sparse_he_normal
from srigl_jax.sparsity.plan import make_plan

ABLATED = 0.05
"""Share of the neurons of inner layers that the random masks ablate."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with its masks, in evaluation mode, weights off the masks 0.

    Attributes:
      name: as tables show it.
      image_shape: (height, width, channels).
      model: the network.
      masks: like its parameters.
    """

    name: str
    image_shape: tuple[int, int, int]
    model: nnx.Module
    masks: Any


def random_networks(sparsity: float = 0.9) -> dict[str, Callable[[], Network]]:
    """The networks by name, made when called."""

    def resnet():
        model = models.create("resnet18", (32, 32, 3), 10, rngs=nnx.Rngs(0))
        return randomised("ResNet-18 (CIFAR)", (32, 32, 3), model, sparsity, "conv1")

    def mlp():
        model = models.create(
            "mlp", (28, 28, 1), 10, rngs=nnx.Rngs(0), widths=(4096, 4096)
        )
        return randomised(
            "MLP 784-4096-4096-10", (28, 28, 1), model, sparsity, "0", "1"
        )

    return {"ResNet-18 (CIFAR)": resnet, "MLP 784-4096-4096-10": mlp}


def randomised(
    name: str,
    image_shape: tuple[int, int, int],
    model: nnx.Module,
    sparsity: float,
    *ablated: str,
) -> Network:
    """Random constant fan-in masks with ERK densities, weights, and statistics.

    Args:
      name: of the network.
      image_shape: (height, width, channels).
      model: is changed.
      sparsity: of the kernels.
      *ablated: layers, by the last step of their paths, that lose a few neurons.
    """
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    plan = make_plan(params, sparsity)
    rng = np.random.default_rng(0)

    def ablate(layer, mask):
        if layer.name.split("/")[-2] not in ablated:
            return mask
        gone = rng.permutation(layer.layout.neurons)
        gone = gone[: int(ABLATED * layer.layout.neurons)]
        return mask.at[..., gone].set(False)

    masks = map_layers(ablate, plan, init_masks(params, plan))
    # Another key than that of the masks, whose noise is of the same layer names.
    params = sparse_he_normal(jax.random.key(1), params, masks, plan)
    nnx.update(model, params)

    _randomise_norms(model, from_pixels(_pixels(rng, 32, image_shape)), rng)
    model.eval()
    return Network(name, image_shape, model, masks)


def _randomise_norms(model, images, rng: np.random.Generator) -> None:
    """Random scales and biases, with the statistics of images, as after training."""
    norms = [m for _, m in nnx.iter_graph(model) if isinstance(m, nnx.BatchNorm)]
    for norm in norms:
        shape = norm.scale.shape
        norm.scale[...] = jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32)
        norm.bias[...] = jnp.asarray(rng.normal(0, 0.2, shape), jnp.float32)
    momenta = [norm.momentum for norm in norms]
    model.train()
    for norm in norms:
        norm.momentum = 0.0  # One batch is all there is.
    nnx.jit(lambda model, images: model(images))(model, images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def contenders(
    network: Network, batch: int, threads: int, engines: Mapping[str, Engine]
) -> tuple[dict[str, Contender], dict[str, str], dict[str, Any]]:
    """Jitted dense and condensed, exported, and ONNX Runtime, on the same pixels.

    Args:
      network: with its masks.
      batch: size.
      threads: for ONNX Runtime.
      engines: of which DeepSparse is used.

    Returns:
      Contenders by name, each called once; why others are left out by name; facts: the
      forms of layers, the largest differences of logits from the dense network's,
      useful FLOPs, and the bytes of exported files.
    """
    images = _pixels(np.random.default_rng(1), batch, network.image_shape)
    conversion = condense_model(
        network.model,
        network.masks,
        batch_size=batch,
        autotune=True,
        example_shape=network.image_shape,
    )
    made = {
        "XLA dense": _jitted(network.model, images),
        "ours: condensed": _jitted(conversion.model, images),
    }
    skipped: dict[str, str] = {}
    folded, condensed = (
        condense_model(network.model, network.masks, form=form, implementation="xla")
        for form in ("dense", "condensed")
    )
    artefacts = {
        "StableHLO dense": _artefact(folded.model, network.image_shape),
        "StableHLO condensed": _artefact(condensed.model, network.image_shape),
    }
    for name, artefact in artefacts.items():
        made[name] = _exported(artefact, images)
    for name, model in (
        ("ONNX Runtime dense", network.model),
        ("ONNX Runtime, folded and narrowed", folded.model),
    ):
        try:
            made[name] = _onnx_runtime(model, network.image_shape, images, threads)
        except Exception as error:  # Absent or unable; the others go on.
            skipped[name] = one_line(error)
    if "deepsparse" in engines:
        try:
            made |= _deepsparse(engines["deepsparse"], folded.model, network, images)
        except Exception as error:
            skipped["DeepSparse"] = one_line(error)
    right = made["XLA dense"].result()
    made, skipped = check(made, skipped, right, np.arange(right.shape[1]))
    differences = {
        name: float(np.abs(c.result() - right).max())
        for name, c in made.items()
        if name != "XLA dense"
    }
    forms = collections.Counter(choice.form for choice in conversion.layers)
    facts = {
        "difference": differences,
        "forms": dict(forms),
        "layers": {c.name: [c.form, c.reason] for c in conversion.layers},
        "flops": sum(2 * w * rows for w, rows in flops(network, batch).values()),
        "bytes": {n: c.weights_bytes for n, c in made.items() if c.weights_bytes},
        "file_bytes": {name: len(artefact) for name, artefact in artefacts.items()},
    }
    return made, skipped, facts


def from_pixels(images: jax.typing.ArrayLike) -> jax.Array:
    """u8 pixels as f32 around 0, as all networks here are given them."""
    return jnp.asarray(images).astype(jnp.float32) / 64 - 2


def _pixels(rng: np.random.Generator, batch: int, image_shape) -> np.ndarray:
    return rng.integers(0, 256, (batch, *image_shape), np.uint8)


def _jitted(model: nnx.Module, images: np.ndarray) -> Contender:
    call = jax.jit(lambda x: model(from_pixels(x)))
    x = jnp.asarray(images)
    made = local(lambda: call(x))
    return dataclasses.replace(made, weights_bytes=size_read(model, len(images)))


def _artefact(model: nnx.Module, shape: tuple[int, int, int]) -> bytes:
    """The StableHLO file that `srigl_jax.export` would write of a converted network."""
    classes = tuple("0123456789")
    # Normalises as `from_pixels` does; what the network is called plays no part.
    mean, std = (128.0,) * shape[2], (64.0,) * shape[2]
    description = Description("", {}, "", shape, mean, std, classes)
    path = Path("network.stablehlo")
    return stablehlo_files(path, model, description)[path]


def _exported(artefact: bytes, images: np.ndarray) -> Contender:
    call = jax.jit(jax.export.deserialize(bytearray(artefact)).call)
    x = jnp.asarray(images)
    return local(lambda: call(x))


def _as_onnx(model: nnx.Module, image_shape: tuple[int, int, int]) -> bytes:
    from srigl_jax.onnx_writer import to_onnx

    proto = to_onnx(lambda images: model(from_pixels(images)), image_shape)
    return proto.SerializeToString()


def _onnx_runtime(model, image_shape, images: np.ndarray, threads: int) -> Contender:
    session = onnx_session(_as_onnx(model, image_shape), threads)
    return local(lambda: session.run(None, {"images": images})[0])


def _deepsparse(engine, model, network: Network, images) -> dict[str, Contender]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.onnx"
        path.write_bytes(_as_onnx(model, network.image_shape))
        return engine.prepare(describe_network(images, str(path)))


def flops(network: Network, batch: int) -> dict[str, tuple[int, int]]:
    """Weights that exist in each layer, and how often each is used, by layer."""
    masks = jax.tree_util.tree_leaves_with_path(network.masks)
    weights = {leaf_name(path): int(mask.sum()) for path, mask in masks}
    return {
        layer.name.removesuffix("/kernel"): (
            weights.get(layer.name, layer.size),
            batch * layer.positions,
        )
        for layer in read_network(network.model, network.image_shape).layers
    }
