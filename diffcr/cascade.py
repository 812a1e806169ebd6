"""How gyration in turbulence hands the angular power of the dipole on to ever smaller scales: evolution of <C_l>."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known, require_float64

_TERMS = 18
"""Taylor terms past the first that reaches an entry: with arguments up to 1 the next is below 1 / 18! = 2e-16."""

_DOUBLINGS = 40
"""So many times is the time step doubled at most: rates * depth may reach 2^40 = 1e12."""


def nearest_neighbour_power(
    first: Float[ArrayLike, ""],
    depth: Real[ArrayLike, ""],
    l_max: int,
    rates: Real[ArrayLike, " degree"] | None = None,
) -> Float[Array, " degree"]:
    r"""Power C_l of l = 1 .. l_max that flows from each l to l + 1, out of a dipole at T = 0.

    $$ \frac{d C_l}{dT} = -\nu_l C_l + \frac{2l - 1}{2l + 1}\, \nu_{l-1} C_{l-1}, \qquad C_l(0) = C_1 \delta_{l1}, $$

    which Bateman's sum solves,

    $$ C_l(T) = \frac{3 C_1}{2l + 1} \prod_{m=1}^{l-1} \nu_m
                \sum_{n=1}^{l} e^{-\nu_n T} \prod_{p \le l,\, p \ne n} \frac{1}{\nu_p - \nu_n}. $$

    That sum cancels to nothing at small T or large l, and a matrix exponential is exact only against its
    largest entry. Here the exponential is found by doubling a small time step: each doubling sums positive
    terms only and renews the diagonal exactly, and so each C_l keeps its own relative accuracy
    however small it is: 1e-14 for l up to 60 and depths from 1e-4 to 300, against Bateman's sum in high
    precision. Rates may be equal, or zero.

    With the default rates sum (2l+1) C_l is *not* conserved, not even over all l: power passes through all
    of them in a finite time. A last rate of zero conserves it, by keeping in C_{l_max} what had gone on.

    Args:
        first: C_1 at T = 0.
        depth: nu T, the time in units of 1 / nu; not negative.
        l_max: Highest degree.
        rates: nu_l of l = 1 .. l_max, in units of nu; not negative. l (l + 1) by default.

    Returns:
        C_l of l = 1 .. l_max, in the unit of `first`, shape (l_max,). NaN where rates * depth is above 1e12.

    Raises:
        RuntimeError: Without 64-bit floats; the smallest C_l would vanish.

    References:
        Ahlers (2014), Phys. Rev. Lett. 112, 021101; Bateman (1910), Proc. Camb. Phil. Soc. 15, 423.
    """
    require_float64("the cascade of angular power")
    degree = jnp.arange(1.0, l_max + 1)
    rates = degree * (degree + 1) if rates is None else jnp.asarray(rates, float)
    return 3 * first / (2 * degree + 1) * _chain_exponential(rates * depth)[:, 0]


def asymptotic_ratio(l: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """C_l / C_1 of `nearest_neighbour_power` at large depth, with rates l (l + 1): 18 / ((2l+1) (l+1) (l+2)).

    It is reached from below, up to terms exp(-4 nu T).

    References:
        Ahlers (2014), Phys. Rev. Lett. 112, 021101.
    """
    l = jnp.asarray(l, float)
    return 18 / ((2 * l + 1) * (l + 1) * (l + 2))


def require_rates(l_max, rates=None) -> Float[Array, " degree"]:
    """Rates nu_l of l = 1 .. l_max for `nearest_neighbour_power`, l (l + 1) where none are given.

    Raises:
        InputError: If l_max is not a whole number of at least 2, or if `rates` are not l_max finite
            numbers, none negative. Traced rates have no values to check; their number is checked.
    """
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or l_max < 2:
        raise InputError(
            f"l_max of a cascade must be a whole number of at least 2, not {l_max!r}: power flows from l = 1 to l = 2"
        )
    if rates is None:
        degree = jnp.arange(1.0, l_max + 1)
        return degree * (degree + 1)
    remedy = "give nu_l of l = 1 .. l_max in units of nu"
    if is_known(rates):
        try:
            rates = np.asarray(rates, float)
        except (TypeError, ValueError):
            raise InputError(f"rates of a cascade must be numbers, not {rates!r}: {remedy}") from None
    if rates.shape != (l_max,):
        raise InputError(f"a cascade to l_max = {l_max} needs {l_max} rates, not the shape {rates.shape}: {remedy}")
    if is_known(rates):
        bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
        if bad.size:
            raise InputError(
                f"rates of a cascade must be finite and not negative, not {rates[bad[0]]:g} "
                f"at l = {bad[0] + 1}: {remedy}"
            )
    return jnp.asarray(rates)


def require_depth(depth) -> Float[Array, ""]:
    """Depth nu T for `nearest_neighbour_power`.

    Raises:
        InputError: If it is not one finite number of at least 0. A traced depth passes.
    """
    if not is_known(depth):
        return depth
    try:
        value = np.asarray(depth, float)
    except (TypeError, ValueError):
        value = np.array(np.nan)
    if value.shape != () or not (np.isfinite(value) and value >= 0):
        raise InputError(
            f"the depth nu T of a cascade must be one finite number of at least 0, not {depth!r}: "
            "give the time in units of 1 / nu, and vmap over several"
        )
    return jnp.asarray(value)


def _chain_exponential(decays: Float[Array, " degree"]) -> Float[Array, "degree degree"]:
    """exp(A), A with -decays on the diagonal and decays[:-1] below it; every entry to its own relative accuracy.

    McCurdy, Ng & Parlett (1984), Math. Comp. 43, 501: these entries are divided differences of exp.
    """
    size = decays.shape[0]
    largest = jax.lax.stop_gradient(jnp.max(decays))
    doublings = jnp.clip(jnp.ceil(jnp.log2(largest)), 0, _DOUBLINGS)
    small = decays * 2.0**-doublings

    # Taylor series in Horner's form, with decays of at most 1, whose signs cancel little.
    # An entry m below the diagonal starts at the m-th term.
    one = jnp.eye(size)

    def add_term(k, total):
        below = jnp.pad((small[:, None] * total)[:-1], ((1, 0), (0, 0)))
        return one + (below - small[:, None] * total) / (size - 1 + _TERMS - k)

    step = jax.lax.fori_loop(0, size - 1 + _TERMS, add_term, one)
    step = jnp.where(one, jnp.diag(jnp.exp(-small)), step)

    def double(k, step):
        # Squaring doubles the relative error of the diagonal, and through it of everything: set it anew.
        twice = jnp.where(one, jnp.diag(jnp.exp(-small * 2.0 ** (k + 1))), step @ step)
        return jnp.where(k < doublings, twice, step)

    return jnp.where(largest <= 2.0**_DOUBLINGS, jax.lax.fori_loop(0, _DOUBLINGS, double, step), jnp.nan)
