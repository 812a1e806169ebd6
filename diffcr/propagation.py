"""Cosmic rays spread by diffusion from their sources: the density at an observer, and its gradient.

Places are in pc with z = 0 in the middle plane of the halo, diffusion coefficients over c in pc, ages in yr. A
coefficient and an age enter as (K / c) * `SPEED_OF_LIGHT` * age [pc^2]. The halo is bounded by planes z = +-H
where particles escape freely. Densities are logarithms throughout, so that a source too far away or too young for
its density to be a floating-point number still has the right gradient of log density, which is what a dipole needs.

The diffusion tensor here is the one of large scales; `transport.fick_dipole` takes the local one. Its antisymmetric
part is ignored: where K is uniform it drops out of the diffusion equation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError, is_known
from .slab import log_slab_density, short_log_slab_density
from .source import Sources
from .units import SPEED_OF_LIGHT

_NODES = 64
_NEGLIGIBLE = 45.0
"""Exponents so far below the largest one contribute less than rounding does."""


class Mixture(NamedTuple):
    """Particles of many sources together, at the observer.

    Attributes:
        log_density: ln n [n in 1 / pc^3 times the unit of the weights]; -inf where no source contributes.
        gradient: grad ln n, the gradient of the density over the density [1 / pc]; zero where there is none.
    """

    log_density: Float[Array, ""]
    gradient: Float[Array, "3"]


def diffusion_coefficient(
    rigidity: Float[ArrayLike, "..."], diffusion: Float[ArrayLike, "..."], index: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """K / c = diffusion (rigidity / 1 TV)^index [pc].

    3e28 cm^2/s at 1 GV with the index 1/3 is 3e29 cm^2/s, or `diffusion` = 3.244 pc, at 1 TV.

    Args:
        rigidity: Rigidity [TV]; above 0.
        diffusion: K / c at 1 TV [pc].
        index: Dimensionless.
    """
    return jnp.asarray(diffusion) * jnp.asarray(rigidity) ** jnp.asarray(index)


# One source ---------------------------------------------------------------------------------------------


def burst_log_density(
    position: Float[ArrayLike, "3"],
    source: Float[ArrayLike, "... 3"],
    age: Float[ArrayLike, "..."],
    diffusion: Float[ArrayLike, ""] | Float[ArrayLike, "3 3"],
    halo_height: Float[ArrayLike, ""] | None = None,
) -> Float[Array, "..."]:
    r"""Log density of one particle set free at `source`, the Green's function of diffusion.

    In free space, with d = position - source and the path length s = ct,

    $$ G = (4 \pi s)^{-3/2} (\det K)^{-1/2} \exp(-d \cdot K^{-1} d / 4 s). $$

    Between absorbing planes the coordinates sheared by $x_\perp - (K_{\perp z} / K_{zz})\, z$ diffuse independently
    of z, whatever the direction of the tensor, and keep both planes where they are: G is the free Green's function
    of the two sheared coordinates times the one of z, with images at $z_n = 2 H n + (-1)^n z_s$.

    Args:
        position: Place of the observer [pc].
        source: Places of the sources [pc].
        age: Time since the particles were set free [yr].
        diffusion: K / c [pc]; one number, or a tensor, which is made symmetric.
        halo_height: H [pc]: half the thickness of the halo. None for free space.

    Returns:
        ln G [G in 1 / pc^3]. -inf, with gradients zero, at age 0 and on the planes of escape or outside them.

    Raises:
        InputError: If the tensor is not positive definite, the height not positive, an age negative, or the
            observer or a source outside the halo. Traced values are not checked.

    References:
        Carslaw & Jaeger (1959), Conduction of Heat in Solids, sections 10.2, 14.3 and 14.10.
    """
    _check(position, source, age, diffusion, halo_height)
    position, source, path = tuple(jnp.asarray(position)), jnp.asarray(source), SPEED_OF_LIGHT * jnp.asarray(age)
    return _log_green(position, source, path, _shear(diffusion), halo_height)


def continuous_log_density(
    position: Float[ArrayLike, "3"],
    source: Float[ArrayLike, "... 3"],
    age: Float[ArrayLike, "..."],
    duration: Float[ArrayLike, "..."],
    diffusion: Float[ArrayLike, ""] | Float[ArrayLike, "3 3"],
    halo_height: Float[ArrayLike, ""] | None = None,
    nodes: int = _NODES,
) -> Float[Array, "..."]:
    r"""Log density of one particle of a constant emission, whose time is anywhere within it.

    The integral of the Green's function of `burst_log_density` over the time from `age` ago to `age - duration` ago,
    or to now where emission goes on, over the whole `duration`: of a source that has not finished, particles still to
    come count as one of its particles but do not add to the density. In free space, for isotropic K and
    duration = age = t, it is erfc(r / sqrt(4 K t)) / (4 pi K r t).

    Close to a source that still emits the density rises as 1 / r, without bound: below r ~ 1e-8 sqrt(K age) it is
    capped. (Diffusion holds only from some mean free paths 3 K / c on.)

    Args:
        position: Place of the observer [pc].
        source: Places of the sources [pc].
        age: Time since the emission began [yr].
        duration: How long it lasts, or will have lasted [yr]; 0 is a burst at `age`.
        diffusion: K / c [pc]; one number, or a tensor, which is made symmetric.
        halo_height: H [pc]; None for free space.
        nodes: Times at which each source's Green's function is taken, at Gauss-Legendre abscissae of ln t where it
            matters. With 64 the error is below 1e-10 for r > 1e-2 H, and 1e-7 for r > 1e-4 H.

    Returns:
        ln of the mean of G over the duration [G in 1 / pc^3].

    Raises:
        InputError: As `burst_log_density` does, or if a duration is negative.
    """
    _check(position, source, age, diffusion, halo_height, duration)
    position, source, age, duration = (jnp.asarray(each) for each in (position, source, age, duration))
    return _log_mean_green(tuple(position), source, age, duration, _shear(diffusion), halo_height, nodes)


def log_density(
    position: Float[ArrayLike, "3"],
    sources: Sources,
    diffusion: Float[ArrayLike, ""] | Float[ArrayLike, "3 3"],
    halo_height: Float[ArrayLike, ""] | None = None,
    continuous: bool | None = None,
) -> Float[Array, " source"]:
    """Log density [1 / pc^3] at `position` of one particle from each source, whatever its power.

    Args:
        position: Place of the observer [pc].
        sources: Bursts where the duration is 0, else constant emission.
        diffusion: K / c [pc]; one number, or a tensor, which is made symmetric.
        halo_height: H [pc]; None for free space.
        continuous: Whether any duration is above 0, which costs much more. By default the durations are looked
            at; in a trace, where that cannot be, they are taken to be.

    Raises:
        InputError: As `continuous_log_density` does.
    """
    _check(position, sources.position, sources.age, diffusion, halo_height, sources.duration)
    return _log_each(tuple(jnp.asarray(position)), sources, _shear(diffusion), halo_height, _emits(sources, continuous))


# All sources --------------------------------------------------------------------------------------------


def total_log_density_and_gradient(
    sources: Sources,
    log_weights: Float[ArrayLike, " source"],
    diffusion: Float[ArrayLike, ""] | Float[ArrayLike, "3 3"],
    halo_height: Float[ArrayLike, ""] | None = None,
    position: Float[ArrayLike, "3"] = (0.0, 0.0, 0.0),
    chunk: int = 8192,
    continuous: bool | None = None,
) -> Mixture:
    """Density of all sources together, and its exact gradient by differentiation.

    Sources are taken `chunk` at a time, here and in the derivatives of what is returned, so that memory does
    not grow with their number. Rigidities are a `jax.vmap` over `log_weights` and `diffusion`.

    Args:
        sources: Bursts where the duration is 0, else constant emission.
        log_weights: ln of the number of particles of each source, such as ln power + `source.log_spectrum`; -inf
            for none.
        diffusion: K / c [pc]; one number, or a tensor, which is made symmetric.
        halo_height: H [pc]; None for free space.
        position: Place of the observer [pc]; by default the Sun.
        chunk: Sources per step.
        continuous: As in `log_density`.

    Raises:
        InputError: As `continuous_log_density` does.
    """
    _check(position, sources.position, sources.age, diffusion, halo_height, sources.duration)
    continuous, number = _emits(sources, continuous), len(sources.age)
    chunk = max(1, min(chunk // _NODES if continuous else chunk, number))
    shear, place, one = _shear(diffusion), tuple(jnp.asarray(position, float)), (jnp.ones(()),)

    def part(sources, log_weights):
        def logs(*place):
            return log_weights + _log_each(place, sources, shear, halo_height, continuous)

        # Forward, along one axis after the other: cheaper than one backward pass.
        total, shares = _log_sum(logs(*place))
        axes = [
            jax.jvp(lambda each, i=i: logs(*place[:i], each, *place[i + 1 :]), place[i : i + 1], one) for i in range(3)
        ]
        return total, jnp.stack([jnp.sum(shares * slope) for _, slope in axes])

    # Sources of age 0, which make no particles, fill the last step.
    fill = -number % chunk
    pieces = jax.tree.map(
        lambda each: jnp.pad(each, [(0, fill)] + [(0, 0)] * (each.ndim - 1)).reshape(-1, chunk, *each.shape[1:]),
        (sources, jnp.asarray(log_weights)),
    )
    _, (logs, gradients) = jax.lax.scan(
        jax.checkpoint(lambda _, piece: (None, part(*piece)), prevent_cse=False), None, pieces
    )
    return _mix(logs, gradients)


def add_mixtures(*mixtures: Mixture) -> Mixture:
    """Density of several mixtures together, such as of known sources, an ensemble and a smooth background.

    A background enters as Mixture(ln n, grad ln n), its density in the unit of the others.
    """
    return _mix(*(jnp.stack(each) for each in zip(*mixtures, strict=True)))


def _mix(logs, gradients) -> Mixture:
    total, shares = _log_sum(logs)
    return Mixture(total, jnp.sum(shares[:, None] * gradients, axis=0))


def _log_sum(logs):
    """ln of the sum of exp(logs) and the share of each; -inf, and gradients zero, where all are -inf."""
    top = jax.lax.stop_gradient(jnp.max(logs))
    each = jnp.exp(logs - jnp.where(jnp.isfinite(top), top, 0.0))
    total = jnp.sum(each)
    seen = total > 0
    total = jnp.where(seen, total, 1.0)
    return jnp.where(seen, jnp.log(total) + top, -jnp.inf), each / total


def _log_each(position, sources, shear, halo_height, continuous):
    if continuous:
        return _log_mean_green(position, sources.position, sources.age, sources.duration, shear, halo_height, _NODES)
    return _log_green(position, sources.position, SPEED_OF_LIGHT * sources.age, shear, halo_height)


_FEW = 64
"""Sources, at most, whose Green's functions are summed by the shorter program."""


# Green's functions --------------------------------------------------------------------------------------


class _Shear(NamedTuple):
    """Symmetric tensor K as diffusion along z, and across it in coordinates x - slope z that do not mix with z."""

    slope: Float[Array, "2"]
    across: Float[Array, "2 2"]
    along: Float[Array, ""]

    def distance(self, x, y, z):
        """d . K^-1 d without its part along z, d_z^2 / K_zz: the same for a source and all its images."""
        x, y = x - self.slope[0] * z, y - self.slope[1] * z
        (xx, xy), (_, yy) = self.across
        return (yy * x**2 - 2 * xy * x * y + xx * y**2) / self.determinant

    @property
    def determinant(self):
        return self.across[0, 0] * self.across[1, 1] - self.across[0, 1] ** 2


def _shear(diffusion) -> _Shear:
    diffusion = jnp.asarray(diffusion, float)
    if diffusion.ndim == 0:
        return _Shear(jnp.zeros(2), diffusion * jnp.eye(2), diffusion)
    tensor = (diffusion + diffusion.T) / 2
    slope = tensor[:2, 2] / tensor[2, 2]
    return _Shear(slope, tensor[:2, :2] - tensor[2, 2] * slope[:, None] * slope, tensor[2, 2])


def _log_green(position, source, path, shear, halo_height):
    """`position` as its three components: a derivative along x then leaves alone what depends on z."""
    offset = _offset(position, source)
    distance, height = shear.distance(*offset), offset[2]
    valid = path > 0
    if halo_height is not None:
        valid &= (jnp.abs(source[..., 2]) < halo_height) & (jnp.abs(position[2]) < halo_height)
    path = jnp.where(valid, path, 1.0)
    across = -distance / (4 * path) - jnp.log(4 * jnp.pi * path) - jnp.log(shear.determinant) / 2
    spread = shear.along * path
    if halo_height is None:
        along = -(height**2) / (4 * spread) - jnp.log(4 * jnp.pi * spread) / 2
    else:
        z, z_source = (jnp.where(jnp.abs(each) < halo_height, each, 0.0) for each in (position[2], source[..., 2]))
        # Programs for a few sources are compiled more often than they are long at work.
        slab = short_log_slab_density if source[..., 2].size <= _FEW else log_slab_density
        z, z_source, spread = jnp.broadcast_arrays(z / halo_height, z_source / halo_height, spread / halo_height**2)
        along = slab(z, z_source, spread)
        along = along - jnp.log(halo_height)
    return jnp.where(valid, across + along, -jnp.inf)


def _offset(position, source):
    return tuple(each - source[..., i] for i, each in enumerate(position))


def _log_mean_green(position, source, age, duration, shear, halo_height, nodes):
    lasts = duration > 0
    age, duration = jnp.broadcast_arrays(age, duration)
    end = SPEED_OF_LIGHT * age
    start = SPEED_OF_LIGHT * jnp.maximum(age - duration, 0.0)
    lower, upper = jax.lax.stop_gradient(_relevant_paths(_offset(position, source), start, end, shear, halo_height))
    low, high = jnp.where(start > lower, start, lower), jnp.where(end < upper, end, upper)
    valid = high > low
    low, high = jnp.where(valid, low, 1.0), jnp.where(valid, high, 2.0)
    # A short duration is lost to rounding in the difference of its ends.
    whole = valid & (start > lower) & (end < upper) & (age > duration)
    part = jnp.where(whole, duration / jnp.where(whole, age, 1.0), (high - low) / high)
    span = -jnp.log1p(-part)
    abscissae, weights = np.polynomial.legendre.leggauss(nodes)
    path = high[..., None] * jnp.exp(-span[..., None] * (1 - abscissae) / 2)
    logs = _log_green(position, source[..., None, :], path, shear, halo_height) + jnp.log(path * weights / 2)
    top = jax.lax.stop_gradient(jnp.max(logs, axis=-1))
    seen = valid & jnp.isfinite(top)
    total = jnp.sum(jnp.exp(jnp.where(seen[..., None], logs - jnp.where(seen, top, 0.0)[..., None], 0.0)), axis=-1)
    share = span / (SPEED_OF_LIGHT * jnp.where(lasts, duration, 1.0))
    mean = jnp.log(total * jnp.where(seen, share, 1.0)) + jnp.where(seen, top, 0.0)
    burst = _log_green(position, source, end, shear, halo_height)
    return jnp.where(lasts, jnp.where(seen, mean, -jnp.inf), burst)


def _relevant_paths(offset, start, end, shear, halo_height):
    """Path lengths between which exp(-q / s - c s), which the Green's function falls off as, is not negligible."""
    q = (shear.distance(*offset) + offset[2] ** 2 / shear.along) / 4
    c = 0.0 if halo_height is None else jnp.pi**2 / 4 * shear.along / halo_height**2
    best = jnp.clip(jnp.sqrt(q / c) if halo_height is not None else jnp.inf, start, end)
    level = q / best + c * best + _NEGLIGIBLE
    root = level + jnp.sqrt(level**2 - 4 * q * c)
    upper = jnp.full_like(end, jnp.inf) if halo_height is None else root / (2 * c)
    lower = 2 * q / root
    return jnp.maximum(lower, 1e-16 * jnp.minimum(upper, end)), upper


# Checks -------------------------------------------------------------------------------------------------


def _emits(sources, continuous) -> bool:
    if continuous is not None:
        return continuous
    return not is_known(sources.duration) or bool(np.any(np.asarray(sources.duration) > 0))


def _check(position, source, age, diffusion, halo_height, duration=0.0) -> None:
    """Refuse what has no density: see `burst_log_density`."""
    require_halo(diffusion, halo_height)
    if is_known(age):
        _require(np.asarray(age) >= 0, age, "an age must not be negative", "give years since the emission began")
    if is_known(duration):
        _require(np.asarray(duration) >= 0, duration, "a duration must not be negative", "0 is a burst")
    if halo_height is None or not is_known(halo_height):
        return
    for what, place in (("the observer", position), ("a source", source)):
        if is_known(place):
            height = np.asarray(place)[..., 2]
            _require(
                np.abs(height) <= np.asarray(halo_height),
                height,
                f"{what} must be inside the halo, at |z| up to {float(halo_height):g} pc",
                "raise the halo's height, or leave the source out",
            )


def require_halo(diffusion, halo_height=None) -> None:
    """Check the diffusion coefficient [pc], number or tensor, and the halo's height [pc] where they can be looked at.

    Raises:
        InputError: If the coefficient is not finite and above 0, a tensor's symmetric part not positive definite, or
            the height not above 0.
    """
    if is_known(diffusion):
        values = np.asarray(diffusion, float)
        remedy = "give K / c in pc, such as 0.324 for 3e28 cm^2/s"
        _require(np.isfinite(values), values, "a diffusion coefficient must be finite", remedy)
        if values.ndim == 0:
            _require(values > 0, values, "a diffusion coefficient must be above zero", remedy)
        else:
            smallest = np.linalg.eigvalsh((values + values.T) / 2)[0]
            _require(
                smallest > 0,
                smallest,
                "a diffusion tensor of large scales must be positive definite",
                "diffusion along the field alone, kappa_perp = 0, spreads sources over lines",
            )
    if halo_height is not None and is_known(halo_height):
        height = np.asarray(halo_height, float)
        _require(
            np.isfinite(height) & (height > 0),
            height,
            "a halo's height must be finite and above zero",
            "leave it out for free space",
        )


def _require(good, values, problem: str, remedy: str) -> None:
    bad = np.flatnonzero(~np.atleast_1d(good))
    if bad.size:
        values = np.atleast_1d(np.asarray(values))
        where = f"entry {bad[0]} is " if values.size > 1 else "it is "
        raise InputError(f"{problem}: {where}{values[bad[0]]:g}; {remedy}")
