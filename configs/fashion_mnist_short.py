"""ResNet-18 or WRN-22-2 for 600 steps on Fashion-MNIST, padded to CIFAR-10's shape.

    python -m srigl_jax.train --config configs/fashion_mnist_short.py:resnet18
    python -m srigl_jax.train --config configs/fashion_mnist_short.py:wide_resnet

The networks of configs/resnet18_cifar10.py and configs/wrn22_cifar10.py, at 99 %
sparsity, with their augmentation: a look at learned masks where there are neither
CIFAR-10 nor an accelerator. Batches are smaller than the recipe's, and so is the
learning rate, after a warm-up of 30 steps: at the recipe's 0.1 ResNet-18 starts at a
loss of 16, from which 300 steps do not suffice to recover. It takes half the batch, and
is evaluated on 2,000 training images held out instead of the test split, which would
take it longer than the training.
"""

from pathlib import Path

from ml_collections import ConfigDict

from srigl_jax.config import load_config

STEPS, WARMUP_STEPS = 600, 30
TRAIN_IMAGES = 60_000
# Whose recipe, the batch, and the images held out.
RECIPES = {
    "resnet18": ("resnet18_cifar10.py", 16, 2000),
    "wide_resnet": ("wrn22_cifar10.py", 32, 0),
}


def get_config(model: str = "wide_resnet") -> ConfigDict:
    """600 steps, with a topology update every 25 up to step 425.

    Args:
      model: "resnet18" or "wide_resnet", given behind the file's name and a colon.
    """
    if model not in RECIPES:
        raise ValueError(f"unknown model {model!r}: choose one of {sorted(RECIPES)}")
    recipe, batch_size, held_out = RECIPES[model]
    config = load_config(str(Path(__file__).with_name(recipe)))
    config.dataset.name = "fashion_mnist"
    config.dataset.image_shape = (32, 32, 3)
    config.dataset.validation = held_out
    config.sparsity = 0.99
    if "dropout" in config.model:
        # 600 steps do not overfit; and with two or three inputs a neuron the variance
        # that dropout adds, which evaluation has not, undoes batch normalisation.
        config.model.dropout = 0.0
    config.batch_size = batch_size
    steps_per_epoch = (TRAIN_IMAGES - held_out) // batch_size
    config.epochs = STEPS / steps_per_epoch
    config.delta_t = 25
    config.optimizer.learning_rate = 0.02
    config.optimizer.warmup_epochs = WARMUP_STEPS / steps_per_epoch
    config.optimizer.schedule = "cosine"
    config.log_every = 10
    config.eval_every = STEPS
    config.checkpoint_every = 50
    return config
