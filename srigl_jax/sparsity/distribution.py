"""How a global sparsity is shared out among layers.

A distribution is a function `(shapes, sparsity, dense) -> {name: density}` of
`{name: kernel shape}`; density is the share of a layer's weights that exist. Write
your own with that signature and pass it wherever `"erk"` or `"uniform"` is accepted.
"""

import math
from collections.abc import Collection, Mapping

Shapes = Mapping[str, tuple[int, ...]]


def uniform(
    shapes: Shapes, sparsity: float, dense: Collection[str] = ()
) -> dict[str, float]:
    """Gives every layer outside `dense` the global sparsity.

    Raises:
      ValueError: sparsity outside [0, 1), or a `dense` name that is not a layer.
    """
    _validate(shapes, sparsity, dense)
    return {name: 1.0 if name in dense else 1.0 - sparsity for name in shapes}


def erk(
    shapes: Shapes, sparsity: float, dense: Collection[str] = ()
) -> dict[str, float]:
    """Erdos-Renyi-Kernel densities: large layers become sparser than small ones.

    The density of a layer is proportional to the sum of its dimensions over their
    product (RigL, arXiv 1911.11134, section 3 (1)). The factor is such that the
    network as a whole, the layers in `dense` included, keeps `1 - sparsity` of its
    weights, rounded up in each layer as in RigL's published densities. Layers that
    would exceed density 1 become dense, and the rest is solved again.

    Raises:
      ValueError: sparsity outside [0, 1), a `dense` name that is not a layer, or
        dense layers that alone exceed the budget.
    """
    _validate(shapes, sparsity, dense)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    sums = {name: sum(shape) for name, shape in shapes.items()}
    total = sum(size - _floor(sparsity * size) for size in sizes.values())
    full = set(dense)
    while True:
        sparse = [name for name in shapes if name not in full]
        left = total - sum(sizes[name] for name in full)
        if sparse and left <= 0:
            raise ValueError(
                f"the dense layers {sorted(full)} alone hold more weights than "
                f"sparsity={sparsity} leaves to the whole network; name fewer dense "
                "layers, lower the sparsity, or use distribution='uniform'"
            )
        # density = epsilon * sum / size, so a layer's weights are epsilon * sum.
        epsilon = left / max(1, sum(sums[name] for name in sparse))
        overfull = {name for name in sparse if epsilon * sums[name] > sizes[name]}
        if not overfull:
            break
        full |= overfull
    return {
        name: 1.0 if name in full else epsilon * sums[name] / sizes[name]
        for name in shapes
    }


# Of "global", the densities that layers would have if they were alike: only the sum of
# the budgets counts.
DISTRIBUTIONS = {"erk": erk, "uniform": uniform, "global": uniform}


def budget(density: float, size: int) -> int:
    """The number of weights that exist: floor(density * size).

    Guarded against float error: a density of 1 - 0.9 of 1000 weights gives 100.
    """
    return min(size, _floor(density * size))


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError unless sparsity is a number in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(
            f"sparsity is {sparsity}: give a share of removed weights in [0, 1), "
            "for example 0.9"
        )


def _floor(x: float) -> int:
    return math.floor(round(x, 6))


def _validate(shapes: Shapes, sparsity: float, dense: Collection[str]) -> None:
    check_sparsity(sparsity)
    if unknown := sorted(set(dense) - set(shapes)):
        raise ValueError(
            f"dense names {unknown}, which are not among the layers {sorted(shapes)}"
        )
