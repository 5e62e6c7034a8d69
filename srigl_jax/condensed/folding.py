"""What a network computes, with fewer neurons: the algebra of links.

All of it keeps the function of the network, in evaluation mode, exactly but for
rounding; arrays are float64 on the host. A batch normalisation is an affine map of
each neuron, so it goes into weights and bias. A neuron without weights is a constant:
its consumers take it into their biases and no longer read it. Neurons that nobody
reads lose their weights, so that others before them go unread.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from srigl_jax.condensed.layers import Layer
from srigl_jax.models.links import Link

Layers = dict[str, Layer]


def fold_norm(layer: Layer, norm: nnx.BatchNorm) -> Layer:
    """The layer with the batch normalisation after it, by its running statistics."""

    def read(variable, default):
        if variable is None:
            return default
        return np.asarray(variable[...], np.float64)

    scale = read(norm.scale, 1.0) / np.sqrt(read(norm.var, 1.0) + norm.epsilon)
    bias = (0 if layer.bias is None else layer.bias) - read(norm.mean, 0.0)
    return dataclasses.replace(
        layer,
        kernel=layer.kernel * scale,
        bias=bias * scale + read(norm.bias, 0.0),
        dtype=jnp.promote_types(layer.dtype, norm.mean[...].dtype),
    )


def check_links(
    links: Sequence[Link],
    layers: Mapping[str, Layer],
    modules: Mapping[str, nnx.Module],
) -> None:
    """Verifies that the links fit the network.

    Raises:
      ValueError: a path that does not exist, a module of a class that cannot be
        linked, widths that do not fit, a layer in two places at once.
    """
    for role in ("producer", "consumers", "norm"):
        _check_once(role, links)
    for link in links:
        for name in (link.producer, *link.consumers):
            _check_linkable(name, layers, modules)
        producer = layers[link.producer]
        if link.producer in link.consumers:
            raise ValueError(f"link: {link.producer} cannot consume its own output")
        if link.norm is not None:
            _check_norm(link, producer, modules)
        for name in link.consumers:
            _check_widths(producer, layers[name])


def narrowable(link: Link, layers: Mapping[str, Layer]) -> bool:
    """Whether neurons of the producer can be dropped; not between grouped ones."""
    names = (link.producer, *link.consumers)
    return bool(link.consumers) and all(layers[n].groups == 1 for n in names)


def simplify(layers: Layers, links: Sequence[Link]) -> Layers:
    """Moves constants into biases and clears what is unread, until nothing changes.

    Args:
      layers: by name, norms folded.
      links: those that are `narrowable`.
    """
    layers = dict(layers)
    is_changing = True
    while is_changing:
        is_changing = False
        for link in links:
            names = (link.producer, *link.consumers)
            before = [layers[name].mask for name in names]
            _absorb_constants(layers, link)
            _clear_unread(layers, link)
            after = [layers[name].mask for name in names]
            is_changing |= any(
                not np.array_equal(a, b) for a, b in zip(before, after, strict=True)
            )
    return layers


def narrow(layers: Layers, links: Sequence[Link]) -> Layers:
    """Removes the neurons that nobody reads, and their places among the inputs.

    Args:
      layers: as from `simplify`.
      links: those that are `narrowable`.
    """
    layers = dict(layers)
    for link in links:
        kept = np.flatnonzero(_read_neurons(layers, link))
        producer = layers[link.producer]
        if not kept.size:
            # Arrays without elements are more than some back ends can take.
            kept = np.array([0])
        for name in link.consumers:
            layers[name] = _select_inputs(layers[name], producer.neurons, kept)
        layers[link.producer] = dataclasses.replace(
            producer,
            kernel=producer.kernel[..., kept],
            mask=producer.mask[..., kept],
            bias=None if producer.bias is None else producer.bias[kept],
        )
    return layers


def _absorb_constants(layers: Layers, link: Link) -> None:
    producer = layers[link.producer]
    is_constant = producer.fan_ins == 0
    if not is_constant.any():
        return
    values = np.where(is_constant, _constants(producer, link), 0)
    read = is_constant & _read_neurons(layers, link)
    # Beside a border of zeros a constant channel is none. One channel can stand for
    # all of them there, and the largest is the safest to divide by.
    representative = int(np.argmax(np.where(read, np.abs(values), -1)))
    for name in link.consumers:
        absorb = _merge_into_channel if layers[name].is_padded else _move_into_bias
        layers[name] = absorb(layers[name], is_constant, values, representative)


def _constants(producer: Layer, link: Link) -> np.ndarray:
    """What each neuron of the producer outputs if it has no weights: f64[neurons]."""
    bias = np.zeros(producer.neurons) if producer.bias is None else producer.bias
    if link.activation is None:
        return bias
    outputs = link.activation(jnp.asarray(bias, producer.dtype))
    return np.asarray(outputs, np.float64)


def _move_into_bias(consumer: Layer, is_constant, values, _) -> Layer:
    weights = consumer.by_input(consumer.kernel, len(values))
    moved = np.einsum("pcn,c->n", weights, values)
    bias = consumer.bias
    if moved.any():
        bias = moved + (0 if bias is None else bias)
    consumer = dataclasses.replace(consumer, bias=bias)
    return _keep_inputs(consumer, ~is_constant)


def _merge_into_channel(consumer: Layer, is_constant, values, channel) -> Layer:
    weights = consumer.by_input(consumer.kernel, len(values))
    mask = consumer.by_input(consumer.mask, len(values))
    matters = values != 0
    kept = _keep_inputs(consumer, ~is_constant)
    if not matters[channel]:
        return kept
    kernel, merged = kept.kernel.copy(), kept.mask.copy()
    consumer.by_input(kernel, len(values))[:, channel] = np.einsum(
        "pcn,c->pn", weights, values / values[channel]
    )
    consumer.by_input(merged, len(values))[:, channel] = mask[:, matters].any(1)
    return dataclasses.replace(consumer, kernel=kernel, mask=merged)


def _clear_unread(layers: Layers, link: Link) -> None:
    read = _read_neurons(layers, link)
    producer = layers[link.producer]
    layers[link.producer] = dataclasses.replace(
        producer, kernel=producer.kernel * read, mask=producer.mask & read
    )


def _read_neurons(layers: Layers, link: Link) -> np.ndarray:
    """Which neurons of the producer any consumer has a weight for: bool[neurons]."""
    neurons = layers[link.producer].neurons
    consumers = [layers[name] for name in link.consumers]
    return np.any([c.by_input(c.mask, neurons).any((0, 2)) for c in consumers], axis=0)


def _keep_inputs(consumer: Layer, keep: np.ndarray) -> Layer:
    """Clears the weights of all other inputs; keep is bool[inputs]."""

    def clear(array):
        kept = consumer.by_input(array, len(keep)) * keep[:, None]
        return kept.reshape(array.shape)

    return dataclasses.replace(
        consumer, kernel=clear(consumer.kernel), mask=clear(consumer.mask)
    )


def _select_inputs(consumer: Layer, inputs: int, kept: np.ndarray) -> Layer:
    def select(array):
        selected = consumer.by_input(array, inputs)[:, kept]
        if consumer.kind == "linear":
            return selected.reshape(-1, consumer.neurons)
        return selected.reshape(*array.shape[:-2], len(kept), consumer.neurons)

    return dataclasses.replace(
        consumer, kernel=select(consumer.kernel), mask=select(consumer.mask)
    )


def _check_once(role: str, links: Sequence[Link]) -> None:
    names = [getattr(link, role) for link in links]
    if role == "consumers":
        names = [name for consumers in names for name in consumers]
    names = [name for name in names if name is not None]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"links name {twice[0]} twice as {role}: once is possible")


def _check_linkable(name, layers, modules) -> None:
    if name not in modules:
        raise ValueError(
            f"link: there is no layer {name!r} in the model; choose among "
            f"{', '.join(layers)}"
        )
    if name not in layers or not layers[name].is_linkable:
        kind = type(modules[name]).__name__
        raise ValueError(
            f"link: {name} is a {kind} that cannot be linked: give a plain Linear, or "
            "a Conv that pads with zeros"
        )


def _check_norm(link, producer, modules) -> None:
    norm = modules.get(link.norm)
    if type(norm) is not nnx.BatchNorm or norm.axis not in (-1, (-1,)):
        raise ValueError(
            f"link: the norm of {link.producer}, {link.norm!r}, is "
            f"{'nothing' if norm is None else 'a ' + type(norm).__name__}: it must be "
            "a BatchNorm of the last axis"
        )
    if norm.num_features != producer.neurons:
        raise ValueError(
            f"link: {link.norm} has {norm.num_features} features, but {link.producer} "
            f"has {producer.neurons} neurons"
        )


def _check_widths(producer: Layer, consumer: Layer) -> None:
    is_flattened = consumer.kind == "linear"
    fits = consumer.inputs == producer.neurons or (
        is_flattened and consumer.inputs % producer.neurons == 0
    )
    if not fits:
        raise ValueError(
            f"link: {consumer.name} has {consumer.inputs} inputs, which the "
            f"{producer.neurons} neurons of {producer.name} do not fit"
        )
