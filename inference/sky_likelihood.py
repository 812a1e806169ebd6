r"""The likelihood of sky and rates as one pure function, with the geometry that makes it easy to sample.

All detector configurations stand side by side on a leading axis. The sky enters as real multipoles theta of
date, the rates as u = ln(N / N_isotropic) per group of time bins; the acceptance is removed by conditioning on
the local map. About its maximum the posterior of (theta, u) is Gaussian, and its exact Hessian is known:

$$ H_{uu} = D - V M V^T, \quad D = diag(n_g + \alpha), \quad V = [e^u R^T, p], \quad M = diag(H_{cc}, A), $$

a diagonal plus a matrix of few columns, so that its inverse square root is exact and cheap for any number of
rates. `LogRates` and `SkyNormal` in `prior.py` use these to hand the sampler coordinates of unit variance.
"""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.errors import InputError, require_float64
from diffcr.harmonics import rotate
from diffcr.typing import AnyArray

from .compact import compact, fewest_nodes
from .data import Counts
from .fit import (
    _days,
    _exposed,
    _frame_rotation,
    _in_effective_events,
    _needs_cell_averages,
    _precession,
    _rate_bins,
)
from .likelihood import Marginals, form_marginals, second_order
from .multipoles import (
    Block,
    RingModes,
    band_limited,
    derivatives,
    free_multipoles,
    make_block,
    maximise,
    ring_modes,
    with_moments,
)


class SkyLikelihood(eqx.Module):
    """ln L(theta, u) minus its isotropic maximum, and its Gaussian approximation.

    Attributes:
        block: Data of every configuration, on a leading axis; rings padded with zeros.
        to_date: Multipoles theta of date from all real multipoles l <= l_max of the common frame (J2000, or that
            of date where no rotation is defined), shape (param, coefficient); coefficient l^2 + l + m.
        turn: The same from the m != 0 multipoles alone, with those of m = 0 of date taken as zero, (param, param).
        information: Of theta with the rates eliminated, about `centre`, shape (energy, param, param).
        centre: Where the information was taken: the maximum, or with a fiducial prior its mode, (energy, param).
        pull: Linear term: ln L is close to pull . theta - theta . information . theta / 2, shape (energy, param).
        rate_centre: Most probable u at `centre`, shape (configuration, group).
        rate_response: d u / d theta along the ridge, shape (configuration, group, param).
        rate_scale: D^(-1/2), shape (configuration, group).
        rate_basis, rate_mix: Q and B of the root D^(-1/2) (1 + Q B Q^T), (configuration, group, k) and (.., k, k).
        alive: Whether a group of time bins has livetime, 1.0 or 0.0, shape (configuration, group).
        concentration: alpha of the rates' Dirichlet prior: 0 is the improper d ln N.
        energy: Energy bin of each configuration.
        degree, order: l and m of theta.
        nodes: Nodes per ring.
        names: Of the configurations.
        energies: Names of the energy bins.
        frame: "J2000" or "date".
    """

    block: Block
    to_date: Float[AnyArray, "param coefficient"]
    turn: Float[AnyArray, "param param"]
    information: Float[AnyArray, "energy param param"]
    centre: Float[AnyArray, "energy param"]
    pull: Float[AnyArray, "energy param"]
    rate_centre: Float[AnyArray, "configuration group"]
    rate_response: Float[AnyArray, "configuration group param"]
    rate_scale: Float[AnyArray, "configuration group"]
    rate_basis: Float[AnyArray, "configuration group k"]
    rate_mix: Float[AnyArray, "configuration k k"]
    alive: Float[AnyArray, "configuration group"]
    concentration: Float[AnyArray, ""]
    energy: tuple[int, ...] = eqx.field(static=True)
    degree: tuple[int, ...] = eqx.field(static=True)
    order: tuple[int, ...] = eqx.field(static=True)
    nodes: int = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    energies: tuple[str, ...] = eqx.field(static=True)
    frame: str = eqx.field(static=True)

    @property
    def l_max(self) -> int:
        """Highest degree of the sky."""
        return max(self.degree)

    @property
    def dipole_places(self) -> tuple[int, ...]:
        """Where (1, 1), (1, -1), and (1, 0) where it is there, stand in theta: delta_0h, delta_6h, delta_N."""
        pairs = list(zip(self.degree, self.order, strict=True))
        return tuple(pairs.index(p) for p in ((1, 1), (1, -1), (1, 0)) if p in pairs)

    def of_each(self, theta: Float[AnyArray, "*energy param"]) -> Float[Array, "configuration param"]:
        """Multipoles per configuration from one sky, shape (param,), or one per energy bin, (energy, param)."""
        theta = jnp.asarray(theta)
        if theta.ndim == 1:
            return jnp.broadcast_to(theta, (len(self.energy), theta.shape[0]))
        return theta[jnp.array(self.energy)]

    def log_likelihood(
        self, theta: Float[AnyArray, "*energy param"], log_rates: Float[AnyArray, "configuration group"]
    ) -> Float[Array, ""]:
        """ln L minus that of the best isotropic fit; -inf where the sky is negative where exposed.

        The overall scale of each configuration's rate is no parameter of the likelihood; it is pinned by a
        normal of width 1/sqrt(N), independent of all else.

        Args:
            theta: Multipoles of date, shape (param,), or one set per energy bin (energy, param).
            log_rates: u, shape (configuration, group).
        """
        return jnp.sum(jax.vmap(_one)(self.block, self.of_each(theta), log_rates))

    def log_rate_prior(self, log_rates: Float[AnyArray, "configuration group"]) -> Float[Array, ""]:
        """Dirichlet density of the relative rates in the measure of u; a unit normal where there is no livetime."""
        start = self.block.rate_modes[:, -1]
        count = jnp.sum(self.alive, axis=1)
        total = jax.scipy.special.logsumexp(log_rates, axis=1, b=start)
        live = self.concentration * (jnp.sum(self.alive * log_rates, axis=1) - count * total)
        return jnp.sum(live) - 0.5 * jnp.sum((1 - self.alive) * log_rates**2)

    def rate_mean(self, theta: Float[AnyArray, "*energy param"]) -> Float[Array, "configuration group"]:
        """Most probable u given the sky, to first order in theta - centre."""
        move = self.of_each(theta) - self.of_each(self.centre)
        return self.rate_centre + jnp.einsum("cgp,cp->cg", self.rate_response, move)

    def rate_root(self, z: Float[AnyArray, "configuration group"]) -> Float[Array, "configuration group"]:
        """H_uu^(-1/2) z: independent unit normals to rate shifts."""
        inner = jnp.einsum("cgk,cg->ck", self.rate_basis, z)
        mixed = jnp.einsum("ckj,cj->ck", self.rate_mix, inner)
        return self.rate_scale * (z + jnp.einsum("cgk,ck->cg", self.rate_basis, mixed))

    def rate_unroot(self, x: Float[AnyArray, "configuration group"]) -> Float[Array, "configuration group"]:
        """Inverse of `rate_root`: (1 + Q B Q^T)^(-1) = 1 + Q ((1 + B)^(-1) - 1) Q^T."""
        x = x / self.rate_scale
        eye = jnp.eye(self.rate_mix.shape[-1])
        inverse = jnp.linalg.inv(eye + self.rate_mix) - eye
        inner = jnp.einsum("cgk,cg->ck", self.rate_basis, x)
        return x + jnp.einsum("cgk,ck->cg", self.rate_basis, jnp.einsum("ckj,cj->ck", inverse, inner))

    def marginal_log_likelihood(self, theta: Float[AnyArray, "*energy param"], steps: int = 4) -> Float[Array, ""]:
        """ln of the likelihood integrated over the rates with their prior, in Laplace's approximation.

        Each rate is known from hundreds of events, so that the neglected terms are of the order of one part
        in the counts of a group. A constant of the data is left out, the same for every sky.
        """
        args = (self.block, self.of_each(theta), self.rate_mean(theta), self.alive, self.concentration)
        return jnp.sum(jax.vmap(lambda *a: _laplace(*a, steps), (0, 0, 0, 0, None))(*args))


def _one(block: Block, theta: Array, log_rates: Array) -> Array:
    """One configuration's ln L difference, -inf where sky is not positive at an exposed node."""
    rho = jnp.expm1(log_rates)
    value = band_limited(block, theta, block.rate_modes @ rho) - jnp.sum(block.group_counts * second_order(rho))
    low = jnp.min(jnp.where(block.data.background > 0, block.modes.sky(theta), 0.0))
    return jnp.where((low > -1) & jnp.isfinite(value), value, -jnp.inf)


class _RateHessian(eqx.Module):
    """diag(d) - V M V^T of one configuration's rates, and what follows from it."""

    d: Array
    v: Array
    m: Array
    gradient: Array
    cross: Array

    def small(self) -> Array:
        """1 - M V^T D^-1 V, whose determinant is that of the whole over prod d, shape (k, k)."""
        return jnp.eye(len(self.m)) - self.m @ (self.v.T @ (self.v / self.d[:, None]))

    def solve(self, x: Array) -> Array:
        """H^-1 x for x of shape (group, ..)."""
        first = x / (self.d[:, None] if x.ndim == 2 else self.d)
        inner = jnp.linalg.solve(self.small(), self.m @ (self.v.T @ first))
        return first + (self.v @ inner) / (self.d[:, None] if x.ndim == 2 else self.d)


def _rate_hessian(block: Block, theta, log_rates, alive, concentration) -> _RateHessian:
    """Derivatives of minus ln posterior in u at (theta, u), with the sky's coupling."""
    growth = jnp.exp(log_rates)
    d = derivatives(block, theta, block.rate_modes @ jnp.expm1(log_rates))
    start = block.rate_modes[-1]
    p = start * growth / jnp.sum(start * growth)
    count = concentration * jnp.sum(alive)
    along = growth[:, None] * block.rate_modes.T * alive[:, None]
    pulled = along @ d.g_c
    # d/du of -[f - sum n (e^u - 1 - u)] - alpha sum u + A ln sum r e^u
    slope = block.group_counts * jnp.expm1(log_rates) - pulled - concentration * alive + count * p
    slope = jnp.where(alive > 0, slope, log_rates)
    diagonal = block.group_counts * growth - pulled + count * p
    # At the mode this is n + alpha; elsewhere it may lose its sign.
    diagonal = jnp.where(alive > 0, jnp.maximum(diagonal, 0.1 * (block.group_counts + concentration)), 1.0)
    k = len(d.h_cc)
    m = jnp.zeros((k + 1, k + 1)).at[:k, :k].set(d.h_cc).at[k, k].set(count)
    return _RateHessian(
        diagonal, jnp.concatenate([along, p[:, None] * alive[:, None]], axis=1), m, slope, along @ d.h_ct
    )


def _rate_mode(block, theta, log_rates, alive, concentration, steps):
    """Newton's method for the rates at a given sky; the start is already within a part in the counts."""

    def step(u, _):
        h = _rate_hessian(block, theta, u, alive, concentration)
        return u - h.solve(h.gradient), None

    return jax.lax.scan(step, log_rates, length=steps)[0]


def _laplace(block, theta, log_rates, alive, concentration, steps):
    u = _rate_mode(block, theta, log_rates, alive, concentration, steps)
    h = _rate_hessian(block, theta, u, alive, concentration)
    start, count = block.rate_modes[-1], concentration * jnp.sum(alive)
    prior = concentration * jnp.sum(alive * u) - count * jax.scipy.special.logsumexp(u, b=start)
    return _one(block, theta, u) + prior - 0.5 * (jnp.sum(jnp.log(h.d)) + jnp.linalg.slogdet(h.small())[1])


def _rate_geometry(block, theta, log_rates, alive, concentration):
    """Mode, response to the sky, and inverse root of the Hessian of one configuration's rates."""
    u = _rate_mode(block, theta, log_rates, alive, concentration, 6)
    h = _rate_hessian(block, theta, u, alive, concentration)
    q, r = jnp.linalg.qr(h.v / jnp.sqrt(h.d)[:, None])
    values, vectors = jnp.linalg.eigh(r @ h.m @ r.T)
    # The Hessian is positive at a mode; where the data leave it none, a unit step is as good as any.
    root = 1 / jnp.sqrt(jnp.maximum(1 - values, 1e-3))
    mix = (vectors * (root - 1)) @ vectors.T
    return u, h.solve(h.cross), 1 / jnp.sqrt(h.d), q, mix


@functools.partial(jax.jit, static_argnames="energy")
def _prepare(block: Block, prior, energy, alive, concentration):
    """Maximum per energy bin, its information, and the rates' geometry there."""
    information, centre, pull = [], [], []
    rates = [None] * len(energy)
    for e in range(max(energy) + 1):
        own = [c for c, other in enumerate(energy) if other == e]
        best = maximise(tuple(jax.tree.map(lambda x, c=c: x[c], block) for c in own), prior)
        good = jnp.all(jnp.isfinite(best.coefficients)) & jnp.all(jnp.isfinite(best.information))
        theta = jnp.where(good, best.coefficients, 0.0)
        values, vectors = jnp.linalg.eigh(jnp.where(good, best.information, 0.0) - jnp.diag(prior))
        f = (vectors * jnp.maximum(values, 0.0)) @ vectors.T
        information.append(f)
        centre.append(theta)
        pull.append(f @ theta + prior * theta)
        for c, rho in zip(own, best.rate_shifts, strict=True):
            rates[c] = jnp.log(jnp.maximum(jnp.where(good, 1 + rho, 1.0), 1e-3)) * alive[c]
    centre = jnp.stack(centre)
    args = (block, centre[jnp.array(energy)], jnp.stack(rates), alive)
    geometry = jax.vmap(_rate_geometry, (0, 0, 0, 0, None))(*args, concentration)
    return jnp.stack(information), centre, jnp.stack(pull), geometry


def sky_likelihood(
    counts: Counts,
    l_max: int = 1,
    rate_bins: int | None = None,
    concentration: float = 1.0,
    prior_precision: np.ndarray | Sequence[float] | float = 0.0,
    nodes: int | None = None,
) -> SkyLikelihood:
    """Make counts ready for sampling: select rings, find the maximum, and the geometry about it.

    Args:
        counts: The binned data. Configurations share the sky of their energy bin.
        l_max: Highest degree of the sky.
        rate_bins: Free rates per configuration. Default: as many as hold 100 events each in every one.
        concentration: alpha of the symmetric Dirichlet prior of the relative rates; 0 for the improper d ln N.
        prior_precision: 1/variance of a fiducial prior of each multipole, to place the centre; per multipole in
            the order of `free_multipoles`, or one value. It moves the coordinates, not the posterior.
        nodes: Nodes per ring; default as many as the accuracy of ln L asks for.

    Raises:
        InputError: If there are no events, an observatory has none, or an argument is out of range.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.sky_likelihood")
    n = counts.grid.n_ra
    if isinstance(l_max, bool) or l_max < 1 or l_max >= n // 2 or l_max > (counts.grid.n_ring - 1) // 2:
        raise InputError(f"l_max must be at least 1 and resolved by the {counts.grid.n_ring} rings, not {l_max}")
    if not (np.isfinite(concentration) and concentration >= 0):
        raise InputError(
            f"the concentration of the rates' Dirichlet prior must be 0 or positive and finite, not {concentration}; "
            "1 is uniform on the relative rates"
        )
    _require_events(counts)
    counts = _in_effective_events(counts)
    places = counts.configurations()
    degree, order = free_multipoles(l_max)
    groups = rate_bins or min(_rate_bins(counts, places, rate_bins))
    data, modes, blocks = [], [], []
    for place in places:
        turn = _frame_rotation(counts, place)
        averages = _needs_cell_averages(counts, place, degree)
        d, m, b = _configuration(counts, place, degree, order, groups, turn, averages)
        data, modes, blocks = data + [d], modes + [m], blocks + [b]
    prior = np.broadcast_to(np.asarray(prior_precision, float), degree.shape)
    energies = sorted({p[1] for p in places})
    energy = tuple(energies.index(p[1]) for p in places)
    alive = np.stack([np.asarray(b.group_counts) > 0 for b in blocks]).astype(float)
    events = float(counts.sum_weights)
    grid = counts.grid

    def build(count):
        parts = [compact(b, count, grid.right_ascension, grid.hour_angle) for b in blocks]
        stacked = _stack(parts)
        return stacked, _prepare(stacked, prior, energy, alive, float(concentration))

    if nodes is None:
        nodes = fewest_nodes(n, l_max, events, 1e-2)
        for _ in range(4):
            block, answer = build(nodes)
            needed = fewest_nodes(n, l_max, events, float(_largest_contrast(block, answer, prior)))
            if needed <= nodes:
                break
            nodes = needed
    else:
        block, answer = build(nodes)
    information, centre, pull, (mode, response, scale, basis, mix) = answer
    to_date, turn, frame = _frames(counts, degree, order)
    return SkyLikelihood(
        block=block,
        to_date=jnp.asarray(to_date),
        turn=jnp.asarray(turn),
        information=information,
        centre=centre,
        pull=pull,
        rate_centre=mode,
        rate_response=response,
        rate_scale=scale,
        rate_basis=basis,
        rate_mix=mix,
        alive=jnp.asarray(alive),
        concentration=jnp.asarray(float(concentration)),
        energy=energy,
        degree=tuple(int(x) for x in degree),
        order=tuple(int(x) for x in order),
        nodes=nodes,
        names=tuple(counts.label(p) for p in places),
        energies=tuple(counts.energies[e] for e in energies),
        frame=frame,
    )


def _require_events(counts: Counts) -> None:
    """Refuse observatories without events, and counts that are too few for anything."""
    for k, site in enumerate(counts.sites):
        if not counts.n_time[k].sum() > 0:
            raise InputError(f"the observatory {site.name} has no event: leave it out, or look at its cuts")
    if counts.effective_events < 10:
        raise InputError(f"{int(counts.num_events.sum())} events are too few for a posterior; add data")


def _configuration(counts, place, degree, order, groups, turn, averages) -> tuple[Marginals, RingModes, Block]:
    data = form_marginals(
        counts.n_sky[place], counts.n_time[place], counts.n_local[place], groups, _exposed(counts, place, None)
    )
    modes = ring_modes(counts.grid, data.rings, degree, order, turn, averages)
    block = _block(data, modes, groups, jnp.asarray(counts.moments[place]), turn)
    return data, modes, block


@functools.partial(jax.jit, static_argnames="groups")
def _block(data, modes, groups, moments, turn):
    return with_moments(make_block(data, modes, groups), moments, turn)


def _stack(blocks: list[Block]) -> Block:
    """Blocks side by side on a leading axis; missing rings are zeros, which add nothing to any sum."""
    most = max(b.data.sky.shape[0] for b in blocks)

    def padded(b: Block) -> Block:
        short = most - b.data.sky.shape[0]
        before = lambda x: jnp.pad(x, ((0, short), (0, 0)))
        after = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
        d, m = b.data, b.modes
        data = Marginals(
            before(d.sky), d.time, before(d.local), d.rate, before(d.background), before(d.residual), tuple(range(most))
        )
        modes = RingModes(after(m.cosine), after(m.sine), m.sky_cosine, m.sky_sine, m.local_cosine, m.local_sine)
        return Block(
            data,
            modes,
            *(after(x) for x in (b.residual_cosine, b.residual_sine, b.count_cosine, b.count_sine)),
            b.rate_modes,
            b.group_counts,
            b.linear,
            b.bilinear,
        )

    return jax.tree.map(lambda *x: jnp.stack(x), *(padded(b) for b in blocks))


@jax.jit
def _largest_contrast(block: Block, answer, prior) -> Array:
    """The largest |delta I| within six standard deviations of the centre, at any node of any configuration."""
    information, centre, _, _ = answer
    covariance = jnp.linalg.pinv(information + jnp.diag(prior), hermitian=True)

    def largest(modes):
        basis = jax.vmap(modes.sky)(jnp.eye(centre.shape[1]))
        at = jnp.abs(jnp.einsum("ep,prn->ern", centre, basis))
        spread = jnp.sqrt(jnp.maximum(jnp.einsum("prn,epq,qrn->ern", basis, covariance, basis), 0.0))
        return jnp.max(at + 6 * spread)

    return jnp.max(jax.vmap(largest)(block.modes))


def _frames(counts: Counts, degree: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Matrices from multipoles of the results' frame to those of date: from all of them, and from m != 0 alone."""
    l_max = int(degree.max())
    place = degree * degree + degree + order
    unit = np.eye((l_max + 1) ** 2)
    days = _days(counts)
    if counts.time_frame != "sidereal" or not np.isfinite(days):
        return unit[place], np.eye(len(degree)), "date"
    precession = np.asarray(_precession(days))
    to_date = np.asarray(_turned(unit, precession)).T[place]
    to_j2000 = np.asarray(_turned(unit[place], precession.T)).T[place]
    return to_date, np.linalg.inv(to_j2000), "J2000"


_turned = jax.jit(rotate)
