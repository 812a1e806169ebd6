"""Post-trial significance: how often an isotropic sky shows as strong a disc as the strongest one seen."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from diffcr.errors import InputError

from .discs import DiscScan
from .maps import Exposure, correlated

_FEW_EVENTS = 2e6
"""Up to here events are drawn one by one; beyond, the counts of each time bin and local cell."""

_NORMAL = 1e4
"""Expected counts of a cell above which Poisson numbers are drawn as rounded normal ones."""


@dataclasses.dataclass(frozen=True)
class PostTrial:
    """The hottest (or coldest) disc of the data among those of isotropic skies.

    Attributes:
        strongest: Its pre-trial significance, positive for an excess, negative for a deficit.
        maxima: Strongest significance of the same sign in each isotropic sky, as absolute values, shape (sky,).
    """

    strongest: float
    maxima: np.ndarray

    @property
    def larger(self) -> int:
        """Isotropic skies with as strong a disc."""
        return int((self.maxima >= abs(self.strongest)).sum())

    @property
    def fraction(self) -> float:
        """Their fraction."""
        return self.larger / len(self.maxima)

    @property
    def upper_limit_95(self) -> float:
        """95 % upper limit of the chance probability from their number (Clopper & Pearson 1934)."""
        return float(special.betaincinv(self.larger + 1, max(len(self.maxima) - self.larger, 1e-9), 0.95))

    @functools.cached_property
    def tail(self) -> tuple[float, float]:
        """(N, gamma) of P(maximum < S) = exp(-N q^gamma), q = -ln(1 - p), p the pre-trial chance; maximum likelihood.

        gamma = 1 is N independent discs: (1 - p)^N. Discs with sharp edges that overlap have smaller ones: the sky has
        the more independent ones, the higher the threshold (Adler & Taylor 2007, Random Fields and Geometry).
        """
        from scipy import optimize

        # -ln q has Gumbel's distribution, with scale 1 / gamma.
        depth = -np.log(-special.log_ndtr(self.maxima))
        if len(depth) < 10 or np.ptp(depth) == 0:
            return float(len(depth) / np.exp(-depth).sum()), 1.0

        def slope(gamma):
            weight = np.exp(-gamma * (depth - depth.min()))
            return 1 / gamma - depth.mean() + (weight @ depth) / weight.sum()

        gamma = float(optimize.brentq(slope, 0.01, 50.0)) if slope(50.0) < 0 else 50.0
        return float(len(depth) / np.exp(-gamma * depth).sum()), gamma

    @property
    def log10_p_tail(self) -> float:
        """log10 of the chance of a maximum as strong, from the fitted `tail`: also beyond the skies drawn."""
        number, gamma = self.tail
        strongest = abs(self.strongest)
        # Beyond 6 sigma q is p to rounding, and what is left of 1 - p none at all.
        log_q = math.log(-special.log_ndtr(strongest)) if strongest < 6 else float(special.log_ndtr(-strongest))
        log_mean = math.log(number) + gamma * log_q
        return (log_mean if log_mean < -18 else math.log(-math.expm1(-math.exp(log_mean)))) / math.log(10)

    @property
    def counted(self) -> bool:
        """Whether `log10_p` is the counted fraction of skies (ten or more as strong) and not the fitted tail."""
        return self.larger >= 10

    @property
    def log10_p(self) -> float:
        """log10 of the post-trial chance probability."""
        return math.log10(self.fraction) if self.counted else self.log10_p_tail

    @property
    def significance(self) -> float:
        """One-sided Gaussian significance of `log10_p`; negative where the chance is above one half."""
        return -float(special.ndtri_exp(self.log10_p * math.log(10)))


def isotropic_maxima(
    scan: DiscScan, skies: int, rng: np.random.Generator, progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest disc significance of isotropic skies with the fitted rates and acceptances; each (sky,).

    Each sky is judged as the data are: with its own rate and acceptance, from its own marginals.

    Args:
        scan: The discs.
        skies: How many skies, at least 1.
        rng: NumPy generator.
        progress: Called with the number of skies done.

    Raises:
        InputError: If skies is not at least 1, or no disc has enough exposure to be judged.
    """
    if skies < 1:
        raise InputError(f"the number of isotropic skies must be at least 1, not {skies}")
    if not (scan.information > 0).any():
        raise InputError("no disc has enough exposure to be judged: use another --smoothing")
    high, low = np.empty(skies), np.empty(skies)
    for start in range(0, skies, 16):
        drawn = [draw_sky(scan.seen, rng) for _ in range(min(16, skies - start))]
        sky, background = (np.stack(x) for x in zip(*drawn, strict=True))
        significance, _ = scan.significance(*scan.null_sums(sky, background))
        part = slice(start, start + len(drawn))
        high[part] = np.nanmax(significance, axis=(-2, -1))
        low[part] = np.nanmin(significance, axis=(-2, -1))
        if progress is not None:
            progress(len(drawn))
    return high, low


def draw_sky(seen: Sequence[Exposure], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts of an isotropic sky and the isotropic background fitted to the same counts; both (ring, ra)."""
    sky, background = (np.zeros_like(seen[0].sky) for _ in range(2))
    for e in seen:
        one, time, local = draw_isotropic(e, rng)
        sky += one
        background += correlated(e.rate_of(time), local)
    return sky, background


def draw_isotropic(e: Exposure, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson counts of an isotropic sky for a configuration's rate and acceptance: (sky, time, local)."""
    rings, n = e.sky.shape
    if e.total < _FEW_EVENTS:
        number = max(int(rng.poisson(e.total)), 1)
        times = rng.choice(n, number, p=e.rate)
        cells = rng.choice(rings * n, number, p=e.local.ravel() / e.total)
        ring, hour = np.divmod(cells, n)
        sky = np.bincount(ring * n + (times - hour) % n, minlength=rings * n)
        time, local = np.bincount(times, minlength=n), np.bincount(cells, minlength=rings * n)
        return sky.reshape(rings, n).astype(float), time.astype(float), local.reshape(rings, n).astype(float)
    sky, time, local = np.zeros((rings, n)), np.zeros(n), np.zeros((rings, n))
    column = (np.arange(n)[:, None] - np.arange(n)) % n
    for ring in np.flatnonzero(e.local.any(axis=1)):
        seen = np.flatnonzero(e.local[ring])
        mean = e.rate[:, None] * e.local[ring, seen]
        if mean.min() > _NORMAL:
            drawn = np.rint(mean + np.sqrt(mean) * rng.standard_normal(mean.shape))
        else:
            drawn = rng.poisson(mean).astype(float)
        sky[ring] = np.bincount(column[:, seen].ravel(), drawn.ravel(), n)
        local[ring, seen] = drawn.sum(axis=0)
        time += drawn.sum(axis=1)
    return sky, time, local
