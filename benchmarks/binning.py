"""Events per second from arrays and from Parquet into counts, against astropy + healpy doing the same.

    python3 benchmarks/binning.py [--events 2000000] [--reference-events 200000]

Both take (time, RA, dec of J2000), precess each direction to its own date, take the local mean sidereal time and
make three histograms: sky map, local map and rate. The reference precesses with astropy's FK5 frame, takes
astropy's sidereal time and bins with healpy at nside 64. Prints one JSON line: `events_per_second` (arrays),
`events_per_second_parquet`, `ratio` (arrays against the reference) and `ratio_parquet`; medians of several runs.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import healpy
from astropy import units
from astropy.coordinates import FK5, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from diffcr.inference import BinningOptions, EventReader, Simulation, simulate_events
from diffcr.inference.binning import bin_chunks, bin_events
from diffcr.inference.events import EventChunk

from diffcr.site import site


def reference(days, ra, dec, longitude):
    """The plain way: astropy for time and frame, healpy for the pixels."""
    moment = Time(days + 2451545.0, format="jd", scale="utc")
    of_date = SkyCoord(ra=ra * units.rad, dec=dec * units.rad, frame=FK5(equinox="J2000")).transform_to(
        FK5(equinox=moment)
    )
    sidereal = moment.sidereal_time("mean", longitude=longitude * units.rad).rad
    right_ascension, declination = of_date.ra.rad, of_date.dec.rad
    sky = healpy.ang2pix(64, np.pi / 2 - declination, right_ascension)
    local = healpy.ang2pix(64, np.pi / 2 - declination, np.mod(sidereal - right_ascension, 2 * np.pi))
    bins = np.floor(sidereal / (2 * np.pi) * 360).astype(int)
    return (
        np.bincount(sky, minlength=healpy.nside2npix(64)),
        np.bincount(local, minlength=healpy.nside2npix(64)),
        np.bincount(bins, minlength=360),
    )


def median_seconds(function, repeat: int) -> float:
    """Median of several runs, after one warm-up."""
    function()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--reference-events", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    place = site("hawc")
    chunks = list(simulate_events(Simulation(place, options.events), seed=1))
    columns = {n: np.concatenate([getattr(c, n) for c in chunks]) for n in ("days", "ra", "dec")}
    number = len(columns["days"])

    def ours():
        size = 1 << 20
        pieces = (
            EventChunk(*(columns[n][k : k + size] for n in ("days", "ra", "dec")), None, None, None, None, k + 1, 0)
            for k in range(0, number, size)
        )
        return bin_chunks(pieces, place, BinningOptions())

    few = {n: v[: options.reference_events] for n, v in columns.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        iers.conf.set_temp("auto_download", False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        path = Path(folder) / "events.parquet"
        _write_parquet(path, columns)

        def from_parquet():
            return bin_events(EventReader(path, chunk_size=1 << 20), place, BinningOptions())

        with iers.conf.set_temp("auto_max_age", None), iers.conf.set_temp("iers_degraded_accuracy", "warn"):
            plain = len(few["days"]) / median_seconds(lambda: reference(**few, longitude=place.longitude), 3)
        arrays = number / median_seconds(ours, options.repeat)
        parquet = number / median_seconds(from_parquet, options.repeat)
    print(
        json.dumps(
            {
                "benchmark": "binning of events",
                "events": number,
                "events_per_second": round(arrays),
                "events_per_second_parquet": round(parquet),
                "events_per_second_reference": round(plain),
                "ratio": round(arrays / plain, 1),
                "ratio_parquet": round(parquet / plain, 1),
            }
        )
    )


def _write_parquet(path: Path, columns: dict) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {
        "time_unix": (columns["days"] + 10957.5) * 86400,
        "ra": np.degrees(columns["ra"]),
        "dec": np.degrees(columns["dec"]),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)


if __name__ == "__main__":
    main()
