"""WordNet 3.0: from the definition of a synset to the synsets that its pointers name.

116,650 definitions, 113,595 labels (Princeton University, permissive licence), from the
files of Debian's package wordnet-base. Only direct pointers count: with the closure of
hypernyms the few most frequent labels would answer nearly everything.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from srigl_jax.extreme.data.texts import Texts, number

DEBIAN_DIR = "/usr/share/wordnet"
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
TEST_SHARE = 0.2


class Synset(NamedTuple):
    """A set of synonyms.

    Attributes:
      identity: part of speech and place in its file: "n00001740".
      name: its first word and identity, "entity.n00001740".
      gloss: its definition and examples of use.
      pointers: identities of the synsets that it points to, each once, in order.
      place: its file and line.
    """

    identity: str
    name: str
    gloss: str
    pointers: tuple[str, ...]
    place: str


def load(source_dir: str | os.PathLike[str] | None = None) -> Texts:
    """Definitions and the synsets they point to, a fifth of them to test by.

    Args:
      source_dir: where the four data files are; None for the directory of Debian's
        package.

    Raises:
      ValueError: a file is missing, or damaged: names it and the line.
    """
    directory = pathlib.Path(source_dir or DEBIAN_DIR).expanduser()
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise ValueError(
            f"WordNet: {directory} lacks {', '.join(missing)}. Install Debian's "
            "package (apt-get install wordnet-base), or name the directory that holds "
            "them"
        )
    synsets = [synset for name in FILES for synset in read(directory / name)]
    names = {synset.identity: synset.name for synset in synsets}
    train, test = [], []
    for synset in synsets:
        if synset.pointers:
            split = test if is_test(synset.identity) else train
            split.append((definition(synset.gloss), _pointed(synset, names)))
    return number(train, test)


def read(path: str | os.PathLike[str]) -> Iterator[Synset]:
    """The synsets of one data file, in the format of wndb(5WN).

    Raises:
      ValueError: a line is not of that format, or cut: names file and line.
    """
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, 1):
            if line.startswith(b"  "):  # The licence.
                continue
            place = f"{path}, line {line_number}"
            try:
                yield Synset(*_parse(line.decode()), place)
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: is not UTF-8") from error
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"{place}: is no synset, the file may be truncated"
                ) from error


def definition(gloss: str) -> str:
    """A gloss without what is in quotes, its examples of use; all of it, if no more.

    What people use a word for says little about where it belongs.
    """
    return re.sub(r'"[^"]*"', "", gloss).strip(" ;") or gloss


def is_test(identity: str) -> bool:
    """Whether a synset belongs to the test split, by the hash of its identity."""
    digest = hashlib.sha256(identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64


def _pointed(synset, names):
    """The names of the synsets that one points to."""
    for target in synset.pointers:
        if target not in names:
            raise ValueError(
                f"{synset.place}: points to {target}, which none of the files has: "
                "one of them may be truncated"
            )
    return [names[target] for target in synset.pointers]


def _parse(line):
    """Identity, name, gloss and pointers of a synset."""
    if not line.endswith("\n"):
        raise ValueError("no end of line")
    data, gloss = line.split(" | ", 1)
    fields = data.split()
    identity = _identity(fields[2], fields[0])
    words = int(fields[3], 16)
    start = 4 + 2 * words
    count = int(fields[start])
    pointers = fields[start + 1 : start + 1 + 4 * count]
    if len(pointers) < 4 * count:
        raise ValueError("too few pointers")
    targets = (
        _identity(part, place)
        for place, part in zip(pointers[1::4], pointers[2::4], strict=True)
    )
    name = f"{fields[4]}.{identity}"
    return identity, name, gloss.strip(), tuple(dict.fromkeys(targets))


def _identity(part, place):
    if part not in tuple("nvasr") or len(place) != 8 or not place.isdecimal():
        raise ValueError(f"{part} {place}")
    # Satellite adjectives lie among the others, and some pointers call them those.
    return ("a" if part == "s" else part) + place
