"""The likelihood of sky and rates: its value against the full cells, and the geometry that the sampler relies on."""

import dataclasses
import functools

import erfa
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.likelihood import conditional_log_likelihood, form_marginals
from diffcr.inference.simulate import Simulation, simulate_counts
from diffcr.inference.sky_likelihood import sky_likelihood
from helpers import dipole_sky, drawn
from jax.test_util import check_grads
from scipy import integrate, optimize, special, stats

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.site import site

NORM = np.sqrt(4 * np.pi / 3)
GRID = RingGrid(12, 24)
DEAD = [5, 6, 7, 8]
"""Time bins without livetime of one configuration: with twelve rates two groups are half dead and one is dead."""


def precession(year):
    """Mean equator and equinox of J2000 to those of a date, without the frame bias, from ERFA."""
    return erfa.bp06(2451545.0, (year - 2000.0) * 365.25)[1]


@functools.cache
def local_of(name):
    return np.asarray(acceptance(site(name), GRID, power=2.0, azimuth_terms=[(1, 0.15, 0.7)]))


def one(name, events, seed, energy="a", epoch="1", year=2014.0, dead=(), spread=0.0, dipole=(0.04, -0.03)):
    """Counts of one configuration, with a rate and an acceptance that know east from west."""
    rate = events / 24 * (1 + 0.2 * np.cos(GRID.sidereal_time - 1.0) + 0.1 * np.sin(2 * GRID.sidereal_time))
    rate[list(dead)] = 0.0
    counts = drawn(site(name), GRID, local_of(name), rate, dipole_sky(GRID, dipole), seed, spread, year)
    return counts.replace(energies=(energy,), epochs=(epoch,))


@pytest.fixture(scope="module")
def parts():
    """Two observatories, two energy bins, two epochs; six of eight configurations hold events, some with weights."""
    return [
        one("HAWC", 3e5, 1),
        one("IceCube", 2e5, 2, spread=0.4),
        one("HAWC", 1e5, 3, energy="b", dead=DEAD),
        one("HAWC", 2e5, 4, epoch="2", year=2021.0),
        one("IceCube", 1e5, 5, energy="b", epoch="2", year=2020.0),
        one("IceCube", 1e5, 6, energy="b", year=2013.5),
    ]


@pytest.fixture(scope="module")
def joint(parts):
    """Their likelihood up to l = 2 with twelve rates each, on every cell."""
    return sky_likelihood(combine(parts), l_max=2, rate_bins=12, nodes=24)


def polar(**changes):
    """Counts of IceCube, which sees nothing north of -30 degrees, with a dead stretch of time."""
    return one("IceCube", 4e4, 8, **{"dead": DEAD, **changes})


def small(counts, **options):
    """Dipole only, twelve rates of which one is dead, improper prior of the rates, on every cell."""
    return sky_likelihood(counts, rate_bins=12, nodes=24, concentration=0.0, **options)


@pytest.fixture(scope="module")
def simple():
    return small(polar())


def turned(theta, degree, order, angle):
    """Multipoles of f(RA - angle): cos m(RA - a) = cos(m RA) cos(m a) + sin(m RA) sin(m a), and so on."""
    value = {(l, m): t for l, m, t in zip(degree, order, theta, strict=True)}
    out = {}
    for l, m in value:
        c, s = np.cos(abs(m) * angle), np.sin(abs(m) * angle)
        out[l, m] = value[l, m] * c - value[l, -m] * s if m > 0 else value[l, m] * c + value[l, -m] * s
    return np.array([out[l, m] for l, m in zip(degree, order, strict=True)])


def sky_of(theta, degree, order):
    full = np.zeros((max(degree) + 1) ** 2)
    degree, order = np.array(degree), np.array(order)
    full[degree**2 + degree + order] = theta
    return 1 + np.asarray(synthesis(full, GRID, cell_average=True))


def share_of(counts, place, groups):
    """Part of the events in each group of time bins."""
    return counts.n_time[place].reshape(groups, -1).sum(axis=1) / counts.n_time[place].sum()


def dense(counts, place, sky, log_rates):
    """`conditional_log_likelihood` on the full cells minus that of isotropy, the scale of the rate being 1."""
    data = form_marginals(counts.n_sky[place], counts.n_time[place], counts.n_local[place])
    width = len(data.time) // len(log_rates)
    rate = np.repeat(np.reshape(data.time, (-1, width)).mean(axis=1), width)
    rings = list(data.rings)
    best = conditional_log_likelihood(jnp.ones_like(data.sky), jnp.asarray(rate), data)
    shifted = rate * np.repeat(np.exp(log_rates), width)
    return float(conditional_log_likelihood(jnp.asarray(sky[rings]), jnp.asarray(shifted), data) - best)


def test_is_the_conditional_likelihood_of_the_full_cells(parts, joint):
    """Of six configurations at once: each has its own rates, those of one energy bin share the sky, each epoch sees it
    from an equator of its own, weights count as effective events."""
    counts = combine(parts)
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert joint.energy == (0, 0, 1, 0, 1, 1) and joint.energies == ("a", "b")
    assert joint.names[1] == "HAWC, a, 2" and joint.names[2] == "HAWC, b, 1"
    scales = {place: counts.n_time[place].sum() / counts.w2["n_time"][place].sum() for place in places}
    assert min(scales.values()) < 0.99 and max(scales.values()) == 1
    events = np.array([p.num_events.sum() for p in parts])
    years = [2014.0, 2014.0, 2014.0, 2021.0, 2020.0, 2013.5]
    common = precession(np.average(years, weights=events))
    value = jax.jit(lambda theta, u: joint.log_likelihood(theta, u))
    rng = np.random.default_rng(0)
    for _ in range(3):
        theta, u = 0.05 * rng.standard_normal((2, 6)), 0.1 * rng.standard_normal((6, 12))
        expected = 0.0
        for k, place in enumerate(places):
            turn = precession(counts.mean_epoch[place]) @ common.T
            sky = sky_of(
                turned(theta[place[1]], joint.degree, joint.order, np.arctan2(turn[1, 0], turn[0, 0])),
                joint.degree,
                joint.order,
            )
            pin = 0.5 * counts.n_time[place].sum() * (share_of(counts, place, 12) @ np.expm1(u[k])) ** 2
            expected += scales[place] * (dense(counts, place, sky, u[k]) - pin)
        np.testing.assert_allclose(value(theta, u), expected, rtol=1e-9)
    shared = value(np.stack([theta[0]] * 2), u)
    np.testing.assert_allclose(value(theta[0], u), shared, rtol=1e-14)


@pytest.fixture(scope="module")
def unequal():
    """A large and a small data set."""
    return combine([one("HAWC", 1e7, 1, dipole=(2e-3, -1e-3)), one("IceCube", 1500, 12, dipole=(0.0, 0.0))])


@pytest.fixture(scope="module")
def by_default(unequal):
    """With everything left to the defaults: of 24 time bins, 1500 events carry twelve rates of a hundred events each,
    and so that is what both have."""
    return sky_likelihood(unequal)


def test_by_default_every_rate_holds_a_hundred_events_in_every_configuration(by_default):
    assert by_default.rate_centre.shape == (2, 12)


def test_few_nodes_per_ring_lose_no_more_than_they_may(unequal, by_default):
    """Within six standard deviations of the maximum."""
    sky, counts = by_default, unequal
    assert sky.nodes == 12
    value = jax.jit(lambda theta, u: sky.log_likelihood(theta, u))
    rng = np.random.default_rng(1)
    error = 1 / np.sqrt(np.diag(sky.information[0]))
    for distance in (0, 3, 6):
        theta = np.asarray(sky.centre[0]) + distance * error * rng.choice([-1, 1], 2)
        u = np.asarray(sky.rate_mean(theta)) + 0.01 * rng.standard_normal((2, 12))
        expected = 0.0
        for k, place in enumerate([(0, 0, 0), (1, 0, 0)]):
            pin = 0.5 * counts.n_time[place].sum() * (share_of(counts, place, 12) @ np.expm1(u[k])) ** 2
            expected += dense(counts, place, sky_of(theta, sky.degree, sky.order), u[k]) - pin
        np.testing.assert_allclose(value(theta, u), expected, atol=1e-4)


def test_the_scale_of_the_rates_of_each_configuration_is_pinned_and_nothing_else(joint):
    """exp(-N (S - 1)^2 / 2) with S = sum r e^u, whatever the sky."""
    rng = np.random.default_rng(2)
    u = 0.1 * rng.standard_normal((6, 12))
    events, start = np.asarray(joint.block.group_counts), np.asarray(joint.block.rate_modes[:, -1])

    def free(theta, u):
        pin = 0.5 * events.sum(axis=1) * (np.sum(start * np.exp(u), axis=1) - 1) ** 2
        return float(joint.log_likelihood(theta, u)) + pin.sum()

    for theta in (np.zeros(6), 0.05 * rng.standard_normal(6)):
        before = free(theta, u)
        assert free(theta, u + np.log([[0.8], [0.9], [1], [1.1], [1.2], [1.3]])) == pytest.approx(before, rel=1e-9)


def test_a_sky_that_is_negative_where_exposed_is_impossible_and_elsewhere_is_not(simple):
    """IceCube sees cos(dec) up to 0.9: a dipole of 1.05 is negative only on the equator, one of 1.3 in view too."""
    value = jax.jit(lambda theta: simple.log_likelihood(theta, jnp.zeros((1, 12))))
    marginal = jax.jit(lambda theta: simple.marginal_log_likelihood(theta))
    for direction in ([1.0, 0.0], [0.0, -1.0], [-0.6, 0.8]):
        theta = NORM * np.array(direction)
        assert np.isfinite(value(1.05 * theta))
        assert value(1.3 * theta) == -np.inf
        assert marginal(1.3 * theta) == -np.inf


@pytest.mark.parametrize("concentration", [0.5, 1.0, 3.0])
def test_prior_of_the_rates_is_dirichlet_of_the_relative_ones(joint, simple, concentration):
    """scipy's density of p, times the Jacobian of (p_1 .. p_{G-1}, ln S) by u; a dead group takes no part, and is a
    unit normal."""
    rng = np.random.default_rng(3)
    for sky in (joint, simple):
        sky = dataclasses.replace(sky, concentration=jnp.asarray(concentration))
        values = []
        for _ in range(2):
            u = 0.5 * rng.standard_normal(sky.rate_centre.shape)
            expected = 0.0
            for start, alive, own in zip(sky.block.rate_modes[:, -1], np.asarray(sky.alive) > 0, u, strict=True):
                kept, r = own[alive], np.asarray(start)[alive]
                assert (r > 0).all() and not np.asarray(start)[~alive].any()
                p = r * np.exp(kept) / np.sum(r * np.exp(kept))
                jacobian = np.vstack([(np.diag(p) - np.outer(p, p))[:-1], p])
                expected += stats.dirichlet.logpdf(p / p.sum(), np.full(len(r), concentration))
                expected += np.linalg.slogdet(jacobian)[1]
                expected += stats.norm.logpdf(own[~alive]).sum()
            values.append((float(sky.log_rate_prior(u)), expected))
        (ours, expected), (ours2, expected2) = values
        np.testing.assert_allclose(ours - ours2, expected - expected2, rtol=1e-9)
    assert np.sum(np.asarray(simple.alive) == 0) == 1 and np.sum(np.asarray(joint.alive) == 0) == 1


@pytest.fixture(scope="module")
def slopes(joint):
    """Gradient (c, g) and Hessian (c, g, c, g) of minus ln posterior by the rates, by automatic differentiation."""

    def cost(u, theta):
        return -joint.log_likelihood(theta, u) - joint.log_rate_prior(u)

    return jax.jit(lambda u, theta: (jax.grad(cost)(u, theta), jax.hessian(cost)(u, theta)))


def test_centre_of_the_rates_is_their_mode_and_the_root_is_that_of_its_hessian(joint, slopes):
    """Of all six configurations: root root^T = H^-1 with H of jax.hessian, and nothing couples two configurations."""
    gradient, hessian = (np.asarray(x) for x in slopes(joint.rate_centre, joint.centre))
    error = np.sqrt(np.einsum("cgcg->cg", hessian))
    assert np.max(np.abs(gradient / error)) < 1e-6
    basis = np.eye(12)
    for c in range(6):
        assert not np.any(np.delete(hessian[c], c, axis=1))
        z = np.zeros((12, 6, 12))
        z[:, c] = basis
        root = np.asarray(jax.vmap(joint.rate_root)(z))[:, c].T
        np.testing.assert_allclose(root @ root.T @ hessian[c, :, c], basis, atol=1e-7)


def test_root_and_unroot_are_inverse(joint):
    z = np.random.default_rng(4).standard_normal((6, 12))
    np.testing.assert_allclose(joint.rate_unroot(joint.rate_root(z)), z, atol=1e-10)
    np.testing.assert_allclose(joint.rate_root(joint.rate_unroot(z)), z, atol=1e-10)


def test_rate_mean_follows_the_ridge(joint, slopes):
    """The response is the derivative of the rates' mode, found by Newton's method on automatic derivatives, by each
    multipole of its own energy bin, and no other's."""

    def mode(theta):
        u = joint.rate_centre
        for _ in range(6):
            gradient, hessian = slopes(u, theta)
            step = np.linalg.solve(np.reshape(hessian, (72, 72)), np.ravel(gradient))
            u = u - step.reshape(u.shape)
        assert np.abs(step).max() < 1e-10
        return np.asarray(u)

    centre, eps = np.asarray(joint.centre), 1e-4
    for energy, param in ((0, 1), (0, 4), (1, 0)):
        move = np.zeros_like(centre)
        move[energy, param] = eps
        ahead = mode(centre + move)
        slope = (ahead - mode(centre - move)) / (2 * eps)
        ours = (np.asarray(joint.rate_mean(centre + move)) - np.asarray(joint.rate_centre)) / eps
        np.testing.assert_allclose(ours, slope, atol=1e-5 * np.abs(slope).max())
        np.testing.assert_allclose(joint.rate_mean(centre + move), ahead, atol=1e-6)
        assert np.abs(slope[np.array(joint.energy) == energy]).max() > 0.05
        assert not np.any(ours[np.array(joint.energy) != energy])


def test_information_and_pull_are_those_of_the_likelihood_with_the_rates_eliminated(simple):
    """Schur complement of the complete Hessian of jax.hessian, at the mode: theta first, then twelve rates."""

    def f(z):
        return -simple.log_likelihood(z[:2], z[None, 2:])

    z = jnp.concatenate([simple.centre[0], simple.rate_centre[0]])
    hessian = np.asarray(jax.jit(jax.hessian(f))(z))
    gradient = np.asarray(jax.jit(jax.grad(f))(z))
    assert np.max(np.abs(gradient)) < 1e-4
    live = 2 + np.flatnonzero(np.asarray(simple.alive[0]))
    cross, rates = hessian[:2, live], hessian[np.ix_(live, live)]
    schur = hessian[:2, :2] - cross @ np.linalg.solve(rates, cross.T)
    np.testing.assert_allclose(simple.information[0], schur, rtol=1e-6, atol=1e-6 * schur.max())
    np.testing.assert_allclose(simple.pull[0], schur @ simple.centre[0], rtol=1e-5)


def test_a_fiducial_prior_moves_the_coordinates_and_not_the_likelihood(simple):
    """Its mode has the likelihood's slope balanced by the prior's; the information stays the likelihood's own."""
    precision = np.array([2e4, 5e3])
    moved = small(polar(), prior_precision=precision)
    assert np.max(np.abs(moved.centre - simple.centre)) > 0.01
    u = 0.05 * np.random.default_rng(5).standard_normal((1, 12))
    theta = np.array([0.1, -0.05])
    np.testing.assert_allclose(moved.log_likelihood(theta, u), simple.log_likelihood(theta, u), rtol=1e-12)
    slope = jax.grad(lambda t: moved.log_likelihood(t, moved.rate_centre))(moved.centre[0])
    np.testing.assert_allclose(slope, precision * moved.centre[0], rtol=1e-5)
    np.testing.assert_allclose(moved.pull[0] - moved.information[0] @ moved.centre[0], slope, rtol=1e-5)
    np.testing.assert_allclose(moved.information[0], simple.information[0], rtol=0.1, atol=100)


# The rates integrated ----------------------------------------------------------------------------------


def tiny(events, groups, seed=11):
    """Counts on 4 x 6 cells with a rate that is constant within each of `groups` stretches."""
    grid = RingGrid(4, 6)
    place = site("10,0,80")
    local = np.asarray(acceptance(place, grid, power=1.0, azimuth_terms=[(1, 0.3, 0.4)]))
    rate = np.repeat(np.linspace(0.6, 1.4, groups), 6 // groups) * events / 6
    return drawn(place, grid, local, rate, dipole_sky(grid, (0.2, 0.1)), seed)


@functools.partial(jax.jit, static_argnames="width")
def conditional(p, intensity, data, width):
    """ln L at relative rates p, shape (.., group), each constant over `width` time bins."""
    one = lambda rate: conditional_log_likelihood(intensity, jnp.repeat(rate / width, width), data)
    return jnp.vectorize(one, signature="(g)->()")(p)


def brute_force(counts, theta, groups, concentration):
    """ln of the integral of the conditional likelihood over relative rates with scipy's Dirichlet density."""
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0])
    intensity = jnp.asarray(dipole_sky(counts.grid, (theta[1] / NORM, theta[0] / NORM)))[jnp.array(data.rings)]

    def log_density(p):
        """At the first relative rates, shape (.., groups - 1)."""
        p = np.concatenate([p, 1 - p.sum(axis=-1, keepdims=True)], axis=-1)
        inside = p.min(axis=-1) > 0
        p = np.where(inside[..., None], p, 1 / groups)
        likelihood = np.asarray(conditional(jnp.asarray(p), intensity, data, 6 // groups))
        value = likelihood + stats.dirichlet.logpdf(p.T, np.full(groups, concentration))
        return np.where(inside, value, -np.inf)

    start = np.asarray(data.time).reshape(groups, -1).sum(axis=1)[:-1] / data.total
    top = optimize.minimize(lambda p: -float(np.squeeze(log_density(p))), start, method="Nelder-Mead").x
    half = 9 * np.sqrt(top / float(data.total))
    low, high = np.maximum(top - half, 0), np.minimum(top + half, 1)
    node, weight = np.polynomial.legendre.leggauss(60)
    axes = [(b - a) / 2 * node + (b + a) / 2 for a, b in zip(low, high, strict=True)]
    p = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, groups - 1)
    weights = functools.reduce(np.multiply.outer, [(b - a) / 2 * weight for a, b in zip(low, high, strict=True)])
    return special.logsumexp(log_density(p), b=weights.ravel())


@pytest.mark.parametrize("groups", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_marginal_likelihood_is_the_integral_over_the_rates(groups):
    """Differences between skies, up to a part in the counts of a group: the more events the better."""
    for events, concentration in ((600, 1.0), (600, 4.0), (60_000, 2.0)):
        counts = tiny(events, groups)
        sky = sky_likelihood(counts, rate_bins=groups, concentration=concentration, nodes=6)
        error = 1 / np.sqrt(np.diag(sky.information[0]))
        skies = np.asarray(sky.centre) + error * np.array([[0, 0], [3, 0], [0, -3], [-2, 2]])
        ours = np.asarray(jax.jit(lambda t: jax.lax.map(sky.marginal_log_likelihood, t))(skies))  # noqa: B023
        exact = np.array([brute_force(counts, t, groups, concentration) for t in skies])
        assert np.ptp(exact) > 3
        np.testing.assert_allclose(ours - ours[0], exact - exact[0], atol=3 * groups / events)


def test_the_quadrature_of_these_tests_is_that_of_scipy():
    counts, theta = tiny(600, 2), (0.3, 0.2)
    data = form_marginals(counts.n_sky[0, 0, 0], counts.n_time[0, 0, 0], counts.n_local[0, 0, 0])
    intensity = jnp.asarray(dipole_sky(counts.grid, (0.2 / NORM, 0.3 / NORM)))[jnp.array(data.rings)]
    value = lambda p: float(conditional(jnp.array([p, 1 - p]), intensity, data, 3))
    top = value(0.4)
    found, _ = integrate.quad(lambda p: np.exp(value(p) - top) * stats.beta.pdf(p, 2, 2), 0, 1, points=[0.3])
    np.testing.assert_allclose(brute_force(counts, theta, 2, 2.0), top + np.log(found), rtol=1e-8)


# The frame of the results ------------------------------------------------------------------------------


def real_harmonics(l_max, vector):
    """The basis from scipy's complex one, in the order l^2 + l + m, shape (coefficient, ..)."""
    polar, azimuth = np.arccos(np.clip(vector[..., 2], -1, 1)), np.arctan2(vector[..., 1], vector[..., 0])
    rows = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            y = special.sph_harm_y(l, abs(m), polar, azimuth) * (-1.0) ** m * (np.sqrt(2) if m else 1)
            rows.append(y.imag if m < 0 else y.real)
    return np.stack(rows)


def quadrature(l_max):
    """Directions and weights that integrate products of two fields of this degree."""
    z, w = np.polynomial.legendre.leggauss(l_max + 2)
    phi = 2 * np.pi * np.arange(2 * l_max + 3) / (2 * l_max + 3)
    vector = np.stack(
        [
            np.outer(np.sqrt(1 - z**2), np.cos(phi)),
            np.outer(np.sqrt(1 - z**2), np.sin(phi)),
            np.outer(z, np.ones(len(phi))),
        ],
        axis=-1,
    )
    return vector.reshape(-1, 3), np.repeat(w * 2 * np.pi / len(phi), len(phi))


def test_multipoles_of_date_are_those_of_the_precessed_sky(parts, joint):
    """f of date at P n is f of J2000 at n, with P of ERFA and harmonics of scipy, m = 0 included; 0.1 degrees."""
    assert joint.frame == "J2000"
    counts = combine(parts)
    year = np.average(counts.mean_epoch[counts.num_events > 0], weights=counts.num_events[counts.num_events > 0])
    matrix = precession(year)
    vector, weight = quadrature(2)
    rows = np.array(joint.degree) ** 2 + np.array(joint.degree) + np.array(joint.order)
    # Multipole j of date of the field that is harmonic k in J2000.
    expected = (real_harmonics(2, vector) * weight) @ real_harmonics(2, vector @ matrix).T
    np.testing.assert_allclose(joint.to_date, expected[rows], atol=1e-8)
    assert np.abs(expected - np.eye(9)).max() > 3e-3
    # Back with the rows of m = 0 of date left out: J2000 from date is the transpose.
    np.testing.assert_allclose(joint.turn, np.linalg.inv(expected.T[np.ix_(rows, rows)]), atol=1e-8)


@pytest.mark.parametrize("component", [0, 1])
def test_a_dipole_of_j2000_is_found_where_it_was_put(component):
    """1e12 simulated events of 2016.5: precession moves the dipole by 25 standard deviations."""
    truth = np.array([0.05, 0.0, 0.0]) if component == 0 else np.array([0.0, 0.05, 0.0])
    simulation = Simulation(site("IceCube"), 1e12, tuple(truth), start=5844.5, end=6210.5)
    counts = simulate_counts(simulation, GRID, seed=3)
    np.testing.assert_allclose(counts.overall_epoch(), 2016.5, atol=0.01)
    sky = small(counts)
    x, y = sky.dipole_places
    assert (sky.degree[x], sky.order[x], sky.degree[y], sky.order[y]) == (1, 1, 1, -1)
    of_date = np.asarray(sky.centre[0])
    found = np.linalg.solve(np.asarray(sky.turn), of_date)[[x, y]] / NORM
    error = np.sqrt(np.diag(np.linalg.inv(sky.information[0]))) / NORM
    assert np.all(np.abs(found - truth[:2]) < 4 * error)
    assert np.max(np.abs(of_date[[x, y]] / NORM - truth[:2]) / error) > 20
    # The same by rotating the vector itself.
    vector = precession(2016.501).T @ np.append(of_date[[x, y]] / NORM, 0.0)
    np.testing.assert_allclose(found, vector[:2], atol=1e-6)


def test_counts_without_an_epoch_stay_in_their_frame(simple):
    sky = small(polar(year=np.nan))
    assert sky.frame == "date"
    np.testing.assert_array_equal(sky.turn, np.eye(2))
    np.testing.assert_array_equal(sky.to_date, [[0, 1, 0, 0], [0, 0, 0, 1]])
    assert simple.frame == "J2000"


# Gradients and errors ----------------------------------------------------------------------------------


def test_gradients_are_those_of_finite_differences(simple):
    """Of likelihood, prior, ridge and marginal likelihood at once: each must be right for the sum to be."""
    weight = np.random.default_rng(6).standard_normal((1, 12))

    @jax.jit
    def total(theta, u):
        both = simple.log_likelihood(theta, u) / 1e3 + simple.log_rate_prior(u) / 10
        return both + jnp.sum(weight * simple.rate_mean(theta)) + simple.marginal_log_likelihood(theta) / 1e2

    check_grads(total, (np.array([0.1, -0.1]), 0.1 * weight), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("l_max", [0, -1, 6, 12, True])
def test_degrees_that_the_rings_do_not_resolve_are_refused(parts, l_max):
    with pytest.raises(InputError, match=rf"l_max must be at least 1 and resolved by the 12 rings, not {l_max}$"):
        sky_likelihood(parts[0], l_max=l_max)


@pytest.mark.parametrize("concentration", [-1.0, np.nan, np.inf])
def test_an_impossible_concentration_is_refused(parts, concentration):
    with pytest.raises(InputError, match=r"Dirichlet prior must be 0 or positive and finite, not .*; 1 is uniform"):
        sky_likelihood(parts[0], concentration=concentration)


def test_an_observatory_without_events_is_named(parts):
    nothing = parts[1].replace(
        **{name: 0 * getattr(parts[1], name) for name in ("n_sky", "n_time", "n_local", "n_half", "num_events")},
        w2={name: 0 * values for name, values in parts[1].w2.items()},
    )
    with pytest.raises(InputError, match="the observatory IceCube has no event: leave it out, or look at its cuts"):
        sky_likelihood(combine([parts[0], nothing]))


def test_a_handful_of_events_is_too_few():
    with pytest.raises(InputError, match=r"^\d events are too few for a posterior; add data"):
        sky_likelihood(one("HAWC", 5, 13))


def test_groups_must_divide_the_time_bins(parts):
    with pytest.raises(InputError, match=r"rate_bins = 7 does not divide the 24 time bins"):
        sky_likelihood(parts[0], rate_bins=7)


def test_32_bit_floats_are_refused(parts):
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="sky_likelihood needs 64-bit floats"):
        sky_likelihood(parts[0])
