"""Leave-one-out densities from posterior draws, by Pareto-smoothed importance sampling of ArviZ."""

import math
import warnings

import numpy as np
from jaxtyping import Float

PARETO_LIMIT = 0.7
"""Above this shape of the weights' tail an estimate is not to be trusted (Vehtari et al. 2024, JMLR 25, 72)."""


def error_of_sum(values: Float[np.ndarray, " entry"]) -> float:
    """sqrt(n var) of a sum of n terms (Vehtari, Gelman & Gabry 2017, eq. 23); NaN for a single one."""
    return math.sqrt(len(values) * np.var(values, ddof=1)) if len(values) > 1 else math.nan


def smoothed(
    log_density: Float[np.ndarray, "draw entry"], relative_efficiency: float = 1.0
) -> tuple[Float[np.ndarray, " entry"], Float[np.ndarray, " entry"]]:
    """ln p(entry | all others) and Pareto k of each entry from ln p(entry | all others, draw).

    Args:
        log_density: Of each entry, given each draw of the posterior of all entries, shape (draw, entry).
        relative_efficiency: Effective sample size of the draws over their number.
    """
    import xarray

    from .arviz_import import arviz

    elpd, pareto_k = log_density[0].copy(), np.zeros(log_density.shape[1])
    # Weights that are all alike, of a model without parameters, have no tail.
    varied = np.ptp(log_density, axis=0) > 1e-9
    if not varied.any():
        return elpd, pareto_k
    dims = ("chain", "draw", "entry")
    groups = {
        "posterior": xarray.Dataset({"draw_number": (dims[:2], np.arange(len(log_density))[None])}),
        "log_likelihood": xarray.Dataset({"of_each": (dims, log_density[None, :, varied])}),
    }
    old = int(arviz.__version__.split(".")[0]) < 1
    data = arviz.InferenceData(**groups) if old else xarray.DataTree.from_dict(groups)
    with warnings.catch_warnings():
        # It warns of large k, which is reported entry by entry.
        warnings.simplefilter("ignore")
        result = arviz.loo(data, pointwise=True, reff=relative_efficiency)
    elpd[varied], pareto_k[varied] = np.asarray(result.loo_i if old else result.elpd_i), np.asarray(result.pareto_k)
    return elpd, pareto_k
