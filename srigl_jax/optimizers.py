"""The optimizer that a config names: learning rate, descent, and sparsity around them.

Fields count in epochs and this module in optimizer steps, each of a whole batch:
micro-batches are added up before an optimizer sees them, so the topology's `delta_t`
and `gradient_window` count whole batches too.
"""

from typing import Any

import optax
from ml_collections import ConfigDict

from srigl_jax.methods import make_sparse


def make_optimizer(
    config: ConfigDict, total_steps: int, steps_per_epoch: int, masks: Any = None
) -> optax.GradientTransformation:
    """The optimizer that the config names, wrapped so that it trains sparsely.

    Args:
      config: fields as in `srigl_jax.config.get_config`.
      total_steps: optimizer steps of the whole training.
      steps_per_epoch: of these, those of an epoch.
      masks: see `methods.make_sparse`.

    Raises:
      ValueError: as `methods.make_sparse`.
    """
    inner = make_inner(config, total_steps, steps_per_epoch)
    return make_sparse(config, inner, total_steps, masks)


def make_inner(
    config: ConfigDict, total_steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The descent that the config names, dense: it is what `sparsify` wraps.

    The gradient is clipped before the optimizer sees it and before weights decay, to
    `optimizer.clip_norm`. Sparse training shows it the gradient of the weights that
    exist, whose norm it is then.
    """
    fields = config.optimizer
    learning_rate = make_learning_rate(config, total_steps, steps_per_epoch)
    descent = OPTIMIZERS[fields.name](fields, learning_rate)
    if not fields.clip_norm:
        return descent
    return optax.chain(optax.clip_by_global_norm(fields.clip_norm), descent)


def make_learning_rate(
    config: ConfigDict, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    It rises from 0 in `optimizer.warmup_epochs`, linearly, to its peak:
    `optimizer.learning_rate`, times batch_size / `optimizer.reference_batch` where
    that is given. From there on:

    - "cosine": to 0 at the last step.
    - "step": times `decay_factor` after every `decay_every` epochs.
    - "multistep": times `decay_factor` at each epoch of `decay_at`.

    These epochs count from the start of training, the warm-up included.
    """
    fields = config.optimizer
    peak = fields.learning_rate
    if fields.reference_batch is not None:
        peak *= config.batch_size / fields.reference_batch
    return SCHEDULES[fields.schedule](fields, peak, total_steps, steps_per_epoch)


def _cosine(fields, peak, total_steps, steps_per_epoch) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        0.0,
        peak,
        warmup_steps=int(fields.warmup_epochs * steps_per_epoch),
        decay_steps=total_steps,
    )


def _step(fields, peak, total_steps, steps_per_epoch) -> optax.Schedule:
    decay = optax.exponential_decay(
        peak,
        transition_steps=max(1, round(fields.decay_every * steps_per_epoch)),
        decay_rate=fields.decay_factor,
        staircase=True,
    )
    return _warmed_up(fields, peak, decay, steps_per_epoch)


def _multistep(fields, peak, total_steps, steps_per_epoch) -> optax.Schedule:
    factors: dict[int, float] = {}
    for epoch in fields.decay_at:
        step = round(epoch * steps_per_epoch)
        factors[step] = factors.get(step, 1.0) * fields.decay_factor
    decay = optax.piecewise_constant_schedule(peak, factors)
    return _warmed_up(fields, peak, decay, steps_per_epoch)


def _warmed_up(fields, peak, decay, steps_per_epoch) -> optax.Schedule:
    """The decay with its beginning replaced; steps count from 0 in both."""
    steps = int(fields.warmup_epochs * steps_per_epoch)
    if steps == 0:
        return decay
    # What is joined starts counting at 0 anew.
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, steps), lambda step: decay(step + steps)],
        [steps],
    )


def _sgd(fields, learning_rate) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.sgd(learning_rate, momentum=fields.momentum, nesterov=True),
    )


def _adamw(fields, learning_rate) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=fields.weight_decay)


def _rmsprop(fields, learning_rate) -> optax.GradientTransformation:
    """RMSprop as MobileNetV3 is trained with it in PyTorch.

    That adds epsilon to the root, and applies the learning rate after the momentum;
    `optax.rmsprop` would apply it before.
    """
    return optax.chain(
        optax.add_decayed_weights(fields.weight_decay),
        optax.scale_by_rms(decay=0.9, eps=0.0316, eps_in_sqrt=False),
        optax.trace(fields.momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


SCHEDULES = {"cosine": _cosine, "step": _step, "multistep": _multistep}
OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw, "rmsprop": _rmsprop}
