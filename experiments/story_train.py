"""Trains a network with several seeds at once: the trainer's steps, without its pauses.

An epoch is one compiled loop over steps, in which nothing goes back to Python, and the
seeds are an axis of its arrays: `vmap` computes all at each step, `map` takes one after
the other through the loop. On a CPU convolutions within a compiled loop are many times
slower than outside: in the mode `steps` only a step is compiled. The program holds
neither data nor seeds, and often not even the sparsity, so JAX's persistent cache finds
what another cell has compiled.

What is computed is what `srigl_jax.train` computes, from the same parts of the library:
each seed has its initial weights, masks, order of batches and random growth.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import srigl_jax
from srigl_jax import data, lottery, methods, starts
from srigl_jax.data.batches import batch_indices
from srigl_jax.optimizers import make_optimizer
from srigl_jax.parts import (
    init_state,
    make_config_augment,
    make_config_step,
    make_model,
)
from srigl_jax.sparsity import Plan, make_plan
from srigl_jax.step import (
    Forward,
    State,
    make_evaluate,
    make_forward,
    split_model,
    state_masks,
)

Mode = Literal["vmap", "map", "steps"]
Progress = Callable[[str], None]

_EVAL_BATCH = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """One seed, trained.

    Attributes:
      config: its own, with its seed.
      plan: of its parameters.
      state: after the last step.
      scores: loss and accuracy on the test split, or on what was held out; the loss
        of a network that diverged is not finite.
    """

    config: ConfigDict
    plan: Plan
    state: State
    scores: dict[str, float]

    @property
    def masks(self) -> Any:
        """Like the parameters."""
        return state_masks(self.state, self.plan)


@dataclasses.dataclass(frozen=True, eq=False)
class _Seed:
    """One seed before its first step."""

    config: ConfigDict
    plan: Plan
    masks: Any
    state: State


def train_seeds(
    config: ConfigDict,
    seeds: Sequence[int],
    dataset: data.InMemoryDataset,
    *,
    mode: Mode = "vmap",
    progress: Progress = lambda what: None,
) -> list[Trained]:
    """Trains the run that a config describes with each of some seeds.

    Args:
      config: fields as in `srigl_jax.config.get_config`; its seed does not count.
      seeds: in the order of the result.
      dataset: as the config names it.
      mode: see the module.
      progress: is told what has been done.

    Raises:
      ValueError: as the trainer, but not of a loss that is not finite.
    """
    lottery.check_rewind_step(config, _steps(config, dataset))
    configs = [_with(config, seed=seed) for seed in seeds]
    if config.method == "lottery":
        given = _tickets(configs, dataset, mode, progress)
    else:
        given = [None] * len(configs)
    ready, forward = _prepare(configs, dataset, given)
    states, _ = _train(ready, forward, dataset, mode, progress)
    evaluate = make_evaluate(forward)
    trained = []
    for seed, state in zip(ready, states, strict=True):
        scores = evaluate(state, dataset.eval_batches(_EVAL_BATCH))
        trained.append(Trained(seed.config, seed.plan, state, scores))
        if np.isfinite(scores["loss"]):  # What is not a number stays so when removed.
            srigl_jax.check_masks(trained[-1].masks, seed.plan, state["params"])
    return trained


def _tickets(configs, dataset, mode, progress) -> list[starts.Start]:
    """The winning ticket of each seed, found by rounds of training."""
    given = [None] * len(configs)
    for number in range(configs[0].pruning.rounds):
        rounds = [lottery.round_config(config) for config in configs]
        ready, forward = _prepare(rounds, dataset, given)
        states, rewound = _train(ready, forward, dataset, mode, progress)
        sparsity = methods.round_sparsity(configs[0], number + 1)
        given = [
            lottery.next_start(
                config, sparsity, starts.named_leaves(early), starts.named_leaves(late)
            )
            for config, early, late in zip(configs, rewound, states, strict=True)
        ]
        progress(f"round {number}")
    return given


def _prepare(
    configs: Sequence[ConfigDict],
    dataset: data.InMemoryDataset,
    given: Sequence[starts.Start | None],
) -> tuple[list[_Seed], Forward]:
    ready = []
    for config, start in zip(configs, given, strict=True):
        definition, params, model_state = split_model(make_model(config, dataset))
        plan = make_plan(params, **methods.plan_options(config, start and start.masks))
        forward = make_forward(
            definition, dataset.mean, dataset.std, dtype=config.dtype
        )
        masks = starts.first_masks(
            config, params, model_state, plan, start, forward, dataset
        )
        optimizer = _optimizer(config, dataset, masks)
        state = init_state(config, params, model_state, plan, optimizer, masks)
        if start is not None:
            state = start.resume(state)
        ready.append(_Seed(config, plan, masks, state))
    return ready, forward


def _train(
    ready: Sequence[_Seed],
    forward: Forward,
    dataset: data.InMemoryDataset,
    mode: Mode,
    progress: Progress,
) -> tuple[list[State], list[State]]:
    """The last state of each seed, and the one that a lottery rewinds to, if any."""
    if len({jax.tree.structure(seed.state) for seed in ready}) > 1:
        # A layer that the ticket of one seed leaves whole is dense there alone.
        alone = [_train([seed], forward, dataset, mode, progress) for seed in ready]
        states, rewound = zip(*alone, strict=True)
        return list(itertools.chain(*states)), list(itertools.chain(*rewound))
    config = ready[0].config
    seeds = [seed.config.seed for seed in ready]
    per_epoch = data.steps_per_epoch(dataset.num_train, config.batch_size)
    total, rewind_step = _steps(config, dataset), config.pruning.rewind_step
    step = int(ready[0].state["step"])
    axes = jax.tree.map(lambda leaf: _axis(leaf, mode), ready[0].state)
    states = _stack([seed.state for seed in ready], axes)
    run = _make_run(ready[0], forward, dataset, axes, mode)
    examples = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    ends = {*range(per_epoch, total + 1, per_epoch), total, rewind_step or 0}
    rewound = []
    for end in sorted(ends):
        if end > step:
            chosen = _indices(seeds, range(step, end), config, dataset)
            states = run(states, np.int32(seeds), chosen, *examples)
            step = end
        if end == rewind_step:
            rewound = _unstack(states, axes, len(seeds))
        jax.block_until_ready(states)
        progress(f"step {step} of {total}")
    return _unstack(states, axes, len(seeds)), rewound


def _make_run(first: _Seed, forward, dataset, axes, mode: Mode):
    """The loop `(states, seeds, chosen, images, labels) -> states`."""
    config = first.config
    augment = make_config_augment(config, dataset)

    def step(state, seed, chosen, images, labels):
        # The masks that train are those of the state; of the ones given here only
        # the structure counts, which all seeds have in common.
        optimizer = _optimizer(_with(config, seed=seed), dataset, first.masks)
        train_step = make_config_step(config, augment, forward, optimizer)
        batch = {"image": images[chosen], "label": labels[chosen]}
        return train_step(state, batch)[0]

    return _LOOPS[mode](step, axes)


def _together(step, axes):
    """All seeds at each step of a compiled loop."""
    each = jax.vmap(step, in_axes=(axes, 0, 0, None, None), out_axes=axes)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(states, seeds, chosen, *examples):
        def body(states, chosen):
            return each(states, seeds, chosen, *examples), None

        return jax.lax.scan(body, states, chosen.swapaxes(0, 1))[0]

    return run


def _in_turn(step, axes):
    """One seed after the other through a compiled loop."""
    del axes  # Each seed has its own of everything.

    @functools.partial(jax.jit, donate_argnums=0)
    def run(states, seeds, chosen, *examples):
        def alone(one):
            state, seed, chosen = one

            def body(state, chosen):
                return step(state, seed, chosen, *examples), None

            return jax.lax.scan(body, state, chosen)[0]

        return jax.lax.map(alone, (states, seeds, chosen))

    return run


def _in_steps(step, axes):
    """One seed after the other in a loop of Python's over a compiled step."""
    one_step = jax.jit(step, donate_argnums=0)

    def run(states, seeds, chosen, *examples):
        ends = []
        for i, (seed, batches) in enumerate(zip(seeds, chosen, strict=True)):
            state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            for batch in batches:
                state = one_step(state, seed, batch, *examples)
            ends.append(state)
        return _stack(ends, axes)

    return run


_LOOPS = {"vmap": _together, "map": _in_turn, "steps": _in_steps}


def _optimizer(config, dataset, masks):
    per_epoch = data.steps_per_epoch(dataset.num_train, config.batch_size)
    return make_optimizer(config, _steps(config, dataset), per_epoch, masks)


def _steps(config: ConfigDict, dataset: data.InMemoryDataset) -> int:
    return data.training_steps(dataset.num_train, config.batch_size, config.epochs)


def _indices(seeds, steps, config, dataset) -> np.ndarray:
    """i32[seeds, steps, batch]: the examples of each batch."""
    size = {"num_examples": dataset.num_train, "batch_size": config.batch_size}
    return np.int32(
        [[batch_indices(seed, step, **size) for step in steps] for seed in seeds]
    )


def _axis(leaf, mode: Mode) -> int | None:
    """Counters of steps are alike in all seeds, so that branches on them stay so."""
    is_counter = leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
    return None if is_counter and mode == "vmap" else 0


def _stack(states, axes):
    def stack(axis, *leaves):
        return leaves[0] if axis is None else jnp.stack(leaves)

    return _map_axes(stack, axes, *states)


def _unstack(states, axes, count: int) -> list[State]:
    states = jax.device_get(states)

    def take(index):
        def one(axis, leaf):
            return leaf if axis is None else leaf[index]

        return _map_axes(one, axes, states)

    return [take(index) for index in range(count)]


def _map_axes(function, axes, *trees):
    return jax.tree.map(function, axes, *trees, is_leaf=lambda node: node is None)


def _with(config: ConfigDict, **fields: Any) -> ConfigDict:
    """A copy with other values, traced ones too."""
    copy = config.copy_and_resolve_references()
    with copy.ignore_type():
        copy.update(fields)
    return copy
