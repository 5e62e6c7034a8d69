"""Drawing for a page: inline SVG that takes its colours from the page around it.

Colours are written as CSS variables, so that one picture suits a light and a dark page;
text stays text, in the page's font. No pyplot, and no setting of the user's matplotlib,
takes part.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

# Name of the CSS variable: the colour on a light page, and on a dark one.
THEME = {
    "ink": ("#1c2430", "#e6e9ee"),
    "muted": ("#667082", "#98a2b3"),
    "rule": ("#dfe3e9", "#343c48"),
    "blue": ("#2460b0", "#74a9f5"),
    "orange": ("#c4560f", "#f39a55"),
    "green": ("#1b7f5c", "#4fc79b"),
    "purple": ("#7a4bb3", "#b794ee"),
    "rose": ("#b8325f", "#f07fa5"),
    "ochre": ("#8a6a00", "#d8b340"),
}
LIGHT = {name: light for name, (light, _) in THEME.items()}
LAYER_COLOURS = [
    LIGHT[name] for name in ("blue", "orange", "green", "purple", "rose", "ochre")
]

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "srigl_jax",
    "text.color": LIGHT["ink"],
    # A layer's name may hold a dollar sign, which is no mathematics.
    "text.parse_math": False,
    "xtick.color": LIGHT["muted"],
    "xtick.major.size": 3,
    "ytick.color": LIGHT["muted"],
    "ytick.major.size": 0,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Picture(NamedTuple):
    """A drawing as inline SVG, the finding it shows and how to read it."""

    title: str
    reading: str
    svg: str


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` by `height` CSS pixels; draw and call `to_svg` inside."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield Figure(figsize=(width / 96, height / 96), layout="constrained")


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element to put into a page.

    Args:
        figure: drawn inside `drawing`, with colours of `LIGHT`.
        label: what the picture shows, for readers who do not see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Ids are shared by a whole page: without a prefix, one picture's clip paths would
    # cut another's.
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>p{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def standalone(picture: Picture) -> str:
    """A picture as an SVG file of its own, in the colours of a light page."""
    svg = picture.svg
    for name, colour in LIGHT.items():
        svg = svg.replace(f"var(--{name})", colour)
    style = "background: #fff; font-family: sans-serif"
    return svg.replace("<svg", f'<svg style="{style}"', 1) + "\n"
