"""diffcr.angular_power against healpy, Wigner symbols in exact arithmetic, quadrature by SciPy, and Monte Carlo."""

from fractions import Fraction
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, special

from diffcr import angular_power
from diffcr.angular_power import (
    band_power,
    coupling_matrix,
    cut_power,
    dipole_amplitude,
    dipole_bias,
    dipole_power,
    disc_window,
    gaussian_beam,
    map_noise,
    power_variance,
    profile_window,
    shot_noise,
    sky_variance,
    smoothed_power,
)
from diffcr.errors import InputError
from diffcr.harmonics import degrees_and_orders, to_healpy, two_point

POWER = np.array([0.0, 3.0, 1.5, 0.4, 0.9, 0.05, 0.3])


def directions(rng, number):
    """Unit vectors, even over the sphere."""
    vectors = rng.normal(size=(number, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def drawn(rng, power):
    """Complex multipoles of a random sky of given power."""
    degree, _ = degrees_and_orders(len(power) - 1)
    return to_healpy(rng.normal(size=len(degree)) * np.sqrt(power[degree]))


# Variance and windows


def test_the_variance_of_a_sky_is_its_correlation_at_no_separation():
    np.testing.assert_allclose(sky_variance(POWER), two_point(POWER, 1.0), rtol=1e-14)
    np.testing.assert_allclose(sky_variance(np.array([[0.0, 4 * np.pi / 9], [4 * np.pi, 0.0]])), [1 / 3, 1], rtol=1e-14)
    check_grads(jax.jit(sky_variance), (POWER,), order=1)


def test_the_variance_of_a_sky_is_that_of_its_pixels():
    """A map of healpy, with the power it has and not that it was drawn from."""
    import healpy

    alm = drawn(np.random.default_rng(4), POWER)
    sky = healpy.alm2map(alm, 32, lmax=6)
    np.testing.assert_allclose(sky_variance(healpy.alm2cl(alm)), np.mean(sky**2), rtol=1e-3)


@pytest.mark.parametrize("degrees", [0.5, 5.0, 40.0])
def test_a_gaussian_beam_is_that_of_healpy(degrees):
    import healpy

    sigma = np.radians(degrees)
    expected = healpy.gauss_beam(sigma * np.sqrt(8 * np.log(2)), lmax=100)
    np.testing.assert_allclose(gaussian_beam(sigma, 100), expected, rtol=1e-10, atol=1e-300)


def test_a_beam_without_width_changes_nothing():
    np.testing.assert_array_equal(gaussian_beam(0.0, 5), 1)
    np.testing.assert_allclose(disc_window(0.0, 5), 1, rtol=1e-14)
    check_grads(jax.jit(lambda sigma: gaussian_beam(sigma, 8)), (0.1,), order=1)
    assert np.all(np.isfinite(jax.jacrev(lambda radius: disc_window(radius, 8))(0.0)))


@pytest.mark.parametrize("degrees", [1e-3, 0.3, 5.0, 45.0, 100.0, 180.0])
def test_the_window_of_a_disc_is_the_mean_of_legendre_polynomials(degrees):
    radius = np.radians(degrees)
    found = disc_window(radius, 60)
    for l in (0, 1, 2, 7, 60):
        # Substituted so that a narrow disc is not a narrow range.
        mean = integrate.quad(
            lambda u, l=l: special.eval_legendre(l, 1 - u * (1 - np.cos(radius))), 0, 1, epsabs=1e-13, limit=200
        )[0]
        np.testing.assert_allclose(found[l], mean, rtol=1e-10, atol=1e-12)


def test_a_disc_damps_a_dipole_by_half_of_one_plus_its_cosine():
    for radius in (0.1, 1.0, 3.0):
        np.testing.assert_allclose(disc_window(radius, 1), [1, (1 + np.cos(radius)) / 2], rtol=1e-14)
    np.testing.assert_allclose(disc_window(np.pi, 9), np.eye(10)[0], atol=1e-14)
    check_grads(jax.jit(lambda radius: disc_window(radius, 12)), (0.4,), order=1)


def test_windows_of_discs_and_profiles_are_those_of_healpy():
    import healpy

    theta = np.linspace(0, 0.6, 20_001)
    profile = lambda theta: np.exp(-theta / 0.05) * (1 + 3 * theta)
    expected = healpy.beam2bl(profile(theta), theta, 30)
    found = profile_window(lambda theta: jnp.exp(-theta / 0.05) * (1 + 3 * theta), 30, 0.6)
    np.testing.assert_allclose(found, expected / expected[0], rtol=1e-6)


def test_a_profile_that_is_flat_within_its_reach_is_a_disc():
    for radius in (0.01, 0.7, np.pi):
        found = profile_window(jnp.ones_like, 80, radius)
        np.testing.assert_allclose(found, disc_window(radius, 80), rtol=1e-12, atol=1e-13)


def test_a_profile_of_a_von_mises_fisher_distribution():
    """Its mean cosine is coth k - 1 / k; b_l are ratios of modified spherical Bessel functions."""
    kappa = 30.0
    bessel = special.spherical_in(np.arange(21), kappa)
    found = profile_window(lambda theta: jnp.exp(kappa * (jnp.cos(theta) - 1)), 20)
    np.testing.assert_allclose(found, bessel / bessel[0], rtol=1e-11)
    np.testing.assert_allclose(found[1], 1 / np.tanh(kappa) - 1 / kappa, rtol=1e-12)
    window = lambda width, reach: profile_window(lambda theta: jnp.exp(-theta / width), 6, reach)
    check_grads(jax.jit(window), (0.2, 2.0), order=1)


def test_smoothing_takes_the_square_of_the_window():
    """A map smoothed by healpy has the power b_l^2 C_l."""
    import healpy

    alm = drawn(np.random.default_rng(5), POWER)
    smoothed = healpy.alm2cl(healpy.smoothalm(alm, sigma=0.3, inplace=False))
    np.testing.assert_allclose(smoothed_power(healpy.alm2cl(alm), gaussian_beam(0.3, 9)), smoothed, rtol=1e-12)
    check_grads(jax.jit(smoothed_power), (POWER, np.linspace(1, 0.3, 7)), order=1)


def test_the_variance_of_disc_means_is_what_a_smoothed_power_says():
    """Of a plane wave pattern n_z^2 - 1/3, whose mean over a disc about n is b_2 times it."""
    radius, rng = 0.8, np.random.default_rng(1)
    power = np.array([0, 0, (4 * np.pi / 5) * (4 / 45)])
    inside = directions(rng, 400_000)
    inside = inside[inside[:, 2] > np.cos(radius)]
    mean = np.mean(inside[:, 2] ** 2 - 1 / 3)
    expected = sky_variance(smoothed_power(power, disc_window(radius, 2)))
    # At the pole the pattern is 2/3, and its variance over the sky 4/45.
    np.testing.assert_allclose((mean / (2 / 3)) ** 2 * 4 / 45, expected, rtol=0.02)


# Cut skies


def wigner_square(l, k, j):
    """(l k j; 0 0 0)^2 in whole numbers. Racah's formula."""
    if (l + k + j) % 2 or not abs(l - k) <= j <= l + k:
        return Fraction(0)
    g = (l + k + j) // 2
    ratio = Fraction(factorial(g), factorial(g - l) * factorial(g - k) * factorial(g - j))
    return ratio**2 * Fraction(
        factorial(2 * (g - l)) * factorial(2 * (g - k)) * factorial(2 * (g - j)), factorial(2 * g + 1)
    )


@pytest.mark.parametrize("reach", [0, 3, 12, 24, 40])
def test_coupling_is_the_sum_over_wigner_symbols(reach):
    """For any power of the weight, also one that ends before 2 l_max or goes beyond."""
    mask = np.random.default_rng(reach).uniform(0.1, 1, reach + 1)
    expected = np.array(
        [
            [
                (2 * k + 1)
                / (4 * np.pi)
                * sum((2 * j + 1) * mask[j] * float(wigner_square(l, k, j)) for j in range(reach + 1))
                for k in range(13)
            ]
            for l in range(13)
        ]
    )
    np.testing.assert_allclose(coupling_matrix(mask, 12), expected, rtol=1e-13, atol=1e-15)


def test_a_whole_sky_couples_nothing():
    np.testing.assert_allclose(coupling_matrix(np.array([4 * np.pi]), 20), np.eye(21), atol=1e-14)
    np.testing.assert_allclose(band_power(-np.pi / 2, np.pi / 2, 6), 4 * np.pi * np.eye(7)[0], atol=1e-14)


def test_a_row_of_the_coupling_sums_to_the_mean_square_of_the_weight():
    mask = np.array([0.5, 0.3, 0.2])
    rows = np.sum(coupling_matrix(mask, 30), axis=1)
    np.testing.assert_allclose(rows[:29], (0.5 + 3 * 0.3 + 5 * 0.2) / (4 * np.pi), rtol=5e-14)


def test_a_band_has_the_power_of_its_map():
    import healpy

    sky = np.zeros(healpy.nside2npix(64))
    lat = np.arcsin(healpy.pix2vec(64, np.arange(sky.size))[2])
    sky[(lat > -0.3) & (lat < 0.9)] = 1
    expected = healpy.anafast(sky, lmax=12, iter=3)
    np.testing.assert_allclose(band_power(-0.3, 0.9, 12), expected, rtol=0.02, atol=2e-5 * expected[0])
    # Turned over, and a disc of 60 degrees, whose W_1 has the area of its rim.
    np.testing.assert_allclose(band_power(-0.9, 0.3, 12), band_power(-0.3, 0.9, 12), rtol=1e-11)
    np.testing.assert_allclose(band_power(np.pi / 6, np.pi / 2, 1), [np.pi / 4, np.pi * (3 / 4) ** 2 / 4], rtol=1e-13)
    check_grads(jax.jit(lambda low, high: band_power(low, high, 8)), (-0.3, 0.9), order=1)


def test_cut_skies_have_the_expected_power():
    """Skies of healpy times a mask: not axisymmetric, and soft on one side."""
    import healpy

    nside, l_max, number = 16, 20, 150
    x, _, z = np.array(healpy.pix2vec(nside, np.arange(healpy.nside2npix(nside))))
    mask = np.where(z > -0.4, 1.0, 0.0) * np.clip(x + 0.6, 0, 1)
    power = np.zeros(l_max + 1)
    power[1:] = 1 / np.arange(1, l_max + 1) ** 2.0
    rng = np.random.default_rng(8)
    found = np.array(
        [
            healpy.anafast(mask * healpy.alm2map(drawn(rng, power), nside, lmax=l_max), lmax=l_max, iter=0)
            for _ in range(number)
        ]
    )
    expected = cut_power(power, healpy.anafast(mask, lmax=2 * l_max))
    error = found.std(axis=0) / np.sqrt(number)
    pull = (found.mean(axis=0) - expected) / error
    assert np.all(np.abs(pull[:16]) < 4.5)
    # The same multiplied by f_sky instead, which a coupling that is only roughly right would pass as well.
    assert np.any(np.abs(found.mean(axis=0) - np.mean(mask**2) * power)[:16] / error[:16] > 7)


def test_gradients_of_coupling_and_cut_power():
    mask = np.array([0.5, 0.3, 0.2])
    check_grads(jax.jit(cut_power), (POWER, mask), order=1)
    check_grads(jax.jit(lambda mask: coupling_matrix(mask, 4)), (mask,), order=1)


# Noise


def test_events_have_shot_noise():
    """(4 pi / N^2) sum over pairs of P_l, at every l; in the mean over skies 4 pi / N."""
    rng, number, skies = np.random.default_rng(2), 150, 300
    found = np.zeros((skies, 6))
    for each in found:
        n = directions(rng, number)
        cosine = np.clip(n @ n.T, -1, 1)
        each[:] = [4 * np.pi / number**2 * np.sum(special.eval_legendre(l, cosine)) for l in range(1, 7)]
    error = found.std(axis=0) / np.sqrt(skies)
    assert np.all(np.abs(found.mean(axis=0) - shot_noise(number)) < 4 * error)
    check_grads(jax.jit(shot_noise), (np.array([10.0, 20.0]),), order=1)


def test_counts_have_the_noise_of_their_map():
    """Poisson counts over an uneven background seen on part of the sky, times a weight; nside 8."""
    import healpy

    rng = np.random.default_rng(6)
    x, _, z = np.array(healpy.pix2vec(8, np.arange(768)))
    background = np.where(z > -0.2, 3.0 + 2.5 * x, 0.0)
    weight = np.where(background > 0, 1.0 + z, 7.0)
    seen = background > 0
    skies = np.zeros((300, 768))
    skies[:, seen] = weight[seen] * (rng.poisson(background[seen], size=(300, seen.sum())) / background[seen] - 1)
    found = np.array([np.mean(healpy.anafast(sky, lmax=12, iter=0)[1:]) for sky in skies])
    expected = map_noise(background, weight)
    assert np.mean(found) == pytest.approx(float(expected), abs=4 * found.std() / np.sqrt(300))
    np.testing.assert_allclose(map_noise(np.full(768, 2.0)), shot_noise(2 * 768), rtol=1e-13)
    gradient = jax.grad(map_noise)(jnp.asarray(background))
    assert np.all(np.isfinite(gradient))
    check_grads(jax.jit(map_noise), (background[seen], weight[seen]), order=1)


def test_measured_power_scatters_as_a_non_central_chi2():
    """Random multipoles of power C, noise N, and a fixed pattern of power A in one of the 2l + 1."""
    rng, draws = np.random.default_rng(7), 200_000
    power, noise, aligned = (
        np.array([0.0, 1.0, 0.5, 0.0, 0.0]),
        np.array([0.3, 0.3, 0.0, 0.2, 0.2]),
        np.array([0, 0, 2.0, 0, 3.0]),
    )
    expected = power_variance(power, noise, aligned)
    for l in range(1, 5):
        fixed = np.eye(2 * l + 1)[0] * np.sqrt((2 * l + 1) * aligned[l])
        multipoles = rng.normal(size=(draws, 2 * l + 1)) * np.sqrt(power[l] + noise[l]) + fixed
        found = np.mean(multipoles**2, axis=1)
        assert np.mean(found) == pytest.approx(power[l] + noise[l] + aligned[l], rel=0.02)
        assert np.var(found) == pytest.approx(float(expected[l]), rel=0.03)
    np.testing.assert_allclose(power_variance(np.array([0, 3.0]))[1], 2 * 9 / 3, rtol=1e-14)
    check_grads(jax.jit(power_variance), (power, noise, aligned), order=1)


# The dipole


def test_the_power_of_a_dipole():
    """Of delta = (0.8, -0.5, 0.3) 1e-3, and back."""
    amplitude = 1e-3 * np.sqrt(0.64 + 0.25 + 0.09)
    np.testing.assert_allclose(dipole_power(amplitude), 1.368338133563555e-6, rtol=1e-12)
    np.testing.assert_allclose(dipole_amplitude(1.368338133563555e-6), amplitude, rtol=1e-12)
    check_grads(jax.jit(dipole_power), (0.2,), order=1)
    check_grads(jax.jit(dipole_amplitude), (0.2,), order=1)


def test_noise_makes_a_dipole_on_average():
    """Of N events the dipole is 3 / N sum n, whose square is 9 / N in the mean of isotropic skies."""
    rng, number = np.random.default_rng(9), 40
    dipole = 3 * directions(rng, 20_000 * number).reshape(20_000, number, 3).mean(axis=1)
    noise = shot_noise(number)
    for components in (1, 2, 3):
        square = np.sum(dipole[:, :components] ** 2, axis=1)
        assert np.mean(square) == pytest.approx(float(dipole_bias(noise, components)), rel=0.03)
    np.testing.assert_allclose(dipole_bias(shot_noise(9e4)), 1e-4, rtol=1e-14)
    np.testing.assert_allclose(dipole_bias(shot_noise(6e4), 2), 1e-4, rtol=1e-14)
    check_grads(jax.jit(dipole_bias), (0.3,), order=1)


# Misuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_beam(-0.1, 4), "Gaussian beam must be finite and not negative, not -0.1: give radians"),
        (lambda: gaussian_beam(np.nan, 4), "not nan: give radians"),
        (lambda: gaussian_beam(0.1, -1), "l_max of a power spectrum must be a whole number of at least 0, not -1"),
        (lambda: disc_window(4.0, 4), r"radius of a disc on the sky must be from 0 to pi, not 4\.0: give radians"),
        (lambda: disc_window(0.1, True), "whole number of at least 0, not True"),
        (lambda: profile_window(jnp.ones_like, 4, 0.0), r"must reach to an angle in \(0, pi\], not 0\.0"),
        (lambda: profile_window(lambda t: -t, 4), "a point spread must be finite, not negative and somewhere above"),
        (lambda: profile_window(jnp.zeros_like, 4), "somewhere above zero within its reach: give a density"),
        (
            lambda: smoothed_power(np.ones(5), np.ones(4)),
            "window to l = 3 does not reach the power's l_max = 4: extend",
        ),
        (
            lambda: coupling_matrix(np.array([1.0, -1.0]), 3),
            "power of a weight must be finite and not negative: give W_L",
        ),
        (lambda: coupling_matrix(np.ones(2), -1), "whole number of at least 0, not -1"),
        (lambda: band_power(0.3, 0.1, 4), r"-pi/2 <= dec_min < dec_max <= pi/2, not 0\.3 and 0\.1: give radians"),
        (lambda: band_power(-30.0, 60.0, 4), r"not -30\.0 and 60\.0: give radians"),
        (lambda: map_noise(np.zeros(12)), "background of a map must be finite, not negative and somewhere above zero"),
        (lambda: map_noise(-np.ones(12)), "give expected counts, zero where nothing is seen"),
        (lambda: dipole_bias(1.0, 4), "a dipole has 1 to 3 components, not 4: 3 for all, 2 for the equatorial"),
    ],
)
def test_what_cannot_be_meant_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_traced_values_pass():
    np.testing.assert_allclose(jax.jit(lambda s: gaussian_beam(s, 1))(-0.1), gaussian_beam(0.1, 1))
    assert np.all(np.isfinite(jax.jit(lambda r: angular_power.disc_window(r, 3))(4.0)))
