"""diffcr.sky against astropy, ERFA and geometry that can be said in words."""

import datetime

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

from diffcr.errors import InputError
from diffcr.sky import (
    GALACTIC_TO_ICRS,
    TIME_FORMATS,
    TIME_FRAMES,
    aberration,
    angles,
    apparent_matrix,
    days_from,
    days_from_year_day,
    earth_rotation_angle,
    earth_velocity,
    ecliptic_to_equatorial,
    equatorial_of,
    flip_azimuth,
    galactic_to_icrs,
    greenwich_apparent_sidereal_time,
    greenwich_mean_sidereal_time,
    horizon,
    icrs_to_galactic,
    julian_year,
    local_time,
    precess,
    precession_matrix,
    precession_series,
    rotate,
    unit_vector,
)
from diffcr.units import ARCSEC, C_KM_S, DEGREE, HOUR

J2000 = 2451545.0
TROPICAL_YEAR = 365.24219
# 2004 to 2026, at uneven times of day and of the month.
DAYS = np.linspace(1461.3, 9600.9, 57)


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
    return np.asarray((a - b + np.pi) % (2 * np.pi) - np.pi)


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


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_the_poles_have_finite_angles_and_gradients(z):
    pole = jnp.array([0.0, 0.0, z])
    np.testing.assert_allclose(angles(pole), [0, z * np.pi / 2])
    assert np.all(np.isfinite(jax.jit(jax.jacobian(angles))(pole)))
    assert np.all(
        np.isfinite(jax.jit(jax.jacobian(horizon, argnums=(0, 1)))(0.0, z * np.pi / 2, z * np.pi / 2))
    )


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
    np.testing.assert_allclose(
        np.einsum("tk,kij->tij", powers, series), precession_matrix(days), rtol=0, atol=1e-9
    )


def test_fast_precession_is_the_matrix(random_directions):
    expected = rotate(precession_matrix(DAYS), random_directions)
    np.testing.assert_allclose(jax.jit(precess)(random_directions, DAYS), expected, rtol=0, atol=1e-9)
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
    expected = (
        spherical(random_directions, frame="icrs").transform_to(TETE(obstime=time)).cartesian.xyz.value.T
    )

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


@pytest.mark.parametrize(("latitude", "longitude"), [(18.99, -97.31), (-35.2, -69.2), (-89.99, -63.45)])
def test_local_directions_are_those_of_astropy(random_directions, latitude, longitude):
    """ICRS to the horizon through every function of the chain, with astropy's own UT1."""
    site = EarthLocation.from_geodetic(longitude * u.deg, latitude * u.deg)
    time = Time(J2000, DAYS, format="jd", scale="utc")
    local = spherical(random_directions, frame="icrs").transform_to(AltAz(obstime=time, location=site))

    ut1 = DAYS + time.delta_ut1_utc / 86400
    right_ascension, declination = angles(rotate(apparent_matrix(DAYS), aberration(random_directions, DAYS)))
    hour_angle = greenwich_apparent_sidereal_time(ut1) + longitude * DEGREE - right_ascension
    zenith, azimuth = horizon(hour_angle, declination, latitude * DEGREE)

    found = unit_vector(azimuth, np.pi / 2 - zenith)
    expected = unit_vector(local.az.rad, local.alt.rad)
    # Polar motion and diurnal aberration are left out: 0.5 and 0.3 arcsec.
    assert distance(found, expected).max() < 1.5 * ARCSEC


def test_flip_azimuth_exchanges_the_two_conventions():
    """North is 90 degrees counterclockwise from East, South 270."""
    compass = np.radians([0.0, 90.0, 180.0, 270.0, 30.0])
    counterclockwise = np.radians([90.0, 0.0, 270.0, 180.0, 60.0])
    np.testing.assert_allclose(flip_azimuth(counterclockwise), compass, atol=1e-12)
    np.testing.assert_allclose(flip_azimuth(compass), counterclockwise, atol=1e-12)


# Times


def test_sidereal_time_of_a_known_date():
    days = days_from("2015-06-01T06:00:00", "iso")
    np.testing.assert_allclose(np.degrees(greenwich_mean_sidereal_time(days)), 339.408880, atol=1e-6)
    np.testing.assert_allclose(days, 5629.75)


def test_sidereal_times_are_those_of_astropy():
    time = utc(DAYS)
    mean = time.sidereal_time("mean", "greenwich").rad
    apparent = time.sidereal_time("apparent", "greenwich").rad
    east = time.sidereal_time("mean", 100 * u.deg).rad
    rotation = time.earth_rotation_angle("tio").rad
    np.testing.assert_allclose(angle_between(greenwich_mean_sidereal_time(DAYS), mean), 0, atol=1e-10)
    np.testing.assert_allclose(angle_between(local_time(DAYS, 100 * DEGREE), east), 0, atol=1e-10)
    np.testing.assert_allclose(angle_between(earth_rotation_angle(DAYS), rotation), 0, atol=1e-10)
    np.testing.assert_allclose(
        angle_between(greenwich_apparent_sidereal_time(DAYS), apparent), 0, atol=0.08 * ARCSEC
    )


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_turns_in_a_tropical_year(frame):
    turns = {"solar": 365.2422, "sidereal": 366.2422, "antisidereal": 364.2422, "extended-sidereal": 367.2422}
    rate = jax.grad(local_time)(9000.3, 0.0, frame)
    np.testing.assert_allclose(rate * TROPICAL_YEAR / (2 * np.pi), turns[frame], atol=1e-4)
    np.testing.assert_allclose(jax.grad(local_time, argnums=1)(9000.3, 0.0, frame), 1)


def test_solar_time_is_the_clock_of_the_site():
    days = days_from(["2015-06-01T06:00", "2015-06-01T00:00"], "iso")
    np.testing.assert_allclose(local_time(days, 0.0, "solar") / HOUR, [6, 0], atol=1e-8)
    np.testing.assert_allclose(local_time(days, -105 * DEGREE, "solar") / HOUR, [23, 17], atol=1e-8)


def test_the_mixed_frames_are_sums_of_solar_and_sidereal_time():
    sidereal, solar, anti, extended = (local_time(DAYS, 0.7, frame) for frame in TIME_FRAMES)
    np.testing.assert_allclose(angle_between(anti, 2 * solar - sidereal), 0, atol=1e-11)
    np.testing.assert_allclose(angle_between(extended, 2 * sidereal - solar), 0, atol=1e-11)


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_local_times_stay_within_a_turn(frame):
    time = local_time(np.linspace(-4000, 9000, 5001), -1.2, frame)
    assert np.all((time >= 0) & (time < 2 * np.pi))


def test_an_unknown_frame_is_refused_by_name():
    with pytest.raises(InputError, match=r"'lunar': choose one of sidereal, solar, antisidereal, extended"):
        local_time(0.0, 0.0, "lunar")


def test_the_formats_of_time_agree_with_astropy():
    time = Time(["2004-01-01T00:00:01", "2026-03-04T05:06:07.5"], scale="utc")
    for time_format, tolerance in zip(TIME_FORMATS, (1e-11, 1e-11, 1e-9, 1e-11), strict=True):
        values = time.isot if time_format == "iso" else getattr(time, time_format)
        np.testing.assert_allclose(
            days_from(values, time_format), (time.jd1 - J2000) + time.jd2, rtol=0, atol=tolerance
        )


@pytest.mark.parametrize(
    "value",
    [
        "2015-06-01T06:00:00",
        "2015-06-01 06:00",
        "2015-06-01T06:00:00Z",
        "2015-06-01T08:00:00+02:00",
        b"2015-06-01T06:00:00.000",
        np.datetime64("2015-06-01T06"),
        datetime.datetime(2015, 6, 1, 6),
    ],
)
def test_dates_are_read_however_they_are_written(value):
    assert days_from(value, "iso") == 5629.75
    np.testing.assert_array_equal(days_from([[value, value]], "iso"), [[5629.75, 5629.75]])
    assert days_from([], "iso").shape == days_from([], "unix").shape == (0,)


@pytest.mark.parametrize(
    ("values", "time_format", "message"),
    [
        ([0.0], "gps", "unknown time format 'gps': choose one of unix, mjd, jd, iso"),
        ([0.0, np.nan], "unix", "1 of 2 times .* entry 1 is nan"),
        (["yesterday"], "mjd", "must be numbers, not yesterday; .* iso"),
        (np.array(["2015-06-01"], dtype="datetime64[s]"), "unix", "must be numbers, not 2015-06-01"),
        (["2015-06-01", "2015-06-31", "x"], "iso", "2 of 3 times .* entry 1 is 2015-06-31"),
        (np.array(["NaT"], dtype="datetime64[s]"), "iso", "1 of 1 times .* entry 0 is NaT"),
        ([1.4e9], "iso", "must be dates, not the number 1400000000.0; .* unix, mjd or jd"),
    ],
)
def test_bad_times_are_named(values, time_format, message):
    with pytest.raises(InputError, match=message):
        days_from(values, time_format)


def test_the_first_day_of_a_year_is_one():
    np.testing.assert_array_equal(days_from_year_day([2000, 2000, 2001], [1.0, 1.5, 1.0]), [-0.5, 0, 365.5])
    expected = Time(["2004:060:12:00:00", "2016:366:18:00:00"], format="yday", scale="utc")
    np.testing.assert_allclose(
        days_from_year_day(np.array([2004, 2016]), np.array([60.5, 366.75])), expected.jd - J2000
    )


@pytest.mark.parametrize(
    ("year", "day", "message"),
    [
        (2015, [1.0, 366.0], "1 of 2 times .* 1.0 is January 1 at 0h UTC, but entry 1 is 366.0"),
        (2015, 0.5, "a day of its year"),
        (2015, np.nan, "a day of its year"),
        (2015.5, 3.0, "a whole calendar year, but entry 0 is 2015.5"),
    ],
)
def test_days_outside_their_year_are_named(year, day, message):
    with pytest.raises(InputError, match=message):
        days_from_year_day(year, day)


def test_julian_year():
    np.testing.assert_allclose(julian_year(np.array([0.0, 10.5 * 365.25])), [2000, 2010.5])
    np.testing.assert_allclose(julian_year(DAYS), Time(J2000, DAYS, format="jd", scale="tt").jyear)


# All of them


VECTOR = np.array([0.36, -0.48, 0.8])
TIME_FUNCTIONS = {
    "precession_matrix": precession_matrix,
    "precess": lambda days: precess(VECTOR, days),
    "apparent_matrix": apparent_matrix,
    "earth_velocity": earth_velocity,
    "earth_rotation_angle": earth_rotation_angle,
    "greenwich_mean_sidereal_time": greenwich_mean_sidereal_time,
    "greenwich_apparent_sidereal_time": greenwich_apparent_sidereal_time,
    "local_time": local_time,
}


@pytest.mark.parametrize("name", TIME_FUNCTIONS)
def test_functions_of_time_refuse_to_run_on_32_bits(name):
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match=f"{name} needs 64-bit floats: call jax.config.update"):
            TIME_FUNCTIONS[name](np.array([100.0]))
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize(
    ("function", "scale", "unit"),
    [
        # Units of time and of the result in which the derivative is of order one.
        (precession_matrix, 1.0, 36525.0),
        (TIME_FUNCTIONS["precess"], 1.0, 36525.0),
        (apparent_matrix, 1e5, 10.0),
        (earth_velocity, 1e4, 58.0),
        (lambda days: aberration(VECTOR, days), 1e4, 58.0),
        (earth_rotation_angle, 1.0, 0.1),
        (greenwich_mean_sidereal_time, 1.0, 0.1),
        (greenwich_apparent_sidereal_time, 1.0, 0.1),
        (local_time, 1.0, 0.1),
    ],
)
def test_gradients_in_time(function, scale, unit):
    check_grads(jax.jit(lambda t: scale * function(4000.3 + unit * t)), (0.1,), order=1, rtol=1e-5, atol=1e-6)


def test_gradients_in_direction():
    vector = jnp.asarray(VECTOR)
    for function in (unit_vector, horizon, equatorial_of):
        arguments = (0.4, 0.7, -0.5)[: 2 if function is unit_vector else 3]
        check_grads(jax.jit(function), arguments, order=1)
    for function in (angles, galactic_to_icrs, icrs_to_galactic, ecliptic_to_equatorial):
        check_grads(jax.jit(function), (vector,), order=1)
    for function in (precess, aberration):
        check_grads(jax.jit(lambda v, f=function: f(v, 4000.3)), (vector,), order=1)
    check_grads(jax.jit(rotate), (jnp.asarray(GALACTIC_TO_ICRS), vector), order=1)
    check_grads(jax.jit(flip_azimuth), (0.4,), order=1)


def test_events_and_times_are_paired_not_crossed(random_directions):
    with jax.numpy_rank_promotion("raise"):
        for function in map(jax.jit, (precess, aberration, lambda v, d: rotate(precession_matrix(d), v))):
            together = function(random_directions, DAYS)
            for event in (0, 5):
                each = function(random_directions[event], DAYS[event])
                np.testing.assert_allclose(together[event], each, rtol=0, atol=1e-14)
            assert function(random_directions, 100.0).shape == random_directions.shape
            assert function(random_directions[:4, None], DAYS).shape == (4, DAYS.size, 3)
        assert jax.jit(apparent_matrix)(DAYS).shape == (DAYS.size, 3, 3)
        assert horizon(np.ones((4, 1)), np.ones(5), 0.3)[0].shape == (4, 5)
        assert unit_vector(np.ones(5), 0.2).shape == (5, 3)
        assert local_time(DAYS, np.ones((2, 1))).shape == (2, DAYS.size)
