"""Signals while training: noted once, acted on at once the second time, and as before afterwards."""

import signal
import subprocess
import sys

import pytest

from lcaps_jax.training.stop import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with StopSignals(40) as stop:
        assert not stop.wanted()
        signal.raise_signal(number)
        assert stop.wanted()
        stopped = stop.stopped(7, 20)
    assert stopped.signal == number
    assert str(stopped) == f"Stopped by {number.name} at step 7 of 20, all saved. The same command continues."
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_second_ctrl_c_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process of pytest-xdist may not have
    try:
        with StopSignals(40) as stop:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert stop.wanted()
    finally:
        signal.signal(signal.SIGINT, before)


_DEAF = """
import hashlib
from lcaps_jax.training.stop import StopSignals
with StopSignals(40):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, in which Python calls no handler
"""


def test_while_the_devices_compute_a_signal_is_answered_and_a_second_one_ends_the_process():
    with subprocess.Popen([sys.executable, "-c", _DEAF], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        answer = process.stdout.readline()
        assert answer == "SIGINT: at most 40 steps end, and everything is saved. A second one quits.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT


def test_a_run_that_another_process_stops_names_the_signal_that_is_usual():
    with StopSignals(40) as stop:
        assert stop.stopped(1, 2).signal == signal.SIGTERM
