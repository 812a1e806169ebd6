"""Quadratic C_l: information against dense elimination and published errors, unbiased spectra of simulated skies."""

import dataclasses
import functools

import numpy as np
import pytest
from diffcr.inference.data import combine
from diffcr.inference.fit import _frame_rotation, fit
from diffcr.inference.multipoles import expected_information, free_multipoles, ring_modes
from diffcr.inference.power import (
    information_action,
    multipoles,
    power_spectrum,
    sky_information,
)
from helpers import as_counts, asimov, drawn

from diffcr.counts import MarginalCounts, east_weight
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import synthesis
from diffcr.rate import rate
from diffcr.site import site

TINY = RingGrid(8, 12)
GRID = RingGrid(18, 36)
FINER = RingGrid(36, 72)
SITES = {"HAWC": site("hawc"), "IceCube": site("icecube"), "Auger": site("auger")}
POWER = {"HAWC": 4.0, "IceCube": 1.0, "Auger": 1.0}
TRUE = 1e-4 / np.arange(1, 5) ** 2
"""C_l of the simulated skies."""


@functools.cache
def local_of(name, grid):
    return np.asarray(acceptance(SITES[name], grid, power=POWER[name]))


@functools.cache
def uneven_rate(grid, events):
    return np.asarray(rate(grid, events, harmonics=[(1, 0.3, 1.0), (3, 0.1, 0.2)]))


@functools.cache
def tilted_local(name, grid):
    return np.asarray(acceptance(SITES[name], grid, azimuth_terms=[(1, 0.2, 1.0), (2, 0.1, 0.5)]))


def even_counts(name, grid=GRID, events=1e6):
    """Counts as isotropy predicts them, at a constant rate."""
    return asimov(SITES[name], grid, local_of(name, grid), np.full(grid.n_ra, events / grid.n_ra), np.ones(grid.shape))


def both(grid=GRID):
    return combine([even_counts("HAWC", grid), even_counts("IceCube", grid)])


def tilted(name="Auger", grid=TINY, events=5e4, seed=3, **options):
    """Poisson counts of an uneven rate and an acceptance without symmetry."""
    local, uneven = tilted_local(name, grid), uneven_rate(grid, events)
    return drawn(SITES[name], grid, local, uneven, np.ones(grid.shape), seed, **options)


def dense_sky(grid, l_max):
    """m != 0 harmonics averaged over the cells, shape (param, ring, ra)."""
    degree, order = free_multipoles(l_max)
    unit = np.zeros((len(degree), (l_max + 1) ** 2))
    unit[np.arange(len(degree)), degree**2 + degree + order] = 1
    return np.asarray(synthesis(unit, grid, cell_average=True))


@pytest.mark.parametrize("groups", [12, 4])
def test_score_and_information_are_those_of_a_log_linear_model_of_every_cell(groups):
    """Poisson regression on all (time, ring, hour angle) cells: multipoles, rates and acceptances as columns of one
    design matrix, the nuisances removed by a Schur complement. Nothing of the marginals or of Fourier sums is used."""
    l_max, (rings, n) = 2, TINY.shape
    rng = np.random.default_rng(5)
    local = tilted_local("HAWC", TINY)
    step = np.repeat(rng.uniform(0.5, 1.5, groups), n // groups)
    cube = rng.poisson(3e4 * step[:, None, None] * local)
    tau, ring, hour = np.indices(cube.shape)
    ra = (tau - hour) % n
    sky = np.zeros((rings, n))
    np.add.at(sky, (ring, ra), cube)
    half = np.stack([(cube * w).sum(axis=2).T for w in (east_weight(n), 1 - east_weight(n))])
    counts = as_counts(
        SITES["HAWC"], TINY, MarginalCounts(sky, cube.sum((1, 2)), cube.sum(0), half), None, int(cube.sum())
    )
    information = sky_information(counts, l_max, rate_bins=groups)

    basis = dense_sky(TINY, l_max)[:, ring, ra].reshape(6, -1)
    rates = np.equal(np.arange(groups)[:, None], (tau // (n // groups)).ravel()).astype(float)
    cells = np.equal(np.arange(rings * n)[:, None], (ring * n + hour).ravel()).astype(float)
    grouped = cube.sum((1, 2)).reshape(groups, -1).sum(axis=1) / cube.sum() / (n // groups)
    mu = (np.repeat(grouped, n // groups)[:, None, None] * cube.sum(0)).ravel()
    nuisance = np.concatenate([rates, cells])
    mixed, own = (basis * mu) @ nuisance.T, (nuisance * mu) @ nuisance.T
    expected = (basis * mu) @ basis.T - mixed @ np.linalg.pinv(own, rcond=1e-11) @ mixed.T
    np.testing.assert_allclose(information.matrix, expected, rtol=1e-8, atol=1e-8 * expected.max())
    np.testing.assert_allclose(information.score, basis @ (cube.ravel() - mu), rtol=1e-8, atol=1e-8)


def test_information_is_that_of_the_fit_for_several_epochs():
    """Two epochs 60 years apart and two sites, each turned to the common frame."""
    parts = [tilted("Auger", seed=1, epoch_year=1990.0), tilted("HAWC", seed=2, epoch_year=2050.0)]
    counts = combine(parts)
    information = sky_information(counts, 3)
    total = 0
    for place in counts.configurations():
        turn = _frame_rotation(counts, place)
        assert abs(turn) > 1e-3
        rings = tuple(np.flatnonzero(counts.n_local[place].sum(axis=1)).tolist())
        modes = ring_modes(TINY, rings, *free_multipoles(3), turn)
        share = counts.n_time[place] / counts.n_time[place].sum()
        total = total + expected_information(counts.n_local[place][list(rings)], share, modes)
    np.testing.assert_allclose(information.matrix, total, rtol=1e-9, atol=1e-9 * total.max())
    turned = [sky_information(part, 3).score for part in parts]
    # Alone, each part is in its own frame: the scores of the sum differ from the sum of the scores by the turn.
    assert np.abs(information.score - sum(turned)).max() > 1e-3 * np.abs(information.score).max()
    degree, order = free_multipoles(3)
    expected = np.zeros(len(degree))
    for place, own in zip(counts.configurations(), turned, strict=True):
        angle = np.abs(order) * _frame_rotation(counts, place)
        partner = [int(np.flatnonzero((degree == l) & (order == -m))[0]) for l, m in zip(degree, order, strict=True)]
        expected += np.cos(angle) * own + np.sign(order) * np.sin(angle) * own[partner]
    np.testing.assert_allclose(information.score, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Auger", (2.37, 2.64, 2.95, 3.36)),
        ("HAWC", (3.58, 3.63, 4.50, 5.04)),
        ("IceCube", (2.21, 10.5, 70, 544)),
        ("both", (2.66, 3.53, 3.61, 3.65)),
    ],
)
def test_published_dipole_errors(name, table):
    """sigma(delta_0h) sqrt(N) with all m != 0 multipoles to l_max = 1 .. 4 free."""
    grid = FINER
    counts = both(grid) if name == "both" else even_counts(name, grid)
    for l_max, printed in enumerate(table, start=1):
        found = multipoles(sky_information(counts, l_max))
        # Alone at a pole, a ring more or less in the field of view matters.
        close = 0.08 if name == "IceCube" else 0.01
        assert found.error[1] * np.sqrt(3 / (4 * np.pi) * counts.sum_weights) == pytest.approx(printed, rel=close)
        assert found.inflation[1] == pytest.approx(found.error[1] * np.sqrt(counts.sum_weights / (4 * np.pi)))
    assert found.measurable.all() == (name not in ("IceCube",))
    assert not found.wiener


def test_action_is_the_matrix():
    """Three configurations, epochs apart."""
    counts = combine([tilted("Auger", GRID, epoch_year=1990.0), tilted("HAWC", GRID, epoch_year=2050.0)])
    information, action = sky_information(counts, 8), information_action(counts, 8)
    vector = np.random.default_rng(0).standard_normal(len(information.score))
    np.testing.assert_allclose(action(vector), information.matrix @ vector, rtol=1e-9, atol=1e-9 * np.abs(vector).max())
    np.testing.assert_array_equal(action.score, information.score)
    prior = 1e-3 / np.arange(1, 9)
    np.testing.assert_allclose(action.wiener(prior), multipoles(information, prior).values, rtol=1e-5, atol=1e-9)
    with pytest.raises(InputError, match="2 conjugate-gradient steps did not reach"):
        action.wiener(prior, max_steps=2)


def gaussian_data(information, power, number, seed):
    """Random skies of this power and the information with their scores y = F s + noise of covariance F."""
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(information.matrix)
    root = vectors * np.sqrt(np.maximum(values, 0))
    s = rng.standard_normal((number, len(values))) * np.sqrt(power[information.degree - 1])
    y = s @ information.matrix + rng.standard_normal(s.shape) @ root.T
    return s, dataclasses.replace(information, score=y)


def check_spectra(found, truth, error, most=3.6):
    """Mean and scatter of spectra (sky, bin) against truth and error."""
    deviation = (found.mean(axis=0) - truth) / error * np.sqrt(len(found))
    assert np.abs(deviation).max() < most
    return found.std(axis=0) / error


@pytest.mark.parametrize(
    ("name", "fiducial"), [("both", "true"), ("HAWC", "true"), ("HAWC", "other"), ("IceCube", "true")]
)
@pytest.mark.parametrize("signal", [True, False])
def test_spectra_of_gaussian_skies(name, fiducial, signal):
    """1000 skies in the likelihood's own limit: unbiased with l = 1, errors equal to the scatter within 10 %, also with
    a wrong fiducial; noise alone gives zero."""
    counts = both() if name == "both" else even_counts(name)
    information = sky_information(counts, 6)
    l = np.arange(1, 7)
    power = signal * 3e-4 / l**2
    guess = 3e-4 / l**2 if fiducial == "true" else np.full(6, 3e-5)
    bins = [(1, 1), (2, 4), (5, 6)] if name == "IceCube" else [(1, 1), (2, 2), (3, 4), (5, 6)]
    _, data = gaussian_data(information, power, 1000, 4)
    first = power_spectrum(data, guess, bins, power)
    truth = first.window @ power
    if fiducial == "true":
        inside = (l >= first.low[:, None]) & (l <= first.high[:, None])
        np.testing.assert_allclose(truth, inside @ (2 * l * power) / (inside @ (2 * l)), rtol=1e-7, atol=1e-20)
    ratio = check_spectra(first.power, truth, first.error)
    np.testing.assert_allclose(ratio, 1, atol=0.1)
    np.testing.assert_allclose(
        np.corrcoef(first.power.T), first.covariance / np.outer(first.error, first.error), atol=0.15
    )
    if signal:
        assert np.all(first.error > np.sqrt(np.diag(first.isotropic_covariance)))
    else:
        np.testing.assert_allclose(first.covariance, first.isotropic_covariance)


def test_the_error_is_least_where_the_fiducial_is_true():
    information = sky_information(both(), 6)
    true = 1e-5 / np.arange(1, 7) ** 2
    best = power_spectrum(information, true, signal=true).error
    for other in (true * 100, true / 100, np.full(6, 1e-4)):
        assert np.all(power_spectrum(information, other, signal=true).error >= best * (1 - 1e-9))


def simulated(names, seed, events, true=TRUE):
    """Poisson counts at each site of one Gaussian sky, m = 0 included, seen by its cells."""
    rng = np.random.default_rng(seed)
    l_max = len(true)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    a = rng.standard_normal(len(degree)) * np.sqrt(np.concatenate([[0], true]))[degree]
    sky = 1 + np.asarray(synthesis(a, GRID, cell_average=True))
    uneven = uneven_rate(GRID, events)
    return combine(
        [drawn(SITES[n], GRID, local_of(n, GRID), uneven, sky, seed + 10_000 * k) for k, n in enumerate(names, start=1)]
    )


@pytest.mark.parametrize(
    ("names", "signal"), [(("HAWC",), True), (("IceCube",), True), (("HAWC", "IceCube"), True), (("HAWC",), False)]
)
def test_spectra_of_simulated_counts(names, signal):
    """From Poisson counts of every (time, ring, hour angle) cell to C_l: 60 skies, rate and acceptance unknown."""
    bins = None if len(names) == 2 else [(1, 1), (2, 4)]
    true = TRUE * signal
    spectra = []
    for seed in range(60):
        information = sky_information(simulated(names, seed, 3e5, true), 4)
        spectra.append(power_spectrum(information, TRUE, bins, true))
    found = np.array([s.power for s in spectra])
    ratio = check_spectra(found, spectra[0].window @ true, np.mean([s.error for s in spectra], axis=0), 3.3)
    np.testing.assert_allclose(ratio, 1, atol=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("HAWC",), ("IceCube",), ("HAWC", "IceCube")], ids="+".join)
def test_errors_of_simulated_counts_within_ten_percent(names):
    """400 skies: means within their errors, error bars equal to the scatter within 10 % on average."""
    bins = None if len(names) == 2 else [(1, 1), (2, 4)]
    spectra = []
    for seed in range(400):
        spectra.append(power_spectrum(sky_information(simulated(names, seed, 3e5), 4), TRUE, bins, TRUE))
    found = np.array([s.power for s in spectra])
    ratio = check_spectra(found, spectra[0].window @ TRUE, np.mean([s.error for s in spectra], axis=0))
    np.testing.assert_allclose(ratio, 1, atol=0.12)


def test_wiener_multipoles_cover():
    """Errors about the truth over 200 skies drawn from the prior have the stated covariance: chi^2 = parameters."""
    information = sky_information(even_counts("IceCube"), 5)
    prior = 1e-4 / np.arange(1, 6) ** 2
    truth, data = gaussian_data(information, prior, 200, 9)
    found = multipoles(data, prior)
    assert found.wiener and found.condition < 1e5
    miss = found.values - truth
    chi2 = np.sum(miss @ np.linalg.inv(found.covariance) * miss, axis=1)
    assert chi2.mean() == pytest.approx(30, abs=3.5 * np.sqrt(2 * 30 / 200))
    # A prior of no information and no prior: the same.
    free = sky_information(both(), 3)
    vague = multipoles(free, np.full(3, 1e3))
    np.testing.assert_allclose(vague.covariance, multipoles(free).covariance, rtol=1e-6, atol=1e-12)


def test_maximum_likelihood_multipoles_find_the_sky():
    """Asimov counts of a known weak sky: the truth to second order, signs and frame included."""
    degree, order = free_multipoles(3)
    truth = 1e-4 * np.random.default_rng(1).standard_normal(len(degree))
    full = np.zeros(16)
    full[degree**2 + degree + order] = truth
    full[[2, 6]] = 3e-3  # m = 0 makes no difference
    sky = 1 + np.asarray(synthesis(full, GRID, cell_average=True))
    uneven = uneven_rate(GRID, 1e6)
    counts = combine([asimov(SITES[n], GRID, local_of(n, GRID), uneven, sky) for n in ("HAWC", "IceCube")])
    np.testing.assert_allclose(multipoles(sky_information(counts, 3)).values, truth, atol=2e-6)


@pytest.mark.slow
def test_multipoles_are_those_of_the_fit():
    counts = tilted("Auger", GRID, events=1e6)
    fitted = fit(counts, 2, rate_bins=36)
    ours = multipoles(sky_information(counts, 2, rate_bins=36))
    np.testing.assert_allclose(ours.values, fitted.multipoles, atol=0.02 * ours.error.max())
    np.testing.assert_allclose(ours.covariance, fitted.covariance, rtol=0.02, atol=0.01 * ours.covariance.max())


def test_weighted_counts_have_the_errors_of_their_weights():
    """Log-normal weights of spread 0.8 (sum w^2 / sum w = 1.9): the scores of 150 isotropic draws scatter as F."""
    scores, matrices = [], []
    for seed in range(150):
        information = sky_information(tilted("Auger", seed=seed, weight_spread=0.8), 1, rate_bins=12)
        scores.append(information.score)
        matrices.append(information.matrix)
    assert information.effective_events == pytest.approx(5e4 / np.exp(0.64), rel=0.1)
    matrix = np.mean(matrices, axis=0)
    chi2 = np.sum(np.array(scores) @ np.linalg.inv(matrix) * np.array(scores), axis=1)
    assert chi2.mean() == pytest.approx(2, abs=0.6)


def ring_weighted(seed):
    """Isotropic Poisson counts whose events weigh 0.04 to 9, more towards the north."""
    counts = tilted("HAWC", seed=seed)
    weight = np.linspace(0.2, 3, TINY.n_ring)[:, None] ** 2
    moved = {name: getattr(counts, name) * weight for name in ("n_sky", "n_local", "n_half")}
    squares = {name: getattr(counts, name) * weight**2 for name in ("n_sky", "n_local", "n_half")}
    for values in (moved, squares):
        values["n_time"] = values["n_half"].sum(axis=(-3, -2))
    return counts.replace(**moved, w2=squares)


def correlation(covariance):
    size = np.sqrt(np.diag(covariance))
    return covariance / np.outer(size, size)


def test_weights_that_depend_on_direction():
    """200 isotropic draws: the scores scatter as the squared weights say, and not as F does; so do the multipoles; and
    the spectra have mean zero and the stated scatter."""
    data = [sky_information(ring_weighted(seed), 2, rate_bins=12) for seed in range(200)]
    scores = np.array([d.score for d in data])
    stated = np.mean([d.score_covariance for d in data], axis=0)

    def chi2(covariance):
        return np.mean(np.sum(scores @ np.linalg.inv(covariance) * scores, axis=1)) / 6

    assert chi2(stated) == pytest.approx(1, abs=0.13)
    assert abs(chi2(np.mean([d.matrix for d in data], axis=0)) - 1) > 0.15
    np.testing.assert_allclose(correlation(np.cov(scores.T)), correlation(stated), atol=0.25)
    found = [multipoles(d) for d in data[:100]]
    assert np.mean([(f.values / f.error) ** 2 for f in found]) == pytest.approx(1, abs=0.25)
    spectra = [power_spectrum(d, signal=np.zeros(2)) for d in data]
    ratio = check_spectra(np.array([s.power for s in spectra]), 0, np.mean([s.error for s in spectra], axis=0))
    np.testing.assert_allclose(ratio, 1, atol=0.25)


def test_prior_and_weights_together():
    """The covariance about the truth for a score covariance that is not F: 4000 skies from the prior."""
    information = sky_information(ring_weighted(0), 2, rate_bins=12)
    prior, rng = np.array([1e-4, 3e-5]), np.random.default_rng(0)
    truth = rng.standard_normal((4000, 6)) * np.sqrt(prior[information.degree - 1])
    noise = rng.standard_normal((4000, 6)) @ np.linalg.cholesky(information.score_covariance).T
    found = multipoles(dataclasses.replace(information, score=truth @ information.matrix + noise), prior)
    miss = np.cov((found.values - truth).T)
    np.testing.assert_allclose(np.diag(miss) / np.diag(found.covariance), 1, atol=0.1)
    np.testing.assert_allclose(correlation(miss), correlation(found.covariance), atol=0.06)


def test_score_covariance_of_unit_weights_is_the_information():
    """Weights of one, given as weights: the same matrices; and twice the weight changes no result."""
    plain = combine([tilted("Auger", epoch_year=1990.0), tilted("HAWC", epoch_year=2050.0)])
    names = ("n_sky", "n_time", "n_local", "n_half")
    ones = plain.replace(w2={name: getattr(plain, name) for name in names})
    twice = plain.replace(
        **{name: 2 * getattr(plain, name) for name in names}, w2={name: 4 * getattr(plain, name) for name in names}
    )
    expected = sky_information(plain, 3, rate_bins=6)
    assert expected.weighted_covariance is None
    for counts in (ones, twice):
        found = sky_information(counts, 3, rate_bins=6)
        size = np.abs(expected.matrix).max()
        np.testing.assert_allclose(found.matrix, expected.matrix, rtol=1e-9, atol=1e-9 * size)
        np.testing.assert_allclose(found.score_covariance, expected.matrix, rtol=1e-9, atol=1e-9 * size)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-7)
        total = (found + expected).score_covariance
        np.testing.assert_allclose(total, 2 * expected.matrix, rtol=1e-9, atol=1e-9 * size)


def test_spectra_of_isotropy_and_default_fiducial():
    """Without a fiducial the shape is flat; significance is the estimate over its error under isotropy."""
    information = sky_information(simulated(("HAWC", "IceCube"), 3, 1e6, 0 * TRUE), 4)
    spectrum = power_spectrum(information)
    np.testing.assert_array_equal(spectrum.l, [1, 2, 3, 4])
    np.testing.assert_allclose(spectrum.window, np.eye(4), atol=1e-12)
    assert np.abs(spectrum.significance).max() < 6
    assert np.all(spectrum.noise_bias > 4 * np.pi / information.effective_events)
    flat = power_spectrum(information, bins=[(1, 2), (3, 4)])
    np.testing.assert_allclose(flat.window.sum(axis=1), 1)


def test_information_adds():
    one, two = (sky_information(even_counts(n), 2) for n in ("HAWC", "IceCube"))
    total = sky_information(both(), 2)
    np.testing.assert_allclose((one + two).matrix, total.matrix, rtol=1e-9, atol=1e-6)
    assert (one + two).effective_events == pytest.approx(total.effective_events)
    with pytest.raises(InputError, match="information to l = 2 and to l = 3 cannot be added"):
        one + sky_information(even_counts("HAWC"), 3)


def test_errors():
    counts = even_counts("IceCube")
    for l_max in (0, 9, True):
        with pytest.raises(InputError, match=f"l_max = {l_max} must be at least 1 and below half the 18"):
            sky_information(counts, l_max)
    names = ("num_events", "n_sky", "n_time", "n_local", "n_half")
    with pytest.raises(InputError, match="hold no event"):
        sky_information(counts.replace(**{name: 0 * getattr(counts, name) for name in names}), 2)
    information = sky_information(counts, 8)
    with pytest.raises(InputError, match="cannot be measured without a prior: the information is singular"):
        multipoles(information)
    with pytest.raises(InputError, match=r"error is .* times that of full coverage \(limit 10\)"):
        multipoles(sky_information(counts, 3), max_inflation=10)
    with pytest.raises(InputError, match="prior or fiducial C_l needs one finite value"):
        multipoles(information, np.ones(3))
    with pytest.raises(InputError, match="must be positive at every l"):
        multipoles(information, np.zeros(8))
    with pytest.raises(InputError, match="signal C_l needs one finite value"):
        power_spectrum(information, signal=-np.ones(8))
    with pytest.raises(InputError, match="cannot be told apart"):
        power_spectrum(sky_information(even_counts("IceCube", FINER), 17))
    with pytest.raises(InputError, match="bins of l must be pairs"):
        power_spectrum(information, bins=[(1, 9)])
