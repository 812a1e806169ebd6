"""Simulated data with known truth: counts drawn on the grid, events one by one, or local HEALPix maps."""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.clock import local_time
from diffcr.counts import draw_marginals
from diffcr.detector import _check_response, acceptance, draw_directions, zenith_response
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import (
    _legendre,
    degrees_and_orders,
    dipole_to_coefficients,
    evaluate_at,
    from_healpy,
    power_spectrum,
    synthesis,
)
from diffcr.harmonics import rotate as rotate_multipoles
from diffcr.rate import RateModel
from diffcr.site import Site
from diffcr.sky import angles, equatorial_of, precession_matrix, rotate, unit_vector

from .binning import BinningOptions, bin_chunks
from .cells import padded
from .data import Counts
from .events import EventChunk
from .files import atomic
from .local_maps import LocalMaps, hour_vector

_CHUNK = 500_000

_MOST_PIXELS = 5_000
"""Pixels of a local map whose harmonics are held at once."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Attributes:
        site: The observatory.
        num_events: Expected number of events of an isotropic sky; the drawn number is Poisson.
        dipole: (delta_0h, delta_6h, delta_N) in the mean equator and equinox of J2000.
        multipoles: Further structure of the relative intensity, added to the dipole: real coefficients in J2000 in the
            order of `diffcr.harmonics`, (l_max + 1)^2 of them; the first, the monopole, is zero.
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
    multipoles: Sequence[float] | np.ndarray = ()

    def __post_init__(self):
        # Floats in a tuple compare and repeat as the other fields do; an array does not.
        object.__setattr__(self, "multipoles", tuple(float(x) for x in np.ravel(self.multipoles)))
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
        if self.multipoles:
            _check_multipoles(self)

    @property
    def sky(self) -> np.ndarray:
        """Multipoles of I - 1 in J2000, the dipole included, shape ((l_max + 1)^2,), l_max at least 1."""
        total = np.zeros(max(4, len(self.multipoles)))
        total[: len(self.multipoles)] = self.multipoles
        total[:4] += np.asarray(dipole_to_coefficients(jnp.asarray(self.dipole, float)))
        return total

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
    sky = 1 + np.asarray(synthesis(jnp.asarray(_of_date(simulation)), grid, cell_average=True))
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
        span=_span(simulation),
        inputs=(_entry(simulation, seed, number),),
        history=_history(simulation),
    )


def simulate_events(simulation: Simulation, seed: int) -> Iterator[EventChunk]:
    """Events one by one, in chunks that each span the data taking: time, zenith and azimuth, J2000 RA and declination.

    Directions are drawn from the acceptance in the horizon frame and kept with probability I / I_max, where I
    is evaluated in J2000, so that nothing is shared with the grid. Each chunk holds up to half a million.
    """
    rng = np.random.default_rng(seed)
    dipole, sky = np.asarray(simulation.dipole), jnp.asarray(simulation.sky)
    largest = 1 + (_extremes(simulation.sky)[1] if simulation.multipoles else np.linalg.norm(dipole))
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
        if simulation.multipoles:
            excess = padded(lambda *xyz: evaluate_at(sky, jnp.stack(xyz, axis=-1)), *directions[:, :3].T)
        else:
            excess = directions[:, :3] @ dipole
        keep = rng.uniform(size=size) * largest < 1 + excess
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
    return counts.replace(inputs=(entry | {"file": path.name},), history=_history(simulation))


def simulate_local_maps(simulation: Simulation, n_time: int, nside: int, seed: int) -> LocalMaps:
    """Poisson counts of every (time bin, pixel of the horizon): the data of the field's exchange format.

    Rate, acceptance and sky are taken at the centre of each pixel, the sky as it stands at the beginning of each time
    bin (Greenwich sidereal time 2 pi tau / n_time), which is how the maps are read with --bin-reference start.

    Args:
        simulation: What is simulated; without weights.
        n_time: Number of sidereal-time bins.
        nside: Resolution, a power of two.
        seed: Of the random numbers.

    Raises:
        InputError: If nside is not a power of two, events carry weights, or no event was drawn.
    """
    if nside < 1 or nside & (nside - 1) or nside > 1024:
        raise InputError(f"nside of local maps must be a power of two from 1 to 1024, not {nside}")
    if simulation.weight_spread > 0:
        raise InputError("local maps are simulated without weights; leave out --weight-spread, or --exchange")
    site, rate = simulation.site, _greenwich_rate(simulation, n_time)
    pixels, seen = _pixel_acceptance(simulation, nside)
    rng, counts = np.random.default_rng(seed), np.zeros((n_time, 12 * nside**2))
    start = 2 * np.pi * np.arange(n_time) / n_time + site.longitude
    for first in range(0, len(pixels), _MOST_PIXELS):
        part = slice(first, first + _MOST_PIXELS)
        sky = _seen_from(_of_date(simulation), site, nside, pixels[part], start)
        if not sky.min() >= 0:
            raise InputError("the relative intensity is negative somewhere; scale the multipoles down")
        counts[:, pixels[part]] = rng.poisson(simulation.num_events * rate[:, None] * seen[part] * sky)
    if not counts.any():
        raise InputError("the simulation drew no event; ask for more --events")
    return LocalMaps(site.name, site.latitude, site.longitude, site.zenith_max, counts, source="simulation")


def simulate_exchange(
    simulation: Simulation,
    n_time: int,
    nside: int,
    seed: int,
    folder: str | os.PathLike,
    name: str,
    n_ring: int | None = None,
) -> Counts:
    """Write `simulate_local_maps` in the exchange format of multi-llh (FOLDER/NAME.json) and return their counts.

    The counts are those of the same events, on n_ring rings, by default as many as suit the pixels. The folder is made
    where it does not exist.

    Raises:
        InputError: As `simulate_local_maps`; or if a file cannot be written.
    """
    from .exchange import read_exchange, write_exchange
    from .local_maps import to_counts

    maps = simulate_local_maps(simulation, n_time, nside, seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = write_exchange(folder, name, [maps])
    year, days = 2000 + simulation.mean_days / 365.25, simulation.end - simulation.start
    # Read again for the checksum, by which the maps and their counts are known as the same events.
    counts = to_counts(read_exchange(config), n_ring, mean_epoch=year, livetime=days)
    entry = _entry(simulation, seed, int(maps.counts.sum())) | counts.inputs[0]
    return counts.replace(inputs=(entry,), history=_history(simulation), span=_span(simulation))


# --- The sky ---------------------------------------------------------------------------------------------------


def draw_multipoles(rng: np.random.Generator, power: Sequence[float] | np.ndarray) -> np.ndarray:
    """Multipoles of a Gaussian isotropic random sky: each m of degree l has the variance C_l; l = 0 and 1 are zero.

    Args:
        rng: NumPy generator.
        power: C_l for l = 2 .. l_max, finite and not negative, shape (l_max - 1,).

    Returns:
        Coefficients in the order of `diffcr.harmonics`, shape ((l_max + 1)^2,).

    Raises:
        InputError: If there is no C_l, or one is negative or not finite.
    """
    power = np.asarray(power, float)
    if power.ndim != 1 or power.size == 0 or not np.all(np.isfinite(power) & (power >= 0)):
        raise InputError(f"the power must be C_l >= 0 for l = 2, 3, .., not {power.tolist()}")
    degree, _ = degrees_and_orders(len(power) + 1)
    return rng.standard_normal(len(degree)) * np.sqrt(np.concatenate([[0.0, 0.0], power]))[degree]


def power_law(amplitude: float, slope: float, l_max: int) -> np.ndarray:
    """C_l = amplitude (l / 2)^-slope for l = 2 .. l_max, shape (l_max - 1,).

    Raises:
        InputError: If l_max is below 2, the amplitude negative, or a number not finite.
    """
    if l_max < 2 or not (math.isfinite(amplitude) and amplitude >= 0 and math.isfinite(slope)):
        raise InputError(
            f"a power law needs C_2 >= 0, a finite slope and l_max of 2 or more, not {amplitude:g}, {slope:g} and "
            f"l_max = {l_max}"
        )
    return amplitude * (np.arange(2, l_max + 1) / 2.0) ** -slope


def read_multipoles(path: str | os.PathLike, l_max: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Multipoles of a sky from .npy (coefficients) or from a HEALPix FITS map of the relative intensity.

    A map is taken at the centres of its pixels (no pixel window is divided out), with its dipole, without its monopole,
    and as isotropic where it has no value.

    Args:
        path: The file.
        l_max: Highest degree kept; default all of .npy, and 20 of a map.

    Returns:
        Coefficients in J2000, shape ((l_max + 1)^2,), and what was assumed, in sentences for the user.

    Raises:
        InputError: If the file is neither, cannot be read, or does not reach l_max.
    """
    path = Path(path)
    if l_max is not None and l_max < 1:
        raise InputError(f"--sky-lmax must be 1 or more, not {l_max}")
    if path.suffix.lower() != ".npy":
        return _analysed(path, 20 if l_max is None else l_max)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the multipoles as numpy.save writes them") from error
    if values.ndim != 1 or values.dtype.kind not in "iuf" or math.isqrt(values.size) ** 2 != values.size:
        raise InputError(
            f"{path}: holds {values.dtype} of shape {values.shape}, not the (l_max + 1)^2 real multipoles of a sky"
        )
    found = math.isqrt(values.size) - 1
    if l_max is not None and l_max > found:
        raise InputError(f"{path}: reaches l = {found}, not {l_max}; lower --sky-lmax")
    return values[: ((found if l_max is None else l_max) + 1) ** 2].astype(float), ()


def write_multipoles(path: str | os.PathLike, multipoles: np.ndarray) -> None:
    """Write multipoles as .npy, for `read_multipoles`.

    Raises:
        InputError: If the file cannot be written.
    """
    with atomic(path) as part, part.open("wb") as file:
        np.save(file, np.asarray(multipoles, float))


def _analysed(path: Path, l_max: int) -> tuple[np.ndarray, tuple[str, ...]]:
    import healpy

    from .sky_files import read_sky

    sky = read_sky(path)
    if l_max > 2 * sky.nside:
        raise InputError(f"{path}: pixels of nside {sky.nside} do not resolve l = {l_max}; lower --sky-lmax")
    known = np.isfinite(sky.relative_intensity)
    notes = sky.notes
    if not known.all():
        notes += (f"{100 * (1 - known.mean()):.0f} % of the pixels have no value and were taken as isotropic",)
    alm = healpy.map2alm(np.where(known, sky.relative_intensity, 0.0), lmax=l_max)
    values = np.array(from_healpy(alm, l_max))
    values[0] = 0.0
    return values, notes


def _check_multipoles(simulation: Simulation) -> None:
    """Refuse multipoles that are no sky: of a wrong number, with a monopole, or of negative intensity."""
    values = np.asarray(simulation.multipoles)
    if math.isqrt(values.size) ** 2 != values.size or not np.all(np.isfinite(values)):
        raise InputError(f"multipoles must be (l_max + 1)^2 = 4, 9, 16, .. finite numbers, not {values.size}")
    if values[0] != 0:
        raise InputError(
            f"the monopole of a simulated sky must be zero, not {values[0]:g}: the number of events sets the mean"
        )
    lowest = 1 + _extremes(simulation.sky)[0]
    if lowest < 0:
        raise InputError(f"dipole and multipoles make the intensity negative, down to {lowest:.3g}; scale them down")


def _extremes(sky: np.ndarray) -> tuple[float, float]:
    """Lowest sampled value of a field of multipoles, and a bound of its size.

    Along a great circle the field is a trigonometric polynomial of degree l_max, so that |f''| <= l_max^2 max |f|
    (Bernstein): within half a diagonal d of the sampling it falls by at most (l_max d)^2 / 2 of its maximum.
    """
    l_max = math.isqrt(len(sky)) - 1
    size = max(32, 8 * l_max)
    field = np.asarray(synthesis(jnp.asarray(sky), RingGrid(size, 2 * size)))
    fall = (l_max * np.pi / size) ** 2 / 4
    return float(field.min()), float(np.abs(field).max() / (1 - fall))


def _of_date(simulation: Simulation) -> np.ndarray:
    """Multipoles of I - 1 in the equator of date of the middle of the data taking, shape ((l_max + 1)^2,)."""
    matrix = np.asarray(precession_matrix(simulation.mean_days))
    if not simulation.multipoles:
        return np.asarray(dipole_to_coefficients(jnp.asarray(matrix @ np.asarray(simulation.dipole))))
    return np.asarray(rotate_multipoles(simulation.sky, matrix))


# --- Local maps ------------------------------------------------------------------------------------------------


def _greenwich_rate(simulation: Simulation, n_time: int) -> np.ndarray:
    """Fraction of the events in each bin of Greenwich sidereal time, shape (time,)."""
    longitude, rate = simulation.site.longitude, simulation.rate
    # In Greenwich's time the diurnal wave of the site's local time comes that much earlier in phase.
    there = dataclasses.replace(rate, diurnal_phase=rate.diurnal_phase - longitude)
    return np.asarray(there.sidereal_rate(RingGrid(4, n_time), simulation.start, simulation.end, 0.0))


def _pixel_acceptance(simulation: Simulation, nside: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the horizon within the range of zenith angles, and their acceptance, which sums to 1."""
    import healpy

    _check_response(
        **({"model": "cos", "power": 1.0, "attenuation": None, "azimuth_terms": ()} | simulation.acceptance)
    )
    site = simulation.site
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    pixels = np.flatnonzero((theta <= site.zenith_max) & (theta >= site.zenith_min) & (theta < np.pi / 2))
    if not pixels.size:
        raise InputError(f"no pixel of nside {nside} lies within the zenith range of {site.name}; raise --nside")
    # Pixels count phi from South through East, the acceptance azimuth from North through East.
    azimuth = (np.pi - phi[pixels]) % (2 * np.pi)
    response = zenith_response(jnp.asarray(theta[pixels]), jnp.asarray(azimuth), **simulation.acceptance)
    return pixels, np.asarray(response) / float(np.sum(response))


def _seen_from(sky: np.ndarray, site: Site, nside: int, pixels: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Relative intensity at the centres of horizon pixels at local sidereal times [rad], shape (time, pixel)."""
    import healpy

    ahead, aside, sine = hour_vector(*healpy.pix2ang(nside, pixels), site.latitude)
    l_max = math.isqrt(len(sky)) - 1
    profile, orders = _legendre(np.arcsin(np.clip(sine, -1, 1)), l_max), np.arange(l_max + 1)
    modes = np.empty((l_max + 1, len(pixels)), complex)
    for m in orders:
        l = np.arange(m, l_max + 1)
        # s_m cos(m RA) + s_-m sin(m RA) = Re (s_m - i s_-m) exp(i m RA), where RA = time - H.
        modes[m] = (sky[l * l + l + m] - 1j * sky[l * l + l - m]) @ profile[m:, m]
    modes *= np.exp(-1j * orders[:, None] * np.arctan2(aside, ahead))
    waves = np.exp(1j * time[:, None] * orders)
    return 1 + waves.real @ modes.real - waves.imag @ modes.imag


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


def _span(simulation: Simulation) -> np.ndarray:
    return np.reshape([simulation.start, simulation.end], (1, 1, 1, 2))


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


def _history(simulation: Simulation) -> dict:
    """C_l of the simulated sky from l = 1; the multipoles themselves would undo the blinding of the counts."""
    if not simulation.multipoles:
        return {"simulated": True}
    return {"simulated": True, "truth_power": np.asarray(power_spectrum(simulation.sky))[1:].tolist()}
