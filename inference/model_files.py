"""Model files: TOML in, `SourceModel` out, every name and number checked once; and the models that are shipped."""

import dataclasses
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from diffcr.composition import COMPOSITIONS
from diffcr.disc import Disc, case_bhattacharya, uniform
from diffcr.ensemble import enough_sources, milky_way_arms
from diffcr.errors import InputError
from diffcr.model import GLOBAL_TENSORS, ForwardModel
from diffcr.observer import observer_velocity
from diffcr.source import REMNANTS, Remnant
from diffcr.units import KM_PER_S

from .nearest import require_known
from .source_model import (
    ANGLES,
    QUANTITIES,
    SOURCE_QUANTITIES,
    Ensemble,
    SourceModel,
    range_of,
    set_value,
)
from .source_priors import Prior, read_prior

SHAPES = {"case-bhattacharya": case_bhattacharya, "uniform": uniform}
"""Radial distributions of supernovae by name."""

_MODEL = {
    "name": str,
    "description": str,
    "background": str,
    "edge_pc": float,
    "sun_radius_pc": float,
    "height_pc": float,
    "global_tensor": str,
    "observer": str,
    "composition": str,
    "remnants": list,
    "allow_perpendicular": bool,
    "energies": str,
}
_ENSEMBLE = {
    "max_age_yr": float,
    "number": int,
    "height_pc": float,
    "spiral": bool,
    "young_age_yr": float,
    "young_number": int,
    "known_distance_pc": float,
    "known_age_yr": float,
}


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("diffcr.inference.datasets") / "models"
    return sorted(each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml"))


def read_model(name_or_path: str | os.PathLike) -> SourceModel:
    """Read a model: the name of a shipped one, or the path of a TOML file. Nothing in it is executed.

    Raises:
        InputError: If there is none, it is not TOML, or a name or number in it cannot be used.
    """
    name = str(name_or_path)
    if name in shipped_models():
        text = (resources.files("diffcr.inference.datasets") / "models" / f"{name}.toml").read_text(encoding="utf-8")
        return model_of(_parsed(text, name), name)
    path = Path(name)
    try:
        found = path.is_file()
    except OSError:
        found = False
    if not found:
        raise InputError(
            f"{name}: no such model file, and no shipped model of that name; shipped are {', '.join(shipped_models())}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read as a TOML text ({error})") from error
    return model_of(_parsed(text, name), name)


def _parsed(text: str, where: str) -> dict:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not TOML ({error})") from error
    except (RecursionError, ValueError) as error:
        # Nested too deeply, or a whole number of thousands of digits.
        raise InputError(f"{where}: is not TOML that can be read ({error})") from error


def model_of(
    content: Mapping[str, Any], where: str = "model", remnants: Mapping[str, Remnant] = REMNANTS
) -> SourceModel:
    """A model from the content of its file.

    Args:
        content: Tables [model], [parameters], [source.NAME], [weights], [ensemble] and [priors].
        where: What messages begin with.
        remnants: Table of known remnants, from which `remnants = ["Vela", ..]` of [model] takes its sources.

    Raises:
        InputError: If a name is unknown (the nearest one is given) or a number cannot be used.
    """
    for key in content:
        require_known(key, ("model", "parameters", "source", "weights", "ensemble", "priors"), f"{where}: has no table")
        if not isinstance(content[key], Mapping):
            raise InputError(f"{where}: {key} must be a table, [{key}]")
    head = _typed(content.get("model", {}), _MODEL, f"{where}: the table [model]")
    shape = _one_of(head.get("background", "case-bhattacharya"), (*SHAPES, "none"), f"{where}: background")
    tensor = _one_of(head.get("global_tensor", "isotropic"), GLOBAL_TENSORS, f"{where}: global_tensor")
    mix = _one_of(head.get("composition", "proton"), COMPOSITIONS, f"{where}: composition")
    observer = head.get("observer", "none").strip().lower()
    composition = COMPOSITIONS[mix]()
    elements = tuple(composition.names)
    values = _values(content, head, where, elements, observer, remnants)
    sources = tuple(
        dict.fromkeys(name.partition(".")[0] for name in values if "." in name and not name.startswith("weight."))
    )
    ensemble, options = _ensemble(content.get("ensemble"), where, values["supernova_rate_per_yr"])
    if ensemble is not None and shape == "none":
        raise InputError(f"{where}: an [ensemble] needs a background that says how supernovae are spread, not none")
    halo = math.isfinite(values["halo_height_pc"])
    # Random supernovae need no smooth density, and may diffuse where a disc cannot.
    smooth = shape != "none" and (ensemble is None or (halo and tensor == "isotropic"))
    edge = head.get("edge_pc", 15e3 if shape == "uniform" else 30e3)
    disc = None
    if smooth:
        disc = Disc(SHAPES[shape], edge, head.get("sun_radius_pc", 8500.0), head.get("height_pc", 0.0))
    forward = ForwardModel(
        composition=composition,
        disc=disc,
        global_tensor=tensor,
        halo=halo,
        compton_getting=observer != "none",
    )
    settings = {
        "background": shape,
        "shape": SHAPES.get(shape),
        "edge_pc": edge,
        "ensemble_options": {"sun_radius": head.get("sun_radius_pc", 8500.0), **options},
        "composition": mix,
        "global_tensor": tensor,
        **({"energies": head["energies"]} if "energies" in head else {}),
    }
    model = SourceModel(
        name=head.get("name", Path(where).stem),
        description=head.get("description", ""),
        forward=forward,
        values=values,
        priors={},
        sources=sources,
        elements=elements,
        observer=observer,
        ensemble=ensemble,
        settings=settings,
        allow_perpendicular=head.get("allow_perpendicular", False),
    )
    model = model.with_choices().checked()
    return with_priors(model, content.get("priors", {}), where)


def with_observer(model: SourceModel, observer: str) -> SourceModel:
    """The model with another velocity of the observer: a name, or "none" to leave the motion out.

    Raises:
        InputError: If the name is unknown.
    """
    values, observer = dict(model.values), observer.strip().lower()
    if observer != "none":
        values["velocity_km_s"] = _velocity(observer, f"the model {model.name}")
    forward = dataclasses.replace(model.forward, compton_getting=observer != "none")
    return dataclasses.replace(model, values=values, forward=forward, observer=observer)


def with_priors(model: SourceModel, table: Mapping[str, Any], where: str) -> SourceModel:
    """The model with the priors of a table [priors] beside its own.

    Raises:
        InputError: If a name is unknown or a prior improper.
    """
    priors: dict[str, Prior | str] = dict(model.priors)
    fixed = ("pivot_GV", *ANGLES)
    known = [name for name in model.names if name not in fixed]
    for name, entry in _flat(table, model.sources).items():
        require_known(name, known, f"{where}: the table [priors] names a number that the model lacks or cannot vary,")
        if (
            name in ("field", "global_field")
            and isinstance(entry, Mapping)
            and entry.get("distribution") == "isotropic"
        ):
            for key in entry:
                require_known(key, ("distribution",), f"{where}: an isotropic prior (of {name}) has no")
            priors[name] = "isotropic"
            continue
        low, high, size = range_of(name)
        now = model.values.get(name, 0.0)
        priors[name] = read_prior(name, entry, low, high, size, where, now)
    if "gyration_ratio" in priors and {"perpendicular", "antisymmetric"} & set(priors):
        raise InputError(
            f"{where}: gyration_ratio sets perpendicular and antisymmetric; give priors of one or the other"
        )
    if "velocity_km_s" in table:
        model.require_motion(f"{where}: the table [priors]")
    if "halo_height_pc" in priors and not model.forward.halo:
        raise InputError(f"{where}: halo_height_pc has a prior, but is infinite; give it a number in [parameters]")
    return dataclasses.replace(model, priors=priors).with_choices().checked()


def _velocity(observer: str, where: str) -> tuple[float, ...]:
    try:
        velocity = observer_velocity(observer)
    except InputError as error:
        raise InputError(f"{where}: observer: {error}") from error
    return tuple(float(x) / KM_PER_S for x in velocity)


def _flat(table: Mapping[str, Any], sources: tuple[str, ...]) -> dict[str, Any]:
    """[priors] with "vela.age_yr" written in quotes or as nested tables."""
    out = {}
    for name, entry in table.items():
        nested = isinstance(entry, Mapping) and "distribution" not in entry and (name in sources or name == "weight")
        if nested:
            out |= {f"{name}.{inner}": value for inner, value in entry.items()}
        else:
            out[name] = entry
    return out


def _values(content, head, where: str, elements, observer: str, remnants) -> dict[str, Any]:
    values = {name: q.default for name, q in QUANTITIES.items()}
    if observer not in ("none", "given"):
        values["velocity_km_s"] = _velocity(observer, where)
    given = content.get("parameters", {})
    if observer != "given" and "velocity_km_s" in given:
        raise InputError(
            f'{where}: velocity_km_s is given, but observer is {observer}; write observer = "given" in [model]'
        )
    if "gyration_ratio" in given and {"perpendicular", "antisymmetric"} & set(given):
        raise InputError(f"{where}: gyration_ratio sets perpendicular and antisymmetric; give one or the other")
    known = [*QUANTITIES, *ANGLES, "gyration_ratio"]
    for name, value in given.items():
        require_known(name, known, f"{where}: the table [parameters] has no")
        set_value(values, name, value, f"{where}: {name}")
    for source, entry in _remnants(head.get("remnants", []), remnants, where).items():
        values |= {f"{source}.{name}": value for name, value in entry.items()}
    for source, table in content.get("source", {}).items():
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: [source] must hold tables, [source.{source}]")
        _require_name(source, where)
        for name, value in table.items():
            require_known(name, SOURCE_QUANTITIES, f"{where}: the table [source.{source}] has no")
            set_value(values, f"{source}.{name}", value, f"{where}: {source}.{name}")
        for name, q in SOURCE_QUANTITIES.items():
            if f"{source}.{name}" not in values and q.default is not None:
                values[f"{source}.{name}"] = q.default
            if f"{source}.{name}" not in values and name not in ("spectral_index", "cutoff_TV"):
                raise InputError(f"{where}: the table [source.{source}] needs {name} ({q.meaning})")
    values |= {f"weight.{element}": 1.0 for element in elements}
    for element, value in content.get("weights", {}).items():
        require_known(element, elements, f"{where}: the table [weights] names an element that the composition lacks,")
        set_value(values, f"weight.{element}", value, f"{where}: the weight of {element}")
    return values


def _remnants(names: list, table: Mapping[str, Remnant], where: str) -> dict[str, dict[str, float]]:
    by_key = {source_name(name): each for name, each in table.items()}
    out = {}
    for name in by_key if names == ["all"] else names:
        key = source_name(str(name))
        require_known(key, by_key, f"{where}: the table of known remnants has no")
        each = by_key[key]
        out[key] = {
            "distance_pc": float(each.distance[1]),
            "longitude_deg": float(each.longitude),
            "latitude_deg": float(each.latitude),
            "age_yr": float(each.age[1]),
            "duration_yr": each.duration or 0.0,
            "power": 1.0 if each.power is None else each.power,
        }
        if each.spectral_index is not None:
            out[key]["spectral_index"] = each.spectral_index
        if each.cutoff is not None:
            out[key]["cutoff_TV"] = each.cutoff
    return out


def source_name(name: str) -> str:
    """Name of a known remnant as a source of a model: small letters, digits, hyphens."""
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def _require_name(name: str, where: str) -> None:
    if not name or "." in name or name == "weight" or name != name.strip():
        raise InputError(f"{where}: {name!r} cannot be the name of a source; use letters, digits and hyphens")


def _ensemble(table: Any, where: str, rate: float) -> tuple[Ensemble | None, dict[str, Any]]:
    if table is None:
        return None, {}
    got = _typed(table, _ENSEMBLE, f"{where}: the table [ensemble]")
    made = Ensemble(
        max_age=got.get("max_age_yr", 2.5e7),
        number=got.get("number", 100_000),
        height=got.get("height_pc", 100.0),
        spiral=got.get("spiral", False),
        young_age=got.get("young_age_yr", 0.0),
        young_number=got.get("young_number", 0),
        known_distance=got.get("known_distance_pc", 0.0),
        known_age=got.get("known_age_yr", 0.0),
    )
    if not (made.max_age > 0 and math.isfinite(made.max_age)):
        raise InputError(f"{where}: max_age_yr of the ensemble must be above 0, not {made.max_age:g}")
    if not 0 <= made.young_age < made.max_age:
        raise InputError(f"{where}: young_age_yr must lie between 0 and max_age_yr, not {made.young_age:g}")
    if made.number < 1 or made.young_number < 0:
        raise InputError(f"{where}: number and young_number of the ensemble count supernovae, from 1 and 0")
    if (made.young_age > 0) != (made.young_number > 0):
        raise InputError(f"{where}: young_age_yr and young_number of the ensemble go together; give both or neither")
    if made.known_distance < 0 or made.known_age < 0:
        raise InputError(f"{where}: known_distance_pc and known_age_yr of the ensemble must not be negative")
    if made.number > rate * (made.max_age - made.young_age):
        raise InputError(
            f"{where}: {made.max_age - made.young_age:g} yr hold {rate * (made.max_age - made.young_age):.0f} "
            f"supernovae: lower number of the ensemble to that or below, or raise max_age_yr"
        )
    if made.young_number:
        enough = enough_sources(made.young_age * rate)
        if made.young_number < enough:
            raise InputError(
                f"{where}: {made.young_age:g} yr hold {made.young_age * rate:.0f} supernovae on average: raise "
                f"young_number of the ensemble to {enough}, or lower young_age_yr"
            )
    if not made.height > 0:
        raise InputError(f"{where}: height_pc of the ensemble must be above 0, not {made.height:g}")
    return made, {"spiral": milky_way_arms()} if made.spiral else {}


def _typed(table: Mapping[str, Any], kinds: Mapping[str, type], what: str) -> dict[str, Any]:
    out = {}
    for key, value in table.items():
        require_known(key, kinds, f"{what} has no")
        kind = kinds[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**1023 else math.inf
        if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
            names = {str: "a text", float: "a number", int: "a whole number", bool: "true or false", list: "a list"}
            raise InputError(f"{what}: {key} must be {names[kind]}, not {value!r}")
        out[key] = value
    return out


def _one_of(value: str, known: Iterable[str], what: str) -> str:
    known = tuple(known)
    require_known(value, known, f"{what} cannot be")
    return value
