"""A trained network as a function from texts to the names of their labels.

It lies in the workdir of its run: the arrays in `tagger.safetensors`, all else in
`tagger.json`, with digests; the data set is not needed again. What is loaded is, bit
for bit, what was saved.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import scipy.special

from srigl_jax import manifest
from srigl_jax.extreme.classifier import Block, Classifier
from srigl_jax.extreme.data.corpus import Corpus, Vocabulary
from srigl_jax.extreme.data.features import bags
from srigl_jax.extreme.network import Network, Settings, State
from srigl_jax.workdir import write_atomically

FORMAT_VERSION = 2
ARRAYS, DESCRIPTION = "tagger.safetensors", "tagger.json"

Labels = list[tuple[str, float]]
"""Names with their probabilities, the likeliest first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tagger:
    """Names the labels of texts.

    Attributes:
      network: how they are encoded.
      state: its encoder and its classifier.
      vocabulary: by which texts are read.
      label_names: what each label stands for.
    """

    network: Network
    state: State
    vocabulary: Vocabulary
    label_names: tuple[str, ...]

    def tag(self, texts: Sequence[str], count: int) -> list[Labels]:
        """The likeliest labels of each text.

        The probabilities are those of the loss that it was trained with, if that is
        the binary cross-entropy of all labels, else logits squashed to 0 to 1: they
        rank. A text without a known word gets the labels of the largest bias.

        Args:
          texts: any number.
          count: how many labels; all, if there are fewer.
        """
        if not texts:
            return []
        most = self.network.settings.most_features
        weighed = bags(self.vocabulary.weigh(texts), most)
        count = min(count, len(self.label_names))
        logits, labels = self.network.top(self.state, weighed, count, rows=64)
        shares = scipy.special.expit(logits.astype(np.float64))
        return [
            [(self.label_names[i], float(p)) for i, p in zip(*pair, strict=True)]
            for pair in zip(labels, shares, strict=True)
        ]


def is_here(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory has a tagger."""
    return (Path(directory) / DESCRIPTION).is_file()


def save(
    directory: str | os.PathLike[str], state: State, settings: Settings, data: Corpus
) -> None:
    """Writes both files; a kill in between leaves a pair that is refused, or the old.

    Args:
      directory: exists.
      state: of the network.
      settings: of the network.
      data: a corpus of texts, that it was trained on.
    """
    classifier = state["classifier"]
    arrays = {f"encoder.{name}": array for name, array in state["encoder"].items()}
    blocks = []
    for number, block in enumerate(classifier.blocks):
        own = block.weights | {"indices": block.indices}
        for name, array in own.items():
            if array is not None:
                arrays[f"blocks.{number}.{name}"] = array
        names = ("first", "labels", "chunk", "group")
        blocks.append({name: getattr(block, name) for name in names})
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    content = safetensors.numpy.save(arrays | {"idf": data.vocabulary.idf})
    fields = {
        "settings": dataclasses.asdict(settings),
        "width": classifier.width,
        "blocks": blocks,
        "words": data.vocabulary.words,
        "label_names": data.label_names,
        "arrays_sha256": manifest.digest(content),
    }
    description = manifest.signed(FORMAT_VERSION, fields)
    write_atomically(Path(directory) / ARRAYS, content)
    text = json.dumps(description, ensure_ascii=False) + "\n"
    write_atomically(Path(directory) / DESCRIPTION, text)


def load(directory: str | os.PathLike[str]) -> Tagger:
    """Reads what `save` wrote.

    Raises:
      ValueError: there is none, it is damaged, or another version wrote it.
    """
    path, again = Path(directory) / DESCRIPTION, "train again"
    description = manifest.read(
        path,
        FORMAT_VERSION,
        missing=f"{directory} has no tagger of texts, as finished runs with many "
        "labels do",
        again=again,
    )
    try:
        content = (path.parent / ARRAYS).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path.parent / ARRAYS} cannot be read ({error.strerror}): {again}"
        ) from error
    if description["arrays_sha256"] != manifest.digest(content):
        raise ValueError(
            f"{path.parent / ARRAYS} is damaged, or of another run: {again}"
        )
    arrays = safetensors.numpy.load(content)
    settings = Settings(**description["settings"])
    names = tuple(description["label_names"])
    blocks = tuple(
        Block(**({"indices": None} | _under(f"blocks.{i}.", arrays)), **fields)
        for i, fields in enumerate(description["blocks"])
    )
    state = {
        "encoder": _under("encoder.", arrays),
        "classifier": Classifier(blocks, description["width"]),
    }
    vocabulary = Vocabulary(tuple(description["words"]), arrays["idf"])
    network = Network(settings, len(vocabulary.words), len(names), total_steps=1)
    return Tagger(network, state, vocabulary, names)


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The arrays whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): jnp.asarray(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
