"""Directions and frames (Galactic, ICRS, J2000, equator of date, horizon) and the times they turn with.

One time argument serves everywhere: `days`, counted from J2000.0 (JD - 2451545.0). UTC may stand in for
UT1, as in every function here: they differ by at most 0.9 s, which turns the sky by at most 0.004 degrees.
Whoever needs better adds UT1 - UTC to `days`. Terrestrial time, 1.1 minutes ahead, moves precession,
nutation and the Earth's velocity by nothing that matters, and is not asked for.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, require_float64
from .units import ARCSEC, AU, DAY, DEGREE, SPEED_OF_LIGHT

GALACTIC_TO_ICRS = np.array(
    [
        [-0.05487565771259218, 0.49410943719272665, -0.8676661375596585],
        [-0.8734370519556162, -0.4448297212232957, -0.19807633727300056],
        [-0.4838350736167156, 0.7469821839866677, 0.45598381368730206],
    ]
)
"""Columns are the ICRS images of the Galactic axes (l, b) = (0, 0), (90, 0) degrees and b = 90 degrees."""

OBLIQUITY = 84381.406 * ARCSEC
"""Mean obliquity of the ecliptic at J2000.0 [rad] (IAU 2006)."""

TIME_FRAMES = ("sidereal", "solar", "antisidereal", "extended-sidereal")
TIME_FORMATS = ("unix", "mjd", "jd", "iso")

# Local time of each frame as (multiple of solar, multiple of sidereal) time.
_FRAME_WEIGHTS = {"sidereal": (0, 1), "solar": (1, 0), "antisidereal": (2, -1), "extended-sidereal": (-1, 2)}

_CENTURY = 36525.0
# Sidereal time wants terrestrial time in its slow terms: TT - UT is 64 s in 2000 and 69 s in 2026.
_TT_MINUS_UT = 67.0 / 86400

# Tilt of the ICRS against the mean equator and equinox of J2000 (IERS Conventions 2010, 5.4.4).
_BIAS_RA, _BIAS_XI, _BIAS_ETA = -0.0146 * ARCSEC, -0.016617 * ARCSEC, -0.0068192 * ARCSEC
_FRAME_BIAS = np.array([[1, _BIAS_RA, -_BIAS_XI], [-_BIAS_RA, 1, -_BIAS_ETA], [_BIAS_XI, _BIAS_ETA, 1]])

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


# Directions --------------------------------------------------------------------------------------------


def unit_vector(
    longitude: Float[ArrayLike, "..."], latitude: Float[ArrayLike, "..."]
) -> Float[Array, "... 3"]:
    """(cos b cos l, cos b sin l, sin b) for longitude l and latitude b [rad], broadcast together.

    Serves right ascension with declination, and Galactic l with b.
    """
    longitude, latitude = jnp.broadcast_arrays(longitude, latitude)
    equatorial = jnp.cos(latitude)
    return jnp.stack(
        [equatorial * jnp.cos(longitude), equatorial * jnp.sin(longitude), jnp.sin(latitude)], axis=-1
    )


def angles(vector: Float[ArrayLike, "... 3"]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Longitude in [0, 2 pi) and latitude in [-pi/2, pi/2] [rad] of vectors of any length above zero.

    At the poles the longitude is 0 and both gradients are 0, where the true ones do not exist.
    """
    vector = jnp.asarray(vector)
    return _longitude_latitude(vector[..., 0], vector[..., 1], vector[..., 2])


def rotate(matrix: Float[ArrayLike, "... 3 3"], vector: Float[ArrayLike, "... 3"]) -> Float[Array, "... 3"]:
    """matrix @ vector, with the leading axes of the two broadcast together."""
    matrix, vector = jnp.asarray(matrix), jnp.asarray(vector)
    batch = jnp.broadcast_shapes(matrix.shape[:-2], vector.shape[:-1])
    # Written as a sum: XLA fuses it, while a batch of 3 x 3 matrix products is slow on a CPU.
    matrix = jnp.broadcast_to(matrix, (*batch, 3, 3))
    return jnp.sum(matrix * jnp.broadcast_to(vector, (*batch, 3))[..., None, :], axis=-1)


def galactic_to_icrs(vector: Float[ArrayLike, "... 3"]) -> Float[Array, "... 3"]:
    """Vectors along the Galactic axes (Galactic centre, l = 90 degrees, north pole) to ICRS axes."""
    return rotate(GALACTIC_TO_ICRS, vector)


def icrs_to_galactic(vector: Float[ArrayLike, "... 3"]) -> Float[Array, "... 3"]:
    """Vectors along ICRS axes to Galactic axes."""
    return rotate(GALACTIC_TO_ICRS.T, vector)


def ecliptic_to_equatorial(vector: Float[ArrayLike, "... 3"]) -> Float[Array, "... 3"]:
    """Vectors along the mean ecliptic axes of J2000 to the mean equator and equinox of J2000."""
    sin, cos = np.sin(OBLIQUITY), np.cos(OBLIQUITY)
    return rotate(np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]), vector)


# The equator of date -----------------------------------------------------------------------------------


def precession_matrix(days: Real[ArrayLike, "..."]) -> Float[Array, "... 3 3"]:
    """Rotation from the mean equator and equinox of J2000 to those of date (IAU 2006).

    Its transpose brings directions of date back to J2000. Within 1e-4 arcsec of ERFA for 1990-2050.

    Args:
        days: Days since J2000.0.

    Returns:
        Matrices M with (vector of date) = M (vector of J2000).

    Raises:
        RuntimeError: Without 64-bit floats.

    References:
        Capitaine, Wallace & Chapront (2003), A&A 412, 567, equation 40.
    """
    return _stack(_precession(_centuries(days, "precession_matrix"), jnp), jnp)


def precession_series() -> np.ndarray:
    """The precession matrix as a cubic in Julian centuries since J2000.0, shape (4, 3, 3).

    Entry [k] multiplies T**k. Fitted at Chebyshev nodes: within 1e-9 rad of `precession_matrix` for
    1980-2060, and off by T**4 outside. No angle and no sine per event are left to compute.
    """
    nodes = 0.2 + 0.4 * np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    elements = _stack(_precession(nodes, np), np).reshape(-1, 9)
    return np.polynomial.polynomial.polyfit(nodes, elements, 3).reshape(4, 3, 3)


def precess(vector: Float[ArrayLike, "... 3"], days: Real[ArrayLike, "..."]) -> Float[Array, "... 3"]:
    """Directions in the mean equator and equinox of J2000 to those of date, by `precession_series`.

    The path for many events: within 1e-9 rad of `precession_matrix` for 1980-2060.

    Args:
        vector: Vectors in J2000, one per event.
        days: Days since J2000.0, broadcast against the leading axes of `vector`.

    Returns:
        Vectors in the mean equator and equinox of date.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    centuries, vector = _centuries(days, "precess"), jnp.asarray(vector)
    batch = jnp.broadcast_shapes(centuries.shape, vector.shape[:-1])
    centuries, vector = jnp.broadcast_to(centuries, batch), jnp.broadcast_to(vector, (*batch, 3))
    xyz = [vector[..., j] for j in range(3)]
    series, rows = precession_series(), []
    for i in range(3):
        # Each component of the result is a cubic in T with coefficients linear in the vector.
        a, b, c, d = (sum(float(m) * x for m, x in zip(k[i], xyz, strict=True)) for k in series)
        rows.append(a + centuries * (b + centuries * (c + centuries * d)))
    return jnp.stack(rows, axis=-1)


def apparent_matrix(days: Real[ArrayLike, "..."]) -> Float[Array, "... 3 3"]:
    """Rotation from ICRS to the true equator and equinox of date: frame bias, precession, nutation.

    Nutation is cut to its ten largest terms: within 0.08 arcsec of ERFA (IAU 2006/2000A) for 1990-2050.
    Hour angles follow with `greenwich_apparent_sidereal_time`. Apparent places want `aberration` first.

    Args:
        days: Days since J2000.0.

    Returns:
        Matrices M with (vector of date) = M (vector in ICRS).

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    centuries = _centuries(days, "apparent_matrix")
    in_longitude, in_obliquity = _nutation(centuries)
    obliquity = _mean_obliquity(centuries)
    precession = _product(_precession(centuries, jnp), _FRAME_BIAS.tolist())
    to_ecliptic_of_date = _product(_rotation_x(obliquity), precession)
    nutated = _product(_rotation_z(-in_longitude), to_ecliptic_of_date)
    return _stack(_product(_rotation_x(-obliquity - in_obliquity), nutated), jnp)


def earth_velocity(days: Real[ArrayLike, "..."]) -> Float[Array, "... 3"]:
    r"""Orbital velocity of the Earth in units of c, along the mean equator and equinox of J2000.

    Kepler's ellipse with slowly changing elements: for heliocentric longitude L and perihelion $\varpi$,

    $$ v = \frac{n a}{\sqrt{1 - e^2}} (-\sin L - e \sin\varpi,\; \cos L + e \cos\varpi,\; 0) $$

    in the ecliptic. The Sun's own motion about the barycentre (13 m/s) and the Earth's about its centre
    of mass with the Moon (12 m/s) are left out: within 0.11 % of the speed for 2000-2030.

    Args:
        days: Days since J2000.0.

    Raises:
        RuntimeError: Without 64-bit floats.

    References:
        Simon et al. (1994), A&A 282, 663: mean elements of the Earth-Moon barycentre.
    """
    centuries = _centuries(days, "earth_velocity")
    eccentricity = 0.0167086342 - 0.00004203654 * centuries
    perihelion = (102.93734808 + 0.322556 * centuries) * DEGREE
    mean_longitude = (100.46645683 + 35999.3728521 * centuries) * DEGREE
    anomaly = mean_longitude - perihelion
    # Equation of the centre to the order e^3: true minus mean anomaly.
    centre = (
        (2 * eccentricity - eccentricity**3 / 4) * jnp.sin(anomaly)
        + 5 / 4 * eccentricity**2 * jnp.sin(2 * anomaly)
        + 13 / 12 * eccentricity**3 * jnp.sin(3 * anomaly)
    )
    longitude = mean_longitude + centre
    circular = 2 * np.pi * 1.0000010178 * AU / (365.256363 * DAY) / SPEED_OF_LIGHT
    speed = circular / jnp.sqrt(1 - eccentricity**2)
    x = -speed * (jnp.sin(longitude) + eccentricity * jnp.sin(perihelion))
    y = speed * (jnp.cos(longitude) + eccentricity * jnp.cos(perihelion))
    return ecliptic_to_equatorial(jnp.stack([x, y, jnp.zeros_like(x)], axis=-1))


def aberration(vector: Float[ArrayLike, "... 3"], days: Real[ArrayLike, "..."]) -> Float[Array, "... 3"]:
    """Directions in ICRS as the moving Earth sees them: shifted by up to 20.5 arcsec towards its apex.

    ICRS directions that astropy or SLALIB made from local ones have this shift taken out; `aberration`,
    then `apparent_matrix`, then the hour angle turn them back into what the detector saw. Directions that
    were only rotated must not be aberrated. Diurnal aberration (0.3 arcsec) is left out, and terms of
    second order in the speed (1e-8 rad).

    Args:
        vector: Unit vectors in ICRS.
        days: Days since J2000.0, broadcast against the leading axes of `vector`.

    Returns:
        Unit vectors, still along ICRS axes.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    velocity, vector = earth_velocity(days), jnp.asarray(vector)
    shape = jnp.broadcast_shapes(velocity.shape, vector.shape)
    seen = jnp.broadcast_to(vector, shape) + jnp.broadcast_to(velocity, shape)
    return seen / jnp.linalg.norm(seen, axis=-1, keepdims=True)


# The horizon -------------------------------------------------------------------------------------------


def horizon(
    hour_angle: Float[ArrayLike, "..."],
    declination: Float[ArrayLike, "..."],
    latitude: Float[ArrayLike, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Zenith angle and azimuth of a direction given by hour angle H and declination d, at latitude $\Phi$.

    $$ E = -\cos d \sin H,\quad N = \sin d \cos\Phi - \cos d \sin\Phi \cos H,\quad
       U = \sin d \sin\Phi + \cos d \cos\Phi \cos H $$

    Args:
        hour_angle: Local sidereal time minus right ascension of date, growing westwards [rad].
        declination: Declination of date [rad].
        latitude: Geographic latitude of the site, north positive [rad].

    Returns:
        Zenith angle in [0, pi] and azimuth in [0, 2 pi), from North through East [rad]. At the zenith the
        azimuth is 0 and both gradients are 0.
    """
    hour_angle, declination, latitude = jnp.broadcast_arrays(hour_angle, declination, latitude)
    meridian = jnp.cos(declination) * jnp.cos(hour_angle)
    east = -jnp.cos(declination) * jnp.sin(hour_angle)
    north = jnp.sin(declination) * jnp.cos(latitude) - meridian * jnp.sin(latitude)
    up = jnp.sin(declination) * jnp.sin(latitude) + meridian * jnp.cos(latitude)
    azimuth, altitude = _longitude_latitude(north, east, up)
    return jnp.pi / 2 - altitude, azimuth


def equatorial_of(
    zenith: Float[ArrayLike, "..."], azimuth: Float[ArrayLike, "..."], latitude: Float[ArrayLike, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Hour angle and declination of a horizon direction: the inverse of `horizon`.

    Args:
        zenith: Zenith angle [rad].
        azimuth: Azimuth from North through East [rad]; see `flip_azimuth` for the other convention.
        latitude: Geographic latitude of the site, north positive [rad].

    Returns:
        Hour angle in [-pi, pi), growing westwards, and declination [rad], in the equator of date.
    """
    zenith, azimuth, latitude = jnp.broadcast_arrays(zenith, azimuth, latitude)
    east = jnp.sin(zenith) * jnp.sin(azimuth)
    north = jnp.sin(zenith) * jnp.cos(azimuth)
    up = jnp.cos(zenith)
    meridian = up * jnp.cos(latitude) - north * jnp.sin(latitude)
    hour_angle, declination = _longitude_latitude(
        meridian, -east, north * jnp.cos(latitude) + up * jnp.sin(latitude)
    )
    return jnp.where(hour_angle >= jnp.pi, hour_angle - 2 * jnp.pi, hour_angle), declination


def flip_azimuth(azimuth: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Azimuth from East counterclockwise (through North) to azimuth from North through East, or back.

    Both ways it is pi/2 - azimuth, here in [0, 2 pi) [rad].
    """
    return _wrap(0.25 - jnp.asarray(azimuth) / (2 * jnp.pi))


# Times -------------------------------------------------------------------------------------------------


def earth_rotation_angle(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Earth rotation angle [rad, in [0, 2 pi)] at `days` (UT1) since J2000.0. IAU 2000 resolution B1.8.

    With UTC for UT1 it is off by at most 0.004 degrees.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    require_float64("earth_rotation_angle")
    return _wrap(_rotation_turns(jnp.asarray(days, float)))


def greenwich_mean_sidereal_time(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Greenwich mean sidereal time [rad, in [0, 2 pi)] at `days` (UT1) since J2000.0. IAU 2006.

    With UTC for UT1 it is off by at most 0.004 degrees (0.9 s of time).

    Raises:
        RuntimeError: Without 64-bit floats.

    References:
        Capitaine, Wallace & Chapront (2003), A&A 412, 567, equation 42.
    """
    require_float64("greenwich_mean_sidereal_time")
    return _wrap(_sidereal_turns(jnp.asarray(days, float)))


def greenwich_apparent_sidereal_time(days: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Greenwich apparent sidereal time [rad, in [0, 2 pi)]: mean plus the equation of the equinoxes.

    Goes with right ascensions of `apparent_matrix`. Within 0.08 arcsec for 1990-2050 with UT1, within
    0.004 degrees with UTC.

    Raises:
        RuntimeError: Without 64-bit floats.
    """
    centuries = _centuries(days, "greenwich_apparent_sidereal_time")
    in_longitude, _ = _nutation(centuries)
    node = (_DELAUNAY[4, 0] + _DELAUNAY[4, 1] * centuries) * ARCSEC
    equinoxes = in_longitude * jnp.cos(_mean_obliquity(centuries)) + 0.00264 * ARCSEC * jnp.sin(node)
    return _wrap(_sidereal_turns(centuries * _CENTURY) + equinoxes / (2 * jnp.pi))


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
    if frame not in _FRAME_WEIGHTS:
        raise InputError(f"unknown time frame {frame!r}: choose one of {', '.join(TIME_FRAMES)}")
    days, longitude = jnp.broadcast_arrays(jnp.asarray(days, float), longitude)
    solar_weight, sidereal_weight = _FRAME_WEIGHTS[frame]
    solar = days - jnp.floor(days) + 0.5  # J2000.0 is a noon
    turns = solar_weight * solar + sidereal_weight * _sidereal_turns(days)
    return _wrap(turns + longitude / (2 * jnp.pi))


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
    if time_format == "unix":
        return numbers / 86400 - 10957.5
    return numbers - (51544.5 if time_format == "mjd" else 2451545.0)


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


# Helpers -----------------------------------------------------------------------------------------------


def _wrap(turns):
    """Angle [rad] in [0, 2 pi) of a number of turns."""
    turns = turns - jnp.floor(turns)
    # A tiny negative number of turns rounds up to a whole one.
    return 2 * jnp.pi * jnp.where(turns < 1, turns, 0.0)


def _longitude_latitude(x, y, z):
    """Polar angles, with gradients of zero instead of NaN on the z axis."""
    squared = x**2 + y**2
    pole = squared == 0
    longitude = jnp.arctan2(jnp.where(pole, 0.0, y), jnp.where(pole, 1.0, x))
    latitude = jnp.arctan2(z, jnp.sqrt(jnp.where(pole, 1.0, squared)))
    latitude = jnp.where(pole, jnp.sign(z) * jnp.pi / 2, latitude)
    return _wrap(longitude / (2 * jnp.pi)), latitude


def _centuries(days, what):
    """Julian centuries since J2000.0, where 64-bit floats are on."""
    require_float64(what)
    return jnp.asarray(days, float) / _CENTURY


def _precession(centuries, xp):
    """Rows of the precession matrix R3(-z) R2(theta) R3(-zeta), in NumPy or JAX (`xp`)."""
    t = centuries
    zeta = 2.650545 + t * (2306.083227 + t * (0.2988499 + t * (0.01801828 - t * (5.971e-6 + t * 3.173e-7))))
    z = -2.650545 + t * (2306.077181 + t * (1.0927348 + t * (0.01826837 - t * (2.8596e-5 + t * 2.904e-7))))
    theta = t * (2004.191903 - t * (0.4294934 + t * (0.04182264 + t * (7.089e-6 + t * 1.274e-7))))
    sin_zeta, cos_zeta = xp.sin(zeta * ARCSEC), xp.cos(zeta * ARCSEC)
    sin_z, cos_z = xp.sin(z * ARCSEC), xp.cos(z * ARCSEC)
    sin_theta, cos_theta = xp.sin(theta * ARCSEC), xp.cos(theta * ARCSEC)
    return [
        [
            cos_zeta * cos_theta * cos_z - sin_zeta * sin_z,
            -sin_zeta * cos_theta * cos_z - cos_zeta * sin_z,
            -sin_theta * cos_z,
        ],
        [
            cos_zeta * cos_theta * sin_z + sin_zeta * cos_z,
            -sin_zeta * cos_theta * sin_z + cos_zeta * cos_z,
            -sin_theta * sin_z,
        ],
        [cos_zeta * sin_theta, -sin_zeta * sin_theta, cos_theta],
    ]


def _mean_obliquity(centuries):
    """Mean obliquity of the ecliptic of date [rad] (IAU 2006)."""
    return OBLIQUITY - (46.836769 * centuries + 0.0001831 * centuries**2) * ARCSEC


def _nutation(centuries):
    """Nutation in longitude and in obliquity [rad]."""
    longitude, obliquity = 0.0, 0.0
    for *multiples, sine, cosine in _NUTATION:
        phase, rate = np.asarray(multiples) @ _DELAUNAY
        argument = (phase + rate * centuries) * ARCSEC
        longitude += sine * ARCSEC * jnp.sin(argument)
        obliquity += cosine * ARCSEC * jnp.cos(argument)
    return longitude, obliquity


def _rotation_x(angle):
    """Matrix that turns the axes about x by `angle`, counterclockwise."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return [[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]]


def _rotation_z(angle):
    """Matrix that turns the axes about z by `angle`, counterclockwise."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return [[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]


def _product(left, right):
    """Matrix product of two rotations given as rows of elements, each an array over events or a number."""
    return [[sum(row[k] * right[k][j] for k in range(3)) for j in range(3)] for row in left]


def _stack(rows, xp):
    """Rows of elements, each of shape (...), to an array of shape (..., 3, 3)."""
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _rotation_turns(days):
    """Earth rotation angle in turns. The whole days are taken off before they cost digits."""
    return 0.7790572732640 + 0.00273781191135448 * days + (days - jnp.floor(days))


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
