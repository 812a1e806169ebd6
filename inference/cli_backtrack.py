"""The command `diffcr backtrack`: skies of cosmic rays traced back through magnetic turbulence."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcr.errors import FitError, InputError

from .cli_devices import DevicesOption, HostsOption
from .cli_options import Output, make_folder, numbers, require_folder
from .cli_progress import Counting
from .devices import start_devices
from .hosts import first_only, is_first, joined, parse_hosts

_LONG = 2e10
"""Steps of particles of a run that is told to be long: a quarter of an hour and more on two cores."""

_LARGEST = {"bend-over": 100.0, "power-law": 5.0}
"""Largest wavelength by default, in L_c: that of a power law makes its coherence length 1."""


def backtrack(
    realisations: Annotated[
        int, typer.Option(help="Realisations of the turbulence, such as 100; errors come from their scatter.")
    ] = 40,
    nside: Annotated[
        int, typer.Option(help="HEALPix resolution of the sky, a power of two: 12 nside^2 directions, such as 64.")
    ] = 32,
    omega_t: Annotated[float, typer.Option(help="Time traced back, in units of 1/Omega in B_0, such as 100.")] = 100.0,
    omega_step: Annotated[
        float, typer.Option(help="Step, in units of 1/Omega in B_0; 0.1 is enough for C_l, 0.05 to be sure.")
    ] = 0.1,
    samples: Annotated[int, typer.Option(help="Times kept, evenly spread up to the last, such as 10.")] = 10,
    sigma2: Annotated[float, typer.Option(help="Strength of the turbulence <dB^2>/B_0^2, such as 1.")] = 1.0,
    larmor_radius: Annotated[
        float,
        typer.Option(
            help="Larmor radius in B_0, in L_c (bend-over length), such as 0.1; negative for negative charges."
        ),
    ] = 0.1,
    spectrum: Annotated[
        str,
        typer.Option(
            help="bend-over: P(k) ~ (k L_c)^2 / (1 + (k L_c)^(slope+2)); power-law: P(k) ~ k^-slope, where L_c is just "
            "the unit of lengths.",
            metavar="KIND",
        ),
    ] = "bend-over",
    slope: Annotated[float, typer.Option(help="Slope of P(k), such as 1.6667 (Kolmogorov) or 1.5.")] = 5 / 3,
    lambda_min: Annotated[float, typer.Option(help="Smallest wavelength, in L_c, such as 0.01.")] = 0.01,
    lambda_max: Annotated[
        float | None, typer.Option(help="Largest wavelength, in L_c (default 100; power-law 5).")
    ] = None,
    field: Annotated[
        str,
        typer.Option(
            help="How the turbulence is summed: ladder (waves an octave apart, fastest), plane (waves), or grid.",
            metavar="KIND",
        ),
    ] = "ladder",
    size: Annotated[
        int | None,
        typer.Option(
            help="Directions of the ladder (default 80), number of plane waves (300), or cells along a grid (64)."
        ),
    ] = None,
    geometry: Annotated[
        str, typer.Option(help="Wavevectors: isotropic, slab (along B_0), 2d (across it) or composite.")
    ] = "isotropic",
    slab_fraction: Annotated[float, typer.Option(help="Share of the slab in the power of a composite.")] = 0.2,
    helicity: Annotated[float, typer.Option(help="Helicity of the turbulence, from -1 to 1.")] = 0.0,
    precision: Annotated[
        str, typer.Option(help="Of the paths: single (enough for averages) or double.", metavar="KIND")
    ] = "single",
    devices: DevicesOption = None,
    hosts: HostsOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)] = 0,
    gradient: Annotated[
        str, typer.Option(help="Angles in degrees between density gradient and B_0, such as 0,45,90.", metavar="A1,A2")
    ] = "0,90",
    step_check: Annotated[
        int, typer.Option(help="Trace so many realisations again with half the step, and compare; 0: none.", min=0)
    ] = 8,
    lmax: Annotated[int | None, typer.Option(help="Highest degree of C_l (default 3 nside - 1).")] = None,
    keep_maps: Annotated[
        str, typer.Option(help="Displacement maps to keep in backtrack.nc: first, all or none.", metavar="WHICH")
    ] = "first",
    data: Annotated[
        str | None, typer.Option(help="Measured spectrum to draw beside: CSV with columns l,C_l,error.", metavar="FILE")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time a slice, print steps, memory and total time, and write nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in -o; more --realisations prolong it.")
    ] = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-backtrack"),
) -> None:
    """Trace cosmic rays back through random magnetic turbulence: the small-scale anisotropy that it makes.

    B_0 lies along z. Writes backtrack.nc (spectra of each realisation, means, errors), sky_*.fits, power_*.csv,
    backtrack.json and pictures. Every finished realisation is kept in DIR/realisations: after any end, the same
    command with --resume goes on bit for bit. Exit code 3 where half the step gives other spectra.

    Example: [bold]diffcr backtrack --nside 64 --realisations 100 --dry-run[/bold]
    """
    # First of all: once anything has run on a processor it stays one device, and healpy's threads wait as they did.
    # Those that wait by spinning slow its transforms a thousandfold where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with joined(parse_hosts(hosts), lambda: start_devices(devices)) as chosen:
        angles = parse_angles(gradient)
        setup = _setup(
            chosen_spectrum(spectrum, slope, lambda_min, lambda_max),
            field,
            precision,
            omega_t=omega_t,
            omega_step=omega_step,
            samples=samples,
            sigma2=sigma2,
            larmor_radius=larmor_radius,
            size=size,
            nside=nside,
            geometry=geometry,
            slab_fraction=slab_fraction,
            helicity=helicity,
            seed=seed,
        )
        from .backtrack import Run
        from .backtrack_cost import require_memory
        from .backtrack_tables import read_power

        run = Run(setup, realisations, min(step_check, max(realisations, 0)), lmax, keep_maps)
        measured = None if data is None else read_power(data)
        require_memory(run)
        if dry_run:
            _tell_cost(run, chosen)
            return
        first_only(lambda: require_folder(output))
        first_only(lambda: make_folder(output))
        _trace_and_write(run, chosen, output, resume, angles, measured, plots)


def _trace_and_write(run, devices, output: Path, resume: bool, angles, measured, plots: bool) -> None:
    from .backtrack import FOLDERS, trace

    if resume and is_first() and not any((output / FOLDERS[0]).glob("*.npz")):
        print(
            f"note             {output / FOLDERS[0]} holds no realisation: starting from the beginning", file=sys.stderr
        )
    particle_steps = run.setup.pixels * run.setup.steps * (run.realisations + 2 * run.step_check)
    if particle_steps > _LONG and is_first():
        print(
            f"note             {particle_steps:.2g} steps of particles: --dry-run tells how long they take",
            file=sys.stderr,
        )
    begun = time.monotonic()
    with Counting("tracing", "traced", "realisations") as bar:
        result = trace(run, output, resume, bar, devices)
    cost = {
        "seconds_of_this_process": time.monotonic() - begun,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "cores": os.cpu_count(),
    }
    first_only(lambda: _write(result, cost, output, angles, measured, plots))


def _write(result, cost: dict, output: Path, angles, measured, plots: bool) -> None:
    from .backtrack_report import describe, write_backtracking
    from .backtrack_summary import analyse

    summary = write_backtracking(analyse(result, angles), output, plots, measured, cost)
    print("\n".join(describe(summary)))
    for note in summary["notes"]:
        print(f"note             {note}", file=sys.stderr)
    print(
        f"results          {output / 'backtrack.json'}, {output / 'backtrack.nc'}"
        + (", pictures there" if plots else "")
    )
    check = summary["step_check"]
    if check is not None and not check["passed"]:
        more = f" (and {len(check['problems']) - 1} more)" if len(check["problems"]) > 1 else ""
        raise FitError(f"the step is too long: {check['problems'][0]}{more}; lower --omega-step; results were written")


def _tell_cost(run, devices) -> None:
    from diffcr.backtracking import cost

    from .backtrack_cost import estimate
    from .backtrack_report import describe_estimate

    print("note             timing a slice of the run takes some seconds", file=sys.stderr)
    words = {
        "realisations": run.realisations,
        "step_check": run.step_check,
        "pixels": run.setup.pixels,
        "steps": run.setup.steps,
        "waves": cost(run.setup, 1).waves,
        "representation": run.setup.representation,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }
    print("\n".join(describe_estimate(estimate(run, devices), words)))


# Options ------------------------------------------------------------------------------------------------


def parse_angles(text: str) -> tuple[float, ...]:
    """Angles between gradient and B_0 [deg] from "0,90".

    Raises:
        InputError: If it is not one or more different angles from 0 to 180.
    """
    angles = numbers(text, "--gradient")
    if not all(0 <= each <= 180 for each in angles) or len(set(angles)) < len(angles):
        raise InputError(f"--gradient takes different angles to B_0 from 0 to 180 degrees, such as 0,90, not {text!r}")
    return tuple(angles)


def chosen_spectrum(kind: str, slope: float, smallest: float, largest: float | None) -> Any:
    """The spectrum of the options, lengths in L_c.

    Raises:
        InputError: If the kind is unknown or the wavelengths do not increase.
    """
    from diffcr.spectrum import BendOver, PowerLaw

    if kind not in _LARGEST:
        raise InputError(f"--spectrum must be {' or '.join(_LARGEST)}, not {kind!r}")
    largest = _LARGEST[kind] if largest is None else largest
    if not 0 < smallest < largest < float("inf"):
        raise InputError(
            f"--lambda-min {smallest:g} must be above 0 and below --lambda-max {largest:g}: exchange them, or widen "
            "the band"
        )
    if kind == "power-law":
        return PowerLaw(slope, smallest=smallest, largest=largest)
    return BendOver(slope=slope, smallest=smallest, largest=largest)


def _setup(spectrum, field: str, precision: str, **rest) -> Any:
    """The experiment of the options; what is out of range is told in their names."""
    import jax

    from diffcr.backtracking import Setup
    from diffcr.turbulence import draw_plane_waves

    for name, value in (("--omega-t", rest["omega_t"]), ("--omega-step", rest["omega_step"])):
        if not 0 < value < float("inf"):
            raise InputError(
                f"{name} must be above 0, not {value:g}: it is a time in units of 1/Omega, such as 100 or 0.1"
            )
    radius = abs(rest["larmor_radius"])
    if not 0 < radius < float("inf"):
        raise InputError(f"--larmor-radius must be a length in L_c other than 0, not {rest['larmor_radius']:g}")
    if not 0 < rest["sigma2"] < float("inf"):
        raise InputError(f"--sigma2 must be above 0, not {rest['sigma2']:g}: without turbulence nothing is random")
    step, wave = min(rest["omega_step"], rest["omega_t"]) * radius, spectrum.smallest
    if step > wave * (1 + 1e-9):
        raise InputError(
            f"--omega-step {rest['omega_step']:g} is a step of {step:g} L_c, longer than the smallest wave, "
            f"lambda_min = {wave:g} L_c: use --omega-step {wave / radius:.4g} or less, or --lambda-min {step:g} or more"
        )
    if precision not in ("single", "double"):
        raise InputError(f"--precision must be single or double, not {precision!r}")
    if field not in ("ladder", "plane", "grid"):
        raise InputError(f"--field must be ladder, plane or grid, not {field!r}")
    setup = Setup(
        spectrum=spectrum, representation=field, precision={"single": "float32", "double": "float64"}[precision], **rest
    )
    # What only a draw would refuse is refused now, by a small one.
    options = {name: rest[name] for name in ("geometry", "helicity", "slab_fraction")}
    draw_plane_waves(jax.random.key(0), spectrum, 1 if rest["size"] == 1 else 2, **options)
    return setup
