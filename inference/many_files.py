"""Thousands of event files into one `Counts`: in batches that are kept on disk, by any number of workers, resumable.

Where a batch ends depends on the list of files alone, and batches are added in their order: the counts are the same,
bit for bit, whoever reads them and however often the run was cut. Each batch goes into one file under a hash of all
that it depends on; a run does what is missing.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffcr.clock import TIME_FORMATS
from diffcr.errors import InputError
from diffcr.site import Site
from diffcr.site import site as find_site

from .binning import BinningOptions
from .code_version import code_version
from .columns import parse_columns
from .data import Counts, combine
from .events import AZIMUTHS
from .file_accounts import Account, BadFilesError, Listed, Reading, repeated, write_accounts
from .file_batches import Part, accounts_of, bin_batch, cut_into_batches, is_done, load_part, part_of
from .file_lists import require_once
from .tables import split_path
from .workers import Workers, run_jobs

Progress = Callable[[Sequence[Account], bool], None]


@dataclasses.dataclass(frozen=True)
class Binned:
    """Counts of many files.

    Attributes:
        counts: Their sum.
        accounts: What became of each file, in the order of the list.
        notes: What else happened, in sentences for the user.
    """

    counts: Counts
    accounts: tuple[Account, ...]
    notes: tuple[str, ...] = ()


def bin_files(
    files: Sequence[str | os.PathLike],
    site: str | Site,
    folder: str | os.PathLike,
    columns: str | dict | None = None,
    time_format: str | None = None,
    azimuth: str | None = None,
    prefer: str = "equatorial",
    skip_bad_rows: bool = False,
    equinox: str | None = None,
    skip_bad_files: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Binned:
    """Counts of any number of event lists of one observatory; what is in `folder` already is not read again.

    Args:
        files: Names of event lists (see `list_files` for patterns and folders).
        site: Observatory, as for `read_counts`.
        folder: Where the batches are kept; made if missing, and visible to all workers. `remove_batches` clears it. A
            batch is used again where options, program and names of its files are the same, and so are their sizes and
            the times of the last change of content and inode (owner, name, links); the content is not read for this.
        columns, time_format, azimuth, prefer, skip_bad_rows, equinox: As for `read_counts`.
        skip_bad_files: Whether to leave out and record files that cannot be used (`Counts.history["skipped_files"]`),
            instead of refusing the list once all were tried.
        workers: Where to run; by default in this process.
        progress: Called with the accounts of the files of each batch that is done, and whether it was found in
            `folder`.
        options: Fields of `BinningOptions`, as for `read_counts`.

    Raises:
        InputError: If an option is wrong, a file is named twice, or no event is left; `BadFilesError` if files cannot
            be used.
        FitError: If the workers are lost; the same call goes on from there.
    """
    names, folder = [os.fspath(file) for file in files], Path(folder).absolute()
    reader = {"columns": columns, "time_format": time_format, "azimuth": azimuth, "prefer": prefer}
    place = find_site(site)
    _require_options(reader, place, equinox, options)
    _require_event_lists(names)
    require_once(names)
    reading = Reading.of(place, reader | {"skip_bad_rows": skip_bad_rows}, equinox, options)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another -o") from error
    run = _Run(folder, reading, skip_bad_files, workers or Workers(), progress)
    batches = [_Batch(files) for files in cut_into_batches([Listed.of(name) for name in names])]
    try:
        return _binned(run, batches)
    finally:
        # Where nothing was kept, nothing is left.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _binned(run: "_Run", batches: list["_Batch"]) -> Binned:
    run.complete(batches)
    twice = repeated(account for batch in batches for account in batch.accounts)
    if twice and run.skip:
        batches = [batch.without(twice) for batch in batches]
        run.complete(batches)
    accounts = [_refused(account, twice) for batch in batches for account in batch.accounts]
    bad = [account for account in accounts if account.status == "bad"]
    if bad and not run.skip:
        folder = run.folder
        write_accounts(folder / "files.csv", accounts)
        raise BadFilesError(
            f"{len(bad)} of {len(accounts)} files cannot be used, the first {bad[0].file}: {bad[0].message}; all are "
            f"listed in {folder / 'files.csv'}; correct them, take them off the list, or leave them out with "
            "--skip-bad-files: what was finished is kept",
            accounts,
        )
    return run.sum(batches, _renamed(accounts))


def _require_options(reader: dict, site: Site, equinox: str | None, options: dict) -> None:
    """Refuse at once what would make all files bad."""
    for option, value, choices in (
        ("--time-format", reader["time_format"], (None, *TIME_FORMATS)),
        ("--azimuth", reader["azimuth"], (None, *AZIMUTHS)),
        ("--prefer", reader["prefer"], ("equatorial", "horizon")),
    ):
        if value not in choices:
            raise InputError(f"{option} must be one of {', '.join(filter(None, choices))}, not {value!r}")
    if isinstance(reader["columns"], str):
        parse_columns(reader["columns"])
    own = options | ({"zenith_max": site.zenith_max} if options.get("zenith_max") == "site" else {})
    BinningOptions(**own, equinox=equinox or "j2000")


def _require_event_lists(names: Sequence[str]) -> None:
    if not names:
        raise InputError("no input was given: name event lists, folders, patterns in quotes, or --list FILE")
    for name in names:
        if name.startswith("dataset:") or name.lower().endswith((".nc", ".json")):
            raise InputError(
                f"{name}: is no event list; so many files are binned together only where all are: bin the event lists, "
                "then join the counts with diffcr bin"
            )


def _refused(account: Account, reasons: dict[str, str]) -> Account:
    """The account of a file, bad where there is a reason."""
    if account.file not in reasons:
        return account
    return dataclasses.replace(account, status="bad", message=reasons[account.file], counted=0, cut={}, entry={})


def _renamed(accounts: Sequence[Account]) -> list[Account]:
    """With names in `Counts.inputs` that are relative to the folder in which all files lie: short, and not the same."""
    paths = [os.path.abspath(account.file) for account in accounts]
    common = os.path.commonpath([os.path.dirname(split_path(path)[0]) for path in paths])
    names = [os.path.relpath(path, common) for path in paths]
    return [
        dataclasses.replace(account, entry=account.entry | {"file": name})
        for account, name in zip(accounts, names, strict=True)
    ]


# A run --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Batch:
    """Files that are read by one job, why some of them are left out, and what became of them once it is done."""

    files: tuple[Listed, ...]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    key: str = ""
    accounts: list[Account] = dataclasses.field(default_factory=list)

    def without(self, reasons: dict[str, str]) -> "_Batch":
        """The same without some of the files; itself where it has none of them."""
        own = {each.file: reasons[each.file] for each in self.files if each.file in reasons}
        return _Batch(self.files, own) if own else self


class _Run:
    """Batches brought up to date, wherever the work is done, and added."""

    def __init__(self, folder: Path, reading: Reading, skip: bool, workers: Workers, progress: Progress | None):
        self.folder, self.reading, self.skip, self.workers = folder, reading, skip, workers
        self.progress, self.notes = progress, []

    def complete(self, batches: Sequence[_Batch]) -> None:
        """Give each batch its accounts, and see that its counts are in the folder."""
        jobs, missing = [], []
        for batch in batches:
            if batch.accounts:
                continue
            job = self._job(batch)
            batch.key, found = job["key"], accounts_of(self.folder, job["key"])
            if is_done(found, self.skip):
                self._take(batch, found, True)
            else:
                jobs.append(job)
                missing.append(batch)
        # Each of the jobs is right when it is run twice at once: its file appears whole or not at all.
        run_jobs(
            bin_batch,
            jobs,
            self.workers,
            lambda number, found: self._take(missing[number], [Account(**each) for each in found], False),
            self.folder,
        )

    def _job(self, batch: _Batch) -> dict[str, Any]:
        job = {
            "code": code_version(),
            "files": [dataclasses.asdict(each) for each in batch.files],
            "left_out": batch.left_out,
            "reading": dataclasses.asdict(self.reading),
        }
        key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        return job | {"key": key, "folder": str(self.folder), "skip": self.skip}

    def _take(self, batch: _Batch, accounts: list[Account], found: bool) -> None:
        batch.accounts = accounts
        if self.progress is not None:
            self.progress(accounts, found)

    def sum(self, batches: Sequence[_Batch], accounts: Sequence[Account]) -> Binned:
        """All batches added, one after the other: never more than two are held."""
        total = None
        for batch in batches:
            counts = self._load(batch).counts
            if counts is not None:
                total = counts if total is None else combine([total, counts])
        skipped = [{"file": each.entry["file"], "reason": each.message} for each in accounts if each.status == "bad"]
        if total is None:
            raise InputError(_why_nothing(accounts))
        history = total.history | ({"skipped_files": skipped} if skipped else {})
        entries = tuple(each.entry for each in accounts if each.status != "bad")
        return Binned(total.replace(inputs=entries, history=history), tuple(accounts), tuple(self.notes))

    def _load(self, batch: _Batch) -> Part:
        """What is kept of a batch; where that was damaged since, it is made again."""
        path = part_of(self.folder, batch.key)
        if (part := load_part(self.folder, batch.key)) is None:
            self.notes.append(f"{path} was damaged; its {len(batch.files)} files are read again")
            path.unlink(missing_ok=True)
            batch.accounts = []
            self.complete([batch])
            part = load_part(self.folder, batch.key)
        if part is None:
            raise InputError(f"{path}: is damaged again right after it was written; check the disk")
        return part


def _why_nothing(accounts: Sequence[Account]) -> str:
    bad = [each for each in accounts if each.status == "bad"]
    if len(bad) == len(accounts):
        return f"none of the {len(bad)} files can be used, the first {bad[0].file}: {bad[0].message}"
    cut = collections.Counter()
    for each in accounts:
        cut.update(each.cut)
    cuts = ", ".join(f"{number} by {name}" for name, number in cut.items() if number)
    return f"no event is left of {len(accounts) - len(bad)} files after cuts (cut: {cuts}); widen the cuts"
