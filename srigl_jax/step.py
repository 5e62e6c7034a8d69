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

from srigl_jax.data.augment import Augment

State = dict[str, Any]
"""params, model_state (batch statistics), opt_state, rng (key data), and step: the
number of optimizer steps taken, which is also the position in the data. What else is in
it, such as explored weights, a training step passes on as it is."""

Batch = dict[str, np.ndarray]
Forward = Callable[..., tuple[jax.Array, Any]]

_AUGMENTATION = 2**32 - 1  # Folded into the key; no step is as large.


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """A network as (static definition, params, all other state), both plain dicts."""
    definition, params, rest = nnx.split(model, nnx.Param, ...)
    return definition, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def make_forward(
    definition: nnx.GraphDef, mean: tuple[float, ...], std: tuple[float, ...]
) -> Forward:
    """Returns `forward(params, model_state, images, key=None) -> logits, model_state`.

    Images are [batch, height, width, channels], uint8 or, where augmentation has mixed
    them, float32 in the same units; mean and std are of their channels. With a PRNG key
    the network is in training mode: dropout drops, and batch statistics are those of
    the batch.
    """
    mean, std = np.float32(mean), np.float32(std)

    def forward(params, model_state, images, key=None):
        model = nnx.merge(definition, params, model_state)
        x = (images.astype(jnp.float32) - mean) / std
        if key is None:
            model.eval()
            logits = model(x)
        else:
            model.train()
            logits = model(x, rngs=nnx.Rngs(dropout=key))
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    return forward


def make_train_step(
    forward: Forward,
    optimizer: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    augment: Augment | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
    """Returns the compiled step `(state, batch) -> state, measured`.

    `augment(key, batch) -> batch` comes first, with a key of the state's rng and step.
    If it gives the batch a "target", f32[batch, classes], that takes the place of the
    labels, and is smoothed as they are.

    The state passed in is donated. Measured are f32[]: loss, accuracy and gradient_norm
    of the batch before the step, weight_norm after it.
    """

    def loss_of(params, state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
        logits, model_state = forward(params, state["model_state"], batch["image"], key)
        labels = batch.get("target")
        if labels is None:
            labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        labels = optax.smooth_labels(labels, label_smoothing)
        loss = optax.softmax_cross_entropy(logits, labels).mean()
        accuracy = jnp.mean(logits.argmax(-1) == batch["label"])
        return loss, (model_state, accuracy)

    @partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        if augment:
            batch = augment(_augmentation_key(state), batch)
        params = state["params"]
        (loss, (model_state, accuracy)), grads = jax.value_and_grad(
            loss_of, has_aux=True
        )(params, state, batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"], params)
        params = optax.apply_updates(params, updates)
        measured = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.tree_utils.tree_norm(grads),
            "weight_norm": optax.tree_utils.tree_norm(params),
        }
        state = state | {
            "params": params,
            "model_state": model_state,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return state, measured

    return train_step


def _augmentation_key(state: State) -> jax.Array:
    """A key for each step that no other use of the state's rng shares."""
    key = jax.random.wrap_key_data(state["rng"])
    key = jax.random.fold_in(key, jnp.uint32(_AUGMENTATION))
    return jax.random.fold_in(key, state["step"])


def make_evaluate(
    forward: Forward,
) -> Callable[[State, Iterable[Batch]], dict[str, float]]:
    """Returns `evaluate(state, batches) -> {loss, accuracy}`, means over examples.

    Batches hold image, label, and weight f32[batch], which is 0 where they are padded.
    """

    @jax.jit
    def sums(params, model_state, batch):
        logits, _ = forward(params, model_state, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = logits.argmax(-1) == batch["label"]
        weight = batch["weight"]
        return jnp.sum(losses * weight), jnp.sum(right * weight), jnp.sum(weight)

    def evaluate(state, batches):
        parts = [sums(state["params"], state["model_state"], b) for b in batches]
        loss, right, total = np.sum(jax.device_get(parts), axis=0)
        return {"loss": float(loss / total), "accuracy": float(right / total)}

    return evaluate
