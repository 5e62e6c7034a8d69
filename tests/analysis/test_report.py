from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from srigl_jax.analysis.report import write_report

VOID = {"meta", "link", "img", "br", "hr"}
MASK = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
SPARSE = {
    "name": "hidden<0>",
    "shape": (4, 4),
    "sparse": True,
    "density_asked": 0.5,
    "density_got": 0.375,
    "fan_in_min": 2,
    "fan_in_max": 2,
    "neurons": 4,
    "active": 3,
    "may_ablate": True,
    "weights": 6,
}
DENSE = SPARSE | {"name": "out", "sparse": False, "density_got": 1.0, "weights": 16}
TOPOLOGY = {"hidden<0>": {"active": 3, "neurons": 4, "fan_in": 2, "weights": 6}}
METRICS = [
    {"kind": "topology", "step": 0, "layers": TOPOLOGY},
    {"kind": "train", "step": 10, "loss": 2.0, "accuracy": 0.1},
    {"kind": "eval", "step": 10, "loss": 2.0, "accuracy": 0.25},
]


class Page(HTMLParser):
    """Collects what a browser would: tags, attributes, text; checks the nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], Counter(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


PARTS = {
    "title": "SRigL & digits",
    "config": {"model": {"widths": (4, 4)}, "note": "<script>alert(1)</script>"},
    "rows": [SPARSE, DENSE],
    "metrics": METRICS,
    "masks": {"hidden<0>": MASK},
    "image_shape": (2, 2, 1),
    "outcome": {
        "accuracy": 0.9722,
        "seconds": 8.0,
        "steps": 2000,
        "flops": {"dense": 2_000_000, "asked": 600_000, "learned": 500_000},
        "topology_end": 1500,
        "versions": {"jax": "9.8.7"},
    },
}


def write(folder, **changes):
    write_report(folder / "report.html", **(PARTS | changes))
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"))


def test_every_tag_that_opens_closes(report):
    assert Page(report).open == []


def test_nothing_is_fetched_and_no_script_runs(report):
    page = Page(report)
    links = [v for name, v in page.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not page.tags["script"] and not page.tags["link"]
    assert "@import" not in report and "url(http" not in report


def test_ids_are_unique_over_all_pictures(report):
    ids = Counter(value for name, value in Page(report).attributes if name == "id")
    assert ids and max(ids.values()) == 1


def test_references_inside_pictures_lead_somewhere(report):
    attributes = Page(report).attributes
    ids = {value for name, value in attributes if name == "id"}
    used = {v[1:] for n, v in attributes if n == "xlink:href" and v.startswith("#")}
    assert used and used <= ids


def test_names_and_values_are_escaped(report):
    assert "<title>SRigL &amp; digits</title>" in report
    assert "hidden&lt;0&gt;" in report and "hidden<0>" not in report
    assert "&lt;script&gt;alert(1)" in report


def test_headline_states_accuracy_sparsity_flops_and_more(report):
    text = Page(report).text
    assert "500 k25.0% of 2 M if dense" in text
    for figure in ("97.22%", "62.50%50.00% asked", "22of 32 if dense", "6of 8", "8 s"):
        assert figure in text


def test_table_has_the_layers_and_their_numbers(report):
    cells = "<td>4 x 4</td><td>50.00%</td><td>37.50%</td><td>2</td><td>3 / 4</td>"
    assert cells in report and "<td>dense</td><td>100.00%</td>" in report


def test_config_is_flattened_and_versions_are_listed(report):
    assert "<dt>model.widths</dt><dd>(4, 4)</dd>" in report
    assert "<dt>jax</dt><dd>9.8.7</dd>" in report


def test_every_picture_is_there(report):
    # Learning curve, active neurons, fan-in, mask and input pixels.
    assert Page(report).tags["svg"] == 5


def test_a_dense_run_without_records_is_a_page_of_its_layers(tmp_path):
    text = write(tmp_path, rows=[DENSE], metrics=[], masks={}, outcome={}, config={})
    page = Page(text)
    assert page.open == [] and page.tags["svg"] == 0
    assert "no sparse layer" in page.text and "Fan-in" not in page.text


def test_a_run_without_topology_records_still_shows_its_masks(tmp_path):
    metrics = [record for record in METRICS if record["kind"] != "topology"]
    assert Page(write(tmp_path, metrics=metrics)).tags["svg"] == 4


def test_another_layer_as_wide_as_the_image_is_not_drawn_on_it(tmp_path):
    rows = [SPARSE | {"name": "first", "shape": (3, 4)}, SPARSE]
    assert "pixels" not in write(tmp_path, rows=rows)


def test_the_split_that_was_measured_is_named_throughout(tmp_path):
    outcome = PARTS["outcome"] | {"split": "validation"}
    text = Page(write(tmp_path, outcome=outcome)).text
    assert "Validation accuracy" in text and "test set" not in text


def test_without_an_image_shape_no_layer_is_drawn_on_the_image(tmp_path):
    assert "pixels" not in write(tmp_path, image_shape=None)


@pytest.mark.parametrize(
    ("mask", "finding"),
    [
        (MASK, "all active neurons have the same fan-in"),
        (np.tri(4, dtype=bool), "Fan-in varies from neuron to neuron in 1 of 1"),
    ],
)
def test_fan_in_heading_states_the_finding(tmp_path, mask, finding):
    assert finding in write(tmp_path, masks={"hidden<0>": mask})


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(tmp_path):
    write(tmp_path, title="Run 1")
    assert "Run 1" not in write(tmp_path, title="Run 2")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
