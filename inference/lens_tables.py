"""Tables and maps of skies behind a magnetic field: an xarray Dataset, and HEALPix files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import diffcr

from .backtrack_tables import _about
from .exchange import write_map
from .lens import Seen, Setup
from .lens_places import FRAMES

CONVENTIONS = (
    "sky directions are where particles come from; deflections are angles between directions at Earth and outside; "
    "maps hold I - 1, HEALPix in RING order; C_l as healpy has them, of I with its mean removed and 0 in pixels that "
    "have no value; magnification is solid angle at Earth over that outside"
)


def write_sky(path: Path, setup: Setup, seen: Seen) -> None:
    """Write the sky of one rigidity as HEALPix FITS; pixels without a value are UNSEEN."""
    import healpy

    place = setup.place
    header = [
        ("FRAME", FRAMES[place.coord], "axes of the map"),
        ("FIELD", place.name, "magnetic field"),
        ("RIGIDITY", float(seen.rigidity), f"[{place.rigidity_unit}]"),
        ("STEP", float(seen.step / place.length), f"[{place.unit}] longest step of paths"),
        ("TRAPPED", seen.exits.num_trapped, "paths that did not reach the edge"),
        ("CREATOR", f"diffcr {diffcr.__version__}", "software"),
    ]
    columns = [np.where(np.isfinite(each), each, healpy.UNSEEN) for each in (seen.sky, seen.outside)]
    names = ["RELATIVE_INTENSITY", "WITHOUT_FIELD", "SHARE_ESCAPED"]
    write_map(path, [*columns, seen.escaped], names, place.coord, header)


def dataset(setup: Setup, skies: Sequence[Seen]) -> xr.Dataset:
    """Paths, skies and spectra of all rigidities."""
    place = setup.place
    stack = lambda values: np.stack([values(seen) for seen in skies])
    array = lambda name: stack(lambda seen: np.asarray(getattr(seen.exits, name)))
    paths = ("rigidity", "path")
    left = lambda seen, values: np.where(np.asarray(seen.exits.escaped), np.asarray(values), np.nan)
    out = xr.Dataset(
        {
            "direction_outside": (
                (*paths, "xyz"),
                stack(lambda s: left(s, s.exits.direction).T),
                _about("unit vector outside towards where the particles come from", "1"),
            ),
            "position_outside": (
                (*paths, "xyz"),
                stack(lambda s: left(s, s.exits.position).T / place.length),
                _about("place on the edge of the region, from the Sun", place.unit),
            ),
            "deflection": (paths, stack(lambda s: s.deflection), _about("angle between Earth and outside", "deg")),
            "path_length": (
                paths,
                array("path") / place.length,
                _about("to the edge", place.unit),
            ),
            "momentum": (paths, stack(lambda s: left(s, s.exits.momentum)), _about("outside over that at Earth", "1")),
            "escaped": (
                paths,
                array("escaped"),
                _about("whether the path reached the edge", "1"),
            ),
            "sky": (("rigidity", "pixel"), stack(lambda s: s.sky), _about("I - 1 at Earth", "1")),
            "power": (("rigidity", "degree"), stack(lambda s: s.power), _about("C_l at Earth", "1")),
            "power_outside": (
                ("rigidity", "degree"),
                stack(lambda s: s.power_outside),
                _about("C_l without a field", "1"),
            ),
            "magnification": (
                ("rigidity", "pixel_outside"),
                stack(lambda s: s.magnification),
                _about("solid angle at Earth over that outside", "1"),
            ),
        },
        coords={
            "rigidity": ("rigidity", [s.rigidity for s in skies], _about("rigidity at Earth", place.rigidity_unit)),
            "xyz": list("xyz"),
            "degree": np.arange(setup.l_max + 1),
        },
        attrs={
            "software": f"diffcr {diffcr.__version__}",
            "conventions": CONVENTIONS,
            "frame": FRAMES[place.coord],
            "nside": setup.nside,
            "nside_paths": setup.fine,
            "nside_outside": setup.nside_outside,
            **{key: int(v) if isinstance(v, bool) else v for key, v in place.settings.items()},
        },
    )
    return out
