"""The command that draws and fits simulated skies: `diffcr toys`."""

import math
import sys
import time
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
    Gamma,
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
    grid_of,
    make_folder,
    numbers,
    read_inputs,
    require_folder,
    tell_inputs,
)
from .cli_posterior import Progress, RateBins, Seed
from .cli_workers import SchedulerOption, SlurmOption, ThreadsOption, WorkersOption, workers_of

_OPTIONS = {
    "energy_range": "--energy-min or --energy-max",
    "time_range": "--from or --to",
    "orbital_index": "--remove-orbital",
}
"""Options of binning that have other names than the fields they set."""


def toys(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Event lists, counts files (.nc) or dataset:auger-8eev: toys of the detector that their fit finds. "
            "Without, --site and --events say what is drawn.",
            metavar="[INPUT]...",
        ),
    ] = None,
    site: SiteOption = None,
    events: Annotated[
        str | None,
        typer.Option(
            help="Without inputs: events expected of each --site, one number or one each.", metavar="N1,N2,.."
        ),
    ] = None,
    power: Annotated[
        float | None, typer.Option(help="Without inputs: the acceptance is cos^K(zenith) (default 1).", metavar="K")
    ] = None,
    weight_spread: Annotated[
        float | None, typer.Option(help="Without inputs: spread of the logarithm of log-normal event weights.")
    ] = None,
    number: Annotated[int, typer.Option("--toys", help="Skies to draw.", min=10)] = 10_000,
    dipole: Annotated[
        str,
        typer.Option(
            help="True dipole of a second set of as many skies, in the equator of date; or that of the data.",
            metavar="D0H,D6H|fitted",
        ),
    ] = "0,0",
    seed: Seed = 0,
    rate_bins: RateBins = None,
    block: Annotated[
        int, typer.Option(help="Skies drawn between two saves, and by one worker at a time.", min=1)
    ] = 1000,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Right-ascension bins x declination rings of the toys (default 36x18, or where the grid of a counts "
            "file is no multiple of it, that one). Data are fitted on their own grid.",
            metavar="BINSxRINGS",
        ),
    ] = None,
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
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    slurm: SlurmOption = None,
    threads: ThreadsOption = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-toys"),
) -> None:
    """Draw and fit simulated skies: p-value of the data's dipole, pulls and coverage of errors and limits.

    Isotropic skies always, and as many with a --dipole where one is given. Every rate and the acceptance is free in
    each fit. Writes toys.json, toys.nc (every toy) and pictures. Finished blocks are kept in DIR/blocks: after any end
    the same command does what is missing, and with more --toys it goes on.

    Example: [bold]diffcr toys counts.nc --toys 100000 --dipole fitted --workers 8 -o toys[/bold]
    """
    from .toys import toys as run
    from .toys_output import write_toys

    require_folder(output)
    where = workers_of(workers, scheduler, slurm, threads)
    truth, cells = parse_dipole(dipole), None if grid is None else grid_of(grid)
    common = {"toys": number, "seed": seed, "rate_bins": rate_bins}
    counts = observed = None
    options = binning_options(
        None, time_frame, epochs, zenith_max, energy_min, energy_max, energy_edges, start, end, remove_orbital, gamma
    )
    if inputs:
        _refuse({"--events": events, "--power": power, "--weight-spread": weight_spread}, "with inputs")
        reader = {"columns": columns, "time_format": time_format, "azimuth": azimuth, "prefer": prefer}
        reader |= {"equinox": equinox, "skip_bad_rows": skip_bad_rows}
        counts = blinded(read_inputs(inputs, site, **reader, **options), blind)
        plans, observed = plans_of_data(counts, cells, truth, common)
    else:
        given = {"--columns": columns, "--time-format": time_format, "--azimuth": azimuth, "--equinox": equinox}
        given |= {"--skip-bad-rows": skip_bad_rows or None, "--blind": blind}
        _refuse(
            given | {_OPTIONS.get(name, f"--{name.replace('_', '-')}"): value for name, value in options.items()},
            "without inputs",
        )
        plans = plans_of_detectors(site, events, cells, truth, power, weight_spread, common)
    plans = [plan.replace(block=block) for plan in plans]
    make_folder(output)
    results, before, clock = [], 0, time.monotonic()
    with Progress("toys") as bar:
        for plan in plans:

            def tell(done: int, _, __, before: int = before) -> None:
                bar(before + done, number * len(plans), time.monotonic() - clock)

            results.append(run(plan, where, output, tell))
            before += number
    summary = write_toys(output, *(results if len(results) == 2 else [*results, None]), observed, plots)
    for note in (note for each in results for note in each.notes):
        print(f"note             {note}", file=sys.stderr)
    if counts is not None:
        tell_inputs(counts)
    print("\n".join(describe(summary)))
    print(f"results          {output / 'toys.json'}, {output / 'toys.nc'}" + (", pictures there" if plots else ""))
    if not summary["converged"]:
        worst = max(each["not_converged"] for each in (summary["isotropic"], summary["dipole"]) if each)
        raise FitError(f"{worst} of {number} fits did not converge: draw toys with more events; results were written")


def parse_dipole(text: str) -> tuple[float, float] | str:
    """--dipole: two numbers, or the word fitted.

    Raises:
        InputError: If it is neither.
    """
    if text == "fitted":
        return text
    values = numbers(text, "--dipole")
    if len(values) != 2 or not all(math.isfinite(x) for x in values):
        raise InputError(f"--dipole takes two numbers, D0H,D6H, or fitted, not {text!r}")
    return values[0], values[1]


def plans_of_data(counts, grid, truth, common: dict):
    """Plans of isotropic toys, and of toys with a dipole where one is asked for, and what the data gave.

    Raises:
        InputError: As `fit` and `plan_of_counts`.
        FitError: If the fit of the data did not converge.
    """
    from .fit import fit
    from .toy_detectors import plan_of_counts
    from .toys_report import Observed

    result = fit(counts, rate_bins=common["rate_bins"]).require_converged()
    alone = None
    if any(math.isfinite(x) for x in counts.moments.ravel()):
        alone = fit(counts.replace(moments=None), rate_bins=common["rate_bins"]).require_converged()
    truths = [(0.0, 0.0)] + ([truth] if truth != (0.0, 0.0) else [])
    return [plan_of_counts(result, grid, each, **common) for each in truths], Observed.of(result, alone)


def plans_of_detectors(site, events, grid, truth, power, weight_spread, common: dict):
    """Plans of isotropic toys, and of toys with a dipole where one is asked for, of known observatories.

    Raises:
        InputError: If an option is missing or wrong, or the observatories cannot measure a dipole.
    """
    from diffcr.site import site as find_site

    from .toy_detectors import GRID, plan_of_sites

    if not site or events is None:
        raise InputError("nothing to draw from: name inputs, or give --site and --events, as --site auger --events 3e4")
    if truth == "fitted":
        raise InputError("--dipole fitted needs inputs to fit; name them, or give two numbers")
    expected = numbers(events, "--events")
    if len(expected) not in (1, len(site)):
        raise InputError(f"--events takes one number or one for each of {len(site)} --site, not {len(expected)}")
    plan = plan_of_sites(
        [find_site(name) for name in site],
        expected * (len(site) if len(expected) == 1 else 1),
        grid or GRID,
        (0.0, 0.0),
        power=1.0 if power is None else power,
        weight_spread=0.0 if weight_spread is None else weight_spread,
        **common,
    )
    return [plan] + ([plan.replace(dipole=truth)] if truth != (0.0, 0.0) else [])


def describe(summary: dict) -> list[str]:
    """The toys in a few lines."""
    names = ", ".join(f"{each['name']} ({each['events']:.4g} events)" for each in summary["configurations"])
    speed = summary["toys_per_second"]
    out = [
        f"detectors        {names}",
        f"toys             {summary['toys']} of each sky, {speed:.0f} per second and process",
    ]
    for kind, words in (("isotropic", "isotropic skies"), ("dipole", "with the dipole")):
        part = summary[kind]
        if part is None:
            continue
        if part["not_converged"]:
            out.append(f"not converged    {part['not_converged']} of {part['toys']} ({words})")
        for name in ("delta_0h", "delta_6h"):
            entry = part["calibration"][name]
            out.append(
                f"{name:<17}{words}: pull {entry['pull_mean']:+.3f} +- {entry['pull_mean_error']:.3f}, width "
                f"{entry['pull_width']:.3f} +- {entry['pull_width_error']:.3f}"
            )
        if kind == "dipole":
            inside, limit = part["calibration"]["coverage_ellipse"], part["calibration"]["coverage_upper_limit"]
            out.append(
                f"coverage         68 and 95 % ellipses hold the truth in {inside['68']['share']:.1%} and "
                f"{inside['95']['share']:.1%}, 95 % upper limits in {limit['95']['share']:.1%}"
            )
            found = part["detection"]
            out.append(
                f"detection        3 sigma in {found['3_sigma']['share']:.1%}, 5 sigma in "
                f"{found['5_sigma']['share']:.1%}; median {found['median_significance_sigma']:.1f} sigma"
            )
    shape = summary["isotropic"]["distribution"]
    out.append(
        f"test statistic   isotropic skies: mean {shape['mean']:.3f} +- {shape['mean_error']:.3f} (chi-squared 2), "
        f"Kolmogorov-Smirnov p = {shape['kolmogorov_smirnov_p']:.2g}"
    )
    data = summary["observed"]
    if data is not None:
        out.append(
            f"data             test statistic {data['test_statistic']:.2f}; {data['toys_above']} of {data['toys']} "
            f"toys are above: p = {data['p']:.2g}, 95 % interval {data['p_low_95']:.2g} to {data['p_high_95']:.2g} "
            f"(chi-squared {data['p_chi2']:.2g})"
        )
    out += [f"problem          {text}" for text in summary["problems"]]
    return out


def _refuse(options: dict, where: str) -> None:
    """Refuse options that have no effect."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} has no effect {where}; leave it out")
