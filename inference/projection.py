r"""Right-ascension projection: relative intensity against right ascension, and its harmonics.

$$ R_b = \sum n_a / \sum B_a - 1 $$

with sums over the rings of a band, the cells of a right-ascension bin and all configurations. Harmonics
$\sum_m a_m \cos m\alpha + b_m \sin m\alpha$ are fitted to it. What the background took from the sky is missing there;
how much of a dipole is left follows from `diffcr.inference.scrambling`.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from diffcr.errors import InputError
from diffcr.grid import RingGrid

from .data import Counts
from .dipole import log10_p_value, phase_error
from .estimators import EquatorialEstimate
from .scrambling import DAY, Window, background_of, dipole_templates, response, variance, windows
from .selection import select

BACKGROUNDS = ("isotropic", "uniform")


@dataclasses.dataclass(frozen=True)
class Harmonic:
    """One harmonic a cos(m RA) + b sin(m RA) of the relative intensity.

    Attributes:
        order: m.
        a, b: Coefficients, corrected for the width of the bins.
        covariance: Of (a, b): their scatter for isotropy, noise of the background included, shape (2, 2).
    """

    order: int
    a: float
    b: float
    covariance: np.ndarray

    @property
    def amplitude(self) -> float:
        """hypot(a, b)."""
        return math.hypot(self.a, self.b)

    @property
    def phase(self) -> float:
        """Right ascension of the maximum [rad], in [0, 2 pi / m)."""
        return math.atan2(self.b, self.a) % (2 * math.pi) / self.order

    @property
    def amplitude_error(self) -> float:
        """Standard error along the measured phase."""
        unit = np.array([math.cos(self.order * self.phase), math.sin(self.order * self.phase)])
        return float(np.sqrt(unit @ self.covariance @ unit))

    @property
    def phase_error(self) -> float:
        """Half-width of the central 68.27 % interval of the phase [rad]."""
        return phase_error(np.array([self.a, self.b]), self.covariance) / self.order

    @property
    def log10_p(self) -> float:
        """log10 of the chance probability of this harmonic, or a larger one, for isotropy."""
        vector = np.array([self.a, self.b])
        return log10_p_value(float(vector @ np.linalg.solve(self.covariance, vector)), 2)


@dataclasses.dataclass(frozen=True)
class Projection(EquatorialEstimate):
    """Relative intensity against right ascension, its harmonics, and the dipole they stand for.

    Attributes:
        bins: Centres of the right-ascension bins [rad], shape (bin,).
        relative_intensity: R_b, shape (bin,); NaN where nothing is expected.
        error: Poisson error of R_b, from the expected counts and the mean squared weights, shape (bin,). The classical
            one: it leaves out that the background comes from the same events.
        counts, background: Sums in each bin, shape (bin,).
        offset: Constant of the fit.
        harmonics: One `Harmonic` for each order from 1.
        chi2, ndf: Of the fit of offset and harmonics, with `error`. The sums of events and background agree, so that
            the offset counts as a parameter. Where the background comes from the same events chi2 is lower than its
            distribution by up to a few units: it took with it what the harmonics leave of the rate.
        response: (a_1, b_1) = response @ (delta_0h, delta_6h), shape (2, 2).
        mean_cos_declination: <cos dec> of the background; response is this times the identity where nothing is removed.
    """

    bins: np.ndarray
    relative_intensity: np.ndarray
    error: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    offset: float
    harmonics: tuple[Harmonic, ...]
    chi2: float
    ndf: int
    response: np.ndarray
    mean_cos_declination: float

    @property
    def p_value(self) -> float:
        """Probability of this chi2 or a larger one where the harmonics describe the sky."""
        return float(stats.chi2.sf(self.chi2, self.ndf))

    @property
    def fraction(self) -> np.ndarray:
        """What is left of the first harmonic of a dipole, d <cos dec>, shape (2, 2); the identity if all of it."""
        return self.response / self.mean_cos_declination

    @property
    def vector(self) -> np.ndarray:
        """(delta_0h, delta_6h) of a dipole that alone makes the first harmonic, corrected for the response."""
        return np.linalg.solve(self.response, [self.harmonics[0].a, self.harmonics[0].b])

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of `vector`, shape (2, 2)."""
        inverse = np.linalg.inv(self.response)
        return inverse @ self.harmonics[0].covariance @ inverse.T


def right_ascension_projection(
    counts: Counts,
    declination: tuple[float, float] | None = None,
    background: str | np.ndarray = "isotropic",
    window: float = DAY,
    bins: int | None = None,
    orders: int = 3,
) -> Projection:
    """Relative intensity against right ascension in a band of declination, and its first harmonics.

    The fit has weights 1 / error^2 and a free offset. Errors of the harmonics are their scatter for isotropy, with the
    noise that the background shares with the events; weights are accounted for.

    Several configurations add their events and their backgrounds, each from its own rate and acceptance: the mean of
    their relative intensities weighted with the exposure, which for unit weights is the inverse variance. Response and
    errors are those of this mean.

    Args:
        counts: Counts of one or several configurations.
        declination: Band (lowest, highest) of declination [rad], whole rings; default all.
        background: "isotropic", the best isotropic fit of the likelihood with the measured rate, which is direct
            integration over `window`; "uniform", the same with a constant rate, so that nothing of a dipole is lost,
            but dead time and weather look like one; or expected counts, shape (ring, ra), taken as known without error
            and as made without these events, for all configurations together.
        window: Length of the time window [h] for "isotropic"; less than 24 needs the cube.
        bins: Number of right-ascension bins, a divisor of the grid's; default 24 where it is one, else all.
        orders: Highest harmonic.

    Raises:
        InputError: If there is no event, an argument is not as described, too few bins are exposed for the fit, or the
            background leaves nothing of a dipole.
    """
    grid = counts.grid
    if declination is not None:
        counts = select(counts, declination=declination)
    places = counts.configurations()
    if not places:
        raise InputError("a projection needs at least one event; the counts are empty")
    bins = _checked_bins(grid, bins, orders)
    parts = _expected(counts, places, background, window)
    per_cell = sum(each.background for each in parts)
    seen, expected = (_binned(x, bins) for x in (counts.n_sky.sum(axis=(0, 1, 2)), per_cell))
    exposed = expected > 0
    safe = np.where(exposed, expected, 1.0)
    noise = _binned(sum(each.background * each.per_weight for each in parts), bins)
    ratio, error = np.where(exposed, seen / safe - 1, np.nan), np.where(exposed, np.sqrt(noise) / safe, np.nan)
    solver, basis = _solver(bins, orders, exposed, error)
    fitted = solver @ np.where(exposed, ratio, 0.0)
    covariance, kept = _propagate(parts, solver / safe, grid, bins)
    if not np.linalg.svd(kept)[1][-1] > 1e-9:
        raise InputError("the background leaves nothing of a dipole: take a longer window, or another background")
    harmonics = tuple(
        Harmonic(
            m,
            *(float(x) for x in fitted[2 * m - 1 : 2 * m + 1]),
            covariance[2 * m - 1 : 2 * m + 1, 2 * m - 1 : 2 * m + 1],
        )
        for m in range(1, orders + 1)
    )
    return Projection(
        bins=(np.arange(bins) + 0.5) * 2 * np.pi / bins,
        relative_intensity=ratio,
        error=error,
        counts=seen,
        background=expected,
        offset=float(fitted[0]),
        harmonics=harmonics,
        chi2=float(np.nansum(((ratio - basis.T @ fitted) / error) ** 2)),
        ndf=int(exposed.sum()) - 1 - 2 * orders,
        response=kept,
        mean_cos_declination=float(per_cell.sum(axis=1) @ _level(grid) / per_cell.sum()),
    )


@dataclasses.dataclass(frozen=True)
class _Expected:
    """Background of one configuration, and what it was made from.

    Attributes:
        background: Shape (ring, ra).
        per_weight: sum w^2 / sum w of each ring, shape (ring, 1).
        windows: Windows whose rate and local map made the background; empty where it is known.
        known_rate: Whether the rate was given, so that only the local map was measured.
    """

    background: np.ndarray
    per_weight: np.ndarray
    windows: tuple[Window, ...] = ()
    known_rate: bool = False


def _checked_bins(grid: RingGrid, bins: int | None, orders: int) -> int:
    n = grid.n_ra
    chosen = (24 if n % 24 == 0 else n) if bins is None else bins
    if chosen < 1 or n % chosen:
        raise InputError(f"{chosen} bins do not divide the {n} right-ascension bins of the counts; choose a divisor")
    if orders < 1 or 2 * orders >= chosen:
        raise InputError(f"{chosen} right-ascension bins do not resolve harmonics 1 to {orders}; take more bins")
    return chosen


def _expected(counts: Counts, places, background, window: float) -> list[_Expected]:
    n = counts.grid.n_ra
    if not isinstance(background, str):
        values = np.asarray(background, float)
        if values.shape != counts.grid.shape or not np.all(np.isfinite(values)) or values.min() < 0:
            raise InputError(
                f"a background must be finite, not negative and of the shape (ring, ra) = {counts.grid.shape}, not "
                f"{values.shape}"
            )
        events = counts.n_sky.sum(axis=(0, 1, 2))
        if np.any(events[values == 0] > 0):
            raise InputError("events lie where the background is zero: give one that covers the field of view")
        # Rings without events, such as those outside the band, must not count as empty sky.
        values = np.where(events.sum(axis=1, keepdims=True) > 0, values, 0.0)
        squares = counts.w2["n_sky"].sum(axis=(0, 1, 2)) if counts.weighted else events
        return [_Expected(values, _ratio(squares, events))]
    if background not in BACKGROUNDS:
        raise InputError(
            f"unknown background {background!r}: choose one of {', '.join(BACKGROUNDS)}, or give an array (ring, ra)"
        )
    found = []
    for place in places:
        per_weight = _ratio(counts.w2["n_sky"][place] if counts.weighted else counts.n_sky[place], counts.n_sky[place])
        if background == "isotropic":
            own = tuple(windows(counts, place, window))
            found.append(_Expected(sum(background_of(w) for w in own), per_weight, own))
        else:
            local, events = counts.n_local[place], counts.n_time[place]
            squares = counts.w2["n_local"][place] if counts.weighted else local
            flat = np.full(n, events.sum() / n)
            even = Window(flat, local, flat, squares)
            found.append(_Expected(background_of(even), per_weight, (even,), known_rate=True))
    return found


def _ratio(squares: np.ndarray, events: np.ndarray) -> np.ndarray:
    """sum w^2 / sum w of each ring, shape (ring, 1); 1 where there is none."""
    total = events.sum(axis=1, keepdims=True)
    return np.where(total > 0, squares.sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0), 1.0)


def _binned(sky: np.ndarray, bins: int) -> np.ndarray:
    return sky.sum(axis=0).reshape(bins, -1).sum(axis=1)


def _level(grid: RingGrid) -> np.ndarray:
    """cos(dec) averaged over the solid angle of each ring, shape (ring,)."""
    return np.hypot(*dipole_templates(grid)[:, :, 0]) / np.sinc(1 / grid.n_ra)


def _solver(bins: int, orders: int, exposed: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (parameter, bin) from R_b to (offset, a_1, b_1, a_2, ...), and the basis (parameter, bin)."""
    centre = (np.arange(bins) + 0.5) * 2 * np.pi / bins
    rows = [np.ones(bins)]
    for m in range(1, orders + 1):
        # Mean over the bin.
        rows += [np.sinc(m / bins) * np.cos(m * centre), np.sinc(m / bins) * np.sin(m * centre)]
    basis = np.stack(rows)
    weighted = basis * np.where(exposed, 1 / np.where(exposed, error, 1.0) ** 2, 0.0)
    design = weighted @ basis.T
    if exposed.sum() <= len(rows) or np.linalg.cond(design) > 1e10:
        raise InputError(
            f"{exposed.sum()} exposed right-ascension bins cannot tell {orders} harmonics apart: take fewer orders or "
            "more bins"
        )
    return np.linalg.solve(design, weighted), basis


def _propagate(
    parts: list[_Expected], per_event: np.ndarray, grid: RingGrid, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the parameters sum F (n - B), and their response to an equatorial dipole.

    Args:
        parts: Backgrounds.
        per_event: F in each bin, shape (parameter, bin).
        grid: The ring grid.
        bins: Number of bins.
    """
    along = np.repeat(per_event, grid.n_ra // bins, axis=1)
    functional = np.broadcast_to(along[:, None, :], (len(along), *grid.shape))
    sky = dipole_templates(grid)
    covariance, kept = np.zeros((len(along),) * 2), np.zeros((2, 2))
    for part in parts:
        if part.windows and not part.known_rate:
            covariance += sum(variance(w, functional) for w in part.windows)
            kept += sum(response(w, functional[1:3], sky) for w in part.windows)
            continue
        # A constant rate: only the ring mean of F is taken away by the local map. A known background takes nothing.
        own = functional - functional.mean(axis=2, keepdims=True) if part.known_rate else functional
        covariance += np.einsum("jra,ra,kra->jk", own, part.background * part.per_weight, own)
        kept += np.einsum("jra,ra,kra->jk", own[1:3], part.background, sky)
    return covariance, kept
