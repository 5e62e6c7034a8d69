"""Contenders in another Python environment, fed over pipes by this one."""

import array
import os
import pickle
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bursts import FOREIGN_PAUSE, Contender
from condensed_problems import Problem

from srigl_jax.condensed import Condensed

GATHER_LIMIT = 2**25
"""The most numbers in the [batch, neurons, k] temporary of the gather form."""


class Engine:
    """A child process with PyTorch or DeepSparse, for as long as it is needed."""

    def __init__(self, name: str, python: str, threads: int):
        """Starts it.

        Args:
          name: "torch" or "deepsparse".
          python: that has it.
          threads: for it to use.

        Raises:
          RuntimeError: it does not start there; says why.
        """
        server = Path(__file__).with_name("foreign_server.py")
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        # Of this process' environment, the paths of its packages are not theirs.
        environment.pop("PYTHONPATH", None)
        try:
            self._process = subprocess.Popen(
                [python, "-W", "ignore", server, name, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise RuntimeError(f"{python} does not start: {error.strerror}") from error
        self.version = self._read()["version"]

    def prepare(self, problem: dict[str, Any]) -> dict[str, Contender]:
        """The contenders for a problem, as from `describe`.

        Raises:
          RuntimeError: what the engine says.
        """
        names = self._ask(do="prepare", problem=problem)["names"]
        return {
            name: Contender(
                partial(self._burst, name),
                partial(self._result, name),
                # As in the paper, it computes the active neurons alone.
                is_narrowed="gather" in name,
                pause=FOREIGN_PAUSE,
            )
            for name in names
        }

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _burst(self, name: str, calls: int) -> list[float]:
        return self._ask(do="burst", name=name, calls=calls)["seconds"]

    def _result(self, name: str) -> np.ndarray:
        reply = self._ask(do="result", name=name)
        return np.frombuffer(reply["data"], np.float32).reshape(reply["shape"])

    def _ask(self, **request) -> dict[str, Any]:
        try:
            pickle.dump(request, self._process.stdin, protocol=4)
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError("its process has ended") from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        try:
            reply = pickle.load(self._process.stdout)
        except EOFError as error:
            raise RuntimeError("its process has ended") from error
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply


def describe(
    problem: Problem, condensed: Condensed, onnx: str | None, is_compiled: bool
) -> dict[str, Any]:
    """A problem as plain bytes.

    Args:
      problem: a layer's.
      condensed: the same layer.
      onnx: path of the same layer, or None.
      is_compiled: whether to run `torch.compile`, which takes long, on the gather form.
    """
    shape = problem.point.shape
    x = problem.x
    onnx_x = x.transpose(0, 3, 1, 2) if shape.image else x
    return {
        "x": sent(x),
        "kernel": sent(problem.kernel),
        "values": sent(np.asarray(condensed.values)),
        "indices": sent(np.asarray(condensed.indices, np.int64)),
        "image": shape.image,
        "stride": shape.stride,
        "padding": shape.padding,
        "onnx": onnx,
        "onnx_x": sent(onnx_x),
        "compile": is_compiled,
        "gather_limit": GATHER_LIMIT,
    }


def describe_network(x: np.ndarray, onnx: str) -> dict[str, Any]:
    """A network, as an ONNX file, and its input as plain bytes."""
    return {"network": True, "image": (), "onnx": onnx, "onnx_x": sent(x)}


def sent(values: np.ndarray) -> dict[str, Any]:
    """An array as plain bytes, shape, and type code of `array`."""
    values = np.ascontiguousarray(values)
    code = {"float32": "f", "int32": "i", "int64": "l", "uint8": "B"}[values.dtype.name]
    assert array.array(code).itemsize == values.itemsize
    return {"data": values.tobytes(), "shape": values.shape, "dtype": code}
