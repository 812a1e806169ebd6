"""Angular power of skies behind a magnetic field, and what shorter steps change."""

import math
from typing import Any

import numpy as np

from diffcr.boundary import Exits


def angular_power(sky: np.ndarray, l_max: int) -> np.ndarray:
    """C_l, shape (l_max + 1,), of a map from which its mean is taken, with 0 in pixels without a value."""
    import healpy

    known = np.isfinite(sky)
    if not known.any():
        return np.full(l_max + 1, np.nan)
    return healpy.anafast(np.where(known, sky - np.mean(sky[known]), 0.0), lmax=l_max, iter=3)


def changes(exits: tuple[Exits, Exits], power: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Changes of directions [deg] and relative ones of C_l when steps are halved.

    Args:
        exits: Of the same paths, with the whole and with half the step; those that left both times are compared.
        power: C_l of the two.
    """
    both = np.asarray(exits[0].escaped & exits[1].escaped)
    first, second = (np.asarray(each.direction)[:, both] for each in exits)
    angle = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(first - second, axis=0) / 2, 0, 1)))
    degree, (whole, half) = np.arange(len(power[0])), power

    def change(first):
        """Root mean square over degrees from `first` on, each with its 2 l + 1 orders, over that of C_l."""
        weight = np.where(degree >= first, 2 * degree + 1, 0)
        size = np.sum(weight * half**2)
        return float(np.sqrt(np.sum(weight * (whole - half) ** 2) / size)) if size > 0 else math.nan

    return {
        "direction_change_rms_deg": float(np.sqrt(np.mean(angle**2))) if angle.size else math.nan,
        "direction_change_median_deg": float(np.median(angle)) if angle.size else math.nan,
        "power_change_rms": change(1),
        "power_change_rms_from_l_2": change(2),
        "power_half_step": half.tolist(),
        "paths_trapped_with_half_step": exits[1].num_trapped,
    }
