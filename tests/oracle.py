"""The specification in slow, obvious numpy: what every rule of the library must equal.

Written from the paper's rule alone, never from the implementation: explicit sorts and
Python loops over neurons, one small function for each step of the SRigL update. All
matrices are `[fan_in, neurons]`; results are bool. Equal scores are taken in the order
of their position: row-major in a layer, by row in a neuron.
"""

import math
from fractions import Fraction

import numpy as np


def srigl(
    weights,
    grads,
    mask,
    *,
    fraction,
    budget,
    fan_in,
    gamma_sal,
    growth_candidates="inactive",
    block=None,
):
    """The new mask of one layer; `fan_in` is k0, `block` the M of N:M."""
    weights, grads, mask = magnitude(weights), magnitude(grads), np.asarray(mask, bool)
    inputs, neurons = mask.shape
    block = inputs if block is None else block
    drop = drop_count(mask.sum(), fraction)
    keep = mask.sum() - drop

    salient = largest(weights, keep, mask)
    if growth_candidates == "inactive":
        salient |= largest(grads, drop, ~mask)
    elif growth_candidates == "all":
        salient |= largest(grads, drop, np.ones_like(mask))
    else:
        raise ValueError(f"growth_candidates {growth_candidates!r}")

    threshold = ablation_threshold(
        salient.sum(axis=0), inputs, budget, fan_in, gamma_sal
    )
    active = [n for n in range(neurons) if salient[:, n].sum() >= threshold]
    k = min(budget // (len(active) * (inputs // block)), block)

    candidates = np.zeros_like(mask)
    for neuron in active:
        candidates[:, neuron] = mask[:, neuron]
    survivors = largest(weights, keep, candidates)

    new_mask = np.zeros_like(mask)
    for neuron in active:
        for first in range(0, inputs, block):
            part = (slice(first, first + block), neuron)
            kept = largest(weights[part], k, survivors[part])
            grown = largest(grads[part], k - kept.sum(), ~kept)
            new_mask[part] = kept | grown
    return new_mask


def ablation_threshold(counts, inputs, budget, fan_in, gamma_sal):
    """The salient weights a neuron needs to live; 0 where ablation is off."""
    if gamma_sal == 0:
        return 0
    threshold = max(1, exact_floor(gamma_sal, fan_in))
    # Fewer neurons than these could not hold the budget: each has `inputs` places.
    # In a fully dense layer rank m does not exist: no neuron can be spared.
    rank = min(budget // inputs, len(counts) - 1)
    return min(threshold, sorted(counts, reverse=True)[rank])


def rigl(weights, grads, mask, *, fraction):
    """Drops the smallest weights of the layer, grows as many largest gradients."""
    kept = set_keep(weights, mask, fraction=fraction)
    return kept | largest(magnitude(grads), np.sum(mask) - kept.sum(), ~kept)


def set_keep(weights, mask, *, fraction):
    """The weights that SET and RigL keep: SET grows the rest at random."""
    mask = np.asarray(mask, bool)
    keep = mask.sum() - drop_count(mask.sum(), fraction)
    return largest(magnitude(weights), keep, mask)


def largest(scores, count, where):
    """The `count` largest scores where `where` is true, or all of them if fewer."""
    positions = np.flatnonzero(where)
    order = np.lexsort((positions, -np.ravel(scores)[positions]))
    chosen = np.zeros(np.size(scores), bool)
    chosen[positions[order[: int(count)]]] = True
    return chosen.reshape(np.shape(scores))


def magnitude(array):
    """|array| in float64, which holds every smaller float exactly."""
    return np.abs(np.asarray(array).astype(np.float64))


def drop_count(nnz, fraction):
    return min(int(nnz), exact_floor(fraction, nnz))


def exact_floor(ratio, count):
    """The floor of the product with the decimal number that a float is written as."""
    return math.floor(Fraction(str(np.asarray(ratio)[()])) * int(count))


def uniform(shapes, sparsity, dense=()):
    """The density of every layer, by name: 1 - sparsity, or 1 where dense."""
    return {name: 1.0 if name in dense else 1 - sparsity for name in shapes}


def erk(shapes, sparsity, dense=()):
    """Erdos-Renyi-kernel densities: eps * sum(dims) / prod(dims), at most 1.

    The network keeps what is left when each layer's zeros, S * N, are rounded down.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense = set(dense)
    while len(dense) < len(shapes):
        sparse = [name for name in shapes if name not in dense]
        left = sum(size - budget(sparsity, size) for size in sizes.values())
        left -= sum(sizes[n] for n in dense)
        eps = left / sum(raw[name] * sizes[name] for name in sparse)
        overfull = [name for name in sparse if eps * raw[name] > 1]
        if not overfull:
            break
        dense.update(overfull)
    return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}


def budget(density, size):
    """How many weights a layer may have."""
    return math.floor(density * size + 1e-6)


def update_due(step, delta_t, t_end):
    return 0 < step < t_end and step % delta_t == 0


def drop_fraction(step, alpha, t_end):
    return alpha / 2 * (1 + math.cos(math.pi * step / t_end))


def pruned_count(size, budget, progress):
    """The weights left when so much of the surplus is gone."""
    return size - exact_floor(progress, size - budget)


def pruning_progress(step, start, end):
    """Zhu & Gupta's cubic schedule, as a share of the final sparsity."""
    if step < start:
        return 0.0
    if step >= end:
        return 1.0
    return 1 - (1 - (step - start) / (end - start)) ** 3


def keep_globally(scores, total):
    """Masks of the best scores of a list of layers, the best of each among them."""
    scores = [magnitude(layer) for layer in scores]
    firsts = [largest(layer, 1, np.ones(layer.shape, bool)) for layer in scores]
    flat = np.concatenate([layer.ravel() for layer in scores])
    first = np.concatenate([layer.ravel() for layer in firsts])
    kept = first | largest(flat, total - first.sum(), ~first)
    ends = np.cumsum([layer.size for layer in scores])[:-1]
    return [
        part.reshape(layer.shape)
        for part, layer in zip(np.split(kept, ends), scores, strict=True)
    ]


def keep_neurons(weights, count):
    """The whole neurons of largest norm."""
    norms = np.sqrt((magnitude(weights) ** 2).mean(axis=0))
    kept = largest(norms, count, np.ones(len(norms), bool))
    return np.broadcast_to(kept, np.shape(weights))


def keep_in_blocks(weights, per_block, block):
    """The largest weights of each neuron in every block of inputs."""
    weights = magnitude(weights)
    mask = np.zeros(weights.shape, bool)
    for neuron in range(weights.shape[1]):
        for first in range(0, len(weights), block):
            part = (slice(first, first + block), neuron)
            everywhere = np.ones(len(weights[part]), bool)
            mask[part] = largest(weights[part], per_block, everywhere)
    return mask
