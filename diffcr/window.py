r"""What an analysis in right ascension sees of a sky through a window of declinations.

The first harmonic of an experiment's events is not the dipole of the sky: every multipole with |m| = 1 adds to
it, through its average over the declinations that the experiment sees,

$$ h = \sum_l s_{l,\pm 1} \langle R_{l1}(\delta) \rangle_\mathrm{window}, $$

so that one sky with l = 2 and 3 gives different "dipoles" to different experiments. Averages are over the events
of an isotropic sky: solid angle times relative exposure, which is taken to be uniform in right ascension.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .errors import InputError
from .harmonics import index
from .site import Site
from .typing import AnyArray
from .units import DEGREE


def window_means(
    dec_min: float | int,
    dec_max: float | int,
    l_max: int = 3,
    exposure: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Float[Array, " l"]:
    r"""Mean over a window of the amplitude in right ascension of each multipole with m = 1.

    $$ w_l = \frac{\int \sqrt2 \lambda_{l1}(\delta)\, \omega(\delta) \cos\delta\, d\delta}
                  {\int \omega(\delta) \cos\delta\, d\delta}, \qquad
       \sqrt2 \lambda_{l1} = \sqrt{\frac{2 l + 1}{2 \pi l (l + 1)}} \cos\delta\, P_l'(\sin\delta), $$

    with the real harmonics R_{l,1} = sqrt(2) lambda_l1 cos(RA) and R_{l,-1} = sqrt(2) lambda_l1 sin(RA) of
    `diffcr.harmonics`. The first one is that of a dipole, w_1 = sqrt(3 / 4 pi) <cos dec>.

    Args:
        dec_min: Southern limit of the window [rad].
        dec_max: Northern limit [rad].
        l_max: Highest degree.
        exposure: Relative exposure per solid angle at an array of declinations [rad], of any normalisation,
            such as `site_exposure`; the same everywhere if not given.

    Returns:
        w_l for l = 1 to l_max, dimensionless.

    Raises:
        InputError: If the window is empty or reaches beyond a pole, l_max is below 1, or the exposure is
            negative, not finite, or zero throughout the window.
    """
    pole = np.pi / 2
    # A hair of slack: 90 degrees converted to radians and back may end above 90.
    if not -pole - 1e-9 <= dec_min < dec_max <= pole + 1e-9:
        raise InputError(
            f"a declination window must have -90 <= dec_min < dec_max <= 90 degrees, not dec_min = "
            f"{dec_min / DEGREE:.6g} and dec_max = {dec_max / DEGREE:.6g}: the limits are given in radians"
        )
    if isinstance(l_max, bool) or l_max < 1:
        raise InputError(f"l_max of a window must be a whole number of at least 1, not {l_max}")
    declination, weight = _nodes(float(dec_min), float(dec_max))
    weight = weight * np.cos(declination)
    if exposure is not None:
        relative = np.broadcast_to(np.asarray(exposure(declination), float), declination.shape)
        bad = np.flatnonzero(~(np.isfinite(relative) & (relative >= 0)))
        if bad.size or not relative.any():
            found = f"{relative[bad[0]]} at {declination[bad[0]] / DEGREE:.4g} degrees" if bad.size else "0 throughout"
            raise InputError(
                f"the exposure of a window must be finite, not negative and somewhere above zero, not {found}: "
                "it takes declinations in radians"
            )
        weight = weight * relative
    amplitudes = _amplitudes(declination, l_max)
    return jnp.asarray(amplitudes @ weight / np.sum(weight))


def site_exposure(site: Site, power: float | int = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    r"""Exposure against declination of a site whose acceptance falls as cos(zenith angle)^power.

    $$ \omega(\delta) = \int \cos^p\theta\, dH, \qquad
       \cos\theta = \sin\delta \sin\Phi + \cos\delta \cos\Phi \cos H, $$

    over the hour angles H within the site's range of zenith angles, for observation around the clock. p = 1 is
    a flat array at full efficiency.

    Returns:
        Function of declinations [rad], for `window_means`.

    Raises:
        InputError: If the power is negative or not finite.

    References:
        Sommers (2001), Astropart. Phys. 14, 271.
    """
    if not (np.isfinite(power) and power >= 0):
        raise InputError(f"power of an exposure must be finite and at least 0, not {power}")
    nodes, weights = np.polynomial.legendre.leggauss(32)

    def exposure(declination: np.ndarray) -> np.ndarray:
        declination = np.asarray(declination, float)[..., None]
        level = np.cos(declination) * np.cos(site.latitude)
        rise = np.sin(declination) * np.sin(site.latitude)

        def hour_angle(zenith):
            # Circumpolar where the bound is below -1, never that high where it is above 1.
            bound = (np.cos(zenith) - rise) / np.maximum(level, 1e-15)
            return np.arccos(np.clip(bound, -1, 1))

        first, last = hour_angle(site.zenith_min), hour_angle(site.zenith_max)
        angle = (first + last) / 2 + (last - first) / 2 * nodes
        cosine = np.maximum(rise + level * np.cos(angle), 0.0)
        return np.sum((last - first) * weights * cosine**power, axis=-1)

    return exposure


def site_window(site: Site, power: float | int = 1.0, l_max: int = 3) -> Float[Array, " l"]:
    """`window_means` over all that a site sees, with the exposure of `site_exposure`."""
    south = max(site.latitude - site.zenith_max, -np.pi / 2)
    north = min(site.latitude + site.zenith_max, np.pi / 2)
    return window_means(south, north, l_max, site_exposure(site, power))


def first_harmonic(
    multipoles: Float[AnyArray, "*#batch coefficient"], window: Float[AnyArray, "*#batch l"]
) -> Float[Array, "*batch 2"]:
    """First harmonic in right ascension that a window sees of a relative intensity.

    It is what a Rayleigh analysis finds with uniform exposure in right ascension, the mean of 2 cos(RA) and of
    2 sin(RA) over the events, to first order in the anisotropy (multipoles with m = 0 change the number of
    events only at second order). A pure dipole gives <cos dec> (delta_0h, delta_6h).

    Args:
        multipoles: Real multipoles of the relative intensity in the order of `diffcr.harmonics`; the monopole
            is not looked at.
        window: w_l from `window_means`, to the multipoles' highest degree at least. Leading axes broadcast, so
            that each of many points may have its window.

    Returns:
        (x, y) towards RA 0 h and 6 h: amplitude hypot(x, y), phase atan2(y, x).

    Raises:
        InputError: If the multipoles reach beyond the degrees of the window, or are no whole set of degrees.
    """
    multipoles, window = jnp.asarray(multipoles), jnp.asarray(window)
    l_max = math.isqrt(multipoles.shape[-1]) - 1
    if (l_max + 1) ** 2 != multipoles.shape[-1]:
        raise InputError(f"multipoles must have 1, 4, 9, ... entries along the last axis, not {multipoles.shape[-1]}")
    if l_max > window.shape[-1]:
        raise InputError(
            f"the multipoles reach l = {l_max}, but the window only l = {window.shape[-1]}: "
            f"compute it with l_max = {l_max}"
        )
    places = np.array([[index(l, 1), index(l, -1)] for l in range(1, l_max + 1)], int).reshape(-1, 2)
    return jnp.sum(multipoles[..., places] * window[..., :l_max, None], axis=-2)


def projected(
    multipoles: Float[AnyArray, "*#batch coefficient"], window: Float[AnyArray, "*#batch l"]
) -> Float[Array, "*batch 2"]:
    """Equatorial dipole that an analysis reports which takes the sky for a pure dipole.

    It is `first_harmonic` over <cos dec>: (delta_0h, delta_6h) where the sky is one. Arguments and errors are
    those of `first_harmonic`.
    """
    return first_harmonic(multipoles, window) / mean_cosine(window)[..., None]


def mean_cosine(window: Float[AnyArray, "*batch l"]) -> Float[Array, "*batch"]:
    """<cos dec> of a window of `window_means`: the part of an equatorial dipole in its first harmonic."""
    return jnp.asarray(window)[..., 0] * math.sqrt(4 * math.pi / 3)


def _amplitudes(declination: np.ndarray, l_max: int) -> np.ndarray:
    """R_{l,1} over cos(RA) for l = 1 to l_max, shape (l, declination)."""
    degree = np.arange(1, l_max + 1)
    slopes = [np.polynomial.legendre.Legendre.basis(l).deriv()(np.sin(declination)) for l in degree]
    return np.sqrt((2 * degree + 1) / (2 * np.pi * degree * (degree + 1)))[:, None] * np.cos(declination) * slopes


def _nodes(low: float, high: float, panels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of many short panels, for exposures that have kinks."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    width = (high - low) / panels
    places = low + width * (np.arange(panels)[:, None] + (1 + nodes) / 2)
    return places.ravel(), np.tile(weights * width / 2, panels)
