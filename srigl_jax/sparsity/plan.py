"""What each layer of a network may have: static facts, computed once from shapes."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from srigl_jax.sparsity import distribution as distributions
from srigl_jax.sparsity.layout import Layout, infer_layout, is_kernel, leaf_name
from srigl_jax.sparsity.topology import check_block

Distribution = str | Mapping[str, float] | Callable[..., dict[str, float]]

_OUTPUT_LAYER = re.compile(
    r"(^|/)(head|lm_head|classifier|logits|fc|output|readout)(/|$)|^out(/|$)"
)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """The sparsity of one kernel.

    Attributes:
      name: the leaf's path, `layers/0/kernel`.
      layout: shape and axes.
      density: share of the weights that is asked for; 1.0 is a dense layer.
      budget: weights that may exist, floor(density * size).
      constant_fan_in: whether every active neuron has the same number of weights.
      block: N:M sparsity with M = block, or None.
      may_ablate: whether whole neurons may be removed.
      shared: whether the budget is shared with the other such layers, so that only the
        sum of them is fixed.
      whole_neurons: whether a neuron exists with its whole fan-in or not at all.
    """

    name: str
    layout: Layout
    density: float
    budget: int
    constant_fan_in: bool
    block: int | None
    may_ablate: bool
    shared: bool = False
    whole_neurons: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether the layer has a mask at all."""
        return self.budget < self.layout.size

    @property
    def fan_in(self) -> int:
        """Weights that the budget allows each neuron when none is ablated: k0."""
        return self.budget // self.layout.neurons

    @property
    def blocks(self) -> int:
        """Blocks of inputs in a neuron's fan-in; 1 without N:M sparsity."""
        return self.layout.fan_in // self.block if self.block else 1

    @property
    def fan_in_per_block(self) -> int:
        """Weights of a neuron in each block when none is ablated."""
        return self.budget // (self.layout.neurons * self.blocks)


Plan = dict[str, LayerPlan]


def make_plan(
    params: Any,
    sparsity: float,
    *,
    distribution: Distribution = "erk",
    constant_fan_in: bool = True,
    block: int | None = None,
    whole_neurons: bool = False,
    dense: str | Sequence[str] = (),
    last: str | Sequence[str] | None = None,
    neuron_axes: Mapping[str, tuple[int, ...]] | None = None,
) -> Plan:
    """Decides which leaves are sparse, and how sparse.

    Args:
      params: a pytree of arrays or `ShapeDtypeStruct`s, of any library.
      sparsity: share of the kernels' weights to remove, in [0, 1).
      distribution: "erk", "uniform", a function `(shapes, sparsity, dense) ->
        {name: density}`, or the densities by layer name. "global" leaves it to a
        ranking of all weights together how many each layer gets (`keep_best`).
      constant_fan_in: whether every active neuron gets the same fan-in (SRigL, N:M),
        or only the layer's budget is fixed (SET, RigL).
      block: N:M sparsity with M = block.
      whole_neurons: whether a neuron exists with its whole fan-in or not at all; takes
        the place of a constant fan-in. Output layers stay dense.
      dense: pattern or patterns (`re.search` in the leaf's name) of kernels to leave
        dense.
      last: pattern or patterns of the output layers, whose neurons are the classes and
        are never ablated; () where there are none. By default all that are called
        `head`, `lm_head`, `classifier`, `logits`, `fc`, `output` or `readout`, or `out`
        at the top. Unless one of them is at the top, also the last layer, by the order
        of fields, of lists and of numbers in names; where these tell no order, every
        layer that may be last.
      neuron_axes: see `layout.infer_layout`.

    Returns:
      `{leaf name: LayerPlan}` of every kernel, dense ones included.

    Raises:
      ValueError: sparsity outside [0, 1); a pattern that matches nothing; two leaves of
        one name; a layer left without a weight, or without one for each neuron where
        the fan-in is constant; a block that does not divide a fan-in, or is given
        although the fan-in is not constant; a constant fan-in in layers that share a
        budget.
    """
    distributions.check_sparsity(sparsity)
    constant_fan_in = constant_fan_in and not whole_neurons
    shared = isinstance(distribution, str) and distribution == "global"
    if shared and constant_fan_in:
        raise ValueError(
            "distribution='global' needs constant_fan_in=False: a fan-in is given to "
            "each layer, by 'erk' or 'uniform'"
        )
    if block is not None and not constant_fan_in:
        raise ValueError(
            f"block={block} needs constant_fan_in=True: in N:M sparsity every block of "
            "a neuron has as many weights"
        )
    layouts, paths = _find_kernels(params, neuron_axes)
    if not layouts:  # An empty tree, as optax's own tree utilities make them.
        return {}
    shapes = {name: layout.shape for name, layout in layouts.items()}
    dense_names = _matching(shapes, dense, "dense")
    outputs = _output_layers(paths, last)
    if whole_neurons:
        dense_names |= outputs
    try:
        densities = _distribute(distribution, shapes, sparsity, dense_names)
    except ValueError as error:
        if not (whole_neurons and outputs):
            raise
        raise ValueError(
            f"{error}. Output layers, here {sorted(outputs)}, lose no neurons and are "
            "always among the dense ones"
        ) from error
    plan = {}
    for name, layout in layouts.items():
        layer = LayerPlan(
            name=name,
            layout=layout,
            density=densities[name],
            budget=distributions.budget(densities[name], layout.size),
            constant_fan_in=constant_fan_in,
            block=block,
            may_ablate=whole_neurons or (constant_fan_in and name not in outputs),
            shared=shared and name not in dense_names,
            whole_neurons=whole_neurons,
        )
        _check_layer(layer, sparsity, distribution)
        plan[name] = layer
    _check_shared(plan, sparsity)
    return plan


def map_layers(
    function: Callable[..., Any], plan: Plan, params: Any, *rest: Any
) -> Any:
    """Maps `function(layer, leaf, *leaves)` over the sparse leaves of a pytree.

    Args:
      function: gets the `LayerPlan`, the leaf of `params`, and those of `rest`.
      plan: as made for `params`.
      params: the pytree whose structure the result has.
      *rest: pytrees like `params`, or masks.

    Returns:
      A pytree like `params` with `optax.MaskedNode()` where a leaf is dense.
    """

    def visit(path, leaf, *leaves):
        layer = plan.get(leaf_name(path))
        if layer is None or not layer.is_sparse:
            return optax.MaskedNode()
        return function(layer, leaf, *leaves)

    return jax.tree_util.tree_map_with_path(visit, params, *rest)


def alike(plan: Plan) -> list[list[LayerPlan]]:
    """Sparse layers in groups that differ in nothing but their names.

    The layers of a group can be stacked and updated by one vmapped call: a ResNet-50
    has 54 kernels but 23 kinds of them, and compile time follows the kinds.
    """
    groups: dict[LayerPlan, list[LayerPlan]] = {}
    for layer in plan.values():
        if layer.is_sparse:
            kind = dataclasses.replace(layer, name="")
            groups.setdefault(kind, []).append(layer)
    return list(groups.values())


def _find_kernels(params, neuron_axes) -> tuple[dict[str, Layout], dict[str, tuple]]:
    """Layout and path of every kernel, by name, in the order of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if leaves:
        names = {}
        for path, _ in leaves:
            name = leaf_name(path)
            if name in names:
                raise ValueError(
                    f"two leaves of the parameters are named {name!r}, at "
                    f"{jax.tree_util.keystr(names[name])} and "
                    f"{jax.tree_util.keystr(path)}: rename one"
                )
            names[name] = path
        for pattern in neuron_axes or ():
            _matching(names, [pattern], "neuron_axes")
    kernels = [(path, leaf) for path, leaf in leaves if is_kernel(path, leaf)]
    layouts = {
        leaf_name(path): infer_layout(path, tuple(leaf.shape), neuron_axes)
        for path, leaf in kernels
    }
    return layouts, {leaf_name(path): path for path, _ in kernels}


def _distribute(distribution, shapes, sparsity, dense) -> dict[str, float]:
    if isinstance(distribution, Mapping):
        densities = dict(distribution) | dict.fromkeys(dense, 1.0)
    elif callable(distribution):
        densities = distribution(shapes, sparsity, dense)
    elif distribution in distributions.DISTRIBUTIONS:
        known = distributions.DISTRIBUTIONS[distribution]
        densities = known(shapes, sparsity, dense)
    else:
        raise ValueError(
            f"distribution is {distribution!r}: choose one of "
            f"{sorted(distributions.DISTRIBUTIONS)}, a function, or a mapping"
        )
    if set(densities) != set(shapes):
        odd = sorted(set(densities) ^ set(shapes))
        raise ValueError(
            f"the distribution must give a density to each layer {sorted(shapes)} "
            f"and to no other; it differs in {odd}"
        )
    for name, density in densities.items():
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"the distribution gives {name} a density of {density}")
    return densities


def _matching(names, patterns, field) -> set[str]:
    matched = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ValueError(
                f"{field} pattern {pattern!r} is not a regular expression: {error}"
            ) from error
        if not found:
            raise ValueError(
                f"{field} pattern {pattern!r} matches no layer; the layers are "
                f"{sorted(names)}"
            )
        matched |= found
    return matched


def _output_layers(paths, last) -> set[str]:
    if last is not None:
        return _matching(paths, last, "last")
    named = {name for name in paths if _OUTPUT_LAYER.search(name)}
    # Blocks inside a network have outputs, too: those alone do not decide.
    top = min(name.count("/") for name in paths)
    if any(name.count("/") == top for name in named):
        return named
    return named | _possibly_last(list(paths.items()))


def _possibly_last(kernels: list[tuple[str, tuple[Any, ...]]]) -> set[str]:
    """The names of the kernels that may come last: too many rather than too few.

    Takes (name, path) in the order of the tree. That is the order of the network in
    lists and in the fields of dataclasses; but jax sorts dicts, and flax.nnx modules
    sort their attributes.
    """
    if len(kernels) == 1:
        return {kernels[0][0]}
    children: dict[Any, list] = {}
    for name, path in kernels:
        children.setdefault(path[0], []).append((name, path[1:]))
    keys = list(children)
    names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
    if isinstance(keys[0], jax.tree_util.SequenceKey) or (
        isinstance(keys[0], jax.tree_util.GetAttrKey) and names != sorted(names)
    ):
        last = {keys[-1]}
    else:
        # The highest number of each kind of name.
        ascending = sorted(zip(keys, names, strict=True), key=lambda k: _numbers(k[1]))
        last = {re.sub(r"\d+", "", name): key for key, name in ascending}.values()
    return set().union(*(_possibly_last(children[key]) for key in last))


def _numbers(name: str) -> list[int]:
    """Sorts Dense_2 before Dense_10."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _check_layer(layer: LayerPlan, sparsity: float, distribution: Distribution) -> None:
    if not layer.is_sparse:
        return
    layout = layer.layout
    if layer.block is not None:
        check_block(layout.fan_in, layer.block, layer.name)
    other = "another distribution"
    if layer.block is not None and distribution != "uniform":
        other = 'distribution="uniform"'
    remedy = (
        f"lower sparsity={sparsity}, use {other}, or keep the layer dense with "
        f"dense=[{layer.name!r}]"
    )
    if layer.shared:
        return
    if layer.whole_neurons and layer.budget < layout.fan_in:
        raise ValueError(
            f"{layer.name} {layout.shape} has a budget of {layer.budget} weights, less "
            f"than the {layout.fan_in} of one whole neuron: {remedy}"
        )
    if layer.budget == 0:
        raise ValueError(
            f"{layer.name} {layout.shape} would keep no weight at all at density "
            f"{layer.density:.6f}: {remedy}"
        )
    if layer.constant_fan_in and layer.fan_in_per_block == 0:
        block = f"block of {layer.block} inputs of the " if layer.block else "of the "
        raise ValueError(
            f"{layer.name} {layout.shape} has a budget of {layer.budget} weights, less "
            f"than one for each {block}{layout.neurons} neurons, so its fan-in k0 is "
            f"0: {remedy}"
        )


def _check_shared(plan: Plan, sparsity: float) -> None:
    layers = [layer for layer in plan.values() if layer.shared and layer.is_sparse]
    units = [layer.layout.fan_in if layer.whole_neurons else 1 for layer in layers]
    budget = sum(layer.budget for layer in layers)
    if budget < sum(units):
        what = "neuron" if layers[0].whole_neurons else "weight"
        raise ValueError(
            f"sparsity={sparsity} leaves {budget} weights to {len(layers)} layers that "
            f"share them, but one {what} in each takes {sum(units)}: lower it, or "
            "name layers that stay dense"
        )
