"""Directions and frames: Galactic, ICRS, J2000, equator of date, horizon.

Those of date turn with `days`, counted from J2000.0 as everywhere: see `clock`.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .clock import OBLIQUITY, angle_of_turns, julian_centuries, mean_obliquity, nutation
from .units import ARCSEC, AU, DAY, DEGREE, SPEED_OF_LIGHT

GALACTIC_TO_ICRS = np.array(
    [
        [-0.05487565771259218, 0.49410943719272665, -0.8676661375596585],
        [-0.8734370519556162, -0.4448297212232957, -0.19807633727300056],
        [-0.4838350736167156, 0.7469821839866677, 0.45598381368730206],
    ]
)
"""Columns are the ICRS images of the Galactic axes (l, b) = (0, 0), (90, 0) degrees and b = 90 degrees."""

# Tilt of the ICRS against the mean equator and equinox of J2000 (IERS Conventions 2010, 5.4.4).
_BIAS_RA, _BIAS_XI, _BIAS_ETA = -0.0146 * ARCSEC, -0.016617 * ARCSEC, -0.0068192 * ARCSEC
_FRAME_BIAS = np.array([[1, _BIAS_RA, -_BIAS_XI], [-_BIAS_RA, 1, -_BIAS_ETA], [_BIAS_XI, _BIAS_ETA, 1]])


# Directions --------------------------------------------------------------------------------------------


def unit_vector(longitude: Float[ArrayLike, "..."], latitude: Float[ArrayLike, "..."]) -> Float[Array, "... 3"]:
    """(cos b cos l, cos b sin l, sin b) for longitude l and latitude b [rad], broadcast together.

    Serves right ascension with declination, and Galactic l with b.
    """
    longitude, latitude = jnp.broadcast_arrays(longitude, latitude)
    equatorial = jnp.cos(latitude)
    return jnp.stack([equatorial * jnp.cos(longitude), equatorial * jnp.sin(longitude), jnp.sin(latitude)], axis=-1)


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
    return _stack(_precession(julian_centuries(days, "precession_matrix"), jnp), jnp)


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
    centuries, vector = julian_centuries(days, "precess"), jnp.asarray(vector)
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
    centuries = julian_centuries(days, "apparent_matrix")
    in_longitude, in_obliquity = nutation(centuries)
    obliquity = mean_obliquity(centuries)
    to_mean_equator = _product(_precession(centuries, jnp), _FRAME_BIAS.tolist())
    to_ecliptic = _turn_about_x(obliquity, to_mean_equator)
    nutated = _turn_about_z(-in_longitude, to_ecliptic)
    return _stack(_turn_about_x(-obliquity - in_obliquity, nutated), jnp)


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
    centuries = julian_centuries(days, "earth_velocity")
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
    hour_angle, declination = _longitude_latitude(meridian, -east, north * jnp.cos(latitude) + up * jnp.sin(latitude))
    return jnp.where(hour_angle >= jnp.pi, hour_angle - 2 * jnp.pi, hour_angle), declination


def flip_azimuth(azimuth: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Azimuth from East counterclockwise (through North) to azimuth from North through East, or back.

    Both ways it is pi/2 - azimuth, here in [0, 2 pi) [rad].
    """
    return angle_of_turns(0.25 - jnp.asarray(azimuth) / (2 * jnp.pi))


# Helpers -----------------------------------------------------------------------------------------------


def _longitude_latitude(x, y, z):
    """Polar angles, with gradients of zero instead of NaN on the z axis."""
    squared = x**2 + y**2
    pole = squared == 0
    longitude = jnp.arctan2(jnp.where(pole, 0.0, y), jnp.where(pole, 1.0, x))
    latitude = jnp.arctan2(z, jnp.sqrt(jnp.where(pole, 1.0, squared)))
    latitude = jnp.where(pole, jnp.sign(z) * jnp.pi / 2, latitude)
    return angle_of_turns(longitude / (2 * jnp.pi)), latitude


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


def _turn_about_x(angle, rows):
    """Follow a rotation, given as rows of elements, by one that turns the axes about x, counterclockwise."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    x, y, z = rows
    return [x, _mix(cos, y, sin, z), _mix(-sin, y, cos, z)]


def _turn_about_z(angle, rows):
    """Follow a rotation, given as rows of elements, by one that turns the axes about z, counterclockwise."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    x, y, z = rows
    return [_mix(cos, x, sin, y), _mix(-sin, x, cos, y), z]


def _mix(a, x, b, y):
    """a x + b y of two rows x and y."""
    return [a * p + b * q for p, q in zip(x, y, strict=True)]


def _product(left, right):
    """Matrix product of two rotations given as rows of elements, each an array over events or a number."""
    return [[sum(row[k] * right[k][j] for k in range(3)) for j in range(3)] for row in left]


def _stack(rows, xp):
    """Rows of elements, each of shape (...), to an array of shape (..., 3, 3)."""
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
