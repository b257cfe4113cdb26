"""What the entry points share: errors of the user's as one line, and stops as exit codes."""

from collections.abc import Callable
import errno
import os
import signal
import sys

from absl import app, flags, logging
import jax

from lcaps_jax import parallel
from lcaps_jax.checkpoints import CheckpointError
from lcaps_jax.config import ConfigError
from lcaps_jax.data import DataError
from lcaps_jax.parallel import DeviceError
from lcaps_jax.training import DivergenceError, Stopped

_USER_ERRORS = (ConfigError, DataError, DeviceError, CheckpointError, DivergenceError)


def define_distributed_flags() -> None:
    """Defines the flags of an entry point that several processes can run together."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "One of several processes that train together, each started with the same settings; docs/distributed.md.",
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "With --distributed: HOST:PORT of process 0. TPU pods and Slurm do without.",
    )
    flags.DEFINE_integer("num_processes", None, "With --distributed: how many processes there are.", 1)
    flags.DEFINE_integer("process_id", None, "With --distributed: which of them this is, from 0.", 0)


def _connect(values: flags.FlagValues) -> None:
    """Brings the processes together where the entry point has the flags for it and they say so."""
    if "distributed" not in values:
        return
    where = (values.coordinator_address, values.num_processes, values.process_id)
    if values.distributed:
        parallel.connect(*where)
    elif where != (None, None, None):
        raise ConfigError("--coordinator_address, --num_processes and --process_id are for --distributed.")


def run(main: Callable[[list[str]], None], *, positional: bool = False) -> None:
    """Runs ``main`` after absl has parsed the flags and the devices are prepared.

    The exit code is 1, after one line, for an error of the user's or the death of another process, and 128 plus the
    signal's number for a run that was stopped. Arguments that are no flags are refused unless ``positional``.
    """

    def guarded(argv):
        if len(argv) > 1 and not positional:
            raise app.UsageError(f"Unexpected argument {argv[1]!r}: settings are given as --name=value.")
        logging.set_verbosity(logging.ERROR)  # Orbax and TFDS tell every step of theirs
        try:
            parallel.prepare()
            _connect(flags.FLAGS)
            main(argv)
        except _USER_ERRORS as error:
            sys.exit(f"Error: {error}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            sys.exit(f"Error: {error}. What was saved before stays; once there is room, the same command continues.")
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            print(f"Error: another process has ended or cannot be reached ({str(error).splitlines()[0]}).")
            print("What is saved stays. The same command on all of them continues.", flush=True)
            os._exit(1)  # without waiting for the others, as JAX would
        except Stopped as stop:
            print(stop, flush=True)
            sys.exit(128 + stop.signal)

    app.run(guarded)
