"""Errors a user can mend: each message names what is wrong, where, and the remedy."""


class InputError(ValueError):
    """Input that cannot be used as it is. The command line prints it as one line and exits with 2."""


class FitError(RuntimeError):
    """A fit that finished without reaching its maximum, where a maximum was required. Exit code 3."""
