"""The fit as a user calls it: recovery, frames, refusals, dead time, several observatories."""

import jax
import numpy as np
import pytest
from diffcr.inference import combine, fit, read_counts
from diffcr.inference.fit import dead_bins
from helpers import asimov, dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import FitError, InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import degrees_and_orders, synthesis
from diffcr.rate import rate
from diffcr.site import site
from diffcr.sky import precession_matrix

GRID = RingGrid(36, 72)
HAWC, AUGER, ICECUBE = site("hawc"), site("auger"), site("icecube")
FLAT = np.full(72, 1.0)


def local_of(place, power=1.0, terms=()):
    return np.asarray(acceptance(place, GRID, power=power, azimuth_terms=terms))


def sky_of(values: dict) -> np.ndarray:
    """1 + sum of real multipoles (l, m): value."""
    degree, order = degrees_and_orders(max(l for l, _ in values))
    full = np.array([values.get((int(l), int(m)), 0.0) for l, m in zip(degree, order, strict=True)])
    return 1 + np.asarray(synthesis(full, GRID, cell_average=True))


@pytest.mark.parametrize("place", [HAWC, AUGER, ICECUBE], ids=lambda s: s.name)
def test_asimov_dipole_comes_back_whatever_acceptance_and_rate(place):
    """With an east-west asymmetric acceptance and a modulated rate: nothing of either leaks into the dipole."""
    local = local_of(place, terms=[(1, 0.2, 1.0), (2, 0.1, 0.3)])
    rates = np.asarray(rate(GRID, 1e8, harmonics=[(1, 0.3, 2.0), (2, 0.1, 0.0)]))
    result = fit(asimov(place, GRID, local, rates, dipole_sky(GRID, (3e-3, -2e-3))))
    np.testing.assert_allclose(result.dipole.delta, [3e-3, -2e-3], atol=1e-11)
    assert result.converged and result.remaining_gain < 1e-6
    np.testing.assert_allclose(result.rates[0], rates / rates.sum(), rtol=1e-9)
    np.testing.assert_allclose(result.acceptances[0], local, rtol=1e-6, atol=1e-15)


def test_a_wrong_sign_or_axis_would_show():
    """An excess at right ascension 90 degrees is +delta_6h, and at 0 it is +delta_0h."""
    for ra, expected in ((90.0, (0.0, 1e-2)), (0.0, (1e-2, 0.0)), (200.0, None)):
        vector = 1e-2 * np.array([np.cos(np.radians(ra)), np.sin(np.radians(ra))])
        result = fit(asimov(AUGER, GRID, local_of(AUGER), FLAT * 1e6, dipole_sky(GRID, vector)))
        np.testing.assert_allclose(result.dipole.delta, expected or vector, atol=1e-10)
        assert np.degrees(result.dipole.right_ascension) % 360 == pytest.approx(ra, abs=1e-5)


def test_north_south_dipole_is_invisible_without_known_exposure():
    """I -> I f(dec) is absorbed by the acceptance, exactly."""
    sky = dipole_sky(GRID, (1e-2, 0.0)) * (1 + 0.3 * np.sin(GRID.declination))[:, None]
    result = fit(asimov(AUGER, GRID, local_of(AUGER), FLAT * 1e6, sky))
    np.testing.assert_allclose(result.dipole.delta, [1e-2, 0.0], atol=1e-10)
    assert len(result.dipole.delta) == 2


@pytest.mark.parametrize("year", [2004.0, 2015.5, 2026.0])
def test_dipole_of_date_is_turned_to_j2000(year):
    """The sky of J2000 moves to larger right ascension by 46 arcsec a year: 0.33 degrees by 2026."""
    j2000 = np.array([6e-3, 4e-3, 5e-3])
    of_date = np.asarray(precession_matrix((year - 2000) * 365.25)) @ j2000
    counts = asimov(AUGER, GRID, local_of(AUGER), FLAT * 1e8, dipole_sky(GRID, of_date), epoch_year=year)
    result = fit(counts)
    assert result.equinox == "J2000"
    phase = np.degrees(np.arctan2(j2000[1], j2000[0]))
    assert np.degrees(result.dipole.right_ascension) == pytest.approx(phase, abs=0.1)
    # delta_N is invisible and tilts by 20 arcsec a year: without it the phase is right to the last digit.
    flat = np.array([6e-3, 4e-3, 0.0])
    of_date = np.asarray(precession_matrix((year - 2000) * 365.25)) @ flat
    counts = asimov(AUGER, GRID, local_of(AUGER), FLAT * 1e8, dipole_sky(GRID, of_date), epoch_year=year)
    assert np.degrees(fit(counts).dipole.right_ascension) == pytest.approx(phase, abs=1e-3)
    if year == 2026.0:
        raw = np.degrees(np.arctan2(*fit(counts).multipoles_of_date[:2]))
        assert raw - phase == pytest.approx(26 * 46.1 / 3600, abs=0.01)


def test_two_epochs_far_apart_meet_in_one_frame():
    """2004 and 2026 from sites of different precision: each is turned by its own angle before they are joined."""
    flat = np.array([6e-3, 4e-3, 0.0])
    parts = []
    for place, year, events in ((HAWC, 2004.0, 1e7), (ICECUBE, 2026.0, 1e8)):
        of_date = np.asarray(precession_matrix((year - 2000) * 365.25)) @ flat
        parts.append(asimov(place, GRID, local_of(place), FLAT * events, dipole_sky(GRID, of_date), epoch_year=year))
    result = fit(combine(parts))
    assert np.degrees(result.dipole.right_ascension) == pytest.approx(np.degrees(np.arctan2(4, 6)), abs=2e-3)


def test_multipoles_come_back_and_two_hemispheres_measure_more():
    truth = {(1, 1): 2e-3, (1, -1): -1e-3, (2, 1): 1e-3, (2, -1): 5e-4, (2, 2): -8e-4, (2, -2): 3e-4}
    both = combine([asimov(p, GRID, local_of(p, 2.0), FLAT * 1e8, sky_of(truth)) for p in (HAWC, ICECUBE)])
    result = fit(both, l_max=2)
    for l, m, value in zip(result.degree, result.order, result.multipoles, strict=True):
        assert value == pytest.approx(truth[(int(l), int(m))], abs=1e-9)
    with pytest.raises(
        InputError, match=r"m = .* this field of view leaves .* times that of full coverage .* lower --lmax"
    ):
        fit(asimov(ICECUBE, GRID, local_of(ICECUBE), FLAT * 1e8, sky_of(truth)), l_max=3)
    assert fit(both, l_max=3).converged


def test_a_prior_holds_what_the_field_of_view_cannot():
    truth = {(1, 1): 2e-3, (1, -1): -1e-3, (3, 3): 0.0}
    counts = asimov(ICECUBE, GRID, local_of(ICECUBE), FLAT * 1e8, sky_of(truth))
    result = fit(counts, l_max=3, prior_power=1e-8)
    assert result.converged and np.all(np.isfinite(result.covariance))
    assert result.degrees_of_freedom < 12
    held = result.degree >= 2
    assert np.all(np.sqrt(np.diag(result.covariance))[held] <= 1e-4 * (1 + 1e-6))
    with pytest.raises(InputError, match="prior C_l needs one positive value"):
        fit(counts, l_max=3, prior_power=-1.0)
    with pytest.raises(InputError, match="each l from 2 to 4"):
        fit(counts, l_max=4, prior_power=[1e-8, 1e-8])


def test_dead_time_inflates_the_error_and_is_reported():
    """Four dead sidereal hours: bins masked, error larger, estimate still right; ten hours at HAWC: refused."""
    rates = FLAT * 1e8
    rates[:12] = 0.0
    counts = asimov(HAWC, GRID, local_of(HAWC), rates, dipole_sky(GRID, (3e-3, -2e-3)))
    result = fit(counts)
    np.testing.assert_allclose(result.dipole.delta, [3e-3, -2e-3], atol=1e-9)
    assert result.dead_bins == (12,)
    assert 1.02 < result.livetime_inflation < 2
    assert not result.rates[0][:12].any()


def test_dead_bins_are_told_from_empty_ones():
    assert dead_bins(np.array([100.0, 0, 90, 110])).tolist() == [False, True, False, False]
    assert not dead_bins(np.array([1.0, 0, 2, 1])).any()


def test_livetime_of_a_few_hours_is_refused_with_the_reason():
    rates = np.where(np.arange(72) < 6, 1e6, 0.0)
    counts = asimov(HAWC, GRID, local_of(HAWC), rates, np.ones(GRID.shape))
    with pytest.raises(InputError, match=r"cannot be measured: the dead sidereal bins leave it an error"):
        fit(counts)


def test_meridian_only_field_of_view_is_refused():
    """One hour angle per ring: what is seen is sky times rate, and nothing tells them apart."""
    local = np.zeros(GRID.shape)
    local[10:25, 0] = 1 / 15
    with pytest.raises(InputError, match="cannot be measured: this field of view leaves it an error"):
        fit(asimov(HAWC, GRID, local, FLAT * 1e6, np.ones(GRID.shape)))


def test_few_events_are_refused_and_fifty_are_fitted_or_flagged():
    local = local_of(AUGER)
    with pytest.raises(InputError, match="too few events"):
        fit(drawn(AUGER, GRID, local, FLAT * 5 / 72, np.ones(GRID.shape), seed=1))
    result = fit(drawn(AUGER, GRID, local, FLAT * 60 / 72, np.ones(GRID.shape), seed=2))
    assert result.rate_bins == (4,)
    if not result.converged:
        with pytest.raises(FitError, match="left to gain"):
            result.require_converged()


def test_stopping_early_is_said():
    counts = drawn(AUGER, GRID, local_of(AUGER), FLAT * 1e3, dipole_sky(GRID, (0.2, 0.1)), seed=3)
    result = fit(counts, max_steps=1)
    assert not result.converged
    with pytest.raises(FitError, match=r"stopped after 1 steps with .* left to gain"):
        result.require_converged()
    assert fit(counts).require_converged().converged


def test_the_result_does_not_depend_on_the_unit_of_the_weights():
    """Weights of 2.5 for all: the same dipole, the same error, the same test statistic."""
    counts = drawn(AUGER, GRID, local_of(AUGER), FLAT * 1e3, dipole_sky(GRID, (0.05, 0.0)), seed=4)
    scaled = counts.replace(
        n_sky=2.5 * counts.n_sky,
        n_time=2.5 * counts.n_time,
        n_local=2.5 * counts.n_local,
        n_half=2.5 * counts.n_half,
        w2={n: 6.25 * getattr(counts, n) for n in ("n_sky", "n_time", "n_local", "n_half")},
    )
    one, two = fit(counts), fit(scaled)
    np.testing.assert_allclose(one.dipole.delta, two.dipole.delta, rtol=1e-6)
    # The sandwich has the expected moments of the score in its middle, the inverse information the observed ones.
    np.testing.assert_allclose(np.diag(one.dipole.covariance), np.diag(two.dipole.covariance), rtol=0.03)
    assert two.test_statistic == pytest.approx(one.test_statistic, rel=0.03)
    assert scaled.effective_events == pytest.approx(counts.sum_weights)


@pytest.mark.smoke
def test_auger_list():
    """32187 events: sigma sqrt(N) = 2.374 within 3 %, 5.3 %, independent of the grid to 0.1 of the error."""
    fine = fit(read_counts("dataset:auger-8eev"))
    errors = np.sqrt(np.diag(fine.dipole.covariance))
    np.testing.assert_allclose(errors * np.sqrt(32187), 2.374, rtol=0.03)
    assert fine.dipole.amplitude == pytest.approx(0.053, abs=0.001)
    assert fine.converged
    for shape in ((12, 24), (18, 36), (36, 72)):
        coarse = fit(read_counts("dataset:auger-8eev", grid=RingGrid(*shape)))
        assert np.all(np.abs(coarse.dipole.delta - fine.dipole.delta) < 0.1 * errors), shape


def test_time_frames_other_than_sidereal_stay_in_their_own():
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(18, 36), time_frame="antisidereal")
    result = fit(counts)
    assert result.equinox == "date"
    assert result.dipole.amplitude < 3 * result.dipole.amplitude_error


def test_bad_arguments():
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(18, 36))
    with pytest.raises(InputError, match="l_max must be at least 1"):
        fit(counts, l_max=0)
    with pytest.raises(InputError, match="resolved by the 18 rings"):
        fit(counts, l_max=12)
    with pytest.raises(InputError, match="rate_bins = 7 does not divide"):
        fit(counts, rate_bins=7)
    empty = counts.replace(
        **{n: 0 * getattr(counts, n) for n in ("n_sky", "n_time", "n_local", "n_half")},
        num_events=0 * counts.num_events,
        w2={},
    )
    with pytest.raises(InputError, match="hold no event"):
        fit(empty)


def test_refuses_32_bit_floats(monkeypatch):
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(18, 36))
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="inference.fit needs 64-bit floats"):
            fit(counts)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_a_stray_event_in_another_epoch_changes_nothing():
    """Each configuration has its own number of free rates: one event past New Year must not coarsen the others'."""
    local, rates = local_of(HAWC), np.asarray(rate(GRID, 2e5, harmonics=[(1, 0.2, 1.0)]))
    many = drawn(HAWC, GRID, local, rates, np.ones(GRID.shape), seed=8).replace(epochs=("2016",))
    one = drawn(HAWC, GRID, local, FLAT / 72, np.ones(GRID.shape), seed=9).replace(epochs=("2017",))
    assert 0 < one.num_events.sum() < 5
    alone, both = fit(many), fit(combine([many, one]))
    np.testing.assert_allclose(both.dipole.delta, alone.dipole.delta, atol=0.02 * alone.dipole.amplitude_error)
    assert both.rate_bins[0] == alone.rate_bins[0] == 72


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_units_of_the_weights_do_not_matter_to_tolerances_priors_and_dead_bins(scale):
    rates = np.where(np.arange(72) < 6, 0.0, 300.0)
    counts = drawn(AUGER, GRID, local_of(AUGER), rates, dipole_sky(GRID, (0.1, 0.0)), seed=4, weight_spread=0.3)
    names = ("n_sky", "n_time", "n_local", "n_half")
    scaled = counts.replace(
        **{n: scale * getattr(counts, n) for n in names}, w2={n: scale**2 * counts.w2[n] for n in names}
    )
    one, two = (fit(c, l_max=2, prior_power=1e-3) for c in (counts, scaled))
    np.testing.assert_allclose(one.multipoles, two.multipoles, rtol=1e-6)
    np.testing.assert_allclose(one.covariance, two.covariance, rtol=1e-6, atol=1e-12)
    assert two.test_statistic == pytest.approx(one.test_statistic, rel=1e-6)
    assert two.degrees_of_freedom == pytest.approx(one.degrees_of_freedom, rel=1e-6)
    assert two.dead_bins == one.dead_bins == (6,)
    assert two.counts is scaled
