"""`diffcr sample` and `diffcr calibrate` as users run them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from diffcr.inference.cli_posterior import describe, parse_priors, with_template
from diffcr.inference.named import group
from diffcr.inference.specification import Specification
from helpers import dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.observer import cosmic_velocity, interstellar_velocity, lsr_velocity
from diffcr.site import site

pytestmark = pytest.mark.slow

GRID = RingGrid(18, 36)
SHORT = ["--warmup", "60", "--draws", "80", "--segment", "40", "--chains", "2", "--no-plots"]


@pytest.fixture(scope="module")
def counts_file(tmp_path_factory):
    where = site("HAWC")
    local = np.asarray(acceptance(where, GRID, power=2.0))
    counts = drawn(where, GRID, local, np.full(36, 1e5 / 36), dipole_sky(GRID, (0.03, 0.02)), 1)
    return counts.save(tmp_path_factory.mktemp("counts") / "counts.nc")


def run(*arguments, **options):
    command = [sys.executable, "-m", "diffcr.inference.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def posterior_values(folder):
    from diffcr.inference.arviz_import import arviz as az

    draws = group(az.from_netcdf(folder / "posterior.nc", engine="h5netcdf"), "posterior")
    return {k: draws[k].values for k in ("delta_0h", "delta_6h", "rate")}


@pytest.fixture(scope="module")
def finished(counts_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "run"
    return run("sample", counts_file, "-o", folder, *SHORT), folder


def test_results_are_written_and_the_verdict_told(finished):
    outcome, folder = finished
    content = json.loads((folder / "summary.json").read_text())
    # So few draws are not enough for the verdict, and that is said by the exit code.
    assert outcome.returncode == (0 if content["converged"] else 3), outcome.stderr
    assert "delta_0h" in outcome.stdout
    assert "verdict" in outcome.stdout
    assert {"posterior.nc", "summary.json", "counts.nc", "segments"} <= {p.name for p in folder.iterdir()}
    for key in ("converged", "divergences", "wall_seconds_sampling", "ess_per_second", "parameters"):
        assert key in content
    entry = content["parameters"]["amplitude"]
    assert set(entry) >= {"mean", "sd", "hdi_68", "hdi_95", "r_hat", "ess_bulk", "ess_tail", "prior_dominated"}
    assert content["specification"]["model"] == "dipole"


def test_a_killed_run_is_resumed_bit_for_bit(finished, counts_file, tmp_path):
    """SIGKILL after the first segment; then --resume."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "diffcr.inference.cli", "sample", str(counts_file), "-o", str(folder), *SHORT]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((folder / "segments").glob("segment_*.npz")) and time.monotonic() < deadline:
        assert process.poll() is None or (folder / "summary.json").exists()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    outcome = run("sample", counts_file, "-o", folder, "--resume", *SHORT)
    assert outcome.returncode in (0, 3), outcome.stderr
    again, whole = posterior_values(folder), posterior_values(finished[1])
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name])


def test_more_draws_prolong_a_run(finished, counts_file, tmp_path):
    folder = tmp_path / "run"
    import shutil

    shutil.copytree(finished[1], folder)
    longer = [*SHORT]
    longer[longer.index("80")] = "120"
    outcome = run("sample", counts_file, "-o", folder, "--resume", *longer)
    assert outcome.returncode in (0, 3), outcome.stderr
    found, before = posterior_values(folder)["delta_0h"], posterior_values(finished[1])["delta_0h"]
    assert found.shape == (2, 120)
    np.testing.assert_array_equal(found[:, :80], before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "dipol"), "unknown model 'dipol'"),
        (("--prior", "scale=0"), "must be positive and finite"),
        (("--prior", "scale"), "--prior takes NAME=VALUE"),
        (("--prior", "scal=1"), "did you mean 'scale'"),
        (("--chains", "0"), "chains must be a whole number of at least 1"),
        (("--lmax", "3"), "the model dipole has l_max 1"),
        (("--acceptance-prior", "known"), "takes a kind and a relative error"),
        (("--model", "local-field", "--prior", "perpendicular=0.5,0.1"), "contradict each other"),
        (("--rate-concentration", "0"), "must be positive and finite"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(counts_file, tmp_path, arguments, message):
    outcome = run("sample", counts_file, "-o", tmp_path / "out", *arguments)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused(finished, counts_file):
    outcome = run("sample", counts_file, "-o", finished[1], *SHORT)
    assert outcome.returncode == 2
    assert "--resume" in outcome.stderr
    other = run("sample", counts_file, "-o", finished[1], "--resume", "--seed", "5", *SHORT)
    assert other.returncode == 2
    assert "other seed" in other.stderr


def test_a_full_disk_loses_nothing_already_written(counts_file, tmp_path):
    """A limit on the size of files stands for the disk: segments are refused as a whole, with one line."""
    folder = tmp_path / "run"
    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"sys.argv = ['diffcr', 'sample', {str(counts_file)!r}, '-o', {str(folder)!r}] + {SHORT!r};"
        "runpy.run_module('diffcr.inference.cli', run_name='__main__')"
    )
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2, outcome.stderr
    assert "cannot be written" in outcome.stderr
    assert len([line for line in outcome.stderr.splitlines() if line.startswith("diffcr: error:")]) == 1
    assert "Traceback" not in outcome.stderr
    assert (folder / "summary.json").read_text() == "{}"
    assert not [p for p in folder.rglob("*") if p.name.endswith(".part")]


def test_an_interrupt_leaves_finished_segments_and_no_parts(counts_file, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "diffcr.inference.cli", "sample", str(counts_file), "-o", str(folder)]
    process = subprocess.Popen([*command, "--draws", "200000"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not list((folder / "segments").glob("segment_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert list((folder / "segments").glob("segment_*.npz"))
    assert not [name for _, _, names in os.walk(folder) for name in names if name.endswith(".part")]


def test_priors_from_words():
    assert parse_priors(["scale=0.5", "power=cascade"]) == {"scale": 0.5, "power": "cascade"}
    assert parse_priors(["velocity=none"]) == {"velocity": None}
    for word, expected in (("lsr", lsr_velocity), ("ism", interstellar_velocity), ("cmb", cosmic_velocity)):
        np.testing.assert_allclose(parse_priors([f"velocity={word}"])["velocity"], expected(), rtol=1e-12)
    velocity = parse_priors(["velocity=299792.458,0,0"])["velocity"]
    np.testing.assert_allclose(velocity, [1, 0, 0], rtol=1e-12)
    assert parse_priors(["profile-scale=1e-3,2e-3"]) == {"profile_scale": (1e-3, 2e-3)}
    with pytest.raises(InputError, match="given twice"):
        parse_priors(["scale=1", "scale=2"])
    with pytest.raises(InputError, match="takes finite numbers"):
        parse_priors(["scale=nan"])


def test_a_template_of_the_power_is_read_from_a_table(tmp_path):
    table = tmp_path / "power.csv"
    table.write_text("l,C_l,error\n1,9,1\n2,4,0.1\n3,2,0.1\n4,1,0.1\n5,0.5,0.1\n")
    priors = parse_priors([f"template={table}", "median=1e-6"])

    assert with_template(priors, 3) == {"power": "template", "median": 1e-6, "template": (1.0, 0.5)}
    assert with_template(priors, None)["template"] == (1.0, 0.5, 0.25)
    assert Specification("multipoles", 3, with_template(priors, 3)).prior("template") == (1.0, 0.5)
    assert with_template({"median": 1e-6}, 3) == {"median": 1e-6}
    with pytest.raises(InputError, match=r"power\.csv: has no C_l of l = 6; add it, or give --lmax 5"):
        with_template(priors, 8)


def test_hidden_and_prior_dominated_quantities_are_told_as_such():
    entry = {"mean": 0.1, "sd": 0.01, "hdi_95": [0.08, 0.12], "prior_dominated": True}
    summary = {
        "specification": {"model": "dipole"},
        "num_events": 5,
        "observatories": ["HAWC"],
        "parameters": {"delta_N": entry, "delta_0h": entry | {"mean": None}},
        "ess_per_second": None,
        "chains": 4,
        "draws": 10,
        "divergences": 0,
        "verdict": "fine",
    }
    text = "\n".join(describe(summary))
    assert "prior-dominated" in text
    assert "hidden until unblinded" in text


def test_calibrate_writes_ranks_and_a_verdict(tmp_path):
    outcome = run(
        "calibrate", "--sets", "12", "--prior", "scale=0.02", "--events", "1e5", "--grid", "24x12", "-o", tmp_path / "c"
    )
    assert outcome.returncode in (0, 3), outcome.stderr
    content = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert content["calibrated"] is (outcome.returncode == 0)
    assert (tmp_path / "c" / "ranks.png").stat().st_size > 5000
