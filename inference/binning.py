"""Events into `Counts`: time, frame and cell of each event in one compiled pass, memory independent of their number."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .cells import Cells, locate, orbital_weights
from .data import Counts
from .events import EventChunk, EventReader

_PIECE = 1 << 16
_SHARES = 4
"""Events are summed in so many shares, and these in their order, so that threads do not change the last digit."""

_HORIZON = math.cos(math.radians(91))

EQUINOXES = ("j2000", "date", "icrs")
"""How right ascension and declination of events are given; see `BinningOptions.equinox`."""

ALL_EPOCHS = "all"
ALL_ENERGIES = "all"


@dataclasses.dataclass(frozen=True)
class BinningOptions:
    """How events become counts.

    Attributes:
        grid: The ring grid.
        time_frame: "sidereal", or "solar", "antisidereal", "extended-sidereal" for control analyses.
        equinox: "j2000": mean equator and equinox of J2000, turned to those of date by precession;
            "icrs": astrometric directions as astropy and SLALIB make them from local ones: precession, nutation
            and annual aberration are put back; "date": already of date. Events with zenith and azimuth need none.
        energy_edges: Edges of the energy bins, in the units of the file; events outside are cut.
        epochs: None (one detector configuration), "yearly", or a list of (label, start_days, end_days).
        energy_range, zenith_max, time_range: Cuts; zenith_max [rad] is applied to the rebuilt zenith angle.
        orbital_index: Spectral index Gamma: weight each event by the inverse of the intensity that the
            Earth's orbital motion makes. None leaves it in.
        whole_days: Accept times that tell no more than the day: for searches in right ascension and declination, which
            do not look at the rate and the hour angles that come of it.
        cube: Keep the counts of every time bin and local cell too (`Counts.cube`): 190 MB on the default grid.
    """

    grid: RingGrid = dataclasses.field(default_factory=RingGrid)
    time_frame: str = "sidereal"
    equinox: str = "j2000"
    energy_edges: tuple[float, ...] | None = None
    epochs: str | tuple[tuple[str, float, float], ...] | None = None
    energy_range: tuple[float, float] | None = None
    zenith_max: float | None = None
    time_range: tuple[float, float] | None = None
    orbital_index: float | None = None
    whole_days: bool = False
    cube: bool = False

    def __post_init__(self):
        if self.equinox not in EQUINOXES:
            raise InputError(f"unknown equinox {self.equinox!r}: choose one of {', '.join(EQUINOXES)}")
        edges = self.energy_edges
        if edges is not None and (len(edges) < 2 or any(b <= a for a, b in zip(edges, edges[1:], strict=False))):
            raise InputError(f"energy edges must increase and be at least two, not {list(edges)}")
        if isinstance(self.epochs, str) and self.epochs != "yearly":
            raise InputError(f"epochs must be 'yearly' or a table of label, start, end; not {self.epochs!r}")


class NoEventLeftError(InputError):
    """All events of a file were cut.

    Attributes:
        entry: What `Counts.inputs` would say of the file.
    """

    def __init__(self, message: str, entry: dict | None = None):
        super().__init__(message)
        self.entry = entry or {}


class _Accumulator:
    """Sums of one energy bin and epoch."""

    def __init__(self, grid: RingGrid, cube: bool = False):
        rings, bins = grid.shape
        self.cube = np.zeros((bins, rings, bins)) if cube else None
        self.shapes = {"n_sky": (rings, bins), "n_local": (rings, bins), "n_half": (2, rings, bins)}
        self.sums = {name: np.zeros(math.prod(shape)) for name, shape in self.shapes.items()}
        self.squares = {name: np.zeros(math.prod(shape)) for name, shape in self.shapes.items()}
        self.num_events, self.days, self.directions = 0, 0.0, np.zeros(8)
        self.first, self.last = math.inf, -math.inf

    def add(self, cells: Cells, weight: np.ndarray | None, days: np.ndarray, chosen: np.ndarray | None) -> None:
        """Add the chosen rows (None: all)."""

        def pick(values):
            return values if chosen is None or values is None else values[..., chosen]

        weight, days, directions = pick(weight), pick(days), pick(cells.directions)
        self.directions += directions.sum(axis=1) if weight is None else directions @ weight
        names = ("n_sky", "n_local", "n_half")
        indices = [pick(index) for index in (cells.sky, cells.local, cells.half)]
        square = None if weight is None else weight * weight
        for name, index in zip(names, indices, strict=True):
            self.sums[name] += np.bincount(index, weight, len(self.sums[name]))
            if weight is not None:
                self.squares[name] += np.bincount(index, square, len(self.sums[name]))
        if self.cube is not None:
            bins, size = len(self.cube), self.cube[0].size
            np.add.at(self.cube.reshape(-1), indices[2] % bins * size + indices[1], 1.0 if weight is None else weight)
        self.num_events += len(days)
        self.days += float(days.sum())
        self.first, self.last = min(self.first, float(days.min())), max(self.last, float(days.max()))

    def merge(self, other: "_Accumulator") -> None:
        """Add another one of the same shape."""
        for name in self.shapes:
            self.sums[name] += other.sums[name]
            self.squares[name] += other.squares[name]
        if self.cube is not None:
            self.cube += other.cube
        self.num_events += other.num_events
        self.days += other.days
        self.directions += other.directions
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)

    def marginals(self, squared: bool) -> dict[str, np.ndarray]:
        source = self.squares if squared else self.sums
        out = {name: source[name].reshape(shape) for name, shape in self.shapes.items()}
        return out | {"n_time": out["n_half"].sum((0, 1))}


def bin_chunks(
    chunks: Iterable[EventChunk],
    site: Site,
    options: BinningOptions,
    source: str = "events",
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> Counts:
    """Bin chunks of events of one observatory.

    Args:
        chunks: `EventChunk`s: days, and (ra, dec) or (zenith, azimuth) [rad], optional energy and weight.
        site: The observatory.
        options: Grid, frames, cuts.
        source: Name for messages.
        progress: Called with the number of rows after each chunk.
        threads: Of the arithmetic; by default as many as there are cores, 8 at most. The counts do not depend on them.

    Raises:
        InputError: If there is no usable time, no event is left (`NoEventLeftError`), or events lie below the horizon.
        RuntimeError: If JAX runs on 32-bit floats and the equinox is "icrs" or the orbital motion is removed.
    """
    # One cube per share would fill the memory.
    tallies = [_Tally(site, options) for _ in range(1 if options.cube else _SHARES)]
    with ThreadPoolExecutor(threads or available_threads()) as pool:
        for chunk in chunks:
            if chunk.days is None:
                raise InputError(
                    f"{source}: no time column: hour angles need the time of each event; name it with "
                    "--columns time=NAME"
                )
            pieces = list(_pieces(chunk))
            shares = [pieces[k :: len(tallies)] for k in range(len(tallies))]
            list(pool.map(_Tally.take, tallies, shares))
            if progress is not None:
                progress(len(chunk.days))
    tally = functools.reduce(_Tally.merge, tallies)
    tally.require_usable(source)
    return tally.counts()


def available_threads() -> int:
    """Threads that are worth starting: one for each core, 8 at most, and no more than NPROC says where it is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("NPROC", "")
    return max(1, min(8, cores, int(limit) if limit.isdecimal() else cores))


class _Tally:
    """What one share of the events amounts to so far."""

    def __init__(self, site: Site, options: BinningOptions):
        self.site, self.options = site, options
        self.parts: dict[tuple[str, str], _Accumulator] = {}
        self.cut = {"energy": 0, "zenith": 0, "time": 0, "epoch": 0}
        self.read, self.below, self.weighted, self.lowest = 0, 0, False, 1.0
        self.room: Cells | None = None

    def take(self, pieces: list[EventChunk]) -> None:
        """Count some pieces of a chunk."""
        options = self.options
        # Small files fill the first share alone: the others need no room.
        if self.room is None and pieces:
            self.room = Cells.empty(_PIECE)
        for piece in pieces:
            cells = locate(piece, self.site, options.grid, options.time_frame, options.equinox, self.room)
            weight = piece.weight
            if options.orbital_index is not None:
                orbital = orbital_weights(piece.days, cells, self.site, options.orbital_index)
                weight = orbital if weight is None else weight * orbital
            self.read += len(piece.days)
            self.weighted |= weight is not None
            lowest = float(cells.zenith_cosine.min())
            self.lowest = min(self.lowest, lowest)
            if lowest < _HORIZON and not options.whole_days:
                self.below += int((cells.zenith_cosine < _HORIZON).sum())
            keep, labels = _select(piece, cells.zenith_cosine, options, self.cut)
            for energy, epoch, chosen in _groups(piece, keep, labels, options):
                if chosen is None or chosen.any():
                    part = self.parts.setdefault((energy, epoch), _Accumulator(options.grid, options.cube))
                    part.add(cells, weight, piece.days, chosen)

    def merge(self, other: "_Tally") -> "_Tally":
        """Add another share."""
        for key, part in other.parts.items():
            if key in self.parts:
                self.parts[key].merge(part)
            else:
                self.parts[key] = part
        self.cut = {name: number + other.cut[name] for name, number in self.cut.items()}
        self.read, self.below = self.read + other.read, self.below + other.below
        self.weighted, self.lowest = self.weighted or other.weighted, min(self.lowest, other.lowest)
        return self

    def require_usable(self, source: str) -> None:
        """Refuse events below the horizon, and no events."""
        if self.below > 0.001 * self.read:
            raise InputError(
                f"{source}: {self.below} of {self.read} events lie below the horizon of {self.site.name}: check --site "
                "(longitude positive towards East), --time-format and --equinox"
            )
        if not self.parts:
            cuts = ", ".join(f"{n} by {name}" for name, n in self.cut.items() if n) or "the file has no events"
            message = f"{source}: no event is left after cuts ({self.read} read; cut: {cuts}); widen the cuts"
            raise NoEventLeftError(message, self.entry())

    def entry(self) -> dict:
        """The accounting of what was read."""
        harmonic = sum((part.directions[:2] for part in self.parts.values()), np.zeros(2))
        return {
            "events_read": self.read,
            "cut": self.cut,
            "zenith_max_seen_deg": math.degrees(math.acos(max(-1.0, min(1.0, self.lowest)))),
            "right_ascension_harmonic": harmonic.tolist(),
        }

    def counts(self) -> Counts:
        """The counts, with the accounting of what was read."""
        return _assemble(self.parts, self.site, self.options, self.weighted, self.entry())


def _pieces(chunk: EventChunk) -> Iterator[EventChunk]:
    """The chunk in pieces small enough that their cells stay in the cache until they are counted."""
    for start in range(0, len(chunk.days), _PIECE):
        part = slice(start, start + _PIECE)
        yield EventChunk(*(x[part] if isinstance(x, np.ndarray) else x for x in chunk))


def _select(chunk: EventChunk, zenith_cosine, options: BinningOptions, cut: dict):
    """Rows that pass the cuts (None: all), and the epoch label index of each row (None: one epoch)."""
    keep = None

    def apply(good, name):
        nonlocal keep
        before = good.size if keep is None else int(keep.sum())
        keep = good if keep is None else keep & good
        cut[name] += before - int(keep.sum())

    wants_energy = options.energy_range is not None or options.energy_edges is not None
    if wants_energy and chunk.energy is None:
        raise InputError(
            "energy cuts or bins were asked for, but the events have no energy; name it with --columns energy=NAME"
        )
    if options.time_range is not None:
        low, high = options.time_range
        apply((chunk.days >= low) & (chunk.days < high), "time")
    if options.energy_range is not None:
        low, high = options.energy_range
        apply((chunk.energy >= low) & (chunk.energy < high), "energy")
    if options.energy_edges is not None:
        apply((chunk.energy >= options.energy_edges[0]) & (chunk.energy < options.energy_edges[-1]), "energy")
    if options.zenith_max is not None:
        apply(zenith_cosine >= math.cos(options.zenith_max), "zenith")
    labels = None
    if options.epochs == "yearly":
        labels = np.floor(calendar_year(chunk.days)).astype(int).astype(str)
    elif options.epochs is not None:
        labels = np.full(len(chunk.days), "", dtype=object)
        for label, start, end in options.epochs:
            labels[(chunk.days >= start) & (chunk.days < end)] = label
        apply(labels != "", "epoch")
    return keep, labels


def calendar_year(days: np.ndarray) -> np.ndarray:
    """Calendar year (UTC) of days since J2000.0, as whole numbers."""
    stamps = np.asarray((np.asarray(days) + 10957.5) * 86400, "datetime64[s]")
    return stamps.astype("datetime64[Y]").astype(int) + 1970


def _groups(chunk: EventChunk, keep, labels, options: BinningOptions):
    """(energy label, epoch label, boolean rows or None for all) of every group in this chunk."""
    bins = [(ALL_ENERGIES, None)]
    if options.energy_edges is not None:
        place = np.searchsorted(options.energy_edges, chunk.energy, side="right") - 1
        bins = [(label, place == k) for k, label in enumerate(energy_labels(options.energy_edges))]
    epochs = (
        [(ALL_EPOCHS, None)] if labels is None else [(str(e), labels == e) for e in np.unique(labels[labels != ""])]
    )
    for energy, in_energy in bins:
        for epoch, in_epoch in epochs:
            masks = [m for m in (keep, in_energy, in_epoch) if m is not None]
            yield energy, epoch, functools.reduce(np.logical_and, masks) if masks else None


def energy_labels(edges: tuple[float, ...]) -> list[str]:
    """Readable names of energy bins."""
    return [f"{low:g}-{high:g}" for low, high in zip(edges, edges[1:], strict=False)]


def _assemble(parts, site: Site, options: BinningOptions, weighted: bool, entry: dict) -> Counts:
    energies = [ALL_ENERGIES] if options.energy_edges is None else energy_labels(options.energy_edges)
    epochs = sorted({epoch for _, epoch in parts})
    if isinstance(options.epochs, tuple):
        epochs = [label for label, _, _ in options.epochs if label in epochs]
    lead = (1, len(energies), len(epochs))
    rings, bins = options.grid.shape
    tails = {"n_sky": (rings, bins), "n_time": (bins,), "n_local": (rings, bins), "n_half": (2, rings, bins)}
    sums = {name: np.zeros(lead + tail) for name, tail in tails.items()}
    squares = {name: np.zeros(lead + tail) for name, tail in tails.items()} if weighted else {}
    num_events, mean_epoch, livetime = np.zeros(lead, np.int64), np.full(lead, np.nan), np.zeros(lead)
    moments, span = np.zeros((*lead, 3, 2)), np.full((*lead, 2), np.nan)
    cube = np.zeros((*lead, bins, rings, bins)) if options.cube else None
    for (energy, epoch), part in parts.items():
        place = (0, energies.index(energy), epochs.index(epoch))
        for name, values in part.marginals(False).items():
            sums[name][place] = values
        for name, values in part.marginals(True).items() if weighted else ():
            squares[name][place] = values
        num_events[place] = part.num_events
        mean_epoch[place] = 2000 + part.days / part.num_events / 365.25
        livetime[place] = part.last - part.first
        span[place] = part.first, part.last
        moments[place] = part.directions[2:].reshape(3, 2)
        if cube is not None:
            cube[place] = part.cube
    if options.zenith_max is not None and options.zenith_max < site.zenith_max:
        site = dataclasses.replace(site, zenith_max=options.zenith_max)
    history = {} if options.orbital_index is None else {"orbital_removed": {"gamma": options.orbital_index}}
    return Counts(
        grid=options.grid,
        sites=(site,),
        energies=tuple(energies),
        epochs=tuple(epochs),
        **sums,
        num_events=num_events,
        mean_epoch=mean_epoch,
        livetime=livetime,
        span=span,
        moments=moments,
        w2=squares,
        time_frame=options.time_frame,
        inputs=(entry,),
        history=history,
        cube=cube,
    )


def bin_events(
    reader: EventReader,
    site: Site,
    options: BinningOptions,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> Counts:
    """Bin the events of one file; the file's name, checksum and accounting are kept in `Counts.inputs`.

    The next chunk is read, and the checksum made, while a chunk is binned.

    Raises:
        InputError: As `bin_chunks`; and where the times have whole-day resolution.
    """
    name = reader.path if reader.dataset else Path(reader.path).name
    if options.whole_days and reader.whole_days and options.zenith_max is not None:
        raise InputError(
            f"{name}: its times are whole days, so that no event has a zenith angle; leave out --zenith-max"
        )
    chunks = reader if options.whole_days else _with_time_of_day(reader, name)
    with _meanwhile(checksum, reader.file) as digest, contextlib.closing(_ahead(chunks)) as ahead:
        try:
            counts = bin_chunks(ahead, site, options, name, progress, threads)
        except NoEventLeftError as error:
            error.entry = _entry(reader, site, options, name, digest.result()) | error.entry
            raise
        return counts.replace(inputs=(_entry(reader, site, options, name, digest.result()) | counts.inputs[0],))


def _entry(reader: EventReader, site: Site, options: BinningOptions, name: str, digest: str) -> dict:
    """How a file was read."""
    return {
        "file": name,
        "sha256": digest,
        "site": site.name,
        "rows": reader.num_read,
        "bad_rows": reader.num_bad,
        "bad_examples": list(reader.bad_examples),
        "notes": list(reader.notes),
        "columns": {role: str(column) for role, column in reader.columns.items()},
        "time_format": reader.time_format,
        "equinox": options.equinox,
        "azimuth": reader.azimuth,
    }


def _with_time_of_day(reader: EventReader, name: str) -> Iterator[EventChunk]:
    """The reader's chunks, refused where their times are days."""
    for chunk in reader:
        if reader.whole_days and chunk.days is not None and len(chunk.days):
            raise InputError(
                f"{name}: its times are whole days, so that no event has a sidereal time; a fit of rate and acceptance "
                "needs the time of day; a search for discs does not: diffcr estimate --methods top-hat"
            )
        yield chunk


def _ahead(chunks: Iterable[EventChunk]) -> Iterator[EventChunk]:
    """The same chunks, each made in another thread while the one before is in use."""
    source = iter(chunks)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, None)
        while (chunk := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield chunk


@contextlib.contextmanager
def _meanwhile(function: Callable, path) -> Iterator[Future]:
    """What `function(path, stop)` gives, made in another thread during the block; `stop` is set where that fails."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit(function, path, stop)
        except BaseException:
            stop.set()
            raise


def checksum(path, stop: threading.Event | None = None) -> str:
    """SHA-256 of a file, read in pieces; "" where it is stopped before its end."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            if stop is not None and stop.is_set():
                return ""
            digest.update(piece)
    return digest.hexdigest()
