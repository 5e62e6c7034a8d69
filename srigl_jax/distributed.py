"""One run on several processes, by JAX's own distributed runtime.

Every process runs the same program. The first one speaks for all: what the others
would write to the workdir, checkpoints apart, goes to a folder that is thrown away.
They start together or not at all, stop after the same step, and end when one is lost.

With one process everything here does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

_LAG = 2  # Steps after which a signal is acted on, so that none waits for an answer.

# What JAX, XLA's collectives and orbax say when they cannot reach a process.
_LOST = re.compile(
    r"gloo|nccl|rccl|coordination ?service|heartbeat|barrier|socket closed|"
    r"connection (closed|reset|refused)|UNAVAILABLE|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)


_RESUME = (
    "The same command, on any number of processes and devices, resumes from the last "
    "checkpoint"
)
_WATCH = """
import sys
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr)
"""


class LostProcessError(RuntimeError):
    """Another process of the run has died, or failed."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Joins the processes of a run; to be called before any use of a device.

    On TPU, Slurm and Open MPI all arguments are found by themselves.

    Args:
      coordinator: "host:port" of the process with id 0, the same in all.
      num_processes: how many there are.
      process_id: of this one, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: the processes were not found, or did not find each other in time.
    """
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator is {coordinator!r}: give HOST:PORT")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=timeout
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: {_first_line(error)} Give --coordinator=HOST:PORT "
            "--num_processes=N --process_id=I, the same HOST:PORT, free on the host of "
            "process 0, in all, unless TPU, Slurm or Open MPI start the processes"
        ) from error
    # JAX has caught SIGTERM for a service of its own; see `SharedStop` for ours.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    LastWords.prepare()


class LastWords:
    """What is said of a process that can no longer speak, by another that outlives it.

    Where a collective does not notice that a process is lost, during a save or with the
    coordinator, JAX ends the others from a thread of its own, in many words and with no
    way to be asked first.
    """

    _watcher: subprocess.Popen | None = None

    @classmethod
    def prepare(cls) -> None:
        """Starts the other process, which waits for the end of this one."""
        text = "error: this process was killed, or ended by JAX once another was gone. "
        cls._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, text + _RESUME],
            stdin=subprocess.PIPE,
            start_new_session=True,  # So that Ctrl-C does not reach it.
        )
        atexit.register(cls.spare)

    @classmethod
    def spare(cls) -> None:
        """Has nothing said: this process ends by itself, and has said why."""
        if cls._watcher is not None:
            cls._watcher.communicate(b"left")
            cls._watcher = None


@contextlib.contextmanager
def one_voice(workdir: Path) -> Iterator[Path]:
    """Gives the folder to write to, and silences all processes but the first.

    Args:
      workdir: of the run.
    """
    if jax.process_index() == 0:
        yield workdir
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        yield Path(folder)


def check_alone(what: str) -> None:
    """Raises ValueError where several processes train, which `what` cannot."""
    if jax.process_count() > 1:
        raise ValueError(f"{what} trains in one process: leave out --distributed")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What fails in one process fails in all of them.

    Raises:
      LostProcessError: the block went well here, but not in another process.
    """
    error = None
    try:
        yield
    except Exception as failure:
        error = failure
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            raise LostProcessError(
                f"process {np.argmax(failed)} could not start; it says why"
            )
    if error is not None:
        raise error


@contextlib.contextmanager
def naming_the_lost() -> Iterator[None]:
    """Turns what JAX says of a process that it cannot reach into a clear error.

    Raises:
      LostProcessError: another process is gone.
    """
    try:
        yield
    except LostProcessError:
        raise
    except Exception as error:
        # Of many types: collectives fail with a ValueError, orbax with its own.
        reason = _loss(error)
        if jax.process_count() == 1 or reason is None:
            raise
        raise LostProcessError(
            f"another process of this run is gone ({_first_line(reason)}). {_RESUME}"
        ) from error


def leave(status: int | str) -> NoReturn:
    """Exits on an error as `sys.exit`, but waits for no process that may be gone."""
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        sys.exit(status)
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    LastWords.spare()
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        # JAX ends the others, in many words, once the first is gone: they first have
        # the time to say what happened to them.
        time.sleep(2)
    os._exit(status)


class SharedStop:
    """The signal that stops all processes after the same step."""

    def __init__(self, mesh: jax.sharding.Mesh | None) -> None:
        """Prepares the agreement.

        Args:
          mesh: of the devices of all processes; None for a single device.
        """
        self._mesh = mesh if jax.process_count() > 1 else None
        self._answers: deque[jax.Array] = deque()
        if self._mesh is not None:
            everywhere = NamedSharding(self._mesh, PartitionSpec())
            self._spread = NamedSharding(
                self._mesh, PartitionSpec(self._mesh.axis_names)
            )
            self._largest = jax.jit(lambda x: x.max(), out_shardings=everywhere)

    def agreed(self, received: signal.Signals | None) -> signal.Signals | None:
        """A signal that some process has received, told to all at the same call.

        Every process calls it once a step. With one process it is the one passed in.

        Args:
          received: the signal that this process has received, if any.
        """
        if self._mesh is None:
            return received
        own = np.full(jax.local_device_count(), received or 0, np.int32)
        self._answers.append(
            self._largest(jax.make_array_from_process_local_data(self._spread, own))
        )
        if len(self._answers) <= _LAG:
            return None
        number = int(self._answers.popleft())
        return signal.Signals(number) if number else None


def _loss(error: BaseException | None) -> BaseException | None:
    """What in a chain of errors speaks of a lost process."""
    while error is not None:
        if not isinstance(error, OSError) and _LOST.search(str(error)):
            return error
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
