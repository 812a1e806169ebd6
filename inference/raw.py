"""What a file of events holds, whatever its format: named columns, and chunks of them as they stand in the file."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

KINDS = "give text (CSV or columns), a FITS table, HDF5 or Parquet"


@dataclass
class Raw:
    """A chunk as it stands in the file: column index -> values, and for text where and how it is written.

    Attributes:
        arrays: Column index -> values, of any type.
        num_rows: Number of rows.
        lines: Line number of each row, for text.
        broken: Which rows have too few or too many values, for text.
        text: The rows as they are written, for text.
        separator: What separates the values of a text.
        num_columns: Number of columns of a text.
    """

    arrays: dict[int, np.ndarray]
    num_rows: int
    lines: np.ndarray | None = None
    broken: np.ndarray | None = None
    text: list[bytes] = field(default_factory=list)
    separator: str = ","
    num_columns: int = 0

    def split(self, i: int) -> list[str]:
        """The values of row i of a text."""
        return split_line(self.text[i].decode(errors="replace"), self.separator)

    def show(self, index: int, i: int) -> str:
        """A value as the file has it."""
        fields = self.split(i) if self.text else []
        if index < len(fields):
            return fields[index] if has_number(fields[index]) else show(fields[index])
        return show(self.arrays[index][i])

    def broken_reason(self, i: int) -> str:
        """What is wrong with row i, where it is `broken`."""
        return f"there are {len(self.split(i))} values for {self.num_columns} columns"


class Table:
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

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[Raw]:
        """Chunks of at most `size` rows of the columns in `indices`; those in `text` stay text."""
        raise NotImplementedError


# Values --------------------------------------------------------------------------------------------


def as_float(raw: np.ndarray) -> np.ndarray:
    """Numbers as native float64; NaN where there is none."""
    if raw.dtype.kind in "iuf":
        return raw.astype(np.float64, copy=False)
    value = np.full(len(raw), np.nan)
    if raw.dtype.kind in "OSU":
        text = as_text(raw)
        text = text.where(~text.map(lambda each: isinstance(each, bool | np.bool_)), None)
        # float() and not to_numeric's own value: the last digit must not depend on the neighbours.
        good = np.flatnonzero(pd.to_numeric(text, errors="coerce").notna())
        value[good] = [float(text[i]) for i in good]
    return value


def as_text(raw: np.ndarray) -> pd.Series:
    """Values as Python objects, bytes as str."""
    values = [each.decode(errors="replace") if isinstance(each, bytes) else each for each in raw.tolist()]
    return pd.Series(values, dtype=object)


def is_missing(value) -> bool:
    """Whether a value stands for none: empty, or spelled nan, none, null."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip().lower() in ("", "nan", "nat", "none", "<na>", "na", "null")


def show(value) -> str:
    """A value as it stands in the file: text in quotes, cut where it is long."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    return str(value)


# Lines of text -------------------------------------------------------------------------------------


def split_line(line: str, separator: str) -> list[str]:
    """The values of a line, without its comment; a separator of one space stands for any white space."""
    line = line.partition("#")[0].strip("\r\n") if not line.lstrip().startswith("#") else line
    if separator == " ":
        return next(csv.reader([" ".join(line.split())], delimiter=" "), [])
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return line.split(separator)


def has_number(line: str) -> bool:
    """Whether any word of a line is a number: names of columns have none."""
    for word in re.split(r"[,;\s]+", line):
        try:
            float(word.strip("'\""))
        except ValueError:
            continue
        return True
    return False
