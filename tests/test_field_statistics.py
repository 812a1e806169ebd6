"""diffcr.field_statistics on fields whose statistics are known exactly: constants, screws, single waves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from diffcr.errors import InputError
from diffcr.field_statistics import (
    Estimate,
    MeasuredCorrelation,
    MeasuredLineSpectrum,
    band_shares,
    draw_fields,
    measure_correlation,
    measure_gradients,
    measure_line_spectrum,
    measure_moments,
    measured_coherence_length,
)
from diffcr.spectrum import PowerLaw, line_spectra, variance_between

KEY = jax.random.key(3)
K = 2 * np.pi


class Wave(eqx.Module):
    """a cos(k . x + phase), of no code of the package."""

    k: Float[Array, "3"]
    a: Float[Array, "3"]
    phase: Float[Array, ""]

    def __call__(self, position):
        return self.a[:, None] * jnp.cos(self.k @ position + self.phase)


def random_wave(key):
    """One linearly polarised wave of wavelength 1 and mean square 1/2, from anywhere."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    k, other = rng.normal(size=(2, 3))
    k /= np.linalg.norm(k)
    a = np.cross(k, other)
    return Wave(*(jnp.asarray(v) for v in (K * k, a / np.linalg.norm(a), rng.uniform(0, K))))


def screw(sign, k=K):
    """curl B = sign k B."""
    return lambda x: jnp.stack([jnp.cos(k * x[2]), -sign * jnp.sin(k * x[2]), 0 * x[2]])


def constant(x):
    return jnp.broadcast_to(jnp.array([1.0, -2.0, 2.0])[:, None], x.shape)


WAVES = draw_fields(random_wave, KEY, 300)


# Moments


def test_the_moments_of_a_constant_field_are_exact():
    found = measure_moments(constant, KEY, extent=10.0, points=50)
    np.testing.assert_allclose(found.mean.value, [1, -2, 2], rtol=1e-14)
    np.testing.assert_allclose(found.rms.value, 3, rtol=1e-14)
    np.testing.assert_allclose(found.shares.value, [1 / 9, 4 / 9, 4 / 9], rtol=1e-14)
    np.testing.assert_allclose(found.shares.error, 0, atol=1e-14)


def test_the_moments_of_one_wave_have_the_errors_of_random_points():
    """<B_x^2> of a cos: a^2 / 2, with the variance a^4 / 8 at one point; <B> zero with a^2 / 2."""
    wave = Wave(jnp.array([0, 0, K]), jnp.array([2.0, 0.0, 0.0]), jnp.array(0.3))
    found = measure_moments(wave, KEY, extent=50.0, points=5000)
    np.testing.assert_allclose(found.mean_square.error, np.sqrt(2 / 5000), rtol=0.05)
    np.testing.assert_allclose(found.mean.error[0], np.sqrt(2 / 5000), rtol=0.05)
    np.testing.assert_allclose(found.rms.error, found.mean_square.error / (2 * np.sqrt(2)), rtol=0.05)
    assert abs(found.mean_square.deviation(2.0)) < 4
    assert abs(found.mean.deviation(0.0)[0]) < 4
    np.testing.assert_array_equal(found.shares.value, [1, 0, 0])


def test_many_points_in_blocks_are_the_same_points():
    """x itself as the field: its mean square over the cube is extent^2 / 12 in each component."""
    found = measure_moments(lambda x: x, KEY, extent=6.0, points=5001)
    assert np.all(np.abs(found.mean.value) < 4 * np.sqrt(3 / 5001))
    assert np.all(np.abs(found.shares.deviation(1 / 3)) < 4)
    assert abs(found.mean_square.deviation(9.0)) < 4


def test_errors_over_realisations_are_those_of_repeated_measurements():
    """Of 30 groups of 10 waves, each a sample of the ensemble, the deviations must scatter by their errors. Errors
    from the points within the realisations alone would be some five times too small."""
    groups = [WAVES[i : i + 10] for i in range(0, 300, 10)]
    found = [measure_moments(group, KEY, extent=100.0, points=400).shares.deviation(1 / 3) for group in groups]
    scatter = np.sqrt(np.mean(np.square(found)))
    # Student's t of 9 degrees of freedom: 1.13.
    assert 0.9 < scatter < 1.4
    within = measure_moments(WAVES[0], KEY, extent=100.0, points=400).shares
    assert np.max(np.abs(within.deviation(1 / 3))) > 10


# Correlation functions


def test_correlations_of_waves_from_everywhere_are_those_of_isotropic_turbulence():
    """One wave number: trace sin z / z, longitudinal (sin z - z cos z) / z^3."""
    s = np.array([0.0, 0.1, 0.25, 0.5, 0.8])
    found = measure_correlation(WAVES, s, KEY, extent=100.0, points=100)
    z = K * s[1:]
    trace, along = np.sin(z) / z, (np.sin(z) - z * np.cos(z)) / z**3
    assert np.all(np.abs(found.trace.deviation(np.concatenate([[1.0], trace]))[1:]) < 4)
    assert np.all(np.abs(found.longitudinal.deviation(np.concatenate([[1 / 3], along]))) < 4)
    assert np.all(np.abs(found.transverse.deviation(np.concatenate([[1 / 3], (trace - along) / 2]))) < 4)
    assert np.all(found.trace.error < 0.02) and np.all(found.longitudinal.error < 0.03)
    np.testing.assert_allclose(found.trace.value[0], 1, rtol=1e-14)
    np.testing.assert_allclose(found.trace.error[0], 0, atol=1e-14)


def test_correlations_along_a_given_direction():
    """A screw along z: cos(k s) along it, 1 across it, and nothing of B along z."""
    s = np.array([0.0, 0.2, 0.45])
    along = measure_correlation(screw(1), s, KEY, extent=50.0, points=20, direction=np.array([0, 0, 7.0]))
    np.testing.assert_allclose(along.trace.value, np.cos(K * s), atol=1e-12)
    np.testing.assert_allclose(along.longitudinal.value, 0, atol=1e-12)
    np.testing.assert_allclose(along.transverse.value, np.cos(K * s) / 2, atol=1e-12)
    across = measure_correlation(screw(1), s, KEY, extent=50.0, points=20, direction=np.array([1.0, 0, 0]))
    np.testing.assert_allclose(across.trace.value, 1, atol=1e-12)


def test_the_coherence_length_is_twice_the_area_under_the_correlation():
    """Over the full line; by trapezia over uneven steps, with the error of the whole sum."""
    samples = np.array([[1.0, 0.5, 0.2], [1.0, 0.3, -0.4]])
    estimate = Estimate(jnp.asarray(samples.mean(axis=0)), jnp.asarray(samples.std(axis=0, ddof=1) / np.sqrt(2)))
    distance = jnp.array([0.0, 1.0, 4.0])
    found = measured_coherence_length(MeasuredCorrelation(distance, estimate, estimate, estimate, jnp.asarray(samples)))
    areas = np.array([2 * (0.75 + 1.05), 2 * (0.65 - 0.15)])
    np.testing.assert_allclose(found.length.value, areas.mean(), rtol=1e-14)
    np.testing.assert_allclose(found.length.error, abs(areas[0] - areas[1]) / 2, rtol=1e-14)
    assert float(found.reach) == 4.0
    np.testing.assert_allclose(found.last.value, -0.1, atol=1e-14)
    np.testing.assert_allclose(found.last.error, 0.3, rtol=1e-12)


# Gradients


@pytest.mark.parametrize("sign", [1, -1])
def test_a_screw_is_its_own_curl(sign):
    found = measure_gradients(screw(sign, 3.0), KEY, extent=50.0, points=40)
    np.testing.assert_allclose(found.curl.value, sign * 3.0, rtol=1e-12)
    np.testing.assert_allclose(found.helicity.value, sign, rtol=1e-12)
    np.testing.assert_allclose(found.mean_square.value, 9.0, rtol=1e-12)
    assert found.divergence < 1e-15 and found.largest_divergence < 1e-15


def test_every_component_of_the_curl_has_its_sign():
    """Screws along x and y, the z axis of the last turned cyclically."""
    for shift in (1, 2):
        turned = lambda x, shift=shift: jnp.roll(screw(1, 3.0)(jnp.roll(x, -shift, axis=0)), shift, axis=0)
        np.testing.assert_allclose(measure_gradients(turned, KEY, extent=9.0, points=20).curl.value, 3.0, rtol=1e-12)


def test_gradients_of_a_twisted_tube():
    """B = (-y, x, 1): curl B = (0, 0, 2), gradients 2, <B^2> = 1 + extent^2 / 6."""
    tube = lambda x: jnp.stack([-x[1], x[0], jnp.ones_like(x[0])])
    found = measure_gradients((tube,) * 20, KEY, extent=3.0, points=500)
    assert abs(found.curl.deviation(2 / 2.5)) < 4 and found.curl.error < 0.01
    assert abs(found.helicity.deviation(1 / np.sqrt(2.5))) < 4 and found.helicity.error < 0.005
    assert abs(found.mean_square.deviation(2 / 2.5)) < 4
    assert float(found.divergence) == 0


def test_divergence_is_found_where_there_is_any():
    """B = (x, y^2 / 2, 0) has div B = 1 + y: rms sqrt(1 + L^2 / 12) of gradients of the same size."""
    field = lambda x: jnp.stack([x[0], x[1] ** 2 / 2, 0 * x[2]])
    found = measure_gradients(field, KEY, extent=2.0, points=4000)
    np.testing.assert_allclose(found.divergence, 1.0, rtol=0.06)
    np.testing.assert_allclose(found.largest_divergence, 2 / np.sqrt(1 + 1 / 3), rtol=0.02)
    several = measure_gradients((field, field), KEY, extent=2.0, points=2000)
    np.testing.assert_allclose(several.largest_divergence, 2 / np.sqrt(1 + 1 / 3), rtol=0.02)


# Spectra along lines


def test_a_wave_along_the_line_is_a_peak_of_its_variance():
    """On a wave number of the line Hann's window spreads it as 1/6, 2/3, 1/6 over three."""
    options = {"length": 8.0, "samples": 64, "lines": 3, "extent": 20.0}
    found = measure_line_spectrum(screw(1), KEY, direction=np.array([0, 0, 1.0]), **options)
    step = 2 * np.pi / 8
    np.testing.assert_allclose(found.k, step * np.arange(1, 32), rtol=1e-14)
    expected = np.zeros(31)
    expected[[6, 7, 8]] = np.array([1, 4, 1]) / 6 / step
    np.testing.assert_allclose(found.trace.value, expected, atol=1e-12)
    np.testing.assert_allclose(found.transverse.value, expected / 2, atol=1e-12)
    np.testing.assert_allclose(found.longitudinal.value, 0, atol=1e-12)
    across = measure_line_spectrum(screw(1), KEY, direction=np.array([0, 1.0, 0]), **options)
    np.testing.assert_allclose(across.trace.value[1:], 0, atol=1e-12)


def test_a_slanted_wave_is_seen_longer_and_along_the_line():
    """At 60 degrees to the line: half the wave number; B in the plane of both has 3/4 of its variance along it."""
    k = np.array([0, np.sin(np.pi / 3), np.cos(np.pi / 3)])
    a = np.array([0, np.cos(np.pi / 3), -np.sin(np.pi / 3)])
    wave = Wave(jnp.asarray(K * k), jnp.asarray(a), jnp.array(0.1))
    found = measure_line_spectrum(
        wave, KEY, length=16.0, samples=128, lines=200, extent=99.0, direction=np.array([0, 0, 1.0])
    )
    step = 2 * np.pi / 16
    assert int(np.argmax(found.trace.value)) + 1 == 8
    np.testing.assert_allclose(step * np.sum(found.trace.value), 1, rtol=1e-10)
    np.testing.assert_allclose(step * np.sum(found.longitudinal.value), 3 / 4, rtol=1e-10)
    np.testing.assert_allclose(step * np.sum(found.transverse.value), 1 / 8, rtol=1e-10)


def test_waves_from_everywhere_fill_the_line_up_to_their_wave_number():
    """Of one wave number, E_L = (1 - u^2) / 2 k and E_T = (1 + u^2) / 4 k of u = k1 / k < 1, and nothing above."""
    found = measure_line_spectrum(WAVES, KEY, length=10.0, samples=40, lines=20, extent=99.0)
    inside = slice(2, 7)
    u = np.asarray(found.k)[inside] / K
    for name, expected in (("longitudinal", (1 - u**2) / 2), ("transverse", (1 + u**2) / 4), ("trace", 1 + 0 * u)):
        of = getattr(found, name)
        assert np.all(np.abs(of.deviation(0.0)[inside] - expected / K / of.error[inside]) < 4), name
        assert np.all(of.error[inside] < 0.1 / K)
    np.testing.assert_allclose(found.trace.value[13:], 0, atol=1e-3 / K)


def exact_line_spectrum(spectrum, length, modes):
    k = 2 * jnp.pi / length * jnp.arange(1, modes)
    trace = line_spectra(spectrum, k).trace
    estimate = Estimate(trace, 0 * trace)
    return MeasuredLineSpectrum(k, estimate, estimate, estimate, jnp.stack([0.9 * trace, 1.1 * trace]))


def test_shares_of_bands_come_back_from_exact_line_spectra():
    """Steeply falling and rising power; the trace itself, or its integral over the band, is far off."""
    for slope in (5 / 3, -1.0):
        spectrum = PowerLaw(slope, smallest=0.01, largest=1.0)
        edges = 10 * 2.0 ** np.arange(6)
        expected = np.asarray(variance_between(spectrum, edges[:-1], edges[1:]))
        line = exact_line_spectrum(spectrum, 40.0, 4000)
        found = band_shares(line, edges, 0.1)
        np.testing.assert_allclose(found.value, expected, rtol=0.01)
        np.testing.assert_allclose(found.error, 0.1 * found.value, rtol=1e-10)


def test_soft_bands_hold_what_their_edges_let_through():
    """Against the integral of P over the soft band, by quadrature; wide edges for it to matter."""
    spectrum = PowerLaw(5 / 3, smallest=0.01, largest=1.0)
    found = band_shares(exact_line_spectrum(spectrum, 200.0, 20000), np.array([20.0, 80.0]), 0.6)
    x = np.linspace(np.log(2 * np.pi), np.log(200 * np.pi), 200001)
    soft = np.interp(x, np.log(20) + [-0.6, 0.6], [0, 1]) - np.interp(x, np.log(80) + [-0.6, 0.6], [0, 1])
    expected = np.sum(soft * np.exp(-2 / 3 * x)) / np.sum(np.exp(-2 / 3 * x))
    np.testing.assert_allclose(found.value[0], expected, rtol=1e-3)
    assert abs(expected / float(variance_between(spectrum, 20.0, 80.0)) - 1) > 0.02


# Realisations and precision


def test_realisations_are_drawn_from_different_keys():
    fields = draw_fields(lambda key: Wave(jnp.zeros(3), jax.random.normal(key, (3,)), jnp.array(0.0)), KEY, 5)
    assert len(fields) == 5 and len({float(field.a[0]) for field in fields}) == 5


def test_the_same_key_measures_the_same():
    first, second, other = (
        measure_moments(WAVES[:2], key, extent=10.0, points=10) for key in (KEY, KEY, jax.random.key(4))
    )
    assert float(first.mean_square.value) == float(second.mean_square.value) != float(other.mean_square.value)


def test_fields_in_32_bits():
    with jax.enable_x64(False):
        found = measure_gradients(screw(1, 3.0), KEY, extent=5.0, points=40)
        assert found.curl.value.dtype == jnp.float32
        np.testing.assert_allclose(found.curl.value, 3.0, rtol=1e-5)
        assert found.divergence < 1e-6
        moments = measure_moments(screw(1), KEY, extent=5.0, points=40)
        np.testing.assert_allclose(moments.rms.value, 1.0, rtol=1e-5)


# Wrong input

LINE = {"length": 8.0, "samples": 64, "lines": 3, "extent": 20.0}


class Fine(Wave):
    smallest_wavelength: float = 0.1


FINE = Fine(WAVES[0].k, WAVES[0].a, WAVES[0].phase)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: measure_moments((), KEY, extent=1.0), "statistics need a field or a sequence of at least one"),
        (lambda: measure_moments(constant, KEY, extent=1.0, points=1), "number of points must be a whole number of at"),
        (lambda: measure_gradients(constant, KEY, extent=0.0), "extent of the cube of points must be finite and pos"),
        (lambda: measure_gradients(constant, KEY, extent=np.nan), "extent of the cube of points must be finite"),
        (
            lambda: measure_correlation(constant, np.array([0.0, -1.0]), KEY, extent=1.0),
            "must be finite and not negative, not -1.0 as number 1",
        ),
        (
            lambda: measure_correlation(constant, np.array([0.0]), KEY, extent=1.0, direction=np.zeros(3)),
            "direction must be a finite vector other than zero",
        ),
        (
            lambda: measured_coherence_length(measure_correlation(screw(1), np.array([0.1, 0.2]), KEY, extent=9.0)),
            "distances that begin with 0 and ascend",
        ),
        (lambda: measure_line_spectrum(constant, KEY, **LINE | {"samples": 63}), "must be an even number, not 63"),
        (lambda: measure_line_spectrum(constant, KEY, **LINE | {"samples": 6}), "samples on a line must be a whole"),
        (lambda: measure_line_spectrum(constant, KEY, **LINE | {"length": -1.0}), "length of a line must be finite"),
        (
            lambda: measure_line_spectrum(FINE, KEY, **LINE),
            "0.125 apart, above half the smallest wavelength 0.1: take at least 160 samples, or a shorter line",
        ),
        (
            lambda: band_shares(exact_line_spectrum(PowerLaw(smallest=0.1, largest=1.0), 9.0, 99), np.array([9.0])),
            "two",
        ),
        (
            lambda: band_shares(
                exact_line_spectrum(PowerLaw(smallest=0.1, largest=1.0), 9.0, 99), np.array([20.0, 21.0])
            ),
            "ascend by 0.3 or more in ln k",
        ),
        (
            lambda: band_shares(
                exact_line_spectrum(PowerLaw(smallest=0.1, largest=1.0), 9.0, 99), np.array([2.0, 30.0])
            ),
            "must lie between 13.96 and 58.89",
        ),
        (lambda: draw_fields(random_wave, KEY, 0), "number of realisations must be a whole number of at least 1"),
    ],
)
def test_wrong_input_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
