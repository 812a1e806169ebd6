r"""Are dipoles of several energies on one axis, once the observer's motion is taken out?

Where the flux of cosmic rays is bound to the magnetic field, dipoles of all energies point along it or against it. In
the plane of $d$ = (delta_0h, delta_6h), the only one an experiment measures, they lie on a line through the end of the
dipole that the observer's motion adds,

$$ d_i = s_i\, (\cos\alpha, \sin\alpha) + (2 + \Gamma)\, v, \qquad 0 \le \alpha < \pi. $$

The right ascension of an axis is all that is measured: s holds the cosine of its declination. Motion along the axis
cannot be told from s, motion across it moves the line. Given alpha the model is linear, so that s and v are
eliminated exactly. References: Ahlers (2016), PRL 117, 151103; Schwadron et al. (2014), Science 343, 988.
"""

import math
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffcr.errors import InputError, is_known
from diffcr.observer import observer_velocity
from diffcr.typing import AnyArray


class Motion(eqx.Module):
    """What is known of the observer's velocity in the equatorial plane; "free" is a spread above zero.

    Attributes:
        velocity: Towards RA 0 h and 6 h [c]: known, or the mean of a normal prior.
        spread: Its standard deviations [c]: zero where it is known, both infinite for a flat prior.
        spectral_index: Gamma, the index of the intensity in energy. Dimensionless.
    """

    velocity: Float[AnyArray, "2"]
    spread: Float[AnyArray, "2"]
    spectral_index: float = 2.7

    @property
    def dipole(self) -> Float[Array, "2"]:
        """(2 + Gamma) v, which the motion adds to first order (Compton & Getting 1935, Phys. Rev. 47, 817)."""
        return (2 + self.spectral_index) * jnp.asarray(self.velocity)


class OneAxis(eqx.Module):
    """One axis fitted to dipoles of several energies.

    Two directions a half turn apart are one axis; the signs of `strength` and `perpendicular` are those of the end of
    the axis in [0, pi) that is nearest to `best_axis`.

    Attributes:
        energy: Energies of the rows [TeV].
        axis: Right ascensions of the axis, even in [0, pi) [rad].
        profile: chi2 at each, smallest in strengths and velocity; the prior of the velocity is in it, that of the
            strengths is not.
        probability: Posterior probability of each, under an even prior; sums to 1.
        best_axis: Where the profile is smallest [rad].
        mean_axis: Mean of the posterior, in [0, pi) [rad].
        error: Its standard deviation [rad]; 0.91 for an axis that is not known at all.
        chi2: Smallest value of the profile.
        degrees_of_freedom: Components less strengths and axis, and less one more where the velocity has a flat prior.
        p_value: Probability of a larger chi2, if there is one axis.
        log_evidence: Logarithm of the density of the data, averaged over the axis. Of use between motions with
            proper priors only.
        strength: s of each row: posterior mean. Relative intensity.
        strength_covariance: Its posterior covariance, axis and velocity included.
        perpendicular: Posterior mean of the velocity across the axis, towards `best_axis` + 90 degrees [c].
        perpendicular_error: Its standard deviation [c]; a known velocity has one by the error of the axis.
        perpendicular_at: Mean and variance of the velocity across each axis, shape (2, axis).
        expected: The points of the line that fit the dipoles best, in the observed frame.
    """

    energy: Float[AnyArray, " row"]
    axis: Float[Array, " axis"]
    profile: Float[Array, " axis"]
    probability: Float[Array, " axis"]
    best_axis: Float[Array, ""]
    mean_axis: Float[Array, ""]
    error: Float[Array, ""]
    chi2: Float[Array, ""]
    degrees_of_freedom: Int[Array, ""]
    p_value: Float[Array, ""]
    log_evidence: Float[Array, ""]
    strength: Float[Array, " row"]
    strength_covariance: Float[Array, "row row"]
    perpendicular: Float[Array, ""]
    perpendicular_error: Float[Array, ""]
    perpendicular_at: Float[Array, "2 axis"]
    expected: Float[Array, "row 2"]

    def perpendicular_density(self, velocity: Float[AnyArray, " velocity"]) -> Float[Array, " velocity"]:
        """Posterior density of the velocity across the axis [1/c]; of a free velocity only."""
        mean, variance = self.perpendicular_at
        normal = jnp.exp(-((velocity[:, None] - mean) ** 2) / (2 * variance)) / jnp.sqrt(2 * jnp.pi * variance)
        return normal @ self.probability

    def flip(self) -> "Flip":
        """Where the strength changes sign."""
        return flip_energy(self.energy, self.strength, self.strength_covariance)


class Flip(eqx.Module):
    """Where a strength changes sign; not a number where it does not.

    Attributes:
        energy: Of the first change of sign, by interpolation linear in the logarithm of the energy [TeV].
        log_error: Standard error of its logarithm, to first order.
        changes: How often the sign changes.
    """

    energy: Float[Array, ""]
    log_error: Float[Array, ""]
    changes: Int[Array, ""]


class AxisComparison(eqx.Module):
    """A fitted axis against given ones.

    Attributes:
        separation: Fitted less given, in [-pi/2, pi/2) [rad].
        sigma: How far the data are from each, the root of what chi2 rises by. Standard deviations.
        chance: Probability that an axis of random right ascension is as close to each.
        resolved: The same, with no separation taken to be smaller than the error of the axis.
        any_chance: Probability that one is as close to any of them as this one is to the closest.
        tried_chance: The same where more directions were tried than are given, each at random.
    """

    separation: Float[Array, " reference"]
    sigma: Float[Array, " reference"]
    chance: Float[Array, " reference"]
    resolved: Float[Array, " reference"]
    any_chance: Float[Array, ""]
    tried_chance: Float[Array, ""]


def named_motion(name: str, spread: float = 0.0, spectral_index: float = 2.7) -> Motion:
    """The Sun's motion by its name in `diffcr.observer.observer_velocity`, with an error of both components [c]."""
    return Motion(observer_velocity(name)[:2], jnp.full(2, float(spread)), spectral_index)


def joint_covariance(
    about: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 2"],
    group: Int[AnyArray, " row"] | None = None,
    scale: float | Float[AnyArray, " experiment"] = 0.0,
    phase: float | Float[AnyArray, " experiment"] = 0.0,
    scatter: float | Float[AnyArray, " experiment"] = 0.0,
) -> Float[Array, "row 2 row 2"]:
    """Covariance of all rows, with what the experiments may be wrong by.

    A wrong scale or phase is one and the same for all rows of an experiment, to first order: it turns their axis
    together, and cannot pass for a second one. Scatter is independent from row to row.

    Args:
        about: Vectors that are scaled and turned, as measured or as expected.
        covariance: Statistical, of each row.
        group: Experiment of each row, counted from 0; all of one where it is left out.
        scale: Standard deviation of the logarithm of the amplitude, of all experiments or of each.
        phase: That of the phase [rad].
        scatter: That of both components of each row. Relative intensity.
    """
    about = jnp.asarray(about)
    rows = len(about)
    group = np.zeros(rows, int) if group is None else np.asarray(group)
    if len(covariance) != rows or len(group) != rows:
        raise InputError(
            f"there are {rows} dipoles, {len(covariance)} covariances and {len(group)} experiments of them"
        )
    for name, value in (("scale", scale), ("phase", phase), ("scatter", scatter)):
        if is_known(value) and not np.all(np.isfinite(value) & (np.asarray(value) >= 0)):
            raise InputError(f"the {name} error of experiments must be finite and not negative, not {value}")
    number = int(group.max(initial=0)) + 1
    same = group[:, None] == group
    scale, phase, scatter = (jnp.broadcast_to(jnp.asarray(x, float), (number,))[group] for x in (scale, phase, scatter))
    radial = scale[:, None] * about
    tangential = phase[:, None] * _across(about)
    common = jnp.einsum("ia,jb->iajb", radial, radial) + jnp.einsum("ia,jb->iajb", tangential, tangential)
    own = jnp.asarray(covariance) + scatter[:, None, None] ** 2 * jnp.eye(2)
    return common * same[:, None, :, None] + jnp.einsum("ij,iab->iajb", jnp.eye(rows), own)


def fit_one_axis(
    energy: Float[AnyArray, " row"],
    dipole: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 row 2"],
    motion: Motion,
    strength_scale: float = math.inf,
    points: int = 3600,
) -> OneAxis:
    """One axis, a strength for each row, and the motion of the observer, fitted to dipoles as observed.

    Args:
        energy: Energies [TeV].
        dipole: (delta_0h, delta_6h), in the observed frame.
        covariance: Of all of them, from `joint_covariance`.
        motion: The observer's, known or free.
        strength_scale: Standard deviation of a normal prior of each strength about zero; flat where it is infinite.
        points: Number of axes in the half turn.

    Raises:
        InputError: If shapes do not fit, there are fewer than two rows, a value is not finite or out of range, or the
            posterior is narrower than the steps of the grid.
    """
    energy, dipole, covariance = jnp.asarray(energy), jnp.asarray(dipole), jnp.asarray(covariance)
    rows = len(dipole)
    if rows < 2 or energy.shape != (rows,) or covariance.shape != (rows, 2, rows, 2):
        raise InputError(
            f"one axis needs two dipoles or more, an energy for each and the covariance of all: not {rows}, "
            f"{energy.shape} and {covariance.shape}"
        )
    _check(energy, dipole, covariance, motion, strength_scale)
    fit = _fit(energy, dipole, covariance, motion, strength_scale, points)
    if is_known(fit.error) and fit.error < 1.5 * np.pi / points:
        raise InputError(
            f"the axis is known to {np.degrees(float(fit.error)):.1g} degrees, which steps of {180 / points:.2g} do not "
            f"resolve: give more points, such as {4 * points}"
        )
    return fit


def fit_with_systematics(
    energy: Float[AnyArray, " row"],
    dipole: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 2"],
    motion: Motion,
    group: Int[AnyArray, " row"] | None = None,
    scale: float | Float[AnyArray, " experiment"] = 0.0,
    phase: float | Float[AnyArray, " experiment"] = 0.0,
    scatter: float | Float[AnyArray, " experiment"] = 0.0,
    strength_scale: float = math.inf,
    points: int = 3600,
    rounds: int = 4,
) -> OneAxis:
    """`fit_one_axis` with the errors of the experiments that `joint_covariance` describes.

    They act on what is expected, which the fit before tells, and not on what was measured: scaling measured values
    that do not agree favours small ones (D'Agostini 1994, NIM A 346, 306).

    Args:
        rounds: Fits after the first, which knows only the scatter.
    """
    own = joint_covariance(dipole, covariance, group, scatter=scatter)
    fit = fit_one_axis(energy, dipole, own, motion, strength_scale, points)
    for _ in range(rounds):
        joint = joint_covariance(fit.expected, covariance, group, scale, phase, scatter)
        fit = fit_one_axis(energy, dipole, joint, motion, strength_scale, points)
    return fit


def projected_strength(
    dipole: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 row 2"],
    axis: float | Float[AnyArray, ""],
    motion: Motion,
) -> tuple[Float[Array, " row"], Float[Array, "row row"]]:
    """Component of each dipole along a given axis [rad], the motion's taken out, and the covariance.

    Unlike the strengths of a fit it does not suppose that nothing but noise is across the axis.
    """
    along = _direction(axis)
    value = (jnp.asarray(dipole) - motion.dipole) @ along
    spread = (2 + motion.spectral_index) * jnp.asarray(motion.spread)
    return value, jnp.einsum("iajb,a,b->ij", covariance, along, along) + jnp.sum((along * spread) ** 2)


def flip_energy(
    energy: Float[AnyArray, " row"], strength: Float[AnyArray, " row"], covariance: Float[AnyArray, "row row"]
) -> Flip:
    """Where a strength changes sign, between the two energies on either side of it.

    Args:
        energy: Energies, in any order [TeV].
        strength: s at each.
        covariance: Of the strengths.
    """
    order = jnp.argsort(jnp.asarray(energy))
    log_energy, s = jnp.log(jnp.asarray(energy)[order]), jnp.asarray(strength)[order]
    change = s[:-1] * s[1:] < 0
    first = jnp.argmax(change)
    low, high = s[first], s[first + 1]
    gap = jnp.where(change[first], low - high, jnp.nan)
    step = log_energy[first + 1] - log_energy[first]
    # Derivatives of the place low / (low - high) in units of the step.
    slope = jnp.stack([-high, low]) / gap**2 * step
    pair = jnp.asarray(covariance)[order[first + jnp.arange(2)][:, None], order[first + jnp.arange(2)]]
    return Flip(
        energy=jnp.exp(log_energy[first] + step * low / gap),
        log_error=jnp.sqrt(slope @ pair @ slope),
        changes=jnp.sum(change),
    )


def separation(axis: Float[AnyArray, "*#batch"], reference: Float[AnyArray, "*#batch"]) -> Float[Array, "*batch"]:
    """Angle from a reference to an axis, in [-pi/2, pi/2) [rad]: two ends are one axis."""
    return (jnp.asarray(axis) - jnp.asarray(reference) + jnp.pi / 2) % jnp.pi - jnp.pi / 2


def compare_axes(
    fit: OneAxis, references: Sequence[float] | Float[AnyArray, " reference"], tried: int | None = None
) -> AxisComparison:
    """How close an axis is to given right ascensions [rad], and how often chance brings one as close.

    Args:
        fit: The fitted axis.
        references: Right ascensions of the given axes, either end.
        tried: How many directions were looked at in all; those given if left out.

    Raises:
        InputError: If there is no reference, or fewer were tried than are given.
    """
    references = jnp.atleast_1d(jnp.asarray(references, float))
    number = len(references)
    tried = number if tried is None else tried
    if not 1 <= number <= tried:
        raise InputError(f"{number} axes to compare with and {tried} tried: give one or more, and no fewer as tried")
    apart = separation(fit.best_axis, references)
    there = jnp.interp(references % jnp.pi, fit.axis, fit.profile, period=jnp.pi)
    chance = 2 * jnp.abs(apart) / jnp.pi
    closest = jnp.min(jnp.abs(apart))
    # Gaps between neighbours on the circle of axes: each hides twice the reach, or all of itself.
    ends = jnp.sort(references % jnp.pi)
    gaps = jnp.append(ends[1:], ends[0] + jnp.pi) - ends
    return AxisComparison(
        separation=apart,
        sigma=jnp.sqrt(jnp.maximum(there - fit.chi2, 0.0)),
        chance=chance,
        resolved=jnp.minimum(2 * jnp.maximum(jnp.abs(apart), fit.error) / jnp.pi, 1.0),
        any_chance=jnp.sum(jnp.minimum(gaps, 2 * closest)) / jnp.pi,
        tried_chance=-jnp.expm1(tried * jnp.log1p(-jnp.min(chance))),
    )


# Helpers ------------------------------------------------------------------------------------------------


class _Given(eqx.Module):
    """What follows from the data for one axis; `across` is of the dipole of the motion."""

    chi2: Array
    log_density: Array
    strength: Array
    strength_covariance: Array
    across: Array
    across_variance: Array
    expected: Array


@partial(jax.jit, static_argnames="points")
def _fit(energy, dipole, covariance, motion: Motion, strength_scale, points: int) -> OneAxis:
    factor, rows = 2 + motion.spectral_index, len(energy)
    spread = factor * jnp.asarray(motion.spread)
    at = lambda angle: _given_axis(angle, dipole, covariance, motion.dipole, spread, strength_scale)
    axis = jnp.arange(points) * (jnp.pi / points)
    given = jax.vmap(at)(axis)
    probability = jax.nn.softmax(given.log_density)
    best, chi2 = _lowest(given.chi2, jnp.pi / points)
    nearest = jnp.where(jnp.abs(axis - best) > jnp.pi / 2, -1.0, 1.0)
    mean = jnp.arctan2(probability @ jnp.sin(2 * axis), probability @ jnp.cos(2 * axis)) / 2 % jnp.pi
    strength, strength_covariance = _mixture(probability, nearest[:, None] * given.strength, given.strength_covariance)
    across, variance = nearest * given.across / factor, given.across_variance / factor**2
    perpendicular, perpendicular_variance = _mixture(probability, across[:, None], variance[:, None, None])
    freedom = rows - 1 - jnp.any(jnp.isinf(spread)).astype(int)
    return OneAxis(
        energy=energy,
        axis=axis,
        profile=given.chi2,
        probability=probability,
        best_axis=best,
        mean_axis=mean,
        error=jnp.sqrt(probability @ separation(axis, mean) ** 2),
        chi2=chi2,
        degrees_of_freedom=freedom,
        p_value=exceeded(chi2, freedom),
        log_evidence=jax.nn.logsumexp(given.log_density) - math.log(points),
        strength=strength,
        strength_covariance=strength_covariance,
        perpendicular=perpendicular[0],
        perpendicular_error=jnp.sqrt(perpendicular_variance[0, 0]),
        perpendicular_at=jnp.stack([across, variance]),
        expected=at(best).expected,
    )


def _given_axis(axis, dipole, covariance, mean, spread, strength_scale) -> _Given:
    """Components across the axis are one w and noise; flat strengths use up those along it."""
    turn = jnp.stack([_direction(axis), _across(_direction(axis))])
    along, across = turn @ dipole.T
    mean_along, mean_across = turn @ mean
    noise = jnp.einsum("pa,iajb,qb->pqij", turn, covariance, turn)
    flat = jnp.any(jnp.isinf(spread))
    prior = (turn * jnp.where(flat, 0.0, spread) ** 2) @ turn.T
    rows = len(along)
    factor = jnp.linalg.cholesky(noise[1, 1])
    white = jax.scipy.linalg.solve_triangular(factor, jnp.stack([across, jnp.ones(rows)], axis=1), lower=True)
    weight = white[:, 1] @ white[:, 1]
    best = white[:, 1] @ white[:, 0] / weight
    # How much of the way from its prior mean to the data's value the velocity goes: 0 if it is known.
    pull = jnp.where(flat, 1.0, prior[1, 1] * weight / (1 + prior[1, 1] * weight))
    w, variance = mean_across + pull * (best - mean_across), pull / weight
    chi2 = jnp.sum((white[:, 0] - best * white[:, 1]) ** 2) + (1 - pull) * weight * (best - mean_across) ** 2
    determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    widening = jnp.where(flat, jnp.log(weight), jnp.log1p(prior[1, 1] * weight))
    log_density = -chi2 / 2 - determinant - widening / 2 - rows / 2 * math.log(2 * math.pi)
    # Strengths: the noise along that goes with the noise across is taken off, and so the motion along with that across.
    regression = jax.scipy.linalg.cho_solve((factor, True), noise[1, 0]).T
    ratio = jnp.where(prior[1, 1] > 0, prior[0, 1] / jnp.where(prior[1, 1] > 0, prior[1, 1], 1.0), 0.0)
    strength = along - mean_along - ratio * (w - mean_across) - regression @ (across - w)
    with_w = jnp.sum(regression, axis=1) - ratio
    own = noise[0, 0] - regression @ noise[1, 0] + prior[0, 0] - ratio * prior[0, 1]
    strength_covariance = own + variance * jnp.outer(with_w, with_w)
    # A normal prior of the strengths multiplies their normal likelihood.
    finite = jnp.isfinite(strength_scale)
    scale = jnp.where(finite, strength_scale, 1.0)
    total = jnp.linalg.cholesky(strength_covariance / scale**2 + jnp.eye(rows))
    solved = jax.scipy.linalg.cho_solve((total, True), jnp.column_stack([strength, strength_covariance])) / scale**2
    penalty = strength @ solved[:, 0] / 2 + jnp.sum(jnp.log(jnp.diagonal(total))) + rows * jnp.log(scale)
    penalty = penalty + rows / 2 * math.log(2 * math.pi)
    crossed = variance * with_w
    taken = crossed @ jax.scipy.linalg.cho_solve((total, True), crossed) / scale**2
    return _Given(
        chi2=chi2,
        log_density=log_density - jnp.where(finite, penalty, 0.0),
        strength=jnp.where(finite, strength - strength_covariance @ solved[:, 0], strength),
        strength_covariance=strength_covariance
        - jnp.where(finite, strength_covariance @ solved[:, 1:], jnp.zeros((rows, rows))),
        across=w - jnp.where(finite, crossed @ solved[:, 0], 0.0),
        across_variance=variance - jnp.where(finite, taken, 0.0),
        expected=jnp.stack([along - regression @ (across - w), jnp.full(rows, w)], axis=1) @ turn,
    )


def _check(energy, dipole, covariance, motion: Motion, strength_scale) -> None:
    if not all(is_known(x) for x in (energy, dipole, covariance, motion.spread, motion.velocity, strength_scale)):
        return
    spread = np.asarray(motion.spread)
    if not (np.all(np.isfinite(dipole)) and np.all(np.isfinite(energy)) and np.all(energy > 0)):
        raise InputError("dipoles and energies must be finite, and energies above zero: leave out limits and gaps")
    matrix = np.asarray(covariance).reshape(2 * len(dipole), -1)
    if not (np.all(np.isfinite(matrix)) and np.allclose(matrix, matrix.T) and np.linalg.eigvalsh(matrix)[0] > 0):
        raise InputError("the covariance of the dipoles must be symmetric and positive definite: each needs its errors")
    if not (np.all(np.isfinite(motion.velocity)) and np.all(spread >= 0) and np.isinf(spread).sum() in (0, 2)):
        raise InputError(
            f"the spread of a velocity must be zero or more in each component, or infinite in both, not {spread}"
        )
    if not strength_scale > 0:
        raise InputError(f"the scale of the strengths must be above zero, not {strength_scale}")
    if np.isfinite(strength_scale) and np.isinf(spread).any():
        raise InputError(
            "a prior of the strengths needs a velocity of finite spread: along the axis only their sum is seen"
        )


def _direction(axis) -> Array:
    return jnp.stack([jnp.cos(axis), jnp.sin(axis)])


def _across(vector: Array) -> Array:
    """A quarter turn eastwards."""
    return jnp.stack([-vector[..., 1], vector[..., 0]], axis=-1)


def _lowest(profile: Array, step: float) -> tuple[Array, Array]:
    """Minimum of a periodic profile, by a parabola through the lowest point and its neighbours."""
    place = jnp.argmin(profile)
    before, here, after = profile[place - 1], profile[place], profile[(place + 1) % len(profile)]
    bend = before - 2 * here + after
    shift = jnp.where(bend > 0, (before - after) / (2 * jnp.where(bend > 0, bend, 1.0)), 0.0)
    return (place + shift) * step % jnp.pi, here - (before - after) * shift / 4


def _mixture(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    middle = weight @ mean
    apart = mean - middle
    return middle, jnp.einsum("g,gij->ij", weight, covariance) + jnp.einsum("g,gi,gj->ij", weight, apart, apart)


def exceeded(chi2: Array, freedom: Array) -> Array:
    """Probability of a larger chi2; not a number without a degree of freedom."""
    some = freedom > 0
    return jnp.where(some, jax.scipy.special.gammaincc(jnp.where(some, freedom, 1) / 2, chi2 / 2), jnp.nan)
