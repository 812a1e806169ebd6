"""Pictures of what a physical model predicts: the dipole against energy, the sky and the Galactic plane with the
sources, vectors in the equatorial plane, boron to carbon, and how much of a prior fits.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `plots`. Right ascension increases to the left on the sky. In
the plane of (delta_0h, delta_6h) delta_0h increases to the right, and in that of the Galaxy, seen from its north, the
Galactic centre is to the right and l = 90 degrees is up.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Patch
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox, BboxBase

from diffcr.errors import InputError
from diffcr.sky import GALACTIC_TO_ICRS

from .plots import (
    _BLACK,
    _BLUE,
    _HALO,
    _OTHERS,
    _VERMILION,
    _WIDTH,
    _figure,
    _mollweide,
    _note,
    _scaled,
    _styled,
    _with_power,
)

POINT_COLUMNS = (
    *("experiment", "energy_TeV", "amplitude", "amplitude_lo", "amplitude_hi"),
    *("phase_deg", "phase_err_deg", "is_limit", "use"),
)
"""Of published dipoles, as `dipole_against_energy` takes them."""

_COLOURS = (_VERMILION, *_OTHERS, "0.45")
_MARKERS = "osD^vP*X<>p"
_OPACITY = (0.30, 0.14)
_PLUS, _MINUS = "#F9DDCB", "#D3E6F3"  # tints of vermilion and blue
_JOINT_68 = 2.2789  # chi2 of two degrees of freedom

Points = Mapping[str, Any]
Bands = Mapping[float, tuple[np.ndarray, np.ndarray]]


@_styled
def dipole_against_energy(
    energy: np.ndarray,
    dipole: np.ndarray | None,
    points: Points | None = None,
    bands: Bands | None = None,
    title: str = "",
    label: str = "Model",
    second: np.ndarray | None = None,
    second_label: str = "Without Compton–Getting",
    flips: Sequence[float] | np.ndarray = (),
    seam_deg: float | int | None = None,
) -> Figure:
    """Equatorial amplitude, and below it the phase, against energy.

    Args:
        energy: Energies per particle [TeV], in any order, shape (energy,).
        dipole: The model's (delta_0h, delta_6h), further components are not looked at, shape (energy, 2 or 3). None
            draws the bands alone.
        points: Published dipoles, arrays by the names in `POINT_COLUMNS`: amplitudes and the ends of their error bars
            (dimensionless); phases and their errors [deg]; is_limit true for upper limits; use true (or "fit") for
            what is fitted, the rest is drawn hollow. Not a number where there is none.
        bands: By probability: edges of the amplitude (2, energy), and start and end of the arc of the phase [rad]
            (2, energy), end - start its length.
        title: A few words above the picture.
        label: Name of the model in the legend.
        second: Dipoles of a second curve, at the same energies.
        second_label: Its name.
        flips: Energies [TeV] to mark as those of a phase flip.
        seam_deg: Right ascension at which the circle is cut; by default where it disturbs least.

    Raises:
        InputError: If shapes do not fit, an energy is not above zero, or a column of the points is missing.
    """
    energy = np.asarray(energy, float)
    if energy.ndim != 1 or not energy.size or not np.all(energy > 0):
        raise InputError("energies must be one axis of numbers above 0 TeV; leave out the others")
    order = np.argsort(energy, kind="stable")
    curves = [
        (name, _sorted(values, energy, order, name), style)
        for name, values, style in ((label, dipole, "-"), (second_label, second, "--"))
        if values is not None
    ]
    arcs = {}
    for level, pair in sorted((bands or {}).items()):
        edges = [np.asarray(each, float) for each in pair]
        if len(edges) != 2 or any(each.shape != (2, energy.size) for each in edges):
            raise InputError(
                f"the band of {level:g} needs the amplitude and the phase, each of shape (2, {energy.size}), not "
                f"{', '.join(str(each.shape) for each in edges)}"
            )
        arcs[level] = [each[:, order] for each in edges]
    rows = None if points is None else _checked_points(points)
    energy = energy[order]
    seam = _best_seam(curves, arcs, rows) if seam_deg is None else float(seam_deg)

    figure = _figure(_WIDTH, 5.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
    top.set_autoscaley_on(False)
    handles = []
    for level, (amplitude, arc) in reversed(arcs.items()):
        opacity = _OPACITY[0] if level < 0.8 else _OPACITY[1]
        style = {"facecolor": _BLUE, "alpha": opacity, "linewidth": 0}
        top.fill_between(energy, *amplitude, **style)
        _draw_arcs(bottom, energy, arc, seam, style)
        handles.insert(0, Patch(label=f"{100 * level:g} % of the draws", **style))
    dots = "o" if energy.size <= 12 else ""
    for name, values, line in reversed(curves):
        style = {"color": _BLUE, "linestyle": line, "marker": dots, "markersize": 3, "zorder": 3}
        style["linewidth"] = 1.8 if line == "-" else 1.2
        top.plot(energy, np.hypot(values[:, 0], values[:, 1]), **style)
        _draw_phase(bottom, energy, _phase(values), seam, style)
        handles.insert(0, Line2D([], [], label=name, **style))
    flips = np.atleast_1d(np.asarray(flips, float))
    for place, flip in enumerate(flips):
        for axes in (top, bottom):
            axes.axvline(flip, color="0.4", linewidth=0.9, linestyle=":", zorder=1)
        if place == 0:
            name = f"Phase flip at {_number(flip)} TeV" if flips.size == 1 else "Phase flips"
            handles.append(Line2D([], [], color="0.4", linewidth=0.9, linestyle=":", label=name))
    if rows is not None:
        handles += _draw_points(top, bottom, rows, seam)

    top.set_xscale("log")
    top.set_yscale("log")
    seen = np.concatenate([energy, flips, rows["energy_TeV"] if rows else []])
    margin = max((seen.max() / seen.min()) ** 0.03, 1.1)
    top.set_xlim(seen.min() / margin, seen.max() * margin)
    bottom.xaxis.set_major_locator(LogLocator(numticks=12))
    bottom.xaxis.set_minor_formatter(NullFormatter())
    limits = _amplitude_range(curves, arcs, rows)
    if limits is not None:
        top.set_ylim(*limits)
    bottom.set_ylim(seam, seam + 360)
    step = 90 if seam % 60 else 60
    bottom.set_yticks(np.arange(step * np.ceil(seam / step), seam + 360.5, step))
    bottom.grid(axis="y", color="0.9", linewidth=0.6)
    bottom.set_axisbelow(True)
    top.set_ylabel("Equatorial dipole\namplitude $A$")
    bottom.set_ylabel("Phase: right\nascension $\\alpha$ [deg]")
    bottom.set_xlabel("Energy per particle [TeV]")
    top.set_title(title)
    figure.align_ylabels()
    _legend_below(figure, handles, 3)
    return figure


@_styled
def source_sky(
    field: np.ndarray,
    remnants: Mapping[str, np.ndarray],
    phases: Sequence[float] | None = None,
    dipole_track: tuple[np.ndarray, np.ndarray] | None = None,
    title: str = "",
    frame_label: str = "equatorial, J2000",
) -> Figure:
    """The sky with the local field, the magnetic equator, known remnants and the two possible phases.

    Where particles move along the field alone, what comes from the side of +B (vermilion) puts the phase at the right
    ascension of +B, what comes from the other (blue) at the opposite one.

    Args:
        field: Direction of the field B in ICRS, shape (3,); its end +B is crossed, as B points away from us there.
        remnants: Directions of sources in ICRS by name, each of shape (3,).
        phases: Right ascensions [deg] of the meridians drawn; by default that of +B and the opposite one. () for none.
        dipole_track: Energies [TeV] (energy,), and directions in ICRS (energy, 3) of the dipole at each.
        title: A few words above the map.
        frame_label: The frame of the coordinates.

    Raises:
        InputError: If a direction is zero or not finite, or shapes do not fit.
    """
    field = _unit(field, "the field")
    alpha = float(np.degrees(np.arctan2(field[1], field[0])) % 360)
    figure = _figure(_WIDTH, 3.05 if dipole_track is None else 3.75)
    axes = figure.add_subplot(projection="mollweide")
    _graticule(axes)

    ra, dec = np.linspace(0, 2 * np.pi, 361), np.linspace(-np.pi / 2, np.pi / 2, 181)
    sky = _direction(ra[None], dec[:, None])
    axes.contourf(np.pi - ra[::-1], dec, (sky @ field)[:, ::-1], [-1.1, 0, 1.1], colors=[_MINUS, _PLUS], zorder=0)

    handles = [
        Patch(facecolor=tint, label=rf"$\mathbf{{B}}\cdot\mathbf{{n}}{sign}0$: phase {angle % 360:.0f}°")
        for tint, sign, angle in ((_PLUS, ">", alpha), (_MINUS, "<", alpha + 180))
    ]
    plane = np.asarray(GALACTIC_TO_ICRS)[:, 2]
    for pole, line, name in ((plane, "-", "Galactic plane"), (field, "--", "Magnetic equator")):
        style = {"color": "0.35" if line == "-" else _BLACK, "linestyle": line, "linewidth": 1.2}
        handles += axes.plot(*_great_circle(pole), label=name, **style)
    meridian = np.linspace(-np.pi / 2, np.pi / 2, 91)
    for angle in (alpha, alpha + 180) if phases is None else phases:
        side = np.cos(np.radians(angle - alpha)) >= 0
        style = {"color": _VERMILION if side else _BLUE, "linestyle": "-.", "linewidth": 1.1}
        x, _ = _mollweide(np.radians(angle), 0.0)
        line = axes.plot(np.full_like(meridian, x), meridian, label=rf"$\alpha={float(angle) % 360:.0f}°$", **style)
        handles += line

    notes, track = [], []
    for end, sign in ((field, "+"), (-field, "−")):
        x, y = (float(each) for each in _mollweide(*_angles(end)))
        style = {"color": _BLACK, "linestyle": "none", "zorder": 6}
        axes.plot(x, y, "o", markersize=11, markerfacecolor="white", markeredgewidth=1.3, **style)
        axes.plot(x, y, "x" if sign == "+" else ".", markersize=6, markeredgewidth=1.3, **style)
        notes.append((x, y, rf"${sign.replace('−', '-')}\mathbf{{B}}$", 8))
    for name, vector in remnants.items():
        vector = _unit(vector, f"the direction of {name}")
        x, y = (float(each) for each in _mollweide(*_angles(vector)))
        colour = _VERMILION if vector @ field >= 0 else _BLUE
        axes.plot(
            x,
            y,
            "*",
            color=colour,
            markersize=9,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="none",
            zorder=7,
        )
        notes.append((x, y, name, 4))
    if dipole_track is not None:
        track = _draw_track(axes, *dipole_track)

    axes.set_title(title)
    axes.set_xlabel(f"Right ascension [deg] ({frame_label})")
    axes.set_ylabel("Declination [deg]", labelpad=30)
    handles.append(Line2D([], [], marker="*", color="0.4", markersize=9, linestyle="none", label="Supernova remnant"))
    _legend_below(figure, handles if remnants else handles[:-1], 3)
    _place_labels(axes, notes, track)
    return figure


@_styled
def source_map(
    position: np.ndarray,
    names: Sequence[str],
    age: np.ndarray | None = None,
    field: np.ndarray | None = None,
    distance_range: np.ndarray | None = None,
    horizon: float | int = 1000.0,
    title: str = "",
) -> Figure:
    """Sources around the Sun in the plane of the Galaxy, seen from its north: Galactic longitude runs anticlockwise.

    Args:
        position: Galactic Cartesian from the Sun [pc]: x to the Galactic centre, y to l = 90 degrees, z to the north,
            shape (source, 3).
        names: Of the sources.
        age: Written beside each [yr]; the circles of older ones are larger. Shape (source,).
        field: Direction of the field B in the same coordinates, shape (3,): adds its projection, the line where the
            plane perpendicular to it meets the Galactic plane, and the two sides.
        distance_range: Lowest and highest distance [pc], shape (source, 2): adds radial bars.
        horizon: Half the side of the picture [pc]. What is beyond it is named below the picture.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    position = np.asarray(position, float)
    n = len(names)
    _require_shape(position, (n, 3), "the positions")
    age = None if age is None else np.asarray(age, float)
    if age is not None:
        _require_shape(age, (n,), "the ages")
    spread = None if distance_range is None else np.asarray(distance_range, float)
    if spread is not None:
        _require_shape(spread, (n, 2), "the ranges of distance")
    along = None if field is None else _unit(field, "the field")

    figure = _figure(_WIDTH, 5.6)
    axes = figure.add_subplot(aspect="equal")
    axes.set_xlim(-horizon, horizon)
    axes.set_ylim(-horizon, horizon)
    handles = []
    if along is not None:
        handles += _draw_field_in_plane(axes, along, horizon)
    step = horizon / 4
    for radius in step * np.arange(1, 5):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="0.6", linewidth=0.5, linestyle=":"))
    axes.plot(0, 0, "o", markersize=9, markerfacecolor="white", markeredgecolor=_BLACK, linestyle="none", zorder=6)
    axes.plot(0, 0, ".", markersize=4, color=_BLACK, linestyle="none", zorder=6)
    notes, beyond = [(0.0, 0.0, "Sun", 7)], []
    for place, (name, (x, y, z)) in enumerate(zip(names, position, strict=True)):
        distance = float(np.sqrt(x * x + y * y + z * z))
        if max(abs(x), abs(y)) > 0.97 * horizon:
            beyond.append(f"{name} ({distance:.0f} pc)")
            continue
        side = along is None or along @ position[place] >= 0
        colour = _VERMILION if side else _BLUE
        size = 7.0 if age is None else float(np.clip(3 + 2.5 * np.log10(max(age[place], 1.0) / 1e3), 3, 12))
        if spread is not None and distance > 0:
            ends = np.outer(spread[place] / distance, (x, y))
            axes.plot(*_line(*ends), color=colour, linewidth=1.0, zorder=4)
        axes.plot(
            x, y, "o", markersize=size, color=colour, markeredgecolor="white", alpha=0.9, linestyle="none", zorder=5
        )
        written = name if age is None or not np.isfinite(age[place]) else f"{name}\n{_number(age[place] / 1e3)} kyr"
        notes.append((float(x), float(y), written, size / 2 + 1))
    # Towards which longitude the edges of the picture lie.
    for text, xy, align in (
        ("$l=0°$ (centre)", (0.99, 0.505), ("right", "bottom")),
        ("$180°$", (0.01, 0.505), ("left", "bottom")),
        ("$90°$", (0.505, 0.99), ("left", "top")),
        ("$270°$", (0.505, 0.01), ("left", "bottom")),
    ):
        axes.text(
            *xy, text, transform=axes.transAxes, ha=align[0], va=align[1], fontsize=9, color="0.35", path_effects=_HALO
        )
    axes.axhline(0, color="0.6", linewidth=0.5, zorder=1)
    axes.axvline(0, color="0.6", linewidth=0.5, zorder=1)
    axes.set_xticks(horizon * np.linspace(-1, 1, 5))
    axes.set_yticks(horizon * np.linspace(-1, 1, 5))
    aside = f"\nBeyond: {', '.join(beyond)}" if beyond else ""
    axes.set_xlabel(f"$x$ towards the Galactic centre [pc]{aside}")
    axes.set_ylabel(r"$y$ towards $l=90°$ [pc]")
    axes.set_title(title)
    if handles:
        _legend_below(figure, handles, 2)
    _place_labels(axes, notes)
    return figure


@_styled
def vector_plane(
    energy: np.ndarray,
    delta: np.ndarray,
    covariance: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    track: tuple[np.ndarray, np.ndarray] | None = None,
    axis_deg: float | int | None = None,
    motion: np.ndarray | None = None,
    radius: float | int | None = None,
    title: str = "",
) -> Figure:
    """Dipoles as vectors in the equatorial plane, coloured by energy: delta_0h to the right, delta_6h up.

    Args:
        energy: Energies [TeV], shape (row,).
        delta: (delta_0h, delta_6h), shape (row, 2).
        covariance: Of each, shape (row, 2, 2): adds the joint 68 % region. Not a number for none.
        names: Experiment of each row: a marker for each.
        track: Energies [TeV] (energy,), and the model's (delta_0h, delta_6h) there, (energy, 2 or 3).
        axis_deg: Right ascension of the field [deg]: adds a line along it.
        motion: (delta_0h, delta_6h) that the observer's motion adds: an arrow, from the end of which the line of the
            field starts, shape (2,).
        radius: How far the picture reaches from the middle; by default all of the regions are on it.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit, an energy is not above zero, or there is nothing to draw.
    """
    energy, delta = np.asarray(energy, float), np.asarray(delta, float)
    n = energy.size
    _require_shape(delta, (n, 2), "the dipoles")
    if covariance is not None:
        covariance = np.asarray(covariance, float)
        _require_shape(covariance, (n, 2, 2), "the covariances")
    if names is not None and len(names) != n:
        raise InputError(f"there are {len(names)} names of experiments for {n} dipoles; give one for each row")
    path = None
    if track is not None:
        path = np.asarray(track[0], float), np.asarray(track[1], float)[:, :2]
        _require_shape(path[1], (path[0].size, 2), "the dipoles of the model")
    every = np.concatenate([energy, path[0] if path else []])
    if not every.size or not np.all(every > 0):
        raise InputError("a picture of dipoles by energy needs at least one, with all energies above 0 TeV")
    colours = _energy_colours(every)

    corners = [np.zeros((1, 2)), delta[np.all(np.isfinite(delta), axis=1)]]
    regions = []
    for row in range(n if covariance is not None else 0):
        if np.all(np.isfinite(covariance[row])) and np.all(np.isfinite(delta[row])):
            sides, turn = np.linalg.eigh(covariance[row])
            if not np.all(sides > 0):
                raise InputError(f"the covariance of dipole {row} must be positive definite")
            regions.append((row, 2 * np.sqrt(_JOINT_68 * sides), np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))))
            half = np.sqrt(_JOINT_68 * np.diag(covariance[row]))
            corners += [delta[row : row + 1] - half, delta[row : row + 1] + half]
    for extra in (path[1] if path else None, None if motion is None else np.asarray(motion, float)[None]):
        if extra is not None:
            corners.append(extra[np.all(np.isfinite(extra), axis=1)])
    corners = np.concatenate(corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    middle, half = (low + high) / 2, 0.56 * float(np.max(high - low)) or 1.0
    if radius is not None:
        middle, half = np.zeros(2), float(radius)
    power, _ = _scaled(np.abs(middle) + half)
    factor = 10.0**-power

    figure = _figure(_WIDTH, 4.6)
    axes = figure.add_subplot(aspect="equal")
    axes.axhline(0, color="0.6", linewidth=0.7, zorder=1)
    axes.axvline(0, color="0.6", linewidth=0.7, zorder=1)
    axes.plot(0, 0, "+", color=_BLACK, markersize=10, markeredgewidth=1.6, linestyle="none", zorder=4)
    handles = [Line2D([], [], color=_BLACK, marker="+", markersize=9, linestyle="none", label="Isotropy")]
    start = np.zeros(2) if motion is None else np.asarray(motion, float) * factor
    if axis_deg is not None:
        towards = np.array([np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg))])
        ends = start + 4 * (half + np.linalg.norm(middle)) * factor * np.outer((-1, 1), towards)
        name = f"Field axis: {axis_deg % 360:.0f}° and {(axis_deg + 180) % 360:.0f}°"
        handles += axes.plot(*ends.T, "--", color="0.3", linewidth=1.1, zorder=1, label=name)
    if motion is not None:
        style = {"arrowstyle": "-|>", "color": _VERMILION, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", start, (0, 0), arrowprops=style, zorder=3)
        handles.append(Line2D([], [], color=_VERMILION, linewidth=1.6, label="Observer's motion"))
    if path is not None:
        order = np.argsort(path[0])
        steps = path[1][order] * factor
        segments = np.stack([steps[:-1], steps[1:]], axis=1)
        between = np.sqrt(path[0][order][:-1] * path[0][order][1:])
        lines = LineCollection(segments, cmap=colours.cmap, norm=colours.norm, linewidth=2.2, zorder=2)
        lines.set_array(between)
        axes.add_collection(lines, autolim=False)
        handles.append(Line2D([], [], color=colours.cmap(0.5), linewidth=2.2, label="Model"))
    for row, (width, height), turn in regions:
        colour = colours.cmap(colours.norm(energy[row]))
        region = Ellipse(delta[row] * factor, width * factor, height * factor, angle=turn, zorder=2)
        region.set(facecolor=(*colour[:3], 0.15), edgecolor=colour, linewidth=1.0)
        axes.add_patch(region)
    kinds = list(dict.fromkeys(names)) if names is not None else [None]
    for place, kind in enumerate(kinds):
        own = np.array([names is None or names[row] == kind for row in range(n)], bool)
        marker = _MARKERS[place % len(_MARKERS)]
        style = {"marker": marker, "s": 30, "edgecolors": _BLACK, "linewidths": 0.4, "zorder": 5}
        axes.scatter(*(delta[own] * factor).T, c=energy[own], cmap=colours.cmap, norm=colours.norm, **style)
        if kind is not None:
            handles.append(Line2D([], [], color="0.4", marker=marker, markersize=5, linestyle="none", label=kind))
    if regions:
        handles.append(Patch(facecolor="0.9", edgecolor="0.4", label="68 % (joint)"))
    axes.set_xlim(*(middle[0] + half * np.array([-1, 1])) * factor)
    axes.set_ylim(*(middle[1] + half * np.array([-1, 1])) * factor)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(_with_power(r"$\delta_{0\mathrm{h}}$", power))
    axes.set_ylabel(_with_power(r"$\delta_{6\mathrm{h}}$", power))
    axes.set_title(title)
    figure.colorbar(colours, ax=axes, label="Energy [TeV]", shrink=0.9)
    _legend_below(figure, handles, 3)
    return figure


@_styled
def grammage_curve(
    rigidity: np.ndarray,
    ratio: np.ndarray,
    points: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    band: np.ndarray | None = None,
    title: str = "",
    label: str = "Leaky box",
    points_label: str = "Measured",
    band_label: str = "68 %",
) -> Figure:
    """Boron to carbon against rigidity.

    Args:
        rigidity: [GV], shape (rigidity,).
        ratio: B/C by number, dimensionless, shape (rigidity,).
        points: Measured: rigidities [GV], ratios, standard errors.
        band: Lower and upper edge of the curve, shape (2, rigidity).
        title: A few words above the picture.
        label: Name of the curve.
        points_label: Name of the points.
        band_label: What the band holds.

    Raises:
        InputError: If shapes do not fit.
    """
    rigidity, ratio = np.asarray(rigidity, float), np.asarray(ratio, float)
    _require_shape(ratio, (rigidity.size,), "the ratio")
    figure = _figure(_WIDTH, 3.5)
    axes = figure.add_subplot(xscale="log", yscale="log")
    seen = [ratio]
    if band is not None:
        band = np.asarray(band, float)
        _require_shape(band, (2, rigidity.size), "the band")
        axes.fill_between(rigidity, *band, color=_BLUE, alpha=0.25, linewidth=0, label=band_label)
        seen.append(band.ravel())
    axes.plot(rigidity, ratio, color=_BLUE, linewidth=1.8, label=label)
    if points is not None:
        x, y, error = (np.asarray(each, float) for each in points)
        axes.errorbar(x, y, error, fmt="o", color=_BLACK, markersize=4, elinewidth=1.0, label=points_label, zorder=4)
        seen.append(y)
    seen = np.concatenate(seen)
    seen = seen[np.isfinite(seen) & (seen > 0)]
    if seen.size:
        axes.set_ylim(seen.min() / 1.4, seen.max() * 1.4)
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain_log_ticks(axes.yaxis)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("Rigidity [GV]")
    axes.set_ylabel("Boron to carbon B/C")
    axes.set_title(title)
    axes.legend(loc="lower left", handlelength=1.6)
    return figure


@_styled
def prior_fractions(
    values: np.ndarray,
    threshold: float | int,
    fits_below: bool = True,
    label: str = r"$\chi^2$ of the published dipoles",
    own: float | int | None = None,
    own_label: str = "The model's own numbers",
    title: str = "",
) -> Figure:
    """How well draws from the prior fit, and the part of the prior's volume that does.

    Args:
        values: chi2 (or ln of the likelihood) of each draw, shape (draw,). What is not finite does not fit.
        threshold: A draw fits below it.
        fits_below: False where larger is better, as for a likelihood: a draw fits above the threshold.
        label: What the values are.
        own: The value of the model at its own numbers, to be marked.
        own_label: Its name.
        title: A few words above the picture.

    Raises:
        InputError: If there are no draws, or none is finite.
    """
    values = np.asarray(values, float).ravel()
    seen = values[np.isfinite(values)]
    if not seen.size:
        raise InputError(f"none of {values.size} draws has a finite value: there is nothing to show; check the priors")
    fits = int(np.sum(seen < threshold) if fits_below else np.sum(seen > threshold))
    marks = [threshold, *([] if own is None or not np.isfinite(own) else [own])]
    low, high = min(seen.min(), *marks), max(seen.max(), *marks)
    sign = -1 if high < 0 else 1
    near, far = sorted((abs(low), abs(high)))
    log = low * high > 0 and far > 30 * near
    bins = int(np.clip(2 * seen.size ** (1 / 3), 12, 60))
    if log:
        edges = np.sort(sign * np.geomspace(near / 1.05, far * 1.05, bins + 1))
    else:
        margin = 0.02 * ((high - low) or abs(high) or 1.0)
        edges = np.linspace(low - margin, high + margin, bins + 1)
    # An edge at the threshold: what is shaded is what is counted. A draw on it belongs to the bin on its right.
    edge = threshold if fits_below else np.nextafter(threshold, np.inf)
    edges[1 + np.argmin(np.abs(edges[1:-1] - edge))] = edge
    counts, _ = np.histogram(seen, edges)
    share = counts / values.size

    figure = _figure(_WIDTH, 3.4)
    axes = figure.add_subplot()
    good = edges[1:] <= edge if fits_below else edges[:-1] >= edge
    axes.stairs(share, edges, fill=True, color="0.8", label="Prior draws")
    axes.stairs(
        np.where(good, share, 0), edges, fill=True, color=_BLUE, alpha=0.7, label=f"Fits: {_share(fits, values.size)}"
    )
    axes.stairs(share, edges, baseline=None, color="0.4", linewidth=0.9)
    side = "<" if fits_below else ">"
    axes.axvline(threshold, color=_VERMILION, linestyle="--", label=f"Threshold: {side} {_number(threshold)}")
    if own is not None:
        axes.axvline(own, color=_BLACK, linewidth=1.2, linestyle="-.", label=f"{own_label}: {_number(own)}")
    if log and sign > 0:
        axes.set_xscale("log")
    elif log:
        axes.set_xscale("symlog", linthresh=near / 1.05)
    lost = values.size - seen.size
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.08 * share.max())
    axes.set_xlabel(f"{label}\n({lost} of {values.size} draws not finite, not shown)" if lost else label)
    axes.set_ylabel("Share of the draws per bin")
    axes.set_title(title)
    handles, _ = axes.get_legend_handles_labels()
    _legend_below(figure, handles, 2)
    return figure


def _sorted(values: np.ndarray, energy: np.ndarray, order: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) != energy.size or values.shape[1] not in (2, 3):
        raise InputError(
            f"the dipoles of {name!r} must be ({energy.size}, 2) or ({energy.size}, 3), not {values.shape}"
        )
    return values[order]


def _checked_points(points: Points) -> dict[str, np.ndarray]:
    missing = [name for name in POINT_COLUMNS if name not in points]
    if missing:
        raise InputError(f"the published dipoles lack {', '.join(missing)}; they need {', '.join(POINT_COLUMNS)}")
    rows = {name: np.atleast_1d(np.asarray(points[name])) for name in POINT_COLUMNS}
    n = rows["energy_TeV"].size
    for name, values in rows.items():
        if values.shape != (n,):
            raise InputError(f"{name} of the published dipoles has shape {values.shape}, energy_TeV has ({n},)")
        if name == "experiment":
            rows[name] = values.astype(str)
        elif name == "use" and values.dtype.kind not in "bif":
            rows[name] = values.astype(str) == "fit"
        else:
            rows[name] = values.astype(bool if name in ("is_limit", "use") else float)
    bad = np.flatnonzero(~(rows["energy_TeV"] > 0))
    if bad.size:
        raise InputError(f"{bad.size} published dipoles have no energy above 0 TeV, the first is row {bad[0]}")
    measured = ~rows["is_limit"]
    outside = measured & ((rows["amplitude_lo"] > rows["amplitude"]) | (rows["amplitude_hi"] < rows["amplitude"]))
    if np.any(outside):
        raise InputError(
            "amplitude_lo and amplitude_hi are the ends of the error bar, not its lengths: they must enclose the "
            f"amplitude, as they do not in {outside.sum()} rows, the first is row {np.argmax(outside)}"
        )
    return rows


def _phase(dipole: np.ndarray) -> np.ndarray:
    """Right ascension [rad]; not a number where there is no equatorial dipole."""
    return np.where(np.hypot(dipole[:, 0], dipole[:, 1]) > 0, np.arctan2(dipole[:, 1], dipole[:, 0]), np.nan)


def _pieces(angle: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Stretches without a jump by more than 90 degrees, in each of which the angle [rad] is made continuous."""
    step = np.diff(angle)
    turned = (step + np.pi) % (2 * np.pi) - np.pi
    breaks = np.flatnonzero(~(np.abs(turned) <= np.pi / 2)) + 1
    for start, end in zip([0, *breaks], [*breaks, angle.size], strict=True):
        if np.isfinite(angle[start]):
            yield slice(start, end), angle[start] + np.concatenate([[0.0], np.cumsum(turned[start : end - 1])])


def _turns(low: float, high: float, seam: float) -> range:
    """Whole turns that bring some of the stretch from low to high [deg] between the seam and the seam + 360."""
    return range(int(np.ceil((seam - high) / 360)), int(np.floor((seam + 360 - low) / 360)) + 1)


def _draw_phase(axes: Axes, energy: np.ndarray, phase: np.ndarray, seam: float, style: dict) -> None:
    """A curve on the circle, leaving the picture at one edge and entering at the other; the edges clip it."""
    for piece, angle in _pieces(phase):
        degrees = np.degrees(angle)
        single = {"marker": style["marker"] or "o", "markersize": 3} if degrees.size == 1 else {}
        for turn in _turns(degrees.min(), degrees.max(), seam):
            axes.plot(energy[piece], degrees + 360 * turn, **{**style, **single})


def _draw_arcs(axes: Axes, energy: np.ndarray, arc: np.ndarray, seam: float, style: dict) -> None:
    """Arcs on the circle; where they jump from one energy to the next, they do so halfway."""
    half = np.degrees(np.minimum(arc[1] - arc[0], 2 * np.pi)) / 2
    log_energy = np.log(energy)
    for piece, angle in _pieces(arc.mean(axis=0)):
        x, middle, width = log_energy[piece], np.degrees(angle), half[piece]
        before = [] if piece.start == 0 else [log_energy[piece.start - 1 : piece.start + 1].mean()]
        after = [] if piece.stop == energy.size else [log_energy[piece.stop - 1 : piece.stop + 1].mean()]
        x = np.concatenate([before, x, after])
        pad = (len(before), len(after))
        middle, width = np.pad(middle, pad, mode="edge"), np.pad(width, pad, mode="edge")
        for turn in _turns(np.min(middle - width), np.max(middle + width), seam):
            axes.fill_between(np.exp(x), middle - width + 360 * turn, middle + width + 360 * turn, **style)


def _best_seam(curves: list, arcs: dict, rows: dict | None) -> float:
    """Where to cut the circle [deg]: across the least of the curves, the narrowest band and the points."""

    def cost(seam: float) -> float:
        total = 0.0
        for _, values, _ in curves:
            for _, angle in _pieces(_phase(values)):
                degrees = np.degrees(angle) - seam
                total += 3 * np.count_nonzero(np.diff(np.floor(degrees / 360)))
                total += 2 * np.any(np.abs((degrees + 180) % 360 - 180) < 5)
        if arcs:
            start, end = np.degrees(arcs[min(arcs)][1])
            total += 5 * np.mean((seam - start) % 360 < end - start)
        if rows is not None:
            away = np.abs((rows["phase_deg"] - seam + 180) % 360 - 180)
            error = np.nan_to_num(rows["phase_err_deg"])
            total += np.sum((away < np.clip(error, 10, 90)) * np.where(rows["use"] & ~rows["is_limit"], 1.0, 0.5))
        return total

    return min((-180.0, 0.0, -270.0, -90.0, -60.0, -120.0, -240.0, -300.0), key=cost)


def _amplitude_range(curves: list, arcs: dict, rows: dict | None) -> tuple[float, float] | None:
    """All that is high is shown; where a curve dips to zero at a flip, most of the dip is not."""
    low, high = [], []

    def add(values: np.ndarray, share: float) -> None:
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            low.append(np.quantile(values, share))
            high.append(values.max())

    for _, values, _ in curves:
        add(np.hypot(values[:, 0], values[:, 1]), 0.04)
    for amplitude, _ in arcs.values():
        add(amplitude.ravel(), 0.04)
    if rows is not None:
        add(rows["amplitude"], 0.0)
        add(rows["amplitude_hi"][~rows["is_limit"]], 0.0)
    return (min(low) / 2, max(high) * 1.6) if low else None


def _draw_points(top: Axes, bottom: Axes, rows: dict[str, np.ndarray], seam: float) -> list[Line2D]:
    """Published dipoles: filled where fitted, hollow where only drawn, an arrow where the amplitude is a limit."""
    handles = []
    bar = {"linestyle": "none", "elinewidth": 0.9, "capsize": 0}
    for place, name in enumerate(dict.fromkeys(rows["experiment"].tolist())):
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        own = rows["experiment"] == name
        size = 6.5 if marker == "*" else 4.5
        for use in (False, True):
            look = {"color": colour, "markeredgecolor": colour, "markersize": size, "markeredgewidth": 0.8}
            look |= {
                "zorder": 5 if use else 4,
                "markerfacecolor": colour if use else "white",
                "alpha": 1 if use else 0.6,
            }
            chosen = own & (rows["use"] == use)
            measured = chosen & ~rows["is_limit"] & np.isfinite(rows["amplitude"])
            if measured.any():
                a = rows["amplitude"][measured]
                ends = np.stack([a - rows["amplitude_lo"][measured], rows["amplitude_hi"][measured] - a])
                error = np.nan_to_num(ends)
                top.errorbar(rows["energy_TeV"][measured], a, error, marker=marker, **bar, **look)
            limit = chosen & rows["is_limit"] & np.isfinite(rows["amplitude"])
            if limit.any():
                a = rows["amplitude"][limit]
                arrow = {**look, "markersize": 4.5}
                top.errorbar(rows["energy_TeV"][limit], a, 0.4 * a, uplims=True, marker="_", **bar, **arrow)
            phased = chosen & np.isfinite(rows["phase_deg"])
            if phased.any():
                x, phase = rows["energy_TeV"][phased], seam + (rows["phase_deg"][phased] - seam) % 360
                error = np.clip(np.nan_to_num(rows["phase_err_deg"][phased]), 0, 180)
                bottom.errorbar(x, phase, error, marker=marker, **bar, **look)
                for turn, over in ((1, phase - error < seam), (-1, phase + error > seam + 360)):
                    if over.any():
                        other = {**look, "marker": ""}
                        bottom.errorbar(x[over], phase[over] + 360 * turn, error[over], **bar, **other)
        filled = bool(np.any(rows["use"][own]))
        look = {"color": colour, "marker": marker, "markersize": size, "linestyle": "none", "markeredgewidth": 0.8}
        look |= {} if filled else {"markerfacecolor": "white", "alpha": 0.7}
        handles.append(Line2D([], [], label=name, **look))
    if not np.all(rows["use"]) and np.any(rows["use"]):
        look = {"color": "0.4", "marker": "o", "markerfacecolor": "white", "markersize": 4.5, "linestyle": "none"}
        handles.append(Line2D([], [], label="Hollow: not fitted", **look))
    if np.any(rows["is_limit"]):
        handles.append(Line2D([], [], color="0.4", marker=r"$\downarrow$", linestyle="none", label="Upper limit"))
    return handles


def _graticule(axes: Axes) -> None:
    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), labels=[])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)), labels=[])
    axes.set_longitude_grid_ends(90)
    axes.grid(color="0.35", linewidth=0.4, alpha=0.5)
    for ra in range(0, 361, 60):
        offset, align = {0: (5, "left"), 360: (-5, "right")}.get(ra, (0, "center"))
        _note(axes, np.pi - np.radians(ra), 0.0, f"{ra}°", (offset, -1 if offset else -7), align)
    for dec in (-60, -30, 30, 60):
        _note(axes, -np.pi, np.radians(dec), f"{dec:+d}°".replace("-", "−"), (-5, 4 * np.sign(dec)), "right")


def _draw_track(axes: Axes, energy: np.ndarray, directions: np.ndarray) -> list[tuple[float, float]]:
    """Dots coloured by energy; returns where they are on the map."""
    energy, directions = np.asarray(energy, float), np.asarray(directions, float)
    _require_shape(directions, (energy.size, 3), "the directions of the dipole")
    if not energy.size or not np.all(energy > 0):
        raise InputError("the energies of the dipole must be above 0 TeV, and there must be one")
    order = np.argsort(energy)
    vectors = np.stack([_unit(each, "the dipole") for each in directions[order]])
    x, y = _mollweide(*_angles(vectors))
    ends = np.stack([np.stack([x[:-1], y[:-1]], axis=1), np.stack([x[1:], y[1:]], axis=1)], axis=1)
    near = np.sum(vectors[:-1] * vectors[1:], axis=1) > 0.5
    axes.add_collection(
        LineCollection(ends[near & (np.abs(np.diff(x)) < np.pi)], color="0.3", linewidth=0.8, zorder=4), autolim=False
    )
    colours = _energy_colours(energy)
    style = {"cmap": colours.cmap, "norm": colours.norm, "edgecolors": "white", "linewidths": 0.5}
    axes.scatter(x, y, c=energy[order], s=26, zorder=5, **style)
    axes.figure.colorbar(
        colours,
        ax=axes,
        orientation="horizontal",
        shrink=0.75,
        aspect=32,
        pad=0.03,
        label="Energy of the predicted dipole [TeV]",
    )
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _draw_field_in_plane(axes: Axes, along: np.ndarray, horizon: float) -> list:
    """Projection of the field, the trace of the plane perpendicular to it, and its two sides in tints."""
    flat = np.hypot(along[0], along[1])
    if flat < 1e-6:
        return []
    towards, reach = along[:2] / flat, 3 * horizon
    across = np.array([-towards[1], towards[0]])
    for tint, sign in ((_PLUS, 1), (_MINUS, -1)):
        corners = reach * np.stack([across, -across, -across + sign * towards, across + sign * towards])
        axes.fill(*corners.T, facecolor=tint, linewidth=0, zorder=0)
    ends = 2 * horizon * np.stack([across, -across])
    axes.plot(*_line(*ends), "--", color=_BLACK, linewidth=1.2, zorder=2)
    tip = 0.9 * horizon * along[:2]
    axes.plot(*_line(np.zeros(2), 0.9 * tip), color=_BLACK, linewidth=1.4, zorder=2)
    arrow = {"arrowstyle": "-|>", "color": _BLACK, "linewidth": 1.4, "shrinkA": 6, "shrinkB": 0}
    axes.annotate("", tip, (0, 0), arrowprops=arrow, zorder=3)
    axes.annotate(r"$\mathbf{B}$", tip, 9 * towards, textcoords="offset points", ha="center", va="center")
    return [
        Patch(facecolor=_PLUS, label=r"$\mathbf{B}\cdot\mathbf{n}>0$ in the plane"),
        Patch(facecolor=_MINUS, label=r"$\mathbf{B}\cdot\mathbf{n}<0$ in the plane"),
        Line2D([], [], color=_BLACK, linestyle="--", linewidth=1.2, label="Magnetic equator"),
        Line2D(
            [], [], color=_BLACK, marker=r"$\rightarrow$", markersize=11, linestyle="none", label="Field in the plane"
        ),
    ]


def _great_circle(pole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """On the map, of the directions at right angles to the pole; the pen is lifted at the edge."""
    first = np.linalg.svd(pole[None])[2][1]
    angle = np.linspace(0, 2 * np.pi, 1441)[:, None]
    circle = np.cos(angle) * first + np.sin(angle) * np.cross(pole, first)
    x, y = _mollweide(*_angles(circle))
    y = y.copy()
    y[1:][np.abs(np.diff(x)) > np.pi] = np.nan
    return x, y


def _place_labels(axes: Axes, notes: Sequence[tuple], obstacles: Sequence[tuple[float, float]] = ()) -> None:
    """Write each (x, y, text, radius of its mark [pt]) beside its mark, where it covers no mark and no other text."""
    figure = axes.figure
    figure.draw_without_rendering()
    renderer, point = figure.canvas.get_renderer(), figure.dpi / 72
    taken = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
    for x, y, radius in [*((x, y, r) for x, y, _, r in notes), *((x, y, 4) for x, y in obstacles)]:
        centre, half = axes.transData.transform((x, y)), (radius + 1) * point
        taken.append(Bbox([centre - half, centre + half]))
    curves = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) > 20]
    drawn = axes.transData.transform(np.concatenate([np.zeros((0, 2)), *curves]))
    # One point for each stretch of 2 pt, however densely a curve is drawn.
    drawn = np.unique(np.rint(drawn[np.isfinite(drawn).all(axis=1)] / (2 * point)), axis=0) * 2 * point
    inside = axes.get_window_extent(renderer)
    marks = axes.transData.transform([(x, y) for x, y, *_ in notes])
    for place, (x, y, text, radius) in enumerate(notes):
        label = axes.annotate(
            text,
            (x, y),
            (0, 0),
            textcoords="offset points",
            fontsize=9,
            path_effects=_HALO,
            zorder=8,
            linespacing=1.0,
            arrowprops={"arrowstyle": "-", "color": "0.3", "linewidth": 0.6, "shrinkA": 0, "shrinkB": radius},
        )
        # Of the text alone, without the line to its mark.
        size = Text.get_window_extent(label, renderer).size
        best, least = None, np.inf
        for away in (2, 10, 18, 28, 40, 54):
            if away / 100 >= least:
                break
            for angle in np.radians([0, 180, 45, 135, -45, -135, 90, -90, 22, 158, -22, -158, 67, 113, -67, -113]):
                towards = np.array([np.cos(angle), np.sin(angle)])
                # Which part of the text stands at its anchor: 0 its left (lower) edge, 1 its right (upper) one.
                part = np.where(towards > 0.3, 0.0, np.where(towards < -0.3, 1.0, 0.5))
                corner = marks[place] + (radius + away) * point * towards - part * size
                box = Bbox([corner, corner + size])
                cover = sum(_common(box, other) for other in taken) / size.prod()
                outside = 1 - _common(box, inside) / size.prod()
                crossed = np.all((drawn > box.min) & (drawn < box.max), axis=1).sum()
                # A label that stands nearer to another mark than to its own would be read as that one's.
                gaps = np.linalg.norm(np.maximum(np.maximum(box.min - marks, marks - box.max), 0), axis=1)
                others = np.delete(gaps, place).min(initial=np.inf)
                mistaken = max(0.0, 1.5 - others / max(gaps[place], point))
                cost = away / 100 + 10 * cover + 10 * outside + crossed / 50 + mistaken
                if cost < least - 1e-9:
                    best, least = (part, (radius + away) * towards, away, box), cost
        (across, up), label.xyann, away, box = best
        label.set_ha({0.0: "left", 0.5: "center", 1.0: "right"}[float(across)])
        label.set_va({0.0: "bottom", 0.5: "center", 1.0: "top"}[float(up)])
        label.arrow_patch.set_visible(away > 2)
        taken.append(box)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Coordinates (2, point) along a straight line, which labels then avoid."""
    return np.linspace(start, end, 201).T


def _common(one: BboxBase, other: BboxBase) -> float:
    """Area that two boxes share [pixel^2]."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else shared.width * shared.height


def _energy_colours(energy: np.ndarray) -> ScalarMappable:
    """Colours by the logarithm of the energy."""
    low, high = float(energy.min()), float(energy.max())
    norm = LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)
    return ScalarMappable(norm, colormaps["viridis"])


def _legend_below(figure: Figure, handles: Sequence, columns: int) -> None:
    """Below the axes, over which nothing is laid; the figure grows by the lines that need it."""
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * max(lines - 2, 0))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=8,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.0,
        labelspacing=0.35,
    )


def _plain_log_ticks(axis) -> None:
    """Numbers such as 0.02 and 0.05 on an axis that may span less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _direction(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    ra, dec = np.broadcast_arrays(ra, dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _angles(vector: np.ndarray) -> tuple:
    """Right ascension and declination [rad] of unit vectors (..., 3)."""
    return np.arctan2(vector[..., 1], vector[..., 0]), np.arcsin(np.clip(vector[..., 2], -1, 1))


def _unit(vector: np.ndarray, what: str) -> np.ndarray:
    vector = np.asarray(vector, float)
    length = np.linalg.norm(vector)
    if vector.shape != (3,) or not (np.isfinite(length) and length > 0):
        raise InputError(
            f"{what} must be a direction of three components, finite and not all zero, not {vector.tolist()}"
        )
    return vector / length


def _require_shape(values: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if values.shape != shape:
        raise InputError(f"{what} must have the shape {shape}, not {values.shape}")


def _number(value: float | int) -> str:
    """Three digits, without an exponent where that can be read."""
    text = f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")


def _share(fits: int, number: int) -> str:
    """A share in per cent with its binomial error; of none, that it is less than one in so many."""
    if fits == 0:
        return f"none of {number}"
    share = fits / number
    error = 100 * np.sqrt(share * (1 - share) / number)
    return f"{100 * share:.2g} ± {error:.1g} % of {number}" if error > 0 else f"all of {number}"
