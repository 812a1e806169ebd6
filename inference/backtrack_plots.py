"""Pictures of backtracked skies: angular power spectra against degree, its shape beside data, maps, running diffusion.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `plots`. The frame is that of the regular field: B_0 points to
the top of a map, which shows the sky from inside, longitude about B_0 increasing to the left.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from diffcr.errors import InputError

from .plots import _BLACK, _BLUE, _HALO, _OTHERS, _VERMILION, _WIDTH, _figure, _scaled, _styled, _with_power

_LINES = ("-", ":", "--", "-.", (0, (1, 1, 4, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "D", "^")
_COLOURS = (_BLUE, _VERMILION, *_OTHERS)
_MOST_TIMES = 6
_MOST_MAPS = 4

Curves = Mapping[str, Mapping[str, Any]]


@_styled
def angular_power(
    degree: np.ndarray,
    omega_t: np.ndarray,
    curves: Curves,
    title: str = "",
    unit: str = r"(\nabla n/n)^2 L_c^2",
    most: int = _MOST_TIMES,
) -> Figure:
    """Ensemble mean <C_l> against l: one line style for each orientation of the gradient, one colour for each time.

    Args:
        degree: l, shape (degree,).
        omega_t: Times Omega T kept, increasing, shape (time,).
        curves: By orientation, in the order of the line styles solid, dotted, dashed: `power` <C_l> and `error`, each
            (time, degree); and for the last time, each optional: `cascade` (degree,), where the cascade is compared,
            NaN elsewhere; `noise` and `plateau`, one number each: level of the analytic noise, and of the measured
            plateau.
        title: A few words above the picture.
        unit: Of C_l, in TeX.
        most: Times drawn at most, evenly spread in ln T; the last is among them.

    Raises:
        InputError: If shapes do not fit.
    """
    degree, omega_t = np.asarray(degree, float), np.asarray(omega_t, float)
    for name, curve in curves.items():
        _require_shape(curve["power"], (omega_t.size, degree.size), f"<C_l> of {name}")
        _require_shape(curve["error"], (omega_t.size, degree.size), f"the errors of {name}")
    seen = degree >= 1
    figure = _figure(1.3 * _WIDTH, 4.9)
    axes = figure.add_subplot()
    shown = _spread_times(omega_t, most)
    colour = _time_colours(omega_t[shown])
    lowest, highest = [], []
    for place, curve in enumerate(curves.values()):
        power, error = np.asarray(curve["power"], float), np.asarray(curve["error"], float)
        for k in shown:
            last = k == shown[-1]
            style = {
                "color": colour(omega_t[k]),
                "linestyle": _LINES[place % len(_LINES)],
                "linewidth": 1.8 if last else 1.1,
            }
            axes.plot(degree[seen], _positive(power[k, seen]), zorder=4 if last else 3, **style)
            low = np.maximum(power[k] - error[k], 1e-3 * np.abs(power[k]))
            band = {"facecolor": style["color"], "alpha": 0.16, "linewidth": 0}
            axes.fill_between(degree[seen], low[seen], (power[k] + error[k])[seen], zorder=1, **band)
            lowest.append(np.nanmin(_positive(power[k, seen])))
            highest.append(np.nanmax((power[k] + error[k])[seen]))
    handles = _draw_expectations(axes, degree, curves, lowest)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, degree.max() * 1.1)
    axes.set_ylim(0.5 * np.nanmin(lowest), 2.5 * np.nanmax(highest))
    _degree_ticks(axes, degree.max())
    axes.set_xlabel(r"Degree $\ell$")
    axes.set_ylabel(rf"$\langle C_\ell\rangle$ [${unit}$]")
    axes.set_title(title)
    _time_bar(figure, axes, omega_t[shown])
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=2.4, columnspacing=1.4)
    return figure


def _draw_expectations(axes: Axes, degree: np.ndarray, curves: Curves, lowest: list) -> list[Artist]:
    """Cascade, plateau and noise of the last time; returns the handles of the legend."""
    handles = []
    for place, name in enumerate(curves):
        line = {"linestyle": _LINES[place % len(_LINES)], "color": "0.25", "linewidth": 1.6}
        handles.append(Line2D([], [], label=f"Gradient {name}", **line))
    handles.append(Patch(label="Standard error of the mean", facecolor="0.8", linewidth=0))
    kinds = (
        ("cascade", _BLACK, 1.1, "Cascade through $C_2$ + plateau"),
        ("plateau", _VERMILION, 1.0, "Plateau, measured (last time)"),
        ("noise", _OTHERS[2], 1.0, r"Noise $(4\pi/N_\mathrm{pix})\,2TK_{ij}d_id_j$"),
    )
    for kind, colour, width, label in kinds:
        drawn = False
        for place, curve in enumerate(curves.values()):
            if curve.get(kind) is None:
                continue
            values = np.broadcast_to(np.asarray(curve[kind], float), degree.shape)
            inside = degree >= (1 if kind == "cascade" else 0.35 * degree.max())
            if not np.any(np.isfinite(values[inside]) & (values[inside] > 0)):
                continue
            drawn = True
            style = {"color": colour, "linewidth": width, "linestyle": _LINES[place % len(_LINES)], "zorder": 5}
            if kind != "cascade":
                lowest.append(values[0])
            axes.plot(degree[inside], _positive(values[inside]), **style)
        if drawn:
            handles.append(Line2D([], [], color=colour, linewidth=width, label=label))
    return handles


@_styled
def power_shape(
    degree: np.ndarray,
    curves: Curves,
    cascade: np.ndarray | None = None,
    data: Mapping[str, np.ndarray] | None = None,
    title: str = "",
    highest: int | None = None,
) -> Figure:
    """C_l / C_2 of the backtracked skies beside the cascade and measured spectra.

    Args:
        degree: l, shape (degree,).
        curves: By orientation: `shape` C_l / C_2 without the plateau, and its `error`, each (degree,).
        cascade: C_l / C_2 of the cascade, shape (degree,).
        data: Measured points: `degree`, `shape` (C_l over that of l = 2) and `error`, each (point,).
        title: A few words above the picture.
        highest: Largest l drawn; by default that of the data or, without, the last before errors exceed the values.

    Raises:
        InputError: If shapes do not fit.
    """
    degree = np.asarray(degree, float)
    for name, curve in curves.items():
        _require_shape(curve["shape"], degree.shape, f"C_l / C_2 of {name}")
        _require_shape(curve["error"], degree.shape, f"the errors of {name}")
    figure = _figure(_WIDTH, 4.2)
    axes = figure.add_subplot()
    last = _last_degree(degree, curves, data) if highest is None else highest
    inside = (degree >= 1) & (degree <= last)
    values = []
    if cascade is not None:
        _require_shape(cascade, degree.shape, "C_l / C_2 of the cascade")
        predicted = np.asarray(cascade, float)[inside]
        style = {"color": _BLACK, "linewidth": 1.2, "linestyle": "--"}
        axes.plot(degree[inside], _positive(predicted), label="Cascade, large depth", zorder=2, **style)
        values.append(predicted)
    spread = np.linspace(-0.012, 0.012, len(curves)) if len(curves) > 1 else [0.0]
    for place, (name, curve) in enumerate(curves.items()):
        shape, error = np.asarray(curve["shape"], float)[inside], np.asarray(curve["error"], float)[inside]
        kept = shape > 0
        style = {"color": _COLOURS[place], "marker": _MARKERS[place % 4], "markersize": 4.5}
        style |= {"linestyle": _LINES[place % len(_LINES)], "linewidth": 1.0, "capsize": 2, "zorder": 3}
        x = degree[inside][kept] * 10 ** spread[place]
        bars = [np.minimum(error[kept], 0.999 * shape[kept]), error[kept]]
        axes.errorbar(x, shape[kept], bars, label=f"Backtracked, gradient {name}", **style)
        values.append(shape[kept])
    if data is not None:
        kept = np.asarray(data["degree"]) <= last
        x, y, error = (np.asarray(data[k], float)[kept] for k in ("degree", "shape", "error"))
        bars = [np.where(y > 0, np.minimum(error, 0.999 * np.abs(y)), 0), error]
        axes.errorbar(x, y, bars, fmt="k*", markersize=7, capsize=2, linewidth=1.0, label="Data", zorder=4)
        values.append(y[y > 0])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, last * 1.12)
    together = np.concatenate(values)
    together = together[np.isfinite(together) & (together > 0)]
    if together.size:
        axes.set_ylim(0.4 * together.min(), 3 * together.max())
    _degree_ticks(axes, last)
    axes.set_xlabel(r"Degree $\ell$")
    axes.set_ylabel(r"$\langle C_\ell\rangle / \langle C_2\rangle$")
    axes.set_title(title)
    axes.legend(loc="upper right")
    return figure


@_styled
def sky_maps(
    maps: Mapping[str, np.ndarray],
    omega_t: np.ndarray,
    angles_deg: Mapping[str, float] | None = None,
    title: str = "",
    unit: str = r"L_c\,|\nabla n|/n",
    most: int = _MOST_MAPS,
) -> Figure:
    """Skies of one realisation at growing Omega T: one column for each orientation of the gradient.

    Args:
        maps: By orientation: delta I of unit gradient on HEALPix pixels in RING order, shape (time, pixel).
        omega_t: Times Omega T of the maps, shape (time,).
        angles_deg: By orientation: angle of the gradient to B_0 [deg], in the half plane of longitude 0; marks it.
        title: A few words above the picture.
        unit: Of delta I, in TeX.
        most: Times drawn at most, evenly spread in ln T; the last is among them.

    Raises:
        InputError: If shapes do not fit.
    """
    omega_t = np.asarray(omega_t, float)
    shown = _spread_times(omega_t, most)
    columns = len(maps)
    figure = _figure(max(3.6 * columns, 4.2), 1.95 * len(shown) + 0.75)
    axes = figure.subplots(len(shown), columns, squeeze=False, subplot_kw={"projection": "mollweide"})
    for column, (name, values) in enumerate(maps.items()):
        values = np.asarray(values, float)
        _require_shape(values, (omega_t.size, values.shape[-1]), f"the maps of {name}")
        for row, k in enumerate(shown):
            place = axes[row, column]
            angle = None if angles_deg is None else angles_deg.get(name)
            _draw_sky(place, values[k], angle, unit)
            if row == 0:
                place.set_title(f"Gradient {name}\n$\\Omega T = {omega_t[k]:.3g}$")
            else:
                place.set_title(f"$\\Omega T = {omega_t[k]:.3g}$")
    figure.suptitle(title, fontsize=11)
    note = ("B$_0$ at the top, seen from inside, longitude to the left;", "cross: direction of the gradient")
    figure.supxlabel((" " if columns > 1 else "\n").join(note), fontsize=9)
    return figure


def _draw_sky(axes: Axes, values: np.ndarray, angle_deg: float | None, unit: str) -> None:
    import healpy

    x, y = np.linspace(-np.pi, np.pi, 401), np.linspace(-np.pi / 2, np.pi / 2, 201)
    longitude, latitude = np.meshgrid(-(x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
    pixels = healpy.ang2pix(healpy.npix2nside(values.size), np.pi / 2 - latitude, longitude)
    limit = float(np.quantile(np.abs(values), 0.995)) or 1.0
    power, (top,) = _scaled(np.array([limit]))
    mesh = axes.pcolormesh(x, y, values[pixels] * 10.0**-power, cmap="RdBu_r", vmin=-top, vmax=top, rasterized=True)
    extend = "both" if np.any(np.abs(values) > limit) else "neither"
    bar = axes.figure.colorbar(mesh, ax=axes, orientation="vertical", shrink=0.75, pad=0.03, extend=extend)
    bar.set_label(_with_power(rf"$\delta I$ [${unit}$]", power), fontsize=9)
    bar.ax.tick_params(labelsize=9)
    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), labels=[])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)), labels=[])
    axes.grid(color="0.35", linewidth=0.4, alpha=0.6)
    pole = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "annotation_clip": False}
    axes.annotate(r"B$_0$", (0, np.pi / 2), xytext=(14, 0), va="center", path_effects=_HALO, **pole)
    axes.plot(0, np.pi / 2 - 1e-3, "^", color=_BLACK, markersize=5, clip_on=False, zorder=6)
    if angle_deg is not None:
        height = np.clip(np.radians(90 - angle_deg), -np.pi / 2 + 1e-3, np.pi / 2 - 1e-3)
        style = {"color": _BLACK, "markersize": 7, "markeredgewidth": 1.6, "clip_on": False, "zorder": 7}
        axes.plot(0, height, "x", **style)


@_styled
def running_diffusion(
    omega_t: np.ndarray,
    coefficients: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str = "",
    unit: str = r"r_L c/3",
) -> Figure:
    """Running diffusion coefficients against Omega T.

    Args:
        omega_t: Times, shape (time,).
        coefficients: By name, in TeX: values and errors, each (time,).
        title: A few words above the picture.
        unit: Of the coefficients, in TeX.

    Raises:
        InputError: If shapes do not fit.
    """
    omega_t = np.asarray(omega_t, float)
    figure = _figure(_WIDTH, 3.6)
    axes = figure.add_subplot()
    for place, (name, (values, errors)) in enumerate(coefficients.items()):
        values, errors = np.asarray(values, float), np.asarray(errors, float)
        _require_shape(values, omega_t.shape, name)
        _require_shape(errors, omega_t.shape, f"the errors of {name}")
        style = {"color": _COLOURS[place], "marker": _MARKERS[place % 4], "markersize": 4, "capsize": 2}
        bars = [np.minimum(errors, 0.999 * np.abs(values)), errors]
        axes.errorbar(omega_t, values, bars, linestyle=_LINES[place % len(_LINES)], label=name, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"$\Omega T$")
    axes.set_ylabel(rf"Diffusion coefficient [${unit}$]")
    axes.set_title(title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(_two_and_five))
    figure.legend(loc="outside lower center", ncols=4, handlelength=2.0, columnspacing=1.2)
    return figure


# Helpers ------------------------------------------------------------------------------------------------


def _require_shape(values, shape: tuple, what: str) -> None:
    if np.shape(values) != tuple(shape):
        raise InputError(f"{what} must have the shape {tuple(shape)}, not {np.shape(values)}")


def _positive(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithm has no place for a value."""
    return np.where(np.asarray(values) > 0, values, np.nan)


def _spread_times(omega_t: np.ndarray, most: int) -> list[int]:
    """Places of at most so many times, near even in ln T, the last among them."""
    if omega_t.size <= most:
        return list(range(omega_t.size))
    wanted = np.geomspace(omega_t[-1], omega_t[0], most)
    return sorted({int(np.argmin(np.abs(np.log(omega_t / each)))) for each in wanted})


def _time_norm(omega_t: np.ndarray) -> Normalize:
    low, high = float(omega_t.min()), float(omega_t.max())
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high)


def _time_colours(omega_t: np.ndarray):
    norm, scale = _time_norm(omega_t), colormaps["viridis_r"]
    # The palest end is unreadable on white.
    return lambda t: scale(0.15 + 0.85 * float(norm(t)))


def _time_bar(figure: Figure, axes: Axes, omega_t: np.ndarray) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("time", colormaps["viridis_r"](np.linspace(0.15, 1, 256)))
    bar = figure.colorbar(ScalarMappable(_time_norm(omega_t), colours), ax=axes, pad=0.02)
    bar.set_label(r"$\Omega T$")
    bar.ax.yaxis.set_major_locator(FixedLocator(omega_t))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _degree_ticks(axes: Axes, last: float) -> None:
    ticks = [l for l in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300) if l <= last * 1.05]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def _two_and_five(value: float, _) -> str:
    """Labels of 2 and 5 of each decade."""
    first = value / 10 ** np.floor(np.log10(value) + 1e-9)
    return f"{value:g}" if round(first, 6) in (2, 5) else ""


def _last_degree(degree: np.ndarray, curves: Curves, data) -> int:
    """Largest l of the data; without, the last at which some curve still stands out of its error."""
    if data is not None:
        return int(max(np.max(data["degree"]), 4))
    clear = np.zeros(degree.shape, bool)
    for curve in curves.values():
        clear |= np.asarray(curve["shape"], float) > np.asarray(curve["error"], float)
    good = degree[clear & (degree >= 2)]
    lost = degree[~clear & (degree >= 3)]
    first_lost = lost.min() if lost.size else degree.max() + 1
    return int(max(np.max(good[good < first_lost], initial=4.0), 4))


def evenly_spread(omega_t: Sequence[float] | np.ndarray, most: int) -> list[int]:
    """Places of the times that pictures show: at most so many, near even in ln T, the last among them."""
    return _spread_times(np.asarray(omega_t, float), most)
