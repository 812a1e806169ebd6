r"""A burst of particles that collide, exactly: density and dipole at any distance and time, and how diffusion errs.

Collisions as in `diffcr.kinetic`, without a field: at the rate nu, into any direction alike. All depends on
two numbers, the depth T = nu t (the age in mean times between collisions) and x = r / v t.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known, require_float64
from .propagation import burst_log_density
from .transport import fick_dipole
from .units import SPEED_OF_LIGHT

_NODES = 64
_CLOSE = 0.02
"""x sqrt(T) below which even functions of x are continued from there: the integrals cancel at the origin."""


class Burst(NamedTuple):
    """Particles of one burst at a place, those that never collided left out.

    Attributes:
        log_density: ln n, n for one particle set free, in 1 / (mean free path)^3; -inf for r >= v t.
        dipole: |delta| of the sky, towards the source: 3 |mean direction|, from 0 to 3; NaN where nothing is.
    """

    log_density: Float[Array, "..."]
    dipole: Float[Array, "..."]


class DiffusionError(NamedTuple):
    """What diffusion gives over what is so, minus one, of density and dipole; NaN for r >= v t."""

    density: Float[Array, "..."]
    dipole: Float[Array, "..."]


def burst(depth: Real[ArrayLike, "..."], ratio: Real[ArrayLike, "..."]) -> Burst:
    r"""Density and dipole of particles set free isotropically at r = 0, t = 0, that have collided.

    Summed over the number of collisions, the density along one axis and its flux are integrals of
    $e^{T (w \coth w - x w - 1)}$ in the plane of a complex w, between $a \mp i \pi / 2$ with a = artanh x:

    $$ n\, (v t)^3 = \frac{1}{2 \pi x} \left[ e^{-T} T a + T^2 \int \frac{dw}{2 \pi i} \frac{w^3}{\sinh^2 w}
                     e^{T (w \coth w - x w - 1)} \right]; $$

    of the flux, with $h = w \coth w - 1$ for one w,

    $$ j\, (v t)^3 / v = \frac{1}{2 \pi x} \left[ e^{-T} T (a x - \tfrac{1}{2}) + T \int \frac{dw}{2 \pi i}
                     \frac{h w}{\sinh^2 w} (x^{-1} + T w)\, e^{T (w \coth w - x w - 1)} \right]. $$

    On the imaginary axis, w = i k, that is Fourier's inversion over modes damped at the rate nu (1 - k cot k). The path
    here goes through the saddle point, so that a density keeps its digits however small it is: ln n is good to 1e-9
    and the dipole to 1e-7 for T from 0.01 to 1e6. The rest, a share exp(-T) that never collided, is in the front
    at r = v t.

    Args:
        depth: T = nu t; above 0.
        ratio: x = r / v t; not negative. The two are broadcast together.

    Raises:
        InputError: If a number is out of range.
        RuntimeError: Without 64-bit floats.

    References:
        Case & Zweifel (1967), Linear Transport Theory, for the inversion; Paasschens (1997), Phys. Rev. E 56, 1135,
        for an approximation of n, good to some per cent.
    """
    require_float64("the density of a burst")
    _require("the depth nu t", depth, lambda v: v > 0, "above zero")
    _require("the ratio r / v t", ratio, lambda v: v >= 0, "not negative")
    depth, ratio = jnp.broadcast_arrays(jnp.asarray(depth, float), jnp.asarray(ratio, float))
    inside = ratio < 1
    safe = jnp.where(inside, ratio, 0.5)
    near = jax.lax.stop_gradient(_CLOSE / jnp.sqrt(jnp.maximum(depth, 1.0)))
    log_density, over = _burst(depth, jnp.maximum(safe, near))
    # Both are even in x: a parabola through x and 2 x takes them to the origin.
    further = _burst(depth, 2 * near)
    share = jnp.where(safe < near, (safe**2 - near**2) / (3 * near**2), 0.0)
    log_density = log_density + share * (further[0] - log_density)
    over = over + share * (further[1] - over)
    return Burst(jnp.where(inside, log_density, -jnp.inf), jnp.where(inside, 3 * safe * over, jnp.nan))


def diffusion_error(depth: Real[ArrayLike, "..."], ratio: Real[ArrayLike, "..."]) -> DiffusionError:
    """How far the Gaussian of diffusion, and its dipole by Fick's law, are from `burst`.

    Close to the source the density is too low by 3 / (4 T) of itself and the dipole by 1 / (2 T). Further out the
    density is too high by exp(9 T x^4 / 80): a Gaussian holds for x well below T^(-1/4) alone. The dipole of
    diffusion is always too small, but errs less: by 3 x^2 / 20, 4 % at x = 1/2, and half at the front, however large T.

    Args:
        depth: T = nu t, with diffusion over c in pc and age in yr c age / (3 K / c); above 0.
        ratio: x = r / v t; not negative. The two are broadcast together.

    Raises:
        InputError: If a number is out of range.
        RuntimeError: Without 64-bit floats.
    """
    _require("the ratio r / v t", ratio, lambda v: v >= 0, "not negative")
    depth, ratio = jnp.broadcast_arrays(jnp.asarray(depth, float), jnp.asarray(ratio, float))
    inside = ratio < 1
    # At the source itself there is no dipole to divide by.
    ratio = jnp.where(inside, jnp.maximum(ratio, 1e-6), 0.5)
    exact = burst(depth, ratio)
    # In units where the mean free path is 1 pc; the observer lies at the origin.
    source = -(depth * ratio)[..., None] * np.array([1.0, 0.0, 0.0])
    log_green = lambda place: burst_log_density(place, source, depth / SPEED_OF_LIGHT, 1 / 3)
    dipole = -fick_dipole(jnp.eye(3) / 3, jax.jacfwd(log_green)(jnp.zeros(3)))[..., 0]
    of_density = jnp.expm1(log_green(jnp.zeros(3)) - exact.log_density)
    return DiffusionError(jnp.where(inside, of_density, jnp.nan), jnp.where(inside, dipole / exact.dipole - 1, jnp.nan))


def _burst(depth: Array, ratio: Array) -> tuple[Array, Array]:
    """ln of n (mean free path)^3, and j / (n v x), away from x = 0."""
    end = jnp.arctanh(ratio)
    saddle = _saddle(jax.lax.stop_gradient(ratio))
    top = depth * (saddle / jnp.tanh(saddle) - ratio * saddle - 1)
    # The width of the saddle is sqrt(3 / 2 T): nodes are even within it, and in the logarithm beyond.
    width = jnp.minimum(jax.lax.stop_gradient(jnp.sqrt(1.5 / depth)), 1.0)
    node, weight = (
        (v + shift) / 2 for v, shift in zip(np.polynomial.legendre.leggauss(_NODES), (1.0, 0.0), strict=True)
    )
    stretch = jnp.arcsinh(jnp.pi / 2 / width)[..., None]
    height = width[..., None] * jnp.sinh(node * stretch)
    weight = weight * stretch * width[..., None] * jnp.cosh(node * stretch)
    bend = (saddle - end)[..., None]
    w = jax.lax.complex(end[..., None] + bend * jnp.cos(height), height)
    # dw / (2 pi i) of the upper half; the lower one is its conjugate.
    measure = jax.lax.complex(weight, weight * bend * jnp.sin(height)) / jnp.pi
    depth_, ratio_ = depth[..., None], ratio[..., None]
    hop = _hop(w)
    common = measure / jnp.sinh(w) ** 2 * jnp.exp(depth_ * (hop - ratio_ * w) - top[..., None])

    def integral(values):
        return jnp.sum((values * common).real, axis=-1)

    rest = jnp.exp(-depth - top) * depth
    density = rest * end + depth**2 * integral(w**3)
    flux = rest * (end * ratio - 0.5) + depth * integral(hop * w * (1 / ratio_ + depth_ * w))
    log_density = top + jnp.log(density / (2 * jnp.pi * ratio)) - 3 * jnp.log(depth)
    return log_density, flux / (density * ratio)


def _hop(w: Array) -> Array:
    """w coth w - 1, whose terms cancel at small w."""
    small = jnp.abs(w) < 0.3
    s = jnp.where(small, w, 0.0) ** 2
    series = s * (1 / 3 - s * (1 / 45 - s * (2 / 945 - s * (1 / 4725 - s * (2 / 93555 - s * 1382 / 638512875)))))
    safe = jnp.where(small, 1.0, w)
    return jnp.where(small, series, safe / jnp.tanh(safe) - 1)


def _saddle(ratio: Array) -> Array:
    """w with coth w - w / sinh^2 w = x, near enough for a path; every path gives the same integral."""
    start = jnp.where(ratio < 0.8, 1.5 * ratio, 0.5 * jnp.log(4 / (1 - ratio)) + 0.5)

    def improve(_, w):
        slope = 2 * (w / jnp.tanh(w) - 1) / jnp.sinh(w) ** 2
        value = 1 / jnp.tanh(w) - w / jnp.sinh(w) ** 2 - ratio
        return jnp.clip(w - value / slope, 0.5 * w, 2 * w)

    # Below, rounding leaves less of the difference than there is in 3 x / 2.
    return jnp.where(ratio < 1e-3, start, jax.lax.fori_loop(0, 8, improve, jnp.maximum(start, 1e-4)))


def _require(what: str, value, good, must: str) -> None:
    if not is_known(value):
        return
    values = np.atleast_1d(np.asarray(value, float)).ravel()
    bad = [v for v in values if not (np.isfinite(v) and good(v))]
    if bad:
        raise InputError(f"{what} must be finite and {must}, not {bad[0]:g}")
