"""Simulation-based calibration of a sampled model: are the ranks of the truths uniform, do intervals cover?

    python3 benchmarks/sbc.py MODEL [--sets 300] [--seed 20261123] [--output FILE] [--figure FILE]

MODEL is one of those in `SETUPS`. Prints one JSON line and writes it, with the command, the date and the versions,
to benchmarks/results/sbc_MODEL.json.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("PJRT_NPROC", "1")  # samplers, as the commands have it

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.sbc import calibrate
from diffcr.inference.specification import Specification

import diffcr
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 36)
VELOCITY = (2e-3, -1e-3, 1e-3)
"""Far faster than the Sun, so that few events are enough to see it."""
SETUPS = {
    "dipole": {"model": "dipole", "priors": {"scale": 0.02}, "sites": ["HAWC"], "events": 2e5},
    "multipoles": {
        "model": "multipoles",
        "l_max": 4,
        "priors": {"dipole_scale": 0.02, "median": 1e-4, "spread": 1.0},
        "sites": ["IceCube", "HAWC"],
        "events": 1e6,
    },
    "multipoles-power-law": {
        "model": "multipoles",
        "l_max": 4,
        "priors": {"power": "power-law", "dipole_scale": 0.02, "median": 1e-4, "spread": 1.0},
        "sites": ["IceCube", "HAWC"],
        "events": 1e6,
    },
    "local-field": {"model": "local-field", "priors": {"scale": 0.02}, "sites": ["HAWC"], "events": 1e6},
    "local-field-tensor": {
        "model": "local-field",
        "priors": {
            "scale": 0.02,
            "transport": "tensor",
            "antisymmetric": 0.5,
            "velocity": VELOCITY,
            "spectral_index": (2.7, 0.5),
        },
        "sites": ["HAWC"],
        "events": 1e6,
        "energies": 2,
    },
    "small-scale": {
        "model": "small-scale",
        "l_max": 4,
        "priors": {"scale": 0.02, "median": 1e-5, "spread": 1.0},
        "sites": ["IceCube", "HAWC"],
        "events": 3e6,
        # Weak strengths leave a long ring of directions, which short chains do not go round.
        "warmup": 300,
        "draws": 500,
        "max_tree_depth": 6,
    },
    # Not from the prior: is a dipole of 1e-3 found where it is, whatever the multipoles above it?
    "multipoles-fixed-dipole": {
        "model": "multipoles",
        "l_max": 4,
        "priors": {"dipole_scale": 0.02, "median": 1e-7, "spread": 1.0},
        "sites": ["IceCube", "HAWC"],
        "events": 1e9,
        "dipole": (1e-3 / 2**0.5, 1e-3 / 2**0.5),
    },
}

_OF_THE_RUN = ("energies", "dipole", "warmup", "draws", "max_tree_depth")
"""Arguments of `calibrate` that are not of the model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SETUPS, metavar="MODEL", help=", ".join(SETUPS))
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path, help="where the rank histograms go, such as ranks.png")
    options = parser.parse_args()
    setup = dict(SETUPS[options.model])
    names, events = setup.pop("sites"), setup.pop("events")
    more = {name: setup.pop(name) for name in _OF_THE_RUN if name in setup}
    spec = Specification(**setup, concentration=200.0)
    sites = [site(name) for name in names]
    local = [np.asarray(acceptance(each, GRID, "cos", 4.0)) for each in sites]

    def tell(done, total, seconds):
        print(f"{done} of {total} sets, {seconds:.0f} s", file=sys.stderr, flush=True)

    found = calibrate(spec, sites, local, GRID, events, options.sets, options.seed, progress=tell, **more)
    results = found.to_dict()
    results["provenance"] = {
        "command": "python3 benchmarks/sbc.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "diffcr": diffcr.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(results))
    output = options.output or Path(__file__).parent / "results" / f"sbc_{options.model}.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    if options.figure:
        found.figure().savefig(options.figure, dpi=150)


if __name__ == "__main__":
    main()
