"""Designs: which points a scan visits, and what is refused."""

import numpy as np
import pytest
from diffcr.inference import scan_design
from diffcr.inference.scan_design import Axis, Design, axis_of, design_of
from diffcr.inference.scan_task import Setting
from scipy import stats

from diffcr.errors import InputError

X = Setting("x", float, 1.0, "pc", "place", low=-100, high=100)
N = Setting("n", int, 1, low=0, high=1000)
WORD = Setting("word", str, "even", choices=("even", "odd"))


def drawn(entry, setting=X):
    return axis_of(setting, entry, True, f"a.toml: [vary] {setting.name}")


def listed(entry, setting=X):
    return axis_of(setting, entry, False, f"a.toml: [vary] {setting.name}")


def test_a_grid_has_every_value_with_every_other():
    design = design_of({}, (listed([1, 2]), listed([5, 6, 7], N)), "a.toml")
    assert design.shape == (2, 3)
    assert design.rows() == [{"x": float(x), "n": n} for x in (1, 2) for n in (5, 6, 7)]


def test_a_list_has_axes_side_by_side():
    design = design_of({"kind": "list"}, (listed([1, 2, 2]), listed([5, 5, 6], N)), "a.toml")
    assert design.shape == (3,)
    assert design.rows() == [{"x": 1.0, "n": 5}, {"x": 2.0, "n": 5}, {"x": 2.0, "n": 6}]


def test_ranges_are_even_and_end_where_they_say_to_the_last_digit():
    spaced = listed({"from": 8, "to": 32, "number": 5, "scale": "log"})
    assert spaced.values == (8.0, 11.313708499, 16.0, 22.627416998, 32.0)
    assert listed({"from": 0, "to": 0.9, "number": 4}).values == (0.0, 0.3, 0.6, 0.9)
    assert listed({"from": 1, "to": 9, "number": 5}, N).values == (1, 3, 5, 7, 9)
    assert listed({"from": 1, "to": 100, "number": 3, "scale": "log"}).log


@pytest.mark.parametrize("kind", ["latin-hypercube", "sobol", "random"])
@pytest.mark.parametrize(
    ("entry", "law"),
    [
        ({"from": 2, "to": 6}, stats.uniform(2, 4)),
        ({"from": 0.1, "to": 10, "scale": "log"}, stats.loguniform(0.1, 10)),
        ({"distribution": "uniform", "low": -1, "high": 1}, stats.uniform(-1, 2)),
        ({"distribution": "normal", "mean": 3, "spread": 2}, stats.norm(3, 2)),
        ({"distribution": "log-uniform", "low": 1, "high": 50}, stats.loguniform(1, 50)),
    ],
)
def test_drawn_points_follow_their_distribution(kind, entry, law):
    design = Design(kind, (drawn(entry), drawn([1, 2, 3, 4], N)), 1024, 5)
    rows = design.rows()
    values = np.array([row["x"] for row in rows])
    assert stats.kstest(values, law.cdf).pvalue > 1e-3
    # Of four listed values each has a quarter; the two axes have nothing to do with each other.
    numbers = np.array([row["n"] for row in rows])
    assert np.all(np.abs(np.bincount(numbers)[1:] - 256) < 60)
    assert abs(stats.spearmanr(values, numbers).statistic) < 0.1


@pytest.mark.parametrize(
    ("entry", "law"),
    [
        ({"distribution": "log-normal", "median": 3, "spread": 0.5}, stats.lognorm(0.5, scale=3)),
        ({"distribution": "half-normal", "spread": 2}, stats.halfnorm(scale=2)),
    ],
)
def test_open_distributions_follow_theirs(entry, law):
    setting = Setting("kappa", float, 1.0, low=0)
    values = [row["kappa"] for row in Design("sobol", (drawn(entry, setting),), 512, 1).rows()]
    assert stats.kstest(values, law.cdf).statistic < 0.01


def test_whole_numbers_of_a_range_are_drawn_equally_often_with_both_ends():
    rows = Design("sobol", (drawn({"from": 3, "to": 6}, N),), 256, 2).rows()
    assert np.bincount([row["n"] for row in rows]).tolist() == [0, 0, 0, 64, 64, 64, 64]


@pytest.mark.parametrize("kind", ["sobol", "random"])
def test_a_longer_design_begins_with_the_shorter(kind):
    axes = (drawn({"from": 0, "to": 1}), drawn([1, 2], N))
    assert Design(kind, axes, 64, 3).rows()[:16] == Design(kind, axes, 16, 3).rows()
    assert Design(kind, axes, 16, 3).rows() != Design(kind, axes, 16, 4).rows()


def test_a_latin_hypercube_has_one_point_in_each_slice():
    rows = Design("latin-hypercube", (drawn({"from": 0, "to": 1}), drawn([1, 2], N)), 40, 0).rows()
    assert sorted(int(40 * row["x"]) for row in rows) == list(range(40))


BAD_AXES = {
    "empty": (X, [], False, "x is empty; list its values, or move it"),
    "number": (X, 3, False, "x must be a list of values or a range"),
    "kind": (X, ["a"], False, r"a.toml: \[vary\] x must be a number, not 'a'"),
    "range": (X, [1, 101], False, r"a.toml: \[vary\] x must be at least -100 and at most 100, not 101"),
    "truth": (X, [True], False, "x must be a number"),
    "nan": (X, [float("nan")], False, "x must be finite"),
    "part": (N, [1.5], False, "n must be a whole number, not 1.5"),
    "word": (WORD, ["evn"], False, "word cannot be 'evn'; did you mean 'even'"),
    "words": (WORD, {"from": 1, "to": 2, "number": 2}, False, "word is no number: give a list"),
    "key": (X, {"from": 1, "too": 2, "number": 2}, False, "x has no 'too'"),
    "no to": (X, {"from": 1, "number": 2}, False, "x needs to: "),
    "no number": (X, {"from": 1, "to": 2}, False, "x needs number: "),
    "drawn number": (X, {"from": 1, "to": 2, "number": 3}, True, "number has no effect where points are drawn"),
    "order": (X, {"from": 2, "to": 2, "number": 3}, False, "from 2.0 is not below to 2.0"),
    "one": (X, {"from": 1, "to": 2, "number": 1}, False, "number must be a whole number of at least 2"),
    "scale": (X, {"from": 1, "to": 2, "number": 3, "scale": "ln"}, False, "scale must be linear or log, not 'ln'"),
    "log": (X, {"from": 0, "to": 2, "number": 3, "scale": "log"}, False, "on a log scale from must be above 0"),
    "between": (N, {"from": 1, "to": 2, "number": 3}, False, "n must be a whole number, not 1.5"),
    "law": (X, {"distribution": "uniform", "low": 1, "high": 2}, False, "a distribution needs drawn points"),
    "no law": (X, {"distribution": "flat"}, True, "a.toml: the prior of x needs a distribution among"),
    "law order": (X, {"distribution": "uniform", "low": 3, "high": 2}, True, "must have low below high"),
    "law reach": (X, {"distribution": "uniform", "low": 0, "high": 200}, True, "leaves the range -100 to 100"),
    "law of whole": (N, {"from": 1, "to": 9, "scale": "log"}, True, "n is a whole number: list its values"),
}


@pytest.mark.parametrize("case", BAD_AXES)
def test_a_bad_axis_is_refused_in_one_line(case):
    setting, entry, is_drawn, message = BAD_AXES[case]
    with pytest.raises(InputError, match=message):
        axis_of(setting, entry, is_drawn, f"a.toml: [vary] {setting.name}")


BAD_DESIGNS = {
    "key": ({"kinds": "grid"}, r"the table \[design\] has no 'kinds'; did you mean 'kind'"),
    "kind": ({"kind": "sobl"}, r"\[design\] kind cannot be 'sobl'; did you mean 'sobol'"),
    "no word": ({"kind": 3}, r"\[design\] kind must be one of grid, list, "),
    "points of a grid": ({"points": 3}, r"\[design\] points is of drawn points; leave it out of a grid"),
    "no points": ({"kind": "random"}, r"\[design\] points must be a whole number of at least 1, not 0"),
    "seed": ({"kind": "random", "points": 4, "seed": -1}, r"\[design\] seed must be a whole number of at least 0"),
    "power": ({"kind": "sobol", "points": 100}, r"points of sobol must be a power of two, such as 64 or 128"),
    "many": ({"kind": "random", "points": 10**7}, "10000000 points are more than 1000000"),
    "lengths": ({"kind": "list"}, "must have equally many values, not x 2, n 1"),
}


@pytest.mark.parametrize("case", BAD_DESIGNS)
def test_a_bad_design_is_refused_in_one_line(case):
    table, message = BAD_DESIGNS[case]
    with pytest.raises(InputError, match=message):
        design_of(table, (Axis(X, (1.0, 2.0)), Axis(N, (3,))), "a.toml")


def test_repeated_values_and_points_are_refused():
    with pytest.raises(InputError, match=r"a.toml: \[vary\] x repeats the value 2.0; leave one out"):
        design_of({}, (listed([1, 2, 2.0]),), "a.toml")
    with pytest.raises(InputError, match=r"\[vary\] repeats the point x = 1.0, n = 5; leave one out"):
        design_of({"kind": "list"}, (listed([1, 2, 1]), listed([5, 5, 5], N)), "a.toml")


def test_a_grid_is_counted_before_it_is_made():
    axis = Axis(N, tuple(range(1000)))
    with pytest.raises(InputError, match="1000000000 points are more than 1000000; take fewer values"):
        design_of({}, (axis, axis, axis), "a.toml")
    assert scan_design.MOST_POINTS == 10**6
