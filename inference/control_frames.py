r"""Control analyses: the dipole in solar, antisidereal and extended-sidereal time, and what the Earth's orbit adds.

Right ascension of a frame is its local time minus hour angle, so a direction alpha stands at alpha + (t_frame - t_sid)
and an equatorial dipole D = delta_0h + i delta_6h that changes with time becomes

$$ D_{frame} = \langle D(t)\, e^{i (t_{frame} - t_{sid})} \rangle $$

over the live time. The orbital dipole (2 + Gamma) v / c is real and known: what is left in the control frames after it
is taken away comes from the instrument and the atmosphere (Farley & Storey 1954, Proc. Phys. Soc. A 67, 996).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from scipy import stats

from diffcr.clock import OBLIQUITY, TIME_FRAMES, local_turns
from diffcr.errors import InputError
from diffcr.sky import earth_velocity, precess
from diffcr.units import AU, DAY, SPEED_OF_LIGHT

from .data import MARGINALS, Counts
from .dipole import Dipole
from .fit import fit

_ECCENTRICITY = 0.016709
_PERIHELION = math.radians(102.94)
_MEAN_SPEED = 2 * math.pi * 1.0000010178 * AU / (365.256363 * DAY) / SPEED_OF_LIGHT
_compiled = jax.jit(lambda days: precess(earth_velocity(days), days))


# --- What the orbit predicts ------------------------------------------------------------------------------


def orbital_dipole(
    days: Float[np.ndarray, " day"],
    spectral_index: float,
    frame: str,
    weights: Float[np.ndarray, " day"] | None = None,
) -> Float[np.ndarray, "2"]:
    """(delta_0h, delta_6h) that the Earth's orbital motion makes in a time frame, averaged over the live time.

    Args:
        days: Times of events, or of equal stretches of live time, in days since J2000.0; a day is resolved enough.
        spectral_index: Gamma, of the intensity in energy.
        frame: One of `TIME_FRAMES`.
        weights: Of the times: event weights, or a histogram of events or live time; default 1.

    Returns:
        In the equator of date, dimensionless, pointing to the maximum in the frame: 6 h in solar time.

    Raises:
        InputError: If there is no time, the weights are negative or all zero, or the frame is unknown.
    """
    w = np.ones_like(days) if weights is None else weights
    if not (len(days) and np.all(np.isfinite(days)) and np.all(w >= 0) and w.sum() > 0):
        raise InputError(
            "the live time is empty or not finite: give days since J2000.0, and weights that are not negative"
        )
    # The velocity turns by a degree a day: the events of a day share that of their mean time.
    first = math.floor(days.min())
    index, offset = np.floor(days).astype(int) - first, _offset(days, frame)
    total, moment = np.bincount(index, w), np.bincount(index, w * (days - first))
    turn = np.bincount(index, w * np.cos(offset)) + 1j * np.bincount(index, w * np.sin(offset))
    live = total > 0
    velocity = _velocity(moment[live] / total[live] + first)
    mean = (2 + spectral_index) * ((velocity[:, 0] + 1j * velocity[:, 1]) @ turn[live]) / total.sum()
    return np.array([mean.real, mean.imag])


def orbital_lines(spectral_index: float) -> dict[str, Float[np.ndarray, "2"]]:
    r"""(delta_0h, delta_6h) in each frame for whole years of even live time, in closed form.

    With A = (2 + Gamma) v / c, obliquity eps, eccentricity e and longitude of the perihelion w, to first order in e:
    solar $i A \cos^2(\epsilon/2)$, a maximum at 6 h; extended-sidereal $-i A \sin^2(\epsilon/2)$; antisidereal
    $i e A \cos^2(\epsilon/2) e^{-i w}$; sidereal 0. For Gamma = 2.7: 4.48e-4, 1.93e-5 and 7.5e-6.
    """
    amplitude = (2 + spectral_index) * _MEAN_SPEED
    near, far = math.cos(OBLIQUITY / 2) ** 2, math.sin(OBLIQUITY / 2) ** 2
    lines = {
        "sidereal": 0j,
        "solar": 1j * amplitude * near,
        "antisidereal": 1j * _ECCENTRICITY * amplitude * near * np.exp(-1j * _PERIHELION),
        "extended-sidereal": -1j * amplitude * far,
    }
    return {frame: np.array([value.real, value.imag]) for frame, value in lines.items()}


def leakage(
    days: Float[np.ndarray, " day"], from_frame: str, to_frame: str, weights: Float[np.ndarray, " day"] | None = None
) -> float:
    """Part of a constant dipole of one frame that shows in another, because the live time is uneven over the year.

    |<exp i (t_to - t_from)>| over the live time: 0 for whole years, 2 / pi for half a year and neighbouring frames.

    Args:
        days, weights: As for `orbital_dipole`.
        from_frame, to_frame: Of `TIME_FRAMES`.
    """
    w = np.ones_like(days) if weights is None else weights
    turn = np.exp(1j * (_offset(days, to_frame) - _offset(days, from_frame)))
    return float(abs(w @ turn) / w.sum())


def _velocity(days: np.ndarray) -> np.ndarray:
    """Velocity of the Earth [c] in the equator of date, shape (day, 3); few lengths, so that few are compiled."""
    return np.asarray(_compiled(np.resize(days, 1024 * -(-len(days) // 1024))))[: len(days)]


def _offset(days: np.ndarray, frame: str) -> np.ndarray:
    """Local time of the frame minus sidereal time [rad]; the same at every longitude."""
    return 2 * np.pi * np.asarray((local_turns(days, 0.0, frame) - local_turns(days, 0.0, "sidereal")) % 1.0)


# --- What is measured -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FrameDipole:
    """The dipole of one time frame, beside what the orbit makes there.

    Attributes:
        frame: Time frame.
        dipole: As fitted.
        orbital: What the Earth's motion predicts, (delta_0h, delta_6h); zero where it was removed from the events.
        test_statistic: Of the fit against isotropy.
        log10_p: Of the fit.
    """

    frame: str
    dipole: Dipole
    orbital: Float[np.ndarray, "2"]
    test_statistic: float
    log10_p: float

    @property
    def residual(self) -> Dipole:
        """What is left after the orbital line."""
        return Dipole(self.dipole.equatorial - self.orbital, self.dipole.covariance[:2, :2])

    @property
    def residual_p_value(self) -> float:
        """Chance of such a residual without anything but the orbit: exp(-chi2 / 2)."""
        d = self.residual
        return float(np.exp(-d.delta @ np.linalg.solve(d.covariance, d.delta) / 2))

    def as_dict(self) -> dict:
        """For JSON; phases in degrees and hours of the frame's time."""
        return {
            "frame": self.frame,
            "test_statistic": self.test_statistic,
            "log10_p": self.log10_p,
            "dipole": _described(self.dipole),
            "orbital": self.orbital.tolist(),
            "residual": _described(self.residual) | {"p_value": self.residual_p_value},
        }


def control_frames(
    frames: Mapping[str, Counts],
    spectral_index: float = 2.7,
    days: Float[np.ndarray, " day"] | None = None,
    weights: Float[np.ndarray, " day"] | None = None,
) -> dict[str, FrameDipole]:
    """Fit the dipole of the same events in each time frame, and set the orbit's line beside it.

    Args:
        frames: Counts by time frame, each read again from the events with that `--time-frame`.
        spectral_index: Gamma, of the intensity in energy.
        days: Times of the events, or centres of a histogram of them, in days since J2000.0. Without, each configuration
            is taken as live evenly from the first to the last event, or over its live time about its mean epoch, as far
            as the counts record them; where they record neither, over whole years. Seasonal gaps are then missed,
            and leak up to 2/pi of the solar line into the others.
        weights: Of `days`.

    Raises:
        InputError: If a name is not the time frame of its counts, the counts are not of the same events, or are blinded
            differently.
    """
    _require_same_events(frames)
    found = {}
    for frame, counts in frames.items():
        result = fit(counts).require_converged()
        dipole = result.dipole
        orbital = expected_orbit(counts, spectral_index, days, weights)
        found[frame] = FrameDipole(frame, dipole, orbital, result.test_statistic, result.log10_p)
    return found


def expected_orbit(
    counts: Counts,
    spectral_index: float,
    days: Float[np.ndarray, " day"] | None = None,
    weights: Float[np.ndarray, " day"] | None = None,
) -> Float[np.ndarray, "2"]:
    """`orbital_dipole` in the time frame of counts: of the given live time, or of what the counts record of it."""
    if "orbital_removed" in counts.history:
        return np.zeros(2)
    if days is not None:
        return orbital_dipole(days, spectral_index, counts.time_frame, weights)
    mean, total = np.zeros(2), 0.0
    for place in counts.configurations():
        first, last = _window(counts, place)
        if last > first:
            steps = max(math.ceil(last - first), 2)
            even = first + (last - first) * (np.arange(steps) + 0.5) / steps
            value = orbital_dipole(even, spectral_index, counts.time_frame)
        else:
            value = orbital_lines(spectral_index)[counts.time_frame]
        share = float(counts.n_time[place].sum())
        mean, total = mean + share * value, total + share
    return mean / total


def _window(counts: Counts, place: tuple[int, int, int]) -> Float[np.ndarray, "2"]:
    """Beginning and end of the data taking in days since J2000.0; NaN where the counts do not tell."""
    if np.all(np.isfinite(counts.span[place])):
        return counts.span[place]
    return (counts.mean_epoch[place] - 2000.0) * 365.25 + counts.livetime[place] * np.array([-0.5, 0.5])


# --- The solar dipole as a spectrometer -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SolarIndex:
    """Spectral index of one energy bin from its solar dipole.

    Attributes:
        energy: Label of the bin.
        dipole: In solar time; its amplitude and phase are the measured ones.
        unit: The orbit's dipole for 2 + Gamma = 1, shape (2,); (v / c) cos^2(eps / 2) towards 6 h for whole years.
    """

    energy: str
    dipole: Dipole
    unit: Float[np.ndarray, "2"]

    @property
    def factor(self) -> float:
        """2 + Gamma by generalised least squares: the component along the expected phase, unbiased at any amplitude."""
        weight = np.linalg.inv(self.dipole.covariance[:2, :2])
        return float(self.unit @ weight @ self.dipole.equatorial / (self.unit @ weight @ self.unit))

    @property
    def index(self) -> float:
        """Gamma, of the intensity in energy."""
        return self.factor - 2

    @property
    def index_error(self) -> float:
        """Standard error of Gamma."""
        return float((self.unit @ np.linalg.solve(self.dipole.covariance[:2, :2], self.unit)) ** -0.5)

    @property
    def index_of_amplitude(self) -> float:
        """Gamma from the length of the dipole whatever its phase, A / |unit| - 2: biased upwards for weak dipoles."""
        return self.dipole.amplitude / float(np.hypot(*self.unit)) - 2

    @property
    def phase_chi2(self) -> float:
        """Of the component across the expected phase, one degree of freedom."""
        off = self.dipole.equatorial - self.factor * self.unit
        return float(off @ np.linalg.solve(self.dipole.covariance[:2, :2], off))

    @property
    def phase_p_value(self) -> float:
        """Chance of a phase as far from the expected one."""
        return float(stats.chi2(1).sf(self.phase_chi2))

    def as_dict(self) -> dict:
        """For JSON."""
        names = ("energy", "index", "index_error", "index_of_amplitude", "phase_chi2", "phase_p_value")
        return {n: getattr(self, n) for n in names} | {"dipole": _described(self.dipole), "unit": self.unit.tolist()}


def solar_indices(
    counts: Counts,
    days: Float[np.ndarray, " day"] | None = None,
    weights: Float[np.ndarray, " day"] | None = None,
) -> list[SolarIndex]:
    """Spectral index of each energy bin that holds events, from the solar dipole.

    Args:
        counts: In solar time, in bins of energy.
        days, weights: Live time, as for `control_frames`.

    Raises:
        InputError: If the counts are not in solar time, or the orbital motion was removed from them.
    """
    if counts.time_frame != "solar":
        raise InputError(f"the counts are in {counts.time_frame} time; read the events again with --time-frame solar")
    if "orbital_removed" in counts.history:
        raise InputError("the orbital motion was removed from these counts; read the events without --remove-orbital")
    found = []
    for k, label in enumerate(counts.energies):
        if counts.n_time[:, k].sum() > 0:
            part = of_energy(counts, k)
            dipole = fit(part).require_converged().dipole
            found.append(SolarIndex(label, dipole, expected_orbit(part, -1.0, days, weights)))
    return found


def of_energy(counts: Counts, k: int) -> Counts:
    """The counts of one energy bin alone."""
    names = (*MARGINALS, "num_events", "mean_epoch", "livetime", "span", "moments")
    arrays = {name: getattr(counts, name)[:, k : k + 1] for name in names}
    w2 = {name: values[:, k : k + 1] for name, values in counts.w2.items()}
    return counts.replace(energies=(counts.energies[k],), w2=w2, **arrays)


def combined_index(indices: Sequence[SolarIndex]) -> tuple[float, float, float]:
    """Weighted mean of the indices of independent energy bins, its error, and chi2 of their agreement."""
    values = np.array([each.index for each in indices])
    weights = np.array([each.index_error for each in indices]) ** -2.0
    mean = float(np.average(values, weights=weights))
    return mean, float(weights.sum() ** -0.5), float(weights @ (values - mean) ** 2)


def _described(dipole: Dipole) -> dict:
    return {
        "delta_0h": float(dipole.delta[0]),
        "delta_6h": float(dipole.delta[1]),
        "covariance": dipole.covariance[:2, :2].tolist(),
        "amplitude": dipole.amplitude,
        "amplitude_error": dipole.amplitude_error,
        "phase_deg": math.degrees(dipole.right_ascension),
        "phase_hours": math.degrees(dipole.right_ascension) / 15,
        "phase_error_deg": math.degrees(dipole.right_ascension_error),
    }


def _require_same_events(frames: Mapping[str, Counts]) -> None:
    if not frames:
        raise InputError("no counts were given; read the events once with each --time-frame")
    first_name, first = next(iter(frames.items()))
    for name, counts in frames.items():
        if name not in TIME_FRAMES:
            raise InputError(f"unknown time frame {name!r}: choose one of {', '.join(TIME_FRAMES)}")
        if counts.time_frame != name:
            raise InputError(
                f"the counts given as {name} are in {counts.time_frame} time; read them with --time-frame {name}"
            )
        same = counts.num_events.shape == first.num_events.shape and np.array_equal(counts.num_events, first.num_events)
        if not same or not np.isclose(counts.sum_weights, first.sum_weights, rtol=1e-6):
            raise InputError(
                f"the counts in {name} and {first_name} time are not of the same events ({counts.num_events.sum()} and "
                f"{first.num_events.sum()}); read both with the same cuts"
            )
        if ("orbital_removed" in counts.history) != ("orbital_removed" in first.history):
            raise InputError(
                f"the orbital motion was removed in only one of {name} and {first_name} time; read both alike"
            )
