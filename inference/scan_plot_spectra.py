"""Pictures of scans whose results have a coordinate of their own: dipole against energy, C_l against degree."""

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .plots import _BLACK, _WIDTH, _figure, _styled
from .scan_plot_data import MOST_CURVES, SPECTRA, Scan, ScanAxis, axis_of, has_numbers, is_angle, is_wide
from .scan_plot_parts import COLOURS, legend, wrapped

_MOST_SPECTRA = 60


@_styled
def spectra(scan: Scan) -> Figure | None:
    """Quantities against their own coordinate, a curve for each value of the first axis of a grid; None without any.

    Other axes are at the best point. Of points that are no grid each is a curve, coloured by the quantity that ranks
    them. Of several orientations the first is drawn.
    """
    coordinate, names = SPECTRA.get(scan.dataset.attrs["run"], ("", ()))
    names = [name for name in names if has_numbers(scan.dataset, name) and coordinate in scan.dataset[name].dims]
    if not names or coordinate not in scan.dataset.variables:
        return None
    along, colours = axis_of(scan.dataset, coordinate), _colouring(scan)
    cut = scan.through([colours.name]) if scan.grid else scan.dataset
    lead = colours.name if scan.grid else "point"
    seen = np.flatnonzero(np.isfinite(colours.place) & np.isfinite(cut[names[0]].transpose(lead, ...).values.reshape(
        cut.sizes[lead], -1)).any(axis=1))  # fmt: skip
    if not seen.size:
        return None
    chosen = seen[np.unique(np.linspace(0, seen.size - 1, min(_MOST_SPECTRA, seen.size)).astype(int))]
    figure = _figure(1.25 * _WIDTH, 1.2 + 2.8 * len(names))
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    colour = _colours(colours, chosen)
    for panel, name in zip(panels, names, strict=True):
        _draw_spectrum(panel, scan, cut, (lead, coordinate), name, along, chosen, colour, colours)
    panels[-1].set_xlabel(along.label)
    held = scan.held([colours.name])
    if held:
        panels[0].set_title(f"At {held}", fontsize=9)
    if not _few(colours, chosen):
        _value_bar(figure, panels, colours, chosen)
    legend(figure, panels)
    return figure


def _colouring(scan: Scan) -> ScanAxis:
    """What the curves are coloured by."""
    if scan.grid or len(scan.axes) == 1 or not scan.quantities or scan.inner(scan.quantities[0]):
        return scan.axes[0]
    name = scan.quantities[0]
    values = scan.dataset[name].values.astype(float)
    return ScanAxis(name, scan.label(name), values, None, is_wide(scan.dataset, name, values))


def _draw_spectrum(panel, scan: Scan, cut, dims, name: str, along: ScanAxis, chosen, colour, colours: ScanAxis) -> None:
    rest = {dim: 0 for dim in scan.inner(name) if dim != dims[1]}
    values = cut[name].isel(rest).transpose(*dims).values
    error = scan.error(name)
    errors = None if error is None else cut[error].isel(rest).transpose(*dims).values
    few, best = _few(colours, chosen), None if scan.best is None else scan.best[dims[0]]
    line = "none" if is_angle(name) else "-"
    for k in chosen:
        y = values[k] % 360 if is_angle(name) else values[k]
        style = {"color": colour(colours.place[k]), "label": colours.text(colours.place[k]) if few else None}
        panel.plot(along.place, y, marker=".", markersize=3, linewidth=1.2, linestyle=line, **style)
        if errors is not None and few:
            panel.fill_between(along.place, y - errors[k], y + errors[k], color=style["color"], alpha=0.15, linewidth=0)
    if best is not None:
        y = values[best] % 360 if is_angle(name) else values[best]
        panel.plot(along.place, y, color=_BLACK, marker=".", markersize=4, linewidth=2 if not few else 0.8,
                   linestyle=line if not few else (0, (1, 2)) if line == "-" else line, label="Best point")  # fmt: skip
    if along.log or dims[1] == "degree":
        panel.set_xscale("log")
    if is_angle(name):
        panel.set_ylim(0, 360)
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 3, 6, 9]))
    elif np.nanmin(values[chosen]) > 0:
        panel.set_yscale("log")
    panel.set_ylabel(wrapped(scan.label(name)))
    panel.grid(alpha=0.25, linewidth=0.5)


def _few(axis: ScanAxis, chosen: np.ndarray) -> bool:
    return len(chosen) <= MOST_CURVES or axis.words is not None


def _colours(axis: ScanAxis, chosen: np.ndarray):
    if _few(axis, chosen):
        known = {float(axis.place[k]): COLOURS[i % len(COLOURS)] for i, k in enumerate(chosen)}
        return lambda value: known[float(value)]
    norm = _norm(axis, chosen)
    return lambda value: colormaps["viridis"](norm(value))


def _norm(axis: ScanAxis, chosen: np.ndarray) -> Normalize:
    low, high = axis.place[chosen].min(), axis.place[chosen].max()
    return LogNorm(low, high) if axis.log else Normalize(low, high)


def _value_bar(figure: Figure, panels, axis: ScanAxis, chosen: np.ndarray) -> None:
    bar = figure.colorbar(ScalarMappable(_norm(axis, chosen), colormaps["viridis"]), ax=list(panels), aspect=40)
    bar.set_label(axis.label)
