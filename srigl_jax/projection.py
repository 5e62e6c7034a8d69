"""What every sparse optimizer is made of: its state, and steps that end on the masks.

A sparse optimizer gives `inner` the gradients of the weights that exist, decides which
shall exist from now on, and returns `project(updates, ...)` with a state whose moments
`reset_moments` has cleared. Then weights and moments off the masks are exactly 0 under
stock `optax.apply_updates`, whatever `inner` is.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.masks import init_masks, is_masked_node
from srigl_jax.sparsity.plan import Plan


class SparsityState(NamedTuple):
    """State of a sparse optimizer: arrays only, it checkpoints and shards like params.

    Attributes:
      count: i32[], steps taken.
      masks: like the parameters: bool arrays, `MaskedNode` for dense leaves.
      inner: state of the wrapped optimizer.
      gradient_sum: f32, the dense gradients added up since the window before the next
        update opened, 0 outside windows; with `gradient_momentum`, their sum weighted
        by its powers; () with neither.
    """

    count: jax.Array
    masks: Any
    inner: optax.OptState
    gradient_sum: Any


def get_masks(opt_state: Any) -> Any:
    """The masks inside an optimizer state, however deeply it is wrapped.

    Raises:
      ValueError: no sparse optimizer's state in it, or more than one.
    """
    states = [
        node
        for node in jax.tree.leaves(
            opt_state, is_leaf=lambda node: isinstance(node, SparsityState)
        )
        if isinstance(node, SparsityState)
    ]
    if len(states) != 1:
        raise ValueError(
            f"expected the state of one sparse optimizer, found {len(states)}; pass "
            "the state of one that srigl_jax made"
        )
    return states[0].masks


def require_params(params: Any) -> None:
    """Raises ValueError unless the parameters were given."""
    if params is None:
        raise ValueError(
            "a sparse optimizer needs the parameters: update(grads, state, params)"
        )


def project(updates: Any, params: Any, old: Any, new: Any) -> Any:
    """Updates that land exactly on the new masks; grown weights land on 0."""

    def project(update, param, was, is_):
        if is_masked_node(is_):
            return update
        return jnp.where(was & is_, update, -param)

    return jax.tree.map(project, updates, params, old, new)


def reset_moments(
    inner: optax.GradientTransformation, state: optax.OptState, masks: Any
) -> optax.OptState:
    """Zeroes whatever `inner` remembers of weights that do not exist.

    Optax tells which leaves of a state are laid out like the parameters. A history of
    several (L-BFGS) has one more axis in front. Factored statistics (Adafactor) sit in
    their place with other shapes and are left alone, and so are the nodes that stand
    for whole subtrees in `multi_transform` and `masked`.
    """

    def reset(leaf, mask):
        if is_masked_node(leaf) or is_masked_node(mask):
            return leaf
        if jnp.shape(leaf)[-mask.ndim :] != mask.shape:
            return leaf
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return optax.tree_utils.tree_map_params(
        inner, reset, state, masks, is_leaf=is_masked_node
    )


def check_given_masks(masks: Any, params: Any, plan: Plan) -> None:
    """Raises ValueError unless masks are laid out as the plan has them."""
    if not plan:  # Optax's own utilities initialise with trees without leaves.
        return
    wanted = jax.eval_shape(lambda p: init_masks(p, plan), params)
    for (path, want), (given_path, given) in itertools.zip_longest(
        *map(_leaves_by_path, (wanted, masks)), fillvalue=((), None)
    ):
        if path != given_path or want.shape != given.shape or given.dtype != bool:
            raise ValueError(
                "masks must be like the parameters, with a bool array for each sparse "
                "layer and optax.MaskedNode() for all else, as init_masks makes them; "
                f"expected {leaf_name(path) or 'no more'}: {want}, got "
                f"{leaf_name(given_path) or 'no more'}: {_describe(given)}"
            )


def _leaves_by_path(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _describe(leaf):
    return leaf if leaf is None else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
