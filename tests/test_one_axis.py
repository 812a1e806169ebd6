"""One axis through the dipoles of several energies, with the observer's motion."""

import dataclasses

import numpy as np
import pytest
from diffcr.inference.one_axis import (
    Motion,
    Systematics,
    compare_axes,
    fit_one_axis,
    flip_energy,
    named_motion,
    projected_strength,
    separation,
)
from scipy.stats import chi2, kstest, multivariate_normal

from diffcr.errors import InputError

ENERGY = np.array([13.0, 24.0, 42.0, 67.0, 130.0])
STRENGTH = np.array([1.5, 1.2, 0.9, 0.4, -0.5]) * 1e-3
AXIS = np.radians(57.0)
SPEED = np.array([-1e-5, -5e-5])
"""Velocity [c], 15 km/s."""
FACTOR = 4.7
KNOWN = Motion(SPEED, np.zeros(2))
FLAT = Motion(SPEED, np.full(2, np.inf))


def covariances(seed=0, size=3e-5):
    """Of each dipole, ellipses in all directions."""
    rng = np.random.default_rng(seed)
    root = size * (np.eye(2) + 0.4 * rng.standard_normal((len(ENERGY), 2, 2)))
    return root @ np.swapaxes(root, 1, 2)


COVARIANCE = covariances()


def truth(axis=AXIS, velocity=SPEED, strength=STRENGTH):
    return np.outer(strength, [np.cos(axis), np.sin(axis)]) + FACTOR * np.asarray(velocity)


def drawn(rng, mean):
    return mean + np.einsum("iab,ib->ia", np.linalg.cholesky(COVARIANCE), rng.standard_normal(mean.shape))


def turned(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def normal_equations(fit, dipole, motion, scale):
    """Strengths and velocity at each axis from the joint normal equations, then mixed by their evidence."""
    rows = len(dipole)
    noise = np.zeros((2 * rows, 2 * rows))
    for i in range(rows):
        noise[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = COVARIANCE[i]
    evidence, mean, covariance = [], [], []
    for axis in fit.axis:
        design = np.zeros((2 * rows, rows + 2))
        for i in range(rows):
            design[2 * i : 2 * i + 2, i] = np.cos(axis), np.sin(axis)
            design[2 * i : 2 * i + 2, rows:] = FACTOR * np.eye(2)
        prior_mean = np.concatenate([np.zeros(rows), motion.velocity])
        prior = np.diag(np.concatenate([np.full(rows, scale**2), motion.spread**2]))
        total = noise + design @ prior @ design.T
        evidence.append(multivariate_normal(design @ prior_mean, total).logpdf(dipole.ravel()))
        gain = prior @ design.T @ np.linalg.inv(total)
        across = fit.best_axis + np.pi / 2
        sign = -1.0 if abs(axis - fit.best_axis) > np.pi / 2 else 1.0
        view = np.zeros((rows + 1, rows + 2))
        view[:rows, :rows] = sign * np.eye(rows)
        view[rows, rows:] = sign * np.array([-np.sin(axis), np.cos(axis)])
        assert sign * np.cos(axis + np.pi / 2 - across) > -1e-9
        mean.append(view @ (prior_mean + gain @ (dipole.ravel() - design @ prior_mean)))
        covariance.append(view @ (prior - gain @ design @ prior) @ view.T)
    weight = np.exp(np.array(evidence) - np.max(evidence))
    weight /= weight.sum()
    middle = weight @ np.array(mean)
    apart = np.array(mean) - middle
    spread = np.einsum("g,gij->ij", weight, np.array(covariance)) + np.einsum("g,gi,gj->ij", weight, apart, apart)
    return np.array(evidence), middle, spread


@pytest.mark.parametrize("spread", [(0.0, 0.0), (3e-5, 1e-5)], ids=["known", "free"])
def test_posterior_is_that_of_the_joint_normal_equations(spread):
    """With normal priors all is one normal distribution for each axis, formed here with dense matrices."""
    dipole = drawn(np.random.default_rng(1), truth())
    motion = Motion(SPEED, np.array(spread))

    fit = fit_one_axis(ENERGY, dipole, COVARIANCE, motion, strength_scale=8e-4, points=600)

    evidence, mean, covariance = normal_equations(fit, dipole, motion, 8e-4)
    expected = np.exp(evidence - evidence.max())
    np.testing.assert_allclose(fit.probability, expected / expected.sum(), atol=1e-12)
    np.testing.assert_allclose(fit.log_evidence, np.logaddexp.reduce(evidence) - np.log(600), rtol=1e-9)
    np.testing.assert_allclose(fit.strength, mean[:-1], rtol=1e-9)
    np.testing.assert_allclose(fit.strength_covariance, covariance[:-1, :-1], rtol=1e-6, atol=1e-16)
    np.testing.assert_allclose(fit.perpendicular, mean[-1], rtol=1e-9)
    np.testing.assert_allclose(fit.perpendicular_error, np.sqrt(covariance[-1, -1]), rtol=1e-5)


def test_posterior_of_flat_strengths_is_their_brute_force_integral():
    """Two dipoles, known motion: the likelihood summed over a grid of both strengths, for every axis."""
    energy, dipole = ENERGY[:2], truth()[:2] + 1e-5
    fit = fit_one_axis(energy, dipole, 9 * COVARIANCE[:2], KNOWN, points=180)

    step = 1e-5
    s = np.arange(-3e-3, 3e-3, step)
    total = []
    for axis in fit.axis:
        points = s[:, None] * np.array([np.cos(axis), np.sin(axis)]) + FACTOR * SPEED
        each = [multivariate_normal(dipole[i], 9 * COVARIANCE[i]).pdf(points).sum() * step for i in range(2)]
        total.append(each[0] * each[1])

    np.testing.assert_allclose(fit.probability, np.array(total) / np.sum(total), atol=1e-9)
    np.testing.assert_allclose(fit.log_evidence, np.log(np.mean(total)), rtol=1e-8)


def test_flat_priors_are_the_limit_of_wide_ones():
    dipole = drawn(np.random.default_rng(2), truth())
    wide = fit_one_axis(ENERGY, dipole, COVARIANCE, Motion(SPEED, np.full(2, 1e-2)), points=1200)
    flat = fit_one_axis(ENERGY, dipole, COVARIANCE, FLAT, points=1200)
    loose = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, strength_scale=10.0, points=1200)
    free = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, points=1200)

    for one, other in ((wide, flat), (loose, free)):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
        np.testing.assert_allclose(one.chi2, other.chi2, rtol=1e-4)
        np.testing.assert_allclose(one.perpendicular, other.perpendicular, rtol=1e-4)
        np.testing.assert_allclose(one.strength, other.strength, rtol=1e-3)
    # A flat prior takes a degree of freedom; along the axis it is pinned, or strengths would have no error at all.
    assert flat.degrees_of_freedom == 3 and wide.degrees_of_freedom == 4
    assert np.all(np.diag(flat.strength_covariance) < 1e-3 * np.diag(wide.strength_covariance))


@pytest.mark.parametrize("kind", ["known", "normal", "flat"])
def test_errors_cover_and_p_values_are_even(kind):
    """Two hundred skies: pulls of axis, strengths and velocity are standard normal, p-values uniform."""
    rng = np.random.default_rng({"known": 3, "normal": 4, "flat": 5}[kind])
    spread = {"known": 0.0, "normal": 2e-5, "flat": np.inf}[kind]
    motion = Motion(SPEED, np.full(2, spread))
    pulls, p = [], []
    for _ in range(200):
        velocity = SPEED + (2e-5 if kind == "normal" else 0.0) * rng.standard_normal(2)
        if kind == "flat":
            velocity = SPEED + 5e-5 * np.array([-np.sin(AXIS), np.cos(AXIS)])
        fit = fit_one_axis(ENERGY, drawn(rng, truth(velocity=velocity)), COVARIANCE, motion, points=600)
        strength = (fit.strength - STRENGTH) / np.sqrt(np.diag(fit.strength_covariance))
        across = velocity @ [-np.sin(AXIS), np.cos(AXIS)]
        moved = 0.0 if kind == "known" else (fit.perpendicular - across) / fit.perpendicular_error
        pulls.append([separation(fit.mean_axis, AXIS) / fit.error, *strength, moved])
        p.append(fit.p_value)
    pulls = np.array(pulls)[:, : -1 if kind == "known" else None]

    # 200 draws: a mean to 0.07, a width to 0.05, a coverage to 0.033; some six numbers are looked at.
    assert np.abs(pulls.mean(axis=0)).max() < 0.25
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.18
    assert np.abs((np.abs(pulls) < 1).mean(axis=0) - 0.683).max() < 0.11
    assert kstest(p, "uniform").pvalue > 0.005


def test_two_axes_are_rejected():
    """Dipoles of low energies on one axis, of high energies on another, twenty degrees away."""
    axis = AXIS + np.radians(20) * (np.arange(5) > 2)
    mean = STRENGTH[:, None] * np.stack([np.cos(axis), np.sin(axis)], 1) + FACTOR * SPEED
    p = [
        fit_one_axis(ENERGY, drawn(np.random.default_rng(k), mean), COVARIANCE, KNOWN, points=600).p_value
        for k in range(20)
    ]

    assert max(p) < 1e-3


def test_a_motion_that_is_left_out_is_no_axis():
    """Dipoles on an axis through the end of the motion's dipole are on none through the origin."""
    still = Motion(np.zeros(2), np.zeros(2))
    dipole = truth(strength=5 * STRENGTH)

    assert fit_one_axis(ENERGY, dipole, COVARIANCE, still, points=6000).p_value < 1e-5
    np.testing.assert_allclose(fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, points=6000).chi2, 0, atol=1e-4)


def test_turning_everything_turns_the_axis():
    dipole, angle = drawn(np.random.default_rng(6), truth()), np.radians(160)
    rotation = turned(angle)
    motion = Motion(SPEED, np.full(2, 2e-5))
    fit = fit_one_axis(ENERGY, dipole, COVARIANCE, motion)
    other = fit_one_axis(
        ENERGY, dipole @ rotation.T, rotation @ COVARIANCE @ rotation.T, Motion(rotation @ SPEED, motion.spread)
    )

    np.testing.assert_allclose(separation(other.best_axis, fit.best_axis + angle), 0, atol=1e-9)
    np.testing.assert_allclose(separation(other.mean_axis, fit.mean_axis + angle), 0, atol=1e-9)
    np.testing.assert_allclose([other.chi2, other.error], [fit.chi2, fit.error], rtol=1e-9)
    # 57 + 160 = 217 degrees is the other end of the axis at 37.
    np.testing.assert_allclose(other.strength, -fit.strength, rtol=1e-9)
    np.testing.assert_allclose(other.perpendicular, -fit.perpendicular, rtol=1e-9)


def test_motion_along_the_axis_changes_only_the_strengths():
    """By (2 + Gamma) times the velocity, all alike; the axis, chi2 and the motion across it do not notice."""
    dipole, towards = truth(), np.array([np.cos(AXIS), np.sin(AXIS)])
    fit = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN)
    other = fit_one_axis(ENERGY, dipole, COVARIANCE, Motion(SPEED + 1e-4 * towards, np.zeros(2)))

    np.testing.assert_allclose(other.best_axis, fit.best_axis, atol=1e-6)
    np.testing.assert_allclose([fit.chi2, other.chi2], 0, atol=1e-3)
    expected = projected_strength(dipole, COVARIANCE, AXIS, KNOWN)[0] - FACTOR * 1e-4
    np.testing.assert_allclose(
        projected_strength(dipole, COVARIANCE, AXIS, Motion(SPEED + 1e-4 * towards, np.zeros(2)))[0], expected
    )
    # Averaged over the width of the posterior, cosines of small angles.
    np.testing.assert_allclose(other.strength, expected, rtol=5e-3, atol=2e-6)


def test_the_velocity_found_is_the_one_across_the_axis():
    """Its sign is towards right ascensions of a quarter turn more, and its density has its mean and width."""
    across = np.array([-np.sin(AXIS), np.cos(AXIS)])
    dipole = truth(velocity=SPEED + 8e-5 * across)
    fit = fit_one_axis(ENERGY, dipole, COVARIANCE, FLAT)

    np.testing.assert_allclose(fit.perpendicular, SPEED @ across + 8e-5, atol=0.1 * fit.perpendicular_error)
    grid = fit.perpendicular + np.linspace(-8, 8, 801) * fit.perpendicular_error
    density, step = fit.perpendicular_density(grid), grid[1] - grid[0]
    np.testing.assert_allclose(density.sum() * step, 1, rtol=1e-4)
    np.testing.assert_allclose(density @ grid * step, fit.perpendicular, rtol=1e-4)
    np.testing.assert_allclose(
        np.sqrt(density @ (grid - fit.perpendicular) ** 2 * step), fit.perpendicular_error, rtol=1e-3
    )


# Experiments ----------------------------------------------------------------------------------------------


def test_a_common_phase_error_does_not_fake_a_second_axis():
    """Two experiments turned by ten degrees either way: p-values are even with the phase error, tiny without."""
    rng = np.random.default_rng(8)
    group, width = np.array([0, 0, 0, 1, 1]), np.radians(10)
    strength = np.array([1.5, 1.2, 0.9, 1.3, 0.8]) * 1e-3
    naive, p, pulls = [], [], []
    for _ in range(150):
        mean = truth(strength=strength)
        for each in range(2):
            mean[group == each] = mean[group == each] @ turned(width * rng.standard_normal()).T
        dipole = drawn(rng, mean)
        fit = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, Systematics(group, phase=width), points=1200)
        pulls.append(separation(fit.mean_axis, AXIS) / fit.error)
        p.append(fit.p_value)
        naive.append(fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, points=1200).p_value)

    assert np.median(naive) < 1e-4
    assert kstest(p, "uniform").pvalue > 0.005
    assert abs(np.std(pulls) - 1) < 0.2


def test_a_phase_error_without_motion_turns_the_axis_and_nothing_else():
    """Without motion, turning all dipoles of one experiment is turning the axis: chi2 stays, the errors add up."""
    rng = np.random.default_rng(9)
    still = Motion(np.zeros(2), np.zeros(2))
    dipole = drawn(rng, truth(velocity=np.zeros(2)))
    plain = fit_one_axis(ENERGY, dipole, COVARIANCE, still)
    wide = fit_one_axis(ENERGY, dipole, COVARIANCE, still, Systematics(phase=np.radians(5)))

    np.testing.assert_allclose(wide.chi2, plain.chi2, rtol=0.01)
    np.testing.assert_allclose(wide.error, np.hypot(plain.error, np.radians(5)), rtol=0.05)


def test_scale_acts_on_the_motion_and_scatter_on_each_row():
    """A scale multiplies the motion's dipole as well; for a known motion across the axis it is an error of that.
    Scatter of independent rows is as if their covariances were larger."""
    dipole = drawn(np.random.default_rng(10), truth())
    scatter = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, Systematics(scatter=2e-5))
    larger = fit_one_axis(ENERGY, dipole, COVARIANCE + 4e-10 * np.eye(2), KNOWN)
    np.testing.assert_allclose(scatter.probability, larger.probability, atol=1e-12)

    # At the true axis: an error of the motion across it by the same factor, for a motion that is nothing but that.
    across = 8e-5 * np.array([-np.sin(AXIS), np.cos(AXIS)])
    dipole = truth(velocity=across)
    scaled = fit_one_axis(ENERGY, dipole, COVARIANCE, Motion(across, np.zeros(2)), Systematics(scale=0.3), points=1800)
    free = fit_one_axis(ENERGY, dipole, COVARIANCE, Motion(across, np.full(2, 0.3 * 8e-5)), points=1800)
    np.testing.assert_allclose(scaled.probability, free.probability, atol=2e-3 * free.probability.max())


# Flips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("motion", "expected"), [("none", 176), ("lsr", 253), ("ism", 335)])
def test_frame_moves_the_flip_of_icecube(motion, expected):
    """Three points on either side of the flip, along right ascension 48.5 degrees."""
    phase, amplitude = np.radians([18.0, 289, 274]), np.array([0.204, 0.36, 0.72]) * 1e-3
    dipole = amplitude[:, None] * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    strength, covariance = projected_strength(dipole, COVARIANCE[:3], np.radians(48.5), named_motion(motion))

    flip = flip_energy(np.array([130.0, 240.0, 470.0]), strength, covariance)

    assert abs(flip.energy - expected) < 0.5
    assert flip.changes == 1


def test_flip_is_where_the_line_crosses_and_its_error_that_of_draws():
    energy, order = np.array([10.0, 100, 1000]), np.array([2, 0, 1])
    strength, covariance = np.array([1.0, 0.5, -1.5]), np.diag([0.01, 0.02, 0.03]) * 0.1 + 1e-4
    flip = flip_energy(energy[order], strength[order], covariance[np.ix_(order, order)])

    np.testing.assert_allclose(flip.energy, 100 * 10**0.25)
    draws = np.random.default_rng(11).multivariate_normal(strength, covariance, 20000)
    place = np.log(100) + np.log(10) * draws[:, 1] / (draws[:, 1] - draws[:, 2])
    np.testing.assert_allclose(flip.log_error, place.std(), rtol=0.04)


def test_there_may_be_no_flip_or_several():
    none = flip_energy(ENERGY, np.abs(STRENGTH), np.eye(5))
    assert np.isnan(none.energy) and none.changes == 0
    assert flip_energy(ENERGY, np.array([1.0, -1, 1, -1, -1]), np.eye(5)).changes == 3
    fit = fit_one_axis(ENERGY, truth(), COVARIANCE, KNOWN)
    np.testing.assert_allclose(fit.flip().energy, 67 * (130 / 67) ** (4 / 9), rtol=5e-3)


# Other axes -----------------------------------------------------------------------------------------------


def test_chance_is_what_random_axes_do():
    """Two hundred thousand random axes against three given ones; and against as many random ones as were tried."""
    fit = fit_one_axis(ENERGY, truth(), COVARIANCE, KNOWN)
    references = np.radians([48.5, 237.9, 70.0])
    found = compare_axes(fit, references, tried=7)

    rng = np.random.default_rng(12)
    random = rng.uniform(0, 2 * np.pi, 200_000)
    apart = np.abs(separation(random[:, None], references))
    closest = np.abs(separation(AXIS, references))
    np.testing.assert_allclose(np.degrees(found.separation), [8.5, -0.9, -13], atol=0.1)
    np.testing.assert_allclose(found.chance, (apart < closest).mean(axis=0), atol=0.003)
    np.testing.assert_allclose(found.any_chance, (apart.min(axis=1) < closest.min()).mean(), atol=0.003)
    tried = np.abs(separation(random[:, None], rng.uniform(0, 2 * np.pi, (200_000, 7)))).min(axis=1)
    np.testing.assert_allclose(found.tried_chance, (tried < closest.min()).mean(), atol=0.003)
    near = compare_axes(fit, fit.best_axis + fit.error * np.array([0.1, 2.0]))
    np.testing.assert_allclose(near.resolved, 2 / np.pi * fit.error * np.array([1, 2]))


def test_overlapping_references_are_not_counted_twice():
    """Given axes as far as their distance from each other hide one arc, not two."""
    fit = fit_one_axis(ENERGY, truth(), COVARIANCE, KNOWN)
    found = compare_axes(fit, fit.best_axis + np.radians([10.0, 14.0]))

    np.testing.assert_allclose(found.any_chance, 24 / 180)
    np.testing.assert_allclose(compare_axes(fit, [fit.best_axis + np.radians(100)]).any_chance, 160 / 180)


def test_both_ends_are_the_same_axis_and_sigma_is_the_number_of_errors():
    dipole = drawn(np.random.default_rng(13), truth(strength=4 * STRENGTH))
    fit = fit_one_axis(ENERGY, dipole, COVARIANCE, KNOWN, points=7200)
    found = compare_axes(fit, fit.mean_axis + np.array([0, np.pi]) + 3 * fit.error)

    np.testing.assert_allclose(found.sigma, 3, rtol=0.03)
    np.testing.assert_allclose(found.separation, -3 * fit.error, rtol=0.02)


def test_p_value_is_the_tail_of_chi2():
    fit = fit_one_axis(ENERGY, drawn(np.random.default_rng(14), truth()), COVARIANCE, KNOWN)
    np.testing.assert_allclose(fit.p_value, chi2.sf(fit.chi2, 4))
    exact = fit_one_axis(ENERGY[:2], truth()[:2], COVARIANCE[:2], FLAT)
    assert np.isnan(exact.p_value) and exact.degrees_of_freedom == 0


# Input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dipole": truth()[:1], "energy": ENERGY[:1], "covariance": COVARIANCE[:1]}, "two dipoles or more"),
        ({"energy": ENERGY[:3]}, "an energy and a covariance for each"),
        ({"dipole": np.full((5, 2), np.nan)}, "leave out limits"),
        ({"energy": -ENERGY}, "energies above zero"),
        ({"covariance": np.zeros((5, 2, 2))}, "positive definite"),
        ({"covariance": COVARIANCE + np.array([[0, 1e-10], [0, 0]])}, "symmetric"),
        ({"motion": Motion(SPEED, np.array([np.inf, 0.0]))}, "infinite in both"),
        ({"motion": Motion(SPEED, np.array([-1.0, 0.0]))}, "zero or more"),
        ({"strength_scale": 0.0}, "scale of the strengths"),
        ({"motion": FLAT, "strength_scale": 1.0}, "finite spread"),
        ({"covariance": COVARIANCE * 1e-6}, "give more points"),
        ({"systematics": Systematics(np.zeros(3, int))}, "name one for each"),
        ({"systematics": Systematics(phase=-0.1)}, "phase error of experiments"),
        ({"systematics": Systematics(scatter=np.nan)}, "scatter error of experiments"),
    ],
)
def test_bad_input_is_refused(change, match):
    good = {"energy": ENERGY, "dipole": truth(), "covariance": COVARIANCE, "motion": KNOWN}
    with pytest.raises(InputError, match=match):
        fit_one_axis(**good | change)


def test_comparisons_need_references_and_a_density_a_free_velocity():
    fit = fit_one_axis(ENERGY, truth(), COVARIANCE, KNOWN)
    with pytest.raises(InputError, match="one or more"):
        compare_axes(fit, [])
    with pytest.raises(InputError, match="no fewer as tried"):
        compare_axes(fit, [0.1, 0.2], tried=1)
    with pytest.raises(InputError, match="has no density"):
        fit.perpendicular_density(np.zeros(3))


def test_results_are_never_changed():
    fit = fit_one_axis(ENERGY, truth(), COVARIANCE, KNOWN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.chi2 = 0.0
