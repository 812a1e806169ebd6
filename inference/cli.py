"""The `diffcr` command: demo, fit, map, estimate, bin, simulate, unblind, sample, compare, calibrate,
spectrum, predict, sources, backtrack, lens, scan, toys, devices.

Exit codes: 0 done, 2 bad input (one line says what, where and the remedy), 3 finished but not converged,
130 interrupted.
"""

import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_backtrack import backtrack
from .cli_compare import compare
from .cli_devices import devices
from .cli_estimate import estimate
from .cli_lens import lens
from .cli_many_files import FilesArgument, ListOption, ManyFiles, SkipBadFiles, are_many, inputs_of_bin
from .cli_map import sky_map
from .cli_options import (
    Azimuth,
    BinReference,
    Blind,
    Columns,
    Cube,
    End,
    EnergyEdges,
    EnergyMax,
    EnergyMin,
    Epochs,
    Equinox,
    Gamma,
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
    grid_of,
    interval,
    known_exposure,
    make_folder,
    moment,
    numbers,
    read_inputs,
    require_folder,
    require_nc,
    tell_counts,
    tell_inputs,
)
from .cli_posterior import calibrate, sample
from .cli_predict import predict, sources
from .cli_scan import scan
from .cli_spectrum import spectrum
from .cli_toys import toys
from .cli_workers import SchedulerOption, SlurmOption, ThreadsOption, WorkersOption, workers_of
from .devices import POOL, restore
from .workers import SCRATCH

_MOST_EVENTS = 1e15
"""Sums of more events than 2^53 are no longer exact."""

_SKY_STREAM = 1
"""Second word of the seed of random multipoles; the counts have the seed alone."""

_THREADED = {"predict", "backtrack", "lens"}
"""Commands whose JAX has a thread for each core; the others have one, as `devices.warn_of_threads` says why."""

_WRITTEN_INTO = ("segments", "realisations", "half_step", "points", "blocks")
"""Folders in that of the results, of which an interrupt removes what is half-written."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Arrival-direction anisotropy of cosmic rays: from event lists to the dipole, with honest errors.",
)


def main() -> None:
    """Entry point: runs a command and turns failures into one line and an exit code."""
    import jax

    jax.config.update("jax_enable_x64", True)
    previous, threads = _interrupt_at_once(), os.environ.get(POOL)
    if not _THREADED & set(sys.argv[1:2]):
        os.environ.setdefault(POOL, "1")
    try:
        code = app(standalone_mode=False, prog_name="diffcr")
        sys.stdout.flush()
    except InputError as error:
        _fail(error, 2)
    except FitError as error:
        _fail(error, 3)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except (BrokenPipeError, SystemExit):
        # Whoever read the output has gone (typer makes that an exit). Results are on disk by the time anything
        # is printed, and Python must not complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(
            f"{error.filename or 'output'}: {error.strerror or error}; check the path, its permissions and the disk",
            2,
        )
    except MemoryError:
        _fail("out of memory; use a smaller --grid or fewer inputs at once", 2)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except Exception as error:
        # Wrong usage, as typer's own (vendored or not) click reports it; anything else is a fault of ours.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _fail(_usage(error), 2)
        raise
    finally:
        restore(POOL, threads)
        if previous is not None:
            signal.signal(signal.SIGINT, previous)
    if code == 130:
        _fail("interrupted", 130)
    sys.exit(code or 0)


def _interrupt_at_once():
    """Make Ctrl-C end the process with 130 wherever it is; returns the previous handler.

    An exception raised inside compiled code, or in a thread's callback, may be lost there, or bring the whole
    process down on the way out. Files appear under their names only when complete; what is half-written goes.
    """
    if threading.current_thread() is not threading.main_thread():
        return None

    def leave(*_):
        for folder in {Path.cwd(), *(p for a in sys.argv[1:] for p in (Path(a), Path(a).parent) if p.is_dir())}:
            for place in (folder, *(folder / name for name in _WRITTEN_INTO), *folder.glob("*.nc.parts")):
                for part in place.glob(f".*.{os.getpid()}.part"):
                    shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        for scratch in Path(tempfile.gettempdir()).glob(f"{SCRATCH}-{os.getpid()}-*"):
            shutil.rmtree(scratch, ignore_errors=True)
        os.write(2, b"diffcr: interrupted\n")
        os._exit(130)

    return signal.signal(signal.SIGINT, leave)


def _usage(error) -> str:
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "diffcr")
    # An error without a message is a bare `diffcr`, for which typer has printed the help.
    message = error.format_message().strip().rstrip(".") or "no command was given"
    return f"{message}; see {command} --help"


def _fail(message, code: int) -> None:
    text = " ".join(str(message).split())
    print(f"diffcr: {'error: ' if code == 2 else ''}{text}", file=sys.stderr)
    sys.exit(code)


@app.command()
def demo(output: Output = Path("diffcr-demo")) -> None:
    """Fit the dipole of the shipped Auger list (E > 8 EeV, 2004-2016) and say what to do next.

    Example: [bold]diffcr demo -o diffcr-demo[/bold]
    """
    from .report import describe

    require_folder(output)
    counts = read_inputs(["dataset:auger-8eev"], None)
    summary = _fit_and_write(counts, output, pictures=True)
    rayleigh = summary["rayleigh"]
    print("Dipole of 32187 events above 8 EeV (Pierre Auger Collaboration 2017, CC BY-SA 4.0)")
    print("rate and acceptance fitted from the same events\n")
    print("\n".join(describe(summary)))
    print(
        f"\nfirst harmonic   {100 * rayleigh['amplitude']:.2f} +- {100 * rayleigh['amplitude_error']:.2f} %, phase "
        f"{rayleigh['phase_deg']:.1f} degrees, p = {10 ** rayleigh['log10_p']:.1e} (uniform exposure assumed)\n"
        "published        4.7 +0.8 -0.7 %, phase 100 +- 10 degrees, p = 2.6e-08 (Science 357 (2017) 1266)\n"
        "\nThe first harmonic trusts that the exposure is even in right ascension; the fit does not, which costs it\n"
        "precision. The dipole is larger than the harmonic by 1/<cos dec>, which is 1.28 here."
    )
    print(f"\nresults          {output / 'fit.json'}")
    print(f"pictures         {output / 'panel.png'} and {len(_pictures(output)) - 1} more there")
    print("next             diffcr fit EVENTS --site NAME -o DIR   (diffcr fit --help)")
    _exit_by(summary)


@app.command()
def fit(
    inputs: Inputs,
    site: SiteOption = None,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
    lmax: Annotated[int, typer.Option(help="Highest fitted degree; 1 is the equatorial dipole.")] = 1,
    exposure: Annotated[
        str | None,
        typer.Option(
            help="known: the acceptance of the site is taken as cos(zenith) up to its cut, and delta_N is fitted; "
            "known:K for cos^K; FILE.npy for a measured acceptance (ring, hour angle).",
            metavar="known|FILE",
        ),
    ] = None,
    prior_cl: Annotated[
        str | None,
        typer.Option(help="Gaussian prior C_l for l >= 2: one value, or one per l from 2.", metavar="C2,C3,.."),
    ] = None,
    rate_bins: Annotated[
        int | None, typer.Option(help="Free rates (default: as many as hold 100 events each).")
    ] = None,
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
    systematics: Annotated[
        bool,
        typer.Option(
            "--systematics",
            help="Add the systematic errors of the dipole: reads the inputs again in control frames and in parts.",
        ),
    ] = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-fit"),
) -> None:
    """Fit the dipole (or all m != 0 multipoles to --lmax) with rate and acceptance free.

    Writes fit.json, counts.nc and pictures. Several inputs share the sky; each observatory, energy bin and epoch keeps
    its own rate and acceptance.

    Example: [bold]diffcr fit events.csv --site auger --columns time=UTC,ra=RA,dec=Dec -o results[/bold]
    """
    import numpy as np

    from .report import describe

    require_folder(output)
    prior_power = numbers(prior_cl, "--prior-cl")
    if prior_power is not None and lmax == 1:
        raise InputError("--prior-cl has no effect on the dipole, whose prior is flat; raise --lmax, or leave it out")
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
    if exposure is not None and zenith_max is None:
        # A known acceptance ends at the zenith cut: so must the events, of which some lie beyond by rounding.
        options["zenith_max"] = "site"
    reader = {
        "columns": columns,
        "time_format": time_format,
        "azimuth": azimuth,
        "prefer": prefer,
        "equinox": equinox,
        "skip_bad_rows": skip_bad_rows,
    }
    counts = blinded(read_inputs(inputs, site, **reader, **options), blind)
    checks = None
    if systematics:
        from .control_runs import Source, systematics_of

        checks = systematics_of(counts, Source(tuple(inputs), site, reader, options), gamma)
    known = known_exposure(exposure, counts)
    summary = _fit_and_write(
        counts,
        output,
        pictures=plots,
        systematics=checks,
        l_max=lmax,
        exposure=known,
        prior_power=None if prior_power is None else np.asarray(prior_power),
        rate_bins=rate_bins,
    )
    print("\n".join(describe(summary)))
    print(f"results          {output / 'fit.json'}" + (f", pictures in {output}" if plots else ""))
    _exit_by(summary)


@app.command("bin")
def bin_command(
    inputs: FilesArgument = None,
    listing: ListOption = None,
    site: SiteOption = None,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
    grid: Grid = None,
    time_frame: TimeFrame = None,
    epochs: Epochs = None,
    merge_epochs: Annotated[
        bool,
        typer.Option("--merge-epochs", help="Add all epochs; refused, with the result of a test, unless --force."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Merge epochs although they are different configurations.")
    ] = False,
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
    skip_bad_files: SkipBadFiles = False,
    cube: Cube = False,
    bin_reference: BinReference = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Counts file to write.", metavar="FILE.nc")] = Path(
        "counts.nc"
    ),
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    slurm: SlurmOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Bin event lists or local maps (the JSON file of multi-llh), or join counts files, into one counts file.

    Many event lists are read in batches, by --workers where asked; a run that was cut short goes on where it was when
    the same command is given again. What became of each file stands beside the counts in COUNTS.files.csv.

    Example: [bold]diffcr bin night1.parquet night2.parquet --site hawc -o counts.nc[/bold]

    Example: [bold]diffcr bin '2024/*.parquet' --site hawc --workers 8 -o counts.nc[/bold]
    """
    from .epochs import merge_epochs as merge

    require_nc(output)
    if force and not merge_epochs:
        raise InputError("--force has no effect without --merge-epochs; leave it out, or give both")
    if cube and (blind is not None or merge_epochs):
        raise InputError("--cube goes neither with --blind nor with --merge-epochs, which drop it; leave one out")
    named, place = inputs_of_bin(inputs, listing), workers_of(workers, scheduler, slurm, threads)
    reader = {
        "columns": columns,
        "time_format": time_format,
        "azimuth": azimuth,
        "prefer": prefer,
        "equinox": equinox,
        "skip_bad_rows": skip_bad_rows,
        **({"cube": True} if cube else {}),
        **binning_options(
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
        ),
    }
    many = None
    if bin_reference is None and are_many(named, site, skip_bad_files, place):
        many = ManyFiles(named, site, output, skip_bad_files, place, **reader)
    counts = read_inputs(named.files, site, bin_reference=bin_reference, **reader) if many is None else many.counts
    if merge_epochs:
        counts = merge(counts, force)
    counts = blinded(counts, blind)
    counts.save(output)
    tell_inputs(counts)
    if many is not None:
        many.finish()
    tell_counts(counts, output)


@app.command()
def simulate(
    site: Annotated[str, typer.Option(help="Observatory, or LAT,LON,ZENITH in degrees.")],
    events: Annotated[float, typer.Option(help="Expected number of events.", metavar="N")],
    dipole: Annotated[str, typer.Option(help="delta_0h,delta_6h[,delta_N] in J2000.", metavar="D0H,D6H")] = "0,0",
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)] = 0,
    event_list: Annotated[
        Path | None,
        typer.Option(help="Draw events one by one and write them here (.csv, .parquet).", metavar="FILE"),
    ] = None,
    grid: Grid = None,
    start: Annotated[
        str, typer.Option("--from", help="Start of data taking, date or MJD.", metavar="DATE")
    ] = "2016-01-01",
    end: Annotated[str, typer.Option("--to", help="End of data taking.", metavar="DATE")] = "2017-01-01",
    zenith_max: Annotated[float | None, typer.Option(help="Zenith cut of the site, in degrees.", metavar="DEG")] = None,
    acceptance: Annotated[str, typer.Option(help="cos: cos^K(zenith); attenuated: by the atmosphere.")] = "cos",
    power: Annotated[float, typer.Option(help="K, the power of cos(zenith).")] = 1.0,
    attenuation: Annotated[
        float | None, typer.Option(help="Vertical depth over attenuation length, for attenuated.")
    ] = None,
    azimuth_terms: Annotated[
        str | None, typer.Option(help="Azimuthal modulation K:AMPLITUDE:PHASE_DEG,..", metavar="TERMS")
    ] = None,
    seasonal: Annotated[float, typer.Option(help="Amplitude of the annual wave of the rate.")] = 0.0,
    diurnal: Annotated[float, typer.Option(help="Amplitude of the solar-diurnal wave of the rate.")] = 0.0,
    modulation: Annotated[float, typer.Option(help="Annual modulation of the diurnal wave.")] = 0.0,
    gap: Annotated[
        list[str] | None,
        typer.Option(help="Dates START,END without livetime; may be repeated.", metavar="START,END"),
    ] = None,
    weight_spread: Annotated[float, typer.Option(help="Spread of the logarithm of log-normal event weights.")] = 0.0,
    sky: Annotated[
        Path | None,
        typer.Option(
            help="Structure added to the dipole: multipoles (.npy, J2000) or a HEALPix FITS map of the relative "
            "intensity; the .sky.npy of another simulation holds its whole sky.",
            metavar="FILE",
        ),
    ] = None,
    sky_cl: Annotated[
        str | None, typer.Option(help="Random Gaussian multipoles of these C_l, l = 2, 3, ..", metavar="C2,C3,..")
    ] = None,
    power_law: Annotated[
        str | None,
        typer.Option(help="Random Gaussian multipoles of C_l = C2 (l / 2)^-SLOPE to --sky-lmax.", metavar="C2,SLOPE"),
    ] = None,
    sky_lmax: Annotated[
        int | None, typer.Option(help="Highest degree of --power-law (default 20) or kept of --sky.", metavar="L")
    ] = None,
    exchange: Annotated[
        Path | None,
        typer.Option(help="Write local HEALPix maps as multi-llh reads them into this folder.", metavar="FOLDER"),
    ] = None,
    nside: Annotated[int | None, typer.Option(help="Resolution of --exchange (default 64).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Counts file to write.", metavar="FILE.nc")] = Path(
        "counts.nc"
    ),
) -> None:
    """Simulate one observatory with known truth: Poisson counts, and an event list or local maps if asked for.

    A sky with multipoles is written beside the counts (counts.sky.npy); give it to a second observatory as --sky, with
    another --seed.

    Example: [bold]diffcr simulate --site hawc --events 1e9 --dipole 0.0008,0.0006 --seed 1 -o counts.nc[/bold]
    """
    from diffcr.rate import RateModel
    from diffcr.site import site as find_site

    from .simulate import Simulation, simulate_counts, simulate_event_list, simulate_exchange, write_multipoles

    require_nc(output)
    if exchange is not None:
        require_folder(exchange)
    if exchange is not None and event_list is not None:
        raise InputError("--exchange and --event-list draw different events; one at a time")
    if nside is not None and exchange is None:
        raise InputError("--nside has no effect without --exchange; leave it out")
    if event_list is not None and event_list.is_dir():
        raise InputError(f"{event_list}: this is a folder; give --event-list the name of a file")
    if math.isfinite(events) and events > _MOST_EVENTS:
        raise InputError(f"--events {events:g} is more than can be counted exactly; ask for at most {_MOST_EVENTS:g}")
    first, last = interval(start, end)
    gaps = []
    for pair in gap or []:
        dates = pair.split(",")
        if len(dates) != 2:
            raise InputError(f"--gap takes START,END such as 2016-02-01,2016-02-15, not {pair!r}")
        gaps.append(tuple(moment(x, "--gap") for x in dates))
        if not gaps[-1][0] < gaps[-1][1]:
            raise InputError(f"--gap {pair} ends before it starts; swap the dates")
    model = {"model": acceptance, "power": power}
    if attenuation is not None:
        model["attenuation"] = attenuation
    if azimuth_terms:
        model["azimuth_terms"] = [_azimuth_term(t) for t in azimuth_terms.split(",")]
    components = numbers(dipole, "--dipole")
    if len(components) not in (2, 3):
        raise InputError(f"--dipole takes two or three numbers, D0H,D6H[,DN], not {dipole!r}")
    simulation = Simulation(
        site=find_site(site, None if zenith_max is None else math.radians(zenith_max)),
        num_events=events,
        dipole=tuple(components) + (0.0,) * (3 - len(components)),
        start=first,
        end=last,
        rate=RateModel(seasonal=seasonal, diurnal=diurnal, modulation=modulation, gaps=gaps),
        acceptance=model,
        weight_spread=weight_spread,
        multipoles=_multipoles(sky, sky_cl, power_law, sky_lmax, seed),
    )
    shape = grid_of(grid)
    truth = output.with_suffix(".sky.npy")
    if simulation.multipoles and truth.is_dir():
        raise InputError(f"{truth}: this is a folder, and the true sky is to be written there; change -o")
    if exchange is not None:
        rings = None if grid is None else shape.n_ring
        resolution = 64 if nside is None else nside
        counts = simulate_exchange(simulation, shape.n_ra, resolution, seed, exchange, output.stem, rings)
    elif event_list is not None:
        counts = simulate_event_list(simulation, shape, seed, event_list)
    else:
        counts = simulate_counts(simulation, shape, seed)
    if simulation.multipoles:
        write_multipoles(truth, simulation.sky)
    counts.save(output)
    if event_list is not None:
        print(f"events           {event_list}")
    if exchange is not None:
        print(f"local maps       {exchange / output.stem}.json")
    if simulation.multipoles:
        print(f"true sky         {truth} (multipoles to l = {math.isqrt(len(simulation.sky)) - 1}, dipole included)")
    tell_counts(counts, output)


@app.command()
def unblind(
    counts_file: Annotated[Path, typer.Argument(help="Blinded counts file.", metavar="COUNTS.nc")],
    key: Annotated[str, typer.Option(help="The key the counts were blinded with.", metavar="KEY")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Counts file to write.", metavar="FILE.nc")] = Path(
        "unblinded.nc"
    ),
) -> None:
    """Undo --blind; the counts file records that it was done, and when.

    Example: [bold]diffcr unblind results/counts.nc --key SECRET -o unblinded.nc[/bold]
    """
    from .blinding import unblind as open_up
    from .data import load_counts

    require_nc(output)
    counts = open_up(load_counts(counts_file), key)
    counts.save(output)
    print(f"unblinded        {output} (recorded in its history: {counts.history['unblinded']['time']})")


# Helpers ----------------------------------------------------------------------------------------------


def _fit_and_write(counts, output: Path, pictures: bool, systematics=None, **options) -> dict:
    """Fit, write fit.json, counts.nc and pictures; returns the summary. `systematics` makes its block of the result."""
    from .fit import fit as fit_counts
    from .report import fit_summary, write_json, write_pictures

    result = fit_counts(counts, **options)
    # Nothing can be compared with what is no maximum.
    block = systematics(result) if systematics is not None and result.converged else None
    summary = fit_summary(result, block)
    make_folder(output)
    counts.save(output / "counts.nc")
    if pictures:
        write_pictures(result, output)
    # Last, so that a fit.json always has its counts and pictures beside it.
    write_json(output / "fit.json", summary)
    tell_inputs(counts)
    return summary


def _exit_by(summary: dict) -> None:
    if not summary["converged"]:
        gain = summary["remaining_gain"]
        left = "an unknown amount" if gain is None else f"{gain:.2g}"
        remedy = "add data" if summary["lmax"] == 1 else "lower --lmax, add data or give --prior-cl"
        raise FitError(
            f"the fit did not converge: {left} left to gain in ln L after {summary['num_steps']} steps; "
            f"{remedy}; results were written"
        )


def _pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def _multipoles(sky: Path | None, power: str | None, law: str | None, l_max: int | None, seed: int):
    """Multipoles beyond the dipole that `simulate` was asked for; none by default."""
    import numpy as np

    from .simulate import draw_multipoles, power_law, read_multipoles

    if sum(x is not None for x in (sky, power, law)) > 1:
        raise InputError("--sky, --sky-cl and --power-law each give the multipoles; choose one of them")
    if l_max is not None and sky is None and law is None:
        raise InputError("--sky-lmax has no effect without --sky or --power-law; leave it out")
    if sky is not None:
        values, notes = read_multipoles(sky, l_max)
        for note in notes:
            print(f"note             {sky}: {note}", file=sys.stderr)
        return values
    if law is not None:
        terms = numbers(law, "--power-law")
        if len(terms) != 2:
            raise InputError(f"--power-law takes two numbers, C2,SLOPE, not {law!r}")
        spectrum = power_law(*terms, 20 if l_max is None else l_max)
    elif power is not None:
        spectrum = numbers(power, "--sky-cl")
    else:
        return ()
    # A stream of its own: the sky must not share random numbers with the counts.
    return draw_multipoles(np.random.default_rng([seed, _SKY_STREAM]), spectrum)


def _azimuth_term(text: str) -> tuple[int, float, float]:
    try:
        order, amplitude, phase = text.split(":")
        return int(order), float(amplitude), math.radians(float(phase))
    except ValueError:
        raise InputError(f"--azimuth-terms takes K:AMPLITUDE:PHASE_DEG, not {text!r}") from None


app.command("map")(sky_map)
app.command()(estimate)
app.command()(sample)
app.command()(compare)
app.command()(calibrate)
app.command()(spectrum)
app.command()(predict)
app.command()(sources)
app.command()(backtrack)
app.command()(lens)
app.command()(scan)
app.command()(toys)
app.command()(devices)

if __name__ == "__main__":
    main()
