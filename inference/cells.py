"""Which cells events fall into: NumPy in cache-sized blocks, some fifty nanoseconds an event.

The formulas are those of `diffcr.clock` and `diffcr.sky`, with vectors instead of angles wherever possible,
and sines and cosines from tan of the half angle, which NumPy evaluates eight at a time. The tests hold this
path to the plain functions.
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from diffcr.clock import equation_of_the_equinoxes, local_turns
from diffcr.grid import ROUNDING, RingGrid
from diffcr.observer import compton_getting_factor
from diffcr.site import Site
from diffcr.sky import (
    aberration,
    apparent_matrix,
    earth_velocity,
    precess,
    precession_series,
    rotate,
    unit_vector,
)

from .events import EventChunk

_BLOCK = 1 << 14
_TURN = 2 * math.pi


@dataclasses.dataclass(frozen=True)
class Cells:
    """Cells and directions of events.

    Attributes:
        sky, local, half: Flat indices into (ring, ra), (ring, hour_angle) and (half, ring, time), shape (event,).
        directions: Rows cos RA, sin RA; cos(dec) times cos RA, sin RA, cos H, sin H; cos t, sin t of the time of the
            frame. Shape (8, event).
        sin_declination: Shape (event,).
        zenith_cosine: Cosine of the zenith angle, shape (event,).
    """

    sky: np.ndarray
    local: np.ndarray
    half: np.ndarray
    directions: np.ndarray
    sin_declination: np.ndarray
    zenith_cosine: np.ndarray

    @classmethod
    def empty(cls, size: int) -> "Cells":
        """Room for `size` events."""
        return cls(*(np.empty(size, np.int64) for _ in range(3)), np.empty((8, size)), np.empty(size), np.empty(size))

    def first(self, size: int) -> "Cells":
        """View of the first `size` events."""
        return Cells(*(getattr(self, f.name)[..., :size] for f in dataclasses.fields(self)))


def locate(
    chunk: EventChunk, site: Site, grid: RingGrid, time_frame: str, equinox: str, out: Cells | None = None
) -> Cells:
    """Cells of a chunk's events in the equator of date; where time_frame is not sidereal, "RA" is that time minus H.

    Args:
        chunk: Events with days, and (ra, dec) or (zenith, azimuth).
        site: The observatory.
        grid: The ring grid.
        time_frame: One of `diffcr.clock.TIME_FRAMES`.
        equinox: "j2000", "icrs" or "date", of (ra, dec).
        out: Room for the result, used again from call to call: fresh memory costs as much as the arithmetic.
    """
    size = len(chunk.days)
    out = Cells.empty(size) if out is None else out.first(size)
    vector = None
    if chunk.ra is not None and equinox == "icrs":
        vector = padded(_apparent, chunk.days, chunk.ra, chunk.dec)
    for start in range(0, size, _BLOCK):
        part = slice(start, min(start + _BLOCK, size))
        _fill_block(chunk, vector, part, site, grid, time_frame, equinox, out)
    return out


def _fill_block(
    chunk, vector, part: slice, site: Site, grid: RingGrid, time_frame: str, equinox: str, out: Cells
) -> None:
    """One block of events; every array in here fits into the cache."""
    rings, bins = grid.shape
    days = chunk.days[part]
    sidereal = _fraction(_linear_turns(days, site.longitude, "sidereal"))
    time_cos, time_sin = _cos_sin(_TURN * sidereal)
    if chunk.ra is None:
        ahead, aside, z = _hour_vector(chunk.zenith[part], chunk.azimuth[part], site.latitude)
        x, y = ahead * time_cos + aside * time_sin, ahead * time_sin - aside * time_cos
    else:
        if vector is not None:
            x, y, z = vector[part].T
        elif equinox == "j2000":
            x, y, z = _precessed(chunk.ra[part], chunk.dec[part], days)
        else:
            x, y, z = _vector(chunk.ra[part], chunk.dec[part])
        ahead, aside = x * time_cos + y * time_sin, x * time_sin - y * time_cos
    flat = np.sqrt(x * x + y * y)
    if chunk.ra is not None and equinox == "date":
        # As printed: a rounded direction on the edge of a cell stays on its side.
        declination, right_ascension = chunk.dec[part], _fraction(chunk.ra[part] / _TURN)
    else:
        declination, right_ascension = np.arctan2(z, flat), np.arctan2(y, x) * (1 / _TURN)
        right_ascension += right_ascension < 0
    time = sidereal
    if time_frame != "sidereal":
        time = _fraction(_linear_turns(days, site.longitude, time_frame))
        right_ascension = _fraction(right_ascension + (time - sidereal))
        turn_cos, turn_sin = _cos_sin(_TURN * right_ascension)
        x, y = flat * turn_cos, flat * turn_sin
        time_cos, time_sin = _cos_sin(_TURN * time)
    ring = np.minimum(declination * (rings / math.pi) + (rings / 2 + ROUNDING), rings - 0.5).astype(np.int64)
    tau, column = _bin(time, bins), _bin(right_ascension, bins)
    hour = tau - column
    hour += bins * (hour < 0)
    # West of the meridian the hour angle is in [0, pi): its sine is not negative.
    half = ring + rings * (aside >= 0)
    half *= bins
    ring *= bins
    np.add(ring, column, out=out.sky[part])
    np.add(ring, hour, out=out.local[part])
    np.add(half, tau, out=out.half[part])
    inverse = 1 / np.maximum(flat, 1e-300)
    np.multiply(x, inverse, out=out.directions[0, part])
    np.multiply(y, inverse, out=out.directions[1, part])
    for row, values in enumerate((x, y, ahead, aside, time_cos, time_sin), 2):
        out.directions[row, part] = values
    out.sin_declination[part] = z
    np.add(z * math.sin(site.latitude), ahead * math.cos(site.latitude), out=out.zenith_cosine[part])


def _linear_turns(days: np.ndarray, longitude: float, frame: str) -> np.ndarray:
    """`local_turns`, linear in time about the middle of the block.

    The sidereal clock is slowed by 1.4 arcsec per century squared: over a span of ten years this is 1e-8 rad.
    """
    low, high = float(days.min()), float(days.max())
    middle, step = 0.5 * (low + high), 0.5 * (high - low)
    if step > 1826 or step < 1e-3:
        return local_turns(days, longitude, frame)
    # `local_turns` leaves out one turn for each whole day.
    at = [float(local_turns(np.float64(x), longitude, frame)) + math.floor(x) for x in (low, middle, high)]
    per_day = (at[2] - at[0]) / (2 * step)
    turns = (days - middle) * per_day
    turns += at[1]
    return turns


def _fraction(turns: np.ndarray) -> np.ndarray:
    return turns - np.floor(turns)


def _cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin from t = tan(angle / 2)."""
    t = angle * 0.5
    np.tan(t, out=t)
    square = t * t
    inverse = square + 1
    np.divide(2.0, inverse, out=inverse)
    np.multiply(t, inverse, out=t)
    inverse -= 1  # (1 - t^2) / (1 + t^2) = 2 / (1 + t^2) - 1
    return inverse, t


def _vector(longitude: np.ndarray, latitude: np.ndarray):
    """Unit vector (x, y, z) of (longitude, latitude)."""
    cos_lon, sin_lon = _cos_sin(longitude)
    cos_lat, sin_lat = _cos_sin(latitude)
    cos_lon *= cos_lat
    sin_lon *= cos_lat
    return cos_lon, sin_lon, sin_lat


def _precessed(ra: np.ndarray, dec: np.ndarray, days: np.ndarray):
    """J2000 to the mean equator and equinox of date: `diffcr.sky.precess`, expanded about the block's middle.

    Precession turns by 0.0224 rad a century, so that the term of order k + 1 left out is (0.0224 step)^(k+1) / (k+1)!;
    as many orders are kept as make it less than 1e-8 rad (0.002 arcsec).
    """
    low, high = float(days.min()) / 36525, float(days.max()) / 36525
    middle, step = 0.5 * (low + high), 0.5 * (high - low)
    order = next((k for k in (0, 1, 2) if (0.0224 * step) ** (k + 1) / math.factorial(k + 1) < 1e-8), 3)
    matrices = _taylor(middle)[: order + 1]
    vector = np.empty((3, len(ra)))
    vector[0], vector[1], vector[2] = _vector(ra, dec)
    terms = matrices.reshape(-1, 3) @ vector
    offset = days * (1 / 36525)
    offset -= middle
    moved = terms[3 * order :]
    for k in range(order - 1, -1, -1):
        moved *= offset
        moved += terms[3 * k : 3 * k + 3]
    return moved


_series = functools.lru_cache(maxsize=1)(precession_series)


def _taylor(middle: float) -> np.ndarray:
    """Coefficients of the precession matrix in powers of (T - middle), shape (4, 3, 3)."""
    c = _series()
    return np.stack(
        [
            c[0] + middle * (c[1] + middle * (c[2] + middle * c[3])),
            c[1] + middle * (2 * c[2] + 3 * middle * c[3]),
            c[2] + 3 * middle * c[3],
            c[3],
        ]
    )


def _hour_vector(zenith: np.ndarray, azimuth: np.ndarray, latitude: float):
    """(cos dec cos H, cos dec sin H, sin dec) of horizon directions; azimuth from North through East."""
    cos_zenith, sin_zenith = _cos_sin(zenith)
    cos_azimuth, sin_azimuth = _cos_sin(azimuth)
    north, east = sin_zenith * cos_azimuth, sin_zenith * sin_azimuth
    sine, cosine = math.sin(latitude), math.cos(latitude)
    return cos_zenith * cosine - north * sine, -east, cos_zenith * sine + north * cosine


def _bin(turns: np.ndarray, bins: int) -> np.ndarray:
    """Bin of turns in [0, 1)."""
    place = turns * bins
    place += ROUNDING
    np.minimum(place, bins - 0.5, out=place)
    return place.astype(np.int64)


@jax.jit
def _apparent(days, ra, dec):
    """ICRS to the true equator and the *mean* equinox of date, the origin that mean sidereal time counts from."""
    vector = rotate(apparent_matrix(days), aberration(unit_vector(ra, dec), days))
    turn = equation_of_the_equinoxes(days)
    cosine, sine = jax.numpy.cos(turn), jax.numpy.sin(turn)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    return jax.numpy.stack([x * cosine + y * sine, y * cosine - x * sine, z], axis=-1)


def orbital_weights(days: np.ndarray, cells: Cells, site: Site, spectral_index: float) -> np.ndarray:
    """Inverse of the intensity that the Earth's orbital motion makes in each event's direction; shape (event,)."""
    sidereal = 2 * np.pi * local_turns(days, site.longitude, "sidereal")
    ahead, aside = cells.directions[4:6]
    gamma = np.full(len(days), spectral_index)
    return padded(_orbital_weights, days, sidereal, ahead, aside, cells.sin_declination, gamma)


def padded(function, *arrays: np.ndarray) -> np.ndarray:
    """A compiled function of events on arrays padded to a power of two: few shapes, few compilations."""
    size = len(arrays[0])
    full = max(1024, 1 << (size - 1).bit_length())
    return np.asarray(function(*(np.pad(a, (0, full - size), mode="edge") for a in arrays)))[:size]


@jax.jit
def _orbital_weights(days, sidereal, ahead, aside, z, gamma):
    cosine, sine = jax.numpy.cos(sidereal), jax.numpy.sin(sidereal)
    direction = jax.numpy.stack([ahead * cosine + aside * sine, ahead * sine - aside * cosine, z], axis=-1)
    velocity = precess(earth_velocity(days), days)
    return 1 / jax.vmap(compton_getting_factor)(direction, velocity, gamma)
