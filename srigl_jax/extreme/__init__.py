"""Output layers of 10^5 to 10^6 labels, trained in condensed form."""

from srigl_jax.extreme.classifier import Block, Classifier, densify, init, place
from srigl_jax.extreme.labels import (
    check_positives,
    cluster,
    cluster_positives,
    pad,
    sample_negatives,
)
from srigl_jax.extreme.metrics import Scores, inverse_propensities, score
from srigl_jax.extreme.owners import Owners, by_label, start_from_examples
from srigl_jax.extreme.prediction import top_labels
from srigl_jax.extreme.topology import (
    grow_by_gradient,
    grow_by_positives,
    grow_randomly,
)
from srigl_jax.extreme.training import init_state, loss_and_gradients, train_step

__all__ = [
    "Block",
    "Classifier",
    "Owners",
    "Scores",
    "by_label",
    "check_positives",
    "cluster",
    "cluster_positives",
    "densify",
    "grow_by_gradient",
    "grow_by_positives",
    "grow_randomly",
    "init",
    "init_state",
    "inverse_propensities",
    "loss_and_gradients",
    "pad",
    "place",
    "sample_negatives",
    "score",
    "start_from_examples",
    "top_labels",
    "train_step",
]
