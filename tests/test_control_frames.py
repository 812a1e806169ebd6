"""The Earth's orbit in each time frame: closed forms, astropy's Earth, and events drawn under it and fitted."""

import json

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import get_body_barycentric_posvel
from astropy.time import Time
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.control_frames import (
    FrameDipole,
    SolarIndex,
    combined_index,
    control_frames,
    expected_orbit,
    leakage,
    of_energy,
    orbital_dipole,
    orbital_lines,
    solar_indices,
)
from diffcr.inference.data import combine
from diffcr.inference.dipole import Dipole
from diffcr.inference.drift import of_epoch
from diffcr.inference.events import EventChunk
from helpers import as_counts

from diffcr.clock import TIME_FRAMES
from diffcr.counts import expected_marginals
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

YEAR = 365.2422
YEARS = np.arange(0, 4 * YEAR, 0.25)


def phase(vector):
    return np.degrees(np.arctan2(vector[1], vector[0])) / 15 % 24


def test_whole_years_give_the_known_lines():
    """For Gamma = 2.7: solar 4.477e-4 at 6 h, extended-sidereal 1.93-1.95e-5, antisidereal 7.49e-6, sidereal 0."""
    found = {frame: orbital_dipole(YEARS, 2.7, frame) for frame in TIME_FRAMES}
    size = {frame: np.hypot(*vector) for frame, vector in found.items()}
    assert size["solar"] == pytest.approx(4.477e-4, rel=1e-3)
    assert phase(found["solar"]) == pytest.approx(6, abs=0.01)
    assert 1.92e-5 < size["extended-sidereal"] < 1.95e-5
    assert size["antisidereal"] == pytest.approx(7.49e-6, rel=3e-3)
    assert size["sidereal"] < 3e-7
    for frame, line in orbital_lines(2.7).items():
        np.testing.assert_allclose(found[frame], line, atol=1.1e-6 if frame == "solar" else 3e-8)
    # The factor is 2 + Gamma, not Gamma nor 1 + Gamma.
    np.testing.assert_allclose(orbital_dipole(YEARS, 3.7, "solar"), found["solar"] * 5.7 / 4.7)


def test_half_a_year_leaks_into_sidereal_time():
    days = Time("2010-01-01").jd - 2451545 + np.arange(0, 181, 0.5)
    assert np.hypot(*orbital_dipole(days, 2.7, "sidereal")) == pytest.approx(2.7e-4, rel=0.05)
    assert leakage(days, "solar", "sidereal") == pytest.approx(2 / np.pi, abs=0.01)
    assert leakage(days, "antisidereal", "solar") == pytest.approx(2 / np.pi, abs=0.01)
    assert leakage(days, "antisidereal", "sidereal") < 0.02  # a whole turn in half a year
    assert leakage(YEARS, "solar", "sidereal") < 1e-3
    assert leakage(days, "solar", "solar") == 1.0
    # A histogram of days is as good as the days; a weight per day is not the same as none.
    weights = np.where(np.arange(len(YEARS)) < len(YEARS) / 8, 1.0, 0.0)
    np.testing.assert_allclose(
        orbital_dipole(YEARS, 2.7, "sidereal", weights), orbital_dipole(YEARS[weights > 0], 2.7, "sidereal"), rtol=1e-9
    )


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_the_lines_are_those_of_the_earth_of_astropy(frame):
    """Ten weeks: barycentric velocity of the Earth, turned by astropy's sidereal time and by the time of day."""
    times = Time("2015-03-01") + np.linspace(0, 70, 281) * u.day
    velocity = get_body_barycentric_posvel("earth", times)[1].xyz.to_value("km/s") / 299792.458
    dipole = 4.7 * (velocity[0] + 1j * velocity[1])
    sidereal = times.sidereal_time("mean", "greenwich", model="IAU2006").rad
    solar = 2 * np.pi * (times.mjd % 1)
    local = {
        "sidereal": sidereal,
        "solar": solar,
        "antisidereal": 2 * solar - sidereal,
        "extended-sidereal": 2 * sidereal - solar,
    }
    mean = np.mean(dipole * np.exp(1j * (local[frame] - sidereal)))
    found = orbital_dipole(times.jd - 2451545.0, 2.7, frame)
    # Right ascensions of J2000 are 0.2 degrees from those of 2015, and the Sun moves by 13 m/s.
    np.testing.assert_allclose(found, [mean.real, mean.imag], atol=3e-6)


def events_under_the_orbit(num, spectral_index, span, seed=1):
    """Events of HAWC under (2 + Gamma) v.n with v of astropy: days, right ascension, declination."""
    rng = np.random.default_rng(seed)
    days = 3652.5 + span * rng.random(num)
    grid = np.linspace(0, span, 2000)
    times = Time(2451545 + 3652.5 + grid, format="jd")
    velocity = get_body_barycentric_posvel("earth", times)[1].xyz.to_value("km/s") / 299792.458
    v = np.stack([np.interp(days - 3652.5, grid, component) for component in velocity])
    ra, dec = 2 * np.pi * rng.random(num), np.arcsin(rng.uniform(-1, 1, num))
    n = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    greenwich = np.radians(280.46061837 + 360.98564736629 * days)
    place = site("hawc")
    hour = greenwich + place.longitude - ra
    up = np.sin(place.latitude) * np.sin(dec) + np.cos(place.latitude) * np.cos(dec) * np.cos(hour)
    keep = (up > 0.55) & (1.5 * rng.random(num) < 1 + (2 + spectral_index) * np.sum(v * n, axis=0))
    return days[keep], ra[keep], dec[keep]


def counted(days, ra, dec, grid, **options):
    """Counts of the events in each time frame."""
    energy = np.ones_like(days)
    chunk = EventChunk(days, ra, dec, None, None, energy, None, 1, 0)
    return {
        frame: bin_chunks([chunk], site("hawc"), BinningOptions(grid=grid, time_frame=frame, equinox="date", **options))
        for frame in TIME_FRAMES
    }


@pytest.mark.parametrize("span", [YEAR, 120.0])
def test_events_drawn_under_the_orbit_show_it_in_every_frame(span):
    """The orbit a thousand times as strong, 2 + Gamma = 3000: found by the fit where it is predicted, and gone after.

    A whole year, and four months, in which every frame holds part of it. 20 to 70 standard deviations.
    """
    grid = RingGrid(12, 24)
    days, ra, dec = events_under_the_orbit(900_000, 2998.0, span)
    frames = counted(days, ra, dec, grid)
    for given in (days, None):
        found = control_frames(frames, 2998.0, given)
        assert list(found) == list(TIME_FRAMES)
        for frame, each in found.items():
            error = np.sqrt(each.dipole.covariance[0, 0])
            assert np.hypot(*each.residual.delta) < 4.5 * error, frame
            assert each.frame == frame
        strong = found["solar"]
        assert strong.dipole.amplitude > 20 * strong.dipole.amplitude_error
        assert np.degrees(strong.dipole.right_ascension) == pytest.approx(90, abs=5)
        assert strong.log10_p < -50
    sidereal = found["sidereal"].dipole
    assert (sidereal.amplitude > 15 * sidereal.amplitude_error) == (span < 200)
    written = json.loads(json.dumps({k: v.as_dict() for k, v in found.items()}))
    assert written["solar"]["dipole"]["phase_hours"] == pytest.approx(6, abs=0.4)
    assert written["solar"]["residual"]["p_value"] == found["solar"].residual_p_value


@pytest.mark.parametrize("frame", TIME_FRAMES)
def test_expected_orbit_of_streams_taken_at_once_is_that_of_one_file(frame):
    """200 days, denser at their end: the live time is not three times as long, nor centred on the events' mean."""
    rng, grid = np.random.default_rng(5), RingGrid(6, 12)
    days = 3652.5 + 200 * np.sqrt(np.sort(rng.random(3000)))
    zenith = np.radians(280.46061837 + 360.98564736629 * days) + site("hawc").longitude
    ra, dec = (zenith + rng.uniform(-0.3, 0.3, 3000)) % (2 * np.pi), rng.uniform(0.0, 0.6, 3000)
    whole = counted(days, ra, dec, grid)[frame]
    streams = combine([counted(days[k::3], ra[k::3], dec[k::3], grid)[frame] for k in range(3)])
    even = np.linspace(days[0], days[-1], 801)
    truth = orbital_dipole(even[1:] - np.diff(even) / 2, 2.7, frame)
    for counts in (whole, streams):
        np.testing.assert_allclose(expected_orbit(counts, 2.7), truth, atol=1e-7)
    # Of old counts the mean epoch and the live time alone are known.
    centre = (whole.mean_epoch.item() - 2000) * 365.25
    shifted = orbital_dipole(centre + even[1:] - np.diff(even) / 2 - even[[0, -1]].mean(), 2.7, frame)
    np.testing.assert_allclose(expected_orbit(whole.replace(span=None), 2.7), shifted, atol=1e-7)
    # A part keeps its own times.
    assert of_energy(streams, 0).span.tolist() == of_epoch(streams, 0).span.tolist() == streams.span.tolist()


def test_the_index_is_measured_in_bins_of_energy():
    """Solar dipoles of two bins with 2 + Gamma of 1500 and 2500, in two pieces of one event list."""
    grid = RingGrid(12, 24)
    pieces = [events_under_the_orbit(500_000, index, YEAR, seed) for index, seed in ((1498.0, 2), (2498.0, 3))]
    energy = np.concatenate([np.full(len(p[0]), e) for p, e in zip(pieces, (1.0, 10.0), strict=True)])
    days, ra, dec = (np.concatenate(each) for each in zip(*pieces, strict=True))
    chunk = EventChunk(days, ra, dec, None, None, energy, None, 1, 0)
    options = BinningOptions(grid=grid, time_frame="solar", equinox="date", energy_edges=(0.5, 5.0, 50.0))
    counts = bin_chunks([chunk], site("hawc"), options)
    found = solar_indices(counts, days)
    assert [each.energy for each in found] == list(counts.energies)
    for each, truth in zip(found, (1498.0, 2498.0), strict=True):
        assert each.index == pytest.approx(truth, abs=4 * each.index_error)
        assert each.index_error < 130
        assert each.phase_p_value > 1e-3
        assert each.index_of_amplitude == pytest.approx(each.index, abs=each.index_error)
    assert json.loads(json.dumps(found[0].as_dict()))["index"] == found[0].index
    assert of_energy(counts, 1).num_events.sum() == len(pieces[1][0])
    with pytest.raises(InputError, match="counts are in sidereal time; .*--time-frame solar"):
        solar_indices(counts.replace(time_frame="sidereal"))
    with pytest.raises(InputError, match="orbital motion was removed"):
        solar_indices(counts.replace(history={"orbital_removed": {"gamma": 2.7}}))


def solar(vector, error=1e-5):
    unit = np.array([0.0, 4.477e-4 / 4.7])
    return SolarIndex("all", Dipole(np.array(vector), error**2 * np.eye(2)), unit)


def test_the_index_follows_from_the_amplitude():
    """A = 4.477e-4 at 6 h is Gamma = 2.7; across it, the phase is off and the index is not."""
    assert solar([0.0, 4.477e-4]).index == pytest.approx(2.7)
    assert solar([0.0, 4.477e-4]).phase_chi2 == pytest.approx(0, abs=1e-20)
    assert solar([0.0, 4.477e-4]).index_error == pytest.approx(1e-5 / (4.477e-4 / 4.7))
    assert solar([3e-5, 4.477e-4]).index == pytest.approx(2.7)
    assert solar([3e-5, 4.477e-4]).phase_chi2 == pytest.approx(9)
    assert solar([3e-5, 4.477e-4]).index_of_amplitude > 2.7
    mean, error, chi2 = combined_index([solar([0.0, 4.477e-4]), solar([0.0, 4.977e-4], 2e-5)])
    high = solar([0.0, 4.977e-4]).index
    assert mean == pytest.approx((4 * 2.7 + high) / 5)
    assert error == pytest.approx(solar([0.0, 0.0]).index_error * np.sqrt(0.8))
    assert chi2 == pytest.approx(((high - 2.7) / solar([0.0, 0.0]).index_error) ** 2 / 5)


def test_indices_are_unbiased_where_amplitudes_are_not():
    rng = np.random.default_rng(5)
    truth = np.array([0.0, 4.477e-4])
    found = [solar(truth + 3e-4 * rng.normal(size=2), 3e-4) for _ in range(2000)]
    pulls = np.array([(each.index - 2.7) / each.index_error for each in found])
    assert np.mean(pulls) == pytest.approx(0, abs=0.07)
    assert np.std(pulls) == pytest.approx(1, abs=0.05)
    assert np.mean([each.phase_chi2 for each in found]) == pytest.approx(1, abs=0.1)
    assert np.mean([each.index_of_amplitude for each in found]) > 3.2


def test_the_residual_is_what_the_orbit_leaves():
    each = FrameDipole("solar", Dipole(np.array([1e-4, 5e-4]), 1e-10 * np.eye(2)), np.array([0.0, 4.5e-4]), 1.0, -0.2)
    np.testing.assert_allclose(each.residual.delta, [1e-4, 5e-5])
    assert each.residual_p_value == pytest.approx(np.exp(-(100 + 25) / 2))


def flat(frame, number=1e6, **changes):
    grid = RingGrid(12, 24)
    local = np.outer(np.cos(grid.declination), np.ones(24))
    m = expected_marginals(np.full(24, number / 24), local / local.sum(), np.ones(grid.shape))
    return as_counts(site("hawc"), grid, m, None, int(number)).replace(time_frame=frame, **changes)


def test_counts_without_a_live_time_get_whole_years_and_corrected_ones_nothing():
    found = control_frames({"solar": flat("solar")})["solar"]
    np.testing.assert_allclose(found.orbital, orbital_lines(2.7)["solar"])
    removed = control_frames({"solar": flat("solar", history={"orbital_removed": {"gamma": 2.7}})})["solar"]
    np.testing.assert_array_equal(removed.orbital, 0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({}, "no counts were given"),
        ({"lunar": flat("solar")}, "unknown time frame 'lunar'"),
        ({"solar": flat("sidereal")}, "given as solar are in sidereal time; read them with --time-frame solar"),
        ({"solar": flat("solar"), "sidereal": flat("sidereal", 2e6)}, "sidereal and solar time are not of the same"),
        (
            {"solar": flat("solar"), "sidereal": flat("sidereal", history={"orbital_removed": {"gamma": 2.7}})},
            "removed in only one of sidereal and solar",
        ),
    ],
)
def test_frames_that_do_not_belong_together_are_refused(frames, message):
    with pytest.raises(InputError, match=message):
        control_frames(frames)


def test_an_empty_live_time_is_refused():
    for days, weights in ((np.zeros(0), None), (np.array([np.nan]), None), (np.ones(2), np.array([-1.0, 2.0]))):
        with pytest.raises(InputError, match="live time is empty or not finite"):
            orbital_dipole(days, 2.7, "solar", weights)
    with pytest.raises(InputError, match="unknown time frame"):
        orbital_dipole(np.ones(2), 2.7, "lunar")
