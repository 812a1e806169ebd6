"""Liouville mapping and lenses: helices in closed form, another integrator, a Monte Carlo, conservation laws."""

import equinox as eqx
import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from diffcr.boundary import (
    Exits,
    Sphere,
    deflection_lens,
    find_exits,
    map_boundary,
    multipole_mapping,
    power_transfer,
)
from diffcr.errors import InputError
from diffcr.galactic_field import GalacticField
from diffcr.harmonics import dipole_to_coefficients, from_healpy, rotate
from diffcr.heliosphere import heliosphere
from diffcr.observer import compton_getting_factor
from diffcr.trajectory import healpix_directions, integrate
from diffcr.turbulence import Uniform
from diffcr.units import AU, EV, KPC, LARMOR_RADIUS

NORTH = Uniform([0.0, 0.0, 1.0])
SKY = healpix_directions(4)


def bent(position):
    """A field that varies everywhere."""
    x, y, z = position
    return jnp.stack([jnp.sin(2 * y), jnp.cos(x + 1.5 * z), 0.5 + x * y])


def not_a_field(position):
    """Even where div B is not zero, the magnetic force keeps phase-space volumes."""
    return position**2 + 1


def helix(larmor_radius, sky=SKY, radius=1.0):
    """Path length to a sphere, and the direction there, from its centre in a unit field along z."""
    level = np.hypot(sky[0], sky[1])
    length = np.empty(sky.shape[1])
    for i in range(sky.shape[1]):

        def away(s, i=i):
            return (
                (2 * larmor_radius * level[i] * np.sin(s / 2 / larmor_radius)) ** 2 + (s * sky[2, i]) ** 2 - radius**2
            )

        s = np.linspace(1e-9, 50, 20001)
        first = np.argmax(away(s) >= 0)
        length[i] = brentq(away, s[first - 1], s[first], xtol=1e-13) if away(s)[first] >= 0 else np.nan
    angle = length / larmor_radius
    turned = [np.cos(angle) * sky[0] - np.sin(angle) * sky[1], np.sin(angle) * sky[0] + np.cos(angle) * sky[1], sky[2]]
    return length, np.stack(turned)


# Paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("larmor_radius", [0.8, -0.8, 5.0])
def test_exits_from_a_uniform_field_are_on_the_helix(larmor_radius):
    """Traced back, a positive charge turns anticlockwise about the field: forwards clockwise."""
    length, direction = helix(larmor_radius)
    errors = []
    for step in (0.1, 0.05):
        exits = find_exits(NORTH, larmor_radius, SKY, region=1.0, step=step)
        np.testing.assert_allclose(np.linalg.norm(exits.position, axis=0), 1, rtol=1e-12)
        errors.append(np.max(np.abs(exits.direction - direction)))
        np.testing.assert_allclose(exits.path, length, atol=3 * step**2)
    # Of second order, also through the last step.
    assert errors[0] < 3e-3
    assert errors[1] < errors[0] / 3


def test_deflection_falls_as_the_size_over_the_larmor_radius():
    """By (R / r_L) B x n to first order: from the centre every path has the length R."""
    for larmor_radius, close in ((1e2, 1e-4), (1e4, 1e-8)):
        exits = find_exits(NORTH, larmor_radius, SKY, region=1.0, step=0.05)
        first = np.stack([-SKY[1], SKY[0], 0 * SKY[2]]) / larmor_radius
        np.testing.assert_allclose(exits.direction - SKY, first, atol=close)
        np.testing.assert_allclose(exits.deflection * larmor_radius, np.hypot(SKY[0], SKY[1]), rtol=1e-4)


def test_a_positive_particle_sent_in_at_its_exit_arrives_at_earth():
    """The particle itself, moving along -direction with its own charge, comes back to where it is seen."""
    earth = np.array([0.2, -0.1, 0.3])
    exits = find_exits(bent, 0.7, SKY[:, :12], region=Sphere(1.0), step=0.005, position=earth)
    for i in range(0, 12, 4):
        one = slice(i, i + 1)
        start = exits.position[:, one], -exits.direction[:, one]
        arrived = integrate(bent, *start, 0.7, float(exits.path[i]), 0.005)
        np.testing.assert_allclose(arrived.position[:, 0], earth, atol=2e-5)
        np.testing.assert_allclose(arrived.direction[:, 0], -SKY[:, i], atol=1e-4)


def test_exits_from_a_varying_field_are_those_of_another_integrator():
    earth, larmor_radius, centre = np.array([0.3, 0.2, -0.1]), 0.6, np.array([0.2, 0.0, 0.0])
    sky = SKY[:, ::24]
    exits = find_exits(bent, larmor_radius, sky, region=Sphere(1.0, centre), step=0.004, position=earth)

    def force(_, state):
        x, n = state[:3], state[3:]
        field = np.array([np.sin(2 * x[1]), np.cos(x[0] + 1.5 * x[2]), 0.5 + x[0] * x[1]])
        return np.concatenate([n, -np.cross(n, field) / larmor_radius])

    edge = lambda _, state: np.linalg.norm(state[:3] - centre) - 1
    edge.terminal = True
    for i in range(sky.shape[1]):
        path = solve_ivp(force, (0, 50), np.concatenate([earth, sky[:, i]]), events=edge, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(exits.path[i], path.t[-1], atol=2e-4)
        np.testing.assert_allclose(exits.position[:, i], path.y[:3, -1], atol=2e-4)
        np.testing.assert_allclose(exits.direction[:, i], path.y[3:, -1], atol=3e-4)


def test_steps_may_depend_on_the_place_and_chunks_change_nothing():
    options = {"region": 1.0, "step": lambda x: 0.01 + 0.02 * jnp.sum(x * x, axis=0)}
    one = find_exits(bent, 0.6, SKY, **options)
    other = find_exits(bent, 0.6, SKY, chunk=50, **options)
    fixed = find_exits(bent, 0.6, SKY, region=1.0, step=0.005)
    assert eqx.tree_equal(one, other)
    np.testing.assert_allclose(one.direction, fixed.direction, atol=5e-3)


def test_paths_that_do_not_leave_are_counted():
    """Across the field within 2 r_L < R: these gyrate for ever, and a few along it leave."""
    length, direction = helix(0.3)
    stays = np.isnan(length)
    with pytest.raises(InputError, match=f"{stays.sum()} of 192 particles did not leave"):
        find_exits(NORTH, 0.3, SKY, region=1.0, step=0.02, max_duration=40.0)
    found = map_boundary(
        lambda x, n: 1 + n[0], NORTH, 0.3, directions=SKY, region=1.0, step=0.02, max_duration=40.0, keep_trapped=True
    )
    assert found.exits.num_trapped == stays.sum() > 0
    np.testing.assert_array_equal(np.isnan(found.intensity), stays)
    np.testing.assert_allclose(found.intensity[~stays], 1 + direction[0][~stays], atol=2e-3)
    np.testing.assert_allclose(found.exits.path[stays], 40, atol=0.02)


def test_forward_derivatives_follow_the_helix():
    def direction(larmor_radius):
        return find_exits(NORTH, larmor_radius, SKY, region=1.0, step=0.01).direction

    _, slope = jax.jvp(direction, (0.9,), (1.0,))
    difference = (helix(0.9 + 1e-5)[1] - helix(0.9 - 1e-5)[1]) / 2e-5
    np.testing.assert_allclose(slope, difference, atol=5e-3)


def test_paths_in_32_bits_are_close_to_those_in_64():
    sky = jnp.asarray(SKY, jnp.float32)
    single = find_exits(bent, 0.6, sky, region=1.0, step=0.02)
    assert single.direction.dtype == single.path.dtype == jnp.float32
    np.testing.assert_allclose(single.direction, find_exits(bent, 0.6, SKY, region=1.0, step=0.02).direction, atol=1e-4)


# Liouville -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "radius", "larmor_radius"),
    [
        (bent, 1.0, 0.5),
        (not_a_field, 1.0, 0.5),
        (heliosphere(wind="parker"), 600 * AU, LARMOR_RADIUS * 1.0),
        (GalacticField(), 20 * KPC, LARMOR_RADIUS * 5 * EV),
    ],
    ids=["bent", "not-a-field", "heliosphere", "galaxy"],
)
def test_uniform_outside_is_uniform_at_earth(field, radius, larmor_radius):
    found = map_boundary(
        lambda x, n: jnp.ones(x.shape[1]), field, larmor_radius, nside=4, region=radius, step=radius / 150
    )
    np.testing.assert_array_equal(found.intensity, 1)
    assert np.max(found.exits.deflection) > 0.2


def test_map_is_the_one_that_particles_sent_in_from_outside_make():
    """Forward Monte Carlo on exact helices: particles cross the sphere inwards in proportion to the cosine, weighted by
    the distribution outside; where they pass near the Earth, the time they spend there is the intensity at Earth."""
    rng, number, larmor_radius, dipole = np.random.default_rng(1), 300_000, 1.5, np.array([0.6, 0.3, 0.5])
    unit = lambda v: v / np.linalg.norm(v, axis=0)
    start = unit(rng.normal(size=(3, number)))
    motion = unit(unit(rng.normal(size=(3, number))) - start)
    weight = 1 - dipole @ motion
    seen, total = np.zeros(3), 0.0
    for s in np.arange(0.6, 2.0, 0.05):
        c, w = np.cos(s / larmor_radius), np.sin(s / larmor_radius)
        # n = (cos, -sin) of a positive charge, x its integral.
        n = np.stack([c * motion[0] + w * motion[1], c * motion[1] - w * motion[0], motion[2]])
        across = larmor_radius * np.stack([w * motion[0] + (1 - c) * motion[1], w * motion[1] - (1 - c) * motion[0]])
        x = start + np.concatenate([across, s * motion[2:]])
        near = np.sum(x * x, axis=0) < 0.2**2
        seen, total = seen - n[:, near] @ weight[near], total + weight[near].sum()
    found = map_boundary(lambda x, n: 1 + jnp.asarray(dipole) @ n, NORTH, larmor_radius, nside=8, region=1.0, step=0.05)
    mean = np.mean(found.intensity)
    sky = healpix_directions(8)
    # A mean direction is a third of the dipole; the statistical error is 0.006 and the ball's size adds as much.
    np.testing.assert_allclose(seen / total, sky @ np.asarray(found.intensity) / sky.shape[1] / mean, atol=0.02)
    # The field turned the dipole by 38 degrees, towards -y or +y: the test knows which.
    turned = np.degrees(np.arctan2(seen[1], seen[0])) - np.degrees(np.arctan2(dipole[1], dipole[0]))
    assert turned < -25


def test_gradient_with_respect_to_the_distribution_is_the_direction_outside():
    exits = find_exits(bent, 0.6, SKY, region=1.0, step=0.05)

    @jax.jit
    def intensity(dipole):
        found = map_boundary(lambda x, n: 1 + dipole @ n, bent, 0.6, directions=SKY, region=1.0, step=0.05)
        return jnp.sum(found.intensity * jnp.arange(SKY.shape[1]))

    got = jax.grad(intensity)(jnp.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(got, exits.direction @ np.arange(SKY.shape[1]), rtol=1e-10)


# The electric field --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [1e-3, 0.05])
def test_isotropy_in_the_moving_plasma_is_seen_as_the_compton_getting_effect(speed):
    """Uniform V, B and E = -V x B: isotropic in the plasma's frame, the sky at rest is the same everywhere. Neither
    the kick alone nor the change of direction alone keeps it so."""
    velocity, index = speed * np.array([0.6, 0.0, 0.8]), 2.7
    magnetic = np.array([0.3, 1.0, -0.2])
    electric = Uniform(-np.cross(velocity, magnetic))
    # The observer moves at -V through the plasma.
    seen = lambda n: compton_getting_factor(n.T, -velocity, index)
    options = {"region": 1.0, "directions": SKY, "electric": electric, "spectral_index": index}
    found = map_boundary(
        lambda x, n: seen(n), Uniform(magnetic), 0.3, step=0.01, max_duration=30.0, keep_trapped=True, **options
    )
    left = np.asarray(found.exits.escaped)
    assert left.mean() > 0.9
    np.testing.assert_allclose(found.intensity[left], seen(SKY)[left], atol=2e-4 * speed / 1e-3 * 0.1)
    assert np.max(np.abs(found.exits.momentum - 1)[left]) > 0.5 * speed
    # Without E it is not.
    options["electric"] = None
    without = map_boundary(
        lambda x, n: seen(n), Uniform(magnetic), 0.3, step=0.01, max_duration=30.0, keep_trapped=True, **options
    )
    assert np.nanmax(np.abs(without.intensity - seen(SKY))) > 3 * speed


def test_particles_drift_with_the_plasma():
    """E x B / B^2 = V, whatever the charge: followed back they come from upstream, a path of 1 / V."""
    drift = 0.1
    electric = Uniform([0.0, drift, 0.0])  # -V x B with V along x, B along z.
    around = np.stack([np.cos(np.arange(8.0)), np.sin(np.arange(8.0)), np.zeros(8)])
    for charge in (1, -1):
        exits = find_exits(
            NORTH,
            charge * 0.02,
            around,
            region=lambda x: jnp.abs(x[0]) - 1,
            step=0.002,
            electric=electric,
            max_duration=20.0,
        )
        np.testing.assert_allclose(exits.position[0], -1, atol=1e-9)
        np.testing.assert_allclose(exits.path, 1 / drift, atol=2 * 0.02 / drift + 0.1)


def test_energy_changes_by_the_potential():
    """p + q Phi is constant (v = c): p_out / p = 1 - (Phi_out - Phi_Earth) / r_L of the particle."""
    slow = heliosphere()
    fast = eqx.tree_at(lambda field: field.velocity, slow, 1000 * slow.velocity)
    for sign in (1, -1):
        radius = sign * LARMOR_RADIUS * 2.0
        exits = find_exits(fast, radius, SKY, region=600 * AU, step=4 * AU, electric=fast.electric, keep_trapped=True)
        left = np.asarray(exits.escaped)
        expected = 1 - fast.potential(exits.position) / radius
        np.testing.assert_allclose(exits.momentum[left], expected[left], atol=0.01)
        assert np.max(np.abs(expected - 1)) > 0.08


# Lenses ----------------------------------------------------------------------------------------------------------


def test_lens_without_a_field_is_the_identity():
    lens = deflection_lens(Uniform([0.0, 0.0, 0.0]), 1.0, 4, region=1.0, step=0.5, oversample=2)
    np.testing.assert_allclose(lens.matrix.toarray(), np.eye(192), atol=1e-12)
    np.testing.assert_allclose(lens.magnification, 1)
    assert np.max(lens.exits.deflection) < 1e-7


def test_lens_keeps_uniform_skies_and_conserves_the_flux():
    lens = deflection_lens(bent, 0.4, 4, nside_outside=2, region=1.0, step=0.02, oversample=2)
    assert lens.matrix.shape == (192, 48)
    np.testing.assert_allclose(lens(np.full(48, 3.0)), 3, rtol=1e-12)
    np.testing.assert_allclose(np.mean(lens.magnification), 1, rtol=1e-12)
    # What each pixel at Earth sees is the mean over its own paths, in the order of the sky.
    sky = np.random.default_rng(0).uniform(size=48)
    values = sky[healpy.vec2pix(2, *np.asarray(lens.exits.direction))]
    np.testing.assert_allclose(lens(sky), healpy.ud_grade(values, 4), rtol=1e-12)


def test_magnification_is_the_ratio_of_solid_angles():
    """Off the centre of a weak uniform field, longitudes turn by (B / r_L) s, s the chord to the sphere: to first order
    a pixel outside is seen magnified by 1 - d(s / r_L) / d(longitude), averaged over it."""
    larmor_radius, earth = 3.0, np.array([0.7, 0.0, 0.0])
    lens = deflection_lens(
        NORTH, larmor_radius, 16, nside_outside=1, region=1.0, step=0.1, oversample=8, position=earth
    )
    fine = healpix_directions(64)
    longitude, level = np.arctan2(fine[1], fine[0]), np.hypot(fine[0], fine[1])
    p = earth[0] * level * np.cos(longitude)
    slope = earth[0] * level * np.sin(longitude) * (1 - p / np.sqrt(1 - earth[0] ** 2 + p * p))
    expected = np.bincount(healpy.vec2pix(1, *fine), 1 - slope / larmor_radius) / (fine.shape[1] / 12)
    assert np.ptp(expected) > 0.2
    # The effect turns its sign with the charge, and what is of second order does not.
    other = deflection_lens(
        NORTH, -larmor_radius, 16, nside_outside=1, region=1.0, step=0.1, oversample=8, position=earth
    )
    np.testing.assert_allclose((lens.magnification - other.magnification) / 2, expected - 1, atol=0.02)


def test_lens_leaves_trapped_directions_without_a_value():
    options = {"region": 1.0, "step": 0.02, "oversample": 2, "max_duration": 40.0}
    with pytest.raises(InputError, match="did not leave"):
        deflection_lens(NORTH, 0.3, 2, **options)
    lens = deflection_lens(NORTH, 0.3, 2, keep_trapped=True, **options)
    rows = np.asarray(lens.matrix.sum(axis=1)).ravel()
    np.testing.assert_allclose(rows, np.where(lens.escaped > 0, 1, 0), rtol=1e-12)
    assert 0 < np.mean(lens.escaped) < 1
    np.testing.assert_array_equal(np.isnan(lens(np.ones(48))), lens.escaped == 0)


# Multipoles ------------------------------------------------------------------------------------------------------


def straight(direction, sky):
    number = sky.shape[1]
    ones = jnp.ones(number)
    return Exits(jnp.asarray(sky), jnp.asarray(direction), jnp.asarray(direction), ones, ones, ones > 0)


def test_multipoles_of_a_turned_sky_are_the_turned_multipoles():
    sky = healpix_directions(8)
    np.testing.assert_allclose(multipole_mapping(straight(sky, sky), 4), np.eye(25), atol=1e-12)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    mapping = multipole_mapping(straight(turn @ sky, sky), 3)
    outside = np.random.default_rng(4).normal(size=16)
    # f at Earth is f outside at turn @ n: what stood at turn @ n stands at n.
    np.testing.assert_allclose(mapping @ outside, rotate(outside, turn.T), atol=1e-10)
    np.testing.assert_allclose(power_transfer(mapping), np.eye(4), atol=1e-10)


def test_multipoles_at_earth_are_those_of_the_mapped_sky():
    sky, dipole = healpix_directions(16), np.array([0.3, -0.5, 0.2])
    exits = find_exits(bent, 0.8, sky, region=1.0, step=0.05)
    mapping = multipole_mapping(exits, 4, 1)
    assert mapping.shape == (25, 4)
    alm = healpy.map2alm(dipole @ np.asarray(exits.direction), lmax=4, iter=10)
    got = mapping @ np.asarray(dipole_to_coefficients(dipole))
    np.testing.assert_allclose(got, from_healpy(alm, 4), atol=3e-3)
    # The monopole stays the monopole; a dipole outside becomes part of it.
    np.testing.assert_allclose(mapping[:, 0], np.eye(25)[0], atol=1e-12)
    assert np.max(np.abs(mapping[4:, 1:])) > 0.1


def test_power_is_that_of_the_mean_over_orientations():
    mapping = np.random.default_rng(5).normal(size=(9, 4))
    transfer = power_transfer(mapping)
    np.testing.assert_allclose(transfer[2, 1], np.sum(mapping[4:9, 1:4] ** 2) / 5, rtol=1e-12)
    np.testing.assert_allclose(transfer[0, 1], np.sum(mapping[0, 1:4] ** 2), rtol=1e-12)
    assert transfer.shape == (3, 2)


@pytest.mark.parametrize(
    ("field", "radius", "low", "high"),
    [
        (heliosphere(), 600 * AU, LARMOR_RADIUS * 30, LARMOR_RADIUS * 300),
        (GalacticField(), 20 * KPC, LARMOR_RADIUS * 400 * EV, LARMOR_RADIUS * 4000 * EV),
    ],
    ids=["heliosphere", "galaxy"],
)
def test_distortion_vanishes_with_the_size_over_the_larmor_radius(field, radius, low, high):
    """Ten times the rigidity: a tenth of the deflection, a hundredth of the power moved from the dipole to l = 2."""
    rms, moved = [], []
    for larmor_radius in (low, high):
        exits = find_exits(field, larmor_radius, SKY, region=radius, step=radius / 100)
        rms.append(np.sqrt(np.mean(exits.deflection**2)))
        moved.append(power_transfer(multipole_mapping(exits, 2, 1))[2, 1])
    np.testing.assert_allclose(rms[0] / rms[1], 10, rtol=0.05)
    np.testing.assert_allclose(moved[0] / moved[1], 100, rtol=0.15)
    assert moved[1] < 1e-4


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"region": 0.0}, "radius of a region must be finite and above 0"),
        ({"region": lambda x: jnp.abs(x[0]) - 1}, "give max_duration"),
        ({"position": (2.0, 0.0, 0.0)}, "the Earth is 1 outside the region"),
        ({"position": (0.0, 0.0)}, r"position of the Earth has the shape \(3,\)"),
        ({"step": -0.1}, "step must be positive"),
        ({"step": 2.0}, "turns a particle by"),
        ({"step": lambda x: 0 * x[0]}, "step must be positive"),
        ({"max_duration": 0.0}, "duration T must be positive"),
        ({"chunk": 0}, "chunk must be a whole number"),
    ],
)
def test_paths_that_cannot_be_followed_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        find_exits(NORTH, 1.0, SKY, **{"region": 1.0, "step": 0.1} | options)


def test_maps_that_cannot_be_made_are_refused():
    flat = lambda x, n: jnp.ones(x.shape[1])
    options = {"region": 1.0, "step": 0.1}
    with pytest.raises(InputError, match="give nside for a HEALPix map or directions"):
        map_boundary(flat, NORTH, 1.0, **options)
    with pytest.raises(InputError, match="give nside for a HEALPix map or directions"):
        map_boundary(flat, NORTH, 1.0, nside=2, directions=SKY, **options)
    with pytest.raises(InputError, match="give the spectral_index"):
        map_boundary(flat, NORTH, 1.0, nside=2, electric=NORTH, **options)
    with pytest.raises(InputError, match=r"distribution gives an array of shape \(\)"):
        map_boundary(lambda x, n: jnp.asarray(1.0), NORTH, 1.0, nside=2, **options)
    with pytest.raises(InputError, match="a lens maps directions at equal rigidity"):
        deflection_lens(NORTH, 1.0, 2, electric=NORTH, **options)
    with pytest.raises(InputError, match="powers of two from 1 on, not 3"):
        deflection_lens(NORTH, 1.0, 2, oversample=3, **options)
    with pytest.raises(InputError, match="48 directions are too few"):
        multipole_mapping(straight(healpix_directions(2), healpix_directions(2)), 4)
