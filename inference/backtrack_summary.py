"""What an ensemble of backtracked skies says: power of each orientation, diffusion, and the checks of step and time."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from diffcr.backtracking import Setup
from diffcr.cascade import asymptotic_ratio
from diffcr.errors import InputError
from diffcr.small_scale import (
    Ensemble,
    Estimate,
    analytic_noise,
    combine,
    jackknife,
    mean_power,
    plateau,
    shape,
    step_ratio,
)
from diffcr.small_scale_theory import (
    CascadeFit,
    Diffusion,
    aligned_share,
    compare_cascade,
    diffusion,
    dipole_excess,
    dipole_to_quadrupole,
)

from .backtrack import Result

STEP_TOLERANCE = 0.05
"""Relative change of <C_l> between a step and half of it that is of no concern."""

_STEP_CONFIDENCE = 0.01
"""Probability that a step check fails by chance, for all its ratios together."""

_SHAPE_L_MAX = 8


STEADY = 0.15
"""A coefficient that has not changed by more than this since half the time counts as asymptotic."""


@dataclasses.dataclass(frozen=True)
class Orientation:
    """The power of one orientation of the gradient; estimates have the samples first.

    Attributes:
        name: "parallel", "perpendicular", or such as "30deg".
        angle: Angle between gradient and B_0 [deg].
        power: <C_l> from l = 0 for unit gradient.
        plateau: Mean of C_l over the highest degrees.
        noise: Analytic noise.
        shape: C_l / C_2 of l = 3 .., the plateau subtracted; None where there are too few degrees.
        dipole_to_quadrupole: C_1 / C_2, the plateau subtracted.
        dipole_excess: C_1 over that of standard diffusion.
        aligned: Share of <C_l> that the mean sky of all realisations holds, from l = 0.
        cascade: Fit of the cascade to the shape at the last time; None where realisations or degrees are too few.
        step: <C_l> over that with half the step; None without such a check.
    """

    name: str
    angle: float
    power: Estimate
    plateau: Estimate
    noise: Estimate
    shape: Estimate | None
    dipole_to_quadrupole: Estimate
    dipole_excess: Estimate
    aligned: Estimate
    cascade: CascadeFit | None
    step: Estimate | None


@dataclasses.dataclass(frozen=True)
class StepCheck:
    """Whether half the step gives the same power.

    Attributes:
        realisations: So many were traced twice.
        ratios: Power over that with half the step, by orientation, degrees and time: value, error, and the change that
            would be noticed.
        problems: A line for each ratio that differs from 1 by more than chance and the tolerance.
    """

    realisations: int
    ratios: dict[str, dict[str, float]]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no ratio differs."""
        return not self.problems

    @property
    def blind(self) -> bool:
        """Whether a change of some ratio by a quarter would not have been noticed, for want of realisations."""
        return any(row["noticed_from"] > 0.25 for row in self.ratios.values())


@dataclasses.dataclass(frozen=True)
class Asymptotic:
    """Whether a diffusion coefficient has reached its limit of long times.

    Attributes:
        value: K at the last time, from -<v_i r_j>, in units of length.
        error: Its standard error.
        variance: <r_i^2> / 2T at the last time.
        variance_error: Its standard error.
        change: Relative change of K since half that time; NaN where no sample is near.
        change_error: Its standard error.
    """

    value: float
    error: float
    variance: float
    variance_error: float
    change: float
    change_error: float

    @property
    def reached(self) -> bool | None:
        """True where change and two errors are within 15 %, False where it changes by over two errors, else None."""
        if not math.isfinite(self.change):
            return None
        if abs(self.change) + 2 * self.change_error <= STEADY:
            return True
        return False if abs(self.change) > 2 * self.change_error else None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A run and what it says.

    Attributes:
        result: The run.
        ensemble: Its realisations.
        orientations: Power of each gradient.
        degrees: First and last l of the plateau.
        diffusion: Diffusion coefficients against time.
        parallel, perpendicular: Whether they have reached their limits.
        step_check: None where none was made.
    """

    result: Result
    ensemble: Ensemble
    orientations: tuple[Orientation, ...]
    degrees: tuple[int, int]
    diffusion: Diffusion
    parallel: Asymptotic
    perpendicular: Asymptotic
    step_check: StepCheck | None

    @property
    def setup(self) -> Setup:
        """The experiment."""
        return self.result.run.setup

    @property
    def omega_t(self) -> np.ndarray:
        """Times kept, in units of 1 / Omega, (sample,)."""
        return self.ensemble.times / abs(self.setup.larmor_radius)


def analyse(result: Result, angles: tuple[float, ...] = (0.0, 90.0)) -> Analysis:
    """Means over realisations, their errors, and the comparisons.

    Args:
        result: What a run gave.
        angles: Between gradient and B_0 [deg]; 90 is the mean of both directions across, others have the gradient in
            the plane of x and z.

    Raises:
        InputError: If an angle is not from 0 to 180.
    """
    run = result.run
    ensemble = combine(result.spectra)
    fine = combine(result.half_step) if run.step_check else None
    degrees = plateau_degrees(run.setup.nside, run.l_max)
    orientations = tuple(_orientation(ensemble, fine, angle, degrees, run) for angle in angles)
    found = diffusion(ensemble)
    half = _half(ensemble.times)
    return Analysis(
        result=result,
        ensemble=ensemble,
        orientations=orientations,
        degrees=degrees,
        diffusion=found,
        parallel=_asymptotic(ensemble, found.parallel, found.parallel_variance, half, [(2, 2)]),
        perpendicular=_asymptotic(ensemble, found.perpendicular, found.perpendicular_variance, half, [(0, 0), (1, 1)]),
        step_check=None if fine is None else _step_check(orientations, ensemble.times, degrees, run),
    )


def plateau_degrees(nside: int, l_max: int) -> tuple[int, int]:
    """First and last l of the plateau: from 1.5 to 2 nside, above the signal and below where pixels distort."""
    last = min(l_max, max(2 * nside, 2))
    return max(2, min(math.ceil(1.5 * nside), last)), last


def gradient_of(angle: float) -> Any:
    """The gradient as `diffcr.small_scale` takes it.

    Raises:
        InputError: If the angle is not from 0 to 180 degrees.
    """
    if not 0 <= angle <= 180:
        raise InputError(f"the angle between gradient and B_0 lies between 0 and 180 degrees, not {angle:g}")
    if angle in (0, 180):
        return "parallel"
    return "perpendicular" if angle == 90 else vector_of(angle)


def vector_of(angle: float) -> np.ndarray:
    """Unit vector at an angle [deg] to B_0 in the plane of x and z."""
    return np.array([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))])


def name_of(angle: float) -> str:
    """Name of an orientation in files and legends."""
    return {0.0: "parallel", 90.0: "perpendicular", 180.0: "antiparallel"}.get(float(angle), f"{angle:g}deg")


def cascade_curve(l_max: int) -> np.ndarray:
    """C_l / C_2 of l = 0 .. l_max of the cascade at large depth; NaN at l = 0."""
    degree = np.arange(l_max + 1.0)
    return np.where(degree > 0, np.asarray(asymptotic_ratio(degree) / asymptotic_ratio(2.0)), np.nan)


def _orientation(ensemble: Ensemble, fine: Ensemble | None, angle: float, degrees: tuple[int, int], run) -> Orientation:
    gradient = gradient_of(angle)
    highest = min(_SHAPE_L_MAX, degrees[0] - 1)
    enough = highest >= 4 and run.realisations >= highest + 1
    subtracted = degrees if highest >= 3 else None
    coarse = None if fine is None else _first(ensemble, run.step_check)
    return Orientation(
        name=name_of(angle),
        angle=float(angle),
        power=mean_power(ensemble, gradient),
        plateau=plateau(ensemble, gradient, degrees),
        noise=analytic_noise(ensemble, gradient, run.setup.pixels),
        shape=shape(ensemble, gradient, degrees[0] - 1, degrees) if highest >= 3 else None,
        dipole_to_quadrupole=dipole_to_quadrupole(ensemble, gradient, subtracted),
        dipole_excess=dipole_excess(ensemble, gradient),
        aligned=aligned_share(ensemble, gradient),
        cascade=compare_cascade(ensemble, gradient, highest, degrees) if enough else None,
        step=None if fine is None else step_ratio(coarse, fine, gradient),
    )


def _first(ensemble: Ensemble, number: int) -> Ensemble:
    names = [field.name for field in dataclasses.fields(Ensemble) if field.name != "times"]
    return Ensemble(ensemble.times, *(getattr(ensemble, name)[:number] for name in names))


def _half(times: np.ndarray) -> int | None:
    """Place of the sample at half the time, or None where none is near."""
    place = int(np.argmin(np.abs(times - times[-1] / 2)))
    return place if abs(times[place] / times[-1] - 0.5) < 0.11 else None


def _asymptotic(ensemble: Ensemble, now: Estimate, variance: Estimate, half: int | None, places) -> Asymptotic:
    change = change_error = math.nan
    if half is not None:
        own = np.mean([-ensemble.velocity_displacement[..., i, j] for i, j in places], axis=0)
        found = jackknife(lambda k: k[:, -1] / k[:, half] - 1, own)
        change, change_error = float(found.value), float(found.error)
    last = (float(each[-1]) for each in (now.value, now.error, variance.value, variance.error))
    return Asymptotic(*last, change, change_error)


def _step_check(orientations, times: np.ndarray, degrees: tuple[int, int], run) -> StepCheck:
    """Power of single low degrees, early and at the end, in one test."""
    number = run.step_check
    samples = sorted({0, len(times) - 1})
    lowest = [l for l in (1, 2, 3, 5, 8) if l < degrees[0]]
    tests = len(orientations) * len(samples) * len(lowest)
    width = float(stats.t.ppf(1 - 0.5 * _STEP_CONFIDENCE / tests, number - 1))
    ratios, problems = {}, []
    for each in orientations:
        for k in samples:
            turns = times[k] / abs(run.setup.larmor_radius)
            for l in lowest:
                value, error = float(each.step.value[k, l]), float(each.step.error[k, l])
                seen = max(width * error, STEP_TOLERANCE)
                ratios[f"{each.name}, l = {l}, Omega T = {turns:.4g}"] = {
                    "ratio": value,
                    "error": error,
                    "noticed_from": seen,
                }
                if not abs(value - 1) <= seen:
                    problems.append(
                        f"<C_{l}> {each.name} at Omega T = {turns:.4g} is {value:.3g} +- {error:.2g} times that with "
                        "half the step"
                    )
    return StepCheck(number, ratios, tuple(problems))
