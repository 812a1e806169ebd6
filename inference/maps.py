r"""The map of the relative intensity by maximum likelihood: a free value per cell, rate and acceptance.

With u = ln I per cell of the sky and v = ln of the rate's change per group of time bins, the likelihood with the
acceptance removed (`likelihood.conditional_log_likelihood`) is

$$ \ln L = \sum_a n_a u_a + \sum_\tau n_\tau v_\tau - \sum_i n_i \ln x_i, \qquad
   x_i = \sum_\tau r_\tau e^{v_\tau + u_{\tau i}}, $$

a concave function: its maximum is unique but for its exact degeneracies, u + f(declination) and v + constant. Newton's
method with conjugate gradients finds it; the gradient is orthogonal to the degenerate directions, so that these need no
care until the end, where the mean of I over each ring is set to 1. NumPy throughout: the derivatives are three lines of
FFTs, and compiling them would cost more than the whole fit.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import fft

from diffcr.errors import FitError, InputError
from diffcr.grid import RingGrid

from .data import Counts
from .fit import GAIN_TOLERANCE, _in_effective_events, _rate_bins
from .likelihood import grouped_rate

_MEDIAN_EXPECTATION = 25
"""Expected counts of a median cell below which the logarithm of a cell is too far from Gaussian to be shown alone."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """The marginals of one detector configuration and its best isotropic description, on the whole grid.

    Attributes:
        sky: Counts n_a, shape (ring, ra).
        time: Counts n_tau, shape (time,).
        local: Counts n_i, shape (ring, hour_angle).
        rate: Best isotropic rate, fractions that sum to 1, shape (time,).
        groups: Number of groups of time bins with a free rate each.
        even: Whether the rate is constant within a group; else it is there as the counts have it.
        background: Expected counts of an isotropic sky, shape (ring, ra); zero where unexposed.
    """

    sky: np.ndarray
    time: np.ndarray
    local: np.ndarray
    rate: np.ndarray
    groups: int
    background: np.ndarray
    even: bool = False

    def rate_of(self, time: np.ndarray) -> np.ndarray:
        """Best isotropic rate for other counts per time bin of the same kind, summing to 1."""
        return (grouped_rate(time, self.groups) if self.even else time) / time.sum()

    @property
    def total(self) -> float:
        """Events, or the sum of their weights."""
        return float(self.time.sum())

    @functools.cached_property
    def alive(self) -> np.ndarray:
        """Groups with livetime, boolean (group,)."""
        return self.grouped(self.time) > 0

    def grouped(self, values: np.ndarray) -> np.ndarray:
        """Sums over each group of time bins, (..., group)."""
        return values.reshape(*values.shape[:-1], self.groups, -1).sum(-1)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value per group as one per time bin, (..., time)."""
        return np.repeat(values, len(self.time) // self.groups, axis=-1)


def exposures(counts: Counts, rate_bins: int | None = None) -> list[Exposure]:
    """What each configuration of the counts saw, in units of effective events; in the order of `configurations()`.

    Raises:
        InputError: If the counts hold no event, or rate_bins does not divide the time bins.
    """
    counts = _in_effective_events(counts)
    places = counts.configurations()
    if not places:
        raise InputError("the counts hold no event: there is nothing to map; look at the cuts and the time range")
    groups = _rate_bins(counts, places, rate_bins)
    return [
        exposure_of(counts.n_sky[p], counts.n_time[p], counts.n_local[p], g, rate_bins is not None)
        for p, g in zip(places, groups, strict=True)
    ]


def exposure_of(sky: np.ndarray, time: np.ndarray, local: np.ndarray, groups: int, even: bool = False) -> Exposure:
    """`Exposure` of the three marginals, with `groups` free rates, and where `even` a constant rate within each."""
    rate = (grouped_rate(time, groups) if even else np.asarray(time, float)) / time.sum()
    background = correlated(rate, local)
    background = np.where(background > 1e-12 * background.max(), background, 0.0)
    arrays = (np.asarray(x, float) for x in (sky, time, local, rate))
    return Exposure(*arrays, groups, background, even)


def correlated(rate: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """`diffcr.grid.correlate` in NumPy: sum over tau of rate[tau] rings[r, (tau - h) mod n]."""
    return fft.irfft(fft.rfft(rate) * np.conj(fft.rfft(rings, axis=-1)), n=len(rate), axis=-1)


def seen_by_time(local: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """`diffcr.grid.rate_seen` in NumPy: sum over (r, h) of local[r, h] sky[r, (tau - h) mod n]."""
    n = sky.shape[-1]
    return fft.irfft(np.einsum("rm,rm->m", fft.rfft(local, axis=-1), fft.rfft(sky, axis=-1)), n=n)


@dataclasses.dataclass(frozen=True)
class SkyMap:
    """The maximum-likelihood sky on the ring grid, in the equator of date.

    Attributes:
        counts: What was mapped.
        seen: What each configuration saw.
        contrast: Relative intensity minus one, shape (ring, ra); its mean over each ring is zero; NaN where unexposed.
        data: Counts of all configurations (effective events where weighted), shape (ring, ra).
        background: Expected counts of an isotropic sky for the best rates and acceptances, shape (ring, ra).
        error: Standard error of the contrast of each cell, shape (ring, ra); NaN where unexposed.
        rates: Best relative rate of each configuration, sums to 1, shape (configuration, time).
        acceptances: Best relative acceptance, sums to 1, shape (configuration, ring, hour_angle).
        cells: Rings and bins of right ascension that share one free value, (1, 1) for every cell its own.
        method: "maximum-likelihood", "iterative" or "wiener".
        log_likelihood: ln L minus that of the best isotropic fit.
        degrees_of_freedom: Free values of the sky that the likelihood can tell apart.
        remaining_gain: Expected gain in ln L that is left, half g H^-1 g; NaN for the iterative method.
        newton_steps, gradient_steps: Newton steps, and conjugate-gradient steps in all; passes for "iterative".
    """

    counts: Counts
    seen: tuple[Exposure, ...]
    contrast: np.ndarray
    data: np.ndarray
    background: np.ndarray
    error: np.ndarray
    rates: np.ndarray
    acceptances: np.ndarray
    cells: tuple[int, int]
    method: str
    log_likelihood: float
    degrees_of_freedom: int
    remaining_gain: float
    newton_steps: int
    gradient_steps: int

    @property
    def grid(self) -> RingGrid:
        """The ring grid."""
        return self.counts.grid

    @property
    def converged(self) -> bool:
        """Whether less than 1e-3 is left to gain in ln L."""
        return bool(0 <= self.remaining_gain < GAIN_TOLERANCE)

    @property
    def test_statistic(self) -> float:
        """2 ln(L / L_isotropic)."""
        return 2 * self.log_likelihood

    @property
    def isotropic_error(self) -> np.ndarray:
        """Standard error that the contrast of each cell would have for an isotropic sky, shape (ring, ra)."""
        exposed = np.isfinite(self.contrast)
        pooled = pool(np.where(exposed, self.background, 0.0), self.cells)
        return np.where(exposed, 1 / np.sqrt(np.where(exposed, pooled, 1.0)), np.nan)

    def require_converged(self) -> "SkyMap":
        """Return this map, or raise `FitError` where it is not the maximum."""
        if not self.converged:
            raise FitError(
                f"the map stopped after {self.newton_steps} steps with {self.remaining_gain:.2g} left to gain in ln L "
                f"(tolerance {GAIN_TOLERANCE:g}); use larger --cells, or the maximum-likelihood method"
            )
        return self


def sky_map(
    counts: Counts,
    cells: tuple[int, int] | None = None,
    rate_bins: int | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 30,
) -> SkyMap:
    """The free map: the sky that makes the counts most likely, with all rates and acceptances free.

    Args:
        counts: The binned data; all configurations share the sky.
        cells: Rings and right-ascension bins that share one free value; both must divide the grid. Default: the
            smallest block in which a median cell expects 25 events.
        rate_bins: Groups of time bins with a free rate; default as many as hold 100 events each.
        tolerance: Stop when the expected remaining gain in ln L is below it.
        max_steps: Most Newton steps.

    Raises:
        InputError: If the counts hold no event, or the cells do not divide the grid.
    """
    seen = exposures(counts, rate_bins)
    cells = block_of(counts.grid, seen) if cells is None else _checked(counts.grid, cells)
    problem = Problem(seen, cells)
    state, gain, left, steps, inner = maximise(problem, tolerance, max_steps)
    return finished(counts, problem, state, "maximum-likelihood", gain, left, steps, inner)


def iterative_map(
    counts: Counts, iterations: int = 20, cells: tuple[int, int] | None = None, rate_bins: int | None = None
) -> SkyMap:
    """The map after a number of alternating updates of sky, rates and acceptances, for comparison.

    The method of Ahlers et al. 2016 (ApJ 823, 10): I = n_a / E_a with ring means removed, then N, then A. It keeps
    part of a dipole per pass only (`converged` says nothing), and at HAWC's latitude is 2 % short after 20.

    Args:
        counts: The binned data.
        iterations: Number of passes; the first is time scrambling over 24 h.
        cells, rate_bins: As in `sky_map`.

    Raises:
        InputError: As `sky_map`; or if iterations is not at least 1.
    """
    if iterations < 1:
        raise InputError(f"--iterations must be at least 1, not {iterations}")
    seen = exposures(counts, rate_bins)
    cells = block_of(counts.grid, seen) if cells is None else _checked(counts.grid, cells)
    problem = Problem(seen, cells)
    state = problem.start()
    for _ in range(iterations):
        state = problem.alternate(state)
    return finished(counts, problem, state, "iterative", problem.gain(state), float("nan"), iterations, 0)


def block_of(grid: RingGrid, seen: Sequence[Exposure]) -> tuple[int, int]:
    """Smallest nearly square block of cells whose median expectation is 25 events; (rings, bins)."""
    expected = sum(e.background for e in seen)
    median = float(np.median(expected[expected > 0]))
    sizes = [(1, 1)]
    for bins in (b for b in range(1, grid.n_ra // 3) if grid.n_ra % b == 0):
        wanted = bins * grid.step / (np.pi / grid.n_ring)
        rings = min((r for r in range(1, grid.n_ring) if grid.n_ring % r == 0), key=lambda r: abs(np.log(r / wanted)))
        sizes.append((rings, bins))
    enough = [size for size in sizes if median * size[0] * size[1] >= _MEDIAN_EXPECTATION]
    return min(enough, key=lambda size: size[0] * size[1]) if enough else sizes[-1]


def _checked(grid: RingGrid, cells: tuple[int, int]) -> tuple[int, int]:
    rings, bins = cells
    if rings < 1 or bins < 1 or grid.n_ring % rings or grid.n_ra % bins or grid.n_ra // bins < 3:
        raise InputError(
            f"cells of {bins} x {rings} bins and rings do not divide a grid of {grid}; choose divisors of both numbers"
        )
    return int(rings), int(bins)


def pool(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Sum of a map (ring, ra) over each block of (rings, bins), given to every cell of it."""
    rings, bins = cells
    if rings * bins == 1:
        return values
    shape = (values.shape[0] // rings, rings, values.shape[1] // bins, bins)
    sums = values.reshape(shape).sum(axis=(1, 3), keepdims=True)
    return np.broadcast_to(sums, shape).reshape(values.shape)


def cell_significance(contrast: np.ndarray, isotropic_error: np.ndarray) -> np.ndarray:
    """Signed root of the likelihood ratio of single cells: sqrt(2 B [(1 + c) ln(1 + c) - c]), B = 1 / error^2.

    One cell is too little of the sky to move rates or acceptances. With few events this is near N(0, 1) under isotropy;
    contrast over error is not, as a cell with fewer events has the smaller error.
    """
    intensity = np.maximum(1 + contrast, 1e-300)
    deviance = 2 * (intensity * np.log(intensity) - contrast) / isotropic_error**2
    return np.sign(contrast) * np.sqrt(np.maximum(deviance, 0.0))


@dataclasses.dataclass(frozen=True)
class State:
    """Where the fit stands: u per cell (ring, ra), constant within a block, and v per group of each configuration."""

    log_sky: np.ndarray
    log_rates: tuple[np.ndarray, ...]

    def moved(self, step: "State", scale: float) -> "State":
        """This plus scale times a step."""
        rates = tuple(v + scale * dv for v, dv in zip(self.log_rates, step.log_rates, strict=True))
        return State(self.log_sky + scale * step.log_sky, rates)

    def largest(self) -> float:
        """Largest absolute entry, and no less than a millionth."""
        return max(1e-6, *(float(np.max(np.abs(x), initial=0)) for x in (self.log_sky, *self.log_rates)))

    def dot(self, other: "State", block: int) -> float:
        """Scalar product over the free values, of which `block` cells share one."""
        rates = sum(float(v @ w) for v, w in zip(self.log_rates, other.log_rates, strict=True))
        return float(np.vdot(self.log_sky, other.log_sky)) / block + rates


class Problem:
    """The likelihood of the free map with its derivatives.

    A vector over the free values of the sky is kept on the whole grid, equal within each block; a gradient with respect
    to a block's value is kept as such in each of its cells, so that a scalar product counts each block once.
    """

    def __init__(self, seen: Sequence[Exposure], cells: tuple[int, int]):
        self.seen, self.cells, self.block = tuple(seen), cells, cells[0] * cells[1]
        self.sky = sum(e.sky for e in seen)
        self.background = sum(e.background for e in seen)
        self.exposed = self.pooled(self.background) > 0
        self.rings = np.flatnonzero(self.exposed.any(axis=1))

    def pooled(self, values: np.ndarray) -> np.ndarray:
        """Sum over each block, given to every cell of it."""
        return pool(values, self.cells)

    def start(self) -> State:
        """Isotropy."""
        return State(np.zeros_like(self.sky), tuple(np.zeros(e.groups) for e in self.seen))

    def gain(self, state: State) -> float:
        """ln L minus that of isotropy; formed from expm1 and log1p, as the contrast may be 1e-5."""
        excess = np.expm1(state.log_sky)
        value = 0.0
        for e, v in zip(self.seen, state.log_rates, strict=True):
            shift = e.rate * np.expm1(e.spread(v))
            x = shift.sum() + correlated(e.rate + shift, excess)
            x = np.maximum(x, -1 + 1e-14)
            value += float(np.vdot(e.sky, state.log_sky) + e.time @ e.spread(v) - np.vdot(e.local, np.log1p(x)))
        return value

    def linearise(self, state: State) -> "Linearised":
        """Gradient at a state, and what its Hessian needs."""
        return Linearised(self, state)

    def alternate(self, state: State) -> State:
        """One pass of the alternating updates: sky, ring means, rates; the acceptance is always at its best."""
        sky = np.exp(state.log_sky)
        expected = np.zeros_like(sky)
        for e, v in zip(self.seen, state.log_rates, strict=True):
            # The acceptance of the pass before: its sky had this state's rates.
            expected += correlated(e.rate * np.exp(e.spread(v)), self._weight(e, v, sky))
        pooled = self.pooled(expected)
        sky = np.where(self.exposed, self.pooled(self.sky) / np.where(self.exposed, pooled, 1.0), 1.0)
        sky = self.gauged(np.maximum(sky, 1e-12))
        rates = []
        for e, v in zip(self.seen, state.log_rates, strict=True):
            n_expected = e.grouped(e.rate * seen_by_time(self._weight(e, v, np.exp(state.log_sky)), sky))
            counted = e.grouped(e.time)
            ratio = np.where(e.alive, counted, 1.0) / np.where(e.alive, n_expected, 1.0)
            new = np.where(e.alive, np.log(ratio), 0.0)
            rates.append(new)
        return State(np.log(sky), tuple(rates))

    def _weight(self, e: Exposure, v: np.ndarray, sky: np.ndarray) -> np.ndarray:
        """Counts over what a local cell sees, n_i / x_i: the acceptance times the number of events."""
        return e.local / correlated(e.rate * np.exp(e.spread(v)), sky)

    def gauged(self, sky: np.ndarray) -> np.ndarray:
        """The sky with mean 1 over the exposed cells of each row of blocks, and 1 where unexposed."""
        inside = self.exposed
        rows = sky.reshape(-1, self.cells[0], sky.shape[1])
        kept = inside.reshape(rows.shape)
        number = kept.sum(axis=(1, 2), keepdims=True)
        mean = np.where(kept, rows, 0.0).sum(axis=(1, 2), keepdims=True) / np.maximum(number, 1)
        return np.where(inside, (rows / np.where(number > 0, mean, 1.0)).reshape(sky.shape), 1.0)


class Linearised:
    """Gradient and Hessian of the likelihood of a `Problem` at one state."""

    def __init__(self, problem: Problem, state: State):
        self.problem = problem
        self.sky = np.exp(state.log_sky)
        self._modes = fft.rfft(self.sky, axis=1)
        gradient = np.array(problem.sky)
        self._parts, rates, curvature, self._rate_curvature = [], [], np.zeros_like(self.sky), []
        n = self.sky.shape[1]
        for e, v in zip(problem.seen, state.log_rates, strict=True):
            rate = e.rate * np.exp(e.spread(v))
            rate_modes = fft.rfft(rate)
            # Rounding may leave less than nothing where nothing is seen.
            x = np.maximum(fft.irfft(rate_modes * np.conj(self._modes), n=n, axis=1), 1e-14)
            weight = e.local / x
            weight_modes = fft.rfft(weight, axis=1)
            expected = self.sky * fft.irfft(rate_modes * np.conj(weight_modes), n=n, axis=1)
            expected_time = rate * fft.irfft(np.einsum("rm,rm->m", weight_modes, self._modes), n=n)
            gradient -= expected
            rates.append(e.grouped(e.time - expected_time))
            curvature += expected
            self._rate_curvature.append(e.grouped(expected_time))
            self._parts.append((e, rate, rate_modes, x, weight, weight_modes, expected, expected_time))
        self.gradient = State(
            np.where(problem.exposed, problem.pooled(gradient), 0.0),
            tuple(np.where(e.alive, g, 0.0) for e, g in zip(problem.seen, rates, strict=True)),
        )
        self._curvature = problem.pooled(curvature)

    def information(self, step: State) -> State:
        """Minus the Hessian times a step."""
        problem, n = self.problem, self.sky.shape[1]
        moved = self.sky * step.log_sky
        moved_modes = fft.rfft(moved, axis=1)
        out, rates = np.zeros_like(moved), []
        for part, dv in zip(self._parts, step.log_rates, strict=True):
            e, rate, rate_modes, x, weight, weight_modes, expected, expected_time = part
            spread = e.spread(dv)
            change = rate * spread
            change_modes = fft.rfft(change)
            dx = fft.irfft(change_modes * np.conj(self._modes) + rate_modes * np.conj(moved_modes), n=n, axis=1)
            pull_modes = fft.rfft(weight * dx / x, axis=1)
            both = change_modes * np.conj(weight_modes) - rate_modes * np.conj(pull_modes)
            out += expected * step.log_sky + self.sky * fft.irfft(both, n=n, axis=1)
            times = np.einsum("rm,rm->m", weight_modes, moved_modes) - np.einsum("rm,rm->m", pull_modes, self._modes)
            rates.append(e.grouped(expected_time * spread + rate * fft.irfft(times, n=n)))
        return State(np.where(problem.exposed, problem.pooled(out), 0.0), tuple(rates))

    def scaled(self, vector: State) -> State:
        """A vector over the diagonal of the information, the preconditioner."""
        problem = self.problem
        known = problem.exposed & (self._curvature > 0)
        sky = np.where(known, vector.log_sky / np.where(known, self._curvature, 1.0), 0.0)
        rates = tuple(
            np.where(e.alive, v / np.where(e.alive, c, 1.0), 0.0)
            for e, v, c in zip(problem.seen, vector.log_rates, self._rate_curvature, strict=True)
        )
        return State(sky, rates)

    def solve(self, tolerance: float, max_steps: int = 400) -> tuple[State, float, int]:
        """Newton step by conjugate gradients; (step, its expected gain half g H^-1 g, number of steps).

        Stops when what a further step adds to the expected gain is below `tolerance` of it.
        """
        residual, block = self.gradient, self.problem.block
        scaled = self.scaled(residual)
        direction, step = scaled, None
        product, gain, number = residual.dot(scaled, block), 0.0, 0
        while product > 0 and number < max_steps:
            image = self.information(direction)
            curvature = direction.dot(image, block)
            if not curvature > 1e-12 * direction.dot(direction, block):
                # A direction that the counts know nothing of, up to rounding.
                break
            length = product / curvature
            step = direction.moved(direction, length - 1) if step is None else step.moved(direction, length)
            residual, number = residual.moved(image, -length), number + 1
            added = 0.5 * length * product
            gain += added
            if added <= tolerance * gain:
                break
            scaled = self.scaled(residual)
            product, before = residual.dot(scaled, block), product
            direction = scaled.moved(direction, product / before)
        return (self.problem.start() if step is None else step), gain, number


def maximise(problem: Problem, tolerance: float, max_steps: int) -> tuple[State, float, float, int, int]:
    """Newton's method with conjugate gradients and a line search.

    Returns:
        The state, its gain in ln L over isotropy, the gain still expected, Newton steps, conjugate-gradient steps.
    """
    # One alternating pass first: where a cell holds one event for 0.01 expected, Newton's first step from isotropy
    # would be a hundred times too long.
    state = problem.alternate(problem.start())
    value, inner, left, steps = problem.gain(state), 0, float("inf"), 0
    if not value >= 0:
        state, value = problem.start(), 0.0
    while steps < max_steps:
        steps += 1
        # Far from the maximum a rough step is as good: the next one starts from its error.
        step, left, number = problem.linearise(state).solve(1e-4)
        inner += number
        # With a handful of events a step may be as long as the logarithm of what it divides by.
        scale, slack = min(1.0, 5 / step.largest()), 1e-12 * (1 + abs(value))
        while scale > 1e-6:
            moved = state.moved(step, scale)
            new = problem.gain(moved)
            if new >= value - slack:
                break
            scale /= 2
        else:
            break
        state, value = moved, new
        if left < tolerance:
            break
    return state, value, left, steps, inner


def finished(
    counts: Counts, problem: Problem, state: State, method: str, gain: float, left: float, steps: int, inner: int
) -> SkyMap:
    """The state in the gauge of mean 1 per ring, with its background, errors and nuisances."""
    sky = problem.gauged(np.exp(np.clip(state.log_sky, -50, 50)))
    background, rates, acceptances = np.zeros_like(sky), [], []
    for e, v in zip(problem.seen, state.log_rates, strict=True):
        rate = e.rate * np.exp(e.spread(v))
        rate /= rate.sum()
        weight = e.local / correlated(rate, sky)
        background += correlated(rate, weight)
        rates.append(rate)
        acceptances.append(weight / weight.sum())
    exposed = problem.exposed & (problem.background > 0) & (background > 0)
    background = np.where(exposed, background, 0.0)
    pooled = problem.pooled(background)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(exposed, np.sqrt(np.maximum(problem.pooled(problem.sky), 1.0)) / pooled, np.nan)
    rows = int(problem.exposed.any(axis=1).sum()) // problem.cells[0]
    return SkyMap(
        counts=counts,
        seen=problem.seen,
        contrast=np.where(exposed, sky - 1, np.nan),
        data=problem.sky,
        background=background,
        error=error,
        rates=np.array(rates),
        acceptances=np.array(acceptances),
        cells=problem.cells,
        method=method,
        log_likelihood=gain,
        # Blocks, of which some cells may be unexposed.
        degrees_of_freedom=int(problem.exposed.sum()) // problem.block - rows,
        remaining_gain=left,
        newton_steps=steps,
        gradient_steps=inner,
    )
