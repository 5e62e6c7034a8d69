"""How a sparse layer runs fast: condensed layers, products, whole networks."""

from srigl_jax.condensed.convolution import condensed_conv
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.modules import CondensedConv, CondensedLinear
from srigl_jax.condensed.representation import (
    Condensed,
    check_condensed,
    condense,
    densify,
    narrow,
)
from srigl_jax.condensed.windows import Windows, arrange, windows_matmul

__all__ = [
    "Condensed",
    "CondensedConv",
    "CondensedLinear",
    "Windows",
    "arrange",
    "check_condensed",
    "condense",
    "condensed_conv",
    "condensed_matmul",
    "densify",
    "narrow",
    "windows_matmul",
]
