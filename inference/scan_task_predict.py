"""Scans of predictions: the dipole against energy, and its distance from published ones, against a model's numbers."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from diffcr.errors import InputError

from .nearest import require_known
from .scan_task import OVERHEAD, Setting, Source, Task, catalogue, message_of, variable
from .scan_task_counts import _stamp
from .source_model import CLOSED_AT_ZERO, QUANTITIES, SOURCE_QUANTITIES, Quantity, SourceModel, range_of

_ENDLESS = ("halo_height_pc", "injection_cutoff_TV", "cutoff_TV", "transition_energy_TeV")
_UNITS = {"pc": "pc", "yr": "yr", "deg": "deg", "TV": "TV", "GV": "GV", "TeV": "TeV", "s": "km/s", "kpc": "1/kpc"}

_SUPERNOVA_BYTES = 2000.0
"""Of each random supernova, while its dipole is made at the energies and elements of one prediction."""


class Energies(Setting):
    """Energies [TeV] as the command line writes them, or a list of numbers."""

    def _one(self, value: Any, kind: type) -> str:
        from .cli_predict import parse_energies

        numbers = isinstance(value, list | tuple) or (isinstance(value, int | float) and not isinstance(value, bool))
        text = ",".join(str(x) for x in np.atleast_1d(value)) if numbers else value
        if not isinstance(text, str):
            raise InputError(f"{self.name} must be a text such as 1,10,100 or 1:10000:41, or numbers; not {value!r}")
        parse_energies(text)
        return text


class Predict(Task):
    """`diffcr predict` at each point; settings are also all numbers of the model, such as vela.age_yr.

    Points of one model that differ in numbers are computed side by side in one compiled call. Models with random
    supernovae are computed one after the other, one realisation each, that of `seed`; the command's band over
    realisations or priors is drawn where prior_predictive or draws ask for it.
    """

    name = "predict"
    best = ("chi2", "smallest")
    batch = 32
    settings = catalogue(
        Setting("model", str, "vela", long_name="Model", path=True, words=("vela", "ensemble")),
        Setting("observer", str, None, long_name="Velocity of the observer"),
        Setting("no_compton_getting", bool, False, long_name="Motion left out"),
        Energies("energies", str, None, "TeV", "Energies"),
        Setting("points", str, None, long_name="Published dipoles", path=True, words=("published",)),
        Setting("amplitude_systematic", float, 0.1, "", "Relative error of published amplitudes", low=0),
        Setting("phase_systematic_deg", float, 10.0, "deg", "Error of published phases", low=0),
        Setting("prior_predictive", bool, False, long_name="Band over the priors"),
        Setting("draws", int, None, "", "Draws of the band", low=2),
        Setting("seed", int, 0, "", "Seed", low=0),
    )

    def setting(self, name: str, settings: Mapping[str, Any] | None = None) -> Setting:
        """A setting of predictions, or a number of the model that the other settings name."""
        if name in self.settings:
            return self.settings[name]
        chosen = (settings or {}).get("model", self.settings["model"].default)
        if not isinstance(chosen, str):
            raise InputError(f"model must be a word, not {chosen!r}")
        model = read_cached(chosen)
        require_known(name, [*self.settings, *model.names], f"{self.name} with the model {model.name} has no setting")
        return _number_of(name)

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse what no model can have; ranges that depend on several numbers are told by the point."""
        model = read_cached(settings["model"])
        if settings["prior_predictive"] and not model.priors:
            raise InputError(f"prior_predictive: the model {model.name} has no priors to draw from; add [priors] to it")
        if settings["draws"] is not None and not settings["prior_predictive"] and model.ensemble is None:
            raise InputError("draws has no effect without prior_predictive = true or random supernovae; leave it out")

    def group(self, settings: Mapping[str, Any]) -> str:
        """Equal for points of one model that differ in its numbers alone."""
        return json.dumps([settings[name] for name in self.settings if name != "seed"])

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """Predictions of all points; equal to `diffcr predict` to rounding."""
        from .scan_task_predict_many import predict_many

        models: list[Any] = []
        for each in settings:
            try:
                models.append(model_of_settings(self, each))
            except InputError as error:
                models.append(message_of(error))
        return predict_many(models, settings, self.batch)

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Grows with the number of random supernovae."""
        model = read_cached(settings["model"])
        number = 0 if model.ensemble is None else model.ensemble.number + model.ensemble.young_number
        return OVERHEAD + _SUPERNOVA_BYTES * number


def read_cached(name: str) -> SourceModel:
    """`read_model`, read again when the file has changed."""
    return _read(name, _stamp(name))


@functools.lru_cache(maxsize=32)
def _read(name: str, stamp: Any) -> SourceModel:
    from .model_files import read_model

    return read_model(name)


def model_of_settings(task: Predict, settings: Mapping[str, Any]) -> SourceModel:
    """The model of a point, with its numbers.

    Raises:
        InputError: If a number is out of range, or numbers do not go together.
    """
    from .model_files import with_observer

    model = read_cached(settings["model"])
    if settings["observer"] is not None:
        model = with_observer(model, settings["observer"])
    numbers = {
        name: math.inf if value == "inf" else value
        for name, value in settings.items()
        if name not in task.settings and value is not None
    }
    if numbers:
        model = model.with_values(numbers)
    return with_observer(model, "none") if settings["no_compton_getting"] else model


def energies_of(model: SourceModel, settings: Mapping[str, Any]) -> np.ndarray:
    """Energies [TeV] of a point: those asked for, or the range of the model."""
    from .cli_predict import parse_energies

    return np.array(parse_energies(settings["energies"] or model.settings.get("energies", "1:10000:41")))


def _number_of(name: str) -> Setting:
    """A number of a model as a setting."""
    own = name.rpartition(".")[2]
    low, high, size = range_of(name)
    quantity: Quantity | None = (SOURCE_QUANTITIES if "." in name else QUANTITIES).get(own)
    ends = {"low": low} if low != 0 or own in CLOSED_AT_ZERO else {"above": 0.0}
    meaning = own.replace("_", " ") if quantity is None else quantity.meaning.partition(" [")[0].partition(";")[0]
    first = name.partition(".")[0]
    known = Setting(
        name,
        tuple if size > 1 else float,
        None,
        "cm^2/s"
        if own == "diffusion_cm2_s"
        else "1/yr"
        if own.endswith("per_yr")
        else _UNITS.get(own.split("_")[-1], ""),
        f"{first}: {meaning}" if "." in name and first != "weight" else meaning if "." not in name else name,
        high=high,
        **ends,
    )
    return dataclasses.replace(known, choices=("inf",)) if own in _ENDLESS else known


def prediction_dataset(columns: Mapping[str, Any], energy: np.ndarray, agreement: Mapping[str, Any]) -> xr.Dataset:
    """A prediction as one point of a scan.

    Args:
        columns: dipole and plasma, (energy, 3); extragalactic, (energy,); flips; notes; perhaps band.
        energy: Energies [TeV], (energy,).
        agreement: chi2, points and degrees of freedom of published dipoles; empty where none were given.
    """
    dipole, plasma = np.asarray(columns["dipole"]), np.asarray(columns["plasma"])
    along = lambda values, title, units="": variable(values, title, units, dims=("energy",))
    components = (("0h", "towards 0 h"), ("6h", "towards 6 h"), ("N", "towards North"))
    data = {f"delta_{n}": along(dipole[:, k], f"Dipole {what}") for k, (n, what) in enumerate(components)}
    data |= {
        f"plasma_delta_{n}": along(plasma[:, k], f"Dipole without the motion, {what}")
        for k, (n, what) in enumerate(components)
    }
    phase = np.degrees(np.arctan2(dipole[:, 1], dipole[:, 0])) % 360
    flips = list(columns["flips"])
    chi2 = agreement.get("chi2", math.nan)
    degrees = agreement.get("degrees_of_freedom", 0)
    data |= {
        "amplitude": along(np.hypot(dipole[:, 0], dipole[:, 1]), "Equatorial dipole amplitude"),
        "right_ascension_deg": along(phase, "Right ascension of the dipole", "deg"),
        "total_amplitude": along(np.linalg.norm(dipole, axis=1), "Dipole amplitude"),
        "extragalactic_fraction": along(np.asarray(columns["extragalactic"]), "Extragalactic part of the flux"),
        "flip_energy_TeV": variable(flips[0] if flips else math.nan, "Energy at which the dipole flips", "TeV"),
        "flips": variable(len(flips), "Flips of the dipole"),
        "chi2": variable(chi2, "chi2 of published dipoles", statistic="chi2"),
        "points": variable(agreement.get("points", 0), "Published dipoles compared with"),
        "degrees_of_freedom": variable(degrees, "Measured numbers compared with"),
        "notes": variable("; ".join(columns["notes"]), "What lies outside the domain of diffusion"),
        "converged": variable(True, "Whether there is a result"),
        **columns.get("band", {}),
    }
    return xr.Dataset(data, {"energy": ("energy", energy, {"long_name": "energy", "units": "TeV", "scale": "log"})})


def band_variables(band: Any) -> dict[str, tuple]:
    """The band over priors or supernovae as variables of a point."""
    from .predict import LEVELS

    out = {"amplitude_median": variable(np.median(band.amplitude, axis=0), "Median amplitude", dims=("energy",))}
    for level in LEVELS:
        percent = f"{level * 100:.0f}"
        for end, values in zip(("low", "high"), band.amplitude_band(level), strict=True):
            title = f"{percent} % band of the amplitude, {end} end"
            out[f"amplitude_{end}_{percent}"] = variable(values, title, dims=("energy",))
    if band.comparison is not None:
        out["part_that_fits"] = variable(band.comparison.fits, "Part of the draws that fit")
        mean = band.comparison.log_mean_likelihood
        out["log_mean_likelihood"] = variable(mean, "ln of the likelihood averaged over the draws")
    return out
