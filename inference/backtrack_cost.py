"""Time, memory and disk that a run of backtracked skies takes, known before it starts."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffcr.backtracking import Displacements, Setup, cost, draw, spectra_of
from diffcr.errors import InputError
from diffcr.trajectory import backtrack_antiparticle, healpix_directions

from .backtrack import Run

_SLICE_SECONDS = 1.5
_RESERVE = 700e6
"""Bytes that the program itself takes, with JAX's compiler."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        particle_steps: Steps of particles in all, the step check included.
        memory: Peak [byte].
        free: Memory that is free [byte]; None where the system does not say.
        disk: Of the results [byte].
        steps_per_second: Particle-steps per second, measured on a slice.
        seconds_realisation: Wall time of one realisation [s]: field, paths and spectra.
        seconds_total: Wall time of all realisations [s].
    """

    particle_steps: int
    memory: int
    free: int | None
    disk: int
    steps_per_second: float
    seconds_realisation: float
    seconds_total: float


def peak_memory(run: Run) -> int:
    """Bytes that a run takes at most, by counting: nothing is allocated."""
    each = cost(run.setup, run.realisations + run.step_check, run.l_max)
    # Once as they are read, once joined.
    return int(each.memory + 2 * each.kept + 2 * _map_bytes(run) + _RESERVE)


def _map_bytes(run: Run) -> int:
    width = 8 if run.setup.precision == "float64" else 4
    kept = {"all": run.realisations, "first": 1, "none": 0}[run.keep_maps]
    return kept * 3 * width * run.setup.samples * run.setup.pixels


def free_memory() -> int | None:
    """Memory that is free on this machine [byte], within the limit of a container; None where that is not known."""
    found = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found += [1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(int(Path(limit).read_text()) - int(Path(used).read_text()), 0))
        except (OSError, ValueError):
            continue
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found) if found else None


def require_memory(run: Run) -> None:
    """Refuse a run that does not fit into memory, before any of it is taken.

    Raises:
        InputError: If it does not fit. The message says what to make smaller.
    """
    needed, free = peak_memory(run), free_memory()
    if free is None or needed <= free:
        return
    setup = run.setup
    table = cost(setup, 1).memory - cost(dataclasses.replace(setup, representation="ladder", size=None), 1).memory
    if setup.representation == "grid" and table > needed / 2:
        remedy = "lower --size, or take --field ladder, which has no table"
    elif run.keep_maps == "all" and peak_memory(dataclasses.replace(run, keep_maps="first")) <= free:
        remedy = "keep the maps of the first realisation only (--keep-maps first)"
    else:
        remedy = f"lower --nside ({setup.nside}), --samples ({setup.samples}) or --realisations ({run.realisations})"
    raise InputError(f"this run needs {needed / 1e9:.3g} GB of memory, but {free / 1e9:.3g} GB are free: {remedy}")


def estimate(run: Run, devices=None) -> Estimate:
    """Time a slice of a run, and count its memory: some seconds, nothing kept.

    The slice is a number of steps of all pixels, from positions as far apart as those of particles half way, through
    the field of realisation 0; and the spectra of one sample.
    """
    setup = run.setup
    each = cost(setup, run.realisations, run.l_max)
    drawing = _timed(lambda: jax.block_until_ready(jax.tree.leaves(draw(setup, 0))))
    rate = _measured_rate(setup, devices)
    spectra = setup.samples * _spectra_seconds(setup, run.l_max)
    paths = each.steps / run.realisations / rate
    one, twice = drawing + paths + spectra, drawing + 2 * paths + spectra
    files = (run.realisations + run.step_check) * each.kept / run.realisations
    return Estimate(
        particle_steps=int(each.steps * (1 + 2 * run.step_check / run.realisations)),
        memory=peak_memory(run),
        free=free_memory(),
        disk=int(2 * files + 2 * _map_bytes(run)),
        steps_per_second=rate,
        seconds_realisation=one,
        seconds_total=run.realisations * one + run.step_check * twice,
    )


def _timed(function: Callable[[], Any]) -> float:
    """Seconds of a second call; the first one compiles."""
    function()
    begun = time.monotonic()
    function()
    return time.monotonic() - begun


def _measured_rate(setup: Setup, devices) -> float:
    """Particle-steps per second."""
    field, sky = draw(setup, 0), jnp.asarray(healpix_directions(setup.nside), setup.precision)
    spread = math.sqrt(setup.duration * abs(setup.larmor_radius))
    start = jnp.asarray(np.random.default_rng(0).normal(scale=spread, size=sky.shape), setup.precision)
    step, steps = setup.duration / setup.steps, min(10, setup.steps)
    while True:
        follow = lambda n=steps: jax.block_until_ready(
            backtrack_antiparticle(field, start, sky, setup.larmor_radius, n * step, step, devices=devices).position
        )
        seconds = _timed(follow)
        if seconds > _SLICE_SECONDS / 5 or steps == setup.steps:
            return setup.pixels * steps / seconds
        steps = min(setup.steps, math.ceil(steps * min(_SLICE_SECONDS / seconds, 100)))


def _spectra_seconds(setup: Setup, l_max: int) -> float:
    """Seconds of the spectra of one sample."""
    maps = np.random.default_rng(0).normal(size=(1, 3, setup.pixels))
    return _timed(lambda: spectra_of(Displacements(np.ones(1), maps), setup.nside, l_max))
