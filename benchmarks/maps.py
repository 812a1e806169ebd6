"""The free sky map: Newton with conjugate gradients over FFTs, against alternating updates over (time, cell).

    python3 benchmarks/maps.py [--files] [--grid 180 360] [--events 1e10] [--output FILE]

Prints one JSON line. `fit_cpu_seconds` is the fit from counts to the map; `ratio` is the CPU seconds of the plain
alternation (Ahlers et al. 2016: sky, rates, acceptances in turn) to the same ln L within 1e-3, over ours, for the
better of two: NumPy over the exposed (time, cell) pairs with precomputed indices, and the same compiled by JAX. The
number of passes to the same ln L is counted with passes by FFT beforehand, so that the alternation pays for no ln L;
it is then run for as many, and `alternation_gain_short` is what its ln L is short of ours. With --files: the CPU
seconds of a whole `diffcr map --config` as a child process, which reads one HEALPix file per time bin (of nside
--nside) from a temporary folder. A small run: --grid 36 72 --events 1e8 --files --nside 8.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.data import Counts
from diffcr.inference.exchange import write_exchange
from diffcr.inference.local_maps import LocalMaps
from diffcr.inference.maps import Problem, State, exposures, sky_map

import diffcr
from diffcr.counts import draw_marginals
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

MOST_PASSES = 3000


def simulated(grid: RingGrid, events: float, rng: np.random.Generator) -> Counts:
    """HAWC-like counts of a dipole of 1e-3 and white noise of 1e-4, the rate varying by 10 %."""
    where = site("hawc")
    local = np.asarray(acceptance(where, grid))
    rate = 1 + 0.1 * np.cos(grid.sidereal_time - 1.0)
    dipole = np.outer(np.cos(grid.declination), np.cos(grid.right_ascension - 0.5))
    sky = 1 + 1e-3 * dipole + 1e-4 * rng.standard_normal(grid.shape)
    marginals, _, number = draw_marginals(rng, events * rate / rate.sum(), local, sky)
    one = np.ones((1, 1, 1))
    labels = {"sites": (where,), "energies": ("all",), "epochs": ("all",)}
    lead = {f"n_{k}": np.asarray(v)[None, None, None] for k, v in marginals._asdict().items()}
    count = (number * one).astype(np.int64)
    return Counts(grid, **labels, **lead, num_events=count, mean_epoch=np.nan * one, livetime=one)


def cpu(function) -> tuple[float, object]:
    """CPU seconds of a call, all threads, and its result."""
    start = time.process_time()
    result = jax.block_until_ready(function())
    return time.process_time() - start, result


def dense_passes(counts: Counts):
    """One pass of the alternation as (NumPy, JAX) functions of (sky, rate, acceptance), over the exposed pairs."""
    n = counts.grid.n_ra
    n_sky, n_time, n_local = (getattr(counts, name)[0, 0, 0] for name in ("n_sky", "n_time", "n_local"))
    rings, hours = np.nonzero(n_local)
    pairs = (np.arange(n)[:, None] - hours) % n + rings * n  # (time, cell) -> cell of the sky
    number, flat = n_local[rings, hours], n_sky.ravel()
    exposed = np.bincount(pairs.ravel(), minlength=flat.size) > 0
    seen = exposed.reshape(n_sky.shape).sum(axis=1, keepdims=True)

    def gauged(sky, xp):
        rows = xp.where(exposed, sky, 0.0).reshape(n_sky.shape)
        mean = rows.sum(axis=1, keepdims=True) / np.maximum(seen, 1)
        return xp.where(exposed, (rows / xp.where(mean > 0, mean, 1.0)).ravel(), 1.0)

    def plain(sky, rate, accepted):
        expected = np.bincount(pairs.ravel(), np.outer(rate, accepted).ravel(), flat.size)
        sky = gauged(flat / np.where(exposed, expected, 1.0), np)
        seen_sky = sky[pairs]
        rate = n_time / (seen_sky @ accepted)
        return sky, rate, number / (rate @ seen_sky)

    @jax.jit
    def compiled(sky, rate, accepted):
        expected = jnp.zeros(flat.size).at[pairs].add(rate[:, None] * accepted)
        sky = gauged(flat / jnp.where(exposed, expected, 1.0), jnp)
        seen_sky = sky[pairs]
        rate = n_time / (seen_sky @ accepted)
        return sky, rate, number / (rate @ seen_sky)

    start = np.ones(flat.size), n_time.astype(float), number / number.sum()
    return plain, compiled, start, int(pairs.size)


def passes_needed(problem: Problem, target: float) -> int:
    """Passes of the alternation until ln L is within 1e-3 of the target."""
    state = problem.start()
    for number in range(1, MOST_PASSES + 1):
        state = problem.alternate(state)
        if problem.gain(state) >= target - 1e-3:
            return number
    return MOST_PASSES


def repeated(step, state, number: int):
    """The state after so many passes."""
    for _ in range(number):
        state = step(*state)
    return state


def dense_gain(problem: Problem, passed) -> float:
    """ln L over isotropy of what a dense pass returned."""
    sky, rate, _ = passed
    (e,) = problem.seen
    log_rate = np.log(np.asarray(rate) / e.rate / e.total)
    return problem.gain(State(np.log(np.asarray(sky)).reshape(problem.sky.shape), (log_rate,)))


def fit_against_alternation(grid: RingGrid, events: float, repeat: int) -> dict:
    counts = simulated(grid, events, np.random.default_rng(1))
    trials = [cpu(lambda: sky_map(counts, (1, 1), rate_bins=grid.n_ra)) for _ in range(max(repeat, 1))]
    ours, free = min(t for t, _ in trials), trials[-1][1]
    problem = Problem(exposures(counts, grid.n_ra), (1, 1))
    number = passes_needed(problem, free.log_likelihood)
    plain, compiled, start, pairs = dense_passes(counts)
    jax.block_until_ready(compiled(*start))  # compilation is not counted
    seconds = {}
    for name, step in (("numpy", plain), ("jax", compiled)):
        seconds[name] = min(cpu(lambda step=step: step(*start))[0] for _ in range(max(repeat, 1)))
    best = min(seconds, key=seconds.get)
    alternation, last = cpu(lambda: repeated({"numpy": plain, "jax": compiled}[best], start, number))
    return {
        "cells": [grid.n_ra, grid.n_ring, grid.n_ra],
        "events": events,
        "pairs_seen": pairs,
        "free_values": free.degrees_of_freedom,
        "newton_steps": free.newton_steps,
        "gradient_steps": free.gradient_steps,
        "converged": free.converged,
        "fit_cpu_seconds": round(ours, 3),
        "passes": number,
        "pass_cpu_seconds": {k: round(v, 5) for k, v in seconds.items()},
        "better": best,
        "alternation_cpu_seconds": round(alternation, 3),
        "alternation_gain_short": round(free.log_likelihood - dense_gain(problem, last), 5),
        "ratio": round(alternation / ours, 1),
    }


def whole_process(nside: int, bins: int, events: float) -> dict:
    """CPU seconds of `diffcr map --config` on one file per time bin, everything included."""
    import healpy

    where, rng = site("hawc"), np.random.default_rng(2)
    up = np.cos(healpy.pix2ang(nside, np.arange(12 * nside**2))[0])
    shape = np.where(up > np.cos(where.zenith_max), up, 0.0)
    counts = rng.poisson(events / bins * shape / shape.sum(), (bins, len(up))).astype(float)
    with tempfile.TemporaryDirectory() as folder:
        maps = LocalMaps("HAWC", where.latitude, where.longitude, where.zenith_max, counts)
        config = write_exchange(folder, "hawc", [maps])
        del counts, maps
        command = [sys.executable, "-m", "diffcr.inference.cli", "map", "--config", str(config)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run([*command, "-o", str(Path(folder) / "out")], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        content = json.loads((Path(folder) / "out" / "map.json").read_text())
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "files": bins,
        "files_nside": nside,
        "files_events": events,
        "process_cpu_seconds": round(used, 2),
        "process_wall_seconds": round(wall, 2),
        "process_max_rss_mb": round(after.ru_maxrss / 1024),
        "process_converged": content["converged"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=int, nargs=2, default=(180, 360), metavar=("RINGS", "BINS"))
    parser.add_argument("--events", type=float, default=1e10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--files", action="store_true", help="also the whole command on one HEALPix file per bin")
    parser.add_argument("--nside", type=int, default=64, help="of the files; their number is that of the bins")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    given = f" --grid {options.grid[0]} {options.grid[1]} --events {options.events:g}"
    content = {
        "benchmark": "free sky map",
        "command": f"python3 benchmarks/maps.py{given}" + " --files" * options.files,
        "date": date.today().isoformat(),
        "version": diffcr.__version__,
    }
    content |= fit_against_alternation(RingGrid(*options.grid), options.events, options.repeat)
    if options.files:
        content |= whole_process(options.nside, options.grid[1], options.events)
    print(json.dumps(content))
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
