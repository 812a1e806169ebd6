"""Scans of the fit: dipole, multipoles, test statistic and their errors against cuts, degree, grid and priors."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .fit import FitResult
from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_counts import BINNING, EXPOSURE, cells_of, counts_of, options_of, reader_of, require_binning
from .scan_task_fit_many import FitJob, fit_many

_SHARED = ("grid", "lmax", "rate_bins", "epochs", "energy_edges", "exposure")
"""Settings that change the shapes of a fit, and so its program."""

_INTENSITY = "relative intensity"


class Fit(Task):
    """`diffcr fit` at each point.

    Event lists are binned once for each set of cuts. Points of equal shape share one compiled program, whichever rings
    of the sky they see; on accelerators they run side by side. Fits that do not converge have a result that says so.
    """

    name = "fit"
    needs = "events"
    best = ("test_statistic", "largest")
    batch = 8
    settings = catalogue(
        Setting("lmax", int, 1, "", "Highest degree", low=1),
        EXPOSURE,
        Setting("prior_cl", tuple, None, "", "Prior C_l from l = 2"),
        Setting("systematics", bool, False, "", "Systematic errors"),
    ) | dict(BINNING)

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse contradictory cuts, and a prior that would have no effect."""
        if settings["prior_cl"] is not None and settings["lmax"] == 1:
            raise InputError("prior_cl has no effect on the dipole, whose prior is flat; raise lmax, or leave it out")
        require_binning(settings)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for fits of equal degree, grid and numbers of configurations and rates."""
        return json.dumps([settings[name] for name in _SHARED])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Fits of all points; equal to `diffcr fit` to rounding."""
        out: list[Any] = []
        for each in settings:
            try:
                out.append(_job(source, each))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        jobs = [each for each in out if isinstance(each, FitJob)]
        found = iter(fit_many(jobs))
        for k, each in enumerate(out):
            if isinstance(each, FitJob):
                out[k] = _result(next(found), source, settings[k])
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Counts, the sky's basis in each cell and its moments, in 64-bit floats; several copies."""
        params = settings["lmax"] * (settings["lmax"] + 1)
        return OVERHEAD + 8 * cells_of(source, settings) * (40 + 8 * params)


def _job(source: Source, settings: Mapping[str, Any]) -> FitJob:
    from .cli_options import known_exposure

    counts = counts_of(source, settings)
    return FitJob(
        counts,
        settings["lmax"],
        known_exposure(settings["exposure"], counts),
        settings["prior_cl"],
        settings["rate_bins"],
    )


def _result(found: FitResult | Exception, source: Source, settings: Mapping[str, Any]) -> xr.Dataset | str:
    if isinstance(found, Exception):
        return message_of(found)
    try:
        return fit_dataset(found, _systematics(found, source, settings) if settings["systematics"] else None)
    except (InputError, FitError) as error:
        return message_of(error)


def _systematics(found: FitResult, source: Source, settings: Mapping[str, Any]) -> dict | None:
    from .control_runs import Source as Reading
    from .control_runs import systematics_of

    reading = Reading(source.inputs, source.site, reader_of(source, settings), options_of(settings))
    block = systematics_of(found.counts, reading, settings["gamma"])
    return block(found) if found.converged else None


def fit_dataset(found: FitResult, systematics: dict | None = None) -> xr.Dataset:
    """A fit as one point of a scan: the numbers of fit.json. Directions are NaN while the counts are blinded.

    Args:
        found: The fit.
        systematics: The block of that name, which adds the total errors of the dipole.
    """
    from .report import fit_summary

    content = fit_summary(found)
    content["rate_bins"] = min(row["rate_bins"] for row in content["configurations"])
    content["dead_bins"] = sum(row["dead_bins"] for row in content["configurations"])
    data = numbers_of(content, _SCALARS) | numbers_of(content["dipole"], _DIPOLE)
    data |= _errors("delta_", found.dipole.covariance, content["blinded"], "")
    if systematics is not None and systematics.get("total_covariance") is not None:
        total = np.asarray(systematics["total_covariance"])
        data |= _errors("delta_", total, content["blinded"], "_total")
    rayleigh = content["rayleigh"]
    data |= numbers_of({f"rayleigh_{k}": rayleigh[k] for k in rayleigh if k != "note"}, _RAYLEIGH)
    square = _square(found)
    names = {"multipole": content["multipoles"]["value"], "multipole_error": content["multipoles"]["error"]}
    for name, values in names.items():
        error = "multipole_error" if name == "multipole" else ""
        title = "Real multipoles of the relative intensity" if not name.endswith("error") else "Error of the multipoles"
        data[name] = variable(square(values), title, error=error, dims=("degree", "order"))
    coords = {
        "degree": ("degree", np.arange(1, found.l_max + 1), {"long_name": "degree l"}),
        "order": ("order", np.arange(-found.l_max, found.l_max + 1), {"long_name": "order m"}),
    }
    return xr.Dataset(data, coords)


def _errors(stem: str, covariance: np.ndarray, hidden: bool, suffix: str) -> dict[str, tuple]:
    """Standard errors of delta_0h and delta_6h and their correlation; NaN while these are hidden or unknown."""
    good = not hidden and np.isfinite(covariance).all() and np.all(np.diag(covariance)[:2] > 0)
    errors = np.sqrt(np.diag(covariance)[:2]) if good else np.full(2, np.nan)
    what = "total error" if suffix else "error"
    return {
        f"{stem}0h{suffix}_error": variable(errors[0], f"{what.capitalize()} of delta_0h"),
        f"{stem}6h{suffix}_error": variable(errors[1], f"{what.capitalize()} of delta_6h"),
        f"{stem}correlation{suffix}": variable(
            covariance[0, 1] / np.prod(errors) if good else np.nan, f"Correlation of delta_0h and delta_6h ({what})"
        ),
    }


def _square(found: FitResult):
    """Values of the fitted multipoles on (degree, order), NaN where there is none."""

    def square(values) -> np.ndarray:
        out = np.full((found.l_max, 2 * found.l_max + 1), np.nan)
        if values is not None:
            out[found.degree - 1, found.order + found.l_max] = np.asarray(values, float)
        return out

    return square


def numbers_of(content: Mapping[str, Any], table: Mapping[str, tuple]) -> dict[str, tuple]:
    """Single numbers of a JSON result as variables; what is missing or null is NaN, truths stay what they are.

    Args:
        content: The result.
        table: Name -> (long name, unit, name of the error).
    """
    return {name: variable(_number(content.get(name)), *words) for name, words in table.items()}


def _number(value: Any) -> Any:
    return math.nan if value is None else value


_SCALARS = {
    "num_events": ("Events", "", ""),
    "sum_weights": ("Sum of weights", "", ""),
    "effective_events": ("Effective events", "", ""),
    "mean_epoch": ("Mean epoch", "yr", ""),
    "converged": ("Whether the fit is at its maximum", "", ""),
    "remaining_gain": ("Gain in ln L that is left", "", ""),
    "num_steps": ("Newton steps", "", ""),
    "condition": ("Condition of the information", "", ""),
    "livetime_inflation": ("Error of the dipole over that for even livetime", "", ""),
    "rate_bins": ("Free rates", "", ""),
    "dead_bins": ("Time bins without livetime", "", ""),
    "test_statistic": ("Test statistic", "", ""),
    "degrees_of_freedom": ("Degrees of freedom", "", ""),
    "log10_p": ("log10 of the p-value", "", ""),
    "significance_sigma": ("Significance", "sigma", ""),
}

_DIPOLE = {
    "delta_0h": ("Dipole towards 0 h, delta_0h (J2000)", "", "delta_0h_error"),
    "delta_6h": ("Dipole towards 6 h, delta_6h (J2000)", "", "delta_6h_error"),
    "delta_N": ("Dipole towards North, delta_N (J2000)", "", "delta_N_error"),
    "delta_N_error": ("Error of delta_N", "", ""),
    "amplitude": ("Equatorial dipole amplitude", "", "amplitude_error"),
    "amplitude_error": ("Error of the amplitude", "", ""),
    "amplitude_debiased": ("Amplitude, debiased", "", ""),
    "upper_limit_95": ("Upper limit of the amplitude, 95 %", "", ""),
    "upper_limit_99": ("Upper limit of the amplitude, 99 %", "", ""),
    "right_ascension_deg": ("Right ascension of the dipole (J2000)", "deg", "right_ascension_error_deg"),
    "right_ascension_error_deg": ("Error of the right ascension", "deg", ""),
}

_RAYLEIGH = {
    "rayleigh_amplitude": ("Amplitude of the first harmonic in RA", "", "rayleigh_amplitude_error"),
    "rayleigh_amplitude_error": ("Error of the first harmonic", "", ""),
    "rayleigh_phase_deg": ("Phase of the first harmonic (equator of date)", "deg", ""),
    "rayleigh_log10_p": ("log10 of the Rayleigh p-value", "", ""),
}
