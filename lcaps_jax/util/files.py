"""Files that are written whole or not at all, and locks between the processes of a machine."""

from collections.abc import Iterator
import contextlib
import json
import pathlib

import filelock

from lcaps_jax.util.process import say

PARTIAL = ".partial"  # ending of a file's name while the file is being written


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file of text or bytes; a process that is killed meanwhile leaves what was there before."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def write_json(path: pathlib.Path, value, indent: int | None = 2) -> None:
    """Writes a JSON file as ``write_whole`` does; without an indent it is one line."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


@contextlib.contextmanager
def locked(path: pathlib.Path, *, seconds: float = 0.0) -> Iterator[None]:
    """Holds the lock of a file, which is created if needed; a killed process leaves no lock behind.

    If another process holds it for more than ``seconds``, filelock.Timeout is raised. Some file systems, such as Lustre
    and NFS as they are often mounted, have no locks; there a line says so, and work goes on.
    """
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, filelock.Timeout) or not path.parent.is_dir():
            raise
        say(f"{path.parent} has no locks ({error}): make sure that no other process works in this folder.")
    try:
        yield
    finally:
        lock.release()
