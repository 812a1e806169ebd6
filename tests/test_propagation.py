"""diffcr.propagation against closed forms, sums in other precision, finite volumes and printed numbers."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.special import erfc, k0

from diffcr import propagation, slab, transport
from diffcr.errors import InputError
from diffcr.propagation import Mixture, add_mixtures, require_halo
from diffcr.sky import unit_vector
from diffcr.source import Sources, make_sources
from diffcr.units import CM, DEGREE, LIGHT_YEAR, SECOND, SPEED_OF_LIGHT

burst = jax.jit(propagation.burst_log_density)
continuous = jax.jit(propagation.continuous_log_density, static_argnames="nodes")
total = jax.jit(propagation.total_log_density_and_gradient, static_argnames=("chunk", "continuous"))
log_slab = jax.jit(slab.log_slab_density)
coefficient = jax.jit(propagation.diffusion_coefficient)

YEAR = 1 / SPEED_OF_LIGHT  # the time light takes for 1 pc [yr]
SUN = np.zeros(3)
TILTED = np.array([[1.0, 0.2, 0.5], [0.2, 0.6, -0.3], [0.5, -0.3, 0.8]])
VELA = 1000 * LIGHT_YEAR * np.asarray(unit_vector(263.9 * DEGREE, -3.3 * DEGREE))


def burst_gradient(source, age, diffusion, halo_height=None, position=SUN):
    """grad ln G of one burst."""
    return total(make_sources(np.atleast_2d(source), age), np.zeros(1), diffusion, halo_height, position).gradient


# Free space


def test_anisotropic_burst_matches_printed_numbers():
    """In units of c = 1: kappa_par = 1, kappa_perp = 0.1, kappa_A = 0.3, B along z."""
    tensor = transport.diffusion_tensor(1.0, 0.1, 0.3, np.array([0, 0, 1.0]))
    position, age = np.array([0.3, -0.2, 0.5]), 0.7 * YEAR
    np.testing.assert_allclose(np.exp(burst(position, SUN, age, tensor)), 0.22035612527988588, rtol=1e-13)
    dipole = transport.fick_dipole(tensor, burst_gradient(SUN, age, tensor, position=position))
    np.testing.assert_allclose(dipole, [0.64285714, 2.35714286, -1.07142857], atol=5e-9)


@pytest.mark.parametrize("halo_height", [None, 1e4])
def test_same_tensor_in_both_places_points_at_the_source(halo_height):
    """However anisotropic; the length is 3 r / (2 c t)."""
    field = unit_vector(210.5 * DEGREE, -57.1 * DEGREE)
    tensor = transport.diffusion_tensor(10.0, 0.1, 0.0, field)
    dipole = transport.fick_dipole(tensor, burst_gradient(VELA, 1.1e4, tensor, halo_height))
    np.testing.assert_allclose(dipole, 1.5 * VELA / (SPEED_OF_LIGHT * 1.1e4), rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(dipole), 0.1363636, rtol=1e-6)


def test_local_tensor_projects_on_the_field():
    field = np.asarray(unit_vector(210.5 * DEGREE, -57.1 * DEGREE))
    gradient = burst_gradient(VELA, 1.1e4, 10.0)
    dipole = transport.fick_dipole(transport.diffusion_tensor(10.0, 0.0, 0.0, field), gradient)
    source = VELA / np.linalg.norm(VELA)
    np.testing.assert_allclose(dipole, 0.1363636363 * (source @ field) * field, rtol=1e-8)


def test_antisymmetric_part_leaves_the_density():
    field = np.array([2.0, -1.0, 2.0]) / 3
    tensors = [transport.diffusion_tensor(1.0, 0.2, drift, field) for drift in (0.0, 0.7)]
    args = np.array([0.1, 0.2, 0.3]), np.array([1.0, -2.0, 0.5]), 2 * YEAR
    np.testing.assert_allclose(burst(*args, tensors[1]), burst(*args, tensors[0]), rtol=1e-14)


def test_far_sources_underflow_in_density_but_not_in_gradient():
    """exp(-2.5e5): the gradient is 1 / (2 K t) towards the source."""
    sources = make_sources(np.array([[1e3, 0, 0], [2e3, 0, 0]]), YEAR)
    mixture = total(sources, np.zeros(2), 1.0)
    np.testing.assert_allclose(mixture.log_density, -0.25e6 - 1.5 * np.log(4 * np.pi), rtol=1e-14)
    np.testing.assert_allclose(mixture.gradient, [500.0, 0, 0], rtol=1e-13)


def test_density_and_gradient_peak_when_they_should():
    """At t = r^2 / 6K and r^2 / 10K: Vela at 10 TeV after 7314 and 4388 years."""
    diffusion = float(coefficient(10.0, 3e29 * CM**2 / SECOND / SPEED_OF_LIGHT, 1 / 3))
    ages = np.arange(3000.0, 9000.0)
    logs = np.asarray(burst(SUN, np.broadcast_to(VELA, (len(ages), 3)), ages, diffusion))
    assert abs(ages[np.argmax(logs)] - 7314) <= 1
    away = np.asarray(burst(SUN + 1e-3 * VELA, np.broadcast_to(VELA, (len(ages), 3)), ages, diffusion))
    slope = np.exp(away) - np.exp(logs)
    assert abs(ages[np.argmax(slope)] - 4388) <= 10


@pytest.mark.parametrize(
    ("energy", "cgs", "dipole_length", "width", "exponent", "escape"),
    [
        (1.0, 3.000e29, 9.73, 209, 2.149, 9.05e6),
        (10.0, 6.463e29, 20.96, 307, 0.997, 4.20e6),
        (100.0, 1.392e30, 45.2, 451, 0.463, 1.95e6),
        (1e3, 3.000e30, 97.3, 661, 0.215, 9.05e5),
    ],
)
def test_diffusion_coefficient_matches_printed_numbers(energy, cgs, dipole_length, width, exponent, escape):
    """K = 3e28 cm^2/s (E / GeV)^(1/3), Vela at 1000 light years 11 kyr ago, H = 3 kpc."""
    diffusion = coefficient(energy, 3e29 * CM**2 / SECOND / SPEED_OF_LIGHT, 1 / 3)
    square = 4 * diffusion * SPEED_OF_LIGHT * 1.1e4
    np.testing.assert_allclose(diffusion * SPEED_OF_LIGHT / (CM**2 / SECOND), cgs, rtol=5e-4)
    np.testing.assert_allclose(3 * diffusion, dipole_length, rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(square), width, rtol=3e-3)
    np.testing.assert_allclose(VELA @ VELA / square, exponent, rtol=2e-3)
    np.testing.assert_allclose(3000**2 / (diffusion * SPEED_OF_LIGHT), escape, rtol=2e-3)


# Between absorbing planes


def test_slab_matches_printed_numbers():
    np.testing.assert_allclose(np.exp(log_slab(0.0, 0.0, 0.5)), 0.29122799567483, rtol=1e-13)
    np.testing.assert_allclose(np.exp(log_slab(0.2, -0.1, 0.5)), 0.27225170583912, rtol=1e-13)


def exact_slab(z, source, time):
    """Images where they converge, in 60 digits, eigenfunctions where those do."""
    with mpmath.workdps(60):
        z, source, time = mpmath.mpf(z), mpmath.mpf(source), mpmath.mpf(time)
        if time < 0.7:
            images = [
                (-1) ** n * mpmath.exp(-((z - 2 * n - (-1) ** n * source) ** 2) / (4 * time)) for n in range(-12, 13)
            ]
            return mpmath.log(sum(images) / mpmath.sqrt(4 * mpmath.pi * time))
        modes = [
            mpmath.sin(m * mpmath.pi * (z + 1) / 2)
            * mpmath.sin(m * mpmath.pi * (source + 1) / 2)
            * mpmath.exp(-((m * mpmath.pi / 2) ** 2) * time)
            for m in range(1, 30)
        ]
        return mpmath.log(sum(modes))


PLACES = [(0.0, 0.0), (0.2, -0.1), (-0.9, 0.95), (0.0, 0.9), (0.7, 0.8), (-0.99999, 0.99999), (1 - 1e-9, 0.0)]


@pytest.mark.parametrize("time", [1e-6, 1e-3, 0.01, 0.1, 0.2999, 0.3001, 0.5, 1.0, 2.0, 10.0, 1e4])
def test_slab_is_exact_to_rounding_at_all_times(time):
    z, source = np.transpose(PLACES)
    expected = [float(exact_slab(*place, time)) for place in PLACES]
    np.testing.assert_allclose(log_slab(z, source, np.full(len(z), time)), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("time", [1e-3, 0.1, 0.2999, 0.3001, 1.0, 10.0])
def test_images_and_eigenfunctions_agree(time):
    """Plain sums in doubles, over K t / H^2 from 1e-3 to 10."""
    z, source = np.transpose(PLACES[:5])
    n, m = np.arange(-30, 31)[:, None], np.arange(1, 400)[:, None]
    images = np.sum((-1.0) ** n * np.exp(-((z - 2 * n - (-1.0) ** n * source) ** 2) / (4 * time)), axis=0)
    k = m * np.pi / 2
    modes = np.sum(np.sin(k * (z + 1)) * np.sin(k * (source + 1)) * np.exp(-(k**2) * time), axis=0)
    density = np.exp(log_slab(z, source, np.full(len(z), time)))
    np.testing.assert_allclose(density, images / np.sqrt(4 * np.pi * time), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(density, modes, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("time", [0.02, 0.2, 0.29, 0.31, 1.0])
def test_slab_derivatives_are_those_of_the_exact_sum(time):
    """First and second, which are written out, by differences in 60 digits."""
    hessian = jax.jit(jax.hessian(slab.log_slab_density, (0, 1, 2)))
    gradient = jax.jit(jax.grad(slab.log_slab_density, (0, 1, 2)))
    for place in [(0.2, -0.1), (-0.5, 0.7)]:
        with mpmath.workdps(60):
            step = mpmath.mpf("1e-15")

            def shifted(*moves, at=(*place, time)):
                at = [mpmath.mpf(x) for x in at]
                for axis, size in moves:
                    at[axis] += size
                return exact_slab(*at)

            first = [(shifted((i, step)) - shifted((i, -step))) / (2 * step) for i in range(3)]
            second = [
                [
                    sum(a * b * shifted((i, a * step), (j, b * step)) for a in (1, -1) for b in (1, -1)) / (4 * step**2)
                    for j in range(3)
                ]
                for i in range(3)
            ]
        np.testing.assert_allclose(gradient(*place, time), np.array(first, float), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(np.array(hessian(*place, time)), np.array(second, float), rtol=1e-10, atol=1e-10)


def test_wide_halo_is_free_space():
    args = np.array([3.0, 1.0, 2.0]), np.array([-5.0, 4.0, 1.0]), 10 * YEAR, TILTED
    np.testing.assert_allclose(burst(*args, 1e4), burst(*args), rtol=1e-14)


def test_observer_and_source_exchange():
    one, other = np.array([0.3, -0.1, 0.6]), np.array([-0.2, 0.5, -0.8])
    for age in (0.1, 1.0):
        np.testing.assert_allclose(
            burst(one, other, age * YEAR, TILTED, 1.0), burst(other, one, age * YEAR, TILTED, 1.0), rtol=1e-13
        )


def finite_volume(tensor, source, position, time, cells=96, steps=192):
    """Density in x and z of a tilted tensor between planes z = +-1, periodic in x, sourced by a narrow Gaussian.

    Fluxes through faces by centred differences, Crank-Nicolson in time. Gives ln of the density at `position`
    integrated over y.
    """
    width = 6.0
    x = (np.arange(2 * cells) + 0.5) * width / (2 * cells) - width / 2
    z = (np.arange(cells) + 0.5) * 2 / cells - 1
    hx, hz = x[1] - x[0], z[1] - z[0]
    nx, nz = len(x), len(z)
    ring = sparse.diags([1.0, 1.0], [-1, nx - 1], (nx, nx)).tocsr()
    ring_up = ring.T
    second_x = (ring + ring_up - 2 * sparse.eye(nx)) / hx**2
    first_x = (ring_up - ring) / (2 * hx)
    # The density is odd about each plane.
    second_z = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], (nz, nz)).tolil()
    first_z = sparse.diags([-1.0, 1.0], [-1, 1], (nz, nz)).tolil()
    second_z[0, 0] = second_z[-1, -1] = -3.0
    first_z[0, 0], first_z[-1, -1] = 1.0, -1.0
    operator = (
        tensor[0, 0] * sparse.kron(second_x, sparse.eye(nz))
        + tensor[2, 2] * sparse.kron(sparse.eye(nx), second_z / hz**2)
        + 2 * tensor[0, 2] * sparse.kron(first_x, first_z / (2 * hz))
    ).tocsc()
    dt = time / steps
    one = sparse.eye(nx * nz, format="csc")
    solve, explicit = splu(one - dt / 2 * operator), one + dt / 2 * operator
    spot = 0.1**2
    start = np.exp(-((x - source[0])[:, None] ** 2 + (z - source[2]) ** 2) / (2 * spot)) / (2 * np.pi * spot)
    density = start.ravel()
    for _ in range(steps):
        density = solve.solve(explicit @ density)
    i, k = np.argmin(np.abs(x - position[0])), np.argmin(np.abs(z - position[2]))
    return density.reshape(nx, nz)[i, k], (x[i], z[k]), (x, z, start * hx * hz)


@pytest.mark.parametrize("tilt", [0.45, 0.0])
def test_tilted_tensor_between_planes_matches_finite_volumes(tilt):
    """Images reflected straight in z, forgetting the shear, are off by tens of per cent for this tilt."""
    tensor = np.array([[1.0, 0.0, tilt], [0.0, 0.7, 0.0], [tilt, 0.0, 0.5]])
    source, time = np.array([0.0, 0.0, 0.35]), 0.25
    for position in ([0.5, 0.0, 0.6], [-0.6, 0.0, -0.4]):
        expected, (x, z), (xs, zs, start) = finite_volume(tensor, source, position, time)
        # Ours from all cells of the Gaussian, and integrated over y, where it is a Gaussian of variance 2 K_yy t.
        seen = start > 1e-9 * start.max()
        where = np.stack(np.broadcast_arrays(xs[:, None], 0.0, zs), axis=-1)[seen]
        ours = np.exp(burst(np.array([x, 0.0, z]), where, time * YEAR, tensor, 1.0)) @ start[seen]
        ours *= np.sqrt(4 * np.pi * tensor[1, 1] * time)
        np.testing.assert_allclose(ours, expected, rtol=4e-3)


# Lasting emission


@pytest.mark.parametrize("distance", [1e-3, 0.1, 1.0, 5.0, 40.0])
def test_constant_emission_in_free_space_is_erfc(distance):
    age = 2.0
    source = np.array([0.6, 0.0, 0.8]) * distance
    expected = erfc(distance / np.sqrt(4 * 1.5 * age)) / (4 * np.pi * 1.5 * distance * age)
    if distance < 30:
        ours = continuous(SUN, source, age * YEAR, age * YEAR, 1.5)
        np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-9)
    # Ended: the difference of two; and unfinished: the number still to come counts.
    ended = erfc(distance / np.sqrt(4 * 1.5 * 0.5)) / (4 * np.pi * 1.5 * distance)
    ours = continuous(SUN, source, age * YEAR, 1.5 * YEAR, 1.5)
    if distance < 30:
        np.testing.assert_allclose(np.exp(ours), (expected * age - ended) / 1.5, rtol=1e-8)
    with mpmath.workdps(30):
        x = mpmath.mpf(distance) / mpmath.sqrt(4 * 1.5 * age)
        log_expected = float(mpmath.log(mpmath.erfc(x) / (4 * mpmath.pi * 1.5 * distance * 6.0)))
    unfinished = continuous(SUN, source, age * YEAR, 6 * YEAR, 1.5)
    np.testing.assert_allclose(unfinished, log_expected, rtol=1e-9, atol=1e-9)


def test_short_emission_is_a_burst():
    args = np.array([1.0, 2.0, 0.5]), np.array([0.0, 0.0, -0.3])
    long_ago = continuous(*args, 2 * YEAR, 1e-9 * YEAR, TILTED, 3.0)
    np.testing.assert_allclose(long_ago, burst(*args, 2 * YEAR, TILTED, 3.0), rtol=1e-9)
    np.testing.assert_allclose(continuous(*args, 2 * YEAR, 0.0, TILTED, 3.0), burst(*args, 2 * YEAR, TILTED, 3.0))


@pytest.mark.parametrize("offset", [(0.3, 0.2, 0.1), (0.01, 0.0, 0.0), (1.5, -2.0, 0.7)])
def test_long_emission_is_the_steady_series(offset):
    """(1 / 2 pi K H) sum of sin sin K_0(m pi rho / 2 H), the sum of 1 / (4 pi K r) over alternating images."""
    source, duration, m = np.array([0, 0, -0.25]), 1e4, np.arange(1, 3000) * np.pi / 2
    modes = np.sin(m * (offset[2] + 1)) * np.sin(m * 0.75) * k0(m * np.hypot(offset[0], offset[1]))
    ours = continuous(np.array(offset), source, duration * YEAR, duration * YEAR, 2.0, 1.0)
    np.testing.assert_allclose(np.exp(ours) * duration, np.sum(modes) / (4 * np.pi), rtol=1e-7)


def test_sheet_of_steady_sources_falls_linearly_to_the_planes():
    """The integral over time and over the plane is (H - |z|) / (2 K)."""
    radius, weight = np.polynomial.legendre.leggauss(80)
    radius, weight = 6 * (radius + 1), 6 * weight
    for z in (0.0, 0.25, 0.8):
        places = np.stack([radius, 0 * radius, 0 * radius], axis=-1)
        logs = continuous(np.array([0, 0, z]), places, 100 * YEAR, 100 * YEAR, 2.0, 1.0)
        np.testing.assert_allclose(weight @ (2 * np.pi * radius * np.exp(logs)) * 100, (1 - z) / 4, rtol=1e-6)


# All sources


def some_sources(number=37, lasting=False):
    rng = np.random.default_rng(2)
    places = rng.normal(size=(number, 3)) * [2.0, 2.0, 0.4]
    ages = rng.uniform(0.2, 5.0, number) * YEAR
    return make_sources(np.clip(places, -0.99, 0.99), ages, duration=0.5 * ages * (np.arange(number) % 2) * lasting)


@pytest.mark.parametrize("lasting", [False, True])
def test_sum_over_sources_is_the_weighted_mean(lasting):
    sources, weights = some_sources(lasting=lasting), np.linspace(0.5, 2.0, 37)
    position, step = np.array([0.2, -0.1, 0.3]), 1e-5

    def density(at):
        bursts = np.exp(burst(at, sources.position, sources.age, TILTED, 1.0))
        lasts = np.exp(continuous(at, sources.position, sources.age, sources.duration, TILTED, 1.0))
        return weights @ np.where(sources.duration > 0, lasts, bursts)

    mixture = total(sources, np.log(weights), TILTED, 1.0, position, chunk=8 * (64 if lasting else 1))
    np.testing.assert_allclose(np.exp(mixture.log_density), density(position), rtol=1e-12)
    slope = [(density(position + step * e) - density(position - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(mixture.gradient, slope / density(position), rtol=1e-7)
    each = jax.jit(propagation.log_density)(position, sources, TILTED, 1.0)
    np.testing.assert_allclose(weights @ np.exp(each), density(position), rtol=1e-12)


def test_mixtures_add():
    sources = some_sources()
    one = jnp.where(np.arange(37) < 10, 0.0, -jnp.inf)
    other = jnp.where(np.arange(37) < 10, -jnp.inf, 1.0)
    ours = jax.jit(add_mixtures)(*(total(sources, weights, 1.0) for weights in (one, other)))
    whole = total(sources, jnp.maximum(one, other), 1.0)
    np.testing.assert_allclose(ours.log_density, whole.log_density, rtol=1e-13)
    np.testing.assert_allclose(ours.gradient, whole.gradient, rtol=1e-12)


def test_sources_without_power_change_nothing_and_none_at_all_is_no_density():
    sources = some_sources()
    log_weights = jnp.where(np.arange(37) < 20, 0.0, -jnp.inf)
    few = np.exp(burst(SUN, sources.position, sources.age, TILTED, 1.0))[:20]

    def value(log_weights, diffusion):
        mixture = propagation.total_log_density_and_gradient(sources, log_weights, diffusion, 1.0, chunk=16)
        seen = jnp.isfinite(mixture.log_density)
        return jnp.where(seen, mixture.log_density, 0.0) + jnp.sum(mixture.gradient), mixture

    gradient = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
    (_, some), slopes = gradient(log_weights, TILTED)
    np.testing.assert_allclose(np.exp(some.log_density), np.sum(few), rtol=1e-13)
    assert all(np.all(np.isfinite(each)) for each in slopes)
    (_, nothing), slopes = gradient(jnp.full(37, -jnp.inf), TILTED)
    assert nothing.log_density == -np.inf and np.all(nothing.gradient == 0)
    assert all(np.all(each == 0) for each in slopes)


# Gradients


def scalar(position, source, age, duration, diffusion, index, halo_height, lasting=False, halo=True):
    """A number made of the density and the gradient of three sources at 10 TV."""
    sources = Sources(source, age, duration, jnp.ones(3), jnp.full(3, 2.2), jnp.full(3, jnp.inf))
    mixture = propagation.total_log_density_and_gradient(
        sources,
        jnp.array([0.0, 0.3, -0.2]),
        propagation.diffusion_coefficient(10.0, diffusion, index),
        halo_height if halo else None,
        position,
        continuous=lasting,
    )
    return mixture.log_density + mixture.gradient @ jnp.array([1.0, -2.0, 0.5])


slopes_of = jax.jit(jax.value_and_grad(scalar, argnums=tuple(range(7))), static_argnames=("lasting", "halo"))


lasts_too = pytest.param(True, marks=pytest.mark.slow)  # a minute of compilation


@pytest.mark.parametrize(
    ("lasting", "halo"), [(False, True), (False, False), pytest.param(True, True, marks=pytest.mark.slow)]
)
def test_gradients_match_finite_differences(lasting, halo):
    """With respect to position, places, ages, durations, K, index and H; early and late sources."""
    source = jnp.array([[0.5, 0.2, 0.3], [1.0, -0.4, -0.6], [-0.3, 0.8, 0.1]])
    age = jnp.array([0.1, 0.5, 3.0]) * YEAR
    args = (jnp.array([0.1, 0.0, 0.2]), source, age, 0.4 * age, 0.5, 1 / 3, 1.2)
    rng = np.random.default_rng(5)
    slopes = slopes_of(*args, lasting=lasting, halo=halo)[1]
    for i, (arg, slope) in enumerate(zip(args, slopes, strict=True)):
        direction = rng.uniform(0.5, 1.0, np.shape(arg))
        step = 1e-5 * np.mean(np.abs(arg))
        up, down = (
            slopes_of(*args[:i], arg + sign * step * direction, *args[i + 1 :], lasting=lasting, halo=halo)[0]
            for sign in (1, -1)
        )
        numeric = (up - down) / (2 * step)
        np.testing.assert_allclose(np.sum(slope * direction), numeric, rtol=1e-6, atol=1e-9)
    if not lasting and halo:
        forward = jax.jit(jax.jacfwd(scalar, argnums=(0, 4, 5, 6)))(*args)
        for i, each in zip((0, 4, 5, 6), forward, strict=True):
            np.testing.assert_allclose(each, slopes[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lasting", [False, lasts_too])
def test_no_gradient_is_nan_where_densities_are_extreme(lasting):
    """Source at the observer, ages of seconds, planes, nothing yet arrived, and both far out."""
    near = jnp.array([[0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [300.0, 0.0, 0.0]])
    edge = jnp.array([[0.0, 0.0, 3000.0], [0.0, 1.0, -3000.0], [10.0, 0.0, 3000 * (1 - 1e-12)]])
    ages = [jnp.array([1e-6, 1e-6, 1e-6]), jnp.array([1.0, 1e4, 1e10]), jnp.array([0.0, 1e-6, 1.0])]
    for source in (near, edge):
        for age in ages:
            for z in (0.0, 3000.0):
                for duration in (2 * age, 0 * age):
                    args = jnp.array([0, 0, z]), source, age, duration, 3.0, 1 / 3, 3000.0
                    value, slopes = slopes_of(*args, lasting=lasting, halo=True)
                    assert not np.isnan(value)
                    assert not any(np.any(np.isnan(each)) for each in slopes), (source, age, duration, z)


lasting_slopes = jax.jit(
    jax.value_and_grad(lambda *args: jnp.sum(propagation.continuous_log_density(*args)), argnums=tuple(range(6)))
)


def test_gradients_of_lasting_emission_match_finite_differences_and_are_never_nan():
    """The density itself, one source: early, late, ended and going on; then the extremes."""
    source, position = np.array([1.0, -0.4, -0.6]), np.array([0.1, 0.0, 0.2])
    for age, duration in [(0.1, 0.03), (3.0, 1.5), (0.5, 2.0)]:
        args = (position, source, age * YEAR, duration * YEAR, 0.5, 1.2)
        slopes = lasting_slopes(*args)[1]
        for i, (arg, slope) in enumerate(zip(args, slopes, strict=True)):
            direction = np.linspace(0.5, 1.0, np.size(arg)).reshape(np.shape(arg))
            step = 1e-5 * np.mean(np.abs(arg))
            up, down = (lasting_slopes(*args[:i], arg + sign * step * direction, *args[i + 1 :])[0] for sign in (1, -1))
            np.testing.assert_allclose(np.sum(slope * direction), (up - down) / (2 * step), rtol=1e-6, atol=1e-9)
    for place in ([0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [300.0, 0.0, 0.0], [0.0, 0.0, 3000.0], [0.0, 0.0, -2999.999999]):
        for age, duration in [(0.0, 0.0), (0.0, 1.0), (1e-6, 1e-6), (1e-6, 1e3), (1e10, 1e10), (1e10, 1.0)]:
            value, slopes = lasting_slopes(SUN, np.array(place), age, duration, 3.0, 3000.0)
            assert not np.isnan(value)
            assert not any(np.any(np.isnan(each)) for each in slopes), (place, age, duration)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": -1.0}, "an age must not be negative: it is -1; give years"),
        ({"diffusion": 0.0}, "a diffusion coefficient must be above zero"),
        ({"diffusion": np.nan}, "a diffusion coefficient must be finite"),
        ({"diffusion": np.diag([1.0, 1.0, 0.0])}, "must be positive definite.*kappa_perp = 0"),
        ({"halo_height": -1.0}, "a halo's height must be finite and above zero"),
        ({"halo_height": 0.5}, "a source must be inside the halo, at |z| up to 0.5 pc: it is 1"),
        ({"position": np.array([0, 0, 2.0]), "halo_height": 1.5}, "the observer must be inside the halo"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"position": SUN, "source": np.array([0, 0, 1.0]), "age": 1.0, "diffusion": 1.0, "halo_height": None}
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        propagation.burst_log_density(**(good | change))


def test_bad_durations_and_halos_are_refused():
    with pytest.raises(InputError, match="a duration must not be negative: entry 1 is -2; 0 is a burst"):
        propagation.continuous_log_density(SUN, np.ones((2, 3)), np.ones(2), np.array([1.0, -2.0]), 1.0)
    places = np.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, -7.0]])
    with pytest.raises(InputError, match="a source must be inside the halo.*entry 2 is -7"):
        propagation.total_log_density_and_gradient(make_sources(places, 1.0), np.zeros(3), 1.0, 5.0)
    with pytest.raises(InputError, match="height must be finite"):
        require_halo(1.0, np.inf)
    assert isinstance(total(some_sources(), np.zeros(37), 1.0), Mixture)


def test_the_short_program_sums_the_same():
    """Values and first derivatives, over places up to a hundredth of H from the planes and all times."""
    rng = np.random.default_rng(4)
    z, s = rng.uniform(-0.99, 0.99, (2, 500))
    t = 10 ** rng.uniform(-6, 3, 500)

    @jax.jit
    def both(z, s, t):
        out = []
        for function in (slab.log_slab_density, slab.short_log_slab_density):
            out.append(jax.vmap(jax.value_and_grad(lambda *x, f=function: f(*x), (0, 1, 2)))(z, s, t))
        return out

    (value, slopes), (short, short_slopes) = both(z, s, t)
    np.testing.assert_allclose(short, value, rtol=1e-12, atol=1e-12)
    for one, other in zip(short_slopes, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_steps_of_old_sources_alone_leave_nothing_out():
    """Sources in any order, some steps with young ones and some without, against one step with all."""
    rng = np.random.default_rng(5)
    number = 400
    place = np.stack([*rng.uniform(-3e3, 3e3, (2, number)), rng.uniform(-500, 500, number)], axis=-1)
    age = np.sort(10 ** rng.uniform(4, 8, number))
    sources = make_sources(place, age)
    run = jax.jit(
        lambda s, chunk: propagation.total_log_density_and_gradient(
            s, jnp.zeros(number), 10.0, 3000.0, chunk=chunk, continuous=False
        ),
        static_argnums=1,
    )
    whole = run(sources, number)
    for each in (run(sources, 50), run(make_sources(place[::-1], age[::-1]), 50)):
        np.testing.assert_allclose(each.log_density, whole.log_density, rtol=1e-12)
        np.testing.assert_allclose(each.gradient, whole.gradient, rtol=1e-11, atol=1e-18)
