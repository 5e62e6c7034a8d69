"""A results file that grows: each command adds its rows, and loses none of others."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from srigl_jax.config import VIEW_FIELDS, differing

Row = dict[str, Any]


def described(config: ConfigDict) -> dict[str, Any]:
    """What a results file says of a config: all that may change a result."""
    return _described(json.loads(json.dumps(config.to_dict())), "")


def read_rows(path: Path, config: dict[str, Any]) -> list[Row]:
    """The rows of a results file, each with the command that made it.

    Args:
      path: of the file, which need not exist.
      config: that its rows must be of, as of `described`.

    Raises:
      ValueError: it names another config, or none.
    """
    if not path.exists():
        return []
    saved = json.loads(path.read_text())
    if not saved.get("config"):
        raise ValueError(f"{path} names no config")
    if found := differing(saved["config"], config):
        fields = "; ".join(
            f"{field} is {before} there, {now} here"
            for field, (before, now) in found.items()
        )
        raise ValueError(f"{path} is of another config: {fields}")
    command = saved.get("environment", {}).get("command")
    return [{"command": command} | row for row in saved["rows"]]


def check_fields(
    earlier: Sequence[Row], name: str, known: Mapping[str, dict[str, Any]]
) -> None:
    """Refuses company for rows that a name once stood for with other fields.

    Args:
      earlier: as of `read_rows`; those that say nothing of their fields are welcome.
      name: the field that names what a row is of.
      known: fields of the config by these names.

    Raises:
      ValueError: names the row, and the fields of then and now.
    """
    for row in earlier:
        fields = json.loads(json.dumps(known.get(row[name])))
        if fields is not None and row.get("fields", fields) != fields:
            raise ValueError(
                f"{row[name]} was trained with {row['fields']} then, is {fields} now"
            )


def beside(
    rows: Sequence[Row], earlier: Sequence[Row], name: str, order: Sequence[str]
) -> list[Row]:
    """The rows, and the earlier ones of other cells, or with seeds that these lack.

    Tells of rows that do not take the place of earlier ones.

    Args:
      rows: with `sparsity`, `seeds` and a name.
      earlier: as of `read_rows`.
      name: the field that names what a row is of.
      order: of the names in the result; others come last.
    """

    def cell(row):
        return row[name], row["sparsity"]

    by_cell = {cell(row): row for row in rows}
    for row in earlier:
        new = by_cell.get(cell(row))
        if new is None or not set(row["seeds"]) <= set(new["seeds"]):
            by_cell[cell(row)] = row
            if new is not None:
                print(
                    f"{row[name]} at {row['sparsity']:.1%}: the earlier row stays, of "
                    f"seeds {row['seeds']}; the new one has only {new['seeds']}"
                )
    last = len(order)
    rank = {name: number for number, name in enumerate(order)}
    return sorted(
        by_cell.values(), key=lambda row: (rank.get(row[name], last), *cell(row))
    )


def _described(config: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name: _described(value, f"{prefix}{name}.")
        if isinstance(value, dict)
        else value
        for name, value in config.items()
        if prefix + name not in VIEW_FIELDS
    }
