r"""Where the particles that arrive at Earth came into a region: paths backwards in time until they first leave it.

A sky direction is where particles come from. Each is followed back as its antiparticle, sent out along +n. Positions,
paths and Larmor radii are in one unit of length; see `diffcr.trajectory` for the sign of the charge.

Paths are not differentiated in reverse mode. Forward-mode derivatives exist, and leave out, as they must, that the
number of steps to the edge jumps.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from .errors import InputError, is_known
from .pusher import _cross, _rotate
from .trajectory import _chunk, _require_start, require_step
from .turbulence import Field

_DIAMETERS = 50
"""Longest path by default, in diameters of the region."""

_SHORTEST = 1e-6
"""Shortest step that a function of the place can ask for, over the longest path: no path takes for ever."""

_ROOT_STEPS = 12


class Sphere(eqx.Module):
    """A region: the inside of a sphere.

    Attributes:
        radius: In the unit of positions.
        centre: Shape (3,).
    """

    radius: float | Float[Array, ""]
    centre: Float[Array, "3"] = eqx.field(converter=lambda v: jnp.asarray(v, float), default=(0.0, 0.0, 0.0))

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, " particle"]:
        """Distance from the sphere, negative inside."""
        return jnp.linalg.norm(position - self.centre.astype(position.dtype)[:, None], axis=0) - self.radius


class Exits(eqx.Module):
    """Where particles that arrive at Earth came into the region.

    Attributes:
        sky_direction: Unit vectors at Earth towards where they come from, shape (3, particle).
        direction: The same outside, at the edge, shape (3, particle).
        position: Places on the edge, shape (3, particle).
        momentum: Momentum outside over that at Earth; 1 without an electric field.
        path: Length of the path.
        escaped: Whether the path backwards reached the edge. Of one that did not, the last point reached is kept.
    """

    sky_direction: Float[Array, "3 particle"]
    direction: Float[Array, "3 particle"]
    position: Float[Array, "3 particle"]
    momentum: Float[Array, " particle"]
    path: Float[Array, " particle"]
    escaped: Bool[Array, " particle"]

    @property
    def deflection(self) -> Float[Array, " particle"]:
        """Angle between the directions outside and at Earth [rad]."""
        across = jnp.linalg.norm(_cross(self.sky_direction, self.direction), axis=0)
        return jnp.arctan2(across, jnp.sum(self.sky_direction * self.direction, axis=0))

    @property
    def num_trapped(self) -> int:
        """How many paths did not reach the edge."""
        return int(jnp.sum(~self.escaped))

    def require_escaped(self) -> "Exits":
        """These exits, where every path reached the edge; traced ones have no values to check and pass.

        Raises:
            InputError: If one did not.
        """
        if is_known(self.escaped) and self.num_trapped:
            raise InputError(
                f"{self.num_trapped} of {self.escaped.size} particles did not leave the region on the longest path "
                "allowed: raise max_duration, or keep_trapped=True to leave these directions without a value"
            )
        return self


# Paths to the edge -----------------------------------------------------------------------------------------


def find_exits(
    field: Field,
    larmor_radius: Real[ArrayLike, ""],
    sky_direction: Float[ArrayLike, "3 particle"],
    *,
    region: Real[ArrayLike, ""] | Callable,
    step: float | int | Callable,
    position: Real[ArrayLike, "3"] | tuple | list = (0.0, 0.0, 0.0),
    max_duration: float | int | None = None,
    electric: Field | None = None,
    chunk: int | None = None,
    keep_trapped: bool = False,
) -> Exits:
    """Follow the particles that arrive from given directions back to the edge of the region.

    Steps are drift, half a kick of E, rotation, half a kick, drift: of second order. The edge is
    found on a shortened last step; a crossing out and in within one step is not seen.

    Args:
        field: B(x), of any unit.
        larmor_radius: Of the particle at Earth in a field of one unit, with the sign of its charge.
        sky_direction: Unit vectors at Earth towards where the particles come from, shape (3, particle).
        region: Radius of a sphere about the origin, a `Sphere`, or a function of positions (3, particle) that is
            negative inside and crosses zero on the edge.
        step: Length of a step, or a function of positions (3, particle) that gives that of each, positive and
            finite everywhere: shorter where the field is strong or varies. No step is shorter than 1e-6 max_duration.
        position: Where the Earth is, inside.
        max_duration: Longest path followed; by default 50 diameters of a sphere.
        electric: E(x) in the unit of the magnetic field (c = 1), or None for none.
        chunk: Particles followed together, as of `integrate`.
        keep_trapped: Whether to return paths that did not reach the edge, marked, instead of raising.

    Raises:
        InputError: If the Earth is outside, a length is not positive, max_duration is missing, step is too long for the
            Larmor radius or the field's smallest wave, or a particle does not leave and keep_trapped is not set.
    """
    place = np.asarray(position, float) if is_known(position) else jnp.asarray(position)
    if place.shape != (3,):
        raise InputError(f"position of the Earth has the shape (3,), not {place.shape}")
    start, sky_direction = _require_start(place[:, None], sky_direction)
    if not callable(region):
        region = Sphere(region)
    max_duration = _require_lengths(field, larmor_radius, region, start, step, max_duration)
    size = _chunk(chunk, sky_direction.shape[1], 1)
    radius = jnp.asarray(larmor_radius, sky_direction.dtype)
    steps = step if callable(step) else jnp.asarray(step, sky_direction.dtype)
    longest = jnp.asarray(max_duration, sky_direction.dtype)
    found = _all_exits((field, electric), region, radius, steps, longest, start, sky_direction, size)
    exits = Exits(sky_direction, *found)
    return exits if keep_trapped else exits.require_escaped()


# One chunk -------------------------------------------------------------------------------------------------


def _push(fields, radius, state, step):
    """One step of the antiparticle: the magnetic force has the opposite sign of the particle's, the electric not.

    Backwards in time with p' = -p, dp'/ds = q (E - n' x B).
    """
    magnetic, electric = fields
    position, momentum = state
    size = 1.0 if electric is None else jnp.linalg.norm(momentum, axis=0)
    position = position + 0.5 * step / size * momentum
    if electric is not None:
        kick = electric(position).astype(position.dtype) * (0.5 * step / radius)
        momentum = momentum + kick
        size = jnp.linalg.norm(momentum, axis=0)
    turn = magnetic(position).astype(position.dtype) * (-0.5 * step / (radius * size))
    momentum = _rotate(momentum, turn, "boris-tan")
    if electric is None:
        momentum = momentum * (1.5 - 0.5 * jnp.sum(momentum * momentum, axis=0))
        return position + 0.5 * step * momentum, momentum
    momentum = momentum + kick
    return position + 0.5 * step / jnp.linalg.norm(momentum, axis=0) * momentum, momentum


def _one_chunk(fields, region, radius, steps, max_duration, start):
    """Follow until all are out; each rests at its last point inside. Then the edge on a shortened step."""
    shortest = _SHORTEST * max_duration
    length = (lambda x: jnp.maximum(steps(x).astype(x.dtype), shortest)) if callable(steps) else (lambda x: steps)

    def going(carry):
        _, path, out = carry
        return jnp.any(~out & (path < max_duration))

    def advance(carry):
        state, path, out = carry
        step = length(state[0])
        after = _push(fields, radius, state, step)
        free = ~out & (path < max_duration)
        out = out | (free & (region(after[0]) >= 0))
        moved = free & ~out
        state = tuple(jnp.where(moved, new, old) for new, old in zip(after, state, strict=True))
        return state, jnp.where(moved, path + step, path), out

    zero = jnp.zeros_like(start[0][0])
    state, path, out = jax.lax.while_loop(going, advance, (start, zero, zero > 0))
    step = jnp.where(out, length(state[0]), 0.0)
    share = _edge(lambda share: region(_push(fields, radius, state, share * step)[0]), zero)
    position, momentum = _push(fields, radius, state, share * step)
    size = jnp.linalg.norm(momentum, axis=0)
    return momentum / size, position, size, path + share * step, out


def _edge(distance, zero):
    """Root in [0, 1] of a function that is negative at 0 and not at 1: regula falsi of the Illinois kind."""

    def narrow(_, carry):
        low, f_low, high, f_high, last = carry
        middle = jnp.clip(low - f_low * (high - low) / jnp.where(f_high > f_low, f_high - f_low, 1.0), low, high)
        value = distance(middle)
        inside = value < 0
        # The end that stays twice running counts half.
        f_high = jnp.where(inside & (last < 0), f_high / 2, f_high)
        f_low = jnp.where(~inside & (last > 0), f_low / 2, f_low)
        low, f_low = jnp.where(inside, middle, low), jnp.where(inside, value, f_low)
        high, f_high = jnp.where(inside, high, middle), jnp.where(inside, f_high, value)
        return low, f_low, high, f_high, jnp.where(inside, -1.0, 1.0).astype(low.dtype)

    one = jnp.ones_like(zero)
    return jax.lax.fori_loop(0, _ROOT_STEPS, narrow, (zero, distance(zero), one, distance(one), zero))[2]


@eqx.filter_jit
def _all_exits(fields, region, radius, steps, max_duration, position, direction, chunk: int):
    number = direction.shape[1]
    order = np.minimum(np.arange(math.ceil(number / chunk) * chunk), number - 1).reshape(-1, chunk)
    starts = tuple(jnp.moveaxis(v[:, order], 1, 0) for v in (position, direction))
    found = jax.lax.map(lambda start: _one_chunk(fields, region, radius, steps, max_duration, start), starts)
    return tuple(jnp.moveaxis(v, 0, -2).reshape(*v.shape[1:-1], -1)[..., :number] for v in found)


# Checks ----------------------------------------------------------------------------------------------------


def _require_lengths(field, larmor_radius, region, start, step, max_duration):
    if isinstance(region, Sphere) and is_known(region.radius):
        radius = float(region.radius)
        if not (math.isfinite(radius) and radius > 0):
            raise InputError(f"the radius of a region must be finite and above 0, not {radius}")
        max_duration = _DIAMETERS * 2 * radius if max_duration is None else max_duration
    if max_duration is None:
        raise InputError("give max_duration, the longest path to follow: it does not follow from this region")
    lengths = np.asarray(step(start[:, :1])) if callable(step) else [step]
    for each in lengths:
        require_step(field, larmor_radius, max_duration, float(each))
    here = region(start[:, :1])
    if is_known(here) and not np.all(np.asarray(here) < 0):
        raise InputError(
            f"the Earth is {float(here[0]):g} outside the region: the region's function must be negative at position"
        )
    return max_duration
