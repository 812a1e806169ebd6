"""East-West method: against the analytic formulas, quadrature of the continuous sky, and Monte Carlo."""

import dataclasses

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.east_west import cross_talk, east_west, east_west_events
from helpers import asimov, dipole_sky, drawn
from scipy.special import sph_harm_y

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import degrees_and_orders, index
from diffcr.site import site

GRID = RingGrid(60, 120)
COARSE = RingGrid(18, 36)
AUGER = site("auger")
N = 32187


def local_map(grid=GRID, where=AUGER, **options):
    return np.asarray(acceptance(where, grid, **options))


def uneven(grid, size=1e6):
    """A rate with a first and a second harmonic."""
    t = grid.sidereal_time
    rate = 1 + 0.3 * np.cos(t - 1) + 0.4 * np.sin(2 * t)
    return size * rate / rate.sum()


def even(grid, size=N):
    return np.full(grid.n_ra, size / grid.n_ra)


def with_cube(counts, local, rate, sky):
    """The same counts with their cube mu[tau, r, h] = N A I[r, (tau - h) mod n], written out."""
    n = counts.grid.n_ra
    column = (np.arange(n)[:, None] - np.arange(n)) % n
    cube = rate[:, None, None] * local * np.moveaxis(sky[:, column], 0, 1)
    return dataclasses.replace(counts, cube=cube[None, None, None])


def nodes(intensity, rate=lambda t: np.ones_like(t), response=lambda z, a: np.cos(z), zenith_max=np.radians(80)):
    """Quadrature of the events of a continuous sky over (time, zenith, azimuth), as weighted events.

    `intensity` is a function of the unit vector (x, y, z) in the equator at latitude -35.2 degrees.
    """
    time = 2 * np.pi * (np.arange(24) + 0.3) / 24
    x, w = np.polynomial.legendre.leggauss(12)
    cosine = (1 + np.cos(zenith_max)) / 2 + (1 - np.cos(zenith_max)) / 2 * x
    # Gauss nodes within each quarter of azimuth: East and West are cut where they meet.
    azimuth = (np.pi / 2 * np.arange(4)[:, None] + np.pi / 4 * (1 + x)).ravel()
    t, c, a = np.meshgrid(time, cosine, azimuth, indexing="ij")
    weight = np.broadcast_to(w[None, :, None] * np.tile(w, 4)[None, None, :], t.shape)
    sine, lat = np.sqrt(1 - c**2), AUGER.latitude
    east, north = sine * np.sin(a), sine * np.cos(a)
    meridian, z = c * np.cos(lat) - north * np.sin(lat), north * np.cos(lat) + c * np.sin(lat)
    direction = meridian * np.cos(t) - east * np.sin(t), meridian * np.sin(t) + east * np.cos(t), z
    zenith = np.arccos(c)
    weight = weight * rate(t) * response(zenith, a) * intensity(*direction)
    return tuple(each.ravel() for each in (t, zenith, a, weight))


@pytest.mark.parametrize("weighting", ["halves", "directions"])
def test_dipole_of_a_continuous_sky(weighting):
    """Unbinned, signs and factor: deltas of 1e-4 and 2e-4 with any delta_N, exact to second order."""
    result = east_west_events(*nodes(lambda x, y, z: 1 + 1e-4 * x - 2e-4 * y + 0.1 * z), weighting=weighting)
    # Relative to the mean intensity of the field of view, 1 + 0.1 <sin dec> = 0.96.
    np.testing.assert_allclose(result.vector, [1e-4 / 0.9606, -2e-4 / 0.9606], rtol=0.01)
    plain = east_west_events(*nodes(lambda x, y, z: 1 + 1e-4 * x - 2e-4 * y), weighting=weighting)
    np.testing.assert_allclose(plain.vector, [1e-4, -2e-4], rtol=1e-3)


def test_delta_north_alone_gives_nothing():
    """To the rounding of the sums."""
    for weighting in ("halves", "directions"):
        result = east_west_events(*nodes(lambda x, y, z: 1 + 0.3 * z), weighting=weighting)
        np.testing.assert_allclose(result.vector, 0, atol=1e-14)


def test_response_and_cross_talk_of_auger():
    """Delta_alpha = 2 <sin theta> / pi = 0.41798 with <sin theta> = (2/3) sin 80 = 0.65654; q n_x n_z looks like a
    dipole 0.35237 q at right ascension 180 degrees."""
    plain = east_west_events(*nodes(lambda x, y, z: np.ones_like(x)), weighting="halves")
    assert plain.mean_sin_zenith == pytest.approx(2 / 3 * np.sin(np.radians(80)), rel=1e-3)
    assert plain.response.imag == pytest.approx(2 / 3 * np.sin(np.radians(80)) * 2 / np.pi, rel=1e-3)
    assert plain.response.real == 0
    fake = east_west_events(*nodes(lambda x, y, z: 1 + 0.01 * x * z), weighting="halves")
    np.testing.assert_allclose(fake.vector, [-0.0035237, 0], rtol=2e-3, atol=1e-9)
    aside = east_west_events(*nodes(lambda x, y, z: 1 + 0.01 * y * z), weighting="halves")
    np.testing.assert_allclose(aside.vector, [0, -0.0035237], rtol=2e-3, atol=1e-9)

    grid = RingGrid(180, 360)
    local = local_map(grid, profile="triangle")
    matrix = cross_talk(local, grid, 3)
    unit = np.sqrt(4 * np.pi / 15)  # n_x n_z in units of R_{2,1}
    np.testing.assert_allclose(matrix[:, index(2, 1)] * unit, [-0.35237, 0], rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(matrix[:, index(2, -1)] * unit, [0, -0.35237], rtol=1e-3, atol=1e-9)
    result = east_west(asimov(AUGER, grid, local, even(grid), np.ones(grid.shape)))
    assert result.parts[0].response.imag == pytest.approx(0.41798, rel=1e-3)
    assert result.parts[0].mean_sin_zenith == pytest.approx(0.65654, rel=1e-3)


def test_published_errors():
    """N = 32187 and cos(theta) below 80 degrees: 1.886 % for the halves, 1.601 % for weights sin(az) sin(theta)."""
    sky, rate = np.ones(GRID.shape), even(GRID)
    local = local_map()
    counts = with_cube(asimov(AUGER, GRID, local, rate, sky), local, rate, sky)
    for weighting, error in (("halves", 0.01886), ("directions", 0.01601)):
        result = east_west(counts, weighting)
        np.testing.assert_allclose(np.sqrt(np.diag(result.covariance)), error, rtol=2e-3)
        assert result.covariance[0, 1] == pytest.approx(0, abs=1e-9)
        assert result.amplitude_error == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize("weighting", ["halves", "directions"])
@pytest.mark.parametrize("where", ["auger", "hawc"])
def test_an_uneven_rate_does_not_matter(where, weighting):
    """Rate with first and second harmonics of 30 and 40 %; sums of G sin t, as for an even rate, would be far off."""
    place, dipole = site(where), (1e-3, -2e-3, 3e-3)
    local, rate, sky = local_map(where=place), uneven(GRID), dipole_sky(GRID, dipole)
    counts = with_cube(asimov(place, GRID, local, rate, sky), local, rate, sky)
    result = east_west(counts, weighting)
    np.testing.assert_allclose(result.vector, dipole[:2], rtol=6e-3)
    part = result.parts[0]
    assert part.offset == pytest.approx(0, abs=1e-6)
    if weighting == "halves":
        east, west = counts.n_half[0, 0, 0].sum(axis=1)
        harmonic = 2 * (east - west) @ np.exp(1j * GRID.sidereal_time) / counts.sum_weights
        naive = np.conj(harmonic) / part.response
        assert abs(naive - (dipole[0] - 1j * dipole[1])) > 3e-4


def test_empty_time_bins_do_not_matter():
    """A third of the day without events."""
    local, sky = local_map(), dipole_sky(GRID, (1e-3, 2e-3))
    rate = np.where(np.arange(120) < 40, 0.0, uneven(GRID))
    result = east_west(asimov(AUGER, GRID, local, rate, sky))
    np.testing.assert_allclose(result.vector, [1e-3, 2e-3], rtol=0.02)


def test_wide_time_bins_are_corrected():
    """24 and 12 bins filled from a finer sky: without the correction 12 bins lose 1.1 %, and their triangular bins of
    hour angle another 2.3 %."""
    fine, rings = 240, RingGrid(60, 240)
    dec = rings.declination[:, None, None]
    t = rings.sidereal_time[None, :, None]
    ra = rings.right_ascension[None, None, :] - 0.3 * rings.step
    hour = (t - ra + np.pi) % (2 * np.pi) - np.pi
    cosine = np.sin(dec) * np.sin(AUGER.latitude) + np.cos(dec) * np.cos(AUGER.latitude) * np.cos(hour)
    mu = np.cos(dec) * np.where(cosine > np.cos(np.radians(80)), cosine, 0.0) * (1 + 1e-3 * np.cos(dec) * np.cos(ra))
    for n in (24, 12):
        grid = RingGrid(60, n)
        tau, column = np.arange(fine) * n // fine, np.arange(fine) * n // fine
        local, half = np.zeros(grid.shape), np.zeros((2, *grid.shape))
        for i in range(fine):
            for side in (0, 1):
                west = hour[0, i] >= 0
                half[side][:, tau[i]] += (mu[:, i] * (west == side)).sum(axis=1)
            np.add.at(local, (slice(None), (tau[i] - column) % n), mu[:, i])
        template = asimov(AUGER, grid, local, even(grid), np.ones(grid.shape))
        total = np.array([half.sum(axis=(0, 1))])[None, None]
        counts = template.replace(
            n_half=half[None, None, None], n_time=total, n_local=local[None, None, None], n_sky=local[None, None, None]
        )
        result = east_west(counts)
        # How the events spread within a wide bin of hour angle is not known.
        np.testing.assert_allclose(result.vector, [1e-3, 0], rtol=0.002 if n == 24 else 0.008, atol=1e-6)


@pytest.mark.parametrize("weighting", ["halves", "directions"])
def test_an_acceptance_that_leans_east_makes_an_offset_only(weighting):
    """20 % more to the East, and 10 % to the South-East: a constant <g>, and the dipole to first order."""
    terms = ((1, 0.2, np.pi / 2), (2, 0.1, 3 * np.pi / 4))
    local, rate, sky = local_map(azimuth_terms=terms), uneven(GRID), dipole_sky(GRID, (1e-3, -2e-3))
    result = east_west(with_cube(asimov(AUGER, GRID, local, rate, sky), local, rate, sky), weighting)
    part = result.parts[0]
    # <sin az> of 1 + 0.2 sin(az) is 0.1; the East less the West is 0.2 * 2 / pi.
    expected = 0.2 * 2 / np.pi if weighting == "halves" else 0.1 * 0.65654
    assert part.offset == pytest.approx(expected, rel=0.01)
    assert abs(part.response.real) > 0.005
    np.testing.assert_allclose(result.vector, [1e-3, -2e-3], rtol=0.01)


def test_events_with_a_leaning_acceptance_need_the_latitude():
    """Unbinned: with the latitude the dipole to first order; without it the phase is off by degrees."""
    lean = lambda z, a: np.cos(z) * (1 + 0.3 * np.sin(a) + 0.3 * np.sin(2 * a))
    sky = nodes(lambda x, y, z: 1 + 1e-4 * x - 2e-4 * y, response=lean)
    for weighting in ("halves", "directions"):
        good = east_west_events(*sky, weighting=weighting, latitude=AUGER.latitude)
        np.testing.assert_allclose(good.vector, [1e-4, -2e-4], rtol=2e-3)
        bad = east_west_events(*sky, weighting=weighting)
        assert np.linalg.norm(bad.vector - good.vector) > 5e-6


@pytest.mark.parametrize("weighting", ["halves", "directions"])
def test_cross_talk_is_what_the_method_says_of_each_multipole(weighting):
    """Skies of one multipole up to l = 3, evaluated by scipy, through the whole method."""
    local, rate = local_map(), even(GRID, 1e6)
    matrix = cross_talk(local, GRID, 3, weighting)
    theta, phi = np.pi / 2 - GRID.declination[:, None], GRID.right_ascension
    for l, m in zip(*degrees_and_orders(3), strict=True):
        value = sph_harm_y(l, abs(m), theta, phi)
        real = (-1.0) ** m * np.sqrt(2) * (value.real if m > 0 else value.imag) if m else value.real
        sky = 1 + 1e-4 * np.broadcast_to(real, GRID.shape)
        counts = with_cube(asimov(AUGER, GRID, local, rate, sky), local, rate, sky)
        fake = east_west(counts, weighting).vector / 1e-4
        np.testing.assert_allclose(fake, matrix[:, index(int(l), int(m))], atol=2e-3, err_msg=f"{l} {m}")
    np.testing.assert_allclose(matrix[:, index(1, 1)], [np.sqrt(3 / (4 * np.pi)), 0], atol=1e-12)
    np.testing.assert_allclose(matrix[:, index(1, -1)], [0, np.sqrt(3 / (4 * np.pi))], atol=1e-12)


@pytest.mark.parametrize(("weight_spread", "lean"), [(0.0, 0.0), (0.8, 0.0), (0.0, 0.3)])
def test_pulls(weight_spread, lean):
    """200 draws with an uneven rate, a dipole of 10 %, weights, and an acceptance that leans East."""
    terms = ((1, lean, np.pi / 2),) if lean else ()
    local, sky = local_map(COARSE, azimuth_terms=terms, profile="triangle"), dipole_sky(COARSE, (0.1, -0.05))
    rate = uneven(COARSE, 3000)
    results = [east_west(drawn(AUGER, COARSE, local, rate, sky, seed, weight_spread)) for seed in range(200)]
    pulls = np.array([(r.vector - [0.1, -0.05]) / np.sqrt(np.diag(r.covariance)) for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.16)
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.25)
    correlation = np.mean([r.covariance[0, 1] / np.sqrt(np.prod(np.diag(r.covariance))) for r in results])
    assert np.corrcoef(pulls.T)[0, 1] == pytest.approx(correlation, abs=0.2)
    offsets = np.array([[r.parts[0].offset, r.parts[0].offset_error] for r in results])
    assert offsets[:, 0].std() == pytest.approx(offsets[:, 1].mean(), rel=0.16)


def test_pulls_of_events_weighted_by_direction():
    """Isotropic events, 400 lists of 500, with log-normal weights: scatter and chance probability."""
    rng = np.random.default_rng(5)
    results = []
    for _ in range(400):
        zenith = np.arcsin(np.sin(np.radians(80)) * np.sqrt(rng.random(500)))
        time, azimuth = 2 * np.pi * rng.random((2, 500))
        results.append(east_west_events(time, zenith, azimuth, np.exp(0.7 * rng.standard_normal(500))))
    pulls = np.array([r.vector / np.sqrt(np.diag(r.covariance)) for r in results])
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.11)
    assert np.mean([10**r.log10_p < 0.1 for r in results]) == pytest.approx(0.1, abs=0.05)
    assert results[0].effective_events == pytest.approx(500 / np.exp(0.7**2), rel=0.3)


def test_cube_and_events_agree():
    """The same events in 5-degree cells and one by one, for a dipole of 30 %."""
    rng = np.random.default_rng(2)
    grid, n = RingGrid(36, 72), 20000
    zenith = np.arcsin(np.sin(np.radians(80)) * np.sqrt(rng.random(n)))
    time, azimuth = 2 * np.pi * rng.random((2, n))
    weight = 1 + 0.3 * np.cos(time)
    east, north = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth)
    lat = AUGER.latitude
    dec = np.arcsin(north * np.cos(lat) + np.cos(zenith) * np.sin(lat))
    hour = np.arctan2(-east, np.cos(zenith) * np.cos(lat) - north * np.sin(lat))
    tau, ring = grid.bin_of(time), grid.ring_of(dec)
    h = (tau - grid.bin_of(time - hour)) % grid.n_ra
    cube, half = np.zeros((72, 36, 72)), np.zeros((2, 36, 72))
    np.add.at(cube, (tau, ring, h), weight)
    np.add.at(half, ((hour >= 0).astype(int), ring, tau), weight)
    sky = np.zeros(grid.shape)
    np.add.at(sky, (ring, (tau - h) % 72), weight)
    squares = {"n_time": np.bincount(tau, weight**2, 72), "n_local": np.zeros(grid.shape)}
    np.add.at(squares["n_local"], (ring, h), weight**2)
    template = asimov(AUGER, grid, local_map(grid), even(grid), np.ones(grid.shape))
    fields = {"n_time": cube.sum((1, 2)), "n_local": cube.sum(0), "n_sky": sky, "n_half": half}
    w2 = {**fields, **squares}
    counts = template.replace(
        **{k: v[None, None, None] for k, v in fields.items()},
        w2={k: v[None, None, None] for k, v in w2.items()},
        cube=cube[None, None, None],
    )
    binned, single = east_west(counts, "directions"), east_west_events(time, zenith, azimuth, weight, latitude=lat)
    np.testing.assert_allclose(binned.vector, single.vector, atol=0.05 * np.sqrt(single.covariance[0, 0]))
    np.testing.assert_allclose(np.diag(binned.covariance), np.diag(single.covariance), rtol=0.03)
    halves = east_west_events(time, zenith, azimuth, weight, "halves", lat)
    np.testing.assert_allclose(east_west(counts).vector, halves.vector, atol=0.05 * np.sqrt(halves.covariance[0, 0]))
    assert np.trace(single.covariance) < 0.8 * np.trace(halves.covariance)


def test_configurations_are_combined():
    """Two sites, unequal numbers: by hand."""
    parts = [
        asimov(site(w), GRID, local_map(where=site(w)), even(GRID, size), dipole_sky(GRID, d))
        for w, size, d in (("auger", 1e5, (1e-3, 0)), ("hawc", 3e5, (0, 2e-3)))
    ]
    singles, both = [east_west(part) for part in parts], east_west(combine(parts))
    precision = [np.linalg.inv(s.covariance) for s in singles]
    mean = np.linalg.solve(sum(precision), sum(p @ s.vector for p, s in zip(precision, singles, strict=True)))
    np.testing.assert_allclose(both.vector, mean, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.inv(both.covariance), sum(precision), rtol=1e-9, atol=1e-3)
    assert [p.label for p in both.parts] == ["Auger", "HAWC"]
    assert both.ndf == 2 and both.chi2 > 0


def test_the_time_frame_is_that_of_the_counts():
    counts = asimov(AUGER, GRID, local_map(), even(GRID), dipole_sky(GRID, (1e-3, 0)))
    other = counts.replace(time_frame="antisidereal")
    np.testing.assert_array_equal(east_west(counts).vector, east_west(other).vector)


def test_what_cannot_be_analysed_is_refused():
    counts = asimov(AUGER, GRID, local_map(), even(GRID), np.ones(GRID.shape))
    with pytest.raises(InputError, match="unknown East-West weighting 'quadrants': choose one of halves, directions"):
        east_west(counts, "quadrants")
    with pytest.raises(InputError, match="need the counts of every time bin and local cell: bin with --cube"):
        east_west(counts, "directions")
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    with pytest.raises(InputError, match="needs at least one event; the counts are empty"):
        east_west(counts.replace(**{name: 0 * getattr(counts, name) for name in names}))
    one_hour = np.where(np.arange(120) < 2, 100.0, 0.0)
    with pytest.raises(InputError, match="events of Auger cover too little of the day"):
        east_west(asimov(AUGER, GRID, local_map(), one_hour, np.ones(GRID.shape)))
    zero = np.zeros(0)
    with pytest.raises(InputError, match="the list is empty or without weight"):
        east_west_events(zero, zero, zero)
    with pytest.raises(InputError, match="East and West do not differ"):
        east_west_events(np.arange(6.0), np.zeros(6), np.zeros(6))
    with pytest.raises(InputError, match="cross-talk needs l_max of at least 1, not 0"):
        cross_talk(local_map(), GRID, 0)
