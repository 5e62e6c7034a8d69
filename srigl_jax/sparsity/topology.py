"""The topology updates of one layer.

Every rule is a pure function of a layer in matrix view, `[fan_in, neurons]`, and
returns its new mask. It only ranks weights and gradients by magnitude, so a score of
your own can be passed in their place. All numbers may be traced: rules can be jitted,
vmapped over seeds and run on sharded arrays with the same answer everywhere.

Sources: SET (Mocanu et al. 2018), RigL (Evci et al., arXiv 1911.11134), SRigL (Lasby
et al., arXiv 2305.02299, section 3). Deliberate differences from SRigL's published
code: trimming compares magnitudes; only existing weights are ever kept.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from srigl_jax.sparsity.select import largest, sort_keys, top

Scalar = jax.typing.ArrayLike


def rigl(
    weights: jax.Array, grads: jax.Array, mask: jax.Array, *, fraction: Scalar
) -> jax.Array:
    """Drops the smallest weights of a layer, grows where the gradient is largest.

    Args:
      weights: f[fan_in, neurons].
      grads: f[fan_in, neurons], the dense gradient.
      mask: bool[fan_in, neurons].
      fraction: f32[], share of the active weights to replace.

    Returns:
      bool[fan_in, neurons] with exactly as many weights as `mask`.
    """
    kept, dropped = _keep_largest(weights, mask, fraction)
    return kept | largest(grads, dropped, ~kept)


def set_(
    weights: jax.Array, mask: jax.Array, *, fraction: Scalar, key: jax.Array
) -> jax.Array:
    """Drops the smallest weights of a layer, grows as many at random positions.

    Args:
      weights: f[fan_in, neurons].
      mask: bool[fan_in, neurons].
      fraction: f32[], share of the active weights to replace.
      key: PRNG key.

    Returns:
      bool[fan_in, neurons] with exactly as many weights as `mask`.
    """
    kept, dropped = _keep_largest(weights, mask, fraction)
    return kept | largest(jax.random.uniform(key, mask.shape), dropped, ~kept)


def srigl(
    weights: jax.Array,
    grads: jax.Array,
    mask: jax.Array,
    *,
    fraction: Scalar,
    budget: Scalar,
    fan_in: Scalar,
    gamma_sal: Scalar,
    growth_candidates: Literal["inactive", "all"] = "inactive",
    block: int | None = None,
) -> jax.Array:
    """Prunes, ablates whole neurons, and grows to a constant fan-in.

    Args:
      weights: f[fan_in, neurons].
      grads: f[fan_in, neurons], the dense gradient.
      mask: bool[fan_in, neurons].
      fraction: f32[], share of the active weights to replace.
      budget: i32[], weights that the layer may have.
      fan_in: i32[], weights of each neuron while none is ablated (k0).
      gamma_sal: f32[], a neuron with fewer than `gamma_sal * fan_in` salient weights
        is ablated; 0 turns ablation off.
      growth_candidates: positions whose gradients count as salient: "inactive" as in
        the paper's text, "all" as in its code.
      block: N:M sparsity: every run of `block` consecutive inputs of an active neuron
        has the same number of weights. None is one block of the whole fan-in.

    Returns:
      bool[fan_in, neurons]: every active neuron has exactly k weights in each block,
      k the largest number that the budget allows; ablated neurons have none.

    Raises:
      ValueError: `block` does not divide the fan-in, unknown `growth_candidates`.
    """
    size, neurons = mask.shape
    block = size if block is None else block
    check_block(size, block)
    if growth_candidates not in ("inactive", "all"):
        raise ValueError(
            f"growth_candidates is {growth_candidates!r}: choose 'inactive' or 'all'"
        )
    dtype = jnp.promote_types(weights.dtype, grads.dtype)
    weights, grads = weights.astype(dtype), grads.astype(dtype)
    dropped = _count_dropped(mask, fraction)
    keep = jnp.sum(mask, dtype=jnp.int32) - dropped

    candidates = ~mask if growth_candidates == "inactive" else jnp.ones_like(mask)
    # Both selections in one loop, which halves the time to compile them.
    keys = jnp.stack([sort_keys(weights, mask), sort_keys(grads, candidates)])
    salient = jnp.any(jax.vmap(top)(keys, jnp.stack([keep, dropped])), axis=0)
    active = _neurons_to_keep(salient, budget, fan_in, gamma_sal)

    # Each block of an active neuron takes its largest surviving weights first (that
    # trims it to k), then the largest gradients among all other positions.
    eligible = jnp.broadcast_to(active, mask.shape)
    survivors = largest(weights, keep, mask & eligible)
    keys = sort_keys(
        jnp.where(survivors, weights, grads), eligible, preferred=survivors
    )
    blocks = jnp.sum(active, dtype=jnp.int32) * (size // block)
    per_block = jnp.minimum(jnp.asarray(budget) // jnp.maximum(blocks, 1), block)
    filled = top(keys.reshape(size // block, block, neurons), per_block, axis=1)
    return filled.reshape(size, neurons)


def check_block(fan_in: int, block: int, layer: str = "the layer") -> None:
    """Raises ValueError unless blocks of `block` inputs tile a fan-in."""
    if block < 1 or fan_in % block:
        raise ValueError(
            f"block={block} does not divide the fan-in {fan_in} of {layer}: choose a "
            "divisor, or keep that layer dense"
        )


def _count_dropped(mask, fraction):
    active = jnp.sum(mask, dtype=jnp.int32)
    return jnp.minimum(active, _floor_product(fraction, active))


def _keep_largest(weights, mask, fraction):
    """Keeps all but a share of the active weights; also says how many are dropped."""
    dropped = _count_dropped(mask, fraction)
    return largest(weights, jnp.sum(mask, dtype=jnp.int32) - dropped, mask), dropped


def _neurons_to_keep(salient, budget, fan_in, gamma_sal):
    """bool[neurons]: those with enough salient weights to be worth their fan-in."""
    counts = jnp.sum(salient, axis=0, dtype=jnp.int32)
    threshold = jnp.maximum(1, _floor_product(gamma_sal, fan_in))
    # Fewer survivors than this could not hold the budget with fan-ins up to full.
    fewest = jnp.asarray(budget) // salient.shape[0]
    threshold = jnp.minimum(threshold, jnp.sort(counts, descending=True)[fewest])
    return counts >= jnp.where(jnp.asarray(gamma_sal) > 0, threshold, 0)


def _floor_product(share, count):
    """Floor of share * count, where the float32 share may be rounded: 0.29 * 100.

    A product below a whole number by no more than such rounding counts as that number.
    It is computed to 2^-6 for counts up to 2^28, in halves: float32 alone holds whole
    numbers up to 2^24.
    """
    share = jnp.clip(jnp.asarray(share, jnp.float32), 0, 1)
    count = jnp.asarray(count, jnp.int32)
    upper = jnp.floor(share * 2**12)  # 12 bits of the share, the rest below.
    lower = (share - upper / 2**12) * count.astype(jnp.float32)
    upper = upper.astype(jnp.int32)
    high = upper * (count >> 14) * 4
    low = upper * (count & (2**14 - 1))
    rest = (low & (2**12 - 1)).astype(jnp.float32) / 2**12 + lower
    # Rounding costs few parts in 2^24, more than half only where it cannot be told.
    slack = jnp.minimum(share * count.astype(jnp.float32) * 2.0**-22, 0.5)
    return high + (low >> 12) + jnp.floor(rest + slack).astype(jnp.int32)
