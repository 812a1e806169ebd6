"""The commands that sample: `diffcr sample` and `diffcr calibrate`."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_devices import DevicesOption, HostsOption
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
    known_exposure,
    make_folder,
    numbers,
    read_inputs,
    require_folder,
    tell_inputs,
)

ModelOption = Annotated[str, typer.Option(help="dipole, multipoles, local-field or small-scale.", metavar="MODEL")]
Lmax = Annotated[
    int | None,
    typer.Option(help="Highest degree (default 1; multipoles, small-scale 4; local-field with a profile 3)."),
]
Prior = Annotated[
    list[str] | None,
    typer.Option(
        "--prior",
        help="A prior of the model by name; may be repeated. dipole: scale. multipoles: dipole_scale, power (free, "
        "power-law, cascade, template, fixed), median, slope, spread, template (a CSV file with columns l,C_l,error, "
        "as backtrack writes), template_spread. local-field: transport (projected, tensor), scale, perpendicular, "
        "antisymmetric, velocity (lsr, ism, cmb, none or x,y,z in km/s), velocity_spread (km/s), spectral_index, "
        "profile_scale. small-scale: scale, dipole_scatter, profile (isotropic, quasi-linear, broadened, enhanced, "
        "none), index, floor, width, strength, centre (LOW,HIGH or a number), power (cascade, power-law, none), "
        "relaxation (angular-diffusion, isotropic-scattering, bgk), depth (MEDIAN,SPREAD), end (LOW,HIGH), median, "
        "spread, slope, velocity, velocity_spread, spectral_index. The values in use are written to summary.json.",
        metavar="NAME=VALUE",
    ),
]
RateConcentration = Annotated[
    float, typer.Option(help="Concentration of the Dirichlet prior of the relative rates; 1 is uniform.")
]
RateBins = Annotated[int | None, typer.Option(help="Free rates (default: as many as hold 100 events each).")]
Chains = Annotated[int, typer.Option(help="Chains, side by side.")]
Warmup = Annotated[int, typer.Option(help="Steps of adaptation per chain, not kept.")]
DrawsOption = Annotated[int, typer.Option("--draws", help="Kept draws per chain.")]
Segment = Annotated[int, typer.Option(help="Steps between two saves; a killed run loses at most these.")]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)]


def sample(
    inputs: Inputs,
    site: SiteOption = None,
    model: ModelOption = "dipole",
    lmax: Lmax = None,
    prior: Prior = None,
    rates: Annotated[
        str, typer.Option(help="sampled, or laplace: integrated in Laplace's approximation.", metavar="HOW")
    ] = "sampled",
    rate_concentration: RateConcentration = 1.0,
    rate_bins: RateBins = None,
    acceptance_prior: Annotated[
        str | None,
        typer.Option(
            help="Prior acceptance and its relative error per cell: known:E, known:K:E for cos^K(zenith), or "
            "FILE.npy:E (ring, hour angle). Then delta_N is measured.",
            metavar="KIND:E",
        ),
    ] = None,
    chains: Chains = 4,
    warmup: Warmup = 500,
    draws: DrawsOption = 1000,
    segment: Segment = 100,
    seed: Seed = 0,
    target_accept: Annotated[
        float | None, typer.Option(help="Mean acceptance of the trajectories (default 0.8 or 0.9, by model).")
    ] = None,
    max_tree_depth: Annotated[int, typer.Option(help="Trajectories have at most 2^this - 1 steps.")] = 10,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in -o from its last finished segment.")
    ] = False,
    compare_rings: Annotated[
        bool, typer.Option("--leave-one-ring-out", help="Also write loo.json: expected log predictive density.")
    ] = False,
    columns: Columns = None,
    time_format: TimeFormat = None,
    azimuth: Azimuth = None,
    prefer: Prefer = "equatorial",
    equinox: Equinox = None,
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
    devices: DevicesOption = None,
    hosts: HostsOption = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-sample"),
) -> None:
    """Sample the joint posterior of sky and rates (the acceptance is conditioned away) by NUTS.

    Writes posterior.nc (ArviZ), summary.json, counts.nc and pictures. Finished segments are kept in DIR/segments: after
    any end, the same command with --resume goes on bit for bit, and with more --draws it prolongs the run. Chains run
    side by side on the cores or accelerators; with other --devices draws are others of the same posterior.

    Example: [bold]diffcr sample counts.nc --model multipoles --lmax 4 --prior median=1e-8 -o posterior[/bold]
    """
    from .devices import start_for_chains
    from .hosts import first_only, is_first, joined, parse_hosts
    from .posterior import sample_likelihood
    from .sampler import Plan
    from .specification import Specification

    require_folder(output)
    spec = Specification(model, lmax, with_template(parse_priors(prior), lmax), rate_concentration, rate_bins, rates)
    plan = Plan(chains, warmup, draws, segment, seed, target_accept or spec.target_accept, max_tree_depth)
    options = binning_options(
        grid, time_frame, epochs, zenith_max, energy_min, energy_max, energy_edges, start, end, remove_orbital, gamma
    )
    # Before anything is computed: how JAX uses the cores cannot be changed afterwards.
    with joined(parse_hosts(hosts), lambda: start_for_chains(devices, chains)) as chosen:
        counts = read_inputs(
            inputs,
            site,
            columns=columns,
            time_format=time_format,
            azimuth=azimuth,
            prefer=prefer,
            equinox=equinox,
            skip_bad_rows=skip_bad_rows,
            **options,
        )
        counts = blinded(counts, blind)
        if acceptance_prior is None:
            sky = spec.likelihood(counts)
        else:
            sky = with_acceptance_prior(spec, counts, acceptance_prior)
        first_only(lambda: make_folder(output))
        segments = output / "segments"
        if resume and is_first() and not any(segments.glob("segment_*.npz")):
            print(
                f"note             {segments} holds no finished segment: starting from the beginning", file=sys.stderr
            )
        first_only(lambda: counts.save(output / "counts.nc"))
        with Progress() as bar:
            posterior = sample_likelihood(counts, sky, spec, plan, segments, resume, bar, chosen)
        first_only(lambda: _write(posterior, counts, sky, spec, output, plots, compare_rings))


def _write(posterior, counts, sky, spec, output: Path, plots: bool, compare_rings: bool) -> None:
    from .posterior_report import write_posterior

    summary = write_posterior(posterior, counts, sky, spec, output, pictures=plots, leave_one_out=compare_rings)
    tell_inputs(counts)
    print("\n".join(describe(summary)))
    print(
        f"results          {output / 'summary.json'}, {output / 'posterior.nc'}" + (", pictures there" if plots else "")
    )
    if not summary["converged"]:
        raise FitError(summary["verdict"] + "; the draws were written")


def calibrate(
    model: ModelOption = "dipole",
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="Observatory, or LAT,LON,ZENITH; may be repeated (default HAWC).", metavar="SITE"),
    ] = None,
    lmax: Lmax = None,
    prior: Prior = None,
    rate_concentration: RateConcentration = 200.0,
    power: Annotated[float, typer.Option(help="The acceptance is cos^K(zenith).", metavar="K")] = 1.0,
    events: Annotated[float, typer.Option(help="Mean number of events of each observatory.", metavar="N")] = 2e5,
    sets: Annotated[int, typer.Option(help="Simulated data sets.")] = 300,
    grid: Grid = "36x18",
    seed: Seed = 0,
    output: Output = Path("diffcr-calibrate"),
) -> None:
    """Simulation-based calibration: do posteriors hold the truth as often as they say?

    Truths are drawn from the priors, counts from the truths, and each posterior is asked for the rank of its truth.
    Writes calibration.json and ranks.png; exit code 3 where ranks are not uniform or intervals do not cover.

    Example: [bold]diffcr calibrate --model dipole --site hawc --sets 100 --prior scale=0.02 -o calibration[/bold]
    """
    import numpy as np

    from diffcr.detector import acceptance
    from diffcr.site import site as find_site

    from .devices import start_for_chains
    from .plots import save
    from .report import write_json
    from .sbc import calibrate as run
    from .specification import Specification

    require_folder(output)
    start_for_chains(None, 1)
    spec = Specification(model, lmax, with_template(parse_priors(prior), lmax), rate_concentration)
    cells, sites = grid_of(grid), [find_site(name) for name in site or ["HAWC"]]
    samples = max(4, -(-4 * 180 // cells.n_ring))
    accepted = [np.asarray(acceptance(s, cells, power=power, subdivide=samples, profile="triangle")) for s in sites]
    with Progress("sets") as bar:
        result = run(spec, sites, accepted, cells, events, sets, seed, progress=bar)
    content = result.to_dict()
    problems = calibration_problems(content)
    content |= {"calibrated": not problems, "problems": problems}
    make_folder(output)
    save(result.figure(), output / "ranks.png")
    write_json(output / "calibration.json", content)
    for name, entry in content["quantities"].items():
        p, inside = min(1.0, 2 * min(entry["chi2_p"], entry["ks_p"])), (entry["coverage_68"], entry["coverage_95"])
        print(f"{name:<33} p {p:.2g}, 68 and 95 % intervals hold the truth in {inside[0]:.1%} and {inside[1]:.1%}")
    print(f"results          {output / 'calibration.json'}, {output / 'ranks.png'}")
    if problems:
        raise FitError(f"NOT calibrated: {'; '.join(problems)}; results were written")
    print(f"verdict          calibrated, as far as {content['sets']} data sets can tell")


def calibration_problems(content: dict) -> list[str]:
    """What in the numbers of a calibration is beyond chance: ranks at 1 %, coverage at four standard deviations."""
    problems = []
    for kind, p in content["holm_p"].items():
        if p < 0.01:
            problems.append(f"ranks of {kind} quantities are not uniform (p = {p:.2g}, corrected for their number)")
    for level in (68, 95):
        share = level / 100
        width = 4 * math.sqrt(share * (1 - share) / content["sets"])
        for name, entry in content["quantities"].items():
            if entry["kind"] != "rate" and abs(entry[f"coverage_{level}"] - share) > width:
                problems.append(f"{level} % intervals of {name} hold the truth in {entry[f'coverage_{level}']:.1%}")
    if content["share_r_hat_below_1.05"] < 0.9:
        problems.append(f"chains agree in {content['share_r_hat_below_1.05']:.0%} of the sets only")
    return problems


def parse_priors(entries: list[str] | None) -> dict:
    """NAME=VALUE pairs as arguments of a model: words, numbers, or tuples of numbers.

    Raises:
        InputError: If an entry has no = or its value is neither a known word nor numbers.
    """
    from diffcr.observer import cosmic_velocity, interstellar_velocity, lsr_velocity
    from diffcr.units import KM_PER_S

    out: dict = {}
    for entry in entries or []:
        name, sign, text = entry.partition("=")
        name, text = name.strip().replace("-", "_"), text.strip()
        if not sign or not name or not text:
            raise InputError(f"--prior takes NAME=VALUE such as scale=0.01, not {entry!r}")
        if name in out:
            raise InputError(f"--prior {name} is given twice; leave one out")
        if name in ("power", "transport", "template", "profile", "relaxation"):
            out[name] = text
        elif name == "velocity" and text in ("lsr", "ism", "cmb", "none"):
            known = {"lsr": lsr_velocity, "ism": interstellar_velocity, "cmb": cosmic_velocity}
            out[name] = None if text == "none" else tuple(float(x) for x in known[text]())
        else:
            values = numbers(text, f"--prior {name}")
            if any(not math.isfinite(v) for v in values):
                raise InputError(f"--prior {name} takes finite numbers, not {text!r}")
            if name in ("velocity", "velocity_spread"):
                values = [float(v * KM_PER_S) for v in values]
            single = len(values) == 1 and name not in ("velocity", "perpendicular", "spectral_index")
            out[name] = values[0] if single else tuple(values)
    return out


def with_template(priors: dict, l_max: int | None) -> dict:
    """Priors whose template of C_l, a file, is read: the values of l = 2 .. l_max, with the power tied to them.

    Raises:
        InputError: If the file is no table of C_l, or lacks a degree.
    """
    if "template" not in priors:
        return priors
    from .backtrack_tables import read_power

    table = read_power(priors["template"])
    known = dict(zip(table["degree"].tolist(), table["shape"].tolist(), strict=True))
    last = 4 if l_max is None else l_max
    missing = [l for l in range(2, last + 1) if l not in known]
    if missing:
        raise InputError(
            f"{priors['template']}: has no C_l of l = {missing[0]}; add it, or give --lmax {missing[0] - 1}"
        )
    return {"power": "template"} | priors | {"template": tuple(known[l] for l in range(2, last + 1))}


def with_acceptance_prior(spec, counts, text: str):
    """The likelihood with the acceptance prior that KIND:E asks for."""
    kind, sign, error = text.rpartition(":")
    try:
        width = float(error)
    except ValueError:
        width = math.nan
    if not sign or not (math.isfinite(width) and width > 0):
        raise InputError(
            f"--acceptance-prior takes a kind and a relative error per cell, such as known:0.05, not {text!r}"
        )
    return spec.likelihood(counts, acceptance=known_exposure(kind, counts), relative_error=width)


class Progress:
    """A progress bar on a terminal, a line now and then elsewhere; called with (steps done, steps in all, seconds)."""

    def __init__(self, what: str = "steps"):
        self._what = what

    def __enter__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._terminal, self._told = console.is_terminal, 0.0
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self._bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._bar.disable = not self._terminal
        self._task = self._bar.add_task("sample", total=None, rate="")
        self._first = None
        self._bar.start()
        return self

    def __call__(self, done: int, total: int, seconds: float) -> None:
        if self._first is None:
            self._first = (done, seconds)
        steps, spent = done - self._first[0], seconds - self._first[1]
        rate = steps / spent if steps and spent > 0 else math.nan
        self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.3g} {self._what}/s" if steps else "")
        if not self._terminal and (seconds - self._told > 30 or done == total):
            self._told = seconds
            left = f", {(total - done) / rate:.0f} s left" if steps and done < total else ""
            speed = f" at {rate:.3g} {self._what} per second" if steps else ""
            print(f"sampled          {done} of {total} {self._what} in {seconds:.0f} s{speed}{left}", file=sys.stderr)

    def __exit__(self, *_):
        self._bar.stop()


def describe(summary: dict) -> list[str]:
    """The posterior in a few lines."""
    small = summary["specification"]["model"] == "small-scale"
    out = [f"events           {summary['num_events']} ({', '.join(summary['observatories']) or 'rates integrated'})"]
    for name in (
        "delta_0h",
        "delta_6h",
        "delta_N",
        "amplitude",
        "right_ascension_deg",
        "field_axis_right_ascension_deg",
        "field_axis_declination_deg",
        "field_right_ascension_deg",
        "field_declination_deg",
        "axis_strength",
        *(("depth", "end", "power_index", "index", "floor", "width", "strength", "centre") if small else ()),
    ):
        entry = summary["parameters"].get(name)
        if entry is None:
            continue
        if entry["mean"] is None:
            out.append(f"{name:<33} hidden until unblinded")
            continue
        low, high = entry["hdi_95"]
        note = "  (prior-dominated)" if entry["prior_dominated"] else ""
        out.append(f"{name:<33} {entry['mean']:.4g} +- {entry['sd']:.2g}, 95 % in [{low:.4g}, {high:.4g}]{note}")
    speed = summary["ess_per_second"]
    rate = f", {speed:.0f} effective samples per second" if speed else ""
    out.append(f"chains           {summary['chains']} x {summary['draws']}, {summary['divergences']} divergences{rate}")
    out.append(f"verdict          {summary['verdict']}")
    return out
