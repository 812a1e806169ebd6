"""Pictures of scans: profiles, surfaces, corners of random designs, spectra; the best point marked in all of them.

A dataset as `scan.nc` has it in, matplotlib figures out, as in `plots`. Points without a result leave a gap; those that
did not converge are open.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .plots import _BLACK, _WIDTH, _figure, _styled, save
from .scan_plot_data import MOST_CURVES, Scan, ScanAxis, excess, is_angle, is_wide, scan_of, thinned, unwrapped
from .scan_plot_parts import COLOURS, MARKERS, STAR, legend, prepare_axis, wrapped
from .scan_plot_spectra import spectra
from .scan_plot_surfaces import corner, surfaces


def figure(dataset: xr.Dataset) -> dict[str, Figure]:
    """Pictures of a scan by name; none where no point has a result.

    profile_K: quantities against axis K, other axes at the best point or as curves of their own. surface_J_K: the
    quantity that ranks the points against two axes of a grid, with the 1, 2 and 3 sigma contours of two parameters
    where it is a chi2 or a log-likelihood. corner: drawn points, in all pairs of axes. spectra: what has a coordinate
    of its own (energies, degrees), a curve for each value of the first axis.
    """
    scan = thinned(scan_of(dataset))
    out: dict[str, Figure] = {}
    if scan.quantities:
        drawn = not scan.grid and dataset.attrs["design"] != "list" and len(scan.axes) > 1
        for k in range(0 if drawn else len(scan.axes)):
            out[f"profile_{k + 1}"] = profile(scan, k)
        if drawn:
            out["corner"] = corner(scan)
        out |= surfaces(scan)
    return out | ({"spectra": made} if (made := spectra(scan)) is not None else {})


def write_pictures(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the pictures of a scan into an existing folder; returns the paths."""
    return [save(each, folder / f"{name}.png") for name, each in figure(dataset).items()]


@_styled
def profile(scan: Scan, number: int) -> Figure:
    """Every quantity against one axis, a panel each.

    Args:
        scan: The scan.
        number: Of the axis, from 0.
    """
    axis, curves = scan.axes[number], _curves_axis(scan, number)
    figure = _figure(1.15 * _WIDTH, 1.2 + 2.1 * len(scan.quantities))
    panels = figure.subplots(len(scan.quantities), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, scan.quantities, strict=True):
        _draw_profile(panel, scan, axis, curves, name)
    prepare_axis(panels[-1], axis)
    shown = [axis.name] + ([curves.name] if curves is not None else [])
    held = scan.held(shown)
    if held:
        panels[0].set_title(f"At {held}", fontsize=9)
    legend(figure, panels)
    return figure


def _curves_axis(scan: Scan, number: int) -> ScanAxis | None:
    """The other axis of a grid of which every value is a curve: the first one with few values."""
    others = [each for k, each in enumerate(scan.axes) if k != number] if scan.grid else []
    return next((each for each in others if len(each.place) <= MOST_CURVES), None)


def _draw_profile(panel: Axes, scan: Scan, axis: ScanAxis, curves: ScanAxis | None, name: str) -> None:
    values, errors, done, labels = _profile_arrays(scan, axis, curves, name)
    error_name = scan.error(name)
    values = unwrapped(values, name)
    order = np.argsort(axis.place, kind="stable")
    # Side by side where curves would hide each other.
    many = len(labels) > 1
    line = "-" if axis.words is None and scan.grid else "none"
    for k, label in enumerate(labels):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        x = _beside(axis, k, len(labels))[order]
        y, sure = values[k][order], done[k][order]
        panel.errorbar(x, y, None if error_name is None else errors[k][order], linestyle=line, color=colour,
                       marker=marker, markersize=4.5, capsize=2, elinewidth=0.9, label=label if many else None,
                       markerfacecolor="none" if not sure.all() else colour)  # fmt: skip
        panel.plot(x[sure], y[sure], linestyle="none", marker=marker, markersize=4.5, color=colour)
    _mark_best(panel, scan, axis, curves, labels, values)
    if is_wide(scan.dataset, name, values):
        panel.set_yscale("log")
    if not many and axis.words is None and excess(scan.dataset, name, values) is not None:
        _draw_thresholds(panel, scan, name, values)
    panel.set_ylabel(wrapped(scan.label(name)))
    if is_angle(name):
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v % 360:g}"))
    panel.grid(alpha=0.25, linewidth=0.5)


def _profile_arrays(scan: Scan, axis: ScanAxis, curves: ScanAxis | None, name: str):
    """Values, errors and convergence as (curve, value of the axis), and what each curve is called."""
    inner = scan.inner(name)
    if scan.grid:
        # A quantity of several components leaves no room for curves of another axis.
        curves = None if inner else curves
        cut = scan.through([axis.name, *([curves.name] if curves is not None else [])])
        lead = [curves.name, axis.name] if curves is not None else [axis.name]
    else:
        cut, lead, curves = scan.dataset, ["point"], None
    error = scan.error(name)
    values = cut[name].transpose(*inner, *lead).values.astype(float)
    errors = np.full(values.shape, np.nan) if error is None else cut[error].transpose(*inner, *lead).values
    done = np.broadcast_to(cut["converged"].transpose(*lead).values, values.shape)
    size = len(axis.place)
    values, errors, done = (each.reshape(-1, size) for each in (values, errors, done))
    if curves is not None:
        labels = [curves.text(place) for place in curves.place]
    else:
        labels = _component_labels(scan, inner, len(values))
    kept = [k for k in range(len(values)) if np.isfinite(values[k]).any()][:MOST_CURVES]
    kept = kept or [0]
    return values[kept], np.abs(errors[kept]), done[kept], [labels[k] for k in kept]


def _component_labels(scan: Scan, inner: Sequence[str], number: int) -> list[str]:
    if len(inner) == 1:
        return [str(value) for value in scan.dataset[inner[0]].values.tolist()]
    return [""] if number == 1 else [str(k) for k in range(number)]


def _beside(axis: ScanAxis, curve: int, number: int) -> np.ndarray:
    """Places of the points of a curve; those of words stand side by side."""
    if axis.words is None or number == 1:
        return axis.place
    return axis.place + 0.5 * ((curve + 0.5) / number - 0.5)


def _mark_best(panel: Axes, scan: Scan, axis: ScanAxis, curves, labels, values) -> None:
    if scan.best is None:
        return
    place = scan.best[axis.name] if scan.grid else scan.best["point"]
    row = 0
    if curves is not None and scan.grid:
        wanted = curves.text(curves.place[scan.best[curves.name]])
        if wanted not in labels:
            return
        row = labels.index(wanted)
    elif len(labels) > 1:
        panel.axvline(axis.place[place], color=_BLACK, linewidth=0.7, linestyle=":", label="Best point")
        return
    panel.plot(_beside(axis, row, len(labels))[place], values[row][place], label="Best point", **STAR)


def _draw_thresholds(panel: Axes, scan: Scan, name: str, values: np.ndarray) -> None:
    """Where 2 ln L has fallen by 1, 4 and 9, as far as that can be told apart: 1, 2 and 3 sigma of one parameter."""
    chi2 = scan.dataset[name].attrs["statistic"] == "chi2"
    best, height = (np.nanmin(values) if chi2 else np.nanmax(values)), panel.yaxis.get_transform().transform
    span, last = abs(np.ptp(height(values[np.isfinite(values)]))), best
    for n in (1, 2, 3):
        level = best + n**2 if chi2 else best - n**2 / 2
        apart = abs(np.diff(height(np.array([last, level])))[0])
        if 0.05 * span < apart and abs(np.diff(height(np.array([best, level])))[0]) < span:
            last = level
            panel.axhline(level, color="0.45", linewidth=0.8, linestyle=(0, (4, 2)))
            panel.annotate(rf"{n}$\sigma$", (1, level), xycoords=("axes fraction", "data"), xytext=(-3, 1),
                           textcoords="offset points", ha="right", va="bottom", fontsize=8, color="0.35")  # fmt: skip
