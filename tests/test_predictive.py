"""Predicted counts against the expected cube, the laws of their scatter, and data that they must look like."""

import math

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.predictive import observed, positive_sky, predictive
from diffcr.inference.sky_likelihood import sky_likelihood
from helpers import as_counts, asimov, dipole_sky, drawn
from scipy import stats

from diffcr.counts import MarginalCounts, expected_counts
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 36)
GROUPS = 6
DIPOLE = (0.02, -0.05)


def rate(events):
    """Constant in each of six stretches of time, with two of the bins dead."""
    values = np.repeat(1 + 0.3 * np.cos(1 + np.arange(GROUPS)), 6)
    return values * events / values.sum()


def local(name):
    return np.asarray(acceptance(site(name), GRID, "cos", 2.0))


def likelihood(counts):
    return sky_likelihood(counts, 1, GROUPS, nodes=36)


def theta_of(dipole):
    """(1, -1) is along delta_6h, (1, 1) along delta_0h."""
    return math.sqrt(4 * math.pi / 3) * np.array([dipole[1], dipole[0]])


def true_rates(counts):
    """u of the true rates, over the isotropic ones that the counts suggest, shape (1, configuration, group)."""
    grouped = lambda x: x.reshape(*x.shape[:-1], GROUPS, -1).sum(axis=-1)
    return np.log(grouped(rate(1.0)) / grouped(observed(counts)["n_time"]))[None]


@pytest.fixture(scope="module")
def two():
    """HAWC and IceCube, each equal to what it expects of one sky; so many events that scatter cannot be seen."""
    parts = [asimov(site(n), GRID, local(n), rate(10**e), dipole_sky(GRID, DIPOLE)) for n, e in SITES]
    return combine(parts)


SITES = (("HAWC", 14), ("IceCube", 15))


@pytest.fixture(scope="module")
def sky(two):
    return likelihood(two)


@pytest.fixture(scope="module")
def few():
    return drawn(site("HAWC"), GRID, local("HAWC"), rate(2e4), dipole_sky(GRID, DIPOLE), 3)


def test_the_truth_predicts_what_was_observed(two, sky):
    """Time, right ascension and rings of both observatories, to the scatter of 1e14 events: no frame is mirrored."""
    drawn_counts = predictive(two, sky, theta_of(DIPOLE)[None], true_rates(two) + 7.0, 1)
    seen = observed(two)
    assert {k: v.shape for k, v in drawn_counts.items()} == {
        "n_time": (1, 2, 36),
        "n_ra": (1, 2, 36),
        "n_ring": (1, 2, 18),
    }
    for name, values in seen.items():
        np.testing.assert_allclose(drawn_counts[name][0], values, rtol=2e-5, atol=1e-9 * values.max())
    assert np.ptp(seen["n_ra"][0]) > 1e-2 * seen["n_ra"][0].mean()


def test_any_sky_and_rate_predict_the_marginals_of_the_cube(two, sky):
    """Neither the data's sky nor its rate: mu = I N n_i / x_i, summed cell by cell over the whole cube."""
    other, u = (-0.04, 0.03), np.stack([0.2 * np.sin(np.arange(GROUPS)), 0.1 * np.cos(np.arange(GROUPS))])
    found = predictive(two, sky, theta_of(other)[None], u[None], 1, prior=True)
    intensity = dipole_sky(GRID, other)
    for k, place in enumerate(two.configurations()):
        n = two.n_time[place].reshape(GROUPS, -1).mean(axis=1) * np.exp(u[k])
        unit = np.asarray(expected_counts(np.repeat(n, 6), np.ones(GRID.shape), intensity))
        cube = unit * two.n_local[place] / unit.sum(axis=0)
        column = (np.arange(36)[:, None] - np.arange(36)) % 36
        by_ra = np.bincount(column.ravel(), cube.sum(axis=1).ravel(), 36)
        np.testing.assert_allclose(found["n_time"][0, k], cube.sum(axis=(1, 2)), rtol=2e-5)
        np.testing.assert_allclose(found["n_ra"][0, k], by_ra, rtol=2e-5)
        np.testing.assert_allclose(found["n_ring"][0, k], two.n_local[place].sum(axis=1), rtol=2e-5, atol=1)


def test_epochs_far_apart_share_one_sky():
    """Precession in right ascension over 200 years is 2.6 degrees: each epoch predicts the sky at its own equinox."""
    parts = []
    for name, year in (("old", 1900.0), ("new", 2100.0)):
        turn = math.radians(1.2813 * (year - 2000) / 100)
        dipole = 0.05 * np.array([math.cos(1.0 + turn), math.sin(1.0 + turn)])
        part = asimov(site("HAWC"), GRID, local("HAWC"), rate(1e14), dipole_sky(GRID, dipole), year)
        parts.append(part.replace(epochs=(name,)))
    both = combine(parts)
    sky = likelihood(both)
    found = predictive(both, sky, theta_of((0.05 * math.cos(1.0), 0.05 * math.sin(1.0)))[None], true_rates(both), 1)
    seen = observed(both)["n_ra"]
    assert np.max(np.abs(seen[0] / seen[1] - 1)) > 1e-3
    np.testing.assert_allclose(found["n_ra"][0], seen, rtol=3e-5)


def test_posterior_draws_scatter_twice_as_much_as_prior_draws(few):
    """n_ring: Poisson about the observed for the prior; for the posterior the acceptance's own scatter is added."""
    sky = likelihood(few)
    theta, u = np.repeat(theta_of(DIPOLE)[None], 400, axis=0), np.zeros((400, 1, GROUPS))
    seen = observed(few)["n_ring"][0]
    rings = seen > 100
    for prior, factor in ((True, 1.0), (False, 2.0)):
        found = predictive(few, sky, theta, u, 5, prior=prior)
        ring = found["n_ring"][:, 0][:, rings]
        pull = (ring.mean(axis=0) - seen[rings]) / np.sqrt(factor * seen[rings] / 400)
        assert stats.chi2(rings.sum()).sf(np.sum(pull**2)) > 1e-3
        variance = ring.var(axis=0, ddof=1) / seen[rings]
        np.testing.assert_allclose(variance.mean(), factor, rtol=0.1)
        # The three arrays are of the same events.
        totals = {k: v.sum(axis=2) for k, v in found.items()}
        np.testing.assert_array_equal(totals["n_time"], totals["n_ra"])
        np.testing.assert_array_equal(totals["n_ring"], totals["n_ra"])
        assert np.all(found["n_ring"][:, 0][:, seen == 0] == 0)
        assert all(np.all(v == np.round(v)) and v.min() >= 0 for v in found.values())


def test_the_same_seed_draws_the_same(few):
    sky = likelihood(few)
    draws = np.tile(np.asarray(sky.centre), (3, 1)), np.zeros((3, 1, GROUPS))
    first, again, other = (predictive(few, sky, *draws, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["n_ra"], again["n_ra"])
    assert np.any(first["n_ra"] != other["n_ra"]) and np.any(first["n_ra"][0] != first["n_ra"][1])


def test_rates_that_were_integrated_are_drawn(few):
    """About the most probable ones, each known to 1/sqrt of its counts: the expectation's scatter of a group."""
    sky = likelihood(few)
    theta = np.tile(np.asarray(sky.centre), (400, 1))
    given = np.tile(np.asarray(sky.rate_centre), (400, 1, 1))
    grouped = lambda x: x["n_time"].reshape(400, GROUPS, 6).sum(axis=2) / x["n_time"].sum(axis=(1, 2))[:, None]
    drawn_rates = grouped(predictive(few, sky, theta, None, 5, prior=True))
    fixed_rates = grouped(predictive(few, sky, theta, given, 5, prior=True))
    np.testing.assert_allclose(drawn_rates.mean(axis=0), fixed_rates.mean(axis=0), rtol=5e-3)
    np.testing.assert_allclose(np.mean(drawn_rates.var(axis=0) / fixed_rates.var(axis=0)), 2, rtol=0.15)


def test_energy_bins_have_their_own_skies(few):
    """theta per energy bin: the second bin's sky is the opposite of the first's."""
    place = site("HAWC")
    parts = [asimov(place, GRID, local("HAWC"), rate(1e13), dipole_sky(GRID, d)) for d in ((0.05, 0.0), (-0.05, 0.0))]
    both = combine([part.replace(energies=(name,)) for part, name in zip(parts, ("low", "high"), strict=True)])
    sky = likelihood(both)
    theta = np.stack([theta_of((0.05, 0.0)), theta_of((-0.05, 0.0))])
    found = predictive(both, sky, theta[None], true_rates(both), 1)
    np.testing.assert_allclose(found["n_ra"][0], observed(both)["n_ra"], rtol=1e-4)
    assert sky.names == ("HAWC, low", "HAWC, high")
    same = predictive(both, sky, theta[:1], true_rates(both), 1)
    assert np.max(np.abs(same["n_ra"][0, 1] / observed(both)["n_ra"][1] - 1)) > 0.01


def test_weighted_counts_are_predicted_in_effective_events(few):
    """Weights of 4 each: a quarter of the sum of weights, with Poisson scatter."""
    place = few.configurations()[0]
    scaled = lambda f: MarginalCounts(*(f * getattr(few, f"n_{k}")[place] for k in ("sky", "time", "local", "half")))
    heavy = as_counts(few.sites[0], GRID, scaled(4.0), scaled(16.0), int(few.num_events.sum()))
    seen = observed(heavy)
    np.testing.assert_allclose(seen["n_time"], observed(few)["n_time"], rtol=1e-12)
    np.testing.assert_allclose(seen["n_ra"], observed(few)["n_ra"], rtol=1e-12)
    sky = likelihood(heavy)
    found = predictive(heavy, sky, np.tile(np.asarray(sky.centre), (300, 1)), np.zeros((300, 1, GROUPS)), 2, prior=True)
    total = found["n_time"].sum(axis=(1, 2))
    np.testing.assert_allclose(total.mean(), few.sum_weights, rtol=3e-3)
    np.testing.assert_allclose(total.var(), few.sum_weights, rtol=0.3)


def test_negative_skies_are_refused_and_found(few):
    sky = likelihood(few)
    theta = np.stack([theta_of((0.9, 0.0)), theta_of((0.0, 1.3)), theta_of((0.0, 0.2))])
    np.testing.assert_array_equal(positive_sky(few, sky, theta), [True, False, True])
    with pytest.raises(InputError, match="1 of 3 drawn skies are negative where they are exposed, the first is draw 1"):
        predictive(few, sky, theta, np.zeros((3, 1, GROUPS)), 1)
    assert len(predictive(few, sky, theta[::2], np.zeros((2, 1, GROUPS)), 1)["n_ra"]) == 2


def test_draws_that_do_not_fit_are_refused(few, two, sky):
    theta, u = np.zeros((3, 2)), np.zeros((3, 2, GROUPS))
    with pytest.raises(InputError, match="the counts hold HAWC, the likelihood HAWC, IceCube: use the counts"):
        predictive(few, sky, theta, u, 1)
    with pytest.raises(InputError, match=r"theta has shape \(3, 4\): give the draws first and then \(2,\)"):
        predictive(two, sky, np.zeros((3, 4)), u, 1)
    with pytest.raises(InputError, match=r"log_rates has shape \(3, 2, 5\), theta and the likelihood need \(3, 2, 6\)"):
        predictive(two, sky, theta, u[..., 1:], 1)
    with pytest.raises(InputError, match="theta is not finite"):
        predictive(two, sky, theta * np.nan, u, 1)
    with pytest.raises(InputError, match="log_rates is not finite"):
        predictive(two, sky, theta, u + np.inf, 1)
