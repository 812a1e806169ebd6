"""Pictures of particles in magnetic fields: gyration, mirroring, gyroresonance, scattering, running diffusion.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `plots`. The mean field lies along z.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffcr.errors import InputError

from .plots import _BLACK, _BLUE, _OTHERS, _VERMILION, _WIDTH, _figure, _scaled, _styled, _with_power

_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "D", "^")
_COLOURS = (_BLUE, _VERMILION, *_OTHERS)


@_styled
def gyration(paths: Mapping[str, np.ndarray], unit: str = "$r_L$", title: str = "") -> Figure:
    """Paths seen along the field, B towards the reader, and from the side. Dots mark the start.

    Args:
        paths: Positions by name, each (sample, 3), in order of time.
        unit: Of positions, as a text.
        title: A few words above the picture.

    Raises:
        InputError: If a path has no two points in three dimensions.
    """
    figure = _figure(1.5 * _WIDTH, 3.4)
    front, side = figure.subplots(1, 2, width_ratios=(1, 1.35))
    for place, (name, path) in enumerate(paths.items()):
        path = _require_path(path, name)
        style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _LINES[place % 4]}
        front.plot(path[:, 0], path[:, 1], label=name, **style)
        side.plot(path[:, 2], path[:, 1], **style)
        for axes, across, up in ((front, 0, 1), (side, 2, 1)):
            axes.plot(path[0, across], path[0, up], "o", color=style["color"], markersize=5)
        _arrow(front, path[:, :2], style["color"])
    front.set_aspect("equal", adjustable="datalim")
    front.margins(0.12)
    front.set_xlabel(f"$x$ [{unit}]")
    front.set_ylabel(f"$y$ [{unit}]")
    front.set_title(r"$\mathbf{B}$ towards the reader")
    side.set_xlabel(f"$z$ [{unit}]")
    side.set_ylabel(f"$y$ [{unit}]")
    side.set_title(r"$\mathbf{B}$ to the right")
    figure.legend(loc="outside lower center", ncols=min(len(paths), 4))
    figure.suptitle(title, fontsize=11)
    return figure


def _arrow(axes: Axes, points: np.ndarray, colour: str) -> None:
    """Sense of motion, a tenth of the way from the start: where paths still lie apart."""
    at = max(1, len(points) // 10)
    style = {"arrowstyle": "-|>", "color": colour, "mutation_scale": 14, "linewidth": 0}
    axes.annotate("", points[at], points[at - 1], arrowprops=style)


@_styled
def mirror(
    paths: Mapping[str, np.ndarray],
    cosines: Mapping[str, np.ndarray],
    strengths: Mapping[str, np.ndarray],
    field_lines: np.ndarray,
    unit: str = "$L$",
    title: str = "",
) -> Figure:
    """Particles between magnetic mirrors: paths among field lines, and the pitch angle against the adiabatic invariant.

    Args:
        paths: Positions by name, each (sample, 3).
        cosines: mu about the local field along each path.
        strengths: |B| along each path, over that at the start.
        field_lines: Points (z, x) of field lines, shape (line, point, 2).
        unit: Of positions, as a text.
        title: A few words above the picture.

    Raises:
        InputError: If a name is missing somewhere, or lengths differ.
    """
    figure = _figure(1.15 * _WIDTH, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.1))
    for line in np.asarray(field_lines, float):
        above.plot(line[:, 0], line[:, 1], color="0.75", linewidth=0.8, zorder=1)
    for place, (name, path) in enumerate(paths.items()):
        path = _require_path(path, name)
        if name not in cosines or name not in strengths:
            raise InputError(f"a picture of mirrors needs the pitch angle and the field along {name}")
        cosine, strength = (np.asarray(each[name], float) for each in (cosines, strengths))
        if cosine.shape != path.shape[:1] or strength.shape != path.shape[:1]:
            raise InputError(f"the pitch angle and field along {name} must have as many values as its path has points")
        style = {"color": _COLOURS[place % len(_COLOURS)], "linewidth": 0.9}
        above.plot(path[:, 2], path[:, 0], label=name, **style)
        below.plot(path[:, 2], cosine, **style)
        order = np.argsort(path[:, 2])
        adiabatic = np.sqrt(np.maximum(1 - (1 - cosine[0] ** 2) * strength[order], 0))
        for sign in (1, -1):
            kept = {"color": _BLACK, "linestyle": "--", "linewidth": 0.9, "zorder": 4}
            label = r"$(1-\mu^2)/B$ constant" if sign > 0 and place == 0 else None
            below.plot(path[order, 2], sign * adiabatic, label=label, **kept)
    above.set_ylabel(f"$x$ [{unit}]")
    above.set_title(title)
    below.set_xlabel(f"$z$ [{unit}]")
    below.set_ylabel(r"$\mu$ about local $\mathbf{B}$")
    below.set_ylim(-1.05, 1.05)
    below.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    figure.legend(loc="outside lower center", ncols=min(len(paths) + 1, 4))
    return figure


@_styled
def resonance(
    ratio: Real[np.ndarray, " wave"], curves: Mapping[str, Mapping[str, Any]], time: str = "", title: str = ""
) -> Figure:
    r"""Mean square change of the pitch angle in a single wave against k v_par / Omega.

    Args:
        ratio: k v_par / Omega, shape (wave,): negative for particles that move against B, or for negative charges.
        curves: By name: `measured`, values at the ratios; and, optional, `expected`: (ratio, value), a smooth curve.
        time: Duration, as a text for the axis, such as $\Omega t = 30$.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    ratio = np.asarray(ratio, float)
    figure = _figure(1.2 * _WIDTH, 3.8)
    axes = figure.add_subplot()
    largest = max(np.nanmax(_require_shape(c["measured"], ratio.shape, n)) for n, c in curves.items())
    largest = max(largest, *(np.max(c["expected"][1]) for c in curves.values() if c.get("expected") is not None), 0)
    power, _ = _scaled(np.array([largest]))
    for sign in (-1, 1):
        axes.axvline(sign, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        values = np.asarray(curve["measured"], float) * 10.0**-power
        style = {"color": colour, "marker": _MARKERS[place % 4], "markersize": 3.5, "linestyle": "none"}
        axes.plot(ratio, values, label=name, zorder=3, **style)
        if curve.get("expected") is not None:
            at, expected = (np.asarray(v, float) for v in curve["expected"])
            axes.plot(at, expected * 10.0**-power, color=colour, linewidth=1.0, zorder=2)
    axes.set_ylim(0, 1.08 * largest * 10.0**-power)
    axes.set_xlim(ratio.min(), ratio.max())
    axes.set_xlabel(r"$k\, v_\parallel / \Omega$")
    axes.set_ylabel(_with_power(r"$\langle(\Delta\mu)^2\rangle$", power) + (f" at {time}" if time else ""))
    axes.set_title(title)
    if any(curve.get("expected") is not None for curve in curves.values()):
        axes.plot([], [], color="0.3", linewidth=1.0, label="Linear theory")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    return figure


@_styled
def scattering(
    mu: Real[np.ndarray, " bin"],
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]],
    expected: Mapping[str, tuple[np.ndarray, np.ndarray]],
    unit: str = r"\Omega",
    title: str = "",
) -> Figure:
    """D_mumu against mu: measured, with errors, and expected.

    Args:
        mu: Middles of the bins, shape (bin,).
        measured: By name: values and standard errors, each (bin,).
        expected: By name: mu and D of smooth curves.
        unit: Of D, in TeX.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    mu = np.asarray(mu, float)
    figure = _figure(_WIDTH, 3.8)
    axes = figure.add_subplot()
    largest = max(np.nanmax(_require_shape(values, mu.shape, name)) for name, (values, _) in measured.items())
    power, _ = _scaled(np.array([largest]))
    for place, (name, (at, values)) in enumerate(expected.items()):
        style = {"color": _BLACK if place == 0 else _COLOURS[place], "linestyle": _LINES[place % 4]}
        axes.plot(at, np.asarray(values, float) * 10.0**-power, label=name, zorder=2, **style)
    for place, (name, (values, error)) in enumerate(measured.items()):
        values, error = (np.asarray(v, float) * 10.0**-power for v in (values, _require_shape(error, mu.shape, name)))
        style = {"color": _COLOURS[place], "marker": _MARKERS[place % 4], "markersize": 4, "capsize": 2}
        axes.errorbar(mu, values, error, linestyle="none", label=name, zorder=3, **style)
    axes.set_xlim(-1, 1)
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
    axes.set_xlabel(r"Pitch-angle cosine $\mu$ about $\mathbf{B}_0$")
    axes.set_ylabel(_with_power(rf"$D_{{\mu\mu}}$ [${unit}$]", power))
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def running_coefficients(
    omega_t: Real[np.ndarray, " sample"],
    coefficients: Mapping[str, Mapping[str, Any]],
    unit: str = r"r_L c / 3",
    title: str = "",
) -> Figure:
    r"""Running diffusion coefficients against Omega T, with bands, and whether each has reached its limit.

    Args:
        omega_t: Times, shape (sample,).
        coefficients: By name in TeX, such as $\kappa_\parallel$: `value`, `low` and `high`, each (sample,); and,
            optional, `slope` and `slope_error` of d ln K / d ln T, and `verdict`, a text.
        unit: Of the coefficients, in TeX.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    omega_t = np.asarray(omega_t, float)
    figure = _figure(1.1 * _WIDTH, 4.4)
    axes = figure.add_subplot()
    values = []
    for place, (name, each) in enumerate(coefficients.items()):
        value, low, high = (_require_shape(each[k], omega_t.shape, f"{k} of {name}") for k in ("value", "low", "high"))
        style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _LINES[place % 4]}
        axes.plot(omega_t, _positive(value), label=_with_verdict(name, each), **style)
        least = 1e-3 * np.nanmax(value)
        axes.fill_between(
            omega_t, np.maximum(low, least), np.maximum(high, least), color=style["color"], alpha=0.2, linewidth=0
        )
        values.append(value[value > 0])
    together = np.concatenate(values)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(omega_t.min(), omega_t.max())
    axes.set_ylim(0.5 * np.quantile(together, 0.02), 1.5 * together.max())
    axes.axvspan(omega_t.max() / 2, omega_t.max(), color="0.93", zorder=0, label="Last half of $T$")
    axes.set_xlabel(r"$\Omega T$")
    axes.set_ylabel(rf"Diffusion coefficient [${unit}$]")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=1)
    return figure


def _with_verdict(name: str, each: Mapping[str, Any]) -> str:
    if each.get("slope") is None:
        return name
    slope = rf"$d\ln\kappa / d\ln T = {each['slope']:+.2f} \pm {each['slope_error']:.2f}$"
    return f"{name}: {slope}, {each['verdict']}"


# Helpers ------------------------------------------------------------------------------------------------


def _require_shape(values, shape: tuple, what: str) -> Float[np.ndarray, "..."]:
    if np.shape(values) != tuple(shape):
        raise InputError(f"{what} must have the shape {tuple(shape)}, not {np.shape(values)}")
    return np.asarray(values, float)


def _require_path(path, name: str) -> Float[np.ndarray, "sample 3"]:
    path = np.asarray(path, float)
    if path.ndim != 2 or path.shape[1] != 3 or len(path) < 2:
        raise InputError(f"the path of {name} must have the shape (sample, 3), not {path.shape}")
    return path


def _positive(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithm has no place for a value."""
    return np.where(np.asarray(values) > 0, values, np.nan)
