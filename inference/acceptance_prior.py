r"""The likelihood with a prior on the acceptance, which makes delta_N and every other m = 0 multipole measurable.

Counts of time bin tau and local cell i are Poisson with mean N_tau A_i I_{tau i}; the acceptance of each cell has a
Gamma prior of mean Abar_i (sum 1) and relative error eps_i, alpha_i = 1/eps_i^2 and rate beta_i = alpha_i / Abar_i.
A_i integrates out in closed form:

$$ \ln L = \sum_a n_a \ln I_a + \sum_\tau n_\tau \ln N_\tau - \sum_i (n_i + \alpha_i) \ln(x_i + \beta_i),
   \quad x_i = \sum_\tau N_\tau I_{\tau i}, $$

with N in events. For eps -> 0 this is the Poisson likelihood of a known acceptance, for eps -> infinity the one
conditional on the local map. Evaluated is the difference from theta = 0, u = ln(N / N_isotropic) = 0: with T the
number of events, w_i = T Abar_i / (T Abar_i + alpha_i), m_i = w_i (n_i + alpha_i), which is the local map shrunk
towards its prior, and xi_i = x_i / T - 1,

$$ \sum_a n_a \ln(1 + \delta I_a) + \sum_\tau n_\tau u_\tau - \sum_i (n_i + \alpha_i) \ln(1 + w_i \xi_i), $$

in which the first-order terms are those of a local map m instead of n.
"""

import dataclasses
import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.errors import InputError, require_float64
from diffcr.typing import AnyArray

from .data import Counts
from .fit import _exposed, _frame_rotation, _in_effective_events, _known_acceptance, _rate_bins
from .likelihood import Marginals, form_marginals, second_order
from .multipoles import Block, Derivatives, free_multipoles, make_block, ring_modes
from .sky_likelihood import SkyLikelihood, _frames, _RateHessian, _require_events, _stack

SMALLEST, LARGEST = 1e-6, 1e6
"""Relative errors of a cell beyond which its acceptance is known, or free."""

LEAST_PRECISION = 2.0
"""Sum of 1/eps^2 over the cells below which nothing holds the scale of the rate: ln N is known to its square root."""


class AcceptancePrior(eqx.Module):
    """What the prior adds to the data of each configuration; rings padded with zeros as in the block.

    Attributes:
        strength: n_i + alpha_i, zero where the prior mean is, shape (configuration, ring, hour_angle).
        weight: w_i = T Abar_i / (T Abar_i + alpha_i), 0 where the acceptance is known, 1 where it is free, same shape.
        surplus: Events over what the prior expects at theta = 0, u = 0 once it has seen the local map, T - sum m_i,
            shape (configuration,).
    """

    strength: Float[AnyArray, "*configuration ring ra"]
    weight: Float[AnyArray, "*configuration ring ra"]
    surplus: Float[AnyArray, "*configuration"]


class AcceptancePriorLikelihood(SkyLikelihood):
    """ln L(theta, u) with the acceptance integrated over its prior; see `acceptance_likelihood`.

    A `SkyLikelihood` for every model and distribution, with these differences: theta holds the m = 0 multipoles,
    l >= 1, and `turn` is the whole rotation; the overall scale of each configuration's rates, in events, is a
    parameter, flat in ln N, which `log_rate_prior` is as it stands; `centre`, `information` and `pull` hold the
    Dirichlet prior of the rates too; the cells of `block.data.local` hold m_i in place of n_i.

    Attributes:
        acceptance: What the prior adds to the data.
        rings: Rings of the counts' grid that the rows of each configuration's arrays are of, before the padding.
    """

    acceptance: AcceptancePrior
    rings: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def log_likelihood(
        self, theta: Float[AnyArray, "*energy param"], log_rates: Float[AnyArray, "configuration group"]
    ) -> Float[Array, ""]:
        """ln L minus its value at theta = 0, u = 0; -inf where the sky is negative where exposed.

        Args:
            theta: Multipoles of date, shape (param,), or one set per energy bin (energy, param).
            log_rates: u, shape (configuration, group).
        """
        return jnp.sum(jax.vmap(_one)(self.block, self.acceptance, self.of_each(theta), log_rates))

    def marginal_log_likelihood(self, theta: Float[AnyArray, "*energy param"], steps: int = 4) -> Float[Array, ""]:
        """ln of the likelihood integrated over the rates and their scale, in Laplace's approximation.

        Good to the inverse of the counts of a group, and for the scale to the inverse of sum alpha_i (for wide
        priors). A constant of the data is left out, the same for every sky.
        """
        args = (self.block, self.acceptance, self.of_each(theta), self.rate_mean(theta), self.alive)
        return jnp.sum(jax.vmap(lambda *a: _laplace(*a, self.concentration, steps))(*args))


def _difference(block: Block, prior: AcceptancePrior, theta: Array, shift: Array) -> Array:
    """The difference of ln L without the rates' own term, from the rate modes c of the shift rate * expm1(u)."""
    modes, data = block.modes, block.data
    orders = modes.sky_cosine.shape[0]
    start = jnp.sum(block.rate_modes, axis=1)
    dc, ds, scale = shift[:orders, None], shift[orders:-1, None], shift[-1]
    cosine, sine = modes.sky_modes(theta)

    def seen(c, s):
        return cosine * c + sine * s, cosine * s - sine * c

    contrast = cosine.T @ modes.sky_cosine + sine.T @ modes.sky_sine
    local_c, local_s = seen(start[:orders, None] + dc, start[orders:-1, None] + ds)
    xi = scale + local_c.T @ modes.local_cosine + local_s.T @ modes.local_sine
    shift_c, shift_s = seen(dc, ds)
    linear = jnp.sum(cosine * block.residual_cosine + sine * block.residual_sine) + prior.surplus * scale
    bilinear = jnp.sum(shift_c * block.count_cosine + shift_s * block.count_sine)
    second = jnp.sum(prior.strength * second_order(prior.weight * xi)) - jnp.sum(data.sky * second_order(contrast))
    return linear - bilinear + second


def _one(block: Block, prior: AcceptancePrior, theta: Array, log_rates: Array, faintest: float = 0.0) -> Array:
    """One configuration's ln L difference, -inf where the sky is not above `faintest` where exposed."""
    rho = jnp.expm1(log_rates)
    value = _difference(block, prior, theta, block.rate_modes @ rho) - jnp.sum(block.group_counts * second_order(rho))
    low = jnp.min(jnp.where(block.data.background > 0, block.modes.sky(theta), 0.0))
    return jnp.where((low > faintest - 1) & jnp.isfinite(value), value, -jnp.inf)


def _rate_prior(block: Block, log_rates: Array, alive: Array, concentration: Array) -> Array:
    """ln of one configuration's Dirichlet density in the measure of u."""
    total = jax.scipy.special.logsumexp(log_rates, b=block.rate_modes[-1])
    return concentration * (jnp.sum(alive * log_rates) - jnp.sum(alive) * total)


def _derivatives(block: Block, prior: AcceptancePrior, theta: Array, log_rates: Array) -> Derivatives:
    """Gradient and Hessian of `_difference` in multipoles and rate modes, by automatic differentiation."""
    params = len(theta)
    f = lambda x: _difference(block, prior, x[:params], x[params:])
    x = jnp.concatenate([theta, block.rate_modes @ jnp.expm1(log_rates)])
    g, h = jax.grad(f)(x), jax.hessian(f)(x)
    return Derivatives(g[:params], g[params:], h[:params, :params], h[params:, :params], h[params:, params:])


def _rate_hessian(block: Block, g_c, h_cc, h_ct, log_rates, alive, concentration) -> _RateHessian:
    """Derivatives of minus ln posterior in u, and the sky's coupling, from those of `_difference` in rate modes."""
    growth = jnp.exp(log_rates)
    start = block.rate_modes[-1]
    p = start * growth / jnp.sum(start * growth)
    count = concentration * jnp.sum(alive)
    along = growth[:, None] * block.rate_modes.T * alive[:, None]
    pulled = along @ g_c
    slope = block.group_counts * jnp.expm1(log_rates) - pulled - concentration * alive + count * p
    diagonal = block.group_counts * growth - pulled + count * p
    # At the mode this is n + alpha; elsewhere it may lose its sign.
    diagonal = jnp.where(alive > 0, jnp.maximum(diagonal, 0.1 * (block.group_counts + concentration)), 1.0)
    k = len(h_cc)
    m = jnp.zeros((k + 1, k + 1)).at[:k, :k].set(h_cc).at[k, k].set(count)
    v = jnp.concatenate([along, p[:, None] * alive[:, None]], axis=1)
    return _RateHessian(diagonal, v, m, jnp.where(alive > 0, slope, log_rates), along @ h_ct)


class _Spectrum(eqx.Module):
    """D^(1/2) (1 + Q U (mu - 1) U^T Q^T) D^(1/2): the Hessian of the rates, made positive away from a mode."""

    scale: Array
    basis: Array
    vectors: Array
    values: Array

    def power(self, exponent: float) -> Array:
        """U (mu^exponent - 1) U^T."""
        return (self.vectors * (self.values**exponent - 1)) @ self.vectors.T

    def solve(self, x: Array) -> Array:
        """H^-1 x for x of shape (group, ..)."""
        scale = self.scale[:, None] if x.ndim == 2 else self.scale
        y = scale * x
        return scale * (y + self.basis @ (self.power(-1.0) @ (self.basis.T @ y)))


def _spectrum(h: _RateHessian) -> _Spectrum:
    q, r = jnp.linalg.qr(h.v / jnp.sqrt(h.d)[:, None])
    values, vectors = jnp.linalg.eigh(r @ h.m @ r.T)
    # Where the prior is wide the scale of the rates is hardly known: the floor is that of rounding.
    return _Spectrum(1 / jnp.sqrt(h.d), q, vectors, jnp.maximum(jnp.abs(1 - values), 1e-13))


def _rates_alone(block: Block, prior: AcceptancePrior, theta: Array):
    """First and second derivative of `_difference` in the rate modes c at a fixed sky, as a function of c.

    What a local cell sees is linear in c there, and so is all else but ln(1 + w xi).
    """
    modes = block.modes
    orders = modes.sky_cosine.shape[0]
    cosine, sine = modes.sky_modes(theta)
    # Each rate mode acts through one order of the sky: lift (order, ring) to (mode, order, ring).
    lift = jnp.eye(orders)[:, :, None]
    along = jnp.concatenate([lift * cosine, lift * sine])
    across = jnp.concatenate([-lift * sine, lift * cosine])
    seen = jnp.einsum("cmr,mh->crh", along, modes.local_cosine) + jnp.einsum("cmr,mh->crh", across, modes.local_sine)
    seen = jnp.concatenate([seen.reshape(2 * orders, -1), jnp.ones((1, seen[0].size))])
    pairs = along * block.count_cosine + across * block.count_sine
    first = jnp.append(-jnp.sum(pairs, axis=(1, 2)), prior.surplus)
    start = jnp.sum(block.rate_modes, axis=1).at[-1].set(0.0)
    strength, weight = prior.strength.ravel(), prior.weight.ravel()

    def at(c):
        y = weight * ((start + c) @ seen)
        return first + seen @ (strength * weight * y / (1 + y)), (seen * (strength * (weight / (1 + y)) ** 2)) @ seen.T

    return at


def _laplace(block, prior, theta, log_rates, alive, concentration, steps):
    """ln integral over u of one configuration."""

    def curvature(at, u):
        g, h = at(block.rate_modes @ jnp.expm1(u))
        return _rate_hessian(block, g, h, jnp.zeros((len(g), 0)), u, alive, concentration)

    at = _rates_alone(block, prior, theta)
    fixed = jax.lax.stop_gradient
    held = _rates_alone(block, prior, fixed(theta))

    def step(u, _):
        h = curvature(held, u)
        return u - h.solve(h.gradient), None

    u = fixed(jax.lax.scan(step, fixed(log_rates), length=steps)[0])
    # A last step that knows theta carries the derivative of the mode, without those of all the steps before.
    u = u - fixed(curvature(held, u)).solve(curvature(at, u).gradient)
    h = curvature(at, u)
    value = _one(block, prior, theta, u) + _rate_prior(block, u, alive, concentration)
    return value - 0.5 * (jnp.sum(jnp.log(h.d)) + jnp.linalg.slogdet(h.small())[1])


@functools.partial(jax.jit, static_argnames=("energy", "max_steps"))
def _prepare(block, prior, alive, precision, concentration, energy, tolerance=1e-9, max_steps=60):
    """Mode of multipoles and rates by damped Newton steps, per energy bin, and the geometry there."""
    count, place, params = max(energy) + 1, jnp.array(energy), precision.shape[0]
    of_energy = lambda x: jax.ops.segment_sum(x, place, count)

    def posterior(theta, u):
        # Few events may draw the sky to zero somewhere: the centre, where chains may begin, keeps off that edge.
        one = lambda b, a, t, v, live: _one(b, a, t, v, 0.01) + _rate_prior(b, v, live, concentration)
        return of_energy(jax.vmap(one)(block, prior, theta[place], u, alive)) - 0.5 * jnp.sum(precision * theta**2, 1)

    def expand(theta, u):
        def one(b, a, t, v, live):
            d = _derivatives(b, a, t, v)
            h = _rate_hessian(b, d.g_c, d.h_cc, d.h_ct, v, live, concentration)
            s = _spectrum(h)
            alone, response = -s.solve(h.gradient), s.solve(h.cross)
            information = -d.h_tt - h.cross.T @ response
            return d.g_t + h.cross.T @ alone, information, alone, response, -h.gradient @ alone, s

        gradient, information, *rest = jax.vmap(one)(block, prior, theta[place], u, alive)
        return of_energy(gradient), of_energy(information), *rest

    def advance(state):
        theta, u, value, _, steps, _ = state
        expansion = expand(theta, u)
        gradient, information, alone, response, slope, _ = expansion
        gradient = gradient - precision * theta
        values, vectors = jnp.linalg.eigh(information + jnp.diag(precision))
        values = jnp.maximum(jnp.abs(values), 1e-13 * jnp.max(jnp.abs(values), axis=1, keepdims=True))
        step = jnp.einsum("epk,ek,eqk,eq->ep", vectors, 1 / values, vectors, gradient)
        shift = alone + jnp.einsum("cgp,cp->cg", response, step[place])
        decrement = 0.5 * (jnp.sum(gradient * step, axis=1) + of_energy(slope))

        def attempt(scale):
            there = theta + scale[:, None] * step, u + scale[place][:, None] * shift
            return *there, posterior(*there)

        def worse(found, scale):
            return (found[2] < value - 1e-12 * (1 + jnp.abs(value))) & (scale > 1e-9)

        def halved(state):
            found, scale = state
            scale = jnp.where(worse(found, scale), scale / 2, scale)
            return attempt(scale), scale

        # At the end stay, so that the expansion is that of the point returned.
        scale = jnp.where(jnp.all(decrement < tolerance), 0.0, jnp.ones_like(value))
        begun = ((theta, u, jnp.full_like(value, -jnp.inf)), 2 * scale)
        found, _ = jax.lax.while_loop(lambda s: jnp.any(worse(*s)), halved, begun)
        return *found, decrement, steps + 1, expansion

    def unfinished(state):
        return jnp.any(state[3] >= tolerance) & (state[4] < max_steps)

    start = jnp.zeros((count, params)), jnp.zeros_like(alive)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(expand, *start))
    state = (*start, jnp.zeros(count), jnp.full(count, jnp.inf), jnp.zeros((), int), nothing)
    theta, u, *_, (gradient, information, _, response, _, s) = jax.lax.while_loop(unfinished, advance, state)
    values, vectors = jnp.linalg.eigh(information)
    information = (vectors * jnp.maximum(values, 0.0)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
    pull = jnp.einsum("epq,eq->ep", information, theta) + gradient
    return information, theta, pull, u, response, s.scale, s.basis, jax.vmap(lambda own: own.power(-0.5))(s)


def acceptance_likelihood(
    counts: Counts,
    acceptance: dict[str, np.ndarray],
    relative_error: float | np.ndarray | dict[str, float | np.ndarray],
    l_max: int = 1,
    rate_bins: int | None = None,
    concentration: float = 1.0,
    prior_precision: np.ndarray | Sequence[float] | float = 0.0,
) -> AcceptancePriorLikelihood:
    """Make counts ready for sampling where the acceptance is known to some error: m = 0 multipoles are free too.

    The error is that of each cell of the counts' grid, and cells are independent. The mean of k cells is thus known
    to eps / sqrt(k), and a grid of half the cell size says the same only with twice the eps. An error e that k
    neighbouring cells have in common is as harmful as independent ones of e sqrt(k): for a tilt of the acceptance
    in declination k is of the order of all cells of the field of view. With unlimited data the error of delta_N is
    eps / sqrt(sum_i (sin dec_i - mean)^2) over the exposed cells, 2 eps / sqrt(cells) for a wide field of view.

    Each configuration (observatory, energy bin, epoch) has an acceptance of its own, with the same prior for all
    of one observatory. The relative error of the number of events as a whole does not matter. First-order terms
    are those of the cells' averages, as for a known exposure; `Counts.moments` are not used.

    Args:
        counts: The binned data. Configurations share the sky of their energy bin.
        acceptance: Prior mean of the relative acceptance of each observatory by name, shape (n_ring, n_ra), of any
            scale. Cells where it is zero are outside of the field of view; all others count, with events or without.
        relative_error: eps, standard deviation over mean of each cell's acceptance, between 1e-6 and 1e6: one for
            all, or by name of the observatory; numbers, or arrays (n_ring, n_ra). Above 1 the prior is peaked at zero.
            sum 1/eps^2 over the cells of an observatory must be 2 or more, or its rate has no scale.
        l_max: Highest degree of the sky.
        rate_bins: Free rates per configuration. Default: as many as hold 100 events each in every one.
        concentration: alpha of the symmetric Dirichlet prior of the relative rates; 0 for the improper d ln N.
        prior_precision: 1/variance of a fiducial prior of each multipole, to place the centre; per multipole in
            the order of `free_multipoles` with declination structure, or one value. It moves the coordinates, not the
            posterior.

    Raises:
        InputError: If an acceptance or its error is missing, of wrong shape or out of range, more than a thousandth
            of the events lie where the acceptance is zero, there are no events, or an argument is out of range.
        RuntimeError: If JAX runs on 32-bit floats.
    """
    require_float64("inference.acceptance_likelihood")
    grid = counts.grid
    if isinstance(l_max, bool) or l_max < 1 or l_max >= grid.n_ra // 2 or l_max > (grid.n_ring - 1) // 2:
        raise InputError(f"l_max must be at least 1 and resolved by the {grid.n_ring} rings, not {l_max}")
    if not (np.isfinite(concentration) and concentration >= 0):
        raise InputError(
            f"the concentration of the rates' Dirichlet prior must be 0 or positive and finite, not {concentration}; "
            "1 is uniform on the relative rates"
        )
    _require_events(counts)
    counts = _in_effective_events(counts)
    places = counts.configurations()
    degree, order = free_multipoles(l_max, declination_structure=True)
    groups = rate_bins or min(_rate_bins(counts, places, rate_bins))
    blocks, priors = [], []
    for place in places:
        mean = _prior_mean(counts, place, acceptance)
        block, prior = _configuration(
            counts, place, degree, order, groups, mean, _cell_error(counts, place, relative_error, mean)
        )
        blocks, priors = blocks + [block], priors + [prior]
    energies = sorted({p[1] for p in places})
    energy = tuple(energies.index(p[1]) for p in places)
    alive = jnp.asarray(np.stack([np.asarray(b.group_counts) > 0 for b in blocks]).astype(float))
    rings = tuple(b.data.rings for b in blocks)
    block, prior = _stack(blocks), _stack_priors(priors)
    precision = jnp.asarray(np.broadcast_to(np.asarray(prior_precision, float), degree.shape))
    information, centre, pull, mode, response, scale, basis, mix = _prepare(
        block, prior, alive, precision, float(concentration), energy
    )
    to_date, turn, frame = _frames(counts, degree, order)
    return AcceptancePriorLikelihood(
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
        alive=alive,
        concentration=jnp.asarray(float(concentration)),
        energy=energy,
        degree=tuple(int(x) for x in degree),
        order=tuple(int(x) for x in order),
        nodes=grid.n_ra,
        names=tuple(counts.label(p) for p in places),
        energies=tuple(counts.energies[e] for e in energies),
        frame=frame,
        acceptance=prior,
        rings=rings,
    )


def _prior_mean(counts: Counts, place: tuple, acceptance: dict) -> np.ndarray:
    """Prior mean of a configuration's acceptance, checked against its events, summing to 1."""
    name = counts.sites[place[0]].name
    if name not in acceptance:
        raise InputError(
            f"no prior mean of the acceptance is given for {name}, only for {', '.join(acceptance) or 'none'}; give "
            "one for every observatory"
        )
    return _known_acceptance(counts, place, acceptance)


def _cell_error(counts: Counts, place: tuple, relative_error, mean: np.ndarray) -> np.ndarray:
    """Relative error of every cell of a configuration, checked where the acceptance is positive."""
    name = counts.sites[place[0]].name
    if isinstance(relative_error, dict) and name not in relative_error:
        raise InputError(
            f"no relative error of the acceptance is given for {name}, only for {', '.join(relative_error) or 'none'}; "
            "give one for every observatory, or a single number"
        )
    given = np.asarray(relative_error[name] if isinstance(relative_error, dict) else relative_error, float)
    if given.shape not in ((), counts.grid.shape):
        raise InputError(
            f"the relative error of the acceptance of {name} must be a number or of shape {counts.grid.shape}; it is "
            f"{given.shape}"
        )
    error = np.broadcast_to(given, counts.grid.shape)
    # `not` also catches what is no number.
    bad = (mean > 0) & ~((error >= SMALLEST) & (error <= LARGEST))
    if bad.any():
        raise InputError(
            f"the relative error of the acceptance of {name} must lie between {SMALLEST:g} and {LARGEST:g}, not "
            f"{error[bad][0]:g}; for a known acceptance use the fit with a known exposure, for a free one leave out "
            "its prior"
        )
    precision = float(np.sum(error[mean > 0] ** -2))
    if precision < LEAST_PRECISION:
        raise InputError(
            f"the prior on the acceptance of {name} says next to nothing: 1/(relative error)^2 sums to {precision:.2g} "
            f"over its cells, and {LEAST_PRECISION:g} is the least; lower the errors, or leave out the prior"
        )
    return np.where(mean > 0, error, 1.0)


def _configuration(counts, place, degree, order, groups, mean, error) -> tuple[Block, AcceptancePrior]:
    """Data of one configuration, on the rings of its observatory's field of view."""
    data = form_marginals(
        counts.n_sky[place], counts.n_time[place], counts.n_local[place], groups, _exposed(counts, place, mean)
    )
    rings = list(data.rings)
    total, alpha, mean = float(data.total), error[rings] ** -2, mean[rings]
    weight = total * mean / (total * mean + alpha)
    strength = np.where(mean > 0, np.asarray(data.local) + alpha, 0.0)
    local, rate = weight * strength, np.asarray(data.rate)
    background = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(local, axis=1)), n=len(rate), axis=1)
    background = np.where(background > 1e-13 * background.max(), background, 0.0)
    shrunk: Marginals = dataclasses.replace(
        data,
        local=jnp.asarray(local),
        background=jnp.asarray(background),
        residual=jnp.asarray(np.asarray(data.sky) - background),
    )
    modes = ring_modes(counts.grid, data.rings, degree, order, _frame_rotation(counts, place))
    surplus = np.sum(np.asarray(data.time)) - np.sum(local)
    prior = AcceptancePrior(jnp.asarray(strength), jnp.asarray(weight), jnp.asarray(surplus))
    return _block(shrunk, modes, groups), prior


_block = jax.jit(make_block, static_argnums=2)


def _stack_priors(priors: list[AcceptancePrior]) -> AcceptancePrior:
    """Priors side by side, rings padded as `_stack` pads those of the blocks."""
    most = max(p.strength.shape[0] for p in priors)
    padded = lambda x: jnp.pad(x, ((0, most - x.shape[0]), (0, 0)))
    return AcceptancePrior(
        jnp.stack([padded(p.strength) for p in priors]),
        jnp.stack([padded(p.weight) for p in priors]),
        jnp.stack([p.surplus for p in priors]),
    )
