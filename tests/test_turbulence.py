"""Plane waves and the octave ladder against plain sums of waves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr.errors import InputError
from diffcr.spectrum import BendOver, PowerLaw
from diffcr.turbulence import (
    OctaveLadder,
    PlaneWaves,
    Sum,
    Uniform,
    _cosine,
    _octaves,
    draw_ladder,
    draw_plane_waves,
    num_waves,
    smallest_wavelength,
)

KEY = jax.random.key(7)
BROAD = BendOver()
NARROW = PowerLaw(slope=5 / 3, smallest=0.1, largest=2.0)
DRAWS = {"plane": lambda *a, **k: draw_plane_waves(*a, 60, **k), "ladder": lambda *a, **k: draw_ladder(*a, 10, **k)}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def points(number=40, scale=1.0, dtype=float):
    return jnp.asarray(np.random.default_rng(3).normal(size=(3, number)) * scale, dtype)


def plain_sum(field, x):
    """The waves one after another, with NumPy's cosine in 64 bits."""
    x = np.asarray(x, float)
    if isinstance(field, PlaneWaves):
        q, a, phase = (np.asarray(v, float) for v in (field.wavevector, field.amplitude, field.phase))
        return a @ np.cos(2 * np.pi * (q.T @ x + phase[:, None]))
    q, a, b, e = (np.asarray(v, float) for v in (field.wavevector, field.cosine, field.sine, field.polarisation))
    total = 0
    for j in range(len(a)):
        angle = 2 * np.pi * 2**j * (q.T @ x)
        total = total + a[j][:, None] * np.cos(angle) + b[j][:, None] * np.sin(angle)
    return e @ total


def jacobian(field, x):
    """dB_i / dx_j, shape (i, j, particle)."""
    columns = [jax.jvp(field, (x,), (jnp.zeros_like(x).at[j].set(1),))[1] for j in range(3)]
    return jnp.stack(columns, axis=1)


@each_draw
@pytest.mark.parametrize("helicity", [0.0, 0.7])
def test_the_field_is_the_plain_sum_of_its_waves(draw, helicity):
    field = draw(KEY, BROAD, helicity=helicity)
    x = points()

    np.testing.assert_allclose(field(x), plain_sum(field, x), atol=2e-12)


@each_draw
def test_32_bits_are_enough_within_a_hundred_coherence_lengths(draw):
    """Rounding of the phase grows with distance: 2 pi k r eps of the smallest waves, which have little power."""
    field = draw(KEY, BROAD)
    for scale, limit in ((1.0, 1.5e-5), (10.0, 1.5e-4), (100.0, 1.5e-3)):
        x = points(200, scale, jnp.float32)
        error = np.asarray(field(x), float) - plain_sum(field, x)
        assert field(x).dtype == jnp.float32
        assert np.sqrt(np.mean(error**2)) < limit


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float64, 1e-14), (jnp.float32, 6e-7)])
def test_cosine_and_octaves_are_those_of_the_library(dtype, limit):
    turns = jnp.asarray(np.linspace(-1.3, 1.3, 4001), dtype)
    unit = jnp.ones((1, 1), dtype)

    np.testing.assert_allclose(_cosine(turns), np.cos(2 * np.pi * np.asarray(turns, float)), atol=limit)
    sine = _octaves(turns[None], 0 * unit, unit)[0]
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * np.asarray(turns, float)), atol=limit)


@each_draw
@pytest.mark.parametrize("geometry", ["isotropic", "slab", "2d", "composite"])
def test_no_field_has_a_divergence(draw, geometry):
    gradient = jacobian(draw(KEY, BROAD, geometry=geometry), points())
    divergence = jnp.trace(gradient)

    assert np.sqrt(np.mean(divergence**2)) < 1e-13 * np.sqrt(np.mean(np.sum(gradient**2, axis=(0, 1))))


@each_draw
def test_derivatives_by_position_are_those_of_the_plain_sum(draw):
    field = draw(KEY, NARROW, helicity=0.3)
    x, step = points(6), 1e-5
    for j in range(3):
        shift = np.zeros((3, 1))
        shift[j] = step
        difference = (plain_sum(field, x + shift) - plain_sum(field, x - shift)) / (2 * step)
        np.testing.assert_allclose(jacobian(field, x)[:, j], difference, atol=3e-7)


@each_draw
def test_derivatives_by_every_number_of_the_field_are_right_forward_and_back(draw):
    field, x = draw(KEY, NARROW, helicity=0.3), points(5)

    def loss(field, x):
        return jnp.sum(jnp.sin(field(x)))

    turn = lambda v, i: jnp.asarray(np.random.default_rng(i).normal(size=v.shape))
    change = jax.tree.map(lambda v: turn(v, v.size), eqx.filter(field, eqx.is_array))
    forward = jax.jvp(loss, (field, x), (change, turn(x, 1)))[1]
    back = jax.grad(loss, argnums=(0, 1))(field, x)
    other = sum(
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves((change, turn(x, 1))), strict=True)
    )
    moved = lambda h: loss(jax.tree.map(lambda v, d: v + h * d, field, change), x + h * turn(x, 1))
    difference = (moved(1e-6) - moved(-1e-6)) / 2e-6

    np.testing.assert_allclose(forward, difference, rtol=1e-6)
    np.testing.assert_allclose(other, forward, rtol=1e-12)


@each_draw
def test_second_derivatives_exist(draw):
    """curl curl B of a wave is k^2 B: for one octave of one wavenumber the Laplacian is known."""
    field = draw(KEY, PowerLaw(slope=5 / 3, smallest=0.999999, largest=1.0))
    x = points(3)
    along = lambda j: jnp.zeros_like(x).at[j].set(1)
    first = lambda j: lambda x: jax.jvp(field, (x,), (along(j),))[1]
    laplacian = sum(jax.jvp(first(j), (x,), (along(j),))[1] for j in range(3))

    np.testing.assert_allclose(laplacian, -((2 * np.pi) ** 2) * field(x), rtol=1e-4, atol=1e-4)


@each_draw
def test_the_same_key_gives_the_same_field_in_either_precision(draw):
    field, again, other = draw(KEY, BROAD), draw(KEY, BROAD), draw(jax.random.key(8), BROAD)
    single = draw(KEY, BROAD, dtype=jnp.float32)
    x = points()

    np.testing.assert_array_equal(field(x), again(x))
    assert np.max(np.abs(field(x) - other(x))) > 0.5
    np.testing.assert_allclose(single(x), field(x), atol=1e-4)
    assert single(x.astype(jnp.float32)).dtype == jnp.float32


@each_draw
def test_power_is_rms_squared_in_each_realisation(draw):
    """Space average of a sum of waves of different k: half the sum of squared amplitudes."""
    field = draw(KEY, BROAD, rms=2.5)
    if isinstance(field, PlaneWaves):
        power = 0.5 * np.sum(field.amplitude**2)
    else:
        power = 0.5 * np.sum(field.cosine**2 + field.sine**2)
    np.testing.assert_allclose(power, 2.5**2, rtol=1e-12)


@each_draw
def test_slab_varies_along_the_axis_only_and_2d_across_it(draw):
    axis = np.array([1.0, 2.0, -0.5])
    axis /= np.linalg.norm(axis)
    x = points(5)
    along = x + 0.37 * axis[:, None]
    across = x + 0.37 * np.cross(axis, [0.2, 0.1, 1.0])[:, None]
    slab, flat = (draw(KEY, NARROW, geometry=g, axis=3 * axis) for g in ("slab", "2d"))

    np.testing.assert_allclose(slab(across), slab(x), atol=1e-12)
    np.testing.assert_allclose(flat(along), flat(x), atol=1e-12)
    assert np.max(np.abs(slab(along) - slab(x))) > 0.1
    assert np.max(np.abs(flat(across) - flat(x))) > 0.1
    for field in (slab, flat):
        np.testing.assert_allclose(axis @ field(x), 0, atol=1e-13)


@each_draw
def test_a_composite_holds_its_share_of_slab(draw):
    field = draw(KEY, NARROW, geometry="composite", slab_fraction=0.3)
    if isinstance(field, PlaneWaves):
        power = np.sum(field.amplitude**2, axis=0)
    else:
        power = np.sum(field.cosine**2 + field.sine**2, axis=0)
    along = np.abs(field.wavevector[2]) > 1e-9

    np.testing.assert_allclose(power[along].sum() / power.sum(), 0.3, rtol=1e-12)


@each_draw
@pytest.mark.parametrize("helicity", [-1.0, 0.4])
def test_positive_helicity_has_its_current_along_the_field(draw, helicity):
    """Each wave has <B . curl B> = sigma k <B^2>; with one k for all, B . curl B averages to sigma k <B^2>."""
    field = draw(KEY, PowerLaw(slope=5 / 3, smallest=0.999999, largest=1.0), helicity=helicity)
    x = points(3000, 30.0)
    g = jacobian(field, x)
    curl = jnp.stack([g[2, 1] - g[1, 2], g[0, 2] - g[2, 0], g[1, 0] - g[0, 1]])
    ratio = jnp.mean(jnp.sum(curl * field(x), 0)) / (2 * np.pi * jnp.mean(jnp.sum(field(x) ** 2, 0)))

    np.testing.assert_allclose(ratio, helicity, atol=0.06)


def test_a_sum_adds_its_parts_and_knows_the_smallest_wave():
    ladder = draw_ladder(KEY, NARROW, 4)
    total = Sum((Uniform([0.0, 0.0, 2.0]), ladder))
    x = points(3)

    np.testing.assert_allclose(total(x), ladder(x) + np.array([[0], [0], [2.0]]))
    assert smallest_wavelength(total) == 0.1
    assert smallest_wavelength(Uniform([0.0, 0.0, 1.0])) == np.inf
    assert num_waves(total) == 4 * 5
    assert num_waves(draw_plane_waves(KEY, NARROW, 7)) == 7


def test_fields_can_be_drawn_and_evaluated_for_many_keys_at_once():
    keys = jax.random.split(KEY, 3)
    fields = jax.vmap(lambda key: draw_ladder(key, NARROW, 6))(keys)
    x = points(4)
    together = eqx.filter_vmap(lambda field: field(x))(fields)

    assert isinstance(fields, OctaveLadder)
    np.testing.assert_allclose(together[1], draw_ladder(keys[1], NARROW, 6)(x), atol=1e-12)


@each_draw
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "cubic"}, "geometry of turbulence must be isotropic, slab, 2d or composite, not 'cubic'"),
        ({"rms": -1.0}, "rms of turbulence"),
        ({"rms": np.nan}, "rms of turbulence"),
        ({"helicity": 1.5}, "helicity of turbulence lies between -1 and 1"),
        ({"helicity": 0.5, "geometry": "2d"}, "can have no helicity"),
        ({"slab_fraction": 2.0}, "slab_fraction lies between 0 and 1"),
        ({"axis": (0.0, 0.0, 0.0)}, "axis of turbulence must be three finite numbers"),
    ],
)
def test_bad_numbers_of_a_draw_are_named(draw, options, message):
    with pytest.raises(InputError, match=message):
        draw(KEY, NARROW, **options)


@pytest.mark.parametrize("number", [0, -3, True])
def test_a_number_of_waves_is_a_whole_one(number):
    with pytest.raises(InputError, match="whole number of waves"):
        draw_plane_waves(KEY, NARROW, number)
    with pytest.raises(InputError, match="whole number of directions"):
        draw_ladder(KEY, NARROW, number)
    with pytest.raises(InputError, match="needs at least 2 directions"):
        draw_ladder(KEY, NARROW, 1, geometry="composite")
