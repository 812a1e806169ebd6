"""diffcr.observer against exact Doppler factors, astropy's frames and published velocities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import (
    FK4,
    BarycentricMeanEcliptic,
    CartesianRepresentation,
    Galactic,
    SkyCoord,
    get_body_barycentric,
    get_body_barycentric_posvel,
    solar_system_ephemeris,
)
from astropy.time import Time
from astropy.utils import iers
from jax.test_util import check_grads
from scipy.special import sph_harm_y

from diffcr import clock, harmonics, observer, sky
from diffcr.errors import InputError
from diffcr.observer import (
    INTERSTELLAR_FLOWS,
    cosmic_velocity,
    iau_velocity,
    interstellar_velocity,
    lsr_velocity,
    observer_velocity,
)
from diffcr.units import C_KM_S, DEGREE, HOUR

# Compiled whole: called as they are, each of their operations would be compiled for each shape.
compton_getting_dipole = jax.jit(observer.compton_getting_dipole)
compton_getting_factor = jax.jit(observer.compton_getting_factor)
compton_getting_multipoles = jax.jit(observer.compton_getting_multipoles, static_argnums=2)
orbital_intensity = jax.jit(observer.orbital_intensity)
angles, rotate, unit_vector = map(jax.jit, (sky.angles, sky.rotate, sky.unit_vector))
earth_velocity = jax.jit(sky.earth_velocity)
local_time = jax.jit(clock.local_time, static_argnums=2)

TROPICAL_YEAR = 365.24219


@pytest.fixture(autouse=True)
def offline():
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        solar_system_ephemeris.set("builtin"),
    ):
        yield


def one_year(samples):
    """Times that cover one tropical year from 2010 evenly, at every hour of the day."""
    return 3652.5 + TROPICAL_YEAR * np.arange(samples) / samples


# The Compton-Getting factor


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.9])
def test_sky_average_is_the_boosted_energy_density(beta):
    """With Gamma = 2 the sky average is u/u' = gamma^2 (1 + beta^2 / 3), known from
    the stress tensor of an isotropic relativistic gas, with no integral over the sky."""
    cosine, weight = np.polynomial.legendre.leggauss(200)
    direction = np.stack([np.sqrt(1 - cosine**2), np.zeros(200), cosine], axis=-1)
    velocity = jnp.array([0.0, 0.0, beta])

    factor = compton_getting_factor(jnp.asarray(direction), velocity, jnp.array(2.0))

    np.testing.assert_allclose(weight @ factor / 2, (1 + beta**2 / 3) / (1 - beta**2), rtol=1e-10)


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.9])
@pytest.mark.parametrize("gamma", [2.0, 2.7])
def test_head_on_is_the_doppler_factor(beta, gamma):
    """Straight ahead E/E' = sqrt((1 + beta) / (1 - beta)), so the excess is ahead."""
    ahead = jnp.array([0.0, 0.0, 1.0])

    factor = compton_getting_factor(ahead, beta * ahead, jnp.array(gamma))

    np.testing.assert_allclose(factor, ((1 + beta) / (1 - beta)) ** (1 + gamma / 2), rtol=1e-12)


@pytest.mark.parametrize(
    ("beta", "dipole", "quadrupole"),
    [(1e-2, 0.046996964036805, 8.9293035138e-4), (1e-4, 4.69999996964e-4, 8.929999e-8)],
)
def test_legendre_coefficients_of_the_factor(beta, dipole, quadrupole):
    cosine, weight = np.polynomial.legendre.leggauss(40)
    direction = np.stack([np.sqrt(1 - cosine**2), np.zeros(40), cosine], axis=-1)

    factor = compton_getting_factor(direction, jnp.array([0.0, 0.0, beta]), 2.7)

    moments = np.polynomial.legendre.legvander(cosine, 2).T @ (weight * factor) * np.array([1 / 2, 3 / 2, 5 / 2])
    np.testing.assert_allclose(moments[1] / moments[0], dipole, rtol=1e-11)
    np.testing.assert_allclose(moments[2] / moments[0], quadrupole, rtol=1e-6)


def test_events_of_a_moving_observer_are_counted_by_the_factor():
    """Monte Carlo: isotropic particles above a threshold, aberrated and Doppler shifted one by one.

    The observer's volume is contracted along each path, so each particle counts 1 + beta cos theta' times.
    """
    rng, beta, gamma, number = np.random.default_rng(4), 0.05, 2.7, 2_000_000
    cosine = rng.uniform(-1, 1, number)
    energy = (1 - rng.random(number)) ** (-1 / (gamma - 1))
    lorentz = 1 / np.sqrt(1 - beta**2)
    shift = lorentz * (1 + beta * cosine)  # E / E' for a particle that comes from cosine
    seen = (cosine + beta) / (1 + beta * cosine)
    counted = energy * shift > 1.2
    dipole = 3 * np.average(seen[counted], weights=(1 + beta * cosine)[counted])

    nodes, weight = np.polynomial.legendre.leggauss(40)
    direction = np.stack([np.sqrt(1 - nodes**2), np.zeros(40), nodes], axis=-1)
    factor = np.asarray(compton_getting_factor(direction, jnp.array([0.0, 0.0, beta]), gamma))

    expected = 3 * (weight * nodes) @ factor / (weight @ factor)
    np.testing.assert_allclose(dipole, expected, atol=4 * np.sqrt(3 / counted.sum()))


def test_the_dipole_is_the_slope_of_the_factor():
    """At zero velocity the derivative of the factor is the dipole seen in each direction."""
    velocity, direction = jnp.array([3e-5, -8e-5, 5e-5]), unit_vector(1.1, -0.4)
    _, slope = jax.jvp(lambda v: compton_getting_factor(direction, v, 2.7), (jnp.zeros(3),), (velocity,))
    np.testing.assert_allclose(slope, direction @ compton_getting_dipole(velocity, 2.7), rtol=1e-12)
    np.testing.assert_allclose(compton_getting_dipole(velocity, 2.7), 4.7 * velocity)


def test_gradients():
    velocity, direction = jnp.array([0.3, -0.2, 0.1]), unit_vector(1.1, -0.4)
    check_grads(compton_getting_factor, (direction, velocity, 2.7), order=1)
    check_grads(compton_getting_dipole, (velocity, 2.7), order=1)
    check_grads(
        jax.jit(lambda n, t, g: 1e4 * (observer.orbital_intensity(n, 4000.3 + 58 * t, g) - 1)),
        (direction, 0.1, 2.7),
        order=1,
        rtol=1e-5,
        atol=1e-6,
    )


# Multipoles of the factor


@pytest.mark.parametrize(
    ("beta", "dipole", "quadrupole"),
    [(1e-2, 0.046996964036805, 8.9293035138e-4), (1e-4, 4.69999996964e-4, 8.929999e-8)],
)
def test_multipoles_along_the_motion(beta, dipole, quadrupole):
    """P_l = sqrt(4 pi / (2 l + 1)) R_l0 about the z axis."""
    multipoles = np.asarray(compton_getting_multipoles(jnp.array([0.0, 0.0, beta]), 2.7, 3))
    scale = np.sqrt((2 * np.arange(4) + 1) / (4 * np.pi))
    along = multipoles[[harmonics.index(l, 0) for l in range(4)]] * scale
    assert along[0] == 0
    np.testing.assert_allclose(along[1], dipole, rtol=1e-11)
    np.testing.assert_allclose(along[2], quadrupole, rtol=1e-6)
    # The last term of a power series, a (a + 1) (a + 2) beta^3 / 15.
    np.testing.assert_allclose(along[3], 4.7 * 5.7 * 6.7 * beta**3 / 15, rtol=5 * beta)
    off_axis = [harmonics.index(l, m) for l in range(4) for m in range(-l, l + 1) if m]
    np.testing.assert_allclose(multipoles[off_axis], 0, atol=1e-18)


@pytest.mark.parametrize("speed", [1e-3, 0.1, 0.7])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 2.7, 6.5])
def test_multipoles_are_the_integrals_of_the_factor(speed, gamma):
    """Against Gauss-Legendre integrals of the profile, and SciPy's harmonics of the direction of motion."""
    velocity = speed * np.array([0.48, -0.6, 0.64])
    node, weight = np.polynomial.legendre.leggauss(300)
    profile = weight * (1 - speed * node) ** -(2 + gamma)
    coefficient = (np.arange(6) + 0.5) * (np.polynomial.legendre.legvander(node, 5).T @ profile)
    polar, azimuth = np.arccos(0.64), np.arctan2(-0.6, 0.48)
    expected = np.zeros(36)
    for l in range(1, 6):
        for m in range(-l, l + 1):
            value = sph_harm_y(l, abs(m), polar, azimuth) * (np.sqrt(2) * (-1) ** m if m else 1)
            part = value.imag if m < 0 else value.real
            expected[l * l + l + m] = 4 * np.pi / (2 * l + 1) * coefficient[l] / coefficient[0] * part
    multipoles = compton_getting_multipoles(velocity, gamma, 5)
    np.testing.assert_allclose(multipoles, expected, rtol=1e-9, atol=2e-13)


def test_multipoles_sum_to_the_factor():
    velocity, direction = jnp.array([[0.03, -0.05, 0.02], [0.0, 0.0, 0.0]]), unit_vector(np.arange(7.0), 0.3)
    field = harmonics.evaluate_at(compton_getting_multipoles(velocity, 2.7, 8), direction)
    node, weight = np.polynomial.legendre.leggauss(40)
    for each, seen in zip(np.asarray(velocity), np.asarray(field), strict=True):
        mean = weight @ (1 - np.linalg.norm(each) * node) ** -4.7 / 2
        np.testing.assert_allclose(1 + seen, (1 - direction @ each) ** -4.7 / mean, rtol=1e-8)


def test_multipoles_at_rest_have_the_slope_of_the_dipole():
    """And the quadrupole its curvature: a (a + 1) beta^2 P_2 / 3 at m = 0 is a (a + 1) (z^2 - (x^2 + y^2) / 2) / 3."""
    velocity, still = jnp.array([3e-5, -8e-5, 5e-5]), jnp.zeros(3)

    @jax.jit
    def derivatives(v):
        each = lambda v: observer.compton_getting_multipoles(v, 2.7, 2)
        return each(v), jax.jacrev(each)(v), jax.hessian(lambda v: each(v)[harmonics.index(2, 0)])(v)

    value, slope, curvature = derivatives(still)
    np.testing.assert_array_equal(value, 0)
    first_order = harmonics.dipole_to_coefficients(4.7 * velocity)
    np.testing.assert_allclose(slope @ velocity, np.pad(first_order, (0, 5)), rtol=1e-12)
    expected = np.sqrt(4 * np.pi / 5) * 4.7 * 5.7 / 3 * np.diag([-1.0, -1.0, 2.0])
    np.testing.assert_allclose(curvature, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("velocity", [(0.0, 0.0, 0.0), (0.1, -0.2, 0.05)])
def test_gradients_of_multipoles(velocity):
    multipoles = lambda v, g: compton_getting_multipoles(v, g, 3)
    check_grads(multipoles, (jnp.array(velocity), 2.7), order=1, modes=["rev"])


def test_an_observer_is_slower_than_light():
    with pytest.raises(InputError, match=r"must be below 1: velocities are in units of c"):
        observer.compton_getting_multipoles(np.array([0.0, 25.4, 0.0]), 2.7, 2)
    with pytest.raises(InputError, match="l_max must be 0 or more"):
        observer.compton_getting_multipoles(np.zeros(3), 2.7, -1)


# Motion of the Sun


def test_solar_motion_against_the_local_standard_of_rest():
    velocity = np.asarray(lsr_velocity())
    galactic = Galactic(CartesianRepresentation(11.1, 12.24, 7.25))
    expected = SkyCoord(galactic).icrs.cartesian.xyz.value / C_KM_S
    np.testing.assert_allclose(velocity, expected, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(velocity) * C_KM_S, 18.044, atol=1e-3)
    np.testing.assert_allclose(np.degrees(angles(velocity)), [267.058, 23.097], atol=1e-3)
    np.testing.assert_allclose(compton_getting_dipole(velocity, 2.7), [-0.1335e-4, -2.5986e-4, 1.1098e-4], atol=2e-8)


def test_standard_solar_motion():
    velocity = iau_velocity()
    apex = SkyCoord(18 * u.hourangle, 30 * u.deg, frame=FK4(equinox="B1900")).icrs
    expected = 20 / C_KM_S * apex.cartesian.xyz.value
    np.testing.assert_allclose(velocity, expected, rtol=0, atol=1e-6 * 20 / C_KM_S)
    np.testing.assert_allclose(np.linalg.norm(compton_getting_dipole(velocity, 2.7)), 3.13e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("flow", "speed", "apex", "amplitude"),
    [
        ("mccomas2015", 25.4, (255.05, -17.60), 3.98e-4),
        ("mccomas2012", 23.2, (258.47, -18.00), 3.64e-4),
        ("witte2004", 26.3, (254.75, -17.47), 4.12e-4),
    ],
)
def test_motion_through_the_interstellar_gas(flow, speed, apex, amplitude):
    velocity = np.asarray(interstellar_velocity(flow))
    _, longitude, latitude = INTERSTELLAR_FLOWS[flow]
    ecliptic = SkyCoord(longitude * u.deg, latitude * u.deg, frame=BarycentricMeanEcliptic)
    np.testing.assert_allclose(velocity, speed / C_KM_S * ecliptic.icrs.cartesian.xyz.value, atol=2e-7 * speed / C_KM_S)
    np.testing.assert_allclose(np.degrees(angles(velocity)), apex, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(compton_getting_dipole(velocity, 2.7)), amplitude, atol=1e-6)


def test_the_default_gas_is_that_of_2015_and_an_unknown_one_is_refused():
    np.testing.assert_array_equal(interstellar_velocity(), interstellar_velocity("mccomas2015"))
    with pytest.raises(InputError, match="'mccomas': choose one of mccomas2015, mccomas2012, witte2004"):
        interstellar_velocity("mccomas")


@pytest.mark.parametrize(
    ("velocity", "amplitude", "phase"),
    [
        (lsr_velocity, 1.354e-3, 46.66),
        (iau_velocity, 1.350e-3, 47.55),
        (interstellar_velocity, 1.490e-3, 47.12),
        (lambda: interstellar_velocity("mccomas2012"), 1.450e-3, 47.20),
    ],
)
def test_correction_moves_the_phase_of_hawc_and_icecube_onto_the_local_field(velocity, amplitude, phase):
    """The 10 TeV dipole, raw at RA 38.4 degrees, goes to the IBEX field direction near 48.5 degrees."""
    corrected = np.array([9.16e-4, 7.25e-4]) - compton_getting_dipole(velocity(), 2.7)[:2]
    np.testing.assert_allclose(np.hypot(*corrected), amplitude, atol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arctan2(corrected[1], corrected[0])), phase, atol=0.01)


# Motions by name


def test_names_of_motions():
    np.testing.assert_array_equal(observer_velocity("none"), np.zeros(3))
    np.testing.assert_array_equal(observer_velocity("LSR"), lsr_velocity())
    np.testing.assert_array_equal(observer_velocity("iau"), iau_velocity())
    np.testing.assert_array_equal(observer_velocity("ism"), interstellar_velocity("mccomas2015"))
    np.testing.assert_array_equal(observer_velocity("mccomas2012"), interstellar_velocity("mccomas2012"))
    np.testing.assert_array_equal(observer_velocity("cmb"), cosmic_velocity())
    np.testing.assert_allclose(observer_velocity("none + earth", date=4000.5), earth_velocity(4000.5), rtol=1e-14)
    days = np.array([[4000.5, 4100.0]])
    both = observer_velocity("earth+lsr", date=days)
    assert both.shape == (1, 2, 3)
    np.testing.assert_allclose(both, lsr_velocity() + earth_velocity(days), rtol=0, atol=1e-17)


def test_frames_of_motions():
    """The motions in the frames in which they were published."""
    np.testing.assert_allclose(
        observer_velocity("lsr", "galactic") * C_KM_S, [11.1, 12.24, 7.25], rtol=1e-12, atol=1e-12
    )
    for flow, (speed, longitude, latitude) in INTERSTELLAR_FLOWS.items():
        expected = speed / C_KM_S * unit_vector(longitude * DEGREE, latitude * DEGREE)
        np.testing.assert_allclose(observer_velocity(flow, "ecliptic"), expected, rtol=1e-12)
    cosmic = observer_velocity("cmb", "galactic")
    np.testing.assert_allclose(np.degrees(angles(cosmic)), [264.021, 48.253], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(cosmic) * C_KM_S, 369.82, rtol=1e-12)
    assert abs(observer_velocity("earth", "ecliptic", 4000.5)[2]) < 1e-15
    # (l, b) of the standard solar motion and of the wind of the interstellar gas.
    np.testing.assert_allclose(np.degrees(angles(observer_velocity("iau", "galactic"))), [56.16, 22.76], atol=0.01)
    np.testing.assert_allclose(np.degrees(angles(observer_velocity("ism", "galactic"))), [3.69, 14.95], atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lrs",), r"unknown velocity 'lrs': did you mean lsr\?; known: none, lsr, iau, ism, cmb, mccomas2015"),
        (("lsr+mccomas2016",), r"unknown velocity 'mccomas2016': did you mean mccomas201\d\?"),
        (("zzz",), "unknown velocity 'zzz'; known: none"),
        (("lsr", "galactc"), r"unknown frame 'galactc': did you mean galactic\?; known: icrs, galactic, ecliptic"),
        (("lsr+ism",), r"velocity 'lsr\+ism' counts a motion twice: give one of lsr, iau, ism, cmb, mccomas2015"),
        (("earth+earth", "icrs", 1.0), "counts a motion twice"),
        (("lsr+earth",), "the velocity of the Earth depends on the day: give date, days since J2000.0"),
    ],
)
def test_unusable_motions_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        observer_velocity(*arguments)


# Motion of the Earth


def test_the_apex_is_ninety_degrees_west_of_the_sun():
    days = one_year(365)
    time = Time(2451545.0, days, format="jd", scale="tdb")
    sun = (get_body_barycentric("sun", time) - get_body_barycentric("earth", time)).xyz.value.T
    tilt = np.radians(23.4392911)
    ecliptic = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    longitude_of_sun, _ = angles(rotate(ecliptic, sun))
    longitude_of_apex, latitude = angles(rotate(ecliptic, earth_velocity(days)))

    west = np.degrees((longitude_of_sun - longitude_of_apex) % (2 * np.pi))

    np.testing.assert_allclose(west.mean(), 90.0, atol=0.05)
    np.testing.assert_allclose(west, 90.0, atol=1.05)  # the eccentricity, 0.0167 rad
    np.testing.assert_allclose(latitude, 0, atol=1e-5)


def test_intensity_is_highest_where_astropy_moves_the_earth_to():
    days = one_year(50)
    _, velocity = get_body_barycentric_posvel("earth", Time(2451545.0, days, format="jd", scale="tdb"))
    beta = velocity.xyz.to_value("km/s").T / C_KM_S
    speed = np.linalg.norm(beta, axis=1, keepdims=True)

    np.testing.assert_allclose(orbital_intensity(beta / speed, days, 2.7) - 1, 4.7 * speed[:, 0], rtol=1.5e-3)
    np.testing.assert_allclose(1 - orbital_intensity(-beta / speed, days, 2.7), 4.7 * speed[:, 0], rtol=1.5e-3)


def test_amplitudes_of_the_orbital_dipole_over_a_year():
    dipole = np.asarray(compton_getting_dipole(earth_velocity(one_year(2000)), 2.7))
    equatorial = np.hypot(dipole[:, 0], dipole[:, 1])
    np.testing.assert_allclose(np.linalg.norm(dipole, axis=1).mean(), 4.669e-4, atol=1e-7)
    np.testing.assert_allclose(equatorial.mean(), 4.479e-4, atol=2e-7)
    np.testing.assert_allclose([equatorial.min(), equatorial.max()], [4.265e-4, 4.744e-4], atol=4e-7)


def test_lines_of_the_orbital_dipole():
    """In a whole year delta_x + i delta_y, which a turning detector reads with exp(-i sidereal time), has
    lines at -1, 0, 1, 2 turns a year: extended-sidereal (obliquity), sidereal (none), solar, antisidereal
    (eccentricity). A year of the opposite sense would exchange the first and the third."""
    days = one_year(4000)
    dipole = np.asarray(compton_getting_dipole(earth_velocity(days), 2.7))
    year = np.exp(-2j * np.pi * (days - days[0]) / TROPICAL_YEAR)
    extended, sidereal, solar, anti = (
        abs(np.mean((dipole[:, 0] + 1j * dipole[:, 1]) * year**k)) for k in (-1, 0, 1, 2)
    )
    np.testing.assert_allclose(solar, 4.477e-4, rtol=1e-3)
    np.testing.assert_allclose(extended, 1.93e-5, rtol=0.01)
    # Eccentricity times amplitude is 7.8e-6; the tilt of the orbit takes cos^2(obliquity / 2) of it.
    np.testing.assert_allclose(anti, 0.01671 * 4.669e-4 * np.cos(np.radians(23.44 / 2)) ** 2, rtol=0.01)
    assert sidereal < 4e-7


@pytest.mark.parametrize("longitude", [0.0, -97 * DEGREE])
def test_the_equator_overhead_is_brightest_at_six_in_the_morning(longitude):
    """An equatorial site looks at right ascension = its sidereal time, and its own clock shows the line."""
    days = one_year(366 * 40)

    @jax.jit
    def seen(days, sidereal):
        to_j2000 = jnp.swapaxes(sky.precession_matrix(days), -1, -2)
        overhead = sky.unit_vector(sidereal, 0.0)
        return observer.orbital_intensity(sky.rotate(to_j2000, overhead), days, 2.7)

    excess = np.asarray(seen(days, local_time(days, longitude))) - 1
    for frame, amplitude in (("solar", 4.477e-4), ("extended-sidereal", 1.93e-5), ("antisidereal", 7.48e-6)):
        line = 2 * np.mean(excess * np.exp(1j * np.asarray(local_time(days, longitude, frame))))
        np.testing.assert_allclose(abs(line), amplitude, rtol=0.02)
        if frame == "solar":
            np.testing.assert_allclose(np.angle(line) / HOUR, 6.0, atol=0.02)
    sidereal = 2 * np.mean(excess * np.exp(1j * np.asarray(local_time(days, longitude))))
    assert abs(sidereal) < 6e-7


def test_half_a_year_leaks_into_sidereal_time():
    """January to June leaves 2.7e-4, close to 2 A / pi of a circular orbit seen face on."""
    start = 3653.5 - 1
    dipole = np.asarray(compton_getting_dipole(earth_velocity(start + np.arange(0, 181, 0.1)), 2.7))
    np.testing.assert_allclose(np.hypot(*dipole[:, :2].mean(axis=0)), 2.7e-4, rtol=0.05)


def test_events_and_times_are_paired_not_crossed():
    days = one_year(6)
    direction = unit_vector(np.linspace(0, 5, 6), np.linspace(-1, 1, 6))
    with jax.numpy_rank_promotion("raise"):
        together = orbital_intensity(direction, days, 2.7)
        each = [
            compton_getting_factor(n, earth_velocity(t), 2.7) for n, t in zip(np.asarray(direction), days, strict=True)
        ]
        np.testing.assert_allclose(together, each, rtol=1e-14)
        assert jax.eval_shape(orbital_intensity, direction, days[0], 2.7).shape == (6,)
        assert jax.eval_shape(orbital_intensity, direction[:, None], days[:4], 2.7).shape == (6, 4)


def test_orbital_intensity_refuses_to_run_on_32_bits():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="earth_velocity needs 64-bit floats"):
            observer.orbital_intensity(np.array([1.0, 0.0, 0.0]), np.array(100.0), 2.7)
    finally:
        jax.config.update("jax_enable_x64", True)
