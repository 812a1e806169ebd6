r"""From control analyses, jackknives and a second method to a systematic covariance of the equatorial dipole.

Each check asks for a vector that should be zero, or for parts that should agree, and is turned into the variance per
component that its statistical errors do not explain:

- a control (antisidereal, solar, East-West against likelihood) with vector d and covariance S: (|d|^2 - tr S) / 2 times
  the square of the part of it that reaches sidereal time. Its phase there is unknown, hence isotropic;
- a jackknife of k parts: the extra variance tau^2 of the parts (random effects, DerSimonian & Laird 1986) carried to
  their mean, tau^2 / k for equal parts.

The rule: a check that passes adds nothing; of those that fail, the largest variance is the systematic one.

*Passes* means p > `level` / number of checks (1 % over all checks together by default). Without this gate
max(0, (|d|^2 - tr S) / 2) has the mean sigma^2 / e = 0.37 sigma^2 in a control that is perfectly fine, and several of
them would add a whole statistical variance for having looked (Barlow 2002, hep-ex/0207026: a check that is passed is no
systematic error). What the gate may miss is said: `Check.sensitivity` is the size that the check could have excluded.
*Largest*, not the sum: the checks look at the same faults in different ways (a seasonal change of the gain shows in
antisidereal time, between epochs and between seasons), so that their sum counts one fault several times. Independent
faults of equal size are underestimated, by at most the root of the number of failed checks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from diffcr.errors import InputError

from .control_frames import FrameDipole, leakage
from .data import Counts
from .dipole import Dipole, log10_p_value
from .drift import of_epoch
from .fit import FitResult, fit


@dataclasses.dataclass(frozen=True)
class Check:
    """One question to the data, and the variance of a dipole component that its answer asks for.

    Attributes:
        name: What was checked.
        chi2: Against the expectation that nothing is wrong.
        degrees_of_freedom: Of chi2.
        excess: Covariance of (delta_0h, delta_6h) beyond the statistical one, unbiased, hence not positive where there
            is none; shape (2, 2).
        sensitivity: Size of a spurious vector that the check excludes at 95 % when it finds exactly nothing.
        counts: Whether it may enter the systematic covariance, or is reported only.
    """

    name: str
    chi2: float
    degrees_of_freedom: int
    excess: Float[np.ndarray, "2 2"]
    sensitivity: float
    counts: bool = True

    @property
    def p_value(self) -> float:
        """Chance of such a chi2 where nothing is wrong."""
        return float(special.chdtrc(self.degrees_of_freedom, self.chi2))

    @property
    def log10_p(self) -> float:
        """log10 of `p_value`, finite for any chi2."""
        return log10_p_value(self.chi2, self.degrees_of_freedom)

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "name": self.name,
            "chi2": self.chi2,
            "degrees_of_freedom": self.degrees_of_freedom,
            "p_value": self.p_value,
            "log10_p": self.log10_p,
            "excess": self.excess.tolist(),
            "sensitivity": self.sensitivity,
            "counts": self.counts,
        }


# --- Checks -----------------------------------------------------------------------------------------------


def control_check(
    name: str,
    vector: Float[np.ndarray, "2"],
    covariance: Float[np.ndarray, "2 2"],
    reach: float = 1.0,
    counts: bool = True,
) -> Check:
    """A vector that should be zero.

    Args:
        name: What it is.
        vector: d, such as the antisidereal dipole after the orbital line, shape (2,).
        covariance: Its statistical covariance S, shape (2, 2).
        reach: Part of its length that appears in sidereal time: 1 for antisidereal time, `leakage` for solar time.
        counts: Whether it may enter the systematic covariance.

    Raises:
        InputError: If the covariance is not positive definite.
    """
    _require_positive(name, covariance)
    chi2 = float(vector @ np.linalg.solve(covariance, vector))
    excess = reach**2 * (float(vector @ vector) - float(np.trace(covariance))) / 2
    return Check(name, chi2, 2, excess * np.eye(2), reach * _half_axis(covariance), counts)


def frame_checks(
    frames: Mapping[str, FrameDipole],
    days: Float[np.ndarray, " day"] | None = None,
    weights: Float[np.ndarray, " day"] | None = None,
) -> list[Check]:
    """Checks of the control frames: each frame's dipole after the orbital line, but for the sidereal one.

    A daily variation S with an annual modulation m puts m S / 2 into sidereal and antisidereal time alike, so that the
    antisidereal dipole counts in full. A constant solar one reaches sidereal time only where the live time is uneven
    over the year, by `control_frames.leakage`; so does the extended-sidereal one, which has no spurious partner.

    Args:
        frames: From `control_frames.control_frames`.
        days, weights: Live time, as there; without, it is taken as whole years, which let nothing leak.
    """
    checks = []
    for frame, found in frames.items():
        if frame == "sidereal":
            continue
        reach = 1.0 if frame == "antisidereal" else 0.0 if days is None else leakage(days, frame, "sidereal", weights)
        residual = found.residual
        checks.append(control_check(f"{frame} dipole", residual.delta, residual.covariance, reach, reach > 0))
    return checks


def jackknife_check(
    name: str,
    vectors: Float[np.ndarray, "part 2"],
    covariances: Float[np.ndarray, "part 2 2"],
    counts: bool = True,
) -> Check:
    r"""Dipoles of disjoint parts of the data, which should agree.

    With W_i the inverse covariances and Q = chi2 about their weighted mean, the extra variance is
    $\tau^2 = (Q - 2(k-1)) / [\sum tr W_i - tr(W^{-1} \sum W_i^2)]$, W = sum W_i, and that of the mean
    $\tau^2 W^{-1} (\sum W_i^2) W^{-1}$.

    Args:
        name: What distinguishes the parts.
        vectors: (delta_0h, delta_6h) of each part.
        covariances: Their statistical covariances.
        counts: Whether it may enter the systematic covariance. A dipole that depends on the energy makes parts of
            energy differ without any fault: report these only.

    Raises:
        InputError: If there are fewer than two parts, or a covariance is not positive definite.

    References:
        DerSimonian & Laird (1986), Controlled Clinical Trials 7, 177.
    """
    number = len(vectors)
    if number < 2:
        raise InputError(f"{name}: a jackknife needs at least two parts with events, there are {number}")
    for each in covariances:
        _require_positive(name, each)
    weights = np.linalg.inv(covariances)
    total = weights.sum(axis=0)
    off = vectors - np.linalg.solve(total, np.einsum("kab,kb->a", weights, vectors))
    chi2 = float(np.einsum("ka,kab,kb->", off, weights, off))
    inverse, squares = np.linalg.inv(total), np.einsum("kab,kbc->ac", weights, weights)
    degrees = 2 * (number - 1)
    slope = float(np.trace(total) - np.trace(inverse @ squares))
    to_mean = inverse @ squares @ inverse
    # The variance tau^2 that makes chi2 reach its 95 % quantile on average.
    scatter = (float(special.chdtri(degrees, 0.05)) - degrees) / slope
    excess = (chi2 - degrees) / slope * to_mean
    return Check(name, chi2, degrees, excess, _half_axis(scatter * to_mean), counts)


def jackknife_of_epochs(counts: Counts) -> Check:
    """`jackknife_check` of the epochs of counts, each fitted with its own rates and acceptances.

    Raises:
        InputError: If fewer than two epochs hold events.
    """
    places = [k for k in range(len(counts.epochs)) if counts.n_time[:, :, k].sum() > 0]
    return jackknife_of_parts("epochs", [of_epoch(counts, k) for k in places])


def jackknife_of_parts(name: str, parts: Sequence[Counts], counts: bool = True) -> Check:
    """`jackknife_check` of disjoint counts, such as energy bins, ranges of zenith angle or seasons read separately.

    Raises:
        InputError: If there are fewer than two.
    """
    dipoles = [fit(part).require_converged().dipole for part in parts]
    vectors = np.array([d.equatorial for d in dipoles]).reshape(-1, 2)
    covariances = np.array([d.covariance[:2, :2] for d in dipoles]).reshape(-1, 2, 2)
    return jackknife_check(name, vectors, covariances, counts)


def method_check(
    name: str,
    efficient: Dipole,
    other: Dipole,
    overlap: float = 1.0,
    counts: bool = True,
) -> Check:
    """Two estimates of one dipole from the same events, such as likelihood and East-West.

    The covariance of an efficient estimate and any other of the same data is that of the efficient one (Hausman 1978,
    Econometrica 46, 1251), so that their difference has the difference of the covariances.

    Args:
        name: What is compared.
        efficient: The estimate with the smaller errors.
        other: The other.
        overlap: Part of the other estimate's events that the efficient one used: 1 for the same data, 0 for
            disjoint data.
        counts: Whether it may enter the systematic covariance.

    Raises:
        InputError: If the overlap is not between 0 and 1, or the other estimate is not the less precise one.
    """
    if not 0 <= overlap <= 1:
        raise InputError(f"{name}: the overlap of two estimates lies between 0 and 1, not {overlap:g}")
    own, others = efficient.covariance[:2, :2], other.covariance[:2, :2]
    covariance = own + others - 2 * overlap * own
    if not np.linalg.eigvalsh(covariance)[0] > 0:
        raise InputError(
            f"{name}: the estimate given as efficient is not the more precise one, so that the error of the difference "
            "is not known; swap the two, or lower the overlap"
        )
    return control_check(name, other.equatorial - efficient.equatorial, covariance, 1.0, counts)


# --- The rule ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Systematics:
    """A dipole with statistical and systematic errors.

    Attributes:
        dipole: With its statistical covariance, (delta_0h, delta_6h).
        checks: All that were made.
        level: Chance that one or more of the checks fails where nothing is wrong.
        covariance: Systematic covariance of (delta_0h, delta_6h), shape (2, 2).
        source: Name of the check it comes from, or None where all pass.
    """

    dipole: Dipole
    checks: tuple[Check, ...]
    level: float
    covariance: Float[np.ndarray, "2 2"]
    source: str | None

    @property
    def total(self) -> Dipole:
        """The dipole with the sum of the two covariances: its amplitude and phase errors are the total ones."""
        return Dipole(self.dipole.equatorial, self.dipole.covariance[:2, :2] + self.covariance)

    @property
    def amplitude_error(self) -> float:
        """Systematic standard error of the amplitude: along the measured direction."""
        return float(np.sqrt(max(self._along @ self.covariance @ self._along, 0.0)))

    @property
    def phase_error(self) -> float:
        """Systematic standard error of the phase [rad], across the measured direction over the amplitude; at most pi.

        To first order, for amplitudes well above the error; that of `total` holds for any.
        """
        across = np.array([-self._along[1], self._along[0]])
        size = float(np.sqrt(max(across @ self.covariance @ across, 0.0)))
        return min(size / self.dipole.amplitude, math.pi) if self.dipole.amplitude > 0 else math.pi

    @property
    def _along(self) -> np.ndarray:
        phase = self.dipole.right_ascension
        return np.array([math.cos(phase), math.sin(phase)])

    @property
    def c1(self) -> float:
        """C_1 = (4 pi / 9) |delta|^2 of the equatorial dipole, as measured: noise is not subtracted."""
        return 4 * math.pi / 9 * self.dipole.amplitude**2

    @property
    def c1_variance(self) -> tuple[float, float]:
        """Statistical and systematic variance of C_1: (4 pi / 9)^2 (4 d C d + 2 tr C^2) exactly, for normal errors C.

        The systematic one is what the total covariance adds to the statistical one.
        """
        d = self.dipole.equatorial
        of = lambda c: (4 * math.pi / 9) ** 2 * float(4 * d @ c @ d + 2 * np.trace(c @ c))
        statistical = of(self.dipole.covariance[:2, :2])
        return statistical, of(self.total.covariance) - statistical

    def power_covariance(self, covariance: Float[np.ndarray, "degree degree"], first: int = 1) -> np.ndarray:
        """Covariance of C_l with the systematic variance of C_1 added; l >= 2 are left as they are.

        The checks are of the dipole and tell nothing about smaller scales.

        Args:
            covariance: Of C_l for l = first, first + 1, ..., normalised as C_1 = (4 pi / 9) |delta|^2.
            first: The lowest degree, 0 or 1.

        Raises:
            InputError: If the covariance does not begin at 0 or 1, or is too short to hold l = 1.
        """
        place = 1 - first
        if first not in (0, 1) or len(covariance) <= place:
            raise InputError(f"the covariance of C_l must begin at l = 0 or 1 and hold l = 1; it begins at {first}")
        out = np.array(covariance, float)
        out[place, place] += self.c1_variance[1]
        return out

    def as_dict(self) -> dict:
        """For JSON; angles in degrees."""
        total = self.total
        return {
            "level": self.level,
            "source": self.source,
            "checks": [each.as_dict() for each in self.checks],
            "covariance": self.covariance.tolist(),
            "amplitude": self.dipole.amplitude,
            "amplitude_error": {"statistical": self.dipole.amplitude_error, "systematic": self.amplitude_error}
            | {"total": total.amplitude_error},
            "right_ascension_deg": math.degrees(self.dipole.right_ascension),
            "right_ascension_error_deg": {
                "statistical": math.degrees(self.dipole.right_ascension_error),
                "systematic": math.degrees(self.phase_error),
                "total": math.degrees(total.right_ascension_error),
            },
            "c1": self.c1,
            "c1_error": {
                "statistical": math.sqrt(self.c1_variance[0]),
                "systematic": math.sqrt(max(self.c1_variance[1], 0.0)),
            },
        }


def systematics(sidereal: FitResult | Dipole, checks: Sequence[Check], level: float = 0.01) -> Systematics:
    """The systematic covariance of a sidereal dipole from its checks; the rule is that of the module's first lines.

    Args:
        sidereal: The fit of the sidereal dipole, or the dipole with its statistical covariance.
        checks: From `frame_checks`, `jackknife_check`, `method_check` and their like.
        level: Chance that one or more of the checks that count fails where nothing is wrong; 1 turns the gate off.

    Raises:
        InputError: If there is no check, two have one name, or the level is not between 0 and 1.
    """
    dipole = sidereal.dipole if isinstance(sidereal, FitResult) else sidereal
    checks = tuple(checks)
    if not checks:
        raise InputError("no check was given: a systematic error cannot be found without control analyses")
    if not 0 < level <= 1:
        raise InputError(f"the level lies between 0 and 1, not {level:g}")
    names = [each.name for each in checks]
    if len(set(names)) < len(names):
        raise InputError(f"two checks have the same name: {', '.join(names)}; give each its own")
    counting = [each for each in checks if each.counts]
    # Without a gate every excess counts, whatever its chance.
    limit = level / max(len(counting), 1) if level < 1 else 1.0
    failed = [each for each in counting if each.p_value <= limit and np.trace(each.excess) > 0]
    worst = max(failed, key=lambda each: float(np.trace(each.excess)), default=None)
    covariance = np.zeros((2, 2)) if worst is None else worst.excess
    return Systematics(dipole, checks, level, covariance, None if worst is None else worst.name)


def _half_axis(covariance: np.ndarray) -> float:
    """Longer half-axis of the 95 % ellipse of a vector with this covariance."""
    return math.sqrt(-2 * math.log(0.05) * float(np.linalg.eigvalsh(covariance)[-1]))


def _require_positive(name: str, covariance: np.ndarray) -> None:
    if not (np.all(np.isfinite(covariance)) and np.linalg.eigvalsh(covariance)[0] > 0):
        raise InputError(f"{name}: the covariance is not positive definite, so that nothing can be compared with it")
