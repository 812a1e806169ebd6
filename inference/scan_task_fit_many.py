"""Fits of many counts that share one compiled program, whichever rings each of them sees."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.errors import FitError, InputError, require_float64

from .data import Counts
from .fit import (
    FitResult,
    _frame_rotation,
    _in_effective_events,
    _maximise,
    _needs_cell_averages,
    _rate_bins,
    _result,
    fit,
    prior_precision,
)
from .likelihood import form_marginals
from .measurable import require_measurable
from .multipoles import free_multipoles, make_block, maximise, ring_modes, with_moments

_STEPS = 60


@dataclasses.dataclass(frozen=True)
class FitJob:
    """One fit: the arguments of `fit`."""

    counts: Counts
    l_max: int = 1
    exposure: dict[str, np.ndarray] | None = None
    prior_power: Any = None
    rate_bins: int | None = None


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """Arrays of one fit for the maximiser, and what the result needs besides."""

    arrays: tuple
    rest: dict[str, Any]

    @property
    def groups(self) -> tuple[int, ...]:
        return self.rest["groups"]

    @property
    def shape(self) -> tuple:
        """Equal for fits that can be stacked."""
        leaves, structure = jax.tree.flatten(self.arrays)
        return self.groups, structure, tuple(np.shape(each) for each in leaves)


def fit_many(jobs: Sequence[FitJob], stacked: bool | None = None) -> list[FitResult | InputError | FitError]:
    """The results of `fit` for every job, equal to rounding, or the error that it would have raised.

    All rings of the grid are kept, also those without events, which add nothing: so cuts that see other rings share one
    program, which takes seconds to compile and hundredths of a second to run. Known exposures are left to `fit`.

    Args:
        jobs: The fits; none depends on which others there are.
        stacked: Whether fits of equal shape run side by side in one vectorised call. By default on accelerators only:
            on a processor one after the other is 1.1 to 1.6 times faster.

    Raises:
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.scan")
    stacked = jax.default_backend() != "cpu" if stacked is None else stacked
    out: list[Any] = [None] * len(jobs)
    stacks: dict[Any, list[tuple[int, _Prepared]]] = {}
    for place, job in enumerate(jobs):
        ready = None if job.exposure is not None else _prepared(job)
        if ready is None:
            out[place] = _alone(job)
            continue
        stacks.setdefault(ready.shape if stacked else place, []).append((place, ready))
    for members in stacks.values():
        for (place, ready), (best, blocks) in zip(members, _maxima([r for _, r in members]), strict=True):
            found = _result(best=best, blocks=blocks, known=(), **ready.rest)
            out[place] = dataclasses.replace(found, counts=jobs[place].counts)
    return out


def _alone(job: FitJob) -> FitResult | InputError | FitError:
    try:
        return fit(job.counts, job.l_max, job.exposure, job.prior_power, job.rate_bins)
    except (InputError, FitError) as error:
        return error


def _prepared(job: FitJob) -> _Prepared | None:
    """What `fit` makes of the counts, on all rings; None where it has to say why it refuses them."""
    try:
        return _prepare(job)
    except InputError:
        return None


def _prepare(job: FitJob) -> _Prepared:
    counts = _in_effective_events(job.counts)
    places, grid = counts.configurations(), counts.grid
    if not places or job.l_max >= grid.n_ra // 2 or job.l_max > (grid.n_ring - 1) // 2:
        raise InputError("no counts, or a degree that is not resolved")
    degree, order = free_multipoles(job.l_max)
    prior = prior_precision(degree, job.prior_power)
    groups = _rate_bins(counts, places, job.rate_bins)
    every = np.ones(grid.n_ring, bool)
    data = tuple(
        form_marginals(counts.n_sky[p], counts.n_time[p], counts.n_local[p], job.rate_bins, every) for p in places
    )
    turns = [_frame_rotation(counts, p) for p in places]
    modes = tuple(
        ring_modes(grid, d.rings, degree, order, turn, _needs_cell_averages(counts, p, degree))
        for d, p, turn in zip(data, places, turns, strict=True)
    )
    moments = tuple((counts.moments[p], turn) for p, turn in zip(places, turns, strict=True))
    rest = {
        "counts": counts,
        "places": places,
        "data": data,
        "modes": modes,
        "groups": groups,
        "degree": degree,
        "order": order,
        "prior": prior,
        "livetime_inflation": require_measurable(counts, data, modes, degree, order, prior),
    }
    return _Prepared((data, modes, moments, prior), rest)


def _maxima(ready: Sequence[_Prepared]) -> list[tuple]:
    """Maximum and blocks of each, of one shape."""
    if len(ready) == 1:
        return [_maximise(*ready[0].arrays, groups=ready[0].groups, max_steps=_STEPS)]
    arrays = jax.tree.map(lambda *each: jnp.stack([jnp.asarray(x) for x in each]), *(each.arrays for each in ready))
    found = _maximise_all(*arrays, groups=ready[0].groups, max_steps=_STEPS)
    return [jax.tree.map(lambda each, k=k: each[k], found) for k in range(len(ready))]


@functools.partial(jax.jit, static_argnames=("groups", "max_steps"))
def _maximise_all(data, modes, moments, prior, *, groups, max_steps):
    def one(data, modes, moments, prior):
        blocks = tuple(
            with_moments(make_block(d, m, g), *own) for d, m, own, g in zip(data, modes, moments, groups, strict=True)
        )
        return maximise(blocks, prior, max_steps=max_steps), blocks

    return jax.vmap(one)(data, modes, moments, prior)
