"""Table of what goes wrong when an assumption fails: bias in units of the quoted error, and the flag that tells.

    python3 benchmarks/misspecification.py [--events 1e9] [--skies 40] [--no-sampling] [--output FILE]

Prints the table, then one JSON line, and writes that with the command, the date and the versions to
benchmarks/results/misspecification.json.
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

from diffcr.inference.misspecification import TRUTH, check_by_sampling, misspecification_table

import diffcr
from diffcr.grid import RingGrid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, default=1e9)
    parser.add_argument("--skies", type=int, default=40)
    parser.add_argument("--grid", type=int, nargs=2, default=(36, 72), metavar=("RINGS", "BINS"))
    parser.add_argument("--no-sampling", action="store_true", help="leave out the check by NUTS")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "misspecification.json")
    options = parser.parse_args()
    rows = misspecification_table(events=options.events, grid=RingGrid(*options.grid), skies=options.skies)
    print(f"{'':28s} {'delta_0h':>10s} {'delta_6h':>10s} {'scatter':>8s}  flag", file=sys.stderr)
    for row in rows:
        biases = f"{row.bias_delta_0h_sigma:10.2f} {row.bias_delta_6h_sigma:10.2f} {row.scatter:8.2f}"
        print(f"{row.name:28s} {biases}  {'yes: ' * row.flagged}{row.flag}", file=sys.stderr, flush=True)
    results = {
        "site": "HAWC",
        "grid": list(options.grid),
        "true_dipole": list(TRUTH),
        "rows": [row.to_dict() for row in rows],
        "sampling": [] if options.no_sampling else check_by_sampling(rows),
        "provenance": {
            "command": "python3 benchmarks/misspecification.py " + " ".join(sys.argv[1:]),
            "date": datetime.date.today().isoformat(),
            "diffcr": diffcr.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(results))
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
