"""Jobs in this process, in workers of this machine, on a scheduler and by Slurm; and when one of these dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from diffcr.inference.slurm import read_slurm
from diffcr.inference.workers import Workers, environment, run_jobs

from diffcr.errors import FitError, InputError

pytest.importorskip("distributed", reason="workers need diffcr[scan]")


def square(job):
    """A job: its number squared, and who did it."""
    return {"value": job["number"] ** 2, "process": os.getpid()}


def precision(job):
    """What a job computes with."""
    import jax.numpy as jnp

    return {
        "type": str(jnp.ones(1).dtype),
        "threads": os.environ.get("NPROC"),
        "loopback": job,
        "listening": sorted(listening()),
    }


def listening(pid="self") -> set[str]:
    """Addresses of IPv4 and IPv6 on which a process listens, in the hexadecimal of the kernel."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(each))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.add(words[1].partition(":")[0])
    return found


def kill_once(job):
    """A job that takes its worker with it the first time it is tried."""
    mark = Path(job["mark"])
    if not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return job["number"]


def kill_always(job):
    """A job that always takes its worker with it."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(job):
    """A job whose input is bad."""
    raise InputError("night 3: has no time column; name it")


def slow(job):
    """A job that leaves a file when it begins and another when it ends."""
    folder = Path(job["folder"])
    (folder / f"{job['number']}.begun").write_text(str(os.getpid()))
    time.sleep(job["seconds"])
    (folder / f"{job['number']}.ended").write_text("")
    return job["number"]


def collected(function, jobs, workers, folder=None):
    """Results in the order of the jobs."""
    found = {}
    run_jobs(function, jobs, workers, lambda number, result: found.setdefault(number, result), folder)
    assert sorted(found) == list(range(len(jobs)))
    return [found[k] for k in range(len(jobs))]


JOBS = [{"number": k} for k in range(6)]


def test_by_default_jobs_run_here_one_after_the_other():
    assert collected(square, JOBS, Workers()) == [{"value": k * k, "process": os.getpid()} for k in range(6)]


def test_no_jobs_start_no_workers():
    assert collected(square, [], Workers(number=2)) == []


def test_worker_processes_do_the_same_jobs(tmp_path):
    found = collected(square, JOBS, Workers(number=2), tmp_path)
    assert [each["value"] for each in found] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {each["process"] for each in found}
    assert not list(tmp_path.iterdir())


def test_workers_compute_in_64_bits_with_their_share_of_threads_and_listen_on_loopback_alone():
    """Loopback is 127.0.0.1, 0100007F in the table of the kernel; also for the scheduler, which is in this process."""
    before = listening()
    (found,) = collected(precision, [0], Workers(number=1, threads=1))
    assert (found["type"], found["threads"]) == ("float64", "1")
    assert found["listening"] == ["0100007F"]
    seen = []
    run_jobs(square, JOBS, Workers(number=1), lambda *_: seen.append(listening()))
    assert seen and all(each - before <= {"0100007F"} for each in seen)


def test_a_worker_killed_at_its_job_is_replaced_and_the_job_done_again(tmp_path):
    jobs = [{"number": k, "mark": str(tmp_path / f"{k % 2}.mark")} for k in range(4)]
    assert collected(kill_once, jobs, Workers(number=2)) == [0, 1, 2, 3]


def test_a_job_that_kills_every_worker_ends_the_run_with_one_line():
    with pytest.raises(FitError, match=r"the workers of one job died each time.*run the same command again"):
        collected(kill_always, [1], Workers(number=1))


@pytest.mark.parametrize("number", [None, 1])
def test_bad_input_of_a_job_is_raised_as_it_is(number):
    with pytest.raises(InputError, match="^night 3: has no time column; name it$"):
        collected(refuse, [1, 2], Workers(number=number))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 2, "scheduler": "tcp://127.0.0.1:1"}, "--workers and --scheduler each say where to run"),
        ({"number": 0}, "--workers must be at least 1, not 0"),
        ({"threads": 2}, "--threads is of the processes of --workers"),
        ({"number": 2, "threads": 0}, "--threads must be at least 1"),
    ],
)
def test_contradictions_are_told(options, message):
    with pytest.raises(InputError, match=message):
        Workers(**options)


def test_an_address_without_a_scheduler_is_told(monkeypatch):
    monkeypatch.setattr("diffcr.inference.workers._STARTUP_SECONDS", 1)
    with pytest.raises(InputError, match=r"no Dask workers at tcp://127.0.0.1:9 .*check the address"):
        collected(square, JOBS, Workers(scheduler="tcp://127.0.0.1:9"))


def test_without_dask_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'diffcr\[scan\]'"):
        collected(square, JOBS, Workers(number=1))


# A scheduler of the user ---------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    """A scheduler on loopback with one worker, as processes of their own; gives (address, scheduler, worker)."""
    address = tmp_path / "scheduler.json"
    environ = os.environ | environment(1) | {"PYTHONPATH": str(Path(__file__).parent)}
    started = []

    def start(*words):
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
            started.append(subprocess.Popen(command, env=environ, stderr=log))
        return started[-1]

    scheduler = start(
        "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address)
    )
    for _ in range(300):
        if address.exists():
            break
        time.sleep(0.1)
    where = json.loads(address.read_text())["address"]
    worker = start(
        "dask_worker", where, "--no-dashboard", "--nthreads", "1", "--local-directory", str(tmp_path / "scratch")
    )
    yield where, scheduler, worker
    for each in started:
        each.kill()
        each.wait()


def test_a_running_scheduler_is_used(cluster, tmp_path):
    found = collected(square, JOBS, Workers(scheduler=cluster[0]), tmp_path)
    assert [each["value"] for each in found] == [0, 1, 4, 9, 16, 25]
    (one,) = collected(precision, [0], Workers(scheduler=cluster[0]))
    assert one["type"] == "float64"


def test_a_scheduler_killed_in_the_middle_ends_the_run_with_one_line(cluster, tmp_path):
    """What was finished is told first; what was not is left for the next run."""
    where, scheduler, _ = cluster
    jobs = [{"number": 0, "folder": str(tmp_path), "seconds": 0.0}]
    jobs += [{"number": k, "folder": str(tmp_path), "seconds": 30.0} for k in (1, 2)]
    found = []

    def done(number, result):
        found.append(result)
        scheduler.kill()

    with pytest.raises(FitError, match=r"the Dask scheduler was lost; 2 jobs are left, .*run the same command again"):
        run_jobs(slow, jobs, Workers(scheduler=where), done)
    assert found == [0]


def test_a_folder_that_workers_do_not_see_is_refused(cluster, tmp_path, monkeypatch):
    """As of another machine's disk: the probe is made to be looked for elsewhere."""
    monkeypatch.setattr("diffcr.inference.workers.Path.resolve", lambda self: "/nowhere/at/all")
    with pytest.raises(InputError, match=r"worker tcp://.* does not see this folder; choose -o on a file system"):
        collected(square, JOBS, Workers(scheduler=cluster[0]), tmp_path)


# Slurm ------------------------------------------------------------------------------------------------------

SBATCH = """#!/bin/sh
# Runs the job here, as a batch system would there.
bash "$1" > "$1.log" 2>&1 &
echo $! >> {folder}/jobs
cp "$1" {folder}/script
echo "Submitted batch job $!"
"""

GOOD = 'jobs = 2\nmemory = "1 GB"\nhost = "127.0.0.1"\nextra = ["--gres=gpu:1"]\nprologue = ["export SITE=HAWC"]\n'


def test_slurm_is_asked_for_workers(write, tmp_path, monkeypatch):
    """With an sbatch that runs the script of the job on this machine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("scancel", "#!/bin/sh\nkill $1\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    found = collected(square, JOBS, Workers(slurm=write(GOOD, "slurm.toml")))
    assert [each["value"] for each in found] == [0, 1, 4, 9, 16, 25]
    script = (tmp_path / "script").read_text()
    for line in ("#SBATCH --gres=gpu:1", "export SITE=HAWC", "export NPROC=1", "export JAX_ENABLE_X64=1"):
        assert line in script.splitlines()
    for pid in (tmp_path / "jobs").read_text().split():
        subprocess.run(["pkill", "-P", pid], check=False)


def test_without_sbatch_the_remedy_is_told(write, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="there is no sbatch here"):
        collected(square, JOBS, Workers(slurm=write(GOOD, "slurm.toml")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = ", "no TOML"),
        ("jobs = 2\n", "memory is missing"),
        ('memory = "1 GB"\nhost = "a"\n', "jobs is missing"),
        ('jobs = 2\nmemory = "1 GB"\n', "one of interface and host is needed"),
        (GOOD + 'interface = "ib0"\n', "one of interface and host is needed"),
        (GOOD + "cpus = 2\n", "unknown key 'cpus'; known are jobs, memory"),
        (GOOD + "cores = 0\n", "cores must be a whole number of at least 1, not 0"),
        (GOOD + "cores = true\n", "cores must be a whole number"),
        (GOOD + 'queue = "a\\nrm -r"\n', "queue must be a text of one line"),
        (GOOD.replace('["--gres=gpu:1"]', '"--gres=gpu:1"'), "extra must be a list of texts"),
    ],
)
def test_a_bad_slurm_file_is_told(write, text, message):
    with pytest.raises(InputError, match=rf"slurm\.toml: {message}"):
        read_slurm(write(text, "slurm.toml"))


def test_a_slurm_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_slurm(tmp_path / "none.toml")


def written(job):
    """A job that writes NetCDF, and says how memory is handed back."""
    import xarray
    from diffcr.inference.files import write_netcdf

    write_netcdf(Path(job), xarray.Dataset({"x": ("n", [1.0, 2.0])}))
    return [os.environ.get("MALLOC_TRIM_THRESHOLD_"), os.environ.get("OMP_NUM_THREADS")]


def test_a_worker_writes_netcdf_and_starts_in_the_environment_it_is_given(tmp_path):
    (found,) = collected(written, [str(tmp_path / "a.nc")], Workers(number=1, threads=1), tmp_path)
    assert found == [str(1 << 30), "1"]
    assert (tmp_path / "a.nc").exists()
