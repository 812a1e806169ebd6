"""A fitted map as the files of multi-llh, so that the scripts around it go on working."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .exchange import ExchangeResult, write_result
from .local_maps import LocalMaps, bin_offset, hour_vector, pixel_cells
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
    free = analysis.healpix
    if analysis.discs is not None:
        free = healpix_map(sky, free.nside, declinations=mean_declinations(local, sky, bin_reference))
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


def mean_declinations(local: Sequence[LocalMaps], sky: SkyMap, bin_reference: str) -> np.ndarray:
    """Mean declination of the counts in each ring [rad], from the centres of the pixels; the ring's own where it is
    empty."""
    import healpy

    moved, counted = np.zeros(sky.grid.n_ring), np.zeros(sky.grid.n_ring)
    for maps in local:
        pixels, ring, _ = pixel_cells(maps, sky.grid, bin_reference)
        sine = hour_vector(*healpy.pix2ang(maps.nside, pixels), maps.latitude)[2]
        number = maps.counts.sum(axis=0)[pixels]
        offset = np.arcsin(np.clip(sine, -1, 1)) - sky.grid.declination[ring]
        moved += np.bincount(ring, number * offset, sky.grid.n_ring)
        counted += np.bincount(ring, number, sky.grid.n_ring)
    return sky.grid.declination + moved / np.maximum(counted, 1e-300)


def _weights(maps: LocalMaps, seen: np.ndarray, sky: SkyMap, bin_reference: str) -> np.ndarray:
    """Counts of each pixel of the horizon over what its cell sees of the sky: the acceptance times a constant."""
    pixels, ring, hour = pixel_cells(maps, sky.grid, bin_reference)
    counted = (maps.counts if maps.sum_weights is None else maps.sum_weights).sum(axis=0)
    out = np.zeros(maps.counts.shape[1])
    out[pixels] = counted[pixels] / seen[ring, hour]
    return out
