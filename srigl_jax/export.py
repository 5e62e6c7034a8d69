"""Turns a trained network into files to run it from.

    python -m srigl_jax.export --workdir runs/digits --format condensed

Takes the last complete checkpoint of a run, as `srigl_jax.train` leaves it. Formats:

- `condensed`: a directory of safetensors and JSON, for `srigl_jax.predict`; each layer
  in the form that is fastest at `--batch_size`.
- `dense`: the same, but all layers dense, without their ablated neurons.
- `stablehlo`: dense, without its ablated neurons: one file for CPU, CUDA and TPU and
  for any batch size, which `jax.export.deserialize` reads without this library.
- `stablehlo_condensed`: the same with condensed layers, in plain XLA: a file as small
  as the weights that are left, but slower, convolutions above all, except for products
  of a few examples: XLA has to write all others out at every call.
- `onnx`: dense, without its ablated neurons, for any batch size.

All take stored pixels: the normalisation of the images is part of what is written.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from srigl_jax.condensed import storage
from srigl_jax.condensed.convert import Conversion, condense_model, tolerance
from srigl_jax.condensed.description import Description
from srigl_jax.predict import at_least_one
from srigl_jax.predictor import load_predictor, on_pixels, stablehlo_files
from srigl_jax.trained import Trained, load_trained

FORMATS = {
    "condensed": "condensed",
    "dense": "dense",
    "stablehlo": "model.stablehlo",
    "stablehlo_condensed": "condensed.stablehlo",
    "onnx": "model.onnx",
}
"""What each format is called in the workdir, unless `--output` says otherwise."""

# The form that all layers have in a format, which then leaves nothing to choose.
_FORMS = {
    "dense": "dense",
    "stablehlo": "dense",
    "stablehlo_condensed": "condensed",
    "onnx": "dense",
}

_CHECKED_IMAGES = 64


def export(
    workdir: Path,
    format: str,
    output: Path | None = None,
    *,
    batch_size: int = 1,
    autotune: bool = False,
    overwrite: bool = False,
    data_dir: str | None = None,
    source_dir: str | None = None,
) -> Path:
    """Writes a trained network in one of `FORMATS`, and prints what became of it.

    Args:
      workdir: of a run.
      format: a key of `FORMATS`.
      output: where to; in the workdir unless given.
      batch_size: to choose the form of layers for.
      autotune: choose by timing on this machine, not by what was measured before.
      overwrite: replace what an earlier export wrote there.
      data_dir: where the prepared data set is, if not where the run had it.
      source_dir: likewise, of its original files.

    Returns:
      Where it was written.

    Raises:
      ValueError: the workdir, the format or the output cannot be used; the network
        cannot be written in that format, or computes something else there.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: choose one of {', '.join(FORMATS)}")
    output = output or workdir / FORMATS[format]
    _check_output(output, format, overwrite)
    if format == "onnx":
        _check_onnx()
    if autotune and format in _FORMS:
        raise ValueError(
            f"autotune has nothing to choose: in {format} layers are {_FORMS[format]}"
        )
    print(f"reading {workdir}", flush=True)
    trained = load_trained(workdir, data_dir=data_dir, source_dir=source_dir)
    description = trained.describe(batch_size)
    how = "timing each form of each layer" if autotune else "converting"
    print(f"{how}: {description.model}, step {trained.step}", flush=True)
    conversion = _convert(trained, description, format, autotune)
    print(conversion)
    print(f"writing {output}", flush=True)
    with _naming(output):
        folder = _folder_beside(output)
    with folder:
        aside = Path(folder.name) / output.name
        with _naming(output):
            run = _WRITERS[format](aside, conversion.model, description)
        _check_difference(trained, description, output, run)
        _check_output(output, format, overwrite)
        with _naming(output):
            files = _move(aside, output)
    _print_sizes(trained, output, files)
    return output


def _convert(
    trained: Trained,
    description: Description,
    format: str,
    autotune: bool,
) -> Conversion:
    return condense_model(
        trained.model,
        trained.masks,
        batch_size=description.batch_size,
        autotune=autotune,
        form=_FORMS.get(format),
        implementation="xla" if format in _FORMS else "auto",
        example_shape=description.image_shape,
    )


def _write_directory(output, model, description):
    storage.save(output, model, description)
    return load_predictor(output).logits


def _write_stablehlo(output, model, description):
    for path, content in stablehlo_files(output, model, description).items():
        path.write_bytes(content)
    return load_predictor(output).logits


def _write_onnx(output, model, description):
    from srigl_jax.onnx_writer import to_onnx

    fields = description.to_json()
    proto = to_onnx(
        on_pixels(model, description),
        description.image_shape,
        metadata={name: json.dumps(value) for name, value in fields.items()},
    )
    output.write_bytes(proto.SerializeToString())
    return _onnx_runner(output)


def _onnx_runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Runs an ONNX file, in onnxruntime where it is installed."""
    from srigl_jax.onnx_writer import INPUT

    if importlib.util.find_spec("onnxruntime") is None:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]


_WRITERS: dict[str, Callable[..., Callable]] = {
    "condensed": _write_directory,
    "dense": _write_directory,
    "stablehlo": _write_stablehlo,
    "stablehlo_condensed": _write_stablehlo,
    "onnx": _write_onnx,
}


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error}") from error


def _folder_beside(output: Path) -> tempfile.TemporaryDirectory:
    """A folder on the same file system, gone once it is left."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(
        prefix=f".{output.name}.", suffix=".tmp", dir=output.parent
    )


def _move(aside: Path, output: Path) -> list[Path]:
    """Puts what was written aside in its place; returns the files."""
    if aside.is_dir():
        storage.replace(output, aside)
        return sorted(output.iterdir())
    written = sorted(aside.parent.iterdir())
    return [path.replace(output.with_name(path.name)) for path in written]


def _check_output(output: Path, format: str, overwrite: bool) -> None:
    """Refuses now what would fail after the work is done."""
    if output.exists():
        is_directory = FORMATS[format] == format
        if not overwrite:
            raise ValueError(
                f"{output} exists: --overwrite replaces it, --output names another "
                "place"
            )
        if output.is_dir() != is_directory or (
            is_directory and not (output / storage.MANIFEST).is_file()
        ):
            raise ValueError(
                f"{output} is not overwritten, since it is no export of this format: "
                "remove it yourself, or name another place with --output"
            )
    above = next(p for p in output.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(
            f"{output} cannot be written: {above} is no directory, or read-only; name "
            "another place with --output"
        )


def _check_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise ValueError(
            'the format onnx needs the package onnx: pip install "srigl_jax[onnx]"'
        )


def _check_difference(
    trained: Trained, description: Description, output: Path, run: Callable
) -> None:
    """Runs what was written beside the masked network it was made from."""
    count = min(_CHECKED_IMAGES, trained.dataset.num_test)
    images = next(trained.dataset.eval_batches(count))["image"]
    definition, state = nnx.split(trained.model)

    @jax.jit
    def masked(state, images):
        return on_pixels(nnx.merge(definition, state), description)(images)

    with jax.default_matmul_precision("highest"):
        logits = masked(state, images)
        # Layers take another form for few images than for many.
        counts = {len(images), min(len(images), description.batch_size)}
        found = [np.asarray(run(images[:n]), np.float64) for n in counts]
    expected = np.asarray(logits, np.float64)
    difference = max(float(np.abs(f - expected[: len(f)]).max()) for f in found)
    largest = float(np.abs(expected).max())
    print(
        f"largest difference from the masked network: {difference:.2g}, in logits up "
        f"to {largest:.3g}, over {len(images)} images of {description.dataset}"
    )
    if not difference <= tolerance(logits.dtype) * max(largest, 1):
        raise ValueError(
            f"{output} is not written: what would be there does not compute what the "
            "masked network computes. Please report this with the config of the run"
        )


def _print_sizes(trained: Trained, output: Path, files: list[Path]) -> None:
    size = sum(file.stat().st_size for file in files)
    state = nnx.state(trained.model)
    dense = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(state))
    names = ", ".join(file.name for file in files)
    print(
        f"wrote {output} ({names}): {size:,} bytes; the dense network has {dense:,} in "
        "float32"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m srigl_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="of a run of srigl_jax.train"
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", type=Path, help="by default in the workdir")
    parser.add_argument(
        "--batch_size",
        type=at_least_one,
        default=1,
        metavar="N",
        help="images at a time, which to choose the form of layers for (default: 1)",
    )
    parser.add_argument(
        "--autotune",
        action="store_true",
        help="choose by timing on this machine; takes a while",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export"
    )
    parser.add_argument("--data_dir", help="prepared data sets, if not the run's")
    parser.add_argument("--source_dir", help="original files, if not the run's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `export` with the command line; its errors become one clear line."""
    flags = vars(_parse(arguments))
    try:
        export(**flags)
    except (ValueError, OSError, RuntimeError) as error:
        # What the loader of data sets calls the trainer's flags are ours without it.
        sys.exit("error: " + str(error).replace("--config.dataset.", "--"))


if __name__ == "__main__":
    main()
