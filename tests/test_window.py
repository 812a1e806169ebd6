"""diffcr.window against events drawn from a sky, healpy maps and closed forms."""

import healpy
import jax
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import sph_harm_y

from diffcr import harmonics, window
from diffcr.detector import acceptance, relative_exposure
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site, site
from diffcr.units import DEGREE
from diffcr.window import mean_cosine, site_exposure, site_window, window_means

first_harmonic = jax.jit(window.first_harmonic)
projected = jax.jit(window.projected)


def multipoles(l_max=3, seed=1, scale=0.05):
    values = scale * np.random.default_rng(seed).standard_normal((l_max + 1) ** 2)
    values[0] = 0
    return values


def sky(coefficients, declination, right_ascension):
    """Written out with the complex harmonics of SciPy."""
    total = np.zeros(np.shape(declination))
    degree, order = harmonics.degrees_and_orders(3)
    for value, l, m in zip(coefficients, degree, order, strict=True):
        y = sph_harm_y(l, abs(m), np.pi / 2 - declination, right_ascension)
        total += value * (y.real if m == 0 else (-1.0) ** m * np.sqrt(2) * (y.real if m > 0 else y.imag))
    return total


# Means


@pytest.mark.parametrize(("low", "high"), [(-90, 90), (-25, 64), (-90, -25), (30, 31)])
def test_means_of_a_flat_window_in_closed_form(low, high):
    a, b = np.sin(low * DEGREE), np.sin(high * DEGREE)
    solid = b - a
    root = lambda x: (1 - x * x) ** 1.5
    cosine = (np.arcsin(b) - np.arcsin(a) + b * np.sqrt(1 - b * b) - a * np.sqrt(1 - a * a)) / 2 / solid
    # P_2' cos = 3 x cos and P_3' cos = (15 x^2 - 3) cos / 2, with d(asin x) pieces of x^2 cos.
    second = 3 * (root(a) - root(b)) / 3 / solid
    part = lambda x: (np.arcsin(x) - x * np.sqrt(1 - x * x) * (1 - 2 * x * x)) / 8
    third = 7.5 * (part(b) - part(a)) / solid - 1.5 * cosine
    expected = [
        cosine * np.sqrt(3 / (4 * np.pi)),
        second * np.sqrt(5 / (12 * np.pi)),
        third * np.sqrt(7 / (24 * np.pi)),
    ]
    np.testing.assert_allclose(window_means(low * DEGREE, high * DEGREE), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("where", "power", "cosine"),
    [
        (site("Auger"), 1.0, 0.78317),
        (Site("Auger 60", -35.2 * DEGREE, 0.0, 60 * DEGREE), 1.0, 0.78341),
        (Site("HAWC 60", 19.0 * DEGREE, 0.0, 60 * DEGREE), 1.0, 0.85945),
        (site("IceCube"), 1.0, 0.60421),
    ],
)
def test_mean_cosine_of_declination_of_known_sites(where, power, cosine):
    np.testing.assert_allclose(mean_cosine(site_window(where, power)), cosine, atol=2e-5)


@pytest.mark.parametrize("degrees", [60.0, 80.0])
def test_exposure_of_a_flat_array_in_closed_form(degrees):
    """Sommers (2001): cos(lat) cos(dec) sin(a) + a sin(lat) sin(dec), at four declinations."""
    expected = {60.0: [1.208271, 0.935376, 0.463178, 0.0], 80.0: [1.701704, 1.083226, 0.634252, 0.288385]}[degrees]
    where = Site("south", -35.2 * DEGREE, 0.0, degrees * DEGREE)
    found = site_exposure(where)(np.array([-70, -20, 10, 30]) * DEGREE)
    np.testing.assert_allclose(found, 2 * np.array(expected), atol=3e-6)


@pytest.mark.parametrize("power", [0.0, 4.0])
def test_window_of_a_site_is_that_of_its_acceptance_on_a_grid(power):
    """The other road of the package: the acceptance of local cells, summed over hour angles; here with a hole."""
    where, grid = Site("ring", 19.0 * DEGREE, 0.0, 50 * DEGREE, 10 * DEGREE), RingGrid(180, 360)
    exposure = np.asarray(relative_exposure(acceptance(where, grid, power=power), grid))
    weight = exposure * grid.solid_angle
    basis = harmonics.ring_basis(grid, 3)[1:, 1]
    np.testing.assert_allclose(site_window(where, power), basis @ weight / weight.sum(), atol=2e-4)


def test_scale_of_the_exposure_does_not_matter():
    one, other = (
        window_means(-0.5, 0.7, exposure=lambda declination, c=c: c * (1 + np.sin(declination))) for c in (1.0, 7.0)
    )
    np.testing.assert_allclose(one, other, rtol=1e-13)
    assert not np.allclose(one, window_means(-0.5, 0.7), rtol=1e-2)


# First harmonics


def test_events_of_a_sky_give_the_first_harmonic():
    """Some 400 000 events, the exposure and the sky by rejection; then 2 / N times the sums of cos and sin."""
    coefficients = multipoles()
    # Those with m = 0 would change the number of events, and the harmonic at second order.
    coefficients[np.array([harmonics.index(l, 0) for l in range(4)])] = 0
    low, high = -70 * DEGREE, 20 * DEGREE
    exposure = lambda declination: 1 - 0.6 * np.sin(declination)
    random = np.random.default_rng(5)
    declination = np.arcsin(random.uniform(np.sin(low), np.sin(high), 1_000_000))
    right_ascension = random.uniform(0, 2 * np.pi, declination.size)
    chance = exposure(declination) * (1 + sky(coefficients, declination, right_ascension)) / (1.6 * 1.4)
    assert 0 < chance.min() and chance.max() < 1
    kept = right_ascension[random.random(chance.size) < chance]
    found = 2 * np.array([np.cos(kept).mean(), np.sin(kept).mean()])
    error = np.sqrt(2 / kept.size)
    expected = first_harmonic(coefficients, window_means(low, high, exposure=exposure))
    assert np.all(np.abs(found - expected) < 4 * error)
    # Each degree counts: without l = 2 and 3 it would be far off.
    dipole_only = first_harmonic(coefficients[:4], window_means(low, high, exposure=exposure))
    assert np.any(np.abs(found - dipole_only) > 5 * error)


def test_map_of_healpy_gives_the_first_harmonic():
    coefficients = multipoles(seed=3)
    coefficients[np.array([harmonics.index(l, 0) for l in range(4)])] = 0
    nside = 64
    relative = healpy.alm2map(harmonics.to_healpy(coefficients), nside, lmax=3)
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    low, high = -25 * DEGREE, 64 * DEGREE
    inside = (np.pi / 2 - theta > low) & (np.pi / 2 - theta < high)
    found = [2 * np.mean((relative * f(phi))[inside]) for f in (np.cos, np.sin)]
    np.testing.assert_allclose(first_harmonic(coefficients, window_means(low, high)), found, atol=1e-3)


def test_pure_dipole_is_reported_as_it_is():
    dipole = np.array([1e-3, -2e-3, 5e-3])
    coefficients = harmonics.dipole_to_coefficients(dipole)
    means = site_window(site("HAWC"))
    np.testing.assert_allclose(projected(coefficients, means), dipole[:2], rtol=1e-12)
    np.testing.assert_allclose(first_harmonic(coefficients, means), mean_cosine(means) * dipole[:2], rtol=1e-12)


def test_a_quadrupole_has_opposite_signs_in_the_two_hemispheres():
    coefficients = np.zeros(9)
    coefficients[harmonics.index(2, 1)] = 1e-3
    north, south = (projected(coefficients, window_means(*limits)) for limits in ((0, 1.5), (-1.5, 0)))
    assert north[0] > 0
    np.testing.assert_allclose(north, -south, atol=1e-15)
    assert north[1] == 0


def test_many_skies_through_many_windows():
    skies = np.stack([multipoles(seed=seed) for seed in range(3)])
    windows = np.stack([site_window(site(name)) for name in ("HAWC", "IceCube", "LHAASO")])
    found = first_harmonic(skies, windows)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[1], first_harmonic(skies[1], windows[1]), rtol=1e-13)
    np.testing.assert_allclose(first_harmonic(skies[0], windows)[2], first_harmonic(skies[0], windows[2]), rtol=1e-13)


def test_monopole_alone_has_no_harmonic():
    np.testing.assert_array_equal(first_harmonic(np.ones(1), window_means(-1.0, 1.0)), [0, 0])


def test_gradient_is_that_of_finite_differences():
    check_grads(jax.jit(window.projected), (multipoles(), np.asarray(window_means(-0.4, 1.1))), order=1, modes=("rev",))


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.5), "must have -90 <= dec_min < dec_max <= 90 degrees, not dec_min = 28.6479 and dec_max = 28.6479"),
        ((0.5, -0.5), "must have -90 <= dec_min < dec_max"),
        ((-25, 64), "the limits are given in radians"),
        ((-0.5, np.nan), "must have -90 <= dec_min"),
        ((-0.5, 0.5, 0), "l_max of a window must be a whole number of at least 1, not 0"),
        ((-0.5, 0.5, 3, np.sin), "exposure of a window must be finite, not negative .* not -0.479.* at -28.6"),
        ((-0.5, 0.5, 3, np.zeros_like), "not 0 throughout"),
        ((-0.5, 0.5, 3, lambda d: d * np.nan), "not nan at"),
    ],
)
def test_bad_window(arguments, message):
    with pytest.raises(InputError, match=message):
        window_means(*arguments)


def test_bad_power():
    with pytest.raises(InputError, match="power of an exposure must be finite and at least 0, not -1"):
        site_exposure(site("HAWC"), -1.0)


def test_bad_multipoles():
    with pytest.raises(InputError, match="reach l = 4, but the window only l = 3: compute it with l_max = 4"):
        window.first_harmonic(np.zeros(25), window_means(-1.0, 1.0))
    with pytest.raises(InputError, match="must have 1, 4, 9, ... entries along the last axis, not 8"):
        window.first_harmonic(np.zeros(8), window_means(-1.0, 1.0))
