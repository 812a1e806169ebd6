"""`diffcr estimate`: every method on the same data, side by side."""

import math
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_options import (
    Azimuth,
    Blind,
    Columns,
    End,
    EnergyEdges,
    EnergyMax,
    EnergyMin,
    Epochs,
    Equinox,
    Grid,
    Inputs,
    Output,
    Prefer,
    RemoveOrbital,
    SiteOption,
    SkipBad,
    Start,
    TimeFormat,
    TimeFrame,
    ZenithMax,
    binning_options,
    blinded,
    known_exposure,
    make_folder,
    numbers,
    read_inputs,
    require_folder,
    tell_inputs,
)


def estimate(
    inputs: Inputs,
    site: SiteOption = None,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Only these: likelihood, known-exposure, rayleigh, two-harmonic, east-west, east-west-directions, "
            "scrambling, projection, pseudo-power, power, two-point, frames, solar-index, stability, top-hat.",
            metavar="NAME,..",
        ),
    ] = None,
    declination: Annotated[
        str | None,
        typer.Option(help="Bands of declination too, in degrees, of date.", metavar="LO,HI;LO,HI"),
    ] = None,
    lmax: Annotated[
        int | None, typer.Option(help="Highest degree of the power spectra (default 20, or what the grid resolves).")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="Windows of time scrambling, in hours (default 24,4); less than 24 needs `diffcr bin --cube`.",
            metavar="H,..",
        ),
    ] = None,
    exposure: Annotated[
        str | None,
        typer.Option(
            help="For the whole dipole and the quadrupole: known, known:K for cos^K(zenith), or FILE.npy.",
            metavar="known|FILE",
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Periods of the stability: year or season.", metavar="year|season")] = "year",
    targets: Annotated[
        str | None,
        typer.Option(
            help="Discs chosen beforehand, J2000, degrees; counted above --thresholds.", metavar="RA,DEC,RADIUS;.."
        ),
    ] = None,
    blind_search: Annotated[
        bool, typer.Option("--blind-search", help="Search the sky for discs of 3 to 30 degrees, and penalise.")
    ] = False,
    thresholds: Annotated[
        str | None, typer.Option(help="Smallest energies of the search, units of the file.", metavar="E,..")
    ] = None,
    skies: Annotated[int, typer.Option(help="Isotropic skies for the penalty of the search.", min=0)] = 200,
    search_exposure: Annotated[
        str, typer.Option(help="Exposure of the search: sommers or fitted.", metavar="sommers|fitted")
    ] = "sommers",
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)] = 0,
    systematics: Annotated[
        bool, typer.Option("--systematics", help="Add the systematic errors of the dipole from control analyses.")
    ] = False,
    grid: Grid = None,
    time_frame: TimeFrame = None,
    epochs: Epochs = None,
    zenith_max: ZenithMax = None,
    energy_min: EnergyMin = None,
    energy_max: EnergyMax = None,
    energy_edges: EnergyEdges = None,
    start: Start = None,
    end: End = None,
    remove_orbital: RemoveOrbital = False,
    gamma: Annotated[
        float | None,
        typer.Option(help="Spectral index of the orbital lines (default 2.7), and for --remove-orbital.", metavar="G"),
    ] = None,
    blind: Blind = None,
    skip_bad_rows: SkipBad = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-estimate"),
) -> None:
    """Measure the anisotropy by every method on the same data; what cannot run is listed with the reason.

    Writes estimates.json, estimates.tex, hepdata/ and pictures. Event lists allow more than counts files: control time
    frames, stability, searches for discs.

    Example: [bold]diffcr estimate events.csv --site auger --columns time=UTC,ra=RA,dec=Dec -o estimates[/bold]
    """
    from .control_runs import Source
    from .estimate_parts import METHODS, Settings
    from .estimate_report import describe_estimates, write_estimates
    from .estimates import estimates

    require_folder(output)
    if gamma is not None and not math.isfinite(gamma):
        raise InputError(f"--gamma must be a number such as 2.7, not {gamma}")
    options = binning_options(
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
        gamma if remove_orbital else None,
    )
    if exposure is not None and zenith_max is None:
        # A known acceptance ends at the zenith cut: so must the events, of which some lie beyond by rounding.
        options["zenith_max"] = "site"
    chosen = {
        "methods": METHODS if methods is None else tuple(name.strip() for name in methods.split(",")),
        "bands": _bands(declination),
        "l_max": lmax,
        "spectral_index": 2.7 if gamma is None else gamma,
        "by": _one_of(by, "--by", ("year", "season")),
        "targets": _targets(targets),
        "blind_search": blind_search,
        "skies": skies,
        "seed": seed,
        "search_exposure": _one_of(search_exposure, "--search-exposure", ("sommers", "fitted")),
    }
    if window is not None:
        chosen["windows"] = _windows(window)
    if thresholds is not None:
        chosen["thresholds"] = _thresholds(thresholds)
    if targets is not None and blind_search:
        raise InputError("--targets and --blind-search were both given; one at a time")
    settings = Settings(**chosen)
    if settings.methods == ("top-hat",):
        # A search needs directions and energies; that the time of day is unknown does not matter.
        options["whole_days"] = True
    reader = {
        "columns": columns,
        "time_format": time_format,
        "azimuth": azimuth,
        "prefer": prefer,
        "equinox": equinox,
        "skip_bad_rows": skip_bad_rows,
    }
    counts = blinded(read_inputs(inputs, site, **reader, **options), blind)
    if systematics and (counts.blinded or counts.time_frame != "sidereal"):
        raise InputError(
            f"--systematics is for {'unblinded counts' if counts.blinded else 'sidereal time'} only; leave it out"
        )
    if lmax is not None and not 1 <= lmax <= (min(counts.grid.shape) - 1) // 2:
        raise InputError(f"--lmax {lmax} is not resolved by the grid; choose 1 to {(min(counts.grid.shape) - 1) // 2}")
    settings = Settings(**chosen, exposure=known_exposure(exposure, counts))
    source = Source(tuple(inputs), site, reader, options)
    summary = _with_progress(
        settings.skies, lambda tell: estimates(counts, source, settings, systematics, progress=tell)
    )
    make_folder(output)
    write_estimates(output, summary, plots)
    tell_inputs(counts)
    print("\n".join(describe_estimates(summary)))
    print(f"\nresults          {output / 'estimates.json'}, estimates.tex, hepdata" + (", pictures" if plots else ""))
    failed = [entry for entry in summary["not_run"] if entry.get("converged") is False]
    if failed:
        raise FitError(f"{failed[0]['method']} ({failed[0]['part']}): {failed[0]['reason']}; the rest was written")


def _groups(text: str | None, option: str, length: int, form: str) -> list[list[float]]:
    """Groups of numbers separated by semicolons."""
    found = [] if text is None else [numbers(group, option) for group in text.split(";") if group.strip()]
    if text is not None and (not found or any(len(g) != length or not all(map(math.isfinite, g)) for g in found)):
        raise InputError(f"{option} takes {form} in degrees, not {text!r}")
    return found


def _bands(text: str | None) -> tuple[tuple[float, float], ...]:
    bands = _groups(text, "--declination", 2, "LO,HI;LO,HI")
    for low, high in bands:
        if not -90 <= low < high <= 90:
            raise InputError(f"--declination {low:g},{high:g} is no band within -90 to 90 degrees, lowest first")
    return tuple((math.radians(low), math.radians(high)) for low, high in bands)


def _targets(text: str | None) -> tuple[tuple[float, float, float], ...]:
    targets = _groups(text, "--targets", 3, "RA,DEC,RADIUS;..")
    for ra, dec, radius in targets:
        if not (abs(dec) <= 90 and 0 < radius < 180):
            raise InputError(
                f"--targets {ra:g},{dec:g},{radius:g}: the declination must lie within -90 to 90 degrees, the radius "
                "between 0 and 180"
            )
    return tuple(tuple(math.radians(x) for x in target) for target in targets)


def _windows(text: str) -> tuple[float, ...]:
    windows = numbers(text, "--window")
    if not all(0 < hours <= 24 for hours in windows):
        raise InputError(f"--window takes hours above 0 and up to 24, not {text!r}")
    return tuple(dict.fromkeys(windows))


def _thresholds(text: str) -> tuple[float, ...]:
    levels = numbers(text, "--thresholds")
    if not all(map(math.isfinite, levels)) or any(b <= a for a, b in zip(levels, levels[1:], strict=False)):
        raise InputError(f"--thresholds takes increasing energies, not {text!r}")
    return tuple(levels)


def _one_of(value: str, option: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(f"{option} must be {' or '.join(known)}, not {value!r}")
    return value


def _with_progress(total: int, work):
    """Run work(tell) with a progress bar on the terminal, shown once there is a sky."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    look = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*look, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("isotropic skies of the search", total=total)
        return work(lambda n: bar.advance(task, n))
