"""`diffcr map`: sky maps, their significance, and the field's exchange format."""

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_options import (
    Azimuth,
    BinReference,
    Blind,
    Columns,
    End,
    EnergyEdges,
    EnergyMax,
    EnergyMin,
    Epochs,
    Equinox,
    Gamma,
    Grid,
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
    make_folder,
    numbers,
    read_inputs,
    require_folder,
    tell_inputs,
)

_FEWEST_EVENTS = 30

_METHODS = ("ml", "iterative", "wiener")


def sky_map(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Event lists, counts files (.nc) or dataset:auger-8eev.", metavar="[INPUT]..."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON configuration of multi-llh, instead of inputs.", metavar="FILE.json"),
    ] = None,
    timesteps: Annotated[int | None, typer.Option(help="Sidereal bins that --config must have.", metavar="N")] = None,
    bin_reference: BinReference = None,
    method: Annotated[
        str, typer.Option(help="ml: a free value per cell; wiener: to --lmax with a prior C_l; iterative.")
    ] = "ml",
    iterations: Annotated[int, typer.Option(help="Passes of --method iterative.")] = 20,
    lmax: Annotated[int | None, typer.Option(help="Band limit of --method wiener (default 20).")] = None,
    prior_cl: Annotated[
        str | None,
        typer.Option(help="Prior C_l of --method wiener for l >= 2: one value or one each; default fitted."),
    ] = None,
    psf: Annotated[
        list[str] | None,
        typer.Option(
            help="Point spread for --method wiener: [OBSERVATORY=]gauss:SIGMA, king:SIGMA:GAMMA (degrees) or a CSV "
            "file angle_deg,density; may be repeated.",
            metavar="PSF",
        ),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="BINSxRINGS that share a value (default: until a median cell expects 25 events)."),
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option(help="Radius of the discs that are summed and judged, in degrees.", metavar="DEG")
    ] = None,
    remove_lmax: Annotated[
        int, typer.Option(help="Judge against a sky with all m != 0 multipoles to this degree, fitted.", min=0)
    ] = 0,
    skies: Annotated[
        int | None,
        typer.Option(help="Isotropic skies for the post-trial significance (default 200 with --smoothing).", min=0),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the isotropic skies.", min=0)] = 0,
    threshold: Annotated[float, typer.Option(help="Least |significance| of the listed excesses.")] = 3.0,
    nside: Annotated[int, typer.Option(help="Resolution of map.fits.")] = 64,
    systematics: Annotated[
        bool, typer.Option("--systematics", help="Add the systematic errors of the dipole from control analyses.")
    ] = False,
    site: SiteOption = None,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
    rate_bins: Annotated[int | None, typer.Option(help="Free rates (default: 100 events each or more).")] = None,
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
    gamma: Gamma = None,
    blind: Blind = None,
    skip_bad_rows: SkipBad = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-map"),
) -> None:
    """Map the relative intensity of the sky with every rate and acceptance free, and judge its excesses.

    Writes map.fits (HEALPix), map.json and pictures; with --config also the files of multi-llh (CR_*, RAW_*,
    exposure_*, norm_*, llhratio_*).

    Example: [bold]diffcr map icecube.nc hawc.nc --smoothing 10 -o map[/bold]
    """
    require_folder(output)
    _check(inputs, config, method, lmax, prior_cl, psf, timesteps, smoothing, skies, nside)
    if config is None:
        config = _configuration_among(inputs)
    if config is not None:
        if any(x is not None for x in (site, columns, time_format, azimuth, equinox, time_frame, epochs, zenith_max,
                                       energy_min, energy_max, energy_edges, start, end, gamma)):  # fmt: skip
            raise InputError("options of event lists have no effect with --config; leave them out")
        local, counts = _read_config(config, timesteps, grid, bin_reference)
    else:
        local = None
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
            gamma,
        )
        reader = {
            "columns": columns,
            "time_format": time_format,
            "azimuth": azimuth,
            "prefer": prefer,
            "equinox": equinox,
            "skip_bad_rows": skip_bad_rows,
        }
        counts = read_inputs(inputs, site, bin_reference=bin_reference, **reader, **options)
    if counts.effective_events < _FEWEST_EVENTS:
        raise InputError(
            f"{counts.effective_events:.3g} effective events are too few for a map; give at least {_FEWEST_EVENTS}"
        )
    counts = blinded(counts, blind)
    checks = None
    if systematics:
        from .control_runs import Source, systematics_of

        source = None if local is not None else Source(tuple(inputs), site, reader, options)
        checks = systematics_of(counts, source, gamma)
    sky, power = _fitted(counts, method, iterations, lmax, prior_cl, psf, cells, rate_bins)
    declinations = None
    if local is not None:
        from .map_exchange import mean_declinations

        declinations = mean_declinations(local, sky, bin_reference or "start")
    analysis = _analysed(sky, power, nside, smoothing, remove_lmax, skies, seed, threshold, declinations)
    content = _written(analysis, output, plots, checks)
    if local is not None:
        from .map_exchange import write_multi_llh

        write_multi_llh(output, analysis, local, bin_reference or "start")
    from .map_report import describe_map

    tell_inputs(counts)
    print("\n".join(describe_map(content)))
    print(f"results          {output / 'map.fits'}, {output / 'map.json'}" + (", pictures beside" if plots else ""))
    if content["converged"] is False:
        raise FitError(
            f"the map has not converged ({content['remaining_gain']:.2g} left to gain in ln L); the results in "
            f"{output} say so: use larger --cells, or --method wiener"
        )


def _check(inputs, config, method, lmax, prior_cl, psf, timesteps, smoothing, skies, nside) -> None:
    """Refuse what does not go together, before anything is read."""
    if config is None and not inputs:
        raise InputError("no input was given: name event lists or counts files, or --config FILE.json")
    if config is not None and inputs:
        raise InputError("inputs and --config were both given; one at a time")
    if timesteps is not None and config is None:
        raise InputError("--timesteps has no effect without --config; leave it out")
    if method not in _METHODS:
        raise InputError(f"unknown method {method!r}: choose one of {', '.join(_METHODS)}")
    for option, value in (("--lmax", lmax), ("--prior-cl", prior_cl), ("--psf", psf)):
        if value and method != "wiener":
            raise InputError(f"{option} has no effect with --method {method}; give --method wiener, or leave it out")
    if smoothing is not None and not 0 < smoothing < 180:
        raise InputError(f"--smoothing must lie between 0 and 180 degrees, not {smoothing:g}")
    if nside < 1 or nside & (nside - 1) or nside > 1024:
        raise InputError(f"--nside must be a power of two from 1 to 1024, not {nside}")
    if skies and smoothing is None:
        raise InputError("--skies judges discs: give their radius with --smoothing")


def _configuration_among(inputs: list[str]) -> Path | None:
    """The configuration of multi-llh where it is the only input; `read_inputs` knows what to do with several."""
    return Path(inputs[0]) if len(inputs) == 1 and inputs[0].lower().endswith(".json") else None


def _read_config(config: Path, timesteps, grid: str | None, bin_reference: str | None):
    """Local maps of a configuration of multi-llh, and their counts."""
    from .cli_options import grid_of
    from .exchange import read_exchange
    from .local_maps import to_counts

    local = read_exchange(config, timesteps)
    rings = None
    if grid is not None:
        asked = grid_of(grid)
        if asked.n_ra != len(local[0].counts):
            raise InputError(
                f"--grid {grid}: these files have {len(local[0].counts)} sidereal bins, so the grid must be "
                f"{len(local[0].counts)}x{asked.n_ring}"
            )
        rings = asked.n_ring
    return local, to_counts(local, rings, bin_reference or "start")


def _fitted(counts, method, iterations, lmax, prior_cl, psf, cells, rate_bins):
    """The map, and the prior C_l of a Wiener map with whether it was fitted."""
    block = None
    if cells is not None:
        parts = cells.lower().split("x")
        if len(parts) != 2 or not all(p.strip().isdecimal() for p in parts):
            raise InputError(f"--cells takes BINSxRINGS such as 2x2, not {cells!r}")
        block = (int(parts[1]), int(parts[0]))
    if method == "ml":
        from .maps import sky_map as free

        return free(counts, block, rate_bins), None
    if method == "iterative":
        from .maps import iterative_map

        return iterative_map(counts, iterations, block, rate_bins), None
    from .wiener import wiener_map

    degree = 20 if lmax is None else lmax
    result = wiener_map(counts, degree, numbers(prior_cl, "--prior-cl"), _windows(psf, counts, degree), rate_bins)
    return result.map, (result.power, result.fitted)


def _windows(psf: list[str] | None, counts, l_max: int):
    """b_l of each configuration from --psf."""
    import numpy as np

    from .point_spread import window_of

    if not psf:
        return None
    places = counts.configurations()
    windows = [np.ones(l_max + 1) for _ in places]
    names = [s.name for s in counts.sites]
    for text in psf:
        label, _, words = text.rpartition("=")
        chosen = [k for k, p in enumerate(places) if label in ("", names[p[0]], counts.label(p))]
        if not chosen:
            known = ", ".join(dict.fromkeys([*names, *(counts.label(p) for p in places)]))
            raise InputError(f"--psf {text}: there is no observatory or configuration {label!r}; there are {known}")
        for k in chosen:
            windows[k] = window_of(words, l_max)
    return windows


def _analysed(sky, power, nside, smoothing, remove_lmax, skies, seed, threshold, declinations):
    """Discs, null hypothesis, spots and post-trial significances of a map."""
    import numpy as np

    from .discs import DiscScan, disc_map, multipoles_removed
    from .map_products import extreme_pixels, frame_of, healpix_map, spots
    from .map_report import Analysis, contrast_shown, significance_shown
    from .post_trial import PostTrial, isotropic_maxima

    null = multipoles_removed(sky, remove_lmax) if remove_lmax else None
    discs, hottest, coldest = None, None, None
    if smoothing is not None:
        scan = DiscScan(sky.seen, sky.grid, math.radians(smoothing), None if null is None else null.basis)
        if not (scan.information > 0).any():
            raise InputError("no disc has enough exposure to be judged: use another --smoothing")
        discs = disc_map(sky, scan.radius, null, scan)
        number = 200 if skies is None else skies
        if number:
            high, low = _with_progress(number, lambda tell: isotropic_maxima(
                scan, number, np.random.default_rng(seed), tell))  # fmt: skip
            hottest = PostTrial(float(np.nanmax(discs.significance)), high)
            coldest = PostTrial(float(np.nanmin(discs.significance)), -low)
    shown = healpix_map(sky, nside, discs, declinations)
    analysis = Analysis(sky, shown, discs, null, remove_lmax, [], hottest, coldest, power)
    contrast = contrast_shown(analysis)
    error = sky.error if discs is None else discs.error
    if discs is None and null is None:
        found = extreme_pixels(shown, sky.grid, frame_of(sky.counts))
    else:
        found = spots(
            significance_shown(analysis),
            contrast,
            error,
            sky.grid,
            frame_of(sky.counts),
            math.radians(5 if smoothing is None else max(smoothing, 1)),
            threshold if smoothing is not None else math.inf,
        )
    return Analysis(sky, shown, discs, null, remove_lmax, found, hottest, coldest, power)


def _with_progress(total: int, work):
    """Run work(tell) with a progress bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("isotropic skies"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("skies", total=total)
        return work(lambda n: bar.advance(task, n))


def _written(analysis, output: Path, plots: bool, checks) -> dict:
    """Write map.fits, pictures and map.json; they take the place of older ones together."""
    from .files import together
    from .map_products import write_healpix
    from .map_report import dipole_of, map_summary, write_map_pictures
    from .report import write_json

    counts = analysis.sky.counts
    software = map_summary(analysis, 0.0)["software"]
    keywords = {"CREATOR": software, "TIMEFRAM": counts.time_frame, "METHOD": analysis.sky.method}
    if analysis.discs is not None:
        keywords["RADIUS"] = math.degrees(analysis.discs.radius)
    block = None if checks is None else checks(dipole_of(analysis))
    content = map_summary(analysis, time.process_time(), block)
    make_folder(output)
    with together(output) as folder:
        write_healpix(folder / "map.fits", analysis.healpix, keywords)
        if plots:
            write_map_pictures(analysis, folder)
        content["cpu_seconds"] = time.process_time()
        write_json(folder / "map.json", content)
    return content
