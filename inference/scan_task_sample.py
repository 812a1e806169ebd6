"""Scans of posteriors: mean, spread and intervals of every parameter, convergence, and predictive density."""

import functools
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .nearest import require_known
from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_counts import BINNING, cells_of, counts_of, require_binning

MODEL_NAMES = ("dipole", "multipoles", "local-field", "small-scale")

_WORDS = ("power", "transport", "template", "profile", "relaxation")
"""Priors that are words, or the name of a file."""

MODEL_SETTINGS = catalogue(
    Setting("model", str, "dipole", long_name="Model", choices=MODEL_NAMES),
    Setting("lmax", int, None, "", "Highest degree", low=1),
)


class Prior(Setting):
    """A prior of a model: a number, several, or a word such as cascade, lsr or the name of a file."""

    def _one(self, value: Any, kind: type) -> Any:
        if isinstance(value, str):
            return value
        return super()._one(value, float)


def prior_setting(task: str, name: str, model: str) -> Setting:
    """The setting prior.NAME of a model.

    Raises:
        InputError: If the model has no such prior.
    """
    known = [f"prior.{each}" for each in prior_names(model)]
    require_known(name, known, f"{task} of the model {model} has no setting")
    own = name.removeprefix("prior.")
    units = "km/s" if own in ("velocity", "velocity_spread") else ""
    title = f"Prior {own.replace('_', ' ')}"
    if own in _WORDS:
        return Setting(name, str, None, units, title, path=own == "template")
    # One number makes an axis; several come as a list.
    return Prior(name, tuple if own in _SEVERAL else float, None, units, title)


_SEVERAL = (
    "velocity",
    "perpendicular",
    "spectral_index",
    "profile_scale",
    "depth",
    "end",
    "index",
    "floor",
    "width",
    "strength",
    "centre",
)


@functools.cache
def prior_names(model: str) -> tuple[str, ...]:
    """Names of the priors of a model."""
    from .specification import _DERIVED, MODELS

    return tuple(name for name in inspect.signature(MODELS[model]).parameters if name not in {*_DERIVED, "rates"})


def priors_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Priors as `Specification` takes them, from settings prior.NAME; a template is read.

    Raises:
        InputError: If a value suits no prior.
    """
    from .cli_posterior import parse_priors, with_template

    entries = []
    for name, value in sorted(settings.items()):
        if name.startswith("prior.") and value is not None:
            several = value if isinstance(value, list) else [value]
            text = ",".join(each if isinstance(each, str) else repr(each) for each in several)
            entries.append(f"{name.removeprefix('prior.')}={text}")
    return with_template(parse_priors(entries), settings["lmax"])


class Sample(Task):
    """`diffcr sample` at each point, one after the other; settings are also all priors, such as prior.scale.

    Each point compiles its own sampler. Chains that have not converged have a result that says so.
    """

    name = "sample"
    needs = "events"
    best = ("elpd", "largest")
    settings = (
        MODEL_SETTINGS
        | catalogue(
            Setting("rates", str, "sampled", long_name="Rates", choices=("sampled", "laplace")),
            Setting("rate_concentration", float, 1.0, "", "Concentration of the rates", above=0),
            Setting("acceptance_prior", str, None, long_name="Prior of the acceptance", path=True, words=("known",)),
            Setting("chains", int, 4, "", "Chains", low=1),
            Setting("warmup", int, 500, "", "Steps of adaptation", low=20),
            Setting("draws", int, 1000, "", "Draws of each chain", low=4),
            Setting("seed", int, 0, "", "Seed", low=0),
            Setting("target_accept", float, None, "", "Acceptance aimed at", above=0, high=1),
            Setting("max_tree_depth", int, 10, "", "Depth of the trajectories", low=1),
            Setting("leave_one_ring_out", bool, False, "", "Predictive density"),
        )
        | BINNING
    )

    def setting(self, name: str, settings: Mapping[str, Any] | None = None) -> Setting:
        """A setting of sampling, or a prior of the model that the other settings name."""
        if not name.startswith("prior."):
            return super().setting(name, settings)
        model = (settings or {}).get("model", self.settings["model"].default)
        return prior_setting(self.name, name, self.settings["model"].check(model))

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse contradictory cuts and improper priors."""
        require_binning(settings)
        specification_of(settings)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points that differ in priors, cuts or seeds alone, whose samplers are alike."""
        shapes = ("model", "lmax", "rates", "rate_bins", "grid", "epochs", "energy_edges", "chains", "max_tree_depth")
        return json.dumps([settings[name] for name in shapes])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Posteriors of all points, as `diffcr sample` gives them."""
        out: list[xr.Dataset | str] = []
        for each in settings:
            try:
                out.append(_sampled(source, each))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Draws of all rates, twice, beside the program and the counts."""
        rates = settings["rate_bins"] or 360
        draws = settings["chains"] * (settings["draws"] + settings["warmup"])
        return 2 * OVERHEAD + 8 * (3 * draws * (rates + 50) + 100 * cells_of(source, settings))


def specification_of(settings: Mapping[str, Any]) -> Any:
    """The `Specification` of a point.

    Raises:
        InputError: If priors are improper or contradictory.
    """
    from .specification import Specification

    return Specification(
        settings["model"],
        settings["lmax"],
        priors_of(settings),
        settings["rate_concentration"],
        settings["rate_bins"],
        settings["rates"],
    )


def _sampled(source: Source, settings: Mapping[str, Any]) -> xr.Dataset:
    from .cli_posterior import with_acceptance_prior
    from .posterior import sample_likelihood
    from .posterior_report import _leave_one_out
    from .sampler import Plan
    from .summary import summarise

    spec, counts = specification_of(settings), counts_of(source, settings)
    numbers = {name: settings[name] for name in ("chains", "warmup", "draws", "seed", "max_tree_depth")}
    plan = Plan(**numbers, target_accept=settings["target_accept"] or spec.target_accept)
    kind = settings["acceptance_prior"]
    sky = spec.likelihood(counts) if kind is None else with_acceptance_prior(spec, counts, kind)
    posterior = sample_likelihood(counts, sky, spec, plan)
    left_out = _leave_one_out(posterior, counts, sky) if settings["leave_one_ring_out"] else {}
    return posterior_dataset(summarise(posterior), left_out)


COLUMNS = {
    "mean": ("Posterior mean", "sd"),
    "sd": ("Posterior standard deviation", ""),
    "hdi_68_low": ("Lower end of the 68 % interval", ""),
    "hdi_68_high": ("Upper end of the 68 % interval", ""),
    "hdi_95_low": ("Lower end of the 95 % interval", ""),
    "hdi_95_high": ("Upper end of the 95 % interval", ""),
    "r_hat": ("R-hat", ""),
    "ess_bulk": ("Effective samples, bulk", ""),
    "ess_tail": ("Effective samples, tail", ""),
    "prior_distance": ("Distance of posterior and prior", ""),
}
"""What stands for each parameter: name -> (long name, name of the error)."""

_MAIN = {
    "delta_0h": ("Dipole towards 0 h, delta_0h", ""),
    "delta_6h": ("Dipole towards 6 h, delta_6h", ""),
    "delta_N": ("Dipole towards North, delta_N", ""),
    "amplitude": ("Equatorial dipole amplitude", ""),
    "right_ascension_deg": ("Right ascension of the dipole", "deg"),
}
"""Parameters that also stand alone, with their standard deviations."""


def posterior_dataset(content: Mapping[str, Any], left_out: Mapping[str, Any]) -> xr.Dataset:
    """A posterior as one point of a scan: what summary.json and loo.json hold, times apart.

    Args:
        content: What `summarise` gave.
        left_out: elpd, standard_error, p_loo and unreliable of leaving out rings; empty where not asked for.
    """
    parameters = content["parameters"]
    rows = [_row(entry) for entry in parameters.values()]
    data = {
        name: variable([row[name] for row in rows], *words[:1], error=words[1], dims=("parameter",))
        for name, words in COLUMNS.items()
    }
    for name, (title, units) in _MAIN.items():
        entry = parameters.get(name, {})
        data[name] = variable(_number(entry.get("mean")), f"{title}, posterior mean", units, f"{name}_sd")
        data[f"{name}_sd"] = variable(_number(entry.get("sd")), f"{title}, standard deviation", units)
    rates = content["rates"] or {}
    alone = {
        "converged": (content["converged"], "Whether the chains agree"),
        "verdict": (content["verdict"], "Verdict"),
        "num_events": (content["num_events"], "Events"),
        "effective_events": (content["effective_events"], "Effective events"),
        "divergences": (content["divergences"], "Divergent trajectories"),
        "mean_steps": (content["mean_steps"], "Steps of a trajectory"),
        "r_hat_max": (max(row["r_hat"] for row in rows), "Largest R-hat"),
        "ess_min": (min(min(row["ess_bulk"], row["ess_tail"]) for row in rows), "Fewest effective samples"),
        "rates_r_hat_max": (rates.get("r_hat_max"), "Largest R-hat of the rates"),
        "elpd": (left_out.get("elpd"), "Expected log predictive density of the rings"),
        "elpd_error": (left_out.get("standard_error"), "Error of the predictive density"),
        "p_loo": (left_out.get("p_loo"), "Effective parameters"),
        "unreliable_rings": (len(left_out["unreliable"]) if left_out else None, "Rings whose weights fail"),
    }
    data |= {
        name: variable(_number(value), title, error="elpd_error" if name == "elpd" else "")
        for name, (value, title) in alone.items()
    }
    names = np.array(list(parameters), str)
    return xr.Dataset(data, {"parameter": ("parameter", names, {"long_name": "parameter"})})


def _row(entry: Mapping[str, Any]) -> dict[str, float]:
    out = {name: _number(entry.get(name)) for name in COLUMNS if not name.startswith("hdi")}
    for level in ("hdi_68", "hdi_95"):
        low, high = entry.get(level) or (None, None)
        out |= {f"{level}_low": _number(low), f"{level}_high": _number(high)}
    return out


def _number(value: Any) -> Any:
    return math.nan if value is None else value
