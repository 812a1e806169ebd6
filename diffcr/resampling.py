"""Errors of functions of means over independent realisations: the jackknife and the bootstrap."""

from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float


class Estimate(eqx.Module):
    """A function of means over realisations, by the jackknife.

    Attributes:
        value: At the means, any shape.
        error: Standard error.
        covariance: Along the last axis of `value`: its shape, and that axis once more.
        bias: Expected excess of `value`, of order 1 / realisations; 0 for plain means. Not subtracted.
    """

    value: Float[np.ndarray, "*any"]
    error: Float[np.ndarray, "*any"]
    covariance: Float[np.ndarray, "..."]
    bias: Float[np.ndarray, "*any"]


def jackknife(function: Callable, *values: Float[np.ndarray, "realisation ..."]) -> Estimate:
    """A smooth function of means over realisations, with its standard error.

    Args:
        function: Of arrays like `values`, whose leading axis it leaves alone: of shape (n, ...) for any n.
        values: What is averaged over the leading axis, all of the same length of at least 2.

    References:
        Efron (1982), The Jackknife, the Bootstrap and Other Resampling Plans, chapter 3.
    """
    number = len(values[0])
    value = np.asarray(function(*(each.mean(axis=0, keepdims=True) for each in values)))[0]
    left_out = np.asarray(function(*((each.sum(axis=0) - each) / (number - 1) for each in values)))
    deviation = left_out - left_out.mean(axis=0)
    scale = (number - 1) / number
    error = np.sqrt(scale * np.sum(deviation**2, axis=0))
    covariance = error**2
    if value.ndim:
        covariance = scale * np.einsum("r...a,r...b->...ab", deviation, deviation)
    bias = (number - 1) * (left_out.mean(axis=0) - value)
    return Estimate(*(np.asarray(each) for each in (value, error, covariance, bias)))


def bootstrap(
    function: Callable,
    *values: Float[np.ndarray, "realisation ..."],
    draws: int = 1000,
    quantiles: Sequence[float] = (0.16, 0.84),
    seed: int = 0,
) -> Float[np.ndarray, "quantile ..."]:
    """Quantiles of a function of means over realisations drawn anew, with replacement: for errors that are lopsided.

    Args:
        function: As of `jackknife`.
        values: As of `jackknife`.
        draws: Number of draws.
        quantiles: From 0 to 1.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    number = len(values[0])
    weight = rng.multinomial(number, np.full(number, 1 / number), size=draws) / number
    means = (np.tensordot(weight, each, axes=1) for each in values)
    return np.quantile(np.asarray(function(*means)), quantiles, axis=0)
