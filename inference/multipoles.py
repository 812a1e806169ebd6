r"""The conditional likelihood of a band-limited sky, and its exact maximum with the rates eliminated.

A sky of few multipoles meets the rate only through the rate's lowest Fourier modes c = (C_m, S_m, sum), so

$$ \Delta \ln L(\theta, \rho) = f(\theta, c(\rho)) - \sum_g n_g [\rho_g - \ln(1 + \rho_g)] $$

with a function f of a handful of numbers. Newton's method then needs the Hessian of f alone, and the
hundreds of rates are eliminated exactly by the Woodbury identity. The kernel is a pure function: it can be
jitted, differentiated and vmapped over simulated skies.
"""

import dataclasses
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffcr.grid import RingGrid
from diffcr.harmonics import degrees_and_orders, ring_basis
from diffcr.typing import AnyArray

from .likelihood import Marginals, second_order


def free_multipoles(l_max: int, declination_structure: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Degrees and orders (l, m) of the fitted coefficients, each of shape (param,).

    All m != 0 up to l_max; with `declination_structure` (a known exposure) also m = 0. The first two are
    always (1, -1) and (1, 1): delta_6h and delta_0h in units of sqrt(4 pi / 3).
    """
    degree, order = degrees_and_orders(l_max)
    keep = (degree > 0) & ((order != 0) | declination_structure)
    degree, order = degree[keep], order[keep]
    first = np.lexsort((order, order == 0, degree))
    return degree[first], order[first]


class RingModes(eqx.Module):
    """How the coefficients make the Fourier modes of the sky on each kept ring.

    Attributes:
        cosine: Contribution of each coefficient to the cos(m RA) mode, shape (param, order, ring).
        sine: The same for sin(m RA).
        sky_cosine: cos(m RA) at the bin centres, shape (order, ra); sky_sine alike.
        local_cosine: cos(m H) at the hour-angle centres, shape (order, hour_angle); local_sine alike.
    """

    cosine: Float[AnyArray, "param order ring"]
    sine: Float[AnyArray, "param order ring"]
    sky_cosine: Float[AnyArray, "order ra"]
    sky_sine: Float[AnyArray, "order ra"]
    local_cosine: Float[AnyArray, "order ra"]
    local_sine: Float[AnyArray, "order ra"]

    def sky_modes(self, coefficients: Float[AnyArray, " param"]):
        """Fourier modes (cosine, sine) of the sky, each of shape (order, ring)."""
        return jnp.tensordot(coefficients, self.cosine, 1), jnp.tensordot(coefficients, self.sine, 1)

    def sky(self, coefficients: Float[AnyArray, " param"]) -> Float[AnyArray, "ring ra"]:
        """Contrast delta I of the cells, averaged over each cell."""
        cosine, sine = self.sky_modes(coefficients)
        return _dot(cosine.T, self.sky_cosine) + _dot(sine.T, self.sky_sine)


def _dot(a: AnyArray, b: AnyArray) -> Array:
    """Matrix product in full precision: accelerators otherwise round 32-bit inputs to 10 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def ring_modes(
    grid: RingGrid,
    rings: tuple[int, ...],
    degree: np.ndarray,
    order: np.ndarray,
    rotation: float = 0.0,
    cell_average: bool = True,
    dtype=None,
) -> RingModes:
    """Build `RingModes` on the host in 64-bit floats.

    Args:
        grid: The ring grid.
        rings: Kept rings.
        degree, order: l and m of each coefficient.
        rotation: Right ascension of this configuration's frame minus that of the common frame [rad]:
            the sky of the common frame at RA - rotation is seen at RA here.
        cell_average: Whether cells hold averages over their solid angle, or values at their centres.
        dtype: Float type of the result.
    """
    basis = ring_basis(grid, int(degree.max()), cell_average)[:, :, list(rings)]
    orders = np.arange(basis.shape[1])
    profile = basis[degree, np.abs(order)]
    cosine = np.zeros((len(degree), len(orders), len(rings)))
    sine = np.zeros_like(cosine)
    for k, (m, values) in enumerate(zip(order, profile, strict=True)):
        turn = abs(m) * rotation
        # cos(m(RA - turn)) and sin(m(RA - turn)) in terms of cos(m RA) and sin(m RA).
        cosine[k, abs(m)] = values * (np.cos(turn) if m >= 0 else -np.sin(turn))
        sine[k, abs(m)] = values * (np.sin(turn) if m >= 0 else np.cos(turn))
    used = orders if (order == 0).any() else orders[1:]
    cosine, sine = cosine[:, used], sine[:, used]
    sky = np.outer(used, grid.right_ascension)
    local = np.outer(used, grid.hour_angle)
    arrays = (cosine, sine, np.cos(sky), np.sin(sky), np.cos(local), np.sin(local))
    return RingModes(*(jnp.asarray(a, dtype) for a in arrays))


class Block(eqx.Module):
    """Data of one detector configuration, prepared for the band-limited likelihood.

    Attributes:
        data: The marginals on the kept rings.
        modes: The sky's basis on these rings.
        residual_cosine: sum over RA of residual cos(m RA), shape (order, ring); residual_sine alike.
        count_cosine: sum over hour angle of n_i cos(m H), shape (order, ring); count_sine alike.
        rate_modes: Derivative of the rate modes c by each rate shift, shape (2 order + 1, group): for each
            group of time bins the sums of rate cos(m t), rate sin(m t) and rate.
        group_counts: Counts n_g per group of time bins, shape (group,); zero where dead.
        linear: What the events' own directions add to the linear term of each multipole, over what the cell
            averages say, shape (param,); zero where these are unknown.
        bilinear: The same for the term linear in rate mode and multipole, shape (2 order + 1, param).
    """

    data: Marginals
    modes: RingModes
    residual_cosine: Float[AnyArray, "order ring"]
    residual_sine: Float[AnyArray, "order ring"]
    count_cosine: Float[AnyArray, "order ring"]
    count_sine: Float[AnyArray, "order ring"]
    rate_modes: Float[AnyArray, "mode group"]
    group_counts: Float[AnyArray, " group"]
    linear: Float[AnyArray, " param"]
    bilinear: Float[AnyArray, "mode param"]


def make_block(data: Marginals, modes: RingModes, groups: int) -> Block:
    """Contract the marginals with the modes once, for a rate constant within each of `groups` equal stretches."""
    n_time = data.time.shape[0]
    # The time bins are centred half a bin later than the hour-angle bins: t = RA + H holds for the centres.
    cosine, sine = modes.sky_cosine * data.rate, modes.sky_sine * data.rate
    rows = jnp.concatenate([cosine, sine, data.rate[None]])
    return Block(
        data=data,
        modes=modes,
        residual_cosine=_dot(modes.sky_cosine, data.residual.T),
        residual_sine=_dot(modes.sky_sine, data.residual.T),
        count_cosine=_dot(modes.local_cosine, data.local.T),
        count_sine=_dot(modes.local_sine, data.local.T),
        rate_modes=rows.reshape(len(rows), groups, n_time // groups).sum(-1),
        group_counts=data.time.reshape(groups, n_time // groups).sum(-1),
        linear=jnp.zeros(len(modes.cosine), data.sky.dtype),
        bilinear=jnp.zeros((len(rows), len(modes.cosine)), data.sky.dtype),
    )


def with_moments(block: Block, moments: Float[AnyArray, "3 2"], rotation: float | AnyArray) -> Block:
    """Use the events' own directions and times in the first-order terms of the dipole, instead of cell averages.

    The score of a dipole about isotropy is then that of the unbinned events, whatever the grid and the number of free
    rates; the cells are left with the second-order terms. Where the rate follows the counts, it does so within a bin
    too; where it is constant over groups of bins, so it is in the score, which the times of the events do not enter.

    Args:
        block: The data, with m = 0 absent and the multipoles in the order of `free_multipoles`.
        moments: Sums over events of w cos(dec) (cos RA, sin RA), of w cos(dec) (cos H, sin H) and of w (cos t, sin t);
            NaN where unknown, which changes nothing.
        rotation: As in `ring_modes`.
    """
    orders, n = block.modes.sky_cosine.shape
    sky, local, time = moments
    norm = math.sqrt(3 / (4 * math.pi))
    cosine, sine = jnp.cos(rotation), jnp.sin(rotation)
    # Complex numbers P = sum w cos(dec) exp(i RA) and Q = sum w cos(dec) exp(-i H), both times exp(-i rotation).
    p_re, p_im = sky[0] * cosine + sky[1] * sine, sky[1] * cosine - sky[0] * sine
    q_re, q_im = local[0] * cosine - local[1] * sine, -local[1] * cosine - local[0] * sine
    exact_sky = norm * jnp.stack([p_im, p_re])
    exact_pairs = -norm * jnp.array([[q_im, q_re], [q_re, -q_im]])  # rows: cosine, sine of the rate
    modes, first = block.modes, jnp.array([0, orders])
    binned_pairs = -jnp.concatenate(
        [
            _einsum("pmr,mr->mp", modes.cosine, block.count_cosine)
            - _einsum("pmr,mr->mp", modes.sine, block.count_sine),
            _einsum("pmr,mr->mp", modes.sine, block.count_cosine)
            + _einsum("pmr,mr->mp", modes.cosine, block.count_sine),
        ]
    )[first][:, :2]
    basis = _einsum("pmr,ma->pra", modes.cosine[:2], modes.sky_cosine)
    basis += _einsum("pmr,ma->pra", modes.sine[:2], modes.sky_sine)
    binned_sky = jnp.sum(basis * block.data.sky, axis=(1, 2))
    start = jnp.sum(block.rate_modes, axis=1)[first]
    # What is constant within a time bin: exp(i t) averages to its value at the centre times sinc.
    within = float(np.sinc(1 / n))
    seen = block.data.time / block.data.total
    follows = jnp.max(jnp.abs(block.data.rate - seen)) <= 1e-6 * jnp.max(seen)
    rate = jnp.where(follows, time / block.data.total, within * start)
    linear = exact_sky - binned_sky + _dot(rate, exact_pairs) - _dot(start, binned_pairs)
    pairs = within * exact_pairs - binned_pairs
    known = jnp.all(jnp.isfinite(linear)) & jnp.all(jnp.isfinite(pairs))
    return dataclasses.replace(
        block,
        linear=block.linear.at[:2].set(jnp.where(known, linear, 0.0)),
        bilinear=block.bilinear.at[first, :2].set(jnp.where(known, pairs, 0.0)),
    )


def band_limited(block: Block, coefficients: Float[AnyArray, " param"], shift: Float[AnyArray, " mode"]):
    """f(theta, c): the conditional log-likelihood difference without the rates' own term.

    The scale of the rate is a null direction of the likelihood; it is pinned at sum(rate shift) = 0 by a
    quadratic term that vanishes at the maximum.

    Args:
        block: The data.
        coefficients: Real multipoles theta, shape (param,).
        shift: Rate modes c of the shift rate * rho: cosines, sines, sum. Shape (2 order + 1,).
    """
    modes, data = block.modes, block.data
    orders = modes.sky_cosine.shape[0]
    start = jnp.sum(block.rate_modes, axis=1)
    dc, ds, scale = shift[:orders, None], shift[orders:-1, None], shift[-1]
    cosine, sine = modes.sky_modes(coefficients)

    def seen(c, s):
        return cosine * c + sine * s, cosine * s - sine * c

    contrast = modes.sky(coefficients)
    local_c, local_s = seen(start[:orders, None] + dc, start[orders:-1, None] + ds)
    seen_contrast = scale + _dot(local_c.T, modes.local_cosine) + _dot(local_s.T, modes.local_sine)
    shift_c, shift_s = seen(dc, ds)
    linear = jnp.sum(cosine * block.residual_cosine + sine * block.residual_sine)
    bilinear = jnp.sum(shift_c * block.count_cosine + shift_s * block.count_sine)
    second = jnp.sum(data.local * second_order(seen_contrast)) - jnp.sum(data.sky * second_order(contrast))
    moments = _dot(block.linear + _dot(shift, block.bilinear), coefficients)
    return linear + second - bilinear + moments - 0.5 * data.total * scale**2


class Derivatives(NamedTuple):
    """Gradient and Hessian of `band_limited`, by blocks: multipoles (t) and rate modes (c)."""

    g_t: Float[AnyArray, " param"]
    g_c: Float[AnyArray, " mode"]
    h_tt: Float[AnyArray, "param param"]
    h_ct: Float[AnyArray, "mode param"]
    h_cc: Float[AnyArray, "mode mode"]


def derivatives(block: Block, coefficients: Float[AnyArray, " param"], shift: Float[AnyArray, " mode"]) -> Derivatives:
    """Derivatives of `band_limited`, written out: a tenth of the compilation of differentiating it twice.

    With xi = x - 1 what the local cells see, all follows from d xi / d(theta, c) and the weights n/(1 + xi)^k.
    Arguments as for `band_limited`.
    """
    modes, data = block.modes, block.data
    orders = modes.sky_cosine.shape[0]
    start = jnp.sum(block.rate_modes, axis=1)
    dc, ds = shift[:orders, None], shift[orders:-1, None]
    full_c, full_s = start[:orders, None] + dc, start[orders:-1, None] + ds
    cosine, sine = modes.sky_modes(coefficients)
    params = coefficients.shape[0]

    def local(along, across):
        """Local map (.., ring * hour_angle) of cos and sin modes (.., order, ring)."""
        out = _einsum("...mr,mh->...rh", along, modes.local_cosine)
        out += _einsum("...mr,mh->...rh", across, modes.local_sine)
        return out.reshape(*out.shape[:-2], -1)

    basis = _einsum("pmr,ma->pra", modes.cosine, modes.sky_cosine)
    basis += _einsum("pmr,ma->pra", modes.sine, modes.sky_sine)
    basis = basis.reshape(params, -1)
    contrast = _dot(coefficients, basis)
    by_theta = local(modes.cosine * full_c + modes.sine * full_s, modes.cosine * full_s - modes.sine * full_c)
    # Each rate mode acts through one order of the sky: lift (order, ring) to (order, order, ring).
    lift = jnp.eye(orders, dtype=cosine.dtype)[:, :, None]
    by_shift = jnp.concatenate(
        [
            local(lift * cosine, -lift * sine),
            local(lift * sine, lift * cosine),
            jnp.ones((1, basis.shape[1]), basis.dtype),
        ]
    )
    seen = shift[-1] + _dot(coefficients, by_theta)
    counts, sky = data.local.ravel(), data.sky.ravel()
    first, second = counts / (1 + seen), counts / (1 + seen) ** 2
    shift_theta = local(modes.cosine * dc + modes.sine * ds, modes.cosine * ds - modes.sine * dc)
    linear_t = _dot(basis, data.residual.ravel()) - _dot(shift_theta, counts)
    g_t = linear_t - _dot(basis, sky * contrast / (1 + contrast)) + _dot(by_theta, counts * seen / (1 + seen))
    # For c the first-order term n xi is part of n - n/(1 + xi), except for the overall scale.
    pull = counts * seen / (1 + seen)
    g_c = _dot(by_shift, pull) - _dot(by_shift, counts)
    g_c = g_c.at[-1].set(jnp.sum(pull) - data.total * shift[-1])
    g_t += block.linear + _dot(shift, block.bilinear)
    g_c += _dot(block.bilinear, coefficients)
    h_tt = _dot(by_theta * second, by_theta.T) - _dot(basis * (sky / (1 + contrast) ** 2), basis.T)
    first_c = _dot(modes.local_cosine, first.reshape(data.local.shape).T)
    first_s = _dot(modes.local_sine, first.reshape(data.local.shape).T)
    mixed = jnp.concatenate(
        [
            _einsum("pmr,mr->mp", modes.cosine, first_c) - _einsum("pmr,mr->mp", modes.sine, first_s),
            _einsum("pmr,mr->mp", modes.sine, first_c) + _einsum("pmr,mr->mp", modes.cosine, first_s),
            jnp.zeros((1, params), basis.dtype),
        ]
    )
    h_ct = _dot(by_shift * second, by_theta.T) - mixed + block.bilinear
    h_cc = _dot(by_shift * second, by_shift.T)
    h_cc = h_cc.at[-1, -1].add(-data.total)
    return Derivatives(g_t, g_c, h_tt, h_ct, h_cc)


def _einsum(pattern: str, *arrays: AnyArray) -> Array:
    return jnp.einsum(pattern, *arrays, precision=jax.lax.Precision.HIGHEST)


class _Expansion(NamedTuple):
    """Second-order expansion of one block about the current point, rates eliminated."""

    gradient: Float[AnyArray, " param"]  # reduced
    information: Float[AnyArray, "param param"]  # reduced
    rate_gradient: Float[AnyArray, " group"]
    cross: Float[AnyArray, "mode param"]
    solve: tuple


def _expand(block: Block, theta, rho) -> _Expansion:
    """Gradient and information of theta with this block's rates eliminated exactly (Woodbury)."""
    d = derivatives(block, theta, _dot(block.rate_modes, rho))
    alive = block.group_counts > 0
    inverse_diagonal = jnp.where(alive, (1 + rho) ** 2, 0.0) / jnp.where(alive, block.group_counts, 1.0)
    rate_gradient = _dot(d.g_c, block.rate_modes) - block.group_counts * rho / (1 + rho)
    rate_gradient = jnp.where(alive, rate_gradient, 0.0)
    kernel = _dot(block.rate_modes * inverse_diagonal, block.rate_modes.T)
    woodbury = jnp.linalg.solve(jnp.eye(len(kernel), dtype=kernel.dtype) - _dot(d.h_cc, kernel), d.h_cc)
    solve = (inverse_diagonal, woodbury)
    response = kernel + _dot(kernel, _dot(woodbury, kernel))
    reduced = d.g_t + _dot(_dot(block.rate_modes, _solve_rates(block, solve, rate_gradient)), d.h_ct)
    information = -d.h_tt - _dot(d.h_ct.T, _dot(response, d.h_ct))
    return _Expansion(reduced, information, rate_gradient, d.h_ct, solve)


def _solve_rates(block: Block, solve: tuple, vector: Array) -> Array:
    """(minus the rates' Hessian)^-1 applied to a vector over the groups."""
    inverse_diagonal, woodbury = solve
    first = inverse_diagonal * vector
    return first + inverse_diagonal * (block.rate_modes.T @ (woodbury @ (block.rate_modes @ first)))


class Maximum(NamedTuple):
    """Where the Newton iteration ended.

    Attributes:
        coefficients: Real multipoles theta, shape (param,).
        rate_shifts: rho per group of time bins, one array per block.
        gain: ln L minus the best isotropic ln L (with a prior: of the penalised likelihood).
        information: Observed information of theta with the rates eliminated, prior included, (param, param).
        decrement: Expected remaining gain, half g F^-1 g over all parameters, rates included.
        steps: Newton steps taken.
        positive: Whether the information is positive definite and the sky positive: a true maximum.
    """

    coefficients: Float[AnyArray, " param"]
    rate_shifts: tuple[Float[AnyArray, " group"], ...]
    gain: Float[AnyArray, ""]
    information: Float[AnyArray, "param param"]
    decrement: Float[AnyArray, ""]
    steps: Int[AnyArray, ""]
    positive: Bool[AnyArray, ""]


def _stacks(blocks: tuple[Block, ...]) -> list[tuple[list[int], Block]]:
    """Blocks of equal shape side by side, so that thirteen epochs compile like one: (places, stacked block)."""
    groups: dict = {}
    for place, block in enumerate(blocks):
        leaves, structure = jax.tree.flatten(block)
        groups.setdefault((structure, tuple(x.shape for x in leaves)), []).append(place)
    return [(places, jax.tree.map(lambda *x: jnp.stack(x), *(blocks[k] for k in places))) for places in groups.values()]


def _inside(block: Block, theta: Array, rho: Array) -> Array:
    """Whether sky and rate are positive where exposed."""
    exposed = block.data.background > 0
    return jnp.all(jnp.where(exposed, block.modes.sky(theta), 0.0) > -1) & jnp.all(rho > -1)


def _log_likelihood(stacks: list[Block], theta: Array, rhos: list[Array], prior: Array) -> Array:
    """ln L difference to isotropy of all blocks, minus half prior . theta^2; -inf outside the domain."""

    def one(block, rho):
        value = band_limited(block, theta, _dot(block.rate_modes, rho))
        return value - jnp.sum(block.group_counts * second_order(rho)), _inside(block, theta, rho)

    value, inside = -0.5 * jnp.sum(prior * theta**2), jnp.asarray(True)
    for stack, rho in zip(stacks, rhos, strict=True):
        values, insides = jax.vmap(one)(stack, rho)
        value, inside = value + jnp.sum(values), inside & jnp.all(insides)
    return jnp.where(inside & jnp.isfinite(value), value, -jnp.inf)


def maximise(
    blocks: tuple[Block, ...],
    prior: Float[AnyArray, " param"],
    tolerance: float = 1e-9,
    max_steps: int = 60,
) -> Maximum:
    """Newton's method with line search for the multipoles and every rate at once.

    Args:
        blocks: One per detector configuration; all share the multipoles.
        prior: Gaussian prior precision of each multipole (0: none), shape (param,).
        tolerance: Stop when the expected remaining gain in ln L is below it.
        max_steps: Most Newton steps.
    """
    params = prior.shape[0]
    grouped = _stacks(blocks)
    stacks = [stack for _, stack in grouped]

    def direction(theta, rhos):
        expansions = [
            jax.vmap(_expand, (0, None, 0))(stack, theta, rho) for stack, rho in zip(stacks, rhos, strict=True)
        ]
        gradient = sum(jnp.sum(e.gradient, axis=0) for e in expansions) - prior * theta
        information = sum(jnp.sum(e.information, axis=0) for e in expansions) + jnp.diag(prior)
        values, vectors = jnp.linalg.eigh(information)
        floor = 1e-13 * jnp.max(jnp.abs(values))
        # Where the information is not positive (far from the maximum, or few events) go uphill all the same.
        step = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), floor))
        slope, shifts = jnp.dot(gradient, step), []
        for stack, e in zip(stacks, expansions, strict=True):
            alone = jax.vmap(_solve_rates)(stack, e.solve, e.rate_gradient)
            pulled = jax.vmap(lambda block, cross: _dot(_dot(cross, step), block.rate_modes))(stack, e.cross)
            shifts.append(alone + jax.vmap(_solve_rates)(stack, e.solve, pulled))
            slope += jnp.sum(e.rate_gradient * alone)
        return step, shifts, 0.5 * slope, information, values[0] > floor

    def advance(state):
        theta, rhos, value, _, steps, _, _ = state
        step, shifts, decrement, information, positive = direction(theta, rhos)

        def moved(scale):
            return theta + scale * step, [rho + scale * shift for rho, shift in zip(rhos, shifts, strict=True)]

        slack = 1e-12 * (1 + jnp.abs(value))
        scale = jax.lax.while_loop(
            lambda s: (_log_likelihood(stacks, *moved(s), prior) < value - slack) & (s > 1e-9),
            lambda s: s / 2,
            jnp.asarray(1.0, theta.dtype),
        )
        done = jnp.abs(decrement) < tolerance
        scale = jnp.where(done | (scale <= 1e-9), 0.0, scale)
        theta, rhos = moved(scale)
        return (
            theta,
            rhos,
            _log_likelihood(stacks, theta, rhos, prior),
            decrement,
            steps + 1,
            information,
            positive,
        )

    def unfinished(state):
        return (jnp.abs(state[3]) >= tolerance) & (state[4] < max_steps) & jnp.isfinite(state[3])

    start = (
        jnp.zeros(params, prior.dtype),
        [jnp.zeros_like(stack.group_counts) for stack in stacks],
        jnp.zeros((), prior.dtype),
        jnp.asarray(jnp.finfo(prior.dtype).max, prior.dtype),
        jnp.zeros((), int),
        jnp.eye(params, dtype=prior.dtype),
        jnp.asarray(False),
    )
    theta, rhos, value, decrement, steps, information, positive = jax.lax.while_loop(unfinished, advance, start)
    shifts = {place: rho[k] for (places, _), rho in zip(grouped, rhos, strict=True) for k, place in enumerate(places)}
    ordered = tuple(shifts[k] for k in range(len(blocks)))
    return Maximum(theta, ordered, value, information, decrement, steps, positive)


def expected_information(n_local: AnyArray, rate: AnyArray, modes: RingModes) -> np.ndarray:
    """Expected information of the multipoles about isotropy, with the rates and the acceptance eliminated.

    Analytic, on the host. With Y the basis, B the background and X_i = sum_tau N_tau Y_{tau i}:
    F = sum B Y Y - sum n_i X X - H K H, where H couples the multipoles to the rate modes c and K is the
    covariance of c. For the dipole and a constant rate it is N (<cos^2 dec> - |c_0|^2) / 2.

    Args:
        n_local: Expected counts per local cell on the kept rings, shape (ring, hour_angle).
        rate: Relative rate, sums to 1, shape (time,).
        modes: The sky's basis on the kept rings.

    Returns:
        Information, shape (param, param).
    """
    cosine, sine, sky_c, sky_s, local_c, local_s = (np.asarray(x) for x in jax.tree.leaves(modes))
    params, total = len(cosine), n_local.sum()
    background = np.fft.irfft(np.fft.rfft(rate) * np.conj(np.fft.rfft(n_local, axis=1)), n=len(rate), axis=1)
    mean_c, mean_s = sky_c @ rate, sky_s @ rate
    basis = np.einsum("pmr,ma->pra", cosine, sky_c) + np.einsum("pmr,ma->pra", sine, sky_s)
    along, across = (
        cosine * mean_c[:, None] + sine * mean_s[:, None],
        cosine * mean_s[:, None] - sine * mean_c[:, None],
    )
    seen = np.einsum("pmr,mh->prh", along, local_c) + np.einsum("pmr,mh->prh", across, local_s)
    basis, seen = basis.reshape(params, -1), seen.reshape(params, -1)
    count_c, count_s = local_c @ n_local.T, local_s @ n_local.T
    coupling = np.concatenate(
        [
            -np.einsum("pmr,mr->mp", cosine, count_c) + np.einsum("pmr,mr->mp", sine, count_s),
            -np.einsum("pmr,mr->mp", sine, count_c) - np.einsum("pmr,mr->mp", cosine, count_s),
            (seen @ n_local.ravel())[None],
        ]
    )
    time_modes = np.concatenate([sky_c, sky_s, np.ones((1, len(rate)))])
    kernel = (time_modes * rate) @ time_modes.T / total
    own = (basis * background.ravel()) @ basis.T - (seen * n_local.ravel()) @ seen.T
    return own - coupling.T @ kernel @ coupling
