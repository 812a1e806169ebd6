"""The likelihood with a prior on the acceptance: its integral, its limits, its geometry, honest errors of delta_N."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from diffcr.inference import models
from diffcr.inference.acceptance_prior import acceptance_likelihood
from diffcr.inference.data import combine
from diffcr.inference.fit import fit
from diffcr.inference.likelihood import conditional_log_likelihood, form_marginals
from diffcr.inference.prior import sky_normal
from diffcr.inference.sampler import Kernel, Plan, natural, sample_segments
from helpers import as_counts, asimov, dipole_sky, drawn
from jax.test_util import check_grads
from numpyro import handlers
from scipy import integrate, stats

from diffcr.counts import MarginalCounts
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.site import site

pytestmark = pytest.mark.slow

GRID = RingGrid(8, 12)
N = GRID.n_ra
SITE, POLE = site("auger"), site("icecube")
# East and west differ: an hour angle of the wrong sign shows.
LOCAL = np.asarray(acceptance(SITE, GRID, azimuth_terms=[(1, 0.3, 1.0)]))
POLAR = np.asarray(acceptance(POLE, GRID, azimuth_terms=[(1, 0.3, 1.0)]))
MEAN = {SITE.name: LOCAL, POLE.name: POLAR}
NORM = models.DIPOLE_NORM
TRUTH = np.array([0.06, -0.05, -0.08])
PAIRS = [(1, -1), (1, 1), (1, 0), (2, -2), (2, -1), (2, 1), (2, 2), (2, 0)]
"""Degrees and orders of the multipoles of date, as the likelihood has them."""
MULTIPOLES = np.append(NORM * TRUTH[[1, 0, 2]], [0.05, -0.06, 0.03, 0.04, 0.07])


def rates(number: float) -> np.ndarray:
    """Four hours of livetime, four with less, four without any."""
    return np.repeat([1.2, 0.7, 0.0], N // 3) * number / N


def prior(counts, error, **options):
    """Multipoles up to l = 2 with a rate in each third of the day."""
    return acceptance_likelihood(counts, MEAN, error, **{"l_max": 2, "rate_bins": 3, "concentration": 0.0, **options})


def intensity(theta) -> np.ndarray:
    """1 + the sky of the multipoles, averaged over the cells."""
    flat = np.zeros(9)
    for (l, m), value in zip(PAIRS, theta, strict=True):
        flat[l * l + l + m] = value
    return 1 + np.asarray(synthesis(flat, GRID, cell_average=True))


def seen_sky(sky: np.ndarray) -> np.ndarray:
    """I[tau, ring, hour angle], by loops."""
    out = np.empty((N, *GRID.shape))
    for tau in range(N):
        for h in range(N):
            out[tau, :, h] = sky[:, (tau - h) % N]
    return out


def counts_of_cube(cube: np.ndarray):
    """Counts of a cube (time, ring, hour angle), by loops."""
    n_sky = np.zeros(GRID.shape)
    for tau in range(N):
        for h in range(N):
            n_sky[:, (tau - h) % N] += cube[tau, :, h]
    half = np.stack([cube.sum(2).T / 2] * 2)
    return as_counts(SITE, GRID, MarginalCounts(n_sky, cube.sum((1, 2)), cube.sum(0), half), None, int(cube.sum()))


@functools.cache
def uneven() -> np.ndarray:
    """Relative errors that differ from cell to cell, some above 1."""
    return np.exp(np.random.default_rng(5).uniform(np.log(0.05), np.log(2.0), GRID.shape))


@functools.cache
def small_cube() -> np.ndarray:
    mean = LOCAL * (1 + 0.1 * np.random.default_rng(4).standard_normal(GRID.shape))
    cube = np.random.default_rng(3).poisson(rates(3000.0)[:, None, None] * mean)
    # A cell of the field of view without events counts like every other.
    cube[:, 3, 0] = 0
    assert LOCAL[3, 0] > 0
    return cube


@functools.cache
def likelihood_of_small_cube():
    return prior(counts_of_cube(small_cube()), {SITE.name: uneven()}, concentration=1.0)


@functools.cache
def jitted(name: str):
    """A method of that likelihood, compiled once for all tests."""
    sky = likelihood_of_small_cube()
    return jax.jit(lambda *x: getattr(sky, name)(*x))


@functools.cache
def drawn_counts():
    return drawn(SITE, GRID, LOCAL, rates(3e4), intensity(MULTIPOLES), 1)


def log_integral(cube, sky: np.ndarray, rate: np.ndarray) -> float:
    """Sum over local cells of ln of the Poisson probabilities of all times, integrated over a Gamma acceptance."""
    live = rate > 0
    expected, total = (rate[:, None, None] * seen_sky(sky))[live], 0.0
    for ring, h in np.argwhere(LOCAL > 0):
        alpha = uneven()[ring, h] ** -2
        # In t = ln A, in which the density has one peak and exponential tails.
        t = np.linspace(np.log(LOCAL[ring, h]) - 60, np.log(LOCAL[ring, h]) + 5, 4001)
        poisson = stats.poisson.logpmf(cube[live, ring, h], np.multiply.outer(np.exp(t), expected[:, ring, h]))
        value = poisson.sum(axis=1) + stats.gamma.logpdf(np.exp(t), alpha, scale=LOCAL[ring, h] / alpha) + t
        total += value.max() + np.log(integrate.simpson(np.exp(value - value.max()), x=t))
    return total


def test_it_is_the_poisson_likelihood_integrated_over_the_acceptance():
    """With l = 2 and m = 0, cells without events, errors above 1, dead time, and any overall scale of the rate."""
    cube, sky = small_cube(), likelihood_of_small_cube()
    assert list(zip(sky.degree, sky.order, strict=True)) == PAIRS
    start = np.repeat(cube.sum((1, 2)).reshape(3, -1).mean(axis=1), N // 3)
    origin = log_integral(cube, np.ones(GRID.shape), start)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        theta, u = 0.15 * rng.standard_normal(8), np.append(0.3 + 0.2 * rng.standard_normal(2), 0.0)
        expected = log_integral(cube, intensity(theta), start * np.repeat(np.exp(u), N // 3)) - origin
        assert float(jitted("log_likelihood")(theta, u[None])) == pytest.approx(expected, abs=1e-6)
    assert float(jitted("log_likelihood")(np.zeros(8), np.zeros((1, 3)))) == 0.0
    # delta_N = 2 turns the southern sky negative.
    assert float(jitted("log_likelihood")(np.eye(8)[2] * 2 * NORM, np.zeros((1, 3)))) == -np.inf


def test_the_scale_of_the_rates_is_flat_in_its_logarithm_and_the_shares_are_dirichlet():
    sky, u = likelihood_of_small_cube(), np.array([[0.3, -0.2, 0.0]])
    both = np.array([[1.0, 1.0, 0.0]])
    assert float(sky.log_rate_prior(u + 1.7 * both)) == pytest.approx(float(sky.log_rate_prior(u)))
    number = small_cube().sum((1, 2)).reshape(3, -1).sum(axis=1)[:2]
    share = number * np.exp(u[0, :2]) / np.sum(number * np.exp(u[0, :2]))
    # The density of the shares is flat for alpha = 1; d(share) / du is their product.
    difference = sky.log_rate_prior(u) - sky.log_rate_prior(0 * u)
    assert float(difference) == pytest.approx(np.log(share.prod() / (number / number.sum()).prod()))


def test_the_integral_over_the_rates_is_that_of_a_sum():
    sky = likelihood_of_small_cube()
    step = np.linspace(-0.35, 0.35, 101)
    shifts = np.stack([*np.meshgrid(step, step), np.zeros((101, 101))], axis=-1).reshape(-1, 1, 3)

    @jax.jit
    def summed(theta):
        u = sky.rate_mean(theta) + shifts
        value = jax.lax.map(lambda v: sky.log_likelihood(theta, v) + sky.log_rate_prior(v), u, batch_size=500)
        return jax.scipy.special.logsumexp(value)

    marginal = jitted("marginal_log_likelihood")
    thetas = [sky.centre[0], sky.centre[0] + 0.1 * np.random.default_rng(0).standard_normal(8), np.zeros(8)]
    exact = np.array([summed(t) for t in thetas])
    found = np.array([marginal(t) for t in thetas])
    assert np.ptp(exact) > 1
    np.testing.assert_allclose(found - found[0], exact - exact[0], atol=2e-3)


def test_gradients():
    sky = likelihood_of_small_cube()
    theta, u = sky.centre[0] + 0.02, sky.rate_centre + 0.03
    check_grads(jitted("log_likelihood"), (theta, u), order=1, modes=["rev"], rtol=1e-5)
    check_grads(jitted("marginal_log_likelihood"), (theta,), order=1, modes=["rev"], rtol=1e-5)


def fisher_information(error: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Of the multipoles, from every cell of the cube, with ln N and ln A (precision 1/eps^2) eliminated."""
    sky = intensity(MULTIPOLES)
    basis = np.stack([seen_sky((intensity(one) - 1) / sky) for one in np.eye(8)])
    mu = rate[:, None, None] * LOCAL * seen_sky(sky)
    cells = np.argwhere(LOCAL > 0)
    ones = np.zeros((2 + len(cells), *mu.shape))
    ones[0, : N // 3], ones[1, N // 3 : 2 * N // 3] = 1, 1
    for k, (ring, h) in enumerate(cells):
        ones[2 + k, :, ring, h] = 1
    design = np.concatenate([basis, ones]).reshape(8 + len(ones), -1)
    full = (design * mu.ravel()) @ design.T
    full[np.diag_indices_from(full)] += np.concatenate([np.zeros(10), error[tuple(cells.T)] ** -2])
    return full[:8, :8] - full[:8, 8:] @ np.linalg.solve(full[8:, 8:], full[8:, :8])


@pytest.mark.parametrize("scale", [1e-3, 0.1, 3.0])
def test_the_information_is_that_of_every_cell_with_its_nuisances_eliminated(scale):
    """From a known acceptance to one that is as good as free, with errors that differ, and dead time."""
    error = scale * uneven() / 2
    counts = asimov(SITE, GRID, LOCAL, rates(1e5), intensity(MULTIPOLES))
    sky = prior(counts, {SITE.name: error})
    expected = fisher_information(error, rates(1e5))
    off = np.asarray(sky.centre[0]) - MULTIPOLES
    assert off @ expected @ off < 1e-6
    np.testing.assert_allclose(sky.information[0], expected, rtol=1e-5, atol=1e-6 * expected.max())
    np.testing.assert_allclose(sky.pull[0], expected @ MULTIPOLES, atol=1e-3 * np.sqrt(expected.max()))


def test_with_no_error_it_is_the_poisson_likelihood_of_a_known_acceptance():
    counts, rng = drawn_counts(), np.random.default_rng(2)
    number = counts.n_time[0, 0, 0]
    start = np.repeat(number.reshape(3, -1).mean(axis=1), N // 3)

    def poisson(theta, u):
        rate = start * np.repeat(np.exp(u), N // 3)
        expected = (rate[:, None, None] * LOCAL * seen_sky(intensity(theta))).sum()
        logs = np.sum(counts.n_sky * np.log(intensity(theta))) + np.sum(number[rate > 0] * np.log(rate[rate > 0]))
        return logs - expected

    theta, u = 0.1 * rng.standard_normal(8), np.append(0.1 * rng.standard_normal(2), 0.0)
    expected = poisson(theta, u) - poisson(np.zeros(8), np.zeros(3))
    assert float(prior(counts, 1e-6).log_likelihood(theta, u[None])) == pytest.approx(expected, rel=1e-7)


def test_where_the_data_drown_the_prior_it_is_the_likelihood_conditional_on_the_local_map():
    """Multipoles and relative rates move ln L as without a prior, and what depends on declination alone does not."""
    counts = asimov(SITE, GRID, LOCAL, rates(1e9), intensity(MULTIPOLES))
    sky, rng = prior(counts, 4.0), np.random.default_rng(2)
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0], 3)
    u = np.append(0.02 * rng.standard_normal(2), 0.0)
    u[:2] -= np.log(np.sum(np.asarray(data.rate) * np.repeat(np.exp(u), N // 3)))
    theta = MULTIPOLES + 0.05 * rng.standard_normal(8)

    def conditional(theta, u):
        seen = intensity(theta)[list(data.rings)]
        return float(conditional_log_likelihood(seen, data.rate * np.repeat(np.exp(u), N // 3), data))

    expected = conditional(theta, u) - conditional(np.zeros(8), np.zeros(3))
    assert abs(expected) > 1e5
    assert float(sky.log_likelihood(theta, u[None])) == pytest.approx(expected, rel=1e-5)
    rings = np.array([m == 0 for _, m in PAIRS]) * 0.05
    assert abs(float(sky.log_likelihood(rings, np.zeros((1, 3))))) < 1


def toy(seed: int, error: float):
    """Counts of an instrument whose acceptance is a draw of the prior."""
    local = LOCAL * np.random.default_rng(seed).gamma(error**-2, error**2, GRID.shape)
    return drawn(SITE, GRID, local, rates(3e4), intensity(MULTIPOLES), seed + 1000)


def test_pulls_are_unit_normal_where_the_acceptance_is_drawn_from_the_prior():
    """And those of m = 0 are not if the acceptance is taken as known: the toys can tell."""
    pulls, trusting = [], []
    for seed in range(100):
        counts = toy(seed, 0.08)
        for error, found in ((0.08, pulls), (1e-6, trusting)):
            sky = prior(counts, error)
            covariance = np.linalg.inv(np.asarray(sky.information[0]))
            found.append((np.asarray(sky.centre[0]) - MULTIPOLES) / np.sqrt(np.diag(covariance)))
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.3)
    assert np.all(np.abs(np.std(pulls, axis=0) - 1) < 0.22)
    assert np.std(trusting, axis=0)[2] > 1.5


def test_few_events_leave_a_centre_where_the_sky_is_positive():
    """Where no event is seen the most probable sky may be zero: a chain that starts there would be lost."""
    for seed in range(5):
        sky = prior(drawn(SITE, GRID, LOCAL, rates(30.0), intensity(MULTIPOLES), seed), 3.0, concentration=1.0)
        assert np.isfinite(sky.log_likelihood(sky.centre[0], sky.rate_centre))
        assert np.all(np.isfinite(sky.information))
        exposed = np.asarray(sky.block.data.background[0]) > 0
        assert np.all(intensity(sky.centre[0])[list(sky.rings[0])][exposed] >= 0.0099)


def test_equal_weights_change_nothing():
    counts = drawn_counts()
    twice = {name: 2 * getattr(counts, name) for name in ("n_sky", "n_time", "n_local", "n_half")}
    weighted = counts.replace(**twice, w2={name: 2 * values for name, values in twice.items()})
    one, other = prior(counts, 0.1), prior(weighted, 0.1)
    np.testing.assert_allclose(other.centre, one.centre, atol=1e-6)
    np.testing.assert_allclose(other.information, one.information, rtol=1e-5, atol=1e-2)


def wavy(number: float) -> np.ndarray:
    return number / N * (1 + 0.3 * np.cos(GRID.right_ascension - 1.0))


def dipoles(counts, error, **options):
    return prior(counts, error, **{"l_max": 1, "rate_bins": N, **options})


def several(make, number: float, dipole=TRUTH):
    """Two epochs of one site in one energy bin, and another site in another: three acceptances."""
    sky, parts = dipole_sky(GRID, dipole), []
    for k, (place, local, epoch, energy) in enumerate(
        [(SITE, LOCAL, "first", "low"), (SITE, LOCAL, "second", "low"), (POLE, POLAR, "first", "high")]
    ):
        own = {"seed": k} if make is drawn else {}
        counts = make(place, GRID, local, wavy(number * (1 + k)), sky, **own, epoch_year=2015.0)
        parts.append(counts.replace(epochs=(epoch,), energies=(energy,)))
    return combine(parts), combine(parts[:2])


@functools.cache
def drawn_several():
    return several(drawn, 1.5e4)


def test_with_no_error_the_fit_of_a_known_exposure_is_found_in_its_frame():
    """Two epochs with free rates each, in J2000: delta_N too, with its covariance."""
    for make in (asimov, drawn):
        counts, low = several(make, 1.5e4)
        expected = fit(low, exposure=MEAN, rate_bins=N)
        sky = dipoles(counts, 1e-6)
        rows = np.asarray(sky.turn).T[list(sky.dipole_places)] / NORM
        covariance = rows @ np.linalg.inv(np.asarray(sky.information[0])) @ rows.T
        np.testing.assert_allclose(rows @ np.asarray(sky.centre[0]), expected.dipole.delta, atol=2e-6)
        np.testing.assert_allclose(covariance, expected.dipole.covariance, rtol=1e-5, atol=1e-9)
    rings = [tuple(np.flatnonzero(local.sum(axis=1))) for local in (LOCAL, LOCAL, POLAR)]
    assert sky.rings == tuple(rings) and rings[0] != rings[2]
    assert (sky.frame, sky.energies, sky.dipole_places) == ("J2000", ("low", "high"), (1, 0, 2))
    np.testing.assert_allclose(sky.turn @ sky.turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(sky.turn, sky.to_date[:, [1, 3, 2]], atol=1e-12)
    # Fifteen years turn the pole by 5 arcminutes towards RA 0h of the sky of date.
    assert np.abs(np.asarray(sky.turn)[1, 2]) == pytest.approx(np.radians(15 * 20.04 / 3600), rel=1e-3)


def test_with_unlimited_data_each_configuration_knows_what_its_prior_knows():
    """eps / sqrt(sum (sin dec - mean)^2) over the cells, and two epochs are two draws of the acceptance."""
    counts, _ = several(asimov, 1e13, np.zeros(3))
    sky, edges = dipoles(counts, 0.02), np.sin(GRID.declination_edges)
    sine = np.broadcast_to(((edges[1:] + edges[:-1]) / 2)[:, None], GRID.shape)
    for energy, local, draws in ((0, LOCAL, 2), (1, POLAR, 1)):
        seen = sine[local > 0]
        expected = 0.02 / np.sqrt(draws * np.sum((seen - seen.mean()) ** 2))
        covariance = np.linalg.inv(np.asarray(sky.information[energy]))
        assert np.sqrt(covariance[2, 2]) / NORM == pytest.approx(expected, rel=1e-3)


def test_the_geometry_is_that_of_the_exact_hessian():
    """Mode, information, response and root against the second derivatives of the density, with the Dirichlet prior."""
    counts, _ = drawn_several()
    sky = dipoles(counts, {SITE.name: 0.1, POLE.name: 1.0}, concentration=2.0)
    shape, params = sky.rate_centre.shape, sky.centre.size

    def density(x):
        u = x[params:].reshape(shape)
        return sky.log_likelihood(x[:params].reshape(sky.centre.shape), u) + sky.log_rate_prior(u)

    x = jnp.concatenate([sky.centre.ravel(), sky.rate_centre.ravel()])
    gradient, hessian = jax.jit(lambda x: (jax.grad(density)(x), jax.hessian(density)(x)))(x)
    hessian = np.asarray(hessian)
    inverse = np.linalg.inv(-hessian)
    np.testing.assert_allclose(gradient @ inverse @ gradient, 0.0, atol=1e-8)
    found = np.asarray(jax.scipy.linalg.block_diag(*sky.information))
    np.testing.assert_allclose(np.linalg.inv(inverse[:params, :params]), found, rtol=1e-6, atol=1e-6 * found.max())
    np.testing.assert_allclose(
        sky.pull.ravel(), found @ np.asarray(sky.centre).ravel(), atol=1e-3 * np.sqrt(found.max())
    )
    rates = -hessian[params:, params:]
    response = np.linalg.solve(rates, hessian[params:, :params]).reshape(*shape, *sky.centre.shape)
    for c, e in enumerate(sky.energy):
        np.testing.assert_allclose(response[c, :, e], sky.rate_response[c], rtol=1e-5, atol=1e-7)
    size = rates.shape[0]
    root = np.asarray(jax.vmap(sky.rate_root)(np.eye(size).reshape(size, *shape))).reshape(size, size)
    np.testing.assert_allclose(root @ rates @ root.T, np.eye(size), atol=1e-6)
    again = np.asarray(jax.vmap(sky.rate_unroot)(root.reshape(size, *shape))).reshape(size, size)
    np.testing.assert_allclose(again, np.eye(size), atol=1e-8)


def test_a_fiducial_prior_places_the_centre_at_its_mode():
    counts, _ = drawn_several()
    sky = dipoles(counts, 0.1, prior_precision=1e4)
    information, centre = np.asarray(sky.information), np.asarray(sky.centre)
    slope, rest = jax.jit(jax.grad(lambda t, u: sky.log_likelihood(t, u), argnums=(0, 1)))(centre, sky.rate_centre)
    np.testing.assert_allclose(slope, 1e4 * centre, atol=1e-2)
    np.testing.assert_allclose(rest, 0.0, atol=1e-2)
    # In the coordinates of a normal prior of that precision the mode is the origin.
    mode = np.linalg.solve(information + 1e4 * np.eye(3), np.asarray(sky.pull)[..., None])[..., 0]
    np.testing.assert_allclose(mode, centre, atol=1e-6)
    assert np.linalg.norm(centre[0]) < 0.5 * np.linalg.norm(NORM * TRUTH)


def test_sampling_measures_delta_n_to_the_error_of_its_prior_on_the_acceptance():
    """One energy bin with an acceptance known to a thousandth, one where it is hardly known, each with its dipole."""
    counts, low = drawn_several()
    sky = dipoles(counts, {SITE.name: 1e-3, POLE.name: 2.5}, concentration=1.0)
    scale = np.array([1.0, 1.0, 1.0, 0.05, 0.05, 0.05])
    turn = np.asarray(sky.turn)[:, list(sky.dipole_places)] * NORM
    design = np.zeros((2, 3, 6))
    design[0, :, :3], design[1, :, 3:] = turn, turn

    def model(sky):
        vectors = numpyro.sample("dipole", sky_normal(sky, 0.0, scale, design))
        models.counts(sky, jnp.einsum("epn,n->ep", design, vectors))

    kernel = Kernel(model, Plan(warmup=200, draws=400))
    draws = sample_segments(kernel, (sky,), {})
    dipole = natural(kernel, draws.positions, (sky,), {})["dipole"].reshape(-1, 6)
    assert draws.statistics["diverging"].mean() < 0.01
    known = fit(low, exposure=MEAN, rate_bins=N).dipole
    error = np.sqrt(np.diag(known.covariance))
    np.testing.assert_allclose(dipole[:, :3].std(axis=0), error, rtol=0.1)
    assert np.all(np.abs(dipole[:, :3].mean(axis=0) - known.delta) < 0.2 * error)
    assert np.all(np.abs(known.delta - TRUTH) < 3 * error)
    assert dipole[:, 5].std() == pytest.approx(0.05, rel=0.1)
    assert abs(dipole[:, 5].mean()) < 0.05 / 3


def test_the_models_name_delta_n_from_the_data_and_not_from_its_prior():
    sky = prior(drawn_counts(), 0.1)
    vector = {"dipole": jnp.array(TRUTH), "log_rate": sky.rate_centre}
    trace = handlers.trace(handlers.substitute(handlers.seed(models.dipole, 0), vector)).get_trace(sky)
    assert trace["delta_N"]["type"] == "deterministic"
    assert float(trace["delta_N"]["value"]) == TRUTH[2]
    theta = np.append(MULTIPOLES[:3], np.zeros(5))
    counted = trace["counts"]["fn"].log_factor
    assert float(counted) == pytest.approx(float(sky.log_likelihood(theta, sky.rate_centre)))


def test_what_is_refused():
    counts = drawn_counts()
    narrow = np.where(LOCAL > np.median(LOCAL[LOCAL > 0]), LOCAL, 0.0)
    for mean, error, options, message in [
        ({}, 0.1, {}, "no prior mean of the acceptance is given for .*only for none; give one"),
        ({SITE.name: LOCAL.T}, 0.1, {}, "must be finite, non-negative and of shape"),
        ({SITE.name: -LOCAL}, 0.1, {}, "must be finite, non-negative"),
        ({SITE.name: narrow}, 0.1, {}, "events of .* lie where its known exposure is zero: widen"),
        (MEAN, {POLE.name: 0.1}, {}, "no relative error of the acceptance is given for .*, only for"),
        (MEAN, 0.0, {}, "must lie between 1e-06 and 1e.06, not 0; for a known acceptance"),
        (MEAN, float("nan"), {}, "must lie between 1e-06 and 1e.06, not nan"),
        (MEAN, {SITE.name: -uneven()}, {}, "must lie between"),
        (MEAN, uneven()[:3], {}, r"must be a number or of shape \(8, 12\); it is \(3, 12\)"),
        (MEAN, 100.0, {}, "says next to nothing: .* lower the errors"),
        (MEAN, 0.1, {"l_max": 4}, "l_max must be at least 1 and resolved by the 8 rings, not 4"),
        (MEAN, 0.1, {"l_max": 0}, "l_max must be"),
        (MEAN, 0.1, {"concentration": -1.0}, "concentration of the rates' Dirichlet prior"),
        (MEAN, 0.1, {"rate_bins": 5}, "rate_bins = 5 does not divide"),
    ]:
        with pytest.raises(InputError, match=message):
            acceptance_likelihood(counts, mean, error, **options)
    with pytest.raises(InputError, match="has no event"):
        acceptance_likelihood(combine([counts, counts_without_events()]), MEAN, 0.1)
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="64-bit"):
            acceptance_likelihood(counts, MEAN, 0.1)
    finally:
        jax.config.update("jax_enable_x64", True)


def counts_without_events():
    empty = MarginalCounts(np.zeros(GRID.shape), np.zeros(N), np.zeros(GRID.shape), np.zeros((2, GRID.n_ring, N)))
    counts = as_counts(POLE, GRID, empty, None, 1)
    return counts.replace(num_events=np.zeros_like(counts.num_events))
