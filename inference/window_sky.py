r"""Is what experiments see in different windows of declination one sky, or a dipole and errors of the experiments?

A first harmonic in right ascension over a window is $h = \sum_l w_l\, (s_{l,1}, s_{l,-1})$, so that one sky with
multipoles beyond the dipole has another phase for each experiment. Experiments that are off in amplitude and phase
have that too. Both are linear with normal priors, and their evidences are exact.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from diffcr.errors import InputError

from .one_axis import Systematics, exceeded


@dataclasses.dataclass(frozen=True)
class WindowSky:
    """Multipoles of order 1 fitted to first harmonics seen through windows of declination.

    Attributes:
        multipoles: Posterior mean of (s_l1, s_l,-1) at the reference energy, one degree a row, then of their
            derivatives by ln E.
        covariance: Posterior covariance, (term, component, term, component).
        expected: First harmonic of each row for the posterior mean.
        chi2: Smallest chi2, without the prior.
        degrees_of_freedom: Components less multipoles that the rows determine.
        p_value: Probability of a larger chi2.
        log_evidence: Logarithm of the density of the data, averaged over the prior of the multipoles.
    """

    multipoles: np.ndarray
    covariance: np.ndarray
    expected: np.ndarray
    chi2: float
    degrees_of_freedom: int
    p_value: float
    log_evidence: float


@dataclasses.dataclass(frozen=True)
class SkyOrOffsets:
    """The evidence for multipoles up to each degree, against the spread of the experiments' offsets.

    Attributes:
        spread: Standard deviation of log amplitude and phase of the experiments. Dimensionless and [rad].
        log_evidence: Logarithm of the density of the data given the spread, (degree, spread); the first degree is 1.
        averaged: Logarithm of the density averaged over a half-normal prior of the spread, one for each degree.
        best_spread: Where the evidence is largest, one for each degree.
    """

    spread: np.ndarray
    log_evidence: np.ndarray
    averaged: np.ndarray
    best_spread: np.ndarray


def harmonic_covariance(
    about: Float[np.ndarray, "row 2"], covariance: Float[np.ndarray, "row 2 2"], systematics: Systematics
) -> Float[np.ndarray, "row 2 row 2"]:
    """Covariance of all rows, statistical and, to first order, systematic.

    Args:
        about: Expected harmonics, which the experiments scale and turn.
        covariance: Statistical, of each row.
        systematics: What the experiments may be wrong by.
    """
    about = np.asarray(about, float)
    group, scale, phase, scatter = systematics.rows(len(about))
    turned = np.stack([-about[:, 1], about[:, 0]], axis=1)
    errors = (scale[:, None] * about, phase[:, None] * turned)
    common = sum(np.einsum("ia,jb->iajb", error, error) for error in errors)
    own = np.asarray(covariance) + scatter[:, None, None] ** 2 * np.eye(2)
    return common * (group[:, None] == group)[:, None, :, None] + np.einsum("ij,iab->iajb", np.eye(len(about)), own)


def fit_window_sky(
    harmonic: Float[np.ndarray, "row 2"],
    covariance: Float[np.ndarray, "_ 2 _ 2"],
    windows: Float[np.ndarray, "_ degree"],
    prior: Sequence[float] | Float[np.ndarray, " _"],
    log_energy: Float[np.ndarray, " row"] | None = None,
) -> WindowSky:
    r"""One sky for all rows, $h = \sum_l w_l\, (s_{l,1}, s_{l,-1})$, each s linear in ln E where energies are given.

    Args:
        harmonic: First harmonics in right ascension, each in the quantity of its window.
        covariance: Of all of them, from `harmonic_covariance`.
        windows: w_l of each row from `diffcr.window.window_means`, or the `weights` of `dipole_likelihood`. As many
            degrees are fitted as there are.
        prior: Standard deviation of a normal prior of s_l1 and s_l,-1 about zero, for each degree; the same for
            the derivatives.
        log_energy: ln(E / E_0) of the rows; the same energy for all if left out.

    Raises:
        InputError: If shapes do not fit, or a prior is not above zero.
    """
    harmonic, windows, prior = np.asarray(harmonic), np.asarray(windows), np.asarray(prior, float)
    rows, degrees = windows.shape
    if harmonic.shape != (rows, 2) or covariance.shape != (rows, 2, rows, 2) or prior.shape != (degrees,):
        raise InputError(
            f"windows of {rows} rows and {degrees} degrees do not fit harmonics {harmonic.shape}, their covariance "
            f"{covariance.shape} and priors {prior.shape}"
        )
    if not np.all(np.isfinite(prior) & (prior > 0)):
        raise InputError(f"the prior of each degree must be finite and above zero, not {prior}")
    scaled = windows * prior
    if log_energy is not None:
        scaled = np.concatenate([scaled, np.asarray(log_energy)[:, None] * scaled], axis=1)
        prior = np.concatenate([prior, prior])
    terms, unit = len(prior), np.repeat(prior, 2)
    # In units of the prior and whitened by the noise: a ridge of 1.
    factor = np.linalg.cholesky(np.asarray(covariance).reshape(2 * rows, 2 * rows))
    design = np.kron(scaled, np.eye(2))
    white = solve_triangular(factor, np.column_stack([design, harmonic.ravel()]), lower=True)
    left, sizes, right = np.linalg.svd(white[:, :-1], full_matrices=False)
    data = left.T @ white[:, -1]
    beyond = max(float(np.sum(white[:, -1] ** 2) - np.sum(data**2)), 0.0)
    seen = sizes > 1e-10 * sizes[0]
    chi2, freedom = beyond + float(np.sum(data[~seen] ** 2)), 2 * rows - int(np.sum(seen))
    shrink = 1 / (1 + sizes**2)
    solution = right.T @ (sizes * shrink * data)
    # Directions that the rows do not determine keep the unit variance of the prior.
    spread = np.eye(2 * terms) - (right.T * (sizes**2 * shrink)) @ right
    determinant = np.sum(np.log1p(sizes**2)) / 2 + np.sum(np.log(np.diagonal(factor)))
    log_evidence = -(beyond + np.sum(shrink * data**2)) / 2 - determinant - rows * math.log(2 * math.pi)
    return WindowSky(
        multipoles=(unit * solution).reshape(terms, 2),
        covariance=(unit[:, None] * spread * unit).reshape(terms, 2, terms, 2),
        expected=(design @ solution).reshape(rows, 2),
        chi2=chi2,
        degrees_of_freedom=freedom,
        p_value=exceeded(chi2, freedom),
        log_evidence=float(log_evidence),
    )


def sky_or_offsets(
    harmonic: Float[np.ndarray, "row 2"],
    covariance: Float[np.ndarray, "row 2 2"],
    windows: Float[np.ndarray, "row degree"],
    group: np.ndarray,
    prior: Sequence[float] | Float[np.ndarray, " degree"],
    log_energy: Float[np.ndarray, " row"] | None = None,
    scatter: float = 0.0,
    spread_scale: float = 0.2,
) -> SkyOrOffsets:
    """Evidence for a dipole, for multipoles up to l = 2, 3, ..., and for offsets of the experiments beside each.

    An offset is one error of the log amplitude and one of the phase, common to the rows of an experiment; both are
    normal about zero with the same spread. They are taken about the dipole that fits best if there are offsets, for
    all explanations alike.

    Args:
        harmonic: As for `fit_window_sky`, and so `windows`, `prior` and `log_energy`.
        covariance: Statistical, of each row.
        windows: To the highest degree tried.
        group: Experiment of each row, counted from 0.
        prior: Of each degree.
        log_energy: ln(E / E_0) of the rows.
        scatter: Standard deviation of both components of each row beside their errors. Relative intensity.
        spread_scale: Scale of the half-normal prior of the spread. Spreads go from zero to four times it.
    """
    windows, prior = np.asarray(windows), np.asarray(prior, float)
    spread = np.linspace(0.0, 4 * spread_scale, 161)

    def fit(about, width, degrees):
        joint = harmonic_covariance(about, covariance, Systematics(group, width, width, scatter))
        return fit_window_sky(harmonic, joint, windows[:, :degrees], prior[:degrees], log_energy)

    about = np.asarray(harmonic)
    for _ in range(2):
        about = fit(about, spread_scale, 1).expected
    degrees = range(1, windows.shape[1] + 1)
    log_evidence = np.array([[fit(about, width, n).log_evidence for width in spread] for n in degrees])
    weight = np.exp(-((spread / spread_scale) ** 2) / 2)
    weight[[0, -1]] /= 2
    return SkyOrOffsets(
        spread=spread,
        log_evidence=log_evidence,
        averaged=logsumexp(log_evidence, b=weight / weight.sum(), axis=1),
        best_spread=spread[np.argmax(log_evidence, axis=1)],
    )
