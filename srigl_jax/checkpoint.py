"""Checkpoints that survive a kill at any moment and notice flipped bits.

What is promised:

- A step is on the disk whole or not at all: orbax writes it aside and renames it, so a
  kill at any moment leaves the steps that were complete before.
- What is restored is, bit for bit, what was saved. Orbax does not notice flipped bits,
  so every step carries a manifest with a SHA-256 of each leaf. A step that fails it is
  named with its leaves, skipped for the one before, and never deleted.
- Leaves are known by their path names alone, so a checkpoint does not depend on the
  classes of optimizer states, nor on the devices that wrote it.

Several processes read and write a run together, in a directory that all of them see:
each calls the same methods in the same order. Each writes its own part of what is
spread over them, but holds every leaf whole for a moment, to hash it, and reads all.
"""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from srigl_jax.distributed import LostProcessError
from srigl_jax.manifest import digest, json_digest
from srigl_jax.sharding import gathered, place

_log = logging.getLogger(__name__)


class _CorruptStepError(Exception):
    """The files of one step are not those that were saved."""


class Checkpoints:
    """The newest steps of one run, in a directory `<step>/` each.

    Use as a context manager: leaving it waits for the save under way. Reading alone
    changes nothing on the disk, so another process may read the steps of a live run.

    Example::

        with Checkpoints(workdir / "checkpoints") as checkpoints:
            step, state = checkpoints.restore_latest(state) or (0, state)
            ...
            checkpoints.save(step, state)
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3) -> None:
        """Names the directory; it is made by the first save.

        Args:
          directory: where the steps live; nothing else should.
          keep: how many of the newest steps stay on the disk, at least 1.
        """
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1 checkpoint has to be kept")
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._writer: ocp.training.Checkpointer | None = None
        self._corrupt: set[int] = set()
        registry = ocp.handlers.local_registry()
        registry.add(ocp.handlers.JsonHandler, checkpointable_name="manifest")
        self._context = ocp.Context()
        self._context.checkpointables.registry = registry

    def __enter__(self) -> Checkpoints:
        """Silences orbax's chatter below WARNING for the time of the context."""
        logging.getLogger("absl").addFilter(_is_not_orbax_chatter)
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the save under way; raises what went wrong in it."""
        try:
            # A save that needs a process which is gone never ends.
            lost = isinstance(exception[1], LostProcessError)
            if self._writer is not None and not lost:
                self._writer.close()
        finally:
            logging.getLogger("absl").removeFilter(_is_not_orbax_chatter)

    def steps(self) -> list[int]:
        """The steps on the disk, ascending, once the save under way has ended."""
        self._wait()
        if not self._directory.exists():
            return []
        names = (p.name for p in self._directory.iterdir() if p.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, step: int, state: Any) -> None:
        """Saves `state` as `step`, in the background once it is copied and hashed.

        A save under way is waited for first, and its failure raised here, so that a
        kill loses at most the step handed over last. Saving again what a step already
        holds does nothing; other content replaces it. Steps that `restore_latest`
        found corrupt are moved aside to `<step>.corrupt`.

        Args:
          step: the step number, >= 0.
          state: pytree of arrays and of Python or numpy numbers, of any dtype but
            typed PRNG keys, zero-size arrays included. It may be donated afterwards.
        """
        arrays = _snapshot(state)
        manifest = _manifest(arrays)
        self._wait()
        for corrupt in sorted(self._corrupt):
            self._set_aside(corrupt)
        self._corrupt.clear()
        exists = _as_the_first_process(step in self.steps())
        if exists and self._holds(step, manifest):
            return
        # Orbax refuses zero-size arrays; the manifest says all there is to say of them.
        stored = {name: array for name, array in arrays.items() if array.size}
        self._open_writer().save_checkpointables_async(
            step,
            {"state": stored, "manifest": manifest},
            force=True,
            overwrite=_as_the_first_process(step in self.steps()),
        )

    def restore_latest(self, like: Any) -> tuple[int, Any] | None:
        """Reads the newest step that is intact.

        Args:
          like: pytree of the structure saved, of arrays, `jax.ShapeDtypeStruct`s and
            numbers. Each leaf comes back as its counterpart here: same shape and
            dtype; on the same sharding where `like` commits to one; numpy as numpy, a
            Python number as a Python number.

        Returns:
          `(step, state)`, or None if there are no steps.

        Raises:
          ValueError: the step has other leaves than `like` (they are named), or every
            step is corrupt.
        """
        failures = {}
        steps = self.steps()
        if _as_the_first_process(steps[-1] if steps else -1) != ([-1] + steps)[-1]:
            raise ValueError(
                f"process {jax.process_index()} sees the checkpoints {steps} in "
                f"{self._directory}, and the first process others: give a --workdir on "
                "a file system that all processes share"
            )
        for step in reversed(steps):
            try:
                return step, self._load(step, like)
            except _CorruptStepError as error:
                self._corrupt.add(step)
                failures[step] = str(error)
                _log.warning(
                    "Checkpoint %s is corrupt and is skipped: %s",
                    self._directory / str(step),
                    error,
                )
        if not failures:
            return None
        listing = "".join(f"\n  step {step}: {why}" for step, why in failures.items())
        raise ValueError(
            f"every checkpoint in {self._directory} is corrupt:{listing}\n"
            "Put back an intact copy of one of them, or move the directory away to"
            " start from step 0."
        )

    def _open_writer(self) -> ocp.training.Checkpointer:
        # Opened late: the writer deletes what a killed save left half-written, which
        # a mere reader of a live run must not do.
        if self._writer is None:
            self._writer = ocp.training.Checkpointer(
                self._directory,
                context=self._context,
                preservation_policy=ocp.training.preservation_policies.LatestN(
                    self._keep
                ),
                cleanup_tmp_directories=True,
            )
        return self._writer

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            path = self._directory / str(step)
            names = (f"{step}.corrupt{n or ''}" for n in itertools.count())
            path.rename(next(p for p in map(path.with_name, names) if not p.exists()))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set step {step} aside")
        if self._writer is not None:
            self._writer.reload()

    def _holds(self, step: int, manifest: dict[str, Any]) -> bool:
        try:
            return self._read_manifest(step) == manifest
        except _CorruptStepError:
            self._set_aside(step)
            return False

    def _load(self, step: int, like: Any) -> Any:
        leaves = _named(like)
        manifest = self._read_manifest(step)
        _check_structure(manifest["leaves"], leaves, self._directory / str(step))
        blank = {name: np.empty(*_shape_and_dtype(x)) for name, x in leaves.items()}
        stored = {name: array for name, array in blank.items() if array.size}
        arrays = blank | self._read(step, "state", stored)
        found = _manifest(arrays)["leaves"]
        bad = [name for name in leaves if found[name] != manifest["leaves"][name]]
        if bad:
            raise _CorruptStepError(f"changed since it was saved: {', '.join(bad)}")
        restored = [_place(arrays[name], x) for name, x in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(like), restored)

    def _read_manifest(self, step: int) -> dict[str, Any]:
        manifest = self._read(step, "manifest", None)
        try:
            if manifest["sha256"] == json_digest(manifest["leaves"]):
                return manifest
        except (KeyError, TypeError):
            pass
        raise _CorruptStepError("its manifest changed since it was saved")

    def _read(self, step: int, item: str, like: Any) -> Any:
        try:
            with self._context:
                path = self._directory / str(step)
                return ocp.load_checkpointables(path, {item: like})[item]
        except Exception as error:
            # Flipped bits surface as errors of every type; orbax wraps them in one that
            # speaks of incompatible handlers.
            reason = str(error.__cause__ or error).partition("\n")[0][:300]
            raise _CorruptStepError(f"its {item} cannot be read: {reason}") from error


def _is_not_orbax_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname


def _named(tree: Any) -> dict[str, Any]:
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two leaves of the state are named {name!r}: rename one")
        named[name] = leaf
    return named


def _as_the_first_process(value: int) -> int:
    """What the first process passes in; a value of its own where there is one."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _snapshot(state: Any) -> dict[str, np.ndarray | jax.Array]:
    """The leaves by name, as they are now: what several processes share as a copy."""

    def copy(leaf):
        is_shared = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return jnp.copy(leaf) if is_shared else np.asarray(leaf)

    return {name: copy(leaf) for name, leaf in _named(state).items()}


def _shape_and_dtype(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return leaf.shape, leaf.dtype


def _manifest(arrays: dict[str, np.ndarray | jax.Array]) -> dict[str, Any]:
    leaves = {
        name: {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "sha256": _digest(gathered(array)),
        }
        for name, array in arrays.items()
    }
    return {"leaves": leaves, "sha256": json_digest(leaves)}


def _digest(array: np.ndarray) -> str:
    # SHA-256 in hardware reads 1.5 GB/s, BLAKE2b 0.7: measured on one CPU core.
    return digest(array.reshape(-1).view(np.uint8))


def _check_structure(
    saved: dict[str, Any], leaves: dict[str, Any], where: Path
) -> None:
    problems = [f"{name}: saved, but not asked for" for name in saved.keys() - leaves]
    for name, leaf in leaves.items():
        shape, dtype = _shape_and_dtype(leaf)
        asked = f"{dtype.name}{list(shape)}"
        if name not in saved:
            problems.append(f"{name}: asked for, but not saved")
        elif asked != (found := "{dtype}{shape}".format_map(saved[name])):
            problems.append(f"{name}: saved as {found}, asked for as {asked}")
    if problems:
        raise ValueError(
            f"checkpoint {where} holds another state than the one asked for:\n  "
            + "\n  ".join(sorted(problems))
            + "\nUse the settings it was saved with, or another workdir."
        )


def _place(array: np.ndarray, like: Any) -> Any:
    match like:
        case np.ndarray():
            return array
        case np.generic():
            return array[()]
        case bool() | int() | float() | complex():
            return array.item()
        case jax.Array() if not like.committed:
            # Committing it would forbid its use beside arrays on other devices.
            return jax.device_put(array)
    return place(array, like.sharding)
