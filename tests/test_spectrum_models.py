"""Theories of C_l: their shapes against closed forms and direct solutions, priors, coordinates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference.spectrum_models import MODELS, build_model
from diffcr.inference.spectrum_priors import Prior
from diffcr.inference.spectrum_shapes import (
    aligned_shape,
    cascade_shape,
    cascade_table,
    ended_cascade_shape,
    orders_seen,
    profile_table,
    tabulated_shape,
)
from jax.test_util import check_grads
from scipy import stats

from diffcr.cascade import nearest_neighbour_power
from diffcr.cascade_rates import ended_rates, relaxation_rates
from diffcr.errors import InputError
from diffcr.harmonics import evaluate_at, power_spectrum

DIFFUSION = "angular-diffusion"


def test_the_cascade_is_batemans():
    """C_l at nu T = 0.3 with rates l (l + 1), from a matrix exponential; and the limit of large T."""
    found = np.asarray(cascade_shape(0.3, cascade_table(DIFFUSION, 10)))
    known = {1: 0.5488116360940264, 2: 0.11505382436173198, 5: 0.0076699318457567845, 10: 7.44738828059042e-4}
    for l, value in known.items():
        assert found[l - 1] == pytest.approx(value, rel=1e-5)
    late = np.asarray(cascade_shape(20.0, cascade_table(DIFFUSION, 10)))
    l = np.arange(1, 11)
    np.testing.assert_allclose(late / late[0], 18 / ((2 * l + 1) * (l + 1) * (l + 2)), rtol=1e-5)


@pytest.mark.parametrize("rates", [DIFFUSION, "isotropic-scattering", "bgk"])
def test_tables_of_cascades_are_exact_between_their_nodes(rates):
    table, chain = cascade_table(rates, 12), relaxation_rates(rates, 12)
    for depth in (2e-3, 0.0377, 0.51, 3.3, 21.0, 170.0):
        direct = nearest_neighbour_power(1.0, depth, 12, chain)
        np.testing.assert_allclose(cascade_shape(depth, table), direct, rtol=2e-5)


def test_equal_rates_are_poissonian_at_any_degree():
    """C_l = 3 / (2 l + 1) e^-T T^(l-1) / (l-1)!, also where that is too small to be met on the way."""
    l = np.arange(1, 101)
    for depth in (2e-3, 8.0):
        exact = 3 / (2 * l + 1) * stats.poisson.pmf(l - 1, depth)
        found = np.asarray(cascade_shape(depth, cascade_table("bgk", 100)))
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-290)


@pytest.mark.parametrize("rates", [DIFFUSION, "bgk"])
@pytest.mark.parametrize("end", [2.0, 2.6, 5.3, 7.999, 8.0, 12.4, 40.0])
def test_a_cascade_that_ends_is_the_solution_with_its_rates(rates, end):
    table = cascade_table(rates, 12)
    for depth in (0.1, 0.7, 6.0):
        direct = nearest_neighbour_power(1.0, depth, 12, ended_rates(relaxation_rates(rates, 12), end))
        np.testing.assert_allclose(ended_cascade_shape(depth, end, table), direct, rtol=1e-4, atol=1e-15)


def test_shapes_are_differentiable():
    table = cascade_table(DIFFUSION, 8)
    check_grads(jax.jit(lambda t: cascade_shape(t, table)), (jnp.array(0.41),), order=1, rtol=1e-4)
    check_grads(
        jax.jit(lambda t, e: ended_cascade_shape(t, e, table)), (jnp.array(0.41), jnp.array(5.4)), order=1, rtol=1e-4
    )
    model = build_model("pitch-angle", 9)
    axes = model.priors["index"], model.priors["floor"]
    profile = lambda q, h: tabulated_shape(profile_table("quasi-linear", axes, 9), axes, (q, h))
    check_grads(jax.jit(profile), (jnp.array(1.6), jnp.array(0.02)), order=1, rtol=1e-4)


def test_the_profile_is_that_of_the_resonance():
    """C_l / C_1 of D = D_0 |mu|^(2/3) (1 - mu^2): (G_l / G_1)^2 with G of |mu|^(1/3) sgn mu in closed form."""
    found = np.asarray(aligned_shape("quasi-linear", {"index": 5 / 3, "floor": 0.0}, 6))
    np.testing.assert_allclose(found, [1, 0, 0.0236686, 0, 0.00419610, 0], rtol=1e-5)


@pytest.mark.parametrize("scattering", ["quasi-linear", "broadened"])
def test_tables_of_profiles_are_exact_between_their_nodes(scattering):
    model = build_model("pitch-angle", 11, scattering=scattering)
    names = model.parameters[1:]
    axes = tuple(model.priors[n] for n in names)
    table = profile_table(scattering, axes, 11)
    for units in ([-1.3, 0.4], [0.0, 2.0], [2.5, -2.5]):
        values = [float(prior.value(u)) for prior, u in zip(axes, units, strict=True)]
        direct = aligned_shape(scattering, dict(zip(names, values, strict=True)), 11)
        np.testing.assert_allclose(tabulated_shape(table, axes, tuple(values)), direct, rtol=1e-4, atol=1e-13)


@pytest.mark.parametrize("declination", [0.0, 0.4, -1.2])
def test_what_is_seen_of_a_pattern_without_m_0_depends_on_its_direction(declination):
    """C_l of P_l(n . B) from its multipoles, those of m = 0 left out, over the share that an isotropic sky keeps."""
    direction = np.array([math.cos(declination) * 0.6, math.cos(declination) * 0.8, math.sin(declination)])
    basis = np.asarray(jax.vmap(lambda unit: evaluate_at(unit, direction))(np.eye(25)))
    l = np.arange(1, 5)
    without = basis.copy()
    without[l * (l + 1)] = 0
    share = (power_spectrum(without) / power_spectrum(basis))[1:]
    np.testing.assert_allclose(orders_seen(declination, 4), share * (2 * l + 1) / (2 * l), rtol=1e-10)


# Priors and coordinates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (Prior("normal", 2.0, 3.0, ""), stats.norm(2, 3)),
        (Prior("log-normal", 2.0, 0.7, ""), stats.lognorm(0.7, scale=2)),
        (Prior("uniform", -1.0, 4.0, ""), stats.uniform(-1, 5)),
        (Prior("log-uniform", 0.1, 9.0, ""), stats.loguniform(0.1, 9)),
    ],
)
def test_priors_are_the_distributions_they_are_called(prior, law):
    share = np.array([0.001, 0.2, 0.5, 0.97])
    values = np.asarray(prior.value(stats.norm.ppf(share)))
    np.testing.assert_allclose(values, law.ppf(share), rtol=1e-9)
    np.testing.assert_allclose(stats.norm.cdf(prior.unit(values)), share, rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("end", [False, True])
def test_the_sampler_moves_in_the_power_that_is_seen(name, end):
    """Coordinates and parameters are inverse; amplitudes stand for the seen power of their parts."""
    model = build_model(name, 9, end=end)
    units = jnp.asarray(np.random.default_rng(3).standard_normal(len(model.parameters)))
    seen = np.where(np.arange(1, 10) > 1, 2 * np.arange(1, 10) + 1.0, 0.0)
    x = model.coordinates(units, seen)
    values, back = model.values(x, seen)
    np.testing.assert_allclose(back, units, atol=1e-9)
    random, aligned = model.power(values)
    for part in model.parts:
        total = np.sum(seen * (aligned if part.aligned else random))
        assert float(x[model.parameters.index(part.amplitude)]) == pytest.approx(np.log(total), abs=1e-9)
    # The density of the units changes by a constant: each amplitude's spread.
    jacobian = jax.jacfwd(lambda x: model.values(x, seen)[1])(x)
    spread = np.prod([model.priors[part.amplitude].second for part in model.parts])
    assert abs(np.linalg.det(jacobian)) == pytest.approx(1 / spread, rel=1e-6)


def test_the_models_are_what_they_say():
    law = build_model("power-law", 5)
    random, aligned = law.power({"C_2": 3.0, "slope": 2.0})
    np.testing.assert_allclose(random, 3 * (np.arange(1, 6) / 2) ** -2.0)
    assert not np.any(aligned)
    both = build_model("mixed", 5)
    values = {"C_1": 2.0, "depth": 0.3, "C_1_aligned": 5.0, "index": 5 / 3, "floor": 0.01}
    random, aligned = both.power(values)
    assert float(random[0]) == pytest.approx(2 * 0.5488116360940264, rel=1e-5)
    assert float(aligned[0]) == pytest.approx(5.0) and float(aligned[1]) == 0
    assert both.priors["index"].describe() | {"meaning": ""} == {
        "kind": "uniform",
        "lowest": 1.0,
        "highest": 1.95,
        "meaning": "",
    }
    changed = build_model("cascade", 5, priors={"depth": (2.0, 0.5)})
    assert changed.priors["depth"][1:3] == (2.0, 0.5)


BAD = {
    "model": (("other", 5), {}, "unknown model 'other': choose one of cascade, pitch-angle, power-law, mixed"),
    "rates": (("cascade", 5), {"rates": "fast"}, "unknown model of relaxation rates 'fast'"),
    "family": (("mixed", 5), {"scattering": "x"}, "unknown family of pitch-angle scattering 'x'"),
    "isotropic": (("mixed", 5), {"scattering": "isotropic"}, "isotropic scattering makes a dipole alone"),
    "parameter": (("cascade", 5), {"priors": {"slope": (1, 2)}}, "the model cascade has no parameter 'slope'"),
    "one number": (("cascade", 5), {"priors": {"depth": (1,)}}, "prior of depth takes two numbers, a positive median"),
    "spread": (("cascade", 5), {"priors": {"depth": (1, 0)}}, "prior of depth takes a positive median and"),
    "median": (("cascade", 5), {"priors": {"C_1": (-1, 1)}}, "prior of C_1 takes a positive median"),
    "bounds": (("mixed", 5), {"priors": {"index": (1.9, 1.2)}}, "prior of index takes two rising bounds, not 1.9,1.2"),
    "positive": (("mixed", 5), {"priors": {"floor": (0, 1)}}, "prior of floor takes two rising positive bounds"),
    "low index": (("mixed", 5), {"priors": {"index": (0.5, 1.2)}}, "index q of the turbulence is at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_cannot_be_is_refused(name):
    arguments, options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        build_model(*arguments, **options)
