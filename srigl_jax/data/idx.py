"""The idx file format of MNIST and its relatives, read whole and checked.

An idx file of unsigned bytes is a magic number (0, 0, 8, number of axes), one
big-endian 32-bit length for each axis, and the bytes of the array in C order. It may
be compressed with gzip. `read` returns exactly the announced array or raises.
"""

import hashlib
import math
import os
import pathlib
import zlib

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTES = b"\x00\x00\x08"


def read(path: str | os.PathLike[str], *, sha256: str | None = None) -> np.ndarray:
    """Reads an idx file of unsigned bytes, compressed with gzip or not.

    Args:
      path: The file.
      sha256: Hexadecimal digest which the decompressed file must have.

    Returns:
      A read-only uint8 array of the shape that the file's header announces.

    Raises:
      ValueError: The file is not an idx file of unsigned bytes, its size is not the
        one its header announces, or its digest is another.
      OSError: The file cannot be read.
    """
    path = pathlib.Path(path)
    content = _decompressed(path)
    shape, offset = _header(content, path)
    expected = offset + math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise ValueError(
            f"{path} is {state}: its header announces shape {shape}, so {expected} "
            f"bytes (decompressed), but it holds {len(content)}. Fetch the file again."
        )
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise ValueError(
            f"{path} is not the official file: the sha256 of its decompressed content "
            f"is {digest}, expected {sha256}. Fetch the file again."
        )
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)


def _decompressed(path: pathlib.Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    # gzip.decompress drops what it had when a stream ends early; this keeps it, so
    # that the error can say how much was there.
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        decompressed = stream.decompress(content)
    except zlib.error as error:
        raise ValueError(
            f"{path} is corrupt: its gzip stream cannot be read ({error}). "
            "Fetch the file again."
        ) from error
    if not stream.eof:
        raise ValueError(
            f"{path} is truncated: {_announced(decompressed)} expected, but its gzip "
            f"stream ends after {len(decompressed)}. Fetch the file again."
        )
    return decompressed


def _announced(content: bytes) -> str:
    """Says how many bytes the header of a file cut short asks for, if it is there."""
    try:
        shape, offset = _header(content, pathlib.Path())
    except ValueError:
        return "a whole idx header"
    return f"{offset + math.prod(shape)} bytes (decompressed)"


def _header(content: bytes, path: pathlib.Path) -> tuple[tuple[int, ...], int]:
    """Returns the announced shape and the offset of the first element."""
    if len(content) < 4 or not content.startswith(_UNSIGNED_BYTES):
        raise ValueError(
            f"{path} is not an idx file of unsigned bytes: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}, expected 00 00 08 and the number "
            "of axes."
        )
    offset = 4 + 4 * content[3]
    if len(content) < offset:
        raise ValueError(
            f"{path} is truncated: its header alone takes {offset} bytes, but it "
            f"holds {len(content)}. Fetch the file again."
        )
    return tuple(np.frombuffer(content[4:offset], ">u4").tolist()), offset
