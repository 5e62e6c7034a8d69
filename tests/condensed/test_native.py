import dataclasses
import logging
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from layers import random_layer

from srigl_jax.condensed import native
from srigl_jax.condensed.matmul import condensed_matmul
from srigl_jax.condensed.representation import condense
from srigl_jax.condensed.windows import arrange, windows_matmul

needs_kernels = pytest.mark.skipif(
    not native.available(), reason="the C++ kernels are not built"
)
SOURCES = Path(__file__).parents[2] / "srigl_jax/condensed/csrc"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_the_kernels_are_built_where_there_is_a_compiler():
    """Else all tests of them would be skipped without a word."""
    native.require()


@needs_kernels
@pytest.mark.parametrize("batch", [1, 3, 20, 40, 65])
def test_every_instruction_set_of_this_machine(rng, batch):
    best = native.instructions()
    sets = {"plain": ["plain"], "avx2": ["plain", "avx2"]}
    c, dense, bias = random_layer(rng, 200, 50, 33, ablated=4)
    x = rng.normal(size=(batch, 200)).astype(np.float32)
    for name in sets.get(best, ["plain", "avx2", "avx512"]):
        arrays = c.values, c.indices, c.active, c.bias
        y = native.product(c.layout, x, *arrays, instructions=name)
        np.testing.assert_allclose(y, x @ dense + bias, rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("m", [16, 32])
def test_n_of_m_masks(rng, m):
    """Blocks as wide as the vectors and the windows, which all lanes share."""
    fan_in, neurons, n = 4 * m, 40, m // 8
    ranks = rng.random((4, m, neurons)).argsort(1).argsort(1)
    mask = (ranks < n).reshape(fan_in, neurons)
    kernel = rng.normal(size=(fan_in, neurons)).astype(np.float32)
    c = condense(kernel, mask)
    for batch in (1, 3, 33):
        x = rng.normal(size=(batch, fan_in)).astype(np.float32)
        for y in (condensed_matmul(x, c, "native"), windows_matmul(x, arrange(c))):
            np.testing.assert_allclose(y, x @ (kernel * mask), rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("indices", 200, "not below the fan-in, 200"),
        ("indices", 2**16 - 1, "not below the fan-in, 200"),
        ("active", 50, "active must ascend"),
        ("active", -1, "active must ascend"),
    ],
)
def test_a_bad_index_is_an_error(rng, batch, field, value, message):
    c, _, _ = random_layer(rng, 200, 50, 33)
    array = np.array(getattr(c, field))
    array.flat[-1] = value
    bad = dataclasses.replace(c, **{field: array})
    x = np.zeros((batch, 200), np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        condensed_matmul(x, bad, "native").block_until_ready()


@needs_kernels
def test_a_negative_32_bit_index_is_an_error(rng):
    c, _, _ = random_layer(rng, 200, 50, 33)
    indices = np.array(c.indices, np.int32)
    indices[7, 7] = -1
    bad = dataclasses.replace(c, indices=indices)
    with pytest.raises(jax.errors.JaxRuntimeError, match="not below the fan-in"):
        condensed_matmul(np.zeros((5, 200), np.float32), bad, "native")


@needs_kernels
def test_many_calls_at_once(rng):
    """Each on all threads, while the others hold them."""
    c, dense, bias = random_layer(rng, 512, 256, 51)
    x = rng.normal(size=(16, 40, 512)).astype(np.float32)
    f = jax.jit(lambda x: condensed_matmul(x, c, "native"))
    for y, xi in zip([f(xi) for xi in x], x, strict=True):
        np.testing.assert_allclose(y, xi @ dense + bias, rtol=1e-4, atol=1e-4)


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: (None, "the kernels were not built"))
    native.mention_absence.cache_clear()
    yield
    native.mention_absence.cache_clear()


def test_without_kernels_auto_runs_and_says_so_once(rng, without_kernels, caplog):
    c, dense, bias = random_layer(rng, 20, 10, 3)
    x = rng.normal(size=(2, 20)).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            y = condensed_matmul(x, c)
    np.testing.assert_allclose(y, x @ dense + bias, rtol=1e-4, atol=1e-4)
    (record,) = caplog.records
    assert "install g++ 12" in record.getMessage()


def test_without_kernels_asking_for_them_says_what_to_do(rng, without_kernels):
    c, _, _ = random_layer(rng, 20, 10, 3)
    with pytest.raises(RuntimeError, match="not built: install g\\+\\+ 12"):
        condensed_matmul(np.zeros((2, 20), np.float32), c, "native")


def _processor_flags():
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.exists() else ""


FLAGS = {
    "plain": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [
        *("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
        "-mprefer-vector-width=512",
    ],
}


def sanitizers(names):
    return f"-fsanitize={names}", "-fno-sanitize-recover=all"


def fuzz(tmp_path, width, instructions, *flags, compiler="g++", runner=()):
    """Compiles the kernels with some flags and runs them on random problems."""
    for program in (compiler, *runner[:1]):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if instructions != "plain" and instructions not in _processor_flags():
        pytest.skip(f"this machine has no {instructions}")
    binary = tmp_path / "fuzz"
    sources = [Path(__file__).parent / "fuzz_kernels.cc"]
    sources += [SOURCES / f"{name}.cc" for name in ("run", "arrange")]
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-O1", "-g", "-pthread"),
            *(f"-DFUZZ_WIDTH={width}", *FLAGS[instructions], *flags),
            *(f"-I{SOURCES}", *map(str, sources), "-o", str(binary)),
        ],
        check=True,
    )
    command = [*runner, binary, "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 problems" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "instructions"),
    [(4, "plain"), (8, "avx2"), (16, "avx2"), (16, "avx512")],
)
def test_sanitizers_find_nothing(tmp_path, width, instructions):
    """Random shapes, empty ones and bad indices, under ASan and UBSan.

    Vectors of 16 floats are also emulated with narrower ones, so that most of the code
    for AVX-512 is run on machines without it.
    """
    fuzz(tmp_path, width, instructions, *sanitizers("address,undefined"))


@pytest.mark.slow
def test_threads_do_not_race(tmp_path):
    """The same, the tasks of each call shared by real threads, under TSan."""
    fuzz(tmp_path, 8, "plain", *sanitizers("thread"))


@pytest.mark.slow
def test_kernels_for_arm_compute_the_same(tmp_path):
    """Where there is a cross compiler and an emulator."""
    fuzz(
        *(tmp_path, 4, "plain", "-static"),
        compiler="aarch64-linux-gnu-g++",
        runner=("qemu-aarch64-static",),
    )
