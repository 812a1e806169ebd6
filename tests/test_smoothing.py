"""Sums in discs against points counted one by one, and the damping of a dipole by a cap."""

import numpy as np
import pytest
from diffcr.inference.smoothing import smooth_sky

from diffcr.errors import InputError
from diffcr.grid import RingGrid

GRID = RingGrid(36, 72)


def unit_vectors(grid: RingGrid) -> np.ndarray:
    dec, ra = grid.declination[:, None], grid.right_ascension
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec) + 0 * ra], axis=-1)


@pytest.mark.parametrize("shape", [(8, 12), (9, 15)])
@pytest.mark.parametrize("degrees", [31, 60, 90, 150, 180])
def test_smoothing_is_the_sum_over_the_part_of_each_cell_in_the_disc(shape, degrees):
    """Directly from scalar products with 15 x 60 points in each cell, for even and odd numbers of cells."""
    grid, fine = RingGrid(*shape), RingGrid(15 * shape[0], 60 * shape[1])
    rng = np.random.default_rng(3)
    background = rng.uniform(1, 5, shape)
    background[-1] = 0
    counts = background * rng.uniform(0.5, 1.5, shape)
    cosine = unit_vectors(grid).reshape(-1, 3) @ unit_vectors(fine).reshape(-1, 3).T
    area = np.cos(fine.declination)[:, None] * np.ones(fine.n_ra)
    inside = (cosine >= np.cos(np.radians(degrees))) * area.ravel()
    cells = (shape[0], 15, shape[1], 60)
    part = inside.reshape(-1, *cells).sum(axis=(2, 4)) / area.reshape(cells).sum(axis=(1, 3))
    seen = background > 0
    expected = np.sum(part * counts, axis=(1, 2)) / np.sum(part * background, axis=(1, 2), initial=1e-30) - 1

    smooth = smooth_sky(counts, background, grid.declination, grid.right_ascension, float(np.radians(degrees)), 0.0)

    np.testing.assert_array_equal(np.isnan(smooth), ~seen)
    np.testing.assert_allclose(smooth[seen], expected.reshape(shape)[seen], atol=0.01)


@pytest.mark.parametrize("delta", [(0.3, -0.1, 0.0), (0.0, 0.0, 0.2)])
@pytest.mark.parametrize("degrees", [10, 45, 90])
def test_dipole_is_damped_as_by_a_top_hat(delta, degrees):
    """The mean of cos(theta) over a cap of radius r is (1 + cos r) / 2."""
    grid = RingGrid(90, 180)
    dipole = unit_vectors(grid) @ np.array(delta)
    background = 1e6 * np.repeat(grid.solid_angle[:, None], grid.n_ra, axis=1)

    smooth = smooth_sky(
        background * (1 + dipole), background, grid.declination, grid.right_ascension, np.radians(degrees)
    )

    damping = (1 + np.cos(np.radians(degrees))) / 2
    np.testing.assert_allclose(smooth, damping * dipole, atol=2e-3 * 0.3)


def test_smoothing_keeps_a_constant_and_masks_what_is_not_exposed():
    background = np.repeat(np.linspace(-30, 100, GRID.n_ring)[::-1, None], GRID.n_ra, axis=1).clip(0)
    background[10, 5] = np.nan
    counts = 1.25 * background
    counts[:4, 7] = np.nan

    smooth = smooth_sky(counts, background, GRID.declination, GRID.right_ascension, 0.3, 300.0)

    unexposed = ~(background > 0) | np.isnan(counts)
    assert np.all(np.isnan(smooth[unexposed]))
    np.testing.assert_allclose(smooth[np.isfinite(smooth)], 0.25, rtol=1e-9)
    assert np.isfinite(smooth[12, 30])
    # A disc that sees fewer than 300 events of background is left out although its centre is exposed.
    thin = np.isnan(smooth) & ~unexposed
    assert np.any(thin)
    assert np.all(background[thin] < 300)


def test_smoothing_an_empty_sky_is_all_masked():
    nothing = np.zeros(GRID.shape)
    assert np.all(np.isnan(smooth_sky(nothing, nothing, GRID.declination, GRID.right_ascension, 0.5)))


def test_smoothing_refuses_a_wrong_grid_and_a_radius_in_degrees():
    sky = np.ones(GRID.shape)
    with pytest.raises(InputError, match=r"shape \(36, 72\) does not fit 37 declinations and 72"):
        smooth_sky(sky, sky, GRID.declination_edges, GRID.right_ascension, 0.5)
    with pytest.raises(InputError, match=r"must be in \(0, pi\] radians, not 45; degrees"):
        smooth_sky(sky, sky, GRID.declination, GRID.right_ascension, 45.0)
