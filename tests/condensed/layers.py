"""Condensed layers of awkward shapes, beside the dense kernels that they stand for."""

import numpy as np

from srigl_jax.condensed.representation import condense


def random_mask(rng, fan_in, neurons, k, ablated=0):
    """Constant fan-in: k of the inputs for each neuron but `ablated` of them."""
    ranks = rng.random((fan_in, neurons)).argsort(0).argsort(0)
    mask = ranks < k
    mask[:, rng.permutation(neurons)[:ablated]] = False
    return mask


def random_layer(rng, fan_in, neurons, k, *, ablated=0, bias=True, dtype=np.float32):
    """(condensed layer, masked kernel f64[fan_in, neurons], bias f64[neurons])."""
    kernel = rng.normal(size=(fan_in, neurons)).astype(dtype)
    mask = random_mask(rng, fan_in, neurons, k, ablated)
    b = rng.normal(size=neurons).astype(dtype) if bias else None
    c = condense(kernel, mask, b)
    dense = kernel.astype(np.float64) * mask
    return c, dense, np.zeros(neurons) if b is None else b.astype(np.float64)
