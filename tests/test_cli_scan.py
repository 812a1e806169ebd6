"""`diffcr scan` as users run it: what is written and told, planned, and refused in one line."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from diffcr.inference import cli_scan, scan_points, scan_tasks
from diffcr.inference.cli_progress import Counting
from diffcr.inference.cli_scan import describe, problem_of
from small_scan import Waves, register


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": Waves()})
    monkeypatch.setattr(scan_points, "code_version", scan_points.code_version)
    register()


GRID = 'run = "waves"\nfixed.seconds = {seconds}\n[vary]\nx = {{ from = 1, to = {number}, number = {number} }}\n'


@pytest.fixture
def grid(write):
    """A scan file of so many points, each of so many seconds."""
    return lambda number, seconds=0.0: write(GRID.format(number=number, seconds=seconds), "grid.toml")


def test_a_scan_writes_its_results_and_tells_the_best(run, write, tmp_path):
    file = write('run = "waves"\n[vary]\nx = [1, 2, 3]\ny = { from = 0, to = 8, number = 9 }\n', "a.toml")
    code, out, err = run("scan", file, "--no-plots", "-o", tmp_path / "out")
    assert code == 0, err
    assert "points           27 (grid, 3 x 9), 0 failed" in out
    assert "varied           x: 1, 2, 3 pc\n" in out and "varied           y: 0 to 8, 9 values" in out
    assert "best             largest height 89 at x = 3, y = 8" in out
    assert "scanned          27 of 27 points" in err
    with xr.open_dataset(tmp_path / "out" / "scan.nc") as read:
        np.testing.assert_array_equal(read["height"], read["x"] ** 2 + 10 * read["y"])
        assert read.attrs["command"].startswith("diffcr scan ") and read.attrs["command"].endswith("out")
    assert json.loads((tmp_path / "out" / "scan.json").read_text())["best"]["value"] == 89


def test_failed_points_are_code_3_and_the_results_are_there(run, write, tmp_path):
    file = write('run = "waves"\nvary.x = [1, 2]\nvary.trouble = ["none", "fit", "message"]\n', "a.toml")
    code, out, err = run("scan", file, "--no-plots", "-o", tmp_path / "out")
    assert code == 3
    assert "diffcr: 4 of 6 points failed, the first: a point of fit; results were written" in err
    assert "6 (grid, 2 x 3), 4 failed" in out and (tmp_path / "out" / "failed.json").exists()


def test_points_that_do_not_converge_are_code_3(run, write, tmp_path):
    code, out, err = run("scan", write('run = "waves"\nvary.x = [-60, 2]\n', "a.toml"), "--no-plots", "-o", tmp_path)
    assert code == 3 and "1 of 2 points did not converge (see converged in scan.nc); results were written" in err
    assert "largest height 4 at x = 2" in out and "1 points that did not converge are passed over" in out


def test_a_dry_run_plans_and_writes_nothing(run, grid, tmp_path):
    code, out, err = run("scan", grid(20, 0.01), "--dry-run", "--workers", "2", "-o", tmp_path / "out")
    assert code == 0, err
    assert "points           20 (grid, 20), 0 done, 20 left" in out
    assert "groups           1 that share compiled programs, in 7 batches" in out
    assert re.search(r"^memory           [\d.]+ GB for each worker$", out, re.MULTILINE)
    assert re.search(r"^time of a point  0\.01\d* s, and .* s to start a group$", out, re.MULTILINE)
    assert re.search(r"^total            0\.1\d* s on 2 workers$", out, re.MULTILINE), out
    assert re.search(r"^disk             0\.0\d+ MB", out, re.MULTILINE)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.toml"]


def test_a_dry_run_of_which_nothing_would_come_is_code_3(run, write, tmp_path):
    file = write('run = "waves"\nvary.x = [1, 2, 3]\nvary.trouble = ["fit", "message"]\n', "a.toml")
    code, out, err = run("scan", file, "--dry-run", "-o", tmp_path / "out")
    assert code == 3 and "6 (grid, 3 x 2), 0 done, 6 left" in out
    assert "no point that was timed has a result; the first: a point of " in err
    file = write('run = "waves"\nvary.trouble = ["fit", "none"]\nfixed.x = 1\n', "b.toml")
    code, _, err = run("scan", file, "--dry-run", "-o", tmp_path / "out")
    assert code == 0 and "fails: a point of fit" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.toml", "b.toml"]


BAD = {
    "no file": (None, "a.toml: cannot be read"),
    "toml": ("run", "a.toml: is not TOML"),
    "task": ('run = "wave"\nvary.x = [1]', "a.toml: there is no task 'wave'; did you mean 'waves'"),
    "setting": ('run = "waves"\nvary.z = [1]', r"a.toml: \[vary\]: waves has no setting 'z'"),
    "value": ('run = "waves"\nvary.x = [1e3]', r"a.toml: \[vary\] x must be at least -100 and at most 100, not 1000"),
    "output": ('run = "waves"\noutput = "x"\nvary.x = [1]', "a.toml: has no key 'output'"),
    "best": ('run = "waves"\nvary.x = [1]\nbest.quantity = "depth"', "quantity 'depth' is no number that each point"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run, write, tmp_path, case):
    text, message = BAD[case]
    file = tmp_path / "a.toml" if text is None else write(text, "a.toml")
    code, _, err = run("scan", file, "-o", tmp_path / "out")
    assert code == 2 and err.startswith("diffcr: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out" / "scan.json").exists()


def test_workers_that_contradict_are_one_line(run, grid, tmp_path):
    code, _, err = run("scan", grid(2), "--workers", "2", "--scheduler", "tcp://127.0.0.1:1", "-o", tmp_path / "out")
    assert code == 2 and "each say where to run; give one of them" in err and not (tmp_path / "out").exists()


def test_large_inputs_are_told_before_they_are_read(monkeypatch, write, capsys):
    name = str(write("abc", "a.csv"))
    cli_scan._reading(name)
    cli_scan._reading("dataset:auger-8eev")
    monkeypatch.setattr(cli_scan, "_LARGE", 2)
    cli_scan._reading(name)
    assert capsys.readouterr().err == f"note             reading {name} for its checksum\n"


def test_progress_tells_what_is_left(capsys):
    with Counting("scanning", "scanned", "points") as bar:
        bar(2, 10, 0.5)
        bar(4, 10, 40.5)
        bar(6, 10, 45.0)
        bar(10, 10, 150.0)
    told = capsys.readouterr().err.splitlines()
    # Two points took 40 s, six are left.
    assert told == ["scanned          4 of 10 points in 40 s, 2 min left", "scanned          10 of 10 points in 150 s"]


def test_a_random_design_is_told_by_its_span():
    axes = {"x": {"low": 1.0, "high": 2.5, "units": "pc"}}
    summary = {"points": 8, "design": {"kind": "sobol", "shape": [8]}, "failed": 0, "axes": axes, "best": None}
    assert describe(summary) == ["points           8 (sobol, 8), 0 failed", "varied           x: 1 to 2.5 pc"]
    assert problem_of({"failed": 0, "not_converged": 0}) is None
