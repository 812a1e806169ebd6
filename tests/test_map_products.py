"""HEALPix maps, their frame, their file, spots and the dipole of the map."""

import dataclasses

import healpy
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import FK5, SkyCoord
from astropy.io import fits
from astropy.time import Time
from diffcr.inference.discs import disc_map
from diffcr.inference.map_products import (
    COLUMNS,
    Frame,
    HealpixMap,
    frame_of,
    healpix_map,
    map_dipole,
    spots,
    write_healpix,
)
from diffcr.inference.maps import sky_map
from helpers import asimov, dipole_sky, drawn

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

HAWC = Site("HAWC", np.radians(19.0), 0.0, np.radians(57.0))
GRID = RingGrid(72, 144)


def horizon(place: Site, grid: RingGrid) -> np.ndarray:
    dec, hour = grid.declination[:, None], grid.hour_angle
    cosine = np.sin(place.latitude) * np.sin(dec) + np.cos(place.latitude) * np.cos(dec) * np.cos(hour)
    response = np.where(cosine > np.cos(place.zenith_max), cosine, 0) * np.cos(dec)
    return response / response.sum()


def of_dipole(dipole, year=np.nan, events=1e10, grid=GRID):
    rate = np.full(grid.n_ra, events / grid.n_ra)
    return sky_map(asimov(HAWC, grid, horizon(HAWC, grid), rate, dipole_sky(grid, dipole), year), (1, 1))


def of_date(year: float, ra, dec):
    """Right ascension and declination of date of J2000 directions, by astropy."""
    there = SkyCoord(ra, dec, unit="rad", frame=FK5(equinox="J2000")).transform_to(
        FK5(equinox=Time(year, format="jyear"))
    )
    return there.ra.rad, there.dec.rad


# Frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1975.0, 2050.0])
def test_the_frame_is_that_of_astropy(year):
    """FK5 precesses by Lieske's model, ours by a later one: to arcseconds; a wrong sign is a degree off."""
    frame = frame_of(of_dipole((0, 0), year, grid=RingGrid(12, 24)).counts)
    assert frame.name == "J2000"
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 2 * np.pi, 50), np.arcsin(rng.uniform(-0.99, 0.99, 50))
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1)
    ra_date, dec_date = of_date(year, ra, dec)
    mine_dec, mine_ra = frame.directions_of_date(vectors)
    turn = (mine_ra - ra_date + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(turn * np.cos(dec)).max() < np.radians(3 / 3600)
    np.testing.assert_allclose(mine_dec, dec_date, atol=np.radians(3 / 3600))
    back_dec, back_ra = frame.from_date(mine_dec, mine_ra)
    np.testing.assert_allclose(np.cos(back_ra - ra), 1, atol=1e-12)
    np.testing.assert_allclose(back_dec, dec, atol=1e-7)


def test_without_an_epoch_or_sidereal_time_there_is_no_rotation():
    plain = of_dipole((0, 0), np.nan, grid=RingGrid(12, 24)).counts
    solar = dataclasses.replace(of_dipole((0, 0), 2050.0, grid=RingGrid(12, 24)).counts, time_frame="solar")
    for counts in (plain, solar):
        frame = frame_of(counts)
        assert frame.name == "date"
        np.testing.assert_array_equal(frame.to_date, np.eye(3))


# HEALPix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nside", [8, 16])
def test_a_dipole_comes_out_at_the_centres_of_the_pixels(nside):
    """Counts of date 2050, map in J2000: the dipole of date at the direction of date of each pixel."""
    size = 0.02
    shown = healpix_map(of_dipole((size, 0.5 * size), 2050.0), nside)
    assert shown.frame == "J2000" and tuple(shown.fields) == COLUMNS
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    ra, dec = of_date(2050.0, phi, np.pi / 2 - theta)
    wanted = size * np.cos(dec) * (np.cos(ra) + 0.5 * np.sin(ra))
    found = shown.fields["RELATIVE_INTENSITY"]
    # Whole within the field of view; precession is 0.7 degrees, a slope of 1.2 % of the dipole per degree.
    inside = (dec > np.radians(-33)) & (dec < np.radians(71))
    assert np.all(np.isfinite(found[inside])) and np.all(np.isnan(found[dec > np.radians(82)]))
    # A pixel's mean is below its centre by (1 - l (l + 1) omega / 16 pi) or so; the edge follows the exposure.
    off = np.abs(found - wanted)[inside]
    assert np.sqrt(np.mean(off**2)) < 0.0025 * size
    wrong_ra, wrong_dec = of_date(1950.0, phi, np.pi / 2 - theta)
    wrong = size * np.cos(wrong_dec) * (np.cos(wrong_ra) + 0.5 * np.sin(wrong_ra))
    assert np.sqrt(np.mean((found - wrong)[inside] ** 2)) > 0.008 * size


def test_fields_belong_together():
    counts = drawn(HAWC, GRID, horizon(HAWC, GRID), np.full(144, 1e7 / 144), np.ones(GRID.shape), 3)
    sky = sky_map(counts, (1, 1))
    shown = healpix_map(sky, 8).fields
    inside = np.isfinite(shown["ERROR"])
    # With many events the likelihood ratio of a pixel is contrast over error.
    np.testing.assert_allclose(
        shown["SIGNIFICANCE"][inside], (shown["RELATIVE_INTENSITY"] / shown["ERROR"])[inside], rtol=0.03
    )
    assert np.nanmax(shown["EXPOSURE"]) == 1.0
    np.testing.assert_allclose(
        shown["EXPOSURE"][inside], (shown["BACKGROUND"] / np.nanmax(shown["BACKGROUND"]))[inside], rtol=1e-12
    )
    # Background is shared out by area: the sum over the pixels is that over the cells.
    assert np.nansum(shown["BACKGROUND"]) == pytest.approx(sky.background.sum(), rel=0.01)
    # Isotropy: pulls of pixels are of width one, and errors are those of Poisson counts.
    assert np.std(shown["SIGNIFICANCE"][inside]) == pytest.approx(1, abs=0.12)
    deep = shown["EXPOSURE"] > 0.5
    # A cell is 2.5 degrees wide, a pixel 7.3: cells at its rim are shared, which adds to its events.
    ratio = shown["ERROR"][deep] * np.sqrt(shown["BACKGROUND"][deep])
    assert np.all((ratio > 0.75) & (ratio < 1.02))


def test_errors_scale_with_the_root_of_the_events():
    few, many = (healpix_map(of_dipole((0.01, 0), events=n), 8).fields for n in (1e8, 1e10))
    inside = np.isfinite(few["ERROR"])
    assert np.array_equal(inside, np.isfinite(many["ERROR"]))
    np.testing.assert_allclose(few["ERROR"][inside] / many["ERROR"][inside], 10, rtol=1e-3)
    np.testing.assert_allclose(few["BACKGROUND"][inside] / many["BACKGROUND"][inside], 0.01, rtol=1e-3)


def test_errors_of_pixels_within_one_block_are_those_of_the_block():
    """Cells that share a value are one measurement: a pixel inside has its error, not a smaller one."""
    rate = np.full(144, 1e8 / 144)
    sky = sky_map(asimov(HAWC, GRID, horizon(HAWC, GRID), rate, np.ones(GRID.shape)), (24, 24))
    shown = healpix_map(sky, 16).fields["ERROR"]
    pixel = healpy.ang2pix(16, np.pi / 2, np.radians(30))  # middle of the block of 0 .. 60 degrees
    assert shown[pixel] == pytest.approx(sky.error[36, 12], rel=1e-6)


def test_smoothed_fields_are_those_of_the_discs():
    sky = of_dipole((0.02, 0.0), 2050.0)
    discs = disc_map(sky, np.radians(20))
    shown = healpix_map(sky, 32, discs)
    assert tuple(shown.fields) == (*COLUMNS, "LI_MA", "LI_MA_WIDTH")
    ra, dec = (a[0] for a in of_date(2050.0, np.radians([40.0]), np.radians([10.0])))
    cell = int((np.degrees(dec) + 90) // 2.5), int(np.degrees(ra) // 2.5)
    pixel = healpy.ang2pix(32, np.radians(80), np.radians(40))
    for name, values in (
        ("RELATIVE_INTENSITY", discs.contrast),
        ("ERROR", discs.error),
        ("SIGNIFICANCE", discs.significance),
        ("BACKGROUND", discs.background),
        ("LI_MA", discs.li_ma),
        ("LI_MA_WIDTH", discs.li_ma_width),
    ):
        around = values[cell[0] - 1 : cell[0] + 2, cell[1] - 1 : cell[1] + 2]
        assert around.min() <= shown.fields[name][pixel] <= around.max(), name


def test_known_mean_declinations_move_the_map():
    """Events that lie north of the centres of their rings: the map knows by how much the dipole is smaller there."""
    grid = RingGrid(18, 36)
    shift = np.radians(3.0)
    moved = of_dipole((0.02, 0.0), grid=grid)
    truth = dipole_sky(grid, (1.0, 0.0)) - 1
    there = np.cos(grid.declination + shift)[:, None] * np.cos(grid.right_ascension)
    sky = dataclasses.replace(moved, contrast=np.where(np.isfinite(moved.contrast), 0.02 * there, np.nan))
    theta, phi = healpy.pix2ang(8, np.arange(768))
    wanted = 0.02 * np.sin(theta) * np.cos(phi)
    inside = (theta > np.radians(25)) & (theta < np.radians(110))
    known = healpix_map(sky, 8, declinations=grid.declination + shift).fields["RELATIVE_INTENSITY"]
    unknown = healpix_map(sky, 8).fields["RELATIVE_INTENSITY"]
    size = lambda x: np.sqrt(np.mean((x - wanted)[inside] ** 2))
    assert size(known) < 0.3 * size(unknown)
    assert np.isfinite(truth).all()


@pytest.mark.parametrize("nside", [0, 3, 48, 2048, -4])
def test_nside_must_be_a_power_of_two(nside):
    with pytest.raises(InputError, match=f"--nside must be a power of two from 1 to 1024, not {nside}"):
        healpix_map(of_dipole((0, 0), grid=RingGrid(12, 24)), nside)


def test_the_file_is_read_by_healpy(tmp_path):
    shown = healpix_map(of_dipole((0.02, 0.0), 2020.0, grid=RingGrid(36, 72)), 8)
    path = write_healpix(tmp_path / "map.fits", shown, {"CREATOR": "here", "METHOD": "maximum-likelihood"})
    values, header = healpy.read_map(path, field=None, h=True, dtype=None)
    header = dict(header)
    assert [header[f"TTYPE{k + 1}"] for k in range(5)] == list(COLUMNS)
    for column, name in zip(values, COLUMNS, strict=True):
        assert column.dtype.itemsize == 8
        expected = shown.fields[name]
        seen = np.isfinite(expected)
        assert np.all(column[~seen] == healpy.UNSEEN) and (~seen).any()
        np.testing.assert_array_equal(column[seen], expected[seen])
    assert header["COORDSYS"] == "C" and header["ORDERING"] == "RING" and header["NSIDE"] == 8
    assert header["EQUINOX"] == 2000.0 and header["CREATOR"] == "here" and header["OBJECT"] == "FULLSKY"
    with fits.open(path) as hdus:
        hdus.verify("exception")
    dated = HealpixMap(8, "date", shown.fields)
    again = write_healpix(tmp_path / "date.fits", dated, {})
    assert "EQUINOX" not in fits.getheader(again, 1)
    with pytest.raises(InputError, match="cannot be written"):
        write_healpix(tmp_path / "missing" / "map.fits", shown, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["date.fits", "map.fits"]


# Spots ---------------------------------------------------------------------------------------------------------

PLAIN = Frame("date", np.eye(3))


def test_spots_are_the_strongest_of_each_sign_and_apart():
    grid = RingGrid(36, 72)
    values = np.full(grid.shape, np.nan)
    values[5:30] = 0.0
    for place, height in (
        ((20, 10), 6.0),
        ((21, 11), 5.9),
        ((20, 40), 4.0),
        ((10, 71), -7.0),
        ((10, 1), -6.0),
        ((12, 30), 2.0),
    ):
        values[place] = height
    error = np.full(grid.shape, 0.1)
    found = spots(values, 0.1 * values, error, grid, PLAIN, np.radians(15), 3.0)
    # (21, 11) is too close to (20, 10), and (10, 1) to (10, 71) across right ascension 0; 2.0 is below the least.
    assert [s.cell for s in found] == [(10, 71), (20, 10), (20, 40)]
    assert [s.significance for s in found] == [-7.0, 6.0, 4.0]
    first = found[1]
    assert np.degrees([first.right_ascension, first.declination]) == pytest.approx([52.5, 12.5])
    assert (first.contrast, first.error) == (pytest.approx(0.6), 0.1)
    assert len(spots(values, values, error, grid, PLAIN, np.radians(3), 3.0)) == 5


def test_hottest_and_coldest_are_given_however_weak():
    grid = RingGrid(12, 24)
    values = np.random.default_rng(0).standard_normal(grid.shape) * 0.1
    found = spots(values, values, np.ones(grid.shape), grid, PLAIN, np.radians(10), np.inf)
    assert sorted(s.significance for s in found) == [values.min(), values.max()]
    assert spots(np.full(grid.shape, np.nan), values, values, grid, PLAIN, 0.1, 3.0) == []


def test_spots_are_given_in_the_frame_of_the_results():
    grid = RingGrid(36, 72)
    frame = frame_of(of_dipole((0, 0), 2050.0, grid=grid).counts)
    values = np.zeros(grid.shape)
    values[20, 10] = 5.0
    (hot,) = (s for s in spots(values, values, values, grid, frame, 0.1, 3.0) if s.significance > 0)
    back = SkyCoord(52.5, 12.5, unit="deg", frame=FK5(equinox="J2050")).transform_to(FK5(equinox="J2000"))
    here = SkyCoord(hot.right_ascension, hot.declination, unit="rad", frame=FK5(equinox="J2000"))
    assert here.separation(back) < 3 * units.arcsec


# Dipole --------------------------------------------------------------------------------------------------------


def test_the_dipole_of_the_map_is_the_true_one_with_its_error():
    """Asimov counts give it; its information is N (<cos^2> - |<cos dec exp(-i H)>|^2) / 2."""
    dipole, grid, events = (3e-3, -2e-3), RingGrid(36, 72), 1e8
    delta, covariance = map_dipole(of_dipole(dipole, grid=grid, events=events))
    np.testing.assert_allclose(delta, dipole, rtol=2e-3)
    local, cosine = horizon(HAWC, grid), np.cos(grid.declination)[:, None]
    centred = abs(np.sum(local * cosine * np.exp(-1j * grid.hour_angle)))
    information = events * (np.sum(local * cosine**2) - centred**2) / 2
    np.testing.assert_allclose(covariance, np.eye(2) / information, rtol=0.01, atol=1e-3 / information)


def test_pulls_of_the_dipole_of_the_map_are_normal():
    grid, found = RingGrid(18, 36), []
    local, rate = horizon(HAWC, grid), 1e6 / 36 * (1 + 0.3 * np.cos(grid.sidereal_time))
    for seed in range(60):
        delta, covariance = map_dipole(
            sky_map(drawn(HAWC, grid, local, rate, dipole_sky(grid, (0.02, 0.01)), seed), (1, 1))
        )
        found.append(np.linalg.solve(np.linalg.cholesky(covariance), delta - np.array([0.02, 0.01])))
    assert np.mean(np.square(found)) == pytest.approx(1, abs=4 * np.sqrt(2 / 120))
