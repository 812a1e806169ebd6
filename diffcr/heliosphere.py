r"""The interstellar magnetic field draped around the heliosphere, and the solar wind's field inside, in closed form.

The interstellar gas flows past the heliosphere as an incompressible fluid past a source of strength $U a^2$ at the
Sun (a Rankine half-body):

$$ u / U = e + a^2 x / r^3, \qquad w = 1 - \frac{2 a^2}{r (r - z)}, $$

with U far upstream, e downstream, z = x . e and a the distance of the nose. The heliopause is w = 0; w -> 1
far upstream. A parcel of gas keeps three labels: the place $x_\perp \sqrt w$ that it had across the flow far upstream,
and its delay $Z - U t$, where Z -> z far upstream and $u \cdot \nabla Z = U$. With
$\cos^2\beta = (r - z) / 2 r$ and Carlson's elliptic integrals at the arguments $(w \cos^2\beta, 1, w)$,

$$ Z = z + a (F - 2 H), \qquad F = \sqrt{1 - w}\, R_F, \qquad
   H = \frac{\rho^2}{12 a^2} (1 - w)^{3/2}\, w\, R_D, \qquad \rho = |x_\perp|. $$

A field frozen into the gas is, with e_1 along the part of the interstellar field across the flow and e_2 = e x e_1,

$$ B = B_\parallel \nabla\alpha_1 \times \nabla\alpha_2 + B_\perp \nabla\alpha_2 \times \nabla Z, \qquad
   \alpha_i = e_i \cdot x\, g(w), \qquad E = - v \times B = - U B_\perp \nabla\alpha_2 . $$

It is divergence-free, tends to the interstellar field far upstream, and is tangential at the heliopause, where alpha
vanishes. With g = sqrt(w) it is the solution of Roeken et al., which grows without bound at the heliopause. With
$g = w \sqrt{(1 + d^2) / (w + d^2)}$ it stays finite, at the nose sqrt(1 + d^2) / d times what it was, and is still
frozen in exactly: into a flow with the same heliopause and a layer of thin gas along it (`DrapedField.plasma`),
such as the depletion layer that a magnetised flow has.

Positions are from the Sun in pc, fields in muG, velocities in c.

References:
    Roeken, Kleimann & Fichtner (2015), ApJ 805, 173; Kleimann, Roeken & Fichtner (2017), ApJ 838, 75, for
    compressible flow. Carlson (1995), Numer. Algorithms 10, 13, for the integrals.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .observer import interstellar_velocity
from .pusher import _cross
from .sky import galactic_to_icrs, icrs_to_galactic, unit_vector
from .turbulence import Field
from .units import AU, DAY, DEGREE, KM_PER_S, SPEED_OF_LIGHT

RIBBON_CENTRE = (210.5, -57.1)
"""Galactic longitude and latitude [deg] of the interstellar field, from the centre of the ribbon of energetic neutral
atoms: Funsten et al. (2013), ApJ 776, 30. The sense of the field along this axis is not measured by it."""

SOLAR_POLE = (286.13, 63.87)
"""Right ascension and declination [deg] of the Sun's north pole: Archinal et al. (2018), Celest. Mech. 130, 22."""

_ROTATION_PERIOD = 25.38
"""Sidereal period of the Sun's rotation [d]."""

_CLOSEST = 1e-9
"""Smallest w that is distinguished from the heliopause."""


class SolarWind(eqx.Module):
    """Parker's spiral: the field that a wind of constant speed draws out of the rotating Sun, from `inner` outwards.

    With theta and phi about the Sun's axis, B_r = S B_1 (1 AU / r)^2 and B_phi = -B_r Omega r sin(theta) / V. The sign
    S changes across a current sheet: flat, in the Sun's equator, or with a tilt wavy and wound up with the field, so
    that near the equator sectors of either sign alternate. Divergence-free except on the sheet and at `inner`.
    No termination shock is modelled: beyond about 90 AU the field of the slowed wind is a few times stronger. Strength
    and speed are round numbers.

    Attributes:
        axis: Unit vector along the Sun's north pole, shape (3,).
        strength: B_1, radial field at 1 AU [muG]; its sign is that of the northern hemisphere.
        speed: V [c].
        tilt: Of the current sheet against the Sun's equator [rad].
        phase: Angle through which the tilted sheet is turned about the axis [rad].
        inner: There is no field closer to the Sun than this [pc].

    References:
        Parker (1958), ApJ 128, 664.
    """

    axis: Float[Array, "3"]
    strength: float | Float[Array, ""] = 35.0
    speed: float | Float[Array, ""] = 400 * KM_PER_S
    tilt: float | Float[Array, ""] = 0.0
    phase: float | Float[Array, ""] = 0.0
    inner: float | Float[Array, ""] = AU

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        axis = self.axis.astype(position.dtype)[:, None]
        r = jnp.maximum(jnp.linalg.norm(position, axis=0), 1e-3 * AU)
        around = jnp.cross(axis, position, axis=0)
        winding = 2 * math.pi / (_ROTATION_PERIOD * DAY * SPEED_OF_LIGHT) / self.speed
        size = jnp.where(r < self.inner, 0.0, self.strength * (AU / r) ** 2 * self._sign(position, around, r, winding))
        return size * (position / r - winding * around)

    def _sign(self, position, around, r, winding):
        # Along a field line phi + winding r stays the same, and with it the sign.
        first = jnp.cross(self.axis, jnp.eye(3)[jnp.argmin(jnp.abs(self.axis))]).astype(position.dtype)[:, None]
        first = first / jnp.linalg.norm(first)
        angle = winding * r - self.phase
        towards = jnp.sum(first * position, axis=0) * jnp.cos(angle) + jnp.sum(first * around, axis=0) * jnp.sin(angle)
        height = jnp.sum(self.axis.astype(position.dtype)[:, None] * position, axis=0)
        return jnp.sign(height * jnp.cos(self.tilt) + towards * jnp.sin(self.tilt))


class DrapedField(eqx.Module):
    """The interstellar field around the heliosphere, and what is inside; see the top of this module.

    Attributes:
        interstellar: Undisturbed field far upstream [muG], shape (3,).
        velocity: Velocity of the undisturbed gas against the Sun [c], shape (3,): where the gas goes *to*.
        nose: a, distance of the heliopause upstream [pc]. Far downstream its radius is 2 a.
        depletion: d >= 0: the field at the nose is sqrt(1 + d^2) / d times its undisturbed part across the flow. At 0
            it diverges there as the inverse root of the distance, and paths through the layer converge slowly with
            the step.
        inside: Field within the heliopause, or None for no field there.
    """

    interstellar: Float[Array, "3"] = eqx.field(converter=lambda v: jnp.asarray(v, float))
    velocity: Float[Array, "3"] = eqx.field(converter=lambda v: jnp.asarray(v, float))
    nose: float | Float[Array, ""] = 120 * AU
    depletion: float | Float[Array, ""] = 1.0
    inside: Field | None = None

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        """B at positions from the Sun, shape (3, particle) [muG]."""
        (_, _, second, along, across), place, labels = self._places(position)
        outside = along * labels.parallel + across * _cross(self._gradient(second, place, labels), labels.delay)
        if self.inside is None:
            return jnp.where(place.outside, outside, 0.0)
        return jnp.where(place.outside, outside, self.inside(position))

    def electric(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        """E = -v x B in the frame of the Sun, in muG (c = 1), shape (3, particle): minus the gradient of a potential.

        It is that of the interstellar gas. Inside the heliopause it is zero: the wind's own does not join it without
        a step in the potential. What that leaves out is of the order of 0.2 GV.
        """
        (_, _, second, _, across), place, labels = self._places(position)
        speed = jnp.linalg.norm(self.velocity).astype(position.dtype)
        return jnp.where(place.outside, -speed * across * self._gradient(second, place, labels), 0.0)

    def potential(self, position: Float[Array, "3 particle"]) -> Float[Array, " particle"]:
        """Potential of `electric` [muG pc]: U B_perp alpha_2, zero in the heliosphere."""
        (_, _, second, _, across), place, labels = self._places(position)
        speed = jnp.linalg.norm(self.velocity).astype(position.dtype)
        return jnp.where(place.outside, speed * across * jnp.sum(second * position, axis=0) * labels.g, 0.0)

    def plasma(
        self, position: Float[Array, "3 particle"]
    ) -> tuple[Float[Array, "3 particle"], Float[Array, " particle"]]:
        """Velocity [c] and density, over that far upstream, of the gas that carries the field; 0 in the heliosphere."""
        _, place, labels = self._places(position)
        speed = jnp.linalg.norm(self.velocity).astype(position.dtype)
        density = jnp.sum(labels.parallel * labels.delay, axis=0)
        flux = jnp.where(place.outside, speed * labels.parallel, 0.0)
        return flux / jnp.where(place.outside, density, 1.0), jnp.where(place.outside, density, 0.0)

    # Labels, all in units of a -----------------------------------------------------------------------------

    def _places(self, position):
        downstream = self.velocity / jnp.linalg.norm(self.velocity)
        along = jnp.dot(self.interstellar, downstream)
        across = self.interstellar - along * downstream
        size = jnp.linalg.norm(across)
        # A field along the flow has no part across it, and no direction is missed.
        first = across / jnp.where(size > 0, size, 1.0)
        frame = (downstream, first, jnp.cross(downstream, first))
        columns = [v.astype(position.dtype)[:, None] for v in frame]
        scalars = [v.astype(position.dtype) for v in (along, size)]
        place = _Place(position / self.nose, columns[0])
        return (*columns, *scalars), place, _Labels(place, columns[0], self.depletion)

    def _gradient(self, unit, place, labels):
        """Gradient of alpha = unit . x g."""
        return labels.g * unit + labels.slope * jnp.sum(unit * place.x, axis=0) * place.gradient


class _Place:
    """Coordinates about the flow, in units of the nose distance, and whether they are outside the heliopause."""

    def __init__(self, x, downstream):
        z = jnp.sum(downstream * x, axis=0)
        r2 = jnp.sum(x * x, axis=0)
        r = jnp.sqrt(jnp.where(r2 > 0, r2, 1.0))
        self.across = x - z * downstream
        rho2 = jnp.sum(self.across**2, axis=0)
        # r - z without cancellation downstream.
        lag = jnp.where(z > 0, rho2 / (r + z), r - z)
        steep = r * jnp.where(r2 > 0, lag, 0.0)
        self.outside = steep > 2 * (1 + _CLOSEST)
        # Inside the heliopause: a point where nothing is singular, far upstream.
        safe = self.outside
        self.x, self.r = jnp.where(safe, x, -4 * downstream), jnp.where(safe, r, 4.0)
        self.across, self.rho2 = jnp.where(safe, self.across, 0.0), jnp.where(safe, rho2, 0.0)
        self.z, self.lag = jnp.where(safe, z, -4.0), jnp.where(safe, lag, 8.0)
        steep = self.r * self.lag
        self.w = 1 - 2 / steep
        self.gradient = 2 / steep**2 * (2 * self.x - self.z / self.r * self.x - self.r * downstream)


class _Labels:
    """g(w) and its slope, grad alpha_1 x grad alpha_2, and the gradient of Z, in units of the nose distance."""

    def __init__(self, place, downstream, depletion):
        w, r, z, rho2, across = place.w, place.r, place.z, place.rho2, place.across
        square = jnp.asarray(depletion, w.dtype) ** 2
        self.g = w * jnp.sqrt((1 + square) / (w + square))
        self.slope = self.g * (1 / w - 0.5 / (w + square))
        pull = self.g * self.slope
        along = self.g**2 + pull * jnp.sum(across * place.gradient, axis=0)
        self.parallel = along * downstream - pull * jnp.sum(downstream * place.gradient, axis=0) * across

        first, second = _carlson(w * place.lag / (2 * r), jnp.ones_like(w), w)
        f, h = jnp.sqrt(1 - w) * first, (1 - w) ** 1.5 * w * second / 12
        k2 = rho2 * w / 4
        # The terms in 1 / rho^2 of the derivatives along beta and k cancel; written out they are these.
        turn = -1 / r**3 - (w / (4 * r) + (1 + 2 * k2) * h - w * f / 4) / (1 + k2)
        delay = -((1 + 2 * k2) * (rho2 * h + 1 / r) - k2 * f) / (1 + k2)
        self.delay = (1 - z / r**3) * downstream + turn * across + delay / (2 * w) * place.gradient


def _carlson(x, y, z):
    """R_F(x, y, z) and R_D(x, y, z), by duplication and the series of fifth order: to rounding for z above 1e-9."""
    rest, scale = 0.0, 1.0
    for _ in range(9):
        a, b, c = jnp.sqrt(x), jnp.sqrt(y), jnp.sqrt(z)
        step = a * b + b * c + c * a
        rest = rest + scale / (c * (z + step))
        scale = scale / 4
        x, y, z = (x + step) / 4, (y + step) / 4, (z + step) / 4
    mean = (x + y + z) / 3
    u, v = 1 - x / mean, 1 - y / mean
    e2, e3 = -(u * u + u * v + v * v), -u * v * (u + v)
    first = (1 - e2 / 10 + e3 / 14 + e2**2 / 24 - 3 * e2 * e3 / 44) / jnp.sqrt(mean)
    mean = (x + y + 3 * z) / 5
    u, v = 1 - x / mean, 1 - y / mean
    w = -(u + v) / 3
    e2, e3, e4 = u * v - 6 * w**2, (3 * u * v - 8 * w**2) * w, 3 * (u * v - w**2) * w**2
    series = 1 - 3 * e2 / 14 + e3 / 6 + 9 * e2**2 / 88 - 3 * e4 / 22 - 9 * e2 * e3 / 52 + 3 * u * v * w**3 / 26
    return first, 3 * rest + scale * series / mean**1.5


# The heliosphere by its numbers -------------------------------------------------------------------------------


def heliosphere(
    strength: Real[ArrayLike, ""] = 3.0,
    direction: Real[ArrayLike, "3"] | tuple | list | None = None,
    *,
    flow: str = "mccomas2015",
    nose: Real[ArrayLike, ""] = 120 * AU,
    depletion: Real[ArrayLike, ""] = 1.0,
    wind: SolarWind | str | None = None,
    frame: str = "icrs",
) -> DrapedField:
    """The draped field with the measured directions, along ICRS or Galactic axes.

    Strength and nose are round numbers. The Larmor radius in 3 muG is 74 AU per TV: below some 10 TV it is less than
    the size of the whole, 600 AU (which `diffcr.boundary` wants as the region's radius). Below 1 TV paths return to the
    heliopause many times; steps have to be shorter there, and single directions do not converge.

    Args:
        strength: Of the interstellar field [muG].
        direction: Unit vector along it, in `frame`; by default towards `RIBBON_CENTRE`; the opposite
            is as good a guess.
        flow: Which measurement of the interstellar flow, a key of `observer.INTERSTELLAR_FLOWS`.
        nose: Distance of the heliopause upstream [pc].
        depletion: How thin the layer along the heliopause is; see `DrapedField`.
        wind: Field inside: a `SolarWind` with its axis in `frame`, "parker" for the default one, None for no field.
        frame: Axes of positions, directions and fields: "icrs" or "galactic".

    Raises:
        InputError: If a number is not finite, strength or depletion negative, nose not above 0, direction not a unit
            vector, or a name unknown.
    """
    if frame not in ("icrs", "galactic"):
        raise InputError(f"unknown frame {frame!r} of a heliosphere: use 'icrs' or 'galactic'")
    turn = icrs_to_galactic if frame == "galactic" else jnp.asarray
    if direction is None:
        galactic = unit_vector(*(angle * DEGREE for angle in RIBBON_CENTRE))
        direction = galactic if frame == "galactic" else galactic_to_icrs(galactic)
    _require(strength, direction, nose, depletion)
    if isinstance(wind, str):
        if wind != "parker":
            raise InputError(f"unknown solar wind {wind!r}: use 'parker', a SolarWind, or None for no field inside")
        wind = SolarWind(turn(unit_vector(*(angle * DEGREE for angle in SOLAR_POLE))))
    return DrapedField(
        jnp.asarray(strength) * jnp.asarray(direction, float), -turn(interstellar_velocity(flow)), nose, depletion, wind
    )


def _require(strength, direction, nose, depletion) -> None:
    for name, value, bound in (("strength", strength, 0), ("nose", nose, 1e-300), ("depletion", depletion, 0)):
        if is_known(value) and not (np.isfinite(value) and value >= bound):
            least = "above 0" if bound else "not negative"
            raise InputError(f"{name} of a heliosphere must be finite and {least}, not {value}")
    if is_known(direction) and not abs(np.linalg.norm(np.asarray(direction)) - 1) < 1e-3:
        raise InputError(
            f"direction of the interstellar field must be a unit vector, not {np.asarray(direction)}: use "
            "sky.unit_vector, and give the size as strength"
        )
