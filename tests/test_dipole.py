"""Amplitude, phase, limits and significance against scipy and Monte Carlo."""

import mpmath
import numpy as np
import pytest
from diffcr.inference.dipole import Dipole, log10_p_value, phase_error, rice_upper_limit, significance_sigma
from scipy import stats


def test_amplitude_phase_and_error_of_a_known_vector():
    dipole = Dipole(np.array([9.16e-4, 7.25e-4]), np.diag([4e-6, 4e-6]) ** 2)
    assert dipole.amplitude == pytest.approx(1.1682e-3, rel=1e-4)
    assert np.degrees(dipole.right_ascension) == pytest.approx(38.36, abs=0.01)
    assert dipole.amplitude_error == pytest.approx(4e-6)
    assert dipole.right_ascension_error == pytest.approx(4e-6 / 1.1682e-3, rel=1e-3)


def test_phase_lies_between_0_and_360_degrees():
    assert np.degrees(Dipole(np.array([1.0, -1.0]), np.eye(2)).right_ascension) == pytest.approx(315)


def test_errors_follow_an_anisotropic_covariance():
    """Along the dipole the variance is d C d, across it the phase error is that of C across."""
    covariance = np.array([[4.0, 1.5], [1.5, 1.0]]) * 1e-4
    dipole = Dipole(np.array([0.6, 0.8]), covariance)
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    assert dipole.amplitude_error == pytest.approx(np.sqrt(along @ covariance @ along))
    assert dipole.right_ascension_error == pytest.approx(np.sqrt(across @ covariance @ across), rel=2e-3)


def test_phase_error_without_a_dipole_is_that_of_a_uniform_phase():
    assert phase_error(np.array([1e-9, 0.0]), np.eye(2)) == pytest.approx(0.6827 * np.pi, rel=1e-3)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 4.0])
def test_phase_error_against_monte_carlo(ratio):
    rng = np.random.default_rng(0)
    covariance = np.array([[1.5, 0.4], [0.4, 0.7]])
    vector = ratio * np.array([np.cos(1.0), np.sin(1.0)])
    draws = rng.multivariate_normal(vector, covariance, 400_000)
    offset = np.abs((np.arctan2(draws[:, 1], draws[:, 0]) - 1.0 + np.pi) % (2 * np.pi) - np.pi)
    assert phase_error(vector, covariance) == pytest.approx(np.quantile(offset, 0.6826895), rel=5e-3)


def test_debiased_amplitude_squared_is_unbiased():
    rng = np.random.default_rng(1)
    covariance = np.array([[1.5, 0.4], [0.4, 0.7]])
    draws = rng.multivariate_normal([4.0, 3.0], covariance, 20_000)
    debiased = np.array([Dipole(d, covariance).amplitude_debiased for d in draws])
    assert np.mean(debiased**2) == pytest.approx(25.0, abs=0.25)
    assert Dipole(np.array([0.1, 0.1]), covariance).amplitude_debiased == 0


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("measured", [0.7, 1.5, 4.0])
def test_rice_limit_inverts_the_rice_distribution(level, measured):
    """scipy's Rice distribution: P(amplitude <= measured | limit) = 1 - level."""
    limit = rice_upper_limit(measured * 2.0, 2.0, level)
    assert stats.rice.cdf(measured, limit / 2.0) == pytest.approx(1 - level, rel=1e-6)


def test_rice_limit_of_a_downward_fluctuation_stays_at_the_sensitivity():
    floor = rice_upper_limit(np.sqrt(-2 * np.log(0.84)), 1.0, 0.95)
    assert rice_upper_limit(0.0, 1.0, 0.95) == pytest.approx(floor)
    assert floor > 1.5


@pytest.mark.parametrize("truth", [0.0, 1.0, 2.0])
def test_rice_limits_cover(truth):
    rng = np.random.default_rng(2)
    amplitudes = np.hypot(truth + rng.standard_normal(4000), rng.standard_normal(4000))
    covered = np.mean([rice_upper_limit(a, 1.0, 0.95) >= truth for a in amplitudes])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 4000)
    if truth == 2.0:
        assert covered < 0.965  # not by being too wide


@pytest.mark.parametrize("ratio", [0.7, 0.3, 0.05])
def test_limits_cover_for_unequal_errors_with_the_truth_along_the_worse_axis(ratio):
    rng = np.random.default_rng(3)
    draws = np.hypot(2.0 + rng.standard_normal(3000), ratio * rng.standard_normal(3000))
    covered = np.mean([rice_upper_limit(a, 1.0, 0.95, ratio) >= 2.0 for a in draws])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 3000)
    across = np.hypot(rng.standard_normal(3000), 2.0 * ratio + ratio * rng.standard_normal(3000))
    assert np.mean([rice_upper_limit(a, 1.0, 0.95, ratio) >= 2.0 * ratio for a in across]) >= 0.95
    assert rice_upper_limit(3.0, 2.0, 0.95, 2.0) == pytest.approx(rice_upper_limit(3.0, 2.0, 0.95))


def test_p_value_of_two_degrees_of_freedom_is_exponential():
    assert log10_p_value(35.0, 2) == pytest.approx(-35.0 / 2 / np.log(10))
    assert log10_p_value(0.0, 2) == 0


@pytest.mark.parametrize("dof", [1, 6, 20])
@pytest.mark.parametrize("statistic", [3.0, 80.0, 5000.0])
def test_p_values_against_50_digits(dof, statistic):
    mpmath.mp.dps = 50
    exact = mpmath.log10(mpmath.gammainc(mpmath.mpf(dof) / 2, mpmath.mpf(statistic) / 2, regularized=True))
    assert log10_p_value(statistic, dof) == pytest.approx(float(exact), rel=1e-4)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0, 40.0, 300.0])
def test_significance_inverts_the_two_sided_tail(sigma):
    log_p = (np.log(2) + stats.norm.logsf(sigma)) / np.log(10)
    assert significance_sigma(log_p) == pytest.approx(sigma, rel=1e-8)
    assert significance_sigma(0.0) == 0


@pytest.mark.parametrize(
    ("dof", "statistic", "expected"), [(40926, 60000.0, -744.122273443385), (3, 1400.0, -302.5308233742926)]
)
def test_a_chance_probability_below_the_smallest_float_is_known(dof, statistic, expected):
    """Values of mpmath with 30 digits."""
    assert log10_p_value(statistic, dof) == pytest.approx(expected, rel=1e-12)
