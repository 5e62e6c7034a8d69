"""`condensed_matmul`: one door to every implementation of the condensed product.

    y = condensed_matmul(x, condense(kernel, mask, bias))

computes `x @ (kernel * mask) + bias` within float32 rounding. It can be jitted,
vmapped, and differentiated in `x`, `values` and `bias`. Temporaries of size [batch,
neurons, k] are bounded, by chunks of neurons: beside inputs and outputs the product
takes at most about two times `xla.CHUNK_BYTES`, gradients a few times the size of x and
y more. It is computed in float32, whatever the types. To export it with a symbolic
batch, or for another machine, choose "xla".
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from srigl_jax.condensed import native, pallas, xla
from srigl_jax.condensed.representation import Condensed
from srigl_jax.sparsity.layout import Layout

IMPLEMENTATIONS = ("auto", "xla", "native", "pallas")


def condensed_matmul(
    x: jax.Array, c: Condensed, implementation: str = "auto"
) -> jax.Array:
    """Multiplies by a layer in condensed form and adds its bias.

    It never falls back to the dense product, even where that is the faster one;
    `condense_model` chooses. Few examples are fastest arranged in windows, by
    `condense_model` or `windows.arrange`.

    Args:
      x: f[..., fan_in], any leading dimensions.
      c: the layer.
      implementation: "xla" runs everywhere; "native" is the C++ kernel, for CPUs;
        "pallas" for GPUs and TPUs. "auto" takes the C++ kernel on a CPU where it is
        built, else "xla".

    Returns:
      f[..., neurons], of the type that x and c.values promote to. A neuron without
      weights outputs its bias, or 0.

    Raises:
      ValueError: the width of x is not the fan-in; the implementation is unknown.
      RuntimeError: "native" is asked for where it is not built; says why.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}: choose one of {IMPLEMENTATIONS}"
        )
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] != c.layout.fan_in:
        raise ValueError(
            f"x has shape {x.shape}: its last axis must be the layer's fan-in, "
            f"{c.layout.fan_in}"
        )
    if implementation == "native":
        native.require()
    # Not -1, which no fan-in of 0 determines.
    rows = x.reshape(math.prod(x.shape[:-1]), c.layout.fan_in)
    y = _product(implementation, c.layout, rows, c.values, c.indices, c.active, c.bias)
    return y.reshape(*x.shape[:-1], c.layout.neurons)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(implementation: str, layout: Layout, x, values, indices, active, bias):
    arrays = x, values, indices, active, bias
    plain = partial(_active_outputs, xla.product, layout)
    if implementation == "pallas":
        return _active_outputs(pallas.product, layout, *arrays)
    if implementation == "native":
        return native.product(layout, *arrays)
    if implementation == "auto" and native.available():
        # Decided when the program is lowered: one function serves all platforms.
        return jax.lax.platform_dependent(
            *arrays, cpu=partial(native.product, layout), default=plain
        )
    if implementation == "auto":
        native.mention_absence()
    return plain(*arrays)


def _active_outputs(product, layout, x, values, indices, active, bias):
    """The active neurons' outputs in their places, and the bias added."""
    y = product(x, values, indices, layout.fan_in)
    if len(active) < layout.neurons:
        y = jnp.zeros((x.shape[0], layout.neurons), y.dtype).at[:, active].set(y)
    return y if bias is None else y + bias.astype(y.dtype)


def _forward(implementation, layout, *arrays):
    return _product(implementation, layout, *arrays), arrays


def _backward(implementation, layout, arrays, dy):
    del implementation
    x, values, indices, active, bias = arrays
    rows = dy if len(active) == layout.neurons else dy[:, active]
    return (
        xla.input_gradient(rows, values, indices, layout.fan_in).astype(x.dtype),
        xla.value_gradient(x, rows, indices).astype(values.dtype),
        None,
        None,
        None if bias is None else dy.sum(0).astype(bias.dtype),
    )


_product.defvjp(_forward, _backward)
