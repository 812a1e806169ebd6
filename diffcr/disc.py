r"""Steady density of many sources smeared into a disc, in a halo that particles leave freely at |z| = H.

The halo is the layer |z| < H, without side walls; the density vanishes on both faces. A source in it at the
distance rho and at the height z' gives, with its images,

$$ \int G\, dt = \frac{1}{4 \pi K} \sum_n \frac{(-1)^n}{\sqrt{\rho^2 + (z - z_n)^2}}
               = \frac{1}{2 \pi H K} \sum_{m\ \mathrm{odd}} K_0\left(\frac{m \pi \rho}{2 H}\right)
   \quad (z = z' = 0), \qquad z_n = 2 H n + (-1)^n z'. $$

The first sum falls off as 1 / n and must not be cut; accelerated (Cohen, Rodriguez Villegas & Zagier 2000,
Experimental Mathematics 9, 3) it is exact to rounding with two dozen terms, at any distance. The integral over
the disc is done in rings around the observer, where the kernel's 1 / rho cancels and the edge of the disc cuts
each ring at a known angle.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .units import KPC

SUN_RADIUS = 8.5 * KPC
"""Distance of the Sun from the Galactic centre [pc] that the published profiles are scaled to."""

# Beyond this many halo heights the kernel, exp(-pi rho / 2 H), is below the rounding of what is nearer.
_REACH = 24.0


# Profiles -------------------------------------------------------------------------------------------------


def case_bhattacharya(radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Surface density of supernova remnants at a Galactocentric radius [pc], 1 at 8.5 kpc.

    (r / 8.5 kpc)^2 exp(-3.53 (r - 8.5 kpc) / 8.5 kpc), from the distances of 36 shell remnants.

    References:
        Case & Bhattacharya (1998), ApJ 504, 761.
    """
    ratio = jnp.asarray(radius) / SUN_RADIUS
    return ratio**2 * jnp.exp(-3.53 * (ratio - 1))


def uniform(radius: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The same surface density at every Galactocentric radius [pc], up to the edge of the disc."""
    return jnp.ones_like(jnp.asarray(radius))


def _none_if_zero(height):
    # A None stays known while a program is traced; a zero does not.
    return None if height is None or (is_known(height) and np.all(np.asarray(height) == 0)) else height


class Disc(eqx.Module):
    """Sources of a Galactic disc, taken together as a smooth and steady density.

    Attributes:
        shape: Surface density against the Galactocentric radius [pc], of any normalisation, by functions of
            jax.numpy. It counts up to the edge, where it may jump; inside it must be smooth on scales of a
            twentieth of the radius.
        edge: Radius of the disc [pc].
        sun_radius: Galactocentric radius of the Sun [pc].
        height: Scale h of the layer exp(-|z| / h) that the sources lie in [pc], cut at the halo's faces; 0,
            kept as None, for a thin disc, which is several times faster.

    Raises:
        InputError: If a length is not finite or negative, the edge is zero, or the shape is negative or not
            finite somewhere, or zero everywhere.
    """

    shape: Callable = eqx.field(static=True, default=case_bhattacharya)
    edge: float | Float[Array, ""] = 30.0 * KPC
    sun_radius: float | Float[Array, ""] = SUN_RADIUS
    height: float | Float[Array, ""] | None = eqx.field(default=None, converter=_none_if_zero)

    def __check_init__(self):
        for name in ("edge", "sun_radius", "height"):
            value = getattr(self, name)
            if value is None or not is_known(value):
                continue
            if not (np.isfinite(value) and value >= 0) or (name == "edge" and value == 0):
                bound = "above zero" if name == "edge" else "not negative"
                raise InputError(f"{name} of a disc must be finite and {bound}, not {value}: give a length in pc")
        values = self.shape(jnp.linspace(0.0, 1.0, 65) * self.edge)
        if is_known(values):
            values = np.broadcast_to(values, 65)
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
            if bad.size or not values.any():
                where = f"{values[bad[0]]} at {bad[0] / 64 * float(self.edge):.6g} pc" if bad.size else "0 everywhere"
                raise InputError(
                    f"the shape of a disc must be finite and not negative up to its edge, not {where}: "
                    "it takes radii in pc, from 0 to edge"
                )


# Density and gradient -------------------------------------------------------------------------------------


def steady_density(
    disc: Disc,
    halo_height: Real[ArrayLike, "..."],
    radius: Real[ArrayLike, "..."] | None = None,
    z: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Density n K / (R Q) that the sources of a disc keep up.

    R is their rate in the whole Galaxy and Q what one injects, so that

        density [1 / pc^3] = rate [1 / yr] / (SPEED_OF_LIGHT * diffusion) * Q * steady_density

    with the diffusion coefficient K / c in pc. Towards a halo much thinner than the disc's structure it is
    (H - |z|) / 2 times the normalised surface density; in a very high halo it no longer depends on H.

    Absolute error some 1e-9 of the largest density in the disc, gradients 1e-7, for the shapes of this module.

    Args:
        disc: The sources.
        halo_height: H, half the full height of the halo [pc].
        radius: Galactocentric radius of the observer [pc]; the Sun's if not given.
        z: Height of the observer [pc], |z| < H. The leading axes of all three are broadcast together.

    Returns:
        n K / (R Q) [1 / pc], differentiable in all arguments. With a thin disc that jumps at its edge, the
        gradient in radius is infinite at radius = edge, and whatever number is returned there means nothing.

    Raises:
        InputError: If halo_height is not finite and above zero, the radius negative or further from the disc
            than ten halo heights, or |z| not below halo_height.

    References:
        Ginzburg & Syrovatskii (1964), The Origin of Cosmic Rays; Blasi & Amato (2012), JCAP 01, 010.
    """
    thin = disc.height is None and is_known(z) and not np.any(z)
    halo_height, radius, z = _checked(disc, halo_height, radius, z)
    return jnp.vectorize(lambda h, r, at: _density(disc, h, r, at, thin))(halo_height, radius, z)


def log_gradient(
    disc: Disc,
    halo_height: Real[ArrayLike, "..."],
    radius: Real[ArrayLike, "..."] | None = None,
    z: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    """d ln n / dR [1 / pc] of `steady_density`: negative where the density falls outwards.

    Independent of the diffusion coefficient, the rate and the power. Arguments and errors are those of
    `steady_density`.
    """
    thin = disc.height is None and is_known(z) and not np.any(z)
    halo_height, radius, z = _checked(disc, halo_height, radius, z)

    def gradient(h, r, at):
        density, slope = jax.jvp(lambda place: _density(disc, h, place, at, thin), (r,), (jnp.ones_like(r),))
        return slope / density

    return jnp.vectorize(gradient)(halo_height, radius, z)


def log_gradient_vector(disc: Disc, halo_height: Real[ArrayLike, "..."]) -> Float[Array, "... 3"]:
    """grad n / n [1 / pc] at the Sun, in Galactic Cartesian axes: x to the Galactic centre, z to the north pole.

    The Sun lies in the middle plane, so only x differs from zero: it is -d ln n / dR, positive where the
    density rises to the Galactic centre, and Fick's dipole then points there.
    """
    towards_centre = -log_gradient(disc, halo_height)
    return jnp.stack([towards_centre, jnp.zeros_like(towards_centre), jnp.zeros_like(towards_centre)], axis=-1)


# Helpers --------------------------------------------------------------------------------------------------


def _density(disc: Disc, halo_height: Array, radius: Array, z: Array, thin: bool) -> Array:
    """Integral over rho of (rho times the kernel) times (surface density averaged over the ring)."""
    edge = jnp.asarray(disc.edge)
    # At the centre nothing depends on the radius, but the panels, which close there, have no derivative.
    radius = jnp.maximum(radius, 1e-6 * edge)
    rho, weight = _distances(edge, halo_height, radius, thin)
    if thin:
        kernel = 0.5 - _images(rho, 0.0, 0.0, halo_height)
    else:
        kernel = _layer_kernel(rho, disc.height, z, halo_height)
    ring = _ring_average(disc.shape, edge, radius, rho)
    return jnp.sum(weight * kernel * ring) / _total(disc.shape, edge)


# The kernel is 2 pi K rho times the integral of G over time, averaged over sources at +-z', so that the image n
# of either lies at 2 H n +- z' and the signs alternate throughout. Close to the source it is 1 / 2.


def _pair(rho: Array, source: ArrayLike, place: ArrayLike) -> Array:
    """What sources at +-`source`, half of one each, add at the height `place`."""
    above, below = place - source, place + source
    return (rho / jnp.sqrt(rho**2 + above**2) + rho / jnp.sqrt(rho**2 + below**2)) / 4


def _images(rho: Array, source: ArrayLike, z: ArrayLike, halo_height: Array) -> Array:
    """The images of all orders, to be taken from `_pair`. They share the shape of rho."""
    place = 2 * halo_height * np.arange(1, len(_ALTERNATING) + 1).reshape(-1, *([1] * rho.ndim))
    if isinstance(source, float) and isinstance(z, float) and source == z == 0:
        return jnp.tensordot(_ALTERNATING, rho / jnp.sqrt(rho**2 + place**2), 1)
    return jnp.tensordot(_ALTERNATING, _pair(rho, source, place - z) + _pair(rho, source, place + z), 1)


def _layer_kernel(rho: Array, height: Array | float | None, z: Array, halo_height: Array) -> Array:
    """The kernel for sources in exp(-z' / h), cut at H."""
    if height is None:
        return _pair(rho, 0.0, z) - _images(rho, 0.0, z, halo_height)
    # A height that is traced may be zero.
    height = jnp.maximum(height, 1e-9 * halo_height)
    # The kernel has a kink where the source passes the observer.
    ends = jnp.stack([0.0 * z, 2 * height, 8 * height, 36 * height, jnp.abs(z)])
    ends = jnp.sort(jnp.minimum(ends, halo_height))
    low, width = ends[:-1, None], jnp.diff(ends)[:, None]
    nodes, weights = _LAYER_NODES
    source = (low + width * nodes).ravel()
    share = (width * weights).ravel() * jnp.exp(-source / height)
    share = share / jnp.sum(share)
    direct = jnp.tensordot(share, _pair(rho[None], source[:, None], z), 1)
    # The images are smooth in the square of the source's height: a polynomial through a few heights will do.
    moments = jnp.sum(share * (source / halo_height) ** (2 * np.arange(len(_SQUARES)))[:, None], axis=1)
    images = _images(rho[None], halo_height * np.sqrt(_SQUARES)[:, None], z, halo_height)
    return direct - jnp.tensordot(moments @ _POLYNOMIALS, images, 1)


def _distances(edge: Array, halo_height: Array, radius: Array, thin: bool) -> tuple[Array, Array]:
    """Nodes in rho and their weights: panels graded to the observer and to where rings reach the disc's edge.

    A ring also has its own end where it passes the centre, at which a profile may have a cusp.
    """
    reach = jnp.minimum(_REACH * halo_height, radius + edge)
    to_edge = jnp.abs(edge - radius)
    special = jnp.stack([radius, to_edge, 5 * to_edge, 25 * to_edge])
    ends = jnp.concatenate([jnp.zeros(1), reach * (_THIN_STEPS if thin else _STEPS), jnp.minimum(special, reach)])
    ends = jnp.sort(ends)
    low, width = ends[:-1, None], jnp.diff(ends)[:, None]
    # The cubic flattens both ends, where a ring that touches the edge grows as a square root.
    nodes, weights = _RING_NODES
    cubic, slope = nodes**2 * (3 - 2 * nodes), 6 * nodes * (1 - nodes)
    rho = (low + width * cubic).ravel()
    # Panels may have no width, and then no weight, but nothing divides by zero in them.
    return jnp.maximum(rho, 1e-12 * reach), (width * weights * slope).ravel()


def _ring_average(shape: Callable, edge: Array, radius: Array, rho: Array) -> Array:
    """Mean of the surface density over a ring of radius rho around the observer, zero outside the edge."""
    # The ring is inside the disc up to the angle phi from the direction to the centre, with tan^2(phi / 2):
    inside = (edge - radius + rho) * (edge + radius - rho)
    outside = (radius + rho - edge) * (radius + rho + edge)
    touching = (inside <= 0) & (outside <= 0)
    angle = 2 * jnp.arctan2(_root(inside), jnp.where(touching, 1.0, _root(outside)))
    nodes, weights = _ANGLE_NODES
    half = angle[:, None] * nodes / 2
    # As a sum of squares, so that nothing cancels where the ring passes the Galactic centre.
    squared = (radius - rho[:, None]) ** 2 + 4 * radius * rho[:, None] * jnp.sin(half) ** 2
    return angle / np.pi * jnp.sum(weights * shape(_root(squared)), axis=-1)


def _total(shape: Callable, edge: Array) -> Array:
    nodes, weights = _TOTAL_NODES
    return 2 * np.pi * edge**2 * jnp.sum(weights * nodes * shape(edge * nodes))


def _root(value: Array) -> Array:
    """Square root, 0 below 0, with a gradient of 0 there."""
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1.0)), 0.0)


def _alternating(number: int) -> np.ndarray:
    """Weights w with sum over k >= 1 of (-1)^(k - 1) a_k = sum of w_k a_k, to 5.8^-number of the terms' size."""
    scale = (3 + np.sqrt(8)) ** number
    scale = (scale + 1 / scale) / 2
    weights, b, c = np.empty(number), -1.0, -scale
    for k in range(number):
        c = b - c
        weights[k] = c / scale
        b *= (k + number) * (k - number) / ((k + 0.5) * (k + 1))
    return weights


def _unit_nodes(number: int, panels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    nodes = (np.arange(panels)[:, None] + (1 + nodes) / 2) / panels
    return nodes.ravel(), np.tile(weights / (2 * panels), panels)


# The kernel of a layer has structure on every scale down to z - z', that of a thin disc only on that of H.
_THIN_STEPS = 2.0 ** -np.arange(6)
_STEPS = np.append(_THIN_STEPS, 5.0 ** -np.arange(3, 8))
_ALTERNATING = _alternating(18)
_RING_NODES = _unit_nodes(14)
_ANGLE_NODES = _unit_nodes(40)
_LAYER_NODES = _unit_nodes(10)
_SQUARES = (1 - np.cos((np.arange(9) + 0.5) * np.pi / 9)) / 2
# Column c holds the coefficients of the polynomial that is 1 at the square c and 0 at the others.
_POLYNOMIALS = np.linalg.inv(np.vander(_SQUARES, increasing=True))
_TOTAL_NODES = _unit_nodes(12, panels=10)


def _checked(disc: Disc, halo_height, radius, z) -> tuple[Array, Array, Array]:
    radius = disc.sun_radius if radius is None else radius
    if is_known(halo_height):
        height = np.asarray(halo_height, float)
        if not (np.all(np.isfinite(height)) and np.all(height > 0)):
            raise InputError(f"halo_height must be finite and above zero, not {halo_height}: give half a height in pc")
        if is_known(z) and not np.all(np.abs(np.asarray(z, float)) < height):
            raise InputError(f"z must lie inside the halo, |z| < halo_height = {halo_height}, not {z}: give it in pc")
        if is_known(radius) and is_known(disc.edge):
            away = np.asarray(radius, float)
            if not (np.all(away >= 0) and np.all(away <= np.asarray(disc.edge) + 10 * height)):
                raise InputError(
                    f"radius must lie between 0 and ten halo heights outside the disc's edge at {disc.edge} pc, "
                    f"not {radius}: give a Galactocentric radius in pc"
                )
    return tuple(jnp.asarray(value, jnp.result_type(float)) for value in (halo_height, radius, z))


# Tables -------------------------------------------------------------------------------------------------


class TabulatedDisc(eqx.Module):
    """What a `Disc` makes at the Sun, against the height of the halo alone: Chebyshev series in its logarithm.

    A hundred times cheaper to evaluate and to differentiate than the integrals, for fits in which the halo's height
    is free and the disc is not.

    Attributes:
        log_density: Coefficients of ln `steady_density`, (order,).
        gradient: Coefficients of `log_gradient` [1 / pc], (order,).
        lowest, highest: Range of heights [pc]; outside, the ends' values are held.
    """

    log_density: Float[Array, " order"]
    gradient: Float[Array, " order"]
    lowest: float = eqx.field(static=True)
    highest: float = eqx.field(static=True)


def tabulate(disc: Disc, lowest: float = 30.0, highest: float = 1e5, orders: int = 72) -> TabulatedDisc:
    """The Chebyshev series of a disc between two heights of the halo [pc]; 1e-8 of the integrals' values."""
    angle = np.pi * (np.arange(orders) + 0.5) / orders
    middle, half = np.log(lowest * highest) / 2, np.log(highest / lowest) / 2
    heights = jnp.exp(middle + half * np.cos(angle))
    values = jax.jit(lambda h: (jnp.log(steady_density(disc, h)), log_gradient(disc, h)))(heights)
    transform = np.cos(np.arange(orders)[:, None] * angle) * np.where(np.arange(orders) == 0, 1, 2)[:, None] / orders
    return TabulatedDisc(transform @ values[0], transform @ values[1], float(lowest), float(highest))


def density_and_gradient(
    disc: Disc | TabulatedDisc, halo_height: Real[ArrayLike, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`steady_density` [1 / pc] and `log_gradient` [1 / pc] at the Sun, of a disc or of its table."""
    if isinstance(disc, Disc):
        return steady_density(disc, halo_height), log_gradient(disc, halo_height)
    middle, half = np.log(disc.lowest * disc.highest) / 2, np.log(disc.highest / disc.lowest) / 2
    place = jnp.clip((jnp.log(halo_height) - middle) / half, -1, 1)
    # cos(n arccos x) would have no derivative at the ends: the recursion has.
    log_density, gradient = _chebyshev(jnp.stack([disc.log_density, disc.gradient]), place)
    return jnp.exp(log_density), gradient


def _chebyshev(coefficients: Float[Array, "series order"], x: Float[Array, ""]) -> Float[Array, " series"]:
    """Clenshaw's recursion."""

    def step(carry, c):
        one, two = carry
        return (c + 2 * x * one - two, one), None

    zero = jnp.zeros(coefficients.shape[0])
    (one, two), _ = jax.lax.scan(step, (zero, zero), coefficients.T[:0:-1])
    return coefficients[:, 0] + x * one - two
