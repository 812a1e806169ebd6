"""The files that a scan depends on: found in its settings, known by their content, and watched while it runs."""

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffcr.errors import InputError

from .datasets import resolve_input


def located(text: str, folder: Path) -> str:
    """The text with a path in it made absolute, where there is such a file."""
    place = _file_in(text, folder)
    if place is None:
        return text
    return text[: place[0]] + str((folder / text[slice(*place)]).resolve()) + text[place[1] :]


def checksummed(text: str) -> str:
    """The text with the checksum of a file in place of its path, where there is such a file.

    Raises:
        InputError: If it cannot be read.
    """
    place = _file_in(text, Path())
    if place is None:
        return text
    return f"{text[: place[0]]}sha256:{record_of(text[slice(*place)])['sha256']}{text[place[1] :]}"


def file_named_in(text: str) -> str | None:
    """The file in a text, or None."""
    place = _file_in(text, Path())
    return None if place is None else text[slice(*place)]


def record_of(name: str) -> dict[str, Any]:
    """What a file is known by: file, bytes, stamp and sha256. JSON, for `require_unchanged`.

    Args:
        name: Path, or `dataset:NAME`, which lies elsewhere on another machine.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        # Before it is read: a change meanwhile is then seen as one.
        stamp = _stamp(_path(name))
        return {"file": name, "bytes": stamp[0], "stamp": list(stamp), "sha256": _digest(_path(name), stamp)}
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error


def require_unchanged(records: Iterable[dict[str, Any]]) -> None:
    """Refuse to go on where a file is no longer what `record_of` found.

    A file of the same size and times is taken for the same; where these differ, as for a copy or after `touch`, its
    content decides.

    Raises:
        InputError: If one has changed, or is gone.
    """
    for record in records:
        try:
            path = _path(record["file"])
            stamp = _stamp(path)
            same = list(stamp) == record["stamp"] or _digest(path, stamp) == record["sha256"]
        except OSError:
            same = False
        if not same:
            raise InputError(f"{record['file']}: changed while the scan ran; run the same command again")


def _path(name: str) -> str:
    return str(resolve_input(name)[0]) if name.startswith("dataset:") else name


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(maxsize=1024)
def _digest(path: str, stamp: tuple[int, int, int]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _places(text: str) -> list[tuple[int, int]]:
    """Stretches of a text that may be a path: all of it, what follows a "=", and what precedes the last ":"."""
    start = text.find("=") + 1
    stops = [len(text)] + ([text.rfind(":")] if ":" in text else [])
    return [(first, stop) for first in dict.fromkeys((0, start)) for stop in stops]


def _file_in(text: str, folder: Path) -> tuple[int, int] | None:
    for first, stop in _places(text):
        try:
            if stop > first and (folder / text[first:stop]).is_file():
                return first, stop
        except (OSError, ValueError):
            continue
    return None
