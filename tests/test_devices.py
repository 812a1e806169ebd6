"""Work over one, two and eight devices, and what a machine is told to have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from diffcr.inference import devices as module
from diffcr.inference.cli_devices import devices
from diffcr.inference.devices import Shares, describe_devices, evenly, layout, missing_plugins, start_devices

from diffcr.errors import InputError
from diffcr.spectrum import BendOver
from diffcr.trajectory import integrate, isotropic_directions, on_devices
from diffcr.turbulence import draw_plane_waves

# The same work on other numbers of devices --------------------------------------------------------------

WORK = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
import test_devices
assert len(jax.local_devices()) == int(sys.argv[1])
np.savez(sys.argv[2], **test_devices.work())
"""


def work() -> dict[str, np.ndarray]:
    """Chains, particles, toys and bare sums, laid over all local devices."""
    from diffcr.inference.toy_plan import ToyPlan
    from diffcr.inference.toys import run_block
    from test_hosts import drawn

    from diffcr.detector import acceptance
    from diffcr.grid import RingGrid
    from diffcr.site import site

    out = {"chains": drawn().positions["x"]}
    field = on_devices(draw_plane_waves(jax.random.key(1), BendOver(smallest=0.1), 4))
    start = np.zeros((3, 1)), isotropic_directions(jax.random.key(2), 50)
    for name, place in (("particles", field), ("particles again", on_devices(field))):
        out[name] = integrate(place, *start, 0.1, 0.05, 0.01, chunk=3).position
    grid = RingGrid(6, 12)
    shape = np.asarray(acceptance(site("hawc"), grid, subdivide=8))
    plan = ToyPlan(grid, ("HAWC",), np.full((1, 12), 1e4), shape[None], dipole=(0.01, 0.02), toys=10, block=10)
    block = run_block(plan, 0)
    out |= {"toys": block.estimates, "statistics": block.test_statistics}
    shares = Shares(5)
    x = np.arange(10.0).reshape(5, 2)
    first, second = jax.jit(shares.map(lambda x, y: (x * y, (x @ y)[None]), shared=1, results=(0, 1)))(
        shares.split(x), shares.whole(np.array([2.0, 3.0]))
    )
    out |= {"products": shares.gather(first), "sums": shares.gather(second, axis=1)}
    return {name: np.asarray(value) for name, value in out.items()}


@pytest.fixture(scope="module")
def alone():
    return work()


@pytest.mark.parametrize("number", [2, 8])
def test_work_over_many_devices_is_that_of_one(number, alone, tmp_path):
    """Three chains and ten toys divide neither. Short enough that rounding has not become chaos."""
    out = tmp_path / "work.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "XLA_FLAGS": flags}
    program = [sys.executable, "-c", WORK, str(number), str(out)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as file:
        assert set(file.files) == set(alone)
        for name, values in alone.items():
            np.testing.assert_allclose(file[name], values, rtol=1e-9, atol=1e-10, err_msg=name)
        for name in ("particles", "products", "sums"):
            np.testing.assert_array_equal(file[name], alone[name], err_msg=name)
        np.testing.assert_array_equal(file["particles"], file["particles again"])


def test_no_more_devices_take_part_than_have_something_to_do():
    assert [evenly(4, most) for most in (1, 2, 3, 4, 8)] == [1, 2, 2, 4, 4]
    assert [evenly(5, most) for most in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, 5]
    assert evenly(1, 64) == 1


def test_one_device_gets_its_arguments_as_they_are():
    shares, tree = Shares(3, jax.local_devices()[:1]), {"x": np.arange(3)}
    assert shares.single and not shares.several_hosts
    assert shares.split(tree) is tree and shares.whole(tree) is tree
    assert shares.map(len) is len


# Starting -----------------------------------------------------------------------------------------------


def test_impossible_numbers_of_devices_are_refused():
    with pytest.raises(InputError, match="--devices must be at least 1, not 0"):
        start_devices(0)
    with pytest.raises(InputError, match="--devices 9999, but this machine has"):
        start_devices(9999)


@pytest.mark.parametrize(("cores", "chains", "expected"), [(2, 4, 2), (3, 4, 2), (8, 4, 4), (1, 4, 1)])
def test_chains_get_the_cores_that_are_of_use_and_no_other_threads(cores, chains, expected):
    """In a process of its own: JAX takes the numbers when it starts, and the environment is as before afterwards."""
    program = (
        f"import os; os.sched_getaffinity = lambda _: set(range({cores}))\n"
        "from diffcr.inference.devices import start_for_chains\n"
        "before = dict(os.environ)\n"
        f"found = start_for_chains(None, {chains})\n"
        "names = [open(f'/proc/self/task/{t}/comm').read().strip() for t in os.listdir('/proc/self/task')]\n"
        "print(len(found), dict(os.environ) == before, sum('XLAEigen' in name for name in names))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    number, same, threads = ended.stdout.split()
    assert (int(number), same) == (expected, "True"), ended.stderr
    if Path("/proc/self/task").exists():
        assert int(threads) <= max(expected, 1)


# Telling ------------------------------------------------------------------------------------------------


def test_devices_are_told_as_json_and_as_lines(capsys):
    devices(as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["platform"] == "cpu" and content["devices"][0]["kind"] == "cpu"
    assert content["processes"] == 1 and content["cores"] >= 1 and content["float64"]
    assert content["versions"]["jax"] == jax.__version__
    devices(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["platform", "cpu"]
    assert any(line.startswith("sample ") and "chains over" in line for line in lines)
    assert any("JAX_PLATFORMS" in line for line in lines)


def test_precision_says_what_each_platform_has():
    assert describe_devices()["precision"].startswith("64 bits")
    assert layout(4, "gpu")["sample"] == "chains over 4 devices"
    assert "emulated" in module._PRECISION["tpu"]


@pytest.mark.parametrize(
    ("file", "plugin", "asked", "message"),
    [
        ("nvidia0", False, None, r"no plugin for it: pip install 'diffcr\[cuda\]'"),
        ("nvidia0", True, "cpu", "JAX_PLATFORMS=cpu keeps JAX off it: unset it"),
        ("nvidia0", True, None, "JAX cannot use it: run nvidia-smi"),
        ("kfd", False, None, "there is an AMD card, but JAX has no plugin"),
        ("accel0", False, None, "there is a TPU, but JAX has no plugin"),
    ],
)
def test_an_accelerator_that_lies_idle_is_told(file, plugin, asked, message, tmp_path, monkeypatch):
    import re

    (tmp_path / file).touch()
    monkeypatch.setattr(module, "_has", lambda kind: plugin)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if asked:
        monkeypatch.setenv("JAX_PLATFORMS", asked)
    (note,) = missing_plugins("cpu", tmp_path)
    assert re.search(message, note)
    assert missing_plugins("gpu", tmp_path) == []


def test_a_machine_without_accelerators_has_no_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert missing_plugins("cpu", tmp_path) == []


# Threads --------------------------------------------------------------------------------------------------

HANG = """
import jax
jax.config.update("jax_enable_x64", True)
import warnings
from diffcr.inference.devices import warn_of_threads
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    warn_of_threads()
print(len(found))
"""


@pytest.mark.parametrize(("name", "value", "warned"), [(None, None, 1), ("PJRT_NPROC", "1", 0), ("NPROC", "1", 0)])
def test_samplers_warn_of_a_pool_of_threads(name, value, warned):
    environ = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC")}
    done = subprocess.run(
        [sys.executable, "-c", HANG], env=environ | ({name: value} if name else {}), capture_output=True, text=True
    )
    assert done.stdout.split() == [str(warned if len(os.sched_getaffinity(0)) > 1 else 0)], done.stderr
