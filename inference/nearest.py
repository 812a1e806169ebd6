"""Names that are not known: the message says which one was probably meant."""

import difflib
from collections.abc import Iterable

from diffcr.errors import InputError


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not among the known ones.

    Args:
        name: What was given.
        known: What could have been.
        what: Beginning of the message, such as "vela.toml: the table [parameters] has no"; the name follows.

    Raises:
        InputError: If it is unknown; the message names the nearest known one, or all.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1, cutoff=0.6)
    raise InputError(
        f"{what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(known))}")
    )
