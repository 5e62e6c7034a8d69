"""`condensed_conv`: one door to every implementation of the condensed convolution."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from srigl_jax.condensed import native
from srigl_jax.condensed.representation import Condensed, densify
from srigl_jax.sparsity.layout import Layout

IMPLEMENTATIONS = ("auto", "xla", "native")

Padding = str | Sequence[tuple[int, int]]


def condensed_conv(
    x: jax.Array,
    c: Condensed,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    feature_group_count: int = 1,
    implementation: str = "auto",
) -> jax.Array:
    """Convolves with a kernel in condensed form and adds its bias.

    Args:
      x: f[batch, height, width, channels].
      c: of a kernel [height, width, channels of a group, neurons], neurons last.
      strides: of height and width.
      padding: "SAME", "VALID", or ((top, bottom), (left, right)), in zeros.
      feature_group_count: groups of channels, and of neurons, that see only each
        other; all channels for a depthwise convolution.
      implementation: "xla" runs everywhere, by way of the dense kernel; "native" is
        the C++ kernel, for CPUs, which reads each weight from where it is. "auto" takes
        the C++ kernel on a CPU where it is built, else "xla".

    Returns:
      f[batch, output height, output width, neurons], of the type that x and c.values
      promote to.

    Raises:
      ValueError: shapes that do not fit; the implementation is unknown.
      RuntimeError: "native" is asked for where it is not built; says why.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}: choose one of {IMPLEMENTATIONS}"
        )
    if implementation == "native":
        native.require()
    x = jnp.asarray(x)
    window = _window(x.shape, c.layout, strides, padding, feature_group_count)
    return _conv(
        implementation, c.layout, window, x, c.values, c.indices, c.active, c.bias
    )


def _window(shape, layout, strides, padding, groups) -> native.Window:
    if len(layout.shape) != 4 or layout.neuron_axes != (3,):
        raise ValueError(
            f"a convolution's kernel is [height, width, channels, neurons]: this one "
            f"has shape {layout.shape} with neurons on axes {layout.neuron_axes}"
        )
    height, width, channels, neurons = layout.shape
    if len(shape) != 4 or shape[3] != channels * groups:
        raise ValueError(
            f"x has shape {shape}: it must be [batch, height, width, "
            f"{channels * groups}], {groups} group(s) of {channels} channels"
        )
    if groups < 1 or neurons % groups:
        raise ValueError(
            f"feature_group_count is {groups}: it must divide the {neurons} neurons"
        )
    strides = tuple(strides) if np.ndim(strides) else (int(strides),) * 2
    if len(strides) != 2 or min(strides) < 1:
        raise ValueError(f"strides are {strides}: give two positive integers")
    pads = padding
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        pads = lax.padtype_to_pads(shape[1:3], (height, width), strides, padding)
    try:
        pads = tuple((int(low), int(high)) for low, high in pads)
    except (TypeError, ValueError):
        pads = ()
    if len(pads) != 2 or min(min(p) for p in pads) < 0:
        raise ValueError(
            f"padding is {padding}: give 'SAME', 'VALID' or two pairs from 0 up"
        )
    return native.Window(strides, pads, groups)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _conv(implementation, layout: Layout, window, x, values, indices, active, bias):
    arrays = x, values, indices, active, bias
    plain = partial(_dense_conv, layout, window)
    if implementation == "native":
        return native.convolution(layout, window, *arrays)
    if implementation == "auto" and native.available():
        compiled = partial(native.convolution, layout, window)
        return lax.platform_dependent(*arrays, cpu=compiled, default=plain)
    if implementation == "auto":
        native.mention_absence()
    return plain(*arrays)


def _dense_conv(layout, window, x, values, indices, active, bias):
    dtype = jnp.promote_types(x.dtype, values.dtype)
    # As in `xla.product`: constants of the size of the dense kernel are not wanted.
    values, indices = lax.optimization_barrier((values, indices))
    kernel = densify(Condensed(values, indices, active, None, layout))
    y = lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        window.strides,
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )
    return y if bias is None else y + bias.astype(dtype)


def _forward(implementation, layout, window, *arrays):
    return _conv(implementation, layout, window, *arrays), arrays


def _backward(implementation, layout, window, arrays, dy):
    del implementation
    x, values, indices, active, bias = arrays

    def plain(x, values, bias):
        return _dense_conv(layout, window, x, values, indices, active, bias)

    dx, dvalues, dbias = jax.vjp(plain, x, values, bias)[1](dy)
    return dx, dvalues, None, None, dbias


_conv.defvjp(_forward, _backward)
