"""The emulator against textbook kriging, brute force, known functions and their derivatives."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr.errors import InputError
from diffcr.transport_emulator import fit_emulator, fit_transport, leave_one_out

RNG = np.random.default_rng(5)


def design(side=6):
    """ln(r_L / L_c) and ln sigma^2 on a skewed grid."""
    x, y = np.meshgrid(np.linspace(-4, -1, side), np.linspace(-2, 1, side))
    return {"a": x.ravel() + 0.2 * y.ravel(), "b": y.ravel()}


def truth(a, b):
    return 0.4 * a - 0.7 * b + 0.3 * np.sin(a) * np.cos(b)


@pytest.fixture(scope="module")
def fitted():
    points = design()
    error = np.full(36, 0.02)
    values = truth(points["a"], points["b"]) + error * RNG.normal(size=36)
    return fit_emulator(points, values, error)


def kriging(emulator, a, b):
    """Universal kriging by its bordered system, in NumPy: value and error at one point."""
    x = np.stack([a, b]) - np.asarray(emulator.centre)
    x, d = x / np.asarray(emulator.half), np.asarray(emulator.design)
    kernel = lambda u, v: (
        np.asarray(emulator.amplitude) ** 2
        * np.exp(-0.5 * np.sum(((u[:, None] - v[None]) / np.asarray(emulator.lengths)) ** 2, axis=-1))
    )
    trend = lambda u: np.column_stack([np.ones(len(u)), u])
    number = len(d)
    matrix = np.zeros((number + 3, number + 3))
    matrix[:number, :number] = kernel(d, d) + np.diag(np.asarray(emulator.errors) ** 2)
    matrix[:number, number:], matrix[number:, :number] = trend(d), trend(d).T
    right = np.concatenate([kernel(d, x[None])[:, 0], trend(x[None])[0]])
    weights = np.linalg.solve(matrix, right)
    value = weights[:number] @ np.asarray(emulator.values)
    return value, np.sqrt(np.asarray(emulator.amplitude) ** 2 - weights @ right)


def test_predictions_are_those_of_universal_kriging(fitted):
    for a, b in ((-2.0, 0.3), (-3.1, -1.0), (-4.4, -2.0)):
        found = fitted(a=a, b=b)
        value, error = kriging(fitted, a, b)
        np.testing.assert_allclose(found.value, value, rtol=1e-9)
        np.testing.assert_allclose(found.error, error, rtol=1e-6)


def test_the_truth_lies_within_the_errors_and_errors_are_below_those_of_the_points(fitted):
    a, b = np.linspace(-3.3, -1.5, 9)[:, None], np.linspace(-1.7, 0.7, 9)
    found = fitted(a=a, b=b)
    assert found.value.shape == (9, 9) and found.inside.all()
    deviation = (found.value - truth(a, b)) / found.error

    assert 0.3 < np.sqrt(np.mean(deviation**2)) < 1.5
    assert np.median(found.error) < 0.02


def test_derivatives_are_those_of_the_truth(fitted):
    """In forward and reverse mode, within what errors of 0.02 at a spacing of 0.6 leave."""
    for a, b in ((-2.5, -0.5), (-1.9, 0.2)):
        gradient = jax.grad(lambda a, b: fitted(a=a, b=b).value, argnums=(0, 1))(a, b)
        forward = jax.jvp(lambda a, b=b: fitted(a=a, b=b).value, (a,), (1.0,))[1]
        expected = 0.4 + 0.3 * np.cos(a) * np.cos(b), -0.7 - 0.3 * np.sin(a) * np.sin(b)

        np.testing.assert_allclose(gradient, expected, atol=0.06)
        np.testing.assert_allclose(forward, gradient[0], rtol=1e-9)
        step = 1e-5
        numeric = (fitted(a=a + step, b=b).value - fitted(a=a - step, b=b).value) / (2 * step)
        np.testing.assert_allclose(forward, numeric, rtol=1e-6)
    slope = jax.grad(lambda a: fitted(a=a, b=0.0).error)(-2.2)
    assert np.isfinite(slope)


def test_leaving_one_out_is_what_it_says(fitted):
    """By brute force: one point taken out, and predicted from the others."""
    found = leave_one_out(fitted)
    names = ("design", "values", "errors")
    for point in (0, 14, 35):
        kept = np.delete(np.arange(36), point)
        less = eqx.tree_at(
            lambda e: [getattr(e, name) for name in names], fitted, [getattr(fitted, name)[kept] for name in names]
        )
        at = dict(zip(("a", "b"), fitted.design[point] * fitted.half + fitted.centre, strict=True))
        value, error = kriging(less, float(at["a"]), float(at["b"]))
        expected = (fitted.values[point] - value) / np.hypot(error, fitted.errors[point])
        np.testing.assert_allclose(found[point], expected, rtol=1e-6)
    assert 0.6 < np.mean(found**2) < 1.5


def test_one_wrong_point_stands_out():
    points = design()
    values = truth(points["a"], points["b"])
    values[20] += 0.5
    found = leave_one_out(fit_emulator(points, values + 0.01 * RNG.normal(size=36), np.full(36, 0.01)))

    assert np.argmax(np.abs(found)) == 20


def test_nearly_exact_points_are_gone_through_and_errors_grow_in_gaps():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0, 1.1])
    emulator = fit_emulator({"x": x}, np.sin(3 * x), np.full(8, 1e-4))

    np.testing.assert_allclose(emulator(x=x).value, np.sin(3 * x), atol=5e-4)
    assert emulator(x=0.65).error > 1.2 * emulator(x=0.25).error
    np.testing.assert_allclose(emulator(x=0.65).value, np.sin(3 * 0.65), atol=5 * float(emulator(x=0.65).error))


@pytest.mark.parametrize("degree", [1, 2])
def test_a_polynomial_is_recovered_with_the_errors_of_least_squares(degree):
    """No more than a polynomial in the points: the errors are those of weighted least squares on it."""
    points, error = design(), np.full(36, 0.05)
    a, b = points["a"], points["b"]
    values = 1 + 2 * a - b + 0.1 * RNG.normal(size=36) * 0.5
    emulator = fit_emulator(points, values, error, degree)
    found = emulator(a=-2.0, b=0.0)
    powers = [a**i * b**j for i, j in itertools.product(range(3), repeat=2) if i + j <= degree]
    at = [(-2.0) ** i * 0.0**j for i, j in itertools.product(range(3), repeat=2) if i + j <= degree]
    covariance = np.linalg.inv(np.stack(powers) @ np.stack(powers, axis=1)) * 0.05**2
    expected = np.sqrt(np.array(at) @ covariance @ np.array(at))

    assert expected * 0.999 < found.error < 2.5 * expected
    assert abs(found.value - (1 - 4.0)) < 4 * found.error


def test_it_refuses_to_extrapolate(fitted):
    """Beyond the range, and in a corner of the range without points; in a trace with NaN."""
    for a, b in ((0.5, 0.0), (-4.3, 0.9)):
        with pytest.raises(InputError, match=r"does not extrapolate to a = .*; simulate points there"):
            fitted(a=a, b=b)
        inside = jax.jit(lambda a, b: fitted(a=a, b=b))(a, b)
        assert not inside.inside and np.isnan(inside.value) and np.isnan(inside.error)
    both = jax.jit(lambda a: fitted(a=a, b=0.0))(jnp.array([-2.0, 9.0]))
    np.testing.assert_array_equal(both.inside, [True, False])
    np.testing.assert_allclose(both.value[0], fitted(a=-2.0, b=0.0).value)
    # The points themselves are inside.
    assert fitted(a=design()["a"], b=design()["b"]).inside.all()


def test_transport_coefficients_come_back_with_their_signs_and_scalings():
    """kappa_par ~ r^(1/3) / sigma^2 and kappa_A below zero, from simulated points with errors of 3 per cent."""
    radius, sigma2 = (v.ravel() for v in np.meshgrid(np.geomspace(0.02, 0.5, 5), np.geomspace(0.1, 3, 5)))
    kappa = np.stack([0.5 * radius ** (1 / 3) / sigma2, 0.02 * radius**0.5 * sigma2, -0.2 * radius], axis=-1)
    noisy = kappa * (1 + 0.03 * RNG.normal(size=kappa.shape))
    emulator = fit_transport(radius, sigma2, noisy, np.abs(0.03 * kappa))

    found = np.array(emulator(0.1, 0.7))
    np.testing.assert_allclose(found, [0.5 * 0.1 ** (1 / 3) / 0.7, 0.02 * 0.1**0.5 * 0.7, -0.02], rtol=0.05)
    slope = jax.grad(lambda ln: jnp.log(emulator(jnp.exp(ln), 0.7)[0]))(np.log(0.1))
    np.testing.assert_allclose(slope, 1 / 3, atol=0.05)
    with pytest.raises(InputError, match="does not extrapolate"):
        emulator(0.1, 10.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"errors": np.zeros(36)}, "errors of an emulator must be positive"),
        ({"errors": np.ones((36, 1))[:, 0] * np.inf}, "errors of an emulator must be finite"),
        ({"values": np.full(36, np.nan)}, "values of an emulator must be finite"),
        ({"degree": 3}, "degree of an emulator"),
        ({"inputs": {"a": np.ones(36), "b": np.arange(36.0)}}, "a is the same at all points"),
        ({"inputs": {"a": np.arange(36.0), "b": np.arange(36.0)}}, "must not lie in a plane"),
        ({"inputs": {"a": np.arange(4.0)}, "values": np.ones(4), "errors": np.ones(4)}, "needs 5 points, not 4"),
        ({"inputs": {}}, "as many inputs"),
    ],
)
def test_a_design_that_cannot_be_fitted_is_refused(changes, message):
    arguments = {"inputs": design(), "values": np.arange(36.0), "errors": np.ones(36)} | changes
    with pytest.raises(InputError, match=message):
        fit_emulator(**arguments)


def test_32_bits_are_refused():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="an emulator needs 64-bit floats"):
        fit_emulator(design(), np.arange(36.0), np.ones(36))


def test_names_and_positive_numbers_are_asked_for(fitted):
    with pytest.raises(InputError, match="an emulator of a, b was given a, c"):
        fitted(a=1.0, c=2.0)
    with pytest.raises(InputError, match="sigma2 of an emulator must be positive"):
        fit_transport(np.ones(9), np.zeros(9), np.ones((9, 3)), np.ones((9, 3)))
    with pytest.raises(InputError, match="kappa_par and kappa_perp"):
        fit_transport(np.ones(9), np.ones(9), -np.ones((9, 3)), np.ones((9, 3)))
