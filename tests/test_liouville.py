"""diffcr.liouville: volumes and the symplectic form along paths in turbulence, and skies forwards and backwards."""

import functools

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads

from diffcr import liouville
from diffcr.errors import InputError
from diffcr.spectrum import PowerLaw
from diffcr.trajectory import ChaosWarning, integrate, isotropic_directions
from diffcr.turbulence import Sum, Uniform, draw_plane_waves

PARTICLES = 5
TURBULENCE = draw_plane_waves(jax.random.key(1), PowerLaw(smallest=1.0, largest=20.0), 24)
FIELD = Sum((Uniform(jnp.array([0.0, 0.0, 1.0])), TURBULENCE))
RANDOM = np.random.default_rng(3)
PLACE = RANDOM.normal(size=(3, PARTICLES))
MOMENTUM = RANDOM.normal(size=(3, PARTICLES))
MOMENTUM = MOMENTUM / np.linalg.norm(MOMENTUM, axis=0) * np.linspace(0.5, 2, PARTICLES)


def path_end(field, place, momentum, larmor_radius, duration, step):
    """(x', p') of each particle, magnitude of the momentum and all."""
    ends = []
    for x, p in zip(place.T, momentum.T, strict=True):
        size = np.linalg.norm(p)
        end = integrate(field, x[:, None], p[:, None] / size, larmor_radius * size, duration, step)
        ends.append(np.concatenate([end.position[:, 0], size * end.direction[:, 0]]))
    return np.array(ends).T


@functools.cache
def jacobian(duration=4.0, step=0.1, larmor_radius=1.0):
    found = jax.jit(lambda x, p: liouville.flow_jacobian(FIELD, x, p, larmor_radius, duration, step))(PLACE, MOMENTUM)
    return np.asarray(found)


def defect(duration, step, larmor_radius=1.0, sign=1.0):
    end = path_end(FIELD, PLACE, MOMENTUM, larmor_radius, duration, step)[:3]
    forms = (liouville.symplectic_form(FIELD, x, sign * larmor_radius) for x in (PLACE, end))
    return np.asarray(liouville.symplectic_defect(jacobian(duration, step, larmor_radius), *forms))


def test_the_jacobian_is_that_of_neighbouring_paths():
    for column in range(6):
        shift = 1e-5 * np.eye(6)[column][:, None]
        ends = [path_end(FIELD, PLACE + s * shift[:3], MOMENTUM + s * shift[3:], 1.0, 4.0, 0.1) for s in (1, -1)]
        np.testing.assert_allclose(jacobian()[:, :, column].T, (ends[0] - ends[1]) / 2e-5, atol=1e-6)


def test_the_jacobian_is_that_of_the_equations_of_motion():
    """dx/dt = p / |p|, dp/dt = p x B / (|p| r_L), integrated together with a neighbour by scipy: none of our pusher."""

    def slope(_, state):
        place, momentum = state[:3], state[3:]
        speed = momentum / np.linalg.norm(momentum)
        return np.concatenate([speed, np.cross(speed, np.asarray(field(place[:, None]))[:, 0])])

    def end(state):
        return scipy.integrate.solve_ivp(slope, (0, 4.0), state, rtol=1e-10, atol=1e-11).y[:, -1]

    field = jax.jit(lambda x: FIELD(x))
    start = np.concatenate([PLACE[:, 3], MOMENTUM[:, 3]])
    for column in (1, 5):
        shift = 1e-4 * np.eye(6)[column]
        expected = (end(start + shift) - end(start - shift)) / 2e-4
        assert np.max(np.abs(jacobian(4.0, 0.05)[3, :, column] - expected)) < 0.01 * np.max(np.abs(expected)) + 1e-3


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_phase_space_volume_is_conserved(step):
    """Whatever the step, though volumes in x and in p alone change by factors."""
    found = jacobian(4.0, step)
    np.testing.assert_allclose(liouville.volume_change(found), 1, atol=1e-12)
    of_places = np.abs(np.linalg.det(found[:, :3, :3]))
    assert np.max(np.abs(of_places - 1)) > 0.5
    # With the magnitude of the momentum lost on the way, a volume shrinks.
    lossy = np.diag([1.0, 1, 1, 0.5, 0.5, 0.5]) @ found
    np.testing.assert_allclose(liouville.volume_change(lossy), 1 / 8, rtol=1e-12)


@pytest.mark.parametrize("larmor_radius", [1.0, -1.0])
def test_the_symplectic_form_is_conserved_to_second_order_in_the_step(larmor_radius):
    coarse, fine = (defect(4.0, step, larmor_radius) for step in (0.1, 0.05))
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.25)
    assert np.all(fine < 4e-3)
    # With the opposite charge in the form, it is not: the sense of gyration is in it.
    assert np.all(defect(4.0, 0.05, larmor_radius, -1.0) > 0.01)


def test_the_form_is_that_of_canonical_momenta():
    """In the gauge A = B x r / 2 of a uniform field: dP_i and dx_i with P = p + q A, written out."""
    vector, radius = np.array([0.3, -0.7, 1.1]), -2.0
    found = np.asarray(liouville.symplectic_form(Uniform(jnp.asarray(vector)), np.zeros((3, 1)), radius))[0]
    gauge = np.array([[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]]) / 2 / radius
    change = np.block([[np.eye(3), np.zeros((3, 3))], [gauge, np.eye(3)]])
    canonical = np.block([[np.zeros((3, 3)), -np.eye(3)], [np.eye(3), np.zeros((3, 3))]])
    np.testing.assert_allclose(found, change.T @ canonical @ change, atol=1e-14)


def lopsided(place, direction):
    """A density with gradients and structure in direction; between 0.1 and 1.9."""
    k = jnp.array([0.9, -0.4, 0.5])
    return 1 + 0.5 * jnp.sin(k @ place) + 0.4 * (0.6 * direction[0] + 0.8 * direction[2]) * jnp.cos(0.5 * place[1])


def test_f_stays_the_same_along_a_path():
    """Followed forwards and traced back from there, a particle has the f it began with."""
    direction = MOMENTUM / np.linalg.norm(MOMENTUM, axis=0)
    end = integrate(FIELD, PLACE, direction, 1.0, 5.0, 0.1)
    now = liouville.density_now(lopsided, FIELD, end.position, -end.direction, 1.0, 5.0, 0.1)
    np.testing.assert_allclose(now, lopsided(PLACE, direction), rtol=1e-9)
    # The particle sent back, and not its antiparticle, comes from elsewhere.
    wrong = liouville.density_now(lopsided, FIELD, end.position, -end.direction, -1.0, 5.0, 0.1)
    assert np.max(np.abs(wrong - lopsided(PLACE, direction))) > 0.1


def compared(number, initial=lopsided, duration=4.0, radius=1.0, nside=1):
    return liouville.skies(jax.random.key(5), initial, FIELD, 1.0, duration, 0.2, radius, number, nside)


def test_the_sky_of_particles_is_the_one_traced_back():
    found = compared(120_000)
    assert found.arrived == pytest.approx(120_000 / 125, rel=0.15)
    # 12 pixels: chi2 above 33 happens once in a thousand.
    assert found.chi2 < 33
    assert found.backward.std() > 3 * np.median(found.backward_error)
    # Traced back as particles of the opposite charge they come from elsewhere.
    place, sky = liouville._ball(jax.random.key(6), 20_000, 1.0), isotropic_directions(jax.random.key(7), 20_000)
    value = np.asarray(liouville.density_now(lopsided, FIELD, place, sky, -1.0, 4.0, 0.2))
    pixel = healpy.vec2pix(1, *np.asarray(sky))
    wrong = np.bincount(pixel, value) / np.bincount(pixel)
    assert np.sum(((found.forward - wrong) / found.forward_error) ** 2) > 60


def test_an_even_isotropic_density_stays_even_and_isotropic():
    """No field makes an anisotropy out of none: backwards exactly, forwards within the errors."""
    found = compared(40_000, initial=lambda place, direction: jnp.ones(place.shape[1]))
    np.testing.assert_allclose(found.backward, 1, rtol=1e-12)
    assert np.sum(((found.forward - 1) / found.forward_error) ** 2) < 33


@pytest.mark.slow
def test_the_sky_of_many_particles_is_the_one_traced_back():
    found = compared(4_000_000, nside=2)
    # 48 pixels: chi2 above 84 happens once in a thousand.
    assert found.chi2 < 84
    assert np.median(found.forward_error / found.forward) < 0.06


def test_the_density_is_differentiable_along_short_paths():
    sky = jnp.asarray(MOMENTUM / np.linalg.norm(MOMENTUM, axis=0))
    place = jnp.asarray(PLACE)
    now = jax.jit(lambda r, x: liouville.density_now(lopsided, FIELD, x, sky, r, 2.0, 0.1).sum())
    check_grads(now, (1.3, place), 1, rtol=1e-4)


def test_derivatives_of_the_volume_are_those_of_differences():
    check_grads(jax.jit(liouville.volume_change), (jacobian()[0] + 0.1 * np.eye(6),), 1, rtol=1e-4)
    form = liouville.symplectic_form(FIELD, PLACE, 1.0)
    check_grads(lambda x, r: liouville.symplectic_form(FIELD, x, r), (jnp.asarray(PLACE), 1.5), 1, rtol=1e-4)
    check_grads(lambda j: liouville.symplectic_defect(j, form, form), (jnp.asarray(jacobian()),), 1, rtol=1e-4)


def test_long_paths_warn_of_chaos():
    def run():
        jax.block_until_ready(liouville.flow_jacobian(Uniform(jnp.ones(3)), PLACE, MOMENTUM, 1.0, 40.0, 1.0))
        jax.effects_barrier()

    with pytest.warns(ChaosWarning):
        run()


def test_input_that_has_no_phase_space_is_refused():
    with pytest.raises(InputError, match="momenta must not be zero"):
        liouville.flow_jacobian(FIELD, PLACE, 0 * MOMENTUM, 1.0, 4.0, 0.1)
    with pytest.raises(InputError, match="radius above zero, not -1"):
        compared(1000, radius=-1.0)
    with pytest.raises(InputError, match="of 1000 particles arrive, .* in one pixel: a share 0.008 does; take more"):
        compared(1000)
    with pytest.raises(InputError, match="directions must be unit vectors"):
        liouville.density_now(lopsided, FIELD, PLACE, 2 * MOMENTUM, 1.0, 4.0, 0.1)
