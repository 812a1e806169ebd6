"""diffcr.random_walk against sums written out, Monte Carlo, and the limits of ballistic motion and diffusion."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr.errors import InputError
from diffcr.random_walk import LAWS, diffusion_coefficient, mean_square_displacement, rms_distance, scatter, walk
from diffcr.transport import bgk_tensor

NUMBER = 20_000
COSINES = [0.0, 0.6, -0.4]


@functools.partial(jax.jit, static_argnames=("number", "steps", "law"))
def walked(key, number, steps, length, law, mean_cosine):
    return walk(key, number, steps, length, law, mean_cosine)


def mean_square(positions):
    """With its standard error."""
    square = np.sum(np.asarray(positions) ** 2, axis=0)
    return square.mean(), square.std() / np.sqrt(len(square))


def test_a_hundred_steps_lead_ten_steps_away_and_exponential_ones_fourteen():
    assert float(rms_distance(100, 1.0, "fixed")) == pytest.approx(10, rel=1e-14)
    assert float(rms_distance(100, 1.0)) == pytest.approx(14.142135623730951, rel=1e-14)


@pytest.mark.parametrize("law", LAWS)
def test_the_distance_is_a_length(law):
    """Ten times the step is ten times the distance: a root of N times lambda is excluded."""
    np.testing.assert_allclose(rms_distance(7, 10.0, law), 10 * rms_distance(7, 1.0, law), rtol=1e-14)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cosine", COSINES)
def test_monte_carlo_walks_go_as_far(law, cosine):
    for steps in (1, 2, 30):
        mean, error = mean_square(walked(jax.random.key(steps), NUMBER, steps, 0.7, law, cosine))
        assert abs(mean - float(rms_distance(steps, 0.7, law, cosine)) ** 2) < 4 * error + 1e-12
        assert error < 0.03 * mean


def test_the_two_laws_are_told_apart():
    mean, error = mean_square(walked(jax.random.key(0), NUMBER, 30, 1.0, "exponential", 0.0))
    assert mean - float(rms_distance(30, 1.0, "fixed")) ** 2 > 20 * error


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cosine", [0.0, 0.95, -0.9])
def test_the_closed_form_is_the_sum_over_pairs_of_steps(law, cosine):
    """<l_i . l_j> = lambda^2 g^|i - j| between different steps."""
    for steps in (0, 1, 2, 9, 50):
        i, j = np.indices((steps, steps))
        pairs = np.where(i == j, 0.0, np.float64(cosine) ** np.abs(i - j)).sum() if steps else 0.0
        expected = 3.0 * np.sqrt(steps * {"fixed": 1, "exponential": 2}[law] + pairs)
        assert float(rms_distance(steps, 3.0, law, cosine)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_walks_are_isotropic_and_gaussian_after_many_steps():
    """<x^4> = 3 <x^2>^2 up to 1 / N, and no direction is preferred."""
    position = np.asarray(walked(jax.random.key(4), NUMBER, 60, 1.0, "fixed", 0.0))
    covariance = position @ position.T / NUMBER
    np.testing.assert_allclose(covariance, 20 * np.eye(3), atol=4 * 20 * np.sqrt(2 / NUMBER))
    # Of steps of one length: <x^4> = 3 <x^2>^2 (1 - 2 / 5 N), from the cumulant of one step.
    kurtosis = (position**4).mean() / 3 / (position**2).mean() ** 2
    assert kurtosis == pytest.approx(1 - 0.4 / 60, abs=4 * np.sqrt(96 / 9 / (3 * NUMBER)))


@pytest.mark.parametrize("cosine", [0.0, 0.8, -0.5])
def test_scattering_has_the_law_of_henyey_and_greenstein(cosine):
    """<P_l(cos theta)> = g^l, and unit vectors in every direction, also from the poles."""
    start = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.6, -0.8, 0.0], [0.48, 0.6, -0.64]])
    start = np.repeat(start.T, 10_000, axis=1)
    after = np.asarray(jax.jit(scatter)(jax.random.key(8), start, cosine))
    np.testing.assert_allclose(np.sum(after**2, axis=0), 1, rtol=1e-12)
    between = np.sum(start * after, axis=0).reshape(4, -1)
    for l in (1, 2, 3):
        mean = np.polynomial.legendre.Legendre.basis(l)(between).mean(axis=1)
        np.testing.assert_allclose(mean, cosine**l, atol=4 / np.sqrt((2 * l + 1) * 10_000) + 0.01 * abs(cosine))
    # Around the old direction no azimuth is preferred.
    across = after.reshape(3, 4, -1) - between * start.reshape(3, 4, -1)
    assert np.max(np.abs(across.mean(axis=-1))) < 4 / np.sqrt(10_000)


def test_displacement_is_ballistic_then_diffusive():
    """(v t)^2 (1 - nu t / 3) at first; in the end 6 K t - 6 K / nu with the K of relaxation in time."""
    rate, speed = 2.0, 0.9
    for time in (1e-9, 1e-5):
        expected = (speed * time) ** 2 * (1 - rate * time / 3)
        assert float(mean_square_displacement(time, rate, speed)) == pytest.approx(expected, rel=1e-9)
    kappa = float(bgk_tensor(rate, 0.0, np.array([0.0, 0.0, 1.0]), speed)[2, 2])
    assert float(mean_square_displacement(50.0, rate, speed)) == pytest.approx(6 * kappa * (50.0 - 1 / rate), rel=1e-12)


@pytest.mark.parametrize("depth", [1e-12, 1e-3, 0.0999, 0.1001, 3.0, 700.0])
def test_displacement_loses_no_digits(depth):
    with mpmath.workdps(50):
        x = mpmath.mpf(depth)
        expected = float(2 * (x - 1 + mpmath.exp(-x)))
    assert float(mean_square_displacement(depth)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("cosine", [0.0, 0.7])
def test_displacement_is_that_of_a_walk_cut_short(cosine):
    """Flights of Poisson collisions followed one after the other in NumPy until the time is over."""
    random, time, rate, speed = np.random.default_rng(5), 4.0, 1.3, 2.0
    direction = np.asarray(jax.random.normal(jax.random.key(1), (3, NUMBER)))
    direction = direction / np.linalg.norm(direction, axis=0)
    left, position, turn = np.full(NUMBER, time), np.zeros((3, NUMBER)), jax.jit(scatter)
    for n in range(40):
        flight = np.minimum(random.exponential(1 / rate, NUMBER), left)
        position, left = position + speed * flight * direction, left - flight
        direction = np.asarray(turn(jax.random.key(100 + n), direction, cosine))
    assert left.max() == 0
    mean, error = mean_square(position)
    assert abs(mean - float(mean_square_displacement(time, rate, speed, cosine))) < 4 * error


@pytest.mark.parametrize("law", LAWS)
def test_the_diffusion_coefficient_is_the_limit_of_the_walk(law):
    """K = <d^2> / 6 t of a walk at constant speed, t = N lambda / v; v lambda / 3 between collisions."""
    for cosine in COSINES:
        steps = 1e9
        limit = float(rms_distance(steps, 0.5, law, cosine)) ** 2 / (6 * steps * 0.5 / 2.0)
        assert float(diffusion_coefficient(0.5, 2.0, law, cosine)) == pytest.approx(limit, rel=1e-7)
    assert float(diffusion_coefficient(1.0)) == pytest.approx(1 / 3)
    late = float(mean_square_displacement(1e9, 2.0, 2.0, 0.4)) / 6e9
    assert float(diffusion_coefficient(1.0, 2.0, "exponential", 0.4)) == pytest.approx(late, rel=1e-8)


def test_derivatives_are_those_of_differences():
    check_grads(jax.jit(lambda n, l, g: rms_distance(n, l, "fixed", g)), (9.0, 2.0, 0.3), 1, rtol=1e-5)
    check_grads(jax.jit(mean_square_displacement), (2.0, 0.9, 1.5, 0.2), 1, rtol=1e-5)
    check_grads(jax.jit(mean_square_displacement), (1e-2, 0.9, 1.5, 0.0), 1, rtol=1e-5)
    check_grads(jax.jit(lambda l, v, g: diffusion_coefficient(l, v, "fixed", g)), (0.5, 2.0, 0.3), 1, rtol=1e-5)
    slopes = jax.jit(jax.grad(lambda n, g: rms_distance(n, 1.0, "fixed", g), argnums=(0, 1)))
    assert [float(v) for v in slopes(0.0, 0.0)] == [0.0, 0.0]
    # N - 1 neighbouring pairs at g = 0: d <d^2> / d g = 2 (N - 1).
    assert float(slopes(4.0, 0.0)[1]) == pytest.approx(2 * 3 / (2 * 2.0))


def test_lengths_of_walks_can_be_differentiated():
    ends = walk(jax.random.key(0), 5, 3, 1.0)
    slope = jax.jacfwd(lambda length: walk(jax.random.key(0), 5, 3, length))(1.0)
    np.testing.assert_allclose(slope, ends, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rms_distance(-1), "number of steps must be finite and not negative, not -1"),
        (lambda: rms_distance(3, law="levy"), "must be one of fixed, exponential, not 'levy'"),
        (lambda: rms_distance(3, mean_cosine=1.0), "mean cosine of a collision must be finite and above -1"),
        (lambda: rms_distance(3, length=np.nan), "length or speed of a random walk must be finite"),
        (lambda: mean_square_displacement(-2.0), "time of a random walk must be finite and not negative, not -2"),
        (
            lambda: mean_square_displacement(jnp.ones(2), np.array([1.0, 0.0])),
            "rate of collisions .* above zero, not 0",
        ),
        (lambda: diffusion_coefficient(speed=-1.0), "the speed of a random walk must be"),
        (lambda: walk(jax.random.key(0), 0, 3), "whole number of particles of at least 1, not 0"),
        (lambda: walk(jax.random.key(0), 2, -1), "whole number of steps of at least 0, not -1"),
        (lambda: walk(jax.random.key(0), 2, True), "whole number of steps"),
        (lambda: walk(jax.random.key(0), 2, 2, law="none"), "law of a step"),
    ],
)
def test_input_that_makes_no_walk_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
