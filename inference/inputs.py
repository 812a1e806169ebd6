"""From files to `Counts`: event lists are binned, counts files loaded, several inputs joined."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from diffcr.detector import Site
from diffcr.detector import site as find_site
from diffcr.errors import InputError

from .binning import BinningOptions, bin_events
from .data import Counts, combine, load_counts
from .events import EventReader, resolve_input


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
    **options,
) -> Counts:
    """Counts of one or several event lists, counts files or shipped data sets.

    Args:
        inputs: Paths, or `dataset:NAME`.
        site: Observatory of the event lists: a known name or "LAT,LON,ZENITH" in degrees; one for all inputs, or one
            each. A shipped data set knows its own; counts files do too.
        columns, time_format, azimuth, prefer, skip_bad_rows, chunk_size: As `EventReader`.
        progress: Called with the number of rows read.
        equinox: "j2000" (default), "icrs" or "date"; a shipped data set declares its own.
        options: Fields of `BinningOptions`: grid, time_frame, energy_edges, epochs, cuts, orbital_index.

    Raises:
        InputError: If anything about the input is wrong; the message names it and the remedy.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise InputError("no input was given: name event lists, counts files or dataset:auger-8eev")
    sites = _one_each(site, len(paths))
    parts = []
    for path, own_site in zip(paths, sites, strict=True):
        if is_counts_file(path):
            part = load_counts(path)
            _refuse_options_on_counts(path, part, options)
            parts.append(part)
            continue
        reader = EventReader(path, columns, time_format, azimuth, chunk_size, skip_bad_rows, prefer)
        dataset = reader.dataset
        if own_site is None and dataset is None:
            raise InputError(
                f"{path}: the observatory is needed for an event list: give --site NAME, or --site LAT,LON,ZENITH in degrees"
            )
        declared = (dataset.options.get("equinox") if dataset else None) or "j2000"
        chosen = BinningOptions(**options, equinox=equinox or declared)
        parts.append(bin_events(reader, find_site(own_site or dataset.site), chosen, progress))
    _refuse_double_counting(parts)
    return parts[0] if len(parts) == 1 else combine(parts)


def _one_each(site, number: int) -> list:
    sites = [site] if site is None or isinstance(site, str | Site) else list(site)
    if not sites:
        sites = [None]
    if len(sites) not in (1, number):
        raise InputError(
            f"{len(sites)} sites for {number} inputs: give one --site for all, or one for each in order"
        )
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


def _refuse_options_on_counts(path, counts: Counts, options: dict) -> None:
    """Options that need the events cannot act on counts; say so instead of ignoring them."""
    if options.get("orbital_index") is not None:
        done = counts.history.get("orbital_removed")
        if done:
            raise InputError(
                f"{path}: the Earth's orbital motion was already removed (Gamma = {done['gamma']:g}); it must not be removed twice"
            )
        raise InputError(
            f"{path}: removing the orbital motion needs the time of each event: bin the event list again"
        )
    default = {f.name: f.default for f in dataclasses.fields(BinningOptions)}
    for name in ("energy_edges", "epochs", "energy_range", "zenith_max", "time_range"):
        if options.get(name) is not None:
            raise InputError(
                f"{path}: {name.replace('_', ' ')} cannot be applied to counts: bin the event list again"
            )
    frame = options.get("time_frame", default["time_frame"])
    if frame != default["time_frame"] and frame != counts.time_frame:
        raise InputError(
            f"{path}: its time frame is {counts.time_frame}, not {frame}: bin the event list again"
        )
    grid = options.get("grid")
    if grid is not None and grid.shape not in (counts.grid.shape, (180, 360)):
        raise InputError(
            f"{path}: its grid is {counts.grid.n_ring} x {counts.grid.n_ra}, not {grid.n_ring} x {grid.n_ra}: "
            "bin the event list again"
        )


def _refuse_double_counting(parts: list[Counts]) -> None:
    seen: dict[tuple, str] = {}
    for part in parts:
        for entry in part.inputs:
            key = (entry.get("sha256"), entry.get("site"))
            if entry.get("sha256") is None:
                continue
            if key in seen:
                raise InputError(
                    f"{entry['file']}: the same events are already counted from {seen[key]} (equal checksums); name each file once"
                )
            seen[key] = entry["file"]
