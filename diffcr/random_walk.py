r"""Random walks: how far a particle is from where it began after N steps, or after a time.

A step ends where the particle is scattered into a new direction, at an angle theta to the old one whose mean cosine
is g; g = 0 is scattering into any direction alike. Lengths are in any one unit. The mean square is what adds up:
sqrt(N) steps, not sqrt(N times a length), which is no length at all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known

LAWS = {"fixed": 1.0, "exponential": 2.0}
"""Laws of the length of a step, and the mean square of a step over the square of its mean."""


# Closed forms -------------------------------------------------------------------------------------------------


def rms_distance(
    steps: Real[ArrayLike, "*steps"],
    length: Real[ArrayLike, "..."] = 1.0,
    law: str = "exponential",
    mean_cosine: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Root mean square distance after N steps of mean length lambda.

    $$ \langle d^2 \rangle = \lambda^2 \left[ N m + \frac{2 g}{1 - g}
                             \left( N - \frac{1 - g^N}{1 - g} \right) \right] $$

    with m = <l^2> / lambda^2: 1 for steps of one length, 2 for exponential ones, as between collisions that do not know
    of each other. For g = 0 the distance is sqrt(N) lambda and sqrt(2 N) lambda.

    Args:
        steps: N; not negative.
        length: lambda, the mean length of a step.
        law: "fixed" or "exponential".
        mean_cosine: g, above -1 and below 1.

    Raises:
        InputError: If the law is unknown, or a number out of range.

    References:
        Chandrasekhar (1943), Rev. Mod. Phys. 15, 1, for g = 0 and steps of one length.
    """
    _require("the number of steps", steps, lambda v: v >= 0, "not negative")
    _require_walk(length, law, mean_cosine)
    steps, length, cosine = (jnp.asarray(v, float) for v in (steps, length, mean_cosine))
    # sum over k < N of (N - k) g^k; g^N of N = 0 is 1 also at g = 0.
    safe = jnp.where(cosine == 0, 1.0, cosine)
    power = jnp.where(cosine == 0, jnp.where(steps == 0, 1.0, 0.0), jnp.sign(safe) ** steps * jnp.abs(safe) ** steps)
    pairs = cosine / (1 - cosine) * (steps - (1 - power) / (1 - cosine))
    square = steps * LAWS[law] + 2 * pairs
    # A root has no derivative at zero.
    away = square > 0
    return length * jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)


def mean_square_displacement(
    time: Real[ArrayLike, "..."],
    rate: Real[ArrayLike, "..."] = 1.0,
    speed: Real[ArrayLike, "..."] = 1.0,
    mean_cosine: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""Mean square distance after a time, with collisions that occur at a constant rate.

    $$ \langle r^2 \rangle = 2 \frac{v^2}{\nu_1^2} \left( \nu_1 t - 1 + e^{-\nu_1 t} \right), \qquad
       \nu_1 = \nu (1 - g): $$

    (v t)^2 at first, 6 K t in the end, with K = v^2 / (3 nu_1). Exact at every time, as velocities forget each other
    by exp(-nu_1 t).

    Args:
        time: t; not negative.
        rate: nu, collisions per time; above 0.
        speed: v.
        mean_cosine: g of a collision, above -1 and below 1.

    Raises:
        InputError: If a number is out of range.

    References:
        Uhlenbeck & Ornstein (1930), Phys. Rev. 36, 823; Taylor (1922), Proc. London Math. Soc. 20, 196.
    """
    _require("the time of a random walk", time, lambda v: v >= 0, "not negative")
    _require("the rate of collisions", rate, lambda v: v > 0, "above zero")
    _require_walk(speed, "exponential", mean_cosine)
    time, rate, speed, cosine = (jnp.asarray(v, float) for v in (time, rate, speed, mean_cosine))
    return 2 * (speed * time) ** 2 * _second_remainder(rate * (1 - cosine) * time)


def diffusion_coefficient(
    length: Real[ArrayLike, "..."] = 1.0,
    speed: Real[ArrayLike, "..."] = 1.0,
    law: str = "exponential",
    mean_cosine: Real[ArrayLike, "..."] = 0.0,
) -> Float[Array, "..."]:
    r"""K = lim <d^2> / 6 t of a walk at constant speed: $\frac{v \lambda}{6} \left[ m + \frac{2 g}{1 - g} \right]$.

    v lambda / 3 for exponential steps, half as much for steps of one length: a mean free path alone does not
    tell the coefficient.

    Args:
        length: lambda, the mean length of a step.
        speed: v.
        law: "fixed" or "exponential".
        mean_cosine: g, above -1 and below 1.

    Raises:
        InputError: If the law is unknown, or a number out of range.
    """
    _require_walk(length, law, mean_cosine)
    _require("the speed of a random walk", speed, lambda v: v >= 0, "not negative")
    length, speed, cosine = (jnp.asarray(v, float) for v in (length, speed, mean_cosine))
    return speed * length / 6 * (LAWS[law] + 2 * cosine / (1 - cosine))


# Walks --------------------------------------------------------------------------------------------------------


def walk(
    key: Array,
    number: int,
    steps: int,
    length: Real[ArrayLike, ""] = 1.0,
    law: str = "exponential",
    mean_cosine: Real[ArrayLike, ""] = 0.0,
) -> Float[Array, "3 particle"]:
    """Where particles are after N steps from the origin, whose first directions are isotropic.

    Args:
        key: Key of jax.random; the same key gives the same walks.
        number: How many particles.
        steps: N of each.
        length: Mean length of a step.
        law: "fixed" or "exponential".
        mean_cosine: g of the law of Henyey & Greenstein, by which each step turns away from the one before; 0 is
            isotropic. `rms_distance` holds for any law of this mean.

    Raises:
        InputError: If a number is out of range or not whole, or the law unknown.

    References:
        Henyey & Greenstein (1941), ApJ 93, 70.
    """
    for what, count, least in (("particles", number, 1), ("steps", steps, 0)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            raise InputError(f"a random walk needs a whole number of {what} of at least {least}, not {count!r}")
    _require_walk(length, law, mean_cosine)
    first, rest = jax.random.split(key)
    length = jnp.asarray(length, float)

    def step(n, state):
        position, direction = state
        turn, stretch = jax.random.split(jax.random.fold_in(rest, n))
        far = jax.random.exponential(stretch, (number,)) if law == "exponential" else jnp.ones(number)
        return position + length * far * direction, scatter(turn, direction, mean_cosine)

    start = jnp.zeros((3, number)), _isotropic(first, number)
    return jax.lax.fori_loop(0, steps, step, start)[0]


def scatter(
    key: Array, direction: Float[Array, "3 particle"], mean_cosine: Real[ArrayLike, ""] = 0.0
) -> Float[Array, "3 particle"]:
    """Directions after one collision: turned by the law of Henyey & Greenstein about the ones before.

    Args:
        key: Key of jax.random.
        direction: Unit vectors, shape (3, particle).
        mean_cosine: g, above -1 and below 1; with 0 the new directions have nothing to do with the old.
    """
    uniform, azimuth = jax.random.uniform(key, (2, direction.shape[1]))
    g = jnp.asarray(mean_cosine, float)
    safe = jnp.where(g == 0, 1.0, g)
    ratio = (1 - g**2) / (1 - g + 2 * g * uniform)
    cosine = jnp.where(g == 0, 2 * uniform - 1, (1 + g**2 - ratio**2) / (2 * safe))
    cosine = jnp.clip(cosine, -1, 1)
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0))
    across, other = _frame(direction)
    angle = 2 * jnp.pi * azimuth
    turned = cosine * direction + sine * (jnp.cos(angle) * across + jnp.sin(angle) * other)
    return turned / jnp.linalg.norm(turned, axis=0)


# Helpers ------------------------------------------------------------------------------------------------------


def _isotropic(key: Array, number: int) -> Float[Array, "3 particle"]:
    vector = jax.random.normal(key, (3, number))
    return vector / jnp.linalg.norm(vector, axis=0)


def _frame(direction: Float[Array, "3 particle"]) -> tuple[Array, Array]:
    """Two unit vectors across each direction: Duff et al. (2017), J. Comput. Graph. Tech. 6, 1."""
    x, y, z = direction
    sign = jnp.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    b = x * y * a
    return jnp.stack([1 + sign * x * x * a, sign * b, -sign * x]), jnp.stack([b, sign + y * y * a, -y])


def _second_remainder(x: Array) -> Array:
    """(x - 1 + exp(-x)) / x^2, whose terms cancel at small x."""
    small = x < 0.1
    series = sum(((-x) ** k / float(np.prod(np.arange(1.0, k + 3))) for k in range(9)), jnp.zeros_like(x))
    safe = jnp.where(small, 1.0, x)
    return jnp.where(small, series, (safe + jnp.expm1(-safe)) / safe**2)


def _require_walk(length, law: str, mean_cosine) -> None:
    if law not in LAWS:
        raise InputError(f"the law of a step must be one of {', '.join(LAWS)}, not {law!r}")
    _require("the length or speed of a random walk", length, lambda v: v >= 0, "not negative")
    _require("the mean cosine of a collision", mean_cosine, lambda v: abs(v) < 1, "above -1 and below 1")


def _require(what: str, value, good, must: str) -> None:
    if not is_known(value):
        return
    values = np.atleast_1d(np.asarray(value, float)).ravel()
    bad = [v for v in values if not (np.isfinite(v) and good(v))]
    if bad:
        raise InputError(f"{what} must be finite and {must}, not {bad[0]:g}")
