"""Exponentials of matrices of rates with every entry to its own relative accuracy, however small it is.

A matrix exponential is as a rule exact only against its largest entry. Where all that is not on the diagonal is
positive, sums of positive terms give each entry its own accuracy (Xue & Ye 2013, Math. Comp. 82, 1577): a small time
step by its Taylor series, doubled until the time is reached.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TERMS = 18
"""Taylor terms past the first that reaches an entry: with arguments up to 1 the next is below 1 / 18! = 2e-16."""

_DOUBLINGS = 40
"""So many times is the time step doubled at most: rates * depth may reach 2^40 = 1e12."""


def chain_exponential(decays: Float[Array, " degree"]) -> Float[Array, "degree degree"]:
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


def transitions(rates: Float[Array, "degree degree"], leak: Float[Array, " degree"]) -> Float[Array, "degree degree"]:
    """Probabilities of having gone from l to l' at unit time; what leaks is gone for good."""
    size = rates.shape[0] + 1
    one = jnp.eye(size)
    jumps = jnp.pad(jnp.column_stack([rates, leak]), ((0, 1), (0, 0))) * (1 - one)
    largest = jax.lax.stop_gradient(jnp.max(jnp.sum(jumps, axis=1)))
    doublings = jnp.clip(jnp.ceil(jnp.log2(largest)), 0, _DOUBLINGS)
    small = jumps * 2.0**-doublings
    shift = largest * 2.0**-doublings
    positive = small + one * (shift - jnp.sum(small, axis=1))[:, None]

    def add_term(k, total):
        return one + positive @ total / (size - 1 + _TERMS - k)

    step = jnp.exp(-shift) * jax.lax.fori_loop(0, size - 1 + _TERMS, add_term, one)

    def double(k, step):
        return jnp.where(k < doublings, _stochastic(step @ step), step)

    step = jax.lax.fori_loop(0, _DOUBLINGS, double, _stochastic(step))
    return jnp.where(largest <= 2.0**_DOUBLINGS, step[:-1, :-1], jnp.nan)


def _stochastic(step: Float[Array, "state state"]) -> Float[Array, "state state"]:
    """The matrix with rows that sum to 1: by the diagonal, where most stays, else by a common factor.

    Squaring doubles relative errors. What is left by the sum of the others knows its diagonal to all digits of how
    little has gone, and a common factor keeps the error of a whole row from growing.
    """
    one = jnp.eye(step.shape[0])
    others = step * (1 - one)
    gone = jnp.sum(others, axis=1, keepdims=True)
    stays = gone < 0.5
    scaled = step / jnp.where(stays, 1.0, jnp.sum(step, axis=1, keepdims=True))
    return jnp.where(stays, others + one * (1 - gone), scaled)
