"""A small convolutional network with BatchNorm on Fashion-MNIST.

    python -m srigl_jax.train --config configs/fashion_mnist_convnet.py

FIXME
"""

from ml_collections import ConfigDict

from configs import fashion_mnist_mlp


def get_config() -> ConfigDict:
    """Convolutions of 16 and 32 channels, a hidden layer of 128, 10 epochs."""
    config = fashion_mnist_mlp.get_config()
    config.model.name = "convnet"
    config.model.widths = (16, 32)
    return config
