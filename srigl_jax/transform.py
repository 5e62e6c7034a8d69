"""Sparsity as an optax transformation that wraps any optimizer.

`sparsify(inner, ...)` trains the weights that exist with `inner` and now and then
changes which those are. Whatever `inner` does, after `optax.apply_updates`:

* weights that a mask removes are exactly 0, and so are their moments in `inner`;
* weights that newly exist start at 0, with moments of 0.

It can promise this because it emits `-param` wherever a weight must not be. Anything
that shapes a step (clipping, decay, LARS) therefore goes inside; nothing may rescale
the updates after it. `optax.MultiSteps` goes outside.

A topology update whose gradients are not all finite is skipped: they rank nothing.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from srigl_jax.dynamics import Dynamics, Rule, Score
from srigl_jax.projection import (
    SparsityState,
    check_given_masks,
    project,
    require_params,
    reset_moments,
)
from srigl_jax.sparsity import masks as mask_lib
from srigl_jax.sparsity import schedule, topology
from srigl_jax.sparsity.plan import (
    Distribution,
    LayerPlan,
    make_plan,
    map_layers,
)


def sparsify(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    rule: Rule | None,
    total_steps: int | None = None,
    t_end: int | None = None,
    delta_t: int = 100,
    alpha: float = 0.3,
    drop_fraction: Callable[[jax.Array], jax.Array] | None = None,
    gradient_window: int = 1,
    gradient_momentum: float = 0.0,
    skip_step_on_update: bool = False,
    prune_score: Score | None = None,
    grow_score: Score | None = None,
    distribution: Distribution = "erk",
    constant_fan_in: bool = True,
    block: int | None = None,
    dense: str | Sequence[str] = (),
    last: str | Sequence[str] | None = None,
    neuron_axes: Mapping[str, tuple[int, ...]] | None = None,
    masks: Any = None,
    seed: jax.typing.ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that it trains a sparse network.

    `srigl`, `rigl`, `set_` and `static` are this function with the rule filled in.

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      rule: how a layer's mask changes: `rule(layer, weights, grads, mask, *, fraction,
        key) -> mask` with a `LayerPlan` and arrays `[fan_in, neurons]`. Layers that
        differ only in name share one vmapped call, with the plan of the first. None
        never changes a mask.
      total_steps: optimizer steps of the whole training; the topology changes during
        the first 75 % of them.
      t_end: the step from which on the topology stays, instead of `total_steps`.
      delta_t: steps from one topology update to the next.
      alpha: share of active weights replaced by an update at the start; annealed to 0
        at `t_end` by a cosine.
      drop_fraction: your own schedule of that share, `step -> fraction`, instead.
      gradient_window: growth looks at the mean gradient of so many last steps. Above
        1 the state holds another float32 for each weight of a sparse layer.
      gradient_momentum: growth looks at a running sum of the gradients instead, in
        which each step counts so many times what the next does, in [0, 1). Holds as
        much; 0 is off. Gradients that are not finite are left out of it.
      skip_step_on_update: leave the weights alone on steps that update the topology,
        as RigL's own code does.
      prune_score: `(weights, grads) -> score` whose magnitude decides which weights
        stay, instead of the weights.
      grow_score: the same for which weights grow, instead of the gradients.
      distribution: see `make_plan`, as for the next five.
      constant_fan_in: see `make_plan`.
      block: see `make_plan`.
      dense: see `make_plan`.
      last: see `make_plan`.
      neuron_axes: see `make_plan`.
      masks: initial masks, instead of random ones; the state gets copies.
      seed: i32[], of the initial masks and of random growth.

    Returns:
      A transformation whose update needs `params`. Parameters need not be masked when
      training starts: the first step does it.

    Raises:
      ValueError: an argument out of range; from `init`, whatever `make_plan` raises.

    Warns:
      UserWarning: the schedule ends before the first topology update.
    """
    if total_steps is not None and total_steps < 1:
        raise ValueError(
            f"total_steps={total_steps}: give the number of optimizer steps of the "
            "whole training"
        )
    if t_end is None:
        t_end = _default_t_end(rule, total_steps)
    _check_schedule(rule, delta_t, t_end, gradient_window)
    if not 0 <= gradient_momentum < 1 or (gradient_momentum and gradient_window > 1):
        raise ValueError(
            f"gradient_momentum={gradient_momentum} with gradient_window="
            f"{gradient_window}: give a momentum in [0, 1), and 0 with a window above 1"
        )
    if isinstance(distribution, str) and distribution == "global" and masks is None:
        raise ValueError(
            "distribution='global' needs masks=, made by a ranking of all weights: "
            "random ones have nothing to rank; use 'erk' or 'uniform'"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: give a share of weights in [0, 1]")

    def plan(params):
        return make_plan(
            params,
            sparsity,
            distribution=distribution,
            constant_fan_in=constant_fan_in,
            block=block,
            dense=dense,
            last=last,
            neuron_axes=neuron_axes,
        )

    dynamics = Dynamics(
        rule=rule,
        delta_t=delta_t,
        t_end=t_end,
        fraction=drop_fraction
        or (lambda step: schedule.drop_fraction(step, alpha, t_end)),
        window=gradient_window,
        momentum=gradient_momentum,
        prune_score=prune_score or (lambda weights, grads: weights),
        grow_score=grow_score or (lambda weights, grads: grads),
        seed=seed,
    )
    inner = optax.with_extra_args_support(inner)

    def first_masks(params, layers):
        if masks is None:
            return mask_lib.init_masks(params, layers, seed)
        check_given_masks(masks, params, layers)
        if not layers:
            return masks
        # Copies: a training step that is donated the state reuses its buffers.
        return map_layers(
            lambda _, leaf, mask: mask_lib.place_like(jnp.array(mask), leaf),
            layers,
            params,
            masks,
        )

    def init(params):
        layers = plan(params)
        return SparsityState(
            count=jnp.zeros([], jnp.int32),
            masks=first_masks(params, layers),
            inner=inner.init(params),
            gradient_sum=dynamics.init_sum(layers, params),
        )

    def update(grads, state, params=None, **extra_args):
        require_params(params)
        step, old = state.count, state.masks
        updates, inner_state = inner.update(
            mask_lib.apply_masks(grads, old), state.inner, params, **extra_args
        )
        if skip_step_on_update:
            due = dynamics.due(step)
            updates = _where(due, jax.tree.map(jnp.zeros_like, updates), updates)
            inner_state = _where(due, state.inner, inner_state)
        new, gradient_sum = dynamics.update(
            plan(params), step, params, updates, grads, old, state.gradient_sum
        )
        return project(updates, params, old, new), SparsityState(
            count=optax.safe_increment(step),
            masks=new,
            inner=reset_moments(inner, inner_state, new),
            gradient_sum=gradient_sum,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def srigl(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    gamma_sal: float = 0.3,
    growth_candidates: Literal["inactive", "all"] = "inactive",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Dynamic sparse training to a constant fan-in, with neuron ablation (SRigL).

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      gamma_sal: a neuron with fewer than this share of its fan-in salient is ablated;
        0 turns ablation off.
      growth_candidates: see `topology.srigl`.
      **options: of `sparsify`; `total_steps` (or `t_end`) is required. `block=M` gives
        N:M sparsity.

    Returns:
      An optax transformation, see `sparsify`.

    Raises:
      ValueError: as `sparsify`; gamma_sal outside [0, 1].
    """
    if not options.get("constant_fan_in", True):
        raise ValueError(
            "srigl(constant_fan_in=False): SRigL's fan-in is constant; for an "
            "unstructured network use rigl"
        )
    if not isinstance(gamma_sal, jax.core.Tracer) and not 0 <= gamma_sal <= 1:
        raise ValueError(
            f"gamma_sal={gamma_sal}: give a share of the fan-in in [0, 1], for example "
            "0.3; 0 turns ablation off"
        )

    def rule(layer: LayerPlan, weights, grads, mask, *, fraction, key):
        return topology.srigl(
            weights,
            grads,
            mask,
            fraction=fraction,
            budget=layer.budget,
            fan_in=layer.fan_in,
            gamma_sal=gamma_sal if layer.may_ablate else 0.0,
            growth_candidates=growth_candidates,
            block=layer.block,
        )

    return sparsify(inner, sparsity, rule=rule, **options)


def rigl(
    inner: optax.GradientTransformation, sparsity: float, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Unstructured dynamic sparse training, growth by gradient (RigL).

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      **options: of `sparsify`; `total_steps` (or `t_end`) is required.

    Returns:
      An optax transformation, see `sparsify`.

    Raises:
      ValueError: as `sparsify`; `constant_fan_in` or `block`, which it cannot keep.
    """
    options = _unstructured("rigl", options)

    def rule(layer, weights, grads, mask, *, fraction, key):
        return topology.rigl(weights, grads, mask, fraction=fraction)

    return sparsify(inner, sparsity, rule=rule, **options)


def set_(
    inner: optax.GradientTransformation, sparsity: float, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Unstructured dynamic sparse training, growth at random (SET).

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      **options: of `sparsify`; `total_steps` (or `t_end`) is required.

    Returns:
      An optax transformation, see `sparsify`.

    Raises:
      ValueError: as `sparsify`; `constant_fan_in` or `block`, which it cannot keep.
    """
    options = _unstructured("set_", options)

    def rule(layer, weights, grads, mask, *, fraction, key):
        return topology.set_(weights, mask, fraction=fraction, key=key)

    return sparsify(inner, sparsity, rule=rule, **options)


def snfs(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    momentum: float = 0.9,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Unstructured dynamic sparse training, growth by momentum.

    RigL with another score: the running sum of the dense gradients, as in Sparse
    Networks from Scratch (Dettmers & Zettlemoyer, arXiv 1907.04840). Unlike there,
    weights do not move from layer to layer. The sum is another float32 for each weight
    of a sparse layer, whatever the sparsity, and needs the dense gradient every step.

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      momentum: decay of the sum, above 0 and below 1.
      **options: of `sparsify`; `total_steps` (or `t_end`) is required.

    Returns:
      An optax transformation, see `sparsify`.

    Raises:
      ValueError: as `rigl`; momentum out of range.
    """
    if not 0 < momentum < 1:
        raise ValueError(
            f"momentum={momentum}: give a number above 0 and below 1; without one it "
            "is rigl"
        )
    return rigl(inner, sparsity, gradient_momentum=momentum, **options)


def static(
    inner: optax.GradientTransformation, sparsity: float | None = None, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Trains a network whose initial masks never change.

    Args:
      inner: any optax optimizer.
      sparsity: share of the kernels' weights to remove, in [0, 1), at random. Not
        needed with `masks`, which may come from anywhere: a pruned network, `snip`, a
        lottery ticket.
      **options: of `sparsify`; `constant_fan_in=True` gives each neuron as many inputs.

    Returns:
      An optax transformation, see `sparsify`.

    Raises:
      ValueError: as `sparsify`; neither sparsity nor masks.
    """
    options = {"constant_fan_in": False} | options
    if sparsity is None:
        masks = options.get("masks")
        if masks is None:
            raise ValueError("static: give the sparsity, or the masks")
        sparsity = 0.0
        options |= {
            "masks": mask_lib.without_full_masks(masks),
            "distribution": mask_lib.densities_of(masks),
        }
    return sparsify(inner, sparsity, rule=None, **options)


def _unstructured(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a rule that only keeps each layer's number of weights."""
    for option in ("constant_fan_in", "block"):
        if options.get(option):
            raise ValueError(
                f"{name}({option}={options[option]}): it moves weights from neuron to "
                "neuron; for a constant fan-in or N:M sparsity use srigl"
            )
    return options | {"constant_fan_in": False}


def _default_t_end(rule: Rule | None, total_steps: int | None) -> int:
    if total_steps is not None:
        return schedule.t_end(total_steps)
    if rule is None:
        return 0
    raise ValueError(
        "give total_steps, the number of optimizer steps of the whole training (the "
        "topology changes during the first 75 % of them), or t_end"
    )


def _check_schedule(rule, delta_t, t_end, gradient_window) -> None:
    if delta_t < 1:
        raise ValueError(
            f"delta_t={delta_t}: give the steps from one topology update to the next, "
            "at least 1"
        )
    if t_end < 0:
        raise ValueError(f"t_end={t_end}: give a step, 0 or later")
    if not 1 <= gradient_window <= delta_t:
        raise ValueError(
            f"gradient_window={gradient_window} and delta_t={delta_t}: a window has at "
            "least 1 step and no more than delta_t"
        )
    if rule is not None and t_end <= delta_t:
        warnings.warn(
            f"the topology will never change: updates come every delta_t={delta_t} "
            f"steps, and before step t_end={t_end} (75 % of total_steps unless given); "
            "lower delta_t, raise t_end or train for longer",
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """The `stacklevel` of whoever called this module, directly or through `srigl`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals is globals():
        frame, level = frame.f_back, level + 1
    return level


def _where(condition, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
