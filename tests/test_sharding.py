"""Eight devices find the topology that one device finds.

A float sum depends on the order in which devices add, and one last bit can exchange
two ranks. So the data here are such that every order gives the same sum: small integers
and powers of two, whose products and sums float32 holds exactly, or gradients that were
computed beforehand. What is left to differ is the topology update itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network as tiny
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srigl_jax import check_masks, get_masks, make_plan, srigl

KERNELS = {"hidden": (3, 3, 4, 16), "head": (16, 8)}
STEPS = 7


@pytest.fixture
def mesh():
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs 8 devices")
    return Mesh(np.array(devices[:8]), ("data",))


def integers(seed, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).integers(-8, 9, shape), dtype)


def parameters():
    return {name: integers(i, s) / 16 for i, (name, s) in enumerate(KERNELS.items())}


def run(optimizer, params, gradient, batches):
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(gradient(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for batch in batches:
        params, state = step(params, state, batch)
        history.append(jax.tree.map(np.asarray, get_masks(state)))
    check_masks(get_masks(state), make_plan(params, 0.75), params)
    return params, state, history


def assert_same_topologies(one, many):
    assert jax.tree.all(jax.tree.map(np.array_equal, one, many))
    changed = [not np.array_equal(m["hidden"], one[0]["hidden"]) for m in one]
    assert changed[:3] == [False, False, True]  # The first update is at step 2.


def bilinear_gradient(params, batch):
    """Of the mean of x' W y over the examples: exact, whatever the order of adding."""

    def loss(params):
        values = [
            jnp.einsum("bi,io,bo->b", x, params[name].reshape(x.shape[1], -1), y)
            for name, (x, y) in batch.items()
        ]
        return jnp.mean(sum(values))

    return jax.grad(loss)(params)


def test_data_parallel_training_has_the_masks_of_one_device(mesh):
    optimizer = srigl(optax.sgd(2.0**-6, momentum=0.5), 0.75, **tiny.SCHEDULE)
    sizes = {"hidden": (36, 16), "head": (16, 8)}
    batches = [
        {
            name: tuple(integers(10 * t + i, (64, size)) for i, size in enumerate(s))
            for name, s in sizes.items()
        }
        for t in range(STEPS)
    ]
    params = parameters()
    one, _, expected = run(optimizer, params, bilinear_gradient, batches)
    split = jax.device_put(batches, NamedSharding(mesh, P("data")))
    copied = jax.device_put(params, NamedSharding(mesh, P()))
    many, state, got = run(optimizer, copied, bilinear_gradient, split)
    assert_same_topologies(expected, got)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert get_masks(state)["hidden"].sharding.is_fully_replicated


def test_parameters_sharded_over_neurons_have_the_masks_of_one_device(mesh):
    shardings = {
        name: NamedSharding(mesh, P(*[None] * (len(shape) - 1), "data"))
        for name, shape in KERNELS.items()
    }
    optimizer = srigl(optax.adam(0.02), 0.75, **tiny.SCHEDULE)
    rng = np.random.default_rng(0)
    grads = [
        {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in KERNELS.items()}
        for _ in range(STEPS)
    ]
    params = parameters()
    one, _, expected = run(optimizer, params, lambda _, g: g, grads)
    split = [jax.device_put(g, shardings) for g in grads]
    placed = jax.device_put(params, shardings)
    many, state, got = run(optimizer, placed, lambda _, g: g, split)
    assert_same_topologies(expected, got)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, many)
    for name, mask in get_masks(state).items():
        assert mask.sharding.is_equivalent_to(shardings[name], mask.ndim)


def test_initial_masks_lie_where_the_parameters_lie(mesh):
    sharding = NamedSharding(mesh, P(None, None, None, "data"))
    optimizer = srigl(optax.sgd(0.1), 0.75, **tiny.SCHEDULE)
    params = {"hidden": parameters()["hidden"]}
    alone = get_masks(optimizer.init(params))["hidden"]
    spread = get_masks(optimizer.init(jax.device_put(params, sharding)))["hidden"]
    assert spread.sharding == sharding
    np.testing.assert_array_equal(alone, spread)
