"""Parts of the pictures of scans: axes with their ticks, legends, labels, and how the best point looks."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .plots import _BLACK, _BLUE, _OTHERS, _VERMILION
from .scan_plot_data import ScanAxis

COLOURS = (_BLUE, _VERMILION, *_OTHERS[:4], "#7F6000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
STAR = {"marker": "*", "color": _BLACK, "markersize": 12, "linestyle": "none", "zorder": 6}
"""The best point."""

_MOST_WORDS = 30


def prepare_axis(panel: Axes, axis: ScanAxis, vertical: bool = False) -> None:
    """Label, scale and ticks of an axis of the scan."""
    own = panel.yaxis if vertical else panel.xaxis
    (panel.set_ylabel if vertical else panel.set_xlabel)(axis.label)
    if axis.words is not None:
        step = 1 + len(axis.words) // _MOST_WORDS
        own.set_ticks(range(0, len(axis.words), step), [each[:24] for each in axis.words[::step]])
        if not vertical and max(map(len, axis.words)) > 8:
            panel.tick_params(axis="x", labelrotation=30)
        return
    if axis.log:
        (panel.set_yscale if vertical else panel.set_xscale)("log")
        span = axis.place.max() / axis.place.min()
        if span < 200:
            # Powers of ten alone would leave next to no tick.
            own.set_major_locator(LogLocator(subs=(1, 2, 5) if span > 5 else (1, 1.5, 2, 3, 4, 5, 7)))
            own.set_major_formatter(FuncFormatter(_number))
            own.set_minor_formatter(NullFormatter())
    elif np.all(axis.place == np.round(axis.place)):
        own.set_major_locator(MaxNLocator(7, integer=True))


def _number(value: float, _: int = 0) -> str:
    """A tick of a logarithmic axis."""
    if 1e-3 <= value < 1e6:
        return f"{value:g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    factor = f"{value / 10.0**power:.3g}"
    return rf"$10^{{{power}}}$" if factor == "1" else rf"${factor} \times 10^{{{power}}}$"


def legend(figure: Figure, panels) -> None:
    """One legend of all panels below them."""
    found = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        columns = 2 if max(map(len, found)) > 18 else 3
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(columns, len(found)))


def wrapped(label: str, width: int = 26) -> str:
    """A label on two lines where it is long."""
    if len(label) <= width:
        return label
    outside = [k for k, c in enumerate(label) if c == " " and label[:k].count("$") % 2 == 0]
    cut = min(outside, key=lambda k: abs(k - len(label) / 2), default=-1)
    return label if cut < 0 else f"{label[:cut]}\n{label[cut + 1 :]}"
