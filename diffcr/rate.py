"""When an instrument counts (N_tau): the rate in sidereal time, given as such or folded from civil time.

The expectation of one cell is mu = I N_tau A_i: the rate lives in the bins of local sidereal time.
"""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .clock import local_time
from .detector import Harmonics, Scalar, check_terms, draw_accepted
from .errors import InputError, is_known, require_float64
from .grid import RingGrid
from .units import HOUR

TROPICAL_YEAR_DAYS = 365.2422

Gaps = Iterable[tuple[Scalar, Scalar]]


# --- When, in sidereal time -------------------------------------------------------------------------------


def relative_rate(
    grid: RingGrid,
    harmonics: Harmonics = (),
    gaps: Gaps = (),
    noise: float | int = 0.0,
    rng: np.random.Generator | None = None,
) -> Float[Array, " time"]:
    r"""Rate of each sidereal-time bin relative to an undisturbed one.

    The average over the bin of $\ell(t)\,[1 + \sum_k a_k \cos k(t - t_k)]$ with the livetime l, which is 0 in
    the gaps and 1 elsewhere; integrated exactly, so a bin cut by a gap keeps the part that was live.

    Args:
        grid: The ring grid.
        harmonics: Triples (k, a_k, t_k [rad of sidereal time]); the rate is largest at t_k.
        gaps: Pairs (start, end) in sidereal hours, 0 to 24; a start behind its end runs through 24 h.
        noise: Relative scatter of the bins, log-normal of mean 1.
        rng: NumPy generator, needed for the noise only.

    Returns:
        Relative rate, dimensionless, shape (time,), differentiable in a_k and t_k.

    Raises:
        InputError: If the rate turns negative, nothing is live, or a harmonic, gap or the noise is not valid.
    """
    check_terms("rate harmonic", harmonics)
    if not (np.isfinite(noise) and noise >= 0) or (noise > 0 and rng is None):
        raise InputError(f"noise of a rate must be at least 0, with rng given where it is above; it is {noise}")
    starts, ends = _live(0.0, 2 * np.pi, _sidereal_gaps(gaps))
    if not len(starts):
        raise InputError("the gaps leave no sidereal time live: a rate needs some livetime")

    def primitive(t):
        total = t
        for order, amplitude, phase in harmonics:
            total = total + amplitude / order * jnp.sin(order * (t - phase))
        return total

    # How far each live interval has been passed at each bin edge; summed, the livetime up to that edge.
    edges = np.arange(grid.n_ra + 1) * grid.step
    passed = np.clip(edges[:, None], starts[None, :], ends[None, :])
    live = np.diff(passed.sum(axis=1)) > 1e-12
    average = jnp.diff(jnp.sum(primitive(jnp.asarray(passed)), axis=1)) / grid.step
    # Inside a gap rounding leaves either sign where there is exactly nothing.
    average = jnp.where(live, jnp.maximum(average, 0.0), 0.0)
    if noise > 0:
        average = average * np.exp(noise * rng.standard_normal(grid.n_ra) - noise**2 / 2)
    return average


def rate(
    grid: RingGrid,
    num_events: Scalar,
    harmonics: Harmonics = (),
    gaps: Gaps = (),
    noise: float | int = 0.0,
    rng: np.random.Generator | None = None,
) -> Float[Array, " time"]:
    """Expected counts N_tau of each sidereal-time bin for an isotropic sky: `relative_rate` times a constant.

    Args:
        grid: The ring grid.
        num_events: Sum of the expected counts.
        harmonics: As in `relative_rate`, and so are `gaps`, `noise` and `rng`.

    Raises:
        InputError: If num_events is not positive and finite; or as `relative_rate`.
    """
    if is_known(num_events) and not (np.isfinite(num_events) and num_events > 0):
        raise InputError(f"num_events of a rate must be positive and finite, not {num_events}")
    relative = relative_rate(grid, harmonics, gaps, noise, rng)
    return num_events * relative / jnp.sum(relative)


# --- When, in civil time ----------------------------------------------------------------------------------


def civil_rate(
    days: Float[Array, "*batch"],
    solar_time: Float[Array, "*batch"],
    seasonal: Float[Array, ""],
    seasonal_phase: Float[Array, ""],
    diurnal: Float[Array, ""],
    diurnal_phase: Float[Array, ""],
    modulation: Float[Array, ""],
    modulation_phase: Float[Array, ""],
) -> Float[Array, "*batch"]:
    r"""Rate with a seasonal wave and a solar-diurnal wave whose amplitude has itself a season.

    $$ [1 + a \cos\omega(t - t_a)]\,[1 + S\,(1 + m \cos\omega(t - t_m)) \cos(t_\odot - t_S)], \quad
       \omega = 2\pi / 365.2422\,\mathrm{d} $$

    The product S m makes a wave of amplitude S m / 2 in sidereal time and as much in antisidereal time, which
    is why the latter measures the spurious part of the former (Farley & Storey 1954, Proc. Phys. Soc. A 67,
    996).

    Args:
        days: Days since J2000.0 [UTC].
        solar_time: Local mean solar time [rad].
        seasonal: a. Dimensionless.
        seasonal_phase: Day t_a of a seasonal maximum, since J2000.0.
        diurnal: S. Dimensionless.
        diurnal_phase: Local mean solar time t_S of the diurnal maximum [rad].
        modulation: m. Dimensionless.
        modulation_phase: Day t_m on which the diurnal wave is largest, since J2000.0.

    Returns:
        Relative rate, dimensionless.
    """
    year = 2 * np.pi / TROPICAL_YEAR_DAYS
    season = 1 + seasonal * jnp.cos(year * (days - seasonal_phase))
    amplitude = diurnal * (1 + modulation * jnp.cos(year * (days - modulation_phase)))
    return season * (1 + amplitude * jnp.cos(solar_time - diurnal_phase))


def _scalar(value) -> Array:
    return jnp.asarray(value, float)


def _pairs(gaps) -> tuple[tuple[float, float], ...]:
    return tuple((float(start), float(end)) for start, end in gaps)


class RateModel(eqx.Module):
    """Trigger rate of an instrument in civil time: seasonal and solar-diurnal waves, and gaps.

    Attributes:
        seasonal: Amplitude of the annual wave. Dimensionless, at most 1 in size.
        seasonal_phase: Day of a seasonal maximum, since J2000.0 [UTC].
        diurnal: Amplitude S of the solar-diurnal wave. Dimensionless.
        diurnal_phase: Local mean solar time of the diurnal maximum [rad].
        modulation: Annual modulation m of the diurnal amplitude. Dimensionless; |S| (1 + |m|) is at most 1.
        modulation_phase: Day on which the diurnal wave is largest, since J2000.0.
        gaps: Pairs (start, end) without livetime, days since J2000.0; they may overlap.

    Raises:
        InputError: If an amplitude allows a negative rate, or a gap does not end after it starts.
    """

    seasonal: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    seasonal_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    diurnal: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    diurnal_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    modulation: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    modulation_phase: Float[Array, ""] = eqx.field(converter=_scalar, default=0.0)
    gaps: tuple[tuple[float, float], ...] = eqx.field(static=True, converter=_pairs, default=())

    def __check_init__(self):
        names = ("seasonal", "seasonal_phase", "diurnal", "diurnal_phase", "modulation", "modulation_phase")
        if not all(is_known(getattr(self, name)) for name in names):
            return
        for name in names:
            if not np.isfinite(getattr(self, name)):
                raise InputError(f"{name} of a rate model must be finite, not {getattr(self, name)}")
        if abs(self.seasonal) > 1:
            raise InputError(f"seasonal amplitude {self.seasonal} makes the rate negative: its size is at most 1")
        if abs(self.diurnal) * (1 + abs(self.modulation)) > 1:
            raise InputError(
                f"diurnal amplitude {self.diurnal} with annual modulation {self.modulation} makes the rate "
                "negative: |diurnal| (1 + |modulation|) is at most 1"
            )
        for start, end in self.gaps:
            if not (np.isfinite(start) and np.isfinite(end) and start < end):
                raise InputError(
                    f"gap ({start}, {end}) of a rate model must end after it starts, in days since J2000.0"
                )

    def relative_rate(self, days: Float[Array, "*batch"], longitude: Scalar) -> Float[Array, "*batch"]:
        """`civil_rate` times the livetime (0 in gaps, else 1).

        Args:
            days: Days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.
        """
        require_float64("a rate in civil time")
        waves = civil_rate(
            days,
            local_time(days, jnp.asarray(longitude, float), "solar"),
            self.seasonal,
            self.seasonal_phase,
            self.diurnal,
            self.diurnal_phase,
            self.modulation,
            self.modulation_phase,
        )
        starts, ends = _union(self.gaps)
        if not len(starts):
            return waves
        last = jnp.searchsorted(jnp.asarray(starts), days, side="right") - 1
        in_gap = (last >= 0) & (days < jnp.asarray(ends)[jnp.maximum(last, 0)])
        return jnp.where(in_gap, 0.0, waves)

    def draw_times(
        self,
        rng: np.random.Generator,
        num: int,
        start_days: float | int,
        end_days: float | int,
        longitude: float | int,
    ) -> np.ndarray:
        """Event times of an isotropic sky, by exact rejection, in order.

        Args:
            rng: NumPy generator.
            num: Number of events.
            start_days: Start of data taking, days since J2000.0 [UTC].
            end_days: End of data taking, days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.

        Returns:
            Days since J2000.0 [UTC], shape (num,), increasing.

        Raises:
            InputError: If nothing is live between start and end, or num is negative.
        """
        starts, ends = self._live_days(start_days, end_days)
        ahead = np.concatenate([[0.0], np.cumsum(ends - starts)])
        bound = float((1 + abs(self.seasonal)) * (1 + abs(self.diurnal) * (1 + abs(self.modulation))))

        def propose(size):
            elapsed = rng.uniform(0, ahead[-1], size)
            interval = np.clip(np.searchsorted(ahead, elapsed, side="right") - 1, 0, len(starts) - 1)
            days = starts[interval] + elapsed - ahead[interval]
            relative = _relative_rate(self, jnp.asarray(days), jnp.asarray(longitude, float))
            return days[None], np.asarray(relative) / bound

        return np.sort(draw_accepted(rng, num, propose)[0])

    def sidereal_rate(
        self,
        grid: RingGrid,
        start_days: float | int,
        end_days: float | int,
        longitude: float | int,
        frame: str = "sidereal",
    ) -> Float[Array, " time"]:
        """Expected fraction of the events in each bin of local sidereal time, folded over the data taking.

        The interval is cut at every edge of a bin or a gap, and at least at every degree of local time; each
        piece counts with the rate at its middle.

        Args:
            grid: The ring grid.
            start_days: Start of data taking, days since J2000.0 [UTC].
            end_days: End of data taking, days since J2000.0 [UTC].
            longitude: Longitude of the site [rad], East positive.
            frame: Time to fold in, as in `clock.local_time`.

        Returns:
            Fractions, shape (time,); they sum to 1. Differentiable in the amplitudes and phases.

        Raises:
            InputError: If nothing is live between start and end.
        """
        starts, ends = self._live_days(start_days, end_days)
        step = grid.step / max(1, -(-360 // grid.n_ra))
        edges = _bin_edges_in_days(float(start_days), float(end_days), float(longitude), frame, step)
        cuts = np.unique(np.concatenate([edges, starts, ends]))
        # Pieces of no length up to a power of two, so that intervals of any length share compiled shapes.
        cuts = np.pad(cuts, (0, (1 << max(10, len(cuts).bit_length())) + 1 - len(cuts)), mode="edge")
        middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
        # Which bin a piece lies in depends on nothing traced, so it may be looked at inside a trace too.
        with jax.ensure_compile_time_eval():
            index = grid.bin_of(np.asarray(_local_time(middle, float(longitude), frame)))
        weight = _relative_rate(self, jnp.asarray(middle), jnp.asarray(longitude, float)) * length
        folded = jnp.zeros(grid.n_ra).at[index].add(weight)
        return folded / jnp.sum(folded)

    def _live_days(self, start_days, end_days) -> tuple[np.ndarray, np.ndarray]:
        if not (np.isfinite(start_days) and np.isfinite(end_days) and start_days < end_days):
            raise InputError(f"data taking from day {start_days} to day {end_days} must end after it starts")
        starts, ends = _live(float(start_days), float(end_days), self.gaps)
        if not len(starts):
            raise InputError(f"the gaps leave nothing live between day {start_days} and day {end_days}")
        return starts, ends


# --- Helpers ----------------------------------------------------------------------------------------------


# Compiled once per shape: the methods that use them work on millions of times from outside any jit.
_local_time = jax.jit(local_time, static_argnames="frame")


@eqx.filter_jit
def _relative_rate(model: RateModel, days: Float[Array, " sample"], longitude: Float[Array, ""]):
    return model.relative_rate(days, longitude)


def _sidereal_gaps(gaps: Gaps) -> list[tuple[float, float]]:
    """Gaps in sidereal hours -> radians, those through 24 h cut in two."""
    split = []
    for start, end in gaps:
        if not (0 <= start <= 24 and 0 <= end <= 24 and start != end):
            raise InputError(
                f"gap ({start}, {end}) of a rate must lie between 0 and 24 sidereal hours, and end elsewhere "
                "than it starts"
            )
        pieces = [(start, end)] if start < end else [(start, 24), (0, end)]
        split += [(low * HOUR, high * HOUR) for low, high in pieces]
    return split


def _union(intervals: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the union of intervals, in order and disjoint."""
    merged: list[list[float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    both = np.array(merged, dtype=float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _live(start: float, end: float, gaps: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of what the gaps leave of [start, end]."""
    gap_starts, gap_ends = _union(gaps)
    starts = np.concatenate([[start], np.clip(gap_ends, start, end)])
    ends = np.concatenate([np.clip(gap_starts, start, end), [end]])
    return starts[ends > starts], ends[ends > starts]


def _bin_edges_in_days(start: float, end: float, longitude: float, frame: str, step: float) -> np.ndarray:
    """Days at which the local time of a frame passes a multiple of `step` [rad], with both ends.

    Local time is linear in civil time to 0.1 arcsec in ten years, so the phases of both ends fix the rest;
    the whole turns between them follow from how far the phase gets in one day.
    """
    with jax.ensure_compile_time_eval():
        at = np.asarray(_local_time(np.array([start, end, start + 1]), longitude, frame)) / (2 * np.pi)
    per_day = 1 + (at[2] - at[0] + 0.5) % 1 - 0.5
    turns = np.round(per_day * (end - start) - (at[1] - at[0])) + at[1] - at[0]
    slope = 2 * np.pi * turns / (end - start)
    phase = 2 * np.pi * at[0]
    inner = np.arange(np.ceil(phase / step), np.floor((phase + slope * (end - start)) / step) + 1) * step
    edges = start + (inner - phase) / slope
    return np.concatenate([[start], edges[(edges > start) & (edges < end)], [end]])
