"""Errors, limits and significances against simulated skies: drawn on the grid, and event by event."""

import numpy as np
import pytest
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.calibration import Toys, dipole_toys
from diffcr.inference.events import EventChunk
from diffcr.inference.fit import fit
from diffcr.inference.simulate import Simulation, simulate_events
from scipy import stats

from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.rate import RateModel, rate
from diffcr.site import site

GRID = RingGrid(18, 36)
SKIES = 200
# Name, acceptance, events, dipole, scatter of one component times sqrt(N) as tabulated for free rate and acceptance.
SETUPS = {"auger": ({}, 3e4, (-0.011, 0.059), 2.374), "hawc": ({"power": 4.0}, 1e10, (6e-4, -3e-4), 3.58)}


def toys(name, dipole, seed, num_toys=SKIES, **options) -> Toys:
    model, events, *_ = SETUPS[name]
    local = np.asarray(acceptance(site(name), GRID, **model))
    expected = np.asarray(rate(GRID, events, harmonics=[(1, 0.1, 1.0), (2, 0.05, 2.0)]))
    return dipole_toys(GRID, local, expected, dipole, num_toys, seed, **options)


def assert_calibrated(pulls):
    """Mean and width of each component within four standard deviations."""
    number = len(pulls)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=4 / np.sqrt(number))
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=4 / np.sqrt(2 * number))


@pytest.mark.parametrize("name", SETUPS)
def test_errors_and_limits_are_calibrated_for_a_dipole(name):
    _, events, truth, scale = SETUPS[name]
    found = toys(name, truth, seed=11)
    assert found.converged.all()
    assert_calibrated(found.pulls)
    np.testing.assert_allclose(found.estimates.std(axis=0) * np.sqrt(events), scale, rtol=0.22)
    # 95 % of 200: three standard deviations of the binomial are 4.6 %; the ellipse's 68 % has 10 %.
    assert found.limit_coverage(0.95) == pytest.approx(0.95, abs=0.05)
    assert found.interval_coverage(0.68) == pytest.approx(0.68, abs=0.10)


@pytest.mark.parametrize("name", SETUPS)
def test_test_statistic_is_chi_squared_without_a_dipole(name):
    found = toys(name, (0.0, 0.0), seed=12)
    assert_calibrated(found.pulls)
    assert found.chi2_p_value() > 1e-3
    # No limit can lie below nothing.
    assert found.limit_coverage(0.95) == 1.0


@pytest.mark.slow
def test_weighted_skies_are_calibrated():
    """Log-normal weights of spread 0.8: without the sandwich the pulls would be 1.4 wide."""
    found = toys("auger", (0.0, 0.0), 13, num_toys=150, weight_spread=0.8)
    assert found.converged.all()
    assert_calibrated(found.pulls)
    assert found.chi2_p_value() > 1e-3


def test_summaries_of_toys_by_hand():
    """Truth (3, 4), estimates off by known numbers of standard deviations."""
    covariance = np.array([[4.0, 0.0], [0.0, 1.0]])
    steps = np.array([[2.0, 0.0], [0.0, -1.0], [4.0, 2.0], [0.0, 0.0]])
    found = Toys(np.array([3.0, 4.0]), steps + [3.0, 4.0], np.array([covariance] * 4), np.zeros(4), np.ones(4, bool))
    np.testing.assert_allclose(found.pulls, [[1, 0], [0, -1], [2, 2], [0, 0]])
    # chi2 1, 1, 8 and 0 against 2.28 (68 %) and 9.2 (99 %).
    assert found.interval_coverage(0.68) == 0.75
    assert found.interval_coverage(0.99) == 1.0
    assert found.chi2_p_value() < 0.01
    exact = Toys(
        found.truth,
        found.estimates,
        found.covariances,
        stats.chi2(2).ppf(np.arange(0.5, 100) / 100),
        found.converged,
    )
    assert exact.chi2_p_value() > 0.99


def test_limit_coverage_counts_limits_above_the_truth():
    """An amplitude 1.645 sigma below a large truth is where its 95 % limit ends."""
    truth = np.array([100.0, 0.0])
    estimates = truth + np.array([[-1.60, 0.0], [-1.70, 0.0], [0.0, 0.0], [3.0, 0.0]])
    found = Toys(truth, estimates, np.array([np.eye(2)] * 4), np.zeros(4), np.ones(4, bool))
    assert found.limit_coverage(0.95) == 0.75


@pytest.mark.slow
def test_skies_follow_the_seed_and_a_last_batch_may_be_short():
    one, other, third = (toys("auger", (0.0, 0.0), seed, n).estimates for seed, n in ((11, 60), (11, 50), (12, 50)))
    np.testing.assert_allclose(one[:50], other, atol=1e-10)
    assert len(one) == 60
    assert np.abs(one[:50] - third).min() > 0


def test_event_lists_are_calibrated_with_the_moments_of_the_events():
    """One long list dealt out at random into 80 of 2500 events each, which makes them independent; each is binned and
    fitted with the directions of its own events, which `dipole_toys` does not do."""
    lists, truth = 80, np.array([0.3, -0.2, 0.0])
    place = site("auger", np.radians(75))
    simulation = Simulation(
        place,
        2500.0 * lists,
        tuple(truth),
        rate=RateModel(diurnal=0.2, seasonal=0.1, modulation=1.0),
        acceptance={"azimuth_terms": ((1, 0.1, 0.5),)},
    )
    (chunk,) = simulate_events(simulation, 21)
    owner = np.random.default_rng(22).integers(0, lists, len(chunk.days))
    pulls, cells = [], []
    for k in range(lists):
        own = EventChunk(*(x[owner == k] if isinstance(x, np.ndarray) else x for x in chunk))
        counts = bin_chunks([own], place, BinningOptions(grid=GRID))
        result = fit(counts, rate_bins=12).require_converged()
        errors = np.sqrt(np.diag(result.dipole.covariance))
        pulls.append((result.dipole.delta - truth[:2]) / errors)
        without = fit(counts.replace(moments=None), rate_bins=12)
        cells.append((result.dipole.delta - without.dipole.delta) / errors)
    assert_calibrated(np.array(pulls))
    # The moments were used, and they move the estimate by less than its error.
    assert 1e-3 < np.std(cells) < 0.5
