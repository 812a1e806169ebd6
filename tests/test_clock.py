"""diffcr.clock against astropy, ERFA and times that can be said in words."""

import datetime

import erfa
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.time import Time
from astropy.utils import iers
from jax.test_util import check_grads

from diffcr import clock
from diffcr.clock import (
    TIME_FORMATS,
    TIME_FRAMES,
    angle_of_turns,
    days_from,
    days_from_numbers,
    days_from_year_day,
    julian_year,
)
from diffcr.errors import InputError
from diffcr.units import ARCSEC, DEGREE, HOUR

# Compiled whole: called as they are, each of their operations would be compiled for each shape.
local_time = jax.jit(clock.local_time, static_argnums=2)
greenwich_mean_sidereal_time = jax.jit(clock.greenwich_mean_sidereal_time)
greenwich_apparent_sidereal_time = jax.jit(clock.greenwich_apparent_sidereal_time)
earth_rotation_angle = jax.jit(clock.earth_rotation_angle)

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
    ):
        yield


def utc(days):
    """Astropy times whose UT1 is UTC."""
    time = Time(J2000, days, format="jd", scale="utc")
    time.delta_ut1_utc = np.zeros(np.shape(days))
    return time


def angle_between(a, b):
    return (np.asarray(a) - np.asarray(b) + np.pi) % (2 * np.pi) - np.pi


# Rotation of the Earth


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
    np.testing.assert_allclose(angle_between(greenwich_apparent_sidereal_time(DAYS), apparent), 0, atol=0.08 * ARCSEC)


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_turns_in_a_tropical_year(frame):
    turns = {"solar": 365.2422, "sidereal": 366.2422, "antisidereal": 364.2422, "extended-sidereal": 367.2422}
    in_time, in_longitude = jax.jit(jax.grad(clock.local_time, (0, 1)), static_argnums=2)(9000.3, 0.0, frame)
    np.testing.assert_allclose(in_time * TROPICAL_YEAR / (2 * np.pi), turns[frame], atol=1e-4)
    np.testing.assert_allclose(in_longitude, 1)


def test_solar_time_is_the_clock_of_the_site():
    days = days_from(["2015-06-01T06:00", "2015-06-01T00:00"], "iso")
    np.testing.assert_allclose(local_time(days, 0.0, "solar") / HOUR, [6, 0], atol=1e-8)
    np.testing.assert_allclose(local_time(days, -105 * DEGREE, "solar") / HOUR, [23, 17], atol=1e-8)


def test_the_mixed_frames_are_sums_of_solar_and_sidereal_time():
    sidereal, solar, anti, extended = (np.asarray(local_time(DAYS, 0.7, frame)) for frame in TIME_FRAMES)
    np.testing.assert_allclose(angle_between(anti, 2 * solar - sidereal), 0, atol=1e-11)
    np.testing.assert_allclose(angle_between(extended, 2 * sidereal - solar), 0, atol=1e-11)


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_turns_are_local_time_on_arrays_of_numpy_and_of_jax(frame):
    for days in (DAYS, jnp.asarray(DAYS)):
        turns = np.asarray(clock.local_turns(days, 0.7, frame))
        np.testing.assert_allclose(angle_between(2 * np.pi * turns, local_time(DAYS, 0.7, frame)), 0, atol=1e-11)


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_local_times_stay_within_a_turn(frame):
    time = np.asarray(local_time(np.linspace(-4000, 9000, 5001), -1.2, frame))
    assert np.all((time >= 0) & (time < 2 * np.pi))


def test_an_unknown_frame_is_refused_by_name():
    with pytest.raises(InputError, match=r"'lunar': choose one of sidereal, solar, antisidereal, extended"):
        local_time(0.0, 0.0, "lunar")


# Times of data


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


def test_numbers_that_are_missing_stay_missing():
    """Event lists judge each row by itself; the known ones agree with `days_from`."""
    for time_format, number in (("unix", 1.3e9), ("mjd", 55000.25), ("jd", 2455000.75)):
        found = days_from_numbers(np.array([np.nan, number]), time_format)
        np.testing.assert_array_equal(found, [np.nan, *days_from([number], time_format)])


# Nutation


def test_the_equation_of_the_equinoxes_is_that_of_erfa():
    days = np.linspace(-10, 50, 2001) * 365.25
    found = jax.jit(clock.equation_of_the_equinoxes)(days)
    np.testing.assert_allclose(found, erfa.ee06a(J2000, days), rtol=0, atol=0.08 * ARCSEC)


def test_nutation_and_obliquity_are_those_of_erfa():
    days = np.linspace(-10, 50, 2001) * 365.25
    longitude, obliquity = jax.jit(clock.nutation)(days / 36525)
    expected = erfa.nut06a(J2000, days)
    np.testing.assert_allclose(longitude, expected[0], rtol=0, atol=0.08 * ARCSEC)
    np.testing.assert_allclose(obliquity, expected[1], rtol=0, atol=0.08 * ARCSEC)
    found = jax.jit(clock.mean_obliquity)(days / 36525)
    np.testing.assert_allclose(found, erfa.obl06(J2000, days), rtol=0, atol=1e-3 * ARCSEC)


# All of them


def test_an_angle_never_reaches_a_full_turn():
    angle = np.asarray(angle_of_turns(jnp.array([-1e-20, -1e-10, 0.0, 0.25, 1.0, -0.25])))
    assert np.all((angle >= 0) & (angle < 2 * np.pi))
    np.testing.assert_allclose(angle[2:], np.radians([0, 90, 0, 270]))


TIME_FUNCTIONS = {
    "earth_rotation_angle": clock.earth_rotation_angle,
    "greenwich_mean_sidereal_time": clock.greenwich_mean_sidereal_time,
    "greenwich_apparent_sidereal_time": clock.greenwich_apparent_sidereal_time,
    "equation_of_the_equinoxes": clock.equation_of_the_equinoxes,
    "local_time": clock.local_time,
}


@pytest.mark.parametrize("name", TIME_FUNCTIONS)
def test_functions_of_time_refuse_to_run_on_32_bits(name):
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match=f"{name} needs 64-bit floats: call jax.config.update"):
            TIME_FUNCTIONS[name](np.array([100.0]))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_gradients_in_time():
    def each_function(t):
        return [function(4000.3 + 0.1 * t) for function in TIME_FUNCTIONS.values()]

    check_grads(jax.jit(each_function), (0.1,), order=1, rtol=1e-5, atol=1e-6)


def test_times_and_sites_are_broadcast():
    with jax.numpy_rank_promotion("raise"):
        assert jax.eval_shape(clock.local_time, DAYS, np.ones((2, 1))).shape == (2, DAYS.size)
