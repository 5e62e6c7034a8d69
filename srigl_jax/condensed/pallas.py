"""The condensed product as Pallas kernels, one for GPUs and one for TPUs.

Not measured: no GPU or TPU was at hand. Both kernels are tested in interpret mode, and
their lowering is checked with `jax.export`. Compilers that need no device took them:
Triton's for compute capability 8.0 and 9.0, where no register spills, and Mosaic's, in
libtpu, for TPU v4 to v7.

- *GPU*, through Triton: a program owns a block of neurons and a block of examples,
  walks over k, and gathers inputs from the transposed x, so that the examples of one
  input lie side by side. Every weight costs a read of x from cache, and tensor cores
  stay idle, so a large batch may well run faster in the form of `xla.py`.
- *TPU*, through Mosaic, where gathers are slow: a program writes its neurons out as
  dense rows in VMEM and multiplies them on the matrix unit. HBM holds and moves only
  the condensed weights; the arithmetic is no less than the dense layer's, so expect it
  to save memory, not time.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as pltriton

GPU_NEURONS = 8
"""Neurons of a GPU program."""

GPU_EXAMPLES = 32
"""Examples of a GPU program at most: in float32 one cache line of 128 bytes."""

GPU_SUMS = 2048
"""Partial sums that a GPU program holds: 16 registers in each of 128 threads."""

LANES = 128
"""Width of a TPU's vector registers."""

TPU_EXAMPLES, TPU_NEURONS, TPU_INPUTS, TPU_WEIGHTS = 256, 128, 4096, 512
"""Blocks of a TPU program along batch, active, fan_in and k, at most.

In float32 that is 4 MiB of x, 1/4 MiB each of values and indices, 1/8 MiB of y, all of
them twice, to copy one block while another is in use; 2 MiB of dense rows; and 1/2 MiB
to make one row: 11.7 MiB.
"""

VMEM_BYTES = 2**24
"""VMEM of a TPU's core that a program may use; more is an error of the compiler."""


def product(
    x: jax.Array, values: jax.Array, indices: jax.Array, fan_in: int
) -> jax.Array:
    """y[b, i] = sum_j values[i, j] * x[b, indices[i, j]], summed in float32.

    The kernel is chosen when the program is lowered. On a CPU the GPU kernel is
    interpreted: slow, for tests. `jax.export` takes one platform at a time, since it
    lowers each kernel for all that are asked for, and for a GPU must be told to allow
    the custom call "__gpu$xla.gpu.triton", which promises no compatibility.

    Args:
      x: f[batch, fan_in].
      values: f[active, k].
      indices: u16 or i32[active, k].
      fan_in: width of x.

    Returns:
      f[batch, active], of the type that x and values promote to.
    """
    del fan_in
    dtype = jnp.promote_types(x.dtype, values.dtype)
    if not (x.size and values.size):  # A grid cannot be empty.
        return jnp.zeros((len(x), len(values)), dtype)
    y = jax.lax.platform_dependent(
        x,
        values,
        indices,
        cpu=partial(gpu_product, interpret=True),
        cuda=gpu_product,
        rocm=gpu_product,
        tpu=tpu_product,
    )
    return y.astype(dtype)


def gpu_product(
    x: jax.Array, values: jax.Array, indices: jax.Array, interpret: bool = False
) -> jax.Array:
    """`product` in f32 by the Triton kernel, for arrays that are not empty."""
    (batch, _), (active, k) = x.shape, values.shape
    examples = min(GPU_EXAMPLES, pl.next_power_of_2(batch))
    weights = min(GPU_SUMS // (GPU_NEURONS * examples), pl.next_power_of_2(k))
    y = pl.pallas_call(
        partial(_gpu_kernel, examples, weights),
        out_shape=jax.ShapeDtypeStruct((active, batch), jnp.float32),
        grid=(pl.cdiv(active, GPU_NEURONS), pl.cdiv(batch, examples)),
        # Names the Triton back end; the default of some versions is Mosaic GPU.
        compiler_params=pltriton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="condensed_product_gpu",
    )(x.T, values, indices)
    return y.T


def _gpu_kernel(examples: int, weights: int, x_ref, values_ref, indices_ref, y_ref):
    """All of x [fan_in, batch], values and indices [active, k], y [active, batch]."""
    active, k = values_ref.shape
    neurons = pl.program_id(0) * GPU_NEURONS + jnp.arange(GPU_NEURONS)
    columns = pl.program_id(1) * examples + jnp.arange(examples)
    neuron, example = neurons[:, None, None], columns[None, None, :]

    def add_weights(step, sums):
        weight = step * weights + jnp.arange(weights)[None, :, None]
        at, exists = (neuron, weight), (neuron < active) & (weight < k)
        values = pltriton.load(values_ref.at[at], mask=exists, other=0)
        # Widened here, so that 16-bit indices cross memory as 16 bits.
        inputs = pltriton.load(indices_ref.at[at], mask=exists, other=0)
        x = pltriton.load(
            x_ref.at[inputs.astype(jnp.int32), example],
            mask=exists & (example < x_ref.shape[1]),
            other=0,
        )
        return sums + values.astype(jnp.float32) * x.astype(jnp.float32)

    # Summed over the weights once, after the loop: sums across threads are slow.
    sums = jnp.zeros((GPU_NEURONS, weights, examples), jnp.float32)
    sums = jax.lax.fori_loop(0, pl.cdiv(k, weights), add_weights, sums)
    neuron, example = neurons[:, None], columns[None, :]
    pltriton.store(
        y_ref.at[neuron, example],
        sums.sum(1),
        mask=(neuron < active) & (example < y_ref.shape[1]),
    )


def tpu_product(
    x: jax.Array, values: jax.Array, indices: jax.Array, interpret: bool = False
) -> jax.Array:
    """`product` in f32 by the Mosaic kernel, for arrays that are not empty."""
    (batch, fan_in), (active, k) = x.shape, values.shape
    examples = min(TPU_EXAMPLES, _round_up(batch, 16))
    inputs = min(TPU_INPUTS, _round_up(fan_in, 8 * LANES))
    weights = min(TPU_WEIGHTS, _round_up(k, LANES))
    # A sum of three bfloat16 holds a float32.
    terms = 1 if values.dtype == jnp.bfloat16 else 3
    if not x.dtype == values.dtype == jnp.bfloat16:
        x = x.astype(jnp.float32)
    condensed = pl.BlockSpec((TPU_NEURONS, weights), lambda b, n, i, j: (n, j))
    return pl.pallas_call(
        partial(_tpu_kernel, fan_in, k, terms),
        out_shape=jax.ShapeDtypeStruct((batch, active), jnp.float32),
        grid=(
            pl.cdiv(batch, examples),
            pl.cdiv(active, TPU_NEURONS),
            pl.cdiv(fan_in, inputs),
            pl.cdiv(k, weights),
        ),
        in_specs=[
            pl.BlockSpec((examples, inputs), lambda b, n, i, j: (b, i)),
            condensed,
            condensed,
        ],
        out_specs=pl.BlockSpec((examples, TPU_NEURONS), lambda b, n, i, j: (b, n)),
        scratch_shapes=[pltpu.VMEM((TPU_NEURONS, inputs // LANES, LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=interpret,
        name="condensed_product_tpu",
        # The kernel reads single rows, which Mosaic can only do in 32 bits.
    )(x, values.astype(jnp.float32), indices.astype(jnp.int32))


def _tpu_kernel(fan_in, k, terms, x_ref, values_ref, indices_ref, y_ref, rows_ref):
    """Blocks of x, values, indices, y; dense rows [neurons, inputs / 128, 128]."""
    i, j = pl.program_id(2), pl.program_id(3)
    neurons, weights = values_ref.shape
    groups = rows_ref.shape[1]
    inputs = groups * LANES

    @pl.when(j == 0)
    def _():
        rows_ref[...] = jnp.zeros_like(rows_ref)

    @pl.when((i == 0) & (j == 0))
    def _():
        y_ref[...] = jnp.zeros_like(y_ref)

    def add_to_row(neuron, _):
        at = pl.ds(neuron, 1)
        weight = j * weights + jax.lax.broadcasted_iota(jnp.int32, (1, weights), 1)
        # Past the end of an array a block holds anything, NaN too.
        values = jnp.where(weight < k, values_ref[at, :], 0)
        row = _dense_row(values, indices_ref[at, :] - i * inputs, groups, terms)
        rows_ref[neuron] += row
        return 0

    jax.lax.fori_loop(0, neurons, add_to_row, 0)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        for group in range(groups):
            at = pl.ds(group * LANES, LANES)
            x = x_ref[:, at]
            if fan_in % inputs:
                lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
                exists = i * inputs + group * LANES + lane < fan_in
                # Selected in f32: Mosaic cannot apply this mask to bfloat16.
                x = jnp.where(exists, x.astype(jnp.float32), 0).astype(x.dtype)
            rows = rows_ref[:, group, :].astype(x.dtype)
            y_ref[...] += _dot_last_axes(x, rows)


def _dense_row(values, indices, groups: int, terms: int):
    """f32[groups, 128] with values f32[1, k] at indices i32[1, k], others dropped.

    One product of two one-hot matrices: input 128 h + l is row h of one and row l of
    the other. That takes (groups + 128) k comparisons in place of groups * 128 * k.
    """
    high = jax.lax.broadcasted_iota(jnp.int32, (groups, values.shape[1]), 0)
    low = jax.lax.broadcasted_iota(jnp.int32, (LANES, values.shape[1]), 0)
    is_high = (indices >> 7) == high
    is_low = jnp.where((indices & 127) == low, 1, 0).astype(jnp.bfloat16)
    factors = []
    for _ in range(terms):
        term = values.astype(jnp.bfloat16).astype(jnp.float32)
        factors.append(jnp.where(is_high, term, 0))
        values -= term
    factors = jnp.concatenate(factors).astype(jnp.bfloat16)
    rows = _dot_last_axes(factors, is_low)
    return sum(rows[t * groups : (t + 1) * groups] for t in range(terms))


def _dot_last_axes(a, b):
    """`a @ b.T` in f32, without the matrix unit's rounding of f32 to bfloat16."""
    exact, fast = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a,
        b,
        (((1,), (1,)), ((), ())),
        precision=exact if a.dtype == jnp.float32 else fast,
        preferred_element_type=jnp.float32,
    )


def _round_up(size: int, multiple: int) -> int:
    return pl.cdiv(size, multiple) * multiple
