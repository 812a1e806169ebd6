r"""Significance of excesses: for every disc on the sky the profile-likelihood ratio of one extra amplitude inside it.

With T = 1 in the disc and I = exp(s T), the rates and acceptances refitted, the log-likelihood over that of isotropy is

$$ \Delta(s) = s\, n_{on} - \sum_i n_i \ln(1 + (e^s - 1) y_i) + \tfrac12 s^2 h^T K^{-1} h, \qquad
   y_i = \sum_\tau r_\tau T_{\tau i}, $$

n_on the counts in the disc, y_i the part of its time for which a local cell sees the disc, and h, K the coupling to
the rates and their information. The logarithm is the cumulant generating function of a coin of probability y_i, so that

$$ \Delta(s) = s (n_{on} - B_D) - \sum_{k \ge 2} \frac{s^k}{k!} \sum_i n_i \kappa_k(y_i) + \tfrac12 s^2 h^T K^{-1} h $$

without cancellation where a disc covers whole rings (y = 1, all cumulants zero: nothing is measured). The signed root
of 2 max Delta is N(0, 1) for an isotropic sky, whatever the field of view; Li & Ma's form with the background taken as
known is not, because the fitted background follows an excess. For a disc centred at right ascension alpha, y moves
along the rings with alpha, so that all discs of a ring of centres come out of one FFT.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import fft

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import ring_basis

from .maps import Exposure, SkyMap, correlated, seen_by_time

_LEAST_EXPECTATION = 5.0
"""Discs with fewer expected events are not judged: the signed root of their likelihood ratio is far from Gaussian."""

_LEAST_SHARE = 0.1
"""Part of a disc's information that rates and acceptance must leave. Less is left where a disc covers whole rings,
such as one
around a pole: what remains to be measured is its ragged edge, another one for every centre."""

_STRONGEST = 2.0
"""Largest |ln I| of a disc: the series of cumulants holds below pi."""

_MOST_RATES = 72
"""Rates per configuration in the error of a smoothed map: their fine structure does not reach a disc."""


@dataclasses.dataclass(frozen=True)
class DiscMap:
    """What is in the disc around each cell; arrays of shape (ring, ra), NaN where there is too little exposure.

    Attributes:
        radius: Of the disc [rad].
        significance: Signed root of the profile-likelihood ratio of one amplitude for the disc: N(0, 1) under isotropy.
        amplitude: Best amplitude s, the rest of the sky isotropic.
        amplitude_error: Its standard error.
        contrast: Counts over background minus one in the disc, of the free map: every other cell as it is.
        error: Standard error of the contrast; larger than that of the amplitude, as the rest of the sky is free.
        data, background: Sums over the disc.
        li_ma: Signed Li-Ma significance for a background taken as known (that of the free map).
        li_ma_width: Standard deviation of `li_ma` under isotropy; 1 would be N(0, 1).
    """

    radius: float
    significance: np.ndarray
    amplitude: np.ndarray
    amplitude_error: np.ndarray
    contrast: np.ndarray
    error: np.ndarray
    data: np.ndarray
    background: np.ndarray
    li_ma: np.ndarray
    li_ma_width: np.ndarray


class DiscScan:
    """Everything about the discs of one radius that does not depend on the counts inside them.

    Args:
        seen: What each configuration saw.
        grid: The ring grid.
        radius: Of the discs [rad], in (0, pi); a cell belongs to a disc if its centre does, or if it is the disc's own.
        removed: Multipoles of the null hypothesis: maps of shape (multipole, ring, ra) whose amplitudes are refitted.

    Raises:
        InputError: If the radius is out of range.
    """

    def __init__(self, seen: Sequence[Exposure], grid: RingGrid, radius: float, removed: np.ndarray | None = None):
        if not 0 < radius < np.pi:
            raise InputError(f"the radius of a disc must lie between 0 and 180 degrees, not {np.degrees(radius):g}")
        self.seen, self.grid, self.radius = tuple(seen), grid, radius
        self.background = sum(e.background for e in seen)
        self.rings = np.flatnonzero((self.background > 0).any(axis=1))
        self.kernel = np.stack([fft.rfft(self._disc(int(d)), axis=1).real for d in self.rings])
        self.background_sum = self.summed(self.background)
        # Higher cumulants matter for strong excesses only.
        largest = self._largest_amplitude()
        self.cumulants = self._cumulants(2 if largest < 0.003 else 4 if largest < 0.05 else 10)
        self._basis = np.zeros((0, *grid.shape)) if removed is None else removed
        self._image = (
            sum(np.stack([information_times(e, m) for m in removed]) for e in seen) if len(self._basis) else None
        )
        self.coupling = self._rates_coupling() + self._basis_coupling()

    def _disc(self, centre: int) -> np.ndarray:
        """The disc around bin 0 of a ring: 1 inside, over offsets in right ascension; shape (seen ring, ra)."""
        offset = self.grid.step * np.arange(self.grid.n_ra)
        sine, cosine = (f(self.grid.declination) for f in (np.sin, np.cos))
        rows = self.rings
        cos_distance = np.outer(cosine[rows] * cosine[centre], np.cos(offset)) + (sine[rows] * sine[centre])[:, None]
        inside = cos_distance >= np.cos(self.radius) - 1e-12
        inside[np.searchsorted(rows, centre), 0] = True
        return inside.astype(float)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sums over the disc around each cell of maps (..., ring, ra); zero outside the seen rings."""
        modes = fft.rfft(values[..., self.rings, :], axis=-1)
        sums = np.einsum("drm,...rm->...dm", self.kernel, modes, optimize=True)
        out = np.zeros(values.shape)
        out[..., self.rings, :] = fft.irfft(sums, n=self.grid.n_ra, axis=-1)
        return out

    def _largest_amplitude(self) -> float:
        excess = self.summed(sum(e.sky - e.background for e in self.seen))
        judged = self.background_sum >= _LEAST_EXPECTATION
        return float(np.max(np.abs(excess[judged] / self.background_sum[judged]), initial=0)) * 3

    def _cumulants(self, highest: int) -> np.ndarray:
        """Sums over local cells of n_i kappa_k(y_i) / k! for k = 2 .. highest, for each disc; (k - 2, ring, ra)."""
        n = self.grid.n_ra
        polynomials = coin_cumulants(highest)[2:]
        out = np.zeros((len(polynomials), *self.grid.shape))
        for e in self.seen:
            local = np.conj(fft.rfft(e.local[self.rings], axis=1))
            rate = fft.rfft(e.rate)
            for place, ring in enumerate(self.rings):
                y = fft.irfft(rate * self.kernel[place], n=n, axis=1)
                for k, polynomial in enumerate(polynomials):
                    modes = fft.rfft(polynomial(y), axis=1)
                    out[k, ring] += fft.irfft(np.einsum("rm,rm->m", local, modes), n=n) / math.factorial(k + 2)
        return out

    def _rate_coupling(self, place: int, groups: Sequence[int]) -> list[np.ndarray]:
        """h of every disc of a ring of centres with each configuration's rates, (ra, group)."""
        n = self.grid.n_ra
        moved = (np.arange(n) - np.arange(n)[:, None]) % n
        out = []
        for e, number in zip(self.seen, groups, strict=True):
            modes = np.einsum("rm,rm->m", fft.rfft(e.local[self.rings], axis=1), self.kernel[place])
            seen = fft.irfft(modes, n=n)[moved]
            out.append(((seen - (seen @ e.rate)[:, None]) * e.rate).reshape(n, number, -1).sum(-1))
        return out

    def _rates_coupling(self) -> np.ndarray:
        """What refitting the rates takes from the information of each disc, h K^-1 h; (ring, ra)."""
        out = np.zeros(self.grid.shape)
        counted = [e.grouped(e.time) for e in self.seen]
        inverse = [np.where(c > 0, 1 / np.where(c > 0, c, 1), 0) for c in counted]
        for place, ring in enumerate(self.rings):
            parts = self._rate_coupling(place, [e.groups for e in self.seen])
            out[ring] = sum(h**2 @ k for h, k in zip(parts, inverse, strict=True))
        return out

    def _basis_coupling(self) -> np.ndarray:
        """The same for the multipoles that are refitted in the null hypothesis."""
        if self._image is None:
            return np.zeros(self.grid.shape)
        cross = self.summed(self._image)
        return np.einsum("pra,pq,qra->ra", cross, self._basis_inverse, cross)

    @functools.cached_property
    def _basis_inverse(self) -> np.ndarray:
        return np.linalg.pinv(np.einsum("pra,qra->pq", self._basis, self._image), hermitian=True)

    def null_sums(self, sky: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts and null expectation in each disc, for counts drawn from isotropy and their isotropic background.

        Args:
            sky, background: Shape (..., ring, ra).
        """
        expected = background
        if self._image is not None:
            score = np.einsum("pra,...ra->...p", self._basis, sky - background)
            expected = background + np.einsum("...p,pq,qra->...ra", score, self._basis_inverse, self._image)
        return self.summed(sky), self.summed(expected)

    @functools.cached_property
    def information(self) -> np.ndarray:
        """Information on the amplitude of each disc about the null hypothesis, (ring, ra); zero where not judged."""
        information = 2 * self.cumulants[0] - self.coupling
        return np.where(self.judged & (information > _LEAST_SHARE * self.background_sum), information, 0.0)

    @functools.cached_property
    def judged(self) -> np.ndarray:
        """Whether the disc's centre is exposed and the disc expects enough events, (ring, ra)."""
        return (self.background > 0) & (self.background_sum >= _LEAST_EXPECTATION)

    def significance(self, data: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed significance and best amplitude for sums over the discs of counts and null expectation.

        Args:
            data, expected: Shape (..., ring, ra), from `summed`.
        """
        judged = self.information > 0
        excess = data[..., judged] - expected[..., judged]
        terms, rates = self.cumulants[:, judged], self.coupling[judged]
        s = np.clip(excess / self.information[judged], -_STRONGEST, _STRONGEST)

        def derivatives(s):
            """Delta and its first two derivatives, by Horner's rule in the cumulants' series."""
            value = slope = curve = np.zeros_like(s)
            for term in (*terms[:0:-1], terms[0] - 0.5 * rates):
                curve = curve * s + 2 * slope
                slope = slope * s + value
                value = value * s - term
            # value is the series over s^2.
            return (
                s * (excess + s * value),
                excess + s * (2 * value + s * slope),
                2 * value + s * (4 * slope + s * curve),
            )

        for _ in range(3 if len(terms) == 1 else 8):
            _, slope, curve = derivatives(s)
            s = np.clip(s - np.where(curve < 0, slope / np.where(curve < 0, curve, -1.0), 0.0), -_STRONGEST, _STRONGEST)
        out = np.full((2, *data.shape), np.nan)
        out[0][..., judged] = np.sign(s) * np.sqrt(np.maximum(2 * derivatives(s)[0], 0))
        out[1][..., judged] = np.expm1(s)
        return out[0], out[1]

    @functools.cached_property
    def contrast_variance(self) -> np.ndarray:
        r"""Variance of counts over background minus one in each disc of the free map, (ring, ra); zero where not
        judged.

        1/B_D - sum_r q_r^2 / B_r + h S^-1 h / B_D^2 with B_D the background in the disc, q_r the part of it in ring r,
        B_r that of the whole ring (their means are the gauge), and S the information on the rates with the whole sky
        free. Exact for an even rate; for one modulated by 5 % it is 0.05 % short, by 30 % it is up to 2 % short.
        """
        groups = [max(g for g in range(1, _MOST_RATES + 1) if e.groups % g == 0) for e in self.seen]
        inverse = np.linalg.pinv(self._rates_with_free_sky(groups), hermitian=True, rcond=1e-10)
        per_ring = self.background[self.rings].sum(axis=1)
        modes = fft.rfft(self.background[self.rings], axis=1)
        out = np.zeros(self.grid.shape)
        for place, ring in enumerate(self.rings):
            h = np.concatenate(self._rate_coupling(place, groups), axis=1)
            shares = fft.irfft(self.kernel[place] * modes, n=self.grid.n_ra, axis=1)
            disc = np.maximum(self.background_sum[ring], 1e-300)
            rates = np.einsum("ag,gk,ak->a", h, inverse, h)
            out[ring] = (1 - (shares**2 / per_ring[:, None]).sum(0) / disc + rates / disc) / disc
        return np.where(self.judged, np.maximum(out, 0.0), 0.0)

    def _rates_with_free_sky(self, groups: Sequence[int]) -> np.ndarray:
        """K - H^T D^-1 H over the rates of all configurations, each cell of the sky free."""
        n = self.grid.n_ra
        moved = (np.arange(n) - np.arange(n)[:, None]) % n
        counted = np.concatenate([e.time.reshape(g, -1).sum(-1) for e, g in zip(self.seen, groups, strict=True)])
        rates = np.concatenate([e.rate.reshape(g, -1).sum(-1) for e, g in zip(self.seen, groups, strict=True)])
        owner = np.repeat(np.arange(len(self.seen)), groups)
        total = np.array([e.total for e in self.seen])[owner]
        # The acceptance takes the common scale of each configuration's rates.
        matrix = np.diag(counted) - np.where(owner[:, None] == owner, total * np.outer(rates, rates), 0.0)
        for ring in self.rings:
            columns = [
                ((e.local[ring][moved] - e.background[ring][:, None]) * e.rate).reshape(n, g, -1).sum(-1)
                for e, g in zip(self.seen, groups, strict=True)
            ]
            h, b = np.concatenate(columns, axis=1), self.background[ring]
            matrix -= h.T @ (h / np.where(b > 0, b, np.inf)[:, None])
        return matrix


@functools.cache
def coin_cumulants(highest: int) -> tuple[np.polynomial.Polynomial, ...]:
    """Cumulants kappa_0 .. kappa_highest of a coin of probability y, as polynomials in y.

    kappa_1 = y and kappa_(k+1) = y (1 - y) d kappa_k / dy.
    """
    polynomials = [np.polynomial.Polynomial([0.0]), np.polynomial.Polynomial([0.0, 1.0])]
    for _ in range(highest - 1):
        polynomials.append(np.polynomial.Polynomial([0.0, 1.0, -1.0]) * polynomials[-1].deriv())
    return tuple(polynomials)


def information_times(e: Exposure, sky: np.ndarray) -> np.ndarray:
    """Information about isotropy, rates and acceptance eliminated, times a map (ring, ra)."""
    x = correlated(e.rate, sky)
    times = e.rate * (seen_by_time(e.local, sky) - np.vdot(e.local, x))
    counted = e.grouped(e.time)
    shift = e.rate * e.spread(np.where(counted > 0, e.grouped(times) / np.where(counted > 0, counted, 1), 0.0))
    rates = correlated(shift, e.local) - e.background * shift.sum()
    return e.background * sky - correlated(e.rate, e.local * x) - rates


def disc_map(sky: SkyMap, radius: float, removed: "Null | None" = None, scan: DiscScan | None = None) -> DiscMap:
    """Contrast and significance of the disc around every cell of a free map.

    Args:
        sky: The free map.
        radius: Of the discs [rad].
        removed: Multipoles that belong to the null hypothesis; default isotropy.
        scan: That of the same data, radius and null hypothesis, where it was made already.

    Raises:
        InputError: If the radius is out of range.
    """
    null = removed or isotropy(sky)
    scan = scan or DiscScan(sky.seen, sky.grid, radius, null.basis)
    data, expected, background = scan.summed(np.stack([sky.data, null.expected, sky.background * null.intensity]))
    significance, amplitude = scan.significance(data, expected)
    judged = scan.information > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        contrast = np.where(judged, data / background - 1, np.nan)
        error = np.where(judged, np.sqrt(scan.contrast_variance), np.nan)
        deviance = data * np.log(np.maximum(data, 1e-300) / background) - (data - background)
        li_ma = np.sign(contrast) * np.sqrt(np.maximum(2 * deviance, 0))
        return DiscMap(
            radius=radius,
            significance=significance,
            amplitude=amplitude,
            amplitude_error=np.where(judged, 1 / np.sqrt(scan.information), np.nan),
            contrast=contrast,
            error=error,
            data=np.where(judged, data, np.nan),
            background=np.where(judged, background, np.nan),
            li_ma=np.where(judged, li_ma, np.nan),
            li_ma_width=error * np.sqrt(np.where(judged, background, np.nan)),
        )


@dataclasses.dataclass(frozen=True)
class Null:
    """The hypothesis that excesses are judged against: isotropy, or a sky of fitted multipoles.

    Attributes:
        intensity: Its relative intensity, shape (ring, ra).
        expected: Its expected counts with rates and acceptances at their best, shape (ring, ra).
        basis: Maps of the multipoles that are refitted, shape (multipole, ring, ra).
    """

    intensity: np.ndarray
    expected: np.ndarray
    basis: np.ndarray


def isotropy(sky: SkyMap) -> Null:
    """The isotropic sky as null hypothesis."""
    flat = np.ones(sky.grid.shape)
    return Null(flat, sum(e.background for e in sky.seen), np.zeros((0, *sky.grid.shape)))


def multipoles_removed(sky: SkyMap, l_max: int) -> Null:
    """The null hypothesis of a sky of m != 0 multipoles up to l_max, fitted to the same counts.

    Raises:
        InputError: If the field of view cannot support these multipoles.
    """
    from .fit import fit
    from .report import backgrounds, contrast_of_date

    counts = sky.counts
    result = fit(counts, l_max)
    contrast = contrast_of_date(result)
    # Like the exposures, in effective events.
    parts = zip(backgrounds(result), sky.seen, counts.configurations(), strict=True)
    background = sum(b * (e.total / counts.n_time[p].sum()) for b, e, p in parts)
    return Null(1 + contrast, background * (1 + contrast), _basis(sky.grid, result.degree, result.order))


def _basis(grid: RingGrid, degree: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Maps of single multipoles, shape (multipole, ring, ra)."""
    profile = ring_basis(grid, int(degree.max()))[degree, np.abs(order)]
    angle = np.abs(order)[:, None] * grid.right_ascension
    wave = np.where(order[:, None] >= 0, np.cos(angle), np.sin(angle))
    return profile[:, :, None] * wave[:, None, :]
