"""Where jobs run: this process, worker processes of this machine, a Dask scheduler, or Slurm.

A job is a module-level function of this package and one piece of JSON-like content. It writes what is large to disk
itself, atomically and under a name of its own, and must be right when it is run twice: a worker that dies or falls
silent has its job given to another. Dask moves functions and content as pickles between the processes of one cluster:
whoever reaches the scheduler runs what he likes as its user. So it listens on the loopback address unless told
otherwise.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffcr.errors import FitError, InputError

from .devices import POOL
from .slurm import SlurmJobs, read_slurm

SCRATCH = "diffcr-workers"
"""First part of the names of the folders in the system's temporary one that workers of this machine use."""

_STARTUP_SECONDS = 60
_AGAIN = "what is finished is on disk: run the same command again"

Done = Callable[[int, Any], None]


@dataclasses.dataclass(frozen=True)
class Workers:
    """Where jobs run; by default one after the other in this process.

    Attributes:
        number: So many worker processes on this machine, one for each accelerator where there are any.
        scheduler: Address of a running Dask scheduler, such as tcp://10.0.0.1:8786.
        slurm: TOML file of jobs that Slurm is asked for (see `slurm.SlurmJobs`).
        threads: Threads inside each worker of this machine; by default its cores over their number.

    Raises:
        InputError: If more than one place is named, or a number is below 1.
    """

    number: int | None = None
    scheduler: str | None = None
    slurm: Path | None = None
    threads: int | None = None

    def __post_init__(self):
        named = [n for n in ("number", "scheduler", "slurm") if getattr(self, n) is not None]
        if len(named) > 1:
            options = " and ".join({"number": "--workers"}.get(n, f"--{n}") for n in named)
            raise InputError(f"{options} each say where to run; give one of them")
        for option, value in (("--workers", self.number), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise InputError(f"{option} must be at least 1, not {value}")
        if self.threads is not None and self.number is None:
            raise InputError("--threads is of the processes of --workers; give both, or leave it out")

    @property
    def here(self) -> bool:
        """Whether jobs run in this process."""
        return self.number is None and self.scheduler is None and self.slurm is None


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], workers: Workers, done: Done, folder: Path | None = None
) -> None:
    """Run a function on every job.

    Args:
        function: At the top level of a module of this package; takes a job, returns JSON-like content.
        jobs: JSON-like content.
        workers: Where.
        done: Called here with the number of a job and its result, in the order in which they finish.
        folder: Where jobs write; all workers must see it.

    Raises:
        InputError: As a job raised it; if Dask is not installed, there is no scheduler, or workers do not see `folder`
            or have another version of this package.
        FitError: As a job raised it; if the scheduler is lost, or one job's workers keep dying.
    """
    if not jobs:
        return
    if workers.here:
        for number, job in enumerate(jobs):
            done(number, function(job))
        return
    with _client(workers, len(jobs)) as client:
        _require_same_code(client)
        if folder is not None:
            _require_visible(client, folder)
        _run_on(client, function, jobs, done)


def _run_on(client, function, jobs, done) -> None:
    from distributed import as_completed

    futures = [client.submit(_call, function.__module__, function.__name__, job, pure=False) for job in jobs]
    place = {future.key: number for number, future in enumerate(futures)}
    left = len(jobs)
    for future in as_completed(futures, loop=client.loop):
        result = _result_of(future, left)
        left -= 1
        done(place[future.key], result)
        # The scheduler need not remember what has arrived.
        future.release()


def _result_of(future, left: int) -> Any:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker as error:
        raise FitError(
            f"the workers of one job died each time it was tried, perhaps for lack of memory; {left} jobs are left, "
            f"and {_AGAIN} with more memory for each worker"
        ) from error
    except (CommClosedError, CancelledError, TimeoutError) as error:
        raise FitError(f"the Dask scheduler was lost; {left} jobs are left, and {_AGAIN}") from error


def _call(module: str, name: str, job: Any) -> Any:
    """In a worker: the function by name, so that nothing but names and content travels."""
    from distributed import get_worker

    prepare(get_worker().name)
    return getattr(importlib.import_module(module), name)(job)


# The cluster --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _client(workers: Workers, jobs: int) -> Iterator[Any]:
    """A client of the cluster, which ends with the block where it was started by it."""
    for module in ("distributed", *(["dask_jobqueue"] if workers.slurm is not None else [])):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                "workers need Dask, which is not installed: python3 -m pip install 'diffcr[scan]', or leave out "
                "--workers, --scheduler and --slurm"
            )
    from distributed import Client

    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if workers.scheduler is not None:
            cluster = workers.scheduler
        elif workers.slurm is not None:
            cluster = stack.enter_context(_slurm_cluster(read_slurm(workers.slurm), jobs))
        else:
            cluster = stack.enter_context(_local_cluster(workers, jobs))
        try:
            client = stack.enter_context(Client(cluster, timeout=_STARTUP_SECONDS, set_as_default=False))
            client.wait_for_workers(1, timeout=_STARTUP_SECONDS if workers.slurm is None else None)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"no Dask workers at {workers.scheduler or 'this machine'} ({type(error).__name__}); check the address "
                "of the scheduler and that its workers run"
            ) from error
        yield client


@contextlib.contextmanager
def _local_cluster(workers: Workers, jobs: int) -> Iterator[Any]:
    """Worker processes on this machine, which listen on loopback alone and have no dashboard."""
    import dask
    from distributed import LocalCluster

    cores = available_cores()
    number = min(workers.number, jobs)
    threads = workers.threads or max(1, len(cores) // number)
    with (
        tempfile.TemporaryDirectory(prefix=f"{SCRATCH}-{os.getpid()}-") as scratch,
        _unremarked(),
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment(threads)}),
        LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def _unremarked() -> Iterator[None]:
    """Without Python's remark on semaphores when this process is interrupted; they are cleaned up all the same."""
    before = os.environ.get("PYTHONWARNINGS")
    own = "ignore::UserWarning:multiprocessing.resource_tracker"
    # Inherited by the process that makes the remark, which starts with the first semaphore.
    os.environ["PYTHONWARNINGS"] = own if not before else f"{before},{own}"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONWARNINGS", None)
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextlib.contextmanager
def _slurm_cluster(wanted: SlurmJobs, jobs: int) -> Iterator[Any]:
    with wanted.cluster(environment(wanted.threads)) as cluster:
        cluster.scale(jobs=min(wanted.jobs, jobs))
        yield cluster


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of Dask: what matters of it is told by exceptions."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def available_cores() -> list[int]:
    """Numbers of the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def environment(threads: int) -> dict[str, str]:
    """Environment in which a worker starts: so many threads of its own, and in BLAS and OpenMP, and 64-bit floats.

    JAX has one thread (PJRT_NPROC), as `devices.warn_of_threads` says why.
    Dask would have memory given back to the system at every turn, and NumPy fetch it again: half the time of binning.
    """
    limited = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")
    return {name: str(threads) for name in limited} | {
        "OMP_WAIT_POLICY": "passive",
        POOL: "1",
        "JAX_ENABLE_X64": "1",
        "MPLBACKEND": "Agg",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "DASK_LOGGING__DISTRIBUTED": "critical",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    }


def prepare(name: Any) -> None:
    """In a worker process, before its jobs: 64-bit floats as on the command line, and one accelerator of several."""
    import dask
    import jax

    jax.config.update("jax_enable_x64", True)
    # Else xarray asks the scheduler for a lock before it writes a file.
    dask.config.set(scheduler="synchronous")
    if isinstance(name, int) and "CUDA_VISIBLE_DEVICES" not in os.environ:
        devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(name % len(devices))


# What all workers must agree on --------------------------------------------------------------------------


def _require_same_code(client) -> None:
    import diffcr

    try:
        found = client.run(_version)
    except Exception as error:
        raise InputError(
            f"the workers cannot run diffcr ({type(error).__name__}: {error}); install version {diffcr.__version__} "
            "where they run"
        ) from error
    for worker, version in found.items():
        if version != diffcr.__version__:
            raise InputError(
                f"worker {worker} has diffcr {version}, not {diffcr.__version__} as here; install the same there"
            )


def _version() -> str:
    import diffcr

    return diffcr.__version__


def _require_visible(client, folder: Path) -> None:
    probe = folder / f".probe-{secrets.token_hex(8)}.{os.getpid()}.part"
    try:
        probe.write_text("")
        found = client.run(_sees, str(probe.resolve()))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); choose another -o") from error
    finally:
        probe.unlink(missing_ok=True)
    blind = [worker for worker, sees in found.items() if not sees]
    if blind:
        raise InputError(
            f"{folder}: worker {blind[0]} does not see this folder; choose -o on a file system that all workers share"
        )


def _sees(path: str) -> bool:
    return Path(path).exists()
