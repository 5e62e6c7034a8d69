"""The trainer's command: its help, what it makes of errors, and how it exits."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import tiny

from srigl_jax import command_line
from srigl_jax.interrupt import Stopped

CONFIGS = Path(__file__).parent.parent / "configs"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "srigl_jax.train", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.sparsty=0.9"], "no config field sparsty: did you mean sparsity?"),
        (
            ["--config.optimizer.lr=1"],
            "error: --config.optimizer.lr=1: there is no config field optimizer.lr: "
            "did you mean optimizer.learning_rate?\n",
        ),
        (["--config.epochs=many"], "--config.epochs=many: could not convert string"),
        (["--config=configs/nope.py"], "No such file or directory: 'configs/nope.py'"),
        (
            [f"--config={CONFIGS / 'fashion_mnist.py'}:foo"],
            "py:foo: ValueError: unknown model 'foo': choose one of ['convnet', 'mlp']",
        ),
        (["sparsity=0.9"], "unexpected arguments ['sparsity=0.9']"),
        (["--config.sparsity=1.0"], "error: sparsity is 1.0: give a share"),
    ],
    ids=["field", "abbreviation", "type", "file", "variant", "positional", "value"],
)
def test_a_wrong_command_gets_a_clear_error(tmp_path, arguments, message):
    done = command("--workdir", str(tmp_path / "run"), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_tells_of_every_flag():
    done = command("--help")
    told = " ".join(done.stdout.split())
    assert "python -m srigl_jax.train --config configs/digits.py" in told
    of_others = ("coordinator", "num_processes", "process_id")
    for flag in ("config", "workdir", "[no]distributed", *of_others):
        assert f"--{flag}: " in told


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Trains by a function as the command line does; gives exit code or message."""
    values = SimpleNamespace(
        config=tiny(tmp_path, method="dense"),
        workdir=None,
        distributed=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
    )
    monkeypatch.setattr(command_line.flags, "FLAGS", values)

    def call(train, **flags):
        vars(values).update(flags)
        with pytest.raises(SystemExit) as exit_:
            command_line.call(train)
        return exit_.value.code

    return call


def failing(error):
    def train(config, workdir):
        raise error

    return train


def test_it_exits_as_if_the_signal_had_killed_it(call, capsys):
    stopped = Stopped(signal.SIGTERM, "stopped after step 5 of 66")
    assert call(failing(stopped)) == 143
    assert capsys.readouterr().out == "stopped after step 5 of 66\n"


def test_ctrl_c_before_training_is_no_traceback(call, capsys):
    assert call(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().out.startswith("interrupted; the same command")


def test_a_full_disk_is_one_clear_line(call):
    full = OSError(28, "No space left on device")
    assert call(failing(full)) == "error: [Errno 28] No space left on device"


def test_other_processes_without_distributed_are_refused(call):
    assert call(failing(AssertionError()), process_id=1) == (
        "error: --process_id without --distributed: add that"
    )


def test_a_run_without_a_workdir_is_named_after_its_settings(call):
    def train(config, workdir):
        raise ValueError(workdir)

    assert call(train) == "error: runs/digits-mlp-dense-0.5-seed0"
