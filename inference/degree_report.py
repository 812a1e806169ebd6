"""Sampled models on disk, compared degree by degree: the table, the JSON, the picture."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import diffcr
from diffcr.errors import InputError

from .data import load_counts
from .degree_refit import refitted
from .degrees import FREE, LeaveOneDegreeOut, compare_degrees, leave_one_degree_out
from .named import group
from .plots import _BLACK, _BLUE, _OTHERS, _VERMILION, _WIDTH, _figure, _styled
from .specification import Specification
from .summary import summarise

_SAME = {
    "num_events": "numbers of events",
    "effective_events": "effective events",
    "inputs": "inputs",
    "time_frame": "time frames",
    "equinox": "frames",
    "l_max": "highest degrees",
}
"""What compared posteriors must agree in."""


def compare_folders(
    folders: Sequence[Path], refit: bool = True, tell: Callable[[str, int], None] | None = None
) -> dict[str, Any]:
    """Compare the posteriors in output folders of `diffcr sample`, as JSON-like content.

    Args:
        folders: Two or more; a model goes by the name of its folder.
        refit: Whether to sample again where importance weights fail.
        tell: Called before that with the name of the model and the degree.

    Raises:
        InputError: If a folder has no posterior, two have one name, or the posteriors are not of the same data.
    """
    places = [Path(folder).resolve() for folder in folders]
    same = [place for place in places if places.count(place) > 1]
    if same:
        raise InputError(f"{same[0].name} is given twice: leave one out")
    names = [place.name for place in places]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two folders are named {sorted(twice)[0]!r}: rename one, their names stand for the models")
    posteriors = {name: _read(Path(folder)) for name, folder in zip(names, folders, strict=True)}
    _require_same(posteriors)
    results, models = {}, {}
    for name, folder in zip(names, folders, strict=True):
        again = _refit(Path(folder), name, posteriors[name], tell) if refit else None
        results[name] = leave_one_degree_out(posteriors[name], again)
        models[name] = _summary(posteriors[name], results[name])
    ranked = compare_degrees(results)
    for each in ranked:
        models[each.name] |= {
            "difference": each.difference,
            "difference_error": each.difference_error if np.isfinite(each.difference_error) else None,
            "difference_by_degree": each.by_degree.tolist(),
        }
    return {
        "software": f"diffcr {diffcr.__version__}",
        "degree": results[names[0]].degree.tolist(),
        "over": f"ln of the density of multipoles that are normal with standard deviation {FREE:g}",
        "ranking": [each.name for each in ranked],
        "models": {each.name: models[each.name] for each in ranked},
        "inputs": json.loads(_attributes(posteriors[names[0]])["inputs"]),
    }


def describe(content: dict[str, Any]) -> list[str]:
    """The comparison in a few lines, the best model first."""
    out = [f"{'model':<17}{'elpd':>10}{'difference':>13}{'+-':>8}   by degree {', '.join(map(str, content['degree']))}"]
    for name, entry in content["models"].items():
        error = entry["difference_error"]
        by_degree = " ".join(f"{x:+.1f}" for x in entry["difference_by_degree"])
        spread = "" if not entry["difference"] or error is None else f"{error:.1f}"
        out.append(f"{name:<17}{entry['elpd']:>10.1f}{entry['difference']:>13.1f}{spread:>8}   {by_degree}")
        if entry["unreliable"]:
            out.append(f"note             {name}: weights fail at l = {', '.join(map(str, entry['unreliable']))}")
    out.append(
        f"note             {len(content['degree'])} degrees: errors of differences are rough, one degree may decide it"
    )
    return out


@_styled
def figure(content: dict[str, Any]):
    """Difference to the best model of ln p(degree | other degrees), degree by degree."""
    degree = np.array(content["degree"])
    picture = _figure(_WIDTH, 2.8)
    axes = picture.subplots()
    names = list(content["models"])
    width = 0.8 / len(names)
    for k, (name, entry) in enumerate(content["models"].items()):
        colour = (_BLUE, _VERMILION, *_OTHERS)[k % (2 + len(_OTHERS))]
        place = degree + (k - (len(names) - 1) / 2) * width
        axes.bar(
            place, entry["difference_by_degree"], width, color=colour, label=f"{name} ({entry['difference']:+.1f})"
        )
    axes.axhline(0, color=_BLACK, linewidth=0.8)
    axes.set_xticks(degree)
    axes.set_xlabel(r"Degree $\ell$ left out")
    axes.set_ylabel(f"$\\Delta\\,\\ln p(d_\\ell\\,|\\,d_{{-\\ell}})$ to {names[0]}")
    axes.legend(title="Model (sum)")
    return picture


def _read(folder: Path) -> Any:
    path = folder / "posterior.nc"
    if not path.is_file():
        raise InputError(f"{folder}: holds no posterior.nc; give the output folder of diffcr sample")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as stored:
            return stored.load()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: is no posterior that can be read ({error}); give the output folder of diffcr sample"
        ) from None


def _attributes(posterior: Any) -> dict[str, Any]:
    return group(posterior, "posterior").attrs


def _require_same(posteriors: dict[str, Any]) -> None:
    first, *others = posteriors
    for key, words in _SAME.items():
        here = _attributes(posteriors[first]).get(key)
        for other in others:
            there = _attributes(posteriors[other]).get(key)
            if here != there:
                shown = "" if key == "inputs" else f" ({here} and {there})"
                raise InputError(
                    f"{first} and {other} have different {words}{shown}: compare models of the same counts and degrees"
                )


def _refit(folder: Path, name: str, posterior: Any, tell) -> Callable[[int], np.ndarray] | None:
    """What samples a model again, made when first asked: the likelihood takes seconds."""
    made: list[Callable] = []

    def again(l: int) -> np.ndarray:
        if not made:
            header = json.loads(_attributes(posterior)["specification"])
            header["priors"] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["priors"].items()}
            spec = Specification(**header)
            sky = spec.likelihood(load_counts(folder / "counts.nc"))
            if len(sky.degree) != group(posterior, "posterior")["theta_of_date"].shape[-1]:
                raise InputError(
                    f"{name} was sampled with a prior on the acceptance, which its folder does not hold: degrees "
                    "cannot be sampled again; give --no-refit"
                )
            made.append(refitted(spec, sky))
        if tell is not None:
            tell(name, l)
        return made[0](l)

    return again if (folder / "counts.nc").exists() else None


def _summary(posterior: Any, result: LeaveOneDegreeOut) -> dict[str, Any]:
    return {
        "model": _attributes(posterior)["model"],
        "specification": json.loads(_attributes(posterior)["specification"]),
        "converged": summarise(posterior)["converged"],
        "elpd": result.total,
        "elpd_by_degree": result.elpd.tolist(),
        "p_loo": float(np.sum(result.p_loo)),
        # Null where a refit was not to be trusted either.
        "pareto_k": [float(k) if np.isfinite(k) else None for k in result.pareto_k],
        "refitted": list(result.refitted),
        "unreliable": list(result.unreliable),
    }
