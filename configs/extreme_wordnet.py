"""WordNet's 113,595 labels, 64 words each: the synsets that a definition points to.

    python -m srigl_jax.train --config configs/extreme_wordnet.py --workdir runs/wordnet
    python -m srigl_jax.predict --model runs/wordnet --text "a small dog of the terrier"

Expect P@1 30.8 % on the test split after one epoch, of which nearly all is there at the
start (20 nearest neighbours: 29.3 %). Training takes about a minute of two cores, data
and scores some more. It reads the files of Debian's package wordnet-base, or of
--config.dataset.source_dir=DIR.
"""

from ml_collections import ConfigDict

from srigl_jax.extreme import config as defaults


def get_config() -> ConfigDict:
    """One epoch, at positions that each label's examples choose at the start."""
    config = defaults.get_config()
    config.epochs = 1
    return config
