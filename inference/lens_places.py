"""Fields about the Earth for `lens`, in the axes of its results."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.boundary import Sphere
from diffcr.disc import SUN_RADIUS
from diffcr.errors import InputError
from diffcr.galactic_field import GALACTIC_RADIUS, GalacticField
from diffcr.heliosphere import SOLAR_POLE, SolarWind, heliosphere
from diffcr.sky import galactic_to_icrs, icrs_to_galactic, unit_vector
from diffcr.turbulence import Field
from diffcr.units import AU, DEGREE, EV, KPC, LARMOR_RADIUS, TV

FRAMES = {"C": "equatorial (ICRS)", "G": "Galactic"}
_SECTOR_STEP = 0.6 * AU
"""A tenth of the length over which the field of a tilted current sheet repeats along a radius."""


class Turned(eqx.Module):
    """A field given along Galactic axes, seen along equatorial ones."""

    field: Field

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        return galactic_to_icrs(self.field(icrs_to_galactic(position.T).T).T).T


class FinerInside(eqx.Module):
    """Steps of a share of the distance from the Sun, where the wind's field grows, between two bounds [pc]."""

    share: Float[Array, ""]
    shortest: Float[Array, ""]
    longest: Float[Array, ""]

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, " particle"]:
        return jnp.clip(self.share * jnp.linalg.norm(position, axis=0), self.shortest, self.longest)


@dataclasses.dataclass(frozen=True)
class Place:
    """A field and its region, in pc and muG along the axes of the results.

    Attributes:
        name: "heliosphere" or "galaxy".
        coord: "C" or "G": the axes.
        unit: Of lengths that users see, with its `length` in pc.
        length: See `unit`.
        rigidity_unit: "TV" or "EV", with its `rigidity` in TV.
        rigidity: See `rigidity_unit`.
        sensible: Lowest and highest rigidity for which the field means something, in its unit.
        field: B.
        electric: E, or None.
        region: Where the field ends.
        outside: Field outside [muG], shape (3,), or None where there is none.
        typical: Size of the field [muG], for the length of steps.
        longest: Longest step that resolves the field [pc].
        wind: Which wind blows inside: "none", "parker" or "sectored".
        settings: What the user chose, to be written down.
    """

    name: str
    coord: str
    unit: str
    length: float
    rigidity_unit: str
    rigidity: float
    sensible: tuple[float, float]
    field: Field
    electric: Field | None
    region: Sphere
    outside: np.ndarray | None
    typical: float
    longest: float
    wind: str
    settings: dict[str, Any]

    def larmor_radius(self, rigidity: float) -> float:
        """Of a rigidity in the place's unit, in 1 muG [pc]."""
        return LARMOR_RADIUS * rigidity * self.rigidity

    def step(self, rigidity: float, chosen: float | None) -> float:
        """Longest step [pc]: the chosen one [unit], or 0.03 Larmor radii and no more than resolves the field."""
        if chosen is not None:
            return chosen * self.length
        return min(self.longest, 0.03 * self.larmor_radius(rigidity) / self.typical)

    def steps(self, longest: float) -> float | Callable:
        """Steps of at most that length [pc], shorter near the Sun where a wind blows."""
        if self.wind == "none":
            return longest
        share = 0.1 * longest / max(self.longest, longest)
        return FinerInside(*(jnp.asarray(v) for v in (share, 0.05 * min(longest, 2 * AU), longest)))


def heliosphere_place(
    coord: str,
    region: float | None = None,
    *,
    strength: float = 3.0,
    field_lb: tuple[float, float] | None = None,
    nose: float = 120.0,
    wind: str = "none",
    tilt: float = 20.0,
    electric: bool = False,
) -> Place:
    """The draped heliosphere, with a region about the Sun. Lengths in AU, muG, degrees; field_lb is Galactic.

    Raises:
        InputError: As of `heliosphere`; if there is no field, or the region does not hold the nose.
    """
    turn = jnp.asarray if coord == "G" else galactic_to_icrs
    direction = None if field_lb is None else turn(unit_vector(*(angle * DEGREE for angle in field_lb)))
    region = 600.0 if region is None else region
    if not 0 < strength < math.inf:
        raise InputError(f"--strength must be finite and above 0, not {strength:g}: it is a field in muG, such as 3")
    if not 0 < nose < region < math.inf:
        raise InputError(
            f"--region {region:g} AU must be finite and hold the heliopause, whose --nose is at {nose:g} AU (above 0): "
            "use a region of some 600"
        )
    blows: SolarWind | None = None
    if wind != "none":
        pole = unit_vector(*(angle * DEGREE for angle in SOLAR_POLE))
        axis = icrs_to_galactic(pole) if coord == "G" else pole
        blows = SolarWind(axis, tilt=tilt * DEGREE if wind == "sectored" else 0.0)
    frame = "galactic" if coord == "G" else "icrs"
    field = heliosphere(strength, direction, nose=nose * AU, wind=blows, frame=frame)
    away = np.asarray(icrs_to_galactic(field.interstellar) if coord == "C" else field.interstellar)
    chosen = {"region_AU": region, "strength_muG": strength, "nose_AU": nose, "wind": wind, "electric": electric}
    chosen["field_l_deg"] = float(np.degrees(np.arctan2(away[1], away[0])) % 360)
    chosen["field_b_deg"] = float(np.degrees(np.arcsin(away[2] / np.linalg.norm(away))))
    if wind == "sectored":
        chosen["tilt_deg"] = tilt
    return Place(
        *("heliosphere", coord, "AU", AU, "TV", TV, (0.1, 100.0), field, field.electric if electric else None),
        *(Sphere(region * AU), np.asarray(field.interstellar, float), strength),
        *(_SECTOR_STEP if wind == "sectored" else 2 * AU, wind, chosen),
    )


def galaxy_place(coord: str, region: float | None = None) -> Place:
    """The regular field of the Galaxy within a sphere about its centre, of so many kpc.

    Raises:
        InputError: If the Sun is outside.
    """
    region = GALACTIC_RADIUS / KPC if region is None else region
    if not SUN_RADIUS / KPC < region < math.inf:
        raise InputError(
            f"--region {region:g} kpc about the Galactic centre must be finite and hold the Sun, at "
            f"{SUN_RADIUS / KPC:g} kpc: use 20"
        )
    field, centre = GalacticField(), jnp.asarray([SUN_RADIUS, 0.0, 0.0])
    if coord == "C":
        field, centre = Turned(field), galactic_to_icrs(centre)
    return Place(
        *("galaxy", coord, "kpc", KPC, "EV", EV, (1.0, 100.0), field, None, Sphere(region * KPC, centre), None),
        *(2.0, 0.05 * KPC, "none", {"region_kpc": region, "field": "spiral disc and toroidal halo"}),
    )
