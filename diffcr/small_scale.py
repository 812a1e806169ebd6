r"""Angular power of backtracked skies over an ensemble of turbulence: means, errors, noise, and what theory predicts.

Realisations of the turbulence are independent, pixels and degrees of one realisation are not: every error here comes
from the scatter between realisations. That scatter has heavy tails, as a few realisations hold a large part of
the mean power; errors of less than some thirty realisations are rough, and `bootstrap` shows how lopsided they are.
Ratios are ratios of means, not means of ratios, with errors of the jackknife.

A gradient is "parallel" to B_0 (along z), "perpendicular" (the mean of x and y), both of unit size, or three numbers.
"""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .backtracking import Spectra, require_gradient
from .errors import InputError
from .resampling import Estimate as Estimate
from .resampling import bootstrap as bootstrap
from .resampling import jackknife as jackknife
from .typing import AnyArray

Gradient = str | Sequence[float] | AnyArray
"""Parallel, perpendicular, or three numbers per unit of length."""


class Ensemble(eqx.Module):
    """Spectra and moments of many realisations; the attributes of `Spectra`, realisations first.

    Attributes:
        times: T of each sample, in the unit of positions, shape (sample,).
        power: C_l^{ij} from l = 0, shape (realisation, sample, l, 3, 3).
        second_moment: <r_i r_j>, shape (realisation, sample, 3, 3).
        velocity_displacement: <v_i(0) r_j(-T)>, shape (realisation, sample, 3, 3).
        mean: <r_i>, shape (realisation, sample, 3).
        multipoles: Of r_i, shape (realisation, sample, 3, coefficient).
    """

    times: Float[np.ndarray, " sample"]
    power: Float[np.ndarray, "realisation sample l 3 3"]
    second_moment: Float[np.ndarray, "realisation sample 3 3"]
    velocity_displacement: Float[np.ndarray, "realisation sample 3 3"]
    mean: Float[np.ndarray, "realisation sample 3"]
    multipoles: Float[np.ndarray, "realisation sample 3 coefficient"]


def combine(spectra: Sequence[Spectra]) -> Ensemble:
    """Join realisations of one set-up.

    Raises:
        InputError: If there are fewer than two, or their times or degrees differ.
    """
    spectra = list(spectra)
    if len(spectra) < 2:
        raise InputError(f"errors need at least two realisations, not {len(spectra)}: trace more")
    first = spectra[0]
    for number, each in enumerate(spectra):
        if each.power.shape != first.power.shape or not np.allclose(each.times, first.times, rtol=1e-9):
            raise InputError(
                f"realisation {number} has other times or degrees than the first: combine those of one set-up only"
            )
    stack = lambda name: np.stack([getattr(each, name) for each in spectra])
    names = ("power", "second_moment", "velocity_displacement", "mean", "multipoles")
    return Ensemble(first.times, *(stack(name) for name in names))


# Power --------------------------------------------------------------------------------------------------------


def quadratic(tensor: Float[AnyArray, "*batch 3 3"], gradient: Gradient) -> Float[np.ndarray, "*batch"]:
    """d_i d_j A_ij for a gradient d: A_zz if parallel, the mean of A_xx and A_yy if perpendicular."""
    tensor = np.asarray(tensor)
    if isinstance(gradient, str):
        if gradient not in ("parallel", "perpendicular"):
            raise InputError(f"a gradient is parallel, perpendicular or three numbers, not {gradient!r}")
        if gradient == "parallel":
            return np.asarray(tensor[..., 2, 2])
        return np.asarray(0.5 * (tensor[..., 0, 0] + tensor[..., 1, 1]))
    gradient = require_gradient(gradient)
    return np.asarray(np.einsum("...ij,i,j->...", tensor, gradient, gradient))


def mean_power(ensemble: Ensemble, gradient: Gradient) -> Estimate:
    """<C_l> from l = 0, which no sky shows, shape (sample, l), with errors and covariance between degrees."""
    return jackknife(lambda power: power, quadratic(ensemble.power, gradient))


def plateau(ensemble: Ensemble, gradient: Gradient, degrees: tuple[int, int]) -> Estimate:
    """Mean of C_l over high degrees, weighted by 2 l + 1, of each sample: what simulation noise is at most.

    Args:
        ensemble: The realisations.
        gradient: Direction of the gradient.
        degrees: First and last l.
    """
    weight = plateau_weight(ensemble, degrees)
    return jackknife(lambda power: power @ weight, quadratic(ensemble.power, gradient))


def analytic_noise(ensemble: Ensemble, gradient: Gradient, pixels: int) -> Estimate:
    r"""Noise of pixels that went independent ways, (4 pi / N_pix) 2 T K_ij d_i d_j, K from the same ensemble.

    A limit of large Omega T: before it neighbours still keep together, the plateau is lower, and to subtract
    this takes away signal.
    """
    tensor = -quadratic(ensemble.velocity_displacement, gradient)
    return jackknife(lambda k: 8 * np.pi / pixels * ensemble.times * k, tensor)


def shape(ensemble: Ensemble, gradient: Gradient, l_max: int = 8, degrees: tuple[int, int] | None = None) -> Estimate:
    """C_l / C_2 of l = 3 .. l_max, shape (sample, l).

    Args:
        ensemble: The realisations.
        gradient: Direction of the gradient.
        l_max: Highest degree.
        degrees: First and last l of the plateau to subtract first; None for none.
    """
    if not 3 <= l_max < ensemble.power.shape[2]:
        raise InputError(
            f"a shape needs l_max from 3 to that of the spectra, {ensemble.power.shape[2] - 1}, not {l_max!r}"
        )
    weight = np.zeros(ensemble.power.shape[2]) if degrees is None else plateau_weight(ensemble, degrees)

    def ratio(power):
        power = power - (power @ weight)[..., None]
        return power[..., 3 : l_max + 1] / power[..., 2:3]

    return jackknife(ratio, quadratic(ensemble.power, gradient))


def step_ratio(coarse: Ensemble, fine: Ensemble, gradient: Gradient) -> Estimate:
    """<C_l> of one step over that of a finer one, of the same realisations in the same order, shape (sample, l).

    The fields are the same, so that most of the scatter between realisations cancels.

    Raises:
        InputError: If the two differ in the number of realisations, samples or degrees.
    """
    if coarse.power.shape != fine.power.shape or not np.allclose(coarse.times, fine.times, rtol=1e-9):
        raise InputError("a comparison of steps needs the same realisations, times and degrees of both")
    # C_0 is in no sky.
    first, second = (quadratic(each.power, gradient) for each in (coarse, fine))
    return jackknife(lambda a, b: a / b, first, second)


def plateau_weight(ensemble: Ensemble, degrees: tuple[int, int]) -> Float[np.ndarray, " l"]:
    """Weights of a mean of C_l, l = 0 .. l_max, over a range of degrees: 2 l + 1, their sum 1.

    Raises:
        InputError: If the range does not lie within the degrees that there are.
    """
    l = np.arange(ensemble.power.shape[2])
    first, last = degrees
    if not 1 <= first <= last < len(l):
        raise InputError(f"a plateau from l = {first} to {last} does not lie within 1 and l_max = {len(l) - 1}")
    weight = np.where((l >= first) & (l <= last), 2.0 * l + 1, 0.0)
    return weight / weight.sum()
