"""Pitch-angle diffusion in time against closed forms, another discretisation, and particles that walk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads
from scipy import special

from diffcr import pitch_angle
from diffcr.errors import InputError
from diffcr.pitch_angle import family, isotropic, legendre_moments, parallel_diffusion, quasi_linear
from diffcr.pitch_angle_relaxation import (
    cell_modes,
    cell_multipoles,
    graded_faces,
    legendre_modes,
    rate_matrix,
    relaxation,
    relaxed,
    response,
    running_diffusion,
    time_matrix,
    velocity_correlation,
)

MODELS = {
    "isotropic": family("isotropic", rate=2.0),
    "quasi-linear": family("quasi-linear"),
    "regularised": family("quasi-linear", floor=0.1),
    "broadened": family("broadened", width=0.3),
    "across": family("enhanced", strength=20.0),
    "along": family("enhanced", strength=20.0, centre=1.0),
    "uneven": lambda mu: (1 - mu**2) * (1 + 0.5 * mu),
}
each_model = pytest.mark.parametrize("name", MODELS)
FACES = graded_faces(120)


@functools.cache
def cells_of(name):
    return cell_modes(MODELS[name], FACES)


@functools.cache
def polynomials_of(name):
    return legendre_modes(MODELS[name], 60)


def legendre_at(values):
    """Coefficients of P_l from means over the cells, to the second order of their widths."""
    return (np.arange(6) + 0.5) * (np.asarray(values) @ cell_multipoles(FACES, 5).T)


def quasi_linear_rates(index, size=60):
    """Lambda_k of D = (1 - mu^2) |mu|^(q-1) by a Galerkin method in y, mu = y^(1/s), where eigenfunctions are analytic.

    -d_y(s (1 - |y|^(2/s)) d_y f) = Lambda |y|^(1/s - 1) f / s, with s = 2 - q, 1 / s odd.
    """
    s, series = 2 - index, np.polynomial.legendre
    y, weight = special.roots_legendre(200)
    value = series.legvander(y, size)
    slope = np.stack([series.legval(y, series.legder(row)) for row in np.eye(size + 1)[:, :]], axis=1)
    stiff = slope.T @ ((weight * s * (1 - abs(y) ** (2 / s)))[:, None] * slope)
    mass = value.T @ ((weight * abs(y) ** (1 / s - 1) / s)[:, None] * value)
    return scipy.linalg.eigh(stiff, mass, eigvals_only=True)


# Eigenvalues --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes_of", [cells_of, polynomials_of])
def test_isotropic_scattering_has_the_rates_of_multipoles(modes_of):
    """Lambda_k = nu k (k + 1) / 2 with nu = 2, and Legendre polynomials, normalised."""
    modes, k = modes_of("isotropic"), np.arange(8)
    np.testing.assert_allclose(modes.rates[:8], k * (k + 1), rtol=4e-3)
    assert float(modes.rates[0]) == 0
    gram = modes.functions * modes.weights @ modes.functions.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-10)
    assert float(modes.functions[1] @ (modes.weights * modes.cosine)) ** 2 == pytest.approx(2 / 3, rel=1e-3)


def test_three_dimensional_walks_have_the_rates_of_isotropic_scattering():
    """Unit vectors turn by small angles at random, <angle^2> = 2 nu dt: <P_l> falls as exp(-nu l (l + 1) t / 2)."""
    rng = np.random.default_rng(5)
    n, rate, step, steps = np.tile([0.6, 0.0, 0.8], (20_000, 1)), 2.0, 2e-3, 100
    for _ in range(steps):
        kick = rng.standard_normal(n.shape) * np.sqrt(rate * step)
        kick -= np.sum(kick * n, axis=1, keepdims=True) * n
        n = n + kick
        n /= np.linalg.norm(n, axis=1, keepdims=True)
    beam = (np.arange(61) + 0.5) * special.eval_legendre(np.arange(61), 0.8)
    found = relaxed(polynomials_of("isotropic"), beam, step * steps)
    for l in (1, 2, 3, 4):
        mean = special.eval_legendre(l, n[:, 2])
        assert float(found[l] * 2 / (2 * l + 1)) == pytest.approx(mean.mean(), abs=5 * mean.std() / 141 + 3e-3)


@pytest.mark.parametrize("index", [5 / 3, 1.8])
def test_quasi_linear_rates_are_those_of_an_analytic_basis(index):
    """Finite volumes converge at second order on graded cells, at an order of about 4/3 on equal ones."""
    expected = quasi_linear_rates(index)[1:6]
    np.testing.assert_allclose(expected, quasi_linear_rates(index, 50)[1:6], rtol=1e-9)
    scattering = functools.partial(quasi_linear, index=index)
    faces = (graded_faces(60), FACES)
    errors = [np.asarray(cell_modes(scattering, each).rates)[1:6] / expected - 1 for each in faces]
    assert np.all(np.abs(errors[1]) < 1e-3)
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.15)


def test_equal_cells_are_slower_for_quasi_linear_scattering():
    expected = quasi_linear_rates(5 / 3)[1]
    errors = [float(cell_modes(MODELS["quasi-linear"], graded_faces(n, 1)).rates[1]) / expected - 1 for n in (60, 120)]
    assert np.log(errors[0] / errors[1]) / np.log(2) == pytest.approx(4 / 3, abs=0.15)


def test_truncated_matrices_bound_quasi_linear_rates_from_above():
    expected = quasi_linear_rates(5 / 3)[1:6]
    for l_max in (20, 60):
        inverse = np.asarray(legendre_modes(MODELS["quasi-linear"], l_max).rates)[1:6]
        direct = np.linalg.eigvalsh(np.asarray(rate_matrix(MODELS["quasi-linear"], l_max)))[:5]
        assert np.all(expected < inverse)
        assert np.all(inverse < direct)
    np.testing.assert_allclose(inverse[0], expected[0], rtol=1e-3)


@pytest.mark.parametrize("name", ["isotropic", "broadened", "across", "along", "uneven"])
def test_the_two_matrices_are_inverse_where_d_is_smooth(name):
    """They share no integral: one has D, the other 1 / D."""
    product = np.asarray(rate_matrix(MODELS[name], 60) @ time_matrix(MODELS[name], 60))
    np.testing.assert_allclose(product[:6, :6], np.eye(6), atol=1e-5)
    direct = np.linalg.eigvalsh(np.asarray(rate_matrix(MODELS[name], 60)))[:5]
    np.testing.assert_allclose(direct, polynomials_of(name).rates[1:6], rtol=1e-6)


def test_matrices_of_polynomial_scattering_are_in_closed_form():
    """D = (1 - mu^2)(1 + a mu) couples l and l + 1 only: int D P_1' P_2' = 3 a int mu^2 (1 - mu^2) = 4 a / 5."""
    found = np.asarray(rate_matrix(MODELS["uneven"], 5))
    assert found[0, 1] == pytest.approx(np.sqrt(1.5 * 2.5) * 0.5 * 4 / 5, rel=1e-12)
    np.testing.assert_allclose(np.diag(found), np.arange(1, 6) * np.arange(2, 7), rtol=1e-12)
    np.testing.assert_allclose(found[np.triu_indices(5, 2)], 0, atol=1e-12)
    isotropic_times = np.asarray(time_matrix(MODELS["isotropic"], 6))
    l = np.arange(1, 7)
    np.testing.assert_allclose(isotropic_times, np.diag(1 / (l * (l + 1))), atol=1e-13)


# Relaxation ---------------------------------------------------------------------------------------------------


@each_model
def test_cells_and_polynomials_relax_alike(name):
    """From f = exp(mu), whose Legendre coefficients are (2l + 1) times modified spherical Bessel functions of 1."""
    polynomials = polynomials_of(name)
    l = np.arange(61)
    times = np.array([0.0, 0.05, 0.3, 2.0])
    expected = relaxed(polynomials, (2 * l + 1) * special.spherical_in(l, 1.0), times)
    width = np.diff(FACES)
    found = relaxed(cells_of(name), np.diff(np.exp(FACES)) / width, times)
    np.testing.assert_allclose(legendre_at(found), expected[:, :6], atol=2e-3)
    np.testing.assert_allclose(np.asarray(found) @ width, np.exp(1) - np.exp(-1), rtol=1e-10)


@each_model
def test_everything_ends_isotropic_with_every_particle(name):
    modes = cells_of(name)
    initial = np.zeros(120)
    initial[100] = 1 / (FACES[101] - FACES[100])
    found = np.asarray(relaxed(modes, initial, np.array([0.0, 1e-6, 0.1, 1.0, 1e9, np.inf])))
    np.testing.assert_allclose(found @ np.diff(FACES), 1, rtol=1e-9)
    np.testing.assert_allclose(found[0], initial, atol=1e-8 * initial.max())
    np.testing.assert_allclose(found[-2:], 0.5, rtol=1e-9)
    assert found.min() > -1e-8 * initial.max()
    entropy = [np.diff(FACES) @ (f**2) for f in found]
    assert np.all(np.diff(entropy) <= 1e-9)


def test_isotropic_scattering_relaxes_each_multipole_at_its_rate():
    """P_l decays as exp(-nu l (l + 1) t / 2); equal cells by default."""
    cells = 120
    relax = jax.jit(lambda f, t: relaxation(f, MODELS["isotropic"], t))
    edges = np.linspace(-1, 1, cells + 1)
    for l in (1, 2, 5):
        initial = cell_multipoles(edges, 5)[l] / np.diff(edges)
        times = np.array([0.0, 0.1, 0.5])
        expected = np.exp(-l * (l + 1) * times)[:, None] * initial
        np.testing.assert_allclose(relax(initial, times), expected, atol=1e-3)


# A gradient switched on ---------------------------------------------------------------------------------------


def test_isotropic_diffusion_runs_up_in_closed_form():
    """kappa(t) = v^2 (1 - exp(-nu t)) / (3 nu), <mu(0) mu(t)> = exp(-nu t) / 3, g = 2 mu (1 - exp(-nu t)) / nu."""
    times = np.array([0.0, 1e-9, 0.1, 1.0, 10.0, np.inf])
    modes = polynomials_of("isotropic")
    part = -np.expm1(-2.0 * times) / 2.0
    np.testing.assert_allclose(running_diffusion(modes, times, 3.0), 3.0**2 * part / 3, rtol=1e-12)
    np.testing.assert_allclose(velocity_correlation(modes, times), np.exp(-2.0 * times) / 3, atol=1e-14)
    expected = np.zeros((6, 61))
    expected[:, 1] = 2 * part
    np.testing.assert_allclose(response(modes, times), expected, atol=1e-13)
    cells = cells_of("isotropic")
    np.testing.assert_allclose(running_diffusion(cells, times, 3.0), 3.0**2 * part / 3, rtol=5e-4)


@each_model
def test_the_integral_of_the_velocity_correlation_is_the_diffusion(name):
    """Taylor, Green and Kubo: to quadrature in time, and to rounding in the limit."""
    modes = polynomials_of(name)
    kappa = float(parallel_diffusion(MODELS[name]))
    assert float(running_diffusion(modes, np.inf)) == pytest.approx(kappa, rel=1e-12)
    assert float(running_diffusion(cells_of(name), np.inf)) == pytest.approx(kappa, rel=5e-4)
    slow = 1 / float(modes.rates[1])
    edge = slow * np.append(0, np.geomspace(1e-4, 40, 60))
    node, weight = special.roots_legendre(8)
    t = (edge[1:] + edge[:-1])[:, None] / 2 + np.diff(edge)[:, None] / 2 * node
    correlation = np.asarray(velocity_correlation(modes, t))
    assert np.sum(np.diff(edge)[:, None] / 2 * weight * correlation) == pytest.approx(kappa, rel=1e-7)
    assert correlation[0, 0] == pytest.approx(1 / 3, rel=1e-2)


@each_model
def test_the_dipole_is_that_of_the_running_diffusion_at_any_time(name):
    """3 <mu f_1> = -3 kappa(t) d_z f_0 / v with f_1 = -(v / 2) g d_z f_0: <mu g> = 2 kappa(t) / v^2."""
    times = np.array([1e-3, 0.1, 0.7, 5.0])
    for modes in (polynomials_of(name), cells_of(name)):
        g = np.asarray(response(modes, times))
        mean = g @ np.asarray(modes.weights * modes.cosine) / 2
        np.testing.assert_allclose(mean, 2 * running_diffusion(modes, times), rtol=1e-10)
        np.testing.assert_allclose(g @ np.asarray(modes.weights * modes.functions[0]), 0, atol=1e-10)


@each_model
def test_the_response_begins_as_free_streaming_and_ends_as_the_stationary_profile(name):
    modes = cells_of(name)
    early = np.asarray(response(modes, 1e-7))
    np.testing.assert_allclose(early, 2e-7 * np.asarray(modes.cosine), atol=2e-7 * 2e-3)
    late = np.asarray(response(modes, np.inf))
    profile = np.asarray(pitch_angle.profile(np.asarray(modes.cosine), MODELS[name]))
    late = late - np.interp(0.0, modes.cosine, late)
    # The value of the profile at 1, by its slope from the middle of the last cell on.
    np.testing.assert_allclose(late / late[-1], profile / profile[-1], atol=5e-3)
    l = np.arange(1, 61)
    found = response(polynomials_of(name), np.inf)[1:]
    np.testing.assert_allclose(found, (2 * l + 1) / 2 * np.asarray(legendre_moments(MODELS[name], 60)), atol=1e-12)


@each_model
def test_cells_and_polynomials_respond_alike(name):
    times = np.array([0.01, 0.1, 1.0])
    found = legendre_at(response(cells_of(name), times))
    expected = response(polynomials_of(name), times)
    np.testing.assert_allclose(found, expected[:, :6], atol=3e-3 * float(np.max(expected)))


def test_the_response_solves_its_equation():
    """d_t g = 2 mu + d_mu(D d_mu g) in Legendre coefficients, with `rate_matrix` the operator, by differences in t."""
    name, t, step = "broadened", 0.3, 1e-4
    g = np.asarray(response(polynomials_of(name), np.array([t - step, t, t + step])))
    scale = np.sqrt(np.arange(1, 61) + 0.5)
    decay = scale * (np.asarray(rate_matrix(MODELS[name], 60)) @ (g[1, 1:] / scale))
    rate = (g[2, 1:] - g[0, 1:]) / (2 * step)
    source = np.zeros(60)
    source[0] = 2
    np.testing.assert_allclose(rate[:9], (source - decay)[:9], atol=1e-5)


# Particles ----------------------------------------------------------------------------------------------------


def walk(scattering, mu, step, steps):
    """Ito's d mu = D' dt + sqrt(2 D) dW, reflected at +-1, and z of dz = mu dt."""
    grid = np.linspace(-1, 1, 20001)
    table = np.asarray(scattering(jnp.asarray(grid)))
    drift, kick = np.gradient(table, grid) * step, np.sqrt(2 * table * step)
    rng, z = np.random.default_rng(3), np.zeros(mu.size)
    for _ in range(steps):
        at = np.rint((mu + 1) * 10000).astype(int)
        z += step / 2 * mu
        mu = mu + drift[at] + kick[at] * rng.standard_normal(mu.size, np.float32)
        mu = np.where(mu > 1, 2 - mu, np.where(mu < -1, -2 - mu, mu))
        z += step / 2 * mu
    return mu, z


def walk_on_its_scale(mu, time, step=5e-4):
    """The same for D = (1 - mu^2) |mu|^(2/3), where steps in t are never small enough near mu = 0.

    y = mu^(1/3) does d y = -6 y^5 ds + sqrt(2 (1 - y^6)) dW(s), regular everywhere, on its own clock dt = 9 y^2 ds.
    """
    rng, y = np.random.default_rng(4), np.cbrt(mu)
    clock, z, going = np.zeros(mu.size), np.zeros(mu.size), np.arange(mu.size)
    while going.size:
        before = y[going]
        now = before - 6 * before**5 * step
        now = now + np.sqrt(2 * (1 - before**6) * step) * rng.standard_normal(going.size)
        now = np.where(now > 1, 2 - now, np.where(now < -1, -2 - now, now))
        past = 9 * step * (before**2 + before * now + now**2) / 3
        z[going] += past * (before**3 + now**3) / 2
        clock[going] += past
        y[going] = now
        going = going[clock[going] < time]
    # Back to the end of the time, at the last mu.
    return y**3, z - (clock - time) * y**3


@pytest.mark.parametrize(("name", "delay"), [("quasi-linear", 0.9), ("uneven", 0.75)])
def test_particles_that_walk_do_what_the_modes_say(name, delay):
    """The f of a beam at mu = 0.5; <mu(0) mu(t)> and <z^2> = 2 int kappa dt of particles of all directions.

    To 5 standard errors and 3e-3 for the finite step.
    """
    scattering, time = MODELS[name], 0.6
    start = np.concatenate([np.full(10_000, 0.5), np.linspace(-1, 1, 10_000)])
    mu, z = walk_on_its_scale(start, time) if name == "quasi-linear" else walk(scattering, start, 1e-3, 600)

    def agree(values, expected):
        assert values.mean() == pytest.approx(expected, abs=5 * values.std() / values.size**0.5 + 3e-3)

    beam = np.zeros(120)
    place = np.searchsorted(FACES, 0.5) - 1
    assert FACES[place] < 0.5 < FACES[place + 1]
    beam[place] = 1 / (FACES[place + 1] - FACES[place])
    found = np.asarray(relaxation(beam, scattering, time, FACES))
    moments = cell_multipoles(FACES, 3) @ found
    for l in (1, 2, 3):
        agree(special.eval_legendre(l, mu[:10_000]), moments[l])
    agree((mu[:10_000] < 0).astype(float), found[:60] @ np.diff(FACES)[:60])

    modes = polynomials_of(name)
    agree((start * mu)[10_000:], float(velocity_correlation(modes, time)))
    node, weight = special.roots_legendre(30)
    spread = time * weight @ np.asarray(running_diffusion(modes, time / 2 * (node + 1)))
    agree(z[10_000:] ** 2, spread)
    # Far from free streaming, and from the diffusion of late times.
    assert spread < delay * time**2 / 3
    assert spread < delay * 2 * time * float(parallel_diffusion(scattering))


# Helpers and boundaries ---------------------------------------------------------------------------------------


def test_cells_crowd_where_scattering_may_vanish():
    np.testing.assert_allclose(graded_faces(4, 2), [-1, -0.25, 0, 0.25, 1])
    np.testing.assert_allclose(graded_faces(4, 1), [-1, -0.5, 0, 0.5, 1])


def test_multipoles_of_cells_are_exact():
    faces = np.array([-1.0, -0.3, 0.1, 1.0])
    node, weight = special.roots_legendre(20)
    found = cell_multipoles(faces, 6)
    for cell, (low, high) in enumerate(zip(faces[:-1], faces[1:], strict=True)):
        x = (high + low) / 2 + (high - low) / 2 * node
        for l in range(7):
            integral = (high - low) / 2 * weight @ special.eval_legendre(l, x)
            assert found[l, cell] == pytest.approx(integral, abs=1e-14)


@pytest.mark.parametrize(("name", "expected"), [("isotropic", 2.0), ("quasi-linear", quasi_linear_rates(5 / 3)[1])])
def test_any_cells_will_do_also_one_across_zero(name, expected):
    faces = np.array([-1, -0.8, -0.55, -0.3, -0.1, 0.15, 0.33, 0.5, 0.77, 1.0])
    rates = jax.jit(lambda: cell_modes(MODELS[name], faces).rates)()
    assert float(rates[1]) == pytest.approx(expected, rel=0.03)


def test_gradients_are_right():
    faces, initial = graded_faces(10), jnp.linspace(0, 1, 10)

    def relaxed_cells(index, time):
        return relaxation(initial, functools.partial(quasi_linear, index=index, floor=0.1), time, faces)

    check_grads(jax.jit(relaxed_cells), (1.6, 0.2), order=1, modes=["rev"], rtol=1e-4)

    def coefficients(index, time):
        modes = legendre_modes(functools.partial(quasi_linear, index=index), 6)
        return response(modes, time), running_diffusion(modes, time), velocity_correlation(modes, time)

    check_grads(jax.jit(coefficients), (1.6, 0.2), order=1, modes=["rev"], rtol=1e-4)


def test_gradients_stand_hemispheres_that_hardly_know_of_each_other():
    """With almost no scattering across mu = 0 the fast modes of either side have equal rates to rounding."""
    initial = jnp.linspace(0, 1, 120)

    @jax.jit
    def relaxed_cells(floor):
        scattering = functools.partial(quasi_linear, index=2.5, floor=floor)
        modes = cell_modes(scattering, FACES)
        return relaxed(modes, initial, 0.3)[::20], jnp.min(jnp.diff(modes.rates) / modes.rates[1:])

    assert float(relaxed_cells(1e-3)[1]) < 1e-12
    check_grads(lambda floor: relaxed_cells(floor)[0], (1e-3,), order=1, modes=["rev"], rtol=1e-4, eps=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graded_faces(5), "an even number of at least 4, not 5"),
        (lambda: graded_faces(2), "at least 4, not 2"),
        (lambda: graded_faces(True), "at least 4, not True"),
        (lambda: graded_faces(10, 0.5), "from 1 .equal. to 3, not 0.5"),
        (lambda: cell_modes(isotropic, np.array([-1.0, 0.5])), "must ascend from -1 to 1"),
        (lambda: cell_modes(isotropic, np.array([-1.0, 0.5, 0.4, 1.0])), "must ascend from -1 to 1"),
        (lambda: cell_multipoles(np.array([0.0, 0.5, 1.0]), 3), "see graded_faces"),
        (lambda: legendre_modes(isotropic, 0), "whole number from 1 to 75, not 0"),
        (lambda: rate_matrix(isotropic, 76), "not 76"),
        (lambda: time_matrix(isotropic, True), "not True"),
        (lambda: relaxation(np.ones(4), isotropic, -0.5), "must not be negative, not -0.5"),
        (lambda: response(legendre_modes(isotropic, 3), np.array([1.0, np.nan])), "must not be negative, not nan"),
        (lambda: relaxed(legendre_modes(isotropic, 3), np.ones(3), 1.0), r"shape of the modes, \(4,\), not \(3,\)"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
