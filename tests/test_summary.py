"""Numbers of a posterior, on draws whose answer is known."""

import numpy as np
import pytest
from diffcr.inference.posterior import distance, fold_axis
from diffcr.inference.summary import describe, highest_density
from scipy import stats


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(1).standard_normal((4, 5000))


def test_moments_and_intervals_of_a_normal(normal):
    entry = describe(3 + 2 * normal)
    assert entry["mean"] == pytest.approx(3, abs=0.06)
    assert entry["sd"] == pytest.approx(2, rel=0.02)
    assert entry["hdi_68"] == pytest.approx([3 - 2 * 0.9945, 3 + 2 * 0.9945], abs=0.15)
    assert entry["hdi_95"] == pytest.approx([3 - 2 * 1.96, 3 + 2 * 1.96], abs=0.2)
    assert entry["r_hat"] < 1.002
    assert 15000 < entry["ess_bulk"] < 25000


def test_the_highest_density_interval_of_an_exponential_starts_at_zero():
    """The equal-tailed one would leave out its densest part."""
    draws = np.random.default_rng(2).exponential(size=40000)
    low, high = highest_density(draws, 0.68)
    assert low < 0.01
    assert high == pytest.approx(-np.log(0.32), rel=0.03)


def test_a_right_ascension_across_the_seam_is_averaged_on_the_circle(normal):
    entry = describe((2 + 5 * normal) % 360, circular=True)
    assert entry["mean"] == pytest.approx(2, abs=0.2)
    assert entry["sd"] == pytest.approx(5, rel=0.03)
    assert entry["hdi_68"][1] - entry["hdi_68"][0] == pytest.approx(2 * 5 * 0.9945, rel=0.05)
    below = describe((-2 + 5 * normal) % 360, circular=True)
    assert below["mean"] == pytest.approx(358, abs=0.2)


def test_chains_that_disagree_have_a_large_r_hat(normal):
    apart = normal + np.array([0, 0, 0, 3])[:, None]
    assert describe(apart)["r_hat"] > 1.2


def test_constants_do_not_break_the_diagnostics():
    assert describe(np.ones((2, 50)))["r_hat"] == 1.0


def test_distance_is_that_of_kolmogorov_and_smirnov(normal):
    rng = np.random.default_rng(3)
    before = rng.standard_normal((1, 4000))
    after = 0.5 * normal[:, :1000] + 0.3
    expected = stats.ks_2samp(before.ravel(), after.ravel()).statistic
    assert distance(before, after) == pytest.approx(expected, abs=1e-12)
    pairs = np.stack([after, np.full_like(after, np.nan)], axis=-1)
    both = distance(np.stack([before, np.full_like(before, np.nan)], axis=-1), pairs)
    assert both[0] == pytest.approx(expected)
    assert np.isnan(both[1])


def test_the_same_distribution_is_not_moved(normal):
    other = np.random.default_rng(4).standard_normal((1, 4000))
    assert distance(other, normal) < 0.04


@pytest.mark.parametrize("seam", [0.0, 90.0, 200.0, 300.0])
def test_an_axis_is_folded_about_itself(seam):
    """Random signs of a spot about an axis: after folding the spot is one, wherever the axis lies."""
    rng = np.random.default_rng(5)
    turn = np.radians(seam)
    centre = np.array([np.cos(turn), np.sin(turn), 0.4])
    spot = centre + 0.05 * rng.standard_normal((2, 500, 3))
    spot /= np.linalg.norm(spot, axis=-1, keepdims=True)
    folded = fold_axis(spot * rng.choice([-1.0, 1.0], (2, 500, 1)))
    mean = folded["field_axis"].mean(axis=(0, 1))
    assert np.linalg.norm(mean) > 0.99
    assert abs(mean @ centre) / np.linalg.norm(centre) / np.linalg.norm(mean) > 0.999
    assert np.all(folded["field_axis"] @ mean > 0.5)
    sign = np.sign(mean @ centre)
    declination = np.degrees(np.arcsin(0.4 / np.linalg.norm(centre)))
    assert folded["field_axis_declination_deg"].mean() == pytest.approx(sign * declination, abs=1)
