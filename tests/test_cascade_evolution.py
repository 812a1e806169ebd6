"""Transitions between any degrees, survival and slowest modes of cascades, against exponentials in high precision."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from diffcr import cascade
from diffcr.cascade import rate_matrix, require_rate_matrix
from diffcr.cascade_rates import ended_rates, relaxation_rates, survival
from diffcr.errors import InputError

evolve = jax.jit(cascade.evolve)
bateman_power = jax.jit(cascade.bateman_power)
chain_survival = jax.jit(cascade.chain_survival)
slowest_ratio = jax.jit(cascade.slowest_ratio)
nearest_neighbour_power = jax.jit(cascade.nearest_neighbour_power, static_argnums=2)


def weights(l_max):
    return 2 * np.arange(1, l_max + 1) + 1


def diffusion(l_max):
    return np.asarray(relaxation_rates("angular-diffusion", l_max))


def first(l_max):
    return np.eye(l_max)[0]


def reference(power, rates, time, loss=None):
    """exp of the matrix of the equation for C_l itself, with 60 digits."""
    with mpmath.workdps(60):
        size = len(power)
        matrix = mpmath.matrix(size, size)
        for a in range(size):
            for b in range(size):
                matrix[b, a] = mpmath.mpf(rates[a, b]) * time * (2 * a + 3) / (2 * b + 3)
            matrix[a, a] -= time * (
                mpmath.fsum(mpmath.mpf(x) for x in rates[a]) if loss is None else mpmath.mpf(loss[a])
            )
        after = mpmath.expm(matrix, method="taylor") * mpmath.matrix([mpmath.mpf(x) for x in power])
        return np.array([float(x) for x in after])


def scattered(seed, size=6, decades=3.0):
    """Powers and rates over many orders of magnitude, a third of the rates zero."""
    rng = np.random.default_rng(seed)
    rates = 10 ** rng.uniform(-decades, decades, (size, size)) * (rng.uniform(size=(size, size)) > 1 / 3)
    return 10 ** rng.uniform(-8, 0, size), rates


# Values


def test_two_degrees_exchange_power():
    """From l = 1 to 2 at the rate a, back at b: the population 3 C_1 tends to b / (a + b) of all, at a + b."""
    a, b, time = 0.7, 0.2, 1.3
    after = evolve(np.array([2.0, 0.0]), rate_matrix(np.array([a]), np.array([b])), time)
    gone = a / (a + b) * (1 - np.exp(-(a + b) * time))
    np.testing.assert_allclose(after, [2 * (1 - gone), 2 * gone * 3 / 5], rtol=1e-15)


def test_rates_go_from_the_row_to_the_column():
    """From l = 1 straight to l = 3, where 7 multipoles share what 3 had."""
    rates = np.zeros((3, 3))
    rates[0, 2] = 2.0
    np.testing.assert_allclose(
        evolve(np.array([1.0, 0, 0]), rates, 0.4), [np.exp(-0.8), 0, 3 / 7 * (1 - np.exp(-0.8))], rtol=1e-15
    )


@pytest.mark.parametrize("time", [1e-9, 1e-3, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_degree_is_accurate_for_any_rates(time, seed):
    power, rates = scattered(seed)
    np.testing.assert_allclose(evolve(power, rates, time), reference(power, rates, time), rtol=3e-15)


@pytest.mark.parametrize("time", [1e-9, 1e-3, 0.1, 1.0])
def test_every_degree_is_accurate_with_losses(time):
    """An error of 1e-16 in a loss counts loss * time times in what is left."""
    power, rates = scattered(2)
    loss = rates.sum(axis=1) * np.array([1.0, 1.3, 1.0, 1.0, 2.0, 1.01])
    expected = reference(power, rates, time, loss)
    np.testing.assert_allclose(evolve(power, rates, time, loss), expected, rtol=3e-15 * (1 + 1e2 * time))


def test_small_powers_of_a_long_chain_are_accurate():
    """C_20 of 1e-40, where an exponential that is exact against its largest entry has nothing."""
    rates = rate_matrix(diffusion(20)[:-1])
    for depth in (1e-3, 0.3, 10.0):
        expected = nearest_neighbour_power(1.0, depth, 20)
        found = evolve(first(20), rates, depth, diffusion(20))
        np.testing.assert_allclose(found, expected, rtol=5e-15)
    np.testing.assert_allclose(evolve(first(20), rates, 1e-3, diffusion(20))[-1], expected_c20(), rtol=1e-12)


def expected_c20():
    """Bateman's sum with 100 digits."""
    with mpmath.workdps(100):
        nu = [mpmath.mpf(l * (l + 1)) for l in range(1, 21)]
        total = mpmath.fsum(mpmath.exp(-x * mpmath.mpf(1e-3)) / mpmath.fprod(y - x for y in nu if y != x) for x in nu)
        return float(3 * mpmath.fprod(nu[:-1]) * total / 41)


def test_printed_values():
    """Computed apart from this code, by Bateman's sum and by a matrix exponential."""
    power = evolve(first(12), rate_matrix(diffusion(12)[:-1]), 0.3, diffusion(12))
    expected = [0.5488116360940264, 0.11505382436173198, 0.0076699318457567845, 7.44738828059042e-4]
    np.testing.assert_allclose(power[np.array([0, 1, 4, 9])], expected, rtol=1e-14)


@pytest.mark.parametrize("time", [0.0, 1e-9, 0.01, 1.0, 1e3, 1e8])
def test_power_is_conserved(time):
    for seed in range(3):
        power, rates = scattered(seed)
        after = evolve(power, rates, time)
        assert np.all(after >= 0)
        np.testing.assert_allclose(weights(6) @ after, weights(6) @ power, rtol=1e-15)


def test_balanced_rates_end_in_equal_powers():
    """Where as much goes from l to l' as back at equal C_l, that is (2l+1) nu_{l->l'} symmetric."""
    flow = np.random.default_rng(5).uniform(0.1, 1, (5, 5))
    after = evolve(np.array([0.3, 0, 0, 2.0, 0]), (flow + flow.T) / weights(5)[:, None], 1e6)
    np.testing.assert_allclose(after, (3 * 0.3 + 9 * 2.0) / 35, rtol=1e-14)


def test_times_add_and_powers_superpose():
    power, rates = scattered(3, decades=1.0)
    loss = 1.2 * rates.sum(axis=1)
    np.testing.assert_allclose(
        evolve(evolve(power, rates, 0.02, loss), rates, 0.05, loss), evolve(power, rates, 0.07, loss), rtol=1e-13
    )
    other = power[::-1].copy()
    np.testing.assert_allclose(
        evolve(2 * power + other, rates, 0.1), 2 * evolve(power, rates, 0.1) + evolve(other, rates, 0.1), rtol=1e-14
    )


def test_what_stays_at_its_degree_changes_nothing():
    power, rates = scattered(4)
    staying = rates + np.diag(np.arange(1.0, 7))
    moving = rates - np.diag(np.diag(rates))
    np.testing.assert_allclose(evolve(power, staying, 0.3), evolve(power, moving, 0.3), rtol=1e-14)
    loss = staying.sum(axis=1) * 1.1
    np.testing.assert_allclose(evolve(power, staying, 1e-3, loss), reference(power, staying, 1e-3, loss), rtol=1e-13)


def test_times_can_be_mapped_over():
    power, rates = scattered(1)
    times = np.array([0.0, 0.1, 7.0])
    mapped = jax.jit(jax.vmap(lambda time: cascade.evolve(power, rates, time)))(times)
    for row, time in zip(mapped, times, strict=True):
        np.testing.assert_allclose(row, evolve(power, rates, time), rtol=1e-14)
    np.testing.assert_allclose(mapped[0], power, rtol=1e-15)


def test_beyond_its_range_there_is_no_number():
    assert np.all(np.isfinite(evolve(np.ones(2), rate_matrix(np.array([1.0]), np.array([1.0])), 1e12)))
    assert np.all(np.isnan(evolve(np.ones(2), rate_matrix(np.array([1.0]), np.array([1.0])), 2e12)))


def test_a_matrix_of_neighbours():
    np.testing.assert_array_equal(rate_matrix(np.array([1.0, 2.0])), [[0, 1, 0], [0, 0, 2], [0, 0, 0]])
    np.testing.assert_array_equal(
        rate_matrix(np.array([1.0, 2.0]), np.array([3.0, 4.0])), [[0, 1, 0], [3, 0, 2], [0, 4, 0]]
    )


# Gradients


def test_gradients_agree_with_finite_differences():
    power, rates = scattered(6, size=4, decades=0.5)
    loss = 1.5 * rates.sum(axis=1)
    check_grads(jax.jit(cascade.evolve), (power, rates, 0.3, loss), order=1)
    check_grads(jax.jit(cascade.evolve), (power, rates, 0.3), order=1)
    check_grads(jax.jit(lambda up, down: rate_matrix(up, down)), (rates[0], rates[1]), order=1)


@pytest.mark.parametrize("time", [1e-6, 1e-2, 3.0, 1e3])
def test_the_gradient_in_time_of_every_logarithm_is_the_equation_of_evolution(time):
    power, rates = scattered(7)
    after = np.asarray(evolve(power, rates, time))
    flow = weights(6) * after
    equation = (flow @ rates - flow * rates.sum(axis=1)) / weights(6)
    slope = jax.jit(jax.jacfwd(lambda time: cascade.evolve(power, rates, time)))(time)
    back = jax.jit(jax.jacrev(lambda time: cascade.evolve(power, rates, time)))(time)
    scale = (flow @ rates + flow * rates.sum(axis=1)) / weights(6)
    assert np.all(np.abs(slope - equation) <= 1e-12 * scale)
    assert np.all(np.abs(back - equation) <= 1e-12 * scale)


def test_gradients_hold_for_rates_of_zero_and_at_no_time():
    """A rate that is not there yet opens a way: dC_3 / dnu_{1->3} at small times is 3/7 of C_1 t."""
    closed = np.zeros((3, 3))
    slope = jax.jit(jax.jacrev(lambda rates: cascade.evolve(np.array([1.0, 0, 0]), rates, 0.25)))(closed)
    expected = np.zeros((3, 3, 3))
    expected[0, 0, 1:], expected[1, 0, 1], expected[2, 0, 2] = -0.25, 0.25 * 3 / 5, 0.25 * 3 / 7
    np.testing.assert_allclose(slope, expected, atol=1e-15)
    rates = rate_matrix(np.array([2.0, 5.0]))
    at_once = jax.jit(jax.jacrev(lambda time: cascade.evolve(np.array([1.0, 0, 0]), rates, time)))(0.0)
    np.testing.assert_allclose(at_once, [-2, 2 * 3 / 5, 0], atol=1e-15)


# Survival and large depths


@pytest.mark.parametrize(("depth", "kept"), [(0.3, 0.98611), (1.0, 0.38171), (3.0, 0.0071963)])
def test_a_cut_chain_keeps_what_has_not_passed_its_last_degree(depth, kept):
    np.testing.assert_allclose(chain_survival(depth, diffusion(60)), kept, rtol=2e-5)
    np.testing.assert_allclose(chain_survival(depth, diffusion(60)), survival(depth + 1 / 61), rtol=1e-5)


def test_survival_is_the_sum_of_powers():
    rates = np.array([0.7, 5.0, 0.25, 11.0])
    power = nearest_neighbour_power(1.0, 0.8, 4, rates)
    np.testing.assert_allclose(chain_survival(0.8, rates), weights(4) @ power / 3, rtol=1e-14)
    assert chain_survival(1e5, ended_rates(rates, 3)) == pytest.approx(1, rel=1e-14)
    check_grads(chain_survival, (0.8, rates), order=1)


def test_the_slowest_mode_of_angular_diffusion_is_known_in_closed_form():
    """18 / ((2l+1)(l+1)(l+2)), exact."""
    l = np.arange(1, 61)
    np.testing.assert_allclose(slowest_ratio(diffusion(60)), 18 / ((2 * l + 1) * (l + 1) * (l + 2)), rtol=1e-14)
    late = nearest_neighbour_power(1.0, 12.0, 40)
    np.testing.assert_allclose(late / late[0], slowest_ratio(diffusion(40)), rtol=1e-13)


def test_the_slowest_mode_is_an_eigenvector():
    rates = np.array([0.3, 0.9, 0.5, 2.0, 1.1])
    l = np.arange(1, 6)
    matrix = -np.diag(rates) + np.diag(rates[:-1] * (2 * l[:-1] + 1) / (2 * l[1:] + 1), -1)
    values, vectors = scipy.linalg.eig(matrix)
    slowest = np.real(vectors[:, np.argmax(values.real)])
    np.testing.assert_allclose(slowest_ratio(rates), slowest / slowest[0], rtol=1e-12)
    np.testing.assert_allclose(slowest_ratio(7 * rates), slowest_ratio(rates), rtol=1e-14)
    check_grads(slowest_ratio, (rates,), order=1)


def test_where_power_gathers_the_ratio_is_infinite():
    """It rises linearly for equal rates, and exponentially beyond a rate that is less than the first."""
    np.testing.assert_array_equal(slowest_ratio(np.ones(3)), [1, np.inf, np.inf])
    np.testing.assert_allclose(slowest_ratio(np.array([2.0, 6, 1, 9])), [1, 0.3, np.inf, np.inf])
    np.testing.assert_allclose(slowest_ratio(np.array([2.0, 6, 0, 9, 5])), [1, 0.3, np.inf, 0, 0])
    slope = jax.jacrev(slowest_ratio)(np.array([2.0, 6, 2, 9]))
    np.testing.assert_allclose(slope[:2], [[0, 0, 0, 0], [0.6 * 6 / 16, -0.6 * 2 / 16, 0, 0]], rtol=1e-14)
    assert np.all(np.isfinite(slope))


def test_the_printed_sum_agrees_where_it_does_not_cancel():
    for depth in (0.3, 1.0, 10.0):
        np.testing.assert_allclose(
            bateman_power(0.7, depth, diffusion(20)), nearest_neighbour_power(0.7, depth, 20), rtol=2e-14
        )
    uneven = np.array([0.7, 5.0, 0.25, 11.0, 3.0, 0.0])
    np.testing.assert_allclose(
        bateman_power(1.0, 0.5, uneven), nearest_neighbour_power(1.0, 0.5, 6, uneven), rtol=1e-11
    )
    check_grads(bateman_power, (0.7, 0.5, uneven[:4]), order=1)


def test_the_printed_sum_fails_at_small_depth():
    """As its description says: 2e-8 at l = 20 and T = 0.05, all of C_17 at T = 0.01."""
    off = np.abs(bateman_power(1.0, 0.05, diffusion(20)) / nearest_neighbour_power(1.0, 0.05, 20) - 1)
    assert off[19] < 1e-6
    off = np.abs(bateman_power(1.0, 0.01, diffusion(20)) / nearest_neighbour_power(1.0, 0.01, 20) - 1)
    assert off[9] < 1e-3
    assert off[19] > 0.1
    assert not np.any(np.isfinite(bateman_power(1.0, 0.3, np.ones(3))[1:]))


# Misuse


def test_32_bit_floats_are_refused():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="cascade of angular power needs 64-bit floats"):
            cascade.evolve(np.ones(2, np.float32), np.eye(2, dtype=np.float32), 0.3)
        with pytest.raises(RuntimeError, match="cascade of angular power needs 64-bit floats"):
            cascade.chain_survival(0.3, np.ones(2, np.float32))
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (
            np.ones((2, 3)),
            r"square matrix with at least l = 1 and 2, not the shape \(2, 3\): give the rate from l to l'",
        ),
        (np.ones((1, 1)), r"square matrix .* not the shape \(1, 1\)"),
        (np.ones(3), r"not the shape \(3,\)"),
        ([[0, 1.0], [-2.0, 0]], r"finite and not negative, not -2 from l = 2 to 1: give the rate"),
        ([[0, np.nan], [2.0, 0]], r"not nan from l = 1 to 2"),
        ([["a", "b"], ["c", "d"]], r"rates between degrees must be numbers, not \[\['a'"),
        ([[1.0], [1.0, 2.0]], r"rates between degrees must be numbers, not"),
    ],
)
def test_unusable_matrices_are_named(rates, message):
    with pytest.raises(InputError, match=message):
        require_rate_matrix(rates)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ([1.0, 0.5], "the loss at l = 2 is 0.5, but 2 goes to other degrees: it must be finite and at least that"),
        ([np.inf, 3.0], "the loss at l = 1 is inf, but 1 goes"),
        ([np.nan, 3.0], "the loss at l = 1 is nan"),
        ([1.0], r"needs nu_l of l = 1 \.\. 2, not the shape \(1,\)"),
        ("much", "the loss must be numbers, not 'much': give nu_l"),
    ],
)
def test_unusable_losses_are_named(loss, message):
    with pytest.raises(InputError, match=message):
        require_rate_matrix([[0, 1.0], [2.0, 0]], loss)


def test_usable_matrices_pass():
    rates = [[0, 1.0], [2.0, 0]]
    np.testing.assert_array_equal(require_rate_matrix(rates), rates)
    # The sum of a row may be rounded.
    np.testing.assert_array_equal(require_rate_matrix(rates, [1 - 1e-15, 5.0]), rates)
    np.testing.assert_array_equal(jax.jit(require_rate_matrix)(-jnp.ones((2, 2)), jnp.zeros(2)), -np.ones((2, 2)))
    with pytest.raises(InputError, match=r"not the shape \(3,\)"):
        jax.jit(require_rate_matrix)(jnp.ones(3))
    with pytest.raises(InputError, match=r"not the shape \(3,\)"):
        jax.jit(require_rate_matrix)(jnp.ones((2, 2)), jnp.ones(3))
