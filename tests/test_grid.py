"""The ring grid against double loops over (sidereal time, hour angle), healpy and plain geometry."""

import dataclasses

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from diffcr.errors import InputError
from diffcr.grid import (
    RingGrid,
    correlate,
    from_healpix,
    interpolate,
    local_view,
    rate_seen,
    rebin,
    to_healpix,
)

SMALL = RingGrid(4, 7)


def draw(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape)


def smooth(declination, right_ascension):
    """A field with nothing symmetric about it; second derivatives below 1.7 in both angles."""
    return np.sin(declination) + 0.5 * np.cos(declination) ** 2 * np.cos(2 * right_ascension - 0.7)


def test_edges_centres_and_areas():
    grid = RingGrid(18, 36)
    assert grid.shape == (18, 36)
    np.testing.assert_allclose(np.degrees(grid.declination_edges[[0, 1, -1]]), [-90, -80, 90])
    np.testing.assert_allclose(np.degrees(grid.declination[[0, -1]]), [-85, 85])
    np.testing.assert_allclose(np.degrees(grid.right_ascension[[0, 1, -1]]), [5, 15, 355])
    np.testing.assert_array_equal(grid.sidereal_time, grid.right_ascension)
    np.testing.assert_allclose(grid.solid_angle.sum() * grid.n_ra, 4 * np.pi, rtol=1e-14)
    np.testing.assert_allclose(grid.solid_angle[-1] * 36, 2 * np.pi * (1 - np.sin(np.radians(80))), rtol=1e-12)


@pytest.mark.parametrize("n_ra", [6, 7])
def test_hour_angles_run_from_minus_pi_and_start_at_the_meridian(n_ra):
    degrees = np.degrees(RingGrid(4, n_ra).hour_angle)
    expected = [0, 60, 120, -180, -120, -60] if n_ra == 6 else np.array([0, 1, 2, 3, -3, -2, -1]) * 360 / 7
    np.testing.assert_allclose(degrees, expected, atol=1e-12)


def test_hour_angle_is_time_minus_right_ascension_of_the_centres():
    """The shift h = tau - a is exact for the centres, whatever the pair of bins."""
    grid = RingGrid(4, 12)
    for tau in range(12):
        for a in range(12):
            difference = grid.sidereal_time[tau] - grid.right_ascension[a] - grid.hour_angle[(tau - a) % 12]
            np.testing.assert_allclose(np.exp(1j * difference), 1, atol=1e-14)


def test_local_view_by_loops():
    sky = draw(SMALL.shape)
    for tau in range(7):
        expected = np.empty(SMALL.shape)
        for r in range(4):
            for h in range(7):
                expected[r, h] = sky[r, (tau - h) % 7]
        np.testing.assert_array_equal(local_view(jnp.asarray(sky), tau), expected)
        np.testing.assert_array_equal(jax.jit(local_view)(jnp.asarray(sky), jnp.asarray(tau)), expected)
        np.testing.assert_array_equal(local_view(local_view(jnp.asarray(sky), tau), tau), sky)


def test_correlation_by_loops():
    sky, rate = draw(SMALL.shape), draw(7, seed=1)
    expected = np.zeros(SMALL.shape)
    for r in range(4):
        for tau in range(7):
            for h in range(7):
                expected[r, h] += rate[tau] * sky[r, (tau - h) % 7]
    seen = correlate(jnp.asarray(rate), jnp.asarray(sky))
    np.testing.assert_allclose(seen, expected, rtol=1e-13)
    views = sum(rate[tau] * local_view(jnp.asarray(sky), tau) for tau in range(7))
    np.testing.assert_allclose(seen, views, rtol=1e-13)


def test_exposure_of_the_sky_is_the_same_sum():
    """Each (tau, h) adds rate[tau] local[r, h] to the sky cell (tau - h) mod n."""
    local, rate = draw(SMALL.shape), draw(7, seed=1)
    exposure = np.zeros(SMALL.shape)
    for r in range(4):
        for tau in range(7):
            for h in range(7):
                exposure[r, (tau - h) % 7] += rate[tau] * local[r, h]
    np.testing.assert_allclose(correlate(jnp.asarray(rate), jnp.asarray(local)), exposure, rtol=1e-13)


def test_rate_seen_by_loops():
    local, sky = draw(SMALL.shape), draw(SMALL.shape, seed=1)
    expected = np.zeros(7)
    for r in range(4):
        for tau in range(7):
            for h in range(7):
                expected[tau] += local[r, h] * sky[r, (tau - h) % 7]
    np.testing.assert_allclose(rate_seen(jnp.asarray(local), jnp.asarray(sky)), expected, rtol=1e-13)


@given(n_ra=st.integers(4, 13), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_the_total_can_be_summed_in_any_order(n_ra, seed):
    """sum over (tau, h) of I N A, whether first over tau, over h, or into the exposure; odd sizes too."""
    sky, local, rate = (jnp.asarray(draw(shape, seed + k)) for k, shape in enumerate([(4, n_ra), (4, n_ra), n_ra]))
    total = jnp.vdot(local, correlate(rate, sky))
    np.testing.assert_allclose(jnp.vdot(rate, rate_seen(local, sky)), total, rtol=1e-12)
    np.testing.assert_allclose(jnp.vdot(sky, correlate(rate, local)), total, rtol=1e-12)


def test_gradients():
    sky, local, rate = (
        jnp.asarray(draw(SMALL.shape)),
        jnp.asarray(draw(SMALL.shape, 1)),
        jnp.asarray(draw(7, 2)),
    )
    check_grads(jax.jit(correlate), (rate, sky), order=1)
    check_grads(jax.jit(rate_seen), (local, sky), order=1)
    check_grads(jax.jit(lambda x: local_view(x, 3)), (sky,), order=1)


def test_single_precision_stays_single():
    sky, rate = jnp.asarray(draw(SMALL.shape), jnp.float32), jnp.asarray(draw(7), jnp.float32)
    assert correlate(rate, sky).dtype == rate_seen(sky, sky).dtype == jnp.float32
    np.testing.assert_allclose(correlate(rate, sky), correlate(rate.astype(float), sky.astype(float)), rtol=1e-6)


def test_rings_at_their_edges():
    grid = RingGrid(18, 36)
    degrees = np.array([-90, -89.99, -80.01, -79.99, -0.01, 0.0, 0.01, 79.99, 80.01, 90])
    assert grid.ring_of(np.radians(degrees)).tolist() == [0, 0, 0, 1, 8, 9, 9, 16, 17, 17]
    assert grid.ring_of(np.array([np.pi / 2 + 1e-15])).tolist() == [17]
    np.testing.assert_array_equal(grid.ring_of(grid.declination), np.arange(18))


def test_bins_at_their_edges_and_over_any_number_of_turns():
    grid = RingGrid(18, 36)
    degrees = np.array([0, 9.99, 10.01, 359.99, 360, 370.01, -0.01, -360, -725.0])
    assert grid.bin_of(np.radians(degrees)).tolist() == [0, 0, 1, 35, 0, 1, 35, 0, 35]
    # Rounding would put an angle just below zero on bin n, one past the last.
    assert grid.bin_of(np.array([-1e-18])).tolist() in ([0], [35])
    np.testing.assert_array_equal(grid.bin_of(grid.right_ascension), np.arange(36))


@pytest.mark.parametrize("nest", [False, True])
def test_a_healpix_map_of_counts_keeps_its_sum_and_its_dipole(nest):
    """The sum of counts times directions moves by less than a cell's flattening (0.2 %)."""
    nside = 32
    n = np.array(healpy.pix2vec(nside, np.arange(healpy.nside2npix(nside)), nest=nest))
    dipole = np.array([0.3, -0.5, 0.4])
    counts = 100 * (1 + dipole @ n)
    grid = RingGrid(90, 180)
    rings = from_healpix(counts, grid, nest=nest)
    np.testing.assert_allclose(rings.sum(), counts.sum(), rtol=1e-12)
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    direction = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    seen = 3 * np.tensordot(direction, rings, 2) / rings.sum()
    np.testing.assert_allclose(seen, dipole, atol=2e-3)


def test_one_pixel_lands_around_its_centre():
    """At RA 40 degrees and declination -30: which axis is which, and which way each runs."""
    grid, nside = RingGrid(180, 360), 64
    counts = np.zeros(healpy.nside2npix(nside))
    pixel = healpy.ang2pix(nside, 40.0, -30.0, lonlat=True)
    counts[pixel] = 5.0
    ra, dec = healpy.pix2ang(nside, pixel, lonlat=True)
    rings = from_healpix(counts, grid)
    filled = np.argwhere(rings)
    assert np.all(np.abs(np.degrees(grid.declination)[filled[:, 0]] - dec) < 1.5)
    assert np.all(np.abs(np.degrees(grid.right_ascension)[filled[:, 1]] - ra) < 1.5)
    np.testing.assert_allclose(rings.sum(), 5)


def test_batches_of_healpix_maps_and_finer_subdivision():
    grid = RingGrid(36, 72)
    counts = draw((2, 3, 12 * 4**2))
    rings = from_healpix(counts, grid)
    assert rings.shape == (2, 3, 36, 72)
    np.testing.assert_allclose(rings[1, 2], from_healpix(counts[1, 2], grid), rtol=1e-13)
    uniform = from_healpix(np.ones(12 * 16**2), grid, subdivide=16)
    np.testing.assert_allclose(uniform.sum(), 12 * 16**2)
    middle = slice(9, 27)
    expected = 12 * 16**2 * grid.solid_angle[middle, None] / (4 * np.pi)
    np.testing.assert_allclose(uniform[middle], np.broadcast_to(expected, (18, 72)), rtol=0.1)


def test_interpolation_is_good_to_the_second_derivative():
    """Linear interpolation errs by at most step^2 |f''| / 8 per direction, between the outermost centres."""
    grid = RingGrid(90, 180)
    sky = smooth(grid.declination[:, None], grid.right_ascension)
    rng = np.random.default_rng(4)
    dec = np.arcsin(rng.uniform(np.sin(grid.declination[0]), np.sin(grid.declination[-1]), 5000))
    ra = rng.uniform(-7, 7, 5000)
    bound = 2 * 2.2 * grid.step**2 / 8
    assert np.max(np.abs(interpolate(sky, grid, dec, ra) - smooth(dec, ra))) < bound


def test_interpolation_at_the_centres_is_the_map():
    sky = draw((6, 8))
    grid = RingGrid(6, 8)
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    np.testing.assert_allclose(interpolate(sky, grid, dec, ra), sky, rtol=1e-12)


def test_interpolation_across_the_seam_and_over_the_poles():
    grid = RingGrid(6, 8)
    sky = draw((6, 8))
    seam = np.array([0.0, 2 * np.pi, -2 * np.pi])
    middle = interpolate(sky, grid, np.full(3, grid.declination[2]), seam)
    np.testing.assert_allclose(middle, np.full(3, (sky[2, 7] + sky[2, 0]) / 2), rtol=1e-12)
    for pole, ring in ((-np.pi / 2, 0), (np.pi / 2, 5)):
        values = interpolate(sky, grid, np.full(8, pole), grid.right_ascension)
        np.testing.assert_allclose(values, sky[ring], rtol=1e-12)


def test_unexposed_cells_stay_unexposed():
    """Between ring centres 2 and 3 the unexposed cell (2, 3) reaches right ascensions from centre 2 to 4."""
    grid = RingGrid(6, 8)
    sky = draw((6, 8))
    sky[2, 3] = np.nan
    between = (grid.declination[2:4] + grid.declination[3:5]) / 2
    dec = np.array([between[0], between[0], between[0], between[0], between[1]])
    ra = (np.array([1, 2, 3, 4, 3]) + 1) * grid.step
    assert np.isnan(interpolate(sky, grid, dec, ra)).tolist() == [False, True, True, False, False]


def test_healpix_output_of_a_smooth_map():
    """North is up and right ascension increases with longitude; poleward of the last ring it is flat."""
    grid, nside = RingGrid(180, 360), 16
    sky = smooth(grid.declination[:, None], grid.right_ascension)
    ra, dec = healpy.pix2ang(nside, np.arange(healpy.nside2npix(nside)), lonlat=True)
    expected = smooth(np.radians(dec), np.radians(ra))
    np.testing.assert_allclose(to_healpix(sky, grid, nside), expected, atol=2 * 2.2 * grid.step**2 / 8)


def test_rebinned_counts_by_loops():
    fine, coarse = RingGrid(8, 12), RingGrid(4, 4)
    values = draw((2, *fine.shape))
    expected = np.zeros((2, 4, 4))
    for r in range(8):
        for a in range(12):
            expected[:, r // 2, a // 3] += values[:, r, a]
    np.testing.assert_allclose(rebin(values, fine, coarse), expected, rtol=1e-13)
    np.testing.assert_array_equal(rebin(values, fine, fine), values)


@pytest.mark.parametrize("coarse", [RingGrid(5, 6), RingGrid(4, 5)])
def test_a_grid_that_does_not_divide_is_refused(coarse):
    with pytest.raises(InputError, match=rf"12 x 8 cannot be summed into {coarse.n_ra} x {coarse.n_ring}: .*divide"):
        rebin(np.zeros((8, 12)), RingGrid(8, 12), coarse)


@pytest.mark.parametrize(("kwargs", "name"), [({"n_ring": 3}, "n_ring"), ({"n_ra": 0}, "n_ra"), ({"n_ra": -8}, "n_ra")])
def test_a_grid_too_small_is_refused(kwargs, name):
    with pytest.raises(InputError, match=f"{name} of a ring grid must be a whole number of at least 4"):
        RingGrid(**kwargs)


@pytest.mark.parametrize("subdivide", [0, 3, -2, 6])
def test_a_subdivision_that_is_no_power_of_two_is_refused(subdivide):
    with pytest.raises(InputError, match=f"subdivide must be a power of two, not {subdivide}"):
        from_healpix(np.ones(12), RingGrid(), subdivide=subdivide)


def test_a_grid_is_static():
    """It has no arrays, compares by its two numbers, and cannot be changed."""
    assert jax.tree.leaves(RingGrid(8, 8)) == []
    assert RingGrid(8, 8) == RingGrid(8, 8)
    assert RingGrid(8, 8) != RingGrid(8, 9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RingGrid(8, 8).n_ra = 9
