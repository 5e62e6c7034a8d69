"""What a plan decides for each layer, and the errors that stop a bad one."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
import tiny_network as tiny
from flax import nnx

from srigl_jax import (
    check_masks,
    get_masks,
    make_plan,
    rigl,
    set_,
    sparsify,
    srigl,
    static,
)
from srigl_jax.sparsity.plan import alike, map_layers


def shapes(**kernels):
    return {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in kernels.items()}


def output_layers(params, **options):
    plan = make_plan(params, 0.5, distribution="uniform", **options)
    return [name for name, layer in plan.items() if not layer.may_ablate]


# A quarter of 16 * 24 = 384 weights is 96, 4 for each neuron; of 240 it is 60, 6 each.
def test_budgets_of_a_uniform_plan_worked_by_hand():
    plan = tiny.plan(distribution="uniform")
    assert list(plan) == ["head/kernel", "hidden/kernel"]
    hidden, head = plan["hidden/kernel"], plan["head/kernel"]
    assert (hidden.budget, hidden.fan_in, hidden.fan_in_per_block) == (96, 4, 4)
    assert (head.budget, head.fan_in, head.density) == (60, 6, 0.25)


def test_blocks_of_a_plan_worked_by_hand():
    layer = tiny.plan(distribution="uniform", block=8)["hidden/kernel"]
    assert (layer.blocks, layer.fan_in_per_block) == (2, 2)


def test_a_budget_that_float_error_would_lower_is_guarded():
    plan = make_plan(shapes(a=(100, 10)), 0.9, distribution="uniform")
    assert plan["a"].budget == 100


def test_dense_layers_have_no_mask():
    plan = tiny.plan(distribution="uniform", dense=["head"])
    assert not plan["head/kernel"].is_sparse
    assert plan["hidden/kernel"].budget == 96


def test_a_single_pattern_is_one_pattern():
    options = dict(distribution="uniform")
    assert tiny.plan(dense="head", **options) == tiny.plan(dense=["head"], **options)


def test_a_sparsity_of_zero_leaves_every_layer_dense():
    assert not any(layer.is_sparse for layer in tiny.plan(sparsity=0.0).values())


def test_a_mapping_gives_densities_by_name():
    plan = tiny.plan(distribution={"hidden/kernel": 0.5, "head/kernel": 1.0})
    assert plan["hidden/kernel"].budget == 192
    assert not plan["head/kernel"].is_sparse


def test_a_distribution_of_ones_own_is_asked():
    def half(names, sparsity, dense):
        assert (sparsity, dense) == (0.75, {"head/kernel"})
        assert names["hidden/kernel"] == (16, 24)
        return {name: 1.0 if name in dense else 0.5 for name in names}

    plan = tiny.plan(distribution=half, dense=["head"])
    assert plan["hidden/kernel"].budget == 192
    assert plan["head/kernel"].budget == 240


def test_the_last_layer_is_the_last_in_natural_order():
    names = {f"Dense_{i}": (8, 8) for i in (10, 2, 9)}
    assert output_layers(shapes(**names)) == ["Dense_10"]


@pytest.mark.parametrize("name", ["head", "classifier", "logits", "fc", "output"])
def test_an_output_layer_is_known_by_its_name(name):
    assert output_layers(shapes(**{name: (8, 8)}, zebra=(8, 8))) == [name]


@pytest.mark.parametrize("name", ["readout", "lm_head", "out"])
def test_an_output_layer_at_the_top_is_known_by_more_names(name):
    assert output_layers(shapes(**{name: (8, 8)}, zebra=(8, 8))) == [name]


def test_every_layer_named_like_an_output_is_one():
    block = shapes(dense=(8, 8), output=(8, 8))
    params = {"classifier": shapes(kernel=(8, 8)), "encoder": {"0": block}}
    assert output_layers(params) == ["classifier/kernel", "encoder/0/output"]


def test_an_output_name_inside_a_block_does_not_speak_for_the_network():
    params = {"blocks": {"0": shapes(output=(8, 8))}} | shapes(tail=(8, 8))
    assert output_layers(params) == ["blocks/0/output", "tail"]


# A name that only contains head is none; no order is told by names alone.
def test_without_an_order_every_layer_that_may_be_last_is_an_output():
    assert output_layers(shapes(heads_mixed=(8, 8), zebra=(8, 8))) == [
        "heads_mixed",
        "zebra",
    ]


def test_the_last_dense_layer_of_a_linen_resnet_is_an_output():
    params = shapes(conv_init=(8, 8), Dense_0=(8, 8))
    params |= {f"ResNetBlock_{i}": shapes(Conv_0=(8, 8)) for i in (0, 9, 10)}
    assert output_layers(params) == ["Dense_0", "ResNetBlock_10/Conv_0", "conv_init"]


def test_the_last_field_of_an_equinox_module_is_the_output():
    class Network(eqx.Module):
        stem: eqx.nn.Linear
        blocks: list
        final: eqx.nn.Linear

    linear = eqx.filter_eval_shape(eqx.nn.Linear, 8, 8, key=jax.random.key(0))
    assert output_layers(Network(linear, [linear] * 11, linear)) == ["final/weight"]
    assert output_layers([linear] * 11) == ["10/weight"]


def test_attributes_in_alphabetical_order_are_not_in_the_order_of_the_network():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Linear(8, 8, rngs=rngs)
            self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])
            self.final = nnx.Linear(8, 8, rngs=rngs)

    expected = ["blocks/2/kernel", "final/kernel", "stem/kernel"]
    network = nnx.eval_shape(lambda: Network(nnx.Rngs(0)))
    assert output_layers(nnx.state(network, nnx.Param)) == expected
    assert output_layers(network) == expected


def test_last_names_every_output_layer():
    params = shapes(head_a=(8, 8), head_b=(8, 8), zebra=(8, 8))
    assert output_layers(params, last="^head_") == ["head_a", "head_b"]


def test_no_layer_may_ablate_without_a_constant_fan_in():
    assert not any(p.may_ablate for p in tiny.plan(constant_fan_in=False).values())


def test_a_budget_smaller_than_its_neurons_is_enough_without_constant_fan_in():
    plan = make_plan(
        shapes(a=(4, 100)), 0.9, distribution="uniform", constant_fan_in=False
    )
    assert plan["a"].budget == 40


def test_alike_layers_differ_in_nothing_but_their_names():
    params = shapes(a=(8, 8), b=(8, 8), c=(16, 8), d=(8, 8), head=(8, 8))
    groups = alike(make_plan(params, 0.5, distribution="uniform"))
    names = [[layer.name for layer in group] for group in groups]
    assert names == [["a", "b", "d"], ["c"], ["head"]]


def test_map_layers_puts_masked_nodes_where_leaves_are_dense():
    params = tiny.params()
    plan = tiny.plan(distribution="uniform", dense=["head"])
    names = map_layers(lambda layer, leaf: layer.name, plan, params)
    dense = {"bias": optax.MaskedNode(), "kernel": optax.MaskedNode()}
    assert names["head"] == dense
    assert names["hidden"] == dense | {"kernel": "hidden/kernel"}


@pytest.mark.parametrize("empty", [{}, [], None, {"bias": jnp.zeros(3)}])
def test_a_network_without_kernels_has_an_empty_plan(empty):
    assert make_plan(empty, 0.9) == {}


def test_a_network_may_have_no_output_layer_to_spare():
    plan = tiny.plan(last=())
    assert all(layer.may_ablate for layer in plan.values())


def test_two_leaves_of_one_name_are_refused():
    params = {"a/b": jnp.ones((4, 8)), "a": {"b": jnp.ones((4, 8))}}
    message = r"are named 'a/b', at \['a'\]\['b'\] and \['a/b'\]: rename one"
    with pytest.raises(ValueError, match=message):
        make_plan(params, 0.5)


BAD_PLANS = {
    "sparsity 1": (dict(sparsity=1.0), r"sparsity is 1.0: give .* \[0, 1\)"),
    "sparsity below 0": (dict(sparsity=-0.1), r"sparsity is -0.1: give"),
    "sparsity NaN": (dict(sparsity=float("nan")), r"sparsity is nan: give"),
    "no fan-in": (
        dict(sparsity=0.95, distribution="uniform"),
        r"hidden/kernel \(16, 24\) has a budget of 19 .* k0 is 0: .*dense=\['hidden",
    ),
    "no weight in a block": (
        dict(sparsity=0.75, block=4),
        r"hidden/kernel .* less than one for each block of 4 inputs of the 24 neurons, "
        r'so its fan-in k0 is 0: lower sparsity=0.75, use distribution="uniform", or',
    ),
    "no weight in a block, uniformly": (
        dict(sparsity=0.8, block=4, distribution="uniform"),
        r"k0 is 0: lower sparsity=0.8, use another distribution, or",
    ),
    "no weight": (
        dict(sparsity=0.999, distribution="uniform", constant_fan_in=False),
        r"head/kernel .* would keep no weight at all .*: lower sparsity",
    ),
    "block": (
        dict(block=5),
        r"block=5 does not divide the fan-in \d+ of (head|hidden)/kernel: choose",
    ),
    "block of 0": (dict(block=0), r"block=0 does not divide"),
    "too sparse for a block": (
        dict(sparsity=0.9, block=2, distribution="uniform"),
        r"less than one for each block of 2 inputs of the \d+ neurons",
    ),
    "dense pattern": (
        dict(dense=["hidden", "hiden"]),
        r"dense pattern 'hiden' matches no layer; the layers are \['head/kernel'",
    ),
    "last pattern": (dict(last="fc"), r"last pattern 'fc' matches no layer"),
    "neuron_axes pattern": (
        dict(neuron_axes={"conv": (0,)}),
        r"neuron_axes pattern 'conv' matches no layer",
    ),
    "distribution": (
        dict(distribution="erdos"),
        r"distribution is 'erdos': choose one of \['erk', 'global', 'uniform'\]",
    ),
    "distribution without a layer": (
        dict(distribution={"head/kernel": 0.5}),
        r"give a density to each layer .* it differs in \['hidden/kernel'\]",
    ),
    "distribution function without a layer": (
        dict(distribution=lambda names, sparsity, dense: {"head/kernel": 0.5}),
        r"it differs in \['hidden/kernel'\]",
    ),
    "distribution of a layer that is not there": (
        dict(distribution=lambda names, *_: dict.fromkeys([*names, "tail"], 0.5)),
        r"it differs in \['tail'\]",
    ),
    "density above 1": (
        dict(distribution={"head/kernel": 0.5, "hidden/kernel": 1.5}),
        r"gives hidden/kernel a density of 1.5",
    ),
    "density NaN": (
        dict(distribution=lambda names, *_: dict.fromkeys(names, float("nan"))),
        r"gives \w+/kernel a density of nan",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_PLANS.values(), ids=BAD_PLANS)
def test_a_bad_plan_is_refused_with_the_way_out(options, message):
    with pytest.raises(ValueError, match=message):
        tiny.plan(**options)
    options = dict(sparsity=tiny.SPARSITY) | options
    optimizer = sparsify(optax.sgd(0.1), rule=None, **options)
    with pytest.raises(ValueError, match=message):
        optimizer.init(tiny.params())


def test_the_way_out_of_a_layer_without_fan_in_is_one():
    options = dict(sparsity=0.95, distribution="uniform")
    assert tiny.plan(dense=["hidden/kernel"], **options)["head/kernel"].fan_in == 1


BAD_OPTIMIZERS = {
    "gamma above 1": (srigl, dict(gamma_sal=1.5), r"gamma_sal=1.5: give .* \[0, 1\]"),
    "gamma below 0": (srigl, dict(gamma_sal=-0.1), r"gamma_sal=-0.1: give"),
    "gamma NaN": (srigl, dict(gamma_sal=float("nan")), r"gamma_sal=nan: give"),
    "alpha above 1": (rigl, dict(alpha=1.1), r"alpha=1.1: give a share"),
    "alpha NaN": (rigl, dict(alpha=float("nan")), r"alpha=nan: give a share"),
    "window of 0": (rigl, dict(gradient_window=0), r"gradient_window=0 and delta_t"),
    "window above delta_t": (
        rigl,
        dict(gradient_window=4, delta_t=3),
        r"gradient_window=4 and delta_t=3: a window has at least 1",
    ),
    "delta_t of 0": (rigl, dict(delta_t=0), r"delta_t=0: give .* at least 1"),
    "no steps": (rigl, dict(t_end=None, total_steps=0), r"total_steps=0: give"),
    "negative steps": (srigl, dict(total_steps=-10), r"total_steps=-10: give"),
    "a negative end": (srigl, dict(t_end=-1), r"t_end=-1: give a step"),
    "blocks of RigL": (rigl, dict(block=4), r"rigl\(block=4\): .* use srigl"),
    "fan-in of RigL": (
        rigl,
        dict(constant_fan_in=True),
        r"rigl\(constant_fan_in=True\): .* use srigl",
    ),
    "blocks of SET": (set_, dict(block=4), r"set_\(block=4\): .* use srigl"),
    "fan-in of SET": (set_, dict(constant_fan_in=True), r"set_\(constant_fan_in=True"),
    "SRigL without a fan-in": (
        srigl,
        dict(constant_fan_in=False),
        r"srigl\(constant_fan_in=False\): .* use rigl",
    ),
    "blocks without a fan-in": (
        static,
        dict(block=4),
        r"block=4 needs constant_fan_in=True",
    ),
    "no schedule": (srigl, dict(t_end=None), r"give total_steps, the number of"),
}


@pytest.mark.parametrize(
    ("make", "options", "message"), BAD_OPTIMIZERS.values(), ids=BAD_OPTIMIZERS
)
def test_a_bad_option_is_refused_when_the_optimizer_is_made(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(optax.sgd(0.1), 0.75, **tiny.SCHEDULE | options).init(tiny.params())


@pytest.mark.parametrize(
    "schedule", [dict(total_steps=133), dict(t_end=100), dict(t_end=0)]
)
def test_a_schedule_in_which_no_update_falls_is_warned_of(schedule):
    with pytest.warns(UserWarning, match=r"will never change: .*=100 .* raise t_end"):
        srigl(optax.sgd(0.1), 0.75, delta_t=100, **schedule)


@pytest.mark.parametrize("make", [srigl, partial(sparsify, rule=tiny.nudge)])
def test_the_warning_names_the_line_that_made_the_optimizer(make):
    with pytest.warns(UserWarning) as warned:
        make(optax.sgd(0.1), 0.75, delta_t=100, t_end=0)
    assert warned[0].filename == __file__


def test_a_schedule_of_one_update_is_not_warned_of():
    srigl(optax.sgd(0.1), 0.75, delta_t=100, total_steps=135)


def test_masks_of_static_training_may_have_a_constant_fan_in_in_blocks():
    optimizer = static(optax.sgd(0.1), 0.5, constant_fan_in=True, block=4)
    masks = get_masks(optimizer.init(tiny.params()))
    check_masks(masks, tiny.plan(sparsity=0.5, block=4))


def test_an_update_without_parameters_is_refused():
    optimizer, params = static(optax.sgd(0.1), 0.75), tiny.params()
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        optimizer.update(params, optimizer.init(params))


def test_a_state_without_masks_is_refused():
    state = optax.adam(0.1).init(tiny.params())
    with pytest.raises(ValueError, match="found 0; pass the state of one that srigl"):
        get_masks(state)


def test_a_state_with_two_sparse_optimizers_is_refused():
    state = static(optax.sgd(0.1), 0.75).init(tiny.params())
    with pytest.raises(ValueError, match="found 2"):
        get_masks((state, state))


def test_unknown_growth_candidates_are_refused():
    optimizer = srigl(optax.sgd(0.1), 0.75, growth_candidates="none", **tiny.SCHEDULE)
    params = tiny.params()
    with pytest.raises(ValueError, match="choose 'inactive' or 'all'"):
        optimizer.update(params, optimizer.init(params), params)
