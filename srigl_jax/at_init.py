"""Masks found at initialisation, from the gradients of one batch: SNIP and GraSP.

Train with them as fixed masks:

    masks = srigl_jax.snip(loss, params, batch, plan)
    optimizer = srigl_jax.static(inner, masks=masks)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.masks import is_masked_node, layer_key
from srigl_jax.sparsity.plan import Plan, map_layers
from srigl_jax.sparsity.ranking import keep_best

Loss = Callable[[Any, Any], jax.Array]


def snip(loss: Loss, params: Any, batch: Any, plan: Plan) -> Any:
    """Masks of the weights that the loss feels most: largest `|w * dL/dw|`.

    Lee et al., arXiv 1810.02340. The paper ranks all layers together: give a plan of
    `distribution="global"` for that, of any other to keep each layer's budget. In a
    global ranking each layer keeps at least its best weight.

    Args:
      loss: `loss(params, batch) -> f[]`.
      params: the dense network's.
      batch: of examples, such that each class has some.
      plan: as made for `params`; with a constant fan-in or blocks, these hold.

    Raises:
      ValueError: a layer whose scores are not finite, or all 0.
    """
    return keep_best(snip_scores(loss, params, batch, plan), plan)


def grasp(loss: Loss, params: Any, batch: Any, plan: Plan) -> Any:
    """Masks of the weights that keep the gradient flowing: largest `w * (H g)`.

    Wang et al., arXiv 2002.07376: to first order, removing a weight changes the squared
    norm of the gradient by -2 w (H g), with H the loss's Hessian; those weights are
    kept whose removal lowers it most. Here g and H are of the sparse layers alone, and
    the loss is taken as it is: no temperature. Budgets are as for `snip`.

    Args:
      loss: `loss(params, batch) -> f[]`, differentiable twice.
      params: the dense network's.
      batch: of examples, such that each class has some.
      plan: as made for `params`; with a constant fan-in or blocks, these hold.

    Raises:
      ValueError: a layer whose scores are not finite, or all 0.
    """
    return keep_best(grasp_scores(loss, params, batch, plan), plan, signed=True)


def drawn_where_zero(params: Any, plan: Plan, seed: int) -> Any:
    """The parameters with every kernel of zeros drawn anew, for the scores' sake.

    No gradient passes a layer of zeros, as which the head of some networks starts: all
    below it would score 0. Drawn by He et al. (arXiv 1502.01852), from a normal
    distribution of variance 2 / fan-in. Train with the parameters as they were.

    Args:
      params: the dense network's.
      plan: as made for `params`; dense kernels are drawn as well.
      seed: of the weights.
    """

    def draw(path, leaf):
        layer = plan.get(leaf_name(path))
        if layer is None or jnp.any(leaf):
            return leaf
        normal = jax.random.normal(layer_key(seed, layer.name), leaf.shape, leaf.dtype)
        return normal * jnp.sqrt(2 / layer.layout.fan_in).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, params)


def snip_scores(loss: Loss, params: Any, batch: Any, plan: Plan) -> Any:
    """`|w * dL/dw|`, like the parameters; `optax.MaskedNode()` where dense."""
    grads = jax.jit(jax.grad(loss))(params, batch)
    return _checked(
        "SNIP", map_layers(lambda _, w, g: jnp.abs(w * g), plan, params, grads)
    )


def grasp_scores(loss: Loss, params: Any, batch: Any, plan: Plan) -> Any:
    """`w * (H g)`, like the parameters; `optax.MaskedNode()` where dense."""

    @jax.jit
    def scores(params, batch):
        def gradient(params):
            return jax.grad(loss)(params, batch)

        sparse = map_layers(lambda _, g: g, plan, gradient(params))
        along = jax.tree.map(
            lambda p, g: jnp.zeros_like(p) if is_masked_node(g) else g, params, sparse
        )
        _, curved = jax.jvp(gradient, (params,), (along,))
        return map_layers(lambda _, w, h: w * h, plan, params, curved)

    return _checked("GraSP", scores(params, batch))


def _checked(method: str, scores: Any) -> Any:
    """The scores, if they rank anything in every layer."""
    for path, score in jax.tree_util.tree_flatten_with_path(scores)[0]:
        problem = None
        if not bool(jnp.all(jnp.isfinite(score))):
            problem = "are not finite"
        elif not bool(jnp.any(score)):
            problem = "are all 0"
        if problem:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{method}: the scores of {name} {problem} on this batch, which ranks "
                "nothing; give a larger batch, other initial weights, or keep the "
                f"layer dense with dense=[{name!r}]"
            )
    return scores
