"""Measured power spectra from files: CSV tables, estimates.json of `diffcr estimate`, tables of `diffcr backtrack`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcr.errors import InputError

from .spectrum_data import MeasuredPower, mean_window, spectrum

_NAMES = {
    "l": ("l", "ell", "degree"),
    "l_low": ("l_low", "l_min", "lmin", "ell_min"),
    "l_high": ("l_high", "l_max", "lmax", "ell_max"),
    "C_l": ("c_l", "cl", "power"),
    "error": ("error", "err", "sigma", "c_l_error"),
    "noise": ("noise", "n_l", "nl"),
    "modes": ("modes", "nu", "dof"),
}
"""Columns of a table, by what they hold."""

_ESTIMATORS = {
    "quadratic": "power",
    "power": "power",
    "pseudo": "pseudo-power",
    "pseudo-power": "pseudo-power",
}
"""Names of the estimators of `diffcr estimate`, and those of their entries."""


def read_spectrum(
    path: str | Path,
    meaning: str | None = None,
    covariance: str | Path | None = None,
    sky_fraction: float | None = None,
    estimator: str | None = None,
    part: str | None = None,
) -> tuple[MeasuredPower, dict[str, Any]]:
    """A measured spectrum, and a record of where it comes from, with a checksum.

    Args:
        path: A CSV file with columns l (or l_low,l_high), C_l, error and perhaps noise and modes; power_*.csv of
            `diffcr backtrack`, whose errors are of a mean over skies; or estimates.json of `diffcr estimate`.
        meaning: What the errors of a CSV file are errors of, a key of `spectrum_data.MEANINGS`; default sky.
        covariance: CSV (no header) or .npy of the errors' covariance, for a CSV file.
        sky_fraction: Share of the sky seen, which gives the modes where nothing else does.
        estimator: Of estimates.json: quadratic (default where there) or pseudo.
        part: Label of the part of estimates.json; default the only one, or "all".

    Raises:
        InputError: If a file cannot be read or used.
    """
    path = Path(path)
    record: dict[str, Any] = {"file": str(path), "sha256": _checksum(path)}
    if path.suffix.lower() == ".json":
        for name, given in (("--errors", meaning), ("--covariance", covariance), ("--sky-fraction", sky_fraction)):
            if given is not None:
                raise InputError(f"{path}: {name} is for CSV files; estimates.json says it itself, so leave it out")
        found, more = _from_estimates(path, estimator, part)
        return found, record | more
    for name, given in (("--estimator", estimator), ("--part", part)):
        if given is not None:
            raise InputError(f"{path}: {name} chooses within estimates.json; leave it out for a CSV file")
    columns = _read_table(path)
    simulated = columns.pop("raw", None) is not None
    if meaning is None:
        meaning = "mean" if simulated else "sky"
    matrix = None
    if covariance is not None:
        matrix = read_matrix(covariance)
        record["covariance"] = {"file": str(covariance), "sha256": _checksum(Path(covariance))}
    found = spectrum(
        columns["l_low"],
        columns["l_high"],
        columns["C_l"],
        columns.get("error"),
        matrix,
        columns.get("noise"),
        columns.get("modes"),
        meaning,
        sky_fraction,
        where=str(path),
    )
    return found, record | {"format": "backtrack table" if simulated else "table", "errors": meaning}


def _read_table(path: Path) -> dict[str, np.ndarray]:
    try:
        table = pd.read_csv(path, comment="#", skipinitialspace=True)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}); give a CSV file with columns l,C_l,error") from None
    names = {str(name).strip().lower(): name for name in table.columns}
    found = {}
    for wanted, known in _NAMES.items():
        name = next((names[each] for each in known if each in names), None)
        if name is None:
            continue
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise InputError(f"{path}: row {bad[0] + 1} has no number in the column {name}; correct or leave it out")
        found[wanted] = values
    if "l" in found:
        found["l_low"] = found["l_high"] = found["l"]
    for wanted in ("l_low", "l_high", "C_l"):
        if wanted not in found:
            raise InputError(f"{path}: has no column {wanted}; write the header l,C_l,error or l_low,l_high,C_l,error")
    if "c_l_raw" in names:
        found["raw"] = np.ones(len(table))
    return found


def read_matrix(path: str | Path) -> np.ndarray:
    """A covariance from .npy or from CSV without a header.

    Raises:
        InputError: If it cannot be read or is no matrix of numbers.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as handle:
                values = np.lib.format.read_array(handle, allow_pickle=False)
        else:
            values = pd.read_csv(path, comment="#", header=None).to_numpy()
        if values.dtype.kind not in "iuf":
            raise ValueError("it holds more than numbers")
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}); give numbers only, as .npy or CSV, row by row") from None
    if values.ndim != 2:
        raise InputError(f"{path}: a covariance has two axes, not the shape {values.shape}")
    return values.astype(float)


def _from_estimates(path: Path, estimator: str | None, part: str | None) -> tuple[MeasuredPower, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {str(one["label"]): one["methods"] for one in content["parts"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no estimates.json of diffcr estimate ({type(error).__name__})") from None
    label = part or ("all" if "all" in parts else next(iter(parts)) if len(parts) == 1 else None)
    if label not in parts:
        raise InputError(f"{path}: choose with --part one of: {'; '.join(parts)}")
    spectra = {name: parts[label][name] for name in ("power", "pseudo-power") if name in parts[label]}
    if not spectra:
        raise InputError(f"{path}: the part {label} holds no power spectrum; run diffcr estimate with --methods power")
    if estimator is not None and _ESTIMATORS.get(estimator) not in spectra:
        raise InputError(f"{path}: has no estimator {estimator!r} for {label}; it has {', '.join(spectra)}")
    name = next(iter(spectra)) if estimator is None else _ESTIMATORS[estimator]
    entry = spectra[name]
    try:
        low, high = np.asarray(entry["l_low"]), np.asarray(entry["l_high"])
        # The quadratic estimator averages over the 2 l multipoles m != 0 with weights of flat noise.
        window = np.asarray(entry.get("window") or mean_window(low, high, 0 if name == "power" else 1), float)
        # Rounding is no leakage.
        window = np.where(np.abs(window) > 1e-9, window, 0.0)
        # That of noise alone: the other is of this sky's own power, with which the number of multipoles and the
        # correlations would scatter, and intervals be biased.
        covariance = np.asarray(entry.get("isotropic_covariance") or entry["power_covariance"], float)
        # Older files have the errors of it only.
        scale = np.asarray(entry["isotropic_error"], float) / np.sqrt(np.diag(covariance))
        found = spectrum(
            low,
            high,
            entry["power"],
            covariance=covariance * scale * scale[:, None],
            noise=entry["noise"],
            meaning="isotropic",
            window=window,
            lost_orders=True,
            where=f"{path} ({label}, {name})",
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: the entry {name} of {label} is not complete ({error}); run it again") from None
    more = {"format": "estimates.json", "part": label, "estimator": name, "errors": "isotropic"}
    if "window" not in entry:
        more["window"] = "not in the file; taken as the mean over each bin"
    if "software" in content:
        more["made_by"] = content["software"]
    return found, more


def _checksum(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the name") from None
