"""Whether the dipole changes with time: one dipole per epoch, and a straight line through them."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import stats

from diffcr.errors import InputError

from .data import MARGINALS, Counts
from .fit import fit


@dataclasses.dataclass(frozen=True)
class Drift:
    """Dipoles (delta_0h, delta_6h) of epochs, and the line delta(t) = mean + rate (t - year) through them.

    Attributes:
        years: Mean epoch of each, shape (epoch,).
        dipoles: Fitted dipoles, J2000, shape (epoch, 2).
        covariances: Their covariances, shape (epoch, 2, 2).
        year: Where mean and rate are uncorrelated on average.
        mean: Dipole at `year`, shape (2,).
        rate: Change per year, shape (2,).
        covariance: Of (mean, rate), shape (4, 4).
        chi2: Of the epochs' dipoles about their common mean (no drift); degrees of freedom 2 (epoch - 1).
    """

    years: Float[np.ndarray, " epoch"]
    dipoles: Float[np.ndarray, "epoch 2"]
    covariances: Float[np.ndarray, "epoch 2 2"]
    year: float
    mean: Float[np.ndarray, "2"]
    rate: Float[np.ndarray, "2"]
    covariance: Float[np.ndarray, "4 4"]
    chi2: float

    @property
    def along(self) -> tuple[float, float]:
        """Change per year along the mean dipole, and its error."""
        unit = self.mean / np.linalg.norm(self.mean)
        return float(self.rate @ unit), float(np.sqrt(unit @ self.covariance[2:, 2:] @ unit))

    @property
    def limit_95(self) -> float:
        """95 % limit on the size of the change per year along the mean dipole, for a normal of this mean and error."""
        value, error = self.along
        inside = lambda x: stats.norm.cdf(x, value, error) - stats.norm.cdf(-x, value, error)
        low, high = 0.0, abs(value) + 10 * error
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if inside(middle) < 0.95 else (low, middle)
        return high

    @property
    def p_value(self) -> float:
        """Probability of such a chi2 for a dipole that does not change."""
        return float(stats.chi2(2 * (len(self.years) - 1)).sf(self.chi2))


def drift(counts: Counts) -> Drift:
    """Fit one dipole per epoch, each with its own rate and acceptance, and a line through them.

    Args:
        counts: With epochs, such as those of `--epochs yearly`. All observatories and energies of an epoch share a
            dipole.

    Raises:
        InputError: If there are fewer than three epochs with events, or one cannot be fitted.
    """
    places = [k for k in range(len(counts.epochs)) if counts.n_time[:, :, k].sum() > 0]
    if len(places) < 3:
        raise InputError(
            f"a drift needs at least three epochs with events, there are {len(places)}; bin with yearly epochs"
        )
    results = [fit(of_epoch(counts, k)) for k in places]
    weights = [counts.n_time[:, :, k].sum(axis=-1) for k in places]
    years = [float(np.nansum(w * counts.mean_epoch[:, :, k]) / w.sum()) for w, k in zip(weights, places, strict=True)]
    deltas = np.stack([r.dipole.delta[:2] for r in results])
    return linear_drift(np.array(years), deltas, np.stack([r.dipole.covariance[:2, :2] for r in results]))


def linear_drift(
    years: Float[np.ndarray, " epoch"],
    dipoles: Float[np.ndarray, "epoch 2"],
    covariances: Float[np.ndarray, "epoch 2 2"],
) -> Drift:
    """Generalised least squares of delta(t) = mean + rate (t - year) to dipoles with covariances."""
    weights = np.linalg.inv(covariances)
    year = float(np.average(years, weights=np.trace(weights, axis1=1, axis2=2)))
    design = np.stack([np.hstack([np.eye(2), (t - year) * np.eye(2)]) for t in years])
    information = np.einsum("epn,epq,eqm->nm", design, weights, design)
    covariance = np.linalg.inv(information)
    solution = covariance @ np.einsum("epn,epq,eq->n", design, weights, dipoles)
    common = np.linalg.solve(weights.sum(axis=0), np.einsum("epq,eq->p", weights, dipoles))
    off = dipoles - common
    chi2 = float(np.einsum("ep,epq,eq->", off, weights, off))
    return Drift(years, dipoles, covariances, year, solution[:2], solution[2:], covariance, chi2)


def of_epoch(counts: Counts, k: int) -> Counts:
    """The counts of one epoch alone."""
    arrays = {name: getattr(counts, name)[:, :, k : k + 1] for name in MARGINALS}
    others = {
        name: getattr(counts, name)[:, :, k : k + 1]
        for name in ("num_events", "mean_epoch", "livetime", "span", "moments")
    }
    w2 = {name: values[:, :, k : k + 1] for name, values in counts.w2.items()}
    return counts.replace(epochs=(counts.epochs[k],), w2=w2, **arrays, **others)
