"""Many event files of one detector and a known dipole, millions of events a second: what `diffcr bin` is timed with."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from diffcr.errors import InputError
from diffcr.site import Site
from diffcr.site import site as find_site

from .cells import _cos_sin, _fraction, _linear_turns, _series
from .files import atomic

FORMATS = ("parquet", "hdf5", "fits", "csv")
"""What `write_synthetic_files` writes."""

_SUFFIXES = {"parquet": "parquet", "hdf5": "h5", "fits": "fits", "csv": "csv"}
_CHUNK = 1 << 14
"""Events drawn at once: few enough that all of their numbers stay in the cache."""

_SPECTRAL_INDEX = 2.7


def write_synthetic_files(
    folder: str | os.PathLike,
    number: int,
    events_each: int,
    seed: int = 0,
    format: str = "parquet",
    site: str | Site = "hawc",
    dipole: Sequence[float] = (0.0, 0.0, 0.0),
    start: float = 5844.5,
    days_each: float = 1.0,
) -> list[Path]:
    """Write event files, each of its own days, with columns time_unix [s, UTC], ra, dec [degrees, J2000] and energy.

    The detector runs without pause; it accepts as the cosine of the zenith angle, up to the cut of its site. Energies
    are above 1 and fall as E^-2.7. File k depends on the seed and its own number alone, not on how many there are.

    Args:
        folder: Where to; made if missing. The files are named events_00000 and so on.
        number: How many files.
        events_each: Events in each.
        seed: Of the random numbers.
        format: One of `FORMATS`.
        site: Name of an observatory, "LAT,LON,ZENITH" in degrees, or a `Site`.
        dipole: Of the relative intensity, (delta_0h, delta_6h, delta_N) in the mean equator and equinox of J2000; the
            excess is towards it.
        start: Beginning of the first file, days since J2000.0.
        days_each: Length of each file [days].

    Returns:
        The files in their order in time.

    Raises:
        InputError: If a number or the format is not one of those that are possible, or a file cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r} of event files: choose one of {', '.join(FORMATS)}")
    if number < 1 or events_each < 1:
        raise InputError(f"the numbers of files and of events in each must be at least 1, not {number}, {events_each}")
    dipole = np.asarray(dipole, float)
    if dipole.shape != (3,) or not np.linalg.norm(dipole) <= 1:
        raise InputError(f"the dipole must be three numbers with a length of at most 1, not {dipole.tolist()}")
    place, paths = find_site(site), []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(number):
        rng = np.random.default_rng(np.random.SeedSequence([seed, k]))
        columns = _events(rng, events_each, place, dipole, start + k * days_each, days_each)
        paths.append(folder / f"events_{k:05d}.{_SUFFIXES[format]}")
        with atomic(paths[-1]) as part:
            _WRITERS[format](part, columns)
    return paths


def _events(
    rng: np.random.Generator, size: int, site: Site, dipole: Float[np.ndarray, "3"], start: float, length: float
) -> dict[str, Float[np.ndarray, " event"]]:
    """Columns of one file, in order of time up to the chunks they are drawn in."""
    columns = {name: np.empty(size) for name in ("time_unix", "ra", "dec")}
    chunks = -(-size // _CHUNK)
    for k in range(chunks):
        # Cut evenly, so that the rate does not depend on where a chunk ends.
        part = slice(size * k // chunks, size * (k + 1) // chunks)
        drawn = _draw(rng, part.stop - part.start, site, dipole, start + length * k / chunks, length / chunks)
        for name, values in zip(columns, drawn, strict=True):
            columns[name][part] = values
    return columns | {"energy": np.exp(rng.standard_exponential(size) / (_SPECTRAL_INDEX - 1))}


def _draw(rng: np.random.Generator, size: int, site: Site, dipole: np.ndarray, start: float, length: float):
    """Times [unix], right ascensions and declinations [degrees] of exactly `size` events of an interval."""
    largest, taken = 1 + float(np.linalg.norm(dipole)), []
    while (missing := size - sum(len(each[0]) for each in taken)) > 0:
        # Rarely too few: then the rest is drawn from the same interval again.
        trials = math.ceil(missing * largest + 4 * math.sqrt(missing * (largest - 1)))
        gaps = np.cumsum(rng.standard_exponential(trials + 1))
        days = start + length * gaps[:-1] / gaps[-1]
        x, y, z = _directions(rng, days, site)
        good = np.ones(trials, bool)
        if largest > 1:
            good = rng.random(trials) * largest < 1 + dipole[0] * x + dipole[1] * y + dipole[2] * z
        surplus = int(good.sum()) - missing
        if surplus > 0:
            # Dropped at random: those at the end would leave a gap in time.
            good[rng.choice(np.flatnonzero(good), surplus, replace=False, shuffle=False)] = False
        taken.append((days[good], x[good], y[good], z[good]))
    days, x, y, z = taken[0] if len(taken) == 1 else (np.concatenate(each) for each in zip(*taken, strict=True))
    ra = np.degrees(np.arctan2(y, x))
    ra += 360 * (ra < 0)
    return (days + 10957.5) * 86400, ra, np.degrees(np.arcsin(np.clip(z, -1, 1)))


def _directions(rng: np.random.Generator, days: np.ndarray, site: Site):
    """Unit vectors (x, y, z) in J2000 of accepted directions of an isotropic sky at these times."""
    low, high = math.sin(site.zenith_min) ** 2, math.sin(site.zenith_max) ** 2
    # Accepted as the cosine on a flat ground, zenith angles are even in sin^2.
    square = low + (high - low) * rng.random(len(days))
    up, flat = np.sqrt(1 - square), np.sqrt(square)
    north, east = _cos_sin(2 * math.pi * rng.random(len(days)))
    north *= flat
    east *= flat
    sine, cosine = math.sin(site.latitude), math.cos(site.latitude)
    ahead, z = up * cosine - north * sine, up * sine + north * cosine
    time_cos, time_sin = _cos_sin(2 * math.pi * _fraction(_linear_turns(days, site.longitude, "sidereal")))
    # Right ascension is sidereal time minus hour angle, and the hour angle is negative in the east.
    of_date = np.stack([ahead * time_cos - east * time_sin, ahead * time_sin + east * time_cos, z])
    century = float(days.mean()) / 36525
    matrix = np.tensordot(century ** np.arange(4), _series(), 1)
    return matrix.T @ of_date


# Writers ------------------------------------------------------------------------------------------------


def _arrow_table(columns: dict[str, np.ndarray]):
    try:
        import pyarrow
    except ImportError as error:
        raise InputError("writing Parquet and CSV needs pyarrow: python3 -m pip install 'diffcr[parquet]'") from error
    return pyarrow.table(columns)


def _write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    table = _arrow_table(columns)
    import pyarrow.parquet

    # Random digits do not compress: neither a dictionary nor a codec makes the file smaller.
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False, row_group_size=1 << 20)


def _write_hdf5(path: Path, columns: dict[str, np.ndarray]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values


def _write_fits(path: Path, columns: dict[str, np.ndarray]) -> None:
    from astropy.io import fits

    table = [fits.Column(name=name, format="D", array=values) for name, values in columns.items()]
    with path.open("wb") as handle:
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table, name="EVENTS")]).writeto(handle)


def _write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    table = _arrow_table({name: np.round(values, 6) for name, values in columns.items()})
    import pyarrow.csv

    pyarrow.csv.write_csv(table, path)


_WRITERS = {"parquet": _write_parquet, "hdf5": _write_hdf5, "fits": _write_fits, "csv": _write_csv}
