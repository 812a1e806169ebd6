"""Classical estimators of the anisotropy: the Rayleigh analysis in right ascension."""

import dataclasses
import math

import numpy as np

from diffcr.errors import InputError

from .data import Counts


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


def _require_order(order: int) -> None:
    if order < 1:
        raise InputError(f"the order of a harmonic is 1 or more, not {order}")
