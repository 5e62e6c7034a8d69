"""Dynamic sparse training with structured sparsity (SRigL) in JAX.

Wrap an optax optimizer in `srigl` and it trains a sparse network:

    optimizer = srigl_jax.srigl(optax.adamw(1e-3), sparsity=0.9, total_steps=10_000)
"""

from srigl_jax._version import __version__
from srigl_jax.at_init import grasp, snip
from srigl_jax.projection import SparsityState, get_masks
from srigl_jax.pruning import prune, sr_ste, ticket
from srigl_jax.sparsity import (
    apply_masks,
    check_masks,
    init_masks,
    make_plan,
    sparse_he_normal,
    summarize,
)
from srigl_jax.transform import (
    rigl,
    set_,
    snfs,
    sparsify,
    srigl,
    static,
)

__all__ = [
    "SparsityState",
    "__version__",
    "apply_masks",
    "check_masks",
    "get_masks",
    "grasp",
    "init_masks",
    "make_plan",
    "prune",
    "rigl",
    "set_",
    "snfs",
    "snip",
    "sparse_he_normal",
    "sparsify",
    "sr_ste",
    "srigl",
    "static",
    "summarize",
    "ticket",
]
