"""Files of events as tables: text, FITS, HDF5 or Parquet, told apart by content and read in chunks."""

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterator

import numpy as np

from diffcr.errors import InputError

from .columns import guess_columns
from .raw import KINDS, Raw, Table
from .text_table import TextTable

_SIGNATURES = (
    (b"SIMPLE  =", "fits"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PAR1", "parquet"),
)
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
        raise InputError(f"{shown}: this is a binary file of unknown kind; {KINDS}")
    if kind == "text" and b"\r" in head and b"\n" not in head:
        raise InputError(f"{shown}: its lines end in carriage returns alone; convert them to newlines")
    if inner and kind not in ("fits", "hdf5"):
        raise InputError(f"{shown}: a {kind} file has no part {inner!r}; give {file} alone")
    if kind == "text":
        return TextTable(file, shown, zipped)
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


@contextlib.contextmanager
def _undamaged(shown: str, kind: str, own: type[Exception]) -> Iterator[None]:
    """What a library raises where the structure of a file is damaged, its own exception among it, in one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, own) as error:
        fault = " ".join(str(error).split())
        raise InputError(f"{shown}: the {kind} file is damaged ({fault}); copy or write it again") from None


def _share_of_control(head: bytes) -> float:
    codes = np.frombuffer(head, np.uint8)
    return float(np.mean((codes < 32) & ~np.isin(codes, list(b"\t\n\r\f\v\x1b"))))


# FITS ----------------------------------------------------------------------------------------------


class _FitsTable(Table):
    """The first table of a FITS file, or the extension named."""

    format = "fits"

    def __init__(self, file: str, shown: str, inner: str):
        super().__init__(file, shown)
        from astropy.io.fits.verify import VerifyError

        with self._open() as hdus, _undamaged(shown, "FITS", VerifyError):
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
            self._describe(
                [name or "" for name in hdu.columns.names], [unit or None for unit in hdu.columns.units], shapes
            )
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
                except (OSError, ValueError, TypeError, KeyError) as error:
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
        with self._open() as root, _undamaged(shown, "HDF5", RuntimeError):
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
                except (OSError, RuntimeError, KeyError) as error:
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
        with self._open() as source, _undamaged(shown, "Parquet", pyarrow.ArrowException):
            schema = source.schema_arrow
            self.num_rows = source.metadata.num_rows
            nested = [pyarrow.types.is_nested(each.type) for each in schema]
            self._describe(schema.names, shapes=[(0,) if each else () for each in nested])

    def _open(self):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20)
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
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
            except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
                raise InputError(
                    f"{self._shown}: breaks off after row {done} ({error}); the file is not complete"
                ) from None


def _from_arrow(column) -> np.ndarray:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.to_numpy(zero_copy_only=False)
