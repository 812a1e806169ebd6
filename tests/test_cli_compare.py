"""`diffcr compare` and what stands behind it: posteriors in folders, degrees left out and sampled again."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.stats
import xarray as xr
from diffcr.inference import sample
from diffcr.inference.degree_refit import refitted
from diffcr.inference.degree_report import compare_folders, describe, figure
from diffcr.inference.named import tree
from diffcr.inference.sampler import Plan
from diffcr.inference.specification import Specification
from helpers import dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(8, 12)
PLAN = Plan(chains=2, warmup=60, draws=60, max_tree_depth=5)
PRIORS = {"dipole_scale": 0.1, "median": 1e-5, "spread": 1.0}


@pytest.fixture(scope="module")
def counts():
    local = np.asarray(acceptance(site("HAWC"), GRID, power=2.0))
    return drawn(site("HAWC"), GRID, local, np.full(12, 2e5), dipole_sky(GRID, (0.02, 0.01)), seed=1, epoch_year=2016.5)


def spec(**priors):
    return Specification("multipoles", 2, {**PRIORS, **priors}, rate_bins=3)


@pytest.fixture(scope="module")
def folders(counts, tmp_path_factory):
    """Output folders as `diffcr sample` writes them, of which `compare` reads two files."""
    out = []
    for name, priors in {"free": {}, "bright": {"power": "fixed", "median": 1e-3}}.items():
        folder = tmp_path_factory.mktemp("of") / name
        folder.mkdir()
        counts.save(folder / "counts.nc")
        tree(sample(counts, spec(**priors), PLAN)).to_netcdf(folder / "posterior.nc", engine="h5netcdf")
        out.append(folder)
    return out


def test_models_in_folders_are_ranked(run, folders, tmp_path):
    """A sky without a quadrupole: one with C_2 of 1e-3 is not what the data foretell."""
    code, out, err = run("compare", *folders, "--no-refit", "-o", tmp_path)
    # Chains this short have not converged, which is said.
    assert code == 3 and "the chains of free, bright had not converged" in err.replace("bright, free", "free, bright")
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["ranking"] == ["free", "bright"] and content["degree"] == [1, 2]
    best, other = content["models"].values()
    assert best["difference"] == 0 and other["difference"] < -5
    assert other["difference_by_degree"][0] == pytest.approx(0, abs=0.1)
    assert other["difference_by_degree"][1] < -5
    assert out.splitlines()[1].startswith("free") and "2 degrees: errors of differences are rough" in out
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_known_power_has_the_density_of_its_normal(folders, counts):
    """Without hyper-parameters the density of l = 2 is a ratio of Gaussian integrals, done here with dense matrices."""
    content = compare_folders([folders[1], folders[0]], refit=False)
    sky = spec(power="fixed", median=1e-3).likelihood(counts)
    information, degree = np.asarray(sky.information[0]), np.array(sky.degree)
    measured, covariance = np.linalg.solve(information, np.asarray(sky.pull[0])), np.linalg.inv(information)
    turn = np.asarray(sky.turn)
    width = np.where(degree == 1, 0.1**2 * 4 * np.pi / 3, 1e-3)
    prior = covariance + turn @ np.diag(width) @ turn.T
    free = prior + np.diag((degree == 2) * 1.0)
    logpdf = lambda spread: scipy.stats.multivariate_normal.logpdf(measured, np.zeros(len(degree)), spread)
    expected = logpdf(prior) - logpdf(free)
    assert content["models"]["bright"]["elpd_by_degree"][1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_sampling_again_without_a_degree_leaves_its_prior(counts):
    """The power of l = 2 alone is a hyper-parameter: without l = 2 it is as the prior has it, N(ln 1e-5, 1)."""
    sky = spec().likelihood(counts)
    plan = dataclasses.replace(PLAN, draws=300, chains=2)
    found = np.exp(refitted(spec(), sky, plan)(2)).ravel()
    # The same mean by quadrature over the prior.
    from diffcr.inference.degrees import log_density_of_degrees

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    degree = np.array(sky.degree)

    def density(x):
        scale = np.where(degree == 1, 0.1 * np.sqrt(4 * np.pi / 3), np.exp(0.5 * (np.log(1e-5) + x)))
        return log_density_of_degrees(sky.information, sky.pull, sky.degree, sky.turn, 0.0, scale)[1][1]

    expected = weights @ np.exp([float(density(x)) for x in nodes]) / weights.sum()
    error = found.std() / np.sqrt(60)
    assert abs(found.mean() - expected) < 4 * error
    assert found.std() > 0


def test_a_posterior_with_a_prior_on_the_acceptance_is_not_sampled_again_without_it(folders):
    """Its multipoles include m = 0, which the counts alone do not know."""
    from diffcr.inference.degree_report import _refit

    with xr.open_datatree(folders[0] / "posterior.nc", engine="h5netcdf") as stored:
        posterior = stored.load()
    theta = posterior["posterior"]["theta_of_date"]
    more = xr.concat([theta, theta.isel(multipole_of_date=[0])], "multipole_of_date")
    wide = xr.DataTree.from_dict(
        {"posterior": posterior["posterior"].to_dataset().drop_vars("theta_of_date").assign(theta_of_date=more)}
    )
    with pytest.raises(InputError, match="free was sampled with a prior on the acceptance, .* give --no-refit"):
        _refit(folders[0], "free", wide, None)(2)


def test_a_table_and_a_picture_name_the_models():
    content = {
        "degree": [1, 2, 3],
        "models": {
            "cascade": {"elpd": 12.3, "difference": 0.0, "difference_error": 0.0, "difference_by_degree": [0.0] * 3},
            "profile": {
                "elpd": 2.1,
                "difference": -10.2,
                "difference_error": 4.2,
                "difference_by_degree": [-0.2, -9, -1],
            },
        },
    }
    for entry in content["models"].values():
        entry["unreliable"] = []
    content["models"]["profile"]["unreliable"] = [2]
    lines = describe(content)
    assert lines[1].split() == ["cascade", "12.3", "0.0", "+0.0", "+0.0", "+0.0"]
    assert lines[2].split() == ["profile", "2.1", "-10.2", "4.2", "-0.2", "-9.0", "-1.0"]
    assert lines[3] == "note             profile: weights fail at l = 2"
    axes = figure(content).axes[0]
    assert axes.get_xlabel() == r"Degree $\ell$ left out"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["cascade (+0.0)", "profile (-10.2)"]


def test_what_cannot_be_compared_is_refused_in_one_line(run, folders, tmp_path):
    code, _, err = run("compare", folders[0], "-o", tmp_path / "out")
    assert code == 2 and "one folder alone has nothing to be compared with" in err
    code, _, err = run("compare", folders[0], tmp_path / "nothing", "-o", tmp_path / "out")
    assert code == 2 and "nothing: holds no posterior.nc; give the output folder" in err and err.count("\n") == 1
    code, _, err = run("compare", folders[0], folders[0], "-o", tmp_path / "out")
    assert code == 2 and "free is given twice: leave one out" in err
    (tmp_path / "free").mkdir()
    code, _, err = run("compare", folders[0], tmp_path / "free", "-o", tmp_path / "out")
    assert code == 2 and "two folders are named 'free': rename one" in err
    (tmp_path / "other").mkdir()
    with xr.open_datatree(folders[0] / "posterior.nc", engine="h5netcdf") as stored:
        changed = stored.load()
    changed["posterior"].attrs["num_events"] += 1
    changed.to_netcdf(tmp_path / "other" / "posterior.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"free and other have different numbers of events \(.*\): compare models of"):
        compare_folders([folders[0], tmp_path / "other"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "posterior.nc").write_text("no NetCDF")
    code, _, err = run("compare", folders[0], tmp_path / "text", "-o", tmp_path / "out")
    assert code == 2 and "text/posterior.nc: is no posterior" in err
    assert jax.config.jax_enable_x64
