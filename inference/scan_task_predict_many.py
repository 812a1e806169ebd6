"""Predictions of many models that differ in their numbers, computed side by side in one compiled call."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffcr.errors import InputError, require_float64
from diffcr.model import invalid

from .dipole_likelihood import DipoleData, dipole_data
from .predict import (
    _compare,
    _dipole,
    _filled,
    _flips,
    _require_finite,
    _turning,
    _unit,
    predict,
    predict_band,
)
from .scan_task import message_of
from .scan_task_predict import band_variables, energies_of, prediction_dataset
from .source_model import SourceModel


def predict_many(
    models: Sequence[SourceModel | str], settings: Sequence[Mapping[str, Any]], batch: int
) -> list[xr.Dataset | str]:
    """Predictions of models of one group; a message in place of a model stays.

    Args:
        models: One for each point.
        settings: Complete settings of each point.
        batch: So many are computed at once, whatever their number, so that nothing is compiled anew.

    Raises:
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.scan")
    out: list[Any] = list(models)
    stacks: dict[Any, list[int]] = {}
    for place, model in enumerate(models):
        if isinstance(model, SourceModel):
            key = place if model.ensemble is not None else _structure(model)
            stacks.setdefault(key, []).append(place)
    for places in stacks.values():
        own = [models[k] for k in places]
        for first in range(0, len(own), batch):
            part = places[first : first + batch]
            results = _side_by_side([models[k] for k in part], [settings[k] for k in part], batch)
            for place, result in zip(part, results, strict=True):
                out[place] = result
    return out


def _structure(model: SourceModel) -> tuple:
    """Equal for models whose numbers can be stacked."""
    leaves, structure = jax.tree.flatten(model.forward)
    values = sorted((name, np.shape(value)) for name, value in model.values.items())
    return structure, tuple(np.asarray(each).tobytes() for each in leaves), tuple(values)


def _side_by_side(models, settings, batch: int) -> list[xr.Dataset | str]:
    energy = energies_of(models[0], settings[0])
    data = _published(settings[0], energy)
    if models[0].ensemble is not None:
        found = [_grainy(models[0], settings[0], energy, data)]
    else:
        found = _stacked(models, energy, data, settings[0], batch)
    out: list[xr.Dataset | str] = []
    for model, each, columns in zip(models, settings, found, strict=True):
        if not isinstance(columns, str):
            try:
                columns = _with_band(columns, model, each, energy)
            except InputError as error:
                columns = message_of(error)
        out.append(columns if isinstance(columns, str) else prediction_dataset(columns, energy, columns["agreement"]))
    return out


@dataclasses.dataclass(frozen=True)
class _Base:
    """A model apart from its numbers, for compiled programs to be known by.

    Attributes:
        key: Of `_structure`.
        model: Any model of that structure.
    """

    key: tuple
    model: SourceModel = dataclasses.field(compare=False)


def _stacked(models, energy, data, settings, batch) -> list[dict[str, Any] | str]:
    """Columns of each model, or the message of its failure."""
    base = _Base(_structure(models[0]), models[0])
    values = {name: jnp.asarray([model.values[name] for model in models], float) for name in models[0].values}
    values = jax.tree.map(functools.partial(_filled, batch), values)
    parameters, found = _columns(base, values, jnp.asarray(energy), data)
    dipole, plasma, outer, at_points = (None if each is None else np.asarray(each) for each in found)
    chi2 = None if data is None else _chi2_of(base, values, data, at_points, settings)
    forward, parameters = models[0].forward, jax.tree.map(np.asarray, parameters)
    out: list[dict[str, Any] | str] = []
    for k, model in enumerate(models):
        seen = dipole[k]
        try:
            _require_finite(model, energy, seen)
        except InputError as error:
            out.append(message_of(error))
            continue
        own = jax.tree.map(lambda each, k=k: each[k], parameters)
        columns = {"dipole": seen, "plasma": plasma[k], "extragalactic": outer[k]}
        columns |= {"flips": _flips_of(model, own, energy, plasma[k]), "notes": invalid(forward, own, energy, seen)}
        out.append(columns | {"agreement": {} if chi2 is None else _agreement(data, chi2[k])})
    return out


@eqx.filter_jit
def _columns(base: _Base, values, energy, data):
    """Parameters, and (dipole, plasma dipole, extragalactic part, dipole at the published energies), of a batch."""

    def one(own):
        p = base.model.parameters(own)
        plain = base.model.parameters(own | {"transition_energy_TeV": math.inf})
        forward = base.model.forward
        plasma = forward.dipole(plain, energy) - forward.motion_dipole(p)
        at_points = None if data is None else forward.dipole(p, data.energy)
        return p, (forward.dipole(p, energy), plasma, forward.extragalactic_fraction(p, energy), at_points)

    return jax.vmap(one)(values)


def _flips_of(model: SourceModel, parameters, energy: np.ndarray, plasma: np.ndarray) -> list[float]:
    """As `predict` finds them; nothing is computed where the sign stays the same."""
    order, axis = np.argsort(energy), _unit(model.values["field"])
    if not _turning(energy[order], (plasma @ axis)[order]):
        return []
    own = jax.tree.map(jnp.asarray, parameters)
    plain = dataclasses.replace(own, transition_energy=jnp.asarray(math.inf, float))
    motion = model.forward.motion_dipole(plain)
    return _flips(lambda e: (_dipole(model.forward, plain, e) - motion) @ axis, energy)


def _grainy(model: SourceModel, settings, energy, data) -> dict[str, Any] | str:
    """One realisation of random supernovae."""
    places = np.zeros(0) if data is None else np.asarray(data.energy)
    try:
        found = predict(model, energy, settings["seed"])
        there = predict(model, places, settings["seed"]).dipole[None] if places.size else None
    except InputError as error:
        return message_of(error)
    agreement = {}
    if there is not None:
        values = {name: jnp.asarray(value, float)[None] for name, value in model.values.items()}
        agreement = _agreement(data, _chi2_of(_Base(_structure(model), model), values, data, there, settings)[0])
    names = ("dipole", "plasma", "extragalactic", "flips", "notes")
    return {name: getattr(found, name) for name in names} | {"agreement": agreement}


def _with_band(columns: dict, model: SourceModel, settings, energy) -> dict:
    if not settings["prior_predictive"] and settings["draws"] is None:
        return columns
    from .cli_predict import read_points

    draws = settings["draws"] or (100 if model.ensemble is not None else 2000)
    table = None if settings["points"] is None else read_points(settings["points"])
    systematic = settings["amplitude_systematic"], settings["phase_systematic_deg"]
    band = predict_band(model, energy, draws, settings["seed"], settings["prior_predictive"], table, *systematic)
    return columns | {"band": band_variables(band)}


# Published dipoles --------------------------------------------------------------------------------------


def _published(settings: Mapping[str, Any], energy: np.ndarray) -> DipoleData | None:
    """Published dipoles for the fit within the range of energies, as `predict_band` takes them."""
    if settings["points"] is None:
        return None
    from .cli_predict import read_points

    table = read_points(settings["points"])
    table = table.take((table.energy > 0.999 * energy.min()) & (table.energy < 1.001 * energy.max()))
    return dipole_data(table) if np.any(table.use == "fit") else None


def _chi2_of(base: _Base, values: Mapping[str, Any], data: DipoleData, dipole: np.ndarray, settings) -> np.ndarray:
    """Chi2 of each of a batch of models, (batch,)."""
    systematic = settings["amplitude_systematic"], settings["phase_systematic_deg"]
    return np.asarray(_chi2(base, values, data, jnp.asarray(dipole), *systematic))


@eqx.filter_jit
def _chi2(base: _Base, values, data, dipole, amplitude_systematic, phase_systematic):
    def one(own, at):
        model = dataclasses.replace(base.model, values=own)
        return _compare(model, data, amplitude_systematic, phase_systematic, at)[0]

    return jax.vmap(one)(values, dipole)


def _agreement(data: DipoleData, chi2: float) -> dict[str, Any]:
    # A limit that is met adds next to nothing to chi2, and so no degree of freedom.
    measured = int(np.sum(~np.asarray(data.is_limit)))
    return {"chi2": float(chi2), "points": int(data.energy.shape[0]), "degrees_of_freedom": 2 * measured}
