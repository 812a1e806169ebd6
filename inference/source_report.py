"""The posterior of a physical model on disk: posterior.nc, summary.json and the pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import plots, posterior_plots
from .files import finite, together, write_netcdf
from .named import group, tree
from .report import write_json
from .source_fit import Problem, identity
from .summary import MAX_DIVERGENT, MAX_R_HAT, MIN_ESS_PER_CHAIN, PRIOR_DISTANCE
from .summary import describe as describe_quantity

_CIRCULAR = ("right_ascension_deg",)
_INNER = {"expected", "log_scale_unit", "phase_unit", "scatter_unit"}


def write_source_posterior(posterior: Any, problem: Problem, folder: Path, pictures: bool = True) -> dict:
    """Write posterior.nc, pictures and last summary.json into an existing folder; returns the summary."""
    content = summarise(posterior, problem)
    # The draws first: they took longest, and must not be lost to what comes after.
    with together(folder) as part:
        write_netcdf(part / "posterior.nc", tree(posterior))
        write_json(part / "summary.json", content)
    if pictures:
        with together(folder) as part:
            for name, figure in figures(posterior, problem, content).items():
                plots.save(figure, part / f"{name}.png")
    return content


def summarise(posterior: Any, problem: Problem) -> dict:
    """Mean, spread, intervals and diagnostics of every number, whether its prior dominates, and the verdict."""
    draws, stats = group(posterior, "posterior"), group(posterior, "sample_stats")
    chains, steps = draws.sizes["chain"], draws.sizes["draw"]
    symmetric = bool(draws.attrs["symmetric"])
    signed = {"field_right_ascension_deg", "field_declination_deg"} if symmetric else set()
    vectors = {"field", "field_axis", "global_field"}
    quantities, problems = {}, []
    for name in draws.data_vars:
        if name in _INNER or name in vectors or name in signed:
            continue
        array = draws[name]
        dims = array.dims[2:]
        far = np.asarray(array.attrs.get("prior_distance", []), float).ravel()
        flat = array.values.reshape(chains, steps, -1)
        for k in range(flat.shape[2]):
            at = np.unravel_index(k, array.shape[2:])
            words = [str(draws[d].values[i]) if d in draws.coords else str(i) for d, i in zip(dims, at, strict=True)]
            label = f"{name}[{', '.join(words)}]" if words else name
            entry = describe_quantity(flat[..., k], name.endswith(_CIRCULAR))
            distance = float(far[k]) if far.size == flat.shape[2] else None
            entry["prior_dominated"] = None if distance is None else bool(distance < PRIOR_DISTANCE)
            entry["prior_distance"] = distance
            problems += _troubles(label, entry, chains)
            quantities[label] = entry
    divergences = int(stats["diverging"].sum())
    if divergences > MAX_DIVERGENT * chains * steps:
        problems.append(f"{divergences} of {chains * steps} trajectories diverged (limit {MAX_DIVERGENT:.1%})")
    notes = []
    if len(problem.geometry.others):
        notes.append(
            f"the search for the best fit ended at {len(problem.geometry.others)} other places of nearly the same "
            "probability: the posterior may have more modes than the chains visit; compare runs with other seeds"
        )
    verdict = "converged: the chains agree and every quantity has enough effective samples"
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        verdict = (
            f"NOT converged: {problems[0]}{more}. Do not quote these numbers; resume with more draws "
            "(--resume --draws N), or start again with a longer warm-up"
        )
    return finite(
        {
            "software": draws.attrs["software"],
            "specification": identity(problem),
            "num_events": float(draws.attrs["num_events"]),
            "equinox": "J2000",
            "converged": not problems,
            "verdict": verdict,
            "problems": problems,
            "notes": notes,
            "chains": chains,
            "draws": steps,
            "warmup": int(draws.attrs["warmup"]),
            "seed": int(draws.attrs["seed"]),
            "divergences": divergences,
            "mean_steps": float(stats["num_steps"].mean()),
            "wall_seconds": float(draws.attrs["wall_seconds"]),
            "best_fit_minus_log_posterior": problem.geometry.cost,
            "parameters": quantities,
        }
    )


def _troubles(label: str, entry: dict, chains: int) -> list[str]:
    out = []
    if not entry["r_hat"] <= MAX_R_HAT:
        out.append(f"R-hat of {label} is {entry['r_hat']:.3f} (limit {MAX_R_HAT})")
    least = MIN_ESS_PER_CHAIN * chains
    found = min(entry["ess_bulk"], entry["ess_tail"])
    if not found >= least:
        out.append(f"{label} has {found:.0f} effective samples (at least {least} wanted)")
    return out


def figures(posterior: Any, problem: Problem, content: dict) -> dict[str, Figure]:
    """The pictures by file name: trace, ranks, corner of the model's numbers, field on the sky."""
    draws, prior, stats = (group(posterior, k) for k in ("posterior", "prior", "sample_stats"))
    out = {
        "trace": posterior_plots.trace(
            stats["lp"].values, stats["diverging"].values, stats["num_steps"].values, stats["energy"].values
        )
    }
    if draws.sizes["chain"] * draws.sizes["draw"] < posterior_plots.LEAST_DRAWS:
        return out
    angles = [
        f"{name}_{angle}" for name in ("field_axis", "field") for angle in ("right_ascension_deg", "declination_deg")
    ]
    # As many as a page holds: the field first, then the numbers that the data moved most.
    scalars = [name for name, size in problem.layout.normals if size == 1]
    scalars.sort(key=lambda name: -(content["parameters"][name]["prior_distance"] or 0.0))
    names = [name for name in angles if name in content["parameters"]] + scalars
    shown = {k: draws[k].values for k in names[:8]}
    moving = {k: v for k, v in shown.items() if np.ptp(v) > 0}
    if draws.sizes["chain"] > 1:
        out["ranks"] = posterior_plots.ranks(moving, {k: _label(k) for k in moving})
    out["corner"] = posterior_plots.corner(
        moving,
        {k: _label(k) for k in moving},
        prior={k: prior[k].values for k in moving},
        dominated=[k for k in moving if content["parameters"].get(k, {}).get("prior_dominated")],
        period={k: 360.0 for k in moving if k.endswith("right_ascension_deg")},
    )
    if "field" in problem.layout.directions:
        symmetric = bool(draws.attrs["symmetric"])
        out["field"] = posterior_plots.sky_regions(
            draws["field"].values,
            "local magnetic field" + (" (axis)" if symmetric else ""),
            axis=symmetric,
            frame_label="equatorial, J2000",
        )
    return out


_WORDS = {
    "diffusion_cm2_s": r"$K_0$ [cm$^2$/s]",
    "diffusion_index": r"$\delta$",
    "halo_height_pc": r"$H$ [pc]",
    "parallel_factor": r"$f$",
    "perpendicular": r"$\kappa_\perp/\kappa_\parallel$",
    "antisymmetric": r"$\kappa_A/\kappa_\parallel$",
    "gyration_ratio": r"$\Omega/\nu$",
    "gradient_factor": r"gradient / disc's",
    "gradient_along_field_per_kpc": r"extra gradient [kpc$^{-1}$]",
    "spectral_index": r"$\Gamma$",
    "field_axis_right_ascension_deg": "RA of B [deg]",
    "field_axis_declination_deg": "dec of B [deg]",
    "field_right_ascension_deg": "RA of B [deg]",
    "field_declination_deg": "dec of B [deg]",
}


def _label(name: str) -> str:
    source, dot, own = name.rpartition(".")
    units = {"distance_pc": "distance [pc]", "age_yr": "age [yr]", "power": "power"}
    return f"{source} {units.get(own, own)}" if dot else _WORDS.get(name, name)


def describe(content: dict) -> list[str]:
    """The posterior in a few lines: the model's numbers, then the verdict."""
    out = [f"model            {content['specification']['model']}, fitted to {content['specification']['kind']}"]
    for name, entry in content["parameters"].items():
        if "[" in name or name.endswith("_spread"):
            continue
        low, high = entry["hdi_95"]
        note = "  (prior-dominated)" if entry["prior_dominated"] else ""
        out.append(f"{name:<33} {entry['mean']:.4g} +- {entry['sd']:.2g}, 95 % in [{low:.4g}, {high:.4g}]{note}")
    out.append(f"chains           {content['chains']} x {content['draws']}, {content['divergences']} divergences")
    out += [f"note             {note}" for note in content["notes"]]
    out.append(f"verdict          {content['verdict']}")
    return out
