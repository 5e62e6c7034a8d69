"""Settings of the whole test run."""

import os
import pathlib
import tempfile

import jaxlib

# Eight devices in every process, so that a test can shard without starting another.
# Tests run few steps of many programs: compiling them costs more than running them.
# The flags change how code is generated, never what a program means.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
# Loops straight to LLVM, not through MLIR: a third to a half less time to compile. XLA
# ends a process that gives it a flag which it does not know, as later ones may not.
if jaxlib.version.__version_info__ < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

import jax  # noqa: E402  It reads XLA_FLAGS once.
import pytest  # noqa: E402

# Programs compiled by one test are found by the next, by the other worker, by the
# processes that tests start, and by the next run: to load one takes half as long as to
# compile it, however small it is.
# Each user has a directory: one cannot write to, nor should trust, that of another.
_USER = os.getuid() if hasattr(os, "getuid") else 0
_CACHE = pathlib.Path(tempfile.gettempdir()) / f"srigl_jax_test_compilations_{_USER}"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the runs of a module keep their prepared data."""
    return tmp_path_factory.mktemp("data")
