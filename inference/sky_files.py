"""HEALPix FITS files of others: published sky maps, and the table reader they share with the exchange format."""

import dataclasses
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffcr.errors import InputError

ROLES = {
    "relative_intensity": (
        *("relint", "relative_intensity", "relativeintensity", "rel_int", "rel_intensity", "ri", "delta_i", "deltai"),
        *("anisotropy", "intensity"),
    ),
    "error": (
        *("sigma", "error", "err", "uncertainty", "relint_error", "relint_err", "relative_intensity_error", "relerr"),
        *("stat_error", "sigma_relint", "error_relint"),
    ),
    "counts": ("data", "counts", "count", "events", "nevents", "n_events", "on", "n_on", "nobs", "datamap"),
    "background": ("background", "bkg", "bg", "off", "n_off", "bkgmap", "expected", "expectation", "mu"),
}
"""Names of columns, in any case, most specific first."""

_CARD, _BLOCK = 80, 2880
_DTYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_SYSTEMS = {"C": "C", "Q": "C", "EQ": "C", "ICRS": "C", "G": "G", "E": "E"}


@dataclasses.dataclass(frozen=True)
class PublishedSky:
    """A sky map as published, in RING order and equatorial coordinates; NaN where it has no value.

    Attributes:
        relative_intensity: I - 1, shape (n_pix,).
        error: Its statistical error, or None where it is not known.
        counts: Counts per pixel, or None.
        background: Isotropic expectation of the counts, or None.
        nside: HEALPix resolution.
        notes: What was assumed and converted, in sentences for the user.
    """

    relative_intensity: np.ndarray
    error: np.ndarray | None
    counts: np.ndarray | None
    background: np.ndarray | None
    nside: int
    notes: tuple[str, ...]


class BinaryTable(NamedTuple):
    """A binary table of a FITS file.

    Attributes:
        primary: Cards of the first header.
        header: Cards of the table's header.
        columns: Its leading columns, flattened, 64-bit floats in the byte order of the machine.
    """

    primary: Mapping
    header: Mapping
    columns: list[np.ndarray]


def read_sky(path: str | os.PathLike, columns: Mapping[str, str] | None = None) -> PublishedSky:
    """Relative intensity of a published HEALPix FITS file, given as such or by counts and background.

    Columns are found by name in any case, as multi-llh, IceCube and HAWC call them (`ROLES`). A map of
    counts and background gives I - 1 = counts / background - 1 and the error sqrt(counts) / background. Maps around 1
    are taken for I itself. Galactic maps are turned into equatorial ones by interpolation between pixels.

    Args:
        path: The file: second HDU a table in RING or NESTED order, the whole sphere or with a column of pixel numbers.
        columns: Role -> column, by its name or its position (`#1` is the first), for the roles relative_intensity,
            error, counts, background; roles that are not given are left out. Default: by name.

    Raises:
        InputError: If the file is no HEALPix FITS file, the columns have no usual names or more than one for a role, or
            the coordinate system is unknown.
    """
    path = Path(path)
    header, names, values = _read_columns(path)
    chosen = _choose(path, names, columns)
    nside, order, pixels = _pixels(path, header, names, values)
    system, notes = _system(path, header)
    maps = {role: _ring_map(path, values[index], nside, order, pixels) for role, index in chosen.items()}
    if order == "NESTED":
        notes.append("NESTED order was turned into RING")
    if system != "C":
        maps = {role: _to_equatorial(each, nside, system) for role, each in maps.items()}
        frame = {"G": "Galactic", "E": "ecliptic"}[system]
        notes.append(f"the map is {frame} and was turned into equatorial coordinates by interpolation")
    return _assemble(maps, nside, notes)


def _assemble(maps: dict[str, np.ndarray], nside: int, notes: list[str]) -> PublishedSky:
    counts, background = maps.get("counts"), maps.get("background")
    intensity, error = maps.get("relative_intensity"), maps.get("error")
    if counts is not None and background is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            exposed = background > 0
            ratio, noise = (np.where(exposed, x / background, np.nan) for x in (counts, np.sqrt(counts)))
        if intensity is None:
            intensity = ratio - 1
            notes.append("relative intensity is counts / background - 1")
        if error is None:
            error = noise
            notes.append("error is sqrt(counts) / background")
    known = intensity[np.isfinite(intensity)]
    if known.size and abs(np.median(known) - 1) < 0.5:
        intensity = intensity - 1
        notes.append("the map holds I around 1; 1 was subtracted")
    return PublishedSky(intensity, error, counts, background, nside, tuple(notes))


def _read_columns(path: Path) -> tuple[Mapping, list[str], list[np.ndarray]]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
            if table is None:
                raise InputError(f"{path}: has no table; a HEALPix map is a binary table in the second HDU")
            names = list(table.columns.names)
            values = [np.asarray(table.data.field(k)).ravel() for k in range(len(names))]
            return table.header.copy(), names, values
    except OSError as error:
        raise InputError(f"{path}: not a readable FITS file ({error}); give a HEALPix map in FITS") from error


def _choose(path: Path, names: list[str], columns: Mapping[str, str] | None) -> dict[str, int]:
    """Role -> column index."""
    shown = ", ".join(f"#{k} {name}" for k, name in enumerate(names, 1))
    remedy = (
        'say which with columns={"relative_intensity": "#1"} or {"counts": "#1", "background": "#2"}; '
        f"the columns are {shown}"
    )
    if columns is not None:
        unknown = sorted(columns.keys() - ROLES.keys())
        if unknown:
            raise InputError(f"{path}: there is no role {unknown[0]!r}; the roles are {', '.join(ROLES)}")
        chosen = {role: _index(path, names, name, remedy) for role, name in columns.items()}
    else:
        # Names of units, as in "relint [1e-3]", would need a look: only the plain name is known.
        plain = [re.sub(r"[\s\-]+", "_", str(name).strip().lower()) for name in names]
        chosen = {}
        for role, usual in ROLES.items():
            found = [k for name in usual for k, each in enumerate(plain) if each == name]
            # Beside the background, an expectation of the best fit may stand under another name.
            if len(found) > 1 and (role != "background" or plain[found[0]] == plain[found[1]]):
                many = ", ".join(names[k] for k in found)
                raise InputError(f"{path}: several columns may be the {role.replace('_', ' ')} ({many}); {remedy}")
            if found:
                chosen[role] = found[0]
    if "relative_intensity" not in chosen and not {"counts", "background"} <= chosen.keys():
        raise InputError(f"{path}: neither a relative intensity nor counts and background were found; {remedy}")
    return chosen


def _index(path: Path, names: list[str], name: str, remedy: str) -> int:
    if re.fullmatch(r"#\d+", name):
        if not 1 <= int(name[1:]) <= len(names):
            raise InputError(f"{path}: there is no column {name}; {remedy}")
        return int(name[1:]) - 1
    same = [k for k, each in enumerate(names) if each.lower() == name.lower()]
    if len(same) != 1:
        raise InputError(f"{path}: {len(same) or 'no'} columns are named {name!r}; {remedy}")
    return same[0]


def _pixels(path: Path, header: Mapping, names: list[str], values: list[np.ndarray]):
    """nside, "RING" or "NESTED", and the pixel numbers of a partial map or None."""
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise InputError(f"{path}: ORDERING is {order or 'missing'}; it must be RING or NESTED: correct the header")
    partial = str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT"
    where = next((k for k, name in enumerate(names) if name.strip().upper() in ("PIXEL", "PIX", "HPXINDEX")), None)
    nside = header.get("NSIDE")
    if partial and (where is None or not isinstance(nside, int)):
        raise InputError(f"{path}: a partial map needs a column PIXEL and NSIDE; write the map of the whole sphere")
    if not partial:
        size = len(values[0])
        nside = math.isqrt(size // 12)
        if size != 12 * nside**2 or nside < 1:
            raise InputError(f"{path}: {size} values are no full HEALPix map; check the file")
    pixels = np.asarray(values[where], np.int64) if partial else None
    if pixels is not None and (pixels.size and (pixels.min() < 0 or pixels.max() >= 12 * nside**2)):
        raise InputError(f"{path}: pixel numbers are outside those of nside {nside}; check the file")
    return nside, "RING" if order == "RING" else "NESTED", pixels


def _system(path: Path, header: Mapping) -> tuple[str, list[str]]:
    """Coordinate system, "C", "G" or "E", and what was assumed."""
    text = str(header.get("COORDSYS", header.get("COORDS", ""))).strip().upper()
    if not text:
        return "C", ["the file names no coordinate system; equatorial was assumed"]
    found = next((system for start, system in _SYSTEMS.items() if text.startswith(start)), None)
    if found is None:
        raise InputError(f"{path}: coordinate system {text!r} is unknown; it must be C, G or E: correct COORDSYS")
    return found, []


def _ring_map(path: Path, values: np.ndarray, nside: int, order: str, pixels: np.ndarray | None) -> np.ndarray:
    """A full map in RING order, NaN where it has no value."""
    import healpy

    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: a column holds no real numbers ({values.dtype}); choose another with columns=")
    full = np.full(12 * nside**2, np.nan)
    full[slice(None) if pixels is None else pixels] = values
    full[full < -1e30] = np.nan
    return full if order == "RING" else full[healpy.ring2nest(nside, np.arange(full.size))]


def _to_equatorial(values: np.ndarray, nside: int, system: str) -> np.ndarray:
    """A map in another system, at the centres of equatorial pixels; NaN where a neighbour has no value."""
    import healpy

    theta, phi = healpy.pix2ang(nside, np.arange(values.size))
    return healpy.get_interp_val(values, *healpy.Rotator(coord=["C", system])(theta, phi))


# Binary tables ------------------------------------------------------------------------------------------------


def binary_table(content: bytes, source: str, columns: int) -> BinaryTable:
    """The table in the second HDU of a FITS file that is in memory: ten times faster than a general reader.

    Plain numeric columns are taken as they lie; anything else (scaled or variable-length columns, a filled primary HDU)
    is left to astropy.

    Args:
        content: The file, not compressed.
        source: Its name, for messages.
        columns: How many leading columns to read, at most.

    Raises:
        InputError: If it is no FITS file with a table, or shorter than its header says.
    """
    if not content.startswith(b"SIMPLE  ="):
        raise InputError(f"{source}: not a FITS file; check the name and the contents")
    try:
        primary, start = _cards(content, 0)
        header, offset = _cards(content, start)
        if header.get("XTENSION") != "BINTABLE":
            raise InputError(f"{source}: its second HDU is no table; write it as HEALPix FITS")
        layout = _row(header) if primary.get("NAXIS") == 0 else None
        if layout is None:
            return _general_table(content, primary, header, columns)
        table = np.frombuffer(content, layout, header["NAXIS2"], offset)
        return BinaryTable(primary, header, [table[n].reshape(-1).astype(np.float64) for n in layout.names[:columns]])
    except InputError:
        raise
    except (ValueError, KeyError, OSError, TypeError, IndexError) as error:
        raise InputError(f"{source}: a damaged FITS table ({error}); copy it again") from error


def _general_table(content: bytes, primary: Mapping, header: Mapping, columns: int) -> BinaryTable:
    from astropy.io import fits

    with fits.open(io.BytesIO(content)) as hdus:
        data, number = hdus[1].data, min(columns, len(hdus[1].columns))
        return BinaryTable(primary, header, [np.array(data.field(k), np.float64).ravel() for k in range(number)])


def _row(header: Mapping) -> np.dtype | None:
    """Layout of a row of plain columns, or None."""
    fields = []
    for k in range(1, header["TFIELDS"] + 1):
        form = re.fullmatch(r"(\d*)([BIJKED])", header[f"TFORM{k}"].strip())
        if form is None or header.get(f"TSCAL{k}", 1) != 1 or header.get(f"TZERO{k}", 0) != 0 or f"TNULL{k}" in header:
            return None
        fields.append((f"f{k}", _DTYPES[form[2]], (int(form[1] or 1),)))
    layout = np.dtype(fields)
    return layout if layout.itemsize == header["NAXIS1"] else None


def _cards(content: bytes, start: int) -> tuple[dict, int]:
    """Keyword -> value of the header that begins at `start`, and where its data begin."""
    cards = {}
    for place in range(start, len(content), _CARD):
        card = content[place : place + _CARD]
        if card.startswith(b"END     "):
            return cards, -(-(place + _CARD) // _BLOCK) * _BLOCK
        if card[8:10] == b"= ":
            cards[card[:8].decode("ascii").strip()] = _value(card[10:].decode("ascii"))
    raise ValueError("a header has no end")


def _value(text: str):
    text = text.strip()
    quoted = re.match(r"'((?:[^']|'')*)'", text)
    if quoted:
        return quoted[1].replace("''", "'").strip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    for kind in (int, float):
        try:
            return kind(text.replace("D", "E"))
        except ValueError:
            continue
    return text
