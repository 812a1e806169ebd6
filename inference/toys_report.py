"""What toys say: the test statistic's distribution, p-values, pulls, coverage, detections. The content of toys.json."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

import diffcr
from diffcr.errors import FitError

from .dipole import log10_p_value, significance_sigma
from .files import finite
from .fit import FitResult
from .toy_limits import limits_hold
from .toys import ToyResult

TAILS = (0.3173, 0.1, 0.0455, 0.01, 2.7e-3, 1e-3, 1e-4, 6.3e-5, 1e-5, 5.7e-7)
"""Chance probabilities at whose chi-squared quantile the tail is counted; among them those of 1 to 5 sigma."""

LEVELS = {"68": 0.682689, "95": 0.95}
"""Probabilities of intervals and ellipses, by name: that of one standard deviation, and 95 %."""

_CHANCE = 6e-5
"""Chance probability below which a tail is told: there are up to 20, two for each of `TAILS`."""

_FEWEST = 10
"""Toys without which there is nothing to say."""

UNCONVERGED = 0.01
"""Share of toys whose fit may fail before the whole counts as not converged."""


@dataclasses.dataclass(frozen=True)
class Observed:
    """What the data gave.

    Attributes:
        test_statistic: 2 ln(L / L_isotropic), as in fit.json.
        amplitude: Of the equatorial dipole.
        cells: The test statistic from the cells alone, without the directions within them: as toys are fitted. None
            where the data have no more than cells.
    """

    test_statistic: float
    amplitude: float
    cells: float | None = None

    @staticmethod
    def of(result: FitResult, cells: FitResult | None = None) -> "Observed":
        """From the fit of the data, and that of their cells alone."""
        alone = None if cells is None else float(cells.test_statistic)
        return Observed(float(result.test_statistic), result.dipole.amplitude, alone)


def share(count: int, number: int) -> dict[str, Any]:
    """A share with the exact interval that holds the true one with 95 % confidence (Clopper & Pearson 1934)."""
    low = float(stats.beta(count, number - count + 1).ppf(0.025)) if count > 0 else 0.0
    high = float(stats.beta(count + 1, number - count).ppf(0.975)) if count < number else 1.0
    return {"count": int(count), "share": count / number, "low_95": low, "high_95": high}


def p_value(result: ToyResult, test_statistic: float) -> dict[str, Any]:
    """Chance probability of a test statistic from isotropic toys, beside the one of chi-squared.

    (k + 1) / (n + 1) for k of n toys at or above it: never zero, and right on average. Toys whose fit did not converge
    count as above it.
    """
    number = len(result.converged)
    count = int(np.sum(_statistics(result) >= test_statistic))
    p = (count + 1) / (number + 1)
    log10_p = log10_p_value(test_statistic, 2)
    counted = share(count, number)
    return {
        "test_statistic": test_statistic,
        "toys_above": count,
        "toys": number,
        "p": p,
        "p_low_95": counted["low_95"],
        "p_high_95": counted["high_95"],
        "significance_sigma": significance_sigma(math.log10(p)),
        "log10_p_chi2": log10_p,
        "p_chi2": 10**log10_p,
        "significance_sigma_chi2": significance_sigma(log10_p),
    }


def _statistics(result: ToyResult) -> Float[np.ndarray, " toy"]:
    return np.where(result.converged, result.test_statistics, np.inf)


def tail(result: ToyResult) -> list[dict[str, Any]]:
    """How many toys lie above the chi-squared quantiles of `TAILS`, as far as some are to be expected there.

    `p_binomial` is the chance of so many or more, or so few or fewer, whichever is less.
    """
    found, number = _statistics(result), len(result.converged)
    out = []
    for p in TAILS:
        if p * number < 1:
            break
        edge = float(stats.chi2(2).isf(p))
        count = int(np.sum(found >= edge))
        chance = min(stats.binom.cdf(count, number, p), stats.binom.sf(count - 1, number, p))
        entry = {"p_chi2": p, "test_statistic": edge, "p_binomial": float(chance)}
        out.append(entry | share(count, number))
    return out


def distribution(result: ToyResult) -> dict[str, Any]:
    """The test statistic of isotropic toys against chi-squared with two degrees of freedom."""
    values = result.test_statistics[result.converged]
    test = stats.kstest(values, stats.chi2(2).cdf)
    error = values.std(ddof=1) / math.sqrt(len(values))
    return {
        "mean": float(values.mean()),
        "mean_error": float(error),
        "mean_chi2": 2.0,
        "kolmogorov_smirnov": float(test.statistic),
        "kolmogorov_smirnov_p": float(test.pvalue),
        "quantiles": {str(q): float(np.quantile(values, q)) for q in (0.5, 0.9, 0.99, 0.999)},
        "quantiles_chi2": {str(q): float(stats.chi2(2).ppf(q)) for q in (0.5, 0.9, 0.99, 0.999)},
        "tail": tail(result),
    }


def calibration(result: ToyResult) -> dict[str, Any]:
    """Bias, pulls, and coverage of intervals and upper limits, of toys of one truth."""
    fitted, truth, number = result.fitted, np.array(result.plan.dipole), int(result.converged.sum())
    pulls, errors = fitted.pulls, np.sqrt(result.covariances[result.converged][:, [0, 2]])
    components = {}
    for k, name in enumerate(("delta_0h", "delta_6h")):
        off, pull = fitted.estimates[:, k] - truth[k], pulls[:, k]
        components[name] = {
            "truth": float(truth[k]),
            "bias": float(off.mean()),
            "bias_error": float(off.std(ddof=1) / math.sqrt(number)),
            "scatter": float(off.std(ddof=1)),
            "mean_reported_error": float(errors[:, k].mean()),
            **_moments(pull),
            "coverage": {
                name: share(int(np.sum(np.abs(pull) < stats.norm.isf((1 - level) / 2))), number)
                for name, level in LEVELS.items()
            },
        }
    amplitude, length = np.hypot(*fitted.estimates.T), float(np.hypot(*truth))
    distance = np.einsum(
        "ti,tij,tj->t", fitted.estimates - truth, np.linalg.inv(fitted.covariances), fitted.estimates - truth
    )
    limits = {
        f"{level:.0%}"[:-1]: share(
            int(np.sum(limits_hold(fitted.estimates, fitted.covariances, length, level))), number
        )
        for level in (0.95, 0.99)
    }
    return {
        **components,
        "amplitude": {"truth": length, "mean": float(amplitude.mean()), "scatter": float(amplitude.std(ddof=1))},
        "coverage_ellipse": {
            name: share(int(np.sum(distance < stats.chi2(2).ppf(level))), number) for name, level in LEVELS.items()
        },
        "coverage_upper_limit": limits,
    }


def _moments(pull: Float[np.ndarray, " toy"]) -> dict[str, float]:
    """Mean and standard deviation of pulls with their errors; that of the width from the fourth moment."""
    number, width = len(pull), float(pull.std(ddof=1))
    fourth = float(np.mean((pull - pull.mean()) ** 4))
    return {
        "pull_mean": float(pull.mean()),
        "pull_mean_error": width / math.sqrt(number),
        "pull_width": width,
        "pull_width_error": math.sqrt(max(fourth - width**4, 0.0) / number) / (2 * width),
    }


def detection(result: ToyResult) -> dict[str, Any]:
    """How often toys with a dipole would be found at 3 and 5 sigma of chi-squared, and their median significance."""
    values, number = result.test_statistics[result.converged], int(result.converged.sum())
    found = {
        f"{n}_sigma": share(int(np.sum(values >= stats.chi2(2).isf(2 * stats.norm.sf(n)))), number) for n in (3, 5)
    }
    median = float(np.median(values))
    return {
        **found,
        "median_test_statistic": median,
        "median_significance_sigma": significance_sigma(log10_p_value(median, 2)),
    }


def problems(summary: dict[str, Any]) -> list[str]:
    """What is beyond chance (four standard errors, of counts the exact binomial) and large enough to matter, in
    sentences."""
    out = []
    for kind in ("isotropic", "dipole"):
        part = summary.get(kind)
        if part is None or "calibration" not in part:
            continue
        what = "isotropic skies" if kind == "isotropic" else "skies with the dipole"
        for name in ("delta_0h", "delta_6h"):
            entry = part["calibration"][name]
            if abs(entry["pull_mean"]) > max(0.1, 4 * entry["pull_mean_error"]):
                out.append(f"{name} of {what} is off by {entry['pull_mean']:+.2f} of its error on average")
            if abs(entry["pull_width"] - 1) > max(0.05, 4 * entry["pull_width_error"]):
                out.append(f"{name} of {what} scatters by {entry['pull_width']:.2f} times its error")
    for entry in (summary.get("isotropic") or {}).get("distribution", {}).get("tail", []):
        p = entry["p_chi2"]
        if entry["p_binomial"] < _CHANCE and not 0.67 < entry["share"] / p < 1.5:
            out.append(
                f"{entry['share']:.2g} of isotropic skies exceed a test statistic of {entry['test_statistic']:.1f}, "
                f"chi-squared has {p:.2g}"
            )
    return out


def summarise(
    isotropic: ToyResult, dipole: ToyResult | None = None, observed: Observed | None = None
) -> dict[str, Any]:
    """Everything that toys.json holds.

    Args:
        isotropic: Toys without a dipole.
        dipole: Toys with one, or None.
        observed: Of the data, whose p-value the isotropic toys give.

    Raises:
        FitError: If next to no fit converged.
    """
    plan = isotropic.plan
    both = [each for each in (isotropic, dipole) if each is not None]
    for each in both:
        good = int(each.converged.sum())
        if good < _FEWEST:
            raise FitError(
                f"the fits of {good} of {len(each.converged)} toys converged, and {_FEWEST} are needed: draw more of "
                "them, or with more events"
            )
    seconds, number = sum(each.seconds for each in both), sum(len(each.converged) for each in both)
    summary = {
        "software": f"diffcr {diffcr.__version__}",
        "frame": "equator of date",
        "configurations": [
            {
                "name": name,
                "events": float(rate.sum()),
                "rate_bins": int(groups),
                "weight_spread": float(spread),
            }
            for name, rate, groups, spread in zip(plan.names, plan.rates, plan.groups, plan.weight_spreads, strict=True)
        ],
        "grid": list(plan.grid.shape),
        "toys": plan.toys,
        "seed": plan.seed,
        "block": plan.block,
        "seconds": seconds,
        "toys_per_second": number / seconds if seconds > 0 else None,
        "isotropic": _part(isotropic) | {"distribution": distribution(isotropic)},
        "dipole": None if dipole is None else _part(dipole) | {"detection": detection(dipole)},
        "observed": None,
    }
    if observed is not None:
        summary["observed"] = {"amplitude": observed.amplitude, **p_value(isotropic, observed.test_statistic)}
        alone = None if observed.cells is None else p_value(isotropic, observed.cells)
        summary["observed"]["from_cells_alone"] = alone
    summary["problems"] = problems(summary)
    summary["converged"] = all(each.converged.mean() >= 1 - UNCONVERGED for each in both)
    return finite(summary)


def _part(result: ToyResult) -> dict[str, Any]:
    number = int(result.converged.sum())
    return {
        "truth": list(result.plan.dipole),
        "toys": len(result.converged),
        "not_converged": len(result.converged) - number,
        "calibration": calibration(result),
    }
