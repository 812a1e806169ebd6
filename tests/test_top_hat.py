"""Discs about targets, events and pixels: exposure in closed form, counts by brute force, published numbers."""

import json
from types import SimpleNamespace

import healpy
import numpy as np
import pytest
from diffcr.inference.datasets import resolve_input
from diffcr.inference.top_hat import TopHatScan, top_hat, top_hat_scan
from diffcr.inference.top_hat_exposure import Exposure, sommers_exposure
from helpers import asimov, dipole_sky, drawn
from scipy import stats

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

DEGREE = np.pi / 180
AUGER = (-35.2 * DEGREE, 80 * DEGREE)


@pytest.fixture(scope="module")
def auger():
    """Energies [EeV], right ascensions and declinations [rad] of the 231 events."""
    table = np.loadtxt(resolve_input("dataset:auger-52eev")[0])
    return table[:, 3], table[:, 4] * DEGREE, table[:, 5] * DEGREE


@pytest.mark.parametrize(
    ("zenith_max", "values"),
    [(60, [1.208271, 0.935376, 0.463178, 0.0]), (80, [1.701704, 1.083226, 0.634252, 0.288385])],
)
def test_the_exposure_is_that_of_sommers(zenith_max, values):
    declination = np.array([-70.0, -20, 10, 30]) * DEGREE
    found = sommers_exposure(-35.2 * DEGREE, zenith_max * DEGREE, declination)
    np.testing.assert_allclose(found, values, atol=1e-6)


@pytest.mark.parametrize("latitude", [-90.0, -35.2, 0.0, 50.0, 90.0])
@pytest.mark.parametrize("zenith_max", [30.0, 60.0, 90.0])
def test_the_exposure_is_the_mean_over_hour_angles(latitude, zenith_max):
    """Brute force: cos(zenith) where it is above the cut, over half a turn of hour angle; and its integral."""
    edges = np.linspace(-np.pi / 2, np.pi / 2, 1801)
    dec = (edges[1:] + edges[:-1]) / 2
    hour = (np.arange(4000) + 0.5) * np.pi / 4000
    sin, cos = np.sin(latitude * DEGREE), np.cos(latitude * DEGREE)
    up = sin * np.sin(dec)[:, None] + cos * np.cos(dec)[:, None] * np.cos(hour)
    brute = np.where(up >= np.cos(zenith_max * DEGREE), up, 0).mean(axis=1) * np.pi
    found = sommers_exposure(latitude * DEGREE, zenith_max * DEGREE, dec)
    np.testing.assert_allclose(found, brute, atol=2e-3)
    total = found @ np.diff(np.sin(edges))
    assert total == pytest.approx(np.pi / 2 * np.sin(zenith_max * DEGREE) ** 2, rel=1e-4)


def unit(ra, dec):
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


@pytest.mark.parametrize("radii", [[1.0, 3.0, 30.0], [89.0], [15.0, 120.0, 180.0]])
def test_a_disc_of_a_dipole_exposure_in_closed_form(radii):
    """1 + a.n over a disc about c is (1 - cos r) / 2 + (a.c) sin^2 r / 4 of the sphere, poles and RA = 0 included."""
    ra, dec = np.array([0.001, 2.0, 6.28, 4.0, 1.0]), np.array([0.0, -0.5, 1.3, np.pi / 2, -np.pi / 2])
    radii = np.array(radii) * DEGREE
    zonal = Exposure.of_declination(lambda d: 7 * (1 + 0.8 * np.sin(d)))
    np.testing.assert_allclose(
        zonal.disc_fraction(ra, dec, radii),
        (1 - np.cos(radii)) / 2 + 0.8 * np.sin(dec)[:, None] * np.sin(radii) ** 2 / 4,
        rtol=1e-6,
    )
    vector = np.array([0.5, -0.3, 0.4])
    tilted = Exposure(lambda d, a: (1 + unit(a, d) @ vector) / (4 * np.pi), 0.2, False)
    expected = (1 - np.cos(radii)) / 2 + (unit(ra, dec) @ vector)[:, None] * np.sin(radii) ** 2 / 4
    np.testing.assert_allclose(tilted.disc_fraction(ra, dec, radii), expected, rtol=1e-6)


def test_discs_of_a_real_field_of_view_are_good_to_a_thousandth():
    """Against the sum over 786432 pixels of healpy, from the middle of the field of view to its edge."""
    nside = 256
    theta, _ = healpy.pix2ang(nside, np.arange(12 * nside**2))
    weight = sommers_exposure(*AUGER, np.pi / 2 - theta)
    exposure = Exposure.of_site(*AUGER)
    ra, dec = np.array([3.5, 0.1, 2.0, 5.0]), np.array([-43.0, -88.0, 10.0, 40.0]) * DEGREE
    radii = np.array([10.0, 15.0, 28.0]) * DEGREE
    found = exposure.disc_fraction(ra, dec, radii)
    for i in range(4):
        for k in range(3):
            pixels = healpy.query_disc(nside, unit(ra[i], dec[i]), radii[k])
            # The sum itself is off by the pixels on the rim.
            assert found[i, k] == pytest.approx(weight[pixels].sum() / weight.sum(), rel=3e-3)
    np.testing.assert_allclose(exposure.disc_lookup(radii)(ra, dec), found, rtol=1e-3)


def test_discs_do_not_depend_on_how_they_are_integrated():
    """A tenth of the steps by brute force: a fine grid of distance and azimuth."""
    exposure = Exposure.of_site(*AUGER)
    dec, radius = np.array([35.0, -43.0]) * DEGREE, 20 * DEGREE
    rho = (np.arange(1500) + 0.5) / 1500 * radius
    phi = (np.arange(1500) + 0.5) / 1500 * 2 * np.pi
    height = np.cos(rho)[:, None] * np.sin(dec)[:, None, None] + (
        np.sin(rho)[:, None] * np.cos(phi) * np.cos(dec)[:, None, None]
    )
    values = exposure.density(np.arcsin(height), height) * np.sin(rho)[:, None]
    brute = values.mean(axis=(1, 2)) * radius * 2 * np.pi
    found = exposure.disc_fraction(np.zeros(2), dec, np.array([5 * DEGREE, radius]))[:, 1]
    np.testing.assert_allclose(found, brute, rtol=1e-3)


def test_a_map_of_the_exposure_keeps_its_right_ascension():
    grid = RingGrid(36, 72)
    sky = dipole_sky(grid, (0.0, 0.6, 0.3))
    exposure = Exposure.of_map(sky * grid.solid_angle[:, None], grid)
    ra, dec = np.array([90.0, 270.0, 359.9]) * DEGREE, np.array([0.0, 30.0, -60.0]) * DEGREE
    radii = np.array([8.0, 25.0]) * DEGREE
    expected = (1 - np.cos(radii)) / 2 + (unit(ra, dec) @ [0, 0.6, 0.3])[:, None] * np.sin(radii) ** 2 / 4
    np.testing.assert_allclose(exposure.disc_fraction(ra, dec, radii), expected, rtol=4e-3)
    drawn_ra, drawn_dec = exposure.draw(np.random.default_rng(1), 40000)
    # <n> of 1 + a.n is a / 3, each component of n has variance near 1/3.
    np.testing.assert_allclose(unit(drawn_ra, drawn_dec).mean(axis=0), [0, 0.2, 0.1], atol=4 * 0.58 / 200)
    assert drawn_ra.min() >= 0 and drawn_ra.max() < 2 * np.pi


def test_skies_fill_the_field_of_view_as_exposed():
    dec = Exposure.of_site(*AUGER).draw(np.random.default_rng(2), 30000)[1]
    # PHYSICS, averages for Auger to 80 degrees: <cos> 0.78317, <sin> -0.39416.
    assert np.cos(dec).mean() == pytest.approx(0.78317, abs=0.005)
    assert np.sin(dec).mean() == pytest.approx(-0.39416, abs=0.01)
    assert dec.max() <= 44.8 * DEGREE


def test_the_exposure_of_counts_is_their_isotropic_expectation():
    """A rate that varies and an acceptance that leans east: the map that isotropy makes, in right ascension too."""
    grid = RingGrid(18, 36)
    field = sommers_exposure(*AUGER, grid.declination) * grid.solid_angle
    local = np.outer(field, 1 - 0.5 * np.sin(grid.hour_angle))
    rate = 1e4 * (1 + 0.7 * np.cos(grid.sidereal_time - 1.0))
    isotropic = asimov(site("auger"), grid, local / local.sum(), rate, np.ones(grid.shape))
    expected = Exposure.of_map(isotropic.n_sky[0, 0, 0], grid)
    ra, dec = np.linspace(0, 6.2, 20), np.linspace(-1.4, 0.6, 20)
    found = Exposure.of_counts(isotropic).density(dec, ra)
    np.testing.assert_allclose(found, expected.density(dec, ra), rtol=1e-9)
    # A fit gives the rates and acceptances that the sky did not make.
    seen = asimov(site("auger"), grid, local / local.sum(), rate, dipole_sky(grid, (0.3, 0.0)))
    result = SimpleNamespace(counts=seen, rates=rate[None] / rate.sum(), acceptances=local[None] / local.sum())
    np.testing.assert_allclose(Exposure.of_fit(result).density(dec, ra), expected.density(dec, ra), rtol=1e-9)


def brute_force(energy, ra, dec, exposure, thresholds, radii, centres):
    """Loops and scipy: the smallest log10 p, shape (threshold, radius), and where the least is."""
    vectors = unit(ra, dec)
    out = np.full((len(thresholds), len(radii)), np.inf)
    for k, low in enumerate(thresholds):
        for r, radius in enumerate(radii):
            for c in range(len(ra) if centres is None else len(centres[0])):
                own = centres is None
                if own and energy[c] < low:
                    continue
                at = (ra[c], dec[c]) if own else (centres[0][c], centres[1][c])
                near = np.arccos(np.clip(vectors @ unit(*at), -1, 1)) <= radius + 1e-9
                on, total = np.sum(near & (energy >= low)) - own, np.sum(energy >= low) - own
                fraction = exposure.disc_fraction(np.array([at[0]]), np.array([at[1]]), radii)[0, r]
                out[k, r] = min(out[k, r], stats.binom.logsf(on - 1, total, fraction) / np.log(10))
    return out


@pytest.mark.parametrize("kind", ["events", 2, "targets", "map"])
def test_the_scan_is_that_of_brute_force(kind):
    rng = np.random.default_rng(4)
    exposure = Exposure.of_site(*AUGER)
    ra, dec = exposure.draw(rng, 60)
    ra[:6], dec[:6] = 1.0 + 0.05 * rng.normal(size=6), -0.5 + 0.05 * rng.normal(size=6)
    energy = rng.pareto(2, 60) + 50
    energy[1] = 50.4  # at a threshold
    thresholds, radii = np.array([50.0, 50.4, 51.0, 52.0]), np.array([4.0, 9.0, 20.0]) * DEGREE
    centres, places = kind, None
    if kind == 2:
        theta, phi = healpy.pix2ang(2, np.arange(48))
        places = (phi, np.pi / 2 - theta)
    elif kind in ("targets", "map"):
        centres = places = (np.array([1.0, 4.0, 0.3]), np.array([-0.5, 0.2, -1.5]))
    if kind == "map":
        grid = RingGrid(36, 72)
        exposure = Exposure.of_map(np.outer(np.linspace(3, 1, 36), 2 + np.cos(grid.right_ascension)), grid)
    found = top_hat_scan(energy, ra, dec, exposure, thresholds, radii, centres)
    expected = brute_force(energy, ra, dec, exposure, thresholds, radii, places)
    np.testing.assert_allclose(found.log10_p, expected, rtol=1e-3 if kind == "events" else 1e-8)
    best = found.best
    assert best.log10_p == found.log10_p.min()
    near = unit(ra, dec) @ unit(best.right_ascension, best.declination) >= np.cos(best.radius) - 1e-9
    own = kind == "events"
    assert best.num_on == np.sum(near & (energy >= best.threshold)) - own
    assert best.num_total == np.sum(energy >= best.threshold) - own
    np.testing.assert_array_equal(found.num_above, [np.sum(energy >= t) for t in thresholds])


def test_the_centres_in_pieces_give_the_same(monkeypatch):
    import diffcr.inference.top_hat as module
    import diffcr.inference.top_hat_exposure as exposures

    rng = np.random.default_rng(5)
    exposure = Exposure.of_site(*AUGER)
    ra, dec = exposure.draw(rng, 80)
    arguments = (rng.pareto(2, 80) + 50, ra, dec, exposure, np.array([50.0, 51.0]), np.array([0.1, 0.2]))
    whole = {kind: top_hat_scan(*arguments, kind) for kind in (4, "events")}
    monkeypatch.setattr(module, "_PAIRS", 1000)
    monkeypatch.setattr(exposures, "_NODES", 1000)
    for kind, expected in whole.items():
        found = top_hat_scan(*arguments, kind)
        assert (found.best.right_ascension, found.best.num_on) == (expected.best.right_ascension, expected.best.num_on)
        np.testing.assert_allclose(found.log10_p, expected.log10_p, rtol=1e-12)


def test_centaurus_a_as_published(auger):
    """arXiv:1411.6111: above 58 EeV within 15 degrees of Cen A 14 events are seen, 4.5 expected, p = 2e-4."""
    centre = (201.4 * DEGREE, -43.0 * DEGREE)
    spot = top_hat(*auger, Exposure.of_site(*AUGER), centre, 58.0, 15 * DEGREE)
    assert (spot.num_on, spot.num_total) == (14, 155)
    assert spot.expected == pytest.approx(4.56, abs=0.01)
    assert 10**spot.log10_p == pytest.approx(2.17e-4, rel=0.01)
    assert spot.significance == pytest.approx(3.62, abs=0.01)
    # Vertical showers alone would expect more in the south.
    vertical = top_hat(*(x[auger[2] < 0.3] for x in auger), Exposure.of_site(AUGER[0], np.pi / 3), centre, 58.0, 0.26)
    assert vertical.fraction * 155 == pytest.approx(5.0, abs=0.1)


def test_the_blind_search_finds_the_published_spot(auger):
    """arXiv:1411.6111: the smallest p, 6e-6, is above 54 EeV within 12 degrees of (198, -25): 14 for 3.23."""
    # The public directions are rounded to 0.1 degrees, and the fourteenth event lies 0.001 degrees outside.
    published = top_hat(*auger, Exposure.of_site(*AUGER), (198 * DEGREE, -25 * DEGREE), 54.0, 12.002 * DEGREE)
    assert published.num_on == 14
    assert published.expected == pytest.approx(3.23, abs=0.06)
    assert 10**published.log10_p == pytest.approx(6e-6, rel=0.25)
    assert published.significance == pytest.approx(4.5, abs=0.15)
    scan = top_hat_scan(*auger, Exposure.of_site(*AUGER), [52.0, 54.0, 58.0], np.array([10.0, 12, 15]) * DEGREE, 32)
    away = np.arccos(unit(scan.best.right_ascension, scan.best.declination) @ unit(198 * DEGREE, -25 * DEGREE))
    assert away < 6 * DEGREE
    assert (scan.best.threshold, scan.best.radius) == (54.0, pytest.approx(12 * DEGREE))


def test_isotropic_lists_have_uniform_penalised_chances():
    """Each list of 40 events against 39 skies: ranks of 60 lists; the same without penalty would be far too small."""
    exposure, rng = Exposure.of_site(*AUGER), np.random.default_rng(6)
    energy = np.sort(rng.pareto(2, 40) + 50)
    targets = (np.array([1.0, 3.0, 5.0, 2.0]), np.array([-0.5, 0.0, -1.0, 0.4]))
    thresholds, radii = np.array([50.0, 50.3, 51.0]), np.array([0.1, 0.2, 0.4])
    chances, raw = [], []
    for seed in range(60):
        ra, dec = exposure.draw(rng, 40)
        found = top_hat_scan(energy, ra, dec, exposure, thresholds, radii, targets, num_skies=39, seed=seed)
        chances.append(found.penalised_p)
        raw.append(10**found.best.log10_p)
    assert stats.kstest(chances, "uniform").pvalue > 0.01
    assert stats.kstest(raw, "uniform").pvalue < 1e-4


def test_an_injected_cluster_is_found_and_beats_all_skies():
    exposure, rng = Exposure.of_site(*AUGER), np.random.default_rng(7)
    ra, dec = exposure.draw(rng, 100)
    ra[:12], dec[:12] = 2.0 + 0.06 * rng.normal(size=12), -0.3 + 0.06 * rng.normal(size=12)
    calls = []
    found = top_hat_scan(
        np.full(100, 60.0), ra, dec, exposure, [60.0], np.array([3.0, 6, 12]) * DEGREE, 8, 50, 1, calls.append
    )
    assert sum(calls) == 50
    assert found.num_as_extreme == 0
    assert (found.penalised_p, found.penalised_error) == (0.0, 0.0)
    assert found.limit_95 == pytest.approx(1 - 0.05 ** (1 / 50))
    assert np.arccos(unit(found.best.right_ascension, found.best.declination) @ unit(2.0, -0.3)) < 6 * DEGREE
    written = json.loads(json.dumps(found.as_dict()))
    assert written["num_skies"] == 50
    assert written["best"]["radius_deg"] == pytest.approx(np.degrees(found.best.radius))
    again = top_hat_scan(np.full(100, 60.0), ra, dec, exposure, [60.0], np.array([3.0, 6, 12]) * DEGREE, 8, 50, 1)
    np.testing.assert_array_equal(again.sky_minima, found.sky_minima)


def test_the_penalty_counts_skies():
    def scan(minima):
        spot = top_hat([60.0, 61.0], [1.0, 1.1], [0.0, 0.0], Exposure.of_declination(np.cos), (1.0, 0.0), 60.0, 0.2)
        return TopHatScan(
            spot, np.array([60.0]), np.array([0.2]), np.array([2]), np.zeros((1, 1)), 1, minima + spot.log10_p
        )

    found = scan(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert found.num_as_extreme == 2
    assert found.penalised_p == 0.5
    assert found.penalised_error == 0.25
    assert stats.binom.cdf(2, 4, found.limit_95) == pytest.approx(0.05)
    assert scan(-np.ones(3)).limit_95 == 1.0
    none = scan(np.zeros(0))
    assert np.isnan(none.penalised_p) and np.isnan(none.penalised_error) and none.limit_95 == 1.0
    assert none.as_dict()["penalised_p"] is None


def test_a_disc_of_the_whole_sky_has_no_significance():
    spot = top_hat([60.0, 61.0], [1.0, 4.0], [0.0, 0.0], Exposure.of_declination(np.cos), (1.0, 0.0), 60.0, np.pi)
    assert (spot.num_on, spot.log10_p) == (2, pytest.approx(0.0, abs=1e-9))
    assert abs(spot.significance) < 1e-4 or np.isnan(spot.significance)


def test_discs_without_events_or_exposure_are_no_discovery():
    """No event above a threshold, and an event that rounding puts outside the field of view, are chance 1."""
    rng = np.random.default_rng(8)
    exposure = Exposure.of_site(*AUGER)
    ra, dec = exposure.draw(rng, 2000)
    dec[0] = 45.5 * DEGREE
    target = (np.array([ra[0], ra[0]]), np.array([dec[0], -0.5]))
    found = top_hat_scan(rng.uniform(50, 60, 2000), ra, dec, exposure, [50.0, 1e9], [0.001, 0.2], target)
    assert found.num_above[1] == 0
    np.testing.assert_array_equal(found.log10_p[1], 0)
    assert np.all(np.isfinite(found.log10_p))
    nothing = top_hat_scan([50.0, 60.0], [1.0, 1.1], [0, 0], exposure, [50.0], [0.001], (np.array([3.0]), np.zeros(1)))
    assert (nothing.best.num_on, nothing.best.log10_p) == (0, 0.0)
    assert nothing.best.significance < 0


GOOD = {
    "energy": np.array([60.0, 70.0, 80.0]),
    "right_ascension": np.array([1.0, 2.0, 3.0]),
    "declination": np.array([0.0, -0.1, -0.2]),
    "exposure": Exposure.of_site(*AUGER),
    "thresholds": [60.0],
    "radii": [0.1],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": np.array([1.0])}, "differ in shape"),
        ({"declination": np.array([0.0, -10.0, 20.0])}, "declinations within .*convert degrees"),
        ({"declination": np.array([0.0, 1.5, 0.0])}, "1 of 3 events lie where the exposure is zero"),
        ({"thresholds": [75.0]}, "fewer than two of 3 events"),
        ({"thresholds": [70.0, 60.0]}, "thresholds must increase"),
        ({"radii": [0.2, 0.1]}, "radii must increase"),
        ({"radii": [15.0]}, "radii must .*convert degrees"),
        ({"centres": "pixels"}, "centres are 'events', a HEALPix nside"),
        ({"centres": 3}, "power of two, not 3"),
        ({"centres": (np.array([1.0]), np.array([-43.0]))}, "targets need .*radians"),
        ({"centres": (np.array([1.0]), np.array([1.5]))}, "no disc of the scan holds any exposure"),
    ],
)
def test_wrong_input_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        top_hat_scan(**(GOOD | changes))


def test_wrong_exposures_are_refused():
    with pytest.raises(InputError, match="finite and not negative"):
        Exposure.of_declination(np.sin)
    with pytest.raises(InputError, match="zero everywhere"):
        Exposure.of_declination(lambda d: 0 * d)
    with pytest.raises(InputError, match=r"shape \(18, 36\) of the grid, not \(36, 18\)"):
        Exposure.of_map(np.ones((36, 18)), RingGrid(18, 36))
    empty = drawn(site("auger"), RingGrid(18, 36), np.eye(18, 36), np.full(36, 1.0), np.ones((18, 36)), 1)
    empty = empty.replace(**{n: 0 * getattr(empty, n) for n in ("n_sky", "n_time", "n_local", "n_half", "num_events")})
    with pytest.raises(InputError, match="zero everywhere"):
        Exposure.of_counts(empty)
    rings = Exposure.of_map(np.ones(18) * RingGrid(18, 36).solid_angle, RingGrid(18, 36))
    np.testing.assert_allclose(rings.density(np.array([0.1]), np.array([0.2])), 1 / (4 * np.pi), rtol=1e-9)


@pytest.mark.slow
def test_the_penalised_chances_of_the_published_searches(auger):
    """arXiv:1411.6111 gives 69 % for the blind search and 1.4 % for Cen A, scanned from 40 EeV on; the public list
    begins at 52 EeV, so that both are found with a smaller penalty."""
    exposure = Exposure.of_site(*AUGER)
    thresholds, radii = np.arange(52.0, 81, 2), np.arange(1.0, 31, 2) * DEGREE
    blind = top_hat_scan(*auger, exposure, thresholds, radii, 16, num_skies=200)
    assert 0.2 < blind.penalised_p < 0.9
    centaurus = (np.array([201.4 * DEGREE]), np.array([-43.0 * DEGREE]))
    target = top_hat_scan(*auger, exposure, thresholds, radii, centaurus, num_skies=3000)
    assert 0.003 < target.penalised_p < 0.03
