"""The equatorial dipole as an estimate: amplitude, phase, their errors, Rice limits, significance."""

import dataclasses
import math

import numpy as np
from scipy import optimize, special, stats

LN10 = math.log(10)


@dataclasses.dataclass(frozen=True)
class Dipole:
    """Dipole vector of the relative intensity with its covariance; it points to the excess.

    Attributes:
        delta: (delta_0h, delta_6h) or, where the exposure is known, (delta_0h, delta_6h, delta_N).
        covariance: Its covariance, shape (2, 2) or (3, 3).
    """

    delta: np.ndarray
    covariance: np.ndarray

    @property
    def equatorial(self) -> np.ndarray:
        """(delta_0h, delta_6h)."""
        return self.delta[:2]

    @property
    def amplitude(self) -> float:
        """Length of the equatorial projection, hypot(delta_0h, delta_6h)."""
        return float(np.hypot(*self.equatorial))

    @property
    def right_ascension(self) -> float:
        """Phase atan2(delta_6h, delta_0h) in [0, 2 pi) [rad]."""
        return float(np.arctan2(self.delta[1], self.delta[0]) % (2 * np.pi))

    @property
    def amplitude_error(self) -> float:
        """Standard error along the measured direction."""
        direction = np.array([np.cos(self.right_ascension), np.sin(self.right_ascension)])
        return float(np.sqrt(direction @ self.covariance[:2, :2] @ direction))

    @property
    def amplitude_debiased(self) -> float:
        """sqrt(max(0, A^2 - trace of the covariance)): its square is unbiased for the true A^2 where positive."""
        return math.sqrt(max(0.0, self.amplitude**2 - float(np.trace(self.covariance[:2, :2]))))

    @property
    def right_ascension_error(self) -> float:
        """Half-width of the central 68.27 % interval of the phase [rad], for a flat prior of the components.

        It is sigma / A for a significant dipole, and 0.6827 pi where the phase is unknown.
        """
        return phase_error(self.equatorial, self.covariance[:2, :2])

    @property
    def rice_sigma(self) -> float:
        """Scatter of one component, along the worse axis of the covariance."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance[:2, :2])[-1]))

    def upper_limit(self, level: float) -> float:
        """Upper limit of the true equatorial amplitude at confidence `level` (Rice; see `rice_upper_limit`)."""
        return rice_upper_limit(self.amplitude, self.rice_sigma, level)


def rice_upper_limit(amplitude: float, sigma: float, level: float) -> float:
    """Largest true amplitude for which the measured one, or a smaller one, has probability 1 - level.

    The measured amplitude of a vector with independent normal errors sigma follows Rice's distribution. A
    downward fluctuation would make the limit arbitrarily small, or empty; the measured amplitude is
    therefore not taken smaller than its 16 % quantile without a dipole, 0.5905 sigma (power-constrained limit,
    Cowan et al. 2011, arXiv:1105.3166). Coverage is `level` where the constraint does not act, more where it does.
    """
    if not sigma > 0:
        return float("nan")
    measured = max(amplitude / sigma, math.sqrt(-2 * math.log1p(-0.16)))
    span = measured + 10 + stats.norm.isf(1 - level)

    def excess(true):
        return stats.ncx2.cdf(measured**2, 2, true**2) - (1 - level)

    if excess(0.0) <= 0:
        return 0.0
    return sigma * float(optimize.brentq(excess, 0.0, span, xtol=1e-10))


def phase_error(vector: np.ndarray, covariance: np.ndarray, level: float = special.erf(math.sqrt(0.5))) -> float:
    """Half-width [rad] of the interval centred on the phase that holds `level` of its probability.

    The probability density of the direction of a bivariate normal vector with the given mean and covariance,
    integrated over its length analytically and over the angle numerically.
    """
    phase = np.arctan2(vector[1], vector[0])
    turns = np.linspace(0, 1, 20001)[1:] - 0.5 / 20000
    spread = min(np.pi, 12 * np.sqrt(np.linalg.eigvalsh(covariance)[-1]) / max(np.hypot(*vector), 1e-300))
    offset = spread * turns
    inverse = np.linalg.inv(covariance)
    density = np.zeros_like(offset)
    for sign in (1, -1):
        unit = np.stack([np.cos(phase + sign * offset), np.sin(phase + sign * offset)])
        a = np.einsum("ia,ij,ja->a", unit, inverse, unit)
        b = np.einsum("ia,ij,j->a", unit, inverse, vector)
        # integral over r > 0 of r exp(-(a r^2 - 2 b r)/2), times the constant exp(-c/2) put inside the exponent
        x = b / np.sqrt(a)
        c = vector @ inverse @ vector
        gauss = np.exp(np.clip((x**2 - c) / 2, -700, 0))
        density += (np.exp(-c / 2) + np.sqrt(2 * np.pi) * x * gauss * special.ndtr(x)) / a
    cumulative = np.cumsum(density)
    return float(np.interp(level, cumulative / cumulative[-1], offset))


def log10_p_value(test_statistic: float, degrees_of_freedom: float) -> float:
    """log10 of the chance probability of a chi-squared test statistic; exp(-TS/2) for two degrees of freedom.

    Finite for any test statistic: where the survival function underflows, its asymptotic series is used.
    """
    if test_statistic <= 0:
        return 0.0
    if degrees_of_freedom == 2:
        return -test_statistic / 2 / LN10
    log_p = stats.chi2.logsf(test_statistic, degrees_of_freedom)
    if not np.isfinite(log_p):
        half, x = degrees_of_freedom / 2, test_statistic / 2
        log_p = (half - 1) * math.log(x) - x - special.gammaln(half) + math.log1p((half - 1) / x)
    return float(log_p) / LN10


def significance_sigma(log10_p: float) -> float:
    """Two-sided Gaussian significance z with 2 Phi(-z) = 10**log10_p, computed in logarithms."""
    target = log10_p * LN10 - math.log(2)
    if target >= math.log(0.5):
        return 0.0
    upper = math.sqrt(-2 * target) + 1
    return float(optimize.brentq(lambda z: special.log_ndtr(-z) - target, 0.0, upper, xtol=1e-12))
