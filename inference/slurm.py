"""Workers that Slurm is asked for, from a short TOML file."""

import dataclasses
import shutil
import tomllib
from pathlib import Path
from typing import Any

from diffcr.errors import InputError

_TEXTS = ("memory", "walltime", "interface", "host", "queue", "account", "python")
_LISTS = ("extra", "prologue")


@dataclasses.dataclass(frozen=True)
class SlurmJobs:
    """What each job of Slurm is, in the words of the TOML file.

    The lines of `prologue` and the options of `extra` go into the job script: run no file whose lines are not yours.

    Attributes:
        jobs: Jobs to ask for at most.
        memory: Of each job, such as "8 GB".
        interface: Network interface on which the scheduler listens, such as "ib0"; or
        host: Its address. One of both is needed: on loopback no node would reach it.
        workers: Worker processes in each job, one for each of its accelerators.
        cores: Cores of each job, shared by its workers.
        walltime: Such as "02:00:00".
        queue, account: Partition and account.
        extra: Further options of sbatch, such as "--gres=gpu:1".
        prologue: Lines of the job script before the workers start, such as "module load cuda".
        python: Interpreter on the nodes; by default the one that runs here.
    """

    jobs: int
    memory: str
    interface: str | None = None
    host: str | None = None
    workers: int = 1
    cores: int = 1
    walltime: str = "01:00:00"
    queue: str | None = None
    account: str | None = None
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, self.cores // self.workers)

    def cluster(self, environment: dict[str, str]) -> Any:
        """A `dask_jobqueue.SLURMCluster` without jobs yet, a context manager.

        Args:
            environment: Variables of the workers.

        Raises:
            InputError: If there is no sbatch here.
        """
        if shutil.which("sbatch") is None:
            raise InputError("there is no sbatch here: run on a node that submits to Slurm, or use --workers N")
        from dask_jobqueue import SLURMCluster

        options = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        options |= {"interface": self.interface} if self.interface else {"host": self.host}
        return SLURMCluster(
            cores=self.cores,
            processes=self.workers,
            memory=self.memory,
            walltime=self.walltime,
            queue=self.queue,
            account=self.account,
            interface=self.interface,
            job_extra_directives=list(self.extra),
            job_script_prologue=[*(f"export {k}={v}" for k, v in environment.items()), *self.prologue],
            scheduler_options=options,
            **({"python": self.python} if self.python else {}),
        )


def read_slurm(path: Path) -> SlurmJobs:
    """The jobs of a TOML file.

    Raises:
        InputError: If it cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check --slurm") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no TOML ({error}); correct that line") from error
    known = {field.name: field for field in dataclasses.fields(SlurmJobs)}
    for key, value in content.items():
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
        _require_kind(path, key, value)
    for key in ("jobs", "memory"):
        if key not in content:
            raise InputError(f'{path}: {key} is missing; give jobs = NUMBER and memory = "8 GB"')
    if ("interface" in content) == ("host" in content):
        raise InputError(
            f'{path}: one of interface and host is needed, such as interface = "ib0": where the scheduler listens for '
            "the nodes"
        )
    return SlurmJobs(**{key: tuple(value) if key in _LISTS else value for key, value in content.items()})


def _require_kind(path: Path, key: str, value: Any) -> None:
    if key in _LISTS:
        good, wanted = isinstance(value, list) and all(isinstance(x, str) for x in value), "a list of texts"
    elif key in _TEXTS:
        good, wanted = isinstance(value, str) and value.strip() != "" and "\n" not in value, "a text of one line"
    else:
        good, wanted = type(value) is int and value >= 1, "a whole number of at least 1"
    if not good:
        raise InputError(f"{path}: {key} must be {wanted}, not {value!r}")
