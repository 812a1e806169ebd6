"""Posterior of a physical model's numbers, given published dipoles or the counts of observatories, by NUTS."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import xarray as xr
from jaxtyping import Array, Float
from numpyro import handlers

import diffcr
from diffcr.composition import Response, response_energies
from diffcr.disc import Disc, tabulate
from diffcr.errors import InputError, require_float64
from diffcr.harmonics import dipole_to_coefficients, index
from diffcr.model import Parameters
from diffcr.transport import diffusion_tensor
from diffcr.typing import AnyArray
from diffcr.units import DEGREE

from .data import MARGINALS, Counts
from .dipole_likelihood import (
    DipoleData,
    dipole_data,
    expected_dipoles,
    log_likelihood,
    no_nuisances,
    overlap_correlation,
    pointwise_log_likelihood,
    sample_nuisances,
)
from .dipole_table import DipoleTable
from .models import counts as counts_site
from .named import container
from .posterior import _angles, distance, fold_axis, principal_axis
from .sampler import Kernel, Plan, checksum, natural, sample_segments
from .sky_likelihood import SkyLikelihood, sky_likelihood
from .source_coordinates import ODD, Geometry, Layout, Positions, make_locator, spread_starts
from .source_model import SourceModel

_PRIOR_DRAWS = 4000
_OUT = {"coordinates", "theta_of_date", "log_rate"}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One inference: a model, what it is fitted to, and the coordinates.

    Attributes:
        model: The physical model with its priors.
        layout: Order of the coordinates.
        geometry: Gaussian approximation of the posterior.
        function: The numpyro model; takes `arguments`.
        arguments: The data, as a tuple of pytrees.
        header: What identifies the run: JSON.
        data: Checksum of the data.
        labels: Dimension and labels of vector quantities, by name.
        events: Number of events behind the data; 0 for published dipoles.
        dense: Sites that share a dense mass matrix.
    """

    model: SourceModel
    layout: Layout
    geometry: Geometry
    function: Callable
    arguments: tuple
    header: dict[str, Any]
    labels: dict[str, tuple[str, list]]
    events: float = 0.0
    dense: tuple[str, ...] = ("coordinates",)


# What is fitted ------------------------------------------------------------------------------------------


def published_problem(
    table: DipoleTable,
    model: SourceModel,
    scale: float = 0.1,
    phase: float = 10 * DEGREE,
    scatter: float = 0.1,
    multipoles: float = 0.0,
    effects: Float[AnyArray, "effect row 3"] | None = None,
    extra: Callable[[dict], Array] | None = None,
    starts: int = 24,
    overlap: float = 1.0,
) -> Problem:
    """A model to be fitted to published dipoles.

    Args:
        table: Published dipoles; rows with use "fit" enter.
        model: The model, with priors.
        scale, phase, scatter: Widths of the experiments' systematic errors, see `sample_nuisances`.
        multipoles: Standard deviation of s_{2,+-1} and s_{3,+-1}, of a sky that all rows share; 0 for a pure dipole.
        effects: Dipoles of random supernovae beside the mean, a basis from `random_effects`; their strengths are
            Student-t with 4 degrees of freedom.
        extra: Another log-likelihood, a function of the numbers by name (such as of boron to carbon).
        starts: Starts of the search for the best fit.
        overlap: Standard deviation of ln E within a row: rows of one experiment scatter alike as far as their
            energies overlap, see `overlap_correlation`; 0 for independent scatter.

    Raises:
        InputError: If nothing is free, or no row is to be fitted.
    """
    if not (math.isfinite(multipoles) and multipoles >= 0):
        raise InputError(f"the spread of the multipoles must be finite and not negative, not {multipoles:g}")
    require_float64("a fit of published dipoles")
    model = tabulated(model)
    data = dipole_data(table, overlaps(table, overlap) if overlap else None)
    basis = jnp.zeros((0, len(data.energy), 3)) if effects is None else jnp.asarray(effects)
    layout = _layout(model, (4 if multipoles else 0) + len(basis))

    def prediction(x, data, basis):
        values = layout.values(x)
        parameters = model.parameters(values)
        strengths = layout.effects(x)
        dipole = model.forward.dipole(parameters, data.energy)
        dipole = dipole + _random(parameters, strengths[: len(basis)], basis)
        sky = model.forward.sky(parameters, dipole, 3)
        if multipoles:
            sky = sky.at[:, _FIRST_ORDER].add(multipoles * strengths[len(basis) :])
        return values, dipole, sky

    def residual(x, data, basis):
        return _published_residual(data, prediction(x, data, basis)[2], scale, phase, scatter)

    def function(data, basis, centre, root):
        x = numpyro.sample("coordinates", Positions(layout, centre, root))
        values, dipole, sky = prediction(x, data, basis)
        nuisances = sample_nuisances(data, scale, phase, scatter)
        numpyro.factor("published", log_likelihood(data, sky, nuisances))
        if extra is not None:
            numpyro.factor("extra", extra(values))
        _name(values, {"dipole": dipole, "expected": expected_dipoles(data, sky, nuisances)})
        if multipoles:
            numpyro.deterministic("multipoles", multipoles * layout.effects(x)[len(basis) :])
        numpyro.deterministic("log_likelihood", pointwise_log_likelihood(data, sky, nuisances))

    geometry = make_locator(layout, residual)((data, basis), starts)
    fitted = table.select("fit")
    rows = [f"{name} {energy:g} TeV" for name, energy in zip(fitted.experiment, fitted.energy, strict=True)]
    labels = {name: ("row", rows) for name in ("dipole", "expected", "log_likelihood")}
    labels |= {name: ("experiment", list(data.experiments)) for name in ("log_scale", "phase_offset", "scatter")}
    labels["multipoles"] = ("multipole", ["2,1", "2,-1", "3,1", "3,-1"])
    header = {"kind": "published dipoles", "scale": scale, "phase": phase, "scatter": scatter}
    header |= {"multipoles": multipoles, "effects": len(basis), "extra": extra is not None}
    arguments = (data, basis, jnp.asarray(geometry.centre), jnp.asarray(geometry.root))
    return Problem(model, layout, geometry, function, arguments, header, labels, dense=_DENSE)


def overlaps(table: DipoleTable, width: float) -> dict[str, np.ndarray]:
    """Correlation of the scatter between the fitted rows of each experiment, by its name."""
    fitted = table.select("fit")
    energies = {name: fitted.energy[fitted.experiment == name] for name in fitted.experiments}
    return {name: overlap_correlation(energy, width) for name, energy in energies.items() if len(energy) > 1}


class CountsRecipe:
    """How a model is fitted to counts: compiled once, for any number of data sets of one shape.

    Args:
        model: The model, with priors.
        response: True energies of the counts' energy bins, in their order.
        rates: "sampled", or "laplace" for Laplace's approximation.
        rate_bins, concentration, nodes: Of the likelihood, see `sky_likelihood`.
        effects: Dipoles of random supernovae beside the mean in each energy bin, from `random_effects`.
        extra: Another log-likelihood, a function of the numbers by name.
    """

    def __init__(
        self,
        model: SourceModel,
        response: Response,
        rates: str = "sampled",
        rate_bins: int | None = None,
        concentration: float = 1.0,
        effects: Float[AnyArray, "effect bin 3"] | None = None,
        extra: Callable[[dict], Array] | None = None,
        nodes: int | None = None,
    ):
        require_float64("a fit of counts")
        self.model, self.response, self.rates = tabulated(model), response, rates
        self.rate_bins, self.concentration, self.extra, self.nodes = rate_bins, concentration, extra, nodes
        self.bins = response_energies(response, self.model.forward.composition).shape[0]
        self.basis = jnp.zeros((0, self.bins, 3)) if effects is None else jnp.asarray(effects)
        self.layout = _layout(self.model, len(self.basis))
        self._locate = make_locator(self.layout, self._residual)

    def dipoles(self, x: Float[AnyArray, " coordinate"]) -> tuple[dict, Float[Array, "bin 3"]]:
        """The numbers by name, and the observed dipole of each energy bin."""
        values = self.layout.values(x)
        parameters = self.model.parameters(values)
        seen = self.model.forward.bin_dipole(parameters, self.response)
        return values, seen + _random(parameters, self.layout.effects(x), self.basis)

    def _residual(self, x, root, best, to_date):
        # The information is R R^T: the squares of these are -2 ln L in the Gaussian approximation.
        away = _of_date(self.dipoles(x)[1], to_date) - best
        return jnp.einsum("epq,ep->eq", root, away).reshape(-1)

    def function(self, sky: SkyLikelihood, centre: Array, root: Array) -> None:
        """The numpyro model."""
        x = numpyro.sample("coordinates", Positions(self.layout, centre, root))
        values, dipole = self.dipoles(x)
        counts_site(sky, _of_date(dipole, sky.to_date), self.rates)
        if self.extra is not None:
            numpyro.factor("extra", self.extra(values))
        _name(values, {"dipole": dipole})

    def problem(self, counts: Counts, starts: int = 24) -> Problem:
        """The fit of one data set.

        Raises:
            InputError: If the response has another number of energy bins than the counts.
        """
        sky = sky_likelihood(counts, 1, self.rate_bins, self.concentration, nodes=self.nodes)
        if len(sky.energies) != self.bins:
            raise InputError(
                f"the counts have {len(sky.energies)} energy bins ({', '.join(sky.energies)}), but {self.bins} "
                "energies are given: give one median energy for each bin, in this order"
            )
        information = np.asarray(sky.information)
        best = np.stack([np.linalg.solve(f, p) for f, p in zip(information, np.asarray(sky.pull), strict=True)])
        geometry = self._locate((np.linalg.cholesky(information), best, sky.to_date), starts)
        header = {"kind": "counts", "rates": self.rates, "concentration": self.concentration}
        header |= {"effects": len(self.basis), "extra": self.extra is not None}
        header["response"] = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(self.response)]
        header["counts"] = checksum({name: getattr(counts, name) for name in MARGINALS})
        arguments = (sky, jnp.asarray(geometry.centre), jnp.asarray(geometry.root))
        labels = {"dipole": ("energy", list(sky.energies))}
        events = float(counts.num_events.sum())
        return Problem(self.model, self.layout, geometry, self.function, arguments, header, labels, events)


def counts_problem(counts: Counts, model: SourceModel, response: Response, starts: int = 24, **options: Any) -> Problem:
    """A model to be fitted to the counts of observatories in energy bins; rates and acceptances are free.

    Args:
        counts: The binned data.
        model: The model, with priors.
        response: True energies of the counts' energy bins, in their order.
        starts: Starts of the search for the best fit.
        options: Of `CountsRecipe`.

    Raises:
        InputError: If nothing is free, or the response has another number of bins.
    """
    return CountsRecipe(model, response, **options).problem(counts, starts)


def random_effects(
    model: SourceModel, energy: Sequence[float] | np.ndarray, draws: int = 200, rank: int = 6, seed: int = 0
) -> Float[np.ndarray, "effect energy 3"]:
    """Main directions in which the dipoles of random supernovae scatter about their mean, over all energies together.

    They are of isotropic diffusion, 3 K grad n / n: a fit turns them with the local tensor that it samples. K and the
    halo are those of the model's own numbers. The scatter has heavy tails: the strength of each direction follows
    Student's t of 4 degrees of freedom, scaled to the central 68 % of its draws.

    Args:
        model: A model with an ensemble.
        energy: Energies [TeV].
        draws: Realisations.
        rank: Directions kept.
        seed: Of the realisations.

    Raises:
        InputError: If the model has no ensemble.
    """
    from .model_files import with_observer
    from .predict import predict_band

    if model.ensemble is None:
        raise InputError(f"the model {model.name} has no [ensemble] of random supernovae")
    plain = {"perpendicular": 1.0, "antisymmetric": 0.0, "parallel_factor": 1.0, "transition_energy_TeV": math.inf}
    bare = dataclasses.replace(with_observer(model, "none"), values=model.values | plain, sources=())
    dipoles = predict_band(bare, energy, draws, seed, vary=False).dipole.reshape(draws, -1)
    centred = dipoles - np.median(dipoles, axis=0)
    # Each energy counts alike, and single realisations with a source next door do not choose the directions.
    size = np.median(np.abs(centred), axis=0)
    scaled = centred / size
    scaled /= np.maximum(1, np.linalg.norm(scaled, axis=1, keepdims=True) / (3 * math.sqrt(scaled.shape[1])))
    axes = np.linalg.svd(scaled, full_matrices=False)[2][:rank]
    width = np.quantile(np.abs((centred / size) @ axes.T), 0.68, axis=0) / _T_68
    return (width[:, None] * axes * size).reshape(len(axes), -1, 3)


def _random(parameters: Parameters, strengths: Array, basis: Array) -> Array:
    """Dipoles of the random effects, (row, 3), seen through the local tensor: f [BB + r (1 - BB) + a eps B]."""
    field = parameters.field / jnp.linalg.norm(parameters.field)
    tensor = diffusion_tensor(1.0, parameters.perpendicular, parameters.antisymmetric, field)
    isotropic = jnp.einsum("f,fek->ek", heavy_tailed(strengths), basis)
    return parameters.parallel_factor * isotropic @ tensor.T


# Sampling ------------------------------------------------------------------------------------------------


def sample_problem(
    problem: Problem,
    plan: Plan | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> Any:
    """Sample the posterior of a problem.

    Args:
        problem: From `published_problem` or `counts_problem`.
        plan: Chains, steps, seed.
        folder: Where finished segments are kept, so that a killed run can be resumed.
        resume: Continue the run in the folder.
        progress: Called with steps done, steps in all, and seconds.

    Returns:
        An ArviZ object with the groups posterior, prior, sample_stats and, for published dipoles, log_likelihood.
        Quantities have the names and units of the model file; "dipole" is (delta_0h, delta_6h, delta_N) of each energy
        bin or row; the field is given by the angles of its axis where B and -B cannot be told apart.
    """
    plan = plan or Plan(draws=1000, target_accept=0.9)
    mirror = problem.layout.mirror()
    flip = None if mirror is None else {"coordinates": jnp.asarray(mirror)}
    kernel = Kernel(problem.function, plan, flip, problem.dense)
    header = {**identity(problem), "data": _data_checksum(problem)}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    at = {"coordinates": jnp.asarray(spread_starts(problem.geometry, plan.chains, plan.seed))}
    draws = sample_segments(kernel, problem.arguments, {}, folder, header, resume, progress, at)
    values = natural(kernel, draws.positions, problem.arguments, {})
    prior = _prior(problem, plan.seed)
    for name in problem.layout.directions:
        values |= _angles(name, values[name])
        prior |= _angles(name, prior[name])
    if mirror is not None:
        axis = principal_axis(values["field"])
        for found in (values, prior):
            # What changes sign with the field is given for the end of the axis that is reported.
            side = np.where(found["field"] @ axis < 0, -1.0, 1.0)
            found |= {name: found[name] * side for name in ODD if name in found}
            found |= fold_axis(found["field"], axis)
    pointwise = values.pop("log_likelihood", None)
    prior.pop("log_likelihood", None)
    posterior, before = _dataset(problem, values), _dataset(problem, prior)
    for name in posterior.data_vars:
        if name in before:
            posterior[name].attrs["prior_distance"] = distance(before[name].values, posterior[name].values).ravel()
    posterior = posterior.assign_attrs(
        {
            "software": f"diffcr {diffcr.__version__}",
            "specification": json.dumps(identity(problem)),
            "symmetric": int(mirror is not None),
            "num_events": problem.events,
            "other_modes": len(problem.geometry.others),
            "seed": plan.seed,
            "warmup": plan.warmup,
            "wall_seconds": draws.seconds_total,
            "wall_seconds_sampling": draws.seconds,
        }
    )
    statistics = {k: (("chain", "draw"), v) for k, v in draws.statistics.items()}
    statistics["lp"] = (("chain", "draw"), -draws.statistics["potential_energy"])
    groups = {
        "posterior": posterior,
        "sample_stats": xr.Dataset(statistics, coords={d: posterior[d] for d in ("chain", "draw")}),
        "prior": before,
    }
    if pointwise is not None:
        groups["log_likelihood"] = _dataset(
            problem, {"published": pointwise}, {"published": problem.labels["log_likelihood"]}
        )
    return container(groups)


def identity(problem: Problem) -> dict[str, Any]:
    """What a run is of, as JSON: the model's numbers, priors and settings, and the treatment of the data."""
    model = problem.model
    priors = {k: v if isinstance(v, str) else v.as_table() for k, v in sorted(model.priors.items())}
    settings = {k: v for k, v in model.settings.items() if isinstance(v, str | float | int)}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(model.values.items())}
    return {
        "model": model.name,
        **settings,
        "observer": model.observer,
        "values": values,
        "priors": priors,
        **problem.header,
    }


def tabulated(model: SourceModel) -> SourceModel:
    """The model with a table of its disc, for fits."""
    if not isinstance(model.forward.disc, Disc):
        return model
    return dataclasses.replace(model, forward=dataclasses.replace(model.forward, disc=tabulate(model.forward.disc)))


def _of_date(dipole: Array, to_date: Array) -> Array:
    return dipole_to_coefficients(dipole)[:, 1:] @ to_date[:, 1:4].T


def _layout(model: SourceModel, extra: int) -> Layout:
    layout = Layout(model, extra)
    if not model.priors:
        raise InputError(f"the model {model.name} has no priors: nothing in it is free; add a table [priors]")
    return layout


def _published_residual(data: DipoleData, sky: Array, scale: float, phase: float, scatter: float) -> Array:
    """Residuals with the experiments' systematic errors in quadrature: what the sampler's coordinates are made of."""
    mean = expected_dipoles(data, sky, no_nuisances(data))
    along = jnp.where(data.is_limit[:, None], 0.0, data.value)
    across = jnp.stack([-along[:, 1], along[:, 0]], axis=-1)
    spread = (scatter**2) * (jnp.asarray(data.size)[data.group] ** 2)[:, None, None] * jnp.eye(2)
    covariance = data.covariance + spread
    for width, axis in ((scale, along), (phase, across)):
        covariance = covariance + width**2 * axis[:, :, None] * axis[:, None, :]
    root = jnp.linalg.cholesky(covariance)
    white = jax.vmap(lambda r, d: jax.scipy.linalg.solve_triangular(r, d, lower=True))(root, data.value - mean)
    # A limit pulls only from above.
    over = jax.nn.relu(jnp.sqrt(jnp.sum(mean**2, axis=-1) + 1e-30) - data.limit) / jnp.sqrt(data.covariance[:, 0, 0])
    one_sided = jnp.stack([over, jnp.zeros_like(over)], axis=-1)
    return jnp.where(data.is_limit[:, None], one_sided, white).reshape(-1)


def heavy_tailed(z: Float[AnyArray, "*any"]) -> Float[Array, "*any"]:
    """Unit normals to Student's t of 4 degrees of freedom, whose quantile function has a closed form (Shaw 2006)."""
    p = jnp.clip(jax.scipy.stats.norm.cdf(jnp.clip(z, -7, 7)), 1e-13, 1 - 1e-13)
    alpha = jnp.sqrt(jnp.clip(4 * p * (1 - p), 1e-13, 1 - 1e-15))
    size = 2 * jnp.sqrt(jnp.clip(jnp.cos(jnp.arccos(alpha) / 3) / alpha - 1, 1e-16))
    # About the median the form above loses its digits; there t is proportional to z.
    return jnp.where(jnp.abs(z) < 1e-3, _SLOPE * z, jnp.sign(z) * size)


_SPREADS = ("log_scale", "phase", "scatter")
_DENSE = ("coordinates", *(f"{name}_{part}" for name in _SPREADS for part in ("spread", "unit")))
_FIRST_ORDER = np.array([index(2, 1), index(2, -1), index(3, 1), index(3, -1)])
_T_68 = 1.1341
"""Half of the central 68 % of Student's t of 4 degrees of freedom."""
_SLOPE = 1 / math.sqrt(2 * math.pi) / 0.375
"""Density of a unit normal over that of Student's t at the median."""


def _name(values: dict, more: dict) -> None:
    for name, value in {**values, **more}.items():
        numpyro.deterministic(name, jnp.asarray(value))


def _prior(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Draws of the prior of everything the posterior holds, arrays (1, draw, ..)."""

    def one(key):
        hidden = handlers.block(problem.function, hide=["counts", "published", "extra"])
        trace = handlers.trace(handlers.seed(hidden, key)).get_trace(*problem.arguments)
        return {k: v["value"] for k, v in trace.items() if v["type"] in ("sample", "deterministic")}

    keys = jax.random.split(jax.random.PRNGKey(seed + 1), _PRIOR_DRAWS)
    drawn = jax.jit(lambda k: jax.lax.map(one, k, batch_size=100))(keys)
    return {k: np.asarray(v)[None] for k, v in drawn.items()}


def _data_checksum(problem: Problem) -> str:
    leaves = [
        np.asarray(leaf, np.float32)
        for leaf in jax.tree.leaves(problem.arguments)
        if np.asarray(leaf).dtype.kind in "fbi"
    ]
    if problem.header["kind"] == "counts":
        # The likelihood is found to rounding; the counts' own checksum stands in the header.
        return hashlib.sha256(",".join(str(x.shape) for x in leaves).encode()).hexdigest()
    return checksum({str(k): x for k, x in enumerate(leaves)})


def _dataset(problem: Problem, values: dict[str, np.ndarray], labels: dict | None = None) -> xr.Dataset:
    labels = problem.labels if labels is None else labels
    out = {}
    for name, value in values.items():
        if name in _OUT or name.endswith(("_unit",)):
            continue
        own = value.shape[2:]
        dims, coords = [], {}
        for k, size in enumerate(own):
            if k == 0 and name in labels and size == len(labels[name][1]):
                dims.append(labels[name][0])
                coords[dims[-1]] = labels[name][1]
            elif k == len(own) - 1 and size == 3:
                dims.append("axis")
                coords["axis"] = ["0h", "6h", "north"]
            elif k == len(own) - 1 and size == 2:
                dims.append("component")
                coords["component"] = ["0h", "6h"]
            else:
                dims.append(f"{name}_dim_{k}")
        out[name] = xr.DataArray(value, dims=("chain", "draw", *dims), coords=coords, name=name)
    data = xr.Dataset(out)
    return data.assign_coords({d: np.arange(data.sizes[d]) for d in ("chain", "draw")})
