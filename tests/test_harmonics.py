"""Real spherical harmonics against healpy, scipy, closed forms and numerical integrals."""

from functools import partial

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import eval_legendre, sph_harm_y

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import (
    analysis,
    coefficients_to_dipole,
    degrees_and_orders,
    dipole_to_coefficients,
    evaluate,
    from_healpy,
    index,
    power_from_two_point,
    power_spectrum,
    ring_basis,
    rotate,
    synthesis,
    to_healpy,
    two_point,
)

DIPOLE = np.array([0.8e-3, -0.5e-3, 0.3e-3])


def draw(l_max, seed=0, batch=()):
    return np.random.default_rng(seed).normal(size=(*batch, (l_max + 1) ** 2))


def real_basis(l, m, ra, dec):
    """R_lm from scipy's complex Y_lm, as the definition has it."""
    y = sph_harm_y(l, abs(m), np.pi / 2 - dec, ra)
    if m == 0:
        return y.real
    return (-1.0) ** m * np.sqrt(2) * (y.real if m > 0 else y.imag)


def directions(count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 2 * np.pi, count), np.arcsin(rng.uniform(-1, 1, count))


def unit_vector(ra, dec):
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def rotation(axis, angle):
    """Rodrigues' formula: right-handed about the axis."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_order_of_the_coefficients():
    degree, order = degrees_and_orders(2)
    assert degree.tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert order.tolist() == [0, -1, 0, 1, -2, -1, 0, 1, 2]
    assert [index(l, m) for l, m in zip(degree.tolist(), order.tolist(), strict=True)] == list(range(9))


@pytest.mark.parametrize("l_max", [0, 1, 5])
def test_every_basis_function_is_scipys(l_max):
    """One coefficient at a time, so that a wrong sign of a sine term, or l and m exchanged, shows."""
    ra, dec = directions(40)
    values = evaluate(np.eye((l_max + 1) ** 2), ra, dec)
    degree, order = degrees_and_orders(l_max)
    expected = [real_basis(l, m, ra, dec) for l, m in zip(degree, order, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-14)


@pytest.mark.parametrize(("l", "m"), [(64, 64), (64, -63), (128, 5), (300, -110), (300, 0), (300, 299)])
def test_high_degrees_are_scipys(l, m):
    ra, dec = directions(60)
    dec[:4] = np.radians([89.99, -89.99, 89.0, -70.0])
    unit = np.zeros((l + 1) ** 2)
    unit[index(l, m)] = 1
    np.testing.assert_allclose(evaluate(unit, ra, dec), real_basis(l, m, ra, dec), atol=1e-11)


@pytest.mark.parametrize("n_ring", [18, 31])
def test_ring_basis_at_the_centres_is_scipys(n_ring):
    grid = RingGrid(n_ring, 40)
    basis = ring_basis(grid, 12, cell_average=False)
    assert basis.shape == (13, 13, n_ring)
    for l, m in [(0, 0), (1, 1), (7, 3), (12, 12), (12, 0)]:
        for sign, wave in ((1, np.cos), (-1, np.sin)):
            if m == 0 and sign < 0:
                continue
            expected = real_basis(l, sign * m, grid.right_ascension, grid.declination[:, None])
            ours = basis[l, m][:, None] * wave(m * grid.right_ascension)
            np.testing.assert_allclose(ours, expected, atol=1e-14)
    assert np.all(basis[np.triu_indices(13, 1)] == 0)


@pytest.mark.parametrize(("l", "m"), [(0, 0), (1, 1), (2, -1), (5, 4), (9, 0), (16, -16)])
def test_cell_average_is_the_integral_over_the_cell(l, m):
    """Midpoint sums over 60 x 60 pieces of each cell, on a coarse grid where the average matters."""
    grid = RingGrid(18, 36)
    pieces = 60
    fine = RingGrid(18 * pieces, 36 * pieces)
    ring = fine.declination.reshape(18, pieces)[[0, 3, 9, 17]].reshape(-1)
    weight = np.cos(ring)[:, None]
    ra = fine.right_ascension[: 5 * pieces]
    values = (real_basis(l, m, ra, ring[:, None]) * weight).reshape(4, pieces, 5, pieces).sum(axis=(1, 3))
    expected = values / (weight.reshape(4, pieces).sum(axis=1) * pieces)[:, None]
    basis = ring_basis(grid, 16)[l, abs(m)][[0, 3, 9, 17]]
    wave = np.cos if m >= 0 else np.sin
    ours = basis[:, None] * wave(abs(m) * grid.right_ascension[:5])
    np.testing.assert_allclose(ours, expected, atol=3e-4)
    centre = ring_basis(grid, 16, cell_average=False)[l, abs(m)][[0, 3, 9, 17]]
    if l > 4:  # the average is something else than the centre, and this test can tell
        assert np.max(np.abs(centre - basis)) > 5e-3


def test_cell_average_in_closed_form():
    """Over a ring, sin(dec) averages to the mean of its edges' sines, and
    cos(dec) to (width / 2 + sin(2 dec) / 4 between the edges) / (difference of the sines)."""
    grid = RingGrid(18, 20)
    south, north = grid.declination_edges[:-1], grid.declination_edges[1:]
    scale = np.sqrt(3 / (4 * np.pi))
    basis = ring_basis(grid, 64)
    np.testing.assert_allclose(basis[1, 0], scale * (np.sin(north) + np.sin(south)) / 2, atol=1e-13)
    cosine = ((north - south) / 2 + (np.sin(2 * north) - np.sin(2 * south)) / 4) / (np.sin(north) - np.sin(south))
    window = np.sin(grid.step / 2) / (grid.step / 2)
    np.testing.assert_allclose(basis[1, 1], scale * cosine * window, atol=1e-13)
    # m = 0 in closed form at any l: (2 l + 1) times the integral of P_l is P_{l+1} - P_{l-1}.
    for l in (2, 33, 64):
        primitive = eval_legendre(l + 1, np.sin(grid.declination_edges)) - eval_legendre(
            l - 1, np.sin(grid.declination_edges)
        )
        average = np.diff(primitive) / (2 * l + 1) / np.diff(np.sin(grid.declination_edges))
        np.testing.assert_allclose(basis[l, 0], np.sqrt((2 * l + 1) / (4 * np.pi)) * average, atol=1e-12)


def test_cell_average_has_converged_at_the_highest_degrees():
    """The average over a ring is that over its three thirds."""
    grid, fine = RingGrid(18, 360), RingGrid(54, 360)
    weight = np.diff(np.sin(fine.declination_edges)).reshape(18, 3)
    thirds = (ring_basis(fine, 64).reshape(65, 65, 18, 3) * weight).sum(-1) / weight.sum(-1)
    np.testing.assert_allclose(ring_basis(grid, 64), thirds, atol=1e-12)


def test_tables_cannot_be_changed():
    for cell_average in (True, False):
        with pytest.raises(ValueError, match="read-only"):
            ring_basis(RingGrid(8, 8), 2, cell_average)[0, 0, 0] = 1.0


def test_synthesis_is_the_field_at_the_cell_centres():
    grid = RingGrid(19, 26)
    coefficients = draw(12, batch=(2, 1))
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    degree, order = degrees_and_orders(12)
    basis = np.stack([real_basis(l, m, ra, dec) for l, m in zip(degree, order, strict=True)])
    sky = jax.jit(synthesis)(coefficients, grid)
    assert sky.shape == (2, 1, 19, 26)
    np.testing.assert_allclose(sky, np.tensordot(coefficients, basis, 1), atol=1e-12)


def test_orientation_of_a_synthesised_dipole():
    """Ring 0 is the south; right ascension grows along the last axis."""
    grid = RingGrid(18, 36)
    north = synthesis(dipole_to_coefficients(np.array([0.0, 0.0, 1.0])), grid)
    np.testing.assert_allclose(north, np.broadcast_to(np.sin(grid.declination)[:, None], grid.shape), atol=1e-14)
    six_hours = synthesis(dipole_to_coefficients(np.array([0.0, 1.0, 0.0])), grid)
    assert np.unravel_index(np.argmax(six_hours), grid.shape)[1] in (8, 9)


def test_synthesis_of_cell_averages_uses_the_averaged_basis():
    grid = RingGrid(18, 36)
    for l, m in [(3, 2), (4, -3), (5, 0)]:
        unit = np.zeros(36)
        unit[index(l, m)] = 1
        wave = (np.cos if m >= 0 else np.sin)(abs(m) * grid.right_ascension)
        expected = ring_basis(grid, 5)[l, abs(m)][:, None] * wave
        np.testing.assert_allclose(synthesis(unit, grid, cell_average=True), expected, atol=1e-14)


@pytest.mark.parametrize(
    ("l_max", "n_ring", "n_ra"), [(0, 4, 4), (3, 7, 7), (64, 180, 360), (64, 129, 129), (128, 257, 258)]
)
def test_round_trip_is_exact_up_to_half_the_rings(l_max, n_ring, n_ra):
    grid = RingGrid(n_ring, n_ra)
    coefficients = draw(l_max)
    np.testing.assert_allclose(analysis(synthesis(coefficients, grid), grid, l_max), coefficients, atol=1e-11)


def test_analysis_of_a_map_that_was_not_synthesised():
    """exp(k . n) = sum over l of (2 l + 1) i_l(k) P_l(k^ . n), a smooth map known in closed form:
    monopole sqrt(4 pi) sinh(k) / k, dipole 3 (coth k - 1 / k) sinh(k) / k along k."""
    grid = RingGrid(90, 120)
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    axis = np.array([0.48, -0.6, 0.64])
    k = 1.3
    coefficients = analysis(np.exp(k * unit_vector(ra, dec) @ axis), grid, 30)
    np.testing.assert_allclose(coefficients[0], np.sqrt(4 * np.pi) * np.sinh(k) / k, rtol=1e-13)
    size = 3 * (1 / np.tanh(k) - 1 / k) * np.sinh(k) / k
    np.testing.assert_allclose(coefficients_to_dipole(coefficients), size * axis, atol=1e-13)


def test_analysis_takes_batches():
    grid = RingGrid(21, 30)
    coefficients = draw(10, batch=(2, 3))
    again = jax.jit(partial(analysis, grid=grid, l_max=10))(synthesis(coefficients, grid))
    np.testing.assert_allclose(again, coefficients, atol=1e-13)


def test_evaluation_is_healpys_synthesis():
    """At HEALPix pixel centres, so longitude, latitude and the complex convention are healpy's."""
    l_max, nside = 20, 8
    coefficients = draw(l_max)
    theta, phi = healpy.pix2ang(nside, np.arange(healpy.nside2npix(nside)))
    expected = healpy.alm2map(to_healpy(coefficients), nside, lmax=l_max)
    np.testing.assert_allclose(evaluate(coefficients, phi, np.pi / 2 - theta), expected, atol=1e-12)


def test_evaluation_broadcasts():
    coefficients = draw(3, batch=(2,))
    ra, dec = np.linspace(0, 1, 5), np.linspace(-1, 1, 4)[:, None]
    values = evaluate(coefficients, ra, dec)
    assert values.shape == (2, 4, 5)
    np.testing.assert_allclose(values[1, 2, 3], evaluate(coefficients[1], ra[3], dec[2, 0]), rtol=1e-13)
    assert jax.eval_shape(evaluate, coefficients[0], 0, 0).shape == ()


@pytest.mark.parametrize("sign", [1, -1])
def test_at_the_poles_only_m_zero_counts_and_the_gradient_is_finite(sign):
    """R_l0 at the poles is sqrt((2 l + 1) / 4 pi) (+-1)^l."""
    coefficients = draw(8)
    value, slope = jax.jit(jax.value_and_grad(evaluate, argnums=2))(coefficients, 0.3, sign * np.pi / 2)
    l = np.arange(9)
    expected = np.sum(coefficients[l * l + l] * np.sqrt((2 * l + 1) / (4 * np.pi)) * float(sign) ** l)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    step = 1e-5
    points = [evaluate(coefficients, 0.3, sign * np.pi / 2 + d) for d in (step, -step)]
    np.testing.assert_allclose(slope, (points[0] - points[1]) / (2 * step), rtol=1e-6)


@given(axis=st.tuples(*[st.floats(-1, 1)] * 3), ra=st.floats(-7, 7), dec=st.floats(-1.57, 1.57))
@settings(deadline=None, max_examples=30)
def test_dipole_is_delta_dot_n(axis, ra, dec):
    value = evaluate(dipole_to_coefficients(np.array(axis)), ra, dec)
    np.testing.assert_allclose(value, unit_vector(np.array(ra), np.array(dec)) @ np.array(axis), atol=1e-14)


def test_numbers_of_a_known_dipole():
    """Complex a_10, a_11 and C_1 of one dipole, computed by an independent program (healpy convention)."""
    coefficients = dipole_to_coefficients(DIPOLE)
    alm = to_healpy(coefficients)
    np.testing.assert_allclose(alm[healpy.Alm.getidx(1, 1, 0)], 6.139960247789e-4, rtol=1e-10)
    np.testing.assert_allclose(alm[healpy.Alm.getidx(1, 1, 1)], -1.157762007e-3 - 7.23601255e-4j, rtol=1e-9)
    np.testing.assert_allclose(power_spectrum(coefficients)[1], 1.368338133563555e-6, rtol=1e-12)
    np.testing.assert_allclose(coefficients_to_dipole(coefficients), DIPOLE, rtol=1e-14)
    np.testing.assert_allclose(coefficients[index(1, 1)], np.sqrt(4 * np.pi / 3) * DIPOLE[0], rtol=1e-14)


def test_a_dipole_is_read_from_more_multipoles():
    coefficients = draw(4, batch=(3,))
    expected = np.sqrt(3 / (4 * np.pi)) * coefficients[:, [3, 1, 2]]
    np.testing.assert_allclose(coefficients_to_dipole(coefficients), expected, rtol=1e-14)


def test_power_is_healpys():
    coefficients = draw(9, batch=(2,))
    expected = [healpy.alm2cl(to_healpy(row)) for row in coefficients]
    np.testing.assert_allclose(power_spectrum(coefficients), expected, rtol=1e-12)


def test_healpy_order_and_way_back():
    l_max = 6
    alm = to_healpy(draw(l_max))
    unit = np.zeros((l_max + 1) ** 2)
    unit[index(5, -3)] = 1
    only = to_healpy(unit)
    assert np.flatnonzero(only).tolist() == [healpy.Alm.getidx(l_max, 5, 3)]
    np.testing.assert_allclose(only[healpy.Alm.getidx(l_max, 5, 3)], 1j / np.sqrt(2))  # -(-1)^3 i / sqrt 2
    np.testing.assert_allclose(from_healpy(alm, l_max), draw(l_max), rtol=1e-14)
    np.testing.assert_allclose(from_healpy(alm, 3), draw(l_max)[:16], rtol=1e-14)
    batch = draw(l_max, batch=(2,))
    np.testing.assert_allclose(from_healpy(to_healpy(batch), l_max), batch, rtol=1e-14)
    np.testing.assert_allclose(healpy.alm2map(alm, 4), healpy.alm2map(to_healpy(from_healpy(alm, l_max)), 4))


def test_two_point_function_is_a_sum_of_legendre_polynomials():
    power = np.abs(draw(6))[:31]
    cosine = np.array([[-1.0, -0.3, 0.0], [0.2, 0.999, 1.0]])
    l = np.arange(31)
    expected = np.einsum("l,lij->ij", (2 * l + 1) * power / (4 * np.pi), eval_legendre(l[:, None, None], cosine))
    np.testing.assert_allclose(two_point(power, cosine), expected, rtol=1e-12)
    assert two_point(np.stack([power, 2 * power]), cosine).shape == (2, 2, 3)
    np.testing.assert_allclose(two_point(np.stack([power, 2 * power]), cosine)[1], 2 * expected, rtol=1e-12)


def test_two_point_at_zero_is_the_variance_of_the_field():
    """xi(0) is the mean of g^2 over the sphere, taken here over a map of healpy."""
    coefficients = draw(10)
    sky = healpy.alm2map(to_healpy(coefficients), 64, lmax=10)
    np.testing.assert_allclose(two_point(power_spectrum(coefficients), 1.0), np.mean(sky**2), rtol=1e-3)


def test_two_point_is_the_average_over_pairs():
    """For a dipole, the average of f(n) f(n') over all pairs at eta is |delta|^2 cos(eta) / 3."""
    xi = two_point(power_spectrum(dipole_to_coefficients(DIPOLE)), np.array([0.5, -1.0]))
    np.testing.assert_allclose(xi, DIPOLE @ DIPOLE / 3 * np.array([0.5, -1.0]), rtol=1e-12)


def test_power_from_two_point():
    power = np.abs(draw(3, batch=(2,)))
    nodes = np.polynomial.legendre.leggauss(16)[0]
    values = two_point(power, nodes)
    np.testing.assert_allclose(power_from_two_point(values, 15), power, rtol=1e-10)
    # xi = cos(eta) has C_1 = 4 pi / 3 alone.
    np.testing.assert_allclose(power_from_two_point(nodes, 2), [0, 4 * np.pi / 3, 0], atol=1e-13)


# Here and below most fields reach l = 7 and are taken at 50 directions: one shape, compiled once.
@pytest.mark.parametrize("l_max", [1, 7, 64])
def test_a_rotated_field_carries_its_values_along(l_max):
    coefficients = draw(l_max)
    matrix = rotation([1.0, 2.0, -0.5], 0.8)
    ra, dec = directions(50)
    moved = unit_vector(ra, dec) @ matrix.T
    rotated = rotate(coefficients, matrix)
    values = evaluate(rotated, np.arctan2(moved[:, 1], moved[:, 0]), np.arcsin(moved[:, 2]))
    np.testing.assert_allclose(values, evaluate(coefficients, ra, dec), atol=1e-11)
    np.testing.assert_allclose(power_spectrum(rotated), power_spectrum(coefficients), rtol=1e-11)


def test_a_rotated_dipole_is_the_rotated_vector():
    """And not the one turned backwards."""
    matrix = rotation([0.3, -0.2, 0.9], 1.1)
    rotated = coefficients_to_dipole(rotate(dipole_to_coefficients(DIPOLE), matrix))
    np.testing.assert_allclose(rotated, matrix @ DIPOLE, atol=1e-16)
    assert np.max(np.abs(matrix @ DIPOLE - matrix.T @ DIPOLE)) > 1e-4


def test_a_turn_about_the_pole_is_a_phase():
    """a_lm -> a_lm exp(-i m angle): the field moves to larger right ascension."""
    coefficients = draw(7)
    alm = to_healpy(rotate(coefficients, rotation([0, 0, 1], 0.4)))
    m = healpy.Alm.getlm(7)[1]
    np.testing.assert_allclose(alm, to_healpy(coefficients) * np.exp(-0.4j * m), atol=1e-13)


def test_rotations_compose_and_batches_rotate_alike():
    first, second = rotation([1, 0, 0], 0.5), rotation([0, 1, 1], -2.0)
    coefficients = draw(7, batch=(2, 3))
    twice = rotate(rotate(coefficients, first), second)
    np.testing.assert_allclose(twice, rotate(coefficients, second @ first), atol=1e-12)
    np.testing.assert_allclose(rotate(coefficients[1, 2], first), rotate(coefficients, first)[1, 2], atol=1e-12)


def test_parity_turns_the_sign_of_odd_degrees():
    coefficients = draw(7)
    degree, _ = degrees_and_orders(7)
    np.testing.assert_allclose(rotate(coefficients, -np.eye(3)), (-1.0) ** degree * coefficients, atol=1e-13)
    ra, dec = directions(50)
    antipode = evaluate(coefficients, ra + np.pi, -dec)
    np.testing.assert_allclose(antipode, evaluate((-1.0) ** degree * coefficients, ra, dec), atol=1e-12)


@pytest.mark.parametrize("l_max", [16, 64])
def test_single_precision_stays_single_and_is_good_to_a_few_ulp(l_max):
    grid = RingGrid(180, 360)
    exact = draw(l_max)
    coefficients = jnp.asarray(exact, jnp.float32)
    sky = synthesis(coefficients, grid)
    reference = np.asarray(synthesis(exact, grid))
    assert sky.dtype == jnp.float32
    scale = np.max(np.abs(reference))
    np.testing.assert_allclose(sky, reference, atol=2e-6 * scale)
    back = analysis(sky, grid, l_max)
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, exact, atol=1e-5)
    ra, dec = (jnp.asarray(x, jnp.float32) for x in directions(100))
    values = evaluate(coefficients, ra, dec)
    assert values.dtype == jnp.float32
    expected = evaluate(exact, np.asarray(ra, float), np.asarray(dec, float))
    np.testing.assert_allclose(values, expected, atol=l_max * 1e-6 * scale)
    assert jax.eval_shape(rotate, coefficients[:16], jnp.eye(3, dtype=jnp.float32)).dtype == jnp.float32


def test_gradients():
    grid = RingGrid(9, 12)
    coefficients = jnp.asarray(draw(4))
    angles = jnp.array([0.1, 2.0, -1.0]), jnp.array([0.4, -1.2, np.pi / 2])
    matrix = jnp.asarray(rotation([1, 2, 3], 0.7))
    power = jnp.abs(coefficients[:5])
    cosine = jnp.array([0.2, -0.9])
    check_grads(jax.jit(lambda s: synthesis(s, grid)), (coefficients,), order=1)
    check_grads(jax.jit(lambda sky: analysis(sky, grid, 4)), (synthesis(coefficients, grid),), order=1)
    check_grads(jax.jit(evaluate), (coefficients, *angles), order=1)
    check_grads(jax.jit(power_spectrum), (coefficients,), order=1)
    check_grads(jax.jit(two_point), (power, cosine), order=1)
    check_grads(jax.jit(lambda x: power_from_two_point(x, 3)), (power,), order=1)
    check_grads(jax.jit(dipole_to_coefficients), (jnp.asarray(DIPOLE),), order=1)
    check_grads(jax.jit(coefficients_to_dipole), (coefficients,), order=1)

    def turned(s, angle):
        c, zero = jnp.cos(angle), jnp.zeros(())
        about_pole = jnp.array([[c, -jnp.sin(angle), zero], [jnp.sin(angle), c, zero], [zero, zero, zero + 1]])
        return rotate(s, about_pole @ matrix)

    check_grads(jax.jit(turned), (coefficients, jnp.array(0.3)), order=1)


def test_the_gradient_of_a_synthesis_is_its_adjoint():
    """<map, synthesis(s)> = <gradient, s> for any map."""
    grid = RingGrid(16, 20)
    sky = jnp.asarray(np.random.default_rng(3).normal(size=grid.shape))
    value, gradient = jax.jit(jax.value_and_grad(lambda s: jnp.vdot(sky, synthesis(s, grid))))(draw(9))
    np.testing.assert_allclose(value, gradient @ draw(9), rtol=1e-12)


def test_vmap_is_a_batch():
    coefficients = jnp.asarray(draw(3, batch=(3,)))
    grid = RingGrid(12, 16)
    np.testing.assert_allclose(
        jax.vmap(lambda s: synthesis(s, grid))(coefficients), synthesis(coefficients, grid), atol=1e-13
    )
    np.testing.assert_allclose(
        jax.vmap(lambda s: evaluate(s, 0.3, 0.2))(coefficients), evaluate(coefficients, 0.3, 0.2), atol=1e-13
    )


def test_what_cannot_be_done_is_refused():
    grid = RingGrid(20, 24)
    with pytest.raises(InputError, match=r"24 right-ascension bins is too coarse for l_max = 12: use n_ra >= 25"):
        synthesis(draw(12), grid)
    assert synthesis(draw(11), grid).shape == (20, 24)
    with pytest.raises(InputError, match="l_max = 10 cannot be analysed exactly on 20 rings: use at least 21"):
        analysis(np.zeros(grid.shape), grid, 10)
    with pytest.raises(InputError, match="12 right-ascension bins is too coarse for l_max = 8"):
        analysis(np.zeros((20, 12)), RingGrid(20, 12), 8)
    with pytest.raises(InputError, match=r"sky has shape \(24, 20\), but the grid has 20 rings of 24 cells"):
        analysis(np.zeros((24, 20)), grid, 3)
    sky = np.zeros(grid.shape)
    sky[[2, 7], [5, 1]] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 of 480 cells are not, the first is sky\[2, 5\]; fill"):
        analysis(sky, grid, 3)
    for function in (
        power_spectrum,
        to_healpy,
        lambda s: evaluate(s, 0.0, 0.0),
        lambda s: synthesis(s, grid),
    ):
        with pytest.raises(InputError, match=r"\(l_max \+ 1\)\*\*2 = 1, 4, 9, ... entries .* not 5"):
            function(np.zeros(5))
    with pytest.raises(InputError, match="not 0"):
        power_spectrum(np.zeros((2, 0)))
    with pytest.raises(InputError, match="a monopole alone has no dipole"):
        coefficients_to_dipole(np.zeros(1))
    with pytest.raises(InputError, match=r"no multipole \(l, m\) = \(2, -3\)"):
        index(2, -3)
    with pytest.raises(InputError, match="l_max must be 0 or more, not -1"):
        degrees_and_orders(-1)
    with pytest.raises(InputError, match="l_max must be 0 or more, not -2"):
        ring_basis(grid, -2)
    with pytest.raises(InputError, match=r"R R\^T differs from the identity by 3.0e\+00"):
        rotate(draw(1), 2 * np.eye(3))
    with pytest.raises(InputError, match="alm reaches l = 4, not l_max = 5"):
        from_healpy(to_healpy(draw(4)), 5)
    with pytest.raises(InputError, match="entries, not 7: compute it with mmax = lmax"):
        from_healpy(np.zeros(7, complex), 1)
    with pytest.raises(InputError, match="l_max = 4 needs more than 4 Gauss-Legendre nodes: use at least 5"):
        power_from_two_point(np.zeros(4), 4)
