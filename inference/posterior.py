"""Joint posterior of sky, rates and acceptance by NUTS: an ArviZ object with named dimensions."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from numpyro import handlers

import diffcr
from diffcr.errors import require_float64

from .data import MARGINALS, Counts
from .hosts import is_first
from .named import Names, container, group
from .predictive import observed, positive_sky, predictive
from .sampler import Draws, Kernel, Plan, checksum, natural, sample_segments
from .sky_likelihood import SkyLikelihood
from .specification import Specification

_PREDICTED = 200
_PRIOR_DRAWS = 4000


def sample(
    counts: Counts,
    model: str | Specification = "dipole",
    plan: Plan | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    **priors: Any,
) -> Any:
    """Sample the posterior of a model given counts.

    Args:
        counts: The binned data.
        model: "dipole", "multipoles", "local-field", "small-scale", or a `Specification`.
        plan: Chains, steps, seed; default four chains of 500 + 1000.
        folder: Where finished segments are kept, so that a killed run can be resumed; None keeps none.
        resume: Continue the run in the folder.
        progress: Called with steps done, steps in all, and seconds.
        priors: Of the model by name (see its function in `models`), where `model` is a name.

    Returns:
        An ArviZ object (InferenceData, or DataTree with ArviZ 1) with the groups posterior, prior, sample_stats,
        posterior_predictive, prior_predictive and observed_data. Dimensions: chain, draw, l, m, observatory
        (detector configurations), time, ra, energy. `summarise` judges it.

    Raises:
        InputError: If the counts, the priors or the plan cannot be used, or the folder holds another run.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.sample")
    spec = model if isinstance(model, Specification) else Specification(model, priors=priors)
    return sample_likelihood(counts, spec.likelihood(counts), spec, plan, folder, resume, progress)


def sample_likelihood(
    counts: Counts,
    sky: SkyLikelihood,
    spec: Specification,
    plan: Plan | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    devices: list | None = None,
) -> Any:
    """`sample` for a likelihood made beforehand, such as one with a prior on the acceptance.

    Args:
        devices: Of JAX, to lay the chains over; by default all local ones. With those of several processes each
            calls this, and all but the first get None.
    """
    plan = plan or Plan(draws=1000, target_accept=spec.target_accept)
    kwargs = spec.arguments(sky)
    kernel = Kernel(spec.function, plan, spec.mirror(sky), spec.dense)
    if folder is not None and is_first():
        folder.mkdir(parents=True, exist_ok=True)
    header = {**spec.header(), "data": _identity(counts, sky)}
    draws = sample_segments(kernel, (sky,), kwargs, folder, header, resume, progress, devices=devices)
    if draws is None:
        return None
    values = natural(kernel, draws.positions, (sky,), kwargs)
    prior = _prior_draws(spec, sky, kwargs, plan.seed)
    if "field_direction" in values:
        values |= _angles("field", values["field_direction"])
        prior |= _angles("field", prior["field_direction"])
    if spec.symmetric:
        # About the same axis: a prior has none of its own, and folded about one it would look unlike itself.
        axis = principal_axis(values["field_direction"])
        for each in (values, prior):
            each |= fold_axis(each["field_direction"], axis)
            if "gradient_strength" in each:
                along = np.sum(each["field_direction"] * each["field_axis"], axis=-1)
                each["axis_strength"] = each["gradient_strength"] * along
    predicted = _predicted(counts, sky, values, plan.seed + 2)
    expected = _predicted(counts, sky, prior, plan.seed + 3, prior=True)
    names = Names(counts, sky)
    posterior = names.dataset(values).assign_attrs(_attributes(counts, sky, spec, plan, draws))
    before = names.dataset(prior)
    for name in posterior.data_vars:
        posterior[name].attrs["prior_distance"] = distance(before[name].values, posterior[name].values).ravel()
    posterior["delta_0h"].attrs["unit"] = posterior["delta_6h"].attrs["unit"] = "relative intensity"
    statistics = {k: (("chain", "draw"), v) for k, v in draws.statistics.items()}
    statistics["lp"] = (("chain", "draw"), -draws.statistics["potential_energy"])
    return container(
        {
            "posterior": posterior,
            "sample_stats": xr.Dataset(statistics, coords={d: posterior[d] for d in ("chain", "draw")}),
            "prior": before,
            **({"posterior_predictive": names.dataset(predicted)} if predicted else {}),
            **({"prior_predictive": names.dataset(expected)} if expected else {}),
            "observed_data": names.dataset(observed(counts), ()),
        }
    )


def _attributes(counts: Counts, sky: SkyLikelihood, spec: Specification, plan: Plan, draws: Draws) -> dict[str, Any]:
    return {
        "software": f"diffcr {diffcr.__version__}",
        "specification": json.dumps(spec.header()),
        "priors": json.dumps(spec.priors_in_use()),
        "model": spec.model,
        "l_max": spec.degree,
        "symmetric": int(spec.symmetric),
        "equinox": sky.frame,
        "time_frame": counts.time_frame,
        "num_events": int(counts.num_events.sum()),
        "effective_events": counts.effective_events,
        "blinded": int(counts.blinded),
        "nodes_per_ring": sky.nodes,
        "seed": plan.seed,
        "warmup": plan.warmup,
        "wall_seconds": draws.seconds_total,
        "wall_seconds_sampling": draws.seconds,
        "inputs": json.dumps(list(counts.inputs)),
    }


def fold_axis(direction: np.ndarray, axis: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Draws of a field known up to its sign, all turned to the side of an axis, and that side's angles.

    Args:
        direction: Unit vectors, shape (chain, draw, 3).
        axis: The axis, (3,); by default their principal one.

    Returns:
        field_axis (.., 3), field_axis_right_ascension_deg, field_axis_declination_deg.
    """
    axis = principal_axis(direction) if axis is None else axis
    folded = direction * np.where(direction @ axis < 0, -1.0, 1.0)[..., None]
    return {"field_axis": folded, **_angles("field_axis", folded)}


def principal_axis(direction: np.ndarray) -> np.ndarray:
    """The axis about which unit vectors (chain, draw, 3) scatter least; its end nearer to RA 6 h."""
    flat = direction.reshape(-1, 3)
    axis = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    return axis * (1 if axis[1] >= 0 else -1)


def _angles(name: str, vector: np.ndarray) -> dict[str, np.ndarray]:
    x, y, z = np.moveaxis(vector, -1, 0)
    return {
        f"{name}_right_ascension_deg": np.degrees(np.arctan2(y, x)) % 360,
        f"{name}_declination_deg": np.degrees(np.arctan2(z, np.hypot(x, y))),
    }


def _identity(counts: Counts, sky: SkyLikelihood) -> str:
    """Checksum of the data and of the shapes of the likelihood made of them.

    Not of its values: the maximum is found to rounding, and would tell one machine's threads from another's.
    """
    shapes = ",".join(str(np.shape(x)) for x in jax.tree.leaves(sky))
    arrays = {n: getattr(counts, n) for n in MARGINALS}
    if hasattr(sky, "acceptance"):
        # Rounded, as it is made with transforms.
        arrays |= {f"prior{k}": np.asarray(x, np.float32) for k, x in enumerate(jax.tree.leaves(sky.acceptance))}
    return hashlib.sha256((checksum(arrays) + shapes).encode()).hexdigest()


def _prior_draws(spec: Specification, sky: SkyLikelihood, kwargs: dict, seed: int) -> dict[str, np.ndarray]:
    """Draws of the prior of everything the posterior holds, arrays (1, draw, ..)."""

    def one(key):
        model = handlers.seed(handlers.block(spec.function, hide=["counts"]), key)
        trace = handlers.trace(model).get_trace(sky, **kwargs)
        return {k: v["value"] for k, v in trace.items() if v["type"] in ("sample", "deterministic")}

    keys = jax.random.split(jax.random.PRNGKey(seed + 1), _PRIOR_DRAWS)
    # One by one: batches of small matrices are what a processor's pool of threads can hang on (see `devices`).
    drawn = jax.jit(lambda k: jax.lax.map(one, k))(keys)
    return {k: np.asarray(v)[None] for k, v in drawn.items()}


def _predicted(
    counts: Counts, sky: SkyLikelihood, values: dict, seed: int, prior: bool = False
) -> dict[str, np.ndarray]:
    """Predicted counts of evenly spread draws, arrays (1, draw, ..).

    Nothing where no drawn sky is positive, or the acceptance has a prior: it is drawn from its free posterior here.
    """
    shape = values["theta_of_date"].shape[:2]
    flat = np.unique(np.linspace(0, shape[0] * shape[1] - 1, 4 * _PREDICTED).astype(int))
    theta = values["theta_of_date"][np.unravel_index(flat, shape)]
    if hasattr(sky, "acceptance"):
        return {}
    # A prior as wide as the sky is bright also draws skies that the likelihood forbids.
    kept = np.flatnonzero(positive_sky(counts, sky, theta))
    kept = kept[:: max(1, len(kept) // _PREDICTED)][:_PREDICTED]
    if not len(kept):
        return {}
    theta, which = theta[kept], np.unravel_index(flat[kept], shape)
    rates = values["log_rate"][which] if "log_rate" in values else None
    return {k: np.asarray(v)[None] for k, v in predictive(counts, sky, theta, rates, seed, prior).items()}


def sky_draws(posterior: Any, number: int) -> np.ndarray:
    """Multipoles of date of evenly spread draws of a posterior, shape (draw, param) or (draw, energy, param)."""
    theta = group(posterior, "posterior")["theta_of_date"].values
    flat = theta.reshape(-1, *theta.shape[2:])
    return flat[np.unique(np.linspace(0, len(flat) - 1, number).astype(int))]


def distance(prior: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance of prior and posterior draws (chain, draw, ..), for each component.

    0 where the data changed nothing, 1 where the two do not overlap, not a number where there is no such component.
    """
    before, after = (x.reshape(x.shape[0] * x.shape[1], -1) for x in (prior, posterior))
    out = np.empty(before.shape[1])
    for k in range(before.shape[1]):
        one, two = np.sort(before[:, k]), np.sort(after[:, k])
        if not np.isfinite(one[-1] + two[-1]):
            out[k] = np.nan
            continue
        points = np.concatenate([one, two])
        difference = np.searchsorted(one, points, "right") / len(one) - np.searchsorted(two, points, "right") / len(two)
        out[k] = np.max(np.abs(difference))
    return out.reshape(posterior.shape[2:])
