"""diffcr.cascade_rates against theta series in high precision, explosion times drawn at random, and known sums."""

import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr.cascade_rates import (
    RELAXATION,
    ended_rates,
    lost_share,
    relaxation_rates,
    require_sum_rule,
    sum_rule,
    survival,
)
from diffcr.errors import InputError

DEPTHS = (0.004, 0.02, 0.05, 0.1, 0.3, 0.7, 1 - 1e-9, 1.0, 1.5, 3.0, 10.0, 300.0)


# Models


def test_models_of_relaxation_are_told_apart_by_their_first_rate():
    """L^2 has the eigenvalue l (l + 1); scattering with D = nu (1 - mu^2) / 2 has half of it; BGK the same for all."""
    np.testing.assert_array_equal(relaxation_rates("angular-diffusion", 4), [2, 6, 12, 20])
    np.testing.assert_array_equal(relaxation_rates("isotropic-scattering", 4), [1, 3, 6, 10])
    np.testing.assert_array_equal(relaxation_rates("bgk", 4), [1, 1, 1, 1])
    np.testing.assert_array_equal(relaxation_rates("bgk", 2, rate=0.5), [0.5, 0.5])
    assert set(RELAXATION) == {"angular-diffusion", "isotropic-scattering", "bgk"}


def test_the_legendre_operator_gives_the_rates_of_isotropic_scattering():
    """-d/dmu [(1 - mu^2) / 2 dP_l/dmu] = nu_l P_l, by polynomials."""
    for l, nu in enumerate(relaxation_rates("isotropic-scattering", 6), start=1):
        legendre = np.polynomial.Legendre.basis(l).convert(kind=np.polynomial.Polynomial)
        flux = np.polynomial.Polynomial([0.5, 0, -0.5]) * legendre.deriv()
        np.testing.assert_allclose((-flux.deriv()).coef, nu * legendre.coef, atol=1e-12)


def test_rates_scale_with_nu_and_its_gradient():
    check_grads(jax.jit(lambda rate: relaxation_rates("angular-diffusion", 5, rate)), (0.7,), order=1)


@pytest.mark.parametrize("model", ["BGK", "", "diffusion"])
def test_unknown_models_are_named(model):
    with pytest.raises(InputError, match=f"called {model!r}: choose angular-diffusion or isotropic-scattering or bgk"):
        relaxation_rates(model, 4)
    with pytest.raises(InputError, match=f"called {model!r}: choose"):
        sum_rule(model)


def test_unusable_degrees_and_rates_are_named():
    for l_max in (0, -1, True):
        with pytest.raises(InputError, match=f"whole number of at least 1, not {l_max}"):
            relaxation_rates("bgk", l_max)
    for rate in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match=f"finite and not negative, not {rate}: give it per time"):
            relaxation_rates("bgk", 3, rate)


# Ends


def test_power_stays_at_the_end_of_a_chain():
    rates = relaxation_rates("angular-diffusion", 6)
    np.testing.assert_array_equal(ended_rates(rates, 4), [2, 6, 12, 0, 0, 0])
    np.testing.assert_array_equal(ended_rates(rates, 1), 0)
    np.testing.assert_array_equal(ended_rates(rates, 7), rates)
    np.testing.assert_array_equal(ended_rates(rates, 100.0), rates)


def test_an_end_between_degrees_leaves_part_of_a_rate():
    rates = relaxation_rates("angular-diffusion", 6)
    np.testing.assert_allclose(ended_rates(rates, 4.3), [2, 6, 12, 0.3 * 20, 0, 0], rtol=1e-14)
    check_grads(jax.jit(ended_rates), (rates, 4.3), order=1)
    np.testing.assert_allclose(jax.jacfwd(lambda end: ended_rates(rates, end))(4.3), [0, 0, 0, 20, 0, 0])


@pytest.mark.parametrize("end", [0.5, -3.0, np.nan, np.inf])
def test_unusable_ends_are_named(end):
    with pytest.raises(InputError, match=f"finite degree of at least 1, not at {end}: it starts at l = 1"):
        ended_rates(np.ones(3), end)
    assert np.all(jax.jit(lambda end: ended_rates(np.ones(3), end))(0.5) == 0)


# Survival


def series(depth, order=0):
    """S or its derivative, and 1 - S, with 700 digits: the sum over n in its first form."""
    with mpmath.workdps(700):
        time = mpmath.mpf(depth)
        number = range(1, int(40 / np.sqrt(depth)) + 10)
        terms = [
            (-1) ** (n + 1) * (2 * n + 1) * (-n * (n + 1)) ** order * mpmath.exp(-n * (n + 1) * time) for n in number
        ]
        total = mpmath.fsum(terms)
        return float(total), float(1 - total)


@pytest.mark.parametrize("depth", DEPTHS)
def test_survival_and_loss_keep_their_relative_accuracy(depth):
    kept, lost = series(depth)
    np.testing.assert_allclose(survival(depth), kept, rtol=2e-15)
    # Errors of the depth count pi^2 / 4T times.
    np.testing.assert_allclose(lost_share(depth), lost, rtol=1e-15 * (3 + 3 / depth))


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_derivative_of_survival_keeps_it_too(depth):
    slope, _ = series(depth, 1)
    for function, sign in ((survival, 1), (lost_share, -1)):
        found = jax.grad(function)(depth)
        np.testing.assert_allclose(sign * found, slope, rtol=1e-15 * (5 + 3 / depth))


def test_published_survival():
    np.testing.assert_allclose(
        survival(np.array([0.3, 1.0, 3.0])), [0.990212177803, 0.393655079764, 0.007436180380], rtol=1e-9
    )
    np.testing.assert_allclose(lost_share(0.05), 1.8669162e-19, rtol=1e-7)


def test_nothing_is_lost_at_no_depth():
    for depth in (0.0, 1e-300, 1e-3):
        assert survival(depth) == 1
        assert lost_share(depth) == 0
        assert jax.grad(survival)(depth) == 0
    check_grads(jax.jit(survival), (np.array([0.2, 0.9, 1.1, 4.0]),), order=1)
    check_grads(jax.jit(lost_share), (np.array([0.2, 0.9, 1.1, 4.0]),), order=1)


def test_survival_is_the_chance_that_a_birth_chain_has_not_exploded():
    """Waiting times drawn for l = 1 .. 400, and the mean of the rest, 1 / 401."""
    rng = np.random.default_rng(3)
    l = np.arange(1, 401)
    time = np.concatenate([rng.exponential(size=(20_000, 400)) @ (1 / (l * (l + 1))) for _ in range(3)]) + 1 / 401
    for depth in (0.3, 0.6, 1.0, 2.0):
        kept = float(survival(depth))
        assert np.mean(time > depth) == pytest.approx(kept, abs=4 * np.sqrt(kept * (1 - kept) / time.size))


# The sum rule


@pytest.mark.parametrize(
    "rates", ["bgk", lambda l: l, lambda l: l**0.99, lambda l: l * np.log(1 + l) ** 0.5, lambda l: 1.0]
)
def test_slow_rates_conserve_power(rates):
    found = sum_rule(rates)
    assert found.conserved
    assert found.passage_time == np.inf
    assert "sum 1 / nu_l diverges" in found.reason
    require_sum_rule(rates)


@pytest.mark.parametrize(
    ("rates", "time", "law"),
    [
        ("angular-diffusion", 1.0, "l^2"),
        ("isotropic-scattering", 2.0, "l^2"),
        (lambda l: l**1.5, 2.6123753486854883, "l^1.5"),
        (lambda l: 1e20 * l**3, 1.2020569031595943e-20, "l^3"),
        (lambda l: l**1.01, np.nan, "l^1.01"),
        (lambda l: l * np.log(1 + l) ** 2, np.nan, "l (log l)^2"),
        (lambda l: jnp.asarray(l) ** 2 + 1e-9 * l**4, np.nan, "l^4"),
        (lambda l: np.exp(l), 0.5819767068693265, "beyond all numbers"),
    ],
)
def test_fast_rates_lose_power_in_a_finite_time(rates, time, law):
    """Sums 1 / l (l + 1) = 1, Riemann's zeta, 1 / (e - 1)."""
    found = sum_rule(rates)
    assert found.conserved is False
    np.testing.assert_allclose(found.passage_time, time, rtol=1e-9)
    with pytest.raises(
        InputError, match=rf"not conserved: the rates (go as|grow) {re.escape(law)} at large l, and power passes"
    ):
        require_sum_rule(rates)


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        (lambda l: l * np.log(1 + l), "go as l log l at large l: sum 1 / nu_l is at the edge"),
        (lambda l: l * (2 + np.sin(np.log(l))), "do not grow steadily"),
        (lambda l: np.where(np.log2(l) % 1 == 0, l, l**2), "do not grow steadily"),
    ],
)
def test_what_cannot_be_seen_is_left_open(rates, why):
    found = sum_rule(rates)
    assert found.conserved is None
    assert why in found.reason
    with pytest.raises(InputError, match="is not known to be conserved: the rates"):
        require_sum_rule(rates)


def test_a_chain_that_is_cut_conserves_power_only_with_an_end():
    """The mean time is that of the degrees alone: 1 / 2 + 1 / 6 + 1 / 12 = 3 / 4."""
    rates = relaxation_rates("angular-diffusion", 3)
    found = sum_rule(rates)
    assert found.conserved is False
    np.testing.assert_allclose(found.passage_time, 0.75, rtol=1e-15)
    with pytest.raises(InputError, match=r"l = 3, is not zero: power leaves it .* = 0\.75 from l = 1; end the chain"):
        require_sum_rule(rates)
    ended = ended_rates(rates, 3)
    assert sum_rule(ended).conserved
    assert sum_rule(ended).reason == "the rate is zero at l = 3, where power stays"
    assert sum_rule(lambda l: np.maximum(0, 7 - l)).reason == "the rate is zero at l = 7, where power stays"
    require_sum_rule(ended)


def test_a_chain_of_many_equal_rates_still_leaves_its_last_degree():
    assert sum_rule("bgk").conserved
    assert sum_rule(relaxation_rates("bgk", 50)).conserved is False


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (np.array([1.0, -2.0]), r"finite and not negative, not -2 at l = 2: give a name, a function of l, or nu_l"),
        (np.array([1.0, np.nan]), r"not nan at l = 2"),
        (np.zeros(0), r"one rate for each degree, not the shape \(0,\)"),
        (lambda l: 3 - l, r"must not be negative, not -1 at l = 4: give a function of an array of l"),
        (lambda l: "fast", r"needs rates that are numbers, not 'fast'"),
        (lambda l: np.ones(3), r"rates at 100000 degrees came in the shape \(3,\): give a function"),
    ],
)
def test_rates_that_say_nothing_are_refused(rates, message):
    with pytest.raises(InputError, match=message):
        sum_rule(rates)


def test_traced_rates_are_refused():
    with pytest.raises(InputError, match="known rates, not traced ones: call it before jit"):
        jax.jit(sum_rule)(np.ones(3))
