r"""Are dipoles of several energies on one axis, once the observer's motion is taken out?

Where the flux of cosmic rays is bound to the magnetic field, dipoles of all energies point along it or against it. In
the plane of $d$ = (delta_0h, delta_6h), the only one an experiment measures, they lie on a line through the end of the
dipole that the observer's motion adds,

$$ d_i = s_i\, (\cos\alpha, \sin\alpha) + (2 + \Gamma)\, v, \qquad 0 \le \alpha < \pi. $$

The right ascension of an axis is all that is measured: s holds the cosine of its declination. Motion along the axis
cannot be told from s, motion across it moves the line. Given alpha the model is linear, so that s and v are
eliminated exactly. References: Ahlers (2016), PRL 117, 151103; Schwadron et al. (2014), Science 343, 988.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Real
from scipy.special import gammaincc, logsumexp

from diffcr.errors import InputError
from diffcr.observer import observer_velocity


@dataclasses.dataclass(frozen=True)
class Motion:
    """What is known of the observer's velocity in the equatorial plane.

    Attributes:
        velocity: Towards RA 0 h and 6 h [c]: known, or the mean of a normal prior.
        spread: Its standard deviations [c]: zero where it is known, both infinite for a flat prior. With a flat prior
            the part along the axis, which nothing tells, is taken to be that of `velocity`.
        spectral_index: Gamma, the index of the intensity in energy. Dimensionless.
    """

    velocity: np.ndarray
    spread: np.ndarray
    spectral_index: float = 2.7

    @property
    def dipole(self) -> Float[np.ndarray, "2"]:
        """(2 + Gamma) v, which the motion adds to first order (Compton & Getting 1935, Phys. Rev. 47, 817)."""
        return (2 + self.spectral_index) * np.asarray(self.velocity)


@dataclasses.dataclass(frozen=True)
class Systematics:
    """What experiments may be wrong by, all of them alike or each.

    A wrong scale or phase is one and the same for all rows of an experiment: it turns them together, and cannot pass
    for a second axis. Scatter is independent from row to row.

    Attributes:
        group: Experiment of each row, counted from 0; None where all are of one.
        scale: Standard deviation of the logarithm of the amplitude.
        phase: That of the phase [rad].
        scatter: That of both components of each row. Relative intensity.
    """

    group: np.ndarray | None = None
    scale: float | np.ndarray = 0.0
    phase: float | np.ndarray = 0.0
    scatter: float | np.ndarray = 0.0

    def rows(self, number: int) -> tuple[np.ndarray, ...]:
        """Group, scale, phase and scatter of each of so many rows.

        Raises:
            InputError: If there is not one experiment for each row, or an error is negative or not finite.
        """
        group = np.zeros(number, int) if self.group is None else np.asarray(self.group)
        if group.shape != (number,):
            raise InputError(f"there are {number} dipoles, but {group.size} experiments of dipoles: name one for each")
        out = []
        for name in ("scale", "phase", "scatter"):
            value = np.asarray(getattr(self, name), float)
            if not np.all(np.isfinite(value) & (value >= 0)):
                raise InputError(f"the {name} error of experiments must be finite and not negative, not {value}")
            out.append(np.broadcast_to(value, group.max() + 1)[group])
        return group, *out


@dataclasses.dataclass(frozen=True)
class OneAxis:
    """One axis fitted to dipoles of several energies.

    Two directions a half turn apart are one axis; the signs of `strength` and `perpendicular` are those of the end of
    the axis that is nearest to `best_axis`.

    Attributes:
        energy: Energies of the rows [TeV].
        axis: Right ascensions of the axis, even in [0, pi) [rad].
        profile: chi2 at each, smallest in strengths and velocity; the prior of the velocity is in it, that of the
            strengths is not.
        probability: Posterior probability of each, under an even prior; sums to 1.
        best_axis: Where the profile is smallest, in [0, pi) [rad].
        mean_axis: Mean of the posterior, in [0, pi) [rad].
        error: Its standard deviation [rad]; 0.91 for an axis that is not known at all.
        chi2: Smallest value of the profile.
        degrees_of_freedom: Components less strengths and axis, and less one more where the velocity has a flat prior.
        p_value: Probability of a larger chi2, if there is one axis and the velocity is drawn from its prior.
        log_evidence: Logarithm of the density of the data, averaged over the axis. To compare motions whose priors are
            not flat.
        strength: s of each row: posterior mean. Relative intensity.
        strength_covariance: Its posterior covariance, axis and velocity included, systematic errors as well.
        perpendicular: Posterior mean of the velocity across the axis, towards `best_axis` + 90 degrees [c].
        perpendicular_error: Its standard deviation [c]; that of a known velocity is by the error of the axis alone.
        perpendicular_at: Mean and variance of the velocity across each axis, shape (2, axis).
    """

    energy: np.ndarray
    axis: np.ndarray
    profile: np.ndarray
    probability: np.ndarray
    best_axis: float
    mean_axis: float
    error: float
    chi2: float
    degrees_of_freedom: int
    p_value: float
    log_evidence: float
    strength: np.ndarray
    strength_covariance: np.ndarray
    perpendicular: float
    perpendicular_error: float
    perpendicular_at: np.ndarray

    def perpendicular_density(self, velocity: Float[np.ndarray, " velocity"]) -> Float[np.ndarray, " velocity"]:
        """Posterior density of the velocity across the axis [1/c]; of a free velocity only."""
        mean, variance = self.perpendicular_at
        if not variance.min() > 0:
            raise InputError("a known velocity has no density: its component across the axis is `perpendicular`")
        normal = np.exp(-((velocity[:, None] - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return normal @ self.probability

    def flip(self) -> "Flip":
        """Where the strength changes sign."""
        return flip_energy(self.energy, self.strength, self.strength_covariance)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Where a strength changes sign; not a number where it does not.

    Attributes:
        energy: Of the first change of sign, by interpolation linear in the logarithm of the energy [TeV].
        log_error: Standard error of its logarithm, to first order.
        changes: How often the sign changes.
    """

    energy: float
    log_error: float
    changes: int


@dataclasses.dataclass(frozen=True)
class AxisComparison:
    """A fitted axis against given ones.

    Attributes:
        separation: Fitted less given, in [-pi/2, pi/2) [rad].
        sigma: How far the data are from each, the root of what chi2 rises by. Standard deviations.
        chance: Probability that an axis of random right ascension is as close to each.
        resolved: The same, with no separation taken to be smaller than the error of the axis.
        any_chance: Probability that one is as close to any of them as this one is to the closest.
        tried_chance: The same for as many directions, each at random, as were tried in all.
    """

    separation: np.ndarray
    sigma: np.ndarray
    chance: np.ndarray
    resolved: np.ndarray
    any_chance: float
    tried_chance: float


def named_motion(name: str, spread: float | int = 0.0, spectral_index: float = 2.7) -> Motion:
    """The Sun's motion by its name in `diffcr.observer.observer_velocity`, with an error of both components [c]."""
    return Motion(np.asarray(observer_velocity(name))[:2], np.full(2, float(spread)), spectral_index)


def fit_one_axis(
    energy: Real[np.ndarray, " _"],
    dipole: Float[np.ndarray, "row 2"],
    covariance: Float[np.ndarray, "_ 2 2"],
    motion: Motion,
    systematics: Systematics | None = None,
    strength_scale: float = math.inf,
    points: int = 3600,
) -> OneAxis:
    """One axis, a strength for each row, and the motion of the observer, fitted to dipoles as observed.

    Wrong scales and phases of experiments act on what is expected: on the point of each line that is nearest along it
    to the measured one. (If measured vectors were scaled, those that do not agree would favour small ones: D'Agostini
    1994, NIM A 346, 306.)

    Args:
        energy: Energies [TeV].
        dipole: (delta_0h, delta_6h), in the observed frame.
        covariance: Statistical, of each.
        motion: The observer's, known or free.
        systematics: What the experiments may be wrong by; nothing if left out.
        strength_scale: Standard deviation of a normal prior of each strength about zero; flat where it is infinite.
        points: Number of axes in the half turn.

    Raises:
        InputError: If shapes do not fit, there are fewer than two rows, a value is not finite or out of range, or the
            posterior is narrower than the steps of the grid.
    """
    energy, dipole, covariance = (np.asarray(x, float) for x in (energy, dipole, covariance))
    systematics = Systematics() if systematics is None else systematics
    _check(energy, dipole, covariance, motion, strength_scale)
    axis = np.arange(points) * (np.pi / points)
    given = _given_axes(axis, dipole, covariance, motion, systematics, strength_scale)
    best, chi2 = _lowest(given.chi2, np.pi / points)
    log_evidence = logsumexp(given.log_density)
    probability = np.exp(given.log_density - log_evidence)
    mean = np.arctan2(probability @ np.sin(2 * axis), probability @ np.cos(2 * axis)) / 2 % np.pi
    error = np.sqrt(probability @ separation(axis, mean) ** 2)
    if error < 1.5 * np.pi / points:
        raise InputError(
            f"the axis is known to {np.degrees(error):.1g} degrees, which steps of {180 / points:.2g} degrees do not "
            f"resolve: give more points, such as {4 * points}"
        )
    nearest = np.where(np.abs(axis - best) > np.pi / 2, -1.0, 1.0)
    across, variance = nearest * given.across, given.across_variance
    strength, strength_covariance = _mixture(probability, nearest[:, None] * given.strength, given.strength_covariance)
    perpendicular, perpendicular_variance = _mixture(probability, across[:, None], variance[:, None, None])
    freedom = len(energy) - 1 - int(np.isinf(motion.spread).any())
    return OneAxis(
        energy=energy,
        axis=axis,
        profile=given.chi2,
        probability=probability,
        best_axis=float(best),
        mean_axis=float(mean),
        error=float(error),
        chi2=float(chi2),
        degrees_of_freedom=freedom,
        p_value=exceeded(chi2, freedom),
        log_evidence=float(log_evidence - math.log(points)),
        strength=strength,
        strength_covariance=strength_covariance,
        perpendicular=float(perpendicular[0]),
        perpendicular_error=float(np.sqrt(perpendicular_variance[0, 0])),
        perpendicular_at=np.stack([across, variance]),
    )


def projected_strength(
    dipole: Float[np.ndarray, "row 2"],
    covariance: Float[np.ndarray, "row 2 2"],
    axis: float,
    motion: Motion,
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row row"]]:
    """Component of each dipole along a given axis [rad], the motion's taken out, and the covariance.

    Unlike the strengths of a fit it does not suppose that there is nothing but noise across the axis.
    """
    along = np.array([np.cos(axis), np.sin(axis)])
    spread = (2 + motion.spectral_index) * np.asarray(motion.spread)
    own = np.einsum("iab,a,b->i", np.asarray(covariance), along, along)
    return (np.asarray(dipole) - motion.dipole) @ along, np.diag(own) + np.sum((along * spread) ** 2)


def flip_energy(
    energy: Real[np.ndarray, " row"], strength: Float[np.ndarray, " row"], covariance: Float[np.ndarray, "row row"]
) -> Flip:
    """Where a strength changes sign, between the two energies on either side of it.

    Args:
        energy: Energies, in any order [TeV].
        strength: s at each.
        covariance: Of the strengths.
    """
    order = np.argsort(energy)
    log_energy, s = np.log(np.asarray(energy, float)[order]), np.asarray(strength)[order]
    changes = np.flatnonzero(s[:-1] * s[1:] < 0)
    if not changes.size:
        return Flip(math.nan, math.nan, 0)
    pair = changes[0] + np.arange(2)
    (low, high), step = s[pair], np.diff(log_energy[pair])[0]
    # Derivatives of the place low / (low - high) in units of the step.
    slope = step * np.array([-high, low]) / (low - high) ** 2
    own = np.asarray(covariance)[np.ix_(order[pair], order[pair])]
    place = log_energy[pair[0]] + step * low / (low - high)
    return Flip(float(np.exp(place)), float(np.sqrt(slope @ own @ slope)), len(changes))


def separation(axis, reference):
    """Angle from a reference to an axis, in [-pi/2, pi/2) [rad]: the two ends of an axis are one."""
    return (np.asarray(axis) - np.asarray(reference) + np.pi / 2) % np.pi - np.pi / 2


def compare_axes(
    fit: OneAxis, references: Sequence[float] | Float[np.ndarray, " reference"], tried: int | None = None
) -> AxisComparison:
    """How close an axis is to given right ascensions [rad], and how often chance brings one as close.

    Args:
        fit: The fitted axis.
        references: Right ascensions of the given axes, of either end.
        tried: How many directions were looked at in all; those given if left out.

    Raises:
        InputError: If there is no reference, or fewer were tried than are given.
    """
    references = np.atleast_1d(np.asarray(references, float))
    number = len(references)
    tried = number if tried is None else tried
    if not 1 <= number <= tried:
        raise InputError(f"{number} axes to compare with and {tried} tried: give one or more, and no fewer as tried")
    apart = separation(fit.best_axis, references)
    there = np.interp(references % np.pi, fit.axis, fit.profile, period=np.pi)
    chance = 2 * np.abs(apart) / np.pi
    # Gaps between neighbours on the circle of axes: of each, what is as close to either end, or all.
    ends = np.sort(references % np.pi)
    gaps = np.append(ends[1:], ends[0] + np.pi) - ends
    return AxisComparison(
        separation=apart,
        sigma=np.sqrt(np.maximum(there - fit.chi2, 0.0)),
        chance=chance,
        resolved=np.minimum(2 * np.maximum(np.abs(apart), fit.error) / np.pi, 1.0),
        any_chance=float(np.sum(np.minimum(gaps, 2 * np.abs(apart).min())) / np.pi),
        tried_chance=float(-np.expm1(tried * np.log1p(-chance.min()))),
    )


# Helpers ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Given:
    """What follows from the data for each axis; `across` is of the velocity."""

    chi2: np.ndarray
    log_density: np.ndarray
    strength: np.ndarray
    strength_covariance: np.ndarray
    across: np.ndarray
    across_variance: np.ndarray


def _given_axes(axis, dipole, covariance, motion: Motion, systematics, strength_scale) -> _Given:
    """Components across an axis are one w and noise, whatever the strengths: flat strengths use up those along it."""
    rows, factor = len(dipole), 2 + motion.spectral_index
    cosine, sine = np.cos(axis), np.sin(axis)
    turn = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=1)
    along, across = np.einsum("gpa,ia->pgi", turn, dipole)
    mean_along, mean_across = (turn @ motion.dipole).T
    spread = factor * np.asarray(motion.spread, float)
    flat = bool(np.isinf(spread).any())
    prior = np.einsum("gpa,a,gqa->pqg", turn, np.where(flat, 0.0, spread) ** 2, turn)
    statistical = np.einsum("gpa,iab,gqb->pqgi", turn, covariance, turn)
    group, scale, phase, scatter = systematics.rows(rows)
    same, unit = group[:, None] == group, np.eye(rows)

    def fitted(precision):
        """w, how much of the way from its prior mean to the data's value it goes (0 if it is known), and its weight."""
        weight = precision.sum(axis=(1, 2))
        best = np.einsum("gij,gj->g", precision, across) / weight
        pull = 1.0 if flat else prior[1, 1] * weight / (1 + prior[1, 1] * weight)
        return best, mean_across + pull * (best - mean_across), pull, weight

    if np.any(scale) or np.any(phase):
        w = fitted(unit / (statistical[1, 1] + scatter**2)[:, None])[1]
        about = np.stack([along, np.broadcast_to(w[:, None], along.shape)])
        errors = (scale * about, phase * np.stack([-about[1], about[0]]))
        common = sum(np.einsum("pgi,qgj->pqgij", error, error) for error in errors) * same
    else:
        common = 0.0
    own = statistical + np.eye(2)[:, :, None, None] * scatter**2
    noise = own[..., None] * unit + common
    precision = np.linalg.inv(noise[1, 1])
    best, w, pull, weight = fitted(precision)
    residual = across - best[:, None]
    chi2 = np.einsum("gi,gij,gj->g", residual, precision, residual) + (1 - pull) * weight * (best - mean_across) ** 2
    variance = pull / weight
    widening = np.log(weight) if flat else np.log1p(prior[1, 1] * weight)
    log_density = -(chi2 + np.linalg.slogdet(noise[1, 1])[1] + widening + rows * _LOG_2PI) / 2

    # Strengths: the noise along that goes with the noise across is taken off, and so the motion along with that across.
    regression = noise[0, 1] @ precision
    ratio = np.divide(prior[0, 1], prior[1, 1], out=np.zeros_like(axis), where=prior[1, 1] > 0)
    strength = (along - np.einsum("gij,gj->gi", regression, across - w[:, None])) - mean_along[:, None]
    strength = strength - (ratio * (w - mean_across))[:, None]
    with_w = regression.sum(axis=2) - ratio[:, None]
    total = noise[0, 0] - regression @ noise[1, 0] + (prior[0, 0] - ratio * prior[0, 1])[:, None, None]
    total = total + variance[:, None, None] * with_w[:, :, None] * with_w[:, None, :]
    crossed = variance[:, None] * with_w
    if np.isfinite(strength_scale):
        # A normal prior of the strengths multiplies their normal likelihood.
        both = total + strength_scale**2 * unit
        gain = np.linalg.inv(both)
        pulled = np.einsum("gij,gj->gi", gain, strength)
        quadratic = np.einsum("gi,gi->g", strength, pulled)
        log_density = log_density - (quadratic + np.linalg.slogdet(both)[1] + rows * _LOG_2PI) / 2
        strength = strength_scale**2 * pulled
        w = w - np.einsum("gi,gi->g", crossed, pulled)
        variance = variance - np.einsum("gi,gij,gj->g", crossed, gain, crossed)
        total = total - total @ gain @ total
    return _Given(chi2, log_density, strength, total, w / factor, np.maximum(variance, 0.0) / factor**2)


def _check(energy, dipole, covariance, motion: Motion, strength_scale) -> None:
    rows, spread = len(dipole), np.asarray(motion.spread)
    if rows < 2 or energy.shape != (rows,) or dipole.shape != (rows, 2) or covariance.shape != (rows, 2, 2):
        raise InputError(
            f"one axis needs two dipoles or more of two components, and an energy and a covariance for each: not "
            f"{dipole.shape}, {energy.shape} and {covariance.shape}"
        )
    if not (np.all(np.isfinite(dipole)) and np.all(np.isfinite(energy)) and np.all(energy > 0)):
        raise InputError("dipoles and energies must be finite, and energies above zero: leave out limits and gaps")
    good = np.all(np.isfinite(covariance)) and np.allclose(covariance, np.swapaxes(covariance, 1, 2), atol=0)
    if not (good and np.linalg.eigvalsh(covariance).min() > 0):
        raise InputError("the covariance of a dipole must be symmetric and positive definite: each needs its errors")
    if not (np.all(np.isfinite(motion.velocity)) and np.all(spread >= 0) and np.isinf(spread).sum() in (0, 2)):
        raise InputError(
            f"the spread of a velocity must be zero or more in each component, or infinite in both, not {spread}"
        )
    if not strength_scale > 0:
        raise InputError(f"the scale of the strengths must be above zero, not {strength_scale}")
    if np.isfinite(strength_scale) and np.isinf(spread).any():
        raise InputError("a prior of the strengths needs a velocity of finite spread: along the axis their sum is seen")


def exceeded(chi2: float, freedom: int) -> float:
    """Probability of a larger chi2; not a number without a degree of freedom."""
    return float(gammaincc(freedom / 2, chi2 / 2)) if freedom > 0 else math.nan


def _lowest(profile, step: float):
    """Minimum of a periodic profile, by a parabola through the lowest point and its neighbours."""
    place = int(np.argmin(profile))
    before, here, after = profile[place - 1], profile[place], profile[(place + 1) % len(profile)]
    bend = before - 2 * here + after
    shift = (before - after) / (2 * bend) if bend > 0 else 0.0
    return (place + shift) * step % np.pi, here - (before - after) * shift / 4


def _mixture(weight, mean, covariance):
    """Mean and covariance of normal distributions with weights that sum to 1."""
    middle = weight @ mean
    apart = mean - middle
    return middle, np.einsum("g,gij->ij", weight, covariance) + np.einsum("g,gi,gj->ij", weight, apart, apart)


_LOG_2PI = math.log(2 * math.pi)
