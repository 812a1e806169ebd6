"""A map as the files of multi-llh: rates, acceptances and sky against the truth they were drawn from."""

import healpy
import numpy as np
import pytest
from diffcr.inference.discs import disc_map
from diffcr.inference.local_maps import LocalMaps, to_counts
from diffcr.inference.map_exchange import exchange_result, mean_declinations, write_multi_llh
from diffcr.inference.map_products import healpix_map
from diffcr.inference.map_report import Analysis
from diffcr.inference.maps import sky_map

NSIDE, BINS = 8, 36
HAWC = ("HAWC", np.radians(19.0), np.radians(-97.3), np.radians(57.0))
ICECUBE = ("IceCube", np.radians(-90.0), np.radians(270.0), np.radians(65.0))
DIPOLE = np.array([0.03, -0.02])


def truth(place, events, phase):
    """Acceptance per pixel of the horizon and rate per bin of the file; counts expected from a dipole, no noise."""
    _, latitude, longitude, zenith_max = place
    south, east, up = healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2))
    acceptance = np.where(np.arccos(up) <= zenith_max, np.maximum(up, 0) * (1 + 0.2 * east + 0.1 * south), 0.0)
    acceptance /= acceptance.sum()
    angle = 2 * np.pi * np.arange(BINS) / BINS
    rate = 1 + 0.2 * np.cos(angle - phase)
    rate *= events / rate.sum()
    counts = np.empty((BINS, len(up)))
    for tau, t in enumerate(angle + longitude):
        # Columns: where South, East and the zenith are on the sky of date at this sidereal time.
        sine, cosine = np.sin(latitude), np.cos(latitude)
        x = south * sine * np.cos(t) - east * np.sin(t) + up * cosine * np.cos(t)
        y = south * sine * np.sin(t) + east * np.cos(t) + up * cosine * np.sin(t)
        counts[tau] = rate[tau] * acceptance * (1 + DIPOLE[0] * x + DIPOLE[1] * y)
    return acceptance, rate, LocalMaps(*place, counts)


@pytest.fixture(scope="module")
def example():
    parts = {place[0]: truth(place, 1e10, phase) for place, phase in ((HAWC, 1.0), (ICECUBE, 2.5))}
    local = [p[2] for p in parts.values()]
    sky = sky_map(to_counts(local))
    declinations = mean_declinations(local, sky, "start")
    free = healpix_map(sky, NSIDE, declinations=declinations)
    return parts, local, sky, free


def test_rates_are_those_of_the_bins_of_the_files(example):
    """The longitude shifts the bins of the grid against those of the files; expected counts, so the scale is known."""
    parts, local, sky, free = example
    result = exchange_result(sky, free, local, "start")
    assert list(result.rates) == ["HAWC", "IceCube"]
    for name, (_, rate, _) in parts.items():
        np.testing.assert_allclose(result.rates[name], rate, rtol=1e-3)
        assert np.argmax(result.rates[name]) == np.argmax(rate)


def test_acceptances_are_those_of_the_pixels(example):
    parts, local, sky, free = example
    result = exchange_result(sky, free, local, "start")
    for name, (acceptance, _, _) in parts.items():
        found = result.acceptance[name]
        assert found.sum() == pytest.approx(1) and np.all(found[acceptance == 0] == 0)
        np.testing.assert_allclose(found, acceptance, rtol=5e-3, atol=1e-12)


def test_the_sky_is_the_dipole(example):
    """At the centres of the pixels, in date: the epoch of such files is not known."""
    _, local, sky, free = example
    result = exchange_result(sky, free, local, "start")
    x, y, _ = healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2))
    shown = np.isfinite(result.relative_intensity)
    assert shown.mean() > 0.8
    wanted = DIPOLE[0] * x + DIPOLE[1] * y
    off = (result.relative_intensity - wanted)[shown]
    assert np.sqrt(np.mean(off**2)) < 0.05 * np.hypot(*DIPOLE)
    np.testing.assert_allclose(result.data[shown], (result.background * (1 + result.relative_intensity))[shown])
    sign = np.sign(result.significance[shown])
    np.testing.assert_array_equal(sign, np.sign(result.relative_intensity[shown]))
    small = np.abs(result.relative_intensity * result.relative_intensity * np.sqrt(result.background)) < 0.5
    linear = result.relative_intensity * np.sqrt(result.background)
    np.testing.assert_allclose(result.significance[shown & small], linear[shown & small], rtol=0.02)


def test_mean_declinations_are_those_of_the_pixels(example):
    """Counted pixel by pixel: hour angle and declination of a horizon direction written out."""
    _, local, sky, _ = example
    found = mean_declinations(local, sky, "start")
    total, number = np.zeros(sky.grid.n_ring), np.zeros(sky.grid.n_ring)
    for maps in local:
        south, _, up = healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2))
        dec = np.arcsin(np.clip(up * np.sin(maps.latitude) - south * np.cos(maps.latitude), -1, 1))
        inside = np.arccos(up) <= maps.zenith_max
        ring = np.clip(((dec / np.pi + 0.5) * sky.grid.n_ring + 1e-9).astype(int), 0, sky.grid.n_ring - 1)
        weight = maps.counts.sum(0) * inside
        np.add.at(total, ring, weight * dec)
        np.add.at(number, ring, weight)
    filled = number > 0
    np.testing.assert_allclose(found[filled], (total / np.maximum(number, 1))[filled], atol=1e-9)
    np.testing.assert_allclose(found[~filled], sky.grid.declination[~filled])


def test_weighted_maps_keep_the_scale_of_their_weights(example):
    parts, _, _, _ = example
    acceptance, rate, maps = parts["HAWC"]
    weighted = LocalMaps(*HAWC, maps.counts, 2 * maps.counts, 5 * maps.counts)
    sky = sky_map(to_counts([weighted]))
    assert sky.data.sum() == pytest.approx(0.8 * maps.counts.sum(), rel=1e-3)  # (sum w)^2 / sum w^2
    result = exchange_result(sky, healpix_map(sky, NSIDE), [weighted], "start")
    np.testing.assert_allclose(result.rates["HAWC"], 2 * rate, rtol=1e-3)
    np.testing.assert_allclose(result.acceptance["HAWC"], acceptance, rtol=5e-3, atol=1e-12)


def test_the_files_are_written_and_unsmoothed(example, tmp_path):
    parts, local, sky, free = example
    discs = disc_map(sky, np.radians(20))
    analysis = Analysis(sky, healpix_map(sky, NSIDE, discs), discs, None, 0, [])
    paths = write_multi_llh(tmp_path, analysis, local, "start")
    names = {p.name for p in paths}
    assert names == {p.name for p in tmp_path.iterdir()} and len(names) == 7
    assert f"CR_HAWC_IceCube__{NSIDE}_{BINS}_max.fits.gz" in names
    (cr,) = (p for p in paths if p.name.startswith("CR_"))
    values = healpy.read_map(cr, field=(0, 1, 2), dtype=None)
    shown = np.isfinite(free.fields["ERROR"])
    assert np.all(values[0][~shown] == healpy.UNSEEN)
    np.testing.assert_allclose(values[0][shown], free.fields["RELATIVE_INTENSITY"][shown], rtol=1e-9, atol=1e-15)
    for name, (_, rate, _) in parts.items():
        (norm,) = (p for p in paths if p.name.startswith(f"norm_{name}_"))
        np.testing.assert_allclose(np.loadtxt(norm), rate, rtol=1e-3)
        (exposure,) = (p for p in paths if p.name.startswith(f"exposure_{name}_"))
        np.testing.assert_allclose(healpy.read_map(exposure, dtype=None), parts[name][0], rtol=5e-3, atol=1e-12)
    (ratio,) = (p for p in paths if p.name.startswith("llhratio_"))
    assert np.loadtxt(ratio) == pytest.approx(sky.log_likelihood, rel=1e-5)
