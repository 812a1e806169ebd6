"""Where an instrument stands, which directions it accepts (A_i) and when it counts (N_tau).

The expectation of one cell is mu = I N_tau A_i: the acceptance lives in the local cells (ring, hour_angle)
of the ring grid and does not turn with the sky, the rate lives in the bins of local sidereal time.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from .clock import local_time
from .errors import InputError, require_float64
from .grid import RingGrid
from .sky import horizon
from .units import DEGREE, HOUR

TROPICAL_YEAR_DAYS = 365.2422
DEFAULT_ATTENUATION = 5.0
"""Vertical depth over attenuation length of the model "attenuated": 600 g/cm^2 over 120 g/cm^2."""

Scalar = float | int | Float[Array, ""]
Harmonics = Sequence[tuple[int | float, Scalar, Scalar]]
Gaps = Iterable[tuple[Scalar, Scalar]]


# --- Where ------------------------------------------------------------------------------------------------


class Site(eqx.Module):
    """Position of an instrument and its range of zenith angles. Fixed while a program is traced.

    Attributes:
        name: What messages and files call it.
        latitude: Geographic latitude [rad], North positive.
        longitude: Geographic longitude [rad], East positive; of no effect on anything but the sidereal time.
        zenith_max: Largest accepted zenith angle [rad].
        zenith_min: Smallest accepted zenith angle [rad].

    Raises:
        InputError: If the latitude is outside [-90, 90] degrees, the longitude outside [-360, 360], the
            zenith cut outside (0, 90], or the range of zenith angles is empty.
    """

    name: str = eqx.field(static=True)
    latitude: float = eqx.field(static=True, converter=float)
    longitude: float = eqx.field(static=True, converter=float)
    zenith_max: float = eqx.field(static=True, converter=float)
    zenith_min: float = eqx.field(static=True, converter=float, default=0.0)

    def __check_init__(self):
        limits = {
            "latitude": (-90, 90),
            "longitude": (-360, 360),
            "zenith_max": (0, 90),
            "zenith_min": (0, 90),
        }
        for field, (low, high) in limits.items():
            degrees = getattr(self, field) / DEGREE
            # A hair of slack: 90 degrees converted to radians and back may end above 90.
            inside = low - 1e-9 <= degrees <= high + 1e-9
            if not inside or (field == "zenith_max" and degrees <= 0):
                bracket = "(" if field == "zenith_max" else "["
                raise InputError(
                    f"{field} of site {self.name!r} must lie in {bracket}{low}, {high}] degrees, not "
                    f"{degrees:.6g}: a Site takes radians, a string 'LAT,LON,ZENITH' takes degrees"
                )
        if self.zenith_min >= self.zenith_max:
            raise InputError(
                f"site {self.name!r} accepts no direction: zenith_min {self.zenith_min / DEGREE:.6g} is not "
                f"below zenith_max {self.zenith_max / DEGREE:.6g} degrees"
            )


def _degrees(name: str, latitude: float, longitude: float, zenith_max: float) -> Site:
    return Site(name, latitude * DEGREE, longitude * DEGREE, zenith_max * DEGREE)


# Positions are the published ones, to about 0.1 degrees (which in longitude is 24 s of sidereal time). The
# zenith cuts are modelling choices, typical of the anisotropy analyses; site(name, zenith_max) sets another.
_TABLE = (
    # Latitude, longitude and cut of the public multi-observatory likelihood code of the field
    # (cra-tools, behind Abeysekara et al. 2019, ApJ 871, 96); at the pole the longitude is a convention.
    _degrees("IceCube", -90.0, 270.0, 65.0),
    # Same place and same convention of longitude; cut of Aartsen et al. 2013, ApJ 765, 55.
    _degrees("IceTop", -90.0, 270.0, 55.0),
    # Sierra Negra, 18 59' 41" N, 97 18' 28" W; cut of Abeysekara et al. 2019, ApJ 871, 96.
    _degrees("HAWC", 19.0, -97.3, 57.0),
    # Haizi mountain, 29 21' 28" N, 100 08' 20" E (Ma et al. 2022, Chin. Phys. C 46, 030001); cut of KM2A.
    _degrees("LHAASO", 29.358, 100.139, 50.0),
    # Centre of the surface array (Pierre Auger Collaboration 2015, NIM A 798, 172); cut of the large-scale
    # analyses (Aab et al. 2017, Science 357, 1266).
    _degrees("Auger", -35.2, -69.25, 80.0),
    # Millard county, Utah (Abu-Zayyad et al. 2012, NIM A 689, 87); cut of the anisotropy analyses.
    _degrees("Telescope Array", 39.3, -112.9, 55.0),
    # Karlsruhe (Apel et al. 2010, NIM A 620, 202); cut of the standard reconstruction.
    _degrees("KASCADE-Grande", 49.1, 8.4, 40.0),
    # Yangbajing (Amenomori et al. 2006, Science 314, 439); cut of Amenomori et al. 2017, ApJ 836, 153.
    _degrees("Tibet AS-gamma", 30.102, 90.522, 60.0),
    # Yangbajing, 30 06' 38" N, 90 31' 50" E; cut of Bartoli et al. 2015, ApJ 809, 90.
    _degrees("ARGO-YBJ", 30.11, 90.53, 50.0),
    # Kamioka mine, 36 25' N, 137 18' E; muons down to the horizon, south to declination -53.58 degrees
    # (Guillian et al. 2007, PRD 75, 062003); the overburden, not this cut, sets its acceptance.
    _degrees("Super-Kamiokande", 36.42, 137.31, 90.0),
    # Ooty (Jhansi et al. 2020, JCAP 07, 024).
    _degrees("GRAPES-3", 11.4, 76.7, 60.0),
    # Jemez mountains, 35 53' N, 106 41' W; cut of Abdo et al. 2009, ApJ 698, 2121.
    _degrees("Milagro", 35.88, -106.68, 50.0),
)
SITES: dict[str, Site] = {entry.name: entry for entry in _TABLE}
"""Known sites by name, each with a default zenith cut that is a modelling choice."""

_ALIASES = {
    "ta": "Telescope Array",
    "kg": "KASCADE-Grande",
    "kascade": "KASCADE-Grande",
    "tibet": "Tibet AS-gamma",
    "tibetasg": "Tibet AS-gamma",
    "argo": "ARGO-YBJ",
    "sk": "Super-Kamiokande",
    "superk": "Super-Kamiokande",
    "grapes": "GRAPES-3",
    "pao": "Auger",
    "pierreauger": "Auger",
}


def site(name_or_spec: str | Site, zenith_max: float | int | None = None) -> Site:
    """Site of a known name, or of a string "LAT,LON,ZENITH" in degrees.

    Args:
        name_or_spec: Name or short name from `SITES`, in any case and with or without spaces and hyphens; or
            latitude (North positive), longitude (East positive) and zenith cut in degrees; or a Site.
        zenith_max: Zenith cut [rad] in place of the site's own.

    Raises:
        InputError: If the name is not known (the message lists those that are), the string does not hold
            three numbers, or a number is out of range.
    """
    if isinstance(name_or_spec, Site):
        found = name_or_spec
    elif "," in name_or_spec:
        found = _parse_site(name_or_spec)
    else:
        names = {_plain(name): name for name in SITES} | _ALIASES
        key = _plain(name_or_spec)
        if key not in names:
            nearest = names[difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]]
            raise InputError(
                f"unknown site {name_or_spec!r}; the nearest known one is {nearest}. "
                f"Known: {', '.join(SITES)}; or give 'LAT,LON,ZENITH' in degrees, such as '19.0,-97.3,57'"
            )
        found = SITES[names[key]]
    if zenith_max is None:
        return found
    return Site(found.name, found.latitude, found.longitude, zenith_max, found.zenith_min)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _parse_site(spec: str) -> Site:
    try:
        latitude, longitude, zenith_max = (float(part) for part in spec.split(","))
    except ValueError:
        raise InputError(
            f"site {spec!r} is not 'LAT,LON,ZENITH': three numbers in degrees, North and East positive, "
            "such as '19.0,-97.3,57'"
        ) from None
    return _degrees(spec.strip(), latitude, longitude, zenith_max)


# --- Which directions -------------------------------------------------------------------------------------


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
    if _known(values):
        if not bool(jnp.all(jnp.isfinite(values)) & jnp.all(values >= 0)):
            raise InputError(f"the acceptance of site {site.name!r} is negative or not finite inside its field of view")
        if not float(total) > 0:
            raise InputError(
                f"no direction of site {site.name!r} is accepted on a grid of {grid.n_ring} x {grid.n_ra}: "
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

    zenith, azimuth = _reject(rng, num, propose)
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


# --- When, in sidereal time -------------------------------------------------------------------------------


def relative_rate(
    grid: RingGrid,
    harmonics: Harmonics = (),
    gaps: Gaps = (),
    noise: float | int = 0.0,
    rng: np.random.Generator | None = None,
) -> Float[Array, " time"]:
    r"""Rate of each sidereal-time bin relative to an undisturbed one.

    The average over the bin of $\ell(t)\,[1 + \sum_k a_k \cos k(t - t_k)]$ with the livetime l, which is 0 in
    the gaps and 1 elsewhere; integrated exactly, so a bin cut by a gap keeps the part that was live.

    Args:
        grid: The ring grid.
        harmonics: Triples (k, a_k, t_k [rad of sidereal time]); the rate is largest at t_k.
        gaps: Pairs (start, end) in sidereal hours, 0 to 24; a start behind its end runs through 24 h.
        noise: Relative scatter of the bins, log-normal of mean 1.
        rng: NumPy generator, needed for the noise only.

    Returns:
        Relative rate, dimensionless, shape (time,), differentiable in a_k and t_k.

    Raises:
        InputError: If the rate turns negative, nothing is live, or a harmonic, gap or the noise is not valid.
    """
    _check_terms("rate harmonic", harmonics)
    if not (np.isfinite(noise) and noise >= 0) or (noise > 0 and rng is None):
        raise InputError(f"noise of a rate must be at least 0, with rng given where it is above; it is {noise}")
    starts, ends = _live(0.0, 2 * np.pi, _sidereal_gaps(gaps))
    if not len(starts):
        raise InputError("the gaps leave no sidereal time live: a rate needs some livetime")

    def primitive(t):
        total = t
        for order, amplitude, phase in harmonics:
            total = total + amplitude / order * jnp.sin(order * (t - phase))
        return total

    # How far each live interval has been passed at each bin edge; summed, the livetime up to that edge.
    edges = np.arange(grid.n_ra + 1) * grid.step
    passed = np.clip(edges[:, None], starts[None, :], ends[None, :])
    live = np.diff(passed.sum(axis=1)) > 1e-12
    average = jnp.diff(jnp.sum(primitive(jnp.asarray(passed)), axis=1)) / grid.step
    # Inside a gap rounding leaves either sign where there is exactly nothing.
    average = jnp.where(live, jnp.maximum(average, 0.0), 0.0)
    if noise > 0:
        average = average * np.exp(noise * rng.standard_normal(grid.n_ra) - noise**2 / 2)
    return average


def rate(
    grid: RingGrid,
    num_events: Scalar,
    harmonics: Harmonics = (),
    gaps: Gaps = (),
    noise: float | int = 0.0,
    rng: np.random.Generator | None = None,
) -> Float[Array, " time"]:
    """Expected counts N_tau of each sidereal-time bin for an isotropic sky: `relative_rate` times a constant.

    Args:
        grid: The ring grid.
        num_events: Sum of the expected counts.
        harmonics: As in `relative_rate`, and so are `gaps`, `noise` and `rng`.

    Raises:
        InputError: If num_events is not positive and finite; or as `relative_rate`.
    """
    if _known(num_events) and not (np.isfinite(num_events) and num_events > 0):
        raise InputError(f"num_events of a rate must be positive and finite, not {num_events}")
    relative = relative_rate(grid, harmonics, gaps, noise, rng)
    return num_events * relative / jnp.sum(relative)


# --- When, in civil time ----------------------------------------------------------------------------------


def civil_rate(
    days: Float[Array, "*batch"],
    solar_time: Float[Array, "*batch"],
    seasonal: Float[Array, ""],
    seasonal_phase: Float[Array, ""],
    diurnal: Float[Array, ""],
    diurnal_phase: Float[Array, ""],
    modulation: Float[Array, ""],
    modulation_phase: Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""Rate with a seasonal wave and a solar-diurnal wave whose amplitude has itself a season.

    $$ [1 + a \cos\omega(t - t_a)]\,[1 + S\,(1 + m \cos\omega(t - t_m)) \cos(t_\odot - t_S)], \quad
       \omega = 2\pi / 365.2422\,\mathrm{d} $$

    The product S m makes a wave of amplitude S m / 2 in sidereal time and as much in antisidereal time, which
    is why the latter measures the spurious part of the former (Farley & Storey 1954, Proc. Phys. Soc. A 67,
    996).

    Args:
        days: Days since J2000.0 [UTC].
        solar_time: Local mean solar time [rad].
        seasonal: a. Dimensionless.
        seasonal_phase: Day t_a of a seasonal maximum, since J2000.0.
        diurnal: S. Dimensionless.
        diurnal_phase: Local mean solar time t_S of the diurnal maximum [rad].
        modulation: m. Dimensionless.
        modulation_phase: Day t_m on which the diurnal wave is largest, since J2000.0.

    Returns:
        Relative rate, dimensionless.
    """
    year = 2 * np.pi / TROPICAL_YEAR_DAYS
    season = 1 + seasonal * jnp.cos(year * (days - seasonal_phase))
    amplitude = diurnal * (1 + modulation * jnp.cos(year * (days - modulation_phase)))
    return season * (1 + amplitude * jnp.cos(solar_time - diurnal_phase))


def _scalar(value) -> Array:
    return jnp.asarray(value, float)


def _pairs(gaps) -> tuple[tuple[float, float], ...]:
    return tuple((float(start), float(end)) for start, end in gaps)


class RateModel(eqx.Module):
    """Trigger rate of an instrument in civil time: seasonal and solar-diurnal waves, and gaps.

    Attributes:
        seasonal: Amplitude of the annual wave. Dimensionless, at most 1 in size.
        seasonal_phase: Day of a seasonal maximum, since J2000.0 [UTC].
        diurnal: Amplitude S of the solar-diurnal wave. Dimensionless.
        diurnal_phase: Local mean solar time of the diurnal maximum [rad].
        modulation: Annual modulation m of the diurnal amplitude. Dimensionless; |S| (1 + |m|) is at most 1.
        modulation_phase: Day on which the diurnal wave is largest, since J2000.0.
        gaps: Pairs (start, end) without livetime, days since J2000.0; they may overlap.

    Raises:
        InputError: If an amplitude allows a negative rate, or a gap does not end after it starts.
    """

    seasonal: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    seasonal_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    diurnal: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    diurnal_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    modulation: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    modulation_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    gaps: tuple[tuple[float, float], ...] = eqx.field(static=True, converter=_pairs, default=())

    def __check_init__(self):
        names = ("seasonal", "seasonal_phase", "diurnal", "diurnal_phase", "modulation", "modulation_phase")
        if not all(_known(getattr(self, name)) for name in names):
            return
        for name in names:
            if not np.isfinite(getattr(self, name)):
                raise InputError(f"{name} of a rate model must be finite, not {getattr(self, name)}")
        if abs(self.seasonal) > 1:
            raise InputError(f"seasonal amplitude {self.seasonal} makes the rate negative: its size is at most 1")
        if abs(self.diurnal) * (1 + abs(self.modulation)) > 1:
            raise InputError(
                f"diurnal amplitude {self.diurnal} with annual modulation {self.modulation} makes the rate "
                "negative: |diurnal| (1 + |modulation|) is at most 1"
            )
        for start, end in self.gaps:
            if not (np.isfinite(start) and np.isfinite(end) and start < end):
                raise InputError(
                    f"gap ({start}, {end}) of a rate model must end after it starts, in days since J2000.0"
                )

    def relative_rate(self, days: Float[Array, "*batch"], longitude: Scalar) -> Float[Array, "*batch"]:
        """`civil_rate` times the livetime (0 in gaps, else 1).

        Args:
            days: Days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.
        """
        require_float64("a rate in civil time")
        waves = civil_rate(
            days,
            local_time(days, jnp.asarray(longitude, float), "solar"),
            self.seasonal,
            self.seasonal_phase,
            self.diurnal,
            self.diurnal_phase,
            self.modulation,
            self.modulation_phase,
        )
        starts, ends = _union(self.gaps)
        if not len(starts):
            return waves
        last = jnp.searchsorted(jnp.asarray(starts), days, side="right") - 1
        in_gap = (last >= 0) & (days < jnp.asarray(ends)[jnp.maximum(last, 0)])
        return jnp.where(in_gap, 0.0, waves)

    def draw_times(
        self,
        rng: np.random.Generator,
        num: int,
        start_days: float | int,
        end_days: float | int,
        longitude: float | int,
    ) -> np.ndarray:
        """Event times of an isotropic sky, by exact rejection, in order.

        Args:
            rng: NumPy generator.
            num: Number of events.
            start_days: Start of data taking, days since J2000.0 [UTC].
            end_days: End of data taking, days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.

        Returns:
            Days since J2000.0 [UTC], shape (num,), increasing.

        Raises:
            InputError: If nothing is live between start and end, or num is negative.
        """
        starts, ends = self._live_days(start_days, end_days)
        ahead = np.concatenate([[0.0], np.cumsum(ends - starts)])
        bound = float((1 + abs(self.seasonal)) * (1 + abs(self.diurnal) * (1 + abs(self.modulation))))

        def propose(size):
            elapsed = rng.uniform(0, ahead[-1], size)
            interval = np.clip(np.searchsorted(ahead, elapsed, side="right") - 1, 0, len(starts) - 1)
            days = starts[interval] + elapsed - ahead[interval]
            relative = _relative_rate(self, jnp.asarray(days), jnp.asarray(longitude, float))
            return days[None], np.asarray(relative) / bound

        return np.sort(_reject(rng, num, propose)[0])

    def sidereal_rate(
        self,
        grid: RingGrid,
        start_days: float | int,
        end_days: float | int,
        longitude: float | int,
        frame: str = "sidereal",
    ) -> Float[Array, " time"]:
        """Expected fraction of the events in each bin of local sidereal time, folded over the data taking.

        The interval is cut at every edge of a bin or a gap, and at least at every degree of local time; each
        piece counts with the rate at its middle.

        Args:
            grid: The ring grid.
            start_days: Start of data taking, days since J2000.0 [UTC].
            end_days: End of data taking, days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.
            frame: Time to fold in, as in `clock.local_time`.

        Returns:
            Fractions, shape (time,); they sum to 1. Differentiable in the amplitudes and phases.

        Raises:
            InputError: If nothing is live between start and end.
        """
        starts, ends = self._live_days(start_days, end_days)
        step = grid.step / max(1, -(-360 // grid.n_ra))
        edges = _bin_edges_in_days(float(start_days), float(end_days), float(longitude), frame, step)
        cuts = np.unique(np.concatenate([edges, starts, ends]))
        # Pieces of no length up to a power of two, so that intervals of any length share compiled shapes.
        cuts = np.pad(cuts, (0, (1 << max(10, len(cuts).bit_length())) + 1 - len(cuts)), mode="edge")
        middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
        # Which bin a piece lies in depends on nothing traced, so it may be looked at inside a trace too.
        with jax.ensure_compile_time_eval():
            index = grid.bin_of(np.asarray(_local_time(middle, float(longitude), frame)))
        weight = _relative_rate(self, jnp.asarray(middle), jnp.asarray(longitude, float)) * length
        folded = jnp.zeros(grid.n_ra).at[index].add(weight)
        return folded / jnp.sum(folded)

    def _live_days(self, start_days, end_days) -> tuple[np.ndarray, np.ndarray]:
        if not (np.isfinite(start_days) and np.isfinite(end_days) and start_days < end_days):
            raise InputError(f"data taking from day {start_days} to day {end_days} must end after it starts")
        starts, ends = _live(float(start_days), float(end_days), self.gaps)
        if not len(starts):
            raise InputError(f"the gaps leave nothing live between day {start_days} and day {end_days}")
        return starts, ends


# --- Helpers ----------------------------------------------------------------------------------------------


# Compiled once per shape: the methods that use them work on millions of samples from outside any jit.
_horizon = jax.jit(horizon)
_local_time = jax.jit(local_time, static_argnames="frame")


@eqx.filter_jit
def _relative_rate(model: RateModel, days: Float[Array, " sample"], longitude: Float[Array, ""]):
    return model.relative_rate(days, longitude)


def _known(value) -> bool:
    """Whether a value can be looked at: not while it is traced."""
    return not isinstance(value, jax.core.Tracer)


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
        if value is not None and _known(value) and not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name} of an acceptance must be finite and at least 0, not {value}")
    _check_terms("azimuth term", azimuth_terms)


def _check_terms(what: str, terms: Harmonics) -> None:
    """Refuse a Fourier sum 1 + sum_k c_k cos k(x - x_k) that is not periodic or turns negative."""
    for order, amplitude, phase in terms:
        if isinstance(order, bool) or order < 1 or order != int(order):
            raise InputError(f"k of each {what} must be a whole number of at least 1, not {order}")
        for name, value in (("amplitude", amplitude), ("phase", phase)):
            if _known(value) and not np.isfinite(value):
                raise InputError(f"the {name} of {what} k = {order} must be finite, not {value}")
    if not all(_known(value) for term in terms for value in term):
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


def _sidereal_gaps(gaps: Gaps) -> list[tuple[float, float]]:
    """Gaps in sidereal hours -> radians, those through 24 h cut in two."""
    split = []
    for start, end in gaps:
        if not (0 <= start <= 24 and 0 <= end <= 24 and start != end):
            raise InputError(
                f"gap ({start}, {end}) of a rate must lie between 0 and 24 sidereal hours, and end elsewhere "
                "than it starts"
            )
        pieces = [(start, end)] if start < end else [(start, 24), (0, end)]
        split += [(low * HOUR, high * HOUR) for low, high in pieces]
    return split


def _union(intervals: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the union of intervals, in order and disjoint."""
    merged: list[list[float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    both = np.array(merged, dtype=float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _live(start: float, end: float, gaps: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of what the gaps leave of [start, end]."""
    gap_starts, gap_ends = _union(gaps)
    starts = np.concatenate([[start], np.clip(gap_ends, start, end)])
    ends = np.concatenate([np.clip(gap_starts, start, end), [end]])
    return starts[ends > starts], ends[ends > starts]


def _bin_edges_in_days(start: float, end: float, longitude: float, frame: str, step: float) -> np.ndarray:
    """Days at which the local time of a frame passes a multiple of `step` [rad], with both ends.

    Local time is linear in civil time to 0.1 arcsec in ten years, so the phases of both ends fix the rest;
    the whole turns between them follow from how far the phase gets in one day.
    """
    with jax.ensure_compile_time_eval():
        at = np.asarray(_local_time(np.array([start, end, start + 1]), longitude, frame)) / (2 * np.pi)
    per_day = 1 + (at[2] - at[0] + 0.5) % 1 - 0.5
    turns = np.round(per_day * (end - start) - (at[1] - at[0])) + at[1] - at[0]
    slope = 2 * np.pi * turns / (end - start)
    phase = 2 * np.pi * at[0]
    inner = np.arange(np.ceil(phase / step), np.floor((phase + slope * (end - start)) / step) + 1) * step
    edges = start + (inner - phase) / slope
    return np.concatenate([[start], edges[(edges > start) & (edges < end)], [end]])


def _reject(rng: np.random.Generator, num: int, propose) -> np.ndarray:
    """Columns drawn until `num` are accepted; propose(size) gives columns and acceptance probabilities."""
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
