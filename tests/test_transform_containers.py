"""The transform reads parameters of any library, and runs under any jax transform.

Where only the reading is tried, a rule that compiles at once stands for SRigL.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny
from flax import nnx

from srigl_jax import (
    apply_masks,
    check_masks,
    get_masks,
    make_plan,
    set_,
    sparsify,
    srigl,
)


def sparse(inner=None):
    return sparsify(inner or optax.adam(0.02), 0.75, rule=tiny.nudge, **tiny.SCHEDULE)


def mlp(weights, inputs):
    return jnp.tanh(inputs @ weights[0]) @ weights[1]


def weights():
    params = tiny.params()
    return params["hidden"]["kernel"], params["head"]["kernel"]


def train(params, loss, optimizer=None, steps=5):
    """Steps 0 to 4, with updates at 2 and 4; returns what it learned and the masks."""
    optimizer = optimizer or sparse()
    plan = make_plan(params, 0.75)
    state, step = optimizer.init(params), tiny.make_step(optimizer, loss)
    start, initial = loss(params), get_masks(state)
    for _ in range(steps):
        params, state, _ = step(params, state)
        check_masks(get_masks(state), plan, params)
    assert loss(params) < start
    assert not same(initial, get_masks(state))
    assert step._cache_size() == 1
    return params, get_masks(state)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("container", [tuple, list])
def test_sequences_of_arrays(container):
    inputs, labels = tiny.batch()
    params = container(weights())
    trained, masks = train(params, lambda p: tiny.cross_entropy(mlp(p, inputs), labels))
    assert type(trained) is type(masks) is container


def test_none_stands_for_what_a_network_does_not_have():
    inputs, labels = tiny.batch()
    params = {"layers": list(weights()), "bias": None}
    _, masks = train(
        params, lambda p: tiny.cross_entropy(mlp(p["layers"], inputs), labels)
    )
    assert masks["bias"] is None


def test_linen_parameters():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3))(x.reshape(-1, 4, 4, 1))
            x = nn.LayerNorm()(nn.relu(x))
            return nn.Dense(10)(x.reshape(len(x), -1))

    inputs, labels = tiny.batch()
    variables = Network().init(jax.random.key(0), inputs)
    _, masks = train(
        variables, lambda v: tiny.cross_entropy(Network().apply(v, inputs), labels)
    )
    masks = masks["params"]
    assert masks["Conv_0"]["kernel"].shape == (3, 3, 1, 8)
    assert masks["Dense_0"]["bias"] == masks["LayerNorm_0"]["scale"]
    assert masks["Dense_0"]["bias"] == optax.MaskedNode()


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(16, 24, rngs=rngs)])
        self.norm = nnx.BatchNorm(24, rngs=rngs)
        self.head = nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, inputs):
        for layer in self.layers:
            inputs = layer(inputs)
        return self.head(nnx.relu(self.norm(inputs)))


def test_nnx_optimizer_and_functional_nnx_learn_the_same():
    inputs, labels = tiny.batch()
    model = NnxNetwork(nnx.Rngs(0))
    graph, params, rest = nnx.split(NnxNetwork(nnx.Rngs(0)), nnx.Param, ...)
    optimizer = nnx.Optimizer(model, sparse(), wrt=nnx.Param)
    plan = make_plan(params, 0.75)
    assert [layer.is_sparse for layer in plan.values()] == [True, True]

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: tiny.cross_entropy(m(inputs), labels))(model)
        optimizer.update(model, grads)

    for _ in range(5):
        step(model, optimizer)
        # nnx wraps what its optimizer holds; as pure dicts all trees are alike.
        weights = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        masks = nnx.to_pure_dict(get_masks(optimizer.opt_state))
        check_masks(masks, plan, weights)
        assert same(apply_masks(weights, masks), weights)

    def loss(params):
        network = nnx.merge(graph, params, rest, copy=True)
        return tiny.cross_entropy(network(inputs), labels)

    _, functional_masks = train(params, loss)
    assert same(nnx.to_pure_dict(functional_masks), masks)


def test_equinox_modules():
    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __call__(self, x):
            x = self.conv(x.reshape(1, 4, 4))
            return self.head(jnp.tanh(x).reshape(-1))

    keys = jax.random.split(jax.random.key(0))
    model = Network(
        eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0]),
        eqx.nn.Linear(128, 10, key=keys[1]),
    )
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    inputs, labels = tiny.batch()

    def loss(params):
        return tiny.cross_entropy(jax.vmap(eqx.combine(params, rest))(inputs), labels)

    trained, masks = train(params, loss)
    # Neurons come first: (out, in, kh, kw) and (out, in).
    assert set(np.unique(masks.conv.weight.sum(axis=(1, 2, 3)))) <= {0, *range(3, 10)}
    (fan_in,) = set(masks.head.weight.sum(axis=1).tolist())
    assert fan_in == make_plan(params, 0.75)["head/weight"].fan_in
    assert trained.conv.bias.shape == (8, 1, 1)


def test_shapes_are_enough_to_initialise():
    params, optimizer = tiny.params(), sparse()
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    abstract = jax.eval_shape(optimizer.init, shapes)
    concrete = jax.eval_shape(lambda: optimizer.init(params))
    assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
    assert jax.tree.leaves(abstract) == jax.tree.leaves(concrete)


@pytest.mark.parametrize("empty", [{}, (), []])
def test_an_empty_tree_is_a_network_without_parameters(empty):
    optimizer = sparse()
    state = optimizer.init(empty)
    updates, state = jax.jit(optimizer.update)(empty, state, empty)
    assert updates == empty
    assert get_masks(state) == empty


@pytest.mark.parametrize("make", [srigl, set_])
def test_a_vmap_over_seeds_equals_the_separate_runs(make):
    params = tiny.params()

    def run(seed):
        optimizer = make(
            optax.sgd(0.5),
            0.75,
            seed=seed,
            dense=["head"],
            distribution="uniform",
            **tiny.SCHEDULE,
        )

        def step(carry, grads):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (trained, state), _ = jax.lax.scan(
            step, (params, optimizer.init(params)), GRADS
        )
        return trained, get_masks(state)["hidden"]["kernel"]

    together = jax.jit(jax.vmap(run))(jnp.arange(3))
    alone = [jax.jit(run)(seed) for seed in range(3)]
    assert same(together, jax.tree.map(lambda *runs: jnp.stack(runs), *alone))
    _, masks = together
    assert not np.array_equal(masks[0], masks[1])


# The same for all seeds, so that vmapped products cannot round differently.
GRADS = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *(tiny.params(seed=s) for s in range(10, 15))
)


def test_a_scan_equals_a_loop_and_donated_buffers_change_nothing():
    optimizer = sparse(optax.sgd(0.5))

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = tiny.params()
    start = params, optimizer.init(params)
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, GRADS))(start)
    donating = jax.jit(lambda *args: step(*args)[0], donate_argnums=0)
    looped = jax.tree.map(jnp.copy, start)
    for i in range(5):
        looped = donating(looped, jax.tree.map(lambda g, i=i: g[i], GRADS))
    assert same(scanned, looped)
