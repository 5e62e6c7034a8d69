"""The networks against torchvision's own, with the same random weights and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from published_networks import parameters

from srigl_jax import models
from srigl_jax.models.pretrained import load_torchvision

WHY = "torchvision is not installed: pip install '.[test-torch]'"
torch = pytest.importorskip("torch", reason=WHY)
torchvision = pytest.importorskip("torchvision", reason=WHY)
from safetensors.torch import save_file  # noqa: E402  It needs torch.

# Image heights and widths, which need not be those of ImageNet but for ViT.
NETWORKS = {
    "resnet18": (65, {"small_images": False}),
    "resnet50": (65, {}),
    "mobilenet_v3_small": (65, {}),
    "mobilenet_v3_large": (65, {}),
    "vit_b_16": (64, {}),
}


def scrambled(network):
    """Makes all that starts at 0 or 1 random, so that it counts."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or not tensor.any()):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return network


def pair(name, tmp_path):
    """Torchvision's network, ours with its weights, and images for both."""
    torch.manual_seed(0)
    size, options = NETWORKS[name]
    sized = {"image_size": size} if name == "vit_b_16" else {}
    theirs = scrambled(getattr(torchvision.models, name)(num_classes=7, **sized))
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = nnx.eval_shape(
        lambda: models.create(name, (size, size, 3), 7, rngs=nnx.Rngs(0), **options)
    )
    load_torchvision(ours, tmp_path / "weights.safetensors")
    return theirs, ours, torch.randn(4, 3, size, size)


def run(model, images):
    definition, state = nnx.split(model)

    @jax.jit
    def forward(state, x):
        model = nnx.merge(definition, state)
        logits = model(x, rngs=nnx.Rngs(dropout=0))
        return logits, nnx.state(model)

    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(images.numpy().transpose(0, 2, 3, 1))
        logits, state = forward(state, x)
    nnx.update(model, state)
    return np.asarray(logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_those_of_torchvision(name, tmp_path):
    theirs, ours, images = pair(name, tmp_path)
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        expected = theirs(images).numpy()
    got = run(ours, images)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_training_step_moves_the_statistics_as_in_torchvision(name, tmp_path):
    theirs, ours, images = pair(name, tmp_path)
    theirs.train()
    ours.train()
    with torch.no_grad():
        theirs(images)
    run(ours, images)
    norm = theirs.bn1 if name == "resnet18" else theirs.features[0][1]
    np.testing.assert_allclose(
        ours.stem_norm.mean[...], norm.running_mean, rtol=1e-4, atol=1e-6
    )
    # PyTorch's variance is the unbiased one: 1 / (4 * 33 * 33) more.
    np.testing.assert_allclose(ours.stem_norm.var[...], norm.running_var, rtol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_full_network_has_as_many_parameters(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    total = sum(p.numel() for p in theirs.parameters())
    leaves = jax.tree.leaves(parameters(name, **NETWORKS[name][1]))
    assert sum(leaf.size for leaf in leaves) == total
