"""ResNet-50 on ImageNet, as the paper trains it; also twice and five times as long.

    python -m srigl_jax.train --config configs/resnet50_imagenet.py:x1
    python -m srigl_jax.train --config configs/resnet50_imagenet.py:x2
    python -m srigl_jax.train --config configs/resnet50_imagenet.py:x5

Published top-1 accuracy, %, of a single seed; dense 76.74:

| sparsity | RigL | SRigL without ablation | SRigL | SRigL, x2 |
|---|---|---|---|---|
| 0.8 | 74.98 | 74.8 | 75.01 | 76.53 |
| 0.9 | 72.81 | 72.6 | 72.71 | 74.76 |
| 0.95 | 69.7 | 68.8 | 69.18 | 71.52 |
| 0.99 | 51.5 | 48.7 | 51.55 | 55.34 |

Not measured here: it was never run. Each cell is a command with `--config.sparsity=`
and `--config.method=rigl` or `--config.ablation=False`.

By count, x1 takes 3.2e18 FLOPs: 18 hours where 50 TFLOP/s are sustained, which takes
`--config.dtype=bfloat16`; x2 and x5 take twice and five times as long. Micro-batches of
512 fill the larger batches. More of them, `--config.accumulate=`, need less memory, and
each is a batch to the batch normalisation.

The x2 and x5 runs update the topology every 800 steps of their larger batches, since
no other number is stated.
"""

from ml_collections import ConfigDict

from srigl_jax import config as defaults

TRAIN_IMAGES = 1_281_167

# How often as long, and the batch.
LENGTHS = {"x1": (1, 512), "x2": (2, 1024), "x5": (5, 4096)}


def get_config(length: str = "x1") -> ConfigDict:
    """103 epochs of SRigL at 90 %, or a multiple of that.

    Args:
      length: "x1", "x2" or "x5", given behind the file's name and a colon.
    """
    if length not in LENGTHS:
        raise ValueError(f"unknown length {length!r}: choose one of {sorted(LENGTHS)}")
    times, batch_size = LENGTHS[length]
    config = defaults.get_config()
    config.epochs = 103 * times
    config.batch_size = batch_size
    config.accumulate = batch_size // 512
    config.label_smoothing = 0.1
    config.delta_t = 800
    config.gradient_window = 8
    config.gamma_sal = 0.005 if length == "x5" else 0.3
    config.dataset.name = "imagenet2012"
    config.augment.flip = True
    config.model = ConfigDict({"name": "resnet50"})
    config.optimizer.learning_rate = 0.2
    config.optimizer.reference_batch = 512
    config.optimizer.warmup_epochs = 5.0 * times
    config.optimizer.schedule = "multistep"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_at = (30 * times, 70 * times, 90 * times)
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.eval_every = TRAIN_IMAGES // batch_size
    config.checkpoint_every = TRAIN_IMAGES // batch_size
    return config
