"""What a scan can run: settings with their kinds and ranges, where the data come from, and the form of a task."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from diffcr.errors import InputError

from .nearest import require_known
from .scan_files import checksummed, file_named_in
from .scan_files import located as in_folder

OVERHEAD = 8e8
"""Bytes that a process takes with JAX, its compiler and nothing else."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a task: what it may be and what it is called.

    Attributes:
        name: As in scan files.
        kind: int, float, str, bool, or tuple for several numbers (or words) at once.
        default: What is taken where nothing is said; None is "not given".
        units: Of a number; "" for none.
        long_name: What it is, for axes of pictures.
        choices: Words that it may be; of a number, words that may stand in its place.
        low, high: Range of a number, or of each of several; the ends belong to it.
        above: Number that it must exceed, in place of `low`.
        of: What a tuple holds, float or str.
        path: Whether the value, or what stands in it, may name a file.
        words: Words that name no file, even where one is called so.
    """

    name: str
    kind: type
    default: Any = None
    units: str = ""
    long_name: str = ""
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    of: type = float
    path: bool = False
    words: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value as JSON has it: whole numbers as floats where floats are meant, one number as a list of one.

        Raises:
            InputError: If it is of another kind or out of range; the message begins with the name.
        """
        if value is None:
            if self.default is not None:
                raise InputError(f"{self.name} needs a value; leave it out for {self.default!r}")
            return None
        if self.kind is tuple:
            several = list(value) if isinstance(value, list | tuple) else [value]
            if not several:
                raise InputError(f"{self.name} needs at least one value, not an empty list")
            return [self._one(each, self.of) for each in several]
        return self._one(value, self.kind)

    def _one(self, value: Any, kind: type) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if kind in (int, float) and isinstance(value, str) and value in self.choices:
            return value
        if kind is bool or kind is str:
            if not isinstance(value, kind):
                raise InputError(f"{self.name} must be {_KINDS[kind]}, not {value!r}")
            if self.choices and kind is str:
                require_known(value, self.choices, f"{self.name} cannot be")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            extra = f", or {' or '.join(self.choices)}" if self.choices else ""
            raise InputError(f"{self.name} must be {_KINDS[kind]}{extra}, not {value!r}")
        return self._number(value, kind)

    def _number(self, value: int | float, kind: type) -> int | float:
        if not math.isfinite(value):
            raise InputError(f"{self.name} must be finite, not {value}")
        if kind is int and value != int(value):
            raise InputError(f"{self.name} must be a whole number, not {value!r}")
        if not (self.low <= value <= self.high and value > self.above):
            raise InputError(f"{self.name} must be {self._range()}, not {value:g}")
        # Zero has no sign: settings that are equal have one hash.
        return kind(value) + kind(0)

    def _range(self) -> str:
        ends = []
        if math.isfinite(self.above):
            ends.append(f"above {self.above:g}")
        if math.isfinite(self.low):
            ends.append(f"at least {self.low:g}")
        if math.isfinite(self.high):
            ends.append(f"at most {self.high:g}")
        return " and ".join(ends)

    def each_path(self, value: Any, change: Callable[[str], str]) -> Any:
        """The value with `change` applied to every text in it that may name a file."""
        if not self.path:
            return value
        if isinstance(value, list):
            return [self.each_path(each, change) for each in value]
        # known:2 is not the name of a file either.
        return change(value) if isinstance(value, str) and value.partition(":")[0] not in self.words else value

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of an axis of this setting: units (where it has some) and long_name."""
        out = {"units": self.units} if self.units else {}
        return out | {"long_name": self.long_name or self.name}


_KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def catalogue(*settings: Setting) -> dict[str, Setting]:
    """Settings by name."""
    return {each.name: each for each in settings}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the data of a scan come from, JSON, so that it can travel to workers.

    Attributes:
        inputs: Paths or `dataset:NAME`; empty for tasks without data.
        site: Observatory of the event lists: one for all, one each, or None.
        reader: columns, time_format, azimuth, prefer, equinox, skip_bad_rows: what is given of them.
    """

    inputs: tuple[str, ...] = ()
    site: Any = None
    reader: dict = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as dict, list and str."""
        site = list(self.site) if isinstance(self.site, tuple) else self.site
        return {"inputs": list(self.inputs), "site": site, "reader": dict(self.reader)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Source":
        """What `as_json` wrote."""
        return Source(tuple(content["inputs"]), content["site"], dict(content["reader"]))


class Task:
    """What a scan does at each point.

    Attributes:
        name: As `run = NAME` of a scan file.
        settings: Its settings by name. `setting` knows further ones that depend on others.
        needs: "events" (event lists or counts), None where the task takes no data, "optional" where it can do without.
        best: Quantity by which points are ranked unless the scan says otherwise, and "largest" or "smallest".
        batch: Points that `run` is best given at once.
    """

    name: ClassVar[str]
    settings: ClassVar[dict[str, Setting]]
    needs: ClassVar[str | None] = None
    best: ClassVar[tuple[str, str]]
    batch: ClassVar[int] = 1

    def setting(self, name: str, settings: Mapping[str, Any] | None = None) -> Setting:
        """The setting of a name.

        Args:
            name: The name.
            settings: Others that decide which names there are, such as the model of a prediction.

        Raises:
            InputError: If there is none; the message gives the nearest.
        """
        require_known(name, self.settings, f"{self.name} has no setting")
        return self.settings[name]

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a point: what is given, checked, and the defaults of the rest. JSON.

        Raises:
            InputError: If a name is unknown, a value cannot be used, or two do not go together.
        """
        given = {name: self.setting(name, settings).check(value) for name, value in settings.items()}
        full = {name: each.default for name, each in self.settings.items()} | given
        self.require(full)
        return full

    def require(self, settings: dict[str, Any]) -> None:
        """Refuse complete settings that do not go together; nothing by default.

        Raises:
            InputError: If they do not.
        """

    def located(self, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The same settings, with the files in them found from a folder, as absolute paths."""
        found = {name: self.setting(name, settings) for name in settings}
        return {
            name: found[name].each_path(value, lambda text: in_folder(text, folder)) for name, value in settings.items()
        }

    def identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The same settings, with the checksum of a file in place of its path, for the hash of a point."""
        found = {name: self.setting(name, settings) for name in settings}
        return {name: found[name].each_path(value, checksummed) for name, value in settings.items()}

    def files(self, settings: Mapping[str, Any]) -> list[str]:
        """The files that the settings name."""
        found: list[str] = []

        def note(text: str) -> str:
            found.extend(name for name in [file_named_in(text)] if name is not None)
            return text

        for name, value in settings.items():
            self.setting(name, settings).each_path(value, note)
        return found

    def group(self, settings: Mapping[str, Any]) -> str:
        """A word that is equal for points which share compiled programs, and are best given to `run` together."""
        return json.dumps(settings, sort_keys=True)

    def run(self, source: Source, settings: Sequence[dict[str, Any]]) -> list[xr.Dataset | str]:
        """The results of points with complete settings of one group: one each, or the message of a failure.

        Every dataset has a boolean `converged`; each variable a long_name, and units where it has some.
        `ancillary_variables` names the standard error of a variable.
        """
        raise NotImplementedError

    def memory(self, source: Source, settings: Mapping[str, Any]) -> float:
        """Bytes that one point takes at most, roughly, the process included."""
        return OVERHEAD


# Results ------------------------------------------------------------------------------------------------


def variable(value: Any, long_name: str, units: str = "", error: str = "", dims: Sequence[str] = (), **attributes: Any):
    """A variable of a result: (dims, values, attributes). None becomes NaN, words and whole numbers stay what they are.

    Args:
        value: A number, a word, or an array (of numbers and None) for `dims`.
        long_name: What it is.
        units: "" for none.
        error: Name of the variable that holds its standard error.
        dims: Names of the dimensions of an array.
        attributes: Further ones, such as statistic="chi2".
    """
    given = {"long_name": long_name, "units": units, "ancillary_variables": error, **attributes}
    values = np.asarray(value)
    if values.dtype == object:
        values = np.asarray(value, float)
    return tuple(dims), values, {name: each for name, each in given.items() if each != ""}


def message_of(error: Exception) -> str:
    """One line of an error."""
    return " ".join(str(error).split())
