r"""Which sky explains the counts: prediction of rings left out, Bayes factors by quadrature and by nested sampling.

Three questions, three tools. `leave_one_ring_out` asks how well a model foretells a declination ring from the others;
it depends on the priors hardly at all. `dipole_curve` and `aligned_curve` give the Bayes factor of a dipole as a
function of the prior's width, which is what it hangs on. `log_evidence` integrates any model of few parameters.
Rates are integrated by Laplace's method throughout. Weighted counts are taken as effective events.
"""

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int
from numpyro import handlers
from numpyro.primitives import Messenger
from scipy import special

from diffcr.errors import InputError, require_float64
from diffcr.typing import AnyArray

from .compact import compact
from .data import Counts
from .dipole import log10_p_value
from .fit import DIPOLE_NORM, _exposed, _frame_rotation, _in_effective_events, _needs_cell_averages
from .likelihood import form_marginals
from .multipoles import Block, make_block, maximise
from .prior import Direction, SkyNormal
from .sky_likelihood import SkyLikelihood, _configuration, _laplace
from .smoothed import PARETO_LIMIT, error_of_sum, smoothed
from .specification import Specification


@dataclasses.dataclass(frozen=True)
class LeaveOneRingOut:
    """How well each ring of each configuration is predicted from all others.

    Attributes:
        configuration: Name of each entry's configuration.
        ring: Its ring on the full grid, shape (entry,).
        events: Its (effective) events, shape (entry,).
        elpd: ln p(ring | all others) minus that of an isotropic sky with the same rates, shape (entry,).
        isotropic: ln p(ring | all others) of the isotropic sky, without the multinomial coefficients of the data, which
            are the same for all models; shape (entry,). It depends on the rate bins and their prior alone.
        p_loo: ln p(ring | all) - ln p(ring | all others): what knowing the ring is worth, shape (entry,).
        pareto_k: Shape of the tail of the importance weights, shape (entry,).
    """

    configuration: tuple[str, ...]
    ring: Int[np.ndarray, " entry"]
    events: Float[np.ndarray, " entry"]
    elpd: Float[np.ndarray, " entry"]
    isotropic: Float[np.ndarray, " entry"]
    p_loo: Float[np.ndarray, " entry"]
    pareto_k: Float[np.ndarray, " entry"]

    @property
    def total(self) -> float:
        """Sum of the elpd: positive where the model foretells better than isotropy."""
        return float(np.sum(self.elpd))

    @property
    def standard_error(self) -> float:
        """Of the total, from the spread over rings: sqrt(n var)."""
        return error_of_sum(self.elpd)

    @property
    def effective_parameters(self) -> float:
        """Sum of p_loo."""
        return float(np.sum(self.p_loo))

    @property
    def unreliable(self) -> tuple[tuple[str, int], ...]:
        """(configuration, ring) of the entries whose Pareto k exceeds 0.7."""
        bad = np.flatnonzero(~(self.pareto_k <= PARETO_LIMIT))
        return tuple((self.configuration[k], int(self.ring[k])) for k in bad)


class Ranked(NamedTuple):
    """One model of a comparison.

    Attributes:
        name: Of the model.
        elpd, standard_error, effective_parameters: The total over isotropy and so on, as in `LeaveOneRingOut`.
        difference: elpd minus that of the best model, not above 0.
        difference_error: Its standard error, paired over the rings.
        unreliable: Number of rings whose Pareto k exceeds 0.7.
    """

    name: str
    elpd: float
    standard_error: float
    effective_parameters: float
    difference: float
    difference_error: float
    unreliable: int


def leave_one_ring_out(
    counts: Counts,
    sky: SkyLikelihood,
    theta: Float[AnyArray, "draw *energy param"],
    relative_efficiency: float = 1.0,
) -> LeaveOneRingOut:
    r"""Expected log predictive density of each ring given all others, from posterior draws of the sky.

    The likelihood is a product over local cells, hence over rings, that share the rates. As these are hundreds,
    they are integrated, by Laplace's method and with their Dirichlet prior, for each draw and each ring left out:

    $$ p(y_r | y_{-r}, \theta) = L(y | \theta) / L(y_{-r} | \theta), \qquad
       p(y_r | y_{-r}) = 1 / \langle 1 / p(y_r | y_{-r}, \theta) \rangle_{\theta | y}, $$

    with the mean stabilised by Pareto-smoothed importance sampling. Where the moments of single events are used, a
    ring's share of them is taken in proportion to its events.

    Args:
        counts: What `sky` was made of.
        sky: The likelihood.
        theta: Posterior draws of the multipoles of date, (draw, param), or (draw, energy, param) for one sky per energy
            bin; a few hundred are enough. Draws of the rates are not needed.
        relative_efficiency: Effective sample size of the draws over their number.

    References:
        Vehtari, Gelman & Gabry (2017), Stat. Comput. 27, 1413; Vehtari et al. (2024), JMLR 25, 72.

    Raises:
        InputError: If the counts do not say which ring was seen when, counts, sky and draws do not fit together, or a
            ring holds all events of a group of time bins.
    """
    require_float64("inference.leave_one_ring_out")
    counts = _in_effective_events(counts)
    places = counts.configurations()
    _check_rings(counts, sky, places)
    theta = jnp.asarray(theta)
    if theta.ndim < 2 or theta.shape[1:] not in ((len(sky.degree),), sky.centre.shape) or len(theta) < 50:
        raise InputError(
            f"theta has shape {theta.shape}: give at least 50 draws of the {len(sky.degree)} multipoles, draws first"
        )
    # Isotropy goes first: all else is relative to it.
    each, start = (np.asarray(x) for x in _starts(sky, jnp.concatenate([jnp.zeros_like(theta[:1]), theta])))
    names, rings, events, isotropic, columns = [], [], [], [], []
    for k, place in enumerate(places):
        parts = _Parts(counts, sky, place)
        args = (each[:, k], start[:, k], sky.alive[k], sky.concentration)
        whole, constant = _log_density(parts.whole, *args)
        for ring in np.flatnonzero(counts.n_local[place].sum(axis=1) > 0):
            rest, rest_constant = _log_density(parts.without(int(ring)), *args)
            with np.errstate(invalid="ignore"):  # of draws without likelihood, refused below
                density = whole - rest
            columns.append(density[1:] - density[0])
            isotropic.append(density[0] + constant - rest_constant)
            names.append(sky.names[k])
            rings.append(int(ring))
            events.append(float(counts.n_local[place][ring].sum()))
    log_density = np.stack(columns, axis=-1)
    bad = ~np.isfinite(log_density)
    if bad.any():
        draw, entry = np.argwhere(bad)[0]
        raise InputError(
            f"the density of ring {rings[entry]} of {names[entry]} given draw {draw} is not finite: draws must be of "
            "the posterior of these counts, and each group of time bins needs some events; lower rate_bins"
        )
    elpd, pareto_k = smoothed(log_density, relative_efficiency)
    mean = special.logsumexp(log_density, axis=0) - math.log(len(log_density))
    return LeaveOneRingOut(
        configuration=tuple(names),
        ring=np.array(rings),
        events=np.array(events),
        elpd=elpd,
        isotropic=np.array(isotropic),
        p_loo=mean - elpd,
        pareto_k=pareto_k,
    )


@jax.jit
def _starts(sky: SkyLikelihood, theta: Array) -> tuple[Array, Array]:
    """Multipoles of each configuration, and its most probable rates to first order, per draw."""
    return jax.vmap(sky.of_each)(theta), jax.vmap(sky.rate_mean)(theta)


def _check_rings(counts: Counts, sky: SkyLikelihood, places: list[tuple]) -> None:
    names = tuple(counts.label(p) for p in places)
    if names != sky.names:
        raise InputError(
            f"the counts hold {', '.join(names)}, the likelihood {', '.join(sky.names)}: use the counts that the "
            "likelihood was made of"
        )
    for place, name in zip(places, names, strict=True):
        by_ring = counts.n_local[place].sum(axis=1)
        if not np.allclose(counts.n_half[place].sum(axis=(0, 2)), by_ring, rtol=1e-6, atol=1e-9 * by_ring.sum()):
            raise InputError(
                f"the counts of {name} do not say which declination ring was seen in which time bin (n_half): leaving "
                "a ring out is impossible; bin the events again"
            )
        if np.count_nonzero(by_ring) < 2:
            raise InputError(f"the events of {name} lie in one declination ring: none can be left out; refine the grid")


class _Parts:
    """One configuration's data, whole and without a ring, as the likelihood's kernel takes them."""

    def __init__(self, counts: Counts, sky: SkyLikelihood, place: tuple):
        self._counts, self._place, self._nodes = counts, place, sky.nodes
        self._groups = sky.block.group_counts.shape[1]
        degree, order = np.array(sky.degree), np.array(sky.order)
        averages = _needs_cell_averages(counts, place, degree)
        turn = _frame_rotation(counts, place)
        _, self._modes, self._block = _configuration(counts, place, degree, order, self._groups, turn, averages)
        self._exposed = _exposed(counts, place, None)

    def _compact(self, block: Block) -> Block:
        grid = self._counts.grid
        return compact(block, self._nodes, grid.right_ascension, grid.hour_angle)

    @property
    def whole(self) -> Block:
        """All rings."""
        return self._compact(self._block)

    def without(self, ring: int) -> Block:
        """All but one ring, about the isotropic fit of what is left."""
        counts, place = self._counts, self._place
        rest = {name: np.array(getattr(counts, name)[place]) for name in ("n_sky", "n_local")}
        for values in rest.values():
            values[ring] = 0.0
        time = np.maximum(counts.n_time[place] - counts.n_half[place][:, ring].sum(axis=0), 0.0)
        data = form_marginals(rest["n_sky"], time, rest["n_local"], self._groups, self._exposed)
        block = _remade(data, self._modes, groups=self._groups)
        full = np.asarray(self._block.group_counts)
        # Differences of sums over 1e11 events leave rounding where there is exactly nothing.
        emptied = np.flatnonzero((full > 0) & (np.asarray(block.group_counts) <= 1e-9 * full))
        if emptied.size:
            raise InputError(
                f"ring {ring} of {counts.label(place)} holds all events of the time bins of group {emptied[0]}: their "
                "rate would be unknown without it; lower rate_bins"
            )
        share = float(data.total / self._block.data.total)
        own = dataclasses.replace(block, linear=share * self._block.linear, bilinear=share * self._block.bilinear)
        return self._compact(own)


_remade = jax.jit(make_block, static_argnames="groups")


def _log_density(block: Block, theta, log_rates, alive, concentration) -> tuple[np.ndarray, float]:
    """ln p of one configuration's events for each sky (draw, param), over that of the best isotropic fit, and the rest.

    `_laplace` is relative to that fit, and so is u. The rest is its ln L and the Dirichlet's normalisation in its
    units; the total rate, which the likelihood pins with width 1/sqrt(events), is taken out; constants of the number
    of groups are left out.
    """
    values = _in_chunks(lambda *draw: _laplace_of_each(block, *draw, alive, concentration), theta, log_rates)
    start, time, rate = (np.asarray(x) for x in (block.rate_modes[-1], block.data.time, block.data.rate))
    rest = special.xlogy(time, rate).sum() + 0.5 * math.log(block.data.total)
    return values, rest + float(concentration) * np.log(start[np.asarray(alive) > 0]).sum()


_laplace_of_each = jax.jit(
    jax.vmap(lambda block, theta, u, alive, alpha: _laplace(block, theta, u, alive, alpha, 5), (None, 0, 0, None, None))
)


def compare(results: dict[str, LeaveOneRingOut]) -> list[Ranked]:
    """Models of the same counts, the best first; differences are to the best, ring by ring.

    Raises:
        InputError: If there are no models, or they were not fitted to the same rings and events.
    """
    if not results:
        raise InputError("no model to compare: give the results of at least one, by name")
    first_name, first = next(iter(results.items()))
    for name, other in results.items():
        same = first.configuration == other.configuration and np.array_equal(first.ring, other.ring)
        if not (same and np.allclose(first.events, other.events, rtol=1e-9)):
            raise InputError(
                f"the models {first_name} and {name} were fitted to different counts: their predictions cannot be "
                "compared; use the same counts for both"
            )
    # The isotropic predictions differ only where the rates are treated differently; they are large and nearly cancel.
    over = {name: r.elpd + (r.isotropic - first.isotropic) for name, r in results.items()}
    names = sorted(results, key=lambda name: -np.sum(over[name]))
    differences = {name: over[name] - over[names[0]] for name in names}
    return [
        Ranked(
            name,
            results[name].total,
            results[name].standard_error,
            results[name].effective_parameters,
            float(np.sum(differences[name])),
            error_of_sum(differences[name]),
            len(results[name].unreliable),
        )
        for name in names
    ]


@dataclasses.dataclass(frozen=True)
class BayesCurve:
    """ln Bayes factor of a dipole as a function of the standard deviation of its prior.

    Attributes:
        scales: Prior standard deviations of each free component, ascending, shape (scale,).
        log_bayes_factor: ln B, positive where the data favour the first hypothesis, shape (scale,).
        accuracy: |change of ln B| on a grid of half the density, shape (scale,): far above the true error.
        test_statistic: 2 ln(L / L_0) of the maximum-likelihood fits of the larger to the smaller model.
        degrees_of_freedom: Their difference in parameters.
        extra_is_first: Whether the larger model is the first hypothesis.
    """

    scales: Float[np.ndarray, " scale"]
    log_bayes_factor: Float[np.ndarray, " scale"]
    accuracy: Float[np.ndarray, " scale"]
    test_statistic: float
    degrees_of_freedom: int
    extra_is_first: bool = True

    @property
    def _peak(self) -> tuple[float, float]:
        """(ln scale, ln B) at the maximum, by a parabola through the three highest points."""
        x, y, k = np.log(self.scales), self.log_bayes_factor, int(np.argmax(self.log_bayes_factor))
        if not 0 < k < len(x) - 1:
            return float(x[k]), float(y[k])
        a, b, c = np.polyfit(x[k - 1 : k + 2] - x[k], y[k - 1 : k + 2] - y[k], 2)
        if a >= 0:
            return float(x[k]), float(y[k])
        return float(x[k] - b / (2 * a)), float(y[k] + c - b * b / (4 * a))

    @property
    def maximum(self) -> float:
        """Largest ln B over the scales."""
        return self._peak[1]

    @property
    def best_scale(self) -> float:
        """The scale of the largest ln B."""
        return math.exp(self._peak[0])

    @property
    def log10_p(self) -> float:
        """log10 of the chi-squared probability of the test statistic under the smaller model."""
        return log10_p_value(self.test_statistic, self.degrees_of_freedom)

    @property
    def p_value(self) -> float:
        """10^log10_p."""
        return 10.0**self.log10_p

    @property
    def log_bound(self) -> float:
        """ln of 1 / (-e p ln p), the most that such a p-value can say for the larger model; 0 for p above 1/e.

        For orientation: Sellke, Bayarri & Berger (2001), Am. Stat. 55, 62.
        """
        log_p = self.log10_p * math.log(10)
        return -(1 + log_p + math.log(-log_p)) if log_p < -1 else 0.0


def dipole_curve(sky: SkyLikelihood, scales: Float[AnyArray, " scale"] | None = None) -> BayesCurve:
    """Dipole against isotropy: delta_0h and delta_6h each N(0, scale^2), by quadrature in two dimensions.

    Args:
        sky: A likelihood of l_max 1.
        scales: Prior standard deviations; default 41 from 0.01 to 1000 times the dipole's error.

    Raises:
        InputError: If the likelihood has multipoles above the dipole, does not measure it, or a scale is not positive.
    """
    return _curve(sky, _dipole_design(sky), scales)


def aligned_curve(
    sky: SkyLikelihood, field: Float[AnyArray, "3"], scales: Float[AnyArray, " scale"] | None = None
) -> BayesCurve:
    """Dipole along a given axis against isotropy: (delta_0h, delta_6h) = t (cos RA_B, sin RA_B), t of N(0, scale^2).

    Args:
        sky: A likelihood of l_max 1.
        field: B in the frame of the likelihood, of any length and sign; only its right ascension counts.
        scales: As in `dipole_curve`.

    Raises:
        InputError: As `dipole_curve`, or if B points to a pole.
    """
    return _curve(sky, _dipole_design(sky) @ _axis(field), scales)


def aligned_against_dipole(
    sky: SkyLikelihood, field: Float[AnyArray, "3"], scales: Float[AnyArray, " scale"] | None = None
) -> BayesCurve:
    """Dipole along a given axis against one of any direction, both with the same scale; p-value of what is off axis.

    ln B is positive where the data favour the axis; the bound speaks for the free dipole. Arguments and errors as of
    `aligned_curve`.
    """
    free = dipole_curve(sky, scales)
    aligned = aligned_curve(sky, field, free.scales)
    return BayesCurve(
        scales=free.scales,
        log_bayes_factor=aligned.log_bayes_factor - free.log_bayes_factor,
        accuracy=aligned.accuracy + free.accuracy,
        test_statistic=max(free.test_statistic - aligned.test_statistic, 0.0),
        degrees_of_freedom=1,
        extra_is_first=False,
    )


def _dipole_design(sky: SkyLikelihood) -> Array:
    """Multipoles of date per unit of (delta_0h, delta_6h), shape (param, 2)."""
    if sky.l_max != 1:
        raise InputError(
            f"the Bayes factor of a dipole needs a likelihood of the dipole alone, this one has l_max {sky.l_max}; "
            "make it with l_max 1"
        )
    return sky.turn[:, jnp.array(sky.dipole_places)] * DIPOLE_NORM


def _axis(field) -> np.ndarray:
    """(cos RA, sin RA) as a column."""
    field = np.asarray(field, float)
    length = math.hypot(field[0], field[1])
    if not (np.all(np.isfinite(field)) and length > 1e-6 * np.linalg.norm(field)):
        raise InputError(f"the field {field.tolist()} has no right ascension: give an axis away from the poles")
    return (field[:2] / length)[:, None]


def _curve(sky: SkyLikelihood, design: Array, scales) -> BayesCurve:
    require_float64("the Bayes factor of a dipole")
    information = np.asarray(jnp.einsum("pi,epq,qj->ij", design, sky.information, design))
    pull = np.asarray(jnp.einsum("pi,ep->i", design, sky.pull))
    values = np.linalg.eigvalsh(information)
    if not (np.all(np.isfinite(values)) and values[0] > 0):
        raise InputError("the counts do not measure the dipole: no Bayes factor can be given; add data")
    if scales is None:
        scales = np.exp(-np.mean(np.log(values)) / 2) * np.logspace(-2, 3, 41)
    scales = np.atleast_1d(np.asarray(scales, float))
    if not np.all(np.isfinite(scales) & (scales > 0)) or np.any(np.diff(scales) <= 0):
        raise InputError("the prior scales of a Bayes factor must be positive, finite and ascending")
    fine, coarse = _quadrature(sky, np.asarray(design), information, pull, scales)
    best = _maximum_along(sky, design)
    return BayesCurve(
        scales=scales,
        log_bayes_factor=fine,
        accuracy=np.abs(fine - coarse),
        test_statistic=2 * max(float(best), 0.0),
        degrees_of_freedom=design.shape[1],
    )


def _quadrature(sky: SkyLikelihood, design, information, pull, scales) -> tuple[np.ndarray, np.ndarray]:
    """ln B per scale on a grid of step 1/2 in whitened coordinates, and on that of step 1 within it.

    The coordinates are those of the Gaussian product of likelihood and prior, so that the grid covers what contributes
    whichever of the two is narrower. The trapezoidal rule with step h misses a Gaussian by 2 exp(-2 pi^2 / h^2).
    """
    dim, steps = design.shape[1], np.arange(-12, 13)
    grid = np.stack(np.meshgrid(*[steps / 2] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    whole = np.all(grid == np.round(grid), axis=1)
    points, log_weight = [], []
    for scale in scales:
        root = np.linalg.cholesky(information + np.eye(dim) / scale**2)
        x = np.linalg.solve(root @ root.T, pull) + np.linalg.solve(root.T, grid.T).T
        prior = -0.5 * np.sum((x / scale) ** 2, axis=1) - dim * (math.log(scale) + 0.5 * math.log(2 * math.pi))
        points.append(x)
        log_weight.append(prior - np.sum(np.log(np.diagonal(root))))
    isotropic, values = np.split(_log_likelihoods(sky, np.concatenate([np.zeros((1, dim)), *points]) @ design.T), [1])
    log_terms = values.reshape(len(scales), -1) - isotropic + np.stack(log_weight)
    fine = special.logsumexp(log_terms, axis=1) + dim * math.log(0.5)
    return fine, special.logsumexp(log_terms[:, whole], axis=1)


def _log_likelihoods(sky: SkyLikelihood, theta: np.ndarray) -> np.ndarray:
    """Marginal ln L of many skies (point, param); -inf where there is none."""
    values = _in_chunks(lambda part: _marginal(sky, part), theta)
    return np.where(np.isnan(values), -np.inf, values)


_marginal = jax.jit(jax.vmap(SkyLikelihood.marginal_log_likelihood, (None, 0)))


def _in_chunks(function, *arrays) -> np.ndarray:
    """A function of many rows, called on chunks of one length, so that it is compiled once."""
    count = len(arrays[0])
    short = -count % _CHUNK
    padded = [np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for a in map(np.asarray, arrays)]
    parts = [function(*(a[k : k + _CHUNK] for a in padded)) for k in range(0, count, _CHUNK)]
    return np.concatenate([np.asarray(part) for part in parts])[:count]


_CHUNK = 128


@jax.jit
def _maximum_along(sky: SkyLikelihood, design) -> Array:
    """ln(L / L_isotropic) of the best sky design . x, every rate free."""
    along = lambda x: jnp.tensordot(design.T, x, 1)

    def turned(block: Block) -> Block:
        modes = dataclasses.replace(block.modes, cosine=along(block.modes.cosine), sine=along(block.modes.sine))
        return dataclasses.replace(block, modes=modes, linear=along(block.linear), bilinear=block.bilinear @ design)

    blocks = tuple(turned(jax.tree.map(lambda leaf, c=c: leaf[c], sky.block)) for c in range(len(sky.names)))
    return maximise(blocks, jnp.zeros(design.shape[1])).gain


MOST_DIMENSIONS = 10
"""Beyond this nested sampling is not attempted."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Evidence of a model.

    Attributes:
        log_evidence: ln Z - ln Z of the isotropic sky with the same prior of the rates: the ln Bayes factor against it.
            Differences between models of the same counts, rate bins and concentration are their ln Bayes factors.
        error: Its standard error as nested sampling estimates it.
        calls: Evaluations of the likelihood.
        parameters: Names of the dimensions.
    """

    log_evidence: float
    error: float
    calls: int
    parameters: tuple[str, ...]


def log_evidence(
    spec: Specification,
    sky: SkyLikelihood,
    live: int = 500,
    tolerance: float = 0.1,
    seed: int = 0,
    fixed: dict[str, AnyArray] | None = None,
) -> Evidence:
    """Evidence of a model in at most ten dimensions by nested sampling (dynesty), rates by Laplace's method.

    The unit cube becomes parameters site by site through the inverse of each prior's distribution function, as the
    model itself runs, so that a prior may depend on the parameters before it. The length of the vector behind a
    `Direction`, which means nothing, takes no dimension, and neither does a parameter that the data know nothing of.

    Args:
        spec: A `Specification` with rates "laplace".
        sky: Its likelihood, `spec.likelihood(counts)`.
        live: Live points; the error falls as 1/sqrt(live).
        tolerance: Stop when the live points could add no more than this to ln Z.
        seed: Of the random numbers; the same seed gives the same result.
        fixed: Values of sites that are not sampled, by name. Of "field" the direction, shape (2,) or (3,) as the model
            has it: {"field": [cos RA_B, sin RA_B]} is a dipole along a known axis.

    Raises:
        InputError: If dynesty is missing, the rates are sampled, the model has more than ten dimensions or a prior that
            has no known inverse, or a fixed site is not in the model.
    """
    require_float64("inference.log_evidence")
    if spec.rates != "laplace":
        raise InputError("the evidence needs the rates integrated: use rates laplace, not sampled")
    if live < 20:
        raise InputError(f"nested sampling needs at least 20 live points, not {live}; 500 give ln Z to about 0.1")
    model = _Model(json.dumps(spec.header(), sort_keys=True), spec.function)
    held = {k: jnp.asarray(v, float) for k, v in (fixed or {}).items()}
    names = _dimensions(model, sky, held)
    try:
        import dynesty
    except ImportError as error:
        raise InputError("nested sampling needs dynesty: python3 -m pip install 'diffcr[evidence]'") from error

    def value(cube):
        return float(_over_isotropy(model, cube, sky, held))

    rng = np.random.default_rng(seed)
    cubes = rng.uniform(size=(live, len(names)))
    start = np.array([value(cube) for cube in cubes])
    if np.isfinite(start).sum() < 2 * len(names) + 2:
        raise InputError(
            f"of {live} skies drawn from the prior only {np.isfinite(start).sum()} are positive where exposed: the "
            "prior is far too wide; narrow it, or raise live"
        )
    seen = _that_matter(value, cubes, start, rng)
    names = tuple(name for name, used in zip(names, seen, strict=True) if used)
    if len(names) > MOST_DIMENSIONS:
        raise InputError(
            f"nested sampling is for at most {MOST_DIMENSIONS} parameters, and the model {spec.model} has "
            f"{len(names)}: {', '.join(names)}; lower --lmax, fix some, or compare by leave-one-ring-out"
        )
    if not names:
        return Evidence(float(start[0]), 0.0, 1, names)
    sampler = dynesty.NestedSampler(
        lambda part: value(_placed(part, seen)),
        lambda part: part,
        len(names),
        nlive=live,
        rstate=rng,
        # The cube itself is left for the ellipsoids as soon as half of its points are lost.
        first_update={"min_ncall": live, "min_eff": 50.0},
        live_points=[cubes[:, seen], cubes[:, seen], start],
    )
    with warnings.catch_warnings():
        # Ellipsoids that are too large cost calls, which are reported, not accuracy.
        warnings.filterwarnings("ignore", "The enlargement factor", UserWarning)
        sampler.run_nested(dlogz=tolerance, print_progress=False)
    result = sampler.results
    return Evidence(float(result["logz"][-1]), float(result["logzerr"][-1]), int(np.sum(result["ncall"])) + live, names)


def _that_matter(value, cubes: np.ndarray, start: np.ndarray, rng) -> np.ndarray:
    """Which dimensions change ln L at all: moved one by one, at a few points, to somewhere else."""
    seen = np.zeros(cubes.shape[1], bool)
    for point in np.flatnonzero(np.isfinite(start))[:4]:
        for k in np.flatnonzero(~seen):
            moved = cubes[point].copy()
            moved[k] = rng.uniform()
            # What drops out of the physics may leave a last binary digit.
            seen[k] = not abs(value(moved) - start[point]) <= 1e-9 * (1 + abs(start[point]))
    return seen


def _placed(part: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Values of the dimensions that matter in their places among all."""
    full = np.full(len(seen), 0.5)
    full[seen] = part
    return full


@dataclasses.dataclass(frozen=True)
class _Model:
    """A numpyro model that is known by its description, so that it is compiled once."""

    description: str
    function: Callable = dataclasses.field(compare=False)


@functools.partial(jax.jit, static_argnames="model")
def _over_isotropy(model: _Model, cube, sky: SkyLikelihood, fixed: dict) -> Array:
    isotropic = sky.marginal_log_likelihood(jnp.zeros(len(sky.degree)))
    value = _run(model, cube, sky, fixed)[0] - isotropic
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


class _FromCube(Messenger):
    """Gives every site the value that a point of the unit cube stands for; without a point it counts dimensions."""

    def __init__(self, function, cube, fixed: dict):
        self.cube, self.fixed, self.names, self.missing = cube, fixed, [], set(fixed)
        super().__init__(function)

    def process_message(self, msg):
        """Called by numpyro at every site."""
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.fixed:
            self.missing.discard(name)
            msg["value"] = _held(name, fn, self.fixed[name])
            return
        size, quantile = _inverse(name, fn)
        first = len(self.names)
        self.names += [name if size == 1 else f"{name}[{k}]" for k in range(size)]
        msg["value"] = quantile(jnp.full(size, 0.5) if self.cube is None else self.cube[first : first + size])


def _run(model: _Model, cube, sky: SkyLikelihood, fixed: dict) -> tuple[Array, list[str]]:
    """ln likelihood of the model at a point of the unit cube, and the names of the dimensions."""
    source = _FromCube(model.function, cube, fixed)
    trace = handlers.trace(source).get_trace(sky)
    if source.missing:
        raise InputError(
            f"the model has no site {sorted(source.missing)[0]!r} to fix; it has {', '.join(source.names)}"
        )
    observed = [s for s in trace.values() if s["type"] == "sample" and s["is_observed"]]
    return sum(jnp.sum(s["fn"].log_prob(s["value"])) for s in observed), source.names


def _dimensions(model: _Model, sky: SkyLikelihood, fixed: dict) -> tuple[str, ...]:
    """Names of the dimensions of the unit cube."""
    names: list[str] = []

    def count(sky, fixed):
        value, found = _run(model, None, sky, fixed)
        names.extend(found)
        return value

    jax.eval_shape(count, sky, fixed)
    return tuple(names)


def _held(name: str, fn, value: Array) -> Array:
    """A fixed value in the site's own terms: for a `Direction` a vector that points there."""
    if value.shape != tuple(fn.shape()):
        raise InputError(f"the fixed value of {name} has shape {value.shape}, the model needs {tuple(fn.shape())}")
    return _vector_towards(fn, value) if isinstance(fn, Direction) else value


def _vector_towards(fn, direction: Array) -> Array:
    """v with S v along the direction, of typical length."""
    v = jnp.linalg.solve(fn.stretch, direction)
    return 3.5 * v / jnp.linalg.norm(v)


def _inverse(name: str, fn):
    """Number of dimensions of a prior, and its map from the unit cube.

    Raises:
        InputError: If the distribution is none of those that the models use.
    """
    shape = tuple(fn.shape())
    size = math.prod(shape)
    if isinstance(fn, Direction):

        def towards(u):
            if shape[0] == 2:
                return _vector_towards(fn, jnp.stack([jnp.cos(2 * jnp.pi * u[0]), jnp.sin(2 * jnp.pi * u[0])]))
            z, angle = 2 * u[0] - 1, 2 * jnp.pi * u[1]
            across = jnp.sqrt(jnp.maximum(1 - z**2, 0.0))
            return _vector_towards(fn, jnp.stack([across * jnp.cos(angle), across * jnp.sin(angle), z]))

        return size - 1, towards
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if isinstance(base, dist.Normal | SkyNormal):
        return size, lambda u: base.loc + base.scale * ndtri(u).reshape(shape)
    if isinstance(base, dist.Uniform):
        return size, lambda u: base.low + (base.high - base.low) * u.reshape(shape)
    raise InputError(
        f"the prior of {name} is a {type(base).__name__}, whose inverse distribution function is not known here: use "
        "Normal, Uniform, SkyNormal or Direction"
    )
