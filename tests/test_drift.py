"""A line through the dipoles of epochs."""

import numpy as np
import pytest
from diffcr.inference.drift import drift, linear_drift
from diffcr.inference.inputs import read_counts

from diffcr.errors import InputError
from diffcr.grid import RingGrid


def test_the_line_is_that_of_weighted_least_squares():
    """With uncorrelated components it is numpy's weighted polyfit of each."""
    rng = np.random.default_rng(1)
    years = np.linspace(2004, 2016, 9)
    errors = rng.uniform(0.01, 0.03, (9, 2))
    dipoles = rng.normal(0.05, 0.02, (9, 2))
    found = linear_drift(years, dipoles, np.stack([np.diag(e**2) for e in errors]))
    for k in range(2):
        slope, offset = np.polyfit(years - found.year, dipoles[:, k], 1, w=1 / errors[:, k])
        assert found.rate[k] == pytest.approx(slope, rel=1e-8)
        assert found.mean[k] == pytest.approx(offset, rel=1e-8)
    _, covariance = np.polyfit(years - found.year, dipoles[:, 0], 1, w=1 / errors[:, 0], cov="unscaled")
    assert found.covariance[2, 2] == pytest.approx(covariance[0, 0], rel=1e-8)


def test_a_known_drift_is_found_along_the_mean_with_calibrated_errors():
    rng = np.random.default_rng(2)
    years = np.arange(2004.5, 2017)
    covariance = np.array([[4e-4, 1e-4], [1e-4, 9e-4]])
    unit = np.array([0.6, 0.8])
    pulls, chances = [], []
    for _ in range(400):
        truth = 0.2 * unit + 0.004 * np.outer(years - 2010.5, unit)
        dipoles = truth + rng.multivariate_normal([0, 0], covariance, len(years))
        found = linear_drift(years, dipoles, np.broadcast_to(covariance, (len(years), 2, 2)))
        value, error = found.along
        pulls.append((value - 0.004) / error)
        still = linear_drift(years, dipoles - truth + 0.2 * unit, np.broadcast_to(covariance, (len(years), 2, 2)))
        chances.append(still.p_value)
        assert found.limit_95 >= abs(value)
    assert abs(np.mean(pulls)) < 0.2
    assert np.std(pulls) == pytest.approx(1, abs=0.12)
    assert 0.4 < np.mean(chances) < 0.6


def test_the_limit_of_no_change_is_1_96_errors():
    years = np.array([2000.0, 2001.0, 2002.0])
    found = linear_drift(years, np.full((3, 2), 0.05), np.broadcast_to(1e-4 * np.eye(2), (3, 2, 2)))
    assert found.along[0] == pytest.approx(0, abs=1e-12)
    assert found.limit_95 == pytest.approx(1.96 * found.along[1], rel=1e-3)
    assert found.chi2 == pytest.approx(0, abs=1e-12)


def test_the_shipped_list_by_year():
    """Thirteen years of the list: no change, as published (below 0.3 % a year with six more years of data)."""
    counts = read_counts("dataset:auger-8eev", epochs="yearly", grid=RingGrid(18, 36))
    found = drift(counts)
    assert len(found.years) == len(counts.epochs)
    value, error = found.along
    assert abs(value) < 3 * error
    assert 0.002 < error < 0.006
    assert found.p_value > 0.01
    np.testing.assert_allclose(np.hypot(*found.mean), 0.0525, atol=0.02)


def test_two_epochs_are_no_drift():
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(18, 36))
    with pytest.raises(InputError, match="at least three epochs"):
        drift(counts)
