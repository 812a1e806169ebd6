"""A fitted map as the files of multi-llh, so that the scripts around it go on working."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .exchange import ExchangeResult, write_result
from .local_maps import LocalMaps, bin_offset, pixel_cells
from .map_products import HealpixMap, healpix_map
from .map_report import Analysis
from .maps import SkyMap, correlated


def write_multi_llh(folder: Path, analysis: Analysis, local: Sequence[LocalMaps], bin_reference: str) -> list[Path]:
    """Write CR_*, RAW_*, exposure_*, norm_* and llhratio_* of a map made from local maps; returns the paths.

    CR_* is unsmoothed, as there; its significance is Li & Ma's with the background of the best fit taken as known.

    Args:
        folder: Where to.
        analysis: The map and what was made of it.
        local: The local maps it was made from, one per configuration.
        bin_reference: Where the sky stands for a time bin.

    Raises:
        InputError: If a file cannot be written.
    """
    sky = analysis.sky
    free = analysis.healpix if analysis.discs is None else healpix_map(sky, analysis.healpix.nside)
    result = exchange_result(sky, free, local, bin_reference)
    return write_result(folder, result, sky.newton_steps, converged=sky.method != "iterative" and sky.converged)


def exchange_result(sky: SkyMap, free: HealpixMap, local: Sequence[LocalMaps], bin_reference: str) -> ExchangeResult:
    """The map in the terms of multi-llh: acceptances per pixel of the horizon, rates per bin of the files."""
    intensity = np.where(np.isfinite(sky.contrast), 1 + sky.contrast, 1.0)
    acceptance, rates = {}, {}
    order = [s.name for s in sky.counts.sites]
    for maps in local:
        k = order.index(maps.name)
        weight = _weights(maps, correlated(sky.rates[k], intensity), sky, bin_reference)
        shift, _ = bin_offset(maps.longitude, sky.grid.n_ra, bin_reference)
        acceptance[maps.name] = weight / weight.sum()
        rates[maps.name] = np.roll(sky.rates[k], -shift) * weight.sum()
    contrast, background = free.fields["RELATIVE_INTENSITY"], free.fields["BACKGROUND"]
    data = background * (1 + contrast)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviance = data * np.log(np.maximum(data, 1e-300) / background) - (data - background)
    return ExchangeResult(
        relative_intensity=contrast,
        sigma=free.fields["ERROR"],
        significance=np.sign(contrast) * np.sqrt(np.maximum(2 * deviance, 0)),
        data=data,
        background=background,
        expected=data,
        acceptance=acceptance,
        rates=rates,
        log_likelihoods=[sky.log_likelihood],
    )


def _weights(maps: LocalMaps, seen: np.ndarray, sky: SkyMap, bin_reference: str) -> np.ndarray:
    """Counts of each pixel of the horizon over what its cell sees of the sky: the acceptance times a constant."""
    pixels, ring, hour = pixel_cells(maps, sky.grid, bin_reference)
    counted = (maps.counts if maps.sum_weights is None else maps.sum_weights).sum(axis=0)
    out = np.zeros(maps.counts.shape[1])
    out[pixels] = counted[pixels] / seen[ring, hour]
    return out
