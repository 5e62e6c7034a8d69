"""README's first example runs as it stands."""

import pathlib
import re

import jax
import numpy as np

import srigl_jax
import srigl_jax.extreme

README = pathlib.Path(__file__).parent.parent / "README.md"


def first_example():
    return re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)


def test_the_first_example_is_short():
    assert len(first_example().strip().splitlines()) < 20


def test_the_first_example_trains_a_sparse_network():
    example = {}
    exec(first_example(), example)
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.nn.initializers.he_normal()
    params = {
        "hidden": weights(keys[0], (64, 128)),
        "head": weights(keys[1], (128, 10)),
    }
    x = jax.random.normal(keys[2], (256, 64))
    labels = x[:, :10].argmax(axis=-1)
    before = float(example["loss"](params, x, labels))
    state = example["optimizer"].init(params)
    for _ in range(200):
        params, state = example["step"](params, state, x, labels)
    assert float(example["loss"](params, x, labels)) < before / 4
    kept = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(params))
    assert kept <= 0.1 * (64 * 128 + 128 * 10)
    plan = srigl_jax.make_plan(params, 0.9)
    srigl_jax.check_masks(srigl_jax.get_masks(state), plan, params)


def test_the_example_of_many_labels_trains_encoder_and_classifier():
    text = README.read_text().partition("## A million labels")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    example = {"encoder": lambda params, inputs: inputs @ params}
    exec(code, example)
    inputs = jax.random.normal(jax.random.key(1), (3, 20))
    params = jax.random.normal(jax.random.key(2), (20, 64)) / 5
    positives = srigl_jax.extreme.pad([[3, 17], [5], [999]], labels=1000)
    classifier, state = example["classifier"], example["state"]
    losses = []
    for _ in range(60):
        loss, gradients, classifier, state = example["step"](
            params, classifier, state, inputs, positives
        )
        params = params - 1e-3 * gradients
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 4
    x = inputs @ params
    _, labels = srigl_jax.extreme.top_labels(classifier, x, 2)
    assert sorted(np.asarray(labels)[0].tolist()) == [3, 17]
    assert np.asarray(labels)[1:, 0].tolist() == [5, 999]


def test_there_are_two_commands():
    commands = re.findall(r"^pip install .*$", README.read_text(), re.MULTILINE)
    assert len(commands) == 2
