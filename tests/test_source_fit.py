"""Posteriors of a physical model's numbers: what is fitted, where the fit lands, and what is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.dipole_likelihood import dipole_data, no_nuisances, simulate_dipoles
from diffcr.inference.dipole_table import DipoleTable
from diffcr.inference.fit import fit
from diffcr.inference.model_files import model_of
from diffcr.inference.named import group
from diffcr.inference.sampler import Plan
from diffcr.inference.source_fit import (
    CountsRecipe,
    counts_problem,
    heavy_tailed,
    identity,
    published_problem,
    random_effects,
    sample_problem,
    tabulated,
)
from diffcr.inference.source_report import describe, figures, summarise, write_source_posterior
from helpers import asimov
from scipy import stats

from diffcr.composition import EnergyResponse
from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import dipole_to_coefficients, synthesis
from diffcr.site import site

VELA = {"distance_pc": 290, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 11000}
PRIORS = {
    "diffusion_cm2_s": {"distribution": "log-normal", "median": 3e28, "spread": 0.3},
    "vela.power": {"distribution": "log-normal", "median": 1, "spread": 0.5},
    "field": {"distribution": "isotropic"},
}


def a_model(priors=None, **more):
    return model_of(
        {
            "model": {"name": "toy", "observer": "lsr"},
            "parameters": {"field_l_deg": 210.5, "field_b_deg": -57.1, **more},
            "source": {"vela": VELA},
            "priors": PRIORS if priors is None else priors,
        }
    )


def a_table(model, energy, error=0.03, systematic=0.0, seed=None):
    """Published dipoles that the model's own numbers would make, of one experiment that sees the whole sky."""
    n = len(energy)
    text = lambda value: np.array([value] * n, object)
    dipole = np.asarray(jax.jit(lambda p, e: model.forward.dipole(p, e))(model.parameters(), np.asarray(energy)))
    amplitude = np.hypot(dipole[:, 0], dipole[:, 1])
    table = DipoleTable(
        experiment=text("everywhere"),
        sample=text("one"),
        energy=np.asarray(energy, float),
        amplitude=amplitude,
        error_low=error * amplitude,
        error_high=error * amplitude,
        phase=np.arctan2(dipole[:, 1], dipole[:, 0]) % (2 * np.pi),
        phase_error=np.full(n, error),
        limit=np.full(n, np.nan),
        definition=text("3d"),
        declination_min=np.full(n, -np.pi / 2),
        declination_max=np.full(n, np.pi / 2),
        overlaps_with=text(""),
        use=text("fit"),
        frame=text("observed"),
        reference=text(""),
        note=text(""),
        place=text("test"),
    )
    return table, dipole


ENERGY = [3.0, 10.0, 40.0, 300.0]


@pytest.mark.parametrize("z", [-6.0, -2.0, -0.3, -1e-4, 0.0, 2e-3, 1.0, 4.0])
def test_strengths_of_random_effects_follow_student_t_of_four_degrees(z):
    expected = stats.t.ppf(stats.norm.cdf(z), 4)
    assert float(heavy_tailed(jnp.asarray(z))) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    slope = (stats.t.ppf(stats.norm.cdf(z + 1e-4), 4) - stats.t.ppf(stats.norm.cdf(z - 1e-4), 4)) / 2e-4
    assert float(jax.grad(heavy_tailed)(jnp.asarray(z))) == pytest.approx(slope, rel=2e-3)


def test_the_table_of_the_disc_changes_no_dipole():
    model = a_model()
    quick = tabulated(model)
    energy = jnp.asarray([1.0, 100.0])
    run = lambda m, height: m.forward.dipole(m.parameters({"halo_height_pc": height}), energy)
    for height in (500.0, 3000.0, 12000.0):
        np.testing.assert_allclose(run(quick, height), run(model, height), rtol=1e-7)
    assert tabulated(quick) is quick


@pytest.fixture(scope="module")
def published():
    truth = a_model(diffusion_cm2_s=3.6e28)
    table, dipole = a_table(truth, ENERGY)
    return truth, table, dipole, published_problem(table, a_model(), scale=1e-3, phase=1e-3, scatter=1e-3, starts=12)


def test_the_best_fit_reproduces_the_dipoles_it_was_made_of(published):
    _, _, dipole, problem = published
    values = problem.layout.values(problem.geometry.centre)
    model = problem.model
    found = model.forward.dipole(model.parameters(values), jnp.asarray(ENERGY))
    size = np.hypot(dipole[:, 0], dipole[:, 1])[:, None]
    # The prior pulls, by less than the 3 % errors.
    assert np.max(np.abs(np.asarray(found) - dipole)[:, :2] / size) < 0.03
    axis = np.asarray(values["field"])
    right_ascension = np.degrees(np.arctan2(axis[1], axis[0])) % 180
    assert right_ascension == pytest.approx(48.47, abs=3)
    assert problem.geometry.cost < 3 and len(problem.geometry.others) == 0


@pytest.mark.slow
def test_the_log_density_and_its_gradient_are_finite_about_the_best_fit(published):
    from numpyro.infer import util

    *_, problem = published
    rng = jax.random.PRNGKey(0)
    info = util.initialize_model(rng, problem.function, model_args=problem.arguments)
    z = info.param_info.z
    value, slope = jax.jit(jax.value_and_grad(info.potential_fn))(z)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(each)) for each in jax.tree.leaves(slope))


def test_a_misfit_costs(published):
    _, table, _, problem = published
    wrong = dataclasses.replace(table, phase=table.phase + np.array([0.0, 0.8, 0.0, 0.0]))
    assert published_problem(wrong, a_model(), 1e-3, 1e-3, 1e-3, starts=12).geometry.cost > problem.geometry.cost + 50


def test_what_was_free_and_how_it_was_treated_identify_a_run(published):
    *_, problem = published
    entry = identity(problem)
    assert entry["kind"] == "published dipoles" and entry["model"] == "toy" and entry["observer"] == "lsr"
    assert entry["priors"]["vela.power"] == {"distribution": "log-normal", "median": 1.0, "spread": 0.5}
    assert entry["priors"]["field"] == "isotropic"


def test_a_model_without_priors_has_nothing_to_fit():
    table, _ = a_table(a_model(), [10.0])
    with pytest.raises(InputError, match="the model toy has no priors: nothing in it is free"):
        published_problem(table, a_model(priors={}))


GRID = RingGrid(18, 36)


def sky_counts(dipole, events):
    from diffcr.inference.data import combine

    sky = np.asarray(
        synthesis(dipole_to_coefficients(jnp.asarray(dipole)).at[0].set(np.sqrt(4 * np.pi)), GRID, cell_average=True)
    )
    parts = []
    for name in ("IceCube", "HAWC"):
        where = site(name)
        local = np.asarray(acceptance(where, GRID, "cos", 4.0))
        parts.append(asimov(where, GRID, local, np.full(GRID.n_ra, events / GRID.n_ra), sky))
    return combine(parts)


@pytest.mark.slow
def test_counts_lead_to_the_numbers_that_made_them():
    truth = a_model(diffusion_cm2_s=3.3e28)
    response = EnergyResponse((20.0,), np.array([0.1]))
    dipole = np.asarray(truth.forward.bin_dipole(truth.parameters(), response))[0]
    counts = sky_counts(dipole, 1e11)
    recipe = CountsRecipe(a_model(), response, rate_bins=12)
    problem = recipe.problem(counts, starts=12)
    _, found = recipe.dipoles(problem.geometry.centre)
    # The fit of the dipole alone has the same equatorial part.
    alone = fit(counts).dipole
    error = float(np.sqrt(np.max(np.diag(alone.covariance))))
    np.testing.assert_allclose(found[0, :2], alone.equatorial, atol=3 * error)
    np.testing.assert_allclose(found[0, :2], dipole[:2], atol=3 * error)


def test_the_response_must_have_the_bins_of_the_counts():
    counts = sky_counts(np.array([1e-3, 0.0, 0.0]), 1e9)
    with pytest.raises(InputError, match="the counts have 1 energy bins .* but 2 energies are given"):
        counts_problem(counts, a_model(), EnergyResponse((3.0, 20.0), np.full(2, 0.5)))


def an_ensemble():
    return model_of(
        {
            "model": {"name": "grains", "observer": "none"},
            "parameters": {"perpendicular": 1.0},
            "ensemble": {"max_age_yr": 5e6, "number": 400},
        }
    )


def test_random_effects_turn_with_the_field():
    """Supernovae scatter the dipole along whatever field is sampled, times f."""
    from diffcr.inference.source_fit import _random

    basis = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3)))
    strengths = jnp.array([0.5, -1.0])
    isotropic = np.einsum("f,fek->ek", stats.t.ppf(stats.norm.cdf([0.5, -1.0]), 4), basis)
    model = a_model()
    for field in ((0.0, 0.0, 2.0), (1.0, 2.0, -2.0)):
        b = np.array(field) / np.linalg.norm(field)
        p = model.parameters({"field": field, "parallel_factor": 3.0})
        np.testing.assert_allclose(_random(p, strengths, basis), 3 * np.outer(isotropic @ b, b), rtol=1e-6, atol=1e-12)
    p = model.parameters({"perpendicular": 1.0})
    np.testing.assert_allclose(_random(p, strengths, basis), isotropic, rtol=1e-6)


def test_random_effects_span_the_scatter_of_supernovae():
    energy = [3.0, 30.0, 300.0]
    basis = random_effects(an_ensemble(), energy, draws=60, rank=5)
    assert basis.shape == (5, 3, 3)
    # The first direction is the widest in units of each component's scatter, and all are of the dipoles' size.
    size = np.linalg.norm(basis.reshape(5, -1), axis=1)
    assert np.all(size > 1e-5) and np.all(size < 0.3)
    with pytest.raises(InputError, match=r"has no \[ensemble\]"):
        random_effects(a_model(), energy)


@pytest.mark.slow
def test_posterior_of_published_dipoles_from_end_to_end(tmp_path):
    """Sampled, written, interrupted and resumed bit for bit."""
    truth = a_model(diffusion_cm2_s=3.6e28)
    table, _ = a_table(truth, ENERGY)
    data = dipole_data(table)
    problem = published_problem(table, a_model(), scale=0.02, phase=0.02, scatter=0.02)
    plan = Plan(chains=2, warmup=150, draws=200, segment=50, target_accept=0.9)
    posterior = sample_problem(problem, plan, tmp_path / "segments")
    content = write_source_posterior(posterior, problem, tmp_path)
    for name in ("posterior.nc", "summary.json", "trace.png", "corner.png", "field.png"):
        assert (tmp_path / name).stat().st_size > 0
    entry = content["parameters"]["field_axis_right_ascension_deg"]
    assert entry["hdi_95"][0] < 48.47 < entry["hdi_95"][1]
    # Projected on the field its declination is not measured by equatorial dipoles; the amplitude alone bounds it.
    draws = group(posterior, "posterior")
    assert set(draws["dipole"].dims) == {"chain", "draw", "row", "axis"}
    assert "log_likelihood" in (posterior.groups() if callable(posterior.groups) else dict(posterior.children))
    assert any("toy" in line for line in describe(content))
    assert set(figures(posterior, problem, summarise(posterior, problem))) >= {"trace", "corner"}

    last = sorted((tmp_path / "segments").glob("segment_*.npz"))[-1]
    last.unlink()
    again = sample_problem(problem, plan, tmp_path / "segments", resume=True)
    np.testing.assert_array_equal(group(again, "posterior")["vela.power"].values, draws["vela.power"].values)
    other = dataclasses.replace(plan, seed=1)
    with pytest.raises(InputError, match="seed"):
        sample_problem(problem, other, tmp_path / "segments", resume=True)
    drawn = simulate_dipoles(np.random.default_rng(0), data, np.zeros((4, 16)), no_nuisances(data))
    assert drawn.value.shape == (4, 2)
