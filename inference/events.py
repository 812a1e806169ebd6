"""Event lists from text, FITS, HDF5 or Parquet, read in chunks and checked row by row."""

import csv
import gzip
import importlib.resources
import io
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffcr.errors import InputError

ROLES = ("time", "year", "day", "ra", "dec", "zenith", "azimuth", "energy", "weight")
TIME_FORMATS = ("unix", "mjd", "jd", "iso")
AZIMUTHS = ("north-east", "east-counterclockwise")

_PEEK_ROWS = 1000
_NUM_EXAMPLES = 5
_YEARS = (1900, 2299)


@dataclass(frozen=True)
class Dataset:
    """A data set shipped with the package.

    Attributes:
        name: What stands after `dataset:`.
        file: File name inside `diffcr.inference.datasets`.
        title: What the list holds.
        site: Name of the observatory site.
        options: How the file is to be read where the user says nothing else: `equinox` of its RA and
            dec ("date" or "j2000"), `azimuth` convention, `time_format` (absent: year and day).
        citation: What to cite.
        licence: Terms of redistribution.
    """

    name: str
    file: str
    title: str
    site: str
    options: Mapping[str, str]
    citation: str
    licence: str

    @property
    def path(self) -> str:
        """Where the file lies in this installation."""
        return str(importlib.resources.files("diffcr.inference.datasets") / self.file)


DATASETS: dict[str, Dataset] = {
    "auger-8eev": Dataset(
        name="auger-8eev",
        file="Arrival_directions_8EeV_Science_2017.dat",
        title="32187 events of the Pierre Auger Observatory above 8 EeV, 2004 to 2016",
        site="auger",
        options={"equinox": "date", "azimuth": "east-counterclockwise", "time_format": "unix"},
        citation="Pierre Auger Collaboration, Science 357 (2017) 1266",
        licence="CC BY-SA 4.0, (c) Pierre Auger Collaboration 2017",
    ),
    "auger-52eev": Dataset(
        name="auger-52eev",
        file="Auger2014_E52EeV_231events.txt",
        title="231 events of the Pierre Auger Observatory above 52 EeV, 2004 to 2014",
        site="auger",
        options={"equinox": "j2000"},
        citation="Pierre Auger Collaboration, arXiv:1411.6111",
        licence="CC BY-SA 4.0, (c) Pierre Auger Collaboration 2014",
    ),
}
"""Shipped data sets by name: `dataset:NAME` stands for the file wherever one is expected."""


def resolve_input(name: str | os.PathLike) -> tuple[str, Dataset | None]:
    """(path, data set) of an input name: `dataset:NAME` is a shipped file, anything else is a path.

    Raises:
        InputError: If there is no data set of that name; the message lists those there are.
    """
    text = os.fspath(name)
    if not text.startswith("dataset:"):
        return text, None
    key = text.removeprefix("dataset:")
    if key not in DATASETS:
        known = ", ".join(f"dataset:{each}" for each in DATASETS)
        raise InputError(f"{text}: there is no data set of this name; use one of {known}")
    return DATASETS[key].path, DATASETS[key]


# Columns ------------------------------------------------------------------------------------------

# The usual names, most specific first; what ends in a unit ("ra_deg", "dec [rad]") is cut before.
_TIME_NAMES = {
    "unix": "unix unixtime unix_time time_unix utc_unix unix_utc unix_timestamp epoch_time",
    "": "utc time_utc utc_time utctime datetime date_time timestamp time event_time arrival_time",
    "mjd": "mjd time_mjd mjd_utc mjd_time",
    "jd": "jd time_jd jd_utc julian_date",
    "iso": "iso isot iso_time time_iso date_obs",
    " ": "date date_utc",
}
_TIME_FORMAT_OF = {name: key.strip() for key, names in _TIME_NAMES.items() for name in names.split()}
_USUAL = {
    "time": tuple(_TIME_FORMAT_OF),
    "year": ("year", "yyyy", "yr"),
    "day": ("doy", "ddd", "day_of_year", "dayofyear", "jday", "yday", "day"),
    "ra": ("ra", "right_ascension", "rightascension", "raj2000", "_raj2000", "ra_j2000", "ra_icrs", "alpha"),
    "dec": (
        *("dec", "declination", "decl", "decj2000", "dej2000", "_dej2000", "dec_j2000"),
        *("dec_icrs", "de_icrs", "de", "delta"),
    ),
    "zenith": ("zenith", "zenith_angle", "zenithangle", "zen", "theta", "za"),
    "azimuth": ("azimuth", "azimuth_angle", "azimuthangle", "azi", "az", "phi"),
    "energy": (
        *("energy", "e", "energy_rec", "erec", "log_energy", "log10_energy", "logenergy", "log10energy"),
        *("loge", "log10e", "log_e", "log10_e", "lge", "lg_e"),
    ),
    "weight": ("weight", "weights", "event_weight", "w", "wt"),
}
_GPS_NAMES = ("gps", "gps_time", "gpstime", "time_gps", "gps_sec", "gps_seconds", "gpssec")
_MONTH_NAMES = ("month", "mm", "mon")

_UNITS = {
    **dict.fromkeys(("deg", "degree", "degrees", "°"), "deg"),
    **dict.fromkeys(("rad", "radian", "radians"), "rad"),
    **dict.fromkeys(("hour", "hours", "hourangle", "hr", "h"), "hour"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    **{unit: unit for unit in ("ms", "us", "ns", "ev", "gev", "tev", "pev", "eev", "log10")},
}
_UNITS_OF = {
    **dict.fromkeys(("ra", "dec", "zenith", "azimuth"), ("deg", "rad", "hour")),
    "time": ("s", "ms", "us", "ns"),
    "energy": ("log10", "ev", "gev", "tev", "pev", "eev"),
}
_TAILS = {name: unit for name, unit in _UNITS.items() if name not in ("s", "h", "°")}
_QUALIFIERS = ("j2000", "icrs", "date", "of date", "utc")
_DEGREES_PER = {"deg": 1.0, "rad": 180 / math.pi, "hour": 15.0}
_SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_columns(text: str) -> dict[str, str]:
    """The value of `--columns`, `time=UTC,ra=RA,dec=Dec`, as a dict of role -> column.

    Roles are time, year, day, ra, dec, zenith, azimuth, energy and weight. A column is given by its name or
    by its position, `#1` being the first. Angles are in degrees and unix times in seconds unless a unit
    follows: `ra=RA:rad`, `ra=RA:hour`, `time=T:ms` (s, ms, us, ns), `energy=lgE:log10`. An empty name,
    `weight=`, leaves the role out although the file has such a column.

    Raises:
        InputError: If an item is not ROLE=NAME, the role is unknown, or a role is given twice.
    """
    columns: dict[str, str] = {}
    for item in text.split(","):
        role, equals, name = (part.strip() for part in item.partition("="))
        if not equals:
            raise InputError(
                f"--columns: {item.strip()!r} is not ROLE=NAME; write for example time=UTC,ra=RA,dec=Dec"
            )
        role = role.lower()
        if role not in ROLES:
            raise InputError(f"--columns: there is no role {role!r}; the roles are {', '.join(ROLES)}")
        if role in columns:
            raise InputError(f"--columns: {role} is given twice; give each role one column")
        columns[role] = name
    return columns


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Role -> column name for the usual names, whatever their case; roles without a column are absent.

    Units in a name are tolerated: `ra [deg]`, `dec(deg.)`, `zenith_rad`. Year and day of year are taken only
    where no column holds the full time, and not where a month stands beside them (day is then another day).

    Raises:
        InputError: If the only time is GPS time, which is not UTC.
    """
    bases = [_split_name(name)[0] for name in names]
    found = {}
    for role, usual in _USUAL.items():
        match = next((bases.index(each) for each in usual if each in bases), None)
        if match is not None:
            found[role] = names[match]
    if "time" in found or not {"year", "day"} <= found.keys() or set(bases) & set(_MONTH_NAMES):
        found.pop("year", None)
        found.pop("day", None)
    if not {"time", "year"} & found.keys():
        for name, base in zip(names, bases, strict=True):
            if base in _GPS_NAMES:
                raise InputError(f"column {name!r} {_GPS_FAULT}")
    return found


_GPS_FAULT = (
    "is GPS time, which runs ahead of UTC by the leap seconds since 1980; convert it first, "
    "for example with astropy.time.Time(gps, format='gps').unix, or leave the time out with --columns time="
)


def _split_name(name: str) -> tuple[str, str | None]:
    """`Right Ascension [deg]` -> ("right_ascension", "deg")."""
    base, unit = name.strip().strip("'\"").lower(), None
    bracket = re.fullmatch(r"(.*?)\s*[\[(/]\s*([^\])]*?)\.?\s*[\])]?", base)
    if bracket and (bracket[2] in _UNITS or bracket[2] in _QUALIFIERS):
        base, unit = bracket[1], _UNITS.get(bracket[2])
    base = re.sub(r"[\s.\-]+", "_", base).strip("_") if not base.startswith("_") else base
    if unit is None:
        stem, _, tail = base.rpartition("_")
        # Not _h and _s, which may be the hours and seconds of a sexagesimal angle.
        if stem and tail in _TAILS:
            base, unit = stem, _TAILS[tail]
    return base, unit


def _split_unit(spec: str) -> tuple[str, str | None]:
    """`RA:rad` -> ("RA", "rad"); a colon that no unit follows belongs to the name."""
    name, colon, unit = spec.rpartition(":")
    if colon and unit.strip().lower() in _UNITS:
        return name.strip(), _UNITS[unit.strip().lower()]
    return spec, None


# The reader ---------------------------------------------------------------------------------------


class EventChunk(NamedTuple):
    """Some consecutive events of a file, checked. A column the file lacks is None.

    Attributes:
        days: Arrival times, UTC, in days since J2000.0: JD - 2451545.0.
        ra: Right ascension [rad], as in the file: not wrapped, between -2 pi and 4 pi.
        dec: Declination [rad].
        zenith: Zenith angle [rad].
        azimuth: Azimuth [rad], from North through East.
        energy: Energy, positive, in the unit of the file.
        weight: Weight, not negative.
        first_row: Number of the chunk's first data row in the file, from 1, skipped rows included.
        bad_rows: How many rows of this chunk were skipped. Where it is all of them, the arrays are empty.
    """

    days: Float[np.ndarray, " event"] | None
    ra: Float[np.ndarray, " event"] | None
    dec: Float[np.ndarray, " event"] | None
    zenith: Float[np.ndarray, " event"] | None
    azimuth: Float[np.ndarray, " event"] | None
    energy: Float[np.ndarray, " event"] | None
    weight: Float[np.ndarray, " event"] | None
    first_row: int
    bad_rows: int


class EventReader:
    """One event file, read in chunks: memory depends on `chunk_size`, not on the number of events.

    Text (comma, semicolon, tab or spaces between the columns, gzip or not), FITS tables, HDF5 and Parquet
    are told apart by content. `file.fits[EXT]` names a FITS extension, `file.h5:/group` a place in HDF5, and
    `dataset:NAME` a shipped list. Each chunk has one complete direction, (ra, dec) or (zenith, azimuth). With
    (ra, dec) a zenith or an azimuth is read too where the file has only one of them; with (zenith, azimuth)
    ra and dec are None. Times without a zone are UTC.

    Args:
        path: The file.
        columns: What --columns says (see `parse_columns`), as text or as a dict of role -> column; the usual
            names are guessed for the other roles.
        time_format: "unix", "mjd", "jd" or "iso"; None takes it from the column's name or its first values.
        azimuth: "north-east" (from North through East) or "east-counterclockwise" (from East through North);
            None is what the shipped data set declares, else "north-east".
        chunk_size: Largest number of rows in a chunk.
        skip_bad_rows: Whether to leave out and count rows that cannot be used, instead of refusing the file.
        prefer: Which pair to use where the file has both: "equatorial" or "horizon". Columns given by hand
            for one pair only decide for that pair.

    Attributes:
        path: The file, as given.
        file: Its path on disk, without extension or group, and of the shipped file for a data set.
        format: "text", "fits", "hdf5" or "parquet".
        names: All column names of the file; `#1`, `#2`, ... where it has none.
        columns: Role -> column name, for the roles that are read.
        units: Role -> unit in the file, where it has one (deg, rad, hour; s, ms, us, ns; log10, eev, ...).
        time_format: "unix", "mjd", "jd", "iso", "year+day", or None where there is no time.
        num_rows: Number of data rows; None for text, where only reading tells.
        dataset: The shipped data set this is, or None.
        notes: What was guessed or left unread, in sentences for the user.
        whole_days: Whether no time read so far tells more than the day (midnight UTC then stands for it).
        num_read: Data rows read by the last iteration so far, skipped ones included.
        num_bad: Of these, the rows skipped.
        bad_examples: The first few rows skipped, and why.

    Raises:
        InputError: If the file cannot be read, its columns or time format are not clear, or, while iterating,
            at the first row that cannot be used, or if no row can.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        columns: str | Mapping[str, str] | None = None,
        time_format: str | None = None,
        azimuth: str | None = None,
        chunk_size: int = 1_000_000,
        skip_bad_rows: bool = False,
        prefer: str = "equatorial",
    ):
        place, self.dataset = resolve_input(path)
        self.file = _split_path(place)[0]
        options = self.dataset.options if self.dataset else {}
        self.path = os.fspath(path)
        self.azimuth = azimuth or options.get("azimuth", "north-east")
        self.chunk_size = chunk_size
        self.skip_bad_rows = skip_bad_rows
        self.notes: list[str] = []
        if time_format == "gps":
            raise InputError(f"{self.path}: --time-format gps {_GPS_FAULT}")
        _require_choice("--time-format", time_format, (None, *TIME_FORMATS))
        _require_choice("--azimuth", self.azimuth, AZIMUTHS)
        _require_choice("prefer", prefer, ("equatorial", "horizon"))
        if chunk_size < 1:
            raise InputError(f"the chunk size must be at least 1 row, not {chunk_size}")

        self._table = _open_table(place, self.path)
        self.format = self._table.format
        self.names = list(self._table.names)
        if isinstance(columns, str):
            columns = parse_columns(columns)
        elif columns is not None:
            columns = parse_columns(",".join(f"{role}={name}" for role, name in columns.items()))
        self._index, declared = self._find_columns(columns or {}, prefer)
        self.columns = {role: self.names[index] for role, index in self._index.items()}
        self.num_rows = self._table.count(list(self._index.values()))
        if self.num_rows == 0:
            self._refuse("the table has columns but no rows", "give a file with events")
        self.units = self._find_units(declared)

        if "time" in self._index:
            time_format = time_format or options.get("time_format")
        peek = self._peek(set())
        self.time_format = self._find_time_format(peek, time_format)
        self._check_angle_units(peek, declared)
        if self.time_format == "iso":
            peek = self._peek({self._index["time"]})
        # A few round numbers may be chance; more of them are a list of days.
        few = self.time_format in ("mjd", "jd") and peek.num_rows < 10
        self.whole_days = self.time_format not in (None, "unix") and not few and self._only_days(peek)
        self._start_count()

    def _peek(self, text: set[int]) -> "_Raw":
        return next(self._table.chunks(list(self._index.values()), _PEEK_ROWS, text))

    def __iter__(self) -> Iterator[EventChunk]:
        self._start_count()
        text = {self._index["time"]} if self.time_format == "iso" else set()
        for raw in self._table.chunks(list(self._index.values()), self.chunk_size, text):
            first_row = self.num_read + 1
            values, bad = self._convert(raw, first_row)
            num_bad = int(bad.sum())
            self.num_read += raw.num_rows
            self.num_bad += num_bad
            if num_bad:
                values = {role: value[~bad] for role, value in values.items()}
            columns = {role: values.get(role) for role in EventChunk._fields[:-2]}
            yield EventChunk(**columns, first_row=first_row, bad_rows=num_bad)
        if self.num_bad == self.num_read:
            raise InputError(
                f"{self.path}: no event left: all {self.num_read} rows were skipped as bad, the first as "
                f"{self.bad_examples[0]}; check --columns and --time-format"
            )

    def _start_count(self) -> None:
        self.num_read = 0
        self.num_bad = 0
        self.bad_examples: list[str] = []

    # Which columns

    def _find_columns(self, given: Mapping[str, str], prefer: str) -> tuple[dict[str, int], dict[str, str]]:
        """Role -> column index, and role -> unit where --columns declares one."""
        index, declared = {}, {}
        for role, spec in given.items():
            name, unit = _split_unit(spec)
            if name:
                index[role] = self._index_of(name, role)
                self._require_one_value(index[role])
                if unit:
                    declared[role] = unit
        own_time = {"time", "year", "day"} & given.keys()
        candidates = [name for name in self.names if not (own_time and _split_name(name)[0] in _GPS_NAMES)]
        try:
            guessed = guess_columns(candidates)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        taken = set(index.values())
        for role, name in guessed.items():
            if role in given or (role in ("time", "year", "day") and own_time):
                continue
            same = [i for i, each in enumerate(self.names) if _split_name(each) == _split_name(name)]
            if len(same) > 1:
                self._refuse(
                    f"{len(same)} columns are named {name!r}",
                    f"say which one is {role} by its position, --columns {role}=#{same[0] + 1}",
                )
            if same[0] not in taken:
                self._require_one_value(same[0])
                index[role] = same[0]
        if len(set(index.values())) < len(index):
            self._refuse("--columns gives one column two roles", "give each role its own column")
        if ("year" in index) != ("day" in index):
            missing = "day" if "year" in index else "year"
            self._refuse(
                f"the time is given as year and day, but the {missing} is missing",
                self._columns_hint(missing),
            )
        if "time" in index:
            index.pop("year", None), index.pop("day", None)
        self._choose_pair(index, given, prefer)
        return {role: index[role] for role in ROLES if role in index}, declared

    def _choose_pair(self, index: dict[str, int], given: Mapping[str, str], prefer: str) -> None:
        """Leave one complete direction in `index`."""
        pairs = {"equatorial": ("ra", "dec"), "horizon": ("zenith", "azimuth")}
        complete = [pair for pair, roles in pairs.items() if set(roles) <= index.keys()]
        if not complete:
            half = [role for role in ("ra", "dec", "zenith", "azimuth") if role in index]
            what = f"only {' and '.join(half)}" if half else "neither (ra, dec) nor (zenith, azimuth)"
            if any(name.startswith("values_block_") for name in self.names):
                self._refuse("pandas left out the column names", "write it again with data_columns=True")
            fault = f"the direction needs (ra, dec) or (zenith, azimuth), but {what} was found"
            self._refuse(fault, self._columns_hint("ra", "dec"))
        by_hand = [pair for pair in complete if any(given.get(role) for role in pairs[pair])]
        used = next((each for each in (by_hand, complete) if len(each) == 1), [prefer])[0]
        other = pairs["horizon" if used == "equatorial" else "equatorial"]
        # One angle more is kept with (ra, dec); beside a horizon direction a lone ra would pass for one.
        if len(complete) == 2 or used == "horizon":
            for role in set(other) & index.keys():
                unread = self.names[index.pop(role)]
                self.notes.append(
                    f"{role}: column {unread!r} is not read, {' and '.join(pairs[used])} are used"
                )

    def _columns_hint(self, *roles: str) -> str:
        positions = ",".join(f"{role}=#{number}" for number, role in enumerate(roles, 1))
        if self.names[0] == "#1":
            return (
                f"the file has no header: give positions #1 to #{len(self.names)}, as --columns {positions}"
            )
        names = ",".join(f"{role}=NAME" for role in roles)
        shown = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
        return f"say which with --columns {names}, or by position, {positions}; the columns are {shown}"

    def _index_of(self, name: str, role: str) -> int:
        position = re.fullmatch(r"#(\d+)", name)
        if position and name not in self.names:
            number = int(position[1])
            if not 1 <= number <= len(self.names):
                self._refuse(
                    f"there is no column {name} (for {role})", f"the positions are #1 to #{len(self.names)}"
                )
            return number - 1
        for key in (str, str.lower, lambda each: _split_name(each)[0]):
            same = [i for i, each in enumerate(self.names) if key(each) == key(name)]
            if len(same) > 1:
                self._refuse(
                    f"{len(same)} columns are named {name!r} (for {role})",
                    f"give the position, --columns {role}=#{same[0] + 1}",
                )
            if same:
                return same[0]
        return self._refuse(f"there is no column {name!r} (for {role})", self._columns_hint(role))

    def _require_one_value(self, index: int) -> None:
        shape = self._table.shapes[index]
        if shape:
            self._refuse(
                f"column {self.names[index]!r} holds an array of shape {shape} in each row",
                "write one number per row and column, or leave it out with --columns ROLE=",
            )

    def _refuse(self, fault: str, remedy: str) -> NoReturn:
        raise InputError(f"{self.path}: {fault}; {remedy}")

    # Which units

    def _find_units(self, declared: Mapping[str, str]) -> dict[str, str]:
        """Role -> unit: by hand, else from the column's name, else from the file; degrees where none says."""
        units = {}
        for role, index in self._index.items():
            name, stated = self.names[index], (self._table.units[index] or "").strip().lower()
            allowed = _UNITS_OF.get(role, ())
            unit = declared.get(role) or _split_name(name)[1] or _UNITS.get(stated, stated)
            if role in declared and unit not in allowed:
                remedy = f"use one of {', '.join(allowed)}" if allowed else "give the column without a unit"
                self._refuse(f"--columns {role}={name}:{unit}: {role} cannot be in {unit}", remedy)
            if role == "energy" and role not in declared and re.match(r"log|lg", _split_name(name)[0]):
                unit = "log10"
                self.notes.append(f"energy: 10 to the power of column {name!r}")
            if role in ("ra", "dec", "zenith", "azimuth"):
                if unit and unit not in allowed:
                    remedy = f"convert it to degrees, or overrule with --columns {role}={name}:deg"
                    self._refuse(f"column {name!r} is in {unit!r}, not in degrees, radians or hours", remedy)
                unit = unit or "deg"
            if unit in allowed:
                units[role] = unit
        return units

    def _check_angle_units(self, peek: "_Raw", declared: Mapping[str, str]) -> None:
        """Refuse angles whose unit nothing tells, and whose first rows are clearly not in degrees."""
        longitude, latitude = ("ra", "dec") if {"ra", "dec"} <= self._index.keys() else ("azimuth", "zenith")
        index, name = self._index[longitude], self.columns[longitude]
        around, across = (_as_float(peek.arrays[self._index[role]]) for role in (longitude, latitude))
        around, across = around[np.isfinite(around)], across[np.isfinite(across)]
        stated = longitude in declared or _split_name(name)[1] or self._table.units[index]
        # A list sorted by right ascension may well begin this narrow.
        if stated or len(around) < 100 or not len(across) or np.all(np.diff(around) >= 0):
            return
        low, high = around.min(), around.max()
        seems = f"column {name!r} spans {low:.4g} to {high:.4g} in its first rows and seems to be in"
        degrees = f", or {longitude}={name}:deg if these are degrees"
        if 5 < high - low < 6.29 and max(-low, high) < 6.29 and np.abs(across).max() < 3.15:
            radians = f"{longitude}={name}:rad,{latitude}={self.columns[latitude]}:rad"
            self._refuse(f"{seems} radians", f"say --columns {radians}{degrees}")
        if longitude == "ra" and high - low > 20 and low >= 0 and high <= 24:
            self._refuse(f"{seems} hours", f"say --columns ra={name}:hour{degrees}")

    # Which time

    def _find_time_format(self, peek: "_Raw", given: str | None) -> str | None:
        if "time" not in self._index:
            if given:
                self._refuse(
                    f"--time-format {given} has no time column to apply to", self._columns_hint("time")
                )
            if "year" not in self._index:
                self.notes.append("time: the file has none")
                return None
            year, day = self.columns["year"], self.columns["day"]
            self.notes.append(f"time: columns {year!r} and {day!r}, year and day of year")
            return "year+day"
        name, raw = self.columns["time"], peek.arrays[self._index["time"]]
        base, unit = _split_name(name)[0], self.units.get("time", "s")
        if not given and base in _GPS_NAMES:
            raise InputError(f"{self.path}: column {name!r} {_GPS_FAULT}")
        if not given and base == "time" and self._table.time_reference:
            fault = f"column {name!r} counts seconds from {self._table.time_reference}, not UTC"
            self._refuse(fault, "convert it to UTC, and say --time-format unix, mjd, jd or iso")
        if raw.dtype == np.float32:
            step = np.spacing(np.nanmax(np.abs(raw)))
            self.notes.append(
                f"time: column {name!r} holds 32-bit floats, which resolve steps of {step:.2g} only"
            )
        seen, why = _guess_time_format(raw, unit)
        named = _TIME_FORMAT_OF.get(base) or ("unix" if unit != "s" else None)
        remedy = f"say which it is with --time-format {'|'.join(TIME_FORMATS)}"
        if given and seen and given != "iso" and seen == "iso":
            self._refuse(
                f"--time-format {given} does not fit column {name!r}: {why}", "try --time-format iso"
            )
        if not given and named and seen and named != seen:
            self._refuse(f"column {name!r} is named like {named}, but {why}", remedy)
        if not given and not named and not seen:
            self._refuse(f"the format of time column {name!r} is not clear: {why}", remedy)
        if not given:
            source = "by its name" if named else f"because {why}"
            self.notes.append(f"time: column {name!r}, format {named or seen} {source}")
        found = given or named or seen
        if unit != "s" and found != "unix":
            self._refuse(
                f"time column {name!r} cannot be {found} in {unit}", "give the column without a unit"
            )
        return found

    # Values

    def _convert(self, raw: "_Raw", first_row: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The chunk's columns in our units by field of `EventChunk`, and which rows are bad.

        Raises:
            InputError: At the first bad row, unless bad rows are skipped.
        """
        values, faults = {}, []
        if raw.broken is not None:
            faults.append(("", raw.broken))
        for role in ("time", "year"):
            if role in self._index:
                convert = self._days_of_time if role == "time" else self._days_of_year
                values["days"], bad = convert(raw)
                faults.append((role, bad))
        for role in ROLES[3:]:
            if role in self._index:
                values[role], bad = self._value_of(role, raw.arrays[self._index[role]])
                faults.append((role, bad))
        bad = np.zeros(raw.num_rows, bool)
        for _, each in faults:
            bad |= each
        first = np.flatnonzero(bad)[: _NUM_EXAMPLES - len(self.bad_examples)]
        if first.size and not self.skip_bad_rows:
            role = next(role for role, each in faults if each[first[0]])
            raise InputError(self._fault(role, raw, int(first[0]), first_row))
        for i in first:
            role = next(role for role, each in faults if each[i])
            self.bad_examples.append(f"row {first_row + int(i)}: {self._reason(role, raw, int(i))}")
        if "days" in values and self.whole_days:
            self.whole_days = self._only_days(raw)
        return values, bad

    def _fault(self, role: str, raw: "_Raw", i: int, first_row: int) -> str:
        where = f"row {first_row + i}"
        if raw.lines is not None:
            where += f" (line {raw.lines[i]})"
        if role:
            names = [self.columns[each] for each in (("year", "day") if role == "year" else (role,))]
            where += f", column {' and '.join(map(repr, names))}"
        remedy = "correct it, or leave out and count such rows with --skip-bad-rows"
        if role in ("energy", "weight"):
            remedy += f", or do without the column with --columns {role}="
        return f"{self.path}: {where}: {self._reason(role, raw, i)}; {remedy}"

    def _reason(self, role: str, raw: "_Raw", i: int) -> str:
        """Why row i of a chunk cannot be used, first fault of `role`."""
        if not role:
            return raw.broken_reason(i)
        first, last = _YEARS
        if role == "year":
            year, day = (raw.show(self._index[each], i) for each in ("year", "day"))
            return f"year = {year}, day = {day} is not a day (from 1) of a year from {first} to {last}"
        value = raw.arrays[self._index[role]][i]
        shown = f"{role} = {raw.show(self._index[role], i)}"
        if _is_missing(value):
            return f"{role} is missing or NaN"
        if role == "time" and self.time_format == "iso":
            text = _show(value).strip("'")
            if re.search(r":60(\D|$)", text):
                return f"{shown} lies in a leap second, which has no unix time: write :59"
            if re.fullmatch(r"\d\d?:\d\d(:\d\d(\.\d*)?)?", text):
                return f"{shown} has no date: write both into one column, as 2004-01-05T12:33:21"
            return f"{shown} is not an ISO date from {first} to {last}, as 2004-01-05T12:33:21"
        number = float(_as_float(np.array([value], dtype=object))[0])
        if math.isnan(number):
            return f"{shown} is not a number"
        if math.isinf(number):
            return f"{shown} is not finite"
        if role == "time":
            return f"{shown} as {self.time_format} is not in the years {first} to {last}"
        if role == "weight":
            return f"{shown} is negative"
        if role == "energy":
            return f"{shown} is " + ("no logarithm" if self.units.get(role) == "log10" else "not positive")
        unit = self.units[role]
        low, high = (limit / _DEGREES_PER[unit] for limit in _RANGES[role])
        return f"{shown} is outside [{low:.6g}, {high:.6g}]" + (f" {unit}" if unit != "deg" else "")

    def _value_of(self, role: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = _as_float(raw)
        bad = ~np.isfinite(value)
        with np.errstate(invalid="ignore", over="ignore"):
            if role == "weight":
                return value, bad | (value < 0)
            if role == "energy":
                if self.units.get(role) == "log10":
                    value = 10**value
                return value, bad | ~np.isfinite(value) | (value <= 0)
            degrees = value * _DEGREES_PER[self.units[role]]
            low, high = _RANGES[role]
            # 32-bit radians reach past pi / 2 by 4e-8.
            slack = 0.0 if self.units[role] == "deg" else 1e-4
            bad |= (degrees < low - slack) | (degrees > high + slack)
            degrees = np.clip(degrees, low, high)
            if role == "azimuth" and self.azimuth == "east-counterclockwise":
                degrees = np.mod(90 - degrees, 360)
            return np.deg2rad(degrees), bad

    def _days_of_time(self, raw: "_Raw") -> tuple[np.ndarray, np.ndarray]:
        time = raw.arrays[self._index["time"]]
        if self.time_format == "iso":
            days = _days_of_iso(time)
        else:
            number = _as_float(time)
            if self.time_format == "unix":
                days = number * _SECONDS_PER[self.units.get("time", "s")] / 86400 - 10957.5
            else:
                days = number - {"mjd": 51544.5, "jd": 2451545.0}[self.time_format]
        with np.errstate(invalid="ignore"):
            return days, ~((days >= _DAY_LIMITS[0]) & (days < _DAY_LIMITS[1]))

    def _days_of_year(self, raw: "_Raw") -> tuple[np.ndarray, np.ndarray]:
        year, day = (_as_float(raw.arrays[self._index[role]]) for role in ("year", "day"))
        with np.errstate(invalid="ignore"):
            bad = ~((year >= _YEARS[0]) & (year <= _YEARS[1]) & (year == np.floor(year)))
            whole = np.where(bad, 2000, year).astype(np.int64)
            leap = (whole % 4 == 0) & ((whole % 100 != 0) | (whole % 400 == 0))
            bad |= ~((day >= 1) & (day < 366 + leap))
        new_year = (whole - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.float64)
        return new_year - 10957.5 + (day - 1), bad

    def _only_days(self, raw: "_Raw") -> bool:
        """Whether the times of a chunk tell no more than the day."""
        time = raw.arrays[self._index["time" if "time" in self._index else "day"]]
        if time.dtype.kind == "M":
            return np.datetime_data(time.dtype)[0] == "D"
        if self.time_format == "iso":
            return all(len(_show(each).strip("' ")) <= len("2004-01-05") for each in time)
        # Julian dates begin at noon: a list of days may end in .5 everywhere.
        number = _as_float(time)
        number = number[np.isfinite(number)] + (0.5 if self.time_format == "jd" and number[0] % 1 else 0)
        return bool(np.all(number == np.floor(number)))


_RANGES = {
    "ra": (-360.0, 720.0),
    "dec": (-90.0, 90.0),
    "zenith": (0.0, 180.0),
    "azimuth": (-math.inf, math.inf),
}
_DAY_LIMITS = (-36524.5, 109571.5)  # 1900 January 1 and 2300 January 1, 0h


def _require_choice(what: str, value, choices: tuple) -> None:
    if value not in choices:
        raise InputError(f"{what} must be one of {', '.join(filter(None, choices))}, not {value!r}")


def _as_float(raw: np.ndarray) -> np.ndarray:
    """Numbers as native float64; NaN where there is none."""
    if raw.dtype.kind in "iuf":
        return raw.astype(np.float64)
    value = np.full(len(raw), np.nan)
    if raw.dtype.kind in "OSU":
        text = _as_text(raw)
        text = text.where(~text.map(lambda each: isinstance(each, bool | np.bool_)), None)
        # float() and not to_numeric's own value: the last digit must not depend on the neighbours.
        good = np.flatnonzero(pd.to_numeric(text, errors="coerce").notna())
        value[good] = [float(text[i]) for i in good]
    return value


def _as_text(raw: np.ndarray) -> pd.Series:
    values = [each.decode(errors="replace") if isinstance(each, bytes) else each for each in raw.tolist()]
    return pd.Series(values, dtype=object)


def _is_missing(value) -> bool:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip().lower() in ("", "nan", "nat", "none", "<na>", "na", "null")


def _show(value) -> str:
    """A value as it stands in the file: text in quotes, cut where it is long."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    return str(value)


def _guess_time_format(raw: np.ndarray, unit: str) -> tuple[str | None, str]:
    """(format, why) from the first values of a time column; (None, why not) where they do not tell."""
    if raw.dtype.kind == "M":
        return "iso", "its values are dates"
    number = _as_float(raw)
    present = np.array([not _is_missing(each) for each in raw.tolist()], dtype=bool)
    number = number[np.isfinite(number)]
    if 2 * len(number) < present.sum():
        return "iso", f"its values are text, as {_show(raw[np.flatnonzero(present)[0]])}"
    if not len(number):
        return None, "its first values are missing"
    middle = float(np.median(number))
    why = f"its values are around {middle:.10g}"
    for name, low, high in (("mjd", 3e4, 9e4), ("jd", 2.4e6, 2.5e6), ("unix", 1e8, 1e10)):
        if low <= middle * (_SECONDS_PER[unit] if name == "unix" else 1) < high:
            return name, why
    for small, low in (("ms", 1e11), ("us", 1e14), ("ns", 1e17)):
        if low <= middle < 100 * low:
            why += f", like unix times in {small} (--columns time=NAME:{small})"
    return None, why


def _days_of_iso(raw: np.ndarray) -> np.ndarray:
    """Days since J2000.0 of dates or ISO text, NaN where there is none."""
    if raw.dtype.kind != "M":
        text = _as_text(raw)
        text = text.where(text.map(lambda each: isinstance(each, str | int)), "").astype(str).str.strip()
        # Shorter forms, such as a bare year, would be read as their first of January.
        text = text.where(text.str.match(r"\d{4}-?\d\d?-?\d\d?(?!\d)|\d{8}T"), "")
        parsed = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        raw = parsed.dt.tz_localize(None).to_numpy()
    microseconds = raw.astype("datetime64[us]")
    since = (microseconds - np.datetime64("2000-01-01T12:00:00", "us")).astype(np.int64) / 86400e6
    return np.where(np.isnat(microseconds), np.nan, since)


# The files ----------------------------------------------------------------------------------------


@dataclass
class _Raw:
    """A chunk as it stands in the file: column index -> values, and for text where and how it is written."""

    arrays: dict[int, np.ndarray]
    num_rows: int
    lines: np.ndarray | None = None
    broken: np.ndarray | None = None
    text: list[bytes] = field(default_factory=list)
    separator: str = ","
    num_columns: int = 0

    def split(self, i: int) -> list[str]:
        return _split_line(self.text[i].decode(errors="replace"), self.separator)

    def show(self, index: int, i: int) -> str:
        """A value as the file has it."""
        fields = self.split(i) if self.text else []
        if index < len(fields):
            return fields[index] if _has_number(fields[index]) else _show(fields[index])
        return _show(self.arrays[index][i])

    def broken_reason(self, i: int) -> str:
        return f"there are {len(self.split(i))} values for {self.num_columns} columns"


class _Table:
    """What `EventReader` needs of a file: names, units and shapes of the columns, and chunks of them."""

    format = ""
    num_rows: int | None = None
    time_reference: str | None = None

    def __init__(self, file: str, shown: str):
        self._file, self._shown = file, shown

    def _describe(self, names: Sequence[str], units=None, shapes=None) -> None:
        self.names = list(names)
        self.units: list[str | None] = units or [None] * len(self.names)
        self.shapes: list[tuple[int, ...]] = shapes or [()] * len(self.names)

    def count(self, indices: list[int]) -> int | None:
        """Number of rows of these columns, where the file tells."""
        return self.num_rows

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[_Raw]:
        """Chunks of at most `size` rows of the columns in `indices`; those in `text` stay text."""
        raise NotImplementedError


_SIGNATURES = (
    (b"SIMPLE  =", "fits"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PAR1", "parquet"),
)
_KINDS = "give text (CSV or columns), a FITS table, HDF5 or Parquet"
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}


def _open_table(file: str, shown: str) -> _Table:
    """Tell the format by content and open the table; `shown` is the name for messages."""
    file, inner = _split_path(file)
    if os.path.isdir(file):
        raise InputError(f"{shown}: this is a directory; give an event file")
    if not os.path.exists(file):
        raise InputError(
            f"{shown}: there is no such file; check the path, or use a shipped list, dataset:auger-8eev"
        )
    if not os.path.isfile(file):
        raise InputError(f"{shown}: this is not a regular file; write the events to a file first")
    try:
        with open(file, "rb") as handle:
            head = handle.read(1 << 16)
        zipped = head[:2] == b"\x1f\x8b"
        if zipped:
            with gzip.open(file) as handle:
                head = handle.read(1 << 16)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{shown}: cannot be read ({error}); check its permissions and that it is complete"
        ) from None
    if not head:
        raise InputError(f"{shown}: the file is empty; give a file with events")
    kind = next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), "text")
    if kind != "text" and zipped:
        raise InputError(f"{shown}: {kind} inside gzip cannot be read in pieces; run gunzip on it first")
    if kind == "text" and (b"\0" in head or _share_of_control(head) > 0.05):
        packed = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
        if packed:
            raise InputError(f"{shown}: the file is compressed with {packed}; decompress it first")
        raise InputError(f"{shown}: this is a binary file of unknown kind; {_KINDS}")
    if kind == "text" and b"\r" in head and b"\n" not in head:
        raise InputError(f"{shown}: its lines end in carriage returns alone; convert them to newlines")
    if inner and kind not in ("fits", "hdf5"):
        raise InputError(f"{shown}: a {kind} file has no part {inner!r}; give {file} alone")
    if kind == "text":
        return _TextTable(file, shown, zipped)
    opener = {"fits": _FitsTable, "hdf5": _Hdf5Table}.get(kind)
    return opener(file, shown, inner) if opener else _ParquetTable(file, shown)


def _split_path(path: str) -> tuple[str, str]:
    """`a.fits[EXT]` and `a.h5:/group` -> (file, inner); a file that exists under the whole name wins."""
    if not os.path.exists(path):
        for pattern in (r"(.+)\[([^\[\]]+)\]", r"(.+?):(/.*)"):
            match = re.fullmatch(pattern, path)
            if match and os.path.exists(match[1]):
                return match[1], match[2]
    return path, ""


def _share_of_control(head: bytes) -> float:
    codes = np.frombuffer(head, np.uint8)
    return float(np.mean((codes < 32) & ~np.isin(codes, list(b"\t\n\r\f\v\x1b"))))


# Text

# Lines are kept as they are beside their numbers, to name a bad row: at most so many at a time.
_TEXT_ROWS = 200_000
_PARSE = (
    {}
    if tuple(int(n) for n in pd.__version__.split(".")[:2]) >= (3, 1)
    else {"float_precision": "round_trip"}
)


class _TextTable(_Table):
    """Columns of text. Names: the header line, else the last comment line, else `#1`, `#2`, ..."""

    format = "text"

    def __init__(self, file: str, shown: str, zipped: bool):
        super().__init__(file, shown)
        self._zipped = zipped
        comment, header, first, self._skip = "", None, None, 0
        try:
            with self._open() as handle:
                for number, line in enumerate(handle):
                    text = line.decode("utf-8-sig" if number == 0 else "utf-8", errors="replace").strip()
                    if text.startswith("#"):
                        words = text.lstrip("#").strip()
                        if header is None and re.search(r"[^\W\d_]", words):
                            comment = words
                    elif text and header is None and not _has_number(text):
                        # What pandas makes of a first name that begins with a comment sign.
                        header, self._skip = re.sub(r'^"#\s*', '"', text), number + 1
                    elif text:
                        first = text.partition("#")[0].strip()
                        break
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{shown}: cannot be read ({error}); check that it is complete") from None
        if (header or first or "").startswith("<"):
            raise InputError(f"{shown}: this looks like XML or HTML (VOTable?); {_KINDS}")
        if first is None:
            what = "has a header but no rows" if header or comment else "has no rows"
            raise InputError(f"{shown}: the file {what}; give a file with events")
        head = header if header is not None else comment
        # A comma may be a decimal comma where the names are separated by something else.
        candidates = [each for each in ",;\t" if each in first] or [" "]
        fitting = [each for each in candidates if self._names_in(head, first, each)]
        self._separator = (fitting or candidates)[0]
        names = self._names_in(head, first, self._separator)
        self._num_columns = len(names or _split_line(first, self._separator))
        if names is None and header is not None:
            raise InputError(
                f"{shown}: the header line, {header[:80]!r}, does not fit the {self._num_columns} columns of "
                f"the first row, {first[:80]!r}; write one name per column, and dates as 2004-01-05T12:33:21"
            )
        self._describe(names or [f"#{i + 1}" for i in range(self._num_columns)])

    @staticmethod
    def _names_in(line: str, row: str, separator: str) -> list[str] | None:
        """One name per column of a row, from a header or comment line, or None where it does not fit."""
        values = _split_line(row, separator)
        joined = re.sub(r"\s+([\[(])", r"\1", re.sub(r"([\[(])\s+|\s+([\])])", r"\1\2", line))
        for text, between in ((line, separator), (line, " "), (joined, " ")):
            names = [name.strip() for name in _split_line(text, between)]
            # A separator behind the last value begins no column.
            while separator != " " and names and not names[-1]:
                names.pop()
            if names and len(values) - (not values[-1]) <= len(names) <= len(values):
                return names
        return None

    def _open(self):
        return gzip.open(self._file) if self._zipped else open(self._file, "rb")

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[_Raw]:
        last, beyond = self._num_columns - 1, self._num_columns
        # The last column and the one beyond it show whether a row has as many values as there are columns.
        wanted = sorted({*indices, beyond, *([last] if self._separator == " " else [])})
        with self._open() as handle:
            for _ in range(self._skip):
                next(handle)
            seen = self._skip
            while True:
                try:
                    lines = list(itertools.islice(handle, min(size, _TEXT_ROWS)))
                except (OSError, EOFError, zlib.error) as error:
                    raise InputError(
                        f"{self._shown}: breaks off after line {seen} ({error}); the file is not complete"
                    ) from None
                if not lines:
                    return
                numbers = range(seen + 1, seen + 1 + len(lines))
                seen += len(lines)
                if numbers[0] == 1:
                    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
                kept = [not line.isspace() and line.lstrip()[:1] != b"#" for line in lines]
                lines = list(itertools.compress(lines, kept))
                if lines:
                    yield self._parse(lines, np.flatnonzero(kept) + numbers[0], indices, wanted, text)

    def _parse(
        self, lines: list[bytes], numbers: np.ndarray, indices: list[int], wanted: list[int], text: set[int]
    ) -> _Raw:
        space = self._separator == " "
        last, beyond = self._num_columns - 1, self._num_columns
        # A first row that is complete fixes the number of columns; it is dropped again.
        pattern = (self._separator.join(["0"] * (beyond + 1)) + "\n").encode()
        try:
            frame = pd.read_csv(
                io.BytesIO(pattern + b"".join(lines)),
                sep=r"\s+" if space else self._separator,
                header=None,
                names=list(range(beyond + 1)),
                usecols=wanted,
                index_col=False,
                comment="#",
                skipinitialspace=True,
                low_memory=False,
                encoding_errors="replace",
                dtype={index: str for index in text},
                **_PARSE,
            ).iloc[1:]
        except pd.errors.ParserError:
            frame = None
        if frame is None or len(frame) != len(lines):
            raise InputError(
                f"{self._shown}: lines {numbers[0]} to {numbers[-1]} cannot be split into rows: "
                "a quotation mark is not closed, or a carriage return stands inside a line; correct it"
            )
        frame = frame.reset_index(drop=True)
        broken = np.array(frame[beyond].notna())
        if space:
            # An empty last value is a short row, unless it is spelled out as nan.
            for i in np.flatnonzero(frame[last].isna().to_numpy()):
                broken[i] |= len(_split_line(lines[i].decode(errors="replace"), " ")) != self._num_columns
        arrays = {index: _plain(frame[index]) for index in indices}
        return _Raw(arrays, len(lines), numbers, broken, lines, self._separator, self._num_columns)


def _plain(column: pd.Series) -> np.ndarray:
    """A parsed column as numbers or as an object array of text."""
    return column.to_numpy() if column.dtype.kind in "iuf" else column.astype(object).to_numpy()


def _split_line(line: str, separator: str) -> list[str]:
    line = line.partition("#")[0].strip("\r\n") if not line.lstrip().startswith("#") else line
    if separator == " ":
        return next(csv.reader([" ".join(line.split())], delimiter=" "), [])
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return line.split(separator)


def _has_number(line: str) -> bool:
    for word in re.split(r"[,;\s]+", line):
        try:
            float(word.strip("'\""))
        except ValueError:
            continue
        return True
    return False


# FITS


class _FitsTable(_Table):
    """The first table of a FITS file, or the extension named."""

    format = "fits"

    def __init__(self, file: str, shown: str, inner: str):
        super().__init__(file, shown)
        with self._open() as hdus:
            tables = [i for i, hdu in enumerate(hdus) if self._is_table(hdu)]
            listing = ", ".join(f"{i} {hdus[i].name}".strip() for i in tables) or "none"
            if inner:
                key = int(inner) if inner.isdigit() else inner
                try:
                    self._extension = hdus.index_of(key)
                    known = self._is_table(hdus[self._extension])
                except (KeyError, IndexError):
                    known = False
                if not known:
                    raise InputError(f"{shown}: there is no table {inner!r}; the tables are {listing}")
            elif not tables:
                raise InputError(
                    f"{shown}: the FITS file has no table (an image or a map?); give an event list"
                )
            else:
                self._extension = tables[0]
            hdu = hdus[self._extension]
            self.num_rows = int(hdu.header["NAXIS2"])
            shapes = [self._shape(column, hdu) for column in hdu.columns]
            self._describe(hdu.columns.names, [unit or None for unit in hdu.columns.units], shapes)
            reference = next((key for key in ("MJDREFI", "MJDREF", "MJDREFF") if key in hdu.header), None)
            if reference:
                self.time_reference = (
                    f"{reference} = {hdu.header[reference]} ({hdu.header.get('TIMESYS', 'scale unknown')})"
                )

    @staticmethod
    def _is_table(hdu) -> bool:
        from astropy.io import fits

        return isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU)

    @staticmethod
    def _shape(column, hdu) -> tuple[int, ...]:
        repeat, code = re.match(r"(\d*)(.)", str(column.format)).groups()
        if not hdu.header["XTENSION"].strip() == "BINTABLE" or code == "A":
            return ()
        return (int(repeat),) if repeat not in ("", "1") else ((0,) if code in "PQ" else ())

    def _open(self):
        from astropy.io import fits

        try:
            hdus = fits.open(self._file, memmap=True)
            len(hdus)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._shown}: the FITS file cannot be read ({error}); it may be incomplete"
            ) from None
        return hdus

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[_Raw]:
        for start in range(0, self.num_rows, size):
            # Opened anew for each chunk: the pages read stay in memory as long as the file is mapped.
            with self._open() as hdus:
                try:
                    rows = hdus[self._extension].data[start : start + size]
                    arrays = {index: _native(np.array(rows.field(index))) for index in indices}
                    num_rows = len(rows)
                    del rows
                except (OSError, ValueError, TypeError) as error:
                    raise InputError(
                        f"{self._shown}: breaks off after row {start} ({error}); the file is not complete"
                    ) from None
            yield _Raw(arrays, num_rows)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order; text as objects."""
    if array.dtype.kind in "SU":
        return array.astype(object)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# HDF5


class _Hdf5Table(_Table):
    """Equally long datasets of one group, a compound dataset, or a table written by pandas or PyTables."""

    format = "hdf5"

    def __init__(self, file: str, shown: str, inner: str):
        super().__init__(file, shown)
        with self._open() as root:
            tables = {path: columns for path, columns in _hdf5_tables(root).items() if columns}
            place = self._choose(tables, inner.strip("/"))
            columns = tables[place]
            self._places = list(columns.values())
            units, shapes, self._lengths = [], [], []
            for place, member in self._places:
                node = root[place]
                unit = node.attrs.get("units", node.attrs.get("unit")) if member is None else None
                unit = unit.decode(errors="replace") if isinstance(unit, bytes) else unit
                units.append(unit if isinstance(unit, str) else None)
                shapes.append(node.dtype[member].shape if isinstance(member, str) else ())
                self._lengths.append(node.shape[0])
            self._describe(list(columns), units, shapes)

    def _open(self):
        import h5py

        try:
            return h5py.File(self._file, "r")
        except OSError as error:
            raise InputError(
                f"{self._shown}: the HDF5 file cannot be read ({error}); it may be incomplete or in use"
            ) from None

    def _choose(self, tables: dict[str, dict], inner: str) -> str:
        listing = ", ".join(f":/{path}" for path in tables) or "none"
        if inner:
            for path in (inner, f"{inner}/table"):
                if path in tables:
                    return path
            raise InputError(f"{self._shown}: there is no table at /{inner}; the tables are {listing}")
        if not tables:
            raise InputError(
                f"{self._shown}: the HDF5 file has neither columns nor a table; give an event list"
            )
        usable = [path for path, columns in tables.items() if _has_direction(list(columns))]
        if len(usable) == 1 or len(tables) == 1:
            return (usable or list(tables))[0]
        if "" in tables and not usable:
            return ""
        raise InputError(
            f"{self._shown}: there are {len(tables)} tables; say which, as {self._shown}:/NAME: {listing}"
        )

    def count(self, indices: list[int]) -> int:
        lengths = {self.names[index]: self._lengths[index] for index in indices}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(
                f"{self._shown}: the columns differ in length ({listing}); give one value per event in each"
            )
        return next(iter(lengths.values()))

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[_Raw]:
        with self._open() as root:
            num_rows = self.count(indices)
            for start in range(0, num_rows, size):
                rows = slice(start, min(start + size, num_rows))
                try:
                    arrays = self._read(root, indices, rows)
                except OSError as error:
                    raise InputError(
                        f"{self._shown}: breaks off after row {start} ({error}); the file is not complete"
                    ) from None
                yield _Raw(arrays, rows.stop - start)

    def _read(self, root, indices: list[int], rows: slice) -> dict[int, np.ndarray]:
        arrays = {}
        fields: dict[str, list[int]] = {}
        for index in indices:
            place, member = self._places[index]
            if isinstance(member, str):
                fields.setdefault(place, []).append(index)
            else:
                arrays[index] = _native(root[place][rows] if member is None else root[place][rows, member])
        for place, group in fields.items():
            table = root[place].fields([self._places[index][1] for index in group])[rows]
            arrays.update({index: _native(table[self._places[index][1]]) for index in group})
        return arrays


def _hdf5_tables(root) -> dict[str, dict[str, tuple[str, str | int | None]]]:
    """Path -> {column name: (dataset, field of a compound | column of a pandas block | None)}."""
    import h5py

    tables: dict[str, dict] = {"": {}}

    def visit(path: str, node) -> None:
        parent, _, name = path.rpartition("/")
        if "_i_" in path or not isinstance(node, h5py.Dataset) or not node.shape:
            return
        if node.dtype.names and node.ndim == 1:
            # What PyTables adds for its own use, and pandas' row labels, are no columns.
            members = [each for each in node.dtype.names if not (name == "table" and each == "index")]
            tables[path] = {each: (path, each) for each in members if _is_plain(node.dtype[each].base)}
        elif node.ndim == 2 and (block := re.fullmatch(r"block(\d+)_values", name)):
            items = root.get(f"{parent}/block{block[1]}_items")
            if items is not None and len(items) == node.shape[1] and node.dtype.kind in "iufS":
                labels = [
                    each.decode(errors="replace") if isinstance(each, bytes) else str(each)
                    for each in items[:]
                ]
                tables.setdefault(parent, {}).update({each: (path, i) for i, each in enumerate(labels)})
        elif (
            node.ndim == 1
            and _is_plain(node.dtype)
            and not re.fullmatch(r"axis\d+|block\d+_(items|values)", name)
        ):
            tables.setdefault(parent, {})[name] = (path, None)

    root.visititems(visit)
    return tables


def _is_plain(dtype: np.dtype) -> bool:
    import h5py

    return dtype.kind in "iufbS" or (dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None)


def _has_direction(names: list[str]) -> bool:
    try:
        found = guess_columns(names)
    except InputError:
        return True
    return {"ra", "dec"} <= found.keys() or {"zenith", "azimuth"} <= found.keys()


# Parquet


class _ParquetTable(_Table):
    """A Parquet file; only the columns in use are read, row group by row group."""

    format = "parquet"

    def __init__(self, file: str, shown: str):
        super().__init__(file, shown)
        try:
            import pyarrow.parquet
        except ImportError:
            raise InputError(
                f"{shown}: reading Parquet needs pyarrow; install it with pip install 'diffcr[parquet]'"
            ) from None
        with self._open() as source:
            schema = source.schema_arrow
            self.num_rows = source.metadata.num_rows
            nested = [pyarrow.types.is_nested(each.type) for each in schema]
            self._describe(schema.names, shapes=[(0,) if each else () for each in nested])

    def _open(self):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{self._shown}: the Parquet file cannot be read ({error}); it may be incomplete"
            ) from None

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[_Raw]:
        import pyarrow

        done = 0
        with self._open() as source:
            try:
                for batch in source.iter_batches(size, columns=[self.names[index] for index in indices]):
                    arrays = {index: _from_arrow(batch.column(self.names[index])) for index in indices}
                    if batch.num_rows:
                        yield _Raw(arrays, batch.num_rows)
                    done += batch.num_rows
            except (OSError, pyarrow.ArrowException) as error:
                raise InputError(
                    f"{self._shown}: breaks off after row {done} ({error}); the file is not complete"
                ) from None


def _from_arrow(column) -> np.ndarray:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.to_numpy(zero_copy_only=False)
