r"""Particles that gyrate and collide: kinetic theory without the diffusion approximation, and where that holds.

Between collisions, which come at a constant rate nu and do not know of each other, a particle of speed v moves on a
helix about a uniform field B: dn/dt = Omega n x B, left-handed about B for positive charges. A collision gives it any
direction alike (the operator of Bhatnagar, Gross & Krook), or turns it by the law of `random_walk.scatter`. Lengths,
times and rates are in any units that fit; in those of the package (pc, yr) the speed of light is
`units.SPEED_OF_LIGHT`, and with K over c in pc a mean free path is 3 K / c.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from .errors import InputError, is_known
from .harmonics import degrees_and_orders, index
from .random_walk import scatter
from .transport import diffusion_tensor

# Particles one by one -----------------------------------------------------------------------------------------


class Particles(eqx.Module):
    """Where particles are after a time, from where they began.

    Attributes:
        position: Displacements, shape (3, particle).
        direction: Unit vectors of motion, shape (3, particle).
        collisions: How many each had, shape (particle,).
    """

    position: Float[Array, "3 particle"]
    direction: Float[Array, "3 particle"]
    collisions: Int[Array, " particle"]


def follow(
    key: Array,
    direction: Float[ArrayLike, "3 particle"],
    duration: Real[ArrayLike, ""],
    rate: Real[ArrayLike, ""] = 1.0,
    gyrofrequency: Real[ArrayLike, ""] = 0.0,
    field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    speed: Real[ArrayLike, ""] = 1.0,
    mean_cosine: Real[ArrayLike, ""] = 0.0,
) -> Particles:
    """Follow particles for a time. Helices and times of collision are exact: there is no step.

    Args:
        key: Key of jax.random; the same key gives the same collisions.
        direction: Unit vectors of motion at the start, shape (3, particle).
        duration: Time; not negative.
        rate: nu, collisions per time; not negative.
        gyrofrequency: Omega, negative for negative charges.
        field: Unit vector B.
        speed: v; not negative.
        mean_cosine: g of a collision, above -1 and below 1; 0 is BGK.

    Raises:
        InputError: If a number is out of range.
    """
    _require("the duration", duration, lambda v: v >= 0, "not negative")
    _require("the rate of collisions", rate, lambda v: v >= 0, "not negative")
    _require("the speed", speed, lambda v: v >= 0, "not negative")
    _require("the gyrofrequency", gyrofrequency, lambda v: True, "a number")
    _require("the mean cosine of a collision", mean_cosine, lambda v: abs(v) < 1, "above -1 and below 1")
    direction, field = jnp.asarray(direction, float), jnp.asarray(field, float)
    number = direction.shape[1]
    rate, duration = jnp.asarray(rate, float), jnp.asarray(duration, float)

    def fly(state):
        n, left, position, direction, collisions = state
        wait_key, turn_key = jax.random.split(jax.random.fold_in(key, n))
        wait = jax.random.exponential(wait_key, (number,)) / jnp.where(rate > 0, rate, 1.0)
        # At a rate of zero flights never end.
        time = jnp.where(rate > 0, jnp.minimum(wait, left), left)
        step, after = _helix(direction, gyrofrequency, field, time)
        left = left - time
        hit = left > 0
        direction = jnp.where(hit, scatter(turn_key, after, mean_cosine), after)
        return n + 1, left, position + speed * step, direction, collisions + hit

    start = 0, jnp.full(number, duration), jnp.zeros((3, number)), direction, jnp.zeros(number, int)
    _, _, *end = jax.lax.while_loop(lambda state: jnp.any(state[1] > 0), fly, start)
    return Particles(*end)


def backtrack(
    key: Array,
    direction: Float[ArrayLike, "3 particle"],
    duration: Real[ArrayLike, ""],
    rate: Real[ArrayLike, ""] = 1.0,
    gyrofrequency: Real[ArrayLike, ""] = 0.0,
    field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    speed: Real[ArrayLike, ""] = 1.0,
    mean_cosine: Real[ArrayLike, ""] = 0.0,
) -> Particles:
    """Where particles that now move along `direction` were, r(-T), and how they moved there.

    Collisions are as likely backwards as forwards; the sense of gyration is that of the antiparticle.
    Arguments and errors are those of `follow`.
    """
    direction = jnp.asarray(direction, float)
    back = follow(key, -direction, duration, rate, -jnp.asarray(gyrofrequency), field, speed, mean_cosine)
    return eqx.tree_at(lambda p: p.direction, back, -back.direction)


def _helix(direction, gyrofrequency, field, time):
    """Displacement for unit speed, and direction after a time."""
    angle = gyrofrequency * time
    along = (field @ direction) * field[:, None]
    across = direction - along
    aside = jnp.cross(across, field[:, None], axis=0)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    # sin(a) / a and (1 - cos(a)) / a, also of a = 0.
    first = jnp.sinc(angle / jnp.pi)
    second = angle / 2 * jnp.sinc(angle / (2 * jnp.pi)) ** 2
    turned = along + cosine * across + sine * aside
    # Normalised: thousands of flights otherwise add up their rounding.
    return time * (along + first * across + second * aside), turned / jnp.linalg.norm(turned, axis=0)


# Correlations and the diffusion tensor ------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over particles, and its standard error."""

    value: Float[Array, "3 3"]
    error: Float[Array, "3 3"]


def velocity_displacement(
    velocity: Float[ArrayLike, "3 particle"], position: Float[ArrayLike, "3 particle"]
) -> Estimate:
    """-<v_i(0) r_j(-T)> of particles traced back, which becomes K_ij; see `running_tensor`."""
    return _product(-jnp.asarray(velocity), jnp.asarray(position))


def displacement_spread(position: Float[ArrayLike, "3 particle"], time: Real[ArrayLike, ""]) -> Estimate:
    """<r_i r_j> / 2 T, which becomes the symmetric part of K_ij; see `spreading_tensor`."""
    mean, error = _product(jnp.asarray(position), jnp.asarray(position))
    return Estimate(mean / (2 * time), error / (2 * time))


def running_tensor(
    time: Real[ArrayLike, ""],
    rate: Real[ArrayLike, ""] = 1.0,
    gyrofrequency: Real[ArrayLike, ""] = 0.0,
    field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    speed: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "3 3"]:
    r"""$K_{ij}(T) = -\langle v_i(0)\, r_j(-T) \rangle = \int_0^T \langle v_i(0)\, v_j(-t) \rangle\, dt$.

    $$ \kappa_\parallel = \frac{v^2}{3} \frac{1 - e^{-\nu T}}{\nu}, \qquad
       \kappa_\perp + i \kappa_A = \frac{v^2}{3} \frac{1 - e^{-z T}}{z}, \quad z = \nu - i \Omega. $$

    In the end that of `transport.bgk_tensor`, which is reached as exp(-nu T): Green (1951), J. Chem. Phys. 19, 1036.

    Args:
        time: T; not negative.
        rate: nu; not negative. With collisions of mean cosine g, nu (1 - g) takes its place.
        gyrofrequency: Omega, negative for negative charges.
        field: Unit vector B.
        speed: v.
    """
    time, rate, omega = (jnp.asarray(v, float) for v in (time, rate, gyrofrequency))
    scale = jnp.asarray(speed, float) ** 2 / 3 * time
    around = _remainder(jax.lax.complex(rate, -omega) * time, 1)
    along = _remainder(jax.lax.complex(rate, jnp.zeros_like(rate)) * time, 1).real
    return diffusion_tensor(scale * along, scale * around.real, scale * around.imag, jnp.asarray(field, float))


def spreading_tensor(
    time: Real[ArrayLike, ""],
    rate: Real[ArrayLike, ""] = 1.0,
    gyrofrequency: Real[ArrayLike, ""] = 0.0,
    field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    speed: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "3 3"]:
    r"""$\langle r_i r_j \rangle / 2 T = \frac{1}{T} \int_0^T K^s_{ij}(t)\, dt$, K^s the symmetric `running_tensor`.

    It reaches its limit only as 1 / (nu T). Its trace is <r^2> / 2 T, where Omega = 0 that of
    `random_walk.mean_square_displacement`. Arguments are those of `running_tensor`.
    """
    time, rate, omega = (jnp.asarray(v, float) for v in (time, rate, gyrofrequency))
    scale = jnp.asarray(speed, float) ** 2 / 3 * time
    around = _remainder(jax.lax.complex(rate, -omega) * time, 2).real
    along = _remainder(jax.lax.complex(rate, jnp.zeros_like(rate)) * time, 2).real
    return diffusion_tensor(scale * along, scale * around, jnp.zeros_like(scale), jnp.asarray(field, float))


def _product(a, b) -> Estimate:
    number = a.shape[1]
    mean, square = a @ b.T / number, (a**2) @ (b**2).T / number
    return Estimate(mean, jnp.sqrt(jnp.maximum(square - mean**2, 0) / number))


def _remainder(z: Array, order: int) -> Array:
    """(1 - exp(-z)) / z for order 1, (z - 1 + exp(-z)) / z^2 for order 2; of complex z, zero among them."""
    small = jnp.abs(z) < 0.1
    factorials = np.cumprod(np.arange(1.0, 12))
    series = sum((-z) ** k / factorials[k + order - 1] for k in range(9))
    safe = jnp.where(small, 1.0, z)
    exact = (1 - jnp.exp(-safe)) / safe if order == 1 else (safe - 1 + jnp.exp(-safe)) / safe**2
    return jnp.where(small, series, exact)


# Relaxation ---------------------------------------------------------------------------------------------------


def relaxed(
    coefficients: Float[ArrayLike, " coefficient"],
    time: Real[ArrayLike, ""],
    rates: Real[ArrayLike, "..."] = 1.0,
    gyrofrequency: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, " coefficient"]:
    r"""Multipoles of a homogeneous gas after a time: each decays, and turns about the field along z.

    $\partial_t f = -\Omega\, (n \times B) \cdot \nabla_n f + C f$: collisions multiply s_lm by exp(-nu_l t), so that
    C_l decays twice as fast; the pattern turns left-handed about +z by Omega t, which leaves C_l alone. Nothing grows.

    Args:
        coefficients: In the real basis of `diffcr.harmonics`, of the distribution of directions or of the sky.
        time: t.
        rates: nu_l: one number for all l >= 1 (BGK), or one for each l = 1 .. l_max: nu l (l + 1) / 2 where
            directions diffuse, nu (1 - g^l) of collisions by `random_walk.scatter`.
        gyrofrequency: Omega, negative for negative charges.

    Raises:
        InputError: If the rates are neither one nor l_max.
    """
    coefficients, rates = jnp.asarray(coefficients, float), jnp.asarray(rates, float)
    l_max = int(np.sqrt(coefficients.shape[0])) - 1
    if rates.shape not in ((), (l_max,)):
        raise InputError(f"a gas with multipoles to l = {l_max} needs one rate or {l_max}, not {rates.shape}")
    degree, order = degrees_and_orders(l_max)
    each = jnp.concatenate([jnp.zeros(1), jnp.broadcast_to(rates, (l_max,))])[degree]
    opposite = np.array([index(int(l), -int(m)) for l, m in zip(degree, order, strict=True)])
    angle = order * gyrofrequency * time
    return jnp.exp(-each * time) * (jnp.cos(angle) * coefficients + jnp.sin(angle) * coefficients[opposite])


def stationary_dipole(ratio: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    r"""Dipole where the density goes as exp(z / L), kept so by isotropic sources or losses in proportion to it.

    With $\epsilon = \lambda / L$, lambda = v / nu the mean free path, the distribution is that of
    $1 / (1 + \epsilon \mu)$ in the cosine of the momentum, and towards more particles

    $$ \delta = \frac{3}{\epsilon} \left( 1 - \frac{\epsilon}{\mathrm{artanh}\, \epsilon} \right)
              = \epsilon \left( 1 + \tfrac{4}{15} \epsilon^2 + \ldots \right). $$

    Fick's law, delta = epsilon, errs at second order only; where the density is *linear* in z it is exact, whatever the
    mean free path. Within a mean free path or two of a boundary it fails.

    Args:
        ratio: epsilon, above -1 and below 1.

    Raises:
        InputError: If it is not.
    """
    _require("the ratio of mean free path and gradient length", ratio, lambda v: abs(v) < 1, "above -1 and below 1")
    ratio = jnp.asarray(ratio, float)
    square = ratio**2
    series = ratio * (1 + square * (4 / 15 + square * (44 / 315 + square * 428 / 4725)))
    small = jnp.abs(ratio) < 0.05
    safe = jnp.where(small, 0.5, ratio)
    return jnp.where(small, series, 3 / safe - 3 / jnp.arctanh(safe))


def _require(what: str, value, good, must: str) -> None:
    if not is_known(value):
        return
    values = np.atleast_1d(np.asarray(value, float)).ravel()
    bad = [v for v in values if not (np.isfinite(v) and good(v))]
    if bad:
        raise InputError(f"{what} must be finite and {must}, not {bad[0]:g}")
