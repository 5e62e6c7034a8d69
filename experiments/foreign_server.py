"""PyTorch or DeepSparse, timed in a process and a Python environment of their own.

    PYTHON experiments/foreign_server.py torch|deepsparse THREADS

Started by `foreign.py`. Takes pickled dicts on stdin and answers each on stdout.
Imports nothing but the standard library and the engine: NumPy may be absent.
"""

import ctypes
import os
import pickle
import sys
import time


class Torch:
    """A layer in PyTorch: dense, CSR, and gathered as in the paper."""

    def __init__(self, threads: int):
        """Imports PyTorch."""
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = str(torch.__version__)

    def prepare(self, problem: dict) -> dict:
        """Makes `{name: function}` of what `foreign.describe` sent."""
        if "network" in problem:
            return {}
        return self._conv(problem) if problem["image"] else self._linear(problem)

    def _tensor(self, sent: dict):
        data, shape, dtype = sent["data"], sent["shape"], sent["dtype"]
        torch = self.torch
        dtype = {"f": torch.float32, "i": torch.int32, "l": torch.int64}[dtype]
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)

    def _linear(self, problem):
        torch = self.torch
        x = self._tensor(problem["x"])
        weight = self._tensor(problem["kernel"]).T.contiguous()
        csr = weight.to_sparse_csr()
        # Already transposed, in favour of CSR; a single one as a vector.
        x_t = x[0] if len(x) == 1 else x.T.contiguous()
        values, indices = map(self._tensor, (problem["values"], problem["indices"]))

        def gather(x, indices, values):
            return (x[:, indices] * values).sum(-1)

        made = {
            "PyTorch dense": lambda: torch.nn.functional.linear(x, weight),
            "PyTorch CSR": lambda: csr @ x_t,
        }
        if len(x) * values.numel() <= problem["gather_limit"]:
            made["PyTorch gather"] = lambda: gather(x, indices, values)
            if problem["compile"]:
                compiled = torch.compile(gather)
                made["PyTorch gather, compiled"] = lambda: compiled(x, indices, values)
        return made

    def _conv(self, problem):
        torch = self.torch
        # NHWC in memory, which is the faster form here too.
        x = self._tensor(problem["x"]).permute(0, 3, 1, 2)
        weight = self._tensor(problem["kernel"]).permute(3, 2, 0, 1)
        weight = weight.contiguous(memory_format=torch.channels_last)
        padding = [before for before, _ in problem["padding"]]
        stride = problem["stride"]
        if any(before != after for before, after in problem["padding"]):
            # Which conv2d cannot do: padded beforehand, in its favour.
            (top, bottom), (left, right) = problem["padding"]
            x = torch.nn.functional.pad(x, (left, right, top, bottom))
            padding = [0, 0]
        return {
            "PyTorch dense": lambda: torch.nn.functional.conv2d(
                x, weight, stride=stride, padding=padding
            )
        }

    def to_bytes(self, name: str, y, problem: dict):
        """The bytes and shape of a result, [batch, neurons] or NHWC."""
        if name == "PyTorch CSR":
            y = y[None] if y.ndim == 1 else y.T
        if problem["image"]:
            y = y.permute(0, 2, 3, 1)
        y = y.contiguous()
        return ctypes.string_at(y.data_ptr(), 4 * y.numel()), tuple(y.shape)


class DeepSparse:
    """A layer or network, as an ONNX file, in DeepSparse."""

    def __init__(self, threads: int):
        """Imports DeepSparse."""
        import deepsparse
        import numpy

        self.deepsparse, self.numpy, self.threads = deepsparse, numpy, threads
        self.version = str(deepsparse.__version__)

    def prepare(self, problem: dict) -> dict:
        """Compiles the file; `{name: function}`."""
        sent = problem["onnx_x"]
        dtype = {"f": "float32", "B": "uint8"}[sent["dtype"]]
        x = self.numpy.frombuffer(sent["data"], dtype).reshape(sent["shape"])
        engine = self.deepsparse.compile_model(
            problem["onnx"], batch_size=len(x), num_cores=self.threads
        )
        return {"DeepSparse": lambda: engine.run([x])[0]}

    def to_bytes(self, name: str, y, problem: dict):
        """The bytes and shape of a result, [batch, neurons] or NHWC."""
        if problem["image"]:
            y = y.transpose(0, 2, 3, 1)
        return self.numpy.ascontiguousarray(y, "float32").tobytes(), y.shape


def answer(engine, state: dict, request: dict) -> dict:
    """Does what one request asks for."""
    if request["do"] == "prepare":
        state["problem"] = request["problem"]
        state["functions"] = engine.prepare(request["problem"])
        return {"names": list(state["functions"])}
    name, function = request["name"], state["functions"][request["name"]]
    if request["do"] == "result":
        data, shape = engine.to_bytes(name, function(), state["problem"])
        return {"data": data, "shape": shape}
    seconds = []
    for _ in range(request["calls"]):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def main() -> None:
    """Serves requests until stdin ends."""
    # Whatever the engine prints must not end up among the answers.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def reply(content):
        pickle.dump(content, replies, protocol=4)
        replies.flush()

    engines = {"torch": Torch, "deepsparse": DeepSparse}
    try:
        engine = engines[sys.argv[1]](int(sys.argv[2]))
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"version": engine.version})
    state: dict = {}
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply(answer(engine, state, request))
        except Exception as error:
            reply({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
