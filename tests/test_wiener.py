"""The band-limited map: against a dense Gaussian posterior, skies drawn from the prior, and blurred skies."""

import functools

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.maps import Problem, State, exposures
from diffcr.inference.multipoles import free_multipoles
from diffcr.inference.point_spread import gaussian_window
from diffcr.inference.power import combined_information, prepare
from diffcr.inference.wiener import fitted_power, wiener_map
from helpers import asimov, dipole_sky, drawn
from scipy import special

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

HAWC = Site("HAWC", np.radians(19.0), 0.0, np.radians(57.0))
ICECUBE = Site("IceCube", np.radians(-90.0), 0.0, np.radians(65.0))
SMALL, GRID = RingGrid(12, 24), RingGrid(24, 48)


def horizon(place: Site, grid: RingGrid) -> np.ndarray:
    dec, hour = grid.declination[:, None], grid.hour_angle
    cosine = np.sin(place.latitude) * np.sin(dec) + np.cos(place.latitude) * np.cos(dec) * np.cos(hour)
    response = np.where(cosine > np.cos(place.zenith_max), cosine, 0) * np.cos(dec)
    return response / response.sum()


def uneven(grid: RingGrid, events: float) -> np.ndarray:
    rate = 1 + 0.2 * np.cos(grid.sidereal_time - 0.5)
    return events * rate / rate.sum()


def real_harmonics(grid: RingGrid, degree, order, fine: int = 6) -> np.ndarray:
    """Real harmonics without the Condon-Shortley phase, averaged over cells, by scipy; (param, ring, ra)."""
    edges = np.linspace(-np.pi / 2, np.pi / 2, grid.n_ring * fine + 1)
    dec = (edges[1:] + edges[:-1]) / 2
    ra = 2 * np.pi * (np.arange(grid.n_ra * fine) + 0.5) / (grid.n_ra * fine)
    weight = np.cos(dec).reshape(grid.n_ring, fine)
    out = []
    for l, m in zip(degree, order, strict=True):
        y = special.sph_harm_y(int(l), abs(int(m)), np.pi / 2 - dec[:, None], ra[None]) * (-1) ** abs(int(m))
        y = np.sqrt(2) * (y.real if m > 0 else y.imag)
        y = y.reshape(grid.n_ring, fine, grid.n_ra, fine).mean(3)
        out.append((y * weight[..., None]).sum(1) / weight.sum(1)[:, None])
    return np.array(out)


@functools.cache
def harmonics_to(grid: RingGrid, l_max: int) -> np.ndarray:
    return real_harmonics(grid, *free_multipoles(l_max))


def from_prior(grid, l_max, power, seed, dipole=0.0):
    """A sky with m != 0 multipoles of variance C_l, and its multipoles."""
    degree, _ = free_multipoles(l_max)
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(len(degree)) * np.sqrt(np.where(degree > 1, power, dipole))
    return 1 + np.einsum("p,pra->ra", values, harmonics_to(grid, l_max)), values


def pulls(result, values):
    return np.linalg.solve(np.linalg.cholesky(result.covariance), result.multipoles - values)


def test_multipoles_are_those_of_the_dense_posterior():
    """For a small anisotropy the posterior is Gaussian: (F + 1/C)^-1 y, score and F built over all (time, cell)."""
    l_max, power, n = 4, 1e-6, 24
    sky, _ = from_prior(SMALL, l_max, power, 1, dipole=1e-6)
    counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 3e7), sky, 2)
    result = wiener_map(counts, l_max, power, rate_bins=24)
    y = real_harmonics(SMALL, result.degree, result.order)
    column = (np.arange(n)[:, None] - np.arange(n)) % n
    local, rate = counts.n_local[0, 0, 0], counts.n_time[0, 0, 0] / counts.sum_weights
    seen = y[:, :, column].transpose(2, 1, 3, 0)  # (tau, ring, h, param)
    mu = rate[:, None, None] * local
    # Rates and acceptances: subtract what they explain, by alternating weighted means (rates and cells are a two-way
    # table with product weights, so once each is exact).
    free = seen - np.einsum("t,trhp->rhp", rate, seen)[None]
    free = free - (np.einsum("rh,trhp->tp", local, free) / local.sum())[:, None, None]
    matrix = np.einsum("trh,trhp,trhq->pq", mu, free, free, optimize=True)
    exposure = np.zeros(SMALL.shape)
    for t in range(n):
        for h in range(n):
            exposure[:, (t - h) % n] += mu[t, :, h]
    score = np.einsum("ra,pra->p", counts.n_sky[0, 0, 0] - exposure, y)
    inverse = np.linalg.inv(matrix + np.diag(np.where(result.degree > 1, 1 / power, 0)))
    error = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(result.covariance, inverse, rtol=2e-3, atol=2e-3 * np.outer(error, error).min())
    assert np.abs((result.multipoles - inverse @ score) / error).max() < 0.05
    assert result.map.converged and result.map.method == "wiener"


def test_the_map_is_its_multipoles():
    sky, _ = from_prior(GRID, 6, 1e-5, 3, dipole=1e-4)
    result = wiener_map(drawn(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e7), sky, 4), 6, 1e-5)
    y = real_harmonics(GRID, result.degree, result.order)
    exposed = np.isfinite(result.map.contrast)
    contrast = np.einsum("p,pra->ra", result.multipoles, y)
    scale = np.nanstd(result.map.contrast)
    np.testing.assert_allclose(result.map.contrast[exposed], contrast[exposed], atol=0.03 * scale)
    error = np.sqrt(np.einsum("pra,pq,qra->ra", y, result.covariance, y))
    np.testing.assert_allclose(result.map.error[exposed], error[exposed], rtol=0.05)
    assert result.map.data.sum() == pytest.approx(result.map.background.sum(), rel=0.01)


def test_pulls_over_skies_drawn_from_the_prior_are_normal():
    """Posterior covariance whitens estimate minus truth: unit width, no correlation; dipole and higher alike."""
    power, local, found = 3e-6, horizon(HAWC, SMALL), []
    for seed in range(40):
        sky, values = from_prior(SMALL, 5, power, seed, dipole=1e-4)
        counts = drawn(HAWC, SMALL, local, uneven(SMALL, 5e6), sky, 1000 + seed)
        result = wiener_map(counts, 5, power)
        found.append(pulls(result, values))
    found = np.array(found)
    assert np.mean(found**2) == pytest.approx(1, abs=4 * np.sqrt(2 / found.size))
    assert np.abs(found.mean(0)).max() * np.sqrt(40) < 4.5


def test_fitted_power_is_the_true_one_on_average():
    """C_l from the data alone, averaged over skies; the signal stands well above the noise."""
    power = np.array([4e-5, 2e-5, 1e-5, 5e-6])
    degree, _ = free_multipoles(5)
    per_multipole = np.concatenate([[0], power])[degree - 1]
    found = []
    for seed in range(30):
        sky, _ = from_prior(SMALL, 5, np.where(degree > 1, per_multipole, 0), seed)
        both = combine(
            [
                drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 1e7), sky, seed),
                drawn(ICECUBE, SMALL, horizon(ICECUBE, SMALL), uneven(SMALL, 1e7), sky, 500 + seed),
            ]
        )
        parts, l, m = prepare(both, 5)
        found.append(fitted_power(combined_information(parts, l, m, both.effective_events)))
    found = np.array(found)
    error = found.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(0) - power) / error, 4.5)
    np.testing.assert_array_less(error / power, 0.3)


def test_noise_alone_has_no_power():
    counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 1e6), np.ones(SMALL.shape), 1)
    result = wiener_map(counts, 5)
    noise = wiener_map(counts, 5, 1.0)
    assert result.fitted and not noise.fitted
    assert np.all(result.power < np.array([np.mean(np.diag(noise.covariance)[noise.degree == l]) for l in range(2, 6)]))
    assert result.map.degrees_of_freedom < noise.map.degrees_of_freedom <= len(noise.degree)


def test_the_dipole_has_no_prior():
    """With a prior of nothing for l >= 2 the dipole comes out whole, with the error of a dipole alone.

    Its information is N (<cos^2 dec> - |<cos dec exp(-i H)>|^2) / 2 per component, rates and acceptance free.
    """
    local, events, dipole = horizon(HAWC, GRID), 1e6, (0.03, -0.015)
    counts = asimov(HAWC, GRID, local, np.full(48, events / 48), dipole_sky(GRID, dipole))
    result = wiener_map(counts, 2, 1e-14)
    first = [int(np.flatnonzero((result.degree == 1) & (result.order == m))[0]) for m in (1, -1)]
    to_dipole = np.sqrt(3 / (4 * np.pi))
    np.testing.assert_allclose(to_dipole * result.multipoles[first], dipole, rtol=1e-3)
    cosine = (dipole_sky(GRID, (1.0, 0.0)) - 1)[:, :1] / np.cos(GRID.right_ascension[0])
    centred = abs(np.sum(local * cosine * np.exp(-1j * GRID.hour_angle)))
    information = events * (np.sum(local * cosine**2) - centred**2) / 2
    error = to_dipole * np.sqrt(np.diag(result.covariance))[first]
    np.testing.assert_allclose(error, 1 / np.sqrt(information), rtol=0.01)
    assert np.abs(result.multipoles[result.degree == 2]).max() < 1e-8


def test_windows_undo_a_blurred_sky():
    """Counts of a sky blurred by 20 degrees: without its window the multipoles come out b_l times too small."""
    degree, _ = free_multipoles(4)
    sky, values = from_prior(GRID, 4, 1e-4, 7, dipole=1e-4)
    window = gaussian_window(np.radians(20), 4)
    blurred = 1 + np.einsum("p,pra->ra", values * window[degree], harmonics_to(GRID, 4))
    both = combine(
        [
            asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e9), blurred),
            asimov(ICECUBE, GRID, horizon(ICECUBE, GRID), uneven(GRID, 1e9), sky),
        ]
    )
    # Only HAWC is blurred: each configuration has its own.
    sharp = wiener_map(both, 4, 1e-4, [window, np.ones(5)])
    scale = np.sqrt(np.mean(values**2))
    np.testing.assert_allclose(sharp.multipoles, values, atol=0.03 * scale)
    wrong = wiener_map(both, 4, 1e-4)
    assert np.abs(wrong.multipoles - values).max() > 0.1 * scale
    single = wiener_map(asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e9), blurred), 4, 1e-4, [window])
    plain = wiener_map(asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e9), blurred), 4, 1e-4)
    first = single.degree == 1
    np.testing.assert_allclose(plain.multipoles[first], window[1] * single.multipoles[first], rtol=0.02, atol=1e-4)


def test_epochs_are_seen_in_their_own_frame():
    """A dipole of one sky, seen in 1950 and in 2100: right ascensions of date differ by two degrees."""
    parts = []
    for year, label in ((1950.0, "a"), (2100.0, "b")):
        turn = np.radians(-(year - 2025) * 50.29 / 3600 * np.cos(np.radians(23.44)))
        # Precession moves a direction on the equator by 46.1 arcseconds a year in right ascension.
        dipole = np.array([np.cos(1.0 - turn), np.sin(1.0 - turn)]) * 0.05
        one = asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e8), dipole_sky(GRID, dipole), year)
        parts.append(one.replace(epochs=(label,)))
    result = wiener_map(combine(parts), 2, 1e-8)
    y, x = (float(result.multipoles[(result.degree == 1) & (result.order == m)][0]) for m in (-1, 1))
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(np.degrees(1.0), abs=0.1)
    assert np.hypot(x, y) / np.hypot(0.05, 0) == pytest.approx(np.sqrt(4 * np.pi / 3), rel=0.002)
    assert result.map.test_statistic > 0


def test_what_does_not_fit_is_refused():
    counts = drawn(HAWC, SMALL, horizon(HAWC, SMALL), uneven(SMALL, 1e5), np.ones(SMALL.shape), 1)
    for power in (0.0, -1.0, np.nan, [1e-6, 1e-6], [1e-6, 1e-6, np.inf]):
        with pytest.raises(InputError, match="prior C_l needs one positive value, or one for each l from 2 to 4"):
            wiener_map(counts, 4, power)
    for windows in ([np.ones(5), np.ones(5)], [np.ones(4)]):
        with pytest.raises(InputError, match="one window b_l of 5 numbers .* is needed for each of 1 configurations"):
            wiener_map(counts, 4, 1e-6, windows)
    with pytest.raises(InputError, match="l_max = 30 must be at least 1 and below half the 12 rings"):
        wiener_map(counts, 30, 1e-6)


def test_a_dipole_that_cannot_be_measured_is_refused():
    """Light from one direction of the sky alone at one time: no dipole without a prior."""
    rate, local = np.zeros(24), np.zeros(SMALL.shape)
    rate[3], local[6, 0] = 1e5, 1.0
    counts = asimov(HAWC, SMALL, local, rate, np.ones(SMALL.shape))
    with pytest.raises(InputError, match="the dipole, which has no prior, cannot be measured"):
        wiener_map(counts, 3, 1e-6)


def test_a_strong_dipole_is_not_linearised():
    """A dipole of 30 %: away from isotropy the gradient is that of the intensity, not of its logarithm."""
    sky = dipole_sky(GRID, (0.3, -0.1))
    result = wiener_map(asimov(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e8), sky), 3, 1.0)
    first = [int(np.flatnonzero((result.degree == 1) & (result.order == m))[0]) for m in (1, -1)]
    np.testing.assert_allclose(np.sqrt(3 / (4 * np.pi)) * result.multipoles[first], (0.3, -0.1), rtol=1e-3)
    assert np.abs(result.multipoles[result.degree > 1]).max() < 1e-3
    assert result.map.converged


def test_the_gradient_vanishes_at_the_map():
    """Noise on a dipole of 40 %: the derivative of ln L along each multipole, by differences, is that of the prior."""
    counts = drawn(HAWC, GRID, horizon(HAWC, GRID), uneven(GRID, 1e6), dipole_sky(GRID, (0.4, -0.2)), 4)
    result = wiener_map(counts, 2, 1.0, rate_bins=48, tolerance=1e-10)
    problem = Problem(exposures(counts, 48), (1, 1))
    (e,) = problem.seen
    log_rates = (np.log(result.map.rates[0] / e.rate),)

    def gain(step):
        contrast = np.where(problem.exposed, np.nan_to_num(result.map.contrast) + step, 0.0)
        return problem.gain(State(np.log1p(contrast), log_rates))

    error = np.sqrt(np.diag(result.covariance))
    for k, y in enumerate(harmonics_to(GRID, 2)):
        # Per standard error of the multipole; the prior's share is of the order of the error itself.
        slope = (gain(0.1 * error[k] * y) - gain(-0.1 * error[k] * y)) / 0.2
        assert abs(slope) < 0.02, (k, slope)
