"""Weights in torchvision's names: where they go, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from srigl_jax import models
from srigl_jax.models import mobilenet_v3, resnet
from srigl_jax.models.pretrained import load_torchvision


def norm(name, features):
    """A batch normalisation's tensors, as PyTorch saves them."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (features,) for kind in kinds} | {
        f"{name}.num_batches_tracked": ()
    }


def linear(name, features, inputs, bias="bias"):
    return {f"{name}.weight": (features, inputs), f"{name}.{bias}": (features,)}


RESNET = (
    {"conv1.weight": (2, 3, 7, 7)}
    | norm("bn1", 2)
    | {"layer1.0.conv1.weight": (2, 2, 1, 1)}
    | norm("layer1.0.bn1", 2)
    | {"layer1.0.conv2.weight": (2, 2, 3, 3)}
    | norm("layer1.0.bn2", 2)
    | {"layer1.0.conv3.weight": (8, 2, 1, 1)}
    | norm("layer1.0.bn3", 8)
    | {"layer1.0.downsample.0.weight": (8, 2, 1, 1)}
    | norm("layer1.0.downsample.1", 8)
    | linear("fc", 5, 8)
)

MOBILENET = (
    {"features.0.0.weight": (16, 3, 3, 3)}
    | norm("features.0.1", 16)
    | {"features.1.block.0.0.weight": (16, 1, 3, 3)}
    | norm("features.1.block.0.1", 16)
    | {"features.1.block.1.fc1.weight": (8, 16, 1, 1)}
    | {"features.1.block.1.fc1.bias": (8,)}
    | {"features.1.block.1.fc2.weight": (16, 8, 1, 1)}
    | {"features.1.block.1.fc2.bias": (16,)}
    | {"features.1.block.2.0.weight": (16, 16, 1, 1)}
    | norm("features.1.block.2.1", 16)
    | {"features.2.block.0.0.weight": (72, 16, 1, 1)}
    | norm("features.2.block.0.1", 72)
    | {"features.2.block.1.0.weight": (72, 1, 3, 3)}
    | norm("features.2.block.1.1", 72)
    | {"features.2.block.2.0.weight": (24, 72, 1, 1)}
    | norm("features.2.block.2.1", 24)
    | {"features.3.0.weight": (144, 24, 1, 1)}
    | norm("features.3.1", 144)
    | linear("classifier.0", 8, 144)
    | linear("classifier.3", 5, 8)
)

LAYER = "encoder.layers.encoder_layer_0"
VIT = (
    {"class_token": (1, 1, 6), "encoder.pos_embedding": (1, 7, 6)}
    | {"conv_proj.weight": (6, 3, 2, 2), "conv_proj.bias": (6,)}
    | {f"{LAYER}.ln_1.weight": (6,), f"{LAYER}.ln_1.bias": (6,)}
    | {f"{LAYER}.self_attention.in_proj_weight": (18, 6)}
    | {f"{LAYER}.self_attention.in_proj_bias": (18,)}
    | linear(f"{LAYER}.self_attention.out_proj", 6, 6)
    | {f"{LAYER}.ln_2.weight": (6,), f"{LAYER}.ln_2.bias": (6,)}
    | linear(f"{LAYER}.mlp.0", 24, 6)
    | linear(f"{LAYER}.mlp.3", 6, 24)
    | {"encoder.ln.weight": (6,), "encoder.ln.bias": (6,)}
    | linear("heads.head", 5, 6)
)


def create(names, classes=5):
    """A network of shapes alone, to which the names belong."""
    shape, rngs = (4, 6, 3), nnx.Rngs(0)
    if names is RESNET:
        options = {"block": resnet.Bottleneck, "depths": (1,), "width": 2}
        return resnet.ResNet(shape, classes, **options, rngs=rngs)
    if names is MOBILENET:
        rows = mobilenet_v3.SMALL[:2]
        return mobilenet_v3.MobileNetV3(shape, classes, rows=rows, hidden=8, rngs=rngs)
    options = {"patch": 2, "width": 6, "depth": 1, "heads": 2, "class_token": True}
    return models.ViT(shape, classes, **options, rngs=rngs)


def abstract(names, classes=5):
    return nnx.eval_shape(lambda: create(names, classes))


def draw(names):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in names.items()}


def write(tmp_path, tensors):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def load(tmp_path, names, tensors=None, **options):
    tensors = draw(names) if tensors is None else tensors
    model = abstract(names)
    load_torchvision(model, write(tmp_path, tensors), **options)
    return model, tensors


@pytest.mark.parametrize("names", [RESNET, MOBILENET, VIT], ids=["r", "m", "v"])
def test_every_parameter_and_statistic_is_loaded(tmp_path, names):
    model, tensors = load(tmp_path, names)
    leaves = jax.tree.leaves(
        nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    )
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    found = np.sort(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    stored = [x.ravel() for name, x in tensors.items() if x.shape]
    np.testing.assert_array_equal(found, np.sort(np.concatenate(stored)))


def test_convolutions_get_their_channels_last(tmp_path):
    model, tensors = load(tmp_path, MOBILENET)
    depthwise = model.blocks[1].depthwise.kernel[...]
    stored = tensors["features.2.block.1.0.weight"]
    assert depthwise[2, 1, 0, 40] == stored[40, 0, 2, 1]
    assert model.stem.kernel[2, 1, 0, 5] == tensors["features.0.0.weight"][5, 0, 2, 1]


def test_batch_normalisations_get_their_statistics(tmp_path):
    model, tensors = load(tmp_path, RESNET)
    loaded = model.blocks[0].shortcut_norm
    for kind, ours in [
        ("weight", loaded.scale),
        ("bias", loaded.bias),
        ("running_mean", loaded.mean),
        ("running_var", loaded.var),
    ]:
        np.testing.assert_array_equal(
            ours[...], tensors[f"layer1.0.downsample.1.{kind}"]
        )


def test_the_input_projection_is_split_into_query_key_and_value(tmp_path):
    model, tensors = load(tmp_path, VIT)
    weight = tensors[f"{LAYER}.self_attention.in_proj_weight"]
    bias = tensors[f"{LAYER}.self_attention.in_proj_bias"]
    attention = model.blocks[0].attention
    # Input 4 to head 1, the second of its 3 features: row 1 * 3 + 1 of a third.
    for third, layer in enumerate((attention.query, attention.key, attention.value)):
        assert layer.kernel[4, 1, 1] == weight[6 * third + 4, 4]
        assert layer.bias[1, 1] == bias[6 * third + 4]


def test_a_patch_is_read_in_the_order_of_its_pixels(tmp_path):
    model, tensors = load(tmp_path, VIT)
    # Row 1, column 0, channel 2 of a patch of 2 x 2 pixels of 3 channels.
    stored = tensors["conv_proj.weight"][5, 2, 1, 0]
    assert model.patch_embed.kernel[1 * 6 + 0 * 3 + 2, 5] == stored


def test_the_older_names_of_published_vits_are_known(tmp_path):
    old = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): x
        for name, x in draw(VIT).items()
    }
    model, _ = load(tmp_path, VIT, old)
    up = model.blocks[0].up.kernel[...]
    np.testing.assert_array_equal(up, old[f"{LAYER}.mlp.linear_1.weight"].T)


def test_half_precision_becomes_the_networks_own(tmp_path):
    halves = {name: np.asarray(x, jnp.bfloat16) for name, x in draw(RESNET).items()}
    model, _ = load(tmp_path, RESNET, halves)
    assert model.head.bias[...].dtype == jnp.float32
    np.testing.assert_array_equal(model.head.bias[...], halves["fc.bias"])


def test_the_head_can_be_left_as_it_is(tmp_path):
    model = create(RESNET, classes=7)
    before = np.array(model.head.kernel[...])
    tensors = draw(RESNET)
    load_torchvision(model, write(tmp_path, tensors), head=False)
    np.testing.assert_array_equal(model.head.kernel[...], before)
    np.testing.assert_array_equal(model.stem_norm.bias[...], tensors["bn1.bias"])


def test_another_number_of_classes_is_an_error_that_says_what_to_do(tmp_path):
    message = (
        r"fc.weight of shape \(5, 8\), but the network's has shape \(7, 8\); "
        "for another number of classes leave the head out: head=False"
    )
    with pytest.raises(ValueError, match=message):
        load_torchvision(abstract(RESNET, classes=7), write(tmp_path, draw(RESNET)))


def test_other_shapes_are_an_error_that_tells_both(tmp_path):
    tensors = draw(RESNET | {"conv1.weight": (2, 3, 3, 3)})
    message = r"conv1.weight of shape \(2, 3, 3, 3\), but .* has shape \(2, 3, 7, 7\)$"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, RESNET, tensors)


def test_missing_names_are_told(tmp_path):
    tensors = {n: x for n, x in draw(RESNET).items() if not n.startswith("layer1")}
    message = (
        r"lacks layer1.0.conv1.weight, layer1.0.bn1.weight, .* and 15 more, which the"
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path, RESNET, tensors)


def test_surplus_names_are_told(tmp_path):
    tensors = draw(RESNET | {"layer1.1.conv1.weight": (2, 8, 1, 1)})
    with pytest.raises(ValueError, match="has layer1.1.conv1.weight, which the netw"):
        load(tmp_path, RESNET, tensors)


def test_integers_are_no_weights(tmp_path):
    tensors = draw(RESNET) | {"bn1.bias": np.zeros(2, np.int32)}
    with pytest.raises(ValueError, match="bn1.bias of type int32"):
        load(tmp_path, RESNET, tensors)


def test_after_an_error_the_network_is_as_before(tmp_path):
    model = create(RESNET)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    tensors = draw(RESNET | {"fc.bias": (6,)})
    with pytest.raises(ValueError, match="fc.bias"):
        load_torchvision(model, write(tmp_path, tensors))
    after = nnx.to_pure_dict(nnx.state(model))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 a zip, as .pth is"])
def test_a_file_that_is_missing_or_of_another_format_is_an_error(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"can be read from {path}: .*safetensors"):
        load_torchvision(abstract(RESNET), path)


@pytest.mark.parametrize("name", ["mlp", "wide_resnet", "vit"])
def test_networks_that_torchvision_does_not_have_are_refused(tmp_path, name):
    model = nnx.eval_shape(lambda: models.create(name, (8, 8, 3), 5, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="torchvision has no pretrained"):
        load_torchvision(model, tmp_path)
