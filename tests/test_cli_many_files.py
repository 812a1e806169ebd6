"""`diffcr bin` over many event files as its users call it: what it takes, tells, leaves behind, and survives."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffcr.inference import cli_many_files, file_batches, load_counts
from diffcr.inference.synthetic_files import write_synthetic_files

OPTIONS = ("--site", "hawc", "--grid", "36x18")
ARRAYS = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with eight event lists of 300 events in it and below."""
    folder = tmp_path_factory.mktemp("nights")
    write_synthetic_files(folder / "2016", 4, 300, 1)
    write_synthetic_files(folder / "2017", 2, 300, 2, "hdf5", start=6300.5)
    write_synthetic_files(folder, 2, 300, 3, "csv", start=6400.5)
    return folder


@pytest.fixture(scope="module")
def undisturbed(files, tmp_path_factory):
    """Counts of all of them, read one by one by the command as it is for few files."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        from diffcr.inference.cli import main

        names = [*sorted(files.glob("2016/*")), *sorted(files.glob("2017/*")), *sorted(files.glob("*.csv"))]
        patch.setattr(sys, "argv", ["diffcr", "bin", *map(str, names), *OPTIONS, "-o", str(folder / "counts.nc")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["counts.nc"]
    return load_counts(folder / "counts.nc")


def same_events(one, other) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS[:5])


def same(one, other) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in ARRAYS)


def table(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# What it takes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "patterns", "list", "names and list", "skip"])
def test_folders_patterns_and_lists_give_the_counts_of_the_files(run, files, undisturbed, tmp_path, monkeypatch, way):
    monkeypatch.chdir(files)
    first, rest = ["2016/*.parquet"], ["2017", "*.csv"]
    names = [str(path.relative_to(files)) for path in sorted(files.glob("**/*.*"))]
    (tmp_path / "list.txt").write_text("\n".join(names if way == "list" else names[4:]) + "\n")
    words = {
        "folder": ["."],
        "patterns": [*first, *rest],
        "list": ["--list", tmp_path / "list.txt"],
        "names and list": [*names[:4], "--list", tmp_path / "list.txt"],
        "skip": [*names, "--skip-bad-files"],
    }[way]
    code, out, err = run("bin", *words, *OPTIONS, "-o", tmp_path / "counts.nc")
    assert code == 0, err
    counts = load_counts(tmp_path / "counts.nc")
    assert same_events(counts, undisturbed)
    assert "counts           HAWC: 2400 events" in out
    assert f"accounts         {tmp_path / 'counts.files.csv'}: 8 files with 2400 rows read in" in err
    assert "million rows/s" in err
    rows = table(tmp_path / "counts.files.csv")
    assert sorted(row["file"].removeprefix("./") for row in rows) == sorted(names)
    assert {row["status"] for row in rows} == {"counted"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.files.csv", "counts.nc", "list.txt"]


def test_few_names_are_read_as_ever_and_leave_nothing_beside_the_counts(run, files, tmp_path):
    names = sorted(files.glob("2016/*"))
    assert run("bin", *names, *OPTIONS, "-o", tmp_path / "counts.nc")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["counts.nc"]


def test_many_names_are_read_in_batches(run, files, tmp_path, monkeypatch):
    """So many that their lines are told together, and epochs and blinding act on the sum."""
    monkeypatch.setattr(cli_many_files, "_FEW", 3)
    monkeypatch.setattr("diffcr.inference.cli_options._MOST_INPUTS", 3)
    names = [*sorted(files.glob("2016/*")), *sorted(files.glob("2017/*"))]
    words = (*names, *OPTIONS, "--epochs", "yearly", "--blind", "secret", "--energy-min", "1.2")
    code, _, err = run("bin", *words, "-o", tmp_path / "counts.nc")
    assert code == 0, err
    counts = load_counts(tmp_path / "counts.nc")
    assert counts.epochs == ("2016", "2017") and counts.blinded
    assert "read             6 inputs: time=time_unix, ra=ra, dec=dec, energy=energy (equinox j2000; HAWC)" in err
    assert "note             6 inputs: time: column 'time_unix', format unix by its name" in err
    cut = 1800 - int(counts.num_events.sum())
    assert f"cut              {cut} by energy of 1800 events of 6 inputs" in err
    assert (tmp_path / "counts.files.csv").exists()


def test_counts_files_met_by_a_pattern_are_joined_as_ever(run, files, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("bin", files / "2016", *OPTIONS, "-o", "one.nc")[0] == 0
    assert run("bin", files / "2017", f"{files}/*.csv", *OPTIONS, "-o", "two.nc")[0] == 0
    assert run("bin", "*.nc", "-o", "sum.nc")[0] == 0
    assert same_events(load_counts("sum.nc"), undisturbed)
    # The names of the files of both folders of events are kept.
    assert len(load_counts("sum.nc").inputs) == 8


def test_same_event_list_in_counts_and_as_a_file_is_found_after_binning_in_batches(run, files, tmp_path):
    assert run("bin", files / "2016", *OPTIONS, "-o", tmp_path / "one.nc")[0] == 0
    words = (tmp_path / "one.nc", files / "2016" / "events_00001.parquet", *OPTIONS)
    code, _, err = run("bin", *words, "-o", tmp_path / "sum.nc")
    assert code == 2 and "the same events are already counted from events_00001.parquet" in err


# What it refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*OPTIONS,), "no input was given: name event lists, folders, patterns in quotes, or --list FILE"),
        (("2016",), "many event lists need one --site NAME, or --site LAT,LON,ZENITH in degrees"),
        (("2016", *OPTIONS, "--site", "lhaaso"), "need one --site .*; bin each observatory by itself, then join"),
        (("2018/*.csv", *OPTIONS), r"2018/\*.csv: no file matches this pattern"),
        (("2016", "2016/*0.parquet", *OPTIONS), "2016/events_00000.parquet: is named twice; .*no two patterns overlap"),
        (("dataset:auger-8eev", "--skip-bad-files", *OPTIONS), "dataset:auger-8eev: is no event list"),
        (("--list", "nowhere.txt", *OPTIONS), "nowhere.txt: the list of files cannot be read"),
        (("2016", *OPTIONS, "--bin-reference", "center"), "--bin-reference is for local maps"),
        (("2016", *OPTIONS, "--workers", "0"), "--workers must be at least 1"),
        (("2016", *OPTIONS, "--time-format", "gps"), "--time-format must be one of unix"),
    ],
)
def test_wrong_calls_are_told_in_one_line_and_leave_nothing(run, files, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(files)
    code, out, err = run("bin", *words, "-o", tmp_path / "counts.nc")
    assert code == 2 and out == ""
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.rglob("*.n*"))


def test_all_bad_files_are_told_and_the_others_kept_until_the_command_is_given_again(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr(file_batches, "MOST_FILES", 2)
    own = tmp_path / "own"
    shutil.copytree(files, own)
    whole = {name: (own / name).read_bytes() for name in ("2016/events_00001.parquet", "2017/events_00000.h5")}
    for name, content in whole.items():
        (own / name).write_bytes(content[:900])
    output = tmp_path / "counts.nc"
    output.write_text("precious")
    code, out, err = run("bin", own, *OPTIONS, "-o", output)
    assert code == 2 and out == "" and output.read_text() == "precious"
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [f"bad file         {own / name}" for name in whole]
    assert lines[2].startswith(f"diffcr: error: 2 of 8 files cannot be used, the first {own / '2016'}/events_00001")
    assert "--skip-bad-files" in lines[2] and len(lines) == 3
    kept = {path: path.stat().st_ino for path in (tmp_path / "counts.nc.parts").glob("*.npz")}
    assert kept
    for name, content in whole.items():
        (own / name).write_bytes(content)
    code, out, err = run("bin", own, *OPTIONS, "-o", output)
    assert code == 0, err
    assert "files were done before" in err
    assert load_counts(output).num_events.sum() == 2400
    assert not (tmp_path / "counts.nc.parts").exists()


def test_skipped_files_are_told_loudly_and_recorded(run, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        Path(f"bad{k}.csv").write_text("time_unix,ra,dec\n")
    shutil.copy(files / "events_00000.csv", "good.csv")
    Path("notes.md").write_text("")
    monkeypatch.setattr(cli_many_files, "_MOST_LINES", 2)
    code, _, err = run("bin", ".", *OPTIONS, "--skip-bad-files", "-o", "counts.nc")
    assert code == 0
    reason = "the file has a header but no rows; give a file with events"
    assert f"skipped          ./bad0.csv: {reason}\nskipped          ./bad1.csv: {reason}\n" in err
    assert "skipped          and 1 more, listed in counts.files.csv\n" in err
    assert "skipped          3 of 4 files; 300 rows of the others were read\n" in err
    assert "note             ./notes.md: not read, is no event list by name\n" in err
    assert [row["status"] for row in table(Path("counts.files.csv"))] == ["bad", "bad", "bad", "counted"]
    skipped = load_counts("counts.nc").history["skipped_files"]
    assert skipped == [{"file": f"bad{k}.csv", "reason": reason} for k in range(3)]
    # The accounts of this run are no event list for the next.
    code, _, err = run("bin", ".", *OPTIONS, "--skip-bad-files", "-o", "counts.nc")
    assert code == 0 and "note             ./counts.files.csv and 2 more: not read" in err


def test_epochs_that_are_not_to_be_merged_leave_the_batches_for_the_next_command(run, files, tmp_path):
    words = (files, *OPTIONS, "--epochs", "yearly", "--merge-epochs", "-o", tmp_path / "counts.nc")
    code, _, err = run("bin", *words)
    if code == 2:
        assert "likelihood-ratio test" in err
        assert list((tmp_path / "counts.nc.parts").glob("*.npz"))
    code, _, err = run("bin", *words, "--force")
    assert code == 0
    assert load_counts(tmp_path / "counts.nc").history["merged_epochs"] == ["2016", "2017"]
    assert not (tmp_path / "counts.nc.parts").exists()


# What it survives ------------------------------------------------------------------------------------------

DRIVER = """
import sys, time
from diffcr.inference import file_batches, many_files
from diffcr.inference.cli import main

file_batches.MOST_FILES = 1
read = many_files.bin_batch

def slowly(job):
    result = read(job)
    time.sleep(SECONDS)
    return result

if SECONDS:
    many_files.bin_batch = slowly
if __name__ == "__main__":
    main()
"""
"""The command with one file in a batch, and a rest after each."""


def start(folder: Path, seconds: float, *words) -> subprocess.Popen:
    program = folder / "driver.py"
    program.write_text(DRIVER.replace("SECONDS", str(seconds)))
    command = [sys.executable, str(program), "bin", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_parts(folder: Path, number: int, process: subprocess.Popen) -> dict[Path, tuple[int, int]]:
    """Wait until so many batches are kept; gives those there are, with inode and time of the last change."""
    for _ in range(2400):
        found = list(folder.glob("*.npz"))
        if len(found) >= number:
            return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no batch was kept")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_command_that_is_killed_goes_on_where_it_was(run, files, undisturbed, tmp_path, monkeypatch, how):
    words = (files, *OPTIONS, "-o", tmp_path / "counts.nc")
    process = start(tmp_path, 0.5, *words)
    kept = wait_for_parts(tmp_path / "counts.nc.parts", 2, process)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert err == ("diffcr: interrupted\n" if how == signal.SIGINT else "")
    assert not (tmp_path / "counts.nc").exists()
    for path, state in kept.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == state
    monkeypatch.setattr(file_batches, "MOST_FILES", 1)
    seen = []
    monkeypatch.setattr(
        "diffcr.inference.many_files.bin_batch", lambda job: seen.append(job) or file_batches.bin_batch(job)
    )
    code, _, err = run("bin", *words)
    assert code == 0 and len(seen) <= 6, err
    assert f"{8 - len(seen)} files were done before" in err
    assert same_events(load_counts(tmp_path / "counts.nc"), undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.files.csv", "counts.nc", "driver.py"]


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(run, tmp_path, monkeypatch):
    """All of them at once, in the middle of their files."""
    psutil = pytest.importorskip("psutil", reason="workers need diffcr[scan]")
    pytest.importorskip("distributed", reason="workers need diffcr[scan]")
    write_synthetic_files(tmp_path / "events", 6, 50_000, 4, "csv")
    words = (tmp_path / "events", *OPTIONS)
    process = start(tmp_path, 0, *words, "--workers", "2", "-o", tmp_path / "counts.nc")
    kept = wait_for_parts(tmp_path / "counts.nc.parts", 1, process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("spawn_main" in word for word in child.cmdline())
    ]
    assert len(workers) >= 2
    for child in workers:
        child.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(kept) < 6
    assert "HAWC: 300000 events" in out
    monkeypatch.setattr(file_batches, "MOST_FILES", 1)
    assert run("bin", *words, "-o", tmp_path / "again.nc")[0] == 0
    assert same(load_counts(tmp_path / "counts.nc"), load_counts(tmp_path / "again.nc"))
    assert [row["counted"] for row in table(tmp_path / "counts.files.csv")] == ["50000"] * 6


def test_full_disk_is_told_and_what_was_finished_is_kept(files, tmp_path):
    """On a file system of its own that is too small, in a mount namespace that ends with the command."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    program = tmp_path / "driver.py"
    program.write_text(DRIVER.replace("SECONDS", "0"))
    words = f"{sys.executable} {program} bin {files} --site hawc --grid 360x180 -o {small}/counts.nc"
    script = f"mount -t tmpfs -o size=64k tmpfs {small} && {{ {words}; echo code $?; ls -a {small} {small}/*.parts; }}"
    found = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "code" not in found.stdout:
        pytest.skip(f"no file system can be mounted here: {found.stderr}")
    assert "code 2" in found.stdout
    assert found.stderr.count("\n") == 1
    assert "No space left on device" in found.stderr and "free some space" in found.stderr
    names = found.stdout.split()
    assert any(name.endswith(".npz") for name in names)
    assert not any(name.endswith(".part") for name in names) and "counts.nc" not in names


def test_help_shows_how_many_files_are_named(run):
    code, out, _ = run("bin", "--help")
    assert code == 0
    for word in ("--list", "--skip-bad-files", "--workers", "--scheduler", "--slurm", "COUNTS.files.csv"):
        assert word in out


def test_counts_of_a_table_agree_with_pandas(run, files, tmp_path):
    """The energy cut of every file, counted by other means."""
    words = (files, *OPTIONS, "--energy-min", "2", "-o", tmp_path / "counts.nc")
    assert run("bin", *words)[0] == 0
    rows = {Path(row["file"]).name: row for row in table(tmp_path / "counts.files.csv") if "2016" in row["file"]}
    for path in files.glob("2016/*"):
        energy = pd.read_parquet(path)["energy"]
        assert int(rows[path.name]["counted"]) == (energy >= 2).sum()
        assert int(rows[path.name]["cut_energy"]) == (energy < 2).sum()
