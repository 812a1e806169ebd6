"""Paths of particles against helices, rotations, finite differences and other integrators."""

import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation

from diffcr.directions import healpix_directions, isotropic_directions, surface_directions
from diffcr.errors import InputError
from diffcr.pusher import boris_step
from diffcr.spectrum import BendOver, PowerLaw
from diffcr.trajectory import (
    ChaosWarning,
    Means,
    Paths,
    backtrack_antiparticle,
    integrate,
)
from diffcr.trajectory_reference import integrate_adaptive
from diffcr.turbulence import Sum, Uniform, draw_ladder, draw_plane_waves

KEY = jax.random.key(1)
UP = Uniform([0.0, 0.0, 1.0])
ORIGIN = np.zeros((3, 1))
RADIUS = 0.1
METHODS = ("boris-tan", "boris", "rodrigues")


def turbulent(kind="ladder", spectrum=None, number=None):
    spectrum = spectrum or PowerLaw(slope=5 / 3, smallest=0.02, largest=4.0)
    draw = {"ladder": draw_ladder, "plane": draw_plane_waves}[kind]
    return Sum((UP, draw(KEY, spectrum, number or {"ladder": 12, "plane": 40}[kind])))


def helix(direction, radius, time):
    """Closed form of dn/dt = n x z / radius from the origin."""
    nx, ny, nz = np.asarray(direction)
    phase = time / radius
    n = np.stack([nx * np.cos(phase) + ny * np.sin(phase), ny * np.cos(phase) - nx * np.sin(phase), nz])
    x = np.stack(
        [
            radius * (nx * np.sin(phase) + ny * (1 - np.cos(phase))),
            radius * (ny * np.sin(phase) - nx * (1 - np.cos(phase))),
            nz * time,
        ]
    )
    return x, n


@pytest.mark.parametrize("radius", [RADIUS, -RADIUS])
@pytest.mark.parametrize(("method", "limit"), [("boris-tan", 3e-8), ("rodrigues", 1e-11)])
def test_a_uniform_field_gives_the_helix(radius, method, limit):
    """Phase and pitch angle at Omega T = 100; a positive charge goes from x towards -y about +z."""
    n0 = isotropic_directions(KEY, 20)
    end = integrate(UP, ORIGIN, n0, radius, 10.0, 0.01, method=method)
    x, n = helix(n0, radius, 10.0)

    np.testing.assert_allclose(end.direction, n, atol=limit)
    # The circle of the middle points is larger by 1 / cos of half the angle of a step.
    np.testing.assert_allclose(end.position, x, atol=2 * abs(radius) * (0.1 / 2) ** 2)
    np.testing.assert_allclose(end.direction[2], n0[2], atol=1e-13)
    np.testing.assert_allclose(end.position[2], 10 * n0[2], atol=1e-11)


def test_radius_and_phase_errors_are_those_known_of_the_pusher():
    """Boris turns by 2 arctan(theta / 2): it lags by theta^2 / 12 of the phase, 0.052 rad in ten gyrations at 0.1."""
    steps = 629
    x_axis = np.array([[1.0], [0], [0]])
    end = integrate(UP, ORIGIN, x_axis, 1.0, steps * 0.1, 0.1, method="boris", observe=Paths(1))
    phase = np.unwrap(np.arctan2(-end.observed[1][:, 1, 0], end.observed[1][:, 0, 0]))
    lag = (steps * 0.1 - phase[-1]) * 20 * np.pi / (steps * 0.1)

    np.testing.assert_allclose(lag, 20 * np.pi * (1 - 2 * np.arctan(0.05) / 0.1), rtol=1e-6)
    np.testing.assert_allclose(lag, 0.1**2 / 12 * 20 * np.pi, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_position_errors_fall_as_the_square_of_the_step(method):
    x_axis = np.array([[1.0], [0], [0]])
    errors = []
    for step in (0.01, 0.005):
        end = integrate(UP, ORIGIN, x_axis, RADIUS, 3.0, step, method=method)
        errors.append(np.linalg.norm(end.position - helix(x_axis, RADIUS, 3.0)[0]))

    assert 3.8 < errors[0] / errors[1] < 4.2


def test_one_step_rotates_left_handed_about_the_field_where_the_half_drift_ends():
    field = turbulent()
    x, n = jnp.array([[0.1], [0.2], [-0.3]]), isotropic_directions(KEY, 1)
    for radius in (0.3, -0.2):
        middle = x + 0.005 * n
        b = np.asarray(field(middle))[:, 0]
        rotation = Rotation.from_rotvec(-b * 0.01 / radius)
        _, exact = boris_step(field, x, n, radius, 0.01, "rodrigues")
        _, tan = boris_step(field, x, n, radius, 0.01)

        np.testing.assert_allclose(exact[:, 0], rotation.apply(np.array(n)[:, 0]), atol=1e-14)
        np.testing.assert_allclose(tan, exact, atol=1e-10)


@pytest.mark.parametrize("kind", ["ladder", "plane"])
def test_turbulent_paths_converge_at_second_order_to_an_adaptive_solver_and_to_scipy(kind):
    field, n0 = turbulent(kind), isotropic_directions(KEY, 3)
    x, n = integrate_adaptive(field, ORIGIN, n0, RADIUS, [0.3], tolerance=1e-10)

    def rate(_, state):
        b = np.asarray(field(jnp.asarray(state[:3])[:, None]))[:, 0]
        return np.concatenate([state[3:], np.cross(state[3:], b) / RADIUS])

    other = solve_ivp(rate, (0, 0.3), np.concatenate([np.zeros(3), n0[:, 0]]), rtol=1e-9, atol=1e-10).y[:, -1]
    np.testing.assert_allclose(np.concatenate([x[0, :, 0], n[0, :, 0]]), other, atol=3e-8)
    ends = [integrate(field, ORIGIN, n0, RADIUS, 0.3, step) for step in (0.002, 0.001)]
    errors = [float(jnp.linalg.norm(end.position - x[0])) for end in ends]
    assert errors[1] < 2e-5
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_directions_stay_unit_vectors_in_32_bits():
    end = integrate(turbulent(), jnp.zeros((3, 1)), isotropic_directions(KEY, 16, jnp.float32), 0.1, 20.0, 0.01)

    assert end.direction.dtype == jnp.float32
    assert np.max(np.abs(np.linalg.norm(np.asarray(end.direction, float), axis=0) - 1)) < 4e-7


def test_32_and_64_bits_agree_until_chaos_parts_them():
    field, n0 = turbulent(), isotropic_directions(KEY, 64, jnp.float32)
    double = integrate(field, ORIGIN, n0.astype(float), RADIUS, 0.25, 0.01)
    single = integrate(field, ORIGIN, n0, RADIUS, 0.25, 0.01)

    assert np.median(np.linalg.norm(single.position - double.position, axis=0)) < 1e-6


def test_the_antiparticle_retraces_the_path_and_the_particle_does_not():
    field = turbulent()
    n0, x0 = isotropic_directions(KEY, 30), jnp.asarray(np.random.default_rng(0).normal(size=(3, 30)))
    forward = integrate(field, x0, n0, RADIUS, 0.5, 0.005)
    back = backtrack_antiparticle(field, forward.position, -forward.direction, RADIUS, 0.5, 0.005)
    wrong = integrate(field, forward.position, -forward.direction, RADIUS, 0.5, 0.005)

    np.testing.assert_allclose(back.position, x0, atol=1e-10)
    np.testing.assert_allclose(back.direction, n0, atol=1e-9)
    assert np.median(np.linalg.norm(wrong.position - x0, axis=0)) > 0.05


def test_a_magnetic_bottle_turns_particles_where_the_pitch_angle_reaches_ninety_degrees():
    """B_z = 1 + z^2, and the radial field that div B = 0 asks for. The magnetic moment is kept where r_L is small:
    sin^2 = sin^2_0 B / B_0 reaches one at z = cot of the pitch angle at the middle."""

    def bottle(x):
        return jnp.stack([-x[0] * x[2], -x[1] * x[2], 1 + x[2] ** 2])

    pitch = np.radians([50.0, 60.0, 75.0])
    n0 = np.stack([np.sin(pitch), 0 * pitch, np.cos(pitch)])
    radius = 0.002
    # Guiding centres on the axis: a charge that moves along x about +z has its centre towards -y.
    x0 = np.stack([0 * pitch, radius * np.sin(pitch), 0 * pitch])
    path = integrate(bottle, x0, n0, radius, 8.0, 0.0004, observe=Paths(10)).observed[0]

    np.testing.assert_allclose(np.max(np.asarray(path)[:, 2], axis=0), 1 / np.tan(pitch), rtol=0.01)
    np.testing.assert_allclose(np.min(np.asarray(path)[:, 2], axis=0), -1 / np.tan(pitch), rtol=0.01)


# What is kept on the way --------------------------------------------------------------------------------


def _displacement(time, start, now):
    return {"square": (now[0] - start[0])[:, None] * (now[0] - start[0])[None], "pitch": now[1][2] * start[1][2] + time}


def test_means_are_those_of_the_paths_whatever_the_chunks():
    field, n0 = turbulent(), isotropic_directions(KEY, 37)
    paths = integrate(field, ORIGIN, n0, RADIUS, 0.2, 0.01, observe=Paths(5))
    x, n = (np.asarray(v) for v in paths.observed)

    assert x.shape == (5, 3, 37)
    np.testing.assert_allclose(paths.times, [0, 0.05, 0.1, 0.15, 0.2], atol=1e-15)
    np.testing.assert_array_equal(n[0], n0)
    np.testing.assert_array_equal(x[-1], paths.position)
    for chunk in (None, 8, 37):
        means = integrate(field, ORIGIN, n0, RADIUS, 0.2, 0.01, observe=Means(_displacement, 5), chunk=chunk)
        np.testing.assert_allclose(means.observed["square"], np.mean(x[1:, :, None] * x[1:, None], -1), atol=1e-15)
        pitch = np.mean(n[1:, 2] * n[0, 2], -1) + np.asarray(paths.times)[1:]
        np.testing.assert_allclose(means.observed["pitch"], pitch, atol=1e-14)
        np.testing.assert_allclose(means.times, paths.times[1:], atol=1e-15)
        np.testing.assert_allclose(means.position, paths.position, atol=1e-12)


def test_steps_are_shortened_to_whole_numbers():
    n0 = isotropic_directions(KEY, 2)
    end = integrate(UP, ORIGIN, n0, 1.0, 1.0, 0.3)
    kept = integrate(UP, ORIGIN, n0, 1.0, 1.0, 0.3, observe=Paths(3))

    assert (end.steps, end.step) == (4, 0.25)
    assert (kept.steps, kept.step) == (6, 1 / 6)
    np.testing.assert_allclose(end.times, [1.0])
    np.testing.assert_allclose(kept.times, [0, 0.5, 1.0])
    np.testing.assert_allclose(end.position[2], n0[2], atol=1e-14)


_DEVICES = """
import sys, jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from diffcr.spectrum import PowerLaw
from diffcr.trajectory import Means, integrate, isotropic_directions
from diffcr.turbulence import draw_ladder
field = draw_ladder(jax.random.key(0), PowerLaw(slope=5 / 3, smallest=0.1, largest=2.0), 6)
n = isotropic_directions(jax.random.key(1), 50)
mean = Means(lambda t, start, now: now[0], 4)
end = integrate(field, np.zeros((3, 1)), n, 0.1, 0.4, 0.02, observe=mean, chunk=4)
assert len(jax.devices()) == int(sys.argv[1])
print(np.asarray(end.position).tobytes().hex(), np.asarray(end.observed).tobytes().hex())
"""


def test_several_devices_give_the_same_numbers():
    runs = [
        subprocess.run([sys.executable, "-c", _DEVICES, n], capture_output=True, text=True, check=True).stdout
        for n in ("1", "2", "8")
    ]
    one, *others = [[np.frombuffer(bytes.fromhex(word)) for word in run.split()] for run in runs]
    for other in others:
        np.testing.assert_allclose(other[0], one[0], atol=1e-13)
        np.testing.assert_allclose(other[1], one[1], atol=1e-13)


# Derivatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ladder", "plane"])
@pytest.mark.parametrize(("turns", "limit"), [(1.0, 1e-7), (10.0, 3e-4)])
def test_derivatives_forward_and_back_are_those_of_finite_differences(kind, turns, limit):
    """By field strength, positions, directions, amplitudes, wavevectors and Larmor radius, to Omega T = 10."""
    field, n0 = turbulent(kind), isotropic_directions(KEY, 6)
    x0 = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)) * 0.1)

    def loss(field, x, n, radius):
        end = integrate(field, x, n, radius, turns * RADIUS, 0.005)
        return jnp.sum(jnp.sin(end.position)) + jnp.sum(end.direction[0])

    arrays, rest = eqx.partition(field, eqx.is_inexact_array)
    point = (arrays, x0, n0, jnp.asarray(RADIUS))
    of = lambda arrays, *others: loss(eqx.combine(arrays, rest), *others)
    rng = np.random.default_rng(5)
    change = jax.tree.map(lambda v: jnp.asarray(0.1 * rng.normal(size=v.shape)), point)
    # Along the sphere of directions, and no further than a few waves.
    change = (change[0], change[1], jnp.cross(n0, change[2], axis=0), 0.1 * change[3])
    forward = jax.jvp(of, point, change)[1]
    back = jax.grad(of, argnums=(0, 1, 2, 3))(*point)
    moved = lambda h: float(of(*jax.tree.map(lambda v, d: v + h * d, point, change)))
    difference = (8 * (moved(1e-6) - moved(-1e-6)) - moved(2e-6) + moved(-2e-6)) / 12e-6

    np.testing.assert_allclose(forward, difference, rtol=limit)
    along = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(change), strict=True))
    np.testing.assert_allclose(along, forward, rtol=1e-9)


def test_the_way_back_keeps_the_square_root_of_the_steps():
    """16 times the steps take at most about 4 times the memory of paths, and no memory of waves."""
    field, n0 = turbulent(), isotropic_directions(KEY, 256)

    def memory(steps):
        def loss(radius):
            return jnp.sum(integrate(field, ORIGIN, n0, radius, steps * 1e-4, 1e-4).position)

        return jax.jit(jax.grad(loss)).lower(jnp.asarray(1.0)).compile().memory_analysis().temp_size_in_bytes

    small, large = memory(100), memory(1600)
    state = 6 * 256 * 8
    assert large - small < 3 * (40 + 40 - 20) * state
    assert large < 1600 * state


def test_derivatives_along_chaotic_paths_warn_and_others_do_not():
    n0 = isotropic_directions(KEY, 2)
    length = lambda radius, turns: jnp.sum(integrate(UP, ORIGIN, n0, radius, turns * RADIUS, 0.01).position)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(length)(RADIUS, 10.0)
        length(RADIUS, 12.0)
    with pytest.warns(ChaosWarning, match="Omega T = 12"):
        jax.grad(length)(RADIUS, 12.0)
    compiled = jax.jit(jax.grad(lambda radius: length(radius, 12.0)))
    with pytest.warns(ChaosWarning, match="Omega T = 12"):
        _finish(compiled(RADIUS))


def _finish(value):
    value.block_until_ready()
    jax.effects_barrier()


def test_neighbours_part_by_a_factor_e_in_about_two_inverse_gyrofrequencies():
    """Why the warning stands at ten: the derivative by the Larmor radius has grown to some ten and more."""
    field = turbulent(spectrum=BendOver(), number=16)
    n0 = isotropic_directions(KEY, 100)
    sizes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChaosWarning)
        for turns in (5.0, 10.0, 20.0):
            path = lambda radius, turns=turns: integrate(field, ORIGIN, n0, radius, turns * RADIUS, 0.01).position
            change = jax.jvp(path, (jnp.asarray(RADIUS),), (jnp.asarray(RADIUS),))[1]
            sizes.append(np.sqrt(np.mean(np.sum(change**2, 0))))
    rate = np.log(sizes[2] / sizes[1]) / 10

    assert 0.5 < sizes[0] < 5
    assert 1 / 4 < rate < 1 / 1.3


# Directions ---------------------------------------------------------------------------------------------


def test_directions_at_a_point_are_isotropic_and_through_a_surface_weighted_by_the_cosine():
    n = np.asarray(isotropic_directions(KEY, 40_000))
    np.testing.assert_allclose(n.mean(1), 0, atol=4 / np.sqrt(3 * 40_000))
    np.testing.assert_allclose(n @ n.T / 40_000, np.eye(3) / 3, atol=0.008)
    normal = np.array([0.0, 0.6, 0.8])
    cosine = normal @ np.asarray(surface_directions(KEY, np.tile(normal[:, None], (1, 40_000))))
    assert cosine.min() >= 0
    np.testing.assert_allclose([cosine.mean(), np.mean(cosine**2)], [2 / 3, 1 / 2], atol=0.006)


def test_healpix_directions_are_pixel_centres_in_ring_order():
    import healpy

    np.testing.assert_array_equal(healpy.vec2pix(4, *healpix_directions(4)), np.arange(192))
    with pytest.raises(InputError, match="nside must be a power of two"):
        healpix_directions(12)


def test_a_uniform_density_stays_uniform_in_turbulence():
    """Liouville: particles that start isotropic at all places have no mean displacement along their last direction
    that an isotropic density would turn into a dipole; with directions weighted by a cosine they have one."""
    field = turbulent(number=8)
    n0 = isotropic_directions(KEY, 4000, jnp.float32)
    x0 = jnp.asarray(np.random.default_rng(0).uniform(-50, 50, size=(3, 4000)), jnp.float32)
    end = integrate(field, x0, n0, RADIUS, 1.0, 0.02)

    np.testing.assert_allclose(np.mean(np.asarray(end.direction), 1), 0, atol=4 / np.sqrt(3 * 4000))


# Wrong input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0.0}, r"duration T must be positive and finite, not 0\.0"),
        ({"duration": -1.0}, "duration T must be positive"),
        ({"duration": np.inf}, "duration T must be positive"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": np.nan}, "step must be positive"),
        (
            {"step": 0.03},
            r"step 0\.03 is longer than the smallest wave, lambda_min = 0\.02: use a step of at most 0\.02",
        ),
        ({"larmor_radius": 0.001, "step": 0.01}, r"turns a particle by 10 rad .* use a step of at most 0\.001"),
        ({"larmor_radius": 0.0}, "larmor_radius must be finite and not zero"),
        ({"direction": np.ones((3, 2))}, "directions must be unit vectors: one differs by 0.732"),
        ({"direction": np.full((3, 2), np.nan)}, "directions must be finite"),
        ({"position": np.full((3, 1), np.inf)}, "positions must be finite"),
        ({"position": np.zeros((3, 5))}, r"positions have the shape \(3, 2\)"),
        ({"chunk": 0}, "chunk must be a whole number"),
        ({"observe": Paths(0)}, "every must be a whole number of steps"),
        ({"method": "rk4"}, "method of rotation must be one of boris-tan, boris, rodrigues, not 'rk4'"),
        ({"devices": ()}, "devices must be a list of JAX devices"),
        ({"devices": 0}, "devices must be a list of JAX devices"),
        (
            {"field": lambda x: x[0]},
            r"the field gives \(7,\) for positions of the shape \(3, 7\): write it with jax.numpy",
        ),
        ({"field": lambda x: np.sin(np.asarray(x))}, "the field cannot be traced by JAX: write it with jax.numpy"),
    ],
)
def test_wrong_input_is_named(change, message):
    good = {
        "field": turbulent(),
        "position": ORIGIN,
        "direction": np.array([[0.0, 1], [0, 0], [1, 0]]),
        "larmor_radius": 0.1,
        "duration": 0.1,
        "step": 0.01,
    }
    with pytest.raises(InputError, match=message):
        integrate(**(good | change))


def test_the_reference_asks_for_times_that_increase_and_a_solver_that_exists():
    with pytest.raises(InputError, match="times of an adaptive path must increase from above 0"):
        integrate_adaptive(UP, ORIGIN, isotropic_directions(KEY, 1), 1.0, [1.0, 0.5])
