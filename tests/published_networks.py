"""The networks of the paper at their full size: shapes alone, nothing allocated."""

import functools

from flax import nnx

from srigl_jax import models

CIFAR_10 = (32, 32, 3), 10
IMAGENET = (224, 224, 3), 1000


@functools.cache
def parameters(name, data=IMAGENET, **options):
    """A pytree of `ShapeDtypeStruct`s."""

    def create():
        return models.create(name, *data, rngs=nnx.Rngs(0), **options)

    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(create), nnx.Param))
