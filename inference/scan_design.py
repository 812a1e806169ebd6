"""Which points a scan visits: axes of listed values, ranges or distributions, and the designs that combine them."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from diffcr.errors import InputError

from .nearest import require_known
from .scan_task import Setting
from .source_priors import Prior, read_prior

DRAWN = ("latin-hypercube", "sobol", "random")
"""Designs that draw their points: their axes may be ranges without a number, and distributions."""

DESIGNS = ("grid", "list", *DRAWN)

MOST_POINTS = 1_000_000
"""Points of one scan at most: each is a file."""

_RANGE = ("from", "to", "number", "scale")
_TABLE = (*_RANGE, "distribution")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One setting that a scan varies.

    Attributes:
        setting: What it is.
        values: Its values where they are listed or evenly spaced, as `Setting.check` gives them; otherwise empty.
        prior: The distribution that it is drawn from where there are no values.
        log: Whether its values are evenly spaced, or drawn, in the logarithm.
    """

    setting: Setting
    values: tuple[Any, ...] = ()
    prior: Prior | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """Name of the setting."""
        return self.setting.name

    def at(self, share: Float[np.ndarray, " point"]) -> list[Any]:
        """Values below which lie the given shares of the distribution; of a list, every entry has the same share."""
        if self.values:
            return [self.values[min(int(u * len(self.values)), len(self.values) - 1)] for u in share]
        if self.setting.kind is int:
            low, high = self.prior.numbers
            return [int(low + min(math.floor(u * (high - low + 1)), high - low)) for u in share]
        return [_rounded(x) for x in _quantile(self.prior, np.clip(share, 1e-12, 1 - 1e-12))]


@dataclasses.dataclass(frozen=True)
class Design:
    """How axes are combined into points.

    Attributes:
        kind: "grid": every value of one with every value of the others; "list": axes of equal length side by side;
            "latin-hypercube", "sobol" or "random": drawn.
        axes: What is varied.
        points: Number of drawn points. The first points of a longer Sobol or random design are those of a shorter one.
        seed: Of drawn points.
    """

    kind: str
    axes: tuple[Axis, ...]
    points: int | None = None
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis of a grid; otherwise the number of points."""
        if self.kind == "grid":
            return tuple(len(axis.values) for axis in self.axes)
        return (len(self.axes[0].values) if self.kind == "list" else self.points,)

    def rows(self) -> list[dict[str, Any]]:
        """The varied settings of every point; in a grid the last axis runs fastest."""
        names = [axis.name for axis in self.axes]
        if self.kind == "grid":
            columns = list(itertools.product(*(axis.values for axis in self.axes)))
        elif self.kind == "list":
            columns = list(zip(*(axis.values for axis in self.axes), strict=True))
        else:
            shares = _shares(self.kind, self.points, len(self.axes), self.seed)
            columns = list(zip(*(axis.at(shares[:, k]) for k, axis in enumerate(self.axes)), strict=True))
        return [dict(zip(names, row, strict=True)) for row in columns]


def is_axis_table(entry: Any) -> bool:
    """Whether this is one axis, rather than a table of further names."""
    return isinstance(entry, Mapping) and any(key in entry for key in _TABLE)


def axis_of(setting: Setting, entry: Any, drawn: bool, where: str) -> Axis:
    """An axis from what a scan file says of it.

    Args:
        setting: What is varied.
        entry: A list of values; {from, to, number, scale}; or {distribution, ..} as a prior in a model file.
        drawn: Whether the design draws points; then ranges have no number.
        where: What messages begin with, such as "scan.toml: [vary] energy_min".

    Raises:
        InputError: If it is empty, repeats a value, or does not suit the setting or the design.
    """
    if isinstance(entry, Mapping):
        if setting.kind not in (int, float):
            raise InputError(f"{where} is no number: give a list of its values")
        if "distribution" in entry:
            return _distribution(setting, entry, drawn, where)
        return _range(setting, entry, drawn, where)
    if not isinstance(entry, list | tuple):
        raise InputError(
            f"{where} must be a list of values or a range {{ from = 1, to = 3, number = 5 }}, not {entry!r}"
        )
    if not entry:
        raise InputError(f"{where} is empty; list its values, or move it to [fixed] with one")
    return Axis(setting, tuple(_checked(setting, value, where) for value in entry))


def design_of(table: Mapping[str, Any], axes: tuple[Axis, ...], where: str) -> Design:
    """A design from the table [design] of a scan file.

    Raises:
        InputError: If its kind is unknown, axes do not suit it, or it has too many points.
    """
    kind = kind_of(table, where)
    design = Design(kind, axes, *_points_and_seed(table, kind, where))
    if kind == "list":
        lengths = {axis.name: len(axis.values) for axis in axes}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {number}" for name, number in lengths.items())
            raise InputError(f"{where}: axes side by side must have equally many values, not {told}")
        _require_different(design.rows(), f"{where}: [vary] repeats the point")
    if kind == "grid":
        for axis in axes:
            _require_different(axis.values, f"{where}: [vary] {axis.name} repeats the value")
    # The product of whole numbers, which does not overflow.
    number = math.prod(design.shape)
    if number > MOST_POINTS:
        raise InputError(f"{where}: {number} points are more than {MOST_POINTS}; take fewer values, or draw points")
    return design


def kind_of(table: Mapping[str, Any], where: str) -> str:
    """Kind of the design.

    Raises:
        InputError: If it is unknown.
    """
    for key in table:
        require_known(key, ("kind", "points", "seed"), f"{where}: the table [design] has no")
    kind = table.get("kind", "grid")
    if not isinstance(kind, str):
        raise InputError(f"{where}: [design] kind must be one of {', '.join(DESIGNS)}, not {kind!r}")
    require_known(kind, DESIGNS, f"{where}: [design] kind cannot be")
    return kind


def _points_and_seed(table: Mapping[str, Any], kind: str, where: str) -> tuple[int | None, int]:
    if kind not in DRAWN:
        for key in ("points", "seed"):
            if key in table:
                raise InputError(f"{where}: [design] {key} is of drawn points; leave it out of a {kind}")
        return None, 0
    for key, least in (("points", 1), ("seed", 0)):
        value = table.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{where}: [design] {key} must be a whole number of at least {least}, not {value!r}")
    points = table["points"]
    if kind == "sobol" and points & (points - 1):
        low = 1 << (points.bit_length() - 1)
        raise InputError(f"{where}: [design] points of sobol must be a power of two, such as {low} or {2 * low}")
    return points, table.get("seed", 0)


def _require_different(values, what: str) -> None:
    seen = set()
    for value in values:
        text = json.dumps(value, sort_keys=True)
        if text in seen:
            shown = ", ".join(f"{k} = {v}" for k, v in value.items()) if isinstance(value, dict) else value
            raise InputError(f"{what} {shown}; leave one out")
        seen.add(text)


def _checked(setting: Setting, value: Any, where: str) -> Any:
    try:
        return setting.check(value)
    except InputError as error:
        raise InputError(f"{where.removesuffix(setting.name)}{error}") from error


def _range(setting: Setting, entry: Mapping[str, Any], drawn: bool, where: str) -> Axis:
    for key in entry:
        require_known(key, _RANGE, f"{where} has no")
    for key in ("from", "to", *(() if drawn else ("number",))):
        if key not in entry:
            raise InputError(f"{where} needs {key}: {{ from = 1, to = 3{'' if drawn else ', number = 5'} }}")
    if drawn and "number" in entry:
        raise InputError(f"{where}: number has no effect where points are drawn; leave it out, or list the values")
    low, high = (_checked(setting, entry[key], where) for key in ("from", "to"))
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise InputError(f"{where}: scale must be linear or log, not {scale!r}")
    if isinstance(low, str) or isinstance(high, str) or not low < high:
        raise InputError(f"{where}: from {low!r} is not below to {high!r}")
    if scale == "log" and not low > 0:
        raise InputError(f"{where}: on a log scale from must be above 0, not {low:g}")
    if drawn:
        name = "log-uniform" if scale == "log" else "uniform"
        return _distribution(setting, {"distribution": name, "low": low, "high": high}, drawn, where)
    number = entry["number"]
    if isinstance(number, bool) or not isinstance(number, int) or not 2 <= number <= MOST_POINTS:
        raise InputError(f"{where}: number must be a whole number of at least 2, not {number!r}")
    spaced = np.geomspace(low, high, number) if scale == "log" else np.linspace(low, high, number)
    return Axis(setting, tuple(_checked(setting, _rounded(x), where) for x in spaced), log=scale == "log")


def _distribution(setting: Setting, entry: Mapping[str, Any], drawn: bool, where: str) -> Axis:
    if not drawn:
        raise InputError(
            f"{where}: a distribution needs drawn points: add a table [design] with kind {' or '.join(DRAWN)}, or give "
            "a range with a number"
        )
    start = where.removesuffix(setting.name).removesuffix(" [vary] ").removesuffix(":")
    low = max(setting.low, setting.above)
    prior = read_prior(setting.name, entry, low, setting.high, 1, start, setting.default)
    if setting.kind is int and not (prior.kind == "uniform" and all(x == int(x) for x in prior.numbers)):
        raise InputError(f"{where} is a whole number: list its values, or give a uniform range between whole numbers")
    return Axis(setting, prior=prior, log=prior.kind.startswith("log"))


def _rounded(value: float) -> float:
    # The last digits of powers and quantiles differ between machines; points must not.
    return float(f"{value:.12g}")


def _quantile(prior: Prior, share: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Value below which lies a share of the distribution, with 64-bit floats whatever those of JAX are."""
    from scipy.special import ndtri

    first, last = prior.numbers[0], prior.numbers[-1]
    if prior.kind == "normal":
        return first + last * ndtri(share)
    if prior.kind == "log-normal":
        return first * np.exp(last * ndtri(share))
    if prior.kind == "half-normal":
        return first * ndtri(0.5 + 0.5 * share)
    if prior.kind == "uniform":
        return first + (last - first) * share
    return first * np.exp(np.log(last / first) * share)


def _shares(kind: str, points: int, axes: int, seed: int) -> Float[np.ndarray, "point axis"]:
    """Points of the unit cube."""
    from scipy.stats import qmc

    if kind == "random":
        return np.random.default_rng(seed).random((points, axes))
    if kind == "sobol":
        return qmc.Sobol(axes, rng=np.random.default_rng(seed)).random_base2(points.bit_length() - 1)
    return qmc.LatinHypercube(axes, rng=np.random.default_rng(seed)).random(points)
