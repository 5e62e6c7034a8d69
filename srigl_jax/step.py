"""The compiled parts of training: forward pass, training step, evaluation.

The model is a flax.nnx definition, split once from its arrays; everything compiled is
a pure function of plain pytrees, which costs a fraction of `nnx.jit`'s time per step.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from srigl_jax.data import Batch
from srigl_jax.data.augment import Augment
from srigl_jax.projection import get_masks
from srigl_jax.sparsity import Plan, apply_masks

State = dict[str, Any]
"""params, model_state (batch statistics), opt_state, rng (key data), and step: the
number of optimizer steps taken, which is also the position in the data. Where weights
are averaged also ema, which holds the averages of params and model_state. What else is
in it, such as explored weights, a training step passes on as it is."""

Forward = Callable[..., tuple[jax.Array, Any]]

TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]

_AUGMENTATION = 2**32 - 1  # Folded into the key; no step is as large.


def state_masks(state: State, plan: Plan) -> Any:
    """The masks like the parameters; `optax.MaskedNode()` where a leaf is dense."""
    if any(layer.is_sparse for layer in plan.values()):
        return get_masks(state["opt_state"])
    return jax.tree.map(lambda _: optax.MaskedNode(), state["params"])


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """A network as (static definition, params, all other state), both plain dicts."""
    definition, params, rest = nnx.split(model, nnx.Param, ...)
    return definition, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def make_forward(
    definition: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Forward:
    """Returns `forward(params, model_state, images, key=None) -> logits, model_state`.

    Images are [batch, height, width, channels], uint8 or, where augmentation has mixed
    them, float32 in the same units; mean and std are of their channels. With a PRNG key
    the network is in training mode: dropout drops, and batch statistics are those of
    the batch.

    In training mode every layer computes in `dtype`, from weights that stay as they
    are; logits and batch statistics stay float32. Evaluation is in float32 throughout,
    as the network is saved and exported.
    """
    mean, std, dtype = np.float32(mean), np.float32(std), jnp.dtype(dtype)

    def forward(params, model_state, images, key=None):
        model = nnx.merge(definition, params, model_state)
        x = (images.astype(jnp.float32) - mean) / std
        if key is None:
            model.eval()
            logits = model(x)
        else:
            model.train()
            if dtype != jnp.float32:
                # Not by a cast of params: batch statistics, which are float32, would
                # turn all that follows them into float32 again.
                model.set_attributes(dtype=dtype)
            logits = model(x, rngs=nnx.Rngs(dropout=key)).astype(jnp.float32)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    return forward


def make_train_step(
    forward: Forward,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    augment: Augment | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
    masks_of: Callable[[optax.OptState], Any] | None = None,
    shardings: Any = None,
    copied: jax.sharding.Sharding | None = None,
) -> TrainStep:
    """Returns the compiled step `(state, batch) -> state, measured`.

    The state passed in is donated. Measured are f32[]: loss, accuracy and gradient_norm
    of the batch before the step, weight_norm after it.

    Args:
      forward: of `make_forward`.
      optimizer: takes one step a batch.
      label_smoothing: share of each label that is spread over all classes.
      augment: `augment(key, batch) -> batch`, of the whole batch. If it adds a
        "target", f32[batch, classes], that takes the place of the labels, and is
        smoothed as they are.
      accumulate: micro-batches that a batch is worked off in, one after the other, to
        save memory. Gradients are their mean. Batch normalisation looks at one
        micro-batch at a time, and its statistics move with each.
      ema: decay of the averages in `state["ema"]`, which start as what they average;
        0 does without them.
      masks_of: gives the masks in an optimizer's state, off which the averages are
        exactly 0 too; None where nothing is sparse.
      shardings: of the state that is returned, on many devices; None on one. Batch
        normalisation looks at the whole batch, or micro-batch, of all devices.
      copied: sharding of what is measured, likewise.
    """

    def loss_of(params, model_state, batch, key):
        logits, model_state = forward(params, model_state, batch["image"], key)
        labels = batch.get("target")
        if labels is None:
            labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        labels = optax.smooth_labels(labels, label_smoothing)
        loss = optax.softmax_cross_entropy(logits, labels).mean()
        accuracy = jnp.mean(logits.argmax(-1) == batch["label"])
        return loss, (model_state, {"loss": loss, "accuracy": accuracy})

    def gradient(params, model_state, batch, key):
        grads, (model_state, scores) = jax.grad(loss_of, has_aux=True)(
            params, model_state, batch, key
        )
        return model_state, (grads, scores)

    if accumulate > 1:
        gradient = _accumulated(gradient, accumulate)

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, copied))
    def train_step(state, batch):
        if augment:
            batch = augment(_augmentation_key(state), batch)
        params = state["params"]
        key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
        model_state, (grads, scores) = gradient(
            params, state["model_state"], batch, key
        )
        updates, opt_state = optimizer.update(grads, state["opt_state"], params)
        params = optax.apply_updates(params, updates)
        measured = scores | {
            "gradient_norm": optax.tree_utils.tree_norm(grads),
            "weight_norm": optax.tree_utils.tree_norm(params),
        }
        state = state | {
            "params": params,
            "model_state": model_state,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        if ema:
            masks = masks_of(opt_state) if masks_of else None
            state["ema"] = _averaged(state, ema, masks)
        return state, measured

    return train_step


def _augmentation_key(state: State) -> jax.Array:
    """A key for each step that no other use of the state's rng shares."""
    key = jax.random.wrap_key_data(state["rng"])
    key = jax.random.fold_in(key, jnp.uint32(_AUGMENTATION))
    return jax.random.fold_in(key, state["step"])


def evaluated(state: State) -> State:
    """Where a state has the params and model_state to evaluate: averages, if any."""
    return state.get("ema", state)


def _accumulated(gradient, count: int):
    """The same function of a batch, worked off in `count` micro-batches."""

    def split(leaf):
        # Every count-th example, so that of a batch sharded over devices each device
        # works on what it has.
        return leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1)

    def accumulated(params, model_state, batch, key):
        def add(carry, part):
            model_state, sums = carry
            index, micro_batch = part
            model_state, values = gradient(
                params, model_state, micro_batch, jax.random.fold_in(key, index)
            )
            return (model_state, jax.tree.map(jnp.add, sums, values)), None

        parts = jnp.arange(count), jax.tree.map(split, batch)
        first = jax.tree.map(lambda leaf: leaf[0], parts[1])
        _, values = jax.eval_shape(gradient, params, model_state, first, key)
        zeros = jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), values)
        (model_state, sums), _ = jax.lax.scan(add, (model_state, zeros), parts)
        return model_state, jax.tree.map(lambda total: total / count, sums)

    return accumulated


def _averaged(state: State, decay: float, masks: Any) -> dict[str, Any]:
    """The averages after a step; of weights that do not exist they are 0."""
    now = {name: state[name] for name in ("params", "model_state")}
    averages = optax.incremental_update(now, state["ema"], 1 - decay)
    if masks is not None:
        averages["params"] = apply_masks(averages["params"], masks)
    return averages


def make_evaluate(
    forward: Forward, copied: jax.sharding.Sharding | None = None
) -> Callable[[State, Iterable[Batch]], dict[str, float]]:
    """Returns `evaluate(state, batches) -> {loss, accuracy}`, means over examples.

    Of a state that averages its weights, the averages are evaluated. Batches hold
    image, label, and weight f32[batch], which is 0 where they are padded. On many
    devices, `copied` is the sharding of a result that all of them have.
    """

    @partial(jax.jit, out_shardings=copied)
    def sums(params, model_state, batch):
        logits, _ = forward(params, model_state, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = logits.argmax(-1) == batch["label"]
        weight = batch["weight"]
        return jnp.sum(losses * weight), jnp.sum(right * weight), jnp.sum(weight)

    def evaluate(state, batches):
        weights = evaluated(state)
        parts = [sums(weights["params"], weights["model_state"], b) for b in batches]
        loss, right, total = np.sum(jax.device_get(parts), axis=0)
        return {"loss": float(loss / total), "accuracy": float(right / total)}

    return evaluate
