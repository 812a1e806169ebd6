r"""Skies of cosmic rays traced back through magnetic turbulence: what local fields make of a distant density gradient.

Particles that arrive at one point from the sky direction n were at r(-T; n) a time T ago. Where the density had a
uniform gradient then, Liouville's theorem makes the relative intensity now, d = grad n_CR / n_CR,

$$ \delta I(n) = r(-T; n) \cdot d, $$

less its mean over the sky. It is linear in r: the three *displacement maps* r_i(-T; n) of one realisation of the
turbulence hold its sky for every gradient, and their spectra C_l^{ij} its power, C_l = d_i d_j C_l^{ij}, with

$$ \frac{C_l^{ij}}{4 \pi} = \int \frac{dn_1}{4 \pi} \int \frac{dn_2}{4 \pi}\, P_l(n_1 \cdot n_2)\,
                            r_i(-T; n_1)\, r_j(-T; n_2), \qquad l \ge 1. $$

The regular field B_0 lies along +z and has unit strength; lengths, and times with c = 1, are in the unit of the
turbulence spectrum. Averages over realisations, noise and comparisons are in `diffcr.small_scale`.

References:
    Ahlers & Mertsch (2015), ApJL 815, L2; Giacinti & Sigl (2012), Phys. Rev. Lett. 109, 071101.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .backtracking_setup import KEPT
from .backtracking_setup import Cost as Cost
from .backtracking_setup import Setup as Setup
from .backtracking_setup import cost as cost
from .backtracking_setup import require_l_max as require_l_max
from .errors import InputError, require_float64
from .harmonics import from_healpy, rotate
from .trajectory import Paths, backtrack_antiparticle, healpix_directions
from .transport import require_field
from .turbulence import Sum, Uniform, draw_ladder, draw_plane_waves
from .turbulence_grid import draw_grids
from .typing import AnyArray

# Paths --------------------------------------------------------------------------------------------------------


class Displacements(eqx.Module):
    """Where the particles of one realisation came from.

    Attributes:
        times: T of each sample, in the unit of positions.
        position: r(-T; n) relative to the observer, shape (sample, 3, pixel), RING order.
        direction: Unit vectors along which the particles moved then, of that shape; None where they were not kept.
    """

    times: Float[np.ndarray, " sample"]
    position: Float[AnyArray, "sample 3 pixel"]
    direction: Float[AnyArray, "sample 3 pixel"] | None = None


def draw(setup: Setup, realisation: int) -> Sum:
    """The field of one realisation: B_0 = 1 along +z, and turbulence unless sigma2 is 0."""
    if isinstance(realisation, bool) or not isinstance(realisation, int | np.integer) or realisation < 0:
        raise InputError(f"realisations are numbered from 0 on, not {realisation!r}")
    key = jax.random.fold_in(jax.random.key(setup.seed), int(realisation))
    options = {"rms": math.sqrt(setup.sigma2), "helicity": setup.helicity, "dtype": setup.precision}
    regular = Uniform(jnp.array([0.0, 0.0, 1.0]))
    if setup.sigma2 == 0:
        return Sum((regular,))
    if setup.representation == "grid":
        return Sum((regular, draw_grids(key, setup.spectrum, setup.number, **options)))
    draw_waves = draw_ladder if setup.representation == "ladder" else draw_plane_waves
    options |= {"geometry": setup.geometry, "slab_fraction": setup.slab_fraction}
    return Sum((regular, draw_waves(key, setup.spectrum, setup.number, **options)))


def displacements(setup: Setup, realisation: int, devices=None) -> Displacements:
    """Trace the particles of every pixel back, all from the same point, through one realisation.

    Args:
        setup: The experiment.
        realisation: Number of the realisation, from 0 on.
        devices: Devices to share the pixels; by default all local ones.
    """
    if setup.precision == "float64":
        require_float64("a backtracking set-up of precision float64")
    sky = jnp.asarray(healpix_directions(setup.nside), setup.precision)
    path = backtrack_antiparticle(
        draw(setup, realisation),
        jnp.zeros((3, 1), setup.precision),
        sky,
        setup.larmor_radius,
        setup.duration,
        setup.duration / setup.steps,
        observe=Paths(setup.steps // setup.samples),
        devices=devices,
    )
    position, direction = (np.asarray(each[1:]) for each in path.observed)
    # What is observed is the antiparticle, on its way back.
    return Displacements(setup.times, position, -direction)


def with_flux(displacements: Displacements, tensor: Float[AnyArray, "3 3"]) -> Displacements:
    r"""Displacements for a density that was in steady diffusion at -T, and not isotropic.

    Where f = phi + (r - 3 p K) . grad phi held at -T, a sky of today is made of r_j(-T) - 3 p_i(-T) K_ij in place of
    r_j(-T), p the direction of motion. With the K of the turbulence its mean dipole is 3 K d from the start,
    not only once T is many scattering times; at large T it adds a share 3 K / 2 T of small-scale power.

    Args:
        displacements: With directions.
        tensor: K_ij over c, in the unit of positions.

    Raises:
        InputError: If the directions were not kept.

    References:
        Ahlers & Mertsch (2015), ApJL 815, L2.
    """
    if displacements.direction is None:
        raise InputError("a flux at the start needs the directions there: take displacements as they were traced")
    flux = np.einsum("sip,ij->sjp", np.asarray(displacements.direction, float), np.asarray(tensor, float))
    return eqx.tree_at(lambda d: d.position, displacements, np.asarray(displacements.position, float) - 3 * flux)


# Skies and their spectra --------------------------------------------------------------------------------------


class Spectra(eqx.Module):
    """Angular power and moments of the displacement maps of one realisation, in 64 bits.

    Attributes:
        times: T of each sample.
        power: C_l^{ij} from l = 0, shape (sample, l, 3, 3), symmetric in i and j.
        second_moment: <r_i r_j> over the sky, shape (sample, 3, 3).
        velocity_displacement: <v_i(0) r_j(-T)> over the sky, v = -n; minus the diffusion tensor, shape (sample, 3, 3).
        mean: <r_i> over the sky, shape (sample, 3).
        multipoles: Real multipoles of r_i up to l = min(l_max, `KEPT`), in the order of `harmonics`, shape
            (sample, 3, coefficient).
    """

    times: Float[np.ndarray, " sample"]
    power: Float[np.ndarray, "sample l 3 3"]
    second_moment: Float[np.ndarray, "sample 3 3"]
    velocity_displacement: Float[np.ndarray, "sample 3 3"]
    mean: Float[np.ndarray, "sample 3"]
    multipoles: Float[np.ndarray, "sample 3 coefficient"]


def spectra_of(displacements: Displacements, nside: int, l_max: int | None = None) -> Spectra:
    """Spectra and moments of displacement maps.

    The maps are values at pixel centres, not averages over pixels: there is no pixel window to divide out. Structure
    finer than pixels appears at lower l instead: where C_l falls as l^-3, it adds 0.5 % at l = nside / 2, 2 % at nside,
    20 % at 2 nside and as much as there is at 3 nside; and pixels that went independent ways make flat noise up to
    there. Multipoles are found by healpy in 64 bits, with three iterations.

    Args:
        displacements: Of one realisation.
        nside: Of its pixels.
        l_max: Highest degree; by default, and at most, 3 nside - 1.

    Raises:
        InputError: If the number of pixels is not that of nside, l_max too large, or a position not finite.
    """
    position = np.asarray(displacements.position, float)
    sky = healpix_directions(nside)
    l_max = require_l_max(l_max, nside)
    if position.shape[-1] != sky.shape[1]:
        raise InputError(
            f"displacement maps have {position.shape[-1]} pixels, but nside = {nside} has {sky.shape[1]}: "
            "give their nside"
        )
    if not np.all(np.isfinite(position)):
        raise InputError("displacement maps must be finite: shorten the step, or use precision float64")
    pixels = position.shape[-1]
    power, alm = _analyse(position, l_max)
    return Spectra(
        np.asarray(displacements.times, float),
        power,
        np.einsum("sip,sjp->sij", position, position) / pixels,
        np.einsum("ip,sjp->sij", -sky, position) / pixels,
        position.mean(axis=-1),
        np.asarray(from_healpy(alm, min(l_max, KEPT)), float),
    )


def _analyse(maps: Float[np.ndarray, "sample map pixel"], l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """C_l of each pair of HEALPix maps, shape (sample, l, map, map), and their a_lm."""
    import healpy

    alm = np.stack([[healpy.map2alm(each, lmax=l_max, iter=3) for each in maps_of_one] for maps_of_one in maps])
    degree, order = healpy.Alm.getlm(l_max)
    # Orders below zero are those above, conjugated.
    count = np.where(order == 0, 1.0, 2.0) / (2 * degree + 1)
    power = np.zeros((len(maps), l_max + 1, maps.shape[1], maps.shape[1]))
    for sample, i, j in np.ndindex(len(maps), maps.shape[1], maps.shape[1]):
        if i <= j:
            product = count * (alm[sample, i] * alm[sample, j].conj()).real
            power[sample, :, i, j] = power[sample, :, j, i] = np.bincount(degree, product)
    return power, alm


def sky_map(
    displacement: Float[AnyArray, "*batch 3 pixel"], gradient: Sequence[float] | AnyArray
) -> Float[np.ndarray, "*batch pixel"]:
    """delta I = r . d of each pixel, its mean over the sky taken out.

    Args:
        displacement: r(-T; n) at the pixels.
        gradient: d = grad n_CR / n_CR, per unit of length; with B_0 along z.
    """
    gradient = require_gradient(gradient)
    sky = np.einsum("...ip,i->...p", np.asarray(displacement, float), gradient)
    return sky - sky.mean(axis=-1, keepdims=True)


def field_frame(field: Sequence[float] | AnyArray, azimuth: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Rotation from the frame of backtracking to that of the sky: R z is along the field B_0 there.

    Args:
        field: Along B_0 in the frame of the sky; normalised here.
        azimuth: Angle about B_0 by which the turbulence is turned [rad]; any is as good as another.

    Raises:
        InputError: If the field is zero or not finite.
    """
    along = np.asarray(require_field(field), float)
    helper = np.array([1.0, 0.0, 0.0]) if abs(along[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
    first = np.cross(helper, along)
    first /= np.linalg.norm(first)
    c, s = math.cos(azimuth), math.sin(azimuth)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return np.stack([first, np.cross(along, first), along], axis=1) @ turn


def sky_multipoles(
    multipoles: Float[AnyArray, "3 coefficient"],
    gradient: Sequence[float] | AnyArray,
    frame: Float[AnyArray, "3 3"] | None = None,
    l_max: int | None = None,
    l_min: int = 2,
) -> Float[np.ndarray, " kept"]:
    """Real multipoles of delta I of one realisation, for `model.Parameters.multipoles`: zero below l_min.

    The dipole is left out by default: a forward model has its own, of the mean field.

    Args:
        multipoles: Of r_i, as in `Spectra`, of one time.
        gradient: d = grad n_CR / n_CR in the frame of backtracking (B_0 along z), per unit of length.
        frame: Rotation to the frame of the sky, as from `field_frame`; None leaves B_0 along z.
        l_max: Highest degree; by default all there are.
        l_min: Lowest degree that is kept.

    Raises:
        InputError: If the multipoles do not reach l_max.
    """
    values = np.einsum("ic,i->c", np.asarray(multipoles, float), require_gradient(gradient))
    known = math.isqrt(len(values)) - 1
    l_max = known if l_max is None else l_max
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or not 0 <= l_max <= known:
        raise InputError(f"the multipoles kept reach from l = 0 to {known}, not to {l_max!r}")
    values = values[: (l_max + 1) ** 2].copy()
    values[: l_min**2] = 0.0
    if frame is not None:
        values = np.array(rotate(values, np.asarray(frame, float)), float)
        # The rotation keeps degrees apart but for its rounding.
        values[: l_min**2] = 0.0
    return values


# Checks -------------------------------------------------------------------------------------------------------


def require_gradient(gradient) -> Float[np.ndarray, "3"]:
    """A gradient as three finite numbers, not all zero.

    Raises:
        InputError: If it is not.
    """
    try:
        values = np.asarray(gradient, float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (3,) or not np.all(np.isfinite(values)) or not np.any(values):
        raise InputError(
            f"a density gradient must be three finite numbers, not all zero, not {gradient!r}: B_0 is along z"
        )
    return values
