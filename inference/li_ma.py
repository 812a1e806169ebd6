r"""Significance of an excess over a measured or known background, and its binomial chance probability, in logarithms.

Both rest on the deviance of observed counts n from expected ones e, 2 sum [n ln(n / e) - n + e], which is
2 sum e h(n / e - 1) with h(x) = (1 + x) ln(1 + x) - x >= 0: no large terms are subtracted from each other.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from diffcr.errors import InputError

_LN10 = math.log(10)
# Below this the incomplete beta function is at the end of its digits.
_UNDERFLOW = 1e-250
# ln n! minus Stirling's formula, as odd powers of 1 / n.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def li_ma(n_on: ArrayLike, n_off: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Signed significance of n_on counts against n_off counts of background, exposed 1 / alpha times as much.

    $$ S = \sqrt2 \left\{ n_{on} \ln\left[\frac{1+\alpha}{\alpha} \frac{n_{on}}{n_{on}+n_{off}}\right]
         + n_{off} \ln\left[(1+\alpha) \frac{n_{off}}{n_{on}+n_{off}}\right] \right\}^{1/2} $$

    negative where n_on < alpha n_off. Weighted counts: divide both by sum w^2 / sum w first. N(0, 1) for an a priori
    region with at least about ten counts on and off.

    Args:
        n_on: Counts of the region, any shape, not negative.
        n_off: Counts of the background region, broadcast against n_on.
        alpha: Exposure of the region over that of the background region, positive.

    Returns:
        Significance in standard deviations, of the broadcast shape; 0 where both counts are zero.

    Raises:
        InputError: If counts are negative or not finite, or alpha is not positive.

    References:
        Li & Ma (1983), ApJ 272, 317, equation 17.
    """
    shape, (n_on, n_off, alpha) = _broadcast(n_on=n_on, n_off=n_off, alpha=alpha)
    _require("alpha", alpha, alpha > 0, "positive: it is the exposure on over the exposure off")
    total = n_on + n_off
    excess = (n_on - alpha * n_off) / (1 + alpha)
    deviance = _deviance(excess, alpha * total / (1 + alpha)) + _deviance(-excess, total / (1 + alpha))
    return (np.sign(excess) * np.sqrt(deviance)).reshape(shape)


def li_ma_known(n_on: ArrayLike, expected: ArrayLike) -> np.ndarray:
    r"""The limit alpha -> 0 of `li_ma`, a background known without error: sqrt(2 [n ln(n / mu) - n + mu]), signed.

    Args:
        n_on: Counts of the region, any shape, not negative.
        expected: Expected background mu, broadcast against n_on, positive.

    Raises:
        InputError: If counts are negative or not finite, or the expectation is not positive.
    """
    shape, (n_on, expected) = _broadcast(n_on=n_on, expected=expected)
    _require("expected", expected, expected > 0, "positive: leave out regions without exposure")
    return (np.sign(n_on - expected) * np.sqrt(_deviance(n_on - expected, expected))).reshape(shape)


def binomial_log10_p(n_on: ArrayLike, n_total: ArrayLike, fraction: ArrayLike) -> np.ndarray:
    """log10 of the probability of n_on or more of n_total events in a region with this fraction of the exposure.

    Finite however small the probability is: there the tail is the binomial probability of n_on itself (Loader's form)
    times the continued fraction of the incomplete beta function.

    Args:
        n_on: Events in the region, whole numbers, any shape.
        n_total: All events, broadcast against n_on.
        fraction: Chance of one event to fall into the region, 0 to 1.

    Raises:
        InputError: If n_on exceeds n_total, numbers are negative, not whole or not finite, or the fraction is outside
            0 to 1.

    References:
        Loader (2000), "Fast and accurate computation of binomial probabilities"; DLMF 8.17.22.
    """
    shape, (k, n, f) = _broadcast(n_on=n_on, n_total=n_total, fraction=fraction)
    _require("n_on", k, k == np.floor(k), "a whole number; weighted events have no binomial probability")
    _require("n_total", n, n == np.floor(n), "a whole number; weighted events have no binomial probability")
    _require("n_on", k, k <= n, "at most n_total")
    _require("fraction", f, f <= 1, "between 0 and 1")
    with np.errstate(divide="ignore"):
        # P(X >= 0) = 1, where the incomplete beta function has no first argument.
        p = np.where(k > 0, special.betainc(np.maximum(k, 1), n - k + 1, f), 1.0)
        log_p = np.log(p)
    deep = (p < _UNDERFLOW) & (f > 0)
    if deep.any():
        log_p[deep] = _log_tail(k[deep], n[deep], f[deep])
    return (log_p / _LN10).reshape(shape)


def half_deviance(n_on: ArrayLike, n_total: ArrayLike, fraction: ArrayLike) -> np.ndarray:
    r"""D = n_on ln(n_on / e_on) + n_off ln(n_off / e_off) of a binomial number, e_on = n_total fraction; broadcast.

    It brackets the tail above the mean, $e^{-D} / \sqrt{8 k (1 - k/n)} \le P(X \ge k) \le e^{-D}$ for 0 < k < n (Ash
    1990, Information Theory, lemma 4.7.2). Needs 0 < fraction < 1.
    """
    n_on, n_total, fraction = np.broadcast_arrays(n_on, n_total, fraction)
    excess = n_on - n_total * fraction
    return (_deviance(excess, n_total * fraction) + _deviance(-excess, n_total * (1 - fraction))) / 2


def _broadcast(**values: ArrayLike) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Their common shape, and the arrays as rows of numbers, checked."""
    arrays = np.broadcast_arrays(*(np.asarray(v, float) for v in values.values()))
    rows = [array.ravel() for array in arrays]
    for name, row in zip(values, rows, strict=True):
        _require(name, row, np.isfinite(row) & (row >= 0), "finite and not negative")
    return arrays[0].shape, rows


def _require(name: str, values: np.ndarray, good: np.ndarray, what: str) -> None:
    bad = values[~good]
    if bad.size:
        raise InputError(f"{name} must be {what}; {bad.size} of {values.size} are not, the first is {bad[0]:g}")


def _deviance(excess: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """2 expected h(excess / expected), and 0 where nothing is expected."""
    positive = expected > 0
    x = np.divide(excess, expected, out=np.zeros_like(expected), where=positive)
    return 2 * expected * _h(np.maximum(x, -1.0))


def _h(x: np.ndarray) -> np.ndarray:
    """(1 + x) ln(1 + x) - x to full relative precision for x >= -1; about x^2 / 2 near zero."""
    small = np.abs(x) < 0.1
    inner = np.where(small, x, 0.0)
    s = inner / (2 + inner)
    s2 = s * s
    odd = 1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9 + s2 * (1 / 11 + s2 / 13))))
    # ln(1 + x) = 2 s (1 + s^2 odd), and 2 s (1 + x) - x is x s: nothing is left to cancel.
    series = inner * s + 2 * (1 + inner) * s * s2 * odd
    return np.where(small, series, special.xlog1py(1 + np.where(small, 0.0, x), np.where(small, 0.0, x)) - x)


def _log_tail(k: np.ndarray, n: np.ndarray, f: np.ndarray) -> np.ndarray:
    """ln P(X >= k) far above the mean, k >= 1: ln pmf(k) + ln(1 - f) + ln of the continued fraction."""
    rest = n - k
    inside = rest > 0
    spread = np.where(inside, n / (2 * np.pi * k * np.where(inside, rest, 1)), 1.0)
    correction = _stirling(n) - _stirling(k) - _stirling(rest)
    log_pmf = -half_deviance(k, n, f) + np.where(inside, correction + 0.5 * np.log(spread), 0.0)
    tail = np.where(inside, _beta_fraction(k, rest + 1, f) * (1 - f), 1.0)
    return log_pmf + np.log(tail)


def _stirling(n: np.ndarray) -> np.ndarray:
    """ln n! - [(n + 1/2) ln n - n + ln(2 pi) / 2]."""
    large = np.maximum(n, 16.0)
    series = sum(c / large ** (2 * i + 1) for i, c in enumerate(_STIRLING))
    few = np.clip(n, 1, 16)
    direct = special.gammaln(few + 1) - (few + 0.5) * np.log(few) + few - 0.5 * math.log(2 * np.pi)
    return np.where(n > 16, series, direct)


def _beta_fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray, steps: int = 400) -> np.ndarray:
    """Continued fraction of I_x(a, b) a B(a, b) / (x^a (1 - x)^b) by Lentz's method; for x below a / (a + b)."""
    tiny = 1e-300
    c = np.ones_like(x)
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    value = d
    for m in range(1, steps):
        change = np.ones_like(x)
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 + step * d
            d = 1 / np.where(np.abs(d) < tiny, tiny, d)
            c = 1 + step / c
            c = np.where(np.abs(c) < tiny, tiny, c)
            change = c * d
            value = value * change
        if np.all(np.abs(change - 1) < 1e-14):
            break
    return value
