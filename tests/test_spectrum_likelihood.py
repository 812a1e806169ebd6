"""Likelihoods of measured power: exact densities, their correlations, and one sample variance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from diffcr.inference.spectrum_comparison import replicate
from diffcr.inference.spectrum_data import spectrum
from diffcr.inference.spectrum_likelihood import (
    choose_kind,
    conditional,
    log_bessel_series,
    log_chi2,
    log_likelihood,
    residuals,
    scores,
    signed_root,
    variance,
)
from jax.test_util import check_grads
from scipy import stats

from diffcr.errors import InputError

L = np.array([2, 3, 4])
NOISE = np.array([1e-9, 1e-9, 2e-9])
POWER = np.array([4e-8, 6e-9, 5e-9])
MODES = 2 * L + 1.0


def measured(power=POWER, correlation=None, meaning="total", noise=NOISE):
    error = np.sqrt(2 / MODES) * (np.maximum(power, 0) + noise)
    if meaning == "sky":
        error = np.sqrt(2 / MODES * (noise**2 + 2 * noise * np.maximum(power, 0)))
    covariance = None if correlation is None else np.outer(error, error) * correlation
    plain = error if correlation is None else None
    return spectrum(L, L, power, plain, covariance, noise=noise, modes=MODES, meaning=meaning)


CORRELATION = np.array([[1, 0.4, 0.1], [0.4, 1, -0.3], [0.1, -0.3, 1]])


@pytest.mark.parametrize("order", [-0.4, 0.0, 0.5, 4.3, 30.0])
@pytest.mark.parametrize("y", [0.0, 1e-8, 0.3, 50.0, 1e5, 1e8])
def test_the_bessel_series_is_that_of_high_precision(order, y):
    root = mpmath.sqrt(y)
    exact = mpmath.mpf(0)
    if y:
        exact = mpmath.log(mpmath.besseli(order, 2 * root)) + mpmath.loggamma(order + 1) - order * mpmath.log(root)
    assert float(log_bessel_series(jnp.array(y), jnp.array(order))) == pytest.approx(float(exact), abs=1e-8)


@pytest.mark.parametrize(("x", "degrees", "centre"), [(2.0, 3, 0.0), (6.0, 5, 4.0), (80.0, 2.7, 100.0), (1e4, 41, 9e3)])
def test_chi_squared_is_that_of_scipy(x, degrees, centre):
    exact = stats.ncx2.logpdf(x, degrees, centre) if centre else stats.chi2.logpdf(x, degrees)
    own = log_chi2(jnp.array(x), jnp.array(float(degrees)), jnp.array(centre))
    assert float(own) == pytest.approx(exact, abs=1e-7)


def test_the_likelihood_of_random_skies_is_the_density_of_their_measured_power():
    """nu (C_hat + N) / (C + N) is chi-squared; a density in C_hat, or models of other scale could not be compared."""
    random = np.array([3e-8, 9e-9, 2e-9])
    factor = MODES / (random + NOISE)
    exact = np.sum(stats.chi2.logpdf((POWER + NOISE) * factor, MODES) + np.log(factor))
    data = measured()
    assert float(log_likelihood(data, "chi2", random)) == pytest.approx(exact, rel=1e-12)
    # The same with an aligned part of nothing, which goes another way.
    assert float(log_likelihood(data, "chi2", random, np.zeros(3))) == pytest.approx(exact, abs=1e-6)


def test_an_aligned_pattern_scatters_with_the_noise_alone():
    """Monte Carlo of the multipoles: a fixed pattern, a random sky and noise; mean, variance and density agree."""
    rng = np.random.default_rng(2)
    random, aligned, noise = 2e-9, 3e-8, 1e-9
    pattern = np.zeros(5)
    pattern[0] = np.sqrt(5 * aligned)
    sky = pattern + rng.standard_normal((400_000, 5)) * np.sqrt(random + noise)
    drawn = np.mean(sky**2, axis=1) - noise
    data = measured()
    three = lambda x: np.full(3, x)
    data = eqx.tree_at(lambda s: s.noise, data, three(noise))
    expected = np.sqrt(np.asarray(variance(data, "chi2", three(random), three(aligned))))[0]
    assert drawn.std() == pytest.approx(expected, rel=0.01)
    edges = np.quantile(drawn, [0.2, 0.21])
    inside = eqx.tree_at(lambda s: s.power, data, three(edges.mean()))
    density = np.exp(float(conditional(inside, "chi2", three(random), three(aligned))[0]))
    assert density == pytest.approx(0.01 / np.ptp(edges), rel=0.05)


def test_the_score_is_that_of_hamimeche_and_lewis():
    """-2 ln L = sum X_b (M^-1)_bb' X_b', X = sign(x - 1) sqrt(2 (x - ln x - 1)) C_f, M the fiducial covariance."""
    random = np.array([3e-8, 9e-9, 2e-9])
    data = measured(correlation=CORRELATION)
    ratio = (POWER + NOISE) / (random + NOISE)
    x = np.sign(ratio - 1) * np.sqrt(2 * (ratio - np.log(ratio) - 1))
    fiducial = POWER + NOISE
    covariance = np.outer(fiducial, fiducial) * CORRELATION * 2 / np.sqrt(np.outer(MODES, MODES))
    quoted = -0.5 * (x * fiducial) @ np.linalg.solve(covariance, x * fiducial)
    at_truth = log_likelihood(data, "hamimeche-lewis", POWER)
    assert float(log_likelihood(data, "hamimeche-lewis", random) - at_truth) == pytest.approx(quoted, rel=1e-9)


def test_the_signed_root_has_no_corner():
    ratio = np.array([0.2, 0.97, 0.9999, 1.0, 1.0001, 1.03, 4.0])
    exact = [float(mpmath.sign(r - 1) * mpmath.sqrt(5 * (mpmath.mpf(r) - mpmath.log(r) - 1))) for r in ratio]
    np.testing.assert_allclose(signed_root(ratio, np.full(7, 5.0)), exact, rtol=1e-7, atol=1e-15)
    for r in (0.5, 1.0, 1.02, 3.0):
        check_grads(jax.jit(lambda r: signed_root(r, jnp.array(5.0))), (jnp.array(r),), order=1)


def test_the_normal_likelihood_is_multivariate_and_adds_the_scatter_once():
    random, aligned = np.array([3e-8, 9e-9, 2e-9]), np.array([0.0, 1e-9, 0.0])
    for meaning in ("sky", "total"):
        data = measured(correlation=CORRELATION, meaning=meaning)
        # 2 / nu (N^2 + 2 N C_hat) of this sky, and 2 C^2 / nu of the model: not that of the data again.
        size = np.sqrt(2 / MODES * (NOISE**2 + 2 * NOISE * POWER) + 2 / MODES * random**2)
        exact = stats.multivariate_normal(random + aligned, np.outer(size, size) * CORRELATION).logpdf(POWER)
        assert float(log_likelihood(data, "normal", random, aligned)) == pytest.approx(exact, rel=1e-9)
    mean = spectrum(L, L, POWER, 0.1 * POWER, meaning="mean")
    exact = np.sum(stats.norm.logpdf(POWER, random, 0.1 * POWER))
    assert float(log_likelihood(mean, "normal", random)) == pytest.approx(exact, rel=1e-12)


def test_only_a_bin_without_positive_power_is_normal():
    """Over-subtraction in one bin leaves the density of the others; its own has the variance of the model."""
    random = np.array([3e-8, 9e-9, 2e-9])
    data = measured(np.array([4e-8, -3e-9, 5e-9]))
    factor = MODES / (random + NOISE)
    exact = stats.chi2.logpdf((data.power + NOISE) * factor, MODES) + np.log(factor)
    exact[1] = stats.norm.logpdf(-3e-9, 9e-9, np.sqrt(2 / 7) * 1e-8)
    found = conditional(data, "hamimeche-lewis", random)
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    value = lambda r: log_likelihood(measured(np.array([4e-8, -3e-9, 5e-9]), CORRELATION), "hamimeche-lewis", r * 1e-8)
    check_grads(jax.jit(value), (jnp.array([3.0, 0.9, 0.2]),), order=1, rtol=1e-4)


@pytest.mark.parametrize("kind", ["normal", "hamimeche-lewis"])
def test_bins_left_out_are_integrated_out(kind):
    """The density without a bin is that of the other bins' own spectrum, and the conditional density their ratio."""
    random, aligned = np.array([3e-8, 9e-9, 2e-9]), np.array([0.0, 2e-9, 0.0])
    data = measured(correlation=CORRELATION)
    whole = log_likelihood(data, kind, random, aligned)
    each = conditional(data, kind, random, aligned)
    for k in range(3):
        rest = [j for j in range(3) if j != k]
        keep = np.array([float(j != k) for j in range(3)])
        without = log_likelihood(data, kind, random, aligned, keep)
        alone = log_likelihood(data.only(rest), kind, random[rest], aligned[rest])
        assert float(without) == pytest.approx(float(alone), rel=1e-12)
        assert float(each[k]) == pytest.approx(float(whole - without), rel=1e-9)


def test_the_normal_conditional_is_a_density():
    """Its integral over C_b is one, whatever the others are."""
    data = measured(correlation=CORRELATION)
    grid = np.linspace(-2e-7, 3e-7, 4001)
    random = np.array([3e-8, 9e-9, 2e-9])
    rest = jnp.asarray(POWER * [0, 1, 1])
    at = lambda c: eqx.tree_at(lambda s: s.power, data, rest.at[0].set(c))
    one = lambda c: conditional(at(c), "normal", random)[0]
    values = np.exp(np.asarray(jax.vmap(one)(jnp.asarray(grid))))
    assert np.trapezoid(values, grid) == pytest.approx(1, rel=1e-6)


def test_residuals_are_white_where_the_errors_are_as_they_say():
    data = measured(correlation=CORRELATION)
    x = np.random.default_rng(1).multivariate_normal(np.zeros(3), CORRELATION, 100_000)
    off, square = residuals(data, x)
    scale = np.sqrt(np.asarray(square))
    # In units of the scatter given the others.
    np.testing.assert_allclose(np.std(off, axis=0), 1, rtol=0.01)
    np.testing.assert_allclose(scale, 1 / np.sqrt(np.diag(np.linalg.inv(CORRELATION))), rtol=1e-12)


def test_simulated_measurements_follow_their_likelihood():
    """Ranks of simulated spectra in the distribution of the likelihood, for one bin each; and their correlation."""
    rng = np.random.default_rng(5)
    random, aligned = np.tile([3e-8, 9e-9, 2e-9], (20_000, 1)), np.tile([0.0, 2e-9, 1e-9], (20_000, 1))
    plain = replicate(measured(), "chi2", rng, random, aligned)
    scale = random[0] + NOISE
    for k in range(3):
        centre = MODES[k] * aligned[0, k] / scale[k]
        law = stats.ncx2(MODES[k], centre) if centre else stats.chi2(MODES[k])
        assert stats.kstest((plain[:, k] + NOISE[k]) * MODES[k] / scale[k], law.cdf).pvalue > 1e-3
    for kind in ("hamimeche-lewis", "normal"):
        data = measured(correlation=CORRELATION)
        drawn = replicate(data, kind, rng, random, aligned)
        at = lambda p, data=data: eqx.tree_at(lambda s: s.power, data, p)
        x = jax.vmap(lambda p, kind=kind, at=at: scores(at(p), kind, random[0], aligned[0]))(drawn)
        np.testing.assert_allclose(np.corrcoef(x.T), CORRELATION, atol=0.03)
        np.testing.assert_allclose(drawn.mean(axis=0), random[0] + aligned[0], rtol=0.03)


@pytest.mark.parametrize("kind", ["chi2", "hamimeche-lewis", "normal"])
def test_likelihoods_are_differentiable(kind):
    data = measured(correlation=None if kind == "chi2" else CORRELATION)
    value = lambda r, a: log_likelihood(data, kind, r * 1e-8, a * 1e-8)
    check_grads(jax.jit(value), (jnp.array([3.0, 0.9, 0.2]), jnp.array([0.1, 0.2, 0.1])), order=1, rtol=1e-4)
    assert np.isfinite(jax.grad(value, 1)(jnp.array([3.0, 0.9, 0.2]), jnp.zeros(3))).all()


def test_the_likelihood_that_suits_is_chosen():
    assert choose_kind(measured()) == ("chi2", "few multipoles are not normal")
    assert choose_kind(measured(correlation=CORRELATION))[0] == "hamimeche-lewis"
    assert choose_kind(spectrum(L, L, POWER, POWER, meaning="mean"))[0] == "normal"
    negative = measured(np.array([4e-8, -3e-9, 5e-9]))
    assert choose_kind(negative) == ("hamimeche-lewis", "power with noise is not above 0 at l = 3, which is normal")
    assert choose_kind(negative, "hamimeche-lewis")[0] == "hamimeche-lewis"
    assert choose_kind(measured(), "normal") == ("normal", "as asked")
    for data, kind, message in (
        (measured(), "gauss", "must be auto, normal, chi2, hamimeche-lewis, not 'gauss'"),
        (negative, "chi2", "not above 0 at l = 3, which no sum of squares is"),
        (measured(correlation=CORRELATION), "chi2", "bins are correlated"),
        (spectrum(L, L, POWER, POWER, meaning="mean"), "chi2", "a mean over skies is not chi2-distributed"),
    ):
        with pytest.raises(InputError, match=message):
            choose_kind(data, kind)
