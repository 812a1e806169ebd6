"""Simulation-based calibration: truths from the prior, data from the truths, posteriors, and the ranks between.

If model, simulation and sampler belong together, the rank of the truth among L independent posterior draws is
uniform on 0 .. L for every quantity (Cook, Gelman & Rubin 2006, J. Comput. Graph. Stat. 15, 675; Talts et al.
2018, arXiv:1804.06788). The data here are drawn conditionally on the local map, as the likelihood has it: the
events of each local cell, a number that does not know the truth, are shared out over time by N_tau I_{tau i}.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import util
from scipy import stats

from diffcr.counts import MarginalCounts, east_weight, expected_marginals
from diffcr.errors import InputError, require_float64
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.site import Site

from .data import Counts
from .models import DIPOLE_NORM
from .sampler import Kernel, Plan
from .sky_likelihood import SkyLikelihood
from .specification import Specification

LEVELS = {"68": 0.6827, "95": 0.95}
"""Credible intervals whose coverage is counted, by name."""

_FEWEST = 25.0
"""Rings on which fewer events are expected are left out: an empty one would change the shape of the data."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of the truths among posterior draws, of many simulated data sets.

    Attributes:
        header: Model and priors (`Specification.header`) and how the data were simulated.
        names: Of the quantities.
        kinds: "sky", "hyper" (hyper-parameters and nuisances of the sky), "rate", "prior" (what the data do not know)
            or "data" (the log-likelihood, which sees data that the posterior ignores), one for each quantity.
        truths: Shape (set, quantity).
        ranks: Number of the `of_draws` thinned posterior draws below the truth, ties at random, (set, quantity).
        of_draws: L: ranks go from 0 to L.
        means, errors: Posterior mean and standard deviation, (set, quantity).
        inside: Whether the equal-tailed credible interval of each of `LEVELS` holds the truth, (level, set, quantity).
        r_hat, ess: Split R-hat and effective number of draws of each posterior, (set, quantity).
        divergences: Per set, all chains together.
        num_steps: Mean leapfrog steps per draw, per set.
        seconds: Wall time.
    """

    header: dict[str, Any]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    truths: np.ndarray
    ranks: np.ndarray
    of_draws: int
    means: np.ndarray
    errors: np.ndarray
    inside: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    divergences: np.ndarray
    num_steps: np.ndarray
    seconds: float

    @property
    def sets(self) -> int:
        """Number of simulated data sets."""
        return len(self.ranks)

    @property
    def bins(self) -> int:
        """Bins of the rank histograms: at most 20, a divisor of L + 1, some ten sets or more in each."""
        most = max(2, min(20, self.sets // 10))
        return max(b for b in range(1, most + 1) if (self.of_draws + 1) % b == 0)

    def histogram(self, quantity: int) -> np.ndarray:
        """Number of sets per bin of ranks, shape (bins,)."""
        return np.histogram(self.ranks[:, quantity], bins=self.bins, range=(0, self.of_draws + 1))[0]

    def chi2_p(self, quantity: int) -> float:
        """p-value of Pearson's chi-squared of the histogram against a flat one; 1 where there is only one bin."""
        return float(stats.chisquare(self.histogram(quantity)).pvalue) if self.bins > 1 else 1.0

    def ks_p(self, quantity: int) -> float:
        """Kolmogorov-Smirnov p-value; ranks are spread over their width of 1 / (L + 1) by fixed random numbers."""
        spread = np.random.default_rng(quantity).uniform(size=self.sets)
        return float(stats.kstest((self.ranks[:, quantity] + spread) / (self.of_draws + 1), "uniform").pvalue)

    def p_value(self, quantity: int) -> float:
        """The smaller of the two p-values, times two."""
        return min(1.0, 2 * min(self.chi2_p(quantity), self.ks_p(quantity)))

    def holm_p(self, kinds: Sequence[str] = ("sky", "hyper")) -> float:
        """Smallest p-value of the quantities of these kinds, corrected for their number (Holm 1979); 1 without any."""
        values = [self.p_value(k) for k, kind in enumerate(self.kinds) if kind in kinds]
        return min(1.0, len(values) * min(values)) if values else 1.0

    def coverage(self, level: str) -> np.ndarray:
        """Fraction of sets whose interval at "68" or "95" holds the truth, shape (quantity,)."""
        return self.inside[list(LEVELS).index(level)].mean(axis=0)

    @property
    def pulls(self) -> np.ndarray:
        """(posterior mean - truth) / posterior standard deviation, shape (set, quantity)."""
        return (self.means - self.truths) / self.errors

    @property
    def converged_share(self) -> float:
        """Share of sets in which every quantity has R-hat below 1.05."""
        return float(np.mean(np.all(self.r_hat < 1.05, axis=1)))

    def to_dict(self) -> dict[str, Any]:
        """Everything that a table needs, as JSON."""
        pulls = self.pulls
        quantities = {}
        for k, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            quantities[name] = {
                "kind": kind,
                "chi2_p": _rounded(self.chi2_p(k)),
                "ks_p": _rounded(self.ks_p(k)),
                **{f"coverage_{level}": _rounded(self.coverage(level)[k]) for level in LEVELS},
                "pull_mean": _rounded(pulls[:, k].mean()),
                "pull_mean_error": _rounded(pulls[:, k].std(ddof=1) / math.sqrt(self.sets)) if self.sets > 1 else None,
                "pull_width": _rounded(pulls[:, k].std()),
                "r_hat_max": _rounded(self.r_hat[:, k].max()),
                "ess_mean": _rounded(self.ess[:, k].mean()),
                "ess_min": _rounded(self.ess[:, k].min()),
                "rank_histogram": self.histogram(k).tolist(),
            }
        kinds = sorted(set(self.kinds))
        tested = [k for k, kind in enumerate(self.kinds) if kind in ("sky", "hyper")]
        extremes = {}
        for level in LEVELS:
            found = self.coverage(level)[tested]
            extremes[f"coverage_{level}"] = [_rounded(found.min()), _rounded(found.max())]
        return {
            **self.header,
            "sets": self.sets,
            "ranks_of_draws": self.of_draws,
            "holm_p_sky_and_hyper": _rounded(self.holm_p()),
            "holm_p": {kind: _rounded(self.holm_p((kind,))) for kind in kinds},
            **extremes,
            "divergences": int(self.divergences.sum()),
            "sets_with_divergences": int((self.divergences > 0).sum()),
            "share_r_hat_below_1.05": _rounded(self.converged_share),
            "ess_mean": _rounded(self.ess.mean()),
            "leapfrog_steps_mean": _rounded(self.num_steps.mean()),
            "seconds": round(self.seconds, 1),
            "quantities": quantities,
        }

    def figure(self):
        """Rank histograms of all quantities, with the band that holds 95 % of the bins of uniform ranks.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        bins, count = self.bins, len(self.names)
        columns = min(5, count)
        rows = -(-count // columns)
        figure = Figure(figsize=(2.1 * columns, 1.5 * rows + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        low, high = stats.binom(self.sets, 1 / bins).ppf([0.025, 0.975])
        place = (np.arange(bins) + 0.5) / bins
        for k, name in enumerate(self.names):
            axes = figure.add_subplot(rows, columns, k + 1)
            axes.axhspan(low, high, color="0.85", lw=0)
            axes.axhline(self.sets / bins, color="0.5", lw=0.8)
            axes.bar(place, self.histogram(k), width=1 / bins, color="#0072B2", alpha=0.8)
            axes.set_title(f"{name}  p = {self.p_value(k):.2g}", fontsize=7)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, None)
            axes.tick_params(labelsize=6)
        figure.supxlabel(f"rank of the truth among {self.of_draws} draws / {self.of_draws + 1}", fontsize=8)
        figure.supylabel(f"data sets of {self.sets}", fontsize=8)
        return figure


def _rounded(value) -> float:
    return float(f"{float(value):.4g}")


def calibrate(
    spec: Specification,
    sites: Sequence[Site],
    acceptances: Sequence[np.ndarray],
    grid: RingGrid,
    events: float | Sequence[float],
    sets: int,
    seed: int,
    energies: int = 1,
    epoch: float = 2015.0,
    warmup: int = 150,
    draws: int = 250,
    max_tree_depth: int = 5,
    ranks: int = 99,
    batch: int = 10,
    dipole: tuple[float, float] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Calibration:
    """Draw truths from the model's own priors, data from these, sample every posterior with two chains, and rank.

    Args:
        spec: The model and its priors. They must be narrow enough that no sky they draw is negative, and the
            concentration of the rates large enough that no time bin is empty: 200 scatters them by 7 %.
        sites: Observatories.
        acceptances: Relative acceptance of each, shape (ring, hour_angle).
        grid: The ring grid; a coarse one will do.
        events: Expected events of each configuration: one value, or one for each site.
        sets: Number of data sets.
        seed: Of all random numbers.
        energies: Energy bins of each site.
        epoch: Mean epoch of the data [Julian year].
        warmup, draws: Steps of each of the two chains of a set.
        max_tree_depth: As in `Plan`. Lower than there: all chains of a batch wait for the longest trajectory, and
            the first steps of the adaptation would be of the greatest length in some chain.
        ranks: Draws that a truth is ranked among, taken evenly from both chains.
        batch: Data sets sampled side by side; many more than this no longer fit into a cache.
        dipole: (delta_0h, delta_6h) in J2000 of every truth, in place of draws from the prior; for the models "dipole"
            and "multipoles". Ranks are then not uniform where the prior matters; the pulls tell the bias.
        progress: Called after each batch with sets done, sets in all, and seconds.

    Raises:
        InputError: If a prior draws a negative sky, a time bin stays empty, or an argument does not fit.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.sbc")
    began = time.monotonic()
    _check(spec, sites, acceptances, grid, sets, draws, ranks, batch, dipole)
    expected = _expected_events(sites, acceptances, grid, events)
    groups = spec.rate_bins or grid.n_ra
    spec = dataclasses.replace(spec, rate_bins=groups)

    template = spec.likelihood(_isotropic(sites, expected, grid, energies, epoch), nodes=grid.n_ra)
    keys = jax.random.split(jax.random.PRNGKey(seed), sets)
    truths = jax.jit(jax.vmap(lambda key: _truth(spec, template, key, dipole)))(keys)
    theta, log_rates = np.asarray(truths["theta"]), np.asarray(truths["log_rate"])
    if not np.all(np.isfinite(theta)):
        raise InputError("the priors draw multipoles that are not finite; narrow them")

    plan = Plan(chains=2, warmup=warmup, draws=draws, target_accept=spec.target_accept, max_tree_depth=max_tree_depth)
    kernel = Kernel(spec.function, plan, spec.mirror(template), spec.dense)
    sample = jax.jit(jax.vmap(functools.partial(_sample, spec, kernel)))
    parts = []
    for first in range(0, sets, batch):
        # The last batch is filled up with data sets that are sampled and thrown away: one compilation for all.
        number = [min(first + k, sets - 1) for k in range(batch)]
        skies = []
        for k in number:
            rng = np.random.default_rng([seed, k])
            counts = _draw(rng, sites, expected, grid, theta[k], log_rates[k], template, epoch)
            skies.append(spec.likelihood(counts, nodes=grid.n_ra))
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *skies)
        found = sample(keys[np.array(number)], stacked, theta[number], log_rates[number])
        parts.append(jax.tree.map(lambda x, kept=min(batch, sets - first): np.asarray(x)[:kept], found))
        if progress is not None:
            progress(min(first + batch, sets), sets, time.monotonic() - began)
    found = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    header = {
        "specification": spec.header(),
        "sites": [s.name for s in sites],
        "grid": list(grid.shape),
        "events": [float(e.sum()) for e in expected],
        "energies": energies,
        "seed": seed,
        "warmup": warmup,
        "draws": draws,
        "chains": 2,
        "max_tree_depth": max_tree_depth,
    } | ({} if dipole is None else {"true_dipole": list(dipole)})
    return _ranked(spec, template, truths, found, seed, ranks, header, time.monotonic() - began)


def _check(spec, sites, acceptances, grid, sets, draws, ranks, batch, dipole) -> None:
    if len(sites) != len(acceptances) or not sites:
        raise InputError(f"{len(sites)} sites have {len(acceptances)} acceptances; give one for each")
    for site, values in zip(sites, acceptances, strict=True):
        if np.shape(values) != grid.shape:
            raise InputError(
                f"the acceptance of {site.name} has shape {np.shape(values)}, the grid is {grid.shape}; make it anew"
            )
    for name, value, least in (("sets", sets, 1), ("batch", batch, 1), ("ranks", ranks, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if ranks > 2 * draws:
        raise InputError(f"{2 * draws} draws cannot give {ranks} to rank among; raise draws or lower ranks")
    if dipole is not None and spec.model in ("local-field", "small-scale"):
        raise InputError(
            f"the model {spec.model} makes its dipole from the field; a true dipole can be given for others"
        )


def _expected_events(sites, acceptances, grid, events) -> list[np.ndarray]:
    """Expected events per local cell of each site, without rings that may stay empty."""
    out = []
    for site, values, number in zip(sites, acceptances, np.broadcast_to(events, len(sites)), strict=True):
        if not (np.isfinite(number) and number >= 10 * grid.n_ra):
            raise InputError(f"{number:g} events of {site.name} leave time bins empty; simulate 1e5 or more")
        local = number * np.asarray(values, float) / np.sum(values)
        out.append(np.where(local.sum(axis=1, keepdims=True) >= _FEWEST, local, 0.0))
    return out


# --- Truths and data --------------------------------------------------------------------------------------


def _truth(spec: Specification, sky: SkyLikelihood, key, dipole) -> dict:
    """Quantities, multipoles of date and ln relative rates of one draw of the priors."""
    model = dataclasses.replace(spec, rates="sampled").function
    # The coordinates of the field direction are of no importance to its prior.
    trace = handlers.trace(handlers.seed(model, key)).get_trace(sky)
    if dipole is not None:
        values = {k: v["value"] for k, v in trace.items() if v["type"] == "sample" and not v["is_observed"]}
        vector = jnp.asarray(dipole) * DIPOLE_NORM if spec.model == "multipoles" else jnp.asarray(dipole)
        place = jnp.array(sky.dipole_places[:2] if spec.model == "multipoles" else (0, 1))
        values[spec.model if spec.model == "dipole" else "multipoles"] = (
            values[spec.model if spec.model == "dipole" else "multipoles"].at[place].set(vector)
        )
        trace = handlers.trace(handlers.substitute(handlers.seed(model, key), values)).get_trace(sky)
    return {
        "values": _quantities(spec, sky, {k: v["value"] for k, v in trace.items()}),
        "theta": jnp.broadcast_to(trace["log_rate"]["fn"].theta, sky.centre.shape),
        "log_rate": _log_relative(sky, trace["log_rate"]["value"]),
    }


def _log_relative(sky: SkyLikelihood, log_rates):
    """ln of the relative rates of the groups, which sum to 1, shape (configuration, group)."""
    start = sky.block.rate_modes[:, -1]
    absolute = log_rates + jnp.log(start)
    return absolute - logsumexp(absolute, axis=1, keepdims=True)


def draw_conditional(
    rng: np.random.Generator, n_local: np.ndarray, rate: np.ndarray, sky: np.ndarray
) -> MarginalCounts:
    """Share the events of each local cell out over the time bins, with probabilities proportional to N_tau I_{tau i}.

    Args:
        rng: NumPy generator.
        n_local: Events of each local cell, whole numbers, shape (ring, hour_angle).
        rate: Relative rate N_tau, shape (time,).
        sky: Relative intensity I, shape (ring, ra); positive.

    Returns:
        The marginals of the drawn cube; its local map is `n_local`.
    """
    n = len(rate)
    ring, angle = np.nonzero(n_local)
    column = (np.arange(n) - angle[:, None]) % n
    share = rate * sky[ring[:, None], column]
    cells = rng.multinomial(n_local[ring, angle], share / share.sum(axis=1, keepdims=True))
    east = rng.binomial(cells, np.broadcast_to(east_weight(n)[angle][:, None], cells.shape))
    seen, half = np.zeros(sky.shape), np.zeros((2, *sky.shape))
    np.add.at(seen, (ring[:, None], column), cells)
    np.add.at(half[0], ring, east)
    np.add.at(half[1], ring, cells - east)
    return MarginalCounts(seen, cells.sum(axis=0).astype(float), np.asarray(n_local, float), half)


def _draw(rng, sites, expected, grid, theta, log_rates, sky: SkyLikelihood, epoch) -> Counts:
    """One data set. theta: (energy, param) of date; log_rates: (configuration, group)."""
    energies = len(theta)
    degree, order = np.array(sky.degree), np.array(sky.order)
    coefficients = np.zeros((energies, (sky.l_max + 1) ** 2))
    coefficients[:, degree**2 + degree + order] = theta
    intensity = 1 + np.asarray(_synthesis(coefficients, grid))
    exposed = np.sum(expected, axis=(0, 2)) > 0
    if intensity[:, exposed].min() <= 0:
        raise InputError(
            f"the priors draw a sky that is negative somewhere (its lowest relative intensity is "
            f"{intensity[:, exposed].min():.2g}): the likelihood has no such sky; give narrower priors"
        )
    parts, number = [], np.zeros((len(sites), energies, 1), np.int64)
    for s, local in enumerate(expected):
        for e in range(energies):
            rate = np.repeat(np.exp(log_rates[s * energies + e]), grid.n_ra // log_rates.shape[1])
            n_local = rng.poisson(local)
            parts.append(draw_conditional(rng, n_local, rate, intensity[e]))
            number[s, e] = n_local.sum()
            if parts[-1].time.reshape(log_rates.shape[1], -1).sum(axis=1).min() < 1:
                raise InputError(
                    "a time bin of the simulation stays empty; raise the concentration of the rates' prior (200 "
                    "scatters them by 7 %), the events, or lower rate_bins"
                )
    return _as_counts(sites, grid, parts, number, epoch)


_synthesis = jax.jit(functools.partial(synthesis, cell_average=True), static_argnums=1)


def _as_counts(sites, grid, parts: list[MarginalCounts], number: np.ndarray, epoch: float) -> Counts:
    def stacked(name):
        values = np.stack([np.asarray(getattr(part, name), float) for part in parts])
        # Transforms leave rounding of either sign where there is exactly nothing.
        values = np.where(values > 1e-12 * values.max(), values, 0.0)
        return values.reshape(*number.shape, *values.shape[1:])

    return Counts(
        grid=grid,
        sites=tuple(sites),
        energies=tuple(f"bin {e}" for e in range(number.shape[1])),
        epochs=("all",),
        **{f"n_{name}": stacked(name) for name in MarginalCounts._fields},
        num_events=number,
        mean_epoch=np.full(number.shape, epoch),
        livetime=np.full(number.shape, 365.0),
        history={"simulated": True},
    )


def _isotropic(sites, expected, grid, energies, epoch) -> Counts:
    """Expected counts of an isotropic sky at constant rate: for what depends on the setup, not on the data."""
    rate, flat = np.full(grid.n_ra, 1 / grid.n_ra), np.ones(grid.shape)
    parts = [expected_marginals(rate, local, flat) for local in expected for _ in range(energies)]
    number = np.broadcast_to(np.array([round(x.sum()) for x in expected])[:, None, None], (len(sites), energies, 1))
    return _as_counts(sites, grid, parts, number.astype(np.int64), epoch)


# --- Posteriors -------------------------------------------------------------------------------------------


def _sample(spec: Specification, kernel: Kernel, key, sky: SkyLikelihood, theta, log_rate) -> dict:
    """Two chains of one data set; quantities (draw, chain, ..), and the log-likelihood of the truth."""
    args, kwargs = (sky,), spec.arguments(sky)
    plan = kernel.plan
    carry = jax.vmap(lambda own: kernel.start(own, args, kwargs))(jax.random.split(key, plan.chains))

    def step(carry, _):
        carry, (z, statistics) = jax.vmap(lambda own: kernel.step(own, args, kwargs))(carry)
        return carry, (z, statistics["diverging"], statistics["num_steps"])

    _, (z, diverging, steps) = jax.lax.scan(step, carry, length=plan.warmup + plan.draws)
    z, diverging, steps = jax.tree.map(lambda x: x[plan.warmup :], (z, diverging, steps))

    def look(z):
        values = util.constrain_fn(kernel.model, args, kwargs, z, return_deterministic=True)
        out = {"values": _quantities(spec, sky, values)}
        if "log_rate" in values:
            own = handlers.trace(handlers.substitute(handlers.seed(kernel.model, key), values))
            relative = _log_relative(sky, values["log_rate"])
            out["log_rate"] = relative
            out["log_likelihood"] = _log_likelihood(
                sky, own.get_trace(*args, **kwargs)["log_rate"]["fn"].theta, relative
            )
        return out

    found = jax.lax.map(jax.vmap(look), z)
    return found | {
        "true_log_likelihood": _log_likelihood(sky, theta if len(sky.energies) > 1 else theta[0], log_rate),
        "divergences": jnp.sum(diverging),
        "num_steps": jnp.mean(steps),
    }


def _log_likelihood(sky: SkyLikelihood, theta, log_relative):
    """ln L with the scale of the rates, which is no parameter, at its centre."""
    return sky.log_likelihood(theta, log_relative - jnp.log(sky.block.rate_modes[:, -1]))


def _quantities(spec: Specification, sky: SkyLikelihood, values: dict) -> dict[str, jax.Array]:
    """Everything that has a meaning, as scalars by "kind/name"; of a field only what B -> -B leaves as it is."""
    out = {}
    if spec.model == "local-field":
        out |= _field_quantities(spec, sky, values)
    elif spec.model == "small-scale":
        out |= _small_scale_quantities(sky, values)
    elif spec.model == "multipoles":
        for k, (l, m) in enumerate(zip(sky.degree, sky.order, strict=True)):
            if l > 1:
                out[f"sky/a_{l},{m}"] = values["multipoles"][k]
        if spec.prior("power") != "fixed":
            for k in range(sky.l_max - 1):
                out[f"hyper/ln C_{k + 2}"] = jnp.log(values["power"][k])
        for name in ("power_index", "log_depth"):
            if name in values:
                out[f"hyper/{name}"] = values[name]
    for name in ("delta_0h", "delta_6h", "delta_N", "amplitude"):
        known = name != "delta_N" or spec.model in ("local-field", "small-scale")
        for e, value in enumerate(jnp.atleast_1d(values[name])):
            out[f"{'sky' if known else 'prior'}/{name}" + (f"[{e}]" if len(sky.energies) > 1 else "")] = value
    return out


def _field_quantities(spec: Specification, sky: SkyLikelihood, values: dict) -> dict[str, jax.Array]:
    field = values["field_direction"]
    out = _axis_quantities(field)
    if "perpendicular" in values:
        out["hyper/ln perpendicular"] = jnp.log(values["perpendicular"])
    if "antisymmetric" in values:
        out["hyper/|antisymmetric|"] = jnp.abs(values["antisymmetric"])
        for i in range(3):
            out[f"hyper/antisymmetric B_{'xyz'[i]}"] = values["antisymmetric"] * field[i]
    if "spectral_index" in values:
        out["hyper/spectral_index"] = values["spectral_index"]
    if "velocity" in values:
        out |= {f"hyper/velocity_{'xyz'[i]}": values["velocity"][i] for i in range(3)}
    tensor = spec.prior("transport") == "tensor"
    count = len(sky.energies) * (3 if tensor else 1)
    for k in range(count):
        if tensor:
            out[f"sky/gradient_{'xyz'[k % 3]}[{k // 3}]"] = values["sources"][k]
        else:
            # A strength changes its sign with B.
            out[f"sky/strength B_x[{k}]"] = values["sources"][k] * field[0]
            out[f"sky/|strength|[{k}]"] = jnp.abs(values["sources"][k])
    if "profile" in values:
        for k in range(sky.l_max - 1):
            odd = k % 2 == 1
            out[f"sky/p_{k + 2}" + " B_x" * odd] = values["profile"][k] * (field[0] if odd else 1.0)
    return out


def _axis_quantities(field) -> dict[str, jax.Array]:
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    return {f"sky/B_{'xyz'[i]} B_{'xyz'[j]}": field[i] * field[j] for i, j in pairs}


def _small_scale_quantities(sky: SkyLikelihood, values: dict) -> dict[str, jax.Array]:
    field = values["field_direction"]
    out = _axis_quantities(field)
    out["sky/strength B_x"] = values["gradient_strength"] * field[0]
    out["sky/|strength|"] = jnp.abs(values["gradient_strength"])
    for k, (l, m) in enumerate(zip(sky.degree, sky.order, strict=True)):
        if l > 1:
            out[f"sky/a_{l},{m} of date"] = values["theta_of_date"][k]
    for name in ("power", "aligned_power"):
        if name in values:
            for k in range(sky.l_max - 1):
                if name == "power" or k % 2 == 1:
                    out[f"hyper/ln {name}_{k + 2}"] = jnp.log(values[name][k])
    for name in ("depth", "end", "power_index", "index", "floor", "width", "strength", "centre", "spectral_index"):
        if name in values:
            out[f"hyper/{name}"] = values[name]
    return out


def _ranked(spec, sky, truths, found, seed, ranks, header, seconds) -> Calibration:
    """Ranks and summaries on the host. Arrays of `found` are (set, draw, chain, ..)."""
    true = {k: np.asarray(v) for k, v in truths["values"].items()}
    drawn = dict(found["values"])
    if "log_rate" in found:
        rng = np.random.default_rng([seed, 1])
        own, all_draws = np.asarray(truths["log_rate"]), found["log_rate"]
        groups = own.shape[-1]
        waves = [np.cos(2 * np.pi * (np.arange(groups) + 0.5) / groups)]
        waves.append(np.sin(2 * np.pi * (np.arange(groups) + 0.5) / groups))
        for c, name in enumerate(sky.names):
            contrast = rng.standard_normal((len(own), groups))
            contrast -= contrast.mean(axis=1, keepdims=True)
            # The rates are exchangeable: one random contrast of each set stands for all of them.
            true[f"rate/contrast[{name}]"] = np.einsum("sg,sg->s", own[:, c], contrast)
            drawn[f"rate/contrast[{name}]"] = np.einsum("sdkg,sg->sdk", all_draws[:, :, :, c], contrast)
            for wave, label in zip(waves, ("cosine", "sine"), strict=True):
                true[f"rate/{label}[{name}]"] = own[:, c] @ wave
                drawn[f"rate/{label}[{name}]"] = all_draws[:, :, :, c] @ wave
        true["data/log_likelihood"] = found["true_log_likelihood"]
        drawn["data/log_likelihood"] = found["log_likelihood"]
    names = list(true)
    truth = np.stack([true[k] for k in names], axis=-1)
    values = np.stack([drawn[k] for k in names], axis=-1)
    sets, draws, chains = values.shape[:3]
    pooled = values.reshape(sets, draws * chains, -1)
    thinned = pooled[:, np.linspace(0, draws * chains - 1, ranks).round().astype(int)]
    ties = np.sum(thinned == truth[:, None], axis=1)
    shared = np.random.default_rng([seed, 2]).integers(0, ties + 1)
    inside = []
    for level in LEVELS.values():
        low, high = np.quantile(pooled, [(1 - level) / 2, (1 + level) / 2], axis=1)
        inside.append((low <= truth) & (truth <= high))
    # numpyro has chains first, draws second; sets and quantities follow.
    by_chain = values.transpose(2, 1, 0, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        r_hat, ess = split_gelman_rubin(by_chain), effective_sample_size(by_chain)
    return Calibration(
        header=header,
        names=tuple(name.partition("/")[2] for name in names),
        kinds=tuple(name.partition("/")[0] for name in names),
        truths=truth,
        ranks=np.sum(thinned < truth[:, None], axis=1) + shared,
        of_draws=ranks,
        means=pooled.mean(axis=1),
        errors=pooled.std(axis=1, ddof=1),
        inside=np.stack(inside),
        r_hat=np.asarray(r_hat),
        ess=np.asarray(ess),
        divergences=np.asarray(found["divergences"]),
        num_steps=np.asarray(found["num_steps"]),
        seconds=seconds,
    )
