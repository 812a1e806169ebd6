"""Skies behind a magnetic field on disk and in words: sky_*.fits, lens.nc, lens.json and the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import diffcr

from . import lens_plots, plots
from .files import finite, together, write_netcdf
from .lens import Seen, Setup
from .lens_places import FRAMES
from .lens_tables import CONVENTIONS, dataset, write_sky
from .report import write_json


def write_lens(setup: Setup, skies: Sequence[Seen], outside: dict[str, Any], folder: Path, pictures: bool) -> dict:
    """Write skies into an existing folder; returns what stands in lens.json.

    Args:
        setup: How they were followed.
        skies: One for each rigidity.
        outside: What is outside, in JSON.
        folder: Where to.
        pictures: Whether to draw.
    """
    content = summary(setup, skies, outside)
    with together(folder) as part:
        for seen in skies:
            write_sky(part / f"sky_{seen.rigidity:g}{setup.place.rigidity_unit}.fits", setup, seen)
        if pictures:
            for name, figure in figures(setup, skies).items():
                plots.save(figure, part / f"{name}.png")
        tables = dataset(setup, skies)
        compressed = {"zlib": True, "complevel": 4}
        write_netcdf(part / "lens.nc", tables, encoding={k: compressed for k in tables.data_vars if tables[k].ndim > 1})
        write_json(part / "lens.json", content)
    return content


# Summary ------------------------------------------------------------------------------------------------------


def summary(setup: Setup, skies: Sequence[Seen], outside: dict[str, Any]) -> dict[str, Any]:
    """Settings and what each rigidity gave."""
    place = setup.place
    content = {
        "software": f"diffcr {diffcr.__version__}",
        "conventions": CONVENTIONS,
        "field": place.name,
        "settings": {
            **place.settings,
            "frame": FRAMES[place.coord],
            "nside": setup.nside,
            "oversample": setup.oversample,
            "l_max": setup.l_max,
            "nside_outside": setup.nside_outside,
            "spectral_index": setup.spectral_index,
            f"max_duration_{place.unit}": setup.max_duration,
        },
        "outside": outside,
        "degree": list(range(setup.l_max + 1)),
        "skies": [_row(setup, seen) for seen in skies],
        "notes": [note for seen in skies for note in _notes(setup, seen)],
    }
    return finite(content)


def _row(setup: Setup, seen: Seen) -> dict[str, Any]:
    place, deflection = setup.place, seen.deflection[np.asarray(seen.exits.escaped)]
    some = deflection.size > 0
    return {
        f"rigidity_{place.rigidity_unit}": seen.rigidity,
        f"larmor_radius_in_1_muG_{place.unit}": place.larmor_radius(seen.rigidity) / place.length,
        f"step_{place.unit}": seen.step / place.length,
        "paths": int(seen.exits.escaped.size),
        "trapped": seen.exits.num_trapped,
        "outside_without_value": seen.without_value,
        "deflection_rms_deg": float(np.sqrt(np.mean(deflection**2))) if some else None,
        "deflection_median_deg": float(np.median(deflection)) if some else None,
        f"longest_path_{place.unit}": float(np.max(seen.exits.path) / place.length),
        "magnification_range": [float(seen.magnification.min()), float(seen.magnification.max())],
        "mean_intensity": float(1 + np.mean(seen.sky[np.isfinite(seen.sky)])) if some else None,
        "power": seen.power.tolist(),
        "power_outside": seen.power_outside.tolist(),
        "step_check": seen.check,
    }


def _notes(setup: Setup, seen: Seen) -> list[str]:
    """What a reader should know before using the numbers."""
    place, out = setup.place, []
    at = f"{seen.rigidity:g} {place.rigidity_unit}: "
    low, high = place.sensible
    if not low <= seen.rigidity <= high:
        out.append(
            at
            + f"outside {low:g} to {high:g} {place.rigidity_unit}, where this field means something: "
            + ("single paths are chaotic" if seen.rigidity < low else "deflections are small")
        )
    pixels = int(np.sum(~np.isfinite(seen.sky)))
    empty = f"; {pixels} pixels are without a value (UNSEEN) and count as the mean in C_l" if pixels else ""
    if seen.exits.num_trapped:
        out.append(
            at + f"{seen.exits.num_trapped} of {seen.exits.escaped.size} paths did not leave and are left out{empty}; "
            "raise --max-duration"
        )
    if seen.without_value:
        out.append(at + f"{seen.without_value} paths end where the sky outside has no value{empty}")
    if seen.lowest < 0:
        out.append(at + "the intensity falls below 0: the dipole is too strong for one that grows linearly; lower it")
    check = seen.check
    if check is not None and (check["power_change_rms_from_l_2"] or 0) > 0.1:
        out.append(
            at + f"half the step changes C_l by {100 * check['power_change_rms_from_l_2']:.0f} % (rms, l from 2 on): "
            f"use a --step below {seen.step / place.length:.3g} {place.unit} or read C_l as one of many possible"
        )
    return out


def describe(content: dict[str, Any]) -> list[str]:
    """Skies in a few lines."""
    unit, out = ("TV" if content["field"] == "heliosphere" else "EV"), []
    out.append(
        f"field            {content['field']}, nside {content['settings']['nside']}, {content['outside']['what']}"
    )
    for row in content["skies"]:
        if row["deflection_rms_deg"] is None:
            out.append(f"{row[f'rigidity_{unit}']:g} {unit:<14} no path left the region")
            continue
        name, (low, high) = f"{row[f'rigidity_{unit}']:g} {unit}", row["magnification_range"]
        first = [sum(row[key][1:2]) for key in ("power", "power_outside")]
        out.append(
            f"{name:<16} deflections {row['deflection_rms_deg']:.3g} (rms), {row['deflection_median_deg']:.3g} "
            f"(median) degrees; magnification {low:.2g} to {high:.2g}; {row['trapped']} trapped"
        )
        out.append(f"  power          C_1 {first[0]:.3g} at Earth, {first[1]:.3g} without a field")
        check = row["step_check"]
        if check is not None:
            numbers = [
                "unknown" if check[key] is None else f"{scale * check[key]:.2g}{end}"
                for key, scale, end in (
                    ("direction_change_rms_deg", 1, " degrees"),
                    ("direction_change_median_deg", 1, " degrees"),
                    ("power_change_rms", 100, " %"),
                    ("power_change_rms_from_l_2", 100, " %"),
                )
            ]
            out.append(
                f"  half the step  turns directions by {numbers[0]} (rms), {numbers[1]} (median), changes C_l by "
                f"{numbers[2]}, from l = 2 on {numbers[3]}"
            )
    return out


def figures(setup: Setup, skies: Sequence[Seen]) -> dict[str, Any]:
    """The pictures by file name."""
    names = [f"{s.rigidity:g} {setup.place.rigidity_unit}" for s in skies]
    coord, title = setup.place.coord, f"Behind the {setup.place.name}'s magnetic field"
    if setup.place.name == "galaxy":
        title = "Behind the Galaxy's regular magnetic field"
    about_mean = lambda sky: sky - np.nanmean(sky) if np.isfinite(sky).any() else sky
    maps = {"Without a field": about_mean(skies[0].outside)}
    maps |= {n: about_mean(s.sky) for n, s in zip(names, skies, strict=True)}
    turned = {n: s.deflection for n, s in zip(names, skies, strict=True)}
    curves = {n: s.power for n, s in zip(names, skies, strict=True)}
    return {
        "skies": lens_plots.sky_maps(maps, coord, r"$I - \langle I\rangle$", True, title),
        "deflections": lens_plots.sky_maps(turned, coord, "Deflection [deg]", False, title),
        "power": lens_plots.angular_power(curves, skies[0].power_outside, title),
    }
