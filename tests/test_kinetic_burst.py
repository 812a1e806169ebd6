"""diffcr.kinetic_burst against particles, the hierarchy of multipoles, high precision, and the literature."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from jax.test_util import check_grads

from diffcr.errors import InputError
from diffcr.kinetic import follow
from diffcr.kinetic_burst import burst, diffusion_error
from diffcr.source import age_limit, make_sources
from diffcr.units import SPEED_OF_LIGHT

solved, compared = jax.jit(burst), jax.jit(diffusion_error)
NODE, WEIGHT = np.polynomial.legendre.leggauss(80)


def shells(depth, low=0.0, high=1.0):
    """x, share of the particles at each (weights of the integral included), and mean direction there."""
    # Nodes crowd at x = 1, where the density of those that collided once has a logarithm.
    u = (NODE + 1) / 2
    x = high - (high - low) * (1 - u) ** 3
    measure = WEIGHT / 2 * 3 * (high - low) * (1 - u) ** 2
    found = solved(depth, x)
    share = measure * 4 * np.pi * x**2 * depth**3 * np.exp(np.asarray(found.log_density))
    return x, share, np.asarray(found.dipole) / 3


def hierarchy(depth, k, degrees=60):
    """Means f_l of exp(-i k z) P_l(mu): d f_l / dT = -f_l [l > 0] - i k (l f_l-1 + (l+1) f_l+1) / (2l+1)."""
    l = np.arange(degrees)
    matrix = np.diag(-(l > 0).astype(complex))
    matrix += np.diag(-1j * k * (l / (2 * l + 1))[1:], -1) + np.diag(-1j * k * ((l + 1) / (2 * l + 1))[:-1], 1)
    return scipy.linalg.expm(depth * matrix)[:, 0]


@pytest.mark.parametrize("depth", [0.05, 1.0, 7.0, 60.0])
def test_every_particle_is_somewhere(depth):
    """1 - exp(-T) have collided, and with those in the front <r^2> is 2 (T - 1 + exp(-T))."""
    x, share, _ = shells(depth)
    assert share.sum() == pytest.approx(1 - np.exp(-depth), rel=1e-6)
    square = share @ (depth * x) ** 2 + np.exp(-depth) * depth**2
    assert square == pytest.approx(2 * (depth - 1 + np.exp(-depth)), rel=1e-6)


@pytest.mark.parametrize("depth", [0.3, 2.0, 12.0])
@pytest.mark.parametrize("k", [0.4, 1.5, 4.0])
def test_density_and_flux_are_those_of_the_hierarchy_of_multipoles(depth, k):
    """Their Fourier transforms, with the front exp(-T): k = 4 is beyond pi / 2, where no diffusive mode is."""
    x, share, outwards = shells(depth)
    front = np.exp(-depth)
    moments = hierarchy(depth, k)
    bessel = scipy.special.spherical_jn
    density = share @ bessel(0, k * depth * x) + front * bessel(0, k * depth)
    flux = -(share * outwards) @ bessel(1, k * depth * x) - front * bessel(1, k * depth)
    assert density == pytest.approx(moments[0].real, abs=3e-6)
    assert flux == pytest.approx(moments[1].imag, abs=3e-6)


@pytest.mark.parametrize("depth", [0.8, 6.0])
def test_particles_are_where_it_says_and_move_as_it_says(depth):
    number, edges = 200_000, np.linspace(0, 1, 9)
    direction = np.random.default_rng(8).normal(size=(3, number))
    end = jax.jit(follow)(jax.random.key(11), direction / np.linalg.norm(direction, axis=0), depth)
    kept = np.asarray(end.collisions) > 0
    position, direction = np.asarray(end.position)[:, kept], np.asarray(end.direction)[:, kept]
    far = np.linalg.norm(position, axis=0)
    cosine = np.sum(position * direction, axis=0) / far
    place = np.digitize(far / depth, edges) - 1
    for shell in range(8):
        _, share, outwards = shells(depth, edges[shell], edges[shell + 1])
        found = place == shell
        expected = number * share.sum()
        assert abs(found.sum() - expected) < 4 * np.sqrt(expected)
        mean = share @ outwards / share.sum()
        error = cosine[found].std() / np.sqrt(found.sum())
        assert abs(cosine[found].mean() - mean) < 4 * error


def test_one_collision_is_all_there_is_early_on():
    """T exp(-T) ln((1 + x) / (1 - x)) / 4 pi x, from two straight legs of which either length is as likely."""
    x, depth = np.array([1e-7, 0.01, 0.3, 0.9, 0.999]), 1e-5
    found = solved(depth, x)
    once = depth * np.log1p(2 * x / (1 - x)) / (4 * np.pi * x) / depth**3
    np.testing.assert_allclose(np.exp(found.log_density), once, rtol=1e-4)
    # At the front all move away from the source: three times the mean direction.
    assert float(solved(1.0, 1 - 1e-12).dipole) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(("depth", "ratio"), [(0.5, 0.2), (20.0, 0.03), (300.0, 0.9), (5.0, 0.999)])
def test_digits_are_kept_where_there_are_next_to_no_particles(depth, ratio):
    """The same integral along another path, w = artanh x + i phi, with fifty digits; n = 1e-99 in one of the cases."""
    with mpmath.workdps(50):
        t, x = mpmath.mpf(depth), mpmath.mpf(ratio)
        a = mpmath.atanh(x)

        def integral(f):
            def at(phi):
                w = mpmath.mpc(a, phi)
                return mpmath.re(f(w) / mpmath.sinh(w) ** 2 * mpmath.exp(t * (w * mpmath.coth(w) - x * w - 1)))

            return mpmath.quad(at, mpmath.linspace(0, mpmath.pi / 2, 30)) / mpmath.pi

        rest = t * mpmath.exp(-t)
        density = rest * a + t**2 * integral(lambda w: w**3)
        flux = rest * (a * x - 0.5) + t * integral(lambda w: (w * mpmath.coth(w) - 1) * w * (1 / x + t * w))
        log_density = float(mpmath.log(density / (2 * mpmath.pi * x) / t**3))
        dipole = float(3 * flux / density)
    found = solved(depth, ratio)
    assert float(found.log_density) == pytest.approx(log_density, abs=1e-9)
    assert float(found.dipole) == pytest.approx(dipole, rel=1e-8)


@pytest.mark.parametrize("depth", [2.0, 5.0, 20.0])
def test_the_approximation_of_the_literature_is_near(depth):
    """Paasschens (1997), equation 36 (from memory): within 5 % of the peak."""
    x = np.linspace(0.02, 0.9, 30)
    argument = depth * (1 - x**2) ** 0.75
    near = (1 - x**2) ** 0.125 / (4 * np.pi * depth / 3) ** 1.5 * np.exp(argument - depth)
    near = near * np.sqrt(1 + 2.026 / argument)
    exact = np.exp(np.asarray(solved(depth, x).log_density))
    assert np.max(np.abs(near - exact)) < 0.05 * exact.max()


def test_diffusion_holds_late_and_close():
    """-3 / 4T of the density and -1 / 2T of the dipole at the source; exp(9 T x^4 / 80) and 3 x^2 / 20 further out."""
    depth = 1e3
    error = compared(depth, np.array([0.0, 1e-3]))
    np.testing.assert_allclose(error.density, -0.75 / depth, rtol=3e-3)
    np.testing.assert_allclose(error.dipole, -0.5 / depth, rtol=3e-3)
    error = compared(1e6, np.array([0.05, 0.1]))
    np.testing.assert_allclose(np.log1p(error.density), 9 / 80 * np.array([6.25, 100.0]), rtol=0.02)
    np.testing.assert_allclose(error.dipole, -3 / 20 * np.array([0.0025, 0.01]), rtol=0.02)


def test_the_diffusive_dipole_compared_is_the_age_limit():
    depth, ratio = 30.0, 0.4
    limit = age_limit(make_sources(np.array([[ratio * depth, 0.0, 0.0]]), depth / SPEED_OF_LIGHT))[0]
    expected = float(limit) / float(solved(depth, ratio).dipole) - 1
    assert float(compared(depth, ratio).dipole) == pytest.approx(expected, rel=1e-9)
    # At the time of light from the source it is half of the dipole of particles that come straight on.
    assert float(compared(depth, 1 - 1e-13).dipole) == pytest.approx(-0.5, abs=0.03)


def test_values_have_the_shapes_asked_for_and_end_at_the_front():
    found = solved(np.array([[1.0], [2.0]]), np.array([0.5, 1.0, 1.5]))
    assert found.log_density.shape == (2, 3)
    np.testing.assert_array_equal(np.isneginf(found.log_density), [[False, True, True]] * 2)
    np.testing.assert_array_equal(np.isnan(found.dipole), [[False, True, True]] * 2)
    np.testing.assert_array_equal(np.isnan(compared(1.0, np.array([0.5, 1.0])).density), [False, True])
    assert float(solved(1.0, 0.0).dipole) == 0


def test_the_origin_is_reached_smoothly():
    """Both functions are even in x: no step where they are continued."""
    for depth in (0.1, 3.0, 1e4):
        join = 0.02 / np.sqrt(max(depth, 1))
        found = solved(depth, join * np.array([1 - 1e-6, 1 + 1e-6]))
        assert abs(np.diff(found.log_density).item()) < 1e-8
        slope = np.asarray(found.dipole) / (join * np.array([1 - 1e-6, 1 + 1e-6]))
        assert slope[1] == pytest.approx(slope[0], rel=1e-8)


def test_derivatives_are_those_of_differences():
    for depth, ratio in ((1.0, 0.5), (20.0, 0.8), (5.0, 0.003), (0.1, 0.97)):
        check_grads(lambda t, x: tuple(solved(t, x)), (depth, ratio), 1, modes=["rev"], rtol=1e-4)
    check_grads(lambda t, x: tuple(compared(t, x)), (20.0, 0.3), 1, modes=["rev"], rtol=1e-4)
    beyond = jax.jit(jax.grad(lambda x: jnp.nansum(burst(1.0, x).dipole)))
    assert np.all(np.isfinite(beyond(jnp.array(0.9)))) and float(beyond(jnp.array(1.2))) == 0


def test_input_that_makes_no_burst_is_refused():
    for call in (burst, diffusion_error):
        with pytest.raises(InputError, match="the depth nu t must be finite and above zero, not 0"):
            call(0.0, 0.5)
        with pytest.raises(InputError, match="the ratio r / v t must be finite and not negative, not -0.1"):
            call(1.0, np.array([0.2, -0.1]))
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="the density of a burst needs 64-bit floats"):
        burst(1.0, 0.5)
