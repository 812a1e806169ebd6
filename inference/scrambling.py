r"""Time scrambling and direct integration: the background expected from the local map and the rate of the data.

Events of one time window keep their local directions, and take each other's times. On average over all permutations
the window expects $B_a = \sum_\tau n_\tau n_{(r, \tau - a)} / N$ events in right-ascension bin a of ring r, from its
own rate n_tau and local map n_i: direct integration (Atkins et al. 2003, ApJ 595, 803; Alexandreas et al. 1993,
NIM A 328, 570). A dipole also changes rate and local map, so that part of it ends up in the background; only a fraction
is left.

Every result here is a linear functional T = sum_a F_a (n_a - B_a). An event of the window at (tau, i) moves it by
$u = F_a - \bar F_\tau - \bar F_i + \bar F$, where bars are means over the events of the window at this time, in this
local cell, and altogether. So a sky 1 + Y gives T = sum u_F u_Y and the variance of T is the sum of w^2 u_F^2, both
over the product of rate and local map.
"""

import dataclasses
import math

import numpy as np
from scipy import fft

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import ring_basis

from .data import Counts
from .estimators import EquatorialEstimate, combine_estimates

DAY = 24.0


@dataclasses.dataclass(frozen=True)
class Window:
    """Rate and local map of the events of one time window.

    Attributes:
        rate: Counts, or sums of weights, of the time bins of the window, zero outside; shape (time,).
        local: Local counts of the window, shape (ring, hour_angle).
        rate_squares, local_squares: The same of squared weights.
    """

    rate: np.ndarray
    local: np.ndarray
    rate_squares: np.ndarray
    local_squares: np.ndarray


@dataclasses.dataclass(frozen=True)
class ScramblingPart(EquatorialEstimate):
    """Result of scrambling for one configuration; fields as in `ScramblingResult`."""

    label: str
    vector: np.ndarray
    covariance: np.ndarray
    raw_vector: np.ndarray
    fraction: np.ndarray
    window_fractions: np.ndarray
    counts: np.ndarray
    background: np.ndarray


@dataclasses.dataclass(frozen=True)
class ScramblingResult(EquatorialEstimate):
    """Map and dipole against the background of time scrambling.

    Attributes:
        vector: (delta_0h, delta_6h) corrected for what the method removes, shape (2,).
        covariance: Its covariance, noise of the background included, shape (2, 2).
        raw_vector: Dipole of the map as it is, shape (2,): on average `fraction` times the true one.
        fraction: What is kept of a dipole, shape (2, 2): raw = fraction @ true.
        counts: Events, or sums of weights, shape (ring, ra).
        background: Expected ones, shape (ring, ra).
        window: Length of the time window [h].
        parts: One `ScramblingPart` for each configuration. Their `window_fractions`, shape (window, 2, 2), are what
            each window adds to `fraction`.
        chi2, ndf: Agreement of the configurations, see `Combination`; 0, 0 for one.
    """

    vector: np.ndarray
    covariance: np.ndarray
    raw_vector: np.ndarray
    fraction: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    window: float
    parts: tuple[ScramblingPart, ...]
    chi2: float
    ndf: int

    @property
    def relative_intensity(self) -> np.ndarray:
        """n / B - 1, shape (ring, ra); NaN where nothing is expected."""
        return relative_intensity(self.counts, self.background)


def scramble(counts: Counts, window: float = DAY) -> ScramblingResult:
    """Relative intensity and equatorial dipole against the background of time scrambling, by direct integration.

    The dipole is the least-squares fit of cos(dec) (cos RA, sin RA), averaged over each cell, to n / B - 1 over the
    field of view, with weights B (Poisson) and a free constant in every ring, which is what removing ring means amounts
    to. It keeps `fraction` of the truth for this acceptance, rate and window: 1 - |<cos(dec) e^{-iH}>|^2 / <cos^2 dec>
    for 24 h and a constant rate. The corrected vector is the raw one divided by it; it then is the maximum of the
    likelihood with free rate and acceptance to first order, with its error.

    Windows are consecutive pieces of the sidereal day (of all days together), each with its own local map, which may
    differ from one to the next. They remove structure wider than 15 degrees per hour.

    Args:
        counts: Counts of one or several configurations. Each has its own background and fraction; corrected vectors
            are combined by inverse covariance. Maps of counts and background are sums, whose ratio is the mean of the
            relative intensities weighted with their exposures; raw vector and fraction are those of this mean.
        window: Length of the time window [h]; 24 needs the marginals only, less needs the cube.

    Raises:
        InputError: If there is no event, the window is not made of whole time bins that divide the day, the cube is
            missing, or the window leaves nothing of a dipole.
    """
    places = counts.configurations()
    if not places:
        raise InputError("scrambling needs at least one event; the counts are empty")
    parts, designs = zip(*(_one(counts, place, window) for place in places), strict=True)
    both = combine_estimates([p.vector for p in parts], [np.linalg.inv(p.covariance) for p in parts])
    total = np.linalg.inv(np.sum(designs, axis=0))
    return ScramblingResult(
        vector=both.vector,
        covariance=both.covariance,
        raw_vector=total @ sum(d @ p.raw_vector for d, p in zip(designs, parts, strict=True)),
        fraction=total @ sum(d @ p.fraction for d, p in zip(designs, parts, strict=True)),
        counts=np.sum([p.counts for p in parts], axis=0),
        background=np.sum([p.background for p in parts], axis=0),
        window=float(window),
        parts=parts,
        chi2=both.chi2,
        ndf=both.ndf,
    )


def dipole_fraction(rate: np.ndarray, acceptance: np.ndarray, grid: RingGrid, window: float = DAY) -> np.ndarray:
    """What scrambling with this window leaves of an equatorial dipole: raw = fraction @ true, shape (2, 2).

    Args:
        rate: Rate of the time bins, of any normalisation, shape (time,).
        acceptance: Acceptance of the local cells, of any normalisation, constant in time, shape (ring, hour_angle).
        grid: The ring grid.
        window: Length of the time window [h].

    Raises:
        InputError: If the window is not made of whole time bins that divide the day.
    """
    rate, acceptance = np.asarray(rate, float), np.asarray(acceptance, float)
    spans = _spans(grid.n_ra, window)
    parts = []
    for span in spans:
        inside = np.where(span, rate, 0.0)
        if inside.sum() > 0:
            local = acceptance * (inside.sum() / acceptance.sum())
            parts.append(Window(inside, local, inside, local))
    sky = dipole_templates(grid)
    design = design_matrix(sky, sum(background_of(w) for w in parts))
    return np.linalg.solve(design, sum(response(w, sky, sky) for w in parts))


def true_scrambling(
    sidereal_time: np.ndarray,
    hour_angle: np.ndarray,
    declination: np.ndarray,
    grid: RingGrid,
    copies: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Background by permuting the times among events: the Monte Carlo of which direct integration is the mean.

    Args:
        sidereal_time: Time of each event [rad], shape (event,).
        hour_angle: Hour angle [rad], shape (event,); it stays with the declination and the weight.
        declination: Of date [rad], shape (event,).
        grid: The ring grid.
        copies: How often to permute; the mean over the copies is returned.
        rng: NumPy generator.
        weights: Event weights, shape (event,); default 1.
        groups: Label of the time window of each event, shape (event,); times are permuted within a group. Default one
            group.

    Returns:
        Mean background, shape (ring, ra); its noise is that of copies times the events.

    Raises:
        InputError: If there is no event or no copy.
    """
    time = np.asarray(sidereal_time, float)
    if time.size == 0 or copies < 1:
        raise InputError(f"scrambling needs at least one event and one copy, not {time.size} and {copies}")
    w = np.ones(time.shape) if weights is None else np.asarray(weights, float)
    label = np.zeros(time.size, int) if groups is None else np.unique(groups, return_inverse=True)[1]
    # Sorted by group; a permutation within groups is another sort by (group, random number).
    place = np.argsort(label, kind="stable")
    row = grid.ring_of(np.asarray(declination))[place] * grid.n_ra
    angle, w, label = np.asarray(hour_angle, float)[place], w[place], label[place]
    total = np.zeros(grid.n_ring * grid.n_ra)
    for _ in range(copies):
        shuffled = time[place][np.lexsort((rng.random(time.size), label))]
        total += np.bincount(row + grid.bin_of(shuffled - angle), w, total.size)
    return total.reshape(grid.shape) / copies


def relative_intensity(counts: np.ndarray, background: np.ndarray) -> np.ndarray:
    """n / B - 1, NaN where the background is zero."""
    seen = background > 0
    return np.where(seen, counts / np.where(seen, background, 1.0) - 1, np.nan)


# --- Windows and the linear algebra of n - B ---------------------------------------------------------------


def windows(counts: Counts, place: tuple[int, int, int], window: float = DAY) -> list[Window]:
    """The windows of one configuration that hold events.

    Squared weights are known for the marginals only: in windows shorter than a day, each local cell has the ratio of
    squared weights to weights that it has over the whole day.

    Raises:
        InputError: If the window is not made of whole time bins that divide the day, or the cube is missing.
    """
    spans = _spans(counts.grid.n_ra, window)
    rate, local = counts.n_time[place], counts.n_local[place]
    squares = [counts.w2[name][place] for name in ("n_time", "n_local")] if counts.weighted else [rate, local]
    if len(spans) == 1:
        return [Window(rate, local, *squares)]
    cube = getattr(counts, "cube", None)
    if cube is None:
        raise InputError(
            f"a window of {window:g} h needs the counts of every time bin and local cell: bin with --cube, or use 24 h"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        per_weight = np.where(local > 0, squares[1] / local, 0.0)
    found = []
    for span in spans:
        inside = np.where(span, rate, 0.0)
        if inside.sum() > 0:
            own = cube[place][span].sum(axis=0)
            found.append(Window(inside, own, np.where(span, squares[0], 0.0), own * per_weight))
    return found


def _spans(n: int, window: float) -> list[np.ndarray]:
    """Which time bins belong to each window, boolean (time,)."""
    width = round(n * window / DAY) if 0 < window <= DAY else 0
    if width < 2 or n % width or not math.isclose(width, n * window / DAY, rel_tol=1e-9):
        shown = ", ".join(f"{DAY * k / n:g}" for k in range(n, 1, -1) if n % k == 0)
        raise InputError(
            f"a window of {window:g} h does not divide the {n} time bins of the day; choose one of {shown} h"
        )
    return [np.arange(n) // width == k for k in range(n // width)]


def background_of(window: Window) -> np.ndarray:
    """Direct integration: B_a = sum_tau n_tau n_(r, tau - a) / N of one window, shape (ring, ra)."""
    expected = _correlate(window.rate, window.local) / window.rate.sum()
    # Transforms leave rounding of either sign where there is exactly nothing.
    return np.where(expected > 1e-13 * expected.max(), expected, 0.0)


def dipole_templates(grid: RingGrid) -> np.ndarray:
    """cos(dec) cos(RA) and cos(dec) sin(RA) averaged over each cell, shape (2, ring, ra)."""
    level = ring_basis(grid, 1)[1, 1] / math.sqrt(3 / (4 * math.pi))
    return level[:, None] * np.stack([np.cos(grid.right_ascension), np.sin(grid.right_ascension)])[:, None, :]


def design_matrix(sky: np.ndarray, background: np.ndarray) -> np.ndarray:
    """sum_a B F F' with the B-weighted mean of F in each ring removed; sky (k, ring, ra) -> (k, k)."""
    ring = background.sum(axis=1, keepdims=True)
    mean = (sky * background).sum(axis=2, keepdims=True) / np.where(ring > 0, ring, 1.0)
    off = sky - mean
    return np.einsum("jra,ra,kra->jk", off, background, off)


def response(window: Window, functional: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """What T = sum F (n - B) is for skies 1 + Y, to first order: sum of u_F u_Y.

    Args:
        window: Rate and local map.
        functional: F, shape (j, ring, ra).
        sky: Y, shape (k, ring, ra).

    Returns:
        Shape (j, k).
    """
    return _second_moment(_centred(functional, window), _centred(sky, window), window.rate, window.local)


def variance(window: Window, functional: np.ndarray) -> np.ndarray:
    """Covariance of T = sum F (n - B): sum of w^2 u_F u_F'; functional (j, ring, ra) -> (j, j)."""
    u = _centred(functional, window)
    return _second_moment(u, u, window.rate_squares, window.local_squares)


def _centred(sky: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u = sky[a] + along_time[tau] + along_local[i]: shapes (k, ring, ra), (k, time), (k, ring, hour_angle)."""
    rate, local = window.rate / window.rate.sum(), window.local / window.local.sum()
    at_time = _rate_seen(local, sky)
    in_cell = _correlate(rate, sky)
    return sky, -at_time, (at_time @ rate)[:, None, None] - in_cell


def _second_moment(one, two, rate: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Sum of u u' over the events, distributed as the product of rate and local map; (j, k)."""
    (sky, time, cell), (sky2, time2, cell2) = one, two
    total = local.sum()
    r, l = rate / rate.sum(), local / total
    exposed = _correlate(r, l)
    same = np.einsum("jra,ra,kra->jk", sky, exposed, sky2) + (time * r) @ time2.T
    same += np.einsum("jrh,rh,krh->jk", cell, l, cell2)
    cross = _rate_seen(l, sky) * r @ time2.T + time * r @ _rate_seen(l, sky2).T
    cross += np.einsum("jrh,rh,krh->jk", _correlate(r, sky), l, cell2)
    cross += np.einsum("jrh,rh,krh->jk", cell, l, _correlate(r, sky2))
    cross += np.outer(time @ r, (cell2 * l).sum((1, 2))) + np.outer((cell * l).sum((1, 2)), time2 @ r)
    return total * (same + cross)


def _correlate(rate: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Sum over tau of rate[tau] sky[..., (tau - h) mod n]; as `diffcr.grid.correlate`, in NumPy."""
    return fft.irfft(fft.rfft(rate) * np.conj(fft.rfft(sky, axis=-1)), n=rate.shape[-1], axis=-1)


def _rate_seen(local: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Sum over (ring, h) of local[r, h] sky[k, r, (tau - h) mod n], shape (k, time)."""
    modes = np.einsum("rm,krm->km", fft.rfft(local, axis=-1), fft.rfft(sky, axis=-1))
    return fft.irfft(modes, n=sky.shape[-1], axis=-1)


def _one(counts: Counts, place: tuple[int, int, int], window: float) -> tuple[ScramblingPart, np.ndarray]:
    """Result of one configuration, and its design matrix."""
    parts = windows(counts, place, window)
    sky, seen = dipole_templates(counts.grid), counts.n_sky[place]
    background = sum(background_of(w) for w in parts)
    design = design_matrix(sky, background)
    each = np.stack([response(w, sky, sky) for w in parts])
    kept = each.sum(axis=0)
    if not np.linalg.eigvalsh(kept)[0] > 1e-9 * np.linalg.eigvalsh(design)[-1]:
        raise InputError(
            f"scrambling within {window:g} h leaves nothing of a dipole for {counts.label(place)}: take a longer "
            "window, or join more of the day"
        )
    inverse = np.linalg.inv(kept)
    signal = np.einsum("kra,ra->k", sky, seen - background)
    part = ScramblingPart(
        label=counts.label(place),
        vector=inverse @ signal,
        covariance=inverse @ sum(variance(w, sky) for w in parts) @ inverse,
        raw_vector=np.linalg.solve(design, signal),
        fraction=np.linalg.solve(design, kept),
        window_fractions=np.linalg.solve(design, each),
        counts=seen,
        background=background,
    )
    return part, design
