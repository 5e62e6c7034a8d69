"""Networks on disk: what comes back, and what is refused."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from srigl_jax import models
from srigl_jax.condensed import native, storage
from srigl_jax.condensed.description import Description
from srigl_jax.condensed.modules import CondensedConv, CondensedLinear
from srigl_jax.condensed.representation import condense, narrow

SHAPE = (4, 4, 2)
CLASSES = ("ant", "bee", "cat")


def description(model="mlp", **options):
    return Description(
        model=model,
        options=options,
        dataset="insects",
        image_shape=SHAPE,
        mean=(1.0, 2.0),
        std=(3.0, 4.0),
        class_names=CLASSES,
        batch_size=5,
    )


MLP = description(widths=[8])
CONVNET = description("convnet", widths=(4,), hidden=6, dropout=0.1)


def create(what):
    shape, classes = what.image_shape, len(what.class_names)
    model = models.create(what.model, shape, classes, rngs=nnx.Rngs(0), **what.options)
    model.eval()
    return model


def masked(layer, absent=()):
    """Masks a layer's kernel, half of each neuron, all of the absent ones."""
    kernel = layer.kernel.get_value()
    mask = np.zeros(kernel.shape, bool).reshape(-1, kernel.shape[-1])
    mask[::2] = True
    mask[:, list(absent)] = False
    mask = mask.reshape(kernel.shape)
    layer.kernel = nnx.Param(kernel * mask)
    bias = None if layer.bias is None else layer.bias.get_value()
    return condense(kernel, mask, bias)


def condensed_mlp(dtype=jnp.float32):
    """A masked network, and the same with its first layer condensed."""
    plain, swapped = create(MLP), create(MLP)
    c = masked(plain.layers[0], absent=[2, 3])
    masked(swapped.layers[0], absent=[2, 3])
    c = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == jnp.float32 else a, c)
    swapped.layers[0] = CondensedLinear(c, implementation="xla")
    return plain, swapped


def condensed_convnet():
    """The same of a convolutional network, whose ablated neurons are gone."""
    plain, swapped = create(CONVNET), create(CONVNET)
    for model in (plain, swapped):
        model.norms[0].mean = nnx.BatchStat(jnp.array([0.1, 0.2, 0.3, 0.4]))
        # What an ablated neuron outputs after BatchNorm is 0, so it can go.
        model.norms[1].mean = nnx.BatchStat(jnp.full(6, 0.5))
    conv = masked(plain.convs[0])
    hidden = masked(plain.hidden, absent=[0, 4])
    kept = np.array([1, 2, 3, 5])
    swapped.convs[0] = CondensedConv(
        conv, strides=2, padding=((0, 1), (0, 1)), implementation="xla"
    )
    swapped.hidden = CondensedLinear(narrow(hidden), implementation="xla")
    swapped.norms[1] = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    swapped.norms[1].mean = nnx.BatchStat(jnp.full(4, 0.5))
    swapped.head = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    swapped.head.kernel = nnx.Param(plain.head.kernel.get_value()[kept])
    return plain, swapped


def images():
    values = np.random.default_rng(0).normal(size=(7, *SHAPE))
    return jnp.asarray(values, jnp.float32)


def bits(model):
    """All arrays by path such that == compares dtypes, shapes and bits."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))
    return {
        jax.tree_util.keystr(path): (leaf.dtype.name, leaf.shape, leaf.tobytes())
        for path, leaf in ((p, np.asarray(x)) for p, x in leaves)
    }


@pytest.fixture
def saved(tmp_path):
    """The condensed MLP on disk."""
    directory = tmp_path / "model"
    storage.save(directory, condensed_mlp()[1], MLP)
    return directory


@pytest.mark.parametrize(
    ("make", "what"), [(condensed_mlp, MLP), (condensed_convnet, CONVNET)]
)
def test_what_is_loaded_has_the_bits_of_what_was_saved(tmp_path, make, what):
    _, model = make()
    storage.save(tmp_path / "model", model, what)
    loaded, _ = storage.load(tmp_path / "model")
    assert bits(loaded) == bits(model)
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    np.testing.assert_array_equal(loaded(images()), model(images()))


@pytest.mark.parametrize(
    ("make", "what"), [(condensed_mlp, MLP), (condensed_convnet, CONVNET)]
)
def test_what_is_loaded_computes_what_the_masked_network_does(tmp_path, make, what):
    plain, model = make()
    if what is CONVNET:  # Ablated neurons output relu(-0.5), so nothing.
        assert plain(images()).shape == (7, 3)
    storage.save(tmp_path / "model", model, what)
    loaded, _ = storage.load(tmp_path / "model")
    np.testing.assert_allclose(loaded(images()), plain(images()), atol=1e-5)


def test_an_untouched_network_comes_back(tmp_path):
    model = create(CONVNET)
    storage.save(tmp_path / "model", model, CONVNET)
    loaded, _ = storage.load(tmp_path / "model")
    assert bits(loaded) == bits(model)
    np.testing.assert_array_equal(loaded(images()), model(images()))


def test_the_description_comes_back(saved):
    expected = Description(**(vars(MLP) | {"options": {"widths": (8,)}}))
    loaded = storage.load(saved)[1]
    assert loaded.to_json() == expected.to_json()
    assert loaded.class_names == CLASSES


def test_bfloat16_weights_keep_their_bits(tmp_path):
    _, model = condensed_mlp(jnp.bfloat16)
    storage.save(tmp_path / "model", model, MLP)
    loaded, _ = storage.load(tmp_path / "model")
    values = loaded.layers[0].condensed.get_value().values
    assert values.dtype == jnp.bfloat16
    assert bits(loaded) == bits(model)


def test_a_layer_without_active_neurons_and_bias_comes_back(tmp_path):
    model = create(MLP)
    c = condense(np.ones((32, 8), np.float32), np.zeros((32, 8)))
    model.layers[0] = CondensedLinear(c, implementation="xla")
    storage.save(tmp_path / "model", model, MLP)
    loaded = storage.load(tmp_path / "model")[0].layers[0].condensed.get_value()
    assert (loaded.values.shape, loaded.bias) == ((0, 0), None)


def test_how_a_layer_is_run_comes_back(tmp_path):
    _, model = condensed_convnet()
    storage.save(tmp_path / "model", model, CONVNET)
    conv = storage.load(tmp_path / "model")[0].convs[0]
    assert isinstance(conv, CondensedConv)
    assert conv.padding == ((0, 1), (0, 1))
    assert (conv.strides, conv.implementation) == (2, "xla")


def test_the_manifest_names_classes_by_module_and_the_digest(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    classes = {path: x["class"] for path, x in manifest["modules"].items()}
    assert classes == {"layers/0": "CondensedLinear", "layers/1": "Linear"}
    content = (saved / "model.safetensors").read_bytes()
    assert manifest["tensors"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_any_safetensors_reader_can_read_the_weights(saved):
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    indices = tensors["layers/0/condensed/indices"]
    assert indices.dtype == np.uint16
    np.testing.assert_array_equal(indices[0], np.arange(0, 32, 2))


def test_a_directory_that_exists_is_left_alone(saved):
    before = (saved / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=f"{saved} exists.*--overwrite"):
        storage.save(saved, create(MLP), MLP)
    assert (saved / "manifest.json").read_bytes() == before


def test_a_network_can_be_overwritten(saved):
    storage.save(saved, create(CONVNET), CONVNET, overwrite=True)
    assert storage.load(saved)[1].model == "convnet"
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_directory_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not overwritten.*remove it yourself"):
        storage.save(tmp_path, create(MLP), MLP, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path}/file/model cannot be written"):
        storage.save(tmp_path / "file" / "model", create(MLP), MLP)


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_write", full)
    with pytest.raises(ValueError, match="cannot be written: .*No space left"):
        storage.save(tmp_path / "model", create(MLP), MLP)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_cannot_be_stored_is_named(tmp_path):
    model = create(MLP)
    model.layers[0] = nnx.LayerNorm(32, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="layers/0 is a LayerNorm, which cannot be"):
        storage.save(tmp_path / "model", model, MLP)


def assert_refused(directory, message):
    with pytest.raises(ValueError, match=message):
        storage.load(directory)


def test_a_missing_directory_is_named(tmp_path):
    assert_refused(tmp_path / "none", f"{tmp_path}/none holds no exported network")


def test_truncated_weights_are_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert_refused(saved, f"{path} holds .* bytes of .*: it was cut off")


def test_a_flipped_bit_in_the_weights_is_noticed(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_refused(saved, f"{path} is damaged: its sha256 is not the one")


def test_a_changed_manifest_is_noticed(saved):
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace("3.0", "3.1"))
    assert_refused(saved, f"{path} has changed since it was written")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_manifest_of_something_else_is_named(saved, content):
    (saved / "manifest.json").write_text(content)
    assert_refused(saved, r"manifest.json is (damaged|none that srigl_jax wrote)")


def forge(directory, change):
    """Changes manifest and tensors, and makes digests that fit."""
    manifest = json.loads((directory / "manifest.json").read_text())
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(manifest, tensors)
    content = safetensors.numpy.save(tensors)
    (directory / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest["tensors"] = {"bytes": len(content), "sha256": digest}
    del manifest["sha256"]
    text = json.dumps(manifest, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", None),
        ("modules", None),
        ("modules", [1]),
        ("tensors", None),
        ("tensors", {"bytes": 3}),
    ],
)
def test_a_field_of_the_manifest_that_is_no_such_is_named(saved, field, value):
    path = saved / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[field], manifest["sha256"]
    if value is not None:
        manifest[field] = value
    text = json.dumps(manifest, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))
    assert_refused(saved, f"{path} has no {field} that srigl_jax wrote")


def test_a_version_of_the_future_is_named(saved):
    forge(saved, lambda manifest, _: manifest.update(format_version=2))
    assert_refused(saved, r"has format version 2, written by srigl_jax .* reads .* 1")


def test_an_index_outside_the_fan_in_names_the_layer(saved):
    def change(_, tensors):
        tensors["layers/0/condensed/indices"][3, 1] = 32

    forge(saved, change)
    assert_refused(saved, r"layer layers/0: indices must lie in \[0, 32\).* to 32")


def test_a_neuron_that_is_not_there_names_the_layer(saved):
    def change(_, tensors):
        tensors["layers/0/condensed/active"][-1] = 8

    forge(saved, change)
    assert_refused(saved, r"layer layers/0: active must ascend within \[0, 8\)")


FORGERIES = {
    "a tensor too few": (
        lambda m, t: t.pop("layers/1/kernel"),
        "layer layers/1: the tensor layers/1/kernel is missing",
    ),
    "an array of a layer too few": (
        lambda m, t: t.pop("layers/0/condensed/active"),
        "layer layers/0: the tensors active are missing",
    ),
    "a tensor too many": (
        lambda m, t: t.update(more=np.zeros(3)),
        "no module has the tensors more",
    ),
    "another class": (
        lambda m, t: m["modules"]["layers/0"].update({"class": "Popen"}),
        "layer layers/0: there is no module class 'Popen'",
    ),
    "another attribute": (
        lambda m, t: m["modules"]["layers/1"]["attributes"].update({"lr": 1}),
        "layer layers/1: a Linear has no attribute 'lr'",
    ),
    "a private attribute": (
        lambda m, t: m["modules"]["layers/1"]["attributes"].update({"__class__": 1}),
        "layer layers/1: a Linear has no attribute '__class__'",
    ),
    "a module that is not there": (
        lambda m, t: m["modules"].update({"tail": m["modules"].pop("layers/1")}),
        "layer tail cannot be rebuilt: KeyError",
    ),
    "another layout": (
        lambda m, t: m["modules"]["layers/0"]["variables"]["condensed"].update(
            layout={"shape": [32, 8], "neuron_axes": [2]}
        ),
        "layer layers/0: there is no kernel .* with neurons on axes",
    ),
    "a fan-in that no index reaches": (
        lambda m, t: m["modules"]["layers/0"]["variables"]["condensed"].update(
            layout={"shape": [2**31, 8], "neuron_axes": [1]}
        ),
        r"layer layers/0: .* has fan-in 2147483648 .* must be below 2\*\*31",
    ),
    "more neurons than numbers": (
        lambda m, t: m["modules"]["layers/0"]["variables"]["condensed"].update(
            layout={"shape": [32, 2**64 + 8], "neuron_axes": [1]}
        ),
        r"layer layers/0: .* must be below 2\*\*31",
    ),
    "widths that do not fit": (
        lambda m, t: t.update({"layers/1/kernel": np.zeros((7, 3), np.float32)}),
        "its layers do not work together",
    ),
    "other classes": (
        lambda m, t: m["description"].update(class_names=["ant"]),
        r"it has outputs \[3\] for 1 classes",
    ),
    "an option that no model has": (
        lambda m, t: m["description"]["options"].update(depth=3),
        "model 'mlp': .*depth",
    ),
    "another model": (
        lambda m, t: m["description"].update(model="gpt"),
        "model.name is 'gpt': choose one of",
    ),
    "a deviation of 0": (
        lambda m, t: m["description"].update(std=[1.0, 0.0]),
        "the description makes no sense",
    ),
    "no data set": (
        lambda m, t: m["description"].pop("dataset"),
        "the description cannot be read: .*dataset",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_refused_whatever_its_digests(saved, forgery):
    change, message = FORGERIES[forgery]
    forge(saved, change)
    assert_refused(saved, message)


def forge_convolution(tmp_path, shape, **attributes):
    """A convolutional network on disk, its first kernel said to be of another shape."""
    directory = tmp_path / "model"
    storage.save(directory, condensed_convnet()[1], CONVNET)

    def change(manifest, _):
        entry = manifest["modules"]["convs/0"]
        entry["variables"]["condensed"]["layout"]["shape"] = shape
        entry["attributes"].update(attributes)

    forge(directory, change)
    return directory


@pytest.mark.parametrize(
    "shape", [[1, 2**30, 2, 4], [2**32, 2**32, 2, 4], [2**21, 2**21, 2**22, 4]]
)
def test_a_kernel_larger_than_any_index_is_refused(tmp_path, shape):
    directory = forge_convolution(tmp_path, shape)
    assert_refused(directory, r"layer convs/0: .* must be below 2\*\*31")


@pytest.mark.skipif(not native.available(), reason="the C++ kernels are not built")
def test_a_kernel_that_needs_absurd_memory_is_an_error_when_it_runs(tmp_path):
    """Kernels larger than the image make sense, so loading it is no error."""
    shape = [1, 1_000_000_000, 2, 4]
    directory = forge_convolution(
        tmp_path, shape, padding="SAME", implementation="native"
    )
    model, _ = storage.load(directory)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no room to pack the inputs"):
        jax.block_until_ready(model(images()))


@pytest.mark.parametrize("position", range(0, 4000, 397))
def test_no_flipped_byte_is_loaded(saved, position):
    for name in ("manifest.json", "model.safetensors"):
        path = saved / name
        before = path.read_bytes()
        content = bytearray(before)
        content[position % len(content)] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ValueError, match="manifest.json|model.safetensors"):
            storage.load(saved)
        path.write_bytes(before)
