"""What an observer's motion adds to the sky: the Compton-Getting effect of the Sun and of the Earth."""

import difflib

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .harmonics import _recursion, degrees_and_orders
from .sky import earth_velocity, ecliptic_to_equatorial, galactic_to_icrs, icrs_to_galactic, rotate, unit_vector
from .units import DEGREE, KM_PER_S

INTERSTELLAR_FLOWS = {
    "mccomas2015": (25.4, 255.7, 5.1),
    "mccomas2012": (23.2, 259.0, 5.0),
    "witte2004": (26.3, 255.4, 5.2),
}
"""Speed [km/s] of the interstellar gas and J2000 ecliptic longitude and latitude [deg] it flows in from.

The flows of McComas et al. (2015), ApJS 220, 22, and (2012), Science 336, 1291, and of Witte (2004), A&A 426, 835.
"""

_TERMS = 64
"""Of a power series in beta^2."""


def compton_getting_factor(
    direction: Float[ArrayLike, "*batch 3"],
    velocity: Float[ArrayLike, "3"],
    spectral_index: Float[ArrayLike, ""],
) -> Float[Array, "*batch"]:
    r"""Intensity seen by a moving observer, over that seen at rest.

    Where the intensity is isotropic and falls as $E^{-\Gamma}$,

    $$ I(n) / I' = [\gamma (1 - \beta \cdot n)]^{-(2 + \Gamma)}
                 = 1 + (2 + \Gamma)\, \beta \cdot n + O(\beta^2). $$

    Args:
        direction: Unit vectors n that point to where the particles come from.
        velocity: Observer velocity in units of c, in the same frame; |velocity| < 1.
        spectral_index: Gamma, the index of the intensity in energy. Dimensionless.

    Returns:
        I / I', dimensionless, above 1 ahead of the observer.

    References:
        Compton & Getting (1935), Phys. Rev. 47, 817.
        Gleeson & Axford (1968), Ap&SS 2, 431.
    """
    lorentz = 1 / jnp.sqrt(1 - velocity @ velocity)
    return (lorentz * (1 - direction @ velocity)) ** -(2 + spectral_index)


def compton_getting_dipole(
    velocity: Float[ArrayLike, "... 3"], spectral_index: Float[ArrayLike, ""]
) -> Float[Array, "... 3"]:
    """Dipole (2 + Gamma) beta that motion at `velocity` [c] adds, to first order; it points ahead.

    Along the axes of `velocity`. Observed dipole = dipole in the plasma frame + this. Gamma is the index
    of the intensity in energy (2.7: the factor is 4.7).
    """
    return (2 + jnp.asarray(spectral_index)) * jnp.asarray(velocity)


def compton_getting_multipoles(
    velocity: Float[ArrayLike, "*batch 3"], spectral_index: Float[ArrayLike, ""], l_max: int
) -> Float[Array, "*batch coefficient"]:
    r"""Real multipoles of `compton_getting_factor` over its mean on the sky, less 1: exact to all orders in beta.

    With $a = 2 + \Gamma$, the Legendre coefficients of $(1 - \beta\mu)^{-a}$ are

    $$ c_l = \frac{(a)_l}{(2l - 1)!!} \beta^l\, {}_2F_1(\tfrac{a + l}{2}, \tfrac{a + l + 1}{2}; l + \tfrac32; \beta^2),
       \qquad s_{lm} = \frac{4\pi}{2l + 1} \frac{c_l}{c_0} R_{lm}(\hat\beta), $$

    so that the dipole is a beta to first order and c_2 = a (a + 1) beta^2 / 3. beta^l R_lm is a polynomial in the
    components of the velocity: nothing is singular at rest.

    Args:
        velocity: Observer velocity in units of c. Exact to rounding below 0.7; to 1e-7 at 0.9.
        spectral_index: Gamma, the index of the intensity in energy. Dimensionless.
        l_max: Highest degree.

    Returns:
        (..., (l_max + 1)**2) coefficients along the axes of `velocity`, in the order of `harmonics`; the first is 0,
        as that of `dipole_to_coefficients`, to which they are equal in first order.

    Raises:
        InputError: If the speed is not below that of light, or l_max is negative.
    """
    velocity, a = jnp.asarray(velocity, float), 2 + jnp.asarray(spectral_index, float)
    if is_known(velocity) and not np.all(np.sum(np.square(velocity), axis=-1) < 1):
        raise InputError("the speed of an observer must be below 1: velocities are in units of c, 1 km/s is 3.34e-6")
    degree, _ = degrees_and_orders(l_max)
    squared = jnp.sum(velocity**2, axis=-1, keepdims=True)
    l = np.arange(l_max + 1)
    # Euler's transformation of 2F1: its terms fall faster by k^(1 - 2a), and what it takes out is in c_0 as well.
    order = np.arange(_TERMS)[::-1, None]
    ratio = ((l + 2 - a) / 2 + order) * ((l + 3 - a) / 2 + order) / ((l + 1.5 + order) * (1 + order))
    one = jnp.ones((*squared.shape[:-1], l_max + 1))
    series, _ = jax.lax.scan(lambda total, each: (1 + each * squared * total, None), one, ratio)
    growth = jnp.concatenate([jnp.ones(1), jnp.cumprod((a + l[:-1]) / (2 * l[:-1] + 1))])
    profile = 4 * np.pi / (2 * l + 1) * growth * series / series[..., :1]
    return (profile[..., degree] * _solid_harmonics(velocity, l_max)).at[..., 0].set(0.0)


# Velocities -------------------------------------------------------------------------------------------------


def observer_velocity(
    name: str, frame: str = "icrs", date: Real[ArrayLike, "..."] | None = None
) -> Float[Array, "... 3"]:
    """Velocity of the observer by name [c], for `compton_getting_factor`.

    Args:
        name: "none", one frame of the Sun's motion ("lsr", "iau", "ism", one of `INTERSTELLAR_FLOWS`, or "cmb"), the
            motion of the Earth about the Sun ("earth"), or both, joined by "+": "lsr+earth".
        frame: Axes of the result: "icrs", "galactic", or "ecliptic" (mean ecliptic of J2000).
        date: Days since J2000.0 for "earth"; its axes lead those of the result.

    Raises:
        InputError: If a name or the frame is unknown, the Earth has no date, or the Sun moves against two frames.
        RuntimeError: Of the Earth, without 64-bit floats.
    """
    parts = [part.strip().lower() for part in name.split("+")]
    known = {"none": None, **_SUN, **dict.fromkeys(INTERSTELLAR_FLOWS), "earth": None}
    for part in parts:
        if part not in known:
            raise InputError(f"unknown velocity {part!r}{_nearest(part, known)}; known: {', '.join(known)}")
    if frame not in _AXES:
        raise InputError(f"unknown frame {frame!r}{_nearest(frame, _AXES)}; known: {', '.join(_AXES)}")
    suns = [part for part in parts if part not in ("none", "earth")]
    if len(suns) > 1 or parts.count("earth") > 1:
        raise InputError(
            f"velocity {name!r} counts a motion twice: give one of {', '.join([*_SUN, *INTERSTELLAR_FLOWS])}, "
            "and '+earth' at most once"
        )
    velocity = jnp.zeros(3)
    for part in suns:
        velocity = _SUN[part]() if part in _SUN else interstellar_velocity(part)
    if "earth" in parts:
        if date is None:
            raise InputError("the velocity of the Earth depends on the day: give date, days since J2000.0")
        velocity = velocity + earth_velocity(date)
    return _AXES[frame](velocity)


def lsr_velocity() -> Float[Array, "3"]:
    """Velocity of the Sun against the local standard of rest, in c, along ICRS axes: 18.0 km/s.

    (U, V, W) = (11.1, 12.24, 7.25) km/s towards the Galactic centre, rotation and north pole.

    References:
        Schoenrich, Binney & Dehnen (2010), MNRAS 403, 1829.
    """
    return galactic_to_icrs(jnp.array([11.1, 12.24, 7.25]) * KM_PER_S)


def iau_velocity() -> Float[Array, "3"]:
    """Standard solar motion, in c, along ICRS axes: 20 km/s towards RA 18h, dec +30 degrees of B1900."""
    # B1900 to ICRS once and for all; FK4 is needed nowhere else.
    return 20 * KM_PER_S * unit_vector(270.95939 * DEGREE, 30.00467 * DEGREE)


def interstellar_velocity(flow: str = "mccomas2015") -> Float[Array, "3"]:
    """Velocity of the Sun against the local interstellar gas, in c, along ICRS axes: 25.4 km/s.

    It points to where the gas flows in from.

    Args:
        flow: Which measurement, a key of `INTERSTELLAR_FLOWS`: "mccomas2015" (25.4 km/s),
            "mccomas2012" (23.2 km/s) or "witte2004" (26.3 km/s).

    Raises:
        InputError: If the name is unknown.
    """
    if flow not in INTERSTELLAR_FLOWS:
        raise InputError(f"unknown interstellar flow {flow!r}: choose one of {', '.join(INTERSTELLAR_FLOWS)}")
    speed, longitude, latitude = INTERSTELLAR_FLOWS[flow]
    return speed * KM_PER_S * ecliptic_to_equatorial(unit_vector(longitude * DEGREE, latitude * DEGREE))


def cosmic_velocity() -> Float[Array, "3"]:
    """Velocity of the Sun against the cosmic microwave background, in c, along ICRS axes: 369.8 km/s.

    The frame in which extragalactic particles may be taken to be isotropic: with Gamma = 3 a dipole of 0.6 %.

    References:
        Planck Collaboration (2020), A&A 641, A1: towards l = 264.021, b = 48.253 degrees.
    """
    return galactic_to_icrs(369.82 * KM_PER_S * unit_vector(264.021 * DEGREE, 48.253 * DEGREE))


def orbital_intensity(
    direction: Float[ArrayLike, "... 3"],
    days: Real[ArrayLike, "..."],
    spectral_index: Float[ArrayLike, ""],
) -> Float[Array, "..."]:
    """Compton-Getting factor of the Earth's orbit: 1 + 4.7e-4 ahead of the Earth for Gamma = 2.7.

    Divide each event's weight by it to take the orbital dipole out of a data set. Folded in sidereal time
    the orbit averages to zero only over whole years of even livetime.

    Args:
        direction: Unit vectors in J2000 (ICRS) that point to where the particles come from.
        days: Days since J2000.0, broadcast against the leading axes of `direction`.
        spectral_index: Gamma, the index of the intensity in energy. Dimensionless.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    direction, velocity = jnp.asarray(direction), earth_velocity(days)
    shape = jnp.broadcast_shapes(direction.shape, velocity.shape)
    each = jnp.vectorize(lambda n, v: compton_getting_factor(n, v, spectral_index), signature="(k),(k)->()")
    return each(jnp.broadcast_to(direction, shape), jnp.broadcast_to(velocity, shape))


# Helpers ----------------------------------------------------------------------------------------------------


_SUN = {
    "lsr": lsr_velocity,
    "iau": iau_velocity,
    "ism": interstellar_velocity,
    "cmb": cosmic_velocity,
}

_AXES = {
    "icrs": lambda vector: vector,
    "galactic": icrs_to_galactic,
    # Rows of this matrix are the ecliptic axes as ICRS has them.
    "ecliptic": lambda vector: rotate(ecliptic_to_equatorial(np.eye(3)), vector),
}


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _solid_harmonics(vector: Float[Array, "*batch 3"], l_max: int) -> Float[Array, "*batch coefficient"]:
    """|v|^l R_lm(v / |v|): homogeneous polynomials in the components, by the recursion of `harmonics`."""
    a, b, seed = _recursion(l_max)
    x, y, z = (vector[..., k] for k in range(3))
    squared = (x**2 + y**2 + z**2)[..., None]
    cosine, sine = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(l_max):
        c, s = cosine[-1], sine[-1]
        cosine.append(c * x - s * y)
        sine.append(c * y + s * x)
    around = jnp.stack([*sine[:0:-1], *cosine], axis=-1)
    before = last = jnp.zeros((*x.shape, l_max + 1))
    out = []
    for l in range(l_max + 1):
        start = seed * (np.arange(l_max + 1) == l)
        before, last = last, a[l] * (z[..., None] * last - b[l] * squared * before) + start
        order = np.abs(np.arange(-l, l + 1))
        out.append(last[..., order] * around[..., l_max - l : l_max + l + 1])
    return jnp.concatenate(out, axis=-1)
