"""Power spectra and two-point correlation of one part of the data, as entries of estimates.json."""

import math
from collections.abc import Callable

import numpy as np

from diffcr.errors import InputError

from .data import Counts
from .estimate_parts import Part
from .power import Information, PowerSpectrum, power_spectrum
from .pseudo_power import (
    Block,
    CutSky,
    _by_degrees,
    _decoupling,
    decoupled_power,
    grid_rings,
    poisson_variance,
    sum_by_degree,
)
from .two_point import two_point, two_point_of_power

_DRAWS = 1000
_WIDTHS = (1, 2, 3, 5, 10)
"""Widths of bins of l that are tried until neighbouring ones can be told apart."""


def score_cut(sky: np.ndarray, background: np.ndarray, part: Counts, information: Information) -> CutSky:
    r"""`CutSky` of the map n / B - 1 of a 24 h background, weighted with the exposure: exact to first order.

    With W the expected counts per solid angle the pseudo-multipoles of the map are sum_a (n_a - B_a) R_a, which is the
    score of the likelihood: its mean is F s and its covariance F. What the background, made from the same events, took
    from signal and noise of the lowest multipoles is thus in the coupling and in the noise.

    Args:
        sky: n / B - 1, shape (ring, ra).
        background: B, in effective events, shape (ring, ra).
        part: The counts.
        information: From `sky_information`.
    """
    rings, l_max = grid_rings(part.grid, information.l_max), information.l_max
    block = Block(np.arange(len(information.degree)), information.matrix, information.score_covariance)
    l = np.arange(1, l_max + 1)
    number = 2 * l + 1
    weight = (background / part.grid.solid_angle[:, None]).ravel()
    return CutSky(
        l,
        rings,
        weight,
        poisson_variance(background).ravel(),
        (block,),
        _by_degrees(block, block.kernel**2, l_max) / number[:, None],
        sum_by_degree(np.diag(block.noise), l_max) / number,
    )


def _told_apart(make: Callable, l_max: int):
    """The result of make(bins) for the narrowest bins of l that can be told apart."""
    for width in _WIDTHS:
        bins = [(low, min(low + width - 1, l_max)) for low in range(1, l_max + 1, width)]
        try:
            return make(bins)
        except (InputError, np.linalg.LinAlgError) as error:
            failed = error
    raise failed


def pseudo(part: Part) -> dict:
    """Decoupled pseudo-C_l, with the range of isotropic skies and of Gaussian skies of the estimate."""
    sky, background = part.sky
    information = part.information
    cut = score_cut(sky, background, part.counts, information)

    def make(bins):
        first = decoupled_power(sky, cut, bins)
        signal = np.zeros(cut.l_max)
        for (low, high), value in zip(bins, first.power, strict=True):
            signal[low - 1 : high] = max(value, 0.0)
        return first.covariance, decoupled_power(sky, cut, bins, signal), signal, bins

    noise, found, signal, bins = _told_apart(make, information.l_max)
    error = np.sqrt(np.diag(noise))
    rng = np.random.default_rng(part.settings.seed)
    isotropic = _drawn(cut, bins, np.zeros(cut.l_max), information, rng)
    similar = _drawn(cut, bins, signal, information, rng)
    return {
        **_spectrum(found.low, found.high, found.power, found.covariance, noise, found.noise, found.window),
        "isotropic_68": np.quantile(isotropic, [0.16, 0.84], axis=0).tolist(),
        "isotropic_95": np.quantile(isotropic, [0.025, 0.975], axis=0).tolist(),
        "statistical_68": np.quantile(similar, [0.16, 0.84], axis=0).tolist(),
        "statistical_95": np.quantile(similar, [0.025, 0.975], axis=0).tolist(),
        "log10_p": _tail(isotropic, found.power, error),
        "background": "time scrambling, 24 h; what it removes is in the coupling and the noise",
    }


def _spectrum(low, high, power, covariance, isotropic_covariance, noise, window) -> dict:
    variance, isotropic_error = np.diag(covariance), np.sqrt(np.diag(isotropic_covariance))
    if not (np.isfinite(power).all() and np.isfinite(isotropic_error).all() and variance.min() >= 0):
        raise InputError("the errors of C_l are not finite: there are too few events for a power spectrum")
    return {
        "l_low": low.tolist(),
        "l_high": high.tolist(),
        "power": power.tolist(),
        "error": np.sqrt(np.diag(covariance)).tolist(),
        "isotropic_error": isotropic_error.tolist(),
        "power_covariance": covariance.tolist(),
        "isotropic_covariance": isotropic_covariance.tolist(),
        "noise": noise.tolist(),
        "window": window.tolist(),
    }


def _drawn(cut: CutSky, bins, signal: np.ndarray, information: Information, rng: np.random.Generator) -> np.ndarray:
    """Decoupled C_l of Gaussian skies of the given C_l and of the noise, shape (draw, bin)."""
    values, vectors = np.linalg.eigh(information.score_covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    sky = rng.standard_normal((_DRAWS, len(values))) * np.sqrt(signal[information.degree - 1])
    a = sky @ information.matrix + rng.standard_normal((_DRAWS, len(values))) @ root.T
    matrix = _decoupling(cut, bins, None)[2]
    return (sum_by_degree(a**2, cut.l_max) / (2 * cut.l + 1) - cut.noise) @ matrix.T


def _tail(draws: np.ndarray, power: np.ndarray, error: np.ndarray) -> float:
    """log10 of the fraction of isotropic skies with so large a sum of (C_l over error)^2; one more than counted."""
    own, others = np.sum((power / error) ** 2), np.sum((draws / error) ** 2, axis=1)
    return math.log10((1 + int(np.sum(others >= own))) / (1 + len(draws)))


def quadratic(part: Part) -> dict:
    """C_l by the quadratic estimator, with full covariance."""
    found = _quadratic(part)
    return _spectrum(
        found.low, found.high, found.power, found.covariance, found.isotropic_covariance, found.noise_bias, found.window
    )


def _quadratic(part: Part) -> PowerSpectrum:
    return _told_apart(lambda bins: power_spectrum(part.information, bins=bins), part.information.l_max)


def correlation(part: Part) -> dict:
    """Two-point correlation of the map, and the one that the C_l stand for on a full sky."""
    sky, background = part.sky
    grid = part.counts.grid
    step = max(6.0, 180 / grid.n_ring, 360 / grid.n_ra)
    edges = np.radians(np.linspace(0, 180, int(180 / step) + 1))
    weight = background / grid.solid_angle[:, None]
    found = two_point(sky, grid, edges, weight, poisson_variance(background))
    spectrum = _quadratic(part)
    width = spectrum.high - spectrum.low + 1
    return {
        "edges_deg": np.degrees(edges).tolist(),
        "separation_deg": np.degrees(found.separation).tolist(),
        "xi": found.xi.tolist(),
        "error": found.error.tolist(),
        "noise": found.noise.tolist(),
        "variance": found.variance,
        "xi_of_power": two_point_of_power(np.repeat(spectrum.power, width), edges).tolist(),
        "background": "time scrambling, 24 h: the lowest multipoles are reduced; xi_of_power, from C_l, is not",
    }
