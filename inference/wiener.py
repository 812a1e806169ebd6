r"""The band-limited map with a prior C_l: the most probable m != 0 multipoles, rates and acceptances free.

I = 1 + sum_lm b_l s_lm R_lm for each configuration, b_l the window of its point spread, with s_lm normal of variance
C_l; the dipole has no prior. Beyond the lowest multipoles a single site cannot do without one: they are singular.
Newton's method with conjugate gradients in (multipoles, rates); the information about isotropy
(`power.sky_information`), which is dense and small, preconditions it and gives the posterior covariance.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import linalg

from diffcr.errors import InputError

from .data import Counts
from .maps import Problem, SkyMap, State, exposures, finished
from .power import Configuration, Information, combined_information, prepare

_CURVE_BINS = 12
"""Right ascensions per ring at which the posterior error is computed; it varies slowly along a ring."""

_LEAST_POWER = 0.2
"""Smallest fitted C_l over that of the noise. The most likely C_l is zero for a fifth of the degrees that are near the
noise: their multipoles would then be zero without an error."""


@dataclasses.dataclass(frozen=True)
class WienerMap:
    """The most probable band-limited sky.

    Attributes:
        map: As a `SkyMap`; its error is the posterior standard deviation, and its contrast is the sky before the point
        spread.
        multipoles: s_lm of the equator of date, shape (param,).
        covariance: Posterior covariance of the multipoles, shape (param, param).
        degree, order: l and m, shape (param,).
        power: Prior C_l for l = 2 .. l_max, given or fitted, shape (l_max - 1,).
        fitted: Whether C_l was fitted (maximum of its marginal likelihood).
    """

    map: SkyMap
    multipoles: np.ndarray
    covariance: np.ndarray
    degree: np.ndarray
    order: np.ndarray
    power: np.ndarray
    fitted: bool


def wiener_map(
    counts: Counts,
    l_max: int,
    power: Sequence[float] | np.ndarray | float | None = None,
    windows: Sequence[np.ndarray] | None = None,
    rate_bins: int | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 20,
) -> WienerMap:
    """Most probable sky for a prior C_l.

    Args:
        counts: The binned data; all configurations share the sky.
        l_max: Highest degree.
        power: C_l for l = 2 .. l_max: one value, one each, or None to fit them to the same data.
        windows: b_l of each configuration's point spread, l = 0 .. l_max, in the order of `counts.configurations()`.
        rate_bins: Groups of time bins with a free rate; default as many as hold 100 events each.
        tolerance: Stop when the expected remaining gain is below it.
        max_steps: Most Newton steps.

    Raises:
        InputError: If the grid does not resolve l_max, a C_l is not positive, or the windows do not fit.
    """
    seen = exposures(counts, rate_bins)
    parts, degree, order = prepare(counts, l_max, rate_bins)
    b = _windows(windows, len(parts), l_max)[:, degree]
    information = combined_information(parts, degree, order, counts.effective_events, b)
    fitted = power is None
    power = fitted_power(information) if fitted else _checked_power(power, l_max)
    precision = np.where(degree > 1, 1 / np.concatenate([[np.inf], power])[degree - 1], 0.0)
    covariance = _inverse(information.matrix + np.diag(precision))
    problem = _Harmonic(parts, b, precision, covariance, seen)
    point, gain, left, steps, inner = _maximise(problem, tolerance, max_steps)
    sky = 1 + problem.common_contrast(point.multipoles)
    flat = Problem(seen, (1, 1))
    state = State(np.where(flat.exposed, np.log(np.maximum(sky, 1e-12)), 0.0), point.log_rates)
    result = finished(counts, flat, state, "wiener", gain, left, steps, inner)
    shown = np.isfinite(result.contrast)
    result = dataclasses.replace(
        result,
        contrast=np.where(shown, sky - 1, np.nan),
        error=np.where(shown, problem.error(), np.nan),
        degrees_of_freedom=round(len(degree) - float(precision @ np.diag(covariance))),
    )
    return WienerMap(result, point.multipoles, covariance, degree, order, power, fitted)


def fitted_power(information: Information, steps: int = 15) -> np.ndarray:
    """C_l, l = 2 .. l_max, at the maximum of their marginal likelihood, the multipoles integrated out.

    MacKay's fixed point (1992, Neural Computation 4, 415): C_l = sum_m s_lm^2 / gamma_l, gamma_l the number of
    multipoles of degree l that the data determine.
    """
    degree, l_max = information.degree, information.l_max
    noise = np.array([1 / np.mean(np.diag(information.matrix)[degree == l]) for l in range(2, l_max + 1)])
    power = noise.copy()
    higher = degree > 1
    for _ in range(steps):
        precision = np.where(higher, 1 / np.concatenate([[np.inf], power])[degree - 1], 0.0)
        covariance = _fast_inverse(information.matrix + np.diag(precision))
        values = covariance @ information.score
        size = np.bincount(degree, values**2, l_max + 1)[2:]
        determined = np.bincount(degree, 1 - precision * np.diag(covariance), l_max + 1)[2:]
        new = np.maximum(size / np.maximum(determined, 1e-12), _LEAST_POWER * noise)
        done = np.allclose(np.log(new), np.log(power), atol=1e-2)
        power = new
        if done:
            break
    return power


def _fast_inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix by Cholesky's factor."""
    factor, failed = linalg.lapack.dpotrf(matrix, lower=1)
    half, failed = (factor, failed) if failed else linalg.lapack.dpotri(factor, lower=1)
    return _inverse(matrix) if failed else np.tril(half) + np.tril(half, -1).T


def _inverse(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    if not values[0] > 1e-13 * values[-1]:
        raise InputError(
            "the dipole, which has no prior, cannot be measured with this field of view and livetime; add data"
        )
    return (vectors / values) @ vectors.T


@dataclasses.dataclass(frozen=True)
class _Point:
    multipoles: np.ndarray
    log_rates: tuple[np.ndarray, ...]

    def moved(self, step: "_Point", scale: float) -> "_Point":
        rates = tuple(v + scale * dv for v, dv in zip(self.log_rates, step.log_rates, strict=True))
        return _Point(self.multipoles + scale * step.multipoles, rates)

    def dot(self, other: "_Point") -> float:
        rates = sum(float(v @ w) for v, w in zip(self.log_rates, other.log_rates, strict=True))
        return float(self.multipoles @ other.multipoles) + rates


class _Harmonic:
    """The likelihood of multipoles and rates; each configuration has its own point spread and frame, so a `Problem`."""

    def __init__(self, parts: Sequence[Configuration], windows: np.ndarray, precision, covariance, seen):
        self.parts, self.windows, self.precision, self.covariance = parts, windows, precision, covariance
        self.problems = [Problem([e], (1, 1)) for e in seen]

    def contrast(self, k: int, multipoles: np.ndarray) -> np.ndarray:
        """Contrast of the cells that configuration k sees, on the whole grid."""
        part = self.parts[k]
        out = np.zeros_like(self.problems[k].sky)
        out[part.rings] = part.field(part.turn(self.windows[k] * multipoles, back=True))
        return out

    def common_contrast(self, multipoles: np.ndarray) -> np.ndarray:
        """Contrast in the common frame, before any point spread, where any configuration sees the sky."""
        out = np.zeros_like(self.problems[0].sky)
        for part in self.parts:
            out[part.rings] = part.field(multipoles)
        return out

    def project(self, k: int, sky: np.ndarray) -> np.ndarray:
        """The transpose of `contrast`."""
        part = self.parts[k]
        return self.windows[k] * part.turn(part.projected(sky[part.rings]))

    def value(self, point: _Point) -> float:
        """ln L minus that of isotropy, plus the prior's logarithm; -inf where the sky is not positive."""
        total = -0.5 * float(self.precision @ point.multipoles**2)
        for k, (problem, v) in enumerate(zip(self.problems, point.log_rates, strict=True)):
            contrast = np.where(problem.exposed, self.contrast(k, point.multipoles), 0.0)
            if contrast.min() <= -1:
                return -np.inf
            total += problem.gain(State(np.log1p(contrast), (v,)))
        return total

    def start(self) -> _Point:
        return _Point(np.zeros(len(self.precision)), tuple(np.zeros(p.seen[0].groups) for p in self.problems))

    def error(self) -> np.ndarray:
        """Posterior standard deviation of the contrast in each cell, (ring, ra)."""
        rings, n = self.problems[0].sky.shape
        out = np.zeros((rings, n))
        for part in self.parts:
            columns = np.linspace(0, n, _CURVE_BINS, endpoint=False).astype(int)
            basis = part.basis(columns)
            values = np.sqrt(np.einsum("prk,pq,qrk->rk", basis, self.covariance, basis, optimize=True))
            turned = np.concatenate([values, values[:, :1]], axis=1)
            for ring, row in zip(part.rings, turned, strict=True):
                out[ring] = np.interp(np.arange(n), [*columns, n], row)
        return out


class _Linear:
    """Gradient and Gauss-Newton information at one point."""

    def __init__(self, harmonic: _Harmonic, point: _Point):
        self.harmonic = harmonic
        self._intensity, self._linear, rates = [], [], []
        gradient = -harmonic.precision * point.multipoles
        for k, (problem, v) in enumerate(zip(harmonic.problems, point.log_rates, strict=True)):
            intensity = np.where(problem.exposed, 1 + harmonic.contrast(k, point.multipoles), 1.0)
            linear = problem.linearise(State(np.log(intensity), (v,)))
            gradient = gradient + harmonic.project(k, linear.gradient.log_sky / intensity)
            rates.append(linear.gradient.log_rates[0])
            self._intensity.append(intensity)
            self._linear.append(linear)
        self.gradient = _Point(gradient, tuple(rates))

    def information(self, step: _Point) -> _Point:
        out, rates = self.harmonic.precision * step.multipoles, []
        for k, (linear, intensity, dv) in enumerate(zip(self._linear, self._intensity, step.log_rates, strict=True)):
            moved = self.harmonic.contrast(k, step.multipoles) / intensity
            image = linear.information(State(moved, (dv,)))
            out = out + self.harmonic.project(k, image.log_sky / intensity)
            rates.append(image.log_rates[0])
        return _Point(out, tuple(rates))

    def scaled(self, vector: _Point) -> _Point:
        rates = [
            linear.scaled(State(np.zeros_like(intensity), (v,))).log_rates[0]
            for linear, intensity, v in zip(self._linear, self._intensity, vector.log_rates, strict=True)
        ]
        return _Point(self.harmonic.covariance @ vector.multipoles, tuple(rates))


def _maximise(harmonic: _Harmonic, tolerance: float, max_steps: int):
    """As `maps.maximise`."""
    point, value, inner, left, steps = harmonic.start(), 0.0, 0, float("inf"), 0
    while steps < max_steps:
        steps += 1
        step, left, number = _conjugate_gradients(_Linear(harmonic, point), 1e-4, 400)
        inner += number
        scale, slack = 1.0, 1e-12 * (1 + abs(value))
        while scale > 1e-6:
            moved = point.moved(step, scale)
            new = harmonic.value(moved)
            if new >= value - slack:
                break
            scale /= 2
        else:
            break
        point, value = moved, new
        if left < tolerance:
            break
    return point, value, left, steps, inner


def _conjugate_gradients(linear, tolerance: float, max_steps: int):
    """Newton step, half g H^-1 g, number of steps."""
    residual = linear.gradient
    direction = scaled = linear.scaled(residual)
    step, gain, number = direction.moved(direction, -1.0), 0.0, 0
    product = residual.dot(scaled)
    while product > 0 and number < max_steps:
        image = linear.information(direction)
        length = product / direction.dot(image)
        step, residual, number = step.moved(direction, length), residual.moved(image, -length), number + 1
        gain += 0.5 * length * product
        if 0.5 * length * product <= tolerance * gain:
            break
        scaled = linear.scaled(residual)
        product, before = residual.dot(scaled), product
        direction = scaled.moved(direction, product / before)
    return step, gain, number


def _windows(windows, number: int, l_max: int) -> np.ndarray:
    if windows is None:
        return np.ones((number, l_max + 1))
    if len(windows) != number or any(np.shape(w) != (l_max + 1,) for w in windows):
        raise InputError(
            f"one window b_l of {l_max + 1} numbers (l = 0 .. {l_max}) is needed for each of {number} configurations"
        )
    return np.array(windows, float)


def _checked_power(power, l_max: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(power, float))
    if values.size == 1:
        values = np.full(max(l_max - 1, 0), values[0])
    if values.size != l_max - 1 or not np.all(np.isfinite(values) & (values > 0)):
        raise InputError(
            f"the prior C_l needs one positive value, or one for each l from 2 to {l_max}; got "
            f"{list(map(float, values))}"
        )
    return values
