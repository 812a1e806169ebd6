"""Several processes joined on the loopback address, and what happens where one is missing, wrong or lost."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from diffcr.inference import hosts
from diffcr.inference.backtrack import Run, trace
from diffcr.inference.hosts import Hosts, barrier, first_only, first_tells, joined, meet, parse_hosts
from diffcr.inference.sampler import Kernel, Plan, sample_segments

from diffcr.backtracking import Setup, Spectra
from diffcr.errors import FitError, InputError
from diffcr.spectrum import BendOver


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


# What --hosts says --------------------------------------------------------------------------------------


def test_hosts_are_an_address_and_two_numbers():
    assert parse_hosts(None) is None
    assert parse_hosts("auto") == Hosts()
    assert parse_hosts("10.0.0.1:7777,4,2") == Hosts("10.0.0.1:7777", 4, 2)
    assert parse_hosts("[::1]:7777,4,2,30") == Hosts("[::1]:7777", 4, 2, 30.0)
    assert parse_hosts("[::1]:7777,4,2,30").place == ("::1", 7777)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--hosts takes auto, or ADDRESS:PORT,NUMBER,INDEX"),
        ("somewhere", "such as 10.0.0.1:7777,2,0, not 'somewhere'"),
        ("a:1,2", "--hosts takes auto"),
        ("a:1,two,0", "not 'a:1,two,0'"),
        ("a,2,0", "'a' is no address and port"),
        ("a:99999,2,0", "'a:99999' is no address and port"),
        (":1,2,0", "':1' is no address and port"),
        ("a:1,2,2", "from 0 to NUMBER - 1, not 2 of 2"),
        ("a:1,0,0", "from 0 to NUMBER - 1, not 0 of 0"),
        ("a:1,2,-1", "from 0 to NUMBER - 1, not -1 of 2"),
        ("a:1,2,0,nan", "SECONDS must be above 0, not nan"),
    ],
)
def test_hosts_that_make_no_sense_are_refused(text, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        parse_hosts(text)


# Meeting ------------------------------------------------------------------------------------------------


def together(*plans: Hosts) -> list[BaseException | None]:
    """What meeting gives in each of several processes, here threads."""
    outcome = [None] * len(plans)

    def one(place):
        try:
            meet(plans[place])
        except InputError as error:
            outcome[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return outcome


def test_processes_find_each_other_in_any_order():
    address = free_address()
    assert together(*(Hosts(address, 3, index, 10) for index in (2, 0, 1))) == [None] * 3


def test_who_does_not_come_is_named():
    with pytest.raises(InputError, match=r"process 1, 2 of 3 did not come within 0.2 s; start them together"):
        meet(Hosts(free_address(), 3, 0, 0.2))


def test_nobody_at_the_address_is_told_and_not_waited_for():
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"process 0 was not reached within 0.5 s .*; check the address"):
        meet(Hosts(free_address(), 2, 1, 0.5))
    assert time.monotonic() - begun < 5


def test_a_host_that_does_not_exist_is_told():
    with pytest.raises(InputError, match="no such host"):
        meet(Hosts("no-such-host.invalid:7777", 2, 1, 5))


def test_an_address_of_another_machine_cannot_be_listened_at():
    with pytest.raises(InputError, match="process 0 cannot listen there .* give an address of its own machine"):
        meet(Hosts("192.0.2.1:7777", 2, 0, 5))


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([(2, 0), (3, 1)], "process 1 was started as one of 3, process 0 as one of 2"),
        ([(3, 0), (3, 1), (3, 1)], "two processes are number 1; give each its own INDEX"),
    ],
)
def test_processes_that_do_not_fit_are_told_so_on_all_sides(plans, message):
    address = free_address()
    told = together(*(Hosts(address, number, index, 10) for number, index in plans))
    assert all(message in str(each) for each in told)


def test_processes_of_different_versions_do_not_start(monkeypatch):
    address = free_address()
    line = b"diffcr 0.0.1 2 1\n"
    monkeypatch.setattr(hosts, "_greeting", lambda _: line)
    told = together(Hosts(address, 2, 0, 10), Hosts(address, 2, 1, 10))
    assert all("process 1 is of diffcr 0.0.1, process 0 of" in str(each) for each in told)


def test_whoever_else_calls_is_not_counted():
    address = free_address()
    host, port = address.split(":")

    def stranger():
        for _ in range(50):
            try:
                with socket.create_connection((host, int(port)), timeout=5) as line:
                    line.sendall(b"GET / HTTP/1.0\n")
                    return line.recv(10)
            except OSError:
                time.sleep(0.05)

    thread = threading.Thread(target=stranger)
    thread.start()
    with pytest.raises(InputError, match="process 1 of 2 did not come"):
        meet(Hosts(address, 2, 0, 1.5))
    thread.join(10)


# One process alone --------------------------------------------------------------------------------------


def test_one_process_alone_is_the_first_and_waits_for_nobody():
    with joined(None):
        assert hosts.is_first()
        barrier()
        assert first_only(lambda: 3) == first_tells(lambda: 3) == 3
    with pytest.raises(FitError, match="no"):
        first_only(lambda: (_ for _ in ()).throw(FitError("no")))


# Two processes ------------------------------------------------------------------------------------------

PROGRAM = """
import pathlib, sys, time
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from diffcr.errors import FitError, InputError
from diffcr.inference import hosts
from diffcr.inference.devices import Shares

def fail(error):
    raise error

try:
    with hosts.joined(hosts.parse_hosts(sys.argv[1])):
        {body}
except (InputError, FitError) as error:
    print(f"diffcr: {{error}}", file=sys.stderr)
    sys.exit(2 if isinstance(error, InputError) else 3)
"""


def run_two(body: str, *arguments, devices: int = 1, wait: bool = True, seconds: int = 20):
    """Two processes that run the same lines; gives them, ended unless told otherwise."""
    address = free_address()
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parent)}
    program = PROGRAM.format(body=body.strip().replace("\n", "\n        "))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, f"{address},2,{index},{seconds}", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    return [(*each.communicate(timeout=200), each.returncode) for each in started] if wait else started


def test_the_first_process_tells_the_others_and_nothing_else_is_printed():
    body = """
assert hosts.first_tells(lambda: {"n": [1, None, "x"]}) == {"n": [1, None, "x"]}
got = hosts.first_only(lambda: "mine", "not mine")
hosts.barrier()
print(jax.process_index(), got, jax.device_count())
"""
    ended = run_two(body)
    assert [each[0].split() for each in ended] == [["0", "mine", "2"], ["1", "not", "mine", "2"]]
    assert [each[1:] for each in ended] == [("", 0), ("", 0)]


def test_what_the_first_process_cannot_use_ends_all_with_the_same_line():
    ended = run_two('hosts.first_only(lambda: fail(InputError("counts.nc: no such file")))')
    assert [each[1:] for each in ended] == [("diffcr: counts.nc: no such file\n", 2)] * 2


def test_what_one_process_cannot_use_ends_the_others_too():
    body = """
if jax.process_index() == 1:
    raise InputError("my disk is full")
hosts.barrier()
"""
    first, second = run_two(body)
    assert second[1:] == ("diffcr: my disk is full\n", 2)
    assert first[1:] == (f"diffcr: {hosts.LOST}\n", 3)


@pytest.mark.parametrize("dies", [0, 1])
def test_the_death_of_a_process_ends_the_others_with_one_line(dies, tmp_path):
    body = """
pathlib.Path(sys.argv[2], str(jax.process_index())).touch()
while True:
    hosts.barrier()
    time.sleep(0.05)
"""
    started = run_two(body, tmp_path, wait=False)
    while len(list(tmp_path.iterdir())) < 2:
        assert all(each.poll() is None for each in started)
        time.sleep(0.05)
    time.sleep(0.3)
    started[dies].send_signal(signal.SIGKILL)
    out, err = started[1 - dies].communicate(timeout=60)
    started[dies].communicate()
    assert (out, err, started[1 - dies].returncode) == ("", f"diffcr: {hosts.LOST}\n", 3)


def test_work_over_the_devices_of_two_processes_is_that_of_one(tmp_path):
    """Seven parts on 2 x 2 devices; the whole argument is that of the first process."""
    body = """
shares = Shares(7, jax.devices())
x, y = np.arange(14.0).reshape(7, 2), np.array([2.0, 3.0 + jax.process_index()])
work = jax.jit(shares.map(lambda x, y: (x * y, (x @ y)[None]), shared=1, results=(0, 1)))
first, second = work(shares.split(x), shares.whole(y))
np.savez(f"{sys.argv[2]}/{jax.process_index()}.npz", shares.gather(first), shares.gather(second, axis=1))
"""
    for each in run_two(body, tmp_path, devices=2):
        assert each == ("", "", 0)
    x, y = np.arange(14.0).reshape(7, 2), np.array([2.0, 3.0])
    for index in (0, 1):
        with np.load(tmp_path / f"{index}.npz") as file:
            np.testing.assert_array_equal(file["arr_0"], x * y)
            np.testing.assert_array_equal(file["arr_1"], (x @ y)[None])


# Runs ---------------------------------------------------------------------------------------------------


def drawn(folder=None, devices=None, draws=8, resume=False):
    """A short run of three chains in two dimensions."""
    kernel = Kernel(plane, Plan(chains=3, warmup=20, draws=draws, segment=10, seed=3, max_tree_depth=3))
    return sample_segments(kernel, (np.array([0.9, -1.4]),), {}, folder, resume=resume, devices=devices)


def plane(data):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]))
    numpyro.factor("data", -2 * ((x - data) ** 2).sum())


def traced(folder=None):
    setup = Setup(nside=2, omega_t=1.0, omega_step=0.25, samples=2, size=2, spectrum=BendOver(smallest=0.1))
    return trace(Run(setup, realisations=3, step_check=2), folder)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_chains_of_two_processes_are_those_of_one(devices, tmp_path):
    """Three chains on 2 x 1 and 2 x 2 devices; the first process alone writes, and alone goes on with the run."""
    folder = tmp_path / "run"
    folder.mkdir()
    body = """
import pathlib, test_hosts
folder = pathlib.Path(sys.argv[2]) if jax.process_index() == 0 else pathlib.Path("not/there")
draws = test_hosts.drawn(folder, jax.devices())
print(draws is None)
"""
    ended = run_two(body, folder, devices=devices)
    assert ended == [("False\n", "", 0), ("True\n", "", 0)]
    alone = drawn(draws=16)
    found = drawn(folder, draws=16, resume=True)
    np.testing.assert_allclose(found.positions["x"], alone.positions["x"], atol=1e-10, rtol=0)


def test_a_folder_that_holds_another_run_ends_both_processes_before_they_sample(tmp_path):
    drawn(tmp_path)
    body = """
import pathlib, test_hosts
test_hosts.drawn(pathlib.Path(sys.argv[2]), jax.devices())
"""
    for out, err, code in run_two(body, tmp_path):
        assert (out, code) == ("", 2)
        assert err == f"diffcr: {tmp_path}: holds a run already; continue it with --resume, or choose another -o\n"


def test_realisations_of_two_processes_are_those_of_one(tmp_path):
    """Each is traced once, by one of them, and is the same bit for bit."""
    body = """
import pathlib, test_hosts
result = test_hosts.traced(pathlib.Path(sys.argv[2]))
print(None if result is None else len(result.spectra))
"""
    assert run_two(body, tmp_path) == [("3\n", "", 0), ("None\n", "", 0)]
    alone = traced()
    assert len(list((tmp_path / "realisations").iterdir())) == 3 and len(list((tmp_path / "half_step").iterdir())) == 2
    for number, spectra in enumerate(alone.spectra):
        with np.load(tmp_path / "realisations" / f"{number:05d}.npz") as file:
            for field in dataclasses.fields(Spectra):
                np.testing.assert_array_equal(file[field.name], getattr(spectra, field.name))
