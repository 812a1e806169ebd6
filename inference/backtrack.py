"""Runs of backtracked skies: many realisations, one file each, continued after any end.

A realisation depends on the set-up and its own number alone. Its spectra go into one npz file that appears under its
name only when complete, so that a kill loses the one that was being traced, and where a run was cut, or how many
realisations it has, changes none of them.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffcr
from diffcr.backtracking import Setup, Spectra, displacements, require_l_max, spectra_of
from diffcr.errors import InputError

from .archives import read_archive
from .files import atomic, awaited
from .hosts import barrier, first_only, first_tells, is_first

Progress = Callable[[int, int, float], None]

FOLDERS = ("realisations", "half_step")
"""Where realisations go, with the step asked for and with half of it."""

_ARRAYS = tuple(field.name for field in dataclasses.fields(Spectra))


_MOST_SAMPLES = 900
"""Times kept at most: each is a column of the sky files, and FITS has 999."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What is traced, and how often.

    Attributes:
        setup: The experiment; realisation i is the same whatever their number.
        realisations: How many, at least 2: errors come from the scatter between them.
        step_check: So many of them again with half the step, 0 or from 2 on.
        l_max: Highest degree of the spectra, 3 nside - 1 at most.
        keep_maps: Whose displacement maps are kept: those of the "first" realisation, of "all", or of "none".

    Raises:
        InputError: If a number is out of range.
    """

    setup: Setup
    realisations: int = 40
    step_check: int = 0
    l_max: int | None = None
    keep_maps: str = "first"

    def __post_init__(self):
        if isinstance(self.realisations, bool) or not isinstance(self.realisations, int) or self.realisations < 2:
            raise InputError(f"realisations must be a whole number of at least 2, not {self.realisations!r}")
        if self.step_check != 0 and not 2 <= self.step_check <= self.realisations:
            raise InputError(
                f"a step check takes 2 to {self.realisations} realisations, or 0 for none, not {self.step_check!r}"
            )
        if self.setup.samples > _MOST_SAMPLES:
            raise InputError(
                f"samples must be at most {_MOST_SAMPLES}, not {self.setup.samples}: a FITS table takes no more columns"
            )
        if self.keep_maps not in ("first", "all", "none"):
            raise InputError(f"keep_maps must be first, all or none, not {self.keep_maps!r}")
        object.__setattr__(self, "l_max", require_l_max(self.l_max, self.setup.nside))

    @property
    def half_step(self) -> Setup:
        """The same experiment with steps of exactly half the length."""
        return dataclasses.replace(self.setup, omega_step=self.setup.omega_t / (2 * self.setup.steps))

    def keeps(self, number: int) -> bool:
        """Whether the displacement maps of this realisation are kept."""
        return self.keep_maps == "all" or (self.keep_maps == "first" and number == 0)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        run: What was traced.
        spectra: Of each realisation.
        half_step: Of the first `run.step_check` ones with half the step.
        maps: By realisation: kept displacements r(-T; n), shape (sample, 3, pixel).
        seconds: Wall time of each realisation with the step asked for, in whatever process it ran.
    """

    run: Run
    spectra: list[Spectra]
    half_step: list[Spectra]
    maps: dict[int, np.ndarray]
    seconds: list[float]


def settings(setup: Setup) -> dict[str, Any]:
    """All numbers and choices of a set-up, JSON."""
    out = {f.name: getattr(setup, f.name) for f in dataclasses.fields(setup) if f.name not in ("spectrum", "size")}
    spectrum = {"kind": type(setup.spectrum).__name__}
    for field in dataclasses.fields(setup.spectrum):
        value = getattr(setup.spectrum, field.name)
        spectrum[field.name] = getattr(value, "__qualname__", None) if callable(value) else float(value)
    return {**out, "size": setup.number, "spectrum": spectrum}


def trace(
    run: Run,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    devices=None,
) -> Result | None:
    """Trace all realisations, saving each.

    Where JAX has joined several processes each calls this, with a folder that all see, and traces its share.

    Args:
        run: What to trace.
        folder: Existing folder; realisations go into its folders `FOLDERS`. None keeps them in memory.
        resume: Go on with what is in the folder; otherwise it must hold no realisations.
        progress: Called after each realisation with those done, those in all (of this process, where there are
            several), and the seconds of this process.
        devices: Of JAX, those of this process; by default all of them.

    Returns:
        The run; None in all processes but the first.

    Raises:
        InputError: If the folder holds another run, or one when not resuming, or a file cannot be read or written.
    """
    jobs = [(FOLDERS[0], run.setup, k) for k in range(run.realisations)]
    jobs += [(FOLDERS[1], run.half_step, k) for k in range(run.step_check)]
    if folder is None and jax.process_count() > 1:
        raise InputError("realisations of several processes need a folder that all of them see; give one")
    found, clock = [None] * len(jobs), time.monotonic()
    if folder is not None:
        # All that is there is read before anything is traced: a file that does not fit is told at once.
        found = first_only(lambda: _present(run, folder, jobs, resume), found)
    missing = first_tells(lambda: [place for place, each in enumerate(found) if each is None])
    mine = missing[jax.process_index() :: jax.process_count()]
    there = len(jobs) - len(missing)
    for done, place in enumerate(mine, there + 1):
        name, setup, number = jobs[place]
        found[place] = _realise(setup, number, run.l_max, run.keeps(number) and name == FOLDERS[0], devices)
        if folder is not None:
            _save(folder / name, setup, number, run.l_max, found[place])
        if progress is not None:
            progress(done, there + len(mine), time.monotonic() - clock)
    barrier()
    if not is_first():
        return None
    found = [_others(run, folder, job) if each is None else each for job, each in zip(jobs, found, strict=True)]
    spectra = [Spectra(*(each[k] for k in _ARRAYS)) for each in found]
    return Result(
        run=run,
        spectra=spectra[: run.realisations],
        half_step=spectra[run.realisations :],
        maps={k: each["position"] for k, each in enumerate(found[: run.realisations]) if "position" in each},
        seconds=[float(each["seconds"]) for each in found[: run.realisations]],
    )


def _present(run: Run, folder: Path, jobs: list, resume: bool) -> list[dict[str, np.ndarray] | None]:
    """What the folder holds of each job; makes the folders of those that are to come."""
    _require_empty(folder, resume)
    for name in {name for name, *_ in jobs}:
        (folder / name).mkdir(exist_ok=True)
    return [
        _load(folder / name, setup, number, run.l_max, run.keeps(number) and name == FOLDERS[0])
        for name, setup, number in jobs
    ]


def _others(run: Run, folder: Path, job: tuple[str, Setup, int]) -> dict[str, np.ndarray]:
    """A realisation that another process has traced."""
    name, setup, number = job
    keep = run.keeps(number) and name == FOLDERS[0]
    content = awaited(lambda: _load(folder / name, setup, number, run.l_max, keep))
    if content is None:
        raise InputError(
            f"{_path(folder / name, number)}: another process traced it, but it is not here; give a folder that all "
            "machines share"
        )
    return content


def _realise(setup: Setup, number: int, l_max: int, keep: bool, devices) -> dict[str, np.ndarray]:
    begun = time.monotonic()
    moved = displacements(setup, number, devices)
    spectra = spectra_of(moved, setup.nside, l_max)
    out = {name: np.asarray(getattr(spectra, name)) for name in _ARRAYS}
    out["seconds"] = np.array(time.monotonic() - begun)
    return {**out, "position": np.asarray(moved.position)} if keep else out


# Files --------------------------------------------------------------------------------------------------


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"


def _label(setup: Setup, number: int, l_max: int) -> dict[str, Any]:
    return {"software": f"diffcr {diffcr.__version__}", **settings(setup), "l_max": l_max, "realisation": number}


def _require_empty(folder: Path, resume: bool) -> None:
    for name in FOLDERS:
        if not resume and any((folder / name).glob("*.npz")):
            raise InputError(f"{folder / name}: holds a run already; continue it with --resume, or choose another -o")


def _save(folder: Path, setup: Setup, number: int, l_max: int, content: dict[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps(_label(setup, number, l_max), sort_keys=True).encode(), np.uint8)
    with atomic(_path(folder, number)) as part, part.open("wb") as file:
        np.savez(file, label=text, **content)


def _load(folder: Path, setup: Setup, number: int, l_max: int, keep: bool) -> dict[str, np.ndarray] | None:
    """A finished realisation, or None where it has still to be traced."""
    path = _path(folder, number)
    try:
        found = read_archive(path, leave_out=() if keep else ("position",))
    except InputError as error:
        raise InputError(f"{error}; delete it, then continue with --resume") from error
    if found is None:
        return None
    label, content = found
    lacking = [name for name in ("seconds", *_ARRAYS) if name not in content]
    if lacking:
        raise InputError(f"{path}: cannot be read (it has no {lacking[0]}); delete it, then continue with --resume")
    wanted = _label(setup, number, l_max)
    differing = sorted(k for k in {*label, *wanted} if label.get(k) != wanted.get(k))
    if differing:
        raise InputError(
            f"{path}: is of a run with other {', '.join(differing)}; resume with the settings it was started with, "
            "or choose another -o"
        )
    # Its maps were not kept: trace it again.
    return None if keep and "position" not in content else content
