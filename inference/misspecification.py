"""What goes wrong when an assumption fails: bias of the dipole in units of the quoted error, and what would tell.

Every row is made from expected counts (an Asimov data set), so that the bias is exact and not a matter of luck, and
fitted as a user would fit it who does not know. The posterior is close to normal; `check_by_sampling` holds it to NUTS.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import util

from diffcr.counts import MarginalCounts, draw_marginals, expected_marginals
from diffcr.detector import acceptance
from diffcr.errors import InputError, require_float64
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis
from diffcr.observer import compton_getting_dipole, interstellar_velocity
from diffcr.rate import TROPICAL_YEAR_DAYS
from diffcr.site import Site, site
from diffcr.sky import earth_velocity, precession_matrix

from .compact import fewest_nodes
from .data import Counts
from .epochs import merge_epochs, merge_test
from .fit import fit
from .sampler import Kernel, Plan, natural, sample_segments
from .specification import Specification

TRUTH = (9e-4, 7e-4)
"""True (delta_0h, delta_6h) of every row."""

_TRUE_INDEX = 3.1


@dataclasses.dataclass(frozen=True)
class Misspecification:
    """One assumption that fails.

    Attributes:
        name: In a few words.
        wrong: What is assumed, and what is the case.
        events: Number of events of the data set; a bias grows as its root, in units of the error.
        bias: Found minus true (delta_0h, delta_6h); where the mean vanishes by symmetry, see `scatter`.
        error: Quoted standard deviation of each.
        scatter: True standard deviation over the quoted one: 1 where the quoted errors are right.
        flag: What the package reports that gives it away, with its value; "none" if nothing does.
        flagged: Whether it does for this data set.
        remedy: What to do.
        counts: The data as they were fitted.
        model: "dipole", or "local-field" where the row is about its dipole in the frame of the plasma.
    """

    name: str
    wrong: str
    events: float
    bias: tuple[float, float]
    error: tuple[float, float]
    flag: str
    flagged: bool
    remedy: str
    scatter: float = 1.0
    counts: Counts | None = None
    model: str = "dipole"

    @property
    def bias_delta_0h_sigma(self) -> float:
        """Bias of delta_0h in units of its quoted error."""
        return self.bias[0] / self.error[0]

    @property
    def bias_delta_6h_sigma(self) -> float:
        """Bias of delta_6h in units of its quoted error."""
        return self.bias[1] / self.error[1]

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        entry = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "counts"}
        more = {k: getattr(self, k) for k in ("bias_delta_0h_sigma", "bias_delta_6h_sigma")}
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in (entry | more).items()} | {
            k: [float(f"{x:.4g}") for x in getattr(self, k)] for k in ("bias", "error")
        }


def misspecification_table(
    place: Site | str = "HAWC", events: float = 1e9, grid: RingGrid | None = None, skies: int = 40, seed: int = 1
) -> list[Misspecification]:
    """All rows, for one observatory with an acceptance falling as cos(zenith angle)^4.

    Args:
        place: The observatory, below 80 degrees of latitude.
        events: Number of events.
        grid: The ring grid; default 36 rings of 72 cells.
        skies: Number of skies, or of drawn data sets, where a row averages over them.
        seed: Of the random numbers.

    Raises:
        InputError: If there are too few events for a bias to mean anything, or the observatory is near a pole, where
            the rotation of the Earth does not move the acceptance in declination.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.misspecification")
    place = site(place)
    if not events >= 1e6:
        raise InputError(f"{events:g} events are too few to see a bias; take at least 1e6")
    if abs(place.latitude) > math.radians(80):
        raise InputError(f"{place.name} is too near to a pole for these examples; take another observatory")
    if skies < 2:
        raise InputError(f"an average over {skies} skies has no scatter; take at least 2")
    setup = _Setup(place, float(events), grid or RingGrid(36, 72))
    rng = np.random.default_rng(seed)
    return [
        _nothing_wrong(setup),
        *_epochs(setup),
        _solar_acceptance(setup),
        _gaps(setup),
        _orbit(setup),
        _higher_multipoles(setup, rng, skies),
        _compton_getting(setup),
        _weights(setup, rng, skies),
        _equinox(setup),
    ]


class _Setup:
    """The observatory, its acceptance, and the sky of the true dipole."""

    def __init__(self, place: Site, events: float, grid: RingGrid):
        self.site, self.events, self.grid = place, events, grid
        self.local = np.asarray(acceptance(place, grid, "cos", 4.0))
        self.rate = np.full(grid.n_ra, events / grid.n_ra)
        self.sky = self.sky_of(TRUTH)
        declination, angle = np.meshgrid(grid.declination, grid.hour_angle, indexing="ij")
        self.east = -np.cos(declination) * np.sin(angle)

    def sky_of(self, dipole, coefficients=0.0) -> np.ndarray:
        """1 + delta I of the cells, for a dipole of date and further real multipoles."""
        values = np.zeros(np.size(coefficients) if np.size(coefficients) > 4 else 4)
        values[:] = coefficients
        values[:4] += np.asarray(dipole_to_coefficients(jnp.array([*dipole, 0.0])))
        return 1 + np.asarray(_synthesis(values, self.grid))

    def counts(self, *parts: MarginalCounts, time_frame: str = "sidereal", squares=None) -> Counts:
        """Counts of one or several epochs."""

        def lead(name):
            values = np.stack([np.asarray(getattr(part, name), float) for part in parts])
            # Transforms leave rounding of either sign where there is exactly nothing.
            return np.where(values > 1e-12 * values.max(), values, 0.0)[None, None]

        shape = (1, 1, len(parts))
        return Counts(
            grid=self.grid,
            sites=(self.site,),
            energies=("all",),
            epochs=("all",) if len(parts) == 1 else tuple(f"epoch {k + 1}" for k in range(len(parts))),
            **{f"n_{name}": lead(name) for name in MarginalCounts._fields},
            num_events=np.array([round(float(np.sum(p.time))) for p in parts]).reshape(shape),
            mean_epoch=np.full(shape, np.nan),
            livetime=np.full(shape, 365.0),
            time_frame=time_frame,
            history={"simulated": True},
        )

    def expected(self, rate=None, local=None, sky=None) -> MarginalCounts:
        return expected_marginals(
            self.rate if rate is None else rate,
            self.local if local is None else local,
            self.sky if sky is None else sky,
        )

    def from_cube(self, cube: np.ndarray) -> MarginalCounts:
        """Marginals of expected counts (time, ring, hour_angle), where rate and acceptance do not factorise."""
        n = self.grid.n_ra
        sky = np.zeros(self.grid.shape)
        for tau in range(n):
            sky[:, (tau - np.arange(n)) % n] += cube[tau]
        west = (np.arange(n) > 0) & (np.arange(n) < n / 2)
        half = np.stack([cube[:, :, ~west].sum(axis=2).T, cube[:, :, west].sum(axis=2).T])
        return MarginalCounts(sky, cube.sum(axis=(1, 2)), cube.sum(axis=0), half)

    def row(self, name, wrong, counts: Counts, flag, flagged, remedy, **more) -> Misspecification:
        """A row of the dipole model, biases from the maximum of the likelihood."""
        found, error = dipole_posterior(counts)
        bias = tuple(float(a - b) for a, b in zip(found, TRUTH, strict=True))
        counted = {"events": self.events, "bias": bias, "error": tuple(error), "counts": counts} | more
        return Misspecification(name=name, wrong=wrong, flag=flag, flagged=bool(flagged), remedy=remedy, **counted)


_synthesis = jax.jit(lambda values, grid: synthesis(values, grid, cell_average=True), static_argnums=1)


def dipole_posterior(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of (delta_0h, delta_6h) of date in the normal approximation, with a flat prior."""
    found = fit(counts).dipole
    return found.delta, np.sqrt(np.diag(found.covariance))


def _nodes(counts: Counts) -> int:
    """Nodes per ring for a dipole of less than a hundredth."""
    return fewest_nodes(counts.grid.n_ra, 1, counts.sum_weights, 1e-2)


def check_by_sampling(rows: list[Misspecification], seed: int = 0, draws: int = 500) -> list[dict[str, Any]]:
    """Posterior of every row by NUTS, four chains, against its normal approximation.

    Args:
        rows: Of `misspecification_table`; those of several epochs are left out.
        seed: Of the random numbers.
        draws: Per chain.

    Returns:
        For each: name, the largest difference of the means in units of the error, and the ratio of the errors that is
        farthest from 1.
    """
    rows = [r for r in rows if len(r.counts.epochs) == 1]
    plain = [r for r in rows if r.model == "dipole"]
    values = {}
    # Rows that see the same rings have one shape, and are sampled side by side.
    rings = {r.name: tuple(np.flatnonzero(r.counts.n_local.sum(axis=(0, 1, 2, 4)) > 0)) for r in plain}
    for seen in dict.fromkeys(rings.values()):
        alike = [r for r in plain if rings[r.name] == seen]
        drawn = _sample_dipoles([r.counts for r in alike], seed, draws)
        values |= {r.name: found for r, found in zip(alike, drawn, strict=True)}
    out = []
    for row in rows:
        if row.model == "dipole":
            mean, found = dipole_posterior(row.counts)[0], values[row.name]
        else:
            mean, found = np.array(TRUTH) + row.bias, _sample_plasma_dipole(row.counts, seed, draws)
            mean -= np.asarray(compton_getting_dipole(interstellar_velocity(), _TRUE_INDEX))[:2]
        shift = (found.mean(axis=0) - mean) / row.error
        ratio = found.std(axis=0) / row.error
        out.append(
            {
                "name": row.name,
                "mean_difference_sigma": float(np.max(np.abs(shift))),
                "error_ratio": float(ratio[np.argmax(np.abs(ratio - 1))]),
            }
        )
    return out


def _sample_dipoles(parts: list[Counts], seed: int, draws: int) -> np.ndarray:
    """Draws of (delta_0h, delta_6h) of every data set, side by side, (set, draw, 2)."""
    spec = Specification("dipole")
    nodes = max(_nodes(counts) for counts in parts)
    skies = [spec.likelihood(counts, nodes) for counts in parts]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *skies)
    kernel = Kernel(spec.function, Plan(warmup=200, draws=draws, max_tree_depth=6))

    def one(key, sky):
        carry = jax.vmap(lambda own: kernel.start(own, (sky,), {}))(jax.random.split(key, 4))

        def step(carry, _):
            carry, (z, _) = jax.vmap(lambda own: kernel.step(own, (sky,), {}))(carry)
            return carry, jax.vmap(lambda own: util.constrain_fn(kernel.model, (sky,), {}, own)["dipole"])(z)

        return jax.lax.scan(step, carry, length=200 + draws)[1][200:]

    keys = jax.random.split(jax.random.PRNGKey(seed), len(parts))
    return np.asarray(jax.jit(jax.vmap(one))(keys, stacked)).reshape(len(parts), -1, 2)


def _sample_plasma_dipole(counts: Counts, seed: int, draws: int) -> np.ndarray:
    """Draws of the equatorial dipole in the frame of the plasma, from the local-field model, (draw, 2)."""
    beta = np.asarray(interstellar_velocity())
    spec = Specification("local-field", priors={"velocity": tuple(beta)})
    sky = spec.likelihood(counts, _nodes(counts))
    kwargs = jax.jit(spec.arguments)(sky)
    kernel = Kernel(spec.function, Plan(warmup=300, draws=draws, seed=seed), spec.mirror(sky), spec.dense)
    x = natural(kernel, sample_segments(kernel, (sky,), kwargs).positions, (sky,), kwargs)
    seen = np.stack([x["delta_0h"], x["delta_6h"]], axis=-1)
    motion = np.asarray(compton_getting_dipole(beta[:2], 0.0)) + x["spectral_index"][..., None] * beta[:2]
    return (seen - motion).reshape(-1, 2)


# --- The rows ---------------------------------------------------------------------------------------------


def _nothing_wrong(s: _Setup) -> Misspecification:
    counts = s.counts(s.expected(rate=s.rate * (1 + 0.05 * np.cos(s.grid.sidereal_time - 1))))
    return s.row("nothing", "every assumption holds; the rate varies by 5 %", counts, "none", False, "none needed")


def _epochs(s: _Setup) -> list[Misspecification]:
    """Two configurations with opposite east-west response and opposite rates."""
    parts = []
    for sign in (1, -1):
        local = s.local * (1 + sign * 0.05 * s.east)
        wave = np.cos(s.grid.sidereal_time - 2.0)
        parts.append(s.expected(rate=0.5 * s.rate * (1 + 0.05 * sign * wave), local=local / local.sum()))
    apart = s.counts(*parts)
    test = merge_test(fit(apart))
    flag = f"epochs.merge_test: log10 p = {test.log10_p:.3g}"
    wrong = "two configurations, 5 % opposite east-west response and 5 % opposite sidereal rate, "
    merged = merge_epochs(apart, force=True)
    return [
        s.row("epochs added", wrong + "added into one", merged, flag, not test.allowed, "keep epochs apart (--epochs)"),
        s.row("epochs kept apart", wrong + "each with its own acceptance", apart, "none needed", False, "none needed"),
    ]


def _solar_acceptance(s: _Setup, depth: float = 2e-3, season: float = 0.5) -> Misspecification:
    """East-west response that follows solar time, more so in one season: a wave in sidereal and antisidereal time."""
    days = np.arange(365) + 0.5
    year = 2 * np.pi * days / TROPICAL_YEAR_DAYS

    def seen(frame):
        # Solar time at a given time of the frame: sidereal time gains a turn on it in a year, antisidereal loses one.
        solar = s.grid.sidereal_time[:, None] + {"sidereal": -1, "antisidereal": 1}[frame] * year
        wave = np.mean((1 + season * np.cos(year - 1.0)) * np.cos(solar - 3.0), axis=1)
        sky = s.sky if frame == "sidereal" else np.ones(s.grid.shape)
        n = s.grid.n_ra
        views = np.stack([sky[:, (tau - np.arange(n)) % n] for tau in range(n)])
        cube = s.rate[:, None, None] * s.local * views * (1 + depth * wave[:, None, None] * s.east)
        return s.counts(s.from_cube(cube), time_frame=frame)

    control = fit(seen("antisidereal"))
    return s.row(
        "acceptance in solar time",
        f"the east-west response varies by {depth:g} with solar time, that by {season:g} with the season; "
        "one acceptance assumed",
        seen("sidereal"),
        f"dipole in antisidereal time: {control.significance:.1f} sigma",
        control.significance > 3,
        "fit --time-frame antisidereal; correct the acceptance, or one epoch per month",
    )


def _gaps(s: _Setup, dead_hours: float = 4.0) -> Misspecification:
    """Dead sidereal hours are rates of zero: less is known, nothing is wrong."""
    live = s.grid.sidereal_time > dead_hours / 24 * 2 * np.pi
    counts = s.counts(s.expected(rate=s.rate * live))
    result = fit(counts)
    return s.row(
        "gaps",
        f"{dead_hours:g} sidereal hours without livetime",
        counts,
        f"dead_bins {result.dead_bins[0]}, livetime_inflation {result.livetime_inflation:.3f}",
        result.livetime_inflation > 1.01,
        "none needed: the error says it",
    )


def _orbit(s: _Setup) -> Misspecification:
    """Half a year of data: the Earth's velocity does not average out."""
    days = 5844.5 + np.arange(0, 182.0)
    mean = np.asarray(jnp.mean(earth_velocity(jnp.asarray(days)), axis=0))
    extra = np.asarray(compton_getting_dipole(mean, 2.7))
    counts = s.counts(s.expected(sky=s.sky_of((TRUTH[0] + extra[0], TRUTH[1] + extra[1]))))
    return s.row(
        "orbital dipole",
        "January to June only, the Earth's orbital motion not removed",
        counts,
        "none in sidereal time (a dipole in solar time is expected either way)",
        False,
        "--remove-orbital, or whole years",
    )


def _higher_multipoles(s: _Setup, rng, skies: int, l_max: int = 6) -> Misspecification:
    """A cascade's C_l above the dipole, with the dipole model."""
    first = 4 * np.pi / 9 * (TRUTH[0] ** 2 + TRUTH[1] ** 2)
    found, gains = [], []
    for _ in range(skies):
        values = np.zeros((l_max + 1) ** 2)
        for l in range(2, l_max + 1):
            power = first * 18 / ((2 * l + 1) * (l + 1) * (l + 2))
            values[l * l : (l + 1) ** 2] = math.sqrt(power) * rng.standard_normal(2 * l + 1)
        counts = s.counts(s.expected(sky=s.sky_of(TRUTH, values)))
        centre, error = dipole_posterior(counts)
        found.append(centre - TRUTH)
        gains.append(fit(counts, l_max=2).test_statistic - fit(counts).test_statistic)
    scatter = np.sqrt(np.mean(np.square(found), axis=0))
    gain = float(np.median(gains))
    # Its sign is that of the sky; what counts is its size.
    return s.row(
        "multipoles above the dipole",
        f"dipole model; C_l of a cascade to l = {l_max} on the sky: rms over {skies} skies",
        counts,
        f"fit with l_max 2 gains 2 ln L = {gain:.0f} for 4 degrees of freedom (median)",
        gain > 20,
        "model multipoles; a second site in the other hemisphere",
        bias=tuple(float(x) for x in scatter),
        scatter=float(np.mean(np.sqrt(1 + (scatter / error) ** 2))),
    )


def _compton_getting(s: _Setup) -> Misspecification:
    """The dipole in the frame of the plasma, by a correction with the wrong spectral index."""
    beta = np.asarray(interstellar_velocity())[:2]
    counts = s.counts(s.expected())
    found, error = dipole_posterior(counts)
    index, width = Specification("local-field").prior("spectral_index")
    return Misspecification(
        name="spectral index",
        wrong=f"Compton-Getting term with Gamma = {index:g} +- {width:g}, it is {_TRUE_INDEX:g}; the local field's "
        "dipole in the frame of the plasma",
        events=s.events,
        bias=tuple(float(x) for x in found - TRUTH - (index - _TRUE_INDEX) * beta),
        error=tuple(float(x) for x in np.hypot(error, width * np.abs(beta))),
        flag="none: a dipole of any direction is fitted",
        flagged=False,
        remedy="a prior of the spectral index as wide as what is known of it",
        counts=counts,
        model="local-field",
    )


def _weights(s: _Setup, rng, sets: int, spread: float = 1.0) -> Misspecification:
    """Sums of weights taken for numbers of events: no bias, but too small an error."""
    pulls = []
    for _ in range(sets):
        centre, error = dipole_posterior(s.counts(draw_marginals(rng, s.rate, s.local, s.sky, spread)[0]))
        pulls.append((centre - TRUTH) / error)
    return s.row(
        "weights as unit weights",
        f"log-normal weights of spread {spread:g} summed without their squares; scatter over {sets} data sets",
        s.counts(s.expected()),
        "none: without the squares nothing tells weights from events",
        False,
        "give the column of weights: errors then follow from their squares",
        scatter=float(np.sqrt(np.mean(np.square(pulls)))),
    )


def _equinox(s: _Setup, epoch: float = 2010.5) -> Misspecification:
    """J2000 coordinates binned as if they were of date: the rings of the one cut across those of the other."""
    grid, fine = s.grid, 8
    declination = np.linspace(-np.pi / 2, np.pi / 2, grid.n_ring * fine + 1)
    declination = (declination[1:] + declination[:-1]) / 2
    ra = (np.arange(grid.n_ra) + 0.5) * grid.step
    cos, sin = np.cos(declination)[:, None], np.sin(declination)[:, None]
    j2000 = np.stack(np.broadcast_arrays(cos * np.cos(ra), cos * np.sin(ra), sin), axis=-1)
    of_date = j2000 @ np.asarray(precession_matrix((epoch - 2000) * 365.25)).T
    dipole = 1 + of_date @ np.array([*TRUTH, 0.0])
    n, site_ = grid.n_ra, s.site
    cube = np.zeros((n, grid.n_ring, n))
    up = np.array([np.cos(site_.latitude), np.sin(site_.latitude)])
    for tau in range(n):
        angle = grid.sidereal_time[tau]
        towards = np.array([up[0] * np.cos(angle), up[0] * np.sin(angle), up[1]])
        # Without the edge of the field of view, which no sum over cells would resolve to 0.06 degrees.
        weight = np.maximum(of_date @ towards, 0.0) ** 4 * dipole * cos
        cube[tau][:, (tau - np.arange(n)) % n] = weight.reshape(grid.n_ring, fine, n).sum(axis=1)
    counts = s.counts(s.from_cube(cube * s.events / cube.sum()))
    return s.row(
        "J2000 taken for date",
        f"coordinates of J2000 declared as of date, epoch {epoch:g}",
        counts,
        "none",
        False,
        "--equinox j2000 (the default) where coordinates are of J2000",
    )
