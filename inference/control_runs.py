"""The same inputs read again: their events one by one, other time frames, epochs and halves; the systematics block."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffcr.clock import TIME_FRAMES
from diffcr.errors import FitError, InputError
from diffcr.grid import RingGrid
from diffcr.site import Site
from diffcr.site import site as find_site

from .binning import BinningOptions, _pieces, _select
from .cells import locate, orbital_weights
from .control_frames import FrameDipole, control_frames
from .data import MARGINALS, Counts
from .dipole import Dipole
from .drift import of_epoch
from .east_west import east_west
from .fit import FitResult
from .inputs import EventFileReader, _is_configuration, _one_each, is_counts_file, read_counts
from .map_products import frame_of
from .scrambling import scramble
from .selection import select
from .systematics import Check, frame_checks, jackknife_check, method_check, systematics

MOST_EVENTS = 20_000_000
"""Events that are held in memory at once, some 2 GB."""

_FEWEST = 200
"""Events of a part below which its dipole is not asked for."""


@dataclasses.dataclass(frozen=True)
class Events:
    """Events that pass the cuts, in the equator of date; in another time frame "RA" is its time minus hour angle.

    Attributes:
        sites: Observatories.
        site: Index of the observatory of each event, shape (event,).
        days: Days since J2000.0.
        time: Local time of the frame [rad].
        right_ascension, declination: [rad].
        zenith, azimuth: [rad], azimuth from North through East.
        energy: In the units of the files, or None.
        weight: Event weights, or None where all are 1.
    """

    sites: tuple[Site, ...]
    site: Int[np.ndarray, " event"]
    days: Float[np.ndarray, " event"]
    time: Float[np.ndarray, " event"]
    right_ascension: Float[np.ndarray, " event"]
    declination: Float[np.ndarray, " event"]
    zenith: Float[np.ndarray, " event"]
    azimuth: Float[np.ndarray, " event"]
    energy: Float[np.ndarray, " event"] | None
    weight: Float[np.ndarray, " event"] | None

    def __len__(self) -> int:
        return len(self.days)

    def chosen(self, rows: np.ndarray) -> "Events":
        """Some of the events, by a boolean array or indices."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "sites"]
        values = {name: getattr(self, name) for name in names}
        return dataclasses.replace(self, **{n: v[rows] for n, v in values.items() if v is not None})

    def in_band(self, grid: RingGrid, band: tuple[float, float]) -> "Events":
        """Those of the rings whose centres lie within a band of declination [rad], as `select` takes them."""
        centres = grid.declination[grid.ring_of(self.declination)]
        return self.chosen((centres >= band[0] - 1e-12) & (centres <= band[1] + 1e-12))


@dataclasses.dataclass(frozen=True)
class Source:
    """Inputs as they are to be read: `read_counts` with all its options, which can be asked again with other ones.

    Attributes:
        inputs: Paths or `dataset:NAME`.
        site: As for `read_counts`.
        reader: columns, time_format, azimuth, prefer, equinox, skip_bad_rows.
        options: Fields of `BinningOptions`; zenith_max may be "site".
    """

    inputs: tuple[str, ...]
    site: Any = None
    reader: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def other(self) -> str | None:
        """The first input that is no event list, or None."""
        return next((p for p in self.inputs if _is_configuration(p) or is_counts_file(p)), None)

    def require_events(self) -> None:
        """Refuse inputs of which the events are not known."""
        if self.other is not None:
            raise InputError(f"needs the events, but {self.other} holds counts; give event lists")

    def counts(self, **changes) -> Counts:
        """Counts with some of the options changed."""
        self.require_events()
        return read_counts(list(self.inputs), self.site, **self.reader, **(self.options | changes))

    def events(self) -> Events:
        """All events that pass the cuts.

        Raises:
            InputError: If an input is no event list, or there are more than `MOST_EVENTS`.
        """
        self.require_events()
        parts, sites, number = [], {}, 0
        for path, own in zip(self.inputs, _one_each(self.site, len(self.inputs)), strict=True):
            reader, site, options = self._open(path, own)
            sites.setdefault(site.name, site)
            for chunk in reader:
                for piece in _pieces(chunk):
                    rows = _located(piece, site, options)
                    rows["site"] = np.full(len(rows["days"]), list(sites).index(site.name))
                    number += len(rows["days"])
                    if number > MOST_EVENTS:
                        raise InputError(
                            f"there are more than {MOST_EVENTS} events, too many to hold in memory; narrow the "
                            "cuts, or use the methods that need counts only"
                        )
                    parts.append(rows)
        return Events(sites=tuple(sites.values()), **_joined(parts))

    def _open(self, path: str, own):
        """Reader, site and options of one input, as `read_counts` takes them."""
        words = {k: v for k, v in self.reader.items() if k not in ("equinox", "bin_reference")}
        reader = EventFileReader(path, **words)
        declared = (reader.dataset.options.get("equinox") if reader.dataset else None) or "j2000"
        site = find_site(reader.dataset.site if own is None and reader.dataset else own)
        options = dict(self.options)
        if options.get("zenith_max") == "site":
            options["zenith_max"] = site.zenith_max
        cut = options.get("zenith_max")
        if cut is not None and cut < site.zenith_max:
            site = find_site(site, cut)
        return reader, site, BinningOptions(**options, equinox=self.reader.get("equinox") or declared)


def _located(piece, site: Site, options: BinningOptions) -> dict:
    """Directions, times, energies and weights of the events of a piece that pass the cuts."""
    cells = locate(piece, site, options.grid, options.time_frame, options.equinox)
    keep, _ = _select(piece, cells.zenith_cosine, options, {"energy": 0, "zenith": 0, "time": 0, "epoch": 0})
    x, y, ahead, aside, time_cos, time_sin = cells.directions[2:]
    z, turn = cells.sin_declination, 2 * np.pi
    north = z * math.cos(site.latitude) - ahead * math.sin(site.latitude)
    weight = piece.weight
    if options.orbital_index is not None:
        orbital = orbital_weights(piece.days, cells, site, options.orbital_index)
        weight = orbital if weight is None else weight * orbital
    rows = {
        "days": piece.days,
        "time": np.arctan2(time_sin, time_cos) % turn,
        "right_ascension": np.arctan2(y, x) % turn,
        "declination": np.arctan2(z, np.hypot(x, y)),
        "zenith": np.arccos(np.clip(cells.zenith_cosine, -1, 1)),
        "azimuth": np.arctan2(-aside, north) % turn,
        "energy": piece.energy,
        "weight": weight,
    }
    return rows if keep is None else {k: None if v is None else v[keep] for k, v in rows.items()}


def _joined(parts: list[dict]) -> dict:
    """Rows of all pieces. Energies only where all have them; a missing weight is 1."""
    names = parts[0].keys()
    if any(p["weight"] is not None for p in parts):
        parts = [p if p["weight"] is not None else p | {"weight": np.ones(len(p["days"]))} for p in parts]
    return {n: None if any(p[n] is None for p in parts) else np.concatenate([p[n] for p in parts]) for n in names}


# --- What a result owes to the detector --------------------------------------------------------------------


def to_j2000(counts: Counts) -> tuple[np.ndarray, str]:
    """Matrix from (delta_0h, delta_6h) of date to those of the results, shape (2, 2), and the equinox of these.

    delta_N is taken as zero, as in `fit`: a tilt by 0.1 degrees moves 0.2 % of it.
    """
    frame = frame_of(counts)
    return frame.to_date.T[:2, :2], frame.name


def frames_of(
    source: Source, counts: Counts, spectral_index: float
) -> tuple[dict[str, FrameDipole], dict[str, Counts], Events | None]:
    """The dipole of the events in every time frame, with the counts behind it, and the events for their times.

    The sidereal one is of `counts`, where these are in sidereal time. Dipoles are of the equator of date in control
    frames, as `fit` gives them.
    """
    source.require_events()
    read = {f: counts if f == counts.time_frame else source.counts(time_frame=f) for f in TIME_FRAMES}
    try:
        events = source.events()
    except InputError:
        # Too many to hold: the live time is then taken as even over the span that the counts record.
        events = None
    days, weights = (None, None) if events is None else (events.days, events.weight)
    return control_frames(read, spectral_index, days, weights), read, events


def systematics_block(
    result: FitResult | Dipole,
    counts: Counts,
    source: Source | None = None,
    spectral_index: float = 2.7,
    frames: dict[str, FrameDipole] | None = None,
    level: float = 0.01,
) -> dict:
    """Systematic errors of an equatorial dipole for JSON: which checks ran, which could not and why, and their sum.

    With event lists: antisidereal, solar and extended-sidereal time, calendar years, halves of the energies and of the
    zenith angles, and East-West against likelihood. Counts allow their own epochs, energy bins and East-West. Dipoles
    of parts are those of `scramble`, the likelihood to first order, which needs no compilation for each part.

    Args:
        result: The fit, or its dipole in the frame of the results.
        counts: What was fitted.
        source: Where the counts come from, to be read again; None where that is not known.
        spectral_index: Gamma, for the orbital line in the control frames.
        frames: From `frames_of`, where it was called already.
        level: As for `systematics`.

    Returns:
        `Systematics.as_dict` and total_covariance, frames, not_run; with null in place of numbers where nothing ran.

    Raises:
        InputError: If the counts are blinded, since the events are not, or not in sidereal time.
    """
    if counts.blinded:
        raise InputError("systematic checks of blinded counts would tell their phase; unblind them, or leave them out")
    if counts.time_frame != "sidereal":
        raise InputError(f"systematic checks are of the sidereal dipole, not of one in {counts.time_frame} time")
    dipole = result.dipole if isinstance(result, FitResult) else result
    reading = None if source is None or source.other is not None else source
    checks: list[Check] = []
    not_run: list[dict] = []
    content: dict = {"frames": {}}

    def attempt(name: str, make: Callable[[], Check | list[Check]]) -> None:
        try:
            made = make()
        except (InputError, FitError) as error:
            not_run.append({"check": name, "reason": str(error)})
            return
        checks.extend(made if isinstance(made, list) else [made])

    held: list[Events | None] = []

    def events() -> Events:
        if not held:
            held.append(reading.events())
        return held[0]

    def control() -> list[Check]:
        if reading is None:
            raise InputError(_NO_EVENTS)
        found = frames if frames is not None else frames_of(reading, counts, spectral_index)[0]
        content["frames"] = {name: each.as_dict() for name, each in found.items()}
        try:
            own = events()
        except InputError:
            return frame_checks(found)
        return frame_checks(found, own.days, own.weight)

    attempt("time frames", control)
    attempt("epochs", lambda: _epochs(reading, counts))
    attempt("energy", lambda: _energies(reading, counts, events))
    attempt("zenith angle", lambda: _zeniths(reading, counts, events))
    attempt("East-West against likelihood", lambda: _methods(dipole, counts))
    found = systematics(dipole, checks, level).as_dict() if checks else {"checks": [], "covariance": None}
    if checks:
        covariance = dipole.covariance[:2, :2] + np.asarray(found["covariance"])
        found |= {"total_covariance": covariance.tolist(), "spectral_index": spectral_index}
    return found | content | {"not_run": not_run}


def systematics_of(
    counts: Counts, source: Source | None, spectral_index: float | None = None
) -> Callable[[FitResult | Dipole], dict]:
    """A function of the result that gives its systematics block; refused at once where there can be none.

    Raises:
        InputError: If the counts are blinded, or not in sidereal time.
    """
    if counts.blinded or counts.time_frame != "sidereal":
        why = "unblinded counts" if counts.blinded else "sidereal time"
        raise InputError(f"--systematics is for {why} only; leave it out")
    return lambda result: systematics_block(result, counts, source, 2.7 if spectral_index is None else spectral_index)


_NO_EVENTS = "needs the events: give event lists, not counts"


def _epochs(reading: Source | None, counts: Counts) -> Check:
    if len(counts.epochs) > 1:
        parts = [of_epoch(counts, k) for k in range(len(counts.epochs)) if counts.num_events[:, :, k].any()]
        return _parts("epochs", parts)
    if reading is None:
        raise InputError("the counts have one epoch: bin the event lists with --epochs yearly")
    whole = reading.counts(epochs="yearly")
    return _parts("years", [of_epoch(whole, k) for k in range(len(whole.epochs))])


def _energies(reading: Source | None, counts: Counts, events: Callable[[], Events]) -> Check:
    """Reported only: a dipole that depends on the energy is no fault."""
    if len(counts.energies) > 1:
        kept = [k for k in range(len(counts.energies)) if counts.num_events[:, k].any()]
        return _parts("energy bins", [select(counts, energy=k) for k in kept], counts=False)
    if reading is None:
        raise InputError("the counts have one energy bin: bin the event lists with --energy-edges")
    energy = events().energy
    if energy is None:
        raise InputError("the events have no energy; name it with --columns energy=NAME")
    low, high = reading.options.get("energy_range", (-math.inf, math.inf))
    middle = float(np.median(energy))
    ranges = [(low, middle), (middle, high)]
    return _parts("energy halves", [reading.counts(energy_range=r) for r in ranges], counts=False)


def _zeniths(reading: Source | None, counts: Counts, events: Callable[[], Events]) -> Check:
    if reading is None:
        raise InputError(_NO_EVENTS)
    near = reading.counts(zenith_max=float(np.median(events().zenith)))
    return _parts("zenith halves", [near, _without(counts, near)])


def _methods(dipole: Dipole, counts: Counts) -> Check:
    turn, _ = to_j2000(counts)
    other = east_west(counts)
    return method_check(
        "East-West against likelihood", dipole, Dipole(turn @ other.vector, turn @ other.covariance @ turn.T)
    )


def _parts(name: str, parts: list[Counts], counts: bool = True) -> Check:
    """`jackknife_check` of the parts with enough events for a dipole."""
    enough = [part for part in parts if part.effective_events >= _FEWEST]
    if len(enough) < 2:
        raise InputError(f"fewer than two of {len(parts)} parts hold {_FEWEST} events, which a dipole needs")
    vectors, covariances = [], []
    for part in enough:
        found, (turn, _) = scramble(part), to_j2000(part)
        vectors.append(turn @ found.vector)
        covariances.append(turn @ found.covariance @ turn.T)
    return jackknife_check(name, np.array(vectors), np.array(covariances), counts)


def _without(whole: Counts, part: Counts) -> Counts:
    """The events of the whole that are not in the part, which has the same configurations; without a cube."""
    if part.num_events.shape != whole.num_events.shape:
        raise InputError("the cut leaves nothing of some epochs or energy bins")
    number = whole.num_events - part.num_events
    if np.any(number < 0) or not number.sum():
        raise InputError("the cut leaves nothing on its other side")

    def rest(values, less):
        # Sums of weights leave rounding of either sign.
        left = np.where(np.abs(values - less) > 1e-9 * np.abs(values), values - less, 0.0)
        return np.maximum(left, 0.0)

    squares = {name: rest(whole.w2[name], part.w2[name]) for name in whole.w2}
    sums = {name: rest(getattr(whole, name), getattr(part, name)) for name in MARGINALS}
    with np.errstate(invalid="ignore", divide="ignore"):
        days = np.nan_to_num(whole.mean_epoch) * whole.num_events - np.nan_to_num(part.mean_epoch) * part.num_events
        epoch = np.where(number > 0, days / number, np.nan)
    moments = whole.moments - np.where((part.num_events > 0)[..., None, None], part.moments, 0.0)
    inputs = tuple({k: v for k, v in e.items() if k != "right_ascension_harmonic"} for e in whole.inputs)
    return whole.replace(
        **sums, w2=squares, num_events=number, mean_epoch=epoch, moments=moments, inputs=inputs, cube=None
    )
