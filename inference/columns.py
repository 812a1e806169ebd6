"""Which column of a file plays which role, and in which unit: usual names, and what --columns says."""

import math
import re
from collections.abc import Sequence

import numpy as np

from diffcr.errors import InputError

ROLES = ("time", "year", "day", "ra", "dec", "zenith", "azimuth", "energy", "weight")

# The usual names, most specific first; what ends in a unit ("ra_deg", "dec [rad]") is cut before.
_TIME_NAMES = {
    "unix": "unix unixtime unix_time time_unix utc_unix unix_utc unix_timestamp epoch_time",
    "": "utc time_utc utc_time utctime datetime date_time timestamp time event_time arrival_time",
    "mjd": "mjd time_mjd mjd_utc mjd_time",
    "jd": "jd time_jd jd_utc julian_date",
    "iso": "iso isot iso_time time_iso date_obs",
    " ": "date date_utc",
}
TIME_FORMAT_OF = {name: key.strip() for key, names in _TIME_NAMES.items() for name in names.split()}
_USUAL = {
    "time": tuple(TIME_FORMAT_OF),
    "year": ("year", "yyyy", "yr"),
    "day": ("doy", "ddd", "day_of_year", "dayofyear", "jday", "yday", "day"),
    "ra": ("ra", "right_ascension", "rightascension", "raj2000", "_raj2000", "ra_j2000", "ra_icrs", "alpha", "sd_ra"),
    "dec": (
        *("dec", "declination", "decl", "decj2000", "dej2000", "_dej2000", "dec_j2000"),
        *("dec_icrs", "de_icrs", "de", "delta", "sd_dec"),
    ),
    "zenith": ("zenith", "zenith_angle", "zenithangle", "zen", "theta", "za", "sd_theta"),
    "azimuth": ("azimuth", "azimuth_angle", "azimuthangle", "azi", "az", "phi", "sd_phi"),
    "energy": (
        *("energy", "e", "energy_rec", "erec", "log_energy", "log10_energy", "logenergy", "log10energy"),
        *("loge", "log10e", "log_e", "log10_e", "lge", "lg_e", "sd_energy"),
    ),
    "weight": ("weight", "weights", "event_weight", "w", "wt"),
}
GPS_NAMES = ("gps", "gps_time", "gpstime", "time_gps", "gps_sec", "gps_seconds", "gpssec")
_AUGER_NAMES = ("gpstime", "sd_ra", "sd_dec")
_MONTH_NAMES = ("month", "mm", "mon")
GPS_FAULT = (
    "is GPS time, which runs ahead of UTC by the leap seconds since 1980; convert it first, "
    "for example with astropy.time.Time(gps, format='gps').unix, or leave the time out with --columns time="
)

UNITS = {
    **dict.fromkeys(("deg", "degree", "degrees", "°"), "deg"),
    **dict.fromkeys(("rad", "radian", "radians"), "rad"),
    **dict.fromkeys(("hour", "hours", "hourangle", "hr", "h"), "hour"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    **{unit: unit for unit in ("ms", "us", "ns", "ev", "gev", "tev", "pev", "eev", "log10")},
}
UNITS_OF = {
    **dict.fromkeys(("ra", "dec", "zenith", "azimuth"), ("deg", "rad", "hour")),
    "time": ("s", "ms", "us", "ns"),
    "energy": ("log10", "ev", "gev", "tev", "pev", "eev"),
}
_TAILS = {name: unit for name, unit in UNITS.items() if name not in ("s", "h", "°")}
_QUALIFIERS = ("j2000", "icrs", "date", "of date", "utc")
DEGREES_PER = {"deg": 1.0, "rad": 180 / math.pi, "hour": 15.0}
SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


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
            raise InputError(f"--columns: {item.strip()!r} is not ROLE=NAME; write for example time=UTC,ra=RA,dec=Dec")
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
        InputError: If the only time is GPS time, which is not UTC; in the summary tables of the Auger Open Data it is
            taken, and `unix_from_gps` turns it into UTC.
    """
    bases = [split_name(name)[0] for name in names]
    found = {}
    for role, usual in _USUAL.items():
        match = next((bases.index(each) for each in usual if each in bases), None)
        if match is not None:
            found[role] = names[match]
    if "time" in found or not {"year", "day"} <= found.keys() or set(bases) & set(_MONTH_NAMES):
        found.pop("year", None)
        found.pop("day", None)
    if "time" not in found and is_auger_summary(names):
        found["time"] = names[bases.index("gpstime")]
    if not {"time", "year"} & found.keys():
        for name, base in zip(names, bases, strict=True):
            if base in GPS_NAMES:
                raise InputError(f"column {name!r} {GPS_FAULT}")
    return found


def is_auger_summary(names: Sequence[str]) -> bool:
    """Whether these are the columns of a summary table of the Auger Open Data, such as dataSummarySD1500.csv.

    Its times are GPS seconds; angles are in degrees, energies in EeV, azimuths from East counterclockwise.
    """
    return set(_AUGER_NAMES) <= {split_name(name)[0] for name in names}


# UTC dates from which on GPS time is one second more ahead.
_LEAPS = (
    *("1981-07-01", "1982-07-01", "1983-07-01", "1985-07-01", "1988-01-01", "1990-01-01"),
    *("1991-01-01", "1992-07-01", "1993-07-01", "1994-07-01", "1996-01-01", "1997-07-01"),
    *("1999-01-01", "2006-01-01", "2009-01-01", "2012-07-01", "2015-07-01", "2017-01-01"),
)


def unix_from_gps(seconds: np.ndarray) -> np.ndarray:
    """Unix time (UTC) of GPS seconds, which began with 1980-01-06 and take no part in leap seconds (18 until 2026)."""
    start = np.datetime64("1980-01-06", "s").astype(np.int64)
    leaps = np.array(_LEAPS, "datetime64[s]").astype(np.int64) - start + np.arange(1, len(_LEAPS) + 1)
    return np.asarray(seconds) + start - np.searchsorted(leaps, seconds, side="right")


def split_name(name: str) -> tuple[str, str | None]:
    """`Right Ascension [deg]` -> ("right_ascension", "deg")."""
    base, unit = name.strip().strip("'\"").lower(), None
    bracket = re.fullmatch(r"(.*?)\s*[\[(/]\s*([^\])]*?)\.?\s*[\])]?", base)
    if bracket and (bracket[2] in UNITS or bracket[2] in _QUALIFIERS):
        base, unit = bracket[1], UNITS.get(bracket[2])
    base = re.sub(r"[\s.\-]+", "_", base).strip("_") if not base.startswith("_") else base
    if unit is None:
        stem, _, tail = base.rpartition("_")
        # Not _h and _s, which may be the hours and seconds of a sexagesimal angle.
        if stem and tail in _TAILS:
            base, unit = stem, _TAILS[tail]
    return base, unit


def split_unit(spec: str) -> tuple[str, str | None]:
    """`RA:rad` -> ("RA", "rad"); a colon that no unit follows belongs to the name."""
    name, colon, unit = spec.rpartition(":")
    if colon and unit.strip().lower() in UNITS:
        return name.strip(), UNITS[unit.strip().lower()]
    return spec, None
