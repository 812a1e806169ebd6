"""A map in HEALPix and in J2000: what `map.fits` holds, and the spots that stand out."""

import dataclasses
import functools
import math
import os
from pathlib import Path

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.sky import precession_matrix

from .data import Counts
from .discs import DiscMap
from .files import atomic
from .maps import SkyMap, cell_significance

COLUMNS = ("RELATIVE_INTENSITY", "ERROR", "SIGNIFICANCE", "BACKGROUND", "EXPOSURE")
"""Fields of map.fits; RELATIVE_INTENSITY is I - 1. A smoothed map has LI_MA and LI_MA_WIDTH after them."""

_SUBDIVISION = 4
"""Least number of sub-pixels along a side of a pixel; more where cells are small, see `_subdivision`."""

_LEAST_EXPOSED = 0.25
"""Part of a pixel that must be exposed to be shown; coarse local maps leave some rings of the grid without pixel
centres."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """The frame that results are given in: J2000 where the epoch is known and time is sidereal, else that of the
    counts.

    Attributes:
        name: "J2000" or "date".
        to_date: Rotation from this frame to that of the counts, shape (3, 3).
    """

    name: str
    to_date: np.ndarray

    def directions_of_date(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Declination and right ascension of date [rad] of unit vectors (..., 3) of this frame."""
        x, y, z = np.moveaxis(vectors @ self.to_date.T, -1, 0)
        return np.arcsin(np.clip(z, -1, 1)), np.arctan2(y, x) % (2 * np.pi)

    def from_date(self, declination, right_ascension) -> tuple[np.ndarray, np.ndarray]:
        """Declination and right ascension in this frame [rad] of directions of date."""
        flat = np.cos(declination)
        date = np.stack([flat * np.cos(right_ascension), flat * np.sin(right_ascension), np.sin(declination)], -1)
        x, y, z = np.moveaxis(date @ self.to_date, -1, 0)
        return np.asarray(np.arcsin(np.clip(z, -1, 1))), np.asarray(np.arctan2(y, x) % (2 * np.pi))


def frame_of(counts: Counts) -> Frame:
    """The frame for results of these counts."""
    year = counts.overall_epoch()
    if counts.time_frame != "sidereal" or not np.isfinite(year):
        return Frame("date", np.eye(3))
    return Frame("J2000", np.asarray(precession_matrix((year - 2000.0) * 365.25)))


def _subdivision(nside: int, grid: RingGrid) -> int:
    """Sub-pixels along a side of a pixel: a quarter of a ring wide at most, so that a large pixel misses no cell."""
    return max(_SUBDIVISION, 1 << max(0, math.ceil(math.log2(1.4 * grid.n_ring / nside))))


@functools.lru_cache(maxsize=4)
def _pixels(nside: int, subdivision: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the sub-pixels of a HEALPix map, and the pixel (RING) each belongs to."""
    import healpy

    fine = nside * subdivision
    index = np.arange(12 * fine**2)
    vectors = np.stack(healpy.pix2vec(fine, index, nest=True), axis=-1)
    return vectors, healpy.nest2ring(nside, index // subdivision**2)


@dataclasses.dataclass(frozen=True)
class HealpixMap:
    """Fields of a map on HEALPix pixels in RING order; NaN where unexposed.

    Attributes:
        nside: Resolution.
        frame: "J2000" or "date".
        fields: Arrays of shape (12 nside^2,) by the name of the column.
    """

    nside: int
    frame: str
    fields: dict[str, np.ndarray]


def healpix_map(
    sky: SkyMap, nside: int, discs: DiscMap | None = None, declinations: np.ndarray | None = None
) -> HealpixMap:
    """The free map on HEALPix pixels, unsmoothed, or smoothed in discs.

    Unsmoothed, the background of the cells is shared out by area, so that counts over background are those of the
    pixel; errors add in squares over the cells (blocks) that a pixel touches. Smoothed, every field is that of the disc
    around the cell, averaged over the pixel.

    Args:
        sky: The free map.
        nside: Resolution, a power of two.
        discs: Smoothed fields; then BACKGROUND is that of the disc.
        declinations: Mean declination of the events in each ring [rad], shape (ring,), where it is known and is not the
            ring's centre: local maps have pixels at few declinations. Within a cell the map follows its own dipole,
            from there on.

    Raises:
        InputError: If nside is not a power of two up to 1024.
    """
    if nside < 1 or nside & (nside - 1) or nside > 1024:
        raise InputError(f"--nside must be a power of two from 1 to 1024, not {nside}")
    frame, grid = frame_of(sky.counts), sky.grid
    subdivision = _subdivision(nside, grid)
    vectors, pixel = _pixels(nside, subdivision)
    declination, right_ascension = frame.directions_of_date(vectors)
    cell = grid.ring_of(declination) * grid.n_ra + grid.bin_of(right_ascension)
    number = 12 * nside**2
    density = (sky.background / grid.solid_angle[:, None]).ravel()[cell]
    share = np.bincount(pixel, density, number)
    inside = np.bincount(pixel, density > 0, number) >= _LEAST_EXPOSED * subdivision**2
    exposure = np.where(inside, share, np.nan)
    area = 4 * np.pi / number / subdivision**2
    if discs is None:
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.nan_to_num(sky.contrast).ravel()[cell]
            values = values + _dipole_within(sky, cell, declination, right_ascension, declinations)
            contrast = np.bincount(pixel, density * values, number) / share
            contrast = np.maximum(contrast, -1.0)
            if sky.method == "wiener":
                # Smooth: the errors of neighbouring cells are one error.
                error = np.bincount(pixel, density * np.nan_to_num(sky.error).ravel()[cell], number) / share
                judged = contrast / error
            else:
                error = np.sqrt(_squares(sky, sky.error, cell, pixel, density, number)) / share
                null = np.sqrt(_squares(sky, sky.isotropic_error, cell, pixel, density, number)) / share
                judged = cell_significance(contrast, null)
        fields = [contrast, error, judged, share * area]
        names = list(COLUMNS[:4])
    else:
        maps = (discs.contrast, discs.error, discs.significance, discs.background, discs.li_ma, discs.li_ma_width)
        fields = [_mean(values.ravel()[cell], pixel, number) for values in maps]
        names = [*COLUMNS[:4], "LI_MA", "LI_MA_WIDTH"]
    named = {name: np.where(inside, values, np.nan) for name, values in zip(names, fields, strict=True)}
    named["EXPOSURE"] = exposure / np.nanmax(exposure)
    order = [*COLUMNS, *(name for name in named if name not in COLUMNS)]
    return HealpixMap(nside, frame.name, {name: named[name] for name in order})


def _dipole_within(sky: SkyMap, cell, declination, right_ascension, declinations) -> np.ndarray:
    """What the map's dipole adds between the mean direction of the events of a cell and a sub-pixel in it."""
    (x, y), _ = map_dipole(sky)
    ring, column = np.divmod(cell, sky.grid.n_ra)
    mean = sky.grid.declination if declinations is None else declinations
    angle = sky.grid.right_ascension

    def dipole(dec, ra):
        return np.cos(dec) * (x * np.cos(ra) + y * np.sin(ra))

    return dipole(declination, right_ascension) - dipole(mean, angle[:, None]).T[ring, column]


def _mean(values: np.ndarray, pixel: np.ndarray, number: int) -> np.ndarray:
    """Mean of the finite sub-pixels of each pixel."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(pixel, np.where(finite, values, 0.0), number) / np.bincount(pixel, finite, number)


def _squares(sky: SkyMap, error: np.ndarray, cell, pixel, density: np.ndarray, number: int) -> np.ndarray:
    """Sum over the blocks that a pixel touches of (background share times error of the block) squared."""
    rings, bins = sky.cells
    n = sky.grid.n_ra
    block = (cell // n // rings) * (n // bins) + (cell % n) // bins
    blocks = sky.contrast.size // (rings * bins)
    key = pixel * blocks + block
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    weight = np.add.reduceat((density * np.nan_to_num(error).ravel()[cell])[order], starts)
    return np.bincount(pixel[order][starts], weight**2, number)


def write_healpix(path: str | os.PathLike, content: HealpixMap, keywords: dict[str, str]) -> Path:
    """Write a HEALPix FITS file of 64-bit columns, equatorial, RING ordered, unseen pixels as healpy.UNSEEN.

    Args:
        path: Where to.
        content: The map.
        keywords: Cards of the header, eight characters at most.

    Raises:
        InputError: If it cannot be written.
    """
    from astropy.io import fits

    path = Path(path)
    columns = [
        fits.Column(name, "D", array=np.where(np.isfinite(values), values, -1.6375e30))
        for name, values in content.fields.items()
    ]
    table = fits.BinTableHDU.from_columns(columns, name="MAP")
    cards = {
        "PIXTYPE": "HEALPIX",
        "ORDERING": "RING",
        "NSIDE": content.nside,
        "FIRSTPIX": 0,
        "LASTPIX": 12 * content.nside**2 - 1,
        "INDXSCHM": "IMPLICIT",
        "OBJECT": "FULLSKY",
        "COORDSYS": "C",
        "BAD_DATA": -1.6375e30,
    }
    cards["FRAME"] = (content.frame, "equator and equinox of date where not J2000")
    if content.frame == "J2000":
        cards["EQUINOX"] = 2000.0
    for name, value in (cards | keywords).items():
        table.header[name] = value
    with atomic(path) as part:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(part, output_verify="exception")
    return path


@dataclasses.dataclass(frozen=True)
class Spot:
    """A disc that stands out.

    Attributes:
        right_ascension, declination: Of its centre, in the frame of the results [rad].
        significance: Pre-trial.
        contrast, error: Relative intensity minus one of the disc.
        cell: Ring and bin of right ascension of its centre, of date.
    """

    right_ascension: float
    declination: float
    significance: float
    contrast: float
    error: float
    cell: tuple[int, int]


def spots(
    significance: np.ndarray,
    contrast: np.ndarray,
    error: np.ndarray,
    grid: RingGrid,
    frame: Frame,
    apart: float,
    least: float,
) -> list[Spot]:
    """The strongest cells of either sign, from the strongest on, each further than `apart` [rad] from stronger ones.

    Args:
        significance, contrast, error: Shape (ring, ra), NaN where not judged.
        grid: The ring grid.
        frame: The frame of the result.
        apart: Least distance [rad] of two spots of one sign.
        least: Smallest |significance|; the hottest and the coldest are given whatever theirs.
    """
    flat = np.cos(grid.declination)[:, None]
    vectors = np.stack(
        [
            flat * np.cos(grid.right_ascension),
            flat * np.sin(grid.right_ascension),
            np.broadcast_to(np.sin(grid.declination)[:, None], grid.shape),
        ],
        axis=-1,
    )
    found = []
    for sign in (1, -1):
        left = np.where(np.isfinite(significance), sign * significance, -np.inf)
        first = True
        while np.isfinite(left.max()) and (first or left.max() >= least):
            cell = tuple(int(i) for i in np.unravel_index(int(left.argmax()), left.shape))
            dec, ra = frame.from_date(grid.declination[cell[0]], grid.right_ascension[cell[1]])
            found.append(
                Spot(float(ra), float(dec), float(significance[cell]), float(contrast[cell]), float(error[cell]), cell)
            )
            left[vectors @ vectors[cell] > np.cos(apart)] = -np.inf
            first = False
    return sorted(found, key=lambda spot: -abs(spot.significance))


def extreme_pixels(content: HealpixMap, grid: RingGrid, frame: Frame) -> list[Spot]:
    """The pixels of largest and of smallest significance, as they stand in the file."""
    import healpy

    judged = content.fields["SIGNIFICANCE"]
    found = []
    for pixel in (int(np.nanargmax(judged)), int(np.nanargmin(judged))):
        theta, phi = healpy.pix2ang(content.nside, pixel)
        dec, ra = frame.directions_of_date(np.array([healpy.pix2vec(content.nside, pixel)]))
        values = (float(content.fields[name][pixel]) for name in ("SIGNIFICANCE", "RELATIVE_INTENSITY", "ERROR"))
        cell = (int(grid.ring_of(dec)[0]), int(grid.bin_of(ra)[0]))
        found.append(Spot(float(phi), float(np.pi / 2 - theta), *values, cell))
    return found


def map_dipole(sky: SkyMap) -> tuple[np.ndarray, np.ndarray]:
    """Equatorial dipole of a free map: (delta_0h, delta_6h) of date and its covariance.

    Least squares over the field of view with the map's own inverse covariance, rates and acceptance free: a dipole and
    nothing else, which is the dipole of `fit` to second order in the anisotropy.
    """
    from .discs import information_times

    flat = np.cos(sky.grid.declination)[:, None]
    basis = np.stack([flat * np.cos(sky.grid.right_ascension), flat * np.sin(sky.grid.right_ascension)])
    image = sum(np.stack([information_times(e, b) for b in basis]) for e in sky.seen)
    information = np.einsum("pra,qra->pq", basis, image)
    covariance = np.linalg.inv(information)
    return covariance @ np.einsum("pra,ra->p", image, np.nan_to_num(sky.contrast)), covariance
