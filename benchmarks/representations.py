"""Do plane waves, the octave ladder and grids give the same diffusion coefficients and angular power?

    python3 benchmarks/representations.py [--realisations 200] [--nside 16] [--omega-t 100] [--output FILE]

Each representation gets as many realisations of one turbulence (by default sigma^2 = 1, r_L / L_c = 0.1, bend-over
spectrum from 0.01 to 100 L_c), with keys of the same numbers; the fields themselves differ. Of each: K_par and K_perp
at T in units of r_L c / 3, from <v_i(0) r_j(-T)> and from <r_i r_j> / 2T; C_1, C_2 per squared gradient in L_c, and
C_l / C_2 for l = 3 to 8, of gradients parallel and perpendicular to B_0, with errors over realisations (jackknife).
`chi2` compares the representations with their common mean, quantity by quantity, with (representations - 1) degrees of
freedom, and `p` is its probability; `holm_p` is the smallest after Holm's correction for their number. Prints one JSON
line.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np
from scipy.stats import chi2

import diffcr
from diffcr import small_scale
from diffcr.backtracking import Setup, displacements, spectra_of
from diffcr.spectrum import BendOver

REPRESENTATIONS = {
    "ladder_322": ("ladder", 23),
    "ladder_1120": ("ladder", 80),
    "plane_300": ("plane", 300),
    "plane_1000": ("plane", 1000),
    "grid": ("grid", 64),
}


def quantities(ensemble, radius: float) -> dict[str, tuple[float, float]]:
    """Name -> (value, standard error) at the last time."""
    unit = radius / 3
    found = {}
    for gradient in ("parallel", "perpendicular"):
        moments = small_scale.quadratic(ensemble.second_moment, gradient)[:, -1]
        current = -small_scale.quadratic(ensemble.velocity_displacement, gradient)[:, -1]
        power = small_scale.quadratic(ensemble.power, gradient)[:, -1]
        values = {
            f"K_{gradient}_velocity": small_scale.jackknife(lambda k: k / unit, current),
            f"K_{gradient}_displacement": small_scale.jackknife(lambda k: k / unit / (2 * ensemble.times[-1]), moments),
            f"C_1_{gradient}": small_scale.jackknife(lambda c: c[:, 1], power),
            f"C_2_{gradient}": small_scale.jackknife(lambda c: c[:, 2], power),
        }
        for l in range(3, 9):
            values[f"C_{l}_over_C_2_{gradient}"] = small_scale.jackknife(lambda c, l=l: c[:, l] / c[:, 2], power)
        found |= {name: (float(e.value), float(e.error)) for name, e in values.items()}
    return found


def compare(results: dict[str, dict]) -> dict[str, dict]:
    """Each quantity of all representations against their weighted mean."""
    out = {}
    for name in next(iter(results.values())):
        value, error = np.array([results[r][name] for r in results]).T
        mean = np.average(value, weights=error**-2)
        square = float(np.sum(((value - mean) / error) ** 2))
        out[name] = {
            "mean": mean,
            "relative_error_of_one": float(np.mean(error) / mean),
            "chi2": square,
            "p": float(chi2.sf(square, len(value) - 1)),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realisations", type=int, default=200)
    parser.add_argument("--nside", type=int, default=16)
    parser.add_argument("--omega-t", type=float, default=100.0)
    parser.add_argument("--omega-step", type=float, default=0.1)
    parser.add_argument("--sigma2", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(REPRESENTATIONS))
    parser.add_argument("--output", type=Path, help="File for the JSON.")
    options = parser.parse_args()
    results, seconds = {}, {}
    for name in options.only or REPRESENTATIONS:
        start = time.perf_counter()
        kind, size = REPRESENTATIONS[name]
        setup = Setup(
            sigma2=options.sigma2,
            larmor_radius=0.1,
            spectrum=BendOver(),
            representation=kind,
            size=size,
            omega_t=options.omega_t,
            omega_step=options.omega_step,
            samples=2,
            nside=options.nside,
            seed=options.seed,
        )
        skies = [spectra_of(displacements(setup, i), setup.nside) for i in range(options.realisations)]
        results[name] = quantities(small_scale.combine(skies), 0.1)
        seconds[name] = time.perf_counter() - start
    comparison = compare(results)
    p = sorted(entry["p"] for entry in comparison.values())
    content = {
        "date": str(date.today()),
        "version": diffcr.__version__,
        "command": f"benchmarks/representations.py --realisations {options.realisations} --nside {options.nside} "
        f"--omega-t {options.omega_t:g} --omega-step {options.omega_step:g} --sigma2 {options.sigma2:g} "
        f"--seed {options.seed}",
        "realisations": options.realisations,
        "holm_p": min(1.0, p[0] * len(p)),
        "quantities": len(p),
        "seconds": seconds,
        "comparison": comparison,
        "results": results,
    }
    text = json.dumps(content)
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
