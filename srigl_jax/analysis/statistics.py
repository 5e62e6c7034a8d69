"""What a mask looks like in numbers.

Pure NumPy functions of one layer's mask in matrix view, `bool[fan_in, neurons]`: row i
is an input, column j a neuron, and True says that neuron j has a weight on input i.
"""

import numpy as np


def fan_in_per_neuron(mask: np.ndarray) -> np.ndarray:
    """Weights of each neuron, i64[neurons]; 0 is an ablated neuron."""
    return np.count_nonzero(mask, axis=0)


def fan_in_range(mask: np.ndarray) -> tuple[int, int]:
    """Smallest and largest fan-in among active neurons; (0, 0) if none is active."""
    fan_in = fan_in_per_neuron(mask)
    active = fan_in[fan_in > 0]
    return (int(active.min()), int(active.max())) if active.size else (0, 0)


def ablated_neurons(mask: np.ndarray) -> int:
    """Number of neurons without any weight."""
    return int(np.count_nonzero(fan_in_per_neuron(mask) == 0))


def fan_in_histogram(
    mask: np.ndarray, largest: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    """How many active neurons have which fan-in.

    Args:
        mask: bool[fan_in, neurons].
        largest: the most bins to use.

    Returns:
        Edges i64[bins + 1] and counts i64[bins]: bin b counts the active neurons of
        fan-in `edges[b] <= k < edges[b + 1]`. All bins are equally wide; a constant
        fan-in is one bin of width 1, a layer without active neurons has no bin.
    """
    low, high = fan_in_range(mask)
    if high == 0:
        return np.zeros(1, np.int64), np.zeros(0, np.int64)
    width = -(-(high - low + 1) // largest)
    edges = np.arange(low, high + width + 1, width)
    fan_in = fan_in_per_neuron(mask)
    return edges, np.histogram(fan_in[fan_in > 0], bins=edges - 0.5)[0]


def density_tiles(mask: np.ndarray, largest: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask seen from afar: the density of equal tiles.

    Args:
        mask: bool[fan_in, neurons].
        largest: the most tiles along either axis.

    Returns:
        Densities f64[rows, columns], and the inputs and neurons that a tile covers,
        (1, 1) for a mask that fits as it is. Tiles at the end may cover fewer.
    """
    rows, columns = tile = tuple(-(-size // largest) for size in mask.shape)
    row_starts = np.arange(0, mask.shape[0], rows)
    column_starts = np.arange(0, mask.shape[1], columns)
    weights = np.add.reduceat(mask, row_starts, axis=0, dtype=np.int64)
    weights = np.add.reduceat(weights, column_starts, axis=1)
    heights = np.diff(row_starts, append=mask.shape[0])
    widths = np.diff(column_starts, append=mask.shape[1])
    return weights / np.outer(heights, widths), tile


def weights_per_pixel(
    mask: np.ndarray, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """How many weights look at each pixel of the input image.

    Args:
        mask: bool[height * width * channels, neurons] of a layer that reads the
            flattened image.
        image_shape: (height, width, channels).

    Returns:
        i64[height, width], summed over channels and neurons.
    """
    return np.count_nonzero(mask, axis=1).reshape(image_shape).sum(axis=-1)
