"""Whether fits of C_l hold the truth as often as they say, on full and cut skies, and find wrong theories out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.pseudo_power import _decoupling, cut_sky, grid_rings, pseudo_covariance
from diffcr.inference.sampler import Plan
from diffcr.inference.spectrum_calibration import (
    cut_sky_spectra,
    draw_spectra,
    foretold,
    full_sky_spectrum,
    prior_truths,
    recover,
)
from diffcr.inference.spectrum_files import read_spectrum
from diffcr.inference.spectrum_fit import Problem
from diffcr.inference.spectrum_likelihood import choose_kind, log_likelihood
from diffcr.inference.spectrum_models import build_model
from scipy import stats

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
    matrix = _decoupling(cut, bins, None)[2]
    total = matrix @ pseudo_covariance(cut, power) @ matrix.T
    scatter = np.sqrt(np.diag(total))
    assert data.correlated and data.lost_orders and data.low == (1, 3, 5, 8)
    assert np.abs((drawn.mean(axis=0) - data.power) / scatter).max() < 4.5 / np.sqrt(4000)
    np.testing.assert_allclose(drawn.std(axis=0), scatter, rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(drawn.T), total / np.outer(scatter, scatter), atol=0.1)


@pytest.mark.slow
def test_intervals_hold_the_truth_on_cut_skies_too():
    """A hundred Gaussian skies through a field of view, over-subtracted ones too, fitted by Hamimeche & Lewis."""
    cut = cut_and_noisy(16)
    model = build_model("power-law", 16, priors={"C_2": (1e-7, 2.0)})
    truth = {"C_2": 2e-7, "slope": 2.5}
    bins = [(1, 1), (2, 3), (4, 5), (6, 7), (8, 10), (11, 13), (14, 16)]
    data, drawn = cut_sky_spectra(cut, np.asarray(model.power(truth)[0]), bins, 100, seed=2)
    assert np.any(drawn[:, 1:] + data.noise[1:] < 0)
    used = data.only(range(1, 7))
    kind = choose_kind(used)[0]
    assert kind == "hamimeche-lewis"
    found = recover(Problem(model, used, kind), truth, drawn[:, 1:], SHORT)
    content = found.to_dict()
    for name in model.parameters:
        assert abs(content[name]["coverage_68"] - 0.68) < 0.14
        assert content[name]["coverage_95"] > 0.87
        assert abs(content[name]["pull_mean"]) < 0.4


def test_intervals_hold_the_truth_with_errors_of_each_sky_itself(tmp_path):
    """Power laws seen by one site at 20 degrees and read from estimates.json, with the covariance of the C_l that each
    sky seems to have; no sky is left out. Posteriors by quadrature.
    """
    l = np.arange(1, 13)
    power, bins, path = 2e-7 * (l / 2.0) ** -2.5, [(k, k) for k in range(1, 13)], tmp_path / "estimates.json"
    grid = RingGrid(60, 120)
    sine = np.sin(grid.declination_edges)
    weight = np.diff(np.clip(sine, np.sin(np.radians(-26)), np.sin(np.radians(64)))) / np.diff(sine)
    cut = cut_sky(grid_rings(grid, 12), weight, np.where(weight > 0, 1e-10 / np.asarray(grid.solid_angle), 0.0))
    _, drawn = cut_sky_spectra(cut, power, bins, 80, seed=5)
    matrix = _decoupling(cut, bins, None)[2]
    covariance = lambda signal: matrix @ pseudo_covariance(cut, signal) @ matrix.T
    entry = {
        "l_low": l.tolist(),
        "l_high": l.tolist(),
        "noise": (matrix @ cut.noise).tolist(),
        "isotropic_covariance": covariance(None).tolist(),
        "isotropic_error": np.sqrt(np.diag(covariance(None))).tolist(),
        "window": (matrix @ cut.coupling).tolist(),
    }
    log_size, slope = np.linspace(-5, 5, 61), np.linspace(-1, 6.5, 51)
    theory = 2e-7 * np.exp(log_size)[:, None, None] * (l / 2.0) ** -slope[:, None]
    prior = stats.norm.logpdf(log_size, 0, 2)[:, None] + stats.norm.logpdf(slope, 2.5, 1.5)
    places, over = [], 0
    for one in drawn:
        own = {"power": one.tolist(), "power_covariance": covariance(np.maximum(one, 0.0)).tolist()}
        path.write_text(json.dumps({"parts": [{"label": "all", "methods": {"pseudo-power": entry | own}}]}))
        data = read_spectrum(path)[0].only(range(1, 12))
        kind = choose_kind(data)[0]
        over += np.any(data.total <= 0)
        at = jax.vmap(lambda t, d=data, k=kind: log_likelihood(d, k, jnp.maximum(d.window @ t, 0)))
        log_p = np.asarray(at(jnp.asarray(theory.reshape(-1, 12)))).reshape(prior.shape) + prior
        p = np.exp(log_p - log_p.max())
        for axis, nodes, true in ((1, log_size, 0.0), (0, slope, 2.5)):
            share = p.sum(axis=axis) / p.sum()
            places.append(np.interp(true, nodes, np.cumsum(share) - share / 2))
    places = np.reshape(places, (-1, 2))
    assert over > 15
    assert np.all(np.abs(np.mean(np.abs(places - 0.5) < 0.3413, axis=0) - 0.68) < 0.15)
    assert np.all(np.mean(np.abs(places - 0.5) < 0.477, axis=0) > 0.87)
    assert np.all(np.abs(stats.norm.ppf(np.clip(places, 1e-4, 1 - 1e-4)).mean(axis=0)) < 0.6)
