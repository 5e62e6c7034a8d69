"""Means, records and the check for finite numbers."""

import math
import time

import jax.numpy as jnp
import pytest

from srigl_jax.metrics import MetricsWriter, read_metrics
from srigl_jax.monitor import Monitor, NotFiniteError
from srigl_jax.progress import ProgressDisplay


@pytest.fixture
def metrics(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        yield writer


def monitor_of(metrics, step=0, seconds_before=0.0):
    return Monitor(step, metrics, ProgressDisplay(100, enabled=False), seconds_before)


def add(monitor, *losses):
    for loss in losses:
        monitor.add({"loss": jnp.float32(loss), "accuracy": jnp.float32(0.5)})


def test_a_flush_records_the_means_since_the_last_one(metrics):
    monitor = monitor_of(metrics)
    add(monitor, 1.0, 2.0)
    monitor.flush()
    add(monitor, 5.0, 6.0, 10.0)
    monitor.flush()
    records = read_metrics(metrics.path)
    assert [(r["kind"], r["step"], r["loss"]) for r in records] == [
        ("train", 2, 1.5),
        ("train", 5, 7.0),
    ]


def test_a_check_in_between_changes_no_mean(metrics):
    monitor = monitor_of(metrics)
    add(monitor, 1.0)
    monitor.check()
    add(monitor, 3.0)
    monitor.flush()
    assert read_metrics(metrics.path)[0]["loss"] == 2.0


def test_a_flush_shows_the_means(metrics, capsys):
    monitor = monitor_of(metrics, step=40)
    add(monitor, 0.25)
    monitor.flush()
    assert "step 41/100  loss 0.2500  accuracy 0.500" in capsys.readouterr().out


def test_a_flush_of_nothing_records_nothing(metrics):
    monitor = monitor_of(metrics)
    monitor.flush()
    assert read_metrics(metrics.path) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_named(metrics, bad):
    monitor = monitor_of(metrics, step=10)
    add(monitor, 1.0, 2.0, bad, 1.0, bad)
    with pytest.raises(NotFiniteError, match=rf"at step 13: loss is {bad}\."):
        monitor.check()


def test_divergence_says_what_is_kept_and_what_to_try(metrics):
    monitor = monitor_of(metrics)
    add(monitor, math.nan)
    with pytest.raises(NotFiniteError) as error:
        monitor.flush()
    assert "checkpoints of earlier steps are kept" in str(error.value)
    assert "Lower optimizer.learning_rate" in str(error.value)
    assert read_metrics(metrics.path) == []


def test_seconds_go_on_where_the_run_before_left_them(metrics):
    monitor = monitor_of(metrics, step=50, seconds_before=1000.0)
    add(monitor, 1.0)
    monitor.flush()
    assert 1000 <= read_metrics(metrics.path)[0]["seconds"] < 1010


def test_the_first_step_does_not_count_for_the_speed(metrics, monkeypatch):
    clock = iter([0.0, 60.0, 62.0, 62.0])  # Made; first step done; flush; seconds.
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monitor = monitor_of(metrics)
    add(monitor, *[1.0] * 9)
    monitor.flush()
    assert read_metrics(metrics.path)[0]["steps_per_second"] == 4.0  # 8 steps in 2 s.


def test_the_first_step_alone_has_no_speed(metrics):
    monitor = monitor_of(metrics)
    add(monitor, 1.0)
    monitor.flush()
    add(monitor, 1.0)
    monitor.flush()
    first, second = read_metrics(metrics.path)
    assert "steps_per_second" not in first
    assert second["steps_per_second"] > 0
