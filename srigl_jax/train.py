"""Trains a network that is sparse from its first step, and reports what it learned.

    python -m srigl_jax.train --config configs/digits.py --workdir runs/digits

Any field can be overridden, `--config.sparsity=0.95`; without `--config` it trains on
scikit-learn's digits. Run the same command again to resume: a run goes on bit for bit
from where its workdir has it. With `--distributed` several processes, each started by
this command, train together; see `srigl_jax.distributed`.
"""

import dataclasses
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

import srigl_jax
from srigl_jax import command_line, data, distributed, lottery, methods, starts
from srigl_jax import config as config_lib
from srigl_jax.analysis.costs import layer_costs, total_costs
from srigl_jax.analysis.network import read_network
from srigl_jax.analysis.report import write_report
from srigl_jax.analysis.table import render_table
from srigl_jax.checkpoint import Checkpoints
from srigl_jax.interrupt import GracefulStop, Stopped
from srigl_jax.metrics import MetricsWriter, read_metrics
from srigl_jax.models.pretrained import load_torchvision
from srigl_jax.monitor import Monitor
from srigl_jax.optimizers import make_optimizer
from srigl_jax.parts import (
    init_state,
    make_config_augment,
    make_config_step,
    make_model,
)
from srigl_jax.progress import ProgressDisplay, duration
from srigl_jax.sharding import Placement, check_batch, gathered, make_mesh
from srigl_jax.sparsity import Plan, layer_masks, make_plan, summarize
from srigl_jax.sparsity.exploration import explore, explored_shares
from srigl_jax.step import (
    State,
    evaluated,
    make_evaluate,
    make_forward,
    split_model,
    state_masks,
)
from srigl_jax.workdir import record_start, write_atomically

_EVAL_BATCH = 512


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs the training that `config` describes, from wherever `workdir` has it.

    Args:
      config: fields as in `srigl_jax.config.get_config`, or, for a run with many
        labels, in `srigl_jax.extreme.config.get_config`.
      workdir: gets checkpoints, metrics.jsonl, config.json, environment.json,
        result.json, report.html and, of a sparse network, masks.safetensors.

    Returns:
      The content of result.json.

    Raises:
      ValueError: a field, the data set or the workdir cannot be used.
      NotFiniteError: the loss is not finite; the last good checkpoint is kept.
      Stopped: SIGTERM or SIGINT asked the run to stop; it is saved.
      LostProcessError: another process of the run is gone.
    """
    if config.get("task") == "labels":
        # Imported here, because scikit-learn takes a second and images need none of it.
        from srigl_jax.extreme import run

        distributed.check_alone("task=labels")
        return run.train(config, workdir, _environment(config))
    with distributed.one_voice(workdir) as files, distributed.naming_the_lost():
        return _train(config, workdir, files)


def _train(config: ConfigDict, workdir: Path, files: Path) -> dict[str, Any]:
    """Trains; what only one of several processes may write goes to `files`."""
    with distributed.together():
        config_lib.validate(config)
        mesh = make_mesh(**config.mesh.to_dict())
        dataset = data.load(**config.dataset.to_dict())
        steps_per_epoch = data.steps_per_epoch(dataset.num_train, config.batch_size)
        total_steps = data.training_steps(
            dataset.num_train, config.batch_size, config.epochs
        )
        lottery.check_rewind_step(config, total_steps)
        model = make_model(config, dataset)
        if config.pretrained is not None:
            load_torchvision(model, config.pretrained, head=config.pretrained_head)
        definition, params, model_state = split_model(model)
        if config.method == "lottery":
            distributed.check_alone("method=lottery")
            lottery.check_tickets(config, params)
            lottery.find_ticket(config, workdir, train)
        start = starts.read_start(config, workdir)
        plan = make_plan(params, **methods.plan_options(config, start and start.masks))
        placement = Placement(mesh, plan)
        check_batch(config.batch_size, config.accumulate, placement.data)
        forward = make_forward(
            definition, dataset.mean, dataset.std, dtype=config.dtype
        )
        masks = starts.first_masks(
            config, params, model_state, plan, start, forward, dataset
        )
        optimizer = make_optimizer(config, total_steps, steps_per_epoch, masks)
        augment = make_config_augment(config, dataset)
        # Only now, so that settings which cannot work never claim the workdir.
        config_lib.check_workdir(files, config)
        record_start(files, _environment(config))
        starts.keep_start(start, files)
        state = init_state(config, params, model_state, plan, optimizer, masks)
        if start is not None:
            state = start.resume(state)
        first = int(state["step"])

    state = placement.place(state)
    evaluate = make_evaluate(forward, placement.copied)
    train_step = make_config_step(
        config,
        augment,
        forward,
        optimizer,
        shardings=placement.shardings(state),
        copied=placement.copied,
    )

    def due(every):
        return step % every == 0 or step == total_steps

    def eval_batches():
        size = -(-_EVAL_BATCH // placement.data) * placement.data
        return placement.batches(dataset.eval_batches(size, **placement.share))

    with (
        GracefulStop() as stop,  # Left last: a save may go on while the others close.
        Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as saved,
        MetricsWriter(files, tensorboard=config.tensorboard) as metrics,
        ProgressDisplay(total_steps) as display,
        distributed.naming_the_lost(),
    ):
        step, state = saved.restore_latest(state) or (first, state)
        # At the start, its step is recorded again.
        metrics.truncate_after(step if step > first else first - 1)
        display.update(step)
        display.print(_greeting(config, plan, step, total_steps, workdir))
        history = read_metrics(metrics.path)
        monitor = Monitor(step, metrics, display, _seconds(history))
        if step == first:
            metrics.write("topology", step, layers=_topology(state, plan))
        scores = None
        if step > first and due(config.eval_every):
            # It may have been saved, and killed before it was evaluated. Of several
            # processes only the first knows: all evaluate.
            is_known = _has_eval(history, step)
            if not is_known or jax.process_count() > 1:
                scores = evaluate(state, eval_batches())
            if not is_known:
                metrics.write("eval", step, **scores)
        batches = placement.batches(
            dataset.train_batches(
                config.seed, config.batch_size, start=step, **placement.share
            )
        )
        stops = distributed.SharedStop(mesh)
        while step < total_steps and not (stopped := stops.agreed(stop.received)):
            if step == config.pruning.rewind_step:
                starts.keep_state(workdir / starts.REWIND, state)
            updates_topology = methods.topology_due(config, step, total_steps)
            state, measured = train_step(state, next(batches))
            step += 1
            monitor.add(measured)
            display.update(step)
            if due(config.log_every):
                monitor.flush()
            if updates_topology:
                state = placement.place(_explored_further(state, plan))
                metrics.write("topology", step, layers=_topology(state, plan))
            if due(config.checkpoint_every):
                monitor.check()
                saved.save(step, state)
            if due(config.eval_every):
                scores = evaluate(state, eval_batches())
                metrics.write("eval", step, **scores)
        if step < total_steps:
            monitor.flush()
            saved.save(step, state)
            raise Stopped(
                stopped,
                f"stopped after step {step} of {total_steps}, which is saved; the same "
                "command resumes",
            )
        if scores is None:  # The run was finished before.
            scores = evaluate(state, eval_batches())
        history = read_metrics(metrics.path)
    result = scores | {"steps": step, "seconds": _seconds(history)}
    return _finish(config, files, dataset, gathered(state), plan, history, result)


def _explored_further(state: State, plan: Plan) -> State:
    """The state with its masks counted as explored, if it tracks that."""
    if "explored" not in state:
        return state
    explored = explore(state["explored"], state_masks(state, plan), plan)
    return state | {"explored": explored}


def _topology(state: State, plan: Plan) -> dict[str, dict[str, float]]:
    """What a "topology" record says of each sparse layer."""
    masks = gathered(state_masks(state, plan))
    shares = explored_shares(gathered(state.get("explored", {})), plan)
    return {
        row.name: {
            "active": row.active,
            "neurons": row.neurons,
            "fan_in": row.fan_in_max,
            "weights": row.weights,
        }
        | ({"explored": shares[row.name]} if row.name in shares else {})
        for row in summarize(masks, plan)
        if row.sparse
    }


def _greeting(
    config: ConfigDict, plan: Plan, step: int, total_steps: int, workdir: Path
) -> str:
    size = sum(layer.layout.size for layer in plan.values())
    budget = sum(layer.budget for layer in plan.values())
    how = f"{config.method}, {budget:,} of {size:,} weights"
    if step == total_steps:
        start = f"finished before, after {total_steps} steps, in {workdir}"
    elif step:
        start = f"resuming after step {step} of {total_steps}, in {workdir}"
    else:
        start = f"starting, {total_steps} steps, in {workdir}"
    return f"{config.model.name} on {config.dataset.name}: {how}\n{start}"


def _finish(
    config: ConfigDict,
    workdir: Path,
    dataset: data.Dataset,
    state: State,
    plan: Plan,
    history: list[dict[str, Any]],
    result: dict[str, Any],
) -> dict[str, Any]:
    """Verifies the invariants, writes the results, prints where they are."""
    masks = state_masks(state, plan)
    for weights in (state, evaluated(state)):
        srigl_jax.check_masks(masks, plan, weights["params"])
    rows = [dataclasses.asdict(row) for row in summarize(masks, plan)]
    split = "validation" if config.dataset.validation else "test"
    result |= {
        "split": split,
        "flops": _flops(config, dataset, plan, layer_masks(masks, plan)),
        "layers": rows,
    }
    write_atomically(workdir / "result.json", _json(result))
    if named := starts.named_masks(masks, plan):
        starts.write_start(workdir / starts.MASKS, starts.Start(named, {}))
    updates = [r["step"] for r in history if r["kind"] == "topology" and r["step"]]
    write_report(
        workdir / "report.html",
        title=f"{config.model.name} on {config.dataset.name}, {config.method}",
        config=config.to_dict(),
        rows=rows,
        metrics=history,
        masks=layer_masks(masks, plan),
        outcome=result
        | {
            "topology_end": max(updates, default=None),
            "versions": _environment(config)["versions"],
        },
        # The first layer of no other network reads the flattened image.
        image_shape=dataset.image_shape if config.model.name == "mlp" else None,
    )
    print(render_table(rows))
    print(
        f"{split} accuracy {result['accuracy']:.2%} after {result['steps']} steps, "
        f"{duration(result['seconds'])}\nreport: {workdir / 'report.html'}"
    )
    return result


def _flops(
    config: ConfigDict, dataset: data.Dataset, plan: Plan, masks: dict
) -> dict[str, float]:
    """FLOPs of inference on an image: dense, as asked, as learned."""
    network = read_network(
        nnx.eval_shape(lambda: make_model(config, dataset)),
        dataset.image_shape,
    )
    return total_costs(layer_costs(network, plan, masks))["flops"]


def _seconds(history: list[dict[str, Any]]) -> float:
    """The training time that a run has recorded."""
    return max((r["seconds"] for r in history if r["kind"] == "train"), default=0.0)


def _has_eval(history: list[dict[str, Any]], step: int) -> bool:
    return any(r["kind"] == "eval" and r["step"] == step for r in history)


def _environment(config: ConfigDict) -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {
        "python": platform.python_version(),
        "srigl_jax": srigl_jax.__version__,
    }
    versions |= {name: metadata.version(name) for name in packages}
    return {
        "versions": versions,
        "seed": config.seed,
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


if __name__ == "__main__":
    command_line.run(train)
