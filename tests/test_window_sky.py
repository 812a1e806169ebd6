"""One sky seen through several windows of declination, or a dipole and offsets of the experiments."""

import numpy as np
import pytest
from diffcr.inference.one_axis import Systematics
from diffcr.inference.window_sky import fit_window_sky, harmonic_covariance, sky_or_offsets
from scipy.special import sph_harm_y
from scipy.stats import kstest, multivariate_normal

from diffcr.errors import InputError
from diffcr.window import window_means

LIMITS = np.radians([[-26, 64], [-26, 64], [-10, 70], [-30, 90], [-21, 79], [-90, -25], [-90, -25]])
GROUP = np.array([0, 0, 1, 2, 3, 4, 4])
LOG_ENERGY = np.log(np.array([11.0, 19, 12, 15, 23, 13, 24]) / 15)
WINDOWS = np.stack([np.asarray(window_means(low, high, 3)) for low, high in LIMITS])
PRIOR = np.array([2e-3, 1e-3, 0.7e-3])
SKY = np.array([[1.8, 2.2], [0.5, -0.9], [-0.4, 0.6]]) * 1e-3
SIZE = np.array([3, 6, 2, 2, 5, 1, 1]) * 1e-5
COVARIANCE = SIZE[:, None, None] ** 2 * np.array([[1, 0.3], [0.3, 1]])


def drawn(rng, mean):
    return mean + np.einsum("iab,ib->ia", np.linalg.cholesky(COVARIANCE), rng.standard_normal(mean.shape))


def joint(about=np.zeros((7, 2)), **errors):
    return harmonic_covariance(about, COVARIANCE, Systematics(GROUP, **errors))


def test_a_sky_of_spherical_harmonics_is_found():
    """Its first harmonics are integrals over each window of scipy's functions, by quadrature."""
    harmonic = []
    for low, high in LIMITS:
        x, w = np.polynomial.legendre.leggauss(60)
        sine = (np.sin(high) + np.sin(low)) / 2 + (np.sin(high) - np.sin(low)) / 2 * x
        ra = np.arange(24) * 2 * np.pi / 24
        sky = np.zeros((60, 24))
        for degree, (a, b) in enumerate(SKY, 1):
            y = sph_harm_y(degree, 1, np.arccos(sine)[:, None], ra)
            sky += -np.sqrt(2) * (a * y.real + b * y.imag)
        rows = (w / 2) @ sky
        harmonic.append([2 * np.mean(rows * np.cos(ra)), 2 * np.mean(rows * np.sin(ra))])

    fit = fit_window_sky(np.array(harmonic), 1e-6 * joint(), WINDOWS, PRIOR)

    np.testing.assert_allclose(fit.multipoles, SKY, atol=1e-7)
    np.testing.assert_allclose(fit.chi2, 0, atol=1e-2)


@pytest.mark.parametrize("energies", [None, LOG_ENERGY], ids=["one energy", "by energy"])
def test_evidence_and_posterior_are_those_of_one_normal_distribution(energies):
    """Formed with dense matrices: multipoles and noise are both normal."""
    rng = np.random.default_rng(1)
    harmonic = drawn(rng, WINDOWS @ SKY)
    covariance = joint(harmonic, scale=0.1, phase=0.2, scatter=1e-5)

    fit = fit_window_sky(harmonic, covariance, WINDOWS, PRIOR, energies)

    terms = WINDOWS if energies is None else np.concatenate([WINDOWS, energies[:, None] * WINDOWS], axis=1)
    prior = np.tile(PRIOR, terms.shape[1] // 3)
    design = np.zeros((7, 2, len(prior), 2))
    for axis in range(2):
        design[:, axis, :, axis] = terms
    design, noise = design.reshape(14, -1), covariance.reshape(14, 14)
    total = noise + design @ np.diag(np.repeat(prior, 2) ** 2) @ design.T
    gain = np.diag(np.repeat(prior, 2) ** 2) @ design.T @ np.linalg.inv(total)
    np.testing.assert_allclose(fit.log_evidence, multivariate_normal(np.zeros(14), total).logpdf(harmonic.ravel()))
    np.testing.assert_allclose(fit.multipoles.ravel(), gain @ harmonic.ravel(), rtol=1e-7, atol=1e-12)
    posterior = (np.eye(2 * len(prior)) - gain @ design) @ np.diag(np.repeat(prior, 2) ** 2)
    np.testing.assert_allclose(fit.covariance.reshape(posterior.shape), posterior, rtol=1e-5, atol=1e-15)
    np.testing.assert_allclose(fit.expected.ravel(), design @ fit.multipoles.ravel(), rtol=1e-9)
    # The smallest chi2 is that of weighted least squares.
    root = np.linalg.inv(np.linalg.cholesky(noise))
    left = np.linalg.lstsq(root @ design, root @ harmonic.ravel(), rcond=None)[1]
    np.testing.assert_allclose(fit.chi2, left[0], rtol=1e-6)
    assert fit.degrees_of_freedom == 14 - 2 * len(prior)


def test_skies_drawn_from_the_prior_are_covered_and_p_values_even():
    rng = np.random.default_rng(2)
    pulls, p = [], []
    for _ in range(300):
        sky = PRIOR[:, None] * rng.standard_normal((3, 2))
        fit = fit_window_sky(drawn(rng, WINDOWS @ sky), joint(), WINDOWS, PRIOR)
        pulls.append((fit.multipoles - sky).ravel() / np.sqrt(np.diag(fit.covariance.reshape(6, 6))))
        p.append(fit.p_value)

    assert np.abs(np.std(pulls, axis=0) - 1).max() < 0.13
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.2
    assert kstest(p, "uniform").pvalue > 0.005


def test_offsets_drawn_for_the_experiments_make_even_p_values():
    """A dipole, scaled and turned for each experiment: chi2 with their covariance, too large without."""
    rng = np.random.default_rng(3)
    mean, width = WINDOWS[:, :1] @ SKY[:1], 0.05
    p, naive = [], []
    for _ in range(300):
        error = width * rng.standard_normal((2, 5))[:, GROUP]
        turned = np.stack([-mean[:, 1], mean[:, 0]], axis=1)
        harmonic = drawn(rng, mean + error[0, :, None] * mean + error[1, :, None] * turned)
        covariance = joint(mean, scale=width, phase=width)
        p.append(fit_window_sky(harmonic, covariance, WINDOWS[:, :1], PRIOR[:1]).p_value)
        naive.append(fit_window_sky(harmonic, joint(), WINDOWS[:, :1], PRIOR[:1]).p_value)

    assert kstest(p, "uniform").pvalue > 0.005
    assert np.median(naive) < 1e-3


def test_windows_that_are_all_alike_determine_one_sum():
    """Of three degrees one combination is seen; the others keep their prior, and the degrees of freedom say so."""
    same = np.tile(WINDOWS[:1], (7, 1))
    fit = fit_window_sky(drawn(np.random.default_rng(4), same @ SKY), joint(), same, PRIOR)

    assert fit.degrees_of_freedom == 14 - 2
    np.testing.assert_allclose(
        fit.multipoles[:, 0] / fit.multipoles[0, 0], same[0] * PRIOR**2 / (same[0, 0] * PRIOR[0] ** 2)
    )
    left = np.sqrt(np.diag(fit.covariance.reshape(6, 6)))[4]
    assert 0.8 * PRIOR[2] < left < PRIOR[2]


@pytest.mark.parametrize("cause", ["sky", "offsets"])
def test_the_cause_is_told(cause):
    """Multipoles or offsets of fifteen per cent: the evidence is for what was put in, and for little of the other."""
    rng = np.random.default_rng(5)
    if cause == "sky":
        mean = WINDOWS @ SKY
    else:
        gain = (1 + 0.15 * (rng.standard_normal(5) + 1j * rng.standard_normal(5)))[GROUP]
        turned = gain * ((WINDOWS[:, :1] @ SKY[:1]) @ [1, 1j])
        mean = np.stack([turned.real, turned.imag], axis=1)

    found = sky_or_offsets(drawn(rng, mean), COVARIANCE, WINDOWS, GROUP, PRIOR)

    sky, offsets = found.log_evidence[2, 0], found.averaged[0]
    if cause == "sky":
        assert sky > offsets + 3
        assert found.best_spread[2] < 0.05 < found.best_spread[0]
    else:
        assert offsets > sky + 3
        assert 0.07 < found.best_spread[0] < 0.3


def test_the_average_over_spreads_is_that_of_the_half_normal_prior():
    found = sky_or_offsets(
        drawn(np.random.default_rng(6), WINDOWS @ SKY), COVARIANCE, WINDOWS, GROUP, PRIOR, LOG_ENERGY
    )
    fine = np.linspace(0, 0.8, 8001)
    prior = np.exp(-((fine / 0.2) ** 2) / 2)
    for each, average in zip(found.log_evidence, found.averaged, strict=True):
        curve = np.exp(np.interp(fine, found.spread, each) - each.max())
        np.testing.assert_allclose(average, each.max() + np.log(curve @ prior / prior.sum()), atol=0.02)


def test_bad_input_is_refused():
    harmonic = WINDOWS @ SKY
    with pytest.raises(InputError, match="do not fit harmonics"):
        fit_window_sky(harmonic[:3], joint(), WINDOWS, PRIOR)
    with pytest.raises(InputError, match="prior of each degree"):
        fit_window_sky(harmonic, joint(), WINDOWS, -PRIOR)
    with pytest.raises(InputError, match="name one for each"):
        harmonic_covariance(harmonic, COVARIANCE, Systematics(GROUP[:2]))
