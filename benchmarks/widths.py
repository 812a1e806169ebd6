"""Posterior widths of the dipole against the information of an ideal detector, worked out elsewhere.

    python3 benchmarks/widths.py [--output FILE] [--draws 2000] [--only NAME ...]

For Asimov counts (expected ones, no noise) of an isotropic sky the posterior standard deviation of delta_0h times
sqrt(N) is a number of the field of view and of l_max alone. Prints one JSON line with each number from NUTS, every
rate free, the other multipoles under a prior far wider than their errors, and its ratio to the reference: the
inverse Fisher information from direct numerical integration over the sky (acceptance and rate free).
"""

import argparse
import json
from datetime import date
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.data import Counts, combine
from diffcr.inference.sampler import Kernel, Plan, natural, sample_segments
from diffcr.inference.specification import Specification

import diffcr
from diffcr.counts import expected_marginals
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

REFERENCE = {
    "Auger, cos, 80 degrees": ([("-35.2,-69.3,80", 1)], {1: 2.374, 2: 2.64, 3: 2.95, 4: 3.36}),
    "Auger, cos, 60 degrees": ([("-35.2,-69.3,60", 1)], {1: 2.759}),
    "HAWC, cos, 57 degrees": ([("19,-97,57", 1)], {1: 3.086}),
    "HAWC, cos^4, 57 degrees": ([("19,-97,57", 4)], {1: 3.58, 2: 3.63, 3: 4.50, 4: 5.04}),
    "Tibet, cos^2, 60 degrees": ([("30.1,90.5,60", 2)], {1: 2.988}),
    "IceCube, cos, 65 degrees": ([("-90,0,65", 1)], {1: 2.2067, 2: 10.5, 3: 70.0, 4: 544.0}),
    "HAWC cos^4 + IceCube": ([("19,-97,57", 4), ("-90,0,65", 1)], {1: 2.66, 2: 3.53, 3: 3.61, 4: 3.65, 6: 3.94}),
}
EVENTS = 1e12
_PRIOR = {"power": "fixed", "median": 1e-2, "slope": 0.0}


def asimov(place: str, power: float, grid: RingGrid, events: float) -> Counts:
    """Expected counts of an isotropic sky."""
    where = site(place)
    local = np.asarray(acceptance(where, grid, power=power, subdivide=16))
    marginals = expected_marginals(np.full(grid.n_ra, events / grid.n_ra), local, np.ones(grid.shape))
    lead = {f"n_{k}": np.maximum(np.asarray(v), 0.0)[None, None, None] for k, v in marginals._asdict().items()}
    one = np.ones((1, 1, 1))
    return Counts(
        grid=grid,
        sites=(where,),
        energies=("all",),
        epochs=("all",),
        **lead,
        num_events=(events * one).astype(np.int64),
        mean_epoch=np.nan * one,
        livetime=365.0 * one,
    )


def width(places, l_max: int, plan: Plan, grid: RingGrid) -> float:
    """Posterior standard deviation of delta_0h and delta_6h (quadratic mean) times sqrt(N)."""
    counts = combine([asimov(place, power, grid, EVENTS / len(places)) for place, power in places])
    model, priors = ("dipole", {}) if l_max == 1 else ("multipoles", _PRIOR)
    spec = Specification(model, l_max, priors, rate_bins=36)
    sky = spec.likelihood(counts)
    kernel = Kernel(spec.function, plan)
    draws = sample_segments(kernel, (sky,), {})
    values = natural(kernel, draws.positions, (sky,), {})
    return float(np.sqrt((values["delta_0h"].var() + values["delta_6h"].var()) / 2 * EVENTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1500)
    parser.add_argument("--only", nargs="*", default=list(REFERENCE))
    parser.add_argument("--grid", type=int, nargs=2, default=(36, 72), metavar=("RINGS", "BINS"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    grid, plan = RingGrid(*options.grid), Plan(warmup=300, draws=options.draws)
    rows = []
    for name in options.only:
        places, expected = REFERENCE[name]
        for l_max, reference in expected.items():
            found = width(places, l_max, plan, grid)
            rows.append(
                {
                    "detector": name,
                    "l_max": l_max,
                    "width_sqrt_n": round(found, 4 if found < 10 else 2),
                    "reference": reference,
                    "ratio": round(found / reference, 4),
                }
            )
    content = {
        "benchmark": "posterior widths of the dipole",
        "command": f"python3 benchmarks/widths.py --draws {options.draws}",
        "date": date.today().isoformat(),
        "version": diffcr.__version__,
        "cells": [grid.n_ra, grid.n_ring],
        "worst": max(abs(row["ratio"] - 1) for row in rows),
        "rows": rows,
    }
    print(json.dumps(content))
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
