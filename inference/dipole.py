"""The equatorial dipole as an estimate: amplitude, phase, their errors, Rice limits, significance."""

import dataclasses
import functools
import math

import numpy as np
from scipy import special

LN10 = math.log(10)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(120)


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
    def axes(self) -> np.ndarray:
        """Standard deviations along the axes of the equatorial covariance, the larger first, shape (2,)."""
        return np.sqrt(np.linalg.eigvalsh(self.covariance[:2, :2])[::-1])

    def upper_limit(self, level: float) -> float:
        """Upper limit of the true equatorial amplitude at confidence `level` (Rice; see `rice_upper_limit`)."""
        return rice_upper_limit(self.amplitude, self.axes[0], level, self.axes[1])


def rice_upper_limit(amplitude: float, sigma: float, level: float, minor: float | None = None) -> float:
    """Largest true amplitude for which the measured one, or a smaller one, has probability 1 - level.

    The measured amplitude of a vector with independent normal errors sigma follows Rice's distribution; where the
    errors along the two axes differ, the true vector is taken along the worse one. A downward fluctuation would make
    the limit arbitrarily small, or empty; the measured amplitude is therefore not taken smaller than its 16 % quantile
    without a dipole, 0.5905 sigma for equal errors (power-constrained limit, Cowan et al. 2011, arXiv:1105.3166).
    Coverage is `level` where the constraint does not act, more where it does.

    Args:
        amplitude: Measured length.
        sigma: Standard error along the worse axis.
        level: Confidence level, such as 0.95.
        minor: Standard error along the better axis; default the same.
    """
    if not sigma > 0:
        return float("nan")
    ratio = 1.0 if minor is None else minor / sigma
    floor = _null_quantile(ratio)
    measured = max(amplitude / sigma, floor)
    span = measured + 10 + special.ndtri(level)
    if _length_cdf(measured, 0.0, ratio) <= 1 - level:
        return 0.0
    from scipy import optimize

    return sigma * float(
        optimize.brentq(lambda true: _length_cdf(measured, true, ratio) - (1 - level), 0.0, span, xtol=1e-10)
    )


@functools.lru_cache(maxsize=1024)
def _null_quantile(ratio: float) -> float:
    """Length that a vector without a mean exceeds with 84 % probability; sqrt(-2 ln 0.84) for ratio = 1."""
    from scipy import optimize

    return float(optimize.brentq(lambda a: _length_cdf(a, 0.0, ratio) - 0.16, 0.0, 2.0, xtol=1e-12))


def _length_cdf(length: float, true: float, ratio: float) -> float:
    """P(|x| <= length) for x normal about (true, 0) with standard deviations (1, ratio): Rice's for ratio = 1."""
    if ratio > 1 - 1e-6:
        return float(special.chndtr(length**2, 2, true**2))
    # Over the second component z = length sin(angle) / ratio, where the first lies within +- length cos(angle).
    end = np.arcsin(min(1.0, 9 * ratio / length)) if length > 0 else 0.0
    angle, weight = end * _NODES, end * _WEIGHTS
    reach = length * np.cos(angle)
    inside = special.ndtr(reach - true) - special.ndtr(-reach - true)
    density = np.exp(-0.5 * (length * np.sin(angle) / ratio) ** 2) / math.sqrt(2 * math.pi)
    return float(np.sum(weight * density * inside * reach / ratio))


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

    Finite for any test statistic: where the survival function underflows, a continued fraction is used.
    """
    if test_statistic <= 0:
        return 0.0
    if degrees_of_freedom == 2:
        return -test_statistic / 2 / LN10
    half, x = degrees_of_freedom / 2, test_statistic / 2
    survival = special.gammaincc(half, x)
    if survival > 1e-280:
        return math.log10(survival)
    return float(half * math.log(x) - x - special.gammaln(half) + math.log(_upper_gamma_ratio(half, x))) / LN10


def _upper_gamma_ratio(a: float, x: float) -> float:
    """Gamma(a, x) / (x^a e^-x) for x > a + 1: Lentz's continued fraction (Abramowitz & Stegun 6.5.31)."""
    b = x + 1 - a
    c, d = 1e300, 1 / b
    ratio = d
    for i in range(1, 10_000):
        term, b = -i * (i - a), b + 2
        d, c = 1 / (term * d + b), b + term / c
        ratio *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return ratio


def significance_sigma(log10_p: float) -> float:
    """Two-sided Gaussian significance z with 2 Phi(-z) = 10**log10_p, computed in logarithms."""
    target = log10_p * LN10 - math.log(2)
    if target >= math.log(0.5):
        return 0.0
    return -float(special.ndtri_exp(target))
