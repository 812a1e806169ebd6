r"""Pitch-angle diffusion D_mumu(mu) of particles in turbulence, measured along their paths.

mu is that of the momentum about the *mean* field, along +axis. The coefficient is half the rate at which
<(mu(t) - mu(0))^2> grows once waves out of resonance have turned many times, and before mu has changed: by the
Fokker-Planck equation the growth is

$$ \frac12 \frac{d}{dt} \langle (\mu(t) - \mu(0))^2 \rangle = D + (3 D D'' + 2 D'^2)\, t + O(t^2), $$

at mu = 1/2 of the quasi-linear D for k^-5/3 lower by a tenth at t = 0.005 / D. `expected_square` has all orders. What
theory predicts for D is in `diffcr.gyroresonance`.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError
from .pitch_angle import Scattering
from .pitch_angle_relaxation import relaxation
from .resampling import Estimate, jackknife
from .trajectory import Means, integrate
from .transport import require_field
from .transport_coefficients import Fields, each_field, require_count, steps_between

# Measurement --------------------------------------------------------------------------------------------------


class Changes(eqx.Module):
    """Means of the change of mu of the particles that began in each bin of mu.

    Attributes:
        times: t of each sample, equally spaced, shape (sample,), in the unit of positions.
        edges: Of the bins of mu(0), ascending, shape (bin + 1,).
        square: <(mu(t) - mu(0))^2>, shape (realisation, sample, bin).
        mean: <mu(t) - mu(0)>, of that shape.
    """

    times: Float[np.ndarray, " sample"]
    edges: Float[np.ndarray, " edge"]
    square: Float[np.ndarray, "realisation sample bin"]
    mean: Float[np.ndarray, "realisation sample bin"]

    @property
    def mu(self) -> Float[np.ndarray, " bin"]:
        """Middles of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2


def measure_changes(
    fields: Fields,
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    key: Array,
    *,
    extent: float,
    edges: Real[ArrayLike, " edge"] | None = None,
    realisations: int = 10,
    particles: int = 500,
    samples: int = 40,
    axis: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    dtype=np.float32,
    devices=None,
) -> Changes:
    """Follow particles of known pitch angle, random gyrophase and random place; no path is kept.

    Args:
        fields: Function of a key that draws a field, mean field included, or a sequence of fields.
        larmor_radius: In a field of one unit, with the sign of the charge.
        duration: Longest t.
        step: Largest step.
        key: Key of jax.random, for fields and particles.
        extent: Side of the cube of starting points; long against the wavelengths in resonance, whose phases must be
            met at random.
        edges: Of the bins of mu(0), ascending from -1 or more to 1 or less; by default 20 equal bins.
        realisations: Number of fields drawn; all of a sequence.
        particles: In each bin and realisation, evenly spread over the bin.
        samples: Number of times, equally spaced; more where their number divides that of the steps.
        axis: Of the mean field.
        dtype: Of the paths.
        devices: As of `diffcr.trajectory.integrate`.

    Raises:
        InputError: If edges or numbers are out of range, and as of `integrate`.
    """
    edges = _require_edges(edges)
    require_count("particles", particles, 1)
    require_count("samples", samples, 2)
    if not (np.isfinite(extent) and extent >= 0):
        raise InputError(f"extent of starting points must be finite and not negative, not {extent!r}")
    along = np.asarray(require_field(axis), float)
    observe = Means(_Change(tuple(along), tuple(edges)), steps_between(duration, step, samples))
    times, kept = None, []
    for field, start_key in each_field(fields, key, realisations):
        place_key, direction_key = jax.random.split(start_key)
        direction = _directions_in_bins(direction_key, along, edges, particles, dtype)
        start = extent * (jax.random.uniform(place_key, direction.shape, dtype) - 0.5)
        path = integrate(field, start, direction, larmor_radius, duration, step, observe=observe, devices=devices)
        count, mean, square = np.moveaxis(np.asarray(path.observed, float), 1, 0)
        times, _ = path.times, kept.append((square / count, mean / count))
    square, mean = np.moveaxis(np.stack(kept), 1, 0)
    return Changes(np.asarray(times, float), edges, square, mean)


@dataclasses.dataclass(frozen=True)
class _Change:
    """Number of particles, sum of changes and of their squares, by the bin of mu(0); equal ones are compiled once."""

    axis: tuple[float, ...]
    edges: tuple[float, ...]

    def __call__(self, time, start, state):
        along = jnp.asarray(self.axis, start[1].dtype)
        before, now = along @ start[1], along @ state[1]
        inner = jnp.asarray(self.edges[1:-1], before.dtype)
        # Where rounding put a particle across an edge, it counts there.
        place = jnp.sum(before >= inner[:, None], axis=0)
        here = (place == jnp.arange(len(self.edges) - 1)[:, None]).astype(before.dtype)
        change = now - before
        return here * jnp.stack([jnp.ones_like(change), change, change**2])[:, None]


def _directions_in_bins(key: Array, along, edges, particles: int, dtype) -> Float[Array, "3 particle"]:
    phase_key, mu_key = jax.random.split(key)
    shape = (len(edges) - 1, particles)
    place = (jnp.arange(particles) + jax.random.uniform(mu_key, shape, dtype)) / particles
    low, high = (jnp.asarray(v, dtype)[:, None] for v in (edges[:-1], edges[1:]))
    mu = (low + (high - low) * place).reshape(-1)
    phase = 2 * math.pi * jax.random.uniform(phase_key, mu.shape, dtype)
    helper = np.array([1.0, 0.0, 0.0]) if abs(along[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
    first = np.cross(helper, along)
    first /= np.linalg.norm(first)
    frame = jnp.asarray(np.stack([first, np.cross(along, first), along], axis=1), dtype)
    across = jnp.sqrt(jnp.maximum(1 - mu**2, 0))
    local = jnp.stack([across * jnp.cos(phase), across * jnp.sin(phase), mu])
    return jnp.dot(frame, local, precision=jax.lax.Precision.HIGHEST)


# The coefficient ----------------------------------------------------------------------------------------------


def running_scattering(changes: Changes) -> Estimate:
    """<(mu(t) - mu(0))^2> / 2t, shape (sample, bin), with errors over realisations [1 / unit of positions].

    It has a plateau where D_mumu exists. It starts from far above in strong waves out of resonance, and falls in the
    end as mu is bounded.
    """
    return jackknife(lambda square: square / (2 * changes.times[:, None]), changes.square)


def scattering(changes: Changes, window: tuple[float, float]) -> Estimate:
    """D_mumu in each bin, from the growth of <(mu(t) - mu(0))^2> between two times [1 / unit of positions].

    The growth between them has not the constant part that waves out of resonance add, of the order (dB / B_0)^2.

    Args:
        changes: Of the realisations.
        window: First and last t, in the unit of positions; the samples nearest to them are taken. Some gyrations at
            least, and not so long that the change of mu exceeds the width of a bin or of features of D.

    Raises:
        InputError: If the window is not within the times measured.
    """
    first, last = _window(changes, window)
    return jackknife(lambda square: _growth(changes.times, square, first, last), changes.square)


def steadiness(changes: Changes, window: tuple[float, float]) -> Estimate:
    """D_mumu of the second half of a window over that of the first, in each bin: 1 on a plateau."""
    first, last = _window(changes, window)
    middle = (first + last) // 2
    if middle == first:
        raise InputError("a window has two halves only with three samples or more in it: take more samples")
    halves = ((middle, last), (first, middle))

    def ratio(square):
        late, early = (_growth(changes.times, square, *half) for half in halves)
        return late / early

    return jackknife(ratio, changes.square)


def expected_square(
    scattering: Scattering, edges: Float[ArrayLike, " edge"], times: Float[ArrayLike, " sample"], cells: int = 400
) -> Float[np.ndarray, "sample bin"]:
    """<(mu(t) - mu(0))^2> in each bin if mu diffuses with a given D_mumu, to compare with `Changes.square`.

    The operator of diffusion in mu is its own adjoint: `relaxation` of mu and of mu^2 gives their means at a time t as
    functions of mu(0).

    Args:
        scattering: D_mumu [1 / unit of positions]; positive everywhere inside (-1, 1).
        edges: Of the bins of mu(0).
        times: t, in the unit of positions.
        cells: Of mu in the solution.
    """
    edges, times = np.asarray(edges, float), np.asarray(times, float)
    face = np.linspace(-1, 1, cells + 1)
    mu = (face[1:] + face[:-1]) / 2
    # Mean of mu^2 over a cell.
    mean, square = (np.asarray(relaxation(v, scattering, times)) for v in (mu, mu**2 + (2 / cells) ** 2 / 12))
    change = square - 2 * mu * mean + mu**2
    place = edges[:-1, None] + np.diff(edges)[:, None] * (np.arange(20) + 0.5) / 20
    return np.stack([np.interp(place, mu, each).mean(axis=1) for each in change])


def tabulated(mu: Float[ArrayLike, " bin"], values: Float[ArrayLike, " bin"], even: bool = False) -> Scattering:
    """D_mumu as the function of mu that `diffcr.pitch_angle` takes.

    D / (1 - mu^2) is linear between the points and constant beyond the outer ones.

    Args:
        mu: Ascending, inside (-1, 1).
        values: D_mumu there, positive.
        even: Take the mean of D at mu and -mu, as without helicity of the turbulence; the points must be symmetric.

    Raises:
        InputError: If mu does not ascend inside (-1, 1), or is not symmetric where it must be, or if a value is not
            finite and positive.
    """
    mu, values = np.asarray(mu, float), np.asarray(values, float)
    if mu.ndim != 1 or mu.shape != values.shape or np.any(np.diff(mu) <= 0) or not np.all(np.abs(mu) < 1):
        raise InputError("a table of D_mumu needs one value each for ascending mu inside (-1, 1)")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        raise InputError(
            f"D_mumu must be finite and positive, not {values[bad[0]]:g} at mu = {mu[bad[0]]:.3g}: use more particles "
            "or realisations, or wider bins"
        )
    if even:
        if not np.allclose(mu, -mu[::-1], atol=1e-9):
            raise InputError("the even part of D_mumu needs values at mu and at -mu: use symmetric bins")
        values = (values + values[::-1]) / 2
    ratio = values / (1 - mu**2)

    def interpolated(at):
        at = jnp.asarray(at, float)
        return (1 - at**2) * jnp.interp(at, jnp.asarray(mu), jnp.asarray(ratio))

    return interpolated


# Helpers ------------------------------------------------------------------------------------------------------


def _require_edges(edges) -> Float[np.ndarray, " edge"]:
    edges = np.linspace(-1, 1, 21) if edges is None else np.asarray(edges, float)
    if edges.ndim != 1 or edges.size < 2 or np.any(np.diff(edges) <= 0) or edges[0] < -1 or edges[-1] > 1:
        raise InputError(f"edges of bins of mu must ascend within -1 to 1, not {edges.tolist()}")
    return edges


def _window(changes: Changes, window: tuple[float, float]) -> tuple[int, int]:
    times = changes.times
    first, last = (int(np.argmin(np.abs(times - each))) for each in window)
    if not (0 < window[0] < window[1] <= times[-1] * (1 + 1e-6)) or first == last:
        raise InputError(
            f"a window of times must ascend between {times[0]:g} and {times[-1]:g} and hold two samples, not {window}"
        )
    return first, last


def _growth(times, square, first: int, last: int) -> np.ndarray:
    return (square[..., last, :] - square[..., first, :]) / (2 * (times[last] - times[first]))
