"""Windows of point-spread functions against closed forms, scipy and a Monte Carlo."""

import numpy as np
import pytest
from diffcr.inference.point_spread import gaussian_window, king_window, read_table, table_window, window_of
from scipy import integrate, special

from diffcr.errors import InputError


def test_a_narrow_gaussian_has_the_window_of_diffusion_on_the_sphere():
    """exp(-l (l + 1) sigma^2 / 2) is the window of the sphere's heat kernel, equal to order sigma^2."""
    l = np.arange(101)
    sigma = np.radians(0.5)
    expected = np.exp(-l * (l + 1) * sigma**2 / 2)
    np.testing.assert_allclose(gaussian_window(sigma, 100), expected, atol=2e-5)


@pytest.mark.parametrize("gamma", [1.5, 2.5, 50.0])
def test_a_king_window_is_its_integral(gamma):
    sigma = np.radians(1.0)
    window = king_window(sigma, gamma, 40)
    assert window[0] == pytest.approx(1, abs=1e-15)

    def mass(theta, l):
        profile = (1 + theta**2 / (2 * gamma * sigma**2)) ** -gamma
        return profile * np.sin(theta) * special.eval_legendre(l, np.cos(theta))

    points = [0.3 * sigma, sigma, 5 * sigma, 30 * sigma]
    whole = integrate.quad(mass, 0, np.pi, (0,), points=points, limit=500)[0]
    for l in (1, 7, 40):
        part = integrate.quad(mass, 0, np.pi, (l,), points=points, limit=500)[0]
        assert window[l] == pytest.approx(part / whole, abs=1e-7)


def test_a_king_profile_of_steep_tail_is_a_gaussian():
    np.testing.assert_allclose(king_window(0.01, 1e6, 60), gaussian_window(0.01, 60), atol=1e-5)


def test_the_first_multipole_is_the_mean_cosine_of_the_scatter():
    rng = np.random.default_rng(1)
    sigma = 0.2
    theta = np.arange(0, 1.6, 1e-4)
    weight = np.exp(-0.5 * (theta / sigma) ** 2) * np.sin(theta)
    drawn = rng.choice(theta, 400_000, p=weight / weight.sum())
    assert gaussian_window(sigma, 1)[1] == pytest.approx(np.cos(drawn).mean(), abs=4 * np.cos(drawn).std() / 632)


def test_a_flat_table_is_a_top_hat():
    """The window of a disc of radius r: (P_(l-1) - P_(l+1)) / ((2 l + 1) (1 - cos r)) at cos r."""
    radius = np.radians(20)
    window = table_window(np.array([0.0, radius]), np.ones(2), 12)
    for l in range(1, 13):
        legendre = special.eval_legendre(l - 1, np.cos(radius)) - special.eval_legendre(l + 1, np.cos(radius))
        assert window[l] == pytest.approx(legendre / ((2 * l + 1) * (1 - np.cos(radius))), abs=1e-9)


def test_words_name_the_same_windows(tmp_path):
    path = tmp_path / "psf.csv"
    path.write_text("angle_deg,density\n# made up\n0,1\n2,0.5\n5,0\n")
    np.testing.assert_array_equal(window_of("gauss:1.5", 9), gaussian_window(np.radians(1.5), 9))
    np.testing.assert_array_equal(window_of("king:1.5:2.2", 9), king_window(np.radians(1.5), 2.2, 9))
    table = table_window(np.radians([0.0, 2, 5]), np.array([1, 0.5, 0]), 9)
    np.testing.assert_array_equal(window_of(str(path), 9), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss", "gauss:SIGMA or king"),
        ("king:1", "gauss:SIGMA or king"),
        ("gauss:-1", r"must lie in \(0, 57\] degrees, not -1"),
        ("gauss:nan", "must lie in"),
        ("king:1:0.9", "must be above 1"),
        ("nowhere.csv", "no such point-spread table"),
    ],
)
def test_words_that_name_nothing_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        window_of(text, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [("0,1\nx,2\n", "line 2"), ("", "is empty"), ("a,b\n0,1\n1\n", "line 3")],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "psf.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    ("theta", "density", "message"),
    [
        ([0.0, 0.1, 0.1], [1.0, 1, 1], "must increase"),
        ([0.0, 4.0], [1.0, 1], "must increase"),
        ([0.0, 1.0], [1.0, -1], "not negative"),
        ([0.0, 1.0], [0.0, 0], "not all zero"),
        ([0.0], [1.0], "at least two"),
    ],
)
def test_an_impossible_table_is_refused(theta, density, message):
    with pytest.raises(InputError, match=message):
        table_window(np.array(theta), np.array(density), 4)
