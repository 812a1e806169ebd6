"""Diffusion coefficients against helices, a kinetic Monte Carlo, identities, and numbers of strong turbulence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from diffcr.errors import InputError
from diffcr.spectrum import BendOver, PowerLaw
from diffcr.transport import bgk_tensor, diffusion_tensor
from diffcr.transport_coefficients import (
    COEFFICIENTS,
    Moments,
    asymptotics,
    coefficients,
    integrated_correlation,
    measure_moments,
    path_products,
    tensor,
)
from diffcr.turbulence import Sum, Uniform, draw_plane_waves

KEY = jax.random.key(2)
METHODS = ("running", "green-kubo", "mean square")
UP = Uniform([0.0, 0.0, 1.0])
ALONG_Z = np.array([0.0, 0.0, 1.0])
SPECTRUM = PowerLaw(slope=5 / 3, smallest=0.1, largest=2.0)


def turbulent(key):
    return Sum((UP, draw_plane_waves(key, SPECTRUM, 30)))


@pytest.fixture(scope="module")
def measured():
    """Strong turbulence, up to Omega T = 10."""
    options = {"extent": 20.0, "realisations": 4, "particles": 400, "samples": 50}
    return measure_moments(turbulent, 0.1, 1.0, 0.01, KEY, **options)


def synthetic(function, scatter=0.0, realisations=40, seed=1) -> Moments:
    """Moments whose tensor is function(t) times the identity plus kappa_A = 1/2, with noise of each quarter of T."""
    times = np.arange(1, 41) / 40
    noise = scatter * np.repeat(np.random.default_rng(seed).normal(size=(realisations, 4, 3, 3)), 10, axis=1)
    tensors = function(times)[:, None, None] * np.eye(3) + np.asarray(diffusion_tensor(0.0, 0.0, 0.5, ALONG_Z))
    tensors = tensors + noise
    return Moments(times, tensors, tensors, tensors, tensors)


# Closed forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.2, -0.2])
def test_a_uniform_field_gives_the_tensor_of_a_helix(radius):
    """K_xy = (r / 3)(1 - cos Omega T) is positive for positive charges: the first index belongs to the later time."""
    fields = [UP] * 4
    options = {"extent": 0.0, "particles": 1000, "samples": 12, "dtype": np.float64}
    moments = measure_moments(fields, radius, 0.6, 0.01, KEY, **options)
    t, r = moments.times, radius

    circle = np.array([r / 3 * np.sin(t / r), r / 3 * (1 - np.cos(t / r)), t / 3])
    for method in ("running", "green-kubo"):
        k = tensor(moments, method).mean(axis=0)
        for found, wanted in ((k[:, 0, 0], 0), (k[:, 1, 1], 0), (k[:, 0, 1], 1), (-k[:, 1, 0], 1), (k[:, 2, 2], 2)):
            np.testing.assert_allclose(found, circle[wanted], atol=0.013 * max(1, wanted))
    k = tensor(moments, "mean square").mean(axis=0)
    np.testing.assert_allclose(k[:, 0, 0] * 2 * t, 2 / 3 * r**2 * (1 - np.cos(t / r)), atol=0.003)
    np.testing.assert_allclose(k[:, 2, 2], t / 6, rtol=0.04)
    found = coefficients(moments)
    np.testing.assert_allclose(found.antisymmetric.value, circle[1], atol=0.008)
    assert np.sign(found.antisymmetric.value[5]) == np.sign(radius)


def collisions(rate, omega, duration, number, rng):
    """Start and end of particles on exact helices about +z between isotropising Poisson collisions."""
    first = rng.normal(size=(3, number))
    first /= np.linalg.norm(first, axis=0)
    x, n, left = np.zeros((3, number)), first.copy(), np.full(number, duration)
    while np.any(left > 0):
        free = np.minimum(rng.exponential(1 / rate, number), left)
        phase = omega * free
        c, s = np.cos(phase), np.sin(phase)
        x += np.stack([(n[0] * s + n[1] * (1 - c)) / omega, (n[1] * s - n[0] * (1 - c)) / omega, n[2] * free])
        n = np.stack([n[0] * c + n[1] * s, n[1] * c - n[0] * s, n[2]])
        left = left - free
        fresh = rng.normal(size=(3, number))
        n = np.where(left > 0, fresh / np.linalg.norm(fresh, axis=0), n)
    return (jnp.zeros_like(x), jnp.asarray(first)), (jnp.asarray(x), jnp.asarray(n))


def test_collisions_at_a_constant_rate_give_the_bgk_tensor_by_all_three_ways():
    """nu = 1, Omega = 1.7: K_xx = 0.0857, K_xy = +0.1457, K_zz = 1/3, the mean square later by 1 / nu T."""
    rate, omega, duration = 1.0, 1.7, 10.0
    rng = np.random.default_rng(3)
    each = [jnp.mean(path_products(duration, *collisions(rate, omega, duration, 20_000, rng)), -1) for _ in range(8)]
    moments = Moments(np.array([duration]), *np.moveaxis(np.stack(each)[:, None], 2, 0))
    limit = np.asarray(bgk_tensor(rate, omega, ALONG_Z))
    np.testing.assert_allclose([limit[0, 0], limit[0, 1], limit[2, 2]], [0.08569, 0.14567, 1 / 3], atol=1e-5)

    def late(frequency):
        """Mean up to T of the real part of int_0^t exp(-(nu + i Omega) t') dt' / 3."""
        rise = lambda t: ((1 - np.exp(-(rate + 1j * frequency) * t)) / (rate + 1j * frequency)).real / 3
        return quad(rise, 0, duration)[0] / duration

    expected = {
        "running": (limit[2, 2], limit[0, 0], limit[0, 1]),
        "green-kubo": (limit[2, 2], limit[0, 0], limit[0, 1]),
        "mean square": (late(0.0), late(omega), 0.0),
    }
    for method, values in expected.items():
        found = coefficients(moments, method)
        for name, value in zip(COEFFICIENTS, values, strict=True):
            estimate = getattr(found, name)
            assert abs(estimate.value[0] - value) <= 4 * estimate.error[0], (method, name)
            assert estimate.error[0] < 0.006
            assert estimate.low[0] <= estimate.value[0] <= estimate.high[0]


def test_coefficients_are_read_off_a_tensor_about_any_field():
    field = np.array([2.0, -1.0, 0.5])
    k = np.asarray(diffusion_tensor(3.0, 0.7, -0.4, field / np.linalg.norm(field)))
    moments = Moments(np.ones(1), *[np.broadcast_to(k, (2, 1, 3, 3))] * 4)

    found = coefficients(moments, field=field)
    np.testing.assert_allclose(
        [found.parallel.value[0], found.perpendicular.value[0], found.antisymmetric.value[0]], [3.0, 0.7, -0.4]
    )
    # K over |r_L| / 3.
    np.testing.assert_allclose(found.over(0.1 / 3).parallel.value[0], 90.0)
    np.testing.assert_allclose(found.over(0.1 / 3).parallel.low[0], 90.0)


# Identities ---------------------------------------------------------------------------------------------------


def test_the_running_tensor_is_half_the_growth_of_the_mean_square(measured):
    growth = np.diff(measured.mean_square, axis=1) / np.diff(measured.times)[:, None, None] / 2
    running = (measured.to_end[:, 1:] + measured.to_end[:, :-1]) / 2

    symmetric = (running + np.swapaxes(running, -1, -2)) / 2
    np.testing.assert_allclose(growth, symmetric, atol=2e-3 * np.abs(symmetric).max())


def test_the_integrated_correlation_is_the_displacement_from_the_first_velocity(measured):
    expected = measured.from_start
    # At t = 0 the particles drawn stand in for 1/3.
    np.testing.assert_allclose(integrated_correlation(measured), expected, atol=0.01 * np.abs(expected).max())
    wrong = np.swapaxes(expected, -1, -2)
    assert np.abs(integrated_correlation(measured) - wrong).max() > 0.05 * np.abs(expected).max()


def test_evenly_spread_particles_are_stationary(measured):
    """Averages over the end and over the start agree: kappas by the running and by the Green-Kubo way."""
    running, kubo = (coefficients(measured, method) for method in ("running", "green-kubo"))
    for name in COEFFICIENTS:
        one, other = getattr(running, name), getattr(kubo, name)
        assert np.all(np.abs(one.value - other.value)[5:] < 6 * np.hypot(one.error, other.error)[5:])
    assert np.all(running.antisymmetric.value[10:] > 0)


def test_a_rotated_problem_has_rotated_coefficients():
    """The mean field along x: a field drawn along z, with the axes renamed, and its particles by the same keys."""

    class Renamed(eqx.Module):
        field: Sum

        def __call__(self, position):
            return jnp.roll(self.field(jnp.roll(position, -1, axis=0)), 1, axis=0)

    options = {"extent": 5.0, "realisations": 3, "particles": 300, "samples": 5}
    up = measure_moments(turbulent, 0.1, 0.3, 0.01, KEY, **options)
    along = measure_moments(lambda key: Renamed(turbulent(key)), 0.1, 0.3, 0.01, KEY, **options)
    for name in COEFFICIENTS:
        one = getattr(coefficients(up), name)
        other = getattr(coefficients(along, field=(1.0, 0.0, 0.0)), name)
        assert np.all(np.abs(one.value - other.value) < 6 * np.hypot(one.error, other.error))


def test_errors_are_those_of_the_scatter_between_realisations():
    moments = synthetic(np.ones_like, scatter=0.3)
    found = coefficients(moments).parallel
    samples = moments.to_end[:, :, 2, 2]

    np.testing.assert_allclose(found.error, np.std(samples, axis=0, ddof=1) / np.sqrt(40))
    np.testing.assert_allclose(found.high - found.low, 2 * found.error, rtol=0.15)


# The limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "scatter", "verdict"),
    [
        (np.ones_like, 0.02, "asymptotic"),
        (lambda t: t**0.3, 0.02, "not asymptotic"),
        (lambda t: t**-0.3, 0.02, "not asymptotic"),
        # Errors as large as a slope that would count leave it open, however flat the mean is.
        (np.ones_like, 1.0, "undecided"),
        (np.zeros_like, 0.1, "undecided"),
        # Seen with certainty, and small.
        (lambda t: t**0.05, 0.005, "asymptotic"),
    ],
)
def test_the_verdict_needs_a_small_slope_and_the_power_to_see_it(function, scatter, verdict):
    found = [asymptotics(synthetic(function, scatter, seed=seed))["parallel"] for seed in range(30)]
    # Two standard errors are passed by chance now and then.
    assert np.mean([each.verdict == verdict for each in found]) > 0.85
    assert all(each.is_asymptotic == (each.verdict == "asymptotic") for each in found)


def test_the_slope_is_that_of_a_power_law():
    found = asymptotics(synthetic(lambda t: 2 * t**0.3, scatter=1e-6))
    times = np.arange(1, 41) / 40
    np.testing.assert_allclose(found["parallel"].slope, 0.3, rtol=0.01)
    np.testing.assert_allclose(found["parallel"].value, np.mean(2 * times[20:] ** 0.3), rtol=1e-5)
    np.testing.assert_allclose(found["antisymmetric"].slope, 0.0, atol=1e-5)
    np.testing.assert_allclose(found["antisymmetric"].value, 0.5, rtol=1e-5)


def test_the_mean_square_is_refused_as_a_judge():
    with pytest.raises(InputError, match="use running, or green-kubo"):
        asymptotics(synthetic(np.ones_like), "mean square")


# Boundary -----------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_numbers_and_samples_lie_where_asked():
    options = {"extent": 1.0, "realisations": 2, "particles": 10, "samples": 5}
    one, other = (measure_moments(turbulent, 0.1, 0.3, 0.01, KEY, **options) for _ in range(2))

    np.testing.assert_array_equal(one.mean_square, other.mean_square)
    np.testing.assert_allclose(one.times, [0.06, 0.12, 0.18, 0.24, 0.3])
    assert one.mean_square.dtype == np.float64
    # Realisations differ.
    assert np.abs(np.diff(one.mean_square, axis=0)).max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"realisations": 1}, "realisations must be a whole number of at least 2"),
        ({"particles": 0}, "particles must be a whole number"),
        ({"samples": 3}, "samples must be a whole number of at least 4"),
        ({"extent": -1.0}, "extent of starting points"),
        ({"extent": np.nan}, "extent of starting points"),
        ({"duration": 0.0}, "duration and step of paths"),
        ({"step": 0.5}, "longer than the smallest wave"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    arguments = {"duration": 1.0, "step": 0.01, "extent": 0.0, "realisations": 2} | changes
    with pytest.raises(InputError, match=message):
        measure_moments(turbulent, 0.1, key=KEY, **arguments)
    with pytest.raises(InputError, match="a method for K"):
        tensor(synthetic(np.ones_like), "other")
    with pytest.raises(InputError, match="realisations must be a whole number of at least 2"):
        measure_moments([UP], 0.1, 1.0, 0.01, KEY, extent=0.0)


# Strong turbulence --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_strong_turbulence_kappa_still_changes_at_a_hundred_gyrations_over_two_pi():
    """sigma^2 = 1, r_L = L_c / 10: kappa_par rises and kappa_perp falls; <r_z^2> / 2T is 11.5 +- 0.7 r_L c / 3, of 40
    skies of single observers by another pusher."""
    spectrum = BendOver(1.0, 5 / 3, smallest=0.01, largest=100.0)
    draw = lambda key: Sum((UP, draw_plane_waves(key, spectrum, 300)))
    options = {"extent": 100.0, "realisations": 16, "particles": 768}
    moments = measure_moments(draw, 0.1, 10.0, 0.01, KEY, **options)
    found = asymptotics(moments)

    assert found["parallel"].verdict == "not asymptotic" and found["parallel"].slope > 0.2
    assert found["perpendicular"].verdict == "not asymptotic" and found["perpendicular"].slope < -0.1
    square = coefficients(moments, "mean square").over(0.1 / 3)
    assert 10.5 < square.parallel.value[-1] < 14
    assert 1.2 < square.perpendicular.value[-1] < 1.5
    assert coefficients(moments).antisymmetric.value[-1] > 0
    # From one point the same mean, with much more scatter.
    point = measure_moments(draw, 0.1, 10.0, 0.01, KEY, **options | {"extent": 0.0})
    other = coefficients(point, "mean square").over(0.1 / 3)
    assert other.parallel.error[-1] > 2 * square.parallel.error[-1]
    difference = other.parallel.value[-1] - square.parallel.value[-1]
    assert abs(difference) < 4 * np.hypot(other.parallel.error[-1], square.parallel.error[-1])
