"""Calibration of the dipole fit on simulated skies: pulls, test statistic, weights, Rice limits, grids.

    python3 benchmarks/calibration.py [--toys 1000] [--output benchmarks/results/calibration.json]

Three detectors with modulated rates: Auger-like (3e4 events), HAWC-like (1e10), IceCube-like (1e11). Prints one
JSON line and writes it, with the command, the date and the versions, to the output.
"""

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.calibration import Toys, dipole_toys

import diffcr
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

DETECTORS = {
    "auger-like": {"site": "auger", "power": 1.0, "events": 3e4, "dipole": (-0.012, 0.055)},
    "hawc-like": {"site": "hawc", "power": 4.0, "events": 1e10, "dipole": (9e-4, 7e-4)},
    "icecube-like": {"site": "icecube", "power": 4.0, "events": 1e11, "dipole": (-4e-4, 8e-4)},
}
MODULATION = [(1, 0.08, 1.0), (2, 0.03, 4.0), (5, 0.02, 2.0)]
SEED = 20261122


def setup(name: str, grid: RingGrid):
    """Acceptance and rate of a detector, with a 2 % east-west asymmetry and a modulated rate."""
    entry = DETECTORS[name]
    place = site(entry["site"])
    local = np.asarray(
        acceptance(place, grid, power=entry["power"], azimuth_terms=[(1, 0.02, np.pi / 2), (6, 0.03, 0.3)])
    )
    return local, np.asarray(rate(grid, entry["events"], harmonics=MODULATION))


def summary(toys: Toys) -> dict:
    pulls = toys.pulls
    return {
        "skies": len(pulls),
        "converged": int(toys.converged.sum()),
        "pull_mean": [round(float(x), 4) for x in pulls.mean(axis=0)],
        "pull_width": [round(float(x), 4) for x in pulls.std(axis=0, ddof=1)],
        "coverage_68": round(toys.interval_coverage(0.6827), 4),
        "coverage_95": round(toys.interval_coverage(0.95), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", type=int, default=1000)
    parser.add_argument("--fine-toys", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start = time.time()
    grid, fine = RingGrid(36, 72), RingGrid(180, 360)
    results: dict = {"grid": [36, 72], "seed": SEED}
    for number, (name, entry) in enumerate(DETECTORS.items()):
        local, rates = setup(name, grid)
        seed = SEED + 100 * number
        n = options.toys
        signal = dipole_toys(grid, local, rates, entry["dipole"], n, seed)
        isotropic = dipole_toys(grid, local, rates, (0.0, 0.0), n, seed + 1)
        weighted = dipole_toys(grid, local, rates, entry["dipole"], n, seed + 2, weight_spread=0.5)
        flat = dipole_toys(grid, local, rates, (0.0, 0.0), n, seed + 3, weight_spread=0.5)
        sigma = float(np.sqrt(np.trace(isotropic.covariances.mean(axis=0)) / 2))
        limits = {}
        for ratio in (0, 1, 2):
            toys = (
                isotropic if ratio == 0 else dipole_toys(grid, local, rates, (0.0, ratio * sigma), n, seed + 10 + ratio)
            )
            limits[f"A = {ratio} sigma"] = {"95": toys.limit_coverage(0.95), "99": toys.limit_coverage(0.99)}
        results[name] = {
            "events": entry["events"],
            "sigma_sqrt_n": round(sigma * entry["events"] ** 0.5, 4),
            "signal": summary(signal),
            "isotropic": summary(isotropic) | {"chi2_2dof_ks_p": round(isotropic.chi2_p_value(), 4)},
            "weighted": summary(weighted),
            "weighted_isotropic": summary(flat) | {"chi2_2dof_ks_p": round(flat.chi2_p_value(), 4)},
            "rice_limit_coverage": limits,
        }
        if options.fine_toys:
            local, rates = setup(name, fine)
            toys = dipole_toys(fine, local, rates, entry["dipole"], options.fine_toys, seed + 20, batch=10)
            ratio = np.sqrt(toys.covariances[:, 0, 0].mean() / signal.covariances[:, 0, 0].mean())
            results[name]["fine_180x360"] = summary(toys) | {"error_ratio_to_coarse": round(float(ratio), 4)}
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    results["provenance"] = {
        "command": "python3 benchmarks/calibration.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "diffcr": diffcr.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "seconds": round(time.time() - start),
    }
    print(json.dumps(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
