"""Counts and background summed in discs on the sky: what the pictures of the relative intensity show."""

import numpy as np
from jaxtyping import Float, Real

from diffcr.errors import InputError


def smooth_sky(
    counts: Real[np.ndarray, "ring ra"],
    background: Real[np.ndarray, "ring ra"],
    declination: Float[np.ndarray, " dec"],
    right_ascension: Float[np.ndarray, " alpha"],
    radius: float | int,
    min_background: float | int = 10.0,
) -> Float[np.ndarray, "ring ra"]:
    r"""Counts over background minus one, both summed in a disc around each cell. For pictures.

    A disc of radius r around a cell of declination d covers, in the ring of declination d', the bins with

    $$ |\alpha - \alpha'| \le \arccos \frac{\cos r - \sin d \sin d'}{\cos d \cos d'}, $$

    a window along the ring, so the sums are products with its Fourier transform. Cells on the edge of the
    disc count in part. A dipole comes out damped by (1 + cos r) / 2.

    Args:
        counts: Additive map of counts. Cells that are not finite count as unexposed, also below.
        background: Additive map of the counts expected of an isotropic sky.
        declination: Centres of rings of equal width from pole to pole [rad].
        right_ascension: Centres of the equal bins of right ascension [rad].
        radius: Of the disc [rad], in (0, pi].
        min_background: Discs with a smaller sum of background than this are NaN [counts].

    Returns:
        Relative excess; NaN in cells without background of their own (unexposed) and below `min_background`.

    Raises:
        InputError: If declination or right_ascension do not fit the maps, or the radius is out of range.
    """
    if counts.shape != (declination.size, right_ascension.size):
        raise InputError(
            f"a sky map of shape {counts.shape} does not fit {declination.size} declinations and "
            f"{right_ascension.size} right ascensions; pass the bin centres of the grid it was made on"
        )
    if not 0 < radius <= np.pi:
        raise InputError(f"the smoothing radius must be in (0, pi] radians, not {radius:g}; degrees were given?")
    exposed = np.isfinite(counts) & np.isfinite(background) & (background > 0)
    maps = np.stack([np.where(exposed, counts, 0.0), np.where(exposed, background, 0.0)], axis=-1)
    n_ring, n = counts.shape

    # The edge of the disc cuts through cells: their share is taken along five lines in each ring.
    line = declination[:, None] + np.pi / n_ring * np.linspace(-0.4, 0.4, 5)
    share = np.cos(line) / np.cos(line).sum(axis=1, keepdims=True)
    offset = np.arange(n // 2 + 1)
    modes = np.fft.rfft(maps, axis=1)
    summed = np.empty_like(modes)
    for ring, dec in enumerate(declination):
        reach = (np.cos(radius) - np.sin(dec) * np.sin(line)) / (np.cos(dec) * np.cos(line))
        half_width = np.arccos(np.clip(reach, -1, 1)) * n / (2 * np.pi)
        inside = np.clip(half_width[..., None] + 0.5 - offset, 0, 1)
        # The window is even, so offsets k >= 0 suffice. Both of its ends reach into the first cell and, on a
        # ring with an even number of cells, into the last.
        inside[..., 0] = np.minimum(2 * half_width, 1)
        if n % 2 == 0:
            inside[..., -1] *= 2
        kernel = np.fft.hfft(np.einsum("rl,rlk->rk", share, inside), n)[:, : offset.size]
        summed[ring] = np.einsum("rm,rmc->mc", kernel, modes)
    total, expected = np.moveaxis(np.fft.irfft(summed, n=n, axis=1), -1, 0)
    shown = exposed & (expected >= max(min_background, 1e-9 * expected.max()))
    return np.divide(total, expected, out=np.full(counts.shape, np.nan), where=shown) - 1
