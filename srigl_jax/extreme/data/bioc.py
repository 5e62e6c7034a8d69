"""Sets of texts from the SQLite files of Debian's Bioconductor packages.

- *go*: from the name and definition of a term of the Gene Ontology to its direct
  parents; 43,558 terms, 19,624 labels (r-bioc-go.db, CC BY 4.0).
- *genes*: from what is known of a human gene, its name, aliases, chromosome, GO terms
  and protein families, to the articles that cite it, those of more than 50 genes aside;
  27,063 genes, 753,521 labels (r-bioc-org.hs.eg.db; from NCBI's Gene and others).
"""

import contextlib
import os
import pathlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator

from srigl_jax.extreme.data.texts import Texts, number
from srigl_jax.extreme.data.wordnet import is_test

R_DIR = "/usr/lib/R/site-library"
GO_FILE = "GO.db/extdata/GO.sqlite"
GENES_FILE = "org.Hs.eg.db/extdata/org.Hs.eg.sqlite"
MOST_GENES = 50
"""An article of more genes says little of any: a catalogue, a genome."""


def load_go(source_dir: str | os.PathLike[str] | None = None) -> Texts:
    """Terms of the Gene Ontology and their direct parents.

    Args:
      source_dir: the R library that holds GO.db; None for Debian's.

    Raises:
      ValueError: the file is missing, or damaged.
    """
    with _opened(source_dir, GO_FILE, "r-bioc-go.db") as database:
        parents = defaultdict(list)
        for ontology in ("bp", "mf", "cc"):
            for child, parent in database.execute(
                f"select _id, _parent_id from go_{ontology}_parents order by 1, 2"
            ):
                if parent not in parents[child]:
                    parents[child].append(parent)
        terms = database.execute(
            "select _id, go_id, term, definition from go_term order by go_id"
        ).fetchall()
    names = {i: f"{term}.{go_id}" for i, go_id, term, _ in terms}
    examples = (
        (go_id, f"{term}: {definition}", [names[p] for p in parents[i] if p in names])
        for i, go_id, term, definition in terms
    )
    return _split(examples)


def load_genes(source_dir: str | os.PathLike[str] | None = None) -> Texts:
    """Human genes and the PubMed ids of the articles that cite them.

    Args:
      source_dir: the R library that holds org.Hs.eg.db; None for Debian's.

    Raises:
      ValueError: the file is missing, or damaged.
    """
    with _opened(source_dir, GENES_FILE, "r-bioc-org.hs.eg.db") as database:
        words = defaultdict(list)
        for table, column in (
            ("alias", "alias_symbol"),
            ("chromosomes", "'chromosome' || chromosome"),
            ("go", "go_id"),
            ("pfam", "pfam_id"),
        ):
            query = f"select distinct _id, {column} from {table} order by 1, 2"
            for gene, word in database.execute(query):
                if word:  # One word each: GO:0003674 would be two.
                    words[gene].append(word.replace(":", "").replace("-", ""))
        articles = defaultdict(list)
        for gene, article in database.execute(
            "select distinct _id, pubmed_id from pubmed where pubmed_id in (select "
            "pubmed_id from pubmed group by 1 having count(distinct _id) <= ?) "
            "order by 1, 2",
            [MOST_GENES],
        ):
            articles[gene].append(f"PMID{article}")
        genes = database.execute(
            "select i._id, gene_id, gene_name from gene_info i join genes g on "
            "i._id = g._id order by gene_id"
        ).fetchall()
    examples = (
        (gene_id, " ".join([name, *words[i]]), articles[i])
        for i, gene_id, name in genes
    )
    return _split(examples)


def _split(examples) -> Texts:
    """Those with labels; a fifth, by the hash of their identity, to test by."""
    train, test = [], []
    for identity, text, names in examples:
        if names:
            split = test if is_test(identity) else train
            split.append((text, names))
    return number(train, test)


@contextlib.contextmanager
def _opened(source_dir, name, package) -> Iterator[sqlite3.Connection]:
    path = pathlib.Path(source_dir or R_DIR).expanduser().absolute() / name
    if not path.is_file():
        raise ValueError(
            f"there is no {path}. Install Debian's package (apt-get install {package}),"
            " or name the R library that holds it"
        )
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        with contextlib.closing(database):
            yield database
    except sqlite3.Error as error:
        raise ValueError(f"{path} is damaged, or not of {package}: {error}") from error
