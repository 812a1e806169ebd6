r"""Pitch-angle diffusion: the anisotropy aligned with the local field, its multipoles, and its relaxation.

Gyrotropic particles of speed v with pitch-angle cosine mu about a field B along z, in a density gradient along it, obey

$$ v \mu\, \partial_z f_0 = \partial_\mu (D\, \partial_\mu f_1), \qquad
   \partial_\mu f_1 = -\frac{v}{2} \frac{1 - \mu^2}{D}\, \partial_z f_0, $$

D = D_mumu(mu) the coefficient of pitch-angle diffusion. mu is that of the *momentum*: the sky shows a particle where it
comes from, at the angle n . B = -mu, so that a density that increases along B is seen as an excess around +B.

Every integral over mu is of the form int w(mu) (1 - mu^2) / D with smooth w; D may vanish at mu = 0 less than
linearly, as in quasi-linear theory, and does at mu = +-1. Double-exponential quadrature on either half takes that
without loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError, is_known

Scattering = Callable[[Float[Array, " node"]], Float[Array, " node"]]
"""D_mumu as a function of mu, vectorised, in units of nu or D_0 [1/time]."""


# Models of D_mumu ---------------------------------------------------------------------------------------------


def isotropic(mu: Float[ArrayLike, "*mu"], rate: Float[ArrayLike, ""] = 1.0) -> Float[Array, "*mu"]:
    """D = nu (1 - mu^2) / 2: scattering that has no preferred direction; multipole l decays at nu l (l + 1) / 2."""
    mu = jnp.asarray(mu, float)
    return 0.5 * rate * (1 - mu**2)


def quasi_linear(
    mu: Float[ArrayLike, "*mu"],
    index: Float[ArrayLike, ""] = 5 / 3,
    floor: Float[ArrayLike, ""] = 0.0,
    rate: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*mu"]:
    """D = D_0 (1 - mu^2) (|mu|^(q - 1) + h): gyroresonance with slab turbulence of spectrum k^-q, regularised by h.

    Particles at mu = 0 resonate with nothing: for h = 0 and q >= 2 they never turn round, and kappa diverges.

    References:
        Jokipii (1966), ApJ 146, 480.
    """
    mu = jnp.asarray(mu, float)
    return rate * (1 - mu**2) * (_power(jnp.abs(mu), index - 1) + floor)


def broadened(
    mu: Float[ArrayLike, "*mu"],
    index: Float[ArrayLike, ""] = 5 / 3,
    width: Float[ArrayLike, ""] = 0.1,
    rate: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*mu"]:
    """D = D_0 (1 - mu^2) (mu^2 + w^2)^((q - 1) / 2): a resonance of width w in mu, as strong waves make it."""
    mu = jnp.asarray(mu, float)
    return rate * (1 - mu**2) * (mu**2 + width**2) ** ((index - 1) / 2)


def enhanced(
    mu: Float[ArrayLike, "*mu"],
    strength: Float[ArrayLike, ""] = 1.0,
    width: Float[ArrayLike, ""] = 0.2,
    centre: Float[ArrayLike, ""] = 0.0,
    rate: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*mu"]:
    """D = nu (1 - mu^2) / 2 [1 + s exp(-(|mu| - c)^2 / 2 w^2)]: more scattering near |mu| = c.

    With c = 0 the profile is flat across the field, with c = 1 about the field's direction.

    References:
        Giacinti & Kirk (2017), ApJ 835, 258, for what enhanced scattering does to the profile.
    """
    mu = jnp.asarray(mu, float)
    return 0.5 * rate * (1 - mu**2) * (1 + strength * jnp.exp(-0.5 * ((jnp.abs(mu) - centre) / width) ** 2))


def _power(x: Array, exponent) -> Array:
    """x^exponent with derivatives at x = 0 that are zero instead of NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1.0) ** exponent, jnp.where(exponent == 0, 1.0, 0.0))


# What follows from it -----------------------------------------------------------------------------------------


def parallel_diffusion(scattering: Scattering, speed: Float[ArrayLike, ""] = 1.0) -> Float[Array, ""]:
    r"""$\kappa_\parallel = \frac{v^2}{8} \int_{-1}^{1} (1 - \mu^2)^2 / D\, d\mu$.

    Args:
        scattering: D_mumu, even or not.
        speed: v, in the unit of length that kappa is wanted in.

    References:
        Hasselmann & Wibberenz (1970), ApJ 162, 1049.
    """
    mu, weight, ratio = _nodes_and_ratio(scattering)
    return speed**2 / 8 * jnp.sum(weight * ratio * (1 - mu**2))


def legendre_moments(scattering: Scattering, l_max: int) -> Float[Array, " degree"]:
    r"""$G_l = \int_{-1}^1 g P_l\, d\mu$ of the profile $g' = (1 - \mu^2) / D$, for l = 1 .. l_max.

    By parts, $G_l = \frac{1}{l (l + 1)} \int (1 - \mu^2)^2 P_l' / D\, d\mu$: no constant of g enters. Even l vanish
    where D is even. C_l / C_1 = (G_l / G_1)^2, and 3 kappa = (3/4) v^2 G_1.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, at least 1.
    """
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or l_max < 1:
        raise InputError(f"l_max of a pitch-angle profile must be a whole number of at least 1, not {l_max!r}")
    mu, weight, ratio = _nodes_and_ratio(scattering)
    slope = jnp.asarray(_legendre_slopes(mu, l_max))
    degree = jnp.arange(1, l_max + 1)
    return slope @ (weight * ratio * (1 - mu**2)) / (degree * (degree + 1))


def profile(mu: Float[ArrayLike, "*mu"], scattering: Scattering) -> Float[Array, "*mu"]:
    r"""$g(\mu) = \int_0^\mu (1 - \mu'^2) / D\, d\mu'$ over its value at mu = 1, at any mu in [-1, 1].

    Monotonic: steep where D / (1 - mu^2) is small. f_1 = -(v / 2) g(mu) d_z f_0 times that value, plus the constant
    that makes its mean zero where D is not even.

    Args:
        mu: Pitch-angle cosines, any shape.
        scattering: D_mumu.
    """
    mu = jnp.asarray(mu, float)
    x, weight = (jnp.asarray(a) for a in _half_nodes())

    def integral(end):
        at = end * x
        return end * jnp.sum(weight * _ratio(scattering, at))

    flat = jax.vmap(integral)(mu.reshape(-1))
    return (flat / integral(jnp.asarray(1.0))).reshape(mu.shape)


def sky_coefficients(
    scattering: Scattering,
    field: Float[ArrayLike, "3"],
    gradient: Float[ArrayLike, ""],
    l_max: int,
    speed: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, " coefficient"]:
    r"""Multipoles of the sky that a density gradient along the field makes, real basis of `diffcr.harmonics`.

    $\delta I(n) = f_1(\mu = -n \cdot B) / f_0$ with multipoles
    $s_{lm} = \pi v\, (\partial_z \ln n)\, (-1)^{l+1} G_l R_{lm}(B)$: its dipole is 3 kappa_par grad n / (v n), towards
    more particles.

    Args:
        scattering: D_mumu.
        field: Unit vector B, shape (3,), in the frame of the result.
        gradient: d ln n / dz along B [1 / length]; positive where there are more particles along +B.
        l_max: Highest degree.
        speed: v, length per time, the time that of D_mumu.

    Returns:
        Coefficients, shape ((l_max + 1)^2,), zero for l = 0.
    """
    from .harmonics import evaluate_at

    field = jnp.asarray(field, float)
    moments = legendre_moments(scattering, l_max)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    basis = jax.vmap(lambda unit: evaluate_at(unit, field))(jnp.eye(len(degree)))
    size = jnp.concatenate([jnp.zeros(1), jnp.pi * speed * gradient * moments * (-1.0) ** (jnp.arange(l_max))])
    return size[degree] * basis


def relaxation(
    initial: Float[ArrayLike, " cell"], scattering: Scattering, time: Float[ArrayLike, "*time"]
) -> Float[Array, "*time cell"]:
    r"""Solution of $\partial_t f = \partial_\mu (D\, \partial_\mu f)$ from initial means over equal cells of mu.

    Finite volumes: the flux between two cells is (1 - mu^2) at their face times their difference over the integral of
    (1 - mu^2) / D between their centres, so that a D that vanishes at mu = 0 is taken as it is. The particle number is
    conserved to rounding, and the matrix is
    symmetric: the exact exponential comes from its eigenvectors. Errors fall as 1 / cells^2 for smooth D.

    Args:
        initial: Mean of f in equal cells of mu from -1 to 1, shape (cell,); an even number puts a face at mu = 0.
        scattering: D_mumu.
        time: Times, in the unit of 1 / D.

    Returns:
        Means of f in the cells, shape (*time, cell).
    """
    initial, time = jnp.asarray(initial, float), jnp.asarray(time, float)
    cells = initial.shape[0]
    width = 2 / cells
    face = jnp.linspace(-1, 1, cells + 1)[1:-1]
    x, weight = (jnp.asarray(a) for a in _half_nodes())
    halves = jnp.stack([face[:, None] - width / 2 * x, face[:, None] + width / 2 * x])
    ratio = _ratio(scattering, halves.reshape(-1)).reshape(halves.shape)
    flow = (1 - face**2) / (jnp.sum(weight * ratio, axis=(0, 2)) * width**2 / 2)
    matrix = jnp.diag(flow, 1) + jnp.diag(flow, -1)
    matrix = matrix - jnp.diag(jnp.sum(matrix, axis=1))
    rates, modes = jnp.linalg.eigh(matrix)
    return jnp.exp(time[..., None] * rates) * (modes.T @ initial) @ modes.T


def require_scattering(scattering: Scattering) -> Scattering:
    """The same D_mumu, once its values were looked at.

    Raises:
        InputError: If D is not finite and positive inside (-1, 1), or vanishes at mu = 0 so fast that kappa_par
        diverges.
    """
    mu = np.concatenate([_half_nodes()[0], -_half_nodes()[0]])
    mu = mu[(np.abs(mu) < 1 - 1e-9) & (np.abs(mu) > 1e-60)]
    values = scattering(jnp.asarray(mu))
    if not is_known(values):
        return scattering
    values = np.asarray(values)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        raise InputError(
            f"D_mumu must be positive inside (-1, 1), not {values[bad[0]]:g} at mu = {mu[bad[0]]:.3g}: no particle "
            "turns round there, and kappa_par diverges; add a floor"
        )
    small = np.array([1e-8, 1e-7])
    steepness = np.diff(np.log(np.asarray(scattering(jnp.asarray(small))))).item() / np.log(10)
    if steepness > 0.999:
        raise InputError(
            f"D_mumu falls as |mu|^{steepness:.2f} towards mu = 0, where kappa_par diverges for a power of 1 or more "
            "(q >= 2 of quasi-linear theory); give a smaller q, or a floor"
        )
    return scattering


# Quadrature ---------------------------------------------------------------------------------------------------


def _half_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Double-exponential nodes and weights on [0, 1] (Takahasi & Mori 1974), for integrands singular at either end."""
    # Down to x = 1e-275: of an integrand x^-0.9 a tenth of the decades counts.
    t = np.linspace(-6.0, 3.4, 189)
    argument = np.pi / 2 * np.sinh(t)
    x = 1 / (1 + np.exp(-2 * argument))
    weight = (t[1] - t[0]) * np.pi * np.cosh(t) * x * (1 - x)
    return x, weight


def _nodes_and_ratio(scattering: Scattering) -> tuple[np.ndarray, np.ndarray, Array]:
    """Nodes mu on both halves, their weights, and (1 - mu^2) / D there."""
    x, weight = _half_nodes()
    mu, weight = np.concatenate([-x, x]), np.concatenate([weight, weight])
    return mu, weight, _ratio(scattering, jnp.asarray(mu))


def _ratio(scattering: Scattering, mu: Array) -> Array:
    """(1 - mu^2) / D; zero where 1 - mu^2 has rounded to zero, where nothing is missed."""
    value = scattering(mu)
    inside = (1 - mu**2 > 1e-14) & (value > 0)
    return jnp.where(inside, (1 - mu**2) / jnp.where(inside, value, 1.0), 0.0)


def _legendre_slopes(mu: np.ndarray, l_max: int) -> np.ndarray:
    """P_l'(mu) for l = 1 .. l_max, shape (l_max, node)."""
    series = np.polynomial.legendre
    return np.stack([series.legval(mu, series.legder([0] * l + [1])) for l in range(1, l_max + 1)])
