"""Constancy and drift of dipoles of periods: least squares by hand, simulated skies of known truth, the Auger list."""

import json

import numpy as np
import pytest
from diffcr.inference.stability import Estimate, stability, stability_of_counts, stability_of_events
from event_files import read
from helpers import drawn
from scipy import stats

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

COVARIANCE = np.array([[4e-4, 1e-4], [1e-4, 9e-4]])
YEARS = np.arange(2004.5, 2014)


def estimates(vectors, covariance=COVARIANCE, times=YEARS):
    return [
        Estimate(str(int(t)) if np.isfinite(t) else "season", float(t), v, covariance)
        for t, v in zip(times, vectors, strict=True)
    ]


def test_one_sky_is_weighted_least_squares():
    """Two periods by hand: equal covariances C give the mean, C / 2 and chi2 = d^T (2 C)^-1 d."""
    one, two = np.array([0.05, 0.01]), np.array([0.03, 0.04])
    found = stability(estimates([one, two], times=[2004.5, 2005.5]))
    np.testing.assert_allclose(found.mean, [0.04, 0.025])
    np.testing.assert_allclose(found.mean_covariance, COVARIANCE / 2)
    assert found.chi2 == pytest.approx((one - two) @ np.linalg.inv(2 * COVARIANCE) @ (one - two))
    assert found.degrees_of_freedom == 2
    assert found.p_value == pytest.approx(np.exp(-found.chi2 / 2))
    assert found.log10_p == pytest.approx(np.log10(found.p_value))
    assert (found.drift, found.drift_limit_95, found.drift_interval_95, found.drift_p_value) == (None,) * 4
    assert json.loads(json.dumps(found.as_dict()))["drift"] is None


def test_better_periods_weigh_more():
    parts = [Estimate("a", np.nan, np.array([0.0, 0.0]), np.eye(2)), Estimate("b", np.nan, np.ones(2), np.eye(2) / 3)]
    np.testing.assert_allclose(stability(parts).mean, [0.75, 0.75])


def test_a_line_is_that_of_stacked_least_squares():
    """All components in one whitened regression of numpy, with a different covariance each period."""
    rng = np.random.default_rng(1)
    parts, rows, values = [], [], []
    for year in YEARS:
        covariance = COVARIANCE * rng.uniform(0.5, 2)
        vector = rng.multivariate_normal([0.05 + 0.004 * (year - 2009), 0.02], covariance)
        parts.append(Estimate(str(year), float(year), vector, covariance))
        white = np.linalg.cholesky(np.linalg.inv(covariance)).T
        rows.append(white @ np.hstack([np.eye(2), (year - 2009) * np.eye(2)]))
        values.append(white @ vector)
    found = stability(parts)
    solution, residual, *_ = np.linalg.lstsq(np.vstack(rows), np.concatenate(values))
    np.testing.assert_allclose(found.drift.rate, solution[2:])
    assert found.chi2_drift == pytest.approx(residual[0])
    line = np.linalg.inv(np.vstack(rows).T @ np.vstack(rows))
    np.testing.assert_allclose(found.drift.covariance[2:, 2:], line[2:, 2:])
    low, high = found.drift_interval_95
    value, error = found.drift.along
    assert (low + high) / 2 == pytest.approx(value)
    assert high - low == pytest.approx(2 * 1.959964 * error)
    written = json.loads(json.dumps(found.as_dict()))["drift"]
    assert written["along_mean"] == pytest.approx(value)
    assert written["chi2"] == pytest.approx(residual[0])


def test_chances_are_uniform_and_limits_cover():
    """Constant skies, and skies that drift across their dipole: the vector limit must see what `along` cannot."""
    rng = np.random.default_rng(2)
    chances, drifts, covered, across = [], [], [], []
    rate = np.array([-0.008, 0.006])
    for _ in range(300):
        noise = rng.multivariate_normal([0, 0], COVARIANCE, len(YEARS))
        still = stability(estimates(np.array([0.3, 0.4]) + noise))
        chances.append(still.p_value)
        drifts.append(still.drift_p_value)
        moving = stability(estimates(np.array([0.3, 0.4]) + np.outer(YEARS - 2009, rate) + noise))
        covered.append(moving.drift_limit_95 >= np.hypot(*rate))
        across.append(moving.drift.along[0])
    assert stats.kstest(chances, "uniform").pvalue > 0.01
    assert stats.kstest(drifts, "uniform").pvalue > 0.01
    assert np.mean(covered) > 0.92
    assert abs(np.mean(across)) < 1e-3


def test_a_dipole_that_turns_is_not_constant():
    angle = np.linspace(0, np.pi, len(YEARS))
    found = stability(estimates(0.2 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)))
    assert found.log10_p < -20
    assert found.chi2_drift < found.chi2


def simulated(amplitude, seed=3, num=40000):
    """Events of four years whose dipole towards 90 degrees has the amplitude amplitude(day)."""
    rng = np.random.default_rng(seed)
    days = rng.uniform(0, 4 * 365.25, 2 * num) + 366  # from 2001
    ra, dec = rng.uniform(0, 2 * np.pi, 2 * num), np.arcsin(rng.uniform(-1, 0.7, 2 * num))
    keep = 2 * rng.random(2 * num) < 1 + amplitude(days) * np.cos(dec) * np.sin(ra)
    return days[keep], ra[keep], dec[keep]


def test_the_amplitude_and_its_drift_are_recovered_from_events():
    """A dipole that grows from 0 to 0.4 in four years grows by 0.1 a year, times <cos^2> / <cos>^2."""
    days, ra, dec = simulated(lambda t: 0.4 * (t - 366) / (4 * 365.25))
    found = stability_of_events(days, ra, dec)
    assert [e.label for e in found.estimates[:4]] == ["2001", "2002", "2003", "2004"]
    scale = np.mean(np.cos(dec) ** 2) / np.mean(np.cos(dec)) ** 2
    value, error = found.drift.along
    assert value == pytest.approx(0.1 * scale, abs=4 * error)
    assert error < 0.01
    assert found.p_value < 1e-6
    assert found.chi2_drift < 30
    assert found.drift_interval_95[0] > 0
    assert np.degrees(np.arctan2(*found.mean[::-1])) == pytest.approx(90, abs=10)


def test_seasons_fold_the_years():
    """A dipole in the northern winter only: December to February, across the turn of the year."""

    def winter(days):
        month = (np.datetime64("2000-01-01") + np.floor(days + 0.5).astype("m8[D]")).astype("M8[M]").astype(int) % 12
        return np.where(np.isin(month, [11, 0, 1]), 0.5, 0.0)

    days, ra, dec = simulated(winter)
    found = stability_of_events(days, ra, dec, period="season")
    assert [e.label for e in found.estimates] == ["December-February", "March-May", "June-August", "September-November"]
    sizes = [np.hypot(*e.vector) / np.sqrt(e.covariance[0, 0]) for e in found.estimates]
    assert sizes[0] > 20
    assert max(sizes[1:]) < 4
    assert found.drift is None
    months = stability_of_events(days, ra, dec, period="month")
    strong = [e.label for e in months.estimates if np.hypot(*e.vector) > 10 * np.sqrt(e.covariance[0, 0])]
    assert strong == ["1", "2", "12"]


def test_errors_follow_the_weights():
    """Scaling all weights changes nothing; weights that scatter by a factor w make errors sqrt(<w^2>) / <w> larger."""
    days, ra, dec = simulated(lambda t: 0.1, num=4000)
    weights = np.where(np.arange(len(ra)) % 2, 3.0, 1.0)
    plain, twice = stability_of_events(days, ra, dec), stability_of_events(days, ra, dec, 2 * np.ones(len(ra)))
    assert twice.drift.along == pytest.approx(plain.drift.along)
    uneven = stability_of_events(days, ra, dec, weights)
    assert uneven.drift.along[1] / plain.drift.along[1] == pytest.approx(np.sqrt(5) / 2, rel=0.02)


def test_the_shipped_list_does_not_drift():
    """Calendar years, weighted: (-0.13 +- 0.32) % per year; published with six more years, below 0.3 % at 95 %."""
    chunk, _ = read("dataset:auger-8eev")
    found = stability_of_events(chunk.days, chunk.ra, chunk.dec, chunk.weight)
    assert len(found.estimates) == 13
    assert sum(e.label == "2016" for e in found.estimates) == 1
    value, error = found.drift.along
    assert value == pytest.approx(-0.0015, abs=0.0003)
    assert error == pytest.approx(0.0032, abs=0.0001)
    np.testing.assert_allclose(np.hypot(*found.mean), 0.0596, atol=0.0005)
    assert found.p_value > 0.5
    low, high = found.drift_interval_95
    assert low < 0 < high
    seasons = stability_of_events(chunk.days, chunk.ra, chunk.dec, chunk.weight, "season")
    assert seasons.p_value > 0.01


def test_epochs_of_counts_are_fitted_one_by_one():
    """Three epochs with their own rates and acceptances, the second with another dipole."""
    grid, place = RingGrid(12, 24), site("hawc")
    rng = np.random.default_rng(5)
    wide = np.abs(np.degrees(grid.declination) - 20) < 45
    parts = []
    for k, truth in enumerate([(0.1, 0.0), (0.1, 0.1), (0.1, 0.0)]):
        local = np.outer(wide * np.cos(grid.declination), (np.cos(grid.hour_angle) > 0.6) * (1 + 0.1 * k))
        local = local * rng.uniform(0.8, 1.2, grid.shape)
        rate = 2e4 * (1 + 0.3 * np.cos(grid.sidereal_time - k))
        sky = 1 + np.outer(np.cos(grid.declination), truth[0] * np.cos(grid.right_ascension))
        sky += np.outer(np.cos(grid.declination), truth[1] * np.sin(grid.right_ascension))
        parts.append(drawn(place, grid, local / local.sum(), rate, sky, k, epoch_year=2010.5 + k))
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")
    joined = {name: np.concatenate([getattr(p, name) for p in parts], axis=2) for name in names}
    counts = parts[0].replace(epochs=("a", "b", "c"), **joined)
    found = stability_of_counts(counts)
    assert [e.label for e in found.estimates] == ["a", "b", "c"]
    np.testing.assert_allclose([e.time for e in found.estimates], [2010.5, 2011.5, 2012.5])
    for estimate, truth in zip(found.estimates, [(0.1, 0.0), (0.1, 0.1), (0.1, 0.0)], strict=True):
        off = estimate.vector - truth
        assert off @ np.linalg.solve(estimate.covariance, off) < 14
    assert found.p_value < 1e-4
    assert found.drift is not None
    empty = counts.replace(
        **{
            n: np.where(np.arange(3).reshape(3, *[1] * (joined[n].ndim - 3)) == 0, joined[n], 0)
            for n in ("n_sky", "n_time", "n_local", "n_half", "num_events")
        }
    )
    with pytest.raises(InputError, match="at least two periods with events, there are 1"):
        stability_of_counts(empty)


def test_wrong_input_is_refused():
    days = np.array([0.0, 400.0])
    with pytest.raises(InputError, match="unknown period 'week': choose one of year, season, month"):
        stability_of_events(days, days, 0 * days, period="week")
    with pytest.raises(InputError, match="at least two periods with events, there are 0"):
        stability_of_events(days, days, 0 * days)
    with pytest.raises(InputError, match="period 2005 has no positive definite covariance"):
        stability(estimates([np.zeros(2)] * 2, np.zeros((2, 2)), [2005.5, 2006.5]))
