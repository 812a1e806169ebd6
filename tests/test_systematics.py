"""Checks and the rule that turns them into a systematic covariance, by simulated inputs of known truth."""

import json
import math

import numpy as np
import pytest
from diffcr.inference.control_frames import FrameDipole
from diffcr.inference.dipole import Dipole
from diffcr.inference.fit import fit
from diffcr.inference.systematics import (
    control_check,
    frame_checks,
    jackknife_check,
    jackknife_of_epochs,
    jackknife_of_parts,
    method_check,
    systematics,
)
from helpers import dipole_sky, drawn
from scipy import stats

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

SIGMA = 1e-4
ROUND = SIGMA**2 * np.eye(2)
TILTED = np.array([[4e-8, 1e-8], [1e-8, 2e-8]])


def vector(rng, spurious, covariance):
    """A vector of length `spurious` and unknown phase, measured with noise."""
    phase = 2 * np.pi * rng.random()
    return spurious * np.array([np.cos(phase), np.sin(phase)]) + rng.multivariate_normal([0, 0], covariance)


@pytest.mark.parametrize("covariance", [ROUND, TILTED])
@pytest.mark.parametrize("spurious", [0.0, 3e-4])
def test_the_excess_of_a_control_is_unbiased(covariance, spurious):
    """|s|^2 / 2 per component for a spurious vector s of unknown phase, before any gate."""
    rng = np.random.default_rng(1)
    checks = [control_check("antisidereal", vector(rng, spurious, covariance), covariance) for _ in range(2000)]
    excess = np.array([each.excess for each in checks])
    error = excess[:, 0, 0].std() / np.sqrt(len(excess))
    assert excess[:, 0, 0].mean() == pytest.approx(spurious**2 / 2, abs=4 * error)
    np.testing.assert_array_equal(excess[:, 0, 0], excess[:, 1, 1])
    np.testing.assert_array_equal(excess[:, 0, 1], 0)
    if spurious == 0:
        assert stats.kstest([each.p_value for each in checks], "uniform").pvalue > 0.01


def test_a_control_counts_as_far_as_it_reaches():
    d = np.array([5e-4, 0.0])
    whole, part = control_check("a", d, ROUND), control_check("a", d, ROUND, 0.5)
    np.testing.assert_allclose(part.excess, whole.excess / 4)
    assert whole.excess[0, 0] == pytest.approx((25e-8 - 2e-8) / 2)
    assert part.chi2 == whole.chi2 == pytest.approx(25)
    assert whole.degrees_of_freedom == 2
    assert whole.log10_p == pytest.approx(-12.5 / math.log(10))
    assert part.sensitivity == pytest.approx(whole.sensitivity / 2)
    assert whole.sensitivity == pytest.approx(2.4477 * SIGMA, rel=1e-4)


@pytest.mark.parametrize("tau", [0.0, 2e-4])
@pytest.mark.parametrize("unequal", [False, True])
def test_the_extra_variance_of_parts_is_unbiased(tau, unequal):
    """Parts with a spurious vector of their own, of variance tau^2 per component: the mean's variance beyond the
    statistical one, found by simulation of that mean itself."""
    rng = np.random.default_rng(2)
    covariances = np.stack([TILTED * (1 + 2 * k * unequal) for k in range(5)])
    weights = np.linalg.inv(covariances)
    inverse = np.linalg.inv(weights.sum(axis=0))
    excess, means, chances = [], [], []
    for _ in range(1000):
        parts = np.stack([rng.multivariate_normal([1e-3, 0], c + tau**2 * np.eye(2)) for c in covariances])
        check = jackknife_check("epochs", parts, covariances)
        excess.append(check.excess)
        chances.append(check.p_value)
        means.append(inverse @ np.einsum("kab,kb->a", weights, parts))
    truth = np.cov(np.array(means).T) - inverse
    np.testing.assert_allclose(np.mean(excess, axis=0), truth, atol=0.15 * tau**2 / 5 + 0.12 * inverse[0, 0])
    if tau == 0:
        assert stats.kstest(chances, "uniform").pvalue > 0.01
    elif not unequal:
        assert np.mean(excess, axis=0)[0, 0] == pytest.approx(tau**2 / 5, rel=0.15)


def test_two_equal_parts_by_hand():
    """chi2 = |d|^2 / 2 sigma^2, tau^2 = |d|^2 / 4 - sigma^2, and half of it for the mean."""
    check = jackknife_check("halves", np.array([[6e-4, 0.0], [0.0, 0.0]]), np.stack([ROUND] * 2))
    assert check.chi2 == pytest.approx(18)
    assert check.degrees_of_freedom == 2
    np.testing.assert_allclose(check.excess, np.eye(2) * (9e-8 - 1e-8) / 2, atol=1e-20)
    # chi2 of two degrees of freedom exceeds 5.991 in 5 %: tau^2 = (5.991 - 2) sigma^2 / 2, half of it for the mean.
    assert check.sensitivity == pytest.approx(2.4477 * SIGMA * np.sqrt(3.9915 / 4), rel=1e-4)


def test_two_methods_differ_by_less_than_their_errors_suggest():
    """Weighted means of the same events: the inverse-variance one is efficient, the plain one is not. The variance of
    their difference is the difference of the variances, and with half of the events in common as the formula says."""
    rng = np.random.default_rng(3)
    sigmas = np.where(np.arange(400) % 2, 1.0, 3.0)
    weight = sigmas**-2 / np.sum(sigmas**-2)
    best, plain = 1 / np.sum(sigmas**-2), np.mean(sigmas**2) / 400
    chances, apart = [], []
    for _ in range(700):
        events = sigmas[:, None] * rng.normal(size=(400, 2))
        others = np.concatenate([events[:200], sigmas[200:, None] * rng.normal(size=(200, 2))])
        efficient = Dipole(weight @ events, best * np.eye(2))
        chances.append(method_check("EW", efficient, Dipole(events.mean(axis=0), plain * np.eye(2))).p_value)
        half = method_check("EW", efficient, Dipole(others.mean(axis=0), plain * np.eye(2)), overlap=0.5)
        apart.append(half.p_value)
    assert stats.kstest(chances, "uniform").pvalue > 0.01
    assert stats.kstest(apart, "uniform").pvalue > 0.01


def test_a_method_that_disagrees_is_found():
    check = method_check("EW", Dipole(np.array([1e-3, 0.0]), ROUND), Dipole(np.array([2e-3, 0.0]), 4 * ROUND))
    assert check.chi2 == pytest.approx(1e-6 / 3e-8)
    assert check.excess[0, 0] == pytest.approx((1e-6 - 6e-8) / 2)
    with pytest.raises(InputError, match="EW: the estimate given as efficient is not the more precise one.*swap"):
        method_check("EW", Dipole(np.zeros(2), 4 * ROUND), Dipole(np.zeros(2), ROUND))
    with pytest.raises(InputError, match="EW: the overlap .* not 1.5"):
        method_check("EW", Dipole(np.zeros(2), ROUND), Dipole(np.zeros(2), 4 * ROUND), 1.5)


def experiment(rng, antisidereal=0.0, tau=0.0):
    """A measured dipole and its checks: antisidereal, solar, epochs (5), zenith (3), East-West; and the true fault."""
    covariances = np.stack([5 * ROUND] * 5)
    faults = tau * rng.normal(size=(5, 2))
    parts = np.array([1e-3, 0]) + faults + np.sqrt(5) * SIGMA * rng.normal(size=(5, 2))
    phase = 2 * np.pi * rng.random()
    fault = faults.mean(axis=0) + antisidereal * np.array([np.cos(phase), np.sin(phase)])
    best = Dipole(parts.mean(axis=0) + fault - faults.mean(axis=0), ROUND)
    zenith = np.array([1e-3, 0]) + np.sqrt(3) * SIGMA * rng.normal(size=(3, 2))
    worse = Dipole(best.delta + np.sqrt(2) * SIGMA * rng.normal(size=2), 3 * ROUND)
    checks = [
        control_check("antisidereal dipole", vector(rng, antisidereal, ROUND), ROUND),
        control_check("solar dipole", vector(rng, 0.0, ROUND), ROUND, 0.1),
        jackknife_check("epochs", parts, covariances),
        jackknife_check("zenith", zenith, np.stack([3 * ROUND] * 3)),
        method_check("East-West", best, worse),
    ]
    return best, checks, best.delta - np.array([1e-3, 0])


def test_the_rule_adds_about_nothing_where_nothing_is_wrong():
    """Five checks: something is added in 1 % of the cases, on average 4 % of the statistical variance (three of the
    checks are less precise than the dipole); without the gate it would be the whole of it."""
    rng = np.random.default_rng(4)
    found, ungated, sources = [], [], []
    for _ in range(800):
        dipole, checks, _ = experiment(rng)
        result = systematics(dipole, checks)
        found.append(result.covariance[0, 0] / SIGMA**2)
        sources.append(result.source is not None)
        ungated.append(systematics(dipole, checks, level=1.0).covariance[0, 0] / SIGMA**2)
    assert np.mean(sources) < 0.02
    assert np.mean(found) < 0.1
    assert 0.7 < np.mean(ungated) < 1.7


def test_the_rule_has_the_right_size_for_an_injected_fault():
    """A spurious vector of six statistical errors in antisidereal and sidereal time; and one of 5 errors in each epoch:
    the variance found is the injected one, and pulls of the dipole have unit variance with it."""
    rng = np.random.default_rng(5)
    for options, truth in (({"antisidereal": 6 * SIGMA}, 18 * SIGMA**2), ({"tau": 10 * SIGMA}, 20 * SIGMA**2)):
        found, pulls, sources = [], [], []
        for _ in range(500):
            dipole, checks, off = experiment(rng, **options)
            result = systematics(dipole, checks)
            found.append(np.trace(result.covariance) / 2)
            sources.append(result.source)
            pulls.append(off)
        expected = "antisidereal dipole" if "antisidereal" in options else "epochs"
        assert np.mean([s == expected for s in sources]) > 0.97
        assert np.mean(found) == pytest.approx(truth, rel=0.1)
        assert np.var(pulls) == pytest.approx(np.mean(found) + SIGMA**2, rel=0.15)


def test_the_largest_fault_counts_and_reported_ones_do_not():
    small = control_check("small", np.array([6e-4, 0]), ROUND)
    large = control_check("large", np.array([0, 9e-4]), ROUND)
    physical = jackknife_check("energy", np.array([[1e-2, 0], [0, 0]]), np.stack([ROUND] * 2), counts=False)
    dipole = Dipole(np.array([1e-3, 0.0]), ROUND)
    found = systematics(dipole, [small, large, physical])
    assert found.source == "large"
    np.testing.assert_allclose(found.covariance, large.excess)
    assert systematics(dipole, [physical]).source is None
    # Low p-values of an improbably small excess do not count: chi2 grows with any outlier, the excess must too.
    assert len(found.as_dict()["checks"]) == 3


def test_errors_are_propagated_to_amplitude_phase_and_power():
    """Against a sample of the dipole: systematic excess along and across differ here."""
    dipole = Dipole(np.array([3e-3, 4e-3]), TILTED)
    parts = np.array([[4e-3, 0.0], [-3e-3, 1e-3], [0.0, -2e-3]])
    check = jackknife_check("epochs", parts, np.stack([TILTED, 2 * TILTED, 3 * TILTED]))
    found = systematics(dipole, [check])
    assert found.source == "epochs"
    extra = found.covariance
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    assert found.amplitude_error == pytest.approx(np.sqrt(along @ extra @ along))
    assert found.phase_error == pytest.approx(np.sqrt(across @ extra @ across) / 5e-3)
    np.testing.assert_allclose(found.total.covariance, TILTED + extra)
    assert found.total.amplitude_error**2 == pytest.approx(dipole.amplitude_error**2 + found.amplitude_error**2)
    rng = np.random.default_rng(6)
    sample = rng.multivariate_normal(dipole.delta, TILTED + extra, 200_000)
    power = 4 * np.pi / 9 * np.sum(sample**2, axis=1)
    assert sum(found.c1_variance) == pytest.approx(power.var(), rel=0.02)
    quiet = rng.multivariate_normal(dipole.delta, TILTED, 200_000)
    assert found.c1_variance[0] == pytest.approx((4 * np.pi / 9 * np.sum(quiet**2, axis=1)).var(), rel=0.02)
    assert found.c1 == pytest.approx(4 * np.pi / 9 * 25e-6)
    base = np.diag([1.0, 2.0, 3.0]) * 1e-12
    added = found.power_covariance(base) - base
    assert added[0, 0] == pytest.approx(found.c1_variance[1])
    assert np.count_nonzero(added) == 1
    assert (found.power_covariance(base, first=0) - base)[1, 1] == pytest.approx(found.c1_variance[1])
    with pytest.raises(InputError, match="must begin at l = 0 or 1"):
        found.power_covariance(base, first=2)
    written = json.loads(json.dumps(found.as_dict()))
    assert written["source"] == "epochs"
    assert written["right_ascension_error_deg"]["systematic"] == pytest.approx(np.degrees(found.phase_error))
    assert written["amplitude_error"]["total"] == pytest.approx(found.total.amplitude_error)
    assert written["checks"][0]["chi2"] == pytest.approx(check.chi2)


def test_a_dipole_of_no_length_has_no_phase():
    found = systematics(Dipole(np.zeros(2), ROUND), [control_check("a", np.array([1e-3, 0]), ROUND)])
    assert found.phase_error == math.pi


def test_frames_count_as_far_as_the_live_time_lets_them():
    def frame(name, d, orbital=(0.0, 0.0)):
        return FrameDipole(name, Dipole(np.array(d), ROUND), np.array(orbital), 1.0, -1.0)

    frames = {
        "sidereal": frame("sidereal", [1e-3, 0.0]),
        "solar": frame("solar", [0.0, 4.477e-4], [0.0, 4.477e-4]),
        "antisidereal": frame("antisidereal", [3e-4, 0.0], [1e-4, 0.0]),
    }
    solar, anti = frame_checks(frames)
    assert (solar.name, solar.counts, anti.name, anti.counts) == ("solar dipole", False, "antisidereal dipole", True)
    assert solar.chi2 == pytest.approx(0)  # the orbit's line is no fault
    assert anti.chi2 == pytest.approx(4)
    half = np.arange(0.0, 182.6, 0.5)
    solar, anti = frame_checks(frames | {"solar": frame("solar", [1e-3, 0.0])}, half)
    assert solar.counts
    assert solar.excess[0, 0] == pytest.approx((2 / np.pi) ** 2 * (1e-6 - 2e-8) / 2, rel=0.02)
    assert anti.excess[0, 0] == pytest.approx((4e-8 - 2e-8) / 2)


def test_parts_of_counts_are_fitted():
    grid, place = RingGrid(12, 24), site("hawc")
    wide = np.abs(np.degrees(grid.declination) - 20) < 45
    local = np.outer(wide * np.cos(grid.declination), np.cos(grid.hour_angle) > 0.6)
    rate = np.full(24, 2e4)

    def part(k, dipole):
        return drawn(place, grid, local / local.sum(), rate, dipole_sky(grid, dipole), k, epoch_year=2010.5 + k)

    same = [part(k, (0.05, 0.0)) for k in range(3)]
    agree = jackknife_of_parts("zenith", same)
    whole = fit(same[0])
    np.testing.assert_array_equal(systematics(whole, [agree]).total.equatorial, whole.dipole.equatorial)
    assert agree.degrees_of_freedom == 4
    assert agree.p_value > 1e-3
    differ = jackknife_of_parts("zenith", [*same[:2], part(7, (0.05, 0.1))], counts=False)
    assert differ.p_value < 1e-4
    assert not differ.counts
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")
    joined = {name: np.concatenate([getattr(p, name) for p in same], axis=2) for name in names}
    epochs = jackknife_of_epochs(same[0].replace(epochs=("a", "b", "c"), **joined))
    assert epochs.name == "epochs"
    assert epochs.chi2 == pytest.approx(agree.chi2, rel=1e-6)
    with pytest.raises(InputError, match="epochs: a jackknife needs at least two parts with events, there are 1"):
        jackknife_of_epochs(same[0])


def test_wrong_input_is_refused():
    good, dipole = control_check("a", np.zeros(2), ROUND), Dipole(np.zeros(2), ROUND)
    with pytest.raises(InputError, match="a: the covariance is not positive definite"):
        control_check("a", np.zeros(2), np.zeros((2, 2)))
    with pytest.raises(InputError, match="b: the covariance is not positive definite"):
        jackknife_check("b", np.zeros((2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="no check was given"):
        systematics(dipole, [])
    with pytest.raises(InputError, match="two checks have the same name: a, a"):
        systematics(dipole, [good, good])
    with pytest.raises(InputError, match="level lies between 0 and 1, not 0"):
        systematics(dipole, [good], 0.0)
