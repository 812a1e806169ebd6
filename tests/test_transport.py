"""diffcr.transport against a kinetic Monte Carlo, the Green's function of a burst, and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from diffcr import transport
from diffcr.errors import InputError
from diffcr.sky import unit_vector
from diffcr.transport import require_field, require_tensor
from diffcr.units import CM, DEGREE, KPC, LARMOR_RADIUS, LIGHT_YEAR, SECOND, SPEED_OF_LIGHT

diffusion_tensor = jax.jit(transport.diffusion_tensor)
bgk_tensor = jax.jit(transport.bgk_tensor)
bgk_ratios = jax.jit(transport.bgk_ratios)
fick_dipole = jax.jit(transport.fick_dipole)
projected_dipole = jax.jit(transport.projected_dipole)

Z = np.array([0.0, 0.0, 1.0])
TILTED = np.array([2.0, -1.0, 2.0]) / 3
GRADIENT = np.array([0.3, -0.2, 0.5])
VELA = np.asarray(unit_vector(263.9 * DEGREE, -3.3 * DEGREE))
RIBBON = np.asarray(unit_vector(210.5 * DEGREE, -57.1 * DEGREE))


def angle_between(a, b):
    return np.arctan2(np.linalg.norm(np.cross(a, b)), np.dot(a, b)) / DEGREE


# The tensor


def test_tensor_of_a_field_along_z():
    tensor = diffusion_tensor(1.0, 0.1, 0.3, Z)
    np.testing.assert_allclose(tensor, [[0.1, 0.3, 0], [-0.3, 0.1, 0], [0, 0, 1]], atol=1e-15)


def test_tensor_of_a_field_along_x_and_y():
    """The cyclic neighbours of K_xy; a wrong permutation shows here."""
    tensor = diffusion_tensor(1.0, 0.1, 0.3, np.array([1.0, 0, 0]))
    np.testing.assert_allclose(tensor, [[1, 0, 0], [0, 0.1, 0.3], [0, -0.3, 0.1]], atol=1e-15)
    tensor = diffusion_tensor(1.0, 0.1, 0.3, np.array([0, 1.0, 0]))
    np.testing.assert_allclose(tensor, [[0.1, 0, -0.3], [0, 1, 0], [0.3, 0, 0.1]], atol=1e-15)


def test_tensors_of_many_energies_and_fields():
    parallel = np.array([1.0, 2.0, 4.0])
    fields = np.stack([Z, TILTED])[:, None]
    tensors = diffusion_tensor(parallel, parallel / 10, 0.3, fields)
    assert tensors.shape == (2, 3, 3, 3)
    for i, field in enumerate((Z, TILTED)):
        for j, each in enumerate(parallel):
            np.testing.assert_allclose(tensors[i, j], diffusion_tensor(each, each / 10, 0.3, field), rtol=1e-14)
    dipoles = fick_dipole(tensors, GRADIENT)
    assert dipoles.shape == (2, 3, 3)
    np.testing.assert_allclose(dipoles[1, 2], 3 * np.asarray(tensors[1, 2]) @ GRADIENT, rtol=1e-14)
    projected = projected_dipole(parallel, GRADIENT, fields)
    np.testing.assert_allclose(projected[1, 2], projected_dipole(4.0, GRADIENT, TILTED), rtol=1e-14)
    bgk = bgk_tensor(np.array([1.0, 3.0]), 2.0, Z)
    np.testing.assert_allclose(bgk[1], bgk_tensor(3.0, 2.0, Z), rtol=1e-14)


components = st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)
vectors = st.tuples(components, components, components).map(np.array)


@given(parallel=st.floats(0.1, 10), perpendicular=st.floats(0, 10), antisymmetric=st.floats(-5, 5), vector=vectors)
@settings(deadline=None, max_examples=30)
def test_field_and_drift_reverse_together(parallel, perpendicular, antisymmetric, vector):
    field = require_field(vector)
    tensor = diffusion_tensor(parallel, perpendicular, antisymmetric, field)
    np.testing.assert_allclose(diffusion_tensor(parallel, perpendicular, -antisymmetric, -field), tensor, atol=1e-14)
    np.testing.assert_allclose(diffusion_tensor(parallel, perpendicular, antisymmetric, -field), tensor.T, atol=1e-14)


@given(quaternion=st.tuples(components, components, components, components), vector=vectors)
@settings(deadline=None, max_examples=30)
def test_rotated_axes_rotate_tensor_and_dipole(quaternion, vector):
    turn = Rotation.from_quat(quaternion).as_matrix()
    field = require_field(vector)
    tensor, turned = (diffusion_tensor(1.0, 0.2, 0.4, each) for each in (field, turn @ field))
    np.testing.assert_allclose(turned, turn @ tensor @ turn.T, atol=1e-14)
    np.testing.assert_allclose(fick_dipole(turned, turn @ GRADIENT), turn @ fick_dipole(tensor, GRADIENT), atol=1e-14)
    np.testing.assert_allclose(
        projected_dipole(1.0, turn @ GRADIENT, turn @ field),
        turn @ projected_dipole(1.0, GRADIENT, field),
        atol=1e-14,
    )


# Scattering at a constant rate


@pytest.fixture(scope="module")
def flights():
    """Particles that turn as dv/dt = v x Omega and forget their direction in Poisson collisions.

    Velocity at the end, and the position reached minus the one started from, for nu = 2, Omega = 3.4 along
    the tilted field and speed 0.8. What is older than 14 mean free times adds exp(-14) of the result.
    """
    random = np.random.default_rng(20240611)
    number, rate, omega, speed, duration = 400_000, 2.0, 3.4, 0.8, 4.0

    def directions(size):
        vector = random.standard_normal((size, 3))
        return speed * vector / np.linalg.norm(vector, axis=1, keepdims=True)

    velocity, path, left = directions(number), np.zeros((number, 3)), np.full(number, duration)
    moving = np.arange(number)
    while moving.size:
        free = np.minimum(random.exponential(1 / rate, moving.size), left[moving])
        v = velocity[moving]
        along = (v @ TILTED)[:, None] * TILTED
        across, turned = v - along, np.cross(v, TILTED)
        sin, cos = np.sin(omega * free)[:, None], np.cos(omega * free)[:, None]
        path[moving] += along * free[:, None] + (across * sin + turned * (1 - cos)) / omega
        left[moving] -= free
        moved = left[moving] > 0
        velocity[moving] = along + across * cos + turned * sin
        moving = moving[moved]
        velocity[moving] = directions(moving.size)
    return rate, omega, speed, velocity, path


def standard_score(samples, expected):
    return (np.mean(samples, axis=0) - expected) / (np.std(samples, axis=0) / np.sqrt(len(samples)))


def test_bgk_tensor_is_that_of_scattered_particles(flights):
    """K_ij = <v_i(0) [r_j(0) - r_j(-T)]>: a sign, a transpose or a factor 2 is many standard errors."""
    rate, omega, speed, velocity, path = flights
    tensor = bgk_tensor(rate, omega, TILTED, speed)
    samples = velocity[:, :, None] * path[:, None, :]
    assert np.max(np.abs(standard_score(samples, tensor))) < 4
    assert np.max(np.abs(standard_score(samples, tensor.T))) > 40


def test_fick_dipole_is_that_of_scattered_particles(flights):
    """The density where a particle comes from weights the direction -v it is seen in: delta = 3 <n n(r)>."""
    rate, omega, speed, velocity, path = flights
    excess = -(path @ GRADIENT)
    samples = 3 * (-velocity / speed) * excess[:, None]
    dipole = fick_dipole(bgk_tensor(rate, omega, TILTED, speed), GRADIENT, speed)
    assert np.max(np.abs(standard_score(samples, dipole))) < 4
    assert np.max(np.abs(standard_score(samples, 0.8 * dipole))) > 10


def test_bgk_tensor_of_the_printed_case():
    expected = [[0.08569, 0.14567, 0], [-0.14567, 0.08569, 0], [0, 0, 1 / 3]]
    np.testing.assert_allclose(bgk_tensor(1.0, 1.7, Z), expected, atol=5e-6)
    np.testing.assert_allclose(bgk_tensor(1.0, -1.7, Z), np.transpose(expected), atol=5e-6)


def test_bgk_ratios():
    perpendicular, antisymmetric = bgk_ratios(np.array([0.0, 1.0, -2.0]))
    np.testing.assert_allclose(perpendicular, [1, 1 / 2, 1 / 5], rtol=1e-15)
    np.testing.assert_allclose(antisymmetric, [0, 1 / 2, -2 / 5], rtol=1e-15)


def test_strongly_magnetised_particles_drift_by_a_third_of_the_larmor_radius():
    """kappa_A = v r_L / 3 (Forman, Jokipii & Owens 1974): 10 TV in 3 muG have r_L = 3.603e-3 pc."""
    larmor = LARMOR_RADIUS * 10 / 3
    np.testing.assert_allclose(larmor, 3.603e-3, rtol=1e-3)
    np.testing.assert_allclose(bgk_tensor(1e-6, 1 / larmor, Z)[0, 1], larmor / 3, rtol=1e-12)


@pytest.mark.parametrize(("ratio", "degrees"), [(3.0, 38.3), (10.0, 14.0), (100.0, 1.4)])
def test_gyration_turns_the_dipole_of_vela_to_the_field(ratio, degrees):
    dipole = fick_dipole(bgk_tensor(1.0, ratio, RIBBON), VELA)
    assert angle_between(dipole, RIBBON) == pytest.approx(degrees, abs=0.05)
    assert angle_between(VELA, RIBBON) == pytest.approx(68.2, abs=0.05)


# The dipole


def burst_log_density(position, time, parallel, perpendicular):
    """Logarithm of the Green's function of a burst at the origin, field along z."""
    spread = (position[0] ** 2 + position[1] ** 2) / perpendicular + position[2] ** 2 / parallel
    return -jnp.log(4 * jnp.pi * time) * 1.5 - jnp.log(perpendicular) - jnp.log(parallel) / 2 - spread / (4 * time)


def test_dipole_of_a_burst():
    position, time = np.array([0.3, -0.2, 0.5]), 0.7
    log_density, gradient = jax.value_and_grad(burst_log_density)(position, time, 1.0, 0.1)
    np.testing.assert_allclose(np.exp(log_density), 0.22035612527988588, rtol=1e-14)

    dipole = fick_dipole(diffusion_tensor(1.0, 0.1, 0.3, Z), gradient)

    np.testing.assert_allclose(dipole, [0.64285714, 2.35714286, -1.07142857], rtol=1e-8)
    closed = -1.5 / time * (position + 0.3 / 0.1 * np.cross(position, Z))
    np.testing.assert_allclose(dipole, closed, rtol=1e-14)


@pytest.mark.parametrize("perpendicular", [1e-3, 0.1, 1.0])
def test_one_tensor_points_to_the_source_and_two_project_on_the_field(perpendicular):
    position = np.array([0.3, -0.2, 0.5])
    same = jax.grad(burst_log_density)(position, 0.7, 1.0, perpendicular)
    dipole = fick_dipole(diffusion_tensor(1.0, perpendicular, 0.0, Z), same)
    np.testing.assert_allclose(dipole, -1.5 * position / 0.7, rtol=1e-13)

    isotropic = jax.grad(burst_log_density)(position, 0.7, 0.4, 0.4)
    dipole = fick_dipole(diffusion_tensor(1.0, 1e-9, 0.0, Z), isotropic)
    np.testing.assert_allclose(dipole, [0, 0, -1.5 * 0.5 / 0.7 / 0.4], atol=1e-8)


def test_the_excess_is_on_the_side_of_the_source():
    """Vela at 1000 light years and 11 kyr: 3 r / (2 c t), towards Vela, whatever the diffusion coefficient."""
    distance, age = 1000 * LIGHT_YEAR, 11000 * SPEED_OF_LIGHT
    for coefficient in (3.24, 7.0):
        gradient = jax.grad(burst_log_density)(-distance * VELA, age, coefficient, coefficient)
        dipole = fick_dipole(diffusion_tensor(coefficient, coefficient, 0.0, Z), gradient)
        np.testing.assert_allclose(dipole, 0.1363636 * VELA, rtol=1e-6)


def test_drifts_are_along_gradient_cross_field():
    for field in (Z, TILTED):
        dipole = fick_dipole(diffusion_tensor(0.0, 0.0, 0.7, field), GRADIENT)
        np.testing.assert_allclose(dipole, 3 * 0.7 * np.cross(GRADIENT, field), rtol=1e-14)
    np.testing.assert_allclose(
        fick_dipole(diffusion_tensor(0.0, 0.0, 1.0, Z), np.array([1.0, 0, 0])), [0, -3, 0], atol=1e-15
    )


def test_units_of_the_sky():
    """3e28 cm^2/s at 1 GeV, growing as E^(1/3): 3 K / c = 20.96 pc at 10 TeV, and 3.14e-3 for 0.15 per kpc."""
    coefficient = 3e28 * 1e4 ** (1 / 3) * CM**2 / SECOND / SPEED_OF_LIGHT
    np.testing.assert_allclose(3 * coefficient, 20.96, rtol=5e-4)
    dipole = fick_dipole(diffusion_tensor(coefficient, coefficient, 0.0, Z), np.array([0.15001 / KPC, 0, 0]))
    np.testing.assert_allclose(dipole, [3.144e-3, 0, 0], rtol=1e-3)


def test_slow_particles_of_one_tensor_have_the_larger_dipole():
    tensor = diffusion_tensor(1.0, 0.1, 0.3, TILTED)
    np.testing.assert_allclose(fick_dipole(tensor, GRADIENT, 0.5), 2 * fick_dipole(tensor, GRADIENT), rtol=1e-14)


def test_projected_dipole():
    """B . grad = (0.6 + 0.2 + 1) / 3 = 0.6; reversing B changes nothing."""
    for field in (TILTED, -TILTED):
        np.testing.assert_allclose(projected_dipole(2.0, GRADIENT, field), 3.6 * TILTED, rtol=1e-14)
    np.testing.assert_allclose(
        projected_dipole(2.0, GRADIENT, TILTED), fick_dipole(diffusion_tensor(2.0, 0.0, 0.0, TILTED), GRADIENT)
    )
    np.testing.assert_allclose(
        projected_dipole(1 / 3, VELA, RIBBON), fick_dipole(bgk_tensor(1.0, 1e9, RIBBON), VELA), atol=1e-8
    )


# Gradients


def test_gradients_agree_with_finite_differences():
    check_grads(jax.jit(transport.diffusion_tensor), (1.0, 0.1, 0.3, TILTED), order=1)
    check_grads(jax.jit(transport.bgk_tensor), (2.0, 3.4, TILTED, 0.8), order=1)
    check_grads(jax.jit(transport.bgk_ratios), (1.7,), order=1)
    check_grads(jax.jit(transport.fick_dipole), (np.asarray(bgk_tensor(2.0, 3.4, TILTED)), GRADIENT, 0.8), order=1)
    check_grads(jax.jit(transport.projected_dipole), (2.0, GRADIENT, TILTED), order=1)
    check_grads(jax.jit(require_field), (GRADIENT,), order=1)


# Misuse


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_fields_are_normalised(scale):
    np.testing.assert_allclose(require_field([2 * scale, -scale, 2 * scale]), TILTED, rtol=1e-15)
    np.testing.assert_allclose(jax.jit(require_field)(np.array([2.0, -1.0, 2.0])), TILTED, rtol=1e-15)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([0, 0, 0], r"finite and not zero, not \[0.0, 0.0, 0.0\]: give a vector along the field, such as"),
        ([1, np.nan, 0], r"finite and not zero, not \[1.0, nan, 0.0\]: give a vector"),
        ([1, 0, -np.inf], r"finite and not zero, not \[1.0, 0.0, -inf\]"),
        ([1.0, 0.0], r"three components, not the shape \(2,\): give a vector"),
        (np.ones((2, 3)), r"three components, not the shape \(2, 3\)"),
        (["north", 0, 0], r"made of numbers, not \['north', 0, 0\]: give a vector"),
    ],
)
def test_unusable_fields_are_named(vector, message):
    with pytest.raises(InputError, match="^a magnetic field .*" + message):
        require_field(vector)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ((np.nan, 0.1, 0.3), "the parallel diffusion coefficient must be finite, not nan: give .* lengths in pc"),
        ((1.0, np.inf, 0.3), "the perpendicular diffusion coefficient must be finite, not inf"),
        ((1.0, 0.1, -np.inf), "the antisymmetric diffusion coefficient must be finite, not -inf"),
        ((-1.0, 0.1, 0.3), "the parallel diffusion coefficient must be above zero, not -1: the sign of the drifts"),
        ((0.0, 0.0, 0.3), "the parallel diffusion coefficient must be above zero, not 0"),
        ((1.0, -0.1, 0.3), "the perpendicular .* must not be negative, not -0.1: zero leaves"),
        ((1.0, 1.1, 0.3), "must not be above the parallel one, not 1.1: check their order, or pass allow_perp"),
        (([1.0, 2.0], [0.5, 3.0], 0.3), "must not be above the parallel one, not 3:"),
        (([1.0, 2.0], [0.1, 0.2, 0.3], 0.3), r"shapes do not belong together: parallel \(2,\), perpendicular \(3,\)"),
        (("much", 0.1, 0.3), "the parallel diffusion coefficient must be made of numbers, not 'much': give"),
    ],
)
def test_unusable_coefficients_are_named(coefficients, message):
    with pytest.raises(InputError, match=message):
        require_tensor(*coefficients)


def test_usable_coefficients_pass_in_their_order():
    assert require_tensor(1.0, 0.0, -3.0) == (1.0, 0.0, -3.0)
    assert require_tensor(1.0, 1.0, 0.0) == (1.0, 1.0, 0.0)
    assert require_tensor(1.0, 2.0, 0.0, allow_perpendicular=True) == (1.0, 2.0, 0.0)
    np.testing.assert_array_equal(require_tensor([1.0, 2.0], 0.5, 0.0)[0], [1.0, 2.0])
    assert jax.jit(require_tensor)(1.0, 2.0, 0.0) == (1.0, 2.0, 0.0)
