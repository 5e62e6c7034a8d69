"""The variance of a sparse layer's output norm: the paper's formula against simulation.

    python experiments/output_norms.py

For a ReLU layer of n inputs and n neurons, z = sqrt(2 / k) W relu(u) with standard
normal weights where the mask lets them be and u uniform on the sphere, E |z|^2 is 1.
Its variance (SRigL, section on output norms) is lower where each neuron has exactly k
weights than where each weight exists with probability k / n; at k = n there is no
difference, and the two rows are one simulation. Prints a table and writes
results/output_norms.json and .png. Half a minute on one core.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import measure
import numpy as np

from srigl_jax.sparsity import init_masks, make_plan

KINDS = ("Bernoulli", "constant fan-in")


def bernoulli_variance(n: int, k: int) -> float:
    """Of |z|^2 where each weight exists with probability k / n."""
    return (5 * n - 8 + 18 * n / k) / (n * (n + 2))


def constant_fan_in_variance(n: int, k: int) -> float:
    """Of |z|^2 where each neuron has k weights."""
    return bernoulli_variance(n, k) - 3 * (n - k) / (k * n * (n + 2))


FORMULAS = dict(zip(KINDS, (bernoulli_variance, constant_fan_in_variance), strict=True))


def squared_norms(kind: str, n: int, k: int, samples: int, seed: int) -> np.ndarray:
    """f64[samples]: |z|^2 of layers drawn independently, each of one input."""
    kernel = {"kernel": jax.ShapeDtypeStruct((n, n), jnp.float32)}
    plan = make_plan(kernel, 1 - k / n, distribution="uniform", last=())

    def mask(key):
        if kind == "Bernoulli":
            return jax.random.bernoulli(key, k / n, (n, n))
        if k == n:
            return jnp.ones((n, n), bool)
        seed = jax.random.randint(key, (), 0, 2**31 - 1)
        return init_masks(kernel, plan, seed)["kernel"]

    def one(key):
        of_mask, of_weights, of_input = jax.random.split(key, 3)
        u = jax.random.normal(of_input, (n,))
        u = jax.nn.relu(u / jnp.linalg.norm(u))
        weights = jax.random.normal(of_weights, (n, n)) * mask(of_mask)
        z = jnp.sqrt(2 / k) * u @ weights
        return z @ z

    @functools.partial(jax.jit, static_argnums=1)
    def many(key, count):
        return jax.lax.map(one, jax.random.split(key, count), batch_size=100)

    return np.asarray(many(jax.random.key(seed), samples), np.float64)


def measure_all(n: int, fan_ins: list[int], samples: int) -> list[dict]:
    """A row for each fan-in and kind: formula, simulation, standard error."""
    rows = []
    for k in fan_ins:
        for kind, formula in FORMULAS.items():
            norms = squared_norms(kind, n, k, samples, seed=k)
            squares = (norms - norms.mean()) ** 2
            rows.append(
                {
                    "n": n,
                    "k": k,
                    "kind": kind,
                    "formula": formula(n, k),
                    "simulated": float(norms.var(ddof=1)),
                    "standard_error": float(squares.std() / np.sqrt(samples)),
                    "mean": float(norms.mean()),
                    "samples": samples,
                }
            )
    return rows


def markdown(rows: list[dict]) -> str:
    """A line a fan-in and kind."""
    lines = ["| k | mask | mean | variance, formula | simulated |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        error = 1.96 * row["standard_error"]
        lines.append(
            f"| {row['k']} | {row['kind']} | {row['mean']:.3f} | {row['formula']:.4f} "
            f"| {row['simulated']:.4f} ± {error:.4f} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict], path) -> None:
    """Lines of the formulas, points of the simulation with 95 % intervals."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, color in zip(KINDS, ("tab:blue", "tab:red"), strict=True):
        found = [row for row in rows if row["kind"] == kind]
        fan_ins = [row["k"] for row in found]
        axis.plot(fan_ins, [row["formula"] for row in found], color=color, label=kind)
        axis.errorbar(
            fan_ins,
            [row["simulated"] for row in found],
            [1.96 * row["standard_error"] for row in found],
            color=color,
            linestyle="",
            marker=".",
            capsize=3,
        )
    axis.set_xscale("log", base=2)
    axis.set(xlabel="k", ylabel="variance of the squared output norm")
    axis.set_title(f"{rows[0]['n']} neurons of as many inputs", fontsize=10)
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Simulates, prints the table, saves the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--fan-ins", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--samples", type=int, default=20_000)
    arguments = parser.parse_args()
    rows = measure_all(arguments.neurons, arguments.fan_ins, arguments.samples)
    print(markdown(rows))
    path = measure.save("output_norms", {"rows": rows})
    draw(rows, path.with_suffix(".png"))
    print(f"saved {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
