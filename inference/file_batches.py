"""Batches of event files: where one ends, how it is read, and how its counts are kept on disk."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .archives import read_archive, read_label
from .binning import available_threads
from .code_version import code_version
from .data import MARGINALS, Counts, combine
from .file_accounts import Account, Listed, Reading, Taken, take_file
from .files import atomic

MOST_FILES, MOST_BYTES = 32, 1 << 29
"""A batch ends with so many files or bytes."""

_ONE_IN = 16
"""It also ends where the name of a file says so, one in so many: then a file taken out of the list or added to it
changes the batch that it is in, not all that follow."""

_AT_ONCE = 4
"""Files of a batch that are read at once, at most."""


def cut_into_batches(files: Sequence[Listed]) -> list[tuple[Listed, ...]]:
    """Files in their order, cut into the batches that are read together."""
    batches: list[list[Listed]] = [[]]
    size = 0
    for listed in files:
        batches[-1].append(listed)
        size += max(0, listed.size)
        mark = int.from_bytes(hashlib.sha256(os.fsencode(listed.path)).digest()[:4], "big")
        if len(batches[-1]) == MOST_FILES or size >= MOST_BYTES or mark % _ONE_IN == 0:
            batches.append([])
            size = 0
    return [tuple(batch) for batch in batches if batch]


# In a worker --------------------------------------------------------------------------------------------


def bin_batch(job: dict[str, Any]) -> list[dict[str, Any]]:
    """A job: read the files of a batch and keep their summed counts; gives the fields of their `Account`s.

    Where files are bad that are not to be skipped nothing is kept: the batch is read again once they are good.

    Args:
        job: code, files (fields of `Listed`), left_out, reading (fields of `Reading`), key, folder, skip.

    Raises:
        InputError: If the counts cannot be written, or this program is not the one that shared out the work.
    """
    if job["code"] != code_version():
        raise InputError(
            f"a worker has {code_version()}, not {job['code']}; install the same there, and start it again"
        )
    folder, key = Path(job["folder"]), job["key"]
    accounts = accounts_of(folder, key)
    if not is_done(accounts, job["skip"]):
        accounts, total = [], None
        for taken in _taken(job):
            accounts.append(taken.account)
            if taken.counts is not None:
                total = taken.counts if total is None else combine([total, taken.counts])
        if is_done(accounts, job["skip"]):
            save_part(folder, key, Part(None if total is None else total.replace(inputs=()), accounts))
    return [dataclasses.asdict(each) for each in accounts]


def is_done(accounts: Sequence[Account] | None, skip: bool) -> bool:
    """Whether a batch with these accounts need not be read again: bad files are tried again unless they are skipped."""
    return accounts is not None and (skip or not any(each.status == "bad" for each in accounts))


def _taken(job: dict[str, Any]) -> Iterator[Taken]:
    """Files of a batch in their order, several read at once."""
    files, left_out = [Listed(**each) for each in job["files"]], job["left_out"]
    reading, threads = Reading(**job["reading"]), available_threads()
    # A cube fills the memory by itself.
    at_once = 1 if reading.options.get("cube") else min(_AT_ONCE, threads, len(files))

    def take(listed: Listed) -> Taken:
        if listed.file in left_out:
            return Taken(Account(listed.file, "bad", left_out[listed.file], bytes=listed.size), None)
        return take_file(listed, reading, max(1, threads // at_once))

    waiting: collections.deque = collections.deque()
    with ThreadPoolExecutor(at_once) as pool:
        for listed in files:
            waiting.append(pool.submit(take, listed))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# Batches on disk ----------------------------------------------------------------------------------------

_ARRAYS = (*MARGINALS, "num_events", "mean_epoch", "livetime", "span", "moments")
_LABELS = ("energies", "epochs", "time_frame", "history")
_LABEL = "label.json"
_SITE = ("name", "latitude", "longitude", "zenith_max", "zenith_min")


class Part(NamedTuple):
    """What is kept of a batch.

    Attributes:
        counts: The sum of its files, without `Counts.inputs`; None where no event was left.
        accounts: Of its files.
    """

    counts: Counts | None
    accounts: list[Account]


def part_of(folder: Path, key: str) -> Path:
    """The file of a batch."""
    return folder / f"{key}.npz"


def save_part(folder: Path, key: str, part: Part) -> None:
    """Write the file of a batch; it appears under its name only when complete.

    An npz file without pickles: NetCDF takes ten times as long, most of it for its many small objects.

    Raises:
        InputError: If it cannot be written.
    """
    counts, label = part.counts, {"key": key, "accounts": [dataclasses.asdict(each) for each in part.accounts]}
    arrays: dict[str, np.ndarray | None] = {}
    if counts is not None:
        label |= {name: getattr(counts, name) for name in _LABELS} | {"grid": counts.grid.shape}
        label["sites"] = [{name: getattr(site, name) for name in _SITE} for site in counts.sites]
        arrays = {name: getattr(counts, name) for name in (*_ARRAYS, "cube")}
        arrays |= {f"w2.{name}": values for name, values in counts.w2.items()}
    with (
        atomic(part_of(folder, key)) as path,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
    ):
        file.writestr(_LABEL, json.dumps(label))
        for name, values in arrays.items():
            if values is not None:
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)


def load_part(folder: Path, key: str) -> Part | None:
    """What is kept of a batch; None where nothing is, or it is not as it was written: each member has a checksum."""
    try:
        found = read_archive(part_of(folder, key), _LABEL)
        accounts = _accounts(None if found is None else found.label, key)
        if accounts is None:
            return None
        return Part(_counts_of(*found) if found.arrays else None, accounts)
    # Whatever a label of another hand leads to.
    except Exception:
        return None


def accounts_of(folder: Path, key: str) -> list[Account] | None:
    """Accounts of what is kept of a batch, read without its counts; None as for `load_part`."""
    try:
        return _accounts(read_label(part_of(folder, key), _LABEL), key)
    except Exception:
        return None


def _accounts(label: dict | None, key: str) -> list[Account] | None:
    if label is None or label["key"] != key:
        return None
    return [Account(**each) for each in label["accounts"]]


def _counts_of(label: dict, arrays: dict[str, np.ndarray]) -> Counts:
    squares = {name.removeprefix("w2."): values for name, values in arrays.items() if name.startswith("w2.")}
    return Counts(
        grid=RingGrid(*label["grid"]),
        sites=tuple(Site(**site) for site in label["sites"]),
        energies=tuple(label["energies"]),
        epochs=tuple(label["epochs"]),
        time_frame=label["time_frame"],
        history=label["history"],
        w2=squares,
        **{name: arrays[name] for name in _ARRAYS},
        cube=arrays.get("cube"),
    )


def remove_batches(folder: str | os.PathLike) -> None:
    """Remove what `bin_files` keeps in a folder, and the folder if nothing else is in it."""
    folder = Path(folder)
    for path in folder.glob("*"):
        if re.fullmatch(r"[0-9a-f]{64}\.npz|\..*\.part|files\.csv", path.name) and path.is_file():
            path.unlink(missing_ok=True)
    # Something of the user's may be in there.
    with contextlib.suppress(OSError):
        folder.rmdir()
