"""Do posteriors of the physical model hold the truth? Truths from the priors, counts of three energy bins at two sites.

    python3 benchmarks/recovery.py [--sets 100] [--seed 20261128] [--output FILE]

Each set draws every free number of `MODEL` from its prior, Poisson counts of IceCube and HAWC in three energy bins
from the skies that follow, and the posterior by NUTS. Prints one JSON line with the coverage of central intervals and
the p-value of the ranks' uniformity for each quantity, and writes it to benchmarks/results/recovery.json.

The field and its opposite are the same, so that its axis is ranked by the products of its components.
"""

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("PJRT_NPROC", "1")  # samplers, as the commands have it

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from diffcr.inference.model_files import model_of
from diffcr.inference.sampler import Kernel, Plan
from diffcr.inference.sbc import _as_counts, _expected_events, _isotropic, draw_conditional
from diffcr.inference.source_coordinates import Positions, spread_starts
from diffcr.inference.source_fit import CountsRecipe, _of_date
from diffcr.inference.source_model import SourceModel
from numpyro.infer import util
from scipy import stats

import diffcr
from diffcr.composition import EnergyResponse
from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.site import site

GRID = RingGrid(18, 36)
MEDIAN, WIDTH = (3.0, 20.0, 130.0), 0.5
NODES, RATES = 8, 12
LEVELS = (0.68, 0.95)


def model() -> SourceModel:
    """Vela before a smooth disc; field anywhere, local diffusion with any perpendicular part."""
    return model_of(
        {
            "model": {"name": "recovery", "observer": "lsr"},
            "parameters": {"field_l_deg": 210.5, "field_b_deg": -57.1, "perpendicular": 0.1},
            "source": {
                "vela": {"distance_pc": 290, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 11000, "power": 1}
            },
            "priors": {
                "field": {"distribution": "isotropic"},
                "perpendicular": {"distribution": "log-uniform", "low": 1e-2, "high": 1},
                "diffusion_cm2_s": {"distribution": "log-normal", "median": 3e28, "spread": 0.3},
                "halo_height_pc": {"distribution": "log-uniform", "low": 2000, "high": 6000},
                "parallel_factor": {"distribution": "uniform", "low": 1, "high": 3},
                "vela.age_yr": {"distribution": "uniform", "low": 9000, "high": 20000},
                "vela.power": {"distribution": "log-normal", "median": 1, "spread": 0.5},
            },
        }
    )


def quantities(recipe: CountsRecipe, x) -> dict:
    """What is ranked, by name."""
    values, dipole = recipe.dipoles(x)
    bx, by, bz = values["field"]
    out = {"axis xy": bx * by, "axis xz": bx * bz, "axis yz": by * bz, "axis xx - yy": bx**2 - by**2, "axis zz": bz**2}
    out |= {k: v for k, v in values.items() if k != "field"}
    out |= {f"amplitude {e:g} TeV": jnp.hypot(dipole[k, 0], dipole[k, 1]) for k, e in enumerate(MEDIAN)}
    return out | {f"delta_{h} {MEDIAN[1]:g} TeV": dipole[1, k] for k, h in enumerate(("0h", "6h"))}


def simulate(rng, recipe: CountsRecipe, sites, expected, likelihood, x):
    """Poisson counts of the sky that x makes, rates constant but for 5 % of scatter."""
    theta = np.asarray(_of_date(recipe.dipoles(x)[1], likelihood.to_date))
    coefficients = np.zeros((len(MEDIAN), 4))
    coefficients[:, 0] = np.sqrt(4 * np.pi)
    coefficients[:, 2 + np.array(likelihood.order)] = theta
    parts, number = [], np.zeros((len(sites), len(MEDIAN), 1), np.int64)
    for s, local in enumerate(expected):
        for e in range(len(MEDIAN)):
            sky = np.asarray(synthesis(coefficients[e], GRID, cell_average=True))
            # Constant within the groups of time bins that share a rate, as the likelihood has it.
            rate = np.repeat(rng.gamma(400, size=RATES), GRID.n_ra // RATES)
            n_local = rng.poisson(local)
            parts.append(draw_conditional(rng, n_local, rate, sky))
            number[s, e] = n_local.sum()
    return _as_counts(sites, GRID, parts, number, 2015.5)


def run(sets: int, seed: int, events: float, plan: Plan, tell) -> dict:
    """Ranks of all quantities in all sets."""
    recipe = CountsRecipe(
        model(), EnergyResponse(MEDIAN, np.full(len(MEDIAN), WIDTH)), rate_bins=RATES, concentration=400.0, nodes=NODES
    )
    sites = [site(name) for name in ("IceCube", "HAWC")]
    accepted = [np.asarray(acceptance(each, GRID, "cos", 4.0)) for each in sites]
    expected = _expected_events(sites, accepted, GRID, events)
    likelihood = recipe.problem(_isotropic(sites, expected, GRID, len(MEDIAN), 2015.5), starts=2).arguments[0]
    prior = Positions(recipe.layout, np.zeros(recipe.layout.size), np.eye(recipe.layout.size))
    signs = {"coordinates": jnp.asarray(recipe.layout.mirror())}
    kernel = Kernel(recipe.function, plan, signs, ("coordinates",))
    rng = np.random.default_rng(seed)
    look = jax.jit(lambda x: quantities(recipe, x))

    @jax.jit
    def sample(key, at, *args):
        keys = jax.random.split(key, plan.chains)
        carry = jax.vmap(lambda own, at: kernel.start(own, args, {}, {"coordinates": at}))(keys, at)

        def step(carry, _):
            carry, (z, statistics) = jax.vmap(lambda own: kernel.step(own, args, {}))(carry)
            return carry, (z, statistics["diverging"], statistics["num_steps"])

        _, (z, diverging, steps) = jax.lax.scan(step, carry, length=plan.warmup + plan.draws)
        z, diverging, steps = jax.tree.map(lambda x: x[plan.warmup :], (z, diverging, steps))
        x = jax.vmap(jax.vmap(lambda own: util.constrain_fn(kernel.model, args, {}, own)["coordinates"]))(z)
        return jax.vmap(jax.vmap(lambda own: quantities(recipe, own)))(x), diverging.sum(), steps.mean()

    ranks: dict[str, list[float]] = {}
    diverged, lengths, worst, started = 0, [], [], time.monotonic()
    for k in range(sets):
        truth = prior.sample(jax.random.PRNGKey(seed + 1 + k))
        problem = recipe.problem(simulate(rng, recipe, sites, expected, likelihood, truth))
        at = spread_starts(problem.geometry, plan.chains, k)
        found, diverging, steps = sample(jax.random.PRNGKey(seed + 10_000 + k), at, *problem.arguments)
        found, true = jax.tree.map(np.asarray, (found, look(truth)))
        for name, draws in found.items():
            ranks.setdefault(name, []).append(float(np.mean(draws < true[name])))
        diverged += int(diverging)
        lengths.append(float(steps))
        worst.append(max(_r_hat(draws) for draws in found.values()))
        tell(k + 1, sets, time.monotonic() - started)
    return {"ranks": ranks, "divergences": diverged, "mean_steps": float(np.mean(lengths)), "r_hat": worst}


def _r_hat(draws: np.ndarray) -> float:
    """Of draws (draw, chain), split chains."""
    half = len(draws) // 2
    parts = np.concatenate([draws[:half], draws[half : 2 * half]], axis=1)
    within = parts.var(axis=0, ddof=1).mean()
    return float(np.sqrt((half - 1) / half + parts.mean(axis=0).var(ddof=1) / within)) if within > 0 else 1.0


def summarise(found: dict) -> dict:
    """Coverage and p-values of each quantity."""
    out = {}
    for name, ranks in found["ranks"].items():
        ranks = np.asarray(ranks)
        entry = {f"coverage_{100 * p:.0f}": float(np.mean(np.abs(ranks - 0.5) < p / 2)) for p in LEVELS}
        out[name] = entry | {"ks_p": float(stats.kstest(ranks, "uniform").pvalue), "mean_rank": float(ranks.mean())}
    p = np.sort([entry["ks_p"] for entry in out.values()])
    holm = float(min(1.0, np.min(p * (len(p) - np.arange(len(p))))))
    return {"quantities": out, "holm_p": holm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--events", type=float, default=1e8, help="mean number of events of each site and energy bin")
    parser.add_argument("--warmup", type=int, default=250)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    plan = Plan(chains=4, warmup=options.warmup, draws=options.draws, target_accept=0.95, max_tree_depth=8)

    def tell(done, total, seconds):
        print(f"{done} of {total} sets, {seconds:.0f} s", file=sys.stderr, flush=True)

    found = run(options.sets, options.seed, options.events, plan, tell)
    results = {"name": "recovery", "sets": options.sets, "events": options.events, **summarise(found)}
    results |= {"divergences": found["divergences"], "mean_steps": found["mean_steps"]}
    results["share_r_hat_below_1.05"] = float(np.mean(np.asarray(found["r_hat"]) < 1.05))
    results["provenance"] = {
        "command": "python3 benchmarks/recovery.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "diffcr": diffcr.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(results))
    output = options.output or Path(__file__).parent / "results" / "recovery.json"
    output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
