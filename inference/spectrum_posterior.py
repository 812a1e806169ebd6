"""The fit of one theory to a measured power spectrum in numbers: an ArviZ object, a summary, a verdict."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import diffcr

from .files import finite
from .named import container
from .posterior import distance
from .sampler import Plan
from .spectrum_comparison import Check, LeaveOneOut, leave_one_out, log_densities, predictive_check
from .spectrum_fit import Posteriors, Problem, errors_of, parameters, powers, sample_posteriors
from .summary import MAX_DIVERGENT, MAX_R_HAT, MIN_ESS_PER_CHAIN, PRIOR_DISTANCE, describe

_PRIOR_DRAWS = 4000
_LEVELS = (0.5, 0.16, 0.84, 0.025, 0.975)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One model fitted to one spectrum.

    Attributes:
        problem: Model and data.
        plan: How it was sampled.
        posteriors: The draws, a batch of one.
        values: Parameters by name, arrays (chain, draw).
        prior: Draws of their priors, arrays (1, draw).
        diagnostics: Summary of each parameter, see `summary.describe`, and whether its prior dominates.
        problems: Why the chains have not converged; empty where they have.
        leave_one_out: How bins are foretold.
        check: The predictive check.
    """

    problem: Problem
    plan: Plan
    posteriors: Posteriors
    values: dict[str, np.ndarray]
    prior: dict[str, np.ndarray]
    diagnostics: dict[str, dict]
    problems: tuple[str, ...]
    leave_one_out: LeaveOneOut
    check: Check

    @property
    def points(self) -> np.ndarray:
        """Draws in the coordinates of the sampler, (chain, draw, param)."""
        return self.posteriors.points[0]


def fit_model(problem: Problem, plan: Plan, refit: bool = True) -> Fit:
    """Sample one model's posterior, judge the chains, leave each bin out, and check the predictions.

    Args:
        problem: Model and data.
        plan: Chains, steps and seed.
        refit: Whether bins with heavy importance weights are left out in fits of their own.
    """
    found = sample_posteriors(problem, plan)
    points = found.points[0]
    values = parameters(problem, points)
    prior = prior_draws(problem, plan.seed)
    diagnostics, problems = _judged(values, prior, found, plan)
    worst = min(entry["ess_bulk"] for entry in diagnostics.values())
    efficiency = min(1.0, worst / points[..., 0].size) if worst > 0 else 1.0
    left = leave_one_out(problem, points, plan, refit, efficiency)
    check = predictive_check(problem, points, plan.seed + 2)
    return Fit(problem, plan, found, values, prior, diagnostics, tuple(problems), left, check)


def prior_draws(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Draws of the prior of each parameter, arrays (1, draw)."""
    rng = np.random.default_rng([seed, 1])
    priors = problem.model.priors
    return {name: np.asarray(priors[name].value(rng.standard_normal((1, _PRIOR_DRAWS)))) for name in priors}


def _judged(values, prior, found: Posteriors, plan: Plan) -> tuple[dict[str, dict], list[str]]:
    entries, problems = {}, []
    for name, drawn in values.items():
        entry = describe(drawn) | {
            "median": float(np.median(drawn)),
            "equal_tailed_68": np.quantile(drawn, [0.16, 0.84]).tolist(),
            "equal_tailed_95": np.quantile(drawn, [0.025, 0.975]).tolist(),
        }
        far = float(distance(prior[name], drawn))
        entry |= {"prior_dominated": far < PRIOR_DISTANCE, "prior_distance": far}
        if not entry["r_hat"] <= MAX_R_HAT:
            problems.append(f"R-hat of {name} is {entry['r_hat']:.3f} (limit {MAX_R_HAT})")
        least = MIN_ESS_PER_CHAIN * plan.chains
        few = min(entry["ess_bulk"], entry["ess_tail"])
        if not few >= least:
            problems.append(f"{name} has {few:.0f} effective samples (at least {least} wanted)")
        entries[name] = entry
    diverged, steps = int(found.statistics["diverging"].sum()), plan.chains * plan.draws
    if diverged > MAX_DIVERGENT * steps:
        problems.append(f"{diverged} of {steps} trajectories diverged (limit {MAX_DIVERGENT:.1%})")
    return entries, problems


def summarise_fit(fit: Fit) -> dict[str, Any]:
    """What stands in spectrum.json of a model: priors, parameters, maximum, curves, leave-one-out, checks."""
    problem, model = fit.problem, fit.problem.model
    best = fit.posteriors.maximum[0]
    at_best = {name: float(value) for name, value in problem.values(jnp.asarray(best))[0].items()}
    errors = errors_of(problem, best, fit.posteriors.covariance[0])
    loo, bins = fit.leave_one_out, problem.spectrum
    places = [bins.label(k) for k in range(len(bins.low))]
    listed = lambda mask: [place for place, seen in zip(places, mask, strict=True) if seen]
    return finite(
        {
            "description": model.words,
            "priors": {name: prior.describe() for name, prior in model.priors.items()},
            "converged": not fit.problems,
            "problems": list(fit.problems),
            "divergences": int(fit.posteriors.statistics["diverging"].sum()),
            "mean_steps": float(fit.posteriors.statistics["num_steps"].mean()),
            "wall_seconds": fit.posteriors.seconds,
            "parameters": fit.diagnostics,
            "prior_dominated": [name for name, entry in fit.diagnostics.items() if entry["prior_dominated"]],
            "maximum": {
                "value": at_best,
                "fisher_error": errors,
                "log_posterior": float(problem.log_posterior(jnp.asarray(best))),
                "note": "most probable in the coordinates of the sampler; errors by Fisher information, linear",
            },
            "leave_one_out": {
                "elpd": loo.total,
                "standard_error": loo.standard_error,
                "p_loo": float(np.sum(loo.p_loo)),
                "l": places,
                "elpd_of_each": loo.elpd.tolist(),
                "pareto_k": loo.pareto_k.tolist(),
                "refitted": listed(loo.refitted),
                "unreliable": listed(loo.unreliable),
            },
            "predictive": {
                "p_value": fit.check.p_value,
                "replications": len(fit.check.replicated),
                "pull_of_each": fit.check.pulls.tolist(),
                "replicated": _levels(fit.check.replicated),
            },
            "power": curves(fit),
        }
    )


def curves(fit: Fit) -> dict[str, Any]:
    """Expected C_l at every degree: median, 68 and 95 % of the sum, and of its aligned part where there is one."""
    random, aligned = powers(fit.problem, fit.points)
    out: dict[str, Any] = {"l": list(range(1, random.shape[-1] + 1)), **_levels(random + aligned)}
    if fit.problem.aligned:
        out["aligned"] = _levels(aligned)
    return out


def _levels(values: np.ndarray) -> dict[str, list]:
    flat = values.reshape(-1, values.shape[-1])
    median, *ends = np.quantile(flat, _LEVELS, axis=0).tolist()
    return {"median": median, "low_68": ends[0], "high_68": ends[1], "low_95": ends[2], "high_95": ends[3]}


def to_arviz(fit: Fit) -> Any:
    """The posterior as an ArviZ object: posterior, prior, sample_stats, log_likelihood, posterior_predictive, data.

    log_likelihood holds ln p(C_b | all other bins, parameters), so that ArviZ's leave-one-out is right for correlated
    bins too.
    """
    problem, spectrum = fit.problem, fit.problem.spectrum
    lead, bins = ("chain", "draw"), [spectrum.label(k) for k in range(len(spectrum.low))]
    chains, draws = fit.points.shape[:2]
    along = {"chain": np.arange(chains), "draw": np.arange(draws)}
    random, aligned = powers(problem, fit.points)
    degree = np.arange(1, random.shape[-1] + 1)
    posterior = xr.Dataset(
        {name: (lead, drawn) for name, drawn in fit.values.items()}
        | {"power": ((*lead, "l"), random + aligned), "power_aligned": ((*lead, "l"), aligned)},
        coords=along | {"l": degree},
        attrs={
            "software": f"diffcr {diffcr.__version__}",
            "model": problem.model.name,
            "description": problem.model.words,
            "likelihood": problem.kind,
            "priors": json.dumps({name: prior.describe() for name, prior in problem.model.priors.items()}),
            "seed": fit.plan.seed,
            "warmup": fit.plan.warmup,
        },
    )
    density = log_densities(problem, fit.points.reshape(-1, fit.points.shape[-1]))
    value = jax.jit(jax.vmap(problem.log_posterior))(jnp.asarray(fit.points.reshape(-1, fit.points.shape[-1])))
    statistics = {k: (lead, v[0]) for k, v in fit.posteriors.statistics.items()}
    statistics["lp"] = (lead, np.asarray(value).reshape(chains, draws))
    one = {"chain": [0], "bin": bins}
    return container(
        {
            "posterior": posterior,
            "sample_stats": xr.Dataset(statistics, coords=along),
            "prior": xr.Dataset(
                {name: (lead, drawn) for name, drawn in fit.prior.items()},
                coords={"chain": [0], "draw": np.arange(_PRIOR_DRAWS)},
            ),
            "log_likelihood": xr.Dataset(
                {"C_l": ((*lead, "bin"), density.reshape(chains, draws, -1))}, coords=along | {"bin": bins}
            ),
            "posterior_predictive": xr.Dataset(
                {"C_l": ((*lead, "bin"), fit.check.replicated[None])},
                coords=one | {"draw": np.arange(len(fit.check.replicated))},
            ),
            "observed_data": xr.Dataset(
                {
                    "C_l": ("bin", spectrum.power),
                    "error": ("bin", spectrum.error),
                    "noise": ("bin", spectrum.noise),
                    "modes": ("bin", spectrum.modes),
                },
                coords={"bin": bins},
            ),
        }
    )
