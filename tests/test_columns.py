"""Names of columns: what --columns says, and which usual names are found."""

import pytest
from diffcr.inference.columns import guess_columns, parse_columns, split_name, split_unit

from diffcr.errors import InputError


def test_parse_columns_reads_roles_units_and_positions():
    assert parse_columns("time=UTC, ra=RA:rad ,DEC=#3,weight=") == {
        "time": "UTC",
        "ra": "RA:rad",
        "dec": "#3",
        "weight": "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time", "'time' is not ROLE=NAME; write for example"),
        ("ra=RA,,dec=D", "'' is not ROLE=NAME"),
        ("rra=RA", "no role 'rra'; the roles are time, year, day, ra"),
        ("ra=a,ra=b", "ra is given twice"),
    ],
)
def test_bad_column_lists_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_columns(text)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("TIME RAJ2000 DEJ2000 E W", "time ra dec energy weight"),
        ("MJD Right_Ascension Declination Energy Weights", "time ra dec energy weight"),
        ("unixtime theta phi", "time zenith azimuth"),
        ("timestamp Zenith_deg AZ", "time zenith azimuth"),
        ("YYYY DDD RA decl", "year day ra dec"),
        ("jd ra_deg dec_deg", "time ra dec"),
    ],
)
def test_usual_names_are_found_in_any_case(names, found):
    assert guess_columns(names.split()) == dict(zip(found.split(), names.split(), strict=True))


def test_names_that_only_look_usual_are_left_alone():
    assert guess_columns(["radius", "decay", "timer", "ra_m", "e_err", "weather"]) == {}
    assert guess_columns(["ra_h", "ra_m", "ra_s", "dec_s"]) == {}


def test_gps_time_is_refused_unless_there_is_another():
    with pytest.raises(InputError, match=r"'GPS_time' is GPS time, which runs ahead of UTC.*astropy"):
        guess_columns(["GPS_time", "ra", "dec"])
    assert guess_columns(["gps", "utc", "ra", "dec"])["time"] == "utc"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Right Ascension [deg]", ("right_ascension", "deg")),
        ("dec(deg.)", ("dec", "deg")),
        ("zenith_rad", ("zenith", "rad")),
        ("Time [UTC]", ("time", None)),
        ("RA (J2000)", ("ra", None)),
        ("ra [furlong]", ("ra_[furlong]", None)),
        ("ra_h", ("ra_h", None)),
        ("_RAJ2000", ("_raj2000", None)),
        ("log10_energy", ("log10_energy", None)),
    ],
)
def test_units_are_cut_from_names(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("RA:rad", ("RA", "rad")),
        ("RA : Radians", ("RA", "rad")),
        ("a:b", ("a:b", None)),
        ("a:b:ms", ("a:b", "ms")),
        ("RA", ("RA", None)),
    ],
)
def test_a_unit_follows_the_last_colon(spec, expected):
    assert split_unit(spec) == expected
