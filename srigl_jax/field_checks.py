"""Checks of single config fields, of every kind of run."""

import math
from collections.abc import Iterable
from typing import Any


def check_choice(field: str, value: Any, accepted: Iterable[str]) -> None:
    """Raises a ValueError that names the field and the choices, unless it is one."""
    if value not in accepted:
        raise ValueError(f"{field} is {value!r}: choose one of {', '.join(accepted)}")


def check_within(field: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises a ValueError that names the field and the bounds, unless it is within."""
    # Written so that NaN, which compares false to all, is refused.
    if not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{field} is {value}: give a number {bounds}")
