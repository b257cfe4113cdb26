"""Signals while training: noted once, acted on at once the second time, and handled as usual afterwards."""

import signal

import pytest

from lcaps_jax.train.loop import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with StopSignals() as stop:
        assert not stop.wanted() and stop.stopped(1, 2).signal == signal.SIGTERM  # as where another process stops
        signal.raise_signal(number)
        assert stop.wanted()
        stopped = stop.stopped(7, 20)
    assert stopped.signal == number and number.name in str(stopped) and "7 of 20" in str(stopped)
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process of pytest-xdist may not have
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert stop.wanted()
    finally:
        signal.signal(signal.SIGINT, before)
