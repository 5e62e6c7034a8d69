"""Images to classify: a folder of pictures, one picture, or an .npy of many."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

_MODES = {1: "L", 3: "RGB"}

Shape = tuple[int, int, int]
"""Of an image: (height, width, channels)."""


class UnreadableImageError(ValueError):
    """A file is no picture, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """Images by position.

    Attributes:
      names: of the images: file names below the folder, or positions in the array.
      read: gives the image at a position, uint8 or float32[height, width, channels];
        raises `UnreadableImageError` where that one alone is to be left out.
      dtype: of the images.
    """

    names: list[str]
    read: Callable[[int], np.ndarray]
    dtype: np.dtype

    def batches(
        self, size: int, skip: Callable[[str], None]
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields names and [at most size, ...] images, in order.

        Args:
          size: of a batch; the last one may be smaller.
          skip: told of each image that is left out, and why.
        """
        names, images = [], []
        for position, name in enumerate(self.names):
            try:
                images.append(self.read(position))
            except UnreadableImageError as error:
                skip(str(error))
                continue
            names.append(name)
            if len(names) == size:
                yield names, np.stack(images)
                names, images = [], []
        if names:
            yield names, np.stack(images)


def open_images(
    path: str | Path, image_shape: Shape, *, resize: bool = False
) -> ImageInput:
    """Finds the images at `path`, for a network that takes `image_shape`.

    Args:
      path: a folder, searched with all folders in it for pictures of the formats that
        Pillow reads, turned as their EXIF says; or one picture; or an .npy of uint8,
        or of floats in the same units, [n, height, width, channels] or, of one
        channel, [n, height, width].
      image_shape: pictures are turned grey for 1 channel, into RGB for 3.
      resize: scale pictures of other sizes.

    Raises:
      ValueError: there are none, or an array of another shape or type. Reading a
        picture of another size raises it too, unless `resize`.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return _open_array(path, image_shape)
    if image_shape[2] not in _MODES:
        raise ValueError(
            f"{path}: pictures can be given to a network of 1 or 3 channels; this one "
            f"takes {image_shape[2]}: give an .npy"
        )
    files = _find_pictures(path)
    base = path if path.is_dir() else path.parent
    return ImageInput(
        names=[str(file.relative_to(base)) for file in files],
        read=lambda position: _read_picture(files[position], image_shape, resize),
        dtype=np.dtype(np.uint8),
    )


def _find_pictures(path: Path) -> list[Path]:
    formats = PIL.Image.registered_extensions()
    # Pillow writes more formats than it reads.
    suffixes = {s for s, name in formats.items() if name in PIL.Image.OPEN}
    if not path.exists():
        raise ValueError(f"there is no {path}: give a folder, a picture or an .npy")
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise ValueError(
                f"{path} is no picture that Pillow reads, told by its name: give a "
                "folder, a picture or an .npy"
            )
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise ValueError(f"{path} holds no picture that Pillow reads")
    return files


def _read_picture(path: Path, image_shape: Shape, resize: bool) -> np.ndarray:
    height, width, channels = image_shape
    try:
        with PIL.Image.open(path) as picture:
            picture = _in_8_bits(PIL.ImageOps.exif_transpose(picture))
            picture = picture.convert(_MODES[channels])
    except Exception as error:  # Pillow's readers raise a dozen types on damage.
        raise UnreadableImageError(f"{path} cannot be read: {error}") from error
    if picture.size != (width, height):
        if not resize:
            raise ValueError(
                f"{path} has {picture.width} x {picture.height} pixels, but the "
                f"network takes {width} x {height}: --resize scales pictures"
            )
        picture = picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(image_shape)


def _in_8_bits(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Scales 16-bit grey, which Pillow's `convert` would clip."""
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"its pixels, of Pillow's mode {picture.mode}, have no known range: give "
            "8 or 16 bits a channel"
        )
    if not picture.mode.startswith("I;16"):
        return picture
    return PIL.Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))


def _open_array(path: Path, image_shape: Shape) -> ImageInput:
    try:
        images = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read as .npy: {reason}") from error
    if images.ndim == 3 and image_shape[2] == 1:
        images = images[..., None]
    if images.shape[1:] != image_shape or not len(images):
        height, width, channels = image_shape
        raise ValueError(
            f"{path} has shape {images.shape}: it must be [n, {height}, {width}, "
            f"{channels}], n at least 1"
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{path} holds {images.dtype}: give uint8 or float images")
    dtype = np.dtype(np.uint8 if images.dtype == np.uint8 else np.float32)

    def read(position):
        image = np.asarray(images[position], dtype)
        if not np.isfinite(image).all():
            raise UnreadableImageError(f"{path}: image {position} is not finite")
        return image

    return ImageInput([str(i) for i in range(len(images))], read, dtype)
