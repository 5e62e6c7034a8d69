"""Texts and their labels."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from srigl_jax.extreme import labels


@dataclasses.dataclass(frozen=True, eq=False)
class TextSplit:
    """Some examples.

    Attributes:
      texts: one for each example.
      positives: i32[examples, most], the labels of each, padded with -1.
    """

    texts: tuple[str, ...]
    positives: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """A data set of texts in memory.

    Attributes:
      train: the training examples.
      test: the test examples.
      label_names: what each label stands for; labels are numbered by falling frequency
        among the training examples, ties by name.
    """

    train: TextSplit
    test: TextSplit
    label_names: tuple[str, ...]

    @property
    def frequencies(self) -> np.ndarray:
        """Training examples of each label: int[labels]."""
        known = self.train.positives[self.train.positives >= 0]
        return np.bincount(known, minlength=len(self.label_names))


Examples = Sequence[tuple[str, Sequence[str]]]
"""Texts, each with the names of its labels."""


def number(train: Examples, test: Examples) -> Texts:
    """Numbers the labels of texts.

    Raises:
      ValueError: a text without labels.
    """
    counts = Counter(name for _, names in train for name in names)
    unseen = {name for _, names in test for name in names}
    ordered = sorted(unseen | set(counts), key=lambda name: (-counts[name], name))
    numbers = {name: i for i, name in enumerate(ordered)}

    def split(examples):
        lists = [[numbers[name] for name in names] for _, names in examples]
        texts = tuple(text for text, _ in examples)
        return TextSplit(texts, labels.pad(lists, len(numbers)))

    return Texts(split(train), split(test), tuple(ordered))
