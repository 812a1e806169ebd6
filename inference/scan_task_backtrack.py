"""Scans of backtracked skies: C_l, noise and diffusion against turbulence, particles and the numbers of a run."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import FitError, InputError

from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable

_ANGLES = (0.0, 90.0)


class Backtrack(Task):
    """`diffcr backtrack` at each point, one after the other, with realisations in memory.

    `converged` is False where half the step gives other spectra.
    """

    name = "backtrack"
    best = ("noise_over_quadrupole", "smallest")
    settings = catalogue(
        Setting("realisations", int, 40, "", "Realisations", low=2),
        Setting("nside", int, 32, "", "Resolution of the sky", low=1),
        Setting("omega_t", float, 100.0, "1/Omega", "Time traced back", above=0),
        Setting("omega_step", float, 0.1, "1/Omega", "Step", above=0),
        Setting("samples", int, 10, "", "Times kept", low=1, high=900),
        Setting("sigma2", float, 1.0, "", "Strength of the turbulence <dB^2>/B_0^2", above=0),
        Setting("larmor_radius", float, 0.1, "L_c", "Larmor radius"),
        Setting("spectrum", str, "bend-over", long_name="Spectrum", choices=("bend-over", "power-law")),
        Setting("slope", float, 5 / 3, "", "Slope of P(k)"),
        Setting("lambda_min", float, 0.01, "L_c", "Smallest wavelength", above=0),
        Setting("lambda_max", float, None, "L_c", "Largest wavelength", above=0),
        Setting("field", str, "ladder", long_name="Sum of the waves", choices=("ladder", "plane", "grid")),
        Setting("size", int, None, "", "Directions, waves, or cells along a grid", low=1),
        Setting("geometry", str, "isotropic", "", "Geometry", choices=("isotropic", "slab", "2d", "composite")),
        Setting("slab_fraction", float, 0.2, "", "Share of the slab", low=0, high=1),
        Setting("helicity", float, 0.0, "", "Helicity", low=-1, high=1),
        Setting("precision", str, "single", "", "Precision", choices=("single", "double")),
        Setting("seed", int, 0, "", "Seed", low=0, high=2**32 - 1),
        Setting("gradient", tuple, _ANGLES, "deg", "Angles between gradient and B_0", low=0, high=180),
        Setting("step_check", int, 8, "", "Realisations with half the step", low=0),
        Setting("lmax", int, None, "", "Highest degree", low=2),
        Setting("data", str, None, long_name="Measured spectrum", path=True),
    )

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a point; see `Task.complete`."""
        full = super().complete(settings)
        return full | {"gradient": list(full["gradient"])}

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse steps too long for waves or gyration, equal angles, and measured spectra that cannot be read."""
        from .backtrack_tables import read_power

        if len(set(settings["gradient"])) < len(settings["gradient"]):
            raise InputError(f"gradient takes different angles, not {list(settings['gradient'])}")
        if settings["data"] is not None:
            read_power(settings["data"])
        run_of(settings)

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points that differ in strength, seed or number of realisations alone."""
        free = ("sigma2", "larmor_radius", "slope", "helicity", "slab_fraction", "seed", "realisations", "data")
        return json.dumps([value for name, value in sorted(settings.items()) if name not in free])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Runs of all points, equal to `diffcr backtrack` with the same seed."""
        out: list[xr.Dataset | str] = []
        for each in settings:
            try:
                out.append(_traced(each))
            except (InputError, FitError) as error:
                out.append(message_of(error))
        return out

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """As the command counts it, before it starts."""
        from .backtrack_cost import peak_memory

        return max(OVERHEAD, float(peak_memory(run_of(settings))))


def run_of(settings: Mapping[str, Any]) -> Any:
    """The `Run` of a point.

    Raises:
        InputError: If a number is out of range; the message may call it by its option of the command line.
    """
    from .backtrack import Run
    from .cli_backtrack import _setup, chosen_spectrum

    s = settings
    names = ("omega_t", "omega_step", "samples", "sigma2", "larmor_radius", "size", "nside", "geometry")
    setup = _setup(
        chosen_spectrum(s["spectrum"], s["slope"], s["lambda_min"], s["lambda_max"]),
        s["field"],
        s["precision"],
        **{name: s[name] for name in (*names, "slab_fraction", "helicity", "seed")},
    )
    return Run(setup, s["realisations"], min(s["step_check"], s["realisations"]), s["lmax"], "none")


def _traced(settings: Mapping[str, Any]) -> xr.Dataset:
    from .backtrack import trace
    from .backtrack_cost import require_memory
    from .backtrack_report import summary
    from .backtrack_summary import analyse
    from .backtrack_tables import read_power

    run = run_of(settings)
    require_memory(run)
    analysis = analyse(trace(run), tuple(settings["gradient"]))
    measured = None if settings["data"] is None else read_power(settings["data"])
    return backtrack_dataset(summary(analysis), measured)


_ROWS = {
    "plateau": ("Plateau of C_l", ""),
    "noise_analytic": ("Analytic noise of C_l", ""),
    "dipole_to_quadrupole": ("C_1 / C_2", ""),
    "dipole_over_standard_diffusion": ("C_1 over that of standard diffusion", ""),
}


def backtrack_dataset(content: Mapping[str, Any], measured: Mapping[str, np.ndarray] | None = None) -> xr.Dataset:
    """A run as one point of a scan: the numbers of backtrack.json at the last time, costs apart.

    Args:
        content: What `backtrack_report.summary` gave.
        measured: degree, shape and error of a measured spectrum, for the chi2 of the shapes; errors are taken as
            independent, and l = 1 and 2 are left out.
    """
    rows = content["orientations"]
    names, degree = list(rows), content["degree"]
    power = np.array([row["power"] for row in rows.values()], float)
    error = np.array([row["power_error"] for row in rows.values()], float)
    place = ("orientation", "degree")
    # The first orientation stands for the run where points are ranked.
    first = next(iter(rows.values()))
    data = {
        "power": variable(power, "C_l of unit gradient", error="power_error", dims=place),
        "power_error": variable(error, "Error of C_l", dims=place),
    }
    for name, (title, _) in _ROWS.items():
        for part, suffix in (("value", ""), ("error", "_error")):
            values = [row[name][part] for row in rows.values()]
            what = title if part == "value" else f"Error of {title}"
            ancillary = f"{name}_error" if part == "value" else ""
            data[f"{name}{suffix}"] = variable(values, what, error=ancillary, dims=("orientation",))
    data |= _shapes(rows, degree, measured)
    for name, title in (("parallel", "K parallel"), ("perpendicular", "K perpendicular"), ("antisymmetric", "K_A")):
        entry = content["diffusion"][f"kappa_{name}"]
        data[f"kappa_{name}"] = variable(_number(entry["value"]), title, "L_c", f"kappa_{name}_error")
        data[f"kappa_{name}_error"] = variable(_number(entry["error"]), f"Error of {title}", "L_c")
    check = content["step_check"]
    ratio = _number(first["plateau"]["value"]) / power[0, 1]
    data |= {
        "noise_over_quadrupole": variable(ratio, f"Plateau over C_2, gradient {names[0]}"),
        "dipole": variable(power[0, 0], f"C_1, gradient {names[0]}", error="dipole_error"),
        "dipole_error": variable(error[0, 0], "Error of C_1"),
        "quadrupole": variable(power[0, 1], f"C_2, gradient {names[0]}", error="quadrupole_error"),
        "quadrupole_error": variable(error[0, 1], "Error of C_2"),
        "coherence_length": variable(content["settings"]["coherence_length"], "Coherence length", "L_c"),
        "particle_steps": variable(float(content["cost"]["particle_steps"]), "Steps of particles"),
        "converged": variable(check is None or check["passed"], "Whether half the step gives the same"),
        "notes": variable("; ".join(content["notes"]), "What a reader should know"),
    }
    words = {"long_name": "gradient", "description": "angle between gradient and B_0"}
    coords = {
        "orientation": ("orientation", np.array(names, str), words),
        "degree": ("degree", np.array(degree), {"long_name": "degree l"}),
    }
    return xr.Dataset(data, coords)


def _shapes(rows: Mapping[str, Any], degree: Sequence[int], measured) -> dict[str, tuple]:
    """C_l / C_2 with the plateau subtracted, the fit of the cascade, and chi2 of a measured spectrum."""
    shape, error = (np.full((len(rows), len(degree)), np.nan) for _ in range(2))
    cascade, chi2, number = np.full((len(rows), 2), np.nan), np.full(len(rows), np.nan), 0
    for k, row in enumerate(rows.values()):
        if row["shape"] is not None:
            at = np.array(row["shape"]["degree"]) - degree[0]
            shape[k, at] = np.array(row["shape"]["value"], float)
            error[k, at] = np.array(row["shape"]["error"], float)
        if row["cascade"] is not None:
            cascade[k] = [_number(row["cascade"][name]) for name in ("chi2", "p_value")]
        if measured is not None:
            chi2[k], number = _chi2(shape[k], error[k], degree, measured)
    along = ("orientation",)
    both = (*along, "degree")
    return {
        "shape": variable(shape, "C_l / C_2 without the plateau", error="shape_error", dims=both),
        "shape_error": variable(error, "Error of C_l / C_2", dims=both),
        "cascade_chi2": variable(cascade[:, 0], "chi2 of the cascade", dims=along),
        "cascade_p": variable(cascade[:, 1], "p of the cascade", dims=along),
        "chi2": variable(chi2[0], "chi2 of the measured spectrum", statistic="chi2"),
        "chi2_of_orientation": variable(chi2, "chi2 of the measured spectrum", dims=along),
        "points": variable(number, "Measured degrees compared with"),
    }


def _chi2(shape: np.ndarray, error: np.ndarray, degree: Sequence[int], measured) -> tuple[float, int]:
    """Distance of a shape from a measured one, degrees from 3 on, and how many there are in both."""
    known = dict(zip(degree, zip(shape, error, strict=True), strict=True))
    total, number = 0.0, 0
    for l, value, width in zip(measured["degree"], measured["shape"], measured["error"], strict=True):
        own = known.get(int(l), (math.nan, math.nan))
        if l >= 3 and all(map(math.isfinite, own)):
            total, number = total + (value - own[0]) ** 2 / (width**2 + own[1] ** 2), number + 1
    return (total, number) if number else (math.nan, 0)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
