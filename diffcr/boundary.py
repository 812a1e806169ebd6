r"""Liouville mapping: what is known outside a region, carried along the paths of particles to the sky at Earth.

The phase-space density is constant along paths. Where the relative intensity at one rigidity is g(x, n) on the
region's edge, that at Earth is

$$ I(n) = g(x_{\rm out}, n_{\rm out}) \left( p_{\rm out} / p \right)^{-(2 + \Gamma)}, $$

with the place and the direction at which the particle that now arrives from n came in, and its momentum there:
p_out = p without an electric field. A density that is uniform and isotropic outside is so at Earth whatever the
field. The same paths are a lens: they carry each direction at Earth to one outside, and areas of sky with it.

What is given outside should itself be constant along paths there. In a uniform field that is a dipole along the field;
one across it goes with the gradient of a density, g = 1 + (x - r_L n x b) . grad ln f, and needs the places.

Derivatives with respect to the distribution's own numbers pass; see `diffcr.exits` for those of paths.

References:
    Zhang, Zuo & Pogorelov (2014), ApJ 790, 5, for the mapping through the heliosphere; Harari, Mollerach & Roulet
    (1999), JHEP 08, 022, for lenses.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .directions import healpix_directions
from .errors import InputError
from .exits import Exits as Exits
from .exits import Sphere as Sphere
from .exits import find_exits as find_exits
from .harmonics import evaluate_at
from .turbulence import Field

Distribution = Callable[[Float[Array, "3 particle"], Float[Array, "3 particle"]], Float[Array, " particle"]]
"""Relative intensity g at places on the edge and for sky directions there, at equal rigidity."""


class BoundaryMap(eqx.Module):
    """Sky at Earth.

    Attributes:
        intensity: Relative intensity of each direction, shape (particle,); NaN where the path did not reach the edge.
        exits: Where the particles came from.
    """

    intensity: Float[Array, " particle"]
    exits: Exits


def map_boundary(
    distribution: Distribution,
    field: Field,
    larmor_radius: Real[ArrayLike, ""],
    *,
    region: Real[ArrayLike, ""] | Callable,
    step: float | int | Callable,
    nside: int | None = None,
    directions: Float[ArrayLike, "3 particle"] | None = None,
    electric: Field | None = None,
    spectral_index: Real[ArrayLike, ""] | None = None,
    **options: Any,
) -> BoundaryMap:
    """Sky at Earth of what is known outside a region: the value there that each arriving particle brings with it.

    Args:
        distribution: g(place, sky direction), arrays (3, particle) to (particle,): relative intensity on the edge, at
            equal rigidity.
        field: B(x), as of `find_exits`, as larmor_radius, region, step, electric and the options.
        larmor_radius: Of the particle at Earth, signed.
        region: Its edge.
        step: Length of a step.
        nside: For the centres of HEALPix pixels (RING order); or
        directions: Sky directions, shape (3, particle). One of the two.
        electric: E(x), or None.
        spectral_index: Gamma of the intensity, I ~ R^-Gamma, wanted where there is an electric field.
        **options: position, max_duration, chunk and keep_trapped of `find_exits`.

    Raises:
        InputError: As of `find_exits`; if not one of nside and directions is given, an electric field comes without a
            spectral index, or the distribution gives not one number for each particle.
    """
    if (nside is None) == (directions is None):
        raise InputError("give nside for a HEALPix map or directions for a list of them, and not both")
    if electric is not None and spectral_index is None:
        raise InputError("an electric field changes the rigidity: give the spectral_index of the intensity outside")
    sky = healpix_directions(nside) if directions is None else directions
    exits = find_exits(field, larmor_radius, sky, region=region, step=step, electric=electric, **options)
    intensity = jnp.asarray(distribution(exits.position, exits.direction))
    if intensity.shape != exits.escaped.shape:
        raise InputError(
            f"distribution gives an array of shape {intensity.shape} for {exits.escaped.size} particles: return one "
            "number for each column of its two arguments"
        )
    if electric is not None:
        intensity = intensity * exits.momentum ** -(2 + jnp.asarray(spectral_index, intensity.dtype))
    return BoundaryMap(jnp.where(exits.escaped, intensity, jnp.nan), exits)


# The lens --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Lens:
    """A deflection lens between two HEALPix skies (RING order).

    Attributes:
        matrix: scipy.sparse array, shape (pixel at Earth, pixel outside): the share of each pixel at Earth that
            comes from each pixel outside. Rows sum to 1; to 0 where no path of the pixel left the region.
        escaped: Share of the paths of each pixel at Earth that left the region.
        exits: Of all paths: several for each pixel, in RING order at nside * oversample.
    """

    matrix: Any
    escaped: np.ndarray
    exits: Exits

    @property
    def magnification(self) -> np.ndarray:
        """Solid angle at Earth over that outside, for each pixel outside: 1 on average over the sky.

        It is what the flux of a distant point source in that pixel is multiplied by, all images together. Where the
        image of a pixel is smaller than the spacing of paths it is a noisy number.
        """
        return np.asarray(self.matrix.sum(axis=0)).ravel() * (self.matrix.shape[1] / self.matrix.shape[0])

    def __call__(self, sky: Real[ArrayLike, " outside"]) -> Float[np.ndarray, " here"]:
        """Intensity at Earth for that outside, given as a HEALPix map; NaN where no path left the region."""
        return np.where(self.escaped > 0, self.matrix @ np.asarray(sky, float), np.nan)


def deflection_lens(
    field: Field,
    larmor_radius: Real[ArrayLike, ""],
    nside: int,
    *,
    region: Real[ArrayLike, ""] | Callable,
    step: float | int | Callable,
    nside_outside: int | None = None,
    oversample: int = 4,
    **options: Any,
) -> Lens:
    """Where outside each direction at Earth looks, as angles and as a matrix between two skies.

    The intensity outside is taken to depend on direction alone. Uniform stays uniform, to rounding.

    Args:
        field: B(x), as of `find_exits`, as larmor_radius, region, step and the options.
        larmor_radius: Of the particle at Earth, signed.
        nside: Of the sky at Earth.
        region: Its edge.
        step: Length of a step.
        nside_outside: Of the sky outside; the same by default.
        oversample: Paths along each side of a pixel at Earth, a power of two.
        **options: position, max_duration, chunk and keep_trapped of `find_exits`. An electric field would change
            intensities with directions: use `map_boundary`.

    Raises:
        InputError: As of `find_exits`; if an nside or oversample is not a power of two, or there is an electric field.
    """
    import healpy
    from scipy.sparse import coo_array

    if options.get("electric") is not None:
        raise InputError("a lens maps directions at equal rigidity: leave out electric, or use map_boundary")
    nside_outside = nside if nside_outside is None else nside_outside
    for each in (nside, nside_outside, oversample):
        if isinstance(each, bool) or not isinstance(each, int | np.integer) or not healpy.isnsideok(each, nest=True):
            raise InputError(f"nside and oversample of a lens must be powers of two from 1 on, not {each!r}")
    fine = nside * oversample
    exits = find_exits(field, larmor_radius, healpix_directions(fine), region=region, step=step, **options)
    number = 12 * nside**2
    row = healpy.ring2nest(fine, np.arange(12 * fine**2)) // oversample**2
    row = healpy.nest2ring(nside, row)
    escaped = np.asarray(exits.escaped)
    count = np.bincount(row, escaped, minlength=number)
    column = healpy.vec2pix(nside_outside, *np.asarray(exits.direction, float))
    share = (escaped / np.maximum(count, 1)[row])[escaped]
    shape = (number, 12 * nside_outside**2)
    matrix = coo_array((share, (row[escaped], column[escaped])), shape=shape).tocsr()
    return Lens(matrix, count / oversample**2, exits)


def multipole_mapping(exits: Exits, l_max: int, l_max_outside: int | None = None) -> Float[np.ndarray, "here outside"]:
    """Matrix from multipoles of the sky outside to those at Earth, both in the real basis of `diffcr.harmonics`.

    Least squares over the directions at Earth whose paths left: without a field the identity to rounding. The
    intensity outside depends on direction alone.

    Args:
        exits: Paths of directions that cover the sky evenly, several per l_max^2: `find_exits` at HEALPix centres with
            nside of at least l_max is enough where deflections are smooth.
        l_max: Highest degree at Earth.
        l_max_outside: Highest degree outside; the same by default.

    Returns:
        Matrix of shape ((l_max + 1)^2, (l_max_outside + 1)^2).

    Raises:
        InputError: If there are fewer than 4 (l_max + 1)^2 directions.
    """
    l_max_outside = l_max if l_max_outside is None else l_max_outside
    here, there = (np.asarray(x, float).T[np.asarray(exits.escaped)] for x in (exits.sky_direction, exits.direction))
    if len(here) < 4 * (l_max + 1) ** 2:
        raise InputError(
            f"{len(here)} directions are too few for multipoles up to l = {l_max}: "
            f"follow {4 * (l_max + 1) ** 2} or more"
        )
    basis = np.asarray(evaluate_at(jnp.eye((l_max + 1) ** 2), here))
    mapped = np.asarray(evaluate_at(jnp.eye((l_max_outside + 1) ** 2), there))
    return np.linalg.solve(basis @ basis.T, basis @ mapped.T)


def power_transfer(mapping: Float[ArrayLike, "here outside"]) -> Float[np.ndarray, "degree degree_outside"]:
    """Mean C_l at Earth for C_l' = 1 outside in all orientations: T[l, l'] = sum_mm' M[lm, l'm']^2 / (2 l + 1)."""
    mapping = np.asarray(mapping, float)
    blocks = [np.square(np.arange(math.isqrt(n))) for n in mapping.shape]
    sums = np.add.reduceat(np.add.reduceat(mapping**2, blocks[0], axis=0), blocks[1], axis=1)
    return sums / (2 * np.arange(len(sums)) + 1)[:, None]
