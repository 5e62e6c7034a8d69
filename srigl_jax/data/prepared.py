"""Sets that tensorflow-datasets has prepared: making them, finding them, reading them.

All of it without TensorFlow, which leaves array_record as the format of the files.
"""

import contextlib
import io
import os
import pathlib
import sys

import tensorflow_datasets as tfds

from srigl_jax.data import decoded
from srigl_jax.data.in_memory import InMemoryDataset, Split, make_dataset

FORMAT = "array_record"


def data_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns where prepared sets are kept.

    Args:
      data_dir: None means tensorflow-datasets' default: the environment variable
        TFDS_DATA_DIR, or else ~/tensorflow_datasets.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(root).expanduser()


def load(
    name: str,
    make_builder: type[tfds.core.GeneratorBasedBuilder],
    root: pathlib.Path,
    source_dir: str | os.PathLike[str] | None,
) -> InMemoryDataset:
    """Reads a set into memory, preparing it first if this machine has not yet.

    A copy that the stock builder of that name has prepared is as good, if its examples
    can be put back into the order of their source, by the feature that the class names
    in STOCK_ORDER.

    Args:
      name: Of the data set.
      make_builder: The class that prepares it; see `digits.Digits`.
      root: As `data_root` returns it.
      source_dir: Where the original files are; looked at only to prepare the set.

    Raises:
      ValueError: As `srigl_jax.data.load`.
    """
    directory = root / name / str(make_builder.VERSION)
    order = getattr(make_builder, "STOCK_ORDER", None)
    if not directory.exists() and order:
        for stock in versions(root / name):
            if is_readable(stock):
                return _read(name, stock, tfds.builder_from_directory, stock, order)
    if not directory.exists():
        _prepare(name, make_builder, root, directory, source_dir)
    return _read(name, directory, lambda root: make_builder(data_dir=root), root)


def versions(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories of a set's prepared versions, the newest first."""

    def number(path: pathlib.Path) -> tuple[int, ...]:
        return tuple(map(int, path.name.split(".")))

    prepared = (path.parent for path in directory.glob("*.*.*/dataset_info.json"))
    return sorted(
        (path for path in prepared if path.name.replace(".", "").isdecimal()),
        key=number,
        reverse=True,
    )


def is_readable(directory: pathlib.Path) -> bool:
    """Whether a prepared version has files that need no TensorFlow to be read.

    Raises:
      ValueError: Its description is damaged.
    """
    try:
        info = tfds.builder_from_directory(directory).info
    except Exception as error:
        raise _damaged(directory, error) from error
    return FORMAT in {f.value for f in info.available_file_formats()}


def _prepare(name, make_builder, root, directory, source_dir) -> None:
    source = make_builder.find_source(source_dir, root / "downloads" / "manual")
    print(
        f"Preparing {name} in {directory}; this happens once and may take a minute.",
        file=sys.stderr,
    )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # In a log each refresh would be a line.
    try:
        # What tensorflow-datasets prints speaks of a download of unknown size.
        with contextlib.redirect_stdout(io.StringIO()):
            make_builder(data_dir=root).download_and_prepare(
                file_format=FORMAT,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=source, try_download_gcs=False
                ),
            )
    except OSError as error:
        # The set is written aside and then renamed, which fails if another process
        # has just put its own, equal one there.
        if not directory.exists():
            raise ValueError(
                f"{name} cannot be prepared in {directory}: {error}. If it cannot be "
                "written, or is full, choose another place: "
                "--config.dataset.data_dir=DIR"
            ) from error


def _read(name, directory, open_builder, place, order=None) -> InMemoryDataset:
    # Damage surfaces as whatever the protocol buffer, record and PNG readers raise.
    try:
        builder = open_builder(place)
        if not builder.is_prepared():
            raise FileNotFoundError("it has no dataset_info.json")
        arrays = decoded.read(builder, order)
        class_names = tuple(builder.info.features["label"].names)
    except Exception as error:
        raise _damaged(directory, error) from error
    train, test = (
        Split(arrays[f"{split}_images"], arrays[f"{split}_labels"])
        for split in ("train", "test")
    )
    return make_dataset(name, train, test, class_names)


def _damaged(directory: pathlib.Path, error: Exception) -> ValueError:
    return ValueError(
        f"the prepared data set in {directory} is incomplete or damaged "
        f"({type(error).__name__}: {error}). Delete that directory; the next run "
        "prepares it again."
    )
