"""Networks that the story kept compute in every form what they were trained to."""

import numpy as np
import pytest
import story
import story_inference
import story_matrix
import story_speed
from runs import tiny

from srigl_jax import data


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cell of each form, trained for an epoch; and their data."""
    root = tmp_path_factory.mktemp("story")
    config = tiny(root / "data", epochs=1, optimizer__warmup_epochs=0.5)
    names = {
        "dense, padded": "dense",
        "RigL, padded": "RigL",
        "SRigL, M = fan-in": "SRigL",
    }
    chosen = {name: story_matrix.METHODS[method] for name, method in names.items()}
    cells = story_matrix.make_cells(config, chosen, [0.5], [0], root / "cells")
    list(story.run(cells, jobs=1, mode="map", keep=True))
    return cells, data.load(**config.dataset.to_dict())


def test_every_form_has_the_accuracy_of_its_row(kept):
    cells, dataset = kept
    (batch,) = dataset.eval_batches(360)
    images = batch["image"].astype(np.float32)
    images = (images - np.float32(dataset.mean)) / np.float32(dataset.std)
    for cell in cells:
        model, masks = story_inference.load_network(
            cell.config, cell.directory / story_matrix.NETWORK, dataset
        )
        logits = np.asarray(story_inference.jitted(model, images)())
        right = (logits.argmax(-1) == batch["label"])[: dataset.num_test].mean()
        assert right == pytest.approx(cell.row()["accuracy"], abs=2e-3)
        call, form = story_inference.make_call(cell, dataset, images[:1])
        np.testing.assert_allclose(call(), logits[:1], rtol=1e-3, atol=1e-3)
        if cell.variant == "RigL, padded":
            assert form == "scipy CSR"


def test_a_network_that_computes_something_else_is_refused(kept, monkeypatch):
    cells, dataset = kept
    (cell,) = [cell for cell in cells if cell.variant == "RigL, padded"]
    monkeypatch.setattr(
        story_inference, "csr", lambda model, x: lambda: np.ones((1, 10))
    )
    with pytest.raises(ValueError, match="as scipy CSR it is off by"):
        story_inference.make_call(cell, dataset, np.ones((1, 8, 8, 1), np.float32))


def test_the_time_of_all_runs_is_extrapolated_from_a_sample():
    runs = [{"wall": w, "processor": p} for w, p in ((10, 8), (900, 9), (15, 10))]
    found = story_speed.summary(runs, {"wall": 100.0, "processor": 60.0}, count=60)
    assert found["extrapolated"] == {"wall": 900.0, "processor": 540.0}
    assert found["faster"] == {"wall": 9.0, "processor": 9.0}


def test_a_process_that_fails_is_shown_with_what_it_said():
    with pytest.raises(RuntimeError, match="failed:\nno such thing"):
        story_speed.timed(["sh", "-c", "echo no such thing; exit 3"])
