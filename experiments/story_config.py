"""The networks of the story, each a config that the trainer takes as well.

    python experiments/story.py --network mlp
    python -m srigl_jax.train --config experiments/story_config.py:mlp

All are for Fashion-MNIST, and small enough to be trained some hundred times on a core.
The learning rate of the `mlp` was chosen on 10,000 held-out training examples, see
README.md here. `narrow` and `wide` have the same; those of `wrn` and `vit` were not.
"""

from ml_collections import ConfigDict

from srigl_jax import config as defaults

NETWORKS = {
    "mlp": {
        "model": {"name": "mlp", "widths": (256, 256), "dropout": 0.0},
        "epochs": 5,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 1e-4,
        "delta_t": 50,
    },
    # At 99 % its second layer has 1.8 weights a neuron, of which a fan-in that is the
    # same for all neurons can use 1.
    "narrow": {
        "model": {"name": "mlp", "widths": (128, 128), "dropout": 0.0},
        "epochs": 5,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 1e-4,
        "delta_t": 50,
    },
    "wide": {
        "model": {"name": "mlp", "widths": (512, 512), "dropout": 0.0},
        "epochs": 5,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 1e-4,
        "delta_t": 50,
    },
    "wrn": {
        "model": {
            "name": "wide_resnet",
            "depth": 10,
            "widening": 1,
            "width": 16,
            "dropout": 0.0,
        },
        "epochs": 1,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 1e-4,
        "optimizer.warmup_epochs": 0.1,
        "delta_t": 20,
    },
    "vit": {
        "model": {
            "name": "vit",
            "patch": 7,
            "width": 64,
            "depth": 2,
            "heads": 2,
            "mlp_ratio": 4,
            "class_token": False,
        },
        "epochs": 3,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 3e-3,
        "optimizer.weight_decay": 0.05,
        "optimizer.clip_norm": 1.0,
        "distribution": "uniform",
        "delta_t": 50,
    },
}


def get_config(network: str = "mlp") -> ConfigDict:
    """One of `NETWORKS`, given behind the file's name and a colon."""
    if network not in NETWORKS:
        raise ValueError(
            f"unknown network {network!r}: choose one of {sorted(NETWORKS)}"
        )
    fields = dict(NETWORKS[network])
    config = defaults.get_config()
    config.model = ConfigDict(fields.pop("model"))
    config.dataset.name = "fashion_mnist"
    config.batch_size = 128
    config.track_exploration = False
    config.update_from_flattened_dict(fields)
    config.pruning.rewind_step = None
    config.eval_every = config.checkpoint_every = 468
    return config
