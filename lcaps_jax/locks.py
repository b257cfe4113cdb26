"""Locks by which the processes of a machine keep out of each other's way; a killed process leaves none behind."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import pathlib
import time

from lcaps_jax.errors import UserError
from lcaps_jax.runtime import say

_POLL_SECONDS = 0.1
# How flock says that another process has the lock.
_HELD = (errno.EAGAIN, errno.EACCES)


class LockedError(UserError):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(path: pathlib.Path, *, seconds: float = 0.0, meanwhile: str | None = None) -> Iterator[None]:
    """Holds the lock of a file, which is made where there is none.

    Some file systems, such as Lustre and NFS as they are often mounted, have no locks. There it says so and goes on.

    Args:
      path: File that stands for the lock. It stays, so that all who wait look at the same one.
      seconds: Seconds to wait for another process that has the lock.
      meanwhile: Line to print once before waiting.

    Raises:
      LockedError: Another process has the lock, and kept it for all these seconds.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + seconds
        while not _take(file.fileno(), path):
            if time.monotonic() >= deadline:
                raise LockedError(f"{path}: another process has this lock, after {seconds:g} seconds of waiting too.")
            if meanwhile:
                say(meanwhile)
                meanwhile = None
            time.sleep(_POLL_SECONDS)
        yield  # closing the file gives the lock back


def _take(descriptor: int, path: pathlib.Path) -> bool:
    """Whether the lock could be taken, or cannot be had because there are none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        say(f"{path.parent} has no locks ({error}): see to it yourself that no other process works in this folder.")
    return True
