"""Names of columns: what --columns says, and which usual names are found."""

import numpy as np
import pytest
from astropy.time import Time
from diffcr.inference.columns import (
    guess_columns,
    is_auger_summary,
    parse_columns,
    split_name,
    split_unit,
    unix_from_gps,
)

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


def test_summary_tables_of_the_auger_open_data_are_known():
    """Their GPS times are taken, beside their own names for the rest; any other table's are not."""
    names = "id sdid gpstime sd1500 multiEye sd_gpsnanotime sd_theta sd_dtheta sd_phi sd_energy sd_l sd_b sd_ra sd_dec"
    assert is_auger_summary(names.split())
    assert guess_columns(names.split()) == {
        "time": "gpstime",
        "ra": "sd_ra",
        "dec": "sd_dec",
        "zenith": "sd_theta",
        "azimuth": "sd_phi",
        "energy": "sd_energy",
    }
    assert not is_auger_summary(["gpstime", "ra", "dec"])
    with pytest.raises(InputError, match="'gpstime' is GPS time"):
        guess_columns(["gpstime", "sd_ra", "dec"])


def test_gps_seconds_become_utc():
    """As astropy converts them, on both sides of every leap second."""
    leaps = [Time(f"{year}-{month}-01").gps for year in range(1981, 2018) for month in ("01", "07")]
    seconds = np.round(np.concatenate([np.add(leaps, k) for k in (-2, 0, 1000)]))
    np.testing.assert_allclose(unix_from_gps(seconds), Time(seconds, format="gps").unix, atol=1e-3)
    # End of the Auger list: 18 seconds.
    assert unix_from_gps(np.array([1.2e9])) == 1.2e9 + 315964800 - 18


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
