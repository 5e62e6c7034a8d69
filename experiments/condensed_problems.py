"""Which layers the benchmark of condensed inference runs, and their random weights."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

SPARSITIES = (0.8, 0.9, 0.95, 0.99)
BATCHES = (1, 8, 32, 64, 256)
CONV_BATCHES = (1, 32)
MASKS = ("constant fan-in", "30 % ablated", "N:M, M = 32")
TRAINED = "trained"
BLOCK = 32
ABLATED = 0.3


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """A dense layer or a convolution.

    Attributes:
      name: as tables show it.
      kernel: (inputs, neurons), or (height, width, channels, neurons).
      image: (height, width) of a convolution's input; () for a dense layer.
      stride: of a convolution.
      padding: of a convolution, in zeros: ((top, bottom), (left, right)).
    """

    name: str
    kernel: tuple[int, ...]
    image: tuple[int, ...] = ()
    stride: int = 1
    padding: tuple[tuple[int, int], ...] = ()

    @property
    def neurons(self) -> int:
        """Output features."""
        return self.kernel[-1]

    @property
    def fan_in(self) -> int:
        """Inputs of a neuron when dense."""
        return int(np.prod(self.kernel[:-1]))

    @property
    def positions(self) -> int:
        """Where in an image the kernel is applied; 1 for a dense layer."""
        sides = zip(self.image, self.kernel, self.padding, strict=False)
        return int(np.prod([(n + sum(p) - k) // self.stride + 1 for n, k, p in sides]))


def linear(fan_in: int, neurons: int) -> LayerShape:
    """A dense layer's shape."""
    return LayerShape(f"{fan_in}->{neurons}", (fan_in, neurons))


def conv(
    size: int, side: int, channels: int, neurons: int, stride: int = 1
) -> LayerShape:
    """A convolution's shape: kernel size, side of the image, channels in and out."""
    name = f"{size}x{size} {side}x{side}x{channels}->{neurons}"
    name += f" /{stride}" if stride > 1 else ""
    padding = ((size // 2, size // 2),) * 2
    kernel = size, size, channels, neurons
    return LayerShape(name, kernel, (side, side), stride, padding)


MAIN = linear(3072, 768)
LAYERS = (MAIN, linear(768, 3072), linear(512, 512), linear(4096, 4096))
CONVOLUTIONS = (
    # ResNet-18 for CIFAR.
    conv(3, 32, 64, 64),
    conv(3, 16, 128, 128),
    conv(3, 8, 256, 256),
    conv(3, 4, 512, 512),
    conv(1, 32, 64, 128, 2),
    conv(1, 16, 128, 256, 2),
    conv(1, 8, 256, 512, 2),
    # ResNet-50.
    conv(1, 56, 64, 256),
    conv(3, 28, 128, 128),
    conv(1, 14, 1024, 256),
)


@dataclasses.dataclass(frozen=True)
class Point:
    """One cell of the grid: a layer, its mask, a batch size."""

    shape: LayerShape
    sparsity: float
    mask: str
    batch: int

    @property
    def kind(self) -> str:
        """Whether it is "linear" or "conv"."""
        return "conv" if self.shape.image else "linear"


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What every contender is given.

    Attributes:
      point: the cell of the grid.
      x: f32[batch, inputs] or f32[batch, height, width, channels].
      kernel: f32, 0 off the mask.
      mask: bool, like kernel.
    """

    point: Point
    x: np.ndarray
    kernel: np.ndarray
    mask: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """Which neurons have weights, ascending."""
        axes = tuple(range(self.mask.ndim - 1))
        return np.flatnonzero(self.mask.any(axes))

    @property
    def flops(self) -> int:
        """Of the weights that exist; those that meet the padding count too."""
        point = self.point
        weights = int(np.count_nonzero(self.mask))
        return 2 * weights * point.batch * point.shape.positions


def grid(effort: str, only: Sequence[str], is_main: bool) -> list[Point]:
    """The points to measure, the most important first.

    Args:
      effort: "quick", "default" or "full".
      only: of "layers" and "convolutions".
      is_main: whether at the main thread count; the others get a smaller grid.
    """
    points: list[Point] = []
    if "layers" in only:
        points += _layer_points(effort, is_main)
    if "convolutions" in only:
        points += _conv_points(effort, is_main)
    return list(dict.fromkeys(p for p in points if _is_possible(p)))


def _layer_points(effort: str, is_main: bool) -> list[Point]:
    if effort == "full":
        cells = itertools.product(LAYERS, SPARSITIES, MASKS, BATCHES)
        return [Point(*cell) for cell in cells]
    points = [Point(MAIN, 0.9, mask, b) for b in (1, 32) for mask in MASKS]
    if effort == "quick":
        points = [*points[:4], *(Point(MAIN, s, MASKS[0], 1) for s in SPARSITIES)]
        return points if is_main else points[:1]
    if is_main:
        points += [
            Point(MAIN, *cell) for cell in itertools.product(SPARSITIES, MASKS, BATCHES)
        ]
        points += [Point(shape, 0.9, MASKS[0], b) for shape in LAYERS for b in (1, 32)]
    return points


def _conv_points(effort: str, is_main: bool) -> list[Point]:
    if effort == "full":
        cells = itertools.product(CONVOLUTIONS, SPARSITIES, MASKS, CONV_BATCHES)
        return [Point(*cell) for cell in cells]
    if effort == "quick":
        shapes = (CONVOLUTIONS[1], CONVOLUTIONS[5]) if is_main else ()
        return [Point(shape, 0.9, MASKS[0], 1) for shape in shapes]
    shapes = CONVOLUTIONS if is_main else CONVOLUTIONS[:1]
    return [Point(s, 0.9, MASKS[0], b) for b in CONV_BATCHES for s in shapes]


def _is_possible(point: Point) -> bool:
    """Whether blocks can express the sparsity: at least one weight of 32, or 3 %."""
    if point.mask != MASKS[2]:
        return True
    weights = (1 - point.sparsity) * BLOCK
    return weights >= 1 and point.shape.fan_in % BLOCK == 0


def random_mask(
    rng: np.random.Generator, fan_in: int, neurons: int, sparsity: float, mask: str
) -> np.ndarray:
    """A mask of one of the `MASKS`: bool[fan_in, neurons].

    Ablation keeps the layer's budget, as SRigL does: the neurons that are left have
    more weights each. N:M rounds to whole weights in a block: 2 of 32 at 95 %.
    """
    scores = rng.random((fan_in, neurons))
    if mask == MASKS[2]:
        count = max(1, round((1 - sparsity) * BLOCK))
        blocks = scores.reshape(-1, BLOCK, neurons)
        return (_ranks(blocks, 1) < count).reshape(fan_in, neurons)
    budget = int((1 - sparsity) * fan_in * neurons + 1e-6)
    active = neurons - int(ABLATED * neurons) * (mask == MASKS[1])
    kept = np.zeros((fan_in, neurons), bool)
    columns = np.sort(rng.permutation(neurons)[:active])
    fan_in_left = min(fan_in, max(1, budget // active))
    kept[:, columns] = _ranks(scores[:, columns], 0) < fan_in_left
    return kept


def make_problem(point: Point, mask: np.ndarray | None = None) -> Problem:
    """Draws the weights, inputs, and, unless one is given, the mask of a point.

    Args:
      point: the cell of the grid.
      mask: bool, like the kernel: a trained one.
    """
    shape = point.shape
    rng = np.random.default_rng(0)
    if mask is None:
        mask = random_mask(rng, shape.fan_in, shape.neurons, point.sparsity, point.mask)
    mask = np.asarray(mask, bool).reshape(shape.kernel)
    k = max(1, np.count_nonzero(mask) // shape.neurons)
    kernel = rng.standard_normal(shape.kernel, np.float32) / np.float32(np.sqrt(k))
    inputs = (*shape.image, shape.kernel[-2])
    x = rng.standard_normal((point.batch, *inputs), np.float32)
    return Problem(point, x, np.where(mask, kernel, np.float32(0)), mask)


def _ranks(scores: np.ndarray, axis: int) -> np.ndarray:
    return scores.argsort(axis).argsort(axis)
