"""Events into `Counts`: time, frame and cell of each event in one compiled pass, memory independent of their number."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.detector import Site
from diffcr.errors import InputError, require_float64
from diffcr.grid import RingGrid
from diffcr.observer import compton_getting_factor
from diffcr.sky import (
    aberration,
    angles,
    apparent_matrix,
    earth_velocity,
    equatorial_of,
    horizon,
    local_time,
    precess,
    rotate,
    unit_vector,
)

from .data import Counts
from .events import EventChunk, EventReader

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

    def __post_init__(self):
        if self.equinox not in EQUINOXES:
            raise InputError(f"unknown equinox {self.equinox!r}: choose one of {', '.join(EQUINOXES)}")
        edges = self.energy_edges
        if edges is not None and (
            len(edges) < 2 or any(b <= a for a, b in zip(edges, edges[1:], strict=False))
        ):
            raise InputError(f"energy edges must increase and be at least two, not {list(edges)}")
        if isinstance(self.epochs, str) and self.epochs != "yearly":
            raise InputError(f"epochs must be 'yearly' or a table of label, start, end; not {self.epochs!r}")


class _Accumulator:
    """Sums of one energy bin and epoch."""

    def __init__(self, grid: RingGrid):
        rings, bins = grid.shape
        self.shapes = {"n_sky": (rings, bins), "n_local": (rings, bins), "n_half": (2, rings, bins)}
        self.sums = {name: np.zeros(math.prod(shape)) for name, shape in self.shapes.items()}
        self.squares = {name: np.zeros(math.prod(shape)) for name, shape in self.shapes.items()}
        self.num_events, self.days, self.harmonic = 0, 0.0, 0j
        self.first, self.last = math.inf, -math.inf

    def add(self, cells: dict, phasor: np.ndarray, weight: np.ndarray | None, days: np.ndarray) -> None:
        self.harmonic += complex(phasor.sum() if weight is None else (weight * phasor).sum())
        for name, index in cells.items():
            size = len(self.sums[name])
            self.sums[name] += np.bincount(index, weight, size)
            if weight is not None:
                self.squares[name] += np.bincount(index, weight * weight, size)
        self.num_events += len(days)
        self.days += float(days.sum())
        self.first, self.last = min(self.first, float(days.min())), max(self.last, float(days.max()))

    def marginals(self, squared: bool) -> dict[str, np.ndarray]:
        source = self.squares if squared else self.sums
        out = {name: source[name].reshape(shape) for name, shape in self.shapes.items()}
        return out | {"n_time": out["n_half"].sum((0, 1))}


@functools.partial(
    jax.jit, static_argnames=("frame", "equinox", "grid", "horizontal", "orbital", "want_zenith")
)
def _locate(
    days, first, second, longitude, latitude, index, *, frame, equinox, grid, horizontal, orbital, want_zenith
):
    """Cells, zenith and orbital weight of events. (first, second) is (ra, dec), or (zenith, azimuth)."""
    sidereal = local_time(days, longitude, "sidereal")
    if horizontal:
        hour_angle, declination = equatorial_of(first, second, latitude)
        right_ascension = sidereal - hour_angle
    else:
        right_ascension, declination = first, second
        if equinox != "date":
            vector = unit_vector(first, second)
            if equinox == "j2000":
                vector = precess(vector, days)
            else:
                vector = rotate(apparent_matrix(days), aberration(vector, days))
                # Hour angles come from mean sidereal time: give up the nutation of the equinox again.
                vector = _to_mean_equinox(vector, days)
            right_ascension, declination = angles(vector)
        hour_angle = sidereal - right_ascension
    frame_time = sidereal if frame == "sidereal" else local_time(days, longitude, frame)
    if frame != "sidereal":
        right_ascension = frame_time - hour_angle
    rings, bins = grid.shape
    ring = jnp.clip(jnp.floor((declination / jnp.pi + 0.5) * rings).astype(jnp.int32), 0, rings - 1)
    tau, column = _bin(frame_time, bins), _bin(right_ascension, bins)
    west = _bin(hour_angle, 2)
    west = 1 - west  # hour angles in [0, pi) are west of the meridian
    cells = (
        ring * bins + column,
        ring * bins + jnp.mod(tau - column, bins),
        (west * rings + ring) * bins + tau,
    )
    zenith = horizon(hour_angle, declination, latitude)[0] if want_zenith and not horizontal else None
    if horizontal:
        zenith = first
    weight = None
    if orbital:
        direction = unit_vector(
            right_ascension if frame == "sidereal" else sidereal - hour_angle, declination
        )
        weight = 1 / jax.vmap(compton_getting_factor, (0, 0, None))(
            direction, precess(earth_velocity(days), days), index
        )
    return cells, jnp.exp(1j * right_ascension), zenith, weight


def _to_mean_equinox(vector, days):
    from diffcr.sky import greenwich_apparent_sidereal_time, greenwich_mean_sidereal_time

    equation = greenwich_apparent_sidereal_time(days) - greenwich_mean_sidereal_time(days)
    cosine, sine = jnp.cos(equation), jnp.sin(equation)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    return jnp.stack([x * cosine + y * sine, y * cosine - x * sine, z], axis=-1)


def _bin(angle, bins):
    turns = angle / (2 * jnp.pi)
    return jnp.minimum(jnp.floor((turns - jnp.floor(turns)) * bins).astype(jnp.int32), bins - 1)


def bin_chunks(
    chunks: Iterable[EventChunk],
    site: Site,
    options: BinningOptions,
    source: str = "events",
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Bin chunks of events of one observatory.

    Args:
        chunks: `EventChunk`s: days, and (ra, dec) or (zenith, azimuth) [rad], optional energy and weight.
        site: The observatory.
        options: Grid, frames, cuts.
        source: Name for messages.
        progress: Called with the number of rows after each chunk.

    Raises:
        InputError: If there is no usable time, no event is left, or events lie below the horizon.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("binning of events")
    parts: dict[tuple[str, str], _Accumulator] = {}
    cut = {"energy": 0, "zenith": 0, "time": 0, "epoch": 0}
    read, below, weighted, steepest = 0, 0, options.orbital_index is not None, 0.0
    for chunk in chunks:
        rows = len(chunk.days) if chunk.days is not None else 0
        if chunk.days is None:
            raise InputError(
                f"{source}: no time column: hour angles need the time of each event; name it with --columns time=NAME"
            )
        if not rows:
            continue
        read += rows
        cells, phasor, zenith, orbital = locate(chunk, site, options)
        weight = chunk.weight
        weighted |= weight is not None
        if orbital is not None:
            weight = orbital if weight is None else weight * orbital
        below += int((zenith > math.radians(91)).sum())
        steepest = max(steepest, float(zenith.max(initial=0.0)))
        keep, labels = _select(chunk, zenith, options, cut)
        for energy, epoch, chosen in _groups(chunk, keep, labels, options):
            if chosen is not None and not chosen.any():
                continue
            part = parts.setdefault((energy, epoch), _Accumulator(options.grid))
            pick = (lambda x, c=chosen: x) if chosen is None else (lambda x, c=chosen: x[c])
            picked = {k: pick(v) for k, v in cells.items()}
            part.add(picked, pick(phasor), None if weight is None else pick(weight), pick(chunk.days))
        if progress is not None:
            progress(rows)
    if below > 0.001 * read:
        raise InputError(
            f"{source}: {below} of {read} events lie below the horizon of {site.name}: check --site (longitude positive "
            "towards East), --time-format and --equinox"
        )
    if not parts:
        cuts = ", ".join(f"{n} by {name}" for name, n in cut.items() if n) or "the file has no events"
        raise InputError(f"{source}: no event is left after cuts ({read} read; cut: {cuts}); widen the cuts")
    harmonic = sum(part.harmonic for part in parts.values())
    entry = {
        "events_read": read,
        "cut": cut,
        "zenith_max_seen_deg": math.degrees(steepest),
        "right_ascension_harmonic": [harmonic.real, harmonic.imag],
    }
    return _assemble(parts, site, options, weighted, entry)


def locate(chunk: EventChunk, site: Site, options: BinningOptions):
    """Cells by marginal name, exp(i RA), zenith angles [rad] and orbital weights (or None) of a chunk's events."""
    horizontal = chunk.ra is None
    first, second = (chunk.zenith, chunk.azimuth) if horizontal else (chunk.ra, chunk.dec)
    size = len(chunk.days)
    # One compiled shape for every chunk size up to the next power of two.
    padded = 1 << max(size - 1, 1023).bit_length() if size > 1024 else 1024

    def pad(values):
        return values if padded == size else np.pad(values, (0, padded - size), mode="edge")

    cells, phasor, zenith, weight = _locate(
        pad(chunk.days),
        pad(first),
        pad(second),
        site.longitude,
        site.latitude,
        options.orbital_index or 0.0,
        frame=options.time_frame,
        equinox=options.equinox,
        grid=options.grid,
        horizontal=horizontal,
        orbital=options.orbital_index is not None,
        want_zenith=True,
    )
    named = {n: np.asarray(c)[:size] for n, c in zip(("n_sky", "n_local", "n_half"), cells, strict=True)}
    arrays = (None if x is None else np.asarray(x)[:size] for x in (phasor, zenith, weight))
    return named, *arrays


def _select(chunk: EventChunk, zenith, options: BinningOptions, cut: dict):
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
        apply(zenith <= options.zenith_max, "zenith")
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
        [(ALL_EPOCHS, None)]
        if labels is None
        else [(str(e), labels == e) for e in np.unique(labels[labels != ""])]
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
    for (energy, epoch), part in parts.items():
        place = (0, energies.index(energy), epochs.index(epoch))
        for name, values in part.marginals(False).items():
            sums[name][place] = values
        for name, values in part.marginals(True).items() if weighted else ():
            squares[name][place] = values
        num_events[place] = part.num_events
        mean_epoch[place] = 2000 + part.days / part.num_events / 365.25
        livetime[place] = part.last - part.first
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
        w2=squares,
        time_frame=options.time_frame,
        inputs=(entry,),
        history=history,
    )


def bin_events(
    reader: EventReader, site: Site, options: BinningOptions, progress: Callable[[int], None] | None = None
) -> Counts:
    """Bin the events of one file; the file's name, checksum and accounting are kept in `Counts.inputs`.

    Raises:
        InputError: As `bin_chunks`; and where the times have whole-day resolution.
    """
    name = reader.path if reader.dataset else Path(reader.path).name
    counts = bin_chunks(_with_time_of_day(reader, name), site, options, name, progress)
    entry = {
        "file": name,
        "sha256": checksum(reader.file),
        "site": site.name,
        "rows": reader.num_read,
        "bad_rows": reader.num_bad,
        "bad_examples": list(reader.bad_examples),
        "notes": list(reader.notes),
        "columns": {role: str(column) for role, column in reader.columns.items()},
        "time_format": reader.time_format,
        "equinox": options.equinox,
        **counts.inputs[0],
    }
    return counts.replace(inputs=(entry,))


def _with_time_of_day(reader: EventReader, name: str) -> Iterator[EventChunk]:
    """The reader's chunks, refused where their times are days."""
    for chunk in reader:
        if reader.whole_days and chunk.days is not None and len(chunk.days):
            raise InputError(
                f"{name}: its times are whole days, so that no event has a sidereal time; a fit of rate and acceptance "
                "needs the time of day (a Rayleigh analysis in right ascension does not)"
            )
        yield chunk


def checksum(path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
