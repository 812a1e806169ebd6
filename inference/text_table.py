"""Files of events as text: CSV or columns, with names in a header or a comment line."""

import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from diffcr.errors import InputError

from .raw import KINDS, Raw, Table, has_number, split_line

# Lines are kept as they are beside their numbers, to name a bad row: at most so many at a time.
_TEXT_ROWS = 200_000
_PARSE = {} if tuple(int(n) for n in pd.__version__.split(".")[:2]) >= (3, 1) else {"float_precision": "round_trip"}


class TextTable(Table):
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
                    elif text and header is None and not has_number(text):
                        # What pandas makes of a first name that begins with a comment sign.
                        header, self._skip = re.sub(r'^"#\s*', '"', text), number + 1
                    elif text:
                        first = text.partition("#")[0].strip()
                        break
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{shown}: cannot be read ({error}); check that it is complete") from None
        if (header or first or "").startswith("<"):
            raise InputError(f"{shown}: this looks like XML or HTML (VOTable?); {KINDS}")
        if first is None:
            what = "has a header but no rows" if header or comment else "has no rows"
            raise InputError(f"{shown}: the file {what}; give a file with events")
        head = header if header is not None else comment
        # A comma may be a decimal comma where the names are separated by something else.
        candidates = [each for each in ",;\t" if each in first] or [" "]
        fitting = [each for each in candidates if self._names_in(head, first, each)]
        self._separator = (fitting or candidates)[0]
        names = self._names_in(head, first, self._separator)
        self._num_columns = len(names or split_line(first, self._separator))
        if names is None and header is not None:
            raise InputError(
                f"{shown}: the header line, {header[:80]!r}, does not fit the {self._num_columns} columns of "
                f"the first row, {first[:80]!r}; write one name per column, and dates as 2004-01-05T12:33:21"
            )
        self._describe(names or [f"#{i + 1}" for i in range(self._num_columns)])

    @staticmethod
    def _names_in(line: str, row: str, separator: str) -> list[str] | None:
        """One name per column of a row, from a header or comment line, or None where it does not fit."""
        values = split_line(row, separator)
        joined = re.sub(r"\s+([\[(])", r"\1", re.sub(r"([\[(])\s+|\s+([\])])", r"\1\2", line))
        for text, between in ((line, separator), (line, " "), (joined, " ")):
            names = [name.strip() for name in split_line(text, between)]
            # A separator behind the last value begins no column.
            while separator != " " and names and not names[-1]:
                names.pop()
            if names and len(values) - (not values[-1]) <= len(names) <= len(values):
                return names
        return None

    def _open(self):
        return gzip.open(self._file) if self._zipped else open(self._file, "rb")

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[Raw]:
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
    ) -> Raw:
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
                broken[i] |= len(split_line(lines[i].decode(errors="replace"), " ")) != self._num_columns
        arrays = {index: _plain(frame[index]) for index in indices}
        return Raw(arrays, len(lines), numbers, broken, lines, self._separator, self._num_columns)


def _plain(column: pd.Series) -> np.ndarray:
    """A parsed column as numbers or as an object array of text."""
    return column.to_numpy() if column.dtype.kind in "iuf" else column.astype(object).to_numpy()
