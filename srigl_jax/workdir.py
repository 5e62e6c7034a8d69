"""A workdir belongs to one run: the guard against resuming with other settings.

The settings a run was started with lie in its workdir as `config.json`. A run that
comes back with other ones is refused, and told which fields differ.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def check_config(
    workdir: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    ignore: Iterable[str] = (),
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes `config.json` the first time; refuses other settings from then on.

    Args:
      workdir: the directory of the run, made if need be.
      config: the settings of this run, nested or not, of JSON's types.
      ignore: fields that may differ, nested ones as `"group.field"`.
      defaults: what fields count as that the saved settings lack, nested likewise.

    Raises:
      ValueError: fields differ (all are named), `config.json` is not what was written,
        or the workdir cannot be written.
    """
    path = Path(workdir) / "config.json"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, text)
        saved = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"workdir {workdir} cannot be used: {error}. Choose another --workdir."
        ) from error
    try:
        found = differing(json.loads(saved), config, ignore=ignore, defaults=defaults)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a JSON object ({error}): it was cut off or edited. Put back"
            " the settings the run was started with, or choose another --workdir."
        ) from error
    if found:
        lines = [
            f"{field}: workdir has {before}, this run asks for {now}"
            for field, (before, now) in found.items()
        ]
        raise ValueError(
            f"workdir {workdir} belongs to a run with other settings:\n  "
            + "\n  ".join(lines)
            + "\nChoose another --workdir, or the same settings."
        )


def differing(
    saved: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    ignore: Iterable[str] = (),
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> dict[str, tuple[str, str]]:
    """The fields in which settings differ from saved ones.

    Args:
      saved: of JSON's types, as are the others.
      config: the settings of now.
      ignore: as `check_config`.
      defaults: as `check_config`.

    Returns:
      `{"group.field": (saved, of now)}`, values as JSON or "nothing", by name.
    """
    before = _flat(with_defaults(saved, defaults))
    now = _flat(json.loads(json.dumps(config)))
    # As JSON, so that an absent field differs from one that is null.
    return {
        field: (before.get(field, "nothing"), now.get(field, "nothing"))
        for field in sorted((before.keys() | now.keys()) - set(ignore))
        if before.get(field) != now.get(field)
    }


def with_defaults(
    saved: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Saved settings with the defaults of those that they lack, as later versions add.

    Args:
      saved: nested or not.
      defaults: nested likewise; of groups that are no mapping in `saved` none count.
    """
    filled = dict(saved)
    for name, default in defaults.items():
        if name not in filled:
            filled[name] = default
        elif isinstance(default, Mapping) and isinstance(filled[name], Mapping):
            filled[name] = with_defaults(filled[name], default)
    return filled


def record_start(
    workdir: str | os.PathLike[str], environment: Mapping[str, Any]
) -> None:
    """Appends to `environment.json` what a start of the run met: a list, a start each.

    Args:
      workdir: the directory of the run, which exists.
      environment: of JSON's types.

    Raises:
      ValueError: the workdir cannot be written, or the file is not what was written.
    """
    path = Path(workdir) / "environment.json"
    try:
        starts = json.loads(path.read_bytes()) if path.exists() else []
        if isinstance(starts, dict):  # Of a version that kept the last start alone.
            starts = [starts]
        write_atomically(path, json.dumps([*starts, environment], indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"workdir {workdir} cannot be used: {error}. Make it writable, or choose "
            "another --workdir."
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it, or choose another --workdir."
        ) from error


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    fields = {}
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = json.dumps(_whole(value))
    return fields


def _whole(value: Any) -> Any:
    """A float without a fraction as an int: which of them a field has may change."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file whole or not at all, whenever the process is killed."""
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    if isinstance(content, str):
        content = content.encode()
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
