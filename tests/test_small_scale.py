"""diffcr.small_scale and small_scale_theory on ensembles whose power, scatter and diffusion are known."""

import numpy as np
import pytest
from scipy import special

from diffcr.backtracking import Displacements, Setup, Spectra, displacements, spectra_of
from diffcr.errors import InputError
from diffcr.harmonics import index
from diffcr.small_scale import (
    Ensemble,
    analytic_noise,
    bootstrap,
    combine,
    jackknife,
    mean_power,
    plateau,
    quadratic,
    shape,
    step_ratio,
)
from diffcr.small_scale_theory import (
    aligned_share,
    cascade_shape,
    compare_cascade,
    diffusion,
    dipole_excess,
    dipole_to_quadrupole,
    gradient_of_dipole,
    power_prior,
    standard_dipole_power,
)
from diffcr.transport import diffusion_tensor, fick_dipole

L = np.arange(1, 31)
STEEP = np.concatenate([[0.0], 18 / ((2 * L + 1) * (L + 1) * (L + 2))])


def ensemble_of(power, tensor=None, multipoles=None, times=(2.0,)):
    """An ensemble of C_l, shape (realisation, l), the same for each gradient and sample."""
    number, samples = len(power), len(times)
    power = np.einsum("rl,s,ij->rslij", power, np.ones(samples), np.eye(3))
    tensor = np.zeros((number, samples, 3, 3)) if tensor is None else tensor
    multipoles = np.zeros((number, samples, 3, 9)) if multipoles is None else multipoles
    second = np.zeros((number, samples, 3, 3))
    return Ensemble(np.array(times), power, second, -tensor, np.zeros((number, samples, 3)), multipoles)


def gaussian_power(rng, expected, number):
    """C_l of skies with normal multipoles."""
    freedom = 2 * np.arange(len(expected)) + 1
    return expected * rng.chisquare(freedom, size=(number, len(expected))) / freedom


# Statistics ---------------------------------------------------------------------------------------------


def test_the_jackknife_of_a_mean_is_its_standard_error(rng):
    values = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4))
    found = jackknife(lambda x: x, values)
    np.testing.assert_allclose(found.value, values.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False) / 30, rtol=1e-10)
    np.testing.assert_allclose(found.error, values.std(axis=0, ddof=1) / np.sqrt(30), rtol=1e-10)
    np.testing.assert_allclose(found.bias, 0, atol=1e-12)


def test_the_jackknife_of_a_square_knows_its_bias(rng):
    """<x>^2 of R values is too large by their variance over R, exactly what the jackknife gives."""
    values = rng.exponential(size=50)
    found = jackknife(lambda x: x**2, values)
    assert found.bias == pytest.approx(values.var(ddof=1) / 50, rel=1e-10)
    assert found.covariance == pytest.approx(found.error**2)


def test_the_jackknife_of_a_ratio_is_that_of_linear_errors(rng):
    """Var(x/y) = (x/y)^2 (var x / x^2 + var y / y^2 - 2 cov / x y) / R for small errors."""
    common = rng.normal(size=4000)
    x, y = 3 + 0.3 * common + 0.1 * rng.normal(size=4000), 2 + 0.2 * common
    found = jackknife(lambda a, b: a / b, x, y)
    c = np.cov(x, y) / 4000
    a, b = x.mean(), y.mean()
    expected = a / b * np.sqrt(c[0, 0] / a**2 + c[1, 1] / b**2 - 2 * c[0, 1] / (a * b))
    assert found.error == pytest.approx(expected, rel=2e-3)


def test_the_bootstrap_of_a_normal_mean_has_its_quantiles_and_of_a_heavy_tail_is_lopsided(rng):
    normal = rng.normal(size=(400, 2))
    low, high = bootstrap(lambda x: x, normal, draws=4000)
    error = normal.std(axis=0) / 20
    np.testing.assert_allclose(low, normal.mean(axis=0) - 0.994 * error, atol=0.1 * error.max())
    np.testing.assert_allclose(high, normal.mean(axis=0) + 0.994 * error, atol=0.1 * error.max())
    heavy = rng.pareto(2.1, size=30)
    low, high = bootstrap(lambda x: x, heavy, draws=4000, quantiles=(0.02, 0.98))
    assert high - heavy.mean() > 1.2 * (heavy.mean() - low)
    assert np.array_equal(bootstrap(lambda x: x, heavy, seed=3), bootstrap(lambda x: x, heavy, seed=3))


# Power --------------------------------------------------------------------------------------------------


def test_a_gradient_picks_its_part_of_the_tensor(rng):
    tensor = rng.normal(size=(5, 3, 3))
    tensor = tensor + np.swapaxes(tensor, 1, 2)
    np.testing.assert_allclose(quadratic(tensor, "parallel"), quadratic(tensor, (0.0, 0.0, 1.0)))
    both = 0.5 * (quadratic(tensor, (1.0, 0.0, 0.0)) + quadratic(tensor, (0.0, 1.0, 0.0)))
    np.testing.assert_allclose(quadratic(tensor, "perpendicular"), both)
    d = np.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(quadratic(tensor, d), [d @ t @ d for t in tensor])
    with pytest.raises(InputError, match="gradient"):
        quadratic(tensor, "across")


def test_errors_of_normal_skies_are_cosmic_variance(rng):
    """Var <C_l> = 2 C_l^2 / (2 l + 1) / R, independent between degrees."""
    found = mean_power(ensemble_of(gaussian_power(rng, STEEP, 4000)), "perpendicular")
    l = np.arange(1, 31)
    np.testing.assert_allclose(found.error[0, 1:], STEEP[1:] * np.sqrt(2 / (2 * l + 1) / 4000), rtol=0.08)
    np.testing.assert_allclose(found.value[0, 1:], STEEP[1:], rtol=0.08)
    scale = found.error[0, 1:]
    correlation = found.covariance[0, 1:, 1:] / np.outer(scale, scale)
    assert np.max(np.abs(correlation - np.eye(30))) < 0.08


def test_a_plateau_is_the_flat_part_weighted_by_its_degrees_of_freedom(rng):
    flat = np.full(31, 2.5)
    assert plateau(ensemble_of(np.tile(flat, (3, 1))), "parallel", (20, 30)).value[0] == pytest.approx(2.5)
    two = np.zeros((2, 31))
    two[:, 20], two[:, 21] = 1.0, 2.0
    assert plateau(ensemble_of(two), "parallel", (20, 21)).value[0] == pytest.approx((41 + 2 * 43) / 84)
    with pytest.raises(InputError, match="plateau"):
        plateau(ensemble_of(two), "parallel", (20, 31))


def test_the_analytic_noise_is_that_of_particles_that_went_independent_ways(rng):
    """r = n / 3 K-like drift plus independent normal steps of variance 2 K T: the plateau is the noise."""
    tensor, time, number = np.diag([0.2, 0.2, 1.5]), 50.0, 12
    spectra = []
    for _ in range(number):
        noise = rng.normal(size=(1, 3, 192)) * np.sqrt(2 * np.diag(tensor) * time)[:, None]
        found = spectra_of(Displacements(np.array([time]), noise), 4)
        # The drift itself, 3 K n at late times, is put in as what it does to <v r>.
        spectra.append(
            Spectra(found.times, found.power, found.second_moment, -tensor[None], found.mean, found.multipoles)
        )
    joined = combine(spectra)
    for gradient, expected in (("parallel", 1.5), ("perpendicular", 0.2)):
        noise = analytic_noise(joined, gradient, 192)
        assert noise.value[0] == pytest.approx(4 * np.pi / 192 * 2 * time * expected)
        assert plateau(joined, gradient, (2, 11)).value[0] == pytest.approx(noise.value[0], rel=0.1)


def test_a_shape_is_free_of_the_common_scatter_and_of_the_plateau(rng):
    """Realisations that differ in strength alone have exact ratios, whatever their errors."""
    strength = rng.lognormal(sigma=1.0, size=(20, 1))
    found = shape(ensemble_of(strength * STEEP), "parallel", 6)
    np.testing.assert_allclose(found.value[0], STEEP[3:7] / STEEP[2], rtol=1e-12)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)
    flat = strength * STEEP + 0.01
    raised = flat.copy()
    raised[:, 25:] = 0.01
    found = shape(ensemble_of(raised), "parallel", 6, (25, 30))
    np.testing.assert_allclose(found.value[0], STEEP[3:7] / STEEP[2], rtol=1e-10)
    assert shape(ensemble_of(flat), "parallel", 6).value[0, -1] > 1.1 * STEEP[6] / STEEP[2]


def test_the_ratio_of_two_steps_loses_the_scatter_of_the_fields(rng):
    power = rng.lognormal(sigma=1.0, size=(20, 1)) * STEEP + 1e-3
    coarse = power * (1 + 0.01 * rng.normal(size=power.shape))
    found = step_ratio(ensemble_of(1.1 * coarse), ensemble_of(power), "parallel")
    assert np.all(np.abs(found.value - 1.1) < 0.02)
    assert np.all(found.error < 0.01)
    with pytest.raises(InputError, match="same realisations"):
        step_ratio(ensemble_of(power), ensemble_of(power[:5]), "parallel")


def test_only_realisations_of_one_set_up_are_combined():
    make = lambda time, l: Spectra(
        np.array([time]),
        np.zeros((1, l, 3, 3)),
        np.zeros((1, 3, 3)),
        np.eye(3)[None],
        np.zeros((1, 3)),
        np.zeros((1, 3, 4)),
    )
    joined = combine([make(1.0, 4), make(1.0, 4)])
    assert joined.power.shape == (2, 1, 4, 3, 3)
    np.testing.assert_allclose(joined.velocity_displacement[1, 0], np.eye(3))
    for wrong in (make(2.0, 4), make(1.0, 5)):
        with pytest.raises(InputError, match="realisation 1"):
            combine([make(1.0, 4), wrong])
    with pytest.raises(InputError, match="two realisations"):
        combine([make(1.0, 4)])


# Diffusion ----------------------------------------------------------------------------------------------


def test_diffusion_is_minus_velocity_with_displacement(rng):
    """B along z, positive charge: K_xy > 0 is the antisymmetric part."""
    tensor = np.array([[0.2, 0.5, 0.0], [-0.5, 0.2, 0.0], [0.0, 0.0, 3.0]]) + 0.01 * rng.normal(size=(40, 1, 3, 3))
    found = diffusion(ensemble_of(np.ones((40, 31)), tensor))
    for estimate, expected in ((found.parallel, 3.0), (found.perpendicular, 0.2), (found.antisymmetric, 0.5)):
        assert abs(estimate.value[0] - expected) < 4 * estimate.error[0]
    assert found.antisymmetric.error[0] == pytest.approx(0.01 / np.sqrt(2 * 40), rel=0.4)


def test_the_dipole_of_standard_diffusion_is_ficks():
    """C_1 = (4 pi / 9) |3 K d|^2, the part kappa_A d x B included."""
    tensor = np.array([[0.2, 0.5, 0.0], [-0.5, 0.2, 0.0], [0.0, 0.0, 3.0]])
    for d in (np.array([0.0, 0.0, 2.0]), np.array([1.0, -0.4, 0.0]), np.array([0.3, 0.1, 0.7])):
        delta = 3 * tensor @ d
        assert standard_dipole_power(tensor, d) == pytest.approx(4 * np.pi / 9 * delta @ delta)
    assert standard_dipole_power(tensor, "parallel") == pytest.approx(4 * np.pi * 9)
    assert standard_dipole_power(tensor, "perpendicular") == pytest.approx(4 * np.pi * (0.04 + 0.25))


def test_a_gradient_drives_the_dipole_it_is_found_from():
    tensor = np.array([[0.21, 0.52, 0.1], [-0.48, 0.19, 0.0], [0.0, 0.1, 3.0]])
    symmetric = diffusion_tensor(3.0, 0.2, 0.5, np.array([0.0, 0.0, 1.0]))
    d = np.array([0.3, -0.1, 0.02])
    np.testing.assert_allclose(gradient_of_dipole(tensor, fick_dipole(symmetric, d)), d, rtol=1e-10)
    with pytest.raises(InputError, match="inverse"):
        gradient_of_dipole(np.diag([0.0, 0.0, 1.0]), (1e-3, 0.0, 0.0))


def test_the_dipole_in_excess_is_the_scatter_of_diffusion_between_realisations(rng):
    """K_zz of mean 2 and deviation 1: <K^2> / <K>^2 = 1.25."""
    k = 2 + np.sqrt(12) * (rng.random(6000) - 0.5)
    tensor = np.zeros((6000, 1, 3, 3))
    tensor[:, 0, 2, 2] = k
    power = np.tile(STEEP, (6000, 1))
    power[:, 1] = 4 * np.pi * k**2
    found = dipole_excess(ensemble_of(power, tensor), "parallel")
    assert found.value[0] == pytest.approx(1.25, abs=0.02)
    assert found.error[0] < 0.02
    power[:, 2] = power[:, 1] / 3
    assert dipole_to_quadrupole(ensemble_of(power), "parallel").value[0] == pytest.approx(3)


def test_the_dipole_of_a_traced_realisation_is_that_of_its_own_diffusion():
    """C_1^{jj} = 4 pi sum_i <v_i r_j>^2: the first multipole of r_j is 3 <n r_j>."""
    setup = Setup(larmor_radius=0.4, sigma2=0.0, omega_t=2.0, samples=1, nside=8)
    found = spectra_of(displacements(setup, 0), 8)
    expected = 4 * np.pi * np.einsum("sij,sij->sj", found.velocity_displacement, found.velocity_displacement)
    np.testing.assert_allclose(np.einsum("sjj->sj", found.power[:, 1]), expected, rtol=5e-3)


def test_the_mean_sky_has_its_share_and_noise_has_none(rng):
    """A pattern of strength 2 at (2, 0) in noise of unit variance: 4 of 4 + 5 at l = 2; nothing at l = 1."""
    multipoles = rng.normal(size=(4000, 1, 3, 9))
    multipoles[:, :, 2, index(2, 0)] += 2.0
    found = aligned_share(ensemble_of(np.ones((4000, 31)), multipoles=multipoles), "parallel")
    np.testing.assert_allclose(found.value[0], [0, 0, 4 / 9], atol=0.02)
    assert 0.003 < found.error[0, 2] < 0.02
    few = [
        aligned_share(ensemble_of(np.ones((5, 31)), multipoles=rng.normal(size=(5, 1, 3, 9))), "perpendicular").value[0]
        for _ in range(300)
    ]
    np.testing.assert_allclose(np.mean(few, axis=0), 0, atol=0.03)
    # x and y alone make a perpendicular gradient.
    assert (
        np.max(np.abs(aligned_share(ensemble_of(np.ones((4000, 31)), multipoles=multipoles), "perpendicular").value))
        < 0.02
    )


# The cascade --------------------------------------------------------------------------------------------


def test_the_shape_of_the_cascade_is_batemans():
    """C_5 / C_2 at nu T = 0.3, and 18 / ((2l+1)(l+1)(l+2)) at large depths."""
    assert cascade_shape(np.array(0.3), 5)[-1] == pytest.approx(0.0076699318457567845 / 0.11505382436173198, rel=1e-12)
    np.testing.assert_allclose(cascade_shape(np.array([20.0]), 8)[0], STEEP[3:9] / STEEP[2], rtol=1e-12)


def test_a_cascade_of_known_depth_is_found_again(rng):
    depth = 0.25
    expected = np.concatenate([[1.0, 3.0, 1.0], cascade_shape(np.array(depth), 8)])
    found = []
    for _ in range(40):
        strength = rng.lognormal(sigma=0.7, size=(60, 1))
        found.append(compare_cascade(ensemble_of(strength * gaussian_power(rng, expected, 60)), "parallel", 8))
        assert found[-1].depth_range[0] <= found[-1].depth <= found[-1].depth_range[1]
    assert np.median([each.depth for each in found]) == pytest.approx(depth, rel=0.04)
    # 27 of 40 for normal errors; 57 % of many for these.
    assert 15 <= sum(each.depth_range[0] < depth < each.depth_range[1] for each in found) <= 34
    assert found[0].degrees_of_freedom == 5
    assert 4 < np.mean([each.chi2 for each in found]) < 7


def test_the_first_degree_has_no_say_in_the_fit_and_large_depths_are_told(rng):
    power = gaussian_power(rng, STEEP, 400)
    first = compare_cascade(ensemble_of(power), "parallel", 6)
    power[:, 1] *= 10
    second = compare_cascade(ensemble_of(power), "parallel", 6)
    assert first.chi2 == second.chi2
    assert first.depth_range[1] == np.inf
    assert first.chi2_asymptotic - first.chi2 < 4
    assert first.p_value > 1e-3


def test_a_shape_that_is_no_cascade_is_rejected(rng):
    flat = np.ones(31)
    assert compare_cascade(ensemble_of(gaussian_power(rng, flat, 300)), "parallel", 6).p_value < 1e-6


def test_too_few_or_equal_realisations_are_refused(rng):
    with pytest.raises(InputError, match="at least 9 realisations"):
        compare_cascade(ensemble_of(gaussian_power(rng, STEEP, 8)), "parallel", 8)
    with pytest.raises(InputError, match="l_max"):
        compare_cascade(ensemble_of(gaussian_power(rng, STEEP, 60)), "parallel", 3)
    with pytest.raises(InputError, match="l_max"):
        shape(ensemble_of(gaussian_power(rng, STEEP, 60)), "parallel", 31)
    with pytest.raises(InputError, match="plateau"):
        compare_cascade(ensemble_of(gaussian_power(rng, np.ones(31), 60)), "parallel", 8, (8, 9))
    with pytest.raises(InputError, match="scatter"):
        compare_cascade(ensemble_of(np.tile(STEEP, (30, 1))), "parallel", 6)


# A prior ------------------------------------------------------------------------------------------------


def test_normal_skies_have_a_prior_without_scatter(rng):
    """ln of a mean of k squares is lower than ln C_l by digamma(k/2) - ln(k/2); no covariance is left."""
    found = power_prior(ensemble_of(gaussian_power(rng, STEEP, 8000)), "parallel", 8)
    np.testing.assert_allclose(found.log_power, np.log(STEEP[2:9]), atol=0.03)
    assert np.max(np.abs(found.covariance)) < 0.03


def test_a_common_strength_is_common_scatter(rng):
    strength = rng.lognormal(sigma=0.8, size=(8000, 1))
    found = power_prior(ensemble_of(strength * gaussian_power(rng, STEEP, 8000)), "parallel", 6)
    np.testing.assert_allclose(found.covariance, 0.64, atol=0.06)
    assert np.all(np.linalg.eigvalsh(found.covariance) > -1e-10)


def test_a_power_law_of_the_prior_is_found_again(rng):
    l = np.arange(31)
    power = 3e-8 * np.maximum(l / 2, 0.1) ** -2.5
    half = l[2:9] + 0.5
    tilted = np.tile(power, (50, 1))
    tilted[:, 2:9] *= np.exp(special.digamma(half) - np.log(half))
    median, slope, spread = power_prior(ensemble_of(tilted), "parallel", 8).power_law()
    assert median == pytest.approx(3e-8)
    assert slope == pytest.approx(2.5)
    assert spread == pytest.approx(0, abs=1e-6)


def test_the_prior_scales_with_the_gradient_and_leaves_out_the_plateau(rng):
    power = gaussian_power(rng, STEEP, 200)
    whole = power_prior(ensemble_of(power), (0.0, 0.0, 1.0), 6).log_power
    np.testing.assert_allclose(power_prior(ensemble_of(power), (0.0, 0.0, 1e-3), 6).log_power, whole + 2 * np.log(1e-3))
    raised = power + 0.01
    raised[:, 25:] = 0.01
    less = power_prior(ensemble_of(raised), "parallel", 6, (25, 30)).log_power
    assert np.max(np.abs(less - whole)) < 0.25
    assert np.max(power_prior(ensemble_of(raised), "parallel", 6).log_power - whole) > 0.3
    with pytest.raises(InputError, match="plateau"):
        power_prior(ensemble_of(np.ones((4, 31))), "parallel", 6, (25, 30))
    with pytest.raises(InputError, match="l_max"):
        power_prior(ensemble_of(power), "parallel", 31)


@pytest.fixture
def rng():
    return np.random.default_rng(21)


# The physics --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_skies_in_turbulence_have_the_shape_of_the_cascade_and_a_dipole_far_above_it():
    """sigma^2 = 1, r_L / L_c = 0.1, Omega T = 20, gradient along B_0.

    C_l / C_2, l = 3 .. 8, of 40 realisations of a program written apart: 0.448 0.220 0.129 0.100 0.057 0.044. The
    dipole is several times what the cascade has, 10/3.
    """
    setup = Setup(nside=8, size=23, omega_t=20.0, samples=1)
    joined = combine([spectra_of(displacements(setup, r), 8) for r in range(24)])
    found = shape(joined, "parallel", 8)
    other = np.array([0.448, 0.220, 0.129, 0.100, 0.057, 0.044])
    assert np.all(np.abs(found.value[0] - other) < 4 * found.error[0])
    assert compare_cascade(joined, "parallel", 8).p_value > 1e-3
    assert dipole_to_quadrupole(joined, "parallel").value[0] > 7
    assert dipole_excess(joined, "perpendicular").value[0] > 2
    # A density that is the same everywhere stays so: particles of all directions come from where they are, on average.
    assert np.all(np.abs(jackknife(lambda x: x, joined.mean).value) < 4 * jackknife(lambda x: x, joined.mean).error)
    tensor = diffusion(joined)
    assert tensor.parallel.value[0] / (0.1 / 3) == pytest.approx(7.6, abs=4 * tensor.parallel.error[0] * 30)
    assert tensor.antisymmetric.value[0] > 3 * tensor.antisymmetric.error[0]
