"""The trainer's command line: flags, and whatever goes wrong as one clear line."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from srigl_jax import config as config_lib
from srigl_jax import distributed
from srigl_jax.interrupt import Stopped
from srigl_jax.monitor import NotFiniteError

Train = Callable[[ConfigDict, Path], object]

_OF_OTHERS = ("coordinator", "num_processes", "process_id")


def run(train: Train) -> None:
    """Parses the command line and trains; never returns.

    Args:
      train: as `srigl_jax.train.train`.
    """
    app.run(lambda argv: call(train), flags_parser=_parse_flags)


def call(train: Train) -> None:
    """Trains what the parsed flags say; errors become one clear line.

    Raises:
      SystemExit: with the code of the process, or with what went wrong.
    """
    logging.set_verbosity(logging.WARNING)
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    try:
        _join_others(flags.FLAGS)
        train(config, Path(workdir or f"runs/{_name(config)}"))
    except Stopped as stopped:
        print(stopped)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("interrupted; the same command starts again from the last checkpoint")
        distributed.leave(128 + signal.SIGINT)
    except (
        ValueError,
        OSError,
        NotFiniteError,
        distributed.LostProcessError,
    ) as error:
        distributed.leave(f"error: {error}")


def _define_flags() -> None:
    # By a call, because whoever imports this module may have flags of these names.
    config_flags.DEFINE_config_file(
        "config",
        str(Path(config_lib.__file__)),
        "Python file with get_config(); override a field with --config.FIELD=VALUE.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory of the run; resumes what is in it. By default one below runs/, "
        "named after data set, model, method, sparsity and seed.",
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Train with other processes, started by the same command, which TPU, Slurm and "
        "Open MPI know of; elsewhere give the next three. All need the same --workdir, "
        "on a file system that they share.",
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, free there.")
    flags.DEFINE_integer("num_processes", None, "How many processes train.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    # Or --help would not show them: they are defined here, not in the program.
    for name in ("config", "workdir", "distributed", *_OF_OTHERS):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _unknown_field(argv: list[str], error: AttributeError) -> str:
    """Which argument names a field that does not exist, and which one does."""
    # A KeyError is inside, which would be shown quoted and escaped.
    text = str(getattr(error.args[0], "args", error.args)[0])
    unknown = text.partition("'")[2].partition("'")[0]
    for argument in argv[1:]:
        flag, *path = argument.partition("=")[0].lstrip("-").split(".")
        if flag == "config" and unknown in path:
            return f"{argument}: {config_lib.unknown_field('.'.join(path))}"
    return " ".join(text.split())  # A file's own mistake.


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it becomes one clear line."""
    try:
        _define_flags()  # Reads overrides of the default file already.
        program, *positional = flags.FLAGS(argv)
        flags.FLAGS.config.lock()  # A file that cannot be read is reported on use.
    except flags.Error as error:
        # What a config file raises comes with its traceback, the error last.
        flag, *traceback = str(error).splitlines()
        flag = f"{flag.partition(': ')[0]}: {traceback[-1]}" if traceback else flag
        sys.exit(f"error: {flag}")
    except AttributeError as error:
        sys.exit(f"error: {_unknown_field(argv, error)}")
    except OSError as error:
        sys.exit(f"error: {error}")
    if positional:
        sys.exit(f"error: unexpected arguments {positional}; flags start with --")
    return [program]


def _name(config: ConfigDict) -> str:
    """What a run is called whose workdir has no name."""
    if config.get("task") == "labels":
        how = f"{config.settings.method}-k{config.settings.k}"
        return f"{config.dataset.name}-{how}-seed{config.seed}"
    name = f"{config.dataset.name}-{config.model.name}-{config.method}"
    return f"{name}-{config.sparsity:g}-seed{config.seed}"


def _join_others(options: flags.FlagValues) -> None:
    """Makes this one of several processes, if the command line says so."""
    others = {name: getattr(options, name) for name in _OF_OTHERS}
    if options.distributed:
        distributed.initialize(**others)
    elif given := [f"--{name}" for name in others if others[name] is not None]:
        raise ValueError(f"{', '.join(given)} without --distributed: add that")
