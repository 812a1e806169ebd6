"""What the commands share: their options, and the way from the words of a command line to the library's terms."""

import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import InputError

Inputs = Annotated[
    list[str],
    typer.Argument(help="Event lists, counts files (.nc) or dataset:auger-8eev.", metavar="INPUT..."),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if missing.", metavar="DIR")]
SiteOption = Annotated[
    list[str] | None,
    typer.Option(
        "--site",
        help="Observatory (IceCube, IceTop, HAWC, LHAASO, Auger, TA, KASCADE-Grande, Tibet, ARGO-YBJ, "
        "Super-Kamiokande, GRAPES-3, Milagro), or LAT,LON,ZENITH in degrees. Once for all inputs, or once each.",
        metavar="SITE",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Column names by role: time=UTC,ra=RA,dec=Dec,zenith=..,azimuth=..,energy=..,weight=..",
        metavar="ROLE=NAME,..",
    ),
]
TimeFormat = Annotated[
    str | None, typer.Option(help="unix, mjd, jd or iso; guessed where unambiguous.", metavar="FORMAT")
]
Azimuth = Annotated[
    str | None, typer.Option(help="north-east (default) or east-counterclockwise.", metavar="CONVENTION")
]
Prefer = Annotated[
    str,
    typer.Option(help="Which directions to use where a file has both: equatorial or horizon.", metavar="PAIR"),
]
Equinox = Annotated[
    str | None,
    typer.Option(
        help="Of RA and dec: j2000 (default), icrs (made by astropy or SLALIB from local directions) or date.",
        metavar="EQUINOX",
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Leave out rows that cannot be used; they are counted and reported."),
]
Grid = Annotated[
    str | None,
    typer.Option(help="Right-ascension bins x declination rings of the grid (default 360x180).", metavar="BINSxRINGS"),
]
TimeFrame = Annotated[
    str | None,
    typer.Option(help="sidereal (default), solar, antisidereal or extended-sidereal.", metavar="FRAME"),
]
Epochs = Annotated[
    str | None,
    typer.Option(
        help="yearly, or a CSV file with columns label,start,end: one detector configuration each.",
        metavar="yearly|FILE",
    ),
]
ZenithMax = Annotated[
    float | None, typer.Option(help="Cut events beyond this zenith angle, in degrees.", metavar="DEG")
]
EnergyMin = Annotated[float | None, typer.Option(help="Cut events below this energy (units of the file).", metavar="E")]
EnergyMax = Annotated[float | None, typer.Option(help="Cut events at and above this energy.", metavar="E")]
EnergyEdges = Annotated[
    str | None,
    typer.Option(
        help="Edges of energy bins, E1,E2,..; each bin has its own rate and acceptance, all share one sky.",
        metavar="E1,E2,..",
    ),
]
Start = Annotated[str | None, typer.Option("--from", help="Cut events before this date or MJD.", metavar="DATE")]
End = Annotated[str | None, typer.Option("--to", help="Cut events from this date or MJD on.", metavar="DATE")]
RemoveOrbital = Annotated[
    bool,
    typer.Option(
        "--remove-orbital",
        help="Weight events by the inverse of the Earth's orbital Compton-Getting intensity.",
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(help="Spectral index for --remove-orbital (intensity falls as E^-gamma).", metavar="G"),
]
Cube = Annotated[
    bool,
    typer.Option(
        "--cube", help="Keep the counts of every time bin and local cell too, for the methods that need them."
    ),
]
BinReference = Annotated[
    str | None,
    typer.Option(
        help="Of local maps: the sky of a time bin is that at its start (default, as multi-llh has it) or its center.",
        metavar="start|center",
    ),
]
Blind = Annotated[
    str | None,
    typer.Option(
        help="Rotate right ascension by a secret angle and hide phases until `diffcr unblind`.", metavar="KEY"
    ),
]


_MOST_INPUTS = 32
"""Of more inputs than these it is told together how they were read."""


def read_inputs(inputs, site, **options):
    """Read inputs with a progress line on the terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from .inputs import read_counts

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("reading {task.completed:,.0f} events"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("read", total=None)
        counts = read_counts(inputs, site, progress=lambda n: bar.advance(task, n), **options)
    return counts


def tell_inputs(counts) -> None:
    """What was guessed, left out and cut. Told once the work is done: a failure prints its one line alone."""
    if len(counts.inputs) > _MOST_INPUTS:
        from .cli_many_files import tell_many

        tell_many(counts.inputs)
        return
    for entry in counts.inputs:
        _tell_input(entry)


def _tell_input(entry: dict) -> None:
    if "bin_reference" in entry:
        place = f"latitude {entry['latitude_deg']:g}, longitude {entry['longitude_deg']:g}"
        print(
            f"read             {entry['file'].removesuffix(': ' + entry['site'])}: {entry['site']} at {place}, "
            f"zenith to {entry['zenith_max_deg']:g} degrees; {entry['time_bins']} local maps, nside {entry['nside']}, "
            f"sky of a time bin at its {entry['bin_reference']}",
            file=sys.stderr,
        )
    if "columns" in entry:
        unused = ("zenith", "azimuth") if "ra" in entry["columns"] else ()
        columns = ", ".join(f"{role}={name}" for role, name in entry["columns"].items() if role not in unused)
        used = f"azimuth {entry['azimuth']}" if "ra" not in entry["columns"] else f"equinox {entry['equinox']}"
        print(f"read             {entry['file']}: {columns} ({used}; {entry['site']})", file=sys.stderr)
    for note in entry.get("notes", []):
        print(f"note             {entry['file']}: {note}", file=sys.stderr)
    if entry.get("bad_rows"):
        examples = "; ".join(entry["bad_examples"])
        print(
            f"left out         {entry['bad_rows']} of {entry['rows']} rows of {entry['file']}: {examples}",
            file=sys.stderr,
        )
    cuts = {name: number for name, number in entry.get("cut", {}).items() if number}
    if cuts:
        text = ", ".join(f"{number} by {name}" for name, number in cuts.items())
        print(f"cut              {text} of {entry['events_read']} events of {entry['file']}", file=sys.stderr)


def require_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written before hours of reading, not after."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{folder}: {place} is a file, not a folder; choose another -o")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: the folder {place} cannot be written; choose another -o")


def make_folder(folder: Path) -> None:
    """Make the output folder and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the output folder cannot be made ({error.strerror}); choose another -o") from error


def blinded(counts, key: str | None):
    """The counts, blinded where a key was given."""
    from .blinding import blind

    return counts if key is None else blind(counts, key)


def binning_options(
    grid,
    time_frame,
    epochs,
    zenith_max,
    energy_min,
    energy_max,
    energy_edges,
    start,
    end,
    remove_orbital,
    gamma,
) -> dict:
    """Options of the command line as fields of `BinningOptions`."""
    from diffcr.clock import TIME_FRAMES

    from .epochs import read_epochs

    if time_frame is not None and time_frame not in TIME_FRAMES:
        raise InputError(f"unknown time frame {time_frame!r}: choose one of {', '.join(TIME_FRAMES)}")
    if remove_orbital and gamma is None:
        raise InputError("--remove-orbital needs the spectral index: give --gamma, for example --gamma 2.7")
    if gamma is not None and not remove_orbital:
        raise InputError("--gamma has no effect without --remove-orbital")
    if gamma is not None and not math.isfinite(gamma):
        raise InputError(f"--gamma must be a number such as 2.7, not {gamma}")
    # What is not asked for is left out: counts files refuse what they cannot do, and bring their own grid and frame.
    options = {"orbital_index": gamma}
    if grid is not None:
        options["grid"] = grid_of(grid)
    if time_frame is not None:
        options["time_frame"] = time_frame
    if epochs is not None:
        options["epochs"] = epochs if epochs == "yearly" else read_epochs(epochs)
    if zenith_max is not None:
        if not 0 < zenith_max <= 90:
            raise InputError(f"--zenith-max must lie in (0, 90] degrees, not {zenith_max:g}")
        options["zenith_max"] = math.radians(zenith_max)
    if energy_min is not None or energy_max is not None:
        low, high = (
            energy_min if energy_min is not None else -math.inf,
            energy_max if energy_max is not None else math.inf,
        )
        if not low < high:
            raise InputError(f"--energy-min {low:g} is not below --energy-max {high:g}")
        options["energy_range"] = (low, high)
    if energy_edges is not None:
        options["energy_edges"] = tuple(numbers(energy_edges, "--energy-edges"))
        if any(math.isnan(edge) for edge in options["energy_edges"]):
            raise InputError(f"--energy-edges takes increasing numbers, not {energy_edges!r}")
    if start is not None or end is not None:
        options["time_range"] = interval(start, end)
    return options


def grid_of(text: str | None):
    """--grid BINSxRINGS as a ring grid."""
    from diffcr.grid import RingGrid

    if text is None:
        return RingGrid()
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
        raise InputError(f"--grid takes BINSxRINGS such as 360x180, not {text!r}")
    bins, rings = (int(p) for p in parts)
    if rings == 2 * bins:
        raise InputError(f"--grid {text} looks swapped: right-ascension bins come first, so write {rings}x{bins}")
    return RingGrid(rings, bins)


def numbers(text: str | None, option: str) -> list[float] | None:
    """Numbers separated by commas; None for None."""
    if text is None:
        return None
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise InputError(f"{option} takes numbers separated by commas, not {text!r}") from None


def interval(start: str | None, end: str | None) -> tuple[float, float]:
    """--from and --to as days since J2000.0, without end where one is not given."""
    low = moment(start, "--from") if start is not None else -math.inf
    high = moment(end, "--to") if end is not None else math.inf
    if not low < high:
        raise InputError(f"--from {start} is not before --to {end}; swap them")
    return low, high


_MJD_LIMITS = (15020.0, 161116.0)  # 1900 January 1 and 2300 January 1


def moment(text: str, option: str) -> float:
    """Date (ISO, UTC) or MJD as days since J2000.0."""
    from diffcr.clock import days_from

    try:
        mjd = float(text)
    except ValueError:
        mjd = None
    if mjd is not None:
        # Also catches a year on its own, which as an MJD lies in the 19th century.
        if not _MJD_LIMITS[0] <= mjd < _MJD_LIMITS[1]:
            raise InputError(
                f"{option} {text} is no MJD of the years 1900 to 2299; give a date such as 2016-01-01, or an MJD"
            )
        return mjd - 51544.5
    try:
        return float(days_from([text.strip()], "iso")[0])
    except (ValueError, TypeError):
        raise InputError(f"{option} takes a date such as 2016-01-01, or an MJD; not {text!r}") from None


def require_nc(path: Path) -> None:
    """Refuse an output that is no .nc file in an existing, writable folder."""
    if path.suffix.lower() != ".nc":
        raise InputError(f"{path}: counts files end in .nc; change -o")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give -o the name of a file")
    if not path.parent.exists():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    require_folder(path.parent)


def tell_counts(counts, path: Path) -> None:
    """Print what was written."""
    for place in counts.configurations():
        print(f"counts           {counts.label(place)}: {int(counts.num_events[place])} events")
    grid = counts.grid
    extra = ", blinded" if counts.blinded else ""
    print(f"written          {path} ({grid} cells, {counts.time_frame}{extra})")


def known_exposure(text: str | None, counts) -> dict | None:
    """Known acceptance of every observatory from --exposure."""
    import numpy as np

    from diffcr.detector import acceptance, measured_acceptance

    if text is None:
        return None
    if text == "known" or text.startswith("known:"):
        power = numbers(text.partition(":")[2] or "1", "--exposure known:")[0]
        # Sampled four times per degree whatever the grid: a coarse cell may be seen by its corner alone.
        fine = max(4, round(4 * 180 / counts.grid.n_ring))
        return {
            s.name: _with_slivers(
                np.array(acceptance(s, counts.grid, power=power, subdivide=fine, profile="triangle")),
                counts.n_local[k].sum(axis=(0, 1)),
            )
            for k, s in enumerate(counts.sites)
        }
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"--exposure {text}: no such file; give known, known:K, or a .npy file of shape {counts.grid.shape}"
        )
    if len(counts.sites) > 1:
        raise InputError(f"--exposure {text}: one file for {len(counts.sites)} observatories; use the Python interface")
    try:
        with open(path, "rb") as handle:
            values = np.lib.format.read_array(handle, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"--exposure {text}: not a readable .npy array ({type(error).__name__}); write it with numpy.save"
        ) from error
    if values.dtype.kind not in "biuf":
        raise InputError(f"--exposure {text}: holds no real numbers ({values.dtype}); write floats with numpy.save")
    return {counts.sites[0].name: np.asarray(measured_acceptance(values, counts.grid))}


def _with_slivers(acceptance, local):
    """The acceptance with its zeros replaced by the share of events found there, where that is a sliver of the field.

    The edge of the field of view may cut off a corner of a cell that is thinner than the sampling. What is more than
    a thousandth of the events is no sliver; the fit refuses it.
    """
    missed = (acceptance <= 0) & (local > 0)
    share = local / max(local.sum(), 1e-300)
    if share[missed].sum() < 1e-3:
        acceptance[missed] = share[missed]
    return acceptance
