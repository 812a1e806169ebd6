"""The spiral and the halo: against the published definition written out, and their divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr.galactic_field import GalacticField, SpiralDisc, ToroidalHalo

KPC = 1000.0


def published(position, strength=2.0, pitch=np.radians(-6.0), reversal=-0.6, sun=8.5):
    """Pshirkov et al. (2011) in kpc and in cylinder coordinates of the Galaxy, above the core."""
    x, y, z = position / KPC
    r, theta = np.hypot(x - sun, y), np.arctan2(y, sun - x)
    b, phi = 1 / np.tan(pitch), np.log(1 + reversal / sun) / np.tan(pitch) - np.pi / 2
    size = strength * sun / (r * np.cos(phi)) * np.cos(theta - b * np.log(r / sun) + phi) * np.exp(-np.abs(z))
    outwards = np.array([-np.cos(theta), np.sin(theta), 0 * z])
    clockwise = np.array([np.sin(theta), np.cos(theta), 0 * z])
    width = np.where(np.abs(z) < 1.3, 0.25, 0.4)
    halo = np.sign(z) * 4 * r / 8 * np.exp(1 - r / 8) / (1 + ((np.abs(z) - 1.3) / width) ** 2)
    return size * (np.sin(pitch) * outwards + np.cos(pitch) * clockwise) - halo * clockwise


def places(number=500, seed=0):
    position = np.random.default_rng(seed).uniform(-16, 16, (3, number)) * KPC
    return position * np.array([[1.0], [1.0], [0.2]]) + np.array([[8.5 * KPC], [0], [0]])


def test_field_is_the_published_one_outside_the_core():
    position = places()
    outside = np.hypot(position[0] - 8.5 * KPC, position[1]) > 5 * KPC
    got = np.asarray(GalacticField()(jnp.asarray(position)))
    np.testing.assert_allclose(got[:, outside], published(position)[:, outside], atol=1e-11)


def test_field_is_divergence_free_everywhere():
    field = GalacticField()
    gradient = jax.jit(jax.vmap(jax.jacfwd(lambda x: field(x[:, None])[:, 0])))(jnp.asarray(places(seed=1)).T)
    size = np.linalg.norm(gradient, axis=(1, 2))
    assert np.max(np.abs(np.trace(gradient, axis1=1, axis2=2)) / size) < 1e-12


def test_field_is_continuous_at_the_core_and_vanishes_at_the_centre():
    azimuth = np.linspace(0, 6, 50)
    around = np.stack([np.cos(azimuth), np.sin(azimuth), 0.1 + 0 * azimuth])
    centre = np.array([[8.5 * KPC], [0], [0]])
    near = [SpiralDisc()(jnp.asarray(centre + r * KPC * around)) for r in (4.999999, 5.000001)]
    np.testing.assert_allclose(*near, atol=1e-4)
    assert np.all(np.asarray(GalacticField()(jnp.asarray(centre))) == 0)
    # It falls linearly.
    assert np.max(np.abs(SpiralDisc()(jnp.asarray(centre + 1e-3 * KPC * around)))) < 0.02


def test_field_at_the_sun_points_to_the_pitch_beyond_ninety_degrees():
    field = np.asarray(SpiralDisc()(jnp.zeros((3, 1))))[:, 0]
    np.testing.assert_allclose(field, 2 * np.array([np.cos(np.radians(84)), np.sin(np.radians(84)), 0]), atol=1e-12)


def test_field_reverses_towards_the_centre_where_it_was_put():
    toward = jnp.asarray([[599.0, 0, 0], [600.0, 0, 0], [601.0, 0, 0], [-599.0, 0, 0]]).T
    along = np.asarray(SpiralDisc()(toward))[1]
    np.testing.assert_allclose(along[1], 0, atol=1e-12)
    assert along[0] > 0 > along[2]
    assert along[3] > 0
    moved = SpiralDisc(reversal=-1.0 * KPC)
    np.testing.assert_allclose(moved(jnp.asarray([[1000.0, 0, 0]]).T), 0, atol=1e-12)


def test_disc_turns_its_sign_on_half_a_turn_and_falls_with_height():
    position = places(50, seed=2)
    opposite = position * np.array([[-1.0], [-1.0], [1.0]]) + np.array([[17 * KPC], [0], [0]])
    disc = SpiralDisc()
    # As a vector that is turned along it is the same: bisymmetric.
    got, other = (np.asarray(disc(jnp.asarray(x))) for x in (position, opposite))
    np.testing.assert_allclose(other, got, atol=1e-11)
    higher = position + np.array([[0], [0], [KPC]]) * np.sign(position[2])
    np.testing.assert_allclose(disc(jnp.asarray(higher)), got / np.e, atol=1e-11)


def test_halo_has_its_maximum_its_widths_and_opposite_sides():
    """4 muG at 8 kpc and 1.3 kpc, half at 0.25 below and 0.4 above; anticlockwise in the north."""
    heights = np.array([1.3, 1.05, 1.7, -1.3])
    got = np.asarray(ToroidalHalo()(jnp.asarray([[500.0, 0, z * KPC] for z in heights]).T))
    np.testing.assert_allclose(got[1], [-4, -2, -2, 4], rtol=1e-9)
    np.testing.assert_allclose(got[[0, 2]], 0, atol=1e-12)


def test_halo_can_be_left_out():
    position = jnp.asarray(places(20))
    np.testing.assert_array_equal(GalacticField(halo=None)(position), SpiralDisc()(position))


def test_field_in_32_bits_is_close_to_that_in_64():
    position = jnp.asarray(places(200))
    single = GalacticField()(position.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, GalacticField()(position), atol=1e-3)


@pytest.mark.parametrize("place", [[9000.0, 3000.0, 200.0], [0.0, 0.0, -700.0]])
def test_gradients_are_those_of_finite_differences(place):
    position = jnp.asarray([place]).T

    def size(strength, pitch, north):
        return jnp.sum(GalacticField(SpiralDisc(strength, pitch), ToroidalHalo(north))(position) ** 2)

    check_grads(jax.jit(size), (2.0, -0.12, 3.0), order=1, rtol=1e-5)
