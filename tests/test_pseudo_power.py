"""Pseudo-C_l: kernels against dense sums and healpy, unbiased decoupling of random skies, bands, published factors."""

import healpy
import numpy as np
import pytest
from diffcr.inference.multipoles import free_multipoles
from diffcr.inference.pseudo_power import (
    cut_sky,
    decoupled_power,
    grid_rings,
    healpix_rings,
    isotropic_band,
    poisson_variance,
    pseudo_covariance,
    pseudo_multipoles,
    pseudo_power,
    remove_ring_means,
    ring_products,
)

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis

FINE = RingGrid(180, 360)
MIDDLE = RingGrid(90, 180)
SMALL = RingGrid(12, 16)
WINDOWS = {"IceCube": (-90, -25), "HAWC": (-26, 64), "Auger": (-90, 45), "HAWC+IceCube": (-90, 64)}
NARROW = [(1, 1), (2, 4), (5, 7), (8, 10), (11, 13), (14, 16)]


def window(grid, name):
    """Solid-angle fraction of each ring between two declinations."""
    low, high = np.sin(np.radians(WINDOWS[name]))
    edges = np.clip(np.sin(grid.declination_edges), low, high)
    return np.diff(edges) / np.diff(np.sin(grid.declination_edges))


def uneven_weight(grid, seed=0):
    """A weight that depends on right ascension, with holes and an unexposed cap."""
    weight = np.random.default_rng(seed).uniform(0.2, 1, grid.shape)
    weight[: grid.n_ring // 4] = 0
    weight[grid.n_ring // 2, 3:5] = 0
    return weight


def dense_basis(grid, l_max):
    """m != 0 harmonics averaged over the cells, shape (param, cell), by synthesis of unit vectors."""
    degree, order = free_multipoles(l_max)
    unit = np.zeros((len(degree), (l_max + 1) ** 2))
    unit[np.arange(len(degree)), degree**2 + degree + order] = 1
    return np.asarray(synthesis(unit, grid, cell_average=True)).reshape(len(degree), -1)


def removal(weight):
    """Weighted ring means removed, then weighted: W (1 - mean), dense over all cells."""
    n_ring, n = weight.shape
    out = np.zeros((n_ring * n, n_ring * n))
    for r, w in enumerate(weight):
        if w.any():
            place = slice(r * n, (r + 1) * n)
            out[place, place] = np.diag(w) @ (np.eye(n) - np.outer(np.ones(n), w) / w.sum())
    return out


def test_kernel_and_noise_are_the_dense_sums_over_all_cells():
    """K = R^T Omega W P R and N = R^T Omega W P V (W P)^T Omega R with matrices over cells written out."""
    l_max, weight = 5, uneven_weight(SMALL)
    variance = np.random.default_rng(1).uniform(1, 2, SMALL.shape)
    cut = cut_sky(grid_rings(SMALL, l_max), weight, variance)
    basis, area = dense_basis(SMALL, l_max), np.repeat(SMALL.solid_angle, SMALL.n_ra)
    project = (basis * area) @ removal(weight)
    (block,) = cut.blocks
    np.testing.assert_allclose(block.kernel, project @ basis.T, atol=1e-13)
    np.testing.assert_allclose(block.noise, (project * variance.ravel()) @ project.T, atol=1e-13)
    degree, _ = free_multipoles(l_max)
    same = degree == np.arange(1, l_max + 1)[:, None]
    squares = same @ (project @ basis.T) ** 2 @ same.T
    np.testing.assert_allclose(cut.coupling, squares / (2 * cut.l + 1)[:, None], rtol=1e-10)
    sky = np.random.default_rng(2).standard_normal(SMALL.shape)
    np.testing.assert_allclose(pseudo_multipoles(sky, cut), project @ sky.ravel(), atol=1e-13)
    kept = np.linspace(0.2, 1, 6)
    lossy = cut_sky(grid_rings(SMALL, l_max), weight, transfer=kept)
    _, order = free_multipoles(l_max)
    squares = same @ (project @ (basis.T * kept[np.abs(order)])) ** 2 @ same.T
    np.testing.assert_allclose(lossy.coupling, squares / (2 * cut.l + 1)[:, None], rtol=1e-10)


def test_m_zero_vanishes_and_declination_structure_changes_nothing():
    """Any function of declination added to the sky leaves the pseudo-multipoles as they are."""
    weight, rings = uneven_weight(SMALL), grid_rings(SMALL, 4)
    cut = cut_sky(rings, weight)
    sky = np.random.default_rng(2).standard_normal(SMALL.shape)
    shifted = sky + np.linspace(-5, 7, 12)[:, None]
    shifted[weight == 0] = np.nan
    np.testing.assert_allclose(pseudo_multipoles(shifted, cut), pseudo_multipoles(sky, cut), atol=1e-13)
    left = remove_ring_means(rings, sky, weight) * weight.ravel()
    np.testing.assert_allclose(rings.ring_sums(left), 0, atol=1e-13)


@pytest.mark.parametrize("varying", ["neither", "rings"])
def test_fast_path_of_declination_weights_is_the_general_one(varying):
    weight = np.linspace(0, 1, 12) if varying == "rings" else np.ones(12)
    variance = 1 + np.linspace(0, 1, 12) ** 2
    rings = grid_rings(SMALL, 5)
    fast = cut_sky(rings, weight, variance)
    full = np.repeat(variance[:, None], 16, axis=1)
    # A noise that differs along one unexposed ring, or by a hair, takes the general path.
    full = full * (1 + 2e-9 * np.cos(SMALL.right_ascension))
    general = cut_sky(rings, weight, full)
    assert len(fast.blocks) == 10 and len(general.blocks) == 1
    np.testing.assert_allclose(fast.coupling, general.coupling, atol=1e-12)
    np.testing.assert_allclose(fast.noise, general.noise, rtol=1e-7)
    power = np.array([5.0, 3, 2, 1, 1])
    np.testing.assert_allclose(pseudo_covariance(fast, power), pseudo_covariance(general, power), rtol=1e-7, atol=1e-12)


def test_ring_products_and_sums_on_a_grid_that_does_not_resolve_them():
    """HEALPix nside 4: rings of 4, 8, 12, 16 pixels; sums of W Y Y over all pixels by healpy's own directions."""
    rings = healpix_rings(4, 4)
    weight = np.random.default_rng(0).uniform(size=192)
    theta, phi = healpy.pix2ang(4, np.arange(192))
    degree, order = free_multipoles(4)
    basis = np.empty((len(degree), 192))
    for k, (l, m) in enumerate(zip(degree, order, strict=True)):
        alm = np.zeros(healpy.Alm.getsize(4), complex)
        alm[healpy.Alm.getidx(4, l, abs(m))] = (-1.0) ** m * (1 if m > 0 else -1j) / np.sqrt(2)
        basis[k] = healpy.alm2map(alm, 4)
    np.testing.assert_allclose(
        rings.profile[2, 1] * np.cos(rings.first), basis[degree.searchsorted(2) + 2][rings.starts]
    )
    dense = (basis * weight) @ basis.T
    np.testing.assert_allclose(ring_products(rings.profile, *rings.sums(weight, 8)), dense, atol=1e-12)
    assert theta[0] < theta[-1] and phi[0] == pytest.approx(rings.first[0])


def test_full_sky_is_anafast_without_m_zero():
    """On the whole sky nothing couples: pseudo-C_l = 2l/(2l+1) C_l, and equals healpy's of the map without m = 0."""
    nside, l_max = 16, 8
    rng = np.random.default_rng(3)
    size = healpy.Alm.getsize(l_max)
    alm = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    alm[: l_max + 1] = alm[: l_max + 1].real
    sky = healpy.alm2map(alm, nside)
    alm[: l_max + 1] = 0
    cut = cut_sky(healpix_rings(nside, l_max), np.ones(12 * nside**2))
    np.testing.assert_allclose(pseudo_power(sky, cut), healpy.alm2cl(alm)[1:], rtol=2e-3)
    np.testing.assert_allclose(
        pseudo_power(sky, cut), healpy.anafast(healpy.alm2map(alm, nside), iter=0)[1 : l_max + 1], rtol=1e-3
    )
    np.testing.assert_allclose(cut.coupling, np.diag(2 * cut.l / (2 * cut.l + 1)), atol=2e-3)
    np.testing.assert_allclose(
        decoupled_power(sky, cut).power, healpy.alm2cl(alm)[1:] * (2 * cut.l + 1) / (2 * cut.l), rtol=3e-3
    )


def test_decoupling_of_a_healpix_map_with_an_uneven_exposure():
    """Coarse pixels, weight that depends on right ascension, point values of healpy's skies, 80 skies with noise."""
    nside, l_max = 16, 8
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    weight = np.where(theta > 1.1, 1 + 0.5 * np.cos(phi - 1), 0.0)
    variance = np.where(weight > 0, 16 + 8 * np.sin(phi), 0)
    cut = cut_sky(healpix_rings(nside, l_max), weight, variance)
    power = np.arange(1.0, 9) ** -1
    rng = np.random.default_rng(6)
    size = healpy.Alm.getsize(l_max)
    degree, order = healpy.Alm.getlm(l_max)
    scale = np.sqrt(np.concatenate([[0], power])[degree] / np.where(order > 0, 2, 1))
    skies = []
    for _ in range(80):
        alm = scale * (rng.standard_normal(size) + 1j * rng.standard_normal(size) * (order > 0))
        skies.append(healpy.alm2map(alm, nside) + rng.standard_normal(len(theta)) * np.sqrt(variance))
    found = decoupled_power(np.array(skies), cut, [(1, 1), (2, 3), (4, 5), (6, 8)], power, power)
    truth = found.window @ power
    assert np.abs((found.power.mean(axis=0) - truth) / found.error * np.sqrt(80)).max() < 3.3
    np.testing.assert_allclose(found.power.std(axis=0) / found.error, 1, atol=0.3)
    assert np.max(found.noise / found.error * np.sqrt(80)) > 4


@pytest.mark.parametrize(
    ("name", "printed"), [("IceCube", 0.0397), ("HAWC", 0.65), ("Auger", 0.894), ("HAWC+IceCube", 0.986)]
)
def test_share_of_an_equatorial_dipole_in_pseudo_power(name, printed):
    """(3 <W n_x^2>)^2 with <W n_x^2> = [s - s^3/3]/4 between the sines of the declinations; the printed values to the
    pixelisation of their mask."""
    low, high = np.sin(np.radians(WINDOWS[name]))
    exact = (0.75 * ((high - high**3 / 3) - (low - low**3 / 3))) ** 2
    cut = cut_sky(grid_rings(FINE, 3), window(FINE, name))
    true = 4 * np.pi / 9 * (3e-3**2 + 4e-3**2)
    ra, dec = np.meshgrid(FINE.right_ascension, FINE.declination)
    sky = np.cos(dec) * (3e-3 * np.cos(ra) - 4e-3 * np.sin(ra))
    assert pseudo_power(sky, cut)[0] / true == pytest.approx(exact, rel=5e-4)
    assert exact == pytest.approx(printed, rel=0.03)


def master_coupling(grid, weight, l_max):
    """M of MASTER (Hivon et al. 2002) for a declination weight, l = 0 .. l_max, by products of Legendre polynomials."""
    cosine, quadrature = np.polynomial.legendre.leggauss(4 * l_max)
    fine = np.sin(grid.declination_edges)
    degrees = np.arange(2 * l_max + 2)
    edges = np.polynomial.legendre.legvander(fine, 2 * l_max + 2)
    before = np.concatenate([np.ones((len(fine), 1)), edges[:, :-2]], axis=1)
    # (2 L + 1) int P_L = P_{L+1} - P_{L-1}; for L = 0 that is x + const.
    primitive = (edges[:, 1:] - before) / (2 * degrees + 1)
    moments = weight @ np.diff(primitive, axis=0)
    mask = np.pi * moments**2  # W_L = |w_L0|^2 / (2 L + 1)
    table = np.polynomial.legendre.legvander(cosine, 2 * l_max + 1)
    correlation = table @ ((2 * degrees + 1) * mask)
    low = table[:, : l_max + 1]
    triple = (low * (quadrature * correlation)[:, None]).T @ low / 2
    return triple * (2 * degrees[: l_max + 1] + 1) / (4 * np.pi)


@pytest.mark.parametrize(("name", "factor"), [("IceCube", 0.53), ("Auger", 1.18), ("HAWC", 1.32)])
def test_master_times_two_l_over_two_l_plus_one_is_wrong_on_a_cut_sky(name, factor):
    """For C_l = 1/l^2 the pseudo-C_1 of a sky without ring means is this factor times what MASTER predicts."""
    weight = window(FINE, name)
    cut = cut_sky(grid_rings(FINE, 30), weight)
    power = cut.l**-2.0
    master = master_coupling(FINE, weight, 30)[1:, 1:]
    full = master_coupling(FINE, np.ones(180), 30)
    np.testing.assert_allclose(full, np.eye(31), atol=1e-12)
    wrong = 2 / 3 * (master @ power)[0]
    assert (cut.coupling @ power)[0] / wrong == pytest.approx(factor, abs=0.01)


def random_skies(grid, power, number, seed):
    """Gaussian skies of C_l, l = 1 .. l_max, with m = 0, averaged over cells."""
    l_max = len(power)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    scale = np.sqrt(np.concatenate([[0], power]))[degree]
    draws = np.random.default_rng(seed).standard_normal((number, len(degree)))
    return np.asarray(synthesis(draws * scale, grid, cell_average=True))


@pytest.fixture(scope="module")
def skies():
    """200 skies of C_l falling as l^-2 to l = 16, the power that falls, and noise of 1 / B, B uneven."""
    power = np.arange(1.0, 17) ** -2
    variance = 3 * np.linspace(1, 3, 90)
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((200, *MIDDLE.shape)) * np.sqrt(variance)[:, None]
    return random_skies(MIDDLE, power, 200, 7) + noise, power, variance


@pytest.mark.parametrize("name", ["IceCube", "HAWC", "HAWC+IceCube", "uneven"])
def test_decoupled_power_is_unbiased_with_the_right_errors(skies, name):
    """Mean of 200 random skies, ring means removed, against the truth, l = 1 included; and their scatter."""
    sky, power, variance = skies
    weight = uneven_weight(MIDDLE) if name == "uneven" else window(MIDDLE, name)
    cut = cut_sky(grid_rings(MIDDLE, 16), weight, variance)
    bins = NARROW if name == "IceCube" else None
    found = decoupled_power(sky, cut, bins, power, power if bins else None)
    number = 2 * cut.l + 1
    truth = [
        np.average(power[a - 1 : b], weights=number[a - 1 : b]) for a, b in zip(found.low, found.high, strict=True)
    ]
    np.testing.assert_allclose(found.window @ power, truth, rtol=1e-9)
    deviation = (found.power.mean(axis=0) - truth) / found.error * np.sqrt(200)
    assert np.abs(deviation).max() < 3.6 and np.mean(deviation**2) < 2.2
    np.testing.assert_allclose(found.power.std(axis=0) / found.error, 1, atol=0.26)
    assert np.mean(found.power.std(axis=0) / found.error) == pytest.approx(1, abs=0.07)
    # Without the noise term, or without the removal in M, the test above would fail by this much.
    assert np.max(found.noise / found.error * np.sqrt(200)) > 10


def test_correlations_between_bins_are_those_of_the_draws(skies):
    sky, power, variance = skies
    cut = cut_sky(grid_rings(MIDDLE, 16), window(MIDDLE, "IceCube"), variance)
    found = decoupled_power(sky, cut, NARROW, power, power)
    sampled = np.corrcoef(found.power.T)
    expected = found.covariance / np.outer(found.error, found.error)
    np.testing.assert_allclose(sampled, expected, atol=0.25)
    assert np.max(np.abs(expected - np.eye(len(NARROW)))) > 0.1


@pytest.mark.parametrize("kind", ["isotropic", "statistical"])
def test_bands_cover(skies, kind):
    """200 other skies lie in the drawn bands as often as these say; the normal band is near from l = 4 on."""
    sky, power, variance = skies
    cut = cut_sky(grid_rings(MIDDLE, 16), window(MIDDLE, "HAWC"), variance)
    if kind == "isotropic":
        background = np.repeat(1 / variance[:, None], MIDDLE.n_ra, axis=1)
        options, power = {"background": background}, None
        rng = np.random.default_rng(11)
        sky = rng.poisson(background, (200, *MIDDLE.shape)) / background - 1
    else:
        options = {"power": power}
    values = decoupled_power(sky, cut).power
    drawn = isotropic_band(cut, draws=400, seed=1, **options)
    normal = isotropic_band(cut, power=power)
    for band in (drawn, normal):
        for low, high, expected in ((band.low68, band.high68, 0.68), (band.low95, band.high95, 0.95)):
            inside = np.mean((values > low) & (values < high))
            assert inside == pytest.approx(expected, abs=0.04)
    width = drawn.high68 - drawn.low68
    np.testing.assert_allclose((drawn.high68 / width)[8:], (normal.high68 / width)[8:], atol=0.25)
    # Two modes make C_1: its upper limit is far above the normal one.
    assert drawn.high95[0] - drawn.low68[0] > normal.high95[0] - normal.low68[0]


def test_noise_of_unit_weights():
    """Full HEALPix sky: 4 pi / N_pix^2 sum 1/B for each of the 2 l of 2 l + 1 modes; weighted events through w^2."""
    background = np.random.default_rng(0).uniform(50, 150, 3072)
    variance = poisson_variance(background)
    cut = cut_sky(healpix_rings(16, 6), np.ones(3072), variance)
    flat = 4 * np.pi / 3072**2 * np.sum(1 / background)
    np.testing.assert_allclose(cut.noise, flat * 2 * cut.l / (2 * cut.l + 1), rtol=0.03)
    np.testing.assert_allclose(poisson_variance(3 * background, 9 * background), variance)
    np.testing.assert_array_equal(poisson_variance(np.array([0.0, 4.0])), [0, 0.25])


@pytest.mark.parametrize("kind", ["m", "lm"])
def test_a_known_loss_is_divided_out(kind):
    """A map that kept a fraction of each multipole, by order or by degree and order."""
    l_max = 6
    degree, order = free_multipoles(l_max)
    rng = np.random.default_rng(0)
    kept = rng.uniform(0.3, 1, (l_max + 1, l_max + 1) if kind == "lm" else l_max + 1)
    fraction = kept[degree, np.abs(order)] if kind == "lm" else kept[np.abs(order)]
    power = 1.0 / np.arange(1, 7)
    full = np.zeros((300, 49))
    full[:, degree**2 + degree + order] = rng.standard_normal((300, 42)) * np.sqrt(power[degree - 1]) * fraction
    grid = RingGrid(36, 36)
    sky = np.asarray(synthesis(full, grid, cell_average=True))
    weight = window(grid, "HAWC")
    cut = cut_sky(grid_rings(grid, l_max), weight, transfer=kept)
    found = decoupled_power(sky, cut, power=power)
    deviation = (found.power.mean(axis=0) - power) / found.error * np.sqrt(300)
    assert np.abs(deviation).max() < 3.5
    plain = decoupled_power(sky, cut_sky(grid_rings(grid, l_max), weight))
    assert np.all(plain.power.mean(axis=0) < 0.9 * power)


def test_l_30_on_a_grid_of_one_degree():
    """The default grid to l = 40: general weights couple 1640 multipoles."""
    rings = grid_rings(FINE, 40)
    weight = window(FINE, "HAWC")[:, None] * (1 + 0.3 * np.cos(FINE.right_ascension))
    cut = cut_sky(rings, weight, 1e-6 * weight)
    sky = random_skies(FINE, np.arange(1.0, 41) ** -2, 1, 0)
    found = decoupled_power(sky, cut, power=cut.l**-2.0)
    assert found.power.shape == (1, 40) and cut.condition < 1e5
    pull = (found.power[0] - cut.l**-2.0) / found.error
    assert np.abs(pull).max() < 4


def test_errors():
    rings = grid_rings(SMALL, 3)
    with pytest.raises(InputError, match="l_max = 6 must be at least 1 and below half the 12"):
        grid_rings(SMALL, 6)
    with pytest.raises(InputError, match="from 1 to nside = 4"):
        healpix_rings(4, 5)
    with pytest.raises(InputError, match="pixel_window must hold l = 0 to 3, not 2 values"):
        healpix_rings(4, 3, np.ones(2))
    with pytest.raises(InputError, match="zero everywhere"):
        cut_sky(rings, np.zeros(12))
    with pytest.raises(InputError, match="weight is negative or not finite"):
        cut_sky(rings, -np.ones(12))
    with pytest.raises(InputError, match="variance is negative or not finite"):
        cut_sky(rings, np.ones(12), np.full(12, np.nan))
    with pytest.raises(InputError, match="the rings hold 192 cells"):
        cut_sky(rings, np.ones(13))
    with pytest.raises(InputError, match=r"transfer has shape \(3,\)"):
        cut_sky(rings, np.ones(12), transfer=np.ones(3))
    with pytest.raises(InputError, match="lost entirely cannot be restored"):
        cut_sky(rings, np.ones(12), transfer=np.zeros(4))
    cut = cut_sky(rings, np.ones(12))
    with pytest.raises(InputError, match="not finite in 192 cells"):
        pseudo_power(np.full(SMALL.shape, np.nan), cut)
    with pytest.raises(InputError, match="for each l from 1 to 3"):
        pseudo_covariance(cut, np.ones(2))
    for bins in ([], [(0, 1)], [(1, 2), (2, 3)], [(2, 1)], [(1, 4)]):
        with pytest.raises(InputError, match="bins of l must be pairs"):
            decoupled_power(np.zeros(SMALL.shape), cut, bins)
    with pytest.raises(InputError, match="positive at every l"):
        decoupled_power(np.zeros(SMALL.shape), cut, shape=np.zeros(3))
    with pytest.raises(InputError, match="draw at least 100"):
        isotropic_band(cut, draws=10)
    with pytest.raises(InputError, match="use wider bins"):
        decoupled_power(np.zeros(FINE.shape), cut_sky(grid_rings(FINE, 20), window(FINE, "IceCube")))
