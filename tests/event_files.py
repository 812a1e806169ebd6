"""Event files for the tests: the same columns in every format, and all events of a file at once."""

import h5py
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from astropy.io import fits
from astropy.time import Time
from diffcr.inference.events import EventChunk, EventReader

MOMENT = Time("2011-03-05T12:34:56.5", scale="utc")

HEADER = "time,ra,dec,energy,weight\n"
ROWS = [
    "1072969615,208.9,-11.8,10.5,1.004",
    "1073113742.5,36.6,-70.4,9.0,1.0001",
    "1073169046,334.7,-47.8,8.1,0.9973",
]


def read(path, **options):
    """All events of a file in one chunk, and the reader."""
    reader = EventReader(path, **options)
    chunks = list(reader)
    columns = {}
    for name in EventChunk._fields[:-2]:
        parts = [getattr(chunk, name) for chunk in chunks]
        columns[name] = None if parts[0] is None else np.concatenate(parts)
    bad = sum(chunk.bad_rows for chunk in chunks)
    return EventChunk(**columns, first_row=chunks[0].first_row, bad_rows=bad), reader


def csv(*rows):
    return HEADER + "\n".join(rows) + "\n"


def random_events(n, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "time": rng.uniform(1.07e9, 1.47e9, n),
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-90, 90, n),
        "energy": rng.pareto(2, n) + 8,
        "weight": rng.uniform(0.9, 1.1, n),
    }


def write_all_formats(folder, events):
    """The same columns in every format: name -> path."""
    frame = pd.DataFrame(events)
    paths = {name: folder / f"events.{name}" for name in ("csv", "dat", "parquet", "fits", "h5", "compound.h5")}
    frame.to_csv(paths["csv"], index=False)
    frame.to_csv(paths["dat"], index=False, sep=" ", header=["# " + frame.columns[0], *frame.columns[1:]])
    pyarrow.parquet.write_table(pyarrow.table(events), paths["parquet"], row_group_size=max(len(frame) // 3, 1))
    columns = [fits.Column(name=name.upper(), format="D", array=value) for name, value in events.items()]
    image = fits.ImageHDU(np.zeros((2, 2)))
    fits.HDUList([fits.PrimaryHDU(), image, fits.BinTableHDU.from_columns(columns, name="EVENTS")]).writeto(
        paths["fits"]
    )
    with h5py.File(paths["h5"], "w") as file:
        for name, value in events.items():
            file.create_dataset(f"data/{name}", data=value, chunks=True)
    with h5py.File(paths["compound.h5"], "w") as file:
        file["events"] = frame.to_records(index=False)
    return paths


def write_fits(path, *tables, **header):
    hdus = [fits.BinTableHDU.from_columns(columns, name=f"T{i}") for i, columns in enumerate(tables)]
    for hdu in hdus:
        hdu.header.update(header)
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path
