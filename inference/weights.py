r"""Covariance of a fit to weighted events, from the marginals of the squared weights.

The score of the multipoles with the nuisances eliminated is a sum over events of w u(cell); its variance is
the sum of w^2 u u^T. With F the information, the covariance is F^-1 V F^-1 (the sandwich). Where the weights
do not depend on the cell it is F^-1 sum w^2 / sum w.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.grid import correlate, rate_seen

from .likelihood import Marginals
from .multipoles import Block, Maximum, RingModes, derivatives


def sandwich(
    best: Maximum,
    data: Sequence[Marginals],
    modes: Sequence[RingModes],
    blocks: tuple[Block, ...],
    known: tuple[jax.Array, ...],
    squares: Sequence[dict[str, np.ndarray]],
    prior: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Covariance of the multipoles for weighted events, and the factor that scales the test statistic.

    The joint distribution of squared weights over (time, local cell) is taken as the product of its
    marginals, times the fitted sky.

    Args:
        best: The maximum.
        data: Marginals of the weights, one per configuration.
        modes: Their bases.
        blocks: Their blocks, or nothing where the exposure is known.
        known: Known acceptances on the kept rings, or nothing where the acceptance is free.
        squares: Marginals "n_sky", "n_time", "n_local" of the squared weights, on the full grid.
        prior: Prior precision, shape (param,).

    Returns:
        Covariance (param, param), and the ratio of the Wald statistics with it and without it: the vertical
        scaling of the log-likelihood ratio (Chandler & Bate 2007, Biometrika 94, 167).
    """
    kept = [(w2["n_time"], w2["n_local"][list(d.rings)]) for d, w2 in zip(data, squares, strict=True)]
    covariance, scale = jax.jit(sandwich_of)(best, tuple(modes), blocks, known, tuple(kept), prior)
    return np.asarray(covariance), float(scale)


def sandwich_of(best, modes, blocks, known, squares, prior):
    """The same as a pure function of arrays; `squares` are pairs (time, local on the kept rings)."""
    inverse = jnp.linalg.pinv(best.information, hermitian=True)
    variance = jnp.diag(prior)
    for k, (m, (time, local)) in enumerate(zip(modes, squares, strict=True)):
        if blocks:
            along_sky, along_time, along_local = _efficient_score(best, blocks[k], k)
        else:
            along_sky, along_time, along_local = _known_score(best, m, known[k], len(best.rate_shifts[k]))
        variance += _second_moment(along_sky, along_time, along_local, time / jnp.sum(time), local)
    covariance = inverse @ variance @ inverse
    theta = best.coefficients
    plain = theta @ best.information @ theta
    robust = theta @ jnp.linalg.pinv(covariance, hermitian=True) @ theta
    return covariance, jnp.where(plain > 0, robust / plain, 1.0)


def _efficient_score(best: Maximum, block: Block, k: int):
    """u = Y_a/I_a + alpha_tau + beta_i per parameter: shapes (param, ring, ra), (param, time), (param, ring, ha)."""
    data, modes, rho, theta = block.data, block.modes, best.rate_shifts[k], best.coefficients
    groups, n = rho.shape[0], data.time.shape[0]
    d = derivatives(block, theta, block.rate_modes @ rho)
    params = theta.shape[0]
    cross, h_cc = d.h_ct, d.h_cc
    alive = block.group_counts > 0
    inverse_diagonal = jnp.where(alive, (1 + rho) ** 2, 0.0) / jnp.where(alive, block.group_counts, 1.0)
    matrix = jnp.diag(1 / jnp.where(alive, inverse_diagonal, 1.0)) - block.rate_modes.T @ h_cc @ block.rate_modes
    answer = jnp.where(alive[:, None], jnp.linalg.solve(matrix, block.rate_modes.T @ cross), 0.0).T

    contrast = modes.sky(theta)
    rate = data.rate * jnp.repeat(1 + rho, n // groups)
    seen = correlate(rate, 1 + contrast)
    basis = jax.vmap(modes.sky)(jnp.eye(params, dtype=theta.dtype))
    along_sky = basis / (1 + contrast)
    along_time = jnp.repeat(answer / (1 + rho), n // groups, axis=1)
    moved = jax.vmap(lambda y, b: correlate(rate, y) + correlate(rate * b, 1 + contrast))(basis, along_time)
    return along_sky, along_time, -moved / seen


def _known_score(best: Maximum, modes: RingModes, acceptance, groups: int):
    """The same for a known acceptance: u = Y_a/I_a - d ln y_tau, with y_tau = sum_i A_i I_{tau i}."""
    theta = best.coefficients
    basis = jax.vmap(modes.sky)(jnp.eye(theta.shape[0], dtype=theta.dtype))
    intensity = 1 + modes.sky(theta)

    def seen(sky):
        per_bin = rate_seen(acceptance, sky)
        means = per_bin.reshape(groups, -1).mean(axis=1)
        return jnp.repeat(means, len(per_bin) // groups)

    along_time = -jax.vmap(seen)(basis) / seen(intensity)
    along_sky = basis / intensity
    return along_sky, along_time, jnp.zeros_like(along_sky)


def _second_moment(along_sky, along_time, along_local, rate, local):
    """Sum over (time, local cell) of rate local u u^T with u = sky[a] + time[tau] + local[i]; (param, param)."""

    def pairs(f, g):
        return jnp.einsum("p...,q...->pq", f, g)

    exposure = correlate(rate, local)
    seen = jax.vmap(lambda y: correlate(rate, y))(along_sky)
    seen_by_time = jax.vmap(lambda y: rate_seen(local, y))(along_sky)
    cross = pairs(seen, local * along_local) + pairs(seen_by_time, rate * along_time)
    cross += jnp.outer(along_time @ rate, jnp.sum(local * along_local, axis=(1, 2)))
    total = jnp.sum(local)
    squares = (
        pairs(along_sky, exposure * along_sky)
        + total * pairs(along_time, rate * along_time)
        + pairs(along_local, local * along_local)
    )
    return squares + cross + cross.T
