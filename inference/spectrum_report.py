"""Fits of theories to a measured power spectrum on disk and in words: spectrum.json, NetCDF, pictures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import diffcr
from diffcr.errors import InputError

from . import plots
from .files import together, write_netcdf
from .named import tree
from .report import write_json
from .sampler import Plan
from .spectrum_comparison import CLEAR_DIFFERENCE, FEW_BINS, SMALL_P, compare, replicate
from .spectrum_data import MEANINGS, MeasuredPower
from .spectrum_fit import Problem, band_power, powers
from .spectrum_likelihood import KINDS, choose_kind
from .spectrum_models import Model
from .spectrum_posterior import Fit, fit_model, summarise_fit, to_arviz


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be fitted.

    Attributes:
        spectrum: All bins that were measured.
        inputs: Where they come from, with checksums.
        tie_dipole: Whether l = 1 follows the models; otherwise its C_l is free and bins that hold it have no part.
        kind: Of the likelihood.
        reason: Why this likelihood.
    """

    spectrum: MeasuredPower
    inputs: tuple[Mapping[str, Any], ...]
    tie_dipole: bool
    kind: str
    reason: str

    @property
    def used(self) -> MeasuredPower:
        """The bins that theory is fitted to. A free C_1 takes up what its bin says: the others' share is marginal."""
        return self.spectrum.only(np.flatnonzero(self.fitted))

    @property
    def fitted(self) -> np.ndarray:
        """Which bins those are."""
        return np.array([self.tie_dipole or low > 1 for low in self.spectrum.low])


def make_task(
    spectrum: MeasuredPower, inputs: Sequence[Mapping[str, Any]], tie_dipole: bool = False, kind: str = "auto"
) -> Task:
    """Settle the likelihood for the bins that are fitted.

    Raises:
        InputError: If fewer than two bins are left, a free dipole leaks into them, their errors are correlated so
            much that bins are not told apart and no likelihood was named, or it does not suit.
    """
    task = Task(spectrum, tuple(inputs), tie_dipole, kind, "")
    if task.fitted.sum() < 2:
        raise InputError(
            "fewer than two bins are left beside that of l = 1, whose power is free: give more degrees, or --dipole tie"
        )
    if not tie_dipole:
        _require_little_leakage(task)
    chosen, reason = choose_kind(task.used, kind)
    off = largest_correlation(task.used)
    if kind == "auto" and chosen == "hamimeche-lewis" and off > _CORRELATED[task.used.meaning]:
        raise InputError(
            f"errors of bins are correlated by up to {off:.2f}: the field of view does not tell these degrees apart, "
            "and intervals would be far too narrow; add a second site, fit the counts (diffcr sample --model "
            "small-scale), or name a --likelihood to fit all the same"
        )
    return dataclasses.replace(task, kind=chosen, reason=reason)


_CORRELATED = {"isotropic": 0.25, "total": 0.5, "sky": 0.5}
"""Correlation of errors, by their meaning, above which bins are not told apart: of simulated skies of one site near a
pole, 0.4 in noise, intervals of 68 % held the truth in a quarter or less; of one at 20 degrees, 0.1, in 70 %."""


def largest_correlation(spectrum: MeasuredPower) -> float:
    """Largest correlation of the errors of any two bins, by size."""
    return float(np.abs(spectrum.correlation - np.eye(len(spectrum.low))).max())


_DIPOLE_POWER = 4 * math.pi / 9 * 1e-3**2
"""C_1 of a dipole of amplitude 1e-3, as there is at TeV, where none was measured."""


def _require_little_leakage(task: Task) -> None:
    """Refuse bins that hold more of a dipole of unknown origin than a third of their error."""
    spectrum, used = task.spectrum, task.used
    first = spectrum.low[0] == 1
    # Were there nothing else in its bin.
    measured = max(float(spectrum.power[0]), 0.0) / spectrum.window[0, 0] if first else _DIPOLE_POWER
    leak = np.abs(used.window[:, 0]) * measured
    error = np.hypot(used.error, used.sample_error)
    bad = np.flatnonzero(leak > error / 3)
    if bad.size:
        k = bad[np.argmax((leak / error)[bad])]
        size = "the measured C_1" if first else "a dipole of 1e-3"
        raise InputError(
            f"the bin l = {used.label(k)} holds {leak[k]:.2g} of {size}, its error is {error[k]:.2g}: the field of "
            "view does not tell them apart, and the power of l = 1 is free; use --dipole tie, a higher --lmin, a "
            "second site, or fit the counts (diffcr sample --model small-scale)"
        )


def fit_all(task: Task, models: Sequence[Model], plan: Plan, refit: bool = True, progress=None):
    """Fit models one after the other.

    Args:
        task: The data.
        models: Theories.
        plan: How to sample.
        refit: See `fit_model`.
        progress: Called with the name of each model before it is fitted.

    Returns:
        Fits by name, and for models that the data cannot be fitted with, name -> reason.

    Raises:
        InputError: If no model can be fitted.
    """
    fits, not_run = {}, {}
    for model in models:
        try:
            problem = Problem(model, task.used, task.kind)
        except InputError as error:
            not_run[model.name] = str(error)
            continue
        if progress is not None:
            progress(model.name)
        fits[model.name] = fit_model(problem, plan, refit)
    if not fits:
        raise InputError("; ".join(f"{name}: {reason}" for name, reason in not_run.items()))
    return fits, not_run


def summary(task: Task, fits: Mapping[str, Fit], not_run: Mapping[str, str], plan: Plan) -> dict[str, Any]:
    """What stands in spectrum.json."""
    spectrum = task.spectrum
    models = {name: summarise_fit(fit) for name, fit in fits.items()}
    problems = [f"{name}: {problem}" for name, fit in fits.items() for problem in fit.problems]
    checks = {name: fit.check.p_value for name, fit in fits.items()}
    rows = compare({name: fit.leave_one_out for name, fit in fits.items()}, checks)
    return {
        "software": f"diffcr {diffcr.__version__}",
        "inputs": [dict(record) for record in task.inputs],
        "converged": not problems,
        "verdict": _verdict(problems),
        "problems": problems,
        "data": {
            "l_low": list(spectrum.low),
            "l_high": list(spectrum.high),
            "power": spectrum.power.tolist(),
            "error": spectrum.error.tolist(),
            "sample_error": spectrum.sample_error.tolist(),
            "noise": spectrum.noise.tolist(),
            "modes": spectrum.modes.tolist(),
            "fitted": task.fitted.tolist(),
            "correlated": spectrum.correlated,
            "without_m_0": spectrum.lost_orders,
            "errors_given": spectrum.meaning,
        },
        "likelihood": {
            "name": task.kind,
            "meaning": KINDS[task.kind],
            "reason": task.reason,
            "errors_given": MEANINGS[spectrum.meaning],
            "sample_variance": _sample_words(spectrum),
        },
        "dipole": _dipole(task, fits),
        "models": models,
        "not_run": dict(not_run),
        "comparison": {
            "method": "leave one bin out; elpd differences to the best model, standard errors paired over bins",
            "bins": int(task.fitted.sum()),
            "models": [row._asdict() for row in rows],
            "note": comparison_note(int(task.fitted.sum())),
        },
        "sampler": dataclasses.asdict(plan),
        "notes": notes(task, models),
    }


def _sample_words(spectrum: MeasuredPower) -> str:
    if spectrum.meaning == "mean":
        return "none: the errors are of a mean over skies"
    given = "taken out of the given errors and " if spectrum.meaning == "total" else ""
    return f"{given}added by the likelihood, once, for the power that each model expects of random skies"


def comparison_note(bins: int) -> str:
    """What the comparison is worth with so many bins."""
    out = f"differences of elpd below {CLEAR_DIFFERENCE:g} or two standard errors tell no models apart"
    if bins < FEW_BINS:
        out += (
            f"; with {bins} bins the standard error itself is rough and rather too small (Sivula et al. "
            "2020, arXiv:2008.10296)"
        )
    return out


def _dipole(task: Task, fits: Mapping[str, Fit]) -> dict[str, Any] | None:
    """C_1 as measured, and what each model expects there."""
    spectrum = task.spectrum
    out: dict[str, Any] = {
        "treatment": "tied to the models" if task.tie_dipole else "free: l = 1 has a power of its own in every model",
        "measured": None,
        "error": None,
        "expected": {},
    }
    if spectrum.low[0] == 1 and spectrum.high[0] == 1:
        out |= {"measured": float(spectrum.power[0]), "error": float(spectrum.error[0])}
    for name, fit in fits.items():
        random, aligned = powers(fit.problem, fit.points)
        median, low, high = np.quantile((random + aligned)[..., 0], [0.5, 0.16, 0.84]).tolist()
        out["expected"][name] = {"median": median, "low_68": low, "high_68": high}
    return out


def notes(task: Task, models: Mapping[str, dict]) -> list[str]:
    """What a reader should know before using the numbers."""
    out = []
    if task.kind == "normal" and task.spectrum.meaning != "mean":
        out.append("few multipoles are not normal: errors of the lowest degrees are rough in this likelihood")
    off = largest_correlation(task.used)
    if off > _CORRELATED.get(task.spectrum.meaning, 1.0):
        out.append(f"errors of bins are correlated by up to {off:.2f}: intervals are too narrow, perhaps by far")
    if task.used.lost_orders and any("C_1_aligned" in entry["priors"] for entry in models.values()):
        out.append(
            "the data hold no m = 0: of an aligned pattern they see a part that depends on the field's declination; "
            "give --field-declination"
        )
    for name, entry in models.items():
        if entry["prior_dominated"]:
            words = ", ".join(entry["prior_dominated"])
            out.append(f"{name}: {words} as in the prior, which the data do not change")
        far = [
            key for key, prior in entry["priors"].items() if prior["kind"] == "log-normal" and _far(entry, key, prior)
        ]
        if far:
            out.append(
                f"{name}: {far[0]} lies beyond three widths of its prior; give --prior {name}.{far[0]}=MEDIAN,SPREAD"
            )
        p_value = entry["predictive"]["p_value"]
        if p_value < SMALL_P:
            out.append(f"{name} does not describe the data: predictive {_p_in_words(entry['predictive'])}")
        if entry["leave_one_out"]["unreliable"]:
            words = ", ".join(entry["leave_one_out"]["unreliable"])
            out.append(f"{name}: leave-one-out of l = {words} is unreliable (Pareto k above its limit)")
    return out


def _verdict(problems: list[str]) -> str:
    if not problems:
        return "converged"
    return f"NOT converged: {problems[0]}" + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")


def _p_in_words(predictive: dict) -> str:
    """The smallest p that so many replications can give is a bound."""
    p_value, least = predictive["p_value"], 1 / (predictive["replications"] + 1)
    return f"p below {least:.2g}" if p_value <= 1.01 * least else f"p {p_value:.2g}"


def _far(entry: dict, key: str, prior: dict) -> bool:
    return abs(math.log(entry["parameters"][key]["median"] / prior["median"])) > 3 * prior["sd_of_ln"]


def describe(content: Mapping[str, Any]) -> list[str]:
    """The lines that `diffcr spectrum` prints."""
    data, like = content["data"], content["likelihood"]
    bins = sum(data["fitted"])
    out = [
        f"spectrum         l = {data['l_low'][0]} to {data['l_high'][-1]} in {len(data['l_low'])} bins, {bins} fitted",
        f"errors           {like['errors_given']}",
        f"likelihood       {like['name']}: {like['reason']}; scatter of random skies {like['sample_variance']}",
        f"dipole           {content['dipole']['treatment']}",
    ]
    for name, entry in content["models"].items():
        out.append(f"\n{name}: {entry['description']}; predictive {_p_in_words(entry['predictive'])}")
        for key, found in entry["parameters"].items():
            (low, high), (lowest, highest) = found["equal_tailed_68"], found["equal_tailed_95"]
            mark = "  (as in the prior)" if found["prior_dominated"] else ""
            out.append(
                f"  {key:<15}{found['median']:.3g}, 68 %: {low:.3g} to {high:.3g}, 95 %: {lowest:.3g} to {highest:.3g}"
                f"{mark}"
            )
    out += [f"\n{name}: not fitted: {reason}" for name, reason in content["not_run"].items()]
    if len(content["models"]) < 2:
        return out
    out.append("\nleave one out    elpd, and difference to the best")
    for row in content["comparison"]["models"]:
        off = "" if row["verdict"] == "best" else f"{row['difference']:+.1f} +- {row['difference_error']:.1f}, "
        out.append(f"  {row['name']:<15}{row['elpd']:.1f} +- {row['standard_error']:.1f}  {off}{row['verdict']}")
    out.append(f"  {content['comparison']['note']}")
    return out


# Files --------------------------------------------------------------------------------------------------


def write_spectrum(
    task: Task, fits: Mapping[str, Fit], not_run: Mapping[str, str], plan: Plan, folder: Path, pictures: bool = True
) -> dict[str, Any]:
    """Write spectrum.json, posterior_MODEL.nc and the pictures into an existing folder; returns the summary."""
    content = summary(task, fits, not_run, plan)
    old = [*folder.glob("posterior_*.nc"), *folder.glob("corner_*.png"), *folder.glob("power.png")]
    with together(folder) as part:
        for name, fit in fits.items():
            write_netcdf(part / f"posterior_{name}.nc", tree(to_arviz(fit)))
        if pictures:
            for name, figure in figures(task, fits).items():
                plots.save(figure, part / f"{name}.png")
        write_json(part / "spectrum.json", content)
        new = {path.name for path in part.iterdir()}
    for path in old:
        if path.name not in new:
            path.unlink(missing_ok=True)
    return content


def figures(task: Task, fits: Mapping[str, Fit]) -> dict[str, Figure]:
    """The data with what each model foretells, and the posterior of each model."""
    from . import posterior_plots
    from .small_scale_plots import power_fit

    spectrum = task.spectrum
    low, high = np.array(spectrum.low), np.array(spectrum.high)
    error = np.sqrt(spectrum.variance + spectrum.sample_error**2)
    bands = {name: _predicted(task, fit) for name, fit in fits.items()}
    noise = spectrum.noise if np.any(spectrum.noise > 0) else None
    edges = (low, high) if np.any(high > low) else None
    fitted = None if np.all(task.fitted) else task.fitted
    out = {
        "power": power_fit(
            np.sqrt(low * high) if edges else low,
            spectrum.power,
            error,
            bands,
            edges=edges,
            noise=noise,
            fitted=fitted,
            label="Data, noise and scatter of random skies" if np.any(spectrum.sample_error > 0) else "Data",
        )
    }
    for name, fit in fits.items():
        shown = {key: _shown(fit, key, drawn) for key, drawn in fit.values.items()}
        before = {key: _shown(fit, key, drawn) for key, drawn in fit.prior.items()}
        moving = {key: drawn for key, drawn in shown.items() if np.ptp(drawn) > 0}
        if next(iter(moving.values())).size >= posterior_plots.LEAST_DRAWS:
            out[f"corner_{name}"] = posterior_plots.corner(
                moving,
                {key: _axis(fit, key) for key in moving},
                prior={key: before[key] for key in moving},
                dominated=[key for key in moving if fit.diagnostics[key]["prior_dominated"]],
            )
    return out


def _predicted(task: Task, fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median and 68 % of what a measurement would find in every bin, fitted or not."""
    points = fit.points.reshape(-1, fit.points.shape[-1])
    points = points[np.unique(np.linspace(0, len(points) - 1, 1000).astype(int))]
    random, aligned = (np.asarray(band_power(task.spectrum, each)) for each in powers(fit.problem, points))
    drawn = replicate(task.spectrum, task.kind, np.random.default_rng(fit.plan.seed), random, aligned)
    median, low, high = np.quantile(drawn, [0.5, 0.16, 0.84], axis=0)
    return median, low, high


def _logarithmic(fit: Fit, key: str) -> bool:
    return fit.problem.model.priors[key].kind.startswith("log")


def _shown(fit: Fit, key: str, drawn: np.ndarray) -> np.ndarray:
    return np.log10(drawn) if _logarithmic(fit, key) else drawn


_SYMBOLS = {
    "C_1": "C_1",
    "C_2": "C_2",
    "C_1_aligned": r"C_1^\parallel",
    "depth": r"\nu T",
    "end": r"\ell_\mathrm{end}",
    "slope": "p",
    "index": "q",
    "floor": "h",
    "width": "w",
    "strength": "s",
    "centre": r"\mu_c",
}


def _axis(fit: Fit, key: str) -> str:
    symbol = _SYMBOLS.get(key, key)
    return rf"$\log_{{10}} {symbol}$" if _logarithmic(fit, key) else f"${symbol}$"
