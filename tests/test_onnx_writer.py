"""What is written as ONNX computes in onnxruntime what JAX computes."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from srigl_jax import models

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="pip install onnx onnxruntime to test the ONNX writer"
)
pytest.importorskip("onnx", reason="pip install onnx to test the ONNX writer")

from srigl_jax.onnx_writer import to_onnx  # noqa: E402  It needs onnx.

SHAPE = (6, 6, 4)


def images(batch):
    values = np.random.default_rng(0).integers(0, 256, (batch, *SHAPE))
    return values.astype(np.uint8)


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": x})[0]


def operators(model):
    return [node.op_type for node in model.graph.node]


def random(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def flat(x):
    return x.reshape(x.shape[0], -1)


def conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


ATTENTION = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
NORM = nnx.LayerNorm(4, rngs=nnx.Rngs(0))


def attention(x):
    return ATTENTION(x.reshape(x.shape[0], 36, 4))


def with_class_token(x):
    token = jnp.broadcast_to(random(1, 1, 4), (x.shape[0], 1, 4))
    return jnp.concatenate([token, x.reshape(x.shape[0], 36, 4)], 1)


FUNCTIONS = {
    "reshape and product": lambda x: flat(x) @ random(144, 3),
    "product over two axes": lambda x: jnp.einsum("bhwc,wcn->bhn", x, random(6, 4, 2)),
    "product of a batch": lambda x: jnp.einsum("bhwc,bhvc->bhwv", x, x),
    "product from the left": lambda x: (random(3, 144) @ flat(x).T).T,
    "same convolution": lambda x: conv(x, random(3, 3, 4, 5)),
    "strided convolution": lambda x: conv(
        x, random(3, 3, 4, 5), window_strides=(2, 1), padding=((1, 0), (0, 2))
    ),
    "depthwise convolution": lambda x: conv(
        x, random(3, 3, 1, 4), feature_group_count=4
    ),
    "dilated convolution": lambda x: conv(x, random(3, 3, 4, 2), rhs_dilation=(2, 2)),
    "residual of convolutions": lambda x: (
        nnx.relu(conv(x, random(3, 3, 4, 4))) * random(4)
        + x
        + conv(x, random(1, 1, 4, 4))
    ),
    "global mean of a convolution": lambda x: conv(x, random(1, 1, 4, 5)).mean((1, 2)),
    "maximum over channels": lambda x: conv(x, random(1, 1, 4, 5)).max(3),
    "max pool": lambda x: nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME"),
    "average pool": lambda x: nnx.avg_pool(x, (2, 3), strides=(2, 1), padding="SAME"),
    "average pool without padding": lambda x: nnx.avg_pool(
        x, (2, 2), padding="SAME", count_include_pad=False
    ),
    "activations": lambda x: (
        nnx.gelu(x) + nnx.silu(x) + nnx.hard_swish(x) + jnp.tanh(x) + nnx.relu6(x)
    ),
    "exact gelu": lambda x: nnx.gelu(x, approximate=False),
    "softmax": lambda x: nnx.softmax(flat(x)),
    "layer norm": NORM,
    "attention": attention,
    "class token": with_class_token,
    "a token taken": lambda x: with_class_token(x)[:, 0],
    "strided slice": lambda x: lax.slice_in_dim(x, 1, 6, 2, axis=1),
    "slice": lambda x: x[:, 1:, :, 2],
    "positions taken": lambda x: jnp.take(x, np.array([[3, 0], [5, 5]]), axis=2),
    "channels taken": lambda x: x[..., np.array([3, 1])],
    "split": lambda x: jnp.add(*jnp.split(x, 2, axis=3)),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0))),
    "transposition": lambda x: x.transpose(3, 0, 2, 1).mean(0),
    "where": lambda x: jnp.where((x > 1) & (x <= 2), x, -x),
    "integers bit by bit": lambda x: (
        ((x.astype(jnp.int32) & 6) | 1) ^ ~x.astype(jnp.int32)
    ).astype(jnp.float32),
    "exactly one": lambda x: ((x > 1) ^ ~(x <= 0)).astype(jnp.float32),
    "unequal": lambda x: jnp.where(x != 0, x, 5),
    "elu": nnx.elu,
    "round": lambda x: jnp.round(x * 2),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
    "a constant": lambda x: jnp.ones((x.shape[0], 3)) * 2,
    "argmax": lambda x: x.argmax(3).astype(jnp.float32),
    "a column taken after its row": lambda x: x[:, :, None, 0] + random(6, 1, 4),
}


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_keeps_its_values(case, batch):
    def function(x):
        return FUNCTIONS[case](x.astype(jnp.float32) / 64 - 2)

    x = images(batch)
    expected = function(jnp.asarray(x))
    found = run(_written(case), x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)


@functools.cache
def _written(case):
    return to_onnx(lambda x: FUNCTIONS[case](x.astype(jnp.float32) / 64 - 2), SHAPE)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {"widths": (8,)}), ("convnet", {"widths": (4, 3), "hidden": 5})],
)
def test_a_model_keeps_its_values(name, options, batch):
    model = models.create(name, SHAPE, 3, rngs=nnx.Rngs(0), **options)
    model.eval()

    def function(x):
        return model(x.astype(jnp.float32) / 64 - 2)

    x = images(batch)
    found = run(to_onnx(function, SHAPE), x)
    np.testing.assert_allclose(found, function(x), atol=1e-5, rtol=1e-5)


def test_convolutions_in_a_chain_have_no_transpositions_between():
    def function(x):
        x = nnx.relu(conv(x.astype(jnp.float32), random(3, 3, 4, 5)) + random(5))
        return conv(x, random(1, 1, 5, 2)).mean((1, 2))

    assert operators(to_onnx(function, SHAPE)) == [
        *("Cast", "Transpose", "Conv", "Add", "Relu"),
        *("Conv", "ReduceSum", "Div", "Identity"),
    ]


def test_what_depends_on_constants_alone_is_computed_beforehand():
    kernel = jnp.ones((144, 3))
    model = to_onnx(
        lambda x: flat(x).astype(jnp.float32) @ jnp.tanh(kernel * 2 + 1), SHAPE
    )
    assert operators(model) == ["Reshape", "Cast", "MatMul", "Identity"]


def test_a_primitive_without_a_rule_is_named():
    with pytest.raises(ValueError, match="primitive 'sort', which cannot be"):
        to_onnx(lambda x: jnp.sort(flat(x)), SHAPE)


def test_a_gather_of_unknown_positions_is_named():
    with pytest.raises(ValueError, match="primitive 'gather' cannot be written"):
        to_onnx(lambda x: jnp.ones(256)[flat(x).astype(jnp.int32)], SHAPE)


def test_a_loop_is_named():
    def function(x):
        return lax.fori_loop(0, 3, lambda i, y: y * 2, x)

    with pytest.raises(ValueError, match="primitive '(scan|while)', which cannot be"):
        to_onnx(function, SHAPE)


def test_a_transposed_convolution_is_refused():
    def function(x):
        return lax.conv_transpose(
            x.astype(jnp.float32), random(3, 3, 4, 5), (2, 2), "SAME"
        )

    with pytest.raises(ValueError, match="transposed convolution cannot be"):
        to_onnx(function, SHAPE)


def test_half_rounded_away_from_zero_is_refused():
    with pytest.raises(ValueError, match="rounding half away from zero"):
        to_onnx(lambda x: lax.round(flat(x).astype(jnp.float32)), SHAPE)


@pytest.mark.parametrize("part", [slice(1, None), slice(None, -1), slice(-1, None)])
def test_a_part_of_the_batch_is_refused(part):
    with pytest.raises(ValueError, match="batch"):
        to_onnx(lambda x: flat(x)[part] * 1.0, SHAPE)


def test_a_limit_below_the_batch_size_is_refused():
    def function(x):
        x = flat(x)
        return lax.slice(x, (0, 0), (x.shape[0] - 1, 3)) * 1.0

    with pytest.raises(ValueError, match="batch"):
        to_onnx(function, SHAPE)


def test_what_onnx_itself_refuses_is_a_value_error():
    with pytest.raises(ValueError, match="onnx refuses"):
        to_onnx(lambda x: jnp.sin(flat(x).astype(jnp.bfloat16)), SHAPE)


def test_metadata_and_names_are_in_the_model():
    model = to_onnx(lambda x: flat(x) * 1.0, SHAPE, metadata={"class_names": "a\nb"})
    assert [(p.key, p.value) for p in model.metadata_props] == [("class_names", "a\nb")]
    assert [x.name for x in model.graph.input] == ["images"]
    assert [x.name for x in model.graph.output] == ["logits"]


def test_the_reference_of_onnx_agrees_with_the_runtime():
    from onnx.reference import ReferenceEvaluator

    model = _written("residual of convolutions")
    x = images(2)
    (found,) = ReferenceEvaluator(model).run(None, {"images": x})
    np.testing.assert_allclose(found, run(model, x), atol=1e-4)
