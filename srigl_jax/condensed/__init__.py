"""How a sparse layer runs fast: condensed layers, products, whole networks."""

from srigl_jax.condensed.convert import Conversion, condense_model
from srigl_jax.condensed.convolution import condensed_conv
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.modules import ArrangedLinear, CondensedConv, CondensedLinear
from srigl_jax.condensed.representation import (
    Condensed,
    check_condensed,
    condense,
    densify,
    narrow,
)
from srigl_jax.condensed.windows import Windows, arrange, windows_matmul

__all__ = [
    "ArrangedLinear",
    "Condensed",
    "CondensedConv",
    "CondensedLinear",
    "Conversion",
    "Windows",
    "arrange",
    "check_condensed",
    "condense",
    "condense_model",
    "condensed_conv",
    "condensed_matmul",
    "densify",
    "narrow",
    "windows_matmul",
]
