r"""What a drawn field really is: variance, correlations, line spectra, divergence and helicity, each with its error.

Fields are measured at random points of a cube, given one field or several realisations. With several, each counts as
one sample and the errors are those of the mean over realisations, whatever is correlated within one. With a single
field the samples are its points (or pairs of points, or lines): independent only in a cube much larger than the
largest wavelength, and then the errors say nothing about other realisations.

Everything is relative to the measured <B^2>, and so compares directly with the functions of `diffcr.spectrum`.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError
from .turbulence import Field, smallest_wavelength

_BLOCK = 2048
"""Points at which the waves of a field are held in memory together."""


# Results ------------------------------------------------------------------------------------------------------


class Estimate(eqx.Module):
    """A measured number, or several.

    Attributes:
        value: The mean.
        error: Its standard error, of the same shape.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]

    def deviation(self, expected: Real[ArrayLike, "..."]) -> Float[Array, "*shape"]:
        """How many standard errors the value lies above what was expected."""
        return (self.value - expected) / self.error


class Moments(eqx.Module):
    """Of the field at a point.

    Attributes:
        mean: <B>, shape (3,), in the unit of the field.
        mean_square: <B^2> of all three components together, in its square.
        shares: <B_i^2> / <B^2>, shape (3,).
    """

    mean: Estimate
    mean_square: Estimate
    shares: Estimate

    @property
    def rms(self) -> Estimate:
        """sqrt <B^2> in the unit of the field."""
        root = jnp.sqrt(self.mean_square.value)
        return Estimate(root, self.mean_square.error / (2 * root))


class MeasuredCorrelation(eqx.Module):
    """Correlation functions over <B^2>, to compare with `diffcr.spectrum.correlation`.

    Attributes:
        distance: Separations, shape (distance,), in the unit of positions.
        trace: <B(x) . B(x + s u)> / <B^2>, exactly 1 at s = 0.
        longitudinal: <(B . u) (B' . u)> / <B^2>, of the component along the separation.
        transverse: Half of what is left, for either component across it.
        trace_samples: The trace in each sample, for the errors of sums over distances.
    """

    distance: Float[Array, " distance"]
    trace: Estimate
    longitudinal: Estimate
    transverse: Estimate
    trace_samples: Float[Array, "sample distance"]


class MeasuredLength(eqx.Module):
    """A coherence length over the full line, from a correlation known up to a finite distance.

    Attributes:
        length: 2 int_0^reach R ds by the trapezoidal rule, in the unit of positions.
        reach: Where the integral ends; what lies beyond is in no error.
        last: R at the reach: the integral has converged where it is small and keeps changing its sign beyond.
    """

    length: Estimate
    reach: Float[Array, ""]
    last: Estimate


class Gradients(eqx.Module):
    """Of the exact derivatives of the field.

    Attributes:
        mean_square: <sum_ij (d_i B_j)^2> / <B^2> [1 / length^2]; int k^2 P / int P for every spectrum.
        divergence: rms of div B over the rms gradient, sqrt <sum_ij (d_i B_j)^2>; rounding for a field that has none.
        largest_divergence: The largest |div B| over the rms gradient.
        curl: <B . curl B> / <B^2> [1 / length], positive where curl B = +k B; sigma int k P / int P for waves of
            helicity sigma.
        helicity: <B . curl B> / sqrt(<B^2> <|curl B|^2>), from -1 to 1; its sign is that of the magnetic helicity
            where every wave number has the same handedness.
    """

    mean_square: Estimate
    divergence: Float[Array, ""]
    largest_divergence: Float[Array, ""]
    curl: Estimate
    helicity: Estimate


class MeasuredLineSpectrum(eqx.Module):
    """Spectra along straight lines per dk over <B^2>, to compare with `diffcr.spectrum.line_spectra`.

    Attributes:
        k: Wave numbers along the line [rad / length], equidistant, without zero and the last; the window blurs each
            over two neighbours on either side.
        trace: Of all three components.
        longitudinal: Of the component along the line.
        transverse: Of either component across it, their mean.
        trace_samples: The trace in each sample, for the errors of sums over k.
    """

    k: Float[Array, " mode"]
    trace: Estimate
    longitudinal: Estimate
    transverse: Estimate
    trace_samples: Float[Array, "sample mode"]


# Measurements -------------------------------------------------------------------------------------------------


def draw_fields(draw: Callable[[Array], Field], key: Array, number: int) -> tuple[Field, ...]:
    """Independent realisations, `draw` of each of as many keys."""
    _require_number("realisations", number, 1)
    return tuple(draw(one) for one in jax.random.split(key, number))


def measure_moments(
    fields: Field | Sequence[Field], key: Array, *, extent: Real[ArrayLike, ""], points: int = 4096
) -> Moments:
    """Mean, variance and its shares among the components, at random points.

    Args:
        fields: A field, or realisations.
        key: Key of jax.random, for the points.
        extent: Side of the cube that the points lie in, centred on the origin; many times the largest wavelength.
        points: Number of points in each realisation.

    Raises:
        InputError: If there are no fields, fewer than two points, or the extent is not finite and positive.
    """
    _require_cube(extent, points)
    value, square = _collect(fields, key, _values_at, float(extent), points)
    total = jnp.sum(square, axis=-1)
    return Moments(_estimate(value), _estimate(total), _estimate(_ratio(square, total[:, None])))


def measure_correlation(
    fields: Field | Sequence[Field],
    distance: Real[ArrayLike, " distance"],
    key: Array,
    *,
    extent: Real[ArrayLike, ""],
    points: int = 2048,
    direction: Real[ArrayLike, "3"] | None = None,
) -> MeasuredCorrelation:
    """Correlation functions against distance, from pairs of random points.

    Args:
        fields: A field, or realisations.
        distance: Separations, shape (distance,).
        key: Key of jax.random, for the points and directions.
        extent: Side of the cube that the first points lie in; many times the largest wavelength.
        points: Number of pairs for each distance and realisation.
        direction: Of the separations, shape (3,), normalised here; at random over the sphere if not given.

    Raises:
        InputError: As for `measure_moments`; or if a distance is negative or not finite, or the direction zero.
    """
    _require_cube(extent, points)
    distance = np.atleast_1d(np.asarray(distance, float))
    bad = np.flatnonzero(~(np.isfinite(distance) & (distance >= 0)))
    if bad.size:
        raise InputError(
            f"distances of a correlation must be finite and not negative, not {distance[bad[0]]} as number {bad[0]}: "
            "give lengths in the unit of positions"
        )
    trace, along, square = _collect(
        fields, key, _pairs_at, float(extent), points, jnp.asarray(distance, float), _axis(direction)
    )
    traces = _ratio(trace, square)
    return MeasuredCorrelation(
        jnp.asarray(distance, float),
        _estimate(traces),
        _estimate(_ratio(along, square)),
        _estimate(_ratio((trace - along) / 2, square)),
        traces,
    )


def measured_coherence_length(correlation: MeasuredCorrelation) -> MeasuredLength:
    """Coherence length over the full line, to compare with `diffcr.spectrum.coherence_length`.

    Args:
        correlation: Measured from zero distance, ascending, in steps that resolve it, until it has died out.

    Raises:
        InputError: If the distances do not begin with 0 and ascend.
    """
    distance = np.asarray(correlation.distance)
    if distance.size < 2 or distance[0] != 0 or np.any(np.diff(distance) <= 0):
        raise InputError("a coherence length needs a correlation at distances that begin with 0 and ascend")
    step = np.diff(distance)
    # Both halves of the line.
    weight = np.concatenate([step, [0.0]]) + np.concatenate([[0.0], step])
    trace = correlation.trace
    return MeasuredLength(
        _estimate(_weighted(correlation.trace_samples, weight)),
        correlation.distance[-1],
        Estimate(trace.value[-1], trace.error[-1]),
    )


def measure_gradients(
    fields: Field | Sequence[Field], key: Array, *, extent: Real[ArrayLike, ""], points: int = 1024
) -> Gradients:
    """Divergence, gradients and helicity from exact derivatives, at random points; arguments of `measure_moments`."""
    _require_cube(extent, points)
    largest, square, gradient, divergence, product, curl = _collect(
        fields, key, _derivatives_at, float(extent), points, reduce=(jnp.max, *[jnp.mean] * 5)
    )
    scale = jnp.mean(gradient)
    norm = jnp.sqrt(jnp.mean(square) * jnp.mean(curl))
    cosine = jnp.mean(product) / norm
    change = square / jnp.mean(square) + curl / jnp.mean(curl)
    return Gradients(
        _estimate(_ratio(gradient, square)),
        jnp.sqrt(jnp.mean(divergence) / scale),
        jnp.max(largest) / jnp.sqrt(scale),
        _estimate(_ratio(product, square)),
        _estimate(product / norm + cosine * (1 - change / 2)),
    )


def measure_line_spectrum(
    fields: Field | Sequence[Field],
    key: Array,
    *,
    length: Real[ArrayLike, ""],
    samples: int = 1024,
    lines: int = 32,
    extent: Real[ArrayLike, ""],
    direction: Real[ArrayLike, "3"] | None = None,
) -> MeasuredLineSpectrum:
    r"""Spectra of the field along straight lines, with Hann's window.

    $$ E(k) = \frac{1}{\pi} \frac{\Delta}{\sum_n w_n^2} \left| \sum_n w_n B_n e^{-i k n \Delta} \right|^2,
       \qquad w_n = \sin^2(\pi n / N), $$

    averaged over lines: for isotropic turbulence and lines of all directions it is that of
    `diffcr.spectrum.line_spectra`, and P(k) follows from `band_shares`. Waves longer than about half the line are not
    told apart from one another.

    Args:
        fields: A field, or realisations.
        key: Key of jax.random, for the lines.
        length: Of each line, several times the largest wavelength.
        samples: Points on a line, an even number; no further apart than half the smallest wavelength.
        lines: Number of lines in each realisation.
        extent: Side of the cube that lines begin in.
        direction: Of the lines, shape (3,), normalised here; at random over the sphere if not given.

    Raises:
        InputError: As for `measure_moments`; or if the samples are odd or too far apart for the smallest wavelength
            that a field states.

    References:
        Welch (1967), IEEE Trans. Audio Electroacoust. 15, 70, without overlap.
    """
    _require_cube(extent, lines, "lines")
    _require_number("samples on a line", samples, 8)
    _require_positive("length of a line", length)
    if samples % 2:
        raise InputError(f"samples on a line must be an even number, not {samples}: add one")
    spacing = float(length) / samples
    finest = min(map(smallest_wavelength, _sequence(fields)))
    if spacing > finest / 2 * (1 + 1e-9):
        raise InputError(
            f"samples on a line are {spacing:.4g} apart, above half the smallest wavelength {finest:.4g}: take at "
            f"least {int(np.ceil(2 * float(length) / finest))} samples, or a shorter line"
        )
    trace, along, square = _collect(fields, key, _lines_at, float(extent), lines, samples, spacing, _axis(direction))
    square = square[:, None]
    traces = _ratio(trace, square)
    k = 2 * np.pi / float(length) * np.arange(1, samples // 2)
    return MeasuredLineSpectrum(
        jnp.asarray(k, float),
        _estimate(traces),
        _estimate(_ratio(along, square)),
        _estimate(_ratio((trace - along) / 2, square)),
        traces,
    )


def band_shares(
    spectrum: MeasuredLineSpectrum, edges: Real[ArrayLike, " edge"], blur: Real[ArrayLike, ""] = 0.15
) -> Estimate:
    r"""Share of <B^2> in each band of wave numbers k, from spectra along lines through isotropic turbulence.

    $P = -k\, dE / dk$ of the trace E, so that for bands $\varphi(k)$ with soft edges no derivative of E is needed:

    $$ \int \varphi P\, dk = \int E\, \frac{d (k \varphi)}{dk}\, dk, $$

    phi rising and falling linearly in ln k over `blur` on either side of an edge. Compare with
    `diffcr.spectrum.variance_between`, from which it differs by the curvature of P over the blur only.

    Args:
        spectrum: Measured along lines of random directions.
        edges: Ascending wave numbers between the bands, shape (edge,) [rad / length].
        blur: Half width in ln k of every edge; the wider, the smaller the error.

    Returns:
        The shares, shape (edge - 1,).

    Raises:
        InputError: If fewer than two edges are given, they do not ascend by twice the blur, or the lines do not
            resolve them.
    """
    edges, k = np.asarray(edges, float), np.asarray(spectrum.k, float)
    _require_positive("blur of a band", blur)
    if edges.size < 2 or not np.all(np.isfinite(edges)) or np.any(np.diff(np.log(edges)) < 2 * blur):
        raise InputError(
            f"edges of bands must be two or more wave numbers that ascend by {2 * blur:g} or more in ln k, twice the "
            "blur: take wider bands"
        )
    lowest, highest = 3 * k[0] / blur, k[-1] * np.exp(-blur)
    if edges[0] < lowest or edges[-1] > highest:
        raise InputError(
            f"edges of bands must lie between {lowest:.4g} and {highest:.4g}, which the lines resolve: take longer "
            "lines for smaller wave numbers, more samples for larger ones"
        )
    # d (k phi) over each cell of k, exactly.
    face = k[0] * (np.arange(len(k) + 1) + 0.5)
    rise = np.clip((1 + np.log(face / edges[:, None]) / blur) / 2, 0, 1)
    weight = np.diff(face * (rise[:-1] - rise[1:]))
    return _estimate(_weighted(spectrum.trace_samples, weight.T))


# Samples ------------------------------------------------------------------------------------------------------


@eqx.filter_jit
def _values_at(field, key, extent, points):
    """B and B^2 by component, shape (point, 3)."""
    value = _in_blocks(field, _points(key, extent, points)).T
    return value, value**2


@eqx.filter_jit
def _pairs_at(field, key, extent, points, distance, axis):
    """Products of the field at both ends: trace, along, and the mean of both squares, shape (point, distance)."""
    where, which = jax.random.split(key)
    start, unit = _points(where, extent, points), _directions(which, points, axis)
    here = _in_blocks(field, start)

    def at(s):
        there = _in_blocks(field, start + s * unit)
        along = jnp.sum(here * unit, axis=0) * jnp.sum(there * unit, axis=0)
        return jnp.sum(here * there, axis=0), along, jnp.sum(here**2 + there**2, axis=0) / 2

    return jax.tree.map(jnp.transpose, jax.lax.map(at, distance))


@eqx.filter_jit
def _derivatives_at(field, key, extent, points):
    """|div B|, B^2, squared gradient, (div B)^2, B . curl B, |curl B|^2, shape (point,)."""

    def at(position):
        value = field(position)
        tangents = [jnp.zeros_like(position).at[axis].set(1.0) for axis in range(3)]
        slope = jnp.stack([jax.jvp(field, (position,), (tangent,))[1] for tangent in tangents])
        divergence = slope[0, 0] + slope[1, 1] + slope[2, 2]
        curl = jnp.stack([slope[1, 2] - slope[2, 1], slope[2, 0] - slope[0, 2], slope[0, 1] - slope[1, 0]])
        squares = jnp.sum(value**2, axis=0), jnp.sum(slope**2, axis=(0, 1)), divergence**2
        return jnp.abs(divergence), *squares, jnp.sum(value * curl, axis=0), jnp.sum(curl**2, axis=0)

    return _in_blocks(at, _points(key, extent, points))


@eqx.filter_jit
def _lines_at(field, key, extent, lines, samples, spacing, axis):
    """Spectra by trace and along the line, shape (line, mode), and the mean square, shape (line,)."""
    where, which = jax.random.split(key)
    start, unit = _points(where, extent, lines), _directions(which, lines, axis)
    position = start[:, :, None] + spacing * jnp.arange(samples) * unit[:, :, None]
    value = _in_blocks(field, position.reshape(3, -1)).reshape(3, lines, samples)
    window = jnp.sin(jnp.pi * jnp.arange(samples) / samples) ** 2
    waves = jnp.fft.rfft(window * value)[..., 1:-1]
    scale = spacing / (jnp.pi * jnp.sum(window**2))
    along = jnp.sum(unit[:, :, None] * waves, axis=0)
    trace = jnp.sum(jnp.abs(waves) ** 2, axis=0)
    return scale * trace, scale * jnp.abs(along) ** 2, jnp.mean(jnp.sum(value**2, axis=0), axis=-1)


def _collect(fields, key, measure, *arguments, reduce=None) -> tuple[Array, ...]:
    """What `measure` gives of one field, with points first; of several, reduced over points, realisations first."""
    fields = _sequence(fields)
    keys = jax.random.split(key, len(fields))
    if len(fields) == 1:
        return measure(fields[0], keys[0], *arguments)
    found = []
    for field, one in zip(fields, keys, strict=True):
        samples = measure(field, one, *arguments)
        found.append(
            [f(sample, axis=0) for f, sample in zip(reduce or [jnp.mean] * len(samples), samples, strict=True)]
        )
    return tuple(jnp.stack(values) for values in zip(*found, strict=True))


def _in_blocks(function, position: Float[Array, "3 point"]):
    """function of positions, of which the last axis of each result is that of the points, block by block."""
    points = position.shape[1]
    block = min(_BLOCK, points)
    padded = jnp.pad(position, ((0, 0), (0, -points % block)), mode="edge")
    values = jax.lax.map(function, jnp.moveaxis(padded.reshape(3, -1, block), 1, 0))
    join = lambda v: jnp.moveaxis(v, 0, -2).reshape(*v.shape[1:-1], -1)[..., :points]
    return jax.tree.map(join, values)


def _points(key, extent, number) -> Float[Array, "3 point"]:
    return extent * (jax.random.uniform(key, (3, number), dtype=float) - 0.5)


def _directions(key, number, axis) -> Float[Array, "3 point"]:
    if axis is not None:
        return jnp.broadcast_to(axis[:, None], (3, number))
    unit = jax.random.normal(key, (3, number), dtype=float)
    return unit / jnp.linalg.norm(unit, axis=0)


def _estimate(samples: Float[Array, "sample *shape"]) -> Estimate:
    number = samples.shape[0]
    return Estimate(jnp.mean(samples, axis=0), jnp.std(samples, axis=0, ddof=1) / np.sqrt(number))


def _ratio(
    numerator: Float[Array, "sample ..."], denominator: Float[Array, "sample ..."]
) -> Float[Array, "sample ..."]:
    """Samples whose mean is the ratio of the means and whose scatter is its, to first order."""
    below = jnp.mean(denominator, axis=0)
    ratio = jnp.mean(numerator, axis=0) / below
    return ratio + (numerator - ratio * denominator) / below


def _weighted(samples: Float[Array, "sample x"], weight: Float[np.ndarray, "x ..."]) -> Float[Array, "sample ..."]:
    # An accelerator would round the factors of 32-bit matrix products to fewer bits.
    return jnp.dot(samples, jnp.asarray(weight, float), precision=jax.lax.Precision.HIGHEST)


# Checks -------------------------------------------------------------------------------------------------------


def _sequence(fields) -> tuple[Field, ...]:
    fields = (fields,) if callable(fields) else tuple(fields)
    if not fields or not all(map(callable, fields)):
        raise InputError("statistics need a field or a sequence of at least one, each a function of positions")
    return fields


def _axis(direction) -> Float[Array, "3"] | None:
    if direction is None:
        return None
    direction = np.asarray(direction, float)
    if not (np.all(np.isfinite(direction)) and np.any(direction != 0)):
        raise InputError(f"direction must be a finite vector other than zero, not {direction.tolist()}")
    return jnp.asarray(direction / np.linalg.norm(direction), float)


def _require_cube(extent, number, what="points") -> None:
    _require_positive("extent of the cube of points", extent)
    _require_number(what, number, 2)


def _require_positive(name, value) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name} must be finite and positive, not {value}")


def _require_number(name, value, least) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"number of {name} must be a whole number of at least {least}, not {value!r}")
