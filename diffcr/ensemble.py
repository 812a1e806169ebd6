"""Random ensembles of supernova remnants: places and ages drawn from a disc, with spiral arms if wanted.

All that decides a shape is a plain number, so that a batch is one `jax.vmap` over keys:
`jax.vmap(lambda key: draw_sources(key, 10_000, shape, edge, max_age))(jax.random.split(key, 1000))`.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Real

from .errors import InputError, is_known
from .source import SPECTRAL_INDEX, Sources, make_sources, superluminal
from .units import DEGREE, KPC, PC

_CELLS = 4096
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
# No source is drawn closer to the centre of the Galaxy: the azimuth of a spiral arm has no limit there.
_CORE = 1 * PC


class SpiralArms(eqx.Module):
    r"""Logarithmic spiral arms, one like the other, at equal angles about the centre of the Galaxy.

    At galactocentric radius R the arms are at the azimuths

    $$ \beta_k = \beta_0 - \ln(R / R_0) / \tan\psi + 2 \pi k / n, $$

    measured from the Sun's direction the way the Galaxy rotates, to l = 90 degrees at the Sun: the arms trail.

    Attributes:
        pitch: psi, between an arm and the circle about the centre [rad]; between 0 and pi / 2.
        radius: R_0 [pc].
        azimuth: beta_0 of an arm at R_0 [rad].
        width: Standard deviation of the distance from the middle of an arm, across it [pc].
        number: n.

    Raises:
        InputError: If a number is out of range.
    """

    pitch: Real[ArrayLike, ""]
    radius: Real[ArrayLike, ""]
    azimuth: Real[ArrayLike, ""]
    width: Real[ArrayLike, ""]
    number: int = eqx.field(static=True)

    def __check_init__(self):
        if isinstance(self.number, bool) or not isinstance(self.number, int) or self.number < 1:
            raise InputError(f"the number of spiral arms must be a whole number of at least 1, not {self.number!r}")
        _require("the pitch of spiral arms", self.pitch, lambda x: 0 < x < math.pi / 2, "between 0 and pi / 2 rad")
        _require("the radius of spiral arms", self.radius, lambda x: 0 < x < math.inf, "above zero, in pc")
        _require("the azimuth of spiral arms", self.azimuth, math.isfinite, "finite, in radians")
        _require("the width of spiral arms", self.width, lambda x: 0 <= x < math.inf, "not negative, in pc")


def milky_way_arms() -> SpiralArms:
    """Four arms of pitch 12.8 degrees, the Perseus arm where masers show it, 380 pc wide.

    A symmetric idealisation: at the azimuth of the arms' reference points the model is within 10 % in radius of
    Perseus, Sagittarius, Scutum and Outer, and has no Local arm.

    References:
        Vallee (2008), AJ 135, 1301, for number and pitch.
        Reid et al. (2014), ApJ 783, 130, for R_0 = 9.9 kpc, beta_0 = 14.2 degrees and the width of Perseus.
    """
    return SpiralArms(12.8 * DEGREE, 9.9 * KPC, 14.2 * DEGREE, 0.38 * KPC, 4)


def draw_sources(
    key: PRNGKeyArray,
    number: int,
    shape: Callable,
    edge: Real[ArrayLike, ""],
    max_age: Real[ArrayLike, ""],
    *,
    min_age: Real[ArrayLike, ""] = 0.0,
    expected: Real[ArrayLike, ""] | None = None,
    sun_radius: Real[ArrayLike, ""] = 8.5 * KPC,
    height: Real[ArrayLike, ""] = 100 * PC,
    halo_height: Real[ArrayLike, ""] | None = None,
    spiral: SpiralArms | None = None,
    causal: bool = True,
    power: Real[ArrayLike, "..."] = 1.0,
    spectral_index: Real[ArrayLike, "..."] = SPECTRAL_INDEX,
    cutoff: Real[ArrayLike, "..."] = np.inf,
    duration: Real[ArrayLike, "..."] = 0.0,
) -> Sources:
    """One random ensemble of independent sources. Differentiable in every real argument but `expected`.

    Galactocentric radii follow shape(R) R dR below the edge, with or without spiral arms; azimuths are uniform or
    about the arms; heights are of a Laplace law; ages are uniform in (min_age, max_age]. The ensemble stands for a
    rate of `number` (or `expected`) over max_age - min_age, and sources older than `max_age` should not matter any
    more: several times the square of the halo's height over the diffusion coefficient.

    Args:
        key: Random key; the same key gives the same ensemble.
        number: How many sources; fixes the shapes.
        shape: Relative surface density against galactocentric radius [pc], an array function.
        edge: Galactocentric radius of the outermost sources [pc]; above 0.
        max_age: Age of the oldest sources [yr]; above 0.
        min_age: Age that all sources are above [yr]; not negative, below `max_age`.
        expected: Mean of a Poisson law for the number of sources. What it leaves of `number` has power 0, so
            `number` must be large enough to never cut it: see `enough_sources`. None for exactly `number` of them.
        sun_radius: Galactocentric radius of the Sun [pc].
        height: Scale height of the sources' Laplace law about the plane [pc]; 0 for all in the plane.
        halo_height: Half-height at which the law is cut, so that |z| is below it [pc]; None for no cut.
        spiral: Arms about which the sources lie, such as `milky_way_arms()`.
        causal: Give sources farther than light went since their explosion power 0 (about 2 in 1000 of those of the
            last 25 Myr). Without this the variance of a burst ensemble's density gradient is infinite.
        power: As in `Sources`, for all sources or each, like the next three.
        spectral_index: Dimensionless.
        cutoff: [TV].
        duration: [yr].

    Raises:
        InputError: If a number is out of range, or the shape is negative, not finite or zero everywhere.
            Traced values are not checked.

    References:
        Blasi & Amato (2012), JCAP 01, 011, for anisotropies from such ensembles.
        Genolini et al. (2017), A&A 600, A68, for the heavy tails, and their cut at the light cone.
    """
    _require_draw(number, edge, min_age, max_age, sun_radius, height, halo_height)
    radial, azimuthal, vertical, temporal, counting = jax.random.split(key, 5)
    exists = jnp.ones(number, bool) if expected is None else poisson_mask(counting, number, expected)
    radius = _radii(jax.random.uniform(radial, (number,)), shape, edge)
    azimuth = _azimuths(azimuthal, radius, spiral)
    position = jnp.stack(
        [
            sun_radius - radius * jnp.cos(azimuth),
            radius * jnp.sin(azimuth),
            _heights(jax.random.uniform(vertical, (number,)), height, halo_height),
        ],
        axis=-1,
    )
    # A uniform number may be 0 and never is 1, an age is never 0.
    age = min_age + (max_age - min_age) * (1 - jax.random.uniform(temporal, (number,)))
    sources = make_sources(position, age, power, spectral_index, cutoff, duration)

    if causal:
        exists = exists & ~superluminal(sources)
    return eqx.tree_at(lambda s: s.power, sources, jnp.where(exists, sources.power, 0.0))


def expected_number(rate: Real[ArrayLike, ""], max_age: Real[ArrayLike, ""]) -> Real[ArrayLike, ""]:
    """Mean number of supernovae within `max_age` [yr] at a `rate` [1 / yr].

    Raises:
        InputError: If one is negative or not finite.
    """
    _require("the supernova rate", rate, lambda x: 0 <= x < math.inf, "finite and not negative, in 1 / yr")
    _require("max_age", max_age, lambda x: 0 <= x < math.inf, "finite and not negative, in yr")
    return rate * max_age


def enough_sources(expected: float) -> int:
    """A number that a Poisson law of mean `expected` exceeds with a probability below 1e-9.

    Raises:
        InputError: If the mean is negative or not finite.
    """
    _require("the expected number of sources", expected, lambda x: 0 <= x < math.inf, "finite and not negative")
    return math.ceil(expected + 6.5 * math.sqrt(expected) + 15)


def poisson_mask(key: PRNGKeyArray, number: int, expected: Real[ArrayLike, ""]) -> Bool[Array, " source"]:
    """Which of `number` sources exist where their number is Poissonian: the first ones, all if it is above `number`.

    Raises:
        InputError: If the mean is negative, not finite, or so close to `number` that draws would often be cut.
    """
    _require("the expected number of sources", expected, lambda x: 0 <= x < math.inf, "finite and not negative")
    if is_known(expected) and enough_sources(float(expected)) > number:
        raise InputError(
            f"{number} sources are too few for a Poisson law of mean {float(expected):g}: "
            f"raise the number to enough_sources({float(expected):g}) = {enough_sources(float(expected))}"
        )
    return jnp.arange(number) < jax.random.poisson(key, expected)


# The laws ---------------------------------------------------------------------------------------------------------


def _radii(uniform: Float[Array, " source"], shape: Callable, edge: Real[ArrayLike, ""]) -> Float[Array, " source"]:
    """Radii of density shape(R) R, by inversion of a table of its integral over rings.

    The rings' probabilities are quadratures of four nodes, and within a ring the surface density is even. For shapes
    as smooth as that of supernova remnants the distribution function is off by less than 2e-7.
    """
    edges = edge * jnp.linspace(0, 1, _CELLS + 1)
    node, weight = (jnp.asarray(x, edges.dtype) for x in (_NODES, _WEIGHTS))
    nodes = edges[:-1, None] + edge / _CELLS * (node + 1) / 2
    density = jnp.broadcast_to(shape(nodes), nodes.shape)
    _require("the radial shape", jnp.min(density), lambda x: 0 <= x < math.inf, "finite and nowhere negative")
    ring = jnp.sum(density * nodes * weight, axis=-1)
    total = jnp.sum(ring)
    _require("the integral of the radial shape", total, lambda x: 0 < x < math.inf, "finite and above zero")
    below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(ring) / total])
    square = jnp.interp(uniform, below, edges**2)
    return jnp.sqrt(jnp.maximum(square, _CORE**2))


def _azimuths(key: PRNGKeyArray, radius: Float[Array, " source"], spiral: SpiralArms | None) -> Float[Array, " source"]:
    """Azimuths from the Sun's direction, the way the Galaxy rotates."""
    if spiral is None:
        return 2 * math.pi * jax.random.uniform(key, radius.shape)
    which, across = jax.random.split(key)
    arm = 2 * math.pi / spiral.number * jax.random.randint(which, radius.shape, 0, spiral.number)
    middle = spiral.azimuth - jnp.log(radius / spiral.radius) / jnp.tan(spiral.pitch) + arm
    # Displaced along the circle, so that radii keep their law: sin(pitch) of that is across the arm.
    offset = spiral.width * jax.random.normal(across, radius.shape) / jnp.sin(spiral.pitch)
    return middle + offset / radius


def _heights(
    uniform: Float[Array, " source"], height: Real[ArrayLike, ""], halo_height: Real[ArrayLike, ""] | None
) -> Float[Array, " source"]:
    """Heights of a Laplace law cut at the halo, by inversion: the upper half of the numbers is above the plane."""
    thick = height > 0
    scale = jnp.where(thick, height, 1.0)
    inside = 1.0 if halo_height is None else -jnp.expm1(-halo_height / scale)
    above = uniform >= 0.5
    # Both halves run over [0, 1), so that the logarithm never meets the 0 of infinite height.
    z = -scale * jnp.log1p(-inside * (2 * uniform - above))
    return jnp.where(thick, jnp.where(above, z, -z), 0.0)


# The boundary -----------------------------------------------------------------------------------------------------


def _require_draw(number, edge, min_age, max_age, sun_radius, height, halo_height) -> None:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"the number of sources must be a whole number of at least 1, not {number!r}")
    _require("the edge of the disc", edge, lambda x: _CORE < x < math.inf, f"above {_CORE:g} and finite, in pc")
    _require("max_age", max_age, lambda x: 0 < x < math.inf, "above zero and finite, in yr")
    if is_known(max_age):
        _require("min_age", min_age, lambda x: 0 <= x < float(max_age), "not negative and below max_age, in yr")
    _require("the radius of the Sun", sun_radius, lambda x: 0 <= x < math.inf, "finite and not negative, in pc")
    _require("the height of the disc", height, lambda x: 0 <= x < math.inf, "finite and not negative, in pc")
    if halo_height is not None:
        _require("the height of the halo", halo_height, lambda x: x > 0, "above zero, in pc (None for no halo)")


def _require(what: str, value, good: Callable[[float], bool], must: str) -> None:
    if is_known(value) and not good(float(value)):
        raise InputError(f"{what} must be {must}; not {float(value):g}")
