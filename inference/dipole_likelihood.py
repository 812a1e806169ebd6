r"""The likelihood of published dipoles, given the sky that each experiment saw.

A row is a vector $d$ = (delta_0h, delta_6h), or the upper limit $L$ of its length. With $h$ what the experiment's
definition makes of the predicted sky over its window of declinations, and per experiment $e$ a scale, a rotation
and a scatter,

$$ d \sim N(m, C + s_e^2), \qquad m = e^{\lambda_e} R(\phi_e)\, h, $$

and a limit is a censored row: all it says is $|d| < L$. Predictions are of the observed frame: the Compton-Getting
dipole of the observer's motion is in them.
"""

import dataclasses
import math
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffcr.errors import InputError
from diffcr.typing import AnyArray
from diffcr.units import DEGREE
from diffcr.window import first_harmonic, mean_cosine, window_means

from .dipole_table import DipoleTable
from .nearest import require_known

L_MAX = 3
"""Highest degree of the predicted sky; a row of a prediction has (L_MAX + 1)**2 multipoles."""

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


class DipoleData(eqx.Module):
    """The fitted rows of a table of dipoles.

    Attributes:
        experiments: Names of the experiments.
        energy: Median energy [TeV], for whoever makes the predictions.
        group: Which experiment each row is of.
        weights: First harmonic, in the quantity of the row's definition, per multipole of order 1 and degree 1 to 3.
        value: (delta_0h, delta_6h) of a measured row; zero for a limit.
        covariance: Its covariance; for a limit that of the vector it is a limit of.
        limit: Upper limit of |d|; infinite for a row that never was one.
        is_limit: Which rows are limits.
        size: Typical amplitude of each experiment, the median of its rows: the unit of its scatter.
        correlation: Correlation of the scatter between rows, or None where they are independent.
    """

    experiments: tuple[str, ...] = eqx.field(static=True)
    energy: Float[AnyArray, " row"]
    group: Int[AnyArray, " row"]
    weights: Float[AnyArray, "row 3"]
    value: Float[AnyArray, "row 2"]
    covariance: Float[AnyArray, "row 2 2"]
    limit: Float[AnyArray, " row"]
    is_limit: Bool[AnyArray, " row"]
    size: Float[AnyArray, " experiment"]
    correlation: Float[AnyArray, "row row"] | None = None


class Nuisances(eqx.Module):
    """What the experiments may be wrong by. All zero: nothing.

    Attributes:
        log_scale: Logarithm of the factor on the predicted amplitude.
        phase: Angle by which the predicted vector is turned, eastwards [rad].
        scatter: Standard deviation added in quadrature to both components. Relative intensity.
    """

    log_scale: Float[AnyArray, " experiment"]
    phase: Float[AnyArray, " experiment"]
    scatter: Float[AnyArray, " experiment"]


def dipole_data(table: DipoleTable, correlation: Mapping[str, Float[AnyArray, "_ _"]] | None = None) -> DipoleData:
    r"""The rows of a table with use "fit", ready for the likelihood.

    An upper limit at confidence CL is taken as set for an isotropic sky: $\sigma = L / \sqrt{-2 \ln(1 - CL)}$ is the
    error of each component with which an isotropic sky exceeds it with probability 1 - CL.

    Args:
        table: From `read_dipoles`.
        correlation: Correlation matrix of the scatter between the fitted rows of an experiment, by its name; rows of
            experiments that are left out, and limits, scatter independently. See `overlap_correlation`.

    Raises:
        InputError: If no row is to be fitted, or a correlation is of an unknown experiment, of a wrong size, or no
            correlation matrix.
    """
    table = table.select("fit")
    if not len(table):
        raise InputError("the table of dipoles has no row with use = fit: there is nothing to fit")
    names = table.experiments
    group = np.array([names.index(each) for each in table.experiment])
    is_limit = table.is_limit
    value, covariance = table.cartesian()
    level = np.where(is_limit, table.limit, 0.5)
    sigma = table.amplitude / np.sqrt(-2 * np.log1p(-level))
    covariance = np.where(is_limit[:, None, None], sigma[:, None, None] ** 2 * np.eye(2), covariance)
    typical = np.where(is_limit, sigma, table.amplitude)
    return DipoleData(
        experiments=tuple(names),
        energy=jnp.asarray(table.energy),
        group=jnp.asarray(group),
        weights=jnp.asarray(_weights(table)),
        value=jnp.asarray(np.where(is_limit[:, None], 0.0, value)),
        covariance=jnp.asarray(covariance),
        limit=jnp.asarray(np.where(is_limit, table.amplitude, np.inf)),
        is_limit=jnp.asarray(is_limit),
        size=jnp.asarray([np.median(typical[group == k]) for k in range(len(names))]),
        correlation=None if correlation is None else jnp.asarray(_correlation(correlation, names, group, is_limit)),
    )


def overlap_correlation(energy: Float[AnyArray, " row"], width: float) -> Float[np.ndarray, "row row"]:
    r"""How much of their events rows of one experiment share, if each has a log-normal distribution of energies.

    The overlap $\int \sqrt{p_i p_j}\, d \ln E = \exp(-\ln^2(E_i / E_j) / 8 w^2)$ (Bhattacharyya 1943), which is a
    correlation matrix. Independent events have independent statistical errors; what their energies in common make
    alike is the systematic scatter.

    Args:
        energy: Median energies.
        width: Standard deviation w of ln E within a row; 1 is typical of air showers at TeV energies.
    """
    distance = np.log(np.asarray(energy))[:, None] - np.log(np.asarray(energy))
    return np.exp(-(distance**2) / (8 * width**2))


# The likelihood -----------------------------------------------------------------------------------------


def first_harmonics(data: DipoleData, prediction: Float[AnyArray, "row 16"]) -> Float[Array, "row 2"]:
    """What each experiment would publish of a predicted sky, without errors: (x, y) in its own definition.

    For "ra_harmonic" the first harmonic in right ascension over the window, sum over l of a_l1 <P_l1>; for
    "projected" that over the window's <cos dec>; for "3d" (delta_0h, delta_6h) themselves.

    Args:
        data: The rows.
        prediction: Multipoles up to l = 3 of the relative intensity that each row sees, in the observed frame, in the
            order of `diffcr.harmonics.index`.
    """
    return first_harmonic(prediction, data.weights)


def expected_dipoles(
    data: DipoleData, prediction: Float[AnyArray, "row 16"], nuisances: Nuisances
) -> Float[Array, "row 2"]:
    """`first_harmonics` scaled and turned as the nuisances of each experiment say."""
    x, y = first_harmonics(data, prediction).T
    scale, angle = jnp.exp(nuisances.log_scale)[data.group], jnp.asarray(nuisances.phase)[data.group]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return scale[:, None] * jnp.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)


def no_nuisances(data: DipoleData) -> Nuisances:
    """Experiments without systematic errors."""
    zero = jnp.zeros(len(data.experiments))
    return Nuisances(log_scale=zero, phase=zero, scatter=zero)


def log_likelihood(data: DipoleData, prediction: Float[AnyArray, "row 16"], nuisances: Nuisances) -> Float[Array, ""]:
    """Logarithm of the probability (density) of all rows.

    Args:
        data: The rows.
        prediction: Multipoles up to l = 3 that each row sees, in the observed frame.
        nuisances: Of the experiments.
    """
    if data.correlation is None:
        return jnp.sum(pointwise_log_likelihood(data, prediction, nuisances))
    mean = expected_dipoles(data, prediction, nuisances)
    residual, covariance = _joint(data, mean, nuisances)
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
    normal = -white @ white / 2 - jnp.sum(jnp.log(jnp.diagonal(factor))) - jnp.sum(~data.is_limit) * _LOG_2PI
    return normal + jnp.sum(jnp.where(data.is_limit, _log_below(data, mean, nuisances), 0.0))


def pointwise_log_likelihood(
    data: DipoleData, prediction: Float[AnyArray, "row 16"], nuisances: Nuisances
) -> Float[Array, " row"]:
    """Logarithm of the probability (density) of each row given the others, for leave-one-out comparison.

    Without a correlation the rows are independent, and these add up to `log_likelihood`.

    References:
        Buerkner, Gabry & Vehtari (2021), Comput. Stat. 36, 1243, for the correlated case.
    """
    mean = expected_dipoles(data, prediction, nuisances)
    if data.correlation is None:
        scatter = jnp.asarray(nuisances.scatter)[data.group]
        covariance = data.covariance + scatter[:, None, None] ** 2 * jnp.eye(2)
        normal = _log_normal(data.value - mean, covariance)
    else:
        residual, covariance = _joint(data, mean, nuisances)
        rows = len(data.energy)
        precision = jnp.linalg.inv(covariance)
        own = precision.reshape(rows, 2, rows, 2)[jnp.arange(rows), :, jnp.arange(rows)]
        given = jnp.linalg.inv(own)
        normal = _log_normal(jnp.einsum("rij,rj->ri", given, (precision @ residual).reshape(rows, 2)), given)
    return jnp.where(data.is_limit, _log_below(data, mean, nuisances), normal)


def log_rice_cdf(
    limit: Float[AnyArray, "*batch"], mean: Float[AnyArray, "*batch 2"], sigma: Float[AnyArray, "*batch"]
) -> Float[Array, "*batch"]:
    r"""Logarithm of the probability that |d| < limit for d normal about `mean` with equal errors sigma.

    $$ P = \int_0^{L / \sigma} x\, e^{-(x - n)^2 / 2}\, I_0(x n)\, e^{-x n} dx, \qquad n = |m| / \sigma, $$

    by Gauss-Legendre quadrature over the part of the range that matters, relative to the integrand's largest
    exponential: good in the far tail |m| >> L, and differentiable where the mean is zero.

    References:
        Rice (1945), Bell Syst. Tech. J. 24, 46.
    """
    limit, mean, sigma = jnp.asarray(limit), jnp.asarray(mean), jnp.asarray(sigma)
    reach, square = limit / sigma, jnp.sum(mean**2, axis=-1) / sigma**2
    # The square root has no derivative at zero, where that of the probability is zero.
    n = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    above = jnp.maximum(n - reach, 0.0)
    # The integrand falls away from its maximum as a normal density and, below a limit far below n, as
    # exp(-(n - reach) u): what is left out is below 1e-17 of it.
    top = jnp.minimum(reach, n + 9)
    depth = jnp.minimum(top - jnp.maximum(jnp.minimum(n, reach) - 9, 0.0), 40 / jnp.maximum(above, 1e-3))
    below = depth[..., None] * (1 - _NODES) / 2
    x, n, excess = top[..., None] - below, n[..., None], above[..., None]
    # With the largest exponential, exp(-above^2 / 2), divided out by hand: nothing large is subtracted.
    exponent = jnp.where(excess > 0, -below * (below / 2 + excess), -((x - n) ** 2) / 2)
    integrand = x * jnp.exp(exponent) * jax.scipy.special.i0e(x * n)
    integral = jnp.sum(_NODE_WEIGHTS / 2 * integrand, axis=-1) * depth
    return jnp.log(integral) - above**2 / 2


# Nuisances and simulation -------------------------------------------------------------------------------


def sample_nuisances(
    data: DipoleData, scale: float = 0.1, phase: float = 10 * DEGREE, scatter: float = 0.1
) -> Nuisances:
    """Hierarchical systematic errors of the experiments, inside a numpyro model.

    log scale = spread * z with z ~ N(0, 1), and so the phase: each spread is common to the experiments and
    half-normal. The scatter of an experiment is its typical amplitude times a spread, half-normal again, times
    exp(z / 2). Sites: `log_scale_spread`, `phase_spread`, `scatter_spread` and `log_scale_unit`, `phase_unit`,
    `scatter_unit` (experiment,); `log_scale`, `phase_offset` and `scatter` are deterministic.

    Published phases at 10 to 25 TeV differ between experiments by some ten degrees more than their errors, and energy
    scales by 10 to 20 %; the defaults say so.

    Args:
        data: The rows.
        scale: Scale of the half-normal spread of the log scales.
        phase: Scale of that of the phases [rad].
        scatter: Scale of that of the scatters, in units of each experiment's typical amplitude.
    """
    import numpyro
    import numpyro.distributions as dist

    count = len(data.experiments)

    def drawn(name: str, width: float) -> tuple[Array, Array]:
        spread = numpyro.sample(f"{name}_spread", dist.HalfNormal(width))
        return spread, numpyro.sample(f"{name}_unit", dist.Normal(0.0, 1.0).expand([count]).to_event(1))

    spread, unit = drawn("log_scale", scale)
    log_scale = numpyro.deterministic("log_scale", spread * unit)
    spread, unit = drawn("phase", phase)
    turn = numpyro.deterministic("phase_offset", spread * unit)
    spread, unit = drawn("scatter", scatter)
    extra = numpyro.deterministic("scatter", spread * jnp.asarray(data.size) * jnp.exp(unit / 2))
    return Nuisances(log_scale=log_scale, phase=turn, scatter=extra)


def simulate_dipoles(
    rng: np.random.Generator, data: DipoleData, prediction: Float[AnyArray, "row 16"], nuisances: Nuisances
) -> DipoleData:
    """The same rows drawn anew from a predicted sky.

    A row that is or was a limit stays one where the vector drawn is shorter than it. Where it is longer the experiment
    would have seen a dipole, and the row is that vector, measured: this is what the censored likelihood supposes.
    """
    mean = np.asarray(_expected(data, prediction, nuisances))
    rows = len(mean)
    correlation = np.eye(rows) if data.correlation is None else np.asarray(data.correlation)
    statistical = np.einsum(
        "rij,rj->ri", np.linalg.cholesky(np.asarray(data.covariance)), rng.standard_normal((rows, 2))
    )
    # Rows of the same energy are fully correlated: a square root that needs no positive definite matrix.
    power, modes = np.linalg.eigh(correlation)
    systematic = modes * np.sqrt(np.maximum(power, 0.0)) @ rng.standard_normal((rows, 2))
    value = mean + statistical + np.asarray(nuisances.scatter)[np.asarray(data.group)][:, None] * systematic
    limit = np.asarray(data.limit)
    is_limit = np.isfinite(limit) & (np.hypot(*value.T) < limit)
    return dataclasses.replace(data, value=np.where(is_limit[:, None], 0.0, value), is_limit=is_limit)


# Helpers ------------------------------------------------------------------------------------------------

_LOG_2PI = math.log(2 * math.pi)

_expected = eqx.filter_jit(expected_dipoles)


def _log_normal(residual: Array, covariance: Array) -> Array:
    """Of two components, shape (row, 2) and (row, 2, 2)."""
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    x, y = residual.T
    determinant = a * c - b**2
    return -(c * x**2 - 2 * b * x * y + a * y**2) / (2 * determinant) - jnp.log(determinant) / 2 - _LOG_2PI


def _log_below(data: DipoleData, mean: Array, nuisances: Nuisances) -> Array:
    """Of limits; whatever it is in other rows, it is finite and has a finite gradient."""
    sigma = jnp.sqrt(data.covariance[:, 0, 0] + jnp.asarray(nuisances.scatter)[data.group] ** 2)
    limit = jnp.where(data.is_limit, data.limit, 1.0)
    return log_rice_cdf(limit, jnp.where(data.is_limit[:, None], mean, 0.0), jnp.where(data.is_limit, sigma, 1.0))


def _joint(data: DipoleData, mean: Array, nuisances: Nuisances) -> tuple[Array, Array]:
    """Residual and covariance of all components; a limit stands in it as a zero with unit variance."""
    rows = len(data.energy)
    scatter = jnp.where(data.is_limit, 0.0, jnp.asarray(nuisances.scatter)[data.group])
    own = jnp.where(data.is_limit[:, None, None], jnp.eye(2), data.covariance)
    common = data.correlation * scatter[:, None] * scatter
    covariance = jnp.einsum("rs,rij->risj", jnp.eye(rows), own) + jnp.einsum("rs,ij->risj", common, jnp.eye(2))
    residual = jnp.where(data.is_limit[:, None], 0.0, data.value - mean)
    return residual.reshape(-1), covariance.reshape(2 * rows, 2 * rows)


def _weights(table: DipoleTable) -> np.ndarray:
    windows = zip(table.declination_min, table.declination_max, strict=True)
    means = np.stack([np.asarray(window_means(low, high, L_MAX)) for low, high in windows])
    whole = np.eye(1, L_MAX) * math.sqrt(3 / (4 * math.pi))
    definition = table.definition[:, None]
    projected = means / np.asarray(mean_cosine(means))[:, None]
    return np.where(definition == "3d", whole, np.where(definition == "projected", projected, means))


def _correlation(given: Mapping[str, AnyArray], names: list[str], group: np.ndarray, is_limit: np.ndarray):
    out = np.eye(len(group))
    for name, matrix in given.items():
        require_known(name, names, "correlation: the fitted table has no experiment")
        rows = np.flatnonzero(group == names.index(name))
        matrix = np.asarray(matrix, float)
        if matrix.shape != (len(rows), len(rows)):
            raise InputError(
                f"correlation of {name!r} must have the shape {(len(rows), len(rows))}, not {matrix.shape}: one row "
                "and one column for each of its fitted rows"
            )
        good = np.all(np.isfinite(matrix)) and np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1)
        if not good or np.linalg.eigvalsh(matrix)[0] < -1e-9:
            raise InputError(
                f"correlation of {name!r} is no correlation matrix: it must be symmetric with ones on its diagonal, "
                "and without negative eigenvalues"
            )
        out[np.ix_(rows, rows)] = matrix
    # A limit is no vector that could scatter together with others.
    alone = is_limit[:, None] | is_limit
    return np.where(alone, np.eye(len(group)), out)
