"""What a config describes, built: the network, its state, its training step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

import srigl_jax
from srigl_jax import data, methods, models
from srigl_jax.data.augment import Augment, make_augment
from srigl_jax.sparsity import Plan
from srigl_jax.sparsity.exploration import explore, nothing_explored
from srigl_jax.step import Forward, State, TrainStep, make_train_step


def make_model(config: ConfigDict, dataset: data.Dataset) -> nnx.Module:
    """The network that the config names, for the images and classes of the data."""
    options = config.model.to_dict()
    return models.create(
        options.pop("name"),
        dataset.image_shape,
        dataset.num_classes,
        rngs=nnx.Rngs(config.seed),
        **options,
    )


def init_state(
    config: ConfigDict,
    params: Any,
    model_state: Any,
    plan: Plan,
    optimizer: optax.GradientTransformation,
    masks: Any,
) -> State:
    """The state before the first step: sparse weights, scaled to their fan-in.

    Pretrained ones keep their values where the masks let them, and so do those that
    SNIP and GraSP have ranked, and all without `sparse_init`. What starts dense has the
    weights of dense training.
    """
    weight_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    if config.method in methods.STARTS_DENSE:
        opt_state = optimizer.init(params)
        masks = srigl_jax.get_masks(opt_state)
        params = srigl_jax.apply_masks(params, masks)
    else:
        is_drawn = config.pretrained is None and config.method not in ("snip", "grasp")
        if is_drawn and config.sparse_init:
            params = srigl_jax.sparse_he_normal(weight_key, params, masks, plan)
        else:
            params = srigl_jax.apply_masks(params, masks)
        opt_state = optimizer.init(params)
    state = {
        "params": params,
        "model_state": model_state,
        "opt_state": opt_state,
        "rng": jax.random.key_data(dropout_key),
        "step": jnp.zeros([], jnp.int32),
    }
    if config.track_exploration and config.method in methods.DYNAMIC:
        state["explored"] = explore(nothing_explored(plan), masks, plan)
    if config.ema:
        averaged = {"params": params, "model_state": model_state}
        # Copies, because a training step is given each buffer to reuse, once.
        state["ema"] = jax.tree.map(jnp.copy, averaged)
    return state


def make_config_augment(config: ConfigDict, dataset: data.Dataset) -> Augment | None:
    """The augmentation of a config, for the images and classes of the data.

    Raises:
      ValueError: the images cannot be augmented so.
    """
    return make_augment(
        dataset.image_shape, dataset.num_classes, **config.augment.to_dict()
    )


def make_config_step(
    config: ConfigDict,
    augment: Augment | None,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    **placement: Any,
) -> TrainStep:
    """The training step of a config: its loss, accumulation and averages.

    Args:
      config: of the run.
      augment: of `make_config_augment`.
      forward: of the network.
      optimizer: of the config, sparse or not.
      **placement: `shardings` and `copied` of `srigl_jax.step.make_train_step`.
    """
    return make_train_step(
        forward,
        optimizer,
        label_smoothing=config.label_smoothing,
        augment=augment,
        accumulate=config.accumulate,
        ema=config.ema,
        masks_of=None if config.method == "dense" else srigl_jax.get_masks,
        **placement,
    )
