"""WRN-22-2 on CIFAR-10, as the paper trains it: the clearest cheap test of ablation.

    python -m srigl_jax.train --config configs/wrn22_cifar10.py --config.sparsity=0.99

Published test accuracy, %, means of 5 seeds; dense 95.0:

| sparsity | RigL | SRigL without ablation | SRigL |
|---|---|---|---|
| 0.8 | 94.0 | 94.1 | 94.0 |
| 0.9 | 93.3 | 93.1 | 93.3 |
| 0.95 | 92.1 | 91.4 | 91.8 |
| 0.99 | 84.9 | 76.9 | 82.7 |

Not measured here: it was never run to its end. The fields that give each cell are
those named in configs/resnet18_cifar10.py, whose recipe it shares.

By count, training takes 1.2e16 FLOPs: 10 minutes where 20 TFLOP/s are sustained, which
its narrow layers make hard.
"""

from pathlib import Path

from ml_collections import ConfigDict

from srigl_jax.config import load_config


def get_config() -> ConfigDict:
    """250 epochs of SRigL at 90 %, with dropout."""
    config = load_config(str(Path(__file__).with_name("resnet18_cifar10.py")))
    config.model = ConfigDict(
        {"name": "wide_resnet", "depth": 22, "widening": 2, "dropout": 0.3}
    )
    return config
