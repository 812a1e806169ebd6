r"""Pseudo-C_l of a cut sky whose ring means were removed, decoupled with the coupling over m != 0 only.

A map d of relative intensity is multiplied by a weight W (a field of view, or the exposure) after its W-weighted
mean along every ring was subtracted: no detector fixed to the Earth sees these means. Both steps together are a
symmetric matrix in each ring, so the pseudo-multipoles are a = K s with

$$ K_{pq} = \sum_r \Omega_r \Big[ \sum_a W R_p R_q - \frac{\sum_a W R_p \, \sum_a W R_q}{\sum_a W} \Big], \qquad
   M_{ll'} = \frac{1}{2l+1} \sum_{m \ne 0} \sum_{m' \ne 0} K_{lm,l'm'}^2 , $$

R the real harmonics averaged over the cells. For an isotropic field <pseudo-C_l> = sum_l' M_ll' C_l' + N_l, exactly:
the removal, the cells and the unequal solid angles are all in K. (MASTER, Hivon et al. 2002, ApJ 567, 2, times
2l/(2l+1) is not: on a cut sky the removal also takes what leaked from m = 0.)

What this does *not* correct: a map n / B - 1 whose background B comes from the same data, by time scrambling, by direct
integration or by too few iterations, has lost part of its low multipoles before it comes here (of the dipole 73 % for
HAWC, 47 % for Auger, none at a pole), and part of their noise. A map fitted together with the acceptance of one
mid-latitude site has lost nothing, but has large correlated noise at low l. A known fraction kept per m or per (l, m)
is divided out (`transfer`); everything else needs the likelihood (`power`).

Power above l_max is taken as zero and leaks in: choose l_max well above the l of interest.
"""

import dataclasses

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import ring_basis

from .multipoles import free_multipoles


@dataclasses.dataclass(frozen=True)
class Rings:
    """Cells on rings of equal declination: what a ring grid and a HEALPix map have in common.

    Cells are numbered along one axis, ring by ring, eastwards.

    Attributes:
        profile: R_lm is profile[l, m, ring] times cos(m RA), R_l,-m the same times sin(m RA), zero where m > l; shape
            (l_max + 1, l_max + 1, ring).
        sizes: Number of cells of each ring, shape (ring,).
        first: Right ascension of the centre of the first cell of each ring [rad], shape (ring,).
        area: Solid angle of one cell of each ring [sr], shape (ring,).
    """

    profile: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    area: np.ndarray

    @property
    def l_max(self) -> int:
        """Highest degree."""
        return len(self.profile) - 1

    @property
    def starts(self) -> np.ndarray:
        """Number of the first cell of each ring, shape (ring,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def sums(self, values: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums over each ring of values times cos(k RA) and sin(k RA), k = 0 .. highest.

        Args:
            values: Shape (..., cell).
            highest: Largest k; it may exceed what the ring resolves.

        Returns:
            Cosine and sine sums, each of shape (..., highest + 1, ring).
        """
        orders = np.arange(highest + 1)
        out = np.empty((*values.shape[:-1], highest + 1, len(self.sizes)), complex)
        for size in np.unique(self.sizes):
            rings = np.flatnonzero(self.sizes == size)
            cells = self.starts[rings][:, None] + np.arange(size)
            modes = np.fft.fft(values[..., cells], axis=-1)[..., orders % size]
            turn = np.exp(-1j * orders * self.first[rings][:, None])
            out[..., rings] = np.swapaxes(modes * turn, -1, -2)
        return out.real, -out.imag

    def ring_sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of the values (..., cell) over each ring, shape (..., ring)."""
        return np.add.reduceat(values, self.starts, axis=-1)


def grid_rings(grid: RingGrid, l_max: int) -> Rings:
    """The rings of a ring grid, with harmonics averaged over each cell.

    Raises:
        InputError: If l_max is below 1 or not resolved by the grid.
    """
    if l_max < 1 or 2 * l_max >= min(grid.shape):
        raise InputError(
            f"l_max = {l_max} must be at least 1 and below half the {min(grid.shape)} rings or cells of a grid of "
            f"{grid}; choose another l_max or a finer grid"
        )
    n_ring, n_ra = grid.shape
    first = np.full(n_ring, grid.step / 2)
    return Rings(ring_basis(grid, l_max), np.full(n_ring, n_ra), first, grid.solid_angle)


def healpix_rings(nside: int, l_max: int, pixel_window: np.ndarray | None = None) -> Rings:
    """The rings of a HEALPix map in RING order (longitude is right ascension, latitude declination).

    Args:
        nside: Of the map.
        l_max: Highest degree, at most nside: beyond it the coarse rings about the poles couple what they should not.
        pixel_window: Window of the pixels, shape (l_max + 1,) (`healpy.pixwin`); default 1, maps of point values.

    Raises:
        InputError: If l_max or the window does not fit.
    """
    import healpy
    from scipy.special import sph_legendre_p_all

    if not 1 <= l_max <= nside:
        raise InputError(f"l_max = {l_max} must be from 1 to nside = {nside}; choose another l_max or a finer map")
    window = np.ones(l_max + 1) if pixel_window is None else np.asarray(pixel_window, float)[: l_max + 1]
    if window.shape != (l_max + 1,):
        raise InputError(f"pixel_window must hold l = 0 to {l_max}, not {len(window)} values; extend it to l_max")
    start, sizes, cosine, _, _ = healpy.ringinfo(nside, np.arange(1, 4 * nside))
    first = healpy.pix2ang(nside, start)[1]
    orders = np.arange(l_max + 1)
    values = sph_legendre_p_all(l_max, l_max, np.arccos(cosine))[0][:, : l_max + 1]
    norm = np.where(orders == 0, 1.0, (-1.0) ** orders * np.sqrt(2))
    profile = values * norm[:, None] * window[:, None, None]
    return Rings(profile, sizes.astype(int), first, np.full(len(sizes), healpy.nside2pixarea(nside)))


def ring_products(profile: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Matrix of sum_cells W R_p R_q over all pairs of m != 0 harmonics, from the Fourier sums of W along the rings.

    Args:
        profile: As in `Rings`, shape (l_max + 1, l_max + 1, ring).
        cosine: Sums over the ring of W cos(k RA), k = 0 .. 2 l_max, shape (2 l_max + 1, ring).
        sine: The same of W sin(k RA).

    Returns:
        Symmetric matrix (param, param) in the order of `free_multipoles`.
    """
    l_max = len(profile) - 1
    out = np.empty((l_max * (l_max + 1),) * 2)
    for m in range(1, l_max + 1):
        left = profile[m:, m]
        for k in range(m, l_max + 1):
            right = profile[k:, k].T
            kernels = {
                (m, k): cosine[k - m] + cosine[k + m],
                (-m, -k): cosine[k - m] - cosine[k + m],
                (m, -k): sine[k + m] + sine[k - m],
                (-m, k): sine[k + m] - sine[k - m],
            }
            for (one, two), kernel in kernels.items():
                block = (left * (kernel / 2)) @ right
                rows, columns = multipoles_of_order(l_max, one), multipoles_of_order(l_max, two)
                out[rows[:, None], columns] = block
                out[columns[:, None], rows] = block.T
    return out


def multipoles_of_order(l_max: int, order: int) -> np.ndarray:
    """Places of the multipoles l = |m| .. l_max of one order m != 0 in the order of `free_multipoles`."""
    l = np.arange(abs(order), l_max + 1)
    return l * l + order - (order > 0)


def sum_by_degree(values: np.ndarray, l_max: int, axis: int = -1) -> np.ndarray:
    """Sum over m != 0 of an array over multipoles, giving l = 1 .. l_max along that axis."""
    l = np.arange(1, l_max + 1)
    return np.add.reduceat(values, l * (l - 1), axis=axis)


@dataclasses.dataclass(frozen=True)
class Block:
    """Multipoles that the weight couples to each other but to no others.

    Attributes:
        place: Their places in the order of `free_multipoles`, shape (param,).
        kernel: K among them, columns times the fraction of the signal that the map has kept.
        noise: Covariance of their pseudo-multipoles from the noise of the cells.
    """

    place: np.ndarray
    kernel: np.ndarray
    noise: np.ndarray


@dataclasses.dataclass(frozen=True)
class CutSky:
    """How a weight map, with ring means removed, turns C_l and the noise of the cells into pseudo-C_l.

    All spectra run over l = 1 .. l_max and are (sum over m != 0) / (2 l + 1) for pseudo-C_l, and the variance of one
    multipole for C_l.

    Attributes:
        l: 1 .. l_max, shape (l,).
        rings: The cells and the harmonics on them.
        weight: W of each cell, shape (cell,).
        variance: Noise variance of each cell of the map, shape (cell,); zero where the weight is.
        blocks: The coupled multipoles.
        coupling: M, shape (l, l').
        noise: Mean pseudo-C_l of the noise, shape (l,).
    """

    l: np.ndarray
    rings: Rings
    weight: np.ndarray
    variance: np.ndarray
    blocks: tuple[Block, ...]
    coupling: np.ndarray
    noise: np.ndarray

    @property
    def l_max(self) -> int:
        """Highest degree."""
        return self.rings.l_max

    @property
    def condition(self) -> float:
        """Condition number of the coupling matrix: large where the cut sky cannot tell neighbouring l apart."""
        return float(np.linalg.cond(self.coupling))


def cut_sky(
    rings: Rings,
    weight: np.ndarray,
    variance: np.ndarray | None = None,
    transfer: np.ndarray | None = None,
) -> CutSky:
    """Coupling and noise of a weight map. Fast where weight and variance depend on the declination alone.

    Args:
        rings: From `grid_rings` or `healpix_rings`.
        weight: W >= 0 of each cell, zero outside the field of view: shape (cell,), (ring, ra), or one value for
            each ring, shape (ring,).
        variance: Noise variance of each cell of the relative intensity (`poisson_variance`), same shapes; default 0.
        transfer: Fraction of each multipole that the making of the map has kept: one value for each m = 0 .. l_max, or
            (l, m) of shape (l_max + 1, l_max + 1). Entries of m = 0 are not used. Default 1.

    Raises:
        InputError: If a shape does not fit, a value is negative or not finite, nothing is exposed, or no fraction of a
            multipole was kept.
    """
    weight = _cells(rings, weight, "weight")
    if not weight.any():
        raise InputError("the weight is zero everywhere: no cell is exposed; check the field of view")
    variance = np.zeros_like(weight) if variance is None else variance
    variance = _cells(rings, variance, "variance", np.asarray(weight > 0))
    kept = _kept(rings.l_max, transfer)
    level, even = _level(rings, weight, variance)
    blocks = _level_blocks(rings, *level) if even else (_whole_block(rings, weight, variance),)
    blocks = tuple(Block(b.place, b.kernel * kept[b.place], b.noise) for b in blocks)
    params = rings.l_max * (rings.l_max + 1)
    noise, coupling = np.zeros(params), np.zeros((rings.l_max, rings.l_max))
    for b in blocks:
        noise[b.place] = np.diag(b.noise)
        coupling += _by_degrees(b, b.kernel**2, rings.l_max)
    number = 2 * np.arange(1, rings.l_max + 1) + 1
    return CutSky(
        np.arange(1, rings.l_max + 1),
        rings,
        weight,
        variance,
        blocks,
        coupling / number[:, None],
        sum_by_degree(noise, rings.l_max) / number,
    )


def poisson_variance(background: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
    """Noise variance of n / B - 1: 1 / B, or (sum of squared weights) / B^2; zero where B is zero.

    With unit weights and cells of one size the pseudo-C_l of this noise is 4 pi / N_pix^2 sum 1 / B, before ring
    means are removed.

    Args:
        background: Expected (weighted) counts B per cell under isotropy.
        squares: Expected sums of squared weights per cell, for weighted events.
    """
    squares = background if squares is None else squares
    return np.where(background > 0, squares / np.where(background > 0, background, 1.0) ** 2, 0.0)


def remove_ring_means(rings: Rings, sky: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The map minus its weighted mean along each ring, zero where the weight is zero; shape (..., cell)."""
    weight = _cells(rings, weight, "weight")
    flat = _flat(rings, sky)
    inside = weight > 0
    if not np.all(np.isfinite(flat[..., inside])):
        bad = int(np.sum(~np.isfinite(flat[..., inside])))
        raise InputError(f"the sky map is not finite in {bad} cells of positive weight; set their weight to zero")
    flat = np.where(inside, flat, 0.0)
    total = rings.ring_sums(weight)
    mean = rings.ring_sums(flat * weight) / np.where(total > 0, total, 1.0)
    return np.where(inside, flat - np.repeat(mean, rings.sizes, axis=-1), 0.0)


def pseudo_multipoles(sky: np.ndarray, cut: CutSky) -> np.ndarray:
    """Multipoles (..., param), m != 0 in the order of `free_multipoles`, of the weighted map without ring means.

    Args:
        sky: Relative intensity minus any constant, shape (..., cell) or (..., ring, ra); NaN allowed where W = 0.
        cut: From `cut_sky`.
    """
    rings, l_max = cut.rings, cut.l_max
    cosine, sine = rings.sums(remove_ring_means(rings, sky, cut.weight) * cut.weight, l_max)
    out = np.empty((*cosine.shape[:-2], l_max * (l_max + 1)))
    for m in range(1, l_max + 1):
        table = (rings.profile[m:, m] * rings.area).T
        out[..., multipoles_of_order(l_max, m)] = cosine[..., m, :] @ table
        out[..., multipoles_of_order(l_max, -m)] = sine[..., m, :] @ table
    return out


def pseudo_power(sky: np.ndarray, cut: CutSky) -> np.ndarray:
    """Pseudo-C_l, (sum over m != 0 of a_lm^2) / (2 l + 1), noise included; shape (..., l) for l = 1 .. l_max."""
    return sum_by_degree(pseudo_multipoles(sky, cut) ** 2, cut.l_max) / (2 * cut.l + 1)


def pseudo_covariance(cut: CutSky, power: np.ndarray | None = None) -> np.ndarray:
    """Covariance (l, l') of the pseudo-C_l of a Gaussian sky of C_l, l = 1 .. l_max (default none), and the noise."""
    power = np.zeros(cut.l_max) if power is None else _power(cut, power)
    degree, _ = free_multipoles(cut.l_max)
    out = np.zeros((cut.l_max, cut.l_max))
    for b in cut.blocks:
        total = (b.kernel * power[degree[b.place] - 1]) @ b.kernel.T + b.noise
        out += 2 * _by_degrees(b, total**2, cut.l_max)
    number = 2 * cut.l + 1
    return out / number[:, None] / number


@dataclasses.dataclass(frozen=True)
class DecoupledPower:
    """C_l of a cut sky, freed of coupling and noise.

    Attributes:
        low, high: First and last l of each bin, shape (bin,).
        power: Estimate of the mean C_l of each bin, weighted with 2 l + 1, shape (..., bin).
        covariance: Of the estimate, for a Gaussian sky of the power it was asked for and the noise, (bin, bin).
        noise: Noise power that was subtracted, after decoupling, shape (bin,).
        window: What the estimate means: its mean is window @ C_l, shape (bin, l), l = 1 .. l_max.
    """

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    window: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Standard error of each bin, shape (bin,)."""
        return np.sqrt(np.diag(self.covariance))


def decoupled_power(
    sky: np.ndarray,
    cut: CutSky,
    bins: list[tuple[int, int]] | None = None,
    power: np.ndarray | None = None,
    shape: np.ndarray | None = None,
) -> DecoupledPower:
    """C_l = M^-1 (pseudo-C_l - N_l), for every l or in bins of l, unbiased for isotropic fields up to l_max.

    A field of view that spans an angle t cannot tell l apart within about 180 degrees / t: narrow ones need bins. In
    bins the estimate is unbiased where C_l follows `shape` within each, and `window` says what it means elsewhere.

    Args:
        sky: Relative intensity minus any constant, shape (..., cell) or (..., ring, ra).
        cut: From `cut_sky`.
        bins: First and last l of each bin, both included, without overlap; default every l from 1 to l_max.
        power: C_l, l = 1 .. l_max, for which the covariance holds; default none, the covariance of noise alone.
        shape: Positive C_l, l = 1 .. l_max, of any scale, to which the true one is proportional within each bin; the
            estimate is C_l at the bin's mean of this shape, weighted with 2 l + 1. Default constant.

    Raises:
        InputError: If the coupling cannot be inverted, or bins, power or shape do not fit.
    """
    low, high, matrix = _decoupling(cut, bins, shape)
    return DecoupledPower(
        low,
        high,
        (pseudo_power(sky, cut) - cut.noise) @ matrix.T,
        matrix @ pseudo_covariance(cut, power) @ matrix.T,
        matrix @ cut.noise,
        matrix @ cut.coupling,
    )


@dataclasses.dataclass(frozen=True)
class Band:
    """Where 68 and 95 % of decoupled C_l lie, shape (bin,) each."""

    low: np.ndarray
    high: np.ndarray
    low68: np.ndarray
    high68: np.ndarray
    low95: np.ndarray
    high95: np.ndarray


def isotropic_band(
    cut: CutSky,
    bins: list[tuple[int, int]] | None = None,
    power: np.ndarray | None = None,
    draws: int = 0,
    seed: int = 0,
    background: np.ndarray | None = None,
    shape: np.ndarray | None = None,
) -> Band:
    """Range of decoupled C_l for an isotropic sky, or with `power` for Gaussian skies of that C_l (statistical band).

    Without draws the range is that of a normal distribution of the analytic covariance: good for l of 10 and more;
    at the lowest l the estimate is skewed, and the upper limits too low.

    Args:
        cut: From `cut_sky`, with the noise of the map.
        bins: As for `decoupled_power`.
        power: C_l, l = 1 .. l_max, of the skies; the band is then about this power. Default none: isotropic.
        draws: Number of skies to draw; 0 for the normal approximation.
        seed: Of the random numbers.
        background: Expected counts per cell B: isotropic noise is then drawn as Poisson counts n / B - 1, in place of
            normal numbers of the variance of `cut`.
        shape: As for `decoupled_power`.

    Raises:
        InputError: If there are draws, but fewer than 100, or bins, power or shape do not fit.
    """
    low, high, matrix = _decoupling(cut, bins, shape)
    if draws == 0:
        centre = 0.0 if power is None else matrix @ cut.coupling @ _power(cut, power)
        error = np.sqrt(np.diag(matrix @ pseudo_covariance(cut, power) @ matrix.T))
        one, two = 0.99446 * error, 1.95996 * error
        return Band(low, high, centre - one, centre + one, centre - two, centre + two)
    if draws < 100:
        raise InputError(
            f"{draws} skies do not give a 95 % range; draw at least 100, or 0 for the normal approximation"
        )
    rng = np.random.default_rng(seed)
    values = np.stack([matrix @ (_drawn(cut, power, background, rng) - cut.noise) for _ in range(draws)])
    low95, low68, high68, high95 = np.quantile(values, [0.025, 0.16, 0.84, 0.975], axis=0)
    return Band(low, high, low68, high68, low95, high95)


def _drawn(cut: CutSky, power, background, rng: np.random.Generator) -> np.ndarray:
    """Pseudo-C_l of one sky."""
    if background is None:
        noise = rng.standard_normal(len(cut.weight)) * np.sqrt(cut.variance)
    else:
        expected = _cells(cut.rings, background, "background")
        noise = np.where(expected > 0, rng.poisson(expected) / np.where(expected > 0, expected, 1.0) - 1, 0.0)
    a = pseudo_multipoles(noise, cut)
    if power is not None:
        degree, _ = free_multipoles(cut.l_max)
        signal = rng.standard_normal(len(degree)) * np.sqrt(_power(cut, power)[degree - 1])
        for b in cut.blocks:
            a[b.place] += b.kernel @ signal[b.place]
    return sum_by_degree(a**2, cut.l_max) / (2 * cut.l + 1)


def _decoupling(cut: CutSky, bins, shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last l of each bin, and the matrix (bin, l) from pseudo-C_l without noise to C_l."""
    low, high = check_bins(bins, cut.l_max)
    inside = (cut.l >= low[:, None]) & (cut.l <= high[:, None])
    shape = np.ones(cut.l_max) if shape is None else _power(cut, shape)
    if shape.min() <= 0:
        raise InputError("the shape of C_l must be positive at every l; give a fiducial spectrum without zeros")
    number = inside * (2 * cut.l + 1.0)
    mean = number @ shape / number.sum(axis=1)
    average = number / shape
    average /= average.sum(axis=1, keepdims=True)
    binned = average @ cut.coupling @ (inside * shape / mean[:, None]).T
    scale = np.sqrt(np.abs(np.diag(binned)))
    condition = np.linalg.cond(binned / scale[:, None] / scale)
    if not condition < 1e6:
        raise InputError(
            f"the coupling of l = {low[0]} to {high[-1]} has the condition number {condition:.1e}: this field of view "
            "cannot tell neighbouring l apart; use wider bins or a smaller l_max"
        )
    return low, high, np.linalg.solve(binned, average)


def check_bins(bins: list[tuple[int, int]] | None, l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last l of each bin as arrays; every l from 1 to l_max by default.

    Raises:
        InputError: If bins overlap, are empty, or reach beyond 1 .. l_max.
    """
    pairs = [(l, l) for l in range(1, l_max + 1)] if bins is None else bins
    edges = np.asarray(pairs, int).reshape(-1)
    rising = len(edges) > 0 and np.all(edges[::2] <= edges[1::2]) and np.all(edges[1:-1:2] < edges[2::2])
    if not rising or edges[0] < 1 or edges[-1] > l_max:
        raise InputError(
            f"bins of l must be pairs (first, last) that rise without overlap from 1 to at most {l_max}, not {bins}"
        )
    return edges[::2], edges[1::2]


def _level(rings: Rings, weight, variance):
    """Weight and variance of each ring, and whether they are the same in all its cells."""
    out, even = [], True
    for values in (weight, variance):
        first = values[rings.starts]
        out.append(first)
        even &= bool(np.all(np.abs(values - np.repeat(first, rings.sizes)) <= 1e-9 * max(values.max(), 1e-300)))
    return out, even


def _level_blocks(rings: Rings, weight: np.ndarray, variance: np.ndarray) -> tuple[Block, ...]:
    """Weights that depend on declination only: m decouples, and the ring means of m != 0 vanish."""
    blocks = []
    for m in range(1, rings.l_max + 1):
        profile = rings.profile[m:, m]
        half = rings.area * rings.sizes * weight / 2
        kernel = (profile * half) @ profile.T
        noise = (profile * (half * rings.area * weight * variance)) @ profile.T
        blocks += [Block(multipoles_of_order(rings.l_max, sign * m), kernel, noise) for sign in (1, -1)]
    return tuple(blocks)


def _whole_block(rings: Rings, weight: np.ndarray, variance: np.ndarray) -> Block:
    """K and the noise for a general weight: all orders couple."""
    l_max, area = rings.l_max, rings.area
    flat, loud = rings.sums(weight, 2 * l_max), rings.sums(weight**2 * variance, 2 * l_max)
    total, total_noise = flat[0][0], loud[0][0]
    one, two = (_ring_projections(rings.profile, *x) for x in (flat, loud))
    safe = np.where(total > 0, total, 1.0)
    kernel = ring_products(rings.profile, flat[0] * area, flat[1] * area) - (one * (area / safe)) @ one.T
    mean = one / safe
    cross = (mean * area**2) @ two.T
    noise = ring_products(rings.profile, loud[0] * area**2, loud[1] * area**2) - cross - cross.T
    noise += (mean * (area**2 * total_noise)) @ mean.T
    return Block(np.arange(len(kernel)), kernel, noise)


def _ring_projections(profile: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Sums over each ring of W R_p, shape (param, ring)."""
    l_max = len(profile) - 1
    out = np.empty((l_max * (l_max + 1), profile.shape[-1]))
    for m in range(1, l_max + 1):
        out[multipoles_of_order(l_max, m)] = profile[m:, m] * cosine[m]
        out[multipoles_of_order(l_max, -m)] = profile[m:, m] * sine[m]
    return out


def _by_degrees(block: Block, values: np.ndarray, l_max: int) -> np.ndarray:
    """Sum of a matrix over the multipoles of a block within each pair of degrees, shape (l, l')."""
    degree, _ = free_multipoles(l_max)
    own = degree[block.place]
    if len(own) == len(degree):
        return sum_by_degree(sum_by_degree(values, l_max, 0), l_max, 1)
    out = np.zeros((l_max, l_max))
    # One order m: every degree stands there once.
    out[np.ix_(own - 1, own - 1)] = values
    return out


def _flat(rings: Rings, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    cells = int(rings.sizes.sum())
    if values.shape[-1] != cells and values.shape[-2:] == (len(rings.sizes), rings.sizes[0]):
        values = values.reshape(*values.shape[:-2], -1)
    if values.shape[-1] != cells:
        raise InputError(f"a map has shape {values.shape}, but the rings hold {cells} cells; use the map's own grid")
    return values


def _cells(rings: Rings, values: np.ndarray, name: str, inside: np.ndarray | None = None) -> np.ndarray:
    """One non-negative value for each cell; those outside are set to zero."""
    values = np.asarray(values, float)
    if values.shape == rings.sizes.shape:
        values = np.repeat(values, rings.sizes)
    values = _flat(rings, values)
    if inside is not None:
        values = np.where(inside, values, 0.0)
    if not np.all(np.isfinite(values)) or values.min() < 0:
        raise InputError(f"the {name} is negative or not finite somewhere; give zero weight to cells without data")
    return values


def _power(cut: CutSky, power: np.ndarray) -> np.ndarray:
    power = np.asarray(power, float)
    if power.shape != (cut.l_max,) or not np.all(np.isfinite(power)) or power.min() < 0:
        raise InputError(f"the power C_l needs one finite value of zero or more for each l from 1 to {cut.l_max}")
    return power


def _kept(l_max: int, transfer: np.ndarray | None) -> np.ndarray:
    """Fraction kept of each multipole, shape (param,)."""
    degree, order = free_multipoles(l_max)
    if transfer is None:
        return np.ones(len(degree))
    given = np.asarray(transfer, float)
    if given.shape not in ((l_max + 1,), (l_max + 1, l_max + 1)):
        raise InputError(
            f"transfer has shape {given.shape}: give one fraction for each m = 0 .. {l_max}, or (l, m) of shape "
            f"{(l_max + 1, l_max + 1)}"
        )
    kept = given[np.abs(order)] if given.ndim == 1 else given[degree, np.abs(order)]
    if not np.all(np.isfinite(kept)) or kept.min() <= 0:
        raise InputError("transfer must be positive for every m from 1 on: what was lost entirely cannot be restored")
    return kept
