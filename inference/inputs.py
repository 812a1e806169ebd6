"""From files to `Counts`: event lists and local maps are binned, counts files loaded, several inputs joined."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from diffcr.errors import InputError
from diffcr.site import Site
from diffcr.site import site as find_site

from .binning import BinningOptions, bin_events
from .columns import GPS_NAMES, is_auger_summary, split_name, unix_from_gps
from .data import MARGINALS, Counts, combine, load_counts
from .datasets import resolve_input
from .events import EventReader
from .exchange import read_exchange
from .local_maps import to_counts
from .raw import Raw, as_float

_MOST_PARTS = 32
"""Counts of so many inputs are held at once before they are added."""


def read_counts(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    site: str | Site | Sequence[str | Site] | None = None,
    columns: str | dict | None = None,
    time_format: str | None = None,
    azimuth: str | None = None,
    prefer: str = "equatorial",
    skip_bad_rows: bool = False,
    chunk_size: int = 1_000_000,
    progress: Callable[[int], None] | None = None,
    equinox: str | None = None,
    bin_reference: str | None = None,
    **options,
) -> Counts:
    """Counts of one or several event lists, counts files, local HEALPix maps or shipped data sets.

    Args:
        inputs: Paths, or `dataset:NAME`; what ends in .json is a configuration of multi-llh (see `read_exchange`).
        site: Observatory of the event lists: a known name or "LAT,LON,ZENITH" in degrees; one for all inputs, or one
            each. A shipped data set knows its own; counts files do too.
        columns, time_format, azimuth, prefer, skip_bad_rows, chunk_size: As `EventReader`.
        progress: Called with the number of rows read.
        equinox: "j2000" (default), "icrs" or "date"; a shipped data set declares its own.
        bin_reference: "start" (default) or "center": where the sky stands for a time bin of local maps.
        options: Fields of `BinningOptions`: grid, time_frame, energy_edges, epochs, cuts, orbital_index, cube;
            zenith_max may be "site" for each observatory's own.

    Raises:
        InputError: If anything about the input is wrong; the message names it and the remedy.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise InputError("no input was given: name event lists, counts files or dataset:auger-8eev")
    sites = _one_each(site, len(paths))
    one_each = len(paths) == (1 if isinstance(site, str | Site) else len(site or ()))
    if bin_reference is not None and not any(_is_configuration(path) for path in paths):
        raise InputError(
            "--bin-reference is for local maps, which none of the inputs are; leave it out, or give their JSON file"
        )
    parts: list[Counts] = []
    known = _Known()

    def take(path, part: Counts) -> None:
        refuse_weightless(path, part)
        known.add(path, part)
        parts.append(part)
        if len(parts) == _MOST_PARTS:
            # A thousand counts at once would fill the memory.
            parts[:] = [combine(parts)]

    for path, own_site in zip(paths, sites, strict=True):
        if _is_configuration(path):
            if own_site is not None and one_each:
                raise InputError(f"{path}: local maps bring the place of their observatories: leave out --site")
            take(path, _read_local_maps(path, bin_reference or "start", options))
            continue
        if is_counts_file(path):
            part = load_counts(path)
            _refuse_options_on_counts(path, part, options)
            # One site for several inputs is that of the event lists among them.
            if own_site is not None and one_each:
                _refuse_other_site(path, part, find_site(own_site))
            take(path, part)
            continue
        reader = EventFileReader(path, columns, time_format, azimuth, chunk_size, skip_bad_rows, prefer)
        take(path, count_events(reader, own_site, equinox, options, progress))
    return parts[0] if len(parts) == 1 else combine(parts)


def count_events(
    reader: EventReader,
    site: str | Site | None,
    equinox: str | None,
    options: dict,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> Counts:
    """Counts of one event list.

    Args:
        reader: The list.
        site: Its observatory; a shipped data set knows its own.
        equinox: "j2000", "icrs" or "date"; None is what a shipped data set declares, else "j2000".
        options: As for `read_counts`.
        progress: Called with the number of rows read.
        threads: As for `bin_events`.

    Raises:
        InputError: If there is no site, or as `bin_events`.
    """
    dataset = reader.dataset
    if site is None and dataset is None:
        raise InputError(
            f"{reader.path}: the observatory is needed for an event list: give --site NAME, or --site LAT,LON,ZENITH "
            "in degrees"
        )
    declared = (dataset.options.get("equinox") if dataset else None) or "j2000"
    observatory = find_site(dataset.site if site is None else site)
    if options.get("zenith_max") == "site":
        options = options | {"zenith_max": observatory.zenith_max}
    cut = options.get("zenith_max")
    if cut is not None and cut < observatory.zenith_max:
        # What the site accepts ends at the cut: a known exposure follows it, and other cuts are not added to it.
        observatory = find_site(observatory, cut)
    return bin_events(reader, observatory, BinningOptions(**options, equinox=equinox or declared), progress, threads)


class EventFileReader(EventReader):
    """`EventReader` that also takes the summary tables of the Auger Open Data as they are.

    Their times are GPS seconds, turned into UTC. Their azimuths run from East counterclockwise. A shower seen by
    several telescopes stands in several rows, of which the first counts, and rows without a reconstruction by the
    surface detector (flag sd1500, sd750 or sdStandard of 0) are left out; both are told in `notes`.
    """

    _left_out: np.ndarray | None = None

    def __init__(self, path, columns=None, time_format=None, azimuth=None, *args, **kwargs):
        super().__init__(path, columns, time_format, azimuth, *args, **kwargs)
        if self.format == "text" and is_auger_summary(self.names):
            if azimuth is None:
                self.azimuth = "east-counterclockwise"
            self._leave_out()

    def _leave_out(self) -> None:
        flag = next((name for name in ("sd1500", "sd750", "sdStandard") if name in self.names), None)
        key = next((name for name in ("id", "sdid") if name in self.names), None)
        wanted = [name for name in (flag, key) if name]
        if not wanted:
            return
        try:
            table = pd.read_csv(self.file, usecols=wanted, dtype=str, skipinitialspace=True, comment="#")
        except ValueError as error:
            raise InputError(f"{self.path}: not a table with commas between the columns; copy it again") from error
        self._left_out = np.zeros(len(table), bool)
        if flag:
            self._left_out |= (pd.to_numeric(table[flag], errors="coerce") == 0).to_numpy()
            if self._left_out.any():
                self.notes.append(f"{int(self._left_out.sum())} rows with {flag} = 0 are left out")
        if key:
            again = np.zeros(len(table), bool)
            again[~self._left_out] = table.loc[~self._left_out, key].duplicated()
            if again.any():
                self.notes.append(f"{int(again.sum())} rows repeat the {key} of an earlier one and are left out")
            self._left_out |= again

    def _find_time_format(self, peek: Raw, given: str | None) -> str | None:
        gps = "time" in self._index and split_name(self.names[self._index["time"]])[0] in GPS_NAMES
        if given is None and gps and is_auger_summary(self.names):
            self.notes.append(f"time: column {self.columns['time']!r}, GPS seconds turned into UTC")
            self._from_gps = True
            return "unix"
        return super()._find_time_format(peek, given)

    _from_gps = False

    def _days_of_time(self, raw: Raw):
        if self._from_gps:
            index = self._index["time"]
            raw = dataclasses.replace(raw, arrays=raw.arrays | {index: unix_from_gps(as_float(raw.arrays[index]))})
        return super()._days_of_time(raw)

    def _convert(self, raw: Raw, first_row: int):
        if self._left_out is None:
            return super()._convert(raw, first_row)
        keep = ~self._left_out[first_row - 1 : first_row - 1 + raw.num_rows]
        if len(keep) < raw.num_rows:
            raise InputError(f"{self.path}: its rows cannot be told apart; remove blank lines and quotation marks")
        return super()._convert(_rows(raw, keep), first_row)


def _rows(raw: Raw, keep: np.ndarray) -> Raw:
    """Some rows of a chunk."""
    arrays = {index: values[keep] for index, values in raw.arrays.items()}
    lines, broken = (None if x is None else x[keep] for x in (raw.lines, raw.broken))
    text = [line for line, wanted in zip(raw.text, keep, strict=True) if wanted] if raw.text else raw.text
    return dataclasses.replace(raw, arrays=arrays, num_rows=int(keep.sum()), lines=lines, broken=broken, text=text)


def _is_configuration(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith(".json")


def _read_local_maps(path: str | os.PathLike, bin_reference: str, options: dict) -> Counts:
    """Counts of the local maps of a configuration; of the options only grid, zenith_max and cube can act on them."""
    for name, option in (_NEED_EVENTS | {"orbital_index": "--remove-orbital"}).items():
        if name != "zenith_max" and options.get(name) is not None:
            raise InputError(f"{path}: {option} cannot be applied to local maps: bin an event list instead")
    if options.get("time_frame") not in (None, "sidereal"):
        raise InputError(
            f"{path}: local maps are in sidereal time, not {options['time_frame']}: bin an event list instead"
        )
    maps, cut, grid = read_exchange(path), options.get("zenith_max"), options.get("grid")
    if grid is not None and grid.n_ra != len(maps[0].counts):
        raise InputError(
            f"{path}: its {len(maps[0].counts)} time bins need as many right-ascension bins, not {grid.n_ra}: give "
            f"--grid {len(maps[0].counts)}x{grid.n_ring}"
        )
    if cut is not None and cut != "site":
        maps = [dataclasses.replace(each, zenith_max=min(cut, each.zenith_max)) for each in maps]
    return to_counts(maps, None if grid is None else grid.n_ring, bin_reference, bool(options.get("cube")))


def _one_each(site, number: int) -> list:
    sites = [site] if site is None or isinstance(site, str | Site) else list(site)
    if not sites:
        sites = [None]
    if len(sites) not in (1, number):
        raise InputError(f"{len(sites)} sites for {number} inputs: give one --site for all, or one for each in order")
    return sites * number if len(sites) == 1 else sites


def is_counts_file(path: str | os.PathLike) -> bool:
    """Whether a path names a counts file: by its suffix .nc, or by what an HDF5 file says of itself."""
    text = os.fspath(path)
    if text.startswith("dataset:"):
        resolve_input(text)
        return False
    if Path(text).suffix.lower() == ".nc":
        return True
    try:
        with h5py.File(text, "r") as handle:
            return handle.attrs.get("format") in ("diffcr counts", b"diffcr counts")
    except (OSError, ValueError):
        return False


_NEED_EVENTS = {
    "energy_edges": "--energy-edges",
    "epochs": "--epochs",
    "energy_range": "--energy-min and --energy-max",
    "zenith_max": "--zenith-max",
    "time_range": "--from and --to",
}


def _refuse_options_on_counts(path, counts: Counts, options: dict) -> None:
    """Options that need the events cannot act on counts; say so instead of ignoring them."""
    if options.get("orbital_index") is not None:
        done = counts.history.get("orbital_removed")
        if done:
            raise InputError(
                f"{path}: the Earth's orbital motion was already removed (Gamma = {done['gamma']:g}); it must not be "
                "removed twice: leave out --remove-orbital"
            )
        raise InputError(f"{path}: removing the orbital motion needs the time of each event: bin the event list again")
    for name, option in _NEED_EVENTS.items():
        if options.get(name) is not None and options[name] != "site":
            raise InputError(f"{path}: {option} cannot be applied to counts: bin the event list again")
    if options.get("cube") and counts.cube is None:
        raise InputError(f"{path}: it keeps no cube, which --cube asks for: bin the event list again with --cube")
    frame = options.get("time_frame")
    if frame is not None and frame != counts.time_frame:
        raise InputError(f"{path}: its time frame is {counts.time_frame}, not {frame}: bin the event list again")
    grid = options.get("grid")
    if grid is not None and grid.shape != counts.grid.shape:
        raise InputError(f"{path}: its grid is {counts.grid}, not {grid}: bin the event list again")


def _refuse_other_site(path, counts: Counts, site: Site) -> None:
    names = [s.name for s in counts.sites]
    if site.name not in names:
        raise InputError(
            f"{path}: these are counts of {', '.join(names)}, not of {site.name}: leave out --site, or bin the event "
            "list again"
        )


def refuse_weightless(path, counts: Counts) -> None:
    """Refuse counts without events, and weights that are all zero.

    Raises:
        InputError: Naming `path`.
    """
    if not counts.num_events.any():
        raise InputError(f"{path}: the counts hold no event: nothing can be fitted; bin with other cuts")
    for place in (tuple(int(i) for i in index) for index in np.argwhere(counts.num_events > 0)):
        if not counts.n_time[place].sum() > 0:
            raise InputError(
                f"{path}: the weights of all {int(counts.num_events[place])} events of {counts.label(place)} are zero; "
                "correct the weights, cut these events, or do without the column with --columns weight="
            )


class _Known:
    """Files and counts met so far: the same file is refused whatever its name, and the same counts wherever from."""

    def __init__(self):
        self.files: dict[str, str] = {}
        self.contents: dict[bytes, str] = {}

    def add(self, path, part: Counts) -> None:
        """Refuse what is known already."""
        for entry in part.inputs:
            key = entry.get("sha256")
            if key is None:
                continue
            if key in self.files:
                raise InputError(
                    f"{entry['file']}: the same events are already counted from {self.files[key]} (equal checksums); "
                    "name each file once, and split it with --epochs or --energy-edges"
                )
            self.files[key] = entry["file"]
        # Simulated counts have no file behind them that could be compared.
        content = hashlib.sha256(b"".join(getattr(part, name).tobytes() for name in MARGINALS)).digest()
        if content in self.contents:
            raise InputError(
                f"{path}: holds the same counts as {self.contents[content]} in every cell; name each file once"
            )
        self.contents[content] = os.fspath(path)
