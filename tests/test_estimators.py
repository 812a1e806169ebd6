"""Harmonic analyses: published numbers of the Auger list, their noise, and binned against unbinned."""

import numpy as np
import pytest
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.data import combine
from diffcr.inference.estimators import (
    RayleighResult,
    TwoHarmonicDipole,
    combine_estimates,
    local_sines,
    rayleigh,
    rayleigh_of_counts,
    two_harmonic_dipole,
    two_harmonic_events,
)
from event_files import read
from helpers import asimov, dipole_sky, drawn

from diffcr.clock import local_time
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site
from diffcr.sky import horizon

GRID = RingGrid(18, 36)


@pytest.fixture(scope="module")
def auger():
    """The 32187 events above 8 EeV."""
    return read("dataset:auger-8eev")[0]


@pytest.fixture(scope="module")
def auger_counts(auger):
    return bin_chunks([auger], site("auger"), BinningOptions(grid=GRID, equinox="date"))


def test_published_first_harmonic_of_the_auger_list(auger):
    """Science 357, 1266: amplitude 0.047 +- 0.008, phase 100 +- 10 degrees, chance probability 2.6e-8; and the
    equatorial dipole 0.060, of the weighted list."""
    result = rayleigh(auger.ra, auger.weight, auger.dec)
    assert result.amplitude == pytest.approx(0.0466, abs=1e-4)
    assert result.sigma == pytest.approx(0.0079, abs=5e-5)
    assert np.degrees(result.phase) == pytest.approx(100.3, abs=0.1)
    assert 10**result.log10_p == pytest.approx(2.6e-8, rel=0.03)
    assert result.dipole_amplitude == pytest.approx(0.0596, abs=3e-4)
    assert result.mean_cos_declination == pytest.approx(0.7832, abs=3e-3)
    assert result.num_events == 32187


def test_chance_probability_of_printed_amplitudes():
    """N = 32187: r = 0.047 has P = 1.9e-8, r = 0.0466 has 2.6e-8."""
    for amplitude, probability in ((0.047, 1.9e-8), (0.0466, 2.6e-8)):
        result = RayleighResult(1, 0.0, amplitude, 0.0079, 32187, 32187.0)
        assert 10**result.log10_p == pytest.approx(probability, rel=0.03)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_binned_and_unbinned_agree(auger, auger_counts, order):
    """The first harmonic of counts is that of the events; higher ones lose what hides within 10 degrees."""
    events = rayleigh(auger.ra, auger.weight, auger.dec, order)
    binned = rayleigh_of_counts(auger_counts, order)
    close = 1e-12 if order == 1 else 2e-3
    assert (binned.a, binned.b) == pytest.approx((events.a, events.b), abs=close)
    assert binned.sigma == pytest.approx(events.sigma, rel=1e-9 if order == 1 else 0.05)
    assert binned.num_events == events.num_events
    assert binned.effective_events == pytest.approx(events.effective_events, rel=1e-9)
    assert binned.mean_cos_declination == pytest.approx(events.mean_cos_declination, rel=5e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_width_of_the_bins_is_corrected(auger_counts, order):
    """A density 1 + a cos k RA + b sin k RA integrated over bins of 40 degrees: 8 % is lost for k = 2."""
    edges = np.linspace(0, 2 * np.pi, 10)
    a, b = 0.1, -0.2
    primitive = edges + (a * np.sin(order * edges) - b * np.cos(order * edges)) / order
    per_bin = 1000 * np.diff(primitive)
    grid = RingGrid(4, 9)
    lead = np.ones((1, 1, 1))
    sky = (np.outer([0, 1, 0, 0], per_bin))[None, None, None]
    counts = auger_counts.replace(
        grid=grid,
        n_sky=sky,
        n_time=sky.sum(axis=3),
        n_local=sky,
        n_half=np.stack([sky[0, 0, 0], 0 * sky[0, 0, 0]])[None, None, None],
        w2={},
        num_events=(6283 * lead).astype(int),
        inputs=(),
    )
    result = rayleigh_of_counts(counts, order)
    assert (result.a, result.b) == pytest.approx((a, b), rel=1e-12)
    smear = np.sin(order * np.pi / 9) / (order * np.pi / 9)
    assert result.sigma == pytest.approx(np.sqrt(2 / per_bin.sum()) / smear)
    # Ring 1 of 4 is centred on 22.5 degrees South.
    assert result.mean_cos_declination == pytest.approx(np.cos(np.radians(22.5)))


def test_noise_and_chance_probability_against_monte_carlo():
    """5000 isotropic lists with log-normal weights: scatter of a and b is sigma, P is uniform."""
    rng = np.random.default_rng(4)
    lists = [(2 * np.pi * rng.random(300), np.exp(0.5 * rng.standard_normal(300))) for _ in range(5000)]
    results = [rayleigh(ra, w, order=2) for ra, w in lists]
    pulls = np.array([[r.a / r.sigma, r.b / r.sigma] for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.04)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.05)
    p = np.array([10**r.log10_p for r in results])
    for level in (0.5, 0.1, 0.02):
        assert np.mean(p < level) == pytest.approx(level, abs=4 * np.sqrt(level / 5000))


@pytest.mark.parametrize("order", [1, 2])
def test_phase_is_where_the_maximum_is(order):
    """Events with density 1 + 0.5 cos k (RA - phase), by the inverse of its distribution, without noise."""
    phase = np.radians(100)
    angle = np.linspace(0, 2 * np.pi, 20001)
    cumulative = angle + 0.5 / order * (np.sin(order * (angle - phase)) + np.sin(order * phase))
    ra = np.interp(2 * np.pi * (np.arange(5000) + 0.5) / 5000, cumulative, angle)
    result = rayleigh(ra, declination=np.full(5000, np.radians(60)), order=order)
    assert result.amplitude == pytest.approx(0.5, rel=1e-3)
    assert result.phase == pytest.approx(phase, abs=1e-3)
    # d_perp = r / <cos dec>; a second harmonic says nothing of a dipole.
    assert result.dipole_amplitude == (pytest.approx(1.0, rel=1e-3) if order == 1 else None)
    assert rayleigh(ra).dipole_amplitude is None
    assert rayleigh(ra).sigma == pytest.approx(np.sqrt(2 / 5000))


def test_phase_of_a_second_harmonic_lies_below_180_degrees():
    assert rayleigh(np.radians([260.0, 80.0]), order=2).phase == pytest.approx(np.radians(80))
    assert rayleigh(np.radians([260.0])).phase == pytest.approx(np.radians(260))


def test_what_cannot_be_analysed_is_refused(auger_counts):
    with pytest.raises(InputError, match="needs at least one event; the list is empty"):
        rayleigh(np.array([]))
    with pytest.raises(InputError, match="order of a harmonic is 1 or more, not 0"):
        rayleigh(np.array([1.0]), order=0)
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    empty = auger_counts.replace(w2={}, **{name: 0 * getattr(auger_counts, name) for name in names})
    with pytest.raises(InputError, match="needs at least one event; the counts are empty"):
        rayleigh_of_counts(empty)
    with pytest.raises(InputError, match="order of a harmonic is 1 or more, not 0"):
        rayleigh_of_counts(auger_counts, 0)
    with pytest.raises(InputError, match="36 right-ascension bins do not resolve a harmonic of order 18; bin"):
        rayleigh_of_counts(auger_counts, 18)
    with pytest.raises(InputError, match="the weights of all are zero"):
        rayleigh(np.array([1.0, 2.0]), np.zeros(2))


def tilted(where, dipole, grid=RingGrid(60, 120), rate=None, model="cos", **options):
    """Counts equal to their expectation for a dipole."""
    place = site(where)
    local = np.asarray(acceptance(place, grid, model, **options))
    rate = np.full(grid.n_ra, 1e5 / grid.n_ra) if rate is None else rate
    return asimov(place, grid, local, rate, dipole_sky(grid, dipole))


def test_two_harmonic_dipole_of_the_auger_list(auger, auger_counts):
    """With the azimuth of the list: d_perp 0.0596, d_z -0.0262 +- 0.0148, |d| 0.0651, declination -23.7 degrees; the
    published vector (Science 357, 1266: d_perp 0.060, d_z -0.026 +- 0.015, d 0.065, declination -24)."""
    latitude = site("auger").latitude
    hour_angle = np.asarray(local_time(auger.days, site("auger").longitude)) - auger.ra
    up = np.sin(auger.dec) * np.sin(latitude) + np.cos(auger.dec) * np.cos(latitude) * np.cos(hour_angle)
    result = two_harmonic_events(auger.ra, auger.dec, np.arccos(up), auger.azimuth, latitude, auger.weight)
    assert result.amplitude == pytest.approx(0.0596, rel=0.01)
    assert result.north == pytest.approx(-0.0262, rel=0.01)
    assert result.north_error == pytest.approx(0.0148, rel=0.01)
    assert result.total_amplitude == pytest.approx(0.0651, rel=0.01)
    assert np.degrees(result.declination) == pytest.approx(-23.7, rel=0.01)
    assert np.degrees(result.right_ascension) == pytest.approx(100.3, abs=0.1)
    assert result.amplitude_error == pytest.approx(0.0101, rel=0.01)
    assert 10**result.log10_p == pytest.approx(2.6e-8, rel=0.03)
    # Local cells of 10 degrees, filled by declinations printed to 0.1 degrees.
    binned = two_harmonic_dipole(auger_counts)
    np.testing.assert_allclose(binned.delta[:2], result.delta[:2], rtol=5e-3)
    assert binned.north == pytest.approx(result.north, abs=0.2 * result.north_error)
    np.testing.assert_allclose(np.sqrt(np.diag(binned.delta_covariance)), [0.0101, 0.0101, 0.0148], rtol=0.02)
    assert binned.mean_sin_zenith == pytest.approx(result.mean_sin_zenith, rel=5e-3)


@pytest.mark.parametrize("where", ["auger", "hawc"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_component_is_found_with_its_sign_in_either_hemisphere(where, axis):
    """One component at a time: the others stay zero. A sign of the latitude, or South for North, would show."""
    dipole = np.zeros(3)
    dipole[axis] = 1e-3
    isotropic = two_harmonic_dipole(tilted(where, (0, 0, 0))).delta
    np.testing.assert_allclose(isotropic, 0, atol=8e-4)
    change = two_harmonic_dipole(tilted(where, dipole)).delta - isotropic
    # Relative to the mean intensity; 1 + 1e-3 <sin dec> for the last.
    np.testing.assert_allclose(change, dipole, rtol=3e-3, atol=1e-6)


def test_delta_north_of_isotropy_vanishes_with_the_width_of_the_cells():
    counts = tilted("hawc", (0, 0, 0), RingGrid(180, 360), profile="triangle")
    assert abs(two_harmonic_dipole(counts).north) < 2e-4


def test_an_uneven_exposure_looks_like_a_dipole():
    """Said in the docstring: a rate 2 % higher at 6 h is not told from a dipole."""
    grid = RingGrid(60, 120)
    rate = 1000 * (1 + 0.02 * np.sin(grid.sidereal_time))
    assert two_harmonic_dipole(tilted("auger", (0, 0, 0), grid, rate)).delta[1] > 0.005


def test_local_sines_are_those_of_the_horizon_frame():
    """Against the transformation of single directions, away from the zenith, where a cell is not one direction."""
    grid = RingGrid(180, 360)
    for where in ("auger", "tibet"):
        latitude = site(where).latitude
        zenith, azimuth = (np.asarray(x) for x in horizon(grid.hour_angle, grid.declination[:, None], latitude))
        sine, north = local_sines(site(where), grid)
        far = (zenith > 0.2) & (zenith < np.pi - 0.2) & (np.abs(grid.declination[:, None]) < 1.5)
        np.testing.assert_allclose(sine[far], np.sin(zenith)[far], atol=5e-4)
        np.testing.assert_allclose(north[far], np.cos(azimuth)[far], atol=3e-3)
    # Cells of 10 degrees: means over a triangle in hour angle, by brute force, right at the zenith too.
    sine, north = local_sines(site("tibet"), GRID)
    rng = np.random.default_rng(1)
    ring, n = 12, 400_000  # 30 to 40 degrees North: it holds the zenith
    low, high = np.sin(np.radians((30, 40)))
    dec = np.arcsin(rng.uniform(low, high, n))
    hour = GRID.step * (rng.random(n) - rng.random(n))
    zenith, azimuth = (np.asarray(x) for x in horizon(hour, dec, site("tibet").latitude))
    assert sine[ring, 0] == pytest.approx(np.sin(zenith).mean(), rel=0.01)
    assert north[ring, 0] == pytest.approx(np.cos(azimuth).mean(), abs=0.02)


@pytest.mark.parametrize("weight_spread", [0.0, 0.8])
def test_pulls_of_the_two_harmonic_dipole(weight_spread):
    """Isotropic counts, 200 draws: the scatter is the error, of all three components, weighted or not."""
    place = site("auger")
    local = np.asarray(acceptance(place, GRID))
    results = [
        two_harmonic_dipole(drawn(place, GRID, local, np.full(36, 40.0), np.ones(GRID.shape), seed, weight_spread))
        for seed in range(200)
    ]
    pulls = np.array([r.delta / np.sqrt(np.diag(r.delta_covariance)) for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.16)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.22)
    assert abs(np.corrcoef(pulls.T)[np.triu_indices(3, 1)]).max() < 0.22
    assert np.mean([r.log10_p for r in results]) == pytest.approx(-1 / np.log(10), rel=0.25)


def test_sites_are_combined_by_their_precision():
    """Two sites with dipoles of their own: the mean by hand; the pole adds nothing to delta_N."""
    one, two = tilted("auger", (1e-3, 0, 2e-3)), tilted("hawc", (3e-3, 0, -2e-3), rate=np.full(120, 2000.0))
    pole = tilted("icecube", (1e-3, 0, 5e-3))
    a, b = two_harmonic_dipole(one), two_harmonic_dipole(two)
    both = two_harmonic_dipole(combine([one, two]))
    precision = [np.linalg.inv(r.delta_covariance) for r in (a, b)]
    mean = np.linalg.solve(sum(precision), precision[0] @ a.delta + precision[1] @ b.delta)
    np.testing.assert_allclose(both.delta, mean, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.inv(both.delta_covariance), sum(precision), rtol=1e-4, atol=1e-3)
    off = a.delta - b.delta
    assert both.chi2 == pytest.approx(off @ np.linalg.solve(a.delta_covariance + b.delta_covariance, off), rel=1e-3)
    assert both.ndf == 3
    joined = two_harmonic_dipole(combine([one, pole]))
    assert joined.north == pytest.approx(a.north, rel=1e-6)
    assert joined.north_error == pytest.approx(a.north_error, rel=1e-6)
    assert joined.covariance[0, 0] < a.covariance[0, 0]
    assert joined.ndf == 2


def test_what_an_estimate_says_of_itself():
    """Amplitude, phase and chance probability of a vector with unequal errors, by hand."""
    result = TwoHarmonicDipole(np.array([0.0, -3e-3, 4e-3]), np.diag([1e-6, 4e-6, 9e-6]), 0.8, 0.6, 100.0)
    assert result.amplitude == pytest.approx(3e-3)
    assert result.amplitude_error == pytest.approx(2e-3)
    assert result.right_ascension == pytest.approx(1.5 * np.pi)
    assert result.log10_p == pytest.approx(-((3 / 2) ** 2) / 2 / np.log(10))
    assert result.total_amplitude == pytest.approx(5e-3)
    assert result.declination == pytest.approx(np.arctan2(4, 3))
    assert (result.north, result.north_error) == pytest.approx((4e-3, 3e-3))
    assert result.dipole.upper_limit(0.95) > result.amplitude


def test_no_dipole_from_azimuth_where_there_is_none(auger_counts):
    with pytest.raises(InputError, match="at a pole the local azimuth says nothing of delta_N"):
        two_harmonic_dipole(tilted("icecube", (0, 0, 0)))
    one = np.ones(3)
    with pytest.raises(InputError, match="at a pole the local azimuth says nothing of delta_N"):
        two_harmonic_events(one, one, one, one, np.pi / 2)
    with pytest.raises(InputError, match="needs at least one event; the list is empty"):
        two_harmonic_events(one[:0], one[:0], one[:0], one[:0], 0.5)
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    empty = auger_counts.replace(w2={}, **{name: 0 * getattr(auger_counts, name) for name in names})
    with pytest.raises(InputError, match="harmonic analysis needs at least one event; the counts are empty"):
        two_harmonic_dipole(empty)
    with pytest.raises(InputError, match="no configuration measures every component"):
        combine_estimates([np.ones(2)], [np.diag([1.0, 0.0])])
