"""What a training step takes beyond the network's own forward and backward pass.

    python experiments/benchmark_step.py

Of configs/resnet18_cifar10.py at 99 %, batch 128, on made-up images of the true shape:
the trainer's own step, with its input, augmentation, optimizer, masks and measurements,
against the plain gradient of the same loss of the same batch, in turns. A step that
updates the topology counts once in `delta_t`, with all that the trainer does after it.
Then how often the step was compiled, how fast the input comes, and the peak of memory.
Prints a table and writes results/benchmark_step.json. Takes about three minutes on two
cores, which `--rounds` shortens.
"""

import argparse
import resource
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

import srigl_jax
from srigl_jax import data, methods
from srigl_jax.config import load_config
from srigl_jax.optimizers import make_optimizer
from srigl_jax.parts import (
    init_state,
    make_config_augment,
    make_config_step,
    make_model,
)
from srigl_jax.sparsity import init_masks, make_plan, summarize
from srigl_jax.sparsity.exploration import explore, explored_shares
from srigl_jax.step import make_forward, split_model

MIB = 2**20


class Training:
    """A run as the trainer sets it up, of which single steps can be taken.

    Attributes:
      plain: `() -> gradient`, of the loss of one batch, and nothing else.
      batches: the trainer's, gathered from memory and shuffled.
      compilations: of the step, so far.
    """

    def __init__(self, config: ConfigDict):
        """Loads the data, draws the weights and the masks."""
        self._config = config
        dataset = data.load(**config.dataset.to_dict())
        steps = data.steps_per_epoch(dataset.num_train, config.batch_size)
        total_steps = data.training_steps(
            dataset.num_train, config.batch_size, config.epochs
        )
        definition, params, model_state = split_model(make_model(config, dataset))
        self._plan = make_plan(params, **methods.plan_options(config))
        forward = make_forward(
            definition, dataset.mean, dataset.std, dtype=config.dtype
        )
        masks = init_masks(params, self._plan, config.seed)
        optimizer = make_optimizer(config, total_steps, steps, masks)
        self.state = init_state(
            config, params, model_state, self._plan, optimizer, masks
        )
        augment = make_config_augment(config, dataset)
        self._step = make_config_step(config, augment, forward, optimizer)
        self.batches = dataset.train_batches(config.seed, config.batch_size)

        @jax.jit
        def gradient(params, model_state, batch, key):
            def loss_of(params):
                logits, rest = forward(params, model_state, batch["image"], key)
                labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
                labels = optax.smooth_labels(labels, config.label_smoothing)
                return optax.softmax_cross_entropy(logits, labels).mean(), rest

            return jax.value_and_grad(loss_of, has_aux=True)(params)

        # A step is given its state to reuse, so the gradient needs one of its own.
        own = jax.tree.map(jnp.copy, (self.state["params"], model_state))
        batch = jax.device_put(next(self.batches))
        arguments = *own, batch, jax.random.key(0)
        self.plain = partial(gradient, *arguments)
        self._lowered = {"plain": partial(gradient.lower, *arguments)}
        self._lowered["step"] = lambda: self._step.lower(self.state, next(self.batches))

    def step(self, *, updates: bool) -> Any:
        """Takes a step, and does what the trainer does after a topology update."""
        count = self._config.delta_t if updates else 1
        opt_state = self.state["opt_state"]._replace(count=np.int32(count))
        state = self.state | {"opt_state": opt_state}
        self.state, measured = self._step(state, next(self.batches))
        if updates:
            masks = srigl_jax.get_masks(self.state["opt_state"])
            explored = explore(self.state["explored"], masks, self._plan)
            self.state = self.state | {"explored": explored}
            summarize(masks, self._plan)
            explored_shares(explored, self._plan)
        return self.state, measured

    @property
    def compilations(self) -> int:
        """How often the step was compiled."""
        return self._step._cache_size()

    def memory(self) -> dict[str, dict[str, float]]:
        """MiB of what the compiler lays out: arguments, temporaries and the peak."""
        found = {}
        for name, lower in self._lowered.items():
            sizes = lower().compile().memory_analysis()
            arguments = sizes.argument_size_in_bytes
            temporaries = sizes.temp_size_in_bytes
            results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            found[name] = {
                "arguments": arguments / MIB,
                "temporaries": temporaries / MIB,
                "peak": (arguments + temporaries + results) / MIB,
            }
        return found


def measured(config: ConfigDict, rounds: int) -> dict[str, Any]:
    """The figures of one config; see the module's docstring.

    Args:
      config: of a method that updates a topology, on a data set in memory.
      rounds: of each kind of step.
    """
    training = Training(config)
    seconds = measure.interleaved(
        {
            "plain": training.plain,
            "step": partial(training.step, updates=False),
            "step, update": partial(training.step, updates=True),
        },
        rounds,
    )
    compilations = training.compilations
    batch = measure.interleaved({"input": lambda: next(training.batches)}, 30)["input"]
    delta_t = config.delta_t
    amortised = ((delta_t - 1) * seconds["step"] + seconds["step, update"]) / delta_t
    # A round's steps are neighbours in time, so the median of their ratios is steadier
    # than the ratio of their medians.
    over_plain = amortised / seconds["plain"]
    return {
        "seconds": {name: values.tolist() for name, values in seconds.items()},
        "delta_t": delta_t,
        "batch_size": config.batch_size,
        "sparsity": config.sparsity,
        "amortised over plain": float(np.median(over_plain)),
        "share outside": float(np.median(1 - 1 / over_plain)),
        "input images/s": config.batch_size / float(np.median(batch)),
        "step images/s": config.batch_size / float(np.median(amortised)),
        "updates": rounds + 1,
        "compilations": compilations,
        "memory, MiB": training.memory(),
        "peak of the process, MiB": _peak(),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(results: dict[str, Any]) -> Table:
    """What was measured beside what was asked for."""
    made = Table("what", "measured", "asked for")
    for name, values in results["seconds"].items():
        made.add_row(f"{name}, median", f"{np.median(values):.3f} s")
    made.add_row(
        f"step / plain, delta_t = {results['delta_t']}",
        f"{results['amortised over plain']:.3f}",
    )
    share = f"{results['share outside']:.1%}"
    made.add_row("share of a step outside the plain gradient", share, "at most 5 %")
    made.add_row("images/s, steps", f"{results['step images/s']:,.0f}")
    made.add_row("images/s, input", f"{results['input images/s']:,.0f}", "more")
    made.add_row(
        f"compilations, with {results['updates']} topology updates",
        f"{results['compilations']}",
        "1",
    )
    for name, sizes in results["memory, MiB"].items():
        made.add_row(f"peak of {name}", f"{sizes['peak']:,.0f} MiB")
    peak = f"{results['peak of the process, MiB']:,.0f} MiB"
    made.add_row("peak of the process", peak)
    return made


def main() -> None:
    """Measures, prints, and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/resnet18_cifar10.py")
    parser.add_argument("--sparsity", type=float, default=0.99)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    config.sparsity = arguments.sparsity
    config.dataset.name = "synthetic"
    config.dataset.image_shape = (32, 32, 3)
    config.dataset.examples = 50_000
    console = Console()
    with console.status("training steps"):
        results = measured(config, arguments.rounds)
    console.print(table(results))
    results["config"] = arguments.config
    console.print(f"saved {measure.save('benchmark_step', results)}")


if __name__ == "__main__":
    main()
