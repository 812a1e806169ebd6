"""Drawn turbulence, plane waves and ladders, against the spectrum they were drawn from: measured, with errors.

Every comparison is with a closed form of `diffcr.spectrum`, itself held to quadrature, at about 4 standard errors over
realisations with fixed keys.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffcr.field_statistics import (
    band_shares,
    draw_fields,
    measure_correlation,
    measure_gradients,
    measure_line_spectrum,
    measure_moments,
    measured_coherence_length,
)
from diffcr.spectrum import (
    BendOver,
    PowerLaw,
    coherence_length,
    correlation,
    line_spectra,
    planar_correlation,
    slab_correlation,
    variance_between,
    wavenumber_mean,
)
from diffcr.turbulence import draw_ladder, draw_plane_waves

KEY = jax.random.key(11)
SPECTRUM = PowerLaw(5 / 3, smallest=0.1, largest=1.0)
BEND = BendOver(1.0, 5 / 3, 0.2, 10.0)
AXIS = (1.0, 2.0, -2.0)
TILTED = np.array(AXIS) / 3
ACROSS = np.array([2.0, 1.0, 2.0]) / 3
REALISATIONS = 24
EXTENT = 100.0


def plane_waves(spectrum=SPECTRUM, waves=100, **options):
    return lambda key: draw_plane_waves(key, spectrum, waves, **options)


def ladder(spectrum=SPECTRUM, directions=40, **options):
    return lambda key: draw_ladder(key, spectrum, directions, **options)


DRAWS = [pytest.param(plane_waves, id="plane waves"), pytest.param(ladder, id="ladder")]
each = pytest.mark.parametrize("kind", DRAWS)


@functools.cache
def realisations(kind, number=REALISATIONS, **options):
    return draw_fields(jax.jit(kind(**options)), KEY, number)


def agree(estimate, expected, limit=4.0):
    deviation = np.atleast_1d(estimate.deviation(np.asarray(expected)))
    assert np.all(np.abs(deviation) < limit), deviation
    assert np.sqrt(np.mean(deviation**2)) < 1 + 3 / np.sqrt(deviation.size), deviation


@each
def test_variance_is_as_asked_and_isotropic(kind):
    found = measure_moments(realisations(kind, rms=3.0), KEY, extent=EXTENT, points=1000)
    agree(found.mean_square, 9.0)
    agree(found.shares, [1 / 3] * 3)
    agree(found.mean, [0.0] * 3)
    assert found.mean_square.error < 0.15 and np.all(found.shares.error < 0.03)


@each
@pytest.mark.parametrize("spectrum", [SPECTRUM, BEND])
def test_correlation_functions_are_those_of_the_spectrum(kind, spectrum):
    s = np.array([0.0, 0.03, 0.08, 0.2, 0.45, 0.9, 1.6])
    found = measure_correlation(realisations(kind, spectrum=spectrum), s, KEY, extent=10 * EXTENT, points=400)
    exact = correlation(spectrum, s)
    for name in ("trace", "longitudinal", "transverse"):
        of, expected = getattr(found, name), np.asarray(getattr(exact, name))
        first = 1 if name == "trace" else 0
        deviation = np.asarray(of.deviation(expected))[first:]
        assert np.all(np.abs(deviation) < 4), (name, deviation)
        assert np.all(of.error < 0.03)


@each
def test_the_coherence_length_is_that_of_the_spectrum(kind):
    s = np.concatenate([np.arange(0, 0.3, 0.02), np.arange(0.3, 3.0, 0.1)])
    found = measured_coherence_length(measure_correlation(realisations(kind), s, KEY, extent=EXTENT, points=300))
    exact = np.asarray(correlation(SPECTRUM, s).trace)
    agree(found.length, np.sum(np.diff(s) * (exact[1:] + exact[:-1])))
    # The rule and the cut cost less than this.
    np.testing.assert_allclose(found.length.value, coherence_length(SPECTRUM), atol=4 * found.length.error + 0.01)
    assert found.length.error < 0.02


@each
def test_spectra_along_lines_are_those_of_the_spectrum(kind):
    found = measure_line_spectrum(realisations(kind), KEY, length=6.4, samples=128, lines=40, extent=EXTENT)
    exact = line_spectra(SPECTRUM, found.k)
    # Away from the ends of the band, where the window blurs what jumps; every third mode.
    for name in ("longitudinal", "transverse", "trace"):
        of, expected = getattr(found, name), np.asarray(getattr(exact, name))
        mode = np.arange(9, 57, 3)
        deviation = np.asarray(of.deviation(expected))[mode]
        assert np.all(np.abs(deviation) < 4), (name, deviation)
        assert np.all(np.asarray(of.error)[mode] < 0.3 * expected[mode])


@each
def test_power_is_where_the_spectrum_has_it(kind):
    found = measure_line_spectrum(realisations(kind), KEY, length=12.8, samples=256, lines=40, extent=EXTENT)
    edges = np.array([10.0, 17.0, 29.0, 49.0])
    shares = band_shares(found, edges, 0.2)
    agree(shares, variance_between(SPECTRUM, edges[:-1], edges[1:]))
    assert np.all(shares.error < 0.2 * shares.value)


@each
@pytest.mark.parametrize("geometry", ["isotropic", "slab", "2d", "composite"])
def test_no_draw_has_divergence_and_gradients_are_those_of_the_spectrum(kind, geometry):
    fields = realisations(kind, 12, geometry=geometry, axis=AXIS)
    found = measure_gradients(fields, KEY, extent=EXTENT, points=400)
    assert found.divergence < 1e-13 and found.largest_divergence < 1e-12
    expected = wavenumber_mean(SPECTRUM, 2)
    assert found.mean_square.error < 0.1 * expected
    if geometry != "composite":
        agree(found.mean_square, expected)
    agree(found.curl, 0.0)


@each
@pytest.mark.parametrize("helicity", [1.0, -0.6])
@pytest.mark.parametrize("geometry", ["isotropic", "slab"])
def test_helicity_is_as_asked(kind, helicity, geometry):
    fields = realisations(kind, 12, helicity=helicity, geometry=geometry)
    found = measure_gradients(fields, KEY, extent=EXTENT, points=400)
    agree(found.curl, helicity * wavenumber_mean(SPECTRUM))
    expected = helicity * wavenumber_mean(SPECTRUM) / np.sqrt(wavenumber_mean(SPECTRUM, 2))
    agree(found.helicity, expected)
    assert found.helicity.error < 0.02
    assert found.divergence < 1e-13
    moments = measure_moments(fields, KEY, extent=EXTENT, points=400)
    agree(moments.mean_square, 1.0)


@each
def test_a_slab_varies_along_its_axis_only(kind):
    fields = realisations(kind, 40, geometry="slab", axis=AXIS)
    s = np.array([0.02, 0.1, 0.3, 0.8])
    along = measure_correlation(fields, s, KEY, extent=EXTENT, points=300, direction=TILTED)
    agree(along.trace, slab_correlation(SPECTRUM, s))
    np.testing.assert_allclose(along.longitudinal.value, 0, atol=1e-25)
    across = measure_correlation(
        fields, s, KEY, extent=EXTENT, points=100, direction=ACROSS - TILTED * (ACROSS @ TILTED)
    )
    np.testing.assert_allclose(across.trace.value, 1, atol=1e-10)
    # Either component across the axis has half.
    moments = measure_moments(fields, KEY, extent=EXTENT, points=300)
    agree(moments.shares, (1 - TILTED**2) / 2)


@each
def test_planar_turbulence_is_isotropic_in_its_plane_and_constant_along_the_axis(kind):
    fields = realisations(kind, 40, geometry="2d", axis=AXIS)
    s = np.array([0.02, 0.1, 0.3, 0.8])
    normal = np.cross(TILTED, ACROSS)
    across = measure_correlation(fields, s, KEY, extent=EXTENT, points=400, direction=normal)
    agree(across.trace, planar_correlation(SPECTRUM, s))
    along = measure_correlation(fields, s, KEY, extent=EXTENT, points=100, direction=TILTED)
    np.testing.assert_allclose(along.trace.value, 1, atol=1e-10)
    np.testing.assert_allclose(along.longitudinal.value, 0, atol=1e-25)
    moments = measure_moments(fields, KEY, extent=EXTENT, points=300)
    agree(moments.shares, (1 - TILTED**2) / 2)


@each
def test_a_composite_is_both_in_their_shares(kind):
    fields = realisations(kind, 40, geometry="composite", axis=AXIS, slab_fraction=0.3)
    s = np.array([0.05, 0.2, 0.8])
    along = measure_correlation(fields, s, KEY, extent=EXTENT, points=300, direction=TILTED)
    agree(along.trace, 0.7 + 0.3 * np.asarray(slab_correlation(SPECTRUM, s)))
    across = measure_correlation(fields, s, KEY, extent=EXTENT, points=300, direction=np.cross(TILTED, ACROSS))
    agree(across.trace, 0.3 + 0.7 * np.asarray(planar_correlation(SPECTRUM, s)))


@each
def test_fields_in_32_bits_have_the_same_statistics(kind):
    gradient = float(wavenumber_mean(SPECTRUM, 2))
    with jax.enable_x64(False):
        found = measure_gradients(draw_fields(kind(), KEY, 8), KEY, extent=EXTENT, points=200)
        assert found.curl.value.dtype == jnp.float32
        agree(found.mean_square, gradient)
        assert found.divergence < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(plane_waves(BendOver(), 300), id="300 plane waves"),
        pytest.param(ladder(BendOver(), 80), id="ladder of 80 directions"),
    ],
)
def test_draws_of_the_usual_size_have_all_their_statistics(draw):
    """Wavelengths from 0.01 to 100, 100 realisations: variance, shares, correlations, their length and gradients."""
    fields = draw_fields(jax.jit(draw), KEY, 100)
    moments = measure_moments(fields, KEY, extent=3000.0, points=500)
    agree(moments.mean_square, 1.0)
    agree(moments.shares, [1 / 3] * 3)
    s = np.concatenate([[0.0], np.geomspace(0.01, 60.0, 40)])
    found = measure_correlation(fields, s, KEY, extent=3000.0, points=200)
    exact = correlation(BendOver(), s)
    for name in ("trace", "longitudinal", "transverse"):
        deviation = np.asarray(getattr(found, name).deviation(np.asarray(getattr(exact, name))))[1:]
        assert np.all(np.abs(deviation) < 4), (name, deviation)
    trace = np.asarray(exact.trace)
    agree(measured_coherence_length(found).length, np.sum(np.diff(s) * (trace[1:] + trace[:-1])))
    gradients = measure_gradients(fields, KEY, extent=3000.0, points=100)
    agree(gradients.mean_square, wavenumber_mean(BendOver(), 2))
    agree(gradients.curl, 0.0)
    assert gradients.divergence < 1e-13
