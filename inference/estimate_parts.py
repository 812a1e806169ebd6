"""What `estimates` is to run, and the parts of the data that it runs on."""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from diffcr.errors import InputError

from .control_runs import Events, to_j2000
from .data import Counts
from .fit import FitResult, fit
from .map_products import frame_of
from .maps import exposures
from .power import Information, sky_information
from .scrambling import DAY

METHODS = (
    *("likelihood", "known-exposure", "rayleigh", "two-harmonic", "east-west", "east-west-directions"),
    *("scrambling", "projection", "pseudo-power", "power", "two-point"),
    *("frames", "solar-index", "stability", "top-hat"),
)
"""Names of the methods; the last four need the events themselves and run on all of them together."""

OF_ALL = METHODS[-4:]
"""Those that run on all events together."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run, and how.

    Attributes:
        methods: Of `METHODS`.
        bands: Bands of declination (lowest, highest) of date [rad], beside the whole field of view.
        l_max: Highest degree of the power spectra; default 20, or what the grid resolves.
        windows: Windows of time scrambling [h].
        exposure: Known acceptance by observatory, as for `fit`; None where it is not known.
        spectral_index: Gamma, for the orbital lines.
        by: Periods of the stability, "year" or "season".
        targets: (right ascension, declination, radius) of discs chosen beforehand, J2000 [rad].
        blind_search: Whether to search the whole sky for discs instead.
        thresholds: Energies of the search; default the smallest, and for a blind search those with half, a quarter, ...
            of the events above them.
        radii: Radii of a blind search [rad].
        skies: Isotropic skies for the penalty of the search.
        seed: Of the random numbers.
        search_exposure: "sommers" (a flat array up to its zenith cut) or "fitted" (by the likelihood).
    """

    methods: tuple[str, ...] = METHODS
    bands: tuple[tuple[float, float], ...] = ()
    l_max: int | None = None
    windows: tuple[float, ...] = (DAY, 4.0)
    exposure: dict[str, np.ndarray] | None = None
    spectral_index: float = 2.7
    by: str = "year"
    targets: tuple[tuple[float, float, float], ...] = ()
    blind_search: bool = False
    thresholds: tuple[float, ...] | None = None
    radii: tuple[float, ...] = tuple(np.radians(range(3, 31, 3)).tolist())
    skies: int = 200
    seed: int = 0
    search_exposure: str = "sommers"

    def __post_init__(self):
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            what = f"unknown method {unknown[0]!r}" if unknown else "no method was named"
            raise InputError(f"{what}: choose of {', '.join(METHODS)}")
        if self.search_exposure not in ("sommers", "fitted"):
            raise InputError(f"unknown exposure {self.search_exposure!r} of the search: choose sommers or fitted")


@dataclasses.dataclass(frozen=True)
class Part:
    """Counts of one energy bin (or all) and one band of declination (or all), and their events where known."""

    energy: str
    band: tuple[float, float] | None
    counts: Counts
    settings: Settings
    events: Callable[[], Events]

    @property
    def label(self) -> str:
        """Readable name."""
        where = "" if self.band is None else ", declination {:.4g} to {:.4g}".format(*np.degrees(self.band))
        return ("all" if self.energy == "all" else f"energy {self.energy}") + where

    @functools.cached_property
    def turn(self) -> np.ndarray:
        """(delta_0h, delta_6h) of date to the frame of the results."""
        return to_j2000(self.counts)[0]

    @functools.cached_property
    def shift(self) -> float:
        """Right ascension of date minus that of the results [rad]: the turn about the axis alone."""
        rotation = frame_of(self.counts).to_date
        return math.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])

    @functools.cached_property
    def fitted(self) -> FitResult:
        """The likelihood fit of the dipole."""
        return fit(self.counts).require_converged()

    @functools.cached_property
    def information(self) -> Information:
        """Score and information of the multipoles to l_max."""
        highest = (min(self.counts.grid.shape) - 1) // 2
        asked = self.settings.l_max
        return sky_information(self.counts, min(20, highest) if asked is None else asked)

    @functools.cached_property
    def sky(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts over background minus one, and the background, in effective events; 24 h, shape (ring, ra)."""
        seen = exposures(self.counts)
        expected = sum(e.background for e in seen)
        inside = expected > 0
        data = sum(e.sky for e in seen)
        return np.where(inside, data / np.where(inside, expected, 1.0) - 1, 0.0), expected
