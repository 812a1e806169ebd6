"""Time scrambling: against permutations, expected counts run through the method, published fractions, Monte Carlo."""

import dataclasses
import itertools

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.fit import fit
from diffcr.inference.inputs import read_counts
from diffcr.inference.scrambling import (
    Window,
    background_of,
    dipole_fraction,
    dipole_templates,
    scramble,
    true_scrambling,
)
from helpers import as_counts, asimov, dipole_sky, drawn

from diffcr.counts import MarginalCounts
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site, site

GRID = RingGrid(18, 36)
FINE = RingGrid(90, 180)
AUGER = site("auger")


def named(latitude, zenith):
    return Site("S", np.radians(latitude), 0.0, np.radians(zenith))


# Name, site, power of cos(theta), fraction kept in 24 h, error of a component times sqrt(N) with all rates free.
PUBLISHED = {
    "Auger 80": (named(-35.2, 80), 1, 0.532, 2.374),
    "Auger 60": (named(-35.2, 60), 1, 0.393, 2.759),
    "HAWC": (named(19.0, 57), 1, 0.271, 3.086),
    "Tibet": (named(30.1, 60), 2, 0.317, 2.988),
    "IceCube": (named(-90, 65), 1, 1.000, 2.200),
    "hemisphere": (named(0, 90), 0, 0.625, 2.191),
}


def local_map(grid=GRID, where=AUGER, **options):
    return np.asarray(acceptance(where, grid, **options))


def uneven(grid=GRID, size=1e6):
    t = grid.sidereal_time
    rate = 1 + 0.3 * np.cos(t - 1) + 0.4 * np.sin(2 * t)
    return size * rate / rate.sum()


def columns(n):
    """Right-ascension bin of every (time, hour angle)."""
    return (np.arange(n)[:, None] - np.arange(n)) % n


def counts_of_cube(cube, grid, where=AUGER, keep=True):
    """Counts of a cube (time, ring, hour_angle), by loops over nothing of the package."""
    n = grid.n_ra
    sky = np.zeros(grid.shape)
    for tau, h in itertools.product(range(n), range(n)):
        sky[:, (tau - h) % n] += cube[tau, :, h]
    half = np.stack([cube.sum(axis=2).T / 2] * 2)
    made = as_counts(where, grid, MarginalCounts(sky, cube.sum((1, 2)), cube.sum(0), half), None, int(cube.sum()) + 1)
    return dataclasses.replace(made, cube=cube[None, None, None]) if keep else made


def cube_of(rate, local, sky):
    return rate[:, None, None] * local * np.moveaxis(sky[:, columns(sky.shape[1])], 0, 1)


def test_background_is_the_mean_over_all_pairs():
    """Every local direction with every time: B by loops, on a grid of four rings and six bins."""
    rng = np.random.default_rng(1)
    rate, local = rng.integers(0, 5, 6).astype(float), rng.integers(0, 5, (4, 6)).astype(float)
    local *= rate.sum() / local.sum()
    expected = np.zeros((4, 6))
    for tau, r, h in itertools.product(range(6), range(4), range(6)):
        expected[r, (tau - h) % 6] += rate[tau] * local[r, h] / rate.sum()
    background = background_of(Window(rate, local, rate, local))
    np.testing.assert_allclose(background, expected, atol=1e-12)
    assert background.sum() == pytest.approx(rate.sum())


@pytest.mark.parametrize("name", PUBLISHED)
def test_fraction_that_a_day_keeps(name):
    """The first iteration of the likelihood, 1 - |c_0|^2 / <cos^2 dec>, to 2 %, in both components."""
    where, power, fraction, scaled = PUBLISHED[name]
    local = local_map(FINE, where, power=power)
    kept = dipole_fraction(np.ones(180), local, FINE)
    np.testing.assert_allclose(kept, fraction * np.eye(2), rtol=0.02, atol=1e-9)
    result = scramble(asimov(where, FINE, local, np.full(180, 100.0), dipole_sky(FINE, (1e-4, -2e-4, 3e-4))))
    np.testing.assert_allclose(result.fraction, fraction * np.eye(2), rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(result.raw_vector, fraction * np.array([1e-4, -2e-4]), rtol=0.02)
    np.testing.assert_allclose(result.vector, [1e-4, -2e-4], rtol=2e-3)
    # Noise of the background included: as good as the likelihood with free rate and acceptance.
    np.testing.assert_allclose(np.sqrt(np.diag(result.covariance) * 18000), scaled, rtol=0.02)


@pytest.mark.parametrize("window", [24, 12, 8, 4])
@pytest.mark.parametrize("where", ["auger", "hawc", "icecube"])
def test_fraction_is_what_expected_counts_give(window, where):
    """Skies of +-1e-3 in either component through the whole method, with a rate that varies inside the window."""
    place = site(where)
    local, rate = local_map(where=place), uneven()
    kept = dipole_fraction(rate, local, GRID, window)
    for k, dipole in enumerate(np.eye(2) * 1e-3):
        up, down = (
            scramble(counts_of_cube(cube_of(rate, local, dipole_sky(GRID, s * dipole)), GRID, place), window)
            for s in (1, -1)
        )
        np.testing.assert_allclose((up.raw_vector - down.raw_vector) / 2e-3, kept[:, k], atol=2e-5)
        np.testing.assert_allclose((up.vector - down.vector) / 2, dipole, atol=2e-7)
    # From the data, whose rate and local map hold the dipole.
    np.testing.assert_allclose(up.fraction, kept, atol=2e-3)
    np.testing.assert_allclose(up.parts[0].window_fractions.sum(axis=0), up.fraction, rtol=1e-12)
    assert up.parts[0].window_fractions.shape == (24 // window, 2, 2)


def test_shorter_windows_keep_less():
    local = local_map(FINE, site("hawc"))
    kept = [dipole_fraction(np.ones(180), local, FINE, w)[0, 0] for w in (24, 12, 8, 4, 2)]
    assert all(b < a for a, b in itertools.pairwise(kept))
    assert kept[-1] < 0.01


def test_a_window_sees_only_its_own_local_map():
    """An acceptance that changes at noon: a day's window makes a dipole of it, 12 h do not."""
    first = local_map()
    # Leans West in the second half of the day.
    second = local_map(azimuth_terms=((1, 0.3, -np.pi / 2),))
    rate = np.full(36, 1e4)
    cube = np.stack([rate[tau] * (first if tau < 18 else second) for tau in range(36)])
    counts = counts_of_cube(cube, GRID)
    assert scramble(counts).amplitude > 0.01
    half_days = scramble(counts, 12)
    np.testing.assert_allclose(half_days.vector, 0, atol=1e-10)
    seen = half_days.background > 0
    np.testing.assert_allclose(half_days.relative_intensity[seen], 0, atol=1e-9)


def test_map_and_unexposed_sky():
    """A sky with a hot spot: n / B - 1 in its cell, NaN in the north that Auger does not see."""
    sky = np.ones(GRID.shape)
    sky[5, 7] = 1.5
    result = scramble(asimov(AUGER, GRID, local_map(), uneven(), sky))
    assert result.relative_intensity[5, 7] == pytest.approx(0.5, abs=0.05)
    assert np.isnan(result.relative_intensity[17]).all()
    # Each ring keeps its events, so that ring means are zero by construction.
    np.testing.assert_allclose((result.counts - result.background).sum(axis=1), 0, atol=1e-6)


def test_templates_are_cell_means():
    np.testing.assert_allclose(1 + dipole_templates(GRID)[0], dipole_sky(GRID, (1, 0)), rtol=1e-12)
    np.testing.assert_allclose(1 + dipole_templates(GRID)[1], dipole_sky(GRID, (0, 1)), rtol=1e-12)


@pytest.mark.parametrize("weight_spread", [0.0, 0.8])
def test_pulls_over_a_day(weight_spread):
    """200 draws with an uneven rate and a dipole of 10 %: unbiased, with the scatter it states, weighted or not."""
    local, sky = local_map(profile="triangle"), dipole_sky(GRID, (0.1, -0.05))
    rate = uneven(size=4000)
    results = [scramble(drawn(AUGER, GRID, local, rate, sky, seed, weight_spread)) for seed in range(200)]
    pulls = np.array([(r.vector - [0.1, -0.05]) / np.sqrt(np.diag(r.covariance)) for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.16)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.25)
    correlation = np.mean([r.covariance[0, 1] / np.sqrt(np.prod(np.diag(r.covariance))) for r in results])
    assert np.corrcoef(pulls.T)[0, 1] == pytest.approx(correlation, abs=0.22)


def test_pulls_in_short_windows():
    """150 draws of the cube, isotropic and 12 h: scatter and chance probability."""
    rng = np.random.default_rng(3)
    mu = cube_of(uneven(size=4000), local_map(), np.ones(GRID.shape))
    results = [scramble(counts_of_cube(rng.poisson(mu).astype(float), GRID), 12) for _ in range(150)]
    pulls = np.array([r.vector / np.sqrt(np.diag(r.covariance)) for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.18)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.27)
    assert np.mean([r.log10_p for r in results]) == pytest.approx(-1 / np.log(10), rel=0.3)


def test_weights_of_one_size_change_nothing_but_the_counts():
    """Every event twice as heavy: the same dipole, error and background per weight, in a day and in 8 h."""
    rng = np.random.default_rng(4)
    plain = counts_of_cube(
        rng.poisson(cube_of(uneven(size=4000), local_map(), np.ones(GRID.shape))).astype(float), GRID
    )
    names = ("n_sky", "n_time", "n_local", "n_half")
    heavy = plain.replace(
        **{name: 2 * getattr(plain, name) for name in names},
        w2={name: 4 * getattr(plain, name) for name in names},
        cube=2 * plain.cube,
    )
    for window in (24, 8):
        one, two = scramble(plain, window), scramble(heavy, window)
        np.testing.assert_allclose(two.vector, one.vector, rtol=1e-9)
        np.testing.assert_allclose(two.covariance, one.covariance, rtol=1e-9)
        np.testing.assert_allclose(two.background, 2 * one.background, atol=1e-9)


@pytest.fixture(scope="module")
def events():
    """20000 isotropic events of Auger with a rate that is not even, in two windows of different rates."""
    rng = np.random.default_rng(6)
    n = 20000
    zenith, azimuth = np.arcsin(np.sin(np.radians(80)) * np.sqrt(rng.random(n))), 2 * np.pi * rng.random(n)
    lat = AUGER.latitude
    east, north, up = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)
    dec = np.arcsin(north * np.cos(lat) + up * np.sin(lat))
    hour = np.arctan2(-east, up * np.cos(lat) - north * np.sin(lat))
    time = np.pi + 2.5 * np.sin(np.pi * (rng.random(n) - 0.5))
    return time, hour, dec


def test_permutations_average_to_direct_integration(events):
    """40 permutations: the mean background is that of all pairs, within the noise of the permutations."""
    time, hour, dec = events
    mean = true_scrambling(time, hour, dec, GRID, 40, np.random.default_rng(1))
    tau, ring = GRID.bin_of(time), GRID.ring_of(dec)
    # All pairs in the limit of fine bins of the time, 4000 of the events at a time.
    rate = np.bincount(np.floor(time / (2 * np.pi) * 720).astype(int), minlength=720) / len(time)
    expected = np.zeros(GRID.shape)
    for k in np.flatnonzero(rate):
        column = GRID.bin_of((k + 0.5) * 2 * np.pi / 720 - hour)
        np.add.at(expected, (ring, column), rate[k])
    seen = expected > 5
    pulls = (mean - expected)[seen] / np.sqrt(expected[seen] / 40)
    assert pulls.std() == pytest.approx(1, abs=0.15)
    assert abs(pulls.mean()) < 0.05
    assert mean.sum() == pytest.approx(len(time))
    # The background of binned marginals: the same to the width of the bins.
    local = np.zeros(GRID.shape)
    np.add.at(local, (ring, (tau - GRID.bin_of(time - hour)) % 36), 1.0)
    counted = np.bincount(tau, minlength=36).astype(float)
    direct = background_of(Window(counted, local, counted, local))
    assert np.abs(direct - mean).sum() / len(time) < 0.04


def test_permutations_stay_in_their_group_and_keep_their_weights(events):
    time, hour, dec = (each[:200] for each in events)
    weight = np.arange(200) + 1.0
    # Every event its own group: nothing moves.
    alone = true_scrambling(time, hour, dec, GRID, 1, np.random.default_rng(0), weight, np.arange(200)[::-1])
    expected = np.zeros(GRID.shape)
    np.add.at(expected, (GRID.ring_of(dec), GRID.bin_of(time - hour)), weight)
    np.testing.assert_array_equal(alone, expected)
    # Two groups with one time each: within a group all times are the same, so that again nothing moves.
    groups = np.array(["day", "night"])[np.arange(200) % 2]
    fixed = np.where(groups == "day", 1.0, 4.0)
    split = true_scrambling(fixed, hour, dec, GRID, 3, np.random.default_rng(0), weight, groups)
    expected = np.zeros(GRID.shape)
    np.add.at(expected, (GRID.ring_of(dec), GRID.bin_of(fixed - hour)), weight)
    np.testing.assert_allclose(split, expected, atol=1e-9)
    mixed = true_scrambling(fixed, hour, dec, GRID, 3, np.random.default_rng(0), weight)
    assert np.abs(mixed - expected).sum() > 0.1 * weight.sum()
    np.testing.assert_allclose(mixed.sum(axis=1), expected.sum(axis=1))


def test_configurations_are_combined():
    """Vectors by inverse covariance; maps add up; the raw vector is what the fraction makes of a common dipole."""
    truth = np.array([1e-3, -2e-3])
    parts = [
        asimov(site(w), GRID, local_map(where=site(w)), np.full(36, size), dipole_sky(GRID, truth))
        for w, size in (("auger", 1000.0), ("hawc", 3000.0))
    ]
    singles, both = [scramble(part) for part in parts], scramble(combine(parts))
    precision = [np.linalg.inv(s.covariance) for s in singles]
    mean = np.linalg.solve(sum(precision), sum(p @ s.vector for p, s in zip(precision, singles, strict=True)))
    np.testing.assert_allclose(both.vector, mean, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.inv(both.covariance), sum(precision), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(both.raw_vector, both.fraction @ truth, rtol=0.01)
    np.testing.assert_allclose(both.counts, sum(s.counts for s in singles), rtol=1e-12)
    np.testing.assert_allclose(both.background, sum(s.background for s in singles), rtol=1e-12)
    assert [p.label for p in both.parts] == ["Auger", "HAWC"]
    assert both.ndf == 2 and both.chi2 < 0.01


@pytest.mark.slow
def test_a_day_corrected_is_the_maximum_of_the_likelihood():
    """The Auger list: scrambling over 24 h, divided by its fraction, against the fit with free rate and acceptance."""
    counts = read_counts("dataset:auger-8eev", grid=FINE)
    result, best = scramble(counts), fit(counts, l_max=1)
    of_date = np.array([best.multipoles_of_date[list(best.order).index(m)] for m in (1, -1)]) / np.sqrt(4 * np.pi / 3)
    sigma = np.sqrt(np.diag(result.covariance))
    np.testing.assert_allclose(result.vector, of_date, atol=0.06 * sigma[0])
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(best.covariance) * 3 / (4 * np.pi)), rtol=0.02)


def test_what_cannot_be_scrambled_is_refused():
    counts = asimov(AUGER, GRID, local_map(), np.full(36, 100.0), np.ones(GRID.shape))
    with pytest.raises(InputError, match=r"window of 5 h does not divide the 36 time bins .* choose one of 24, 12, 8"):
        scramble(counts, 5)
    with pytest.raises(InputError, match="window of 48 h does not divide"):
        scramble(counts, 48)
    with pytest.raises(InputError, match="window of 0 h does not divide"):
        scramble(counts, 0)
    with pytest.raises(InputError, match="window of 0.666667 h does not divide"):
        dipole_fraction(np.ones(36), local_map(), GRID, 24 / 36)
    with pytest.raises(InputError, match="window of 8 h needs the counts of every time bin and local cell: bin with"):
        scramble(counts, 8)
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    with pytest.raises(InputError, match="needs at least one event; the counts are empty"):
        scramble(counts.replace(**{name: 0 * getattr(counts, name) for name in names}))
    once = np.where(np.arange(36) == 3, 100.0, 0.0)
    with pytest.raises(InputError, match="leaves nothing of a dipole for Auger: take a longer window, or join more"):
        scramble(asimov(AUGER, GRID, local_map(), once, np.ones(GRID.shape)))
    one = np.ones(1)
    with pytest.raises(InputError, match="at least one event and one copy, not 1 and 0"):
        true_scrambling(one, one, one, GRID, 0, np.random.default_rng(0))
