"""Pictures of small-scale theory: fits to C_l, the cascade, pitch-angle profiles, relaxation, where diffusion holds.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `plots`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffcr.errors import InputError

from .plots import _BLACK, _BLUE, _OTHERS, _VERMILION, _WIDTH, _figure, _styled

_COLOURS = (_BLUE, _VERMILION, *_OTHERS)
_LINES = ("-", "--", "-.", ":", (0, (1, 1, 4, 1)), (0, (8, 2)))

Band = Sequence[np.ndarray]


# Measured C_l and models --------------------------------------------------------------------------------------


@_styled
def power_fit(
    l: np.ndarray,
    data: np.ndarray,
    error: np.ndarray,
    curves: Mapping[str, Band],
    *,
    edges: tuple[np.ndarray, np.ndarray] | None = None,
    noise: np.ndarray | None = None,
    fitted: np.ndarray | None = None,
    title: str = "",
    label: str = "Data",
    band: str = "68 %",
) -> Figure:
    """Measured C_l with the posterior predictive of each model, and below how far the data are from each median.

    Below, distances are in units of half the 68 % that each model foretells, and of the error where that is nothing:
    a model without power at a degree foretells little scatter there.

    Points with C_l of zero or less have no place on a logarithmic axis: an arrow goes down from C_l + 2 errors.

    Args:
        l: Degrees, or middles of the bins, shape (point,).
        data: C_l of the relative intensity.
        error: One-sigma errors; all above 0.
        curves: By name of the model: (median, low, high) of the predicted C_l, each (point,).
        edges: (lowest, highest) degree of each bin, each (point,); drawn as horizontal bars.
        noise: C_l of an isotropic sky with the same events, shape (point,).
        fitted: False where a point had no part in the fit: it is drawn open. Shape (point,).
        title: A few words above the picture.
        label: Name of the data in the legend.
        band: What low and high enclose, for the legend.

    Raises:
        InputError: If shapes do not fit, or an error is not above zero.
    """
    l, data, error, used = _require_points(l, data, error, fitted)
    curves = {name: _require_band(each, l.shape, name) for name, each in curves.items()}
    figure = _figure(1.2 * _WIDTH, 4.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    many = _degree_axis(below, l, edges)
    shown = [np.where(data > 0, data, data + 2 * error)]
    for place, (name, (median, low, high)) in enumerate(curves.items()):
        colour, line = _COLOURS[place % len(_COLOURS)], _LINES[place % len(_LINES)]
        there = median > 0
        floor = 1e-3 * median[there]
        ends = np.maximum(low[there], floor), np.maximum(high[there], floor)
        if np.all(there) and l.size > 1:
            above.plot(l, median, color=colour, linestyle=line, label=name, zorder=4)
            above.fill_between(l, *ends, facecolor=colour, alpha=0.2, linewidth=0, zorder=2)
        else:
            # No line through degrees without power, such as the even ones of a profile: it would seem to fit them.
            bars = np.stack([median[there] - ends[0], ends[1] - median[there]])
            style = {"color": colour, "elinewidth": 4, "alpha": 0.7, "markersize": 5, "zorder": 4}
            above.errorbar(l[there], median[there], np.maximum(bars, 0), fmt="s", label=name, **style)
        width = np.where(high > low, (high - low) / 2, error)
        pulls = {"color": colour, "marker": "osD^v"[place % 5], "markersize": 4, "linestyle": "none", "zorder": 3}
        aside = place - (len(curves) - 1) / 2
        below.plot(l * 10 ** (0.01 * aside) if many else l + 0.12 * aside, (data - median) / width, **pulls)
        shown += [median, np.maximum(low, 0.1 * median)]
    _draw_points(above, l, data, error, edges, used, label)
    if noise is not None:
        noise = _require_shape(noise, l.shape, "the noise")
        above.plot(l, _positive(noise), color="0.45", linewidth=1.0, linestyle=(0, (4, 2, 1, 2)), label="Noise")
        shown.append(noise)
    _logarithmic(above, "y", np.concatenate(shown), 2.5)
    below.axhspan(-1, 1, color="0.93", zorder=0)
    below.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    reach = 1.2 * max(2.5, *(np.max(np.abs(line.get_ydata())) for line in below.lines[:-1]), 0)
    if reach > 12:
        below.set_yscale("symlog", linthresh=10)
    below.set_ylim(-reach, reach)
    above.set_ylabel(r"$C_\ell$ of the relative intensity")
    below.set_ylabel("(Data $-$ median) over\npredicted scatter", fontsize=9)
    below.set_xlabel(r"Degree $\ell$")
    above.set_title(title)
    if curves:
        above.fill_between([], [], [], facecolor="0.5", alpha=0.3, linewidth=0, label=f"{band} predictive")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.4)
    return figure


def _draw_points(axes: Axes, l, data, error, edges, used, label: str) -> None:
    across = None
    if edges is not None:
        low, high = (_require_shape(each, l.shape, "edges of bins") for each in edges)
        across = np.stack([np.maximum(l - low, 0), np.maximum(high - l, 0)])
    for kept, face, name in ((used, _BLACK, label), (~used, "white", f"{label}, not fitted")):
        positive, rest = kept & (data > 0), kept & ~(data > 0)
        style = {"color": _BLACK, "markerfacecolor": face, "markersize": 4.5, "linewidth": 1.0, "zorder": 6}
        if np.any(kept):
            bars = np.stack([np.minimum(error, 0.999 * np.abs(data)), error])[:, positive]
            wide = None if across is None else across[:, positive]
            axes.errorbar(l[positive], data[positive], bars, wide, fmt="o", capsize=2, label=name, **style)
        if np.any(rest):
            top = (data + 2 * error)[rest]
            seen = top > 0
            top = np.where(seen, top, np.nan)
            bars = np.stack([0.5 * top, 0 * top])
            axes.errorbar(l[rest], top, bars, fmt="_", uplims=True, **(style | {"markersize": 8}))


def _require_points(l, data, error, fitted):
    l = np.asarray(l, float)
    if l.ndim != 1 or l.size < 1:
        raise InputError(f"degrees of a power spectrum must have the shape (point,), not {l.shape}")
    data, error = (_require_shape(v, l.shape, what) for v, what in ((data, "C_l"), (error, "errors of C_l")))
    if not np.all(np.isfinite(error) & (error > 0)):
        raise InputError(f"errors of C_l must be finite and above zero, not {np.min(error):g}: leave such points out")
    used = np.ones(l.shape, bool) if fitted is None else np.asarray(fitted, bool)
    return l, data, error, _require_shape(used, l.shape, "the mask of fitted points").astype(bool)


def _require_band(band: Band, shape: tuple, name: str) -> tuple[np.ndarray, ...]:
    if len(band) != 3:
        raise InputError(f"the curve of {name} must be (median, low, high), not {len(band)} arrays")
    return tuple(
        _require_shape(each, shape, f"the {what} of {name}")
        for each, what in zip(band, ("median", "low", "high"), strict=True)
    )


# Theory -------------------------------------------------------------------------------------------------------


@_styled
def cascade_evolution(
    depth: np.ndarray,
    power: Mapping[str, np.ndarray],
    survival: Mapping[str, np.ndarray] | None = None,
    degrees: Sequence[int] = (1, 2, 3, 5, 10, 20),
    title: str = "",
) -> Figure:
    r"""C_l against depth, a panel for each model of the rates, and the power left in the whole sky.

    Args:
        depth: nu T, increasing and above 0, shape (depth,).
        power: By name of the model: C_l / C_1(0) of l = 1 .. l_max, each (depth, l_max).
        survival: By name: S = sum (2l+1) C_l / (3 C_1(0)) over all l, each (depth,); a last panel where given.
        degrees: l that are drawn, each up to every l_max.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit, or a degree is not there.
    """
    depth = np.asarray(depth, float)
    panels = len(power) + (survival is not None)
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = _figure(0.55 * _WIDTH + 0.65 * _WIDTH * columns, 1.0 + 2.7 * rows)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    colours = _in_order(len(degrees))
    values = []
    for panel, (name, each) in zip(axes, power.items(), strict=False):
        each = np.asarray(each, float)
        _require_degrees(each, depth.shape, degrees, name)
        for place, l in enumerate(degrees):
            label = rf"$\ell = {l}$" if panel is axes[0] else None
            panel.plot(depth, _positive(each[:, l - 1]), color=colours[place], label=label)
            values.append(each[:, l - 1])
        panel.set_title(name)
        panel.set_ylabel(r"$C_\ell / C_1(0)$")
    for panel in axes[: len(power)]:
        _logarithmic(panel, "y", np.maximum(np.concatenate(values), 1e-9 * np.max(values)), 2)
    if survival is not None:
        _draw_survival(axes[len(power)], depth, survival)
    for panel in axes[panels:]:
        panel.set_visible(False)
    for panel in axes[:panels]:
        panel.set_xscale("log")
        panel.set_xlim(depth.min(), depth.max())
        panel.set_xlabel(r"Depth $\nu T$")
        panel.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, columnspacing=1.4)
    return figure


def _draw_survival(axes: Axes, depth, survival: Mapping[str, np.ndarray]) -> None:
    for place, (name, each) in enumerate(survival.items()):
        style = {"color": "0.15", "linestyle": _LINES[place % len(_LINES)]}
        axes.plot(depth, _require_shape(each, depth.shape, f"the power left of {name}"), label=f"$S$, {name}", **style)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel(r"$S = \sum (2\ell+1)\, C_\ell\, /\, 3 C_1(0)$")
    axes.set_title("Power in the whole sky")


@_styled
def pitch_angle_profiles(
    cosine: np.ndarray,
    profiles: Mapping[str, np.ndarray],
    power: Mapping[str, np.ndarray],
    title: str = "",
) -> Figure:
    r"""Intensity against the angle from the field, and its angular power, of several models of scattering.

    Args:
        cosine: n . B of sky directions n, which is minus the cosine of the pitch angle. Shape (cosine,).
        profiles: By name: the profile over its value along the field, each (cosine,).
        power: By the same names: C_l / C_1 of l = 1 .. l_max, each (l_max,). Zeros (even l) are not drawn.
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit, or a name is missing.
    """
    cosine = np.asarray(cosine, float)
    figure = _figure(1.75 * _WIDTH, 3.8)
    left, right = figure.subplots(1, 2)
    shown = []
    for place, (name, each) in enumerate(profiles.items()):
        style = {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _LINES[place % len(_LINES)]}
        left.plot(cosine, _require_shape(each, cosine.shape, f"the profile of {name}"), label=name, **style)
        if name not in power:
            raise InputError(f"a picture of profiles needs C_l / C_1 of {name} as well")
        ratio = np.asarray(power[name], float)
        l = np.arange(1, ratio.size + 1)
        # Rounding leaves even l of an even D as small numbers.
        there = ratio > 1e-12
        right.plot(l[there], ratio[there], marker="osD^v"[place % 5], markersize=3.5, **style)
        shown.append(ratio[there])
    left.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    left.set_xlim(-1, 1)
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set_xlabel(r"$\hat n \cdot \hat B = -\mu$")
    left.set_ylabel(r"$\delta I$ over its value along $\mathbf{B}$")
    _logarithmic(right, "y", np.concatenate(shown), 2)
    _degree_axis(right, np.arange(1, max(len(each) for each in power.values()) + 1.0))
    right.set_xlabel(r"Degree $\ell$")
    right.set_ylabel(r"$C_\ell / C_1$")
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.4)
    return figure


@_styled
def relaxation(
    mu: np.ndarray,
    profiles: np.ndarray,
    times: np.ndarray,
    fine_times: np.ndarray,
    multipoles: Mapping[int, np.ndarray],
    expected: Mapping[int, np.ndarray] | None = None,
    title: str = "",
) -> Figure:
    r"""How an anisotropy relaxes: the distribution over mu at some times, and multipoles against time.

    Args:
        mu: Cosines of the pitch angle, shape (mu,).
        profiles: f(mu) at each time, shape (time, mu).
        times: nu t of the profiles, shape (time,).
        fine_times: nu t of the multipoles, shape (fine,).
        multipoles: By l: |f_l(t) / f_l(0)|, each (fine,).
        expected: By l: what they should be, dashed, each (fine,).
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    mu, times, fine_times = (np.asarray(v, float) for v in (mu, times, fine_times))
    profiles = _require_shape(profiles, (times.size, mu.size), "profiles of a relaxation")
    figure = _figure(1.75 * _WIDTH, 3.9)
    left, right = figure.subplots(1, 2)
    for colour, each, time in zip(_in_order(times.size), profiles, times, strict=True):
        left.plot(mu, each, color=colour, label=rf"$\nu t = {time:.3g}$")
    left.set_xlim(-1, 1)
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set_xlabel(r"Pitch-angle cosine $\mu$")
    left.set_ylabel(r"$f(\mu)$")
    for place, (l, each) in enumerate(multipoles.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        each = _require_shape(each, fine_times.shape, f"the multipole of l = {l}")
        right.plot(fine_times, _positive(each), color=colour, label=rf"$\ell = {l}$")
        if expected is not None and l in expected:
            wanted = _require_shape(expected[l], fine_times.shape, f"the expected multipole of l = {l}")
            right.plot(fine_times, _positive(wanted), color=_BLACK, linestyle="--", linewidth=0.9)
    if expected is not None:
        right.plot([], [], color=_BLACK, linestyle="--", linewidth=0.9, label="Expected")
    right.set_yscale("log")
    right.set_ylim(max(1e-6, right.get_ylim()[0]), 2)
    right.set_xlim(fine_times.min(), fine_times.max())
    right.set_xlabel(r"$\nu t$")
    right.set_ylabel(r"$|f_\ell(t) / f_\ell(0)|$")
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=5, columnspacing=1.2)
    return figure


@_styled
def diffusion_validity(
    depth: np.ndarray,
    ratio: np.ndarray,
    density_error: np.ndarray,
    dipole_error: np.ndarray,
    marks: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    r"""Where diffusion holds for a burst: relative errors of density and dipole over nu t and r / ct.

    Args:
        depth: nu t: age in units of the time between collisions. Shape (depth,), increasing and above 0.
        ratio: r / ct, between 0 and 1, increasing, shape (ratio,).
        density_error: Diffusive over exact density, minus one.
        dipole_error: The same of the dipole.
        marks: Sources to mark, by name: (nu t, r / ct).
        title: A few words above the picture.

    Raises:
        InputError: If shapes do not fit.
    """
    from matplotlib.colors import BoundaryNorm

    depth, ratio = np.asarray(depth, float), np.asarray(ratio, float)
    # The error is relative: as wrong as diffusion can be is -1 below, and without bound above.
    levels = [-1, -0.5, -0.3, -0.1, -0.03, -0.01, 0.01, 0.03, 0.1, 0.3, 1, 10]
    figure = _figure(1.85 * _WIDTH, 4.0)
    panels = figure.subplots(1, 2, sharey=True)
    shapes = (ratio.size, depth.size)
    for axes, error, name in zip(panels, (density_error, dipole_error), ("density", "dipole"), strict=True):
        error = _require_shape(error, shapes, f"the error of the {name}")
        style = {"cmap": "RdBu_r", "norm": BoundaryNorm(levels, 256, extend="max")}
        drawn = axes.contourf(depth, ratio, error, levels, extend="max", **style)
        lines = axes.contour(depth, ratio, np.abs(error), [0.1, 0.3], colors=_BLACK, linewidths=(1.4, 0.8))
        axes.clabel(lines, fmt=lambda value: f"{100 * value:.0f} %", fontsize=9, inline_spacing=2)
        for label, place in (marks or {}).items():
            axes.plot(*place, "o", color=_BLACK, markerfacecolor="white", markersize=5, zorder=5)
            # To the left where a name would run out of the picture.
            side = -1 if place[0] > np.sqrt(depth.min() * depth.max()) else 1
            style = {"ha": "right" if side < 0 else "left", "fontsize": 9}
            axes.annotate(label, place, (5 * side, 4), textcoords="offset points", **style)
        axes.set_xscale("log")
        axes.set_xlim(depth.min(), depth.max())
        axes.set_ylim(0, 1)
        axes.set_xlabel(r"$\nu t$")
        axes.set_title(f"Diffusion: relative error of the {name}")
    panels[0].set_ylabel(r"$r / ct$")
    bar = figure.colorbar(drawn, ax=panels, ticks=levels, pad=0.01)
    bar.ax.set_yticklabels([f"{100 * level:+.0f} %" for level in levels])
    figure.suptitle(title, fontsize=11)
    return figure


# Helpers ------------------------------------------------------------------------------------------------------


def _require_shape(values, shape: tuple, what: str) -> np.ndarray:
    if np.shape(values) != tuple(shape):
        raise InputError(f"{what} must have the shape {tuple(shape)}, not {np.shape(values)}")
    return np.asarray(values, float)


def _positive(values: np.ndarray) -> np.ndarray:
    """NaN where a logarithm has no place for a value."""
    return np.where(np.asarray(values) > 0, values, np.nan)


def _logarithmic(axes: Axes, axis: str, values: np.ndarray, margin: float) -> None:
    """A logarithmic axis around the values that are above zero."""
    seen = values[np.isfinite(values) & (values > 0)]
    getattr(axes, f"set_{axis}scale")("log")
    if seen.size:
        getattr(axes, f"set_{axis}lim")(seen.min() / margin, seen.max() * margin)


def _degree_axis(axes: Axes, l: np.ndarray, edges=None) -> bool:
    """Whole degrees as ticks, on a linear axis for few of them, on a logarithmic one for many; whether many."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = (l.min(), l.max()) if edges is None else (np.min(edges[0]), np.max(edges[1]))
    if high <= 12 * max(low, 1) and high <= 20:
        axes.set_xlim(low - 0.6, high + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        return False
    axes.set_xscale("log")
    axes.set_xlim(0.9 * low, 1.1 * high)
    ticks = [n for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300) if 0.9 * low <= n <= 1.1 * high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    return True


def _in_order(number: int) -> list:
    """Colours that run from pale to dark, readable in grey."""
    from matplotlib import colormaps

    return list(colormaps["viridis_r"](np.linspace(0.15, 1, number)))


def _require_degrees(power: np.ndarray, depths: tuple, degrees: Sequence[int], name: str) -> None:
    if power.ndim != 2 or power.shape[:1] != depths:
        raise InputError(f"C_l of {name} must have the shape ({depths[0]}, l_max), not {power.shape}")
    if min(degrees) < 1 or max(degrees) > power.shape[1]:
        raise InputError(f"C_l of {name} reach from l = 1 to {power.shape[1]}: draw none of {tuple(degrees)} outside")
