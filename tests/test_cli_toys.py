"""`diffcr toys` as users run it: of a detector, of data, killed and continued, on workers, and refused in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from diffcr.inference.cli_toys import parse_dipole
from diffcr.inference.data import load_counts
from diffcr.inference.fit import fit
from scipy import stats

from diffcr.errors import InputError

SMALL = ("toys", "--site", "hawc", "--events", "2e4", "--grid", "12x9", "--seed", "3", "--block", "100")


def start(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "diffcr.inference.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def blocks(folder):
    return sorted((folder / "blocks").glob("*_0*.npz"))


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.01)


def estimates(folder):
    with xr.open_dataset(folder / "toys.nc") as found:
        return found.load()


@pytest.mark.smoke
def test_toys_of_a_detector(run, tmp_path):
    code, out, err = run(*SMALL, "--toys", "250", "--dipole", "0.1,-0.05", "-o", tmp_path / "out")
    assert code == 0, err
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"toys.json", "toys.nc", "blocks", "test_statistic.png", "p_value.png", "pulls.png"}
    assert [p.name for p in blocks(tmp_path / "out")] == [
        f"{kind}_0000{k}.npz" for kind in ("dipole", "isotropic") for k in range(3)
    ]
    content = json.loads((tmp_path / "out" / "toys.json").read_text())
    assert content["toys"] == 250 and content["grid"] == [9, 12] and content["observed"] is None
    assert content["isotropic"]["truth"] == [0, 0] and content["dipole"]["truth"] == [0.1, -0.05]
    (entry,) = content["configurations"]
    assert entry == {"name": "HAWC", "events": pytest.approx(2e4), "rate_bins": 12, "weight_spread": 0.0}
    entry = content["dipole"]["calibration"]["delta_0h"]
    assert abs(entry["bias"]) < 4 * entry["bias_error"]
    assert "detectors        HAWC (2e+04 events)" in out and "5 sigma in" in out and "toys.json" in out
    assert "500 of 500 toys" in err
    found = estimates(tmp_path / "out")
    assert found.sizes == {"sky": 2, "toy": 250, "component": 2, "pair": 3}
    # Another seed is another run; more toys are not.
    code, _, err = run(*SMALL, "--seed", "4", "--toys", "250", "-o", tmp_path / "out")
    assert code == 2 and "is of toys with other seed" in err and err.count("\n") == 1
    before = {p.name: p.stat().st_mtime_ns for p in blocks(tmp_path / "out")}
    code, _, err = run(*SMALL, "--toys", "330", "--no-plots", "-o", tmp_path / "out")
    assert code == 0, err
    after = {p.name: p.stat().st_mtime_ns for p in blocks(tmp_path / "out")}
    changed = [name for name in after if after[name] != before.get(name)]
    assert changed == ["isotropic_00002.npz", "isotropic_00003.npz"]
    longer = estimates(tmp_path / "out")
    np.testing.assert_array_equal(longer.estimate[0, :250], found.estimate[0])


def test_toys_of_data_give_the_p_value_of_their_fit(run, tmp_path):
    """Simulated counts with a dipole of four standard deviations."""
    counts = tmp_path / "counts.nc"
    made = run(
        *("simulate", "--site", "auger", "--events", "2e4", "--dipole", "0.05,0.04"),
        *("--grid", "24x18", "--seed", "7", "-o", counts),
    )
    assert made[0] == 0, made[2]
    common = ("toys", counts, "--grid", "12x9", "--toys", "120", "--no-plots")
    code, out, err = run(*common, "--dipole", "fitted", "-o", tmp_path / "out")
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "toys.json").read_text())
    result = fit(load_counts(counts))
    data = content["observed"]
    assert data["test_statistic"] == pytest.approx(result.test_statistic, rel=1e-9)
    assert data["p_chi2"] == pytest.approx(np.exp(-result.test_statistic / 2), rel=1e-6)
    assert data["from_cells_alone"] is None
    statistics = estimates(tmp_path / "out").test_statistic.sel(sky="isotropic").values
    above = int((statistics >= data["test_statistic"]).sum())
    assert data["toys_above"] == above and data["p"] == pytest.approx((above + 1) / 121)
    assert np.hypot(*content["dipole"]["truth"]) == pytest.approx(result.dipole.amplitude, rel=1e-6)
    assert content["configurations"][0]["events"] == pytest.approx(int(load_counts(counts).num_events.sum()))
    low, high = (float(stats.binomtest(above, 120).proportion_ci(0.95)[k]) for k in (0, 1))
    interval = f"95 % interval {low:.2g} to {high:.2g} (chi-squared "
    assert f"of 120 toys are above: p = {(above + 1) / 121:.2g}, {interval}" in out
    # What the counts cannot tell, and what has no effect.
    for extra, words in (
        (("--events", "1e4"), "--events has no effect with inputs"),
        (("--grid", "20x9"), "the grid of toys, 20 x 9, does not divide that of the counts, 24 x 18"),
        (("--zenith-max", "40"), "cannot be applied to counts"),
    ):
        code, _, err = run(*common, *extra, "-o", tmp_path / "no")
        assert code == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to draw from: name inputs, or give --site and --events"),
        (("--site", "hawc"), "nothing to draw from"),
        (("--site", "hawc", "--events", "1e4", "--dipole", "fitted"), "--dipole fitted needs inputs"),
        (("--site", "hawc", "--events", "1e4,1e4"), "--events takes one number or one for each of 1 --site, not 2"),
        (("--site", "hawc", "--events", "1e4", "--dipole", "1"), "--dipole takes two numbers"),
        (("--site", "hawc", "--events", "1e4", "--dipole", "0.9,0.9"), "a length below 1"),
        (
            ("--site", "hawc", "--events", "1e4", "--energy-min", "8"),
            "--energy-min or --energy-max has no effect",
        ),
        (("--site", "hawc", "--events", "1e4", "--azimuth", "x"), "--azimuth has no effect without inputs"),
        (("--site", "hawc", "--events", "-5"), "number of events of toys must be positive"),
        (("--site", "hawc", "--events", "8"), "too few events"),
        (("--site", "hawc", "--events", "1e4", "--toys", "3"), "--toys"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(run, tmp_path, arguments, words):
    code, _, err = run("toys", *arguments, "--grid", "12x9", "-o", tmp_path / "out")
    assert code == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_fits_that_fail_are_written_and_told(run, tmp_path):
    """25 events: of some skies the likelihood has no maximum."""
    code, out, err = run(
        *("toys", "--site", "hawc", "--events", "25", "--grid", "12x9", "--toys", "40", "--no-plots"),
        *("-o", tmp_path / "out"),
    )
    content = json.loads((tmp_path / "out" / "toys.json").read_text())
    failed = content["isotropic"]["not_converged"]
    assert failed > 0 and not content["converged"]
    assert f"not converged    {failed} of 40 (isotropic skies)" in out
    assert code == 3 and f"{failed} of 40 fits did not converge: draw toys with more events" in err


def test_dipoles_are_two_numbers_or_that_of_the_data():
    assert parse_dipole("0.1,-2e-3") == (0.1, -2e-3)
    assert parse_dipole("fitted") == "fitted"
    for text in ("best", "1,2,3", "nan,0"):
        with pytest.raises(InputError, match="--dipole takes"):
            parse_dipole(text)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(run, tmp_path):
    """SIGKILL in the middle, then the same command: finished blocks stay as they are, the rest is as if nothing was."""
    arguments = (*SMALL, "--toys", "60000", "--no-plots")
    process = start(*arguments, "-o", tmp_path / "cut")
    wait_for(lambda: len(blocks(tmp_path / "cut")) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p.name: p.stat().st_mtime_ns for p in blocks(tmp_path / "cut")}
    assert 3 <= len(done) < 600 and not (tmp_path / "cut" / "toys.json").exists()
    number = str(100 * len(done) + 250)
    arguments = (*SMALL, "--toys", number, "--no-plots")
    for folder in ("cut", "whole"):
        code, _, err = run(*arguments, "-o", tmp_path / folder)
        assert code == 0, err
    assert {p.name: p.stat().st_mtime_ns for p in blocks(tmp_path / "cut") if p.name in done} == done
    xr.testing.assert_identical(estimates(tmp_path / "cut"), estimates(tmp_path / "whole"))


@pytest.mark.slow
def test_workers_give_the_same_toys_also_when_one_of_them_is_killed(run, tmp_path):
    pytest.importorskip("distributed", reason="workers need diffcr[scan]")
    arguments = (*SMALL, "--toys", "20000", "--no-plots")
    process = start(*arguments, "--workers", "2", "-o", tmp_path / "workers")
    wait_for(lambda: len(blocks(tmp_path / "workers")) >= 2, process)
    os.kill(worker_of(process.pid), signal.SIGKILL)
    assert process.wait(timeout=200) == 0
    code, _, err = run(*arguments, "-o", tmp_path / "here")
    assert code == 0, err
    xr.testing.assert_identical(estimates(tmp_path / "workers"), estimates(tmp_path / "here"))


def worker_of(driver: int) -> int:
    """The process number of one worker: a grandchild or child of the driver that runs Dask's nanny's worker."""
    parents, names = {}, {}
    for each in os.listdir("/proc"):
        if each.isdigit():
            try:
                with open(f"/proc/{each}/stat") as file:
                    parents[int(each)] = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{each}/cmdline") as file:
                    names[int(each)] = file.read()
            except OSError:
                continue
    ours, new = {driver}, {driver}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - ours
        ours |= new
    return next(pid for pid in sorted(ours) if "spawn_main" in names.get(pid, ""))
