"""Pictures of posteriors: corners, regions on the sky, bands, predictive checks, and the sampling itself.

Arrays of draws in, a `matplotlib.figure.Figure` out, as in `plots`. Draws stand on the leading axes of an array:
one axis, or (chain, draw) with the draws of a chain in their order.

Regions are of highest density. The density is a kernel estimate whose width predicts the draws best, and its level
is the one that the stated share of the draws exceed without the help of their own kernels: a region holds what it
says also where the kernel is wide. Right ascension increases to the left on maps and projections.
"""

import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import ndimage, stats
from scipy.special import ndtr

from diffcr.clock import TIME_FRAMES
from diffcr.errors import InputError
from diffcr.grid import RingGrid, interpolate

from .plots import (
    _BLACK,
    _BLUE,
    _OTHERS,
    _UNEXPOSED,
    _VERMILION,
    _WIDTH,
    _figure,
    _mollweide,
    _note,
    _scaled,
    _styled,
    _with_power,
)

MOST_PARAMETERS = 8
"""Of a corner plot, and of a figure of ranks: more cannot be read."""
LEAST_DRAWS = 40
"""In all: fewer leave a 95 % region to one or two draws outside of it."""

_REGIONS = (0.68, 0.95)
_SIGMAS = (-math.expm1(-0.5), -math.expm1(-2.0))
_OPACITY = (0.45, 0.2)
_GREY, _PRIOR = "0.55", "0.4"
_CHAINS = (_BLUE, *_OTHERS[:4])

Draws = np.ndarray
Density = Callable[[np.ndarray], np.ndarray]


@_styled
def corner(
    values: Mapping[str, Draws],
    labels: Mapping[str, str] | None = None,
    truths: Mapping[str, float] | None = None,
    prior: Mapping[str, Draws | Density] | None = None,
    dominated: Collection[str] = (),
    period: Mapping[str, float] | None = None,
) -> Figure:
    """Every parameter, and every pair with its 68 and 95 % regions.

    Args:
        values: Draws of each parameter, (chain, draw) or (draw,), all alike; at most eight parameters.
        labels: What stands on the axes, with the unit in brackets: "Right ascension [deg]"; short, as panels are
            narrow. Default: the names. A power of ten is put in front of the unit where the values need one.
        truths: Values to mark.
        prior: Draws from the prior, or its density in the unit of the values; a thin grey line of unit area, like the
            posterior, so that a prior much wider than the posterior lies close to zero.
        dominated: Parameters whose posterior is that of the prior: drawn in grey, and said so in place of a number.
        period: Of parameters on a circle, such as 360 for a right ascension in degrees. The circle is cut where it is
            emptiest, and what is written on the axis stays between zero and the period.

    Raises:
        InputError: If there are more than eight parameters, draws are too few, not finite, all equal, or of different
            number, or an option names a parameter that is not there.
    """
    names = list(values)
    if not 1 <= len(names) <= MOST_PARAMETERS:
        raise InputError(
            f"a corner plot shows 1 to {MOST_PARAMETERS} parameters, not {len(names)}; choose those that matter"
        )
    for option in (labels, truths, prior, dominated, period):
        _require_known(option or (), names)
    draws = {name: _pooled(values[name], f"{name!r}") for name in names}
    _require_alike({name: np.shape(values[name]) for name in names})
    truths, priors, period = dict(truths or {}), dict(prior or {}), period or {}
    for name, turn in period.items():
        if not (np.isfinite(turn) and turn > 0):
            raise InputError(f"the period of {name!r} must be positive, not {turn}; 360 for angles in degrees")
        draws[name], start = _unwound(draws[name], turn)
        if name in truths:
            truths[name] = start + (truths[name] - start) % turn
        if name in priors:
            priors[name] = _wound(priors[name], start, turn)
    marginals = [_Line(draws[name], name) for name in names]
    extents = [_scaled(np.array(line.extent)) for line in marginals]

    n = len(names)
    side = max(_WIDTH, 1.25 + 1.35 * n)
    figure = _figure(side, side if n > 1 else 3.4)
    panels = figure.subplots(n, n, squeeze=False, sharex="col")
    if n > 1:
        # Margins in inches, and panels at equal distances whatever stands on their axes.
        figure.set_layout_engine(None)
        figure.subplots_adjust(1.15 / side, 1.1 / side, 1 - 0.1 / side, 1 - 0.35 / side, 0.06, 0.06)
    written = {name: (labels or {}).get(name, name.replace("_", " ")) for name in names}
    for row, name in enumerate(names):
        for column, other in enumerate(names):
            axes = panels[row, column]
            if column > row:
                axes.remove()
                continue
            (power_x, limits_x), (power_y, limits_y) = extents[column], extents[row]
            x, y = 10.0**-power_x, 10.0**-power_y
            if row == column:
                turn = period.get(name)
                _draw_marginal(axes, marginals[row], power_x, priors.get(name), name in dominated, turn)
            else:
                faint = name in dominated or other in dominated
                plane = _Plane(np.stack([draws[other] * x, draws[name] * y], axis=1), f"{other!r} and {name!r}")
                _draw_regions(axes, plane, _REGIONS, _GREY if faint else _BLUE)
                axes.set_ylim(*limits_y)
                _few_ticks(axes.yaxis, limits_y, period.get(name), y)
                if name in truths:
                    axes.axhline(truths[name] * y, color=_VERMILION, linewidth=1.0)
            if other in truths:
                axes.axvline(truths[other] * x, color=_VERMILION, linewidth=1.0)
            axes.set_xlim(*limits_x)
            _few_ticks(axes.xaxis, limits_x, period.get(other), x)
            axes.tick_params(rotation=45, labelsize=9, length=2.5)
            axes.tick_params(axis="x", labelbottom=row == n - 1)
            axes.tick_params(axis="y", labelleft=column == 0)
            if row == n - 1:
                label = _with_power(written[other], power_x)
                axes.set_xlabel(_in_lines(label) if n > 1 else label)
            if column == 0 and row > 0:
                axes.set_ylabel(_in_lines(_with_power(written[name], power_y)))
    for place, axes in enumerate(panels[-1] if n > 1 else ()):
        axes.xaxis.set_label_coords(0.5, -0.5 / (figure.get_figheight() * axes.get_position().height))
        if place > 0:
            panels[place, 0].yaxis.set_label_coords(-0.55 / (side * axes.get_position().width), 0.5)
    handles = _region_handles(_REGIONS, _BLUE)
    handles += [Line2D([], [], color=_PRIOR, linewidth=0.8, label="Prior")] * bool(priors)
    handles += [Line2D([], [], color=_VERMILION, linewidth=1.0, label="Truth")] * bool(truths)
    if n > 1:
        figure.legend(handles=handles, loc="upper right")
    else:
        panels[0, 0].legend(handles=handles, loc="best")
    return figure


@_styled
def dipole_plane(
    delta: Draws,
    maximum_likelihood: Sequence[float] | np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Posterior of the equatorial dipole with its 39 and 86 % regions, the one and two sigma of two dimensions.

    Args:
        delta: (delta_0h, delta_6h), the components towards RA 0h and 6h, shape (draw, 2) or (chain, draw, 2).
        maximum_likelihood: The same of the largest likelihood, to be marked.
        covariance: Of the maximum-likelihood estimate, shape (2, 2): adds its ellipses of one and two sigma.
        title: A few words above the picture.

    Raises:
        InputError: If draws are too few or not finite, or the covariance is not positive definite or has no centre.
    """
    figure = _figure(_WIDTH, 3.7)
    _draw_plane(figure.add_subplot(), delta, maximum_likelihood, covariance, title)
    return figure


@_styled
def sky_regions(
    directions: Draws,
    title: str = "",
    axis: bool = False,
    marks: Mapping[str, Sequence[float]] | None = None,
    frame_label: str = "equatorial, J2000",
) -> Figure:
    """68 and 95 % regions of a direction, in Mollweide's projection centred on RA 180 degrees, RA to the left.

    The density is a histogram on the ring grid, smoothed with a von Mises-Fisher kernel.

    Args:
        directions: Vectors (x, y, z) with x towards RA 0, y towards RA 6h, z towards the North pole, of any length but
            zero; shape (draw, 3) or (chain, draw, 3).
        title: A few words above the map.
        axis: The sign of the vectors has no meaning: regions hold the axis, and are drawn at both of its ends.
        marks: Other directions, name -> (right ascension, declination) [deg].
        frame_label: The frame of the coordinates.

    Raises:
        InputError: If draws are too few, not finite, or zero, or a mark is not a direction in degrees.
    """
    figure = _figure(_WIDTH, 3.35)
    _draw_sky_regions(figure.add_subplot(projection="mollweide"), directions, title, axis, marks, frame_label)
    return figure


@_styled
def power_bands(
    l: np.ndarray,
    power: Draws,
    prior_power: Draws | None = None,
    fitted: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Angular power: median, 68 and 95 % of C_l at each degree, on a logarithmic axis.

    Args:
        l: Degrees, shape (l,).
        power: C_l of the relative intensity, shape (draw, l) or (chain, draw, l); positive.
        prior_power: The same drawn from the prior: its 68 and 95 % in grey.
        fitted: Estimates of C_l, shape (l,); those that are not positive are not drawn.
        noise: C_l of an isotropic sky with the same events, shape (l,).
        title: A few words above the picture.

    Raises:
        InputError: If shapes differ, draws are too few, or a C_l is not finite and positive.
    """
    l = np.asarray(l)
    curves = [("C_l", power, _BLUE, 0.62), ("the prior's C_l", prior_power, _GREY, 0.9)]
    pooled = [(_pooled(c, what, (l.size,)), colour, width) for what, c, colour, width in curves if c is not None]
    for draws, _, _ in pooled:
        if np.any(draws <= 0):
            raise InputError(
                f"{np.sum(draws <= 0)} draws of C_l are not positive, and the axis is logarithmic; leave that l out"
            )
    for what, curve in (("fitted C_l", fitted), ("noise", noise)):
        if curve is not None and np.shape(curve) != l.shape:
            raise InputError(f"the {what} has shape {np.shape(curve)}, but there are {l.size} degrees; give one per l")

    figure = _figure(_WIDTH, 3.4)
    axes = figure.add_subplot()
    axes.set_yscale("log")
    handles, ends = [], []
    for order, (draws, colour, width) in enumerate(pooled):
        whose = ("Posterior", "Prior")[order]
        for share, opacity in zip(_REGIONS[::-1], _OPACITY[::-1], strict=True):
            low, high = np.quantile(draws, [(1 - share) / 2, (1 + share) / 2], axis=0)
            label = f"{whose}, {100 * share:.0f} %"
            style = {"color": _tint(colour, opacity), "linewidth": 0, "label": label, "zorder": 2 - order}
            handles.append(axes.bar(l, high - low, width, low, **style))
            ends += [low.min(), high.max()]
        if order == 0:
            middle = np.median(draws, axis=0)
            style = {"color": colour, "label": "Posterior, median", "zorder": 3}
            handles.insert(0, axes.hlines(middle, l - width / 2, l + width / 2, **style))
    if fitted is not None:
        shown = np.where(np.asarray(fitted) > 0, fitted, np.nan)
        handles += axes.plot(l, shown, "o", color=_BLACK, markersize=4.5, label="Fit", zorder=4)
        ends += list(shown[np.isfinite(shown)])
    if noise is not None:
        style = {"color": _VERMILION, "linestyle": "--", "linewidth": 1.2, "label": "Noise", "zorder": 3}
        handles.append(axes.hlines(noise, l - 0.45, l + 0.45, **style))
        ends += list(np.asarray(noise)[np.asarray(noise) > 0])
    axes.set_ylim(min(ends) / 1.6, max(ends) * 1.6)
    axes.set_xlim(l.min() - 0.7, l.max() + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set_xlabel(r"Degree $l$")
    axes.set_ylabel(r"$C_l$ of the relative intensity")
    axes.set_title(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.4, columnspacing=1.2)
    return figure


@_styled
def predictive_check(
    observed: np.ndarray,
    predicted: Draws,
    kind: str = "right ascension",
    variance: np.ndarray | None = None,
    expected: bool = False,
    title: str = "",
    max_bins: int = 72,
) -> Figure:
    """Observed counts per bin over the mean of those predicted, with the 68 and 95 % of the prediction, and pulls.

    The pull is (observed - mean) / standard deviation of the predicted counts. A fit that had these very counts draws
    its prediction towards them: pulls then scatter by less than one.

    Args:
        observed: Counts (or sums of weights) in equal bins from 0 to 360 degrees or 0 to 24 hours, shape (bin,).
        predicted: Posterior predictive counts, with their Poisson scatter, shape (draw, bin) or (chain, draw, bin).
            Bins where every draw predicts nothing are left out.
        kind: "right ascension", or the frame of local time: "sidereal", "solar", "antisidereal", "extended-sidereal".
        variance: Variance of the observed counts, for their error bars; the counts (Poisson) by default.
        expected: `predicted` holds expected counts without the scatter of Poisson, which is then added to each draw
            (with a fixed seed).
        title: A few words above the picture.
        max_bins: Neighbouring bins are added until there are at most so many.

    Raises:
        InputError: If shapes differ, draws are too few, counts are negative or not finite, or the kind is unknown.
    """
    figure = _figure(_WIDTH, 4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    _draw_check(top, bottom, observed, predicted, kind, variance, expected, title, max_bins)
    return figure


@_styled
def rate_band(
    rate: Draws,
    time_counts: np.ndarray | None = None,
    time_frame: str = "sidereal",
    dead: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Posterior of the relative rate in local time: median, 68 and 95 %, with the counts as points.

    The counts are those of rate times sky: they follow the rate up to what the sky adds.

    Args:
        rate: Rate of each time bin in any unit, shape (draw, time) or (chain, draw, time); positive where alive. Every
            draw is divided by its mean over the live bins. The models' log_rate is ln(N / N_isotropic): give the
            rate N itself.
        time_counts: Observed counts, shape (time,), divided by their own mean; errors are those of Poisson.
        time_frame: "sidereal", "solar", "antisidereal" or "extended-sidereal".
        dead: True where a bin has no livetime. Default: none.
        title: A few words above the picture.

    Raises:
        InputError: If shapes differ, draws are too few or not finite, no bin is alive, or the time frame is unknown.
    """
    figure = _figure(_WIDTH, 3.3)
    _draw_rate_band(figure.add_subplot(), rate, time_counts, time_frame, dead, title)
    return figure


@_styled
def ranks(values: Mapping[str, Draws], labels: Mapping[str, str] | None = None, bins: int | None = None) -> Figure:
    """Ranks of each chain's draws among those of all chains: flat where the chains agree.

    Histograms of ranks over their expectation, after Vehtari et al. (2021), Bayesian Analysis 16, 667. The grey band
    holds all bins of all chains of one parameter in 95 of 100 cases, if draws were independent; thin the chains to
    their effective size before (values[:, ::k]).

    Args:
        values: Draws of each parameter, shape (chain, draw); at most eight.
        labels: Names for the panels; the keys by default.
        bins: Of the histogram; about ten draws of each chain per bin, at most 20, by default.

    Raises:
        InputError: If an array is not (chain, draw) of at least two chains, or draws are too few or not finite.
    """
    if not 1 <= len(values) <= MOST_PARAMETERS:
        raise InputError(f"a figure of ranks shows 1 to {MOST_PARAMETERS} parameters, not {len(values)}; choose")
    _require_known(labels or (), values)
    for name, draws in values.items():
        if np.ndim(draws) != 2 or len(draws) < 2:
            raise InputError(
                f"ranks of {name!r} need draws (chain, draw) of at least 2 chains, not shape {np.shape(draws)}"
            )
        _pooled(draws, f"{name!r}")
    columns = min(2, len(values))
    rows = -(-len(values) // columns)
    figure = _figure(_WIDTH if columns == 1 else 1.5 * _WIDTH, 0.7 + 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, draws) in zip(panels, values.items(), strict=False):
        _draw_ranks(axes, np.asarray(draws), bins)
        axes.set_title((labels or {}).get(name, name))
    for axes in panels[max(len(values) - columns, 0) : len(values)]:
        axes.set_xlabel("Rank among all draws")
    for axes in panels[len(values) :]:
        axes.remove()
    figure.supylabel("Draws / expected", fontsize=11)
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, handlelength=1.4, columnspacing=1.2)
    return figure


@_styled
def trace(
    log_density: Draws, diverging: np.ndarray, num_steps: np.ndarray, energy: Draws | None = None, title: str = ""
) -> Figure:
    """What the sampler did: ln density of each chain with divergences marked, energies, steps per draw.

    The energy of each draw and its change from draw to draw should have like widths; their ratio E-BFMI, the mean
    squared change over the variance, is written for the worst chain (Betancourt 2016, arXiv:1604.00695: low below 0.3).

    Args:
        log_density: ln posterior density (minus the potential energy), shape (chain, draw); shown less its median.
        diverging: Whether the trajectory diverged, same shape.
        num_steps: Leapfrog steps of each draw, same shape.
        energy: Hamiltonian of each draw, same shape.
        title: A few words above the picture.

    Raises:
        InputError: If shapes differ, there are fewer than four draws, or a value is not finite.
    """
    shape = np.shape(log_density)
    given = {"log_density": log_density, "diverging": diverging, "num_steps": num_steps}
    given |= {} if energy is None else {"energy": energy}
    if len(shape) != 2 or shape[1] < 4:
        raise InputError(f"the trace needs log_density (chain, draw) of at least 4 draws, not shape {shape}")
    _require_alike({name: np.shape(array) for name, array in given.items()})
    for name, array in given.items():
        if not np.all(np.isfinite(array)):
            raise InputError(f"{np.sum(~np.isfinite(array))} values of {name} are not finite; sample again from here")
    figure = _figure(1.4 * _WIDTH, 4.6)
    grid = figure.add_gridspec(2, 2 if energy is not None else 1, height_ratios=(1.2, 1))
    _draw_trace(figure.add_subplot(grid[0, :]), np.asarray(log_density), np.asarray(diverging, bool), title)
    _draw_steps(figure.add_subplot(grid[1, -1]), np.asarray(num_steps))
    if energy is not None:
        _draw_energy(figure.add_subplot(grid[1, 0]), np.asarray(energy))
    return figure


@_styled
def bayes_factor_curve(
    scales: np.ndarray,
    log_bayes: np.ndarray,
    maximum: Sequence[float] | None = None,
    p_value: float | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    log10_p: float | None = None,
    scale_label: str = "Prior scale of the dipole",
    title: str = "",
) -> Figure:
    r"""ln B of a dipole against isotropy for each scale of the dipole's prior; above zero the dipole is favoured.

    The right axis shows the odds B : 1. Whatever the prior, a p-value favours the alternative by no more than
    B = 1 / (-e p ln p) for p < 1/e, under the conditions of Sellke, Bayarri & Berger (2001), Am. Stat. 55, 62. It is
    reached by a normal prior of the best scale on two components that are measured equally well.

    Args:
        scales: Standard deviations of the prior, increasing and positive, shape (scale,).
        log_bayes: ln B, same shape.
        maximum: (scale, ln B) of the maximum; the largest of the curve by default.
        p_value: Of the test of isotropy, in (0, 1]; written in the legend with its bound.
        extra: Further curves, name -> ln B, same shape.
        log10_p: log10 of the p-value, in its place where that underflows.
        scale_label: What the scale is, with its unit where it has one.
        title: A few words above the picture.

    Raises:
        InputError: If shapes differ, scales do not increase from above zero, a value is not finite, or the p-value is
            outside (0, 1] or given twice.
    """
    figure = _figure(_WIDTH, 4.0)
    axes = figure.add_subplot()
    _draw_bayes(axes, scales, log_bayes, maximum, p_value, extra, log10_p, scale_label, title)
    return figure


@_styled
def posterior_panel(
    dipole: Mapping[str, Any], sky: Mapping[str, Any], rate: Mapping[str, Any], bayes: Mapping[str, Any]
) -> Figure:
    """One picture of four: (a) dipole plane, (b) regions on the sky, (c) rate, (d) Bayes factor.

    Args:
        dipole: Arguments of `dipole_plane`, by name.
        sky: Arguments of `sky_regions`, by name.
        rate: Arguments of `rate_band`, by name.
        bayes: Arguments of `bayes_factor_curve`, by name.
    """
    figure = _figure(2 * _WIDTH, 7.4)
    left, right = figure.subfigures(1, 2)
    panels = (
        (left.add_subplot(2, 1, 1), _draw_plane, dipole),
        (right.add_subplot(2, 1, 1, projection="mollweide"), _draw_sky_regions, sky),
        (left.add_subplot(2, 1, 2), _draw_rate_band, rate),
        (right.add_subplot(2, 1, 2), _draw_bayes, bayes),
    )
    for letter, (axes, draw, arguments) in zip("abcd", panels, strict=True):
        title = f"({letter}) {arguments.get('title', '')}".rstrip()
        draw(axes, **{**arguments, "title": title})
    return figure


class _Line:
    """Density of one parameter between its 0.1 and 99.9 % quantiles, with the levels of its regions."""

    def __init__(self, x: np.ndarray, name: str):
        low, high = np.quantile(x, [0.001, 0.999])
        if not high > low:
            raise InputError(f"the draws of {name!r} are (almost) all equal to {x[0]:g}; leave it out of the picture")
        cells = 200
        cell = (high - low) / cells
        # Strays must not set the scale.
        spread = np.std(np.clip(x, low, high))
        few = _few(np.clip(x, low, high)) / spread
        square = (few[:, None] - few) ** 2
        reach = few.max() - few, few.min() - few
        width = _kernel_width(square, 1, 6.0, inside=lambda w: ndtr(reach[0] / w) - ndtr(reach[1] / w))
        width = max(width * spread / cell, 1.0)
        counts, edges = np.histogram(x, cells, (low, high))

        def smooth(y):
            return ndimage.gaussian_filter1d(y.astype(float), width, mode="constant", truncate=6)

        inside = smooth(np.ones(cells))
        self.draws, self.x = x, (edges[1:] + edges[:-1]) / 2
        # At an edge the kernel reaches outside, where there may be nothing: a uniform density stays uniform.
        self.density = smooth(counts) / inside / (len(x) * cell)
        own = 1 / (math.sqrt(2 * math.pi) * width * cell * len(x)) / np.interp(x, self.x, inside)
        at = np.interp(x, self.x, self.density, left=0, right=0) - own
        self.levels = [float(np.quantile(at, 1 - share)) for share in _REGIONS]
        self.extent = (low - 0.03 * (high - low), high + 0.03 * (high - low))


class _Plane:
    """Density of two parameters on a grid closed by zeros, and the levels of regions."""

    def __init__(self, xy: np.ndarray, what: str):
        low, high = np.quantile(xy, [0.001, 0.999], axis=0)
        # Strays must not set the scale.
        near = np.clip(xy, low, high)
        covariance = np.cov(near.T)
        if not np.all(high > low) or not np.all(np.diag(covariance) > 0):
            raise InputError(
                f"the draws of {what} are (almost) all equal in one of the two; leave that out of the picture"
            )
        cells = 100
        cell = (high - low) / cells
        # Whitened, with no axis so thin that nothing is left of it.
        values, vectors = np.linalg.eigh(covariance / np.outer(cell, cell))
        few = (_few(near) / cell) @ (vectors / np.sqrt(np.maximum(values, 1.0)))
        square = np.sum((few[:, None] - few[None]) ** 2, axis=-1)
        width = _kernel_width(square, 2, 36.0)
        kernel = width**2 * covariance / np.outer(cell, cell) + np.eye(2)

        k = [2 * np.pi * np.fft.fftfreq(2 * cells)[:, None], 2 * np.pi * np.fft.rfftfreq(2 * cells)[None, :]]
        transfer = np.exp(-0.5 * sum(kernel[i, j] * k[i] * k[j] for i in (0, 1) for j in (0, 1)))

        def smooth(y):
            modes = np.fft.rfft2(y, s=(2 * cells, 2 * cells)) * transfer
            return np.maximum(np.fft.irfft2(modes, s=(2 * cells, 2 * cells))[:cells, :cells], 0.0)

        counts, *_ = np.histogram2d(*xy.T, cells, np.stack([low, high], axis=1))
        inside = smooth(np.ones((cells, cells)))
        density = smooth(counts) / inside / len(xy)
        place = ((xy - low) / cell - 0.5).T
        within = np.all((xy >= low) & (xy <= high), axis=1)
        at = ndimage.map_coordinates(density, place, order=1, mode="nearest")
        peak = 1 / (2 * np.pi * math.sqrt(np.linalg.det(kernel)) * len(xy))
        own = peak / ndimage.map_coordinates(inside, place, order=1, mode="nearest")
        self.at = np.where(within, at - own, 0.0)
        self.density = np.pad(density, 1)
        self.x, self.y = (low[i] + (np.arange(-1, cells + 1) + 0.5) * cell[i] for i in (0, 1))

    def levels(self, shares: Sequence[float]) -> list[float]:
        return _levels(self.at, self.density, shares)


class _Sphere:
    """Density of a direction (or of an axis, at both of its ends) on a ring grid [1/sr], and the levels of regions."""

    def __init__(self, directions: np.ndarray, axis: bool):
        few = _few(directions, 1000)
        cosine = few @ few.T
        # Cells of half a degree carry kernels of one degree and more: what is narrower is a dot on the map anyway.
        width = _kernel_width(2 - 2 * (np.abs(cosine) if axis else cosine), 2, 4 * np.pi, np.geomspace(0.017, 0.5, 12))
        rings = 180 if width > 0.035 else 360
        self.grid = RingGrid(rings, 2 * rings)
        ends = np.concatenate([directions, -directions]) if axis else directions
        dec, ra = np.arcsin(np.clip(ends[:, 2], -1, 1)), np.arctan2(ends[:, 1], ends[:, 0])
        cells = self.grid.ring_of(dec) * self.grid.n_ra + self.grid.bin_of(ra)
        counts = np.bincount(cells, minlength=rings * self.grid.n_ra).reshape(self.grid.shape)
        self.density, peak = _smooth_sphere(counts / len(ends), self.grid, width)
        self.at = interpolate(self.density, self.grid, dec, ra) - peak / len(ends)

    def levels(self, shares: Sequence[float]) -> list[float]:
        return _levels(self.at, self.density, shares)

    def closed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Right ascension from 0 to 2 pi and declination from pole to pole, both included, and the density there."""
        seam = (self.density[:, :1] + self.density[:, -1:]) / 2
        density = np.concatenate([seam, self.density, seam], axis=1)
        poles = [np.full((1, density.shape[1]), ring.mean()) for ring in self.density[[0, -1]]]
        ra = np.concatenate([[0.0], self.grid.right_ascension, [2 * np.pi]])
        dec = np.concatenate([[-np.pi / 2], self.grid.declination, [np.pi / 2]])
        return ra, dec, np.concatenate([poles[0], density, poles[1]])


def _smooth_sphere(shares: np.ndarray, grid: RingGrid, width: float) -> tuple[np.ndarray, float]:
    """A map (ring, ra) convolved with the von Mises-Fisher density of concentration width^-2, and its peak [1/sr]."""
    concentration = width**-2
    peak = concentration / (2 * np.pi * -math.expm1(-2 * concentration))
    dec = grid.declination
    cosine = np.cos(np.arange(grid.n_ra // 2 + 1) * grid.step)
    modes = np.fft.rfft(shares, axis=1)
    smoothed = np.empty_like(modes)
    for ring in range(grid.n_ring):
        near = np.flatnonzero(np.abs(dec - dec[ring]) < 7 * width)
        along = np.sin(dec[ring]) * np.sin(dec[near, None]) + np.cos(dec[ring]) * np.cos(dec[near, None]) * cosine
        # The kernel is even in right ascension: its Fourier transform is real.
        window = np.fft.hfft(np.exp(concentration * (along - 1)), grid.n_ra)[:, : cosine.size]
        smoothed[ring] = np.sum(window * modes[near], axis=0)
    return np.maximum(np.fft.irfft(smoothed, n=grid.n_ra, axis=1) * peak, 0.0), peak


def _kernel_width(
    square: np.ndarray,
    dimensions: int,
    volume: float,
    candidates: np.ndarray | None = None,
    inside: Callable[[float], np.ndarray] | None = None,
) -> float:
    """The widest Gaussian kernel that predicts draws from those of other stretches of the chains as well as any.

    Likelihood cross-validation, with each fifth of the draws left out: neighbours in a chain are alike. As well as
    any: within two standard errors of the best.

    Args:
        square: Squared distances of the draws, in their order, shape (draw, draw).
        dimensions: Of the space.
        volume: That the draws fill: one in a hundred may lie anywhere in it, so that strays do not decide.
        candidates: Widths to choose from; by default fractions of Scott's rule for draws of unit variance.
        inside: Share of the kernel at each draw, of a given width, that lies where there may be draws; all by default.
    """
    n = len(square)
    if candidates is None:
        candidates = n ** (-1 / (dimensions + 4)) * np.geomspace(1, 0.04, 11)
    block = np.arange(n) * 5 // n
    other = block[:, None] != block
    stray = 0.01 * (2 * np.pi) ** (dimensions / 2) / volume

    def score(width):
        kernel = np.where(other, np.exp(-0.5 * square / width**2), 0).sum(axis=1) / other.sum(axis=1)
        if inside is not None:
            kernel = kernel / inside(width)
        return np.log(kernel / width**dimensions + stray)

    scores = np.stack([score(width) for width in candidates])
    short = scores[np.argmax(scores.mean(axis=1))] - scores
    good = short.mean(axis=1) <= 2 * short.std(axis=1) / math.sqrt(n)
    return float(np.max(np.asarray(candidates)[good]))


def _levels(at: np.ndarray, density: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Levels of the density, largest first, that these shares of the draws exceed; between zero and the peak."""
    peak = density.max()
    levels = np.clip(np.quantile(at, 1 - np.asarray(shares)), 1e-6 * peak, (1 - 1e-6) * peak)
    return [float(level) for level in levels]


def _few(draws: np.ndarray, most: int = 500) -> np.ndarray:
    """At most so many of the draws, evenly from all chains, in their order."""
    return draws[np.linspace(0, len(draws) - 1, min(most, len(draws))).astype(int)]


def _pooled(values: np.ndarray, what: str, trailing: tuple[int, ...] = (), least: int = LEAST_DRAWS) -> np.ndarray:
    """Draws of all chains on one axis, (draw, *trailing), checked."""
    values = np.asarray(values, float)
    lead = values.shape[: values.ndim - len(trailing)]
    if not lead or values.shape[len(lead) :] != trailing:
        wanted = ", ".join(("draw", *map(str, trailing)))
        raise InputError(f"{what} must be draws ({wanted}) or (chain, {wanted}), not an array of shape {values.shape}")
    values = values.reshape(math.prod(lead), *trailing)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.size:
        raise InputError(
            f"{bad.size} of {len(values)} draws of {what} are not finite, the first is draw {bad[0]}; "
            "leave out what the model does not define"
        )
    if len(values) < least:
        raise InputError(f"{len(values)} draws of {what} are too few for a picture of regions: draw {least} or more")
    return values


def _require_alike(shapes: Mapping[str, tuple[int, ...]]) -> None:
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise InputError(
                f"{name} has shape {shape}, but {first} has {shapes[first]}; give the same draws of the same chains"
            )


def _require_known(given: Collection[str], names: Collection[str]) -> None:
    for name in given:
        if name not in names:
            raise InputError(f"no parameter {name!r} is drawn; there are {', '.join(names)}")


def _unwound(x: np.ndarray, turn: float) -> tuple[np.ndarray, float]:
    """Angles on a circle cut in the middle of its emptiest stretch, and where that is, between zero and a turn."""
    ordered = np.sort(x % turn)
    gaps = np.diff(ordered, append=ordered[0] + turn)
    widest = int(np.argmax(gaps))
    start = (ordered[widest] + gaps[widest] / 2) % turn
    if gaps[widest] < 0.03 * turn:
        counts = np.histogram(ordered, 72, (0, turn))[0].astype(float)
        start = np.argmin(ndimage.gaussian_filter1d(counts, 4, mode="wrap")) / 72 * turn
    return start + (x - start) % turn, start


def _wound(prior, start: float, turn: float):
    if callable(prior):
        return lambda x: prior(x % turn)
    return start + (np.asarray(prior, float) - start) % turn


def _in_lines(label: str) -> str:
    """The unit on a line of its own, and long names on two: neighbours are near."""
    name, bracket, unit = label.partition(" [")
    name = name if "$" in name else textwrap.fill(name, 14)
    return f"{name}\n[{unit}" if bracket else name


def _few_ticks(axis, limits: np.ndarray, turn: float | None, factor: float) -> None:
    """A few ticks away from the ends, where those of the neighbouring panel begin."""
    low, high = limits
    margin = 0.1 * (high - low)
    ticks = MaxNLocator(4).tick_values(low, high)
    axis.set_ticks(ticks[(ticks > low + margin) & (ticks < high - margin)])
    if turn is not None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value % (turn * factor):.6g}"))


def _draw_marginal(axes: Axes, line: _Line, power: int, prior, dominated: bool, turn: float | None) -> None:
    """One parameter: density, regions, prior, and median with the central 68 % above, in units of the axis."""
    colour, factor = _GREY if dominated else _BLUE, 10.0**-power
    x, density = line.x * factor, line.density / factor
    for level, opacity in zip(line.levels, _OPACITY, strict=True):
        inside = line.density >= level
        axes.fill_between(x, 0, density, where=inside, color=colour, alpha=opacity, linewidth=0)
    axes.plot(x, density, color=colour, linewidth=1.2)
    top = density.max()
    if prior is not None:
        if callable(prior):
            curve = np.asarray(prior(line.x), float)
        else:
            own = _Line(_pooled(prior, "the prior"), "prior")
            curve = np.interp(line.x, own.x, own.density, left=0, right=0)
        axes.plot(x, curve / factor, color=_PRIOR, linewidth=0.8, label="Prior")
        top = max(top, min(np.max(curve / factor), 1.5 * top))
    axes.set_ylim(0, 1.08 * top)
    axes.set_yticks([])
    if dominated:
        axes.set_title("prior-dominated", fontsize=9, color="0.35")
        return
    low, middle, high = np.quantile(line.draws, [0.16, 0.5, 0.84]) * factor
    shown = middle if turn is None else middle % (turn * factor)
    axes.set_title(_interval(shown, high - middle, middle - low), fontsize=10)


def _interval(middle: float, above: float, below: float) -> str:
    """Value and errors with two digits of the smaller error."""
    least = min(above, below)
    digits = int(np.clip(1 - math.floor(math.log10(least)), 0, 6)) if least > 0 else 2
    return rf"${middle:.{digits}f}^{{+{above:.{digits}f}}}_{{-{below:.{digits}f}}}$"


def _draw_regions(axes: Axes, plane: _Plane, shares: Sequence[float], colour: str) -> None:
    """Filled and outlined regions, the outermost first, each with its share as gid."""
    _fill(axes, plane.x, plane.y, plane.density.T, plane.levels(shares), shares, colour)


def _fill(axes, x, y, density, levels, shares, colour) -> None:
    top = 1.01 * density.max()
    for level, share, opacity in reversed(list(zip(levels, shares, _OPACITY, strict=True))):
        name = f"{100 * share:.0f} %"
        axes.contourf(x, y, density, [level, top], colors=[to_rgba(colour, opacity)]).set_gid(name)
        axes.contour(x, y, density, [level], colors=[colour], linewidths=1.0).set_gid(f"outline {name}")


def _region_handles(shares: Sequence[float], colour: str, prefix: str = "") -> list[Patch]:
    return [
        Patch(facecolor=to_rgba(colour, opacity), edgecolor=colour, label=f"{prefix}{100 * share:.0f} %")
        for share, opacity in zip(shares, (0.6, 0.2), strict=True)
    ]


def _draw_plane(
    axes: Axes,
    delta: np.ndarray,
    maximum_likelihood: Sequence[float] | np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    title: str = "",
) -> None:
    draws = _pooled(delta, "the dipole", (2,))
    circles = []
    if maximum_likelihood is not None and np.shape(maximum_likelihood) != (2,):
        raise InputError(f"maximum_likelihood is (delta_0h, delta_6h), not of shape {np.shape(maximum_likelihood)}")
    if covariance is not None:
        if maximum_likelihood is None:
            raise InputError("the ellipse of the likelihood needs its centre; give maximum_likelihood too")
        if np.shape(covariance) != (2, 2):
            raise InputError(f"the covariance of (delta_0h, delta_6h) is 2 x 2, not of shape {np.shape(covariance)}")
        try:
            root = np.linalg.cholesky(np.asarray(covariance, float))
        except np.linalg.LinAlgError:
            raise InputError(
                f"the covariance of the dipole must be positive definite, not {np.asarray(covariance).tolist()}; "
                "the fit it comes from has probably not converged"
            ) from None
        angle = np.linspace(0, 2 * np.pi, 361)
        unit = root @ np.stack([np.cos(angle), np.sin(angle)])
        circles = [np.asarray(maximum_likelihood, float)[:, None] + radius * unit for radius in (1, 2)]
    corners = [np.quantile(draws, [0.005, 0.995], axis=0).T, *circles]
    if maximum_likelihood is not None:
        corners.append(np.asarray(maximum_likelihood, float)[:, None])
    corners = np.concatenate(corners, axis=1)
    # Isotropy is shown unless the posterior would be a dot then.
    spread = np.max(corners.max(axis=1) - corners.min(axis=1))
    isotropic = np.max(np.abs(corners)) < 8 * spread
    if isotropic:
        corners = np.concatenate([corners, np.zeros((2, 1))], axis=1)
    power, extent = _scaled(corners)
    factor = 10.0**-power

    handles = []
    if isotropic:
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.axvline(0, color="0.5", linewidth=0.8)
        style = {"color": _BLACK, "markersize": 10, "markeredgewidth": 1.6, "linestyle": "none"}
        handles += axes.plot(0, 0, "+", label="Isotropy", **style)
    _draw_regions(axes, _Plane(draws * factor, "the dipole"), _SIGMAS, _BLUE)
    handles += _region_handles(_SIGMAS, _BLUE, "Posterior, ")
    for radius, circle in enumerate(circles, start=1):
        lines = axes.plot(*(circle * factor), color=_VERMILION, linewidth=1.2, linestyle=("-", "--")[radius - 1])
        lines[0].set_label(rf"Likelihood, {radius}$\sigma$")
        handles += lines
    if maximum_likelihood is not None:
        style = {"color": _VERMILION, "markersize": 6, "markeredgecolor": "white", "linestyle": "none", "zorder": 5}
        handles += axes.plot(*np.asarray(maximum_likelihood, float) * factor, "D", label="Maximum\nlikelihood", **style)
    # As in plots.dipole_ellipse: a strip to the right is kept for the legend, and scales stay equal.
    low, high = extent.min(axis=1), extent.max(axis=1)
    middle, half, strip = (low + high) / 2, 0.58 * np.max(high - low), 0.55
    axes.set_xlim(middle[0] - half, middle[0] + half * (1 + 2 * strip))
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_box_aspect(1 / (1 + strip))
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(_with_power(r"$\delta_{0\mathrm{h}}$", power))
    axes.set_ylabel(_with_power(r"$\delta_{6\mathrm{h}}$", power))
    axes.set_title(title)
    axes.legend(handles=handles, loc="upper right", handlelength=1.3)


def _draw_sky_regions(
    axes: Axes,
    directions: np.ndarray,
    title: str = "",
    axis: bool = False,
    marks: Mapping[str, Sequence[float]] | None = None,
    frame_label: str = "equatorial, J2000",
) -> None:
    vectors = _pooled(directions, "the direction", (3,))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.all(length > 0):
        raise InputError(f"{np.sum(length == 0)} draws of the direction are zero, which point nowhere; leave them out")
    vectors = vectors / length
    sphere = _Sphere(vectors, axis)
    levels = sphere.levels(_REGIONS)
    ra, dec, density = sphere.closed()
    _fill(axes, np.pi - ra[::-1], dec, density[:, ::-1], levels, _REGIONS, _BLUE)

    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), labels=[])
    axes.set_yticks(np.radians(np.arange(-60, 61, 30)), labels=[])
    axes.set_longitude_grid_ends(90)
    axes.grid(color="0.35", linewidth=0.4, alpha=0.6)
    for degrees in range(0, 361, 60):
        offset, align = {0: (5, "left"), 360: (-5, "right")}.get(degrees, (0, "center"))
        _note(axes, np.pi - np.radians(degrees), 0.0, f"{degrees}°", (offset, -1 if offset else -7), align)
    for degrees in (-60, -30, 30, 60):
        text = f"{degrees:+d}°".replace("-", "−")
        _note(axes, -np.pi, np.radians(degrees), text, (-5, 4 * np.sign(degrees)), "right")

    handles = _region_handles(_REGIONS, _BLUE)
    middle = np.linalg.eigh(vectors.T @ vectors)[1][:, -1] if axis else vectors.mean(axis=0)
    middle = middle / max(np.linalg.norm(middle), 1e-300)
    place = np.arcsin(np.clip(middle[2], -1, 1)), np.arctan2(middle[1], middle[0])
    # Between two spots, or within a ring, the mean points where the direction is not: it is left out then.
    if interpolate(sphere.density, sphere.grid, *map(np.asarray, place)) >= levels[-1]:
        handles.append(_draw_mark(axes, middle, axis, "+", _VERMILION, f"Mean {'axis' if axis else 'direction'}"))
    for index, (name, mark) in enumerate((marks or {}).items()):
        point = np.asarray(mark, float)
        if point.shape != (2,) or not np.all(np.isfinite(point)) or abs(point[1]) > 90:
            raise InputError(f"the mark {name!r} needs (right ascension, declination) in degrees, not {mark}")
        a, d = np.radians(point)
        vector = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
        handles.append(_draw_mark(axes, vector, False, "oDs^v"[index % 5], _OTHERS[index % 5], name))
    axes.set_title(title)
    axes.set_xlabel(f"Right ascension [deg] ({frame_label})")
    axes.set_ylabel("Declination [deg]", labelpad=30)
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=min(len(handles), 3),
        frameon=False,
        handlelength=1.3,
        columnspacing=1.2,
    )


def _draw_mark(axes: Axes, vector: np.ndarray, both: bool, marker: str, colour: str, label: str) -> Line2D:
    ends = np.stack([vector, -vector] if both else [vector])
    x, y = _mollweide(np.arctan2(ends[:, 1], ends[:, 0]), np.arcsin(np.clip(ends[:, 2], -1, 1)))
    style = {"color": colour, "markersize": 7, "linestyle": "none", "zorder": 5}
    # A cross leaves a small region visible beneath it.
    style |= {"markeredgewidth": 1.5} if marker == "+" else {"markeredgecolor": "white"}
    return axes.plot(x, y, marker, label=label, **style)[0]


def _draw_check(top, bottom, observed, predicted, kind, variance, expected, title, max_bins) -> None:
    observed = np.asarray(observed, float)
    n = observed.size
    if kind != "right ascension" and kind not in TIME_FRAMES:
        raise InputError(f"unknown kind of bins {kind!r}: choose right ascension or one of {', '.join(TIME_FRAMES)}")
    draws = _pooled(predicted, "the predicted counts", (n,))
    variance = observed if variance is None else np.asarray(variance, float)
    if variance.shape != observed.shape:
        raise InputError(f"the variance has shape {variance.shape}, the observed counts have {observed.shape}")
    for what, values in (("observed", observed), ("predicted", draws), ("variance", variance)):
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise InputError(f"the {what} counts hold negative or non-finite values; set bins without data to zero")
    group = next(size for size in range(1, n + 1) if n % size == 0 and n // size <= max(max_bins, 1))

    def add(x):
        return x.reshape(*x.shape[:-1], -1, group).sum(axis=-1)

    observed, variance, draws = add(observed), add(variance), add(draws)
    if expected:
        draws = np.random.default_rng(0).poisson(draws).astype(float)
    mean, spread = draws.mean(axis=0), draws.std(axis=0)
    seen = (mean > 0) & (spread > 0)
    if not np.any(seen):
        raise InputError("the predicted counts are zero or the same in every draw; give posterior predictive counts")

    def relative(x):
        return np.divide(x, mean, out=np.full(np.shape(x), np.nan), where=seen)

    bands = {share: relative(np.quantile(draws, [(1 - share) / 2, (1 + share) / 2], axis=0)) - 1 for share in _REGIONS}
    ratio, error = relative(observed) - 1, relative(np.sqrt(variance))
    power, _ = _scaled(np.concatenate([*bands[0.95], ratio - error, ratio + error]))
    factor, end = 10.0**-power, 360.0 if kind == "right ascension" else 24.0
    edges = np.linspace(0, end, len(mean) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    top.axhline(0, color="0.5", linewidth=0.8)
    for share, opacity in zip(_REGIONS[::-1], _OPACITY[::-1], strict=True):
        low, high = bands[share] * factor
        label = f"Predicted, {100 * share:.0f} %"
        top.stairs(high, edges, baseline=low, fill=True, color=_BLUE, alpha=opacity, linewidth=0, label=label)
    many = len(mean) > 40
    style = {"fmt": "o", "color": _BLACK, "markersize": 2 if many else 3.5, "elinewidth": 0.7 if many else 1.0}
    top.errorbar(centres[seen], ratio[seen] * factor, error[seen] * factor, label="Observed", **style)
    _set_headroom(top, 0.2)
    top.set_ylabel(_with_power("Counts / predicted − 1", power))
    top.set_title(title)
    top.legend(loc="upper center", ncols=3, handlelength=1.4, columnspacing=1.2)

    pull = np.divide(observed - mean, spread, out=np.full(len(mean), np.nan), where=seen)
    for width in (2, 1):
        bottom.axhspan(-width, width, color="0.5", alpha=0.18, linewidth=0)
    bottom.axhline(0, color="0.5", linewidth=0.8)
    bottom.plot(centres, pull, "o", color=_BLACK, markersize=2 if many else 3.5)
    reach = max(3.2, 1.15 * np.nanmax(np.abs(pull)))
    bottom.set_ylim(-reach, reach)
    bottom.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    bottom.set_ylabel(r"Pull [$\sigma$]")
    if kind == "right ascension":
        bottom.set_xlim(360, 0)
        bottom.set_xticks(range(0, 361, 60))
        bottom.set_xlabel("Right ascension [deg]")
    else:
        bottom.set_xlim(0, 24)
        bottom.set_xticks(range(0, 25, 4))
        bottom.set_xlabel(f"Local {kind} time [h]")


def _draw_rate_band(
    axes: Axes,
    rate: np.ndarray,
    time_counts: np.ndarray | None = None,
    time_frame: str = "sidereal",
    dead: np.ndarray | None = None,
    title: str = "",
) -> None:
    if time_frame not in TIME_FRAMES:
        raise InputError(f"unknown time frame {time_frame!r}; choose one of {', '.join(TIME_FRAMES)}")
    n = np.shape(rate)[-1] if np.ndim(rate) else 0
    draws = _pooled(rate, "the rate", (n,))
    live = np.ones(n, bool) if dead is None else ~np.asarray(dead, bool)
    for what, values in (("dead", dead), ("time_counts", time_counts)):
        if values is not None and np.shape(values) != (n,):
            raise InputError(f"{what} has shape {np.shape(values)}, but the rate has {n} time bins; give one per bin")
    if not np.any(live) or np.any(draws[:, live] <= 0):
        raise InputError("the rate must be positive in every live bin, and one bin must be alive; mark dead bins")
    draws = draws / draws[:, live].mean(axis=1, keepdims=True) - 1
    low95, low, middle, high, high95 = np.quantile(draws, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    curves = [low95, low, middle, high, high95]
    if time_counts is not None:
        counts = np.asarray(time_counts, float)
        if not np.all(np.isfinite(counts[live])) or np.any(counts[live] < 0) or not np.any(counts[live] > 0):
            raise InputError("the time counts hold negative or non-finite values, or no counts at all; check the bins")
        mean = counts[live].mean()
        points, error = counts / mean - 1, np.sqrt(np.where(live, counts, 0)) / mean
        curves += [points - error, points + error]
    power, curves = _scaled(np.where(live, np.stack(curves), np.nan))
    edges = np.linspace(0, 24, n + 1)
    axes.axhline(0, color="0.5", linewidth=0.8)
    for lower, upper, share, opacity in ((0, 4, 95, _OPACITY[1]), (1, 3, 68, _OPACITY[0])):
        style = {"fill": True, "color": _BLUE, "alpha": opacity, "linewidth": 0}
        axes.stairs(curves[upper], edges, baseline=curves[lower], label=f"Rate, {share} %", **style)
    axes.stairs(curves[2], edges, baseline=None, color=_BLUE, linewidth=1.0)
    if time_counts is not None:
        middles, height = (curves[5] + curves[6]) / 2, (curves[6] - curves[5]) / 2
        style = {"fmt": "o", "color": _BLACK, "markersize": 2 if n > 40 else 3.5, "elinewidth": 0.7}
        axes.errorbar(((edges[1:] + edges[:-1]) / 2)[live], middles[live], height[live], label="Counts", **style)
    for index, place in enumerate(np.flatnonzero(~live)):
        label = "No livetime" if index == 0 else None
        axes.axvspan(edges[place], edges[place + 1], facecolor=_UNEXPOSED, linewidth=0, label=label)
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 4))
    _set_headroom(axes, 0.22)
    axes.set_xlabel(f"Local {time_frame} time [h]")
    axes.set_ylabel(_with_power("Rate / mean − 1", power))
    axes.set_title(title)
    axes.legend(loc="upper center", ncols=4, handlelength=1.4, columnspacing=1.2)


def _draw_ranks(axes: Axes, draws: np.ndarray, bins: int | None) -> None:
    chains, length = draws.shape
    total = draws.size
    bins = int(np.clip(length // 10, 4, 20)) if bins is None else bins
    if not 2 <= bins <= length:
        raise InputError(f"ranks need 2 to {length} bins (the draws of a chain), not {bins}")
    rank = stats.rankdata(draws).reshape(draws.shape)
    edges = np.rint(np.linspace(0, total, bins + 1)).astype(int)
    size = np.diff(edges)
    # Of the `size` ranks in a bin each chain has its share, drawn without replacement. All bins and chains at once.
    tail = 0.025 / (bins * chains)
    expected = size * length / total
    low = stats.hypergeom.ppf(tail, total, size, length) / expected
    high = stats.hypergeom.ppf(1 - tail, total, size, length) / expected
    style = {"fill": True, "color": "0.5", "alpha": 0.3, "linewidth": 0}
    axes.stairs(high, edges, baseline=low, label="Uniform, 95 %", **style)
    axes.axhline(1, color="0.5", linewidth=0.8)
    highest = high.max()
    for chain in range(chains):
        counts = np.histogram(rank[chain], edges + 0.5)[0] / expected
        label = f"Chain {chain + 1}" if chains <= 9 else None
        axes.stairs(counts, edges, baseline=None, color=_CHAINS[chain % 5], linewidth=1.1, label=label)
        highest = max(highest, counts.max())
    axes.set_xlim(0, total)
    axes.set_ylim(0, 1.1 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_trace(axes: Axes, log_density: np.ndarray, diverging: np.ndarray, title: str) -> None:
    power, shown = _scaled(log_density - np.median(log_density))
    place = np.arange(1, shown.shape[1] + 1)
    for chain, line in enumerate(shown):
        axes.plot(place, line, color=_CHAINS[chain % 5], linewidth=0.5, alpha=0.8)
    number = int(diverging.sum())
    if number:
        _, draw = np.nonzero(diverging)
        label = f"{number} divergence{'s' * (number > 1)}"
        axes.plot(draw + 1, shown[diverging], "x", color=_VERMILION, markeredgewidth=1.8, label=label, zorder=4)
        axes.legend(loc="lower right")
    axes.set_xlim(1, shown.shape[1])
    axes.set_xlabel("Draw")
    axes.set_ylabel(_with_power("ln density − median", power))
    axes.set_title(title or f"{len(shown)} chain{'s' * (len(shown) > 1)}{', no divergences' * (number == 0)}")


def _draw_energy(axes: Axes, energy: np.ndarray) -> None:
    centred = (energy - energy.mean(axis=1, keepdims=True)).ravel()
    change = np.diff(energy, axis=1)
    spread = energy.var(axis=1)
    if not np.all(spread > 0):
        raise InputError("the energy of a chain never changes: it has not moved; start it elsewhere")
    ratio = float(np.min(np.mean(change**2, axis=1) / spread))
    edges = np.linspace(*np.quantile(np.concatenate([centred, change.ravel()]), [0.001, 0.999]), 41)
    axes.hist(centred, edges, density=True, color=_BLUE, alpha=0.35, label="Energy − mean")
    axes.hist(change.ravel(), edges, density=True, histtype="step", color=_VERMILION, linewidth=1.2, label="Its change")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.set_yticks([])
    axes.set_xlabel("Energy")
    axes.set_ylabel("Density")
    axes.set_title(f"E-BFMI {ratio:.2f}")
    axes.legend(loc="upper center", ncols=2, handlelength=1.4, columnspacing=1.2)


def _draw_steps(axes: Axes, num_steps: np.ndarray) -> None:
    depth = np.ceil(np.log2(np.maximum(num_steps, 1) + 1)).astype(int).ravel()
    at = np.arange(depth.min(), depth.max() + 1)
    axes.bar(at, 100 * np.bincount(depth)[at] / depth.size, 0.8, color=_BLUE, alpha=0.6)
    axes.set_xlim(at[0] - 1, at[-1] + 1)
    axes.set_xticks(at, labels=[f"{2**k - 1}" for k in at])
    axes.set_xlabel("Steps per draw, at most")
    axes.set_ylabel("Draws [%]")
    axes.set_title(f"Mean {num_steps.mean():.1f} steps")


def _draw_bayes(
    axes: Axes,
    scales: np.ndarray,
    log_bayes: np.ndarray,
    maximum: Sequence[float] | None = None,
    p_value: float | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    log10_p: float | None = None,
    scale_label: str = "Prior scale of the dipole",
    title: str = "",
) -> None:
    scales = np.asarray(scales, float)
    curves = {"Bayes factor": np.asarray(log_bayes, float)} | {
        k: np.asarray(v, float) for k, v in (extra or {}).items()
    }
    if scales.ndim != 1 or scales.size < 2 or not np.all(scales > 0) or not np.all(np.diff(scales) > 0):
        raise InputError("the prior scales must be two or more, positive and increasing; sort them")
    for name, curve in curves.items():
        if curve.shape != scales.shape or not np.all(np.isfinite(curve)):
            raise InputError(
                f"the curve {name!r} needs one finite ln B for each of the {scales.size} prior scales, "
                f"not shape {curve.shape} with {np.sum(~np.isfinite(curve))} non-finite values"
            )
    best = int(np.argmax(curves["Bayes factor"]))
    at, height = (scales[best], curves["Bayes factor"][best]) if maximum is None else map(float, maximum)

    axes.axhline(0, color="0.5", linewidth=0.8)
    for index, (name, curve) in enumerate(curves.items()):
        colour = _BLUE if index == 0 else _OTHERS[(index - 1) % 5]
        axes.plot(scales, curve, color=colour, linestyle="-" if index == 0 else "--", label=name)
    label = rf"Maximum, $\ln B = {height:.1f}$ at ${_power_of_ten(math.log(at))}$"
    axes.plot(at, height, "o", color=_BLUE, markeredgecolor="white", markersize=7, linestyle="none", label=label)
    if p_value is not None or log10_p is not None:
        log_p = _log_p(p_value, log10_p)
        axes.plot([], [], linestyle="none", label=f"$p = {_power_of_ten(log_p)}$ of isotropy")
        if log_p < -1:
            bound = -1 - log_p - math.log(-log_p)
            axes.axhline(
                bound,
                color=_VERMILION,
                linestyle=":",
                linewidth=1.4,
                label=rf"Bound from $p$, $\ln B \leq {bound:.1f}$",
            )
    axes.set_xscale("log")
    axes.set_xlim(scales[0], scales[-1])
    axes.set_xlabel(scale_label)
    axes.set_ylabel(r"$\ln B$ (dipole / isotropy)")
    axes.set_title(title)
    odds = axes.secondary_yaxis("right", functions=(lambda x: x / math.log(10), lambda x: x * math.log(10)))
    odds.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    odds.yaxis.set_major_formatter(FuncFormatter(lambda k, _: f"$10^{{{k:.0f}}}$" if k else "1"))
    odds.set_ylabel("Odds dipole : isotropy")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        ncols=2,
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
    )


def _log_p(p_value: float | None, log10_p: float | None) -> float:
    if p_value is not None and log10_p is not None:
        raise InputError("give the p-value or its logarithm, not both")
    if log10_p is None and not 0 < p_value <= 1:
        raise InputError(f"a p-value lies in (0, 1], not {p_value}; give log10_p where it underflows")
    if log10_p is not None and not -np.inf < log10_p <= 0:
        raise InputError(f"log10 of a p-value is finite and not above 0, not {log10_p}")
    return math.log(p_value) if log10_p is None else log10_p * math.log(10)


def _power_of_ten(log_value: float) -> str:
    """A positive number, given by its natural logarithm, with two digits."""
    if log_value > math.log(0.01):
        return f"{math.exp(log_value):.2g}"
    power = math.floor(log_value / math.log(10))
    mantissa = math.exp(log_value - power * math.log(10))
    if mantissa >= 9.95:
        mantissa, power = mantissa / 10, power + 1
    return rf"{mantissa:.1f} \times 10^{{{power}}}"


def _tint(colour: str, opacity: float) -> tuple[float, ...]:
    """The colour on white, opaque: what lies beneath does not show."""
    return tuple(1 - opacity * (1 - part) for part in to_rgba(colour)[:3])


def _set_headroom(axes: Axes, share: float) -> None:
    """Room above what is drawn, for the legend."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))
