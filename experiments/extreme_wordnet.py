"""WordNet's 113,595 labels by every method: training, baselines, scores."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from srigl_jax import extreme
from srigl_jax.extreme.data import Bags, bags, embed, wordnet
from srigl_jax.sparsity.schedule import drop_fraction, t_end, update_due

TRAINED = ("dense", "bottleneck", "static", "SET", "gradient", "positives", "grouped")
"""Methods that train; "positives" grows by the gradient of the positives only."""

GROWN_UNTIL = 0.66
"""Share of training after which the topology rests (Ullah et al. 2024)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of all methods.

    Attributes:
      width: of the features.
      k: weights of each label.
      batch: examples of a step.
      epochs: of training.
      negatives: sampled for each step; 0 for all labels.
      learning_rate: of the classifier at the first step, falling to 0 linearly. Most
        labels are positive a few times in all, so it is high.
      encoder_rate: of the embedding, likewise.
      delta_t: steps between topology updates.
      alpha: share of weights that the first one replaces.
      batches: that growth by gradient sums over.
      most_words: of a text.
      most_labels: of a training example; the loss takes further ones for negatives.
      group: labels that share indices, in "grouped".
      examples: training and test examples taken, each; 0 for all.
    """

    width: int = 256
    k: int = 32
    batch: int = 256
    epochs: int = 10
    negatives: int = 4096
    learning_rate: float = 0.02
    encoder_rate: float = 0.01
    delta_t: int = 300
    alpha: float = 0.3
    batches: int = 8
    most_words: int = 32
    most_labels: int = 32
    group: int = 16
    examples: int = 0


class Data(NamedTuple):
    """What all methods read: TF-IDF rows, the same as bags, and labels."""

    train: scipy.sparse.csr_matrix
    test: scipy.sparse.csr_matrix
    train_bags: Bags
    test_bags: Bags
    train_positives: np.ndarray
    test_positives: np.ndarray
    frequencies: np.ndarray


def load(settings: Settings) -> Data:
    """Reads WordNet and weighs its words by TF-IDF of the training glosses."""
    texts = wordnet.load()
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
    train = vectorizer.fit_transform(texts.train.texts)
    test = vectorizer.transform(texts.test.texts)
    some = slice(settings.examples or None)
    return Data(
        train[some],
        test[some],
        bags(train[some], settings.most_words),
        bags(test[some], settings.most_words),
        texts.train.positives[some],
        texts.test.positives[some],
        texts.frequencies,
    )


def scores(data: Data, predicted: np.ndarray) -> dict[str, Any]:
    """P@k and PSP@k in percent, with the ceilings of P@k."""
    weights = extreme.inverse_propensities(data.frequencies, data.train.shape[0])
    found = extreme.score(predicted, data.test_positives, weights)
    names = ("P", "ceiling", "PSP")
    return {
        f"{name}@{k}": 100 * share
        for name, shares in zip(names, found, strict=True)
        for k, share in shares.items()
    }


def popularity(data: Data) -> np.ndarray:
    """The five most frequent training labels, whatever the text."""
    return np.tile(np.arange(5), (data.test.shape[0], 1))


def neighbours(data: Data, count: int = 20, rows: int = 256) -> np.ndarray:
    """Labels of the `count` nearest training texts, weighed by their cosines."""
    train = data.train.T.tocsc()
    exists = data.train_positives >= 0
    examples, _ = np.nonzero(exists)
    ones = np.ones(len(examples), np.float32)
    shape = len(data.train_positives), len(data.frequencies)
    labels = scipy.sparse.csr_matrix(
        (ones, (examples, data.train_positives[exists])), shape
    )
    predicted = np.full((data.test.shape[0], 5), -1)
    for start in range(0, data.test.shape[0], rows):
        cosines = (data.test[start : start + rows] @ train).toarray()
        nearest = np.argpartition(-cosines, count, axis=1)[:, :count]
        weights = np.take_along_axis(cosines, nearest, 1)
        for i, (own, weight) in enumerate(zip(nearest, weights, strict=True)):
            votes = scipy.sparse.csr_matrix(weight) @ labels[own]
            best = np.argsort(-votes.data, kind="stable")[:5]
            predicted[start + i, : len(best)] = votes.indices[best]
    return predicted


def train(
    method: str,
    data: Data,
    settings: Settings,
    seed: int,
    report: Callable[[int, int, float], None],
) -> dict[str, Any]:
    """Trains a method and scores it on the test examples.

    Args:
      method: one of TRAINED.
      data: from `load`.
      settings: of all methods.
      seed: of weights, positions and batches.
      report: called with step, steps and the mean loss since the last call.
    """
    start_key, grow_key, sample_key = jax.random.split(jax.random.key(seed), 3)
    total = settings.epochs * (len(data.train_positives) // settings.batch)
    optimizer, encoder_optimizer = (
        optax.adam(optax.linear_schedule(rate, 0, total))
        for rate in (settings.learning_rate, settings.encoder_rate)
    )
    params, classifier = _init(method, data, settings, start_key)
    encoder_state = encoder_optimizer.init(params)
    state = extreme.init_state(optimizer, classifier)
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves((classifier, state)))
    step = _step(optimizer, encoder_optimizer, settings, len(data.frequencies))
    grow = _grower(method, optimizer)
    encoded = jax.jit(lambda params, chunk: jax.vmap(partial(_encode, params))(chunk))
    seen, seconds, losses = [], [], []
    begun = time.perf_counter()
    for t, rows in enumerate(_batches(len(data.train_positives), settings, seed)):
        batch = Bags(*(array[rows] for array in data.train_bags))
        positives = data.train_positives[rows, : settings.most_labels]
        key = jax.random.fold_in(sample_key, t)
        before = time.perf_counter()
        loss, params, encoder_state, classifier, state = step(
            params, encoder_state, classifier, state, batch, positives, key
        )
        losses.append(float(loss))
        seconds.append(time.perf_counter() - before)
        seen = [*seen, (batch, positives)][-settings.batches :]
        if grow and update_due(t, settings.delta_t, t_end(total, GROWN_UNTIL)):
            fraction = drop_fraction(t, settings.alpha, t_end(total, GROWN_UNTIL))
            recent, positives = jax.tree.map(lambda *a: np.stack(a), *seen)
            key = jax.random.fold_in(grow_key, t)
            x = encoded(params, recent)
            classifier, state = grow(classifier, state, key, x, positives, fraction)
        if (t + 1) % 50 == 0 or t + 1 == total:
            report(t + 1, total, float(np.mean(losses[-50:])))
    training = time.perf_counter() - begun
    predicted = _predict(params, classifier, data.test_bags)
    return scores(data, predicted) | {
        "loss": float(np.mean(losses[-50:])),
        "classifier_state_bytes": bytes_,
        "seconds_a_step": float(np.median(seconds)),
        "training_seconds": training,
        "steps": total,
    }


def _init(method, data, settings, key):
    table_key, projection_key, key = jax.random.split(key, 3)
    labels, words = len(data.frequencies), data.train.shape[1]
    params = {"table": jax.random.normal(table_key, (words, settings.width))}
    width, options = settings.width, {}
    if method == "bottleneck":
        width = equal_bottleneck(settings.k)
        scale = settings.width**-0.5
        shape = settings.width, width
        params["projection"] = scale * jax.random.normal(projection_key, shape)
    if method in ("bottleneck", "dense"):
        options["dense_labels"] = labels
    if method == "grouped":
        options["group"] = settings.group
    rate = (data.train_positives >= 0).sum(1).mean() / labels
    bias = float(np.log(rate))
    k = min(settings.k, width)
    return params, extreme.init(key, labels, width, k, bias=bias, **options)


def equal_bottleneck(k: int) -> int:
    """The width at which a dense layer and its moments have the bytes of k weights.

    Float32 weights and two moments, with 16-bit indices on one side.
    """
    return round((12 + 2) * k / 12)


def _encode(params, batch):
    # Linear: positive features would move the logits of all texts alike.
    x = embed(params["table"], batch)
    return x @ params["projection"] if "projection" in params else x


def _step(optimizer, encoder_optimizer, settings, labels):
    @partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def step(params, encoder_state, classifier, state, batch, positives, key):
        negatives = None
        if settings.negatives:
            negatives = extreme.sample_negatives(key, labels, settings.negatives)
        x, back = jax.vjp(lambda params: _encode(params, batch), params)
        loss, dx, classifier, state = extreme.train_step(
            classifier, state, x, positives, negatives, optimizer=optimizer
        )
        (gradients,) = back(dx)
        updates, encoder_state = encoder_optimizer.update(gradients, encoder_state)
        params = optax.apply_updates(params, updates)
        return loss, params, encoder_state, classifier, state

    return step


def _grower(method, optimizer):
    """`(classifier, state, key, x, positives, fraction)`, jitted; None for none."""

    def randomly(classifier, state, key, x, positives, fraction):
        return extreme.grow_randomly(
            classifier, state, key, fraction, optimizer=optimizer
        )

    def by_gradient(score, classifier, state, key, x, positives, fraction):
        return extreme.grow_by_gradient(
            classifier, state, x, positives, fraction, optimizer=optimizer, score=score
        )

    rules = {
        "SET": randomly,
        "gradient": partial(by_gradient, "all"),
        "grouped": partial(by_gradient, "all"),
        "positives": partial(by_gradient, "positives"),
    }
    return jax.jit(rules[method], donate_argnums=(0, 1)) if method in rules else None


def _batches(examples: int, settings: Settings, seed: int) -> Iterator[np.ndarray]:
    for epoch in range(settings.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(examples)
        whole = examples - examples % settings.batch
        yield from order[:whole].reshape(-1, settings.batch)


def _predict(params, classifier, test: Bags, rows: int = 512) -> np.ndarray:
    @jax.jit
    def top(params, classifier, batch):
        return extreme.top_labels(classifier, _encode(params, batch), 5)[1]

    pieces = []
    for start in range(0, len(test.columns), rows):
        piece = Bags(*(array[start : start + rows] for array in test))
        pieces.append(np.asarray(top(params, classifier, piece)))
    return np.concatenate(pieces)
