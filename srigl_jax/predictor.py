"""An exported network as a function from images to logits."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax import manifest
from srigl_jax.condensed import storage
from srigl_jax.condensed.description import Description

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network that takes stored pixels.

    Attributes:
      title: what it is, in words.
      image_shape: (height, width, channels).
      class_names: what each logit stands for.
      batch_size: which it was exported for.
      mean: of the pixels it was trained on, by channel; None if not known.
      takes_floats: whether pixels may be float32; they may always be uint8.
      logits: maps [batch, *image_shape] to f32[batch, classes]; compiled.
    """

    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    batch_size: int
    mean: tuple[float, ...] | None
    takes_floats: bool
    logits: Callable[[np.ndarray], jax.Array]


def on_pixels(
    model: nnx.Module, description: Description
) -> Callable[[jax.Array], jax.Array]:
    """The network with the normalisation of its images before it, as in training."""
    mean, std = np.float32(description.mean), np.float32(description.std)
    return lambda images: model((images.astype(jnp.float32) - mean) / std)


def load_predictor(path: str | os.PathLike[str]) -> Predictor:
    """Loads a directory or a StableHLO file that `srigl_jax.export` wrote.

    Raises:
      ValueError: there is neither, it is damaged, or it does not run on this machine.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"there is no {path}: give what python -m srigl_jax.export wrote"
        )
    return _load_directory(path) if path.is_dir() else _load_stablehlo(path)


def _load_directory(path: Path) -> Predictor:
    model, description = storage.load(path)
    return Predictor(
        title=f"{description.model} on {description.dataset}",
        image_shape=description.image_shape,
        class_names=description.class_names,
        batch_size=description.batch_size,
        mean=description.mean,
        takes_floats=True,
        # Weights are constants: as arguments each would make every call slower, by a
        # quarter of a microsecond, and XLA could prepare none of them.
        logits=jax.jit(on_pixels(model, description)),
    )


def stablehlo_files(
    path: Path, model: nnx.Module, description: Description
) -> dict[Path, bytes]:
    """A network compiled for CPU, CUDA and TPU, for any batch size, as two files.

    Args:
      path: of the first one.
      model: must run on all platforms.
      description: of the network.

    Returns:
      The content of the artefact, at `path`, which `jax.export.deserialize` reads
      without this library; and that of a JSON file beside it, with the description
      and a digest of the artefact.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *description.image_shape), np.uint8)
    function = jax.jit(on_pixels(model, description))
    # Else the precision would be whatever each platform takes for float32.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(function, platforms=PLATFORMS)(images)
    artefact = bytes(exported.serialize())
    fields = {"description": description.to_json(), "sha256": manifest.digest(artefact)}
    beside = json.dumps(fields, indent=1) + "\n"
    return {path: artefact, _beside(path): beside.encode()}


def _load_stablehlo(path: Path) -> Predictor:
    artefact = path.read_bytes()
    description = _read_beside(path, artefact)
    try:
        exported = jax.export.deserialize(bytearray(artefact))
        (images,) = exported.in_avals
        (logits,) = exported.out_avals
        (_, *image_shape), classes = images.shape, logits.shape[1]
    except Exception as error:  # Of any type, for a file that is something else.
        raise ValueError(
            f"{path} is no network that jax.export wrote, or a damaged one: give a "
            "directory, or a .stablehlo file, of python -m srigl_jax.export (ONNX runs "
            "in onnxruntime)"
        ) from error
    if jax.default_backend() not in _backends(exported.platforms):
        raise ValueError(
            f"{path} runs on {', '.join(exported.platforms)}; this machine has "
            f"{jax.default_backend()}"
        )
    return Predictor(
        title=path.name,
        image_shape=tuple(image_shape),
        class_names=(
            description.class_names
            if description
            else tuple(f"class {i}" for i in range(classes))
        ),
        batch_size=description.batch_size if description else 1,
        mean=description.mean if description else None,
        takes_floats=False,
        logits=jax.jit(exported.call),
    )


def _read_beside(path: Path, artefact: bytes) -> Description | None:
    """What is written beside an artefact; it may have been moved without it."""
    beside = _beside(path)
    try:
        fields = json.loads(beside.read_bytes())
        digest, description = fields["sha256"], fields["description"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{beside} is damaged ({error}): export again, or remove it and do "
            "without the names of classes"
        ) from error
    if digest != manifest.digest(artefact):
        raise ValueError(
            f"{path} is damaged, or {beside.name} is another's: its sha256 is not the "
            "one there. Copy both again, or export again."
        )
    return Description.from_json(description)


def _backends(platforms: tuple[str, ...]) -> set[str]:
    names = {"cuda": "gpu", "rocm": "gpu"}
    return {names.get(platform, platform) for platform in platforms}


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")
