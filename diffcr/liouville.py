r"""Liouville's theorem on trajectories: phase-space volume, its symplectic form, and skies forwards and backwards.

With c = 1 and |p| in units of the momentum that has `larmor_radius` in a field of one unit, a particle obeys
dx/dt = p / |p| and dp/dt = p x B / (|p| r_L): a magnetic field turns the momentum and keeps its magnitude. The map
(x, p) -> (x', p') over a time keeps volumes, so that the phase-space density f is the same all along a path. The sky at
a place is then the distribution of long ago at the other ends of the paths that meet there.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .trajectory import backtrack_antiparticle, integrate, isotropic_directions
from .turbulence import Field

Distribution = Callable[[Float[Array, "3 particle"], Float[Array, "3 particle"]], Float[Array, " particle"]]
"""f(x, p / |p|) at one time, any unit, nowhere negative; arrays of shape (3, particle)."""


# Phase-space volume -------------------------------------------------------------------------------------------


def flow_jacobian(
    field: Field,
    position: Float[ArrayLike, "3 particle"],
    momentum: Float[ArrayLike, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
) -> Float[Array, "particle 6 6"]:
    """Derivatives of (x', p') after a time with respect to (x, p), by forward differentiation of the trajectories.

    Beyond Omega T of about 10 turbulence makes its entries huge, and determinants of it lose their digits.

    Args:
        field: B(x).
        position: x at the start, shape (3, particle).
        momentum: p at the start, of any magnitude but zero, shape (3, particle).
        larmor_radius: Of |p| = 1 in a field of one unit, with the sign of the charge.
        duration: Path length.
        step: As of `trajectory.integrate`, for |p| = 1.

    Returns:
        Rows x', p', columns x, p, shape (particle, 6, 6).

    Raises:
        InputError: If a momentum is zero, and as of `trajectory.integrate`.
    """
    momentum = jnp.asarray(momentum, float)
    if is_known(momentum) and not np.all(np.linalg.norm(np.asarray(momentum), axis=0) > 0):
        raise InputError("momenta must not be zero: a particle at rest has no trajectory here")

    def flow(state):
        size = jnp.linalg.norm(state[3:])
        start = state[:3, None], state[3:, None] / size
        end = integrate(field, *start, larmor_radius * size, duration, step, chunk=1)
        return jnp.concatenate([end.position[:, 0], size * end.direction[:, 0]])

    states = jnp.concatenate([jnp.asarray(position, float), momentum]).T
    return jax.vmap(jax.jacfwd(flow))(states)


def volume_change(jacobian: Float[ArrayLike, "*batch 6 6"]) -> Float[Array, "*batch"]:
    """Phase-space volume after over that before: the determinant, 1 by Liouville's theorem."""
    return jnp.linalg.det(jnp.asarray(jacobian))


def symplectic_form(
    field: Field, position: Float[ArrayLike, "3 particle"], larmor_radius: Real[ArrayLike, ""]
) -> Float[Array, "particle 6 6"]:
    r"""$\omega = dp_i \wedge dx_i + \frac{1}{r_L} (B_x\, dy \wedge dz + B_y\, dz \wedge dx + B_z\, dx \wedge dy)$.

    The canonical form, written in x and the kinetic momentum p in place of p + q A: with J the Jacobian of the flow
    from start to end, J^T omega(end) J = omega(start). That is more than det J = 1, which it implies.

    Args:
        field: B(x).
        position: x, shape (3, particle).
        larmor_radius: Of |p| = 1 in a field of one unit, with the sign of the charge.

    Returns:
        Antisymmetric matrices, rows and columns x, p, shape (particle, 6, 6).

    References:
        Littlejohn (1979), J. Math. Phys. 20, 2445.
    """
    bx, by, bz = field(jnp.asarray(position, float)) / larmor_radius
    zero = jnp.zeros_like(bx)
    magnetic = jnp.stack([jnp.stack(row, -1) for row in ([zero, bz, -by], [-bz, zero, bx], [by, -bx, zero])], -2)
    one = jnp.broadcast_to(jnp.eye(3), magnetic.shape)
    return jnp.block([[magnetic, -one], [one, jnp.zeros_like(one)]])


def symplectic_defect(
    jacobian: Float[ArrayLike, "particle 6 6"],
    start: Float[ArrayLike, "particle 6 6"],
    end: Float[ArrayLike, "particle 6 6"],
) -> Float[Array, " particle"]:
    """Largest entry of J^T omega(end) J - omega(start), over the largest that its sum could have lost to rounding.

    Zero to second order in the step: the steps keep volumes exactly, this form only in their limit.

    Args:
        jacobian: From `flow_jacobian`.
        start: `symplectic_form` where the particles began.
        end: The same where they ended.
    """
    jacobian, start, end = (jnp.asarray(v) for v in (jacobian, start, end))
    size = jnp.max(jnp.abs(jacobian), axis=(-2, -1)) ** 2 * jnp.max(jnp.abs(end), axis=(-2, -1))
    difference = jnp.einsum("pki,pkl,plj->pij", jacobian, end, jacobian) - start
    return jnp.max(jnp.abs(difference), axis=(-2, -1)) / size


# Skies --------------------------------------------------------------------------------------------------------


def density_now(
    initial: Distribution,
    field: Field,
    position: Real[ArrayLike, "3 _"],
    sky_direction: Float[ArrayLike, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    **options: Any,
) -> Float[Array, " particle"]:
    """f of the particles that now arrive from given directions: that of a time `duration` ago where they were.

    Args:
        initial: f(x, p / |p|) then.
        field: B(x), constant in time.
        position: Where they arrive, shape (3, particle) or (3, 1).
        sky_direction: Unit vectors towards where they come from, shape (3, particle).
        larmor_radius: Of the particle, in a field of one unit, with the sign of its charge.
        duration: Path length.
        step: As of `trajectory.integrate`.
        **options: As of `trajectory.integrate`.

    Raises:
        InputError: As of `trajectory.integrate`.
    """
    past = backtrack_antiparticle(field, position, sky_direction, larmor_radius, duration, step, **options)
    return initial(past.position, past.direction)


class Skies(eqx.Module):
    """Mean f of the particles inside a ball around the origin, for HEALPix pixels of arrival directions, RING order.

    Attributes:
        forward: From particles everywhere in reach, followed until now.
        backward: From particles in the ball, traced back.
        forward_error: Standard errors.
        backward_error: Standard errors.
        arrived: How many particles came to be in the ball.
    """

    forward: Float[np.ndarray, " pixel"]
    backward: Float[np.ndarray, " pixel"]
    forward_error: Float[np.ndarray, " pixel"]
    backward_error: Float[np.ndarray, " pixel"]
    arrived: int = eqx.field(static=True)

    @property
    def chi2(self) -> float:
        """Sum over pixels of the squared difference over its variance; about the number of pixels by Liouville."""
        variance = self.forward_error**2 + self.backward_error**2
        return float(np.sum((self.forward - self.backward) ** 2 / variance))


def skies(
    key: Array,
    initial: Distribution,
    field: Field,
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    radius: float,
    number: int,
    nside: int = 1,
) -> Skies:
    """The sky of a distribution a time `duration` later, by following particles forwards, and by tracing them back.

    Forwards, phase space within reach of the ball is filled evenly, and few of its particles end in the ball: a share
    (radius / (radius + duration))^3.

    Args:
        key: Key of jax.random.
        initial: f(x, p / |p|) at first.
        field: B(x), constant in time.
        larmor_radius: In a field of one unit, with the sign of the charge.
        duration: Path length.
        step: As of `trajectory.integrate`.
        radius: Of the ball around the origin.
        number: Particles followed forwards; a tenth of it is traced back.
        nside: Of the pixels.

    Raises:
        InputError: If the radius is not above zero, too few particles arrive, or as of `trajectory.integrate`.
    """
    import healpy

    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"the ball in which particles arrive must have a radius above zero, not {radius!r}")
    keys, reach = jax.random.split(key, 4), radius + duration
    place, direction = _ball(keys[0], number, reach), isotropic_directions(keys[1], number)
    end = integrate(field, place, direction, larmor_radius, duration, step)
    here = np.linalg.norm(np.asarray(end.position), axis=0) < radius
    weight = np.asarray(initial(place, direction))[here]
    pixel = healpy.vec2pix(nside, *-np.asarray(end.direction)[:, here])
    pixels = healpy.nside2npix(nside)
    fullness = np.bincount(pixel, minlength=pixels)
    if fullness.min() < 10:
        share = (radius / reach) ** 3
        raise InputError(
            f"{here.sum()} of {number} particles arrive, {fullness.min()} of them in one pixel: a share {share:.2g} "
            "does; take more of them, a larger ball or a shorter duration"
        )
    scale = pixels * (reach / radius) ** 3 / number
    forward, square = (scale**n * np.bincount(pixel, weight**n, pixels) for n in (1, 2))

    number = max(number // 10, 1)
    place, sky = _ball(keys[2], number, radius), isotropic_directions(keys[3], number)
    value = np.asarray(density_now(initial, field, place, sky, larmor_radius, duration, step))
    pixel = healpy.vec2pix(nside, *np.asarray(sky))
    fullness = np.bincount(pixel, minlength=pixels)
    backward, spread = (np.bincount(pixel, value**n, pixels) / fullness for n in (1, 2))
    error = np.sqrt((spread - backward**2) / fullness)
    return Skies(forward, backward, np.sqrt(square), error, int(here.sum()))


def _ball(key: Array, number: int, radius: float) -> Float[Array, "3 particle"]:
    """Points uniform in a ball around the origin."""
    far_key, direction_key = jax.random.split(key)
    far = radius * jnp.cbrt(jax.random.uniform(far_key, (number,)))
    return far * isotropic_directions(direction_key, number)
