"""Calibration of the fit's errors: simulated skies with known truth, fitted many at a time."""

import dataclasses
import functools

import jax
import numpy as np

from diffcr.counts import draw_marginals
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis

from .dipole import Dipole
from .likelihood import form_marginals
from .multipoles import free_multipoles, make_block, maximise, ring_modes
from .weights import sandwich_of

_NORM = np.sqrt(4 * np.pi / 3)


@dataclasses.dataclass(frozen=True)
class Toys:
    """Dipole fits of simulated skies.

    Attributes:
        truth: True (delta_0h, delta_6h).
        estimates: Fitted (delta_0h, delta_6h), shape (toy, 2).
        covariances: Their covariances, shape (toy, 2, 2).
        test_statistics: 2 ln(L / L_isotropic), shape (toy,).
        converged: Shape (toy,).
    """

    truth: np.ndarray
    estimates: np.ndarray
    covariances: np.ndarray
    test_statistics: np.ndarray
    converged: np.ndarray

    @property
    def pulls(self) -> np.ndarray:
        """(estimate - truth) / error of each component, shape (toy, 2)."""
        errors = np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))
        return (self.estimates - self.truth) / errors

    def chi2_p_value(self) -> float:
        """Kolmogorov-Smirnov probability that the test statistics are chi-squared with two degrees of freedom."""
        from scipy import stats

        return float(stats.kstest(self.test_statistics, stats.chi2(2).cdf).pvalue)

    def limit_coverage(self, level: float) -> float:
        """Fraction of skies whose upper limit at `level` is not below the true amplitude."""
        truth = float(np.hypot(*self.truth))
        limits = []
        for delta, covariance in zip(self.estimates, self.covariances, strict=True):
            dipole = Dipole(delta, covariance)
            limits.append(dipole.upper_limit(level))
        return float(np.mean(np.array(limits) >= truth))

    def interval_coverage(self, level: float) -> float:
        """Fraction of skies whose joint confidence ellipse at `level` holds the true vector."""
        from scipy import stats

        difference = self.estimates - self.truth
        chi2 = np.einsum("ti,tij,tj->t", difference, np.linalg.inv(self.covariances), difference)
        return float(np.mean(chi2 < stats.chi2(2).ppf(level)))


def dipole_toys(
    grid: RingGrid,
    acceptance: np.ndarray,
    rate: np.ndarray,
    dipole: tuple[float, float],
    num_toys: int,
    seed: int,
    weight_spread: float = 0.0,
    rate_bins: int | None = None,
    batch: int = 50,
) -> Toys:
    """Draw and fit skies with a dipole; the acceptance and every rate are free in each fit.

    Args:
        grid: The ring grid.
        acceptance: True relative acceptance (ring, hour_angle), sums to 1.
        rate: True expected counts per time bin, shape (time,).
        dipole: True (delta_0h, delta_6h).
        num_toys: Number of skies.
        seed: Of the random numbers.
        weight_spread: Spread of the logarithm of log-normal weights; 0 for none.
        rate_bins: Free rates; default one per time bin.
        batch: Skies fitted at once.
    """
    rng = np.random.default_rng(seed)
    truth = np.array([*dipole, 0.0])
    sky = 1 + np.asarray(synthesis(dipole_to_coefficients(truth), grid, cell_average=True))
    rings = tuple(int(r) for r in np.flatnonzero(acceptance.sum(axis=1) > 0))
    modes = ring_modes(grid, rings, *free_multipoles(1))
    exposed = np.isin(np.arange(grid.n_ring), rings)
    groups = rate_bins or grid.n_ra
    out = []
    for first in range(0, num_toys, batch):
        drawn = [draw_marginals(rng, rate, acceptance, sky, weight_spread) for _ in range(min(batch, num_toys - first))]
        data = [form_marginals(m.sky, m.time, m.local, groups, exposed) for m, _, _ in drawn]
        stacked = jax.tree.map(lambda *x: np.stack(x), *data)
        squares = None
        if weight_spread > 0:
            squares = tuple(np.stack([getattr(q, n) for _, q, _ in drawn]) for n in ("time", "local"))
            squares = (squares[0], squares[1][:, list(rings)])
        out.append(_fit_many(stacked, squares, modes, groups))
    theta, covariance, statistic, converged = (np.concatenate(x) for x in zip(*out, strict=True))
    order = [1, 0]  # (1, 1) is delta_0h, (1, -1) is delta_6h
    return Toys(
        truth=np.array(dipole),
        estimates=theta[:, order] / _NORM,
        covariances=covariance[:, order][:, :, order] / _NORM**2,
        test_statistics=statistic,
        converged=converged,
    )


@functools.partial(jax.jit, static_argnames="groups")
def _fit_many(data, squares, modes, groups):
    def one(d, w2):
        block = make_block(d, modes, groups)
        prior = jax.numpy.zeros(2)
        best = maximise((block,), prior)
        statistic = 2 * best.gain
        covariance = jax.numpy.linalg.inv(best.information)
        if w2 is not None:
            covariance, scale = sandwich_of(best, (modes,), (block,), (), (w2,), prior)
            statistic = statistic * scale
        good = best.positive & (best.decrement < 1e-3)
        return best.coefficients, covariance, statistic, good

    return jax.vmap(one)(data, squares)
