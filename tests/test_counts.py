"""Expected counts, their marginals, and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import stats

import diffcr.counts
from diffcr.counts import draw_many, draw_marginals, east_weight, expected_counts, expected_marginals
from diffcr.errors import InputError

RINGS, BINS = 4, 8
RNG = np.random.default_rng(3)
RATE = RNG.uniform(50, 100, BINS)
LOCAL = RNG.dirichlet(np.ones(RINGS * BINS)).reshape(RINGS, BINS)
SKY = 1 + 0.3 * RNG.uniform(-1, 1, (RINGS, BINS))


def test_cube_is_the_product_at_the_shifted_cell():
    """A star at right ascension a is at hour angle tau - a: it culminates when the sidereal time is its RA."""
    cube = np.asarray(expected_counts(RATE, LOCAL, SKY))
    for tau in range(BINS):
        for r in range(RINGS):
            for h in range(BINS):
                expected = RATE[tau] * LOCAL[r, h] * SKY[r, (tau - h) % BINS]
                np.testing.assert_allclose(cube[tau, r, h], expected, rtol=1e-14)


@pytest.mark.smoke
def test_marginals_are_those_of_the_cube():
    cube = np.asarray(expected_counts(RATE, LOCAL, SKY))
    marginals = expected_marginals(RATE, LOCAL, SKY)
    sky, half = np.zeros((RINGS, BINS)), np.zeros((2, RINGS, BINS))
    for tau in range(BINS):
        for h in range(BINS):
            sky[:, (tau - h) % BINS] += cube[tau, :, h]
            east = 0.5 if h in (0, BINS // 2) else float(h > BINS // 2)
            half[0, :, tau] += east * cube[tau, :, h]
            half[1, :, tau] += (1 - east) * cube[tau, :, h]
    np.testing.assert_allclose(marginals.sky, sky, rtol=1e-12)
    np.testing.assert_allclose(marginals.time, cube.sum((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(marginals.local, cube.sum(0), rtol=1e-12)
    np.testing.assert_allclose(marginals.half, half, rtol=1e-12)


def test_east_is_where_stars_rise():
    """Hour angles in (-pi, 0), the bins above n / 2, are before the meridian: in the east."""
    np.testing.assert_allclose(east_weight(8), [0.5, 0, 0, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(east_weight(5), [0.5, 0, 0, 1, 1])


@given(scale=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=10)
def test_rate_and_acceptance_are_degenerate(scale):
    one = expected_counts(RATE * scale, LOCAL / scale, SKY)
    np.testing.assert_allclose(one, expected_counts(RATE, LOCAL, SKY), rtol=1e-12)


def test_sky_times_a_function_of_declination_is_degenerate_with_acceptance():
    f = np.array([0.3, 1.0, 2.0, 5.0])[:, None]
    np.testing.assert_allclose(expected_counts(RATE, LOCAL / f, SKY * f), expected_counts(RATE, LOCAL, SKY), rtol=1e-13)


def test_draws_have_the_expected_mean_and_poisson_scatter():
    rng = np.random.default_rng(0)
    draws = [draw_marginals(rng, RATE * 20, LOCAL, SKY)[0] for _ in range(600)]
    expected = expected_marginals(RATE * 20, LOCAL, SKY)
    for name in ("sky", "time", "local", "half"):
        sample = np.stack([getattr(d, name) for d in draws])
        mean = np.asarray(getattr(expected, name))
        pull = (sample.mean(0) - mean) / np.sqrt(mean / 600)
        assert np.abs(pull).max() < 4.5, name
        np.testing.assert_allclose((sample.var(0) / mean).mean(), 1, atol=0.06)


@pytest.mark.parametrize("scale", [1.0, 3e4])
def test_weight_sums_have_the_moments_of_log_normal_weights(scale):
    """E[w] = 1, E[w^2] = exp(s^2), Var(sum w) = N E[w^2], both one by one and in the normal limit."""
    rng, spread = np.random.default_rng(1), 0.5
    draws = [draw_marginals(rng, RATE * scale, LOCAL, SKY, spread) for _ in range(400)]
    total = np.array([d[0].time.sum() for d in draws])
    squares = np.array([d[1].time.sum() for d in draws])
    mean = float(expected_marginals(RATE * scale, LOCAL, SKY).time.sum())
    second = np.exp(spread**2)
    assert abs(total.mean() - mean) < 4.5 * np.sqrt(mean * second / 400)
    np.testing.assert_allclose(total.var() / (mean * second), 1, atol=0.3)
    np.testing.assert_allclose(squares.mean() / (mean * second), 1, rtol=5 / np.sqrt(mean))


def test_marginal_counts_add_up_to_the_same_events():
    marginals, squares, number = draw_marginals(np.random.default_rng(5), RATE, LOCAL, SKY)
    assert squares is None
    for values in marginals:
        assert values.sum() == number


def test_negative_expectations_are_refused():
    with pytest.raises(InputError, match="relative intensity is negative"):
        draw_marginals(np.random.default_rng(0), RATE, LOCAL, SKY - 2)
    with pytest.raises(InputError, match="rate is negative or not finite"):
        draw_marginals(np.random.default_rng(0), RATE * np.nan, LOCAL, SKY)


def summing(shift: int) -> np.ndarray:
    """Matrix from the cells (time, ring, hour angle) to [sky, time, local], by the index rule a = tau + shift h."""
    out = np.zeros((2 * RINGS * BINS + BINS, BINS, RINGS, BINS))
    for tau in range(BINS):
        for r in range(RINGS):
            for h in range(BINS):
                out[r * BINS + (tau + shift * h) % BINS, tau, r, h] = 1
                out[RINGS * BINS + tau, tau, r, h] = 1
                out[RINGS * BINS + BINS + r * BINS + h, tau, r, h] = 1
    return out.reshape(len(out), -1)


def joined(drawn) -> np.ndarray:
    number = len(drawn.time)
    return np.concatenate([drawn.sky.reshape(number, -1), drawn.time, drawn.local.reshape(number, -1)], axis=1)


def deviations(found: np.ndarray, mu: np.ndarray, shift: int) -> tuple[float, float]:
    """Probability of the mean, and the largest deviation of a covariance in standard errors, from those of Poisson
    cells: each marginal is a sum of cells, two of them share the cells that are in both."""
    matrix, number = summing(shift), len(found)
    covariance = (matrix * mu) @ matrix.T
    rank = np.linalg.matrix_rank(covariance)
    off = found.mean(0) - matrix @ mu
    chi2 = number * off @ np.linalg.pinv(covariance, hermitian=True) @ off
    variance = np.diag(covariance)
    # Of a sample covariance of nearly normal numbers; shared cells add their fourth cumulant.
    error = np.sqrt((np.outer(variance, variance) + covariance**2 + covariance) / number)
    pull = (np.cov(found.T) - covariance) / error
    return float(stats.chi2(rank).sf(chi2)), float(np.abs(pull).max())


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_many_draws_have_the_joint_distribution_of_the_marginals(scale):
    """Drawn event by event where they are few, and cell by cell. With 72 marginals there are 2628 covariances."""
    rate = RATE * scale
    number = 3000 if scale < 1 else 20_000
    assert (2 * rate.sum() * SKY.max() < BINS * LOCAL.size) == (scale < 1)
    found = joined(draw_many(np.random.default_rng(7), rate, LOCAL, SKY, number))
    mu = np.asarray(expected_counts(rate, LOCAL, SKY)).ravel()
    probability, largest = deviations(found, mu, -1)
    assert probability > 1e-3
    assert largest < 5.5
    # Stars that moved the other way, right ascension increasing with hour angle, would be seen at once.
    probability, largest = deviations(found, mu, +1)
    assert largest > 12
    assert probability < 1e-6 or scale < 1


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_the_first_of_many_draws_do_not_depend_on_their_number(monkeypatch, scale, spread):
    def draw(number):
        return draw_many(np.random.default_rng(3), RATE * scale, LOCAL, SKY, number, spread)

    few, many = draw(3), draw(50)
    # Nor on how many cells are held at once: here one ring.
    monkeypatch.setattr(diffcr.counts, "_MOST_CELLS", BINS * BINS)
    parts = draw(50)
    for one, other, third in zip(few, many, parts, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, other[:3])
            if spread == 0 or scale < 1:
                np.testing.assert_array_equal(other, third)


@pytest.mark.parametrize("scale", [0.02, 20.0, 1e4])
def test_many_weighted_draws_have_the_moments_of_log_normal_weights(scale):
    """E[w] = 1, E[w^2] = exp(s^2), E[w^4] = exp(6 s^2), with all marginals summing to the same."""
    number, spread = 2000, 0.5
    found = draw_many(np.random.default_rng(11), RATE * scale, LOCAL, SKY, number, spread)
    mean = float(expected_marginals(RATE * scale, LOCAL, SKY).time.sum())
    second, fourth = np.exp(spread**2), np.exp(6 * spread**2)
    total, squares = found.time.sum(1), found.square_time.sum(1)
    assert abs(total.mean() - mean) < 4.5 * np.sqrt(mean * second / number)
    assert abs(squares.mean() - mean * second) < 4.5 * np.sqrt(mean * fourth / number)
    np.testing.assert_allclose(total.var() / (mean * second), 1, atol=4.5 * np.sqrt(2 / number) + 3 / mean)
    np.testing.assert_allclose(found.events.mean(), mean, atol=4.5 * np.sqrt(mean / number))
    for values in (found.sky, found.local):
        np.testing.assert_allclose(values.sum((1, 2)), total, rtol=1e-10)
    np.testing.assert_allclose(found.square_local.sum((1, 2)), squares, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_dead_time_and_unseen_cells_stay_empty(scale):
    """Bins without rate, cells without acceptance, and sky without intensity; every event is in all three marginals."""
    rate, local, sky = RATE * scale, LOCAL.copy(), SKY.copy()
    rate[[0, -1]] = local[1, 2:] = 0
    sky[2, 4] = 0
    found = draw_many(np.random.default_rng(2), rate, local, sky, 300)
    assert found.square_time is None
    assert found.square_local is None
    assert not found.time[:, [0, -1]].any()
    assert not found.local[:, 1, 2:].any()
    assert not found.sky[:, 2, 4].any()
    for values in (found.sky.sum((1, 2)), found.time.sum(1), found.local.sum((1, 2))):
        np.testing.assert_array_equal(values, found.events)
    assert found.events.sum() > 0


def test_many_draws_refuse_negative_expectations():
    with pytest.raises(InputError, match="acceptance is negative or not finite"):
        draw_many(np.random.default_rng(0), RATE, -LOCAL, SKY, 2)


def test_gradients():
    weight = jnp.asarray(RNG.standard_normal((RINGS, BINS)))

    def probe(rate, local, sky):
        m = expected_marginals(rate, local, sky)
        return jnp.sum(weight * m.sky) + jnp.sum(m.time**2) + jnp.sum(weight * m.local) + jnp.sum(m.half**2)

    check_grads(jax.jit(probe), (RATE / 50, LOCAL, SKY), order=1, modes=["rev"])
    check_grads(jax.jit(expected_counts), (RATE / 50, LOCAL, SKY), order=1, modes=["rev"])
