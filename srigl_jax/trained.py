"""What a trainer's workdir holds, read back: the network, its masks, its data."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from srigl_jax import config as config_lib
from srigl_jax import data, starts
from srigl_jax.checkpoint import Checkpoints
from srigl_jax.condensed.description import Description
from srigl_jax.methods import plan_options
from srigl_jax.optimizers import make_optimizer
from srigl_jax.parts import init_state, make_model
from srigl_jax.sparsity import Plan, init_masks, make_plan
from srigl_jax.step import State, evaluated, split_model, state_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A network as a run left it.

    Attributes:
      config: of the run.
      dataset: it was trained on.
      model: the network, in evaluation mode; weights off the mask are 0. Where the run
        averages its weights, these are the averages.
      masks: like its parameters as a plain dict; `optax.MaskedNode()` where dense.
      step: after which the network was saved.
      plan: of its layers.
      state: of training, as it was saved.
    """

    config: ConfigDict
    dataset: data.Dataset
    model: nnx.Module
    masks: Any
    step: int
    plan: Plan
    state: State

    def describe(self, batch_size: int) -> Description:
        """What is to be known of the network beside its weights.

        Args:
          batch_size: which it is to be exported for.
        """
        options = self.config.model.to_dict()
        return Description(
            model=options.pop("name"),
            options=options,
            dataset=self.dataset.name,
            image_shape=self.dataset.image_shape,
            mean=self.dataset.mean,
            std=self.dataset.std,
            class_names=self.dataset.class_names,
            batch_size=batch_size,
        )


def load_trained(
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    source_dir: str | None = None,
) -> Trained:
    """Reads the last complete checkpoint of a run; changes nothing in the workdir.

    Args:
      workdir: as `srigl_jax.train.train` leaves it, or has it while it runs.
      data_dir: where the prepared data set is, if not where the run had it.
      source_dir: likewise, of the data set's original files.

    Raises:
      ValueError: it is no workdir, has no intact checkpoint, or the data set is not to
        be had.
    """
    workdir = Path(workdir)
    config = _read_config(workdir)
    fields = config.dataset.to_dict()
    fields["data_dir"] = data_dir or fields["data_dir"]
    fields["source_dir"] = source_dir or fields["source_dir"]
    dataset = data.load(**fields)
    model = make_model(config, dataset)
    definition, params, model_state = split_model(model)
    start = starts.read_start(config, workdir)
    plan = make_plan(params, **plan_options(config, start and start.masks))
    masks = init_masks(params, plan)  # Like those that are read; only shapes count.
    steps_per_epoch = data.steps_per_epoch(dataset.num_train, config.batch_size)
    total_steps = data.training_steps(
        dataset.num_train, config.batch_size, config.epochs
    )
    optimizer = make_optimizer(config, total_steps, steps_per_epoch, masks)
    like = jax.eval_shape(
        lambda: init_state(config, params, model_state, plan, optimizer, masks)
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore_latest(like)
    if restored is None:
        raise ValueError(
            f"{workdir} has no checkpoint yet: train first, or go on, with "
            f"python -m srigl_jax.train --workdir {workdir}"
        )
    step, state = restored
    weights = evaluated(state)
    model = nnx.merge(definition, weights["params"], weights["model_state"])
    model.eval()
    masks = state_masks(state, plan)
    return Trained(config, dataset, model, masks, step, plan, state)


def _read_config(workdir: Path) -> ConfigDict:
    path = workdir / "config.json"
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{workdir} is no workdir of a run ({error.strerror}: {path}): "
            "python -m srigl_jax.train --workdir DIR makes one"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    try:
        return config_lib.read_saved(fields)
    except ValueError as error:
        raise ValueError(
            f"{path} is not the config of a run of this version: {error}"
        ) from error
