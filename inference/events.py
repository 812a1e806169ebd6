"""Event lists read in chunks, every row checked: times, directions, energies and weights in our units."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffcr.clock import TIME_FORMATS, days_from_numbers
from diffcr.errors import InputError

from .columns import (
    DEGREES_PER,
    GPS_FAULT,
    GPS_NAMES,
    ROLES,
    SECONDS_PER,
    TIME_FORMAT_OF,
    UNITS,
    UNITS_OF,
    guess_columns,
    parse_columns,
    split_name,
    split_unit,
)
from .datasets import resolve_input
from .raw import Raw, as_float, as_text, is_missing, show
from .tables import open_table, split_path

AZIMUTHS = ("north-east", "east-counterclockwise")

_PEEK_ROWS = 1000
_NUM_EXAMPLES = 5
_YEARS = (1900, 2299)


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
        self.file = split_path(place)[0]
        options = self.dataset.options if self.dataset else {}
        self.path = os.fspath(path)
        self.azimuth = azimuth or options.get("azimuth", "north-east")
        self.chunk_size = chunk_size
        self.skip_bad_rows = skip_bad_rows
        self.notes: list[str] = []
        if time_format == "gps":
            raise InputError(f"{self.path}: --time-format gps {GPS_FAULT}")
        _require_choice("--time-format", time_format, (None, *TIME_FORMATS))
        _require_choice("--azimuth", self.azimuth, AZIMUTHS)
        _require_choice("prefer", prefer, ("equatorial", "horizon"))
        if chunk_size < 1:
            raise InputError(f"the chunk size must be at least 1 row, not {chunk_size}")

        self._table = open_table(place, self.path)
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

    def _peek(self, text: set[int]) -> Raw:
        first = next(self._table.chunks(list(self._index.values()), _PEEK_ROWS, text), None)
        if first is None:
            self._refuse(
                f"{self.num_rows} rows are announced, but there are none", "the file is damaged: copy it again"
            )
        return first

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
            name, unit = split_unit(spec)
            if name:
                index[role] = self._index_of(name, role)
                self._require_one_value(index[role])
                if unit:
                    declared[role] = unit
        own_time = {"time", "year", "day"} & given.keys()
        candidates = [name for name in self.names if not (own_time and split_name(name)[0] in GPS_NAMES)]
        try:
            guessed = guess_columns(candidates)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        taken = set(index.values())
        for role, name in guessed.items():
            if role in given or (role in ("time", "year", "day") and own_time):
                continue
            same = [i for i, each in enumerate(self.names) if split_name(each) == split_name(name)]
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
                self.notes.append(f"{role}: column {unread!r} is not read, {' and '.join(pairs[used])} are used")

    def _columns_hint(self, *roles: str) -> str:
        positions = ",".join(f"{role}=#{number}" for number, role in enumerate(roles, 1))
        if self.names[0] == "#1":
            return f"the file has no header: give positions #1 to #{len(self.names)}, as --columns {positions}"
        names = ",".join(f"{role}=NAME" for role in roles)
        shown = ", ".join(self.names[:30]) + (", ..." if len(self.names) > 30 else "")
        return f"say which with --columns {names}, or by position, {positions}; the columns are {shown}"

    def _index_of(self, name: str, role: str) -> int:
        position = re.fullmatch(r"#(\d+)", name)
        if position and name not in self.names:
            number = int(position[1])
            if not 1 <= number <= len(self.names):
                self._refuse(f"there is no column {name} (for {role})", f"the positions are #1 to #{len(self.names)}")
            return number - 1
        for key in (str, str.lower, lambda each: split_name(each)[0]):
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
            allowed = UNITS_OF.get(role, ())
            unit = declared.get(role) or split_name(name)[1] or UNITS.get(stated, stated)
            if role in declared and unit not in allowed:
                remedy = f"use one of {', '.join(allowed)}" if allowed else "give the column without a unit"
                self._refuse(f"--columns {role}={name}:{unit}: {role} cannot be in {unit}", remedy)
            if role == "energy" and role not in declared and re.match(r"log|lg", split_name(name)[0]):
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

    def _check_angle_units(self, peek: Raw, declared: Mapping[str, str]) -> None:
        """Refuse angles whose unit nothing tells, and whose first rows are clearly not in degrees."""
        longitude, latitude = ("ra", "dec") if {"ra", "dec"} <= self._index.keys() else ("azimuth", "zenith")
        index, name = self._index[longitude], self.columns[longitude]
        around, across = (as_float(peek.arrays[self._index[role]]) for role in (longitude, latitude))
        around, across = around[np.isfinite(around)], across[np.isfinite(across)]
        stated = longitude in declared or split_name(name)[1] or self._table.units[index]
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

    def _find_time_format(self, peek: Raw, given: str | None) -> str | None:
        if "time" not in self._index:
            if given:
                self._refuse(f"--time-format {given} has no time column to apply to", self._columns_hint("time"))
            if "year" not in self._index:
                self.notes.append("time: the file has none")
                return None
            year, day = self.columns["year"], self.columns["day"]
            self.notes.append(f"time: columns {year!r} and {day!r}, year and day of year")
            return "year+day"
        name, raw = self.columns["time"], peek.arrays[self._index["time"]]
        base, unit = split_name(name)[0], self.units.get("time", "s")
        if not given and base in GPS_NAMES:
            raise InputError(f"{self.path}: column {name!r} {GPS_FAULT}")
        if not given and base == "time" and self._table.time_reference:
            fault = f"column {name!r} counts seconds from {self._table.time_reference}, not UTC"
            self._refuse(fault, "convert it to UTC, and say --time-format unix, mjd, jd or iso")
        if raw.dtype == np.float32:
            step = np.spacing(np.nanmax(np.abs(raw)))
            self.notes.append(f"time: column {name!r} holds 32-bit floats, which resolve steps of {step:.2g} only")
        seen, why = _guess_time_format(raw, unit)
        named = TIME_FORMAT_OF.get(base) or ("unix" if unit != "s" else None)
        remedy = f"say which it is with --time-format {'|'.join(TIME_FORMATS)}"
        if given and seen and given != "iso" and seen == "iso":
            self._refuse(f"--time-format {given} does not fit column {name!r}: {why}", "try --time-format iso")
        if not given and named and seen and named != seen:
            self._refuse(f"column {name!r} is named like {named}, but {why}", remedy)
        if not given and not named and not seen:
            self._refuse(f"the format of time column {name!r} is not clear: {why}", remedy)
        if not given:
            source = "by its name" if named else f"because {why}"
            self.notes.append(f"time: column {name!r}, format {named or seen} {source}")
        found = given or named or seen
        if unit != "s" and found != "unix":
            self._refuse(f"time column {name!r} cannot be {found} in {unit}", "give the column without a unit")
        return found

    # Values

    def _convert(self, raw: Raw, first_row: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
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

    def _fault(self, role: str, raw: Raw, i: int, first_row: int) -> str:
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

    def _reason(self, role: str, raw: Raw, i: int) -> str:
        """Why row i of a chunk cannot be used, first fault of `role`."""
        if not role:
            return raw.broken_reason(i)
        first, last = _YEARS
        if role == "year":
            year, day = (raw.show(self._index[each], i) for each in ("year", "day"))
            return f"year = {year}, day = {day} is not a day (from 1) of a year from {first} to {last}"
        value = raw.arrays[self._index[role]][i]
        shown = f"{role} = {raw.show(self._index[role], i)}"
        if is_missing(value):
            return f"{role} is missing or NaN"
        if role == "time" and self.time_format == "iso":
            text = show(value).strip("'")
            if re.search(r":60(\D|$)", text):
                return f"{shown} lies in a leap second, which has no unix time: write :59"
            if re.fullmatch(r"\d\d?:\d\d(:\d\d(\.\d*)?)?", text):
                return f"{shown} has no date: write both into one column, as 2004-01-05T12:33:21"
            return f"{shown} is not an ISO date from {first} to {last}, as 2004-01-05T12:33:21"
        number = float(as_float(np.array([value], dtype=object))[0])
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
        low, high = (limit / DEGREES_PER[unit] for limit in _RANGES[role])
        return f"{shown} is outside [{low:.6g}, {high:.6g}]" + (f" {unit}" if unit != "deg" else "")

    def _value_of(self, role: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = as_float(raw)
        bad = ~np.isfinite(value)
        with np.errstate(invalid="ignore", over="ignore"):
            if role == "weight":
                return value, bad | (value < 0)
            if role == "energy":
                if self.units.get(role) == "log10":
                    value = 10**value
                return value, bad | ~np.isfinite(value) | (value <= 0)
            degrees = value * DEGREES_PER[self.units[role]]
            low, high = _RANGES[role]
            # 32-bit radians reach past pi / 2 by 4e-8.
            slack = 0.0 if self.units[role] == "deg" else 1e-4
            bad |= (degrees < low - slack) | (degrees > high + slack)
            degrees = np.clip(degrees, low, high)
            if role == "azimuth" and self.azimuth == "east-counterclockwise":
                degrees = np.mod(90 - degrees, 360)
            return np.deg2rad(degrees), bad

    def _days_of_time(self, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
        time = raw.arrays[self._index["time"]]
        if self.time_format == "iso":
            days = _days_of_iso(time)
        else:
            number = as_float(time)
            if self.time_format == "unix":
                number = number * SECONDS_PER[self.units.get("time", "s")]
            days = days_from_numbers(number, self.time_format)
        with np.errstate(invalid="ignore"):
            return days, ~((days >= _DAY_LIMITS[0]) & (days < _DAY_LIMITS[1]))

    def _days_of_year(self, raw: Raw) -> tuple[np.ndarray, np.ndarray]:
        year, day = (as_float(raw.arrays[self._index[role]]) for role in ("year", "day"))
        with np.errstate(invalid="ignore"):
            bad = ~((year >= _YEARS[0]) & (year <= _YEARS[1]) & (year == np.floor(year)))
            whole = np.where(bad, 2000, year).astype(np.int64)
            leap = (whole % 4 == 0) & ((whole % 100 != 0) | (whole % 400 == 0))
            bad |= ~((day >= 1) & (day < 366 + leap))
        new_year = (whole - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.float64)
        return new_year - 10957.5 + (day - 1), bad

    def _only_days(self, raw: Raw) -> bool:
        """Whether the times of a chunk tell no more than the day."""
        time = raw.arrays[self._index["time" if "time" in self._index else "day"]]
        if time.dtype.kind == "M":
            return np.datetime_data(time.dtype)[0] == "D"
        if self.time_format == "iso":
            return all(len(show(each).strip("' ")) <= len("2004-01-05") for each in time)
        # Julian dates begin at noon: a list of days may end in .5 everywhere.
        number = as_float(time)
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


def _guess_time_format(raw: np.ndarray, unit: str) -> tuple[str | None, str]:
    """(format, why) from the first values of a time column; (None, why not) where they do not tell."""
    if raw.dtype.kind == "M":
        return "iso", "its values are dates"
    number = as_float(raw)
    # Numbers are missing where they are NaN; of a thousand short files this line would else be the slowest.
    numbers = raw.dtype.kind in "iuf"
    present = ~np.isnan(number) if numbers else np.array([not is_missing(each) for each in raw.tolist()], dtype=bool)
    number = number[np.isfinite(number)]
    if 2 * len(number) < present.sum():
        return "iso", f"its values are text, as {show(raw[np.flatnonzero(present)[0]])}"
    if not len(number):
        return None, "its first values are missing"
    middle = float(np.median(number))
    why = f"its values are around {middle:.10g}"
    for name, low, high in (("mjd", 3e4, 9e4), ("jd", 2.4e6, 2.5e6), ("unix", 1e8, 1e10)):
        if low <= middle * (SECONDS_PER[unit] if name == "unix" else 1) < high:
            return name, why
    for small, low in (("ms", 1e11), ("us", 1e14), ("ns", 1e17)):
        if low <= middle < 100 * low:
            why += f", like unix times in {small} (--columns time=NAME:{small})"
    return None, why


def _days_of_iso(raw: np.ndarray) -> np.ndarray:
    """Days since J2000.0 of dates or ISO text, NaN where there is none."""
    if raw.dtype.kind != "M":
        text = as_text(raw)
        text = text.where(text.map(lambda each: isinstance(each, str | int)), "").astype(str).str.strip()
        # Shorter forms, such as a bare year, would be read as their first of January.
        text = text.where(text.str.match(r"\d{4}-?\d\d?-?\d\d?(?!\d)|\d{8}T"), "")
        parsed = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        raw = parsed.dt.tz_localize(None).to_numpy()
    microseconds = raw.astype("datetime64[us]")
    since = (microseconds - np.datetime64("2000-01-01T12:00:00", "us")).astype(np.int64) / 86400e6
    return np.where(np.isnat(microseconds), np.nan, since)
