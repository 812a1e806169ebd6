"""Scans of toys: test statistics, detection, pulls and coverage against events, dipoles, sites and cuts."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .files import finite
from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_counts import BINNING, counts_of, require_binning


class Expected(Setting):
    """Expected events: one number for all observatories, or a list with one each."""

    def check(self, value: Any) -> Any:
        """The number, or the list of numbers."""
        if isinstance(value, list | tuple):
            return [self._one(each, float) for each in value]
        return super().check(value)


class Toys(Task):
    """`diffcr toys` at each point, in memory: of known detectors (site, events), or of the detector of given data.

    The skies of a point are drawn and fitted side by side; points come one after the other. The true dipole is `dipole`
    or, for axes, `amplitude` and `right_ascension_deg`, in the equator of date.

    Points are independent of each other: the seed of the random numbers is made of `seed` and all other settings, and
    given as `seed_of_skies`, with which `diffcr toys` draws the same skies. With `own_seeds` = false it is `seed` at
    every point; points whose detectors are nearly the same then have partly the same fluctuations.
    """

    name = "toys"
    needs = "optional"
    best = ("median_test_statistic", "largest")
    settings = catalogue(
        Setting("site", tuple, None, long_name="Observatories", of=str),
        Expected("events", float, None, "", "Expected events", above=0),
        Setting("power", float, None, "", "Power of cos(zenith) of the acceptance"),
        Setting("weight_spread", float, None, "", "Spread of ln of the weights", low=0),
        Setting("toys", int, 10_000, "", "Skies", low=10),
        Setting("dipole", tuple, None, "", "True dipole (delta_0h, delta_6h)", choices=("fitted",)),
        Setting("amplitude", float, None, "", "True dipole amplitude", low=0, high=0.999),
        Setting("right_ascension_deg", float, None, "deg", "Right ascension of the true dipole"),
        Setting("seed", int, 0, "", "Seed", low=0),
        Setting("own_seeds", bool, True, long_name="A seed of its own for each point"),
        Setting("block", int, 1000, "", "Skies of one stream of random numbers", low=1),
    ) | dict(BINNING)

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse dipoles that are given twice or cannot be, and contradictory cuts."""
        truth_of(settings)
        require_binning(settings)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points of equal detectors and grids."""
        shapes = ("site", "grid", "rate_bins", "epochs", "energy_edges")
        return json.dumps([settings[name] for name in shapes])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Toys of all points, equal to `diffcr toys`."""
        out: list[xr.Dataset | str] = []
        for each in settings:
            try:
                out.append(_drawn(source, each))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Estimates of all skies, and a batch of them with its marginals."""
        return 1.5 * OVERHEAD + 100.0 * settings["toys"]


def truth_of(settings: Mapping[str, Any]) -> tuple[float, float] | str:
    """The true (delta_0h, delta_6h), or "fitted".

    Raises:
        InputError: If it is given twice, or is no two numbers.
    """
    given, amplitude, phase = (settings[name] for name in ("dipole", "amplitude", "right_ascension_deg"))
    if given is not None and (amplitude is not None or phase is not None):
        raise InputError("dipole and amplitude both give the true dipole; leave one out")
    if phase is not None and amplitude is None:
        raise InputError("right_ascension_deg has no effect without amplitude; give both, or leave it out")
    if given is None:
        angle = math.radians(phase or 0.0)
        return (amplitude or 0.0) * math.cos(angle), (amplitude or 0.0) * math.sin(angle)
    if given == ["fitted"]:
        return "fitted"
    if len(given) != 2 or "fitted" in given:
        raise InputError(f"dipole takes two numbers, or fitted, not {given}")
    return given[0], given[1]


def _drawn(source: Source, settings: Mapping[str, Any]) -> xr.Dataset:
    from .toys import toys
    from .toys_report import detection, summarise

    seed = seed_of(settings)
    plans, observed = _plans(source, settings | {"seed": seed})
    results = [toys(plan.replace(block=settings["block"])) for plan in plans]
    content = summarise(*(results if len(results) == 2 else [*results, None]), observed)
    statistics = {each.plan.kind: each.test_statistics[each.converged] for each in results}
    # A true dipole of zero is one of the amplitudes of a scan: its skies are the isotropic ones.
    found = toys_dataset(content | {"detection": finite(detection(results[-1]))}, statistics)
    return found.assign(seed_of_skies=variable(seed, "Seed of the skies, as of diffcr toys"))


def seed_of(settings: Mapping[str, Any]) -> int:
    """Seed of the skies of a point: below 2^52, so that it is exact where a scan has points without one."""
    if not settings["own_seeds"]:
        return settings["seed"]
    text = json.dumps(dict(settings), sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16)


def _plans(source: Source, settings: Mapping[str, Any]) -> tuple[list, Any]:
    from .cli_options import grid_of
    from .cli_toys import plans_of_data, plans_of_detectors

    s = settings
    grid = None if s["grid"] is None else grid_of(s["grid"])
    common = {name: s[name] for name in ("toys", "seed", "rate_bins")}
    if source.inputs:
        for name in ("site", "events", "power", "weight_spread"):
            if s[name] is not None:
                raise InputError(f"{name} has no effect with inputs; leave it out")
        # Data are fitted on their own grid, whatever that of the toys.
        return plans_of_data(counts_of(source, s | {"grid": None}), grid, truth_of(s), common)
    for name in BINNING:
        if s[name] not in (None, False) and name not in ("grid", "rate_bins"):
            raise InputError(f"{name} has no effect without inputs; leave it out")
    if s["site"] is None or s["events"] is None:
        raise InputError("there is nothing to draw from: give inputs, or site and events among the settings")
    expected = s["events"] if isinstance(s["events"], list) else [s["events"]]
    text = ",".join(map(repr, expected))
    return plans_of_detectors(s["site"], text, grid, truth_of(s), s["power"], s["weight_spread"], common), None


QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""At which test statistics are given."""


def toys_dataset(content: Mapping[str, Any], statistics: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Toys as one point of a scan: the numbers of toys.json, times apart.

    Args:
        content: What `toys_report.summarise` gave, and `detection` of the skies with the true dipole.
        statistics: Test statistics of converged fits by kind of the sky.
    """
    skies = [kind for kind in ("isotropic", "dipole") if content[kind] is not None]
    parts = [content[kind] for kind in skies]
    at = ("sky",)
    quantiles = np.array([np.quantile(statistics[kind], QUANTILES) for kind in skies])
    data = {
        "test_statistic": variable(quantiles, "Quantile of the test statistic", dims=(*at, "quantile")),
        "not_converged": variable([part["not_converged"] for part in parts], "Fits without a maximum", dims=at),
    }
    for name in ("delta_0h", "delta_6h"):
        own = [part["calibration"][name] for part in parts]
        for key, (title, error) in _COMPONENT.items():
            values = [_number(row[key]) for row in own]
            data[f"{name}_{key}"] = variable(values, f"{title} of {name}", "", f"{name}_{error}" if error else "", at)
        for level in ("68", "95"):
            title = f"Coverage of the {level} % interval of {name}"
            data[f"{name}_coverage_{level}"] = variable([r["coverage"][level]["share"] for r in own], title, dims=at)
    for level in ("95", "99"):
        held = [part["calibration"]["coverage_upper_limit"][level]["share"] for part in parts]
        data[f"coverage_upper_limit_{level}"] = variable(held, f"Coverage of the {level} % upper limit", dims=at)
    data |= _single(content)
    coords = {
        "sky": ("sky", np.array(skies, str), {"long_name": "sky"}),
        "quantile": ("quantile", np.array(QUANTILES), {"long_name": "quantile"}),
    }
    return xr.Dataset(data, coords)


_COMPONENT = {
    "bias": ("Bias", "bias_error"),
    "bias_error": ("Error of the bias", ""),
    "scatter": ("Scatter", ""),
    "mean_reported_error": ("Mean reported error", ""),
    "pull_mean": ("Mean pull", "pull_mean_error"),
    "pull_mean_error": ("Error of the mean pull", ""),
    "pull_width": ("Width of the pulls", "pull_width_error"),
    "pull_width_error": ("Error of the width of the pulls", ""),
}


def _single(content: Mapping[str, Any]) -> dict[str, tuple]:
    """What there is once for a point; NaN where there are no data."""
    null = content["isotropic"]["distribution"]
    found = content["detection"]
    data = content["observed"] or {}
    share = lambda name: (found.get(name) or {}).get("share")
    rows = {
        "mean_test_statistic": (
            null["mean"],
            "Mean test statistic of isotropic skies",
            "",
            "mean_test_statistic_error",
        ),
        "mean_test_statistic_error": (null["mean_error"], "Error of the mean test statistic", "", ""),
        "kolmogorov_smirnov_p": (null["kolmogorov_smirnov_p"], "p of chi-squared, Kolmogorov-Smirnov", "", ""),
        "median_test_statistic": (found.get("median_test_statistic"), "Median test statistic", "", ""),
        "median_significance_sigma": (found.get("median_significance_sigma"), "Median significance", "sigma", ""),
        "detection_3_sigma": (share("3_sigma"), "Share of skies found at 3 sigma", "", ""),
        "detection_5_sigma": (share("5_sigma"), "Share of skies found at 5 sigma", "", ""),
        "observed_test_statistic": (data.get("test_statistic"), "Test statistic of the data", "", ""),
        "p": (data.get("p"), "p-value of the data, from toys", "", ""),
        "p_low_95": (data.get("p_low_95"), "Lower end of the interval of p", "", ""),
        "p_high_95": (data.get("p_high_95"), "Upper end of the interval of p", "", ""),
        "log10_p_chi2": (data.get("log10_p_chi2"), "log10 of the p-value of the data, chi-squared", "", ""),
        "expected_events": (sum(row["events"] for row in content["configurations"]), "Expected events", "", ""),
        "converged": (content["converged"], "Whether the fits converged", "", ""),
    }
    out = {name: variable(_number(value), title, units, error) for name, (value, title, units, error) in rows.items()}
    return out | {"problems": variable("; ".join(content["problems"]), "What is beyond chance")}


def _number(value: Any) -> Any:
    return math.nan if value is None else value
