"""How the layers of a network feed each other, said by the network itself.

A network that has a method `links()` lets `srigl_jax.condensed.condense_model` fold its
batch normalisations and drop the neurons that do nothing. What it says is taken on
trust as far as the widths fit, so a link must state what `__call__` does.
"""

import dataclasses
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class Link:
    """What happens to the output of one layer: norm, activation, consumers.

    Layers are named by their paths, `blocks/0/conv1`.

    Attributes:
      producer: a `Linear` or `Conv`.
      consumers: every reader of the output, each a `Linear` or `Conv` that reads
        nothing else. Between them, and after the activation, there may be dropout,
        pooling over whole images, max-pooling whose border is never the largest, or
        a reshape to (height * width * channels). Empty
        where something else reads it too, a residual sum for one: the producer then
        keeps its width.
      norm: the `BatchNorm` right after the producer, and after nothing else.
      activation: the elementwise function after that, of evaluation mode; None if
        there is none.
    """

    producer: str
    consumers: tuple[str, ...] = ()
    norm: str | None = None
    activation: Callable[[jax.Array], jax.Array] | None = None
