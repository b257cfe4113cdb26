"""Files that are written whole, and locks: held by one, waited for with a limit, or missed with a line."""

import contextlib
import subprocess
import sys

import filelock
import pytest

from lcaps_jax.train import workdir
from lcaps_jax.util.errors import ConfigError
from lcaps_jax.util.files import locked, write_json, write_whole
import workloads

_HOLD = """
import pathlib, sys
from lcaps_jax.util.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def _held(path):
    """Another process holds the lock of a file."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_held_by_one_and_a_killed_process_leaves_none(tmp_path):
    path = tmp_path / ".lock"
    with _held(path) as process:
        for seconds in (0.0, 0.2):
            with pytest.raises(filelock.Timeout), locked(path, seconds=seconds):
                pass
        with pytest.raises(ConfigError, match=f"workdir={tmp_path}"), workdir.alone(tmp_path):
            pass
        process.kill()
        process.wait()
        for _ in range(2):
            with workdir.alone(tmp_path):
                pass


@pytest.mark.parametrize("error", [OSError(38, "no locks"), OSError(95, "no locks"), NotImplementedError("no locks")])
def test_where_there_are_no_locks_a_line_says_so_and_all_goes_on(tmp_path, monkeypatch, capsys, error):
    def acquire(self):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with workdir.alone(tmp_path / "run"):
        pass
    workdir.add_results(tmp_path / "run", workloads.tiny_config(), {}, {}, 80)
    assert workdir.read_results(tmp_path / "run") == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(str(tmp_path / "run") in line and "no locks" in line for line in lines)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(type(path), "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "half")
    assert path.read_text() == '{\n  "a": 1\n}\n'
