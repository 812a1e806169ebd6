"""Whether fits of power spectra tell the truth: simulated skies of known theory, many posteriors side by side."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float
from numpyro.diagnostics import split_gelman_rubin
from scipy import stats

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .multipoles import free_multipoles
from .pseudo_power import CutSky, _decoupling, pseudo_covariance, sum_by_degree
from .sampler import Plan
from .smoothed import smoothed
from .spectrum_comparison import replicate
from .spectrum_data import MeasuredPower, spectrum
from .spectrum_fit import Problem, band_power, parameters, sample_posteriors
from .spectrum_likelihood import conditional
from .spectrum_models import Model

LEVELS = {"68": 0.6827, "95": 0.9545}
"""Equal-tailed credible intervals whose coverage is counted, by name."""


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Posteriors of many simulated skies against the truth.

    Attributes:
        names: Of the parameters.
        truths: Shape (sky, param).
        medians: Of the posteriors, shape (sky, param).
        inside: Whether the interval of each of `LEVELS` holds the truth, shape (level, sky, param).
        pulls: Normal score of the rank of the truth in its posterior, shape (sky, param): N(0, 1) if all is well.
        r_hat: Largest split R-hat of each sky's chains, shape (sky,).
        seconds: Wall time of the sampling.
    """

    names: tuple[str, ...]
    truths: Float[np.ndarray, "sky param"]
    medians: Float[np.ndarray, "sky param"]
    inside: Bool[np.ndarray, "level sky param"]
    pulls: Float[np.ndarray, "sky param"]
    r_hat: Float[np.ndarray, " sky"]
    seconds: float

    def coverage(self, level: str) -> Float[np.ndarray, " param"]:
        """Share of skies whose interval holds the truth."""
        return self.inside[list(LEVELS).index(level)].mean(axis=0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: coverage, pulls and their errors of each parameter."""
        number = len(self.truths)
        out: dict[str, Any] = {"skies": number, "share_r_hat_below_1.05": float(np.mean(self.r_hat < 1.05))}
        for k, name in enumerate(self.names):
            pulls = self.pulls[:, k]
            out[name] = {f"coverage_{level}": float(self.coverage(level)[k]) for level in LEVELS} | {
                "pull_mean": float(pulls.mean()),
                "pull_mean_error": float(pulls.std(ddof=1) / math.sqrt(number)),
                "pull_width": float(pulls.std(ddof=1)),
                "uniform_p": float(stats.kstest(stats.norm.cdf(pulls), "uniform").pvalue),
            }
        return out | {"seconds": self.seconds}


def full_sky_spectrum(
    power: Float[AnyArray, " degree"], noise: float, sky_fraction: float = 1.0, l_min: int = 2
) -> MeasuredPower:
    """A spectrum of every l from l_min on, measured as expected, with the exact number of modes.

    Args:
        power: C_l expected of random skies, l = 1 .. l_max.
        noise: N_l, the same at every l, such as 4 pi / N.
        sky_fraction: Share of the 2 l + 1 modes that is seen.
        l_min: First degree.
    """
    power = np.asarray(power, float)
    l = np.arange(l_min, len(power) + 1)
    own = power[l - 1]
    modes = sky_fraction * (2 * l + 1)
    return spectrum(l, l, own, noise=np.full(len(l), noise), modes=modes)


def draw_spectra(
    data: MeasuredPower,
    kind: str,
    model: Model,
    values: Mapping[str, AnyArray | float],
    skies: int,
    seed: int,
) -> Float[np.ndarray, "sky bin"]:
    """Measured C_l of simulated skies of one theory.

    Args:
        data: Noise, modes and correlation of the measurement.
        kind: Of the likelihood, see `spectrum_likelihood.KINDS`.
        model: The theory.
        values: Its parameters by name, one value or one for each sky.
        skies: Their number.
        seed: Of the random numbers.
    """
    spread = {name: np.broadcast_to(value, (skies,)) for name, value in values.items()}
    each = [model.power({name: float(value[k]) for name, value in spread.items()}) for k in range(skies)]
    random, aligned = (
        np.asarray(band_power(data, np.stack([np.asarray(pair[part]) for pair in each]))) for part in (0, 1)
    )
    return replicate(data, kind, np.random.default_rng(seed), random, aligned)


def cut_sky_spectra(
    cut: CutSky, power: Float[AnyArray, " degree"], bins: list[tuple[int, int]], skies: int, seed: int
) -> tuple[MeasuredPower, Float[np.ndarray, "sky bin"]]:
    """Gaussian skies of given C_l through a field of view and its noise, decoupled; and what their fit needs to know.

    The simulated C_l have the distribution of the estimator itself, which is neither normal nor chi-squared. Modes and
    correlations are those of the noise, as read from estimates.json.

    Args:
        cut: Coupling and noise.
        power: C_l of l = 1 .. l_max of `cut`; positive.
        bins: First and last l of each.
        skies: Their number.
        seed: Of the random numbers.
    """
    low, high, matrix = _decoupling(cut, bins, None)
    rng = np.random.default_rng(seed)
    power = np.asarray(power, float)
    degree, _ = free_multipoles(cut.l_max)
    found = np.zeros((skies, cut.l_max))
    for block in cut.blocks:
        signal = rng.standard_normal((skies, len(block.place))) * np.sqrt(power[degree[block.place] - 1])
        values, vectors = np.linalg.eigh(block.noise)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        seen = signal @ block.kernel.T + rng.standard_normal(signal.shape) @ root.T
        squares = np.zeros((skies, len(degree)))
        squares[:, block.place] = seen**2
        found += sum_by_degree(squares, cut.l_max)
    drawn = (found / (2 * cut.l + 1) - cut.noise) @ matrix.T
    window = matrix @ cut.coupling
    data = spectrum(
        low,
        high,
        window @ power,
        covariance=matrix @ pseudo_covariance(cut) @ matrix.T,
        noise=matrix @ cut.noise,
        meaning="isotropic",
        window=window,
        lost_orders=True,
    )
    return data, drawn


def recover(
    problem: Problem, truths: Mapping[str, AnyArray | float], power: Float[np.ndarray, "sky bin"], plan: Plan
) -> Recovery:
    """Posterior of each simulated sky, and where the truth lies in it.

    Args:
        problem: Model and measurement.
        truths: Parameters by name, one value or one for each sky.
        power: Measured C_l, as `draw_spectra` makes them.
        plan: Chains and steps of each posterior; few are enough, such as two chains of 300 + 300.

    Raises:
        InputError: If the truths are not those of the model.
    """
    names = problem.model.parameters
    if set(truths) != set(names):
        raise InputError(f"the model {problem.model.name} has the parameters {', '.join(names)}; give each of them")
    found = sample_posteriors(problem, plan, power=power)
    skies = len(power)
    drawn = parameters(problem, found.points.reshape(skies, -1, len(names)))
    true = np.stack([np.broadcast_to(np.asarray(truths[n], float), (skies,)) for n in names], axis=1)
    values = np.stack([drawn[name] for name in names], axis=-1)
    rank = (np.sum(values < true[:, None], axis=1) + 0.5) / (values.shape[1] + 1)
    inside = np.stack([np.abs(rank - 0.5) < level / 2 for level in LEVELS.values()])
    r_hat = np.array([np.max(split_gelman_rubin(one)) for one in found.points])
    return Recovery(names, true, np.median(values, axis=1), inside, stats.norm.ppf(rank), r_hat, found.seconds)


def prior_truths(model: Model, skies: int, seed: int) -> dict[str, np.ndarray]:
    """Parameters of simulated skies drawn from the priors, for which coverage is exact if all is well."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(prior.value(rng.standard_normal(skies))) for name, prior in model.priors.items()}


def foretold(problem: Problem, power: Float[np.ndarray, "sky bin"], plan: Plan) -> Float[np.ndarray, "sky bin"]:
    """elpd of each bin of simulated skies by leave-one-out, without fits of their own for heavy tails.

    Args:
        problem: Model and measurement.
        power: Measured C_l.
        plan: Chains and steps of each posterior.
    """
    found = sample_posteriors(problem, plan, power=power)

    @jax.jit
    def densities(points, power):
        return jax.vmap(lambda x: conditional(problem.data(power), problem.kind, *problem.bands(x)))(points)

    points = found.points.reshape(len(power), -1, problem.dimensions)
    return np.stack([smoothed(np.asarray(densities(*each)))[0] for each in zip(points, power, strict=True)])
