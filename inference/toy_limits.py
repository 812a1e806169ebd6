"""Whether upper limits of many toys hold the truth, without the root that each limit is."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from .dipole import _NODES, _WEIGHTS, _null_quantile

_ROWS = 20_000
"""Toys at once: the integrand has 120 nodes each."""


def limits_hold(
    estimates: Float[np.ndarray, "toy 2"],
    covariances: Float[np.ndarray, "toy 2 2"],
    true_amplitude: float,
    level: float,
) -> Bool[np.ndarray, " toy"]:
    """Whether `Dipole.upper_limit(level)` of each estimate is not below the true amplitude.

    The limit is where the probability of a shorter measured dipole has fallen to 1 - level; it falls as the true
    amplitude grows, so the limit is not below the truth where that probability is at least 1 - level at the truth.

    Args:
        estimates: (delta_0h, delta_6h) of each toy.
        covariances: Their covariances.
        true_amplitude: Length of the true dipole.
        level: Confidence level, such as 0.95.
    """
    if true_amplitude == 0:
        return np.ones(len(estimates), bool)
    minor, major = np.sqrt(np.linalg.eigvalsh(covariances)).T
    ratio = minor / major
    measured = np.maximum(np.hypot(*estimates.T) / major, _floor(ratio))
    held = np.empty(len(estimates), bool)
    for first in range(0, len(estimates), _ROWS):
        part = slice(first, first + _ROWS)
        held[part] = _length_cdf(measured[part], true_amplitude / major[part], ratio[part]) >= 1 - level
    return held


def _floor(ratio: Float[np.ndarray, " toy"]) -> Float[np.ndarray, " toy"]:
    """`_null_quantile` of each ratio of the axes, interpolated: it is smooth, and each value is a root."""
    if ratio.size == 0:
        return ratio
    grid = np.linspace(ratio.min(), ratio.max(), 65)
    return np.interp(ratio, grid, [_null_quantile(float(r)) for r in grid])


def _length_cdf(length, true, ratio):
    """P(|x| <= length) for x normal about (true, 0) with standard deviations (1, ratio), of each toy."""
    end = np.arcsin(np.minimum(1.0, 9 * ratio / np.maximum(length, 1e-300)))[:, None]
    angle, weight = end * _NODES, end * _WEIGHTS
    reach = length[:, None] * np.cos(angle)
    inside = special.ndtr(reach - true[:, None]) - special.ndtr(-reach - true[:, None])
    across = length[:, None] * np.sin(angle) / ratio[:, None]
    density = np.exp(-0.5 * across**2) / np.sqrt(2 * np.pi)
    return np.sum(weight * density * inside * reach / ratio[:, None], axis=1)
