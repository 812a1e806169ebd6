"""Counts made from arrays, for tests."""

import numpy as np
from diffcr.inference.data import Counts

from diffcr.counts import draw_marginals, expected_marginals
from diffcr.grid import RingGrid


def dipole_sky(grid: RingGrid, dipole) -> np.ndarray:
    """1 + delta . n averaged over each cell, written out: no code of the package's harmonics."""
    low, high = grid.declination_edges[:-1], grid.declination_edges[1:]
    solid = np.sin(high) - np.sin(low)
    cosine = ((high - low) / 2 + (np.sin(2 * high) - np.sin(2 * low)) / 4) / solid
    sine = (np.sin(high) ** 2 - np.sin(low) ** 2) / 2 / solid
    width = np.sin(grid.step / 2) / (grid.step / 2)
    ra = grid.right_ascension
    along = width * (dipole[0] * np.cos(ra) + dipole[1] * np.sin(ra))
    north = dipole[2] if len(dipole) > 2 else 0.0
    return 1 + np.outer(cosine, along) + (north * sine)[:, None]


def asimov(site, grid, local, rate, sky, epoch_year=np.nan) -> Counts:
    """Counts equal to their expectation."""
    m = expected_marginals(np.asarray(rate, float), np.asarray(local, float), np.asarray(sky, float))
    return as_counts(site, grid, m, None, int(max(1, round(float(np.sum(m.time))))), epoch_year)


def drawn(site, grid, local, rate, sky, seed, weight_spread=0.0, epoch_year=np.nan) -> Counts:
    """Poisson counts."""
    rng = np.random.default_rng(seed)
    m, q, number = draw_marginals(rng, np.asarray(rate), np.asarray(local), np.asarray(sky), weight_spread)
    return as_counts(site, grid, m, q, number, epoch_year)


def as_counts(site, grid, marginals, squares, number, epoch_year=np.nan) -> Counts:
    def lead(x):
        # Transforms leave rounding of either sign where there is exactly nothing.
        x = np.asarray(x, float)
        return np.where(x > 1e-12 * x.max(), x, 0.0)[None, None, None]

    one = np.ones((1, 1, 1))
    return Counts(
        grid=grid,
        sites=(site,),
        energies=("all",),
        epochs=("all",),
        **{f"n_{k}": lead(v) for k, v in marginals._asdict().items()},
        w2={} if squares is None else {f"n_{k}": lead(v) for k, v in squares._asdict().items()},
        num_events=(number * one).astype(np.int64),
        mean_epoch=epoch_year * one,
        livetime=365.0 * one,
    )
