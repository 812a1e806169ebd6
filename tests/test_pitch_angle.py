"""diffcr.pitch_angle against closed forms, scipy, and the dipole identity."""

import functools

import healpy as hp
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads
from scipy import special

from diffcr import pitch_angle
from diffcr.errors import InputError
from diffcr.harmonics import coefficients_to_dipole, evaluate_at, power_spectrum, rotate, to_healpy
from diffcr.pitch_angle import (
    FAMILIES,
    aligned_sky,
    broadened,
    enhanced,
    family,
    isotropic,
    quasi_linear,
    relative_profile,
)


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


def of_a_power(s, l):
    """int_0^1 mu^s P_l, in high precision: sqrt(pi) 2^(-s-1) Gamma(1+s) / (Gamma(1 + (s-l)/2) Gamma((l+s+3)/2))."""
    s = mpmath.mpf(s)
    scale = mpmath.sqrt(mpmath.pi) * mpmath.mpf(2) ** (-s - 1) * mpmath.gamma(1 + s)
    return float(scale * mpmath.rgamma(1 + (s - l) / 2) * mpmath.rgamma((l + s + 3) / 2))


@pytest.mark.parametrize("index", [1.0, 1.2, 1.5, 5 / 3, 1.8, 1.95, 1.999])
def test_quasi_linear_profiles_are_in_closed_form(index):
    """g = sgn(mu) |mu|^(2 - q), seen from where particles come: delta I = +sgn(c) |c|^(2 - q), c = n . B."""
    found = np.asarray(relative_profile(family("quasi-linear", index=index), 61))
    assert found[0] == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(found[1::2], 0, atol=1e-12)
    degree = np.arange(1, 62, 2)
    first = of_a_power(2 - index, 1)
    expected = np.array([(2 * l + 1) / 3 * of_a_power(2 - index, int(l)) / first for l in degree])
    np.testing.assert_allclose(found[::2], expected, rtol=1e-9, atol=1e-10)


def test_quasi_linear_power_has_its_printed_values():
    power = (3 * np.asarray(relative_profile(family("quasi-linear"), 5)) / (2 * np.arange(1, 6) + 1)) ** 2
    np.testing.assert_allclose(power[[2, 4]], [0.0236686, 0.00419610], rtol=1e-5)


@pytest.mark.parametrize(("index", "value"), [(1.5, -7 / 27), (5 / 3, -7 / 3 * 2 / 13), (1.9, -0.9 * 7 / 3 / 4.1)])
def test_the_octupole_is_negative_for_a_step_across_the_field(index, value):
    """By hand: int_0^1 mu^s P_3 / int_0^1 mu^s mu = (s - 1) / (s + 4), with s = 2 - q."""
    s = 2 - index
    assert 7 / 3 * (s - 1) / (s + 4) == pytest.approx(value)
    assert float(relative_profile(family("quasi-linear", index=index), 3)[2]) == pytest.approx(value, rel=1e-12)


@each_model
def test_profiles_solve_the_stationary_equation(scattering):
    """mu = d_mu(D d_mu f) by differences in x, mu = x^3, on 8001 cells, the middle one around 0; no flux at the ends.

    f is smooth in x, and no integral of 1 / D is formed. On the sky, where mu = -n . B, the profile is -f(-mu).
    """
    edge = np.linspace(-1, 1, 8002)
    x, middle = edge[1:-1], (edge[1:] + edge[:-1]) / 2
    flux = np.cumsum((edge[1:] ** 6 - edge[:-1] ** 6) / 2)[:-1]
    slope = flux * 3 * x**2 / np.asarray(scattering(jnp.asarray(x**3)))
    f = np.concatenate([[0], np.cumsum(slope * (edge[1] - edge[0]))])
    f -= f[4000]
    l, mu = np.arange(1, 8), middle**3
    legendre = special.eval_legendre(np.arange(9)[:, None], edge**3)
    moment = np.diff(legendre[2:] - legendre[:-2]) @ f / (2 * l + 1)
    expected = (-1.0) ** (l + 1) * (2 * l + 1) / 3 * moment / moment[0]
    np.testing.assert_allclose(relative_profile(scattering, 7), expected, atol=3e-6)
    assert float(pitch_angle.parallel_diffusion(scattering)) == pytest.approx(-moment[0] / 2, rel=3e-6)
    np.testing.assert_allclose(pitch_angle.profile(mu[::500], scattering), (f / f[-1])[::500], atol=1e-3)


@each_model
def test_the_profile_is_its_integral(scattering):
    mu = np.array([-1.0, -0.6, -1e-3, 0.0, 1e-6, 0.2, 0.99, 1.0])

    node, weight = special.roots_legendre(30)

    def integral(end):
        edge = end * np.append(0.0, np.geomspace(1e-15, 1, 60))
        x = (edge[1:] + edge[:-1])[:, None] / 2 + np.diff(edge)[:, None] / 2 * node
        return np.sum(np.diff(edge)[:, None] / 2 * weight * (1 - x**2) / np.asarray(scattering(jnp.asarray(x))))

    expected = np.array([integral(x) if x else 0.0 for x in mu]) / integral(1.0)
    np.testing.assert_allclose(pitch_angle.profile(mu, scattering), expected, atol=1e-5)
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
    relative = np.asarray(relative_profile(scattering, 5))
    aligned = power_spectrum(aligned_sky(relative, np.array([0.6, 0, 0.8]), 1e-3))
    l = np.arange(1, 6)
    np.testing.assert_allclose(aligned[1:], 4 * np.pi * (1e-3 * relative / (2 * l + 1)) ** 2, rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("scattering", [MODELS["quasi-linear"], MODELS["uneven"]], ids=["quasi-linear", "uneven"])
def test_healpy_draws_the_same_sky(scattering):
    """Its map is s sum of p_l P_l(n . B), for B at (RA, dec) = (229.2, 11.4) degrees: all m, an excess around +B."""
    ra, dec = np.deg2rad([229.2, 11.4])
    field = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    relative = np.asarray(relative_profile(scattering, 8))
    sky = aligned_sky(relative, field, 1.3e-3)
    drawn = hp.alm2map(np.asarray(to_healpy(sky)), 16)
    cosine = np.array(hp.pix2vec(16, np.arange(hp.nside2npix(16)))).T @ field
    expected = 1.3e-3 * sum(p * special.eval_legendre(l, cosine) for l, p in enumerate(relative, start=1))
    np.testing.assert_allclose(drawn, expected, atol=1e-14)
    assert drawn[np.argmax(cosine)] > 0
    np.testing.assert_allclose(hp.alm2cl(np.asarray(to_healpy(sky))), power_spectrum(sky), rtol=1e-10, atol=1e-30)


def test_the_sky_turns_with_the_field():
    angle = 0.7
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    field, relative = np.array([0.48, -0.6, 0.64]), np.array([1.0, 0.2, -0.3, 0.05])
    np.testing.assert_allclose(
        aligned_sky(relative, turn @ field), rotate(aligned_sky(relative, field), turn), atol=1e-13
    )


# Families -----------------------------------------------------------------------------------------------------


def test_families_are_the_models_by_name():
    mu = np.linspace(-0.9, 0.9, 7)
    parameters = {
        "isotropic": {},
        "quasi-linear": {"index": 1.4, "floor": 0.2},
        "broadened": {"index": 1.8, "width": 0.3},
        "enhanced": {"strength": -0.5, "width": 0.4, "centre": 0.6},
    }
    assert parameters.keys() == FAMILIES.keys()
    for name, (function, names) in FAMILIES.items():
        assert tuple(parameters[name]) == names
        made = family(name, **parameters[name], rate=2.5)
        np.testing.assert_array_equal(made(mu), function(mu, **parameters[name], rate=2.5))
        np.testing.assert_array_equal(family(name)(mu), function(mu))
        shape = relative_profile(made, 4)
        np.testing.assert_allclose(shape, relative_profile(family(name, **parameters[name]), 4), atol=1e-14)


@pytest.mark.parametrize(
    ("name", "parameters", "gone"),
    [
        ("quasi-linear", {"index": 1.0}, 1.0),
        ("broadened", {"index": 1.0}, 1.0),
        ("quasi-linear", {"floor": 1e9}, 1.0),
        ("broadened", {"width": 1e5}, 1.0),
        ("enhanced", {"strength": 0.0}, 1.0),
    ],
)
def test_families_contain_isotropic_scattering(name, parameters, gone):
    np.testing.assert_allclose(relative_profile(family(name, **parameters), 5), [gone, 0, 0, 0, 0], atol=1e-8)


def test_a_resonance_of_no_width_is_quasi_linear():
    expected = relative_profile(family("quasi-linear", index=1.6), 7)
    np.testing.assert_allclose(relative_profile(family("broadened", index=1.6, width=0.0), 7), expected, rtol=1e-10)
    np.testing.assert_allclose(relative_profile(family("broadened", index=1.6, width=1e-9), 7), expected, atol=2e-4)


def test_more_scattering_across_the_field_flattens_the_sky_there_and_along_it_at_the_poles():
    """d(delta I) / d(n . B) over that of isotropic scattering, at equal dipole."""
    for centre, flat, steep in ((0.0, 0.0, 0.9), (1.0, 0.98, 0.3)):
        made = family("enhanced", strength=20.0, centre=centre)
        step = 1e-4
        slope = [np.diff(pitch_angle.profile(np.array([c - step, c + step]), made)) / 2 / step for c in (flat, steep)]
        assert slope[0] < 0.15 * slope[1]
        octupole = float(relative_profile(made, 3)[2])
        # Flat across the field and steep at the poles is a positive P_3; flat at the poles a negative one.
        assert octupole > 0.2 if centre == 0 else octupole < -0.1


def test_a_family_passes_through_transformations_with_its_parameters():
    batch = jax.vmap(lambda q: family("quasi-linear", index=q))(jnp.array([1.3, 1.7]))
    found = jax.jit(jax.vmap(lambda scattering: relative_profile(scattering, 3)))(batch)
    for shape, index in zip(found, (1.3, 1.7), strict=True):
        np.testing.assert_allclose(shape, relative_profile(family("quasi-linear", index=index), 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("qlt", {}, "no family 'qlt' of D_mumu: choose one of isotropic, quasi-linear, broadened, enhanced"),
        ("quasi-linear", {"width": 0.1}, "'quasi-linear' .* no parameter 'width': it takes index, floor, rate"),
        ("isotropic", {"index": 1.5}, "no parameter 'index': it takes rate"),
        ("quasi-linear", {"index": 2.0}, "kappa_par diverges for index q = 2 .* floor 0 .q >= 2.: give a smaller q"),
        ("broadened", {"index": 2.5, "width": 0}, "kappa_par diverges for index q = 2.5 .* width 0 .*a width above 0"),
        ("quasi-linear", {"index": 0.9}, "index .* must not be 0.9: the index q .* below 2 or kappa_par diverges"),
        ("quasi-linear", {"index": np.nan}, "must not be nan"),
        ("quasi-linear", {"index": np.inf, "floor": 1.0}, "must not be inf"),
        ("quasi-linear", {"floor": -0.1}, "floor .* must not be -0.1: .*kappa_par diverge"),
        ("broadened", {"width": -0.1}, "width .* must not be -0.1"),
        ("enhanced", {"width": 0.01}, "finest that the quadrature over mu resolves is 0.02"),
        ("enhanced", {"strength": -1.0}, "strength .* must not be -1.0: .*kappa_par diverges as it does for q >= 2"),
        ("enhanced", {"centre": 1.2}, "centre .* must not be 1.2: .* from 0 to 1"),
        ("isotropic", {"rate": 0.0}, "rate .* must not be 0.0: .*kappa_par diverges"),
    ],
)
def test_parameters_out_of_range_are_refused_in_one_line(name, parameters, message):
    with pytest.raises(InputError, match=message) as error:
        family(name, **parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("quasi-linear", (1.5, 0.05)),
        ("quasi-linear", (2.3, 0.1)),
        ("quasi-linear", (1.9,)),
        ("broadened", (1.7, 0.2)),
        ("broadened", (2.4, 0.05)),
        ("enhanced", (5.0, 0.3, 0.4)),
    ],
)
def test_gradients_of_profiles_with_respect_to_all_parameters_are_right(name, parameters):
    names = FAMILIES[name][1]

    def weighted(*values):
        made = family(name, **dict(zip(names, values, strict=False)))
        return relative_profile(made, 9) @ jnp.arange(1.0, 10)

    check_grads(jax.jit(weighted), parameters, order=1, modes=["fwd", "rev"], rtol=1e-4)


def test_gradients_are_right():
    def kappa(index, floor):
        return pitch_angle.parallel_diffusion(qlt(index, floor))

    check_grads(jax.jit(kappa), (1.6, 0.05), order=1, modes=["rev"], rtol=1e-4)

    def power(width, direction):
        field = direction / jnp.linalg.norm(direction)
        sky = pitch_angle.sky_coefficients(functools.partial(broadened, width=width), field, 1.0, 3)
        return sky @ jnp.arange(16.0)

    check_grads(jax.jit(power), (0.3, jnp.array([0.3, 0.5, 0.7])), order=1, modes=["rev"], rtol=1e-4)
    # Also where the field is the pole of the frame.
    turned = jax.jit(lambda angle: power(0.3, jnp.array([jnp.sin(angle), 0.0, jnp.cos(angle)])))
    check_grads(turned, (0.0,), order=1, modes=["rev"], rtol=1e-4)
    mu = jnp.array([-0.7, 0.3])
    check_grads(jax.jit(lambda q: pitch_angle.profile(mu, qlt(q))), (1.5,), order=1, modes=["rev"], rtol=1e-4)


@pytest.mark.parametrize("l_max", [0, -3, True, 151])
def test_a_profile_needs_a_degree(l_max):
    with pytest.raises(InputError, match="whole number of at least 1"):
        pitch_angle.legendre_moments(isotropic, l_max)


@pytest.mark.parametrize("use", [pitch_angle.parallel_diffusion, lambda d: pitch_angle.relative_profile(d, 3)])
def test_no_number_comes_of_a_d_that_is_negative_or_lets_kappa_diverge(use):
    with pytest.raises(InputError, match=r"D_mumu must be positive inside .* kappa_par diverges .* q >= 2"):
        use(lambda mu: (1 - mu**2) * (mu - 0.2))
    with pytest.raises(InputError, match="kappa_par diverges"):
        use(lambda mu: (1 - mu**2) * abs(mu) ** 1.2)
