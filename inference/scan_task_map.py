"""Scans of maps: hottest and coldest spots, their significance and place, and the dipole of the map."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_counts import BINNING, cells_of, counts_of, options_of, reader_of, require_binning
from .scan_task_fit import numbers_of

_METHODS = ("ml", "iterative", "wiener")

_SKIES = 200
"""Isotropic skies with smoothing, unless a number is given."""


class Map(Task):
    """`diffcr map` at each point, one after the other: no pixels are kept, but what stands out in them."""

    name = "map"
    needs = "events"
    best = ("hottest_significance", "largest")
    batch = 4
    settings = catalogue(
        Setting("method", str, "ml", long_name="Method", choices=_METHODS),
        Setting("iterations", int, 20, "", "Passes of the iterative method", low=1),
        Setting("lmax", int, None, "", "Highest degree", low=1),
        Setting("prior_cl", tuple, None, "", "Prior C_l from l = 2"),
        Setting("psf", tuple, None, long_name="Point spread", of=str, path=True),
        Setting("cells", str, None, long_name="Bins x rings of a cell"),
        Setting("smoothing", float, None, "deg", "Radius of the discs", above=0, high=179.999),
        Setting("remove_lmax", int, 0, "", "Degree of the multipoles removed", low=0),
        Setting("skies", int, None, "", "Isotropic skies", low=0),
        Setting("seed", int, 0, "", "Seed", low=0),
        Setting("threshold", float, 3.0, "sigma", "Least significance of the excesses"),
        Setting("nside", int, 64, "", "Resolution of the map", low=1, high=1024),
        Setting("systematics", bool, False, "", "Systematic errors"),
    ) | dict(BINNING)

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse what does not go together, as the command does."""
        s = settings
        for name in ("lmax", "prior_cl", "psf"):
            if s[name] is not None and s["method"] != "wiener":
                raise InputError(
                    f'{name} has no effect with method {s["method"]}; set method = "wiener", or leave it out'
                )
        if s["skies"] and s["smoothing"] is None:
            raise InputError("skies judge discs: give their radius with smoothing")
        if s["nside"] & (s["nside"] - 1):
            raise InputError(f"nside must be a power of two from 1 to 1024, not {s['nside']}")
        require_binning(s)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points of equal method, grid and cells."""
        shapes = ("method", "lmax", "grid", "cells", "rate_bins", "epochs", "energy_edges", "remove_lmax", "smoothing")
        return json.dumps([settings[name] for name in shapes])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Maps of all points, equal to `diffcr map`."""
        out: list[xr.Dataset | str] = []
        for each in settings:
            try:
                out.append(map_dataset(_mapped(source, each)))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Isotropic skies, the map and its solver, in 64-bit floats."""
        cells = cells_of(source, settings)
        return OVERHEAD + 8 * cells * (100 + 2 * (settings["lmax"] or 0) ** 2) + 8 * 12 * settings["nside"] ** 2 * 10


def _mapped(source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What map.json holds, times apart."""
    from .cli_map import _FEWEST_EVENTS, _analysed, _fitted
    from .map_report import dipole_of, map_summary

    s = settings
    counts = counts_of(source, s)
    if counts.effective_events < _FEWEST_EVENTS:
        raise InputError(
            f"{counts.effective_events:.3g} effective events are too few for a map; give at least {_FEWEST_EVENTS}"
        )
    prior = None if s["prior_cl"] is None else ",".join(map(repr, s["prior_cl"]))
    sky, power = _fitted(counts, s["method"], s["iterations"], s["lmax"], prior, s["psf"], s["cells"], s["rate_bins"])
    analysis = _analysed(sky, power, s["nside"], s["smoothing"], s["remove_lmax"], 0, s["seed"], s["threshold"], None)
    number = _SKIES if s["skies"] is None else s["skies"]
    if s["smoothing"] is not None and number:
        analysis = _judged(analysis, number, s["seed"])
    block = _systematics(dipole_of(analysis), counts, source, s) if s["systematics"] else None
    return map_summary(analysis, 0.0, block)


def _judged(analysis, number: int, seed: int):
    """The analysis with post-trial significances: the command draws the same skies, behind a progress bar."""
    from .discs import DiscScan
    from .post_trial import PostTrial, isotropic_maxima

    sky, discs, null = analysis.sky, analysis.discs, analysis.null
    scan = DiscScan(sky.seen, sky.grid, discs.radius, None if null is None else null.basis)
    high, low = isotropic_maxima(scan, number, np.random.default_rng(seed))
    return dataclasses.replace(
        analysis,
        hottest=PostTrial(float(np.nanmax(discs.significance)), high),
        coldest=PostTrial(float(np.nanmin(discs.significance)), -low),
    )


def _systematics(dipole, counts, source: Source, settings: Mapping[str, Any]) -> dict:
    from .control_runs import Source as Reading
    from .control_runs import systematics_of

    reading = Reading(source.inputs, source.site, reader_of(source, settings), options_of(settings))
    return systematics_of(counts, reading, settings["gamma"])(dipole)


def map_dataset(content: Mapping[str, Any]) -> xr.Dataset:
    """A map as one point of a scan: the numbers of map.json. Directions are NaN while the counts are blinded."""
    dipole = content["dipole"]
    # The iterative method does not ask whether it has converged.
    data = numbers_of(content | {"converged": content["converged"] is not False}, _SCALARS)
    data |= numbers_of(dipole, _DIPOLE)
    covariance = dipole["covariance"]
    errors = np.full(2, np.nan) if covariance is None else np.sqrt(np.diag(np.asarray(covariance, float)))
    data |= {f"delta_{n}_error": variable(e, f"Error of delta_{n}") for n, e in zip(("0h", "6h"), errors, strict=True)}
    for kind in ("hottest", "coldest"):
        data |= _spot(kind, content[kind] or {})
    data["excesses"] = variable(len(content["excesses"]), "Excesses above the threshold")
    data["deficits"] = variable(len(content["deficits"]), "Deficits below the threshold")
    block = content.get("systematics") or {}
    if block.get("total_covariance") is not None:
        total = np.sqrt(np.diag(np.asarray(block["total_covariance"])))[:2]
        names = zip(("0h", "6h"), total, strict=True)
        data |= {f"delta_{n}_total_error": variable(e, f"Total error of delta_{n}") for n, e in names}
    data["notes"] = variable("; ".join(content["notes"]), "What a reader must know")
    return xr.Dataset(data)


def _spot(kind: str, spot: Mapping[str, Any]) -> dict[str, tuple]:
    trial = spot.get("post_trial") or {}
    words = {
        "significance": ("pre-trial significance", "sigma", ""),
        "right_ascension_deg": ("right ascension", "deg", ""),
        "declination_deg": ("declination", "deg", ""),
        "contrast": ("relative intensity minus 1", "", f"{kind}_contrast_error"),
        "contrast_error": ("error of the relative intensity", "", ""),
    }
    after = {
        "log10_p": ("log10 of the post-trial p-value", ""),
        "significance_sigma_one_sided": ("post-trial significance, one-sided", "sigma"),
        "chance_probability": ("share of isotropic skies as strong", ""),
    }
    number = lambda value: math.nan if value is None else value
    out = {
        f"{kind}_{name}": variable(number(spot.get(name)), f"{kind.capitalize()} spot: {title}", units, error)
        for name, (title, units, error) in words.items()
    }
    return out | {
        f"{kind}_post_trial_{name}": variable(number(trial.get(name)), f"{kind.capitalize()} spot: {title}", units)
        for name, (title, units) in after.items()
    }


_SCALARS = {
    "num_events": ("Events", "", ""),
    "sum_weights": ("Sum of weights", "", ""),
    "effective_events": ("Effective events", "", ""),
    "mean_epoch": ("Mean epoch", "yr", ""),
    "median_expectation_per_cell": ("Events expected in a median cell", "", ""),
    "sky_fraction": ("Share of the sky", "", ""),
    "converged": ("Whether the map is at its maximum", "", ""),
    "remaining_gain": ("Gain in ln L that is left", "", ""),
    "iterations": ("Steps", "", ""),
    "gradient_steps": ("Conjugate-gradient steps", "", ""),
    "log_likelihood_over_isotropy": ("ln L over that of isotropy", "", ""),
    "test_statistic": ("Test statistic", "", ""),
    "degrees_of_freedom": ("Degrees of freedom", "", ""),
    "log10_p": ("log10 of the p-value", "", ""),
    "significance_sigma": ("Significance", "sigma", ""),
}

_DIPOLE = {
    "delta_0h": ("Dipole of the map towards 0 h, delta_0h", "", "delta_0h_error"),
    "delta_6h": ("Dipole of the map towards 6 h, delta_6h", "", "delta_6h_error"),
    "amplitude": ("Equatorial dipole amplitude of the map", "", "amplitude_error"),
    "amplitude_error": ("Error of the amplitude", "", ""),
    "right_ascension_deg": ("Right ascension of the dipole of the map (J2000)", "deg", "right_ascension_error_deg"),
    "right_ascension_error_deg": ("Error of the right ascension", "deg", ""),
}
