"""Which form each layer gets, and what is said about it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sparse_networks import images, masked, outputs, rough_masks, trained

from srigl_jax.condensed import choose, native
from srigl_jax.condensed.convert import condense_model

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def convnet():
    model = trained("convnet")
    return model, rough_masks(model)


def by_name(conversion):
    return {layer.name: layer for layer in conversion.layers}


def say_times(monkeypatch, **seconds):
    """Replaces the stopwatch; returns the input shapes that it was asked to time."""
    asked = []

    def measure(modules, input_shape, dtype):
        asked.append(input_shape)
        return {name: seconds.get(name, 9) for name in modules}

    monkeypatch.setattr(choose, "measure", measure)
    return asked


def test_the_rule_condenses_below_the_crossover_alone(convnet, monkeypatch):
    limits = dict.fromkeys(choose.CROSSOVERS, ((float("inf"), 0.45),))
    monkeypatch.setattr(choose, "CROSSOVERS", limits)
    layers = by_name(condense_model(*convnet, implementation="xla"))
    assert layers["convs/0"].density < 0.45 < layers["convs/1"].density
    assert layers["convs/0"].form == "condensed"
    assert layers["convs/1"].form == "narrowed dense"
    assert layers["convs/0"].reason.endswith("is at most 0.45 (xla)")


def test_off_the_cpu_layers_are_dense_unless_timed(convnet, monkeypatch):
    monkeypatch.setattr(choose.jax, "default_backend", lambda: "gpu")
    layers = by_name(condense_model(*convnet))
    assert {x.form for x in layers.values()} <= {"dense", "narrowed dense"}
    assert "nothing was measured on gpu" in layers["hidden"].reason


def test_only_the_form_that_is_chosen_is_built(convnet, monkeypatch):
    limits = dict.fromkeys(choose.CROSSOVERS, ((float("inf"), 0.0),))
    monkeypatch.setattr(choose, "CROSSOVERS", limits)
    monkeypatch.setitem(choose.CANDIDATES, "condensed", None)
    monkeypatch.setitem(choose.CANDIDATES, "windows", None)
    assert by_name(condense_model(*convnet))["hidden"].form == "narrowed dense"


def test_crossovers_depend_on_the_batch_size(convnet, monkeypatch):
    limits = dict.fromkeys(choose.CROSSOVERS, ((8, 1.0), (float("inf"), 0.0)))
    monkeypatch.setattr(choose, "CROSSOVERS", limits)
    small = by_name(condense_model(*convnet, batch_size=8))
    large = by_name(condense_model(*convnet, batch_size=9))
    assert small["hidden"].form == "condensed"
    assert large["hidden"].form == "narrowed dense"


def test_the_tokens_of_a_sequence_count_as_rows(monkeypatch):
    limits = dict.fromkeys(choose.CROSSOVERS, ((8, 1.0), (float("inf"), 0.0)))
    monkeypatch.setattr(choose, "CROSSOVERS", limits)
    model = trained("vit")
    # 8 x 8 pixels are 4 patches of 4 x 4.
    options = {"masks": rough_masks(model), "example_shape": SHAPE}
    two = by_name(condense_model(model, batch_size=2, **options))
    three = by_name(condense_model(model, batch_size=3, **options))
    names = ["blocks/0/down", "blocks/0/attention/out"]
    assert [two[name].form for name in names] == ["condensed", "condensed"]
    assert [three[name].form for name in names] == ["narrowed dense", "dense"]


@pytest.mark.parametrize(
    ("dense", "condensed", "form"),
    [(1e-6, 2e-6, "narrowed dense"), (2e-6, 1e-6, "condensed")],
)
def test_autotuning_takes_the_fastest(convnet, monkeypatch, dense, condensed, form):
    say_times(monkeypatch, dense=dense, condensed=condensed)
    conversion = condense_model(*convnet, autotune=True, example_shape=SHAPE)
    assert by_name(conversion)["convs/1"].form == form
    assert by_name(conversion)["convs/1"].reason.count(" us") == 2


@pytest.mark.skipif(not native.available(), reason="the C++ kernels are not built")
def test_windows_are_for_few_rows_of_dense_layers(convnet, monkeypatch):
    say_times(monkeypatch, dense=2, condensed=2, windows=1)
    tune = {"autotune": True, "example_shape": SHAPE}
    one = by_name(condense_model(*convnet, batch_size=1, **tune))
    few = condense_model(*convnet, batch_size=choose.MOST_EXAMPLES, **tune)
    many = condense_model(*convnet, batch_size=choose.MOST_EXAMPLES + 1, **tune)
    few, many = by_name(few), by_name(many)
    assert one["hidden"].form == "windows"
    assert one["convs/0"].form != "windows"
    assert few["hidden"].form == "windows"
    assert many["hidden"].form != "windows"


def test_autotuning_times_narrowed_layers_on_inputs_of_their_width(
    convnet, monkeypatch
):
    asked = say_times(monkeypatch, dense=1, condensed=2)
    conversion = condense_model(
        *convnet, batch_size=5, autotune=True, example_shape=SHAPE
    )
    layers = by_name(conversion)
    assert asked == [
        (5, 8, 8, 3),
        (5, 4, 4, layers["convs/1"].new_shape[2]),
        (5, layers["head"].new_shape[0]),
        (5, layers["hidden"].new_shape[0]),
    ]
    assert layers["head"].density == 1


def test_the_smallest_of_forms_that_tie_is_chosen(convnet, monkeypatch):
    tune = {"autotune": True, "example_shape": SHAPE}
    say_times(monkeypatch, dense=1.01, condensed=1, windows=1.015)
    assert by_name(condense_model(*convnet, **tune))["head"].form == "narrowed dense"
    say_times(monkeypatch, dense=1.03, condensed=1.01, windows=1)
    assert by_name(condense_model(*convnet, **tune))["head"].form == "condensed"


def test_layers_alike_are_timed_once(monkeypatch):
    model = trained("mlp", widths=(16, 16, 16, 16))
    shapes = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    # Each neuron reads the input of its own number.
    masks = jax.tree.map(
        lambda p: jnp.eye(*p.shape, dtype=bool) if p.ndim == 2 else 0, shapes
    )
    masks = jax.tree.map(lambda m: m if np.ndim(m) else optax.MaskedNode(), masks)
    asked = say_times(monkeypatch, dense=1, condensed=2)
    condense_model(model, masks, links=(), autotune=True, example_shape=SHAPE)
    # 192 -> 16, the three 16 -> 16, 16 -> 5.
    assert len(asked) == 3


def test_a_candidate_of_ones_own_can_win(convnet, monkeypatch):
    def mine(layer, module, implementation):
        return choose.as_dense(layer, module) if layer.kind == "linear" else None

    monkeypatch.setitem(choose.CANDIDATES, "mine", mine)
    say_times(monkeypatch, dense=2, condensed=3, mine=1)
    conversion = condense_model(*convnet, autotune=True, example_shape=SHAPE)
    forms = {layer.name: layer.form for layer in conversion.layers}
    assert (forms["hidden"], forms["convs/0"]) == ("mine", "narrowed dense")


def test_autotuning_for_real_keeps_the_function(convnet, monkeypatch):
    monkeypatch.setattr(choose, "SECONDS_PER_LAYER", 0.0)
    conversion = condense_model(*convnet, autotune=True, example_shape=SHAPE)
    np.testing.assert_allclose(
        outputs(conversion.model, images()),
        outputs(masked(*convnet), images()),
        rtol=1e-5,
        atol=1e-5,
    )


def test_pallas_is_for_dense_layers_alone(convnet, monkeypatch):
    limits = dict.fromkeys(choose.CROSSOVERS, ((float("inf"), 1.0),))
    monkeypatch.setattr(choose, "CROSSOVERS", limits)
    model = condense_model(*convnet, implementation="pallas").model
    assert model.hidden.implementation == "pallas"
    assert model.convs[0].implementation == "auto"


def test_the_table_has_a_line_for_each_layer(convnet):
    conversion = condense_model(*convnet)
    lines = str(conversion).splitlines()
    assert lines[0].split() == [
        *("layer", "kernel", "narrowed", "to", "weights", "density", "form", "why")
    ]
    assert [line.split()[0] for line in lines[2:]] == list(by_name(conversion))
    assert lines[-2].split()[:2] == ["head", "16x5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"implementation": "cuda"}, "implementation is 'cuda': choose one of"),
        ({"autotune": True}, "autotune needs example_shape"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(convnet, options, message):
    with pytest.raises(ValueError, match=message):
        condense_model(*convnet, **options)


def test_a_mask_of_another_shape_is_named(convnet):
    model, masks = convnet
    wrong = masks | {"hidden": {"kernel": jnp.ones((3, 3), bool)}}
    with pytest.raises(ValueError, match=r"hidden/kernel has shape \(48, 16\)"):
        condense_model(model, wrong)


def test_a_missing_mask_is_named(convnet):
    model, masks = convnet
    fewer = {name: mask for name, mask in masks.items() if name != "hidden"}
    with pytest.raises(ValueError, match="no mask for hidden/kernel"):
        condense_model(model, fewer)


def test_a_mask_of_nothing_is_named(convnet):
    model, masks = convnet
    more = masks | {"other": {"kernel": jnp.ones((3, 3), bool)}}
    with pytest.raises(ValueError, match="no parameter for other/kernel"):
        condense_model(model, more)


def test_a_bare_layer_cannot_be_converted():
    masks = {"kernel": jnp.ones((2, 2), bool), "bias": optax.MaskedNode()}
    with pytest.raises(ValueError, match="the model is a bare layer"):
        condense_model(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), masks)
