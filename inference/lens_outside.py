"""What is outside a magnetic field for `lens`: a dipole, or a map; as distributions of `diffcr.boundary`."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffcr.boundary import Distribution
from diffcr.errors import InputError
from diffcr.sky import galactic_to_icrs, icrs_to_galactic, unit_vector

from .cli_options import numbers
from .lens_places import Place
from .sky_files import read_sky


def chosen_outside(place: Place, dipole: str | None, sky: str | None) -> tuple[Any, dict[str, Any], list[str]]:
    """What is outside: a function of the rigidity that gives the distribution, its words for JSON, and notes.

    Raises:
        InputError: If both or neither are given, or one cannot be used.
    """
    if sky is not None:
        if dipole is not None:
            raise InputError("--dipole and --sky are two skies outside; leave one out")
        found, notes = sky_outside(sky, place.coord)
        return (lambda _: found), {"what": f"outside {sky}", "sky": sky}, [f"{sky}: {note}" for note in notes]
    if dipole is None and place.outside is None:
        raise InputError("nothing says what is outside the galaxy: give --dipole A,RA,DEC or --sky MAP.fits")
    parts = numbers("1e-3" if dipole is None else dipole, "--dipole")
    good = len(parts) in (1, 3) and 0 < abs(parts[0]) < 1 and all(math.isfinite(x) for x in parts)
    if not good or (len(parts) == 3 and not -90 <= parts[2] <= 90):
        raise InputError(
            f"--dipole takes an amplitude below 1, and right ascension and declination in degrees, such as "
            f"1e-3,60,-20, not {dipole!r}"
        )
    if len(parts) == 1 and place.outside is None:
        raise InputError(f"--dipole of the galaxy needs a direction: write {parts[0]:g},RA,DEC in degrees")
    if len(parts) == 1:
        vector = parts[0] * place.outside / np.linalg.norm(place.outside)
        icrs = vector if place.coord == "C" else np.asarray(galactic_to_icrs(vector))
    else:
        icrs = parts[0] * np.asarray(unit_vector(*np.radians(parts[1:])))
        vector = icrs if place.coord == "C" else np.asarray(icrs_to_galactic(icrs))
    across, notes = 0.0, []
    if place.outside is not None:
        across = float(np.linalg.norm(np.cross(place.outside / np.linalg.norm(place.outside), vector)))
        if across > 1e-9 * abs(parts[0]):
            notes.append(
                f"{across:.3g} of the dipole is across the field outside: it goes with a density gradient of that over "
                "the Larmor radius, taken as the same everywhere outside"
            )
    words = {
        "what": f"outside a dipole of {abs(parts[0]):g}" + ("" if len(parts) == 3 else " along the field"),
        "dipole_icrs": icrs.tolist(),
        "across_field": across,
    }
    return (lambda rigidity: dipole_outside(vector, place, place.larmor_radius(rigidity))), words, notes


def dipole_outside(dipole: np.ndarray, place: Place, larmor_radius: float) -> Distribution:
    """1 + d . n for a direction n at the Earth's place, continued as a field outside asks for.

    Without a field outside it is the same everywhere. In a uniform field b the part along it is too; the part across it
    is that of a density gradient b x d / r_L, with r_L the Larmor radius there.
    """
    gradient = np.zeros(3)
    if place.outside is not None:
        size = np.linalg.norm(place.outside)
        gradient = np.cross(place.outside / size, dipole) * size / larmor_radius
    return lambda position, direction: 1 + dipole @ direction + gradient @ position


def sky_outside(path: str, coord: str) -> tuple[Distribution, tuple[str, ...]]:
    """1 + the relative intensity of a HEALPix FITS map, interpolated, whatever the place; and notes for the user.

    Raises:
        InputError: As of `read_sky`.
    """
    import healpy

    sky = read_sky(path)

    def intensity(position, direction):
        toward = np.asarray(direction if coord == "C" else galactic_to_icrs(jnp.asarray(direction).T).T, float)
        theta, phi = np.arccos(np.clip(toward[2], -1, 1)), np.arctan2(toward[1], toward[0]) % (2 * np.pi)
        return 1 + healpy.get_interp_val(sky.relative_intensity, theta, phi)

    return intensity, sky.notes
