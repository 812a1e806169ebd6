"""What toys say of p-values, pulls and coverage, against numbers known without them."""

import dataclasses
import math
import re

import numpy as np
import pytest
import xarray as xr
from diffcr.inference.dipole import Dipole
from diffcr.inference.plots import save
from diffcr.inference.toy_limits import limits_hold
from diffcr.inference.toy_plan import ToyPlan
from diffcr.inference.toys import ToyResult
from diffcr.inference.toys_output import dataset, write_toys
from diffcr.inference.toys_plots import figures
from diffcr.inference.toys_report import (
    Observed,
    calibration,
    detection,
    distribution,
    p_value,
    problems,
    share,
    summarise,
    tail,
)
from scipy import stats

from diffcr.errors import FitError
from diffcr.grid import RingGrid

GRID = RingGrid(4, 4)
PLAN = ToyPlan(GRID, ("X",), np.full((1, 4), 25.0), np.full((1, 4, 4), 1 / 16), toys=20_000)
DIPOLE = PLAN.replace(dipole=(0.3, 0.4))
ERRORS = (0.1, 0.08)


def normal_toys(plan=PLAN, number=20_000, seed=1, off=0.0, width=1.0, ts=None) -> ToyResult:
    """Estimates with the errors they say, off by so many errors and scattering `width` times as much."""
    rng = np.random.default_rng(seed)
    covariance = np.array(
        [[ERRORS[0] ** 2, 0.2 * ERRORS[0] * ERRORS[1]], [0.2 * ERRORS[0] * ERRORS[1], ERRORS[1] ** 2]]
    )
    noise = rng.standard_normal((number, 2)) @ np.linalg.cholesky(covariance).T
    estimates = np.array(plan.dipole) + width * noise + off * np.array(ERRORS)
    statistics = np.einsum("ti,ij,tj->t", estimates, np.linalg.inv(covariance), estimates)
    rows = np.tile(covariance[[0, 0, 1], [0, 1, 1]], (number, 1))
    plan = plan.replace(toys=number)
    return ToyResult(plan, estimates, rows, statistics if ts is None else ts, np.ones(number, bool), 2.0)


def test_intervals_of_shares_are_those_of_clopper_and_pearson():
    """None of n: the upper end is 1 - 0.025^(1/n); all of n: its mirror image; 10 of 20: 0.272 to 0.728 in tables."""
    none, all_ = share(0, 50), share(50, 50)
    np.testing.assert_allclose([none["low_95"], none["high_95"]], [0, 1 - 0.025 ** (1 / 50)])
    np.testing.assert_allclose([all_["low_95"], all_["high_95"]], [0.025 ** (1 / 50), 1])
    half = share(10, 20)
    np.testing.assert_allclose([half["share"], half["low_95"], half["high_95"]], [0.5, 0.272, 0.728], atol=5e-4)


def test_p_values_count_the_toys_above_and_the_data():
    result = normal_toys(number=99, ts=np.arange(99.0))
    found = p_value(result, 90.0)
    assert (found["toys_above"], found["toys"]) == (9, 99)
    assert found["p"] == pytest.approx(0.10)
    assert found["p_low_95"] < 0.09 < found["p_high_95"]
    assert found["p_chi2"] == pytest.approx(np.exp(-45))
    assert found["significance_sigma"] == pytest.approx(1.6449, abs=1e-4)
    # Never zero, however significant.
    assert p_value(result, 1e6)["p"] == pytest.approx(0.01)
    assert p_value(result, 1e6)["log10_p_chi2"] == pytest.approx(-5e5 / np.log(10))
    # A toy without a maximum might have been above.
    result.converged[:5] = False
    assert p_value(result, 90.0)["toys_above"] == 14


def test_the_tail_is_counted_as_far_as_toys_reach():
    """Exact quantiles of chi-squared: as many above as there should be, to one."""
    number = 2000
    result = normal_toys(number=number, ts=stats.chi2(2).ppf((np.arange(number) + 0.5) / number))
    rows = tail(result)
    assert [row["p_chi2"] for row in rows] == [0.3173, 0.1, 0.0455, 0.01, 2.7e-3, 1e-3]
    for row in rows:
        assert abs(row["count"] - row["p_chi2"] * number) <= 1
        assert row["low_95"] < row["p_chi2"] < row["high_95"]
        assert row["test_statistic"] == pytest.approx(-2 * np.log(row["p_chi2"]))
    found = distribution(result)
    assert found["kolmogorov_smirnov_p"] > 0.999
    assert found["mean"] == pytest.approx(2, abs=0.01)
    assert found["quantiles"]["0.9"] == pytest.approx(found["quantiles_chi2"]["0.9"], rel=0.01)
    assert distribution(normal_toys(number=number, ts=2.2 * result.test_statistics))["kolmogorov_smirnov_p"] < 1e-6


@pytest.mark.parametrize("plan", [PLAN, DIPOLE])
def test_normal_estimates_are_calibrated(plan):
    """Pulls of mean 0 and width 1, 68.3 and 95 % inside, limits above a true dipole in 95 and 99 %; none below no
    dipole. Binomial errors of 20000 are 0.33, 0.15 and 0.07 %."""
    found = calibration(normal_toys(plan))
    for k, name in enumerate(("delta_0h", "delta_6h")):
        entry = found[name]
        assert abs(entry["pull_mean"]) < 4 * entry["pull_mean_error"] == pytest.approx(4 / np.sqrt(20_000), rel=0.05)
        assert abs(entry["pull_width"] - 1) < 4 * entry["pull_width_error"]
        assert entry["pull_width_error"] == pytest.approx(1 / np.sqrt(40_000), rel=0.05)
        assert entry["scatter"] == pytest.approx(ERRORS[k], rel=0.03)
        assert entry["mean_reported_error"] == pytest.approx(ERRORS[k])
        assert abs(entry["bias"]) < 4 * entry["bias_error"]
        assert entry["coverage"]["68"]["share"] == pytest.approx(0.6827, abs=0.013)
        assert entry["coverage"]["95"]["share"] == pytest.approx(0.95, abs=0.003)
    assert found["coverage_ellipse"]["68"]["share"] == pytest.approx(0.6827, abs=0.013)
    assert found["coverage_ellipse"]["95"]["share"] == pytest.approx(0.95, abs=0.003)
    limits = {level: entry["share"] for level, entry in found["coverage_upper_limit"].items()}
    # The true vector is not along the worse axis: limits are a little wide.
    expected = {"95": 1, "99": 1} if plan is PLAN else {"95": 0.95, "99": 0.99}
    assert limits == pytest.approx(expected, abs=0.02)
    assert found["amplitude"]["truth"] == pytest.approx(np.hypot(*plan.dipole))


@pytest.mark.parametrize("ratio", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("level", [0.68, 0.95])
def test_limits_hold_where_the_limit_itself_is_above_the_truth(ratio, level):
    """Truths from nothing to six standard deviations; each limit found as the root that it is."""
    rng = np.random.default_rng(4)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    covariance = turn @ np.diag([0.04, 0.04 * ratio**2]) @ turn.T
    estimates = rng.uniform(0, 0.7, (40, 1)) * np.array([[0.3, 0.95]])
    limits = np.array([Dipole(each, covariance).upper_limit(level) for each in estimates])
    for truth in (0.0, 0.1, 0.35, 0.6, 1.2):
        held = limits_hold(estimates, np.array([covariance] * 40), truth, level)
        sure = np.abs(limits - truth) > 1e-6
        np.testing.assert_array_equal(held[sure], (limits >= truth)[sure])


def test_detections_are_counted():
    """3 and 5 sigma of chi-squared with two degrees of freedom are 11.83 and 28.74."""
    result = normal_toys(DIPOLE, number=10, ts=np.array([1, 5, 11.8, 11.9, 20, 28.7, 28.8, 30, 40, 50.0]))
    found = detection(result)
    assert found["3_sigma"]["share"] == pytest.approx(0.7)
    assert found["5_sigma"]["share"] == pytest.approx(0.4)
    assert found["median_test_statistic"] == pytest.approx(24.35)


def test_problems_are_told_where_they_are_large_and_beyond_chance():
    good = summarise(normal_toys(), normal_toys(DIPOLE, seed=2))
    assert good["problems"] == []
    assert good["converged"]
    bad = summarise(normal_toys(width=1.2), normal_toys(DIPOLE, seed=2, off=-0.3))
    text = " | ".join(bad["problems"])
    assert "delta_6h of isotropic skies scatters by 1.20 times its error" in text
    assert re.search(r"delta_6h of skies with the dipole is off by -0\.(29|30|31) of its error", text)
    assert "of isotropic skies exceed a test statistic of 11.8, chi-squared has 0.0027" in text
    # A width of 1.2 in 20 toys is chance.
    assert problems(summarise(normal_toys(number=20, width=1.2))) == []


@pytest.mark.parametrize("number", [100, 1000, 3000])
def test_toys_that_follow_chi_squared_are_no_problem(number):
    """At 6e-5 for each of at most 20 tails fewer than 1 in 800 runs is told one by chance; of 300 good runs two or more
    in 1 of 20."""
    rng = np.random.default_rng(number)
    pulls = normal_toys(number=number)
    told = 0
    for _ in range(300):
        rows = tail(dataclasses.replace(pulls, test_statistics=rng.chisquare(2, number)))
        told += bool(problems({"isotropic": {"distribution": {"tail": rows}}}))
    assert told <= 1


def test_a_tail_is_a_problem_where_its_binomial_chance_is_below_one_in_16000():
    """Chance of k or more of 1000 at p = 0.01, from the sum of the binomial terms: 24 has 8.6e-5, 25 has 3.4e-5."""

    def ts(k):
        return np.where(np.arange(1000) < k, 9.3, np.linspace(0.1, 2.2, 1000))

    for k, told in ((24, False), (25, True)):
        (row,) = [row for row in tail(normal_toys(number=1000, ts=ts(k))) if row["p_chi2"] == 0.01]
        chance = sum(math.comb(1000, j) * 0.01**j * 0.99 ** (1000 - j) for j in range(k, 200))
        assert row["p_binomial"] == pytest.approx(chance, rel=1e-9)
        assert bool(problems({"isotropic": {"distribution": {"tail": [row]}}})) == told == (chance < 6e-5)


def test_toys_without_a_maximum_are_left_out_of_pulls_and_told():
    result = normal_toys(number=1000)
    result.converged[:20] = False
    result.estimates[:20] = 1e6
    content = summarise(result)
    assert content["isotropic"]["not_converged"] == 20
    assert not content["converged"]
    assert abs(content["isotropic"]["calibration"]["delta_0h"]["pull_mean"]) < 0.2
    result.converged[:-9] = False
    with pytest.raises(FitError, match="the fits of 9 of 1000 toys converged, and 10 are needed"):
        summarise(result)


def test_what_is_written_can_be_read(tmp_path):
    null, signal = normal_toys(number=300), normal_toys(DIPOLE, number=300)
    content = write_toys(tmp_path, null, signal, Observed(14.2, 0.05, 13.9), pictures=False)
    assert {p.name for p in tmp_path.iterdir()} == {"toys.json", "toys.nc"}
    with xr.open_dataset(tmp_path / "toys.nc") as found:
        assert list(found["sky"].values) == ["isotropic", "dipole"]
        np.testing.assert_array_equal(found["estimate"].sel(sky="dipole"), signal.estimates)
        np.testing.assert_array_equal(found["covariance"].sel(sky="isotropic"), null.covariances)
        np.testing.assert_array_equal(found["test_statistic"].sel(sky="dipole"), signal.test_statistics)
        np.testing.assert_array_equal(found["truth"].sel(sky="dipole"), [0.3, 0.4])
        assert found["converged"].all()
        assert found["estimate"].dtype == np.float64
    assert dataset([null]).sizes == {"sky": 1, "toy": 300, "component": 2, "pair": 3}
    assert content["observed"]["amplitude"] == 0.05
    assert content["observed"]["from_cells_alone"]["test_statistic"] == 13.9


@pytest.mark.parametrize("signal", [None, normal_toys(DIPOLE, number=500)])
@pytest.mark.parametrize("observed", [None, Observed(3.0, 0.1), Observed(900.0, 0.5)])
def test_pictures_show_the_toys_and_the_data(tmp_path, signal, observed):
    drawn = figures(normal_toys(number=500), signal, observed)
    assert list(drawn) == ["test_statistic", "p_value", "pulls"]
    lines = [line.get_label() for line in drawn["p_value"].axes[0].get_lines()]
    assert any(label.startswith("data, p") for label in lines) == (observed is not None)
    # Data that no toy reaches: the toys bound their p from above.
    assert ("data, p < 0.002" in lines) == (observed is not None and observed.test_statistic > 100)
    assert drawn["pulls"].axes[0].get_xlabel().startswith(r"($\hat\delta")
    for name, figure in drawn.items():
        assert save(figure, tmp_path / f"{name}.png").stat().st_size > 10_000
