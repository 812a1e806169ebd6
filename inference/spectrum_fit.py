"""Posteriors of theories of the angular power spectrum: Fisher scoring to the maximum, then NUTS about it.

Many posteriors of one model are sampled side by side in one compiled call: of simulated skies, or with one bin left out
each. The data of such a batch differ in the measured power and in which bins count.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from diffcr.errors import InputError, require_float64
from diffcr.typing import AnyArray

from .sampler import STATISTICS, Kernel, Plan
from .spectrum_data import MeasuredPower
from .spectrum_likelihood import choose_kind, log_likelihood, variance
from .spectrum_models import Model

_STARTS = 16
_SCORING_STEPS = 60
_STEPS = np.array([1.0, 0.5, 0.2, 0.05, 0.005])
"""Parts of a step of Fisher scoring that are tried."""


_LEAKS = 0.02
"""Share of a window's highest value up to which a degree leaks into a bin and is not of it."""

_UNSEEN = 1e-3
"""Weight of degrees outside the data in the coordinates of models that may put all their power there."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One model and one measured spectrum, all bins of which count.

    Attributes:
        model: The theory.
        spectrum: The data.
        kind: Of the likelihood, see `spectrum_likelihood.KINDS`.
    """

    model: Model
    spectrum: MeasuredPower
    kind: str

    def __post_init__(self):
        model, spectrum = self.model, self.spectrum
        if spectrum.l_max != model.l_max:
            raise InputError(f"the model reaches l = {model.l_max}, the spectrum l = {spectrum.l_max}; make them alike")
        if self.kind != choose_kind(spectrum, self.kind)[0]:
            raise InputError(f"the likelihood must be named, not {self.kind!r}; see choose_kind")
        if len(spectrum.low) < 2:
            raise InputError("fewer than two bins of C_l are left: no shape can be fitted; give more degrees")
        aligned = self.aligned
        if aligned and not np.any(self.held[2::2]):
            raise InputError(
                f"the model {model.name} has power in odd degrees alone, and the data have none from l = 3 on"
            )
        bare = np.flatnonzero(~(spectrum.variance > 0) | ((self.kind != "normal") & ~(spectrum.noise > 0)))
        if aligned and bare.size:
            raise InputError(
                f"without noise an aligned pattern has no scatter, but the error of l = {spectrum.label(bare[0])} is "
                "all scatter of random skies; leave the model out, or give the noise"
            )

    @property
    def held(self) -> Bool[np.ndarray, " degree"]:
        """Which degrees the data hold: not those that only leak into a bin."""
        window = self.spectrum.window
        return np.any(window > _LEAKS * np.max(window, axis=1, keepdims=True), axis=0)

    @property
    def seen(self) -> Float[np.ndarray, " degree"]:
        """Weight 2 l + 1 of the degrees that the data hold; of others none, or little where the model needs some.

        A cascade that ends below the first of them puts nothing into the data, and still has its place.
        """
        number = 2.0 * np.arange(1, self.spectrum.l_max + 1) + 1
        return np.where(self.held, number, number * (_UNSEEN if "end" in self.model.parameters else 0.0))

    @property
    def dimensions(self) -> int:
        """Number of parameters."""
        return len(self.model.parameters)

    def values(self, x: Float[AnyArray, " param"]) -> tuple[dict, Array]:
        """Parameters by name, and their standard normal numbers, at a point of the sampler."""
        return self.model.values(x, self.seen)

    @property
    def aligned(self) -> bool:
        """Whether a part of the model is a fixed pattern."""
        return any(part.aligned for part in self.model.parts)

    def bands(self, x: Float[AnyArray, " param"]) -> tuple[Float[Array, " bin"], Float[Array, " bin"] | None]:
        """Power of random skies in each bin, and of the aligned pattern, None where the model has none."""
        random, aligned = self.model.power(self.values(x)[0])
        return band_power(self.spectrum, random), band_power(self.spectrum, aligned) if self.aligned else None

    def log_posterior(self, x: Float[AnyArray, " param"], power=None, keep=None) -> Float[Array, ""]:
        """ln of prior times likelihood at a point of the sampler, up to a constant.

        Args:
            x: The point.
            power: C_l in place of the measured, shape (bin,).
            keep: 1 for bins that count, shape (bin,).
        """
        random, aligned = self.bands(x)
        units = self.values(x)[1]
        value = log_likelihood(self.data(power), self.kind, random, aligned, keep)
        value = value - 0.5 * jnp.sum(units**2)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    def data(self, power=None) -> MeasuredPower:
        """The spectrum with another power in its bins."""
        return self.spectrum if power is None else eqx.tree_at(lambda s: s.power, self.spectrum, power)

    def information(self, x: Float[AnyArray, " param"], keep=None) -> Float[Array, "param param"]:
        """Fisher information of the data and of the prior at a point of the sampler, by derivatives of the theory."""
        keep = jnp.ones(len(self.spectrum.low)) if keep is None else keep
        theory = jax.jacfwd(lambda x: sum(band for band in self.bands(x) if band is not None))(x)
        scale = jnp.sqrt(variance(self.spectrum, self.kind, *self.bands(x)))
        root = keep[:, None] * theory / scale[:, None]
        own = jnp.eye(len(keep))
        correlation = jnp.where(own, 1.0, self.spectrum.correlation * keep[:, None] * keep)
        before = jax.jacfwd(lambda x: self.values(x)[1])(x)
        return root.T @ jnp.linalg.solve(correlation, root) + before.T @ before

    def starts(self, key, power=None) -> Float[Array, "start param"]:
        """Points to look for the maximum from: shapes from the prior, amplitudes from the data."""
        power = self.spectrum.power if power is None else power
        number = self.spectrum.window @ self.seen
        size = jnp.sum(number * jnp.maximum(power, 0.0))
        least = 0.1 * jnp.sqrt(jnp.sum(number**2 * (self.spectrum.variance + self.spectrum.sample_error**2)))
        level = jnp.log(jnp.maximum(size, least) / len(self.model.parts))
        x = jax.random.normal(key, (_STARTS, self.dimensions))
        amplitudes = np.array([n in {p.amplitude for p in self.model.parts} for n in self.model.parameters])
        return jnp.where(amplitudes, level + 0.5 * x, x)


def band_power(spectrum: MeasuredPower, power: Float[AnyArray, "*draw degree"]) -> Float[Array, "*draw bin"]:
    """What each bin is expected to measure of C_l; not below 0, where a window has negative parts."""
    return jnp.maximum(jnp.asarray(power) @ spectrum.window.T, 0.0)


class Posteriors(NamedTuple):
    """Draws of a batch of posteriors.

    Attributes:
        maximum: Most probable point of each, in the coordinates of the sampler, shape (batch, param).
        covariance: Inverse Fisher information there, shape (batch, param, param).
        points: Draws, shape (batch, chain, draw, param).
        statistics: Of the sampler by name, shape (batch, chain, draw).
        seconds: Wall time.
    """

    maximum: np.ndarray
    covariance: np.ndarray
    points: np.ndarray
    statistics: dict[str, np.ndarray]
    seconds: float


def sample_posteriors(
    problem: Problem,
    plan: Plan,
    power: Float[AnyArray, "batch bin"] | None = None,
    keep: Float[AnyArray, "batch bin"] | None = None,
) -> Posteriors:
    """Sample a batch of posteriors side by side, four chains each or as the plan has it.

    Args:
        problem: Model and data.
        plan: Chains, steps and seed; nothing is saved on the way.
        power: C_l of each, default the measured.
        keep: 1 for the bins that count in each, default all.

    Raises:
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("the fit of a power spectrum")
    begun = time.monotonic()
    if power is None:
        power = np.tile(problem.spectrum.power, (1 if keep is None else len(keep), 1))
    power = jnp.asarray(power)
    keep = jnp.ones_like(power) if keep is None else jnp.asarray(keep, float)
    kernel = Kernel(functools.partial(_density, problem), plan, dense=("z",))
    keys = jax.random.split(jax.random.PRNGKey(plan.seed), len(power))

    @jax.jit
    def run(keys, power, keep):
        return jax.vmap(functools.partial(_one, problem, kernel))(keys, power, keep)

    maximum, root, (z, statistics) = jax.block_until_ready(run(keys, power, keep))
    maximum, root, z = (np.asarray(each) for each in (maximum, root, z))
    points = maximum[:, None, None] + np.einsum("bij,bcdj->bcdi", root, z)
    return Posteriors(
        maximum,
        root @ np.swapaxes(root, 1, 2),
        points,
        {name: np.asarray(each) for name, each in statistics.items()},
        time.monotonic() - begun,
    )


def _density(problem: Problem, power, keep, centre, root) -> None:
    """The posterior as numpyro takes it: a standard normal about the maximum, times what is left."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([problem.dimensions]).to_event(1))
    numpyro.factor("posterior", problem.log_posterior(centre + root @ z, power, keep) + 0.5 * z @ z)


def _one(problem: Problem, kernel: Kernel, key, power, keep):
    """Maximum, whitening and draws of one posterior."""
    seek, chains, spread = jax.random.split(key, 3)
    centre = _maximise(problem, seek, power, keep)
    root = jnp.linalg.cholesky(jnp.linalg.inv(problem.information(centre, keep)))
    plan = kernel.plan
    args = (power, keep, centre, root)
    at = 1.5 * jax.random.normal(spread, (plan.chains, problem.dimensions))

    def chain(key, at):
        state = kernel.start(key, args, {}, {"z": at})
        return jax.lax.scan(lambda c, _: kernel.step(c, args, {}), state, length=plan.warmup + plan.draws)[1]

    z, statistics = jax.vmap(chain)(jax.random.split(chains, plan.chains), at)
    kept = {name: statistics[name][:, plan.warmup :] for name in STATISTICS}
    return centre, root, (z["z"][:, plan.warmup :], kept)


def _maximise(problem: Problem, key, power, keep) -> Float[Array, " param"]:
    """Most probable point of the sampler's coordinates: Fisher scoring from many starts, each step the best of some."""
    value = lambda x: problem.log_posterior(x, power, keep)

    def step(_, x):
        move = jnp.linalg.solve(problem.information(x, keep), jax.grad(value)(x))
        tried = jnp.concatenate([x[None], x + jnp.asarray(_STEPS)[:, None] * move])
        found = jax.vmap(value)(tried)
        return tried[jnp.argmax(jnp.where(jnp.isfinite(found), found, -jnp.inf))]

    ended = jax.vmap(lambda x: jax.lax.fori_loop(0, _SCORING_STEPS, step, x))(problem.starts(key, power))
    return ended[jnp.argmax(jax.vmap(value)(ended))]


def parameters(problem: Problem, points: Float[np.ndarray, "*draw param"]) -> dict[str, np.ndarray]:
    """Parameters by name at points of the sampler."""
    flat = jnp.asarray(points.reshape(-1, points.shape[-1]))
    found = jax.jit(jax.vmap(lambda x: problem.values(x)[0]))(flat)
    return {name: np.asarray(found[name]).reshape(points.shape[:-1]) for name in problem.model.parameters}


def powers(problem: Problem, points: Float[np.ndarray, "*draw param"]) -> tuple[np.ndarray, np.ndarray]:
    """C_l of random skies and of the aligned pattern, l = 1 .. l_max, at points of the sampler."""
    flat = jnp.asarray(points.reshape(-1, points.shape[-1]))
    found = jax.jit(jax.vmap(lambda x: problem.model.power(problem.values(x)[0])))(flat)
    return tuple(np.asarray(each).reshape(*points.shape[:-1], -1) for each in found)


def truth(problem: Problem, values: Mapping[str, float]) -> Float[np.ndarray, " param"]:
    """The point of the sampler at given parameters.

    Raises:
        InputError: If a parameter is missing or unknown.
    """
    if set(values) != set(problem.model.parameters):
        raise InputError(f"the model {problem.model.name} has the parameters {', '.join(problem.model.parameters)}")
    units = jnp.stack([problem.model.priors[name].unit(values[name]) for name in problem.model.parameters])
    return np.asarray(problem.model.coordinates(units, problem.seen))


def errors_of(problem: Problem, point: np.ndarray, covariance: np.ndarray) -> dict[str, Any]:
    """Standard error of each parameter by linear propagation of a covariance at a point of the sampler."""
    slopes = jax.jacfwd(lambda x: jnp.stack(list(problem.values(x)[0].values())))(jnp.asarray(point))
    square = np.einsum("pi,ij,pj->p", slopes, covariance, slopes)
    return dict(zip(problem.model.parameters, np.sqrt(square).tolist(), strict=True))
