"""Li and Ma's significance and binomial tails, against published numbers, mpmath, scipy and Monte Carlo."""

import mpmath
import numpy as np
import pytest
from diffcr.inference.li_ma import binomial_log10_p, half_deviance, li_ma, li_ma_known
from scipy import stats

from diffcr.errors import InputError


@pytest.mark.parametrize(
    ("n_on", "n_off", "alpha", "significance"),
    [
        (120, 1000, 0.1, 1.8427483020),
        (80, 1000, 0.1, -1.9827181628),
        (1000, 9000, 0.1, 3.1167794670),
        (10, 10, 1, 0.0),
    ],
)
def test_the_significance_is_that_of_equation_17(n_on, n_off, alpha, significance):
    assert float(li_ma(n_on, n_off, alpha)) == pytest.approx(significance, abs=1e-9)


def test_the_limit_of_a_known_background():
    """PHYSICS: mu = 100, n = 120 gives 1.9383430116; alpha -> 0 at mu = alpha n_off gets there."""
    assert float(li_ma_known(120, 100)) == pytest.approx(1.9383430116, abs=1e-9)
    assert float(li_ma(120, 1e10, 1e-8)) == pytest.approx(1.9383430116, abs=1e-6)
    assert float(li_ma_known(0, 8)) == pytest.approx(-4.0)  # -sqrt(2 mu)
    assert float(li_ma_known(100, 100)) == 0.0


def printed(n_on, n_off, alpha):
    """Equation 17 as it is printed, in fifty digits."""
    with mpmath.workdps(50):
        on, off, a = (mpmath.mpf(x) for x in (n_on, n_off, alpha))
        total = on + off
        first = on * mpmath.log((1 + a) / a * on / total) if on else mpmath.mpf(0)
        second = off * mpmath.log((1 + a) * off / total) if off else mpmath.mpf(0)
        sign = 1 if on > a * off else -1
        return float(sign * mpmath.sqrt(2 * (first + second)))


@pytest.mark.parametrize("scale", [1, 1e4, 1e8, 1e11])
@pytest.mark.parametrize("pull", [-3.0, -0.01, 0.5, 40.0])
def test_no_digits_are_lost_for_large_counts(scale, pull):
    """As printed, 1e11 counts cancel to nothing in 64-bit floats; the alpha is not representable exactly either."""
    n_off = 1000 * scale
    n_on = np.floor(0.125 * n_off + pull * np.sqrt(0.125 * n_off))
    if n_on >= 0:
        assert float(li_ma(n_on, n_off, 0.125)) == pytest.approx(printed(n_on, n_off, 0.125), rel=1e-9, abs=1e-9)


def test_empty_regions():
    """ln terms of zero counts vanish: on = 0 leaves sqrt(2 n_off ln(1 + alpha))."""
    assert float(li_ma(0, 100, 0.1)) == pytest.approx(-np.sqrt(2 * 100 * np.log(1.1)))
    assert float(li_ma(5, 0, 0.1)) == pytest.approx(np.sqrt(2 * 5 * np.log(11)))
    assert float(li_ma(0, 0, 0.1)) == 0.0


def test_arrays_are_broadcast():
    found = li_ma(np.array([[120], [80]]), 1000, np.array([0.1, 0.1, 0.1]))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[:, 2], [1.8427483020, -1.9827181628])


def test_background_alone_is_standard_normal():
    rng = np.random.default_rng(3)
    on, off = rng.poisson(100, 20000), rng.poisson(500, 20000)
    values = li_ma(on, off, 0.2)
    assert np.mean(values) == pytest.approx(0, abs=0.03)
    assert np.std(values) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10, 0.1), "n_on must be finite and not negative; 1 of 1 are not, the first is -1"),
        ((1, np.nan, 0.1), "n_off must be finite"),
        ((1, 10, 0.0), "alpha must be positive"),
    ],
)
def test_impossible_counts_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        li_ma(*arguments)
    with pytest.raises(InputError, match="expected must be positive"):
        li_ma_known(3, 0)


def test_the_binomial_tail_is_a_sum():
    """Written out for 12 events; P(X >= 0) = 1 and P(X >= n) = f^n."""
    n, f = 12, 0.3
    pmf = [float(mpmath.binomial(n, k)) * f**k * (1 - f) ** (n - k) for k in range(n + 1)]
    tails = [sum(pmf[k:]) for k in range(n + 1)]
    np.testing.assert_allclose(10 ** binomial_log10_p(np.arange(n + 1), n, f), tails, rtol=1e-12)
    assert float(binomial_log10_p(0, 5, 0.0)) == 0.0
    assert float(binomial_log10_p(1, 5, 0.0)) == -np.inf
    assert float(binomial_log10_p(5, 5, 1.0)) == 0.0
    assert float(binomial_log10_p(14, 155, 4.5 / 155)) == pytest.approx(
        np.log10(stats.binom.sf(13, 155, 4.5 / 155)), rel=1e-10
    )


@pytest.mark.parametrize(
    ("k", "n", "f"),
    [
        (450, 1000, 0.05),
        (999, 1000, 0.3),
        (1000, 1000, 0.3),
        (300, 300, 1e-3),
        (20_000, 100_000, 0.05),
        (40, 1000, 1e-9),
    ],
)
def test_tails_beyond_the_smallest_float(k, n, f):
    """Against the sum of the tail in forty digits."""
    with mpmath.workdps(40):
        p = mpmath.mpf(f)
        term = mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k)
        total, j = mpmath.mpf(0), k
        while j <= n and (total == 0 or term > total * mpmath.mpf(10) ** -30):
            total += term
            term *= mpmath.mpf(n - j) / (j + 1) * p / (1 - p)
            j += 1
        truth = float(mpmath.log10(total))
    assert truth < -250
    assert float(binomial_log10_p(k, n, f)) == pytest.approx(truth, rel=1e-11)


def test_the_tail_is_continuous_where_the_method_changes():
    k = np.arange(350, 480)
    values = binomial_log10_p(k, 1000, 0.05)
    assert values[0] > -250 > values[-1]
    assert np.all(np.abs(np.diff(values, 3)) < 1e-3)  # no step


def test_very_many_events():
    """A normal tail with 1e11 events: log sf of 30 standard deviations."""
    n, f = 1e11, 0.25
    sigma = np.sqrt(n * f * (1 - f))
    found = float(binomial_log10_p(np.floor(n * f + 40 * sigma), n, f))
    assert found == pytest.approx(stats.norm.logsf(40) / np.log(10), rel=1e-3)


def test_the_deviance_brackets_the_tail():
    n, f = 231, 0.03
    k = np.arange(12, 231)
    log_p = binomial_log10_p(k, n, f) * np.log(10)
    deviance = half_deviance(k.astype(float), np.float64(n), np.float64(f))
    assert np.all(log_p <= -deviance)
    assert np.all(log_p >= -deviance - 0.5 * np.log(8 * k * (1 - k / n)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, 5, 0.1), "n_on must be at most n_total"),
        ((1.5, 5, 0.1), "n_on must be a whole number; weighted events"),
        ((1, 5.5, 0.1), "n_total must be a whole number"),
        ((1, 5, 1.2), "fraction must be between 0 and 1"),
        ((1, 5, -0.1), "fraction must be finite and not negative"),
    ],
)
def test_impossible_tails_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        binomial_log10_p(*arguments)
