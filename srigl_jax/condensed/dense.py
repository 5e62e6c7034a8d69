"""A converted network with all its layers dense, for formats that know no others."""

import dataclasses

from flax import nnx

from srigl_jax.condensed.convert import Conversion, LayerChoice
from srigl_jax.condensed.modules import CondensedConv, CondensedLinear
from srigl_jax.condensed.representation import densify
from srigl_jax.models.calls import set_module


def all_dense(conversion: Conversion) -> Conversion:
    """Writes out the condensed layers of a network; removed neurons stay removed."""
    model = nnx.clone(conversion.model)
    for path, module in list(nnx.iter_modules(model)):
        if isinstance(module, CondensedLinear | CondensedConv):
            set_module(model, "/".join(map(str, path)), _dense(module))
    layers = tuple(map(_relabel, conversion.layers))
    return dataclasses.replace(conversion, model=model, layers=layers)


def _dense(module: CondensedLinear | CondensedConv) -> nnx.Module:
    c = module.condensed.get_value()
    kernel, bias = densify(c), c.bias
    dense = nnx.eval_shape(lambda: _like(module))
    dense.kernel = nnx.Param(kernel)
    if bias is not None:
        shape = [c.layout.shape[a] for a in c.layout.neuron_axes]
        dense.bias = nnx.Param(bias.reshape(shape))
    return dense


def _like(module: CondensedLinear | CondensedConv) -> nnx.Module:
    """A dense module of the same shape, whose weights do not matter."""
    c = module.condensed.get_value()
    layout, use_bias, rngs = c.layout, c.bias is not None, nnx.Rngs(0)
    if isinstance(module, CondensedConv):
        *kernel_size, channels, neurons = layout.shape
        return nnx.Conv(
            channels * module.feature_group_count,
            neurons,
            kernel_size,
            strides=module.strides,
            padding=module.padding,
            feature_group_count=module.feature_group_count,
            use_bias=use_bias,
            rngs=rngs,
        )
    if len(layout.shape) == 2:
        return nnx.Linear(*layout.shape, use_bias=use_bias, rngs=rngs)
    return nnx.LinearGeneral(
        [layout.shape[a] for a in layout.fan_in_axes],
        [layout.shape[a] for a in layout.neuron_axes],
        axis=range(-len(layout.fan_in_axes), 0),
        use_bias=use_bias,
        rngs=rngs,
    )


def _relabel(choice: LayerChoice) -> LayerChoice:
    is_narrowed = choice.new_shape != choice.shape
    form = "narrowed dense" if is_narrowed else "dense"
    return dataclasses.replace(choice, form=form, reason="as the format has it")
