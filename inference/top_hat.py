"""Search for clusters of events: discs of several radii about many centres above several energies, with its penalty.

Of N events above an energy, n fall within a disc that holds the fraction f of the exposure; the chance of n or more is
binomial. The smallest chance of the scan is compared with the smallest ones of isotropic skies, drawn from the same
exposure with the same energies. Directions and exposure are in one frame: both J2000, or both of date.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from diffcr.errors import InputError

from .li_ma import binomial_log10_p, half_deviance, li_ma
from .top_hat_exposure import Exposure

_PAIRS = 4_000_000
"""Pairs of centre and event held at once."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """One disc.

    Attributes:
        right_ascension, declination: Of its centre [rad].
        radius: [rad].
        threshold: Smallest energy of the events, in the units they were given in.
        num_on: Events within the disc.
        num_total: Events above the threshold.
        fraction: Of the exposure, within the disc.
        log10_p: log10 of the binomial chance of num_on or more, before any penalty.
    """

    right_ascension: float
    declination: float
    radius: float
    threshold: float
    num_on: int
    num_total: int
    fraction: float
    log10_p: float

    @property
    def expected(self) -> float:
        """Events expected within the disc for isotropy, fraction times num_total."""
        return self.fraction * self.num_total

    @property
    def significance(self) -> float:
        """Li & Ma's, for alpha = exposure in the disc over that outside; NaN where it holds all, or none."""
        if not 0 < self.fraction < 1:
            return math.nan
        return float(li_ma(self.num_on, self.num_total - self.num_on, self.fraction / (1 - self.fraction)))

    def as_dict(self) -> dict:
        """For JSON; angles in degrees."""
        angles = {f"{n}_deg": math.degrees(getattr(self, n)) for n in ("right_ascension", "declination", "radius")}
        names = ("threshold", "num_on", "num_total", "fraction", "expected", "log10_p", "significance")
        return angles | {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class TopHatScan:
    """What a scan found, and how often isotropic skies show as much.

    Attributes:
        best: The disc with the smallest chance.
        thresholds: Scanned energies, shape (threshold,).
        radii: Scanned radii [rad], shape (radius,).
        num_above: Events above each threshold, shape (threshold,).
        log10_p: Smallest over the centres, shape (threshold, radius).
        num_centres: Centres of the scan.
        sky_minima: Smallest log10 p of each isotropic sky, shape (sky,).
    """

    best: Spot
    thresholds: Float[np.ndarray, " threshold"]
    radii: Float[np.ndarray, " radius"]
    num_above: np.ndarray
    log10_p: Float[np.ndarray, "threshold radius"]
    num_centres: int
    sky_minima: Float[np.ndarray, " sky"]

    @property
    def num_as_extreme(self) -> int:
        """Isotropic skies whose smallest chance is as small, or smaller."""
        return int(np.sum(self.sky_minima <= self.best.log10_p + 1e-12))

    @property
    def penalised_p(self) -> float:
        """Fraction of the isotropic skies that are as extreme; NaN without skies, see `limit_95` where it is 0."""
        return self.num_as_extreme / len(self.sky_minima) if len(self.sky_minima) else math.nan

    @property
    def penalised_error(self) -> float:
        """Binomial standard error of `penalised_p` from the number of skies."""
        return (
            math.sqrt(self.penalised_p * (1 - self.penalised_p) / len(self.sky_minima))
            if len(self.sky_minima)
            else math.nan
        )

    @property
    def limit_95(self) -> float:
        """One-sided 95 % upper limit of the penalised chance (Clopper & Pearson); 3 / skies where none is."""
        k, n = self.num_as_extreme, len(self.sky_minima)
        return float(special.betaincinv(k + 1, n - k, 0.95)) if k < n else 1.0

    def as_dict(self) -> dict:
        """For JSON; angles in degrees."""
        return {
            "best": self.best.as_dict(),
            "thresholds": self.thresholds.tolist(),
            "radii_deg": np.degrees(self.radii).tolist(),
            "num_above": self.num_above.tolist(),
            "log10_p": self.log10_p.tolist(),
            "num_centres": self.num_centres,
            "num_skies": len(self.sky_minima),
            "num_as_extreme": self.num_as_extreme,
            "penalised_p": self.penalised_p if len(self.sky_minima) else None,
            "penalised_error": self.penalised_error if len(self.sky_minima) else None,
            "penalised_limit_95": self.limit_95,
        }


def top_hat_scan(
    energy: ArrayLike,
    right_ascension: ArrayLike,
    declination: ArrayLike,
    exposure: Exposure,
    thresholds: ArrayLike,
    radii: ArrayLike,
    centres: str | int | tuple[np.ndarray, np.ndarray] = 32,
    num_skies: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> TopHatScan:
    """Scan discs for the least probable excess, and penalise for having scanned.

    Args:
        energy: Energies, any unit, shape (event,).
        right_ascension, declination: [rad], shape (event,), in the frame of the exposure.
        exposure: Where events of an isotropic sky would fall.
        thresholds: Smallest energies to try; events at the threshold count.
        radii: Radii of the discs to try [rad]; events at the radius count.
        centres: An nside, for the pixel centres of a HEALPix map; "events", for every event above the threshold, which
            is then itself counted neither on nor in all; or (right_ascension, declination) of targets [rad].
        num_skies: Isotropic skies to draw for the penalty. Centres that are events move with them.
        seed: Of the skies.
        progress: Called with 1 after each sky.

    Raises:
        InputError: If the lists differ in length, an event lies where the exposure is zero, no threshold leaves two
            events, a radius is not between 0 and 180 degrees, or no disc holds exposure.
    """
    energy, ra, dec = (np.asarray(x, float) for x in (energy, right_ascension, declination))
    thresholds, radii = _checked(energy, ra, dec, exposure, thresholds, radii)
    order = np.argsort(-energy, kind="stable")
    energy, ra, dec = energy[order], ra[order], dec[order]
    # With falling energies the events above threshold k are the first num_above[k].
    num_above = np.searchsorted(-energy, -thresholds, side="right")
    search = _Search(num_above, radii, exposure, _centres(centres))
    least = search.scan(ra, dec)
    k, r = np.unravel_index(np.argmin(least.log10_p), least.log10_p.shape)
    where = least.centre[k, r]
    at = (ra, dec) if search.centres is None else search.centres
    best = Spot(
        right_ascension=float(at[0][where] % (2 * np.pi)),
        declination=float(at[1][where]),
        radius=float(radii[r]),
        threshold=float(thresholds[k]),
        num_on=int(least.on[k, r]),
        num_total=int(least.total[k, r]),
        fraction=float(least.fraction[k, r]),
        log10_p=float(least.log10_p[k, r]),
    )
    rng = np.random.default_rng(seed)
    minima = np.zeros(num_skies)
    for i in range(num_skies):
        minima[i] = search.scan(*exposure.draw(rng, len(energy))).log10_p.min()
        if progress:
            progress(1)
    return TopHatScan(best, thresholds, radii, num_above, least.log10_p, len(at[0]), minima)


def top_hat(
    energy: ArrayLike,
    right_ascension: ArrayLike,
    declination: ArrayLike,
    exposure: Exposure,
    centre: tuple[float, float],
    threshold: float,
    radius: float,
) -> Spot:
    """One disc chosen beforehand: `top_hat_scan` of a single target, energy and radius.

    Args:
        energy: Energies, any unit, shape (event,).
        right_ascension, declination: [rad], shape (event,).
        exposure: In the frame of the directions.
        centre: Right ascension and declination of the target [rad].
        threshold: Smallest energy.
        radius: [rad].
    """
    target = (np.array([centre[0]], float), np.array([centre[1]], float))
    chosen = (np.array([threshold], float), np.array([radius], float))
    return top_hat_scan(energy, right_ascension, declination, exposure, *chosen, centres=target).best


class _Least(NamedTuple):
    """Least chance over centres, and where: each of shape (threshold, radius)."""

    log10_p: np.ndarray
    centre: np.ndarray
    on: np.ndarray
    total: np.ndarray
    fraction: np.ndarray

    def merged(self, other: "_Least", first: int) -> "_Least":
        """The smaller of the two; the centres of the other are counted from `first`."""
        better = other.log10_p < self.log10_p
        other = other._replace(centre=other.centre + first)
        return _Least(*(np.where(better, new, old) for old, new in zip(self, other, strict=True)))


class _Search:
    """What all skies of a scan share: the centres and the exposure of their discs."""

    def __init__(self, num_above: np.ndarray, radii: np.ndarray, exposure: Exposure, centres):
        self.num_above, self.radii, self.centres = num_above, radii, centres
        # A rounding's slack, so that an event printed on the edge is inside.
        self.edges = np.cos(radii) - 1e-12
        if centres is None:
            self.lookup = exposure.disc_lookup(radii)
            return
        fractions = exposure.disc_fraction(*centres, radii)
        order = np.argsort(centres[1], kind="stable") if exposure.zonal else np.arange(len(fractions))
        order = order[fractions[order].any(axis=1)]
        if not order.size:
            raise InputError("no disc of the scan holds any exposure: move the centres, or widen the radii")
        self.centres, self.fractions = tuple(x[order] for x in centres), fractions[order]
        # Of the centres that see the same, those with most events have the least chance.
        self.differs = np.append(True, (np.diff(self.fractions, axis=0) != 0).any(axis=1))

    def scan(self, ra: np.ndarray, dec: np.ndarray) -> _Least:
        """The least chance for each threshold and radius, of events in the order of falling energy."""
        vectors = _vectors(*((ra, dec) if self.centres is None else self.centres))
        events = _vectors(ra, dec)
        step = max(1, _PAIRS // max(len(ra), len(self.num_above) * len(self.radii)))
        best = None
        for first in range(0, len(vectors), step):
            part = np.arange(first, min(first + step, len(vectors)))
            on = self._count(vectors[part] @ events.T)
            found = self._about_events(on, part, ra, dec) if self.centres is None else self._about_centres(on, part)
            best = found if best is None else best.merged(found, first)
        return best

    def _about_centres(self, on: np.ndarray, part: np.ndarray) -> _Least:
        starts = np.flatnonzero(self.differs[part] | (part == part[0]))
        size = len(part)
        most = np.maximum.reduceat(on * size + np.arange(size)[::-1, None, None], starts, axis=0)
        found = _least(most // size, self.num_above[:, None], self.fractions[part[starts]][:, None, :])
        code = np.take_along_axis(most, found.centre[None], axis=0)[0]
        return found._replace(centre=size - 1 - code % size)

    def _about_events(self, on: np.ndarray, part: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> _Least:
        # The event at the centre is no evidence; below the threshold it is no centre.
        above = (part[:, None] < self.num_above)[:, :, None]
        total = np.where(above, self.num_above[None, :, None] - 1, self.num_above[None, :, None])
        return _least(np.where(above, on - 1, 0), total, self.lookup(ra[part], dec[part])[:, None, :])

    def _count(self, cosine: np.ndarray) -> np.ndarray:
        """Events in each disc, from cosines (centre, event); shape (centre, threshold, radius)."""
        num_e, num_r = len(self.num_above), len(self.radii)
        centre, event = np.nonzero(cosine >= self.edges[-1])
        # The smallest disc that holds the event, and how many of the thresholds are too high for it.
        ring = np.searchsorted(-self.edges, -cosine[centre, event])
        group = np.searchsorted(self.num_above[::-1], event, side="right")
        cell = (centre * (num_e + 1) + group) * num_r + ring
        counts = np.bincount(cell, minlength=len(cosine) * (num_e + 1) * num_r)
        counts = counts.reshape(len(cosine), num_e + 1, num_r)[:, :num_e]
        return counts.cumsum(axis=2).cumsum(axis=1)[:, ::-1]


def _least(on: np.ndarray, total: np.ndarray, fraction: np.ndarray) -> _Least:
    """Least binomial chance over the centres (axis 0), from arrays that broadcast to (centre, threshold, radius).

    The deviance brackets every chance; only those that may be the least are computed.
    """
    on, total, fraction = np.broadcast_arrays(on, total, fraction)
    excess = (on > total * fraction) & (fraction > 0) & (fraction < 1)
    deviance = np.full(on.shape, -np.inf)
    k, n = on[excess], total[excess]
    deviance[excess] = half_deviance(k, n, fraction[excess])
    reach = np.copy(deviance)
    reach[excess] += 0.5 * np.log(np.maximum(8 * k * (1 - k / n), 1))
    candidate = excess & (reach >= deviance.max(axis=0))
    # Without an excess anywhere the least chance is that of the discs as they are; without exposure it is 1.
    candidate |= ~excess.any(axis=0) & (fraction > 0)
    log_p = np.zeros(on.shape)
    log_p[candidate] = binomial_log10_p(on[candidate], total[candidate], fraction[candidate])
    place = np.argmin(log_p, axis=0)
    picked = (np.take_along_axis(x, place[None], axis=0)[0] for x in (on, total, fraction))
    return _Least(np.take_along_axis(log_p, place[None], axis=0)[0], place, *picked)


def _centres(centres: str | int | tuple[np.ndarray, np.ndarray]):
    if isinstance(centres, str):
        if centres != "events":
            raise InputError(
                f"centres are 'events', a HEALPix nside or (right ascension, declination), not {centres!r}"
            )
        return None
    if isinstance(centres, int):
        import healpy

        if centres < 1 or centres & (centres - 1):
            raise InputError(f"the nside of the centres must be a power of two, not {centres}")
        theta, phi = healpy.pix2ang(centres, np.arange(12 * centres**2))
        return phi, np.pi / 2 - theta
    ra, dec = (np.atleast_1d(np.asarray(x, float)) for x in centres)
    if ra.shape != dec.shape or not ra.size or not np.all(np.isfinite(ra) & (np.abs(dec) <= np.pi / 2 + 1e-9)):
        raise InputError(
            "targets need as many right ascensions as declinations, in radians, declinations within +-pi/2"
        )
    return ra, dec


def _checked(energy, ra, dec, exposure: Exposure, thresholds, radii) -> tuple[np.ndarray, np.ndarray]:
    if not (energy.ndim == 1 and energy.shape == ra.shape == dec.shape):
        raise InputError(
            f"energies, right ascensions and declinations differ in shape: {energy.shape}, {ra.shape}, {dec.shape}"
        )
    if not np.all(np.isfinite(energy) & np.isfinite(ra) & (np.abs(dec) <= np.pi / 2 + 1e-9)):
        raise InputError("energies and directions must be finite, declinations within +-pi/2 rad; convert degrees")
    thresholds, radii = (np.atleast_1d(np.asarray(x, float)) for x in (thresholds, radii))
    if not radii.size or not np.all(np.diff(radii) > 0) or radii[0] <= 0 or radii[-1] > np.pi:
        raise InputError("radii must increase and lie between 0 and pi rad (180 degrees); convert degrees")
    if not thresholds.size or not np.all(np.diff(thresholds) > 0):
        raise InputError("the energy thresholds must increase, and be at least one")
    if np.sum(energy >= thresholds[0]) < 2:
        raise InputError(f"fewer than two of {energy.size} events lie above the lowest threshold: lower it")
    outside = int(np.sum(~(exposure.density(dec, ra % (2 * np.pi)) > 0)))
    # Rounding puts the odd event beyond the edge.
    if outside > 1e-3 * energy.size:
        raise InputError(
            f"{outside} of {energy.size} events lie where the exposure is zero: cut them, or widen the "
            "exposure's zenith range"
        )
    return thresholds, radii


def _vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
