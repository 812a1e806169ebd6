"""The commands of the physical model: `diffcr predict` and `diffcr sources`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcr.errors import FitError, InputError

from .cli_options import Output, make_folder, require_folder

_MOST = 10_000
"""Energies of one prediction."""

Model = Annotated[
    str,
    typer.Argument(help="A shipped model (vela, ensemble) or a TOML file.", metavar="MODEL"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another value of a number of the model, such as vela.age_yr=20000; may be repeated. observer=NAME too.",
        metavar="NAME=VALUE",
    ),
]
Points = Annotated[
    str | None,
    typer.Option(help="Published dipoles: a CSV file, or `published` for the shipped ones.", metavar="FILE"),
]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)]


def predict(
    model: Model,
    energies: Annotated[
        str | None,
        typer.Option(
            help="Energies per particle in TeV: E1,E2,.. or FIRST:LAST:NUMBER, evenly spread in log E "
            "(default 1:10000:41, or the range of the model).",
            metavar="E1,E2,..",
        ),
    ] = None,
    changes: Set = None,
    no_compton_getting: Annotated[
        bool, typer.Option("--no-compton-getting", help="Leave out the observer's motion.")
    ] = False,
    points: Points = None,
    prior_predictive: Annotated[
        bool, typer.Option("--prior-predictive", help="Draw the band over the priors of the model.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option(help="Draws of the band (default 2000; with random supernovae 100).", min=2)
    ] = None,
    seed: Seed = 0,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-predict"),
) -> None:
    """Predict the dipole against energy from sources, diffusion and the observer's motion.

    Writes dipole.csv, prediction.json and pictures; with a band band.csv too.

    Example: [bold]diffcr predict vela --energies 1,10,100 --no-compton-getting -o vela[/bold]
    """
    from .predict import predict as run
    from .predict import predict_band
    from .predict_report import describe, write_prediction

    require_folder(output)
    chosen = chosen_model(model, changes, no_compton_getting)
    energy = parse_energies(energies or chosen.settings.get("energies", "1:10000:41"))
    table = None if points is None else read_points(points)
    grainy = chosen.ensemble is not None
    if prior_predictive and not chosen.priors:
        raise InputError(f"the model {chosen.name} has no priors to draw from: add a table [priors] to its file")
    prediction = run(chosen, energy, seed)
    band = None
    if prior_predictive or grainy:
        with _Drawing() as bar:
            band = predict_band(
                chosen, energy, draws or (100 if grainy else 2000), seed, prior_predictive, table, progress=bar
            )
    make_folder(output)
    summary = write_prediction(prediction, band, table, output, pictures=plots)
    print("\n".join(describe(summary)))
    for note in summary["notes"]:
        print(f"note             {note}", file=sys.stderr)
    print(
        f"results          {output / 'dipole.csv'}, {output / 'prediction.json'}"
        + (", pictures there" if plots else "")
    )


def sources(
    model: Model,
    counts: Annotated[
        list[str] | None,
        typer.Option("--counts", help="Counts file (.nc) of an observatory; may be repeated.", metavar="FILE"),
    ] = None,
    dipoles: Annotated[
        str | None,
        typer.Option(help="Published dipoles: a CSV file, or `published` for the shipped ones.", metavar="FILE"),
    ] = None,
    energies: Annotated[
        str | None,
        typer.Option(help="Median energy in TeV of each energy bin of the counts.", metavar="E1,E2,.."),
    ] = None,
    width: Annotated[float, typer.Option(help="Standard deviation of ln E of the events in a bin.")] = 1.0,
    changes: Set = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            "--prior",
            help="Prior of a number: NAME=normal(MEAN,SPREAD), log-normal(MEDIAN,SPREAD), uniform(LOW,HIGH), "
            "log-uniform(LOW,HIGH), half-normal(SPREAD), isotropic (field), or fixed; may be repeated.",
            metavar="NAME=PRIOR",
        ),
    ] = None,
    multipoles: Annotated[
        float, typer.Option(help="Spread of l = 2 and 3 of a common sky behind published dipoles; 0: a pure dipole.")
    ] = 0.0,
    supernovae: Annotated[
        int,
        typer.Option(
            help="Random effects: so many main directions of the scatter of random supernovae; 0: none.", min=0
        ),
    ] = 0,
    boron: Annotated[
        bool, typer.Option("--boron-to-carbon", help="Constrain K/H and its index by the boron-to-carbon ratio.")
    ] = False,
    rates: Annotated[str, typer.Option(help="Of counts: sampled, or laplace.", metavar="HOW")] = "sampled",
    chains: Annotated[int, typer.Option(help="Chains, side by side.")] = 4,
    warmup: Annotated[int, typer.Option(help="Steps of adaptation per chain, not kept.")] = 500,
    draws: Annotated[int, typer.Option("--draws", help="Kept draws per chain.")] = 1000,
    segment: Annotated[int, typer.Option(help="Steps between two saves; a killed run loses at most these.")] = 100,
    target_accept: Annotated[float, typer.Option(help="Mean acceptance of the trajectories.")] = 0.95,
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in -o from its last finished segment.")
    ] = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-sources"),
) -> None:
    """Sample the posterior of a physical model's numbers, given published dipoles or the counts of observatories.

    Writes posterior.nc (ArviZ), summary.json and pictures. Every number with a prior is free.

    Example: [bold]diffcr sources vela --dipoles published --prior field=isotropic -o posterior[/bold]
    """
    from .cli_posterior import Progress
    from .sampler import Plan
    from .source_fit import sample_problem
    from .source_report import describe, write_source_posterior

    require_folder(output)
    if bool(counts) == (dipoles is not None):
        given = "both were given" if counts else "neither was given"
        raise InputError(f"give either --counts FILE (may be repeated) or --dipoles FILE to fit the model to: {given}")
    chosen = with_prior_options(chosen_model(model, changes, False), prior)
    plan = Plan(chains, warmup, draws, segment, seed, target_accept)
    extra = boron_constraint(chosen) if boron else None
    if counts:
        if multipoles:
            raise InputError("--multipoles goes with --dipoles: counts are fitted by a dipole in each energy bin")
        problem = _counts_problem(counts, chosen, energies, width, rates, supernovae, extra)
    else:
        if energies is not None:
            raise InputError("--energies goes with --counts: published dipoles state their own")
        problem = _dipoles_problem(dipoles, chosen, multipoles, supernovae, extra)
    make_folder(output)
    print("note             the first draws take a minute: the model is compiled", file=sys.stderr)
    with Progress() as bar:
        posterior = sample_problem(problem, plan, output / "segments", resume, bar)
    summary = write_source_posterior(posterior, problem, output, pictures=plots)
    print("\n".join(describe(summary)))
    print(
        f"results          {output / 'summary.json'}, {output / 'posterior.nc'}" + (", pictures there" if plots else "")
    )
    if not summary["converged"]:
        raise FitError(summary["verdict"] + "; the draws were written")


def _counts_problem(files, chosen, energies, width, rates, supernovae, extra):
    import numpy as np

    from diffcr.composition import EnergyResponse

    from .inputs import read_counts
    from .source_fit import counts_problem, random_effects

    if energies is None:
        raise InputError("--counts needs --energies E1,E2,..: the median energy in TeV of each energy bin")
    if rates not in ("sampled", "laplace"):
        raise InputError(f"--rates must be sampled or laplace, not {rates!r}")
    median = parse_energies(energies)
    data = read_counts(files if len(files) > 1 else files[0])
    effects = random_effects(chosen, median, rank=supernovae) if supernovae else None
    response = EnergyResponse(median=np.asarray(median), width=np.full(len(median), width))
    return counts_problem(data, chosen, response, rates=rates, effects=effects, extra=extra)


def _dipoles_problem(path, chosen, multipoles, supernovae, extra):
    from .source_fit import published_problem, random_effects

    table = read_points(path)
    effects = random_effects(chosen, table.select("fit").energy, rank=supernovae) if supernovae else None
    return published_problem(table, chosen, multipoles=multipoles, effects=effects, extra=extra)


def chosen_model(name: str, changes: list[str] | None, still: bool) -> Any:
    """The model of a command line: read, with its changed numbers, and perhaps with an observer at rest.

    Raises:
        InputError: If it cannot be read or a change is unknown or out of range.
    """
    from .model_files import read_model, with_observer

    chosen = read_model(name)
    numbers: dict[str, Any] = {}
    for entry in changes or []:
        key, sign, text = entry.partition("=")
        key, text = key.strip(), text.strip()
        if not sign or not key or not text:
            raise InputError(f"--set takes NAME=VALUE such as vela.age_yr=20000, not {entry!r}")
        if key == "observer":
            chosen = with_observer(chosen, text)
            continue
        try:
            given = [float(part) for part in text.split(",")]
        except ValueError:
            raise InputError(f"--set {key} takes a number, or three separated by commas, not {text!r}") from None
        numbers[key] = given[0] if len(given) == 1 else given
    if numbers:
        chosen = chosen.with_values(numbers)
    return with_observer(chosen, "none") if still else chosen


def with_prior_options(model: Any, entries: list[str] | None) -> Any:
    """The model with the priors of --prior options; `fixed` takes one away.

    Raises:
        InputError: If an entry cannot be understood.
    """
    import dataclasses
    import re

    from .model_files import with_priors
    from .nearest import require_known
    from .source_priors import KINDS

    for entry in entries or []:
        name, sign, text = (part.strip() for part in entry.partition("="))
        found = re.fullmatch(r"([a-z-]+)(?:\(([^()]*)\))?", text)
        if not sign or not name or found is None:
            raise InputError(f"--prior takes NAME=KIND(NUMBERS) such as vela.age_yr=uniform(9000,31000), not {entry!r}")
        kind, inside = found[1], found[2]
        if kind == "fixed":
            if name not in model.priors:
                raise InputError(f"--prior {name}=fixed: that number has no prior in the model {model.name}")
            model = dataclasses.replace(model, priors={k: v for k, v in model.priors.items() if k != name})
            continue
        if kind != "isotropic":
            require_known(kind, KINDS, f"--prior {name}: there is no distribution")
        table: dict[str, Any] = {"distribution": kind}
        if inside:
            try:
                numbers = [float(part) for part in inside.split(",")]
            except ValueError:
                raise InputError(f"--prior {name}: {inside!r} are not numbers separated by commas") from None
            keys = KINDS.get(kind, ())
            if len(numbers) != len(keys):
                raise InputError(f"--prior {name}: {kind} takes {', '.join(keys) or 'no numbers'}, not {inside!r}")
            table |= dict(zip(keys, numbers, strict=True))
        model = with_priors(model, {name: table}, "--prior")
    return model


def boron_constraint(model: Any) -> Any:
    """Log-likelihood of the measured boron-to-carbon ratio, a function of the model's numbers by name."""
    from diffcr import grammage

    def extra(values):
        p = model.parameters(values)
        return grammage.log_likelihood(p.diffusion, p.diffusion_index, p.halo_height)

    return extra


def parse_energies(text: str) -> list[float]:
    """Energies [TeV] from "1,10,100" or "1:1000:31" (first, last, number; evenly spread in ln E).

    Raises:
        InputError: If it is neither, or an energy is not above zero.
    """
    import math

    import numpy as np

    try:
        parts = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        parts = []
    if ":" in text:
        if len(parts) != 3 or not (0 < parts[0] < parts[1] < math.inf) or not 2 <= parts[2] <= _MOST or parts[2] % 1:
            raise InputError(
                f"--energies takes FIRST:LAST:NUMBER in TeV such as 1:10000:41, first below last and 2 to {_MOST} "
                f"energies, not {text!r}"
            )
        return np.geomspace(parts[0], parts[1], int(parts[2])).tolist()
    if not parts or not all(0 < each < math.inf for each in parts):
        raise InputError(f"--energies takes energies above 0 in TeV, such as 1,10,100 or 1:10000:41, not {text!r}")
    return parts


def read_points(name: str) -> Any:
    """Published dipoles: the shipped table, or a file.

    Raises:
        InputError: If there is no such file or it cannot be used.
    """
    from .dipole_table import read_dipoles

    return read_dipoles(None if name == "published" else name)


class _Drawing:
    """A progress bar over draws."""

    def __enter__(self):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("drawing", total=None)
        self._bar.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_):
        self._bar.stop()
