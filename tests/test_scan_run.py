"""Scans run: what is kept, what is computed again, failures of single points, damage, and what the dry run says."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from diffcr.inference import scan_points, scan_tasks
from diffcr.inference.scan import _arrived, run_scan, scan
from diffcr.inference.scan_batch import run_batch
from diffcr.inference.scan_cost import cost_of
from diffcr.inference.scan_points import plan_scan
from diffcr.inference.scan_spec import spec_of
from diffcr.inference.scan_task import OVERHEAD
from diffcr.inference.workers import Workers
from small_scan import Waves

from diffcr.errors import FitError, InputError

RUNNING = sys.modules["diffcr.inference.scan"]
"""The module; its name in the package is that of the function."""


class Counted(Waves):
    """The same, which knows what it was asked for."""

    def __init__(self):
        self.asked = []

    def run(self, source, settings):
        self.asked += [(each["x"], each["y"]) for each in settings]
        return super().run(source, settings)


@pytest.fixture
def task(monkeypatch):
    task = Counted()
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": task})
    return task


def planned(vary, **more):
    return plan_scan(spec_of({"run": "waves", "vary": vary, **more}))


GRID = {"x": [1, 2, 3], "y": [0, 5]}


def test_a_scan_gives_a_dataset_and_keeps_it(task, tmp_path):
    dataset = scan(run="waves", vary=GRID, output=tmp_path / "out")
    np.testing.assert_array_equal(dataset["height"], [[1, 51], [4, 54], [9, 59]])
    with xr.open_dataset(tmp_path / "out" / "scan.nc") as read:
        xr.testing.assert_identical(read, dataset)
    summary = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert summary["best"]["settings"] == {"x": 3.0, "y": 5.0} and summary["best"]["value"] == 59
    assert (summary["points"], summary["failed"], summary["not_converged"]) == (6, 0, 0)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"scan.nc", "scan.json", "scan.log", "points"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "scan.log").read_text().splitlines()]
    assert {line["point"] for line in lines} == {p.stem for p in (tmp_path / "out" / "points").iterdir()}
    assert all(line["worker"].endswith(f":{os.getpid()}") and line["seconds"] >= 0 for line in lines)


def test_a_scan_without_output_leaves_nothing(task, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    dataset = scan("waves", {"x": {"from": 1, "to": 100, "number": 3, "scale": "log"}}, fixed={"y": 2})
    np.testing.assert_array_equal(dataset["height"], [21, 120, 10020])
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_not_computed_again_and_a_wider_scan_uses_it(task, tmp_path):
    first = run_scan(planned(GRID), tmp_path).dataset
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "points").iterdir()}
    task.asked.clear()
    seen = []
    again = run_scan(planned(GRID), tmp_path, progress=lambda *three: seen.append(three)).dataset
    assert task.asked == [] and [three[:2] for three in seen] == [(6, 6)]
    xr.testing.assert_equal(again, first)
    wider = run_scan(planned({"y": [0, 5, 7], "x": [1, 2, 3]}), tmp_path).dataset
    assert sorted(task.asked) == [(1, 7), (2, 7), (3, 7)]
    np.testing.assert_array_equal(wider["height"].sel(y=[0, 5]).transpose("x", "y"), first["height"])
    assert {name: (tmp_path / "points" / name).stat().st_mtime_ns for name in times} == times


def test_damaged_points_are_told_and_computed_again(task, tmp_path):
    whole = run_scan(planned(GRID), tmp_path).dataset
    files = sorted((tmp_path / "points").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(files[2].read_bytes())
    files[3].write_bytes(b"")
    task.asked.clear()
    told = []
    again = run_scan(planned(GRID), tmp_path, tell=told.append).dataset
    assert len(task.asked) == 3 and len(told) == 3
    assert {line.split(":")[0] for line in told} == {str(files[k]) for k in (0, 1, 3)}
    assert all(line.endswith("; the point is computed again") for line in told)
    xr.testing.assert_equal(again.drop_vars("seconds"), whole.drop_vars("seconds"))


TROUBLES = {
    "message": "x is unlucky",
    "input": "a point of input",
    "fit": "a point of fit",
    "fault": "unexpected ZeroDivisionError: a point of fault",
    "memory": "unexpected MemoryError: a point of memory",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_point_that_fails_takes_no_other_with_it(task, tmp_path, trouble):
    """Four points in one batch: the second fails."""
    vary = {"x": [float(k) for k in range(30)], "trouble": ["none"] + [trouble] + ["none"] * 28}
    result = run_scan(planned(vary, design={"kind": "list"}), tmp_path)
    assert result.dataset["message"].values.tolist() == ["", TROUBLES[trouble]] + [""] * 28
    np.testing.assert_array_equal(result.dataset["height"], [0, np.nan, *(x**2 for x in range(2, 30))])
    assert result.summary["failed"] == 1 and result.summary["first_message"] == TROUBLES[trouble]
    failed = json.loads((tmp_path / "failed.json").read_text())["failed"]
    assert [(each["settings"]["x"], each["message"]) for each in failed] == [(1, TROUBLES[trouble])]
    # The same again tries what failed, and that alone.
    task.asked.clear()
    run_scan(planned(vary, design={"kind": "list"}), tmp_path)
    assert set(task.asked) == {(1.0, 0.0)}


def test_failures_are_forgotten_once_they_are_mended(task, tmp_path, monkeypatch):
    monkeypatch.setattr(Waves, "wave", lambda self, settings: "no luck")
    assert run_scan(planned(GRID), tmp_path).summary["failed"] == 6
    assert (tmp_path / "failed.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": task})
    assert run_scan(planned(GRID), tmp_path).summary["failed"] == 0
    assert not (tmp_path / "failed.json").exists()


def test_a_quantity_that_no_point_gives_ends_the_scan_with_the_first(task, tmp_path):
    plan = planned({"x": list(range(40))}, best={"quantity": "depth"})
    with pytest.raises(InputError, match=r"scan: \[best\] quantity 'depth' is no number that each point gives"):
        run_scan(plan, tmp_path)
    assert len(task.asked) == 4


def test_a_full_disk_is_no_failure_of_a_point(task, tmp_path, monkeypatch):
    def full(*_, **__):
        raise InputError("points/a.npz: cannot be written (No space left on device)")

    monkeypatch.setattr("diffcr.inference.scan_store.save", full)
    with pytest.raises(InputError, match="No space left"):
        run_scan(planned(GRID), tmp_path)
    assert not (tmp_path / "scan.json").exists()


def test_a_log_that_cannot_be_written_is_one_line(task, tmp_path):
    (tmp_path / "scan.log").mkdir()
    with pytest.raises(InputError, match="scan.log: cannot be written .*run the same command"):
        run_scan(planned(GRID), tmp_path)


def test_a_folder_that_is_a_file_is_one_line(task, tmp_path):
    (tmp_path / "points").write_text("")
    with pytest.raises(InputError, match="points: cannot be made"):
        run_scan(planned(GRID), tmp_path)


def job_of(plan, folder, **changes):
    points = [{"key": p.key, "settings": p.settings} for p in plan.points]
    source = plan.spec.source.as_json()
    job = {"run": "waves", "source": source, "folder": str(folder), "code": plan.code, "points": points}
    job |= {"files": list(plan.files)}
    return json.loads(json.dumps(job | changes))


def test_a_job_that_is_run_twice_computes_once(task, tmp_path):
    (tmp_path / "points").mkdir()
    job = job_of(planned(GRID), tmp_path)
    one, two = run_batch(job), run_batch(job)
    assert sorted(one["computed"]) == sorted(two["computed"]) == sorted(p["key"] for p in job["points"])
    assert len(task.asked) == 6


def test_a_worker_with_other_code_refuses(task, tmp_path):
    (tmp_path / "points").mkdir()
    with pytest.raises(InputError, match="worker on .* has diffcr .*, not diffcr 0.0; install the same there"):
        run_batch(job_of(planned(GRID), tmp_path, code="diffcr 0.0"))


def test_a_file_that_is_late_is_waited_for(task, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(FitError, match="is gone after it was written; run the same command again"):
        _arrived(tmp_path, "abc")


def test_what_killed_runs_left_half_written_is_removed_once_it_is_old(task, tmp_path):
    (tmp_path / "points").mkdir()
    old, new = tmp_path / "points" / ".a.npz.12.part", tmp_path / "points" / ".b.npz.12.part"
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (time.time() - 7200,) * 2)
    run_scan(planned({"x": [1]}), tmp_path)
    assert not old.exists() and new.exists()


def test_points_of_other_code_are_not_used(task, tmp_path, monkeypatch):
    run_scan(planned(GRID), tmp_path)
    task.asked.clear()
    monkeypatch.setattr(scan_points, "code_version", lambda: "diffcr 9")
    told = []
    run_scan(planned(GRID), tmp_path, tell=told.append)
    assert len(task.asked) == 6
    assert len(told) == 1 and told[0].startswith("6 points in ") and told[0].endswith("version of diffcr, and not used")


def test_workers_are_given_batches_and_the_folder(task, tmp_path, monkeypatch):
    def run_jobs(function, jobs, workers, done, folder):
        assert function is run_batch and workers == Workers(number=2) and folder == tmp_path
        for number, job in reversed(list(enumerate(json.loads(json.dumps(jobs))))):
            done(number, json.loads(json.dumps(function(job))))

    monkeypatch.setattr(RUNNING, "run_jobs", run_jobs)
    dataset = scan("waves", GRID, output=tmp_path, workers=Workers(number=2))
    np.testing.assert_array_equal(dataset["height"], [[1, 51], [4, 54], [9, 59]])


# Files that change --------------------------------------------------------------------------------------


class Reader(Waves):
    """y is the number in the input; x^2 is added."""

    name = "reader"
    needs = "optional"
    meddle = staticmethod(lambda: None)

    def run(self, source, settings):
        out = []
        for each in settings:
            number = float(Path(source.inputs[0] if source.inputs else each["file"]).read_text())
            out.append(self.wave(each | {"y": number}))
            self.meddle()
        return out


@pytest.fixture(params=["input", "setting"])
def reading(request, monkeypatch, tmp_path):
    """A task and a scan of it, which depends on a file as its input, or as one of its settings."""
    task = Reader()
    monkeypatch.setattr(scan_tasks, "TASKS", {"reader": task})
    file = tmp_path / "data.csv"
    file.write_text("1.0")
    own = {"inputs": [str(file)]} if request.param == "input" else {"fixed": {"file": str(file)}}
    return task, file, lambda: planned({"x": [1, 2, 3]}, **{"run": "reader"} | own)


def changed(file, content: str):
    file.write_text(content)
    # Clocks of files may stand still for milliseconds.
    os.utime(file, (time.time() + 10,) * 2)


CHANGED = r"data.csv: changed while the scan ran; run the same command again"


def test_a_file_that_changed_after_it_was_hashed_is_refused(reading, tmp_path):
    _, file, plan = reading
    first = plan()
    changed(file, "2.0")
    with pytest.raises(InputError, match=CHANGED):
        run_scan(first, tmp_path / "out")
    assert not list((tmp_path / "out" / "points").iterdir()) and not (tmp_path / "out" / "scan.nc").exists()
    again = run_scan(plan(), tmp_path / "out").dataset
    np.testing.assert_array_equal(again["height"], [21, 24, 29])


def test_a_file_that_changes_while_a_point_is_computed_leaves_no_point_of_other_data(reading, tmp_path):
    task, file, plan = reading
    task.meddle = lambda: changed(file, "2.0")
    with pytest.raises(InputError, match=CHANGED):
        run_scan(plan(), tmp_path / "out")
    task.meddle = lambda: None
    assert not list((tmp_path / "out" / "points").iterdir())
    # As it was: everything is computed, and nothing is left of the other content.
    changed(file, "1.0")
    again = run_scan(plan(), tmp_path / "out").dataset
    np.testing.assert_array_equal(again["height"], [11, 14, 19])


def test_a_file_that_vanishes_is_no_failure_of_a_point(reading, tmp_path):
    task, file, plan = reading
    task.meddle = lambda: file.unlink(missing_ok=True)
    with pytest.raises(InputError, match=CHANGED):
        run_scan(plan(), tmp_path / "out")


def test_a_file_that_changes_after_the_last_point_is_seen_before_results_are_written(reading, tmp_path, monkeypatch):
    _, file, plan = reading
    assembled = RUNNING.assemble
    monkeypatch.setattr(RUNNING, "assemble", lambda *all_: (changed(file, "2.0"), assembled(*all_))[1])
    with pytest.raises(InputError, match=CHANGED):
        run_scan(plan(), tmp_path / "out")
    assert not (tmp_path / "out" / "scan.nc").exists()
    # Its points are those of the file as it was.
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / "points").iterdir())) == 3


def test_a_file_that_is_touched_is_the_same(reading, tmp_path):
    _, file, plan = reading
    first = plan()
    changed(file, "1.0")
    np.testing.assert_array_equal(run_scan(first, tmp_path / "out").dataset["height"], [11, 14, 19])


# The dry run --------------------------------------------------------------------------------------------


def test_the_cost_is_that_of_what_is_left(task, tmp_path):
    vary = {"x": [1, 2, 7, 8], "l_max": [1, 3], "y": [0, 30]}
    run_scan(planned({"x": [1, 2]}, fixed={"l_max": 1, "y": 0}), tmp_path)
    task.asked.clear()
    before = sorted(tmp_path.rglob("*"))
    told = []
    cost = cost_of(planned(vary, fixed={"seconds": 0}), tmp_path, told.append)
    assert sorted(tmp_path.rglob("*")) == before and not told
    assert (cost.points, cost.refused, cost.done, cost.left, cost.groups) == (16, 4, 2, 10, 2)
    # Two of each group are timed.
    assert len(task.asked) == 4 and cost.memory == OVERHEAD + 3e8
    assert 1e3 * 12 < cost.disk < 2e4 * 12


def test_the_time_is_that_of_points_and_of_the_start_of_each_group(tmp_path, monkeypatch):
    class Slow(Waves):
        def __init__(self):
            self.seen = set()

        def run(self, source, settings):
            time.sleep(0.2 if settings[0]["l_max"] not in self.seen else 0.05)
            self.seen.add(settings[0]["l_max"])
            return super().run(source, settings)

    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": Slow()})
    cost = cost_of(planned({"x": [1, 2, 3], "l_max": [1, 2]}), tmp_path / "none", lambda _: None)
    assert cost.point_seconds == pytest.approx(0.05, abs=0.03) and cost.start_seconds == pytest.approx(0.15, abs=0.05)
    assert cost.seconds() == pytest.approx(2 * cost.start_seconds + 6 * cost.point_seconds)
    assert cost.seconds(2) == pytest.approx(2 * cost.start_seconds + 3 * cost.point_seconds)
    # Six points are six batches, which more workers cannot share.
    assert cost.seconds(100) == cost.seconds(6)


def test_a_timed_point_that_fails_is_told(task, tmp_path):
    told = []
    cost = cost_of(planned({"x": [1]}, fixed={"trouble": "input"}), tmp_path, told.append)
    assert told == ["the point x = 1.0 fails: a point of input"] and np.isnan(cost.disk)


def test_nothing_left_takes_no_time(task, tmp_path):
    run_scan(planned(GRID), tmp_path)
    cost = cost_of(planned(GRID), tmp_path, lambda _: None)
    assert cost.left == 0 and cost.seconds(3) == 0 and cost.disk > 0
