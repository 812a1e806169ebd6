"""What pictures of a scan show: its axes, quantities worth drawing, the best point, and slices through it."""

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
import xarray as xr

from .scan_dataset import best_point

SHOWN = {
    "fit": ("test_statistic", "amplitude", "right_ascension_deg"),
    "sample": ("elpd", "amplitude", "right_ascension_deg"),
    "predict": ("chi2", "flip_energy_TeV"),
    "backtrack": ("noise_over_quadrupole", "quadrupole", "dipole", "kappa_parallel", "kappa_perpendicular"),
    "calibrate": ("holm_p", "coverage_68", "coverage_95"),
    "map": ("hottest_significance", "coldest_significance", "hottest_post_trial_log10_p", "amplitude"),
    "toys": ("median_test_statistic", "detection_3_sigma", "detection_5_sigma", "p"),
}
"""Quantities drawn against the axes of a scan, by its task; the one that ranks the points comes before them."""

SPECTRA = {
    "predict": ("energy", ("amplitude", "right_ascension_deg")),
    "backtrack": ("degree", ("power", "shape")),
}
"""Quantities drawn against a coordinate of their own, by task."""

_TYPESET = {
    "chi2": r"$\chi^2$",
    "delta_0h": r"$\delta_{0\mathrm{h}}$",
    "delta_6h": r"$\delta_{6\mathrm{h}}$",
    "delta_N": r"$\delta_\mathrm{N}$",
    "K_global": r"$K_\mathrm{global}$",
    "K_A": r"$K_A$",
    "C_l": r"$C_\ell$",
    "C_1": "$C_1$",
    "C_2": "$C_2$",
    "<dB^2>/B_0^2": r"$\langle\delta B^2\rangle / B_0^2$",
    "B_0": "$B_0$",
    "L_c": "$L_c$",
    "1/Omega": r"$1/\Omega$",
    "cm^2/s": "cm$^2$/s",
    "degree l": r"degree $\ell$",
    "[sigma]": r"[$\sigma$]",
}
"""What labels hold that is set as a formula."""

_FORMULAS = re.compile("|".join(map(re.escape, sorted(_TYPESET, key=len, reverse=True))))

WIDE = 50.0
"""A chi2 that varies by more than this factor is drawn logarithmically."""

MOST_POINTS = 5000
"""Drawn points of a picture; more would hide each other."""

MOST_PANELS = 4
MOST_CURVES = 7
"""Curves of one panel; of an axis with more values the best one is shown."""

LEVELS = {1: 0.6827, 2: 0.9545, 3: 0.9973}
"""Probabilities of one, two and three standard deviations."""


def typeset(title: str, units: str = "") -> str:
    """A label with its unit and its formulas set, beginning with a capital."""
    label = f"{title} [{units}]" if units else title
    found = _FORMULAS.sub(lambda match: _TYPESET[match[0]], label)
    return found if label[:2] in ("K_", "C_") or label.startswith("chi2") else found[:1].upper() + found[1:]


@dataclasses.dataclass(frozen=True)
class ScanAxis:
    """An axis of a scan as a picture takes it.

    Attributes:
        name: Of the setting.
        label: With its unit.
        place: Where its values stand: the numbers, or 0, 1, .. for words; shape (value,).
        words: Text of each value, or None where they are numbers.
        log: Whether it is drawn logarithmically.
    """

    name: str
    label: str
    place: np.ndarray
    words: tuple[str, ...] | None
    log: bool

    def text(self, value: float) -> str:
        """The value at a place, with its name, in words."""
        shown = f"{value:.5g}" if self.words is None else self.words[round(value)]
        return f"{self.name} = {shown}"


def axis_of(dataset: xr.Dataset, name: str) -> ScanAxis:
    """An axis of the scan, or a coordinate of its results."""
    values, attrs = dataset[name].values, dataset[name].attrs
    label = typeset(attrs.get("long_name", name), attrs.get("units", ""))
    if values.dtype.kind in "iuf":
        log = attrs.get("scale") == "log" and bool(np.all(values[np.isfinite(values)] > 0))
        return ScanAxis(name, label, values.astype(float), None, log)
    words = [str(value) for value in values.tolist()]
    order = list(dict.fromkeys(words))
    place = np.array([order.index(each) for each in words], float)
    return ScanAxis(name, label, place, tuple(order), False)


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan as its pictures take it.

    Attributes:
        dataset: As `scan.nc` has it.
        axes: What was varied.
        grid: Whether each axis is a dimension; else all run along "point".
        best: Place of the best point along each dimension of the points; None where there is none.
        quantities: Names of what is drawn.
    """

    dataset: xr.Dataset
    axes: tuple[ScanAxis, ...]
    grid: bool
    best: dict[str, int] | None
    quantities: tuple[str, ...]

    @property
    def points(self) -> tuple[str, ...]:
        """Dimensions of the points."""
        return tuple(map(str, self.dataset["message"].dims))

    @property
    def here(self) -> dict[str, int]:
        """The best point, or else one that has a result, or the first."""
        if self.best is not None:
            return self.best
        there = np.flatnonzero(self.dataset["message"].values.ravel() == "")
        place = np.unravel_index(int(there[0]) if there.size else 0, self.dataset["message"].shape)
        return dict(zip(self.points, (int(k) for k in place), strict=True))

    def through(self, names: Sequence[str]) -> xr.Dataset:
        """The grid along some of its dimensions, the others at the best point."""
        return self.dataset.isel({dim: k for dim, k in self.here.items() if dim not in names})

    def inner(self, name: str) -> tuple[str, ...]:
        """Dimensions of a quantity other than those of the points."""
        return tuple(str(dim) for dim in self.dataset[name].dims if dim not in self.points)

    def label(self, name: str) -> str:
        """A quantity with its unit."""
        attrs = self.dataset[name].attrs
        return typeset(attrs.get("long_name", name), attrs.get("units", ""))

    def error(self, name: str) -> str | None:
        """Name of the standard error of a quantity, where it has one."""
        found = self.dataset[name].attrs.get("ancillary_variables")
        return found if found in self.dataset else None

    def held(self, names: Sequence[str]) -> str:
        """What the dimensions that are not shown are held at, in words; "" where there are none."""
        rest = [each for each in self.axes if self.grid and each.name not in names]
        return ", ".join(each.text(each.place[self.here[each.name]]) for each in rest)


def scan_of(dataset: xr.Dataset) -> Scan:
    """A scan from its dataset."""
    axes = tuple(axis_of(dataset, name) for name in json.loads(dataset.attrs["axes"]))
    best = best_point(dataset, dataset.attrs["best_quantity"], dataset.attrs["best_sense"])
    return Scan(
        dataset=dataset,
        axes=axes,
        grid=dataset.attrs["design"] == "grid",
        best=None if best is None else {str(dim): int(k) for dim, k in best["place"].items()},
        quantities=_drawn(dataset),
    )


def thinned(scan: Scan, most: int = MOST_POINTS) -> Scan:
    """A scan that is no grid with so many of its points at most, evenly spread, and the best among them."""
    if scan.grid or scan.dataset.sizes["point"] <= most:
        return scan
    kept = np.linspace(0, scan.dataset.sizes["point"] - 1, most).astype(int)
    best = None
    if scan.best is not None:
        kept = np.append(kept, scan.best["point"])
    kept = np.unique(kept)
    if scan.best is not None:
        best = {"point": int(np.searchsorted(kept, scan.best["point"]))}
    axes = tuple(dataclasses.replace(axis, place=axis.place[kept]) for axis in scan.axes)
    return dataclasses.replace(scan, dataset=scan.dataset.isel(point=kept), axes=axes, best=best)


def _drawn(dataset: xr.Dataset) -> tuple[str, ...]:
    """Quantities with a number somewhere, the one that ranks the points first."""
    names = (dataset.attrs["best_quantity"], *SHOWN.get(dataset.attrs["run"], ()))
    return tuple(name for name in dict.fromkeys(names) if has_numbers(dataset, name))[:MOST_PANELS]


def has_numbers(dataset: xr.Dataset, name: str) -> bool:
    """Whether there is such a quantity, and a finite number in it."""
    if name not in dataset.data_vars or dataset[name].dtype.kind not in "iufb":
        return False
    return bool(np.isfinite(dataset[name].values.astype(float)).any())


def is_angle(name: str) -> bool:
    """Whether a quantity is an angle [deg] on a full circle."""
    return name.endswith(("right_ascension_deg", "phase_deg"))


def unwrapped(values: np.ndarray, name: str) -> np.ndarray:
    """Angles on a full circle as numbers without a jump, about their circular mean; others as they are."""
    if not is_angle(name) or not np.isfinite(values).any():
        return values
    turn = np.radians(values[np.isfinite(values)])
    centre = np.degrees(np.arctan2(np.sin(turn).mean(), np.cos(turn).mean())) % 360
    return centre + (values - centre + 180) % 360 - 180


def excess(dataset: xr.Dataset, name: str, values: np.ndarray) -> np.ndarray | None:
    """2 (ln L_max - ln L) of a quantity that is a chi2 or a log-likelihood; None of others."""
    kind = dataset[name].attrs.get("statistic")
    if kind not in ("chi2", "log_likelihood") or not np.isfinite(values).any():
        return None
    return values - np.nanmin(values) if kind == "chi2" else 2 * (np.nanmax(values) - values)


def is_wide(dataset: xr.Dataset, name: str, values: np.ndarray) -> bool:
    """Whether values of a chi2 are so far apart that only their logarithms can be seen together."""
    seen = values[np.isfinite(values)]
    chi2 = dataset[name].attrs.get("statistic") == "chi2"
    return bool(chi2 and seen.size and seen.min() > 0 and seen.max() > WIDE * seen.min())
