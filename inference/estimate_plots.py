"""Pictures of estimates.json: dipoles of all methods, power spectra, two-point correlation, projection, stability."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .plots import _BLACK, _BLUE, _OTHERS, _VERMILION, _WIDTH, _figure, _scaled, _styled, _with_power

NAMES = {
    "likelihood": "Maximum likelihood",
    "known-exposure": "Known exposure",
    "rayleigh": "Rayleigh",
    "two-harmonic": "Two harmonics",
    "east-west": "East-West, halves",
    "east-west-directions": "East-West, directions",
    "projection": "Projection",
}
"""Names of methods in tables and pictures; those of scrambling are made from the window."""

_COLOURS = (_BLUE, *_OTHERS[:4], _VERMILION, "#7F6000", "#882255", "#555555", _BLACK)
_ROUND = np.linspace(0, 2 * np.pi, 181)


def name_of(method: str) -> str:
    """Readable name of a method."""
    if method.startswith("scrambling-"):
        return f"Scrambling, {method.removeprefix('scrambling-').removesuffix('h')} h"
    return NAMES.get(method, method)


def measured(part: dict) -> dict[str, dict]:
    """The entries of a part that hold an equatorial dipole, phases known, by method."""
    return {name: entry for name, entry in part["methods"].items() if entry.get("vector") is not None}


@_styled
def dipole_comparison(part: dict, equinox: str) -> Figure:
    """68 % regions of every method's dipole, and amplitudes and phases side by side.

    Args:
        part: One entry of `parts` in estimates.json.
        equinox: Frame of the vectors.
    """
    entries = measured(part)
    figure = _figure(2 * _WIDTH, 4.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.35, 1, 1))
    _draw_plane(left, entries)
    left.set_title(f"68 % regions ({part['label']}, {equinox})")
    values = [entry["amplitude"] for entry in entries.values()]
    power, _ = _scaled(np.array(values) + [entry["amplitude_error"] for entry in entries.values()])
    factor = 10.0**-power
    reference = next(iter(entries.values()))
    for row, entry in enumerate(entries.values()):
        style = {"fmt": "o", "color": _COLOURS[row % len(_COLOURS)], "markersize": 5}
        middle.errorbar(entry["amplitude"] * factor, row, xerr=entry["amplitude_error"] * factor, **style)
        # Phases about the reference, so that no error bar is cut in two at 0 degrees.
        phase = _near(entry["right_ascension_deg"], reference["right_ascension_deg"])
        right.errorbar(phase, row, xerr=entry["right_ascension_error_deg"], **style)
        upper = entry["upper_limit_95"] * factor
        middle.plot(upper, row, "<", color=style["color"], markersize=5, markerfacecolor="none")
    for axes, value, error in (
        (middle, reference["amplitude"] * factor, reference["amplitude_error"] * factor),
        (right, reference["right_ascension_deg"], reference["right_ascension_error_deg"]),
    ):
        axes.axvspan(value - error, value + error, color=_BLUE, alpha=0.12, linewidth=0)
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    middle.set_yticks(range(len(entries)), [name_of(name) for name in entries])
    right.set_yticks(range(len(entries)), [])
    middle.set_xlim(left=0)
    middle.set_xlabel(_with_power("Amplitude", power))
    middle.set_title("◁ upper limit, 95 %")
    right.invert_xaxis()
    right.set_xlabel("Right ascension [deg]")
    return figure


def _draw_plane(axes: Axes, entries: dict[str, dict]) -> None:
    outlines = {}
    for name, entry in entries.items():
        values, vectors = np.linalg.eigh(np.array(entry["covariance"]))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        circle = root @ np.stack([np.cos(_ROUND), np.sin(_ROUND)])
        # Two degrees of freedom: P(chi2 < x) = 1 - exp(-x / 2).
        outlines[name] = np.array(entry["vector"])[:, None] + math.sqrt(-2 * math.log(0.32)) * circle
    power, _ = _scaled(np.concatenate(list(outlines.values()), axis=1))
    factor = 10.0**-power
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.plot(0, 0, "+", color=_BLACK, markersize=10, markeredgewidth=1.6)
    for row, (name, outline) in enumerate(outlines.items()):
        colour, point = _COLOURS[row % len(_COLOURS)], np.array(entries[name]["vector"]) * factor
        if row == 0:
            axes.fill(*(outline * factor), facecolor=colour, alpha=0.2, linewidth=0)
        axes.plot(*(outline * factor), color=colour, linewidth=1.2)
        axes.plot(*point, "o", color=colour, markersize=4.5)
    axes.set_aspect("equal", adjustable="datalim")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(_with_power(r"$\delta_{0\mathrm{h}}$", power))
    axes.set_ylabel(_with_power(r"$\delta_{6\mathrm{h}}$", power))


@_styled
def power_spectrum(part: dict) -> Figure:
    """C_l of the estimators that ran, with errors, the isotropic 68 and 95 % ranges, and the noise.

    Args:
        part: One entry of `parts` in estimates.json, with `pseudo-power` or `power`.
    """
    figure = _figure(1.3 * _WIDTH, 3.9)
    axes = figure.add_subplot()
    spectra = {name: part["methods"][name] for name in ("power", "pseudo-power") if name in part["methods"]}
    noise = np.concatenate([entry["noise"] for entry in spectra.values()])
    pseudo = spectra.get("pseudo-power")
    if pseudo is not None:
        edges = np.array([*np.array(pseudo["l_low"]) - 0.5, pseudo["l_high"][-1] + 0.5])
        for level, opacity in (("95", 0.18), ("68", 0.32)):
            low, high = pseudo[f"isotropic_{level}"]
            axes.stairs(
                high, edges, baseline=low, fill=True, color="0.4", alpha=opacity, linewidth=0,
                label=f"Isotropic, {level} %",
            )  # fmt: skip
        low, high = pseudo["statistical_68"]
        axes.stairs(high, edges, baseline=low, fill=False, color=_VERMILION, linewidth=0.8, linestyle=":",
                    label="Gaussian skies of this $C_\\ell$, 68 %")  # fmt: skip
    looks = {"power": ("Quadratic", _BLUE, "o", -0.12), "pseudo-power": ("Pseudo", _VERMILION, "s", 0.12)}
    for name, entry in spectra.items():
        label, colour, marker, offset = looks[name]
        middle = (np.array(entry["l_low"]) + entry["l_high"]) / 2 + offset
        axes.errorbar(middle, entry["power"], entry["isotropic_error"], fmt=marker, color=colour, markersize=4,
                      elinewidth=1, label=f"{label}, noise error")  # fmt: skip
        axes.plot(
            middle, entry["noise"], "--", color=colour, linewidth=0.9, label=f"Noise subtracted ({label.lower()})"
        )
    # Linear about zero, where half of the estimates of an isotropic sky are negative.
    axes.set_yscale("symlog", linthresh=float(np.median(noise)), linscale=1.0)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xlim(0.4, float(max(entry["l_high"][-1] for entry in spectra.values())) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(r"Degree $\ell$")
    axes.set_ylabel(r"$C_\ell$")
    axes.set_title(f"Power spectrum ({part['label']})")
    axes.legend(loc="upper right", ncols=2, fontsize=8)
    return figure


@_styled
def correlation(part: dict) -> Figure:
    """Two-point correlation against separation.

    Args:
        part: One entry of `parts` in estimates.json, with `two-point`.
    """
    entry = part["methods"]["two-point"]
    edges, xi, error, model = (
        np.array([np.nan if x is None else x for x in entry[name]], float)
        for name in ("edges_deg", "xi", "error", "xi_of_power")
    )
    seen = np.isfinite(xi) & np.isfinite(error)
    # A handful of pairs at the largest separations must not set the scale.
    shown = seen & (error < 10 * np.median(error[seen]))
    power, _ = _scaled(np.concatenate([xi[shown] - error[shown], xi[shown] + error[shown], model]))
    factor = 10.0**-power
    figure = _figure(_WIDTH, 3.4)
    axes = figure.add_subplot()
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.stairs(error[seen] * factor, _edges_of(edges, seen), baseline=-error[seen] * factor, fill=True, color="0.4",
                alpha=0.3, linewidth=0, label="Isotropic, 68 %")  # fmt: skip
    middle = np.array(entry["separation_deg"])
    axes.errorbar(middle[shown], xi[shown] * factor, error[shown] * factor, fmt="o", color=_BLACK, markersize=3.5,
                  elinewidth=1, label="Pairs of cells")  # fmt: skip
    axes.plot(middle, model * factor, color=_VERMILION, label=r"Of the quadratic $C_\ell$, full sky")
    values = np.concatenate([xi[shown] - error[shown], xi[shown] + error[shown], model]) * factor
    span = np.ptp(values)
    axes.set_ylim(values.min() - 0.08 * span, values.max() + 0.3 * span)
    axes.set_xlim(0, 180)
    axes.set_xticks(range(0, 181, 30))
    axes.set_xlabel("Separation [deg]")
    axes.set_ylabel(_with_power(r"$\xi$", power))
    axes.set_title(f"Two-point correlation ({part['label']})")
    axes.legend(loc="upper center", ncols=2, handlelength=1.4)
    return figure


def _edges_of(edges: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Edges of the seen bins, which follow each other but for some at the ends."""
    place = np.flatnonzero(seen)
    return np.append(edges[place], edges[place[-1] + 1])


@_styled
def stability(content: dict, equinox: str) -> Figure:
    """Components of the dipole of each period, their common mean, and the drift where there is one.

    Args:
        content: `stability` of estimates.json.
        equinox: Frame of the vectors.
    """
    periods = content["periods"]
    vectors = np.array([p["dipole"] for p in periods])
    errors = np.sqrt(np.array([np.diag(p["covariance"]) for p in periods]))
    mean, mean_error = np.array(content["mean"]), np.sqrt(np.diag(content["mean_covariance"]))
    power, _ = _scaled(np.concatenate([vectors - errors, vectors + errors]))
    factor = 10.0**-power
    times = [p["time"] for p in periods]
    timed = all(t is not None for t in times)
    place = np.array(times if timed else range(len(periods)), float)
    figure = _figure(_WIDTH, 4.4)
    panels = figure.subplots(2, 1, sharex=True)
    for k, (axes, name) in enumerate(zip(panels, (r"$\delta_{0\mathrm{h}}$", r"$\delta_{6\mathrm{h}}$"), strict=True)):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.axhspan(*((mean[k] + mean_error[k] * np.array([-1, 1])) * factor), color=_BLUE, alpha=0.2, linewidth=0)
        axes.axhline(mean[k] * factor, color=_BLUE, label="Common dipole")
        axes.errorbar(place, vectors[:, k] * factor, errors[:, k] * factor, fmt="o", color=_BLACK, markersize=4)
        drift = content.get("drift")
        if drift is not None and timed:
            line = mean[k] + drift["rate"][k] * (place - drift["year"])
            axes.plot(place, line * factor, "--", color=_VERMILION, label="Drift")
        axes.set_ylabel(_with_power(name, power))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    panels[0].legend(loc="best", ncols=2)
    panels[0].set_title(
        rf"$\chi^2$ = {content['chi2']:.1f} / {content['degrees_of_freedom']}, p = {content['p_value']:.2g} ({equinox})"
    )
    if timed:
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        panels[1].set_xlabel("Time [year]")
    else:
        panels[1].set_xticks(place, [p["label"].replace("-", "-\n") for p in periods])
        panels[1].set_xlabel("Period")
    return figure


def _near(angle: float, reference: float) -> float:
    """The angle [deg] within half a turn of a reference."""
    return reference + (angle - reference + 180) % 360 - 180
