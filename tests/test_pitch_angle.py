"""diffcr.pitch_angle against closed forms, scipy, and the dipole identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads
from scipy import special

from diffcr import pitch_angle
from diffcr.errors import InputError
from diffcr.harmonics import coefficients_to_dipole, power_spectrum
from diffcr.pitch_angle import broadened, enhanced, isotropic, quasi_linear, require_scattering


def qlt(index, floor=0.0):
    return functools.partial(quasi_linear, index=index, floor=floor)


def moments(scattering, l_max):
    return np.asarray(jax.jit(lambda: pitch_angle.legendre_moments(scattering, l_max))())


MODELS = {
    "isotropic": isotropic,
    "quasi-linear": qlt(5 / 3),
    "regularised": qlt(5 / 3, 0.1),
    "broadened": broadened,
    "across": functools.partial(enhanced, strength=20.0),
    "along": functools.partial(enhanced, strength=20.0, centre=1.0),
    "uneven": lambda mu: (1 - mu**2) * (1 + 0.5 * mu),
}
each_model = pytest.mark.parametrize("scattering", MODELS.values(), ids=MODELS)


def test_isotropic_scattering_has_the_diffusion_of_relaxation_in_time():
    """kappa = v^2 / (3 nu), as BGK has it; the anisotropy is a pure dipole."""
    kappa = pitch_angle.parallel_diffusion(functools.partial(isotropic, rate=2.5), 3.0)
    assert float(kappa) == pytest.approx(3.0**2 / (3 * 2.5), rel=1e-12)
    found = moments(isotropic, 6)
    np.testing.assert_allclose(found, [4 / 3, 0, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize(("index", "expected"), [(5 / 3, 9 / 14), (1.5, 0.4), (1.9, 2.380952380952381), (1.0, 1 / 6)])
def test_quasi_linear_diffusion_is_its_closed_form(index, expected):
    """kappa = v^2 / (2 D_0 (2 - q) (4 - q))."""
    assert expected == pytest.approx(1 / (2 * (2 - index) * (4 - index)))
    assert float(pitch_angle.parallel_diffusion(qlt(index))) == pytest.approx(expected, rel=1e-9)


def test_quasi_linear_moments_are_those_of_a_power():
    """int_0^1 mu^s P_l = sqrt(pi) 2^(-s-1) Gamma(1 + s) / (Gamma(1 + (s - l) / 2) Gamma((l + s + 3) / 2)), odd l."""
    s = 1 / 3
    found = moments(qlt(5 / 3), 7)
    l = np.array([1, 3, 5, 7])
    expected = special.gamma(1 + s) * np.sqrt(np.pi) * 2 ** (-s - 1)
    expected = expected / special.gamma(1 + (s - l) / 2) / special.gamma((l + s + 3) / 2)
    np.testing.assert_allclose(found[l - 1] / found[0], expected / expected[0], rtol=1e-9)
    np.testing.assert_allclose((found[[2, 4]] / found[0]) ** 2, [0.0236686, 0.00419610], rtol=1e-5)
    np.testing.assert_allclose(found[1::2], 0, atol=1e-12)


def test_regularised_quasi_linear_theory_has_its_printed_numbers():
    scattering = qlt(5 / 3, 0.1)
    assert 3 * float(pitch_angle.parallel_diffusion(scattering)) == pytest.approx(1.0677007, abs=1e-7)
    end = scipy.integrate.quad(lambda mu: 1 / (mu ** (2 / 3) + 0.1), 0, 1, epsabs=1e-12)[0]
    assert 0.5 * end == pytest.approx(0.9001859, abs=1e-7)
    found = moments(scattering, 3)
    # (1 - mu^2)^2 P_l' / (l (l + 1)) is what scipy integrates here; printed as -0.2349.
    parts = [
        scipy.integrate.quad(lambda mu, a, b: (1 - mu**2) * (a + b * mu**2) / (mu ** (2 / 3) + 0.1), 0, 1, ab)[0]
        for ab in ((1 / 2, 0), (-3 / 24, 15 / 24))
    ]
    assert found[2] / found[0] == pytest.approx(parts[1] / parts[0], rel=1e-9)
    assert 7 / 3 * found[2] / found[0] == pytest.approx(-0.2349, rel=3e-3)


@each_model
def test_the_profile_is_its_integral(scattering):
    mu = np.array([-1.0, -0.6, -1e-3, 0.0, 1e-6, 0.2, 0.99, 1.0])

    def ratio(x):
        return float((1 - x * x) / scattering(jnp.asarray(x)))

    def integral(end):
        pieces = np.unique(np.concatenate([end * np.geomspace(1e-12, 1 - 1e-9, 25), [0.0]]))
        total = sum(scipy.integrate.quad(ratio, a, b)[0] for a, b in zip(pieces[:-1], pieces[1:], strict=True))
        return np.sign(end) * total

    expected = np.array([integral(x) if x else 0.0 for x in mu]) / integral(1.0)
    np.testing.assert_allclose(pitch_angle.profile(mu, scattering), expected, atol=3e-5)
    assert np.all(np.diff(pitch_angle.profile(np.linspace(-1, 1, 201), scattering)) > 0)


@each_model
def test_moments_are_those_of_the_profile(scattering):
    mu, weight = special.roots_legendre(1000)
    g = np.asarray(pitch_angle.profile(mu, scattering))
    found = moments(scattering, 5)
    expected = np.array([(weight * g) @ special.eval_legendre(l, mu) for l in range(1, 6)])
    np.testing.assert_allclose(found / found[0], expected / expected[0], atol=3e-5)


@each_model
def test_the_dipole_is_that_of_diffusion(scattering):
    """delta = 3 kappa_par grad n / (v n) along B, towards more particles; l = 1 of a sky that has all l, m."""
    field = np.array([0.48, -0.6, 0.64])
    kappa = float(pitch_angle.parallel_diffusion(scattering, 2.0))
    for gradient in (1e-3, -4e-4):
        sky = pitch_angle.sky_coefficients(scattering, field, gradient, 3, 2.0)
        expected = 3 * kappa * gradient / 2.0 * field
        np.testing.assert_allclose(coefficients_to_dipole(sky), expected, rtol=1e-9)


def test_the_sky_is_the_profile_seen_from_where_particles_come():
    """delta I(n) = f_1(mu = -n . B): for an uneven D the even multipoles change sign between momentum and sky."""
    from diffcr.harmonics import evaluate_at

    scattering = MODELS["uneven"]
    field, l_max = np.array([0.0, 0.6, 0.8]), 40
    sky = pitch_angle.sky_coefficients(scattering, field, 1e-3, l_max, 1.5)
    cosines = np.linspace(-0.95, 0.95, 7)
    across = np.array([1.0, 0.0, 0.0])
    mu, weight = special.roots_legendre(300)
    end = scipy.integrate.quad(lambda x: 1 / (1 + 0.5 * x), 0, 1)[0]

    def f1(x):
        return -1.5 / 2 * 1e-3 * end * np.asarray(pitch_angle.profile(x, scattering))

    mean = weight @ f1(mu) / 2
    for c in cosines:
        n = c * field + np.sqrt(1 - c * c) * across
        assert float(evaluate_at(sky, n)) == pytest.approx(float(f1(-c)) - mean, abs=2e-6)


def test_power_is_the_square_of_the_moments():
    scattering = qlt(5 / 3)
    power = np.asarray(power_spectrum(pitch_angle.sky_coefficients(scattering, np.array([0.6, 0, 0.8]), 1.0, 5)))
    assert power[3] / power[1] == pytest.approx(0.0236686, rel=1e-5)
    assert power[5] / power[1] == pytest.approx(0.00419610, rel=1e-5)


def test_isotropic_scattering_relaxes_each_multipole_at_its_rate():
    """P_l decays as exp(-nu l (l + 1) t / 2)."""
    cells = 120
    relaxation = jax.jit(lambda f, t: pitch_angle.relaxation(f, functools.partial(isotropic, rate=2.0), t))
    edges = np.linspace(-1, 1, cells + 1)
    for l in (1, 2, 5):
        antiderivative = (special.eval_legendre(l + 1, edges) - special.eval_legendre(l - 1, edges)) / (2 * l + 1)
        initial = np.diff(antiderivative) / np.diff(edges)
        times = np.array([0.0, 0.1, 0.5])
        found = relaxation(initial, times)
        expected = np.exp(-l * (l + 1) * times)[:, None] * initial
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("scattering", [qlt(5 / 3), MODELS["uneven"]], ids=["quasi-linear", "uneven"])
def test_relaxation_agrees_with_many_small_steps_and_keeps_every_particle(scattering):
    """Against a Monte Carlo of the Ito equation d mu = D' dt + sqrt(2 D) dW, from all particles at mu = 0.5."""
    rng = np.random.default_rng(3)
    mu, step, steps = np.full(20_000, 0.5), 2e-4, 1000
    grid = np.linspace(-1, 1, 20001)
    table = np.asarray(scattering(jnp.asarray(grid)))
    slope = np.gradient(table, grid)
    for _ in range(steps):
        place = (mu + 1) * 10000
        noise = np.sqrt(2 * np.interp(place, np.arange(20001), table) * step) * rng.standard_normal(mu.size)
        mu = mu + np.interp(place, np.arange(20001), slope) * step + noise
        mu = np.where(mu > 1, 2 - mu, np.where(mu < -1, -2 - mu, mu))
    cells = 80
    initial = np.zeros(cells)
    initial[[59, 60]] = cells / 4
    found = np.asarray(pitch_angle.relaxation(initial, scattering, step * steps))
    assert found.sum() * 2 / cells == pytest.approx(1, abs=1e-12)
    centre = (np.arange(cells) + 0.5) * 2 / cells - 1
    for function in (lambda x: x, lambda x: x**2, lambda x: x < 0):
        expected, spread = function(mu).mean(), function(mu).std() / 140
        assert (found * 2 / cells) @ function(centre) == pytest.approx(expected, abs=5 * spread + 5e-3)


def test_relaxation_converges_as_the_square_of_the_cells():
    scattering = functools.partial(broadened, width=0.5)

    def mean(cells):
        edges = np.linspace(-1, 1, cells + 1)
        initial = np.diff(np.sin(2 * edges)) / np.diff(edges)
        found = np.asarray(pitch_angle.relaxation(initial, scattering, 0.3))
        return found @ (edges[1:] ** 3 - edges[:-1] ** 3) / 3

    fine = mean(160)
    errors = [abs(mean(cells) - fine) for cells in (10, 20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_gradients_are_right():
    def kappa(index, floor):
        return pitch_angle.parallel_diffusion(qlt(index, floor))

    check_grads(jax.jit(kappa), (1.6, 0.05), order=1, modes=["rev"], rtol=1e-4)

    def power(width, direction):
        field = direction / jnp.linalg.norm(direction)
        sky = pitch_angle.sky_coefficients(functools.partial(broadened, width=width), field, 1.0, 3)
        return sky @ jnp.arange(16.0)

    check_grads(jax.jit(power), (0.3, jnp.array([0.3, 0.5, 0.7])), order=1, modes=["rev"], rtol=1e-4)
    mu = jnp.array([-0.7, 0.3])
    check_grads(jax.jit(lambda q: pitch_angle.profile(mu, qlt(q))), (1.5,), order=1, modes=["rev"], rtol=1e-4)
    initial = jnp.linspace(0, 1, 10)
    relaxed = jax.jit(lambda w: pitch_angle.relaxation(initial, functools.partial(broadened, width=w), 0.2))
    check_grads(relaxed, (0.3,), order=1, modes=["rev"], rtol=1e-4)


@pytest.mark.parametrize(
    ("scattering", "message"),
    [
        (qlt(2.0), r"falls as \|mu\|\^1.00 towards mu = 0, where kappa_par diverges"),
        (qlt(2.5), "q >= 2"),
        (lambda mu: (1 - mu**2) * (mu - 0.2), "must be positive inside"),
        (lambda mu: 0 * mu, "not 0 at mu"),
        (lambda mu: jnp.nan * mu, "must be positive"),
    ],
)
def test_scattering_that_lets_kappa_diverge_is_refused(scattering, message):
    with pytest.raises(InputError, match=message):
        require_scattering(scattering)


def test_good_scattering_passes_and_tracing_is_no_obstacle():
    for scattering in MODELS.values():
        assert require_scattering(scattering) is scattering
    value = jax.jit(lambda q: pitch_angle.parallel_diffusion(require_scattering(qlt(q))))(1.5)
    assert float(value) == pytest.approx(0.4)


@pytest.mark.parametrize("l_max", [0, -3, True])
def test_a_profile_needs_a_degree(l_max):
    with pytest.raises(InputError, match="whole number of at least 1"):
        pitch_angle.legendre_moments(isotropic, l_max)
