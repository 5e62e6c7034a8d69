"""WordNet's 113,595 labels, 64 weights each: the synsets that a gloss points to.

    python -m srigl_jax.train --config configs/extreme_wordnet.py --workdir runs/wordnet
    python -m srigl_jax.predict --model runs/wordnet --text "a small dog of the terrier"

Expect P@1 27.9 % on 1,000 of the test glosses after one epoch, of which nearly all is
there at the start (20 nearest neighbours: 29.8 %). It reads the files of Debian's
package wordnet-base, or of --config.dataset.source_dir=DIR.
"""

from ml_collections import ConfigDict

from srigl_jax.extreme import config as defaults


def get_config() -> ConfigDict:
    """One epoch, and one topology: that of the gradient at the start."""
    config = defaults.get_config()
    config.epochs = 1
    config.settings.delta_t = 100_000
    return config
