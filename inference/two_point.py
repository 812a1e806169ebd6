r"""Two-point correlation of the relative intensity on the ring grid, and pair counts of event lists.

$$ \xi(\eta) = \frac{\sum W_a W_b f_a f_b}{\sum W_a W_b} \quad \text{over pairs of cells at separation } \eta, \qquad
   \xi(\eta) = \frac{1}{4\pi} \sum_l (2l+1) C_l P_l(\cos\eta) . $$

Cells of two rings a fixed number of bins apart all have one separation, so the sums over pairs are circular
correlations of rings: an FFT for each pair of rings and no loop over pairs of cells. The noise of a cell correlates
with itself, and with its ring where ring means are removed: both are subtracted.

The sum over l holds for the whole sky. Where the mean of every ring is removed, m = 0 is missing from xi, by an amount
that depends on the field of view: C_l of a cut sky come from `pseudo_power` or `power`, not from an inversion of xi.
"""

import dataclasses
import math

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import ROUNDING, RingGrid


@dataclasses.dataclass(frozen=True)
class TwoPoint:
    """Correlation of a map in bins of separation.

    Attributes:
        edges: Of the bins of separation [rad], shape (bin + 1,).
        xi: Correlation, noise subtracted, dimensionless; NaN in bins without pairs. Shape (bin,).
        error: Standard error under isotropy, of independent noise in the cells, less what the removal of ring means
            takes where weight and noise depend on declination only; shape (bin,).
        noise: What noise was expected to add to xi, and was subtracted, shape (bin,).
        pairs: Sum of the weights of the pairs over that of all pairs, shape (bin,).
        variance: xi at zero separation: mean square of the map minus that of the noise.
    """

    edges: np.ndarray
    xi: np.ndarray
    error: np.ndarray
    noise: np.ndarray
    pairs: np.ndarray
    variance: float

    @property
    def separation(self) -> np.ndarray:
        """Centres of the bins [rad], shape (bin,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2


def two_point(
    sky: np.ndarray,
    grid: RingGrid,
    edges: np.ndarray,
    weight: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    remove_ring_means: bool = True,
) -> TwoPoint:
    """Correlation of a map of relative intensity with itself; a second or two on the default grid.

    Separations are those of the cell centres: bins should not be narrower than the cells. Pairs of a cell with itself
    enter `variance` only.

    Args:
        sky: Relative intensity minus any constant, shape (ring, ra).
        grid: The ring grid.
        edges: Rising edges of the bins of separation [rad], within 0 to pi; the upper edge of a bin is excluded,
            except at pi.
        weight: W >= 0 per solid angle, shape (ring, ra) or (ring,), zero outside the field of view. Default 1.
        variance: Noise variance of each cell, shape (ring, ra) or (ring,). Default 0.
        remove_ring_means: Remove the weighted mean of each ring first, and account for it in the noise. Without, the
            map is taken as it is.

    Raises:
        InputError: If shapes or edges do not fit, weight or variance is negative or not finite, nothing is exposed, or
            the sky is not finite where exposed.
    """
    edges = _edges(edges)
    weight, variance = _weight(grid, weight), _cells(grid, 0.0 if variance is None else variance, "variance")
    inside = weight > 0
    if sky.shape != grid.shape or not np.all(np.isfinite(sky[inside])):
        raise InputError(
            f"the sky map must have shape {grid.shape} and be finite where the weight is positive; set the weight of "
            "other cells to zero"
        )
    field = np.where(inside, sky, 0.0)
    loud = weight**2 * variance
    total = weight.sum(axis=1, keepdims=True)
    safe = np.where(total > 0, total, 1.0)
    if remove_ring_means:
        field = field - (weight * field).sum(axis=1, keepdims=True) / safe
    along = _noise_along_rings(weight, loud, safe) if remove_ring_means else np.zeros(grid.shape)
    separations = _Separations(grid, edges)
    signal, pairs, independent = separations.sums(np.stack([weight * field, weight, loud]))
    noise = separations.along_rings(along)
    scatter = 2 * independent
    if remove_ring_means:
        # The ring means carry this part of the scatter: sum over rings of (pairs)^2 and the variances of two means.
        scatter -= 2 * separations.squared_ring_pairs(weight, loud.sum(axis=1) / safe[:, 0] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        xi, noise = (signal - noise) / pairs, noise / pairs
        error = np.sqrt(np.maximum(scatter, 0.0)) / pairs
    squares = float(np.sum((weight * field) ** 2) - loud.sum() - along[:, 0].sum())
    return TwoPoint(edges, xi, error, noise, pairs / weight.sum() ** 2, squares / float(np.sum(weight**2)))


def isotropic_draws(
    background: np.ndarray,
    grid: RingGrid,
    edges: np.ndarray,
    weight: np.ndarray | None = None,
    draws: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """Correlations of isotropic Poisson skies n / B - 1, ring means removed, noise subtracted, shape (draw, bin).

    Their quantiles are the isotropic band; their covariance holds for the map's own.

    Args:
        background: Expected counts B per cell under isotropy, shape (ring, ra); cells with none get no weight.
        grid: The ring grid.
        edges, weight: As for `two_point`.
        draws: Number of skies; each costs up to a second on the default grid.
        seed: Of the random numbers.
    """
    edges = _edges(edges)
    expected = _cells(grid, background, "background")
    seen = expected > 0
    weight = _weight(grid, weight) * seen
    filled = np.where(seen, expected, 1.0)
    total = weight.sum(axis=1, keepdims=True)
    safe = np.where(total > 0, total, 1.0)
    separations = _Separations(grid, edges)
    noise = separations.along_rings(_noise_along_rings(weight, weight**2 / filled, safe))
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(draws):
        field = rng.poisson(expected) / filled - 1
        field -= (weight * field).sum(axis=1, keepdims=True) / safe
        out.append(separations.sums((weight * field)[None])[0] - noise)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array(out) / separations.sums(weight[None])[0]


def legendre_means(edges: np.ndarray, l_max: int) -> np.ndarray:
    """Mean of P_l(cos eta) over the solid angle of each bin of separation, l = 1 .. l_max, shape (bin, l)."""
    cosine = np.cos(_edges(edges))
    values = np.polynomial.legendre.legvander(cosine, l_max + 1)
    l = np.arange(1, l_max + 1)
    # (2 l + 1) P_l is the derivative of P_{l+1} - P_{l-1}.
    primitive = (values[:, 2:] - values[:, :-2]) / (2 * l + 1)
    return np.diff(primitive, axis=0) / np.diff(cosine)[:, None]


def two_point_of_power(power: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """xi of a full sky of power C_l, l = 1 .. l_max, averaged over the solid angle of each bin, shape (bin,)."""
    l = np.arange(1, len(power) + 1)
    return legendre_means(edges, len(power)) @ ((2 * l + 1) * np.asarray(power, float)) / (4 * math.pi)


def power_of_two_point(
    xi: np.ndarray, edges: np.ndarray, l_max: int, error: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """C_l, l = 1 .. l_max, and their covariance, from the binned xi of a full sky without monopole.

    Least squares of the binned sum over l: exact for a field without power above l_max, and with bins as fine as
    1 / l_max the integral 2 pi int xi P_l d cos(eta).

    Args:
        xi: Shape (bin,), finite.
        edges: Of the bins [rad].
        l_max: Highest degree, at most the number of bins.
        error: Independent errors of xi. Default: equal errors per solid angle; the covariance is then in units of
            the square of the error of a bin as wide as the whole sky.

    Raises:
        InputError: If there are too few bins, or they do not determine the C_l.
    """
    edges = _edges(edges)
    if xi.shape != (len(edges) - 1,) or not np.all(np.isfinite(xi)):
        raise InputError(
            f"xi must hold one finite value for each of the {len(edges) - 1} bins; widen bins without pairs"
        )
    l = np.arange(1, l_max + 1)
    design = legendre_means(edges, l_max) * (2 * l + 1) / (4 * math.pi)
    share = -np.diff(np.cos(edges)) / 2
    scale = np.sqrt(share) if error is None else 1 / np.asarray(error, float)
    scaled = design * scale[:, None]
    if l_max > len(xi) or np.linalg.cond(scaled) > 1e8:
        raise InputError(
            f"{len(xi)} bins between {np.degrees(edges[0]):.3g} and {np.degrees(edges[-1]):.3g} degrees do not "
            f"determine C_l to l = {l_max}; use finer bins over the whole range, or a smaller l_max"
        )
    inverse = np.linalg.pinv(scaled)
    return inverse @ (scale * xi), inverse @ inverse.T


def pair_counts(right_ascension: np.ndarray, declination: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of pairs of events in bins of separation, each pair once; lists of up to about 1e5 events.

    Args:
        right_ascension, declination: [rad], shape (event,).
        edges: Rising edges [rad] within 0 to pi; the lower edge of a bin is excluded, except at 0.
    """
    from scipy.spatial import cKDTree

    edges = _edges(edges)
    level = np.cos(declination)
    vectors = np.stack([level * np.cos(right_ascension), level * np.sin(right_ascension), np.sin(declination)], axis=-1)
    tree = cKDTree(vectors)
    # Chords 2 sin(eta / 2), with a hair more so that rounding loses no pair at the upper edge.
    within = (tree.count_neighbors(tree, 2 * np.sin(edges / 2) + 1e-12) - len(vectors)) // 2
    if edges[0] == 0:
        within[0] = 0
    return np.diff(within)


def expected_pairs(exposure: np.ndarray, grid: RingGrid, number: int, edges: np.ndarray) -> np.ndarray:
    """Mean number of pairs among `number` isotropic events, shape (bin,).

    Args:
        exposure: Relative exposure of each cell (with its solid angle), such as the expected counts; (ring, ra).
        grid: The ring grid.
        number: Number of events.
        edges: As for `pair_counts`; bins at least two cells wide (coarse cells are split into about 1 degree), as
            separations are those of cell centres: good to a few per cent in the narrowest bins, and better in wider.

    Raises:
        InputError: If bins are narrower, or the exposure is not of the grid, negative or zero everywhere.
    """
    edges, exposure = _edges(edges), _exposure(grid, exposure)
    grid, exposure = _refined(grid, exposure)
    cell = max(grid.step, math.pi / grid.n_ring)
    if np.diff(edges).min() < 2 * cell * (1 - ROUNDING):
        raise InputError(
            f"bins of separation must be at least {np.degrees(2 * cell):.3g} degrees wide here, not "
            f"{np.degrees(np.diff(edges).min()):.3g}; use wider bins, or isotropic_pairs"
        )
    sums = _Separations(grid, edges).sums(exposure[None])[0]
    if edges[0] == 0:
        sums[0] += np.sum(exposure**2)
    return number * (number - 1) / 2 * sums / exposure.sum() ** 2


def isotropic_pairs(
    exposure: np.ndarray, grid: RingGrid, number: int, edges: np.ndarray, draws: int = 100, seed: int = 0
) -> np.ndarray:
    """Pair counts of lists of `number` isotropic events, shape (draw, bin): mean, covariance and p-values at any scale.

    Args:
        exposure: Relative exposure of each cell; even within a cell. Shape (ring, ra).
        grid, number, edges: As for `expected_pairs`, with bins as narrow as you like.
        draws: Number of lists.
        seed: Of the random numbers.
    """
    exposure, rng = _exposure(grid, exposure), np.random.default_rng(seed)
    sines = np.sin(grid.declination_edges)
    out = []
    for _ in range(draws):
        cell = rng.choice(exposure.size, number, p=exposure.ravel() / exposure.sum())
        ring, column = cell // grid.n_ra, cell % grid.n_ra
        sine = sines[ring] + rng.uniform(size=number) * (sines[ring + 1] - sines[ring])
        out.append(pair_counts((column + rng.uniform(size=number)) * grid.step, np.arcsin(sine), edges))
    return np.array(out)


class _Separations:
    """Which bin of separation each pair of rings and offset in right ascension falls in."""

    def __init__(self, grid: RingGrid, edges: np.ndarray):
        self.bins = len(edges) - 1
        self.shape = grid.shape
        dec, offset = grid.declination, np.arange(grid.n_ra) * grid.step
        upper = np.where(edges >= math.pi - ROUNDING, np.inf, edges)
        self.index = []
        for r in range(grid.n_ring):
            rise = np.sin((dec[r:] - dec[r]) / 2) ** 2
            square = rise[:, None] + np.outer(np.cos(dec[r]) * np.cos(dec[r:]), np.sin(offset / 2) ** 2)
            eta = 2 * np.arcsin(np.sqrt(np.minimum(square, 1.0)))
            place = np.searchsorted(upper, eta + ROUNDING * grid.step, side="right") - 1
            place[(place < 0) | (place >= self.bins)] = self.bins  # outside all bins
            place[0, 0] = self.bins  # a cell with itself
            self.index.append(place.astype(np.int32))

    def sums(self, maps: np.ndarray) -> np.ndarray:
        """Sum of f_a f_b over ordered pairs of different cells in each bin, for maps (map, ring, ra): (map, bin)."""
        n_ring, n = self.shape
        modes = np.fft.rfft(maps, axis=-1)
        out = np.zeros((len(maps), self.bins + 1))
        for r in range(n_ring):
            pairs = np.fft.irfft(np.conj(modes[:, r, None]) * modes[:, r:], n=n, axis=-1)
            pairs[:, 1:] *= 2  # rings r, r' and r', r
            for k, values in enumerate(pairs):
                out[k] += np.bincount(self.index[r].ravel(), values.ravel(), self.bins + 1)
        return out[:, :-1]

    def squared_ring_pairs(self, weight: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Sum over pairs of rings of v_r v_r' (sum W_a W_b in the bin)^2, shape (bin,)."""
        n_ring, n = self.shape
        modes = np.fft.rfft(weight, axis=-1)
        out = np.zeros(self.bins + 1)
        for r in range(n_ring):
            pairs = np.fft.irfft(np.conj(modes[r]) * modes[r:], n=n, axis=-1)
            rows = self.index[r] + (self.bins + 1) * np.arange(n_ring - r)[:, None]
            sums = np.bincount(rows.ravel(), pairs.ravel(), (n_ring - r) * (self.bins + 1)).reshape(n_ring - r, -1)
            both = np.where(np.arange(n_ring - r) > 0, 2, 1) * variance[r] * variance[r:]
            out += both @ sums**2
        return out[:-1]

    def along_rings(self, values: np.ndarray) -> np.ndarray:
        """Sum over the bins of a function of offset within each ring, shape (ring, offset)."""
        out = np.zeros(self.bins + 1)
        for row, index in zip(values, self.index, strict=True):
            out += np.bincount(index[0], row, self.bins + 1)
        return out[:-1]


def _noise_along_rings(weight: np.ndarray, loud: np.ndarray, total: np.ndarray) -> np.ndarray:
    """What the removal of ring means adds to sum_a W_a W_b <f_a f_b>, b = a + offset, shape (ring, offset).

    With f = n - sum W n / sum W: -(W_a v_a + W_b v_b) / sum W + sum W^2 v / (sum W)^2; `loud` is W^2 v.
    """
    w, v = np.fft.rfft(weight, axis=1), np.fft.rfft(loud, axis=1)
    cross = -2 * (np.conj(w) * v).real / total
    return np.fft.irfft(cross + np.abs(w) ** 2 * loud.sum(axis=1, keepdims=True) / total**2, n=weight.shape[1], axis=1)


def _edges(edges: np.ndarray) -> np.ndarray:
    edges = np.asarray(edges, float)
    if (
        edges.ndim != 1
        or len(edges) < 2
        or not np.all(np.diff(edges) > 0)
        or edges[0] < 0
        or edges[-1] > math.pi + 1e-9
    ):
        raise InputError("the edges of the bins of separation must rise within 0 to pi radians; convert from degrees")
    return np.minimum(edges, math.pi)


def _weight(grid: RingGrid, weight: np.ndarray | None) -> np.ndarray:
    """Weight of each cell, its solid angle included."""
    out = _cells(grid, 1.0 if weight is None else weight, "weight") * grid.solid_angle[:, None]
    if not out.any():
        raise InputError("the weight is zero everywhere: no cell is exposed; check the field of view")
    return out


def _cells(grid: RingGrid, values, name: str) -> np.ndarray:
    """Values of every cell, (ring, ra), checked."""
    values = np.asarray(values, float)
    values = values[:, None] if values.shape == (grid.n_ring,) else values
    if values.shape not in ((), (grid.n_ring, 1), grid.shape):
        raise InputError(f"the {name} has shape {values.shape}, the grid needs {grid.shape} or {(grid.n_ring,)}")
    values = np.broadcast_to(values, grid.shape)
    if not np.all(np.isfinite(values)) or values.min() < 0:
        raise InputError(f"the {name} is negative or not finite somewhere; set it to zero where there are no data")
    return values


def _exposure(grid: RingGrid, exposure: np.ndarray) -> np.ndarray:
    exposure = _cells(grid, exposure, "exposure")
    if not exposure.any():
        raise InputError("the exposure is zero everywhere: no pairs are expected; check the field of view")
    return exposure


def _refined(grid: RingGrid, exposure: np.ndarray) -> tuple[RingGrid, np.ndarray]:
    """The exposure on cells of about 1 degree, even within the given ones."""
    k = max(1, 180 // max(grid.n_ring, grid.n_ra // 2))
    fine = RingGrid(grid.n_ring * k, grid.n_ra * k)
    share = fine.solid_angle / np.repeat(grid.solid_angle, k)
    return fine, np.repeat(np.repeat(exposure, k, axis=0), k, axis=1) * share[:, None]
