"""Errors that a user can mend: each message names the argument, its value, and what would be accepted."""


class UserError(ValueError):
    """An error that the user can mend. The command line prints its message alone, without a traceback."""


class ConfigError(UserError):
    """A setting or argument cannot be used."""
