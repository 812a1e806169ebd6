"""Theory beside the angular power of backtracked skies: standard diffusion, the cascade, and a prior for fits."""

import functools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
import scipy.special
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from .backtracking import require_gradient
from .cascade import nearest_neighbour_power
from .errors import InputError, require_float64
from .harmonics import degrees_and_orders
from .small_scale import Ensemble, Estimate, Gradient, jackknife, plateau_weight, quadratic, shape
from .transport import diffusion_tensor
from .typing import AnyArray

# Diffusion ----------------------------------------------------------------------------------------------------


class Diffusion(eqx.Module):
    """Diffusion coefficients of the ensemble at each time, K_ij(T) = -<v_i(0) r_j(-T)>, over c, in units of length.

    Attributes:
        parallel: K_zz.
        perpendicular: (K_xx + K_yy) / 2.
        antisymmetric: (K_xy - K_yx) / 2.
        tensor: All of K_ij, shape (sample, 3, 3).
        parallel_variance: <r_z^2> / 2T, the mean of `parallel` over all times up to T (of infinitely many realisations;
            it scatters less, as the ways of the particles end in many places).
        perpendicular_variance: <r_x^2 + r_y^2> / 4T.
    """

    parallel: Estimate
    perpendicular: Estimate
    antisymmetric: Estimate
    tensor: Estimate
    parallel_variance: Estimate
    perpendicular_variance: Estimate


def diffusion(ensemble: Ensemble) -> Diffusion:
    """Diffusion coefficients against time, with errors."""
    tensor = -ensemble.velocity_displacement
    variance = ensemble.second_moment / (2 * ensemble.times[:, None, None])
    mean = lambda values: jackknife(lambda x: x, values)
    return Diffusion(
        mean(quadratic(tensor, "parallel")),
        mean(quadratic(tensor, "perpendicular")),
        mean(0.5 * (tensor[..., 0, 1] - tensor[..., 1, 0])),
        mean(tensor),
        mean(quadratic(variance, "parallel")),
        mean(quadratic(variance, "perpendicular")),
    )


def standard_dipole_power(tensor: Float[AnyArray, "*batch 3 3"], gradient: Gradient) -> Float[np.ndarray, "*batch"]:
    r"""C_1 of the dipole of standard diffusion, delta = 3 K d: (4 pi / 9) |delta|^2 = 4 pi |K d|^2.

    K is first made symmetric about z, as the ensemble is.
    """
    tensor = np.asarray(tensor)
    parallel, across = quadratic(tensor, "parallel"), quadratic(tensor, "perpendicular")
    around = 0.5 * (tensor[..., 0, 1] - tensor[..., 1, 0])
    along_square, across_square = _squares(gradient)
    return np.asarray(4 * np.pi * (parallel**2 * along_square + (across**2 + around**2) * across_square))


def gradient_of_dipole(tensor: Float[AnyArray, "3 3"], dipole: Sequence[float] | AnyArray) -> Float[np.ndarray, "3"]:
    """The gradient d that drives a given dipole 3 K d by standard diffusion; both in the frame with B_0 along z.

    Args:
        tensor: K_ij, such as `diffusion(ensemble).tensor.value[-1]`; made symmetric about z first.
        dipole: delta, the vector to where the excess comes from.

    Raises:
        InputError: If K has no inverse: without turbulence, or at a time too short to diffuse across B_0.
    """
    tensor = np.asarray(tensor, float)
    across, around = 0.5 * (tensor[0, 0] + tensor[1, 1]), 0.5 * (tensor[0, 1] - tensor[1, 0])
    tensor = np.asarray(diffusion_tensor(tensor[2, 2], across, around, np.array([0.0, 0.0, 1.0])), float)
    if not abs(np.linalg.det(tensor)) > 1e-12 * np.linalg.norm(tensor) ** 3:
        raise InputError("the diffusion tensor has no inverse: take a later time, or turbulence")
    return np.linalg.solve(3 * tensor, np.asarray(dipole, float))


def dipole_excess(ensemble: Ensemble, gradient: Gradient) -> Estimate:
    r"""<C_1> over that of standard diffusion with K(T) of the same ensemble, of each sample.

    The dipole of one realisation is 3 K d with *its* K_ij = -<v_i r_j>, exactly; so this is 1 plus the relative
    variance of K d between realisations, and never below 1 but for noise.
    """
    return jackknife(
        lambda first, tensor: first / standard_dipole_power(tensor, gradient),
        quadratic(ensemble.power, gradient)[:, :, 1],
        -ensemble.velocity_displacement,
    )


def aligned_share(ensemble: Ensemble, gradient: Gradient) -> Estimate:
    """Share of <C_l> that the mean sky of all realisations has, of each sample, from l = 0, shape (sample, l).

    The turbulence is symmetric about B_0 on average. What the mean sky holds is not noise of zero mean but a known
    pattern: along B_0 (m = 0) for a parallel gradient, with m = +-1 for a perpendicular one.
    """
    number = len(ensemble.power)
    if isinstance(gradient, str):
        weight = np.eye(3)[2:] if gradient == "parallel" else np.eye(3)[:2]
    else:
        weight = require_gradient(gradient)[None]
    values = np.einsum("rsic,ki->rskc", ensemble.multipoles, weight)
    degree, _ = degrees_and_orders(math.isqrt(values.shape[-1]) - 1)
    sums = np.eye(degree[-1] + 1)[degree]

    found = jackknife(
        lambda mean, square: np.sum(mean**2 @ sums, axis=-2) / np.sum(square @ sums, axis=-2), values, values**2
    )
    # The square of a mean of R skies holds 1 / R of the mean square besides.
    scale = number / (number - 1)
    value = scale * found.value - 1 / (number - 1)
    return Estimate(value, scale * found.error, scale**2 * found.covariance, np.zeros_like(value))


def dipole_to_quadrupole(ensemble: Ensemble, gradient: Gradient, degrees: tuple[int, int] | None = None) -> Estimate:
    """C_1 / C_2 of each sample, a plateau subtracted if wanted; the cascade has 10/3 at large depth."""
    weight = np.zeros(ensemble.power.shape[2]) if degrees is None else plateau_weight(ensemble, degrees)

    def ratio(power):
        power = power - (power @ weight)[..., None]
        return power[..., 1] / power[..., 2]

    return jackknife(ratio, quadratic(ensemble.power, gradient))


def _squares(gradient: Gradient) -> tuple[float, float]:
    if isinstance(gradient, str):
        return (1.0, 0.0) if gradient == "parallel" else (0.0, 1.0)
    gradient = require_gradient(gradient)
    return float(gradient[2] ** 2), float(gradient[0] ** 2 + gradient[1] ** 2)


# The cascade --------------------------------------------------------------------------------------------------


class CascadeFit(eqx.Module):
    """The shape C_l / C_2 of l = 3 .. l_max against the cascade l -> l + 1 with rates nu l (l + 1).

    Attributes:
        measured: Shape with its covariance.
        predicted: Shape of the cascade at the best depth, shape (l,).
        depth: nu T that fits best; infinite where the shape is that of large depths.
        depth_range: Where chi2 is less than 1 above its minimum.
        chi2: At the best depth, with the covariance of the jackknife (debiased by Hartlap's factor).
        degrees_of_freedom: Number of ratios less 1.
        p_value: By Hotelling's F distribution, for normal errors. The scatter of C_l has heavy tails: of true cascades
            with such tails 8 to 16 % had p below 0.05 at 40 realisations, 4 to 5 % at 100. Rough below a hundred.
        chi2_asymptotic: With the shape of large depths, 18 / ((2l+1)(l+1)(l+2)), and no free parameter.
    """

    measured: Estimate
    predicted: Float[np.ndarray, " l"]
    depth: float
    depth_range: tuple[float, float]
    chi2: float
    degrees_of_freedom: int
    p_value: float
    chi2_asymptotic: float


_DEPTHS = np.geomspace(0.02, 5.0, 401)


def cascade_shape(depth: Real[ArrayLike, "*depth"], l_max: int) -> Float[np.ndarray, "*depth l"]:
    """C_l / C_2 of l = 3 .. l_max of `cascade.nearest_neighbour_power`, with rates l (l + 1)."""
    depth = np.asarray(depth, float)
    power = np.asarray(_cascade(depth.reshape(-1), l_max)).reshape(*depth.shape, l_max)
    return power[..., 2:] / power[..., 1:2]


@functools.partial(jax.jit, static_argnames="l_max")
def _cascade(depth, l_max: int):
    return jax.vmap(lambda x: nearest_neighbour_power(1.0, x, l_max))(depth)


def compare_cascade(
    ensemble: Ensemble,
    gradient: Gradient,
    l_max: int = 8,
    degrees: tuple[int, int] | None = None,
    sample: int = -1,
) -> CascadeFit:
    """Fit the depth of the cascade to the shape for l >= 2 at one time; l = 1 is left out.

    Backtracked skies need not follow it: with turbulence as strong as B_0 they do at Omega T of some 20, within
    errors of 10 to 20 %, and at 100 they are flatter, by up to twice at l = 8. The fit is to ln C_l / C_2: errors
    of ratios are proportional to them, and with a common denominator a fit to the ratios themselves would come out
    low. What the plateau takes from the power is taken from the cascade's too, as it holds signal where nside is small.

    Args:
        ensemble: At least l_max + 1 realisations.
        gradient: Direction of the gradient.
        l_max: Highest degree, at least 4.
        degrees: First and last l of the plateau to subtract first; None for none.
        sample: Which time.

    Raises:
        InputError: If there are too few realisations for a covariance, or power is not above the plateau.
    """
    require_float64("the cascade of angular power")
    number, ratios = len(ensemble.power), l_max - 2
    if not 4 <= l_max < ensemble.power.shape[2]:
        raise InputError(f"a cascade is fitted up to l_max from 4 to {ensemble.power.shape[2] - 1}, not {l_max!r}")
    if number < ratios + 3:
        raise InputError(
            f"the covariance of {ratios} ratios needs at least {ratios + 3} realisations, not {number}: trace more, "
            "or lower l_max"
        )
    measured = jax.tree.map(lambda x: x[sample], shape(ensemble, gradient, l_max, degrees))
    if np.any(measured.value <= 0):
        raise InputError(
            f"the mean power at l = {3 + int(np.argmin(measured.value))} is not above the plateau: lower l_max"
        )
    precision = _precision(measured.covariance / np.outer(measured.value, measured.value))
    hartlap = (number - ratios - 2) / (number - 1)

    def chi2(depth):
        off = np.log(measured.value / _less_plateau(depth, l_max, degrees))
        return hartlap * np.einsum("...a,ab,...b->...", off, precision, off)

    grid = chi2(_DEPTHS)
    best, depth = int(np.argmin(grid)), np.inf
    if best < len(_DEPTHS) - 1:
        fine = np.geomspace(_DEPTHS[max(best - 1, 0)], _DEPTHS[best + 1], len(_DEPTHS))
        depth = float(fine[np.argmin(chi2(fine))])
    at = min(depth, _DEPTHS[-1])
    least, inside = float(chi2(at)), _DEPTHS[grid < grid[best] + 1]
    freedom = (ratios - 1, number - ratios + 1)
    return CascadeFit(
        measured,
        _less_plateau(at, l_max, degrees),
        depth,
        (float(inside[0]), float(inside[-1]) if inside[-1] < _DEPTHS[-1] else np.inf),
        least,
        ratios - 1,
        # Hotelling: with a covariance from n realisations the quadratic form is not chi2, but F with n - q below.
        float(scipy.stats.f.sf(least / hartlap * (number - ratios + 1) / ((ratios - 1) * (number - 1)), *freedom)),
        float(grid[-1]),
    )


def _less_plateau(depth, l_max: int, degrees: tuple[int, int] | None) -> Float[np.ndarray, "*depth l"]:
    """Shape of the cascade from which the plateau's mean was subtracted like from the measured power."""
    if degrees is None or degrees[1] > _PLATEAU_SEEN:
        return cascade_shape(depth, l_max)
    all_of = cascade_shape(depth, degrees[1])
    l = np.arange(3, degrees[1] + 1)
    weight = np.where(l >= degrees[0], 2.0 * l + 1, 0.0)
    level = all_of @ (weight / np.sum(2 * np.arange(degrees[0], degrees[1] + 1) + 1.0))
    return (all_of[..., : l_max - 2] - level[..., None]) / (1 - level[..., None])


_PLATEAU_SEEN = 64
"""A plateau of higher degrees holds less than 1e-3 of C_2 in a cascade, and is not subtracted from it."""


def _precision(covariance: Float[np.ndarray, "l l"]) -> Float[np.ndarray, "l l"]:
    scale = np.sqrt(np.diag(covariance))
    if not np.all(scale > 0) or np.linalg.cond(covariance / np.outer(scale, scale)) > 1e10:
        raise InputError(
            "realisations do not scatter enough for a covariance: is there turbulence, or one of them twice?"
        )
    return np.linalg.inv(covariance / np.outer(scale, scale)) / np.outer(scale, scale)


# What a fit can use -------------------------------------------------------------------------------------------


class PowerPrior(eqx.Module):
    """What the ensemble says on ln C_l of l = 2 .. l_max, where one sky's multipoles are normal with variance C_l.

    Attributes:
        log_power: Mean of ln C_l over realisations, shape (l,).
        covariance: Of ln C_l between realisations, beyond the scatter of 2 l + 1 normal multipoles; shape (l, l),
            not negative.
    """

    log_power: Float[np.ndarray, " l"]
    covariance: Float[np.ndarray, "l l"]

    def power_law(self) -> tuple[float, float, float]:
        """(median, slope, spread) of C_l = median (l / 2)^-slope, each ln C_l within spread: least squares in ln l."""
        log_l = np.log(np.arange(2, len(self.log_power) + 2) / 2)
        slope, intercept = np.polyfit(log_l, self.log_power, 1) if len(log_l) > 1 else (0.0, self.log_power[0])
        off = self.log_power - intercept - slope * log_l
        return float(np.exp(intercept)), float(-slope), float(np.sqrt(np.mean(np.diag(self.covariance) + off**2)))


def power_prior(
    ensemble: Ensemble, gradient: Gradient, l_max: int, degrees: tuple[int, int] | None = None, sample: int = -1
) -> PowerPrior:
    """Prior on the angular power of one sky from the ensemble, for a gradient of given size.

    C_l scales with the square of the gradient: give its vector, such as that of `gradient_of_dipole`.

    Args:
        ensemble: The realisations.
        gradient: Of the density; "parallel" and "perpendicular" have unit size.
        l_max: Highest degree.
        degrees: First and last l of a plateau, whose mean share of C_l is taken off.
        sample: Which time.

    Raises:
        InputError: If a power is not above the plateau, or l_max not among those of the spectra.
    """
    power = quadratic(ensemble.power, gradient)[:, sample]
    if not 2 <= l_max < power.shape[1]:
        raise InputError(f"l_max of a prior must be from 2 to that of the spectra, {power.shape[1] - 1}, not {l_max!r}")
    noise = 0.0 if degrees is None else float((power @ plateau_weight(ensemble, degrees)).mean())
    power = power[:, 2 : l_max + 1]
    share = 1 - noise / power.mean(axis=0)
    if np.any(share <= 0):
        raise InputError(f"the mean power at l = {2 + int(np.argmin(share))} is not above the plateau: lower l_max")
    # ln of a mean of 2 l + 1 squares has this mean and variance.
    half = np.arange(2, l_max + 1) + 0.5
    log_power = np.log(power)
    covariance = np.atleast_2d(np.cov(log_power, rowvar=False)) - np.diag(scipy.special.polygamma(1, half))
    values, vectors = np.linalg.eigh(covariance)
    offset = np.log(share) - scipy.special.digamma(half) + np.log(half)
    return PowerPrior(log_power.mean(axis=0) + offset, (vectors * np.maximum(values, 0)) @ vectors.T)
