"""Errors that a user can mend: each names what was given and what would be accepted.

The library speaks of its arguments, a command line of its flags. A message therefore marks the arguments that it
names, ``f"{arg('name')}={name}: no such set"``. Raised from the library it reads ``name=x: no such set``, printed by
``train.py`` it reads ``--dataset=x: no such set``.
"""

from collections.abc import Container, Iterator
import contextlib
import re

_MARK = "\x1f"  # the ASCII unit separator, which nobody types
_MARKED = re.compile(f"{_MARK}([^{_MARK}]*){_MARK}")


def arg(name: str) -> str:
    """Marks the name of an argument or setting in the message of a ``UserError``."""
    return f"{_MARK}{name}{_MARK}"


class UserError(Exception):
    """An error that the user can mend; the message names the value and what would do.

    Args:
      message: Text in which ``arg`` marks the names of arguments.

    Attributes:
      marked: Text with these marks.
    """

    def __init__(self, message: str):
        self.marked = message
        super().__init__(_MARKED.sub(r"\1", message))

    def rename(self, names: dict[str, str]) -> None:
        """Gives arguments in the message other names, such as ``{"name": "dataset"}``."""
        UserError.__init__(self, _MARKED.sub(lambda found: arg(names.get(found[1], found[1])), self.marked))

    def as_flags(self, known: Container[str]) -> str:
        """The message for a command line: the arguments in it are flags, as far as it knows flags of their names."""
        return _MARKED.sub(lambda found: f"--{found[1]}" if found[1] in known else found[1], self.marked)


class ConfigError(UserError, ValueError):
    """A setting cannot be run; the message names it, its value, and what would be accepted."""


class ArgumentError(UserError, ValueError):
    """An argument of a function or a setting of a network cannot be used."""


@contextlib.contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Renames the arguments of a ``UserError`` that is raised inside, as ``with renamed(name="dataset"):``."""
    try:
        yield
    except UserError as error:
        error.rename(names)
        raise
