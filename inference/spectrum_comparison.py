"""Which theory foretells a measured power spectrum best: leave-one-out over bins, and predictive checks of each."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from diffcr.errors import InputError

from .sampler import Plan
from .smoothed import PARETO_LIMIT, error_of_sum, smoothed
from .spectrum_data import MeasuredPower
from .spectrum_fit import Problem, sample_posteriors
from .spectrum_likelihood import conditional, scores

FEW_BINS = 100
"""With fewer terms the standard error of a difference of elpd is too small, and not normal (Sivula et al. 2020)."""

CLEAR_DIFFERENCE = 4.0
"""Differences of elpd below this are not told apart, whatever their standard error (Sivula et al. 2020)."""

SMALL_P = 0.01
"""Predictive p-values below this say that a model does not describe the data."""

_REFIT_R_HAT = 1.05


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """How well each bin is foretold from all others.

    Attributes:
        elpd: ln p(C_b | all other bins), shape (bin,).
        p_loo: ln p(C_b | all bins) less that: what knowing the bin was worth, shape (bin,).
        pareto_k: Shape of the tail of the importance weights, shape (bin,).
        refitted: Bins whose weights had too heavy a tail, and which were left out in a fit of their own.
        unreliable: Those of them whose own fit did not converge, or heavy tails where none was made.
    """

    elpd: Float[np.ndarray, " bin"]
    p_loo: Float[np.ndarray, " bin"]
    pareto_k: Float[np.ndarray, " bin"]
    refitted: Bool[np.ndarray, " bin"]
    unreliable: Bool[np.ndarray, " bin"]

    @property
    def total(self) -> float:
        """Sum of the elpd."""
        return float(np.sum(self.elpd))

    @property
    def standard_error(self) -> float:
        """Of the total, from the spread over bins: sqrt(n var)."""
        return error_of_sum(self.elpd)


class Ranked(NamedTuple):
    """One model among others.

    Attributes:
        name: Of the model.
        elpd, standard_error: The total and its error.
        difference: elpd less that of the best model, not above 0.
        difference_error: Its standard error, paired over bins; 0 for the best.
        verdict: In words: "best", "not told apart from the best" or "worse".
    """

    name: str
    elpd: float
    standard_error: float
    difference: float
    difference_error: float
    verdict: str


def log_densities(problem: Problem, points: Float[np.ndarray, "draw param"]) -> Float[np.ndarray, "draw bin"]:
    """ln p(C_b | all other bins, parameters) of each draw."""
    one = lambda x: conditional(problem.spectrum, problem.kind, *problem.bands(x))
    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(points)))


def leave_one_out(
    problem: Problem,
    points: Float[np.ndarray, "chain draw param"],
    plan: Plan,
    refit: bool = True,
    relative_efficiency: float = 1.0,
) -> LeaveOneOut:
    r"""Expected log predictive density of each bin given all others.

    $$ p(C_b | C_{-b}) = 1 / \langle 1 / p(C_b | C_{-b}, \theta) \rangle_{\theta | C}, $$

    the mean stabilised by Pareto smoothing; correlated bins by their exact conditional densities. Where the tail is too
    heavy for that the model is fitted again without the bin.

    Args:
        problem: Model and data.
        points: Draws, in the coordinates of the sampler.
        plan: How to fit again.
        refit: Whether to.
        relative_efficiency: Effective sample size of the draws over their number.

    References:
        Vehtari, Gelman & Gabry (2017), Stat. Comput. 27, 1413.
        Buerkner, Gabry & Vehtari (2021), Comput. Stat. 36, 1243.
    """
    flat = points.reshape(-1, points.shape[-1])
    density = log_densities(problem, flat)
    elpd, pareto_k = smoothed(density, relative_efficiency)
    limit = min(PARETO_LIMIT, 1 - 1 / math.log10(len(flat)))
    heavy = ~(pareto_k <= limit)
    unreliable = heavy.copy()
    places = np.flatnonzero(heavy)
    if refit and len(places):
        keep = 1.0 - np.eye(len(elpd))[places]
        shorter = dataclasses.replace(
            plan, chains=min(plan.chains, 2), warmup=min(plan.warmup, 250), draws=min(plan.draws, 500)
        )
        again = sample_posteriors(problem, shorter, keep=keep)
        for place, drawn in zip(places, again.points, strict=True):
            own = log_densities(problem, drawn.reshape(-1, drawn.shape[-1]))[:, place]
            elpd[place] = special.logsumexp(own) - math.log(len(own))
            unreliable[place] = not largest_r_hat(drawn) <= _REFIT_R_HAT
    whole = special.logsumexp(density, axis=0) - math.log(len(density))
    return LeaveOneOut(elpd, whole - elpd, pareto_k, heavy & refit, unreliable)


def largest_r_hat(points: Float[np.ndarray, "chain draw param"]) -> float:
    """Largest split R-hat of the coordinates of one posterior."""
    from numpyro.diagnostics import split_gelman_rubin

    return float(np.max(split_gelman_rubin(points)))


def compare(results: Mapping[str, LeaveOneOut], p_values: Mapping[str, float] | None = None) -> list[Ranked]:
    """Models of the same bins, the best first.

    A model is worse where its elpd is lower by more than 4 and two standard errors. Where a few bins make all of a
    difference the standard error is as large as that itself and says nothing: a model is worse too where its predictive
    p is below 0.01, that of the best is not, and the difference is more than 4.

    Args:
        results: By name.
        p_values: Of predictive checks by name; without them the standard errors decide.

    Raises:
        InputError: If there are no models, or their bins differ in number.
    """
    if not results or len({len(r.elpd) for r in results.values()}) != 1:
        raise InputError("models are compared on the same bins: give the results of at least one, all of one spectrum")
    names = sorted(results, key=lambda name: -results[name].total)
    best = results[names[0]]
    p_values = p_values or {}
    fails = lambda name: p_values.get(name, 1.0) < SMALL_P <= p_values.get(names[0], 1.0)
    out = []
    for name in names:
        off = results[name].elpd - best.elpd
        error = 0.0 if name == names[0] else error_of_sum(off)
        total = float(np.sum(off))
        clear = total < -CLEAR_DIFFERENCE and (total < -2 * error or fails(name))
        verdict = "best" if name == names[0] else "worse" if clear else "not told apart from the best"
        out.append(Ranked(name, results[name].total, results[name].standard_error, total, error, verdict))
    return out


class Check(NamedTuple):
    """A posterior predictive check.

    Attributes:
        p_value: Share of replicated spectra that lie as far from the theory as the measured one; small where the model
            is wrong. As the parameters were fitted to the same data it is rather too large than too small.
        replicated: Drawn C_l, shape (draw, bin), as a measurement would find them.
        pulls: Mean over draws of the residual of each bin given the others, in units of its scatter, shape (bin,).
    """

    p_value: float
    replicated: Float[np.ndarray, "draw bin"]
    pulls: Float[np.ndarray, " bin"]


def predictive_check(
    problem: Problem, points: Float[np.ndarray, "chain draw param"], seed: int, number: int = 1000
) -> Check:
    """Replicate the measurement with drawn parameters, and see how far it lies from the theory, by X R^-1 X.

    Args:
        problem: Model and data.
        points: Draws, in the coordinates of the sampler.
        seed: Of the random numbers.
        number: Replications.
    """
    flat = points.reshape(-1, points.shape[-1])
    flat = flat[np.unique(np.linspace(0, len(flat) - 1, number).astype(int))]
    random, aligned = (
        None if band is None else np.asarray(band) for band in jax.jit(jax.vmap(problem.bands))(jnp.asarray(flat))
    )
    drawn = replicate(problem.spectrum, problem.kind, np.random.default_rng(seed), random, aligned)

    def score(power, random, aligned):
        return scores(problem.data(power), problem.kind, random, aligned)

    own = jax.jit(jax.vmap(functools.partial(score, jnp.asarray(problem.spectrum.power))))(random, aligned)
    theirs = jax.jit(jax.vmap(score))(drawn, random, aligned)
    precision = np.linalg.inv(problem.spectrum.correlation)
    size = lambda x: np.einsum("di,ij,dj->d", x, precision, x)
    own, theirs = np.asarray(own), np.asarray(theirs)
    p_value = (1 + np.sum(size(theirs) >= size(own))) / (1 + len(flat))
    pulls = np.mean(own @ precision / np.sqrt(np.diag(precision)), axis=0)
    return Check(float(p_value), drawn, pulls)


def replicate(
    spectrum: MeasuredPower,
    kind: str,
    rng: np.random.Generator,
    random: Float[np.ndarray, "draw bin"],
    aligned: Float[np.ndarray, "draw bin"] | None = None,
) -> Float[np.ndarray, "draw bin"]:
    """Measured C_l of simulated skies, one for each expected power: as the likelihood has them.

    Args:
        spectrum: Of the real sky; it gives noise, modes and correlation.
        kind: Of the likelihood.
        rng: NumPy generator.
        random: Power of random skies.
        aligned: Power of the pattern that does not scatter.
    """
    aligned = np.zeros_like(random) if aligned is None else aligned
    root = np.linalg.cholesky(spectrum.correlation)
    normal = rng.standard_normal(random.shape) @ root.T
    if kind == "normal":
        square = spectrum.variance + (0 if spectrum.meaning == "mean" else 2 * random**2 / spectrum.modes)
        return random + aligned + normal * np.sqrt(square)
    scale = np.maximum(random + spectrum.noise, 1e-300)
    centre = spectrum.modes * aligned / scale
    if not spectrum.correlated:
        size = rng.noncentral_chisquare(spectrum.modes, centre)
    else:
        share = stats.norm.cdf(normal)
        plain = stats.chi2.ppf(share, spectrum.modes)
        size = np.where(centre > 0, stats.ncx2.ppf(share, spectrum.modes, np.maximum(centre, 1e-9)), plain)
    return scale * size / spectrum.modes - spectrum.noise
