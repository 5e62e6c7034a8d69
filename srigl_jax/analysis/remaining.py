"""The weights that a network needs, of those that its masks leave.

A neuron without weights is a constant, which its readers can have in their biases: they
no longer need weights for it. A neuron that nobody has a weight for needs none itself.
Pure NumPy functions of masks `bool[fan_in, neurons]`, dense layers being all True.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

Masks = dict[str, np.ndarray]


class Feed(NamedTuple):
    """Who reads the output of a layer, and nothing else; layers by name.

    A consumer's fan-in is a multiple of the producer's neurons, which it repeats with
    the neuron as the fastest axis: the window of a convolution, a flattened image.
    """

    producer: str
    consumers: tuple[str, ...]


def remaining(masks: Mapping[str, np.ndarray], feeds: Iterable[Feed]) -> Masks:
    """The masks without the weights that do nothing.

    Args:
      masks: bool[fan_in, neurons] of every layer.
      feeds: how they read each other; where none tells, weights stay.

    Raises:
      ValueError: the widths of a feed do not fit.
    """
    left = {name: np.array(mask) for name, mask in masks.items()}
    feeds = list(feeds)
    weights, before = _count(left), None
    while weights != before:
        for feed in feeds:
            _clear(left, feed)
        weights, before = _count(left), weights
    return left


def _clear(masks: Masks, feed: Feed) -> None:
    """Clears what reads constants and what nobody reads; changes the masks."""
    producer = masks[feed.producer]
    is_active = producer.any(axis=0)
    is_read = np.zeros_like(is_active)
    for name in feed.consumers:
        by_input = _by_input(masks[name], feed.producer, len(is_active), name)
        by_input &= is_active[:, None]
        is_read |= by_input.any(axis=(0, 2))
    producer &= is_read


def _by_input(mask: np.ndarray, producer: str, inputs: int, name: str) -> np.ndarray:
    """Views a consumer's mask as [repeats, inputs, neurons]."""
    if len(mask) % inputs:
        raise ValueError(
            f"{name} has a fan-in of {len(mask)}, which the {inputs} neurons of "
            f"{producer} do not fit: it cannot read their outputs alone"
        )
    return mask.reshape(-1, inputs, mask.shape[1])


def _count(masks: Masks) -> int:
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())
