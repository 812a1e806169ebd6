"""Shapes of angular power: cascades and profiles about the field, from tables that are cheap to differentiate."""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import gammaln

from diffcr.cascade import nearest_neighbour_power
from diffcr.cascade_rates import relaxation_rates
from diffcr.pitch_angle import FAMILIES, family, relative_profile
from diffcr.typing import AnyArray

from .spectrum_priors import Prior

_LOG_DEPTHS = np.linspace(math.log(1e-3), math.log(300.0), 161)
"""Nodes of the table of cascades: the error of ln C_l between them is below 1e-5."""


class CascadeTable(NamedTuple):
    """Chains of power from l to l + 1 against depth.

    Attributes:
        values: ln of C_l over C_1 at T = 0, l = 1 .. l_max, at the nodes in depth, shape (node, degree).
        slopes: Its derivative by ln nu T.
        rates: nu_l in units of nu, shape (degree,).
    """

    values: Float[np.ndarray, "node degree"]
    slopes: Float[np.ndarray, "node degree"]
    rates: Float[np.ndarray, " degree"]


@functools.lru_cache(maxsize=16)
def cascade_table(rates: str, l_max: int) -> CascadeTable:
    """The table of one set of rates; not to be made while JAX traces.

    Args:
        rates: Name in `diffcr.cascade_rates.RELAXATION`.
        l_max: Highest degree.
    """
    chain = relaxation_rates(rates, l_max)

    def one(log_depth):
        value = lambda x: jnp.log(nearest_neighbour_power(1.0, jnp.exp(x), l_max, chain))
        return jax.jvp(value, (log_depth,), (jnp.ones(()),))

    found = jax.jit(lambda x: jax.lax.map(one, x))(jnp.asarray(_LOG_DEPTHS))
    values, slopes, chain = (np.asarray(each) for each in (*found, chain))
    # What is too small for a number is the first term in T, and exact for equal rates, the only ones so slow.
    l, depths = np.arange(1, l_max + 1), np.exp(_LOG_DEPTHS)[:, None]
    mean = np.cumsum(chain) / l
    product = np.concatenate([[0.0], np.cumsum(np.log(chain[:-1]))])
    first = np.log(3 / (2 * l + 1)) + product - gammaln(l) + (l - 1) * np.log(depths) - depths * mean
    lost = ~(values > -650)
    values, slopes = np.where(lost, first, values), np.where(lost, l - 1 - depths * mean, slopes)
    return CascadeTable(values, slopes, chain)


def cascade_shape(depth: AnyArray | float, table: CascadeTable) -> Float[Array, " degree"]:
    """C_l over C_1 at T = 0 of a chain from l to l + 1, by Hermite interpolation in ln nu T.

    Exact to 1e-5 for depths from 1e-3 to 300; beyond, ln C_l goes on linearly in ln nu T.

    Args:
        depth: nu T.
        table: Of the rates.
    """
    return jnp.exp(_interpolate(jnp.log(depth), table))


def _interpolate(x: Array, table: CascadeTable, column: Array | None = None) -> Array:
    """ln C_l at depths exp(x): of every l at one depth, or of one l, counted from 0, at many."""
    step = _LOG_DEPTHS[1] - _LOG_DEPTHS[0]
    inside = jnp.clip(x, _LOG_DEPTHS[0], _LOG_DEPTHS[-1])
    k = jnp.clip(jnp.floor((inside - _LOG_DEPTHS[0]) / step).astype(int), 0, len(_LOG_DEPTHS) - 2)
    t = (inside - _LOG_DEPTHS[0]) / step - k
    own = (lambda a, row: a[row]) if column is None else (lambda a, row: a[row, column])
    values, slopes = jnp.asarray(table.values), jnp.asarray(table.slopes)
    between = (1 + 2 * t) * (1 - t) ** 2 * own(values, k) + t**2 * (3 - 2 * t) * own(values, k + 1)
    between = between + step * (t * (1 - t) ** 2 * own(slopes, k) - t**2 * (1 - t) * own(slopes, k + 1))
    return between + jnp.where(x < inside, own(slopes, 0), own(slopes, -1)) * (x - inside)


def ended_cascade_shape(depth: AnyArray | float, end: AnyArray | float, table: CascadeTable) -> Float[Array, " degree"]:
    r"""`cascade_shape` of a chain that ends at the degree `end`, a real number of at least 2, where its power stays.

    With k the whole part of the end, and f the rest, as `diffcr.cascade_rates.ended_rates` has it, degrees below k are
    what they were. With s the power that flows in at k,

    $$ (2 k + 1) C_k(T) = \int_0^T s(t)\, e^{-f \nu_k (T - t)} dt, \qquad
       (2 k + 3) C_{k+1}(T) = \int_0^T s(t)\, (1 - e^{-f \nu_k (T - t)})\, dt, $$

    and there is none beyond. Integrals by double-exponential quadrature, to 1e-4 for depths above 0.03.

    Args:
        depth: nu T.
        end: Last degree.
        table: Of the rates.
    """
    l_max = len(table.rates)
    l = np.arange(1, l_max + 1)
    rates = jnp.asarray(table.rates)
    k = jnp.clip(jnp.floor(end).astype(int), 2, l_max + 1)
    share, rest, weight = (jnp.asarray(each) for each in _double_exponential())
    below = _interpolate(jnp.log(depth * share), table, k - 2)
    inflow = depth * weight * rates[k - 2] * (2 * k - 1) * jnp.exp(below)
    exponent = jnp.clip(end - k, 0.0, 1.0) * rates[jnp.minimum(k, l_max) - 1] * depth * rest
    stays, goes = jnp.sum(inflow * jnp.exp(-exponent)), jnp.sum(-inflow * jnp.expm1(-exponent))
    power = jnp.where(l < k, cascade_shape(depth, table), 0.0)
    return power + jnp.where(l == k, stays, jnp.where(l == k + 1, goes, 0.0)) / (2 * l + 1)


@functools.cache
def _double_exponential(number: int = 40, step: float = 0.085) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes x of [0, 1], 1 - x, and weights."""
    at = step * np.arange(-number, number + 1)
    inner = np.pi / 2 * np.sinh(at)
    x, rest = 1 / (1 + np.exp(-2 * inner)), 1 / (1 + np.exp(2 * inner))
    return x, rest, step * np.pi * np.cosh(at) * x * rest


def aligned_shape(name: str, values: Mapping[str, AnyArray | float], l_max: int) -> Float[Array, " degree"]:
    """C_l over C_1 of the profile that a family of pitch-angle diffusion makes about the field; odd l alone.

    Args:
        name: Name in `diffcr.pitch_angle.FAMILIES`.
        values: Its parameters, and perhaps others.
        l_max: Highest degree.
    """
    own = {key: values[key] for key in FAMILIES[name][1]}
    return _of_profile(relative_profile(family(name, **own), l_max))


def _of_profile(profile: Array) -> Array:
    l = np.arange(1, profile.shape[-1] + 1)
    # Every D of these families is even in mu: what quadrature leaves in even l is rounding.
    return jnp.where(l % 2 == 1, (3 * profile / (2 * l + 1)) ** 2, 0.0)


_PROFILE_NODES = (24, 48, 96)


@functools.lru_cache(maxsize=16)
def profile_table(name: str, axes: tuple[Prior, Prior], l_max: int) -> Float[np.ndarray, "first second degree"]:
    """Coefficients of relative profiles in Chebyshev polynomials of two parameters of a family, over their priors.

    Args:
        name: Name in `diffcr.pitch_angle.FAMILIES`, one with two parameters.
        axes: Their priors, uniform or log-uniform.
        l_max: Highest degree.
    """
    for number in _PROFILE_NODES:
        table = _profile_table(name, axes, l_max, number)
        if max(np.abs(table[-2:]).max(), np.abs(table[:, -2:]).max()) < 1e-7:
            break
    return table


def _profile_table(name: str, axes: tuple[Prior, Prior], l_max: int, number: int) -> np.ndarray:
    angle = np.pi * (np.arange(number) + 0.5) / number
    keys = FAMILIES[name][1]
    nodes = [np.asarray(prior.within(np.cos(angle))) for prior in axes]
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    one = lambda at: relative_profile(family(name, **dict(zip(keys, at, strict=True))), l_max)
    values = np.asarray(jax.jit(lambda x: jax.lax.map(one, x))(jnp.asarray(grid))).reshape(number, number, l_max)
    # Discrete cosine transforms along either axis.
    transform = 2 / number * np.cos(np.outer(np.arange(number), angle))
    transform[0] /= 2
    return np.einsum("ai,bj,ijl->abl", transform, transform, values)


def tabulated_shape(
    table: Float[np.ndarray, "first second degree"], axes: tuple[Prior, Prior], values: tuple[AnyArray | float, ...]
) -> Float[Array, " degree"]:
    """`aligned_shape` from a `profile_table`, to 1e-6 of the power of the dipole.

    Args:
        table: The coefficients.
        axes: The priors that it was made for.
        values: The two parameters.
    """
    order = np.arange(len(table))
    places = [jnp.clip(prior.place(value), -1 + 1e-12, 1 - 1e-12) for prior, value in zip(axes, values, strict=True)]
    first, second = (jnp.cos(order * jnp.arccos(place)) for place in places)
    return _of_profile(jnp.einsum("a,b,abl->l", first, second, table))


def orders_seen(declination: float, l_max: int) -> Float[np.ndarray, " degree"]:
    """Share of an aligned pattern's C_l that is measured without m = 0, over the 2 l / (2 l + 1) corrected for.

    Args:
        declination: Of the field [rad]: of l, the share P_l(sin dec)^2 is in m = 0.
        l_max: Highest degree.
    """
    l = np.arange(1, l_max + 1)
    legendre = [np.polynomial.Legendre.basis(k)(math.sin(declination)) for k in l]
    return (1 - np.array(legendre) ** 2) * (2 * l + 1) / (2 * l)
