"""What the entry points share: errors of the user's as one line, and stops as exit codes."""

from collections.abc import Callable
import signal
import sys

from absl import app, logging

from lcaps_jax.checkpoints import CheckpointError
from lcaps_jax.config import ConfigError
from lcaps_jax.data import DataError
from lcaps_jax.parallel import DeviceError
from lcaps_jax.training import DivergenceError, Stopped

_USER_ERRORS = (ConfigError, DataError, DeviceError, CheckpointError, DivergenceError)


def run(main: Callable[[list[str]], None], *, positional: bool = False) -> None:
    """Runs ``main`` after absl has parsed the flags: exit code 1 and one line for an error of the user's, 128 plus the
    signal's number for a run that was stopped. Arguments that are no flags are refused unless ``positional``."""

    def guarded(argv):
        if len(argv) > 1 and not positional:
            raise app.UsageError(f"Unexpected argument {argv[1]!r}: settings are given as --name=value.")
        logging.set_verbosity(logging.ERROR)  # Orbax and TFDS tell every step of theirs
        try:
            main(argv)
        except _USER_ERRORS as error:
            sys.exit(f"Error: {error}")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except Stopped as stop:
            print(stop, flush=True)
            sys.exit(128 + stop.signal)

    app.run(guarded)
