"""Runs on several processes, over loopback: that they are one run, and how they end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs import assert_alike, checkpoint, environ, recorded_steps, records, tiny

from srigl_jax import distributed
from srigl_jax import train as train_lib
from srigl_jax.train import train

STEPS = 22
TIMEOUT = 300  # However busy the machine; they are seconds long.
FIELDS = {"gamma_sal": 0.9, "ema": 0.9}
QUICK = FIELDS | {"epochs": 1, "optimizer__warmup_epochs": 0.5}
LONG = FIELDS | {"epochs": 40, "checkpoint_every": 300, "eval_every": 1000}
LONG_STEPS = 880


@pytest.fixture(scope="module", autouse=True)
def no_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "write_report", lambda *args, **kwargs: None)
        yield


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The workdir of the run of one process and one device."""
    workdir = tmp_path_factory.mktemp("alone")
    train(tiny(data_dir, **QUICK), workdir)
    return workdir


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, config, devices=1, second=None):
    """Starts two processes of a run of so many devices each."""
    port = free_port()
    count = f"--xla_force_host_platform_device_count={devices}"  # The last one counts.
    environment = environ() | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {count}"}
    script = (
        "from srigl_jax import command_line, train;"
        "train.write_report = lambda *args, **kwargs: None;"
        "command_line.run(train.train)"
    )
    fields = config.to_dict() | {"mesh": {"neurons": config.mesh.neurons}}
    processes = []
    for index in range(2):
        own = [*arguments(fields), *(second or [] if index else [])]
        own += ["--distributed", f"--coordinator=127.0.0.1:{port}"]
        own += ["--num_processes=2", f"--process_id={index}", f"--workdir={workdir}"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *own],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def arguments(fields, prefix=""):
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from arguments(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"--config.{prefix}{name}={value}"


def ends(processes):
    """Exit code, output and errors of each, within a bounded time."""
    until = time.monotonic() + TIMEOUT
    try:
        texts = [p.communicate(timeout=until - time.monotonic()) for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def wait_until(happened, processes):
    until = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < until
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def wait_for_step(processes, workdir, step):
    metrics, text = workdir / "metrics.jsonl", f'"step": {step},'
    wait_until(lambda: metrics.exists() and text in metrics.read_text(), processes)


def wait_for_save(processes, workdir, step):
    """Until files of a step are being written aside."""
    aside = f"{step}.*tmp*"
    wait_until(lambda: any((workdir / "checkpoints").glob(aside)), processes)


@pytest.mark.parametrize(
    ("devices", "neurons"),
    [
        (1, 1),
        # Neurons cut among processes, and within each.
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_does(alone, data_dir, tmp_path, devices, neurons):
    config = tiny(data_dir, **QUICK, mesh__neurons=neurons)
    first, second = ends(start(tmp_path, config, devices))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "starting, 22 steps" in first[1]
    # The collectives' library says more, of itself.
    assert all(line.startswith("[Gloo]") for line in second[1].splitlines())
    assert_alike(tmp_path, alone, STEPS)
    for kind in ("train", "eval", "topology"):
        assert recorded_steps(tmp_path, kind) == recorded_steps(alone, kind)
    assert records(tmp_path, "topology") == records(alone, "topology")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["in a step", "in a save"])
def test_a_killed_process_ends_the_other_and_the_run_resumes_on_other_devices(
    data_dir, tmp_path, victim, moment, capsys
):
    config = tiny(data_dir, **LONG)
    processes = start(tmp_path / "run", config)
    if moment == "in a step":
        wait_for_step(processes, tmp_path / "run", 400)
    else:
        wait_for_save(processes, tmp_path / "run", 600)
    processes[victim].kill()
    code, _, errors = ends(processes)[1 - victim]
    assert code not in (0, -signal.SIGKILL), errors
    assert "resumes from the last checkpoint" in errors
    if victim:  # Without the first process JAX may end the others before they speak.
        assert code == 1
        assert "error: another process of this run is gone" in errors
        assert "Traceback" not in errors
    config.mesh.data, config.mesh.neurons = 4, 2
    train(config, tmp_path / "run")
    assert re.search(r"resuming after step [36]00 of 880", capsys.readouterr().out)
    config.mesh.data, config.mesh.neurons = 1, 1
    train(config, tmp_path / "alone")
    assert_alike(tmp_path / "run", tmp_path / "alone", LONG_STEPS)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(data_dir, tmp_path):
    processes = start(tmp_path, tiny(data_dir, **LONG))
    wait_for_step(processes, tmp_path, 50)
    processes[1].send_signal(signal.SIGTERM)
    first, second = ends(processes)
    assert first[0] == second[0] == 128 + signal.SIGTERM, first[2] + second[2]
    step = int(re.search(r"stopped after step (\d+) of 880, which is", first[1])[1])
    assert int(checkpoint(tmp_path, step)["step"]) == step


@pytest.mark.slow
def test_what_one_process_lacks_stops_both_and_leaves_the_workdir_alone(
    data_dir, tmp_path
):
    missing = ["--config.dataset.name=fashion_mnist"]
    missing += [f"--config.dataset.source_dir={tmp_path}"]
    missing += [f"--config.dataset.data_dir={tmp_path}"]
    processes = start(tmp_path / "run", tiny(data_dir), second=missing)
    first, second = ends(processes)
    assert first[0] == second[0] == 1
    assert "error: process 1 could not start; it says why" in first[2]
    assert f"error: Fashion-MNIST: {tmp_path} lacks" in second[2]
    assert "Traceback" not in first[2] + second[2]


def refusal(**options):
    """What a process says that cannot join others."""
    script = f"from srigl_jax import distributed; distributed.initialize(**{options})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_processes_that_no_cluster_knows_of_are_asked_for():
    message = refusal(timeout=1)
    assert message.startswith("ValueError: --distributed: coordinator_address should")
    assert "Give --coordinator=HOST:PORT --num_processes=N --process_id=I" in message


def test_an_address_without_a_port_is_refused():
    with pytest.raises(ValueError, match="--coordinator is 'node': give HOST:PORT"):
        distributed.initialize("node", 2, 0)


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("os.abort()", -signal.SIGABRT, True),
        ("sys.exit(3)", 3, False),
        ("distributed.LastWords.spare(); os._exit(4)", 4, False),
    ],
)
def test_a_process_that_is_ended_has_last_words_and_one_that_ends_has_none(
    end, status, words
):
    script = "import os, signal, sys; from srigl_jax import distributed;"
    done = subprocess.run(
        [sys.executable, "-c", f"{script} distributed.LastWords.prepare(); {end}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status
    assert done.stderr.count("\n") == words
    assert ("resumes from the last checkpoint" in done.stderr) == words


def test_one_process_agrees_with_itself_at_once():
    stops = distributed.SharedStop(None)
    assert stops.agreed(None) is None
    assert stops.agreed(signal.SIGINT) is signal.SIGINT


def test_errors_of_one_process_stay_what_they_are():
    with pytest.raises(ValueError, match="^UNAVAILABLE$"):
        with distributed.together(), distributed.naming_the_lost():
            raise ValueError("UNAVAILABLE")


def test_only_what_speaks_of_a_lost_process_is_named_so(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    closed = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore"
    with pytest.raises(distributed.LostProcessError, match="closed by peer.. The same"):
        with distributed.naming_the_lost():
            try:
                raise ValueError(closed)
            except ValueError as error:
                raise RuntimeError("no answer") from error
    with pytest.raises(ValueError, match="an image is damaged"):
        with distributed.naming_the_lost():
            raise ValueError("an image is damaged")
