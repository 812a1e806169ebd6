"""The band-limited likelihood: its derivatives, its maximum, and the information against tables and dense sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference import BinningOptions, fit, read_counts
from diffcr.inference.binning import bin_chunks
from diffcr.inference.events import EventChunk
from diffcr.inference.likelihood import conditional_difference, form_marginals, second_order
from diffcr.inference.multipoles import (
    band_limited,
    derivatives,
    expected_information,
    free_multipoles,
    make_block,
    maximise,
    ring_modes,
    with_moments,
)
from helpers import asimov, dipole_sky, drawn
from jax.test_util import check_grads
from scipy import optimize

from diffcr.clock import local_time
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.rate import rate
from diffcr.site import site
from diffcr.sky import equatorial_of

GRID = RingGrid(12, 24)
SITE = site("-20,30,60")
LOCAL = np.asarray(acceptance(SITE, GRID, power=2.0, azimuth_terms=[(1, 0.1, 1.0)]))
RATE = np.asarray(rate(GRID, 2e4, harmonics=[(1, 0.2, 1.0), (3, 0.1, 0.2)]))
COUNTS = drawn(SITE, GRID, LOCAL, RATE, dipole_sky(GRID, (0.05, -0.08)), seed=4)


def block_of(l_max=2, rotation=0.0, groups=24):
    data = form_marginals(COUNTS.n_sky[0, 0, 0], COUNTS.n_time[0, 0, 0], COUNTS.n_local[0, 0, 0], groups)
    return make_block(data, ring_modes(GRID, data.rings, *free_multipoles(l_max), rotation), groups)


def test_basis_is_that_of_the_harmonics_and_turns_with_the_frame():
    """The sky of the common frame, seen at right ascensions larger by the rotation."""
    degree, order = free_multipoles(3)
    theta = np.random.default_rng(0).standard_normal(len(degree))
    full = np.zeros(16)
    full[degree**2 + degree + order] = theta
    expected = np.asarray(synthesis(full, GRID, cell_average=True))
    modes = ring_modes(GRID, tuple(range(12)), degree, order)
    np.testing.assert_allclose(modes.sky(theta), expected, atol=1e-13)
    turned = ring_modes(GRID, tuple(range(12)), degree, order, 2 * GRID.step)
    np.testing.assert_allclose(turned.sky(theta), np.roll(expected, 2, axis=1), atol=1e-13)


def test_first_two_multipoles_are_the_equatorial_dipole():
    degree, order = free_multipoles(4)
    assert list(zip(degree[:2], order[:2], strict=True)) == [(1, -1), (1, 1)]
    assert len(degree) == 4 * 5 and 0 not in order
    degree, order = free_multipoles(2, declination_structure=True)
    assert len(degree) == 8 and list(order[:2]) == [-1, 1]


@pytest.mark.parametrize("l_max", [1, 3])
def test_equals_the_general_difference_form(l_max):
    block = block_of(l_max)
    rng = np.random.default_rng(1)
    theta = 0.05 * rng.standard_normal(len(block.linear))
    rho = 0.1 * rng.standard_normal(24)
    ours = band_limited(block, theta, block.rate_modes @ rho) - jnp.sum(block.group_counts * second_order(rho))
    # The general form leaves the scale of the rate free; ours pins it by a term that vanishes at the maximum.
    pin = 0.5 * float(block.data.total) * float(block.data.rate @ rho) ** 2
    general = conditional_difference(block.modes.sky(theta), jnp.asarray(rho), block.data)
    np.testing.assert_allclose(ours + pin, general, rtol=1e-10)


def test_written_out_derivatives_equal_automatic_ones():
    block = with_moments(block_of(2, rotation=0.3), jnp.array([[300.0, -200], [5000, 100], [50, 70]]), 0.3)
    rng = np.random.default_rng(2)
    theta, shift = 0.03 * rng.standard_normal(6), 0.02 * rng.standard_normal(5)
    d = derivatives(block, theta, shift)

    def objective(z):
        return band_limited(block, z[:6], z[6:])

    point = jnp.concatenate([theta, shift])
    gradient, hessian = jax.grad(objective)(point), jax.hessian(objective)(point)
    np.testing.assert_allclose(jnp.concatenate([d.g_t, d.g_c]), gradient, rtol=1e-9, atol=1e-8)
    ours = jnp.block([[d.h_tt, d.h_ct.T], [d.h_ct, d.h_cc]])
    np.testing.assert_allclose(ours, hessian, rtol=1e-9, atol=1e-7)
    check_grads(jax.jit(lambda z: objective(z) / 1e3), (point,), order=1, modes=["rev"], rtol=1e-5)


def scipy_maximum(block, groups):
    """Multipoles and rates together by scipy's trust-region Newton on the general form; (maximum, Hessian)."""

    @jax.jit
    def negative(z):
        rho = jnp.repeat(z[2:], 24 // groups)
        return -conditional_difference(block.modes.sky(z[:2]), rho, block.data)

    @jax.jit
    def pinned(z):
        # The scale of the rate is a null direction; a multiple of its square changes no maximum.
        rho = jnp.repeat(z[2:], 24 // groups)
        return negative(z) + 0.5 * block.data.total * jnp.dot(block.data.rate, rho) ** 2

    start = np.zeros(2 + groups)
    derivatives_of = {"jac": jax.jit(jax.grad(pinned)), "hess": jax.jit(jax.hessian(pinned))}
    found = optimize.minimize(pinned, start, method="trust-exact", options={"gtol": 1e-6}, **derivatives_of)
    return found, np.asarray(jax.hessian(negative)(found.x))


@pytest.mark.smoke
def test_maximum_is_the_one_scipy_finds_over_all_parameters():
    """2 multipoles and 24 rates on the general form: same sky, same gain, same curvature."""
    block = block_of(1)
    best = jax.jit(maximise)((block,), jnp.zeros(2))
    found, hessian = scipy_maximum(block, 24)
    np.testing.assert_allclose(best.coefficients, found.x[:2], atol=2e-7)
    np.testing.assert_allclose(best.gain, -found.fun, atol=1e-7)
    schur = hessian[:2, :2] - hessian[:2, 2:] @ np.linalg.pinv(hessian[2:, 2:], rcond=1e-10) @ hessian[2:, :2]
    np.testing.assert_allclose(best.information, schur, rtol=1e-5)
    assert best.positive and best.decrement < 1e-9


def test_rates_in_groups_are_the_rates_of_a_coarser_clock():
    """Four groups of six bins."""
    block = block_of(1, groups=4)
    best = jax.jit(maximise)((block,), jnp.zeros(2))
    assert best.rate_shifts[0].shape == (4,)
    found, _ = scipy_maximum(block, 4)
    np.testing.assert_allclose(best.coefficients, found.x[:2], atol=2e-7)


def test_epochs_of_one_shape_side_by_side_fit_like_blocks_of_different_shape():
    """Two blocks, once stacked (equal shapes) and once not (one has a ring more that sees nothing new)."""
    one, two = block_of(1), block_of(1)
    both = jax.jit(maximise)((one, two), jnp.zeros(2))
    alone = jax.jit(maximise)((one,), jnp.zeros(2))
    np.testing.assert_allclose(both.coefficients, alone.coefficients, rtol=1e-8)
    np.testing.assert_allclose(both.information, 2 * alone.information, rtol=1e-8)
    coarser = block_of(1, groups=12)
    mixed = jax.jit(maximise)((one, coarser, two), jnp.zeros(2))
    assert [r.shape for r in mixed.rate_shifts] == [(24,), (12,), (24,)]


# sigma sqrt(N) of the dipole for acceptance and rate free, computed analytically elsewhere from
# 1 / sqrt((<cos^2 dec> - |c_0|^2) / 2); the pole's 2.2067 is sqrt(2 / <cos^2 dec>) in closed form.
TABLE = [
    ("auger", {}, None, 2.374),
    ("auger", {}, 60.0, 2.759),
    ("hawc", {}, None, 3.086),
    ("30.1,90,60", {"power": 2.0}, None, 2.988),
    ("icecube", {}, None, 2.2067),
]


@pytest.mark.parametrize(("name", "model", "cut", "expected"), TABLE)
def test_error_of_the_dipole_is_that_of_the_table(name, model, cut, expected):
    """Asimov data: score zero, curvature as tabulated, both components alike."""
    grid = RingGrid(90, 180)
    place = site(name, None if cut is None else np.radians(cut))
    local = np.asarray(acceptance(place, grid, **model))
    flat = np.full(180, 1 / 180)
    rings = tuple(int(r) for r in np.flatnonzero(local.sum(axis=1) > 0))
    modes = ring_modes(grid, rings, *free_multipoles(1))
    information = expected_information(local[list(rings)], flat, modes) * 4 * np.pi / 3
    np.testing.assert_allclose(1 / np.sqrt(np.diag(information)), expected, rtol=3e-3)
    assert abs(information[0, 1]) < 1e-3 * information[0, 0]
    counts = asimov(place, grid, local, flat * 1e6, np.ones(grid.shape))
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0])
    best = jax.jit(maximise)((make_block(data, modes, 180),), jnp.zeros(2))
    np.testing.assert_allclose(best.coefficients, 0, atol=1e-9)
    np.testing.assert_allclose(np.asarray(best.information) * 4 * np.pi / 3 / 1e6, information, rtol=1e-6, atol=1e-12)


def test_many_free_multipoles_cost_what_the_table_says():
    """IceCube alone: sigma sqrt(N) of the dipole 10.5 with l <= 2 and 70 with l <= 3 free; with HAWC 3.53 (l <= 2)."""
    grid = RingGrid(90, 180)
    flat = np.full(180, 1 / 180)

    def error(names, l_max):
        total = 0
        for name, power in names:
            local = np.asarray(acceptance(site(name), grid, power=power))
            rings = tuple(int(r) for r in np.flatnonzero(local.sum(axis=1) > 0))
            total = total + expected_information(
                local[list(rings)], flat, ring_modes(grid, rings, *free_multipoles(l_max))
            )
        covariance = np.linalg.inv(total / len(names))
        return np.sqrt(covariance[1, 1] / (4 * np.pi / 3))

    np.testing.assert_allclose(error([("icecube", 1.0)], 2), 10.5, rtol=0.02)
    np.testing.assert_allclose(error([("icecube", 1.0)], 3), 70, rtol=0.05)
    np.testing.assert_allclose(error([("hawc", 4.0)], 2), 3.63, rtol=0.02)
    np.testing.assert_allclose(error([("hawc", 4.0)], 4), 5.04, rtol=0.02)
    np.testing.assert_allclose(error([("hawc", 4.0), ("icecube", 1.0)], 2), 3.53, rtol=0.1)


def test_moments_of_the_events_make_the_score_unbinned():
    """On six bins of time and right ascension, with a steep rate and acceptance: the score of an isotropic sky is that
    of the events, sum Y(n) - sum over events of Y(dec, t' - H) averaged over the times t' of all events."""
    rng = np.random.default_rng(6)
    grid = RingGrid(4, 6)
    days = 5844.5 + np.sort(rng.beta(2, 5, 6000))  # one night, most of it early
    zenith, azimuth = np.arccos(rng.uniform(0.5, 1, 6000)), 2 * np.pi * rng.beta(2, 3, 6000)
    events = EventChunk(days, None, None, zenith, azimuth, None, None, 1, 0)
    counts = bin_chunks([events], SITE, BinningOptions(grid=grid))
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, SITE.latitude))
    time = np.asarray(local_time(days, SITE.longitude))
    flat, mean = np.cos(dec), np.mean(np.exp(1j * time))
    score = np.sum(flat * np.exp(1j * (time - hour_angle))) - mean * np.sum(flat * np.exp(-1j * hour_angle))
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0])
    block = make_block(data, ring_modes(grid, data.rings, *free_multipoles(1)), 6)
    zero = np.zeros(2), np.zeros(3)
    exact = derivatives(with_moments(block, counts.moments[0, 0, 0], 0.0), *zero).g_t * np.sqrt(4 * np.pi / 3)
    np.testing.assert_allclose(exact, [score.imag, score.real], rtol=1e-5, atol=1e-3)
    binned = derivatives(block, *zero).g_t * np.sqrt(4 * np.pi / 3)
    assert np.max(np.abs(np.asarray(binned) - np.asarray(exact))) > 5
    unknown = with_moments(block, np.full((3, 2), np.nan), 0.0)
    assert not np.any(unknown.linear)
    assert not np.any(unknown.bilinear)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_rate_that_is_asked_to_be_constant_does_not_follow_the_times_of_the_events(groups):
    """The same events: with one rate for all times the score is sum Y(n) alone, as a Rayleigh analysis has it; with two
    the rate is that of each half, whose time averages are known in closed form."""
    rng = np.random.default_rng(6)
    grid = RingGrid(4, 6)
    days = 5844.5 + np.sort(rng.beta(2, 5, 6000))
    zenith, azimuth = np.arccos(rng.uniform(0.5, 1, 6000)), 2 * np.pi * rng.beta(2, 3, 6000)
    counts = bin_chunks(
        [EventChunk(days, None, None, zenith, azimuth, None, None, 1, 0)], SITE, BinningOptions(grid=grid)
    )
    hour_angle, dec = (np.asarray(x) for x in equatorial_of(zenith, azimuth, SITE.latitude))
    time = np.asarray(local_time(days, SITE.longitude))
    # exp(i t) averaged over the first and the second half of the day.
    halves = np.array([2j / np.pi, -2j / np.pi]) if groups == 2 else np.zeros(1)
    share = np.array([np.mean((time % (2 * np.pi) < np.pi) == first) for first in (True, False)[:groups]])
    mean = np.sum(halves * share)
    flat = np.cos(dec)
    score = np.sum(flat * np.exp(1j * (time - hour_angle))) - mean * np.sum(flat * np.exp(-1j * hour_angle))
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0], groups)
    block = make_block(data, ring_modes(grid, data.rings, *free_multipoles(1)), groups)
    exact = derivatives(with_moments(block, counts.moments[0, 0, 0], 0.0), np.zeros(2), np.zeros(3)).g_t
    np.testing.assert_allclose(exact * np.sqrt(4 * np.pi / 3), [score.imag, score.real], rtol=1e-5, atol=1e-3)


def test_one_rate_for_all_times_gives_the_amplitude_of_the_first_harmonic():
    """The events above 8 EeV: 2 sum cos(dec) exp(i RA) / sum cos(dec)^2 in the limit of a small dipole, whatever the
    grid, with the significance of the Rayleigh test that was published with them (p = 2.6e-8)."""
    for grid in (RingGrid(18, 36), RingGrid(60, 120)):
        counts = read_counts("dataset:auger-8eev", grid=grid)
        result = fit(counts, rate_bins=1).require_converged()
        dec = grid.declination[:, None]
        sky = counts.n_sky[0, 0, 0]
        vector = 2 * np.sum(sky * np.cos(dec) * np.exp(1j * grid.right_ascension)) / np.sum(sky * np.cos(dec) ** 2)
        assert result.dipole.amplitude == pytest.approx(abs(vector), rel=0.03)
        assert -result.test_statistic / 2 / np.log(10) == pytest.approx(np.log10(2.6e-8), abs=0.4)
