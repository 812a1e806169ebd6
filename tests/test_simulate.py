"""Simulated counts and event lists: the truth put in comes out, in the frame it was put in."""

import dataclasses
import json

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.time import Time
from diffcr.inference.binning import BinningOptions, bin_chunks, bin_events
from diffcr.inference.blinding import blind
from diffcr.inference.events import EventReader
from diffcr.inference.exchange import read_exchange
from diffcr.inference.fit import DIPOLE_NORM, fit
from diffcr.inference.local_maps import to_counts
from diffcr.inference.map_products import map_dipole
from diffcr.inference.maps import sky_map
from diffcr.inference.simulate import (
    Simulation,
    draw_multipoles,
    power_law,
    read_multipoles,
    simulate_counts,
    simulate_event_list,
    simulate_events,
    simulate_exchange,
    simulate_local_maps,
    write_multipoles,
)
from scipy import special, stats

from diffcr.counts import expected_marginals
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis
from diffcr.rate import RateModel
from diffcr.site import site
from diffcr.sky import precession_matrix

GRID = RingGrid(18, 36)
SITE = site("hawc")
DAY_2016 = 5844.5
# Sixty days: a diurnal wave of the rate is then a wave in sidereal time too.
SIMULATION = Simulation(
    SITE,
    3e5,
    (0.3, -0.2, 0.1),
    start=DAY_2016,
    end=DAY_2016 + 60,
    rate=RateModel(diurnal=0.5, diurnal_phase=1.0, gaps=((DAY_2016 + 10.2, DAY_2016 + 10.9),)),
    acceptance={"power": 2.0, "azimuth_terms": ((1, 0.2, 0.5),)},
)
SMALL = dataclasses.replace(SIMULATION, num_events=2000.0)


def all_events(simulation, seed):
    """The chunks of a simulation with up to 5e5 events as one."""
    chunks = list(simulate_events(simulation, seed))
    assert len(chunks) == 1
    return chunks[0]


def chi2_p_value(observed, expected) -> float:
    """Of Poisson counts, cells with less than 20 expected put together."""
    many = expected > 20
    n = np.append(observed[many], observed[~many].sum())
    mu = np.append(expected[many], expected[~many].sum())
    good = mu > 5
    return float(stats.chi2.sf(np.sum((n - mu)[good] ** 2 / mu[good]), good.sum()))


def expected(simulation, grid, azimuth=1.0, half_bin=0.0, sidereal=0.0, subdivide=32):
    """Marginals as `simulate_counts` expects them, with the mistakes asked for; sidereal in bins.

    The edge of the field of view cuts cells of 10 degrees: a fine quadrature is needed to compare with events.
    """
    turned = {"power": 2.0, "azimuth_terms": ((1, 0.2, azimuth * 0.5),)}
    local = np.asarray(acceptance(simulation.site, grid, **turned, subdivide=subdivide, profile="triangle"))
    longitude = simulation.site.longitude
    rate = np.asarray(simulation.rate.sidereal_rate(grid, simulation.start, simulation.end, longitude))
    of_date = np.asarray(precession_matrix(simulation.mean_days)) @ np.array(simulation.dipole)
    sky = 1 + np.asarray(synthesis(dipole_to_coefficients(of_date), grid, cell_average=True))

    def moved(values, bins):
        return (1 - bins) * values + bins * np.roll(values, 1, axis=-1)

    rate, sky = moved(simulation.num_events * rate, sidereal), moved(sky, sidereal)
    return expected_marginals(rate, moved(local, half_bin), sky)


def p_values(counts, model) -> dict:
    observed = {name: getattr(counts, f"n_{name}")[0, 0, 0] for name in model._fields}
    return {name: chi2_p_value(observed[name], np.asarray(mu)) for name, mu in model._asdict().items()}


@pytest.fixture(scope="module")
def event_counts():
    return bin_chunks([all_events(SIMULATION, 5)], SITE, BinningOptions(grid=GRID))


def test_events_one_by_one_fall_into_the_cells_as_the_grid_expects(event_counts):
    """The two ways share neither the sky's frame nor the acceptance's quadrature; the number of events is Poisson's."""
    for name, p in p_values(event_counts, expected(SIMULATION, GRID)).items():
        assert p > 1e-3, name
    drawn = simulate_counts(SIMULATION, GRID, 6)
    for name, p in p_values(drawn, expected(SIMULATION, GRID, subdivide=40)).items():
        assert p > 1e-3, name


@pytest.mark.parametrize("mistake", [{"azimuth": -1.0}, {"half_bin": 0.5}, {"sidereal": 0.5}], ids=str)
def test_that_comparison_sees_a_small_mistake(event_counts, mistake):
    """Mirrored azimuth, hour angles half a bin off, sidereal time twenty minutes off."""
    assert min(p_values(event_counts, expected(SIMULATION, GRID, **mistake)).values()) < 1e-6


def test_directions_and_times_are_those_of_astropy():
    """J2000 from zenith, azimuth and time by astropy's sidereal time and FK5, over 22 years. Only on days with a leap
    second do they differ, by up to a second: there a Julian date of UTC is ambiguous."""
    long = dataclasses.replace(SIMULATION, num_events=1000.0, start=1461.5, end=9500.0, rate=RateModel())
    chunk = all_events(long, 1)
    assert chunk.days.min() > 1461.5
    assert chunk.days.max() < 9500.0
    vector = by_astropy(chunk, per_event=True)
    flat = np.cos(chunk.dec)
    ours = np.stack([flat * np.cos(chunk.ra), flat * np.sin(chunk.ra), np.sin(chunk.dec)], axis=1)
    apart = np.degrees(np.linalg.norm(vector - ours, axis=1))
    assert np.quantile(apart, 0.98) < 1e-6
    assert apart.max() < 360 / 86400
    assert np.all(chunk.zenith < SITE.zenith_max)


def of_date(chunk, place=SITE):
    """Right ascension and declination of date from zenith, azimuth and time, by hand and astropy's sidereal time."""
    time = Time(chunk.days + 2451545.0, format="jd", scale="utc")
    time.delta_ut1_utc = 0.0
    sidereal = time.sidereal_time("mean", longitude=place.longitude * u.rad).to_value(u.rad)
    east = np.sin(chunk.zenith) * np.sin(chunk.azimuth)
    north, up = np.sin(chunk.zenith) * np.cos(chunk.azimuth), np.cos(chunk.zenith)
    sine = north * np.cos(place.latitude) + up * np.sin(place.latitude)
    hour_angle = np.arctan2(-east, up * np.cos(place.latitude) - north * np.sin(place.latitude))
    return sidereal - hour_angle, np.arcsin(sine)


def by_astropy(chunk, place=SITE, per_event=False):
    """J2000 unit vectors, shape (event, 3); precessed from each event's equinox, or from the mean one."""
    ra, dec = of_date(chunk, place)
    days = chunk.days if per_event else chunk.days.mean()
    equinox = Time(days + 2451545.0, format="jd", scale="tt")
    there = SkyCoord(ra * u.rad, dec * u.rad, frame=FK5(equinox=equinox)).transform_to(FK5(equinox="J2000"))
    return there.cartesian.xyz.value.T


@pytest.mark.parametrize("year", [2004, 2015, 2026])
def test_dipole_of_j2000_is_recovered_in_j2000(year):
    """Events of an isotropic sky weighted with 1 + delta . n, less the same events without: the noise cancels but for
    1 / sqrt(N) of the dipole. That rest is the same for n in the frame of date, so that the two estimates differ by the
    precession alone: to 0.01 degrees, where 0.05 (2004) to 0.33 degrees (2026) are at stake."""
    start = (year - 2000) * 365.25
    chunk = all_events(Simulation(SITE, 2e5, start=start, end=start + 10), year)
    delta = np.array([0.03, -0.04, 0.0])
    ra, dec = of_date(chunk)
    date = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)

    def estimate(weight):
        result = fit(bin_chunks([chunk._replace(weight=weight)], SITE, BinningOptions(grid=GRID)), rate_bins=36)
        assert result.equinox == "J2000"
        return result.dipole.delta, result.multipoles_of_date[[1, 0]] / DIPOLE_NORM

    nothing = estimate(np.ones(len(ra)))
    in_j2000 = estimate(1 + by_astropy(chunk) @ delta)[0] - nothing[0]
    in_date = estimate(1 + date @ delta)[1] - nothing[1]
    np.testing.assert_allclose(in_j2000, delta[:2], atol=5 * 0.05 * 3 / np.sqrt(2e5))
    phase = np.degrees(np.arctan2(in_j2000[1], in_j2000[0]) - np.arctan2(in_date[1], in_date[0]))
    assert abs(phase) < 0.01
    np.testing.assert_allclose(np.hypot(*in_j2000), np.hypot(*in_date), rtol=1e-3)


@pytest.mark.parametrize("year", [2004, 2026])
def test_counts_on_the_grid_carry_the_dipole_of_j2000(year):
    """1e12 events: the phase to 0.01 degrees."""
    start = (year - 2000) * 365.25
    simulation = Simulation(SITE, 1e12, (0.003, -0.004, 0.0), start=start, end=start + 365.25)
    counts = simulate_counts(simulation, GRID, 1)
    np.testing.assert_allclose(fit(counts, rate_bins=36).dipole.delta, [0.003, -0.004], atol=5 * 3.1e-6)
    assert counts.mean_epoch[0, 0, 0] == pytest.approx(year + 0.5)
    assert counts.span.ravel().tolist() == [start, start + 365.25]


def test_number_of_events_is_poisson_about_that_of_an_isotropic_sky():
    """A dipole of 0.9 to the south adds -0.9 <sin dec> for both ways: 0.394 is lost to none in Argentina."""
    place = site("auger")
    simulation = Simulation(place, 4e4, (0.0, 0.0, -0.9))
    mean = 4e4 * (1 + 0.9 * 0.39416)
    assert len(all_events(simulation, 1).days) == pytest.approx(mean, abs=4 * np.sqrt(mean))
    assert simulate_counts(simulation, GRID, 1).num_events.item() == pytest.approx(mean, abs=4 * np.sqrt(mean))
    few = Simulation(place, 100.0)
    totals = [len(all_events(few, seed).days) for seed in range(100)]
    assert np.var(totals) == pytest.approx(100, abs=4 * 100 * np.sqrt(2 / 100))
    assert np.mean(totals) == pytest.approx(100, abs=4)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "CSV"])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_event_list_read_again_gives_the_same_counts(tmp_path, suffix, spread):
    """By either pair of coordinates, which the reader is asked to prefer."""
    path = tmp_path / f"events.{suffix}"
    counts = simulate_event_list(dataclasses.replace(SMALL, weight_spread=spread), GRID, 3, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert counts.weighted == (spread > 0)
    for prefer in ("equatorial", "horizon"):
        again = bin_events(EventReader(path, prefer=prefer), SITE, BinningOptions(grid=GRID))
        for name in ("n_sky", "n_time", "n_local", "n_half"):
            np.testing.assert_allclose(getattr(again, name), getattr(counts, name), rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(again.moments, counts.moments, atol=1e-2)
        np.testing.assert_array_equal(again.num_events, counts.num_events)
    entry = counts.inputs[0]
    assert entry["events_read"] == counts.num_events.item()
    assert (entry["file"], entry["seed"], entry["truth_dipole_j2000"]) == (path.name, 3, [0.3, -0.2, 0.1])
    assert counts.history == {"simulated": True}


def test_weights_have_mean_one_and_the_asked_spread():
    weight = all_events(dataclasses.replace(SIMULATION, num_events=5e4, weight_spread=0.5), 2).weight
    assert weight.mean() == pytest.approx(1, abs=0.01)
    assert np.log(weight).std() == pytest.approx(0.5, rel=0.02)
    counts = simulate_counts(dataclasses.replace(SMALL, weight_spread=0.5), GRID, 1)
    assert counts.sum_weights / counts.effective_events == pytest.approx(np.exp(0.25), rel=0.1)


def test_list_is_binned_in_the_asked_time_frame(tmp_path):
    counts = simulate_event_list(SMALL, GRID, 3, tmp_path / "events.csv", "solar")
    assert counts.time_frame == "solar"
    # Half an amplitude of 0.5 in the rate of the solar day is seen at once.
    wave = np.abs(np.fft.fft(counts.n_time[0, 0, 0])[1]) * 2 / counts.sum_weights
    assert wave == pytest.approx(0.5, abs=0.15)


def test_more_than_one_chunk(monkeypatch):
    """Chunks are independent and together as many events as asked for."""
    monkeypatch.setattr("diffcr.inference.simulate._CHUNK", 1000)
    chunks = list(simulate_events(dataclasses.replace(SMALL, num_events=3000.0), 1))
    assert len(chunks) >= 3
    total = sum(len(c.days) for c in chunks)
    mean = 3000 * float(np.sum(expected(SIMULATION, GRID).time)) / 3e5
    assert total == pytest.approx(mean, abs=4 * np.sqrt(mean))
    assert not np.array_equal(chunks[0].zenith[:10], chunks[1].zenith[:10])


def test_a_seed_repeats_bit_for_bit():
    one, two, other = (all_events(SMALL, seed) for seed in (8, 8, 9))
    for name in ("days", "ra", "dec", "zenith", "azimuth"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(one.zenith[:10], other.zenith[:10])
    first, second, third = (simulate_counts(SMALL, GRID, seed) for seed in (8, 8, 9))
    np.testing.assert_array_equal(first.n_sky, second.n_sky)
    assert not np.array_equal(first.n_sky, third.n_sky)


BAD = {
    "no events": ({"num_events": 0.0}, "number of events to simulate must be positive, not 0"),
    "negative events": ({"num_events": -5.0}, "must be positive, not -5"),
    "infinite events": ({"num_events": np.inf}, "must be positive, not inf"),
    "large dipole": ({"dipole": (0.8, 0.8, 0.0)}, "length of at most 1, .* makes the intensity negative"),
    "dipole of nan": ({"dipole": (np.nan, 0.0, 0.0)}, "the dipole must be two or three numbers"),
    "time backwards": ({"end": DAY_2016 - 1}, "data taking ends before it starts; swap --start and --end"),
    "negative spread": ({"weight_spread": -0.1}, "spread of the weights must not be negative, got -0.1"),
    "number of multipoles": ({"multipoles": np.zeros(8)}, r"4, 9, 16, .. finite numbers, not 8"),
    "multipole of nan": ({"multipoles": np.full(4, np.nan)}, "finite numbers, not 4"),
    "monopole": ({"multipoles": [0.1, 0, 0, 0]}, "monopole .* must be zero, not 0.1: the number of events sets"),
    # sqrt(3 / 4 pi) 3 = 1.47 towards 6 h, less the 0.2 of the dipole, with 0.3 and 0.1 across it: 1.31.
    "negative sky": ({"multipoles": [0, 3.0, 0, 0]}, "negative, down to -0.30[0-9]; scale them down"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_simulations_are_refused(case):
    changes, message = BAD[case]
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SIMULATION, **changes)


def test_simulation_without_an_event_is_refused(tmp_path):
    nothing = Simulation(SITE, 1e-9)
    with pytest.raises(InputError, match="drew no event; ask for more --events"):
        simulate_counts(nothing, GRID, 1)
    with pytest.raises(InputError, match="the simulation: no event is left"):
        simulate_event_list(nothing, GRID, 1, tmp_path / "events.csv")
    assert not list(tmp_path.iterdir())


def test_bad_places_for_the_list_are_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(InputError, match=r"written as .csv or .parquet; change the suffix of --event-list"):
        simulate_event_list(SIMULATION, GRID, 1, tmp_path / "events.fits")
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist; make it first"):
        simulate_event_list(SIMULATION, GRID, 1, tmp_path / "nowhere" / "events.csv")
    assert not list(tmp_path.iterdir())


# Skies with structure --------------------------------------------------------------------------------------

# l = 2 and 3, every m, no symmetry; 1 + f stays above 0.2.
STRUCTURE = np.array([0, 0.05, -0.04, 0.06, 0.15, -0.1, 0.08, 0.12, -0.14, 0.05, 0.1, -0.07, 0.06, 0.09, -0.1, 0.08])
STRUCTURED = dataclasses.replace(SIMULATION, dipole=(0.1, -0.05, 0.08), multipoles=STRUCTURE)


def by_scipy(simulation, vectors, mirror=False) -> np.ndarray:
    """1 + delta . n + sum s_lm R_lm at J2000 unit vectors (..., 3), from scipy's complex harmonics."""
    theta, phi = np.arccos(vectors[..., 2]), np.arctan2(vectors[..., 1], vectors[..., 0])
    out = 1 + vectors @ np.array(simulation.dipole)
    for place, value in enumerate(simulation.multipoles):
        l = int(np.sqrt(place))
        m = place - l * l - l
        m = -m if mirror else m
        y = special.sph_harm_y(l, abs(m), theta, phi)
        real = y.real if m == 0 else (-1) ** m * np.sqrt(2) * (y.real if m > 0 else y.imag)
        out = out + value * real
    return out


def j2000_of_date(simulation, back=False) -> np.ndarray:
    """astropy's matrix from the mean equator of the middle of the data taking to that of J2000."""
    equinox = Time(simulation.mean_days + 2451545.0, format="jd", scale="tt")
    axes = SkyCoord(x=[1, 0, 0], y=[0, 1, 0], z=[0, 0, 1], representation_type="cartesian", frame=FK5(equinox=equinox))
    matrix = axes.transform_to(FK5(equinox="J2000")).cartesian.xyz.value
    return matrix.T if back else matrix


def sky_by_scipy(simulation, grid, matrix, mirror=False) -> np.ndarray:
    """Mean over each cell of date, by the midpoints of 6 x 6 pieces."""
    fine = RingGrid(6 * grid.n_ring, 6 * grid.n_ra)
    dec, ra = np.meshgrid(fine.declination, fine.right_ascension, indexing="ij")
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    weight = np.cos(dec)
    values = by_scipy(simulation, vectors @ matrix.T, mirror) * weight

    def summed(x):
        return x.reshape(grid.n_ring, 6, grid.n_ra, 6).sum(axis=(1, 3))

    return summed(values) / summed(weight)


def p_of_sky(simulation, counts, sky, subdivide=32) -> float:
    """Least chance of the three marginals for a sky, with rate and acceptance of the simulation."""
    azimuth = ((1, 0.2, 0.5),)
    local = np.asarray(
        acceptance(SITE, GRID, power=2.0, azimuth_terms=azimuth, subdivide=subdivide, profile="triangle")
    )
    rate = np.asarray(simulation.rate.sidereal_rate(GRID, simulation.start, simulation.end, SITE.longitude))
    return min(p_values(counts, expected_marginals(simulation.num_events * rate, local, sky)).values())


def test_counts_of_a_structured_sky_are_those_of_other_programs():
    """Sixty days about 2050, 1e9 events: harmonics by scipy, precession by astropy. None of the mistakes passes."""
    far = dataclasses.replace(STRUCTURED, num_events=1e9, start=18262.0, end=18322.0)
    far = dataclasses.replace(far, rate=RateModel(diurnal=0.5))
    counts = simulate_counts(far, GRID, 1)
    right = sky_by_scipy(far, GRID, j2000_of_date(far))
    assert p_of_sky(far, counts, right, 40) > 1e-3
    flat = sky_by_scipy(dataclasses.replace(far, multipoles=()), GRID, j2000_of_date(far))
    mistakes = {
        "no precession": sky_by_scipy(far, GRID, np.eye(3)),
        "precession backwards": sky_by_scipy(far, GRID, j2000_of_date(far, back=True)),
        "sines and cosines exchanged": sky_by_scipy(far, GRID, j2000_of_date(far), mirror=True),
        "no dipole": right - flat + 1,
        "no multipoles": flat,
    }
    for name, sky in mistakes.items():
        assert p_of_sky(far, counts, sky, 40) < 1e-6, name


def test_events_of_a_structured_sky_fall_where_it_is_bright():
    """One by one, against the same harmonics of scipy; a bound of the intensity that is too low would cut the peaks."""
    strong = dataclasses.replace(STRUCTURED, multipoles=2.2 * STRUCTURE)
    counts = bin_chunks(simulate_events(strong, 5), SITE, BinningOptions(grid=GRID))
    matrix = j2000_of_date(strong)
    right = sky_by_scipy(strong, GRID, matrix)
    assert p_of_sky(strong, counts, right) > 1e-3
    for wrong in (np.minimum(right, 1.2), sky_by_scipy(strong, GRID, matrix, mirror=True)):
        assert p_of_sky(strong, counts, wrong) < 1e-6


def test_truth_is_recorded_without_telling_the_phase():
    """C_l = sum of squares over 2 l + 1, the dipole in it; blinded counts must not hold single multipoles."""
    counts = simulate_counts(dataclasses.replace(STRUCTURED, num_events=1e4), GRID, 1)
    power = counts.history["truth_power"]
    assert power[1:] == pytest.approx([np.sum(STRUCTURE[4:9] ** 2) / 5, np.sum(STRUCTURE[9:] ** 2) / 7])
    total = STRUCTURE[1:4] + np.sqrt(4 * np.pi / 3) * np.array([-0.05, 0.08, 0.1])
    assert power[0] == pytest.approx(np.sum(total**2) / 3)
    hidden = blind(counts, "key")
    assert f"{STRUCTURE[7]:g}" not in json.dumps([list(hidden.inputs), hidden.history])
    assert simulate_counts(SMALL, GRID, 1).history == {"simulated": True}


def test_simulations_with_multipoles_compare_as_others():
    assert STRUCTURED == dataclasses.replace(STRUCTURED, multipoles=list(STRUCTURE))
    assert dataclasses.replace(STRUCTURED, multipoles=2 * STRUCTURE / 3) != STRUCTURED


def test_random_skies_have_the_power_asked_for():
    """2000 skies: the variance of each multipole to 5 standard errors, no monopole, no dipole, nothing correlated."""
    rng, power = np.random.default_rng(1), power_law(4e-6, 2.0, 5)
    np.testing.assert_allclose(power, [4e-6, 4e-6 * 4 / 9, 1e-6, 4e-6 * 4 / 25])
    skies = np.stack([draw_multipoles(rng, power) for _ in range(2000)])
    assert skies.shape == (2000, 36)
    assert not skies[:, :4].any()
    variance = np.repeat(power, [5, 7, 9, 11])
    np.testing.assert_allclose(skies[:, 4:].var(axis=0) / variance, 1, atol=5 * np.sqrt(2 / 2000))
    assert np.abs(np.corrcoef(skies[:, 4:].T) - np.eye(32)).max() < 5 / np.sqrt(2000)


def test_multipoles_are_read_as_they_were_written(tmp_path):
    write_multipoles(tmp_path / "a.npy", STRUCTURE)
    values, notes = read_multipoles(tmp_path / "a.npy")
    np.testing.assert_array_equal(values, STRUCTURE)
    np.testing.assert_array_equal(read_multipoles(tmp_path / "a.npy", 2)[0], STRUCTURE[:9])
    assert notes == ()
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("hole", [False, True])
def test_map_gives_the_multipoles_written_on_it(tmp_path, hole):
    """1e-3 (x y + y z / 2): s_2,-2 = 1e-3 sqrt(4 pi / 15), s_2,-1 half of it; a hole is filled with nothing."""
    x, y, z = healpy.pix2vec(32, np.arange(12 * 32**2))
    values = 1e-3 * (x * y + y * z / 2) + 5e-4
    if hole:
        values[z > 0.999] = healpy.UNSEEN
    healpy.write_map(tmp_path / "a.fits", values, coord="C", column_names=["relint"], dtype=np.float64)
    found, notes = read_multipoles(tmp_path / "a.fits", 4)
    truth = np.zeros(25)
    truth[[4, 5]] = 1e-3 * np.sqrt(4 * np.pi / 15) * np.array([1, 0.5])
    np.testing.assert_allclose(found, truth, atol=1e-8 if not hole else 4e-6)
    assert found[0] == 0
    assert any("have no value and were taken as isotropic" in note for note in notes) == hole
    assert len(read_multipoles(tmp_path / "a.fits")[0]) == 21**2


def test_bad_skies_are_refused(tmp_path):
    np.save(tmp_path / "seven.npy", np.zeros(7))
    np.save(tmp_path / "text.npy", np.full(4, "a"))
    np.save(tmp_path / "objects.npy", np.full(4, None), allow_pickle=True)
    np.save(tmp_path / "short.npy", np.zeros(9))
    healpy.write_map(tmp_path / "a.fits", np.zeros(48), coord="C", column_names=["relint"], dtype=np.float64)
    for name, l_max, message in (
        ("seven.npy", None, r"shape \(7,\), not the \(l_max \+ 1\)\^2 real multipoles"),
        ("text.npy", None, "holds <U1 .* not the"),
        ("objects.npy", None, "cannot be read .*give the multipoles as numpy.save writes them"),
        ("none.npy", None, "cannot be read"),
        ("short.npy", 3, "reaches l = 2, not 3; lower --sky-lmax"),
        ("short.npy", 0, "--sky-lmax must be 1 or more, not 0"),
        ("a.fits", 5, "nside 2 do not resolve l = 5; lower --sky-lmax"),
    ):
        with pytest.raises(InputError, match=message):
            read_multipoles(tmp_path / name, l_max)
    with pytest.raises(InputError, match="the power must be C_l >= 0 for l = 2, 3"):
        draw_multipoles(np.random.default_rng(1), [1.0, -1.0])
    with pytest.raises(InputError, match="the power must be C_l >= 0 for l = 2, 3"):
        draw_multipoles(np.random.default_rng(1), [])
    for law in ((1.0, 2.0, 1), (-1.0, 2.0, 5), (1.0, np.inf, 5)):
        with pytest.raises(InputError, match="a power law needs C_2 >= 0, a finite slope and l_max of 2 or more"):
            power_law(*law)


# Local maps ------------------------------------------------------------------------------------------------

AWAY = site("-41,123.4,50")
LOCAL = dataclasses.replace(STRUCTURED, site=AWAY, num_events=1e8, rate=RateModel(diurnal=0.5, diurnal_phase=1.0))


def expected_local(simulation, n_time, nside, half_bin=0.0, mirror=1.0, greenwich=True) -> np.ndarray:
    """Expectation in every (time, pixel) by a rotation and a folding written out, shape (time, pixel)."""
    south, east, up = healpy.pix2vec(nside, np.arange(12 * nside**2))
    zenith, azimuth = np.arccos(up), np.arctan2(mirror * east, -south)
    response = np.where(zenith <= simulation.site.zenith_max, up**2 * (1 + 0.2 * np.cos(azimuth - 0.5)), 0.0)
    phi = simulation.site.latitude
    meridian, north = south * np.sin(phi) + up * np.cos(phi), up * np.sin(phi) - south * np.cos(phi)
    matrix, out = j2000_of_date(simulation), np.zeros((n_time, len(up)))
    # Events of a fine clock, folded by astropy's sidereal time of Greenwich.
    days = np.arange(simulation.start, simulation.end, 1e-3) + 5e-4
    time = Time(days + 2451545.0, format="jd", scale="utc")
    time.delta_ut1_utc = 0.0
    away = 0.0 if greenwich else simulation.site.longitude
    folded = time.sidereal_time("mean", "greenwich").to_value(u.rad) + away
    solar = 2 * np.pi * ((days + 0.5) % 1) + simulation.site.longitude
    wave = 1 + 0.5 * np.cos(solar - 1.0)
    rate = np.bincount((folded / (2 * np.pi) * n_time).astype(int) % n_time, wave, n_time)
    for tau in range(n_time):
        t = 2 * np.pi * (tau + half_bin) / n_time + simulation.site.longitude
        date = np.stack([meridian * np.cos(t) - east * np.sin(t), meridian * np.sin(t) + east * np.cos(t), north], -1)
        # East of the meridian is larger right ascension.
        out[tau] = rate[tau] * response * by_scipy(simulation, date @ matrix.T)
    return simulation.num_events * out / (rate.sum() * response.sum())


def test_local_maps_hold_what_each_pixel_sees_at_the_beginning_of_a_bin():
    maps = simulate_local_maps(LOCAL, 24, 8, 3)
    assert (maps.name, maps.latitude, maps.longitude) == (AWAY.name, AWAY.latitude, AWAY.longitude)
    right = expected_local(LOCAL, 24, 8)
    assert not maps.counts[right == 0].any()
    assert chi2_p_value(maps.counts.ravel(), right.ravel()) > 1e-3
    for mistake in ({"half_bin": 0.5}, {"mirror": -1.0}, {"greenwich": False}):
        assert chi2_p_value(maps.counts.ravel(), expected_local(LOCAL, 24, 8, **mistake).ravel()) < 1e-6, mistake


def test_exchange_files_hold_the_counts_that_are_returned(tmp_path):
    simulation = Simulation(SITE, 1e9, (0.003, -0.004, 0.0), multipoles=np.append(np.zeros(8), 1e-3))
    counts = simulate_exchange(simulation, 24, 16, 2, tmp_path / "new", "hawc", 30)
    (maps,) = read_exchange(tmp_path / "new" / "hawc.json")
    np.testing.assert_array_equal(to_counts([maps], 30).n_sky, counts.n_sky)
    assert counts.inputs[0]["truth_dipole_j2000"] == [0.003, -0.004, 0.0]
    assert len(counts.history["truth_power"]) == 2
    assert counts.num_events.item() == maps.counts.sum()
    assert counts.mean_epoch.item() == pytest.approx(2016.5, abs=0.01)
    # Orders m decouple for an even rate: l = m = 2 leaves the dipole alone. Of date, 0.2 degrees from J2000.
    found, covariance = map_dipole(sky_map(counts, (1, 1)))
    np.testing.assert_allclose(found, [0.003, -0.004], atol=5 * np.sqrt(np.diag(covariance)).max())


def test_bad_local_maps_are_refused():
    with pytest.raises(InputError, match="nside of local maps must be a power of two from 1 to 1024, not 3"):
        simulate_local_maps(LOCAL, 24, 3, 1)
    with pytest.raises(InputError, match="without weights; leave out --weight-spread, or --exchange"):
        simulate_local_maps(dataclasses.replace(LOCAL, weight_spread=0.1), 24, 4, 1)
    with pytest.raises(InputError, match="drew no event; ask for more --events"):
        simulate_local_maps(Simulation(SITE, 1e-9), 24, 4, 1)
    with pytest.raises(InputError, match="unknown acceptance model 'sin'"):
        simulate_local_maps(dataclasses.replace(LOCAL, acceptance={"model": "sin"}), 24, 4, 1)
    with pytest.raises(InputError, match="no pixel of nside 1 lies within the zenith range"):
        simulate_local_maps(Simulation(site("hawc", 0.05), 1e3), 24, 1, 1)
