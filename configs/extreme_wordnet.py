"""WordNet's 113,595 labels, 64 weights each: the synsets that a gloss points to.

    python -m srigl_jax.train --config configs/extreme_wordnet.py --workdir runs/wordnet
    python -m srigl_jax.predict --model runs/wordnet --text "a small dog of the terrier"

It reads the files of Debian's package wordnet-base, or of
--config.dataset.source_dir=DIR.
"""

from srigl_jax.extreme.config import get_config

__all__ = ["get_config"]
