"""Classical estimators of the anisotropy: the harmonic (Rayleigh) analyses in right ascension and local azimuth."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .data import Counts
from .dipole import Dipole, log10_p_value
from .selection import select


class EquatorialEstimate:
    """What every estimate of an equatorial dipole can say; its classes have the two attributes.

    Attributes:
        vector: (delta_0h, delta_6h), of the relative intensity, towards the excess, in the equator of date; in another
            time frame "RA" is the time of the frame minus the hour angle. Shape (2,).
        covariance: Its covariance, shape (2, 2).
    """

    vector: np.ndarray
    covariance: np.ndarray

    @property
    def dipole(self) -> Dipole:
        """The same with phase errors and upper limits."""
        return Dipole(np.asarray(self.vector), np.asarray(self.covariance))

    @property
    def amplitude(self) -> float:
        """Length of the equatorial projection, hypot(delta_0h, delta_6h)."""
        return self.dipole.amplitude

    @property
    def amplitude_error(self) -> float:
        """Standard error along the measured direction."""
        return self.dipole.amplitude_error

    @property
    def right_ascension(self) -> float:
        """Right ascension of the maximum [rad], in [0, 2 pi)."""
        return self.dipole.right_ascension

    @property
    def log10_p(self) -> float:
        """log10 of the chance probability exp(-v^T C^-1 v / 2) of such a vector, or a longer one, for isotropy."""
        vector = np.asarray(self.vector)
        return log10_p_value(float(vector @ np.linalg.solve(self.covariance, vector)), 2)


@dataclasses.dataclass(frozen=True)
class Combination:
    """Inverse-covariance mean of independent estimates of one vector, and whether they agree.

    Attributes:
        vector: Mean (sum P_k)^-1 sum P_k v_k with the precisions P_k, shape (component,).
        covariance: (sum P_k)^-1, shape (component, component).
        chi2: sum (v_k - mean)^T P_k (v_k - mean); chi-squared with `ndf` degrees of freedom where all estimate the
            same vector.
        ndf: Number of measured components less those of the mean.
    """

    vector: np.ndarray
    covariance: np.ndarray
    chi2: float
    ndf: int


def combine_estimates(vectors: Sequence[np.ndarray], precisions: Sequence[np.ndarray]) -> Combination:
    """Mean of estimates weighted with their precisions (inverse covariances), which may be singular one by one.

    Args:
        vectors: Estimates, each of shape (component,); what has no precision may hold any finite number.
        precisions: Their inverse covariances, each of shape (component, component).

    Raises:
        InputError: If together they leave a component unmeasured.
    """
    values, weights = np.asarray(vectors, float), np.asarray(precisions, float)
    total = weights.sum(axis=0)
    scale = np.sqrt(np.maximum(np.diagonal(total), 0.0))
    if not np.all(scale > 0) or np.linalg.eigvalsh(total / np.outer(scale, scale))[0] < 1e-12:
        raise InputError("no configuration measures every component of the dipole: add one that does, or ask for less")
    mean = np.linalg.solve(total, np.einsum("kij,kj->i", weights, values))
    off = values - mean
    chi2 = float(np.einsum("ki,kij,kj->", off, weights, off))
    ranks = sum(int(np.linalg.matrix_rank(each, hermitian=True)) for each in weights)
    return Combination(mean, np.linalg.inv(total), chi2, ranks - len(mean))


@dataclasses.dataclass(frozen=True)
class RayleighResult:
    """Harmonic of order k of the right-ascension distribution, exposure taken as uniform in right ascension.

    Attributes:
        order: Harmonic k.
        a, b: Fourier coefficients (2 / W) sum w cos(k RA) and (2 / W) sum w sin(k RA), W = sum w.
        sigma: Standard error of a and of b: sqrt(2 sum w^2) / W.
        num_events: Rows used.
        effective_events: W^2 / sum w^2.
        mean_cos_declination: Weighted mean of cos(dec), or None where declinations are unknown.
    """

    order: int
    a: float
    b: float
    sigma: float
    num_events: int
    effective_events: float
    mean_cos_declination: float | None = None

    @property
    def amplitude(self) -> float:
        """r = hypot(a, b)."""
        return math.hypot(self.a, self.b)

    @property
    def phase(self) -> float:
        """Right ascension of the maximum [rad], in [0, 2 pi / k)."""
        return math.atan2(self.b, self.a) % (2 * math.pi) / self.order

    @property
    def log10_p(self) -> float:
        """log10 of the chance probability exp(-N_eff r^2 / 4) of this amplitude or more for isotropy."""
        return -self.effective_events * self.amplitude**2 / 4 / math.log(10)

    @property
    def dipole_amplitude(self) -> float | None:
        """Equatorial dipole r / <cos dec>, for a first harmonic with known declinations."""
        if self.mean_cos_declination is None or self.order != 1:
            return None
        return self.amplitude / self.mean_cos_declination


def rayleigh(
    right_ascension: np.ndarray,
    weights: np.ndarray | None = None,
    declination: np.ndarray | None = None,
    order: int = 1,
) -> RayleighResult:
    """Rayleigh analysis of a list of right ascensions (Linsley 1975; Mardia & Jupp, Directional Statistics).

    Args:
        right_ascension: [rad], shape (event,).
        weights: Event weights, shape (event,); default 1.
        declination: [rad], shape (event,); turns the first harmonic into an equatorial dipole.
        order: Harmonic k >= 1.

    Raises:
        InputError: If there is no event, or none with a weight, or the order is below 1.
    """
    ra = np.asarray(right_ascension, float)
    if ra.size == 0:
        raise InputError("a Rayleigh analysis needs at least one event; the list is empty")
    _require_order(order)
    w = np.ones_like(ra) if weights is None else np.asarray(weights, float)
    total = w.sum()
    if not total > 0:
        raise InputError("a Rayleigh analysis needs at least one event; the weights of all are zero")
    mean_cos = None if declination is None else float(np.sum(w * np.cos(declination)) / total)
    return RayleighResult(
        order=order,
        a=float(2 * np.sum(w * np.cos(order * ra)) / total),
        b=float(2 * np.sum(w * np.sin(order * ra)) / total),
        sigma=float(math.sqrt(2 * np.sum(w**2)) / total),
        num_events=ra.size,
        effective_events=float(total**2 / np.sum(w**2)),
        mean_cos_declination=mean_cos,
    )


def rayleigh_of_counts(counts: Counts, order: int = 1) -> RayleighResult:
    """The same from the counts of all configurations together.

    The first harmonic is that of the events themselves, where their sums were kept; otherwise it is that of the
    right-ascension bins, corrected for their width.

    Means nothing where the exposure is not uniform in right ascension: dead time and rate changes look like
    anisotropy.

    Raises:
        InputError: If there is no event, the order is below 1, or the bins do not resolve it.
    """
    _require_order(order)
    if 2 * order >= counts.grid.n_ra:
        raise InputError(
            f"{counts.grid.n_ra} right-ascension bins do not resolve a harmonic of order {order}; bin the events finer"
        )
    per_bin = counts.n_sky.sum(axis=(0, 1, 2, 3))
    squares = counts.w2["n_sky"].sum(axis=(0, 1, 2, 3)) if counts.weighted else per_bin
    if not per_bin.sum() > 0:
        raise InputError("a Rayleigh analysis needs at least one event; the counts are empty")
    phase = np.exp(1j * order * counts.grid.right_ascension)
    smear = np.sinc(order / counts.grid.n_ra)
    sums = [entry.get("right_ascension_harmonic") for entry in counts.inputs]
    if order == 1 and sums and all(sums):
        harmonic, smear = 2 * complex(*np.sum(sums, axis=0)) / per_bin.sum(), 1.0
    else:
        harmonic = 2 * np.sum(per_bin * phase) / per_bin.sum() / smear
    per_ring = counts.n_sky.sum(axis=(0, 1, 2, 4))
    return RayleighResult(
        order=order,
        a=float(harmonic.real),
        b=float(harmonic.imag),
        sigma=float(math.sqrt(2 * squares.sum()) / per_bin.sum() / smear),
        num_events=int(counts.num_events.sum()),
        effective_events=float(per_bin.sum() ** 2 / squares.sum()),
        mean_cos_declination=float(per_ring @ np.cos(counts.grid.declination) / per_ring.sum()),
    )


@dataclasses.dataclass(frozen=True)
class TwoHarmonicDipole(EquatorialEstimate):
    """Dipole from the first harmonics in right ascension and in local azimuth.

    Attributes:
        delta: (delta_0h, delta_6h, delta_N), shape (3,), towards the excess, in the equator of date.
        delta_covariance: Its covariance, shape (3, 3).
        mean_cos_declination: Weighted mean of cos(dec).
        mean_sin_zenith: Weighted mean of sin(zenith angle).
        effective_events: (sum w)^2 / sum w^2.
        chi2, ndf: Agreement of several configurations, see `Combination`; 0, 0 for one.
    """

    delta: np.ndarray
    delta_covariance: np.ndarray
    mean_cos_declination: float
    mean_sin_zenith: float
    effective_events: float
    chi2: float = 0.0
    ndf: int = 0

    @property
    def vector(self) -> np.ndarray:
        """(delta_0h, delta_6h), shape (2,)."""
        return self.delta[:2]

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of `vector`, shape (2, 2)."""
        return self.delta_covariance[:2, :2]

    @property
    def north(self) -> float:
        """delta_N, the component along the Earth's axis."""
        return float(self.delta[2])

    @property
    def north_error(self) -> float:
        """Standard error of delta_N."""
        return math.sqrt(self.delta_covariance[2, 2])

    @property
    def total_amplitude(self) -> float:
        """Length of the whole vector."""
        return float(np.linalg.norm(self.delta))

    @property
    def declination(self) -> float:
        """Declination of the maximum [rad]."""
        return math.atan2(self.delta[2], self.amplitude)


_POLE = 1e-6
"""Cosine of a latitude below which the local azimuth is taken to say nothing of delta_N."""


def two_harmonic_events(
    right_ascension: np.ndarray,
    declination: np.ndarray,
    zenith: np.ndarray,
    azimuth: np.ndarray,
    latitude: float,
    weights: np.ndarray | None = None,
) -> TwoHarmonicDipole:
    r"""Dipole of one observatory from the first harmonics in right ascension and local azimuth.

    With a = (2 / W) sum w cos, b = (2 / W) sum w sin, and phi the azimuth counter-clockwise from East, so that sin(phi)
    is the North component of the direction over sin(theta),

    $$ \delta_{0h} = a_\alpha / \langle\cos\delta\rangle, \quad \delta_{6h} = b_\alpha / \langle\cos\delta\rangle,
       \quad \delta_N = b_\phi / (\cos\Phi\, \langle\sin\theta\rangle) $$

    at latitude Phi, means over the events. To first order in the dipole.

    It assumes that the exposure is even in right ascension (constant rate in sidereal time, or weights that make it
    so) and that the acceptance is even in azimuth: dead time, weather, a tilted or irregular array or the geomagnetic
    field look like a dipole. Nothing in the result warns of it; `fit` does without either assumption, and without
    delta_N.

    Args:
        right_ascension, declination: Of date [rad], shape (event,).
        zenith: Zenith angle [rad], shape (event,).
        azimuth: From North through East [rad], shape (event,); a counter-clockwise one from East is pi/2 minus this.
        latitude: Of the site [rad], North positive.
        weights: Shape (event,); default 1.

    Raises:
        InputError: If there is no event, none with a weight, or the site stands at a pole.

    References:
        Aab et al. 2015, ApJ 802, 111; Aab et al. 2017, Science 357, 1266.
    """
    if math.cos(latitude) < _POLE:
        raise InputError(_AT_A_POLE)
    plane = rayleigh(right_ascension, weights, declination)
    w = np.ones(np.shape(zenith)) if weights is None else np.asarray(weights, float)
    vector, precision, mean_sine = _two_harmonics(plane, latitude, np.sin(zenith), np.cos(azimuth), w, w * w)
    return TwoHarmonicDipole(
        vector, np.linalg.inv(precision), plane.mean_cos_declination, mean_sine, plane.effective_events
    )


def two_harmonic_dipole(counts: Counts) -> TwoHarmonicDipole:
    """`two_harmonic_events` from counts, with the same assumptions: exposure even in right ascension and in azimuth.

    The first harmonic in right ascension is the events' own for a single configuration that kept it, otherwise that of
    the bins, corrected for their width. Zenith angle and azimuth are those of the local cells, so that delta_N needs
    declinations that fill their rings evenly: a list printed to 0.1 degrees is shifted by 0.05 degrees in any ring,
    which moves delta_N by 0.003. Where that matters, use `two_harmonic_events`.

    Several configurations are each analysed with their own latitude and means, and combined by inverse covariance. A
    site at a pole adds nothing to delta_N.

    Raises:
        InputError: If there is no event, or no configuration measures delta_N.
    """
    places = counts.configurations()
    if not places:
        raise InputError("a harmonic analysis needs at least one event; the counts are empty")
    if all(math.cos(counts.sites[place[0]].latitude) < _POLE for place in places):
        raise InputError(_AT_A_POLE)
    results, means = [], []
    for place in places:
        # The events' own harmonic is that of all configurations together: a part must do without.
        part = counts if counts.num_events.size == 1 else select(counts, *place)
        local = part.n_local[0, 0, 0]
        squares = part.w2["n_local"][0, 0, 0] if part.weighted else local
        plane, site = rayleigh_of_counts(part), part.sites[0]
        vector, precision, mean_sine = _two_harmonics(
            plane, site.latitude, *local_sines(site, part.grid), local, squares
        )
        results.append((vector, precision))
        means.append((plane.mean_cos_declination, mean_sine))
    both = combine_estimates(*zip(*results, strict=True))
    weight = [float(counts.n_time[place].sum()) for place in places]
    cosine, sine = np.average(means, axis=0, weights=weight)
    return TwoHarmonicDipole(
        both.vector, both.covariance, float(cosine), float(sine), counts.effective_events, both.chi2, both.ndf
    )


_AT_A_POLE = "at a pole the local azimuth says nothing of delta_N: use rayleigh or fit, or add another site"


def _two_harmonics(plane: RayleighResult, latitude: float, sin_zenith, north_sine, weight, squares):
    """Vector, precision and <sin theta>, from sums over events or over local cells."""
    total = weight.sum()
    mean_sine = float(np.sum(weight * sin_zenith) / total)
    harmonic = 2 * np.sum(weight * north_sine) / total
    # An even acceptance has <sin^2 phi> = 1/2; the sum over the events is right for any.
    variance = 4 * np.sum(squares * north_sine**2) / total**2
    scale = math.cos(latitude) * mean_sine
    usable = math.cos(latitude) >= _POLE
    cosine = plane.mean_cos_declination
    vector = np.array([plane.a / cosine, plane.b / cosine, harmonic / scale if usable else 0.0])
    in_plane = (cosine / plane.sigma) ** 2
    return vector, np.diag([in_plane, in_plane, scale**2 / variance if usable else 0.0]), mean_sine


def local_sines(site: Site, grid: RingGrid) -> tuple[np.ndarray, np.ndarray]:
    """sin(theta) and sin(phi) of the local cells, phi the azimuth counter-clockwise from East: North over sin(theta).

    Means over each cell, whose hour angle has a triangular profile of one bin to either side. The acceptance is taken
    as constant within a cell: on bins of 1 degree this moves delta_N by 1e-4.

    Returns:
        Two arrays of shape (ring, hour_angle).
    """
    fine = max(2, math.ceil(grid.step / math.radians(1)), math.ceil(180 / grid.n_ring))
    edges = np.linspace(-np.pi / 2, np.pi / 2, grid.n_ring * fine + 1)
    dec = ((edges[1:] + edges[:-1]) / 2)[:, None]
    offset = (np.arange(2 * fine) + 0.5) / fine - 1
    angle = (grid.hour_angle[:, None] + grid.step * offset).ravel()[None, :]
    meridian = np.cos(dec) * np.cos(angle)
    north = np.sin(dec) * math.cos(site.latitude) - meridian * math.sin(site.latitude)
    sine = np.hypot(np.cos(dec) * np.sin(angle), north)
    along_dec = np.diff(np.sin(edges)).reshape(grid.n_ring, fine)
    along_dec = along_dec / along_dec.sum(axis=1, keepdims=True)
    along_hour = (1 - np.abs(offset)) / fine

    def mean(values):
        split = values.reshape(grid.n_ring, fine, grid.n_ra, 2 * fine) @ along_hour
        return np.einsum("rf,rfh->rh", along_dec, split)

    return mean(sine), mean(north / np.maximum(sine, 1e-12))


def _require_order(order: int) -> None:
    if order < 1:
        raise InputError(f"the order of a harmonic is 1 or more, not {order}")
