"""Local HEALPix maps onto the grid: every pixel where a rotation written out puts it, nothing lost, nothing spread."""

import warnings

import healpy
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import AltAz, EarthLocation, HADec, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from diffcr.inference import Counts, fit, load_counts
from diffcr.inference.local_maps import LocalMaps, bin_offset, default_rings, hour_vector, to_counts

from diffcr.errors import InputError

HAWC = ("HAWC", np.radians(19.0), np.radians(-97.3), np.radians(57.0))
ICECUBE = ("IceCube", np.radians(-90.0), np.radians(270.0), np.radians(65.0))
# East of Greenwich, in the south, by a distance that is no whole number of bins.
SOUTH = ("South", np.radians(-41.0), np.radians(123.4), np.radians(50.0))


def maps_of(place, n_time=24, nside=4, seed=0, **fields) -> LocalMaps:
    counts = np.random.default_rng(seed).poisson(3.0, (n_time, 12 * nside**2)).astype(float)
    return LocalMaps(*place, **({"counts": counts} | fields))


def equatorial(vector, angle, latitude):
    """Right ascension and declination of horizon vectors (South, East, up), by the rows of the rotation matrix."""
    south = np.array([np.cos(angle) * np.sin(latitude), np.sin(angle) * np.sin(latitude), -np.cos(latitude)])
    east = np.array([-np.sin(angle), np.cos(angle), 0])
    up = np.array([np.cos(angle) * np.cos(latitude), np.sin(angle) * np.cos(latitude), np.sin(latitude)])
    x, y, z = np.stack([south, east, up], axis=1) @ vector
    return np.arctan2(y, x), np.arcsin(np.clip(z, -1, 1))


def brute_force(maps: LocalMaps, grid, reference):
    """Sky map, East and West counts and first-order sums, pixel by pixel and bin by bin."""
    n = len(maps.counts)
    vectors = np.array(healpy.pix2vec(maps.nside, np.arange(maps.counts.shape[1])))
    sky, half, sums = np.zeros(grid.shape), np.zeros((2, grid.n_ring)), np.zeros((3, 2))
    for tau in range(n):
        time = 2 * np.pi * (tau + (0.5 if reference == "center" else 0)) / n + maps.longitude
        for i, number in enumerate(maps.counts[tau]):
            if np.arccos(vectors[2, i]) > maps.zenith_max:
                continue
            ra, dec = (np.array([x]) for x in equatorial(vectors[:, i], time, maps.latitude))
            # On the edge of two cells the eastern sky goes East, the western one West; rounding goes up.
            edge = 1e-6 * np.sign(vectors[1, i]) if abs(ra[0] / grid.step - round(ra[0] / grid.step)) < 1e-9 else 0.0
            sky[grid.ring_of(dec), grid.bin_of(ra + edge - 1e-9 * (vectors[1, i] <= 1e-12))] += number
            east = 0.5 if abs(vectors[1, i]) < 1e-9 else float(vectors[1, i] > 0)
            half[:, grid.ring_of(dec)[0]] += number * np.array([east, 1 - east])
            # The grid's clock shows the centre of its bin, and its hour angles follow: t - H remains.
            clock = grid.sidereal_time[(tau + round(maps.longitude / grid.step)) % n]
            for row, (size, angle) in enumerate(((np.cos(dec), ra), (np.cos(dec), clock - ra), (1, clock))):
                sums[row] += number * np.ravel(size * np.array([np.cos(angle), np.sin(angle)]))
    return sky, half, sums


@pytest.mark.parametrize("reference", ["start", "center"])
@pytest.mark.parametrize("place", [HAWC, ICECUBE, SOUTH], ids=lambda p: p[0])
def test_every_pixel_lands_where_the_rotation_puts_it(place, reference):
    maps = maps_of(place)
    counts = to_counts([maps], bin_reference=reference)
    sky, half, sums = brute_force(maps, counts.grid, reference)
    np.testing.assert_allclose(counts.n_sky[0, 0, 0], sky, rtol=1e-12)
    np.testing.assert_allclose(counts.n_half[0, 0, 0].sum(-1), half, rtol=1e-12)
    np.testing.assert_allclose(counts.moments[0, 0, 0], sums, rtol=1e-10, atol=1e-9 * sky.sum())
    assert counts.num_events.item() == sky.sum() == counts.n_time.sum()


@pytest.mark.parametrize("reference", ["start", "center"])
@pytest.mark.parametrize("place", [HAWC, SOUTH], ids=lambda p: p[0])
def test_one_event_keeps_the_rule_of_the_grid(place, reference):
    """Right-ascension bin = (time bin - hour-angle bin) mod n, one whole cell; both are right to a bin."""
    n = 36
    rng = np.random.default_rng(5)
    for _ in range(20):
        tau, theta, phi = int(rng.integers(n)), rng.uniform(0.1, 0.8), rng.uniform(0, 2 * np.pi)
        pixel = healpy.ang2pix(8, theta, phi)
        maps = maps_of(place, n, 8, counts=np.zeros((n, 768)))
        maps.counts[tau, pixel] = 7
        counts = to_counts([maps], bin_reference=reference)
        ((ring, ra),), ((time,),), ((also, hour),) = (
            np.argwhere(getattr(counts, name)[0, 0, 0] == 7) for name in ("n_sky", "n_time", "n_local")
        )
        assert ring == also
        assert ra == (time - hour) % n
        stands_for = 2 * np.pi * (tau + 0.5 * (reference == "center")) / n + maps.longitude
        away = (counts.grid.sidereal_time[time] - stands_for + np.pi) % (2 * np.pi) - np.pi
        assert abs(away) <= (1 if reference == "start" else 0.5) * counts.grid.step + 1e-12
        ahead, aside, _ = hour_vector(*(np.array([x]) for x in healpy.pix2ang(8, pixel)), maps.latitude)
        off = (counts.grid.hour_angle[hour] - np.arctan2(aside, ahead)[0] + np.pi) % (2 * np.pi) - np.pi
        assert abs(off) <= (1.5 if reference == "start" else 1) * counts.grid.step + 1e-9


def test_bins_that_begin_with_those_of_the_grid_are_taken_as_they_are():
    """Longitude 0, center: nothing is left to shift. Start: half a bin goes into the hour angle."""
    assert bin_offset(0.0, 24, "center") == (0, 0.0)
    assert bin_offset(0.0, 24, "start") == (0, pytest.approx(-np.pi / 24))
    assert bin_offset(np.radians(31), 24, "center") == (2, pytest.approx(np.radians(1)))
    assert bin_offset(np.radians(-31), 24, "center") == (-2, pytest.approx(np.radians(-1)))
    maps = maps_of((*HAWC[:2], 0.0, HAWC[3]))
    time = to_counts([maps], bin_reference="center").n_time[0, 0, 0]
    theta = healpy.pix2ang(4, np.arange(192))[0]
    np.testing.assert_array_equal(time, maps.counts[:, theta <= HAWC[3]].sum(1))


def test_horizon_frame_is_that_of_astropy():
    """x South, y East, phi from x to y; hour angle and declination by astropy's frames at the same place and time."""
    theta, phi = np.radians([10.0, 40, 60, 75]), np.radians([20.0, 130, 250, 340])
    place = EarthLocation.from_geodetic(-97.3 * units.deg, 19 * units.deg, 0 * units.m)
    azimuth = np.arctan2(np.sin(phi), -np.cos(phi))  # North through East
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        frame = {"obstime": Time("2015-06-01T06:00:00"), "location": place}
        local = SkyCoord(AltAz(azimuth * units.rad, (np.pi / 2 - theta) * units.rad, **frame))
        expected = local.transform_to(HADec(**frame))
    ahead, aside, sine = hour_vector(theta, phi, np.radians(19))
    np.testing.assert_allclose(np.arctan2(aside, ahead), expected.ha.rad, atol=1e-5)
    np.testing.assert_allclose(np.arcsin(sine), expected.dec.rad, atol=1e-5)
    assert np.all(aside[:2] < 0), "East of the meridian the hour angle is negative"
    assert np.all(aside[2:] > 0)


def test_marginals_are_those_of_the_cube():
    """Local map, time and sky from the full array, whose shape has its axes in order; `Counts` checks the rest."""
    maps = maps_of(HAWC)
    plain, full = to_counts([maps]), to_counts([maps], cube=True)
    assert plain.cube is None
    assert full.cube.shape == (1, 1, 1, 24, *full.grid.shape)
    np.testing.assert_allclose(full.cube.sum(3), plain.n_local, rtol=1e-12)
    np.testing.assert_allclose(full.cube.sum((4, 5)), plain.n_time, rtol=1e-12)


def test_weights_bring_their_squares():
    """Sums of weights in n, of squares in w2, numbers of events in num_events: three different things."""
    rng = np.random.default_rng(2)
    number = rng.poisson(3.0, (24, 192)).astype(float)
    weights, squares = number * rng.uniform(1, 2, number.shape), number * rng.uniform(4, 5, number.shape)
    maps = LocalMaps(*HAWC, number, weights, squares)
    counts = to_counts([maps])
    parts = [to_counts([LocalMaps(*HAWC, each)]) for each in (number, weights, squares)]
    for name in ("n_sky", "n_time", "n_local", "n_half"):
        np.testing.assert_allclose(getattr(counts, name), getattr(parts[1], name), rtol=1e-12)
        np.testing.assert_allclose(counts.w2[name], getattr(parts[2], name), rtol=1e-12)
    np.testing.assert_allclose(counts.moments, parts[1].moments, rtol=1e-12)
    assert counts.num_events == parts[0].num_events
    assert counts.weighted
    assert not parts[0].weighted


def test_counts_beyond_the_zenith_cut_are_told():
    maps = maps_of(HAWC, source="a.json: HAWC", checksum="12", notes=("turned",))
    theta = healpy.pix2ang(4, np.arange(192))[0]
    kept = maps.counts[:, theta <= HAWC[3]].sum()
    (entry,) = to_counts([maps]).inputs
    assert entry["events_read"] == maps.counts.sum()
    assert entry["cut"] == {"zenith": maps.counts.sum() - kept}
    assert entry["file"] == "a.json: HAWC"
    assert entry["sha256"] == "12"
    assert entry["notes"] == ["turned"]
    assert (entry["bin_reference"], entry["nside"]) == ("start", 4)
    assert to_counts([maps]).n_sky.sum() == kept


def test_nothing_left_is_refused():
    counts = np.zeros((24, 192))
    with pytest.raises(InputError, match="local maps: HAWC: no count; check the maps"):
        to_counts([LocalMaps(*HAWC, counts)])
    counts[:, -1] = 2
    with pytest.raises(InputError, match="no count lies within the zenith cut of 57 degrees, 48 beyond"):
        to_counts([LocalMaps(*HAWC, counts)])
    # A cut so narrow that it holds no centre of a pixel.
    with pytest.raises(InputError, match="no count lies within the zenith cut of 1 degrees, 4608 beyond"):
        to_counts([LocalMaps(*HAWC[:3], np.radians(1), np.ones((24, 192)))])


def test_pixels_on_the_meridian_belong_to_both_halves():
    theta, phi = healpy.pix2ang(8, np.arange(768))
    seen = theta < HAWC[3]
    for mine, halves in (
        (np.abs(np.sin(phi)) < 1e-12, [2.5, 2.5]),
        (np.sin(phi) > 0, [5, 0]),
        (np.sin(phi) < 0, [0, 5]),
    ):
        # The first is due South, where the hour angle is 0, or North below the pole.
        counts = np.zeros((24, 768))
        counts[3, np.flatnonzero(seen & mine)[0]] = 5
        half = to_counts([LocalMaps(*HAWC, counts)]).n_half[0, 0, 0]
        assert half.sum((1, 2)).tolist() == halves


@pytest.mark.parametrize("place", [HAWC, ICECUBE, SOUTH], ids=lambda p: p[0])
@pytest.mark.parametrize("nside", [2, 4, 8, 32, 64])
def test_rings_are_half_as_wide_as_where_none_of_the_field_of_view_stays_empty(place, nside):
    """And those are not much wider than pixels, or a degree."""
    maps = LocalMaps(*place, np.ones((4, 12 * nside**2)))
    default = default_rings([maps])
    counts = to_counts([maps], n_ring=default // 2 if default < 180 else 90)
    filled = counts.n_local[0, 0, 0].sum(1) > 0
    edges = counts.grid.declination_edges
    low, high = place[1] - place[3], place[1] + place[3]
    assert filled[(edges[:-1] >= low) & (edges[1:] <= high)].all()
    assert not filled[(edges[1:] < low - 1e-9) | (edges[:-1] > high + 1e-9)].any()
    assert to_counts([maps]).grid.n_ring == default
    pixel = np.degrees(healpy.nside2resol(nside))
    assert default <= 180
    assert 180 / counts.grid.n_ring < max(2.001, 1.1 * pixel)


def test_several_observatories_share_one_grid():
    """The coarser one decides on the rings; each keeps its own rate, acceptance and place."""
    fine, coarse = maps_of(HAWC, nside=8), maps_of(ICECUBE, nside=4, seed=1)
    both = to_counts([fine, coarse])
    assert both.grid.n_ring == default_rings([coarse]) < default_rings([fine])
    assert [s.name for s in both.sites] == ["HAWC", "IceCube"]
    alone = to_counts([coarse])
    np.testing.assert_array_equal(both.n_sky[1], alone.n_sky[0])
    np.testing.assert_array_equal(both.moments[1], alone.moments[0])
    assert to_counts([fine, coarse], n_ring=20).grid.n_ring == 20


def test_epoch_and_livetime_are_unknown_unless_given(tmp_path):
    counts = to_counts([maps_of(HAWC)])
    assert np.isnan(counts.mean_epoch).all()
    assert np.isnan(counts.livetime).all()
    loaded = load_counts(counts.save(tmp_path / "a.nc"))
    np.testing.assert_array_equal(loaded.n_sky, counts.n_sky)
    assert np.isnan(loaded.overall_epoch())
    known = to_counts([maps_of(HAWC)], mean_epoch=2012.5, livetime=300.0)
    assert known.overall_epoch() == 2012.5
    assert known.livetime.item() == 300


def expected_maps(place, dipole, n_time, nside, reference="start", number=1e9) -> LocalMaps:
    """Expected counts of an equatorial dipole, each bin seen at one time, with uneven rate and acceptance."""
    vectors = np.array(healpy.pix2vec(nside, np.arange(12 * nside**2)))
    acceptance = np.clip(vectors[2], 0, 1) ** 2 * (1 + 0.2 * vectors[1])
    counts = np.empty((n_time, 12 * nside**2))
    for tau in range(n_time):
        angle = 2 * np.pi * (tau + 0.5 * (reference == "center")) / n_time + place[2]
        ra, dec = equatorial(vectors, angle, place[1])
        sky = 1 + np.cos(dec) * (dipole[0] * np.cos(ra) + dipole[1] * np.sin(ra))
        counts[tau] = (1 + 0.1 * np.cos(2 * np.pi * tau / n_time)) * acceptance * sky
    return LocalMaps(*place, counts * number / counts.sum())


@pytest.mark.parametrize("reference", ["start", "center"])
def test_dipole_of_local_maps_is_fitted(reference):
    """Both components, of a mid-latitude site east of Greenwich; the other reference would turn it by 2.5 degrees."""
    truth = (8e-4, -5e-4)
    counts = to_counts([expected_maps(SOUTH, truth, 72, 16, reference)], n_ring=90, bin_reference=reference)
    np.testing.assert_allclose(fit(counts).dipole.delta, truth, rtol=2e-3)


@pytest.mark.slow
def test_pulls_of_poisson_maps_are_normal():
    """Pixels as a whole keep cells Poisson: the scatter of the fitted dipole is its error, 60 draws."""
    mean = expected_maps(HAWC, (1e-3, 5e-4), 36, 8, number=1e7)
    rng = np.random.default_rng(11)
    pulls = []
    for _ in range(60):
        maps = LocalMaps(*HAWC, rng.poisson(mean.counts).astype(float))
        dipole = fit(to_counts([maps])).dipole
        error = np.sqrt(np.diag(dipole.covariance)[:2])
        pulls.append((dipole.delta - (1e-3, 5e-4)) / error)
    pulls = np.ravel(pulls)
    assert abs(pulls.mean()) < 0.3
    assert 0.8 < pulls.std() < 1.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": np.ones(192)}, r"shape \(192,\); they need at least 4 time bins"),
        ({"counts": np.ones((24, 190))}, r"shape \(24, 190\); they need at least 4 time bins of 12 nside\^2 pixels"),
        ({"counts": np.ones((3, 192))}, r"shape \(3, 192\); they need at least 4"),
        (
            {"counts": np.where(np.arange(192) == 7, -1.0, np.ones((24, 192)))},
            r"the first is -1 at \(0, 7\); set pixels",
        ),
        (
            {"counts": np.where(np.arange(192) == 7, np.nan, np.ones((24, 192)))},
            "24 of 4608 entries .* the first is nan",
        ),
        ({"counts": np.where(np.arange(192) == 7, np.inf, np.ones((24, 192)))}, "the first is inf"),
        ({"counts": np.where(np.arange(192) == 7, healpy.UNSEEN, np.ones((24, 192)))}, "the first is HEALPix UNSEEN"),
        ({"sum_weights": np.ones((24, 192))}, "need sum_weights and sum_squares; give both, or neither"),
        (
            {"sum_weights": np.ones((24, 48)), "sum_squares": np.ones((24, 192))},
            r"sum_weights of HAWC has shape \(24, 48\), the counts have \(24, 192\)",
        ),
        ({"latitude": 19.0}, "latitude of site 'HAWC' must lie in"),
        ({"zenith_max": np.radians(95)}, "zenith_max of site 'HAWC'"),
    ],
)
def test_bad_maps_are_refused(fields, message):
    good = dict(zip(("name", "latitude", "longitude", "zenith_max"), HAWC, strict=True), counts=np.ones((24, 192)))
    with pytest.raises(InputError, match=message):
        LocalMaps(**(good | fields))


def test_maps_that_do_not_fit_each_other_are_refused():
    maps = maps_of(HAWC)
    with pytest.raises(InputError, match="no local maps were given"):
        to_counts([])
    with pytest.raises(InputError, match="two of the local maps have the same name"):
        to_counts([maps, maps])
    with pytest.raises(InputError, match=r"different numbers of time bins \(HAWC 24, IceCube 36\)"):
        to_counts([maps, maps_of(ICECUBE, 36)])
    with pytest.raises(InputError, match="unknown bin reference 'end': choose one of start, center"):
        bin_offset(0.0, 24, "end")


def test_result_is_counts_like_any_other():
    assert isinstance(to_counts([maps_of(HAWC)]), Counts)
