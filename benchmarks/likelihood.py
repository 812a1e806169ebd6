"""Value and gradient of the likelihood: three marginals and FFTs against the dense sums over (time, cell).

    python3 benchmarks/likelihood.py [--site hawc] [--repeat 15]

Prints one JSON line: `ratio` is the time of the dense JAX sum over all time x ring x hour-angle cells over ours,
`ratio_seen` that of the dense sum over the cells with acceptance only. All three compute the value and the
gradient with respect to the sky, the rate and the acceptance, in one process, on the same parameters; medians.
`difference` and `gradient_difference` are the largest relative deviations from the dense sums.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.likelihood import form_marginals, joint_log_likelihood

from diffcr.counts import expected_counts
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site


def timed(function, arguments, repeat: int) -> float:
    """Median seconds of a compiled call, after one warm-up."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", default="hawc")
    parser.add_argument("--events", type=float, default=1e10)
    parser.add_argument("--repeat", type=int, default=15)
    options = parser.parse_args()
    grid, rng = RingGrid(180, 360), np.random.default_rng(1)
    local = np.asarray(acceptance(site(options.site), grid))
    rates = np.asarray(rate(grid, options.events, harmonics=[(1, 0.05, 1.0)]))
    sky = 1 + 1e-3 * rng.standard_normal(grid.shape)
    # The dense sums need the cube of counts; ours needs its marginals only.
    cube = rng.poisson(expected_counts(jnp.asarray(rates), jnp.asarray(local), jnp.asarray(sky))).astype(float)
    column = (np.arange(grid.n_ra)[:, None] - np.arange(grid.n_ra)) % grid.n_ra
    data = form_marginals(*_marginals(cube, column))
    rings = list(data.rings)
    trial = 1 + 1e-3 * rng.standard_normal((len(rings), grid.n_ra))
    parameters = (jnp.asarray(trial), jnp.asarray(rates * 1.01), jnp.asarray(local[rings] * 0.99))

    def dense(intensity, rates, accepted):
        full = [jnp.ones(grid.shape), jnp.zeros(grid.shape)]
        sky_full = full[0].at[jnp.array(rings)].set(intensity)
        local_full = full[1].at[jnp.array(rings)].set(accepted)
        mu = rates[:, None, None] * local_full * jnp.moveaxis(sky_full[:, column], 0, 1)
        return jnp.sum(jnp.where(cube_all > 0, cube_all * jnp.log(jnp.where(mu > 0, mu, 1.0)), 0.0) - mu)

    ring_of, hour_of = np.nonzero(local[rings] > 0)
    seen_cube = jnp.asarray(cube[:, rings][:, ring_of, hour_of])
    seen_column = jnp.asarray(column[:, hour_of])

    def dense_seen(intensity, rates, accepted):
        mu = rates[:, None] * accepted[ring_of, hour_of] * intensity[ring_of[None], seen_column]
        return jnp.sum(seen_cube * jnp.log(mu) - mu)

    cube_all = jnp.asarray(cube)
    ours = jax.jit(jax.value_and_grad(lambda *p: joint_log_likelihood(*p, data), argnums=(0, 1, 2)))
    plain = jax.jit(jax.value_and_grad(dense, argnums=(0, 1, 2)))
    plain_seen = jax.jit(jax.value_and_grad(dense_seen, argnums=(0, 1, 2)))
    value, gradient = ours(*parameters)
    reference, reference_gradient = plain(*parameters)
    seen_value, _ = plain_seen(*parameters)
    live = np.asarray(local[rings] > 0)
    masks = (np.ones_like(live), np.ones(grid.n_ra, bool), live)
    deviation = max(
        float(np.max(np.abs(a - b)[m]) / np.max(np.abs(b)[m]))
        for a, b, m in zip(map(np.asarray, gradient), map(np.asarray, reference_gradient), masks, strict=True)
    )
    t_ours, t_all, t_seen = (
        timed(f, parameters, r) for f, r in ((ours, 10 * options.repeat), (plain, 3), (plain_seen, options.repeat))
    )
    print(
        json.dumps(
            {
                "benchmark": "likelihood value and gradient",
                "site": options.site,
                "cells": [grid.n_ra, grid.n_ring, grid.n_ra],
                "cells_seen": int(seen_cube.size),
                "ours_ms": round(1e3 * t_ours, 3),
                "dense_ms": round(1e3 * t_all, 1),
                "dense_seen_ms": round(1e3 * t_seen, 1),
                "ratio": round(t_all / t_ours, 1),
                "ratio_seen": round(t_seen / t_ours, 1),
                "difference": float(max(abs(value - reference), abs(value - seen_value)) / abs(reference)),
                "gradient_difference": deviation,
            }
        )
    )


def _marginals(cube: np.ndarray, column: np.ndarray):
    n_sky = np.stack([np.bincount(column.ravel(), ring.ravel(), cube.shape[2]) for ring in np.moveaxis(cube, 1, 0)])
    return n_sky, cube.sum(axis=(1, 2)), cube.sum(axis=0)


if __name__ == "__main__":
    main()
