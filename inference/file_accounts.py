"""What became of each of many event files: read, cut, counted, or refused, and why."""

import csv
import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .binning import NoEventLeftError
from .data import Counts
from .files import atomic
from .inputs import EventFileReader, count_events, refuse_weightless
from .tables import split_path

CHUNK = 1 << 18
"""Rows of a file that are held at once."""

_FEW_EVENTS = 20
"""Files of fewer events are not known again by their counts."""

_CUTS = ("energy", "zenith", "time", "epoch")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A file that is to be read, as it was when the work was shared out.

    Attributes:
        file: Its name as the user has it.
        path: Absolute path.
        size: Bytes; -1 where there is no such file.
        modified: Time of its last change [ns since 1970].
        changed: Time of the last change of its inode [ns since 1970], which no program can set: it tells a file that
            was changed in place, or replaced, and given its old time again. 0 where there is none.
    """

    file: str
    path: str
    size: int
    modified: int
    changed: int = 0

    @classmethod
    def of(cls, file: str) -> "Listed":
        """The file as it is now."""
        path = os.path.abspath(file)
        return cls(file, path, *_state(path))

    def require_unchanged(self) -> None:
        """Refuse a file whose size or time of the last change is not what it was.

        Raises:
            InputError: Saying so.
        """
        now = _state(self.path)
        # Other machines may see the inode otherwise, and a new name or owner changes it too.
        if now[:2] == (self.size, self.modified):
            return
        if now[0] >= 0:
            raise InputError(f"{self.path}: was changed while it was read; run again once it is complete")
        raise InputError(
            f"{self.path}: has gone since the run began, or {socket.gethostname()} does not see it; all workers must "
            "see all files"
        )


def _state(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(split_path(path)[0])
    except OSError:
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of one file.

    Attributes:
        file: Its name as the user has it.
        status: "counted"; "cut", where no event passed the cuts; or "bad".
        message: Why it is bad.
        rows: Rows read, bad ones included.
        bad_rows: Rows left out because they cannot be used.
        counted: Events counted.
        cut: Events cut, by name of the cut.
        bytes: Its size.
        sha256: Of its content; "" where it is bad.
        events: Digest of its events as they were counted, whatever the format; "" where these are few.
        seconds: Wall time that it took.
        entry: What `Counts.inputs` says of it.
    """

    file: str
    status: str
    message: str = ""
    rows: int = 0
    bad_rows: int = 0
    counted: int = 0
    cut: dict[str, int] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    sha256: str = ""
    events: str = ""
    seconds: float = 0.0
    entry: dict[str, Any] = dataclasses.field(default_factory=dict)


class BadFilesError(InputError):
    """Some of many files cannot be used; all of them were tried.

    Attributes:
        accounts: Of all files, in their order.
    """

    def __init__(self, message: str, accounts: Sequence[Account] = ()):
        super().__init__(message)
        self.accounts = list(accounts)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How event files are read and binned: JSON-like, so that it travels to workers and goes into hashes.

    Attributes:
        site: Name of the observatory, and latitude, longitude, largest and smallest zenith angle [rad].
        reader: columns, time_format, azimuth, prefer and skip_bad_rows of `EventReader`.
        equinox: "j2000", "icrs" or "date"; None for j2000.
        options: Fields of `BinningOptions` that are not the default, lists for tuples; zenith_max may be "site".
    """

    site: list
    reader: dict[str, Any]
    equinox: str | None
    options: dict[str, Any]

    @classmethod
    def of(cls, site: Site, reader: dict[str, Any], equinox: str | None, options: dict[str, Any]) -> "Reading":
        """From a site and what `read_counts` takes."""
        own = {name: value for name, value in options.items() if value is not None}
        if "grid" in own:
            own["grid"] = list(own["grid"].shape)
        for name in ("energy_edges", "energy_range", "time_range"):
            if name in own:
                own[name] = [float(value) for value in own[name]]
        if not isinstance(own.get("epochs", ""), str):
            own["epochs"] = [list(epoch) for epoch in own["epochs"]]
        place = [site.name, site.latitude, site.longitude, site.zenith_max, site.zenith_min]
        return cls(place, dict(reader), equinox, own)

    @property
    def binning(self) -> dict[str, Any]:
        """The options as `read_counts` takes them."""
        own = dict(self.options)
        if "grid" in own:
            own["grid"] = RingGrid(*own["grid"])
        for name in ("energy_edges", "energy_range", "time_range"):
            if name in own:
                own[name] = tuple(own[name])
        if not isinstance(own.get("epochs", ""), str):
            own["epochs"] = tuple(tuple(epoch) for epoch in own["epochs"])
        return own


class Taken(NamedTuple):
    """One file, read.

    Attributes:
        account: What became of it.
        counts: Its counts; None where no event is left or it is bad.
    """

    account: Account
    counts: Counts | None


def take_file(listed: Listed, reading: Reading, threads: int | None = None) -> Taken:
    """Read and bin one file. What is wrong with it stands in its account and raises nothing.

    Args:
        listed: The file.
        reading: How.
        threads: Of the arithmetic.
    """
    begun, counts = time.monotonic(), None
    try:
        listed.require_unchanged()
        reader = EventFileReader(listed.path, chunk_size=CHUNK, **reading.reader)
        try:
            counts = count_events(reader, Site(*reading.site), reading.equinox, reading.binning, threads=threads)
            refuse_weightless(listed.path, counts)
            entry = counts.inputs[0]
        except NoEventLeftError as error:
            entry = error.entry
        listed.require_unchanged()
    except (InputError, OSError) as error:
        seconds = time.monotonic() - begun
        return Taken(Account(listed.file, "bad", _reason(listed, error), bytes=listed.size, seconds=seconds), None)
    except Exception as error:
        error.add_note(f"while {listed.file} was read")
        raise
    account = Account(
        file=listed.file,
        status="cut" if counts is None else "counted",
        rows=entry["rows"],
        bad_rows=entry["bad_rows"],
        counted=0 if counts is None else int(counts.num_events.sum()),
        cut=entry["cut"],
        bytes=listed.size,
        sha256=entry["sha256"],
        events="" if counts is None else digest_of_events(counts),
        seconds=time.monotonic() - begun,
        entry=entry,
    )
    return Taken(account, counts)


def _reason(listed: Listed, error: Exception) -> str:
    """The message without the name of the file before it, which the account has, in one line."""
    text = " ".join(str(error).split())
    for name in (listed.path, Path(listed.path).name):
        text = text.removeprefix(f"{name}: ")
    return text


def repeated(accounts: Iterable[Account]) -> dict[str, str]:
    """Files that hold the same events as one before them, and why they are bad.

    Two parts of one FITS or HDF5 file are told apart by their names, unless their events are the same. The same events
    in another format, or compressed, are known by their counts.
    """
    known: dict[tuple[str, str], str] = {}
    found = {}
    for account in accounts:
        content = (account.sha256, split_path(account.file)[1]) if account.sha256 else None
        events = (account.events, "counts") if account.events else None
        for key, why in ((content, "equal checksums"), (events, "equal counts in every cell")):
            other = account.file if key is None else known.setdefault(key, account.file)
            if other != account.file:
                found.setdefault(account.file, f"the same events are already counted from {other} ({why})")
    return found


def digest_of_events(counts: Counts) -> str:
    """SHA-256 of the numbers of events, their marginals and their first and last time; "" where there are few events.

    In 32-bit floats and tens of seconds: a sum of weights may differ in its last digit with the format, and so does the
    time of an event. Few events may well fall into the same cells.
    """
    if counts.num_events.sum() < _FEW_EVENTS:
        return ""
    digest = hashlib.sha256(json.dumps([counts.energies, counts.epochs]).encode())
    digest.update(counts.num_events.astype(np.int64).tobytes())
    digest.update(np.round(counts.span * 8640).tobytes())
    with np.errstate(over="ignore"):
        for name in ("n_sky", "n_time", "n_local"):
            digest.update(getattr(counts, name).astype(np.float32).tobytes())
    return digest.hexdigest()


def write_accounts(path: Path, accounts: Iterable[Account]) -> None:
    """Write a CSV table with a row for each file; it appears under its name only when complete.

    Raises:
        InputError: If it cannot be written.
    """
    cuts = [f"cut_{name}" for name in _CUTS]
    names = ["file", "status", "rows", "bad_rows", "counted", *cuts, "bytes", "sha256", "seconds", "message"]
    with atomic(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(names)
        for each in accounts:
            numbers = [each.rows, each.bad_rows, each.counted, *(each.cut.get(name, 0) for name in _CUTS)]
            seconds = f"{each.seconds:.3f}"
            table.writerow([each.file, each.status, *numbers, max(each.bytes, 0), each.sha256, seconds, each.message])
