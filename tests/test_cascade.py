"""diffcr.cascade against Bateman's sum in high precision, matrix exponentials, and the explosive birth chain."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.test_util import check_grads

from diffcr import cascade
from diffcr.cascade import require_depth, require_rates
from diffcr.errors import InputError

nearest_neighbour_power = jax.jit(cascade.nearest_neighbour_power, static_argnums=2)
asymptotic_ratio = jax.jit(cascade.asymptotic_ratio)

UNEVEN = (0.7, 5.0, 0.25, 11.0, 3.0, 40.0, 0.9, 8.0)


def default_rates(l_max):
    return [float(l * (l + 1)) for l in range(1, l_max + 1)]


@functools.cache
def bateman(depth, rates):
    """C_l / C_1(0) as (2l+1) C_l / 3 = prod nu_m sum_n exp(-nu_n T) prod 1 / (nu_p - nu_n), with 200 digits."""
    with mpmath.workdps(200):
        time, nu = mpmath.mpf(depth), [mpmath.mpf(rate) for rate in rates]
        power, weight, passed = [], [], mpmath.mpf(1)
        for l, rate in enumerate(nu, start=1):
            # weight[n] = prod over p < l, p != n, of 1 / (nu_p - nu_n), carried from one l to the next
            weight = [w / (rate - nu[n]) for n, w in enumerate(weight)]
            weight.append(1 / mpmath.fprod(other - rate for other in nu[: l - 1]))
            total = mpmath.fsum(w * mpmath.exp(-time * nu[n]) for n, w in enumerate(weight))
            power.append(float(3 * passed * total / (2 * l + 1)))
            passed *= rate
        return np.array(power)


def degrees(l_max):
    return np.arange(1, l_max + 1)


# Values


def test_printed_values():
    """Computed apart from this code, by Bateman's sum and by a matrix exponential."""
    power = nearest_neighbour_power(1.0, 0.3, 10)
    expected = [0.5488116360940264, 0.11505382436173198, 0.0076699318457567845, 7.44738828059042e-4]
    np.testing.assert_allclose(power[np.array([0, 1, 4, 9])], expected, rtol=1e-13)


@pytest.mark.parametrize("depth", [1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 300.0])
def test_every_degree_is_accurate_however_small_it_is(depth):
    """Down to C_20 = 1.5e-40 at a depth of 1e-3, where matrix exponentials leave nothing; logarithms need it."""
    expected = bateman(depth, tuple(default_rates(20)))
    assert np.all(expected > 0)
    np.testing.assert_allclose(nearest_neighbour_power(1.0, depth, 20), expected, rtol=1e-14)


@pytest.mark.parametrize("depth", [1e-3, 1.0, 30.0])
def test_high_degrees_are_accurate(depth):
    expected = bateman(depth, tuple(default_rates(60)))
    np.testing.assert_allclose(nearest_neighbour_power(1.0, depth, 60), expected, rtol=2e-14)


@pytest.mark.parametrize("depth", [1e-3, 0.3, 7.0])
def test_rates_belong_to_their_degrees(depth):
    """Rates in no order, which a rate taken from the next degree, or a sorted list, would not pass."""
    expected = bateman(depth, UNEVEN)
    power = nearest_neighbour_power(1.0, depth, len(UNEVEN), jnp.array(UNEVEN))
    np.testing.assert_allclose(power, expected, rtol=1e-13)


def test_rates_of_very_different_size():
    rates = (1e-4, 2e8, 1e-2, 3e7, 0.5)
    power = nearest_neighbour_power(1.0, 2.0, 5, jnp.array(rates))
    np.testing.assert_allclose(power, bateman(2.0, rates), rtol=1e-13)


def test_the_sum_solves_the_equation_of_evolution():
    """dC_l/dT = -nu_l C_l + nu_{l-1} (2l-1)/(2l+1) C_{l-1} in terms of C_l itself, by SciPy's exponential."""
    l, nu = degrees(8), np.array(UNEVEN)
    matrix = -np.diag(nu) + np.diag(nu[:-1] * (2 * l[:-1] + 1) / (2 * l[1:] + 1), -1)
    expected = scipy.linalg.expm(0.3 * matrix)[:, 0] * 2.5
    np.testing.assert_allclose(nearest_neighbour_power(2.5, 0.3, 8, jnp.array(nu)), expected, rtol=1e-10)


@pytest.mark.parametrize("depth", [0.01, 1.0, 25.0])
def test_equal_rates_make_a_poisson_process(depth):
    """Where Bateman's sum divides by zero: 2l+1 times the power counts Poisson steps, l - 1 of them."""
    power = nearest_neighbour_power(1.0, depth, 15, jnp.ones(15))
    expected = scipy.stats.poisson.pmf(np.arange(15), depth) * 3 / (2 * degrees(15) + 1)
    np.testing.assert_allclose(power, expected, rtol=2e-13)


def test_no_depth_leaves_the_dipole():
    np.testing.assert_allclose(nearest_neighbour_power(0.4, 0.0, 5), [0.4, 0, 0, 0, 0], rtol=1e-15)


def test_a_rate_of_zero_ends_the_chain():
    power = nearest_neighbour_power(1.0, 0.5, 5, jnp.array([2.0, 3.0, 0.0, 1.0, 1.0]))
    assert np.all(power[:3] > 0)
    np.testing.assert_array_equal(power[3:], 0)


def test_higher_degrees_do_not_act_on_lower_ones():
    np.testing.assert_allclose(
        nearest_neighbour_power(1.0, 0.3, 30)[:5], nearest_neighbour_power(1.0, 0.3, 5), rtol=1e-14
    )


def test_depths_can_be_mapped_over():
    depth = jnp.array([1e-3, 0.3, 20.0])
    mapped = jax.jit(jax.vmap(lambda each: cascade.nearest_neighbour_power(1.0, each, 6)))(depth)
    for row, each in zip(mapped, depth, strict=True):
        np.testing.assert_allclose(row, nearest_neighbour_power(1.0, each, 6), rtol=1e-14)


def test_beyond_its_range_there_is_no_number():
    assert np.all(np.isfinite(nearest_neighbour_power(1.0, 1.0, 3, jnp.array([0.1, 1e12, 0.0]))))
    assert np.all(np.isnan(nearest_neighbour_power(1.0, 1.0, 3, jnp.array([0.1, 2e12, 0.0]))))


# Large depth, and where the power goes


def test_asymptotic_ratio():
    expected = [1, 0.3, 0.128571428571, 0.038961038961, 0.0064935064935, 0.00095026924]
    np.testing.assert_allclose(asymptotic_ratio(np.array([1, 2, 3, 5, 10, 20])), expected, rtol=1e-8)


def test_power_approaches_the_asymptotic_ratio_as_its_leading_correction_says():
    """Bateman's sum for l = 2 has two terms: C_2 / C_1 = 0.3 (1 - exp(-4T)). Every other ratio rises too."""
    l = degrees(20)
    late = nearest_neighbour_power(1.0, 10.0, 20)
    np.testing.assert_allclose(late / late[0], asymptotic_ratio(l), rtol=1e-12)
    early = nearest_neighbour_power(1.0, 0.5, 20)
    np.testing.assert_allclose(early[1] / early[0], 0.3 * (1 - np.exp(-2.0)), rtol=1e-13)
    assert np.all(early[1:] / early[0] < asymptotic_ratio(l)[1:])


def survival(depth):
    """Probability that a birth chain with rates l (l + 1), started at l = 1, has not exploded: a theta series."""
    n = np.arange(1, 200)
    return np.sum((-1.0) ** (n + 1) * (2 * n + 1) * np.exp(-n * (n + 1) * depth))


@pytest.mark.parametrize(("depth", "series", "kept"), [(0.3, 0.990212177803, 0.98611), (1.0, 0.393655079764, 0.38171)])
def test_power_is_lost_as_the_chain_explodes(depth, series, kept):
    """Past l_max the way to infinity takes the time 1 / (l_max + 1), within a spread below 1e-3."""
    total = np.sum((2 * degrees(60) + 1) * nearest_neighbour_power(1.0, depth, 60)) / 3
    np.testing.assert_allclose(survival(depth), series, rtol=1e-11)
    np.testing.assert_allclose(total, kept, rtol=2e-5)
    np.testing.assert_allclose(total, survival(depth + 1 / 61), rtol=1e-5)


def test_power_is_conserved_by_a_chain_that_ends():
    rates = jnp.array(default_rates(12)).at[-1].set(0.0)
    for depth in (0.01, 0.5, 40.0):
        power = nearest_neighbour_power(0.7, depth, 12, rates)
        np.testing.assert_allclose(np.sum((2 * degrees(12) + 1) * power), 3 * 0.7, rtol=1e-14)
        np.testing.assert_allclose(power[:-1], nearest_neighbour_power(0.7, depth, 12)[:-1], rtol=1e-14)


# Gradients


def test_gradients_agree_with_finite_differences():
    def power(first, depth, rates):
        return cascade.nearest_neighbour_power(first, depth, 8, rates)

    check_grads(jax.jit(power), (0.8, 0.3, jnp.array(UNEVEN)), order=1)
    check_grads(jax.jit(lambda depth: cascade.nearest_neighbour_power(1.0, depth, 5)), (0.3,), order=1)
    check_grads(jax.jit(cascade.asymptotic_ratio), (2.5,), order=1)


@jax.jit
@jax.jacrev
def slope_of_logarithms(depth):
    return jnp.log(cascade.nearest_neighbour_power(1.0, depth, 20))


@pytest.mark.parametrize("depth", [1e-6, 1e-3, 0.3, 10.0])
def test_the_gradient_of_every_logarithm_is_the_equation_of_evolution(depth):
    """Relative to each C_l, where finite differences see nothing."""
    l, nu = degrees(20), np.array(default_rates(20))
    power = bateman(depth, tuple(default_rates(20)))
    gain = np.concatenate([[0.0], nu[:-1] * (2 * l[:-1] + 1) / (2 * l[1:] + 1) * power[:-1]])
    np.testing.assert_allclose(slope_of_logarithms(depth), -nu + gain / power, rtol=1e-11)


def test_gradients_in_the_rates_of_small_powers():
    """At small depth C_l is proportional to nu_1 ... nu_{l-1}. At any depth only rate * depth counts."""

    def log_power(depth, log_rates):
        return jnp.log(cascade.nearest_neighbour_power(1.0, depth, 20, jnp.exp(log_rates)))

    gradient = jax.jit(jax.jacrev(log_power, argnums=(0, 1)))
    log_rates = jnp.log(jnp.array(default_rates(20)))
    np.testing.assert_allclose(gradient(1e-9, log_rates)[1], np.tri(20, k=-1), atol=1e-6)
    for depth in (1e-3, 0.3, 10.0):
        in_depth, in_rates = gradient(depth, log_rates)
        np.testing.assert_allclose(np.sum(in_rates, axis=1), depth * in_depth, rtol=1e-11, atol=1e-12)


def test_gradients_hold_at_no_depth_and_for_a_rate_of_zero():
    slope = jax.jit(jax.jacrev(lambda depth: cascade.nearest_neighbour_power(1.0, depth, 4)))(0.0)
    np.testing.assert_allclose(slope, [-2, 2 * 3 / 5, 0, 0], atol=1e-15)
    ended = jnp.array([2.0, 0.0, 1.0])
    in_rates = jax.jit(jax.jacrev(lambda rates: cascade.nearest_neighbour_power(1.0, 0.5, 3, rates)))(ended)
    # dC_3/dnu_2 = 3/7 times the integral of C_2's share 1 - exp(-2s), carried on by exp(-(0.5 - s))
    share = 1 - np.exp(-0.5) - np.exp(-0.5) * (1 - np.exp(-0.5))
    np.testing.assert_allclose(in_rates[2], [0, 3 / 7 * share, 0], rtol=1e-12, atol=1e-15)


# Misuse


def test_32_bit_floats_are_refused():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="cascade of angular power needs 64-bit floats"):
            cascade.nearest_neighbour_power(1.0, 0.3, 4)
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("l_max", [1, 0, -3, 2.0, True, "6"])
def test_a_chain_needs_two_degrees(l_max):
    with pytest.raises(InputError, match=f"whole number of at least 2, not {l_max!r}: power flows from l = 1 to"):
        require_rates(l_max)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([2.0, -6.0, 12.0], r"finite and not negative, not -6 at l = 2: give nu_l of l = 1 \.\. l_max"),
        ([2.0, 6.0, np.nan], "finite and not negative, not nan at l = 3"),
        ([np.inf, 6.0, 12.0], "finite and not negative, not inf at l = 1"),
        ([2.0, 6.0], r"l_max = 3 needs 3 rates, not the shape \(2,\): give nu_l"),
        (2.0, r"l_max = 3 needs 3 rates, not the shape \(\)"),
        (["fast", "slow", "slow"], "rates of a cascade must be numbers, not .'fast', 'slow', 'slow'.: give nu_l"),
    ],
)
def test_unusable_rates_are_named(rates, message):
    with pytest.raises(InputError, match=message):
        require_rates(3, rates)


def test_usable_rates_pass():
    np.testing.assert_array_equal(require_rates(4), [2, 6, 12, 20])
    np.testing.assert_array_equal(require_rates(np.int64(3), [2, 0, 1]), [2, 0, 1])
    # Traced rates pass, but for their number.
    np.testing.assert_array_equal(jax.jit(lambda rates: require_rates(2, rates))(jnp.array([1.0, -1.0])), [1, -1])
    with pytest.raises(InputError, match="l_max = 4 needs 4 rates"):
        jax.jit(lambda rates: require_rates(4, rates))(jnp.ones(3))


@pytest.mark.parametrize("depth", [-0.1, np.nan, np.inf, [0.1, 0.2], "deep", None])
def test_unusable_depths_are_named(depth):
    with pytest.raises(InputError, match="depth nu T of a cascade must be one finite number of at least 0, not"):
        require_depth(depth)


def test_usable_depths_pass():
    assert require_depth(0) == 0.0
    assert require_depth(0.3) == 0.3
    assert jax.jit(require_depth)(-1.0) == -1.0


def test_no_power_comes_of_bad_rates_or_depths():
    with pytest.raises(InputError, match="finite and not negative, not -6 at l = 2"):
        cascade.nearest_neighbour_power(1.0, 0.3, 3, np.array([2.0, -6.0, 12.0]))
    with pytest.raises(InputError, match="depth nu T of a cascade must be one finite number of at least 0, not -0.3"):
        cascade.nearest_neighbour_power(1.0, -0.3, 3)
    with pytest.raises(InputError, match="l_max of a cascade must be a whole number of at least 2, not 1"):
        cascade.nearest_neighbour_power(1.0, 0.3, 1)
    with pytest.raises(
        InputError, match="rates between degrees must be finite and not negative, not -1 from l = 1 to 2"
    ):
        cascade.evolve(np.ones(2), np.array([[0.0, -1.0], [0.0, 0.0]]), 1.0)
    with pytest.raises(InputError, match="the time of an evolution must not be negative, got -1"):
        cascade.evolve(np.ones(2), np.array([[0.0, 1.0], [0.0, 0.0]]), -1.0)
