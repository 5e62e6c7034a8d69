"""What a network is, and what it was trained on; enough to build a fresh one."""

import dataclasses
import json
import math
from typing import Any

from flax import nnx

from srigl_jax import models


@dataclasses.dataclass(frozen=True)
class Description:
    """A network of `srigl_jax.models` and the images it takes.

    Attributes:
      model: its name in `srigl_jax.models`.
      options: of that model, JSON's types.
      dataset: the name of the data set.
      image_shape: (height, width, channels) of the images.
      mean: of each channel, in units of the stored pixels; the network is fed
        (pixels - mean) / std.
      std: likewise.
      class_names: what each output stands for.
      batch_size: which the network was converted for.
    """

    model: str
    options: dict[str, Any]
    dataset: str
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    batch_size: int = 1

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON's types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, fields: Any) -> "Description":
        """Undoes `to_json`.

        Raises:
          ValueError: fields are missing, unknown, or make no sense together.
        """
        try:
            fields = {k: tuple(v) if type(v) is list else v for k, v in fields.items()}
            description = cls(**fields)
            sound = _is_sound(description)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"the description cannot be read: {error}") from error
        if not sound:
            raise ValueError(f"the description makes no sense: {fields}")
        return description

    def fresh(self) -> nnx.Module:
        """Such a network without weights, shapes alone, in evaluation mode.

        Raises:
          ValueError: there is no such model, or it has no such option.
        """

        def create():
            return models.create(
                self.model,
                self.image_shape,
                len(self.class_names),
                rngs=nnx.Rngs(0),
                **self.options,
            )

        try:
            model = nnx.eval_shape(create)
        except TypeError as error:
            raise ValueError(f"model {self.model!r}: {error}") from error
        model.eval()
        return model


def _is_sound(description: Description) -> bool:
    return (
        len(description.image_shape) == 3
        and all(isinstance(n, int) and n >= 1 for n in description.image_shape)
        and len(description.mean) == len(description.std) == description.image_shape[2]
        and all(map(math.isfinite, description.mean))
        and all(0 < x < math.inf for x in description.std)
        and all(isinstance(name, str) for name in description.class_names)
        and len(description.class_names) >= 1
        and isinstance(description.batch_size, int)
        and description.batch_size >= 1
    )
