"""Which event files are meant: by names, folders, patterns, or a list of them."""

import dataclasses
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffcr.errors import InputError

from .tables import split_path

_PLAIN = (".parquet", ".pq", ".h5", ".hdf5", ".hdf", ".fits", ".fit", ".csv", ".tsv", ".dat", ".txt")
SUFFIXES = (*_PLAIN, ".csv.gz", ".tsv.gz", ".dat.gz", ".txt.gz")
"""What of a folder is read. A pattern may name anything."""

ACCOUNTS = ".files.csv"
"""End of the names of the accounts that `diffcr bin` writes beside its counts: no events."""


@dataclasses.dataclass(frozen=True)
class FileList:
    """Files to read, in order.

    Attributes:
        files: Their names.
        searched: Whether a folder, a pattern or a list named any of them.
        passed_over: What was met in folders and by patterns but is not read: other files, folders, our own accounts.
    """

    files: tuple[str, ...]
    searched: bool
    passed_over: tuple[str, ...] = ()


def list_files(inputs: Sequence[str], listing: str | os.PathLike | None = None) -> FileList:
    """Files named by the inputs and by a list of names.

    Of a folder, all files of the kinds in `SUFFIXES` are meant, those of its folders too; of a pattern with *, ? or
    [..] what it matches (** stands for folders of any depth); both in the order of their names. Hidden files are not
    met. Whatever exists under the whole name is that, also where it looks like a pattern.

    Args:
        inputs: Names, folders, patterns.
        listing: File with one name in each line; empty lines and lines that begin with # do not count. Relative names
            are relative to the current folder.

    Raises:
        InputError: If a folder holds no event files, a pattern matches nothing, or the list cannot be read or is empty.
    """
    files, passed_over, searched = [], [], listing is not None
    for text in map(os.fspath, inputs):
        if os.path.isdir(text):
            found = sorted(_files_in(text))
            wanted = [path for path in found if path.lower().endswith(SUFFIXES) and not path.endswith(ACCOUNTS)]
            if not wanted:
                raise InputError(
                    f"{text}: the folder holds no event files ({', '.join(_PLAIN)}); name them by a pattern in quotes, "
                    f"as '{os.path.join(text, '*.EXT')}'"
                )
            passed_over += sorted(set(found) - set(wanted))
        elif _is_pattern(text):
            found = _matching(text)
            wanted = [path for path in found if not os.path.isdir(path) and not path.endswith(ACCOUNTS)]
            if not wanted:
                raise InputError(f"{text}: no file matches this pattern; check it, and the folder it is relative to")
            passed_over += sorted(set(found) - set(wanted))
        else:
            files.append(text)
            continue
        searched = True
        files += wanted
    if listing is not None:
        files += _listed(listing)
    return FileList(tuple(files), searched, tuple(passed_over))


def require_once(files: Sequence[str]) -> None:
    """Refuse a list in which a file stands twice, under whatever name.

    Raises:
        InputError: Naming it.
    """
    known: dict[tuple[str, str], str] = {}
    for name in files:
        path, inner = split_path(name)
        key = (os.path.realpath(path), inner)
        if key in known:
            also = "twice" if known[key] == name else f"also as {known[key]}"
            raise InputError(f"{name}: is named {also}; name each file once, and let no two patterns overlap")
        known[key] = name


def _files_in(folder: str) -> Iterator[str]:
    """Files in a folder and all below it, links followed once."""
    met = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in met else sorted(name for name in folders if not name.startswith("."))
        if real not in met:
            yield from (os.path.join(place, name) for name in names if not name.startswith("."))
        met.add(real)


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.exists(split_path(text)[0])


def _matching(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))
    # What stands behind a name in FITS and HDF5 is no part of it: *.fits[EVENTS], *.h5:/events.
    inner = None if found else re.fullmatch(r"(.+?)(\[[^\[\]]+\]|:/.*)", pattern)
    return [each + inner[2] for each in sorted(glob.glob(inner[1], recursive=True))] if inner else found


def _listed(listing: str | os.PathLike) -> list[str]:
    try:
        lines = Path(listing).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: the list of files cannot be read ({error}); check --list") from error
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError(f"{listing}: the list names no file; write one path into each line")
    return names
