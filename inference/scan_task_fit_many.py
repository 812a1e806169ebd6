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
from .fit import FitResult, Prepared, fit, maximum, prepare, result_of


@dataclasses.dataclass(frozen=True)
class FitJob:
    """One fit: the arguments of `fit`."""

    counts: Counts
    l_max: int = 1
    exposure: dict[str, np.ndarray] | None = None
    prior_power: Any = None
    rate_bins: int | None = None


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
    stacks: dict[Any, list[tuple[int, Prepared]]] = {}
    for place, job in enumerate(jobs):
        if job.exposure is not None:
            out[place] = _alone(job)
            continue
        try:
            ready = prepare(job.counts, job.l_max, None, job.prior_power, job.rate_bins, every_ring=True)
        except InputError:
            # Told in the words of `fit`, which sees fewer rings.
            out[place] = _alone(job)
            continue
        stacks.setdefault(_shape(ready) if stacked else place, []).append((place, ready))
    for members in stacks.values():
        for (place, ready), (best, blocks) in zip(members, _maxima([r for _, r in members]), strict=True):
            out[place] = result_of(ready, best, blocks)
    return out


def _alone(job: FitJob) -> FitResult | InputError | FitError:
    try:
        return fit(job.counts, job.l_max, job.exposure, job.prior_power, job.rate_bins)
    except (InputError, FitError) as error:
        return error


def _shape(ready: Prepared) -> tuple:
    """Equal for fits that can be stacked."""
    leaves, structure = jax.tree.flatten(ready.arrays)
    return ready.groups, structure, tuple(np.shape(each) for each in leaves)


def _maxima(ready: Sequence[Prepared]) -> list[tuple]:
    """Maximum and blocks of each, of one shape."""
    if len(ready) == 1:
        return [maximum(*ready[0].arrays, groups=ready[0].groups)]
    arrays = jax.tree.map(lambda *each: jnp.stack([jnp.asarray(x) for x in each]), *(each.arrays for each in ready))
    found = _maximise_all(*arrays, groups=ready[0].groups)
    return [jax.tree.map(lambda each, k=k: each[k], found) for k in range(len(ready))]


@functools.partial(jax.jit, static_argnames="groups")
def _maximise_all(*arrays, groups):
    return jax.vmap(functools.partial(maximum, groups=groups))(*arrays)
