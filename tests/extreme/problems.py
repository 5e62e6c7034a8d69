"""Small classifiers, and what they are held against: autodiff of the plain formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srigl_jax.extreme import classifier as classifiers
from srigl_jax.extreme import losses

WIDTH, K, BATCH = 12, 5, 4


def classifier(labels=37, **options):
    options = {"chunk": 8, "bias": -1.0} | options
    key = jax.random.key(labels)
    made = classifiers.init(key, labels, WIDTH, options.pop("k", K), **options)
    # A bias of each label's own, so that one in the wrong place is seen.
    return with_bias(made, lambda b: b.bias + 0.1 * jnp.arange(len(b.bias)) % 1)


def with_bias(made, bias):
    blocks = []
    for block in made.blocks:
        exists = jnp.arange(len(block.bias)) < block.labels
        blocks.append(
            dataclasses.replace(block, bias=jnp.where(exists, bias(block), 0))
        )
    return dataclasses.replace(made, blocks=tuple(blocks))


def batch(labels=37, most=3, seed=0):
    """Features and positives, one of one label, edges of chunks included."""
    rng = np.random.default_rng(seed)
    positives = rng.integers(0, labels, (BATCH, most)).astype(np.int32)
    positives[0, 1:] = -1
    positives[1] = 0
    positives[2, :2] = labels - 1, min(7, labels - 1)
    x = jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32)
    return x, jnp.asarray(positives)


def some_features(seed=0):
    """x of four features, their numbers, and the whole x, which has no others."""
    x, positives = batch(seed=seed)
    features = jnp.array([0, 3, 4, 9, WIDTH, WIDTH])  # The last two do not exist.
    own = x[:, features[:4]]
    whole = jnp.zeros_like(x).at[:, features[:4]].set(own)
    return jnp.pad(own, ((0, 0), (0, 2))), positives, features, whole


def plain_logits(made, weights, x):
    """f32[batch, labels] through an array of batch x labels x k."""
    logits = []
    for block, own in zip(made.blocks, weights, strict=True):
        values, bias = own["values"][: block.labels], own["bias"][: block.labels]
        if block.indices is None:
            logits.append(x @ values.T + bias)
        else:
            indices = classifiers.row_indices(block)[: block.labels]
            logits.append(jnp.einsum("bnk,nk->bn", x[:, indices], values) + bias)
    return jnp.concatenate(logits, axis=1)


def plain_loss(made, weights, x, positives, loss, importance=1.0):
    """The formula: summed over labels, the mean over examples."""
    logits = plain_logits(made, weights, x)
    truth = np.zeros(logits.shape, np.float32)
    for example, row in enumerate(np.asarray(positives)):
        truth[example, row[row >= 0]] = 1
    weighted = jnp.where(truth > 0, 1, importance) * losses.find(loss)(logits, truth)
    return weighted.sum() / len(x)


def weights(made):
    return tuple(block.weights for block in made.blocks)


def plain_step(made, state, x, positives, optimizer, loss="bce"):
    own = weights(made)
    gradient = jax.grad(plain_loss, argnums=1)(made, own, x, positives, loss)
    updated, states = [], []
    for block, w, g, s in zip(made.blocks, own, gradient, state, strict=True):
        updates, s = optimizer.update(g, s, w)
        updated.append(dataclasses.replace(block, **optax.apply_updates(w, updates)))
        states.append(s)
    return dataclasses.replace(made, blocks=tuple(updated)), tuple(states)


def assert_close(got, expected, tolerance=2e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a), np.asarray(b), rtol=1e-5, atol=tolerance
        ),
        got,
        expected,
    )
