"""Posteriors, leave-one-out and predictive checks of theories of C_l: closed forms, simulated skies, wrong models."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.named import group
from diffcr.inference.sampler import Plan
from diffcr.inference.spectrum_calibration import draw_spectra, full_sky_spectrum
from diffcr.inference.spectrum_comparison import LeaveOneOut, compare, leave_one_out, predictive_check
from diffcr.inference.spectrum_data import spectrum
from diffcr.inference.spectrum_fit import Problem, errors_of, parameters, sample_posteriors, truth
from diffcr.inference.spectrum_models import build_model
from diffcr.inference.spectrum_posterior import fit_model, summarise_fit, to_arviz
from jax.test_util import check_grads
from scipy import stats

from diffcr.errors import InputError

L_MAX = 12
NOISE = 1e-10
SHORT = Plan(chains=2, warmup=150, draws=250, target_accept=0.9, max_tree_depth=6)
TRUE = {"C_1": 5e-6, "depth": 0.3}
LAW = {"C_2": 6e-7, "slope": 3.0}


@pytest.fixture(scope="module")
def law():
    """A power law measured exactly as expected on a full sky."""
    model = build_model("power-law", L_MAX)
    return Problem(model, full_sky_spectrum(model.power(LAW)[0], NOISE), "chi2")


@pytest.fixture(scope="module")
def batch(law):
    """Posteriors by name, all in one call: as expected, with bins left out, with an odd last bin, wrong, and drawn."""
    number = L_MAX - 1
    power = law.spectrum.power
    drawn = draw_spectra(law.spectrum, "chi2", law.model, LAW, 10, seed=8)
    cases = {
        "expected": (power, np.ones(number)),
        "without 0": (power, 1 - np.eye(number)[0]),
        "without 6": (power, 1 - np.eye(number)[6]),
        "odd": (power * np.append(np.ones(number - 1), 60), np.ones(number)),
        "wrong": (power * np.where(np.arange(number) % 2, 0.1, 3), np.ones(number)),
    } | {f"drawn {k}": (one, np.ones(number)) for k, one in enumerate(drawn)}
    plan = dataclasses.replace(SHORT, draws=1500)
    powers, keep = (np.stack(each) for each in zip(*cases.values(), strict=True))
    found = sample_posteriors(law, plan, powers, keep)
    return {
        name: (
            dataclasses.replace(law, spectrum=law.data(powers[k])),
            found.points[k],
            found.maximum[k],
            found.covariance[k],
        )
        for k, name in enumerate(cases)
    }


def grid_posterior(problem):
    """Mean and standard deviation of (ln C_2, slope) by quadrature of scipy's chi-squared and of the priors."""
    data = problem.spectrum
    l = np.array(data.low)
    log_two, slope = np.meshgrid(np.linspace(-16.5, -12.5, 241), np.linspace(1.5, 4.5, 241), indexing="ij")
    power = np.exp(log_two)[..., None] * (l / 2) ** -slope[..., None] + NOISE
    log_p = stats.chi2.logpdf(data.modes * data.total / power, data.modes) - np.log(power)
    log_p = log_p.sum(axis=-1) + stats.norm.logpdf(log_two, np.log(1e-8), 5) + stats.norm.logpdf(slope, 2.5, 1.5)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    means = [np.sum(weight * x) for x in (log_two, slope)]
    return means, [np.sqrt(np.sum(weight * (x - m) ** 2)) for x, m in zip((log_two, slope), means, strict=True)]


def test_the_posterior_is_that_of_quadrature(law, batch):
    drawn = parameters(law, batch["expected"][1])
    means, widths = grid_posterior(law)
    for values, mean, width in zip((np.log(drawn["C_2"]), drawn["slope"]), means, widths, strict=True):
        assert values.mean() == pytest.approx(mean, abs=0.12 * width)
        assert values.std() == pytest.approx(width, rel=0.08)


def test_the_maximum_is_one_and_its_errors_are_those_of_the_information(law, batch):
    _, _, maximum, covariance = batch["expected"]
    at = jnp.asarray(maximum)
    assert np.abs(jax.grad(law.log_posterior)(at)).max() < 1e-6
    # Data as expected: the curvature is that of the expected information, but for the prior's pull.
    np.testing.assert_allclose(-jax.hessian(law.log_posterior)(at), law.information(at), rtol=0.1, atol=0.05)
    errors = errors_of(law, maximum, covariance)
    assert errors["slope"] == pytest.approx(grid_posterior(law)[1][1], rel=0.1)
    check_grads(jax.jit(law.log_posterior), (at + 0.1,), order=1, rtol=1e-4)


def test_the_truth_has_its_place(law):
    point = truth(law, LAW)
    found = law.values(point)[0]
    assert {k: float(v) for k, v in found.items()} == pytest.approx(LAW)
    with pytest.raises(InputError, match="has the parameters C_2, slope"):
        truth(law, {"C_2": 1.0})


def ending_below():
    """A cascade with an end, and data of noise from l = 8 on."""
    l = np.arange(8, 16)
    power = 1e-12 * np.abs(np.random.default_rng(1).standard_normal(8))
    data = spectrum(l, l, power, np.full(8, 1e-11), meaning="isotropic")
    return Problem(build_model("cascade", 15, end=True), data, "normal")


def test_a_cascade_may_end_below_the_data():
    """Then they hold noise alone, and the likelihood is that of no power."""
    problem = ending_below()
    data, model = problem.spectrum, problem.model
    nothing = np.sum(stats.norm.logpdf(data.power, 0, data.error))
    for end in (3.0, 6.9):
        units = jnp.stack([model.priors[k].unit(v) for k, v in {"C_1": 1e-6, "depth": 0.5, "end": end}.items()])
        x = model.coordinates(units, problem.seen)
        assert float(problem.log_posterior(x)) == pytest.approx(nothing - 0.5 * float(units @ units), rel=1e-9)
        assert np.isfinite(jax.grad(problem.log_posterior)(x)).all()


@pytest.mark.slow
def test_chains_reach_ends_below_the_data():
    problem = ending_below()
    found = sample_posteriors(problem, dataclasses.replace(SHORT, warmup=300, draws=1000))
    drawn = parameters(problem, found.points[0])
    prior = np.asarray(problem.model.priors["end"].value(np.random.default_rng(2).standard_normal(4000)))
    # No power is seen: an end below the data is as likely as before, or more.
    assert np.mean(drawn["end"] < 7) > np.mean(prior < 7) - 0.1
    assert found.statistics["diverging"].mean() < 0.02


def test_patterns_need_noise_and_no_bin_expects_less_than_nothing(law):
    """Without noise an aligned pattern does not scatter; where a window has negative parts the mean stays at zero."""
    l = np.arange(2, L_MAX + 1)
    exact = spectrum(
        l, l, law.spectrum.power, np.sqrt(2 / (2 * l + 1)) * law.spectrum.power, sky_fraction=1.0, meaning="total"
    )
    with pytest.raises(InputError, match="without noise an aligned pattern has no scatter"):
        Problem(build_model("pitch-angle", L_MAX), exact, "chi2")
    window = law.spectrum.window.copy()
    window[3, 0] = -1e4
    leaking = dataclasses.replace(law, spectrum=dataclasses.replace(law.spectrum, window=window))
    point = jnp.asarray(truth(leaking, LAW))
    assert float(leaking.bands(point)[0][3]) == 0
    # What leaks is no degree of the data.
    window[3, 0] = 1e-3
    np.testing.assert_array_equal(
        dataclasses.replace(law, spectrum=dataclasses.replace(law.spectrum, window=window)).seen, law.seen
    )


def test_leaving_out_a_bin_is_a_fit_without_it(law, batch):
    """elpd of each bin by importance weights, against fits in which the bin does not count."""
    left = leave_one_out(law, batch["expected"][1], SHORT)
    assert not left.unreliable.any() and not left.refitted.any()
    for place in (0, 6):
        values = {k: v.ravel() for k, v in parameters(law, batch[f"without {place}"][1]).items()}
        power = values["C_2"] * ((place + 2) / 2) ** -values["slope"] + NOISE
        modes, total = law.spectrum.modes[place], law.spectrum.total[place]
        density = np.mean(stats.chi2.pdf(modes * total / power, modes) * modes / power)
        assert left.elpd[place] == pytest.approx(np.log(density), abs=0.05)
    assert left.total == pytest.approx(left.elpd.sum())
    assert left.standard_error == pytest.approx(np.sqrt((L_MAX - 1) * left.elpd.var(ddof=1)))
    # Data that are just as expected teach little of what the rest did not say.
    assert 0 < left.p_loo.sum() < 2


def test_predictive_p_values_are_spread_where_the_model_is_right_and_tiny_where_it_is_wrong(batch):
    right = [predictive_check(*batch[f"drawn {k}"][:2], 3, 200).p_value for k in range(10)]
    assert 0.2 < np.mean(right) < 0.85 and np.ptp(right) > 0.3
    assert predictive_check(*batch["wrong"][:2], 3, 200).p_value < 0.01


def test_models_are_ranked_and_told_apart_only_where_they_can_be():
    rng = np.random.default_rng(1)
    base = rng.standard_normal(14)
    flags = np.zeros(14, bool)
    made = lambda elpd: LeaveOneOut(elpd, 0.1 * np.ones(14), np.zeros(14), flags, flags)
    results = {
        "a": made(base),
        "close": made(base - 0.1),
        "off": made(base - 1 - 0.1 * rng.standard_normal(14)),
        "few": made(base - 50 * np.eye(14)[3]),
    }
    rows = {row.name: row for row in compare(results)}
    assert rows["a"].verdict == "best" and rows["a"].difference == 0 == rows["a"].difference_error
    assert rows["close"].verdict == "not told apart from the best"
    assert rows["off"].verdict == "worse"
    # A difference that one bin makes is as large as its own error.
    assert rows["few"].difference_error == pytest.approx(50) and rows["few"].verdict.startswith("not told apart")
    assert {r.name: r.verdict for r in compare(results, {"few": 0.001, "a": 0.4})}["few"] == "worse"
    with pytest.raises(InputError, match="compared on the same bins"):
        compare({})
    with pytest.raises(InputError, match="compared on the same bins"):
        compare({"a": made(base), "b": LeaveOneOut(*[base[:3]] * 3, *[flags[:3]] * 2)})


# What is written ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fit_says_what_it_found_leaves_out_again_what_it_must_and_is_read_by_arviz(batch):
    """The last bin lies far off the law and pulls the posterior: without it the rest says something else."""
    from diffcr.inference.arviz_import import arviz

    odd, points, *_ = batch["odd"]
    fit = fit_model(odd, dataclasses.replace(SHORT, draws=500))
    plain, again = leave_one_out(odd, points, SHORT, refit=False), fit.leave_one_out
    assert plain.unreliable[-1] and again.refitted[-1] and not again.unreliable[-1]
    assert again.elpd[-1] < plain.elpd[-1] - 1
    content = summarise_fit(fit)
    assert set(content["parameters"]) == {"C_2", "slope"}
    slope = content["priors"]["slope"]
    assert slope == {"kind": "normal", "mean": 2.5, "sd": 1.5, "meaning": "p of C_l = C_2 (l / 2)^-p"}
    assert content["prior_dominated"] == [] and str(L_MAX) in content["leave_one_out"]["refitted"]
    assert content["power"]["l"] == list(range(1, L_MAX + 1))
    assert content["leave_one_out"]["l"] == [str(l) for l in range(2, L_MAX + 1)]
    data = to_arviz(fit)
    assert group(data, "posterior")["slope"].dims == ("chain", "draw")
    kept = group(data, "log_likelihood")["C_l"].isel(bin=slice(0, -1))
    assert float(plain.elpd[1:-2].sum()) == pytest.approx(float(again.elpd[1:-2].sum()), abs=0.5)
    assert kept.sizes["bin"] == L_MAX - 2 and np.isfinite(kept).all()
    with warnings.catch_warnings():
        # Of the bin with the heavy tail.
        warnings.simplefilter("ignore")
        result = arviz.loo(data)
    found = result.elpd if hasattr(result, "elpd") else result.elpd_loo
    assert np.isfinite(float(found))


@pytest.mark.slow
def test_what_the_data_do_not_know_is_said_to_be_of_the_prior():
    """Two bins of an ended cascade say nothing of an end far beyond them."""
    model = build_model("cascade", 3, end=True, priors={"end": (10.0, 40.0)})
    data = full_sky_spectrum(model.power(TRUE | {"end": 20.0})[0], NOISE)
    fit = fit_model(Problem(model, data, "chi2"), dataclasses.replace(SHORT, draws=1000), refit=False)
    assert "end" in summarise_fit(fit)["prior_dominated"]


def test_problems_that_cannot_be_solved_are_refused():
    data = full_sky_spectrum(1e-6 / np.arange(1, 7.0) ** 3, NOISE)
    law = build_model("power-law", 6)
    with pytest.raises(InputError, match="the model reaches l = 5, the spectrum l = 6"):
        Problem(build_model("power-law", 5), data, "chi2")
    with pytest.raises(InputError, match="must be named, not 'auto'"):
        Problem(law, data, "auto")
    with pytest.raises(InputError, match="fewer than two bins"):
        Problem(law, data.only([4]), "chi2")
    even = data.only([0, 2, 4])
    with pytest.raises(InputError, match="power in odd degrees alone, and the data have none from l = 3 on"):
        Problem(build_model("pitch-angle", 6), even, "chi2")
    exact = full_sky_spectrum(1e-6 / np.arange(1, 7.0) ** 3, 0.0)
    assert Problem(law, exact, "chi2")
    with pytest.raises(InputError, match="without noise an aligned pattern has no scatter"):
        Problem(build_model("mixed", 6), exact, "chi2")


@pytest.mark.slow
def test_a_mean_of_simulated_skies_is_fitted_by_normal_errors():
    """A cascade of known depth with errors of 3 %: recovered within them, l = 1 included."""
    model = build_model("cascade", 10, priors={"C_1": (1.0, 5.0)})
    power = np.asarray(model.power({"C_1": 40.0, "depth": 0.25})[0])
    rng = np.random.default_rng(4)
    l = np.arange(1, 11)
    data = spectrum(l, l, power * (1 + 0.03 * rng.standard_normal(10)), 0.03 * power, meaning="mean")
    drawn = parameters(
        Problem(model, data, "normal"), sample_posteriors(Problem(model, data, "normal"), SHORT).points[0]
    )
    assert drawn["depth"].std() < 0.01
    assert drawn["depth"].mean() == pytest.approx(0.25, abs=4 * drawn["depth"].std())
