"""The Gene Ontology's 19,624 labels: the direct parents of a term, by its definition.

    python -m srigl_jax.train --config configs/extreme_go.py --workdir runs/go
    python -m srigl_jax.predict --model runs/go --text "binding of a metal ion"

It reads the SQLite file of Debian's package r-bioc-go.db, or of
--config.dataset.source_dir=DIR, an R library. The quick one: expect P@1 37.8 % on the
test split in half a minute.
"""

from ml_collections import ConfigDict

from srigl_jax.extreme import config as defaults


def get_config() -> ConfigDict:
    """WordNet's settings."""
    config = defaults.get_config()
    config.dataset.name = "go"
    config.epochs = 1
    return config
