"""The dipole of one part of the data by every method, as entries of estimates.json."""

import dataclasses
import math

import numpy as np

from diffcr.errors import InputError

from .control_runs import Events
from .dipole import Dipole, significance_sigma
from .east_west import east_west, east_west_events
from .estimate_parts import Part
from .estimators import (
    EquatorialEstimate,
    TwoHarmonicDipole,
    combine_estimates,
    rayleigh_of_counts,
    two_harmonic_dipole,
    two_harmonic_events,
)
from .fit import fit
from .map_products import frame_of
from .projection import right_ascension_projection
from .report import has_errors
from .scrambling import DAY, scramble


def vector_entry(vector: np.ndarray, covariance: np.ndarray, log10_p: float) -> dict:
    """What every measured dipole says; the vector is (delta_0h, delta_6h) in the frame of the results."""
    dipole = Dipole(np.asarray(vector, float), np.asarray(covariance, float))
    return {
        "vector": dipole.delta.tolist(),
        "covariance": dipole.covariance.tolist(),
        "amplitude": dipole.amplitude,
        "amplitude_error": dipole.amplitude_error,
        "right_ascension_deg": math.degrees(dipole.right_ascension),
        "right_ascension_error_deg": math.degrees(dipole.right_ascension_error),
        "upper_limit_95": dipole.upper_limit(0.95),
        "log10_p": log10_p,
        "significance_sigma": significance_sigma(log10_p),
    }


def _of_date(part: Part, found: EquatorialEstimate) -> dict:
    return vector_entry(part.turn @ found.vector, part.turn @ found.covariance @ part.turn.T, found.log10_p)


def likelihood(part: Part) -> dict:
    """The maximum-likelihood fit with rates and acceptances free."""
    result = part.fitted
    if not has_errors(result):
        raise InputError("the fit has no covariance: too few events for this field of view")
    dipole = result.dipole
    entry = vector_entry(dipole.delta, dipole.covariance, result.log10_p)
    return entry | {"test_statistic": result.test_statistic, "converged": True}


def known_exposure(part: Part) -> dict:
    """The fit with the acceptance known: the whole dipole, and the multipoles to l = 2."""
    exposure = part.settings.exposure
    if exposure is None:
        raise InputError("needs the exposure: give --exposure known, known:K or FILE.npy")
    if part.band is not None:
        centres = part.counts.grid.declination
        inside = (centres >= part.band[0] - 1e-12) & (centres <= part.band[1] + 1e-12)
        exposure = {name: np.where(inside[:, None], a, 0.0) for name, a in exposure.items()}
    one, two = (fit(part.counts, l, exposure).require_converged() for l in (1, 2))
    delta, covariance = one.dipole.delta, one.dipole.covariance
    entry = vector_entry(delta[:2], covariance[:2, :2], one.log10_p)
    return entry | {
        "degrees_of_freedom": one.degrees_of_freedom,
        "delta": delta.tolist(),
        "delta_covariance": covariance.tolist(),
        "total_amplitude": float(np.linalg.norm(delta)),
        "declination_deg_of_maximum": math.degrees(math.atan2(delta[2], math.hypot(*delta[:2]))),
        "quadrupole": {
            "l": two.degree.tolist(),
            "m": two.order.tolist(),
            "multipoles": two.multipoles.tolist(),
            "multipoles_covariance": two.covariance.tolist(),
            "gain": two.test_statistic - one.test_statistic,
        },
    }


def rayleigh(part: Part) -> dict:
    """First to third harmonic in right ascension; the vector is the first over the mean cosine of declination."""
    found = [rayleigh_of_counts(part.counts, k) for k in (1, 2, 3) if 2 * k < part.counts.grid.n_ra]
    first, cosine = found[0], found[0].mean_cos_declination
    vector = part.turn @ np.array([first.a, first.b]) / cosine
    entry = vector_entry(vector, (first.sigma / cosine) ** 2 * np.eye(2), first.log10_p)
    harmonics = [_harmonic(part, r.order, r.a, r.b, r.sigma, r.log10_p) for r in found]
    return entry | {"harmonics": harmonics, "mean_cos_declination": cosine}


def _harmonic(part: Part, order: int, a: float, b: float, error: float, log10_p: float) -> dict:
    turned = complex(a, b) * np.exp(-1j * order * part.shift)
    return {
        "order": order,
        "cosine": turned.real,
        "sine": turned.imag,
        "amplitude": abs(turned),
        "amplitude_error": error,
        "right_ascension_deg": math.degrees(np.angle(turned) % (2 * math.pi) / order),
        "log10_p": log10_p,
    }


def two_harmonic(part: Part) -> dict:
    """Dipole from right ascension and local azimuth, from the events where they are known."""
    try:
        found, of = _two_harmonics_of_events(part.events()), "events"
    except InputError:
        # From cells, delta_N is good to some thousandths: see `two_harmonic_dipole`.
        found, of = two_harmonic_dipole(part.counts), "counts"
    rotation = frame_of(part.counts).to_date.T
    delta, covariance = rotation @ found.delta, rotation @ found.delta_covariance @ rotation.T
    entry = vector_entry(delta[:2], covariance[:2, :2], found.log10_p)
    return entry | {
        "delta": delta.tolist(),
        "delta_covariance": covariance.tolist(),
        "total_amplitude": found.total_amplitude,
        "declination_deg_of_maximum": math.degrees(math.atan2(delta[2], math.hypot(*delta[:2]))),
        "mean_cos_declination": found.mean_cos_declination,
        "mean_sin_zenith": found.mean_sin_zenith,
        "of": of,
    }


def _each_site(events: Events) -> list[Events]:
    found = [events.chosen(events.site == k) for k in range(len(events.sites))]
    return [part for part in found if len(part)]


def _two_harmonics_of_events(events: Events) -> TwoHarmonicDipole:
    parts = _each_site(events)
    found = []
    for p in parts:
        latitude = p.sites[p.site[0]].latitude
        found.append(two_harmonic_events(p.right_ascension, p.declination, p.zenith, p.azimuth, latitude, p.weight))
    both = combine_estimates([f.delta for f in found], [np.linalg.inv(f.delta_covariance) for f in found])
    weight = [len(p) if p.weight is None else p.weight.sum() for p in parts]
    means = np.average([(f.mean_cos_declination, f.mean_sin_zenith) for f in found], axis=0, weights=weight)
    number = float(sum(f.effective_events for f in found))
    return TwoHarmonicDipole(
        both.vector, both.covariance, float(means[0]), float(means[1]), number, both.chi2, both.ndf
    )


def east_west_halves(part: Part) -> dict:
    """East-West method with the two halves of the sky."""
    found = east_west(part.counts)
    return _of_date(part, found) | {"offsets": [p.offset for p in found.parts], "chi2": found.chi2, "ndf": found.ndf}


@dataclasses.dataclass(frozen=True)
class _Combined(EquatorialEstimate):
    vector: np.ndarray
    covariance: np.ndarray


def east_west_directions(part: Part) -> dict:
    """East-West method with optimal weights, from the cube or the events."""
    if part.counts.cube is not None:
        return _of_date(part, east_west(part.counts, "directions"))
    try:
        events = part.events()
    except InputError as error:
        raise InputError(
            f"{error}, or counts of every time bin and local cell, made with `diffcr bin --cube`"
        ) from None
    found = [
        east_west_events(p.time, p.zenith, p.azimuth, p.weight, latitude=p.sites[p.site[0]].latitude)
        for p in _each_site(events)
    ]
    both = combine_estimates([f.vector for f in found], [np.linalg.inv(f.covariance) for f in found])
    return _of_date(part, _Combined(both.vector, both.covariance)) | {"offsets": [f.offset for f in found]}


def scrambling(part: Part, window: float) -> dict:
    """Time scrambling within windows of some hours."""
    if window < DAY and part.counts.cube is None:
        raise InputError(
            f"a window of {window:g} h needs the counts of every time bin and local cell: make them with "
            "`diffcr bin --cube`"
        )
    found = scramble(part.counts, window)
    return _of_date(part, found) | {
        "window_hours": found.window,
        "raw_vector": (part.turn @ found.raw_vector).tolist(),
        "raw_amplitude": float(np.hypot(*found.raw_vector)),
        "fraction_kept": float(np.trace(found.fraction) / 2),
    }


def projection(part: Part) -> dict:
    """Projection against the isotropic background, and its harmonics; bins in the frame of the results."""
    found = right_ascension_projection(part.counts)
    return _of_date(part, found) | {
        "harmonics": [_harmonic(part, h.order, h.a, h.b, h.amplitude_error, h.log10_p) for h in found.harmonics],
        "chi2": found.chi2,
        "ndf": found.ndf,
        "p_value": found.p_value,
        "fraction_kept": float(np.trace(found.fraction) / 2),
        "mean_cos_declination": found.mean_cos_declination,
        "curve": {
            "right_ascension_deg": (np.degrees(found.bins - part.shift) % 360).tolist(),
            "relative_intensity": found.relative_intensity.tolist(),
            "error": found.error.tolist(),
            "offset": found.offset,
        },
    }
