"""diffcr.sky against astropy, ERFA and geometry that can be said in words."""

import erfa
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import (
    FK5,
    TETE,
    AltAz,
    EarthLocation,
    SkyCoord,
    get_body_barycentric,
    get_body_barycentric_posvel,
    solar_system_ephemeris,
)
from astropy.time import Time
from astropy.utils import iers
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from diffcr import sky
from diffcr.clock import greenwich_apparent_sidereal_time
from diffcr.sky import GALACTIC_TO_ICRS, precession_series
from diffcr.units import ARCSEC, C_KM_S, DEGREE, HOUR

# Compiled whole: called as they are, each of their operations would be compiled for each shape.
aberration, apparent_matrix, earth_velocity = map(jax.jit, (sky.aberration, sky.apparent_matrix, sky.earth_velocity))
precess, precession_matrix, rotate = map(jax.jit, (sky.precess, sky.precession_matrix, sky.rotate))
unit_vector, angles = map(jax.jit, (sky.unit_vector, sky.angles))
horizon, equatorial_of, flip_azimuth = map(jax.jit, (sky.horizon, sky.equatorial_of, sky.flip_azimuth))
galactic_to_icrs, icrs_to_galactic = map(jax.jit, (sky.galactic_to_icrs, sky.icrs_to_galactic))
ecliptic_to_equatorial = jax.jit(sky.ecliptic_to_equatorial)

J2000 = 2451545.0
# 2004 to 2026, at uneven times of day and of the month.
DAYS = np.linspace(1461.3, 9600.9, 57)
VECTOR = np.array([0.36, -0.48, 0.8])


@pytest.fixture(autouse=True)
def offline():
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "warn"),
        solar_system_ephemeris.set("builtin"),
    ):
        yield


@pytest.fixture
def random_directions():
    vector = np.random.default_rng(2).normal(size=(DAYS.size, 3))
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def utc(days):
    """Astropy times whose UT1 is UTC."""
    time = Time(J2000, days, format="jd", scale="utc")
    time.delta_ut1_utc = np.zeros(np.shape(days))
    return time


def spherical(vector, **kwargs):
    longitude, latitude = angles(vector)
    return SkyCoord(np.asarray(longitude) * u.rad, np.asarray(latitude) * u.rad, **kwargs)


def angle_between(a, b):
    return (np.asarray(a) - np.asarray(b) + np.pi) % (2 * np.pi) - np.pi


def distance(a, b):
    """Length of the difference of unit vectors: the angle, where that is small."""
    return np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1)


# Directions


def test_unit_vectors_have_the_equinox_on_x_six_hours_on_y_and_the_pole_on_z():
    longitude = np.array([0.0, np.pi / 2, 1.0])
    latitude = np.array([0.0, 0.0, np.pi / 2])
    np.testing.assert_allclose(unit_vector(longitude, latitude), np.eye(3), atol=1e-15)


@given(st.floats(0, 2 * np.pi, exclude_max=True), st.floats(-1.57, 1.57), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=30)
def test_angles_undo_unit_vector_for_any_length(longitude, latitude, length):
    found, height = angles(length * unit_vector(longitude, latitude))
    np.testing.assert_allclose(angle_between(found, longitude), 0, atol=1e-12)
    np.testing.assert_allclose(height, latitude, atol=1e-14)


def test_longitude_never_reaches_a_full_turn():
    longitude, _ = angles(np.array([[1.0, -1e-20, 0.0], [1.0, -1e-10, 0.0], [-1.0, 0.0, 0.0]]))
    assert np.all((longitude >= 0) & (longitude < 2 * np.pi))


def test_the_poles_have_finite_angles_and_gradients():
    of_angles = jax.jit(jax.jacobian(sky.angles))
    of_horizon = jax.jit(jax.jacobian(sky.horizon, argnums=(0, 1)))
    for z in (1.0, -1.0):
        pole = np.array([0.0, 0.0, z])
        np.testing.assert_allclose(angles(pole), [0, z * np.pi / 2])
        assert np.all(np.isfinite(of_angles(pole)))
        assert np.all(np.isfinite(of_horizon(0.0, z * np.pi / 2, z * np.pi / 2)))


@pytest.mark.parametrize(
    ("galactic", "icrs"),
    [
        ((210.5, -57.1), (48.469, -21.244)),
        ((216.2, -49.0), (57.875, -22.174)),
        ((0.0, 0.0), (266.405, -28.936)),
        ((15.34, 52.46), (229.2, 11.4)),
    ],
)
def test_galactic_directions_known_from_the_literature(galactic, icrs):
    """Interstellar field directions of IBEX, of nearby stars and of HAWC with IceCube, and the centre."""
    galactic, icrs = (unit_vector(*np.radians(pair)) for pair in (galactic, icrs))
    assert distance(galactic_to_icrs(galactic), icrs) < 0.008 * DEGREE
    assert distance(icrs_to_galactic(icrs), galactic) < 0.008 * DEGREE


def test_galactic_axes_are_those_of_astropy(random_directions):
    expected = spherical(random_directions, frame="galactic").icrs.cartesian.xyz.value.T
    np.testing.assert_allclose(galactic_to_icrs(random_directions), expected, atol=1e-14)
    np.testing.assert_allclose(icrs_to_galactic(expected), random_directions, atol=1e-14)
    np.testing.assert_allclose(GALACTIC_TO_ICRS @ GALACTIC_TO_ICRS.T, np.eye(3), atol=1e-14)


def test_the_ecliptic_axes_are_those_of_astropy(random_directions):
    ecliptic = spherical(random_directions, frame="barycentricmeanecliptic")
    expected = ecliptic.icrs.cartesian.xyz.value.T
    # Frame bias, 0.02 arcsec, is the difference of J2000 and ICRS.
    assert distance(ecliptic_to_equatorial(random_directions), expected).max() < 0.03 * ARCSEC


# The equator of date


def test_precession_is_that_of_erfa():
    days = np.linspace(-10, 50, 61) * 365.25
    _, expected, _ = erfa.bp06(J2000, days)
    assert np.abs(precession_matrix(days) - expected).max() < 1e-4 * ARCSEC


def test_precession_takes_j2000_to_fk5_of_date(random_directions):
    """The mirror image, date to J2000, would miss by twice the precession."""
    for days, vector in zip(DAYS[::8], random_directions, strict=False):
        time = Time(J2000, days, format="jd", scale="tt")
        expected = spherical(vector, frame=FK5(equinox="J2000")).transform_to(FK5(equinox=time))
        assert distance(rotate(precession_matrix(days), vector), expected.cartesian.xyz.value) < 0.01 * ARCSEC


@pytest.mark.parametrize(("hours", "rate"), [(0, 20.04), (6, 0.0), (12, -20.04)])
def test_declination_of_date_grows_by_twenty_arcsec_a_year_at_right_ascension_zero(hours, rate):
    _, declination = angles(precess(unit_vector(hours * HOUR, 0.3), 365.25 * 10.0))
    np.testing.assert_allclose((declination - 0.3) / ARCSEC / 10, rate, atol=0.03)


def test_the_cubic_is_the_matrix_from_1980_to_2060():
    days = np.linspace(-20, 60, 161) * 365.25
    series = precession_series()
    assert series.shape == (4, 3, 3)
    powers = (days / 36525)[:, None] ** np.arange(4)
    np.testing.assert_allclose(np.einsum("tk,kij->tij", powers, series), precession_matrix(days), rtol=0, atol=1e-9)


def test_fast_precession_is_the_matrix(random_directions):
    expected = rotate(precession_matrix(DAYS), random_directions)
    np.testing.assert_allclose(precess(random_directions, DAYS), expected, rtol=0, atol=1e-9)
    assert distance(expected, random_directions).min() > 10 * ARCSEC


def test_the_true_equator_is_that_of_erfa():
    days = np.linspace(-10, 50, 2001) * 365.25
    error = np.asarray(apparent_matrix(days)) - erfa.pnm06a(J2000, days)
    assert np.linalg.norm(error, 2, axis=(1, 2)).max() < 0.09 * ARCSEC


def test_apparent_places_are_those_of_astropy(random_directions):
    """Aberration (20 arcsec), nutation (17) and precession at once, each sign of which would show."""
    time = utc(DAYS)
    sun = get_body_barycentric("sun", time) - get_body_barycentric("earth", time)
    away = np.sum((sun / sun.norm()).xyz.value.T * random_directions, axis=1) < 0.9
    expected = spherical(random_directions, frame="icrs").transform_to(TETE(obstime=time)).cartesian.xyz.value.T

    found = rotate(apparent_matrix(DAYS), aberration(random_directions, DAYS))

    # Within 0.1 arcsec of nutation and aberration; the Sun bends light by 0.02 arcsec at 25 degrees.
    assert distance(found, expected)[away].max() < 0.15 * ARCSEC


def test_aberration_leads_towards_the_apex_by_twenty_arcsec():
    velocity = np.asarray(earth_velocity(DAYS))
    pole = np.cross(velocity, [0.3, -0.2, 0.9])
    pole /= np.linalg.norm(pole, axis=1, keepdims=True)
    moved = np.asarray(aberration(pole, DAYS)) - pole
    np.testing.assert_allclose(
        np.sum(moved * velocity, axis=1) / np.linalg.norm(velocity, axis=1), 20.5 * ARCSEC, rtol=0.02
    )
    np.testing.assert_allclose(np.linalg.norm(aberration(pole, DAYS), axis=1), 1, atol=1e-15)


def test_the_earth_moves_as_in_astropy():
    days = np.linspace(0, 30, 1501) * 365.25
    _, velocity = get_body_barycentric_posvel("earth", Time(J2000, days, format="jd", scale="tdb"))
    expected = velocity.xyz.to_value("km/s").T / C_KM_S
    error = distance(earth_velocity(days), expected) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1.1e-3


def test_the_speed_of_the_earth_over_a_year():
    speed = np.linalg.norm(earth_velocity(3650.0 + np.arange(0, 365.25, 0.25)), axis=-1) * C_KM_S
    np.testing.assert_allclose(speed.mean(), 29.783, atol=3e-3)
    np.testing.assert_allclose(np.sqrt(np.mean(speed**2)), 29.785, atol=3e-3)
    np.testing.assert_allclose([speed.min(), speed.max()], [29.282, 30.293], atol=0.015)


# The horizon


@pytest.mark.parametrize(
    ("hour_angle", "declination", "latitude", "zenith", "azimuth"),
    [
        (90, 0, 40, 90, 270),  # six hours after transit: due West
        (-90, 0, 40, 90, 90),
        (0, 0, 40, 40, 180),  # transit of the equator: due South of a northern site
        (0, 0, -35, 35, 0),
        (180, 60, 40, 80, 0),  # lower transit
        (30, 20, 90, 70, 210),  # at the North Pole the meridian is South, and West of it H grows
        (30, -20, -90, 70, 330),  # at the South Pole the meridian is North
    ],
)
def test_horizon_directions_known_in_words(hour_angle, declination, latitude, zenith, azimuth):
    found = horizon(*np.radians([hour_angle, declination, latitude]))
    np.testing.assert_allclose(np.degrees(found), [zenith, azimuth % 360], atol=1e-10)
    back = equatorial_of(*np.radians([zenith, azimuth, latitude]))
    np.testing.assert_allclose(angle_between(back[0], np.radians(hour_angle)), 0, atol=1e-12)
    np.testing.assert_allclose(np.degrees(back[1]), declination, atol=1e-10)


@given(st.floats(-3.14, 3.14), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
@settings(deadline=None, max_examples=50)
def test_equatorial_of_undoes_horizon(hour_angle, declination, latitude):
    back = equatorial_of(*horizon(hour_angle, declination, latitude), latitude)
    np.testing.assert_allclose(back, [hour_angle, declination], atol=1e-12)


def test_hour_angles_are_in_minus_pi_to_pi():
    hour_angle, _ = equatorial_of(np.radians(80.0), 0.0, np.radians(40.0))
    np.testing.assert_allclose(hour_angle, -np.pi)


@jax.jit
def local_directions(icrs, days, ut1, longitude, latitude):
    """North, East and up, from ICRS."""
    of_date = sky.rotate(sky.apparent_matrix(days), sky.aberration(icrs, days))
    right_ascension, declination = sky.angles(of_date)
    hour_angle = greenwich_apparent_sidereal_time(ut1) + longitude - right_ascension
    zenith, azimuth = sky.horizon(hour_angle, declination, latitude)
    return sky.unit_vector(azimuth, jnp.pi / 2 - zenith)


@pytest.mark.parametrize(("latitude", "longitude"), [(18.99, -97.31), (-35.2, -69.2), (-89.99, -63.45)])
def test_local_directions_are_those_of_astropy(random_directions, latitude, longitude):
    """ICRS to the horizon through every function of the chain, with astropy's own UT1."""
    site = EarthLocation.from_geodetic(longitude * u.deg, latitude * u.deg)
    time = Time(J2000, DAYS, format="jd", scale="utc")
    local = spherical(random_directions, frame="icrs").transform_to(AltAz(obstime=time, location=site))

    ut1 = DAYS + time.delta_ut1_utc / 86400
    found = local_directions(random_directions, DAYS, ut1, longitude * DEGREE, latitude * DEGREE)

    expected = unit_vector(local.az.rad, local.alt.rad)
    # Polar motion and diurnal aberration are left out: 0.5 and 0.3 arcsec.
    assert distance(found, expected).max() < 1.5 * ARCSEC


def test_flip_azimuth_exchanges_the_two_conventions():
    """North is 90 degrees counterclockwise from East, South 270."""
    compass = np.radians([0.0, 90.0, 180.0, 270.0, 30.0])
    counterclockwise = np.radians([90.0, 0.0, 270.0, 180.0, 60.0])
    np.testing.assert_allclose(flip_azimuth(counterclockwise), compass, atol=1e-12)
    np.testing.assert_allclose(flip_azimuth(compass), counterclockwise, atol=1e-12)


# All of them


TIME_FUNCTIONS = {
    # Units of time and of the result in which the derivative is of order one.
    "precession_matrix": (sky.precession_matrix, 1.0, 36525.0),
    "precess": (lambda days: sky.precess(VECTOR, days), 1.0, 36525.0),
    "apparent_matrix": (sky.apparent_matrix, 1e5, 10.0),
    "earth_velocity": (sky.earth_velocity, 1e4, 58.0),
    "aberration": (lambda days: sky.aberration(VECTOR, days), 1e4, 58.0),
}


@pytest.mark.parametrize("name", TIME_FUNCTIONS)
def test_functions_of_time_refuse_to_run_on_32_bits(name):
    function = TIME_FUNCTIONS[name][0]
    needs = "earth_velocity" if name == "aberration" else name
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match=f"{needs} needs 64-bit floats: call jax.config.update"):
            function(np.array([100.0]))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_gradients_in_time():
    def each_function(t):
        return [scale * function(4000.3 + unit * t) for function, scale, unit in TIME_FUNCTIONS.values()]

    check_grads(jax.jit(each_function), (0.1,), order=1, rtol=1e-5, atol=1e-6)


def test_gradients_in_direction():
    def of_angles(longitude, latitude, site):
        return (
            sky.unit_vector(longitude, latitude),
            sky.horizon(longitude, latitude, site),
            sky.equatorial_of(longitude, latitude, site),
            sky.flip_azimuth(longitude),
        )

    def of_vector(matrix, vector):
        return (
            sky.angles(vector),
            sky.galactic_to_icrs(vector),
            sky.icrs_to_galactic(vector),
            sky.ecliptic_to_equatorial(vector),
            sky.precess(vector, 4000.3),
            sky.aberration(vector, 4000.3),
            sky.rotate(matrix, vector),
        )

    check_grads(jax.jit(of_angles), (0.4, 0.7, -0.5), order=1)
    check_grads(jax.jit(of_vector), (jnp.asarray(GALACTIC_TO_ICRS), jnp.asarray(VECTOR)), order=1)


def test_events_and_times_are_paired_not_crossed(random_directions):
    @jax.jit
    def each_function(vector, days):
        return (
            sky.precess(vector, days),
            sky.aberration(vector, days),
            sky.rotate(sky.precession_matrix(days), vector),
        )

    with jax.numpy_rank_promotion("raise"):
        together = each_function(random_directions, DAYS)
        for event in (0, 5):
            alone = each_function(random_directions[event], DAYS[event])
            for many, one in zip(together, alone, strict=True):
                np.testing.assert_allclose(many[event], one, rtol=0, atol=1e-14)
        for found in jax.eval_shape(each_function, random_directions, 100.0):
            assert found.shape == random_directions.shape
        for found in jax.eval_shape(each_function, random_directions[:4, None], DAYS):
            assert found.shape == (4, DAYS.size, 3)
        assert jax.eval_shape(sky.apparent_matrix, DAYS).shape == (DAYS.size, 3, 3)
        assert jax.eval_shape(sky.horizon, np.ones((4, 1)), np.ones(5), 0.3)[0].shape == (4, 5)
        assert jax.eval_shape(sky.unit_vector, np.ones(5), 0.2).shape == (5, 3)
