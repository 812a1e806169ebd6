"""Whether the significance of discs is a standard normal number under isotropy, and measures what is injected.

    python3 benchmarks/significance.py [--discs 3000] [--output FILE]

For HAWC-, Auger- and IceCube-like detectors and discs of 5, 20 and 45 degrees, prints one JSON line with the width
(root mean square) of the significance of discs that do not overlap, over isotropic skies, each judged from its own
marginals; the same of Li & Ma's significance, with the background of each sky's own free map taken as known, beside
the width predicted for it; and the slope of the significance of skies with one hot or cold disc against amplitude
times the root of the information. Errors are from the scatter between skies, so that what the discs of one sky share
(rates, ring means) is in them.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.data import Counts
from diffcr.inference.discs import DiscScan
from diffcr.inference.maps import Problem, correlated, exposure_of, exposures, finished, maximise
from diffcr.inference.post_trial import draw_isotropic

import diffcr
from diffcr.counts import draw_marginals, expected_marginals
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

DETECTORS = {"hawc-like": ("hawc", 1e9), "auger-like": ("auger", 32187), "icecube-like": ("icecube", 1e9)}
RADII = (5, 20, 45)
EXPECTED = (-4.0, -2.0, 2.0, 4.0, 8.0)


def isotropic(name: str, grid: RingGrid, events: float):
    """Expected counts of an isotropic sky for a rate that varies by 10 %, with its acceptance and rate."""
    where = site(name)
    local = np.asarray(acceptance(where, grid))
    rate = 1 + 0.1 * np.cos(grid.sidereal_time - 1.0)
    rate *= events / rate.sum()
    expected = expected_marginals(rate, local, np.ones(grid.shape))
    lead = {f"n_{k}": np.maximum(np.asarray(v), 0.0)[None, None, None] for k, v in expected._asdict().items()}
    one = np.ones((1, 1, 1))
    labels = {"sites": (where,), "energies": ("all",), "epochs": ("all",)}
    number = (events * one).astype(np.int64)
    return Counts(grid, **labels, **lead, num_events=number, mean_epoch=np.nan * one, livetime=one), local, rate


def vectors(grid: RingGrid) -> np.ndarray:
    """Unit vectors of the centres of the cells, (ring, ra, 3)."""
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def apart(scan: DiscScan) -> list[tuple[int, int]]:
    """Centres of judged discs that share no cell: from the best measured on, each two radii from all before."""
    directions, left, found = vectors(scan.grid), np.array(scan.information), []
    while left.max() > 0:
        place = np.unravel_index(int(left.argmax()), left.shape)
        found.append(tuple(int(i) for i in place))
        left[directions @ directions[place] > np.cos(min(2 * scan.radius + 1e-6, np.pi))] = 0
        left[place] = 0
    return found


def free_background(counts: Counts, marginals, groups: int) -> np.ndarray:
    """Background of the free map of one sky, (ring, ra)."""
    problem = Problem([exposure_of(*marginals, groups)], (1, 1))
    state, gain, left, steps, inner = maximise(problem, 1e-3, 20)
    return finished(counts, problem, state, "maximum-likelihood", gain, left, steps, inner).background


def width(values: np.ndarray) -> tuple[float, float]:
    """Root mean square of values (sky, disc), and its error from the scatter between skies."""
    squares = np.mean(values**2, axis=1)
    size = np.sqrt(squares.mean())
    return float(size), float(squares.std(ddof=1) / np.sqrt(len(squares)) / 2 / size)


def under_isotropy(counts: Counts, scans: dict, discs: int, rng: np.random.Generator) -> dict:
    """Widths for each radius: of the significance, and of Li-Ma's with its prediction."""
    (e,) = exposures(counts)
    places = {radius: tuple(np.array(apart(scan)).T) for radius, scan in scans.items()}
    needed = {radius: -(-discs // len(p[0])) for radius, p in places.items()}
    found = {radius: ([], []) for radius in scans}
    for k in range(max(needed.values())):
        marginals = draw_isotropic(e, rng)
        rate = e.spread(e.grouped(marginals[1])) / len(marginals[1]) * e.groups / marginals[1].sum()
        flat = correlated(rate, marginals[2])
        own = free_background(counts, marginals, e.groups)
        for radius, scan in scans.items():
            if k >= needed[radius]:
                continue
            data, expected = scan.null_sums(marginals[0], flat)
            known = scan.summed(own)[places[radius]]
            on = data[places[radius]]
            deviance = on * np.log(np.maximum(on, 1e-300) / known) - (on - known)
            found[radius][0].append(scan.significance(data, expected)[0][places[radius]])
            found[radius][1].append(np.sign(on - known) * np.sqrt(np.maximum(2 * deviance, 0)))
    rows = {}
    for radius, (ours, theirs) in found.items():
        scan, values, li_ma = scans[radius], np.array(ours), np.array(theirs)
        predicted = np.sqrt(np.mean((scan.contrast_variance * scan.background_sum)[places[radius]]))
        (size, error), (known_size, known_error) = width(values), width(li_ma)
        rows[radius] = {
            "discs": values.size,
            "discs_per_sky": values.shape[1],
            "mean": round(float(values.mean()), 4),
            "mean_error": round(float(values.mean(axis=1).std() / np.sqrt(len(values))), 4),
            "width": round(size, 4),
            "width_error": round(error, 4),
            "beyond_3_sigma": round(float(np.mean(np.abs(values) > 3)), 5),
            "li_ma_width": round(known_size, 4),
            "li_ma_width_error": round(known_error, 4),
            "li_ma_width_predicted": round(float(predicted), 4),
        }
    return rows


def slope(counts: Counts, local, rate, scan: DiscScan, skies: int, rng: np.random.Generator) -> dict:
    """Least-squares slope through the origin of significance against amplitude times sqrt(information)."""
    (e,) = exposures(counts)
    place = apart(scan)[0]
    directions = vectors(scan.grid)
    inside = directions @ directions[place] >= np.cos(scan.radius) - 1e-12
    inside[place] = True
    wanted, found = [], []
    for expected in EXPECTED:
        amplitude = expected / np.sqrt(scan.information[place])
        for _ in range(skies):
            drawn, _, _ = draw_marginals(rng, rate, local, 1 + amplitude * inside)
            flat = exposure_of(drawn.sky, drawn.time, drawn.local, e.groups).background
            found.append(scan.significance(*scan.null_sums(drawn.sky, flat))[0][place])
            wanted.append(expected)
    wanted, found = np.array(wanted), np.array(found)
    value = wanted @ found / (wanted @ wanted)
    error = np.std(found - value * wanted) / np.sqrt(wanted @ wanted)
    return {"slope": round(float(value), 4), "slope_error": round(float(error), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discs", type=int, default=3000, help="independent discs for each detector and radius")
    parser.add_argument("--skies", type=int, default=40, help="skies for each injected amplitude")
    parser.add_argument("--grid", type=int, nargs=2, default=(36, 72), metavar=("RINGS", "BINS"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    grid, rng, start, rows = RingGrid(*options.grid), np.random.default_rng(7), time.process_time(), []
    for name, (place, events) in DETECTORS.items():
        counts, local, rate = isotropic(place, grid, events)
        scans = {radius: DiscScan(exposures(counts), grid, np.radians(radius)) for radius in RADII}
        widths = under_isotropy(counts, scans, options.discs, rng)
        for radius, scan in scans.items():
            row = {"detector": name, "events": events, "radius_deg": radius} | widths[radius]
            rows.append(row | slope(counts, local, rate, scan, options.skies, rng))
    content = {
        "benchmark": "significance of discs under isotropy",
        "command": f"python3 benchmarks/significance.py --discs {options.discs} --skies {options.skies}",
        "date": date.today().isoformat(),
        "version": diffcr.__version__,
        "cells": [grid.n_ra, grid.n_ring],
        "cpu_seconds": round(time.process_time() - start, 1),
        "worst_width": max((abs(row["width"] - 1), row["width"]) for row in rows)[1],
        "worst_slope": max((abs(row["slope"] - 1), row["slope"]) for row in rows)[1],
        "rows": rows,
    }
    print(json.dumps(content))
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
