"""Pictures of what was measured: sky and local maps, right-ascension projections, rates, dipoles.

Plain NumPy arrays in, a `matplotlib.figure.Figure` out. Nothing here touches pyplot or leaves a trace in the
global rcParams. Unexposed (NaN) sky is light grey; on maps of the sky right ascension increases to the left.
"""

import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real
from matplotlib import colormaps, patheffects, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..clock import TIME_FRAMES
from ..errors import InputError
from ..sky import GALACTIC_TO_ICRS
from .files import atomic

# Readable when a 5 inch figure is reduced to a 3.4 inch journal column. Colours: Okabe & Ito (2008).
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 9,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "0.8",
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
}
_styled = style.context(_STYLE, after_reset=True)
_BLUE, _VERMILION, _BLACK = "#0072B2", "#D55E00", "#000000"
_OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_UNEXPOSED = "0.85"
_HALO = (patheffects.withStroke(linewidth=2, foreground="white"),)
_WIDTH = 5.0

Marker = tuple[float | int, float | int, str]
Limits = tuple[float | int, float | int]
Estimate = tuple[str, Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


@_styled
def sky_map(
    values: Real[np.ndarray, "ring ra"],
    declination_edges: Float[np.ndarray, " edge"],
    title: str = "",
    colorbar_label: str = "Relative intensity",
    diverging: bool = False,
    limits: Limits | None = None,
    galactic_plane: bool = True,
    frame_label: str = "equatorial, of date",
    markers: Sequence[Marker] = (),
) -> Figure:
    """Mollweide picture of the sky, centred on RA 180 degrees, right ascension increasing to the left.

    Args:
        values: Map on the ring grid; ring 0 is the southernmost, RA bins run from 0 to 360 degrees. NaN where
            the sky is not exposed.
        declination_edges: Ring edges [rad], shape (n_ring + 1,), increasing.
        title: A few words above the map.
        colorbar_label: What is shown; a power of ten is put in front of its unit where the values need one.
        diverging: Blue below zero and red above, with limits symmetric about zero.
        limits: Range of the colours, (low, high), in units of the values; the whole range by default. With
            `diverging` the larger of the two distances from zero is used on both sides.
        galactic_plane: Whether to draw the Galactic plane and centre: not in antisidereal or solar time.
            They are drawn in ICRS; 0.2 degrees from the equator of 2015, less than the width of the line.
        frame_label: The frame of the coordinates.
        markers: Directions to mark, (right ascension [deg], declination [deg], label).

    Raises:
        InputError: If the edges do not fit the map, or the limits are not increasing.
    """
    figure = _figure(_WIDTH, 3.6)
    axes = figure.add_subplot(projection="mollweide")
    _draw_sky(
        axes,
        values,
        declination_edges,
        title,
        colorbar_label,
        diverging,
        limits,
        galactic_plane,
        frame_label,
        markers,
    )
    return figure


@_styled
def local_map(
    values: Real[np.ndarray, "ring hour_angle"],
    declination_edges: Float[np.ndarray, " edge"],
    latitude: float | int,
    zenith_max: float | int,
    title: str = "",
    colorbar_label: str = r"Acceptance [sr$^{-1}$]",
    limits: Limits | None = None,
) -> Figure:
    """Looking up from the site: zenith in the middle, North up, East to the left, radius = zenith angle.

    Args:
        values: Additive local map (acceptance, counts) on the ring grid; hour-angle bin h is centred on
            h * 2 pi / n, westwards positive. Drawn per solid angle; towards the celestial pole averaged along
            the rings over the width that cells have at the equator, as the cells there are slivers.
        declination_edges: Ring edges [rad], shape (n_ring + 1,), increasing.
        latitude: Geographic latitude of the site [rad].
        zenith_max: Zenith angle at which the picture ends [rad].
        title: A few words above the map.
        colorbar_label: What is shown, per solid angle.
        limits: Range of the colours, (low, high); the whole range by default.

    Raises:
        InputError: If the edges do not fit the map, or the limits are not increasing.
    """
    figure = _figure(_WIDTH, 4.6)
    axes = figure.add_subplot(projection="polar")
    _draw_local(axes, values, declination_edges, latitude, zenith_max, title, colorbar_label, limits)
    return figure


@_styled
def rate(
    time_counts: Real[np.ndarray, " time"],
    time_frame: str = "sidereal",
    fitted: Real[np.ndarray, " time"] | None = None,
    dead: Bool[np.ndarray, " time"] | None = None,
    variance: Real[np.ndarray, " time"] | None = None,
    title: str = "",
    max_bins: int = 72,
) -> Figure:
    """Counts per time bin relative to the mean of the live bins, with a band of one standard deviation.

    Args:
        time_counts: Counts n (or sums of weights) of each bin of local time.
        time_frame: "sidereal", "solar", "antisidereal" or "extended-sidereal".
        fitted: Expected counts, drawn relative to the mean of the *data*.
        dead: True where a bin has no livetime; these are shaded and left out of the mean. Default: none.
        variance: Variance of the counts; n (Poisson) by default, sums of squared weights for weighted events.
        title: A few words above the picture.
        max_bins: Neighbouring bins are averaged until there are at most so many.

    Raises:
        InputError: If the time frame is unknown.
    """
    figure = _figure(_WIDTH, 3.2)
    _draw_rate(figure.add_subplot(), time_counts, time_frame, fitted, dead, variance, title, max_bins)
    return figure


@_styled
def right_ascension_projection(
    right_ascension_deg: Float[np.ndarray, " bin"],
    excess: Float[np.ndarray, " bin"],
    error: Float[np.ndarray, " bin"],
    harmonic: Sequence[float] | np.ndarray | None = None,
    harmonic_covariance: Float[np.ndarray, "2 2"] | None = None,
    title: str = "",
) -> Figure:
    """Data over background minus one against right ascension, which increases to the left.

    Args:
        right_ascension_deg: Centres of the bins [deg].
        excess: Data over background minus one. Bins that are NaN are left out.
        error: Its standard error.
        harmonic: (a, b) of the fitted curve a cos(alpha) + b sin(alpha); its amplitude hypot(a, b) and phase
            atan2(b, a) are written in the legend.
        harmonic_covariance: Covariance of (a, b): adds the one-sigma band and the errors in the legend.
        title: A few words above the picture.
    """
    figure = _figure(_WIDTH, 3.4)
    _draw_projection(figure.add_subplot(), right_ascension_deg, excess, error, harmonic, harmonic_covariance, title)
    return figure


@_styled
def dipole_ellipse(
    delta: Sequence[float] | np.ndarray,
    covariance: Float[np.ndarray, "2 2"],
    others: Sequence[Estimate] = (),
    label: str = "This fit",
    title: str = "",
) -> Figure:
    """Equatorial dipole with its joint 68 % and 95 % regions (chi2 = 2.279 and 5.991 for two components).

    Args:
        delta: (delta_0h, delta_6h), the components towards RA 0h and 6h.
        covariance: Their covariance.
        others: Other estimates with one-sigma errors: (label, (delta_0h, delta_6h), (error_0h, error_6h)).
        label: Name of the estimate in the legend.
        title: A few words above the picture.

    Raises:
        InputError: If the covariance is not positive definite.
    """
    figure = _figure(_WIDTH, 3.7)
    _draw_dipole(figure.add_subplot(), delta, covariance, others, label, title)
    return figure


@_styled
def demo_panel(sky: dict[str, Any], projection: dict[str, Any], rate: dict[str, Any], dipole: dict[str, Any]) -> Figure:
    """One picture of four: (a) sky map, (b) right-ascension projection, (c) rate, (d) dipole.

    Args:
        sky: Arguments of `sky_map`, by name.
        projection: Arguments of `right_ascension_projection`, by name.
        rate: Arguments of `rate`, by name.
        dipole: Arguments of `dipole_ellipse`, by name.
    """
    figure = _figure(2 * _WIDTH, 7.4)
    left = figure.subfigures(1, 2, width_ratios=(1, 1))
    panels = (
        (left[0].add_subplot(2, 1, 1, projection="mollweide"), _draw_sky, sky),
        (left[1].add_subplot(2, 1, 1), _draw_projection, projection),
        (left[0].add_subplot(2, 1, 2), _draw_rate, rate),
        (left[1].add_subplot(2, 1, 2), _draw_dipole, dipole),
    )
    for letter, (axes, draw, arguments) in zip("abcd", panels, strict=True):
        title = f"({letter}) {arguments.get('title', '')}".rstrip()
        draw(axes, **{**arguments, "title": title})
    return figure


@_styled
def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a figure as PNG (150 dpi) or PDF, by the suffix of the path, and return the path.

    The file appears under its name only when it is complete. It names the software but not the time, so that
    the same picture gives the same bytes.

    Raises:
        InputError: If the suffix is neither .png nor .pdf, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    software = f"diffcr {_version()}"
    options = {
        "png": {"dpi": 150, "metadata": {"Software": software}},
        "pdf": {"dpi": 300, "metadata": {"Creator": software, "CreationDate": None}},
    }
    if kind not in options:
        raise InputError(f"a picture is written as .png or .pdf, not as {path.name!r}: change the suffix")
    with atomic(path) as part:
        figure.savefig(part, format=kind, **options[kind])
    return path


def _draw_sky(
    axes: Axes,
    values: np.ndarray,
    declination_edges: np.ndarray,
    title: str = "",
    colorbar_label: str = "Relative intensity",
    diverging: bool = False,
    limits: Limits | None = None,
    galactic_plane: bool = True,
    frame_label: str = "equatorial, of date",
    markers: Sequence[Marker] = (),
) -> None:
    _check_edges(values, declination_edges)
    ra_edges = np.linspace(0, 2 * np.pi, values.shape[1] + 1)
    _mesh(axes, np.pi - ra_edges, declination_edges, values, colorbar_label, diverging, limits, "horizontal")

    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), labels=[])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)), labels=[])
    axes.set_longitude_grid_ends(90)
    axes.grid(color="0.35", linewidth=0.4, alpha=0.6)
    # Right ascensions along the equator (360 and 0 outside, at its ends), declinations along the left edge.
    for ra in range(0, 361, 60):
        offset, align = {0: (5, "left"), 360: (-5, "right")}.get(ra, (0, "center"))
        _note(axes, np.pi - np.radians(ra), 0.0, f"{ra}°", (offset, -1 if offset else -7), align)
    for dec in (-60, -30, 30, 60):
        _note(axes, -np.pi, np.radians(dec), f"{dec:+d}°".replace("-", "−"), (-5, 4 * np.sign(dec)), "right")

    if galactic_plane:
        longitude = np.linspace(0, 2 * np.pi, 1441)
        plane = np.asarray(GALACTIC_TO_ICRS) @ np.stack([np.cos(longitude), np.sin(longitude), 0 * longitude])
        x, y = _mollweide(np.arctan2(plane[1], plane[0]), np.arcsin(plane[2]))
        # Past the edge of the map the line goes on at the other side: lift the pen there.
        y[1:][np.abs(np.diff(x)) > np.pi] = np.nan
        halo = (patheffects.withStroke(linewidth=2.4, foreground="white"),)
        axes.plot(x, y, color=_BLACK, linewidth=1.1, label="Galactic plane", path_effects=halo)
        axes.plot(
            x[0],
            y[0],
            "*",
            color="white",
            markeredgecolor=_BLACK,
            markersize=10,
            linestyle="none",
            label="Galactic centre",
        )
        axes.legend(loc="lower right", bbox_to_anchor=(1.15, -0.2), frameon=False, handlelength=1.0, fontsize=8)
    for ra, dec, label in markers:
        x, y = _mollweide(np.radians(ra), np.radians(dec))
        axes.plot(x, y, "o", color="white", markeredgecolor=_BLACK, markersize=6, linestyle="none")
        _note(axes, float(x), float(y), label, (5, 8), "left")
    axes.set_title(title)
    axes.set_xlabel(f"Right ascension [deg]\n({frame_label})")
    axes.set_ylabel("Declination [deg]", labelpad=30)


def _draw_local(
    axes: Axes,
    values: np.ndarray,
    declination_edges: np.ndarray,
    latitude: float | int,
    zenith_max: float | int,
    title: str = "",
    colorbar_label: str = r"Acceptance [sr$^{-1}$]",
    limits: Limits | None = None,
) -> None:
    _check_edges(values, declination_edges)
    zenith_edges = np.linspace(0, zenith_max, max(2, round(np.degrees(zenith_max) * 4)) + 1)
    azimuth_edges = np.linspace(0, 2 * np.pi, 1441)
    zenith = (zenith_edges[1:] + zenith_edges[:-1])[:, None] / 2
    azimuth = (azimuth_edges[1:] + azimuth_edges[:-1]) / 2
    # Inverse of E = -cos d sin H, N = sin d cos(lat) - cos d sin(lat) cos H, U = sin d sin(lat) + ...
    east, north, up = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)
    declination = np.arcsin(np.clip(up * np.sin(latitude) + north * np.cos(latitude), -1, 1))
    hour_angle = np.arctan2(-east, up * np.cos(latitude) - north * np.sin(latitude))

    n_ring, n_hour_angle = values.shape
    step = 2 * np.pi / n_hour_angle
    ring = np.clip(np.searchsorted(declination_edges, declination, side="right") - 1, 0, n_ring - 1)
    density = _square_cells(values, declination_edges) / (np.diff(np.sin(declination_edges)) * step)[:, None]
    shown = density[ring, np.rint(hour_angle / step).astype(int) % n_hour_angle]

    axes.set_theta_zero_location("N")
    axes.set_theta_direction(1)  # counterclockwise: seen from below, East lies to the left of North
    _mesh(axes, azimuth_edges, np.degrees(zenith_edges), shown, colorbar_label, False, limits, "vertical")
    axes.set_ylim(0, np.degrees(zenith_max))
    axes.set_thetagrids((0, 90, 180, 270), labels=("N", "E", "S", "W"))
    rings = np.arange(20, np.degrees(zenith_max) - 1, 20)
    if not rings.size:
        rings = np.array([np.degrees(zenith_max) / 2])
    axes.set_rgrids(rings, labels=[f"{angle:.0f}°" for angle in rings], angle=45)
    for text in axes.get_yticklabels():
        text.set_path_effects(_HALO)
    axes.grid(color="0.35", linewidth=0.5, alpha=0.6)
    axes.set_title(title)
    axes.set_xlabel("Looking up; radius: zenith angle [deg]")


def _draw_rate(
    axes: Axes,
    time_counts: np.ndarray,
    time_frame: str = "sidereal",
    fitted: np.ndarray | None = None,
    dead: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    title: str = "",
    max_bins: int = 72,
) -> None:
    if time_frame not in TIME_FRAMES:
        raise InputError(f"unknown time frame {time_frame!r}; choose one of {', '.join(TIME_FRAMES)}")
    n = time_counts.size
    live = np.ones(n, bool) if dead is None else ~dead
    mean = time_counts[live].mean() if np.any(time_counts[live] > 0) else 1.0
    group = next(size for size in range(1, n + 1) if n % size == 0 and n // size <= max(max_bins, 1))

    def total(values: np.ndarray) -> np.ndarray:
        return np.where(live, values, 0.0).reshape(-1, group).sum(axis=1)

    number = np.where(total(np.ones(n)) > 0, total(np.ones(n)), np.nan)
    relative = total(time_counts) / number / mean - 1
    error = np.sqrt(total(time_counts if variance is None else variance)) / number / mean
    expected = np.full_like(relative, np.nan) if fitted is None else total(fitted) / number / mean - 1
    power, curves = _scaled(np.stack([relative - error, relative, relative + error, expected]))
    low, middle, high, expected = curves

    edges = np.linspace(0, 24, n + 1)
    shown = edges[::group]
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.stairs(high, shown, baseline=low, fill=True, color=_BLUE, alpha=0.3, linewidth=0, label=r"$\pm 1\sigma$")
    axes.stairs(middle, shown, baseline=None, color=_BLUE, linewidth=1.0, label="Counts")
    if fitted is not None:
        axes.plot(
            (shown[1:] + shown[:-1]) / 2, expected, color=_VERMILION, linewidth=1.6, label="Fitted rate (sky removed)"
        )
    starts = np.flatnonzero(~live & np.concatenate([[True], live[:-1]]))
    ends = np.flatnonzero(~live & np.concatenate([live[1:], [True]])) + 1
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        label = "No livetime" if index == 0 else None
        axes.axvspan(
            edges[start],
            edges[end],
            facecolor=_UNEXPOSED,
            edgecolor="0.6",
            hatch="//",
            linewidth=0,
            label=label,
        )
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 4))
    _set_range(axes, curves, headroom=0.3)
    axes.set_xlabel(f"Local {time_frame} time [h]")
    axes.set_ylabel(_with_power("Counts / mean − 1", power))
    axes.set_title(title)
    axes.legend(loc="upper center", ncols=4, handlelength=1.4, columnspacing=1.2)


def _draw_projection(
    axes: Axes,
    right_ascension_deg: np.ndarray,
    excess: np.ndarray,
    error: np.ndarray,
    harmonic: Sequence[float] | np.ndarray | None = None,
    harmonic_covariance: np.ndarray | None = None,
    title: str = "",
) -> None:
    alpha = np.linspace(0, 2 * np.pi, 361)
    basis = np.stack([np.cos(alpha), np.sin(alpha)])
    seen = np.isfinite(excess) & np.isfinite(error)
    extent = [excess[seen] - error[seen], excess[seen] + error[seen]]
    if harmonic is not None:
        curve = np.asarray(harmonic, float) @ basis
        sigma = np.zeros_like(curve)
        if harmonic_covariance is not None:
            sigma = np.sqrt(np.maximum(np.einsum("ia,ij,ja->a", basis, harmonic_covariance, basis), 0))
        extent += [curve - sigma, curve + sigma]
    power, extent = _scaled(np.concatenate(extent))
    factor = 10.0**-power

    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.errorbar(
        right_ascension_deg[seen],
        excess[seen] * factor,
        error[seen] * factor,
        fmt="o",
        color=_BLACK,
        markersize=3.5 if seen.sum() <= 40 else 1.5,
        elinewidth=1.0 if seen.sum() <= 40 else 0.5,
        label="Data",
    )
    if harmonic is not None:
        degrees = np.degrees(alpha)
        axes.plot(degrees, curve * factor, color=_VERMILION, label=_harmonic_label(harmonic, harmonic_covariance))
        if harmonic_covariance is not None:
            low, high = (curve - sigma) * factor, (curve + sigma) * factor
            axes.fill_between(degrees, low, high, color=_VERMILION, alpha=0.25, linewidth=0)
    axes.set_xlim(360, 0)
    axes.set_xticks(range(0, 361, 60))
    _set_range(axes, extent, headroom=0.3)
    axes.set_xlabel("Right ascension [deg]")
    axes.set_ylabel(_with_power("Data / background − 1", power))
    axes.set_title(title)
    axes.legend(loc="upper center", ncols=2, handlelength=1.4, columnspacing=1.2)


def _draw_dipole(
    axes: Axes,
    delta: Sequence[float] | np.ndarray,
    covariance: np.ndarray,
    others: Sequence[Estimate] = (),
    label: str = "This fit",
    title: str = "",
) -> None:
    delta = np.asarray(delta, float)
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise InputError(
            f"the covariance of the dipole must be positive definite, not {np.asarray(covariance).tolist()}; "
            "the fit it comes from has probably not converged"
        ) from None
    angle = np.linspace(0, 2 * np.pi, 361)
    circle = root @ np.stack([np.cos(angle), np.sin(angle)])
    # Two degrees of freedom: P(chi2 < x) = 1 - exp(-x / 2).
    contours = {level: delta[:, None] + np.sqrt(-2 * np.log1p(-level)) * circle for level in (0.95, 0.68)}
    corners = [np.zeros((2, 1)), *contours.values()]
    for _, point, error in others:
        point, error = np.asarray(point, float), np.asarray(error, float)
        corners.append(np.stack([point - error, point + error], axis=1))
    power, extent = _scaled(np.concatenate(corners, axis=1))
    factor = 10.0**-power

    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.plot(0, 0, "+", color=_BLACK, markersize=10, markeredgewidth=1.6, linestyle="none", label="Isotropy")
    for (level, contour), opacity in zip(contours.items(), (0.2, 0.45), strict=True):
        axes.fill(*(contour * factor), facecolor=_BLUE, alpha=opacity, linewidth=0, label=f"{100 * level:.0f} %")
        axes.plot(*(contour * factor), color=_BLUE, linewidth=1.0)
    axes.plot(
        *(delta * factor),
        "o",
        color=_BLUE,
        markeredgecolor="white",
        markersize=7,
        zorder=5,
        linestyle="none",
        label=label,
    )
    for index, (name, point, error) in enumerate(others):
        (x, y), (dx, dy) = np.asarray(point, float) * factor, np.asarray(error, float) * factor
        axes.errorbar(
            x, y, yerr=dy, xerr=dx, fmt="sD^vP"[index % 5], color=_OTHERS[index % 5], markersize=5, label=name
        )
    # A strip to the right of everything drawn is kept for the legend; the scales stay equal because the
    # ranges have the proportions of the box.
    low, high = extent.min(axis=1), extent.max(axis=1)
    middle, half, strip = (low + high) / 2, 0.56 * np.max(high - low), 0.5
    axes.set_xlim(middle[0] - half, middle[0] + half * (1 + 2 * strip))
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_box_aspect(1 / (1 + strip))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(_with_power(r"$\delta_{0\mathrm{h}}$", power))
    axes.set_ylabel(_with_power(r"$\delta_{6\mathrm{h}}$", power))
    axes.set_title(title)
    axes.legend(loc="upper right", handlelength=1.2)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _mesh(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    label: str,
    diverging: bool,
    limits: Limits | None,
    orientation: str,
) -> None:
    """Colour the cells between the edges x and y, with a colour bar that shows where colours saturate."""
    seen = values[np.isfinite(values)].astype(float)
    full = (seen.min(), seen.max()) if seen.size else (0.0, 1.0)
    low, high = full if limits is None else limits
    if limits is not None and not low < high:
        raise InputError(f"the limits of the colours must increase, not ({low:g}, {high:g}); give (low, high)")
    if diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif low == high:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    power, (low_scaled, high_scaled) = _scaled(np.array([low, high]))
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[full[0] < low, full[1] > high]

    colours = colormaps["RdBu_r" if diverging else "viridis"].with_extremes(bad=_UNEXPOSED)
    mesh = axes.pcolormesh(
        x,
        y,
        np.ma.masked_invalid(values) * 10.0**-power,
        cmap=colours,
        vmin=low_scaled,
        vmax=high_scaled,
        rasterized=True,
    )
    size = {"shrink": 0.75, "aspect": 32, "pad": 0.03} if orientation == "horizontal" else {"shrink": 0.8, "pad": 0.12}
    bar = axes.figure.colorbar(mesh, ax=axes, orientation=orientation, extend=extend, **size)
    bar.set_label(_with_power(label, power))
    bar.locator = MaxNLocator(6)
    bar.update_ticks()


def _square_cells(values: np.ndarray, declination_edges: np.ndarray) -> np.ndarray:
    """Running means along each ring, over as many cells as fit into one cell of the equator."""
    cosine = np.cos((declination_edges[1:] + declination_edges[:-1]) / 2)
    n = values.shape[1]
    out = np.empty(values.shape)
    for row, ring, side in zip(out, values, np.rint((1 / cosine - 1) / 2).astype(int), strict=True):
        side = min(side, (n - 1) // 2)
        wrapped = np.take(ring, np.arange(-side, n + side), mode="wrap")
        row[:] = np.lib.stride_tricks.sliding_window_view(wrapped, 2 * side + 1).mean(axis=-1)
    return out


def _mollweide(right_ascension, declination):
    """Coordinates on the map of directions [rad]: x = -(alpha - pi) for alpha in [0, 2 pi)."""
    return np.pi - np.mod(right_ascension, 2 * np.pi), declination


def _note(axes: Axes, x: float, y: float, text: str, offset: tuple, align: str) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=9,
        path_effects=_HALO,
    )


def _scaled(values: np.ndarray) -> tuple[int, np.ndarray]:
    """Power of ten that suits an axis with these values (0 where none is needed), and the values over it."""
    largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
    power = 0 if largest == 0 or 0.1 <= largest < 1e4 else int(np.floor(np.log10(largest)))
    return power, values * 10.0**-power


def _with_power(label: str, power: int) -> str:
    """Put the power of ten with the unit: "Counts [sr]" -> "Counts [10^5 sr]", "Ratio" -> "Ratio [10^-3]"."""
    if not power:
        return label
    factor = f"$10^{{{power}}}$"
    return label.replace("[", f"[{factor} ", 1) if "[" in label else f"{label} [{factor}]"


def _set_range(axes: Axes, values: np.ndarray, headroom: float) -> None:
    """Show all finite values and zero, with room above for the legend (in units of the range)."""
    finite = np.append(values[np.isfinite(values)], 0.0)
    low, high = finite.min(), finite.max()
    span = (high - low) or 1.0
    axes.set_ylim(low - 0.08 * span, high + headroom * span)


def _harmonic_label(harmonic: Sequence[float] | np.ndarray, covariance: np.ndarray | None) -> str:
    """Amplitude and phase with linear errors: r = hypot(a, b), alpha = atan2(b, a)."""
    a, b = (float(value) for value in harmonic)
    amplitude, phase = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    if covariance is None or amplitude == 0:
        power, (value,) = _scaled(np.array([amplitude]))
        times = rf" \times 10^{{{power}}}" if power else ""
        return rf"$A = {value:.2f}{times}$, $\alpha = {phase:.0f}^\circ$"
    radial, tangential = np.array([a, b]) / amplitude, np.array([-b, a]) / amplitude
    error = np.sqrt(max(radial @ covariance @ radial, 0.0))
    turn = np.degrees(np.sqrt(max(tangential @ covariance @ tangential, 0.0)) / amplitude)
    power, (value, sigma) = _scaled(np.array([amplitude, error]))
    times = rf" \times 10^{{{power}}}" if power else ""
    return rf"$A = ({value:.2f} \pm {sigma:.2f}){times}$, $\alpha = {phase:.0f}^\circ \pm {turn:.0f}^\circ$"


def _check_edges(values: np.ndarray, declination_edges: np.ndarray) -> None:
    if declination_edges.shape != (values.shape[0] + 1,) or np.any(np.diff(declination_edges) <= 0):
        raise InputError(
            f"a map of {values.shape[0]} rings needs {values.shape[0] + 1} increasing declination edges, not "
            f"{declination_edges.size}; pass the declination_edges of the grid it was made on"
        )


def _version() -> str:
    try:
        return metadata.version("diffcr")
    except metadata.PackageNotFoundError:
        return "(not installed)"
