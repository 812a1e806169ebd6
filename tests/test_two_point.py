"""Two-point correlation: pairs written out, dipole and full-sky identities, noise, pair counts against draws."""

import math

import healpy
import numpy as np
import pytest
from diffcr.inference.two_point import (
    expected_pairs,
    isotropic_draws,
    isotropic_pairs,
    legendre_means,
    pair_counts,
    power_of_two_point,
    two_point,
    two_point_of_power,
)

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.harmonics import two_point as xi_of_power

TINY = RingGrid(6, 8)
GRID = RingGrid(90, 180)
TEN = np.radians(np.arange(0, 181, 10))


def weight_of(grid, seed=0):
    weight = np.random.default_rng(seed).uniform(0.2, 1, grid.shape)
    weight[-1] = 0
    weight[2, 3] = 0
    return weight


def directions(grid):
    ra, dec = np.meshgrid(grid.right_ascension, grid.declination)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("removed", [True, False])
def test_equals_a_loop_over_pairs_of_cells(removed):
    """All pairs of 48 cells written out, uneven weights, holes; the noise by its full covariance matrix."""
    rng = np.random.default_rng(1)
    weight, sky, variance = weight_of(TINY), rng.standard_normal(TINY.shape), rng.uniform(1, 2, TINY.shape)
    sky[weight == 0] = np.nan
    edges = np.radians([5, 33, 61, 97, 140, 180])
    found = two_point(sky, TINY, edges, weight, variance, remove_ring_means=removed)
    w = (weight * TINY.solid_angle[:, None]).ravel()
    keep = np.eye(48)
    if removed:
        for r in range(6):
            place = slice(8 * r, 8 * r + 8)
            if w[place].any():
                keep[place, place] -= np.outer(np.ones(8), w[place]) / w[place].sum()
    field = keep @ np.nan_to_num(sky).ravel()
    noise = keep @ np.diag(variance.ravel()) @ keep.T
    n = directions(TINY)
    xi, level, error, share = (np.zeros(5) for _ in range(4))
    between = np.zeros((5, 6, 6))
    for a in range(48):
        for b in range(48):
            eta = math.acos(np.clip(n[a] @ n[b], -1, 1))
            k = int(np.searchsorted([*edges[:-1], 4.0], eta, side="right")) - 1
            if a != b and 0 <= k < 5:
                xi[k] += w[a] * w[b] * field[a] * field[b]
                level[k] += w[a] * w[b] * noise[a, b]
                error[k] += 2 * (w[a] * w[b]) ** 2 * variance.ravel()[a] * variance.ravel()[b]
                between[k, a // 8, b // 8] += w[a] * w[b]
                share[k] += w[a] * w[b]
    if removed:
        ring = [
            (w**2 * variance.ravel())[k : k + 8].sum() / max(w[k : k + 8].sum(), 1e-9) ** 2 for k in range(0, 48, 8)
        ]
        error -= 2 * between**2 @ ring @ ring
    np.testing.assert_allclose(found.xi, (xi - level) / share, rtol=1e-10)
    np.testing.assert_allclose(found.noise, level / share, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found.error, np.sqrt(error) / share, rtol=1e-10)
    np.testing.assert_allclose(found.pairs, share / w.sum() ** 2, rtol=1e-10)
    expected = (w**2 @ field**2 - w**2 @ np.diag(noise)) / np.sum(w**2)
    assert found.variance == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(found.separation, (edges[1:] + edges[:-1]) / 2)


def test_dipole_on_the_full_sky():
    """|delta|^2 / 3 cos(eta), averaged over the bins, and |delta|^2 / 3 at zero separation."""
    delta = np.array([3e-3, -2e-3, 4e-3])
    sky = (directions(GRID) @ delta).reshape(GRID.shape)
    found = two_point(sky, GRID, TEN, remove_ring_means=False)
    mean_cosine = (np.cos(TEN[1:]) + np.cos(TEN[:-1])) / 2
    size = delta @ delta / 3
    np.testing.assert_allclose(found.xi, size * mean_cosine, atol=6e-3 * size)
    # Cells weigh by their solid angle squared: towards the equator, where this dipole's square is 1.3 % larger or less.
    ring = GRID.solid_angle[:, None] ** 2 * np.ones(GRID.shape)
    assert found.variance == pytest.approx(np.average(sky**2, weights=ring), rel=1e-12)
    # Nothing of the north component is left without ring means.
    equatorial = two_point(sky, GRID, TEN)
    without = two_point((directions(GRID) @ (delta * [1, 1, 0])).reshape(GRID.shape), GRID, TEN)
    np.testing.assert_allclose(equatorial.xi, without.xi, atol=1e-12)


def test_zero_separation_is_the_variance_on_cells_of_one_size():
    """One ring of weight: the mean square exactly."""
    sky = np.random.default_rng(0).standard_normal(TINY.shape)
    found = two_point(sky, TINY, np.array([0.1, 3.0]), np.eye(6)[3], remove_ring_means=False)
    assert found.variance == pytest.approx(np.mean(sky[3] ** 2))
    noisy = two_point(sky, TINY, np.array([0.1, 3.0]), np.eye(6)[3], 0.25 * np.ones(6), remove_ring_means=False)
    assert noisy.variance == pytest.approx(np.mean(sky[3] ** 2) - 0.25)


def test_the_sum_over_l_both_ways():
    """Means of P_l over bins against quadrature; fine bins against the unbinned sum; and back to C_l."""
    power = np.random.default_rng(0).uniform(1, 2, 12) / np.arange(1, 13)
    cosine, quadrature = np.polynomial.legendre.leggauss(20)
    low, high = np.cos(TEN[1:]), np.cos(TEN[:-1])
    nodes = (low + high)[:, None] / 2 + np.outer(high - low, cosine) / 2
    full = np.concatenate([[0], power])
    np.testing.assert_allclose(two_point_of_power(power, TEN), np.asarray(xi_of_power(full, nodes)) @ quadrature / 2)
    assert legendre_means(TEN, 3)[0, 0] == pytest.approx((1 + np.cos(TEN[1])) / 2)
    back, _ = power_of_two_point(two_point_of_power(power, TEN), TEN, 12)
    np.testing.assert_allclose(back, power, rtol=1e-9)


def test_power_of_a_map_is_that_of_anafast():
    """A sky of known multipoles: xi by pairs on the grid, C_l from it, and healpy's C_l of the same multipoles."""
    rng = np.random.default_rng(2)
    size = healpy.Alm.getsize(5)
    alm = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    alm[:6] = alm[:6].real
    alm[0] = 0
    theta, phi = np.pi / 2 - GRID.declination, GRID.right_ascension
    sky = np.array([_field(alm, 5, t, phi) for t in theta])
    found = two_point(sky, GRID, np.radians(np.arange(0, 181, 5)), remove_ring_means=False)
    power, _ = power_of_two_point(found.xi, found.edges, 5)
    np.testing.assert_allclose(power, healpy.alm2cl(alm)[1:], rtol=0.02)
    np.testing.assert_allclose(found.xi[0], two_point_of_power(healpy.alm2cl(alm)[1:], found.edges)[0], rtol=0.01)


def _field(alm, l_max, theta, phi):
    """The field of healpy's a_lm along one ring, by scipy's harmonics."""
    from scipy.special import sph_harm_y

    total = np.zeros(len(phi))
    for l in range(l_max + 1):
        for m in range(l + 1):
            a = alm[healpy.Alm.getidx(l_max, l, m)]
            total += (1 if m == 0 else 2) * (a * sph_harm_y(l, m, theta, phi)).real
    return total


def test_noise_alone_has_zero_mean_and_the_stated_error():
    """Isotropic Poisson skies of an uneven field of view, ring means removed: mean zero (without the subtraction it is
    not), scatter as stated; the errors propagate to C_l."""
    grid, edges = RingGrid(18, 36), np.radians([0, 12, 25, 40, 60, 90, 120, 180])
    background = 200 * weight_of(grid, 3) * grid.solid_angle[:, None] / grid.solid_angle.max()
    background[:5] = 0
    draws = isotropic_draws(background, grid, edges, draws=300, seed=1)
    seen = background > 0
    variance = np.where(seen, 1 / np.where(seen, background, 1), 0)
    sky = np.random.default_rng(5).poisson(background) * variance - 1
    one = two_point(sky, grid, edges, seen.astype(float), variance)
    pull = draws.mean(axis=0) / draws.std(axis=0) * np.sqrt(300)
    assert np.abs(pull).max() < 3.5
    bias = one.noise / draws.std(axis=0) * np.sqrt(300)
    assert np.abs(bias).max() > 8
    np.testing.assert_allclose(draws.std(axis=0) / one.error, 1, atol=0.12)
    assert np.abs(one.xi / one.error).max() < 4
    again = isotropic_draws(background, grid, edges, seen.astype(float), draws=1, seed=1)
    np.testing.assert_allclose(again[0], draws[0])


def test_random_skies_have_the_correlation_of_their_power():
    """Mean of 100 Gaussian skies with noise, half a sky, no ring means removed: xi of the sum over l. Normalisation."""
    grid, power = RingGrid(36, 72), np.array([3.0, 1.0, 0.5])
    degree = np.repeat(np.arange(4), 2 * np.arange(4) + 1)
    rng = np.random.default_rng(4)
    draws = rng.standard_normal((100, 16)) * np.sqrt(np.concatenate([[0], power]))[degree]
    skies = np.asarray(synthesis(draws, grid)) + rng.standard_normal((100, *grid.shape))
    weight = (grid.declination > -0.2).astype(float)
    edges = np.radians([0, 10, 30, 60, 90])
    found = [two_point(s, grid, edges, weight, np.ones(36), remove_ring_means=False) for s in skies[:40]]
    xi = np.array([f.xi for f in found])
    pull = (xi.mean(axis=0) - two_point_of_power(power, edges)) / xi.std(axis=0) * np.sqrt(40)
    assert np.abs(pull).max() < 3
    zero = np.array([f.variance for f in found])
    assert (zero.mean() - float(xi_of_power(np.array([0, 3, 1, 0.5]), 1.0))) / zero.std() * np.sqrt(40) < 3


def test_errors_of_power_from_errors_of_xi():
    """Covariance of least squares: 2000 draws of independent errors."""
    power, edges = np.array([2.0, 1, 0.5]), TEN
    error = np.linspace(0.1, 0.3, 18)
    rng = np.random.default_rng(0)
    xi = two_point_of_power(power, edges) + error * rng.standard_normal((2000, 18))
    found = np.array([power_of_two_point(x, edges, 3, error)[0] for x in xi])
    _, covariance = power_of_two_point(xi[0], edges, 3, error)
    size = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(np.cov(found.T) / np.outer(size, size), covariance / np.outer(size, size), atol=0.1)
    np.testing.assert_allclose((found.mean(axis=0) - power) / size * np.sqrt(2000), 0, atol=4)


def test_pair_counts_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 2 * np.pi, 200), np.arcsin(rng.uniform(-1, 1, 200))
    ra[:3], dec[:3] = 1.0, 0.5  # three events in one direction: three pairs at zero
    ra[3], dec[3] = 1.0 + np.pi, -0.5  # and one opposite
    n = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    eta = np.array(
        [math.atan2(np.linalg.norm(np.cross(n[a], n[b])), n[a] @ n[b]) for a in range(200) for b in range(a)]
    )
    expected = np.histogram(eta, TEN)[0]
    found = pair_counts(ra, dec, TEN)
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == 200 * 199 // 2
    np.testing.assert_array_equal(pair_counts(ra, dec, TEN[1:5]), expected[1:4])


def test_expected_pairs_of_an_even_sky():
    """n (n - 1) / 2 times the share of the sky's solid angle."""
    grid = RingGrid(90, 180)
    even = np.repeat(grid.solid_angle[:, None], 180, axis=1)
    expected = 1000 * 999 / 2 * -np.diff(np.cos(TEN)) / 2
    found = expected_pairs(even, grid, 1000, TEN)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert found.sum() == pytest.approx(1000 * 999 / 2)


def test_expected_pairs_are_the_mean_of_the_draws():
    """A steep exposure with a hole; and the drawn lists find an excess of close pairs that was put in."""
    grid = RingGrid(36, 72)
    exposure = (grid.solid_angle * np.clip(np.cos(grid.declination + 0.5), 0, 1) ** 2)[:, None] * np.ones(72)
    exposure[:, 10:20] = 0
    draws = isotropic_pairs(exposure, grid, 300, TEN, draws=200)
    mean = expected_pairs(exposure, grid, 300, TEN)
    pull = (draws.mean(axis=0) - mean) / (draws.std(axis=0) / np.sqrt(200))
    assert np.abs(pull).max() < 3.5
    np.testing.assert_array_equal(draws.sum(axis=1), 300 * 299 // 2)
    even = isotropic_pairs(np.repeat(grid.solid_angle[:, None], 72, axis=1), grid, 500, np.radians([0, 1, 2, 180]), 100)
    assert even[:, 0].mean() == pytest.approx(500 * 499 / 2 * (1 - np.cos(np.radians(1))) / 2, rel=0.12)


def test_errors():
    sky, one = np.zeros(TINY.shape), np.array([0.1, 1.0])
    for edges in ([1.0], [1.0, 0.5], [-0.1, 1], [0, 4]):
        with pytest.raises(InputError, match="must rise within 0 to pi"):
            two_point(sky, TINY, np.array(edges))
    with pytest.raises(InputError, match="zero everywhere: no cell"):
        two_point(sky, TINY, one, np.zeros(6))
    with pytest.raises(InputError, match=r"weight has shape \(7,\)"):
        two_point(sky, TINY, one, np.zeros(7))
    with pytest.raises(InputError, match="variance is negative or not finite"):
        two_point(sky, TINY, one, variance=-np.ones(6))
    with pytest.raises(InputError, match=r"must have shape \(6, 8\) and be finite"):
        two_point(sky + np.nan, TINY, one)
    with pytest.raises(InputError, match="one finite value for each of the 18 bins"):
        power_of_two_point(np.ones(3), TEN, 2)
    with pytest.raises(InputError, match="do not determine C_l to l = 19"):
        power_of_two_point(np.ones(18), TEN, 19)
    with pytest.raises(InputError, match="2 bins between 0 and 20 degrees do not determine"):
        power_of_two_point(np.ones(2), TEN[:3], 3)
    with pytest.raises(InputError, match="at least 3 degrees wide here, not 1; use wider"):
        expected_pairs(np.ones(TINY.shape), TINY, 10, np.radians([0, 1, 2]))
    with pytest.raises(InputError, match="exposure is zero everywhere"):
        isotropic_pairs(np.zeros(TINY.shape), TINY, 10, TEN)
