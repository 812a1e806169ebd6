"""Which directions an instrument accepts (A_i), and what an acceptance tells.

The expectation of one cell is mu = I N_tau A_i: the acceptance lives in the local cells (ring, hour_angle)
of the ring grid and does not turn with the sky.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from .errors import InputError, is_known
from .grid import RingGrid
from .site import Site
from .sky import horizon
from .units import DEGREE

DEFAULT_ATTENUATION = 5.0
"""Vertical depth over attenuation length of the model "attenuated": 600 g/cm^2 over 120 g/cm^2."""

Scalar = float | int | Float[Array, ""]
Harmonics = Sequence[tuple[int | float, Scalar, Scalar]]


def zenith_response(
    zenith: Float[Array, "*batch"],
    azimuth: Float[Array, "*batch"],
    model: str = "cos",
    power: Scalar = 1.0,
    attenuation: Scalar | None = None,
    azimuth_terms: Harmonics = (),
) -> Float[Array, "*batch"]:
    r"""Relative acceptance per solid angle of a shower array, above the horizon.

    $$ A = \cos^p\theta \; [e^{-x (\sec\theta - 1)}] \; [1 + \sum_k c_k \cos k(\phi - \phi_k)] $$

    p = 1 is a flat array at full efficiency. The first bracket belongs to the model "attenuated": x is the
    vertical depth over the attenuation length, in a flat atmosphere (good to zenith angles of 75 degrees).
    Differentiable in p, x, c_k and phi_k.

    Args:
        zenith: Zenith angle theta [rad], below pi/2.
        azimuth: Azimuth phi [rad], from North through East.
        model: "cos" or "attenuated".
        power: p. Dimensionless.
        attenuation: x, for the model "attenuated" only. Dimensionless; 5 if not given.
        azimuth_terms: Triples (k, c_k, phi_k [rad]); the response is largest at azimuth phi_k.

    Returns:
        Relative acceptance, dimensionless, 1 at the zenith where there are no azimuth terms.
    """
    # The floor keeps sec(theta) finite, and positive where 90 degrees rounds to a cosine below zero.
    cosine = jnp.maximum(jnp.cos(zenith), 1e-12)
    response = cosine**power
    if model == "attenuated":
        depth = DEFAULT_ATTENUATION if attenuation is None else attenuation
        response = response * jnp.exp(-depth * (1 / cosine - 1))
    modulation = jnp.ones_like(cosine)
    for order, amplitude, phase in azimuth_terms:
        modulation = modulation + amplitude * jnp.cos(order * (azimuth - phase))
    return response * modulation


def field_of_view(
    site: Site, grid: RingGrid, subdivide: int = 4, profile: str = "box"
) -> Float[Array, "ring hour_angle"]:
    """Fraction of the solid angle of each local cell that lies inside the site's range of zenith angles.

    Args:
        site: Where the instrument stands.
        grid: The ring grid.
        subdivide: Samples per cell in either direction.
        profile: "box" for hour-angle bins of the grid's width; "triangle" for what a bin holds when it is
            formed as time bin minus right-ascension bin of binned events: a triangle, twice as wide.

    Returns:
        Fraction in [0, 1], shape (ring, hour_angle).
    """
    declination, hour_angle, ring_weight, angle_weight = _samples(grid, subdivide, profile)
    _, _, inside = _local_directions(site, declination, hour_angle)
    return _cell_mean(inside.astype(float), grid, ring_weight, angle_weight)


def integrate_acceptance(
    response: Callable[[Array, Array], Array],
    site: Site,
    grid: RingGrid,
    subdivide: int = 4,
    profile: str = "box",
) -> Float[Array, "ring hour_angle"]:
    r"""Relative acceptance $A_i \propto \int_i A(\theta, \phi)\, d\Omega$ of every local cell; sums to 1.

    Args:
        response: Acceptance per solid angle as a function of zenith angle and azimuth [rad, from North
            through East], arrays of one shape. Only its values inside the site's zenith range count.
        site: Where the instrument stands.
        grid: The ring grid.
        subdivide: Samples per cell in either direction.
        profile: Shape of the hour-angle bins, see `field_of_view`.

    Returns:
        Acceptance, dimensionless, shape (ring, hour_angle), differentiable in what `response` closes over.

    Raises:
        InputError: If no sample is accepted, or one is negative or not finite.
    """
    declination, hour_angle, ring_weight, angle_weight = _samples(grid, subdivide, profile)
    zenith, azimuth, inside = _local_directions(site, declination, hour_angle)
    # Outside, evaluate at the zenith: a response singular below the horizon must not poison gradients.
    values = jnp.where(inside, response(jnp.where(inside, zenith, 0.0), azimuth), 0.0)
    mean = _cell_mean(values, grid, ring_weight, angle_weight)
    weight = mean * jnp.asarray(grid.solid_angle)[:, None]
    total = jnp.sum(weight)
    if is_known(values):
        if not bool(jnp.all(jnp.isfinite(values)) & jnp.all(values >= 0)):
            raise InputError(f"the acceptance of site {site.name!r} is negative or not finite inside its field of view")
        if not float(total) > 0:
            raise InputError(
                f"no direction of site {site.name!r} is accepted on a grid of {grid}: "
                "widen the zenith range, or raise subdivide"
            )
    return weight / total


def acceptance(
    site: Site,
    grid: RingGrid,
    model: str = "cos",
    power: Scalar = 1.0,
    attenuation: Scalar | None = None,
    azimuth_terms: Harmonics = (),
    subdivide: int = 4,
    profile: str = "box",
) -> Float[Array, "ring hour_angle"]:
    """Relative acceptance of every local cell for a model of `zenith_response`; sums to 1.

    Values are checked where they are known; inside a trace (a gradient, a jit) there is nothing to check.

    Args:
        site: Where the instrument stands.
        grid: The ring grid.
        model: "cos" or "attenuated".
        power: Power of cos(zenith angle), 1 for a flat array at full efficiency.
        attenuation: Vertical depth over attenuation length, for the model "attenuated" only.
        azimuth_terms: Triples (k, c_k, phi_k [rad]) of the modulation with azimuth.
        subdivide: Samples per cell in either direction.
        profile: Shape of the hour-angle bins, see `field_of_view`.

    Returns:
        Acceptance, dimensionless, shape (ring, hour_angle).

    Raises:
        InputError: If the model is unknown, a parameter is negative or not finite, an azimuth term turns the
            response negative, or no direction is accepted.
    """
    _check_response(model, power, attenuation, azimuth_terms)

    def response(zenith, azimuth):
        return zenith_response(zenith, azimuth, model, power, attenuation, azimuth_terms)

    return integrate_acceptance(response, site, grid, subdivide, profile)


def measured_acceptance(counts: Sequence | np.ndarray | Array, grid: RingGrid) -> Float[Array, "ring hour_angle"]:
    """Relative acceptance from a measured local map: counts, or any array (ring, hour_angle), normalised.

    Raises:
        InputError: If the shape is not the grid's, an entry is negative or not finite, or all are zero.
    """
    values = np.asarray(counts, dtype=float)
    if values.shape != grid.shape:
        hint = "; it looks transposed" if values.shape == grid.shape[::-1] else ""
        raise InputError(
            f"a measured acceptance must have the shape (ring, hour_angle) = {grid.shape} of the grid, "
            f"not {values.shape}{hint}"
        )
    bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        ring, angle = bad[0]
        raise InputError(
            f"a measured acceptance must be finite and not negative: {len(bad)} of {values.size} cells are "
            f"not, the first is [{ring}, {angle}] = {values[ring, angle]}; set cells outside the field of "
            "view to zero"
        )
    if not values.any():
        raise InputError("a measured acceptance must have a cell above zero: this one is empty")
    return jnp.asarray(values / values.sum())


def draw_directions(
    site: Site,
    rng: np.random.Generator,
    num: int,
    model: str = "cos",
    power: Scalar = 1.0,
    attenuation: Scalar | None = None,
    azimuth_terms: Harmonics = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Arrival directions of an isotropic sky as the instrument sees them, by exact rejection.

    Args:
        site: Where the instrument stands.
        rng: NumPy generator.
        num: Number of directions.
        model: As in `acceptance`, and so are `power`, `attenuation` and `azimuth_terms`.

    Returns:
        zenith: Zenith angles [rad], shape (num,).
        azimuth: Azimuths [rad] from North through East, in [0, 2 pi), shape (num,).

    Raises:
        InputError: As `acceptance`; or if num is negative.
    """
    _check_response(model, power, attenuation, azimuth_terms)
    low, high = np.cos(site.zenith_max), np.cos(site.zenith_min)
    # The response falls with the zenith angle, so it is largest at the inner edge of the field of view.
    vertical = zenith_response(jnp.array(site.zenith_min), jnp.array(0.0), model, power, attenuation)
    bound = float(vertical) * (1 + sum(abs(float(amplitude)) for _, amplitude, _ in azimuth_terms))

    def propose(size):
        zenith = np.arccos(np.clip(rng.uniform(low, high, size), -1, 1))
        azimuth = 2 * np.pi * rng.random(size)
        response = zenith_response(jnp.asarray(zenith), jnp.asarray(azimuth), model, power, attenuation, azimuth_terms)
        return np.stack([zenith, azimuth]), np.asarray(response) / bound

    zenith, azimuth = draw_accepted(rng, num, propose)
    return zenith, azimuth


# --- What an acceptance tells -----------------------------------------------------------------------------


class DipoleInformation(NamedTuple):
    """Fisher information per event on one equatorial dipole component: sigma = 1 / sqrt(num_events * F).

    Attributes:
        known: With acceptance and rate known.
        free: With acceptance and rate free.
    """

    known: Float[Array, ""]
    free: Float[Array, ""]


def mean_over_acceptance(
    values: Inexact[Array | np.ndarray, "ring #hour_angle"],
    acceptance: Float[Array | np.ndarray, "ring hour_angle"],
) -> Inexact[Array, ""]:
    """Average over the accepted events of an isotropic sky of a function of the local cell.

    Args:
        values: The function at the cell centres, (ring, hour_angle), or (ring, 1) for one of declination.
        acceptance: Acceptance of the local cells, of any normalisation.
    """
    return jnp.sum(jnp.asarray(values) * acceptance) / jnp.sum(acceptance)


def hour_angle_moment(acceptance: Float[Array | np.ndarray, "ring hour_angle"], grid: RingGrid) -> Complex[Array, ""]:
    r"""$c_0 = \langle \cos\delta\, e^{-iH} \rangle$ over the acceptance: how far it leans in hour angle.

    Its imaginary part is positive for an acceptance that favours the East, where H < 0.
    """
    values = np.cos(grid.declination)[:, None] * np.exp(-1j * grid.hour_angle)[None, :]
    return mean_over_acceptance(values, acceptance)


def dipole_information(acceptance: Float[Array | np.ndarray, "ring hour_angle"], grid: RingGrid) -> DipoleInformation:
    r"""Information per event on an equatorial dipole component, the rest of the sky isotropic.

    $$ F_{known} = \langle\cos^2\delta\rangle / 2, \quad
       F_{free} = (\langle\cos^2\delta\rangle - |c_0|^2) / 2 $$

    for uniform sidereal coverage, with $c_0$ from `hour_angle_moment`. Their ratio F_free / F_known is also
    the part of a dipole that a single pass of time scrambling over 24 h recovers.

    Returns:
        (known, free), dimensionless.
    """
    squared = mean_over_acceptance(np.cos(grid.declination)[:, None] ** 2, acceptance)
    moment = hour_angle_moment(acceptance, grid)
    return DipoleInformation(squared / 2, (squared - jnp.abs(moment) ** 2) / 2)


def relative_exposure(
    acceptance: Float[Array | np.ndarray, "ring hour_angle"], grid: RingGrid
) -> Float[Array, " ring"]:
    """Exposure of each declination ring per solid angle, uniform in sidereal time; its sky average is 1."""
    ring = jnp.sum(jnp.asarray(acceptance), axis=1) / jnp.sum(acceptance)
    return ring * 4 * np.pi / (grid.n_ra * jnp.asarray(grid.solid_angle))


# --- Shared with the rate ---------------------------------------------------------------------------------


def check_terms(what: str, terms: Harmonics) -> None:
    """Refuse a Fourier sum 1 + sum_k c_k cos k(x - x_k) that is not periodic or turns negative.

    Args:
        what: What messages call one term.
        terms: Triples (k, c_k, x_k [rad]). What is traced is not looked at.

    Raises:
        InputError: If a k is no whole number of at least 1, a number is not finite, or the sum is negative.
    """
    for order, amplitude, phase in terms:
        if isinstance(order, bool) or order < 1 or order != int(order):
            raise InputError(f"k of each {what} must be a whole number of at least 1, not {order}")
        for name, value in (("amplitude", amplitude), ("phase", phase)):
            if is_known(value) and not np.isfinite(value):
                raise InputError(f"the {name} of {what} k = {order} must be finite, not {value}")
    if not all(is_known(value) for term in terms for value in term):
        return
    # Sampled finely enough for the highest order; a sum of amplitudes up to 1 needs no look.
    if sum(abs(float(amplitude)) for _, amplitude, _ in terms) <= 1:
        return
    angle = np.linspace(0, 2 * np.pi, 1000 * int(max(order for order, _, _ in terms)), endpoint=False)
    modulation = 1 + sum(float(amplitude) * np.cos(order * (angle - float(phase))) for order, amplitude, phase in terms)
    if modulation.min() < 0:
        raise InputError(
            f"the {what}s make it negative, {modulation.min():.4g} at "
            f"{angle[modulation.argmin()] / DEGREE:.1f} degrees: reduce the amplitudes"
        )


def draw_accepted(
    rng: np.random.Generator, num: int, propose: Callable[[int], tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Columns drawn until `num` are accepted, by rejection.

    Args:
        rng: NumPy generator.
        num: Number of columns.
        propose: Function of a size: columns, shape (quantity, size), and their probabilities, shape (size,).

    Returns:
        Accepted columns, shape (quantity, num).

    Raises:
        InputError: If num is negative.
    """
    if isinstance(num, bool) or num < 0:
        raise InputError(f"the number to draw must be a whole number of at least 0, not {num}")
    # Powers of two, so that calls of any num share a few compiled shapes.
    batch = 1 << int(np.clip(np.ceil(np.log2(max(num, 1))), 10, 20))
    kept, count = [], 0
    while count < num or not kept:
        columns, probability = propose(batch)
        kept.append(columns[:, rng.random(batch) < probability])
        count += kept[-1].shape[1]
    return np.concatenate(kept, axis=1)[:, :num]


# --- Helpers ----------------------------------------------------------------------------------------------


# Compiled once per shape: a field of view on a fine grid is millions of samples from outside any jit.
_horizon = jax.jit(horizon)


def _samples(grid: RingGrid, subdivide: int, profile: str):
    """Sample points of all cells, and the weights of the samples of one cell (per ring, per hour angle)."""
    if isinstance(subdivide, bool) or subdivide < 1:
        raise InputError(f"subdivide must be a whole number of at least 1, not {subdivide}")
    if profile not in ("box", "triangle"):
        raise InputError(f"profile of the hour-angle bins must be 'box' or 'triangle', not {profile!r}")
    edges = np.linspace(-np.pi / 2, np.pi / 2, grid.n_ring * subdivide + 1)
    declination = (edges[1:] + edges[:-1]) / 2
    ring_weight = np.diff(np.sin(edges)).reshape(grid.n_ring, subdivide)
    ring_weight /= ring_weight.sum(axis=1, keepdims=True)
    if profile == "box":
        offset = (np.arange(subdivide) + 0.5) / subdivide - 0.5
        angle_weight = np.ones(subdivide)
    else:
        offset = (np.arange(2 * subdivide) + 0.5) / subdivide - 1
        angle_weight = 1 - np.abs(offset)
    hour_angle = (grid.hour_angle[:, None] + grid.step * offset[None, :]).ravel()
    return declination, hour_angle, ring_weight, angle_weight / angle_weight.sum()


def _local_directions(site: Site, declination: np.ndarray, hour_angle: np.ndarray):
    """Zenith angle, azimuth and whether inside the zenith range, for every declination and hour angle."""
    declination, hour_angle = np.broadcast_arrays(declination[:, None], hour_angle[None, :])
    zenith, azimuth = _horizon(jnp.asarray(hour_angle), jnp.asarray(declination), site.latitude)
    return zenith, azimuth, (zenith >= site.zenith_min) & (zenith <= site.zenith_max)


def _cell_mean(values: Array, grid: RingGrid, ring_weight: np.ndarray, angle_weight: np.ndarray) -> Array:
    split = values.reshape(grid.n_ring, ring_weight.shape[1], grid.n_ra, len(angle_weight))
    return jnp.einsum("rihj,ri,j->rh", split, jnp.asarray(ring_weight), jnp.asarray(angle_weight))


def _check_response(model: str, power: Scalar, attenuation: Scalar | None, azimuth_terms: Harmonics) -> None:
    if model not in ("cos", "attenuated"):
        raise InputError(
            f"unknown acceptance model {model!r}: use 'cos' (with power=) or 'attenuated' (with "
            "attenuation=), measured_acceptance for an array, integrate_acceptance for a function"
        )
    if model == "cos" and attenuation is not None:
        raise InputError("attenuation belongs to the acceptance model 'attenuated': the model 'cos' has only a power")
    for name, value in (("power", power), ("attenuation", attenuation)):
        if value is not None and is_known(value) and not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name} of an acceptance must be finite and at least 0, not {value}")
    check_terms("azimuth term", azimuth_terms)
