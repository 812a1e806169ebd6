"""Rings left out, Bayes factors and evidences, against brute-force quadrature, closed forms and posterior draws."""

import dataclasses
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from diffcr.inference import comparison
from diffcr.inference.comparison import (
    BayesCurve,
    LeaveOneRingOut,
    aligned_against_dipole,
    aligned_curve,
    compare,
    dipole_curve,
    leave_one_ring_out,
    log_evidence,
)
from diffcr.inference.data import combine
from diffcr.inference.fit import fit
from diffcr.inference.likelihood import conditional_log_likelihood, form_marginals
from diffcr.inference.prior import Direction, SkyNormal
from diffcr.inference.sky_likelihood import sky_likelihood
from diffcr.inference.specification import Specification
from helpers import dipole_sky, drawn
from scipy import optimize, stats
from scipy.special import gammaln, logsumexp

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

pytestmark = pytest.mark.slow

GRID = RingGrid(18, 36)
SCALE = 3e-2
FIELD = np.array([math.cos(2.0), math.sin(2.0), 0.4])


def made(name, events, dipole, seed, groups=6):
    """Poisson counts whose rate is constant in each of `groups` stretches of time."""
    place = site(name)
    local = np.asarray(acceptance(place, GRID, "cos", 2.0))
    rate = np.repeat(1 + 0.2 * np.cos(1 + np.arange(groups)), 36 // groups)
    return drawn(place, GRID, local, rate * events / rate.sum(), dipole_sky(GRID, dipole), seed)


def likelihood(counts, groups=6):
    return sky_likelihood(counts, 1, groups, nodes=36)


@pytest.fixture(scope="module")
def counts():
    """A dipole of two standard deviations."""
    return made("HAWC", 4e5, (6e-3, -4e-3), 1)


@pytest.fixture(scope="module")
def sky(counts):
    return likelihood(counts)


@pytest.fixture(scope="module")
def bright():
    """So many events that ln L is a parabola."""
    return made("HAWC", 4e9, (1e-4, 1e-4), 3)


def gaussian(best, scales, column=None):
    """ln B of a Gaussian likelihood with the maximum and covariance of a fitted dipole."""
    centre, precision = best.delta, np.linalg.inv(best.covariance)
    column = np.eye(2) if column is None else column
    f, b = column.T @ precision @ column, column.T @ precision @ centre
    eye = np.eye(len(f))
    return np.array(
        [
            0.5 * b @ np.linalg.solve(f + eye / s**2, b) - 0.5 * np.linalg.slogdet(eye + s**2 * f)[1]
            for s in np.atleast_1d(scales)
        ]
    )


def density_of_rings(counts, marginal, scale, steps=15):
    """ln p(ring | all others) over isotropy and of isotropy, by quadrature over dipole and rates: two per epoch.

    The likelihood is that of the full grid, and nothing is approximated: each epoch's rates are (p, 1 - p) with p
    uniform, each component of the dipole is N(0, scale^2). Every third ring of each epoch.
    """
    centre, root = marginal
    axis = np.linspace(-6, 6, steps)
    x = centre + np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2) @ root.T
    skies = jnp.asarray(np.stack([dipole_sky(GRID, d) for d in np.concatenate([[[0.0, 0.0]], x])]))
    log_prior = -0.5 * np.sum((x / scale) ** 2, axis=1)
    value = jax.jit(jax.vmap(jax.vmap(conditional_log_likelihood, (None, 0, None)), (0, None, None)))

    def log_integral(place, out):
        """ln of the integral over p, for isotropy and each dipole, without ring `out`."""
        n_sky, n_local = np.array(counts.n_sky[place]), np.array(counts.n_local[place])
        time = np.array(counts.n_time[place])
        rings = np.flatnonzero(n_local.sum(axis=1) > 0)
        if out is not None:
            time -= counts.n_half[place][:, out].sum(axis=0)
            n_sky[out] = n_local[out] = 0
        data = form_marginals(n_sky, time, n_local, 2, np.isin(np.arange(GRID.n_ring), rings))
        n = counts.n_time[place].reshape(2, -1).sum(axis=1)
        share = n[0] / n.sum()
        p = share + np.linspace(-10, 10, 25) * math.sqrt(share * (1 - share) / n.sum())
        rates = jnp.asarray(np.repeat(np.stack([p, 1 - p], axis=-1), 18, axis=1))
        return logsumexp(np.asarray(value(skies[:, rings], rates, data)), axis=1)

    places, over, isotropic = counts.configurations(), [], []
    whole = [log_integral(p, None) for p in places]
    for k, place in enumerate(places):
        for ring in np.flatnonzero(counts.n_local[place].sum(axis=1) > 0)[::3]:
            rest = log_integral(place, ring)
            total = sum(whole)
            less = total - whole[k] + rest
            isotropic.append(total[0] - less[0])
            over.append(logsumexp(total[1:] + log_prior) - logsumexp(less[1:] + log_prior) - isotropic[-1])
    return np.array(over), np.array(isotropic)


def test_leaving_a_ring_out_is_fitting_again_without_it():
    """Two epochs with two rates each: everything integrated by brute force, once for each ring."""
    parts = [made("HAWC", 2e5, (2e-2, -1e-2), 4, 2), made("HAWC", 3e5, (2e-2, -1e-2), 5, 2)]
    counts = combine([part.replace(epochs=(name,)) for part, name in zip(parts, ("old", "new"), strict=True)])
    sky = likelihood(counts, 2)
    design = np.asarray(sky.turn[:, list(sky.dipole_places)]) * math.sqrt(4 * math.pi / 3)
    precision = design.T @ np.asarray(sky.information[0]) @ design + np.eye(2) / SCALE**2
    centre = np.linalg.solve(precision, design.T @ np.asarray(sky.pull[0]))
    root = np.linalg.inv(np.linalg.cholesky(precision)).T
    draws = centre + stats.norm.ppf(stats.qmc.Sobol(2, rng=0).random(2048)) @ root.T

    result = leave_one_ring_out(counts, sky, draws @ design.T)

    over, isotropic = density_of_rings(counts, (centre, root), SCALE)
    rings = [np.flatnonzero(counts.n_local[p].sum(axis=1) > 0) for p in counts.configurations()]
    np.testing.assert_array_equal(result.ring, np.concatenate(rings))
    assert result.configuration == ("HAWC, old",) * len(rings[0]) + ("HAWC, new",) * len(rings[1])
    assert np.ptp(over) > 2 and len(result.elpd) == 24
    np.testing.assert_allclose(result.elpd[::3], over, atol=0.01)
    np.testing.assert_allclose(result.isotropic[::3] - isotropic, 0, atol=1e-4)
    assert result.unreliable == () and result.pareto_k.shape == result.elpd.shape
    assert result.total == pytest.approx(result.elpd.sum(), rel=1e-12)
    # Leaving one out at a time, a Gaussian likelihood of two parameters is worth about two.
    assert 0.5 < result.effective_parameters < 4
    assert result.standard_error == pytest.approx(math.sqrt(24 * np.var(result.elpd, ddof=1)), rel=1e-12)


def test_rings_of_an_isotropic_sky_are_dirichlet_multinomial(counts, sky):
    """Without a sky the rates alone are learned from the other rings: B(n + alpha) / B(n - n_r + alpha), closed."""
    result = leave_one_ring_out(counts, sky, np.zeros((50, 2)))
    n = counts.n_time[0, 0, 0].reshape(6, 6).sum(axis=1)
    beta = lambda x: gammaln(x).sum() - gammaln(x.sum())
    expected = []
    for ring in result.ring:
        own = counts.n_half[0, 0, 0][:, ring].sum(axis=0).reshape(6, 6).sum(axis=1)
        expected.append(beta(n + 1) - beta(n - own + 1) - own.sum() * math.log(6))
    np.testing.assert_allclose(result.isotropic - expected, 0, atol=1e-4)
    np.testing.assert_array_equal(result.elpd, 0)
    np.testing.assert_array_equal(result.pareto_k, 0)
    assert result.effective_parameters == 0


def results(elpd, isotropic=None, events=None, pareto_k=None, ring=None):
    elpd = np.asarray(elpd, float)
    return LeaveOneRingOut(
        configuration=("HAWC",) * len(elpd),
        ring=np.arange(len(elpd)) if ring is None else np.asarray(ring),
        events=np.full(len(elpd), 9.0) if events is None else np.asarray(events, float),
        elpd=elpd,
        isotropic=np.full(len(elpd), -1e9) if isotropic is None else np.asarray(isotropic, float),
        p_loo=np.full(len(elpd), 0.5),
        pareto_k=np.full(len(elpd), 0.1) if pareto_k is None else np.asarray(pareto_k),
    )


def test_differences_are_paired_over_the_rings():
    a = results([10.0, -10.0, 3.0])
    b = results([11.0, -8.5, 4.5], pareto_k=[0.71, 0.7, np.nan])
    first, second = compare({"a": a, "b": b})
    assert (first.name, first.difference, first.difference_error, first.unreliable) == ("b", 0, 0, 2)
    assert second.name == "a" and second.difference == pytest.approx(-4)
    assert second.difference_error == pytest.approx(math.sqrt(3 * np.var([1, 1.5, 1.5], ddof=1)))
    assert second.standard_error == pytest.approx(math.sqrt(3 * np.var([10, -10, 3], ddof=1)))
    assert second.effective_parameters == pytest.approx(1.5)
    assert b.unreliable == (("HAWC", 0), ("HAWC", 2))
    # Rates treated otherwise: the isotropic prediction counts too.
    assert compare({"b": b, "c": results([10.0, -10.0, 3.0], isotropic=[-1e9 + 5] * 3)})[0].name == "c"


def test_models_of_other_counts_are_not_compared():
    with pytest.raises(InputError, match="models x and y were fitted to different counts"):
        compare({"x": results([1, 2]), "y": results([1, 2], ring=[0, 2])})
    with pytest.raises(InputError, match="different counts"):
        compare({"x": results([1, 2]), "y": results([1, 2], events=[9, 10])})
    with pytest.raises(InputError, match="no model to compare"):
        compare({})


def test_counts_that_do_not_know_their_rings_are_refused(counts, sky):
    theta = np.zeros((60, 2))
    for half in (np.zeros_like(counts.n_half), counts.n_half[:, :, :, :, ::-1]):
        blind = dataclasses.replace(counts)
        object.__setattr__(blind, "n_half", half)
        with pytest.raises(InputError, match="do not say which declination ring was seen in which time bin"):
            leave_one_ring_out(blind, sky, theta)
    with pytest.raises(InputError, match="the likelihood HAWC: use the counts"):
        leave_one_ring_out(made("IceCube", 1e5, (0, 0), 1), sky, theta)
    with pytest.raises(InputError, match="at least 50 draws of the 2 multipoles"):
        leave_one_ring_out(counts, sky, np.zeros((49, 2)))
    with pytest.raises(InputError, match="given draw 3 is not finite"):
        leave_one_ring_out(counts, sky, np.where(np.arange(60)[:, None] == 3, 5.0, theta))


def test_a_ring_with_all_events_of_some_time_is_refused(counts, sky):
    n_half, n_sky = np.array(counts.n_half), np.array(counts.n_sky)
    n_time, n_local = np.array(counts.n_time), np.array(counts.n_local)
    ring = int(np.argmax(n_local.sum(axis=(0, 1, 2, 4))))
    others = np.arange(GRID.n_ring) != ring
    for k in np.flatnonzero(others):
        n_half[0, 0, 0, :, k, :6] = 0
        share = n_half[0, 0, 0, :, k].sum() / max(n_local[0, 0, 0, k].sum(), 1)
        n_sky[0, 0, 0, k] *= share
        n_local[0, 0, 0, k] *= share
    n_time[0, 0, 0] = n_half[0, 0, 0].sum(axis=(0, 1))
    odd = counts.replace(n_half=n_half, n_sky=n_sky, n_time=n_time, n_local=n_local)
    with pytest.raises(InputError, match=f"ring {ring} of HAWC holds all events of the time bins of group 0"):
        leave_one_ring_out(odd, likelihood(odd), np.zeros((50, 2)))
    one = {"n_half": n_half, "n_sky": n_sky, "n_local": n_local}
    for name, values in one.items():
        np.moveaxis(values, 4 if name == "n_half" else 3, 0)[others] = 0
    one["n_time"] = n_half.sum(axis=(3, 4))
    with pytest.raises(InputError, match="lie in one declination ring"):
        leave_one_ring_out(counts.replace(**one), sky, np.zeros((50, 2)))


def test_the_curve_of_a_gaussian_likelihood_has_a_closed_form(bright):
    """From a hundredth to a thousand times the error, for two components and along an axis."""
    sky = likelihood(bright)
    curve, dipole = dipole_curve(sky), fit(bright, rate_bins=6).dipole
    error = math.sqrt(np.mean(np.diag(dipole.covariance)))
    np.testing.assert_allclose(curve.scales[[0, -1]] / error, [1e-2, 1e3], rtol=0.1)
    np.testing.assert_allclose(curve.log_bayes_factor, gaussian(dipole, curve.scales), atol=1e-3)
    assert curve.accuracy.max() < 1e-6
    best = optimize.minimize_scalar(lambda u: -gaussian(dipole, math.exp(u))[0], bounds=(-14, -4), method="bounded")
    assert curve.maximum == pytest.approx(-best.fun, abs=1e-2)
    assert curve.best_scale == pytest.approx(math.exp(best.x), rel=0.03)
    axis = FIELD[:2, None] / np.hypot(*FIELD[:2])
    aligned = aligned_curve(sky, FIELD, curve.scales)
    np.testing.assert_allclose(aligned.log_bayes_factor, gaussian(dipole, curve.scales, axis), atol=1e-3)
    both = aligned_against_dipole(sky, -FIELD, curve.scales[::10])
    np.testing.assert_allclose(both.log_bayes_factor, (aligned.log_bayes_factor - curve.log_bayes_factor)[::10])
    # What is off the axis: the squared distance of the free maximum from the line, in units of the error.
    d, f = dipole.delta, np.linalg.inv(dipole.covariance)
    off = d @ f @ d - (axis[:, 0] @ f @ d) ** 2 / (axis[:, 0] @ f @ axis[:, 0])
    assert both.test_statistic == pytest.approx(off, rel=1e-3)
    assert both.p_value == pytest.approx(stats.chi2(1).sf(off), rel=1e-2)
    assert aligned.degrees_of_freedom == 1 and curve.degrees_of_freedom == 2
    assert not both.extra_is_first and curve.extra_is_first


def test_the_p_value_is_that_of_the_fit(counts, sky):
    best = fit(counts, rate_bins=6)
    curve = dipole_curve(sky, np.array([1e-3, 1e-2]))
    assert curve.test_statistic == pytest.approx(best.test_statistic, rel=1e-6)
    assert curve.log10_p == pytest.approx(best.log10_p, rel=1e-6)
    assert curve.p_value == pytest.approx(math.exp(-curve.test_statistic / 2))


def test_the_bound_on_what_a_p_value_says():
    """p = 0.05 and 0.01: at most 2.46 and 8.13 to one (Sellke, Bayarri & Berger 2001, table 1: 0.407, 0.123)."""

    def bound(p):
        return BayesCurve(np.ones(1), np.ones(1), np.ones(1), float(stats.chi2(2).isf(p)), 2).log_bound

    assert math.exp(-bound(0.05)) == pytest.approx(0.407, abs=5e-4)
    assert math.exp(-bound(0.01)) == pytest.approx(0.125, abs=5e-4)
    assert bound(0.5) == 0
    assert bound(1 / math.e * 0.999) == pytest.approx(0, abs=1e-6)
    falling = BayesCurve(np.array([1.0, 2.0, 4.0]), np.array([0.3, -1.0, -2.0]), np.zeros(3), 1.0, 2)
    assert (falling.maximum, falling.best_scale) == (0.3, 1.0)
    top = BayesCurve(np.exp([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0]) - 0.25, np.zeros(3), 1.0, 2)
    assert (top.maximum, top.best_scale) == (pytest.approx(1.75), pytest.approx(math.e))


def test_few_events_and_a_wide_prior_are_no_gaussian():
    """Three thousand events: ln L to the edge of the positive skies, against a fine and wide plain grid."""
    few = likelihood(made("HAWC", 3e3, (0.3, 0.2), 7))
    scales = np.array([0.02, 0.2, 2.0])
    curve = dipole_curve(few, scales)
    axis = np.linspace(-0.25, 0.75, 81)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    design = np.asarray(few.turn[:, list(few.dipole_places)]) * math.sqrt(4 * math.pi / 3)
    values = comparison._log_likelihoods(few, np.concatenate([np.zeros((1, 2)), x]) @ design.T)
    for scale, found in zip(scales, curve.log_bayes_factor, strict=True):
        prior = stats.norm(0, scale).logpdf(x).sum(axis=1)
        assert found == pytest.approx(
            logsumexp(values[1:] - values[0] + prior) + 2 * math.log(axis[1] - axis[0]), abs=2e-3
        )


def test_the_bayes_factor_is_savage_and_dickeys(counts, sky):
    """Posterior over prior density at no dipole, from draws with the rates sampled, not integrated."""
    rng = np.random.default_rng(1)
    design = np.asarray(sky.turn[:, list(sky.dipole_places)]) * math.sqrt(4 * math.pi / 3)
    cov = 1.7 * np.linalg.inv(design.T @ np.asarray(sky.information[0]) @ design)
    x = rng.multivariate_normal(np.linalg.solve(design, np.asarray(sky.centre[0])), cov, 20000)
    z = 1.2 * rng.standard_normal((len(x), 1, 6))

    def log_density(x, z):
        theta = jnp.asarray(design) @ x
        u = sky.rate_mean(theta) + sky.rate_root(z)
        return sky.log_likelihood(theta, u) + sky.log_rate_prior(u)

    log_weight = np.asarray(jax.jit(jax.vmap(log_density))(x, z)) + stats.norm(0, SCALE).logpdf(x).sum(axis=1)
    log_weight += 0.5 * np.sum((z / 1.2) ** 2, axis=(1, 2)) - stats.multivariate_normal(x.mean(axis=0), cov).logpdf(x)
    weights = np.exp(log_weight - log_weight.max())
    assert weights.sum() ** 2 / np.sum(weights**2) > 2000
    posterior = stats.gaussian_kde(x.T, weights=weights).logpdf(np.zeros(2))[0]
    prior = -math.log(2 * math.pi * SCALE**2)
    assert dipole_curve(sky, np.array([SCALE])).log_bayes_factor[0] == pytest.approx(prior - posterior, abs=0.1)


def test_scales_and_axes_are_checked(sky):
    for scales in ([0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, math.inf]):
        with pytest.raises(InputError, match="positive, finite and ascending"):
            dipole_curve(sky, np.array(scales))
    with pytest.raises(InputError, match="no right ascension"):
        aligned_curve(sky, np.array([0.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="l_max 2; make it with l_max 1"):
        dipole_curve(dataclasses.replace(sky, degree=(1, 2)))
    with pytest.raises(InputError, match="do not measure the dipole"):
        dipole_curve(dataclasses.replace(sky, information=0 * sky.information))


DIPOLE = Specification("dipole", rate_bins=6, rates="laplace", priors={"scale": SCALE})
LOCAL = Specification("local-field", rate_bins=6, rates="laplace", priors={"scale": SCALE})


def test_the_evidence_of_a_dipole_is_that_of_the_quadrature():
    """A wide prior: many of the first points are negative skies, without any likelihood."""
    pytest.importorskip("dynesty")
    few = likelihood(made("HAWC", 3e3, (0.3, 0.2), 7))
    spec = Specification("dipole", rate_bins=6, rates="laplace", priors={"scale": 0.7})
    found = log_evidence(spec, few, live=100)
    expected = dipole_curve(few, np.array([0.7])).log_bayes_factor[0]
    assert found.parameters == ("dipole[0]", "dipole[1]")
    assert 0.1 < found.error < 0.5 and 300 < found.calls < 10000
    assert abs(found.log_evidence - expected) < 3 * found.error


def test_the_evidence_of_a_field_known_or_not(sky):
    """Known: the quadrature along its axis. Unknown: that averaged over all right ascensions."""
    pytest.importorskip("dynesty")
    one = np.array([SCALE])
    known = log_evidence(LOCAL, sky, live=100, fixed={"field": FIELD[:2]})
    assert known.parameters == ("sources",)
    expected = aligned_curve(sky, FIELD, one).log_bayes_factor[0]
    assert abs(known.log_evidence - expected) < 3 * known.error
    angles = np.pi * np.arange(16) / 16
    each = [aligned_curve(sky, np.array([np.cos(a), np.sin(a), 0.0]), one).log_bayes_factor[0] for a in angles]
    free = log_evidence(LOCAL, sky, live=100)
    assert free.parameters == ("field", "sources")
    assert abs(free.log_evidence - (logsumexp(each) - math.log(16))) < 3 * free.error
    # The axis against the free dipole, as in `aligned_against_dipole`.
    both = aligned_against_dipole(sky, FIELD, one).log_bayes_factor[0]
    assert expected - dipole_curve(sky, one).log_bayes_factor[0] == pytest.approx(both, abs=1e-9)


def test_what_the_likelihood_does_not_see_takes_no_dimension_and_the_seed_tells_all(sky, monkeypatch):
    """A Gaussian in one of the three dimensions, of known integral; and a constant."""
    pytest.importorskip("dynesty")
    peak = lambda model, cube, sky, fixed: (
        -0.5 * ((cube[1] - 0.3) / 0.02) ** 2 - math.log(0.02 * math.sqrt(2 * math.pi))
    )
    monkeypatch.setattr(comparison, "_over_isotropy", peak)
    found = log_evidence(DIPOLE, sky, live=80)
    assert found.parameters == ("dipole[1]",)
    assert abs(found.log_evidence) < 3 * found.error < 1
    assert found == log_evidence(DIPOLE, sky, live=80)
    assert found != log_evidence(DIPOLE, sky, live=80, seed=1)
    monkeypatch.setattr(comparison, "_over_isotropy", lambda *args: 1.5)
    assert log_evidence(DIPOLE, sky) == comparison.Evidence(1.5, 0.0, 1, ())


def test_the_unit_cube_becomes_draws_of_the_prior(sky):
    """A prior that depends on the parameters before it; each quantile from the normal and uniform tables."""

    def model(sky):
        width = numpyro.sample("width", dist.Uniform(1.0, 3.0))
        first = numpyro.sample("first", SkyNormal(5.0, width, jnp.eye(2), jnp.zeros(2)))
        many = numpyro.sample("many", dist.Normal(-1.0, 2.0).expand([2]).to_event(1))
        numpyro.factor("counts", jnp.dot(jnp.array([1.0, 1e2, 1e4, 1e6, 1e8]), jnp.array([width, *first, *many])))

    cube = jnp.array([0.25, *stats.norm.cdf([1.0, -2.0, 0.5, 3.0])])
    described = comparison._Model("", model)
    assert comparison._dimensions(described, sky, {}) == ("width", "first[0]", "first[1]", "many[0]", "many[1]")
    value = jax.jit(lambda u: comparison._run(described, u, sky, {})[0])(cube)
    # 1.5; 5 + 1.5 and 5 - 2 1.5; -1 + 2 / 2 and -1 + 2 3
    assert value == pytest.approx(1.5 + 6.5e2 + 2e4 + 0 + 5e8, rel=1e-12)


@pytest.mark.parametrize("axes", [2, 3])
def test_directions_of_the_cube_are_uniform_whatever_the_stretch(axes):
    rng = np.random.default_rng(2)
    site = Direction(jnp.asarray(np.diag([0.1, 1.0, 3.0])[:axes, :axes] + 0.2))
    size, towards = comparison._inverse("field", site)
    assert size == axes - 1
    n = np.asarray(site.direction(jax.jit(jax.vmap(towards))(jnp.asarray(rng.uniform(size=(2000, size))))))
    azimuth = np.arctan2(n[:, 1], n[:, 0]) / (2 * np.pi) + 0.5
    assert stats.kstest(azimuth, stats.uniform().cdf).pvalue > 0.01
    if axes == 3:
        assert stats.kstest((n[:, 2] + 1) / 2, stats.uniform().cdf).pvalue > 0.01
    held = comparison._held("field", site, jnp.asarray(FIELD[:axes] / np.linalg.norm(FIELD[:axes])))
    np.testing.assert_allclose(site.direction(held), FIELD[:axes] / np.linalg.norm(FIELD[:axes]), rtol=1e-12)


def test_evidences_that_cannot_be_had_are_refused(sky, monkeypatch):
    with pytest.raises(InputError, match="use rates laplace, not sampled"):
        log_evidence(Specification("dipole"), sky)
    with pytest.raises(InputError, match="at least 20 live points, not 19"):
        log_evidence(DIPOLE, sky, live=19)
    with pytest.raises(InputError, match="no site 'filed' to fix; it has dipole"):
        log_evidence(DIPOLE, sky, fixed={"filed": np.ones(2)})
    with pytest.raises(InputError, match=r"fixed value of dipole has shape \(3,\)"):
        log_evidence(DIPOLE, sky, fixed={"dipole": np.ones(3)})
    with pytest.raises(InputError, match="prior of x is a Gamma"):
        comparison._inverse("x", dist.Gamma(1.0, 1.0))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dynesty", None)
        with pytest.raises(InputError, match=r"pip install 'diffcr\[evidence\]'"):
            log_evidence(DIPOLE, sky)
    pytest.importorskip("dynesty")
    monkeypatch.setattr(comparison, "_over_isotropy", lambda *args: -math.inf)
    with pytest.raises(InputError, match="of 20 skies drawn from the prior only 0 are positive"):
        log_evidence(DIPOLE, sky, live=20)
    monkeypatch.setattr(comparison, "_over_isotropy", lambda model, cube, sky, fixed: float(np.sum(cube)))
    monkeypatch.setattr(comparison, "MOST_DIMENSIONS", 2)
    names = r"dipole\[0\], dipole\[1\], delta_N_scaled"
    with pytest.raises(InputError, match=f"at most 2 parameters, and the model dipole has 3: {names}; lower --lmax"):
        log_evidence(DIPOLE, sky, live=20)
