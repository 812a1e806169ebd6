"""Event lists: roles, units, times and directions of every row, and chunks that hide no bad one."""

import re

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from diffcr.inference.events import EventReader
from event_files import MOMENT, ROWS, csv, random_events, read, write_all_formats, write_fits

from diffcr.errors import InputError

# Values


def test_a_reader_can_be_iterated_twice(write):
    reader = EventReader(write(csv(*ROWS, "1073169046,1,99,9,1")), skip_bad_rows=True)
    for _ in range(2):
        assert sum(len(chunk.ra) for chunk in reader) == 3
        assert (reader.num_read, reader.num_bad, len(reader.bad_examples)) == (4, 1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unix", f"{MOMENT.unix:.3f}"),
        ("UTC", f"{MOMENT.unix:.3f}"),
        ("mjd", f"{MOMENT.mjd:.12f}"),
        ("time", f"{MOMENT.mjd:.12f}"),
        ("Time [UTC]", f"{MOMENT.jd:.10f}"),
        ("JD", f"{MOMENT.jd:.10f}"),
        ("date", MOMENT.isot),
        ("utc", MOMENT.iso),
        ("time", "2011-03-05T12:34:56.5Z"),
        ("time", "2011-03-05T14:34:56.5+02:00"),
    ],
)
def test_every_time_format_gives_the_julian_date_of_astropy(write, name, value):
    chunk, reader = read(write(f"{name},ra,dec\n{value},10,20\n{value},11,21\n"))
    np.testing.assert_allclose(chunk.days, (MOMENT.jd1 - 2451545.0) + MOMENT.jd2, rtol=0, atol=2e-9)
    assert any(reader.time_format in note for note in reader.notes)
    assert not reader.whole_days


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_unix_times_in_smaller_units_are_refused_until_the_unit_is_given(write, unit, factor):
    path = write(f"time,ra,dec\n{MOMENT.unix * factor:.0f},10,20\n")
    with pytest.raises(InputError, match=rf"like unix times in {unit} \(--columns time=NAME:{unit}\)"):
        EventReader(path)
    chunk, _ = read(path, columns=f"time=time:{unit}")
    np.testing.assert_allclose(chunk.days, MOMENT.jd - 2451545.0, atol=1e-8)
    with pytest.raises(InputError, match="cannot be mjd in"):
        EventReader(path, columns=f"time=time:{unit}", time_format="mjd")


@pytest.mark.parametrize(
    ("year", "day", "iso"),
    [
        (2004, 1, "2004-01-01"),
        (2004, 60, "2004-02-29"),
        (2004, 366, "2004-12-31"),
        (2005, 60, "2005-03-01"),
        (1900, 60, "1900-03-01"),
        (2000, 366, "2000-12-31"),
        (1969, 365, "1969-12-31"),
    ],
)
def test_year_and_day_of_year_begin_at_midnight(write, year, day, iso):
    chunk, reader = read(write(f"# year DOY ra dec\n{year} {day} 10 20\n"))
    np.testing.assert_allclose(chunk.days, Time(iso, scale="tt").jd - 2451545.0, rtol=0, atol=1e-9)
    assert reader.whole_days
    assert reader.time_format == "year+day"


def test_a_fraction_of_a_day_is_kept_and_is_not_whole_days(write):
    chunk, reader = read(write("year,day,ra,dec\n2004,1,10,20\n2004,2.25,10,20\n"))
    np.testing.assert_allclose(np.diff(chunk.days), 1.25)
    assert not reader.whole_days


def test_dates_without_time_of_day_are_whole_days(write):
    rows = "".join(f"2004-01-{day:02d},10,20\n" for day in range(1, 20))
    assert read(write("date,ra,dec\n" + rows))[1].whole_days
    assert not read(write("date,ra,dec\n" + rows + "2004-02-01T10:00:00,10,20\n"))[1].whole_days
    mjd = "".join(f"{53000 + day},10,20\n" for day in range(1, 20))
    assert read(write("mjd,ra,dec\n" + mjd))[1].whole_days
    assert read(write("mjd,ra,dec\n" + mjd), chunk_size=6)[1].whole_days
    assert not read(write("mjd,ra,dec\n" + mjd + "53020.5,10,20\n"))[1].whole_days
    jd = "".join(f"{2453000.5 + day},10,20\n" for day in range(1, 20))
    assert read(write("jd,ra,dec\n" + jd))[1].whole_days
    unix = "".join(f"{1072915200 + 86400 * day},10,20\n" for day in range(1, 20))
    assert not read(write("unix,ra,dec\n" + unix))[1].whole_days


def test_year_and_day_stand_back_behind_a_full_time(write):
    chunk, reader = read(write("year,day,ra,dec,utc\n2004,1,10,20,1300000000\n"))
    assert reader.columns == {"time": "utc", "ra": "ra", "dec": "dec"}
    np.testing.assert_allclose(chunk.days, 1300000000 / 86400 - 10957.5)
    _, reader = read(write("year,day,ra,dec,utc\n2004,1,10,20,1300000000\n"), columns="year=year,day=day")
    assert reader.time_format == "year+day"


def test_day_of_month_is_not_day_of_year(write):
    chunk, reader = read(write("year,month,day,ra,dec\n2004,5,1,10,20\n"))
    assert chunk.days is None
    assert reader.notes == ["time: the file has none"]


def test_azimuth_from_east_counterclockwise_becomes_north_through_east(write):
    """East 0 -> 90, North 90 -> 0, West 180 -> 270, South -90 -> 180 degrees."""
    path = write(
        "time,zenith,azimuth\n" + "".join(f"1300000000,{z},{a}\n" for z, a in [(0, 0), (10, 90), (90, 180), (180, -90)])
    )
    chunk, _ = read(path, azimuth="east-counterclockwise")
    np.testing.assert_allclose(np.rad2deg(chunk.azimuth), [90, 0, 270, 180], atol=1e-12)
    np.testing.assert_allclose(np.rad2deg(chunk.zenith), [0, 10, 90, 180], atol=1e-12)
    chunk, _ = read(path)
    np.testing.assert_allclose(np.rad2deg(chunk.azimuth), [0, 90, 180, -90], atol=1e-12)


def test_one_direction_is_used_where_a_file_has_two(write):
    path = write("time,ra,dec,zenith,azimuth\n1300000000,10,20,30,40\n")
    chunk, reader = read(path)
    assert (chunk.zenith, chunk.azimuth) == (None, None)
    np.testing.assert_allclose(np.rad2deg([chunk.ra[0], chunk.dec[0]]), [10, 20])
    assert "zenith: column 'zenith' is not read, ra and dec are used" in reader.notes
    for options in ({"prefer": "horizon"}, {"columns": "zenith=zenith,azimuth=azimuth"}):
        chunk, _ = read(path, **options)
        assert (chunk.ra, chunk.dec) == (None, None)
        np.testing.assert_allclose(np.rad2deg([chunk.zenith[0], chunk.azimuth[0]]), [30, 40])
    chunk, _ = read(path, columns="dec=")
    assert chunk.ra is None
    chunk, _ = read(path, columns="azimuth=")
    np.testing.assert_allclose(np.rad2deg(chunk.zenith), 30)


@pytest.mark.parametrize(("suffix", "factor"), [(":rad", np.pi / 180), (":hour", 1 / 15), (":deg", 1), ("", 1)])
def test_angles_come_in_degrees_radians_or_hours(write, suffix, factor):
    path = write(f"t,x,y\n1300000000,{300 * factor!r},{-60 * factor!r}\n")
    chunk, _ = read(path, columns=f"time=t,ra=x{suffix},dec=y{suffix}", time_format="unix")
    np.testing.assert_allclose([chunk.ra[0], chunk.dec[0]], np.deg2rad([300, -60]), rtol=1e-14)
    names = {
        ":rad": ("ra_rad", "dec [rad]"),
        ":hour": ("RA_hour", "Dec (h)"),
        ":deg": ("ra [deg]", "dec(deg.)"),
    }
    ra, dec = names.get(suffix, ("RA", "Declination"))
    chunk, _ = read(write(f"utc,{ra},{dec}\n1300000000,{300 * factor!r},{-60 * factor!r}\n"))
    np.testing.assert_allclose([chunk.ra[0], chunk.dec[0]], np.deg2rad([300, -60]), rtol=1e-14)


def test_poles_in_32_bit_radians_are_poles(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ra"] = np.array([1, 2], ">f4")
        file["dec"] = np.array([np.pi / 2, -np.pi / 2], ">f4")
        file["ra"].attrs["unit"] = "rad"
        file["dec"].attrs["units"] = "radians"
    chunk, _ = read(tmp_path / "a.h5")
    np.testing.assert_array_equal(chunk.dec, [np.pi / 2, -np.pi / 2])
    np.testing.assert_array_equal(chunk.ra, [1, 2])


@pytest.mark.parametrize(("ra", "dec", "unit"), [(2 * np.pi, np.pi / 2, "radians"), (24, 90, "hours")])
def test_angles_that_cannot_be_degrees_are_refused(write, ra, dec, unit):
    rng = np.random.default_rng(3)
    rows = "".join(
        f"{x!r},{y!r}\n"
        for x, y in zip((ra * rng.random(500)).tolist(), (dec * rng.uniform(-1, 1, 500)).tolist(), strict=True)
    )
    path = write("ra,dec\n" + rows)
    with pytest.raises(
        InputError, match=rf"'ra' spans .* seems to be in {unit}; say --columns ra=ra:{unit[:3]}.*ra=ra:deg"
    ):
        EventReader(path)
    chunk, _ = read(path, columns="ra=ra:deg")
    assert chunk.ra.max() < 0.5


def test_logarithmic_energies_become_energies(write):
    path = write("ra,dec,logE\n1,2,18.5\n")
    chunk, reader = read(path)
    np.testing.assert_allclose(chunk.energy, 10**18.5)
    assert any("10 to the power" in note for note in reader.notes)
    assert "10 to" not in str(read(path, columns="energy=logE:eev")[1].notes)
    np.testing.assert_allclose(read(write("ra,dec,x\n1,2,2\n"), columns="energy=x:log10")[0].energy, 100)


def test_fits_seconds_since_a_reference_are_not_unix_times(tmp_path):
    columns = [fits.Column(name, "D", array=[3e8]) for name in ("TIME",)]
    columns += [fits.Column(name, "D", array=[1.0]) for name in ("RA", "DEC")]
    path = write_fits(tmp_path / "a.fits", columns, MJDREFI=51910, TIMESYS="TT")
    with pytest.raises(InputError, match=r"'TIME' counts seconds from MJDREFI = 51910 \(TT\), not UTC"):
        EventReader(path)


def test_coarse_times_are_noted(tmp_path):
    columns = [
        fits.Column("unix", "E", array=[1.3e9]),
        *(fits.Column(name, "D", array=[1.0]) for name in ("RA", "DEC")),
    ]
    _, reader = read(write_fits(tmp_path / "a.fits", columns))
    assert any("32-bit floats, which resolve steps of 1.3e+02" in note for note in reader.notes)


# Columns


def test_gps_time_is_refused_by_name(write):
    path = write("gps,ra,dec\n1000000000,1,2\n")
    with pytest.raises(InputError, match=r"events.csv: column 'gps' is GPS time"):
        EventReader(path)
    with pytest.raises(InputError, match="column 'gps' is GPS time"):
        EventReader(path, columns="time=gps")
    with pytest.raises(InputError, match="--time-format gps is GPS time"):
        EventReader(path, time_format="gps")
    assert read(path, columns="time=")[0].days is None


@pytest.mark.parametrize("columns", ["time=#1,ra=#2,dec=#3", {"time": "#1", "ra": "#2", "dec": "#3"}])
def test_a_table_without_names_is_read_by_position(write, columns):
    path = write("1300000000 10 20\n1300000001 11 21\n")
    with pytest.raises(InputError, match=r"no header: give positions #1 to #3, as --columns ra=#1,dec=#2"):
        EventReader(path)
    chunk, reader = read(path, columns=columns)
    np.testing.assert_allclose(np.rad2deg(chunk.ra), [10, 11])
    assert reader.names == ["#1", "#2", "#3"]
    with pytest.raises(InputError, match=r"there is no column #4 \(for dec\); the positions are #1 to #3"):
        EventReader(path, columns="time=#1,ra=#2,dec=#4")


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "time,x,y",
            None,
            r"neither \(ra, dec\) nor \(zenith, azimuth\) was found.*the columns are time, x, y",
        ),
        ("time,ra,y", None, r"only ra was found; say which with --columns ra=NAME,dec=NAME"),
        ("time,zenith,dec", None, "only dec and zenith was found"),
        (
            "time,ra,dec",
            "ra=RAA",
            r"no column 'RAA' \(for ra\); say which with --columns ra=NAME.*time, ra, dec",
        ),
        ("time,ra,dec", "ra=ra,dec=ra", "gives one column two roles"),
        (
            "ra,ra,dec",
            None,
            r"2 columns are named 'ra'; say which one is ra by its position, --columns ra=#1",
        ),
        ("RA,Ra,dec", "ra=ra", r"2 columns are named 'ra' \(for ra\); give the position"),
        ("year,ra,dec", "year=year", "given as year and day, but the day is missing"),
        ("time,ra,dec", "ra=ra:s", "ra cannot be in s; use one of deg, rad, hour"),
        ("time,ra,dec", "weight=time:deg", "weight cannot be in deg; give the column without a unit"),
        (
            "time,ra [ms],dec",
            None,
            "'ra \\[ms\\]' is in 'ms', not in degrees, radians or hours; .*ra=ra \\[ms\\]:deg",
        ),
    ],
)
def test_columns_that_are_missing_or_unclear_are_refused(write, header, columns, message):
    with pytest.raises(InputError, match="events.csv: .*" + message):
        EventReader(write(header + "\n1300000000,10,20\n"), columns=columns)


@pytest.mark.parametrize(
    ("header", "value", "time_format", "message"),
    [
        (
            "time",
            "12345",
            None,
            r"time column 'time' is not clear: .* around 12345; .*--time-format unix\|mjd\|jd\|iso",
        ),
        ("time", "nan", None, "its first values are missing"),
        ("mjd", "1300000000", None, "named like mjd, but its values are around 1300000000; .*--time-format"),
        ("jd", "55000", None, "named like jd, but"),
        ("unix", "2011-03-05", None, "named like unix, but its values are text"),
        (
            "time",
            "2011-03-05",
            "mjd",
            "--time-format mjd does not fit column 'time': .*; try --time-format iso",
        ),
        (
            "x",
            "1300000000",
            "mjd",
            "--time-format mjd has no time column to apply to; say which with --columns time=NAME",
        ),
        ("time", "1300000000", "tai", "--time-format must be one of unix, mjd, jd, iso, not 'tai'"),
    ],
)
def test_unclear_times_are_refused(write, header, value, time_format, message):
    with pytest.raises(InputError, match=message):
        EventReader(write(f"{header},ra,dec\n{value},10,20\n"), time_format=time_format)


def test_other_options_are_checked(write):
    path = write(csv(*ROWS))
    with pytest.raises(InputError, match="--azimuth must be one of north-east, east-counterclockwise, not 'west'"):
        EventReader(path, azimuth="west")
    with pytest.raises(InputError, match="prefer must be one of equatorial, horizon"):
        EventReader(path, prefer="galactic")
    with pytest.raises(InputError, match="at least 1 row, not 0"):
        EventReader(path, chunk_size=0)


# Bad rows


BAD_ROWS = [
    ("1073169046,1,abc,9,1", "column 'dec': dec = 'abc' is not a number"),
    ("1073169046,1,,9,1", "column 'dec': dec is missing or NaN"),
    ("1073169046,nan,2,9,1", "column 'ra': ra is missing or NaN"),
    ("1073169046,1", "column 'dec': dec is missing or NaN"),
    ("1073169046,inf,2,9,1", "column 'ra': ra = inf is not finite"),
    ("1073169046,1,90.1,9,1", r"column 'dec': dec = 90.1 is outside \[-90, 90\]"),
    ("1073169046,1,-123,9,1", r"dec = -123 is outside \[-90, 90\]"),
    ("1073169046,720.5,2,9,1", r"ra = 720.5 is outside \[-360, 720\]"),
    ("1073169046,1,2,9,-0.5", "column 'weight': weight = -0.5 is negative; .*--columns weight="),
    ("1073169046,1,2,9,nan", "column 'weight': weight is missing or NaN"),
    ("1073169046,1,2,0,1", "column 'energy': energy = 0 is not positive"),
    ("-9e9,1,2,9,1", "column 'time': time = -9e9 as unix is not in the years 1900 to 2299"),
    (",1,2,9,1", "column 'time': time is missing or NaN"),
    ("noon,1,2,9,1", "column 'time': time = 'noon' is not a number"),
    ("1073169046,1,2,9,1,7", "there are 6 values for 5 columns"),
    ("True,1,2,9,1", "column 'time': time = 'True' is not a number"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_with_file_line_column_and_remedy(write, row, message):
    text = csv(ROWS[0], "# a comment", ROWS[1], row, ROWS[2])
    message = message if ";" in message else message + "; correct it, or leave out .* --skip-bad-rows"
    with pytest.raises(InputError, match=rf"events.csv: row 3 \(line 5\).*{message}") as error:
        list(EventReader(write(text)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_a_bad_row_is_skipped_and_counted_when_asked(write, row, message, chunk_size):
    chunk, reader = read(write(csv(*ROWS, row, ROWS[1])), skip_bad_rows=True, chunk_size=chunk_size)
    np.testing.assert_allclose(np.rad2deg(chunk.ra), [208.9, 36.6, 334.7, 36.6])
    assert (reader.num_read, reader.num_bad, chunk.bad_rows) == (5, 1, 1)
    assert re.match(
        "row 4: " + re.sub("; .*", "", message.removeprefix("column ").split("': ")[-1]),
        reader.bad_examples[0],
    )


def test_a_bad_row_of_a_later_chunk_keeps_its_row_number(write):
    rows = [ROWS[0]] * 2500
    rows[1700] = "1072969615,208.9,-91,10.5,1"
    path = write(csv(*rows))
    reader = EventReader(path, chunk_size=1000)
    with pytest.raises(InputError, match=r"row 1701 \(line 1702\), column 'dec': dec = -91"):
        list(reader)
    chunks = list(EventReader(path, chunk_size=1000, skip_bad_rows=True))
    assert [(c.first_row, c.bad_rows, len(c.ra)) for c in chunks] == [
        (1, 0, 1000),
        (1001, 1, 999),
        (2001, 0, 500),
    ]


@pytest.mark.parametrize("name", ["parquet", "fits", "h5", "compound.h5"])
def test_bad_rows_of_binary_tables_are_named(tmp_path, name):
    events = random_events(2500)
    events["dec"][1700] = 123.0
    events["weight"][1800] = np.nan
    path = write_all_formats(tmp_path, events)[name]
    column = "DEC" if name == "fits" else "dec"
    with pytest.raises(InputError, match=rf"row 1701, column '{column}': dec = 123.0 is outside \[-90, 90\]"):
        list(EventReader(path, chunk_size=700))
    chunk, reader = read(path, chunk_size=700, skip_bad_rows=True)
    assert (len(chunk.ra), reader.num_bad) == (2498, 2)
    assert reader.bad_examples[1] == "row 1801: weight is missing or NaN"


def test_zenith_out_of_range_and_azimuth_not_finite(write):
    for row, message in [
        ("190,1", r"zenith = 190 is outside \[0, 180\]"),
        ("-1,1", r"zenith = -1 is outside \[0, 180\]"),
        ("1,inf", "azimuth = inf is not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            list(EventReader(write(f"zenith,azimuth\n{row}\n")))
    with pytest.raises(InputError, match=r"zenith = 4 is outside \[0, 3.14159\] rad"):
        list(EventReader(write("zenith,azimuth\n4,1\n"), columns="zenith=zenith:rad"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2016-12-31T23:59:60", "lies in a leap second, which has no unix time: write :59"),
        ("12:33:21", "has no date: write both into one column"),
        ("2004", "time = 2004 is not an ISO date from 1900 to 2299, as 2004-01-05T12:33:21"),
        ("2004-13-05T00:00:00", "is not an ISO date"),
        ("1850-01-05T00:00:00", "is not an ISO date from 1900"),
        ("", "time is missing or NaN"),
    ],
)
def test_bad_dates_are_named(write, value, message):
    good = "2004-01-05T12:33:21,10,20\n" * 3
    with pytest.raises(InputError, match=rf"row 4 \(line 5\), column 'time': .*{message}"):
        list(EventReader(write(f"time,ra,dec\n{good}{value},10,20\n")))


def test_compact_dates_are_read_when_declared(write, tmp_path):
    chunk, reader = read(write("date,ra,dec\n20110305,10,20\n"), time_format="iso")
    np.testing.assert_allclose(chunk.days, Time("2011-03-05").jd - 2451545.0)
    assert reader.whole_days
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["date"], file["ra"], file["dec"] = [20110305], [10.0], [20.0]
    np.testing.assert_allclose(read(tmp_path / "a.h5", time_format="iso")[0].days, chunk.days)


@pytest.mark.parametrize("row", ["2004 366 1 2", "2005 366.5 1 2", "2004 0 1 2", "2004.5 3 1 2", "1066 3 1 2"])
def test_bad_years_and_days_are_named(write, row):
    text = f"# year day ra dec\n2004 1 1 2\n{row}\n"
    if row == "2004 366 1 2":
        assert read(write(text))[1].num_read == 2
    else:
        with pytest.raises(InputError, match=r"columns? 'year' and 'day': year = .* is not a day \(from 1\) of a year"):
            list(EventReader(write(text)))


def test_a_file_of_bad_rows_only_is_refused_even_when_skipping(write):
    with pytest.raises(
        InputError, match=r"no event left: all 2 rows were skipped as bad, the first as row 1: dec = 99 "
    ):
        list(EventReader(write("ra,dec\n1,99\n2,99\n"), skip_bad_rows=True))


def test_only_a_few_bad_rows_are_kept_as_examples(write):
    _, reader = read(write("ra,dec\n" + "1,99\n" * 50 + "1,2\n"), skip_bad_rows=True, chunk_size=7)
    assert reader.num_bad == 50
    assert len(reader.bad_examples) == 5
