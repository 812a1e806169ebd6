"""diffcr.turbulence_grid against explicit Fourier sums in NumPy, closed forms, and symmetries."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.test_util import check_grads

from diffcr import turbulence_grid
from diffcr.errors import InputError
from diffcr.spectrum import BendOver, PowerLaw, UserSpectrum
from diffcr.turbulence_grid import draw_grids, grid_memory

SPECTRUM = PowerLaw(5 / 3, smallest=1.0, largest=8.0)
"""Three octaves: three levels of 16 cells."""
OCTAVE = PowerLaw(5 / 3, smallest=4.0, largest=8.0)
"""One level of 16 cells."""
KEY = jax.random.key(3)
both = pytest.mark.parametrize("interpolation", ["linear", "cubic"])


@functools.cache
def drawn(interpolation="linear", **options):
    return draw_grids(KEY, SPECTRUM, 16, interpolation=interpolation, **options)


draw_waves = jax.jit(turbulence_grid._waves)


@eqx.filter_jit
def evaluate(field, position):
    return field(position)


@eqx.filter_jit
def gradient(field, position):
    """dB_i / dx_j, shape (i, particle, j): particles do not feel each other."""
    shift = jnp.eye(3, dtype=position.dtype)[:, :, None] * jnp.ones_like(position)
    return jax.vmap(lambda tangent: jax.jvp(field, (position,), (tangent,))[1], out_axes=-1)(shift)


def points(number=1000, scale=100.0):
    return jnp.asarray(np.random.default_rng(0).uniform(-scale, scale, (3, number)))


def waves_of(field, helicity=0.0, spectrum=SPECTRUM):
    """Wavevectors (in the frame of positions) and amplitudes of all waves of both signs, level by level."""
    levels = field.rotation.shape[0]
    period = np.asarray(field.periods)
    longest = spectrum.largest * (spectrum.smallest / spectrum.largest) ** (np.arange(levels) / levels)
    ratio = (spectrum.largest / spectrum.smallest) ** (1 / levels)
    moduli = turbulence_grid._moduli(spectrum, period, round(period[0] / longest[0]), ratio)
    keys = jax.random.split(jax.random.split(KEY)[1], levels)
    for level in range(levels):
        b = np.asarray(draw_waves(keys[level], moduli[level], jnp.asarray(helicity)))
        n = turbulence_grid._lattice(b.shape[-1] - 1)
        b, n = b.reshape(3, -1), n.reshape(3, -1)
        b, n = np.concatenate([b, b[:, n[2] > 0].conj()], 1), np.concatenate([n, -n[:, n[2] > 0]], 1)
        used = np.any(b != 0, axis=0)
        rotation = np.asarray(field.rotation[level])
        yield 2 * np.pi / period[level] * rotation.T @ n[:, used], rotation.T @ b[:, used]


def fourier_sum(field, position, spectrum=SPECTRUM):
    total = 0
    for k, b in waves_of(field, spectrum=spectrum):
        total = total + b @ np.exp(1j * k.T @ position)
    return total


# The field ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interpolation", "degree"), [("linear", 1), ("cubic", 2)])
def test_the_field_is_its_fourier_sum_up_to_aliases(interpolation, degree):
    """A spline of degree d with a wave's coefficients adds waves theta + 2 pi m with (theta / (theta + 2 pi m))^(d + 1)
    of its amplitude, theta = k h."""
    field, position = drawn(interpolation), points()
    exact = fourier_sum(field, position)
    np.testing.assert_allclose(exact.imag, 0, atol=1e-12)
    difference = np.asarray(evaluate(field, position)) - exact.real

    expected = 0
    alias = 2 * np.pi * np.arange(-20, 21)
    for level, (k, b) in enumerate(waves_of(field)):
        rotation = np.asarray(field.rotation[level])
        theta = rotation @ k * float(field.periods[level]) / 16
        theta = np.where(np.abs(theta) < 1e-9, 1e-9, theta)
        gain = {
            d: np.sum(np.abs(theta[..., None] / (theta[..., None] + alias)) ** (2 * d + 2), axis=-1)
            for d in (degree, degree + 1)
        }
        for axis in range(3):
            factor = np.prod([gain[degree + (i == axis)][i] for i in range(3)], axis=0) - 1
            expected = expected + np.sum(np.abs((rotation @ b)[axis]) ** 2 * factor)
    assert np.mean(np.sum(difference**2, axis=0)) == pytest.approx(expected, rel=0.1)
    assert expected < {1: 3e-3, 2: 2e-4}[degree]


@both
def test_finer_cells_come_closer_to_the_sum(interpolation):
    """Aliases of p = 1 fall as h^2, of p = 2 as h^3: with twice as many cells per wave at least 3 and 6 times."""
    position = points()
    errors = []
    for cells in (16, 32):
        field = draw_grids(KEY, OCTAVE, cells, interpolation=interpolation)
        difference = evaluate(field, position) - fourier_sum(field, position, OCTAVE).real
        errors.append(np.sqrt(np.mean(np.asarray(difference) ** 2)))
    assert errors[0] / errors[1] > {"linear": 3, "cubic": 6}[interpolation]


@both
def test_the_divergence_vanishes_everywhere(interpolation):
    slope = np.asarray(gradient(drawn(interpolation), points()))
    size = np.sqrt(np.mean(np.sum(slope**2, axis=(0, 2))))
    assert np.max(np.abs(np.einsum("ini->n", slope))) < 1e-13 * size
    assert np.sqrt(np.mean(slope[0, :, 1] ** 2)) > 0.1 * size


def test_the_divergence_vanishes_in_32_bits_to_their_rounding():
    field = drawn(dtype=jnp.float32)
    slope = np.asarray(gradient(field, jnp.asarray(points(), jnp.float32)), float)
    size = np.sqrt(np.mean(np.sum(slope**2, axis=(0, 2))))
    assert np.max(np.abs(np.einsum("ini->n", slope))) < 3e-6 * size


@both
def test_derivatives_are_those_of_the_field(interpolation):
    """Central differences within a cell; forward and reverse mode."""
    field, position = drawn(interpolation), points()
    for axis in range(3):
        shift = 1e-6 * np.eye(3)[axis][:, None]
        numeric = (evaluate(field, position + shift) - evaluate(field, position - shift)) / 2e-6
        np.testing.assert_allclose(gradient(field, position)[..., axis], numeric, atol=1e-6)
    check_grads(jax.jit(lambda x: field(x)), (position[:, :40],), order=1, modes=["rev"], rtol=1e-5)


@both
def test_only_cubic_derivatives_are_continuous(interpolation):
    """Across the faces of the cells of a cube, where the polynomials change."""
    field = draw_grids(KEY, OCTAVE, 16, interpolation=interpolation)
    rotation, cell = np.asarray(field.rotation[0]), float(field.periods[0]) / 16
    at = np.random.default_rng(1).uniform(0, 16, (3, 1000))
    at[0] = np.round(at[0])
    sides = [rotation.T @ (cell * (at + sign * 1e-7 * np.eye(3)[0][:, None])) for sign in (-1, 1)]
    values, slopes = ([np.asarray(f(field, x)) for x in sides] for f in (evaluate, gradient))
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    jump = np.max(np.abs(slopes[0] - slopes[1]))
    assert jump < 1e-5 if interpolation == "cubic" else jump > 0.1


def test_one_level_is_periodic_along_its_axes_and_several_are_not():
    field, position = draw_grids(KEY, OCTAVE, 16), points()
    for axis in range(3):
        shift = np.asarray(field.periods[0] * field.rotation[0][axis])[:, None]
        for turns in (1, -3, 1000):
            np.testing.assert_allclose(evaluate(field, position + turns * shift), evaluate(field, position), atol=1e-10)
        assert np.max(np.abs(evaluate(field, position + shift / 2) - evaluate(field, position))) > 0.1
    field = drawn()
    for level in range(3):
        shift = np.asarray(field.periods[0] * field.rotation[level][0])[:, None]
        assert np.max(np.abs(evaluate(field, position + shift) - evaluate(field, position))) > 0.1


@both
def test_32_bit_positions_are_as_good_far_away_as_nearby(interpolation):
    """The field of 64 bits at the same position. A position reduced by a plain product would be off by 1e-2 of
    the smallest wave at 1000 of the largest."""
    field, half = drawn(interpolation), drawn(interpolation, dtype=jnp.float32)
    for distance in (1.0, 1e2, 1e4):
        position = jnp.asarray(points(scale=distance), jnp.float32)
        value = evaluate(half, position)
        assert value.dtype == jnp.float32
        error = np.asarray(value, float) - np.asarray(evaluate(field, position.astype(jnp.float64)))
        assert np.sqrt(np.mean(np.sum(error**2, axis=0))) < 2e-6


def test_each_precision_takes_positions_of_the_other():
    position = points()
    low, high = drawn(dtype=jnp.float32), drawn()
    assert evaluate(low, position).dtype == jnp.float64
    assert evaluate(high, jnp.asarray(position, jnp.float32)).dtype == jnp.float32
    np.testing.assert_allclose(evaluate(low, position), evaluate(high, position), atol=1e-5)


def test_the_draw_is_the_same_where_jax_has_no_64_bits():
    position = np.asarray(points(), np.float32)
    expected = evaluate(drawn(), position.astype(float))
    with jax.enable_x64(False):
        field = draw_grids(jax.random.key(3), SPECTRUM, 16)
        assert field.table.dtype == jnp.float32
        found = np.asarray(evaluate(field, jnp.asarray(position)))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_position_that_is_no_number_gives_none():
    value = evaluate(drawn(), jnp.array([[0.0, jnp.nan, jnp.inf], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(value[:, 0]).all()
    assert np.isnan(value[:, 1:]).all()


# Its waves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("helicity", [0.0, 0.6, -1.0])
def test_waves_are_real_transverse_and_helical(helicity):
    """b_-k = b_k^*, k . b = 0, and <B . curl B> = sigma k <B^2> of all waves of one k."""
    for k, b in waves_of(drawn(), helicity):
        length = np.linalg.norm(k, axis=0)
        np.testing.assert_allclose(np.sum(k / length * b, axis=0), 0, atol=1e-14)
        order, back = (np.lexsort(np.round(s * k, 6)) for s in (1, -1))
        np.testing.assert_allclose(b[:, order], b[:, back].conj(), atol=1e-14)
        curl = np.cross(1j * k, b, axis=0)
        power = np.sum(np.abs(b) ** 2, axis=0)
        np.testing.assert_allclose(np.sum(b.conj() * curl, axis=0), helicity * length * power, atol=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_field_turns_with_its_helicity(sign):
    """Curl B is along B for sigma = 1, against it for -1."""
    field, position = drawn("cubic", helicity=float(sign)), points()
    slope, value = np.asarray(gradient(field, position)), np.asarray(evaluate(field, position))
    curl = np.stack([slope[(i + 2) % 3, :, (i + 1) % 3] - slope[(i + 1) % 3, :, (i + 2) % 3] for i in range(3)])
    expected = sum(np.sum(np.linalg.norm(k, axis=0) * np.sum(np.abs(b) ** 2, axis=0)) for k, b in waves_of(field))
    assert np.mean(np.sum(value * curl, axis=0)) == pytest.approx(sign * expected, rel=0.1)


@pytest.mark.parametrize(("cells", "slope"), [(16, 5 / 3), (20, 0.0), (64, 1.5)])
def test_each_wavenumber_has_the_power_of_those_nearest_to_it(cells, slope):
    """A power law integrates to (k2^(1 - q) - k1^(1 - q)) over that of the band; levels meet without gap or overlap."""
    spectrum = PowerLaw(slope, smallest=1.0, largest=8.0)
    field = draw_grids(KEY, spectrum, cells)
    levels, total = field.rotation.shape[0], 0
    share = lambda low, high: (low ** (1 - slope) - high ** (1 - slope)) / (1 - 8.0 ** (1 - slope))
    for level, (k, b) in enumerate(waves_of(field, spectrum=spectrum)):
        power, length = np.sum(np.abs(b) ** 2, axis=0), np.linalg.norm(k, axis=0) * 8 / (2 * np.pi)
        low, high = 8.0 ** (np.array([level, level + 1]) / levels)
        found = np.unique(np.round(length, 9))
        edge = np.concatenate([[low], (found[1:] + found[:-1]) / 2, [high]])
        assert low - 1e-8 < found[0] and found[-1] < high
        np.testing.assert_allclose(
            np.histogram(length, edge - 1e-8, weights=power)[0], share(edge[:-1], edge[1:]), rtol=1e-7
        )
        # Waves of one length have the same.
        first = power[np.abs(length - found[1]) < 1e-8]
        assert len(first) >= 24
        np.testing.assert_allclose(first, first[0], rtol=1e-12)
        total += np.sum(power)
    assert total == pytest.approx(1.0, rel=1e-12)


def test_the_correlation_is_that_of_the_spectrum():
    """int P sin(k s) / (k s) dk over int P dk, by scipy; the lattice's, averaged over its rotations."""
    spectrum = BendOver(smallest=0.25, largest=16.0)
    field = draw_grids(KEY, spectrum, 64)
    assert field.rotation.shape[0] == 2
    distance = np.array([0.05, 0.3, 1.0, 2.0, 5.0])
    found = 0
    for k, b in waves_of(field, spectrum=spectrum):
        length = np.linalg.norm(k, axis=0)
        found = found + np.sinc(distance[:, None] * length / np.pi) @ np.sum(np.abs(b) ** 2, axis=0)
    shape = lambda k: k**2 / (1 + k ** (11 / 3))
    integral = lambda f: scipy.integrate.quad(f, 2 * np.pi / 16, 2 * np.pi / 0.25, limit=500)[0]
    norm = integral(shape)
    expected = [integral(lambda k, s=s: shape(k) * np.sinc(k * s / np.pi)) / norm for s in distance]
    np.testing.assert_allclose(found, expected, atol=1.5e-3)


def test_a_line_in_the_spectrum_keeps_its_power():
    """Narrower than the spacing of the wavevectors, and nothing in the other level."""
    line = UserSpectrum(lambda k: jnp.exp(-(((k - 1.2) / 0.01) ** 2)), smallest=2.0, largest=8.0)
    power = [np.sum(np.abs(b) ** 2) for _, b in waves_of(draw_grids(KEY, line, 16), spectrum=line)]
    np.testing.assert_allclose(power, [1, 0], atol=1e-6)


def test_the_ensemble_is_isotropic_with_its_variance():
    """<B_i B_j> = rms^2 delta_ij / 3 over draws, which a vmap makes; so are the derivatives across and along."""
    keys, position = jax.random.split(jax.random.key(0), 300), points(60)

    def both_of(key):
        field = draw_grids(key, SPECTRUM, 16, rms=2.0)
        return field(position), jax.jvp(field, (position,), (jnp.ones_like(position) / np.sqrt(3),))[1]

    value, slope = (np.asarray(v) for v in jax.jit(lambda keys: jax.lax.map(both_of, keys))(keys))
    covariance = np.einsum("kin,kjn->kij", value, value) / position.shape[1]
    error = np.std(covariance, axis=0) / np.sqrt(len(keys))
    assert np.max(error) < 0.02
    aliases = 1.003
    assert np.max(np.abs(covariance.mean(0) - aliases * 4 / 3 * np.eye(3)) / error) < 4.0
    # d/ds of the component along s has half the variance of either component across: <(dB_i/dx_j)^2> = 1 : 2.
    along = np.ones(3) / np.sqrt(3)
    tensor = np.einsum("kin,kjn->ij", slope, slope) / slope.shape[0] / slope.shape[2]
    across = (np.trace(tensor) - along @ tensor @ along) / 2
    assert along @ tensor @ along / across == pytest.approx(0.5, rel=0.04)


def test_orientations_are_rotations_even_over_all():
    """<R_ij R_kl> = delta_ik delta_jl / 3 of the uniform measure."""
    rotation = turbulence_grid._orientations(np.array([1.0, 0.3]))[0][:, 0]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-12)
    np.testing.assert_allclose(rotation.mean(0), 0, atol=0.01)
    second = np.einsum("rij,rkl->ijkl", rotation, rotation) / len(rotation)
    np.testing.assert_allclose(second, np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3, atol=0.01)


# Draws --------------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_field_and_another_another():
    again, other = draw_grids(KEY, SPECTRUM, 16), draw_grids(jax.random.key(4), SPECTRUM, 16)
    position = points()
    np.testing.assert_array_equal(evaluate(again, position), evaluate(drawn(), position))
    assert np.max(np.abs(evaluate(other, position) - evaluate(drawn(), position))) > 0.5
    assert len({tuple(np.ravel(r)) for r in np.asarray(drawn().rotation)}) == 3


@pytest.mark.parametrize(
    ("cells", "levels", "expected", "waves"),
    [(64, None, 5, 2), (256, None, 3, 2), (64, 14, 14, 4), (80001, None, 1, 2)],
)
def test_levels_reach_from_the_largest_to_the_smallest_wave(cells, levels, expected, waves, monkeypatch):
    """As few as give each shortest wave four cells, and each longest two waves a cube."""
    monkeypatch.setattr(turbulence_grid, "_require_memory", lambda *_: None)
    monkeypatch.setattr(turbulence_grid, "_table", lambda *_, **__: jnp.zeros(1))
    monkeypatch.setattr(turbulence_grid, "_moduli", lambda *_: jnp.zeros(1))
    field = draw_grids(KEY, BendOver(), cells, levels)
    assert field.smallest_wavelength == 0.01
    assert field.periods.shape == (expected,)
    ratio = 1e4 ** (1 / expected)
    np.testing.assert_allclose(field.periods, waves * 100 / ratio ** np.arange(expected), rtol=1e-12)
    assert float(field.periods[-1]) / cells <= 0.01 / 4 * (1 + 1e-9)


def test_derivatives_pass_through_a_draw():
    """B is linear in rms; the power of a level depends on the slope."""
    position = points(20)

    def mean_square(rms, slope):
        field = draw_grids(KEY, PowerLaw(slope, smallest=1.0, largest=8.0), 16, rms=rms)
        return jnp.mean(field(position) ** 2)

    value, (by_rms, by_slope) = jax.jit(jax.value_and_grad(mean_square, (0, 1)))(1.5, 1.7)
    assert float(by_rms) == pytest.approx(2 * float(value) / 1.5, rel=1e-9)
    numeric = (mean_square(1.5, 1.7 + 1e-4) - mean_square(1.5, 1.7 - 1e-4)) / 2e-4
    assert float(by_slope) == pytest.approx(float(numeric), rel=1e-6)


@both
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_memory_is_known_beforehand(interpolation, dtype):
    assert grid_memory(16, 3, interpolation, dtype).field == drawn(interpolation, dtype=dtype).table.nbytes
    field, drawing = grid_memory(256, 3, interpolation, jnp.float32)
    assert field == pytest.approx(3 * 3 * 4 * 256**3, rel=0.04)
    assert drawing > field


def test_grids_larger_than_the_memory_are_refused_before_they_are_drawn(monkeypatch):
    monkeypatch.setattr(turbulence_grid, "_available_memory", lambda: 2.0**30)
    message = r"5 levels of 256 cells take 1\.73 GiB to draw, more than the 1 GiB of memory available: take fewer cells"
    with pytest.raises(InputError, match=message):
        draw_grids(KEY, BendOver(), 256, 5, dtype=jnp.float32)
    monkeypatch.setattr(turbulence_grid, "_available_memory", lambda: np.inf)
    with pytest.raises(InputError, match="coefficients, more than 2\\^31: take fewer cells"):
        draw_grids(KEY, BendOver(), 1024, dtype=jnp.float32)


def test_the_memory_of_this_machine_is_found():
    assert 2**20 < turbulence_grid._available_memory() < 2**60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 8}, "cells of nested grids must be a whole number of at least 16, not 8"),
        ({"cells": True}, "whole number"),
        ({"levels": 0}, "levels of nested grids must be a whole number of at least 1, not 0"),
        (
            {"levels": 2},
            "2 levels of 16 cells hold wavelengths up to a ratio of 4, but the spectrum spans 8: take 3 lev",
        ),
        ({"levels": 1}, "take 3 levels, or 64 cells"),
        ({"interpolation": "cubik"}, "unknown interpolation 'cubik': did you mean cubic"),
        ({"interpolation": "best"}, "unknown interpolation 'best': choose linear or cubic"),
        ({"rms": -1.0}, "rms of turbulence must be finite and not negative"),
        ({"rms": np.nan}, "rms of turbulence"),
        ({"helicity": 1.1}, "helicity of turbulence lies between -1 and 1, not 1.1"),
        ({"dtype": jnp.float16}, "must be float32 or float64, not float16"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_remedy(options, message):
    with pytest.raises(InputError, match=message):
        draw_grids(KEY, SPECTRUM, **{"cells": 16, **options})


def test_traced_wavelengths_are_refused():
    with pytest.raises(InputError, match="wavelengths of nested grids decide their shapes"):
        jax.jit(lambda size: draw_grids(KEY, PowerLaw(smallest=size, largest=8.0), 16).table)(1.0)


def test_a_table_of_64_bits_needs_64_bits():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="dtype float64 needs 64-bit floats"):
        draw_grids(jax.random.key(3), SPECTRUM, 16, dtype="float64")
