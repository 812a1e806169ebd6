"""All points of a scan in one dataset: dimensions, what is missing, inner coordinates that differ, the best point."""

import json

import numpy as np
import pytest
import xarray as xr
from diffcr.inference import scan_dataset, scan_tasks
from diffcr.inference.files import write_netcdf
from diffcr.inference.scan_dataset import best_point, layout_of, require_quantity
from diffcr.inference.scan_points import plan_scan
from diffcr.inference.scan_spec import spec_of
from diffcr.inference.scan_store import Stored
from small_scan import Waves

from diffcr.errors import InputError


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": Waves()})


def plan_of(vary, **more):
    return plan_scan(spec_of({"run": "waves", "vary": vary, **more}))


def stored_of(plan, result):
    """Results of a function of the settings; None for no result."""
    results = {p.key: result(p.settings) for p in plan.points if p.key}
    return {key: Stored(each, {"seconds": 2.0}) for key, each in results.items() if each is not None}


def assemble(plan, stored, failed, command=""):
    """Results joined as a scan does it, in whatever order they were finished."""
    layout = layout_of(plan)
    for each in reversed(stored.values()):
        layout.add(each.dataset)
    return scan_dataset.assemble(plan, layout, stored.get, failed, command)


def test_a_grid_has_a_dimension_for_each_axis():
    plan = plan_of({"x": [-60, 3], "l_max": [1, 2, 3]}, fixed={"y": 1})
    dataset = assemble(plan, stored_of(plan, Waves().wave), {}, "diffcr scan a.toml")
    assert dict(dataset.sizes) == {"x": 2, "l_max": 3, "l": 3}
    assert dataset["height"].dims == ("x", "l_max") and dataset["order"].dims == ("x", "l_max", "l")
    assert dataset["height"].sel(x=3, l_max=2) == 19 and dataset["height"].attrs["units"] == "m"
    # Degrees are joined: what a point does not have is NaN, and there is no number of another degree in its place.
    assert dataset["order"].sel(x=3).values.tolist()[2] == [3, 6, 9]
    np.testing.assert_array_equal(dataset["order"].sel(x=3, l_max=1), [3, np.nan, np.nan])
    assert dataset["number"].dtype == np.int64 and dataset["parity"].values.tolist() == [["even"] * 3] * 2
    assert dataset["converged"].values.tolist() == [[False] * 3, [True] * 3]
    assert dataset["seconds"].values.tolist() == [[2.0] * 3] * 2 and dataset["seconds"].attrs["units"] == "s"
    assert dataset["x"].attrs == {"units": "pc", "long_name": "place", "scale": "linear"}
    assert json.loads(dataset.attrs["axes"]) == ["x", "l_max"] and json.loads(dataset.attrs["fixed"]) == {"y": 1.0}
    assert json.loads(dataset.attrs["scan"])["vary"] == {"x": [-60, 3], "l_max": [1, 2, 3]}
    assert dataset.attrs["command"] == "diffcr scan a.toml" and dataset.attrs["software"].startswith("diffcr 0")


def test_what_is_missing_is_nan_false_or_empty_and_says_why():
    plan = plan_of({"x": [1, 9], "y": [1, 30]})
    keep = stored_of(plan, lambda s: Waves().wave(s) if s["x"] == 1 and s["y"] == 1 else None)
    failed = {p.key: "no luck" for p in plan.points if p.key and p.key not in keep}
    dataset = assemble(plan, keep, failed)
    np.testing.assert_array_equal(dataset["height"], [[11, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(dataset["number"], [[2, np.nan], [np.nan, np.nan]])
    assert dataset["converged"].values.tolist() == [[True, False], [False, False]]
    assert dataset["parity"].values.tolist() == [["even", ""], ["", ""]]
    refused = "x above 5 does not go with y above 20; lower one"
    assert dataset["message"].values.tolist() == [["", "no luck"], ["no luck", refused]]


def test_other_designs_have_points_with_the_axes_as_coordinates():
    plan = plan_of({"x": [1, 2, 2], "numbers": [[1, 2], [3], [3, 4]]}, design={"kind": "list"})
    dataset = assemble(plan, stored_of(plan, Waves().wave), {})
    assert dataset["height"].dims == ("point",) and dataset["x"].values.tolist() == [1, 2, 2]
    assert dataset["numbers"].values.tolist() == ["[1.0, 2.0]", "[3.0]", "[3.0, 4.0]"]
    drawn = plan_of({"x": {"from": 1, "to": 9, "scale": "log"}}, design={"kind": "sobol", "points": 4})
    dataset = assemble(drawn, stored_of(drawn, Waves().wave), {})
    assert dataset["x"].dims == ("point",) and dataset["x"].attrs["scale"] == "log"
    np.testing.assert_allclose(dataset["height"], dataset["x"] ** 2)


def test_axes_of_words_and_truth_values_stay_such(tmp_path):
    plan = plan_of({"word": ["odd", "even"], "strict": [True, False], "numbers": [[1], [2, 3]]})
    dataset = assemble(plan, stored_of(plan, Waves().wave), {})
    assert dataset["parity"].sel(word="even", strict=False, numbers="[1.0]") == "even"
    write_netcdf(tmp_path / "a.nc", dataset)
    with xr.open_dataset(tmp_path / "a.nc") as read:
        xr.testing.assert_equal(read, dataset)
        assert read["strict"].values.tolist() == [True, False]


def test_energies_that_differ_between_points_become_a_variable():
    plan = plan_of({"x": [1, 2], "y": [0, 1]})

    def result(s):
        energy = s["x"] * np.arange(1.0, 3 + s["y"])
        return xr.Dataset({"flux": ("energy", energy**2)}, {"energy": ("energy", energy, {"units": "TeV"})})

    dataset = assemble(plan, stored_of(plan, result), {})
    assert dataset["flux"].dims == dataset["energy"].dims == ("x", "y", "energy_index")
    np.testing.assert_array_equal(dataset["flux"].sel(x=2, y=0), [4, 16, np.nan])
    np.testing.assert_array_equal(dataset["energy"].sel(x=2, y=1), [2, 4, 6])
    assert dataset["energy"].attrs["units"] == "TeV"
    assert dataset["converged"].all()


def test_inner_coordinates_that_agree_stay_coordinates():
    plan = plan_of({"x": [1, 2]})

    def result(s):
        coords = {"energy": [0.5, 2.5], "name": ("energy", ["low", "high"]), "band": ("energy", [s["x"], 0.0])}
        return xr.Dataset({"flux": ("energy", [s["x"], 3.0]), "places": ("k", [1, 2])}, coords)

    dataset = assemble(plan, stored_of(plan, result), {})
    assert dataset["flux"].sel(energy=0.5).values.tolist() == [1, 2]
    assert dataset["name"].dims == ("energy",) and "name" in dataset.coords
    assert dataset["band"].dims == ("x", "energy") and dataset["places"].dims == ("x", "k")


@pytest.mark.parametrize("turned", [False, True])
def test_words_along_a_dimension_are_joined_in_the_order_of_the_longest(turned):
    plan = plan_of({"x": [1, 2]})
    names = {1.0: ["z", "d"], 2.0: ["z", "b", "a"]}
    names = {3 - x: each for x, each in names.items()} if turned else names

    def result(s):
        own = names[s["x"]]
        return xr.Dataset({"v": ("name", np.full(len(own), s["x"]))}, {"name": own})

    dataset = assemble(plan, stored_of(plan, result), {})
    assert dataset["name"].values.tolist() == ["z", "b", "a", "d"]
    nan = np.nan
    wanted = [[1, nan, nan, 1], [2, 2, 2, nan]]
    np.testing.assert_array_equal(dataset["v"], [[1, 1, 1, nan], [2, nan, nan, 2]] if turned else wanted)


def test_results_called_like_an_axis_get_another_name():
    plan = plan_of({"x": [1, 2]})
    dataset = assemble(plan, stored_of(plan, lambda s: xr.Dataset({"x": -s["x"], "seconds": 3.0})), {})
    assert dataset["x_result"].values.tolist() == [-1, -2] and dataset["x"].values.tolist() == [1, 2]
    assert dataset["seconds_result"].values.tolist() == [3, 3] and dataset["seconds"].values.tolist() == [2, 2]


def test_a_scan_in_which_nothing_came_out_is_still_a_dataset():
    plan = plan_of({"x": [1, 2]})
    dataset = assemble(plan, {}, {p.key: "no" for p in plan.points})
    assert dataset["message"].values.tolist() == ["no", "no"] and not dataset["converged"].any()
    assert best_point(dataset, "height", "largest") is None


def test_the_best_point_is_the_largest_or_smallest_that_converged():
    plan = plan_of({"x": [-60, 3, 7], "y": [1, 2]})
    dataset = assemble(plan, stored_of(plan, Waves().wave), {})
    best = best_point(dataset, "height", "largest")
    # x = -60 has 3600, but did not converge.
    assert best["value"] == 69 and best["settings"] == {"x": 7.0, "y": 2.0} and best["passed_over"] == 2
    assert best["place"] == {"x": 2, "y": 1} and best["results"]["number"] == 2
    assert best_point(dataset, "height", "smallest")["value"] == 19
    assert best_point(dataset, "order", "largest") is None and best_point(dataset, "parity", "largest") is None


def test_a_quantity_that_no_point_gives_is_refused():
    result = Waves().wave({"x": 1.0, "y": 0.0, "l_max": 2, "word": "odd"})
    require_quantity(result, "height", "a.toml")
    for name in ("depth", "order", "parity"):
        with pytest.raises(InputError, match=f"quantity '{name}' is no number .* choose one of height, number"):
            require_quantity(result, name, "a.toml")


@pytest.mark.parametrize(("sense", "value", "x"), [("largest", 3.0, 4), ("smallest", 1.0, 1)])
def test_a_number_that_is_not_finite_is_never_the_best(sense, value, x):
    heights = np.array([1.0, np.inf, -np.inf, np.nan, 3.0, 9.0])
    good = np.array([True] * 5 + [False])
    data = {"height": ("x", heights), "converged": ("x", good), "message": ("x", np.array([""] * 6))}
    dataset = xr.Dataset(data, {"x": [1, 2, 3, 0, 4, 5]}, {"axes": '["x"]'})
    best = best_point(dataset, "height", sense)
    assert (best["value"], best["settings"], best["passed_over"]) == (value, {"x": x}, 1)
    assert best_point(dataset.isel(x=[1, 2, 3]), "height", sense) is None
