"""Effective samples per second of the dipole with every sidereal rate free.

    python3 benchmarks/posterior.py [--site hawc] [--events 1e9] [--draws 1000] [--output FILE]

Prints one JSON line. `ess_per_second`: bulk effective samples of the slower of delta_0h and delta_6h per second of
sampling after warm-up, four chains, 360 x 180 cells, 360 free rates. `ratio_unwhitened`: over that of the same
likelihood sampled in its plain parameters (NUTS with an adapted diagonal mass matrix, from the maximum). `ratio_dense`:
over what the plain parametrisation would reach with the dense sum over all (time, cell) in place of three
marginals; EXTRAPOLATED as its effective samples per gradient over the timed seconds of one dense gradient, since
the run itself would take days.
"""

import argparse
import json
import os
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("PJRT_NPROC", "1")  # samplers, as the commands have it

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from diffcr.inference.arviz_import import arviz as az
from numpyro.distributions import constraints

jax.config.update("jax_enable_x64", True)

from diffcr.inference.models import DIPOLE_NORM
from diffcr.inference.prior import LogRates
from diffcr.inference.sampler import Kernel, Plan, natural, sample_segments
from diffcr.inference.simulate import Simulation, simulate_counts
from diffcr.inference.specification import Specification

import diffcr
from diffcr.grid import RingGrid
from diffcr.site import site


class PlainRates(LogRates):
    """The rates' prior without coordinates of its own; chains start at the maximum."""

    support = constraints.independent(constraints.real, 2)

    def sample(self, key, sample_shape=()):
        """The maximum."""
        return self.sky.rate_centre


class PlainVector(dist.Normal):
    """The dipole's prior; chains start at the given values."""

    def __init__(self, start):
        self.start = start
        super().__init__(jnp.zeros(2), 1.0)

    def sample(self, key, sample_shape=()):
        """The maximum."""
        return self.start


def plain(sky):
    """The dipole model in its plain parameters."""
    design = sky.turn[:, jnp.array(sky.dipole_places)] * DIPOLE_NORM
    start = sky.centre[0][jnp.array(sky.dipole_places)] / DIPOLE_NORM
    vector = numpyro.sample("vector", PlainVector(start).to_event(1))
    log_rates = numpyro.sample("log_rate", PlainRates(sky, design @ vector))
    numpyro.factor("counts", sky.log_likelihood(design @ vector, log_rates))
    numpyro.deterministic("delta_0h", vector[0])
    numpyro.deterministic("delta_6h", vector[1])


def measure(model, sky, plan) -> dict:
    """Effective samples of the slower component, seconds, and gradients."""
    kernel = Kernel(model, plan)
    draws = sample_segments(kernel, (sky,), {})
    values = natural(kernel, draws.positions, (sky,), {})
    components = [values[k] for k in ("delta_0h", "delta_6h")]
    return {
        "ess": min(float(az.ess(v)) for v in components),
        "r_hat": max(float(az.rhat(v)) for v in components),
        "seconds": draws.seconds,
        "gradients": int(draws.statistics["num_steps"].sum()),
        "divergences": int(draws.statistics["diverging"].sum()),
    }


def dense_gradient_seconds(counts, repeat: int) -> float:
    """Median seconds of value and gradient in dipole and rates, summed over every time bin and local cell."""
    grid = counts.grid
    local = jnp.asarray(counts.n_local[0, 0, 0])
    n_sky, n_time = jnp.asarray(counts.n_sky[0, 0, 0]), jnp.asarray(counts.n_time[0, 0, 0])
    column = (np.arange(grid.n_ra)[:, None] - np.arange(grid.n_ra)) % grid.n_ra
    level = jnp.cos(jnp.asarray(grid.declination))[:, None]
    ra = jnp.asarray(grid.right_ascension)
    # The dense likelihood knows no marginals: it takes the cube, here as expected, of the same size.
    rate = n_time / n_time.sum()
    cube = rate[:, None, None] * local * jnp.moveaxis((n_sky / jnp.maximum(n_sky, 1))[:, column], 0, 1)

    def log_likelihood(vector, log_rates):
        sky = 1 + level * (vector[0] * jnp.cos(ra) + vector[1] * jnp.sin(ra))
        mu = (rate * jnp.exp(log_rates))[:, None, None] * local * jnp.moveaxis(sky[:, column], 0, 1)
        return jnp.sum(jnp.where(cube > 0, cube * jnp.log(jnp.where(mu > 0, mu, 1.0)), 0.0) - mu)

    call = jax.jit(jax.value_and_grad(log_likelihood, argnums=(0, 1)))
    arguments = (jnp.array([1e-3, 5e-4]), jnp.zeros(grid.n_ra))
    jax.block_until_ready(call(*arguments))
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", default="hawc")
    parser.add_argument("--events", type=float, default=1e9)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--plain-draws", type=int, default=300)
    parser.add_argument("--grid", type=int, nargs=2, default=(180, 360), metavar=("RINGS", "BINS"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    grid = RingGrid(*options.grid)
    simulation = Simulation(site(options.site), options.events, (8e-4, 6e-4, 0.0))
    counts = simulate_counts(simulation, grid, seed=1)
    spec = Specification("dipole", rate_bins=grid.n_ra)
    sky = spec.likelihood(counts)
    ours = measure(spec.function, sky, Plan(warmup=options.warmup, draws=options.draws))
    slow = measure(plain, sky, Plan(warmup=options.warmup, draws=options.plain_draws))
    seconds = dense_gradient_seconds(counts, options.repeat)
    speed, slow_speed = ours["ess"] / ours["seconds"], slow["ess"] / slow["seconds"]
    dense_speed = slow["ess"] / slow["gradients"] / seconds
    content = {
        "benchmark": "dipole posterior, every rate free",
        "command": f"python3 benchmarks/posterior.py --events {options.events:g} --draws {options.draws}",
        "date": date.today().isoformat(),
        "version": diffcr.__version__,
        "site": options.site,
        "events": options.events,
        "cells": [grid.n_ra, grid.n_ring, grid.n_ra],
        "free_rates": int(sky.rate_centre.size),
        "nodes_per_ring": sky.nodes,
        "ess_per_second": round(speed, 1),
        "steps_per_draw": round(ours["gradients"] / (4 * options.draws), 1),
        "r_hat": round(ours["r_hat"], 4),
        "divergences": ours["divergences"],
        "unwhitened_ess_per_second": round(slow_speed, 2),
        "unwhitened_r_hat": round(slow["r_hat"], 4),
        "unwhitened_steps_per_draw": round(slow["gradients"] / (4 * options.plain_draws), 1),
        "ratio_unwhitened": round(speed / slow_speed, 1),
        "dense_gradient_ms": round(1e3 * seconds, 1),
        "ratio_dense": round(speed / dense_speed),
        "ratio_dense_note": "extrapolated: plain effective samples per gradient over the timed dense gradient",
    }
    print(json.dumps(content))
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
