"""WordNet's labels, or another set's, by every method: training, baselines, scores."""

import dataclasses
import resource
import time
from typing import Any

import jax
import numpy as np
import scipy.sparse
from shown import Tasks

from srigl_jax.extreme import run
from srigl_jax.extreme.data import corpus
from srigl_jax.extreme.data.corpus import Corpus
from srigl_jax.extreme.network import Settings

# As wide as lets a dense layer fit: 1.9 GB.
COMPARED = {"width": 4096}
# The embedding is what methods whose positions are random can learn by: with a fixed
# encoder most labels would see none of their examples' words. Its rates, and those of
# the bottleneck, were chosen on held-out training texts.
EMBEDDING = {
    "width": 512,
    "hashes": 4,
    "encoder_rate": 0.02,
    "learning_rate": 30.0,
    "delta_t": 50,
}
POSITIVES = {"method": "positives"}

TRAINED: dict[str, dict[str, Any]] = {
    "words": POSITIVES,
    "dense": {"method": "dense"} | COMPARED,
    "bottleneck": {"method": "bottleneck", "learning_rate": 3.0, "projection_rate": 0.0}
    | COMPARED,
    "positives": POSITIVES | COMPARED,
    "grouped": {"group": 16} | POSITIVES | COMPARED,
    "static": {"method": "static"} | COMPARED,
    "SET": {"method": "set"} | COMPARED,
    "gradient": {"method": "gradient"} | COMPARED,
    "static, embedding": {"method": "static"} | EMBEDDING,
    "SET, embedding": {"method": "set"} | EMBEDDING,
    "gradient, embedding": {"method": "gradient"} | EMBEDDING,
    "SET, embedding, auxiliary": {"method": "set", "auxiliary_weight": 0.4} | EMBEDDING,
}
"""What each trained method changes of the common settings."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all methods have in common.

    Attributes:
      dataset: of `corpus.load`.
      settings: before the method's changes.
      changes: after them.
      epochs: of training.
      evaluated: held-out examples to score; 0 for all.
      validation: training examples to hold out and score on; 0 for the test split.
      examples: kept of each split; 0 for all.
    """

    dataset: str
    settings: Settings
    changes: dict[str, Any]
    epochs: int
    evaluated: int
    validation: int
    examples: int


def measure_row(method: str, seed: int, plan: Plan) -> dict[str, Any]:
    """Figures of one method and seed, with the peak memory of this process.

    Raises:
      ImportError: the method needs a package that is not installed.
    """
    data = corpus.load(plan.dataset, validation=plan.validation, examples=plan.examples)
    if method in BASELINES:
        row = baseline(method, data, plan.evaluated)
    else:
        changes = TRAINED[method] | plan.changes
        settings = dataclasses.replace(plan.settings, **changes)
        row = train(method, data, settings, seed, plan.epochs, plan.evaluated)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row | {"peak_rss_mib": peak}


def train(
    method: str,
    data: Corpus,
    settings: Settings,
    seed: int,
    epochs: int,
    evaluated: int,
) -> dict[str, Any]:
    """Trains a network and scores it on held-out examples, telling how far it is.

    Args:
      method: what the lines call it.
      data: from `corpus.load`.
      settings: of the network.
      seed: of weights, positions and batches.
      epochs: of training.
      evaluated: held-out examples to score; 0 for all.
    """
    task = run.Task(settings, data, seed, epochs)
    begun = time.perf_counter()
    state = jax.block_until_ready(task.init())
    starting = time.perf_counter() - begun
    start = task.scores(state, evaluated)
    names = ("classifier", "classifier_state")
    held = jax.tree.leaves([state[name] for name in names])
    seconds, losses = [], []
    begun = time.perf_counter()
    with Tasks() as tasks:
        shown = tasks.add_task(f"{method}, seed {seed}", total=task.total_steps)
        for t in range(task.total_steps):
            before = time.perf_counter()
            state, loss = task.step(state, t)
            losses.append(float(loss))
            seconds.append(time.perf_counter() - before)
            if task.network.grows(t + 1):
                state = task.grow(state, t + 1)
            tasks.advance(shown)
    jax.block_until_ready(state)
    training = time.perf_counter() - begun
    return percent(task.scores(state, evaluated)) | {
        "start_P@1": 100 * start["P@1"],
        "width": state["classifier"].width,
        "loss": float(np.mean(losses[-50:])),
        "classifier_state_bytes": sum(leaf.nbytes for leaf in held),
        "seconds_a_step": float(np.median(seconds)),
        "starting_seconds": starting,
        "training_seconds": training,
        "steps": task.total_steps,
    }


def baseline(method: str, data: Corpus, evaluated: int) -> dict[str, Any]:
    """Scores of one of BASELINES on the same held-out examples."""
    rows = run.held_out_rows(data, evaluated)
    begun = time.perf_counter()
    predicted = BASELINES[method](data, rows)
    seconds = time.perf_counter() - begun
    return percent(run.scores(data, predicted, rows)) | {"seconds": seconds}


def percent(shares: dict[str, float]) -> dict[str, float]:
    """Shares of 1 as percentages."""
    return {name: 100 * share for name, share in shares.items()}


def popularity(data: Corpus, rows: np.ndarray) -> np.ndarray:
    """The five most frequent training labels, whatever the text."""
    return np.tile(np.argsort(-data.frequencies, kind="stable")[:5], (len(rows), 1))


def neighbours(
    data: Corpus, rows: np.ndarray, count: int = 20, piece: int = 256
) -> np.ndarray:
    """Labels of the `count` nearest training texts, weighed by their cosines."""
    train, labels = data.train.T.tocsc(), label_matrix(data)
    predicted = np.full((len(rows), 5), -1)
    for start in range(0, len(rows), piece):
        cosines = (data.held_out[rows[start : start + piece]] @ train).toarray()
        nearest = np.argpartition(-cosines, count, axis=1)[:, :count]
        weights = np.take_along_axis(cosines, nearest, 1)
        for i, (own, weight) in enumerate(zip(nearest, weights, strict=True)):
            votes = scipy.sparse.csr_matrix(weight) @ labels[own]
            best = np.argsort(-votes.data, kind="stable")[:5]
            predicted[start + i, : len(best)] = votes.indices[best]
    return predicted


def label_matrix(data: Corpus) -> scipy.sparse.csr_matrix:
    """Which training example has which label: f32[examples, labels] of 0 and 1."""
    exists = data.train_positives >= 0
    examples, _ = np.nonzero(exists)
    ones = np.ones(len(examples), np.float32)
    shape = len(data.train_positives), data.labels
    where = examples, data.train_positives[exists]
    return scipy.sparse.csr_matrix((ones, where), shape)


def omikuji(data: Corpus, rows: np.ndarray) -> np.ndarray:
    """Three label trees of linear classifiers (Parabel), by the package omikuji.

    Raises:
      ImportError: it is not installed.
    """
    import tempfile

    import omikuji

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        write_xmc(file, data)
        model = omikuji.Model.train_on_data(file.name, n_threads=1)
    predicted = np.full((len(rows), 5), -1)
    for i, row in enumerate(rows):
        own = data.held_out[row]
        pairs = list(zip(own.indices.tolist(), own.data.tolist(), strict=True))
        found = model.predict(pairs, top_k=5) if pairs else []
        predicted[i, : len(found)] = [label for label, _ in found]
    return predicted


def write_xmc(file: Any, data: Corpus) -> None:
    """Writes the training examples that have a feature, in the format of `xmc`."""
    sizes = np.diff(data.train.indptr)
    print(np.count_nonzero(sizes), data.features, data.labels, file=file)
    for i in np.flatnonzero(sizes):
        own, labels = data.train[i], data.train_positives[i]
        pairs = zip(own.indices, own.data, strict=True)
        features = " ".join(f"{column}:{value:.6g}" for column, value in pairs)
        print(",".join(map(str, labels[labels >= 0])), features, file=file)
    file.flush()


BASELINES = {
    "popularity": popularity,
    "neighbours": neighbours,
    "omikuji": omikuji,
}
