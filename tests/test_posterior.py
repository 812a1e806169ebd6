"""The joint posterior as users get it: an ArviZ object with named dimensions, predictions, and a verdict."""

import json
import math

import diffcr.inference as inference
import numpy as np
import pytest
from diffcr.inference.arviz_import import arviz as az
from diffcr.inference.data import combine
from diffcr.inference.fit import fit
from diffcr.inference.named import group
from diffcr.inference.posterior import distance, fold_axis, principal_axis, sample
from diffcr.inference.posterior_report import write_posterior
from diffcr.inference.sampler import Plan
from diffcr.inference.specification import Specification
from diffcr.inference.summary import summarise
from helpers import dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

pytestmark = pytest.mark.slow

GRID = RingGrid(18, 36)
TRUTH = (0.02, -0.015)
PLAN = Plan(chains=4, warmup=200, draws=400, segment=100, seed=3)


def counts_of(name: str, events: float, sky, seed: int):
    where = site(name)
    local = np.asarray(acceptance(where, GRID, power=2.0))
    rate = events / 36 * (1 + 0.1 * np.cos(GRID.right_ascension))
    return drawn(where, GRID, local, rate, sky, seed)


@pytest.fixture(scope="module")
def hawc():
    return counts_of("HAWC", 1e6, dipole_sky(GRID, TRUTH), 1)


@pytest.fixture(scope="module")
def posterior(hawc):
    return sample(hawc, plan=PLAN)


def test_the_posterior_of_the_dipole_is_that_of_the_likelihood(hawc, posterior):
    """Flat prior, many events: mean and width are the maximum's and its inverse information's."""
    found = summarise(posterior)["parameters"]
    reference = fit(hawc, rate_bins=36).dipole
    sigma = np.sqrt(np.diag(reference.covariance))
    for k, name in enumerate(("delta_0h", "delta_6h")):
        assert abs(found[name]["mean"] - reference.delta[k]) < 0.12 * sigma[k]
        assert found[name]["sd"] == pytest.approx(sigma[k], rel=0.08)
        assert abs(found[name]["mean"] - TRUTH[k]) < 4 * sigma[k]
    assert found["amplitude"]["mean"] == pytest.approx(math.hypot(*reference.delta), rel=0.1)


def test_it_says_what_the_data_did_not_move(posterior):
    found = summarise(posterior)["parameters"]
    assert found["delta_N"]["prior_dominated"] is True
    assert found["delta_0h"]["prior_dominated"] is False
    assert found["amplitude"]["prior_dominated"] is False
    assert "declination_deg" not in found


def test_dimensions_have_names_and_coordinates(hawc, posterior):
    draws = group(posterior, "posterior")
    assert draws["delta_0h"].dims == ("chain", "draw")
    assert draws["rate"].dims == ("chain", "draw", "observatory", "time")
    assert draws["rate"].sizes["time"] == 36
    np.testing.assert_allclose(draws["rate"].sum("time"), 1, rtol=1e-12)
    assert list(draws["observatory"].values) == ["HAWC"]
    for name in ("posterior_predictive", "prior", "sample_stats", "observed_data"):
        assert group(posterior, name).sizes
    predicted = group(posterior, "posterior_predictive")
    assert predicted["n_ra"].dims == ("chain", "draw", "observatory", "ra")
    np.testing.assert_allclose(
        predicted["n_time"].mean(("chain", "draw"))[0], hawc.n_time[0, 0, 0], rtol=5 / np.sqrt(1e6 / 36)
    )
    stats = group(posterior, "sample_stats")
    assert {"diverging", "energy", "num_steps", "lp"} <= set(stats.data_vars)


def test_rates_are_the_simulated_ones(posterior):
    """The rate is measured apart from the sky: a 10 % wave in sidereal time, to 4 sigma of its posterior."""
    rate = group(posterior, "posterior")["rate"].values[:, :, 0].reshape(-1, 36)
    truth = (1 + 0.1 * np.cos(GRID.right_ascension)) / 36
    pull = (rate.mean(axis=0) - truth) / rate.std(axis=0)
    assert np.max(np.abs(pull)) < 4.5


def test_it_is_saved_and_read_back(hawc, posterior, tmp_path):
    spec = Specification("dipole")
    content = write_posterior(posterior, hawc, spec.likelihood(hawc), spec, tmp_path, leave_one_out=True)
    again = az.from_netcdf(tmp_path / "posterior.nc", engine="h5netcdf")
    assert summarise(again)["parameters"] == content["parameters"]
    assert json.loads((tmp_path / "summary.json").read_text()) == content
    assert {p.name for p in tmp_path.glob("*.png")} >= {"corner.png", "dipole.png", "trace.png", "ranks.png"}
    # Two parameters make the difference between what is known with a ring and without it.
    assert 0.5 < json.loads((tmp_path / "loo.json").read_text())["p_loo"] < 4


def test_short_chains_are_not_called_converged(hawc):
    content = summarise(sample(hawc, plan=Plan(chains=2, warmup=20, draws=10, segment=10)))
    assert content["converged"] is False
    assert content["verdict"].startswith("NOT converged")


def test_directions_of_blinded_counts_stay_hidden(hawc, tmp_path):
    blinded = inference.blind(hawc, "key")
    spec = Specification("dipole")
    posterior = sample(blinded, spec, plan=Plan(chains=2, warmup=100, draws=60, segment=60))
    content = write_posterior(posterior, blinded, spec.likelihood(blinded), spec, tmp_path)
    assert content["parameters"]["delta_0h"]["mean"] is None
    assert content["parameters"]["right_ascension_deg"]["hdi_95"] is None
    assert content["parameters"]["amplitude"]["mean"] > 0
    assert not (tmp_path / "corner.png").exists()
    assert not (tmp_path / "dipole.png").exists()
    assert not (tmp_path / "predictive_ra.png").exists()


@pytest.fixture(scope="module")
def two_sites():
    """l = 2 and 3 of known size, and a dipole, seen by IceCube and HAWC."""
    sky = dipole_sky(GRID, TRUTH)
    sky = sky + 0.01 * np.outer(np.sin(2 * GRID.declination), np.cos(GRID.right_ascension - 1.0))
    return combine([counts_of("IceCube", 1e6, sky, 1), counts_of("HAWC", 1e6, sky, 2)])


def test_multipoles_and_their_power(two_sites):
    """0.01 sin(2 dec) cos(RA - 1): a pure l = 2, |m| = 1 with known coefficients and C_2 over m != 0."""
    posterior = sample(two_sites, "multipoles", plan=PLAN, median=1e-5)
    content = summarise(posterior)
    draws = group(posterior, "posterior")
    assert draws["multipoles"].dims == ("chain", "draw", "l", "m")
    assert draws["power"].dims == ("chain", "draw", "l")
    # R_{2,1} = sqrt(15 / 4 pi) sin(dec) cos(dec) cos(RA), so that 0.01 sin(2 dec) is 0.02 sin cos.
    size = 0.02 / math.sqrt(15 / (4 * math.pi))
    for m, expected in ((1, size * math.cos(1.0)), (-1, size * math.sin(1.0)), (2, 0.0), (-2, 0.0)):
        entry = content["parameters"][f"multipoles[l=2,m={m}]"]
        assert abs(entry["mean"] - expected) < 4 * entry["sd"], m
    assert "multipoles[l=2,m=0]" not in content["parameters"]
    # Four coefficients with the squares' sum size^2: the posterior of C_2 is near it over four.
    power = draws["power"].sel(l=2).values
    assert 0.1 < np.median(power) / (size**2 / 4) < 10
    assert content["divergences"] == 0


def test_the_declination_of_a_field_keeps_its_prior_in_a_dipole_alone(hawc):
    """Projected on the field, an equatorial dipole knows its right ascension only."""
    posterior = sample(hawc, "local-field", plan=Plan(chains=4, warmup=300, draws=500, segment=100), scale=0.05)
    content = summarise(posterior)["parameters"]
    declination = content["field_axis_declination_deg"]
    assert declination["prior_dominated"] is True
    # Uniform on the sphere: the standard deviation of dec is sqrt(pi^2/4 - 2) rad.
    assert declination["sd"] == pytest.approx(math.degrees(math.sqrt(math.pi**2 / 4 - 2)), rel=0.08)
    axis = content["field_axis_right_ascension_deg"]
    truth = math.degrees(math.atan2(TRUTH[1], TRUTH[0])) % 180
    assert abs((axis["mean"] - truth + 90) % 180 - 90) < 4 * axis["sd"]
    assert axis["prior_dominated"] is False
    draws = group(posterior, "posterior")["field_direction"].values
    ends = np.sign(draws[..., 0])
    assert np.all(np.abs(ends.mean(axis=1)) < 0.2), "both ends are visited by every chain"


def test_an_observatory_without_events_is_named(two_sites):
    empty = {name: getattr(two_sites, name).copy() for name in ("n_sky", "n_time", "n_local", "n_half")}
    for values in empty.values():
        values[1] = 0
    with pytest.raises(InputError, match="observatory HAWC has no event"):
        sample(two_sites.replace(**empty))


def test_unknown_priors_and_plans_are_refused(hawc):
    with pytest.raises(InputError, match="did you mean 'scale'"):
        sample(hawc, scales=1.0)
    with pytest.raises(InputError, match="must be positive and finite"):
        sample(hawc, scale=math.inf)
    with pytest.raises(InputError, match="chains must be a whole number of at least 1"):
        Plan(chains=0)


def test_the_face_of_the_package():
    assert inference.sample is sample
    assert inference.summarise is summarise
    with pytest.raises(AttributeError, match="no_such"):
        getattr(inference, "no_such")  # noqa: B009


def test_a_prior_folded_about_the_posteriors_axis_looks_like_itself():
    """Isotropic draws against isotropic draws: folded about axes of their own they would seem to differ."""
    rng = np.random.default_rng(8)
    one, two = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in rng.standard_normal((2, 4, 2000, 3)))
    axis = principal_axis(one)
    folded = [fold_axis(each, axis)["field_axis_declination_deg"] for each in (one, two)]
    assert float(distance(*folded)) < 0.04
    assert np.all(fold_axis(two, axis)["field_axis"] @ axis >= 0)
