"""Forward pass, training step and evaluation, on networks small enough to work out."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import srigl_jax
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
def network(name, dtype=jnp.float32, **options):
    model = models.create(name, (4, 4, 2), 3, rngs=nnx.Rngs(0), **options)
    definition, params, model_state = split_model(model)
    return make_forward(definition, MEAN, STD, dtype=dtype), params, model_state


def fresh(tree):
    """A copy, which a training step may be given to reuse."""
    return jax.tree.map(jnp.array, tree)


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


def classes_of(batch=12):
    return {
        "image": images_of(batch),
        "label": np.arange(batch, dtype=np.int32) % 3,
    }


def trained(optimizer, steps=1, batch=None, masks_of=None, **options):
    """State and measurements after steps of an MLP, each with another batch."""
    forward, params, model_state = network("mlp", widths=(8,))
    step = make_train_step(forward, optimizer, masks_of=masks_of, **options)
    state = state_of(fresh(params), optimizer, fresh(model_state))
    if options.get("ema"):
        ema = {"params": params, "model_state": model_state}
        state["ema"] = fresh(ema)
    for number in range(steps):
        batch = classes_of()
        batch["image"] = np.roll(batch["image"], number, axis=1)
        state, measured = step(state, batch)
    return state, measured


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_micro_batches_add_up_to_the_step_of_their_batch(accumulate):
    whole, expected = trained(optax.sgd(0.1))
    parts, measured = trained(optax.sgd(0.1), accumulate=accumulate)
    for a, b in zip(
        jax.tree.leaves((parts["params"], measured)),
        jax.tree.leaves((whole["params"], expected)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert parts["step"] == 1


def test_a_batch_is_augmented_whole_and_its_targets_split_with_it():
    def augment(key, batch):
        return batch | {
            "target": jnp.roll(jax.nn.one_hot(batch["label"], 3), 1, axis=0)
        }

    whole, expected = trained(optax.sgd(0.1), augment=augment)
    parts, measured = trained(optax.sgd(0.1), augment=augment, accumulate=4)
    assert measured["loss"] != trained(optax.sgd(0.1))[1]["loss"]
    for a, b in zip(
        *map(
            jax.tree.leaves, ((parts["params"], measured), (whole["params"], expected))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs 4 devices")
def test_devices_that_share_a_batch_share_each_micro_batch():
    optimizer = optax.sgd(0.1)
    forward, params, model_state = network("mlp", widths=(8,))
    step = make_train_step(forward, optimizer, accumulate=2)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    state = jax.device_put(state_of(fresh(params), optimizer, model_state), whole)
    batch = jax.device_put(classes_of(16), rows)
    program = step.lower(state, batch).compile().as_text()
    # Gradients are summed over devices; examples stay where they are.
    assert "all-reduce" in program
    assert not re.search("all-to-all|all-gather|collective-permute", program)
    shared, _ = step(state, batch)
    alone, _ = step(state_of(fresh(params), optimizer, model_state), classes_of(16))
    for a, b in zip(*map(jax.tree.leaves, (shared, alone)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_grows_is_decided_by_the_gradient_of_the_whole_batch():
    def masks(**options):
        # The topology changes in the third and the fifth step, by the mean of two.
        optimizer = srigl_jax.rigl(
            optax.sgd(0.1), 0.7, delta_t=2, t_end=7, gradient_window=2
        )
        state, _ = trained(optimizer, steps=5, **options)
        return srigl_jax.get_masks(state["opt_state"])

    assert same(masks(accumulate=3), masks())
    one_step = srigl_jax.rigl(optax.sgd(0.1), 0.7, delta_t=2, t_end=7)
    state, _ = trained(one_step, steps=2)  # No update yet.
    assert not same(srigl_jax.get_masks(state["opt_state"]), masks())


def test_statistics_move_with_each_micro_batch():
    def forward(params, model_state, images, key):
        logits, _ = table(params, model_state, images - 1)
        return logits, (model_state + images.mean()) / 2

    optimizer = optax.sgd(1.0)
    step = make_train_step(forward, optimizer, accumulate=2)
    state = state_of({"logits": jnp.zeros((4, 2))}, optimizer, jnp.zeros([]))
    # Every second image: 1 and 3, then 2 and 4.
    state, _ = step(state, batch_of([1, 2, 3, 4], [0, 0, 1, 1]))
    assert state["model_state"] == ((0 + 2) / 2 + 3) / 2


def test_each_micro_batch_drops_other_neurons():
    def forward(params, model_state, images, key):
        logits, _ = table(params, model_state, images)
        return logits, jnp.stack([*model_state[1:], jax.random.bits(key)])

    optimizer = optax.sgd(1.0)
    step = make_train_step(forward, optimizer, accumulate=3)
    state = state_of({"logits": jnp.zeros((3, 2))}, optimizer, jnp.zeros(3, jnp.uint32))
    state, _ = step(state, batch_of([0, 1, 2], [0, 1, 1]))
    assert len(set(state["model_state"].tolist())) == 3


NETWORKS = {
    "mlp": dict(widths=(8,)),
    "convnet": dict(widths=(4,), hidden=5),
    "resnet18": dict(width=4),
    "wide_resnet": dict(depth=10, width=4),
    "mobilenet_v3_small": dict(multiplier=0.25),
    "vit": dict(patch=2, width=8, depth=1, heads=2),
}
PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
    """All of a program, those of the functions that it calls included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for called in value if isinstance(value, tuple | list) else [value]:
                called = getattr(called, "jaxpr", called)
                if hasattr(called, "eqns"):
                    yield from equations(called)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_product_of_training_in_bfloat16_is_of_float32_alone(name):
    forward, params, model_state = network(name, "bfloat16", **NETWORKS[name])

    def loss(params):
        return forward(params, model_state, images_of(), jax.random.key(0))[0].sum()

    program = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
    factors = [
        {factor.aval.dtype.name for factor in equation.invars}
        for equation in equations(program)
        if equation.primitive.name in PRODUCTS
    ]
    # Attention leaves its scores, which are products of bfloat16, in float32.
    assert factors
    assert all("bfloat16" in dtypes for dtypes in factors)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_leaves_logits_and_gradients_and_statistics_in_float32(name):
    forward, params, model_state = network(name, "bfloat16", **NETWORKS[name])

    def loss(params):
        logits, state = forward(params, model_state, images_of(), jax.random.key(0))
        return logits.sum(), (logits, state)

    leaves = jax.tree.leaves(jax.eval_shape(jax.grad(loss, has_aux=True), params))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


@pytest.mark.parametrize("name", ["convnet", "vit"])
def test_bfloat16_is_near_float32(name):
    images, key = images_of(), jax.random.key(0)
    (found, state), (logits, expected) = (
        # The head of a ViT starts at 0.
        jax.jit(forward)(
            jax.tree.map(lambda leaf: leaf + 0.1, params), model_state, images, key
        )
        for forward, params, model_state in (
            network(name, dtype, **NETWORKS[name]) for dtype in ("bfloat16", "float32")
        )
    )
    assert not same(found, logits)
    np.testing.assert_allclose(found, logits, rtol=0.1, atol=0.1)
    for a, b in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.01)


def test_evaluation_is_in_float32_whatever_training_is_in():
    forward, params, model_state = network("convnet", "bfloat16", widths=(4,))
    exact, _, _ = network("convnet", widths=(4,))
    images = images_of()
    assert same(
        forward(params, model_state, images), exact(params, model_state, images)
    )


def test_averages_worked_by_hand():
    def forward(params, model_state, images, key):
        return table(params, model_state, images)[0], model_state + 8

    optimizer = optax.sgd(1.0)
    state = state_of({"logits": jnp.zeros((2, 2))}, optimizer, jnp.zeros([]))
    state["ema"] = fresh({name: state[name] for name in ("params", "model_state")})
    step = make_train_step(forward, optimizer, ema=0.75)
    state, _ = step(state, batch_of([0, 1], [0, 1]))
    # The step ends at a quarter, as above; the average goes a quarter of the way.
    first = np.array([[1, -1], [-1, 1]]) / 16
    np.testing.assert_allclose(state["ema"]["params"]["logits"], first)
    assert state["ema"]["model_state"] == 2
    state, _ = step(state, batch_of([0, 1], [0, 1]))
    second = 0.75 * first + 0.25 * state["params"]["logits"]
    np.testing.assert_allclose(state["ema"]["params"]["logits"], second, rtol=1e-6)
    assert state["ema"]["model_state"] == 0.75 * 2 + 0.25 * 16


def test_averages_of_weights_that_do_not_exist_are_zero():
    optimizer = srigl_jax.srigl(optax.sgd(0.5), 0.7, delta_t=2, t_end=7)
    options = dict(ema=0.9, masks_of=srigl_jax.get_masks)
    before, _ = trained(optimizer, steps=2, **options)
    after, _ = trained(optimizer, steps=3, **options)  # It ends in an update.
    was, is_ = (
        srigl_jax.get_masks(state["opt_state"])["layers"][0]["kernel"]
        for state in (before, after)
    )
    kernels = [
        state["ema"]["params"]["layers"][0]["kernel"] for state in (before, after)
    ]
    pruned, grown = was & ~is_, is_ & ~was
    assert pruned.any() and kernels[0][pruned].all()
    assert not kernels[1][~is_].any()
    assert not kernels[1][grown].any()  # They start at 0, as the weights do.
    assert kernels[1][was & is_].all()


def test_without_averages_the_state_has_none():
    state, _ = trained(optax.sgd(0.1))
    assert "ema" not in state


def test_averages_are_evaluated_where_there_are_any():
    worse, better = (
        {"params": {"logits": jnp.log(jnp.array([p]))}, "model_state": ()}
        for p in ([3.0, 1.0], [1.0, 3.0])
    )
    batches = [batch_of([0], [1], weight=np.float32([1]))]
    assert make_evaluate(table)(worse, batches)["accuracy"] == 0
    assert make_evaluate(table)(worse | {"ema": better}, batches)["accuracy"] == 1


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
