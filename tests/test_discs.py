"""Significance of discs, against dense matrices, profile likelihoods by scipy, and isotropic skies."""

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.discs import DiscScan, coin_cumulants, disc_map, information_times, isotropy, multipoles_removed
from diffcr.inference.maps import Exposure, exposures, iterative_map, sky_map
from diffcr.inference.post_trial import draw_sky
from helpers import asimov, dipole_sky, drawn
from scipy import optimize, special

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

HAWC = Site("HAWC", np.radians(19.0), 0.0, np.radians(57.0))
AUGER = Site("Auger", np.radians(-35.2), 0.0, np.radians(80.0))
ICECUBE = Site("IceCube", np.radians(-90.0), 0.0, np.radians(65.0))
SMALL, GRID = RingGrid(12, 24), RingGrid(36, 72)


def horizon(place: Site, grid: RingGrid, power: float = 1.0) -> np.ndarray:
    """Acceptance cos^(power) at the centres of the cells, times solid angle, sum 1."""
    dec, hour = grid.declination[:, None], 2 * np.pi * np.arange(grid.n_ra) / grid.n_ra
    cosine = np.sin(place.latitude) * np.sin(dec) + np.cos(place.latitude) * np.cos(dec) * np.cos(hour)
    response = np.where(cosine >= np.cos(place.zenith_max), np.maximum(cosine, 0) ** power, 0) * np.cos(dec)
    return response / response.sum()


def uneven(grid: RingGrid, events: float, phase: float = 0.5) -> np.ndarray:
    rate = 1 + 0.3 * np.cos(grid.sidereal_time - phase) + 0.2 * np.sin(2 * grid.sidereal_time)
    return events * rate / rate.sum()


def disc(grid: RingGrid, ring: int, column: int, radius: float) -> np.ndarray:
    """1 in the cells whose centres lie within the radius of the centre of a cell."""
    flat = np.cos(grid.declination)[:, None]
    vectors = np.stack(
        [
            flat * np.cos(grid.right_ascension),
            flat * np.sin(grid.right_ascension),
            np.sin(grid.declination)[:, None] * np.ones(grid.n_ra),
        ],
        -1,
    )
    inside = vectors @ vectors[ring, column] >= np.cos(radius) - 1e-12
    inside[ring, column] = True
    return inside.astype(float)


def time_and_cell(grid: RingGrid) -> np.ndarray:
    """Right-ascension bin of each time bin and hour-angle bin, (tau, h)."""
    return (np.arange(grid.n_ra)[:, None] - np.arange(grid.n_ra)) % grid.n_ra


def design(grid: RingGrid, maps, groups: int) -> np.ndarray:
    """Derivatives of ln mu of every (time, local cell) by amplitudes of maps, rates and acceptances: dense."""
    n, cells = grid.n_ra, grid.n_ring * grid.n_ra
    column = time_and_cell(grid)
    seen = np.stack([m[:, column].transpose(1, 0, 2).reshape(n, cells) for m in maps], -1)  # (tau, cell, map)
    rates = np.zeros((n, cells, groups))
    rates[np.arange(n), :, np.arange(n) * groups // n] = 1
    local = np.broadcast_to(np.eye(cells), (n, cells, cells))
    return np.concatenate([seen, rates, local], -1).reshape(n * cells, -1)


def dense_information(seen: list[Exposure], grid: RingGrid, maps) -> np.ndarray:
    """Fisher information on the amplitudes of maps, rates and acceptances of every configuration eliminated."""
    total = 0.0
    for e in seen:
        mu = (e.rate[:, None] * e.local.ravel()).ravel()
        columns = design(grid, maps, e.groups)
        columns, mu = columns[mu > 0], mu[mu > 0]
        # Acceptances and sky that are never seen have no row.
        keep = np.r_[np.ones(len(maps), bool), np.any(columns[:, len(maps) :], axis=0)]
        columns = columns[:, keep]
        full = columns.T @ (mu[:, None] * columns)
        k = len(maps)
        total = total + full[:k, :k] - full[:k, k:] @ np.linalg.pinv(full[k:, k:], hermitian=True) @ full[k:, :k]
    return total


def two_sites(grid: RingGrid, events: float, sky=None):
    flat = np.ones(grid.shape) if sky is None else sky
    return combine(
        [
            asimov(HAWC, grid, horizon(HAWC, grid, 2.0), uneven(grid, events), flat),
            asimov(ICECUBE, grid, horizon(ICECUBE, grid), uneven(grid, events / 2, 2.0), flat),
        ]
    )


# Information ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radius", "rate_bins", "both"),
    [(20.0, 24, False), (45.0, 24, False), (30.0, 6, False), (30.0, 12, True), (1.0, 24, True)],
)
def test_information_is_that_of_the_dense_matrix(radius, rate_bins, both):
    """One amplitude, all rates and acceptances free: the Schur complement of the matrix over 24 + 288 nuisances."""
    counts = two_sites(SMALL, 1e5)
    if not both:
        counts = asimov(HAWC, SMALL, horizon(HAWC, SMALL, 2.0), uneven(SMALL, 1e5), np.ones(SMALL.shape))
    seen = exposures(counts, rate_bins)
    scan = DiscScan(seen, SMALL, np.radians(radius))
    places = [(6, 0), (7, 5), (9, 17), (5, 11)]
    exact = dense_information(seen, SMALL, [disc(SMALL, *p, np.radians(radius)) for p in places])
    for k, p in enumerate(places):
        assert 2 * scan.cumulants[0][p] - scan.coupling[p] == pytest.approx(exact[k, k], rel=1e-9), p


def test_information_times_a_map_is_that_of_the_dense_matrix():
    rng = np.random.default_rng(0)
    for e in exposures(two_sites(SMALL, 1e5), 12):
        maps = rng.standard_normal((3, *SMALL.shape))
        exact = dense_information([e], SMALL, maps)
        mine = np.einsum("pra,qra->pq", maps, np.stack([information_times(e, m) for m in maps]))
        np.testing.assert_allclose(mine, exact, rtol=1e-9)


def test_discs_are_those_of_their_centres():
    """The disc around cell (ring, column), also across RA 0 and over a pole; the pole's own ring is one disc."""
    counts = asimov(ICECUBE, GRID, horizon(ICECUBE, GRID), uneven(GRID, 1e6), np.ones(GRID.shape))
    scan = DiscScan(exposures(counts), GRID, np.radians(20))
    values = np.random.default_rng(1).random(GRID.shape) * (scan.background > 0)
    sums = scan.summed(values)
    for place in ((0, 5), (2, 71), (9, 0), (12, 40)):
        assert sums[place] == pytest.approx((values * disc(GRID, *place, np.radians(20))).sum(), rel=1e-11)
    assert np.all(sums[30:] == 0)
    both = scan.summed(np.stack([values, 2 * values]))
    np.testing.assert_allclose(both[1], 2 * both[0])


def test_a_disc_smaller_than_a_cell_is_its_cell():
    counts = asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e7), np.ones(GRID.shape))
    scan = DiscScan(exposures(counts), GRID, np.radians(0.1))
    np.testing.assert_allclose(scan.background_sum, scan.background, rtol=1e-9, atol=1e-6)


def test_discs_that_cover_whole_rings_measure_nothing():
    """Seen from the pole, a disc around the pole is a sum of whole rings: gauge, not signal."""
    counts = asimov(ICECUBE, GRID, horizon(ICECUBE, GRID), uneven(GRID, 1e7), np.ones(GRID.shape))
    seen = exposures(counts)
    scan = DiscScan(seen, GRID, np.radians(20.0))
    assert np.all(scan.information[0] == 0) and np.all(scan.information[9] > 0)
    shown = disc_map(sky_map(counts), np.radians(20.0))
    assert np.all(np.isnan(shown.significance[0])) and np.all(np.isnan(shown.contrast[30:]))


def test_cumulants_are_those_of_a_coin():
    """kappa_k from numerical derivatives: ln(1 - y + y e^s) by its power series around 0, in mpmath."""
    import mpmath

    for y in (0.1, 0.5, 0.93):
        with mpmath.workdps(40):
            series = mpmath.taylor(lambda s, y=y: mpmath.log(1 - y + y * mpmath.e**s), 0, 10)
        exact = [float(c * mpmath.factorial(k)) for k, c in enumerate(series)]
        np.testing.assert_allclose([p(y) for p in coin_cumulants(10)], exact, rtol=1e-9, atol=1e-12)


# Significance --------------------------------------------------------------------------------------------------


def profile(seen, grid, inside, data_sky, s):
    """max over rates of ln L of exp(s T) minus that of s = 0, over log-rates by scipy; acceptance profiled exactly."""
    column = time_and_cell(grid)
    seen_disc = inside[:, column].transpose(1, 0, 2)  # (tau, ring, h)
    total = 0.0
    for e, sky in zip(seen, data_sky, strict=True):
        width = grid.n_ra // e.groups

        def minus(v, e=e, s=s, width=width):
            rate = e.rate * np.exp(np.repeat(v, width))
            mu = np.exp(s * seen_disc)
            x = np.einsum("t,trh->rh", rate, mu)
            value = e.grouped(e.time) @ v - np.sum(e.local * np.log(x))
            expected = np.einsum("t,trh,rh->t", rate, mu, e.local / x)
            return -value, -(e.grouped(e.time) - e.grouped(expected))

        best = optimize.minimize(
            minus, np.zeros(e.groups), jac=True, method="BFGS", options={"gtol": 1e-9 * e.total, "maxiter": 500}
        )
        total += s * np.sum(sky * inside) - best.fun
    return total


@pytest.mark.parametrize("size", [0.001, -0.3, 0.6])
@pytest.mark.parametrize("both", [False, True])
def test_significance_is_the_profile_likelihood_ratio(size, both):
    """A disc of tiny, negative and large amplitude, 24 rates refitted by scipy at every amplitude."""
    place, radius = (4, 9), np.radians(35)  # in both fields of view
    inside = disc(SMALL, *place, radius)
    local, events = horizon(HAWC, SMALL, 2.0), 3e4
    sky = 1 + size * inside + 0.02 * np.random.default_rng(4).standard_normal(SMALL.shape)
    parts = [drawn(HAWC, SMALL, local, uneven(SMALL, events), sky, 1)]
    if both:
        parts.append(drawn(ICECUBE, SMALL, horizon(ICECUBE, SMALL), uneven(SMALL, events, 2.0), sky, 2))
    counts = combine(parts)
    seen = exposures(counts, 24)
    skies = [e.sky for e in seen]
    best = optimize.minimize_scalar(
        lambda s: -profile(seen, SMALL, inside, skies, s), bounds=(-1.5, 1.5), method="bounded",
        options={"xatol": 1e-7},
    )  # fmt: skip
    shown = disc_map(sky_map(counts, (1, 1), 24), radius)
    exact = np.sign(best.x) * np.sqrt(-2 * best.fun)
    # Rates are refitted to second order about isotropy: what is left out is a part of s of the result.
    assert shown.significance[place] == pytest.approx(exact, rel=0.3 * abs(best.x) + 1e-4)
    assert shown.amplitude[place] == pytest.approx(np.expm1(best.x), rel=0.3 * abs(best.x) + 1e-4)
    if abs(size) > 0.1:
        assert np.sign(shown.significance[place]) == np.sign(size)


@pytest.mark.parametrize("size", [1e-4, -1e-4, 3e-3])
@pytest.mark.parametrize("place", [HAWC, AUGER, ICECUBE], ids=lambda p: p.name)
def test_slope_against_injected_excesses_is_one(place, size):
    """Counts equal to their expectation for one hot disc: S = amplitude sqrt(information), to 1 %, with the sign."""
    ring, radius = int((np.degrees(np.clip(place.latitude, -0.9, 0.9)) + 90) // 5), np.radians(20)
    sky = 1 + size * disc(GRID, ring, 33, radius)
    counts = asimov(place, GRID, horizon(place, GRID), uneven(GRID, 1e9), sky)
    shown = disc_map(sky_map(counts), radius)
    scan = DiscScan(exposures(counts), GRID, radius)
    expected = size * np.sqrt(scan.information[ring, 33])
    assert shown.significance[ring, 33] == pytest.approx(expected, rel=0.01)
    assert shown.amplitude[ring, 33] == pytest.approx(size, rel=0.01)
    assert shown.amplitude_error[ring, 33] == pytest.approx(size / expected, rel=0.01)
    hottest = np.unravel_index(np.nanargmax(np.sign(size) * shown.significance), GRID.shape)
    assert hottest == (ring, 33)


def isotropic_pulls(place, grid, events, radius, skies, seed=0, columns=slice(None)):
    """Significances of isotropic skies, judged as data are: (sky, ring, ra)."""
    counts = asimov(place, grid, horizon(place, grid), uneven(grid, events), np.ones(grid.shape))
    seen = exposures(counts)
    scan = DiscScan(seen, grid, radius)
    rng = np.random.default_rng(seed)
    sky, background = (np.stack(x) for x in zip(*(draw_sky(seen, rng) for _ in range(skies)), strict=True))
    return scan.significance(*scan.null_sums(sky, background))[0]


@pytest.mark.parametrize("place", [HAWC, AUGER, ICECUBE], ids=lambda p: p.name)
@pytest.mark.parametrize("degrees", [10.0, 45.0])
def test_significance_of_isotropy_has_width_one(place, degrees):
    """Where Li-Ma's is 1.5, 0.9 and 0.7 wide at 45 degrees."""
    grid = RingGrid(24, 48)
    found = isotropic_pulls(place, grid, 5e4, np.radians(degrees), 100)
    # Discs of a sky overlap: the spread between skies of each sky's mean square is the error.
    squares = np.nanmean(found**2, axis=(1, 2))
    error = squares.std() / np.sqrt(len(squares))
    assert error < 0.08
    assert abs(squares.mean() - 1) < 4 * error, (squares.mean(), error)
    assert abs(np.nanmean(found)) < 0.1


def test_data_are_judged_as_the_isotropic_skies_are():
    """`disc_map` of a free map and `null_sums` of its marginals: one number, so that post-trial compares like."""
    counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL, 2.0), uneven(SMALL, 1e5), np.ones(SMALL.shape), 8)
    seen = exposures(counts)
    scan = DiscScan(seen, SMALL, np.radians(30))
    expected = sum(e.background for e in seen)
    other, _ = scan.significance(*scan.null_sums(sum(e.sky for e in seen), expected))
    np.testing.assert_allclose(disc_map(sky_map(counts), np.radians(30)).significance, other, rtol=1e-9)
    np.testing.assert_allclose(isotropy(sky_map(counts)).expected, expected)


def test_weights_count_as_effective_events():
    """Weights of spread 0.8: significances of isotropy stay of width one; unscaled they would be 1.4 wide."""
    found = []
    for seed in range(25):
        counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 2e5), np.ones(SMALL.shape), seed, 0.8)
        found.append(disc_map(iterative_map(counts, 1, (1, 1)), np.radians(20)).significance)
    assert np.nanmean(np.square(found)) == pytest.approx(1, abs=0.2)


# The smoothed free map -----------------------------------------------------------------------------------------


def dense_contrast_variance(counts, grid, radius, places):
    """Variance of sum B (u - ring mean) / sum B over discs, all cells, rates and acceptances free; by pinv."""
    seen = exposures(counts, 12)
    n = grid.n_ra
    cells = grid.n_ring * n
    column = time_and_cell(grid)
    size = cells + sum(e.groups for e in seen)
    matrix = np.zeros((size, size))
    first = cells
    background = sum(e.background for e in seen)
    for e in seen:
        index = np.arange(cells).reshape(grid.shape)[:, column].transpose(1, 0, 2).reshape(n, cells)
        mu = e.rate[:, None] * e.local.ravel()
        rows = np.zeros((n, cells, size))
        np.put_along_axis(rows, index[:, :, None], 1.0, 2)
        rows[np.arange(n), :, first + np.arange(n) * e.groups // n] += 1
        # The acceptance of each local cell is eliminated by subtracting the mean over time.
        rows -= np.einsum("t,tcp->cp", e.rate, rows)
        matrix += np.einsum("tc,tcp,tcq->pq", mu, rows, rows, optimize=True)
        first += e.groups
    inverse = np.linalg.pinv(matrix, hermitian=True, rcond=1e-11)
    out = []
    for place in places:
        inside = disc(grid, *place, radius) * background
        share = inside.sum(1, keepdims=True) / np.maximum(background.sum(1, keepdims=True), 1e-300)
        # Ring means, with the weights of the background, are the gauge.
        weight = np.zeros(size)
        weight[:cells] = ((inside - share * background) / inside.sum()).ravel()
        out.append(weight @ inverse @ weight)
    return out


@pytest.mark.parametrize(("modulation", "tolerance"), [(0.0, 1e-7), (0.05, 2e-3), (0.3, 0.02)])
def test_contrast_variance_is_that_of_the_dense_inverse(modulation, tolerance):
    """To rounding for an even rate; of what a modulated rate couples between acceptance and sky a part is left out."""
    grid, radius = RingGrid(8, 12), np.radians(40)
    rate = 1 + modulation * np.cos(grid.sidereal_time - 0.5)
    sites = [
        asimov(HAWC, grid, horizon(HAWC, grid), 1e4 * rate, np.ones(grid.shape)),
        asimov(ICECUBE, grid, horizon(ICECUBE, grid), 5e3 * rate, np.ones(grid.shape)),
    ]
    for counts in (sites[0], combine(sites)):
        places = [(4, 0), (5, 7), (3, 11)]
        exact = dense_contrast_variance(counts, grid, radius, places)
        mine = DiscScan(exposures(counts, 12), grid, radius).contrast_variance
        np.testing.assert_allclose([mine[p] for p in places], exact, rtol=tolerance)


def test_errors_of_contrast_and_width_of_li_ma_are_their_scatter():
    """Isotropic skies with the free map of each: the scatter of contrast over error, and of Li-Ma over its width."""
    radius, local, flat = np.radians(40), horizon(HAWC, SMALL, 2.0), np.ones(SMALL.shape)
    found = [
        disc_map(sky_map(drawn(HAWC, SMALL, local, uneven(SMALL, 3e6), flat, s), (1, 1)), radius) for s in range(70)
    ]
    pulls = np.array([f.contrast / f.error for f in found])
    li_ma = np.array([f.li_ma for f in found])
    judged = np.isfinite(pulls).all(0)
    assert judged.sum() > 100
    squares = np.nanmean(pulls[:, judged] ** 2, axis=1)
    assert squares.mean() == pytest.approx(1, abs=4 * squares.std() / np.sqrt(len(squares)))
    width = np.mean([f.li_ma_width for f in found], axis=0)[judged]
    ratio = np.sqrt(np.mean(li_ma[:, judged] ** 2, axis=0)) / width
    assert np.mean(ratio) == pytest.approx(1, abs=0.1)
    # It is not 1: as a significance Li-Ma's would be wrong by this factor here.
    assert np.median(width) > 1.2


def test_a_smoothed_map_shows_the_smoothed_sky():
    """Contrast is counts over background: the mean of the true sky over the disc, weighted with the exposure."""
    sky = dipole_sky(GRID, (0.02, 0.01))
    free = sky_map(asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e9), sky), (1, 1))
    shown = disc_map(free, np.radians(15))
    exposed = free.background > 0
    inside = disc(GRID, 20, 3, np.radians(15))
    gauged = sky / np.maximum(sky.sum(1, where=exposed, keepdims=True) / 72, 0.5) - 1
    wanted = (inside * free.background * np.where(exposed, gauged, 0)).sum() / (inside * free.background).sum()
    assert shown.contrast[20, 3] == pytest.approx(wanted, rel=1e-4)
    assert shown.data[20, 3] == pytest.approx((inside * free.data).sum())
    assert shown.background[20, 3] == pytest.approx((inside * free.background).sum())
    known = shown.data[20, 3] * np.log(shown.data[20, 3] / shown.background[20, 3])
    known -= shown.data[20, 3] - shown.background[20, 3]
    assert shown.li_ma[20, 3] == pytest.approx(np.sign(wanted) * np.sqrt(2 * known), rel=1e-6)


# Multipoles in the null hypothesis -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dipole_and_spot():
    """A dipole of 9 sigma per disc alone, and with a hot spot of 3e-3."""
    dipole = dipole_sky(GRID, (3e-3, 2e-3))
    spot = 1 + 3e-3 * disc(GRID, 25, 12, np.radians(10))
    local, rate = horizon(HAWC, GRID), uneven(GRID, 1e9)
    return [sky_map(asimov(HAWC, GRID, local, rate, sky)) for sky in (dipole, dipole * spot)]


def test_a_fitted_dipole_leaves_no_significance(dipole_and_spot):
    pure, _ = dipole_and_spot
    radius = np.radians(20)
    before = disc_map(pure, radius)
    after = disc_map(pure, radius, multipoles_removed(pure, 1))
    assert np.nanmax(np.abs(before.significance)) > 9
    assert np.nanmax(np.abs(after.significance)) < 0.02 * np.nanmax(np.abs(before.significance))
    assert np.nanmax(np.abs(after.contrast)) < 0.02 * np.nanmax(np.abs(before.contrast))
    basis, exact = multipoles_removed(pure, 1).basis, dipole_basis(GRID)
    overlap = np.einsum("pra,qra->pq", basis, exact) / np.sum(exact**2, (1, 2))
    # One multipole each, (1, -1) and (1, 1), of any normalisation.
    assert np.linalg.matrix_rank(overlap, tol=1e-6) == 2
    # They are means over the cells, which at the poles are not the values at the centres.
    np.testing.assert_allclose(basis, np.einsum("pq,qra->pra", overlap, exact), atol=0.02 * np.abs(basis).max())


def test_another_hot_spot_stays(dipole_and_spot):
    _, both = dipole_and_spot
    radius = np.radians(10)
    null = multipoles_removed(both, 1)
    shown = disc_map(both, radius, null)
    scan = DiscScan(both.seen, GRID, radius, null.basis)
    place = (25, 12)
    assert np.unravel_index(np.nanargmax(shown.significance), GRID.shape) == place
    # The refitted dipole takes a part of it, and the information says which.
    assert shown.significance[place] == pytest.approx(3e-3 * np.sqrt(scan.information[place]), rel=0.03)
    assert scan.information[place] < DiscScan(both.seen, GRID, radius).information[place]


@pytest.mark.slow
def test_removed_multipoles_of_weighted_counts_are_in_effective_events():
    """Weights of two throughout are worth as many events as there are: nothing changes."""
    counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 1e6), dipole_sky(SMALL, (0.1, 0.0)), 3)
    names = ("n_sky", "n_time", "n_local", "n_half")
    doubled = counts.replace(
        **{n: 2 * getattr(counts, n) for n in names}, w2={n: 4 * getattr(counts, n) for n in names}
    )
    one, other = (sky_map(c, (1, 1)) for c in (counts, doubled))
    plain, weighted = (multipoles_removed(s, 1) for s in (one, other))
    assert weighted.expected.sum() == pytest.approx(counts.sum_weights, rel=1e-3)
    np.testing.assert_allclose(weighted.expected, plain.expected, rtol=1e-6, atol=1e-6)


def dipole_basis(grid: RingGrid) -> np.ndarray:
    """The real harmonics of l = 1, m != 0, at the centres of the cells, by scipy."""
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    y = special.sph_harm_y(1, 1, np.pi / 2 - dec, ra)
    return np.sqrt(2) * np.stack([y.imag, y.real])


def test_information_with_multipoles_refitted_is_that_of_the_dense_matrix():
    counts = asimov(HAWC, SMALL, horizon(HAWC, SMALL, 2.0), uneven(SMALL, 1e5), np.ones(SMALL.shape))
    seen, radius = exposures(counts, 24), np.radians(35)
    basis = dipole_basis(SMALL)
    scan = DiscScan(seen, SMALL, radius, basis)
    place = (8, 4)
    full = dense_information(seen, SMALL, [disc(SMALL, *place, radius), *basis])
    exact = full[0, 0] - full[0, 1:] @ np.linalg.solve(full[1:, 1:], full[1:, 0])
    assert scan.information[place] == pytest.approx(exact, rel=1e-8)


def test_the_width_is_one_with_multipoles_refitted():
    grid, radius = RingGrid(24, 48), np.radians(45)
    counts = asimov(HAWC, grid, horizon(HAWC, grid), uneven(grid, 5e4), np.ones(grid.shape))
    seen = exposures(counts)
    scan = DiscScan(seen, grid, radius, dipole_basis(grid))
    rng = np.random.default_rng(0)
    sky, background = (np.stack(x) for x in zip(*(draw_sky(seen, rng) for _ in range(100)), strict=True))
    squares = np.nanmean(scan.significance(*scan.null_sums(sky, background))[0] ** 2, axis=(1, 2))
    assert squares.mean() == pytest.approx(1, abs=4 * squares.std() / np.sqrt(100))
    plain = DiscScan(seen, grid, radius)
    assert np.all(scan.information <= plain.information)


def test_a_radius_must_be_one():
    counts = asimov(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 1e5), np.ones(SMALL.shape))
    for radius in (0.0, np.pi, -0.1):
        with pytest.raises(InputError, match="radius of a disc must lie between 0 and 180 degrees, not"):
            DiscScan(exposures(counts), SMALL, radius)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "events"), [(HAWC, 1e8), (AUGER, 32187), (ICECUBE, 1e8)], ids=["HAWC", "Auger", "pole"]
)
@pytest.mark.parametrize("degrees", [5.0, 20.0, 45.0])
def test_significance_of_isotropy_is_standard_normal(place, events, degrees):
    """Not the width alone: tails beyond 2 and 3 sigma, on a finer grid, with few events too."""
    if events < 1e5 and degrees < 10:
        pytest.skip("a few events per disc have no Gaussian significance")
    found = isotropic_pulls(place, GRID, events, np.radians(degrees), 160, seed=2)
    squares = np.nanmean(found**2, axis=(1, 2))
    assert squares.mean() == pytest.approx(1, abs=4 * squares.std() / np.sqrt(len(squares)) + 0.01)
    finite = np.isfinite(found).all(0)
    for level, share in ((1, 0.31731), (2, 0.0455), (3, 0.0027)):
        per_sky = (np.abs(found[:, finite]) > level).mean(1)
        assert per_sky.mean() == pytest.approx(share, abs=4 * per_sky.std() / np.sqrt(len(per_sky)))
