"""`diffcr spectrum`: theories of small scales fitted to measured C_l, and compared."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffcr.errors import FitError, InputError

from .cli_options import Output, make_folder, numbers, require_folder

_DEFAULT = ("cascade", "pitch-angle", "power-law")


def spectrum(
    files: Annotated[
        list[str],
        typer.Argument(
            help="CSV with columns l (or l_low,l_high), C_l, error, perhaps noise and modes; power_*.csv of backtrack; "
            "or estimates.json of estimate. Several files: different degrees of one sky.",
            metavar="FILE...",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="cascade, pitch-angle, power-law or mixed; may be repeated (default: the first three).",
            metavar="MODEL",
        ),
    ] = None,
    rates: Annotated[
        str,
        typer.Option(help="Of the cascade: angular-diffusion, isotropic-scattering or bgk.", metavar="RATES"),
    ] = "angular-diffusion",
    end: Annotated[bool, typer.Option("--end", help="Let the cascade end at a free degree.")] = False,
    scattering: Annotated[
        str,
        typer.Option(help="Of the pitch-angle profile: quasi-linear, broadened or enhanced.", metavar="FAMILY"),
    ] = "quasi-linear",
    dipole: Annotated[
        str, typer.Option(help="free: l = 1 has its own power; tie: it follows the models.", metavar="free|tie")
    ] = "free",
    errors: Annotated[
        str | None,
        typer.Option(
            help="What errors in CSV are of. sky (default): this sky's power, noise alone; total: with the scatter of "
            "random skies; isotropic: noise without signal; mean: a mean over skies.",
            metavar="MEANING",
        ),
    ] = None,
    likelihood: Annotated[
        str, typer.Option(help="auto, chi2, hamimeche-lewis or normal.", metavar="LIKELIHOOD")
    ] = "auto",
    covariance: Annotated[
        str | None, typer.Option(help="Covariance of the errors of one CSV file, .npy or CSV.", metavar="FILE")
    ] = None,
    sky_fraction: Annotated[
        float | None, typer.Option(help="Share of the sky seen: 2 l + 1 times this are the modes.", metavar="F")
    ] = None,
    estimator: Annotated[
        str | None, typer.Option(help="Of estimates.json: quadratic (default) or pseudo.", metavar="NAME")
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Label of the part of estimates.json (default all).", metavar="LABEL")
    ] = None,
    lmin: Annotated[int | None, typer.Option(help="Leave out bins below this degree.")] = None,
    lmax: Annotated[int | None, typer.Option(help="Leave out bins that reach above this degree.")] = None,
    field_declination: Annotated[
        float | None,
        typer.Option(
            help="Declination of the field [deg], for what is measured of an aligned pattern without m = 0.",
            metavar="DEG",
        ),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            "--prior",
            help="Two numbers of a prior, such as cascade.depth=0.5,1 (median and spread of ln, mean and spread, or "
            "bounds); may be repeated. Those in use are in spectrum.json.",
            metavar="MODEL.NAME=A,B",
        ),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit/--no-refit", help="Fit again without bins whose importance weights fail.")
    ] = True,
    chains: Annotated[int, typer.Option(help="Chains, side by side.")] = 4,
    warmup: Annotated[int, typer.Option(help="Steps of adaptation per chain, not kept.")] = 500,
    draws: Annotated[int, typer.Option("--draws", help="Kept draws per chain.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)] = 0,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures beside the results.")] = True,
    output: Output = Path("diffcr-spectrum"),
) -> None:
    """Fit theories of small-scale anisotropy to measured C_l, and compare how they foretell each degree.

    A cascade of power from the dipole in turbulence, the profile of pitch-angle diffusion about the local field, a
    power law. Writes spectrum.json, posterior_MODEL.nc (ArviZ) and pictures. Exit code 3 where chains have not
    converged.

    Example: [bold]diffcr spectrum estimates/estimates.json --model cascade --model power-law -o spectrum[/bold]
    """
    from .sampler import Plan
    from .spectrum_report import describe, fit_all, make_task, write_spectrum

    require_folder(output)
    if dipole not in ("free", "tie"):
        raise InputError(f"--dipole must be free or tie, not {dipole!r}")
    plan = Plan(chains, warmup, draws, warmup + draws, seed, target_accept=0.95, max_tree_depth=7)
    data, records = _read(files, errors, covariance, sky_fraction, estimator, part, lmin, lmax)
    task = make_task(data, records, dipole == "tie", likelihood)
    models = _models(model, data, rates, scattering, end, field_declination, prior)
    tell = lambda name: print(f"fitting          {name}", file=sys.stderr)
    fits, not_run = fit_all(task, models, plan, refit, tell)
    # Not before there is something to put in: minutes may pass, and an interrupt would leave it empty.
    make_folder(output)
    content = write_spectrum(task, fits, not_run, plan, output, plots)
    print("\n".join(describe(content)))
    for note in content["notes"]:
        print(f"note             {note}", file=sys.stderr)
    print(f"\nresults          {output / 'spectrum.json'}, posterior_*.nc" + (", pictures there" if plots else ""))
    if not content["converged"]:
        raise FitError(f"{content['verdict']}; raise --draws or --warmup; results were written")


def _read(files, errors, covariance, sky_fraction, estimator, part, lmin, lmax):
    """The spectra of all files as one, and where they come from."""
    from .spectrum_data import joined
    from .spectrum_files import read_spectrum

    if covariance is not None and len(files) > 1:
        raise InputError("--covariance is of one file; give one at a time")
    if len(set(files)) < len(files):
        raise InputError("a file is given twice; leave one out")
    found = [read_spectrum(path, errors, covariance, sky_fraction, estimator, part) for path in files]
    spectra = []
    for path, (one, _) in zip(files, found, strict=True):
        pairs = zip(one.low, one.high, strict=True)
        kept = [
            k for k, (low, high) in enumerate(pairs) if (lmin is None or low >= lmin) and (lmax is None or high <= lmax)
        ]
        if not kept:
            raise InputError(f"{path}: no bin is left between --lmin and --lmax; widen them")
        spectra.append(one.only(kept).trimmed())
    return joined(spectra), [record for _, record in found]


def _models(names, data, rates, scattering, end, field_declination, prior):
    from .spectrum_models import MODELS, build_model

    chosen = list(dict.fromkeys(names or _DEFAULT))
    for name in chosen:
        if name not in MODELS:
            raise InputError(f"--model must be one of {', '.join(MODELS)}, not {name!r}")
    declination = None
    if field_declination is not None:
        if not -90 <= field_declination <= 90:
            raise InputError(f"--field-declination must lie within -90 to 90 degrees, not {field_declination:g}")
        if not data.lost_orders:
            raise InputError("--field-declination is for spectra without m = 0, as estimate makes them; leave it out")
        declination = math.radians(field_declination)
    if end and not {"cascade", "mixed"} & set(chosen):
        raise InputError("--end is of the cascade, which is not among the models; leave it out")
    priors = parse_priors(prior, chosen)
    return [build_model(name, data.l_max, rates, scattering, end, declination, priors[name]) for name in chosen]


def parse_priors(entries: list[str] | None, models: list[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """MODEL.NAME=A,B as numbers by model and parameter.

    Raises:
        InputError: If an entry has another form, names a model that is not fitted, or comes twice.
    """
    out: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in models}
    for entry in entries or []:
        place, sign, text = entry.partition("=")
        name, dot, key = place.strip().partition(".")
        if not sign or not dot or not key or not text.strip():
            raise InputError(f"--prior takes MODEL.NAME=A,B such as cascade.depth=0.5,1, not {entry!r}")
        if name not in out:
            raise InputError(f"--prior {place}: the model {name!r} is not fitted; there are {', '.join(models)}")
        if key in out[name]:
            raise InputError(f"--prior {place} is given twice; leave one out")
        values = numbers(text, f"--prior {place}")
        if len(values) != 2:
            raise InputError(f"--prior {place} takes two numbers, not {text!r}")
        out[name][key] = (values[0], values[1])
    return out
