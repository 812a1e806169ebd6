"""The diffusion tensor of transport.bgk_tensor against charged particles followed back in time, one by one."""

import numpy as np
import pytest

from diffcr.transport import bgk_tensor

RATE, NUMBER, LEG = 1.0, 1_000_000, 5.0


def isotropic(random, number):
    """Velocity across the field as vx + i vy, and along it, of particles of speed 1."""
    along = random.uniform(-1, 1, number)
    phase = random.uniform(0, 2 * np.pi, number)
    return np.sqrt(1 - along**2) * np.exp(1j * phase), along


def gyrate_back(across, along, omega, time):
    """Velocity a time earlier, and the displacement to there, in a field along z that turns dn/dt = n x Omega.

    Forwards n = x turns to -y: vx + i vy goes as exp(-i Omega t), and as exp(+i Omega t) back in time, where
    the path runs against the velocity.
    """
    turn = np.exp(1j * omega * time)
    return across * turn, -across * (turn - 1) / (1j * omega), -along * time


def follow_back(random, across, along, omega, duration):
    """Velocity and displacement a time `duration` before, with directions forgotten at the rate of collisions."""
    across, along = across.copy(), along.copy()
    sideways, forwards = np.zeros(len(along), complex), np.zeros(len(along))
    left, moving = np.full(len(along), duration), np.arange(len(along))
    while moving.size:
        time = np.minimum(random.exponential(1 / RATE, moving.size), left[moving])
        across[moving], step, climb = gyrate_back(across[moving], along[moving], omega, time)
        sideways[moving] += step
        forwards[moving] += climb
        left[moving] -= time
        moving = moving[left[moving] > 0]
        across[moving], along[moving] = isotropic(random, moving.size)
    return (across, along), (sideways, forwards)


def mean_products(first, second):
    """Mean of a_i b_j of vectors given as (x + i y, z), and its standard error."""
    a, b = (np.stack([each[0].real, each[0].imag, each[1]]) for each in (first, second))
    mean, square = a @ b.T / a.shape[1], (a**2) @ (b**2).T / a.shape[1]
    return mean, np.sqrt((square - mean**2) / a.shape[1])


def simulate(omega, number, seed):
    """-<v_i(0) r_j(-T)> for T = 10 and half the growth of <r_i r_j> from T = 5 to 10 a unit of time, with errors.

    What is older than T adds exp(-nu T) of the tensor, 5e-5; the growth lacks exp(-nu T / 2) / 5 of it, 1e-3.
    """
    random = np.random.default_rng(seed)
    start = isotropic(random, number)
    middle, first = follow_back(random, *start, omega, LEG)
    _, second = follow_back(random, *middle, omega, LEG)
    end = tuple(p + q for p, q in zip(first, second, strict=True))
    mean, error = mean_products(start, end)
    late, late_error = mean_products(end, end)
    early, early_error = mean_products(first, first)
    return -mean, error, (late - early) / (2 * LEG), np.hypot(late_error, early_error) / (2 * LEG)


@pytest.fixture(scope="module")
def particles():
    return simulate(1.7, NUMBER, 20250607)


def test_the_particles_turn_as_the_lorentz_force_turns_them():
    """dn/dt = n x Omega, with NumPy's cross product, and dr/dt = n: both backwards over a short time."""
    velocity, omega, time = np.array([0.48, -0.6, 0.64]), np.array([0.0, 0.0, 1.7]), 1e-6
    across, step, climb = gyrate_back(velocity[0] + 1j * velocity[1], velocity[2], omega[2], time)
    turned = velocity - np.cross(velocity, omega) * time
    np.testing.assert_allclose([across.real, across.imag], turned[:2], atol=1e-11)
    np.testing.assert_allclose([step.real, step.imag, climb], -velocity * time, atol=1e-11)


def test_the_tensor_is_the_correlation_of_velocity_and_earlier_position(particles):
    correlation, error, _, _ = particles
    tensor = np.asarray(bgk_tensor(RATE, 1.7, np.array([0.0, 0.0, 1.0])))
    assert np.max(np.abs((correlation - tensor) / error)) < 4
    assert np.max(error) < 1.5e-3
    # The printed case, so that the two do not share a mistake.
    expected = [[0.08569, 0.14567, 0], [-0.14567, 0.08569, 0], [0, 0, 1 / 3]]
    assert np.max(np.abs((correlation - expected) / error)) < 4


def test_the_opposite_sense_of_rotation_is_excluded(particles):
    """Transposed, K_xy = -0.146 is hundreds of standard errors away: a wrong sign of the drifts cannot pass."""
    correlation, error, _, _ = particles
    assert correlation[0, 1] > 0 > correlation[1, 0]
    tensor = np.asarray(bgk_tensor(RATE, 1.7, np.array([0.0, 0.0, 1.0])))
    for wrong in (tensor.T, bgk_tensor(RATE, -1.7, np.array([0.0, 0.0, 1.0]))):
        score = (correlation - np.asarray(wrong)) / error
        assert score[0, 1] > 20 and score[1, 0] < -20
        assert np.max(np.abs(np.delete(score.ravel(), [1, 3]))) < 4


def test_spreading_shows_the_symmetric_part_alone(particles):
    """<r_i r_j> grows by 2 K^s_ij a unit of time: the drifts do not spread."""
    _, _, spread, error = particles
    tensor = np.asarray(bgk_tensor(RATE, 1.7, np.array([0.0, 0.0, 1.0])))
    assert np.max(np.abs((spread - (tensor + tensor.T) / 2) / error)) < 4
    assert np.abs(spread[0, 1] - tensor[0, 1]) / error[0, 1] > 20


@pytest.mark.parametrize("omega", [0.3, -5.0])
def test_the_tensor_follows_the_gyrofrequency_and_its_sign(omega):
    correlation, error, _, _ = simulate(omega, 100_000, 7)
    tensor = np.asarray(bgk_tensor(RATE, omega, np.array([0.0, 0.0, 1.0])))
    assert np.max(np.abs((correlation - tensor) / error)) < 4
    assert np.abs(correlation[0, 1] - tensor[1, 0]) / error[0, 1] > 20
