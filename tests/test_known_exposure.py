"""The fit with a known acceptance: three components of the dipole, their covariance, and what is refused."""

import numpy as np
import pytest
from diffcr.inference.fit import fit
from diffcr.inference.multipoles import ring_modes
from helpers import asimov, dipole_sky, drawn
from scipy import optimize

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

GRID = RingGrid(18, 36)
SITE = site("auger")
LOCAL = np.asarray(acceptance(SITE, GRID, azimuth_terms=[(1, 0.1, 1.0)]))
EXPOSURE = {SITE.name: LOCAL}
TRUTH = np.array([0.02, -0.05, -0.03])


def wavy(number: float) -> np.ndarray:
    return np.asarray(rate(GRID, number, harmonics=[(1, 0.4, 1.0), (2, 0.2, 2.0)]))


def unit_skies() -> np.ndarray:
    """Contrast of a unit dipole along each axis, shape (3, ring, ra)."""
    return np.stack([dipole_sky(GRID, axis) - 1 for axis in np.eye(3)])


def multinomial_information(number: np.ndarray, local: np.ndarray, truth: np.ndarray, groups: int) -> np.ndarray:
    """Fisher matrix of the dipole from n_tau events of each time bin, spread over the local cells with p_i ~ A_i I_i.

    Loops over time bins; where rates are shared by a group of bins, the multinomial is over the cells of all of them.
    """
    width = GRID.n_ra // groups
    information = np.zeros((3, 3))
    for group in range(groups):
        mu, slopes = [], []
        for tau in range(group * width, (group + 1) * width):
            column = (tau - np.arange(GRID.n_ra)) % GRID.n_ra
            basis = unit_skies()[:, :, column]
            intensity = 1 + np.tensordot(truth, basis, 1)
            mu.append(local * intensity)
            slopes.append(basis / intensity)
        mu, slopes = np.stack(mu).ravel(), np.stack(slopes, axis=1).reshape(3, -1)
        p = mu / mu.sum()
        centred = slopes - (slopes @ p)[:, None]
        events = number[group * width : (group + 1) * width].sum()
        information += events * (centred * p) @ centred.T
    return information


@pytest.mark.parametrize("groups", [36, 1])
def test_asimov_sky_is_recovered_with_the_covariance_of_a_multinomial(groups):
    """delta_N too; without an epoch the frame stays that of date."""
    rates = np.repeat(wavy(1e6).reshape(groups, -1).mean(axis=1), 36 // groups)
    counts = asimov(SITE, GRID, LOCAL, rates, dipole_sky(GRID, TRUTH))
    result = fit(counts, exposure=EXPOSURE, rate_bins=groups).require_converged()
    np.testing.assert_allclose(result.dipole.delta, TRUTH, atol=1e-8)
    information = multinomial_information(counts.n_time[0, 0, 0], LOCAL, TRUTH, groups)
    np.testing.assert_allclose(result.dipole.covariance, np.linalg.inv(information), rtol=2e-5, atol=1e-12)
    assert (result.equinox, result.known_exposure, result.degrees_of_freedom) == ("date", True, 3)
    # What was not given, the rate, is the true one; the acceptance is the one the data show, here the given one.
    np.testing.assert_allclose(result.rates[0], rates / rates.sum(), rtol=1e-7)
    np.testing.assert_allclose(result.acceptances[0], LOCAL, atol=1e-9)


def test_known_exposure_measures_declination_structure_that_a_free_one_absorbs():
    sky = dipole_sky(GRID, (0, 0, 0.1))
    counts = asimov(SITE, GRID, LOCAL, wavy(1e6), sky)
    np.testing.assert_allclose(fit(counts, exposure=EXPOSURE).dipole.delta, [0, 0, 0.1], atol=1e-8)
    assert fit(counts).test_statistic < 1e-6


def test_error_with_everything_known_is_that_of_the_table():
    """sigma sqrt(N) = sqrt(2 / <cos^2 dec>) = 1.732 for Auger, zenith angles below 80 degrees; 2.374 with all free."""
    local = np.asarray(acceptance(SITE, GRID))
    counts = asimov(SITE, GRID, local, np.full(36, 1e6 / 36), np.ones(GRID.shape))

    def error(**options):
        return np.sqrt(fit(counts, **options).dipole.covariance[0, 0] * 1e6)

    known = error(exposure={SITE.name: local}, rate_bins=1)
    assert known == pytest.approx(1.732, rel=5e-3)
    # A rate in each time bin costs what the mean direction <cos dec exp(-iH)> knew.
    assert known < error(exposure={SITE.name: local}) < error() + 1e-9
    assert error() == pytest.approx(2.374, rel=1e-2)


def test_one_free_rate_takes_a_wave_of_the_rate_for_a_dipole():
    """What rate_bins = 1 asserts: that the rate is constant."""
    counts = asimov(SITE, GRID, LOCAL, np.asarray(rate(GRID, 1e6, harmonics=[(1, 0.01, 0.0)])), np.ones(GRID.shape))
    assert np.max(np.abs(fit(counts, exposure=EXPOSURE).dipole.delta)) < 1e-9
    assert fit(counts, exposure=EXPOSURE, rate_bins=1).dipole.amplitude > 3e-3


def test_maximum_is_the_one_scipy_finds_on_the_cube():
    """Multinomial log-likelihood of a drawn cube, time bin by time bin, with l <= 2."""
    counts = drawn(SITE, GRID, LOCAL, wavy(2e4), dipole_sky(GRID, (0.3, -0.2, 0.3)), seed=3)
    result = fit(counts, l_max=2, exposure=EXPOSURE, rate_bins=36).require_converged()
    exposed = LOCAL.sum(axis=1) > 0
    n_sky, n_time, local = counts.n_sky[0, 0, 0][exposed], counts.n_time[0, 0, 0], LOCAL[exposed]
    modes = ring_modes(GRID, tuple(np.flatnonzero(exposed).tolist()), result.degree, result.order)
    columns = (np.arange(36)[:, None] - np.arange(36)) % 36
    basis = np.stack([np.asarray(modes.sky(e)) for e in np.eye(8)])

    def negative(theta):
        """Per event, and its gradient."""
        intensity = 1 + np.tensordot(theta, basis, 1)
        seen = np.einsum("rh,rth->t", local, intensity[:, columns])
        value = np.sum(n_sky * np.log(intensity)) - n_time @ np.log(seen)
        moved = np.einsum("rh,prth->pt", local, basis[:, :, columns])
        slope = np.sum(n_sky / intensity * basis, axis=(1, 2)) - moved @ (n_time / seen)
        return -value / n_time.sum(), -slope / n_time.sum()

    found = optimize.minimize(negative, np.zeros(8), jac=True, method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(result.multipoles, found.x, atol=1e-6)
    gain = n_time.sum() * (negative(np.zeros(8))[0] - found.fun)
    assert result.test_statistic == pytest.approx(2 * gain, abs=1e-5)
    seen = np.einsum("rh,rth->t", local, np.tensordot(result.multipoles, basis, 1)[:, columns])
    np.testing.assert_allclose(result.rates[0] * (1 + seen) / n_time, result.rates[0, 0] * (1 + seen[0]) / n_time[0])


def test_a_prior_holds_higher_multipoles_alone():
    counts = drawn(SITE, GRID, LOCAL, wavy(2e4), dipole_sky(GRID, TRUTH), seed=4)
    held = fit(counts, l_max=2, exposure=EXPOSURE, prior_power=1e-14, rate_bins=36)
    dipole = fit(counts, exposure=EXPOSURE)
    np.testing.assert_allclose(held.dipole.delta, dipole.dipole.delta, atol=1e-6)
    assert np.max(np.abs(held.multipoles[held.degree == 2])) < 1e-6
    assert held.degrees_of_freedom == pytest.approx(3, abs=1e-3)


def test_wrong_or_missing_exposure_is_refused():
    counts = asimov(SITE, GRID, LOCAL, wavy(1e5), np.ones(GRID.shape))
    with pytest.raises(InputError, match="a known exposure was asked for, but none is given for Auger; give one for"):
        fit(counts, exposure={"HAWC": LOCAL})
    shape = r"the exposure of Auger must be finite, non-negative and of shape \(18, 36\)"
    for bad in (LOCAL.T, -LOCAL, LOCAL * np.nan, 0 * LOCAL):
        with pytest.raises(InputError, match=shape):
            fit(counts, exposure={"Auger": bad})
    narrow = np.asarray(acceptance(site("auger", np.radians(60)), GRID))
    with pytest.raises(InputError, match=r"\d+ events of Auger lie where its known exposure is zero: widen"):
        fit(counts, exposure={"Auger": narrow})


def test_scale_of_the_exposure_and_few_events_at_its_edge_do_not_matter():
    counts = drawn(SITE, GRID, LOCAL, wavy(1e5), dipole_sky(GRID, TRUTH), seed=5)
    plain = fit(counts, exposure=EXPOSURE).dipole.delta
    np.testing.assert_allclose(fit(counts, exposure={"Auger": 5 * LOCAL}).dipole.delta, plain, atol=1e-12)
    # An exposure without the faintest exposed cell.
    edge = np.where((LOCAL > 0) & (LOCAL == LOCAL[LOCAL > 0].min()), 0, LOCAL)
    assert np.count_nonzero(edge) < np.count_nonzero(LOCAL)
    np.testing.assert_allclose(fit(counts, exposure={"Auger": edge}).dipole.delta, plain, atol=1e-3)
