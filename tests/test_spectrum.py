"""diffcr.spectrum against closed forms, scipy's oscillatory quadrature and averages over directions done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import integrate, optimize, special

from diffcr import spectrum as spectra
from diffcr.errors import InputError
from diffcr.spectrum import (
    BendOver,
    PowerLaw,
    UserSpectrum,
    coherence_length,
    line_spectra,
    planar_coherence_length,
    power_law_with_coherence_length,
    variance_between,
    wavenumber_mean,
)

KOLMOGOROV = PowerLaw(5 / 3, smallest=0.01, largest=1.0)
STEEP = PowerLaw(3.5, smallest=0.5, largest=0.6)
BEND = BendOver(1.0, 5 / 3, 0.01, 100.0)


def hump(k):
    return jnp.exp(-2 * jnp.log(k / 20) ** 2)


HUMP = UserSpectrum(hump, 0.02, 10.0)
# Each with its P(k) written out again in NumPy.
CASES = [
    pytest.param(KOLMOGOROV, lambda k: k ** (-5 / 3), id="Kolmogorov"),
    pytest.param(STEEP, lambda k: k**-3.5, id="a fifth of an octave"),
    pytest.param(BEND, lambda k: k**2 / (1 + k ** (11 / 3)), id="bend over"),
    pytest.param(HUMP, lambda k: np.exp(-2 * np.log(k / 20) ** 2), id="user"),
]
each = pytest.mark.parametrize(("spectrum", "p"), CASES)

correlation = jax.jit(spectra.correlation)
slab_correlation = jax.jit(spectra.slab_correlation)
planar_correlation = jax.jit(spectra.planar_correlation)
slab_correlation_length = jax.jit(spectra.slab_correlation_length)


def integral(f, spectrum, low=None, high=None):
    """int f(k) dk over the band, in ln k."""
    low = 2 * np.pi / spectrum.largest if low is None else low
    high = 2 * np.pi / spectrum.smallest if high is None else high
    node, weight = np.polynomial.legendre.leggauss(25)
    edges = np.linspace(np.log(low), np.log(high), 601)
    half = np.diff(edges)[:, None] / 2
    k = np.exp(edges[:-1, None] + half * (1 + node))
    return np.sum(half * weight * k * f(k))


def waves(f, spectrum, s, weight):
    """int f(k) cos or sin(k s) dk by the quadrature of QUADPACK for oscillations, panel by panel."""
    edges = np.geomspace(2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest, 40)
    pairs = zip(edges[:-1], edges[1:], strict=True)
    options = {"weight": weight, "wvar": s, "limit": 400, "epsabs": 1e-13, "epsrel": 1e-11}
    return sum(integrate.quad(f, *ends, **options)[0] for ends in pairs)


# The spectra


@each
def test_power_has_the_shape_that_was_asked_for_and_ends_at_the_band(spectrum, p):
    low, high = 2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest
    k = np.geomspace(low, high, 9)[1:-1]
    power = np.asarray(spectrum.power(k))
    np.testing.assert_allclose(power / power[3], p(k) / p(k[3]), rtol=1e-12)
    outside = spectrum.power(np.array([0.0, 0.999 * low, 1.001 * high, np.inf]))
    np.testing.assert_array_equal(outside, 0.0)
    assert np.all(np.asarray(spectrum.power(np.array([low, high]))) > 0)


def test_power_takes_a_number_or_any_shape():
    assert KOLMOGOROV.power(20).shape == ()
    assert KOLMOGOROV.power(np.full((2, 3), 20.0)).shape == (2, 3)
    constant = UserSpectrum(lambda k: 2.0, 0.1, 1.0)
    np.testing.assert_array_equal(constant.power(np.array([1.0, 20.0])), [0.0, 2.0])


def test_the_bend_has_its_maximum_where_the_slope_says():
    spectrum = BendOver(bend_length=3.0, slope=1.5, smallest=0.01, largest=1000.0)
    k = optimize.minimize_scalar(lambda k: -float(spectrum.power(k)), bounds=(0.05, 2), options={"xatol": 1e-9}).x
    np.testing.assert_allclose(3 * k, (2 / 1.5) ** (1 / 3.5), rtol=1e-4)


def test_derivatives_outside_the_band_are_zero_and_not_undefined():
    for spectrum in (KOLMOGOROV, BEND, HUMP):
        gradient = jax.vmap(jax.grad(lambda k, of=spectrum: of.power(k)))(jnp.array([0.0, 1e5]))
        np.testing.assert_array_equal(gradient, 0.0)


# Coherence lengths


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        (PowerLaw(5 / 3, smallest=1e-2, largest=1.0), 0.2096377),
        (PowerLaw(5 / 3, smallest=1e-4, largest=1.0), 0.2004318),
        (PowerLaw(3 / 2, smallest=1e-3, largest=1.0), 0.1721038),
        (PowerLaw(smallest=1e-10, largest=1.0), 0.2),
        (BendOver(), 1.73447),
        (BendOver(), 2 * 0.8672),
    ],
)
def test_coherence_lengths_over_the_full_line(spectrum, expected):
    """The power laws from the closed form, the bend from its band 0.01 to 100; half-line conventions give half."""
    digits = 5e-5 if expected == 2 * 0.8672 else 3e-6
    np.testing.assert_allclose(coherence_length(spectrum), expected, rtol=digits)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.999, 1.0, 1.001, 1.5, 3.0])
def test_the_closed_form_holds_at_every_slope(slope):
    """Including 0 and 1, where a power of k integrates to a logarithm."""
    spectrum = PowerLaw(slope, smallest=0.03, largest=2.0)
    expected = np.pi * integral(lambda k: k ** (-slope - 1), spectrum) / integral(lambda k: k**-slope, spectrum)
    np.testing.assert_allclose(coherence_length(spectrum), expected, rtol=1e-12)


@each
def test_coherence_length_is_the_integral_of_the_correlation(spectrum, p):
    """2 int_0^S R ds = 2 int P Si(k S) / k dk / int P dk at finite S, and S to infinity in pi / 2."""
    s_max = 2 * spectrum.largest
    edges = np.concatenate([[0.0], np.geomspace(spectrum.smallest / 4, s_max, 120)])
    node, weight = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    s = edges[:-1, None] + half * (1 + node)
    measured = 2 * np.sum(half * weight * np.asarray(correlation(spectrum, s).trace))
    total = integral(p, spectrum)
    expected = 2 * integral(lambda k: p(k) / k * special.sici(k * s_max)[0], spectrum) / total
    np.testing.assert_allclose(measured, expected, rtol=1e-6)
    limit = np.pi * integral(lambda k: p(k) / k, spectrum) / total
    np.testing.assert_allclose(coherence_length(spectrum), limit, rtol=1e-11)


@pytest.mark.parametrize("slope", [1.0, 1.5, 5 / 3])
@pytest.mark.parametrize("ratio", [1.5, 100.0, 1e5])
def test_a_power_law_is_made_with_the_coherence_length_asked_for(slope, ratio):
    spectrum = power_law_with_coherence_length(3.0, slope, ratio)
    p = lambda k: k**-slope
    expected = np.pi * integral(lambda k: p(k) / k, spectrum) / integral(p, spectrum)
    np.testing.assert_allclose(expected, 3.0, rtol=1e-11)
    np.testing.assert_allclose(spectrum.largest / spectrum.smallest, ratio, rtol=1e-12)
    assert isinstance(spectrum.largest, float)


@given(scale=st.floats(1e-4, 1e4), slope=st.floats(0.5, 3.0))
@settings(deadline=None, max_examples=10)
def test_lengths_scale_with_the_band(scale, slope):
    one = PowerLaw(slope, smallest=0.1, largest=2.0)
    other = PowerLaw(slope, smallest=0.1 * scale, largest=2.0 * scale)
    np.testing.assert_allclose(coherence_length(other), scale * coherence_length(one), rtol=1e-12)
    np.testing.assert_allclose(slab_correlation_length(other), scale * slab_correlation_length(one), rtol=1e-9)


@each
def test_the_slab_length_is_where_its_correlation_first_falls_to_1_over_e(spectrum, p):
    total = integral(p, spectrum)
    excess = lambda s: waves(p, spectrum, s, "cos") / total - np.exp(-1)
    length = float(slab_correlation_length(spectrum))
    assert abs(excess(length)) < 1e-9
    assert all(excess(s) > 0 for s in length * np.array([0.1, 0.3, 0.6, 0.9, 0.99]))


def test_the_slab_length_of_a_single_wave_is_that_of_its_cosine():
    nearly = UserSpectrum(lambda k: 1.0 + 0.0 * k, 1.0, 1.0001)
    np.testing.assert_allclose(slab_correlation_length(nearly), np.arccos(np.exp(-1)) / (2 * np.pi), rtol=1e-4)


@each
def test_the_planar_coherence_length_is_twice_the_mean_of_1_over_k(spectrum, p):
    """int_-inf^inf J_0(k s) ds = 2 / k."""
    expected = 2 * integral(lambda k: p(k) / k, spectrum) / integral(p, spectrum)
    np.testing.assert_allclose(planar_coherence_length(spectrum), expected, rtol=1e-11)


@each
@pytest.mark.parametrize("exponent", [-2, 1, 2])
def test_means_of_powers_of_the_wave_number(spectrum, p, exponent):
    expected = integral(lambda k: k**exponent * p(k), spectrum) / integral(p, spectrum)
    np.testing.assert_allclose(wavenumber_mean(spectrum, exponent), expected, rtol=1e-11)


# Variance in bands


@each
def test_variance_between_is_the_share_of_the_integral(spectrum, p):
    low, high = 2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest
    a, b = low * (high / low) ** 0.37, low * (high / low) ** 0.61
    expected = integral(p, spectrum, a, b) / integral(p, spectrum)
    np.testing.assert_allclose(variance_between(spectrum, a, b), expected, rtol=1e-11)
    np.testing.assert_allclose(variance_between(spectrum, 0.0, np.inf), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(
        variance_between(spectrum, np.array([b, 0.0, 2 * high]), np.array([a, low / 2, 3 * high])), 0.0
    )


def test_shares_of_neighbouring_bands_add_up_to_one():
    for spectrum in (KOLMOGOROV, BEND, HUMP):
        edge = np.concatenate([[0.0], np.geomspace(0.1, 500.0, 20), [np.inf]])
        shares = variance_between(spectrum, edge[:-1], edge[1:])
        assert shares.shape == (21,)
        np.testing.assert_allclose(np.sum(shares), 1.0, rtol=1e-12)


# Correlation functions


@each
def test_correlation_functions_agree_with_oscillatory_quadrature(spectrum, p):
    """From a tenth of the smallest wavelength to a hundred times the largest."""
    s = np.concatenate([spectrum.smallest * np.array([0.1, 0.4]), spectrum.largest * np.array([0.05, 0.4, 1.3, 100.0])])
    found, slab = correlation(spectrum, s), slab_correlation(spectrum, s)
    total = integral(p, spectrum)
    for i, x in enumerate(s):
        trace = waves(lambda k: p(k) / k, spectrum, x, "sin") / x / total
        np.testing.assert_allclose(found.trace[i], trace, atol=1e-10)
        np.testing.assert_allclose(slab[i], waves(p, spectrum, x, "cos") / total, atol=1e-10)


@pytest.mark.parametrize("s", [1e-3, 0.03, 0.21, 1.7, 4.0])
def test_longitudinal_and_transverse_are_averages_over_directions_of_k(s):
    """A wave along mu has the share (1 - mu^2) / 2 of its variance along the separation, (1 + mu^2) / 4 in each
    direction across it, and turns by k s mu."""
    spectrum = PowerLaw(5 / 3, smallest=0.1, largest=1.0)
    mu, weight = np.polynomial.legendre.leggauss(250)
    x, dx = np.polynomial.legendre.leggauss(200)
    k = 2 * np.pi * 10 ** ((x + 1) / 2)
    share = dx * k ** (-2 / 3)
    turns = np.cos(k[:, None] * s * mu) * weight / 2
    expected_l = share @ turns @ ((1 - mu**2) / 2) / np.sum(share)
    expected_t = share @ turns @ ((1 + mu**2) / 4) / np.sum(share)
    found = correlation(spectrum, s)
    np.testing.assert_allclose(found.longitudinal, expected_l, atol=1e-11)
    np.testing.assert_allclose(found.transverse, expected_t, atol=1e-11)


@each
def test_the_correlation_tensor_is_free_of_divergence(spectrum, p):
    """R_T = d(s^2 R_L) / ds / 2 s, by differences that no kernel enters."""
    s = spectrum.smallest * np.array([0.3, 1.0, 7.0])
    h = 1e-4 * spectrum.smallest
    square = lambda x: x**2 * np.asarray(correlation(spectrum, x).longitudinal)
    derivative = (8 * (square(s + h) - square(s - h)) - (square(s + 2 * h) - square(s - 2 * h))) / (12 * h)
    np.testing.assert_allclose(correlation(spectrum, s).transverse, derivative / (2 * s), atol=1e-8)


@each
def test_correlations_at_zero_and_at_small_distance(spectrum, p):
    """R = 1 - <k^2> s^2 / 6, R_L = 1/3 - <k^2> s^2 / 30, slab 1 - <k^2> s^2 / 2, planar 1 - <k^2> s^2 / 4."""
    mean = integral(lambda k: k**2 * p(k), spectrum) / integral(p, spectrum)
    s = 1e-3 / np.sqrt(mean)
    at = correlation(spectrum, np.array([0.0, s]))
    np.testing.assert_allclose(at.trace, [1.0, 1 - 1e-6 / 6], rtol=1e-11)
    np.testing.assert_allclose(at.longitudinal, [1 / 3, 1 / 3 - 1e-6 / 30], rtol=1e-11)
    np.testing.assert_allclose(slab_correlation(spectrum, np.array([0.0, s])), [1.0, 1 - 1e-6 / 2], rtol=1e-11)
    np.testing.assert_allclose(planar_correlation(spectrum, np.array([0.0, s])), [1.0, 1 - 1e-6 / 4], rtol=1e-11)
    gradient = jax.jit(jax.grad(lambda x: spectra.correlation(spectrum, x).longitudinal))(0.0)
    np.testing.assert_array_equal(gradient, 0.0)


@each
def test_correlations_do_not_depend_on_the_sense_of_the_separation(spectrum, p):
    s = spectrum.largest * np.array([0.01, 3.0])
    np.testing.assert_array_equal(correlation(spectrum, -s).longitudinal, correlation(spectrum, s).longitudinal)


def test_the_planar_correlation_is_a_mean_of_bessel_functions():
    """Against scipy's J_0, through where its expansion for large arguments takes over."""
    spectrum = PowerLaw(5 / 3, smallest=0.1, largest=1.0)
    for s in (0.01, 0.3, 0.8, 3.0, 60.0):
        expected = integral(lambda k, s=s: k ** (-5 / 3) * special.j0(k * s), spectrum)
        np.testing.assert_allclose(
            planar_correlation(spectrum, s), expected / integral(lambda k: k ** (-5 / 3), spectrum), atol=2e-11
        )


# Spectra along a line


@each
def test_line_spectra_are_the_cosine_transforms_of_the_correlations(spectrum, p):
    """R_L(s) = int_0^inf E_L cos(k1 s) dk1, and the same across."""
    low, high = 2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest
    edges = np.concatenate([[0.0], np.geomspace(low, high, 100)])
    node, weight = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    k = edges[:-1, None] + half * (1 + node)
    lines = line_spectra(spectrum, k)
    for s in (0.0, 0.3 * spectrum.smallest, 2 * spectrum.smallest):
        turned = half * weight * np.cos(k * s)
        at = correlation(spectrum, s)
        np.testing.assert_allclose(np.sum(turned * lines.longitudinal), at.longitudinal, atol=1e-9)
        np.testing.assert_allclose(np.sum(turned * lines.transverse), at.transverse, atol=1e-9)


def test_power_comes_back_from_the_trace_along_a_line():
    """P(k) / int P = -k d trace / dk, by automatic differentiation; the plateau below the band is flat."""
    k = jnp.array([10.0, 80.0, 400.0])
    slope = jax.jit(jax.vmap(jax.grad(lambda k: line_spectra(KOLMOGOROV, k).trace)))(k)
    total = integral(lambda k: k ** (-5 / 3), KOLMOGOROV)
    np.testing.assert_allclose(-k * slope, np.asarray(k) ** (-5 / 3) / total, rtol=1e-9)
    below = line_spectra(KOLMOGOROV, np.array([0.0, 3.0]))
    np.testing.assert_allclose(below.trace[0], coherence_length(KOLMOGOROV) / np.pi, rtol=1e-12)
    np.testing.assert_allclose(below.trace[1], below.trace[0], rtol=1e-12)
    np.testing.assert_array_equal(line_spectra(KOLMOGOROV, 1e4).trace, 0.0)


# Derivatives and precision


def test_derivatives_with_respect_to_slope_band_and_distance():
    def closed(slope, smallest, largest):
        spectrum = PowerLaw(slope, smallest=smallest, largest=largest)
        return coherence_length(spectrum), variance_between(spectrum, 15.0, 40.0)

    # At 1 the integral of P is a logarithm.
    check_grads(jax.jit(closed), (1.0, 0.11, 1.3), order=1, rtol=1e-6)

    def curves(slope, smallest, s):
        found = spectra.correlation(PowerLaw(slope, smallest=smallest, largest=1.3), s)
        return found.trace, found.longitudinal

    check_grads(jax.jit(curves), (5 / 3, 0.11, 0.2), order=1, rtol=1e-6, atol=1e-7)

    def bend(length, s):
        spectrum = BendOver(length, 5 / 3, 0.1, 30.0)
        far = spectra.planar_correlation(spectrum, s)
        return coherence_length(spectrum), spectra.slab_correlation_length(spectrum), far

    check_grads(jax.jit(bend), (1.1, 6.0), order=1, modes=("fwd",), rtol=1e-6, atol=1e-7)
    check_grads(
        jax.jit(lambda length: power_law_with_coherence_length(length, 1.5, 30.0).largest), (2.0,), order=1, rtol=1e-7
    )


def test_32_bit_floats_lose_digits_and_nothing_else():
    """In parsec, over nine decades of wavelength, where powers of k leave the range of 32-bit floats."""
    spectrum = PowerLaw(5 / 3, smallest=1e-7, largest=100.0)
    s = np.array([0.0, 1e-8, 1e-6, 1e-3, 1.0, 30.0, 300.0])
    exact = correlation(spectrum, s)
    trace, longitudinal = np.asarray(exact.trace), np.asarray(exact.longitudinal)
    transverse = np.asarray(line_spectra(spectrum, np.array([0.0, 1e3, 1e7])).transverse)
    with jax.enable_x64(False):
        found = jax.jit(spectra.correlation)(spectrum, s)
        assert found.trace.dtype == jnp.float32
        np.testing.assert_allclose(found.trace, trace, atol=5e-6)
        np.testing.assert_allclose(found.longitudinal, longitudinal, atol=5e-6)
        np.testing.assert_allclose(coherence_length(spectrum), 20.0, rtol=1e-5)
        np.testing.assert_allclose(line_spectra(spectrum, np.array([0.0, 1e3, 1e7])).transverse, transverse, rtol=1e-4)
        np.testing.assert_allclose(coherence_length(BendOver()), 1.73447, rtol=1e-5)


# Wrong input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PowerLaw(smallest=2.0, largest=1.0),
            "the smallest wavelength of a spectrum, 2, must be below the largest, 1: exchange them, or widen the band",
        ),
        (lambda: BendOver(smallest=1.0, largest=1.0), "smallest wavelength of a spectrum, 1, must be below"),
        (
            lambda: PowerLaw(smallest=0.0, largest=1.0),
            "smallest wavelength of a spectrum must be finite and positive, not 0",
        ),
        (
            lambda: PowerLaw(smallest=-1, largest=1.0),
            "smallest wavelength of a spectrum must be finite and positive, not -1",
        ),
        (
            lambda: PowerLaw(smallest=0.1, largest=np.inf),
            "largest wavelength of a spectrum must be finite and positive",
        ),
        (lambda: PowerLaw(smallest=np.nan, largest=1.0), "smallest wavelength of a spectrum must be finite"),
        (lambda: PowerLaw(np.nan, smallest=0.1, largest=1.0), "slope of a spectrum must be finite, not nan"),
        (lambda: BendOver(bend_length=0.0), "bend_length of a spectrum must be positive, not 0.0: give a length"),
        (lambda: BendOver(bend_length=np.inf), "bend_length of a spectrum must be finite, not inf"),
        (lambda: BendOver(slope=-2.0), "slope of a spectrum that bends over must be above -2, not -2.0"),
        (lambda: UserSpectrum(lambda k: 10 - k, 0.1, 1.0), r"from 6\.\d+ to 62\.\d+, not -\d.* at k = 1\d"),
        (lambda: UserSpectrum(lambda k: k / 0.0, 0.1, 1.0), "not inf at k = 6"),
        (lambda: UserSpectrum(lambda k: 0.0 * k, 0.1, 1.0), "not 0 throughout: the function takes wave numbers"),
        (lambda: UserSpectrum(lambda k: k[0], 0.1, 1.0), "gave shape"),
        (lambda: UserSpectrum(hump, 1.0, 0.1), "smallest wavelength of a spectrum, 1, must be below the largest, 0.1"),
        (lambda: power_law_with_coherence_length(0.0), "coherence length of a spectrum must be positive, not 0.0"),
        (lambda: power_law_with_coherence_length(1.0, ratio=0.01), "ratio of a spectrum must be above 1, not 0.01"),
        (lambda: power_law_with_coherence_length(np.nan), "coherence length of a spectrum must be finite"),
    ],
)
def test_wrong_input_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_checks_let_traced_values_pass():
    length = jax.jit(lambda x: coherence_length(PowerLaw(5 / 3, smallest=x, largest=100 * x)))(0.01)
    np.testing.assert_allclose(length, 0.2096377, rtol=1e-6)
    scaled = jax.jit(lambda c: coherence_length(UserSpectrum(lambda k: c * hump(k), 0.02, 10.0)))(3.0)
    np.testing.assert_allclose(scaled, coherence_length(HUMP), rtol=1e-12)
