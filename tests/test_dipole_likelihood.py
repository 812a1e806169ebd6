"""The likelihood of published dipoles against scipy, event Monte Carlo and its own simulations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.dipole_likelihood import (
    Nuisances,
    dipole_data,
    expected_dipoles,
    first_harmonics,
    log_likelihood,
    log_rice_cdf,
    no_nuisances,
    overlap_correlation,
    pointwise_log_likelihood,
    sample_nuisances,
    simulate_dipoles,
)
from diffcr.inference.dipole_table import read_dipoles
from scipy import stats
from scipy.special import sph_harm_y

from diffcr.errors import InputError
from diffcr.harmonics import dipole_to_coefficients

DEGREE = np.pi / 180
HEADER = (
    "experiment,sample,energy_TeV,amplitude_1e-3,amplitude_err_lo_1e-3,amplitude_err_hi_1e-3,phase_deg,phase_err_deg,"
    "upper_limit,definition,declination_min_deg,declination_max_deg,use\n"
)
ROWS = (
    "North,n,10,1.0,0.1,0.1,40,6,,ra_harmonic,-10,70,fit\n"
    "North,n,20,1.2,0.1,0.3,50,6,,ra_harmonic,-10,70,fit\n"
    "South,s,15,1.4,0.2,0.2,60,9,,projected,-90,-25,fit\n"
    "Whole,w,12,0.9,0.1,0.1,45,3,,3d,-90,64,fit\n"
    "North,n,5000,3.0,,,,,0.99,ra_harmonic,-10,70,fit\n"
    "South,s,3000,2.0,,,,,0.95,projected,-90,-25,fit\n"
    "South,s,7000,9.0,1,1,60,9,,projected,-90,-25,plot\n"
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("dipoles") / "dipoles.csv"
    path.write_text(HEADER + ROWS, encoding="utf-8")
    return read_dipoles(path)


@pytest.fixture(scope="module")
def data(table):
    return dipole_data(table)


@pytest.fixture(scope="module")
def joint(table):
    """The same with scatter that rows of North share."""
    return dipole_data(table, {"North": np.array([[1, 0.6, 0.3], [0.6, 1, 0.2], [0.3, 0.2, 1]])})


PREDICTION = np.random.default_rng(3).normal(size=(6, 16)) * 1e-3
WRONG = Nuisances(
    log_scale=jnp.array([0.1, -0.2, 0.05]),
    phase=jnp.array([0.2, -0.1, 0.3]),
    scatter=jnp.array([0.2e-3, 0.1e-3, 0.05e-3]),
)
log_likelihood_ = eqx.filter_jit(log_likelihood)
pointwise_ = eqx.filter_jit(pointwise_log_likelihood)
rice_ = jax.jit(log_rice_cdf)


def dipole_prediction(vector, rows=6):
    return np.tile(np.pad(np.asarray(dipole_to_coefficients(np.asarray(vector))), (0, 12)), (rows, 1))


# Definitions --------------------------------------------------------------------------------------------


def test_a_pure_dipole_is_seen_as_each_definition_says(data):
    """(0.8, -0.5, 0.3)e-3: its equatorial part, times <cos dec> of -10 to 70 degrees (0.84820) for a harmonic."""
    seen = first_harmonics(data, dipole_prediction([0.8e-3, -0.5e-3, 0.3e-3]))
    equatorial = np.array([0.8e-3, -0.5e-3])
    np.testing.assert_allclose(seen[:2] / equatorial, 0.84820, rtol=1e-5)
    np.testing.assert_allclose(seen[2:4] / equatorial, 1, rtol=1e-12)


def test_higher_multipoles_leak_in_as_events_say(data):
    """Events drawn from a sky with multipoles up to l = 3 inside each window (weighted by scipy's harmonics): twice the
    mean of (cos RA, sin RA), for "projected" over the mean cos dec. The dipole of the whole sky has no leak."""
    rng = np.random.default_rng(4)
    sky = rng.normal(size=16) * 0.05
    seen = np.asarray(first_harmonics(data, np.tile(sky, (6, 1))))
    for row, (low, high), projected in [(0, (-10, 70), False), (2, (-90, -25), True)]:
        sine = rng.uniform(np.sin(low * DEGREE), np.sin(high * DEGREE), 400_000)
        ra = rng.uniform(0, 2 * np.pi, 400_000)
        intensity = 1 + _field(sky, sine, ra)
        # As many events on the opposite side of right ascension: even terms in it cancel, and with them most noise.
        other = 1 + _field(sky, sine, ra + np.pi)
        mean = np.array([np.mean((intensity - other) * f(ra)) for f in (np.cos, np.sin)])
        mean /= np.mean((intensity + other) / 2) / (1 / np.mean(np.sqrt(1 - sine**2)) if projected else 1)
        level = np.mean((intensity + other) / 2)
        np.testing.assert_allclose(seen[row], mean * level, atol=6e-4)
    np.testing.assert_allclose(seen[3], sky[[3, 1]] * np.sqrt(3 / (4 * np.pi)), rtol=1e-12)
    np.testing.assert_array_less(0.01, np.hypot(*(seen[0] - seen[2])))


def _field(sky, sine, ra):
    """sum of s_lm R_lm by scipy: R_lm without the Condon-Shortley phase, monopole left out."""
    polar, total = np.arccos(sine), 0.0
    for l in (1, 2, 3):
        for m in range(l + 1):
            value = (-1) ** m * sph_harm_y(l, m, polar, ra) * (np.sqrt(2) if m else 1)
            total = total + sky[l * l + l + m] * value.real
            if m:
                total = total + sky[l * l + l - m] * value.imag
    return total


def test_the_scale_multiplies_and_the_phase_turns_eastwards(data):
    """A dipole at right ascension 40 degrees, scale e^0.1 and a phase of 15 degrees: 55 degrees, longer by 10.5 %.
    Only the experiment concerned."""
    sky = dipole_prediction([np.cos(40 * DEGREE) * 1e-3, np.sin(40 * DEGREE) * 1e-3, 0.0])
    nuisances = eqx.tree_at(
        lambda n: (n.log_scale, n.phase),
        no_nuisances(data),
        (jnp.array([0.0, 0.1, 0.0]), jnp.array([0.0, 15 * DEGREE, 0.0])),
    )
    plain, turned = (np.asarray(expected_dipoles(data, sky, each)) for each in (no_nuisances(data), nuisances))
    assert data.experiments == ("North", "South", "Whole")
    for row in (2, 5):
        np.testing.assert_allclose(np.arctan2(turned[row, 1], turned[row, 0]), 55 * DEGREE)
        np.testing.assert_allclose(np.hypot(*turned[row]), 1e-3 * np.exp(0.1))
    np.testing.assert_allclose(turned[[0, 1, 3, 4]], plain[[0, 1, 3, 4]])


# Gaussian rows and limits -------------------------------------------------------------------------------


@pytest.mark.parametrize("nuisances", [None, WRONG])
def test_measured_rows_are_normal_in_their_components(data, nuisances):
    """Covariance from amplitude and phase errors by hand: radial 0.1e-3, across 1.0e-3 * 6 degrees."""
    nuisances = no_nuisances(data) if nuisances is None else nuisances
    got = pointwise_(data, PREDICTION, nuisances)
    mean = np.asarray(expected_dipoles(data, PREDICTION, nuisances))
    errors = [(1.0, 40, 0.1, 6), (1.2, 50, 0.2, 6), (1.4, 60, 0.2, 9), (0.9, 45, 0.1, 3)]
    for row, (amplitude, phase, radial, angle) in enumerate(errors):
        turn = np.array(
            [[np.cos(phase * DEGREE), -np.sin(phase * DEGREE)], [np.sin(phase * DEGREE), np.cos(phase * DEGREE)]]
        )
        own = turn @ np.diag([radial**2, (amplitude * angle * DEGREE) ** 2]) @ turn.T * 1e-6
        scatter = float(nuisances.scatter[int(data.group[row])])
        want = stats.multivariate_normal(mean[row], own + scatter**2 * np.eye(2)).logpdf(amplitude * 1e-3 * turn[:, 0])
        np.testing.assert_allclose(got[row], want, rtol=1e-9)
    np.testing.assert_allclose(log_likelihood_(data, PREDICTION, nuisances), np.sum(got), rtol=1e-12)


def test_a_limit_is_the_probability_that_a_vector_is_shorter(data):
    """Rice's distribution by scipy, with sigma = L / sqrt(-2 ln(1 - CL)) and the scatter added in quadrature; without
    a dipole and without scatter the probability is the confidence level itself."""
    quiet = pointwise_(data, np.zeros((6, 16)), no_nuisances(data))
    np.testing.assert_allclose(np.exp(quiet[4:]), [0.99, 0.95], rtol=1e-12)
    got = pointwise_(data, PREDICTION, WRONG)
    mean = np.asarray(expected_dipoles(data, PREDICTION, WRONG))
    for row, limit, level, scatter in [(4, 3e-3, 0.99, 0.2e-3), (5, 2e-3, 0.95, 0.1e-3)]:
        sigma = np.hypot(limit / np.sqrt(-2 * np.log(1 - level)), scatter)
        np.testing.assert_allclose(got[row], stats.rice(np.hypot(*mean[row]) / sigma).logcdf(limit / sigma), rtol=1e-9)


@pytest.mark.parametrize("reach", [0.01, 0.5, 1.0, 3.035, 6.0, 20.0])
def test_the_logarithm_of_rices_distribution_is_scipys_wherever_that_is_good(reach):
    length = np.array([0.0, 1e-4, 0.3, 0.999, 1.0, 2.0, 3.0, 3.04, 5.0, 8.0, 12.0])
    mean = np.stack([0.6 * length, -0.8 * length], axis=-1)
    got = rice_(np.full(11, reach), mean, np.ones(11))
    want = stats.rice(length).logcdf(reach)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


def test_far_beyond_a_limit_the_probability_is_that_of_the_near_edge():
    """|m| >> L: log P -> -(n - L)^2 / 2 + log(sqrt(L / n) / (sqrt(2 pi) (n - L))), Laplace's method at the edge, where
    the distribution itself is far below the smallest number."""
    limit, n = 3.0, np.array([100.0, 1e3, 1e4])
    got = rice_(np.full(3, limit), np.stack([n, 0 * n], -1), np.ones(3))
    want = -((n - limit) ** 2) / 2 + np.log(np.sqrt(limit / n) / (np.sqrt(2 * np.pi) * (n - limit)))
    np.testing.assert_allclose(got - want, 0, atol=0.01)
    gradient = jax.vmap(jax.grad(lambda m: log_rice_cdf(jnp.array(limit), m, jnp.array(1.0))))(
        jnp.stack([n, 0 * n], -1)
    )
    np.testing.assert_allclose(gradient[:, 0], -(n - limit), rtol=1e-3)
    np.testing.assert_allclose(gradient[:, 1], 0, atol=1e-9)


# Correlated scatter -------------------------------------------------------------------------------------


def test_rows_that_scatter_together_are_one_normal_vector(joint, data):
    """Against scipy with the whole covariance written out. The limit of North stays alone."""
    mean = np.asarray(expected_dipoles(joint, PREDICTION, WRONG))
    value, covariance = np.asarray(joint.value)[:4], np.zeros((8, 8))
    for row in range(4):
        scatter = float(WRONG.scatter[int(joint.group[row])])
        covariance[2 * row : 2 * row + 2, 2 * row : 2 * row + 2] = joint.covariance[row] + scatter**2 * np.eye(2)
    covariance[:2, 2:4] = covariance[2:4, :2] = 0.6 * 0.2e-3**2 * np.eye(2)
    whole = stats.multivariate_normal(mean[:4].ravel(), covariance)
    limits = pointwise_(data, PREDICTION, WRONG)[4:]
    want = whole.logpdf(value.ravel()) + np.sum(limits)
    np.testing.assert_allclose(log_likelihood_(joint, PREDICTION, WRONG), want, rtol=1e-10)
    # Leave one out: the whole over the others.
    got = pointwise_(joint, PREDICTION, WRONG)
    for row in range(4):
        keep = np.delete(np.arange(8), [2 * row, 2 * row + 1])
        others = stats.multivariate_normal(mean[:4].ravel()[keep], covariance[np.ix_(keep, keep)])
        np.testing.assert_allclose(
            got[row], whole.logpdf(value.ravel()) - others.logpdf(value.ravel()[keep]), rtol=1e-8
        )
    np.testing.assert_allclose(got[4:], limits, rtol=1e-12)


def test_without_scatter_a_correlation_changes_nothing(joint, data):
    got = log_likelihood_(joint, PREDICTION, no_nuisances(joint))
    np.testing.assert_allclose(got, log_likelihood_(data, PREDICTION, no_nuisances(data)), rtol=1e-10)


def test_the_overlap_of_two_energy_distributions_is_their_bhattacharyya_coefficient():
    """By quadrature; and it is a correlation matrix, which fits into the likelihood."""
    x = np.linspace(-10, 14, 20_001)
    p, q = stats.norm(0, 0.8).pdf(x), stats.norm(np.log(5), 0.8).pdf(x)
    matrix = overlap_correlation(np.array([1.0, 5.0, 5.0]), 0.8)
    np.testing.assert_allclose(matrix[0, 1], np.trapezoid(np.sqrt(p * q), x), rtol=1e-9)
    np.testing.assert_allclose([matrix[0, 0], matrix[1, 2]], 1)
    assert np.linalg.eigvalsh(overlap_correlation(np.geomspace(1, 100, 9), 1.0))[0] > -1e-12


# Gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlated", [False, True])
def test_gradients_are_those_of_finite_differences(data, joint, correlated):
    """In prediction and nuisances together, along random directions; relative intensities in units of 1e-3. Finite as
    well for an isotropic sky without scatter, where the length of the vector has no derivative."""
    which = joint if correlated else data

    @jax.jit
    def value(x):
        nuisances = Nuisances(log_scale=x[96:99], phase=x[99:102], scatter=x[102:105] * 1e-3)
        return log_likelihood(which, x[:96].reshape(6, 16) * 1e-3, nuisances)

    start = jnp.concatenate([PREDICTION.ravel() * 1e3, WRONG.log_scale, WRONG.phase, WRONG.scatter * 1e3])
    gradient_of = jax.jit(jax.grad(value))
    gradient = gradient_of(start)
    rng = np.random.default_rng(5)
    for _ in range(5):
        direction = rng.normal(size=105)
        slope = (value(start + 1e-5 * direction) - value(start - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6)
    # Every field takes part.
    assert np.all(np.asarray(gradient[96:]) != 0)
    assert np.all(np.isfinite(gradient_of(jnp.zeros(105))))


# Simulation ---------------------------------------------------------------------------------------------


def test_simulated_rows_have_the_means_and_covariances_of_the_likelihood(joint):
    """Limits stay limits with the probability that the likelihood gives them, else become the vector that was seen."""
    rng = np.random.default_rng(6)
    drawn = [simulate_dipoles(rng, joint, PREDICTION, WRONG) for _ in range(1000)]
    mean = np.asarray(expected_dipoles(joint, PREDICTION, WRONG))
    value = np.stack([each.value for each in drawn])
    sigma = np.sqrt(
        np.asarray(joint.covariance[:, [0, 1], [0, 1]]) + np.asarray(WRONG.scatter)[joint.group][:, None] ** 2
    )
    np.testing.assert_allclose((value.mean(axis=0) - mean)[:4] / sigma[:4], 0, atol=4 / np.sqrt(1000))
    np.testing.assert_allclose(value.std(axis=0)[:4] / sigma[:4], 1, atol=0.1)
    shared = np.cov(value[:, 0, 0], value[:, 1, 0])[0, 1]
    np.testing.assert_allclose(shared, 0.6 * 0.2e-3**2, rtol=0.4)
    kept = np.mean([each.is_limit for each in drawn], axis=0)
    below = np.exp(pointwise_(joint, PREDICTION, WRONG)[4:])
    np.testing.assert_allclose(kept[4:], below, atol=4 * 0.5 / np.sqrt(1000))
    assert np.all(kept[:4] == 0)
    assert all(
        np.hypot(*each.value[row]) > each.limit[row] for each in drawn for row in (4, 5) if not each.is_limit[row]
    )


def test_the_score_of_simulated_tables_is_zero_on_average(data):
    """At the truth E[d log L / d theta] = 0 for a likelihood that is a probability: a limit counted with a wrong error,
    or a simulation that leaves out what was above its limit, is off by many standard errors. The sky is strong enough
    that limits are exceeded about half of the time."""
    truth = dipole_prediction([2.0e-3, 1.5e-3, 0.0])

    def value(x, which):
        nuisances = Nuisances(log_scale=x[:3], phase=x[3:6], scatter=x[6:] * 1e-3)
        return log_likelihood(which, truth, nuisances)

    start = jnp.concatenate([WRONG.log_scale, WRONG.phase, WRONG.scatter * 1e3])
    rng = np.random.default_rng(7)
    drawn = [simulate_dipoles(rng, data, truth, WRONG) for _ in range(400)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    scores = np.asarray(jax.jit(jax.vmap(jax.grad(value), (None, 0)))(start, stacked))
    pull = scores.mean(axis=0) / (scores.std(axis=0) / np.sqrt(len(scores)))
    assert np.abs(pull).max() < 4
    exceeded = 1 - np.mean(stacked.is_limit[:, 4:], axis=0)
    assert np.all((exceeded > 0.1) & (exceeded < 0.9))


def test_nuisances_are_sampled_around_nothing_wrong(data):
    """Drawn from the model: log scales and phases about 0 with half-normal spreads, E[z^2] = width^2; scatters in units
    of each experiment's amplitude. The spread is common: all experiments are large together."""
    import numpyro

    def draw(key):
        with numpyro.handlers.seed(rng_seed=key):
            return sample_nuisances(data, scale=0.2, phase=0.1, scatter=0.3)

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(8), 20_000))
    assert drawn.phase.shape == (20_000, 3)
    np.testing.assert_allclose(drawn.log_scale.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(drawn.log_scale.std(axis=0), 0.2, rtol=0.05)
    np.testing.assert_allclose(drawn.phase.std(axis=0), 0.1, rtol=0.05)
    squares = np.asarray(drawn.phase) ** 2
    assert np.corrcoef(squares.T)[0, 1] > 0.1
    ratio = np.asarray(drawn.scatter / data.size)
    np.testing.assert_allclose(np.median(ratio, axis=0), 0.3 * stats.halfnorm.median() * np.ones(3), rtol=0.15)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        sample_nuisances(data)
    assert {"log_scale", "phase_offset", "scatter", "log_scale_spread", "phase_unit"} <= set(trace)


# What is refused ----------------------------------------------------------------------------------------


def test_rows_to_be_drawn_only_do_not_enter(data):
    assert len(data.energy) == 6
    assert 7000 not in data.energy


def test_what_cannot_be_fitted_is_refused(write, table):
    with pytest.raises(InputError, match="no row with use = fit"):
        dipole_data(read_dipoles(write(HEADER + ROWS.replace(",fit", ",plot"))))
    with pytest.raises(InputError, match="no experiment 'Nort'; did you mean 'North'"):
        dipole_data(table, {"Nort": np.eye(3)})
    with pytest.raises(InputError, match=r"'North' must have the shape \(3, 3\), not \(2, 2\)"):
        dipole_data(table, {"North": np.eye(2)})
    skew = np.array([[1, 0.5, 0], [0.4, 1, 0], [0, 0, 1.0]])
    wide = np.array([[1, 2.0, 0], [2.0, 1, 0], [0, 0, 1]])
    for matrix in (2 * np.eye(3), skew, wide, np.full((3, 3), np.nan)):
        with pytest.raises(InputError, match="'North' is no correlation matrix"):
            dipole_data(table, {"North": matrix})
