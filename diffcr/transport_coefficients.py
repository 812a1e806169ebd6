r"""Diffusion coefficients of particles in turbulence, from their paths: kappa_par, kappa_perp and kappa_A.

Isotropic particles that fill space evenly stay so in any magnetic field, so that averages over them do not change with
time. With r = x(T) - x(0), the direction of motion v and c = 1 (K / c: lengths),

$$ K_{ij}(T) = \int_0^T \langle v_i(t)\, v_j(0) \rangle\, dt = \langle r_i\, v_j(0) \rangle
             = \langle v_i(T)\, r_j \rangle = -\langle v_i(0)\, r_j(-T) \rangle, \qquad
   \frac{d}{dT} \frac{\langle r_i r_j \rangle}{2} = \frac{K_{ij} + K_{ji}}{2}. $$

The first index belongs to the later time. A positive charge about B along z turns from x towards -y: it has
v_x(t) > 0 after v_y(0) > 0, hence K_xy = +kappa_A > 0, as in `diffcr.transport.diffusion_tensor`.

Whether the limit of large T is reached must be looked at: `asymptotics`.

References:
    Taylor (1922), Proc. Lond. Math. Soc. s2-20, 196; Kubo (1957), J. Phys. Soc. Japan 12, 570;
    Giacalone & Jokipii (1999), ApJ 520, 204.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .directions import isotropic_directions
from .errors import InputError
from .resampling import bootstrap, jackknife
from .trajectory import Means, integrate
from .transport import require_field
from .turbulence import Field

Fields = Callable[[Array], Field] | Sequence[Field]
"""A function that draws a field from a key, or fields."""


# Paths --------------------------------------------------------------------------------------------------------


class Moments(eqx.Module):
    """Averages over the particles of each realisation, r = x(T) - x(0).

    Attributes:
        times: T of each sample, equally spaced, shape (sample,), in the unit of positions.
        mean_square: <r_i r_j>, shape (realisation, sample, 3, 3).
        from_start: <r_i v_j(0)>, of that shape.
        to_end: <v_i(T) r_j>, of that shape.
        correlation: <v_i(T) v_j(0)>, of that shape; delta_ij / 3 at T = 0.
    """

    times: Float[np.ndarray, " sample"]
    mean_square: Float[np.ndarray, "realisation sample 3 3"]
    from_start: Float[np.ndarray, "realisation sample 3 3"]
    to_end: Float[np.ndarray, "realisation sample 3 3"]
    correlation: Float[np.ndarray, "realisation sample 3 3"]


def measure_moments(
    fields: Fields,
    larmor_radius: Real[ArrayLike, ""],
    duration: float,
    step: float,
    key: Array,
    *,
    extent: float,
    realisations: int = 40,
    particles: int = 768,
    samples: int = 40,
    dtype=np.float32,
    devices=None,
) -> Moments:
    """Follow isotropic particles through realisations of a field; no path is kept.

    Each particle starts at a point of its own in a cube. Where all start at one point, as those that one observer sees,
    they share its surroundings for as long as their paths are alike, and the realisations scatter more; the mean over
    realisations is the same.

    Args:
        fields: Function of a key that draws a field, or a sequence of fields.
        larmor_radius: In a field of one unit, with the sign of the charge.
        duration: Longest T.
        step: Largest step; a tenth of |larmor_radius| is enough for averages.
        key: Key of jax.random, for fields, starting points and directions.
        extent: Side of the cube of starting points, centred on the origin; some coherence lengths or more, 0 for one
            point. In 32 bits less than 1e4 of the smallest wavelength.
        realisations: Number of fields drawn; all of a sequence.
        particles: In each realisation.
        samples: Number of times T, equally spaced; more where their number divides that of the steps.
        dtype: Of the paths.
        devices: As of `diffcr.trajectory.integrate`.

    Raises:
        InputError: If there are fewer than two realisations, if a number is not positive, and as of `integrate`.
    """
    for name, number, least in (("particles", particles, 1), ("samples", samples, 4)):
        require_count(name, number, least)
    if not (np.isfinite(extent) and extent >= 0):
        raise InputError(f"extent of starting points must be finite and not negative, not {extent!r}")
    times, kept = None, []
    for field, start_key in each_field(fields, key, realisations):
        place_key, direction_key = jax.random.split(start_key)
        start = extent * (jax.random.uniform(place_key, (3, particles), dtype) - 0.5)
        direction = isotropic_directions(direction_key, particles, dtype)
        observe = Means(path_products, steps_between(duration, step, samples))
        path = integrate(field, start, direction, larmor_radius, duration, step, observe=observe, devices=devices)
        times, _ = path.times, kept.append(np.asarray(path.observed, float))
    moments = np.moveaxis(np.stack(kept), 2, 0)
    if not np.all(np.isfinite(moments)):
        raise InputError("paths of particles left the range of numbers: use a shorter step, or dtype float64")
    return Moments(np.asarray(times, float), *moments)


def path_products(time, start, state) -> Float[Array, "4 3 3 particle"]:
    """The four products that `Moments` are averages of, of each particle; what `trajectory.Means` takes.

    Args:
        time: Path length T; not used.
        start: Position and direction at T = 0, each (3, particle).
        state: Those at T.
    """
    displacement = state[0] - start[0]
    pairs = ((displacement, displacement), (displacement, start[1]), (state[1], displacement), (state[1], start[1]))
    return jnp.stack([later[:, None] * earlier[None] for later, earlier in pairs])


# Coefficients -------------------------------------------------------------------------------------------------


class Coefficient(eqx.Module):
    """One diffusion coefficient over c at each T, and how well it is known [unit of positions].

    Attributes:
        value: Mean over realisations, shape (sample,).
        error: Its standard error, from the scatter between realisations.
        low: 16 per cent quantile of means over realisations drawn anew (bootstrap). Realisations have heavy tails, so
            that the interval may be lopsided.
        high: 84 per cent quantile.
    """

    value: Float[np.ndarray, " sample"]
    error: Float[np.ndarray, " sample"]
    low: Float[np.ndarray, " sample"]
    high: Float[np.ndarray, " sample"]


class Coefficients(eqx.Module):
    """Diffusion coefficients over c against T [unit of positions]; over |r_L| / 3 with `over`.

    Attributes:
        times: T, shape (sample,), in the unit of positions.
        parallel: kappa_par along the mean field.
        perpendicular: kappa_perp, the mean of both directions across it.
        antisymmetric: kappa_A, with the sign of the charge.
    """

    times: Float[np.ndarray, " sample"]
    parallel: Coefficient
    perpendicular: Coefficient
    antisymmetric: Coefficient

    def over(self, unit: float) -> "Coefficients":
        """The coefficients over a length: |r_L| / 3 for the unit r_L c / 3 of the Bohm coefficient."""
        scaled = [jax.tree.map(lambda v: v / unit, getattr(self, name)) for name in COEFFICIENTS]
        return Coefficients(self.times, *scaled)


COEFFICIENTS = ("parallel", "perpendicular", "antisymmetric")


def coefficients(
    moments: Moments, method: str = "running", field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0)
) -> Coefficients:
    """kappa_par, kappa_perp and kappa_A against T, with errors over realisations.

    Args:
        moments: Of the realisations.
        method: As of `tensor`.
        field: Along the mean field; normalised here.
    """
    found = [_coefficient(each) for each in _projections(moments, method, field)]
    return Coefficients(moments.times, *found)


def tensor(moments: Moments, method: str = "running") -> Float[np.ndarray, "realisation sample 3 3"]:
    """K_ij(T) over c of each realisation.

    Args:
        moments: Of the realisations.
        method: "running", <v_i(T) r_j>, whose symmetric part is d<r_i r_j>/dT / 2; "green-kubo", <r_i v_j(0)>, the
            integral of the velocity correlation; or "mean square", <r_i r_j> / 2T, the mean of the running one over
            all times up to T, which has no antisymmetric part and comes late to the limit, by O(mean free path / T).

    Raises:
        InputError: If the method is unknown.
    """
    if method == "running":
        return moments.to_end
    if method == "green-kubo":
        return moments.from_start
    if method != "mean square":
        raise InputError(f"a method for K is running, green-kubo or mean square, not {method!r}")
    return moments.mean_square / (2 * moments.times[:, None, None])


def integrated_correlation(moments: Moments) -> Float[np.ndarray, "realisation sample 3 3"]:
    """int_0^T <v_i(t) v_j(0)> dt by the trapezoidal rule over the samples, from 1/3 at t = 0.

    It is <r_i v_j(0)> once samples lie close compared with a gyration, and shows whether they do.
    """
    step = moments.times[0]
    start = np.broadcast_to(np.eye(3) / 3, moments.correlation[:, :1].shape)
    before = np.concatenate([start, moments.correlation[:, :-1]], axis=1)
    return np.cumsum(step / 2 * (before + moments.correlation), axis=1)


# The limit of large T -----------------------------------------------------------------------------------------


class Asymptotics(eqx.Module):
    """Whether a diffusion coefficient still changes with T.

    Attributes:
        value: Mean of K(t) over the last half, T/2 < t <= T [unit of positions].
        error: Its standard error, over realisations.
        slope: d ln K / d ln T: of that mean against the one over T/4 < t <= T/2.
        slope_error: Its standard error, by the jackknife over realisations: both are of the same paths.
        tolerance: What |slope| must be below.
    """

    value: float
    error: float
    slope: float
    slope_error: float
    tolerance: float

    @property
    def verdict(self) -> Literal["asymptotic", "not asymptotic", "undecided"]:
        """Whether K still changes, at two standard errors.

        "asymptotic": |slope| is below the tolerance, and no larger one can have been overlooked. "not asymptotic":
        else, if the slope is not zero. "undecided": else; there are too few realisations.
        """
        if abs(self.slope) + 2 * self.slope_error <= self.tolerance:
            return "asymptotic"
        return "not asymptotic" if abs(self.slope) > 2 * self.slope_error else "undecided"

    @property
    def is_asymptotic(self) -> bool:
        """Whether the verdict is "asymptotic"."""
        return self.verdict == "asymptotic"


def asymptotics(
    moments: Moments,
    method: str = "running",
    field: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    tolerance: float = 0.2,
) -> dict[str, Asymptotics]:
    """Whether kappa_par, kappa_perp and kappa_A have reached their limits at the longest T.

    In turbulence as strong as the mean field and with r_L a tenth of its coherence length, they have not at
    Omega T = 100: kappa_par still rises, kappa_perp falls.

    Args:
        moments: Of the realisations.
        method: As of `tensor`. Not the mean square: a mean over all times, it is steady where the running one passes
            through it, with no limit there.
        field: Along the mean field.
        tolerance: Largest |d ln K / d ln T| that passes for none.

    Returns:
        By the names of `Coefficients`.

    Raises:
        InputError: If the method is another.
    """
    if method == "mean square":
        raise InputError("the mean square does not show whether K has reached its limit: use running, or green-kubo")
    times = moments.times
    last = times > times[-1] / 2 * (1 + 1e-6)
    before = (times > times[-1] / 4 * (1 + 1e-6)) & ~last
    doubled = np.log(times[last].mean() / times[before].mean())
    found = {}
    for name, each in zip(COEFFICIENTS, _projections(moments, method, field), strict=True):
        late, early = each[:, last].mean(axis=1), each[:, before].mean(axis=1)
        value = jackknife(lambda late: late, late)
        # Of one sign unless noise; then there is no logarithm, and no verdict.
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = jackknife(lambda late, early: np.log(late / early) / doubled, late, early)
        numbers = (value.value, value.error, slope.value, slope.error)
        found[name] = Asymptotics(*(float(v) for v in numbers), float(tolerance))
    return found


# Helpers ------------------------------------------------------------------------------------------------------


def _projections(moments: Moments, method: str, field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along the field, across it, and around it: each of shape (realisation, sample)."""
    along = np.asarray(require_field(field), float)
    k = tensor(moments, method)
    parallel = np.einsum("...ij,i,j->...", k, along, along)
    perpendicular = (np.trace(k, axis1=-2, axis2=-1) - parallel) / 2
    # epsilon_ijk B_k K_ij / 2
    around = np.stack([k[..., 1, 2] - k[..., 2, 1], k[..., 2, 0] - k[..., 0, 2], k[..., 0, 1] - k[..., 1, 0]], axis=-1)
    return parallel, perpendicular, around @ along / 2


def _coefficient(values: Float[np.ndarray, "realisation sample"]) -> Coefficient:
    estimate = jackknife(lambda v: v, values)
    low, high = bootstrap(lambda v: v, values)
    return Coefficient(estimate.value, estimate.error, low, high)


def each_field(fields: Fields, key: Array, realisations: int) -> Iterator[tuple[Field, Array]]:
    """Fields one after another, each with a key for its particles.

    Raises:
        InputError: If there are fewer than two.
    """
    if isinstance(fields, Sequence):
        realisations = len(fields)
    require_count("realisations", realisations, 2)
    for number in range(realisations):
        field_key, start_key = jax.random.split(jax.random.fold_in(key, number))
        yield (fields[number] if isinstance(fields, Sequence) else fields(field_key)), start_key


def steps_between(duration: float, step: float, samples: int) -> int:
    """Steps from one sample to the next, for at least so many samples where there are as many steps."""
    if not (np.isfinite(duration) and np.isfinite(step) and duration > 0 and step > 0):
        raise InputError(f"duration and step of paths must be positive and finite, not {duration!r} and {step!r}")
    return max(1, int(np.ceil(duration / step - 1e-9)) // samples)


def require_count(name: str, number, least: int) -> None:
    """Refuse what is no whole number from `least` on.

    Raises:
        InputError: If it is not.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {number!r}")
