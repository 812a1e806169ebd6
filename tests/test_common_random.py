"""Differences with common random numbers against their known variances, and in turbulence before and after chaos."""

import jax
import numpy as np
import pytest

from diffcr.common_random import common_random_difference
from diffcr.errors import InputError
from diffcr.spectrum import PowerLaw
from diffcr.transport_coefficients import coefficients, measure_moments
from diffcr.turbulence import Sum, Uniform, draw_plane_waves

KEYS = jax.random.split(jax.random.key(6), 200)
UP = Uniform([0.0, 0.0, 1.0])


def test_derivative_error_and_correlation_are_those_of_a_known_process():
    """f = a^2 + z + s w(a): the common z cancels, w of its own for each value does not."""

    def function(value, key):
        common, own = jax.random.split(key)
        own = jax.random.fold_in(own, int(1000 * value))
        return value**2 + jax.random.normal(common, ()) + 0.1 * jax.random.normal(own, ())

    found = common_random_difference(function, (1.0, 1.4), KEYS)
    assert found.number == 200
    assert abs(found.derivative - 2.4) < 4 * found.error
    np.testing.assert_allclose(found.error, 0.1 * np.sqrt(2 / 200) / 0.4, rtol=0.2)
    np.testing.assert_allclose(found.independent_error, np.sqrt(2 * 1.01 / 200) / 0.4, rtol=0.2)
    np.testing.assert_allclose(found.correlation, 1 / 1.01, atol=0.005)
    np.testing.assert_allclose(found.variance_reduction, 101, rtol=0.35)
    assert found.is_correlated


def test_numbers_without_anything_in_common_gain_nothing():
    """Each entry of a result for itself: one common, one destroyed."""

    def function(value, key):
        own = jax.random.fold_in(key, int(1000 * value))
        return np.array([float(jax.random.normal(key, ())) * value, float(jax.random.normal(own, ()))])

    found = common_random_difference(function, (1.0, 1.1), KEYS)
    np.testing.assert_array_equal(found.is_correlated, [True, False])
    np.testing.assert_allclose(found.variance_reduction[1], 1.0, atol=0.25)
    assert found.variance_reduction[0] > 100
    # The estimate is unbiased in either case.
    assert np.all(np.abs(found.derivative - 0) < 4 * found.error)


def test_what_has_no_difference_is_refused():
    function = lambda value, key: value
    for values in ((1.0, 1.0), (2.0, 1.0), (np.nan, 1.0)):
        with pytest.raises(InputError, match="a low and a high value"):
            common_random_difference(function, values, KEYS[:3])
    with pytest.raises(InputError, match="two keys or more"):
        common_random_difference(function, (1.0, 2.0), KEYS[:1])


@pytest.mark.slow
def test_chaos_takes_away_what_common_paths_have_in_common():
    """d <z^2> / 2T d ln r_L in turbulence of dB = B_0: 8 particles in each field, up to Omega T = 2 and 100."""
    spectrum = PowerLaw(slope=5 / 3, smallest=0.1, largest=4.0)

    def coefficient(turns):
        def function(value, key):
            fields = [Sum((UP, draw_plane_waves(key, spectrum, 60)))] * 2
            radius = float(np.exp(value))
            options = {"extent": 20.0, "particles": 4, "samples": 4}
            moments = measure_moments(fields, radius, 0.1 * turns, 0.01, jax.random.fold_in(key, 1), **options)
            return coefficients(moments, "mean square").parallel.value[-1]

        return function

    value = np.log(0.1)
    short, long = (
        common_random_difference(coefficient(turns), (value - 0.02, value + 0.02), KEYS) for turns in (2.0, 100.0)
    )
    assert short.is_correlated and short.correlation > 0.99
    assert short.variance_reduction > 50
    assert long.correlation < 0.5
    assert long.variance_reduction < 2.5
