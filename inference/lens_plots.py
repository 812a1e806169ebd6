"""Pictures of skies behind a magnetic field: maps, deflections, and angular power spectra.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `plots`; longitudes increase to the left.
"""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .backtrack_plots import _degree_ticks, _positive
from .plots import _BLACK, _WIDTH, _figure, _mesh, _note, _styled

_CENTRES = {"C": 180, "G": 0}
"""Longitude in the middle of a map [deg]."""

_LABELS = {
    "C": "Right ascension and declination (ICRS) [deg], seen from inside: east to the left",
    "G": "Galactic longitude and latitude [deg], seen from inside: longitude to the left",
}


@_styled
def sky_maps(maps: Mapping[str, np.ndarray], coord: str, label: str, diverging: bool, title: str = "") -> Figure:
    """Mollweide maps side by side, two in a row.

    Args:
        maps: By title: HEALPix map in RING order; NaN is grey.
        coord: "C" equatorial, right ascension 180 degrees in the middle; "G" Galactic, longitude 0.
        label: What is shown, at the colour bars.
        diverging: Blue below zero and red above, one range for all maps; else each has its own from its values.
        title: A few words above.
    """
    columns = 1 if len(maps) == 1 else 2
    rows = math.ceil(len(maps) / columns)
    figure = _figure(4.3 * columns, 2.9 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": "mollweide"}).ravel()
    every = np.concatenate([np.abs(values[np.isfinite(values)]) for values in maps.values()])
    top = float(np.quantile(every, 0.998)) if every.size else 1.0
    for place, (name, values) in zip(axes, maps.items(), strict=False):
        _draw(place, np.asarray(values, float), coord, label, diverging, (-top, top) if diverging and top > 0 else None)
        place.set_title(name)
    for unused in axes[len(maps) :]:
        unused.remove()
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(_LABELS[coord] if columns > 1 else _LABELS[coord].replace(", seen", ",\nseen"), fontsize=9)
    return figure


def _draw(axes: Axes, values: np.ndarray, coord: str, label: str, diverging: bool, limits) -> None:
    import healpy

    # Cells without lines between them; the value of each is that of the pixel at its centre.
    x, y = np.linspace(-np.pi, np.pi, 501), np.linspace(-np.pi / 2, np.pi / 2, 251)
    middle = np.radians(_CENTRES[coord])
    longitude, latitude = np.meshgrid(middle - (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
    pixels = healpy.ang2pix(healpy.npix2nside(values.size), np.pi / 2 - latitude, longitude)
    _mesh(axes, x, y, values[pixels], label, diverging, limits, "horizontal")
    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), labels=[])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)), labels=[])
    axes.set_longitude_grid_ends(90)
    axes.grid(color="0.35", linewidth=0.4, alpha=0.6)
    for away in range(-120, 121, 60):
        _note(axes, np.radians(away), 0.0, f"{(_CENTRES[coord] - away) % 360}°", (0, -7), "center")
    for angle in (-60, -30, 30, 60):
        _note(axes, -np.pi, np.radians(angle), f"{angle:+d}°".replace("-", "−"), (-5, 4 * np.sign(angle)), "right")


@_styled
def angular_power(curves: Mapping[str, np.ndarray], outside: np.ndarray, title: str = "") -> Figure:
    """C_l at Earth against l for every rigidity, beside that without a field.

    Args:
        curves: By name of the rigidity: C_l from l = 0, shape (degree,).
        outside: C_l without a field, same shape.
        title: A few words above.
    """
    degree = np.arange(len(outside))
    figure = _figure(1.15 * _WIDTH, 4.2)
    axes = figure.add_subplot()
    scale = colormaps["viridis_r"]
    for place, (name, power) in enumerate(curves.items()):
        colour = scale(0.15 + 0.85 * place / max(len(curves) - 1, 1))
        line = {"color": colour, "marker": "os^Dv<>"[place % 7], "markersize": 3.5, "linewidth": 1.2}
        axes.plot(degree[1:], _positive(power[1:]), label=name, zorder=3, **line)
    shown = np.concatenate([_positive(power[1:]) for power in curves.values()])
    highest = np.nanmax([*shown[np.isfinite(shown)], *_positive(outside[1:2]), 1e-300])
    lowest = np.nanmin([*shown[np.isfinite(shown) & (shown > 1e-9 * highest)], highest])
    seen = outside[1:] > 0.4 * lowest
    style = {"color": _BLACK, "linestyle": "--", "linewidth": 1.0, "marker": "*", "markersize": 9, "zorder": 4}
    axes.plot(degree[1:][seen], outside[1:][seen], label="Without a field", **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.9, degree[-1] * 1.1)
    axes.set_ylim(0.4 * lowest, 3 * highest)
    _degree_ticks(axes, float(degree[-1]))
    axes.set_xlabel(r"Degree $\ell$")
    axes.set_ylabel(r"$C_\ell$ of the relative intensity")
    axes.set_title(title)
    axes.legend(loc="best", ncols=2 if len(curves) > 5 else 1)
    return figure
