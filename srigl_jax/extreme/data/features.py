"""Sparse features of texts, padded, through an embedding that is trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse


class Bags(NamedTuple):
    """Rows of a sparse matrix as arrays of one width; a pytree.

    Attributes:
      columns: i32[rows, most], padded with 0.
      weights: f32[rows, most], 0 where padded.
    """

    columns: np.ndarray
    weights: np.ndarray


def bags(matrix: scipy.sparse.csr_matrix, most: int) -> Bags:
    """The `most` largest features of each row, scaled to the length 1.

    Args:
      matrix: f[rows, features], TF-IDF say.
      most: width of the arrays.
    """
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
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    return Bags(columns, weights / np.maximum(length, 1e-12))


def embed(table: jax.Array, bags: Bags) -> jax.Array:
    """The weighted sums of rows of a table f[features, width]: f[rows, width]."""
    return jnp.einsum("bm,bmd->bd", bags.weights, table[bags.columns])
