"""Sidereal and solar time, the nutation of the equinox they count from, and the times of data files.

One time argument serves everywhere: `days`, counted from J2000.0 (JD - 2451545.0). UTC may stand in for
UT1, as in every function here: they differ by at most 0.9 s, which turns the sky by at most 0.004 degrees.
Whoever needs better adds UT1 - UTC to `days`. Terrestrial time, 1.1 minutes ahead, moves precession,
nutation and the Earth's velocity by nothing that matters, and is not asked for.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, require_float64
from .units import ARCSEC

OBLIQUITY = 84381.406 * ARCSEC
"""Mean obliquity of the ecliptic at J2000.0 [rad] (IAU 2006)."""

# Local time of each frame as (multiple of solar, multiple of sidereal) time.
_FRAME_WEIGHTS = {"sidereal": (0, 1), "solar": (1, 0), "antisidereal": (2, -1), "extended-sidereal": (-1, 2)}
# J2000.0 in days of each count.
_J2000_IN_DAYS = {"unix": 10957.5, "mjd": 51544.5, "jd": 2451545.0}

TIME_FRAMES = tuple(_FRAME_WEIGHTS)
"""Names of the local times that `local_time` gives."""

TIME_FORMATS = (*_J2000_IN_DAYS, "iso")
"""Names of the formats that `days_from` reads."""

_CENTURY = 36525.0
# Sidereal time wants terrestrial time in its slow terms: TT - UT is 64 s in 2000 and 69 s in 2026.
_TT_MINUS_UT = 67.0 / 86400

# Delaunay's arguments l, l', F, D, Omega [arcsec]: value at J2000.0 and rate per century.
_DELAUNAY = np.array(
    [
        [485868.249036, 1717915923.2178],
        [1287104.79305, 129596581.0481],
        [335779.526232, 1739527262.8478],
        [1072260.70369, 1602961601.2090],
        [450160.398036, -6962890.5431],
    ]
)
# Ten largest terms of the nutation IAU 2000: multiples of Delaunay's arguments, then the coefficients of sin
# in longitude and of cos in obliquity [arcsec].
_NUTATION = np.array(
    [
        [0, 0, 0, 0, 1, -17.2064161, 9.2052331],
        [0, 0, 2, -2, 2, -1.3170906, 0.5730336],
        [0, 0, 2, 0, 2, -0.2276413, 0.0978459],
        [0, 0, 0, 0, 2, 0.2074554, -0.0897492],
        [0, 1, 0, 0, 0, 0.1475877, 0.0073871],
        [0, 1, 2, -2, 2, -0.0516821, 0.0224386],
        [1, 0, 0, 0, 0, 0.0711159, -0.0006750],
        [0, 0, 2, 0, 1, -0.0387298, 0.0200728],
        [1, 0, 2, 0, 2, -0.0301461, 0.0129025],
        [0, -1, 2, -2, 2, 0.0215829, -0.0095929],
    ]
)


# Rotation of the Earth ---------------------------------------------------------------------------------


def earth_rotation_angle(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Earth rotation angle [rad, in [0, 2 pi)] at `days` (UT1) since J2000.0. IAU 2000 resolution B1.8.

    With UTC for UT1 it is off by at most 0.004 degrees.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    require_float64("earth_rotation_angle")
    return angle_of_turns(_rotation_turns(jnp.asarray(days, float)))


def greenwich_mean_sidereal_time(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Greenwich mean sidereal time [rad, in [0, 2 pi)] at `days` (UT1) since J2000.0. IAU 2006.

    With UTC for UT1 it is off by at most 0.004 degrees (0.9 s of time).

    Raises:
        RuntimeError: Without 64-bit floats.

    References:
        Capitaine, Wallace & Chapront (2003), A&A 412, 567, equation 42.
    """
    require_float64("greenwich_mean_sidereal_time")
    return angle_of_turns(_sidereal_turns(jnp.asarray(days, float)))


def greenwich_apparent_sidereal_time(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Greenwich apparent sidereal time [rad, in [0, 2 pi)]: mean plus the equation of the equinoxes.

    Goes with right ascensions of `apparent_matrix`. Within 0.08 arcsec for 1990-2050 with UT1, within
    0.004 degrees with UTC.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    require_float64("greenwich_apparent_sidereal_time")
    days = jnp.asarray(days, float)
    return angle_of_turns(_sidereal_turns(days) + equation_of_the_equinoxes(days) / (2 * jnp.pi))


def equation_of_the_equinoxes(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Apparent minus mean sidereal time [rad]: nutation in longitude along the equator (IERS 2010, 5.5.7).

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    centuries = julian_centuries(days, "equation_of_the_equinoxes")
    in_longitude, _ = nutation(centuries)
    node = (_DELAUNAY[4, 0] + _DELAUNAY[4, 1] * centuries) * ARCSEC
    return in_longitude * jnp.cos(mean_obliquity(centuries)) + 0.00264 * ARCSEC * jnp.sin(node)


def local_time(
    days: Real[ArrayLike, "..."], longitude: Float[ArrayLike, "..."] = 0.0, frame: str = "sidereal"
) -> Float[Array, "..."]:
    """Local time as an angle [rad, in [0, 2 pi)] in one of `TIME_FRAMES`.

    sidereal is local mean sidereal time; solar is local mean solar time, counted from midnight;
    antisidereal is 2 solar - sidereal, and extended-sidereal 2 sidereal - solar. They turn 366.2422,
    365.2422, 364.2422 and 367.2422 times in a tropical year.

    Args:
        days: Days since J2000.0, in UT1; with UTC the angle is off by at most 0.004 degrees.
        longitude: Geographic longitude of the site, east positive [rad].
        frame: One of `TIME_FRAMES`.

    Raises:
        InputError: If the frame is unknown.
        RuntimeError: Without 64-bit floats.
    """
    require_float64("local_time")
    days, longitude = jnp.broadcast_arrays(jnp.asarray(days, float), longitude)
    return angle_of_turns(local_turns(days, longitude, frame))


def local_turns(days, longitude, frame: str):
    """`local_time` in turns, whole ones included: arithmetic alone, for arrays of NumPy or JAX alike.

    Raises:
        InputError: If the frame is unknown.
    """
    if frame not in _FRAME_WEIGHTS:
        raise InputError(f"unknown time frame {frame!r}: choose one of {', '.join(TIME_FRAMES)}")
    solar_weight, sidereal_weight = _FRAME_WEIGHTS[frame]
    solar = _day_fraction(days) + 0.5  # J2000.0 is a noon
    turns = sidereal_weight * _sidereal_turns(days) + longitude / (2 * np.pi)
    return turns + solar_weight * solar if solar_weight else turns


# Times of data -----------------------------------------------------------------------------------------


def days_from(values, time_format: str) -> np.ndarray:
    """Days since J2000.0 (float64) of times as data files hold them.

    Args:
        values: Times of any shape: numbers, or for "iso" strings, datetime objects or numpy datetime64
            (UTC unless a string names its own offset).
        time_format: One of `TIME_FORMATS`: "unix" [s since 1970-01-01], "mjd" and "jd" [days], "iso".

    Raises:
        InputError: If the format is unknown, or a time is no time of that format; it names the first such.
    """
    if time_format not in TIME_FORMATS:
        raise InputError(f"unknown time format {time_format!r}: choose one of {', '.join(TIME_FORMATS)}")
    values = np.asarray(values)
    if time_format == "iso":
        return _days_from_dates(values)
    try:
        if values.dtype.kind == "M":
            raise TypeError
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"times in the format {time_format!r} must be numbers, not {values.ravel()[0]!s}; "
            "for dates choose the time format iso"
        ) from error
    _refuse_bad_times(values, ~np.isfinite(numbers), f"a finite number in the format {time_format!r}")
    return days_from_numbers(numbers, time_format)


def days_from_numbers(numbers: np.ndarray, time_format: str) -> np.ndarray:
    """Days since J2000.0 of "unix" [s], "mjd" or "jd" [days] numbers, unchecked: NaN stays NaN."""
    if time_format == "unix":
        numbers = numbers / 86400
    return numbers - _J2000_IN_DAYS[time_format]


def days_from_year_day(year, day) -> np.ndarray:
    """Days since J2000.0 of a year and a day of that year, both arrays, broadcast together.

    Args:
        year: Calendar year, a whole number.
        day: Day of the year with its fraction: 1.0 is January 1 at 0h UTC, 1.5 the noon after.

    Raises:
        InputError: If a year is not whole, or a day lies outside its year; it names the first such.
    """
    year, day = np.broadcast_arrays(np.asarray(year, dtype=np.float64), np.asarray(day, dtype=np.float64))
    _refuse_bad_times(year, ~(np.isfinite(year) & (year == np.floor(year))), "a whole calendar year")
    start = (year.astype(np.int64) - 1970).astype("datetime64[Y]")
    january = start.astype("datetime64[D]")
    length = ((start + 1).astype("datetime64[D]") - january) / np.timedelta64(1, "D")
    outside = ~((day >= 1) & (day < length + 1))
    _refuse_bad_times(day, outside, "a day of its year, where 1.0 is January 1 at 0h UTC")
    return (january - np.datetime64("2000-01-01")) / np.timedelta64(1, "D") - 0.5 + (day - 1)


def julian_year(days: Real[ArrayLike, "..."]) -> np.ndarray | np.float64:
    """Julian epoch of days since J2000.0, such as 2010.5."""
    return 2000 + np.asarray(days, dtype=np.float64) / 365.25


# Nutation, which moves the equinox that sidereal time is counted from ----------------------------------


def mean_obliquity(centuries: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mean obliquity of the ecliptic of date [rad] (IAU 2006), at Julian centuries since J2000.0."""
    return OBLIQUITY - (46.836769 * centuries + 0.0001831 * centuries**2) * ARCSEC


def nutation(centuries: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Nutation in longitude and in obliquity [rad], at Julian centuries since J2000.0.

    Cut to the ten largest terms of IAU 2000: within 0.08 arcsec for 1990-2050.
    """
    longitude, obliquity = 0.0, 0.0
    for *multiples, sine, cosine in _NUTATION:
        phase, rate = np.asarray(multiples) @ _DELAUNAY
        argument = (phase + rate * centuries) * ARCSEC
        longitude += sine * ARCSEC * jnp.sin(argument)
        obliquity += cosine * ARCSEC * jnp.cos(argument)
    return longitude, obliquity


# Helpers -----------------------------------------------------------------------------------------------


def julian_centuries(days: Real[ArrayLike, "..."], what: str) -> Float[Array, "..."]:
    """Julian centuries since J2000.0.

    Raises:
        RuntimeError: Without 64-bit floats; the message says that `what` needs them.
    """
    require_float64(what)
    return jnp.asarray(days, float) / _CENTURY


def angle_of_turns(turns: Float[Array, "..."]) -> Float[Array, "..."]:
    """Angle [rad] in [0, 2 pi) of a number of turns."""
    turns = turns - jnp.floor(turns)
    # A tiny negative number of turns rounds up to a whole one.
    return 2 * jnp.pi * jnp.where(turns < 1, turns, 0.0)


def _day_fraction(days):
    return days - (jnp if isinstance(days, jax.Array) else np).floor(days)


def _rotation_turns(days):
    """Earth rotation angle in turns. The whole days are taken off before they cost digits."""
    return 0.7790572732640 + 0.00273781191135448 * days + _day_fraction(days)


def _sidereal_turns(days):
    """Greenwich mean sidereal time in turns."""
    t = (days + _TT_MINUS_UT) / _CENTURY
    arcsec = 0.014506 + t * (4612.156534 + t * (1.3915817 - t * (4.4e-7 + t * (2.9956e-5 + t * 3.68e-8))))
    return _rotation_turns(days) + arcsec / 1296000


def _refuse_bad_times(values, bad, wanted):
    where = np.flatnonzero(bad)
    if where.size:
        first = where[0]
        raise InputError(
            f"{where.size} of {values.size} times are unusable: expected {wanted}, but entry {first} is "
            f"{values.ravel()[first]!s}. Mend these events or leave them out."
        )


def _days_from_dates(values):
    """ISO strings, datetime objects or datetime64 to days since J2000.0."""
    import pandas  # half a second, and only for dates

    if values.size == 0:
        return np.zeros(values.shape)
    if values.dtype.kind in "biuf":
        raise InputError(
            f"times in the format 'iso' must be dates, not the number {values.ravel()[0]!s}; "
            "for numbers choose the time format unix, mjd or jd"
        )
    dates = values
    if values.dtype.kind != "M":
        texts = [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
        parsed = pandas.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        dates = parsed.tz_localize(None).to_numpy().reshape(values.shape)
    _refuse_bad_times(values, np.isnat(dates), "dates like 2015-06-01T06:00:00")
    return np.asarray((dates - np.datetime64("2000-01-01T12:00")) / np.timedelta64(1, "D"))
