"""Where an instrument stands: position, range of zenith angles, and the known sites by name."""

import difflib
import re

import equinox as eqx

from .errors import InputError
from .units import DEGREE


class Site(eqx.Module):
    """Position of an instrument and its range of zenith angles. Fixed while a program is traced.

    Attributes:
        name: What messages and files call it.
        latitude: Geographic latitude [rad], North positive.
        longitude: Geographic longitude [rad], East positive; of no effect on anything but the sidereal time.
        zenith_max: Largest accepted zenith angle [rad].
        zenith_min: Smallest accepted zenith angle [rad].

    Raises:
        InputError: If the latitude is outside [-90, 90] degrees, the longitude outside [-360, 360], the
            zenith cut outside (0, 90], or the range of zenith angles is empty.
    """

    name: str = eqx.field(static=True)
    latitude: float = eqx.field(static=True, converter=float)
    longitude: float = eqx.field(static=True, converter=float)
    zenith_max: float = eqx.field(static=True, converter=float)
    zenith_min: float = eqx.field(static=True, converter=float, default=0.0)

    def __check_init__(self):
        limits = {
            "latitude": (-90, 90),
            "longitude": (-360, 360),
            "zenith_max": (0, 90),
            "zenith_min": (0, 90),
        }
        for field, (low, high) in limits.items():
            degrees = getattr(self, field) / DEGREE
            # A hair of slack: 90 degrees converted to radians and back may end above 90.
            inside = low - 1e-9 <= degrees <= high + 1e-9
            if not inside or (field == "zenith_max" and degrees <= 0):
                bracket = "(" if field == "zenith_max" else "["
                raise InputError(
                    f"{field} of site {self.name!r} must lie in {bracket}{low}, {high}] degrees, not "
                    f"{degrees:.6g}: a Site takes radians, a string 'LAT,LON,ZENITH' takes degrees"
                )
        if self.zenith_min >= self.zenith_max:
            raise InputError(
                f"site {self.name!r} accepts no direction: zenith_min {self.zenith_min / DEGREE:.6g} is not "
                f"below zenith_max {self.zenith_max / DEGREE:.6g} degrees"
            )


def _degrees(name: str, latitude: float, longitude: float, zenith_max: float) -> Site:
    return Site(name, latitude * DEGREE, longitude * DEGREE, zenith_max * DEGREE)


# Positions are the published ones, to about 0.1 degrees (which in longitude is 24 s of sidereal time). The
# zenith cuts are modelling choices, typical of the anisotropy analyses; site(name, zenith_max) sets another.
_TABLE = (
    # Latitude, longitude and cut of the public multi-observatory likelihood code of the field
    # (cra-tools, behind Abeysekara et al. 2019, ApJ 871, 96); at the pole the longitude is a convention.
    _degrees("IceCube", -90.0, 270.0, 65.0),
    # Same place and same convention of longitude; cut of Aartsen et al. 2013, ApJ 765, 55.
    _degrees("IceTop", -90.0, 270.0, 55.0),
    # Sierra Negra, 18 59' 41" N, 97 18' 28" W; cut of Abeysekara et al. 2019, ApJ 871, 96.
    _degrees("HAWC", 19.0, -97.3, 57.0),
    # Haizi mountain, 29 21' 28" N, 100 08' 20" E (Ma et al. 2022, Chin. Phys. C 46, 030001); cut of KM2A.
    _degrees("LHAASO", 29.358, 100.139, 50.0),
    # Centre of the surface array (Pierre Auger Collaboration 2015, NIM A 798, 172); cut of the large-scale
    # analyses (Aab et al. 2017, Science 357, 1266).
    _degrees("Auger", -35.2, -69.25, 80.0),
    # Millard county, Utah (Abu-Zayyad et al. 2012, NIM A 689, 87); cut of the anisotropy analyses.
    _degrees("Telescope Array", 39.3, -112.9, 55.0),
    # Karlsruhe (Apel et al. 2010, NIM A 620, 202); cut of the standard reconstruction.
    _degrees("KASCADE-Grande", 49.1, 8.4, 40.0),
    # Yangbajing (Amenomori et al. 2006, Science 314, 439); cut of Amenomori et al. 2017, ApJ 836, 153.
    _degrees("Tibet AS-gamma", 30.102, 90.522, 60.0),
    # Yangbajing, 30 06' 38" N, 90 31' 50" E; cut of Bartoli et al. 2015, ApJ 809, 90.
    _degrees("ARGO-YBJ", 30.11, 90.53, 50.0),
    # Kamioka mine, 36 25' N, 137 18' E; muons down to the horizon, south to declination -53.58 degrees
    # (Guillian et al. 2007, PRD 75, 062003); the overburden, not this cut, sets its acceptance.
    _degrees("Super-Kamiokande", 36.42, 137.31, 90.0),
    # Ooty (Jhansi et al. 2020, JCAP 07, 024).
    _degrees("GRAPES-3", 11.4, 76.7, 60.0),
    # Jemez mountains, 35 53' N, 106 41' W; cut of Abdo et al. 2009, ApJ 698, 2121.
    _degrees("Milagro", 35.88, -106.68, 50.0),
)
SITES: dict[str, Site] = {entry.name: entry for entry in _TABLE}
"""Known sites by name, each with a default zenith cut that is a modelling choice."""

_ALIASES = {
    "ta": "Telescope Array",
    "kg": "KASCADE-Grande",
    "kascade": "KASCADE-Grande",
    "tibet": "Tibet AS-gamma",
    "tibetasg": "Tibet AS-gamma",
    "argo": "ARGO-YBJ",
    "sk": "Super-Kamiokande",
    "superk": "Super-Kamiokande",
    "grapes": "GRAPES-3",
    "pao": "Auger",
    "pierreauger": "Auger",
}


def site(name_or_spec: str | Site, zenith_max: float | int | None = None) -> Site:
    """Site of a known name, or of a string "LAT,LON,ZENITH" in degrees.

    Args:
        name_or_spec: Name or short name from `SITES`, in any case and with or without spaces and hyphens; or
            latitude (North positive), longitude (East positive) and zenith cut in degrees; or a Site.
        zenith_max: Zenith cut [rad] in place of the site's own.

    Raises:
        InputError: If the name is not known (the message lists those that are), the string does not hold
            three numbers, or a number is out of range.
    """
    if isinstance(name_or_spec, Site):
        found = name_or_spec
    elif "," in name_or_spec:
        found = _parse_site(name_or_spec)
    else:
        names = {_plain(name): name for name in SITES} | _ALIASES
        key = _plain(name_or_spec)
        if key not in names:
            nearest = names[difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]]
            raise InputError(
                f"unknown site {name_or_spec!r}; the nearest known one is {nearest}. "
                f"Known: {', '.join(SITES)}; or give 'LAT,LON,ZENITH' in degrees, such as '19.0,-97.3,57'"
            )
        found = SITES[names[key]]
    if zenith_max is None:
        return found
    return Site(found.name, found.latitude, found.longitude, zenith_max, found.zenith_min)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _parse_site(spec: str) -> Site:
    try:
        latitude, longitude, zenith_max = (float(part) for part in spec.split(","))
    except ValueError:
        raise InputError(
            f"site {spec!r} is not 'LAT,LON,ZENITH': three numbers in degrees, North and East positive, "
            "such as '19.0,-97.3,57'"
        ) from None
    return _degrees(spec.strip(), latitude, longitude, zenith_max)
