"""Files of events as tables: text, FITS, HDF5 or Parquet, told apart by content and read in chunks."""

import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from diffcr.errors import InputError

from .columns import guess_columns


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
        return _split_line(self.text[i].decode(errors="replace"), self.separator)

    def show(self, index: int, i: int) -> str:
        """A value as the file has it."""
        fields = self.split(i) if self.text else []
        if index < len(fields):
            return fields[index] if _has_number(fields[index]) else show(fields[index])
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


_SIGNATURES = (
    (b"SIMPLE  =", "fits"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PAR1", "parquet"),
)
_KINDS = "give text (CSV or columns), a FITS table, HDF5 or Parquet"
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}


def open_table(file: str, shown: str) -> Table:
    """Tell the format by content and open the table; `shown` is the name for messages."""
    file, inner = split_path(file)
    if os.path.isdir(file):
        raise InputError(f"{shown}: this is a directory; give an event file")
    if not os.path.exists(file):
        raise InputError(f"{shown}: there is no such file; check the path, or use a shipped list, dataset:auger-8eev")
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
        raise InputError(f"{shown}: cannot be read ({error}); check its permissions and that it is complete") from None
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


def split_path(path: str) -> tuple[str, str]:
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


# Values --------------------------------------------------------------------------------------------


def as_float(raw: np.ndarray) -> np.ndarray:
    """Numbers as native float64; NaN where there is none."""
    if raw.dtype.kind in "iuf":
        return raw.astype(np.float64)
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


# Text ----------------------------------------------------------------------------------------------

# Lines are kept as they are beside their numbers, to name a bad row: at most so many at a time.
_TEXT_ROWS = 200_000
_PARSE = {} if tuple(int(n) for n in pd.__version__.split(".")[:2]) >= (3, 1) else {"float_precision": "round_trip"}


class _TextTable(Table):
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
                broken[i] |= len(_split_line(lines[i].decode(errors="replace"), " ")) != self._num_columns
        arrays = {index: _plain(frame[index]) for index in indices}
        return Raw(arrays, len(lines), numbers, broken, lines, self._separator, self._num_columns)


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


# FITS ----------------------------------------------------------------------------------------------


class _FitsTable(Table):
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
                raise InputError(f"{shown}: the FITS file has no table (an image or a map?); give an event list")
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
            raise InputError(f"{self._shown}: the FITS file cannot be read ({error}); it may be incomplete") from None
        return hdus

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[Raw]:
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
            yield Raw(arrays, num_rows)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order; text as objects."""
    if array.dtype.kind in "SU":
        return array.astype(object)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# HDF5 ----------------------------------------------------------------------------------------------


class _Hdf5Table(Table):
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
            raise InputError(f"{self._shown}: the HDF5 file has neither columns nor a table; give an event list")
        usable = [path for path, columns in tables.items() if _has_direction(list(columns))]
        if len(usable) == 1 or len(tables) == 1:
            return (usable or list(tables))[0]
        if "" in tables and not usable:
            return ""
        raise InputError(f"{self._shown}: there are {len(tables)} tables; say which, as {self._shown}:/NAME: {listing}")

    def count(self, indices: list[int]) -> int:
        lengths = {self.names[index]: self._lengths[index] for index in indices}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(
                f"{self._shown}: the columns differ in length ({listing}); give one value per event in each"
            )
        return next(iter(lengths.values()))

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[Raw]:
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
                yield Raw(arrays, rows.stop - start)

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
                labels = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in items[:]]
                tables.setdefault(parent, {}).update({each: (path, i) for i, each in enumerate(labels)})
        elif node.ndim == 1 and _is_plain(node.dtype) and not re.fullmatch(r"axis\d+|block\d+_(items|values)", name):
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


# Parquet -------------------------------------------------------------------------------------------


class _ParquetTable(Table):
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

    def chunks(self, indices: list[int], size: int, text: set[int]) -> Iterator[Raw]:
        import pyarrow

        done = 0
        with self._open() as source:
            try:
                for batch in source.iter_batches(size, columns=[self.names[index] for index in indices]):
                    arrays = {index: _from_arrow(batch.column(self.names[index])) for index in indices}
                    if batch.num_rows:
                        yield Raw(arrays, batch.num_rows)
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
