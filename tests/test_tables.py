"""Files of every format and with every fault, read through `EventReader` as users meet them."""

import gzip
import sys

import h5py
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from astropy.io import fits
from diffcr.inference.events import EventReader
from diffcr.inference.tables import open_table, split_path
from event_files import MOMENT, ROWS, csv, random_events, read, write_all_formats, write_fits

from diffcr.errors import InputError

# All formats


def test_hundred_thousand_events_are_identical_in_every_format(tmp_path):
    events = random_events(100_000)
    for name, path in write_all_formats(tmp_path, events).items():
        chunk, reader = read(path, chunk_size=30_000)
        assert reader.format == {"csv": "text", "dat": "text", "compound.h5": "hdf5", "h5": "hdf5"}.get(name, name)
        assert reader.num_rows in (None, 100_000)
        assert reader.num_read == 100_000
        assert reader.time_format == "unix"
        np.testing.assert_array_equal(chunk.ra, np.deg2rad(events["ra"]), err_msg=name)
        np.testing.assert_array_equal(chunk.dec, np.deg2rad(events["dec"]), err_msg=name)
        np.testing.assert_array_equal(chunk.days, events["time"] / 86400 - 10957.5, err_msg=name)
        np.testing.assert_array_equal(chunk.energy, events["energy"], err_msg=name)
        np.testing.assert_array_equal(chunk.weight, events["weight"], err_msg=name)
        assert chunk.zenith is None
        assert chunk.azimuth is None
        assert all(each.dtype == np.dtype("=f8") for each in chunk[:3])


@pytest.mark.parametrize("name", ["csv", "dat", "parquet", "fits", "h5", "compound.h5"])
def test_chunks_join_to_the_whole_and_number_their_rows(tmp_path, name):
    path = write_all_formats(tmp_path, random_events(3456))[name]
    whole, _ = read(path)
    small, _ = read(path, chunk_size=1000)
    first_rows = [chunk.first_row for chunk in EventReader(path, chunk_size=1000)]
    for one, other in zip(whole[:-2], small[:-2], strict=True):
        if one is None:
            assert other is None
        else:
            np.testing.assert_array_equal(one, other)
    assert first_rows[0] == 1
    assert np.all(np.diff(first_rows) <= 1000)
    if name != "parquet":
        assert first_rows == [1, 1001, 2001, 3001]


@pytest.mark.parametrize("name", ["csv", "dat", "parquet", "fits", "h5", "compound.h5"])
def test_a_table_gives_the_columns_asked_for(tmp_path, name):
    events = random_events(2500)
    path = str(write_all_formats(tmp_path, events)[name])
    table = open_table(path, "shown")
    names = [each.lower() for each in table.names]
    assert sorted(names) == sorted(events)
    assert (table.units, table.shapes, table.time_reference) == ([None] * 5, [()] * 5, None)
    dec, time = names.index("dec"), names.index("time")
    assert table.count([dec, time]) == (None if table.format == "text" else 2500)
    chunks = list(table.chunks([dec, time], 1000, set()))
    assert sum(chunk.num_rows for chunk in chunks) == 2500
    assert max(chunk.num_rows for chunk in chunks) <= 1000
    assert all(set(chunk.arrays) == {dec, time} for chunk in chunks)
    for index, role in ((dec, "dec"), (time, "time")):
        found = np.concatenate([chunk.arrays[index] for chunk in chunks])
        np.testing.assert_array_equal(found, events[role])


def test_a_part_is_named_behind_a_file_that_exists(tmp_path):
    file = tmp_path / "a.fits"
    file.touch()
    assert split_path(f"{file}[EVENTS]") == (str(file), "EVENTS")
    assert split_path(f"{file}:/one/two") == (str(file), "/one/two")
    assert split_path(f"{tmp_path}/none[1]") == (f"{tmp_path}/none[1]", "")
    odd = tmp_path / "a[1]"
    odd.touch()
    assert split_path(str(odd)) == (str(odd), "")


# Text


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "   ", " , "])
@pytest.mark.parametrize("comment", [False, True])
def test_separators_and_names_in_header_or_comment(write, separator, comment):
    start = "# by hand, 8×10^18 eV\n#\n" + ("# " if comment else "")
    names = separator.join(["Time", "RA", "Dec", "Weight"])
    rows = separator.join(["1300000000", "350.25", "-20", "1"])
    text = (
        f"{start}{names}\n"
        + ("# ------\n" if comment else "\n")
        + f"{rows}\r\n\n  # in between\n{rows}   # said, by; hand\n{rows}"
    )
    for path in (write(text), write(gzip.compress(text.encode(), mtime=0), "e.csv.gz"), write(text.encode("latin-1"))):
        chunk, reader = read(path)
        np.testing.assert_allclose(np.rad2deg(chunk.ra), [350.25] * 3)
        assert chunk.weight is not None
        assert list(reader.columns.values()) == ["Time", "RA", "Dec", "Weight"]


def test_quoted_names_byte_order_marks_and_trailing_commas(write):
    text = '\ufeff"time","ra","dec",\n"1300000000","1","2",\n'
    for each in (text, text.replace(",\n", "\n", 1)):
        chunk, _ = read(write(each))
        np.testing.assert_allclose(np.rad2deg(chunk.dec), 2)
    chunk, _ = read(write("\ufeff1300000000,1,2\n"), columns="time=#1,ra=#2,dec=#3")
    assert chunk.days[0] == 1300000000 / 86400 - 10957.5


def test_a_comment_behind_the_first_row_does_not_choose_the_separator(write):
    chunk, _ = read(write("# utc ra dec\n1300000000 1 2 # checked, by hand; twice\n1300000000 3 4\n"))
    np.testing.assert_allclose(np.rad2deg(chunk.ra), [1, 3])


def test_names_with_units_between_spaces(write):
    chunk, reader = read(write("# time [UTC]  ra [deg]  dec ( deg. )\n1300000000 1 2\n"))
    assert reader.columns == {"time": "time[UTC]", "ra": "ra[deg]", "dec": "dec(deg.)"}
    np.testing.assert_allclose(np.rad2deg(chunk.dec), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file has no rows"),
        (b"# only a comment\n", "has a header but no rows"),
        (b"time,ra,dec\n", "has a header but no rows"),
        (bytes(range(256)) * 10, "a binary file of unknown kind; give text"),
        (b"BZh91AY&SY\0\0", "compressed with bzip2; decompress it first"),
        (b"<?xml version='1.0'?>\n<VOTABLE>1</VOTABLE>\n", "looks like XML or HTML"),
        (b"time ra dec\n2004-01-05 12:33:21 10 20\n", "does not fit the 4 columns of the first row"),
        (
            b'ra,dec\n1,2\n"3,4\n5,6\n',
            "lines 2 to 4 cannot be split into rows: a quotation mark is not closed",
        ),
        (b"ra,dec\r1,2\r", "lines end in carriage returns alone; convert them"),
        (b"ra,dec\n1,2\n1\r,2\n", "a carriage return stands inside a line"),
        (b"ra;dec\n1,5;2,5\n", "column 'ra': ra = '?1,5'? is not a number"),
        (gzip.compress(b"ra,dec\n" + b"1,2\n" * 10, mtime=0)[:-9], "cannot be read .*complete"),
        (b"\x1f\x8bnonsense", "cannot be read"),
        (gzip.compress(b"SIMPLE  = T", mtime=0), "fits inside gzip cannot be read in pieces; run gunzip"),
        (b"SIMPLE  = T", "the FITS file cannot be read|has no table"),
        (b"\x89HDF\r\n\x1a\n and then nothing", "the HDF5 file cannot be read"),
        (b"PAR1 and then nothing", "the Parquet file cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_files_that_hold_no_events_are_refused_in_one_line(write, content, message):
    with pytest.raises(InputError, match=rf"events\.csv: .*({message})"):
        list(EventReader(write(content)))


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: there is no such file; check the path"):
        EventReader(tmp_path / "none.csv")
    with pytest.raises(InputError, match="this is a directory"):
        EventReader(tmp_path)


def test_a_part_of_a_text_file_is_refused(write):
    path = write(csv(*ROWS))
    with pytest.raises(InputError, match="a text file has no part 'EVENTS'"):
        EventReader(f"{path}[EVENTS]")


def test_short_and_long_rows_of_a_whitespace_table_are_bad(write):
    """A value missing in the middle shifts the others: what is left may look fine."""
    text = "# time ra dec note\n1300000000 1 2 3\n1300000000 1 3\n1300000000 1 2 3 4\n1300000000 1 2 nan\n"
    with pytest.raises(InputError, match=r"row 2 \(line 3\): there are 3 values for 4 columns"):
        list(EventReader(write(text)))
    chunk, reader = read(write(text), skip_bad_rows=True)
    assert (reader.num_read, reader.num_bad, len(chunk.ra)) == (4, 2, 2)
    assert reader.bad_examples[1] == "row 3: there are 5 values for 4 columns"


# FITS


def test_fits_extensions_types_and_text_times(tmp_path):
    columns = [
        fits.Column("UTC", "23A", array=["2011-03-05T12:34:56.5", "2011-03-06"]),
        fits.Column("RA", "E", unit="hourangle", array=[1.5, 2]),
        fits.Column("DEC", "J", unit="deg", array=[-10, 20]),
        fits.Column("pixels", "3D", array=np.zeros((2, 3))),
    ]
    other = [fits.Column("RA", "D", array=[7.0]), fits.Column("DEC", "D", array=[8.0])]
    path = write_fits(tmp_path / "a.fits", columns, other)
    chunk, reader = read(path)
    np.testing.assert_allclose(np.rad2deg(chunk.ra), [22.5, 30])
    np.testing.assert_allclose(np.rad2deg(chunk.dec), [-10, 20])
    np.testing.assert_allclose(chunk.days[0], MOMENT.jd - 2451545)
    assert not reader.whole_days
    assert reader.file == str(path)
    for extension in ("2", "T1"):
        chunk, reader = read(f"{path}[{extension}]")
        np.testing.assert_allclose(np.rad2deg(chunk.ra), [7])
        assert reader.file == str(path)
    with pytest.raises(InputError, match="no table 'T7'; the tables are 1 T0, 2 T1"):
        EventReader(f"{path}[T7]")
    with pytest.raises(InputError, match=r"'pixels' holds an array of shape \(3,\) in each row; .*ROLE="):
        EventReader(path, columns="weight=pixels")


def test_fits_without_table_or_rows_and_cut_short(tmp_path):
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="the FITS file has no table"):
        EventReader(tmp_path / "image.fits")
    empty = [fits.Column(name, "D", array=[]) for name in ("RA", "DEC")]
    with pytest.raises(InputError, match="columns but no rows"):
        EventReader(write_fits(tmp_path / "empty.fits", empty))
    with pytest.raises(InputError, match="'RA' is in 'arcsec', not in degrees"):
        EventReader(
            write_fits(
                tmp_path / "u.fits",
                [fits.Column("RA", "D", unit="arcsec", array=[1.0]), fits.Column("DEC", "D", array=[1.0])],
            )
        )


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_a_fits_file_cut_short_is_refused(tmp_path):
    path = write_all_formats(tmp_path, random_events(2000))["fits"]
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(InputError, match=r"events.fits: .*(incomplete|not complete)"):
        list(EventReader(path))


def test_fits_units_shapes_and_reference_of_time_are_told(tmp_path):
    columns = [
        fits.Column("TIME", "D", unit="s", array=[1.0]),
        fits.Column("RA", "3E", unit="deg", array=np.zeros((1, 3))),
    ]
    table = open_table(str(write_fits(tmp_path / "a.fits", columns, MJDREFI=51910, TIMESYS="TT")), "shown")
    assert table.units == ["s", "deg"]
    assert table.shapes == [(), (3,)]
    assert table.time_reference == "MJDREFI = 51910 (TT)"


# HDF5


def test_hdf5_groups_are_chosen_by_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for i, group in enumerate(("one", "two")):
            file[f"{group}/ra"], file[f"{group}/dec"] = [10.0 + i], [20.0]
        file["one/livetime"] = [1.0, 2, 3]
        file["two/utc"] = ["2011-03-05T12:34:56.5"]
    with pytest.raises(InputError, match=r"there are 2 tables; say which, as .*a.h5:/NAME: :/one, :/two"):
        EventReader(path)
    chunk, reader = read(f"{path}:/two")
    np.testing.assert_allclose(np.rad2deg(chunk.ra), 11)
    np.testing.assert_allclose(chunk.days, MOMENT.jd - 2451545)
    assert reader.file == str(path)
    assert read(f"{path}:/one")[1].num_rows == 1
    with pytest.raises(InputError, match="no table at /three; the tables are :/one, :/two"):
        EventReader(f"{path}:/three")
    with pytest.raises(InputError, match=r"columns differ in length \(ra 1, dec 1, livetime 3\)"):
        EventReader(f"{path}:/one", columns="weight=livetime")


def test_hdf5_as_pandas_writes_it(tmp_path):
    """Fixed format: blocks of values with their names beside them; table format: one compound dataset."""
    fixed, table, nameless = (tmp_path / f"{name}.h5" for name in ("fixed", "table", "nameless"))
    with h5py.File(fixed, "w") as file:
        file["df/axis0"] = np.array([b"ra", b"dec", b"n"])
        file["df/axis1"] = np.arange(2)
        file["df/block0_items"], file["df/block0_values"] = np.array([b"ra", b"dec"]), [[10.0, 20], [11, 21]]
        file["df/block1_items"], file["df/block1_values"] = np.array([b"weight"]), [[1], [2]]
    record = np.array(
        [(0, 1.3e9, 10.0, 20.0), (1, 1.3e9, 11.0, 21.0)],
        [("index", "i8"), ("time", "f8"), ("ra", "f8"), ("dec", "f8")],
    )
    with h5py.File(table, "w") as file:
        file["df/table"] = record
        file["df/_i_table/index/bounds"] = np.zeros(3)
    with h5py.File(nameless, "w") as file:
        file["df/table"] = np.zeros(2, [("index", "i8"), ("values_block_0", "f8", (3,))])
    for path in (fixed, table, f"{table}:/df", f"{fixed}:/df"):
        chunk, reader = read(path)
        np.testing.assert_allclose(np.rad2deg([chunk.ra, chunk.dec]), [[10, 11], [20, 21]])
        assert "index" not in reader.names
    np.testing.assert_array_equal(read(fixed)[0].weight, [1, 2])
    with pytest.raises(InputError, match="pandas left out the column names; write it again with data_columns=True"):
        EventReader(nameless)


def test_hdf5_without_columns_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.zeros((4, 4))
    with pytest.raises(InputError, match="has neither columns nor a table"):
        EventReader(tmp_path / "a.h5")


# Parquet


def test_parquet_timestamps_text_and_missing_values(tmp_path):
    stamp = pd.Timestamp("2011-03-05T12:34:56.5", tz="UTC")
    table = pyarrow.table(
        {
            "time": pyarrow.array([stamp.tz_convert("Europe/Berlin"), None]),
            "ra": pyarrow.array([10, 11], pyarrow.int32()),
            "dec": pyarrow.array(["-5.5", "6"]).dictionary_encode(),
            "list": pyarrow.array([[1.0], [2.0]]),
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(InputError, match="row 2, column 'time': time is missing or NaN"):
        list(EventReader(path))
    chunk, reader = read(path, skip_bad_rows=True)
    np.testing.assert_allclose(chunk.days, MOMENT.jd - 2451545)
    np.testing.assert_allclose(np.rad2deg(chunk.dec), -5.5)
    assert reader.time_format == "iso"
    with pytest.raises(InputError, match="'list' holds an array"):
        EventReader(path, columns="weight=list")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write_all_formats(tmp_path, random_events(3))["parquet"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow; install it with pip install 'diffcr\[parquet\]'"):
        EventReader(path)
