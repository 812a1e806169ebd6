r"""Pitch-angle diffusion: the anisotropy aligned with the local field, and its multipoles.

Gyrotropic particles of speed v with pitch-angle cosine mu about a field B along z, in a density gradient along it, obey

$$ v \mu\, \partial_z f_0 = \partial_\mu (D\, \partial_\mu f_1), \qquad
   \partial_\mu f_1 = -\frac{v}{2} \frac{1 - \mu^2}{D}\, \partial_z f_0, $$

D = D_mumu(mu) the coefficient of pitch-angle diffusion. mu is that of the *momentum*: the sky shows a particle where it
comes from, at the angle n . B = -mu, so that a density that increases along B is seen as an excess around +B.

Every integral over mu is of the form int w(mu) (1 - mu^2) / D with smooth w; D may vanish at mu = 0 less than
linearly, as in quasi-linear theory, and does at mu = +-1. Double-exponential quadrature on either half takes that
without loss. How profiles come about in time is in `diffcr.pitch_angle_relaxation`.
"""

import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .harmonics import degrees_and_orders, evaluate_at
from .pitch_angle_quadrature import Scattering as Scattering
from .pitch_angle_quadrature import nodes, ratios, slopes
from .pitch_angle_quadrature import require_scattering as require_scattering

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
    return rate * (1 - mu**2) * _power(jnp.hypot(mu, width), index - 1)


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


FAMILIES: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "isotropic": (isotropic, ()),
    "quasi-linear": (quasi_linear, ("index", "floor")),
    "broadened": (broadened, ("index", "width")),
    "enhanced": (enhanced, ("strength", "width", "centre")),
}
"""The models above by name: the function, and the parameters that shape the profile (`rate` only scales it)."""


def family(name: str, **parameters: Real[ArrayLike, ""]) -> Scattering:
    """One of `FAMILIES` with its parameters, the rest of them and `rate` at their defaults.

    The result is a PyTree with the parameters as leaves: it may pass through jit, grad and vmap.

    Args:
        name: Of `FAMILIES`.
        parameters: By the names that `FAMILIES` lists, and `rate`; numbers, traced ones included.

    Raises:
        InputError: If the name or a parameter is unknown, or if a value is out of range: index at least 1, and below 2
            where floor or width is zero, as kappa_par diverges from q = 2 on; floor not negative; strength above -1;
            centre from 0 to 1; width of `enhanced` at least 0.02, the finest that the quadrature resolves.
    """
    if name not in FAMILIES:
        raise InputError(f"there is no family {name!r} of D_mumu: choose one of {', '.join(FAMILIES)}")
    function, names = FAMILIES[name]
    for key in parameters:
        if key not in (*names, "rate"):
            raise InputError(
                f"the family {name!r} of D_mumu has no parameter {key!r}: it takes {', '.join((*names, 'rate'))}"
            )
    defaults = {key: each.default for key, each in inspect.signature(function).parameters.items() if key != "mu"}
    _require_parameters(name, {key: v for key, v in (defaults | parameters).items() if is_known(v)})
    return jax.tree_util.Partial(function, **parameters)


def _require_parameters(name: str, known: dict) -> None:
    """Refuse values out of range, among those that are not traced."""
    for key, value in known.items():
        low, high, why = _RANGES[key]
        if key == "width" and name == "enhanced":
            low, why = 0.02, "the finest that the quadrature over mu resolves is 0.02"
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (low <= number <= high and number < math.inf and number not in _OPEN.get(key, ())):
            raise InputError(f"{key} of the family {name!r} of D_mumu must not be {value!r}: {why}")
    regular = known.get({"quasi-linear": "floor", "broadened": "width"}.get(name), 1.0)
    if "index" in known and known["index"] >= 2 and regular == 0:
        key = "floor" if name == "quasi-linear" else "width"
        raise InputError(
            f"kappa_par diverges for index q = {float(known['index']):g} of the family {name!r} of D_mumu with {key} 0 "
            f"(q >= 2): give a smaller q, or a {key} above 0"
        )


_RANGES = {
    "rate": (0.0, math.inf, "a rate is positive, or no particle turns round and kappa_par diverges"),
    "index": (1.0, math.inf, "the index q of the turbulence is at least 1, and below 2 or kappa_par diverges"),
    "floor": (0.0, math.inf, "a floor is not negative; D_mumu would be, and kappa_par diverge for all q"),
    "width": (0.0, math.inf, "a width is not negative; at 0 kappa_par diverges for q >= 2"),
    "strength": (-1.0, math.inf, "it is above -1, where D_mumu vanishes and kappa_par diverges as it does for q >= 2"),
    "centre": (0.0, 1.0, "the centre is a value of |mu|, from 0 to 1"),
}
"""Least and greatest value, and why."""

_OPEN = {"rate": (0.0,), "strength": (-1.0,)}
"""Ends of the ranges that do not belong to them."""


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

    Raises:
        InputError: If D is not one for which kappa_par is finite; see `require_scattering`.

    References:
        Hasselmann & Wibberenz (1970), ApJ 162, 1049.
    """
    require_scattering(scattering, resolved=False)
    mu, weight = nodes()
    return speed**2 / 8 * jnp.sum(weight * ratios(scattering, mu) * (1 - mu**2))


def legendre_moments(scattering: Scattering, l_max: int) -> Float[Array, " degree"]:
    r"""$G_l = \int_{-1}^1 g P_l\, d\mu$ of the profile $g' = (1 - \mu^2) / D$, for l = 1 .. l_max.

    By parts, $G_l = \frac{1}{l (l + 1)} \int (1 - \mu^2)^2 P_l' / D\, d\mu$: no constant of g enters. Even l vanish
    where D is even. C_l / C_1 = (G_l / G_1)^2, and 3 kappa = (3/4) v^2 G_1.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, from 1 to 150.

    Raises:
        InputError: If l_max is out of that range.
    """
    require_scattering(scattering, resolved=False)
    _require_degree(l_max)
    mu, weight = nodes()
    return jnp.sum(slopes(l_max) * (weight * ratios(scattering, mu)), axis=(1, 2))


def relative_profile(scattering: Scattering, l_max: int) -> Float[Array, " degree"]:
    r"""p_l of the sky profile $\delta I(n) = s \sum_l p_l P_l(n \cdot B)$ for l = 1 .. l_max, with p_1 = 1.

    $p_l = (-1)^{l+1} \frac{2l + 1}{3} G_l / G_1$, the sign by mu = -n . B, and s is the strength of the dipole along B:
    3 kappa_par (d_z ln n) / v, positive where the density rises along +B. s p_l is the same in any unit of time, and
    C_l / C_1 = (G_l / G_1)^2 = (3 p_l / (2l + 1))^2. Even l vanish where D is even.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, from 1 to 150.

    Raises:
        InputError: If l_max is out of that range.
    """
    moments = legendre_moments(scattering, l_max)
    degree = jnp.arange(1, l_max + 1)
    return (-1.0) ** (degree + 1) * (2 * degree + 1) / 3 * (moments / moments[0])


def profile(mu: Float[ArrayLike, "*mu"], scattering: Scattering) -> Float[Array, "*mu"]:
    r"""$g(\mu) = \int_0^\mu (1 - \mu'^2) / D\, d\mu'$ over its value at mu = 1, at any mu in [-1, 1].

    Monotonic: steep where D / (1 - mu^2) is small. f_1 = -(v / 2) g(mu) d_z f_0 times that value, plus the constant
    that makes its mean zero where D is not even.

    Args:
        mu: Pitch-angle cosines, any shape.
        scattering: D_mumu.

    Raises:
        InputError: If D is not one for which kappa_par is finite; see `require_scattering`.
    """
    require_scattering(scattering, resolved=False)
    mu = jnp.asarray(mu, float)
    x, weight = (jnp.asarray(each[0]) for each in nodes())

    def integral(end):
        return end * jnp.sum(weight * ratios(scattering, end * x))

    flat = jax.vmap(integral)(mu.reshape(-1))
    return (flat / integral(jnp.asarray(1.0))).reshape(mu.shape)


def aligned_sky(
    relative: Float[ArrayLike, " degree"], field: Float[ArrayLike, "3"], strength: Real[ArrayLike, ""] = 1.0
) -> Float[Array, " coefficient"]:
    r"""Multipoles of $s \sum_l p_l P_l(n \cdot B)$, real basis of `diffcr.harmonics`.

    All m take part where B is not the pole of the frame.

    $s_{lm} = \frac{4 \pi}{2l + 1} s\, p_l R_{lm}(B)$: C_l = 4 pi s^2 p_l^2 / (2l + 1)^2.

    Args:
        relative: p_l of l = 1 .. l_max, as of `relative_profile`.
        field: Unit vector B, shape (3,), in the frame of the result.
        strength: s, the dipole along B, where p_1 = 1.

    Returns:
        Coefficients, shape ((l_max + 1)^2,), zero for l = 0.
    """
    relative, field = jnp.asarray(relative, float), jnp.asarray(field, float)
    degree, _ = degrees_and_orders(relative.shape[0])
    # The value of a field is linear in its coefficients: the basis at B is its gradient.
    basis = jax.grad(evaluate_at)(jnp.zeros(len(degree)), field)
    size = 4 * jnp.pi * strength * relative / (2 * jnp.arange(1, relative.shape[0] + 1) + 1)
    return jnp.concatenate([jnp.zeros(1), size])[degree] * basis


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
    strength = 3 * parallel_diffusion(scattering, speed) * gradient / speed
    return aligned_sky(relative_profile(scattering, l_max), field, strength)


def _require_degree(l_max: int) -> None:
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or not 1 <= l_max <= 150:
        raise InputError(
            f"l_max of a pitch-angle profile must be a whole number of at least 1, at most 150, not {l_max!r}"
        )
