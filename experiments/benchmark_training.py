"""What sparse training costs beyond dense training, measured in one run.

    python experiments/benchmark_training.py

Prints a table and writes results/benchmark_training.json: exact selection against
sorting, one topology update of ResNet-50, and the amortised cost of a training step of
ResNet-18 (CIFAR shapes, batch 32). Takes about four minutes on two cores.
"""

from functools import partial

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import srigl_jax
from srigl_jax import models
from srigl_jax.sparsity.select import largest

DELTA_T = 100


def random_kernels(name: str, image_shape, num_classes: int) -> dict[str, jax.Array]:
    """The kernels of a network by name, drawn from He et al.'s distribution."""
    model = nnx.eval_shape(
        lambda: models.create(name, image_shape, num_classes, rngs=nnx.Rngs(0))
    )
    plan = srigl_jax.make_plan(nnx.to_pure_dict(nnx.state(model, nnx.Param)), 0.0)
    draw = jax.nn.initializers.he_normal()
    keys = jax.random.split(jax.random.key(0), len(plan))
    return {
        layer.name: draw(key, layer.layout.shape)
        for key, layer in zip(keys, plan.values(), strict=True)
    }


def selection(repeats: int = 7) -> dict[str, float]:
    """Milliseconds to mark the top 10 % of 2.36 M scores, by three methods."""
    scores = jnp.abs(jax.random.normal(jax.random.key(0), (4608, 512)))
    count = jnp.int32(scores.size // 10)  # Traced, as in training.

    @jax.jit
    def bisection(scores, count):
        return largest(scores, count, jnp.ones_like(scores, bool))

    @jax.jit
    def argsort(scores, count):
        order = jnp.argsort(scores.ravel(), descending=True)
        ranks = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
        return (ranks < count).reshape(scores.shape)

    @jax.jit
    def sort(scores, count):
        threshold = jnp.sort(scores.ravel(), descending=True)[count - 1]
        return scores >= threshold

    methods = {"bisection": bisection, "argsort": argsort, "sort": sort}
    chosen = {name: np.asarray(f(scores, count)) for name, f in methods.items()}
    assert all((mask == chosen["bisection"]).all() for mask in chosen.values())
    seconds = measure.interleaved(
        {name: partial(f, scores, count) for name, f in methods.items()}, repeats
    )
    return {name: float(np.median(s)) * 1e3 for name, s in seconds.items()}


def resnet50_update(repeats: int = 5) -> dict[str, float]:
    """Seconds of an SRigL step that updates all of ResNet-50, and of one that does not.

    Both include the optimizer (SGD with momentum), whose own share is given too.
    """
    params = random_kernels("resnet50", (224, 224, 3), 1000)
    grads = jax.tree.map(lambda p: jnp.roll(p, 1), params)
    inner = optax.sgd(0.1, momentum=0.9)
    sparse = srigl_jax.srigl(inner, sparsity=0.9, t_end=1000, delta_t=DELTA_T)
    quiet = jax.jit(sparse.init)(params)
    due = quiet._replace(count=jnp.int32(DELTA_T))
    step, dense_step = jax.jit(sparse.update), jax.jit(inner.update)
    seconds = measure.interleaved(
        {
            "update": partial(step, grads, due, params),
            "no update": partial(step, grads, quiet, params),
            "optimizer": partial(dense_step, grads, inner.init(params), params),
        },
        repeats,
    )
    return {name: float(np.median(s)) for name, s in seconds.items()}


def resnet18_loss(params, images, labels) -> jax.Array:
    """ResNet-18's convolutions and sums, without normalisation."""

    def conv(x, name, stride=1):
        kernel = params[f"{name}/kernel"]
        dimensions = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=dimensions
        )

    x = jax.nn.relu(conv(images, "stem"))
    for stage in range(4):
        for block in range(2):
            name = f"blocks/{2 * stage + block}"
            stride = 2 if stage and not block else 1
            y = jax.nn.relu(conv(x, f"{name}/conv1", stride))
            if stride == 2:
                x = conv(x, f"{name}/shortcut", stride)
            x = jax.nn.relu(x + 0.1 * conv(y, f"{name}/conv2"))
    logits = x.mean(axis=(1, 2)) @ params["head/kernel"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def resnet18_step(repeats: int = 12) -> dict[str, float]:
    """Seconds of training steps of ResNet-18 at batch 32, and bytes of the state."""
    params = random_kernels("resnet18", (32, 32, 3), 10)
    images = jax.random.normal(jax.random.key(1), (32, 32, 32, 3))
    labels = jnp.arange(32) % 10
    inner = optax.sgd(0.01, momentum=0.9)
    sparse = srigl_jax.srigl(inner, sparsity=0.9, t_end=10**6, delta_t=DELTA_T)

    def stepper(optimizer):
        @jax.jit
        def step(params, state):
            grads = jax.grad(resnet18_loss)(params, images, labels)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return step

    dense_state, quiet = inner.init(params), jax.jit(sparse.init)(params)
    due = quiet._replace(count=jnp.int32(DELTA_T))
    masked = srigl_jax.apply_masks(params, quiet.masks)
    dense_step, sparse_step = stepper(inner), stepper(sparse)
    seconds = measure.interleaved(
        {
            "dense": partial(dense_step, params, dense_state),
            "sparse": partial(sparse_step, masked, quiet),
            "sparse, update": partial(sparse_step, masked, due),
        },
        repeats,
    )
    # A round's steps are neighbours in time, so the median of their ratios is steadier
    # than the ratio of their medians.
    amortised = (
        (DELTA_T - 1) * seconds["sparse"] + seconds["sparse, update"]
    ) / DELTA_T
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    extra_bytes = _bytes(quiet) - _bytes(dense_state)
    return {name: float(np.median(s)) for name, s in seconds.items()} | {
        "amortised over dense": float(np.median(amortised / seconds["dense"])),
        "extra bytes a weight": extra_bytes / weights,
    }


def _bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def main() -> None:
    """Measures, prints, and saves."""
    console = Console()
    with console.status("selection among 2.36 M scores"):
        chosen = selection()
    with console.status("topology update of ResNet-50 (compiling takes a while)"):
        update = resnet50_update()
    with console.status("training steps of ResNet-18"):
        step = resnet18_step()
    table = Table("what", "measured", "asked for")
    speedup = chosen["argsort"] / chosen["bisection"]
    for name, milliseconds in chosen.items():
        table.add_row(f"top 10 % of 2.36 M scores: {name}", f"{milliseconds:.1f} ms")
    table.add_row("argsort / bisection", f"{speedup:.0f}x", "at least 15x")
    table.add_row(
        "topology update, ResNet-50 (25.5 M)", f"{update['update']:.2f} s", "under 2 s"
    )
    for name in ("dense", "sparse", "sparse, update"):
        table.add_row(f"ResNet-18 step, batch 32: {name}", f"{step[name]:.3f} s")
    ratio = step["amortised over dense"]
    table.add_row(
        f"sparse / dense, delta_t = {DELTA_T}", f"{ratio:.3f}", "at most 1.05"
    )
    table.add_row(
        "state beyond dense, bytes a weight",
        f"{step['extra bytes a weight']:.4f}",
        "at most 1",
    )
    console.print(table)
    results = {
        "selection_ms": chosen,
        "argsort_over_bisection": speedup,
        "resnet50_seconds": update,
        "resnet18": step,
    }
    console.print(f"saved {measure.save('benchmark_training', results)}")


if __name__ == "__main__":
    main()
