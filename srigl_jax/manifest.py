"""A JSON file that describes others, and shows whether it was changed.

Beside its own fields it has a format version, what wrote it, and a digest of all that.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import srigl_jax


def signed(version: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with those of every manifest."""
    manifest = {
        "format_version": version,
        "written_by": f"srigl_jax {srigl_jax.__version__}",
        **fields,
    }
    return manifest | {"sha256": json_digest(manifest)}


def read(path: Path, version: int, *, missing: str, again: str) -> dict[str, Any]:
    """A manifest, its own fields not looked at.

    Args:
      path: of the file.
      version: of the format, that can be read.
      missing: what is not there without it, for an error: "W holds no network".
      again: how to make another: "export again".

    Raises:
      ValueError: it cannot be read, is damaged, or another version wrote it.
    """
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{missing} ({error.strerror}: {path}): {again}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {again}") from error
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise ValueError(f"{path} is none that srigl_jax wrote: no format_version")
    if manifest["format_version"] != version:
        raise ValueError(
            f"{path} has format version {manifest['format_version']!r}, written by "
            f"{manifest.get('written_by')}; srigl_jax {srigl_jax.__version__} reads "
            f"version {version}: use the former, or {again}"
        )
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest.get("sha256") != json_digest(rest):
        raise ValueError(f"{path} has changed since it was written: {again}")
    return manifest


def json_digest(value: Any) -> str:
    """Hexadecimal, of a value that JSON can hold, whatever the order of its keys."""
    return digest(json.dumps(value, sort_keys=True).encode())


def digest(content: Any) -> str:
    """Hexadecimal, of the bytes of a file or an array."""
    return hashlib.sha256(content).hexdigest()
