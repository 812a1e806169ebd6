"""Pictures of scans: which are drawn, what stands where in them, and what is left out. Datasets are made by hand."""

import json

import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from diffcr.inference.scan_plot_data import axis_of, excess, scan_of, thinned, typeset, unwrapped
from diffcr.inference.scan_plot_surfaces import _edges
from diffcr.inference.scan_plots import figure, write_pictures

AGE = np.linspace(10.0, 30.0, 9)
DIFFUSION = np.geomspace(1e28, 1e29, 11)


def scan(axes, data, design="grid", run="predict", best=("chi2", "smallest"), coords=(), **attrs):
    """A dataset as `scan.nc` has it; axes are name -> (values, attributes), data name -> (dims, values, attributes)."""
    dims = tuple(axes) if design == "grid" else ("point",)
    shape = tuple(len(v) for v, _ in axes.values()) if design == "grid" else (len(next(iter(axes.values()))[0]),)
    places = {name: ((name if design == "grid" else "point",), *each) for name, each in axes.items()}
    own = {"message": (dims, np.full(shape, "")), "converged": (dims, np.full(shape, True))}
    attrs |= {"axes": json.dumps(list(axes)), "design": design, "run": run}
    attrs |= {"best_quantity": best[0], "best_sense": best[1]}
    return xr.Dataset(own | data, places | dict(coords), attrs)


def parabola(scale=1.0, statistic="chi2"):
    """chi2 = 10 + 4 x^2 + y^2 about age 20 and the middle of ln diffusion, with x and y from -2 to 2."""
    x, y = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 11), indexing="ij")
    values = 10 + scale * (4 * x**2 + y**2)
    axes = {
        "vela.age_yr": (AGE, {"units": "kyr", "long_name": "vela: age", "scale": "linear"}),
        "diffusion_cm2_s": (DIFFUSION, {"units": "cm^2/s", "long_name": "K_global", "scale": "log"}),
    }
    attrs = {"long_name": "chi2 of published dipoles", "statistic": statistic}
    return scan(axes, {"chi2": (tuple(axes), values, attrs)})


def stars(axes):
    """Places of the best point in a panel."""
    found = [line for line in axes.lines if line.get_marker() == "*"]
    return [tuple(float(x[0]) for x in line.get_data()) for line in found]


def test_a_grid_has_a_profile_of_each_axis_and_a_surface_of_each_pair():
    drawn = figure(parabola())
    assert set(drawn) == {"profile_1", "profile_2", "surface_1_2"}
    first = drawn["profile_1"].axes[0]
    assert (first.get_xscale(), drawn["profile_2"].axes[0].get_xscale()) == ("linear", "log")
    assert first.get_xlabel() == "Vela: age [kyr]"
    assert drawn["profile_2"].axes[0].get_xlabel() == r"$K_\mathrm{global}$ [cm$^2$/s]"
    assert r"$\chi^2$" in first.get_ylabel()
    # The other axis is held at the best point, which is said.
    assert f"diffusion_cm2_s = {DIFFUSION[5]:.5g}" in first.get_title()


def test_the_best_point_is_marked_where_it_is():
    drawn = figure(parabola())
    np.testing.assert_allclose(stars(drawn["profile_1"].axes[0]), [(20.0, 10.0)])
    np.testing.assert_allclose(stars(drawn["surface_1_2"].axes[0]), [(20.0, DIFFUSION[5])])


def test_thresholds_of_one_parameter_are_where_chi2_has_risen_by_1_4_and_9():
    panel = figure(parabola())["profile_1"].axes[0]
    levels = [
        line.get_ydata()[0] for line in panel.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    np.testing.assert_allclose(sorted(levels), [11, 14, 19])


def test_contours_of_two_parameters_hold_68_95_and_99_7_percent():
    """Of exp(-chi2 / 2) over the plane, by a sum over random numbers: the ellipse 4 x^2 + y^2 < level."""
    axes = figure(parabola())["surface_1_2"].axes[0]
    (contours,) = [each for each in axes.collections if hasattr(each, "levels")]
    x, y = np.random.default_rng(1).normal(size=(2, 400_000))
    inside = [np.mean(x**2 + y**2 < level) for level in contours.levels]
    np.testing.assert_allclose(inside, [0.6827, 0.9545, 0.9973], atol=0.002)
    # Along the second axis chi2 rises by y^2, and y is 4 ln(K) / ln(10) - 2 after the first value.
    path = max(contours.get_paths()[0].to_polygons(closed_only=False), key=len)
    reach = 4 * np.log(path[:, 1].max() / DIFFUSION[0]) / np.log(10) - 2
    np.testing.assert_allclose(reach, np.sqrt(2.296), rtol=0.05)


def test_a_minimum_that_the_grid_misses_has_no_contours_and_no_thresholds():
    """Within a cell a contour would show the interpolation; and wide chi2 are logarithmic."""
    drawn = figure(parabola(scale=1e8))
    axes = drawn["surface_1_2"].axes[0]
    assert not [each for each in axes.collections if hasattr(each, "levels")]
    assert isinstance(axes.collections[0].norm, matplotlib.colors.LogNorm)
    assert drawn["profile_1"].axes[0].get_yscale() == "log"
    assert len(drawn["profile_1"].axes[0].texts) == 0


def test_log_likelihoods_fall_from_their_maximum():
    dataset = parabola(statistic="log_likelihood")
    np.testing.assert_allclose(excess(dataset, "chi2", np.array([-3.0, -1.0, -1.5])), [4.0, 0.0, 1.0])
    dataset["chi2"].attrs.pop("statistic")
    assert excess(dataset, "chi2", np.array([1.0, 2.0])) is None


@pytest.mark.parametrize("log", [False, True])
def test_cells_of_a_surface_end_half_way_between_its_values(log):
    axis = axis_of(parabola(), "diffusion_cm2_s" if log else "vela.age_yr")
    edges = _edges(axis.place, axis)
    middle = (lambda a, b: np.sqrt(a * b)) if log else (lambda a, b: (a + b) / 2)
    np.testing.assert_allclose(edges[1:-1], middle(axis.place[1:], axis.place[:-1]))
    np.testing.assert_allclose(middle(edges[0], edges[1]), axis.place[0])
    np.testing.assert_allclose(middle(edges[-1], edges[-2]), axis.place[-1])


# Other designs and quantities ---------------------------------------------------------------------------


def fits(shape_of=("lmax", "grid")):
    """A grid of fits over a number and words, with errors; one has failed, one has not converged."""
    rng = np.random.default_rng(0)
    axes = {"lmax": (np.array([1, 2, 3]), {"long_name": "Highest degree"}), "grid": (np.array(["36x18", "72x36"]), {})}
    dims, shape = tuple(axes), (3, 2)
    statistic = rng.uniform(10, 20, shape)
    statistic[2, 1] = np.nan
    named = lambda title, error="": {"long_name": title} | ({"ancillary_variables": error} if error else {})
    data = {
        "test_statistic": (dims, statistic, named("Test statistic")),
        "amplitude": (dims, rng.uniform(0.04, 0.06, shape), named("Amplitude", "amplitude_error")),
        "amplitude_error": (dims, np.full(shape, 0.01), named("Error")),
        "right_ascension_deg": (dims, np.array([[359.0, 2], [5, 355], [1, 0]]), named("Right ascension")),
        "message": (dims, np.array([["", ""], ["", ""], ["", "too few events"]])),
        "converged": (dims, np.array([[True, True], [False, True], [True, False]])),
    }
    return scan(axes, data, run="fit", best=("test_statistic", "largest"))


def test_other_axes_with_few_values_are_curves():
    panels = figure(fits())["profile_1"].axes
    assert len(panels) == 3
    labels = panels[0].get_legend_handles_labels()[1]
    assert {"grid = 36x18", "grid = 72x36", "Best point"} == set(labels)
    bars = panels[1].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[1, 1] - segment[0, 1] for segment in bars], 0.02)


def test_words_stand_side_by_side_without_a_line_between():
    panel = figure(fits())["profile_2"].axes[-1]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["36x18", "72x36"]
    assert {line.get_linestyle() for line in panel.lines} == {"None"}


def test_right_ascensions_do_not_jump_at_the_end_of_the_circle():
    np.testing.assert_allclose(unwrapped(np.array([359.0, 2, np.nan]), "right_ascension_deg"), [359 - 360, 2, np.nan])
    np.testing.assert_allclose(unwrapped(np.array([359.0, 2]), "amplitude"), [359, 2])
    panel = figure(fits())["profile_1"].axes[2]
    low, high = panel.get_ylim()
    assert high - low < 20
    assert panel.yaxis.get_major_formatter()(-5.0, 0) == "355"


def test_points_that_did_not_converge_are_marked_and_those_that_failed_are_left_out():
    axes = figure(fits())["surface_1_2"].axes[0]
    marked = [line for line in axes.lines if line.get_label() == "Not converged"]
    np.testing.assert_array_equal([line.get_data() for line in marked], [[[2.0], [0.0]]])
    assert np.ma.count_masked(axes.collections[0].get_array()) == 1


def drawn_points(design="sobol"):
    rng = np.random.default_rng(3)
    axes = {
        "age_yr": (rng.uniform(1e4, 3e4, 40), {"units": "yr", "scale": "linear"}),
        "diffusion_cm2_s": (np.exp(rng.uniform(64, 66, 40)), {"units": "cm^2/s", "scale": "log"}),
        "word": (np.array(["a", "b"] * 20), {}),
    }
    chi2 = rng.uniform(1, 3, 40)
    chi2[7], chi2[5] = np.nan, 0.5
    messages = np.where(np.arange(40) == 7, "failed", "")
    data = {"chi2": (("point",), chi2, {"long_name": "chi2", "statistic": "chi2"}), "message": (("point",), messages)}
    return scan(axes, data, design)


def test_drawn_points_make_a_corner_with_the_best_marked_in_every_pair():
    dataset = drawn_points()
    drawn = figure(dataset)
    assert set(drawn) == {"corner"}
    panels = [axes for axes in drawn["corner"].axes if axes.axison][:-1]
    assert len(panels) == 6
    age, diffusion = (float(dataset[name][5]) for name in ("age_yr", "diffusion_cm2_s"))
    places = [stars(axes)[0] for axes in panels]
    np.testing.assert_allclose(places[1], (age, diffusion))
    np.testing.assert_allclose(places[0], (age, 0.5))
    # 39 points with a result, one without.
    assert [len(each.get_offsets()) for each in panels[1].collections] == [1, 39]


def test_of_very_many_points_some_are_drawn_and_the_best_is_among_them():
    whole = scan_of(drawn_points())
    some = thinned(whole, 10)
    assert 10 <= some.dataset.sizes["point"] <= 11 and thinned(whole, 40) is whole
    assert float(some.dataset["chi2"][some.best["point"]]) == 0.5
    assert all(len(axis.place) == some.dataset.sizes["point"] for axis in some.axes)


def test_points_side_by_side_have_a_profile_of_each_axis():
    assert set(figure(drawn_points("list"))) == {"profile_1", "profile_2", "profile_3"}


def test_quantities_of_several_parameters_are_curves_by_name():
    axes = {"events": (np.array([1e4, 1e5, 1e6]), {"scale": "log"})}
    names = np.array(["delta_0h", "delta_6h"])
    data = {
        "holm_p": (("events",), np.array([0.3, 0.2, 0.9]), {"long_name": "p"}),
        "coverage_68": (("events", "quantity"), np.full((3, 2), 0.68), {"long_name": "Coverage"}),
    }
    dataset = scan(axes, data, run="calibrate", best=("holm_p", "largest"), coords={"quantity": ("quantity", names)})
    panels = figure(dataset)["profile_1"].axes
    assert {"delta_0h", "delta_6h", "Best point"} == set(panels[1].get_legend_handles_labels()[1])


def spectra(design, number):
    energy = np.geomspace(1, 1e3, 5)
    axes = {
        "age_yr": (np.linspace(1e4, 3e4, number), {"units": "yr"}),
        "other": (np.arange(2.0 if design == "grid" else number), {}),
    }
    dims = (*axes, "energy") if design == "grid" else ("point", "energy")
    lead = (number, 2) if design == "grid" else (number,)
    chi2 = np.arange(1.0, 1 + np.prod(lead)).reshape(lead)
    values = np.multiply.outer(chi2, energy)
    data = {"chi2": (dims[:-1], chi2, {"statistic": "chi2"}), "amplitude": (dims, values, {"long_name": "Amplitude"})}
    coords = {"energy": ("energy", energy, {"units": "TeV", "long_name": "energy", "scale": "log"})}
    return scan(axes, data, design, coords=coords)


@pytest.mark.parametrize(("number", "bars"), [(3, 0), (12, 1)])
def test_spectra_are_curves_for_each_value_of_the_first_axis(number, bars):
    drawn = figure(spectra("grid", number))["spectra"]
    assert len(drawn.axes) == 1 + bars
    panel = drawn.axes[0]
    assert (panel.get_xlabel(), panel.get_xscale()) == ("Energy [TeV]", "log")
    # One for each value, and the best one again.
    assert len(panel.lines) == number + 1
    np.testing.assert_allclose(panel.lines[-1].get_ydata(), np.geomspace(1, 1e3, 5))


def test_spectra_of_drawn_points_are_coloured_by_what_ranks_them():
    drawn = figure(spectra("random", 12))["spectra"]
    assert drawn.axes[1].get_ylabel() == r"$\chi^2$"
    np.testing.assert_allclose(drawn.axes[0].lines[-1].get_ydata(), np.geomspace(1, 1e3, 5))


# Nothing, little, and files -----------------------------------------------------------------------------


def test_a_scan_without_results_has_no_pictures_and_writes_none(tmp_path):
    axes = {"lmax": (np.array([1, 2]), {})}
    data = {"message": (("lmax",), np.array(["no", "no"])), "converged": (("lmax",), np.zeros(2, bool))}
    empty = scan(axes, data, run="fit", best=("test_statistic", "largest"))
    assert figure(empty) == {} and write_pictures(empty, tmp_path) == []


def test_one_point_can_be_drawn():
    axes = {"x": (np.array([3.0]), {}), "y": (np.array([1.0, 2.0]), {})}
    dataset = scan(axes, {"chi2": (("x", "y"), np.array([[1.0, 2.0]]), {})})
    assert set(figure(dataset)) == {"profile_1", "profile_2"}


def test_a_scan_in_which_nothing_converged_has_no_best_point():
    dataset = parabola()
    dataset["converged"][:] = False
    assert scan_of(dataset).best is None
    drawn = figure(dataset)
    assert not stars(drawn["profile_1"].axes[0]) and not stars(drawn["surface_1_2"].axes[0])


def test_files_have_fixed_names_whatever_the_axes_are_called(tmp_path):
    dataset = parabola().rename({"vela.age_yr": "../evil/name"})
    dataset.attrs["axes"] = json.dumps(["../evil/name", "diffusion_cm2_s"])
    written = write_pictures(dataset, tmp_path)
    assert sorted(path.name for path in written) == ["profile_1.png", "profile_2.png", "surface_1_2.png"]
    assert all(path.parent == tmp_path and path.stat().st_size > 5000 for path in written)


def test_labels_are_set_as_formulas_and_begin_with_a_capital():
    assert typeset("half-height of the halo", "pc") == "Half-height of the halo [pc]"
    assert typeset("C_l / C_2 without the plateau") == r"$C_\ell$ / $C_2$ without the plateau"
    assert typeset("Strength of the turbulence <dB^2>/B_0^2").endswith(r"$\langle\delta B^2\rangle / B_0^2$")
