import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from srigl_jax.metrics import MetricsWriter, read_metrics, series

TRAIN_1 = '{"kind": "train", "step": 1, "loss": 2.5}\n'
TRAIN_2 = '{"kind": "train", "step": 2, "loss": 2.0}\n'


def test_a_record_is_one_json_line(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, loss=2.5)
    assert (tmp_path / "metrics.jsonl").read_text() == TRAIN_1


def test_write_returns_the_record(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        record = writer.write("eval", np.int32(3), accuracy=0.5)
    assert record == {"kind": "eval", "step": 3, "accuracy": 0.5}


def test_a_record_can_be_read_while_the_writer_is_open(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, loss=2.5)
        assert len(read_metrics(writer.path)) == 1


def test_jax_and_numpy_scalars_become_numbers(tmp_path):
    layers = {"fc": {"active": np.int64(3)}}
    with MetricsWriter(tmp_path) as writer:
        writer.write("topology", jnp.int32(4), loss=jnp.bfloat16(0.5), layers=layers)
    assert read_metrics(writer.path) == [
        {
            "kind": "topology",
            "step": 4,
            "loss": 0.5,
            "layers": {"fc": {"active": 3}},
        }
    ]


def test_an_array_is_refused_by_name(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=r"'layers/fc' has shape \(2,\)"):
            writer.write("train", 1, layers={"fc": np.zeros(2)})


def test_values_that_are_not_finite_are_stored_as_strict_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, loss=jnp.nan, low=-math.inf)
    stored = json.loads(writer.path.read_text(), parse_constant=refuse)
    assert (stored["loss"], stored["low"]) == ("NaN", "-Infinity")


def test_values_that_are_not_finite_are_read_back_as_floats(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, loss=math.nan, low=-math.inf)
    (record,) = read_metrics(writer.path)
    assert math.isnan(record["loss"]) and record["low"] == -math.inf


def test_a_half_written_last_line_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(TRAIN_1 + TRAIN_2[:-9])
    assert [record["step"] for record in read_metrics(path)] == [1]


def test_opening_drops_a_half_written_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(TRAIN_1 + TRAIN_2[:-9])
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 2, loss=2.0)
    assert path.read_text() == TRAIN_1 + TRAIN_2


def test_opening_keeps_a_last_line_that_lost_only_its_newline(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(TRAIN_1.rstrip())
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 2, loss=2.0)
    assert path.read_text() == TRAIN_1 + TRAIN_2


@pytest.mark.parametrize("garbage", ["{", "7", '{"step": 1}', '{"kind": "a"}', "\xff"])
def test_garbage_in_the_middle_is_an_error_that_names_the_line(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    path.write_text(TRAIN_1 + garbage + "\n" + TRAIN_2, encoding="latin-1")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        read_metrics(path)


def test_truncate_after_drops_later_steps_only(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write("train", step, loss=math.nan)
        writer.truncate_after(2)
        writer.write("train", 3, loss=0.5)
    records = read_metrics(writer.path)
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[2]["loss"] == 0.5


def test_truncate_after_leaves_kept_lines_byte_for_byte(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write("train", 1, loss=math.nan, rate=1 / 3)
        before = writer.path.read_bytes()
        writer.write("train", 2, loss=0.1)
        writer.truncate_after(1)
    assert writer.path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_workdir_that_is_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="workdir '.*run': cannot write"):
        MetricsWriter(tmp_path / "run")


def test_missing_tensorboardx_names_the_field_and_the_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"tensorboard.*pip install \"srigl_jax\[tens"):
        MetricsWriter(tmp_path, tensorboard=True)


def test_tensorboard_gets_nested_numbers_as_scalars(tmp_path, monkeypatch):
    written = []
    tensorboardx = pytest.importorskip("tensorboardX")
    monkeypatch.setattr(
        tensorboardx.SummaryWriter, "add_scalar", lambda _, *args: written.append(args)
    )
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.write("topology", 5, layers={"fc": {"active": 3}}, note="text")
    assert written == [("topology/layers/fc/active", 3, 5)]


def test_tensorboard_is_told_to_purge_what_was_truncated(tmp_path, monkeypatch):
    opened = []
    tensorboardx = pytest.importorskip("tensorboardX")
    open_board = tensorboardx.SummaryWriter

    def recorded(logdir, **options):
        opened.append((logdir, options))
        return open_board(logdir, **options)

    monkeypatch.setattr(tensorboardx, "SummaryWriter", recorded)
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.write("train", 7, loss=np.float32(1))
        writer.truncate_after(4)
    logdir = str(tmp_path / "tensorboard")
    assert opened == [(logdir, {}), (logdir, {"purge_step": 5})]


def test_tensorboard_gets_what_is_written_after_a_truncation(tmp_path, monkeypatch):
    written = []
    tensorboardx = pytest.importorskip("tensorboardX")
    with MetricsWriter(tmp_path, tensorboard=True) as writer:
        writer.truncate_after(0)
        monkeypatch.setattr(
            tensorboardx.SummaryWriter,
            "add_scalar",
            lambda _, *args: written.append(args),
        )
        writer.write("train", 1, loss=0.5)
    assert written == [("train/loss", 0.5, 1)]


def test_series_keeps_finite_values_of_one_kind():
    records = [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "eval", "step": 1, "loss": 9.0},
        {"kind": "train", "step": 2, "loss": math.nan},
        {"kind": "train", "step": 3},
        {"kind": "train", "step": 4, "loss": 1},
    ]
    steps, values = series(records, "train", "loss")
    assert steps.tolist() == [1, 4] and values.tolist() == [2.0, 1.0]


def test_series_of_nothing_is_empty():
    steps, values = series([], "train", "loss")
    assert steps.shape == values.shape == (0,)
