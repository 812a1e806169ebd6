"""A posterior on disk: posterior.nc, summary.json, the pictures beside them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import plots, posterior_plots
from .data import Counts
from .files import write_netcdf
from .fit import _in_effective_events
from .named import group, tree
from .posterior import sky_draws
from .report import write_json
from .sky_likelihood import SkyLikelihood
from .specification import Specification
from .summary import summarise

LABELS = {
    "delta_0h": r"$\delta_{0\mathrm{h}}$",
    "delta_6h": r"$\delta_{6\mathrm{h}}$",
    "delta_N": r"$\delta_\mathrm{N}$",
    "amplitude": r"$A_\perp$",
    "right_ascension_deg": "RA [deg]",
    "declination_deg": "dec [deg]",
    "field_axis_right_ascension_deg": "RA of B [deg]",
    "field_axis_declination_deg": "dec of B [deg]",
    "field_right_ascension_deg": "RA of B [deg]",
    "field_declination_deg": "dec of B [deg]",
    "perpendicular": r"$\kappa_\perp / \kappa_\parallel$",
    "antisymmetric": r"$\kappa_A / \kappa_\parallel$",
    "axis_strength": r"$s$ along B",
    "depth": r"$\nu T$",
    "end": r"$\ell_\mathrm{end}$",
    "power_index": r"$p$ of $C_\ell$",
    "index": r"$q$",
    "floor": r"$h$",
    "width": r"$w$",
    "strength": r"$S$ of $D_{\mu\mu}$",
    "centre": r"$c$ of $D_{\mu\mu}$",
}
"""Names of quantities in pictures; A_perp is the equatorial amplitude."""

_CORNER = {
    "dipole": ("delta_0h", "delta_6h", "amplitude", "right_ascension_deg", "delta_N"),
    "multipoles": ("delta_0h", "delta_6h"),
    "local-field": (
        "delta_0h",
        "delta_6h",
        "field_axis_right_ascension_deg",
        "field_axis_declination_deg",
        "field_right_ascension_deg",
        "field_declination_deg",
        "perpendicular",
        "antisymmetric",
    ),
    "small-scale": (
        "field_axis_right_ascension_deg",
        "field_axis_declination_deg",
        "axis_strength",
        "depth",
        "end",
        "power_index",
        "index",
        "floor",
        "width",
        "strength",
        "centre",
    ),
}


def write_posterior(
    posterior: Any,
    counts: Counts,
    sky: SkyLikelihood,
    spec: Specification,
    folder: Path,
    pictures: bool = True,
    leave_one_out: bool = False,
) -> dict:
    """Write posterior.nc, pictures, loo.json if asked for, and last summary.json; returns the summary.

    Args:
        posterior: What `sample` returned.
        counts: The data.
        sky: Their likelihood.
        spec: The model.
        folder: An existing folder.
        pictures: Whether to draw.
        leave_one_out: Whether to estimate the predictive density of each ring from the others.

    Raises:
        InputError: If a file cannot be written, or the counts lack what a part needs.
    """
    content = summarise(posterior)
    write_netcdf(folder / "posterior.nc", tree(posterior))
    if leave_one_out:
        write_json(folder / "loo.json", _leave_one_out(posterior, counts, sky))
    if pictures:
        for name, figure in figures(posterior, counts, spec, content).items():
            plots.save(figure, folder / f"{name}.png")
    write_json(folder / "summary.json", content)
    return content


def _leave_one_out(posterior: Any, counts: Counts, sky: SkyLikelihood) -> dict:
    from .comparison import leave_one_ring_out

    result = leave_one_ring_out(counts, sky, sky_draws(posterior, 500))
    return {
        "elpd": result.total,
        "standard_error": result.standard_error,
        "p_loo": result.effective_parameters,
        "unreliable": [list(each) for each in result.unreliable],
        "observatory": list(result.configuration),
        "ring": result.ring.tolist(),
        "events": result.events.tolist(),
        "elpd_of_each": result.elpd.tolist(),
        "pareto_k": result.pareto_k.tolist(),
    }


def figures(posterior: Any, counts: Counts, spec: Specification, content: dict) -> dict[str, Figure]:
    """The pictures by file name; with a handful of draws the trace alone.

    Those of directions are left out while the counts are blinded.
    """
    draws, prior, stats = (group(posterior, k) for k in ("posterior", "prior", "sample_stats"))
    shown = content["parameters"]
    enough = draws.sizes["chain"] * draws.sizes["draw"] >= posterior_plots.LEAST_DRAWS
    out = {
        "trace": posterior_plots.trace(
            stats["lp"].values, stats["diverging"].values, stats["num_steps"].values, stats["energy"].values
        )
    }
    if not enough:
        return out
    scalars = {k: draws[k].values for k in _CORNER[spec.model] if k in shown}
    if "power" in draws:
        l = draws["l"].values
        power = draws["power"].values
        kept = np.all(np.isfinite(power), axis=(0, 1))
        spread = spec.model == "small-scale" or spec.prior("power") != "fixed"
        out["power"] = posterior_plots.power_bands(
            l[kept],
            power[..., kept] if spread else _realised(draws, l[kept]),
            prior["power"].values[..., kept] if spread else None,
        )
        if spread:
            logs = {f"log10_C_{n}": np.log10(power[..., k]) for k, n in enumerate(l) if kept[k]}
            scalars |= dict(list(logs.items())[: 8 - len(scalars)])
    moving = {k: v for k, v in scalars.items() if np.ptp(v) > 0}
    if draws.sizes["chain"] > 1:
        out["ranks"] = posterior_plots.ranks(moving, {k: _label(k) for k in moving})
    out |= _checks(posterior, counts)
    if counts.blinded:
        return out
    before = {
        k: (np.log10(prior["power"].sel(l=int(k[8:])).values) if k.startswith("log10") else prior[k].values)
        for k in moving
    }
    out["corner"] = posterior_plots.corner(
        moving,
        {k: _label(k) for k in moving},
        prior=before,
        dominated=[k for k in moving if shown.get(k, {}).get("prior_dominated")],
        period={k: 360.0 for k in moving if k.endswith("right_ascension_deg")},
    )
    delta = np.stack([draws["delta_0h"].values, draws["delta_6h"].values], axis=-1)
    for k, name in enumerate(draws["energy"].values) if delta.ndim == 4 else [(None, "")]:
        one = delta if k is None else delta[..., k, :]
        out["dipole" + ("" if k is None else f"_{k}")] = posterior_plots.dipole_plane(one, title=str(name))
    frame = f"equatorial, {content['equinox']}"
    if "field_direction" in draws:
        out["field"] = posterior_plots.sky_regions(
            draws["field_direction"].values,
            "local magnetic field" + (" (axis)" if spec.symmetric else ""),
            axis=spec.symmetric,
            frame_label=frame,
        )
    if "declination_deg" in draws:
        vector = np.stack([draws[k].values for k in ("delta_0h", "delta_6h", "delta_N")], axis=-1)
        out["dipole_sky"] = posterior_plots.sky_regions(vector, "dipole", frame_label=frame)
    return out


def _label(name: str) -> str:
    return rf"$\log_{{10}} C_{{{name[8:]}}}$" if name.startswith("log10_C_") else LABELS.get(name, name)


def _realised(draws, l: np.ndarray) -> np.ndarray:
    """C_l of the drawn m != 0 multipoles themselves, (chain, draw, l): sum of squares over 2 l."""
    squares = np.nansum(draws["multipoles"].sel(l=l).values ** 2, axis=-1)
    return squares / (2 * l)


def _checks(posterior: Any, counts: Counts) -> dict[str, Figure]:
    """Posterior predictive checks of each configuration (at most six), in time and right ascension."""
    try:
        predicted, observed = group(posterior, "posterior_predictive"), group(posterior, "observed_data")
    except KeyError:
        return {}
    scaled = _in_effective_events(counts)
    out = {}
    for k, place in enumerate(scaled.configurations()[:6]):
        name = scaled.label(place)
        suffix = f"_{k}" if len(scaled.configurations()) > 1 else ""
        for variable, kind, file in (("n_ra", "right ascension", "ra"), ("n_time", counts.time_frame, "time")):
            if variable == "n_ra" and counts.blinded:
                continue
            out[f"predictive_{file}{suffix}"] = posterior_plots.predictive_check(
                observed[variable].values[k], predicted[variable].values[:, :, k], kind, title=name
            )
    return out
