"""Layers as the published networks have them, in PyTorch's conventions.

A convolution pads the same on both sides, so that a stride does not shift the image as
"SAME" would. PyTorch's momentum m of a batch normalisation is 1 - m in Flax, and its
running variance is the unbiased one, n / (n - 1) of Flax's over n values.
"""

from flax import nnx

CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al.'s normal distribution, by the fan-out."""

LINEAR_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform up to 1 / sqrt(fan-in), PyTorch's own for linear layers."""


def conv(
    channels: int,
    features: int,
    *,
    size: int = 3,
    strides: int = 1,
    groups: int = 1,
    use_bias: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution whose border is size // 2 zeros on every side."""
    border = (size // 2, size // 2)
    return nnx.Conv(
        channels,
        features,
        kernel_size=(size, size),
        strides=strides,
        padding=(border, border),
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=CONV_INIT,
        rngs=rngs,
    )


def batch_norm(features: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Running statistics move by a tenth at each step; epsilon is 1e-5."""
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)
