"""Priors against scipy, and the coordinates against the Gaussians and Jacobians they claim."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.prior import (
    Coordinates,
    Direction,
    LogRates,
    SkyNormal,
    cascade_log_power,
    log_power_prior,
    require_positive,
    sky_normal,
)
from diffcr.inference.sky_likelihood import sky_likelihood
from helpers import dipole_sky, drawn
from jax.test_util import check_grads
from numpyro.distributions.transforms import biject_to
from scipy import stats

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(8, 16)


@pytest.fixture(scope="module")
def sky():
    """Two energy bins of one observatory, eight rates each; one rate of the second has no livetime."""
    local = np.asarray(acceptance(site("HAWC"), GRID, power=2.0, azimuth_terms=[(1, 0.2, 0.7)]))
    parts = []
    for energy, events, dead in (("a", 3e4, []), ("b", 1e4, [4, 5])):
        rate = events / 16 * (1 + 0.3 * np.cos(GRID.sidereal_time))
        rate[dead] = 0.0
        counts = drawn(site("HAWC"), GRID, local, rate, dipole_sky(GRID, (0.05, 0.02)), seed=len(parts))
        parts.append(counts.replace(energies=(energy,)))
    return sky_likelihood(combine(parts), rate_bins=8, nodes=16, concentration=2.0)


def spread(rng, size):
    """A well-behaved symmetric positive definite matrix."""
    root = rng.standard_normal((size, size))
    return root @ root.T + np.eye(size)


def check_transform(transform, z, flat):
    """Inverse and ln |det| against the complete Jacobian by automatic differentiation."""
    x = transform(z)
    np.testing.assert_allclose(transform.inv(x), z, atol=1e-9)
    jacobian = jax.jit(jax.jacobian(lambda v: transform(v.reshape(z.shape)).ravel()))(z.ravel())
    assert jacobian.shape == (flat, flat)
    expected = np.linalg.slogdet(jacobian)
    assert expected[0] == 1
    np.testing.assert_allclose(transform.log_abs_det_jacobian(z, x), expected[1], rtol=1e-9)
    return np.asarray(jacobian)


# Multipoles and strengths ------------------------------------------------------------------------------


def test_density_of_the_sky_is_that_of_independent_normals():
    rng = np.random.default_rng(0)
    loc, scale, value = rng.standard_normal(4), rng.uniform(0.1, 2, 4), rng.standard_normal((3, 4))
    normal = SkyNormal(loc, scale, spread(rng, 4), rng.standard_normal(4))
    np.testing.assert_allclose(normal.log_prob(value), stats.norm.logpdf(value, loc, scale).sum(axis=1), rtol=1e-12)
    same = SkyNormal(0.5, 2.0, np.eye(4), np.zeros(4))
    np.testing.assert_allclose(same.log_prob(value[0]), stats.norm.logpdf(value[0], 0.5, 2.0).sum(), rtol=1e-12)


def test_draws_of_the_sky_are_of_the_prior_and_not_of_the_posterior():
    normal = SkyNormal(np.array([1.0, -2.0]), np.array([0.5, 3.0]), 1e4 * np.eye(2), np.zeros(2))
    draws = np.asarray(normal.sample(jax.random.PRNGKey(1), (2000,)))
    for values, loc, scale in zip(draws.T, (1.0, -2.0), (0.5, 3.0), strict=True):
        assert stats.kstest(values, stats.norm(loc, scale).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.08


def test_coordinates_of_the_sky_are_unit_normals_of_the_gaussian_posterior():
    """N(loc, scale^2) exp(pull x - x F x / 2) completed to a square by hand: mean and covariance of T(z)."""
    rng = np.random.default_rng(2)
    loc, scale, pull, information = (
        rng.standard_normal(3),
        rng.uniform(0.1, 2, 3),
        rng.standard_normal(3),
        spread(rng, 3),
    )
    support = SkyNormal(loc, scale, information, pull).support
    transform = biject_to(support)
    jacobian = check_transform(transform, jnp.asarray(rng.standard_normal(3)), 3)
    covariance = np.linalg.inv(information + np.diag(1 / scale**2))
    np.testing.assert_allclose(jacobian @ jacobian.T, covariance, rtol=1e-9)
    np.testing.assert_allclose(transform(jnp.zeros(3)), covariance @ (pull + loc / scale**2), rtol=1e-9)
    assert isinstance(support, Coordinates) and support.event_dim == 1
    assert bool(support(jnp.ones(3))) and not bool(support(jnp.array([0.0, np.nan, 0.0])))


def test_a_design_hands_the_likelihoods_gaussian_over_to_the_parameters(sky):
    """ln L(D x + o) - ln L(o) = pull x - x F x / 2 for every x, summed over the energy bins."""
    rng = np.random.default_rng(3)

    def gaussian(theta):
        f, pull = np.asarray(sky.information), np.asarray(sky.pull)
        return sum(pull[e] @ theta[e] - theta[e] @ f[e] @ theta[e] / 2 for e in range(2))

    for design, offset in (
        (rng.standard_normal((2, 2, 5)), rng.standard_normal((2, 2))),
        (rng.standard_normal((2, 5)), rng.standard_normal(2)),  # one sky for all energies
        (rng.standard_normal((2, 2, 5)), 0.0),
    ):
        normal = sky_normal(sky, 0.0, 1.0, design, offset)
        offsets = np.broadcast_to(offset, (2, 2))
        for x in rng.standard_normal((3, 5)):
            ours = normal.pull @ x - x @ normal.information @ x / 2
            expected = gaussian(np.broadcast_to(design, (2, 2, 5)) @ x + offsets) - gaussian(offsets)
            np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_densities_are_differentiable_in_everything_they_depend_on():
    rng = np.random.default_rng(4)
    information, pull, z = spread(rng, 3), rng.standard_normal(3), rng.standard_normal(3)

    @jax.jit
    def density(loc, log_scale, z):
        normal = SkyNormal(loc, jnp.exp(log_scale), information, pull)
        transform = biject_to(normal.support)
        x = transform(z)
        return normal.log_prob(x) + transform.log_abs_det_jacobian(z, x)

    check_grads(density, (pull, 0.3 * pull, z), order=1, modes=["rev"])
    stretch = jnp.asarray(rng.standard_normal((3, 3)))
    check_grads(jax.jit(lambda v: Direction(stretch).log_prob(v)), (3 * z,), order=1, modes=["rev"])


# Rates -------------------------------------------------------------------------------------------------


def test_draws_of_the_rates_are_dirichlet(sky):
    """Each relative rate is Beta(alpha, (G - 1) alpha) of the live ones; where there is no livetime u is zero."""
    draws = np.asarray(LogRates(sky, jnp.zeros(2)).sample(jax.random.PRNGKey(5), (2000,)))
    assert draws.shape == (2000, 2, 8)
    start, alive = np.asarray(sky.block.rate_modes[:, -1]), np.asarray(sky.alive) > 0
    assert alive.sum(axis=1).tolist() == [8, 7]
    assert not draws[:, ~alive].any()
    p = start * np.exp(draws)
    np.testing.assert_allclose(p.sum(axis=2), 1, rtol=1e-12)
    for c, count in enumerate((8, 7)):
        for g in np.flatnonzero(alive[c])[:3]:
            assert stats.kstest(p[:, c, g], stats.beta(2.0, 2.0 * (count - 1)).cdf).pvalue > 1e-3
    improper = dataclasses.replace(sky, concentration=jnp.asarray(0.0))
    p = start * np.exp(np.asarray(LogRates(improper, jnp.zeros(2)).sample(jax.random.PRNGKey(6), (2000,))))
    assert stats.kstest(p[:, 0, 0], stats.beta(1.0, 7.0).cdf).pvalue > 1e-3


def test_density_of_the_rates_is_dirichlet_in_the_measure_of_their_logarithms(sky):
    """scipy's density times prod p, the determinant of d(p_1 .. p_{G-1}, ln S)/du; differences of two points."""
    rng = np.random.default_rng(7)
    start, alive = np.asarray(sky.block.rate_modes[:, -1]), np.asarray(sky.alive) > 0
    ours, expected = [], []
    for _ in range(2):
        u = rng.standard_normal((2, 8))
        ours.append(float(LogRates(sky, jnp.zeros(2)).log_prob(u)))
        value = stats.norm.logpdf(u[~alive]).sum()
        for c in range(2):
            p = (start[c] * np.exp(u[c]))[alive[c]]
            p = p / p.sum()
            value += stats.dirichlet.logpdf(p / p.sum(), np.full(len(p), 2.0)) + np.log(p).sum()
        expected.append(value)
    np.testing.assert_allclose(ours[0] - ours[1], expected[0] - expected[1], rtol=1e-9)


def test_coordinates_of_the_rates_are_exact(sky):
    """Inverse and Jacobian; their origin follows the sky along the ridge."""
    theta = sky.centre + 0.02
    support = LogRates(sky, theta).support
    transform = biject_to(support)
    z = jnp.asarray(np.random.default_rng(8).standard_normal((2, 8)))
    check_transform(transform, z, 16)
    np.testing.assert_allclose(transform(jnp.zeros((2, 8))), sky.rate_mean(theta))
    assert support.event_dim == 2 and not bool(support(z.at[0, 0].set(jnp.inf)))


# Directions --------------------------------------------------------------------------------------------

STRETCHES = {
    "thin ring": np.diag([1.0, 1.0, 0.05]),
    "small caps, tilted": np.linalg.qr(np.random.default_rng(9).standard_normal((3, 3)))[0] @ np.diag([0.1, 0.1, 1.7]),
    "no symmetry": np.array([[1.0, 0.5, 0.0], [0.2, 0.3, 0.1], [-0.4, 0.0, 2.0]]),
    "circle": np.array([[1.0, 0.3], [0.0, 0.2]]),
}


@pytest.mark.parametrize("name", STRETCHES)
def test_directions_are_uniform_whatever_the_stretch(name):
    site = Direction(STRETCHES[name])
    d = len(STRETCHES[name])
    v = site.sample(jax.random.PRNGKey(10), (3000,))
    n = np.asarray(site.direction(v))
    np.testing.assert_allclose(np.sum(n**2, axis=1), 1, rtol=1e-12)
    right_ascension = np.arctan2(n[:, 1], n[:, 0]) / (2 * np.pi) % 1
    assert stats.kstest(right_ascension, "uniform").pvalue > 1e-3
    if d == 3:
        assert stats.kstest((n[:, 2] + 1) / 2, "uniform").pvalue > 1e-3
        # Independent: a tilted ring has uniform marginals in no two frames.
        assert abs(stats.spearmanr(np.abs(n[:, 2]), np.cos(2 * np.pi * right_ascension)).statistic) < 0.06
    length = np.linalg.norm(v, axis=1)
    assert stats.kstest(length, stats.chi(12).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(length, n[:, 0]).statistic) < 0.06


@pytest.mark.parametrize("name", STRETCHES)
def test_density_of_directions_is_normalised_and_uniform(name):
    """Integrals over all of v, in polar coordinates, of 1 and of squares of the direction: 1 and 1/d each."""
    stretch = STRETCHES[name]
    site, d = Direction(stretch), len(stretch)
    radius, wr = np.polynomial.legendre.leggauss(60)
    radius, wr = 5 * (radius + 1), 5 * wr
    phi = 2 * np.pi * (np.arange(400) + 0.5) / 400
    if d == 2:
        unit, wu = np.stack([np.cos(phi), np.sin(phi)], axis=-1), np.full(400, 2 * np.pi / 400)
    else:
        z, wz = np.polynomial.legendre.leggauss(300)
        flat = np.sqrt(1 - z**2)
        parts = (np.outer(flat, np.cos(phi)), np.outer(flat, np.sin(phi)), np.outer(z, np.ones(400)))
        unit, wu = np.stack(parts, axis=-1).reshape(-1, 3), np.repeat(wz * 2 * np.pi / 400, 400)
    # The density is a product: of the length and of the direction.
    along = np.exp(np.asarray(site.log_prob(radius[:, None] * unit[:1]))) * radius ** (d - 1)
    around = np.exp(np.asarray(site.log_prob(3.0 * unit)))
    total = wr @ along * (wu @ around) / around[0]
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    n = np.asarray(site.direction(unit))
    second = np.einsum("i,ij,ik->jk", wu * around, n, n) / (wu @ around)
    np.testing.assert_allclose(second, np.eye(d) / d, atol=1e-6)


def test_density_of_directions_is_tylers():
    """Tyler's (1987) angular central Gaussian of covariance (S^T S)^-1, times chi with twelve degrees of freedom."""
    for stretch in STRETCHES.values():
        d = len(stretch)
        v = np.random.default_rng(11).standard_normal((5, d)) * 2
        length = np.linalg.norm(v, axis=1)
        unit = v / length[:, None]
        precision = stretch.T @ stretch
        tyler = math.lgamma(d / 2) - math.log(2 * np.pi ** (d / 2)) + np.linalg.slogdet(precision)[1] / 2
        tyler = tyler - d / 2 * np.log(np.einsum("ij,jk,ik->i", unit, precision, unit))
        expected = tyler + stats.chi.logpdf(length, 12) - (d - 1) * np.log(length)
        np.testing.assert_allclose(Direction(stretch).log_prob(v), expected, rtol=1e-11)


# Angular power -----------------------------------------------------------------------------------------


def test_median_power_falls_as_asked():
    l = np.array([2, 3, 4, 5])
    for shape in ("free", "power-law", "cascade", "fixed"):
        np.testing.assert_allclose(np.exp(log_power_prior(5, shape, 3e-7, 2.5, 1.0)), 3e-7 * (l / 2) ** -2.5)
    assert log_power_prior(1, "free", 1e-7, 2.0, 1.0).shape == (0,)


def test_a_template_is_scaled_to_the_median_of_its_first_degree():
    median = np.exp(log_power_prior(4, "template", 3e-7, 2.0, 1.0, (8.0, 4.0, 1.0)))
    np.testing.assert_allclose(median, [3e-7, 1.5e-7, 3e-7 / 8], rtol=1e-14)


def bateman(depth, l_max):
    """C_l of a nearest-neighbour cascade with nu_l = l (l + 1) from C_1 = 1, term by term."""
    nu = [l * (l + 1) for l in range(1, l_max + 1)]
    power = []
    for l in range(1, l_max + 1):
        terms = (math.exp(-depth * nu[n]) / math.prod(nu[p] - nu[n] for p in range(l) if p != n) for n in range(l))
        power.append(3 / (2 * l + 1) * math.prod(nu[: l - 1]) * sum(terms))
    return np.array(power)


@pytest.mark.parametrize("depth", [0.2, 0.3, 1.5])
def test_cascade_is_batemans_sum_from_l_of_two(depth):
    ours = np.exp(cascade_log_power(jnp.log(2.0), jnp.log(depth), 6))
    np.testing.assert_allclose(ours, 2 * bateman(depth, 6)[1:], rtol=1e-9)
    np.testing.assert_allclose(bateman(0.3, 5)[[1, 4]], [0.11505382436173198, 0.0076699318457567845], rtol=1e-11)


def test_cascade_is_differentiable_in_its_depth():
    power = jax.jit(lambda first, depth: cascade_log_power(first, depth, 4))
    check_grads(power, (0.1, -0.4), order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (4, "flat", 1e-7, 2.0, 1.0),
            r"the shape of C_l must be one of free, power-law, cascade, template, fixed, not 'flat'",
        ),
        (
            (4, "free", 0.0, 2.0, 1.0),
            r"the prior median of C_2 must be positive and finite, not 0.0: a prior that cannot",
        ),
        ((4, "template", 1e-7, 2.0, 1.0), r"needs one value for each l from 2 to 4, and has none"),
        (
            (4, "template", 1e-7, 2.0, 1.0, (1.0, 0.5)),
            r"for each l from 2 to 4, and has 2: give as many, or another l_max",
        ),
        ((3, "template", 1e-7, 2.0, 1.0, (1.0, 0.0)), r"the template of C_l must be positive and finite"),
        ((3, "free", 1e-7, 2.0, 1.0, (1.0, 0.5)), r"a template of C_l goes with the shape template, not 'free'"),
        ((4, "free", 1e-7, 2.0, -1.0), r"the spread of ln C_l must be positive and finite, not -1.0"),
        ((4, "free", 1e-7, np.inf, 1.0), r"the slope of the prior C_l must be finite, not inf"),
    ],
)
def test_priors_of_the_power_without_a_posterior_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        log_power_prior(*arguments)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0]])
def test_a_scale_must_be_positive_and_finite(value):
    with pytest.raises(InputError, match=r"the width must be positive and finite, not .*; give a wide but finite one"):
        require_positive("the width", value)
    require_positive("the width", [1.0, 1e-9])
