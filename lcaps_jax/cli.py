"""What the entry points share: errors that a user can mend become one line, and stops become exit codes."""

from collections.abc import Callable
import errno
import os
import signal
import sys

from absl import app, flags, logging
import jax

from lcaps_jax import parallel, runtime, usage
from lcaps_jax.errors import ConfigError, UserError, arg
from lcaps_jax.flagfiles import read_flagfiles
from lcaps_jax.training.stop import Stopped

# Flags that hold paths, whichever the entry point.
_PATHS = ("workdir", "data_dir", "images", "report", "output", "output_dir", "export")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Nearly always the path that was given is at fault.
_BAD_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def define_distributed_flags() -> None:
    """Defines the flags of an entry point that several processes can run together."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "This is one of several processes that train together, each started with the same settings; see "
        "docs/distributed.md.",
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "With --distributed: HOST:PORT of process 0. TPU pods and Slurm need none.",
    )
    flags.DEFINE_integer("num_processes", None, "With --distributed: number of processes.", 1)
    flags.DEFINE_integer("process_id", None, "With --distributed: number of this process, from 0.", 0)


def _connect(values: flags.FlagValues) -> None:
    """Connects the processes where the entry point has the flags for it and --distributed is set."""
    if "distributed" not in values:
        return
    where = (values.coordinator_address, values.num_processes, values.process_id)
    if values.distributed:
        parallel.connect(*where)
    elif where != (None, None, None):
        names = ", ".join(map(arg, ("coordinator_address", "num_processes", "process_id")))
        raise ConfigError(f"{names}: these need {arg('distributed')}.")


def _end_on(error: jax.errors.JaxRuntimeError) -> None:
    """Prints one line and ends the process where a device's memory is full or another process has ended."""
    reason, several = str(error).splitlines()[0], jax.process_count() > 1
    if reason.startswith("RESOURCE_EXHAUSTED"):
        line = f"Error: a device's memory is full ({reason})."
        if "batch_size" in flags.FLAGS:
            line += " A smaller --batch_size takes less."
    elif several:
        line = f"Error: another process has ended or cannot be reached ({reason}). The same command on all continues."
    else:
        raise error
    if not several:
        sys.exit(line)
    runtime.write_line(line)
    os._exit(1)  # at once, because JAX would wait for the others


def _expand_home(values: flags.FlagValues) -> None:
    """Expands ``~`` in paths, because no shell expands it after an equals sign or in a flagfile."""
    for name in _PATHS:
        if name in values and values[name].value:
            given = values[name].value
            filled = (
                [os.path.expanduser(path) for path in given] if isinstance(given, list) else os.path.expanduser(given)
            )
            values[name].value = filled


def _parse(arguments: list[str]) -> list[str]:
    """Parses a command line and its flagfiles, and returns what is no flag; prints the help where it is asked for."""
    usage.print_help_if_wanted(arguments, flags.FLAGS, sys.modules["__main__"].__doc__ or "")
    try:
        return app.parse_flags_with_usage([*arguments[:1], *read_flagfiles(arguments[1:])])
    except UserError as error:
        sys.exit(f"Error: {error.as_flags(set(flags.FLAGS))}")


def run(main: Callable[[list[str]], None], *, positional: bool = False) -> None:
    """Runs ``main`` after absl has parsed the flags and the devices are prepared.

    With ``-h`` or ``--help`` it prints the docstring of the program and its flags instead.

    An error that the user can mend prints one line and exits with code 1, as does the death of another process. A run
    that was stopped exits with 128 plus the number of the signal.

    Args:
      main: Main function of the entry point, which takes the arguments that are not flags.
      positional: Whether there may be arguments that are not flags.
    """

    def guarded(argv):
        if len(argv) > 1 and not positional:
            raise app.UsageError(f"Unexpected argument {argv[1]!r}: settings are given as --name=value.")
        logging.set_verbosity(logging.ERROR)  # because Orbax and TFDS log each of their steps
        try:
            _expand_home(flags.FLAGS)
            runtime.prepare()
            _connect(flags.FLAGS)
            main(argv)
        except UserError as error:
            sys.exit(f"Error: {error.as_flags(flags.FLAGS)}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except OSError as error:
            if error.errno in _NO_ROOM:
                rest = "What was saved before stays; once there is room, the same command continues."
                sys.exit(f"Error: {error}. {rest}")
            if error.errno in _BAD_PATH:
                sys.exit(f"Error: {error}.")
            raise
        except jax.errors.JaxRuntimeError as error:
            _end_on(error)
        except MemoryError as error:
            sys.exit(f"Error: the memory of this machine is full{f' ({error})' if str(error) else ''}.")
        except Stopped as stop:
            runtime.write_line(str(stop))
            sys.exit(128 + stop.signal)

    app.run(guarded, flags_parser=_parse)
