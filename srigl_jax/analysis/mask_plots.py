"""The pictures of one layer's mask, `bool[fan_in, neurons]`.

Blue is a weight that is there, orange is a neuron that was ablated.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from srigl_jax.analysis import statistics
from srigl_jax.analysis.svg import LIGHT, Picture, drawing, to_svg

_MOST_TILES = 256


def fan_in_histogram(name: str, mask: np.ndarray) -> Picture:
    """How many neurons of a layer have how many weights.

    Args:
        name: of the layer.
        mask: bool[fan_in, neurons].
    """
    edges, counts = statistics.fan_in_histogram(mask)
    ablated = statistics.ablated_neurons(mask)
    low, high = statistics.fan_in_range(mask)
    spread = f"{high}" if low == high else f"{low} to {high}"
    title = f"{name}: fan-in {spread}, {ablated or 'none'} ablated"
    with drawing(310, 190) as figure:
        axes = figure.subplots()
        end = max(edges[-1] * 1.15, 4)
        # A spike of one bin among hundreds would be thinner than a hair.
        width = max(np.diff(edges).max(initial=1) * 0.9, end / 40)
        centres = (edges[:-1] + edges[1:] - 1) / 2
        bars = axes.bar(centres, counts, width, color=LIGHT["blue"])
        if low == high > 0:
            axes.bar_label(bars, padding=2, color=LIGHT["blue"])
        if ablated:
            bars = axes.bar(0, ablated, width, color=LIGHT["orange"])
            axes.bar_label(bars, padding=2, color=LIGHT["orange"])
        axes.set_xlim(-0.09 * end, end)
        axes.margins(y=0.15)
        axes.set_xlabel("weights of a neuron")
        axes.set_ylabel("neurons")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        svg = to_svg(figure, title)
    return Picture(title, "", svg)


def mask_drawing(name: str, mask: np.ndarray) -> Picture:
    """A mask drawn, weight by weight or, if it is large, as tiles of density.

    Args:
        name: of the layer.
        mask: bool[fan_in, neurons].
    """
    density, tile = statistics.density_tiles(mask, _MOST_TILES)
    inputs, neurons = mask.shape
    title = f"{name}: {np.count_nonzero(mask):,} of {mask.size:,} weights"
    if tile == (1, 1):
        reading = ""
    else:
        reading = (
            f"Too large to draw every weight: a tile stands for {tile[0]} inputs "
            f"by {tile[1]} neurons, the darker the denser, up to {density.max():.1%}."
        )
    alive, _ = statistics.density_tiles(mask.any(axis=0, keepdims=True), _MOST_TILES)
    with drawing(470, 300) as figure:
        axes = figure.subplots()
        axes.imshow(
            _mask_colours(density, alive),
            extent=(0, neurons, inputs, 0),
            aspect="auto",
            interpolation="none",
        )
        axes.grid(False)
        axes.set_xlabel(f"{neurons} neurons")
        axes.set_ylabel(f"{inputs} inputs")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True))
        svg = to_svg(figure, title)
    return Picture(title, reading, svg)


def input_pixels(
    name: str, mask: np.ndarray, image_shape: tuple[int, int, int]
) -> Picture:
    """Where in the input image a layer's weights look.

    Args:
        name: of the layer, one that reads the flattened image.
        mask: bool[height * width * channels, neurons].
        image_shape: (height, width, channels).
    """
    counts = statistics.weights_per_pixel(mask, image_shape)
    unseen = int(np.count_nonzero(counts == 0))
    title = (
        f"{name} looks at {counts.size - unseen} of {counts.size} pixels, "
        f"with up to {counts.max()} weights each"
    )
    height, width = counts.shape
    colours = np.empty((height, width, 4))
    colours[..., :3] = to_rgb(LIGHT["blue"])
    colours[..., 3] = counts / max(counts.max(), 1)
    with drawing(400, 40 + 360 * height / width) as figure:
        axes = figure.subplots()
        axes.imshow(colours, interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=LIGHT["rule"])
        if counts.size <= 256:
            _write_counts(axes, counts)
        svg = to_svg(figure, title)
    reading = (
        "The input image as the first layer sees it: the bluer a pixel, the more "
        "weights look at it; a blank pixel is not looked at."
    )
    return Picture(title, reading, svg)


def _mask_colours(density: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """RGBA of the tiles: blue by density, ablated neurons shaded in orange."""
    colours = np.empty((*density.shape, 4))
    colours[..., :3] = to_rgb(LIGHT["blue"])
    colours[..., 3] = density / max(density.max(), np.finfo(float).tiny)
    ablated = np.broadcast_to(alive == 0, density.shape)
    colours[ablated] = (*to_rgb(LIGHT["orange"]), 0.3)
    return colours


def _write_counts(axes: Axes, counts: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            share = count / counts.max()
            colour = "white" if share > 0.65 else LIGHT["ink"]
            axes.text(column, row, count, ha="center", va="center", color=colour)
