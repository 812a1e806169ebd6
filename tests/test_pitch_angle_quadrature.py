"""Integrals over pitch angles against closed forms, and what is said of coefficients that have none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from diffcr.errors import InputError
from diffcr.pitch_angle import FAMILIES, family, isotropic, parallel_diffusion, quasi_linear
from diffcr.pitch_angle_quadrature import nodes, ratios, require_scattering, slopes


def qlt(index, floor=0.0):
    return functools.partial(quasi_linear, index=index, floor=floor)


# Quadrature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-0.95, -0.5, 0.0, 1 / 3, 3.0])
def test_nodes_take_powers_at_either_end(power):
    """int_0^1 x^a dx = 1 / (1 + a), and of (1 - x)^a the same where a is not so near to -1 that 1 - x is rounded."""
    mu, weight = nodes()
    assert mu.shape == weight.shape == (2, mu.shape[1])
    np.testing.assert_array_equal(mu[1], -mu[0])
    x = mu[0]
    assert weight[0] @ x**power == pytest.approx(1 / (1 + power), rel=1e-12)
    if power > -0.5:
        assert weight[0] @ (1 - x) ** power == pytest.approx(1 / (1 + power), rel=1e-12)
    assert weight[0] @ np.log(x) == pytest.approx(-1, rel=1e-12)


@pytest.mark.parametrize(("l", "scale"), [(1, 1.0), (4, 1.0), (75, 1.0), (150, 1.0)])
def test_slopes_are_those_of_legendre_polynomials(l, scale):
    """(1 - mu^2) P_l' = l (P_{l-1} - mu P_l), whose integral over a half of mu is known from P_l alone."""
    mu, weight = nodes()
    table = slopes(l)
    expected = (special.eval_legendre(l - 1, mu) - mu * special.eval_legendre(l, mu)) / (l + 1)
    np.testing.assert_allclose(table[l - 1], expected, atol=1e-13)
    # By parts: int_0^1 (1 - mu^2) P_l' / (l (l + 1)) = -(P_l(0) - 2 int mu P_l) / (l (l + 1)).
    x, w = special.roots_legendre(200)
    moment = w @ ((x + 1) / 2 * special.eval_legendre(l, (x + 1) / 2)) / 2
    expected = (2 * moment - special.eval_legendre(l, 0.0)) / (l * (l + 1))
    assert weight[0] @ table[l - 1, 0] == pytest.approx(expected, abs=1e-14)


def test_tables_cannot_be_changed_by_who_uses_them():
    for table in (*nodes(), slopes(3)):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1.0


@pytest.mark.parametrize(("index", "tolerance"), [(1.9, 1e-12), (1.99, 1e-12), (1.999, 1e-10), (1.9998, 1e-8)])
def test_nothing_is_lost_of_an_integrand_that_almost_diverges(index, tolerance):
    """kappa = v^2 / (2 D_0 (2 - q) (4 - q)), of which nodes down to 1e-275 alone have less than half at q = 1.999.

    Its logarithmic derivative in q is 1 / (2 - q) + 1 / (4 - q).
    """
    value, slope = jax.jit(jax.value_and_grad(lambda q: parallel_diffusion(qlt(q))))(index)
    assert float(value) == pytest.approx(1 / (2 * (2 - index) * (4 - index)), rel=tolerance)
    assert float(slope / value) == pytest.approx(1 / (2 - index) + 1 / (4 - index), rel=100 * tolerance)
    mu, weight = nodes()
    known = np.where(1 - mu**2 > 1e-14, (1 - mu**2) * np.abs(mu) ** (1 - index), 0)
    assert index < 1.999 or (weight * known).sum() / 8 < 0.5 * float(value)


@pytest.mark.parametrize("index", [2.0, 2.1, 2.4])
def test_what_diverges_is_infinite_or_nearly(index):
    """Of a traced D, whose values cannot be looked at. At q = 2.4 it is zero in floating point at the first nodes."""
    traced = jax.jit(lambda index: parallel_diffusion(qlt(index)))
    assert float(traced(index)) > (1e80 if index > 2.1 else 1e308)
    with pytest.raises(InputError, match=f"kappa_par diverges .*q >= 2 .*, here q = {index:.2f}"):
        parallel_diffusion(qlt(index))


@pytest.mark.parametrize("step", [0.025, 0.05])
def test_ratios_serve_any_interval(step):
    """int_0.2^0.7 of (1 - mu^2) / D with D = (1 - mu^2) mu is log(3.5)."""
    x, weight = (each[0] for each in nodes(step))
    ratio = ratios(lambda mu: (1 - mu**2) * mu, 0.2 + 0.5 * x, step)
    assert float(0.5 * weight @ ratio) == pytest.approx(np.log(3.5), rel=1e-12)


def test_gradients_are_right():
    _, weight = nodes()

    def integral(index, floor):
        return jnp.sum(weight * ratios(qlt(index, floor), nodes()[0]))

    check_grads(jax.jit(integral), (1.7, 0.1), order=1, modes=["rev"], rtol=1e-4)
    check_grads(jax.jit(lambda q: integral(q, 0.0)), (1.7,), order=1, modes=["rev"], rtol=1e-4)


# Checks -------------------------------------------------------------------------------------------------------


GOOD = {name: family(name) for name in FAMILIES} | {
    "near the limit": qlt(1.99),
    "steep with a floor": qlt(3.0, 1e-6),
    "steep with a width": family("broadened", index=3.0, width=1e-6),
    "narrow": family("enhanced", strength=100.0, width=0.02, centre=0.5),
    "weakened": family("enhanced", strength=-0.9, width=0.3, centre=0.5),
    "weak at one end": lambda mu: (1 - mu) ** 1.9 * (1 + mu),
    "uneven": lambda mu: (1 - mu**2) * (1 + 0.5 * mu),
    "a deep minimum": lambda mu: (1 - mu**2) * (0.01 + (mu - 0.3) ** 2),
}


@pytest.mark.parametrize("scattering", GOOD.values(), ids=GOOD)
def test_a_coefficient_with_all_its_integrals_passes(scattering):
    assert require_scattering(scattering) is scattering


def shifted(power, centre):
    return lambda mu: (1 - mu**2) * abs(mu - centre) ** power


BAD = {
    "2": (qlt(2.0), r"falls as \|mu\|\^1.00 towards mu = 0, where kappa_par diverges .*q >= 2 .* here q = 2.00"),
    "2.5": (qlt(2.5), "here q = 2.50"),
    "broadened by nothing": (functools.partial(FAMILIES["broadened"][0], index=2.2, width=0.0), "here q = 2.20"),
    "one side of 0": (lambda mu: (1 - mu**2) * jnp.where(mu > 0, mu**1.2, 1.0), r"towards mu = 0, .* q = 2.20"),
    "elsewhere": (shifted(1.0, 0.2), r"\|mu - \(0.2\)\|\^1.00 towards mu = 0.2, where kappa_par diverges .*q = 2.00"),
    "elsewhere, steeper": (shifted(1.5, -0.37123), r"towards mu = -0.371, where kappa_par diverges .*here q = 2.50"),
    "near an end": (shifted(2.0, 0.99987), r"towards mu = 1, where kappa_par diverges .*here q = 3.00"),
    "near 0": (shifted(1.1, 2e-5), r"towards mu = 2e-05, where kappa_par diverges .*here q = 2.10"),
    "elsewhere, too gently": (
        shifted(0.5, 0.2),
        r"\^0.50 towards mu = 0.2, which the quadrature resolves only at mu = 0",
    ),
    "the end": (
        lambda mu: (1 - mu) ** 3.2 * (1 + mu),
        r"\(1 - \|mu\|\)\^3.20 towards mu = 1, where kappa_par diverges",
    ),
    "both ends": (lambda mu: (1 - mu**2) ** 2.2, "where the profile diverges, though kappa_par does not, .* q >= 2"),
    "the lower end": (lambda mu: (1 + mu) ** 2.0 * (1 - mu), "towards mu = -1, where the profile diverges"),
    "negative": (lambda mu: (1 - mu**2) * (mu - 0.2), "must be positive inside .*kappa_par diverges .* q >= 2"),
    "negative in a narrow place": (lambda mu: (1 - mu**2) * ((mu - 0.2) ** 2 - 1e-8), "positive .* at mu = 0.2"),
    "nothing": (lambda mu: 0 * mu, "not 0 at mu"),
    "not a number": (lambda mu: jnp.nan * mu, "must be positive inside"),
    "infinite": (lambda mu: jnp.inf + mu, "not inf at mu"),
    "too narrow": (
        lambda mu: (1 - mu**2) * (1e-6 + (mu - 0.2) ** 2),
        "features too narrow in mu .* resolves about 0.02",
    ),
    "a number": (lambda mu: jnp.asarray(1.0), r"one value for each mu: it makes shape \(\) of"),
}


@pytest.mark.parametrize(("scattering", "message"), BAD.values(), ids=BAD)
def test_a_coefficient_that_lets_something_diverge_is_refused_in_one_line(scattering, message):
    with pytest.raises(InputError, match=message) as error:
        require_scattering(scattering)
    assert "\n" not in str(error.value)


def test_tracing_is_no_obstacle():
    value = jax.jit(lambda q: parallel_diffusion(require_scattering(qlt(q))))(1.5)
    assert float(value) == pytest.approx(0.4)
    assert require_scattering(isotropic) is isotropic
