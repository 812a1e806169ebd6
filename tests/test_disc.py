"""diffcr.disc against series in Bessel functions, the diffusion equation solved in differences, and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, sparse, special
from scipy.sparse.linalg import spsolve

from diffcr import disc
from diffcr.disc import Disc, case_bhattacharya, density_and_gradient, tabulate, uniform
from diffcr.errors import InputError
from diffcr.transport import fick_dipole
from diffcr.units import CM, SECOND, SPEED_OF_LIGHT

GALAXY = Disc()
FLAT = Disc(uniform, edge=15e3)
THICK = Disc(uniform, edge=15e3, height=200.0)
steady_density = jax.jit(disc.steady_density)
log_gradient = jax.jit(disc.log_gradient)


def wavenumbers(halo_height, highest):
    return np.arange(1, highest, 2) * np.pi / (2 * halo_height)


def uniform_series(halo_height, radius, edge=15e3, z=0.0, height=None, highest=4001):
    """Density and d ln n / dR of a uniform disc, by integrating I_0 K_0 over it in closed form, term by term."""
    k = wavenumbers(halo_height, highest)
    weight = np.cos(k * z)
    if height is not None:
        cut = np.exp(-halo_height / height)
        weight = weight * (1 + k * height * cut * np.sin(k * halo_height)) / (1 + (k * height) ** 2) / (1 - cut)
    if radius < edge:
        decay = np.exp(k * (radius - edge))
        missing = edge / k * special.kve(1, k * edge) * special.ive(0, k * radius) * decay
        slope = -edge * special.kve(1, k * edge) * special.ive(1, k * radius) * decay
        # Without the edge: the sheet, whose series in 1 / k^2 is summed by itself.
        far = wavenumbers(halo_height, 200001)
        if height is None:
            sheet = halo_height * (halo_height - abs(z)) / 2
        else:
            cosine = np.cos(far * z) * (1 + far * height * cut * np.sin(far * halo_height))
            sheet = np.sum(cosine / (1 + (far * height) ** 2) / (1 - cut) / far**2)
        value = sheet - np.sum(weight * missing)
    else:
        decay = np.exp(k * (edge - radius))
        value = np.sum(weight * edge / k * special.ive(1, k * edge) * special.kve(0, k * radius) * decay)
        slope = -edge * special.ive(1, k * edge) * special.kve(1, k * radius) * decay
    return value / halo_height / (np.pi * edge**2), np.sum(weight * slope) / value


def profile_series(halo_height, radius, edge=30e3, highest=160):
    """The same for the profile of Case & Bhattacharya, written out, by quadrature of I_0 K_0 on either side of R."""
    k = wavenumbers(halo_height, highest)[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(300)
    shape = lambda r: (r / 8500) ** 2 * np.exp(-3.53 * (r - 8500) / 8500)
    value = slope = 0.0
    for low, high, inner in ((0.0, radius, True), (radius, edge, False)):
        r = (low + high) / 2 + (high - low) / 2 * nodes
        w = (high - low) / 2 * weights * r * shape(r) * np.exp(-k * np.abs(r - radius))
        if inner:
            value += (w * special.ive(0, k * r) * special.kve(0, k * radius)).sum(axis=1)
            slope -= (w * special.ive(0, k * r) * special.kve(1, k * radius) * k).sum(axis=1)
        else:
            value += (w * special.kve(0, k * r) * special.ive(0, k * radius)).sum(axis=1)
            slope += (w * special.kve(0, k * r) * special.ive(1, k * radius) * k).sum(axis=1)
    # What the terms left out add: s / k^2, and its derivative.
    rest = halo_height**2 / 2 - np.sum(1 / k**2)
    steepness = shape(radius) * (2 / radius - 3.53 / 8500)
    density = np.sum(value) + shape(radius) * rest
    total = integrate.quad(lambda r: 2 * np.pi * r * shape(r), 0, edge, epsrel=1e-12)[0]
    return density / halo_height / total, (np.sum(slope) + steepness * rest) / density


# Published and printed values


def test_galaxy_of_case_and_bhattacharya_at_the_sun():
    np.testing.assert_allclose(steady_density(GALAXY, 3000.0), 2.35218e-6, rtol=1e-3)
    np.testing.assert_allclose(log_gradient(GALAXY, 3000.0), -0.15001e-3, rtol=1e-3)


def test_uniform_disc_at_the_sun():
    np.testing.assert_allclose(steady_density(FLAT, 3000.0), 2.08100e-6, rtol=1e-3)
    np.testing.assert_allclose(log_gradient(FLAT, 3000.0), -0.009087e-3, rtol=1e-3)


def test_profile_is_the_published_one():
    np.testing.assert_allclose(case_bhattacharya(8500.0), 1.0, rtol=1e-15)
    np.testing.assert_allclose(case_bhattacharya(17000.0), 4 * np.exp(-3.53), rtol=1e-14)


def test_density_in_cgs():
    """n K / Q for one supernova in 30 years is 8.0518e-34 per cm^3 where K is in cm^2/s."""
    diffusion_cgs = 3e29
    diffusion = diffusion_cgs * CM**2 / SECOND / SPEED_OF_LIGHT
    per_pc3 = (1 / 30) / (SPEED_OF_LIGHT * diffusion) * steady_density(GALAXY, 3000.0)
    np.testing.assert_allclose(per_pc3 * CM**3 * diffusion_cgs, 8.0518e-34, rtol=1e-3)


# Independent solutions


@pytest.mark.parametrize("radius", [0.0, 4000.0, 8500.0, 14900.0, 15100.0, 17000.0])
@pytest.mark.parametrize("halo_height", [300.0, 3000.0, 20000.0])
def test_uniform_disc_is_the_series_in_bessel_functions(halo_height, radius):
    density, gradient = uniform_series(halo_height, radius)
    np.testing.assert_allclose(steady_density(FLAT, halo_height, radius), density, rtol=1e-7, atol=1e-19)
    np.testing.assert_allclose(log_gradient(FLAT, halo_height, radius), gradient, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize(("radius", "z"), [(8500.0, 0.0), (8500.0, 150.0), (8500.0, 1500.0), (14900.0, -150.0)])
def test_layer_of_finite_height_is_the_series_in_bessel_functions(radius, z):
    density, gradient = uniform_series(3000.0, radius, z=z, height=200.0)
    np.testing.assert_allclose(steady_density(THICK, 3000.0, radius, z), density, rtol=1e-7)
    np.testing.assert_allclose(log_gradient(THICK, 3000.0, radius, z), gradient, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("radius", [2000.0, 8500.0, 20000.0])
@pytest.mark.parametrize("halo_height", [1000.0, 3000.0])
def test_galaxy_is_the_series_in_bessel_functions(halo_height, radius):
    density, gradient = profile_series(halo_height, radius)
    np.testing.assert_allclose(steady_density(GALAXY, halo_height, radius), density, rtol=1e-6)
    np.testing.assert_allclose(log_gradient(GALAXY, halo_height, radius), gradient, rtol=1e-5)


@pytest.mark.parametrize("ratio", [1 / 6, 0.5, 1.0, 2.0])
def test_tiny_disc_is_a_point_source(ratio):
    """Seen from rho: the image sum, its last partial sums averaged, and the K_0 series, which are the same."""
    halo_height, rho = 3000.0, 3000.0 * ratio
    images = np.cumsum((-1.0) ** np.arange(60) * np.r_[1, np.full(59, 2)] / np.hypot(rho, 6000.0 * np.arange(60)))
    while len(images) > 20:
        images = (images[1:] + images[:-1]) / 2
    series = np.sum(special.k0(wavenumbers(halo_height, 2001) * rho)) / (2 * np.pi * halo_height)
    np.testing.assert_allclose(images[-1] / (4 * np.pi), series, rtol=1e-10)
    np.testing.assert_allclose(steady_density(Disc(uniform, edge=0.1), halo_height, rho), series, rtol=1e-7)


@pytest.mark.parametrize("height", [None, 400.0])
def test_galaxy_solves_the_diffusion_equation(height):
    """-laplace n = s(r) w(z), n = 0 on |z| = H and on a wall at 42 kpc, in differences on a grid."""
    halo_height, n_r, n_z = 3000.0, 280, 40
    dr, dz = 42e3 / n_r, halo_height / n_z
    r, z = (np.arange(n_r) + 0.5) * dr, (np.arange(n_z) + 0.5) * dz
    shape = np.where(r < 30e3, (r / 8500) ** 2 * np.exp(-3.53 * (r - 8500) / 8500), 0)
    shape /= np.sum(2 * np.pi * r * dr * shape)
    vertical = np.zeros(n_z)
    if height is None:
        vertical[0] = 1 / (2 * dz)
    else:
        edges = np.exp(-np.arange(n_z + 1) * dz / height)
        vertical = -np.diff(edges) / (2 * dz * (1 - edges[-1]))
    outer, inner = (r + dr / 2) / (r * dr**2), (r - dr / 2) / (r * dr**2)
    radial = sparse.diags([outer + inner, -outer[:-1], -inner[1:]], [0, 1, -1])
    across = np.full(n_z, 2.0)
    across[0], across[-1] = 1.0, 3.0
    up = sparse.diags([across, -np.ones(n_z - 1), -np.ones(n_z - 1)], [0, 1, -1]) / dz**2
    matrix = sparse.kron(radial, sparse.identity(n_z)) + sparse.kron(sparse.identity(n_r), up)
    density = spsolve(matrix.tocsc(), np.outer(shape, vertical).ravel()).reshape(n_r, n_z)
    galaxy = Disc(height=height)
    for row, column in ((20, 10), (56, 5), (56, 20), (120, 10)):
        found = steady_density(galaxy, halo_height, r[row], z[column])
        np.testing.assert_allclose(found, density[row, column], rtol=5e-3)
        slope = (density[row + 1, column] - density[row - 1, column]) / (2 * dr * density[row, column])
        np.testing.assert_allclose(log_gradient(galaxy, halo_height, r[row], z[column]), slope, rtol=1e-2)


# Limits


def test_low_halo_is_the_infinite_sheet():
    total = integrate.quad(lambda r: 2 * np.pi * r * float(case_bhattacharya(r)), 0, 30e3, epsrel=1e-10)[0]
    for radius in (4000.0, 8500.0):
        sheet = float(case_bhattacharya(radius)) / total
        np.testing.assert_allclose(steady_density(GALAXY, 3.0, radius), 3.0 / 2 * sheet, rtol=1e-6)
        np.testing.assert_allclose(steady_density(GALAXY, 3.0, radius, 1.0), (3.0 - 1) / 2 * sheet, rtol=1e-6)
        np.testing.assert_allclose(log_gradient(GALAXY, 3.0, radius), 2 / radius - 3.53 / 8500, rtol=1e-5)


def test_on_the_edge_a_low_halo_holds_half_of_the_sheet():
    np.testing.assert_allclose(steady_density(FLAT, 1.0, 15e3), 0.25 / (np.pi * 15e3**2), rtol=1e-4)


def test_high_halo_is_free_space():
    """At the centre of a uniform disc the mean of 1 / (4 pi K r) is 1 / (2 pi K edge)."""
    np.testing.assert_allclose(steady_density(FLAT, 1e9, 0.0), 1 / (2 * np.pi * 15e3), rtol=1e-4)


@pytest.mark.parametrize("height", [0.0, 1e-4])
def test_thin_layer_is_a_thin_disc(height):
    found = jax.jit(lambda h: disc.steady_density(Disc(height=h), 3000.0))(height)
    np.testing.assert_allclose(found, steady_density(GALAXY, 3000.0), rtol=1e-6)


def test_normalisation_of_the_profile_does_not_matter():
    twice = Disc(lambda r: 2 * case_bhattacharya(r))
    np.testing.assert_allclose(steady_density(twice, 3000.0), steady_density(GALAXY, 3000.0), rtol=1e-13)


def test_lengths_scale_together():
    """n K / (R Q) is one over a length."""
    ten = Disc(uniform, edge=150e3, sun_radius=85e3, height=2000.0)
    np.testing.assert_allclose(10 * steady_density(ten, 30e3), steady_density(THICK, 3000.0), rtol=1e-12)


# Gradients, shapes and batches


def test_dipole_of_the_background_points_to_the_galactic_centre():
    """3 K / c of 20.96 pc at 10 TeV makes 3.14e-3."""
    gradient = jax.jit(disc.log_gradient_vector)(GALAXY, np.array([2000.0, 3000.0]))
    assert gradient.shape == (2, 3)
    np.testing.assert_allclose(fick_dipole(20.96 / 3 * np.eye(3), gradient[1]), [3.14e-3, 0, 0], rtol=2e-3)


@pytest.mark.parametrize(("function", "height"), [(disc.log_gradient, None), (disc.steady_density, 300.0)])
def test_gradients_are_those_of_finite_differences(function, height):
    def scaled(halo_height, sun_radius, edge, size):
        own = Disc(case_bhattacharya, 1e4 * edge, 1e4 * sun_radius, None if height is None else height * size)
        return (1e4 if height is None else 1e6) * function(own, 1e3 * halo_height)

    check_grads(jax.jit(scaled), (3.0, 0.85, 3.0, 1.0), order=1, modes=("rev",), eps=1e-4, rtol=1e-6)


def test_gradient_in_radius_is_the_slope_of_the_density():
    ends = [np.log(steady_density(GALAXY, 3000.0, radius)) for radius in (9099.0, 9101.0)]
    np.testing.assert_allclose(log_gradient(GALAXY, 3000.0, 9100.0), (ends[1] - ends[0]) / 2, rtol=1e-6)


def places_at_the_limits(edge):
    grids = jnp.meshgrid(jnp.array([1e-3, 1.0, 3e3, edge, 1e9]), jnp.array([0.0, 1e-9, 8500.0, edge]))
    return [jnp.ravel(grid) for grid in grids]


@pytest.mark.parametrize("own", [GALAXY, FLAT, THICK], ids=["galaxy", "uniform", "layer"])
def test_nothing_is_nan_at_the_centre_the_edge_and_in_extreme_halos(own):
    places = places_at_the_limits(own.edge)
    assert np.all(steady_density(own, *places) > 0)
    assert np.all(np.isfinite(log_gradient(own, *places)))


@pytest.mark.parametrize("own", [GALAXY, pytest.param(THICK, marks=pytest.mark.slow)], ids=["galaxy", "layer"])
def test_no_derivative_of_the_gradient_is_nan_there(own):
    slopes = jax.grad(lambda h, r, e: disc.log_gradient(Disc(own.shape, e, r, own.height), h), argnums=(0, 1, 2))
    found = jax.jit(jax.vmap(slopes, (0, 0, None)))(*places_at_the_limits(own.edge), own.edge)
    assert np.all(np.isfinite(found))


def test_centre_of_a_disc_has_no_gradient():
    np.testing.assert_allclose(log_gradient(FLAT, 3000.0, 0.0), 0, atol=1e-16)


def test_arguments_broadcast():
    halo_height, radius = np.array([1000.0, 3000.0])[:, None], np.array([5000.0, 8500.0, 11000.0])
    many = steady_density(GALAXY, halo_height, radius)
    assert many.shape == (2, 3)
    np.testing.assert_allclose(many[1, 2], steady_density(GALAXY, 3000.0, 11000.0), rtol=1e-13)
    mapped = jax.jit(jax.vmap(lambda h: disc.steady_density(GALAXY, h, 11000.0)))(halo_height[:, 0])
    np.testing.assert_allclose(mapped, many[:, 2], rtol=1e-12)


# Errors


def test_a_zero_height_is_a_thin_disc():
    assert Disc(height=0.0).height is None and Disc(height=0).height is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edge": 0.0}, "edge of a disc must be finite and above zero, not 0.0"),
        ({"edge": np.nan}, "edge of a disc must be finite"),
        ({"sun_radius": -1.0}, "sun_radius of a disc must be finite and not negative, not -1.0"),
        ({"height": -10.0}, "height of a disc must be finite and not negative"),
        ({"shape": lambda r: 1e3 - r}, "must be finite and not negative up to its edge, not -.* at 1406.25 pc"),
        ({"shape": lambda r: 0 * r}, "not 0 everywhere"),
        ({"shape": lambda r: 1 / r}, "not inf at 0 pc"),
    ],
)
def test_bad_disc(arguments, message):
    with pytest.raises(InputError, match=message):
        Disc(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "halo_height must be finite and above zero, not 0.0"),
        ((np.array([3000.0, -1.0]),), "halo_height must be finite and above zero"),
        ((np.inf,), "halo_height must be finite"),
        ((3000.0, -5.0), "radius must lie between 0 and ten halo heights outside the disc's edge at 30000.0 pc"),
        ((10.0, 31e3), "radius must lie between 0 and ten halo heights"),
        ((3000.0, None, 3000.0), "z must lie inside the halo"),
    ],
)
@pytest.mark.parametrize("function", [disc.steady_density, disc.log_gradient])
def test_bad_place(function, arguments, message):
    with pytest.raises(InputError, match=message):
        function(GALAXY, *arguments)


@pytest.mark.parametrize("disc", [Disc(), Disc(uniform, 15e3)])
def test_a_table_holds_the_integrals_between_its_ends(disc):
    table = tabulate(disc)
    heights = jnp.asarray(np.geomspace(31, 9.9e4, 13))
    both = [jax.vmap(lambda h, d=d: jnp.stack(density_and_gradient(d, h)))(heights) for d in (table, disc)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-8, atol=1e-12)
    slope = jax.grad(lambda h: density_and_gradient(table, h)[1])(3000.0)
    step = (log_gradient(disc, 3030.0) - log_gradient(disc, 2970.0)) / 60
    assert float(slope) == pytest.approx(float(step), rel=1e-3)
    # Beyond its ends the values are held, and nothing is not a number.
    beyond = density_and_gradient(table, 1e7)
    np.testing.assert_allclose(beyond, density_and_gradient(table, 1e5), rtol=1e-12)
    assert np.isfinite(jax.grad(lambda h: density_and_gradient(table, h)[0])(1e7))
