r"""Rates nu_l at which angular power leaves the degree l, and whether a chain l -> l + 1 with them keeps all power.

$$ \frac{d}{dt} \sum_l (2l + 1) C_l = 0 $$

holds as long as nothing reaches l = infinity. The mean time from l = 1 to there is the sum of 1 / nu_l: with rates
that grow faster than l it is finite, and the sum falls as the survival probability of an explosive birth chain does
(Feller, An Introduction to Probability Theory and Its Applications, vol. 1, chapter XVII.4).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known

RELAXATION: Mapping[str, Callable] = MappingProxyType(
    {
        "angular-diffusion": lambda l: l * (l + 1.0),
        "isotropic-scattering": lambda l: l * (l + 1.0) / 2,
        "bgk": lambda l: 1.0 + 0.0 * l,
    }
)
"""nu_l / nu as a function of l, by name.

angular-diffusion: nu l (l + 1), with nu_1 = 2 nu. isotropic-scattering: nu l (l + 1) / 2, that of pitch-angle
diffusion with D = nu (1 - mu^2) / 2, with nu_1 = nu. bgk: nu for every l, collisions that isotropise at once.
"""


def relaxation_rates(model: str, l_max: int, rate: Real[ArrayLike, ""] = 1.0) -> Float[Array, " degree"]:
    """nu_l of l = 1 .. l_max.

    Args:
        model: A name in `RELAXATION`.
        l_max: Highest degree, at least 1.
        rate: nu, in the unit of the result.

    Raises:
        InputError: For an unknown model, an l_max that is not a whole number of at least 1, or a rate that is
            negative or not finite.
    """
    if not isinstance(model, str) or model not in RELAXATION:
        raise InputError(f"there is no model of relaxation rates called {model!r}: choose {' or '.join(RELAXATION)}")
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or l_max < 1:
        raise InputError(f"l_max of relaxation rates must be a whole number of at least 1, not {l_max!r}")
    if is_known(rate) and not 0 <= rate < np.inf:
        raise InputError(f"the rate nu of relaxation must be finite and not negative, not {rate}: give it per time")
    return rate * RELAXATION[model](jnp.arange(1.0, l_max + 1))


def ended_rates(rates: Real[ArrayLike, " degree"], end: Real[ArrayLike, ""]) -> Float[Array, " degree"]:
    r"""Rates of a chain that ends at the degree `end`: nu_l times end - l, held within 0 and 1.

    Power stays at l = end where that is a whole number; with end between l and l + 1, part of the rate from l to
    l + 1 is left, and power ends at l + 1. Between whole numbers the rates are linear in `end`, and so the powers
    are continuous, with kinks at whole numbers. An end above l_max changes nothing but for l_max itself.

    Args:
        rates: nu_l of l = 1 .. l_max.
        end: Degree at which the chain ends, at least 1.

    Raises:
        InputError: If a known `end` is not a finite number of at least 1.
    """
    if is_known(end) and not 1 <= end < np.inf:
        raise InputError(f"a cascade ends at a finite degree of at least 1, not at {end}: it starts at l = 1")
    rates = jnp.asarray(rates, float)
    return rates * jnp.clip(end - jnp.arange(1.0, rates.shape[0] + 1), 0.0, 1.0)


# Survival -----------------------------------------------------------------------------------------------------


def survival(depth: Real[ArrayLike, "*depth"]) -> Float[Array, "*depth"]:
    r"""Share of power that has not yet passed all l, of a chain with rates l (l + 1) and power in l = 1 at first.

    $$ S(T) = \frac{1}{3 C_1(0)} \sum_{l \ge 1} (2l + 1) C_l(T)
            = \sum_{n \ge 1} (-1)^{n+1} (2n + 1) e^{-n (n + 1) T}. $$

    At T = 0.3, 1 and 3 it is 0.990, 0.394 and 0.00744; to a relative accuracy of 1e-15 at any depth.

    Args:
        depth: nu T, or half of it with the rates of isotropic scattering; not negative. S(0) = 1.
    """
    depth = jnp.asarray(depth, float)
    return jnp.where(depth < _CROSSING, 1 - _lost_early(depth), _late(depth))


def lost_share(depth: Real[ArrayLike, "*depth"]) -> Float[Array, "*depth"]:
    r"""1 - `survival`, to its own relative accuracy also where it is small.

    Jacobi's transformation of the theta series gives, at small depth,

    $$ 1 - S(T) = e^{T/4} \Big(\frac{\pi}{T}\Big)^{3/2} \sum_{n \ge 0} (-1)^n (2n + 1) e^{-(n + 1/2)^2 \pi^2 / T}: $$

    all power is there until nu T of some 0.1, and then it goes rapidly.

    Raises:
        InputError: If a known depth is negative or not a number.
    """
    depth = _depths(depth)
    return jnp.where(depth < _CROSSING, _lost_early(depth), 1 - _late(depth))


def _depths(depth) -> Array:
    if is_known(depth) and not np.all(np.asarray(depth) >= 0):
        raise InputError(
            f"the depth nu T of a cascade must not be negative, got {depth}: give the time in units of 1 / nu"
        )
    return jnp.asarray(depth, float)


_CROSSING = 1.0
"""Depth where either series converges within a few terms."""


def _late(depth: Array) -> Array:
    """The series in e^{-n (n + 1) T}; held just before it takes over, below which it would need many terms."""
    n = np.arange(1.0, 8)
    held = jnp.maximum(depth, 0.9 * _CROSSING)[..., None]
    sign = jnp.asarray((-1) ** (n + 1) * (2 * n + 1))
    # The first exponential in front: products of the others are relative to it.
    return jnp.exp(-2 * held[..., 0]) * (jnp.exp((2 - n * (n + 1)) * held) @ sign)


def _lost_early(depth: Array) -> Array:
    """The transformed series; below T = 0.003 it is less than the smallest number, and held at zero."""
    n = np.arange(0.0, 3)
    held = jnp.clip(depth, 1e-3, 1.1 * _CROSSING)[..., None]
    sign = jnp.asarray((-1) ** n * (2 * n + 1))
    first = held[..., 0] / 4 + 1.5 * jnp.log(jnp.pi / held[..., 0]) - jnp.pi**2 / (4 * held[..., 0])
    return jnp.exp(first) * (jnp.exp(-n * (n + 1) * jnp.pi**2 / held) @ sign)


# The sum rule -------------------------------------------------------------------------------------------------


class SumRule(eqx.Module):
    """Whether sum (2l+1) C_l over all l of a chain l -> l + 1 is conserved.

    Attributes:
        conserved: Yes or no; None where it could not be decided.
        reason: Why, in words.
        passage_time: Mean time from l = 1 to beyond the last degree, the sum of 1 / nu_l, in units of 1 / nu.
            Infinite where power never gets there, NaN where its value was not found.
    """

    conserved: bool | None = eqx.field(static=True)
    reason: str = eqx.field(static=True)
    passage_time: float = eqx.field(static=True)


def sum_rule(rates: str | Callable | Real[ArrayLike, " degree"]) -> SumRule:
    """Whether a chain l -> l + 1 with these rates conserves sum (2l+1) C_l.

    Args:
        rates: A name in `RELAXATION`; or nu_l of l = 1 .. l_max, not traced, a chain that is followed to l_max and
            keeps its power only if a rate is zero; or a function of an array of l, for all l. Of a function, the
            growth between l = 2^30 and 2^50 decides, and a zero up to l = 100000: what happens elsewhere cannot be
            seen, and a sum of 1 / nu_l at the edge of divergence, such as that of l log l, is left undecided.

    Raises:
        InputError: If the rates are negative or not finite, or none of these three.
    """
    if isinstance(rates, str):
        if rates not in RELAXATION:
            raise InputError(
                f"there is no model of relaxation rates called {rates!r}: choose {' or '.join(RELAXATION)}"
            )
        return _of_function(RELAXATION[rates])
    if callable(rates):
        return _of_function(rates)
    return _of_chain(_of_degrees(rates))


def require_sum_rule(rates: str | Callable | Real[ArrayLike, " degree"]) -> None:
    """Refuse rates with which sum (2l+1) C_l is not conserved, or not known to be.

    Raises:
        InputError: With the reason, and what to do instead.
    """
    found = sum_rule(rates)
    if not found.conserved:
        raise InputError(
            f"sum (2l+1) C_l is not {'known to be ' if found.conserved is None else ''}conserved: {found.reason}; "
            "end the chain with a rate of zero (ended_rates), or compare with survival"
        )


def _of_chain(rates: np.ndarray) -> SumRule:
    stops = np.flatnonzero(rates == 0)
    if stops.size:
        return SumRule(True, f"the rate is zero at l = {stops[0] + 1}, where power stays", np.inf)
    time = float(np.sum(1 / rates))
    return SumRule(
        False,
        f"the rate of the last degree, l = {len(rates)}, is not zero: power leaves it for higher l, "
        f"in a mean time sum 1 / nu_l = {time:.4g} from l = 1",
        time,
    )


def _of_function(function: Callable) -> SumRule:
    """From nu_l of the first degrees, for rates of zero, and at l = 2^30 .. 2^50, for the tail of the sum."""
    with np.errstate(over="ignore"):
        low = _values(function, np.arange(1.0, _DIRECT + 1))
        stops = np.flatnonzero(low == 0)
        if stops.size:
            return SumRule(True, f"the rate is zero at l = {stops[0] + 1}, where power stays", np.inf)
        octave = np.arange(30.0, 51)
        # Two sets of degrees, so that what is special to powers of 2 is seen.
        high = np.stack([_values(function, 2**octave), _values(function, 3 * 2 ** (octave - 1))])
    growth = _growth(octave, high)
    if growth is None:
        return SumRule(None, "the rates do not grow steadily at large l: whether sum 1 / nu_l diverges is open", np.nan)
    power, logarithms = growth
    how = _in_words(power, logarithms)
    # A small power of log l cannot be told from l to a power just above 1, whose sum converges.
    if power == 1 and (abs(logarithms - 1) < 0.1 or 0 < logarithms < 0.1):
        return SumRule(None, f"the rates {how} at large l: sum 1 / nu_l is at the edge of divergence", np.nan)
    if power < 1 or (power == 1 and logarithms < 1):
        reason = f"the rates {how} at large l, so that sum 1 / nu_l diverges and power never gets to the end"
        return SumRule(True, reason, np.inf)
    time = _passage_time(function, low, power)
    size = "" if np.isnan(time) else f", {time:.4g} in units of 1 / nu"
    return SumRule(
        False,
        f"the rates {how} at large l, and power passes through all l in a finite time, in the mean sum 1 / nu_l{size}",
        time,
    )


_DIRECT = 100_000
"""Up to this degree 1 / nu_l is summed term by term."""


def _growth(octave: np.ndarray, high: np.ndarray) -> tuple[float, float] | None:
    """Exponents of l and of log l in nu_l, whole where they are within 1e-3; None where no such law fits.

    By Cauchy's condensation sum 1 / nu_l goes with the sum over k of 2^k / nu at 2^k, so growth by octaves decides.
    """
    if np.any(np.isinf(high)):
        return np.inf, 0.0
    if np.any(high == 0):
        return None
    growth, middle = np.diff(np.log2(high), axis=1), octave[:-1] + 0.5
    mean = growth.mean(axis=0)
    # log2 of (log l)^b grows by b / (k ln 2) from one octave k to the next.
    design = np.stack([np.ones_like(middle), 1 / middle, 1 / middle**2], axis=1)
    found = np.linalg.lstsq(design, mean, rcond=None)[0]
    if np.abs(growth - design @ found).max() > 1e-3:
        return None
    power = _rounded(found[0])
    # Better without the constant, where that is known: the three terms trade against each other.
    logarithms = np.linalg.lstsq(design[:, 1:], mean - power, rcond=None)[0][0] * np.log(2)
    return power, _rounded(logarithms)


def _rounded(value: float) -> float:
    return float(np.round(value)) if abs(value - np.round(value)) < 1e-3 else float(value)


def _in_words(power: float, logarithms: float) -> str:
    if np.isinf(power):
        return "grow beyond all numbers"
    if power == 0 == logarithms:
        return "do not change with l"
    factor = {0.0: "", 1.0: "l"}.get(power, f"l^{power:.3g}")
    more = {0.0: "", 1.0: "log l"}.get(logarithms, f"(log l)^{logarithms:.2g}")
    return f"go as {factor} {more}".strip().replace("  ", " ")


def _passage_time(function: Callable, low: np.ndarray, power: float) -> float:
    """Sum of 1 / nu_l: term by term, and beyond as the integral of a power law from half-way to the next degree.

    NaN where the power law is not reached by then.
    """
    if np.isinf(low[-1]):
        return float(np.sum(1 / low))
    edge = len(low) + 0.5
    here, there = _values(function, np.array([edge, 1.001 * edge]))
    local = np.log(there / here) / np.log(1.001)
    if power < 1.05 or abs(local - power) > 0.01:
        return float("nan")
    return float(np.sum(1 / low[::-1]) + edge / (here * (local - 1)))


def _values(function: Callable, degree: np.ndarray) -> np.ndarray:
    """nu_l at the degrees; it may be infinite where it is beyond all numbers."""
    remedy = "give a function of an array of l that returns an array"
    values = _numbers(function(degree), remedy)
    if values.shape not in ((), degree.shape):
        raise InputError(f"rates at {degree.size} degrees came in the shape {values.shape}: {remedy}")
    values = np.broadcast_to(values, degree.shape)
    bad = np.flatnonzero(~(values >= 0))
    if bad.size:
        raise InputError(
            f"rates of a cascade must not be negative, not {values[bad[0]]:g} at l = {degree[bad[0]]:g}: {remedy}"
        )
    return values


def _of_degrees(rates) -> np.ndarray:
    """nu_l of l = 1 .. l_max, checked."""
    remedy = "give a name, a function of l, or nu_l of l = 1 .. l_max"
    values = _numbers(rates, remedy)
    if values.ndim != 1 or not values.size:
        raise InputError(f"the sum rule needs one rate for each degree, not the shape {values.shape}: {remedy}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise InputError(
            f"rates of a cascade must be finite and not negative, not {values[bad[0]]:g} at l = {bad[0] + 1}: {remedy}"
        )
    return values


def _numbers(values, remedy: str) -> np.ndarray:
    if not is_known(values):
        raise InputError(f"the sum rule is about known rates, not traced ones: call it before jit; {remedy}")
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise InputError(f"the sum rule needs rates that are numbers, not {values!r}: {remedy}") from None
