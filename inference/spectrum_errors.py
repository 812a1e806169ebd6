"""Errors of measured C_l: whether they can be, and what noise and how many multipoles they stand for."""

import numpy as np

from diffcr.errors import InputError

_AGREEMENT = 0.1
"""Relative difference of given errors from those of noise and modes that rounding may explain."""


def completed(low, power, error, noise, modes, all_modes, meaning: str, where: str):
    """Noise and modes from what was given, and whether the errors are theirs."""
    signal = np.maximum(power, 0)
    if noise is None:
        noise = _noise_of(low, signal, modes * error**2 / 2, meaning, where)
    elif modes is None:
        bad = np.flatnonzero(power <= 0)
        if meaning == "total" and bad.size:
            raise InputError(
                f"{where}: C_l of l = {low[bad[0]]} is not above 0, so its total error tells no number of modes; give "
                "--sky-fraction, a column modes, or --errors isotropic with errors of the noise alone"
            )
        modes = _modes_of(low, 2 * _square(signal, noise, meaning) / error**2, all_modes, where)
    elif error is not None:
        implied = np.sqrt(2 / modes * _square(signal, noise, meaning))
        bad = np.flatnonzero(~(np.abs(implied - error) <= _AGREEMENT * error))
        if bad.size:
            k = bad[0]
            raise InputError(
                f"{where}: the error of l = {low[k]}, {error[k]:.3g}, is not the {implied[k]:.3g} of its noise and "
                f"{modes[k]:.3g} modes by --errors {meaning}; correct one, or leave out errors, noise, or modes with "
                "--sky-fraction"
            )
    return noise, modes


def _square(signal, noise, meaning: str):
    """nu / 2 times the square of the error."""
    return {
        "total": (signal + noise) ** 2,
        "sky": noise**2 + 2 * noise * signal,
        "isotropic": noise**2,
    }[meaning]


def _noise_of(low, signal, half, meaning: str, where: str) -> np.ndarray:
    if meaning == "sky":
        return half / (signal + np.sqrt(signal**2 + half))
    if meaning == "isotropic":
        return np.sqrt(half)
    noise = np.sqrt(half) - signal
    if np.any(noise < -1e-6 * signal):
        raise InputError(
            f"{where}: the error of l = {low[np.argmin(noise)]} is below the scatter of random skies of that "
            "power, so these are no total errors; use --errors sky, or a --sky-fraction that fits"
        )
    # What is left of a spectrum without noise is rounding.
    return np.where(noise < 1e-6 * signal, 0.0, noise)


def _modes_of(low, modes, all_modes, where: str) -> np.ndarray:
    bad = np.flatnonzero(~(modes > 0))
    if bad.size:
        raise InputError(
            f"{where}: without noise at l = {low[bad[0]]} its error tells no number of modes; give --sky-fraction"
        )
    bad = np.flatnonzero(modes > (1 + _AGREEMENT) ** 2 * all_modes)
    if bad.size:
        k = bad[0]
        raise InputError(
            f"{where}: noise and error of l = {low[k]} stand for {modes[k]:.3g} modes, and there are {all_modes[k]:g}: "
            "the errors are of another power or meaning, or bins are not told apart; correct --errors, give "
            "--sky-fraction and no errors, or use wider bins"
        )
    return np.minimum(modes, all_modes)


def errors_of_bins(error, covariance, size: int, where: str, known: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """Standard errors, None where noise and modes are known and no errors given, and their correlation."""
    if error is not None:
        error = vector(error, size, "error", where)
        if error.min() <= 0:
            raise InputError(f"{where}: the error of row {np.argmin(error) + 1} must be above 0; correct it")
    if covariance is None:
        if error is None and not known:
            raise InputError(
                f"{where}: has neither errors nor a covariance; add a column error, give --covariance, or columns "
                "noise and modes"
            )
        return error, np.eye(size)
    covariance = np.asarray(covariance, float)
    if covariance.shape != (size, size):
        raise InputError(
            f"{where}: the covariance has the shape {covariance.shape} for {size} bins; give one row for each bin"
        )
    if not np.all(np.isfinite(covariance)) or np.any(np.diag(covariance) <= 0):
        raise InputError(f"{where}: the covariance must be finite with a positive diagonal; correct it")
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    if np.abs(correlation - correlation.T).max() > 1e-6:
        raise InputError(f"{where}: the covariance is not symmetric; give the whole matrix, not a half")
    if np.linalg.eigvalsh(correlation)[0] < 1e-10:
        raise InputError(f"{where}: the covariance is not positive definite: bins repeat each other; use wider bins")
    if error is not None:
        off = np.abs(error / scale - 1)
        if off.max() > 0.05:
            k = int(np.argmax(off))
            raise InputError(
                f"{where}: the error of row {k + 1}, {error[k]:.3g}, is not that of the covariance, {scale[k]:.3g}; "
                "give the two of one measurement"
            )
    return scale, (correlation + correlation.T) / 2


def vector(values, size: int, name: str, where: str) -> np.ndarray:
    """Finite numbers, one for each bin."""
    values = np.asarray(values, float)
    if values.shape != (size,):
        raise InputError(f"{where}: {name} has the shape {values.shape} for {size} bins; give one value for each")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InputError(f"{where}: {name} of row {bad[0] + 1} is no finite number; correct it or leave the row out")
    return values
