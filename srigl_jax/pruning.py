"""Training that starts dense and ends sparse, around any optax optimizer.

`prune` removes weights by magnitude, or whole neurons by norm, once or bit by bit; what
it removed stays exactly 0, moments included. `sr_ste` trains towards N:M sparsity, or a
constant fan-in, by masks of weights that it never forgets.

Both keep masks where `srigl_jax.get_masks` finds them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from srigl_jax.projection import (
    SparsityState,
    project,
    require_params,
    reset_moments,
)
from srigl_jax.sparsity.masks import apply_masks, full_masks, is_masked_node
from srigl_jax.sparsity.plan import Distribution, Plan, make_plan, map_layers
from srigl_jax.sparsity.ranking import keep_best
from srigl_jax.sparsity.schedule import pruning_due, pruning_progress


def prune(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    start: int,
    end: int | None = None,
    delta_t: int = 100,
    whole_neurons: bool = False,
    distribution: Distribution = "erk",
    dense: str | Sequence[str] = (),
    last: str | Sequence[str] | None = None,
    neuron_axes: Mapping[str, tuple[int, ...]] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Prunes a dense network while it trains, or once, with fine-tuning after it.

    Gradual magnitude pruning (Zhu & Gupta, arXiv 1710.01878): the share that is removed
    grows by their cubic schedule. `end=None` is one-shot pruning. Weights are compared
    after the optimizer's step; what is removed never comes back.

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove in the end, in [0, 1).
      start: 0-based step at which the schedule starts at 0; without `end`, the step
        after which everything is removed at once.
      end: the step after which the sparsity is reached, exactly.
      delta_t: steps from one pruning to the next; `end` is one whatever it is.
      whole_neurons: remove whole neurons, or channels, by the norm of their weights.
        Budgets are in weights: a layer keeps as many neurons as fit. Output layers are
        left dense.
      distribution: as of `make_plan`, which see for the next three, too. With "global"
        all layers are ranked together; each keeps at least its best weight or neuron.
      dense: see `make_plan`.
      last: see `make_plan`.
      neuron_axes: see `make_plan`.

    Returns:
      A transformation whose update needs `params`.

    Raises:
      ValueError: steps out of order; from `init`, whatever `make_plan` raises.
    """
    end = start if end is None else end
    for name, step in (("start", start), ("end", end)):
        if int(step) != step:
            raise ValueError(f"{name}={step}: give a step, a whole number, not a share")
    if not 0 <= start <= end or delta_t < 1:
        raise ValueError(
            f"start={start}, end={end}, delta_t={delta_t}: give steps with 0 <= start "
            "<= end, and at least one from one pruning to the next"
        )
    plan = partial(
        make_plan,
        sparsity=sparsity,
        distribution=distribution,
        constant_fan_in=False,
        whole_neurons=whole_neurons,
        dense=dense,
        last=last,
        neuron_axes=neuron_axes,
    )
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return SparsityState(
            count=jnp.zeros([], jnp.int32),
            masks=full_masks(params, plan(params)),
            inner=inner.init(params),
            gradient_sum=(),
        )

    def update(grads, state, params=None, **extra_args):
        require_params(params)
        step, old = state.count, state.masks
        updates, inner_state = inner.update(
            apply_masks(grads, old), state.inner, params, **extra_args
        )

        def pruned():
            return keep_best(
                optax.apply_updates(params, updates),
                plan(params),
                progress=pruning_progress(step, start, end),
                within=old,
            )

        due = pruning_due(step, start, end, delta_t)
        new = jax.lax.cond(due, pruned, lambda: old)
        return project(updates, params, old, new), SparsityState(
            count=optax.safe_increment(step),
            masks=new,
            inner=reset_moments(inner, inner_state, new),
            gradient_sum=(),
        )

    return optax.GradientTransformationExtraArgs(init, update)


class StraightThroughState(NamedTuple):
    """What `sr_ste` keeps where other sparse optimizers have their inner state.

    Attributes:
      weights: like the parameters, those of sparse layers with none removed;
        `MaskedNode` for dense leaves.
      inner: state of the wrapped optimizer, which trains these.
    """

    weights: Any
    inner: optax.OptState


def sr_ste(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    decay: float = 2e-4,
    block: int | None = None,
    distribution: Distribution = "erk",
    dense: str | Sequence[str] = (),
    last: str | Sequence[str] | None = None,
    neuron_axes: Mapping[str, tuple[int, ...]] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains an N:M sparse network by straight-through gradients (SR-STE).

    Zhou et al. (arXiv 2102.04010): every step the weights `w` of largest magnitude in
    each block make the mask `m`. The network computes with `m * w`, and all of `w` is
    trained, by the gradient there plus `decay * (1 - m) * w`, which keeps removed
    weights from coming back too easily.

    The optimizer's state holds `w`, and the parameters are `m * w`: they are exactly
    N:M after every step, and the forward pass needs no mask. Memory is another copy of
    the weights of sparse layers; moments are those of `w` and hence dense.

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      decay: lambda of the paper, at least 0; 0 is the plain straight-through estimator.
      block: M of N:M; None is one block of the whole fan-in: a constant fan-in.
      distribution: see `make_plan`, as for the next three.
      dense: see `make_plan`.
      last: see `make_plan`.
      neuron_axes: see `make_plan`.

    Returns:
      A transformation whose update needs `params`. `init` takes the dense weights; mask
      the parameters with `apply_masks(params, get_masks(state))` before the first step,
      or it sees the dense network once.

    Raises:
      ValueError: a negative decay; from `init`, whatever `make_plan` raises.
    """
    if not decay >= 0:
        raise ValueError(f"decay={decay}: give a number, at least 0, such as 2e-4")
    plan = partial(
        make_plan,
        sparsity=sparsity,
        distribution=distribution,
        block=block,
        dense=dense,
        last=last,
        neuron_axes=neuron_axes,
    )
    inner = optax.with_extra_args_support(inner)

    def init(params):
        layers = plan(params)
        weights = map_layers(lambda _, leaf: jnp.array(leaf, copy=True), layers, params)
        return SparsityState(
            count=jnp.zeros([], jnp.int32),
            masks=keep_best(params, layers),
            inner=StraightThroughState(weights, inner.init(params)),
            gradient_sum=(),
        )

    def update(grads, state, params=None, **extra_args):
        require_params(params)
        masks = state.masks
        weights = _choose(params, state.inner.weights)
        updates, inner_state = inner.update(
            _add_decay(grads, weights, masks, decay),
            state.inner.inner,
            weights,
            **extra_args,
        )
        weights = optax.apply_updates(weights, updates)
        layers = plan(params)
        masks = keep_best(weights, layers)

        def land(update, param, weight, mask):
            if is_masked_node(mask):
                return update
            return jnp.where(mask, weight - param, -param)

        return jax.tree.map(land, updates, params, weights, masks), SparsityState(
            count=optax.safe_increment(state.count),
            masks=masks,
            inner=StraightThroughState(
                map_layers(lambda _, leaf: leaf, layers, weights), inner_state
            ),
            gradient_sum=(),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def ticket(params: Any, rewound: Any, plan: Plan, masks: Any = None) -> tuple[Any, Any]:
    """One round of iterative magnitude pruning: a lottery ticket.

    Frankle & Carbin (arXiv 1803.03635); Frankle et al. (arXiv 1912.05671) for rewinding
    to a step after the first.

    Args:
      params: trained; their magnitudes decide.
      rewound: what those that are kept go back to: the initial parameters, or those
        after a few steps.
      plan: what the ticket may have, made with `constant_fan_in=False`. A round of 20 %
        at sparsity s has `1 - 0.8 * (1 - s)`.
      masks: of the round before; nothing comes back. `optax.MaskedNode()` is a layer
        that was dense, None a network that was.

    Returns:
      `(masks, weights)`: of the ticket. Train them as fixed ones, with
      `static(inner, masks=masks)`.
    """
    masks = keep_best(params, plan, within=masks)
    return masks, apply_masks(rewound, masks)


def _choose(params, weights):
    """The weights of sparse layers, the parameters elsewhere."""
    return jax.tree.map(lambda p, w: p if is_masked_node(w) else w, params, weights)


def _add_decay(grads, weights, masks, decay):
    def add(grad, weight, mask):
        if is_masked_node(mask):
            return grad
        return grad + jnp.where(mask, 0, decay * weight).astype(grad.dtype)

    return jax.tree.map(add, grads, weights, masks)
