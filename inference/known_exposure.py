"""Maximum of the likelihood for a known acceptance: the rate is removed exactly, delta_N is measured."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from diffcr.grid import rate_seen
from diffcr.typing import AnyArray

from .likelihood import Marginals, known_exposure_difference
from .multipoles import Maximum, RingModes


def maximise_known(
    data: tuple[Marginals, ...],
    modes: tuple[RingModes, ...],
    acceptances: tuple[Float[AnyArray, "ring ra"], ...],
    prior: Float[AnyArray, " param"],
    groups: tuple[int, ...],
    tolerance: float = 1e-9,
    max_steps: int = 60,
) -> Maximum:
    """Newton's method for the multipoles, m = 0 included, given each configuration's relative acceptance.

    Args:
        data: The marginals of each configuration, on the rings where its acceptance is positive.
        modes: The sky's basis on those rings.
        acceptances: Known acceptance on those rings, sums to 1, shape (ring, hour_angle).
        prior: Gaussian prior precision of each multipole, shape (param,).
        groups: Number of free rates of each configuration.
        tolerance: Stop when the expected remaining gain in ln L is below it.
        max_steps: Most steps.

    Returns:
        `Maximum`, whose rate_shifts are y - 1 = sum_i A_i delta I_{tau i} at the best sky, one per free rate.
    """

    def log_likelihood(theta):
        value = -0.5 * jnp.sum(prior * theta**2)
        inside = jnp.asarray(True)
        for d, m, a, g in zip(data, modes, acceptances, groups, strict=True):
            contrast = m.sky(theta)
            value += known_exposure_difference(contrast, a, d, g)
            inside &= jnp.all(contrast > -1)
        return jnp.where(inside & jnp.isfinite(value), value, -jnp.inf)

    gradient_of, hessian_of = jax.grad(log_likelihood), jax.hessian(log_likelihood)

    def advance(state):
        theta, value, _, steps, _, _ = state
        gradient, information = gradient_of(theta), -hessian_of(theta)
        values, vectors = jnp.linalg.eigh(information)
        floor = 1e-13 * jnp.max(jnp.abs(values))
        step = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), floor))
        decrement = 0.5 * gradient @ step
        slack = 1e-12 * (1 + jnp.abs(value))
        scale = jax.lax.while_loop(
            lambda s: (log_likelihood(theta + s * step) < value - slack) & (s > 1e-9),
            lambda s: s / 2,
            jnp.asarray(1.0, theta.dtype),
        )
        scale = jnp.where((decrement < tolerance) | (scale <= 1e-9), 0.0, scale)
        theta = theta + scale * step
        return theta, log_likelihood(theta), decrement, steps + 1, information, values[0] > floor

    def unfinished(state):
        return (state[2] >= tolerance) & (state[3] < max_steps) & jnp.isfinite(state[2])

    params = prior.shape[0]
    largest = jnp.asarray(jnp.finfo(prior.dtype).max, prior.dtype)
    start = (
        jnp.zeros_like(prior),
        jnp.zeros((), prior.dtype),
        largest,
        jnp.zeros((), int),
        jnp.eye(params, dtype=prior.dtype),
        jnp.asarray(False),
    )
    theta, value, decrement, steps, information, positive = jax.lax.while_loop(unfinished, advance, start)
    seen = tuple(
        rate_seen(a, m.sky(theta)).reshape(g, -1).mean(axis=1)
        for m, a, g in zip(modes, acceptances, groups, strict=True)
    )
    return Maximum(theta, seen, value, information, decrement, steps, positive)
