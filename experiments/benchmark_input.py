"""How fast each input pipeline gives images, in one run.

    python experiments/benchmark_input.py

Prints a table and writes results/benchmark_input.json. Images of CIFAR-10's size: the
gather of a batch from memory, augmentation on the device, and both as the trainer does
them, beside the copy of a batch, which nothing can beat. Images of ImageNet's size:
JPEGs made up for the purpose (500 x 375, as they are there on average) through Grain,
decoded and cropped in threads and in 1 and 2 worker processes. Takes about a minute
on two cores.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import measure
import numpy as np
import PIL.Image
from rich.console import Console
from rich.table import Table

from srigl_jax import data
from srigl_jax.data.augment import make_augment

BATCH = 128
SMALL, LARGE = (32, 32, 3), (224, 224, 3)
FILES = 256
RECIPES = {
    "crop and flip": {"crop_padding": 4, "flip": True},
    "RandAugment": {"randaugment": 2},
    "mixup or cutmix": {"mixup": 0.2, "cutmix": 1.0},
}


def in_memory(repeats: int = 30) -> dict[str, np.ndarray]:
    """Images per second of each stage, for images of CIFAR-10's size."""
    dataset = data.load(
        "synthetic", image_shape=SMALL, classes=10, examples=50_000, workers=0
    )
    batches = dataset.train_batches(0, BATCH)
    fixed = jax.device_put(next(batches))
    compiled = {
        name: jax.jit(make_augment(SMALL, 10, **options))
        for name, options in RECIPES.items()
    }
    keys = map(jax.random.key, itertools.count())
    functions = {
        "copy of a batch": partial(np.array, dataset.train.images[:BATCH]),
        "gather from memory": lambda: next(batches),
    }
    for name, augment in compiled.items():
        functions[f"{name}, on the device"] = partial(_augmented, augment, keys, fixed)
    together = compiled["crop and flip"]
    functions["gather, crop and flip"] = lambda: together(next(keys), next(batches))
    seconds = measure.interleaved(functions, repeats)
    return {name: BATCH / s for name, s in seconds.items()}


def _augmented(augment, keys: Iterator[jax.Array], batch) -> dict[str, jax.Array]:
    return augment(next(keys), batch)


def large_on_the_device(batch: int = 16, repeats: int = 5) -> dict[str, np.ndarray]:
    """Images per second of augmentation, for images of ImageNet's size."""
    rng = np.random.default_rng(0)
    fixed = {
        "image": jnp.asarray(rng.integers(0, 256, (batch, *LARGE), np.uint8)),
        "label": jnp.zeros(batch, jnp.int32),
    }
    keys = map(jax.random.key, itertools.count())
    functions = {
        f"{name}, on the device": partial(
            _augmented, jax.jit(make_augment(LARGE, 10, **RECIPES[name])), keys, fixed
        )
        for name in ("RandAugment", "mixup or cutmix")
    }
    seconds = measure.interleaved(functions, repeats)
    return {name: batch / s for name, s in seconds.items()}


def write_folders(root: pathlib.Path) -> None:
    """Writes JPEGs of two classes: waves of all lengths, with some noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    for i in range(FILES + 2):
        waves = sum(
            np.sin(rng.normal(0, 0.1) * x + rng.normal(0, 0.1) * y + phase)
            for phase in rng.uniform(0, 6, 12)
        )
        pixels = 128 + 20 * waves[..., None] + rng.normal(0, 8, (375, 500, 3))
        folder = root / ("train" if i < FILES else "val") / f"n{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(folder / f"{i}.JPEG", quality=90)


def streamed(batches: int = 12) -> dict[str, float]:
    """Images per second of decoding and random resized crops, by workers."""
    with tempfile.TemporaryDirectory() as directory:
        write_folders(pathlib.Path(directory))
        return {
            f"{workers} worker processes" if workers else "threads": _stream(
                directory, workers, batches
            )
            for workers in (0, 1, 2)
        }


def _stream(directory: str, workers: int, batches: int) -> float:
    dataset = data.load("imagenet2012", source_dir=directory, workers=workers)
    stream = dataset.train_batches(0, BATCH)
    for _ in range(2):  # Starts the workers, and uses up what waits meanwhile.
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    seconds = time.perf_counter() - start
    stream.close()
    return BATCH * batches / seconds


def main() -> None:
    """Measures everything, prints a table, writes the figures."""
    results = {
        "32 x 32, in memory": _quartiles(in_memory()),
        "224 x 224": _quartiles(large_on_the_device()),
        "JPEG to 224 x 224, Grain": {
            name: {"median": rate} for name, rate in streamed().items()
        },
    }
    table = Table("images", "pipeline", "images/s", "quartiles")
    for images, rates in results.items():
        for name, rate in rates.items():
            quartiles = "-"
            if "low" in rate:
                quartiles = f"{rate['low']:,.0f} to {rate['high']:,.0f}"
            table.add_row(images, name, f"{rate['median']:,.0f}", quartiles)
    Console().print(table)
    print(measure.save("benchmark_input", {"batch": BATCH, "images_per_s": results}))


def _quartiles(rates: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {
        name: dict(
            zip(
                ("low", "median", "high"),
                np.quantile(values, (0.25, 0.5, 0.75)).tolist(),
                strict=True,
            )
        )
        for name, values in rates.items()
    }


if __name__ == "__main__":
    main()
