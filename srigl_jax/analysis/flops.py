"""FLOPs and bytes of layers, from shapes, densities and masks alone.

The rules are those by which RigL (arXiv 1911.11134) and SRigL count: a multiplication
and an addition are an operation each, so a dot product of length L is L of the one and
L - 1 of the other; a bias is an addition, a ReLU a multiplication for each output.
Normalisations, pooling, residual sums and activations other than ReLU are not counted,
but a normalisation that follows a layer is folded into it and leaves a bias. In a
sparse layer of density d the dot products have length L * d. ResNet-50 at 224x224 has
8,189,482,496 FLOPs by these rules, of which its 4,089,184,256 pairs of multiplication
and addition are all but the biases and ReLUs of the convolutions.

All counts are for one example.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

_SPARSE_GRADIENTS = ("static", "set", "snip", "grasp")
_PRUNING = ("one_shot", "gradual", "neurons")
_DENSE_GRADIENTS = ("snfs", "sr_ste")
METHODS = (
    "dense",
    *_SPARSE_GRADIENTS,
    "rigl",
    "srigl",
    *_DENSE_GRADIENTS,
    *_PRUNING,
    "lottery",
)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What the cost of a linear layer or convolution follows from.

    Attributes:
      name: of its kernel.
      fan_in: inputs of one neuron when dense.
      neurons: output features.
      positions: how often each neuron is computed for one example: height x width of
        the output of a convolution, tokens of a sequence; 0 if the layer is not used.
      has_bias: whether something is added to each output, a bias or what a
        normalisation leaves when it is folded into the layer.
      has_relu: whether a ReLU follows.
    """

    name: str
    fan_in: int
    neurons: int
    positions: int = 1
    has_bias: bool = False
    has_relu: bool = False

    @property
    def size(self) -> int:
        """Weights when dense."""
        return self.fan_in * self.neurons

    @property
    def outputs(self) -> int:
        """Numbers that the layer computes."""
        return self.neurons * self.positions


def macs(layer: LayerShape, density: float = 1.0) -> float:
    """Multiplications by a weight; an int when dense."""
    return _times(density, layer.size) * layer.positions


def inference_flops(layer: LayerShape, density: float = 1.0) -> float:
    """FLOPs of a layer of which so many of the weights exist; an int when dense."""
    per_output = layer.has_bias + layer.has_relu - 1
    return 2 * macs(layer, density) + per_output * layer.outputs


def masked_flops(layer: LayerShape, fan_ins: np.ndarray) -> int:
    """FLOPs that a mask really leaves.

    A neuron without weights outputs a constant, which costs nothing.

    Args:
      layer: its shape.
      fan_ins: i64[neurons], weights of each neuron.
    """
    per_output = layer.has_bias + layer.has_relu - 1
    per_position = 2 * int(fan_ins.sum()) + per_output * int(np.count_nonzero(fan_ins))
    return per_position * layer.positions


def training_flops(
    method: str,
    dense: float,
    sparse: float,
    delta_t: int = 100,
    removed: Sequence[float] = (),
) -> float:
    """FLOPs of training on one example, forward and backward, on average over steps.

    The backward pass costs twice the forward pass. RigL and SRigL need the gradient of
    all weights once in `delta_t` steps, SNFS and SR-STE in every step. It is what
    hardware that profits from sparsity would spend, by RigL's formula, not what dense
    arrays with zeros in them do. Like published figures, that formula has the topology
    change to the end, whenever it rests. All rounds of a lottery count.

    Args:
      method: one of `METHODS`.
      dense: inference FLOPs of the dense network.
      sparse: of the sparse one.
      delta_t: steps from one topology update to the next.
      removed: of methods that prune, the share of what they remove that is gone at
        each step; of "lottery", in each round.

    Raises:
      ValueError: another method, delta_t below 1, or no `removed` where it is needed.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose one of {', '.join(METHODS)}")
    if delta_t < 1:
        raise ValueError(f"delta_t is {delta_t}: give a number of steps, at least 1")
    if method == "dense":
        return 3 * dense
    if method in _SPARSE_GRADIENTS:
        return 3 * sparse
    if method in _DENSE_GRADIENTS:
        return 2 * sparse + dense
    if method in _PRUNING or method == "lottery":
        saved = 1 - sparse / dense
        mean = gradual_pruning_flops(dense, [saved * share for share in removed])
        return mean * (len(removed) if method == "lottery" else 1)
    return (3 * sparse * delta_t + 2 * sparse + dense) / (delta_t + 1)


def gradual_pruning_flops(dense: float, sparsities: Iterable[float]) -> float:
    """FLOPs of training on one example while the network is pruned.

    Args:
      dense: inference FLOPs of the dense network.
      sparsities: of the network at each training step.

    Raises:
      ValueError: there is no step.
    """
    densities = [1 - sparsity for sparsity in sparsities]
    if not densities:
        raise ValueError("sparsities is empty: give that of each training step")
    return 3 * dense * sum(densities) / len(densities)


def condensed_bytes(mask: np.ndarray, itemsize: int = 4) -> int:
    """Bytes of a layer's weights in condensed form: values, indices, active neurons.

    Rows are padded to the largest fan-in, as `srigl_jax.condensed.condense` does.

    Args:
      mask: bool[fan_in, neurons].
      itemsize: bytes of a weight.
    """
    fan_ins = np.count_nonzero(mask, axis=0)
    active = int(np.count_nonzero(fan_ins))
    index = 2 if len(mask) <= 2**16 else 4
    return active * (int(fan_ins.max(initial=0)) * (itemsize + index) + 4)


def _times(density: float, size: int) -> float:
    return size if density == 1 else density * size
