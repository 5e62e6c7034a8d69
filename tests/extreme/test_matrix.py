"""Features given as a dense matrix."""

import numpy as np
import problems
import pytest
import runs
import scipy.sparse
import tiny_wordnet

from srigl_jax.extreme import run
from srigl_jax.extreme.config import validate
from srigl_jax.extreme.data import corpus
from srigl_jax.train import train

WIDTH, LABELS = 24, 6


def config(directory, **fields):
    fields = {"settings__width": 0, "settings__most_features": 2} | fields
    made = tiny_wordnet.config(directory, dataset__name="matrix", **fields)
    made.settings.update({"clusters": 3})
    return made


@pytest.fixture
def directory(tmp_path):
    """Examples near the mean of their label; some have another label too."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(LABELS, WIDTH))
    for split, count in (("train", 64), ("test", 30)):
        first = np.arange(count) % LABELS
        features = means[first] + 0.1 * rng.normal(size=(count, WIDTH))
        second = np.where(np.arange(count) % 4 == 0, first[::-1], -1)
        np.save(tmp_path / f"{split}_features.npy", features)
        np.save(tmp_path / f"{split}_labels.npy", np.stack([first, second], 1))
    return tmp_path


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "positives"},
        {"method": "gradient"},
        {"method": "bottleneck"},
        {"method": "set", "width": 16, "encoder_rate": 0.01},
    ],
    ids=lambda fields: fields["method"],
)
def test_a_matrix_is_learned(directory, tmp_path, fields):
    fields = {f"settings__{name}": value for name, value in fields.items()}
    workdir = tmp_path / "run"
    result = train(config(directory, **fields), workdir)
    assert result["P@1"] > 0.9
    assert runs.result(workdir)["split"] == "test"


@pytest.mark.parametrize(("width", "encoder_rate"), [(0, 0), (16, 0), (16, 0.01)])
def test_all_features_of_a_row_count_as_those_of_a_sparse_one_do(
    directory, width, encoder_rate
):
    fields = {"settings__width": width, "settings__encoder_rate": encoder_rate}
    made = config(directory, **fields)
    found = []
    for sparse in (False, True):
        data = corpus.load(**made.dataset)
        if sparse:
            object.__setattr__(data, "train", scipy.sparse.csr_matrix(data.train))
            object.__setattr__(data, "held_out", scipy.sparse.csr_matrix(data.held_out))
            made.settings.most_features = WIDTH
        task = run.Task(validate(made), data, 0, 1)
        state = task.init()
        for step in range(task.total_steps):
            state, loss = task.step(state, step)
        logits, labels = task.network.top(state, task.held_out, LABELS)
        found.append((loss, np.take_along_axis(logits, np.argsort(labels, 1), 1)))
    problems.assert_close(*found, 1e-4)


def test_a_label_named_twice_counts_once(directory):
    path = directory / "train_labels.npy"
    numbers = np.load(path)
    numbers[:, 1] = numbers[:, 0]
    np.save(path, numbers)
    assert corpus.load("matrix", directory).frequencies.sum() == 64


def spoiled(name, change):
    def spoil(directory):
        path = directory / f"{name}.npy"
        array = np.load(path)
        np.save(path, change(array))

    return spoil


def with_at(value):
    def change(array):
        array[3, 1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: (d / "test_labels.npy").unlink(),
            "matrix: .* lacks test_labels.npy: name the directory that holds features",
        ),
        (
            lambda d: (d / "train_features.npy").write_bytes(b"\x93NUMPY"),
            "train_features.npy is no array of numpy.save, or truncated",
        ),
        (
            spoiled("test_features", lambda a: a.astype(object)),
            "test_features.npy is no array of numpy.save",
        ),
        (
            spoiled("train_features", lambda a: a[0]),
            r"train_features.npy is float64\[24\]: it must be f\[examples, width\]",
        ),
        (
            spoiled("test_features", lambda a: a[:, 1:]),
            "test_features.npy has 23 features, train_features.npy 24",
        ),
        (
            spoiled("train_features", with_at(np.nan)),
            "train_features.npy: feature 1 of example 3 is nan",
        ),
        (
            spoiled("train_features", with_at(1e300)),
            "train_features.npy: feature 1 of example 3 is 1e.300: all must be finite",
        ),
        (
            spoiled("test_labels", lambda a: a.astype(float)),
            "test_labels.npy is float64.*must be int",
        ),
        (
            spoiled("test_labels", lambda a: a[1:]),
            "test_labels.npy has 29 rows, but there are 30 examples",
        ),
        (
            spoiled("train_labels", with_at(-2)),
            "train_labels.npy: example 3 has label -2: labels are numbered from 0 to 5",
        ),
        (
            spoiled("test_labels", lambda a: np.minimum(a, -1)),
            "test_labels.npy: example 0 has no label",
        ),
    ],
)
def test_bad_arrays_are_named(directory, spoil, message):
    spoil(directory)
    with pytest.raises(ValueError, match=message):
        corpus.load("matrix", directory)
