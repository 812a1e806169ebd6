"""Every method on the same data: per band of declination and bin of energy, and of the whole event list.

Methods are asked one after the other. One that cannot run on the data given is listed with its reason; none is silently
absent. Vectors are of the frame that `fit` reports in, J2000 where the epoch is known, and angles are in degrees.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

import diffcr
from diffcr.errors import FitError, InputError

from . import estimate_dipoles as dipoles
from . import estimate_spectra as spectra
from .binning import energy_labels
from .control_frames import combined_index, solar_indices
from .control_runs import Events, Source, frames_of, systematics_block, to_j2000
from .data import Counts
from .estimate_parts import METHODS, OF_ALL, Part, Settings
from .files import finite
from .map_products import frame_of
from .scrambling import scramble
from .selection import select
from .stability import Estimate, stability, stability_of_events
from .top_hat import top_hat_scan
from .top_hat_exposure import Exposure


def estimates(
    counts: Counts,
    source: Source | None = None,
    settings: Settings | None = None,
    systematic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict:
    """Run the methods; everything estimates.json holds.

    Keys: software, num_events, effective_events, observatories, time_frame, equinox, mean_epoch, grid, blinded, inputs,
    history, and

    - `parts`: one for each energy bin and band: label, energy, declination_deg, num_events, effective_events and
      `methods`. A method that measures a dipole has vector (delta_0h, delta_6h), covariance, amplitude,
      amplitude_error, right_ascension_deg, right_ascension_error_deg, upper_limit_95, log10_p, significance_sigma;
      rayleigh and projection have harmonics (order, cosine, sine, amplitude, amplitude_error, right_ascension_deg,
      log10_p); two-harmonic and known-exposure delta with delta_N and delta_covariance; known-exposure its log10_p for
      `degrees_of_freedom`, and quadrupole; scrambling-Hh raw_vector, of the map, and fraction_kept of a dipole; the
      projection curve. pseudo-power and power have l_low, l_high, power, error (with the signal), isotropic_error,
      power_covariance, noise (subtracted); pseudo-power also ranges of isotropic skies and of Gaussian skies of this
      power (isotropic_68, statistical_68, ...: lowest, highest). two-point has edges_deg, xi, error, xi_of_power.
    - `frames`, `solar_index`, `stability`, `top_hat`: of all events together; absent where not run.
    - `systematics`: see `control_runs.systematics_block`; absent where not asked for.
    - `not_run`: method, part, reason.

    While the counts are blinded every phase is null, and methods that read the events again do not run.

    Args:
        counts: The binned data.
        source: Where they come from, for the methods that need the events.
        settings: What to run; default everything.
        systematic: Whether to add the systematics block.
        progress: Called with 1 after each isotropic sky of a search.

    Raises:
        InputError: If none of the methods could run.
    """
    settings = Settings() if settings is None else settings
    run = _Run(counts, source, settings, progress)
    summary = _header(counts) | {"parts": [run.part(part) for part in run.parts()]}
    summary |= run.of_all()
    if systematic:
        summary |= run.guarded("systematics", "all", run.systematics)
    if not any(part["methods"] for part in summary["parts"]) and not any(_KEYS[n] in summary for n in OF_ALL):
        reasons = "; ".join(dict.fromkeys(f"{e['method']} {e['reason']}" for e in run.not_run))
        raise InputError(f"none of the methods can run on these data: {reasons}")
    summary["not_run"] = run.not_run
    return finite(_hidden(summary) if counts.blinded else summary)


_KEYS = {name: name.replace("-", "_") for name in METHODS}


def _header(counts: Counts) -> dict:
    return {
        "software": f"diffcr {diffcr.__version__}",
        "num_events": int(counts.num_events.sum()),
        "effective_events": counts.effective_events,
        "observatories": [s.name for s in counts.sites],
        "time_frame": counts.time_frame,
        "equinox": frame_of(counts).name,
        "mean_epoch": finite(counts.overall_epoch()),
        "grid": list(counts.grid.shape),
        "blinded": counts.blinded,
        "inputs": list(counts.inputs),
        "history": counts.history,
    }


_PHASES = {"vector", "covariance", "right_ascension_deg", "delta", "delta_covariance", "raw_vector", "curve"}
_PHASES |= {"declination_deg_of_maximum", "multipoles", "multipoles_covariance", "cosine", "sine"}


def _hidden(content):
    """The same with null for what tells a phase."""
    if isinstance(content, dict):
        return {k: None if k in _PHASES else v if k == "inputs" else _hidden(v) for k, v in content.items()}
    return [_hidden(each) for each in content] if isinstance(content, list) else content


class _Run:
    """What the methods share, and the list of those that did not run."""

    def __init__(self, counts: Counts, source: Source | None, settings: Settings, progress):
        self.counts, self.source, self.settings, self.progress = counts, source, settings, progress
        self.not_run: list[dict] = []

    def guarded(self, method: str, part: str, make: Callable[[], dict]) -> dict:
        """{key: result}, or nothing and a line in the list of what did not run."""
        try:
            return {_KEYS.get(method, method) if method in OF_ALL else method: make()}
        except (InputError, FitError, np.linalg.LinAlgError) as error:
            unconverged = isinstance(error, FitError)
            self.not_run.append(
                {"method": method, "part": part, "reason": str(error)} | ({"converged": False} if unconverged else {})
            )
            return {}

    def parts(self) -> list[Part]:
        """All, then each energy bin; of each the whole field of view, then each band."""
        counts, settings = self.counts, self.settings
        several = len(counts.energies) > 1
        energies = [None, *counts.energies] if several else [None]
        found = []
        for energy, band in itertools.product(energies, [None, *settings.bands]):
            name = "all" if energy is None else energy
            try:
                chosen = counts if energy is None else select(counts, energy=energy)
                chosen = chosen if band is None else select(chosen, declination=band)
            except InputError as error:
                where = Part(name, band, counts, settings, self._all_events).label
                self.not_run.append({"method": "all", "part": where, "reason": str(error)})
                continue
            found.append(Part(name, band, chosen, settings, functools.partial(self._events_of, energy, band)))
        return found

    def part(self, part: Part) -> dict:
        """The methods on one part."""
        results: dict = {}
        for name, make in _jobs(part):
            results |= self.guarded(name, part.label, make)
        return {
            "label": part.label,
            "energy": part.energy,
            "declination_deg": None if part.band is None else np.degrees(part.band).tolist(),
            "num_events": int(part.counts.num_events.sum()),
            "effective_events": part.counts.effective_events,
            "methods": results,
        }

    def of_all(self) -> dict:
        """The methods that need the events."""
        makers = {"frames": self._frames, "solar-index": self._solar, "stability": self._stability}
        makers["top-hat"] = self._top_hat
        out: dict = {}
        for name in OF_ALL:
            if name in self.settings.methods:
                out |= self.guarded(name, "all", makers[name])
        return out

    def systematics(self) -> dict:
        """The systematics block, with the control frames read for `frames` where they were."""
        part = Part("all", None, self.counts, self.settings, self._all_events)
        frames = self._read_frames[0] if "_read_frames" in self.__dict__ else None
        return systematics_block(part.fitted, self.counts, self.source, self.settings.spectral_index, frames=frames)

    @functools.cached_property
    def _whole(self) -> Events:
        if self.source is None:
            raise InputError("needs the events: give event lists, not counts")
        if self.counts.blinded:
            raise InputError("needs the events, which are not blinded; unblind the counts first")
        return self.source.events()

    def _all_events(self) -> Events:
        return self._whole

    def _events_of(self, energy: str | None, band) -> Events:
        events, options = self._whole, self.source.options
        if energy is not None:
            edges = options["energy_edges"]
            place = np.searchsorted(edges, events.energy, side="right") - 1
            events = events.chosen(place == energy_labels(edges).index(energy))
        return events if band is None else events.in_band(self.counts.grid, band)

    @functools.cached_property
    def _read_frames(self):
        self._require_open()
        return frames_of(self.source, self.counts, self.settings.spectral_index)

    def _require_open(self) -> None:
        if self.source is None:
            raise InputError("needs the events: give event lists, not counts")
        self.source.require_events()
        if self.counts.blinded:
            raise InputError("needs the events, which are not blinded; unblind the counts first")

    def _frames(self) -> dict:
        found = self._read_frames[0]
        return {"spectral_index": self.settings.spectral_index} | {k: v.as_dict() for k, v in found.items()}

    def _solar(self) -> dict:
        _, read, events = self._read_frames
        days = None if events is None else events.days
        indices = solar_indices(read["solar"], days, None if events is None else events.weight)
        out: dict = {"bins": [each.as_dict() for each in indices]}
        if len(indices) > 1:
            mean, error, chi2 = combined_index(indices)
            out["combined"] = {"index": mean, "index_error": error, "chi2": chi2}
        return out

    def _stability(self) -> dict:
        events = None if self.source is None or self.source.other is not None else self._whole
        if events is not None:
            found = stability_of_events(
                events.days, events.right_ascension, events.declination, events.weight, self.settings.by
            )
            periods, method = found.estimates, f"rayleigh, by {self.settings.by}"
        else:
            if len(self.counts.epochs) < 2:
                raise InputError("needs the events, or counts with several epochs: bin with --epochs yearly")
            parts = [select(self.counts, epoch=k) for k, n in enumerate(self.counts.num_events.sum((0, 1))) if n]
            vectors = [scramble(part) for part in parts]
            periods = [
                Estimate(p.epochs[0], p.overall_epoch(), v.vector, v.covariance)
                for p, v in zip(parts, vectors, strict=True)
            ]
            method = "scrambling, by epoch"
        turn, _ = to_j2000(self.counts)
        turned = [
            dataclasses.replace(e, vector=turn @ e.vector, covariance=turn @ e.covariance @ turn.T) for e in periods
        ]
        return {"method": method} | stability(turned).as_dict()

    def _top_hat(self) -> dict:
        settings = self.settings
        if not (settings.targets or settings.blind_search):
            raise InputError("needs --targets RA,DEC,RADIUS or --blind-search")
        self._require_open()
        events = self._whole
        if events.energy is None:
            raise InputError("needs energies; name the column with --columns energy=NAME")
        exposure, label = self._search_exposure()
        lists = (events.energy, events.right_ascension, events.declination, exposure)
        if settings.blind_search:
            levels = np.array(_halving(events.energy) if settings.thresholds is None else settings.thresholds)
            scan = top_hat_scan(
                *lists, levels, np.array(settings.radii), 32, settings.skies, settings.seed, self.progress
            )
            return {"exposure": label, "blind": self._placed(scan.as_dict())}
        levels = np.array([events.energy.min()] if settings.thresholds is None else settings.thresholds)
        frame, found = frame_of(self.counts), []
        for ra, dec, radius in settings.targets:
            unit = np.array([[math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)]])
            there = frame.directions_of_date(unit)
            at = (there[1], there[0])
            skies = settings.skies if len(levels) > 1 else 0
            scan = top_hat_scan(*lists, levels, np.array([radius]), at, skies, settings.seed, self.progress)
            found.append(self._placed(scan.as_dict()))
        for each in found:
            own = each["penalised_p"] if each["penalised_p"] is not None else 10 ** each["best"]["log10_p"]
            each["p_of_all_targets"] = -math.expm1(len(found) * math.log1p(-min(own, 1 - 1e-15)))
        return {"exposure": label, "targets": found}

    def _placed(self, scan: dict) -> dict:
        """The centre of the best disc in the frame of the results."""
        best = scan["best"]
        angles = np.radians([[best["declination_deg"]], [best["right_ascension_deg"]]])
        dec, ra = (float(np.degrees(x[0])) for x in frame_of(self.counts).from_date(*angles))
        return scan | {"best": best | {"right_ascension_deg": ra, "declination_deg": dec}}

    def _search_exposure(self) -> tuple[Exposure, str]:
        counts = self.counts
        if self.settings.search_exposure == "sommers" and len(counts.sites) == 1:
            site = counts.sites[0]
            return Exposure.of_site(site.latitude, site.zenith_max), "sommers"
        part = Part("all", None, counts, self.settings, self._all_events)
        return Exposure.of_fit(part.fitted), "fitted"


def _halving(energy: np.ndarray) -> tuple[float, ...]:
    """Energies with all, half, a quarter, ... of the events at and above them, down to twenty events."""
    levels, number = np.sort(energy)[::-1], len(energy)
    found = {float(levels[number - 1])}
    while (number := number // 2) >= 20:
        found.add(float(levels[number - 1]))
    return tuple(sorted(found))


# --- The methods on one part -------------------------------------------------------------------------------


def _jobs(part: Part) -> list[tuple[str, Callable[[], dict]]]:
    """Names and calls of the methods asked for; scrambling once for each window."""
    makers = {
        "likelihood": dipoles.likelihood,
        "known-exposure": dipoles.known_exposure,
        "rayleigh": dipoles.rayleigh,
        "two-harmonic": dipoles.two_harmonic,
        "east-west": dipoles.east_west_halves,
        "east-west-directions": dipoles.east_west_directions,
        "projection": dipoles.projection,
        "pseudo-power": spectra.pseudo,
        "power": spectra.quadratic,
        "two-point": spectra.correlation,
    }
    jobs = []
    for name in METHODS:
        if name not in part.settings.methods or name in OF_ALL:
            continue
        if name == "scrambling":
            for hours in part.settings.windows:
                jobs.append((f"scrambling-{hours:g}h", functools.partial(dipoles.scrambling, part, hours)))
        else:
            jobs.append((name, functools.partial(makers[name], part)))
    return jobs
