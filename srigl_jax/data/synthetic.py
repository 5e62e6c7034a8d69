"""Images made up: a pattern for each class, and noise.

They have whatever shape and number of classes a recipe needs, so it can be tried, and
its loss seen to fall, on a machine without its data.
"""

import numpy as np

from srigl_jax.data.in_memory import InMemoryDataset, Split, make_dataset

_TEST_SHARE = 5  # One test example for as many training examples.
_CELLS = 4  # Patterns have as many patches along each side.


def make(
    image_shape: tuple[int, int, int], classes: int, examples: int
) -> InMemoryDataset:
    """Returns a data set that depends on the arguments alone.

    Each class has a pattern of 4x4 patches of random colour; an example is the pattern
    of its class with noise on every pixel. Classes are equally frequent to within one
    example; with fewer examples than classes, only the first ones occur.

    Args:
      image_shape: Height, width and channels.
      classes: Number of classes.
      examples: Training examples; a fifth as many are test examples.

    Raises:
      ValueError: A size is below 1.
    """
    image_shape = tuple(image_shape)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"dataset.image_shape is {image_shape}: give height, width and channels, "
            "each at least 1"
        )
    for field, value in (("classes", classes), ("examples", examples)):
        if value < 1:
            raise ValueError(f"dataset.{field} is {value}, but must be at least 1.")
    height, width, channels = image_shape
    rng = np.random.Generator(np.random.Philox(0))
    patches = rng.integers(64, 192, (classes, _CELLS, _CELLS, channels), np.uint8)
    rows, columns = (np.arange(side) * _CELLS // side for side in (height, width))

    def draw(count: int) -> Split:
        labels = np.arange(count, dtype=np.int32) % classes
        # Example by example in memory, as batches are gathered, which indexing is not.
        images = np.ascontiguousarray(patches[labels][:, rows][:, :, columns])
        # From -64 to 63; pixels of 8 bits wrap, but none of these reach the ends.
        images += rng.integers(0, 128, images.shape, np.uint8)
        images -= np.uint8(64)
        return Split(images, labels)

    return make_dataset(
        "synthetic",
        draw(examples),
        draw(-(-examples // _TEST_SHARE)),
        tuple(map(str, range(classes))),
    )
