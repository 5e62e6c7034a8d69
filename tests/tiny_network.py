"""A network of two layers that many tests train for a few steps, and what must hold.

16 inputs, 24 hidden units, 10 classes. No two kernels of it have the same shape, so a
moment of either can be told by its shape, without asking optax.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srigl_jax import SparsityState, check_masks, make_plan

SPARSITY = 0.75
STEPS = 8
# Topology updates at steps 2, 4 and 6.
SCHEDULE = dict(delta_t=2, t_end=7)
UPDATES = [2, 4, 6]


def params(dtype=jnp.float32, seed=0):
    """Dense, as an unsuspecting user starts."""
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), dtype)

    return {
        "hidden": {"kernel": kernel(16, 24), "bias": jnp.zeros(24, dtype)},
        "head": {"kernel": kernel(24, 10), "bias": jnp.zeros(10, dtype)},
    }


def batch(size=64, seed=1):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, 16)).astype(np.float32)
    teacher = rng.normal(size=(16, 10))
    return jnp.asarray(inputs), jnp.asarray(np.argmax(inputs @ teacher, axis=1))


def apply(params, inputs):
    hidden = inputs.astype(params["hidden"]["kernel"].dtype)
    hidden = jnp.tanh(hidden @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def cross_entropy(logits, labels):
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss(params):
    inputs, labels = batch()
    return cross_entropy(apply(params, inputs), labels)


def make_step(optimizer, loss=loss):
    """A jitted training step that also gives the optimizer the loss, as some want."""
    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    return step


def nudge(layer, weights, grads, mask, *, fraction, key):
    """Moves every weight of a fourth of the neurons: a rule that compiles at once."""
    moves = jnp.arange(mask.shape[1]) % 4 == 0
    return jnp.where(moves, jnp.roll(mask, 1, axis=0), mask)


def sparsity_state(state):
    """The one `SparsityState` in an optimizer state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, SparsityState))
    (found,) = [n for n in nodes if isinstance(n, SparsityState)]
    return found


def masks_by_shape(state):
    return {
        m.shape: np.asarray(m) for m in jax.tree.leaves(sparsity_state(state).masks)
    }


def assert_exactly_sparse(params, state, plan):
    """The masks are lawful; weights and moments that they remove are exactly 0."""
    check_masks(sparsity_state(state).masks, plan)
    masks = masks_by_shape(state)
    assert len(masks) == sum(layer.is_sparse for layer in plan.values()) > 0
    for leaf in jax.tree.leaves((params, sparsity_state(state).inner)):
        if leaf.shape in masks:
            assert not np.any(np.asarray(leaf)[~masks[leaf.shape]])


def plan(params=None, **options):
    options = dict(sparsity=SPARSITY) | options
    return make_plan(globals()["params"]() if params is None else params, **options)
