"""A network for inference as a directory: `model.safetensors` and `manifest.json`.

The manifest holds the `Description` of the network, its modules as `entries.describe`
puts them, and digests. What is loaded is, bit for bit, what was saved. Digests catch
damage; whatever the back ends rely on, such as the indices of a condensed layer, is
verified all the same, so that no file, however made, can make a kernel read outside its
arrays.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from srigl_jax import manifest as manifests
from srigl_jax.condensed import entries
from srigl_jax.condensed.description import Description

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "model.safetensors"

# safetensors' own reader for numpy knows no bfloat16.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "U16": "uint16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def save(
    directory: str | os.PathLike[str],
    model: nnx.Module,
    description: Description,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a network, whole or not at all.

    Args:
      directory: made by this call.
      model: as `srigl_jax.models.create` builds it for the description, with modules
        replaced by `Linear`, `Conv`, or those of `srigl_jax.condensed.modules`, and
        others' widths changed.
      description: of the network.
      overwrite: replace the directory if it holds such a network already.

    Raises:
      ValueError: the directory exists, or cannot be written; a module or attribute,
        which is named, cannot be stored.
    """
    modules, tensors = entries.describe(model, description.fresh())
    content = safetensors.numpy.save(tensors)
    fields = {
        "description": description.to_json(),
        "modules": modules,
        "tensors": {"bytes": len(content), "sha256": manifests.digest(content)},
    }
    manifest = manifests.signed(FORMAT_VERSION, fields)
    with _written_aside(Path(directory), overwrite) as aside:
        _write(aside / TENSORS, content)
        _write(aside / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def load(directory: str | os.PathLike[str]) -> tuple[nnx.Module, Description]:
    """Reads what `save` wrote.

    Returns:
      The network, in evaluation mode, and its description.

    Raises:
      ValueError: there is none, it is damaged, another version wrote it, or a layer
        (it is named) cannot be as the files say.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    tensors = _read_tensors(directory / TENSORS, manifest["tensors"])
    try:
        description = Description.from_json(manifest["description"])
        model = description.fresh()
        entries.restore(model, manifest["modules"], tensors)
        _check_runs(model, description)
    except ValueError as error:
        raise ValueError(f"{directory} cannot be loaded: {error}") from error
    return model, description


def _check_runs(model: nnx.Module, description: Description) -> None:
    """Verifies, without computing anything, that the layers fit together."""
    images = jax.ShapeDtypeStruct((2, *description.image_shape), jnp.float32)
    try:
        logits = jax.eval_shape(lambda x: model(x), images)
    except Exception as error:  # Whatever flax and jax make of shapes that clash.
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its layers do not work together: {reason}") from error
    if logits.shape != (2, len(description.class_names)):
        raise ValueError(
            f"it has outputs {list(logits.shape[1:])} for "
            f"{len(description.class_names)} classes"
        )


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    manifest = manifests.read(
        path,
        FORMAT_VERSION,
        missing=f"{directory} holds no exported network",
        again="export again (python -m srigl_jax.export)",
    )
    needed = {"description": (), "modules": (), "tensors": ("bytes", "sha256")}
    for field, keys in needed.items():
        value = manifest.get(field)
        if not isinstance(value, dict) or not value.keys() >= set(keys):
            raise ValueError(f"{path} has no {field} that srigl_jax wrote: {value!r}")
    return manifest


def _read_tensors(path: Path, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != expected["bytes"]:
        raise ValueError(
            f"{path} holds {len(content)} bytes of {expected['bytes']}: it was cut "
            "off, or is another export's. Copy it again, or export again."
        )
    if manifests.digest(content) != expected["sha256"]:
        raise ValueError(
            f"{path} is damaged: its sha256 is not the one in {MANIFEST}. Copy it "
            "again, or export again."
        )
    try:
        return {
            name: np.frombuffer(x["data"], jnp.dtype(_DTYPES[x["dtype"]])).reshape(
                x["shape"]
            )
            for name, x in safetensors.deserialize(content)
        }
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


@contextlib.contextmanager
def _written_aside(directory: Path, overwrite: bool) -> Iterator[Path]:
    """Gives an empty directory that takes the place of `directory` once it is full."""
    directory = directory.resolve()
    if directory.exists():
        if not overwrite:
            raise ValueError(f"{directory} exists: give another place, or --overwrite")
        if not (directory / MANIFEST).is_file():
            raise ValueError(
                f"{directory} is not overwritten, since it is no exported network: "
                "give another place, or remove it yourself"
            )
    aside = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        yield aside
        replace(directory, aside)
    except OSError as error:
        raise ValueError(f"{directory} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace(directory: Path, new: Path) -> None:
    """Puts `new`, of the same file system, where a directory or nothing is."""
    if not directory.exists():
        new.rename(directory)
        return
    old = new.with_suffix(".old")
    directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
