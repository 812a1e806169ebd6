"""Maximum-likelihood fit of the dipole, or of all m != 0 multipoles, with every rate and acceptance free."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.errors import FitError, InputError, require_float64
from diffcr.harmonics import rotate
from diffcr.sky import precession_matrix

from .data import MARGINALS, Counts
from .dipole import Dipole, log10_p_value, significance_sigma
from .known_exposure import maximise_known
from .likelihood import Marginals, form_marginals, grouped_rate
from .measurable import require_measurable
from .multipoles import (
    Maximum,
    RingModes,
    free_multipoles,
    make_block,
    maximise,
    ring_modes,
    with_moments,
)
from .weights import sandwich

DIPOLE_NORM = math.sqrt(4 * math.pi / 3)
"""s_{1,1} = sqrt(4 pi / 3) delta_0h for the real multipoles."""

GAIN_TOLERANCE = 1e-3
"""Converged means that less than this is left to gain in ln L: 1/2 g F^-1 g."""

MAX_STEPS = 60
"""Newton steps after which a fit gives up."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """Where the fit ended, and whether that is the maximum.

    Multipoles are real, with basis functions without the Condon-Shortley phase (`diffcr.harmonics`), in the
    equator and equinox of `equinox`; they are of the relative intensity, whose monopole is 1.

    Attributes:
        counts: What was fitted.
        l_max: Highest fitted degree.
        degree, order: l and m of the fitted multipoles, shape (param,).
        multipoles: Their values, shape (param,).
        covariance: Their covariance, nuisances eliminated, weights accounted for, shape (param, param).
        information: Observed information in the frame of date, shape (param, param).
        multipoles_of_date: Values in the frame of date of the counts, shape (param,).
        rates: Fitted relative rate N_tau of each configuration, sums to 1, shape (configuration, time).
        acceptances: Fitted relative acceptance A_i, sums to 1, shape (configuration, ring, hour_angle).
        test_statistic: 2 ln(L / L_isotropic), scaled for weights.
        remaining_gain: Expected gain in ln L that is left, 1/2 g F^-1 g.
        num_steps: Newton steps.
        positive: Whether the information is positive definite.
        condition: Largest over smallest eigenvalue of the information.
        inflation: Error of each multipole over that of the same number of events spread evenly over the sky.
        livetime_inflation: Error of the equatorial dipole over that for a constant rate.
        dead_bins: Number of time bins without any livetime, per configuration.
        prior_precision: Gaussian prior precision of each multipole, shape (param,); 0 where none.
        known_exposure: Whether the acceptance was given, not fitted.
        rate_bins: Groups of time bins with a free rate, per configuration.
        equinox: "J2000", or "date" where the time frame or a missing epoch leaves no rotation.
    """

    counts: Counts
    l_max: int
    degree: np.ndarray
    order: np.ndarray
    multipoles: np.ndarray
    covariance: np.ndarray
    information: np.ndarray
    multipoles_of_date: np.ndarray
    rates: np.ndarray
    acceptances: np.ndarray
    test_statistic: float
    remaining_gain: float
    num_steps: int
    positive: bool
    condition: float
    inflation: np.ndarray
    livetime_inflation: float
    dead_bins: tuple[int, ...]
    prior_precision: np.ndarray
    known_exposure: bool
    rate_bins: tuple[int, ...]
    equinox: str

    @property
    def converged(self) -> bool:
        """Whether less than 1e-3 is left to gain in ln L, at a point where the information is positive."""
        return bool(self.positive and 0 <= self.remaining_gain < GAIN_TOLERANCE)

    @property
    def dipole(self) -> Dipole:
        """The dipole: (delta_0h, delta_6h), and delta_N where the exposure is known."""
        wanted = [(1, 1), (1, -1)] + [(1, 0)] * self.known_exposure
        place = [self._place(l, m) for l, m in wanted]
        return Dipole(self.multipoles[place] / DIPOLE_NORM, self.covariance[np.ix_(place, place)] / DIPOLE_NORM**2)

    def _place(self, l: int, m: int) -> int:
        return int(np.flatnonzero((self.degree == l) & (self.order == m))[0])

    @property
    def degrees_of_freedom(self) -> float:
        """Number of fitted multipoles; with a prior what the data determine of them, trace(1 - prior covariance)."""
        held = self.prior_precision @ np.diag(np.linalg.pinv(self.information, hermitian=True))
        return len(self.multipoles) - float(held) if self.prior_precision.any() else len(self.multipoles)

    @property
    def log10_p(self) -> float:
        """log10 of the probability of such a test statistic for an isotropic sky."""
        return log10_p_value(self.test_statistic, self.degrees_of_freedom)

    @property
    def significance(self) -> float:
        """Two-sided Gaussian significance of `log10_p`."""
        return significance_sigma(self.log10_p)

    def require_converged(self) -> "FitResult":
        """Return this result, or raise `FitError` where it is not a maximum."""
        if not self.converged:
            raise FitError(
                f"the fit stopped after {self.num_steps} steps with {self.remaining_gain:.2g} left to gain in ln L "
                f"(tolerance {GAIN_TOLERANCE:g}): too few events or too many multipoles for this field of view; "
                "lower --lmax, add data or give a prior"
            )
        return self


def fit(
    counts: Counts,
    l_max: int = 1,
    exposure: dict[str, np.ndarray] | None = None,
    prior_power: np.ndarray | Sequence[float] | float | None = None,
    rate_bins: int | None = None,
    max_steps: int = MAX_STEPS,
) -> FitResult:
    """Fit the sky's m != 0 multipoles to l_max by maximum likelihood; rates and acceptances are eliminated.

    Args:
        counts: The binned data; all observatories, energy bins and epochs share the sky.
        l_max: Highest degree; 1 is the equatorial dipole (delta_0h, delta_6h).
        exposure: Known relative acceptance (n_ring, n_ra) of each observatory by name. Then the rate alone is
            free and m = 0 terms (delta_N) are fitted too. Default: the acceptance is free.
        prior_power: Gaussian prior C_l for l >= 2: one value, or one for each l from 2. The dipole stays free.
        rate_bins: Number of groups of time bins with a free rate, constant within each. Default: as many groups as hold
            100 events each, the rate within them as the counts have it.
        max_steps: Most Newton steps.

    Raises:
        InputError: If the field of view or the livetime cannot support a requested multipole (its error would
            be more than ten times that of full coverage), or there are too few events.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.fit")
    ready = prepare(counts, l_max, exposure, prior_power, rate_bins)
    if ready.known:
        data, modes, _, prior = ready.arrays
        best = _maximise_known(data, modes, ready.known, prior, groups=ready.groups, max_steps=max_steps)
        blocks = ()
    else:
        best, blocks = maximum(*ready.arrays, groups=ready.groups, max_steps=max_steps)
    return result_of(ready, best, blocks)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A fit before it is maximised: the data contracted as far as the host can, in 64-bit floats.

    Attributes:
        given: The counts.
        counts: The same in effective events, where events carry weights.
        places: Indices (observatory, energy, epoch) of the configurations that hold events.
        degree, order: l and m of each coefficient, shape (param,).
        prior: Prior precision of each, shape (param,).
        groups: Free rates of each configuration.
        known: Known acceptances on the kept rings, or none.
        arrays: Marginals, modes, moments with frame rotations [rad], and the prior: arguments of `maximum`.
        livetime_inflation: Of the errors, by uneven live time.
    """

    given: Counts
    counts: Counts
    places: list[tuple[int, int, int]]
    degree: np.ndarray
    order: np.ndarray
    prior: np.ndarray
    groups: tuple[int, ...]
    known: tuple
    arrays: tuple
    livetime_inflation: float


def prepare(
    counts: Counts,
    l_max: int = 1,
    exposure: dict[str, np.ndarray] | None = None,
    prior_power: np.ndarray | Sequence[float] | float | None = None,
    rate_bins: int | None = None,
    every_ring: bool = False,
) -> Prepared:
    """Everything of `fit` that comes before the maximum.

    Args:
        counts, l_max, exposure, prior_power, rate_bins: As for `fit`.
        every_ring: Keep rings without events too, which add nothing, so that other cuts have the same shapes.

    Raises:
        InputError: As `fit`.
    """
    if isinstance(l_max, bool) or l_max < 1 or l_max >= counts.grid.n_ra // 2 or l_max > (counts.grid.n_ring - 1) // 2:
        raise InputError(f"l_max must be at least 1 and resolved by the {counts.grid.n_ring} rings, not {l_max}")
    given, counts = counts, _in_effective_events(counts)
    places = counts.configurations()
    if not places:
        raise InputError("the counts hold no event: nothing can be fitted; look at the cuts and the time range")
    degree, order = free_multipoles(l_max, exposure is not None)
    prior = prior_precision(degree, prior_power)
    groups = _rate_bins(counts, places, rate_bins)
    known = () if exposure is None else tuple(_known_acceptance(counts, p, exposure) for p in places)
    every = np.ones(counts.grid.n_ring, bool)
    data = tuple(
        form_marginals(
            counts.n_sky[p],
            counts.n_time[p],
            counts.n_local[p],
            rate_bins,
            every if every_ring else _exposed(counts, p, known[k] if known else None),
        )
        for k, p in enumerate(places)
    )
    rotations = [_frame_rotation(counts, p) for p in places]
    modes = tuple(
        ring_modes(counts.grid, d.rings, degree, order, turn, _needs_cell_averages(counts, p, degree))
        for d, p, turn in zip(data, places, rotations, strict=True)
    )
    return Prepared(
        given=given,
        counts=counts,
        places=places,
        degree=degree,
        order=order,
        prior=prior,
        groups=groups,
        known=tuple(jnp.asarray(a[list(d.rings)]) for a, d in zip(known, data, strict=True)) if known else (),
        arrays=(
            data,
            modes,
            tuple((counts.moments[p], turn) for p, turn in zip(places, rotations, strict=True)),
            prior,
        ),
        livetime_inflation=1.0 if known else require_measurable(counts, data, modes, degree, order, prior),
    )


@functools.partial(jax.jit, static_argnames=("groups", "max_steps"))
def maximum(data, modes, moments, prior, *, groups, max_steps=MAX_STEPS):
    """Maximum with the acceptance free, and the blocks it was found with; can be vmapped.

    Args:
        data, modes, moments, prior: `Prepared.arrays`.
        groups: Free rates of each configuration.
        max_steps: Most Newton steps.
    """
    blocks = tuple(
        with_moments(make_block(d, m, g), *own) for d, m, own, g in zip(data, modes, moments, groups, strict=True)
    )
    return maximise(blocks, prior, max_steps=max_steps), blocks


_maximise_known = jax.jit(maximise_known, static_argnames=("groups", "max_steps"))


def result_of(ready: Prepared, best: Maximum, blocks: tuple) -> FitResult:
    """Put the maximum into the frame of the user, with its covariance and what it was based on."""
    counts, places, degree, order, prior = ready.counts, ready.places, ready.degree, ready.order, ready.prior
    data, modes = ready.arrays[:2]
    known, groups = ready.known, ready.groups
    information = np.asarray(best.information)
    values = np.linalg.eigvalsh(information)
    covariance = np.linalg.pinv(information, hermitian=True)
    test_statistic = 2 * float(best.gain)
    theta = np.asarray(best.coefficients)
    if counts.weighted:
        squares = [{name: counts.w2[name][p] for name in counts.w2} for p in places]
        covariance, scale = sandwich(best, data, modes, blocks, known, squares, prior)
        test_statistic *= scale
    turn = _to_j2000(counts, degree, order)
    full = np.zeros((len(places), *counts.grid.shape))
    rates = np.zeros((len(places), counts.grid.n_ra))
    for k, (d, m) in enumerate(zip(data, modes, strict=True)):
        rates[k], full[k][list(d.rings)] = _nuisances(d, m, best, k, groups[k], bool(known))
    return FitResult(
        counts=ready.given,
        l_max=int(degree.max()),
        degree=degree,
        order=order,
        multipoles=turn @ theta if turn is not None else theta,
        covariance=turn @ covariance @ turn.T if turn is not None else covariance,
        information=information,
        multipoles_of_date=theta,
        rates=rates,
        acceptances=full,
        test_statistic=test_statistic,
        remaining_gain=float(best.decrement),
        num_steps=int(best.steps),
        positive=bool(best.positive),
        condition=float(values[-1] / values[0]) if values[0] > 0 else float("inf"),
        inflation=np.sqrt(np.abs(np.diag(covariance)) * counts.effective_events / (4 * np.pi)),
        livetime_inflation=ready.livetime_inflation,
        dead_bins=tuple(int(dead_bins(counts.n_time[p]).sum()) for p in places),
        prior_precision=prior,
        known_exposure=bool(known),
        rate_bins=groups,
        equinox="date" if turn is None else "J2000",
    )


_sky = jax.jit(RingModes.sky)


def _nuisances(data: Marginals, modes, best: Maximum, k: int, groups: int, known: bool):
    """Best relative rate and acceptance of one configuration, given the best sky."""
    contrast = np.asarray(_sky(modes, best.coefficients))
    shift = 1 + np.repeat(best.rate_shifts[k], len(data.time) // groups)
    rate = np.asarray(data.rate) / shift if known else np.asarray(data.rate) * shift
    rate /= rate.sum()
    seen = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(1 + contrast)), n=len(rate))
    acceptance = np.asarray(data.local) / seen
    return rate, acceptance / acceptance.sum()


def prior_precision(degree: np.ndarray, prior_power: np.ndarray | Sequence[float] | float | None) -> np.ndarray:
    """1 / C_l for each multipole of degree >= 2 (shape (param,)); zero without a prior and for the dipole."""
    precision = np.zeros(len(degree))
    if prior_power is None:
        return precision
    power = np.atleast_1d(np.asarray(prior_power, float))
    l_max = int(degree.max())
    if power.size == 1:
        power = np.full(max(l_max - 1, 1), power[0])
    if power.size < l_max - 1 or not np.all(np.isfinite(power) & (power > 0)):
        raise InputError(
            f"the prior C_l needs one positive value, or one for each l from 2 to {l_max}; got {list(power)}"
        )
    higher = degree >= 2
    precision[higher] = 1 / power[degree[higher] - 2]
    return precision


def _exposed(counts: Counts, place: tuple, known: np.ndarray | None) -> np.ndarray:
    """Rings to keep: where the acceptance is known, those it covers; else those that any epoch or energy bin of the
    observatory sees, so that its configurations have one shape. Boolean (n_ring,)."""
    local = known if known is not None else counts.n_local[place[0]].sum(axis=(0, 1))
    return local.sum(axis=1) > 0


def _in_effective_events(counts: Counts) -> Counts:
    """Weights of each configuration scaled by sum w / sum w^2, so that tolerances, priors and thresholds know what an
    event is worth."""
    if not counts.weighted:
        return counts
    # Each configuration has its own scale: weights of another one may be in other units.
    total, squares = counts.n_time.sum(-1), counts.w2["n_time"].sum(-1)
    scale = np.where(squares > 0, total / np.where(squares > 0, squares, 1.0), 1.0)

    def times(values, power=1):
        return values * scale.reshape(scale.shape + (1,) * (values.ndim - 3)) ** power

    return counts.replace(
        **{name: times(getattr(counts, name)) for name in MARGINALS},
        moments=times(counts.moments),
        w2={name: times(values, 2) for name, values in counts.w2.items()},
    )


def _needs_cell_averages(counts: Counts, place: tuple, degree: np.ndarray) -> bool:
    """Whether the cells hold the first-order terms. Where the events' moments do, only second-order terms are left
    to them, and the mean of a square is nearer to the square at the centre than to that of the average."""
    return bool(degree.max() > 1 or (degree == 1).sum() > 2 or not np.all(np.isfinite(counts.moments[place])))


def _rate_bins(counts: Counts, places: list[tuple], rate_bins: int | None) -> tuple[int, ...]:
    """Free rates of each configuration: the asked number, or the most that divide the bins and hold 100 events each.

    They move groups of time bins up and down; what the rate does within a group is as the counts have it, since a
    livetime of half a group is not that of all of it. (Asked for, the rate is constant within a group.) With fewer
    events a rate, errors come out too small (17 % at 25 each, for a narrow field of view).
    """
    n = counts.grid.n_ra
    if rate_bins is not None:
        grouped_rate(counts.n_time[places[0]], rate_bins)
        return (rate_bins,) * len(places)

    def most(place):
        total = counts.n_time[place].sum()
        squares = counts.w2["n_time"][place].sum() if counts.weighted else total
        return max(d for d in range(1, n + 1) if n % d == 0 and (d * 100 * squares <= total**2 or d <= 4))

    return tuple(most(place) for place in places)


def dead_bins(n_time: np.ndarray) -> np.ndarray:
    """Time bins without events where at least 20 were to be expected: no livetime. Boolean, shape (time,)."""
    alive = n_time > 0
    return ~alive & (n_time.sum() / max(alive.sum(), 1) >= 20)


def _days(counts: Counts, place: tuple | None = None) -> float:
    year = counts.overall_epoch() if place is None else float(counts.mean_epoch[place])
    return (year - 2000.0) * 365.25


def _frame_rotation(counts: Counts, place: tuple) -> float:
    """Right ascension of a fixed direction at this configuration's mean epoch minus at the common one [rad]."""
    own, common = _days(counts, place), _days(counts)
    if counts.time_frame != "sidereal" or not np.isfinite(own):
        return 0.0
    turn = _precession(own) @ _precession(common).T
    return float(np.arctan2(turn[1, 0], turn[0, 0]))


def _to_j2000(counts: Counts, degree: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """Matrix from the fitted multipoles of date to those of J2000, or None where no rotation is defined.

    Multipoles that the fit cannot see (m = 0) are taken as zero: a tilt by 0.1 degrees moves 0.2 % of them.
    """
    days = _days(counts)
    if counts.time_frame != "sidereal" or not np.isfinite(days):
        return None
    l_max = int(degree.max())
    place = degree * degree + degree + order
    unit = np.zeros((len(degree), (l_max + 1) ** 2))
    unit[np.arange(len(degree)), place] = 1.0
    return np.asarray(_rotate(unit, _precession(days).T))[:, place].T


_rotate = jax.jit(rotate)


def _precession(days: float) -> np.ndarray:
    return np.asarray(jax.jit(precession_matrix)(days))


def _known_acceptance(counts: Counts, place: tuple, exposure: dict) -> np.ndarray:
    """The given acceptance of a configuration's observatory, checked, summing to 1, shape (n_ring, n_ra)."""
    name = counts.sites[place[0]].name
    if name not in exposure:
        raise InputError(
            f"a known exposure was asked for, but none is given for {name}; give one for every observatory"
        )
    given = np.asarray(exposure[name], float)
    if given.shape != counts.grid.shape or not np.all(np.isfinite(given)) or given.min() < 0 or given.sum() <= 0:
        raise InputError(
            f"the exposure of {name} must be finite, non-negative and of shape {counts.grid.shape}; it is {given.shape}"
        )
    given = given / given.sum()
    outside = float(counts.n_local[place][given <= 0].sum())
    # Cells at the edge hold the odd event by rounding; it costs nothing, as ln A_i drops out.
    if outside > 1e-3 * counts.n_local[place].sum():
        raise InputError(
            f"{outside:g} events of {name} lie where its known exposure is zero: widen the zenith cut of the exposure, "
            "or cut the events"
        )
    return given
