"""Scans of simulation-based calibration: coverage, ranks and pulls against models, priors, sites and events."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_sample import MODEL_SETTINGS, prior_setting, priors_of


class Calibrate(Task):
    """`diffcr calibrate` at each point, one after the other; settings are also all priors, such as prior.scale.

    Data sets of a point are sampled side by side; each point compiles its own sampler.
    """

    name = "calibrate"
    best = ("holm_p", "largest")
    settings = MODEL_SETTINGS | catalogue(
        Setting("site", tuple, ("HAWC",), long_name="Observatories", of=str),
        Setting("rate_concentration", float, 200.0, "", "Concentration of the rates", above=0),
        Setting("power", float, 1.0, "", "Power of cos(zenith) of the acceptance"),
        Setting("events", float, 2e5, "", "Events of each observatory", above=0),
        Setting("sets", int, 300, "", "Simulated data sets", low=1),
        Setting("grid", str, "36x18", long_name="Right-ascension bins x declination rings"),
        Setting("seed", int, 0, "", "Seed", low=0),
    )

    def setting(self, name: str, settings: Mapping[str, Any] | None = None) -> Setting:
        """A setting of calibration, or a prior of the model that the other settings name."""
        if not name.startswith("prior."):
            return super().setting(name, settings)
        model = (settings or {}).get("model", self.settings["model"].default)
        return prior_setting(self.name, name, self.settings["model"].check(model))

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a point; see `Task.complete`."""
        full = super().complete(settings)
        return full | {"site": list(full["site"])}

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse unknown sites, grids and improper priors."""
        from diffcr.site import site

        from .cli_options import grid_of

        grid_of(settings["grid"])
        for name in settings["site"]:
            site(name)
        _specification(settings)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points that differ in priors, numbers of events or seeds alone."""
        return json.dumps([settings[name] for name in ("model", "lmax", "site", "grid", "sets")])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Calibrations of all points, equal to `diffcr calibrate`."""
        out: list[xr.Dataset | str] = []
        for each in settings:
            try:
                out.append(calibration_dataset(_calibrated(each)))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Two chains of ten data sets side by side."""
        return 2 * OVERHEAD


def _specification(settings: Mapping[str, Any]):
    from .specification import Specification

    return Specification(settings["model"], settings["lmax"], priors_of(settings), settings["rate_concentration"])


def _calibrated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What calibration.json holds."""
    from diffcr.detector import acceptance
    from diffcr.site import site

    from .cli_options import grid_of
    from .cli_posterior import calibration_problems
    from .sbc import calibrate

    cells, sites = grid_of(settings["grid"]), [site(name) for name in settings["site"]]
    samples = max(4, -(-4 * 180 // cells.n_ring))
    options = {"power": settings["power"], "subdivide": samples, "profile": "triangle"}
    accepted = [np.asarray(acceptance(each, cells, **options)) for each in sites]
    spec, numbers = _specification(settings), (settings["events"], settings["sets"], settings["seed"])
    content = calibrate(spec, sites, accepted, cells, *numbers).to_dict()
    problems = calibration_problems(content)
    return content | {"calibrated": not problems, "problems": problems}


_COLUMNS = {
    "coverage_68": ("Coverage of the 68 % interval", "coverage_68_error"),
    "coverage_95": ("Coverage of the 95 % interval", "coverage_95_error"),
    "pull_mean": ("Mean pull", "pull_mean_error"),
    "pull_mean_error": ("Error of the mean pull", ""),
    "pull_width": ("Width of the pulls", ""),
    "chi2_p": ("p of flat ranks, chi2", ""),
    "ks_p": ("p of flat ranks, Kolmogorov-Smirnov", ""),
    "r_hat_max": ("Largest R-hat", ""),
    "ess_mean": ("Mean effective samples", ""),
}


def calibration_dataset(content: Mapping[str, Any]) -> xr.Dataset:
    """A calibration as one point of a scan; `converged` says whether it is calibrated, as far as its sets can tell."""
    quantities = content["quantities"]
    data = {
        name: variable([_value(row, name) for row in quantities.values()], title, error=error, dims=("quantity",))
        for name, (title, error) in _COLUMNS.items()
    }
    for level, share in (("68", 0.6827), ("95", 0.95)):
        # Of the share itself: that of the counted one is none where all intervals hold the truth.
        width = float(np.sqrt(share * (1 - share) / content["sets"]))
        values = np.full(len(quantities), width)
        title = f"Error of the coverage of the {level} % interval"
        data[f"coverage_{level}_error"] = variable(values, title, dims=("quantity",))
    kinds = [row["kind"] for row in quantities.values()]
    data |= {
        "kind": variable(np.array(kinds, str), "Kind of the quantity", dims=("quantity",)),
        "converged": variable(content["calibrated"], "Whether it is calibrated"),
        "problems": variable("; ".join(content["problems"]), "What is beyond chance"),
        "holm_p": variable(content["holm_p_sky_and_hyper"], "Smallest p of the ranks, corrected for their number"),
        "sets": variable(content["sets"], "Simulated data sets"),
        "divergences": variable(content["divergences"], "Divergent trajectories"),
        "share_converged": variable(content["share_r_hat_below_1.05"], "Share of sets whose chains agree"),
        "coverage_68_least": variable(content["coverage_68"][0], "Least coverage of the 68 % intervals"),
        "coverage_95_least": variable(content["coverage_95"][0], "Least coverage of the 95 % intervals"),
    }
    names = np.array(list(quantities), str)
    return xr.Dataset(data, {"quantity": ("quantity", names, {"long_name": "quantity"})})


def _value(row: Mapping[str, Any], name: str) -> float:
    return float("nan") if row[name] is None else row[name]
