"""Rates against exact integrals and sidebands, drawn times against the stated formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr.clock import local_time
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.rate import RateModel, civil_rate, rate, relative_rate
from diffcr.units import DEGREE, HOUR

GRID = RingGrid()
COARSE = RingGrid(18, 36)


def first_harmonic(rate):
    """a exp(i phase) of the wave 1 + a cos(t - phase) that bins of finite width hold."""
    n = len(rate)
    centre = (np.arange(n) + 0.5) * 2 * np.pi / n
    return 2 * np.sum(np.asarray(rate) * np.exp(1j * centre)) / np.sum(rate) / np.sinc(1 / n)


# --- Rate in sidereal time --------------------------------------------------------------------------------


def test_rate_sums_to_the_number_of_events():
    counts = rate(GRID, 1e6, harmonics=[(1, 0.3, 2.0)], gaps=[(3.0, 5.5)])
    assert counts.shape == (360,)
    np.testing.assert_allclose(counts.sum(), 1e6, rtol=1e-12)
    np.testing.assert_allclose(rate(GRID, 720), 2, rtol=1e-12)


def test_harmonics_have_their_amplitude_and_phase():
    """The largest bin lies at the phase; a bin averages over its width, by sin(x)/x with x = k step / 2."""
    rate = relative_rate(COARSE, [(1, 0.1, 1.0), (3, 0.05, 2.0)])
    wave = lambda k, phase: np.cos(k * (COARSE.sidereal_time - phase)) * np.sinc(k / 36)
    np.testing.assert_allclose(rate, 1 + 0.1 * wave(1, 1.0) + 0.05 * wave(3, 2.0), rtol=1e-12)


@pytest.mark.parametrize(
    ("gaps", "livetime"),
    [
        ([(1.25, 2.0)], {1: 0.25}),
        ([(1.25, 3.5)], {1: 0.25, 2: 0.0, 3: 0.5}),
        ([(23.5, 0.25)], {23: 0.5, 0: 0.75}),
        ([(4.0, 4.5), (4.25, 4.75)], {4: 0.25}),
        ([(4.0, 4.25), (4.75, 5.0)], {4: 0.5}),
        ([(10, 9)], {h: 0.0 for h in range(24) if h != 9}),
    ],
)
def test_gaps_take_their_fraction_of_a_bin(gaps, livetime):
    grid = RingGrid(4, 24)
    expected = np.ones(24)
    expected[list(livetime)] = list(livetime.values())
    np.testing.assert_allclose(relative_rate(grid, gaps=gaps), expected, atol=1e-12)


def test_a_gap_keeps_the_wave_of_the_part_that_was_live():
    """The bin from 6 h to 12 h of four, live to 9 h, under 1 + cos(t): (pi/4 + sin(3 pi/4) - 1) / (pi/2)."""
    rate = relative_rate(RingGrid(4, 4), [(1, 1.0, 0.0)], [(9.0, 12.0)])
    np.testing.assert_allclose(rate[1], (np.pi / 4 + np.sqrt(0.5) - 1) / (np.pi / 2), rtol=1e-12)


def test_dead_bins_are_exactly_zero_and_none_is_negative():
    rate = relative_rate(GRID, [(1, 1.0, 0.3)], [(2.013, 7.777)])
    assert float(rate.min()) == 0.0
    dead = (GRID.sidereal_time > 2.1 * HOUR) & (GRID.sidereal_time < 7.7 * HOUR)
    np.testing.assert_array_equal(np.asarray(rate)[dead], 0.0)


def test_noise_scatters_the_bins_by_its_size():
    noisy = relative_rate(RingGrid(4, 20_000), noise=0.3, rng=np.random.default_rng(4))
    np.testing.assert_allclose(noisy.mean(), 1, atol=0.01)
    np.testing.assert_allclose(jnp.log(noisy).std(), 0.3, rtol=0.03)


def test_rate_is_differentiable():
    def f(num_events, amplitude, phase):
        return rate(COARSE, num_events, [(1, amplitude, phase)], [(2.1, 5.0)])

    check_grads(jax.jit(f), (jnp.array(40.0), jnp.array(0.3), jnp.array(1.0)), order=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"harmonics": [(1, 1.2, 0.0)]}, r"rate harmonics make it negative, -0.2 at 180.0 degrees"),
        ({"harmonics": [(0, 0.2, 0.0)]}, r"k of each rate harmonic must be a whole number"),
        ({"gaps": [(3, 25)]}, r"gap \(3, 25\) of a rate must lie between 0 and 24 sidereal hours"),
        ({"gaps": [(3, 3)]}, r"gap \(3, 3\) of a rate .* end elsewhere than it starts"),
        ({"gaps": [(0, 12), (12, 24)]}, r"leave no sidereal time live"),
        ({"noise": 0.1}, r"noise of a rate must be at least 0, with rng given"),
        ({"noise": -0.1, "rng": np.random.default_rng(1)}, r"noise of a rate must be at least 0"),
        ({"num_events": 0}, r"num_events of a rate must be positive and finite, not 0"),
        ({"num_events": np.inf}, r"num_events of a rate must be positive and finite, not inf"),
    ],
)
def test_a_bad_rate_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        rate(**{"grid": COARSE, "num_events": 100, **options})


# --- Rate in civil time -----------------------------------------------------------------------------------


def test_waves_are_largest_at_their_phases():
    """J2000.0 is noon at Greenwich; 6 hours later it is midnight 90 degrees to the East."""
    model = RateModel(diurnal=0.2, diurnal_phase=np.pi)
    np.testing.assert_allclose(model.relative_rate(jnp.array([0.0, 0.5, -0.5]), 0.0), [1.2, 0.8, 0.8], rtol=1e-12)
    np.testing.assert_allclose(
        model.relative_rate(jnp.array([0.25, -0.25, 0.75]), np.pi / 2), [0.8, 1.2, 1.2], rtol=1e-12
    )
    season = RateModel(seasonal=0.1, seasonal_phase=40.0)
    days = jnp.array([40.0, 40 + 365.2422, 40 + 365.2422 / 2])
    np.testing.assert_allclose(season.relative_rate(days, 0.0), [1.1, 1.1, 0.9], rtol=1e-12)
    both = RateModel(diurnal=0.2, diurnal_phase=np.pi, modulation=0.5, modulation_phase=0.0, seasonal=0.1)
    np.testing.assert_allclose(both.relative_rate(jnp.zeros(3), 0.0), [1.1 * (1 + 0.2 * 1.5)] * 3, rtol=1e-12)


def test_a_modulated_solar_wave_fakes_equal_sidereal_and_antisidereal_ones():
    """S (1 + m cos) leaves m S / 2 at both neighbouring frequencies over whole years.

    When the longitude of the mean Sun, 280.46 + 0.98564736 d degrees, is 180 (autumn equinox), sidereal,
    solar and antisidereal time agree everywhere: with the modulation largest then, all phases are equal."""
    equinox = (180 + 360 - 280.46) / 0.98564736
    model = RateModel(diurnal=0.2, diurnal_phase=2.0, modulation=0.5, modulation_phase=equinox)
    for frame, amplitude in {
        "solar": 0.2,
        "sidereal": 0.05,
        "antisidereal": 0.05,
    }.items():
        # Four years are a whole number of days and of turns in all frames, to 0.03 days.
        folded = model.sidereal_rate(COARSE, 5000.0, 6461.0, -1.2, frame)
        np.testing.assert_allclose(folded.sum(), 1, rtol=1e-12)
        wave = first_harmonic(folded)
        np.testing.assert_allclose(wave, amplitude * np.exp(2j), atol=1e-4)


def test_a_quarter_of_a_day_covers_a_quarter_of_the_sidereal_bins():
    """6 sidereal hours of data from 2015-06-01T06:00 UTC, when Greenwich is at 339.408880 degrees."""
    start = 5629.75
    end = start + 0.25 * 365.2422 / 366.2422
    edges = np.arange(361.0)
    for longitude in (0.0, 90.0):
        folded = RateModel().sidereal_rate(GRID, start, end, longitude * DEGREE)
        first = (339.408880 + longitude) % 360
        expected = np.zeros(360)
        for turn in (0, 360):
            expected += np.diff(np.clip(edges + turn, first, first + 90)) / 90
        np.testing.assert_allclose(folded, expected, atol=2e-7)
    # The same exposure left over by gaps from a longer run.
    run = RateModel(gaps=[(start - 3, start), (end, end + 3)])
    np.testing.assert_allclose(run.sidereal_rate(GRID, start - 2, end + 1, np.pi / 2), folded, atol=1e-12)


def test_sidereal_rate_agrees_on_coarse_and_fine_grids():
    """Folding is an integral, so four bins hold the sums of 360, here over no whole number of days."""
    model = RateModel(diurnal=0.3, diurnal_phase=1.0, seasonal=0.2, gaps=[(5001.1, 5001.7)])
    fine = np.asarray(model.sidereal_rate(GRID, 5000.3, 5003.77, 0.5))
    coarse = model.sidereal_rate(RingGrid(4, 4), 5000.3, 5003.77, 0.5)
    np.testing.assert_allclose(coarse, fine.reshape(4, 90).sum(axis=1), rtol=1e-5)


def test_drawn_times_follow_the_rate():
    waves = {"seasonal": 0.3, "seasonal_phase": 20.0, "diurnal": 0.3, "diurnal_phase": 1.0, "modulation": 0.9}
    model = RateModel(**waves, gaps=[(5030, 5070), (5060, 5080)])
    start, end, longitude, num = 5000.0, 5200.0, 1.2, 50_000
    days = model.draw_times(np.random.default_rng(6), num, start, end, longitude)
    assert days.shape == (num,)
    assert np.all(np.diff(days) >= 0)
    assert days[0] >= start
    assert days[-1] <= end
    assert not np.any((days > 5030) & (days < 5080))

    # Against the stated formula, written out on a fine grid of times: per 10 days, and per solar hour.
    t = start + (np.arange(200 * 480) + 0.5) / 480
    solar = 2 * np.pi * (t + 0.5) + longitude
    year = 2 * np.pi / 365.2422
    density = (1 + 0.3 * np.cos(year * (t - 20))) * (1 + 0.3 * (1 + 0.9 * np.cos(year * t)) * np.cos(solar - 1.0))
    density[(t >= 5030) & (t < 5080)] = 0
    expected = density * num / density.sum()
    turn = lambda x: (2 * np.pi * (x + 0.5) + longitude) % (2 * np.pi)
    pairs = []
    for event, fine, span, bins in ((days, t, (start, end), 20), (turn(days), turn(t), (0, 2 * np.pi), 24)):
        counts, _ = np.histogram(event, bins, span)
        pairs.append((counts, np.histogram(fine, bins, span, weights=expected)[0]))
    # The folded rate uses the package's own sidereal time, tested above.
    fraction = model.sidereal_rate(COARSE, start, end, longitude)
    sidereal = local_time(jnp.asarray(days), longitude, "sidereal")
    pairs.append((np.bincount(COARSE.bin_of(np.asarray(sidereal)), minlength=36), num * np.asarray(fraction)))
    for counts, expectation in pairs:
        live = expectation > 0
        np.testing.assert_array_equal(counts[~live], 0)
        chi2 = np.sum((counts[live] - expectation[live]) ** 2 / expectation[live])
        assert abs(chi2 - live.sum()) < 4 * np.sqrt(2 * live.sum())


def test_rate_model_is_differentiable():
    days = jnp.array([5000.2, 5100.7, 5333.3])
    values = tuple(jnp.array(x) for x in (0.1, 50.0, 0.2, 1.0, 0.4, 80.0))

    def civil(*parameters):
        return civil_rate(days, 2 * jnp.pi * days, *parameters)

    def folded(*parameters):
        model = RateModel(*parameters, gaps=[(5000.5, 5000.6)])
        return model.sidereal_rate(COARSE, 5000.0, 5001.5, 0.3), model.relative_rate(days, 0.3)

    check_grads(jax.jit(civil), values, order=1)
    check_grads(jax.jit(folded), values, order=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seasonal": 1.1}, r"seasonal amplitude 1.1 makes the rate negative"),
        (
            {"diurnal": 0.6, "modulation": -0.8},
            r"diurnal amplitude 0.6 with annual modulation -0.8 makes the rate",
        ),
        ({"diurnal_phase": np.nan}, r"diurnal_phase of a rate model must be finite, not nan"),
        ({"gaps": [(3, 2)]}, r"gap \(3.0, 2.0\) of a rate model must end after it starts"),
        ({"gaps": [(3, np.inf)]}, r"gap \(3.0, inf\) of a rate model"),
    ],
)
def test_a_bad_rate_model_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        RateModel(**options)


@pytest.mark.parametrize("method", ["draw_times", "sidereal_rate"])
def test_a_bad_interval_is_refused(method):
    def call(model, start, end):
        if method == "draw_times":
            return model.draw_times(np.random.default_rng(1), 5, start, end, 0.0)
        return model.sidereal_rate(COARSE, start, end, 0.0)

    with pytest.raises(InputError, match=r"from day 10 to day 10 must end after it starts"):
        call(RateModel(), 10, 10)
    with pytest.raises(InputError, match=r"gaps leave nothing live between day 10 and day 11"):
        call(RateModel(gaps=[(9, 12)]), 10, 11)


def test_a_rate_in_civil_time_needs_64_bit_floats():
    with (
        jax.enable_x64(False),
        pytest.raises(RuntimeError, match=r"a rate in civil time needs 64-bit floats"),
    ):
        RateModel().relative_rate(jnp.array([0.0]), 0.0)
