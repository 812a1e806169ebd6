"""diffcr.grammage against astropy's units, diffusion equations solved in differences, limits and measured ratios."""

import astropy.constants
import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.stats import multivariate_normal

from diffcr import grammage as module
from diffcr.errors import InputError
from diffcr.grammage import BORON_TO_CARBON, GAS_SURFACE_DENSITY, RatioTable
from diffcr.units import CM, GV, SECOND, SPEED_OF_LIGHT

grammage = jax.jit(module.grammage)
boron_to_carbon = jax.jit(module.boron_to_carbon)
log_likelihood = jax.jit(module.log_likelihood, static_argnames="systematic")

# 3e28 cm^2/s (R / GV)^(1/3) and 3 kpc, K / c at 1 TV in pc.
DIFFUSION = 3e29 * CM**2 / SECOND / SPEED_OF_LIGHT
USUAL = (DIFFUSION, 1 / 3, 3000.0)


def test_units_are_those_of_astropy():
    coefficient = 3e28 * u.cm**2 / u.s * 45 ** (1 / 3)
    expected = GAS_SURFACE_DENSITY * u.g / u.cm**2 * astropy.constants.c * 3 * u.kpc / (2 * coefficient)
    np.testing.assert_allclose(grammage(45 * GV, *USUAL), expected.to_value(u.g / u.cm**2), rtol=1e-8)


def test_matter_crossed_at_45_gv():
    np.testing.assert_allclose(grammage(45 * GV, *USUAL), 3.12, rtol=2e-3)


def test_leaky_box_is_the_thin_disc_of_gas_in_a_halo():
    """Per layer: -K n'' = (parents - n sigma / m) mu c delta(z), n = 0 at H: solved in differences on either side.

    The ratio of boron destroyed to boron escaping must be X sigma / m, whichever the cross section.
    """
    k, height, mu, points = 2.0, 5.0, 0.3, 200
    step = height / points
    for sigma in (1e-6, 0.8):
        matrix = (np.diag(np.full(points, 2.0)) - np.eye(points, k=1) - np.eye(points, k=-1)) * k / step**2
        # Half a cell at z = 0, with half of the gas; its other half belongs to the other side.
        matrix[0] = 0
        matrix[0, :2] = k / step + mu / 2 * sigma, -k / step
        source = np.zeros(points)
        source[0] = mu / 2
        found = np.linalg.solve(matrix, source)[0]
        x = float(module.grammage(1.0, k, 0.0, height, mu))
        np.testing.assert_allclose(found, x / (1 + x * sigma), rtol=1e-10)


def test_little_matter_makes_boron_in_proportion():
    """X times (70.4 + 1.08 * 37.3) mb per mass of gas, with 11B counted at 1.1 times its rigidity."""
    little = (1e4 * DIFFUSION, 1 / 3, 3000.0)
    x = float(grammage(0.1, *little))
    hydrogen = 17.9 + 1.08 * 10.4 + (52.5 + 1.08 * 26.9) * 1.1**1.7
    per_gram = hydrogen * 1e-27 * (1 + 0.1 * 4 ** (2 / 3)) / (1.4 * astropy.constants.m_p.cgs.value)
    np.testing.assert_allclose(boron_to_carbon(0.1, *little), x * per_gram, rtol=1e-4)
    np.testing.assert_allclose(
        boron_to_carbon(0.1, 2e4 * DIFFUSION, 1 / 3, 3000.0) / boron_to_carbon(0.1, *little), 0.5, rtol=1e-4
    )


def test_much_matter_saturates():
    """Boron is then made and destroyed in place: its ratio no longer knows of diffusion."""
    one, other = (boron_to_carbon(0.1, DIFFUSION * factor, 1 / 3, 3000.0) for factor in (1e-6, 1e-7))
    np.testing.assert_allclose(one, other, rtol=1e-4)
    assert 0.3 < float(one) < 0.7


def test_only_diffusion_over_height_counts():
    twice = (2 * DIFFUSION, 1 / 3, 6000.0)
    np.testing.assert_allclose(boron_to_carbon(0.1, *twice), boron_to_carbon(0.1, *USUAL), rtol=1e-14)


@pytest.mark.parametrize("index", [0.33, 0.6])
def test_slope_tends_to_minus_the_index(index):
    slope = jax.grad(lambda log_r: jnp.log(module.boron_to_carbon(jnp.exp(log_r), DIFFUSION, index, 3000.0)))
    np.testing.assert_allclose(slope(np.log(1e12)), -index, rtol=1e-3)
    assert float(slope(np.log(0.05))) > -index + 0.05


def test_usual_diffusion_gives_the_measured_ratio_to_some_ten_per_cent():
    ratio = boron_to_carbon(BORON_TO_CARBON.rigidity, *USUAL) / BORON_TO_CARBON.ratio
    assert np.all((ratio > 0.65) & (ratio < 1.35))
    assert abs(np.mean(np.log(ratio))) < 0.3


def test_shipped_ratios_fall_with_the_published_index():
    """-0.333 +- 0.015 above 65 GV from the data of the first five years."""
    high = BORON_TO_CARBON.rigidity > 0.065
    relative = BORON_TO_CARBON.ratio[high] / BORON_TO_CARBON.error[high]
    slope = np.polyfit(np.log(BORON_TO_CARBON.rigidity[high]), np.log(BORON_TO_CARBON.ratio[high]), 1, w=relative)[0]
    np.testing.assert_allclose(slope, -0.333, atol=0.03)
    assert BORON_TO_CARBON.checked
    np.testing.assert_array_equal(BORON_TO_CARBON.above(0.065).ratio, BORON_TO_CARBON.ratio[high])
    assert np.all(np.diff(BORON_TO_CARBON.rigidity) > 0)
    near = np.argmin(np.abs(BORON_TO_CARBON.rigidity - 0.1039))
    np.testing.assert_allclose(BORON_TO_CARBON.ratio[near], 0.1247)
    np.testing.assert_allclose(BORON_TO_CARBON.error[near], np.hypot(0.0023, 0.0034))


@pytest.mark.parametrize("systematic", [0.0, 0.1, 0.5])
def test_likelihood_is_the_normal_density_with_a_common_error(systematic):
    model = np.asarray(boron_to_carbon(BORON_TO_CARBON.rigidity, *USUAL))
    covariance = np.diag(BORON_TO_CARBON.error**2) + systematic**2 * np.outer(model, model)
    expected = multivariate_normal(model, covariance).logpdf(BORON_TO_CARBON.ratio)
    np.testing.assert_allclose(log_likelihood(*USUAL, systematic=systematic), expected, rtol=1e-9)


def test_likelihood_prefers_the_truth_and_knows_ratio_and_index_only():
    rigidity = np.geomspace(0.03, 2, 30)
    ratio = np.asarray(boron_to_carbon(rigidity, *USUAL))
    made = RatioTable(rigidity, ratio, 0.03 * ratio, True, "made up")
    value = jax.jit(lambda d, i, h: module.log_likelihood(d, i, h, made, systematic=0.05))
    score = jax.jit(jax.grad(lambda d, i: module.log_likelihood(d, i, 3000.0, made, systematic=0.0), argnums=(0, 1)))
    # Exact data: no pull on either parameter where the determinant does not depend on them.
    np.testing.assert_allclose(score(DIFFUSION, 1 / 3), [0, 0], atol=1e-8)
    truth = value(*USUAL)
    assert truth > value(DIFFUSION, 0.45, 3000.0) + 5
    assert truth > value(1.5 * DIFFUSION, 1 / 3, 3000.0) + 5
    np.testing.assert_allclose(value(2 * DIFFUSION, 1 / 3, 6000.0), truth, rtol=1e-12)


def test_wide_systematic_leaves_the_index():
    """With the height of the curve free, K / H is known less well, the index nearly as well."""

    def errors(systematic):
        def function(p):
            return module.log_likelihood(DIFFUSION * jnp.exp(p[0]), p[1], 3000.0, systematic=systematic)

        return np.sqrt(np.diag(np.linalg.inv(-jax.jit(jax.hessian(function))(jnp.array([-0.1, 1 / 3])))))

    tight, loose = errors(0.0), errors(0.5)
    assert loose[0] > 2.5 * tight[0]
    assert loose[1] < 2.5 * tight[1]


def test_gradients_are_those_of_finite_differences():
    scaled = lambda d, i, h: module.log_likelihood(DIFFUSION * d, i, 3000 * h)
    check_grads(jax.jit(scaled), (0.9, 0.4, 1.1), order=1, modes=("rev",), rtol=1e-5)
    check_grads(boron_to_carbon, (0.1, 3.0, 0.4, 3000.0), order=1, modes=("rev",), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, *USUAL), "rigidity of a grammage must be finite and above zero, not 0.0: give it in TV"),
        (
            (0.1, -1.0, 0.3, 3000.0),
            "diffusion of a grammage must be finite and above zero, not -1.0: give K / c",
        ),
        ((0.1, 1.0, np.nan, 3000.0), "index of a grammage must be finite, not nan"),
        ((0.1, 1.0, 0.3, 0.0), "halo_height of a grammage must be finite and above zero"),
        ((0.1, *USUAL, np.inf), "surface_density of a grammage must be finite and above zero"),
    ],
)
@pytest.mark.parametrize("function", [module.grammage, module.boron_to_carbon])
def test_bad_argument(function, arguments, message):
    with pytest.raises(InputError, match=message):
        function(*arguments)


def test_bad_systematic():
    with pytest.raises(InputError, match="systematic of a ratio must be finite and at least 0, not -0.1"):
        module.log_likelihood(*USUAL, systematic=-0.1)
