"""Whether fits of C_l hold the truth as often as they say, on full and cut skies, and find wrong theories out."""

import numpy as np
import pytest
from diffcr.inference.pseudo_power import cut_sky, grid_rings
from diffcr.inference.sampler import Plan
from diffcr.inference.spectrum_calibration import (
    cut_sky_spectra,
    draw_spectra,
    foretold,
    full_sky_spectrum,
    prior_truths,
    recover,
)
from diffcr.inference.spectrum_fit import Problem
from diffcr.inference.spectrum_likelihood import choose_kind
from diffcr.inference.spectrum_models import build_model

from diffcr.errors import InputError
from diffcr.grid import RingGrid

L_MAX = 12
NOISE = 1e-10
SHORT = Plan(chains=2, warmup=150, draws=250, target_accept=0.9, max_tree_depth=6)
TRUE = {"C_1": 5e-6, "depth": 0.3}


def test_intervals_hold_truths_drawn_from_the_priors_as_often_as_they_say():
    """Thirty full skies of as many cascades: coverage within four standard deviations, ranks uniform."""
    model = build_model("cascade", L_MAX, priors={"C_1": (1e-6, 1.0)})
    truths = prior_truths(model, 30, seed=3)
    data = full_sky_spectrum(model.power(TRUE)[0], NOISE)
    drawn = draw_spectra(data, "chi2", model, truths, 30, seed=4)
    found = recover(Problem(model, data, "chi2"), truths, drawn, SHORT)
    assert np.mean(found.r_hat < 1.1) > 0.9
    content = found.to_dict()
    for name in model.parameters:
        assert abs(content[name]["coverage_68"] - 0.68) < 4 * np.sqrt(0.68 * 0.32 / 30)
        assert content[name]["coverage_95"] > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 30)
        assert content[name]["uniform_p"] > 1e-3
    with pytest.raises(InputError, match="give each of them"):
        recover(Problem(model, data, "chi2"), {"C_1": 1.0}, drawn, SHORT)


@pytest.mark.slow
def test_a_wrong_model_is_found_out():
    """Skies side by side: of a flat power law, fitted by a cascade; of a cascade, fitted by a profile.

    A steep power law and a cascade differ by less than one sky's scatter: no test tells them apart at l of at most 20.
    """
    law, cascade, profile = (build_model(name, 20) for name in ("power-law", "cascade", "pitch-angle"))
    data = full_sky_spectrum(cascade.power(TRUE)[0], 1e-12)
    flat = draw_spectra(data, "chi2", law, {"C_2": 6e-7, "slope": 2.0}, 6, seed=7)
    bent = draw_spectra(data, "chi2", cascade, TRUE, 6, seed=6)
    of = {
        model.name: foretold(Problem(model, data, "chi2"), np.concatenate([flat, bent]), SHORT).sum(axis=1)
        for model in (law, cascade, profile)
    }
    assert np.mean(of["cascade"][:6] - of["power-law"][:6]) < -4 and np.all(of["cascade"][:6] < of["power-law"][:6])
    assert np.all(np.abs(of["cascade"][6:] - of["power-law"][6:]) < 6)
    # Even degrees of a profile have noise alone.
    assert np.all(of["pitch-angle"][6:] < of["cascade"][6:] - 1000)


def cut_and_noisy(l_max):
    """A field of view from declination -20 to 60 degrees, weighted with cos(dec - 20 deg), and white noise."""
    rings = grid_rings(RingGrid(36, 72), l_max)
    declination = np.radians(-90 + 180 * (np.arange(36) + 0.5) / 36)
    weight = np.where(np.abs(declination - 0.35) < 0.7, np.cos(declination - 0.35), 0.0)
    # In cells of equal angles: more noise towards the poles.
    variance = np.where(weight > 0, 1e-8 / np.maximum(np.cos(declination), 0.05), 0.0)
    return cut_sky(rings, weight, variance)


def test_simulated_cut_skies_have_the_mean_and_covariance_that_is_told():
    cut = cut_and_noisy(12)
    power = 1e-6 / np.arange(1, 13.0) ** 3
    bins = [(1, 2), (3, 4), (5, 7), (8, 12)]
    data, drawn = cut_sky_spectra(cut, power, bins, 4000, seed=1)
    assert data.correlated and data.lost_orders and data.low == (1, 3, 5, 8)
    total = np.sqrt(data.variance + data.sample_error**2)
    assert np.abs((drawn.mean(axis=0) - data.power) / total).max() < 4.5 / np.sqrt(4000)
    np.testing.assert_allclose(drawn.std(axis=0), total, rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(drawn.T), data.correlation, atol=0.1)


@pytest.mark.slow
def test_intervals_hold_the_truth_on_cut_skies_too():
    """A hundred Gaussian skies through a field of view, fitted by Hamimeche & Lewis."""
    cut = cut_and_noisy(16)
    model = build_model("power-law", 16, priors={"C_2": (1e-7, 2.0)})
    truth = {"C_2": 2e-7, "slope": 2.5}
    bins = [(1, 1), (2, 3), (4, 5), (6, 7), (8, 10), (11, 13), (14, 16)]
    data, drawn = cut_sky_spectra(cut, np.asarray(model.power(truth)[0]), bins, 100, seed=2)
    kept = np.all(drawn + data.noise > 0, axis=1)
    assert kept.mean() > 0.85
    used = data.only(range(1, 7))
    kind = choose_kind(used)[0]
    assert kind == "hamimeche-lewis"
    found = recover(Problem(model, used, kind), truth, drawn[kept, 1:], SHORT)
    content = found.to_dict()
    for name in model.parameters:
        assert abs(content[name]["coverage_68"] - 0.68) < 0.14
        assert content[name]["coverage_95"] > 0.87
        assert abs(content[name]["pull_mean"]) < 0.4
