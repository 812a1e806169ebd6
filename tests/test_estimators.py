"""The Rayleigh analysis: published numbers of the Auger list, its noise, and binned against unbinned."""

import numpy as np
import pytest
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.estimators import RayleighResult, rayleigh, rayleigh_of_counts
from event_files import read

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

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
