"""A WordNet of forty nouns in the true format, and a run on it."""

from pathlib import Path

from ml_collections import ConfigDict

from srigl_jax.extreme.config import get_config

KINDS = ("dog", "bird", "tree", "stone", "boat")
SIZES = ("tiny", "small", "grey", "red", "old", "young", "wild", "heavy")


def write(directory: Path) -> Path:
    """Five kinds; each of eight nouns points to its kind, and the kind to two."""
    lines = ["  1 This software and database is being provided to you\n"]
    for kind, name in enumerate(KINDS):
        own = [place(kind, i) for i in range(1, 1 + len(SIZES))]
        lines.append(synset(place(kind, 0), name, own[:2], f"any {name} at all"))
        for i, size in enumerate(SIZES):
            gloss = f"a {size} {name} of the {name} kind"
            lines.append(synset(own[i], f"{size}_{name}", [place(kind, 0)], gloss))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "data.noun").write_text("".join(lines))
    for name in ("data.verb", "data.adj", "data.adv"):
        (directory / name).write_text("")
    return directory


def place(kind: int, number: int) -> str:
    return f"{1000 * kind + number + 1:08d}"


def synset(own: str, name: str, pointers: list[str], gloss: str) -> str:
    pointed = "".join(f"@ {target} n 0000 " for target in pointers)
    return f"{own} 03 n 01 {name} 0 {len(pointers):03d} {pointed}| {gloss}  \n"


def config(source: Path, **fields) -> ConfigDict:
    """Twenty-four steps of batches of 8; `fields` with __ for a dot."""
    made = get_config()
    made.epochs = 6
    made.dataset.source_dir = str(source)
    made.log_every = 5
    made.eval_every = 10
    made.checkpoint_every = 7
    made.settings.update(
        {"width": 64, "k": 8, "batch_size": 8, "negatives": 0, "delta_t": 3}
    )
    made.settings.update({"clusters": 4, "growth_batches": 2, "learning_rate": 300.0})
    dotted = {name.replace("__", "."): value for name, value in fields.items()}
    made.update_from_flattened_dict(dotted)
    return made
