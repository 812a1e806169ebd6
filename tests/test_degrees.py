"""diffcr.inference.degrees against dense Gaussian integrals and a grid over a hyper-parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import xarray as xr
from diffcr.inference.degrees import (
    FREE,
    LeaveOneDegreeOut,
    bridged,
    compare_degrees,
    leave_one_degree_out,
    log_density_of_degrees,
)

from diffcr.errors import InputError

DEGREE = (1, 1, 2, 2, 2, 2, 3, 3, 3)
SIZE = len(DEGREE)


def summary(energies=1, seed=0):
    """Measured multipoles and their covariance, as the likelihood holds them."""
    rng = np.random.default_rng(seed)
    root = 0.01 * (np.eye(SIZE) + 0.3 * rng.standard_normal((energies, SIZE, SIZE)))
    covariance = root @ np.swapaxes(root, 1, 2)
    measured = 0.05 * rng.standard_normal((energies, SIZE))
    information = np.linalg.inv(covariance)
    pull = np.einsum("epq,eq->ep", information, measured)
    return (information, pull, DEGREE), measured, covariance


def dense(measured, covariance, design, mean, scale, offset, left_out):
    """ln p of the measured multipoles from the normal distribution of all of them together, energies side by side."""
    energies = len(measured)
    spread = np.einsum("epn,n,fqn->epfq", design, scale**2, design).reshape(energies * SIZE, -1)
    spread = spread + FREE**2 * np.diag(np.tile(np.equal(DEGREE, left_out), energies))
    for e in range(energies):
        place = slice(e * SIZE, (e + 1) * SIZE)
        spread[place, place] += covariance[e]
    centre = (design @ mean + offset).ravel()
    return scipy.stats.multivariate_normal.logpdf(measured.ravel(), centre, spread)


@pytest.mark.parametrize("energies", [1, 2])
def test_the_density_of_a_degree_is_that_of_the_joint_normal(energies):
    sky, measured, covariance = summary(energies)
    rng = np.random.default_rng(1)
    design = rng.standard_normal((energies, SIZE, 4))
    mean, scale = 0.02 * rng.standard_normal(4), np.array([0.01, 0.03, 0.02, 0.05])
    offset = 0.01 * rng.standard_normal((energies, SIZE))
    given, found = jax.jit(lambda d, m, s, o: log_density_of_degrees(*sky, d, m, s, o))(design, mean, scale, offset)
    whole = dense(measured, covariance, design, mean, scale, offset, 0)
    expected = [whole - dense(measured, covariance, design, mean, scale, offset, l) for l in (1, 2, 3)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    # The whole is relative to a sky of no multipoles.
    nothing = dense(measured, covariance, design, 0 * mean, 0 * scale, 0 * offset, 0)
    np.testing.assert_allclose(given, whole - nothing, rtol=1e-8)


def test_free_multipoles_say_nothing_of_each_other():
    """With a diagonal prior and covariance each degree's density is its own, over that of free multipoles."""
    measured = summary()[1]
    _, found = log_density_of_degrees(1e4 * np.eye(SIZE)[None], 1e4 * measured, DEGREE, jnp.eye(SIZE), 0.0, 0.03)
    for l in (1, 2, 3):
        own = measured[0, np.equal(DEGREE, l)]
        parts = [scipy.stats.norm.logpdf(own, 0, np.hypot(width, 0.01)) for width in (0.03, np.hypot(FREE, 0.03))]
        np.testing.assert_allclose(found[l - 1], np.sum(parts[0] - parts[1]), rtol=1e-9)


def posterior(values, model="small-scale"):
    draws = xr.Dataset(
        {"degree_density": (("chain", "draw", "l"), values)}, coords={"l": [1, 2, 3]}, attrs={"model": model}
    )
    return xr.DataTree.from_dict({"posterior": draws})


def test_leaving_out_is_the_integral_over_the_posterior_of_the_others():
    """One hyper-parameter, the width of all multipoles, on a grid: p(d_l | d_-l) = int p(d_l | w) p(w | d_-l)."""
    sky, measured, covariance = summary(seed=3)
    width = np.exp(np.linspace(np.log(5e-3), np.log(0.5), 400))
    each = np.asarray(jax.jit(jax.vmap(lambda w: log_density_of_degrees(*sky, jnp.eye(SIZE), 0.0, w)[1]))(width))
    design, zero = np.eye(SIZE)[None], np.zeros(SIZE)
    log_whole = np.array([dense(measured, covariance, design, zero, w * np.ones(SIZE), 0.0, 0) for w in width])
    expected = []
    for l in (1, 2, 3):
        log_rest = log_whole - each[:, l - 1]
        expected.append(np.log(np.sum(np.exp(log_whole - log_rest.max())) / np.sum(np.exp(log_rest - log_rest.max()))))
    weight = np.exp(log_whole - log_whole.max())
    drawn = np.random.default_rng(2).choice(len(width), 20000, p=weight / weight.sum())
    found = leave_one_degree_out(posterior(each[drawn].reshape(4, 5000, 3)))
    np.testing.assert_allclose(found.elpd, expected, atol=0.03)
    np.testing.assert_array_equal(found.degree, [1, 2, 3])
    assert found.total == pytest.approx(np.sum(found.elpd))
    assert found.unreliable == ()
    # What a degree says of the width is worth something, and never less than nothing.
    assert np.all(found.p_loo > 0)


def test_a_degree_whose_weights_fail_is_fitted_again():
    """A normal prior of phi and one datum far out: draws given the datum say little of the prior.

    p(d) = N(d; 0, 1 + s^2) in closed form, for phi ~ N(0, 1) and d ~ N(phi, s^2).
    """
    rng = np.random.default_rng(4)
    s, d = 0.05, 1.5
    mean, width = d / (1 + s**2), s / np.sqrt(1 + s**2)
    density = lambda phi: scipy.stats.norm.logpdf(d, phi, s)
    values = 0.01 * rng.standard_normal((2, 1000, 3))
    values[..., 1] = density(mean + width * rng.standard_normal((2, 1000)))
    asked = []

    def refit(l):
        asked.append(l)
        return density(rng.standard_normal((4, 1000)))

    assert leave_one_degree_out(posterior(values)).unreliable == (2,)
    found = leave_one_degree_out(posterior(values), refit)
    assert asked == [2] and found.refitted == (2,) and found.unreliable == ()
    assert found.elpd[1] == pytest.approx(scipy.stats.norm.logpdf(d, 0, np.sqrt(1 + s**2)), abs=0.25)
    # Chains that do not agree are not believed.
    apart = lambda l: refit(l) + 500 * np.arange(4)[:, None]
    assert leave_one_degree_out(posterior(values), apart).unreliable == (2,)


def test_the_bridge_holds_where_few_draws_overlap_and_says_how_well():
    rng = np.random.default_rng(5)
    s, d = 0.01, 2.0
    mean, width = d / (1 + s**2), s / np.sqrt(1 + s**2)
    density = lambda phi: scipy.stats.norm.logpdf(d, phi, s)
    pairs = [
        bridged(density(mean + width * rng.standard_normal((4, 500))), density(rng.standard_normal((4, 5000))))
        for _ in range(20)
    ]
    off = np.array([value for value, _ in pairs]) - scipy.stats.norm.logpdf(d, 0, np.sqrt(1 + s**2))
    assert abs(np.mean(off)) < 0.1
    assert np.std(off) == pytest.approx(np.mean([error for _, error in pairs]), rel=0.5)


def test_models_are_ranked_with_paired_errors():
    def result(elpd, k=0.1):
        return LeaveOneDegreeOut(np.array([1, 2, 3]), np.array(elpd), np.zeros(3), np.array([0.1, k, 0.1]))

    first, second = compare_degrees({"b": result([5.0, 4.0, 3.0]), "a": result([6.0, 7.0, 3.5], k=0.9)})
    assert (first.name, second.name) == ("a", "b")
    assert first.difference == 0 and second.difference == pytest.approx(-4.5)
    differences = np.array([-1.0, -3.0, -0.5])
    assert second.difference_error == pytest.approx(np.sqrt(3 * np.var(differences, ddof=1)))
    np.testing.assert_allclose(second.by_degree, differences)
    assert first.unreliable == (2,) and second.unreliable == ()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="no model to compare: give the results of at least one, by name"):
        compare_degrees({})
    one = LeaveOneDegreeOut(np.array([1, 2]), np.zeros(2), np.zeros(2), np.zeros(2))
    other = LeaveOneDegreeOut(np.array([1, 2, 3]), np.zeros(3), np.zeros(3), np.zeros(3))
    with pytest.raises(InputError, match="the model b has degrees to l = 3, another to 2: .* use one l_max for all"):
        compare_degrees({"a": one, "b": other})
    plain = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("draw", np.zeros(3))}, attrs={"model": "dipole"})})
    with pytest.raises(InputError, match="the posterior of the model dipole does not say how degrees are foretold"):
        leave_one_degree_out(plain)
