"""`Counts`: the marginals of the data of every detector configuration, checked once, saved, loaded, added."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import xarray as xr

from diffcr.clock import TIME_FRAMES
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .files import write_netcdf
from .spans import joined_span, known_span, livetime_within, span_of_events

FORMAT_VERSION = 1
MARGINALS = ("n_sky", "n_time", "n_local", "n_half")
_DIMENSIONS = {
    "n_sky": ("ring", "ra"),
    "n_time": ("time",),
    "n_local": ("ring", "hour_angle"),
    "n_half": ("half", "ring", "time"),
}
_LEAD = ("observatory", "energy", "epoch")
_SITE = ("latitude", "longitude", "zenith_max", "zenith_min")
_REQUIRED = (*MARGINALS, "num_events", "mean_epoch", "livetime", *_LEAD, *_SITE)
_REQUIRED_ATTRIBUTES = ("format_version", "time_frame", "inputs", "history")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Binned events of one or several detector configurations on one ring grid.

    A configuration is an (observatory, energy bin, epoch); each has its own rate and acceptance. All share
    the sky. Arrays have the leading axes (observatory, energy, epoch), of length 1 where there is one.
    With weights the n_* are sums of weights and the w2_* sums of squared weights; without, w2 is empty.

    Attributes:
        grid: The ring grid, in the equator of date.
        sites: One `Site` per observatory.
        energies: Label of each energy bin ("all" where the events were not split).
        epochs: Label of each epoch: one detector configuration, hence one acceptance.
        n_sky: Equatorial counts, shape (observatory, energy, epoch, ring, ra).
        n_time: Counts per time bin, shape (observatory, energy, epoch, time).
        n_local: Local counts, shape (observatory, energy, epoch, ring, hour_angle).
        n_half: Counts of the east (0) and west (1) half of the local sky, (observatory, energy, epoch, half,
            ring, time).
        moments: Sums over the events of w cos(dec) (cos RA, sin RA), of w cos(dec) (cos H, sin H) and of
            w (cos t, sin t), t the time of the frame; shape (observatory, energy, epoch, 3, 2), NaN where only cells
            are known. They free the dipole from the grid.
        w2: The same four marginals of the squared weights, by name, or empty for unit weights.
        num_events: Rows counted, shape (observatory, energy, epoch).
        mean_epoch: Mean time of the events [Julian year], same shape; NaN where there is none.
        livetime: Time spanned by the events [days], same shape; an upper bound of the live time. Of joined
            counts the sum of their own, or the time from the first to the last event if that is shorter.
        time_frame: "sidereal", "solar", "antisidereal" or "extended-sidereal".
        inputs: What was read: a list of dicts with file, sha256, events, bad rows.
        history: What was done beyond binning: blind, unblinded, orbital_removed, merged_epochs, simulated.
        cube: Counts of every time bin and local cell, shape (observatory, energy, epoch, time, ring, hour_angle), or
            None. With weights their sums; their squares are kept for the marginals alone.
        span: First and last time of the events [days since J2000.0, UTC], shape (observatory, energy, epoch, 2); NaN
            where they are not known.
    """

    grid: RingGrid
    sites: tuple[Site, ...]
    energies: tuple[str, ...]
    epochs: tuple[str, ...]
    n_sky: np.ndarray
    n_time: np.ndarray
    n_local: np.ndarray
    n_half: np.ndarray
    num_events: np.ndarray
    mean_epoch: np.ndarray
    livetime: np.ndarray
    moments: np.ndarray | None = None
    w2: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    time_frame: str = "sidereal"
    inputs: tuple[dict, ...] = ()
    history: dict = dataclasses.field(default_factory=dict)
    cube: np.ndarray | None = None
    span: np.ndarray | None = None

    def __post_init__(self):
        lead = (len(self.sites), len(self.energies), len(self.epochs))
        if self.moments is None:
            object.__setattr__(self, "moments", np.full((*lead, 3, 2), np.nan))
        if np.shape(self.moments) != (*lead, 3, 2):
            raise InputError(
                f"moments has shape {np.shape(self.moments)}, the labels need {(*lead, 3, 2)}; bin the events again"
            )
        if self.span is None:
            object.__setattr__(self, "span", np.full((*lead, 2), np.nan))
        if np.shape(self.span) != (*lead, 2) or np.any(self.span[..., 1] < self.span[..., 0]):
            raise InputError(
                f"span must be first and last time of each configuration, of shape {(*lead, 2)}; bin the events again"
            )
        rings, bins = self.grid.shape
        tails = {
            "n_sky": (rings, bins),
            "n_time": (bins,),
            "n_local": (rings, bins),
            "n_half": (2, rings, bins),
        }
        arrays = {name: getattr(self, name) for name in MARGINALS}
        arrays |= {f"w2 of {name}": self.w2[name] for name in self.w2}
        for name, values in arrays.items():
            shape = lead + tails[name.removeprefix("w2 of ")]
            if values.shape != shape:
                raise InputError(f"{name} has shape {values.shape}, the grid and labels need {shape}")
            if not np.all(np.isfinite(values)) or values.min(initial=0) < 0:
                raise InputError(f"{name} holds negative or non-finite counts; bin the events again")
        totals = self.n_time.sum(-1)
        for name in ("n_sky", "n_local"):
            sums = getattr(self, name).sum((-1, -2))
            if not np.allclose(sums, totals, rtol=1e-8):
                raise InputError(f"{name} and n_time do not sum to the same events; bin the events again")
        if not np.allclose(self.n_half.sum((-3, -2)), self.n_time, rtol=1e-8):
            raise InputError("n_half and n_time do not sum to the same events; bin the events again")
        if self.num_events.shape != lead or np.any((self.num_events <= 0) & (totals > 0)):
            raise InputError("num_events does not fit n_time; bin the events again")
        if self.time_frame not in TIME_FRAMES:
            raise InputError(f"unknown time frame {self.time_frame!r}: choose one of {', '.join(TIME_FRAMES)}")
        if self.cube is not None:
            _check_cube(self)

    @property
    def weighted(self) -> bool:
        """Whether events carry weights (then `w2` is filled)."""
        return bool(self.w2)

    @property
    def sum_weights(self) -> float:
        """Sum of the weights of all events."""
        return float(self.n_time.sum())

    @property
    def effective_events(self) -> float:
        """(sum w)^2 / sum w^2: the number of unit weights with the same relative fluctuation."""
        return self.sum_weights**2 / float(self.w2["n_time"].sum()) if self.weighted else self.sum_weights

    @property
    def blinded(self) -> bool:
        """Whether right ascension was rotated by a secret angle."""
        return "blind" in self.history

    def configurations(self) -> list[tuple[int, int, int]]:
        """Indices (observatory, energy, epoch) of the configurations that hold events."""
        return [
            tuple(int(i) for i in index) for index in np.argwhere((self.num_events > 0) & (self.n_time.sum(-1) > 0))
        ]

    def label(self, index: tuple[int, int, int]) -> str:
        """Readable name of a configuration."""
        site, energy, epoch = index
        parts = [self.sites[site].name]
        parts += [self.energies[energy]] if len(self.energies) > 1 else []
        parts += [self.epochs[epoch]] if len(self.epochs) > 1 else []
        return ", ".join(parts)

    def replace(self, **changes) -> "Counts":
        """A copy with some fields changed, checked again. A cube is left out where marginals change and it does not."""
        if self.cube is not None and {"grid", *MARGINALS} & changes.keys():
            changes = {"cube": None} | changes
        return dataclasses.replace(self, **changes)

    def save(self, path: str | os.PathLike) -> Path:
        """Write a NetCDF file; it appears under its name only when complete.

        Raises:
            InputError: If the folder does not exist or cannot be written.
        """
        path = Path(path)
        data = {name: (_LEAD + _DIMENSIONS[name], getattr(self, name)) for name in MARGINALS}
        data |= {name.replace("n_", "w2_"): (_LEAD + _DIMENSIONS[name], v) for name, v in self.w2.items()}
        data |= {name: (_LEAD, getattr(self, name)) for name in ("num_events", "mean_epoch", "livetime")}
        data["moments"] = ((*_LEAD, "frame", "component"), self.moments)
        data["span"] = ((*_LEAD, "end"), self.span)
        if self.cube is not None:
            data["n_cube"] = ((*_LEAD, "time", "ring", "hour_angle"), self.cube)
        degrees = {name: ("observatory", np.degrees([getattr(s, name) for s in self.sites])) for name in _SITE}
        dataset = xr.Dataset(data | degrees, coords=self._coordinates(), attrs=self._attributes())
        units = {"latitude": "degree", "longitude": "degree", "zenith_max": "degree", "zenith_min": "degree"}
        for name, unit in (units | {"mean_epoch": "Julian year", "livetime": "day"}).items():
            dataset[name].attrs["units"] = unit
        dataset["span"].attrs["long_name"] = "First and last time of the events in days since J2000.0 (UTC)"
        packed = {name: {"zlib": True, "complevel": 1} for name in data if name.startswith(("n_", "w2_"))}
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist; make it or choose another -o")
        write_netcdf(path, dataset, encoding=packed)
        return path

    def _coordinates(self) -> dict:
        grid = self.grid
        names = {
            "observatory": [s.name for s in self.sites],
            "energy": list(self.energies),
            "epoch": list(self.epochs),
            "half": ["east", "west"],
            "frame": ["equatorial", "local", "time"],
            "component": ["cosine", "sine"],
            "end": ["first", "last"],
        }
        angles = {
            "ring": np.degrees(grid.declination),
            "ra": np.degrees(grid.right_ascension),
            "time": np.degrees(grid.sidereal_time),
            "hour_angle": np.degrees(grid.hour_angle),
        }
        return names | angles

    def _attributes(self) -> dict:
        import diffcr

        return {
            "title": "Counts of cosmic-ray arrival directions: marginals on the ring grid",
            "format": "diffcr counts",
            "format_version": FORMAT_VERSION,
            "software": f"diffcr {diffcr.__version__}",
            "time_frame": self.time_frame,
            "equinox": "date",
            "mean_epoch": self.overall_epoch(),
            "livetime": float(np.sum(self.livetime)),
            "inputs": json.dumps(list(self.inputs)),
            "history": json.dumps(self.history),
        }

    def overall_epoch(self) -> float:
        """Event-weighted mean epoch [Julian year]; NaN where no configuration knows its own."""
        known = np.isfinite(self.mean_epoch) & (self.num_events > 0)
        if not known.any():
            return float("nan")
        return float(np.average(self.mean_epoch[known], weights=self.num_events[known]))


def load_counts(path: str | os.PathLike) -> Counts:
    """Read a file written by `Counts.save`.

    Raises:
        InputError: If the file is missing, truncated, of another kind or of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the counts file in it")
    if not path.is_file():
        raise InputError(f"{path}: no such file; make one with `diffcr bin` or `diffcr simulate`")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            dataset.load()
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NetCDF file ({type(error).__name__}); it may be truncated or of another kind: "
            "copy it again or repeat `diffcr bin`"
        ) from error
    if dataset.attrs.get("format") != "diffcr counts":
        raise InputError(f"{path}: NetCDF, but not a counts file of diffcr; make one with `diffcr bin`")
    missing = [name for name in _REQUIRED if name not in dataset.variables]
    missing += [name for name in _REQUIRED_ATTRIBUTES if name not in dataset.attrs]
    if missing:
        raise InputError(f"{path}: the counts file lacks {', '.join(missing)}; repeat `diffcr bin`")
    try:
        version = int(dataset.attrs["format_version"])
        if version <= FORMAT_VERSION:
            return _from_dataset(dataset)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its contents are not as `diffcr bin` writes them ({error}); repeat `diffcr bin`"
        ) from error
    raise InputError(f"{path}: format version {version}, this diffcr reads up to {FORMAT_VERSION}; update diffcr")


def _from_dataset(dataset: xr.Dataset) -> Counts:
    sites = tuple(
        Site(
            name=str(name),
            **{key: float(np.radians(dataset[key].values[i])) for key in _SITE},
        )
        for i, name in enumerate(dataset["observatory"].values)
    )
    squares = {
        name: dataset[name.replace("n_", "w2_")].values for name in MARGINALS if name.replace("n_", "w2_") in dataset
    }
    inputs, history = tuple(json.loads(dataset.attrs["inputs"])), json.loads(dataset.attrs["history"])
    if not isinstance(history, dict) or not all(isinstance(entry, dict) for entry in inputs):
        raise ValueError("inputs must be a list of objects, and history an object")
    return Counts(
        grid=RingGrid(dataset.sizes["ring"], dataset.sizes["ra"]),
        sites=sites,
        energies=tuple(str(x) for x in dataset["energy"].values),
        epochs=tuple(str(x) for x in dataset["epoch"].values),
        **{name: dataset[name].values for name in MARGINALS},
        **{name: dataset[name].values for name in ("num_events", "mean_epoch", "livetime")},
        moments=dataset["moments"].values if "moments" in dataset else None,
        span=dataset["span"].values if "span" in dataset else None,
        w2=squares,
        time_frame=str(dataset.attrs["time_frame"]),
        inputs=inputs,
        history=history,
        cube=dataset["n_cube"].values if "n_cube" in dataset else None,
    )


def _check_cube(counts: Counts) -> None:
    """The cube must sum to the three marginals: over local cells, over time, and along h = (tau - a) mod n."""
    rings, bins = counts.grid.shape
    shape = counts.num_events.shape + (bins, rings, bins)
    if counts.cube.shape != shape:
        raise InputError(f"cube has shape {counts.cube.shape}, the grid and labels need {shape}")
    if not np.isfinite(counts.cube.sum()) or counts.cube.min(initial=0) < 0:
        raise InputError("cube holds negative or non-finite counts; bin the events again with --cube")
    sums = {"n_time": counts.cube.sum((-1, -2)), "n_local": counts.cube.sum(-3), "n_sky": np.zeros_like(counts.n_sky)}
    for tau in range(bins):
        # Columns of right ascension a = (tau - h) mod n, in the order of a.
        sums["n_sky"] += np.roll(counts.cube[..., tau, :, ::-1], tau + 1, axis=-1)
    for name, values in sums.items():
        if not np.allclose(values, getattr(counts, name), rtol=1e-8):
            raise InputError(f"cube and {name} are not of the same events; bin the events again with --cube")


def combine(parts: list[Counts]) -> Counts:
    """Join counts of several files: the same configuration is added, different ones stand side by side.

    A configuration is the same when observatory, energy bin and epoch have the same name; then its site must
    agree too. Weighted and unweighted counts may be joined (unit weights have w^2 = 1). Epochs that are years stand in
    their order, others in that of the parts.

    Raises:
        InputError: If grids, time frames, sites of one name, blinding or orbital correction differ, or only some of
            the parts keep a cube.
    """
    first = parts[0]
    for other in parts[1:]:
        _check_compatible(first, other)
    sites: dict[str, Site] = {}
    for part in parts:
        for site in part.sites:
            known = sites.setdefault(site.name, site)
            if _differs(known, site):
                raise InputError(
                    f"two observatories are called {site.name} but differ in latitude, longitude or zenith cut: "
                    "different configurations are different epochs; give them other --epochs labels or --site names"
                )
    energies = list(dict.fromkeys(e for part in parts for e in part.energies))
    epochs = list(dict.fromkeys(e for part in parts for e in part.epochs))
    if all(re.fullmatch("[0-9]{4}", epoch) for epoch in epochs):
        epochs.sort()
    weighted = any(part.weighted for part in parts)
    lead = (len(sites), len(energies), len(epochs))
    out = {name: np.zeros(lead + getattr(first, name).shape[3:]) for name in MARGINALS}
    squares = {name: np.zeros_like(out[name]) for name in MARGINALS} if weighted else {}
    num_events, epoch_sum, livetime = np.zeros(lead, np.int64), np.zeros(lead), np.zeros(lead)
    moments, span = np.zeros((*lead, 3, 2)), np.full((*lead, 2), (np.inf, -np.inf))
    cube = None if first.cube is None else np.zeros(lead + first.cube.shape[3:])
    for part in parts:
        place = np.ix_(
            [list(sites).index(s.name) for s in part.sites],
            [energies.index(e) for e in part.energies],
            [epochs.index(e) for e in part.epochs],
        )
        for name in MARGINALS:
            out[name][place] += getattr(part, name)
            if weighted:
                squares[name][place] += part.w2.get(name, getattr(part, name))
        if cube is not None:
            cube[place] += part.cube
        num_events[place] += part.num_events
        moments[place] += np.where((part.num_events > 0)[..., None, None], part.moments, 0.0)
        epoch_sum[place] += np.where(part.num_events > 0, part.mean_epoch * part.num_events, 0.0)
        livetime[place] += part.livetime
        span[place] = joined_span(span[place], span_of_events(part.span, part.num_events))
    with np.errstate(invalid="ignore"):
        mean_epoch = np.where(num_events > 0, epoch_sum / num_events, np.nan)
    history = {name: entry for part in reversed(parts) for name, entry in part.history.items()}
    if "skipped_files" in history:
        history["skipped_files"] = [file for part in parts for file in part.history.get("skipped_files", [])]
    return first.replace(
        sites=tuple(sites.values()),
        energies=tuple(energies),
        epochs=tuple(epochs),
        **out,
        moments=moments,
        w2=squares,
        num_events=num_events,
        mean_epoch=mean_epoch,
        livetime=livetime_within(livetime, known_span(span)),
        span=known_span(span),
        inputs=tuple(entry for part in parts for entry in part.inputs),
        history=history,
        cube=cube,
    )


def _differs(one: Site, other: Site) -> bool:
    return any(not np.isclose(getattr(one, n), getattr(other, n), atol=1e-9) for n in _SITE)


def _check_compatible(first: Counts, other: Counts) -> None:
    if first.grid.shape != other.grid.shape:
        one, two = (str(c.grid) for c in (first, other))
        raise InputError(f"counts on different grids, {one} and {two}, cannot be joined; bin both with one --grid")
    if first.time_frame != other.time_frame:
        raise InputError(
            f"counts in different time frames, {first.time_frame} and {other.time_frame}, cannot be joined; "
            "bin both with one --time-frame"
        )
    if first.history.get("blind") != other.history.get("blind"):
        raise InputError("one of the counts is blinded, or with another key; blind all with one key, or unblind")
    if first.history.get("orbital_removed") != other.history.get("orbital_removed"):
        raise InputError(
            "the Earth's orbital motion was removed from one of the counts only, or with another index; "
            "bin all with the same --remove-orbital --gamma"
        )
    if (first.cube is None) != (other.cube is None):
        raise InputError("only some of the counts keep a cube: bin all with --cube, or all without")
