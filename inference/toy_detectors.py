"""Detectors that toys are drawn from: known ones, or those that a fit of counts found."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from diffcr.counts import expected_marginals
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site

from .data import Counts
from .fit import DIPOLE_NORM, FitResult, _frame_rotation, fit
from .likelihood import grouped_rate
from .toy_plan import ToyPlan

GRID = RingGrid(18, 36)
"""Grid of toys unless another is asked for: with cell averages it gives the dipole of a fine grid."""


def plan_of_sites(
    sites: Sequence[Site],
    events: Sequence[float],
    grid: RingGrid = GRID,
    dipole: tuple[float, float] = (0.0, 0.0),
    toys: int = 1000,
    seed: int = 0,
    power: float = 1.0,
    weight_spread: float = 0.0,
    rate_bins: int | None = None,
) -> ToyPlan:
    """Toys of observatories with a constant rate and the acceptance cos^power(zenith) to their zenith cut.

    Args:
        sites: The observatories.
        events: Expected number of events of each for an isotropic sky.
        grid: The ring grid.
        dipole: True (delta_0h, delta_6h).
        toys, seed, weight_spread: As in `ToyPlan`.
        power: Of cos(zenith).
        rate_bins: Free rates of each; default as many as hold 100 events each.

    Raises:
        InputError: If an observatory's field of view or number of events cannot support a fit; or as `ToyPlan`.
    """
    if not all(np.isfinite(number) and number > 0 for number in events):
        raise InputError(f"the number of events of toys must be positive, not {', '.join(f'{n:g}' for n in events)}")
    # The edge of the field of view cuts cells: four samples a degree.
    fine = max(4, -(-4 * 180 // grid.n_ring))
    accepted = [np.asarray(acceptance(s, grid, power=power, subdivide=fine, profile="triangle")) for s in sites]
    rates = np.array([np.full(grid.n_ra, number / grid.n_ra) for number in events])
    counts = _expected(sites, grid, rates, accepted)
    groups = fit(counts, rate_bins=rate_bins).rate_bins
    return ToyPlan(
        grid=grid,
        names=tuple(s.name for s in sites),
        rates=rates,
        acceptances=np.array(accepted),
        dipole=dipole,
        toys=toys,
        seed=seed,
        groups=np.array(groups),
        even_rates=rate_bins is not None,
        weight_spreads=np.full(len(sites), float(weight_spread)),
    )


def plan_of_counts(
    result: FitResult,
    grid: RingGrid | None = None,
    dipole: tuple[float, float] | str = (0.0, 0.0),
    toys: int = 1000,
    seed: int = 0,
    rate_bins: int | None = None,
) -> ToyPlan:
    """Toys of what was fitted: the parametric bootstrap.

    Isotropic toys have the rates and acceptances of the best isotropic fit; toys with a dipole have those of the best
    fit. Weighted counts get log-normal weights with the spread of theirs.

    Args:
        result: Fit of the counts, of a dipole, with the acceptance free.
        grid: Grid of the toys, which divides that of the counts; default `GRID` where that does, else theirs.
        dipole: True (delta_0h, delta_6h) in the equator of date, or "fitted".
        toys, seed: As in `ToyPlan`.
        rate_bins: Free rates; default as many as in the fit, as far as the grid has so many time bins.

    Raises:
        InputError: If the acceptance was known, more than a dipole was fitted, the counts are blinded and the fitted
            dipole is asked for, or the grid does not divide theirs; or as `ToyPlan`.
    """
    counts = result.counts
    if result.known_exposure or result.l_max != 1:
        raise InputError("toys are of the dipole with a free acceptance: fit with l_max = 1 and without an exposure")
    if isinstance(dipole, str):
        if dipole != "fitted":
            raise InputError(f"the dipole of toys is two numbers or fitted, not {dipole!r}")
        if counts.blinded:
            raise InputError("the counts are blinded, and toys of the fitted dipole would tell it; unblind them first")
        # (1, -1) is delta_6h and comes first.
        dipole = tuple(float(x) for x in result.multipoles_of_date[[1, 0]] / DIPOLE_NORM)
    places, fine = counts.configurations(), counts.grid
    grid = _grid_of_toys(fine) if grid is None else grid
    rates, accepted = [], []
    for k, place in enumerate(places):
        rate, local = result.rates[k], result.acceptances[k]
        if tuple(dipole) == (0.0, 0.0):
            rate = grouped_rate(counts.n_time[place], rate_bins or fine.n_ra)
            local = counts.n_local[place]
        rate, local = coarsen(rate / rate.sum() * counts.num_events[place], local / local.sum(), fine, grid)
        rates.append(rate)
        accepted.append(local)
    asked = result.rate_bins if rate_bins is None else (rate_bins,) * len(places)
    groups = [max(d for d in range(1, min(g, grid.n_ra) + 1) if grid.n_ra % d == 0) for g in asked]
    if rate_bins is not None and groups[0] != rate_bins:
        raise InputError(f"rate bins of toys must divide the {grid.n_ra} time bins, not {rate_bins}")
    return ToyPlan(
        grid=grid,
        names=tuple(counts.label(place) for place in places),
        rates=np.array(rates),
        acceptances=np.array(accepted),
        dipole=tuple(dipole),
        toys=toys,
        seed=seed,
        groups=np.array(groups),
        even_rates=rate_bins is not None,
        rotations=np.array([_frame_rotation(counts, place) for place in places]),
        weight_spreads=np.array([_weight_spread(counts, place) for place in places]),
    )


def coarsen(
    rate: Float[np.ndarray, " time"], local: Float[np.ndarray, "ring hour_angle"], fine: RingGrid, coarse: RingGrid
):
    """Rate and acceptance of a detector on a coarser grid: (rate, acceptance), sums kept.

    With time bin tau = w T + u in coarse bin T, a local cell at fine hour angle h is in coarse bin ceil((h - u) / w),
    for w fine bins in a coarse one: taken as equally often at each u.

    Raises:
        InputError: If the coarse grid does not divide the fine one.
    """
    if fine.n_ring % coarse.n_ring or fine.n_ra % coarse.n_ra:
        raise InputError(
            f"the grid of toys, {coarse}, does not divide that of the counts, {fine}; choose another --grid"
        )
    width = fine.n_ra // coarse.n_ra
    hour = np.arange(fine.n_ra)
    rings = local.reshape(coarse.n_ring, -1, fine.n_ra).sum(axis=1)
    out = np.zeros(coarse.shape)
    for u in range(width):
        np.add.at(out, (slice(None), -((u - hour) // width) % coarse.n_ra), rings / width)
    return rate.reshape(coarse.n_ra, width).sum(axis=1), out


def _grid_of_toys(fine: RingGrid) -> RingGrid:
    divides = fine.n_ring % GRID.n_ring == 0 and fine.n_ra % GRID.n_ra == 0
    return GRID if divides else fine


def _weight_spread(counts: Counts, place: tuple[int, int, int]) -> float:
    """Spread of log-normal weights with the mean square over the squared mean of the events' weights."""
    if not counts.weighted:
        return 0.0
    ratio = counts.num_events[place] * counts.w2["n_time"][place].sum() / counts.n_time[place].sum() ** 2
    return float(np.sqrt(np.log(max(ratio, 1.0))))


def _expected(sites, grid: RingGrid, rates, accepted) -> Counts:
    """Counts equal to what isotropy expects, of each site; a fit of them says what can be measured."""
    names = [s.name for s in sites]
    if len(set(names)) < len(names):
        raise InputError("an observatory is named twice; give --events of both together")
    parts = [expected_marginals(r, a, np.ones(grid.shape)) for r, a in zip(rates, accepted, strict=True)]
    # Transforms leave rounding of either sign where there is exactly nothing.
    kept = {
        f"n_{name}": np.maximum(np.array([np.asarray(getattr(p, name)) for p in parts]), 0)[:, None, None]
        for name in parts[0]._fields
    }
    lead = (len(sites), 1, 1)
    return Counts(
        grid=grid,
        sites=tuple(sites),
        energies=("all",),
        epochs=("all",),
        **{name: np.where(values > 1e-12 * values.max(), values, 0.0) for name, values in kept.items()},
        num_events=np.maximum(1, np.round(rates.sum(axis=1))).astype(np.int64).reshape(lead),
        mean_epoch=np.full(lead, np.nan),
        livetime=np.zeros(lead),
    )
