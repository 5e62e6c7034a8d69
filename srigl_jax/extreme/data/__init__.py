"""Data with 10^5 to 10^6 labels, from files that are already here."""

from srigl_jax.extreme.data.features import Bags, Packed, bags, embed, pack
from srigl_jax.extreme.data.points import Points
from srigl_jax.extreme.data.texts import Texts, TextSplit

__all__ = [
    "Bags",
    "Packed",
    "Points",
    "TextSplit",
    "Texts",
    "bags",
    "embed",
    "pack",
]
