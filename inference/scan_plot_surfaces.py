"""Pictures of scans in two axes at once: surfaces of a grid, corners of drawn points."""

import itertools

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .plots import _UNEXPOSED, _WIDTH, _figure, _scaled, _styled, _with_power
from .scan_plot_data import LEVELS, Scan, ScanAxis, excess, is_angle, is_wide, unwrapped
from .scan_plot_parts import STAR, legend, prepare_axis, wrapped

_MOST_SURFACES = 6
_CONTOURS = {1: "-", 2: "--", 3: ":"}
_MOST_AXES = 7
_FEWEST_INSIDE = 4


def surfaces(scan: Scan) -> dict[str, Figure]:
    """A surface for each pair of axes of a grid, by name; others at the best point."""
    if not scan.grid or scan.inner(scan.quantities[0]):
        return {}
    pairs = [
        (j, k)
        for j, k in itertools.combinations(range(len(scan.axes)), 2)
        if min(len(scan.axes[j].place), len(scan.axes[k].place)) > 1
    ]
    return {f"surface_{j + 1}_{k + 1}": surface(scan, j, k) for j, k in pairs[:_MOST_SURFACES]}


@_styled
def surface(scan: Scan, first: int, second: int) -> Figure:
    """The quantity that ranks the points against two axes, the first one to the right.

    Where it is a chi2 or a log-likelihood, contours hold 68.3, 95.4 and 99.7 % of two parameters: 2 ln L below its
    maximum by 2.30, 6.18 and 11.83.
    """
    name, x, y = scan.quantities[0], scan.axes[first], scan.axes[second]
    cut = scan.through([x.name, y.name])
    across, up = np.argsort(x.place, kind="stable"), np.argsort(y.place, kind="stable")
    values = cut[name].transpose(y.name, x.name).values.astype(float)[np.ix_(up, across)]
    values = unwrapped(values, name)
    done = cut["converged"].transpose(y.name, x.name).values[np.ix_(up, across)]
    figure = _figure(1.2 * _WIDTH, 4.4)
    axes = figure.add_subplot()
    centres = x.place[across], y.place[up]
    wide = is_wide(scan.dataset, name, values)
    power, shown = (0, values) if wide else _scaled(values)
    colours = colormaps["viridis"].with_extremes(bad=_UNEXPOSED)
    edges = (_edges(centres[0], x), _edges(centres[1], y))
    mesh = axes.pcolormesh(*edges, np.ma.masked_invalid(shown), cmap=colours, rasterized=True,
                           norm="log" if wide else "linear")  # fmt: skip
    bar = figure.colorbar(mesh, ax=axes)
    bar.set_label(_with_power(scan.label(name), power))
    _draw_contours(axes, scan, name, centres, values, x.words is None and y.words is None)
    doubtful = np.isfinite(values) & ~done
    if doubtful.any():
        rows, columns = np.nonzero(doubtful)
        axes.plot(centres[0][columns], centres[1][rows], "x", color="white", markersize=5, label="Not converged")
    if scan.best is not None:
        place = x.place[scan.best[x.name]], y.place[scan.best[y.name]]
        axes.plot(*place, label="Best point", **(STAR | {"markeredgecolor": "white"}))
    prepare_axis(axes, x)
    prepare_axis(axes, y, vertical=True)
    axes.set_xlim(edges[0][0], edges[0][-1])
    axes.set_ylim(edges[1][0], edges[1][-1])
    held = scan.held([x.name, y.name])
    if held:
        axes.set_title(f"At {held}", fontsize=9)
    legend(figure, [axes])
    return figure


def _draw_contours(axes: Axes, scan: Scan, name: str, centres, values: np.ndarray, numeric: bool) -> None:
    fallen = excess(scan.dataset, name, values)
    if fallen is None or not numeric or min(values.shape) < 3:
        return
    # Gaussian in two parameters: a fall of 2 ln L by -2 ln(1 - p) holds p.
    found = {n: -2 * np.log(1 - p) for n, p in LEVELS.items()}
    # Around a point or two a contour would be a picture of the interpolation.
    levels = {n: v for n, v in found.items() if v < np.nanmax(fallen) and np.sum(fallen < v) >= _FEWEST_INSIDE}
    if not levels:
        return
    lines = [_CONTOURS[n] for n in levels]
    fallen = np.ma.masked_invalid(fallen)
    axes.contour(*centres, fallen, list(levels.values()), colors="white", linewidths=1.6, linestyles=lines)
    for n, line in zip(levels, lines, strict=True):
        label = rf"{n}$\sigma$ ({100 * LEVELS[n]:.4g} %)"
        axes.add_line(Line2D([], [], color="0.4", linestyle=line, linewidth=1.6, label=label))


def _edges(places: np.ndarray, axis: ScanAxis) -> np.ndarray:
    """Edges of the cells about places, half way between them."""
    if axis.words is not None:
        return np.append(places - 0.5, places[-1] + 0.5)
    own = np.log(places) if axis.log else places
    if len(own) == 1:
        width = 0.5 * (abs(own[0]) or 1.0)
        middle = np.array([own[0] - width, own[0] + width])
    else:
        inner = (own[1:] + own[:-1]) / 2
        middle = np.concatenate([[2 * own[0] - inner[0]], inner, [2 * own[-1] - inner[-1]]])
    return np.exp(middle) if axis.log else middle


# Drawn points -------------------------------------------------------------------------------------------


@_styled
def corner(scan: Scan) -> Figure:
    """Drawn points in every pair of axes, coloured by the quantity that ranks them; against each axis on the diagonal.

    The first seven axes are shown.
    """
    name, axes = scan.quantities[0], scan.axes[:_MOST_AXES]
    values = scan.dataset[name].values.astype(float)
    if scan.inner(name):
        values = scan.dataset[name].transpose("point", ...).values.reshape(len(values), -1)[:, 0].astype(float)
    values = unwrapped(values, name)
    size = len(axes)
    figure = _figure(1.7 * size + 1.8, 1.6 * size + 1.2)
    panels = figure.subplots(size, size, squeeze=False)
    finite = np.isfinite(values)
    norm = _colour_range(values[finite], is_wide(scan.dataset, name, values))
    looks = {"c": values[finite], "cmap": "viridis", "norm": norm, "s": 14, "linewidths": 0}
    for row, column in itertools.product(range(size), repeat=2):
        panel = panels[row, column]
        if column > row:
            panel.set_axis_off()
            continue
        _draw_pair(panel, scan, axes[column], None if row == column else axes[row], values, finite, looks)
        _label_pair(panel, scan, axes, row, column, norm)
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=panels.ravel().tolist(), aspect=40, extend="both")
    bar.set_label(scan.label(name))
    legend(figure, [panels[-1, 0]])
    return figure


def _colour_range(values: np.ndarray, wide: bool) -> Normalize:
    """Of most values: a single one far off must not take all colours."""
    low, high = np.quantile(values, [0.02, 0.98])
    high = high if high > low else low + (abs(low) or 1.0)
    return LogNorm(low, high) if wide else Normalize(low, high)


def _draw_pair(panel: Axes, scan: Scan, x: ScanAxis, y: ScanAxis | None, values, finite, looks) -> None:
    up = values if y is None else y.place
    panel.scatter(x.place[~finite], up[~finite] if y is not None else np.full((~finite).sum(), np.nan), s=14,
                  marker="x", color="0.6", linewidths=0.8, label="No result" if (~finite).any() else None)  # fmt: skip
    panel.scatter(x.place[finite], up[finite], **looks)
    if scan.best is not None:
        k = scan.best["point"]
        panel.plot(x.place[k], up[k], label="Best point", **(STAR | {"markeredgecolor": "white"}))


def _label_pair(panel: Axes, scan: Scan, axes, row: int, column: int, norm: Normalize) -> None:
    name = scan.quantities[0]
    prepare_axis(panel, axes[column])
    if row == column:
        panel.yaxis.set_ticks_position("right")
        if isinstance(norm, LogNorm):
            panel.set_yscale("log")
        elif is_angle(name):
            panel.yaxis.set_major_formatter(lambda v, _: f"{v % 360:g}")
        # What runs up the diagonal is what the colours show; its scale is told once.
        panel.tick_params(axis="y", which="both", labelright=row == len(axes) - 1)
    else:
        prepare_axis(panel, axes[row], vertical=True)
    panel.set_xlabel(wrapped(axes[column].label, 18) if row == len(axes) - 1 else "", fontsize=9)
    panel.set_ylabel(wrapped(axes[row].label, 18) if column == 0 < row else "", fontsize=9)
    panel.tick_params(axis="x", labelbottom=row == len(axes) - 1, labelrotation=40, labelsize=8)
    panel.tick_params(axis="y", labelleft=column == 0 < row, labelsize=8)
