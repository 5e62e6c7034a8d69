import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from srigl_jax.extreme import top_labels


def expected(made, x, count):
    logits = problems.plain_logits(made, problems.weights(made), x)
    return jax.lax.top_k(logits, count)


@pytest.mark.parametrize("count", [1, 5, 37])
@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ({}, ("auto", "chunk", "slots")),
        ({"dense_labels": 11}, ("auto", "slots")),
        ({"group": 4}, ("auto", "chunk", "slots", "grouped")),
    ],
    ids=["sparse", "dense frequent labels", "groups"],
)
def test_the_top_labels_are_those_of_all_logits(options, forms, count):
    made = problems.classifier(37, **options)
    x, _ = problems.batch()
    for form in forms:
        logits, labels = top_labels(made, x, count, implementation=form)
        assert labels.tolist() == expected(made, x, count)[1].tolist()
        problems.assert_close(logits, expected(made, x, count)[0])


@pytest.mark.parametrize("group", [1, 4])
def test_features_that_are_not_0_predict_what_all_do(group):
    made = problems.classifier(37, group=group)
    x, _, features, whole = problems.some_features()
    logits, labels = top_labels(made, x, 5, features)
    assert labels.tolist() == expected(made, whole, 5)[1].tolist()
    problems.assert_close(logits, expected(made, whole, 5)[0])


def test_features_that_all_exist_are_refused():
    x, _, features, _ = problems.some_features()
    with pytest.raises(ValueError, match="the last of the features is 9: add one"):
        top_labels(problems.classifier(37), x[:, :4], 5, features[:4])


def test_ties_go_to_the_lower_label():
    made = problems.with_bias(problems.classifier(37), lambda b: 0 * b.bias)
    _, labels = top_labels(made, jnp.zeros((2, problems.WIDTH)), 20)
    assert labels.tolist() == [list(range(20))] * 2


def test_padding_is_never_predicted():
    made = problems.with_bias(problems.classifier(37), lambda b: b.bias - 1e6)
    _, labels = top_labels(made, jnp.zeros((1, problems.WIDTH)), 37)
    assert sorted(np.asarray(labels)[0].tolist()) == list(range(37))


def test_more_than_there_are_is_refused():
    made = problems.classifier(37)
    with pytest.raises(ValueError, match="count=38 of 37 labels"):
        top_labels(made, jnp.zeros((1, problems.WIDTH)), 38)
