"""diffcr.kinetic: helices against an integrator, and many particles against correlations known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads

from diffcr import kinetic
from diffcr.errors import InputError
from diffcr.harmonics import evaluate_at, power_spectrum
from diffcr.random_walk import mean_square_displacement
from diffcr.transport import bgk_tensor

NUMBER = 60_000
FIELD = np.array([0.48, -0.6, 0.64])
UP = np.array([0.0, 0.0, 1.0])


@functools.lru_cache(maxsize=4)
def isotropic(seed):
    vector = np.random.default_rng(seed).normal(size=(3, NUMBER))
    return vector / np.linalg.norm(vector, axis=0)


follow, backtrack = jax.jit(kinetic.follow), jax.jit(kinetic.backtrack)


def score(estimate, expected):
    return np.asarray((estimate.value - np.asarray(expected)) / estimate.error)


@pytest.mark.parametrize("omega", [0.0, 1.7, -4.0])
def test_a_particle_that_meets_nothing_moves_on_its_helix(omega):
    """dn/dt = n x Omega and dr/dt = v n by a Runge-Kutta integrator; backwards the same path the other way."""
    start, time, speed = np.array([0.6, 0.64, -0.48]), 2.3, 0.9

    def slope(_, state):
        return np.concatenate([speed * state[3:], np.cross(state[3:], omega * FIELD)])

    state = scipy.integrate.solve_ivp(slope, (0, time), [0, 0, 0, *start], rtol=1e-11, atol=1e-12).y[:, -1]
    end = follow(jax.random.key(0), start[:, None], time, 0.0, omega, FIELD, speed)
    np.testing.assert_allclose(end.position[:, 0], state[:3], atol=1e-9)
    np.testing.assert_allclose(end.direction[:, 0], state[3:], atol=1e-9)
    assert int(end.collisions[0]) == 0
    back = backtrack(jax.random.key(0), state[3:, None], time, 0.0, omega, FIELD, speed)
    np.testing.assert_allclose(back.position[:, 0], -state[:3], atol=1e-9)
    np.testing.assert_allclose(back.direction[:, 0], start, atol=1e-9)


def test_collisions_are_poissonian_and_the_spared_are_in_front():
    time, rate, speed = 2.5, 0.8, 1.5
    end = follow(jax.random.key(1), isotropic(1), time, rate, 0.0, UP, speed)
    collisions = np.asarray(end.collisions)
    mean = time * rate
    assert collisions.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / NUMBER))
    assert collisions.var() == pytest.approx(mean, abs=4 * np.sqrt((mean + 2 * mean**2) / NUMBER))
    far = np.linalg.norm(end.position, axis=0)
    np.testing.assert_allclose(far[collisions == 0], speed * time, rtol=1e-12)
    assert far[collisions > 0].max() < speed * time
    np.testing.assert_allclose(np.linalg.norm(end.direction, axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("depth", [0.3, 3.0, 10.0])
def test_the_mean_square_distance_is_that_of_persistent_motion(depth):
    """2 (v / nu)^2 (nu t - 1 + exp(-nu t)): neither (v t)^2 nor 6 K t."""
    rate, speed = 2.0, 1.5
    square = np.sum(
        np.asarray(follow(jax.random.key(2), isotropic(2), depth / rate, rate, 0.0, UP, speed).position) ** 2, 0
    )
    expected = 2 * (speed / rate) ** 2 * (depth - 1 + np.exp(-depth))
    assert abs(square.mean() - expected) < 4 * square.std() / np.sqrt(NUMBER)
    assert abs(expected - 2 * (speed / rate) ** 2 * depth) > 10 * square.std() / np.sqrt(NUMBER)


@pytest.mark.parametrize(("omega", "time"), [(1.7, 0.7), (1.7, 9.0), (-5.0, 2.0)])
def test_particles_have_the_running_tensor(omega, time):
    back = backtrack(jax.random.key(3), isotropic(3), time, 1.0, omega, UP)
    estimate = kinetic.velocity_displacement(isotropic(3), back.position)
    expected = kinetic.running_tensor(time, 1.0, omega, UP)
    assert np.max(np.abs(score(estimate, expected))) < 4
    # The transposed tensor has the drifts the wrong way round.
    assert np.max(np.abs(score(estimate, expected.T))) > 20
    spread = kinetic.displacement_spread(back.position, time)
    assert np.max(np.abs(score(spread, kinetic.spreading_tensor(time, 1.0, omega, UP)))) < 4


def test_the_printed_tensor_is_reached():
    """nu = 1, Omega = 1.7 along z: 0.08569, 0.14567 and 1 / 3; K_xy is positive for positive charges."""
    back = backtrack(jax.random.key(4), isotropic(4), 10.0, 1.0, 1.7, UP)
    estimate = kinetic.velocity_displacement(isotropic(4), back.position)
    expected = [[0.08569, 0.14567, 0], [-0.14567, 0.08569, 0], [0, 0, 1 / 3]]
    assert np.max(np.abs(score(estimate, expected))) < 4
    np.testing.assert_allclose(kinetic.running_tensor(60.0, 1.0, 1.7, UP), bgk_tensor(1.0, 1.7, UP), atol=1e-12)


@pytest.mark.parametrize("omega", [0.0, 2.5, -0.4])
def test_the_running_tensor_is_the_integral_of_the_correlation(omega):
    """<v_i(0) v_j(-t)> = (v^2 / 3) exp(-nu t) times the rotation back, made here with scipy."""
    rate, speed, time = 0.7, 1.3, 1.9
    from scipy.spatial.transform import Rotation

    def correlation(t):
        # v(-t) = R v(0): right-handed by Omega t, as time runs back.
        return speed**2 / 3 * np.exp(-rate * t) * Rotation.from_rotvec(omega * t * FIELD).as_matrix().T

    expected, _ = scipy.integrate.quad_vec(correlation, 0, time, epsabs=1e-12)
    np.testing.assert_allclose(kinetic.running_tensor(time, rate, omega, FIELD, speed), expected, atol=1e-11)
    found = scipy.integrate.quad_vec(
        lambda t: np.asarray(kinetic.running_tensor(t, rate, omega, FIELD, speed)), 0, time
    )
    spread = (found[0] + found[0].T) / 2 / time
    np.testing.assert_allclose(kinetic.spreading_tensor(time, rate, omega, FIELD, speed), spread, atol=1e-9)


def test_correlations_have_their_limits():
    """bgk_tensor at late times, free flight at early ones and without collisions, and the trace of the random walk."""
    late = kinetic.running_tensor(200.0, 0.7, 2.5, FIELD, 1.3)
    np.testing.assert_allclose(late, bgk_tensor(0.7, 2.5, FIELD, 1.3), atol=1e-12)
    bgk = np.asarray(bgk_tensor(0.7, 2.5, FIELD, 1.3))
    np.testing.assert_allclose(kinetic.spreading_tensor(1e9, 0.7, 2.5, FIELD, 1.3), (bgk + bgk.T) / 2, atol=1e-8)
    np.testing.assert_allclose(kinetic.running_tensor(1e-9), 1e-9 / 3 * np.eye(3), atol=1e-18)
    # Free gyration: v^2 / 3 sin(Omega T) / Omega across, and the displacement turns round.
    free = kinetic.running_tensor(2.0, 0.0, 2.5)
    np.testing.assert_allclose(free[0, :2], [np.sin(5.0) / 7.5, (1 - np.cos(5.0)) / 7.5], rtol=1e-12)
    assert float(free[2, 2]) == pytest.approx(2 / 3)
    trace = 2 * 3.0 * np.trace(kinetic.spreading_tensor(3.0, 0.7, 0.0, FIELD, 1.3))
    assert trace == pytest.approx(float(mean_square_displacement(3.0, 0.7, 1.3)), rel=1e-12)


def test_the_dipole_of_a_burst_in_a_field_is_that_of_diffusion_with_its_drift():
    """delta = -(3 / 2 c t) [r + (kappa_A / kappa_perp) r x B], from the mean direction at r by regression on r."""
    time, omega = 20.0, 1.2
    end = follow(jax.random.key(10), isotropic(10), time, 1.0, omega, UP)
    position, direction = np.asarray(end.position), np.asarray(end.direction)
    slope = direction @ position.T @ np.linalg.inv(position @ position.T)
    place = np.array([2.0, -1.0, 3.0])
    error = np.sqrt(1 / 3 / np.linalg.eigvalsh(position @ position.T)[0]) * np.linalg.norm(place)
    diffusive = -3 / (2 * time) * (place + omega * np.cross(place, UP))
    # Diffusion itself is off by some 1 / (nu t).
    np.testing.assert_allclose(-3 * slope @ place, diffusive, atol=12 * error + 0.05 * np.abs(diffusive).max())
    wrong = -3 / (2 * time) * (place - omega * np.cross(place, UP))
    assert np.max(np.abs(-3 * slope @ place - wrong)) > 0.3
    exact = (
        -3
        * kinetic.running_tensor(time, 1.0, omega)
        @ np.linalg.inv(2 * time * kinetic.spreading_tensor(time, 1.0, omega))
    )
    np.testing.assert_allclose(-3 * slope @ place, exact @ place, atol=12 * error)


def test_persistent_collisions_lower_the_rate_that_counts():
    """nu (1 - g) in place of nu, with and without a field."""
    cosine, omega, time = 0.6, 0.9, 3.0
    back = backtrack(jax.random.key(5), isotropic(5), time, 2.0, omega, UP, 1.0, cosine)
    estimate = kinetic.velocity_displacement(isotropic(5), back.position)
    assert np.max(np.abs(score(estimate, kinetic.running_tensor(time, 0.8, omega, UP)))) < 4
    assert np.max(np.abs(score(estimate, kinetic.running_tensor(time, 2.0, omega, UP)))) > 20


def anisotropic(seed):
    """Directions of density (1 + 0.9 u . n) / 4 pi squared, up to its norm: multipoles up to l = 2, by rejection."""
    random = np.random.default_rng(seed)
    vector = random.normal(size=(3, 4 * NUMBER))
    vector = vector / np.linalg.norm(vector, axis=0)
    density = (1 + 0.9 * FIELD @ vector) ** 2
    return vector[:, random.uniform(size=4 * NUMBER) < density / 1.9**2][:, :NUMBER]


def measured_multipoles(direction):
    """s_lm = <R_lm> of l = 0 to 2 over particles, relative to a density of 1 / 4 pi, and their errors."""
    basis = jax.jit(jax.vmap(evaluate_at, (0, None)))(jnp.eye(9), jnp.asarray(direction.T))
    values = 4 * np.pi * np.asarray(basis)
    return values.mean(axis=1), values.std(axis=1) / np.sqrt(values.shape[1])


@pytest.mark.parametrize(("cosine", "omega"), [(0.0, 1.3), (0.7, -2.0)])
def test_multipoles_decay_and_turn_as_particles_say(cosine, omega):
    """nu (1 - g^l) for l; of BGK nu for all. A sign the other way round would make them grow."""
    rate, time = 1.1, 0.6
    start = anisotropic(6)
    before, _ = measured_multipoles(start)
    end = follow(jax.random.key(6), start, time, rate, omega, UP, 1.0, cosine)
    after, error = measured_multipoles(np.asarray(end.direction))
    rates = rate if cosine == 0 else rate * (1 - cosine ** np.arange(1.0, 3))
    expected = np.asarray(kinetic.relaxed(before, time, rates, omega))
    # The start has noise of its own, which is in part that of the end.
    assert np.max(np.abs((after - expected)[1:] / (1.4 * error[1:]))) < 4
    wrong = np.asarray(kinetic.relaxed(before, time, rates, -omega))
    assert np.max(np.abs((after - wrong)[1:] / error[1:])) > 20
    assert np.all(np.abs(power_spectrum(jnp.asarray(after))[1:]) < np.abs(power_spectrum(jnp.asarray(before))[1:]))


def test_power_decays_twice_as_fast_as_multipoles_and_nothing_grows():
    before = np.arange(1.0, 17)
    power = np.asarray(power_spectrum(before))
    for time in (0.0, 0.4, 30.0):
        after = np.asarray(power_spectrum(kinetic.relaxed(before, time, 1.5, 4.0)))
        np.testing.assert_allclose(after, power * np.where(np.arange(4) > 0, np.exp(-3 * time), 1), rtol=1e-12)
    diffusing = np.asarray(power_spectrum(kinetic.relaxed(before, 0.4, np.array([1.0, 3.0, 6.0]))))
    np.testing.assert_allclose(diffusing / power, np.exp(-0.8 * np.array([0, 1, 3, 6])), rtol=1e-12)


@pytest.mark.parametrize("ratio", [1e-3, 0.049, 0.051, 0.5, -0.9])
def test_the_dipole_of_a_steady_gradient_is_that_of_its_distribution(ratio):
    """f ~ 1 / (1 + eps mu): 3 times minus the mean of mu, by quadrature in NumPy."""
    mu, weight = np.polynomial.legendre.leggauss(200)
    f = 1 / (1 + ratio * mu)
    expected = -3 * (weight @ (mu * f)) / (weight @ f)
    assert float(kinetic.stationary_dipole(ratio)) == pytest.approx(expected, rel=1e-10)


def test_the_error_of_ficks_law_is_of_second_order():
    """4 / 15 of the square of mean free path over gradient length."""
    error = float(kinetic.stationary_dipole(0.02)) / 0.02 - 1
    assert error == pytest.approx(4 / 15 * 0.02**2, rel=1e-3)


def test_particles_in_a_steady_gradient_have_that_dipole():
    """Traced back into exp(eps z), each collision weighted by what keeps the density steady: eps / artanh(eps)."""
    ratio = 0.7
    directions = isotropic(7)
    back = backtrack(jax.random.key(7), directions, 3.0)
    weight = np.exp(ratio * np.asarray(back.position)[2]) * (ratio / np.arctanh(ratio)) ** np.asarray(back.collisions)
    # The share exp(-nu T) that met nothing remembers how particles moved at the start: as they do now.
    weight = weight / (1 + ratio * np.asarray(back.direction)[2])
    dipole = -3 * (weight @ directions[2]) / weight.sum()
    residual = weight * (-3 * directions[2] - dipole)
    error = residual.std() / np.sqrt(NUMBER) / weight.mean()
    assert abs(dipole - float(kinetic.stationary_dipole(ratio))) < 4 * error
    assert dipole - ratio > 5 * error


def test_derivatives_are_those_of_differences():
    for function in (kinetic.running_tensor, kinetic.spreading_tensor):
        check_grads(jax.jit(lambda t, r, o, f=function: f(t, r, o, FIELD, 1.3)), (2.0, 0.7, 1.5), 1, rtol=1e-5)
        check_grads(jax.jit(lambda t, r, o, f=function: f(t, r, o, FIELD, 1.3)), (0.01, 0.7, 0.5), 1, rtol=1e-5)
    check_grads(jax.jit(kinetic.relaxed), (np.arange(1.0, 10), 0.4, np.array([0.5, 2.0]), 1.2), 1, rtol=1e-5)
    check_grads(jax.jit(kinetic.stationary_dipole), (0.4,), 1, rtol=1e-5)
    check_grads(jax.jit(kinetic.stationary_dipole), (0.0,), 1, rtol=1e-5)
    # Paths at given collisions: forward mode, as a loop of unknown length has no backward one.
    path = jax.jit(lambda v, o: kinetic.follow(jax.random.key(9), isotropic(9)[:, :5], 2.0, 1.0, o, UP, v).position)
    check_grads(path, (1.0, 0.8), 1, modes=["fwd"], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kinetic.follow(jax.random.key(0), UP[:, None], -1.0), "the duration must be finite and not negative"),
        (lambda: kinetic.follow(jax.random.key(0), UP[:, None], 1.0, np.nan), "the rate of collisions must be finite"),
        (lambda: kinetic.follow(jax.random.key(0), UP[:, None], 1.0, speed=-2.0), "the speed must be"),
        (lambda: kinetic.follow(jax.random.key(0), UP[:, None], 1.0, 1.0, np.inf), "the gyrofrequency must be finite"),
        (lambda: kinetic.follow(jax.random.key(0), UP[:, None], 1.0, mean_cosine=1.0), "mean cosine of a collision"),
        (lambda: kinetic.relaxed(np.ones(9), 1.0, np.ones(3)), r"multipoles to l = 2 needs one rate or 2, not \(3,\)"),
        (lambda: kinetic.stationary_dipole(1.0), "mean free path and gradient length must be finite and above -1"),
    ],
)
def test_input_that_makes_no_gas_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
