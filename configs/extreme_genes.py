"""753,521 labels, 64 weights each: the articles that cite a human gene.

    python -m srigl_jax.train --config configs/extreme_genes.py --workdir runs/genes
    python -m srigl_jax.predict --model runs/genes --text "kinase chromosomeX PF00069"

It reads the SQLite file of Debian's package r-bioc-org.hs.eg.db, or of
--config.dataset.source_dir=DIR, an R library. A proof of scale: nearly half of the test
labels have no training example. Expect P@1 36.4 % in six minutes on two cores.
"""

from ml_collections import ConfigDict

from srigl_jax.extreme import config as defaults


def get_config() -> ConfigDict:
    """One epoch, at positions that each label's examples choose at the start."""
    config = defaults.get_config()
    config.dataset.name = "genes"
    config.epochs = 1
    config.eval_examples = 200
    # The start goes through all features for each label; hashed, they are fewer.
    config.settings.width = 8192
    return config
