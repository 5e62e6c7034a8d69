"""Runs that are stopped, killed, or done already, and started again."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from runs import bits, environ, recorded_steps, records, result, tiny, tiny_convnet

from srigl_jax import train as train_lib
from srigl_jax.data import InMemoryDataset
from srigl_jax.train import Stopped, train

CONFIGS = {
    "dense": lambda data_dir: tiny(data_dir, method="dense"),
    "static": lambda data_dir: tiny(data_dir, method="static"),
    "rigl": lambda data_dir: tiny(data_dir, method="rigl"),
    "srigl": lambda data_dir: tiny(data_dir, gradient_window=3),
    "set": lambda data_dir: tiny(data_dir, method="set", optimizer__name="adamw"),
    "convnet": tiny_convnet,
    "recipe": lambda data_dir: tiny_convnet(
        data_dir,
        accumulate=4,
        dtype="bfloat16",
        ema=0.9,
        gradient_window=3,
        optimizer__name="rmsprop",
        optimizer__learning_rate=0.01,
        optimizer__schedule="multistep",
        optimizer__decay_at=(1, 2),
        optimizer__clip_norm=1.0,
    ),
    "augmented": lambda data_dir: tiny_convnet(
        data_dir, augment__crop_padding=1, augment__flip=True, augment__mixup=0.2
    ),
}
STEPS = 66

LONG = {"epochs": 15, "checkpoint_every": 10, "eval_every": 100}
LONG_STEPS = 330


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Spares every run the pictures, which take longer than its training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def uninterrupted(request, data_dir, tmp_path_factory):
    config = CONFIGS[request.param](data_dir)
    workdir = tmp_path_factory.mktemp(request.param)
    train(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def long_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("long")
    train(tiny(data_dir, **LONG), workdir)
    return workdir


def before_step(monkeypatch, number, action):
    """Calls `action` when the batch of step `number`, from 1, is asked for."""
    train_batches = InMemoryDataset.train_batches

    def batches_of(dataset, seed, batch_size, **options):
        start = options["start"]
        batches = train_batches(dataset, seed, batch_size, **options)
        for step, batch in enumerate(batches, start):
            if step + 1 == number:
                action()
            yield batch

    monkeypatch.setattr(InMemoryDataset, "train_batches", batches_of)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash(*args, **kwargs):
    raise RuntimeError("crash")


def assert_same_run(workdir, expected, step, stopped=()):
    """Of a run that was stopped after some steps, which have a "train" record more."""
    assert bits(workdir, step) == bits(expected, step)
    assert result(workdir) == result(expected)
    logged = {*recorded_steps(expected, "train"), *stopped}
    assert recorded_steps(workdir, "train") == sorted(logged)
    for kind in ("eval", "topology"):
        assert records(workdir, kind) == records(expected, kind)


def test_a_stopped_run_resumes_bit_for_bit(uninterrupted, tmp_path, monkeypatch):
    config, expected = uninterrupted
    with monkeypatch.context() as patch:
        before_step(patch, 33, terminate)
        with pytest.raises(Stopped, match="after step 33 of 66, which is saved"):
            train(config, tmp_path)
    train(config, tmp_path)
    assert_same_run(tmp_path, expected, STEPS, stopped=[33])
    losses = {r["step"]: r["loss"] for r in records(tmp_path, "train")}
    (whole,) = [r["loss"] for r in records(expected, "train") if r["step"] == 40]
    assert (3 * losses[33] + 7 * losses[40]) / 10 == pytest.approx(whole, rel=1e-6)


def test_a_run_that_crashed_resumes_from_its_last_checkpoint(
    long_run, data_dir, tmp_path, monkeypatch, capsys
):
    config = tiny(data_dir, **LONG)
    with monkeypatch.context() as patch:
        before_step(patch, 298, crash)
        with pytest.raises(RuntimeError, match="crash"):
            train(config, tmp_path)
    train(config, tmp_path)
    assert f"resuming after step 290 of {LONG_STEPS}" in capsys.readouterr().out
    assert_same_run(tmp_path, long_run, LONG_STEPS)


def test_a_run_killed_while_it_was_evaluated_is_evaluated_when_resumed(
    long_run, data_dir, tmp_path, monkeypatch
):
    config = tiny(data_dir, **LONG)
    with monkeypatch.context() as patch:
        patch.setattr(InMemoryDataset, "eval_batches", crash)
        with pytest.raises(RuntimeError, match="crash"):
            train(config, tmp_path)
    assert recorded_steps(tmp_path, "eval") == []
    train(config, tmp_path)
    assert_same_run(tmp_path, long_run, LONG_STEPS)


def test_signals_are_noted_until_everything_is_saved(data_dir, tmp_path, monkeypatch):
    handlers = []
    leave = train_lib.Checkpoints.__exit__

    def noting(saved, *exception):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return leave(saved, *exception)

    monkeypatch.setattr(train_lib.Checkpoints, "__exit__", noting)
    before_step(monkeypatch, 5, terminate)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(tiny(data_dir), tmp_path)
    assert handlers != [before]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_crashed_before_its_first_checkpoint_starts_again(
    data_dir, tmp_path, monkeypatch
):
    config = tiny(data_dir, method="static")
    with monkeypatch.context() as patch:
        before_step(patch, 12, crash)
        with pytest.raises(RuntimeError, match="crash"):
            train(config, tmp_path)
    train(config, tmp_path)
    assert recorded_steps(tmp_path, "topology") == [0]
    assert recorded_steps(tmp_path, "train") == [10, 20, 30, 40, 50, 60, STEPS]


def test_a_finished_run_is_not_trained_again(long_run, data_dir, monkeypatch, capsys):
    before = (long_run / "result.json").read_text()
    monkeypatch.setattr(
        InMemoryDataset, "train_batches", lambda *args, **kwargs: map(crash, [0])
    )
    train(tiny(data_dir, **LONG), long_run)
    assert f"finished before, after {LONG_STEPS} steps" in capsys.readouterr().out
    assert (long_run / "result.json").read_text() == before


def start(workdir, data_dir):
    """Starts the command that `long_run` amounts to, in a process of its own."""
    config = {
        "model.widths": "(16,)",
        "sparsity": 0.5,
        "delta_t": 7,
        "log_every": 10,
        "dataset.data_dir": data_dir,
        "mesh.data": 1,
        **LONG,
    }
    overrides = [f"--config.{name}={value}" for name, value in config.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "srigl_jax.train", "--workdir", workdir, *overrides],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process, workdir, step):
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or f'"step": {step},' not in metrics.read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def test_sigterm_saves_and_the_same_command_resumes(long_run, data_dir, tmp_path):
    with start(tmp_path, data_dir) as process:
        wait_for_step(process, tmp_path, 30)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    stopped = re.search(
        rf"stopped after step (\d+) of {LONG_STEPS}, which is saved; the same command "
        "resumes",
        out,
    )
    with start(tmp_path, data_dir) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resuming after step" in out
    assert_same_run(tmp_path, long_run, LONG_STEPS, stopped=[int(stopped.group(1))])


def test_kill_9_at_a_random_moment_loses_nothing_saved(long_run, data_dir, tmp_path):
    with start(tmp_path, data_dir) as process:
        wait_for_step(process, tmp_path, 20)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    train(tiny(data_dir, **LONG), tmp_path)
    assert_same_run(tmp_path, long_run, LONG_STEPS)
