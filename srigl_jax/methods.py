"""What the config's `method` stands for: the sparse optimizer, its plan, its calendar.

| method | masks |
|---|---|
| dense | none |
| static | random, or those of `mask_from`; never change |
| set, rigl, snfs, srigl | random; change while it trains |
| one_shot, gradual | full at first; pruned by magnitude |
| neurons | full at first; whole neurons are pruned by norm |
| sr_ste | N:M by magnitude, anew every step, of weights that are never forgotten |
| snip, grasp | by the gradients of the first batch; never change |
| lottery | by rounds of training, pruning and rewinding; never change in the last one |
"""

import math
from typing import Any

import optax
from ml_collections import ConfigDict

from srigl_jax import pruning, transform
from srigl_jax.sparsity import schedule
from srigl_jax.sparsity.masks import densities_of

FIXED = ("static", "snip", "grasp", "lottery")
DYNAMIC = ("set", "rigl", "snfs", "srigl")
PRUNING = ("one_shot", "gradual", "neurons")
STARTS_DENSE = (*PRUNING, "sr_ste")
METHODS = ("dense", *FIXED, *DYNAMIC, *STARTS_DENSE)

# Rank weights of all layers together, where the distribution is "global".
RANKING = ("snip", "grasp", "lottery", *PRUNING)
BLOCKED = ("srigl", "sr_ste")


def make_sparse(
    config: ConfigDict,
    inner: optax.GradientTransformation,
    total_steps: int,
    masks: Any = None,
) -> optax.GradientTransformation:
    """Wraps an optimizer in what the config's method is.

    Args:
      config: fields as in `srigl_jax.config.get_config`.
      inner: trains the weights that exist.
      total_steps: optimizer steps of the whole training.
      masks: those to start from; methods whose masks never change need them, but for
        `static` without `mask_from`.

    Raises:
      ValueError: as the transforms.
    """
    if config.method == "dense":
        return inner
    options = plan_options(config)
    if config.method in ("snip", "grasp") and masks is not None:
        # By the plan: a layer that a global ranking leaves whole keeps its mask.
        del options["block"]
        return transform.static(inner, masks=masks, **options)
    if config.method in FIXED and masks is not None:
        return transform.static(inner, masks=masks)
    if config.method in STARTS_DENSE:
        del options["constant_fan_in"]
        if config.method == "sr_ste":
            return pruning.sr_ste(inner, decay=config.pruning.ste_decay, **options)
        del options["block"]
        start, end = pruning_steps(config, total_steps)
        return pruning.prune(
            inner, start=start, end=end, delta_t=config.delta_t, **options
        )
    options |= {"seed": config.seed}
    if config.method == "static":
        return transform.static(inner, **options)
    options |= {
        "total_steps": total_steps,
        "delta_t": config.delta_t,
        "t_end": schedule.t_end(total_steps, config.t_end),
        "alpha": config.alpha,
        "gradient_window": config.gradient_window,
    }
    if config.method == "set":
        return transform.set_(inner, **options)
    if config.method == "rigl":
        return transform.rigl(inner, **options)
    if config.method == "snfs":
        return transform.snfs(inner, momentum=config.gradient_momentum, **options)
    if config.method == "srigl":
        return transform.srigl(
            inner,
            gamma_sal=config.gamma_sal if config.ablation else 0.0,
            growth_candidates=config.growth_candidates,
            **options,
        )
    raise ValueError(f"method={config.method} needs masks to start from")


def plan_options(config: ConfigDict, given: Any = None) -> dict[str, Any]:
    """What `make_plan` and the transforms are given of the config.

    Args:
      config: fields as in `srigl_jax.config.get_config`.
      given: masks by the layers' names that the plan shall have the densities of,
        where the run starts from some.
    """
    is_blocked = config.method in BLOCKED
    options = {
        "sparsity": 0.0 if config.method == "dense" else config.sparsity,
        "distribution": config.distribution,
        "constant_fan_in": is_blocked,
        "block": config.block if is_blocked else None,
        "dense": config.dense,
    }
    if config.method == "neurons":
        options["whole_neurons"] = True
    if given is not None:
        options |= {"sparsity": 0.0, "distribution": densities_of(given), "dense": ()}
    return options


def pruning_steps(config: ConfigDict, total_steps: int) -> tuple[int, int]:
    """The first and the last step at which a dense network is pruned, 0-based."""
    start, end = (
        math.floor(share * total_steps + 1e-6)
        for share in (config.pruning.start, config.pruning.end)
    )
    return (start if config.method == "gradual" else end), end


def topology_due(config: ConfigDict, step: int, total_steps: int) -> bool:
    """Whether the masks after this step, 0-based, are worth a record."""
    if config.method in DYNAMIC:
        t_end = schedule.t_end(total_steps, config.t_end)
        return schedule.update_due(step, config.delta_t, t_end)
    if config.method in PRUNING:
        start, end = pruning_steps(config, total_steps)
        return schedule.pruning_due(step, start, end, config.delta_t)
    return config.method == "sr_ste" and step > 0 and step % config.delta_t == 0


def removed_shares(config: ConfigDict, steps: int, total_steps: int) -> list[float]:
    """What is gone of all that the method removes, while it trains.

    Returns:
      A share for each of so many steps of a method that prunes; for each round, the
      last included, of `lottery`; [] for others.
    """
    if config.method == "lottery":
        rounds = range(config.pruning.rounds + 1)
        return [round_sparsity(config, r) / (config.sparsity or 1) for r in rounds]
    if config.method not in PRUNING:
        return []
    start, end = pruning_steps(config, total_steps)
    shares, share = [], 0.0
    for step in range(steps):
        shares.append(share)
        if schedule.pruning_due(step, start, end, config.delta_t):
            share = float(schedule.pruning_progress(step, start, end))
    return shares


def round_sparsity(config: ConfigDict, number: int) -> float:
    """The sparsity that a round of `lottery` trains at; each removes the same share."""
    if number == config.pruning.rounds:
        return config.sparsity
    return 1 - (1 - config.sparsity) ** (number / config.pruning.rounds)
