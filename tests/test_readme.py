"""README's examples run as they stand."""

import ast
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import srigl_jax
import srigl_jax.extreme
from srigl_jax import models

README = pathlib.Path(__file__).parent.parent / "README.md"


def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def first_example():
    return examples()[0]


def example(call):
    """The one example that makes a call."""
    (found,) = [text for text in examples() if call in text]
    return found


def test_the_first_example_is_short():
    assert len(first_example().strip().splitlines()) < 20


def test_the_first_example_trains_a_sparse_network():
    names = {}
    exec(first_example(), names)
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.nn.initializers.he_normal()
    params = {
        "hidden": weights(keys[0], (64, 128)),
        "head": weights(keys[1], (128, 10)),
    }
    x = jax.random.normal(keys[2], (256, 64))
    labels = x[:, :10].argmax(axis=-1)
    before = float(names["loss"](params, x, labels))
    state = names["optimizer"].init(params)
    for _ in range(200):
        params, state = names["step"](params, state, x, labels)
    assert float(names["loss"](params, x, labels)) < before / 4
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


OPTIMIZERS = [ast.unparse(s) for s in ast.parse(example("srigl_jax.rigl(")).body]


@pytest.mark.parametrize("statement", OPTIMIZERS)
def test_each_optimizer_takes_a_network(statement):
    names = {"srigl_jax": srigl_jax, "inner": optax.sgd(0.1)}
    exec(statement, names)
    params = {"hidden": jnp.zeros((64, 256)), "head": jnp.zeros((256, 10))}
    masks = srigl_jax.get_masks(names["optimizer"].init(params))
    assert 0 < jnp.sum(masks["hidden"]) < masks["hidden"].size / 3


def test_what_an_optimizer_holds_can_be_asked():
    params = {"hidden": jnp.zeros((64, 256)), "head": jnp.zeros((256, 10))}
    optimizer = srigl_jax.srigl(optax.sgd(0.1), 0.9, total_steps=10_000)
    names = {
        "srigl_jax": srigl_jax,
        "state": optimizer.init(params),
        "params": params,
        "key": jax.random.key(0),
    }
    exec(example("srigl_jax.summarize("), names)
    srigl_jax.check_masks(names["masks"], names["plan"], names["params"])


def test_an_exported_network_classifies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "runs" / "digits" / "model.stablehlo"
    model.parent.mkdir(parents=True)
    shape = jax.export.symbolic_shape("n, 8, 8, 1")
    exported = jax.export.export(jax.jit(lambda images: images.sum((1, 2, 3))))(
        jax.ShapeDtypeStruct(shape, jnp.uint8)
    )
    model.write_bytes(exported.serialize())
    names = {"jax": jax, "images": jnp.ones((3, 8, 8, 1), jnp.uint8)}
    exec(example("jax.export.deserialize("), names)
    assert names["logits"].shape == (3,)


def test_a_network_and_a_layer_are_condensed(capsys):
    model = models.create(
        "convnet", (32, 32, 3), 5, rngs=nnx.Rngs(0), widths=(4,), hidden=8
    )
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    masks = srigl_jax.init_masks(params, srigl_jax.make_plan(params, 0.5))
    names = {
        "jax": jax,
        "model": model,
        "masks": masks,
        "images": jnp.ones((2, 32, 32, 3)),
        "kernel": params["hidden"]["kernel"],
        "mask": masks["hidden"]["kernel"],
        "bias": jnp.zeros(8),
        "x": jnp.ones((3, params["hidden"]["kernel"].shape[0])),
    }
    exec(example("condense_model("), names)
    assert names["logits"].shape == (2, 5)
    assert names["y"].shape == (3, 8)
    assert "hidden" in capsys.readouterr().out


def test_every_example_runs_in_some_test():
    calls = ["srigl_jax.rigl(", "srigl_jax.summarize(", "jax.export.deserialize("]
    calls += ["condense_model(", "extreme.train_step("]
    assert examples() == [first_example(), *map(example, calls)]
