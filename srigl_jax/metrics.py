"""What a run measured, one JSON object a line.

`MetricsWriter` promises that `metrics.jsonl` can always be read: every line is flushed
as a whole, a line that a kill cut short is mended on the next opening, and a resumed
run first drops what it is about to measure again, so that the file reads like that of
a run that was never interrupted.

Every line is strict JSON. NaN and the infinities, which JSON does not have, are stored
as the strings "NaN", "Infinity" and "-Infinity" (the convention of Protocol Buffers'
JSON form) and come back from `read_metrics` as floats.
"""

import json
import math
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from srigl_jax.workdir import write_atomically

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsWriter:
    """Appends records to `workdir/metrics.jsonl`, and to TensorBoard when asked.

    A context manager; leaving it closes the files.
    """

    def __init__(self, workdir: str | os.PathLike, tensorboard: bool = False):
        """Opens the files.

        Args:
            workdir: the folder of the run, made if missing.
            tensorboard: also write every number as a TensorBoard scalar, under
                `workdir/tensorboard`.

        Raises:
            ValueError: `workdir` cannot be written, or `tensorboard` is asked for and
                the package tensorboardX is missing.
        """
        self.path = Path(workdir) / "metrics.jsonl"
        self._board = None
        open_board = _summary_writer() if tensorboard else None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend_last_line(self.path)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"workdir {str(workdir)!r}: cannot write {self.path.name} there "
                f"({error.strerror}); give a folder that you may write to"
            ) from error
        if open_board:
            self._open_board = open_board
            self._board = open_board(str(self.path.parent / "tensorboard"))

    def __enter__(self) -> "MetricsWriter":
        """Gives the writer."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the files."""
        self.close()

    def close(self) -> None:
        """Closes the files. Closing twice does no harm."""
        self._file.close()
        if self._board:
            self._board.close()

    def write(self, kind: str, step: int, **values: Any) -> dict[str, Any]:
        """Writes one record and returns it, its numbers as Python's own.

        Args:
            kind: what was measured: "train", "eval", "topology".
            step: the training step it was measured after.
            **values: numbers (Python's, or NumPy or JAX scalars), strings, None, or
                dicts of these.

        Raises:
            ValueError: a value is an array of more than zero dimensions.
        """
        record = {"kind": kind, "step": operator.index(step), **_plain("", values)}
        self._file.write(_encode(record) + "\n")
        self._file.flush()
        if self._board:
            for name, number in _numbers(kind, values):
                self._board.add_scalar(name, number, record["step"])
        return record

    def truncate_after(self, step: int) -> None:
        """Drops all records of later steps than `step`, the one restored.

        A kill at any moment leaves either the old file or the new one.
        """
        kept = [record for record in read_metrics(self.path) if record["step"] <= step]
        self._file.close()
        write_atomically(self.path, "".join(_encode(r) + "\n" for r in kept))
        self._file = self.path.open("a", encoding="utf-8")
        if self._board:
            self._board.close()
            self._board = self._open_board(self._board.logdir, purge_step=step + 1)


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the records of a `metrics.jsonl`, in the order written.

    A last line that a kill cut short is left out.

    Raises:
        ValueError: a line that is not the last one is no record; names the line.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise ValueError(
                f"{path}, line {number}: {line[:60]!r} is not a metrics record, a JSON "
                'object with "kind" and "step"; remove or mend the line'
            )
    return records


def series(
    records: list[dict[str, Any]], kind: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """One value over time: the steps, i64[n], and the values, f64[n].

    Only finite values of records of `kind` that have `name` count; n may be 0.
    """
    found = [
        (record["step"], record[name])
        for record in records
        if record["kind"] == kind and isinstance(record.get(name), int | float)
    ]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    steps, values = zip(*finite, strict=True) if finite else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def _summary_writer() -> type:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboard = True needs the package tensorboardX, which is not "
            'installed: `pip install "srigl_jax[tensorboard]"`, or set tensorboard to '
            "False"
        ) from error
    return SummaryWriter


def _mend_last_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    tail = content[content.rfind(b"\n") + 1 :]
    if tail and _parse(tail) is not None:
        # Only the newline was lost: a part of an object never parses as an object.
        with path.open("ab") as file:
            file.write(b"\n")
    elif tail:
        os.truncate(path, len(content) - len(tail))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, object_hook=_revive)
    except ValueError:
        return None
    is_record = isinstance(record, dict) and "kind" in record
    return record if is_record and isinstance(record.get("step"), int) else None


def _revive(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _NON_FINITE.get(value, value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def _encode(record: dict[str, Any]) -> str:
    return json.dumps(_storable(record), allow_nan=False)


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _storable(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(f"{name}/{key}", item) for key, item in value.items()}
    if np.ndim(value) != 0:
        raise ValueError(
            f"metric {name.lstrip('/')!r} has shape {np.shape(value)}: write scalars, "
            "for instance its mean"
        )
    return value.item() if hasattr(value, "item") else value


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(f"{name}/{key}", item)
    elif isinstance(value, int | float):
        yield name, value
