"""ResNet-18 on CIFAR-10, as the paper trains it.

    python -m srigl_jax.train --config configs/resnet18_cifar10.py

Published test accuracy, %, means of 5 seeds; dense 95.45:

| sparsity | RigL | SRigL without ablation | SRigL |
|---|---|---|---|
| 0.8 | 95.20 | 95.19 | 95.22 |
| 0.9 | 95.06 | 95.00 | 95.11 |
| 0.95 | 94.62 | 94.48 | 94.70 |
| 0.99 | 92.88 | 91.47 | 92.79 |

Not measured here: it was never run to its end. Each cell is the command with
`--config.sparsity=`, `--config.seed=`, and `--config.method=rigl` or
`--config.ablation=False`.

By count, training takes 4.2e16 FLOPs, since weights that do not exist are multiplied
all the same: 35 minutes where 20 TFLOP/s are sustained. `--config.dtype=bfloat16` is
an option that the paper does not state.
"""

from ml_collections import ConfigDict

from srigl_jax import config as defaults

STEPS_PER_EPOCH = 50_000 // 128


def get_config() -> ConfigDict:
    """250 epochs of SRigL at 90 %."""
    config = defaults.get_config()
    config.epochs = 250
    config.batch_size = 128
    config.delta_t = 100
    config.dataset.name = "cifar10"
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.model = ConfigDict({"name": "resnet18"})
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.schedule = "step"
    config.optimizer.decay_factor = 0.2
    config.optimizer.decay_every = 77.0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.eval_every = STEPS_PER_EPOCH
    config.checkpoint_every = 5 * STEPS_PER_EPOCH
    return config
