"""Scans that are killed, in every way there is: what was finished stays, and the same command does the rest."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr
from diffcr.inference import scan_points, scan_tasks
from small_scan import Waves, register

pytest.importorskip("distributed")

HERE = Path(__file__).parent
PROGRAM = "from diffcr.inference.cli import main; main()"


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(scan_tasks, "TASKS", {"waves": Waves()})
    monkeypatch.setattr(scan_points, "code_version", scan_points.code_version)
    register()


@pytest.fixture
def grid(write):
    """A scan file of so many points."""

    def grid(number):
        return write(f'run = "waves"\nvary.x = {{ from = 1, to = 90, number = {number} }}\n', "grid.toml")

    return grid


@pytest.fixture
def start(tmp_path):
    """Start a program in Python, where scans know the small task, of so many seconds for each point.

    It does not outlive the test.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import small_scan\nsmall_scan.register()\n")
    path = os.pathsep.join([str(tmp_path / "site"), str(HERE)])
    running = []

    def start(*arguments, seconds=0.0):
        environment = {**os.environ, "PYTHONPATH": path, "JAX_ENABLE_X64": "1", "WAVES_SECONDS": str(seconds)}
        command = [sys.executable, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(true, process, seconds=120):
    until = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def logged(folder):
    """Lines of the log."""
    path = folder / "scan.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished(folder):
    """Inode and time of change of each finished point."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (folder / "points").glob("*.npz")}


def require_same(folder, other, before):
    """All results are those of a run that was left alone, and what was finished stayed as it was."""
    now = finished(folder)
    assert {name: now[name] for name in before} == before
    with xr.open_dataset(folder / "scan.nc") as one, xr.open_dataset(other / "scan.nc") as two:
        xr.testing.assert_equal(one.drop_vars("seconds"), two.drop_vars("seconds"))
        assert one["converged"].all()
    # No point was computed after it was finished. A kill between a file and its line leaves one without the other.
    lines = [f"{line['point']}.npz" for line in logged(folder)]
    assert len(set(lines)) == len(lines) and set(lines) <= now.keys() and len(now) - len(lines) <= 2


def require_rest(run, file, folder, before, tmp_path):
    """The same command goes on and ends as a run does that was left alone."""
    for place in (folder, tmp_path / "alone"):
        code, _, err = run("scan", file, "--no-plots", "-o", place)
        assert code == 0, err
    require_same(folder, tmp_path / "alone", before)


def test_a_killed_scan_goes_on_where_it_was(run, grid, tmp_path, start):
    file, folder = grid(100), tmp_path / "killed"
    process = start("-c", PROGRAM, "scan", file, "--no-plots", "-o", folder, seconds=0.03)
    wait_for(lambda: len(finished(folder)) >= 5, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = finished(folder)
    assert 5 <= len(before) < 100 and not (folder / "scan.json").exists()
    require_rest(run, file, folder, before, tmp_path)


def test_an_interrupt_is_code_130_and_leaves_what_is_finished(run, grid, tmp_path, start):
    file, folder = grid(100), tmp_path / "interrupted"
    process = start("-c", PROGRAM, "scan", file, "--no-plots", "-o", folder, seconds=0.03)
    wait_for(lambda: len(finished(folder)) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and err.endswith("interrupted\n")
    before = finished(folder)
    assert len(before) >= 3 and not list(folder.rglob("*.part")) and not (folder / "scan.json").exists()
    require_rest(run, file, folder, before, tmp_path)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def workers_of(folder):
    """Process numbers of those that computed points."""
    return {int(line["worker"].rpartition(":")[2]) for line in logged(folder)}


def test_a_killed_worker_costs_nothing_but_time_and_a_killed_driver_takes_its_workers_along(run, grid, tmp_path, start):
    file, folder = grid(400), tmp_path / "killed"
    process = start("-c", PROGRAM, "scan", file, "--workers", "2", "--no-plots", "-o", folder, seconds=0.25)
    wait_for(lambda: len(workers_of(folder)) == 2, process)
    victim = min(workers_of(folder))
    os.kill(victim, signal.SIGKILL)
    # A new worker takes its place.
    wait_for(lambda: len(workers_of(folder)) == 3, process)
    pids = workers_of(folder) - {victim}
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in pids), None, 30)
    before = finished(folder)
    assert len(before) < 400 and not (folder / "scan.json").exists()
    require_rest(run, file, folder, before, tmp_path)


@pytest.mark.slow
def test_a_killed_worker_alone_changes_nothing(run, grid, tmp_path, start):
    file, folder = grid(60), tmp_path / "killed"
    process = start("-c", PROGRAM, "scan", file, "--workers", "2", "--no-plots", "-o", folder, seconds=0.5)
    wait_for(lambda: len(workers_of(folder)) == 2, process)
    os.kill(min(workers_of(folder)), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "60 (grid, 60), 0 failed" in out
    code, _, err = run("scan", file, "--no-plots", "-o", tmp_path / "alone")
    assert code == 0, err
    require_same(folder, tmp_path / "alone", {})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_lost_scheduler_is_code_3_and_leaves_what_is_finished(run, grid, tmp_path, start):
    file, folder, port = grid(400), tmp_path / "lost", free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet = ("--no-dashboard",)
    scheduler = start("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, *quiet)
    start(
        *("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-nanny"),
        *("--local-directory", tmp_path, *quiet),
        seconds=0.2,
    )
    process = start("-c", PROGRAM, "scan", file, "--scheduler", address, "--no-plots", "-o", folder)
    wait_for(lambda: len(finished(folder)) >= 5, process)
    scheduler.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "diffcr: the Dask scheduler was lost" in err and "run the same command again" in err
    before = finished(folder)
    assert 5 <= len(before) < 100 and not (folder / "scan.json").exists()
    require_rest(run, file, folder, before, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run([shutil.which("umount"), str(place)], check=True)


def test_a_full_disk_is_code_2_and_what_is_finished_is_whole(run, grid, tmp_path, small_disk):
    file, folder = grid(60), small_disk / "out"
    code, _, err = run("scan", file, "--no-plots", "-o", folder)
    assert code == 2 and "No space left on device" in err and err.count("error") == 1
    before = finished(folder)
    assert len(before) >= 3 and not list(folder.rglob("*.part")) and not (folder / "scan.json").exists()
    # Whatever stands under its name is complete: it is used as it is after a move to where there is space.
    shutil.copytree(folder, tmp_path / "space", copy_function=shutil.copy2)
    before = finished(tmp_path / "space")
    require_rest(run, file, tmp_path / "space", before, tmp_path)
