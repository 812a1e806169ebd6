"""`diffcr bin` over many event files: its options, its progress, and what it tells of thousands of files."""

import collections
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcr.errors import InputError

from .file_accounts import Account, BadFilesError, write_accounts
from .file_batches import remove_batches
from .file_lists import ACCOUNTS, FileList, list_files
from .workers import Workers

FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Event lists, counts files (.nc), dataset:auger-8eev, folders of event lists, or patterns in quotes, such "
        "as 'data/*.parquet'.",
        metavar="INPUT...",
        show_default=False,
    ),
]
ListOption = Annotated[
    Path | None, typer.Option("--list", help="File with one more event list in each line.", metavar="FILE")
]
SkipBadFiles = Annotated[
    bool,
    typer.Option(
        "--skip-bad-files", help="Leave out event lists that cannot be used; each is named, in the results too."
    ),
]

_FEW = 32
"""So many inputs named one by one are read as ever: one after the other, and nothing is kept of a run cut short."""

_MOST_LINES, _MOST_KINDS = 50, 20


def inputs_of_bin(inputs: Sequence[str] | None, listing: Path | None) -> FileList:
    """What INPUT... and --list name.

    Raises:
        InputError: If they name nothing, or as `list_files`.
    """
    if not inputs and listing is None:
        raise InputError("no input was given: name event lists, folders, patterns in quotes, or --list FILE")
    return list_files(inputs or (), listing)


def are_many(named: FileList, site: Sequence[str] | None, skip_bad_files: bool, workers: Workers) -> bool:
    """Whether the inputs are binned in batches: event lists in great number, or with an option that is for these."""
    if skip_bad_files or not workers.here:
        return True
    if any(name.startswith("dataset:") or name.lower().endswith((".nc", ".json")) for name in named.files):
        return False
    return named.searched or (len(named.files) > _FEW and len(site or ()) == 1)


class ManyFiles:
    """A run over many event lists, from the first file to the accounts beside the counts.

    Attributes:
        counts: Of all files.
    """

    def __init__(
        self, named: FileList, site: Sequence[str] | None, output: Path, skip: bool, workers: Workers, **options: Any
    ):
        """Read them; those that cannot be used are told in a line each before `BadFilesError` is raised.

        Args:
            named: The files.
            site: What --site says.
            output: The counts file; what is finished is kept beside it until `finish`.
            skip, workers: As for `bin_files`.
            options: Of `bin_files`.

        Raises:
            InputError: As `bin_files`, or if there is not one site.
        """
        from .many_files import bin_files

        if len(site or ()) != 1:
            remedy = "; bin each observatory by itself, then join the counts with diffcr bin" if site else ""
            raise InputError(f"many event lists need one --site NAME, or --site LAT,LON,ZENITH in degrees{remedy}")
        self._named, self._output = named, output
        with _Bar(len(named.files)) as self._bar:
            try:
                self._binned = bin_files(
                    named.files,
                    site[0],
                    self._batches,
                    skip_bad_files=skip,
                    workers=workers,
                    progress=self._bar.advance,
                    **options,
                )
            except BadFilesError as error:
                self._bar.stop()
                _tell_bad("bad file        ", error.accounts, f"{self._batches / 'files.csv'}")
                raise
        self.counts = self._binned.counts

    @property
    def _batches(self) -> Path:
        return self._output.with_name(self._output.name + ".parts")

    def finish(self) -> None:
        """Once the counts are saved: write the accounts, remove what was kept for another run, and tell."""
        path = self._output.with_name(self._output.stem + ACCOUNTS)
        write_accounts(path, self._binned.accounts)
        remove_batches(self._batches)
        _tell_bad("skipped         ", self._binned.accounts, str(path))
        for note in self._binned.notes:
            _say("note            ", note)
        if other := self._named.passed_over:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            _say("note            ", f"{other[0]}{more}: not read, {'are' if more else 'is'} no event list by name")
        _say("accounts        ", f"{path}: {self._bar.summary()}")


class _Bar:
    """Files, events and their rate on the terminal, and how it went in the end."""

    def __init__(self, files: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        text = "{task.completed:,.0f} of {task.total:,.0f} files, {task.fields[events]:.3g} events, {task.fields[rate]}"
        columns = (TextColumn(text), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("files", total=files, events=0, rate="")
        # By name: a batch of which a file is left out is read again.
        self._read, self._found = {}, {}
        self._begun = time.monotonic()

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to others."""
        self._seconds = time.monotonic() - self._begun
        self._bar.stop()

    def advance(self, accounts: Sequence[Account], found: bool) -> None:
        """Some more files are done; `found` where an earlier run had done them."""
        (self._found if found else self._read).update({each.file: each.rows for each in accounts})
        rate = sum(self._read.values()) / max(time.monotonic() - self._begun, 1e-9)
        done = self._found | self._read
        self._bar.update(
            self._task, completed=len(done), events=sum(done.values()), rate=f"{rate / 1e6:.3g} million events/s"
        )

    def summary(self) -> str:
        """Files, events and rate of this run."""
        rows, files, before = sum(self._read.values()), len(self._read), len(self._found.keys() - self._read.keys())
        done = f", {before} files were done before" if before else ""
        rate = rows / max(self._seconds, 1e-9) / 1e6
        return f"{files} files with {rows} rows read in {self._seconds:.3g} s, {rate:.3g} million rows/s{done}"


def _tell_bad(word: str, accounts: Sequence[Account], where: str) -> None:
    bad = [each for each in accounts if each.status == "bad"]
    for each in bad[:_MOST_LINES]:
        _say(word, f"{each.file}: {each.message}")
    if len(bad) > _MOST_LINES:
        _say(word, f"and {len(bad) - _MOST_LINES} more, listed in {where}")
    if bad and word.startswith("skipped"):
        rows = sum(each.rows for each in accounts)
        _say("skipped         ", f"{len(bad)} of {len(accounts)} files; {rows} rows of the others were read")


def tell_many(entries: Sequence[dict]) -> None:
    """What was guessed, left out and cut of many inputs, each way of reading once."""
    ways, notes = collections.Counter(), collections.Counter()
    for entry in entries:
        notes.update(entry.get("notes", ()))
        unused = ("zenith", "azimuth") if "ra" in entry.get("columns", ()) else ()
        columns = ", ".join(f"{role}={name}" for role, name in entry.get("columns", {}).items() if role not in unused)
        used = f"equinox {entry.get('equinox')}" if unused else f"azimuth {entry.get('azimuth')}"
        ways[f"{columns} ({used}; {entry.get('site')})" if columns else "counts"] += 1
    for word, kinds in (("read", ways), ("note", notes)):
        for text, number in kinds.most_common(_MOST_KINDS):
            _say(f"{word:16}", f"{number} inputs: {text}")
        if len(kinds) > _MOST_KINDS:
            _say(f"{word:16}", f"and {len(kinds) - _MOST_KINDS} others, of fewer inputs each")
    bad = [entry for entry in entries if entry.get("bad_rows")]
    if bad:
        rows = sum(entry["bad_rows"] for entry in bad)
        example = f"{bad[0]['file']}: {'; '.join(bad[0]['bad_examples'][:1])}"
        _say("left out        ", f"{rows} rows of {len(bad)} inputs, the first of {example}")
    cut = collections.Counter()
    for entry in entries:
        cut.update(entry.get("cut", {}))
    cuts = ", ".join(f"{number} by {name}" for name, number in cut.items() if number)
    if cuts:
        read = sum(entry.get("events_read", 0) for entry in entries)
        _say("cut             ", f"{cuts} of {read} events of {len(entries)} inputs")


def _say(word: str, text: str) -> None:
    print(f"{word} {text}", file=sys.stderr)
