"""The files in configs/ say what the paper does, number by number."""

import pathlib
import re

import pytest

from srigl_jax.config import load_config
from srigl_jax.data import training_steps

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"

COMMON = {
    "method": "srigl",
    "ablation": True,
    "sparsity": 0.9,
    "alpha": 0.3,
    "growth_candidates": "inactive",
    "dtype": "float32",
    "ema": 0.0,
    "dense": (),
}
CIFAR10 = COMMON | {
    "dataset.name": "cifar10",
    "epochs": 250,
    "batch_size": 128,
    "accumulate": 1,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 5e-4,
    "optimizer.clip_norm": 0.0,
    "optimizer.learning_rate": 0.1,
    "optimizer.reference_batch": None,
    "optimizer.warmup_epochs": 0.0,
    "optimizer.schedule": "step",
    "optimizer.decay_factor": 0.2,
    "optimizer.decay_every": 77.0,
    "label_smoothing": 0.0,
    "distribution": "erk",
    "delta_t": 100,
    "gradient_window": 1,
    "gamma_sal": 0.3,
    "augment.crop_padding": 4,
    "augment.flip": True,
    "augment.randaugment": 0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
}
RESNET50 = COMMON | {
    "dataset.name": "imagenet2012",
    "model.name": "resnet50",
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": 0.0,
    "optimizer.learning_rate": 0.2,
    "optimizer.reference_batch": 512,
    "optimizer.schedule": "multistep",
    "optimizer.decay_factor": 0.1,
    "label_smoothing": 0.1,
    "distribution": "erk",
    "delta_t": 800,
    "gradient_window": 8,
    "gamma_sal": 0.3,
    "augment.crop_padding": 0,
    "augment.flip": True,
    "augment.randaugment": 0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
}
MOBILENET = COMMON | {
    "dataset.name": "imagenet2012",
    "epochs": 600,
    "batch_size": 1024,
    "optimizer.name": "rmsprop",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-5,
    "optimizer.clip_norm": 0.0,
    "optimizer.learning_rate": 0.064,
    "optimizer.reference_batch": None,
    "optimizer.warmup_epochs": 0.0,
    "optimizer.schedule": "step",
    "optimizer.decay_factor": 0.973,
    "optimizer.decay_every": 2.0,
    "label_smoothing": 0.1,
    "distribution": "erk",
    "delta_t": 100,
    "gradient_window": 2,
    "gamma_sal": 0.3,
    "augment.crop_padding": 0,
    "augment.flip": True,
    "augment.randaugment": 0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
}
VIT = COMMON | {
    "dataset.name": "imagenet2012",
    "model.name": "vit_b_16",
    "epochs": 150,
    "batch_size": 4096,
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.3,
    "optimizer.clip_norm": 1.0,
    "optimizer.learning_rate": 0.003,
    "optimizer.reference_batch": None,
    "optimizer.warmup_epochs": 16.0,
    "optimizer.schedule": "cosine",
    "label_smoothing": 0.11,
    "distribution": "uniform",
    "delta_t": 100,
    "gradient_window": 8,
    "augment.crop_padding": 0,
    "augment.flip": True,
    "augment.magnitude": 9,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
}


def longer(epochs, batch_size, warmup, decay_at):
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer.warmup_epochs": warmup,
        "optimizer.decay_at": decay_at,
    }


TABLE = {
    "resnet18_cifar10.py": CIFAR10 | {"model.name": "resnet18"},
    "wrn22_cifar10.py": CIFAR10
    | {
        "model.name": "wide_resnet",
        "model.depth": 22,
        "model.widening": 2,
        "model.dropout": 0.3,
    },
    "resnet50_imagenet.py:x1": RESNET50 | longer(103, 512, 5.0, (30, 70, 90)),
    "resnet50_imagenet.py:x2": RESNET50 | longer(206, 1024, 10.0, (60, 140, 180)),
    "resnet50_imagenet.py:x5": RESNET50
    | longer(515, 4096, 25.0, (150, 350, 450))
    | {"gamma_sal": 0.005},
    "mobilenet_v3_imagenet.py:small": MOBILENET | {"model.name": "mobilenet_v3_small"},
    "mobilenet_v3_imagenet.py:large": MOBILENET | {"model.name": "mobilenet_v3_large"},
    "vit_b16_imagenet.py:dense_qkv": VIT
    | {"gamma_sal": 0.95, "dense": ("query", "key", "value")},
    "vit_b16_imagenet.py:sparse_qkv": VIT | {"gamma_sal": 0.7},
}
# Test accuracies that a docstring has to give: dense, then RigL / SRigL without / with.
PUBLISHED = {
    "resnet18_cifar10.py": "95.45 95.20 95.19 95.22 95.06 95.00 95.11 94.62 94.48 94.70"
    " 92.88 91.47 92.79",
    "wrn22_cifar10.py": "95.0 94.0 94.1 94.0 93.3 93.1 93.3 92.1 91.4 91.8 84.9 76.9"
    " 82.7",
    "resnet50_imagenet.py": "76.74 74.98 74.8 75.01 76.53 72.81 72.6 72.71 74.76 69.7"
    " 68.8 69.18 71.52 51.5 48.7 51.55 55.34",
    "vit_b16_imagenet.py": "78.35 77.88 73.50 77.47 76.39 71.26 76.00",
}


def field(config, name):
    for part in name.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_has_the_numbers_of_the_paper(name):
    config = load_config(str(CONFIGS / name))
    assert {key: field(config, key) for key in TABLE[name]} == TABLE[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_gives_the_published_accuracies_and_says_that_it_has_no_own(name):
    text = (CONFIGS / name).read_text()
    numbers = re.findall(r"(?<![\d.])\d\d\.\d{1,2}(?![\d.]*\d)", text.split('"""')[1])
    assert numbers == PUBLISHED[name].split()
    assert "Not measured here" in text


@pytest.mark.parametrize("name", TABLE)
def test_method_and_sparsity_of_a_recipe_can_be_overridden(name):
    config = load_config(str(CONFIGS / name))
    config.update({"method": "rigl", "sparsity": 0.8})
    assert (config.method, config.sparsity) == ("rigl", 0.8)


@pytest.mark.parametrize(
    "name", sorted({name.partition(":")[0] for name in TABLE if ":" in name})
)
def test_an_unknown_variant_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match="unknown .* 'x3': choose one of .*, "):
        load_config(f"{CONFIGS / name}:x3")


@pytest.mark.parametrize(
    ("model", "held_out"), [("resnet18", 2000), ("wide_resnet", 0)]
)
def test_the_short_recipes_train_for_600_steps_of_padded_images(model, held_out):
    config = load_config(f"{CONFIGS / 'fashion_mnist_short.py'}:{model}")
    assert config.dataset.validation == held_out
    assert training_steps(60_000 - held_out, config.batch_size, config.epochs) == 600
    assert config.dataset.image_shape == (32, 32, 3)
