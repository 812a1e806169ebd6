"""The coordinates of a physical model's posterior: the prior in them, and the best fit that whitens them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.model_files import model_of
from diffcr.inference.prior import Coordinates
from diffcr.inference.source_coordinates import Layout, Positions, make_locator
from numpyro.distributions.transforms import biject_to
from scipy import stats

from diffcr.errors import InputError


def a_model(**priors):
    return model_of(
        {
            "model": {"name": "toy", "observer": "lsr"},
            "parameters": {"perpendicular": 0.1},
            "priors": {
                "diffusion_index": {"distribution": "normal", "mean": 0.4, "spread": 0.1},
                "halo_height_pc": {"distribution": "log-normal", "median": 3000, "spread": 0.3},
                **priors,
            },
        }
    )


FIELD = {"field": {"distribution": "isotropic"}}


def test_numbers_come_in_the_order_of_their_names_then_directions():
    layout = Layout(a_model(**FIELD, velocity_km_s={"distribution": "normal", "spread": 10}), extra=2)
    assert layout.normals == [("diffusion_index", 1), ("halo_height_pc", 1), ("velocity_km_s", 3)]
    assert layout.unit_normals == 7 and layout.size == 10
    x = np.arange(1.0, 11.0)
    values = layout.values(x)
    assert float(values["diffusion_index"]) == pytest.approx(0.4 + 0.1 * 1)
    assert float(values["halo_height_pc"]) == pytest.approx(3000 * np.exp(0.3 * 2))
    lsr = np.asarray(layout.model.values["velocity_km_s"])
    np.testing.assert_allclose(values["velocity_km_s"], lsr + 10 * np.array([3.0, 4.0, 5.0]), rtol=1e-12)
    np.testing.assert_allclose(layout.effects(x), [6.0, 7.0])
    np.testing.assert_allclose(values["field"], x[7:] / np.linalg.norm(x[7:]), rtol=1e-12)


def test_the_prior_is_unit_normals_and_directions_of_no_preference():
    layout = Layout(a_model(**FIELD))
    prior = Positions(layout, np.zeros(5), np.eye(5))
    draws = np.asarray(prior.sample(jax.random.PRNGKey(0), (4000,)))
    for column in draws[:, :2].T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    direction = draws[:, 2:] / np.linalg.norm(draws[:, 2:], axis=1, keepdims=True)
    for component in direction.T:
        assert stats.kstest(component, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # The density: unit normals, times a chi of 12 degrees of freedom over the area of the sphere.
    x = np.array([0.3, -1.2, 1.0, 2.0, -0.5])
    r = np.linalg.norm(x[2:])
    expected = stats.norm.logpdf(x[:2]).sum() + stats.chi(12).logpdf(r) - np.log(4 * np.pi * r**2)
    assert float(prior.log_prob(x)) == pytest.approx(expected, rel=1e-12)


def test_coordinates_are_whitened_about_the_centre():
    layout = Layout(a_model())
    root = np.array([[2.0, 0.0], [0.5, 3.0]])
    prior = Positions(layout, np.array([0.1, -0.2]), root)
    assert isinstance(prior.support, Coordinates)
    transform = biject_to(prior.support)
    np.testing.assert_allclose(transform(jnp.zeros(2)), [0.1, -0.2])
    z = jnp.array([0.7, -1.1])
    np.testing.assert_allclose(transform.inv(transform(z)), z, rtol=1e-12)
    jacobian = np.asarray(jax.jacfwd(transform)(z))
    np.testing.assert_allclose(jacobian @ jacobian.T, np.linalg.inv(root @ root.T), rtol=1e-12)
    logged = transform.log_abs_det_jacobian(z, transform(z))
    assert float(logged) == pytest.approx(np.log(abs(np.linalg.det(jacobian))))


def test_the_best_fit_of_linear_residuals_is_that_of_ridge_regression():
    """Residuals (A x - b) / 1 with a unit normal prior: centre (1 + A^T A)^-1 A^T b, precision 1 + A^T A."""
    layout = Layout(a_model(spectral_index={"distribution": "normal", "mean": 2.7, "spread": 0.1}))
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((6, 3)), rng.standard_normal(6)
    locate = make_locator(layout, lambda x, a, b: a @ x - b)
    geometry = locate((jnp.asarray(a), jnp.asarray(b)), starts=4)
    precision = np.eye(3) + a.T @ a
    np.testing.assert_allclose(geometry.centre, np.linalg.solve(precision, a.T @ b), rtol=1e-7)
    np.testing.assert_allclose(geometry.root @ geometry.root.T, precision, rtol=1e-5)
    x = geometry.centre
    assert geometry.cost == pytest.approx(0.5 * (np.sum((a @ x - b) ** 2) + x @ x))
    assert len(geometry.others) == 0


def test_a_second_mode_is_found_and_a_mirror_image_is_none():
    layout = Layout(a_model(**FIELD))
    # Two places of the same probability, at +-3 of the first number.
    both = make_locator(layout, lambda x, w: w * (x[:1] ** 2 - 9.0))(((jnp.asarray(5.0)),), starts=16)
    assert len(both.others) >= 1
    assert abs(both.others[0][0] + both.centre[0]) < 0.1
    # The direction's sign does not matter to its axis: B and -B are one.
    axis = make_locator(layout, lambda x, w: w * x[2:4] / jnp.linalg.norm(x[2:]))((jnp.asarray(30.0),), starts=16)
    assert abs(axis.centre[4]) / np.linalg.norm(axis.centre[2:]) > 0.999
    assert len(axis.others) == 0


def test_no_finite_fit_is_said():
    layout = Layout(a_model())
    with pytest.raises(InputError, match="no draw of the priors of the model toy gives a finite fit"):
        make_locator(layout, lambda x, w: jnp.full(2, jnp.nan) * x[0])((jnp.asarray(1.0),), starts=2)


def test_the_field_turns_round_with_what_is_odd_in_it():
    normal = {"distribution": "normal", "mean": 0, "spread": 0.3}
    model = a_model(**FIELD, antisymmetric=normal, gradient_along_field_per_kpc=normal)
    signs = Layout(model).mirror()
    names = [name for name, _ in Layout(model).normals]
    expected = [-1 if name in ("antisymmetric", "gradient_along_field_per_kpc") else 1 for name in names]
    np.testing.assert_array_equal(signs, [*expected, -1, -1, -1])


@pytest.mark.parametrize(
    "priors",
    [
        {},
        FIELD | {"antisymmetric": {"distribution": "uniform", "low": 0, "high": 0.5}},
        FIELD | {"gyration_ratio": {"distribution": "log-uniform", "low": 1, "high": 100}},
    ],
)
def test_there_is_no_mirror_without_a_free_field_or_with_a_signed_drift(priors):
    assert Layout(a_model(**priors)).mirror() is None


def test_the_mirror_image_makes_the_same_dipole():
    """(B, kappa_A) and (-B, -kappa_A) are one tensor, and a gradient along B is turned with it."""
    normal = {"distribution": "normal", "mean": 0, "spread": 0.3}
    model = a_model(**FIELD, antisymmetric=normal, gradient_along_field_per_kpc=normal)
    layout = Layout(model)
    x = np.linspace(-1, 1, layout.size) + 0.05
    f = jax.jit(lambda x: model.forward.dipole(model.parameters(layout.values(x)), jnp.array([1.0, 30.0])))
    np.testing.assert_allclose(f(x), f(x * layout.mirror()), rtol=1e-12)
    flipped = x * np.where(np.arange(layout.size) >= layout.unit_normals, -1, 1)
    assert np.max(np.abs(f(x) / f(flipped) - 1)) > 1e-2
