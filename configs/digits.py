"""SRigL at 90 % on scikit-learn's digits: the first run, nothing to download.

    python -m srigl_jax.train --config configs/digits.py --workdir runs/digits

FIXME
"""

from srigl_jax.config import get_config

__all__ = ["get_config"]
