"""Interleaved bursts of calls, and the limits of the machine they are held against."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LEAST_CALLS, MOST_CALLS = 3, 12
BURST_SECONDS = 0.003
"""A burst has as many calls as go into that time, between these bounds."""

WARM_UP = 3
"""One call in so many, from the first one on, does not count: it meets the caches and
the sleeping threads that another contender has left."""

LOCAL_PAUSE, FOREIGN_PAUSE = 0.001, 0.01
"""Seconds after a burst; threads of OpenMP, which PyTorch uses, go on spinning."""

SLOW_SECONDS, SLOW_TIMES, SLOW_ROUNDS = 0.02, 20, 4
"""A contender whose call takes that long, and as many times as long as the fastest
one's, is left out after so many rounds."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to compute a problem.

    Attributes:
      burst: `calls -> seconds of each`.
      result: what it computes, f32, [batch, neurons], NHWC, or logits.
      weights_bytes: of its form of the weights.
      is_narrowed: whether its result lacks the ablated neurons.
      pause: seconds to wait after a burst, for its threads to fall asleep.
      form: the contender whose form it has taken, if it chooses among some.
    """

    burst: Callable[[int], list[float]]
    result: Callable[[], np.ndarray]
    weights_bytes: int = 0
    is_narrowed: bool = False
    pause: float = LOCAL_PAUSE
    form: str = ""


def local(
    call: Callable[[], Any],
    to_rows: Callable[[np.ndarray], np.ndarray] = np.asarray,
    weights: Any = (),
    is_narrowed: bool = False,
) -> Contender:
    """A contender of this process.

    Args:
      call: computes once; its arrays are waited for.
      to_rows: brings what it returns into the shape of `Contender.result`.
      weights: a pytree of what it reads beside the input.
      is_narrowed: as in `Contender`.
    """

    def burst(calls):
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
        return seconds

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    return Contender(burst, lambda: to_rows(np.asarray(call())), size, is_narrowed)


def rounds(
    contenders: Mapping[str, Contender], seconds: float, least: int = 5, most: int = 40
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Bursts of all contenders in turns, so that all meet the same weather.

    Args:
      contenders: by name, each called before, so that all is compiled.
      seconds: after which no round begins.
      least: rounds whatever the time.
      most: rounds.

    Returns:
      `{name: f64[rounds, calls that count]}` in seconds, and why others failed by
      name.
    """
    calls: dict[str, int] = {}
    samples: dict[str, list[list[float]]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    slow: set[str] = set()
    fastest = np.inf
    deadline = time.perf_counter() + seconds
    for count in range(most):
        if count >= least and time.perf_counter() > deadline:
            break
        for name, contender in contenders.items():
            if name in failed or (name in slow and count >= SLOW_ROUNDS):
                continue
            try:
                if name not in calls:
                    calls[name] = _calls(min(contender.burst(LEAST_CALLS)))
                times = contender.burst(calls[name])
            except Exception as error:  # Another library's: the others go on.
                failed[name] = one_line(error)
                continue
            time.sleep(contender.pause)
            samples[name].append(times[-(-len(times) // WARM_UP) :])
            fastest = min(fastest, times[-1])
            if times[-1] > max(SLOW_SECONDS, SLOW_TIMES * fastest):
                slow.add(name)
    found = {name: np.array(s) for name, s in samples.items() if name not in failed}
    return found, failed


def _calls(seconds: float) -> int:
    """How many calls of so many seconds a burst has."""
    return int(np.clip(BURST_SECONDS / max(seconds, 1e-9), LEAST_CALLS, MOST_CALLS))


def ratio(times: np.ndarray, others: np.ndarray) -> float:
    """How many times faster `times` are than `others`: f64[rounds, calls] each.

    The median of each round's ratio of medians: its bursts are neighbours in time.
    """
    count = min(len(times), len(others))
    medians = [np.median(t[:count], axis=1) for t in (times, others)]
    return float(np.median(medians[1] / medians[0]))


def one_line(error: Exception) -> str:
    """An error as a line of a table."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]


def read_bandwidth(size: int, threads: int, seconds: float = 0.05) -> float:
    """Bytes a second that NumPy reads: the best of tries, a piece for each thread.

    Args:
      size: bytes of all pieces, which are read again and again: what fits the caches
        is read from there.
      threads: that read.
      seconds: for each of five tries.
    """
    pieces = [np.ones(max(1, size // 4 // threads), np.float32) for _ in range(threads)]

    def read(piece, times):
        for _ in range(times):
            piece.max()

    start = time.perf_counter()
    read(pieces[0], 2)
    times = max(1, int(2 * seconds / (time.perf_counter() - start)))
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(read, pieces, [times] * threads))
            elapsed = time.perf_counter() - start
            best = max(best, times * sum(p.nbytes for p in pieces) / elapsed)
    return best


def peak_flops(side: int = 2048, tries: int = 8) -> float:
    """FLOPs a second of XLA's product of two square float32 matrices, the best try.

    A stand-in for the peak of the machine, which it comes near to.
    """
    a = jnp.ones((side, side))
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(a, a))
    times = local(lambda: multiply(a, a)).burst(tries)
    return 2 * side**3 / min(times)
