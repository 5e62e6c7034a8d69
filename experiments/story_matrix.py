"""What the story trains: its methods, its studies, and the rows that are finished.

A cell is one method at one sparsity with one seed. Its directory,
ROOT/METHOD-SPARSITY-SEED, holds the config that it had and, once it is finished,
row.json. Both are written whole or not at all: the same command goes on.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from srigl_jax import methods
from srigl_jax.config import check_workdir, validate

_NOWHERE = object()

ROW = "row.json"
NETWORK = "network.safetensors"

Fields = dict[str, Any]
"""Of a config by their dotted names; a value may be a dict of values by sparsity."""

METHODS: dict[str, Fields] = {
    "dense": {"method": "dense"},
    "static": {"method": "static"},
    "SNIP": {"method": "snip"},
    "GraSP": {"method": "grasp"},
    "SET": {"method": "set"},
    "RigL": {"method": "rigl"},
    "SNFS": {"method": "snfs"},
    "SRigL without ablation": {"method": "srigl", "ablation": False},
    "SRigL": {"method": "srigl"},
    "neuron pruning": {"method": "neurons", "distribution": "uniform"},
    "one-shot pruning": {"method": "one_shot"},
    "gradual pruning": {"method": "gradual"},
    "SR-STE": {"method": "sr_ste"},
    "lottery ticket": {"method": "lottery", "pruning.rounds": 3},
}
"""What a name in tables stands for, as fields of the config."""

# A neuron with a tenth of the inputs has larger weights and moves less in a step.
DENSE_RATE = 0.5
START_DENSE = ("dense", "lottery", *methods.STARTS_DENSE)

MAIN = ("dense", "static", "RigL", "SRigL without ablation", "SRigL")
GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
BLOCKS = (4, 8, 16, 32)
LENGTHS = (1, 2, 5)
ROUNDS = (1, 10, 20)
REWOUND = 100
RATES = {
    "sgd": (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    "adamw": (0.001, 0.003, 0.01),
}
TUNED = {
    "static": {0.99: 0.5},
    "RigL": {0.99: 0.2},
    "SRigL without ablation": {0.99: 0.6},
    "SRigL": {0.99: 0.5},
}
"""Rates that were best for the `mlp` on held-out images, by sparsity."""
WINDOW = 10
TUNED_WITH_WINDOW = {
    "static": {0.9: 0.3, 0.95: 0.3, 0.98: 0.4, 0.99: 0.5},  # Which has no use for one.
    "RigL": {0.9: 0.2, 0.95: 0.3, 0.98: 0.3, 0.99: 0.3},
    "SRigL without ablation": {0.9: 0.2, 0.95: 0.4, 0.98: 0.4, 0.99: 0.5},
    "SRigL": {0.9: 0.2, 0.95: 0.4, 0.98: 0.4, 0.99: 0.6},
}

HELD_OUT = 10_000
SETTINGS: dict[str, Fields] = {
    "delta_t 20": {"delta_t": 20},
    "delta_t 100": {"delta_t": 100},
    "alpha 0": {"alpha": 0.0},
    "alpha 0.5": {"alpha": 0.5},
    "t_end 0.5": {"t_end": 0.5},
    "t_end 0.95": {"t_end": 0.95},
    "the model's own initialisation": {"sparse_init": False},
    "uniform": {"distribution": "uniform"},
    "all candidates": {"growth_candidates": "all"},
    f"window of {WINDOW}": {"gradient_window": WINDOW},
}


def _methods(config: ConfigDict) -> dict[str, Fields]:
    """All; those that start dense have the rate that is best for dense training."""
    rate = {"optimizer.learning_rate": DENSE_RATE * config.optimizer.learning_rate}
    return {
        name: fields | (rate if fields["method"] in START_DENSE else {})
        for name, fields in METHODS.items()
    }


def _main(config: ConfigDict) -> dict[str, Fields]:
    found = _methods(config)
    return {name: found[name] for name in MAIN}


def _gammas(config: ConfigDict) -> dict[str, Fields]:
    found = _methods(config)
    return {f"SRigL, gamma {g:g}": found["SRigL"] | {"gamma_sal": g} for g in GAMMAS}


def _blocks(config: ConfigDict) -> dict[str, Fields]:
    found = {"RigL, padded": _padded(config, "RigL")}
    for name in ("SRigL", "SR-STE"):
        for block in (*BLOCKS, None):
            fields = _padded(config, name) | {"block": block}
            found[f"{name}, M = {block or 'fan-in'}"] = fields
    return found


def _inference(config: ConfigDict) -> dict[str, Fields]:
    found = {
        f"{name}, padded": _padded(config, name)
        for name in ("dense", "RigL", "neuron pruning")
    }
    for block in (None, 32):
        fields = _padded(config, "SRigL") | {"block": block}
        found[f"SRigL, M = {block or 'fan-in'}"] = fields
    return found


def _padded(config: ConfigDict, name: str) -> Fields:
    """Of images of 32 x 32, so that each block divides every fan-in."""
    padded = {"dataset.image_shape": (32, 32, 1), "distribution": "uniform"}
    return _methods(config)[name] | padded


def _settings(config: ConfigDict) -> dict[str, Fields]:
    """What else might decide between structured and unstructured masks."""
    found = _methods(config)
    return {
        f"{name}, {setting}": found[name] | fields
        for setting, fields in SETTINGS.items()
        for name in ("RigL", "SRigL")
    }


def _rankings(config: ConfigDict) -> dict[str, Fields]:
    """Budgets of layers by ERK, and by one ranking of all weights."""
    found = _methods(config)
    names = ("SNIP", "GraSP", "one-shot pruning", "gradual pruning", "lottery ticket")
    ranked = {f"{n}, one ranking": found[n] | {"distribution": "global"} for n in names}
    return {name: found[name] for name in names} | ranked


def _tickets(config: ConfigDict) -> dict[str, Fields]:
    """Lottery tickets of more and fewer rounds, and of weights from early training."""
    found = _methods(config)
    ticket = found["lottery ticket"]
    rounds = {f"{n} round{'s' * (n > 1)}": {"pruning.rounds": n} for n in ROUNDS}
    rewound = {f"rewound to step {REWOUND}": {"pruning.rewind_step": REWOUND}}
    return {"lottery ticket": ticket} | {
        f"lottery ticket, {how}": ticket | fields
        for how, fields in (rounds | rewound).items()
    }


def _longer(config: ConfigDict) -> dict[str, Fields]:
    found = _methods(config)
    return {
        f"{name}, {times}x as long": found[name] | {"epochs": times * config.epochs}
        for times in LENGTHS
        for name in MAIN
    }


def _tuned(config: ConfigDict) -> dict[str, Fields]:
    """Each at the rate that is best for it, then with gradients of some steps as well.

    Rates are of the study of rates, the window is of that of settings.
    """
    found, rate = _methods(config), "optimizer.learning_rate"
    return {
        f"{name}, tuned": found[name] | {rate: rates} for name, rates in TUNED.items()
    } | {
        f"{name}, tuned, window of {WINDOW}": found[name]
        | {rate: rates, "gradient_window": WINDOW}
        for name, rates in TUNED_WITH_WINDOW.items()
    }


def _rates(config: ConfigDict) -> dict[str, Fields]:
    held_out = {"dataset.validation": HELD_OUT}
    return {
        f"{name}, rate {rate:g}": METHODS[name]
        | {"optimizer.learning_rate": rate}
        | held_out
        for name in MAIN
        for rate in RATES[config.optimizer.name]
    }


@dataclasses.dataclass(frozen=True)
class Study:
    """Cells that answer one question.

    Attributes:
      variants: from the config of the network to fields by name.
      sparsities: at each of which a variant is trained, but dense ones.
    """

    variants: Callable[[ConfigDict], dict[str, Fields]]
    sparsities: tuple[float, ...]


STUDIES = {
    "methods": Study(_methods, (0.8, 0.9, 0.95, 0.98, 0.99)),
    "main": Study(_main, (0.9, 0.95, 0.99)),
    "gammas": Study(_gammas, (0.99,)),
    "blocks": Study(_blocks, (0.75, 0.875)),
    "inference": Study(_inference, (0.8, 0.9, 0.95)),
    "rankings": Study(_rankings, (0.8, 0.9, 0.95, 0.98, 0.99)),
    "tickets": Study(_tickets, (0.9, 0.99)),
    "longer": Study(_longer, (0.95, 0.99)),
    "settings": Study(_settings, (0.99,)),
    "tuned": Study(_tuned, (0.9, 0.95, 0.98, 0.99)),
    "rates": Study(_rates, (0.9, 0.99)),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A network to train.

    Attributes:
      variant: its name in tables.
      sparsity: 0 of dense ones.
      seed: of weights, masks and order of the data.
      fields: of the variant.
      config: what all that amounts to.
      directory: of its row.
    """

    variant: str
    sparsity: float
    seed: int
    fields: Fields
    config: ConfigDict
    directory: Path

    @property
    def is_claimed(self) -> bool:
        """Whether its directory has a config, be it of another cell."""
        return (self.directory / "config.json").exists()

    @property
    def is_finished(self) -> bool:
        """Whether it has a row."""
        return (self.directory / ROW).exists()

    def claim(self) -> None:
        """Makes its directory, with its config.

        Raises:
          ValueError: it is of another config; names the fields that differ.
        """
        check_workdir(self.directory, self.config)

    def row(self) -> dict[str, Any]:
        """What became of it, once it is finished."""
        return json.loads((self.directory / ROW).read_text())


def make_cells(
    config: ConfigDict,
    variants: dict[str, Fields],
    sparsities: Iterable[float],
    seeds: Iterable[int],
    root: Path,
) -> list[Cell]:
    """The cells of a matrix, those that differ only in their seed side by side.

    Args:
      config: of the network.
      variants: fields that differ, by name.
      sparsities: of all variants that are not dense, but for those at which a field of
        a variant has no value.
      seeds: of each.
      root: of the cells' directories.

    Raises:
      ValueError: as `srigl_jax.config.validate`.
    """
    sparsities, seeds = list(sparsities), list(seeds)
    cells = []
    for variant, fields in variants.items():
        for sparsity in [0.0] if fields["method"] == "dense" else sparsities:
            here = {name: _at(value, sparsity) for name, value in fields.items()}
            if _NOWHERE in here.values():
                continue
            for seed in seeds:
                made = ConfigDict(config.to_dict())
                made.update_from_flattened_dict(
                    here | {"sparsity": sparsity, "seed": seed}
                )
                validate(made)
                directory = root / f"{_slug(variant)}-{sparsity:g}-{seed}"
                cells.append(Cell(variant, sparsity, seed, fields, made, directory))
    return cells


def check_claims(cells: Iterable[Cell]) -> None:
    """Refuses cells whose directories are of other configs, before any is trained.

    Raises:
      ValueError: as `Cell.claim`.
    """
    for cell in cells:
        if cell.is_claimed:
            cell.claim()


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells that can be trained together: those that differ only in their seed."""

    def kind(cell):
        return cell.variant, cell.sparsity

    return [list(found) for _, found in itertools.groupby(cells, kind)]


def _at(value: Any, sparsity: float) -> Any:
    return value.get(sparsity, _NOWHERE) if isinstance(value, dict) else value


def _slug(variant: str) -> str:
    return re.sub(r"[^0-9A-Za-z.]+", "-", variant)
