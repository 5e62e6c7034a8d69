"""The C++ kernels for CPUs, called through XLA's foreign function interface.

They run inside jit, on XLA's own threads, and pick AVX-512, AVX2 or plain code when
they are called. The library is built by setup.py where there is a C++ compiler; without
it everything works, by way of `xla.py`.
"""

import ctypes
import dataclasses
import functools
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from srigl_jax.sparsity.layout import Layout

TARGETS = {
    "srigl_matmul": "srigl_jax_condensed_matmul",
    "srigl_convolution": "srigl_jax_condensed_convolution",
    "srigl_windows": "srigl_jax_condensed_windows",
}
_REMEDY = (
    "install g++ 12 or newer, or clang++, and reinstall srigl_jax: "
    "pip install --force-reinstall --no-deps --no-cache-dir srigl_jax"
)


@dataclasses.dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves over its input.

    Attributes:
      strides: of height and width.
      padding: ((top, bottom), (left, right)).
      groups: groups of channels that do not mix.
    """

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, registered with XLA, or None and the reason."""
    found = sorted(pathlib.Path(__file__).parent.glob("_kernels*.so"))
    if not found:
        return None, "the C++ kernels were not built"
    # A library that does not fit, registered before the CPU client exists, takes the
    # whole client down; later it only fails to register.
    try:
        jax.devices("cpu")
        library = ctypes.CDLL(str(found[-1]))
        for symbol, target in TARGETS.items():
            handler = jax.ffi.pycapsule(getattr(library, symbol))
            jax.ffi.register_ffi_target(target, handler, platform="cpu")
        library.srigl_instructions.restype = ctypes.c_char_p
        library.srigl_width.restype = ctypes.c_int64
        library.srigl_arrange.restype = ctypes.c_void_p
    except Exception as error:  # Whatever is wrong with it, xla.py still works.
        return None, f"the C++ kernels in {found[-1].name} do not load: {error}"
    return library, ""


def available() -> bool:
    """Whether the kernels are built and fit this jaxlib."""
    return load()[0] is not None


def require() -> None:
    """Raises a RuntimeError that says why the kernels cannot be used, if so."""
    library, reason = load()
    if library is None:
        raise RuntimeError(f"{reason}: {_REMEDY}")


@functools.cache
def mention_absence() -> None:
    """Logs once why the slower XLA form runs on this CPU."""
    library, reason = load()
    if library is None and jax.default_backend() == "cpu":
        logging.getLogger(__name__).warning(
            "condensed layers run in the slower XLA form, for %s: %s", reason, _REMEDY
        )


def instructions() -> str:
    """The instruction set in use: "avx512", "avx2" or "plain"."""
    require()
    return load()[0].srigl_instructions().decode()


def product(
    layout: Layout, x, values, indices, active, bias, *, instructions: str = ""
) -> jax.Array:
    """The outputs of a condensed layer, bias added.

    Args:
      layout: of the dense kernel.
      x: f[batch, fan_in].
      values: f[active, k]; computed in float32 whatever the type.
      indices: u16 or i32[active, k].
      active: i32[active].
      bias: f[neurons] or None.
      instructions: "avx512", "avx2" or "plain", for tests; the best one unless given.

    Returns:
      f[batch, neurons], of the type that x and values promote to.
    """
    x, operands, dtype = _in_float32(x, values, indices, active, bias)

    def call(x, *operands):
        shape = jax.ShapeDtypeStruct((x.shape[0], layout.neurons), jnp.float32)
        multiply = jax.ffi.ffi_call(
            TARGETS["srigl_matmul"], shape, vmap_method="sequential"
        )
        return multiply(x, *operands, instructions=instructions)

    return folding_batches(call)(x, *operands).astype(dtype)


def convolution(
    layout: Layout,
    window: Window,
    x,
    values,
    indices,
    active,
    bias,
    *,
    instructions: str = "",
) -> jax.Array:
    """The outputs of a condensed convolution, bias added.

    Args:
      layout: of the dense kernel [height, width, channels of a group, neurons].
      window: how it moves.
      x: f[batch, height, width, channels].
      values: f[active, k]; computed in float32 whatever the type.
      indices: u16 or i32[active, k].
      active: i32[active].
      bias: f[neurons] or None.
      instructions: "avx512", "avx2" or "plain", for tests; the best one unless given.

    Returns:
      f[batch, height, width, neurons], of the type that x and values promote to.
    """
    x, operands, dtype = _in_float32(x, values, indices, active, bias)
    sides = zip(
        x.shape[1:3], layout.shape[:2], window.strides, window.padding, strict=True
    )
    output = [
        max(0, (size + sum(pad) - kernel) // stride + 1)
        for size, kernel, stride, pad in sides
    ]
    numbers = *layout.shape[:2], *window.strides, *(low for low, _ in window.padding)
    numbers = np.array([*numbers, window.groups], np.int64)

    def call(x, *operands):
        shape = jax.ShapeDtypeStruct((x.shape[0], *output, layout.neurons), jnp.float32)
        convolve = jax.ffi.ffi_call(
            TARGETS["srigl_convolution"], shape, vmap_method="sequential"
        )
        return convolve(x, *operands, instructions=instructions, window=numbers)

    return folding_batches(call)(x, *operands).astype(dtype)


def _in_float32(x, values, indices, active, bias):
    dtype = jnp.promote_types(x.dtype, values.dtype)
    # An empty bias stands for none.
    bias = jnp.zeros(0) if bias is None else bias
    values, bias = values.astype(jnp.float32), bias.astype(jnp.float32)
    return x.astype(jnp.float32), (values, indices, active, bias), dtype


def folding_batches(call):
    """`call(x, *operands)`, which under a vmap over x alone takes one larger batch."""
    call = custom_vmap(call)

    @call.def_vmap
    def _(axis_size, in_batched, x, *operands):
        if in_batched[0] and not any(in_batched[1:]):
            batch = x.shape[1]
            y = call(x.reshape(axis_size * batch, *x.shape[2:]), *operands)
            return y.reshape(axis_size, batch, *y.shape[1:]), True
        # One example after another: each has a layer of its own.
        arguments = x, *operands
        mapped = [
            a for a, batched in zip(arguments, in_batched, strict=True) if batched
        ]

        def one(mapped):
            mapped = iter(mapped)
            return call(
                *(
                    next(mapped) if batched else a
                    for a, batched in zip(arguments, in_batched, strict=True)
                )
            )

        return jax.lax.map(one, mapped), True

    return call
