"""Post-trial significance: effective trials, chance probabilities far out, and the isotropic skies behind them."""

import mpmath
import numpy as np
import pytest
from diffcr.inference.discs import DiscScan
from diffcr.inference.maps import exposures
from diffcr.inference.post_trial import _FEW_EVENTS, PostTrial, draw_isotropic, draw_sky, isotropic_maxima
from helpers import asimov
from scipy import stats

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

HAWC = Site("HAWC", np.radians(19.0), 0.0, np.radians(57.0))
GRID = RingGrid(12, 24)


def seen(events: float, rate_bins=None):
    dec, hour = GRID.declination[:, None], GRID.hour_angle
    cosine = np.sin(HAWC.latitude) * np.sin(dec) + np.cos(HAWC.latitude) * np.cos(dec) * np.cos(hour)
    # Lopsided, so that a mirrored hour angle shows.
    local = np.where(cosine > np.cos(HAWC.zenith_max), cosine * (1 + 0.3 * np.sin(hour)), 0) * np.cos(dec)
    rate = 1 + 0.4 * np.cos(GRID.sidereal_time - 1) + 0.2 * np.sin(2 * GRID.sidereal_time)
    return exposures(
        asimov(HAWC, GRID, local / local.sum(), events * rate / rate.sum(), np.ones(GRID.shape)), rate_bins
    )


# Probabilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 30, 2000])
def test_the_tail_of_independent_normals_has_their_number(trials):
    rng = np.random.default_rng(trials)
    maxima = np.array([rng.standard_normal(trials).max() for _ in range(2000)])
    number, gamma = PostTrial(3.0, maxima).tail
    assert gamma == pytest.approx(1, abs=4 * 0.78 / np.sqrt(2000))
    assert np.log(number) == pytest.approx(np.log(trials), abs=0.09 * (1 + np.log(trials)))


def test_the_tail_follows_discs_that_are_more_independent_the_higher_the_threshold():
    """Maxima of a rough process, a running sum of normals: the fitted tail errs towards larger chances."""
    rng = np.random.default_rng(8)
    width, length = 20, 400
    sums = np.cumsum(rng.standard_normal((20000, length + width)), axis=1)
    maxima = ((sums[:, width:] - sums[:, :-width]) / np.sqrt(width)).max(axis=1)
    level = np.quantile(maxima, 0.995)
    few = PostTrial(float(level), maxima[:600])
    assert 0.004 < 10**few.log10_p_tail < 0.015


def test_the_chance_is_that_of_direct_counting():
    """40 independent discs: one as hot as 2.5 in 1 - (1 - p)^40 of the skies, by formula and by count."""
    rng = np.random.default_rng(5)
    result = PostTrial(2.5, rng.standard_normal((20000, 40)).max(axis=1))
    exact = 1 - stats.norm.cdf(2.5) ** 40
    assert result.larger == int((result.maxima >= 2.5).sum())
    assert result.fraction == pytest.approx(exact, abs=4 * np.sqrt(exact / 20000))
    assert 10**result.log10_p == pytest.approx(exact, rel=0.05)
    assert result.significance == pytest.approx(stats.norm.isf(exact), abs=0.03)
    assert result.upper_limit_95 == pytest.approx(
        stats.beta.ppf(0.95, result.larger + 1, 20000 - result.larger), rel=1e-9
    )


def test_the_coldest_counts_as_the_hottest_does():
    maxima = np.array([2.0, 3.0, 4.0, 1.0])
    cold, hot = PostTrial(-3.5, maxima), PostTrial(3.5, maxima)
    assert (cold.larger, cold.log10_p, cold.significance) == (hot.larger, hot.log10_p, hot.significance)
    assert hot.larger == 1 and PostTrial(3.0, maxima).larger == 2


def test_more_trials_are_less_significant():
    one, many = (PostTrial(4.0, np.random.default_rng(0).standard_normal((300, n)).max(1)) for n in (2, 500))
    assert stats.norm.isf(10**many.log10_p) < stats.norm.isf(10**one.log10_p) < 4.0
    # A maximum that every sky exceeds has a chance above one half, and a negative significance.
    assert PostTrial(1.0, many.maxima).significance < 0


@pytest.mark.parametrize("strongest", [0.5, 3.0, 6.5, 8.0, 20.0, 37.0, 60.0])
def test_the_chance_holds_far_out(strongest):
    """1 - (1 - p)^T in fifty digits; p = 1e-780 at 60 sigma is below what a float holds."""
    result = PostTrial(strongest, np.random.default_rng(1).standard_normal((400, 100)).max(1))
    with mpmath.workdps(60):
        p = mpmath.erfc(mpmath.mpf(strongest) / mpmath.sqrt(2)) / 2
        # With so small a p the power cancels even here: -expm1(T log1p(-p)).
        number, gamma = result.tail
        exact = float(mpmath.log10(-mpmath.expm1(-number * (-mpmath.log1p(-p)) ** gamma)))
    assert result.log10_p_tail == pytest.approx(exact, rel=1e-8, abs=1e-12)
    assert result.counted == (strongest < 3.2)
    if strongest > 7:
        assert result.significance == pytest.approx(strongest, rel=0.15)


def test_no_sky_as_strong_leaves_the_upper_limit_of_none():
    """0 of 200: 95 % limit 1 - 0.05^(1/200); all of 200: 1."""
    maxima = np.linspace(2, 4, 200)
    assert PostTrial(9.0, maxima).upper_limit_95 == pytest.approx(1 - 0.05 ** (1 / 200), rel=1e-9)
    assert PostTrial(1.0, maxima).upper_limit_95 == pytest.approx(1.0, abs=1e-6)


# Isotropic skies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [3e4, 4e6, 2e10])
def test_marginals_are_of_the_same_events_and_isotropic(events):
    """Below, above the limit of single events, and where Poisson numbers are drawn as normal ones."""
    (e,) = seen(events)
    assert (events < _FEW_EVENTS) == (events == 3e4)
    rng = np.random.default_rng(3)
    skies = [draw_isotropic(e, rng) for _ in range(60)]
    for sky, time, local in skies[:3]:
        assert sky.sum() == pytest.approx(time.sum()) == pytest.approx(local.sum())
        np.testing.assert_allclose(sky.sum(1), local.sum(1))
        assert np.all(sky == np.rint(sky)) and np.all(local[e.local == 0] == 0)
    for drawn, expected in zip(zip(*skies, strict=True), (e.background, e.rate * e.total, e.local), strict=True):
        drawn, kept = np.array(drawn), expected > 5
        pulls = (drawn - expected)[:, kept] / np.sqrt(expected[kept])
        error = np.sqrt(2 / pulls.size)
        # Mean of the expectation and Poisson variance, the total among it.
        assert np.mean(pulls**2) == pytest.approx(1, abs=5 * error)
        assert np.abs(pulls.mean(0)).max() * np.sqrt(60) < 5
    totals = np.array([time.sum() for _, time, _ in skies])
    assert totals.std() == pytest.approx(np.sqrt(e.total), rel=0.35)


def test_skies_follow_the_rule_of_the_grid():
    """One event's right ascension bin is time minus hour angle: one live hour and one open cell leave one bin."""
    for events in (1e4, 1e7):
        rate, local = np.zeros(24), np.zeros(GRID.shape)
        rate[9], local[6, 4] = events, 1.0
        (e,) = exposures(asimov(HAWC, GRID, local, rate, np.ones(GRID.shape)))
        sky, time, drawn = draw_isotropic(e, np.random.default_rng(0))
        assert sky[6, 5] == time[9] == drawn[6, 4] == sky.sum() > 0.9 * events


def test_each_sky_is_judged_from_its_own_marginals():
    """The background follows the sky's own rates: the sum is that of the drawn events, over groups of bins too."""
    parts = seen(1e5, 6)
    sky, background = draw_sky(parts, np.random.default_rng(0))
    assert background.sum() == pytest.approx(sky.sum(), rel=1e-12)
    # The ring sums are the local map's, which are the sky's own.
    np.testing.assert_allclose(background.sum(1), sky.sum(1), rtol=1e-9, atol=1e-6)
    assert not np.allclose(background.sum(1), parts[0].background.sum(1), rtol=1e-4)


def test_maxima_are_those_of_the_significance():
    parts = [*seen(4e4), *seen(2e4)]
    scan = DiscScan(parts, GRID, np.radians(25))
    told = []
    high, low = isotropic_maxima(scan, 37, np.random.default_rng(4), told.append)
    assert high.shape == low.shape == (37,) and sum(told) == 37
    rng = np.random.default_rng(4)
    values = [scan.significance(*scan.null_sums(*draw_sky(parts, rng)))[0] for _ in range(37)]
    np.testing.assert_allclose(high, [np.nanmax(v) for v in values])
    np.testing.assert_allclose(low, [np.nanmin(v) for v in values])
    # Hot and cold alike.
    assert abs(np.mean(high) + np.mean(low)) < 0.5
    again = isotropic_maxima(scan, 37, np.random.default_rng(4))
    np.testing.assert_array_equal(high, again[0])


def test_trials_grow_as_discs_shrink():
    parts = seen(4e4)
    trials = []
    for radius in (60, 30, 15):
        scan = DiscScan(parts, GRID, np.radians(radius))
        high, _ = isotropic_maxima(scan, 80, np.random.default_rng(1))
        trials.append(np.median(high))
    assert trials[0] < trials[1] < trials[2]


def test_nothing_to_judge_is_refused():
    scan = DiscScan(seen(1e5), GRID, np.radians(25))
    with pytest.raises(InputError, match="number of isotropic skies must be at least 1, not 0"):
        isotropic_maxima(scan, 0, np.random.default_rng(0))
    poor = DiscScan(seen(20), GRID, np.radians(5))
    with pytest.raises(InputError, match="no disc has enough exposure to be judged: use another --smoothing"):
        isotropic_maxima(poor, 3, np.random.default_rng(0))


@pytest.mark.slow
def test_post_trial_chances_of_isotropic_skies_are_uniform():
    """The hottest disc of other isotropic skies: a chance probability of x in a fraction x of them."""
    parts = seen(4e4)
    scan = DiscScan(parts, GRID, np.radians(20))
    maxima, _ = isotropic_maxima(scan, 500, np.random.default_rng(1))
    others, _ = isotropic_maxima(scan, 300, np.random.default_rng(2))
    chances = np.array([10 ** PostTrial(x, maxima).log10_p for x in others])
    assert stats.kstest(chances, "uniform").pvalue > 1e-3
