"""Locks: held by one, waited for with a limit, and missed with a line where a file system has none."""

import errno
import fcntl
import multiprocessing

import pytest

from lcaps_jax import locks, runs
from lcaps_jax.config import ConfigError
import workloads


def _hold(path, ready, done):
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()
        done.wait(60)


@pytest.fixture
def hold():
    """Has another process hold the lock of a file until the returned event is set."""
    context = multiprocessing.get_context("forkserver")
    started = []

    def start(path):
        ready, done = context.Event(), context.Event()
        process = context.Process(target=_hold, args=(path, ready, done))
        process.start()
        started.append((process, done))
        assert ready.wait(60)
        return done

    yield start
    for process, done in started:
        done.set()
        process.join()


def test_a_lock_is_held_by_one_and_waiting_has_a_limit_and_a_line(tmp_path, hold, capsys):
    path = tmp_path / ".lock"
    hold(path)
    with pytest.raises(locks.LockedError, match=r"\.lock: another process has this lock"), locks.locked(path):
        pass
    assert not capsys.readouterr().out
    with (
        pytest.raises(locks.LockedError, match=r"after 0\.2 seconds"),
        locks.locked(path, seconds=0.2, meanwhile="waiting"),
    ):
        pass
    assert capsys.readouterr().out == "waiting\n"
    with pytest.raises(ConfigError, match="another process is training in this folder"), runs.alone(tmp_path):
        pass


def test_a_lock_that_was_given_back_can_be_had(tmp_path):
    for _ in range(2):
        with locks.locked(tmp_path / ".lock"):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_where_there_are_no_locks_a_line_says_so_and_all_goes_on(tmp_path, monkeypatch, capsys, number):
    def flock(*arguments):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with runs.alone(tmp_path / "run"):
        pass
    runs.add_results(tmp_path / "run", workloads.tiny_config(), {}, {}, 80)
    assert runs.read_results(tmp_path / "run") == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(f"{tmp_path / 'run'} has no locks ([Errno {number}]" in line for line in lines)
