"""The results of a study: rows that commands add, tables and pictures of them all."""

import dataclasses

import measure
import results_file
import story_pictures
import story_tables
from ml_collections import ConfigDict
from story_matrix import Fields


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a study, which commands add their rows to.

    Attributes:
      name: of the files.
      study: of `story_matrix.STUDIES`.
      config: of the network.
      variants: of the study, fields of the config by name.
    """

    name: str
    study: str
    config: ConfigDict
    variants: dict[str, Fields]

    def earlier(self) -> list[story_tables.Row]:
        """The rows that are there.

        Raises:
          ValueError: they are of another config or of variants of another meaning.
        """
        path = measure.RESULTS / f"{self.name}.json"
        rows = results_file.read_rows(path, results_file.described(self.config))
        results_file.check_fields(rows, "variant", self.variants)
        return rows

    def add(self, rows: list[story_tables.Row]) -> None:
        """Writes rows beside those that are there, and prints all as tables."""
        order = list(self.variants)
        rows = results_file.beside(rows, self.earlier(), "variant", order)
        print(story_tables.markdown(rows))
        differences = story_tables.differences(rows)
        if differences:
            print(f"\n{story_tables.differences_markdown(differences)}")
        print(f"\n{story_tables.time_taken(rows)}")
        content = {
            "config": results_file.described(self.config),
            "rows": rows,
            "differences": differences,
        }
        print(f"saved {measure.save(self.name, content)}")
        for path in story_pictures.draw(rows, self.study, measure.RESULTS / self.name):
            print(f"saved {path}")
