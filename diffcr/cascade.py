r"""How gyration in turbulence hands the angular power of the dipole on to ever smaller scales: evolution of <C_l>.

Power leaves the degree l at the rate nu_l and arrives at others so that (2l+1) C_l is a population,

$$ \frac{d C_l}{dt} = -\nu_l C_l + \sum_{l'} \nu_{l' \to l}\, \frac{2l' + 1}{2l + 1}\, C_{l'} . $$

`nearest_neighbour_power` is for a chain l -> l + 1 out of a dipole, `evolve` for any rates and any start. Rates of
named models, ends of the chain, and whether it keeps all power, are in `diffcr.cascade_rates`.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .cascade_exponential import chain_exponential, transitions
from .errors import InputError, is_known, require_float64


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
        InputError: If l_max is below 2, or a known rate or depth is negative or not finite.
        RuntimeError: Without 64-bit floats; the smallest C_l would vanish.

    References:
        Ahlers (2014), Phys. Rev. Lett. 112, 021101; Bateman (1910), Proc. Camb. Phil. Soc. 15, 423.
    """
    require_float64("the cascade of angular power")
    degree = jnp.arange(1.0, l_max + 1)
    rates, depth = require_rates(l_max, rates), require_depth(depth)
    return 3 * first / (2 * degree + 1) * chain_exponential(rates * depth)[:, 0]


def asymptotic_ratio(l: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """C_l / C_1 of `nearest_neighbour_power` at large depth, with rates l (l + 1): 18 / ((2l+1) (l+1) (l+2)).

    It is reached from below, up to terms exp(-4 nu T).

    References:
        Ahlers (2014), Phys. Rev. Lett. 112, 021101.
    """
    l = jnp.asarray(l, float)
    return 18 / ((2 * l + 1) * (l + 1) * (l + 2))


def slowest_ratio(rates: Real[ArrayLike, " degree"]) -> Float[Array, " degree"]:
    r"""C_l / C_1 at large depth of `nearest_neighbour_power` with any rates, where l = 1 is the slowest to decay.

    $$ \frac{C_l}{C_1} \to \frac{3}{2l + 1} \prod_{m=1}^{l-1} \frac{\nu_m}{\nu_{m+1} - \nu_1}. $$

    Args:
        rates: nu_l of l = 1 .. l_max, in any unit.

    Returns:
        Shape (l_max,). Infinite from the first l on whose rate is not above nu_1, as with equal rates or at the end
        of a chain: power then gathers there while C_1 decays. Zero beyond the end, where none arrives.
    """
    rates = jnp.asarray(rates, float)
    degree = jnp.arange(1.0, rates.shape[0] + 1)
    excess = rates[1:] - rates[0]
    slower = jnp.cumsum(excess <= 0) > 0
    factor = jnp.where(slower, 1.0, rates[:-1] / jnp.where(slower, 1.0, excess))
    reached = jnp.cumprod(rates[:-1] > 0) > 0
    ratio = jnp.where(reached, jnp.where(slower, jnp.inf, jnp.cumprod(factor)), 0.0)
    ratio = jnp.concatenate([jnp.ones(1), ratio])
    return 3 * ratio / (2 * degree + 1)


def chain_survival(depth: Real[ArrayLike, ""], rates: Real[ArrayLike, " degree"]) -> Float[Array, ""]:
    """Share sum (2l+1) C_l / 3 C_1(0) of power still within l = 1 .. l_max, of a chain that starts with a dipole.

    1 where a rate is zero. For l (l + 1) and l_max to infinity it becomes `cascade_rates.survival`; at finite l_max
    that of a depth later by about 1 / (l_max + 1).

    Args:
        depth: nu T, not negative.
        rates: nu_l of l = 1 .. l_max, in units of nu.
    """
    require_float64("the cascade of angular power")
    return jnp.sum(chain_exponential(jnp.asarray(rates, float) * depth)[:, 0])


def bateman_power(
    first: Float[ArrayLike, ""], depth: Real[ArrayLike, ""], rates: Real[ArrayLike, " degree"]
) -> Float[Array, " degree"]:
    r"""The sum of `nearest_neighbour_power` as it is written, for comparison; the exponential is outside the product.

    With rates l (l + 1) and depths from 0.3 on it is right to 1e-14 for l up to 20. Its terms alternate, and cancel
    the more the smaller C_l: at a depth of 0.05 it is right to 2e-8 at l = 20, at 0.01 to 2e-3 at l = 12 and not at
    all at l = 17, at 0.001 not at all from l = 8 on. Equal rates give no number.

    Args:
        first: C_1 at T = 0.
        depth: nu T.
        rates: nu_l of l = 1 .. l_max, all different.

    References:
        Bateman (1910), Proc. Camb. Phil. Soc. 15, 423.
    """
    nu = jnp.asarray(rates, float)
    size = nu.shape[0]
    own = np.eye(size, dtype=bool)
    apart = jnp.where(own, 1.0, nu[:, None] - nu[None, :])
    # [p, n]: nu_p / (nu_p - nu_n), of p below l; the factor of p = l has the nu_n that is left over.
    below = jnp.cumprod(jnp.where(own, 1.0, nu[:, None] / apart), axis=0)
    before = jnp.concatenate([jnp.ones((1, size)), below[:-1]])
    weight = before * jnp.where(own, 1.0, nu[None, :] / apart) * np.tri(size)
    return 3 * first / (2 * jnp.arange(1.0, size + 1) + 1) * (weight @ jnp.exp(-nu * depth))


# Any rates between any degrees --------------------------------------------------------------------------------


def evolve(
    power: Real[ArrayLike, " degree"],
    rates: Real[ArrayLike, "degree degree"],
    time: Real[ArrayLike, ""],
    loss: Real[ArrayLike, " degree"] | None = None,
) -> Float[Array, " degree"]:
    r"""Power C_l of l = 1 .. l_max after a time, with transitions between any two degrees.

    $$ \frac{d C_l}{dt} = -\nu_l C_l + \sum_{l'} \nu_{l' \to l}\, \frac{2l' + 1}{2l + 1}\, C_{l'} . $$

    With $\nu_l = \sum_{l'} \nu_{l \to l'}$, which is the default, sum (2l+1) C_l is conserved. A larger loss takes
    power out of the degrees up to l_max.

    (2l+1) C_l is then the probability of a Markov chain. What is lost goes to one more state, all rows of the matrix
    of transition probabilities over a small time sum to 1, and that matrix is doubled in time: by sums of positive
    terms only, the diagonal renewed as what is left by them (Grassmann, Taksar & Heyman 1985, Oper. Res. 33,
    1107). Each C_l so keeps its own relative accuracy however small it is.

    Args:
        power: C_l at time 0, l = 1 .. l_max; not negative, if small C_l are to be accurate.
        rates: Rate from l to l' at [l - 1, l' - 1], per unit of time, not negative. What stays at l, on the diagonal,
            changes nothing with the default loss.
        time: Not negative.
        loss: nu_l, shape (l_max,), per unit of time; at least the sum of the row.

    Returns:
        C_l of l = 1 .. l_max, shape (l_max,). NaN where rates * time is above 1e12.

    Raises:
        InputError: If rates and loss are not those of `require_rate_matrix`, or a known time is negative.
        RuntimeError: Without 64-bit floats.

    References:
        Ahlers (2014), Phys. Rev. Lett. 112, 021101, for the equation; Xue & Ye (2013), Math. Comp. 82, 1577, for
        the entrywise accuracy of such exponentials.
    """
    require_float64("the cascade of angular power")
    rates = jnp.asarray(require_rate_matrix(rates, loss), float)
    if is_known(time) and not np.all(np.asarray(time) >= 0):
        raise InputError(f"the time of an evolution must not be negative, got {time}: it loses what was there before")
    number = 2 * jnp.arange(1.0, rates.shape[0] + 1) + 1
    leak = jnp.zeros_like(number) if loss is None else loss - jnp.sum(rates, axis=1)
    return (number * power) @ transitions(rates * time, leak * time) / number


def rate_matrix(
    up: Real[ArrayLike, " step"], down: Real[ArrayLike, " step"] | None = None
) -> Float[Array, "degree degree"]:
    """Rates of transitions between neighbours only, for `evolve`.

    Args:
        up: Rates from l to l + 1, of l = 1 .. l_max - 1.
        down: Rates from l to l - 1, of l = 2 .. l_max; none by default.

    Returns:
        Shape (l_max, l_max). Nothing leaves l_max upwards: for a chain that goes on, give `evolve` the loss.
    """
    matrix = jnp.diag(jnp.asarray(up, float), 1)
    return matrix if down is None else matrix + jnp.diag(jnp.asarray(down, float), -1)


# Checks -------------------------------------------------------------------------------------------------------


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
    rates = _numbers(rates, "rates of a cascade", remedy)
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


def require_rate_matrix(rates, loss=None) -> Float[Array, "degree degree"]:
    """Rates between degrees for `evolve`, checked together with its loss.

    Raises:
        InputError: If `rates` are not a square matrix over at least two degrees of finite numbers, none negative, or
            the loss is not one finite number for each degree, at least as large as what goes to the others. Traced
            numbers pass; their shape is checked.
    """
    remedy = "give the rate from l to l' at [l - 1, l' - 1]"
    rates = _numbers(rates, "rates between degrees", remedy)
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or rates.shape[0] < 2:
        raise InputError(
            "rates between degrees need a square matrix with at least l = 1 and 2, "
            f"not the shape {rates.shape}: {remedy}"
        )
    if is_known(rates):
        bad = np.argwhere(~(np.isfinite(rates) & (rates >= 0)))
        if bad.size:
            raise InputError(
                f"rates between degrees must be finite and not negative, not {rates[tuple(bad[0])]:g} "
                f"from l = {bad[0][0] + 1} to {bad[0][1] + 1}: {remedy}"
            )
    if loss is not None:
        _require_loss(rates, _numbers(loss, "the loss", "give nu_l of l = 1 .. l_max"))
    return jnp.asarray(rates)


def _require_loss(rates, loss) -> None:
    if loss.shape != rates.shape[:1]:
        raise InputError(
            f"the loss needs nu_l of l = 1 .. {rates.shape[0]}, not the shape {loss.shape}: give one for each degree"
        )
    if not (is_known(loss) and is_known(rates)):
        return
    bad = np.flatnonzero(~np.isfinite(loss) | (loss < rates.sum(axis=1) * (1 - 1e-12)))
    if bad.size:
        raise InputError(
            f"the loss at l = {bad[0] + 1} is {loss[bad[0]]:g}, but {rates[bad[0]].sum():g} goes to other degrees: "
            "it must be finite and at least that, or power comes from nowhere; leave it out to conserve power"
        )


def _numbers(values, what: str, remedy: str):
    """As an array of floats, unless traced."""
    if not is_known(values):
        return values
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers, not {values!r}: {remedy}") from None
