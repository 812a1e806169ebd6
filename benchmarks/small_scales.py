"""Recovery of small-scale theory from C_l of simulated skies, and whether wrong theories are found out.

    python3 benchmarks/small_scales.py [--skies 100] [--seed 20261128] [--output FILE]

Truths are drawn from the priors, so that intervals must hold them as often as they say: for cascades with and without
an end, profiles, both together and power laws on a full sky, and cascades through the field of view of HAWC with the
estimator's own distribution. Then skies of three theories of given parameters are fitted by each of the three. Prints
one JSON line and writes it, with the command, the date and the versions, to benchmarks/results/small_scales.json.
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

from diffcr.inference.pseudo_power import cut_sky, grid_rings, poisson_variance
from diffcr.inference.sampler import Plan
from diffcr.inference.spectrum_calibration import (
    cut_sky_spectra,
    draw_spectra,
    foretold,
    full_sky_spectrum,
    prior_truths,
    recover,
)
from diffcr.inference.spectrum_fit import Problem
from diffcr.inference.spectrum_likelihood import choose_kind
from diffcr.inference.spectrum_models import build_model

import diffcr
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

PLAN = Plan(chains=2, warmup=200, draws=300, target_accept=0.9, max_tree_depth=7)
L_MAX = 16
NOISE = 4 * np.pi / 1e11
"""Of 1e11 events."""
CASES = {
    "cascade": {"C_1": (1e-6, 1.0)},
    "cascade, end": {"C_1": (1e-6, 1.0)},
    "pitch-angle": {"C_1_aligned": (1e-6, 1.0)},
    "mixed": {"C_1": (1e-7, 1.0), "C_1_aligned": (1e-6, 1.0)},
    "power-law": {"C_2": (1e-8, 1.0)},
}
TRUTHS = {
    "cascade": {"C_1": 5e-6, "depth": 0.1},
    "power-law": {"C_2": 1e-7, "slope": 2.0},
    "pitch-angle": {"C_1_aligned": 1e-6, "index": 5 / 3, "floor": 0.05},
}
"""What is fitted by all three."""


def recovery(name: str, skies: int, seed: int) -> dict:
    """Coverage for one theory on a full sky."""
    model = build_model(name.split(",")[0], L_MAX, end="end" in name, priors=CASES[name])
    truths = prior_truths(model, skies, seed)
    data = full_sky_spectrum(np.full(L_MAX, 1e-8), NOISE)
    drawn = draw_spectra(data, "chi2", model, truths, skies, seed + 1)
    return recover(Problem(model, data, "chi2"), truths, drawn, PLAN).to_dict()


def cut_recovery(skies: int, seed: int) -> dict:
    """Coverage of one cascade seen from one site: decoupled pseudo-C_l, over-subtracted ones too.

    Modes and correlations are those of the noise, as estimates.json gives them.
    """
    grid, place, l_max = RingGrid(36, 72), site("HAWC"), 12
    local = np.asarray(acceptance(place, grid, power=2.0))
    exposure = np.repeat(local.sum(axis=1, keepdims=True), grid.n_ra, axis=1)
    background = 1e11 * exposure / exposure.sum()
    seen = background > 0
    rings = grid_rings(grid, l_max)
    cut = cut_sky(rings, seen.astype(float), np.where(seen, poisson_variance(np.where(seen, background, 1.0)), 0.0))
    truth = {"C_1": 5e-6, "depth": 0.2}
    model = build_model("cascade", l_max, priors={"C_1": (5e-6, 2.0)})
    bins = [(l, l) for l in range(1, l_max + 1)]
    data, drawn = cut_sky_spectra(cut, np.asarray(model.power(truth)[0]), bins, skies, seed)
    data, drawn = data.only(range(1, l_max)), drawn[:, 1:]
    kind, _ = choose_kind(data)
    return recover(Problem(model, data, kind), truth, drawn, PLAN).to_dict() | {"likelihood": kind}


def comparison(true: str, skies: int, seed: int) -> dict:
    """How often each theory foretells skies of one of them best, by leave-one-out over degrees."""
    model = build_model(true, L_MAX)
    random, aligned = (np.asarray(x) for x in model.power(TRUTHS[true]))
    data = full_sky_spectrum(random + aligned + 1e-12, NOISE)
    drawn = draw_spectra(data, "chi2", model, TRUTHS[true], skies, seed)
    elpd = {}
    for name in TRUTHS:
        elpd[name] = foretold(Problem(build_model(name, L_MAX), data, "chi2"), drawn, PLAN).sum(axis=1)
    best = np.stack(list(elpd.values())).argmax(axis=0)
    behind = {name: float(np.median(elpd[name] - elpd[true])) for name in TRUTHS if name != true}
    return {"best": {name: float(np.mean(best == k)) for k, name in enumerate(TRUTHS)}, "median_difference": behind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skies", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument(
        "--only", action="append", help="a case of the recovery, cut-sky or comparison; may be repeated"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "small_scales.json")
    options = parser.parse_args()
    wanted = options.only or [*CASES, "cut-sky", "comparison"]
    results: dict = {"skies": options.skies, "l_max": L_MAX, "noise": NOISE, "recovery": {}, "comparison": {}}
    results["provenance"] = {
        "command": "python3 benchmarks/small_scales.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "diffcr": diffcr.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
    }

    def keep(group: str, name: str, found: dict) -> None:
        results[group][name] = found
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{group} {name}: done", file=sys.stderr, flush=True)

    for k, name in enumerate(CASES):
        if name in wanted:
            keep("recovery", name, recovery(name, options.skies, options.seed + 10 * k))
    if "cut-sky" in wanted:
        keep("recovery", "cascade, cut sky", cut_recovery(options.skies, options.seed + 100))
    if "comparison" in wanted:
        for k, true in enumerate(TRUTHS):
            keep("comparison", true, comparison(true, options.skies, options.seed + 200 + k))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
