r"""Integrals $\int w(\mu)\, (1 - \mu^2) / D\, d\mu$ over pitch angles, and whether D_mumu lets them exist.

All that follows from a coefficient D of pitch-angle diffusion is of this form, with smooth w. D vanishes at mu = +-1,
and may at mu = 0, where the integral exists as long as D falls less than linearly.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError, is_known

Scattering = Callable[[Float[Array, " node"]], Float[Array, " node"]]
"""D_mumu as a function of mu, vectorised, in units of nu or D_0 [1/time]."""


# Quadrature ---------------------------------------------------------------------------------------------------

STEP = 0.025
"""Between nodes, in the variable of double-exponential quadrature."""

_FIRST = -6.0
"""Nodes begin there, where x = 1e-275; the rest of an integrand is extrapolated."""


@functools.cache
def nodes(step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Double-exponential nodes mu and weights of either half of [-1, 1], both (half, node), from mu = 0 outwards.

    The positive half is first: its nodes serve any interval. They take integrands that are singular at either end.

    References:
        Takahasi & Mori (1974), Publ. RIMS 9, 721.
    """
    t = np.arange(_FIRST, 3.4, step)
    x = 1 / (1 + np.exp(-np.pi * np.sinh(t)))
    weight = step * np.pi * np.cosh(t) * x * (1 - x)
    return _fixed(np.stack([x, -x])), _fixed(np.stack([weight, weight]))


@functools.cache
def slopes(l_max: int) -> np.ndarray:
    """(1 - mu^2) P_l' / (l (l + 1)) of l = 1 .. l_max at `nodes()`, shape (l_max, half, node)."""
    mu, _ = nodes()
    slope = [np.zeros_like(mu), np.ones_like(mu)]
    below, legendre = np.ones_like(mu), mu
    for l in range(1, l_max):
        slope.append(slope[l - 1] + (2 * l + 1) * legendre)
        below, legendre = legendre, ((2 * l + 1) * mu * legendre - l * below) / (l + 1)
    degree = np.arange(1, l_max + 1)[:, None, None]
    return _fixed((1 - mu**2) * np.stack(slope[1:]) / (degree * (degree + 1)))


def ratios(
    scattering: Scattering, mu: Float[ArrayLike, "*batch node"], step: float = STEP
) -> Float[Array, "*batch node"]:
    """(1 - mu^2) / D at `nodes(step)` of intervals; zero where 1 - mu^2 has rounded to zero, where nothing is missed.

    The first value stands also for all that is nearer to the end of its interval, where a power of the distance is
    taken to go on: nothing of an integrand |mu|^-0.999 is lost. Where the integral diverges the sum is infinite, or
    above 1e80.
    """
    mu = jnp.asarray(mu)
    value = scattering(mu)
    inside = (1 - mu**2 > 1e-14) & (value > 0)
    ratio = jnp.where(inside, (1 - mu**2) * _inverse(jnp.where(inside, value, 1.0)), 0.0)
    positive = (ratio[..., :1] > 0) & (ratio[..., 1:2] > 0)
    first, second = (jnp.where(positive, each, 1.0) for each in (ratio[..., :1], ratio[..., 1:2]))
    here, beyond = _FIRST + step, _FIRST - step * np.arange(1, 6 / step)
    # Logarithms of x, over that of the first.
    apart, further = (math.pi * (np.sinh(t) - math.sinh(_FIRST)) for t in (here, beyond))
    growth = 1 + (jnp.log(second) - jnp.log(first)) / apart
    converges = growth > 1e-7
    tail = np.cosh(beyond) / math.cosh(_FIRST) * jnp.exp(jnp.where(converges, growth, 1.0) * further)
    all_there = jnp.where(converges, 1 + jnp.sum(tail, axis=-1, keepdims=True), jnp.inf)
    return jnp.concatenate([ratio[..., :1] * jnp.where(positive, all_there, 1.0), ratio[..., 1:]], axis=-1)


@jax.custom_jvp
def _inverse(x: Array) -> Array:
    """1 / x whose derivative forms no x^2, which is zero in floating point for x = 1e-200."""
    return 1 / x


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    inverse = _inverse(primals[0])
    return inverse, -inverse * (tangents[0] * inverse)


def _fixed(table: np.ndarray) -> np.ndarray:
    table.flags.writeable = False
    return table


# Checks -------------------------------------------------------------------------------------------------------


def require_scattering(scattering: Scattering, resolved: bool = True) -> Scattering:
    """The same D_mumu, once its values were looked at; one whose parameters are traced passes.

    Args:
        scattering: D_mumu.
        resolved: Whether to refuse features that the quadrature does not resolve, too.

    Raises:
        InputError: If D is not finite and positive inside (-1, 1); if it vanishes so fast at mu = 0 or anywhere else
            that kappa_par diverges, or at mu = +-1 that the profile does; if it vanishes elsewhere than at 0 and +-1 or
            has other features that the quadrature does not resolve, of about 0.02 in mu.
    """
    mu = np.concatenate([nodes()[0].ravel(), np.linspace(-1, 1, 4000)])
    mu = np.unique(mu[(np.abs(mu) < 1 - 1e-9) & (np.abs(mu) > 1e-60)])
    values = scattering(jnp.asarray(mu))
    if not is_known(values):
        return scattering
    values = np.asarray(values)
    if values.shape != mu.shape:
        raise InputError(f"D_mumu must give one value for each mu: it makes shape {values.shape} of {mu.shape}")
    _require_positive(mu, values)
    _require_steepness(scattering, 0.0, 1e-40)
    for least in _deepest(scattering, mu, values / (1 - mu**2)):
        _require_steepness(scattering, least, 1e-9)
    _require_ends(scattering)
    if not resolved:
        return scattering
    mu, weight = nodes()
    part = weight * (1 - mu**2) * np.asarray(ratios(scattering, mu))
    # Without every second node: an error far above that of all.
    error = abs(2 * part[:, ::2].sum() / part.sum() - 1)
    if not error < 0.01:
        raise InputError(
            f"D_mumu has features too narrow in mu for kappa_par to be known (to {error:.1g}): the quadrature resolves "
            "about 0.02 in mu, and more only near 0 and +-1; give smoother values, or a larger floor"
        )
    return scattering


def _require_positive(mu: np.ndarray, values: np.ndarray) -> None:
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        raise InputError(
            f"D_mumu must be positive inside (-1, 1), not {values[bad[0]] + 0.0:g} at mu = {mu[bad[0]]:.3g}: no "
            "particle turns round there, and kappa_par diverges as in quasi-linear theory with q >= 2; add a floor"
        )


def _deepest(scattering: Scattering, mu: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Places of the deep minima of D / (1 - mu^2) but the one at mu = 0, to rounding: at most ten."""
    inner = values[1:-1]
    found = (inner <= values[:-2]) & (inner < values[2:]) & (inner < 0.1 * np.median(values)) & (abs(mu[1:-1]) > 1e-6)
    found = np.flatnonzero(found)
    found = found[np.argsort(inner[found])][:10]
    low, high = mu[found], mu[found + 2]
    for _ in range(15):
        at = low + (high - low) * np.linspace(0, 1, 21)[:, None]
        values = np.asarray(scattering(jnp.asarray(at.ravel()))).reshape(at.shape)
        if np.any(values < 0):
            _require_positive(at.ravel(), values.ravel())
        place = np.argmin(values / (1 - at**2), axis=0)
        low, high = (at[np.clip(place + step, 0, 20), np.arange(found.size)] for step in (-1, 1))
    return (low + high) / 2


def _require_steepness(scattering: Scattering, centre: float, near: float) -> None:
    """Refuse a D that falls linearly or faster towards a mu, or at all elsewhere than at 0."""
    at = centre + near * np.array([[1, 10], [-1, -10]])
    values = np.asarray(scattering(jnp.asarray(at.ravel()))).reshape(at.shape)
    power = np.max(np.log10(values[:, 1] / values[:, 0]))
    distance = "|mu|" if centre == 0 else f"|mu - ({centre:.3g})|"
    if power > 0.9999:
        raise InputError(
            f"D_mumu falls as {distance}^{power:.2f} towards mu = {centre:.3g}, where kappa_par diverges for powers "
            f"of 1 or more (q >= 2 of quasi-linear theory, here q = {1 + power:.2f}); give a smaller q, or a floor"
        )
    if centre and power > 0.05:
        raise InputError(
            f"D_mumu falls as {distance}^{power:.2f} towards mu = {centre:.3g}, which the quadrature resolves only "
            "at mu = 0 and +-1: give a floor"
        )


def _require_ends(scattering: Scattering) -> None:
    """Refuse a D that falls quadratically or faster towards mu = +-1: the profile is not finite there."""
    for end in (1.0, -1.0):
        values = np.asarray(scattering(jnp.asarray(end * (1 - np.array([1e-6, 1e-5])))))
        power = np.log10(values[1] / values[0])
        if power > 1.999:
            diverges = "kappa_par diverges" if power > 2.999 else "the profile diverges, though kappa_par does not,"
            raise InputError(
                f"D_mumu falls as (1 - |mu|)^{power:.2f} towards mu = {end:g}, where {diverges} as it does at mu = 0 "
                "in quasi-linear theory with q >= 2; let D / (1 - mu^2) fall less than linearly, or give it a floor"
            )
