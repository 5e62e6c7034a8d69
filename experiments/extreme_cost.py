"""Memory and time of a training step, by form and by the number of labels."""

import resource
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

from srigl_jax import extreme

K, BATCH, POSITIVES = 32, 64, 5
OPTIMIZER = optax.adam(1e-3)


def against_dense(labels: int, width: int, repeats: int) -> dict[str, Any]:
    """Seconds and MiB of a step of each form and of a dense layer, interleaved.

    The dense layer is the plain formula under autodiff, as one would write it.
    """
    x, positives = _batch(labels, width)
    runs, memory = {}, {}
    for form in ("dense", "chunk", "slots"):
        step, state = (
            _plain(labels, width)
            if form == "dense"
            else _condensed(labels, width, form)
        )
        compiled = jax.jit(step, donate_argnums=0).lower(state, x, positives).compile()
        memory[form] = _memory(compiled, state)
        runs[form] = _runner(compiled, state, x, positives)
    seconds = measure.interleaved(runs, repeats)
    return {
        form: memory[form]
        | {
            "seconds": float(np.median(seconds[form])),
            # Steps of a round are neighbours in time: the ratio of each is steadier.
            "times_dense": float(np.median(seconds[form] / seconds["dense"])),
        }
        for form in runs
    }


def curve(labels: int, width: int, steps: int) -> dict[str, Any]:
    """MiB of state and temporaries and seconds a step for so many labels.

    `peak_rss_mib` is the process's so far: call with rising numbers of labels.
    """
    x, positives = _batch(labels, width)
    step, state = _condensed(labels, width, "auto")
    compiled = jax.jit(step, donate_argnums=0).lower(state, x, positives).compile()
    found = {"labels": labels, "width": width} | _memory(compiled, state)
    run = _runner(compiled, state, x, positives)
    del state
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {
        "seconds": float(np.median(seconds[1:])),
        "peak_rss_mib": peak / 1024,
    }


def _batch(labels, width):
    x = jax.random.normal(jax.random.key(1), (BATCH, width))
    return x, jax.random.randint(jax.random.key(2), (BATCH, POSITIVES), 0, labels)


def _condensed(labels, width, form):
    classifier = extreme.init(jax.random.key(0), labels, width, K)
    step = partial(extreme.train_step, optimizer=OPTIMIZER, implementation=form)

    def run(state, x, positives):
        loss, dx, *state = step(*state, x, positives)
        return (loss, dx), tuple(state)

    return run, (classifier, extreme.init_state(OPTIMIZER, classifier))


def _plain(labels, width):
    kernel = jax.random.normal(jax.random.key(0), (labels, width)) * width**-0.5
    weights = {"kernel": kernel, "bias": jnp.zeros(labels)}

    def mean_loss(weights, x, positives):
        logits = x @ weights["kernel"].T + weights["bias"]
        examples = jnp.arange(x.shape[0])[:, None]
        truth = jnp.zeros_like(logits).at[examples, positives].set(1)
        return optax.sigmoid_binary_cross_entropy(logits, truth).sum() / x.shape[0]

    def run(state, x, positives):
        weights, moments = state
        loss, (gradients, dx) = jax.value_and_grad(mean_loss, (0, 1))(
            weights, x, positives
        )
        updates, moments = OPTIMIZER.update(gradients, moments)
        return (loss, dx), (optax.apply_updates(weights, updates), moments)

    return run, (weights, OPTIMIZER.init(weights))


def _memory(compiled, state):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {"state_mib": size / 2**20, "temporaries_mib": temporary / 2**20}


def _runner(compiled, state, x, positives):
    held = [state]

    def run():
        result, after = compiled(held.pop(), x, positives)
        held.append(after)
        return result, after

    return run
