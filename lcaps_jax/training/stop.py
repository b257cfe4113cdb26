"""SIGTERM and Ctrl-C while training: the steps in flight end, everything is saved, and then the run stops."""

import os
import signal
import threading

from lcaps_jax import parallel
from lcaps_jax.runtime import write_line

_GRACE_SECONDS = 1.0  # after a second signal, in which the run may still end by itself


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
    """While entered, SIGTERM and Ctrl-C are only noted, and answered by a line; a second one quits.

    Python calls handlers of signals between its own instructions, so not while it waits for the devices. A thread
    answers in that time: it says what follows, and ends the process where a second signal has not ended it in a second.

    Args:
      steps: The most steps that are finished before the run stops.
    """

    def __init__(self, steps: int):
        self._steps = steps

    def __enter__(self) -> "StopSignals":
        self._received: signal.Signals | None = None
        self._left = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def _note(self, number, frame):
        del frame
        self._received = signal.Signals(number)
        signal.signal(number, self._before[number])

    def _answer(self) -> None:
        """Reads the numbers of signals, which the kernel's handler writes at once."""
        noted = 0
        while byte := os.read(self._reader, 1):
            if byte[0] not in self._before:
                continue
            noted += 1
            if noted == 1:
                name = signal.Signals(byte[0]).name
                write_line(f"{name}: at most {self._steps} steps end, and everything is saved. A second one quits.")
            elif not self._left.wait(_GRACE_SECONDS):
                os._exit(128 + byte[0])

    def __exit__(self, *exception):
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)  # which ends the thread
        self._thread.join()
        os.close(self._reader)

    def wanted(self) -> bool:
        """Whether any process has been asked to stop; every process must call it."""
        return parallel.any_process(self._received is not None)

    def stopped(self, step: int, total_steps: int) -> Stopped:
        """The exception to raise once everything is saved."""
        return Stopped(self._received or signal.SIGTERM, step, total_steps)
