"""`diffcr backtrack` as users run it: what is written, killed and continued, planned, and refused in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray as xr
from diffcr.inference import backtrack_cost
from diffcr.inference.cli_backtrack import chosen_spectrum, parse_angles, start_devices
from diffcr.inference.cli_progress import Counting

from diffcr.errors import InputError
from diffcr.spectrum import coherence_length

SMALL = (
    *("--larmor-radius", "0.4", "--lambda-min", "0.5", "--lambda-max", "4", "--size", "6", "--samples", "2"),
    *("--omega-t", "4", "--omega-step", "0.1", "--nside", "4", "--devices", "1"),
)


def test_a_run_writes_its_tables_maps_and_pictures(run, tmp_path, write):
    data = write("l,C_l,error\n1,9e-8,1e-9\n2,2e-8,2e-9\n3,9e-9,1e-9\n", "cl.csv")
    code, out, err = run(
        *("backtrack", *SMALL, "--realisations", "10", "--step-check", "3", "--seed", "3"),
        *("--gradient", "0,30", "--data", data, "-o", tmp_path / "out"),
    )
    assert code == 0, err
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        *("backtrack.json", "backtrack.nc", "realisations", "half_step"),
        *(f"sky_{each}.fits" for each in ("parallel", "30deg")),
        *(f"power_{each}.csv" for each in ("parallel", "30deg")),
        *(f"{each}.png" for each in ("power", "shape", "skies", "diffusion")),
    }
    for name in names:
        if name.endswith(".png"):
            assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out" / "backtrack.json").read_text())
    assert content["settings"]["seed"] == 3 and content["settings"]["steps"] == 40
    assert content["cost"]["devices"].startswith("1 x ")
    assert content["step_check"]["realisations"] == 3
    with xr.open_dataset(tmp_path / "out" / "backtrack.nc") as read:
        assert read.sizes["realisation"] == 10 and list(read.gradient.values) == ["parallel", "30deg"]
    assert "gradient         30deg (30 degrees to B_0)" in out and "kappa_perp" in out and "backtrack.nc" in out
    assert "traced           13 of 13 realisations" in err
    # Again without --resume is refused; with it, only what is written changes.
    code, _, err = run("backtrack", *SMALL, "--realisations", "10", "-o", tmp_path / "out")
    assert code == 2 and "holds a run already; continue it with --resume" in err and err.count("\n") == 1
    code, _, err = run("backtrack", *SMALL, "--seed", "4", "--resume", "-o", tmp_path / "out")
    assert code == 2 and "is of a run with other seed" in err


def test_a_killed_run_goes_on_bit_for_bit(run, tmp_path):
    """SIGKILL while the second realisation or a later one is traced; then the same command with --resume."""
    arguments = [*("backtrack", *SMALL, "--realisations", "60", "--step-check", "2")]
    arguments.append("--no-plots")
    command = [sys.executable, "-m", "diffcr.inference.cli", *arguments, "-o", str(tmp_path / "killed")]
    first = tmp_path / "killed" / "realisations" / "00000.npz"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = sorted(p.name for p in first.parent.glob("*.npz"))
    assert 1 <= len(done) < 60 and not (tmp_path / "killed" / "backtrack.json").exists()
    times = {name: (first.parent / name).stat().st_mtime_ns for name in done}
    for more in (("--resume", "-o", tmp_path / "killed"), ("-o", tmp_path / "whole")):
        code, _, err = run(*arguments, *more)
        assert code == 0, err
    assert {name: (first.parent / name).stat().st_mtime_ns for name in done} == times
    with (
        xr.open_dataset(tmp_path / "killed" / "backtrack.nc") as one,
        xr.open_dataset(tmp_path / "whole" / "backtrack.nc") as two,
    ):
        xr.testing.assert_identical(one.drop_vars("seconds"), two.drop_vars("seconds"))
    mine, yours = (json.loads((tmp_path / each / "backtrack.json").read_text()) for each in ("killed", "whole"))
    assert {k: v for k, v in mine.items() if k != "cost"} == {k: v for k, v in yours.items() if k != "cost"}
    for name in ("sky_parallel.fits", "sky_perpendicular.fits"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_step_that_is_too_long_is_code_3_and_the_results_are_there(run, tmp_path):
    """Two steps of 0.7 rad, each as long as the smallest wave: C_5 comes out at half of what it is."""
    code, out, err = run(
        *("backtrack", "--larmor-radius", "0.71", "--lambda-min", "0.5", "--lambda-max", "1", "--size", "6"),
        *("--omega-t", "1.4", "--omega-step", "0.7", "--samples", "1", "--nside", "4", "--devices", "1"),
        *("--realisations", "8", "--step-check", "8", "--no-plots", "-o", tmp_path),
    )
    assert code == 3, err
    assert "the step is too long: <C_" in err and "lower --omega-step; results were written" in err
    assert json.loads((tmp_path / "backtrack.json").read_text())["step_check"]["passed"] is False
    assert "step check       FAILED" in out


def test_a_dry_run_plans_and_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(backtrack_cost, "_SLICE_SECONDS", 0.01)
    code, out, _ = run("backtrack", *SMALL, "--realisations", "100", "--dry-run", "-o", tmp_path / "out")
    assert code == 0
    assert "100 realisations x 192 pixels x 40 steps, 8 of them again with half the step" in out
    for word in ("memory", "disk", "speed", "realisation", "total"):
        assert re.search(rf"^{word}\s+\d", out, re.MULTILINE), out
    # 100 realisations and 8 of twice the steps: 116 times 192 x 40.
    assert "8.91e+05 of particles" in out
    assert not list(tmp_path.iterdir())


BAD = {
    "long step": (
        ("--omega-step", "0.5"),
        "--omega-step 0.5 is a step of 0.05 L_c, .* lambda_min = 0.01 L_c: use --omega-step 0.1 or less",
    ),
    "no time": (("--omega-t", "0"), "--omega-t must be above 0"),
    "time back": (("--omega-t", "-5"), "--omega-t must be above 0"),
    "infinite": (("--omega-t", "inf"), "--omega-t must be above 0"),
    "no step": (("--omega-step", "nan"), "--omega-step must be above 0"),
    "long turn": (("--omega-step", "1.5", "--lambda-min", "0.9"), "turns (a )?particles? by .* rad"),
    "wavelengths": (
        ("--lambda-min", "2", "--lambda-max", "1"),
        "--lambda-min 2 must be above 0 and below --lambda-max 1",
    ),
    "no wavelength": (("--lambda-min", "0"), "--lambda-min 0 must be above 0"),
    "memory": (("--nside", "8192", "--samples", "100"), "GB of memory, but .* are free: lower --nside"),
    "radius": (("--larmor-radius", "0"), "--larmor-radius must be a length in L_c other than 0"),
    "strength": (("--sigma2", "0"), "--sigma2 must be above 0"),
    "pixels": (("--nside", "12"), "nside .* power of two"),
    "degrees": (("--lmax", "96"), "from 2 to 3 nside - 1 = 95"),
    "one": (("--realisations", "1"), "at least 2"),
    "spectrum": (("--spectrum", "flat"), "--spectrum must be bend-over or power-law"),
    "slope": (("--slope", "nan"), "slope of a spectrum must be finite"),
    "field": (("--field", "tree"), "--field must be ladder, plane or grid"),
    "precision": (("--precision", "half"), "--precision must be single or double"),
    "size": (("--size", "0"), "size .* at least 1"),
    "samples": (("--samples", "0"), "samples .* at least 1"),
    "geometry": (("--geometry", "2D"), "geometry .* one of isotropic, slab, 2d, composite"),
    "grid": (("--field", "grid", "--geometry", "slab"), "a grid needs .* isotropic"),
    "helicity": (("--helicity", "2"), "helicity of turbulence lies between -1 and 1"),
    "share": (("--geometry", "composite", "--slab-fraction", "2"), "slab_fraction lies between 0 and 1"),
    "angles": (("--gradient", "0,200"), "--gradient takes different angles"),
    "angle": (("--gradient", "up"), "--gradient takes numbers"),
    "twice": (("--gradient", "0,0"), "--gradient takes different angles"),
    "check": (("--step-check", "1"), "a step check takes 2 to 40"),
    "maps": (("--keep-maps", "few"), "keep_maps must be first, all or none"),
    "devices": (("--devices", "0"), "--devices must be at least 1"),
    "many": (("--devices", "5000"), "--devices 5000, but this machine has"),
    "seed": (("--seed", "99999999999"), "seed .* from 0 to 2"),
    "data": (("--data", "nowhere.csv"), "nowhere.csv: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, case):
    arguments, message = BAD[case]
    code, _, err = run("backtrack", *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert err.startswith("diffcr: error: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused_before_anything_is_traced(run, write):
    code, _, err = run("backtrack", *SMALL, "-o", write("x", "file"))
    assert code == 2 and "is a file, not a folder" in err


def test_angles_are_numbers_from_0_to_180():
    assert parse_angles("0,90") == (0.0, 90.0) and parse_angles("22.5") == (22.5,)
    for text in ("", "-1", "181", "nan", "90,90"):
        with pytest.raises(InputError, match="--gradient takes"):
            parse_angles(text)


def test_the_unit_of_a_power_law_is_about_its_coherence_length():
    """(q - 1) / q / 2 of the largest wavelength for a wide band: 1/5 for Kolmogorov, so 5 L_c."""
    spectrum = chosen_spectrum("power-law", 5 / 3, 0.001, None)
    assert float(coherence_length(spectrum)) == pytest.approx(1, abs=0.02)
    bend = chosen_spectrum("bend-over", 5 / 3, 0.01, None)
    assert (bend.smallest, bend.largest, bend.bend_length) == (0.01, 100.0, 1.0)


def test_so_many_cores_become_devices_of_their_own(monkeypatch):
    """In a process of its own: JAX takes the number when it starts, and the environment is as before afterwards."""
    program = (
        "import os; os.sched_getaffinity = lambda _: {0, 1, 2}\n"
        "from diffcr.inference.cli_backtrack import start_devices\n"
        "before = dict(os.environ)\n"
        "print(len(start_devices(None)), dict(os.environ) == before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["3", "True"], ended.stderr


def test_a_processor_that_runs_already_stays_as_it_is():
    before = os.environ.get("XLA_FLAGS")
    assert start_devices(None) == jax.local_devices()
    assert start_devices(1) == jax.local_devices()[:1]
    assert os.environ.get("XLA_FLAGS") == before


def test_progress_tells_what_is_left(capsys, monkeypatch):
    with Counting("tracing", "traced", "realisations") as bar:
        bar(1, 5, 40.0)
        bar(2, 5, 45.0)
        bar(3, 5, 75.0)
        bar(5, 5, 80.0)
    told = capsys.readouterr().err.splitlines()
    assert [line.split("realisations")[0].split()[1] for line in told] == ["1", "3", "5"]
    # Two realisations took 35 s after the first, which compiles; two are left.
    assert told[1].endswith("in 75 s, 35 s left")
    assert np.all(["traced" in line for line in told])
