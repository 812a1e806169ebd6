"""Expected counts mu = I N A, their marginals, and Poisson draws of the marginals, of one sky or of many."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .errors import InputError
from .grid import correlate, local_view, rate_seen
from .typing import AnyArray


def expected_counts(
    rate: Float[AnyArray, " time"],
    acceptance: Float[AnyArray, "ring ra"],
    relative_intensity: Float[AnyArray, "ring ra"],
) -> Float[AnyArray, "time ring ra"]:
    """mu[tau, r, h] = N_tau A[r, h] I[r, (tau - h) mod n]: the whole cube, for small grids and for checks.

    Args:
        rate: N_tau, expected counts per time bin for I = 1 where the acceptance sums to 1.
        acceptance: Relative acceptance A of the local cells (ring, hour_angle).
        relative_intensity: I of the sky cells (ring, ra).
    """
    times = jnp.arange(rate.shape[0])
    seen = jax.vmap(lambda tau: local_view(relative_intensity, tau))(times)
    return rate[:, None, None] * acceptance * seen


class MarginalCounts(NamedTuple):
    """Marginals of a (time, ring, hour_angle) cube of counts.

    Attributes:
        sky: Sum at fixed right-ascension bin (tau - h) mod n, shape (ring, ra).
        time: Sum over the local sky, shape (time,).
        local: Sum over time, shape (ring, hour_angle).
        half: Sum over the east (0) and west (1) half of each ring, shape (half, ring, time).
    """

    sky: Array | np.ndarray
    time: Array | np.ndarray
    local: Array | np.ndarray
    half: Array | np.ndarray


def expected_marginals(
    rate: Float[AnyArray, " time"],
    acceptance: Float[AnyArray, "ring ra"],
    relative_intensity: Float[AnyArray, "ring ra"],
) -> MarginalCounts:
    """Marginals of `expected_counts` by FFT, without the cube. Differentiable."""
    n = rate.shape[0]
    halves = jnp.stack([acceptance * east_weight(n), acceptance * (1 - east_weight(n))])
    half = jax.vmap(jax.vmap(lambda a, i: rate_seen(a[None], i[None])), (0, None))(halves, relative_intensity)
    return MarginalCounts(
        sky=relative_intensity * correlate(rate, acceptance),
        time=rate * rate_seen(acceptance, relative_intensity),
        local=acceptance * correlate(rate, relative_intensity),
        half=rate * half,
    )


def east_weight(n: int) -> np.ndarray:
    """Part of each hour-angle bin that lies in the east (hour angle in (-pi, 0)), shape (n,).

    Bins are centred on h * 2 pi / n, so that the one on the meridian (and for even n the opposite one) is halved.
    """
    h = np.arange(n)
    signed = np.minimum(h, n - h)
    return np.where((signed == 0) | (2 * h == n), 0.5, np.where(h > n / 2, 1.0, 0.0))


def draw_marginals(
    rng: np.random.Generator,
    rate: np.ndarray,
    acceptance: np.ndarray,
    relative_intensity: np.ndarray,
    weight_spread: float = 0.0,
) -> tuple[MarginalCounts, MarginalCounts | None, int]:
    """Poisson counts of every (time, ring, hour angle) cell, summed into marginals ring by ring.

    One ring is held at a time. With log-normal weights of the given spread (mean 1), cells hold sums of
    weights; sums over many events (above 1000 in a cell) are drawn from their normal limit.

    Args:
        rng: NumPy generator (its Poisson is ten times faster than JAX's on a CPU).
        rate: Expected counts per time bin, shape (time,).
        acceptance: Relative acceptance (ring, hour_angle), sums to 1.
        relative_intensity: Sky (ring, ra), non-negative.
        weight_spread: Standard deviation of the logarithm of the weights; 0 for unit weights.

    Returns:
        Marginals of the (weighted) counts, marginals of the squared weights (None for unit weights), and the
        number of events.

    Raises:
        InputError: If an expected count is negative or not finite.
    """
    rings, n = acceptance.shape
    _require_drawable(rate, acceptance, relative_intensity)
    sums = [_empty(rings, n), _empty(rings, n)] if weight_spread > 0 else [_empty(rings, n)]
    # Right-ascension bin of (time, hour angle).
    column = (np.arange(n)[:, None] - np.arange(n)) % n
    events = 0
    for ring in np.flatnonzero(acceptance.sum(axis=1) > 0):
        seen = np.flatnonzero(acceptance[ring])
        mu = rate[:, None] * acceptance[ring, seen] * relative_intensity[ring, column[:, seen]]
        drawn = rng.poisson(mu)
        events += int(drawn.sum())
        cells = [drawn] if weight_spread == 0 else _weight_sums(rng, drawn, weight_spread)
        east = rng.binomial(drawn, np.broadcast_to(east_weight(n)[seen], drawn.shape)) / np.maximum(drawn, 1)
        for total, cell in zip(sums, cells, strict=True):
            total.sky[ring] = np.bincount(column[:, seen].ravel(), cell.ravel().astype(float), n)
            total.local[ring, seen] = cell.sum(axis=0)
            total.time[:] += cell.sum(axis=1)
            total.half[0, ring] = (cell * east).sum(axis=1)
            total.half[1, ring] = (cell * (1 - east)).sum(axis=1)
    return sums[0], (sums[1] if weight_spread > 0 else None), events


class DrawnMarginals(NamedTuple):
    """Marginals of many simulated skies, without the halves of the rings.

    Attributes:
        sky: Sums at fixed right-ascension bin, shape (toy, ring, ra).
        time: Sums over the local sky, shape (toy, time).
        local: Sums over time, shape (toy, ring, hour_angle).
        events: Number of events, shape (toy,).
        square_time: `time` of the squared weights, or None for unit weights.
        square_local: `local` of the squared weights, or None for unit weights.
    """

    sky: np.ndarray
    time: np.ndarray
    local: np.ndarray
    events: np.ndarray
    square_time: np.ndarray | None = None
    square_local: np.ndarray | None = None


def draw_many(
    rng: np.random.Generator,
    rate: np.ndarray,
    acceptance: np.ndarray,
    relative_intensity: np.ndarray,
    number: int,
    weight_spread: float = 0.0,
) -> DrawnMarginals:
    """Poisson counts of every (time, ring, hour angle) cell of many skies, summed into sky, time and local map.

    Where events are fewer than cells they are drawn one by one, else the cells are. Skies are drawn one after the
    other: the first ones are the same however many follow.

    Args:
        rng: NumPy generator.
        rate: Expected counts per time bin, shape (time,).
        acceptance: Relative acceptance (ring, hour_angle), sums to 1.
        relative_intensity: Sky (ring, ra), non-negative.
        number: How many skies.
        weight_spread: Standard deviation of the logarithm of log-normal weights (mean 1); 0 for unit weights.

    Raises:
        InputError: If an expected count is negative or not finite.
    """
    _require_drawable(rate, acceptance, relative_intensity)
    cells = np.flatnonzero(acceptance)
    expected = rate.sum() * acceptance.sum() * relative_intensity.max()
    if 2 * expected < len(rate) * cells.size:
        parts = [_by_events(rng, rate, acceptance, relative_intensity, weight_spread) for _ in range(number)]
        return DrawnMarginals(*(None if x[0] is None else np.stack(x) for x in zip(*parts, strict=True)))
    return _by_cells(rng, rate, acceptance, relative_intensity, number, weight_spread)


_MOST_CELLS = 1_000_000
"""Cells drawn at once: some tens of MB."""


def _by_cells(rng, rate, acceptance, intensity, number, spread) -> DrawnMarginals:
    """Each cell of (seen local cells, time), as many skies and rings at once as fit."""
    n_ring, n = acceptance.shape
    column = (np.arange(n)[:, None] - np.arange(n)) % n
    out = _no_marginals(number, n_ring, n, spread > 0)
    rings = np.flatnonzero(acceptance.sum(axis=1) > 0)
    # Weights and all the rings of one sky follow its counts in the stream: then each sky is drawn alone.
    alone = spread > 0 or n * n * len(rings) > _MOST_CELLS
    per_part = max(1, _MOST_CELLS // (n * n))
    parts = [rings[k : k + per_part] for k in range(0, len(rings), per_part)]
    at_once = 1 if alone else max(1, _MOST_CELLS // (n * n * len(rings)))
    for first in range(0, number, at_once):
        toys = np.arange(first, min(first + at_once, number))
        for part in parts:
            ring, hour = np.nonzero(acceptance[part])
            ring = part[ring]
            ra = column[:, hour].T
            mu = acceptance[ring, hour, None] * rate * intensity[ring[:, None], ra]
            drawn = rng.poisson(mu, (len(toys), *mu.shape))
            cells = [drawn] if spread == 0 else _weight_sums(rng, drawn, spread)
            out.events[toys] += drawn.sum(axis=(1, 2))
            out.time[toys] += cells[0].sum(axis=1)
            out.local[toys[:, None], ring, hour] = cells[0].sum(axis=2)
            place = (np.arange(len(toys))[:, None] * n_ring * n + (ring[:, None] * n + ra).ravel()).ravel()
            sky = np.bincount(place, cells[0].ravel(), len(toys) * n_ring * n)
            out.sky[toys] += sky.reshape(len(toys), n_ring, n)
            if spread > 0:
                out.square_time[toys] += cells[1].sum(axis=1)
                out.square_local[toys[:, None], ring, hour] = cells[1].sum(axis=2)
    return out


def _by_events(rng, rate, acceptance, intensity, spread) -> tuple[np.ndarray | None, ...]:
    """One sky, event by event: local cell by its Poisson number, time by the rate, kept with probability I / I_max."""
    n_ring, n = acceptance.shape
    total, largest = rate.sum(), intensity.max()
    seen = np.flatnonzero(acceptance)
    cell = np.repeat(seen, rng.poisson(total * largest * acceptance.ravel()[seen]))
    edges = np.cumsum(rate)
    # The sum of all may round to the last edge itself, and no event belongs to bins without rate beyond it.
    last = np.flatnonzero(rate)[-1] if total > 0 else 0
    tau = np.minimum(np.searchsorted(edges, rng.random(cell.size) * edges[-1], side="right"), last)
    ring, hour = np.divmod(cell, n)
    sky = ring * n + (tau - hour) % n
    keep = rng.random(cell.size) * largest < intensity.ravel()[sky]
    cell, tau, sky = cell[keep], tau[keep], sky[keep]
    weight = None if spread == 0 else np.exp(spread * rng.standard_normal(cell.size) - spread**2 / 2)

    def sums(power):
        w = None if weight is None else weight**power
        local = np.bincount(cell, w, n_ring * n).reshape(n_ring, n).astype(float)
        return np.bincount(tau, w, n).astype(float), local

    time, local = sums(1)
    squares = (None, None) if weight is None else sums(2)
    found = np.bincount(sky, weight, n_ring * n).reshape(n_ring, n).astype(float)
    return found, time, local, np.array(cell.size), *squares


def _no_marginals(number: int, rings: int, n: int, weighted: bool) -> DrawnMarginals:
    time, local = np.zeros((number, n)), np.zeros((number, rings, n))
    squares = (np.zeros_like(time), np.zeros_like(local)) if weighted else (None, None)
    return DrawnMarginals(np.zeros((number, rings, n)), time, local, np.zeros(number, np.int64), *squares)


def _require_drawable(rate: np.ndarray, acceptance: np.ndarray, relative_intensity: np.ndarray) -> None:
    for name, values in (
        ("rate", rate),
        ("acceptance", acceptance),
        ("relative intensity", relative_intensity),
    ):
        if not np.all(np.isfinite(values)) or np.min(values) < 0:
            raise InputError(f"the {name} is negative or not finite somewhere: no counts can be drawn from it")


def _empty(rings: int, n: int) -> MarginalCounts:
    return MarginalCounts(np.zeros((rings, n)), np.zeros(n), np.zeros((rings, n)), np.zeros((2, rings, n)))


def _weight_sums(rng: np.random.Generator, drawn: np.ndarray, spread: float) -> list[np.ndarray]:
    """Sums of w and of w^2 over `drawn` events per cell, for log-normal weights of mean 1."""
    first, second = np.zeros(drawn.shape), np.zeros(drawn.shape)
    many = drawn > 1000
    few = np.where(many, 0, drawn).ravel()
    weight = np.exp(spread * rng.standard_normal(int(few.sum())) - spread**2 / 2)
    owner = np.repeat(np.arange(few.size), few)
    first += np.bincount(owner, weight, few.size).reshape(drawn.shape)
    second += np.bincount(owner, weight**2, few.size).reshape(drawn.shape)
    if many.any():
        moment = np.exp(spread**2 * np.array([k * (k - 1) / 2 for k in range(5)]))  # E[w^k]
        covariance = np.array(
            [
                [moment[2] - 1, moment[3] - moment[2]],
                [moment[3] - moment[2], moment[4] - moment[2] ** 2],
            ]
        )
        noise = rng.standard_normal((int(many.sum()), 2)) @ np.linalg.cholesky(covariance).T
        number = drawn[many]
        first[many] += number + np.sqrt(number) * noise[:, 0]
        second[many] += moment[2] * number + np.sqrt(number) * noise[:, 1]
    return [first, second]
