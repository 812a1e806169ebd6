"""diffcr.backtracking against the helix, sums over pairs of pixels, and diffusion by a Monte Carlo."""

import dataclasses

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr import backtracking
from diffcr.backtracking import Displacements, Setup, cost, displacements, draw, sky_map, sky_multipoles, spectra_of
from diffcr.errors import InputError
from diffcr.harmonics import evaluate_at, index, power_spectrum
from diffcr.spectrum import BendOver
from diffcr.trajectory import healpix_directions

NARROW = BendOver(smallest=0.5, largest=4.0)
HELIX = Setup(
    sigma2=0.0,
    larmor_radius=0.4,
    omega_t=7.0,
    omega_step=0.1,
    samples=3,
    nside=4,
    precision="float64",
)
TURBULENT = Setup(
    larmor_radius=0.4, spectrum=NARROW, size=6, omega_t=4.0, omega_step=0.2, samples=2, nside=2, precision="float32"
)


def helix(omega, time, n):
    """r(-T; n) of a particle that arrives from n with Omega along +z.

    dv/dt = Omega v x z turns v by -Omega t about z; r(-T) = -int_-T^0 v dt with v(0) = -n.
    """
    s, c = np.sin(omega * time) / omega, (1 - np.cos(omega * time)) / omega
    return np.stack([n[0] * s - n[1] * c, n[0] * c + n[1] * s, n[2] * time])


@pytest.fixture(scope="module")
def spiral():
    moved = displacements(HELIX, 0)
    return moved, spectra_of(moved, 4)


def test_a_uniform_field_alone_gives_the_helix_backwards(spiral):
    """The sense of gyration included: the particle itself, not its antiparticle, made this path."""
    n = healpix_directions(4)
    np.testing.assert_allclose(spiral[0].times, 0.4 * 7 * np.array([1, 2, 3]) / 3, rtol=1e-12)
    for time, found, direction in zip(spiral[0].times, spiral[0].position, spiral[0].direction, strict=True):
        np.testing.assert_allclose(found, helix(1 / 0.4, time, n), atol=2e-3)
        s, c = np.sin(time / 0.4), np.cos(time / 0.4)
        # Motion then: v(0) = -n, turned back by Omega T about z, from x towards y.
        before = -np.stack([n[0] * c - n[1] * s, n[0] * s + n[1] * c, n[2]])
        np.testing.assert_allclose(direction, before, atol=1e-9)


def test_a_uniform_field_makes_pure_dipoles_of_known_power(spiral):
    """C_1 = 4 pi |K d|^2 with K_zz = T / 3, K_xx = sin(Omega T) / 3 Omega, K_xy = (1 - cos(Omega T)) / 3 Omega."""
    time, omega = spiral[1].times, 1 / 0.4
    s, c = np.sin(omega * time) / omega / 3, (1 - np.cos(omega * time)) / omega / 3
    power = spiral[1].power
    np.testing.assert_allclose(power[:, 1, 2, 2], 4 * np.pi * time**2 / 9, rtol=2e-3)
    np.testing.assert_allclose(power[:, 1, 0, 0], 4 * np.pi * (s**2 + c**2), rtol=5e-3)
    np.testing.assert_allclose(power[:, 1, 1, 1], power[:, 1, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(power[:, 1, [0, 0, 1], [1, 2, 2]], 0, atol=1e-12)
    # A dipole leaks at most 1e-3 of its amplitude into other degrees on 192 pixels.
    np.testing.assert_allclose(np.delete(power, 1, axis=1), 0, atol=3e-5)


@pytest.mark.parametrize("charge", [1, -1])
def test_velocity_and_displacement_give_the_antisymmetric_part_its_sign(charge):
    """K_ij = -<v_i(0) r_j(-T)>, and K_xy > 0 for a positive charge and B along z."""
    setup = dataclasses.replace(HELIX, larmor_radius=0.4 * charge, omega_t=1.0, samples=1, omega_step=0.05)
    tensor = -spectra_of(displacements(setup, 0), 4).velocity_displacement[0]
    omega = charge / 0.4
    # 1/3, and what it is over 192 pixels.
    third = np.mean(healpix_directions(4) ** 2, axis=1)
    np.testing.assert_allclose(third, 1 / 3, rtol=7e-3)
    around = (1 - np.cos(1.0)) / omega
    np.testing.assert_allclose(tensor[[0, 1], [1, 0]], [third[0] * around, -third[1] * around], rtol=1e-3)
    np.testing.assert_allclose(np.diag(tensor), third * [np.sin(1.0) * 0.4, np.sin(1.0) * 0.4, 0.4], rtol=1e-3)


# Spectra ------------------------------------------------------------------------------------------------


def gaussian_maps(nside, l_max, samples, rng):
    """Three correlated maps without power above l_max, and the multipoles they were made of, (sample, 3, alm)."""
    degree, order = healpy.Alm.getlm(l_max)
    alm = rng.normal(size=(samples, 3, len(degree))) + 1j * np.where(
        order, rng.normal(size=(samples, 3, len(degree))), 0
    )
    alm[:, 1] += 0.7 * alm[:, 0]
    maps = [[healpy.alm2map(a, nside, lmax=l_max) for a in three] for three in alm]
    return np.array(maps), alm


def test_cross_spectra_are_those_the_maps_were_made_of(rng):
    maps, alm = gaussian_maps(8, 8, 2, rng)
    found = spectra_of(Displacements(np.array([1.0, 2.0]), maps), 8).power
    assert found.shape == (2, 24, 3, 3)
    for i, j in np.ndindex(3, 3):
        expected = [healpy.alm2cl(alm[s, i], alm[s, j]) for s in range(2)]
        np.testing.assert_allclose(found[:, :9, i, j], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[:, 9:], 0, atol=1e-4)


def test_power_is_the_sum_over_pairs_of_directions(rng):
    """C_l / 4 pi = sum over pairs P_l(n_1 . n_2) r_i(n_1) r_j(n_2) / N_pix^2, the double integral as it is written."""
    maps, _ = gaussian_maps(8, 6, 1, rng)
    n = healpix_directions(8)
    power = spectra_of(Displacements(np.ones(1), maps), 8).power[0]
    cosine = np.clip(n.T @ n, -1, 1)
    for l in (1, 2, 5):
        legendre = np.polynomial.legendre.Legendre.basis(l)(cosine)
        pairs = maps[0] @ legendre @ maps[0].T / n.shape[1] ** 2
        np.testing.assert_allclose(power[l], 4 * np.pi * pairs, rtol=2e-2, atol=2e-2)


def test_powers_add_up_to_the_mean_square(rng):
    """(1 / 4 pi) sum (2 l + 1) C_l^{ij} = <r_i r_j>, the monopole being <r_i><r_j>."""
    maps, _ = gaussian_maps(8, 8, 2, rng)
    found = spectra_of(Displacements(np.array([1.0, 2.0]), maps), 8)
    total = np.einsum("l,slij->sij", 2 * np.arange(24) + 1, found.power) / (4 * np.pi)
    np.testing.assert_allclose(total, found.second_moment, rtol=1e-2, atol=5e-3)
    np.testing.assert_allclose(found.power[:, 0], 4 * np.pi * found.mean[:, :, None] * found.mean[:, None], atol=1e-2)
    np.testing.assert_allclose(found.mean, maps.mean(axis=-1), atol=1e-14)


def test_independent_pixels_give_flat_noise(rng):
    """N = (4 pi / N_pix) <r^2> at every degree up to 3 nside - 1, over 80 x 3 skies."""
    maps = rng.normal(size=(80, 3, 192)) * 0.3
    power = spectra_of(Displacements(np.arange(80.0), maps), 4).power
    ratio = np.einsum("slii->l", power) / 240 / (4 * np.pi / 192 * 0.09)
    l = np.arange(1, 12)
    assert np.all(np.abs(ratio[1:] - 1) < 0.03 + 4 * np.sqrt(2 / (2 * l + 1) / 240))
    assert np.mean(ratio[1:]) == pytest.approx(1, abs=0.04)


def test_kept_multipoles_make_the_map_again(rng):
    maps, _ = gaussian_maps(8, 8, 1, rng)
    kept = spectra_of(Displacements(np.ones(1), maps), 8, 8).multipoles
    again = evaluate_at(kept[0, 1], jnp.asarray(healpix_directions(8).T))
    np.testing.assert_allclose(again, maps[0, 1], atol=2e-3)
    assert spectra_of(Displacements(np.ones(1), maps), 8).multipoles.shape == (1, 3, 17**2)


# Skies --------------------------------------------------------------------------------------------------


def test_a_sky_points_up_the_gradient_and_has_no_monopole():
    """In free flight r(-T; n) = n T: more particles come from where there are more."""
    n = healpix_directions(4)
    sky = sky_map(2.0 * n + np.array([[1.0], [2.0], [3.0]]), (0.0, 0.5, 0.0))
    np.testing.assert_allclose(sky, n[1], atol=1e-12)
    assert sky_map(np.zeros((2, 5, 3, 12)), (1.0, 0.0, 0.0)).shape == (2, 5, 12)


def test_multipoles_of_a_sky_are_those_of_its_map(rng):
    maps, _ = gaussian_maps(8, 6, 1, rng)
    gradient = np.array([0.3, -0.2, 0.5])
    kept = spectra_of(Displacements(np.ones(1), maps), 8).multipoles[0]
    sky = evaluate_at(sky_multipoles(kept, gradient, l_max=6, l_min=1), jnp.asarray(healpix_directions(8).T))
    np.testing.assert_allclose(sky, sky_map(maps[0], gradient), atol=5e-3)
    small = sky_multipoles(kept, gradient, l_max=6)
    assert np.all(small[:4] == 0)
    assert np.all(small[4:] == sky_multipoles(kept, gradient, l_max=6, l_min=0)[4:])


def test_turning_a_sky_carries_its_field_and_leaves_its_power(rng):
    """A quadrupole (n . z)^2 - 1/3 about B_0 becomes (n . b)^2 - 1/3."""
    kept = np.zeros((3, 16))
    kept[2, index(2, 0)] = 1.0
    frame = backtracking.field_frame([1.0, -2.0, 0.5], 0.7)
    turned = sky_multipoles(kept, (0.0, 0.0, 1.0), frame)
    n = rng.normal(size=(20, 3))
    n /= np.linalg.norm(n, axis=1)[:, None]
    mu = n @ np.array([1.0, -2.0, 0.5]) / np.sqrt(5.25)
    np.testing.assert_allclose(
        evaluate_at(turned, jnp.asarray(n)), np.sqrt(5 / (4 * np.pi)) * (3 * mu**2 - 1) / 2, atol=1e-12
    )
    whole = rng.normal(size=(3, 16))
    before, after = (sky_multipoles(whole, (1.0, 2.0, 3.0), f) for f in (None, frame))
    np.testing.assert_allclose(power_spectrum(before), power_spectrum(after), rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("field", [(0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (1.0, 0.2, 0.1)])
def test_the_frame_of_the_field_is_a_rotation_and_its_azimuth_turns_about_the_field(field):
    first, second = backtracking.field_frame(field), backtracking.field_frame(field, 0.3)
    for frame in (first, second):
        np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-14)
        assert np.linalg.det(frame) == pytest.approx(1)
        np.testing.assert_allclose(frame[:, 2], np.array(field) / np.linalg.norm(field), atol=1e-14)
    angle = np.arctan2(first[:, 1] @ second[:, 0], first[:, 0] @ second[:, 0])
    assert angle == pytest.approx(0.3)


def test_with_its_flux_a_steady_density_has_the_dipole_of_diffusion_at_any_time(rng):
    """Particles that forget their direction at the rate nu = 1: K = 1/3 and <r - 3 K p> = n at every T.

    Without the flux the dipole is (1 - e^-T) d.
    """
    number, n = 40_000, healpix_directions(1)
    way = np.repeat(n[:, :, None], number, axis=2)
    place, clock, end = np.zeros_like(way), np.zeros((12, number)), 1.2
    while np.any(clock < end):
        free = np.minimum(rng.exponential(size=clock.shape), end - clock)
        place, clock = place + way * free, clock + free
        new = rng.normal(size=way.shape)
        way = np.where(clock < end, new / np.linalg.norm(new, axis=0), way)
    # Backwards it went along `way`; its own motion is the opposite.
    moved = Displacements(np.ones(number), np.moveaxis(place, 2, 0), -np.moveaxis(way, 2, 0))
    plain = moved.position.mean(axis=0)
    steady = backtracking.with_flux(moved, np.eye(3) / 3).position.mean(axis=0)
    assert np.max(np.abs(plain - n * (1 - np.exp(-1.2)))) < 0.02
    assert np.max(np.abs(steady - n)) < 0.02


def test_the_flux_of_a_tensor_is_contracted_with_the_motion_first():
    """-3 p_i K_ij: with K_xy alone, motion along x makes a displacement along y."""
    tensor = np.zeros((3, 3))
    tensor[0, 1] = 0.5
    one = np.zeros((1, 3, 12))
    motion = one.copy()
    motion[0, 0] = 1.0
    moved = backtracking.with_flux(Displacements(np.ones(1), one, motion), tensor)
    np.testing.assert_allclose(moved.position[0], np.array([0.0, -1.5, 0.0])[:, None] * np.ones(12))


# Draws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", ["ladder", "plane", "grid"])
def test_each_representation_has_the_variance_asked_for_about_the_regular_field(representation, rng):
    setup = dataclasses.replace(TURBULENT, representation=representation, size=24, sigma2=0.5)
    fields = np.concatenate(
        [draw(setup, r)(jnp.asarray(rng.uniform(-40, 40, size=(3, 4000)), jnp.float32)) for r in range(2)], axis=1
    )
    turbulent = fields - np.array([[0.0], [0.0], [1.0]])
    assert np.mean(np.sum(turbulent**2, axis=0)) == pytest.approx(0.5, rel=0.06)
    assert np.max(np.abs(turbulent.mean(axis=1))) < 0.06


def test_realisations_differ_from_each_other_and_repeat_themselves():
    first, second, again = (displacements(TURBULENT, r).position for r in (0, 1, 0))
    assert np.array_equal(first, again)
    assert np.abs(first - second).max() > 0.1
    other = displacements(dataclasses.replace(TURBULENT, seed=1), 0).position
    assert np.abs(first - other).max() > 0.1
    assert first.dtype == np.float32


def test_precision_changes_paths_by_rounding_only():
    single = displacements(TURBULENT, 3).position
    double = displacements(dataclasses.replace(TURBULENT, precision="float64"), 3).position
    assert double.dtype == np.float64
    assert 0 < np.abs(single - double).max() < 1e-4


def test_no_particle_outruns_light_and_all_start_at_the_observer():
    moved = displacements(TURBULENT, 0)
    distance = np.linalg.norm(moved.position, axis=1)
    assert np.all(distance <= moved.times[:, None] * (1 + 1e-5))
    assert distance.max() > 0.5 * moved.times[-1]


def test_geometry_and_helicity_reach_the_draw():
    """Slab turbulence depends on z alone and has no field along it."""
    setup = dataclasses.replace(TURBULENT, geometry="slab", helicity=0.5)
    place = jnp.array([[0.0, 3.0], [0.0, -1.0], [0.3, 0.3]])
    field = np.asarray(draw(setup, 0)(place))
    np.testing.assert_allclose(field[:, 0], field[:, 1], atol=1e-6)
    np.testing.assert_allclose(field[2], 1, atol=1e-6)


# Set-up -------------------------------------------------------------------------------------------------


def test_cost_is_what_a_run_takes():
    setup = dataclasses.replace(TURBULENT, omega_t=4.1, samples=3)
    # 4.1 / 0.2 is 20.5 steps: 21, a whole number for each of three samples.
    assert setup.steps == 21
    found = cost(setup, 5, 4)
    assert found.steps == 5 * 48 * 21
    assert found.waves == 6 * 3
    moved = displacements(setup, 0)
    spectra = spectra_of(moved, 2, 4)
    assert found.kept == 5 * (sum(a.nbytes for a in jax.tree.leaves(spectra)) - spectra.times.nbytes)
    assert found.memory > sum(a.nbytes for a in jax.tree.leaves(moved))
    np.testing.assert_allclose(moved.times[-1], 4.1 * 0.4)


def test_a_grid_costs_its_table():
    setup = dataclasses.replace(TURBULENT, representation="grid", size=32)
    table = sum(leaf.nbytes for leaf in jax.tree.leaves(draw(setup, 0)))
    assert cost(setup, 1).memory > table
    assert cost(setup, 1).memory < 20 * table


WRONG = {
    "sigma2": (-1.0, "sigma2"),
    "larmor_radius": (0.0, "larmor_radius"),
    "representation": ("waves", "ladder, plane, grid"),
    "size": (0, "size"),
    "omega_t": (float("nan"), "omega_t"),
    "omega_step": (-0.1, "omega_step"),
    "samples": (0, "samples"),
    "nside": (12, "power of two"),
    "precision": ("float16", "float32, float64"),
    "seed": (-1, "seed"),
    "geometry": ("spherical", "isotropic, slab"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_set_up_that_cannot_be_is_refused(name):
    value, match = WRONG[name]
    with pytest.raises(InputError, match=match):
        dataclasses.replace(TURBULENT, **{name: value})


def test_a_step_too_long_for_waves_or_gyration_is_refused():
    with pytest.raises(InputError, match="smallest wave"):
        dataclasses.replace(TURBULENT, spectrum=BendOver(smallest=0.01, largest=4.0))
    with pytest.raises(InputError, match="rad"):
        Setup(omega_step=1.5, larmor_radius=0.1, spectrum=NARROW)
    with pytest.raises(InputError, match="sigma2 = 99"):
        dataclasses.replace(TURBULENT, sigma2=99.0)
    with pytest.raises(InputError, match="grid"):
        dataclasses.replace(TURBULENT, representation="grid", size=32, geometry="slab")


def test_what_cannot_be_analysed_is_refused():
    moved = Displacements(np.ones(1), np.zeros((1, 3, 48)))
    with pytest.raises(InputError, match="pixels"):
        spectra_of(moved, 4)
    with pytest.raises(InputError, match="3 nside - 1"):
        spectra_of(moved, 2, 6)
    with pytest.raises(InputError, match="finite"):
        spectra_of(Displacements(np.ones(1), np.full((1, 3, 48), np.nan)), 2)
    with pytest.raises(InputError, match="gradient"):
        sky_map(np.zeros((3, 48)), (0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="reach"):
        sky_multipoles(np.zeros((3, 9)), (0.0, 0.0, 1.0), l_max=3)
    with pytest.raises(InputError, match="realisations"):
        draw(TURBULENT, -1)
    with pytest.raises(InputError, match="realisations"):
        cost(TURBULENT, 0)
    with pytest.raises(InputError, match="directions"):
        backtracking.with_flux(moved, np.eye(3))


@pytest.fixture
def rng():
    return np.random.default_rng(20)
