"""Errors of a fit to weighted events: against the textbook factor, and against the scatter of drawn skies."""

import functools

import numpy as np
import pytest
from diffcr.inference.fit import DIPOLE_NORM, fit
from helpers import as_counts, asimov, dipole_sky, drawn

from diffcr.counts import MarginalCounts
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

GRID = RingGrid(18, 36)
SITE = site("auger")
LOCAL = np.asarray(acceptance(SITE, GRID))
# Constant within six groups of time bins, whose rates are free.
WAVES = np.asarray(rate(GRID, 2e5, harmonics=[(1, 0.3, 1.0), (2, 0.1, 2.0)]))
RATE = np.repeat(WAVES.reshape(6, 6).mean(axis=1), 6)
TRUTH = (0.05, -0.08)
SKY = dipole_sky(GRID, TRUTH)
KINDS = {"free": {}, "known": {"exposure": {SITE.name: LOCAL}}}
NAMES = ("n_sky", "n_time", "n_local", "n_half")


def with_weights(counts, factor):
    """Weights whose mean square is `factor` times their mean, in every cell."""
    return counts.replace(w2={name: factor * getattr(counts, name) for name in NAMES})


@pytest.mark.parametrize("kind", KINDS)
def test_weights_independent_of_the_cell_widen_the_errors_by_their_spread(kind):
    """Covariance F^-1 sum w^2 / sum w, test statistic over the same factor."""
    counts = drawn(SITE, GRID, LOCAL, RATE, SKY, seed=1)
    plain = fit(counts, rate_bins=6, **KINDS[kind])
    weighted = fit(with_weights(counts, 1.7), rate_bins=6, **KINDS[kind])
    np.testing.assert_allclose(weighted.multipoles, plain.multipoles, rtol=1e-9)
    # The joint distribution of w^2 is taken as a product of marginals: the sky's few per cent are neglected.
    scale = np.sqrt(np.diag(plain.covariance))
    np.testing.assert_allclose(
        weighted.covariance / np.outer(scale, scale),
        1.7 * plain.covariance / np.outer(scale, scale),
        atol=0.03,
    )
    assert weighted.test_statistic == pytest.approx(plain.test_statistic / 1.7, rel=0.02)
    assert weighted.counts.effective_events == pytest.approx(plain.counts.effective_events / 1.7)


@pytest.mark.parametrize("kind", KINDS)
def test_unit_weights_change_nothing(kind):
    """An isotropic Asimov sky: then the product of the marginals is exact."""
    counts = asimov(SITE, GRID, LOCAL, RATE, np.ones(GRID.shape))
    plain = fit(counts, rate_bins=6, **KINDS[kind])
    weighted = fit(with_weights(counts, 1.0), rate_bins=6, **KINDS[kind])
    np.testing.assert_allclose(weighted.covariance, plain.covariance, rtol=1e-8, atol=1e-14)


@pytest.mark.slow
def test_a_prior_is_part_of_the_variance():
    """With unit weights the covariance stays the inverse of the penalised information."""
    counts = asimov(SITE, GRID, LOCAL, RATE, np.ones(GRID.shape))
    plain = fit(counts, 2, prior_power=1e-5, rate_bins=6)
    weighted = fit(with_weights(counts, 1.0), 2, prior_power=1e-5, rate_bins=6)
    np.testing.assert_allclose(weighted.covariance, plain.covariance, rtol=1e-6, atol=1e-14)


@functools.cache
def weight_of_cell() -> np.ndarray:
    """Weights that depend on the local cell alone, shape (ring, hour_angle): 30 times larger near the southern pole,
    where an event tells little about the dipole, and a little larger in the west."""
    pole = np.where(GRID.declination < -1.2, 30.0, 1.0)
    return np.outer(pole, 1 + 0.2 * np.sin(GRID.hour_angle))


def drawn_with_cell_weights(seed):
    """Poisson counts of the whole cube, each event weighted by its local cell; marginals summed here."""
    rng = np.random.default_rng([seed, 7])
    column = (np.arange(36)[:, None] - np.arange(36)) % 36
    cube = rng.poisson(RATE[None, :, None] * LOCAL[:, None, :] * SKY[:, column])  # ring, time, hour angle
    sums = []
    for power in (1, 2):
        cells = cube * weight_of_cell()[:, None, :] ** power
        sky = np.stack([cells[:, (a + np.arange(36)) % 36, np.arange(36)].sum(axis=1) for a in range(36)], axis=1)
        half = np.stack([cells.sum(axis=2), 0 * cells.sum(axis=2)])
        sums.append(MarginalCounts(sky, cells.sum(axis=(0, 2)), cells.sum(axis=1), half))
    return sums[0], sums[1], int(cube.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_covariance_is_the_scatter_where_weights_depend_on_the_cell(kind):
    """150 skies: variances to 4 sqrt(2 / 150). By the spread of the weights they would be 2.5 times larger."""
    known = LOCAL * weight_of_cell()
    options = {"free": {}, "known": {"exposure": {SITE.name: known / known.sum()}}}[kind]
    pulls, naive = [], []
    for seed in range(150):
        first, second, number = drawn_with_cell_weights(seed)
        counts = as_counts(SITE, GRID, first, second, number)
        result = fit(counts, rate_bins=6, **options)
        truth = np.array([*TRUTH, 0.0][: len(result.dipole.delta)])
        pulls.append((result.dipole.delta - truth) / np.sqrt(np.diag(result.dipole.covariance)))
        ratio = counts.sum_weights / counts.effective_events
        inverse = np.linalg.inv(result.information) * ratio / DIPOLE_NORM**2
        naive.append(inverse[1, 1] / result.dipole.covariance[0, 0])
    pulls = np.array(pulls)
    np.testing.assert_allclose(np.var(pulls, axis=0), 1, atol=4 * np.sqrt(2 / 150))
    np.testing.assert_allclose(np.mean(pulls, axis=0), 0, atol=4 / np.sqrt(150))
    assert np.mean(naive) > 2


def test_statistic_is_chi_squared_for_isotropy_with_heavy_weights():
    """Mean 2 over 150 isotropic skies with log-normal weights of spread 1; unscaled it would be 2 e = 5.4."""
    flat = np.ones(GRID.shape)
    results = [fit(drawn(SITE, GRID, LOCAL, RATE / 4, flat, k, weight_spread=1.0), rate_bins=6) for k in range(150)]
    statistics = np.array([r.test_statistic for r in results])
    assert statistics.mean() == pytest.approx(2, abs=4 * 2 / np.sqrt(150))
    assert np.mean(statistics > -2 * np.log(0.05)) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 / 150))
