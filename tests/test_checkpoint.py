import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srigl_jax.checkpoint import Checkpoints
from srigl_jax.interrupt import GracefulStop
from srigl_jax.workdir import check_config


def _save(directory, steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, _state(step))


def _state(step):
    values = np.random.default_rng(step).normal(size=(16, 32))
    return {"fc": {"kernel": jnp.asarray(values, jnp.float32)}, "step": step}


def _restore(directory, like=None):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore_latest(_state(0) if like is None else like)


def _flip_bit(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


def _flip_arrays(step_directory):
    files = (step_directory / "state").rglob("d/*")
    _flip_bit(max(files, key=lambda path: path.stat().st_size))


def _assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    "leaf",
    [
        jnp.asarray([1.0, -0.0, jnp.nan, jnp.inf, 1e-42], jnp.float32),
        jnp.asarray([1.5, -3e38, jnp.nan], jnp.bfloat16),
        jnp.asarray([[True, False], [False, False]]),
        jnp.asarray([-128, 127], jnp.int8),
        jnp.asarray([0, 2**32 - 1], jnp.uint32),
        jnp.asarray(7, jnp.int32),
        jnp.zeros((3, 0), jnp.bfloat16),
        np.arange(6, dtype=np.float64).reshape(2, 3).T,
        np.int32(-3),
        2**40,
        True,
        0.1,
    ],
    ids=lambda leaf: f"{type(leaf).__name__}-{np.asarray(leaf).dtype}",
)
def test_a_leaf_comes_back_bit_for_bit(tmp_path, leaf):
    state = {"leaf": leaf, "other": np.ones(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
    step, restored = _restore(tmp_path, state)
    assert step == 5
    _assert_same_bits(restored, state)


def test_optimizer_state_with_masked_nodes_comes_back(tmp_path):
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.adamw(1e-3), {"kernel": True, "bias": False}),
    )
    state = {
        "params": params,
        "opt": optimizer.init(params),
        "masks": {"kernel": jnp.eye(4, 3, dtype=bool), "bias": optax.MaskedNode()},
        "key": jax.random.key_data(jax.random.key(3)),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    _assert_same_bits(_restore(tmp_path, state)[1], state)


def test_an_abstract_state_is_enough_to_restore(tmp_path):
    state = {"w": jnp.arange(3.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    _assert_same_bits(_restore(tmp_path, jax.eval_shape(lambda: state))[1], state)


def test_an_uncommitted_leaf_stays_uncommitted(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(3)})
    assert not _restore(tmp_path, {"w": jnp.zeros(3)})[1]["w"].committed


def test_reading_where_nothing_was_saved_gives_none_and_makes_nothing(tmp_path):
    assert _restore(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_the_newest_steps_are_kept(tmp_path):
    _save(tmp_path, [10, 20, 30], keep=2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [20, 30]


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_steps_counts_the_save_under_way(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1))
        assert checkpoints.steps() == [1]


def test_state_may_change_in_place_once_save_returns(tmp_path):
    overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
    state = {"jax": jnp.ones(1_000_000), "numpy": np.ones(1_000_000)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        state["numpy"][:] = 0
        overwrite(state["jax"]).block_until_ready()
    like = {"jax": np.empty(1_000_000, np.float32), "numpy": np.empty(1_000_000)}
    restored = _restore(tmp_path, like)[1]
    assert restored["jax"].all() and restored["numpy"].all()


def test_saving_what_a_step_already_holds_does_not_touch_it(tmp_path):
    _save(tmp_path, [1])
    before = (tmp_path / "1").stat().st_ino
    _save(tmp_path, [1])
    assert (tmp_path / "1").stat().st_ino == before


def test_saving_other_content_replaces_a_step(tmp_path):
    _save(tmp_path, [1])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(2))
    _assert_same_bits(_restore(tmp_path), (1, _state(2)))


def test_a_save_that_fails_is_not_silent(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _save(tmp_path / "file", [1])


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="'a/b'"):
            checkpoints.save(1, {"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


def test_a_corrupt_step_is_named_and_the_one_before_is_used(tmp_path, caplog):
    _save(tmp_path, [1, 2])
    _flip_arrays(tmp_path / "2")
    _assert_same_bits(_restore(tmp_path), (1, _state(1)))
    assert str(tmp_path / "2") in caplog.text
    assert "fc/kernel" in caplog.text
    assert (tmp_path / "2").exists()


def test_no_flipped_bit_anywhere_is_restored_as_good(tmp_path):
    # One leaf: when a read fails, orbax abandons the others under way, noisily.
    state = {"kernel": np.random.default_rng(0).normal(size=(16, 32))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    files = [p for p in (tmp_path / "1").rglob("*") if p.is_file() and p.stat().st_size]
    caught = 0
    for path in files:
        for position in (0, 0.3, 0.8):
            _flip_bit(path, position)
            try:
                _assert_same_bits(_restore(tmp_path, state), (1, state))
            except ValueError as error:
                caught += "is corrupt" in str(error)
            _flip_bit(path, position)
    assert caught


def test_a_step_without_its_manifest_is_corrupt(tmp_path):
    _save(tmp_path, [1, 2])
    (tmp_path / "2" / "manifest" / "data.json").unlink()
    assert _restore(tmp_path)[0] == 1


def test_a_changed_manifest_is_corruption_not_another_structure(tmp_path):
    _save(tmp_path, [1, 2])
    manifest = tmp_path / "2" / "manifest" / "data.json"
    manifest.write_text(manifest.read_text().replace("fc/kernel", "fc/kernem"))
    assert _restore(tmp_path)[0] == 1


def test_a_corrupt_step_is_moved_aside_even_if_nothing_was_restored(tmp_path):
    _save(tmp_path, [1])
    _flip_bit(tmp_path / "1" / "manifest" / "data.json")
    _save(tmp_path, [1])
    assert (tmp_path / "1.corrupt").is_dir()
    _assert_same_bits(_restore(tmp_path), (1, _state(1)))


def test_leftovers_of_a_killed_save_go_with_the_next_save_not_before(tmp_path):
    _save(tmp_path, [1])
    (tmp_path / "1").rename(tmp_path / "7.orbax-checkpoint-tmp")
    assert _restore(tmp_path) is None
    assert (tmp_path / "7.orbax-checkpoint-tmp").exists()
    _save(tmp_path, [2])
    assert os.listdir(tmp_path) == ["2"]


def test_if_all_steps_are_corrupt_the_error_lists_them_and_the_way_out(tmp_path):
    _save(tmp_path, [1, 2])
    _flip_arrays(tmp_path / "1")
    _flip_arrays(tmp_path / "2")
    with pytest.raises(ValueError, match=r"(?s)step 2: .*step 1: .*move the directory"):
        _restore(tmp_path)


def test_training_saves_over_a_corrupt_step_which_is_moved_aside(tmp_path):
    _save(tmp_path, [1, 2])
    _flip_arrays(tmp_path / "2")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore_latest(_state(0))
        checkpoints.save(2, _state(2))
        assert checkpoints.steps() == [1, 2]
    _assert_same_bits(_restore(tmp_path), (2, _state(2)))
    assert (tmp_path / "2.corrupt").is_dir()


def test_a_step_twice_corrupt_is_moved_aside_twice(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1))
        for _ in range(2):
            checkpoints.save(2, _state(2))
            checkpoints.steps()
            _flip_arrays(tmp_path / "2")
            assert checkpoints.restore_latest(_state(0))[0] == 1
        checkpoints.save(2, _state(2))
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2", "2.corrupt", "2.corrupt1"}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.ones(2), "c": np.ones(3)}, "b/x: saved, but not asked for"),
        ({"a": np.ones(2), "c": np.ones(3)}, "c: asked for, but not saved"),
        (
            {"a": np.ones((2, 1)), "b": {"x": 1}},
            r"a: saved as float64\[2\], asked for as float64\[2, 1\]",
        ),
        (
            {"a": np.ones(2, np.float32), "b": {"x": 1}},
            r"a: saved as float64\[2\], asked for as float32\[2\]",
        ),
    ],
)
def test_another_structure_is_refused_by_the_names_of_leaves(tmp_path, like, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.ones(2), "b": {"x": 1}})
    with pytest.raises(ValueError, match=message):
        _restore(tmp_path, like)


def test_orbax_is_quiet_at_info_within_the_context_only(tmp_path, caplog):
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.INFO)
    caplog.set_level(logging.INFO)
    try:
        _save(tmp_path, [1, 2])
        _restore(tmp_path)
        assert caplog.records == []
        assert logging.getLogger("absl").filters == []
    finally:
        absl.logging.set_verbosity(verbosity)


_RUN = """
    import sys
    import numpy as np
    from srigl_jax.checkpoint import Checkpoints

    def state(step):
        return {"w": np.random.default_rng(step).random(2_000_000), "step": step}

    with Checkpoints(sys.argv[1]) as checkpoints:
        step, restored = checkpoints.restore_latest(state(0)) or (0, state(0))
        assert np.array_equal(restored["w"], state(step)["w"])
        for step in range(step + 1, step + 1 + int(sys.argv[2])):
            checkpoints.save(step, state(step))
            print(step, flush=True)
"""


def _start(script, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


def _run(script, *arguments):
    with _start(script, *arguments) as run:
        return run.communicate()[0], run.returncode


def _unfinished(directory):
    return list(directory.glob("*.orbax-checkpoint-tmp*"))


def _kill_in_mid_save(directory, delay):
    with _start(_RUN, directory, 1000) as run:
        handed_over = run.stdout.readline()
        while run.poll() is None and not _unfinished(directory):
            time.sleep(0.001)
        time.sleep(delay)
        run.kill()
        handed_over += run.stdout.read()
    return int(handed_over.split()[-1])


def test_kill_in_mid_save_loses_at_most_the_save_under_way(tmp_path):
    torn = 0
    for delay in (0, 0.05, 0.3):
        handed_over = _kill_in_mid_save(tmp_path, delay)
        torn += bool(_unfinished(tmp_path))
        with Checkpoints(tmp_path) as checkpoints:
            assert max(checkpoints.steps(), default=0) >= handed_over - 1
    assert torn
    assert _run(_RUN, tmp_path, 1)[1] == 0
    assert not _unfinished(tmp_path)


_SHARDED = """
    import sys
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec as P
    from srigl_jax.checkpoint import Checkpoints

    jax.config.update("jax_num_cpu_devices", 8)
    mesh = jax.make_mesh((8,), ("neurons",))
    by_row = NamedSharding(mesh, P("neurons"))
    by_column = NamedSharding(mesh, P(None, "neurons"))
    values = jnp.arange(128.0).reshape(8, 16)
    like = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=by_column)
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, {"w": jax.device_put(values, by_row), "n": jnp.asarray(2)})
        _, abstract = checkpoints.restore_latest({"w": like, "n": jnp.asarray(0)})
        concrete = {"w": jax.device_put(values, by_row), "n": jnp.asarray(0)}
        _, concrete = checkpoints.restore_latest(concrete)
    assert abstract["w"].sharding == by_column and concrete["w"].sharding == by_row
    assert (abstract["w"] == values).all() and (concrete["w"] == values).all()
    # Possible only if the count was not committed to the first device.
    jax.jit(lambda w, n: w * n)(abstract["w"], abstract["n"])
"""


def test_sharded_arrays_come_back_on_the_shardings_asked_for(tmp_path):
    assert _run(_SHARDED, tmp_path)[1] == 0


_CONFIG = {"lr": 0.1, "method": "srigl", "model": {"widths": [64, 10]}, "log_every": 5}


def test_config_is_written_once_sorted_and_whole(tmp_path):
    check_config(tmp_path / "new" / "run", _CONFIG)
    text = (tmp_path / "new" / "run" / "config.json").read_text()
    assert json.loads(text) == _CONFIG
    assert list(json.loads(text)) == sorted(_CONFIG)
    assert os.listdir(tmp_path / "new" / "run") == ["config.json"]


def test_the_same_config_is_accepted_again(tmp_path):
    check_config(tmp_path, _CONFIG)
    check_config(tmp_path, {**_CONFIG, "model": {"widths": (64, 10)}})


def test_a_whole_number_is_the_same_as_int_and_as_float(tmp_path):
    check_config(tmp_path, _CONFIG)
    check_config(tmp_path, {**_CONFIG, "log_every": 5.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.2}, "lr: workdir has 0.1, this run asks for 0.2"),
        ({"method": None}, 'method: workdir has "srigl", this run asks for null'),
        ({"seed": 1}, "seed: workdir has nothing, this run asks for 1"),
        ({"model": {"widths": []}}, r"model.widths: workdir has \[64, 10\]"),
        ({"model": {}}, r"model.widths: .*, this run asks for nothing"),
        ({"lr": 0.2, "log_every": 6}, r"(?s)log_every: .*lr: .*another --workdir"),
    ],
)
def test_another_config_is_refused_by_its_fields(tmp_path, change, message):
    check_config(tmp_path, _CONFIG)
    with pytest.raises(ValueError, match=message):
        check_config(tmp_path, {**_CONFIG, **change})


def test_ignored_fields_may_differ(tmp_path):
    check_config(tmp_path, _CONFIG)
    change = {"log_every": 6, "model": {"widths": [8]}}
    check_config(tmp_path, _CONFIG | change, ignore=["log_every", "model.widths"])


def test_a_field_that_came_later_counts_as_its_default(tmp_path):
    check_config(tmp_path, _CONFIG)
    later = _CONFIG | {"seed": 0, "model": _CONFIG["model"] | {"depth": 2}}
    check_config(tmp_path, later, defaults={"seed": 0, "model": {"depth": 2}, "lr": 9})
    message = "seed: workdir has 1, this run asks for 0$\nChoose"
    with pytest.raises(ValueError, match=f"(?m)settings:\n  {message}"):
        check_config(tmp_path, later, defaults={"seed": 1, "model": {"depth": 2}})


@pytest.mark.parametrize("content", [b'{"lr": 0.', b"", b"3", b"\xff\xfe"])
def test_a_config_cut_off_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not a JSON object"):
        check_config(tmp_path, _CONFIG)


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/run cannot be used"):
        check_config(tmp_path / "file" / "run", _CONFIG)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted(number):
    with GracefulStop() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received is number


@pytest.fixture
def sigint_interrupts():
    """A shell starts its background jobs with SIGINT ignored; pytest may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_of_the_same_kind_acts_at_once(sigint_interrupts):
    with GracefulStop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_of_the_other_kind_is_only_noted():
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.received is signal.SIGTERM


def test_the_earlier_handlers_return_on_exit():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with GracefulStop():
        pass
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_sigterm_kills_the_process():
    printed, status = _run(
        """
        import os, signal
        from srigl_jax.interrupt import GracefulStop
        with GracefulStop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            print(stop.received.name, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    assert (printed, status) == (b"SIGTERM\n", -signal.SIGTERM)


def test_signals_cannot_be_noted_outside_the_main_thread():
    errors = []

    def enter():
        try:
            GracefulStop().__enter__()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]
