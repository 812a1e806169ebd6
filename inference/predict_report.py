"""A prediction on disk: dipole.csv, band.csv, prediction.json and the pictures."""

import csv
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import diffcr
from diffcr.grammage import BORON_TO_CARBON, boron_to_carbon
from diffcr.sky import galactic_to_icrs, icrs_to_galactic, unit_vector
from diffcr.source import REMNANTS, galactic_position
from diffcr.units import DEGREE, GV

from . import plots, predict_plots
from .dipole_table import DipoleTable
from .files import atomic, together
from .model_files import source_name
from .predict import LEVELS, Band, Prediction
from .report import write_json

COLUMNS = (
    "energy_TeV",
    "delta_0h",
    "delta_6h",
    "delta_N",
    "amplitude",
    "right_ascension_deg",
    "total_amplitude",
    "plasma_delta_0h",
    "plasma_delta_6h",
    "plasma_delta_N",
    "source_over_background",
    "extragalactic_fraction",
)
"""Columns of dipole.csv: the observed dipole (J2000), then that without motion and extragalactic part."""


def write_prediction(
    prediction: Prediction, band: Band | None, table: DipoleTable | None, folder: Path, pictures: bool = True
) -> dict:
    """Write what was predicted into an existing folder; returns what stands in prediction.json.

    Args:
        prediction: At the model's own numbers.
        band: Over draws, or None.
        table: Published dipoles to draw beside it, or None.
        folder: Where to.
        pictures: Whether to draw.
    """
    content = summary(prediction, band)
    if table is not None and band is not None:
        low, high = prediction.energy.min(), prediction.energy.max()
        beyond = int(np.sum((table.use == "fit") & ((table.energy < 0.999 * low) | (table.energy > 1.001 * high))))
        if beyond:
            content["notes"].append(f"{beyond} points outside {low:g} to {high:g} TeV are drawn, and not compared with")
    with together(folder) as part:
        _write_csv(part / "dipole.csv", COLUMNS, _rows(prediction))
        if band is not None:
            _write_csv(part / "band.csv", *_band_rows(band))
        if pictures:
            for name, figure in figures(prediction, band, table).items():
                plots.save(figure, part / f"{name}.png")
        write_json(part / "prediction.json", content)
    return content


def summary(prediction: Prediction, band: Band | None = None) -> dict[str, Any]:
    """The prediction in JSON: numbers of the model, flip energies, what is invalid, agreement of the draws."""
    model = prediction.model
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(model.values.items())}
    content: dict[str, Any] = {
        "software": f"diffcr {diffcr.__version__}",
        "model": model.name,
        "description": model.description,
        "frame": "equatorial, J2000",
        "observer": model.observer if model.forward.compton_getting else "none",
        "composition": model.settings.get("composition"),
        "background": model.settings.get("background"),
        "global_tensor": model.forward.global_tensor,
        "values": {k: (None if v == np.inf else v) for k, v in values.items()},
        "energy_TeV": prediction.energy.tolist(),
        "delta_0h": prediction.dipole[:, 0].tolist(),
        "delta_6h": prediction.dipole[:, 1].tolist(),
        "delta_N": prediction.dipole[:, 2].tolist(),
        "amplitude": prediction.amplitude.tolist(),
        "right_ascension_deg": np.degrees(prediction.right_ascension).tolist(),
        "flip_energy_TeV": list(prediction.flips),
        "notes": list(prediction.notes),
    }
    if band is not None:
        content["band"] = _band_summary(band)
    return content


def _band_summary(band: Band) -> dict[str, Any]:
    out: dict[str, Any] = {
        "drawn": band.kind,
        "draws": int(band.dipole.shape[0]),
        "priors": {k: v if isinstance(v, str) else v.as_table() for k, v in sorted(band.model.priors.items())}
        if band.values
        else {},
        "part_with_dipole_above_0.3": band.invalid.tolist(),
        "part_that_flips": _flipping(band),
    }
    if band.comparison is not None:
        c = band.comparison
        out["agreement"] = {
            "points": c.rows,
            "amplitude_systematic": c.amplitude_systematic,
            "phase_systematic_deg": c.phase_systematic,
            "chi2_threshold": c.threshold,
            "chi2_least": float(c.chi2.min()),
            "chi2_median": float(np.median(c.chi2)),
            "part_that_fits": c.fits,
            "log_mean_likelihood": c.log_mean_likelihood,
            "effective_draws": c.effective,
            "part_above_published_amplitude": c.tail.tolist(),
        }
    return out


def _flipping(band: Band) -> float | None:
    """Part of the draws whose phase turns by more than 120 degrees between the lowest energy and any other."""
    if band.energy.size < 2:
        return None
    turn = np.abs(np.angle(np.exp(1j * (band.right_ascension - band.right_ascension[:, :1]))))
    return float(np.mean(turn.max(axis=1) > 2 * np.pi / 3))


def _rows(p: Prediction) -> list[list[float]]:
    total = np.linalg.norm(p.dipole, axis=1)
    ra = np.degrees(p.right_ascension)
    columns = [p.energy, *p.dipole.T, p.amplitude, ra, total, *p.plasma.T, p.source_share, p.extragalactic]
    return np.stack(columns, axis=1).tolist()


def _band_rows(band: Band) -> tuple[list[str], list[list[float]]]:
    names, columns = ["energy_TeV", "amplitude_median"], [band.energy, np.median(band.amplitude, axis=0)]
    for level in LEVELS:
        low, high = band.amplitude_band(level)
        start, end = np.degrees(band.phase_band(level))
        percent = f"{level * 100:.0f}"
        names += [f"amplitude_low_{percent}", f"amplitude_high_{percent}"]
        names += [f"phase_start_{percent}_deg", f"phase_end_{percent}_deg"]
        columns += [low, high, start, end]
    return [*names, "part_above_0.3"], np.stack([*columns, band.invalid], axis=1).tolist()


def _write_csv(path: Path, header, rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if np.isnan(x) else repr(float(x)) for x in row] for row in rows])
    with atomic(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def points_of(table: DipoleTable) -> dict[str, np.ndarray]:
    """Published dipoles as the pictures take them: equatorial amplitudes, phases in degrees."""
    factor = table.equatorial_factor
    return {
        "experiment": table.experiment,
        "energy_TeV": table.energy,
        "amplitude": table.amplitude * factor,
        "amplitude_lo": (table.amplitude - table.error_low) * factor,
        "amplitude_hi": (table.amplitude + table.error_high) * factor,
        "phase_deg": np.degrees(table.phase),
        "phase_err_deg": np.degrees(table.phase_error),
        "is_limit": table.is_limit,
        "use": table.use == "fit",
    }


def figures(prediction: Prediction, band: Band | None = None, table: DipoleTable | None = None) -> dict[str, Figure]:
    """The pictures by file name: dipole against energy, the sky and the plane with the sources, dipole vectors."""
    model = prediction.model
    field = np.asarray(model.values["field"], float)
    points = None if table is None else points_of(table)
    bands = None
    if band is not None:
        bands = {level: (band.amplitude_band(level), band.phase_band(level)) for level in LEVELS}
    moving = model.forward.compton_getting
    out = {
        "dipole": predict_plots.dipole_against_energy(
            prediction.energy,
            prediction.dipole,
            points,
            bands,
            title=f"{model.name}: {model.description}" if len(model.description) < 60 else model.name,
            label="Model" if band is None else "At the model's own numbers",
            second=prediction.plasma if moving and np.all(prediction.extragalactic < 1e-3) else None,
            flips=prediction.flips if _projected(model) else (),
        )
    }
    position = (
        np.stack([model.values[f"{name}.distance_pc"] * _towards(model, name) for name in model.sources])
        if model.sources
        else np.zeros((0, 3))
    )
    known = {each.name: each for each in REMNANTS.values()}
    others = {name: each for name, each in known.items() if source_name(name) not in model.sources}
    written = {source_name(name): name for name in REMNANTS}
    shown = [written.get(name, name) for name in model.sources]
    directions = {
        title: np.asarray(galactic_to_icrs(_towards(model, name)))
        for title, name in zip(shown, model.sources, strict=True)
    }
    directions |= {
        f"({name})": np.asarray(galactic_to_icrs(unit_vector(each.longitude * DEGREE, each.latitude * DEGREE)))
        for name, each in others.items()
    }
    track = None
    size = np.linalg.norm(prediction.dipole, axis=1, keepdims=True)
    if prediction.energy.size > 1 and np.all(size > 0):
        track = (prediction.energy, prediction.dipole / size)
    brackets = "In brackets: known, not in the model" if others else ""
    phases = None if _projected(model) else ()
    out["sky"] = predict_plots.source_sky(field, directions, phases, track, title=brackets)
    # What the model lacks stands in brackets.
    names = [*shown, *(f"({name})" for name in others)]
    ages = [float(model.values[f"{name}.age_yr"]) for name in model.sources] + [each.age[1] for each in others.values()]
    elsewhere = [
        np.asarray(galactic_position(e.distance[1], e.longitude * DEGREE, e.latitude * DEGREE)) for e in others.values()
    ]
    out["sources"] = predict_plots.source_map(
        np.concatenate([position, np.stack(elsewhere)]) if elsewhere else position,
        names,
        np.asarray(ages),
        np.asarray(icrs_to_galactic(field)),
        title=brackets,
    )
    if table is not None:
        measured = table.select("fit")
        low, high = prediction.energy.min(), prediction.energy.max()
        shown_here = ~measured.is_limit & (measured.energy > low / 1.5) & (measured.energy < 1.5 * high)
        measured = measured.take(shown_here)
        if len(measured):
            values, covariance = measured.cartesian()
            factor = measured.equatorial_factor
            out["vectors"] = predict_plots.vector_plane(
                measured.energy,
                values * factor[:, None],
                covariance * factor[:, None, None] ** 2,
                list(measured.experiment),
                (prediction.energy, prediction.dipole),
                axis_deg=float(np.degrees(np.arctan2(field[1], field[0]))),
                motion=np.asarray(model.forward.motion_dipole(model.parameters()))[:2] if moving else None,
            )
    out["boron_to_carbon"] = _boron_picture(prediction, band)
    if band is not None and band.comparison is not None:
        out["agreement"] = predict_plots.prior_fractions(band.comparison.chi2, band.comparison.threshold)
    return out


def _projected(model) -> bool:
    """Whether the dipole lies along the field, so that its phase flips where its strength changes sign."""
    return model.values["perpendicular"] == 0 and model.values["antisymmetric"] == 0


def _boron_picture(prediction: Prediction, band: Band | None) -> Figure:
    """Boron to carbon that the model's halo and diffusion make, with the band of its priors."""
    model = prediction.model
    rigidity = np.geomspace(10.0, 2e3, 60)

    def ratio(values):
        p = model.parameters(values)
        return boron_to_carbon(rigidity * GV, p.diffusion, p.diffusion_index, p.halo_height)

    edges = None
    if band is not None and {"diffusion_cm2_s", "diffusion_index", "halo_height_pc"} & set(band.values):
        edges = np.quantile(np.asarray(jax.jit(jax.vmap(ratio))(band.values)), [0.16, 0.84], axis=0)
    table = BORON_TO_CARBON
    return predict_plots.grammage_curve(
        rigidity,
        np.asarray(ratio({})),
        (np.asarray(table.rigidity) / GV, np.asarray(table.ratio), np.asarray(table.error)),
        edges,
        points_label="AMS-02 (Phys. Rep. 894, 2021)",
        band_label="68 % of the draws",
    )


def _towards(model, name: str) -> np.ndarray:
    v = model.values
    return np.asarray(unit_vector(v[f"{name}.longitude_deg"] * DEGREE, v[f"{name}.latitude_deg"] * DEGREE))


def describe(content: dict[str, Any]) -> list[str]:
    """A prediction in a few lines."""
    motion = "observer at rest" if content["observer"] == "none" else f"observer moving ({content['observer']})"
    out = [
        f"model            {content['model']}: {content['description']}",
        f"frame            {content['frame']}, {motion}",
    ]
    energy = np.asarray(content["energy_TeV"])
    shown = np.unique(np.linspace(0, energy.size - 1, min(energy.size, 9)).astype(int))
    out.append(f"{'energy [TeV]':>16} {'amplitude':>11} {'RA [deg]':>9}")
    for k in shown:
        out.append(f"{energy[k]:16.4g} {content['amplitude'][k]:11.4g} {content['right_ascension_deg'][k]:9.2f}")
    for flip in content["flip_energy_TeV"]:
        out.append(f"flip             the part along the field changes sign at {flip:.4g} TeV (observer at rest)")
    band = content.get("band")
    if band is not None:
        out.append(f"band             {band['draws']} draws of {band['drawn']}")
        agreement = band.get("agreement")
        if agreement is not None:
            out.append(
                f"agreement        {agreement['part_that_fits']:.3g} of the draws fit {agreement['points']} points "
                f"(least chi2 {agreement['chi2_least']:.4g}, threshold {agreement['chi2_threshold']:.4g})"
            )
    return out
