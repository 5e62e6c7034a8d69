"""Dynamic sparse training with structured sparsity (SRigL) in JAX.

Wrap an optax optimizer in `srigl` and it trains a sparse network:

    optimizer = srigl_jax.srigl(optax.adamw(1e-3), sparsity=0.9, total_steps=10_000)
"""

from srigl_jax._version import __version__
from srigl_jax.sparsity import (
    apply_masks,
    check_masks,
    init_masks,
    make_plan,
    sparse_he_normal,
    summarize,
)
from srigl_jax.transform import (
    SparsityState,
    get_masks,
    rigl,
    set_,
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
    "init_masks",
    "make_plan",
    "rigl",
    "set_",
    "sparse_he_normal",
    "sparsify",
    "srigl",
    "static",
    "summarize",
]
