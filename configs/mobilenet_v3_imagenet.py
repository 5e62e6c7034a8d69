"""MobileNetV3 on ImageNet, small and large, as the paper trains them.

    python -m srigl_jax.train --config configs/mobilenet_v3_imagenet.py:small
    python -m srigl_jax.train --config configs/mobilenet_v3_imagenet.py:large

The paper's accuracies are not among the figures that this project set out to reach,
and nothing was measured here: it was never run.

By count, training takes 2.6e17 FLOPs for the small network and 1.0e18 for the large
one. What that takes in time is not to be told from it: depthwise convolutions are bound
by memory, and 600 passes over a million images by what decodes them.
"""

from ml_collections import ConfigDict

from srigl_jax import config as defaults

STEPS_PER_EPOCH = 1_281_167 // 1024


def get_config(size: str = "large") -> ConfigDict:
    """600 epochs of SRigL at 90 %.

    Args:
      size: "small" or "large", given behind the file's name and a colon.
    """
    if size not in ("small", "large"):
        raise ValueError(f"unknown size {size!r}: choose one of large, small")
    config = defaults.get_config()
    config.epochs = 600
    config.batch_size = 1024
    config.label_smoothing = 0.1
    config.delta_t = 100
    config.gradient_window = 2
    config.dataset.name = "imagenet2012"
    config.augment.flip = True
    config.model = ConfigDict({"name": f"mobilenet_v3_{size}"})
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 0.064
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.schedule = "step"
    config.optimizer.decay_factor = 0.973
    config.optimizer.decay_every = 2.0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-5
    config.eval_every = STEPS_PER_EPOCH
    config.checkpoint_every = STEPS_PER_EPOCH
    return config
