"""Every way to compute a layer that the benchmark of condensed inference compares."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bursts import Contender, local, one_line
from condensed_problems import MASKS, Problem
from flax import nnx
from foreign import GATHER_LIMIT, Engine, describe
from jax.experimental import sparse

from srigl_jax.condensed import (
    ArrangedLinear,
    arrange,
    condense,
    condensed_conv,
    condensed_matmul,
    native,
    windows_matmul,
)
from srigl_jax.condensed.convert import condense_model

OURS = ("ours: xla", "ours: native", "ours: windows", "ours: auto", "ours: chosen")
"""Forms of a layer; "auto" is `condensed_matmul`'s, "chosen" what `condense_model`
makes of a network of this one layer, by timing its choices."""

CHOICES = ("XLA dense", "ours: xla", "ours: native", "ours: windows")
CHOICE_OF_FORM = {
    "dense": "XLA dense",
    "condensed": "ours: native" if native.available() else "ours: xla",
    "windows": "ours: windows",
}
"""Of the forms that `condense_model` chooses from."""

DENSE = ("XLA dense", "PyTorch dense")
CSR = ("scipy CSR", "JAX BCSR", "PyTorch CSR")
WINDOWS_BATCH = 8
"""The largest batch for which windows, which take examples one by one, are timed."""

TOLERANCE = 1e-3

Made = tuple[dict[str, Contender], dict[str, str]]
Builder = Callable[[], Contender]


def contenders(
    problem: Problem, threads: int, engines: Mapping[str, Engine], is_compiled: bool
) -> Made:
    """All that can run a problem and compute the right thing, called once.

    Args:
      problem: a layer's.
      threads: for ONNX Runtime.
      engines: PyTorch's and DeepSparse's.
      is_compiled: whether the paper's gather form also runs through `torch.compile`.

    Returns:
      Contenders by name, and why others are left out by name.
    """
    c = condense(problem.kernel, problem.mask)
    is_conv = problem.point.kind == "conv"
    builders = _convolutions(problem, c) if is_conv else _products(problem, c)
    builders["ONNX Runtime dense"] = lambda: _onnx_runtime(problem, threads)
    made: dict[str, Contender] = {}
    skipped: dict[str, str] = {}
    for name, build in builders.items():
        try:
            made[name] = build()
        except Exception as error:  # Absent or unable; the others go on.
            skipped[name] = one_line(error)
    with _onnx_file(problem, "deepsparse" in engines) as path:
        sent = describe(problem, c, path, is_compiled) if engines else {}
        for name, engine in engines.items():
            try:
                made |= engine.prepare(sent)
            except RuntimeError as error:
                skipped[name] = one_line(error)
    if len(problem.x) * c.values.size > GATHER_LIMIT and not is_conv:
        skipped["PyTorch gather"] = "its [batch, neurons, k] temporary is too large"
    return check(made, skipped, expected(problem), problem.active)


def expected(problem: Problem) -> np.ndarray:
    """The masked product: f32[batch, neurons] or NHWC."""
    if problem.point.kind == "conv":
        return np.asarray(_dense_conv(problem, problem.kernel)(problem.x))
    return problem.x @ problem.kernel


def check(
    made: dict[str, Contender],
    skipped: dict[str, str],
    right: np.ndarray,
    active: np.ndarray,
) -> Made:
    """Leaves out what computes something else.

    Args:
      made: contenders by name.
      skipped: why others are left out, by name.
      right: what all should compute, neurons last.
      active: which neurons a narrowed contender computes.

    Returns:
      As `contenders` does.
    """
    kept, skipped = {}, dict(skipped)
    for name, contender in made.items():
        wanted = right[..., active] if contender.is_narrowed else right
        try:
            got = contender.result()
        except Exception as error:
            skipped[name] = one_line(error)
            continue
        if got.shape == wanted.shape and np.allclose(got, wanted, TOLERANCE, TOLERANCE):
            kept[name] = contender
        else:
            skipped[name] = f"its result is wrong (shape {got.shape})"
    return kept, skipped


def _products(problem: Problem, c) -> dict[str, Builder]:
    x, kernel = jnp.asarray(problem.x), jnp.asarray(problem.kernel)
    x_t = np.ascontiguousarray(problem.x.T)

    def ours(implementation):
        call = jax.jit(lambda x: condensed_matmul(x, c, implementation))
        return local(lambda: call(x), weights=c)

    def dense(kernel, is_narrowed=False):
        call = jax.jit(lambda x: x @ kernel)
        return local(lambda: call(x), np.asarray, kernel, is_narrowed)

    def windows():
        w = arrange(c)
        call = jax.jit(lambda x: windows_matmul(x, w))
        return local(lambda: call(x), weights=w)

    def scipy_csr():
        import scipy.sparse

        csr = scipy.sparse.csr_matrix(problem.kernel.T)
        vector = x_t[:, 0] if len(x) == 1 else x_t
        return local(lambda: csr @ vector, lambda y: y.reshape(csr.shape[0], -1).T)

    def bcsr():
        matrix = sparse.BCSR.fromdense(kernel.T)
        # As an argument: XLA would take seconds to compute with it while compiling.
        call = jax.jit(lambda matrix, x_t: matrix @ x_t)
        inputs = jnp.asarray(x_t)
        return local(lambda: call(matrix, inputs), np.transpose)

    builders = {"XLA dense": lambda: dense(kernel)}
    if problem.point.mask == MASKS[1] or len(problem.active) < kernel.shape[1]:
        narrowed = kernel[:, problem.active]
        builders["XLA dense, narrowed"] = lambda: dense(narrowed, True)
    if len(x) <= WINDOWS_BATCH:
        builders["ours: windows"] = windows
    return builders | {
        "ours: xla": lambda: ours("xla"),
        "ours: native": lambda: ours("native"),
        "ours: auto": lambda: ours("auto"),
        "ours: chosen": lambda: _chosen(problem),
        "scipy CSR": scipy_csr,
        "JAX BCSR": bcsr,
    }


def _convolutions(problem: Problem, c) -> dict[str, Builder]:
    x, kernel = jnp.asarray(problem.x), jnp.asarray(problem.kernel)
    shape = problem.point.shape

    def ours(implementation):
        call = jax.jit(
            lambda x: condensed_conv(
                x,
                c,
                strides=shape.stride,
                padding=shape.padding,
                implementation=implementation,
            )
        )
        return local(lambda: call(x), weights=c)

    def dense(kernel, is_narrowed=False):
        call = _dense_conv(problem, kernel)
        return local(lambda: call(x), np.asarray, kernel, is_narrowed)

    builders = {"XLA dense": lambda: dense(kernel)}
    if len(problem.active) < shape.neurons:
        narrowed = kernel[..., problem.active]
        builders["XLA dense, narrowed"] = lambda: dense(narrowed, True)
    return builders | {
        "ours: xla": lambda: ours("xla"),
        "ours: native": lambda: ours("native"),
        "ours: auto": lambda: ours("auto"),
        "ours: chosen": lambda: _chosen(problem),
    }


class _Alone(nnx.Module):
    """A network of one layer."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


def _chosen(problem: Problem) -> Contender:
    shape = problem.point.shape
    *_, inputs, neurons = shape.kernel
    options = {"use_bias": False, "rngs": nnx.Rngs(0)}
    if problem.point.kind == "conv":
        options |= {"strides": shape.stride, "padding": shape.padding}
        layer = nnx.Conv(inputs, neurons, kernel_size=shape.kernel[:2], **options)
    else:
        layer = nnx.Linear(inputs, neurons, **options)
    layer.kernel[...] = jnp.asarray(problem.kernel)
    conversion = condense_model(
        _Alone(layer),
        {"layer": {"kernel": problem.mask}},
        batch_size=len(problem.x),
        autotune=True,
        example_shape=problem.x.shape[1:],
    )
    converted = conversion.model
    call = jax.jit(lambda x: converted(x))
    x = jnp.asarray(problem.x)
    made = local(lambda: call(x))
    return dataclasses.replace(
        made,
        weights_bytes=size_read(converted, len(x)),
        form=CHOICE_OF_FORM[conversion.layers[0].form],
    )


def size_read(model: nnx.Module, batch: int) -> int:
    """Bytes of a network's variables that one call on so many examples reads."""
    return sum(_own_size_read(module, batch) for _, module in nnx.iter_graph(model))


def _own_size_read(module: Any, batch: int) -> int:
    if not isinstance(module, nnx.Module):
        return 0
    variables = vars(module)
    if isinstance(module, ArrangedLinear) and module.windows is not None:
        # It holds the weights twice and reads one form.
        form = "windows" if batch <= module.examples else "condensed"
        variables = {form: variables[form]}
    arrays = [v.get_value() for v in variables.values() if isinstance(v, nnx.Variable)]
    return sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))


def _dense_conv(problem: Problem, kernel) -> Callable[[jax.Array], jax.Array]:
    shape = problem.point.shape
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.jit(
        lambda x: jax.lax.conv_general_dilated(
            x, kernel, (shape.stride,) * 2, shape.padding, dimension_numbers=dimensions
        )
    )


def _onnx_runtime(problem: Problem, threads: int) -> Contender:
    is_conv = problem.point.kind == "conv"
    x = problem.x.transpose(0, 3, 1, 2) if is_conv else problem.x
    session = onnx_session(layer_onnx(problem), threads)
    x = np.ascontiguousarray(x)

    def to_rows(y):
        return y.transpose(0, 2, 3, 1) if is_conv else y

    return local(lambda: session.run(None, {"x": x})[0], to_rows)


def onnx_session(model: bytes, threads: int) -> Any:
    """An ONNX model in ONNX Runtime on so many threads.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )


def layer_onnx(problem: Problem) -> bytes:
    """A layer as an ONNX model with zeros for the weights that do not exist.

    Convolutions are NCHW, the only form there is.

    Raises:
      ModuleNotFoundError: onnx is not installed.
    """
    import onnx
    from onnx import helper, numpy_helper

    shape = problem.point.shape
    kernel, x = problem.kernel, problem.x
    attributes: dict[str, Any] = {}
    if problem.point.kind == "conv":
        kernel, x = kernel.transpose(3, 2, 0, 1), x.transpose(0, 3, 1, 2)
        (top, bottom), (left, right) = shape.padding
        attributes = {
            "kernel_shape": shape.kernel[:2],
            "pads": [top, left, bottom, right],
            "strides": [shape.stride] * 2,
        }
    weights = numpy_helper.from_array(np.ascontiguousarray(kernel), "w")
    operation = "Conv" if attributes else "MatMul"
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operation, ["x", "w"], ["y"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", float32, list(x.shape))],
        [helper.make_tensor_value_info("y", float32, [None] * x.ndim)],
        [weights],
    )
    # Versions that DeepSparse 1.8, of 2024, reads too.
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=7)
    return model.SerializeToString()


@contextlib.contextmanager
def _onnx_file(problem: Problem, is_wanted: bool) -> Iterator[str | None]:
    """A file of the layer, for as long as an engine that compiles it needs it."""
    if not is_wanted:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "layer.onnx"
        path.write_bytes(layer_onnx(problem))
        yield str(path)


def instruction_set() -> str:
    """Of the C++ kernels; why there are none, if so."""
    return native.instructions() if native.available() else native.load()[1]
