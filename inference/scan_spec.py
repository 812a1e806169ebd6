"""Scan files: TOML in, `Spec` out, every name, kind and number checked before anything is computed."""

import dataclasses
import datetime
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffcr.errors import InputError

from .datasets import resolve_input
from .nearest import require_known
from .scan_design import DRAWN, Axis, Design, axis_of, design_of, is_axis_table, kind_of
from .scan_task import Source, Task
from .scan_tasks import task as find_task

READER = {
    "columns": str,
    "time_format": str,
    "azimuth": str,
    "prefer": str,
    "equinox": str,
    "skip_bad_rows": bool,
}
"""How event lists are read: as the options of that name of the commands."""

_TABLES = ("fixed", "vary", "design", "best")
_KEYS = ("run", "inputs", "site", *READER, *_TABLES)
_SENSES = ("largest", "smallest")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a scan is to do.

    Attributes:
        where: Name of the scan file, with which messages begin.
        task: What is run at each point.
        source: Its data.
        fixed: Settings that all points share, files in them as absolute paths.
        design: Axes, and how they are combined.
        best: Quantity by which points are ranked, and "largest" or "smallest"; None for that of the task.
        content: The scan file as JSON.
    """

    where: str
    task: Task
    source: Source
    fixed: dict[str, Any]
    design: Design
    best: tuple[str, str] | None
    content: dict[str, Any]


def read_spec(path: str | os.PathLike) -> Spec:
    """Read a scan file. Paths in it are relative to the file; nothing in it is executed or names an output.

    Raises:
        InputError: If it cannot be read, is not TOML, or something in it cannot be used; the message names the key.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the TOML file of a scan") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: is not TOML ({error})") from error
    return spec_of(content, str(path), path.resolve().parent)


def spec_of(content: Mapping[str, Any], where: str = "scan", folder: Path | None = None) -> Spec:
    """A scan from the content of its file.

    Args:
        content: run, inputs, site and how they are read; the tables fixed, vary, design and best.
        where: What messages begin with.
        folder: What relative paths start from; by default the working directory.

    Raises:
        InputError: If a name is unknown (the nearest one is given) or a value cannot be used.
    """
    folder = Path.cwd() if folder is None else folder
    content = _plain(content, where)
    for key in content:
        require_known(key, _KEYS, f"{where}: has no key")
    for key in _TABLES:
        if not isinstance(content.get(key, {}), Mapping):
            raise InputError(f"{where}: {key} must be a table, [{key}]")
    if not isinstance(content.get("run"), str):
        raise InputError(f'{where}: needs run, what is done at each point, such as run = "fit"')
    task = _prefixed(where, find_task, content["run"])
    fixed, axes = _settings(content, task, where, folder)
    return Spec(
        where=where,
        task=task,
        source=_source(content, task, where, folder),
        fixed=fixed,
        design=design_of(content.get("design", {}), axes, where),
        best=_best(content.get("best"), where),
        content=content,
    )


def _plain(value: Any, where: str) -> Any:
    """The same as JSON has it: dates and inf as text, arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each, where) for key, each in value.items() if each is not None}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(each, where) for each in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value == math.inf:
        return "inf"
    if isinstance(value, int | float) and not abs(value) <= 1.7e308:
        raise InputError(f"{where}: {value} is no number that a setting can have; leave it out")
    if not isinstance(value, str | int | float | bool):
        raise InputError(f"{where}: {value!r} is no text, number or list of them")
    return value


def _prefixed(where: str, function, *arguments):
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


# Settings -----------------------------------------------------------------------------------------------


def _settings(content, task: Task, where: str, folder: Path) -> tuple[dict[str, Any], tuple[Axis, ...]]:
    """The fixed settings, and the axes."""
    fixed, vary = _flat(content.get("fixed", {})), _flat(content.get("vary", {}))
    if not vary:
        raise InputError(f"{where}: has nothing to vary; give [vary] a setting with a list of values or a range")
    for name in vary:
        if name in fixed:
            raise InputError(f"{where}: {name} is both in [fixed] and in [vary]; leave one out")
    # Some names are known by other settings alone, such as those of a model by its file.
    first = {name: entry[0] for name, entry in vary.items() if isinstance(entry, list) and entry}
    context = first | fixed
    context |= task.located({name: each for name, each in context.items() if name in task.settings}, folder)

    known = {
        name: _prefixed(f"{where}: [{table}]", task.setting, name, context)
        for table, names in (("fixed", fixed), ("vary", vary))
        for name in names
    }

    def located(name, value):
        if not known[name].path:
            return value
        return task.located(({} if name in task.settings else context) | {name: value}, folder)[name]

    for name in fixed:
        fixed[name] = _prefixed(f"{where}: [fixed]", known[name].check, located(name, context[name]))
    drawn = kind_of(content.get("design", {}), where) in DRAWN
    axes = []
    for name, entry in vary.items():
        entry = [located(name, value) for value in entry] if isinstance(entry, list) else entry
        axes.append(axis_of(known[name], entry, drawn, f"{where}: [vary] {name}"))
    return fixed, tuple(axes)


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, whether written in quotes or as tables in tables."""
    out = {}
    for name, entry in table.items():
        if isinstance(entry, Mapping) and not is_axis_table(entry):
            out |= {f"{name}.{inner}": value for inner, value in _flat(entry).items()}
        else:
            out[name] = entry
    return out


# Data ---------------------------------------------------------------------------------------------------


def _source(content, task: Task, where: str, folder: Path) -> Source:
    inputs = content.get("inputs", [])
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
        raise InputError(f'{where}: inputs must be a list of files, such as ["events.csv"]')
    if task.needs is None:
        for key in ("inputs", "site", *READER):
            if content.get(key):
                raise InputError(f"{where}: {task.name} reads no data; leave out {key}")
        return Source()
    if not inputs and task.needs == "optional":
        for key in ("site", *READER):
            if content.get(key):
                raise InputError(f"{where}: {key} is of inputs, and there are none; give it in [fixed], or name inputs")
        return Source()
    if not inputs:
        raise InputError(f'{where}: {task.name} needs data: give inputs, such as ["events.csv"] or ["counts.nc"]')
    site = content.get("site")
    if not (site is None or isinstance(site, str) or all(isinstance(each, str) for each in _listed(site))):
        raise InputError(f"{where}: site must be a name, or a list with one for each input, not {site!r}")
    reader = {key: content[key] for key in READER if key in content}
    for key, value in reader.items():
        if not isinstance(value, READER[key]):
            kind = "true or false" if READER[key] is bool else "a text"
            raise InputError(f"{where}: {key} must be {kind}, not {value!r}")
    return Source(tuple(_input(each, where, folder) for each in inputs), site, reader)


def _listed(value: Any) -> list:
    return value if isinstance(value, list) and value else [None]


def _input(name: str, where: str, folder: Path) -> str:
    if name.startswith("dataset:"):
        _prefixed(where, resolve_input, name)
        return name
    path = (folder / name).resolve()
    if not path.is_file():
        raise InputError(f"{where}: inputs: there is no file {path}")
    if path.suffix.lower() == ".json":
        raise InputError(
            f"{where}: inputs: {name} names local maps in other files: bin them first, diffcr bin {name} -o counts.nc"
        )
    return str(path)


def _best(table: Mapping[str, Any] | None, where: str) -> tuple[str, str] | None:
    if table is None:
        return None
    for key in table:
        require_known(key, ("quantity", "sense"), f"{where}: the table [best] has no")
    quantity, sense = table.get("quantity"), table.get("sense", "largest")
    if not isinstance(quantity, str) or not quantity:
        raise InputError(f'{where}: [best] needs quantity, such as quantity = "test_statistic"')
    if sense not in _SENSES:
        raise InputError(f"{where}: [best] sense must be largest or smallest, not {sense!r}")
    return quantity, sense
