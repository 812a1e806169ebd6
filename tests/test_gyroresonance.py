"""Gyroresonance: paths in single waves against linear theory, sums of them against quasi-linear theory, a mirror."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr.errors import InputError
from diffcr.gyroresonance import Mirror, fewest_waves, measure_single_wave, quasi_linear_slab, single_wave_change
from diffcr.pitch_angle import quasi_linear
from diffcr.spectrum import BendOver, PowerLaw
from diffcr.trajectory import Paths, integrate

SPECTRUM = PowerLaw(slope=5 / 3, smallest=0.05, largest=20.0)
MU = np.array([-0.9, -0.5, -0.2, 0.2, 0.5, 0.9])


# A single wave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("helicity", [-1.0, 0.0, 0.6])
@pytest.mark.parametrize("radius", [0.5, -0.5])
def test_paths_in_a_weak_wave_follow_linear_theory(helicity, radius):
    """Off and on resonance at k mu = +-Omega, with either handedness and charge, in a field of 2 units."""
    mu = np.array([0.5, -0.5, 0.5, -0.5, 0.8])
    ratio = np.array([1.0, 1.0, 0.8, 1.1, 2.0])
    k = ratio * 4.0 / np.abs(mu)
    options = {"rms": 1e-3, "mean_field": 2.0, "helicity": helicity}
    measured = measure_single_wave(k, mu, 5.0, radius, **options, dtype=np.float64, particles=34)
    expected = single_wave_change(k, mu, 5.0, radius, **options)

    np.testing.assert_allclose(measured, expected, rtol=0.02, atol=1e-3 * np.max(expected))


@pytest.mark.parametrize("charge", [1, -1])
def test_a_circular_wave_resonates_with_particles_that_meet_it_turning_as_they_do(charge):
    """Positive helicity and charge: mu > 0. Resonance is where <(change of mu)^2> grows as t^2."""
    change = measure_single_wave(np.full(2, 2.0), np.array([0.5, -0.5]), 15.0, charge, rms=5e-4, helicity=1.0)
    resonant, other = change if charge > 0 else change[::-1]

    np.testing.assert_allclose(resonant, 0.75 * (5e-4 * 15.0) ** 2 / 2, rtol=0.03)
    assert other < 1e-2 * resonant


def test_the_resonance_has_its_peak_at_one_and_the_width_of_the_time():
    ratio = np.linspace(-2, 2, 4001)
    change = single_wave_change(np.abs(ratio) / 0.5, 0.5 * np.sign(ratio), 30.0, 1.0, rms=0.01, helicity=1.0)

    np.testing.assert_allclose(ratio[np.argmax(change)], 1.0, atol=2e-3)
    # sinc^2 x = 1/2 at x = 1.3916, x = (k mu - Omega) t / 2.
    half = ratio[np.asarray(change > change.max() / 2)]
    np.testing.assert_allclose(half.max() - half.min(), 4 * 1.3916 / 30, atol=3e-3)


# Turbulence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("helicity", [0.0, 0.7, -1.0])
@pytest.mark.parametrize("radius", [0.3, -0.3])
@pytest.mark.parametrize("spectrum", [SPECTRUM, BendOver(bend_length=1.0, smallest=0.05, largest=50.0)])
def test_a_dense_comb_of_waves_adds_up_to_quasi_linear_theory(helicity, radius, spectrum):
    """Each wave by itself, <dB^2> shared as P dk: the rate at a late time, with the prefactor pi / 4."""
    time, rms = 150.0, 0.02
    k = np.geomspace(2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest, 60_001)
    share = np.asarray(spectrum.power(k)) * k
    share = share / share.sum()
    options = {"mean_field": 1.5, "helicity": helicity}
    one = [single_wave_change(k, mu, time, radius, rms=1.0, **options) for mu in MU]
    rate = rms**2 * np.array([np.sum(share * np.asarray(each)) for each in one]) / (2 * time)

    expected = quasi_linear_slab(MU, spectrum, radius, rms=rms, **options)
    np.testing.assert_allclose(rate, expected, rtol=0.02, atol=0.02 * np.max(expected))


def test_a_power_law_gives_the_model_of_the_pitch_angle_module():
    """D_0 = (pi / 4) Omega (dB / B_0)^2 (q - 1) x^(1 - q), x = Omega over the lowest wave number, of a wide band."""
    spectrum = PowerLaw(slope=5 / 3, smallest=1e-8, largest=2 * np.pi)
    strength = np.pi / 4 * 10 * 0.01**2 * (2 / 3) * 10 ** (-2 / 3)
    mu = jnp.linspace(-0.99, 0.99, 12)

    found = quasi_linear_slab(mu, spectrum, 0.1, rms=0.01)
    np.testing.assert_allclose(found, quasi_linear(mu, 5 / 3, rate=strength), rtol=1e-4)


def test_no_wave_resonates_outside_the_band_and_none_at_ninety_degrees():
    spectrum = PowerLaw(slope=5 / 3, smallest=2 * np.pi / 4, largest=2 * np.pi / 2)
    found = quasi_linear_slab(np.array([-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6]), spectrum, 1.0, rms=0.1)

    np.testing.assert_array_equal(found > 0, [False, True, False, False, False, True, False])
    gradient = jax.grad(lambda mu: quasi_linear_slab(mu, spectrum, 1.0, rms=0.1))
    assert np.isfinite(gradient(0.0)) and np.isfinite(gradient(0.4))


def test_the_waves_needed_part_by_half_of_what_a_particle_tells_apart():
    number = fewest_waves(SPECTRUM, -0.5, 20.0, mean_field=2.0)
    omega, mu = 4.0, 0.3
    apart = np.log(20.0 / 0.05) * (omega / mu) / number

    np.testing.assert_allclose(apart, 0.5 * 2 * np.pi / (mu * 20.0), rtol=0.01)


# A mirror -----------------------------------------------------------------------------------------------------


def test_a_mirror_field_has_neither_divergence_nor_curl():
    field = Mirror(strength=2.0, length=3.0)
    jacobian = jax.jacfwd(lambda x: field(x[:, None])[:, 0])(jnp.array([0.3, -0.5, 0.8]))

    np.testing.assert_allclose(jnp.trace(jacobian), 0, atol=1e-14)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-14)
    np.testing.assert_allclose(field(jnp.array([[0.0], [0], [3.0]]))[:, 0], [0, 0, 4.0])


def test_particles_turn_round_where_the_field_has_grown_by_the_inverse_square_of_the_sine():
    """(1 - mu^2) / B stays: B = B_0 / (1 - mu_0^2), z = L mu_0 / sqrt(1 - mu_0^2)."""
    mu = np.array([0.3, 0.5, 0.6])
    direction = np.stack([np.sqrt(1 - mu**2), 0 * mu, mu])
    path = integrate(Mirror(), np.zeros((3, 1)), direction, 0.002, 6.0, 2e-4, observe=Paths(10))
    position, motion = path.observed

    np.testing.assert_allclose(position[:, 2].max(axis=0), mu / np.sqrt(1 - mu**2), rtol=0.01)
    np.testing.assert_allclose(position[:, 2].min(axis=0), -mu / np.sqrt(1 - mu**2), rtol=0.01)
    field = np.stack([np.asarray(Mirror()(x)) for x in position[::50]])
    strength = np.linalg.norm(field, axis=1)
    cosine = np.sum(np.asarray(motion)[::50] * field, axis=1) / strength
    np.testing.assert_allclose((1 - cosine**2) / strength / (1 - mu**2), 1.0, atol=0.02)


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan])
def test_a_mirror_needs_a_length(length):
    with pytest.raises(InputError, match="length of a mirror field"):
        Mirror(length=length)
