"""Right-ascension projection: against fits written out, known skies, and the scatter of isotropic data."""

import dataclasses

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.inputs import read_counts
from diffcr.inference.projection import right_ascension_projection
from diffcr.inference.scrambling import dipole_fraction, scramble
from helpers import asimov, dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 72)
AUGER = site("auger")


def local_map(where=AUGER, grid=GRID, **options):
    return np.asarray(acceptance(where, grid, **options))


def even(size=1e6, grid=GRID):
    return np.full(grid.n_ra, size / grid.n_ra)


def uneven(size=1e6):
    t = GRID.sidereal_time
    rate = 1 + 0.3 * np.cos(t - 1) + 0.4 * np.sin(2 * t)
    return size * rate / rate.sum()


def made(sky, rate=None, where=AUGER, local=None):
    return asimov(where, GRID, local_map(where) if local is None else local, even() if rate is None else rate, sky)


def wave(*terms):
    """1 + sum of amplitude cos m (RA - phase), averaged over each cell."""
    sky = np.ones(GRID.shape)
    for m, amplitude, phase in terms:
        width = np.sin(m * GRID.step / 2) / (m * GRID.step / 2)
        sky += amplitude * width * np.cos(m * (GRID.right_ascension - phase))
    return sky


@pytest.mark.parametrize("bins", [72, 24, 12])
def test_harmonics_of_a_known_sky(bins):
    """Three harmonics, a constant rate: amplitudes and phases for any width of the bins (12 lose 10 % of m = 3)."""
    terms = ((1, 0.01, 1.0), (2, 0.02, 2.5), (3, 0.005, 0.4))
    result = right_ascension_projection(made(wave(*terms)), background="uniform", bins=bins)
    assert [h.order for h in result.harmonics] == [1, 2, 3]
    for (m, amplitude, phase), found in zip(terms, result.harmonics, strict=True):
        assert found.amplitude == pytest.approx(amplitude, rel=1e-6)
        assert found.phase == pytest.approx(phase, rel=1e-6)
        assert found.phase < 2 * np.pi / m
    assert result.offset == pytest.approx(0, abs=1e-9)
    assert result.chi2 == pytest.approx(0, abs=1e-6)
    assert (result.ndf, result.p_value) == (bins - 7, pytest.approx(1))
    np.testing.assert_allclose(result.bins, (np.arange(bins) + 0.5) * 2 * np.pi / bins)


def test_intensity_and_error_of_each_bin():
    """n / B - 1 with B from the rate by loops, and sqrt(B) / B; unit weights."""
    counts = drawn(AUGER, GRID, local_map(), uneven(5000), dipole_sky(GRID, (0.1, 0.1)), 1)
    result = right_ascension_projection(counts)
    rate, local = counts.n_time[0, 0, 0], counts.n_local[0, 0, 0].sum(axis=0)
    background = np.zeros(72)
    for tau in range(72):
        for h in range(72):
            background[(tau - h) % 72] += rate[tau] * local[h] / rate.sum()
    seen, background = (x.reshape(24, 3).sum(axis=1) for x in (counts.n_sky.sum((0, 1, 2, 3)), background))
    np.testing.assert_allclose(result.counts, seen)
    np.testing.assert_allclose(result.background, background, rtol=1e-10)
    np.testing.assert_allclose(result.relative_intensity, seen / background - 1, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(result.error, 1 / np.sqrt(background), rtol=1e-9)


def test_the_fit_is_the_weighted_least_squares_fit():
    """Against numpy.linalg.lstsq with the stated errors."""
    counts = drawn(AUGER, GRID, local_map(), uneven(5000), np.ones(GRID.shape), 2)
    result = right_ascension_projection(counts, orders=2)
    angle, half = result.bins, np.pi / 24
    basis = [np.ones(24)]
    for m in (1, 2):
        basis += [np.sin(m * half) / (m * half) * f(m * angle) for f in (np.cos, np.sin)]
    design = (np.array(basis) / result.error).T
    fitted, chi2, *_ = np.linalg.lstsq(design, result.relative_intensity / result.error)
    got = [result.offset, *(x for h in result.harmonics for x in (h.a, h.b))]
    np.testing.assert_allclose(got, fitted, rtol=1e-9)
    assert result.chi2 == pytest.approx(chi2[0], rel=1e-9)
    assert result.ndf == 24 - 5


@pytest.mark.parametrize("where", ["auger", "hawc", "icecube"])
def test_attenuation_is_stated_and_undone(where):
    """A dipole of +-1e-3 through the method, with an uneven rate: response, and the vector it gives back."""
    place = site(where)
    for k, dipole in enumerate(np.eye(2) * 1e-3):
        up, down = (right_ascension_projection(made(dipole_sky(GRID, s * dipole), uneven(), place)) for s in (1, -1))
        change = [(up.harmonics[0].a - down.harmonics[0].a) / 2e-3, (up.harmonics[0].b - down.harmonics[0].b) / 2e-3]
        np.testing.assert_allclose(change, up.response[:, k], atol=2e-3)
        np.testing.assert_allclose((up.vector - down.vector) / 2, dipole, atol=3e-6)
    flat = right_ascension_projection(made(dipole_sky(GRID, (1e-3, 0)), where=place))
    local = local_map(place)
    cosine = np.cos(GRID.declination)
    phase = np.exp(1j * GRID.hour_angle)
    mean, lean = cosine @ local.sum(axis=1), np.sum(local * phase)
    # 1 - <cos(dec) e^{-iH}> <e^{iH}> / <cos dec>: all rings are one here, so that it is not the fraction of the map.
    moment = np.sum(local * np.conj(phase) * cosine[:, None])
    np.testing.assert_allclose(flat.fraction, (1 - (moment * lean).real / mean) * np.eye(2), rtol=0.01, atol=1e-3)
    assert flat.mean_cos_declination == pytest.approx(mean, rel=0.01)


def test_a_constant_rate_keeps_the_whole_dipole():
    """First harmonic d <cos dec>, 0.7832 for Auger; a rate that is not constant is taken for one."""
    result = right_ascension_projection(made(dipole_sky(GRID, (3e-3, -1e-3))), background="uniform")
    np.testing.assert_allclose(result.response, 0.78317 * np.eye(2), rtol=5e-3, atol=1e-9)
    np.testing.assert_allclose(result.fraction, np.eye(2), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.vector, [3e-3, -1e-3], rtol=1e-6)
    isotropic = made(np.ones(GRID.shape), uneven())
    assert right_ascension_projection(isotropic, background="uniform").amplitude > 0.1
    assert right_ascension_projection(isotropic).amplitude < 1e-12


def test_a_band_is_that_of_its_rings():
    """A sky whose harmonic changes sign at declination -20 degrees."""
    sign = np.where(GRID.declination > np.radians(-20), 1, -1)[:, None]
    counts = made(1 + sign * (wave((1, 0.01, 1.0)) - 1))
    north = right_ascension_projection(counts, tuple(np.radians((-20, 90))), "uniform").harmonics[0]
    south = right_ascension_projection(counts, tuple(np.radians((-90, -20))), "uniform").harmonics[0]
    assert (north.amplitude, north.phase) == pytest.approx((0.01, 1.0), rel=1e-6)
    assert (south.amplitude, south.phase) == pytest.approx((0.01, 1.0 + np.pi), rel=1e-6)


def test_a_given_background_is_known_without_error():
    """Made without these events: nothing lost, and the plain Poisson error sqrt(2 / N)."""
    plain = made(np.ones(GRID.shape), uneven(1e5))
    counts = made(dipole_sky(GRID, (3e-3, -1e-3)), uneven(1e5))
    result = right_ascension_projection(counts, background=plain.n_sky[0, 0, 0])
    np.testing.assert_allclose(result.vector, [3e-3, -1e-3], rtol=0.01)
    np.testing.assert_allclose(result.fraction, np.eye(2), rtol=0.02, atol=0.02)
    flat = right_ascension_projection(made(np.ones(GRID.shape)), background=made(np.ones(GRID.shape)).n_sky[0, 0, 0])
    np.testing.assert_allclose(np.diag(flat.harmonics[0].covariance), 2e-6 / np.sinc(1 / 24) ** 2, rtol=1e-3)
    # The background of the scrambled map gives its relative intensity.
    same = right_ascension_projection(counts, background=scramble(counts).background)
    np.testing.assert_allclose(
        same.relative_intensity, right_ascension_projection(counts).relative_intensity, atol=1e-12
    )
    assert same.response[0, 0] > 1.5 * right_ascension_projection(counts).response[0, 0]


def test_short_windows():
    """8 h from the cube: as the fraction of the map says, most of the dipole is gone, and the vector is undone."""
    rate, local, sky = even(), local_map(), dipole_sky(GRID, (2e-3, 1e-3))
    n = GRID.n_ra
    cube = rate[:, None, None] * local * np.moveaxis(sky[:, (np.arange(n)[:, None] - np.arange(n)) % n], 0, 1)
    counts = dataclasses.replace(made(sky), cube=cube[None, None, None])
    result = right_ascension_projection(counts, window=8)
    np.testing.assert_allclose(result.vector, [2e-3, 1e-3], rtol=0.02)
    assert result.fraction[0, 0] < 0.5 * right_ascension_projection(counts).fraction[0, 0]
    assert dipole_fraction(rate, local, GRID, 8)[0, 0] < 0.5 * dipole_fraction(rate, local, GRID)[0, 0]


@pytest.mark.parametrize(("background", "weight_spread"), [("isotropic", 0.0), ("isotropic", 0.8), ("uniform", 0.8)])
def test_errors_are_the_scatter_of_isotropic_data(background, weight_spread):
    """200 draws: pulls of six coefficients and of the dipole, and chi-squared of the fit."""
    rate = uneven(6000) if background == "isotropic" else even(6000)
    local = local_map(profile="triangle")
    results = [
        right_ascension_projection(
            drawn(AUGER, GRID, local, rate, np.ones(GRID.shape), s, weight_spread), None, background
        )
        for s in range(200)
    ]
    pulls = np.array(
        [[x for h in r.harmonics for x in np.array([h.a, h.b]) / np.sqrt(np.diag(h.covariance))] for r in results]
    )
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.17)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.25)
    dipole = np.array([r.vector / np.sqrt(np.diag(r.covariance)) for r in results])
    np.testing.assert_allclose(dipole.std(axis=0), 1, atol=0.17)
    assert np.mean([r.chi2 / r.ndf for r in results]) == pytest.approx(1, abs=0.1)
    assert np.mean([10 ** r.harmonics[0].log10_p for r in results]) == pytest.approx(0.5, abs=0.09)
    if background == "isotropic":
        # The background takes up part of the noise: less than the classical error of a first harmonic.
        assert results[0].harmonics[0].covariance[0, 0] < 0.8 * 2 / results[0].counts.sum() * np.exp(weight_spread**2)


def test_harmonic_errors_by_hand():
    """Amplitude error along the phase; phase error sigma / (m r) where r is well measured."""
    counts = made(wave((2, 0.02, 0.3)), even(1e7))
    second = right_ascension_projection(counts, background="uniform").harmonics[1]
    sigma = np.sqrt(2 / 1e7) / np.sinc(2 / 24)
    assert second.amplitude_error == pytest.approx(sigma, rel=1e-3)
    assert second.phase_error == pytest.approx(sigma / 0.02 / 2, rel=0.01)
    assert second.log10_p == pytest.approx(-((0.02 / sigma) ** 2) / 2 / np.log(10), rel=1e-2)


def test_configurations_add_up():
    """Sums of counts over sums of backgrounds, each from its own rate; the common dipole comes back."""
    truth = (1e-3, -2e-3)
    parts = [
        made(dipole_sky(GRID, truth), uneven(1e6)),
        made(dipole_sky(GRID, truth), even(3e6), site("hawc")),
    ]
    singles, both = [right_ascension_projection(p) for p in parts], right_ascension_projection(combine(parts))
    np.testing.assert_allclose(both.background, sum(s.background for s in singles), rtol=1e-12)
    np.testing.assert_allclose(both.counts, sum(s.counts for s in singles), rtol=1e-12)
    np.testing.assert_allclose(both.vector, truth, rtol=0.02)
    uniform = right_ascension_projection(combine([made(np.ones(GRID.shape)), parts[1]]), background="uniform")
    np.testing.assert_allclose(uniform.fraction, np.eye(2), rtol=1e-6, atol=1e-9)


def test_auger_list():
    """The published first harmonic with a constant rate: 0.047 +- 0.008 at 100 degrees."""
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(90, 180))
    result = right_ascension_projection(counts, background="uniform", bins=36, orders=1)
    first = result.harmonics[0]
    assert first.amplitude == pytest.approx(0.0466, abs=5e-4)
    assert first.amplitude_error == pytest.approx(0.0080, abs=2e-4)
    assert np.degrees(first.phase) == pytest.approx(100.3, abs=1)
    assert result.amplitude == pytest.approx(0.0596, rel=0.02)
    assert result.p_value > 0.01


def test_what_cannot_be_projected_is_refused():
    counts = made(np.ones(GRID.shape))
    with pytest.raises(InputError, match="25 bins do not divide the 72 right-ascension bins of the counts"):
        right_ascension_projection(counts, bins=25)
    with pytest.raises(InputError, match="24 right-ascension bins do not resolve harmonics 1 to 12"):
        right_ascension_projection(counts, orders=12)
    with pytest.raises(InputError, match="do not resolve harmonics 1 to 0"):
        right_ascension_projection(counts, orders=0)
    with pytest.raises(InputError, match="unknown background 'flat': choose one of isotropic, uniform, or give"):
        right_ascension_projection(counts, background="flat")
    with pytest.raises(InputError, match=r"of the shape \(ring, ra\) = \(18, 72\), not \(3, 3\)"):
        right_ascension_projection(counts, background=np.ones((3, 3)))
    with pytest.raises(InputError, match="events lie where the background is zero"):
        right_ascension_projection(counts, background=np.zeros(GRID.shape))
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    with pytest.raises(InputError, match="needs at least one event; the counts are empty"):
        right_ascension_projection(counts.replace(**{name: 0 * getattr(counts, name) for name in names}))
    once = np.where(np.arange(72) == 3, 100.0, 0.0)
    with pytest.raises(InputError, match="the background leaves nothing of a dipole: take a longer window"):
        right_ascension_projection(made(np.ones(GRID.shape), once), orders=1)
    narrow = np.where(np.abs(GRID.hour_angle) < 0.4, local_map(), 0.0)
    with pytest.raises(InputError, match="exposed right-ascension bins cannot tell 3 harmonics apart"):
        right_ascension_projection(made(np.ones(GRID.shape), once, local=narrow / narrow.sum()))
    with pytest.raises(InputError, match="holds no event"):
        right_ascension_projection(counts, tuple(np.radians((70, 90))))
