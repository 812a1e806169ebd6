"""Backtracked skies on disk and in words: backtrack.nc, sky_*.fits, power_*.csv, backtrack.json and the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import diffcr
from diffcr.spectrum import coherence_length

from . import backtrack_plots, plots
from .backtrack import settings
from .backtrack_cost import Estimate
from .backtrack_summary import Analysis, Asymptotic, Orientation, cascade_curve
from .backtrack_tables import CONVENTIONS, dataset, skies, write_power, write_sky
from .files import finite, together, write_netcdf
from .report import write_json
from .words import duration


def write_backtracking(
    analysis: Analysis,
    folder: Path,
    pictures: bool = True,
    data: Mapping[str, np.ndarray] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> dict:
    """Write a run into an existing folder; returns what stands in backtrack.json.

    Args:
        analysis: The run and what it says.
        folder: Where to.
        pictures: Whether to draw.
        data: Measured spectrum to draw beside it, as `read_power` gives it.
        cost: Wall time and devices, to be written down.
    """
    content = summary(analysis, cost)
    # An earlier analysis of the same realisations may have had other gradients, or pictures.
    old = [path for pattern in ("sky_*.fits", "power_*.csv", "*.png") for path in folder.glob(pattern)]
    with together(folder) as part:
        # Maps and pictures first: what is there last says that all is there.
        for each, sky in skies(analysis, 0).items():
            write_sky(part / f"sky_{each}.fits", analysis, sky)
        for row in analysis.orientations:
            write_power(part / f"power_{row.name}.csv", analysis, row)
        if pictures:
            for name, figure in figures(analysis, data).items():
                plots.save(figure, part / f"{name}.png")
        compressed = {"zlib": True, "complevel": 4}
        tables = dataset(analysis)
        write_netcdf(
            part / "backtrack.nc", tables, encoding={k: compressed for k in tables.data_vars if tables[k].ndim > 1}
        )
        write_json(part / "backtrack.json", content)
        new = {path.name for path in part.iterdir()}
    for path in old:
        if path.name not in new and path.stem.split("_")[0] in ("sky", "power", "shape", "skies", "diffusion"):
            path.unlink(missing_ok=True)
    return content


# Summary ------------------------------------------------------------------------------------------------


def summary(analysis: Analysis, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The run in JSON: settings, spectra at the last time with errors, diffusion, comparisons, checks, cost."""
    run, setup = analysis.result.run, analysis.setup
    seconds = analysis.result.seconds
    check = analysis.step_check
    return finite(
        {
            "software": f"diffcr {diffcr.__version__}",
            "conventions": CONVENTIONS,
            "settings": {
                **settings(setup),
                "realisations": run.realisations,
                "step_check": run.step_check,
                "l_max": run.l_max,
                "keep_maps": run.keep_maps,
                "steps": setup.steps,
                "omega_step_taken": setup.omega_t / setup.steps,
                "coherence_length": float(coherence_length(setup.spectrum)),
            },
            "omega_t": analysis.omega_t.tolist(),
            "degree": list(range(1, run.l_max + 1)),
            "orientations": {row.name: _orientation(row) for row in analysis.orientations},
            "plateau_degrees": list(analysis.degrees),
            "diffusion": {
                "unit": "L_c, c = 1",
                "kappa_parallel": _asymptotic(analysis.parallel),
                "kappa_perpendicular": _asymptotic(analysis.perpendicular),
                "kappa_antisymmetric": {
                    "value": float(analysis.diffusion.antisymmetric.value[-1]),
                    "error": float(analysis.diffusion.antisymmetric.error[-1]),
                },
            },
            "step_check": None
            if check is None
            else {
                "passed": check.passed,
                "blind": check.blind,
                "realisations": check.realisations,
                "problems": list(check.problems),
                "ratios": check.ratios,
            },
            "cost": {
                "seconds_per_realisation_median": float(np.median(seconds)),
                "seconds_of_realisations": float(np.sum(seconds)),
                "particle_steps": run.realisations * setup.pixels * setup.steps,
                **(cost or {}),
            },
            "notes": notes(analysis),
        }
    )


def _orientation(row: Orientation) -> dict[str, Any]:
    last = lambda found: {"value": float(found.value[-1]), "error": float(found.error[-1])}
    out: dict[str, Any] = {
        "angle_deg": row.angle,
        "power": row.power.value[-1, 1:].tolist(),
        "power_error": row.power.error[-1, 1:].tolist(),
        "plateau": last(row.plateau),
        "noise_analytic": last(row.noise),
        "dipole_to_quadrupole": last(row.dipole_to_quadrupole),
        "dipole_over_standard_diffusion": last(row.dipole_excess),
        "share_of_mean_sky": {
            "degree": list(range(1, row.aligned.value.shape[-1])),
            "value": row.aligned.value[-1, 1:].tolist(),
            "error": row.aligned.error[-1, 1:].tolist(),
        },
        "shape": None,
        "cascade": None,
    }
    if row.shape is not None:
        out["shape"] = {
            "degree": list(range(3, 3 + row.shape.value.shape[-1])),
            "value": row.shape.value[-1].tolist(),
            "error": row.shape.error[-1].tolist(),
        }
    if row.cascade is not None:
        fit = row.cascade
        out["cascade"] = {
            "degree": list(range(3, 3 + len(fit.predicted))),
            "predicted": fit.predicted.tolist(),
            "depth": fit.depth,
            "depth_range": list(fit.depth_range),
            "chi2": fit.chi2,
            "degrees_of_freedom": fit.degrees_of_freedom,
            "p_value": fit.p_value,
            "chi2_asymptotic": fit.chi2_asymptotic,
        }
    return out


def _asymptotic(found: Asymptotic) -> dict[str, Any]:
    return {
        "value": found.value,
        "error": found.error,
        "from_variance": found.variance,
        "from_variance_error": found.variance_error,
        "change_since_half_time": found.change,
        "change_error": found.change_error,
        "asymptotic": found.reached,
    }


def notes(analysis: Analysis) -> list[str]:
    """What a reader should know before using the numbers."""
    out = []
    for name, found in (("parallel", analysis.parallel), ("perpendicular", analysis.perpendicular)):
        if found.reached is False:
            out.append(
                f"kappa {name} is not asymptotic: it changed by {100 * found.change:+.0f} +- "
                f"{100 * found.change_error:.0f} % since half the time; raise --omega-t for its limit"
            )
        elif found.reached is None:
            out.append(f"whether kappa {name} is asymptotic cannot be told: take more realisations, or samples")
    number = analysis.result.run.realisations
    if number < 30:
        out.append(f"errors from {number} realisations are rough: the scatter of C_l has heavy tails")
    if number < 100 and any(row.cascade is not None for row in analysis.orientations):
        out.append(
            f"p of the cascade from {number} realisations is rough, too low by up to three times at 0.05: heavy tails"
        )
    if analysis.step_check is not None and analysis.step_check.blind:
        out.append(
            "the step check would have missed changes of C_l by a quarter at the late time: paths part chaotically, so "
            "raise --step-check"
        )
    return out


def describe(content: dict[str, Any]) -> list[str]:
    """A run in a few lines."""
    run = content["settings"]
    out = [
        f"turbulence       sigma^2 {run['sigma2']:g}, r_L {run['larmor_radius']:g} L_c, {run['spectrum']['kind']} from "
        f"{run['spectrum']['smallest']:g} to {run['spectrum']['largest']:g} L_c, {run['representation']} {run['size']}",
        f"coherence        {run['coherence_length']:.3g} L_c (full line)",
        f"run              {run['realisations']} realisations, nside {run['nside']}, Omega T {run['omega_t']:g} in "
        f"{run['steps']} steps",
    ]
    for name, row in content["orientations"].items():
        power, error = row["power"], row["power_error"]
        out.append(f"gradient         {name} ({row['angle_deg']:g} degrees to B_0)")
        shown = ", ".join(f"C_{l + 1} {power[l]:.3g} +- {error[l]:.2g}" for l in range(min(3, len(power))))
        out.append(f"  power          {shown}")
        out.append(f"  plateau        {_plus(row['plateau'])}, limit of large T {_plus(row['noise_analytic'])}")
        out.append(
            f"  dipole         C_1/C_2 {_plus(row['dipole_to_quadrupole'])}; over standard diffusion "
            f"{_plus(row['dipole_over_standard_diffusion'])}"
        )
        fit = row["cascade"]
        if fit is not None:
            depth = "large" if fit["depth"] is None else f"{fit['depth']:.3g}"
            out.append(
                f"  cascade        shape of l = 2 to {fit['degree'][-1]}: chi2 {fit['chi2']:.3g} for "
                f"{fit['degrees_of_freedom']}, p {fit['p_value']:.2g}, at depth nu T {depth}; "
                f"{fit['chi2_asymptotic']:.3g} at large depth"
            )
    for name, short in (("kappa_parallel", "kappa_par"), ("kappa_perpendicular", "kappa_perp")):
        row = content["diffusion"][name]
        state = {True: "asymptotic", False: "not asymptotic", None: "asymptotic or not: unknown"}[row["asymptotic"]]
        out.append(f"{short:<16} {_plus(row)} L_c c ({state})")
    check = content["step_check"]
    if check is not None:
        seen = {name: row["noticed_from"] for name, row in check["ratios"].items()}
        best, worst = min(seen, key=seen.get), max(seen, key=seen.get)
        verdict = "FAILED" if not check["passed"] else "inconclusive" if check["blind"] else "passed"
        out.append(
            f"step check       {verdict}: with half the step {check['realisations']} realisations would show a change "
            f"of {100 * seen[best]:.0f} % ({best}) to {100 * seen[worst]:.0f} % ({worst})"
        )
    return out


def _plus(entry: Mapping[str, Any]) -> str:
    value, error = entry["value"], entry["error"]
    return "unknown" if value is None else f"{value:.3g} +- {0.0 if error is None else error:.2g}"


def describe_estimate(found: Estimate, analysis_settings: Mapping[str, Any]) -> list[str]:
    """What a run would take, in a few lines."""
    free = "" if found.free is None else f" of {found.free / 1e9:.3g} GB free"
    run = analysis_settings
    return [
        f"steps            {found.particle_steps:.3g} of particles: {run['realisations']} realisations x "
        f"{run['pixels']} pixels x {run['steps']} steps"
        + (f", {run['step_check']} of them again with half the step" if run["step_check"] else ""),
        f"waves            {run['waves']} summed each step" if run["representation"] != "grid" else "field on grids",
        f"memory           {found.memory / 1e9:.2g} GB at most{free}",
        f"disk             {found.disk / 1e6:.3g} MB",
        f"speed            {found.steps_per_second:.3g} steps of particles per second on {run['devices']}, by a slice",
        f"realisation      {duration(found.seconds_realisation)}",
        f"total            {duration(found.seconds_total)}, with the machine as busy as now",
    ]


# Pictures -----------------------------------------------------------------------------------------------


def figures(analysis: Analysis, data: Mapping[str, np.ndarray] | None = None) -> dict[str, Figure]:
    """The pictures by file name: power against degree, its shape, skies of one realisation, diffusion."""
    setup = analysis.setup
    title = rf"$\sigma^2 = {setup.sigma2:g}$, $r_L / L_c = {setup.larmor_radius:g}$"
    title += f", {analysis.result.run.realisations} realisations"
    degree = np.arange(analysis.ensemble.power.shape[2])
    inside = degree <= analysis.degrees[1]
    curves = {row.name: _curve(row, degree[inside], analysis) for row in analysis.orientations}
    out = {
        "power": backtrack_plots.angular_power(degree[inside], analysis.omega_t, curves, title=title),
        "diffusion": _diffusion_picture(analysis, title),
    }
    rows = [row for row in analysis.orientations if row.shape is not None]
    if rows:
        out["shape"] = _shape_picture(analysis, rows, data, title)
    maps = skies(analysis, 0)
    if maps:
        angles = {row.name: row.angle for row in analysis.orientations}
        title = title.rpartition(",")[0] + ", one realisation"
        out["skies"] = backtrack_plots.sky_maps(maps, analysis.omega_t, angles, title=title)
    return out


def _curve(row: Orientation, degree: np.ndarray, analysis: Analysis) -> dict[str, Any]:
    out = {
        "power": row.power.value[:, degree],
        "error": row.power.error[:, degree],
        "noise": float(row.noise.value[-1]),
        "plateau": float(row.plateau.value[-1]),
    }
    if row.shape is not None:
        level = row.plateau.value[-1]
        out["cascade"] = (row.power.value[-1, 2] - level) * cascade_curve(int(degree[-1])) + level
    return out


def _shape_picture(analysis: Analysis, rows: Sequence[Orientation], data, title: str) -> Figure:
    last = 2 + rows[0].shape.value.shape[-1]
    degree = np.arange(1, last + 1)
    curves = {}
    for row in rows:
        join = lambda part, row=row, two=1.0: np.concatenate(
            [[getattr(row.dipole_to_quadrupole, part)[-1], two], getattr(row.shape, part)[-1]]
        )
        curves[row.name] = {"shape": join("value"), "error": join("error", two=0.0)}
    title += rf", $\Omega T = {analysis.omega_t[-1]:g}$"
    return backtrack_plots.power_shape(degree, curves, cascade_curve(last)[1:], data, title=title)


def _diffusion_picture(analysis: Analysis, title: str) -> Figure:
    found = analysis.diffusion
    rows = {
        r"$-\langle v_\parallel r_\parallel\rangle$": found.parallel,
        r"$\langle r_\parallel^2\rangle / 2T$": found.parallel_variance,
        r"$-\langle v_\perp r_\perp\rangle$": found.perpendicular,
        r"$\langle r_\perp^2\rangle / 2T$": found.perpendicular_variance,
    }
    bohm = abs(analysis.setup.larmor_radius) / 3
    scaled = {name: (row.value / bohm, row.error / bohm) for name, row in rows.items()}
    return backtrack_plots.running_diffusion(analysis.omega_t, scaled, title=title)
