"""Pictures of posteriors: regions hold what they say, sides are the right ones, and bad draws are refused."""

import re
import subprocess
import sys

import healpy
import matplotlib
import numpy as np
import pytest
from diffcr.inference import posterior_plots as pp
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats
from scipy.optimize import brentq

from diffcr.errors import InputError

CHAINS, DRAWS = 4, 400
CENTRE = np.array([8e-4, 3e-4])
COVARIANCE = np.array([[4e-8, -2.4e-8], [-2.4e-8, 2e-8]])
BLUE, VERMILION = "#0072B2", "#D55E00"


def gauss(seed: int = 0, shape=(CHAINS, DRAWS)) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal(CENTRE, COVARIANCE, shape)


def unit(ra_deg, dec_deg) -> np.ndarray:
    return healpy.ang2vec(ra_deg, dec_deg, lonlat=True)


def von_mises_fisher(mean, concentration, number, seed=0) -> np.ndarray:
    return stats.vonmises_fisher(mean, concentration).rvs(number, random_state=seed)


def region(axes: Axes, name: str):
    """The outline of a filled region, as a path in data coordinates."""
    (found,) = [each for each in axes.collections if each.get_gid() == name]
    (path,) = found.get_paths()
    return path


def held(axes: Axes, name: str, points: np.ndarray) -> np.ndarray:
    return region(axes, name).contains_points(points)


def on_map(vectors: np.ndarray) -> np.ndarray:
    """Longitude and latitude on a map centred on RA 180 that increases to the left."""
    ra, dec = healpy.vec2ang(vectors, lonlat=True)
    return np.radians(np.stack([180 - ra, dec], axis=1))


def line(axes: Axes, label: str):
    (found,) = [each for each in axes.lines if str(each.get_label()).startswith(label)]
    return found


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def panels(figure: Figure, n: int) -> dict[tuple[int, int], Axes]:
    """Axes of a corner plot by (row, column)."""
    return dict(zip([(i, j) for i in range(n) for j in range(i + 1)], figure.axes, strict=True))


def some(name: str) -> dict:
    """Small but complete arguments of each picture, with chains apart."""
    rng = np.random.default_rng(5)
    delta = gauss(1, (2, 60))
    scales = np.geomspace(1e-4, 1, 9)
    arguments = {
        "corner": {
            "values": {"a": delta[..., 0], "b": delta[..., 1], "c": rng.normal(size=(2, 60))},
            "labels": {"a": "A [deg]"},
            "truths": {"a": 8e-4, "c": 0.0},
            "prior": {"c": rng.normal(size=(2, 60)), "b": lambda x: np.ones_like(x)},
            "dominated": {"c"},
        },
        "dipole_plane": {"delta": delta, "maximum_likelihood": CENTRE, "covariance": COVARIANCE, "title": "P"},
        "sky_regions": {"directions": rng.normal(size=(2, 60, 3)) + [2, 0, 1], "marks": {"GC": (266.4, -28.9)}},
        "power_bands": {
            "l": np.arange(2, 5),
            "power": np.exp(rng.normal(-16, 1, (2, 60, 3))),
            "prior_power": np.exp(rng.normal(-16, 3, (2, 60, 3))),
            "fitted": np.array([1e-7, -1e-9, 1e-8]),
            "noise": np.full(3, 1e-9),
        },
        "predictive_check": {"observed": rng.poisson(50, 24), "predicted": rng.poisson(50, (2, 60, 24))},
        "rate_band": {
            "rate": np.exp(0.01 * rng.normal(size=(2, 60, 24))),
            "time_counts": rng.poisson(900, 24),
            "dead": np.arange(24) == 5,
        },
        "ranks": {"values": {"a": delta[..., 0], "b": delta[..., 1], "c": delta[..., 0] ** 2}, "labels": {"a": "A"}},
        "trace": {
            "log_density": rng.normal(size=(2, 60)),
            "diverging": rng.random((2, 60)) < 0.05,
            "num_steps": 2 ** rng.integers(1, 5, (2, 60)) - 1,
            "energy": rng.normal(size=(2, 60)),
        },
        "bayes_factor_curve": {
            "scales": scales,
            "log_bayes": -np.log(scales),
            "p_value": 1e-5,
            "extra": {"Other": np.zeros(9)},
        },
    }
    return arguments[name]


PICTURES = (
    "corner",
    "dipole_plane",
    "sky_regions",
    "power_bands",
    "predictive_check",
    "rate_band",
    "ranks",
    "trace",
    "bayes_factor_curve",
)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn_on_its_paper_and_leaves_no_trace_in_matplotlib(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with matplotlib.rc_context({"font.size": 23}):
        before = dict(matplotlib.rcParams)
        figure = getattr(pp, name)(**some(name))
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].xaxis.label.get_fontsize() == 11
    figure.canvas.draw()
    paper = figure.bbox
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            box = text.get_window_extent()
            if text.get_text() and text.get_visible():
                assert paper.x0 <= box.x0 and box.x1 <= paper.x1 and paper.y0 <= box.y0 and box.y1 <= paper.y1, text


def test_pyplot_is_not_imported():
    """In a process of its own: here healpy has brought it."""
    program = """
import sys
import numpy as np
from diffcr.inference import posterior_plots
draws = np.random.default_rng(0).normal(size=(2, 60, 3)) + [2, 0, 0]
posterior_plots.sky_regions(draws).canvas.draw()
posterior_plots.dipole_plane(draws[..., :2])
assert "matplotlib.pyplot" not in sys.modules
"""
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


def test_one_chain_or_several_are_the_same_draws():
    draws = gauss()
    apart, joined = pp.dipole_plane(draws), pp.dipole_plane(draws.reshape(-1, 2))
    for name in ("39 %", "86 %"):
        np.testing.assert_array_equal(region(apart.axes[0], name).vertices, region(joined.axes[0], name).vertices)


@pytest.mark.parametrize("number", [200, CHAINS * DRAWS])
def test_dipole_contours_hold_39_and_86_percent(number):
    """Of new draws from the same Gaussian, seven times longer than wide; areas are those of its ellipses."""
    axes = pp.dipole_plane(gauss(1, number)).axes[0]
    new = gauss(2, 40000) * 1e3

    assert axes.get_xlabel() == r"$\delta_{0\mathrm{h}}$ [$10^{-3}$]"
    for radius, name in ((1, "39 %"), (2, "86 %")):
        share = 1 - np.exp(-(radius**2) / 2)
        assert held(axes, name, new).mean() == pytest.approx(share, abs=0.02 if number > 1000 else 0.07)
        x, y = region(axes, name).to_polygons()[0].T
        area = abs(np.sum(x[1:] * y[:-1] - x[:-1] * y[1:])) / 2
        ellipse = np.pi * radius**2 * np.sqrt(np.linalg.det(COVARIANCE)) * 1e6
        assert area == pytest.approx(ellipse, rel=0.1 if number > 1000 else 0.25)


def test_likelihood_ellipses_lie_one_and_two_sigma_from_its_maximum():
    point = np.array([5e-4, -2e-4])
    axes = pp.dipole_plane(gauss(), point, COVARIANCE).axes[0]

    np.testing.assert_allclose(line(axes, "Maximum").get_xydata(), point[None] * 1e3)
    for radius in (1, 2):
        away = line(axes, f"Likelihood, {radius}").get_xydata() * 1e-3 - point
        square = np.einsum("ai,ij,aj->a", away, np.linalg.inv(COVARIANCE), away)
        np.testing.assert_allclose(square, radius**2, rtol=1e-9)


def test_isotropy_is_shown_unless_the_posterior_would_be_a_dot():
    assert "Isotropy" in legend(pp.dipole_plane(gauss()))
    narrow = CENTRE + 0.01 * (gauss() - CENTRE)
    assert "Isotropy" not in legend(pp.dipole_plane(narrow))
    assert pp.dipole_plane(narrow).axes[0].get_xlim()[0] > 0.79


def test_corner_contours_hold_68_and_95_percent():
    """The columns differ in width and are anticorrelated: exchanged axes or a wrong power of ten hold less."""
    draws, new = gauss(3), gauss(4, 40000) * [1e3, 1e4]
    values = {"a": draws[..., 0], "b": draws[..., 1] / 10}
    axes = panels(pp.corner(values, {"a": "A [sr]", "b": "B"}), 2)[1, 0]

    assert axes.get_xlabel() == "A\n[$10^{-3}$ sr]"
    assert axes.get_ylabel() == "B\n[$10^{-5}$]"
    for share, name in ((0.68, "68 %"), (0.95, "95 %")):
        assert held(axes, name, new * [1, 1]).mean() == pytest.approx(share, abs=0.025)


def test_contours_of_chains_that_remember_hold_what_they_say():
    """An autoregressive chain has a correlation of 0.8 from draw to draw: its neighbours must not narrow the kernel."""
    rng = np.random.default_rng(6)
    draws = np.zeros((4, 1000, 2))
    for k in range(1, 1000):
        draws[:, k] = 0.8 * draws[:, k - 1] + 0.6 * rng.normal(size=(4, 2))
    axes = panels(pp.corner({"a": draws[..., 0], "b": draws[..., 1]}), 2)[1, 0]
    new = rng.normal(size=(40000, 2))
    assert held(axes, "68 %", new).mean() == pytest.approx(0.68, abs=0.04)
    assert len(region(axes, "68 %").to_polygons()) == 1


def test_two_spots_are_not_joined():
    rng = np.random.default_rng(7)
    sign = rng.choice([-1, 1], (4, 400))
    values = {"x": sign * rng.normal(3, 0.2, (4, 400)), "y": rng.normal(size=(4, 400))}
    corner = panels(pp.corner(values), 2)
    assert not held(corner[1, 0], "95 %", np.array([[0.0, 0.0]]))
    np.testing.assert_array_equal(held(corner[1, 0], "68 %", np.array([[3.0, 0.0], [-3.0, 0.0]])), True)


def shaded(axes: Axes, which: int) -> tuple[float, float]:
    """Ends of the shaded part of a marginal: 0 for 68 %, 1 for 95 %."""
    x = np.concatenate([path.vertices[:, 0] for path in axes.collections[which].get_paths()])
    return float(x.min()), float(x.max())


def test_marginals_are_densities_with_their_regions_and_the_prior_on_the_same_scale():
    draws = np.random.default_rng(8).normal(2e-3, 5e-4, (4, 2000))
    prior = stats.norm(0, 2e-3).pdf
    drawn = np.random.default_rng(9).normal(0, 2e-3, 20000)

    for given, tolerance in ((prior, 1e-9), (drawn, 0.06)):
        figure = pp.corner({"a": draws}, prior={"a": given})
        axes = figure.axes[0]
        x, density = axes.lines[0].get_xydata().T
        np.testing.assert_allclose(density, stats.norm(2, 0.5).pdf(x), atol=0.045)
        np.testing.assert_allclose(shaded(axes, 0), (1.5, 2.5), atol=0.07)
        np.testing.assert_allclose(shaded(axes, 1), (2 - 0.98, 2 + 0.98), atol=0.1)
        x, curve = line(axes, "Prior").get_xydata().T
        np.testing.assert_allclose(curve, stats.norm(0, 2).pdf(x), rtol=tolerance, atol=0.012 * (tolerance > 1e-3))
        assert re.fullmatch(r"\$(2\.0[01]|1\.99)\^\{\+0\.(49|50)\}_\{-0\.(49|50)\}\$", axes.get_title())


def test_a_uniform_marginal_stays_uniform_to_its_ends():
    axes = pp.corner({"a": np.random.default_rng(1).random((4, 1000))}).axes[0]
    _, density = axes.lines[0].get_xydata().T
    np.testing.assert_allclose(density, 1, atol=0.2)


def test_the_period_goes_with_the_power_of_ten_of_the_axis():
    """Seconds of the day about midnight, on an axis in units of 10^4 s."""
    seconds = np.random.default_rng(2).normal(86400, 1500, (4, 400)) % 86400
    figure = pp.corner({"t": seconds}, {"t": "Time [s]"}, period={"t": 86400.0})
    figure.canvas.draw()
    axes = figure.axes[0]
    ticks = {float(at): text.get_text() for at, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    assert axes.get_xlabel() == "Time [$10^{4}$ s]"
    assert len({float(text) < 4 for text in ticks.values()}) == 2
    for at, text in ticks.items():
        assert float(text) == pytest.approx(at - 8.64 * (at >= 8.64), abs=1e-4)


def test_strays_do_not_widen_the_kernel():
    draws = np.random.default_rng(2).normal(size=(4, 1000))
    stray = draws.copy()
    stray[0, 17] = 1e6
    axes = pp.corner({"a": stray}).axes[0]
    x, density = axes.lines[0].get_xydata().T
    np.testing.assert_allclose(density, stats.norm.pdf(x), atol=0.05)


def test_prior_dominated_parameters_say_so_and_are_grey():
    draws = gauss()
    corner = panels(pp.corner({"a": draws[..., 0], "b": draws[..., 1]}, dominated={"b"}), 2)

    assert corner[1, 1].get_title() == "prior-dominated"
    assert corner[0, 0].get_title().startswith("$0.8")
    assert corner[0, 0].lines[0].get_color() == BLUE
    assert to_rgb(corner[1, 1].lines[0].get_color()) == to_rgb("0.55")


def test_truths_cross_in_the_right_panel():
    draws = gauss()
    figure = pp.corner({"a": draws[..., 0], "b": draws[..., 1]}, truths={"a": 7e-4, "b": 2e-4})
    corner = panels(figure, 2)

    horizontal, vertical = corner[1, 0].lines
    assert list(horizontal.get_ydata()) == pytest.approx([2, 2])
    assert list(vertical.get_xdata()) == pytest.approx([0.7, 0.7])
    assert list(corner[1, 1].lines[-1].get_xdata()) == pytest.approx([2, 2])
    assert (corner[1, 0].get_xlabel(), corner[1, 0].get_ylabel()) == ("a\n[$10^{-3}$]", "b\n[$10^{-4}$]")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["68 %", "95 %", "Truth"]


def test_an_angle_is_cut_where_it_is_not():
    """Draws about 355 degrees: one peak, with ticks and truth between 0 and 360."""
    angle = np.random.default_rng(2).normal(355, 8, (4, 400)) % 360

    def prior(x):
        return np.where((x >= 0) & (x < 360), 1 / 360, 0.0)

    figure = pp.corner({"RA": angle}, truths={"RA": 2.0}, period={"RA": 360.0}, prior={"RA": prior})
    figure.canvas.draw()

    axes = figure.axes[0]
    low, high = shaded(axes, 0)
    assert high - low == pytest.approx(16, abs=2)
    assert low < axes.lines[-1].get_xdata()[0] < high + 5
    np.testing.assert_allclose(line(axes, "Prior").get_ydata(), 1 / 360)
    ticks = [float(text.get_text()) for text in axes.get_xticklabels()]
    assert min(ticks) < 40 and max(ticks) > 320 and all(0 <= tick < 360 for tick in ticks)
    assert abs(float(axes.get_title()[1:6]) - 355) < 2


def test_a_wide_angle_is_cut_at_its_thinnest():
    angle = np.random.default_rng(3).vonmises(0.0, 0.7, (4, 1000)) % (2 * np.pi)
    x, density = pp.corner({"a": angle}, period={"a": 2 * np.pi}).axes[0].lines[0].get_xydata().T
    assert abs(x[np.argmax(density)] - 2 * np.pi) < 0.5
    assert abs(x[0] - np.pi) < 0.6


@pytest.mark.parametrize(("ra", "dec", "concentration"), [(70, 35, 80.0), (355, -20, 5.0), (200, 88, 30.0)])
def test_sky_region_holds_its_share_and_has_the_area_of_a_cap(ra, dec, concentration):
    """Of a von Mises-Fisher distribution; across the edge of the map and over the pole too.

    A share P lies within the cap of area 2 pi (1 - cos) with 1 - cos = -ln(1 - P (1 - e^(-2 kappa))) / kappa.
    """
    mean = unit(ra, dec)
    axes = pp.sky_regions(von_mises_fisher(mean, concentration, 1600).reshape(4, 400, 3)).axes[0]
    new = on_map(von_mises_fisher(mean, concentration, 20000, seed=1))
    pixels = on_map(np.stack(healpy.pix2vec(64, np.arange(12 * 64**2)), axis=1))

    for share, name in ((0.68, "68 %"), (0.95, "95 %")):
        assert held(axes, name, new).mean() == pytest.approx(share, abs=0.03)
        cap = -np.log1p(-share * -np.expm1(-2 * concentration)) / concentration / 2
        assert held(axes, name, pixels).mean() == pytest.approx(cap, rel=0.1)


def rendered(figure: Figure, ra_deg: float, dec_deg: float) -> np.ndarray:
    """Colour of the picture where the textbook projection puts a direction, RA increasing to the left."""
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(float)
    latitude = np.radians(dec_deg)
    theta = brentq(lambda t: 2 * t + np.sin(2 * t) - np.pi * np.sin(latitude), -np.pi / 2, np.pi / 2)
    x = 0.5 - np.radians(ra_deg - 180) / np.pi * np.cos(theta) / 2
    box = figure.axes[0].get_window_extent()
    return picture[int(box.y0 + box.height * (0.5 + np.sin(theta) / 2)), int(box.x0 + box.width * x)]


def test_east_is_left_and_an_axis_has_two_ends():
    draws = von_mises_fisher(unit(100, 40), 30.0, 800)
    one = pp.sky_regions(draws)
    two = pp.sky_regions(draws * np.random.default_rng(0).choice([-1, 1], 800)[:, None], axis=True)

    # The inner region's colour lies on that of the outer one.
    blue = 255 * (0.55 * (0.8 + 0.2 * np.array(to_rgb(BLUE))) + 0.45 * np.array(to_rgb(BLUE)))
    for figure, ends in ((one, [(108, 47)]), (two, [(108, 47), (288, -47)])):
        for place in [(108, 47), (252, 47), (108, -47), (288, -47)]:
            colour = rendered(figure, *place)
            if place in ends:
                np.testing.assert_allclose(colour, blue, atol=3)
            else:
                np.testing.assert_allclose(colour, 255)


def test_axis_region_holds_the_axis():
    mean = unit(100, 40)
    draws = von_mises_fisher(mean, 50.0, 1600)
    sign = np.random.default_rng(1).choice([-1, 1], 1600)[:, None]
    axes = pp.sky_regions(draws * sign, axis=True).axes[0]
    new = von_mises_fisher(mean, 50.0, 20000, seed=2)
    pixels = on_map(np.stack(healpy.pix2vec(64, np.arange(12 * 64**2)), axis=1))

    for share, name in ((0.68, "68 %"), (0.95, "95 %")):
        for end in (new, -new):
            assert held(axes, name, on_map(end)).mean() == pytest.approx(share, abs=0.03)
        assert held(axes, name, pixels).mean() == pytest.approx(-np.log1p(-share) / 50.0, rel=0.08)
    found = line(axes, "Mean axis").get_xydata()
    expected = on_map(np.stack([mean, -mean]))
    order = np.argsort(-found[:, 1])
    np.testing.assert_allclose(found[order], expected, atol=0.02)


def test_the_mean_direction_is_left_out_where_the_direction_is_not():
    draws = von_mises_fisher(unit(100, 40), 30.0, 800)
    assert "Mean direction" in legend(pp.sky_regions(draws))
    two_spots = np.concatenate([draws, von_mises_fisher(unit(220, 40), 30.0, 800)])
    assert "Mean direction" not in legend(pp.sky_regions(two_spots))


def test_marks_lie_at_their_right_ascension_and_the_length_of_vectors_does_not_matter():
    draws = von_mises_fisher(unit(300, -10), 30.0, 400)
    axes = pp.sky_regions(draws, marks={"Spot": (-30.0, 20.0)}).axes[0]
    np.testing.assert_allclose(line(axes, "Spot").get_xydata(), np.radians([[180 - 330, 20]]))

    longer = draws * np.random.default_rng(0).uniform(0.1, 10, 400)[:, None]
    np.testing.assert_allclose(
        region(pp.sky_regions(longer).axes[0], "68 %").vertices, region(axes, "68 %").vertices, atol=1e-6
    )
    placed = {text.get_text(): text.xy for text in axes.texts}
    assert placed["360°"][0] < placed["300°"][0] < placed["60°"][0] < placed["0°"][0]
    assert placed["+30°"][1] == pytest.approx(np.pi / 6)
    assert "J2000" in axes.get_xlabel()


def test_power_bands_are_the_quantiles_of_each_degree():
    l = np.array([2, 3, 4])
    mean = np.log([1e-7, 3e-8, 1e-8])
    power = np.exp(mean + np.random.default_rng(0).normal(size=(4, 5000, 3)) * [0.1, 0.5, 1.0])

    axes = pp.power_bands(l, power, noise=np.array([1e-9, 2e-9, 3e-9]), fitted=np.array([1e-7, 0.0, 1e-8])).axes[0]

    bars = {bar.get_label(): bar for bar in axes.containers}
    for label, z in (("Posterior, 68 %", stats.norm.ppf(0.84)), ("Posterior, 95 %", stats.norm.ppf(0.975))):
        boxes = bars[label].patches
        assert [box.get_x() + box.get_width() / 2 for box in boxes] == pytest.approx([2, 3, 4])
        low = np.log([box.get_y() for box in boxes]) - mean
        high = np.log([box.get_y() + box.get_height() for box in boxes]) - mean
        np.testing.assert_allclose(low, [-0.1 * z, -0.5 * z, -z], atol=0.07)
        np.testing.assert_allclose(high, [0.1 * z, 0.5 * z, z], atol=0.07)
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(line(axes, "Fit").get_ydata(), [1e-7, np.nan, 1e-8])
    low, high = axes.get_ylim()
    assert low < 1e-9 < 1e-7 < high
    (noise,) = [each for each in axes.collections if each.get_label() == "Noise"]
    assert [segment[0, 1] for segment in noise.get_segments()] == pytest.approx([1e-9, 2e-9, 3e-9])


def check_arrays(figure: Figure) -> dict[str, np.ndarray]:
    top, bottom = figure.axes
    points, _, bars = top.containers[0]
    ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])
    steps = {patch.get_label(): patch.get_data() for patch in top.patches}
    return {
        "x": points.get_xdata(),
        "ratio": points.get_ydata(),
        "error": (ends[:, 1] - ends[:, 0]) / 2,
        "pull": bottom.lines[-1].get_ydata(),
        "low": steps["Predicted, 68 %"].baseline,
        "high": steps["Predicted, 68 %"].values,
    }


def test_predictive_check_shows_ratio_error_band_and_pull():
    rng = np.random.default_rng(0)
    mean = np.array([100.0, 400.0, 900.0, 0.0])
    predicted = rng.poisson(mean, (4, 5000, 4))
    observed = np.array([120, 400, 810, 0])

    figure = pp.predictive_check(observed, predicted)
    got = check_arrays(figure)

    np.testing.assert_allclose(got["x"], [45, 135, 225])
    np.testing.assert_allclose(got["ratio"], [0.2, 0, -0.1], atol=0.003)
    np.testing.assert_allclose(got["error"], np.sqrt([120, 400, 810]) / mean[:3], rtol=0.005)
    np.testing.assert_allclose(got["pull"], [2, 0, -3, np.nan], atol=0.05)
    np.testing.assert_allclose(got["high"][:3], 0.994 / np.sqrt(mean[:3]), rtol=0.06)
    np.testing.assert_allclose(got["low"][:3], -0.994 / np.sqrt(mean[:3]), rtol=0.06)
    assert figure.axes[1].get_xlim() == (360, 0)
    assert figure.axes[1].get_xlabel() == "Right ascension [deg]"


def test_expected_counts_are_given_their_poisson_scatter():
    """Mean 10^4 with a spread of 100 among the draws: a variance of 2 x 10^4."""
    draws = np.random.default_rng(0).normal(1e4, 100, (4, 2000, 12))
    observed = np.full(12, 10_200.0)

    got = check_arrays(pp.predictive_check(observed, draws, "sidereal", expected=True))
    np.testing.assert_allclose(got["pull"], np.sqrt(2), rtol=0.06)
    bare = check_arrays(pp.predictive_check(observed, draws, "sidereal"))
    np.testing.assert_allclose(bare["pull"], 2, rtol=0.06)
    np.testing.assert_allclose(got["x"], np.arange(12) * 2 + 1)


def test_neighbouring_bins_are_added_and_time_runs_to_the_right():
    rng = np.random.default_rng(1)
    predicted = rng.poisson(100, (4, 1000, 8))
    observed = np.array([80, 100, 100, 100, 100, 100, 100, 140])
    figure = pp.predictive_check(observed, predicted, "solar", max_bins=4, variance=4.0 * observed)
    got = check_arrays(figure)
    np.testing.assert_allclose(got["ratio"], [-0.1, 0, 0, 0.2], atol=0.01)
    np.testing.assert_allclose(got["error"][0], 2 * np.sqrt(180) / 200, rtol=0.01)
    assert figure.axes[1].get_xlim() == (0, 24)
    assert figure.axes[1].get_xlabel() == "Local solar time [h]"


def test_power_of_ten_of_small_excesses_is_on_the_axis():
    rng = np.random.default_rng(1)
    figure = pp.predictive_check(np.full(4, 10_000_000), rng.poisson(1e7, (2, 100, 4)))
    assert figure.axes[0].get_ylabel() == "Counts / predicted − 1 [$10^{-4}$]"


def test_rate_band_is_relative_to_the_mean_of_each_draw():
    """Draws that differ by a factor alone have no spread; dead bins count neither for the mean nor for the points."""
    shape = np.array([0.5, 1.5, 9.0, 1.2, 0.8])
    dead = np.array([False, False, True, False, False])
    factor = np.exp(np.random.default_rng(0).normal(size=(2, 50, 1)))
    counts = np.array([100, 300, 777, 240, 160])

    axes = pp.rate_band(shape * factor, counts, "antisidereal", dead).axes[0]

    for patch in [each for each in axes.patches if str(each.get_label()).startswith("Rate")]:
        np.testing.assert_allclose(patch.get_data().values, [-0.5, 0.5, np.nan, 0.2, -0.2], atol=1e-12)
        np.testing.assert_allclose(patch.get_data().baseline, [-0.5, 0.5, np.nan, 0.2, -0.2], atol=1e-12)
    points, _, bars = axes.containers[0]
    np.testing.assert_allclose(points.get_ydata(), [-0.5, 0.5, 0.2, -0.2])
    np.testing.assert_allclose(points.get_xdata(), [2.4, 7.2, 16.8, 21.6])
    assert np.ptp(bars[0].get_segments()[1][:, 1]) / 2 == pytest.approx(np.sqrt(300) / 200)
    assert axes.get_xlabel() == "Local antisidereal time [h]"


def test_rate_band_widths_are_quantiles():
    draws = np.exp(np.random.default_rng(0).normal(0, 1e-3, (4, 5000, 40)))
    axes = pp.rate_band(draws).axes[0]
    steps = {patch.get_label(): patch.get_data() for patch in axes.patches}
    assert np.mean(steps["Rate, 95 %"].values) == pytest.approx(1.96, rel=0.03)
    assert np.mean(steps["Rate, 68 %"].baseline) == pytest.approx(-0.994, rel=0.03)
    assert axes.get_ylabel() == "Rate / mean − 1 [$10^{-3}$]"


def rank_arrays(axes: Axes):
    band, *chains = [patch.get_data() for patch in axes.patches]
    return np.asarray(band.baseline), np.asarray(band.values), np.array([each.values for each in chains])


def test_rank_band_holds_all_bins_of_all_chains_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    low, high, _ = rank_arrays(pp.ranks({"a": rng.normal(size=(4, 200))}).axes[0])
    inside = 0
    for _ in range(1000):
        chain = rng.permutation(np.repeat(np.arange(4), 200)).reshape(20, 40)
        ratio = np.stack([(chain == k).sum(axis=1) for k in range(4)]) / 10
        inside += np.all((ratio >= low) & (ratio <= high))
    assert 0.94 < inside / 1000 < 0.995


def test_a_chain_that_stays_high_leaves_the_band_at_the_right_end():
    draws = np.random.default_rng(1).normal(size=(4, 300))
    draws[2] += 1.5
    figure = pp.ranks({"a": draws}, bins=10)
    low, high, chains = rank_arrays(figure.axes[0])
    assert chains[2, -1] > high[-1]
    assert chains[2, 0] < low[0]
    np.testing.assert_allclose(chains.sum(axis=0), 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["Uniform, 95 %", "Chain 1"]


def test_trace_marks_divergences_where_they_were():
    log_density = np.arange(20.0).reshape(2, 10) - 1e6
    diverging = np.zeros((2, 10), bool)
    diverging[1, 3] = True
    steps = np.repeat([[1], [7]], 10, axis=1)

    top, bottom = pp.trace(log_density, diverging, steps).axes

    marked = line(top, "1 divergence").get_xydata()
    np.testing.assert_allclose(marked, [[4, 13 - 9.5]])
    assert [patch.get_height() for patch in bottom.patches] == [50, 0, 50]
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["1", "3", "7"]
    assert bottom.get_title() == "Mean 4.0 steps"
    assert "no divergences" in pp.trace(log_density, ~np.ones((2, 10), bool), steps).axes[0].get_title()


def test_energy_panel_gives_the_worst_chain():
    """Independent energies change by twice their variance; a chain with correlation c by 2 (1 - c)."""
    rng = np.random.default_rng(0)
    energy = rng.normal(1e6, 5, (2, 20000))
    for k in range(1, 20000):
        energy[1, k] = 1e6 + 0.9 * (energy[1, k - 1] - 1e6) + np.sqrt(0.19) * (energy[1, k] - 1e6)
    figure = pp.trace(-energy, np.zeros_like(energy, bool), np.full(energy.shape, 3), energy)
    title = figure.axes[-1].get_title()
    assert float(title.removeprefix("E-BFMI ")) == pytest.approx(0.2, abs=0.02)


def test_the_bound_from_the_p_value_is_the_largest_bayes_factor_of_two_normal_components():
    """B(s) = exp(T / 2 s^2 / (1 + s^2)) / (1 + s^2) with p = exp(-T / 2), scales in units of the error."""
    statistic = 30.0
    scales = np.geomspace(0.1, 100, 2001)
    log_bayes = statistic / 2 * scales**2 / (1 + scales**2) - np.log1p(scales**2)

    axes = pp.bayes_factor_curve(scales, log_bayes, p_value=float(np.exp(-statistic / 2))).axes[0]

    best = line(axes, "Maximum").get_xydata()[0]
    assert best[0] == pytest.approx(np.sqrt(statistic / 2 - 1), rel=0.01)
    assert line(axes, "Bound").get_ydata()[0] == pytest.approx(best[1], abs=1e-4)
    assert line(axes, "$p").get_label() == r"$p = 3.1 \times 10^{-7}$ of isotropy"
    assert axes.get_xscale() == "log"


def test_odds_are_powers_of_ten_of_ln_b():
    scales = np.array([1e-3, 1e-2, 1e-1])
    figure = pp.bayes_factor_curve(scales, np.array([np.log(1e4), 0.0, np.log(1e-4)]), extra={"Other": np.ones(3)})
    figure.canvas.draw()
    axes = figure.axes[0]
    (odds,) = axes.child_axes
    shown = dict(zip(odds.get_yticks(), [text.get_text() for text in odds.get_yticklabels()], strict=True))
    assert shown[4.0] == "$10^{4}$" and shown[0.0] == "1" and shown[-2.0] == "$10^{-2}$"
    height, other = (which.transData.transform((1e-3, y))[1] for which, y in ((odds, 4.0), (axes, np.log(1e4))))
    assert height == pytest.approx(other, abs=0.01)


def test_p_values_that_underflow_are_given_by_their_logarithm():
    scales = np.array([1e-3, 1e-2])
    axes = pp.bayes_factor_curve(scales, np.zeros(2), maximum=(5e-3, 1.0), log10_p=-400.0).axes[0]
    log_p = 400 * np.log(10)
    assert line(axes, "Bound").get_ydata()[0] == pytest.approx(log_p - 1 - np.log(log_p))
    assert line(axes, "$p").get_label() == r"$p = 1.0 \times 10^{-400}$ of isotropy"
    np.testing.assert_allclose(line(axes, "Maximum").get_xydata(), [[5e-3, 1.0]])
    large = pp.bayes_factor_curve(scales, np.zeros(2), p_value=0.5).axes[0]
    assert not [each for each in large.lines if str(each.get_label()).startswith("Bound")]


def test_posterior_panel_holds_the_four_pictures():
    figure = pp.posterior_panel(
        dipole=some("dipole_plane"),
        sky=some("sky_regions") | {"title": "Sky"},
        rate=some("rate_band"),
        bayes=some("bayes_factor_curve") | {"title": "Evidence"},
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["(a) P", "(b) Sky", "(c)", "(d) Evidence"]
    figure.canvas.draw()


BAD = np.where(np.arange(120) == 7, np.nan, 1.0).reshape(2, 60)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("corner", {"values": {"a": np.ones(39)}}, r"39 draws of 'a' are too few .* draw 40 or more"),
        ("corner", {"values": {"a": BAD}}, r"1 of 120 draws of 'a' are not finite, the first is draw 7"),
        ("corner", {"values": {}}, "1 to 8 parameters, not 0"),
        ("corner", {"values": {str(k): BAD for k in range(9)}}, "1 to 8 parameters, not 9; choose"),
        ("corner", {"values": {"a": np.ones((2, 60))}}, r"\(almost\) all equal to 1; leave it out"),
        ("corner", {"dominated": {"z"}}, "no parameter 'z' is drawn; there are a, b, c"),
        ("corner", {"truths": {"d": 1.0}}, "no parameter 'd'"),
        ("corner", {"period": {"a": 0.0}}, "the period of 'a' must be positive, not 0.0; 360 for"),
        (
            "corner",
            {"values": {"a": np.arange(120.0).reshape(2, 60), "b": np.arange(80.0)}},
            r"b has shape \(80,\), but a has \(2, 60\); give the same draws",
        ),
        (
            "dipole_plane",
            {"delta": np.ones((60, 3))},
            r"must be draws \(draw, 2\) or .* not an array of shape \(60, 3\)",
        ),
        ("dipole_plane", {"delta": np.ones((10, 2))}, "10 draws of the dipole are too few"),
        ("dipole_plane", {"delta": np.ones((60, 2))}, r"\(almost\) all equal in one of the two"),
        ("dipole_plane", {"delta": np.full((60, 2), np.inf)}, "60 of 60 draws of the dipole are not finite"),
        ("dipole_plane", {"covariance": np.ones((2, 2))}, "must be positive definite"),
        ("dipole_plane", {"covariance": np.eye(3)}, r"is 2 x 2, not of shape \(3, 3\)"),
        ("dipole_plane", {"maximum_likelihood": None}, "needs its centre; give maximum_likelihood too"),
        ("dipole_plane", {"maximum_likelihood": (1.0, 2.0, 3.0)}, r"is \(delta_0h, delta_6h\), not of shape \(3,\)"),
        ("sky_regions", {"directions": np.ones((30, 3))}, "30 draws of the direction are too few"),
        ("sky_regions", {"directions": np.zeros((50, 3))}, "50 draws of the direction are zero, which point nowhere"),
        ("sky_regions", {"directions": np.full((50, 3), np.nan)}, "50 of 50 draws of the direction are not finite"),
        ("sky_regions", {"directions": np.ones((50, 2))}, r"draws \(draw, 3\)"),
        ("sky_regions", {"marks": {"X": (10.0, 95.0)}}, r"the mark 'X' needs \(right ascension, declination\)"),
        ("power_bands", {"power": np.ones((60, 2))}, r"C_l must be draws \(draw, 3\)"),
        ("power_bands", {"power": np.zeros((60, 3))}, "180 draws of C_l are not positive, and the axis is logarithmic"),
        ("power_bands", {"prior_power": np.full((60, 3), np.nan)}, "the prior's C_l are not finite"),
        ("power_bands", {"noise": np.ones(2)}, r"noise has shape \(2,\), but there are 3 degrees"),
        ("power_bands", {"fitted": np.ones(4)}, r"fitted C_l has shape \(4,\)"),
        ("predictive_check", {"observed": np.ones(23)}, r"the predicted counts must be draws \(draw, 23\)"),
        ("predictive_check", {"observed": -np.ones(24)}, "the observed counts hold negative or non-finite"),
        ("predictive_check", {"observed": np.full(24, np.nan)}, "the observed counts hold negative or non-finite"),
        ("predictive_check", {"variance": np.ones(23)}, r"the variance has shape \(23,\)"),
        ("predictive_check", {"kind": "lunar"}, "unknown kind of bins 'lunar': choose right ascension or one of"),
        ("predictive_check", {"predicted": np.zeros((60, 24))}, "zero or the same in every draw"),
        ("predictive_check", {"predicted": np.ones((6, 24))}, "6 draws of the predicted counts are too few"),
        ("rate_band", {"rate": np.ones((39, 24))}, "39 draws of the rate are too few"),
        ("rate_band", {"rate": -np.ones((60, 24))}, "the rate must be positive in every live bin"),
        ("rate_band", {"dead": np.ones(24, bool)}, "one bin must be alive"),
        ("rate_band", {"dead": np.zeros(23, bool)}, r"dead has shape \(23,\), but the rate has 24 time bins"),
        ("rate_band", {"time_counts": np.zeros(24)}, "or no counts at all"),
        ("rate_band", {"time_frame": "lunar"}, "unknown time frame 'lunar'"),
        ("ranks", {"values": {"a": np.ones(80)}, "labels": None}, r"'a' need draws .* 2 chains, not shape \(80,\)"),
        ("ranks", {"values": {"a": np.ones((1, 80))}, "labels": None}, r"not shape \(1, 80\)"),
        ("ranks", {"values": {"a": BAD}, "labels": None}, "1 of 120 draws of 'a' are not finite"),
        ("ranks", {"values": {}}, "1 to 8 parameters, not 0"),
        ("ranks", {"labels": {"z": "Z"}}, "no parameter 'z'"),
        ("ranks", {"bins": 61}, "ranks need 2 to 60 bins .* not 61"),
        ("trace", {"num_steps": np.ones((2, 59))}, r"num_steps has shape \(2, 59\), but log_density has \(2, 60\)"),
        ("trace", {"log_density": np.ones(60)}, r"needs log_density \(chain, draw\) of at least 4 draws"),
        ("trace", {"log_density": BAD}, "1 values of log_density are not finite"),
        ("trace", {"energy": np.ones((2, 60))}, "the energy of a chain never changes"),
        ("bayes_factor_curve", {"scales": np.geomspace(1, 1e-3, 9)}, "positive and increasing; sort them"),
        ("bayes_factor_curve", {"log_bayes": np.ones(8)}, r"'Bayes factor' needs one finite ln B .* not shape \(8,\)"),
        ("bayes_factor_curve", {"extra": {"X": np.full(9, np.nan)}}, "'X' needs .* with 9 non-finite values"),
        ("bayes_factor_curve", {"p_value": 0.0}, r"lies in \(0, 1\], not 0.0; give log10_p where it underflows"),
        ("bayes_factor_curve", {"log10_p": -3.0}, "the p-value or its logarithm, not both"),
        ("bayes_factor_curve", {"p_value": None, "log10_p": 1.0}, "log10 of a p-value is finite and not above 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(name, change, message):
    # Options of a corner plot that name parameters go with its values.
    bare = {"labels": None, "truths": None, "prior": None, "dominated": ()} if "values" in change else {}
    arguments = some(name) | (bare if name == "corner" else {}) | change
    with pytest.raises(InputError, match=message) as caught:
        getattr(pp, name)(**arguments)
    assert "\n" not in str(caught.value)
