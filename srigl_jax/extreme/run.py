"""Training with many labels, as `python -m srigl_jax.train` does it.

It shares the trainer's checkpoints, metrics, display, signals and guard of the workdir;
what differs is what a step, an evaluation and a topology update are.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from srigl_jax import extreme
from srigl_jax.analysis.report import write_report
from srigl_jax.analysis.table import render_table
from srigl_jax.checkpoint import Checkpoints
from srigl_jax.data import batch_indices, steps_per_epoch
from srigl_jax.extreme import config as config_lib
from srigl_jax.extreme import tagger
from srigl_jax.extreme.data import corpus
from srigl_jax.extreme.data.corpus import Corpus
from srigl_jax.extreme.labels import draw_positives
from srigl_jax.extreme.network import Network, Settings, State
from srigl_jax.extreme.owners import by_label
from srigl_jax.interrupt import GracefulStop, Stopped
from srigl_jax.metrics import MetricsWriter, read_metrics
from srigl_jax.monitor import Monitor
from srigl_jax.progress import ProgressDisplay, duration
from srigl_jax.workdir import record_start, write_atomically

SCORED = 4096
"""Examples scored between two lines that say how many are."""


class Task:
    """A corpus, a network for it, and the batches of a seed."""

    def __init__(
        self, settings: Settings, data: Corpus, seed: int, epochs: int
    ) -> None:
        """Packs the examples; computes nothing else.

        Args:
          settings: of the network.
          data: to train and evaluate on.
          seed: of weights, positions and batches.
          epochs: of training.

        Raises:
          ValueError: there are fewer examples than a batch has, or fewer labels than a
            setting needs.
        """
        self.data, self.settings, self.seed = data, settings, seed
        per_epoch = steps_per_epoch(len(data.train_positives), settings.batch_size)
        self.total_steps = epochs * per_epoch
        self.examples, self.held_out = data.bags(settings.most_features)
        self.owned = by_label(data.train_positives)
        self.network = Network(settings, data.features, data.labels, self.total_steps)

    def init(self) -> State:
        """The state before the first step."""
        return self.network.init(self.seed, self.examples, self.owned)

    def step(self, state: State, step: int) -> tuple[State, Any]:
        """Trains on the batch of a step, counted from 0; gives state and loss."""
        rows = self._rows(step)
        batch = self.examples.take(rows)
        return self.network.step(state, batch, self._positives(step))

    def grow(self, state: State, step: int) -> State:
        """Updates the topology after so many steps."""
        if self.settings.method != "gradient":
            return self.network.grow(state)
        count = min(step, self.settings.growth_batches)
        steps = range(step - count, step)
        rows = np.concatenate([self._rows(i) for i in steps])
        batches = self.examples.take(rows)
        positives = np.concatenate([self._positives(i) for i in steps])
        return self.network.grow(state, batches, positives)

    def scores(
        self,
        state: State,
        examples: int = 0,
        tell: Callable[[str], None] | None = None,
    ) -> dict[str, float]:
        """P@k and PSP@k on held-out examples, and the ceilings of P@k, shares of 1.

        Args:
          state: of the network.
          examples: take so many, of a fixed random choice; 0 for all.
          tell: is told now and then how many are done.
        """
        rows = held_out_rows(self.data, examples)
        count, found = min(5, self.data.labels), []
        for start in range(0, len(rows), SCORED):
            if tell:
                tell(f"scoring {self.data.split} examples: {start:,} of {len(rows):,}")
            held_out = self.held_out.take(rows[start : start + SCORED])
            found.append(self.network.top(state, held_out, count)[1])
        return scores(self.data, np.concatenate(found), rows)

    def _positives(self, step):
        rng = np.random.default_rng((self.seed, step))
        rows, most = self._rows(step), self.settings.most_labels
        return draw_positives(rng, self.data.train_positives[rows], most)

    def _rows(self, step):
        count = len(self.data.train_positives)
        size = self.settings.batch_size
        return batch_indices(self.seed, step, num_examples=count, batch_size=size)


def held_out_rows(data: Corpus, examples: int) -> np.ndarray:
    """So many held-out examples, ascending, always the same ones; 0 for all."""
    count = len(data.held_out_positives)
    if not 0 < examples < count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:examples])


def scores(data: Corpus, predicted: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Of ranked labels int[len(rows), n] for some of the held-out examples."""
    a, b = data.propensity
    examples = len(data.train_positives)
    weights = extreme.inverse_propensities(data.frequencies, examples, a, b)
    at = [k for k in (1, 3, 5) if k <= predicted.shape[1]]
    found = extreme.score(predicted, data.held_out_positives[rows], weights, at)
    names = ("P", "ceiling", "PSP")
    return {
        f"{name}@{k}": share
        for name, shares in zip(names, found, strict=True)
        for k, share in shares.items()
    }


def train(
    config: ConfigDict, workdir: Path, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs the training that `config` describes, from wherever `workdir` has it.

    Args:
      config: fields as in `srigl_jax.extreme.config.get_config`.
      workdir: gets checkpoints, metrics.jsonl, config.json, environment.json,
        result.json, report.html and, of texts, what `srigl_jax.predict` reads.
      environment: what this start of the run met.

    Returns:
      The content of result.json.

    Raises:
      ValueError: a field, the data set or the workdir cannot be used.
      NotFiniteError: the loss is not finite; the last good checkpoint is kept.
      Stopped: SIGTERM or SIGINT asked the run to stop; it is saved.
    """
    settings = config_lib.validate(config)
    print(f"reading {config.dataset.name}, for {workdir}", flush=True)
    data = corpus.load(**config.dataset.to_dict())
    task = Task(settings, data, config.seed, config.epochs)
    total, network = task.total_steps, task.network
    # Only now, so that settings which cannot work never claim the workdir.
    config_lib.check_workdir(workdir, config, data.digest)
    record_start(workdir, environment)
    with (
        GracefulStop() as stop,
        Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as saved,
        MetricsWriter(workdir, tensorboard=config.tensorboard) as metrics,
        ProgressDisplay(total) as display,
    ):
        step, state = saved.restore_latest(network.fresh(config.seed)) or (0, None)
        metrics.truncate_after(step)
        display.update(step)
        display.print(_greeting(config, task, step, workdir))
        if state is None:
            display.print(f"going through the examples of {data.labels:,} labels")
            state = task.init()
        history = read_metrics(metrics.path)
        monitor = Monitor(step, metrics, display, _seconds(history))

        def due(every):
            return step % every == 0 and step < total

        while step < total and not stop.received:
            state, loss = task.step(state, step)
            step += 1
            monitor.add({"loss": loss})
            display.update(step)
            if network.grows(step):
                state = task.grow(state, step)
                metrics.write("topology", step, layers={})
            if due(config.log_every) or step == total:
                monitor.flush()
            # Before it is saved: a run killed in between evaluates again.
            if due(config.eval_every):
                evaluated = task.scores(state, config.eval_examples)
                metrics.write("eval", step, **evaluated)
                display.print(f"step {step}/{total}  {_text(evaluated)}")
            if due(config.checkpoint_every) or step == total:
                monitor.check()
                saved.save(step, state)
        if step < total:
            monitor.flush()
            saved.save(step, state)
            raise Stopped(
                stop.received,
                f"stopped after step {step} of {total}, which is saved; the same "
                "command resumes",
            )
        evaluated = task.scores(state, tell=display.print)
        history = read_metrics(metrics.path)
        if not any(r["kind"] == "eval" and r["step"] == step for r in history):
            metrics.write("eval", step, **evaluated)
        history = read_metrics(metrics.path)
    return _finish(config, task, workdir, state, evaluated, history, environment)


def _greeting(config, task, step, workdir) -> str:
    data, settings, total = task.data, task.settings, task.total_steps
    if step == total:
        start = f"finished before, after {total} steps, in {workdir}"
    elif step:
        start = f"resuming after step {step} of {total}, in {workdir}"
    else:
        start = f"starting, {total} steps, in {workdir}"
    how = f"{settings.method}, {settings.k} weights a label"
    if settings.method in ("dense", "bottleneck"):
        how = settings.method
    lines = [
        f"{data.labels:,} labels of {config.dataset.name}, "
        f"{len(data.train_positives):,} examples: {how}"
    ]
    if left_out := data.left_out(settings.most_features):
        lines.append(
            f"settings.most_features={settings.most_features} leaves out {left_out:,} "
            f"of {data.train.nnz:,} features of training examples"
        )
    return "\n".join([*lines, start])


def _finish(config, task, workdir, state, evaluated, history, environment):
    """Writes the results, and prints where they are."""
    layers = layer_rows(state)
    result = evaluated | {
        "split": task.data.split,
        "steps": task.total_steps,
        "seconds": _seconds(history),
        "layers": layers,
    }
    write_atomically(workdir / "result.json", json.dumps(result, indent=2) + "\n")
    if task.data.vocabulary:
        tagger.save(workdir, state, task.settings, task.data)
    updates = [r["step"] for r in history if r["kind"] == "topology"]
    write_report(
        workdir / "report.html",
        title=f"{task.data.labels:,} labels of {config.dataset.name}, "
        f"{task.settings.method}",
        config=config.to_dict(),
        rows=layers,
        metrics=history,
        masks={},
        outcome=result
        | {
            "topology_end": max(updates, default=None),
            "versions": environment["versions"],
        },
        measure="P@1",
    )
    print(render_table(layers))
    print(
        f"{task.data.split} {_text(evaluated)} after {task.total_steps} steps, "
        f"{duration(result['seconds'])}\nreport: {workdir / 'report.html'}"
    )
    return result


def layer_rows(state: State) -> list[dict[str, Any]]:
    """The layers as `srigl_jax.analysis.table` takes them."""
    rows = []
    encoder, classifier = state["encoder"], state["classifier"]
    for name in ("table", "projection"):
        if name in encoder:
            rows.append(_row(f"encoder.{name}", encoder[name].shape, None))
    for block in classifier.blocks:
        name = "labels" if len(classifier.blocks) == 1 else f"labels from {block.first}"
        k = None if block.indices is None else block.indices.shape[1]
        rows.append(_row(name, (classifier.width, block.labels), k))
    return rows


def _row(name, shape, k):
    fan_in, neurons = shape
    density = (k or fan_in) / fan_in
    return {
        "name": name,
        "shape": list(shape),
        "sparse": k is not None,
        "density_asked": density,
        "density_got": density,
        "fan_in_min": k or fan_in,
        "fan_in_max": k or fan_in,
        "neurons": neurons,
        "active": neurons,
        "may_ablate": False,
        "weights": math.prod(shape) if k is None else k * neurons,
    }


def _text(evaluated: Mapping[str, float]) -> str:
    names = [name for name in evaluated if name.startswith(("P@", "PSP@1"))]
    return "  ".join(f"{name} {evaluated[name]:.2%}" for name in names)


def _seconds(history: list[dict[str, Any]]) -> float:
    return max((r["seconds"] for r in history if r["kind"] == "train"), default=0.0)
