"""Measured D_mumu against closed forms, the Fokker-Planck equation and quasi-linear theory of slab turbulence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr.errors import InputError
from diffcr.gyroresonance import fewest_waves, quasi_linear_slab
from diffcr.pitch_angle import isotropic, parallel_diffusion, require_scattering
from diffcr.pitch_angle_scattering import (
    Changes,
    expected_square,
    measure_changes,
    running_scattering,
    scattering,
    steadiness,
    tabulated,
)
from diffcr.spectrum import BendOver, PowerLaw
from diffcr.turbulence import Sum, Uniform, draw_plane_waves

KEY = jax.random.key(4)
UP = Uniform([0.0, 0.0, 1.0])
SPECTRUM = PowerLaw(slope=5 / 3, smallest=2 * np.pi / 20, largest=2 * np.pi / 0.5)
"""Resonant for Omega = 1 and |mu| from 0.05 on."""


def slab(rms, waves, helicity=0.0, spectrum=SPECTRUM):
    options = {"rms": rms, "geometry": "slab", "helicity": helicity}
    return lambda key: Sum((UP, draw_plane_waves(key, spectrum, waves, **options)))


def theory(rms, radius=1.0, helicity=0.0, spectrum=SPECTRUM):
    """Quasi-linear D with a floor, as nothing diffuses through D = 0."""
    return lambda mu: quasi_linear_slab(mu, spectrum, radius, rms=rms, helicity=helicity) + 1e-3 * rms**2 * (1 - mu**2)


def synthetic(growth, times, noise=0.0, offset=0.0, realisations=5):
    shape = (realisations, len(times), 1)
    noise = noise * np.random.default_rng(0).normal(size=shape)
    return Changes(times, np.array([0.0, 0.5]), offset + 2 * growth * times[:, None] + noise, np.zeros(shape))


# Bins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (1.0, -2.0, 0.5)])
def test_mu_is_kept_in_the_mean_field(axis):
    field = Uniform(np.asarray(axis) / np.linalg.norm(axis))
    options = {"extent": 1.0, "particles": 20, "samples": 4, "axis": axis}
    changes = measure_changes([field] * 2, 0.5, 5.0, 0.05, KEY, **options, dtype=np.float64)

    assert changes.square.shape == (2, 5, 20) or changes.square.shape == (2, 4, 20)
    assert np.max(changes.square) < 1e-24


def test_particles_begin_in_their_bins_with_all_gyrophases():
    """About a field across the axis mu turns as mu cos(t) - n_y sin(t), with <n_y^2> = (1 - mu^2) / 2 of a bin."""
    edges = np.array([-1.0, -0.4, 0.2, 0.3, 0.9])
    options = {"edges": edges, "particles": 1000, "samples": 4, "extent": 0.0, "dtype": np.float64}
    changes = measure_changes([Uniform([1.0, 0.0, 0.0])] * 4, 1.0, 2.0, 0.05, KEY, **options)
    mean = (edges[1:] + edges[:-1]) / 2
    square = (edges[1:] ** 3 - edges[:-1] ** 3) / np.diff(edges) / 3
    t = changes.times[:, None]

    np.testing.assert_allclose(changes.mu, mean)
    np.testing.assert_allclose(changes.mean.mean(axis=0), mean * (np.cos(t) - 1), atol=0.03)
    expected = square * (1 - np.cos(t)) ** 2 + (1 - square) / 2 * np.sin(t) ** 2
    np.testing.assert_allclose(changes.square.mean(axis=0), expected, atol=0.03)


# The coefficient ----------------------------------------------------------------------------------------------


def test_the_coefficient_is_half_the_growth_whatever_waves_out_of_resonance_add():
    times = np.arange(1, 21) / 2
    found = scattering(synthetic(0.01, times, noise=1e-3, offset=0.3), (2.0, 10.0))

    assert abs(found.value[0] - 0.01) < 4 * found.error[0] < 4 * 1e-3 / 8
    steady = steadiness(synthetic(0.01, times, offset=0.3), (2.0, 10.0))
    np.testing.assert_allclose(steady.value, 1.0)
    running = running_scattering(synthetic(0.01, times, offset=0.3))
    np.testing.assert_allclose(running.value[:, 0], 0.01 + 0.15 / times)
    # Saturated: no growth in the second half.
    saturated = Changes(
        times, np.array([0.0, 1.0]), np.minimum(times, 6)[:, None] * np.ones((3, 20, 1)), np.zeros((3, 20, 1))
    )
    np.testing.assert_allclose(steadiness(saturated, (2.0, 10.0)).value, 0.0, atol=1e-12)


def test_expected_changes_are_those_of_isotropic_scattering():
    """mu decays with nu, P_2(mu) with 3 nu: of isotropising diffusion in closed form."""
    edges, times = np.array([-1.0, -0.5, 0.1, 0.7]), np.array([0.01, 0.3, 2.0])
    found = expected_square(lambda mu: isotropic(mu, 1.5), edges, times, cells=200)
    mean_square = (edges[1:] ** 3 - edges[:-1] ** 3) / np.diff(edges) / 3
    first, second = np.exp(-1.5 * times)[:, None], np.exp(-4.5 * times)[:, None]

    expected = 1 / 3 + (mean_square - 1 / 3) * second + mean_square * (1 - 2 * first)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_the_growth_slows_as_the_curvature_of_d_says():
    """D + (3 D D'' + 2 D'^2) t, here of D = (1 - mu^2)(1 + mu^2) = 1 - mu^4."""
    mu, step = 0.5, 2e-3
    edges = np.array([mu - 2e-3, mu + 2e-3])
    found = expected_square(lambda mu: 1 - mu**4, edges, np.array([step, 2 * step]), cells=400)[:, 0]
    d, first, second = 1 - mu**4, -4 * mu**3, -12 * mu**2
    series = lambda t: 2 * d * t + (3 * d * second + 2 * first**2) * t**2

    np.testing.assert_allclose(found, series(np.array([step, 2 * step])), rtol=3e-3)
    assert abs((3 * d * second + 2 * first**2) * step / d) > 0.005


# Slab turbulence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("radius", "helicity"), [(1.0, 0.0), (-1.0, 0.9)])
def test_weak_slab_turbulence_scatters_as_quasi_linear_theory_says(radius, helicity):
    """To 15 per cent in each bin: the prefactor, and with helicity the side on which a negative charge resonates."""
    rms, edges, window = 0.02, np.array([-0.9, -0.7, -0.5, -0.3, 0.3, 0.5, 0.7, 0.9]), (8.0, 24.0)
    waves = 3 * fewest_waves(SPECTRUM, radius, 24.0)
    options = {"edges": edges, "extent": 3000.0, "realisations": 6, "particles": 200, "samples": 3}
    changes = measure_changes(slab(rms, waves, helicity), radius, 24.0, 0.2, KEY, **options)

    found = scattering(changes, window)
    square = expected_square(theory(rms, radius, helicity), edges, np.array(window), cells=200)
    expected = (square[1] - square[0]) / (2 * (window[1] - window[0]))
    kept = np.abs(changes.mu) > 0.3
    np.testing.assert_allclose(found.value[kept], expected[kept], atol=0.15 * expected.max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spectrum", "helicity", "radius"),
    [
        (SPECTRUM, 0.0, 1.0),
        (SPECTRUM, 1.0, 1.0),
        (SPECTRUM, 1.0, -1.0),
        (BendOver(1.5, 5 / 3, smallest=2 * np.pi / 20, largest=2 * np.pi / 0.2), 0.0, 1.0),
        (PowerLaw(slope=1.2, smallest=2 * np.pi / 20, largest=2 * np.pi / 0.5), 0.0, -1.0),
    ],
)
def test_quasi_linear_scattering_is_reproduced_to_its_errors(spectrum, helicity, radius):
    """Away from mu = 0, where resonances have a width; the mean over bins has an error of 2.5 per cent."""
    rms, duration = 0.02, 60.0
    waves = 3 * fewest_waves(spectrum, radius, duration)
    options = {"extent": 3000.0, "realisations": 8, "particles": 150, "samples": 4}
    changes = measure_changes(slab(rms, waves, helicity, spectrum), radius, duration, 0.15, KEY, **options)

    found = scattering(changes, (15.0, duration))
    square = expected_square(theory(rms, radius, helicity, spectrum), changes.edges, np.array([15.0, duration]))
    expected = (square[1] - square[0]) / (2 * (duration - 15.0))
    resonant = (np.abs(changes.mu) > 0.2) & (expected > 0.1 * expected.max())
    ratio = found.value[resonant] / expected[resonant]
    np.testing.assert_allclose(ratio.mean(), 1.0, atol=0.08)
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)
    silent = (np.abs(changes.mu) > 0.2) & ~resonant
    assert np.all(np.abs(found.value[silent]) < 0.02 * expected.max())


# Use ----------------------------------------------------------------------------------------------------------


def test_a_table_is_taken_by_the_pitch_angle_module():
    """kappa_par = 1 / (3 nu) for D = nu (1 - mu^2) / 2, exact on any table; within errors of the table otherwise."""
    mu = np.linspace(-0.95, 0.95, 20)
    table = require_scattering(tabulated(mu, 0.5 * 3.0 * (1 - mu**2)))
    np.testing.assert_allclose(parallel_diffusion(table), 1 / 9, rtol=1e-6)

    d = lambda mu: (1 - mu**2) * (0.1 + mu**2)
    table = tabulated(mu, d(mu), even=True)
    np.testing.assert_allclose(table(jnp.asarray(mu)), d(mu))
    np.testing.assert_allclose(parallel_diffusion(table), parallel_diffusion(d), rtol=0.02)
    skew = tabulated(mu, d(mu) * (1 + 0.5 * mu), even=True)
    np.testing.assert_allclose(skew(jnp.asarray(mu)), d(mu))


@pytest.mark.parametrize(
    ("mu", "values", "even", "message"),
    [
        ([0.1, 0.1], [1.0, 1.0], False, "ascending mu inside"),
        ([0.1, 1.0], [1.0, 1.0], False, "ascending mu inside"),
        ([0.1, 0.2], [1.0, -1.0], False, "not -1 at mu = 0.2"),
        ([0.1, 0.2], [1.0, 1.0], True, "use symmetric bins"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(mu, values, even, message):
    with pytest.raises(InputError, match=message):
        tabulated(np.array(mu), np.array(values), even)


def test_windows_edges_and_numbers_out_of_range_are_refused():
    times = np.arange(1, 5) / 4
    changes = synthetic(0.01, times)
    for window in ((0.5, 2.0), (0.5, 0.5), (0.0, 1.0), (0.5, 0.51)):
        with pytest.raises(InputError, match="a window of times must ascend"):
            scattering(changes, window)
    with pytest.raises(InputError, match="two halves"):
        steadiness(changes, (0.75, 1.0))
    for edges in ([0.1], [0.2, 0.1], [-1.2, 0.0]):
        with pytest.raises(InputError, match="edges of bins of mu"):
            measure_changes([UP] * 2, 1.0, 1.0, 0.1, KEY, extent=0.0, edges=np.array(edges))
    with pytest.raises(InputError, match="extent"):
        measure_changes([UP] * 2, 1.0, 1.0, 0.1, KEY, extent=-1.0)
