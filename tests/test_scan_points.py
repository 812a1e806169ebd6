"""Points and their hashes: equal where the result must be, different where it may not be."""

import json

import pytest
from diffcr.inference import scan_points, scan_tasks
from diffcr.inference.scan_points import code_version, plan_scan
from diffcr.inference.scan_spec import spec_of
from small_scan import Waves

from diffcr.errors import InputError


class Events(Waves):
    """The same of event lists."""

    name = "events"
    needs = "events"


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": Waves(), "events": Events()})


def keys(**content):
    return plan_scan(spec_of({"run": "waves"} | content)).keys


def test_a_hash_is_of_the_settings_however_they_are_given():
    one = keys(vary={"x": [2], "l_max": [3]})
    assert len(one[0]) == 32
    # Held or varied, the other way round, as whole number, and with what is the default anyway.
    assert keys(vary={"l_max": [3], "x": [2.0]}) == one
    assert keys(vary={"x": [2]}, fixed={"l_max": 3, "y": 0, "word": "even"}) == one
    assert keys(vary={"x": {"from": 2, "to": 4, "number": 2}}, fixed={"l_max": 3})[:1] == one
    for other in ({"x": [2.1]}, {"y": [1e-12]}, {"word": ["odd"]}, {"strict": [True]}):
        assert keys(vary={"x": [2], "l_max": [3]} | other) != one


def test_zero_has_no_sign():
    assert keys(vary={"y": [-0.0]}) == keys(vary={"y": [0.0]}) == keys(vary={"y": [0]})
    assert keys(vary={"numbers": [[-0.0, 1]]}) == keys(vary={"numbers": [[0, 1]]})


def test_a_hash_is_of_the_content_of_files_not_of_their_names(write):
    one = keys(vary={"x": [1]}, fixed={"file": str(write("abc", "a.txt"))})
    assert keys(vary={"x": [1]}, fixed={"file": str(write("abc", "b.txt"))}) == one
    assert keys(vary={"x": [1]}, fixed={"file": str(write("abd", "b.txt"))}) != one


def test_a_hash_is_of_the_data_and_how_they_are_read(write):
    data = {"run": "events", "vary": {"x": [1]}}
    one = keys(**data, inputs=[str(write("abc", "a.csv"))], site="hawc")
    assert keys(**data, inputs=[str(write("abc", "b.csv"))], site="hawc") == one
    for change in ({"site": "auger"}, {"site": "hawc", "columns": "time=UTC"}):
        assert keys(**data, inputs=[str(write("abc", "a.csv"))], **change) != one
    assert keys(**data, inputs=[str(write("abd", "a.csv"))], site="hawc") != one
    plan = plan_scan(spec_of(data | {"inputs": [str(write("abc", "a.csv"))]}))
    assert plan.inputs[0]["bytes"] == 3
    # SHA-256 of "abc", from the standard.
    assert plan.inputs[0]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_hash_is_of_the_program(monkeypatch):
    one = keys(vary={"x": [1]})
    assert code_version() == code_version() and "diffcr 0." in code_version()
    monkeypatch.setattr(scan_points, "code_version", lambda: "diffcr 0.1.0 (other)")
    assert keys(vary={"x": [1]}) != one


def test_a_plan_knows_the_files_that_it_depends_on(write):
    data, other = str(write("abc", "a.csv")), str(write("abd", "b.csv"))
    plan = plan_scan(
        spec_of({"run": "events", "vary": {"file": [other, data]}, "inputs": [data, "dataset:auger-8eev"]})
    )
    assert [each["file"] for each in plan.files] == [data, "dataset:auger-8eev", other]
    assert json.loads(json.dumps(plan.files)) == list(plan.files)


def test_progress_names_each_input(write):
    path, told = str(write("abc", "a.csv")), []
    plan_scan(spec_of({"run": "events", "vary": {"x": [1]}, "inputs": [path]}), told.append)
    assert told == [path]


def test_a_value_that_suits_no_other_is_refused():
    """x of 9 and of 7 each suit one y; y of 30 suits only x of 1."""
    plan = plan_scan(spec_of({"run": "waves", "vary": {"x": [1, 7, 9], "y": [3, 30]}}))
    assert [p.key == "" for p in plan.points] == [False, False, False, True, False, True]
    assert plan.points[3].message.startswith("x above 5 does not go") and len(plan.keys) == 4
    with pytest.raises(InputError, match=r"scan: \[vary\] y = 30.0 suits no other value: x above 5 does not"):
        keys(vary={"x": [7, 9], "y": [3, 30]})
    with pytest.raises(InputError, match=r"scan: x above 5 does not go .*\(at x = 7.0\)"):
        keys(vary={"x": [7, 9]}, fixed={"y": 30})
    with pytest.raises(InputError, match=r"\(at x = 9.0, y = 30.0\)"):
        keys(vary={"x": [1, 9], "y": [3, 30]}, design={"kind": "list"})
    # Drawn points meet such pairs by chance.
    drawn = spec_of(
        {
            "run": "waves",
            "vary": {"x": {"from": 0, "to": 10}, "y": {"from": 0, "to": 40}},
            "design": {"kind": "sobol", "points": 64},
        }
    )
    assert sum(not p.key for p in plan_scan(drawn).points) == 16


def test_batches_are_of_one_group_and_depend_on_the_list_alone():
    plan = plan_scan(spec_of({"run": "waves", "vary": {"x": list(range(50)), "l_max": [1, 2]}}))
    batches = plan.batches()
    assert all(len({p.settings["l_max"] for p in batch}) == 1 for batch in batches)
    # At most four at once, as the task says.
    assert [len(batch) for batch in batches] == ([4] * 12 + [2]) * 2
    assert sorted(p.key for batch in batches for p in batch) == sorted(plan.keys)
    # Few points are not given to one worker alone.
    few = plan_scan(spec_of({"run": "waves", "vary": {"x": list(range(6))}}))
    assert [len(batch) for batch in few.batches()] == [1] * 6


def test_drawn_points_that_repeat_are_computed_once():
    plan = plan_scan(spec_of({"run": "waves", "vary": {"x": [1, 2]}, "design": {"kind": "random", "points": 20}}))
    assert len(plan.points) == 20 and len(plan.keys) == 2 and sum(map(len, plan.batches())) == 2
