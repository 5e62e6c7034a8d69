"""Masks over parameter pytrees: make them, apply them, verify them, describe them.

A mask pytree is like the parameters, with a `bool` array for each sparse leaf and
`optax.MaskedNode()` for each dense one.
"""

import dataclasses
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.plan import LayerPlan, Plan, alike, map_layers
from srigl_jax.sparsity.ranking import keep_in_layer, ranking_keys


def is_masked_node(node: Any) -> bool:
    """Whether a node of a mask pytree stands for a dense leaf."""
    return isinstance(node, optax.MaskedNode)


def layer_key(seed: jax.typing.ArrayLike, name: str) -> jax.Array:
    """A PRNG key of one layer, the same in every process and whatever else exists."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def init_masks(params: Any, plan: Plan, seed: jax.typing.ArrayLike = 0) -> Any:
    """Random initial masks.

    Where the fan-in is constant, every neuron gets `fan_in` random inputs, in N:M
    sparsity as many from each block; elsewhere a layer gets `budget` random positions,
    or as many random neurons as fit.

    Args:
      params: a pytree of arrays or `ShapeDtypeStruct`s. Masks of concrete arrays are
        laid out on devices as the arrays are.
      plan: as made for `params`.
      seed: i32[].
    """
    drawn = {}
    for layers in alike(plan):
        keys = jnp.stack([layer_key(seed, layer.name) for layer in layers])
        drawn |= zip(
            [layer.name for layer in layers],
            _random_masks(layers[0], keys),
            strict=True,
        )

    return map_layers(
        lambda layer, leaf: place_like(drawn[layer.name], leaf), plan, params
    )


def place_like(mask: jax.Array, leaf: Any) -> jax.Array:
    """Puts a mask on the devices of its weights, where these are concrete arrays."""
    # A mask pinned to a device beside parameters that are not, or the other way
    # round, would compile a training step twice.
    is_concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if is_concrete and leaf.committed:
        return jax.device_put(mask, leaf.sharding)
    return mask


@partial(jax.jit, static_argnums=0)
def _random_masks(layer: LayerPlan, keys: jax.Array) -> list[jax.Array]:
    layout = layer.layout

    def random_mask(key):
        scores = jax.random.uniform(key, (layout.fan_in, layout.neurons))
        keys = ranking_keys(layer, scores, jnp.ones_like(scores, bool))
        return layout.from_matrix(keep_in_layer(layer, keys))

    return list(jax.vmap(random_mask)(keys))


def full_masks(params: Any, plan: Plan) -> Any:
    """Masks from which nothing has been pruned yet, laid out as the parameters are."""
    return map_layers(lambda _, leaf: jnp.ones_like(leaf, bool), plan, params)


def without_full_masks(masks: Any) -> Any:
    """The same masks with `optax.MaskedNode()` for each that removes nothing."""

    # Of numpy, so that concrete masks can be given to an optimizer inside a jit.
    def drop(mask):
        return optax.MaskedNode() if np.asarray(mask).all() else mask

    return jax.tree.map(drop, masks)


def densities_of(
    masks: Any,
) -> Callable[..., dict[str, float]]:
    """The distribution for `make_plan` that has the densities of given masks.

    Args:
      masks: like the parameters, or by the layers' names.
    """
    given = {
        leaf_name(path): np.asarray(mask)
        for path, mask in jax.tree_util.tree_flatten_with_path(masks)[0]
    }

    def distribution(shapes, sparsity, dense=()):
        return {
            name: float(given[name].mean()) if name in given else 1.0 for name in shapes
        }

    return distribution


def apply_masks(params: Any, masks: Any) -> Any:
    """Sets the weights that do not exist to exactly 0."""

    def apply(leaf, mask):
        return leaf if is_masked_node(mask) else jnp.where(mask, leaf, 0)

    return jax.tree.map(apply, params, masks)


def sparse_he_normal(key: jax.Array, params: Any, masks: Any, plan: Plan) -> Any:
    """Draws the weights of sparse layers anew, scaled to their true fan-in.

    He et al. (2015) with the fan-in that is left: a neuron with k weights draws them
    from a normal distribution of VARIANCE 2 / k. Dense leaves are left alone.

    Args:
      key: PRNG key.
      params: pytree; shapes and dtypes are kept.
      masks: as from `init_masks`.
      plan: as made for `params`.
    """

    def draw(layer, leaf, mask):
        matrix = layer.layout.to_matrix(mask)
        fan_in = jnp.sum(matrix, axis=0)
        layer_noise = jax.random.fold_in(key, zlib.crc32(layer.name.encode()))
        normal = jax.random.normal(layer_noise, matrix.shape)
        weights = normal * jnp.sqrt(2 / jnp.maximum(fan_in, 1))
        return jnp.where(mask, layer.layout.from_matrix(weights), 0).astype(leaf.dtype)

    drawn = map_layers(draw, plan, params, masks)
    return jax.tree.map(lambda p, d: p if is_masked_node(d) else d, params, drawn)


def layer_masks(masks: Any, plan: Plan) -> dict[str, np.ndarray]:
    """The masks of sparse layers by name, on the host: bool[fan_in, neurons]."""
    found = {}

    def collect(layer, mask):
        found[layer.name] = np.asarray(layer.layout.to_matrix(mask))
        return mask

    map_layers(collect, plan, masks)
    return found


def fan_ins(masks: Any, plan: Plan) -> dict[str, jax.Array]:
    """Weights of each neuron of the sparse layers, by name: i32[neurons]."""
    found = {}

    def count(layer, mask):
        matrix = layer.layout.to_matrix(mask)
        found[layer.name] = jnp.sum(matrix, axis=0, dtype=jnp.int32)
        return mask

    map_layers(count, plan, masks)
    return found


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """What one layer was asked to be and what it is.

    Attributes:
      name: the leaf's path.
      shape: the kernel's shape.
      sparse: whether it has a mask.
      density_asked: share of weights asked for.
      density_got: share of weights that exist; below the one asked for by what is
        left over in flooring to a constant fan-in.
      weights: how many exist.
      neurons: output features.
      active: neurons that have a weight.
      fan_in_min: least number of weights of an active neuron.
      fan_in_max: largest number of weights of a neuron; k where it is constant.
      may_ablate: whether neurons of this layer can be ablated.
    """

    name: str
    shape: tuple[int, ...]
    sparse: bool
    density_asked: float
    density_got: float
    weights: int
    neurons: int
    active: int
    fan_in_min: int
    fan_in_max: int
    may_ablate: bool


def summarize(masks: Any, plan: Plan) -> list[LayerSummary]:
    """Describes every kernel, dense ones included, in the order of the parameters."""
    counts = fan_ins(masks, plan)
    return [_summarize_layer(layer, counts.get(name)) for name, layer in plan.items()]


def _summarize_layer(layer: LayerPlan, fan_ins: jax.Array | None) -> LayerSummary:
    layout = layer.layout
    if fan_ins is None:
        fan_ins = np.full(layout.neurons, layout.fan_in)
    fan_ins = np.asarray(fan_ins)
    active = fan_ins[fan_ins > 0]
    weights = int(fan_ins.sum())
    return LayerSummary(
        name=layer.name,
        shape=layout.shape,
        sparse=layer.is_sparse,
        density_asked=layer.density,
        density_got=weights / layout.size,
        weights=weights,
        neurons=layout.neurons,
        active=active.size,
        fan_in_min=int(active.min()) if active.size else 0,
        fan_in_max=int(active.max()) if active.size else 0,
        may_ablate=layer.is_sparse and layer.may_ablate,
    )


def check_masks(masks: Any, plan: Plan, params: Any = None) -> None:
    """Verifies the invariants that training keeps after every step.

    Args:
      masks: as in the optimizer state.
      plan: of the parameters, made with the options of the optimizer.
      params: the parameters; if given, their weights off the masks must be 0.

    Raises:
      ValueError: names the layer and what is broken: a fan-in that is not constant, a
        budget exceeded or not used up, an output neuron that was ablated, a weight
        that should not exist.
    """
    found = layer_masks(masks, plan)
    if missing := {n for n, layer in plan.items() if layer.is_sparse} - set(found):
        raise ValueError(f"no mask for the sparse layers {sorted(missing)}")
    for name, mask in found.items():
        _check_layer_mask(plan[name], mask)
    _check_shared({n: mask for n, mask in found.items() if plan[n].shared}, plan)
    if params is not None:
        _check_params(params, masks, plan)


def _check_layer_mask(layer: LayerPlan, mask: np.ndarray) -> None:
    weights, neurons = int(mask.sum()), layer.layout.neurons
    if layer.whole_neurons and (part := mask.any(axis=0) & ~mask.all(axis=0)).any():
        raise ValueError(
            f"{layer.name}: neurons exist as a whole or not at all, but {_some(part)} "
            "have a part of their weights"
        )
    if layer.shared:
        if not weights:
            raise ValueError(f"{layer.name} has no weight at all")
        return
    if layer.whole_neurons:
        fits = layer.budget // layer.layout.fan_in
        if (found := weights // layer.layout.fan_in) != fits:
            raise ValueError(
                f"{layer.name} has {found} neurons; {fits} fit in its budget of "
                f"{layer.budget} weights"
            )
        return
    if not layer.constant_fan_in:
        if weights != layer.budget:
            raise ValueError(
                f"{layer.name} has {weights} weights, its budget is {layer.budget}"
            )
        return
    counts = mask.reshape(layer.blocks, -1, neurons).sum(axis=1)
    active = counts.any(axis=0)
    if not active.all() and not layer.may_ablate:
        raise ValueError(
            f"{layer.name} may not ablate, but neurons {_some(~active)} have no weight"
        )
    block = layer.layout.fan_in // layer.blocks
    k = min(block, layer.budget // max(1, int(active.sum()) * layer.blocks))
    if (wrong := (counts[:, active] != k).any(axis=0)).any():
        raise ValueError(
            f"{layer.name}: each active neuron should have {k} weights in every "
            f"block of {block} inputs, which active neurons {_some(wrong)} have not"
        )


def _check_shared(found: dict[str, np.ndarray], plan: Plan) -> None:
    """Whole neurons need not fill a budget; how many fit depends on which they are."""
    weights = sum(int(mask.sum()) for mask in found.values())
    layers = [plan[name] for name in found]
    budget = sum(layer.budget for layer in layers)
    least = budget - max(
        (n.layout.fan_in - 1 for n in layers if n.whole_neurons), default=0
    )
    if not least <= weights <= budget:
        raise ValueError(
            f"{sorted(found)} have {weights} weights together, their shared budget is "
            f"{budget}"
        )


def _check_params(params: Any, masks: Any, plan: Plan) -> None:
    def check(layer, leaf, mask):
        if stray := int(jnp.sum((leaf != 0) & ~mask)):
            raise ValueError(
                f"{layer.name} has {stray} nonzero weights that its mask removed; "
                "apply_masks(params, masks) sets them to 0"
            )
        return mask

    map_layers(check, plan, params, masks)


def _some(selected: np.ndarray, most: int = 8) -> str:
    ids = np.flatnonzero(selected)
    return str(ids[:most].tolist()) + (" ..." if ids.size > most else "")
