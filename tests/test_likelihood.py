"""The likelihood against the dense Poisson sum, its invariances, and its form for 32-bit floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.likelihood import (
    conditional_difference,
    conditional_log_likelihood,
    form_marginals,
    grouped_rate,
    joint_difference,
    joint_log_likelihood,
    known_exposure_difference,
    second_order,
)
from helpers import dipole_sky
from jax.test_util import check_grads
from scipy import optimize, stats

from diffcr.counts import draw_marginals, expected_counts, expected_marginals
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

GRID = RingGrid(6, 12)
RNG = np.random.default_rng(7)
LOCAL = RNG.dirichlet(np.full(72, 8.0)).reshape(6, 12)
RATE = RNG.uniform(300, 900, 12)
SKY = 1 + 0.2 * RNG.uniform(-1, 1, (6, 12))


def cube_and_marginals(seed=0):
    mu = np.asarray(expected_counts(RATE, LOCAL, SKY))
    cube = np.random.default_rng(seed).poisson(mu).astype(float)
    column = (np.arange(12)[:, None] - np.arange(12)) % 12
    sky = np.stack([np.bincount(column.ravel(), cube[:, r].ravel(), 12) for r in range(6)])
    return cube, form_marginals(sky, cube.sum((1, 2)), cube.sum(0))


def trial(seed):
    rng = np.random.default_rng(seed)
    intensity = 1 + 0.1 * rng.uniform(-1, 1, (6, 12))
    return intensity, RATE * rng.uniform(0.8, 1.2, 12), LOCAL * rng.uniform(0.8, 1.2, (6, 12))


@pytest.mark.smoke
def test_joint_likelihood_is_the_poisson_probability_of_the_cube():
    """Differences of ln L between two points equal those of scipy's Poisson probabilities of every cell."""
    cube, data = cube_and_marginals()
    values, dense = [], []
    for seed in (1, 2):
        parameters = trial(seed)
        values.append(float(joint_log_likelihood(*parameters, data)))
        intensity, rates, local = parameters
        dense.append(stats.poisson.logpmf(cube, np.asarray(expected_counts(rates, local, intensity))).sum())
    np.testing.assert_allclose(values[0] - values[1], dense[0] - dense[1], rtol=1e-11)


def test_conditional_likelihood_is_the_multinomial_probability_of_times_in_each_local_cell():
    cube, data = cube_and_marginals()
    values, dense = [], []
    for seed in (3, 4):
        intensity, rates, local = trial(seed)
        values.append(float(conditional_log_likelihood(intensity, rates, data)))
        mu = np.asarray(expected_counts(rates, local, intensity))
        share = mu / mu.sum(0)
        cells = [(r, h) for r in range(6) for h in range(12)]
        dense.append(
            sum(stats.multinomial.logpmf(cube[:, r, h], int(cube[:, r, h].sum()), share[:, r, h]) for r, h in cells)
        )
    np.testing.assert_allclose(values[0] - values[1], dense[0] - dense[1], rtol=1e-11)


def test_conditional_likelihood_is_the_profile_over_the_acceptance():
    """Maximise the joint likelihood over each A_i with scipy: n_i / x_i, and the same differences."""
    _, data = cube_and_marginals()
    profile = []
    for seed in (3, 4):
        intensity, rates, _ = trial(seed)
        x = np.asarray(expected_counts(rates, np.ones((6, 12)), intensity)).sum(0)
        best = np.array(
            [
                optimize.minimize_scalar(
                    lambda a, n=n, m=m: -(n * np.log(a) - a * m),
                    bounds=(1e-9, 1),
                    method="bounded",
                    options={"xatol": 1e-14},
                ).fun
                for n, m in zip(np.asarray(data.local).ravel(), x.ravel(), strict=True)
            ]
        )
        logs = np.sum(np.asarray(data.sky) * np.log(intensity)) + np.sum(np.asarray(data.time) * np.log(rates))
        profile.append(logs - best.sum())
    values = [float(conditional_log_likelihood(*trial(seed)[:2], data)) for seed in (3, 4)]
    np.testing.assert_allclose(values[0] - values[1], profile[0] - profile[1], rtol=1e-6)


def test_a_factor_of_declination_and_the_scale_of_the_rate_change_nothing():
    """I -> I f(dec), A -> A / f(dec): exact to 1e-12 of ln L, joint and conditional."""
    _, data = cube_and_marginals()
    intensity, rates, local = trial(5)
    f = RNG.uniform(0.2, 5, (6, 1))
    one, two = (joint_log_likelihood(intensity * g, rates, local / g, data) for g in (1.0, f))
    np.testing.assert_allclose(one, two, rtol=1e-12)
    base = conditional_log_likelihood(intensity, rates, data)
    per_ring = np.asarray(data.sky).sum(1) @ np.log(f[:, 0]) - np.asarray(data.local).sum(1) @ np.log(f[:, 0])
    np.testing.assert_allclose(conditional_log_likelihood(intensity * f, rates, data), base + per_ring, rtol=1e-12)
    np.testing.assert_allclose(per_ring, 0, atol=1e-9)
    np.testing.assert_allclose(conditional_log_likelihood(intensity, 3 * rates, data), base, rtol=1e-12)


def test_a_factor_of_right_ascension_does_change_it():
    """What must not be degenerate: the same factor along right ascension."""
    _, data = cube_and_marginals()
    intensity, rates, _ = trial(5)
    factor = 1 + 0.1 * np.cos(GRID.right_ascension)
    assert (
        abs(
            conditional_log_likelihood(intensity * factor, rates, data)
            - conditional_log_likelihood(intensity, rates, data)
        )
        > 1
    )


def test_difference_forms_equal_differences_of_the_absolute_forms():
    _, data = cube_and_marginals()
    intensity, rates, local = trial(6)
    total = float(data.total)
    rate_shift = rates / (np.asarray(data.rate) * total) - 1
    isotropic = conditional_log_likelihood(jnp.ones((6, 12)), data.rate * total, data)
    expected = conditional_log_likelihood(intensity, rates, data) - isotropic
    np.testing.assert_allclose(conditional_difference(intensity - 1, rate_shift, data), expected, rtol=1e-9)
    acceptance_shift = local / (np.asarray(data.local) / total) - 1
    isotropic = joint_log_likelihood(jnp.ones((6, 12)), data.rate * total, data.local / total, data)
    expected = joint_log_likelihood(intensity, rates, local, data) - isotropic
    np.testing.assert_allclose(joint_difference(intensity - 1, rate_shift, acceptance_shift, data), expected, rtol=1e-9)


def test_known_exposure_form_is_the_multinomial_of_directions_in_each_time_bin():
    cube, data = cube_and_marginals()
    known = LOCAL / LOCAL.sum()
    values, dense = [], []
    for seed in (8, 9):
        intensity = trial(seed)[0]
        values.append(float(known_exposure_difference(intensity - 1, known, data)))
        mu = np.asarray(expected_counts(np.ones(12), known, intensity)).reshape(12, -1)
        share = mu / mu.sum(1, keepdims=True)
        dense.append(sum(stats.multinomial.logpmf(cube[t].ravel(), int(cube[t].sum()), share[t]) for t in range(12)))
    np.testing.assert_allclose(values[0] - values[1], dense[0] - dense[1], rtol=1e-10)
    assert known_exposure_difference(jnp.zeros((6, 12)), known, data) == 0


@pytest.mark.parametrize("x", [-0.9, -0.1, -0.0999, -1e-3, -1e-8, 1e-12, 1e-4, 0.05, 0.1, 0.11, 3.0])
def test_second_order_remainder_to_full_precision(x):
    """Against 50 digits."""
    from mpmath import log, mp, mpf

    mp.dps = 50
    exact = float(mpf(x) - log(1 + mpf(x)))
    np.testing.assert_allclose(second_order(jnp.array(x)), exact, rtol=3e-14)
    np.testing.assert_allclose(jax.grad(second_order)(jnp.array(x)), x / (1 + x), rtol=1e-14)


@pytest.mark.parametrize("name", ["hawc", "icecube"])
def test_32_bit_floats_keep_a_dipole_of_1e_minus_4_in_1e11_events(name):
    """Differences of ln L around the best fit agree with 64 bits to 0.05, where ln L itself is about 1e12."""
    grid = RingGrid(90, 180)
    local = np.asarray(acceptance(site(name), grid, power=4.0))
    rates = np.asarray(rate(grid, 1e11, harmonics=[(1, 0.05, 1.0), (3, 0.02, 0.3)]))
    truth = np.array([6e-5, -8e-5])
    counts, _, _ = draw_marginals(np.random.default_rng(2), rates, local, dipole_sky(grid, truth))
    wide = form_marginals(counts.sky, counts.time, counts.local)
    narrow = form_marginals(counts.sky, counts.time, counts.local, dtype=jnp.float32)
    rho = 1e-5 * np.cos(grid.sidereal_time)
    largest = 0.0
    for dipole in (truth, 1.1 * truth, 0.8 * truth, 3 * truth, -truth):
        contrast = (dipole_sky(grid, dipole) - 1)[list(wide.rings)]
        exact = conditional_difference(jnp.asarray(contrast), jnp.asarray(rho), wide)
        single = conditional_difference(jnp.asarray(contrast, jnp.float32), jnp.asarray(rho, jnp.float32), narrow)
        assert single.dtype == jnp.float32
        largest = max(largest, abs(float(exact)))
        assert abs(float(single) - float(exact)) < 0.05
    assert largest > 100


def test_gradients_against_finite_differences():
    _, data = cube_and_marginals()
    intensity, rates, local = trial(1)
    known = LOCAL / LOCAL.sum()
    shifts = (
        0.05 * RNG.standard_normal((6, 12)),
        0.05 * RNG.standard_normal(12),
        0.05 * RNG.standard_normal((6, 12)),
    )
    scales = (intensity, np.ones(12), np.ones((6, 12)))

    def joint(i, n, a):
        return joint_log_likelihood(i, n * rates, a * local, data) / 1e3

    def conditional(i, n):
        return conditional_log_likelihood(i, n * rates, data) / 1e3

    check_grads(jax.jit(joint), scales, 1, modes=["rev"], rtol=1e-5)
    check_grads(jax.jit(conditional), scales[:2], 1, modes=["rev"], rtol=1e-5)
    check_grads(jax.jit(lambda *p: conditional_difference(*p, data)), shifts[:2], 1, modes=["rev"], rtol=1e-5)
    check_grads(jax.jit(lambda *p: joint_difference(*p, data)), shifts, 1, modes=["rev"], rtol=1e-5)
    check_grads(jax.jit(lambda c: known_exposure_difference(c, known, data)), shifts[:1], 1, modes=["rev"], rtol=1e-5)


def test_background_is_the_isotropic_expectation_of_the_sky():
    """sum over tau of N_tau n_i at i = (r, tau - a), by a double loop."""
    _, data = cube_and_marginals()
    background = np.zeros((6, 12))
    for tau in range(12):
        for a in range(12):
            background[:, a] += (
                np.asarray(data.time)[tau] / float(data.total) * np.asarray(data.local)[:, (tau - a) % 12]
            )
    np.testing.assert_allclose(data.background, background, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(data.residual).sum(1), 0, atol=1e-8)


def test_marginals_of_different_events_are_refused():
    m = expected_marginals(RATE, LOCAL, SKY)
    with pytest.raises(InputError, match="n_local sums to"):
        form_marginals(m.sky, m.time, 1.1 * np.asarray(m.local))
    with pytest.raises(InputError, match="hold no event"):
        form_marginals(0 * m.sky, 0 * m.time, 0 * m.local)
    with pytest.raises(InputError, match="rate_bins = 5 does not divide the 12"):
        form_marginals(m.sky, m.time, m.local, rate_bins=5)


def test_grouped_rate_is_constant_within_groups():
    np.testing.assert_allclose(grouped_rate(np.arange(6.0), 2), [1, 1, 1, 4, 4, 4])
