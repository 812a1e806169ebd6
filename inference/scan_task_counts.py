"""Settings of tasks that fit events: how these are cut and binned; binned once for equal settings in a process."""

import datetime
import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from diffcr.clock import TIME_FRAMES
from diffcr.errors import InputError

from .binning import EQUINOXES
from .data import Counts
from .scan_task import Setting, Source, catalogue

_KEPT = 16
"""Counts that a process keeps: 4 MB each on the default grid, an observatory and epoch."""


class Moment(Setting):
    """A date or an MJD: TOML's own dates, ISO text, or a number."""

    def _one(self, value: Any, kind: type) -> Any:
        from .cli_options import moment

        if isinstance(value, datetime.date | datetime.datetime):
            value = value.isoformat()
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"{self.name} must be a date such as 2016-01-01, or an MJD; not {value!r}")
        moment(str(value), self.name)
        return value if isinstance(value, str) else float(value)


BINNING = catalogue(
    Setting("grid", str, None, long_name="Right-ascension bins x declination rings"),
    Setting("time_frame", str, None, long_name="Time frame", choices=TIME_FRAMES),
    Setting("equinox", str, None, long_name="Equinox of RA and dec", choices=EQUINOXES),
    Setting("epochs", str, None, long_name="Epochs", path=True, words=("yearly",)),
    Setting("zenith_max", float, None, "deg", "Largest zenith angle", choices=("site",), above=0, high=90),
    Setting("energy_min", float, None, "", "Least energy"),
    Setting("energy_max", float, None, "", "Greatest energy"),
    Setting("energy_edges", tuple, None, "", "Edges of energy bins"),
    Moment("from", str, None, "", "Start"),
    Moment("to", str, None, "", "End"),
    Setting("remove_orbital", bool, False, long_name="Orbital motion removed"),
    Setting("gamma", float, None, "", "Spectral index"),
    Setting("rate_bins", int, None, "", "Free rates", low=1),
)
"""Settings that say how events become counts, and how many rates are free."""

EXPOSURE = Setting("exposure", str, None, long_name="Exposure", path=True, words=("known",))


def require_binning(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the binning that contradict each other.

    Raises:
        InputError: If they do; the message names them.
    """
    options_of(settings)


def options_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `BinningOptions` of complete settings; zenith_max may be "site".

    Raises:
        InputError: If the settings contradict each other.
    """
    from .cli_options import binning_options

    s = settings
    if s["remove_orbital"] and s["gamma"] is None:
        raise InputError("remove_orbital needs the spectral index gamma, for example gamma = 2.7")
    if s["gamma"] is not None and not s["remove_orbital"]:
        raise InputError("gamma has no effect without remove_orbital = true; give both, or leave it out")
    low, high = s["energy_min"], s["energy_max"]
    if low is not None and high is not None and not low < high:
        raise InputError(f"energy_min = {low:g} is not below energy_max = {high:g}")
    if s["energy_edges"] is not None and len(s["energy_edges"]) < 2:
        raise InputError("energy_edges needs at least two increasing numbers")
    at_site = s["zenith_max"] == "site"
    text = lambda value: None if value is None else str(value)
    options = binning_options(
        s["grid"],
        s["time_frame"],
        s["epochs"],
        None if at_site else s["zenith_max"],
        low,
        high,
        None if s["energy_edges"] is None else ",".join(map(repr, s["energy_edges"])),
        text(s["from"]),
        text(s["to"]),
        s["remove_orbital"],
        s["gamma"],
    )
    # A known acceptance ends at the zenith cut: so must the events, of which some lie beyond by rounding.
    if at_site or (s.get("exposure") is not None and s["zenith_max"] is None):
        options["zenith_max"] = "site"
    return options


def reader_of(source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the reader: those of the source, with the equinox of the settings where they give one."""
    given = {name: value for name, value in source.reader.items() if value is not None}
    return given | ({} if settings["equinox"] is None else {"equinox": settings["equinox"]})


def counts_of(source: Source, settings: Mapping[str, Any]) -> Counts:
    """The inputs binned as the settings say; the same object for equal ones, where few have been asked for since.

    Raises:
        InputError: As `read_counts`.
    """
    binning = {name: settings[name] for name in BINNING if name != "rate_bins"}
    binning["exposure"] = settings.get("exposure") is not None or None
    stamps = tuple(_stamp(path) for path in (*source.inputs, settings["epochs"] or ""))
    return _binned(json.dumps(source.as_json(), sort_keys=True), json.dumps(binning, sort_keys=True), stamps)


def _stamp(path: str) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=_KEPT)
def _binned(source_text: str, settings_text: str, stamps: tuple) -> Counts:
    from .inputs import read_counts

    source, settings = Source.from_json(json.loads(source_text)), json.loads(settings_text)
    return read_counts(list(source.inputs), source.site, **reader_of(source, settings), **options_of(settings))


def cells_of(source: Source, settings: Mapping[str, Any]) -> int:
    """Cells of the grid that the counts will have; of counts files the default is taken."""
    from .cli_options import grid_of

    return math.prod(grid_of(settings["grid"]).shape)
