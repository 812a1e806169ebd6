"""Whether one dipole describes all periods: constancy and drift of an estimate, year by year or season by season."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from diffcr.clock import julian_year
from diffcr.errors import InputError

from .data import Counts
from .dipole import Dipole, log10_p_value
from .drift import Drift, linear_drift, of_epoch
from .estimators import rayleigh
from .fit import fit

PERIODS = ("year", "season", "month")
"""Calendar years (UTC); seasons and months fold all years, season 0 is December to February."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The dipole of one period.

    Attributes:
        label: Of the period.
        time: Mean time of its events [Julian year]; NaN where a period has no place on the line of time, as a season.
        vector: (delta_0h, delta_6h), shape (2,).
        covariance: Its covariance, shape (2, 2).
    """

    label: str
    time: float
    vector: Float[np.ndarray, "2"]
    covariance: Float[np.ndarray, "2 2"]


@dataclasses.dataclass(frozen=True)
class Stability:
    """One dipole for all periods, and one that drifts.

    Attributes:
        estimates: Of the periods.
        mean: Common dipole, weighted by the inverse covariances, shape (2,).
        mean_covariance: Its covariance, shape (2, 2).
        chi2: Of the estimates about the common dipole.
        drift: The straight line through them (see `drift.Drift`), or None where fewer than three have a time.
        chi2_drift: Of the estimates about that line; None without it.
    """

    estimates: tuple[Estimate, ...]
    mean: Float[np.ndarray, "2"]
    mean_covariance: Float[np.ndarray, "2 2"]
    chi2: float
    drift: Drift | None
    chi2_drift: float | None

    @property
    def degrees_of_freedom(self) -> int:
        """Of `chi2`: two for each period, less two."""
        return 2 * (len(self.estimates) - 1)

    @property
    def p_value(self) -> float:
        """Probability of such a chi2 for a constant dipole."""
        return float(stats.chi2(self.degrees_of_freedom).sf(self.chi2))

    @property
    def log10_p(self) -> float:
        """log10 of `p_value`, finite for any chi2."""
        return log10_p_value(self.chi2, self.degrees_of_freedom)

    @property
    def drift_p_value(self) -> float | None:
        """Probability of such a drift vector, or a larger one, for a constant dipole: exp(-chi2 / 2)."""
        if self.drift is None:
            return None
        rate, covariance = self.drift.rate, self.drift.covariance[2:, 2:]
        return float(np.exp(-rate @ np.linalg.solve(covariance, rate) / 2))

    @property
    def drift_interval_95(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval of the change per year along the mean dipole."""
        if self.drift is None:
            return None
        value, error = self.drift.along
        half = float(stats.norm.isf(0.025)) * error
        return value - half, value + half

    @property
    def drift_limit_95(self) -> float | None:
        """95 % upper limit of the length of the change per year, in any direction (Rice, see `Dipole.upper_limit`)."""
        if self.drift is None:
            return None
        return Dipole(self.drift.rate, self.drift.covariance[2:, 2:]).upper_limit(0.95)

    def as_dict(self) -> dict:
        """For JSON."""
        out = {
            "periods": [
                {
                    "label": e.label,
                    "time": e.time if np.isfinite(e.time) else None,
                    "dipole": e.vector.tolist(),
                    "covariance": e.covariance.tolist(),
                }
                for e in self.estimates
            ],
            "mean": self.mean.tolist(),
            "mean_covariance": self.mean_covariance.tolist(),
            "chi2": self.chi2,
            "degrees_of_freedom": self.degrees_of_freedom,
            "p_value": self.p_value,
            "log10_p": self.log10_p,
        }
        if self.drift is None:
            return out | {"drift": None}
        value, error = self.drift.along
        return out | {
            "drift": {
                "year": self.drift.year,
                "rate": self.drift.rate.tolist(),
                "rate_covariance": self.drift.covariance[2:, 2:].tolist(),
                "p_value": self.drift_p_value,
                "chi2": self.chi2_drift,
                "along_mean": value,
                "along_mean_error": error,
                "along_mean_interval_95": list(self.drift_interval_95),
                "along_mean_limit_95": self.drift.limit_95,
                "limit_95": self.drift_limit_95,
            }
        }


def stability(estimates: Sequence[Estimate]) -> Stability:
    """Generalised least squares of one dipole, and of one that changes linearly with time, to independent estimates.

    Args:
        estimates: Of at least two periods; those with a time of their own, at least three, give the drift.

    Raises:
        InputError: If there are fewer than two, or a covariance is not positive definite.
    """
    estimates = tuple(estimates)
    if len(estimates) < 2:
        raise InputError(f"stability needs at least two periods with events, there are {len(estimates)}")
    for each in estimates:
        if not (np.all(np.isfinite(each.vector)) and _positive(each.covariance)):
            raise InputError(
                f"the dipole of period {each.label} has no positive definite covariance: join it with a neighbour"
            )
    vectors = np.stack([e.vector for e in estimates])
    weights = np.linalg.inv(np.stack([e.covariance for e in estimates]))
    covariance = np.linalg.inv(weights.sum(axis=0))
    mean = covariance @ np.einsum("epq,eq->p", weights, vectors)
    off = vectors - mean
    chi2 = float(np.einsum("ep,epq,eq->", off, weights, off))
    return Stability(estimates, mean, covariance, chi2, *_line([e for e in estimates if np.isfinite(e.time)]))


def stability_of_counts(counts: Counts) -> Stability:
    """Fit one dipole per epoch, each with its own rates and acceptances, and compare them.

    Args:
        counts: With epochs, such as those of `--epochs yearly`; all observatories and energies of one share a dipole.

    Raises:
        InputError: If there are fewer than two epochs with events, or one cannot be fitted.
    """
    estimates = []
    for k, label in enumerate(counts.epochs):
        if not counts.n_time[:, :, k].sum() > 0:
            continue
        part = of_epoch(counts, k)
        dipole = fit(part).require_converged().dipole
        estimates.append(Estimate(label, part.overall_epoch(), dipole.delta[:2], dipole.covariance[:2, :2]))
    return stability(estimates)


def stability_of_events(
    days: Float[np.ndarray, " event"],
    right_ascension: Float[np.ndarray, " event"],
    declination: Float[np.ndarray, " event"],
    weights: Float[np.ndarray, " event"] | None = None,
    period: str = "year",
) -> Stability:
    """Rayleigh dipoles of the events of each period, compared.

    Each is (a, b) / <cos dec> with the weighted mean cosine of all events, so that periods differ by what they see in
    right ascension only. Exposure is taken as uniform in right ascension within each period.

    Args:
        days: Days since J2000.0.
        right_ascension, declination: [rad].
        weights: Event weights; default 1.
        period: One of `PERIODS`.

    Raises:
        InputError: If the period is unknown, or fewer than two have at least two events.
    """
    if period not in PERIODS:
        raise InputError(f"unknown period {period!r}: choose one of {', '.join(PERIODS)}")
    w = np.ones_like(days) if weights is None else weights
    mean_cos = rayleigh(right_ascension, w, declination).mean_cos_declination
    index = _period_of(days, period)
    estimates = []
    for k in np.unique(index):
        mine = index == k
        if np.count_nonzero(w[mine]) < 2:
            continue
        found = rayleigh(right_ascension[mine], w[mine])
        time = float(julian_year(np.average(days[mine], weights=w[mine]))) if period == "year" else float("nan")
        vector = np.array([found.a, found.b]) / mean_cos
        estimates.append(Estimate(_name(int(k), period), time, vector, (found.sigma / mean_cos) ** 2 * np.eye(2)))
    return stability(estimates)


_SEASONS = ("December-February", "March-May", "June-August", "September-November")


def _period_of(days: np.ndarray, period: str) -> np.ndarray:
    """Calendar year, or season 0 to 3, or month 1 to 12, of days since J2000.0 (UTC)."""
    whole = np.floor(days + 0.5).astype(int)
    date = np.datetime64("2000-01-01") + whole.astype("timedelta64[D]")
    months = date.astype("datetime64[M]").astype(int)
    if period == "year":
        return months // 12 + 1970
    month = months % 12 + 1
    return month if period == "month" else month % 12 // 3


def _name(k: int, period: str) -> str:
    return _SEASONS[k] if period == "season" else str(k)


def _positive(covariance: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(covariance)) and np.linalg.eigvalsh(covariance)[0] > 0)


def _line(estimates: list[Estimate]) -> tuple[Drift | None, float | None]:
    """The drift, and chi2 about it."""
    if len(estimates) < 3:
        return None, None
    times, vectors = np.array([e.time for e in estimates]), np.stack([e.vector for e in estimates])
    found = linear_drift(times, vectors, np.stack([e.covariance for e in estimates]))
    off = vectors - found.mean - np.outer(times - found.year, found.rate)
    return found, float(np.einsum("ep,epq,eq->", off, np.linalg.inv(found.covariances), off))
