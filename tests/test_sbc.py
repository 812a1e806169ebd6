"""Simulation-based calibration: the simulation against direct sums, the ranks against ranks of known kind."""

import dataclasses
import json

import numpy as np
import pytest
from diffcr.inference.sbc import Calibration, calibrate, draw_conditional
from diffcr.inference.specification import Specification

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

pytestmark = pytest.mark.slow

GRID = RingGrid(12, 24)


def local_of(name="HAWC"):
    return np.asarray(acceptance(site(name), GRID, "cos", 4.0))


def run(spec=None, **changes):
    arguments = {
        "spec": spec or Specification("dipole", priors={"scale": 0.02}, concentration=200.0, rate_bins=8),
        "sites": [site("HAWC")],
        "acceptances": [local_of()],
        "grid": GRID,
        "events": 2e5,
        "sets": 20,
        "seed": 3,
        "warmup": 120,
        "draws": 150,
        "max_tree_depth": 5,
        "batch": 20,
    }
    return calibrate(**(arguments | changes))


@pytest.fixture(scope="module")
def small():
    seen = []
    found = run(progress=lambda *now: seen.append(now[:2]))
    assert seen == [(20, 20)]
    return found


def with_ranks(ranks, kinds=None):
    """A calibration that has these ranks (set, quantity) and nothing else of interest."""
    sets, count = ranks.shape
    flat = np.ones((sets, count))
    return Calibration(
        header={},
        names=tuple(f"q{k}" for k in range(count)),
        kinds=kinds or ("sky",) * count,
        truths=0 * flat,
        ranks=ranks,
        of_draws=99,
        means=flat,
        errors=2 * flat,
        inside=np.stack([flat > 0, flat > 0]),
        r_hat=flat,
        ess=flat,
        divergences=np.zeros(sets),
        num_steps=np.ones(sets),
        seconds=0.0,
    )


def test_the_events_of_each_local_cell_are_shared_out_as_rate_times_sky():
    """Sums over the cells written out as loops, on a sky and a rate without any symmetry."""
    grid = RingGrid(4, 6)
    rng = np.random.default_rng(1)
    sky = 1 + rng.uniform(-0.6, 0.6, grid.shape)
    rate = rng.uniform(0.5, 2, 6)
    n_local = np.zeros(grid.shape, int)
    n_local[1] = [4_000_000, 0, 3_000_000, 0, 0, 5_000_000]
    n_local[2, 4] = 2_000_000
    drawn = draw_conditional(rng, n_local, rate, sky)

    seen, time, half = np.zeros(grid.shape), np.zeros(6), np.zeros((2, *grid.shape))
    for r, h in np.argwhere(n_local):
        share = np.array([rate[tau] * sky[r, (tau - h) % 6] for tau in range(6)])
        for tau, events in enumerate(n_local[r, h] * share / share.sum()):
            seen[r, (tau - h) % 6] += events
            time[tau] += events
            # Hour angles in (0, pi) are west of the meridian; the meridian itself is halved.
            east = {0: 0.5, 1: 0.0, 2: 0.0, 3: 0.5, 4: 1.0, 5: 1.0}[int(h)]
            half[0, r, tau] += east * events
            half[1, r, tau] += (1 - east) * events
    np.testing.assert_array_equal(drawn.local, n_local)
    for name, expected in (("sky", seen), ("time", time), ("half", half)):
        found = np.asarray(getattr(drawn, name))
        np.testing.assert_array_equal(found[expected == 0], 0)
        assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected + 1)), name


def test_a_small_calibration_passes(small):
    """20 sets: ranks and pulls of a correct sampler, truths scattered like their prior."""
    assert small.sets == 20
    assert small.holm_p() > 0.01
    assert small.holm_p(("rate", "prior", "data")) > 1e-3
    place = small.names.index("delta_0h")
    assert 0.012 < small.truths[:, place].std() < 0.03
    # The data must know the dipole: the error is 3.6 / sqrt(2e5), well below the prior's 0.02.
    assert np.all(small.errors[:, place] < 0.012)
    assert small.errors[:, small.names.index("delta_N")].mean() == pytest.approx(0.02, rel=0.1)
    assert abs(small.pulls[:, place].mean()) < 4 / np.sqrt(20)
    assert 0.5 < small.pulls[:, place].std() < 1.6
    assert np.corrcoef(small.truths[:, place], small.means[:, place])[0, 1] > 0.8
    assert small.converged_share > 0.8
    assert small.ess[:, place].min() > 50


def test_rates_are_ranked_by_contrasts_and_the_log_likelihood_is_a_quantity(small):
    kinds = dict(zip(small.names, small.kinds, strict=True))
    assert kinds["contrast[HAWC]"] == kinds["sine[HAWC]"] == "rate"
    assert kinds["log_likelihood"] == "data"
    assert kinds["delta_N"] == "prior"
    assert kinds["delta_6h"] == "sky"


def test_the_result_becomes_json_and_a_figure(small):
    entry = json.loads(json.dumps(small.to_dict()))
    assert entry["sets"] == 20
    assert entry["specification"]["model"] == "dipole"
    assert sum(entry["quantities"]["delta_0h"]["rank_histogram"]) == 20
    assert set(entry["quantities"]["delta_0h"]) > {"chi2_p", "ks_p", "coverage_68", "coverage_95", "ess_mean"}
    figure = small.figure()
    assert len(figure.axes) == len(small.names)
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_width() == pytest.approx(1 / small.bins)]
    np.testing.assert_array_equal(heights, small.histogram(0))


def test_uniform_ranks_pass_and_others_do_not():
    """Shifted, too narrow and too wide posteriors each leave their mark; the correction is for the number of tests."""
    rng = np.random.default_rng(5)
    good = rng.integers(0, 100, (300, 8))
    assert with_ranks(good).holm_p() > 0.01
    for bad in (
        np.clip(good[:, 0] + 15, 0, 99),
        (99 * rng.beta(2, 2, 300)).astype(int),
        (99 * rng.beta(0.6, 0.6, 300)).astype(int),
    ):
        spoiled = np.column_stack([bad, good[:, 1:]])
        assert with_ranks(spoiled).holm_p() < 1e-3
        assert with_ranks(spoiled, ("rate",) + ("sky",) * 7).holm_p() > 0.01
    single = with_ranks(good[:, :1])
    assert single.holm_p() == pytest.approx(single.p_value(0))
    assert with_ranks(good, ("rate",) * 8).holm_p() == 1.0


def test_p_values_of_uniform_ranks_are_uniform_and_their_correction_is_conservative():
    rng = np.random.default_rng(7)
    many = with_ranks(rng.integers(0, 100, (200, 200)))
    for p in ([many.chi2_p(k) for k in range(200)], [many.ks_p(k) for k in range(200)]):
        assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.05)
        assert np.mean(p) == pytest.approx(0.5, abs=0.06)
    assert many.holm_p() > 1e-3


def test_pulls_and_coverage_are_what_they_are_called():
    some = with_ranks(np.zeros((10, 1), int))
    np.testing.assert_allclose(some.pulls, 0.5)
    half = np.arange(10)[:, None] < 5
    some = dataclasses.replace(some, inside=np.stack([half, half | True]))
    assert some.coverage("68")[0] == 0.5
    assert some.coverage("95")[0] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceptances": []}, "1 sites have 0 acceptances"),
        ({"acceptances": [np.ones((3, 4))]}, r"acceptance of HAWC has shape \(3, 4\)"),
        ({"sets": 0}, "sets must be a whole number"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"ranks": 301}, "300 draws cannot give 301"),
        ({"events": 10.0}, "leave time bins empty"),
        (
            {"spec": Specification("local-field", concentration=200.0), "dipole": (1e-3, 0.0)},
            "makes its dipole from the field",
        ),
        ({"spec": Specification("dipole", concentration=200.0, rate_bins=8)}, "negative somewhere"),
        (
            {"spec": Specification("dipole", priors={"scale": 0.01}, concentration=0.01, rate_bins=8)},
            "a time bin of the simulation stays empty",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        run(**changes)
