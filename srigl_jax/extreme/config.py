"""The fields of a run with many labels, their defaults, and what is accepted.

`task` tells the trainer that the run is of this kind. A file in configs/ starts from
`get_config` and changes fields; the command line overrides both.
"""

import dataclasses
import math
import os

from ml_collections import ConfigDict, config_dict

from srigl_jax.extreme.data import corpus
from srigl_jax.extreme.losses import LOSSES
from srigl_jax.extreme.network import METHODS, OPTIMIZERS, Settings
from srigl_jax.field_checks import check_choice, check_within
from srigl_jax.workdir import check_config

TASK = "labels"

# May differ when a run is resumed: what is seen of it, and where its files are; what is
# in them is compared by a digest.
VIEW_FIELDS = (
    "log_every",
    "eval_every",
    "eval_examples",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "dataset.source_dir",
)


def get_config() -> ConfigDict:
    """WordNet's 113,595 labels, 64 weights each.

    The fields of `settings` are those of `srigl_jax.extreme.network.Settings`.
    """
    config = ConfigDict()
    config.task = TASK
    config.seed = 0
    config.epochs = 5
    config.settings = ConfigDict(dataclasses.asdict(Settings()))
    config.dataset = ConfigDict()
    config.dataset.name = "wordnet"
    config.dataset.source_dir = config_dict.placeholder(str)
    # To choose settings by: this many training examples are evaluated on instead of
    # the test examples, and not trained on.
    config.dataset.validation = 0
    config.dataset.examples = 0  # Kept of each split; 0 for all.
    # A and B of PSP@k: 0.6 and 2.6 are usual for Amazon's sets, 0.5 and 0.4 for
    # Wikipedia's.
    config.dataset.propensity_a = 0.55
    config.dataset.propensity_b = 1.5
    config.log_every = 50  # In steps, as are eval_every and checkpoint_every.
    config.eval_every = 500
    # Of the held-out examples, until the end, where all count; 0 for all.
    config.eval_examples = 2000
    config.checkpoint_every = 500
    config.keep_checkpoints = 2
    config.tensorboard = False
    return config


def check_workdir(
    workdir: str | os.PathLike[str], config: ConfigDict, data_sha256: str
) -> None:
    """Claims a workdir for a run, or refuses one that is of another run.

    Fields that its `config.json` lacks, because a later version brought them, count as
    their defaults.

    Args:
      workdir: the directory of the run.
      config: its settings.
      data_sha256: a digest of what it trains on.

    Raises:
      ValueError: as `srigl_jax.workdir.check_config`.
    """
    fields = config.to_dict() | {"data_sha256": data_sha256}
    defaults = get_config().to_dict()
    check_config(workdir, fields, ignore=VIEW_FIELDS, defaults=defaults)


def validate(config: ConfigDict) -> Settings:
    """Checks all that can be checked before the data are there.

    Returns:
      The settings of the network.

    Raises:
      ValueError: names the field, its value, and what is accepted.
    """
    _check_fields(config, get_config())
    settings = config.settings
    check_choice("dataset.name", config.dataset.name, corpus.NAMES)
    check_choice("settings.method", settings.method, METHODS)
    check_choice("settings.loss", settings.loss, LOSSES)
    check_choice("settings.optimizer", settings.optimizer, OPTIMIZERS)
    names = ("epochs", "log_every", "eval_every", "checkpoint_every")
    for name in (*names, "keep_checkpoints"):
        check_within(name, config[name], 1)
    names = ("k", "group", "hashes", "most_features", "most_labels")
    for name in (*names, "batch_size", "delta_t", "growth_batches", "clusters"):
        check_within(f"settings.{name}", settings[name], 1)
    names = ("width", "dense_labels", "negatives", "negative_weight", "learning_rate")
    for name in (
        *names,
        "start_share",
        "bias_rate",
        "encoder_rate",
        "projection_rate",
        "auxiliary_weight",
    ):
        check_within(f"settings.{name}", settings[name], 0)
    for name in ("alpha", "t_end"):
        check_within(f"settings.{name}", settings[name], 0, 1)
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"settings.{name} is {value}: give a finite number")
    for name in ("validation", "examples"):
        check_within(f"dataset.{name}", config.dataset[name], 0)
    for name in ("propensity_a", "propensity_b"):
        value = config.dataset[name]
        if not 0 < value < math.inf:
            raise ValueError(f"dataset.{name} is {value}: give a number above 0")
    check_within("eval_examples", config.eval_examples, 0)
    check_within("seed", config.seed, 0, 2**31 - 1)
    if 0 < settings.width < settings.k:
        raise ValueError(
            f"settings.k is {settings.k}: give at most settings.width, {settings.width}"
        )
    if settings.encoder_rate and not settings.width:
        raise ValueError(
            f"settings.encoder_rate is {settings.encoder_rate}, but settings.width "
            "is 0, which keeps the features as they are: give that of the embedding"
        )
    if settings.auxiliary_weight and not settings.encoder_rate:
        raise ValueError(
            f"settings.auxiliary_weight is {settings.auxiliary_weight}, but the "
            "encoder is fixed and would learn nothing from it: give "
            "settings.encoder_rate"
        )
    return Settings(**settings.to_dict())


def _check_fields(config, default, prefix="") -> None:
    for name in sorted(set(config) ^ set(default)):
        problem = "there is no" if name in config else "the config lacks the"
        raise ValueError(
            f"{problem} field {prefix}{name}: start from "
            "srigl_jax.extreme.config.get_config() and change what should differ"
        )
    for name, value in default.items():
        if isinstance(value, ConfigDict):
            _check_fields(config[name], value, f"{prefix}{name}.")
