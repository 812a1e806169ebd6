"""The command `diffcr scan`: a task at every point of a design, on one machine or a cluster."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_options import Output, make_folder, require_folder
from .cli_progress import Counting
from .cli_workers import SchedulerOption, SlurmOption, ThreadsOption, WorkersOption, workers_of
from .words import duration

_LARGE = 2e9
"""Bytes of an input whose checksum takes seconds."""


def scan(
    file: Annotated[
        Path, typer.Argument(help="TOML file: what is run, on what data, and what varies.", metavar="FILE")
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Count points, time a few, print memory and total time, and write nothing. Exit code 3 where none of "
            "those that were timed has a result.",
        ),
    ] = False,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    slurm: SlurmOption = None,
    threads: ThreadsOption = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-scan"),
) -> None:
    """Fit, sample, predict, backtrack, calibrate, map or draw toys at every point of a grid or a random design.

    FILE says run = "fit" (or so) and inputs = "events.csv", and has tables: "fixed" of settings that are held, "vary"
    with a list of values or a range for each that varies, and if wanted "design" (how points are drawn) and "best".

    Writes scan.nc (xarray), scan.json and pictures. Every finished point is kept in DIR/points: after any end the same
    command goes on with what is missing, and a wider scan into the same DIR reuses what it has. Exit code 3 where
    points failed or did not converge.

    Example: [bold]diffcr scan degrees.toml --workers 4 -o degrees[/bold]
    """
    from .scan import run_scan
    from .scan_points import plan_scan
    from .scan_spec import read_spec

    where = workers_of(workers, scheduler, slurm, threads)
    require_folder(output)
    plan = plan_scan(read_spec(file), _reading)
    if dry_run:
        _tell_cost(plan, output, where)
        return
    make_folder(output)
    with Counting("scanning", "scanned", "points") as bar:
        result = run_scan(plan, output, where, bar, _note, " ".join(["diffcr", *sys.argv[1:]]), plots)
    print("\n".join(describe(result.summary)))
    print(f"results          {output / 'scan.json'}, {output / 'scan.nc'}" + (", pictures there" if plots else ""))
    if result.summary["failed"] == result.summary["points"]:
        raise InputError(f"no point has a result; the first: {result.summary['first_message']}")
    problem = problem_of(result.summary)
    if problem:
        raise FitError(f"{problem}; results were written")


def describe(summary: dict) -> list[str]:
    """A scan in a few lines."""
    shape = " x ".join(str(n) for n in summary["design"]["shape"])
    out = [f"points           {summary['points']} ({summary['design']['kind']}, {shape}), {summary['failed']} failed"]
    for name, axis in summary["axes"].items():
        values = axis.get("values")
        span = f"{axis['low']:g} to {axis['high']:g}" if values is None else _span(values)
        out.append(f"varied           {name}: {span} {axis.get('units', '')}".rstrip())
    best = summary["best"]
    if best is not None:
        at = ", ".join(f"{name} = {_shown(value)}" for name, value in best["settings"].items())
        out.append(f"best             {best['sense']} {best['quantity']} {best['value']:.6g} at {at}")
        if summary["run"] in ("fit", "map") and summary["points"] > 1:
            out.append(f"                 of {summary['points']} that were looked at; no trials are counted")
        if best["passed_over"]:
            out.append(f"                 {best['passed_over']} points that did not converge are passed over")
    return out


def problem_of(summary: dict) -> str | None:
    """Why a scan is not complete, in one line; None where it is."""
    if summary["failed"]:
        return f"{summary['failed']} of {summary['points']} points failed, the first: {summary['first_message']}"
    if summary["not_converged"]:
        return f"{summary['not_converged']} of {summary['points']} points did not converge (see converged in scan.nc)"
    return None


def _span(values: list) -> str:
    if len(values) > 8:
        return f"{_shown(values[0])} to {_shown(values[-1])}, {len(values)} values"
    return ", ".join(_shown(value) for value in values)


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reading(name: str) -> None:
    if not name.startswith("dataset:") and Path(name).stat().st_size > _LARGE:
        _note(f"reading {name} for its checksum")


def _note(text: str) -> None:
    print(f"note             {text}", file=sys.stderr)


def _tell_cost(plan, output: Path, workers) -> None:
    from .scan_cost import cost_of
    from .slurm import read_slurm

    _note("timing a few points takes as long as they take")
    cost = cost_of(plan, output, _note)
    number = read_slurm(workers.slurm).jobs if workers.slurm is not None else workers.number or 1
    shape = " x ".join(str(n) for n in plan.spec.design.shape)
    print(f"points           {cost.points} ({plan.spec.design.kind}, {shape}), {cost.done} done, {cost.left} left")
    if cost.refused:
        print(f"refused          {cost.refused} points whose settings do not go together")
    print(f"groups           {cost.groups} that share compiled programs, in {cost.batches} batches")
    print(f"memory           {cost.memory / 1e9:.2g} GB for each worker")
    if cost.left and math.isfinite(cost.point_seconds):
        print(f"time of a point  {duration(cost.point_seconds)}, and {duration(cost.start_seconds)} to start a group")
        where = f"{number} worker{'s' if number > 1 else ''}"
        print(f"total            {duration(cost.seconds(number))} on {where}")
    if math.isfinite(cost.disk):
        print(f"disk             {cost.disk / 1e6:.3g} MB in {output / 'points'}")
    if cost.timed and len(cost.failures) == cost.timed:
        raise FitError(f"no point that was timed has a result; the first: {cost.failures[0]}")
