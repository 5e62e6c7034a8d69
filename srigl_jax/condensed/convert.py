"""`condense_model`: a trained network and its masks to one that runs fast.

    conversion = condense_model(model, masks, example_shape=(32, 32, 3))
    print(conversion)  # What became of each layer, and why.
    logits = jax.jit(conversion.model)(images)

The new network computes what the masked one computes in evaluation mode, within
rounding. Layers are condensed one by one; where the network says how they feed each
other (`srigl_jax.models.Link`), batch normalisations are folded into the layers before
them, and neurons that are constant or unread are removed.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax.condensed import choose, folding
from srigl_jax.condensed.layers import Layer, read_layer
from srigl_jax.condensed.matmul import IMPLEMENTATIONS
from srigl_jax.condensed.modules import Identity
from srigl_jax.models.calls import layer_calls, set_module
from srigl_jax.models.links import Link
from srigl_jax.sparsity.layout import leaf_name
from srigl_jax.sparsity.masks import is_masked_node


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """What became of one layer.

    Attributes:
      name: its path.
      shape: of its kernel before.
      new_shape: of its kernel now, dense; smaller where neurons or inputs are gone.
      weights: that exist now.
      density: share of the new kernel that a condensed form stores.
      form: "dense", "narrowed dense", "condensed", or another of `choose.CANDIDATES`.
      reason: why.
    """

    name: str
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    weights: int
    density: float
    form: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network and what was decided; print it for a table.

    Attributes:
      model: the new network, of the same class, in evaluation mode.
      layers: one choice for each layer with a kernel, in the order of their paths.
      batch_size: it was made for.
    """

    model: nnx.Module
    layers: tuple[LayerChoice, ...]
    batch_size: int

    def __str__(self) -> str:
        """A table, a line a layer."""
        head = ["layer", "kernel", "narrowed to", "weights", "density", "form", "why"]
        rows = [head, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)


def condense_model(
    model: nnx.Module,
    masks: Any,
    *,
    batch_size: int = 1,
    links: Sequence[Link] | None = None,
    autotune: bool = False,
    form: str | None = None,
    implementation: str = "auto",
    example_shape: tuple[int, ...] | None = None,
) -> Conversion:
    """Converts a network for inference.

    `Linear`, `Conv` and the projections of attentions are condensed where that pays.
    Without links nothing is folded or removed. Dilated convolutions and those not of
    images stay dense; neurons of grouped ones, depthwise included, are never removed.

    Args:
      model: the trained network; it is not changed. Weights off the masks may have any
        value, and count as 0.
      masks: like the parameters, bool arrays, `optax.MaskedNode()` for dense leaves.
      batch_size: that it will be run with, for which it is made fast.
      links: how layers feed each other; `model.links()` if there is such a method,
        unless given. () folds nothing.
      autotune: whether to time each form of each layer on this machine, some seconds
        in all, even of layers of which every weight exists; the choice is otherwise by
        `choose.CROSSOVERS`.
      form: "dense" or "condensed", for all layers alike that can take it and lack a
        weight, where a format of file asks for one of them.
      implementation: of condensed layers: "auto", "xla" or "native"; or "pallas", which
        has no convolution: those take "auto" beside it. On GPUs and TPUs the rule
        leaves every layer dense, so there only autotuning or `form` takes it.
      example_shape: of one example, (height, width, channels) for images. Needed for
        autotuning; where it is given, the new network is also checked against the
        old one on random input.

    Raises:
      ValueError: the masks do not fit the model, a link does not, `example_shape` is
        missing, there is no such form, or the new network computes something else,
        for which wrong links are the one cause known.
    """
    _check_options(batch_size, autotune, form, implementation, example_shape)
    if read_layer("", model, None) is not None:
        raise ValueError("the model is a bare layer: put it in a module of its own")
    links = _find_links(model, links)
    masked = nnx.clone(model)
    masked.eval()
    flat_masks = _apply_masks(masked, masks)
    modules = {
        "/".join(map(str, path)): module
        for path, module in nnx.iter_graph(masked)
        if path and isinstance(module, nnx.Module)
    }
    before = _read_layers(modules, flat_masks)
    folding.check_links(links, before, modules)
    after = _fold(before, modules, links)
    shapes = {}
    if example_shape is not None:
        input_shape = batch_size, *example_shape
        calls = layer_calls(masked, list(before), input_shape)
        shapes = {name: first.given for name, (first, *_) in calls.items()}

    converted = nnx.clone(masked)
    choices, timings = [], {}
    for name, layer in after.items():
        module, choice = _choose(
            before[name],
            layer,
            modules[name],
            implementation,
            shapes.get(name),
            batch_size,
            form,
            timings if autotune else None,
        )
        set_module(converted, name, module)
        choices.append(choice)
    choices += _left_alone(flat_masks, after)
    for link in links:
        if link.norm is not None:
            set_module(converted, link.norm, Identity())
    converted.eval()
    if example_shape is not None:
        _check_same(masked, converted, example_shape)
    return Conversion(converted, tuple(choices), batch_size)


def tolerance(dtype: Any) -> float:
    """By how much a conversion may change outputs, in units of the largest one."""
    if jnp.finfo(dtype).bits >= 32:  # The kernels compute in float32 whatever the type.
        return 1e-4
    return float(np.sqrt(float(jnp.finfo(dtype).eps)))


def _left_alone(masks, layers) -> list[LayerChoice]:
    """The sparse parameters of modules that are neither linear nor convolutions."""
    return [
        LayerChoice(
            name=name,
            shape=mask.shape,
            new_shape=mask.shape,
            weights=int(np.count_nonzero(mask)),
            density=float(mask.mean()),
            form="dense",
            reason="only Linear, Conv and LinearGeneral can be condensed",
        )
        for name, mask in masks.items()
        if name.removesuffix("/kernel") not in layers
    ]


def _fold(before: Mapping[str, Layer], modules, links) -> dict[str, Layer]:
    layers = dict(before)
    for link in links:
        if link.norm is not None:
            norm = modules[link.norm]
            layers[link.producer] = folding.fold_norm(layers[link.producer], norm)
    links = [link for link in links if folding.narrowable(link, layers)]
    return folding.narrow(folding.simplify(layers, links), links)


def _choose(before, layer, module, implementation, spec, batch_size, form, timings):
    """The module that stands for a layer from now on, and the report on it."""
    is_narrowed = layer.kernel.shape != before.kernel.shape
    rows = batch_size
    if spec is not None and layer.kind == "conv":
        rows = math.prod(spec.shape[: 1 - layer.kernel.ndim])
    elif spec is not None:
        rows = math.prod(spec.shape) // before.inputs
    # Forms are built once they are wanted: to arrange windows takes time.
    modules: dict[str, nnx.Module] = {}
    if layer.mask.all() and (timings is None or layer.obstacle):
        form, reason = "dense", "every weight exists"
    elif form is not None:
        form, reason = choose.as_asked(layer, form)
    elif timings is None or layer.obstacle:
        form, reason = choose.by_rule(layer, rows, implementation)
    elif spec is None:
        form, reason = "dense", "it is never called"
    else:
        modules = choose.candidates(layer, module, implementation, rows)
        shape = spec.shape
        if is_narrowed:
            shape = *shape[:-1], layer.inputs
        form, reason = choose.by_time(layer, modules, shape, spec.dtype, timings)
    if form not in modules:
        modules[form] = choose.CANDIDATES[form](layer, module, implementation)
    choice = LayerChoice(
        name=layer.name,
        shape=before.kernel.shape,
        new_shape=layer.kernel.shape,
        weights=int(np.count_nonzero(layer.mask)),
        density=layer.density,
        form="narrowed dense" if form == "dense" and is_narrowed else form,
        reason=reason,
    )
    return modules[form], choice


def _check_options(batch_size, autotune, form, implementation, example_shape) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give an integer from 1 up")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}: choose one of {IMPLEMENTATIONS}"
        )
    if form not in (None, "dense", "condensed"):
        raise ValueError(
            f'form is {form!r}: give "dense" or "condensed", or leave it out to have '
            "each layer's chosen"
        )
    if autotune and form is not None:
        raise ValueError(f"autotune has nothing to choose: form is {form!r}")
    if autotune and example_shape is None:
        raise ValueError(
            "autotune needs example_shape, the shape of one example: (32, 32, 3), say"
        )


def _find_links(model, links) -> list[Link]:
    if links is None:
        links = model.links() if callable(getattr(model, "links", None)) else ()
    return list(links)


def _apply_masks(model: nnx.Module, masks: Any) -> dict[str, np.ndarray]:
    """Sets weights off the masks to 0, and returns the masks of sparse leaves by name.

    Raises:
      ValueError: a mask has no parameter of its name and shape, or the other way round.
    """
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    found = {
        leaf_name(path): mask
        for path, mask in jax.tree_util.tree_leaves_with_path(
            masks, is_leaf=is_masked_node
        )
    }
    names = [leaf_name(path) for path, _ in leaves]
    if different := set(names) ^ set(found):
        name = min(different)
        kind = "mask" if name in names else "parameter"
        raise ValueError(f"masks do not fit the model: there is no {kind} for {name}")
    sparse = {
        name: np.asarray(mask, bool)
        for name, mask in found.items()
        if not is_masked_node(mask)
    }
    values = []
    for name, (_, leaf) in zip(names, leaves, strict=True):
        mask = sparse.get(name)
        if mask is not None and mask.shape != leaf.shape:
            raise ValueError(
                f"masks do not fit the model: {name} has shape {leaf.shape}, its mask "
                f"{mask.shape}"
            )
        values.append(leaf if mask is None else jnp.where(mask, leaf, 0))
    nnx.update(model, jax.tree.unflatten(structure, values))
    return sparse


def _read_layers(modules, masks) -> dict[str, Layer]:
    layers = {
        name: read_layer(name, module, masks.get(f"{name}/kernel"))
        for name, module in modules.items()
    }
    return {name: layer for name, layer in layers.items() if layer is not None}


def _check_same(masked, converted, example_shape) -> None:
    x = np.random.default_rng(0).normal(size=(2, *example_shape))
    x = jnp.asarray(x, jnp.float32)
    with jax.default_matmul_precision("highest"):
        expected, got = (_run(model, x) for model in (masked, converted))
    allowed = tolerance(expected.dtype)
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    off = np.abs(got - expected).max() / max(1.0, np.abs(expected).max())
    if not off <= allowed:
        raise ValueError(
            f"the converted network's outputs are off by {off:.1e} of their size "
            f"(allowed: {allowed:.1e}): its links do not say what it computes"
        )


def _run(model: nnx.Module, x: jax.Array) -> jax.Array:
    definition, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(definition, state)(x))(state, x)


def _cells(choice: LayerChoice) -> list[str]:
    is_narrowed = choice.new_shape != choice.shape
    return [
        choice.name,
        "x".join(map(str, choice.shape)),
        "x".join(map(str, choice.new_shape)) if is_narrowed else "",
        f"{choice.weights:,}",
        f"{choice.density:.4f}",
        choice.form,
        choice.reason,
    ]
