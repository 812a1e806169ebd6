"""Pictures of toys: distribution of the test statistic, chance probability against it, pulls."""

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from .plots import _BLACK, _BLUE, _VERMILION, _WIDTH, _figure, _styled
from .toys import ToyResult
from .toys_report import Observed, _statistics


def figures(isotropic: ToyResult, dipole: ToyResult | None, observed: Observed | None) -> dict[str, Figure]:
    """All pictures by name."""
    return {
        "test_statistic": test_statistic(isotropic, dipole, observed),
        "p_value": chance(isotropic, observed),
        "pulls": pulls(isotropic if dipole is None else dipole),
    }


@_styled
def test_statistic(isotropic: ToyResult, dipole: ToyResult | None, observed: Observed | None) -> Figure:
    """Histogram of the test statistic without and with a dipole, against chi-squared, central and not."""
    figure = _figure(_WIDTH, 3.7)
    axes = figure.add_subplot()
    both = [each for each in (isotropic, dipole) if each is not None]
    values = [each.test_statistics[each.converged] for each in both]
    top = max(float(np.quantile(v, 0.9999)) for v in values) * 1.05
    edges = np.linspace(0, top, 61)
    x = np.linspace(edges[1] / 50, top, 800)
    lowest = min(1 / (len(v) * edges[1]) for v in values)
    for each, found, colour in zip(both, values, (_BLUE, _VERMILION), strict=False):
        plan = each.plan
        label = "isotropic" if plan.isotropic else f"dipole {np.hypot(*plan.dipole):.2g}"
        weights = np.full(len(found), 1 / (len(found) * edges[1]))
        axes.hist(found, edges, weights=weights, color=colour, alpha=0.35, label=f"{len(found)} toys, {label}")
        if plan.isotropic:
            axes.plot(x, stats.chi2(2).pdf(x), color=colour, label=r"$\chi^2$, 2 degrees of freedom")
        else:
            inverse = np.linalg.inv(each.fitted.covariances.mean(axis=0))
            distance = np.array(plan.dipole) @ inverse @ np.array(plan.dipole)
            axes.plot(x, stats.ncx2(2, distance).pdf(x), color=colour, label=r"$\chi^2$, not central")
    if observed is not None and observed.test_statistic < top:
        axes.axvline(observed.test_statistic, color=_BLACK, ls="--", lw=1, label="data")
    axes.set(yscale="log", xlim=(0, top), ylim=(lowest / 2, 1), xlabel="Test statistic", ylabel="Density")
    axes.legend()
    return figure


@_styled
def chance(isotropic: ToyResult, observed: Observed | None) -> Figure:
    """Share of isotropic toys above a test statistic, with the band that chi-squared leaves for so many."""
    figure = _figure(_WIDTH, 3.7)
    axes = figure.add_subplot()
    number = len(isotropic.converged)
    found = np.sort(isotropic.test_statistics[isotropic.converged])[::-1]
    beyond = observed is not None and observed.test_statistic > found[0]
    top = max(float(found[0]), 1.0) * 1.1
    if beyond:
        top = max(top, min(observed.test_statistic * 1.1, 3 * top))
    x = np.linspace(0, top, 400)
    survival = stats.chi2(2).sf(x)
    low, high = stats.binom(number, survival).ppf([[0.025], [0.975]]) / number
    floor = 0.3 / number
    axes.fill_between(x, np.maximum(low, floor), high, color="0.85", lw=0, label="95 % of as many toys")
    axes.plot(x, survival, color=_BLACK, lw=1, label=r"$\chi^2$, 2 degrees of freedom")
    # All of the tail, where each is seen, and some of the rest.
    chosen = np.unique(np.geomspace(1, len(found), 2000).astype(int)) - 1
    above = (chosen + 1 + number - len(found)) / number
    axes.step(found[chosen], above, where="post", color=_BLUE, label=f"{number} toys")
    if observed is not None:
        at = min(observed.test_statistic, top)
        p = (np.sum(_statistics(isotropic) >= observed.test_statistic) + 1) / (number + 1)
        text = f"data, p {'<' if beyond else '='} {p:.2g}"
        axes.axvline(at, color=_VERMILION, ls="--", lw=1)
        axes.plot(at, p, "o", color=_VERMILION, label=text)
    for sigma in range(1, 6):
        p = 2 * stats.norm.sf(sigma)
        if p > floor:
            axes.annotate(rf"{sigma}$\sigma$", (1.01, p), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set(yscale="log", xlim=(0, top), ylim=(floor, 1.2), xlabel="Test statistic", ylabel="Share of skies above")
    axes.legend()
    return figure


@_styled
def pulls(result: ToyResult) -> Figure:
    """Histograms of (estimate - truth) / error of both components, against the normal distribution."""
    figure = _figure(1.6 * _WIDTH, 3.4)
    found, edges = result.fitted.pulls, np.linspace(-5, 5, 81)
    x = np.linspace(-5, 5, 400)
    for k, (axes, name) in enumerate(zip(figure.subplots(1, 2, sharey=True), ("0h", "6h"), strict=True)):
        pull = found[:, k]
        weights = np.full(len(pull), 1 / (len(pull) * (edges[1] - edges[0])))
        axes.hist(np.clip(pull, -5, 5), edges, weights=weights, color=_BLUE, alpha=0.5)
        axes.plot(x, stats.norm.pdf(x), color=_BLACK, lw=1)
        words = f"mean {pull.mean():+.3f}\nwidth {pull.std():.3f}"
        axes.text(0.04, 0.95, words, transform=axes.transAxes, va="top", fontsize=10)
        axes.set(xlim=(-5, 5), xlabel=rf"($\hat\delta_\mathrm{{{name}}}$ - truth) / error")
        axes.set_ylabel("Density" if k == 0 else "")
    figure.suptitle(f"{len(found)} toys, " + ("isotropic" if result.plan.isotropic else "with a dipole"), fontsize=11)
    return figure
