"""Flagfiles: lines of flags that stand for themselves on a command line. Nothing here needs JAX."""

from collections.abc import Sequence
import os
import pathlib
import re

from lcaps_jax.errors import ConfigError, arg

_FLAGFILE = re.compile(r"--?flagfile(?:=(.*))?", re.DOTALL)
_QUOTED = re.compile(r"""^(--?\w+=)(["'])(.*)\2$""")


def read_flagfiles(arguments: Sequence[str], inside: tuple[str, ...] = ()) -> list[str]:
    """Puts the lines of flagfiles in the place of each ``--flagfile=FILE``.

    A line is a flag, a comment (``#`` or ``//``) or empty. No shell reads it, so that nothing in it is special, but
    quotes around a whole value are taken off as a shell would: ``--workdir='runs/a b'``. A byte-order mark, which some
    editors write, is skipped.

    Args:
      arguments: Arguments of a command line.
      inside: Flagfiles that these arguments stand in, which they may not name again.

    Raises:
      ConfigError: A file cannot be read, is no text, or is named inside itself.
    """
    arguments = list(arguments)
    filled: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        found = _FLAGFILE.fullmatch(argument)
        if argument == "--":
            return [*filled, argument, *arguments]
        if not found:
            filled.append(argument)
            continue
        name = found[1] or (arguments.pop(0) if found[1] is None and arguments else "")
        path = os.path.expanduser(name)
        if path in inside:
            raise ConfigError(f"{arg('flagfile')}={name}: is named inside itself.")
        try:
            text = pathlib.Path(path).read_text(encoding="utf-8-sig")
            if "\0" in text:
                raise ValueError("it has null characters")
        except (OSError, ValueError) as error:  # of bytes that are no UTF-8 too
            raise ConfigError(f"{arg('flagfile')}={name}: cannot be read as text in UTF-8 ({error}).") from None
        lines = [_QUOTED.sub(r"\1\3", line.strip()) for line in text.split("\n")]
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        filled += read_flagfiles(lines, (*inside, path))
    return filled
