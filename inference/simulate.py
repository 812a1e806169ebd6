"""Simulated data with known truth: counts drawn on the grid, or events drawn one by one."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.clock import local_time
from diffcr.counts import draw_marginals
from diffcr.detector import acceptance, draw_directions
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis
from diffcr.rate import RateModel
from diffcr.site import Site
from diffcr.sky import angles, equatorial_of, precession_matrix, rotate, unit_vector

from .binning import BinningOptions, bin_chunks
from .cells import padded
from .data import Counts
from .events import EventChunk
from .files import atomic

_CHUNK = 500_000


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        site: The observatory.
        num_events: Expected number of events of an isotropic sky; the drawn number is Poisson.
        dipole: (delta_0h, delta_6h, delta_N) in the mean equator and equinox of J2000.
        start, end: Data taking, days since J2000.0 [UTC].
        rate: Trigger rate in civil time.
        acceptance: Arguments of `diffcr.detector.acceptance` (model, power, attenuation, azimuth_terms).
        weight_spread: Standard deviation of the logarithm of log-normal event weights; 0 for none.
    """

    site: Site
    num_events: float
    dipole: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: float = 5844.5  # 2016-01-01
    end: float = 6210.5  # 2017-01-01
    rate: RateModel = dataclasses.field(default_factory=RateModel)
    acceptance: dict = dataclasses.field(default_factory=dict)
    weight_spread: float = 0.0

    def __post_init__(self):
        if not (np.isfinite(self.num_events) and self.num_events > 0):
            raise InputError(f"the number of events to simulate must be positive, not {self.num_events:g}")
        if len(self.dipole) != 3 or not np.all(np.isfinite(self.dipole)) or np.linalg.norm(self.dipole) > 1:
            raise InputError(
                f"the dipole must be two or three numbers with a length of at most 1, not {list(self.dipole)}: a "
                "larger one makes the intensity negative"
            )
        if not self.end > self.start:
            raise InputError("the simulated data taking ends before it starts; swap --start and --end")
        if not (np.isfinite(self.weight_spread) and self.weight_spread >= 0):
            raise InputError(f"the spread of the weights must not be negative, got {self.weight_spread}")

    @property
    def mean_days(self) -> float:
        """Middle of the data taking, days since J2000.0."""
        return (self.start + self.end) / 2


def simulate_counts(simulation: Simulation, grid: RingGrid, seed: int) -> Counts:
    """Poisson counts of every (time, hour angle) cell, in the equator of date of the middle of the data taking."""
    site = simulation.site
    # Sidereal-time and right-ascension bins are boxes; their difference, the hour angle, is a triangle.
    # Four samples a degree in either direction, so that cells cut by the edge of the field of view are right.
    samples = max(4, -(-4 * 180 // grid.n_ring))
    local = np.asarray(acceptance(site, grid, **simulation.acceptance, subdivide=samples, profile="triangle"))
    rate = np.asarray(simulation.rate.sidereal_rate(grid, simulation.start, simulation.end, site.longitude))
    of_date = np.asarray(precession_matrix(simulation.mean_days)) @ np.asarray(simulation.dipole)
    sky = 1 + np.asarray(synthesis(dipole_to_coefficients(jnp.asarray(of_date)), grid, cell_average=True))
    rng = np.random.default_rng(seed)
    sums, squares, number = draw_marginals(rng, simulation.num_events * rate, local, sky, simulation.weight_spread)
    if number == 0:
        raise InputError("the simulation drew no event; ask for more --events")

    def lead(values):
        return np.asarray(values, float)[None, None, None]

    return Counts(
        grid=grid,
        sites=(site,),
        energies=("all",),
        epochs=("all",),
        **{f"n_{name}": lead(values) for name, values in sums._asdict().items()},
        w2={} if squares is None else {f"n_{name}": lead(values) for name, values in squares._asdict().items()},
        num_events=np.full((1, 1, 1), number),
        mean_epoch=np.full((1, 1, 1), 2000 + simulation.mean_days / 365.25),
        livetime=np.full((1, 1, 1), simulation.end - simulation.start),
        inputs=(_entry(simulation, seed, number),),
        history={"simulated": True},
    )


def simulate_events(simulation: Simulation, seed: int) -> Iterator[EventChunk]:
    """Events one by one, in chunks that each span the data taking: time, zenith and azimuth, J2000 RA and declination.

    Directions are drawn from the acceptance in the horizon frame and kept with probability I / I_max, where I
    is evaluated in J2000, so that nothing is shared with the grid. Each chunk holds up to half a million.
    """
    rng = np.random.default_rng(seed)
    dipole = np.asarray(simulation.dipole)
    largest = 1 + np.linalg.norm(dipole)
    trials = int(rng.poisson(simulation.num_events * largest))
    site = simulation.site
    done = 0
    while done < trials:
        size = min(_CHUNK, trials - done)
        # Uniform pieces of the sorted time axis would correlate the chunks; independent chunks are simpler.
        days = simulation.rate.draw_times(rng, size, simulation.start, simulation.end, site.longitude)
        zenith, azimuth = draw_directions(site, rng, size, **simulation.acceptance)
        place = (np.full(size, angle) for angle in (site.longitude, site.latitude))
        directions = padded(_directions, days, zenith, azimuth, *place)
        keep = rng.uniform(size=size) * largest < 1 + directions[:, :3] @ dipole
        ra, dec = directions[keep, 3], directions[keep, 4]
        weight = None
        if simulation.weight_spread > 0:
            s = simulation.weight_spread
            weight = np.exp(s * rng.standard_normal(int(keep.sum())) - s**2 / 2)
        yield EventChunk(days[keep], ra, dec, zenith[keep], azimuth[keep], None, weight, done + 1, 0)
        done += size


@jax.jit
def _directions(days, zenith, azimuth, longitude, latitude):
    """Rows x, y, z, RA, dec in J2000 of events seen in the horizon frame."""
    hour_angle, declination = equatorial_of(zenith, azimuth, latitude)
    of_date = unit_vector(local_time(days, longitude) - hour_angle, declination)
    vector = rotate(jnp.swapaxes(precession_matrix(days), -1, -2), of_date)
    return jnp.concatenate([vector, jnp.stack(angles(vector), axis=-1)], axis=-1)


def simulate_event_list(
    simulation: Simulation, grid: RingGrid, seed: int, path: str | os.PathLike, time_frame: str = "sidereal"
) -> Counts:
    """Write simulated events as CSV or Parquet (by the suffix) and return their counts.

    Columns: time_unix [s, UTC], ra, dec (J2000), zenith, azimuth (from North through East) [degrees], and weight.
    The file appears under its name only when complete.

    Raises:
        InputError: If the suffix is neither .csv nor .parquet, or no event was drawn.
    """
    path = Path(path)
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: event lists are written as .csv or .parquet; change the suffix of --event-list")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    with atomic(path) as part:
        chunks = writers[path.suffix.lower()](part, simulate_events(simulation, seed))
        options = BinningOptions(grid=grid, time_frame=time_frame)
        counts = bin_chunks(chunks, simulation.site, options, "the simulation")
    entry = _entry(simulation, seed, int(counts.num_events.sum()))
    return counts.replace(inputs=(entry | {"file": path.name},), history={"simulated": True})


def _columns(chunk: EventChunk) -> dict[str, np.ndarray]:
    table = {"time_unix": (chunk.days + 10957.5) * 86400}
    table |= {name: np.degrees(getattr(chunk, name)) for name in ("ra", "dec", "zenith", "azimuth")}
    return table if chunk.weight is None else table | {"weight": chunk.weight}


def _write_csv(path: Path, chunks: Iterator[EventChunk]) -> Iterator[EventChunk]:
    formats = {"time_unix": "%.3f", "weight": "%.6g"}
    with open(path, "w", encoding="utf-8") as handle:
        for number, chunk in enumerate(chunks):
            table = _columns(chunk)
            if number == 0:
                handle.write(",".join(table) + "\n")
            rows = np.column_stack(list(table.values()))
            np.savetxt(handle, rows, fmt=[formats.get(name, "%.6f") for name in table], delimiter=",")
            yield chunk


def _write_parquet(path: Path, chunks: Iterator[EventChunk]) -> Iterator[EventChunk]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("writing Parquet needs pyarrow: python3 -m pip install 'diffcr[parquet]'") from error
    writer = None
    try:
        for chunk in chunks:
            table = pyarrow.table(_columns(chunk))
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            yield chunk
    finally:
        if writer is not None:
            writer.close()


def _entry(simulation: Simulation, seed: int, number: int) -> dict:
    return {
        "file": "simulation",
        "site": simulation.site.name,
        "events_read": number,
        "seed": seed,
        "truth_dipole_j2000": list(simulation.dipole),
        "acceptance": {
            k: (v if isinstance(v, str | int | float) else str(v)) for k, v in simulation.acceptance.items()
        },
        "weight_spread": simulation.weight_spread,
    }
