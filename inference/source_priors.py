"""Priors of the physical model's numbers: each a map from unit normals, in which the sampler moves."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffcr.errors import InputError

from .nearest import require_known

KINDS = {
    "normal": ("mean", "spread"),
    "log-normal": ("median", "spread"),
    "uniform": ("low", "high"),
    "log-uniform": ("low", "high"),
    "half-normal": ("spread",),
}
"""Distributions of one number, and what each is told: the spread of a log-normal is that of the natural logarithm."""

_CAUTIOUS = 8.0
"""Unit normals are held within this many standard deviations where a distribution has edges."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """Distribution of one number (or of each of three), in the unit of the model file.

    Attributes:
        kind: A key of `KINDS`.
        numbers: What it is told, in the order that `KINDS` gives; a mean may have three components.
    """

    kind: str
    numbers: tuple[Any, ...]

    def value(self, z: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The number for a unit normal z; increasing in z."""
        first, last = self.numbers[0], self.numbers[-1]
        if self.kind == "normal":
            return jnp.asarray(first) + last * z
        if self.kind == "log-normal":
            return first * jnp.exp(last * z)
        if self.kind == "half-normal":
            # |x| of a normal x, by its quantile: monotonic, so that nothing has two coordinates.
            return first * jax.scipy.special.ndtri(0.5 + 0.5 * _probability(z))
        share = _probability(z)
        if self.kind == "uniform":
            return first + (last - first) * share
        return jnp.exp(math.log(first) + math.log(last / first) * share)

    def coordinate(self, value: float) -> float:
        """The unit normal z whose `value` this is; at an edge, or beyond one, within +-4."""
        from scipy.special import ndtri

        first, last = self.numbers[0], self.numbers[-1]
        if self.kind == "normal":
            return (value - first) / last
        if self.kind == "log-normal":
            return math.log(value / first) / last if value > 0 else -4.0
        if self.kind == "half-normal":
            share = math.erf(max(value, 0.0) / first / math.sqrt(2))
        elif self.kind == "uniform":
            share = (value - first) / (last - first)
        else:
            share = math.log(value / first) / math.log(last / first) if value > 0 else 0.0
        return float(min(4.0, max(-4.0, ndtri(min(max(share, 1e-9), 1 - 1e-9)))))

    def as_table(self) -> dict:
        """As a table of the model file."""
        return {"distribution": self.kind, **dict(zip(KINDS[self.kind], self.numbers, strict=True))}


def _probability(z: Array) -> Array:
    return jax.scipy.stats.norm.cdf(jnp.clip(z, -_CAUTIOUS, _CAUTIOUS))


def read_prior(name: str, table: Any, low: float, high: float, size: int, where: str, now: Any) -> Prior:
    """Prior from a table such as { distribution = "log-normal", median = 3e28, spread = 0.5 }.

    Args:
        name: Of the number.
        table: What the file says.
        low, high: Range of the number in its own unit.
        size: 1, or 3 for a vector.
        where: What messages begin with.
        now: The number's value: the mean or the median where the table gives none.

    Raises:
        InputError: If the distribution is unknown, improper, or leaves the range of the number.
    """
    if not isinstance(table, Mapping):
        raise InputError(
            f'{where}: the prior of {name} must be a table, {{ distribution = "normal", mean = 1, spread = 0.1 }} or so'
        )
    table = dict(table)
    kind = table.pop("distribution", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{where}: the prior of {name} needs a distribution among {', '.join(KINDS)}, not {kind!r}")
    for key in table:
        require_known(key, KINDS[kind], f"{where}: a {kind} prior (of {name}) has no")
    if kind in ("normal", "log-normal"):
        table.setdefault(KINDS[kind][0], now)
    missing = [key for key in KINDS[kind] if key not in table]
    if missing:
        raise InputError(f"{where}: the {kind} prior of {name} needs {' and '.join(missing)}")
    numbers = tuple(
        _number(table[key], size if key == "mean" else 1, f"{where}: {key} of the prior of {name}")
        for key in KINDS[kind]
    )
    _check(kind, numbers, f"{where}: the prior of {name}", low, high, size)
    return Prior(kind, numbers)


def _number(value: Any, size: int, what: str) -> Any:
    if size > 1 and isinstance(value, list | tuple):
        if len(value) != size:
            raise InputError(f"{what} must have {size} components, not {len(value)}")
        return tuple(_number(each, 1, what) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InputError(f"{what} must be a finite number, not {value!r}")
    return float(value)


def _reach(mean, spread: float) -> tuple[float, float]:
    """Where a normal is not negligible."""
    means = mean if isinstance(mean, tuple) else (mean,)
    return min(means) - _CAUTIOUS * spread, max(means) + _CAUTIOUS * spread


def _check(kind: str, numbers: tuple, what: str, low: float, high: float, size: int) -> None:
    if kind in ("normal", "log-normal", "half-normal") and not numbers[-1] > 0:
        raise InputError(
            f"{what} must have a spread above 0, not {numbers[-1]:g}; leave the prior out to fix the number"
        )
    if kind == "log-normal" and not (size == 1 and numbers[0] > 0):
        raise InputError(f"{what} must have a median above 0, not {numbers[0]}")
    if kind in ("uniform", "log-uniform") and not numbers[0] < numbers[1]:
        raise InputError(f"{what} must have low below high, not {numbers[0]:g} and {numbers[1]:g}")
    if kind == "log-uniform" and not numbers[0] > 0:
        raise InputError(f"{what} must have a low edge above 0, not {numbers[0]:g}")
    ends = {
        "normal": _reach(numbers[0], numbers[-1]) if kind == "normal" else None,
        "log-normal": (0.0, math.inf),
        "half-normal": (0.0, math.inf),
    }.get(kind, numbers)
    # An open edge at 0 is not reached by a log-normal, nor, but for a set of measure zero, by a half-normal.
    if ends[0] < low or ends[1] > high:
        raise InputError(
            f"{what} leaves the range {low:g} to {high:g} of that number (a normal within 8 spreads of its mean): "
            "take a uniform or log-normal one inside it"
        )
