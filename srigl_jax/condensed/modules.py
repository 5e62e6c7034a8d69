"""flax.nnx layers in condensed form, to stand where `Linear` and `Conv` stood."""

import math
from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from srigl_jax.condensed import native
from srigl_jax.condensed.convolution import Padding, condensed_conv
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.representation import Condensed
from srigl_jax.condensed.windows import Windows, arrange, windows_matmul


class CondensedVariable(nnx.Variable):
    """Holds the `Condensed` form of a layer."""


class WindowsVariable(nnx.Variable):
    """Holds a layer's arrangement in `Windows`."""


WINDOWS_EXAMPLES = 4
"""Up to how many examples windows are faster than the condensed form, as a rule; at 80
to 90 % sparsity and in N:M sparsity up to 8."""


class CondensedLinear(nnx.Module):
    """A dense layer's replacement; also of an attention projection."""

    def __init__(
        self,
        condensed: Condensed,
        *,
        input_axes: int = 1,
        output_shape: Sequence[int] | None = None,
        implementation: str = "auto",
    ):
        """Wraps a condensed layer.

        Args:
          condensed: the weights.
          input_axes: how many trailing axes of the input the fan-in spans, 2 for the
            output projection of an attention, (heads, head size).
          output_shape: what the neurons are reshaped to, (heads, head size) for the
            input projections of an attention; (neurons,) unless given.
          implementation: of `condensed_matmul`.
        """
        self.condensed = CondensedVariable(condensed)
        self.input_axes = input_axes
        neurons = condensed.layout.neurons
        self.output_shape = tuple(output_shape or (neurons,))
        self.implementation = implementation

    def __call__(self, x: jax.Array, out_sharding: None = None) -> jax.Array:
        """Maps f[..., inputs] to f[..., *output_shape].

        Attention passes `out_sharding` to its projections; only None has a meaning.
        """
        if out_sharding is not None:
            raise ValueError(
                f"out_sharding is {out_sharding}: a condensed layer takes none"
            )
        leading = x.ndim - self.input_axes
        x = x.reshape(*x.shape[:leading], math.prod(x.shape[leading:]))
        y = self._multiply(x)
        return y.reshape(*y.shape[:-1], *self.output_shape)

    def _multiply(self, x: jax.Array) -> jax.Array:
        return condensed_matmul(x, self.condensed.get_value(), self.implementation)


class ArrangedLinear(CondensedLinear):
    """A dense layer's replacement for few examples at a time, on CPUs; for inference.

    It holds the weights twice, condensed and arranged in windows, and takes whichever
    form is the faster for the number of examples. The arrangement is for the machine
    it was made on; without the C++ kernels there is none, and on other devices it is
    not used. Weights are constants here, of gradient 0: to change them make another
    layer, to train them use `CondensedLinear`.
    """

    def __init__(
        self,
        condensed: Condensed,
        *,
        input_axes: int = 1,
        output_shape: Sequence[int] | None = None,
        examples: int = WINDOWS_EXAMPLES,
    ):
        """Wraps a condensed layer, as `CondensedLinear` does, and arranges it.

        Args:
          condensed: the layer.
          input_axes: as in `CondensedLinear`.
          output_shape: likewise.
          examples: up to which the arrangement is used.
        """
        super().__init__(condensed, input_axes=input_axes, output_shape=output_shape)
        if not isinstance(examples, int) or examples < 0:
            raise ValueError(f"examples is {examples!r}: give an integer from 0 up")
        self.examples = examples
        is_possible = native.available()
        self.windows = WindowsVariable(arrange(condensed)) if is_possible else None

    def _multiply(self, x: jax.Array) -> jax.Array:
        if self.windows is None:
            return super()._multiply(x)
        layer = self.windows.get_value(), self.condensed.get_value()
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y = _arranged(self.examples, rows, *layer)
        return y.reshape(*x.shape[:-1], y.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _arranged(examples: int, x: jax.Array, w: Windows, c: Condensed) -> jax.Array:
    """The product in the form for as many rows as x[rows, fan_in] has."""
    leaves, structure = jax.tree.flatten((w, c))

    # Inside, because a vmap makes more rows of few.
    def product(x, *leaves):
        w, c = jax.tree.unflatten(structure, leaves)
        # A symbolic batch, of an exported program, must serve any number.
        if not isinstance(x.shape[0], int) or x.shape[0] > examples:
            return condensed_matmul(x, c)
        return jax.lax.platform_dependent(
            *(x, w, c),
            cpu=lambda x, w, c: windows_matmul(x, w),
            default=lambda x, w, c: condensed_matmul(x, c),
        )

    return native.folding_batches(product)(x, *leaves)


def _forward(examples, x, w, c):
    return _arranged(examples, x, w, c), (x, c)


def _backward(examples, residuals, dy):
    del examples
    x, c = residuals
    (dx,) = jax.vjp(lambda x: condensed_matmul(x, c), x)[1](dy)
    return dx, None, None


_arranged.defvjp(_forward, _backward)


class CondensedConv(nnx.Module):
    """A convolution's replacement."""

    def __init__(
        self,
        condensed: Condensed,
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        feature_group_count: int = 1,
        implementation: str = "auto",
    ):
        """Wraps a condensed kernel; the rest is as in `condensed_conv`."""
        self.condensed = CondensedVariable(condensed)
        self.strides = strides if isinstance(strides, int) else tuple(strides)
        is_named = isinstance(padding, str)
        self.padding = padding if is_named else tuple(tuple(p) for p in padding)
        self.feature_group_count = feature_group_count
        self.implementation = implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f[..., height, width, channels] to f[..., height', width', neurons]."""
        batch = x.shape[:-3]
        y = condensed_conv(
            x.reshape(math.prod(batch), *x.shape[-3:]),
            self.condensed.get_value(),
            strides=self.strides,
            padding=self.padding,
            feature_group_count=self.feature_group_count,
            implementation=self.implementation,
        )
        return y.reshape(*batch, *y.shape[1:])


class Identity(nnx.Module):
    """Stands where a normalisation stood that was folded into the layer before it."""

    def __call__(self, x: jax.Array, *args: object, **options: object) -> jax.Array:
        """Returns x; takes whatever else the normalisation was called with."""
        del args, options
        return x
