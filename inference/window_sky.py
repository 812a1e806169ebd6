r"""Is what experiments see in different windows of declination one sky, or a dipole and errors of the experiments?

A first harmonic in right ascension over a window is $h = \sum_l a_{l1} \langle P_{l1} \rangle$, so that one sky with
multipoles beyond the dipole has another phase for each experiment. Experiments that are off in amplitude and phase
have that too. Both are linear with normal priors, and their evidences are exact.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffcr.errors import InputError, is_known
from diffcr.typing import AnyArray

from .one_axis import exceeded, joint_covariance


class WindowSky(eqx.Module):
    """Multipoles of order 1 fitted to first harmonics seen through windows of declination.

    Attributes:
        multipoles: Posterior mean of (s_l1, s_l,-1) at the reference energy, then of their derivatives by ln E.
        covariance: Posterior covariance, (term, component, term, component).
        expected: First harmonic of each row for the posterior mean.
        chi2: Smallest chi2, without the prior.
        degrees_of_freedom: Components less multipoles that the rows determine.
        p_value: Probability of a larger chi2.
        log_evidence: Logarithm of the density of the data, with the multipoles averaged over their prior.
    """

    multipoles: Float[Array, "term 2"]
    covariance: Float[Array, "term 2 term 2"]
    expected: Float[Array, "row 2"]
    chi2: Float[Array, ""]
    degrees_of_freedom: Int[Array, ""]
    p_value: Float[Array, ""]
    log_evidence: Float[Array, ""]


class SkyOrOffsets(eqx.Module):
    """The evidence for multipoles up to each degree, against the spread of the experiments' offsets.

    Attributes:
        spread: Standard deviation of each component of the offsets, over the amplitude. Dimensionless, in phase [rad].
        log_evidence: Logarithm of the density of the data given the spread; the first degree is 1.
        averaged: Logarithm of the density averaged over a half-normal prior of the spread.
        best_spread: Where the evidence is largest.
    """

    spread: Float[Array, " spread"]
    log_evidence: Float[Array, "degree spread"]
    averaged: Float[Array, " degree"]
    best_spread: Float[Array, " degree"]


def fit_window_sky(
    harmonic: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 row 2"],
    windows: Float[AnyArray, "row degree"],
    prior: Sequence[float] | Float[AnyArray, " degree"],
    log_energy: Float[AnyArray, " row"] | None = None,
) -> WindowSky:
    r"""One sky for all rows: h = sum over l of w_l (s_l1, s_l,-1), each s_l linear in ln E where energies are given.

    Args:
        harmonic: First harmonics in right ascension, each in the quantity of its window.
        covariance: Of all of them, from `joint_covariance`.
        windows: w_l of each row from `diffcr.window.window_means`, or the `weights` of `dipole_likelihood`. As many
            degrees are fitted as there are.
        prior: Standard deviation of a normal prior of s_l1 and s_l,-1 about zero, for each degree; the same for
            the derivatives.
        log_energy: ln(E / E_0) of the rows; the same energy for all if left out.

    Raises:
        InputError: If shapes do not fit, or a prior is not above zero.
    """
    harmonic, windows, prior = jnp.asarray(harmonic), jnp.asarray(windows), jnp.asarray(prior, float)
    rows, degrees = windows.shape
    if harmonic.shape != (rows, 2) or covariance.shape != (rows, 2, rows, 2) or prior.shape != (degrees,):
        raise InputError(
            f"windows of {rows} rows and {degrees} degrees do not fit harmonics {harmonic.shape}, their covariance "
            f"{covariance.shape} and priors {prior.shape}"
        )
    if is_known(prior) and not np.all(np.isfinite(prior) & (prior > 0)):
        raise InputError(f"the prior of each degree must be finite and above zero, not {prior}")
    scaled = windows * prior
    if log_energy is not None:
        scaled = jnp.concatenate([scaled, jnp.asarray(log_energy)[:, None] * scaled], axis=1)
        prior = jnp.concatenate([prior, prior])
    terms = len(prior)
    # In units of the prior, whitened by the noise: a ridge of 1.
    factor = jnp.linalg.cholesky(jnp.asarray(covariance).reshape(2 * rows, 2 * rows))
    design = jnp.kron(scaled, jnp.eye(2))
    white = jax.scipy.linalg.solve_triangular(factor, jnp.column_stack([design, harmonic.ravel()]), lower=True)
    left, sizes, right = jnp.linalg.svd(white[:, :-1], full_matrices=False)
    data = left.T @ white[:, -1]
    beyond = jnp.sum(white[:, -1] ** 2) - jnp.sum(data**2)
    seen = sizes > 1e-10 * sizes[0]
    chi2 = jnp.maximum(beyond, 0.0) + jnp.sum(jnp.where(seen, 0.0, data**2))
    freedom = 2 * rows - jnp.sum(seen)
    shrink = 1 / (1 + sizes**2)
    solution = right.T @ (sizes * shrink * data)
    # Directions that the rows do not determine keep the unit variance of the prior.
    spread = jnp.eye(2 * terms) - (right.T * (sizes**2 * shrink)) @ right
    unit = jnp.repeat(prior, 2)
    log_evidence = (
        -(beyond + jnp.sum(shrink * data**2)) / 2
        - jnp.sum(jnp.log1p(sizes**2)) / 2
        - jnp.sum(jnp.log(jnp.diagonal(factor)))
        - rows * math.log(2 * math.pi)
    )
    return WindowSky(
        multipoles=(unit * solution).reshape(terms, 2),
        covariance=(unit[:, None] * spread * unit).reshape(terms, 2, terms, 2),
        expected=(design @ solution).reshape(rows, 2),
        chi2=chi2,
        degrees_of_freedom=freedom,
        p_value=exceeded(chi2, freedom),
        log_evidence=log_evidence,
    )


def sky_or_offsets(
    harmonic: Float[AnyArray, "row 2"],
    covariance: Float[AnyArray, "row 2 2"],
    windows: Float[AnyArray, "row degree"],
    group: Int[AnyArray, " row"],
    prior: Sequence[float] | Float[AnyArray, " degree"],
    about: Float[AnyArray, "row 2"],
    log_energy: Float[AnyArray, " row"] | None = None,
    scatter: float = 0.0,
    spread: Float[AnyArray, " spread"] | None = None,
    spread_scale: float = 0.2,
) -> SkyOrOffsets:
    """Evidence for a dipole, for multipoles up to l = 2, 3, ..., and for offsets of the experiments beside them.

    An offset is one number in amplitude and one in phase for each experiment, common to its rows, normal about zero
    with the same spread for both: a vector of random direction in proportion to the amplitude.

    Args:
        harmonic: As for `fit_window_sky`, and so `windows`, `prior` and `log_energy`.
        covariance: Statistical, of each row.
        windows: To the highest degree tried.
        group: Experiment of each row, counted from 0.
        prior: Of each degree.
        about: Expected harmonics, in proportion to which the offsets are; the same for all explanations compared.
        log_energy: ln(E / E_0) of the rows.
        scatter: Standard deviation of both components of each row beside their errors. Relative intensity.
        spread: Spreads of the offsets, rising from zero; 0 to 4 `spread_scale` if left out.
        spread_scale: Scale of the half-normal prior of the spread.
    """
    windows, prior = jnp.asarray(windows), jnp.asarray(prior, float)
    spread = jnp.linspace(0.0, 4 * spread_scale, 161) if spread is None else jnp.asarray(spread)

    def evidence(width, degrees):
        joint = joint_covariance(about, covariance, group, width, width, scatter)
        return fit_window_sky(harmonic, joint, windows[:, :degrees], prior[:degrees], log_energy).log_evidence

    each = [jax.lax.map(lambda width, n=n: evidence(width, n), spread) for n in range(1, windows.shape[1] + 1)]
    log_evidence = jnp.stack(each)
    cells = jnp.concatenate([spread[1:2] - spread[:1], spread[2:] - spread[:-2], spread[-1:] - spread[-2:-1]]) / 2
    weight = cells * jnp.exp(-((spread / spread_scale) ** 2) / 2)
    return SkyOrOffsets(
        spread=spread,
        log_evidence=log_evidence,
        averaged=jax.nn.logsumexp(log_evidence, b=weight / jnp.sum(weight), axis=1),
        best_spread=spread[jnp.argmax(log_evidence, axis=1)],
    )
