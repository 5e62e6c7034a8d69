"""Settings of the whole test run."""

import os
import pathlib
import tempfile

# Eight devices in every process, so that a test can shard without starting another.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax

# Programs compiled by one test are found by the next, and by the next run.
_CACHE = pathlib.Path(tempfile.gettempdir()) / "srigl_jax_test_compilations"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
