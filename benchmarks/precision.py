"""How far ln L and its gradient in 32-bit floats are from those in 64.

    python3 benchmarks/precision.py [--events 1e11] [--l-max 1 --l-max 4]

Prints one JSON line. Skies and rates are drawn about the maximum with their posterior covariance, for IceCube and HAWC
together with so many events each. `error` is the largest deviation of ln L over the draws after its mean, which no
posterior feels, is taken off, `error_absolute` without that; `spread` is the standard deviation of ln L over the draws;
`gradient_error` the largest deviation of the gradient in units of the posterior's width along each multipole.
"""

import argparse
import datetime
import json
import os
import sys

os.environ.setdefault("PJRT_NPROC", "1")

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from diffcr.inference.data import combine
from diffcr.inference.simulate import Simulation, simulate_counts
from diffcr.inference.sky_likelihood import sky_likelihood

import diffcr
from diffcr.grid import RingGrid
from diffcr.site import site


def counts_of(events: float, grid: RingGrid):
    """Counts of both sites, with a sky of the size that is measured up to l = 4."""
    rng = np.random.default_rng(5)
    degree = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    sky = 3e-4 * rng.standard_normal(25) / np.maximum(degree, 1)
    sky[0] = 0.0
    parts = [
        simulate_counts(Simulation(site(name), events, (8e-4, 6e-4, 0.0), multipoles=sky), grid, seed)
        for seed, name in enumerate(("icecube", "hawc"), 1)
    ]
    return combine(parts)


def drawn(likelihood, draws: int):
    """Skies (draw, param) and rates (draw, configuration, group) about the maximum, and the skies' widths."""
    rng = np.random.default_rng(7)
    covariance = np.linalg.pinv(np.asarray(likelihood.information[0]), hermitian=True)
    skies = rng.multivariate_normal(np.asarray(likelihood.centre[0]), covariance, draws)
    shift = rng.standard_normal((draws, *likelihood.rate_centre.shape))
    rates = jax.vmap(lambda t, z: likelihood.rate_mean(t) + likelihood.rate_root(z))(jnp.asarray(skies), shift)
    return jnp.asarray(skies), rates, np.sqrt(np.diag(covariance))


def deviations(likelihood, draws: int) -> dict:
    """Deviations of the same likelihood with all its arrays in 32 bits."""
    skies, rates, widths = drawn(likelihood, draws)

    def narrow(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def evaluated(which, *at):
        one = jax.value_and_grad(lambda t, u: which.log_likelihood(t, u))
        value, gradient = jax.jit(lambda *p: jax.lax.map(lambda x: one(*x), p))(*at)
        return np.asarray(value, float), np.asarray(gradient, float)

    # Of the numbers that 32 bits can hold, so that what is compared is the arithmetic.
    at = narrow((skies, rates))
    value, gradient = evaluated(likelihood, *(x.astype(float) for x in at))
    single, single_gradient = evaluated(narrow(likelihood), *at)
    off = single - value
    return {
        "l_max": likelihood.l_max,
        "parameters": skies.shape[1],
        "spread": float(value.std()),
        "error": float(np.abs(off - off.mean()).max()),
        "error_absolute": float(np.abs(off).max()),
        "log_likelihood": float(value.mean()),
        "gradient_error": float(np.abs((single_gradient - gradient) * widths).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, default=1e11)
    parser.add_argument("--grid", type=int, nargs=2, default=(36, 72), help="rings and cells of a ring")
    parser.add_argument("--l-max", type=int, action="append")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    counts = counts_of(options.events, RingGrid(*options.grid))
    rows = [deviations(sky_likelihood(counts, l_max), options.draws) for l_max in options.l_max or (1, 2, 4)]
    made = {
        "date": datetime.date.today().isoformat(),
        "version": diffcr.__version__,
        "command": " ".join(["benchmarks/precision.py", *sys.argv[1:]]),
    }
    print(
        json.dumps(
            made | {"events_per_site": options.events, "grid": list(options.grid), "draws": options.draws, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
