"""What an observer's motion adds to the sky: the Compton-Getting effect of the Sun and of the Earth."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError
from .sky import earth_velocity, ecliptic_to_equatorial, galactic_to_icrs, unit_vector
from .units import DEGREE, KM_PER_S

INTERSTELLAR_FLOWS = {
    "mccomas2015": (25.4, 255.7, 5.1),
    "mccomas2012": (23.2, 259.0, 5.0),
    "witte2004": (26.3, 255.4, 5.2),
}
"""Speed [km/s] of the interstellar gas and J2000 ecliptic longitude and latitude [deg] it flows in from."""


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
