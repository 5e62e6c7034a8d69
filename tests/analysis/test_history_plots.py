import math

import pytest

from srigl_jax.analysis.history_plots import (
    active_neurons,
    explored_weights,
    learning_curve,
)


def evaluation(step, accuracy):
    return {"kind": "eval", "step": step, "loss": 1 - accuracy, "accuracy": accuracy}


def topology(step, **active):
    layers = {name: {"active": count, "neurons": 10} for name, count in active.items()}
    return {"kind": "topology", "step": step, "layers": layers}


def test_learning_title_names_the_end_and_the_best():
    picture = learning_curve([evaluation(1000, 0.975), evaluation(2000, 0.5)])
    assert picture.title == (
        "Held-out accuracy ends at 50.0%; its best was 97.5%, at step 1,000"
    )


def test_learning_title_says_so_if_the_end_is_the_best():
    picture = learning_curve([evaluation(10, 0.5), evaluation(20, 0.75)])
    assert picture.title == "Held-out accuracy ends at its best, 75.0%"


def test_learning_title_without_evaluation_is_about_the_loss():
    records = [{"kind": "train", "step": s, "loss": 2.0 / s} for s in (1, 2, 8)]
    assert learning_curve(records).title == "Training loss went from 2 to 0.25"


def test_the_learning_curve_names_the_split_it_was_measured_on():
    picture = learning_curve([evaluation(10, 0.5)], split="validation")
    assert "blue on the validation set" in picture.reading
    assert ">validation<" in picture.svg and ">test<" not in picture.svg


@pytest.mark.parametrize("draw", [learning_curve, active_neurons, explored_weights])
def test_nothing_recorded_is_no_picture(draw):
    assert draw([]) is None


def test_a_run_of_nothing_but_nan_is_no_picture():
    assert learning_curve([{"kind": "train", "step": 1, "loss": math.nan}]) is None


def test_the_end_of_topology_updates_is_marked():
    records = [evaluation(1000, 0.5), evaluation(2000, 0.75)]
    without, marked = learning_curve(records), learning_curve(records, 1500)
    assert "step 1,500" in marked.reading and "dotted" not in without.reading
    assert "stroke-dasharray" in marked.svg and "stroke-dasharray" not in without.svg


def test_a_loss_over_several_decades_gets_a_logarithmic_axis():
    records = [{"kind": "train", "step": s, "loss": 10.0**-s} for s in (0, 1, 2)]
    svg = learning_curve(records).svg
    assert ">0.01<" in svg and ">0.1<" in svg and ">1<" in svg


def test_neurons_title_says_where_most_were_lost():
    picture = active_neurons([topology(0, a=10, b=10), topology(100, a=9, b=4)])
    assert picture.title == (
        "7 of 20 neurons were ablated, most of them in b (6 of 10)"
    )


def test_neurons_title_says_if_none_was_lost():
    assert active_neurons([topology(0, a=10)]).title == "All 10 neurons stayed active"


def test_lines_are_named_at_their_ends():
    svg = active_neurons([topology(0, a=10, b=10), topology(100, a=9, b=4)]).svg
    assert ">a 90%<" in svg and ">b 40%<" in svg


def test_of_many_layers_those_that_lost_most_are_named():
    counts = {f"layer{lost}": 10 - lost for lost in range(9)}
    svg = active_neurons([topology(0, **counts), topology(9, **counts)]).svg
    named = [lost for lost in range(9) if f">layer{lost} " in svg]
    assert named == [3, 4, 5, 6, 7, 8]


def exploration(step, **shares):
    layers = {name: {"explored": share} for name, share in shares.items()}
    return {"kind": "topology", "step": step, "layers": layers}


def test_exploration_title_says_what_share_was_tried():
    picture = explored_weights(
        [exploration(0, a=0.1, b=0.2), exploration(9, a=0.3, b=0.6)]
    )
    assert (
        picture.title
        == "Training tried 30.0% to 60.0% of the weights of a sparse layer"
    )
    assert ">a 30%<" in picture.svg and ">b 60%<" in picture.svg


def test_exploration_title_of_one_layer_has_one_share():
    title = explored_weights([exploration(0, a=0.25)]).title
    assert title == "Training tried 25.0% of the weights of a sparse layer"


def test_a_run_that_recorded_no_exploration_has_no_picture_of_it():
    assert explored_weights([topology(0, a=10)]) is None
