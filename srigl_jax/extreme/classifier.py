"""An output layer of 10^5 to 10^6 labels as the weights that exist.

    logit[b, n] = bias[n] + sum_j values[n, j] * x[b, indices[n, j]]

Neither a mask nor an array of labels x width exists, in training either (Schultheis and
Babbar 2023; Ullah et al. 2024). Labels come in blocks, and a block may be dense: the
most frequent labels, say. Labels are numbered from 0, those of a dense block first.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from srigl_jax.condensed.representation import index_dtype
from srigl_jax.extreme.draw import distinct

CHUNK_BYTES = 2**21
"""Bound of a chunk of labels written out as dense rows."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "indices", "bias"),
    meta_fields=("first", "labels", "chunk", "group"),
)
@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive labels of one form; a pytree.

    The rows beyond its labels fill the last chunk. They are never predicted, have no
    loss, and stay as they are.

    Attributes:
      values: f32[rows, k].
      indices: u16 or i32[rows // group, k], distinct in each row, in any order; the
        labels of a group share them. None for a dense block, where k is the width.
      bias: f32[rows].
      first: the number of its first label.
      labels: how many it has.
      chunk: rows that are worked on at a time; divides rows.
      group: labels that share their indices; divides chunk.
    """

    values: jax.Array
    indices: jax.Array | None
    bias: jax.Array
    first: int
    labels: int
    chunk: int
    group: int

    @property
    def weights(self) -> dict[str, jax.Array]:
        """What is trained: `values` and `bias`."""
        return {"values": self.values, "bias": self.bias}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("blocks",),
    meta_fields=("width",),
)
@dataclasses.dataclass(frozen=True)
class Classifier:
    """All labels: a dense block, if any, before a sparse one; a pytree.

    Attributes:
      blocks: in the order of their labels.
      width: of the features it reads.
    """

    blocks: tuple[Block, ...]
    width: int

    @property
    def labels(self) -> int:
        """How many labels there are, padding not counted."""
        return sum(block.labels for block in self.blocks)


def init(
    key: jax.Array,
    labels: int,
    width: int,
    k: int,
    *,
    dense_labels: int = 0,
    group: int = 1,
    bias: float = 0.0,
    scale: float = 1.0,
    chunk: int | None = None,
    shards: int = 1,
) -> Classifier:
    """A classifier with k weights at random positions for each label.

    Args:
      key: PRNG key.
      labels: how many labels.
      width: of the features.
      k: weights of each label.
      dense_labels: the first so many have all `width` weights; number the labels by
        falling frequency to make them the most frequent ones.
      group: so many consecutive labels share their positions.
      bias: of every label; the logarithm of the mean rate of a positive suits binary
        cross-entropy.
      scale: values have the standard deviation `scale / sqrt(k)`, or of the width in
        the dense block.
      chunk: rows worked on at a time; as many as `CHUNK_BYTES` hold unless given.
      shards: devices that the labels will be sharded over.

    Raises:
      ValueError: names the argument that makes no sense.
    """
    if labels < 1 or not 0 <= dense_labels <= labels:
        raise ValueError(
            f"labels={labels} and dense_labels={dense_labels}: give at least one "
            "label, and no more dense ones than there are"
        )
    if not 1 <= k <= width:
        raise ValueError(
            f"k={k} weights of each label: choose from 1 to {width}, the width"
        )
    if group < 1 or shards < 1:
        raise ValueError(f"group={group} and shards={shards}: both must be at least 1")
    if chunk is not None and (chunk < 1 or chunk % group):
        raise ValueError(f"chunk={chunk} must be a positive multiple of group={group}")
    head_key, tail_key = jax.random.split(key)
    make = partial(_init_block, width=width, bias=bias, scale=scale, shards=shards)
    blocks = []
    if dense_labels:
        size = chunk or default_chunk(-(-dense_labels // shards), width, 1)
        blocks.append(make(head_key, 0, dense_labels, None, chunk=size, group=1))
    if rest := labels - dense_labels:
        size = chunk or default_chunk(-(-rest // shards), width, group)
        blocks.append(make(tail_key, dense_labels, rest, k, chunk=size, group=group))
    return Classifier(tuple(blocks), width)


def default_chunk(labels: int, width: int, group: int) -> int:
    """Rows of a chunk: a power of two of groups within CHUNK_BYTES, or one group."""
    groups = max(1, min(CHUNK_BYTES // (4 * width), labels) // group)
    return group * 2 ** (groups.bit_length() - 1)


def place(classifier: Classifier, mesh: Mesh) -> Classifier:
    """Shards the labels over the devices of a mesh of one axis.

    Raises:
      ValueError: the rows do not split into whole chunks; `init` with `shards`.
    """
    for block in classifier.blocks:
        check_shards(block, mesh.size)
    sharding = NamedSharding(mesh, P(mesh.axis_names[0]))
    return jax.device_put(classifier, sharding)


def check_shards(block: Block, shards: int) -> None:
    """Raises ValueError unless every device gets whole chunks."""
    rows = block.values.shape[0]
    if rows % (shards * block.chunk):
        raise ValueError(
            f"{rows} rows in chunks of {block.chunk} do not split over {shards} "
            f"devices: call init with shards={shards}"
        )


def densify(classifier: Classifier) -> tuple[jax.Array, jax.Array]:
    """The dense weights f32[labels, width] and the bias f32[labels]; for small ones."""
    rows = [
        dense_rows(block.values, row_indices(block), classifier.width)[: block.labels]
        for block in classifier.blocks
    ]
    biases = [block.bias[: block.labels] for block in classifier.blocks]
    return jnp.concatenate(rows), jnp.concatenate(biases)


def row_indices(block: Block) -> jax.Array | None:
    """The indices of each row, i32[rows, k]; None for a dense block."""
    return expand(block.indices, block.group)


def expand(indices: jax.Array | None, group: int) -> jax.Array | None:
    """Repeats the indices of each group for its labels, as int32."""
    if indices is None:
        return None
    indices = indices.astype(jnp.int32)
    return indices if group == 1 else jnp.repeat(indices, group, axis=0)


def dense_rows(values: jax.Array, indices: jax.Array | None, width: int) -> jax.Array:
    """Rows written out: f[rows, width], of f[rows, k] values at i32[rows, k]."""
    if indices is None:
        return values
    rows = jnp.arange(values.shape[0])[:, None]
    # Added, not set: a position that comes twice has two weights.
    return (
        jnp.zeros((values.shape[0], width), values.dtype)
        .at[rows, indices]
        .add(values, mode="promise_in_bounds")
    )


def _init_block(key, first, labels, k, *, width, bias, scale, chunk, group, shards):
    rows = -(-labels // (chunk * shards)) * chunk * shards
    fan_in = width if k is None else k

    # Chunk by chunk, so that drawing takes no more memory than what is drawn.
    @jax.jit
    def draw(key):
        def one(i):
            value_key, index_key = jax.random.split(jax.random.fold_in(key, i))
            values = jax.random.normal(value_key, (chunk, fan_in)) * scale / fan_in**0.5
            exists = (i * chunk + jnp.arange(chunk) < labels)[:, None]
            indices = None
            if k is not None:
                indices = distinct(index_key, chunk // group, k, width)
                indices = indices.astype(index_dtype(width))
            return jnp.where(exists, values, 0), indices

        drawn = jax.lax.map(one, jnp.arange(rows // chunk))
        return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), drawn)

    values, indices = draw(key)
    bias = jnp.where(jnp.arange(rows) < labels, jnp.float32(bias), 0)
    return Block(values, indices, bias, first, labels, chunk, group)
