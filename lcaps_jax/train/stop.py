"""SIGTERM and Ctrl-C while training: the call in flight ends, everything is saved, and then the run stops."""

import contextlib
import signal

from lcaps_jax.util import devices
from lcaps_jax.util.process import write_line


class Stopped(Exception):
    """The run was asked to stop, has saved everything, and can be continued.

    Attributes:
      signal: Number of the signal that asked.
    """

    def __init__(self, number: signal.Signals, step: int, total_steps: int):
        super().__init__(
            f"Stopped by {number.name} at step {step} of {total_steps}, all saved. The same command continues."
        )
        self.signal = int(number)


class StopSignals:
    """While entered, SIGTERM and Ctrl-C are noted; a second one acts as it does elsewhere."""

    def __enter__(self) -> "StopSignals":
        self._received: signal.Signals | None = None
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        del frame
        self._received = signal.Signals(number)
        signal.signal(number, self._before[number])
        with contextlib.suppress(RuntimeError):  # Python's, where the signal came in the middle of printing
            write_line(f"{self._received.name}: the steps in flight end, and everything is saved. A second one quits.")

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self) -> bool:
        """Whether any process has been asked to stop; every process must call it."""
        return devices.any_process(self._received is not None)

    def stopped(self, step: int, total_steps: int) -> Stopped:
        """The exception to raise once everything is saved."""
        return Stopped(self._received or signal.SIGTERM, step, total_steps)
