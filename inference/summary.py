"""What a posterior says in numbers, and whether its chains have converged."""

import json
import math
from typing import Any

import numpy as np

from .arviz_import import arviz as az
from .files import finite
from .named import group

MAX_R_HAT = 1.01
MIN_ESS_PER_CHAIN = 100
"""Limits of Vehtari et al. 2021, Bayesian Analysis 16, 667: rank-normalised split R-hat, bulk and tail ESS."""

MAX_R_HAT_RATES = 1.03
"""The largest of hundreds of R-hats of rates, each scattered by some thousandths when all is well."""

MAX_DIVERGENT = 0.005
"""Largest share of divergent trajectories."""

PRIOR_DISTANCE = 0.1
"""A parameter whose prior and posterior distribution functions differ by less than this was not moved by the data."""

_CIRCULAR = {"right_ascension_deg", "field_right_ascension_deg", "field_axis_right_ascension_deg"}
_SECRET = _CIRCULAR | {"delta_0h", "delta_6h", "multipoles", "field_direction", "field_axis", "sources"}
_VECTORS = {"field_direction", "field_axis", "theta_of_date", "degree_density", "sky_density"}
"""Reported under other names, by angles or as multipoles of J2000, or of use for comparisons alone."""


def summarise(posterior: Any) -> dict:
    """Mean, spread, intervals and diagnostics of every named quantity, and the verdict.

    Args:
        posterior: What `sample` returned, or the file it was saved to opened with ArviZ.

    Returns:
        JSON-like: converged, verdict, problems, divergences, wall_seconds_sampling, ess_per_second (of the slower
        component of the equatorial dipole) and `parameters`: for each {mean, sd, hdi_68, hdi_95, r_hat, ess_bulk,
        ess_tail, prior_dominated}. Angles in degrees; right ascensions are averaged on the circle, and an interval
        may end beyond 360. Directional quantities of blinded counts are null.
    """
    draws, stats = group(posterior, "posterior"), group(posterior, "sample_stats")
    attrs = draws.attrs
    blinded = bool(attrs["blinded"])
    symmetric = bool(attrs["symmetric"])
    chains, steps = draws.sizes["chain"], draws.sizes["draw"]
    parameters, problems = {}, []
    for name in draws.data_vars:
        if name == "rate" or name in _VECTORS or (symmetric and name in _SIGNED):
            continue
        for label, values, far in _components(name, draws[name]):
            entry = describe(values, name in _CIRCULAR)
            entry["prior_dominated"] = None if far is None else bool(far < PRIOR_DISTANCE)
            entry["prior_distance"] = far
            if not entry["r_hat"] <= MAX_R_HAT:
                problems.append(f"R-hat of {label} is {entry['r_hat']:.3f} (limit {MAX_R_HAT})")
            least = MIN_ESS_PER_CHAIN * chains
            if not min(entry["ess_bulk"], entry["ess_tail"]) >= least:
                found = min(entry["ess_bulk"], entry["ess_tail"])
                problems.append(f"{label} has {found:.0f} effective samples (at least {least} wanted)")
            if blinded and name in _SECRET:
                entry |= dict.fromkeys(("mean", "sd", "hdi_68", "hdi_95"))
            parameters[label] = entry
    rates = _rates(draws)
    if rates is not None and not rates["r_hat_max"] <= MAX_R_HAT_RATES:
        problems.append(f"R-hat of the rates is up to {rates['r_hat_max']:.3f} (limit {MAX_R_HAT_RATES})")
    divergences = int(stats["diverging"].sum())
    if divergences > MAX_DIVERGENT * chains * steps:
        problems.append(f"{divergences} of {chains * steps} trajectories diverged (limit {MAX_DIVERGENT:.1%})")
    seconds = float(attrs["wall_seconds_sampling"])
    slower = min(parameters[n]["ess_bulk"] for n in parameters if n.startswith(("delta_0h", "delta_6h")))
    content = {
        "software": attrs["software"],
        "specification": json.loads(attrs["specification"]),
        "priors": json.loads(attrs.get("priors", "{}")),
        "num_events": int(attrs["num_events"]),
        "effective_events": float(attrs["effective_events"]),
        "observatories": [str(x) for x in draws["observatory"].values] if "observatory" in draws else [],
        "equinox": attrs["equinox"],
        "time_frame": attrs["time_frame"],
        "blinded": blinded,
        "converged": not problems,
        "verdict": _verdict(problems),
        "problems": problems,
        "chains": chains,
        "draws": steps,
        "warmup": int(attrs["warmup"]),
        "seed": int(attrs["seed"]),
        "divergences": divergences,
        "mean_steps": float(stats["num_steps"].mean()),
        "wall_seconds": float(attrs["wall_seconds"]),
        "wall_seconds_sampling": seconds,
        "ess_per_second": slower / seconds if seconds > 0 else None,
        "parameters": parameters,
        "rates": rates,
        "inputs": json.loads(attrs["inputs"]),
    }
    return finite(content)


_SIGNED = {"field_right_ascension_deg", "field_declination_deg", "gradient_strength"}
"""What changes sign with a field that is known up to its sign: angles and strengths along the axis stand for them."""


def _components(name: str, array) -> list[tuple[str, np.ndarray, float | None]]:
    """(label, values (chain, draw), prior distance) of each component of a quantity."""
    dims = array.dims[2:]
    values = array.values.reshape(*array.shape[:2], -1)
    far = np.asarray(array.attrs.get("prior_distance", []), float).ravel()
    out = []
    for k in range(values.shape[2]):
        if not np.all(np.isfinite(values[..., k])):
            continue
        place = np.unravel_index(k, array.shape[2:])
        at = ",".join(f"{d}={array[d].values[i] if d in array.coords else i}" for d, i in zip(dims, place, strict=True))
        distance = float(far[k]) if len(far) == values.shape[2] else None
        out.append((f"{name}[{at}]" if at else name, values[..., k], distance))
    return out


def describe(values: np.ndarray, circular: bool = False) -> dict:
    """Mean, standard deviation, highest-density intervals and diagnostics of draws (chain, draw).

    Args:
        values: The draws.
        circular: Whether these are angles in degrees; they are then unwrapped about their circular mean.
    """
    values = np.asarray(values, float)
    if circular:
        turn = np.radians(values)
        centre = math.degrees(math.atan2(np.sin(turn).mean(), np.cos(turn).mean())) % 360
        values = centre + (values - centre + 180) % 360 - 180
    mean = float(values.mean())
    entry = {
        "mean": mean % 360 if circular else mean,
        "sd": float(values.std(ddof=1)),
        "hdi_68": highest_density(values, 0.68),
        "hdi_95": highest_density(values, 0.95),
    }
    if np.ptp(values) == 0:
        return entry | {"r_hat": 1.0, "ess_bulk": float(values.size), "ess_tail": float(values.size)}
    # Too few draws for an estimate give not a number, which is no convergence.
    with np.errstate(divide="ignore", invalid="ignore"):
        return entry | {
            "r_hat": float(az.rhat(values)),
            "ess_bulk": float(az.ess(values, method="bulk")),
            "ess_tail": float(az.ess(values, method="tail", prob=(0.05, 0.95))),
        }


def highest_density(values: np.ndarray, probability: float) -> list[float]:
    """Shortest interval that holds this share of the draws."""
    ordered = np.sort(np.ravel(values))
    inside = max(1, math.ceil(probability * len(ordered)))
    if inside >= len(ordered):
        return [float(ordered[0]), float(ordered[-1])]
    widths = ordered[inside:] - ordered[:-inside]
    first = int(np.argmin(widths))
    return [float(ordered[first]), float(ordered[first + inside])]


def _rates(draws) -> dict | None:
    """Worst diagnostics of the sampled rates."""
    if "rate" not in draws:
        return None
    values = draws["rate"].values
    flat = values.reshape(*values.shape[:2], -1)
    moving = [flat[..., k] for k in range(flat.shape[2]) if np.ptp(flat[..., k]) > 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "number": len(moving),
            "r_hat_max": max((float(az.rhat(v)) for v in moving), default=1.0),
            "ess_bulk_min": min((float(az.ess(v)) for v in moving), default=float(values.shape[0] * values.shape[1])),
        }


def _verdict(problems: list[str]) -> str:
    if not problems:
        return "converged: the chains agree and every quantity has enough effective samples"
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return (
        f"NOT converged: {problems[0]}{more}. Do not quote these numbers; resume with more draws "
        "(--resume --draws N), or start again with a longer warm-up"
    )
