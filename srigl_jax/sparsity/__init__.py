"""Which weights exist: pure functions on kernels, their masks and pytrees of them."""

from srigl_jax.sparsity.layout import Layout
from srigl_jax.sparsity.masks import (
    LayerSummary,
    apply_masks,
    check_masks,
    init_masks,
    layer_masks,
    sparse_he_normal,
    summarize,
)
from srigl_jax.sparsity.plan import LayerPlan, Plan, make_plan

__all__ = [
    "LayerPlan",
    "LayerSummary",
    "Layout",
    "Plan",
    "apply_masks",
    "check_masks",
    "init_masks",
    "layer_masks",
    "make_plan",
    "sparse_he_normal",
    "summarize",
]
