"""What the entry points share: errors that a user can mend become one line, and stops become exit codes."""

from collections.abc import Callable
import errno
import os
import signal
import sys

from absl import app, flags, logging
import filelock
import jax

from lcaps_jax.cli.flags import parse
from lcaps_jax.train.loop import Stopped
from lcaps_jax.util import devices, process
from lcaps_jax.util.errors import ConfigError, UserError

_PATHS = ("workdir", "data_dir", "images", "report", "output_dir", "export")  # flags, whichever the entry point
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _connect(values: flags.FlagValues) -> None:
    """Connects the processes where the entry point has the flags for it and --distributed is set."""
    if "distributed" not in values:
        return
    where = (values.coordinator_address, values.num_processes, values.process_id)
    if values.distributed:
        devices.connect(*where)
    elif where != (None, None, None):
        raise ConfigError("coordinator_address, num_processes, process_id: these need --distributed.")


def _end_on(error: jax.errors.JaxRuntimeError) -> None:
    """Prints one line and ends the process where a device's memory is full or another process has ended."""
    reason, several = str(error).splitlines()[0], jax.process_count() > 1
    if reason.startswith("RESOURCE_EXHAUSTED") or "Out of memory" in reason:
        line = f"Error: a device's memory is full ({reason}). A smaller --batch_size takes less."
    elif several:
        line = f"Error: another process has ended or cannot be reached ({reason}). The same command on all continues."
    else:
        raise error
    if not several:
        sys.exit(line)
    process.write_line(line)
    os._exit(1)  # at once, because JAX would wait for the others


def _expand_home(values: flags.FlagValues) -> None:
    """Expands ``~`` in paths, because no shell expands it after an equals sign or in a flagfile."""
    for flag in (values[name] for name in _PATHS if name in values and values[name].value):
        several = isinstance(flag.value, list)
        flag.value = list(map(os.path.expanduser, flag.value)) if several else os.path.expanduser(flag.value)


def run(main: Callable[[], None]) -> None:
    """Runs ``main`` after absl has parsed the flags and the process is prepared.

    An error that the user can mend prints one line and exits with code 1, a stopped run with 128 plus the signal.
    """

    def guarded(argv):
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected argument {argv[1]!r}: settings are given as --name=value.")
        logging.set_verbosity(logging.ERROR)  # because Orbax and TFDS log each of their steps
        _expand_home(flags.FLAGS)
        process.prepare()
        _connect(flags.FLAGS)
        main()

    try:
        app.run(guarded, flags_parser=parse)
    except (UserError, filelock.Timeout, MemoryError) as error:
        sys.exit(f"Error: {str(error) or 'the memory of this machine is full.'}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads any more, as behind ``| head``
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:
        rest = " What was saved before stays; once there is room, the same command continues."
        sys.exit(f"Error: {error}.{rest if error.errno in _NO_ROOM else ''}")
    except jax.errors.JaxRuntimeError as error:
        _end_on(error)
    except Stopped as stop:
        process.write_line(str(stop))
        sys.exit(128 + stop.signal)
