"""Options of the commands that spread their work over processes, and how they read."""

from pathlib import Path
from typing import Annotated

import typer

from .workers import Workers

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Worker processes on this machine (default: none, this process).", metavar="N"),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help="Address of a running Dask scheduler you trust.", metavar="ADDRESS"),
]
SlurmOption = Annotated[
    Path | None,
    typer.Option("--slurm", help="Ask Slurm for workers as this TOML file says (docs/scaling.md).", metavar="FILE"),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="Threads inside each of --workers (default: cores / N).", metavar="N")
]


def workers_of(workers: int | None, scheduler: str | None, slurm: Path | None, threads: int | None) -> Workers:
    """Where to run, from the four options.

    Raises:
        InputError: If they contradict each other, or the Slurm file is not good.
    """
    from .slurm import read_slurm

    if slurm is not None:
        read_slurm(slurm)
    return Workers(workers, scheduler, slurm, threads)
