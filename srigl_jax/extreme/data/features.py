"""Sparse features of texts, padded, through an embedding that is trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse


class Bags(NamedTuple):
    """Rows of a matrix as arrays of one width; a pytree.

    Attributes:
      columns: i32[rows, most], padded with 0; None for all, one after another.
      weights: f32[rows, most], 0 where padded.
    """

    columns: np.ndarray | None
    weights: np.ndarray

    def take(self, rows: jax.typing.ArrayLike) -> "Bags":
        """Some of the rows."""
        return jax.tree.map(lambda array: array[rows], self)


def bags(matrix: scipy.sparse.csr_matrix | np.ndarray, most: int) -> Bags:
    """The features of each row, scaled to the length 1.

    Args:
      matrix: f[rows, features]; of a sparse one, TF-IDF say, the `most` largest of each
        row are taken, of a dense one all.
      most: width of the arrays for a sparse one.
    """
    if not scipy.sparse.issparse(matrix):
        return Bags(None, _of_length_1(np.asarray(matrix, np.float32)))
    matrix = scipy.sparse.csr_matrix(matrix)
    columns = np.zeros((matrix.shape[0], most), np.int32)
    weights = np.zeros((matrix.shape[0], most), np.float32)
    for row, (start, end) in enumerate(
        zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    ):
        own = matrix.data[start:end]
        largest = np.argsort(-np.abs(own), kind="stable")[:most]
        columns[row, : len(largest)] = matrix.indices[start:end][largest]
        weights[row, : len(largest)] = own[largest]
    return Bags(columns, _of_length_1(weights))


def _of_length_1(weights):
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    return weights / np.maximum(length, 1e-12)


def embed(table: jax.Array, bags: Bags) -> jax.Array:
    """The weighted sums of rows of a table f[features, width]: f[rows, width]."""
    if bags.columns is None:
        return bags.weights @ table
    return jnp.einsum("bm,bmd->bd", bags.weights, table[bags.columns])


class Packed(NamedTuple):
    """Bags of one batch as a dense matrix over the features that occur; a pytree.

    So that a step reads, and an optimizer writes, no other rows of the embedding, and
    reads and writes them by matrix products: sums by row number are slow on a CPU.

    Attributes:
      features: i32[size], ascending; at the end some that do not exist, one or more.
      weights: f32[rows, size].
    """

    features: np.ndarray
    weights: np.ndarray

    def widened(self, size: int, features: int) -> "Packed":
        """With more columns, of features that do not exist.

        Args:
          size: of all columns.
          features: how many exist.
        """
        missing = size - self.features.size
        return Packed(
            np.pad(self.features, (0, missing), constant_values=features),
            np.pad(self.weights, ((0, 0), (0, missing))),
        )


def pack(batch: Bags, features: int, multiple: int = 512) -> Packed:
    """Packs a batch; its size is rounded up, so that few programs are compiled.

    Args:
      batch: bags of features below `features`.
      features: how many there are.
      multiple: of the size.
    """
    if batch.columns is None:
        occurring, weights = np.arange(features, dtype=np.int32), batch.weights
    else:
        occurring, places = np.unique(batch.columns, return_inverse=True)
        weights = np.zeros((len(batch.columns), len(occurring)), np.float32)
        rows = np.arange(len(weights))[:, None]
        np.add.at(weights, (rows, places.reshape(batch.columns.shape)), batch.weights)
    size = (len(occurring) // multiple + 1) * multiple
    return Packed(occurring.astype(np.int32), weights).widened(size, features)
