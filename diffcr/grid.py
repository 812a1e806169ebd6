"""The ring grid: declination rings times as many right-ascension bins as there are sidereal-time bins.

On this grid the Earth's rotation is an exact index shift, h = (tau - a) mod n, between the sidereal-time
bin tau, the right-ascension bin a and the hour-angle bin h. Every sum over (time, hour angle) is then a
circular correlation along one ring, done by FFT. The grid lives in the equator *of date*.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .errors import InputError
from .typing import AnyArray

ROUNDING = 1e-9
"""In bins: a direction printed on the edge of a cell belongs to the upper one whatever its last binary digit."""


class RingGrid(eqx.Module):
    """Rings of equal width in declination, cells of equal width in right ascension.

    Sky maps have shape (ring, ra), local maps (ring, hour_angle), rates (time,), with the same number of
    right-ascension, hour-angle and time bins. Ring 0 is the southernmost. Bin a of right ascension covers
    [a, a + 1) * 2 pi / n_ra, and so does bin tau of sidereal time; the difference h of two such bins is
    centred on h * 2 pi / n_ra, with a triangular profile of that half-width.

    Attributes:
        n_ring: Number of declination rings from -90 to +90 degrees.
        n_ra: Number of right-ascension bins, of sidereal-time bins and of hour-angle bins.
    """

    n_ring: int = eqx.field(static=True, default=180)
    n_ra: int = eqx.field(static=True, default=360)

    def __check_init__(self):
        for name in ("n_ring", "n_ra"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 4:
                raise InputError(
                    f"{name} of a ring grid must be a whole number of at least 4, not {value!r}; "
                    "the default grid has 180 rings of 360 cells"
                )

    def __str__(self) -> str:
        """Right-ascension bins x declination rings, such as 360 x 180."""
        return f"{self.n_ra} x {self.n_ring}"

    @property
    def shape(self) -> tuple[int, int]:
        """(n_ring, n_ra)."""
        return self.n_ring, self.n_ra

    @property
    def step(self) -> float:
        """Width of a right-ascension, hour-angle or sidereal-time bin [rad]."""
        return 2 * np.pi / self.n_ra

    @property
    def declination_edges(self) -> np.ndarray:
        """Ring edges from -pi/2 to pi/2 [rad], shape (n_ring + 1,)."""
        return np.linspace(-np.pi / 2, np.pi / 2, self.n_ring + 1)

    @property
    def declination(self) -> np.ndarray:
        """Ring centres [rad], shape (n_ring,)."""
        edges = self.declination_edges
        return (edges[1:] + edges[:-1]) / 2

    @property
    def right_ascension(self) -> np.ndarray:
        """Centres of the right-ascension bins [rad], shape (n_ra,)."""
        return (np.arange(self.n_ra) + 0.5) * self.step

    @property
    def sidereal_time(self) -> np.ndarray:
        """Centres of the sidereal-time bins [rad], shape (n_ra,)."""
        return self.right_ascension

    @property
    def hour_angle(self) -> np.ndarray:
        """Centres of the hour-angle bins [rad], westwards, in [-pi, pi), shape (n_ra,)."""
        angle = np.arange(self.n_ra) * self.step
        return np.where(angle >= np.pi - 1e-9, angle - 2 * np.pi, angle)

    @property
    def solid_angle(self) -> np.ndarray:
        """Solid angle of one cell of each ring [sr], shape (n_ring,); n_ra times its sum is 4 pi."""
        return np.diff(np.sin(self.declination_edges)) * self.step

    def ring_of(self, declination: np.ndarray) -> np.ndarray:
        """Ring index of declinations [rad]; +90 degrees belongs to the last ring."""
        ring = np.floor((np.asarray(declination) / np.pi + 0.5) * self.n_ring + ROUNDING).astype(np.int64)
        return np.clip(ring, 0, self.n_ring - 1)

    def bin_of(self, angle: np.ndarray) -> np.ndarray:
        """Bin index of right ascensions or sidereal times [rad], any number of turns."""
        turns = np.asarray(angle) / (2 * np.pi)
        return np.floor((turns - np.floor(turns)) * self.n_ra + ROUNDING).astype(np.int64) % self.n_ra


def local_view(sky: Float[AnyArray, "ring ra"], time_index: Int[AnyArray, ""] | int) -> Float[AnyArray, "ring ra"]:
    """What the local cells (ring, hour_angle) see of a sky map (ring, ra) in one sidereal-time bin.

    Cell (r, h) looks at right-ascension bin (tau - h) mod n: increasing hour angle is decreasing right
    ascension. The same index rule turns a local map into its image on the sky.
    """
    return jnp.roll(sky[:, ::-1], time_index + 1, axis=1)


def correlate(rate: Float[AnyArray, " time"], sky: Float[AnyArray, "ring ra"]) -> Float[AnyArray, "ring ra"]:
    """x[r, h] = sum over tau of rate[tau] sky[r, (tau - h) mod n]: the sky as each local cell sees it.

    With a local map in place of the sky it returns sum over tau of rate[tau] local[r, (tau - a) mod n],
    which is the exposure of the sky: the two are the same sum because h = tau - a and a = tau - h.
    """
    n = rate.shape[-1]
    return jnp.fft.irfft(jnp.fft.rfft(rate)[None] * jnp.conj(jnp.fft.rfft(sky, axis=-1)), n=n, axis=-1)


def rate_seen(local: Float[AnyArray, "ring ra"], sky: Float[AnyArray, "ring ra"]) -> Float[AnyArray, " time"]:
    """y[tau] = sum over (r, h) of local[r, h] sky[r, (tau - h) mod n]: what each time bin sees."""
    n = sky.shape[-1]
    modes = jnp.sum(jnp.fft.rfft(local, axis=-1) * jnp.fft.rfft(sky, axis=-1), axis=0)
    return jnp.fft.irfft(modes, n=n)


def from_healpix(
    counts: np.ndarray, grid: RingGrid, subdivide: int = 4, nest: bool = False, local: bool = False
) -> np.ndarray:
    """Put an additive HEALPix map (counts, weights, livetime) on the ring grid; the sum is kept.

    Each pixel is spread evenly over subdivide**2 smaller pixels first: without it a coarse input leaves
    holes. Cells that share a pixel are then correlated and less scattered than Poisson.

    Args:
        counts: HEALPix map, shape (..., npix), finite; longitude is right ascension, latitude declination.
        grid: The ring grid.
        subdivide: Side of the subdivision, a power of two.
        nest: Whether the map is in NESTED ordering (default RING).
        local: Longitude is the hour angle, whose bins are centred on multiples of their width, not bordered by them.

    Returns:
        Array of shape (..., n_ring, n_ra).

    Raises:
        InputError: If the map is not a whole HEALPix map, holds non-finite or unseen pixels, or subdivide is no
            power of two.
    """
    import healpy  # brings the whole of matplotlib, and only for maps in HEALPix

    counts = np.asarray(counts, dtype=float)
    if not healpy.isnpixok(counts.shape[-1]):
        raise InputError(f"a HEALPix map has 12 nside^2 pixels, not {counts.shape[-1]}; check the file and its column")
    if not np.all(np.isfinite(counts)) or np.any(counts == healpy.UNSEEN):
        raise InputError("the HEALPix map holds non-finite or unseen pixels; set pixels without data to zero")
    nside = healpy.npix2nside(counts.shape[-1])
    if subdivide < 1 or subdivide & (subdivide - 1):
        raise InputError(f"subdivide must be a power of two, not {subdivide}")
    fine = nside * subdivide
    index = np.arange(12 * fine**2)
    theta, phi = healpy.pix2ang(fine, index, nest=True)
    parent = index // subdivide**2
    if not nest:
        parent = healpy.nest2ring(nside, parent)
    cell = grid.ring_of(np.pi / 2 - theta) * grid.n_ra + grid.bin_of(phi + grid.step / 2 if local else phi)
    rows = counts.reshape(-1, counts.shape[-1])
    size = grid.n_ring * grid.n_ra
    spread = np.stack([np.bincount(cell, row[parent] / subdivide**2, size) for row in rows])
    return spread.reshape(*counts.shape[:-1], *grid.shape)


def interpolate(sky: np.ndarray, grid: RingGrid, declination: np.ndarray, right_ascension: np.ndarray) -> np.ndarray:
    """Bilinear value of an intensive map (relative intensity, error) at given directions [rad].

    Right ascension is periodic; between the outermost ring centres and the poles the outermost ring holds.
    A cell that is NaN makes its neighbourhood NaN: unexposed sky stays unexposed.
    """
    row = (np.asarray(declination) / np.pi + 0.5) * grid.n_ring - 0.5
    low = np.clip(np.floor(row).astype(int), 0, grid.n_ring - 1)
    high = np.minimum(low + 1, grid.n_ring - 1)
    up = np.clip(row - low, 0, 1)
    column = np.asarray(right_ascension) / grid.step - 0.5
    left = np.floor(column).astype(int)
    east = column - left
    left, right = left % grid.n_ra, (left + 1) % grid.n_ra
    lower = (1 - east) * sky[low, left] + east * sky[low, right]
    upper = (1 - east) * sky[high, left] + east * sky[high, right]
    return np.where(up == 0, lower, (1 - up) * lower + up * upper)


def to_healpix(sky: np.ndarray, grid: RingGrid, nside: int) -> np.ndarray:
    """Intensive map on the ring grid -> HEALPix map in RING order, by bilinear interpolation."""
    import healpy

    theta, phi = healpy.pix2ang(nside, np.arange(healpy.nside2npix(nside)))
    return interpolate(np.asarray(sky), grid, np.pi / 2 - theta, phi)


def rebin(values: np.ndarray, grid: RingGrid, coarse: RingGrid) -> np.ndarray:
    """Sum an additive map (..., ring, ra) into a grid that divides this one evenly.

    Raises:
        InputError: If the coarse grid does not divide the fine one.
    """
    if grid.n_ring % coarse.n_ring or grid.n_ra % coarse.n_ra:
        raise InputError(
            f"a grid of {grid} cannot be summed into {coarse}: "
            "both numbers must divide; bin the events again on the grid you want"
        )
    lead = values.shape[:-2]
    shape = (*lead, coarse.n_ring, grid.n_ring // coarse.n_ring, coarse.n_ra, grid.n_ra // coarse.n_ra)
    return values.reshape(shape).sum(axis=(-3, -1))
