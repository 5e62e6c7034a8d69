"""An MLP on Fashion-MNIST.

    python -m srigl_jax.train --config configs/fashion_mnist_mlp.py

FIXME
"""

from ml_collections import ConfigDict

from srigl_jax import config as defaults


def get_config() -> ConfigDict:
    """Two hidden layers of 512, 10 epochs."""
    config = defaults.get_config()
    config.dataset.name = "fashion_mnist"
    config.epochs = 10
    config.batch_size = 128
    config.delta_t = 50
    config.model.widths = (512, 512)
    config.eval_every = 469
    config.checkpoint_every = 469
    return config
