"""Forward pass, training step and evaluation, on networks small enough to work out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from srigl_jax import models
from srigl_jax.step import make_evaluate, make_forward, make_train_step, split_model

MEAN, STD = (3.0, 5.0), (2.0, 4.0)


def table(params, model_state, images, key=None):
    """A forward pass that looks its logits up: row 0 for image 0, and so on."""
    return params["logits"][images[:, 0, 0, 0]], model_state


def state_of(params, optimizer, model_state=()):
    return {
        "params": params,
        "model_state": model_state,
        "opt_state": optimizer.init(params),
        "rng": jax.random.key_data(jax.random.key(0)),
        "step": jnp.zeros([], jnp.int32),
    }


def batch_of(images, labels, **more):
    images = np.asarray(images, np.uint8).reshape(-1, 1, 1, 1)
    return {"image": images, "label": np.asarray(labels, np.int32)} | more


def images_of(batch=6, shape=(4, 4, 2)):
    values = np.random.default_rng(0).integers(0, 16, (batch, *shape))
    return values.astype(np.uint8)


@functools.cache
def network(name, **options):
    model = models.create(name, (4, 4, 2), 3, rngs=nnx.Rngs(0), **options)
    definition, params, model_state = split_model(model)
    return make_forward(definition, MEAN, STD), params, model_state


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_model_is_split_into_plain_dicts():
    _, params, model_state = network("convnet", widths=(4,), hidden=5)
    assert set(params) == {"convs", "hidden", "norms", "head"}
    assert type(params["head"]) is dict
    assert set(model_state["norms"][0]) == {"mean", "var"}


def test_forward_normalises_each_channel():
    forward, params, model_state = network("mlp", widths=())
    images = images_of()
    x = (images - np.array([3.0, 5.0])) / np.array([2.0, 4.0])
    layer = params["layers"][0]
    expected = x.reshape(6, -1) @ layer["kernel"] + layer["bias"]
    logits, _ = forward(params, model_state, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_evaluation_repeats_itself():
    forward, params, model_state = network("mlp", widths=(8,), dropout=0.5)
    once, _ = forward(params, model_state, images_of())
    assert same(once, forward(params, model_state, images_of())[0])


def test_a_key_drops_at_random():
    forward, params, model_state = network("mlp", widths=(8,), dropout=0.5)
    keys = jax.random.key(1), jax.random.key(2)
    first, second = (forward(params, model_state, images_of(), k)[0] for k in keys)
    again, _ = forward(params, model_state, images_of(), keys[0])
    assert same(first, again)
    assert not same(first, second)


def test_training_moves_the_batch_statistics():
    forward, params, model_state = network("convnet", widths=(4,), hidden=5)
    _, after = forward(params, model_state, images_of(), jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(model_state)
    assert not same(after["norms"], model_state["norms"])


def test_evaluation_leaves_the_batch_statistics_alone():
    forward, params, model_state = network("convnet", widths=(4,), hidden=5)
    _, after = forward(params, model_state, images_of())
    assert same(after, model_state)


def test_evaluation_does_not_depend_on_the_rest_of_the_batch():
    forward, params, model_state = network("convnet", widths=(4,), hidden=5)
    whole, _ = forward(params, model_state, images_of())
    part, _ = forward(params, model_state, images_of()[:2])
    np.testing.assert_allclose(whole[:2], part, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("label_smoothing", "loss"),
    # Probabilities 1/4 and 3/4; smoothed by 0.2, the label 1 is (0.1, 0.9).
    [(0.0, -np.log(0.75)), (0.2, -0.1 * np.log(0.25) - 0.9 * np.log(0.75))],
)
def test_the_loss_is_the_smoothed_cross_entropy(label_smoothing, loss):
    optimizer = optax.sgd(0.0)
    state = state_of({"logits": jnp.log(jnp.array([[1.0, 3.0]]))}, optimizer)
    step = make_train_step(table, optimizer, label_smoothing=label_smoothing)
    _, measured = step(state, batch_of([0], [1]))
    np.testing.assert_allclose(measured["loss"], loss, rtol=1e-5)


def test_a_step_descends_the_gradient_and_measures_it():
    optimizer = optax.sgd(1.0)
    state = state_of({"logits": jnp.zeros((2, 2))}, optimizer)
    # Softmax is (1/2, 1/2): each gradient is (-1/2, 1/2) / 2 examples, or its negative.
    state, measured = make_train_step(table, optimizer)(state, batch_of([0, 1], [0, 1]))
    logits = [[0.25, -0.25], [-0.25, 0.25]]
    np.testing.assert_allclose(state["params"]["logits"], logits)
    np.testing.assert_allclose(measured["gradient_norm"], 0.5)
    np.testing.assert_allclose(measured["weight_norm"], 0.5)
    np.testing.assert_allclose(measured["accuracy"], 0.5)
    assert state["step"] == 1


def test_each_step_drops_other_neurons():
    forward, params, model_state = network("mlp", widths=(8,), dropout=0.5)
    optimizer = optax.sgd(0.0)
    step = make_train_step(forward, optimizer)
    state, batch = state_of(params, optimizer, model_state), batch_of([], [])
    batch["image"], batch["label"] = images_of(), np.zeros(6, np.int32)
    state, first = step(state, batch)
    state, second = step(state, batch)
    assert first["loss"] != second["loss"]


def test_training_compiles_once():
    traced = []

    def forward(*args):
        traced.append(1)
        return table(*args)

    optimizer = optax.sgd(1.0)
    state = state_of({"logits": jnp.zeros((2, 2))}, optimizer)
    step = make_train_step(forward, optimizer)
    for _ in range(3):
        state, _ = step(state, batch_of([0, 1], [0, 1]))
    assert len(traced) == 1


def test_evaluation_is_the_mean_over_examples_without_the_padding():
    params = {"logits": jnp.log(jnp.array([[1.0, 3.0], [3.0, 1.0]]))}
    evaluate = make_evaluate(table)
    batches = [
        batch_of([0, 0], [1, 1], weight=np.float32([1, 1])),
        batch_of([1, 0], [1, 1], weight=np.float32([1, 0])),
    ]
    scores = evaluate({"params": params, "model_state": ()}, batches)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    loss = -(2 * np.log(0.75) + np.log(0.25)) / 3
    assert scores["loss"] == pytest.approx(loss)
    assert {type(value) for value in scores.values()} == {float}


def test_a_target_takes_the_place_of_the_labels_and_is_smoothed_like_them():
    logits = np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0]], np.float32)
    target = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], np.float32)
    optimizer = optax.sgd(0.0)
    step = make_train_step(
        table,
        optimizer,
        label_smoothing=0.3,
        augment=lambda key, batch: batch | {"target": jnp.asarray(target)},
    )
    state = state_of({"logits": jnp.asarray(logits)}, optimizer)
    _, measured = step(state, batch_of([0, 1], [0, 2]))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -((0.7 * target + 0.1) * log_probs).sum(-1).mean()
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-6)


def test_the_key_of_augmentation_is_of_the_step_and_not_that_of_dropout():
    def augment(key, batch):
        return batch | {"target": jnp.zeros((1, 3)) + jax.random.uniform(key, (1, 3))}

    def forward(params, model_state, images, key=None):
        return params["logits"], jax.random.uniform(key, (1, 3))

    optimizer = optax.sgd(0.0)
    step = make_train_step(forward, optimizer, augment=augment)
    state = state_of({"logits": jnp.zeros((1, 3))}, optimizer, jnp.zeros((1, 3)))
    losses = []
    for _ in range(2):
        state, measured = step(state, batch_of([0], [0]))
        losses.append(float(measured["loss"]))
    # The loss is log 3 times the sum of the target.
    dropout_draw = np.log(3) * np.asarray(state["model_state"]).sum()
    assert losses[0] != losses[1]
    assert losses[1] != pytest.approx(dropout_draw, rel=1e-4)
