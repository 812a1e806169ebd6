"""From events to cells: the fast path against the plain functions and astropy; cuts, epochs, energies, weights."""

import warnings

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import FK5, AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from diffcr.inference import BinningOptions
from diffcr.inference.binning import bin_chunks, calendar_year, energy_labels
from diffcr.inference.cells import locate
from diffcr.inference.events import EventChunk

from diffcr.clock import TIME_FRAMES, days_from, local_time
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.observer import orbital_intensity
from diffcr.site import site
from diffcr.sky import angles, equatorial_of, horizon, precess, unit_vector

GRID = RingGrid(36, 72)
HAWC, ICECUBE = site("hawc"), site("icecube")


def events(num=4000, seed=0, place=HAWC, start=5844.5, span=365.0):
    """Random local directions and times: (days, zenith, azimuth)."""
    rng = np.random.default_rng(seed)
    days = np.sort(rng.uniform(start, start + span, num))
    zenith = np.arccos(rng.uniform(np.cos(place.zenith_max), 1, num))
    return days, zenith, rng.uniform(0, 2 * np.pi, num)


def chunk(days, ra=None, dec=None, zenith=None, azimuth=None, energy=None, weight=None):
    return EventChunk(days, ra, dec, zenith, azimuth, energy, weight, 1, 0)


def plain_cells(days, ra_of_date, dec_of_date, place, grid, frame="sidereal"):
    """Indices by the package's plain functions, one formula a line."""
    sidereal = np.asarray(local_time(days, place.longitude))
    time = np.asarray(local_time(days, place.longitude, frame))
    ra = ra_of_date + time - sidereal
    ring, column, tau = grid.ring_of(dec_of_date), grid.bin_of(ra), grid.bin_of(time)
    west = np.sin(sidereal - ra_of_date) >= 0
    return (
        ring * grid.n_ra + column,
        ring * grid.n_ra + (tau - column) % grid.n_ra,
        (west * grid.n_ring + ring) * grid.n_ra + tau,
    )


@pytest.mark.parametrize("frame", TIME_FRAMES)
@pytest.mark.parametrize("equinox", ["j2000", "date"])
def test_fast_cells_equal_the_plain_formulas(frame, equinox):
    """Over twenty years in random order, and in order over a night: the expansions in time have different orders."""
    for span, order in ((7300.0, True), (0.3, False)):
        days, zenith, azimuth = events(3000, span=span)
        if order:
            days = np.random.default_rng(1).permutation(days)
        hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, HAWC.latitude))
        ra = (np.asarray(local_time(days, HAWC.longitude)) - hour_angle) % (2 * np.pi)
        cells = locate(chunk(days, ra, dec), HAWC, GRID, frame, equinox)
        if equinox == "j2000":
            ra, dec = (np.asarray(x) for x in angles(precess(unit_vector(ra, dec), days)))
        for ours, expected in zip(
            (cells.sky, cells.local, cells.half), plain_cells(days, ra, dec, HAWC, GRID, frame), strict=True
        ):
            assert np.mean(ours != expected) < 1e-3  # rounding on the edge of a cell
        hour_angle = np.asarray(local_time(days, HAWC.longitude)) - ra
        frame_ra = (
            ra + np.asarray(local_time(days, HAWC.longitude, frame)) - np.asarray(local_time(days, HAWC.longitude))
        )
        rows = [np.cos(frame_ra), np.sin(frame_ra), np.cos(dec) * np.cos(frame_ra), np.cos(dec) * np.sin(frame_ra)]
        rows += [np.cos(dec) * np.cos(hour_angle), np.cos(dec) * np.sin(hour_angle)]
        time = np.asarray(local_time(days, HAWC.longitude, frame))
        rows += [np.cos(time), np.sin(time)]
        np.testing.assert_allclose(cells.directions, rows, atol=3e-8)
        np.testing.assert_allclose(cells.zenith_cosine, np.cos(horizon(hour_angle, dec, HAWC.latitude)[0]), atol=3e-8)


def test_horizon_input_needs_no_frame():
    """Zenith and azimuth give the same cells as the right ascension and declination of date they amount to."""
    days, zenith, azimuth = events()
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, HAWC.latitude))
    ra = np.asarray(local_time(days, HAWC.longitude)) - hour_angle
    one = locate(chunk(days, zenith=zenith, azimuth=azimuth), HAWC, GRID, "sidereal", "j2000")
    two = locate(chunk(days, ra % (2 * np.pi), dec), HAWC, GRID, "sidereal", "date")
    for name in ("sky", "local", "half"):
        assert np.mean(getattr(one, name) != getattr(two, name)) < 1e-3
    east = np.sin(azimuth) > 0
    assert np.mean((one.half < GRID.n_ring * GRID.n_ra) == east) > 0.999


@pytest.mark.parametrize("year", [2004, 2016, 2026])
def test_j2000_events_made_by_astropy_land_in_their_cells_of_date(year):
    """Precession by astropy's FK5 is undone: the local map of an isotropic sky does not move.

    Taken as of date, as many events as the rings shifted by 20 arcsec a year change their declination ring.
    """
    start = float(days_from([f"{year}-01-01"], "iso")[0])
    days, zenith, azimuth = events(1500, place=ICECUBE, start=start, span=30.0)
    moment = Time(days + 2451545.0, format="jd", scale="tt")
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, ICECUBE.latitude))
    ra = np.asarray(local_time(days, ICECUBE.longitude)) - hour_angle
    of_date = SkyCoord(ra * units.rad, dec * units.rad, frame=FK5(equinox=moment))
    j2000 = of_date.transform_to(FK5(equinox="J2000"))
    fine = RingGrid(3600, 7200)
    truth = locate(chunk(days, ra % (2 * np.pi), dec), ICECUBE, fine, "sidereal", "date")
    converted = chunk(days, j2000.ra.rad, j2000.dec.rad)
    right = locate(converted, ICECUBE, fine, "sidereal", "j2000")
    wrong = locate(converted, ICECUBE, fine, "sidereal", "date")
    ring = truth.sky // 7200
    assert np.mean(right.sky // 7200 != ring) < 0.002
    shift = (year - 2000) * 20.04 / 3600 * 2 / np.pi / 0.05  # mean |cos RA| in cells of 0.05 degrees
    assert np.mean(np.abs(wrong.sky // 7200 - ring)) == pytest.approx(shift, rel=0.1)


def test_icrs_events_made_by_astropy_from_the_horizon_come_back():
    """AltAz to ICRS with astropy (nutation and aberration included), undone to 3 arcsec of zenith and 0.01 degrees."""
    days, zenith, azimuth = events(800)
    place = EarthLocation.from_geodetic(np.degrees(HAWC.longitude), np.degrees(HAWC.latitude), 0.0)
    with (
        warnings.catch_warnings(),
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
    ):
        warnings.simplefilter("ignore")
        moment = Time(days + 2451545.0, format="jd", scale="utc")
        moment.delta_ut1_utc = 0.0
        frame = AltAz(obstime=moment, location=place)
        icrs = SkyCoord(alt=(np.pi / 2 - zenith) * units.rad, az=azimuth * units.rad, frame=frame).icrs
    cells = locate(chunk(days, icrs.ra.rad, icrs.dec.rad), HAWC, GRID, "sidereal", "icrs")
    error = np.degrees(np.arccos(np.clip(cells.zenith_cosine, -1, 1))) - np.degrees(zenith)
    assert np.abs(error).max() < 3 / 3600
    precessed = locate(chunk(days, icrs.ra.rad, icrs.dec.rad), HAWC, GRID, "sidereal", "j2000")
    error = np.degrees(np.arccos(np.clip(precessed.zenith_cosine, -1, 1))) - np.degrees(zenith)
    assert 5 / 3600 < np.abs(error).max() < 40 / 3600  # what leaving out nutation and aberration costs


def test_counts_add_up_and_hold_the_moments():
    days, zenith, azimuth = events()
    weight = np.random.default_rng(2).uniform(0.5, 1.5, len(days))
    counts = bin_chunks([chunk(days, zenith=zenith, azimuth=azimuth, weight=weight)], HAWC, BinningOptions(grid=GRID))
    for name in ("n_sky", "n_time", "n_local", "n_half"):
        assert getattr(counts, name).sum() == pytest.approx(weight.sum())
        assert counts.w2[name].sum() == pytest.approx((weight**2).sum())
    assert counts.num_events[0, 0, 0] == len(days)
    assert counts.mean_epoch[0, 0, 0] == pytest.approx(2000 + days.mean() / 365.25)
    assert counts.livetime[0, 0, 0] == pytest.approx(np.ptp(days))
    assert counts.span[0, 0, 0].tolist() == [days.min(), days.max()]
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, HAWC.latitude))
    np.testing.assert_allclose(
        counts.moments[0, 0, 0, 1], [np.sum(weight * np.cos(dec) * f(hour_angle)) for f in (np.cos, np.sin)], rtol=1e-6
    )


def test_pieces_and_chunks_make_no_difference():
    days, zenith, azimuth = events(150_000)
    whole = bin_chunks([chunk(days, zenith=zenith, azimuth=azimuth)], HAWC, BinningOptions(grid=GRID))
    cuts = [0, 10, 70_001, 150_000]
    parts = [chunk(days[a:b], zenith=zenith[a:b], azimuth=azimuth[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    split = bin_chunks(parts, HAWC, BinningOptions(grid=GRID))
    # The clock is linearised about the middle of each piece: an event on the edge of a bin may change sides.
    for name in ("n_sky", "n_time", "n_local", "n_half"):
        assert np.abs(getattr(whole, name) - getattr(split, name)).sum() <= 4


def test_orbital_weights_undo_the_orbital_intensity():
    """Weights are 1/I at each event's direction; over a year they make the solar dipole of an isotropic sky."""
    days, zenith, azimuth = events(3000)
    options = BinningOptions(grid=GRID, orbital_index=2.7)
    counts = bin_chunks([chunk(days, zenith=zenith, azimuth=azimuth)], HAWC, options)
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, HAWC.latitude))
    ra = np.asarray(local_time(days, HAWC.longitude)) - hour_angle
    intensity = np.asarray(orbital_intensity(np.asarray(unit_vector(ra, dec)), days, 2.7))
    assert counts.sum_weights == pytest.approx(np.sum(1 / intensity), rel=1e-6)
    assert counts.history["orbital_removed"] == {"gamma": 2.7}
    assert np.std(1 / intensity) > 1e-4


def test_epochs_energies_and_cuts_partition_the_events():
    days, zenith, azimuth = events(3000, span=1000.0)
    energy = np.random.default_rng(3).uniform(1, 100, len(days))
    source = [chunk(days, zenith=zenith, azimuth=azimuth, energy=energy)]
    options = BinningOptions(grid=GRID, epochs="yearly", energy_edges=(1.0, 10.0, 100.0), zenith_max=np.radians(45))
    counts = bin_chunks(source, HAWC, options)
    assert counts.epochs == ("2016", "2017", "2018") and counts.energies == ("1-10", "10-100")
    inside = zenith <= np.radians(45)
    years = calendar_year(days)
    for e, low, high in ((0, 1, 10), (1, 10, 100)):
        for p, year in enumerate((2016, 2017, 2018)):
            expected = np.sum(inside & (energy >= low) & (energy < high) & (years == year))
            assert counts.num_events[0, e, p] == expected
    entry = counts.inputs[0]
    assert entry["events_read"] == 3000 and entry["cut"]["zenith"] == np.sum(~inside)
    assert counts.sites[0].zenith_max == pytest.approx(np.radians(45))
    table = BinningOptions(grid=GRID, epochs=(("a", days[100], days[200]), ("b", days[200], days[250])))
    counts = bin_chunks(source, HAWC, table)
    assert counts.num_events[0, 0].tolist() == [100, 50]
    assert counts.inputs[0]["cut"]["epoch"] == 2850
    ranged = BinningOptions(grid=GRID, time_range=(days[10], days[20]), energy_range=(-np.inf, 50.0))
    assert bin_chunks(source, HAWC, ranged).num_events.sum() == np.sum(energy[10:20] < 50)
    assert energy_labels((1.0, 10.0)) == ["1-10"]


def test_calendar_years_follow_the_calendar():
    days = days_from(["2015-12-31T23:59:59", "2016-01-01T00:00:00", "2016-12-31T23:59:59"], "iso")
    assert calendar_year(days).tolist() == [2015, 2016, 2016]


def test_printed_directions_on_an_edge_go_up():
    """35.0 degrees belongs to the ring above, 360.0 to the first bin, +90 to the last ring, whatever rounding does."""
    grid = RingGrid(180, 360)
    degrees = np.arange(-89, 91, dtype=float)
    ra = np.tile([0.0, 360.0, 123.0], 60)
    cells = locate(
        chunk(np.full(180, 6000.0), np.radians(ra), np.radians(degrees)), site("0,0,90"), grid, "sidereal", "date"
    )
    assert (cells.sky // 360).tolist() == [min(int(d) + 90, 179) for d in degrees]
    assert (cells.sky % 360).tolist() == [0, 0, 123] * 60


def test_events_below_the_horizon_say_what_to_check():
    days, zenith, azimuth = events(500)
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, HAWC.latitude))
    ra = np.asarray(local_time(days, -HAWC.longitude)) - hour_angle
    with pytest.raises(InputError, match="below the horizon of HAWC: check --site"):
        bin_chunks([chunk(days, ra % (2 * np.pi), dec)], HAWC, BinningOptions(grid=GRID))


def test_other_bad_input():
    days, zenith, azimuth = events(50)
    source = [chunk(days, zenith=zenith, azimuth=azimuth)]
    with pytest.raises(InputError, match="no time column"):
        bin_chunks([chunk(None, zenith=zenith, azimuth=azimuth)], HAWC, BinningOptions(grid=GRID))
    with pytest.raises(InputError, match="no event is left after cuts .50 read; cut: 50 by time"):
        bin_chunks(source, HAWC, BinningOptions(grid=GRID, time_range=(0.0, 1.0)))
    with pytest.raises(InputError, match="the events have no energy"):
        bin_chunks(source, HAWC, BinningOptions(grid=GRID, energy_range=(1.0, 2.0)))
    with pytest.raises(InputError, match="unknown equinox 'b1950'"):
        BinningOptions(equinox="b1950")
    with pytest.raises(InputError, match="energy edges must increase"):
        BinningOptions(energy_edges=(2.0, 1.0))
    with pytest.raises(InputError, match="epochs must be"):
        BinningOptions(epochs="monthly")
