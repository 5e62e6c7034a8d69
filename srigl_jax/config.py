"""The fields of a run, their defaults, and what is accepted.

`get_config` is the embedded default run: scikit-learn's digits, SRigL at 90 %. A file
in configs/ starts from it and changes fields; the command line overrides both.
"""

import difflib
import importlib.util
import inspect
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from srigl_jax import workdir as workdir_lib
from srigl_jax.data import DATASETS
from srigl_jax.data.randaugment import MAX_MAGNITUDE
from srigl_jax.field_checks import check_choice, check_within
from srigl_jax.methods import BLOCKED, METHODS, RANKING
from srigl_jax.models import MODELS
from srigl_jax.optimizers import OPTIMIZERS, SCHEDULES
from srigl_jax.sparsity.distribution import DISTRIBUTIONS, check_sparsity

DTYPES = ("float32", "bfloat16")

# May differ when a run is resumed: they change where it runs and what is seen of it,
# not what it is.
VIEW_FIELDS = (
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "dataset.data_dir",
    "dataset.source_dir",
    "dataset.workers",
    "mesh.data",
    "mesh.neurons",
)


def get_config() -> ConfigDict:
    """Digits, an MLP, SRigL at 90 % sparsity: under a minute on two CPU cores."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 120.0  # May be a fraction, of one too.
    config.batch_size = 64
    # Micro-batches that a batch is worked off in, to save memory.
    config.accumulate = 1
    config.dtype = "float32"  # Of what layers compute in training, or bfloat16.
    config.ema = 0.0  # Decay of averaged weights, evaluated instead; 0 is off.
    config.label_smoothing = 0.0

    # See srigl_jax/methods.py; ablation matters to srigl alone.
    config.method = "srigl"
    config.ablation = True
    config.sparsity = 0.9
    config.distribution = "erk"  # Or uniform; global where weights are ranked once.
    config.dense = ()  # Patterns of layer names that stay dense.
    # N:M sparsity with this M; with distribution "uniform", since "erk" can leave a
    # layer less than one weight a block.
    config.block = config_dict.placeholder(int)
    config.delta_t = 20  # Optimizer steps between topology updates.
    config.alpha = 0.3  # Share of weights replaced by the first one.
    config.t_end = 0.75  # Share of the training after which the topology rests.
    config.gamma_sal = 0.3
    config.gradient_window = 1  # Steps whose mean gradient decides what grows.
    config.gradient_momentum = 0.9  # Of the sum of gradients by which snfs grows.
    config.growth_candidates = "inactive"
    # Of static: the workdir of a finished run or of a lottery, or a safetensors file of
    # masks or a ticket, instead of random masks. Sparsity is theirs then.
    config.mask_from = config_dict.placeholder(str)
    config.pruning = ConfigDict()
    # Shares of the training. gradual prunes from start to end, every delta_t steps;
    # one_shot and neurons prune once, at end.
    config.pruning.start = 0.1
    config.pruning.end = 0.5
    config.pruning.ste_decay = 2e-4  # Of the weights that sr_ste has removed.
    config.pruning.rounds = 5  # Of lottery, each a training of its own.
    # The step that lottery rewinds to. Given to static, its state there is kept.
    config.pruning.rewind_step = config_dict.placeholder(int)
    # Records which weights ever existed, for a bit each.
    config.track_exploration = True

    config.dataset = ConfigDict()
    config.dataset.name = "digits"
    config.dataset.data_dir = config_dict.placeholder(str)
    config.dataset.source_dir = config_dict.placeholder(str)
    # To choose settings by: this many training examples are evaluated on instead of
    # the test split, and not trained on.
    config.dataset.validation = 0
    # Height, width, channels: imagenet2012 is cropped to them, synthetic is made so,
    # other sets are padded with zeros. () for those of the set.
    config.dataset.image_shape = ()
    config.dataset.workers = 0  # Processes that decode imagenet2012; 0 for threads.
    config.dataset.classes = 10  # Of synthetic, as is the next.
    config.dataset.examples = 2048

    # Of training images, on the device, in this order; nothing by default.
    config.augment = ConfigDict()
    config.augment.crop_padding = 0  # Reflected pixels to crop from, on each side.
    config.augment.flip = False
    config.augment.randaugment = 0  # Operations on each image.
    config.augment.magnitude = 9  # Of these, up to 30.
    config.augment.mixup = 0.0  # Parameter of the beta distribution; 0 is off.
    config.augment.cutmix = 0.0  # Likewise; with both, one at random for each batch.

    config.model = ConfigDict()
    config.model.name = "mlp"
    config.model.widths = (256, 256)
    config.model.dropout = 0.0

    # A safetensors file with the weights of torchvision's network of the same
    # definition. Of sparse layers only those on the random masks remain.
    config.pretrained = config_dict.placeholder(str)
    config.pretrained_head = True  # False for another number of classes.
    # Weights scaled to the fan-in that each neuron has; False for the model's own.
    config.sparse_init = True

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd (Nesterov's), adamw or rmsprop.
    config.optimizer.momentum = 0.9  # Of sgd and rmsprop.
    config.optimizer.weight_decay = 5e-4  # In the gradient (L2); adamw's is decoupled.
    config.optimizer.clip_norm = 0.0  # Longest gradient; 0 is off.
    config.optimizer.learning_rate = 0.1  # At its peak.
    # The batch that this rate is meant for, if it shall scale with batch_size.
    config.optimizer.reference_batch = config_dict.placeholder(int)
    config.optimizer.warmup_epochs = 1.0
    # cosine to 0, or times decay_factor: step, after every decay_every epochs, or
    # multistep, at each epoch of decay_at, () for a constant rate.
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_every = 30.0
    config.optimizer.decay_at = ()

    # Devices that share a batch, all there are by default, and that share a layer:
    # where they divide its neurons, its weights and their moments are cut among them.
    config.mesh = ConfigDict()
    config.mesh.data = config_dict.placeholder(int)
    config.mesh.neurons = 1

    config.log_every = 100  # In steps, as are the next two.
    config.eval_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 3
    config.tensorboard = False
    return config


def check_workdir(workdir: str | os.PathLike[str], config: ConfigDict) -> None:
    """Claims a workdir for a run, or refuses one that is of another run.

    Fields that its `config.json` lacks, because a later version brought them, count as
    their defaults: until then there was no other way.

    Raises:
      ValueError: as `srigl_jax.workdir.check_config`.
    """
    workdir_lib.check_config(workdir, config.to_dict(), **_accepted())


def differing(
    saved: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """The fields that may change a result and in which a saved config differs.

    Args:
      saved: of this version or an earlier one, of JSON's types as the other.
      config: that of now.

    Returns:
      As `srigl_jax.workdir.differing`.
    """
    return workdir_lib.differing(saved, config, **_accepted())


def read_saved(fields: Mapping[str, Any]) -> ConfigDict:
    """The config of a run from its `config.json`, of this version or an earlier one.

    Raises:
      ValueError: as `validate`; one that is no mapping of fields.
    """
    try:
        config = ConfigDict(workdir_lib.with_defaults(fields, _defaults()))
        validate(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it holds no fields and their values: {error}") from error
    return config


def _accepted() -> dict[str, Any]:
    """What may differ from a saved config, and what fields count as that it lacks."""
    return {"ignore": VIEW_FIELDS, "defaults": _defaults()}


def _defaults() -> dict[str, Any]:
    """Of all fields but the network's options, which are of one network."""
    fields = get_config().to_dict()
    del fields["model"]
    return fields


def load_config(config: str) -> ConfigDict:
    """The config of a file, as `--config` has it.

    A file that starts from one beside it names that by its own `__file__`.

    Args:
      config: "configs/name.py", or "configs/name.py:argument".
    """
    path, colon, argument = config.partition(".py:")
    path += ".py" if colon else ""
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*filter(None, [argument]))


def validate(config: ConfigDict) -> None:
    """Checks all that can be checked before data and model are there.

    Raises:
      ValueError: names the field, its value, and what is accepted.
    """
    _check_fields(config)
    check_choice("method", config.method, METHODS)
    check_choice("distribution", config.distribution, DISTRIBUTIONS)
    check_choice("growth_candidates", config.growth_candidates, ("inactive", "all"))
    check_choice("dataset.name", config.dataset.name, DATASETS)
    check_choice("model.name", config.model.name, MODELS)
    _check_model(config.model)
    check_choice("dtype", config.dtype, DTYPES)
    check_sparsity(config.sparsity)
    check_within("gamma_sal", config.gamma_sal, 0, 1)
    check_within("alpha", config.alpha, 0, 1)
    if not 0 < config.t_end <= 1:
        raise ValueError(
            f"t_end is {config.t_end}: give a share of the training above 0, up to 1; "
            "for a topology that never changes choose method=static"
        )
    check_within("label_smoothing", config.label_smoothing, 0, 1)
    check_within("seed", config.seed, 0, 2**31 - 1)
    check_within("dataset.validation", config.dataset.validation, 0)
    _check_data(config.dataset)
    _check_augment(config.augment)
    at_least_one = ("batch_size", "accumulate", "delta_t", "gradient_window")
    at_least_one += ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    for name in at_least_one:
        check_within(name, config[name], 1)
    if not 0 < config.epochs < math.inf:
        raise ValueError(f"epochs is {config.epochs}: give a number above 0")
    for name, size in config.mesh.items():
        if size is not None:
            check_within(f"mesh.{name}", size, 1)
    if config.batch_size % config.accumulate:
        raise ValueError(
            f"accumulate is {config.accumulate}: give a number of micro-batches that "
            f"divides batch_size, {config.batch_size}"
        )
    if not 0 <= config.ema < 1:
        raise ValueError(
            f"ema is {config.ema}: give a decay from 0 to below 1; 0 is off, 0.999 "
            "averages over some 1,000 steps"
        )
    _check_optimizer(config.optimizer, config.epochs)
    _check_method(config)


def _check_method(config) -> None:
    """Refuses fields that the method could not follow."""
    method, pruning = config.method, config.pruning
    check_within("pruning.start", pruning.start, 0, 1)
    check_within("pruning.ste_decay", pruning.ste_decay, 0)
    check_within("pruning.rounds", pruning.rounds, 1)
    if not pruning.start <= pruning.end < 1:
        raise ValueError(
            f"pruning.end is {pruning.end}: give a share of the training from "
            f"pruning.start, {pruning.start}, to below 1"
        )
    if not 0 < config.gradient_momentum < 1:
        raise ValueError(
            f"gradient_momentum is {config.gradient_momentum}: give a number above 0 "
            "and below 1; without one, snfs is rigl"
        )
    if method == "snfs" and config.gradient_window > 1:
        raise ValueError(
            f"gradient_window is {config.gradient_window}, but snfs grows by the sum "
            "of all gradients: leave it at 1"
        )
    if config.distribution == "global" and method not in ("dense", *RANKING):
        raise ValueError(
            f"distribution is global, but {method} ranks no weights of different "
            f"layers: choose erk or uniform, or a method of {', '.join(RANKING)}"
        )
    if config.mask_from is not None and method != "static":
        raise ValueError(
            f"mask_from is {config.mask_from!r}, but {method} has masks of its own: "
            "choose method=static"
        )
    if pruning.rewind_step is not None:
        check_within("pruning.rewind_step", pruning.rewind_step, 0)
        if method not in ("static", "lottery"):
            raise ValueError(
                f"pruning.rewind_step is {pruning.rewind_step}, but {method} does not "
                "rewind: choose method=lottery"
            )
    if config.block is not None:
        check_within("block", config.block, 1)
        if method not in BLOCKED:
            raise ValueError(
                f"block is {config.block}, but N:M sparsity needs method=srigl or "
                f"sr_ste, not {method}"
            )


def unknown_field(field: str) -> str:
    """What to tell of a field that does not exist: its closest relative, if any."""
    group, _, name = field.rpartition(".")

    def likeness(known):
        known_group, _, known_name = known.rpartition(".")
        ratio = difflib.SequenceMatcher(None, name, known_name).ratio()
        # "lr" for learning_rate.
        letters = iter(known_name)
        is_short = (group, name[:1]) == (known_group, known_name[:1])
        is_short = is_short and all(letter in letters for letter in name)
        return max(ratio, 0.6 * is_short), group == known_group

    close = max(_fields(get_config()), key=likeness)
    hint = "see srigl_jax/config.py"
    if likeness(close)[0] >= 0.6:
        hint = f"did you mean {close}?"
    return f"there is no config field {field}: {hint}"


def _check_fields(config) -> None:
    """Refuses what no default has, which a file can set by mistake."""
    known, found = set(_fields(get_config())), set(_fields(config))
    for field in sorted(found - known):
        raise ValueError(unknown_field(field))
    if missing := sorted(known - found):
        raise ValueError(
            f"the config lacks the fields {missing}: start from "
            "srigl_jax.config.get_config() and change what should differ"
        )


def _fields(config, prefix="") -> Iterator[str]:
    for name, value in config.items():
        if not isinstance(value, ConfigDict):
            yield prefix + name
        elif name == "model":  # Its options are those of the network.
            yield from (f"model.{key}" for key in value if key == "name")
        else:
            yield from _fields(value, f"{prefix}{name}.")


def _check_optimizer(optimizer, epochs) -> None:
    check_choice("optimizer.name", optimizer.name, OPTIMIZERS)
    check_choice("optimizer.schedule", optimizer.schedule, SCHEDULES)
    check_within("optimizer.momentum", optimizer.momentum, 0, 1)
    check_within("optimizer.learning_rate", optimizer.learning_rate, 0)
    check_within("optimizer.weight_decay", optimizer.weight_decay, 0)
    check_within("optimizer.clip_norm", optimizer.clip_norm, 0)
    check_within("optimizer.decay_factor", optimizer.decay_factor, 0, 1)
    check_within("optimizer.warmup_epochs", optimizer.warmup_epochs, 0)
    if optimizer.reference_batch is not None:
        check_within("optimizer.reference_batch", optimizer.reference_batch, 1)
    if optimizer.warmup_epochs >= epochs:
        raise ValueError(
            f"optimizer.warmup_epochs is {optimizer.warmup_epochs}: give fewer than "
            f"epochs, {epochs}"
        )
    if not optimizer.decay_every > 0:
        raise ValueError(
            f"optimizer.decay_every is {optimizer.decay_every}: give a number of "
            "epochs above 0"
        )
    at = optimizer.decay_at
    if not all(isinstance(epoch, int | float) and epoch > 0 for epoch in at):
        raise ValueError(f"optimizer.decay_at is {at!r}: give epochs, above 0")


def _check_data(dataset) -> None:
    check_within("dataset.workers", dataset.workers, 0)
    for name in ("classes", "examples"):
        check_within(f"dataset.{name}", dataset[name], 1)
    shape = dataset.image_shape
    sizes = shape if isinstance(shape, tuple | list) else [shape]
    if len(sizes) not in (0, 3) or not all(
        isinstance(n, int) and n >= 1 for n in sizes
    ):
        raise ValueError(
            f"dataset.image_shape is {shape!r}: give height, width and channels, or ()"
        )


def _check_augment(augment) -> None:
    for name in ("crop_padding", "randaugment", "mixup", "cutmix"):
        check_within(f"augment.{name}", augment[name], 0)
    check_within("augment.magnitude", augment.magnitude, 0, MAX_MAGNITUDE)


def _check_model(model) -> None:
    """Refuses options that the network does not take, and sizes below 1."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(
            MODELS[model.name].__init__
        ).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "rngs"
    }
    for name, value in model.items():
        if name == "name":
            continue
        if name not in known:
            raise ValueError(
                f"model.{name} is {value!r}, but {model.name} has no such option: it "
                f"takes {', '.join(known) or 'none'}. Start from a config of that "
                "network, in which only these are set"
            )
        if isinstance(known[name], bool):
            if not isinstance(value, bool):
                raise ValueError(f"model.{name} is {value!r}: give True or False")
            continue
        if isinstance(known[name], float):
            check_within(f"model.{name}", value, 0, 1)
            continue
        is_one = isinstance(known[name], int)
        sizes = value if isinstance(value, tuple | list) else [value]
        if isinstance(value, tuple | list) == is_one or not all(
            isinstance(n, int) and n >= 1 for n in sizes
        ):
            wanted = "a whole number" if is_one else "whole numbers"
            raise ValueError(f"model.{name} is {value!r}: give {wanted}, at least 1")
