"""Classifies images with a network that `srigl_jax.export` wrote, or labels texts.

    python -m srigl_jax.predict --model runs/digits/condensed --input photos/
    python -m srigl_jax.predict --model runs/wordnet --text "a small dog" [--top 5]

Prints the likeliest classes of each image, and how fast the network was. The workdir of
a finished run with many labels is a model as it is, for `--text`, which can be given
several times, or for `--input`, a file with a text on each line.
"""

import argparse
import contextlib
import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from srigl_jax.image_input import ImageInput, open_images
from srigl_jax.predictor import Predictor, load_predictor

Emit = Callable[[str, list[tuple[str, float]]], None]

# What a run with many labels leaves, `srigl_jax.extreme.tagger.DESCRIPTION`.
_TAGGER = "tagger.json"
_TEXTS = 64  # At a time, so that the first labels come soon.


def predict(
    model: Path,
    images: Path,
    *,
    batch_size: int | None = None,
    top: int = 3,
    output: Path | None = None,
    resize: bool = False,
) -> list[str]:
    """Classifies images, and prints or writes what they are.

    Args:
      model: as `srigl_jax.predictor.load_predictor` takes it.
      images: as `srigl_jax.image_input.open_images` takes it.
      batch_size: images at a time; by default what the network was exported for.
      top: how many classes to name for each image.
      output: a CSV file to write instead of printing.
      resize: scale pictures of other sizes.

    Returns:
      Why images were left out, one line each.

    Raises:
      ValueError: the model, the images or an argument cannot be used.
    """
    predictor = load_predictor(model)
    batch_size = predictor.batch_size if batch_size is None else batch_size
    top = min(top, len(predictor.class_names))
    source = open_images(images, predictor.image_shape, resize=resize)
    device = jax.devices()[0]
    where = f"batches of {batch_size} on {device.device_kind}"
    _say(
        f"{predictor.title}, {len(predictor.class_names)} classes, "
        f"{len(source.names):,} images; compiling for {where}"
    )
    skipped: list[str] = []

    def skip(reason):
        skipped.append(reason)
        _say(f"left out: {reason}")

    start, seconds, count = time.perf_counter(), 0.0, 0
    with _output(output, top) as emit:
        for names, logits, spent in _classify(
            predictor, source, batch_size, skip, with_bar=output is not None
        ):
            seconds += spent
            count += len(names)
            for name, row in zip(names, logits, strict=True):
                emit(name, likeliest(row, predictor.class_names, top))
    if count:
        total = time.perf_counter() - start
        print(
            f"{count:,} images in {where}: {count / seconds:,.0f} images/s by the "
            f"network alone, {count / total:,.0f} images/s in all, compilation included"
        )
    if output:
        print(f"wrote {output}")
    return skipped


def predict_texts(
    model: Path, texts: Sequence[str], *, top: int = 3, output: Path | None = None
) -> None:
    """Labels texts, and prints or writes their labels by name.

    Args:
      model: the workdir of a finished run with many labels.
      texts: at least one.
      top: how many labels to name for each.
      output: a CSV file to write instead of printing.

    Raises:
      ValueError: the model or the output cannot be used, or there is no text.
    """
    # Imported here, because scikit-learn takes a second and images need none of it.
    from srigl_jax.extreme import tagger

    if not texts:
        raise ValueError("there is no text to label: give one to a line, or --text")
    known = tagger.load(model)
    _say(f"{len(known.label_names):,} labels, {len(texts):,} texts")
    top = min(top, len(known.label_names))
    with _output(output, top, "text", "label") as emit:
        for start in range(0, len(texts), _TEXTS):
            some = texts[start : start + _TEXTS]
            for text, labels in zip(some, known.tag(some, top), strict=True):
                emit(text, labels)
    if output:
        print(f"wrote {output}")


def read_texts(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
      ValueError: it is none, or not in UTF-8: names the line.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file with a text on each line")
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            lines.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: is not UTF-8") from error
    return [line for line in lines if line]


def likeliest(
    logits: np.ndarray, class_names: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """The `top` likeliest classes with their probabilities, the likeliest first.

    Args:
      logits: f32[classes].
      class_names: of all classes.
      top: how many to name.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(class_names[i], float(probabilities[i])) for i in order]


def _classify(
    predictor: Predictor, source: ImageInput, batch_size: int, skip, with_bar: bool
) -> Iterator[tuple[list[str], np.ndarray, float]]:
    """Yields names, logits and the network's seconds for each batch."""
    # The last batch is filled up, so that one compiled program serves all.
    batch = np.zeros((batch_size, *predictor.image_shape), _dtype(predictor, source))
    jax.block_until_ready(predictor.logits(batch))
    batches = source.batches(batch_size, skip)
    if with_bar and sys.stderr.isatty():
        total = -(-len(source.names) // batch_size)
        batches = track(
            batches, "Classifying", total, console=Console(stderr=True), transient=True
        )
    is_first = True
    for names, images in batches:
        if is_first:
            _mention_units(predictor, images)
            is_first = False
        batch[: len(names)] = _pixels(predictor, names, images)
        start = time.perf_counter()
        logits = np.asarray(predictor.logits(batch))
        yield names, logits[: len(names)], time.perf_counter() - start


def _dtype(predictor: Predictor, source: ImageInput) -> np.dtype:
    return source.dtype if predictor.takes_floats else np.dtype(np.uint8)


def _pixels(predictor, names, images) -> np.ndarray:
    """The images as the network takes them."""
    if predictor.takes_floats or images.dtype == np.uint8:
        return images
    pixels = images.astype(np.uint8)
    for name, image, as_pixels in zip(names, images, pixels, strict=True):
        if (image != as_pixels).any():
            raise ValueError(
                f"image {name} has values other than 0, 1, ... 255, and this network "
                "was exported for uint8: convert the images, or export it as condensed"
            )
    return pixels


def _mention_units(predictor, images) -> None:
    if predictor.mean and images.max() <= 1 < max(predictor.mean):
        _say(
            f"warning: no value of the first images is above 1, but those the network "
            f"was trained on have a mean of {max(predictor.mean):.3g}: images are "
            "taken in the units of the training data's stored pixels"
        )


@contextlib.contextmanager
def _output(
    path: Path | None, top: int, what: str = "image", of: str = "class"
) -> Iterator[Emit]:
    """Gives what takes each image's classes: a printer, or a writer of a CSV file."""
    if path is None:
        yield _print
        return
    aside = path.with_name(path.name + ".tmp")

    def write(row):
        with _naming(path):
            writer.writerow(row)

    try:
        with _naming(path):
            file = aside.open("w", newline="", encoding="utf-8")
        with file:
            writer = csv.writer(file)
            ranks = range(1, top + 1)
            columns = [(f"{of}_{rank}", f"probability_{rank}") for rank in ranks]
            write([what, *(name for pair in columns for name in pair)])
            yield lambda name, classes: write(
                [name, *(x for c, p in classes for x in (c, f"{p:.6f}"))]
            )
            with _naming(path):
                file.flush()
        with _naming(path):
            aside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # It may not even have been made.
            aside.unlink()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of an error in writing that it is one: reading images raises the same."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"--output {path} cannot be written: {error}") from error


def _print(name: str, classes: list[tuple[str, float]]) -> None:
    print(f"{name}:", ", ".join(f"{c} {p:.1%}" for c, p in classes), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m srigl_jax.predict",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="directory or .stablehlo file"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--input", type=Path, help="folder of pictures, .npy, or file of texts"
    )
    what.add_argument("--text", action="append", help="to label")
    parser.add_argument("--batch_size", type=at_least_one, metavar="N")
    parser.add_argument("--top", type=at_least_one, default=3, metavar="K")
    parser.add_argument("--output", type=Path, metavar="CSV")
    parser.add_argument(
        "--resize", action="store_true", help="scale pictures of other sizes"
    )
    return parser.parse_args(arguments)


def at_least_one(text: str) -> int:
    """Parses an argument that must be a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `predict` with the command line; its errors become one clear line."""
    flags = _parse(arguments)
    skipped = []
    try:
        if flags.text or (flags.model / _TAGGER).is_file():
            texts = flags.text or read_texts(flags.input)
            predict_texts(flags.model, texts, top=flags.top, output=flags.output)
        else:
            skipped = predict(
                flags.model,
                flags.input,
                batch_size=flags.batch_size,
                top=flags.top,
                output=flags.output,
                resize=flags.resize,
            )
    except BrokenPipeError:  # Whoever read the lines has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    if skipped:
        sys.exit(f"error: {len(skipped)} image(s) left out, as said above")


if __name__ == "__main__":
    main()
