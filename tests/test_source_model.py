"""Numbers by name and their priors against scipy's distributions, unit conversions by hand, and wrong input."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from diffcr.inference.model_files import model_of
from diffcr.inference.nearest import require_known
from diffcr.inference.source_model import (
    ANGLES,
    QUANTITIES,
    SOURCE_QUANTITIES,
    prior_draws,
    range_of,
)
from diffcr.inference.source_priors import KINDS, Prior, read_prior
from scipy import stats

from diffcr.errors import InputError

VELA = {"distance_pc": 287.0, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 11000}
FIELD = SkyCoord(210.5, -57.1, unit="deg", frame="galactic").icrs.cartesian.xyz.value


def model(parameters=None, priors=None, head=None, **tables):
    """A model without a background, which is quick."""
    return model_of(
        {
            "model": {"background": "none", "observer": "lsr", **(head or {})},
            "parameters": {"field_l_deg": 210.5, "field_b_deg": -57.1, **(parameters or {})},
            "source": {"vela": VELA, "old": {**VELA, "age_yr": 9e4, "latitude_deg": 20, "distance_pc": 400}},
            "priors": priors or {},
            **tables,
        },
        "here",
    )


PLAIN = model()


# Nearest names


def test_unknown_name_is_answered_with_the_nearest_or_with_all():
    require_known("halo", ("halo", "hall"), "no")
    with pytest.raises(InputError, match=r"^it has no 'hal_height'; did you mean 'halo_height'\?$"):
        require_known("hal_height", ("halo_height", "age"), "it has no")
    with pytest.raises(InputError, match=r"^it has no 'xyz'; it has age, halo_height$"):
        require_known("xyz", ("halo_height", "age"), "it has no")
    with pytest.raises(InputError):
        require_known("", ("age",), "it has no")


# Priors

DISTRIBUTIONS = [
    (Prior("normal", (3.0, 0.5)), stats.norm(3.0, 0.5)),
    (Prior("log-normal", (3e28, 0.5)), stats.lognorm(0.5, scale=3e28)),
    (Prior("uniform", (-2.0, 5.0)), stats.uniform(-2, 7)),
    (Prior("log-uniform", (9000.0, 31000.0)), stats.loguniform(9000, 31000)),
    (Prior("half-normal", (0.2,)), stats.halfnorm(scale=0.2)),
]


@pytest.mark.parametrize(("prior", "law"), DISTRIBUTIONS, ids=lambda x: getattr(x, "kind", ""))
def test_prior_is_the_quantile_function_of_its_distribution(prior, law):
    z = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(prior.value(jnp.asarray(z)), law.ppf(stats.norm.cdf(z)), rtol=1e-9)
    assert np.all(np.diff(prior.value(jnp.linspace(-7, 7, 99))) > 0)


@pytest.mark.parametrize(("prior", "law"), DISTRIBUTIONS, ids=lambda x: getattr(x, "kind", ""))
def test_coordinate_is_the_inverse_of_value(prior, law):
    for z in (-3.0, -0.4, 0.0, 1.7, 3.0):
        assert prior.coordinate(float(prior.value(jnp.asarray(z)))) == pytest.approx(z, abs=1e-7)


def test_coordinate_at_and_beyond_an_edge_stays_within_four():
    for prior in (Prior("uniform", (1.0, 2.0)), Prior("log-uniform", (1.0, 2.0))):
        assert [prior.coordinate(value) for value in (-1.0, 1.0, 2.0, 9.0)] == [-4, -4, 4, 4]
    assert Prior("half-normal", (1.0,)).coordinate(0.0) == -4
    assert Prior("log-normal", (1.0, 0.5)).coordinate(0.0) == -4


@pytest.mark.parametrize(("prior", "law"), DISTRIBUTIONS, ids=lambda x: getattr(x, "kind", ""))
def test_prior_far_out_is_in_its_range_with_a_finite_derivative(prior, law):
    z = jnp.array([-40.0, -9.0, 0.0, 9.0, 40.0])
    value = np.asarray(prior.value(z))
    low, high = law.support()
    assert np.all((value >= low - 1e-12 * abs(low)) & (value <= high * (1 + 1e-12)))
    assert np.all(np.isfinite(jax.vmap(jax.grad(prior.value))(z)))


def test_table_of_a_prior_reads_back_as_the_same():
    for prior, _ in DISTRIBUTIONS:
        assert read_prior("x", prior.as_table(), -np.inf, np.inf, 1, "here", 1.0) == prior


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3.0, "prior of x must be a table"),
        ({}, "needs a distribution among normal, .*not None"),
        ({"distribution": "gauss"}, "needs a distribution among .* not 'gauss'"),
        ({"distribution": ["normal"]}, "needs a distribution among"),
        ({"distribution": "normal", "sigma": 1.0}, "a normal prior .of x. has no 'sigma'"),
        ({"distribution": "log-normal", "mean": 1.0}, "has no 'mean'; did you mean 'median'"),
        ({"distribution": "uniform", "lo": 1.0}, "did you mean 'low'"),
        ({"distribution": "normal"}, "the normal prior of x needs spread"),
        ({"distribution": "uniform"}, "needs low and high"),
        ({"distribution": "log-normal", "spread": 0.0}, "must have a spread above 0, not 0; leave the prior out"),
        ({"distribution": "log-normal", "spread": -1}, "must have a spread above 0"),
        ({"distribution": "half-normal", "spread": -1}, "must have a spread above 0"),
        ({"distribution": "log-normal", "spread": "wide"}, "spread of the prior of x must be a finite number"),
        ({"distribution": "log-normal", "spread": True}, "must be a finite number, not True"),
        ({"distribution": "log-normal", "spread": math.nan}, "must be a finite number, not nan"),
        ({"distribution": "log-normal", "spread": math.inf}, "must be a finite number, not inf"),
        ({"distribution": "log-normal", "spread": 10**400}, "must be a finite number"),
        ({"distribution": "log-normal", "median": 0.0, "spread": 1}, "must have a median above 0"),
        ({"distribution": "uniform", "low": 2, "high": 2}, "must have low below high, not 2 and 2"),
        ({"distribution": "uniform", "low": 3, "high": 2}, "must have low below high"),
        ({"distribution": "log-uniform", "low": 0, "high": 2}, "must have a low edge above 0"),
        ({"distribution": "uniform", "low": -0.1, "high": 2}, "leaves the range 0 to inf of that number"),
        ({"distribution": "normal", "mean": 7, "spread": 1}, "leaves the range 0 to inf"),
        ({"distribution": "normal", "mean": [1, 2, 3], "spread": 1}, "mean of the prior of x must be a finite number"),
    ],
)
def test_improper_prior_is_refused(table, message):
    with pytest.raises(InputError, match=message) as error:
        read_prior("x", table, 0.0, math.inf, 1, "here", 5.0)
    assert str(error.value).startswith("here: ")
    assert "\n" not in str(error.value)


def test_prior_without_a_centre_takes_the_value_of_the_model():
    # A normal that reaches an edge only beyond 8 spreads is as good as inside.
    assert read_prior("x", {"distribution": "normal", "spread": 0.5}, 0, np.inf, 1, "here", 5.0).numbers == (5.0, 0.5)
    assert read_prior("x", {"distribution": "log-normal", "spread": 1}, 0, np.inf, 1, "here", 7.0).numbers == (7.0, 1.0)
    vector = read_prior("v", {"distribution": "normal", "spread": 1}, -np.inf, np.inf, 3, "here", (1.0, 2.0, 3.0))
    assert vector.numbers == ((1.0, 2.0, 3.0), 1.0)
    with pytest.raises(InputError, match="must have 3 components, not 2"):
        read_prior("v", {"distribution": "normal", "mean": [1, 2], "spread": 1}, -np.inf, np.inf, 3, "here", (0, 0, 0))


PRIORS = {
    "vela.age_yr": {"distribution": "log-uniform", "low": 9000, "high": 31000},
    "vela.power": {"distribution": "log-normal", "spread": 0.7},
    "gradient_factor": {"distribution": "normal", "spread": 0.5},
    "perpendicular": {"distribution": "half-normal", "spread": 0.2},
    "parallel_factor": {"distribution": "uniform", "low": 1, "high": 3},
    "velocity_km_s": {"distribution": "normal", "mean": [1, 2, 3], "spread": 5},
    "field": {"distribution": "isotropic"},
}


def test_draws_follow_their_priors():
    drawn = prior_draws(model(priors=PRIORS), jax.random.PRNGKey(2), 4000)
    assert set(drawn) == set(PRIORS)
    laws = {
        "vela.age_yr": stats.loguniform(9000, 31000),
        "vela.power": stats.lognorm(0.7),
        "gradient_factor": stats.norm(1, 0.5),
        "perpendicular": stats.halfnorm(scale=0.2),
        "parallel_factor": stats.uniform(1, 2),
    }
    for name, law in laws.items():
        assert stats.kstest(drawn[name], law.cdf).pvalue > 1e-3, name
    for k, mean in enumerate((1, 2, 3)):
        assert stats.kstest(drawn["velocity_km_s"][:, k], stats.norm(mean, 5).cdf).pvalue > 1e-3
    field = np.asarray(drawn["field"])
    np.testing.assert_allclose(np.linalg.norm(field, axis=1), 1, rtol=1e-12)
    for axis in ((0, 0, 1), (1, 0, 0), np.array([1, 1, 1]) / np.sqrt(3)):
        assert stats.kstest(field @ np.asarray(axis), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    # Numbers of their own: no two are the same draw.
    table = np.corrcoef(np.stack([np.asarray(drawn[name]) for name in laws]))
    assert np.max(np.abs(table - np.eye(5))) < 0.08


def test_draws_are_reproducible_and_depend_on_the_key():
    m = model(priors=PRIORS)
    first, again = (prior_draws(m, jax.random.PRNGKey(1), 3) for _ in range(2))
    other = prior_draws(m, jax.random.PRNGKey(2), 3)
    for name in PRIORS:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.any(np.asarray(first[name]) == np.asarray(other[name]))


# From numbers to parameters


def test_units_of_every_number_are_converted():
    p = model(
        {
            "diffusion_cm2_s": 2e28,
            "pivot_GV": 10.0,
            "diffusion_index": 0.5,
            "halo_height_pc": 4000,
            "supernova_rate_per_yr": 0.02,
            "injection_cutoff_TV": 3000.0,
            "gradient_along_field_per_kpc": 0.2,
            "velocity_km_s": [299.792458, 0, -29.9792458],
            "transition_energy_TeV": 1e6,
            "extragalactic_dipole": [0.01, 0.02, 0.03],
            "antisymmetric": -0.3,
        },
        head={"observer": "given"},
    ).parameters()
    # 2e28 cm^2/s at 10 GV is 2e29 cm^2/s at 1 TV, here in cm^2/s over c, in pc.
    assert float(p.diffusion) == pytest.approx(2e29 / 2.99792458e10 / 3.0856775814913673e18, rel=1e-9)
    assert float(p.halo_height) == 4000
    assert float(p.supernova_rate) == 0.02
    assert float(p.injection_cutoff) == 3000
    assert float(p.antisymmetric) == -0.3
    np.testing.assert_allclose(p.local_gradient, 0.2e-3 * FIELD, rtol=1e-9)
    np.testing.assert_allclose(p.velocity, [1e-3, 0, -1e-4], rtol=1e-12)
    np.testing.assert_allclose(p.field, FIELD, atol=1e-9)
    assert float(p.transition_energy) == 1e6
    np.testing.assert_array_equal(p.extragalactic_dipole, [0.01, 0.02, 0.03])


def test_sources_stand_where_they_are_and_inherit_the_spectrum():
    p = model(
        {"injection_index": 2.3, "injection_cutoff_TV": 50.0},
        source={"a": VELA, "b": {**VELA, "spectral_index": 2.1, "cutoff_TV": 7, "power": 3, "duration_yr": 20}},
    ).parameters()
    place = SkyCoord(263.9, -3.3, unit="deg", frame="galactic").cartesian.xyz.value
    np.testing.assert_allclose(p.sources.position, 287 * np.stack([place, place]), atol=1e-9)
    np.testing.assert_array_equal(p.sources.age, [11000, 11000])
    np.testing.assert_array_equal(p.sources.power, [1, 3])
    np.testing.assert_array_equal(p.sources.duration, [0, 20])
    np.testing.assert_array_equal(p.sources.spectral_index, [2.3, 2.1])
    np.testing.assert_array_equal(p.sources.cutoff, [50, 7])


def test_gyration_ratio_sets_both_ratios_of_the_local_tensor():
    p = model({"gyration_ratio": -3}).parameters()
    assert (float(p.perpendicular), float(p.antisymmetric)) == pytest.approx((0.1, -0.3))
    traced = jax.jit(lambda g: PLAIN.parameters({"gyration_ratio": g}).antisymmetric)(2.0)
    assert float(traced) == pytest.approx(0.4)
    assert PLAIN.with_values({"gyration_ratio": 7}).values["perpendicular"] == pytest.approx(0.02)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "angles",
    [
        {"field_l_deg": 210.5, "field_b_deg": -57.1},
        {"field_ra_deg": 48.46852, "field_dec_deg": -21.24401},
        {"field_l_deg": -149.5, "field_b_deg": -57.1},
    ],
    ids=["galactic", "equatorial", "negative"],
)
def test_field_may_be_set_by_its_angles_one_at_a_time(angles, order):
    for start in ({}, {"field": [0.0, 0.0, 1.0]}, {"field": [0.0, -3.0, 0.0]}):
        m = model_of({"model": {"background": "none"}, "parameters": start}, "here")
        for name, value in list(angles.items())[::order]:
            m = m.with_values({name: value})
        field = m.values["field"]
        assert np.linalg.norm(field) == pytest.approx(1)
        np.testing.assert_allclose(field, FIELD, atol=1e-6)


def test_weights_multiply_the_flux_of_elements():
    m = model(head={"composition": "constant"}, weights={"Fe": 2.0})
    assert m.elements == ("p", "He", "CNO", "Fe")
    np.testing.assert_allclose(m.parameters().log_weights, np.log([1, 1, 1, 2]), atol=1e-15)
    assert m.with_values({"weight.p": 0.5}).values["weight.p"] == 0.5


def test_other_values_leave_the_model_as_it_was():
    changed = PLAIN.with_values({"vela.age_yr": 20000, "halo_height_pc": 5000.0})
    assert changed.values["vela.age_yr"] == 20000 and PLAIN.values["vela.age_yr"] == 11000
    np.testing.assert_array_equal(changed.parameters().sources.age, [20000, 9e4])
    np.testing.assert_array_equal(PLAIN.parameters({"old.age_yr": 3e4}).sources.age, [11000, 3e4])


def test_numbers_decide_what_the_chain_is():
    # A burst that is made to last, and a halo that is taken away: neither may stay without effect.
    assert not PLAIN.forward.continuous and PLAIN.forward.halo
    assert PLAIN.with_values({"vela.duration_yr": 500}).forward.continuous
    free = PLAIN.with_values({"halo_height_pc": math.inf})
    assert not free.forward.halo
    assert free.with_values({"halo_height_pc": 3000}).forward.halo
    drawn = model(priors={"vela.duration_yr": {"distribution": "uniform", "low": 0, "high": 500}})
    assert drawn.forward.continuous
    moving = PLAIN.with_values({"velocity_km_s": [0, 0, 20]})
    assert moving.observer == "given"
    with pytest.raises(InputError, match="the motion of the observer is left out"):
        model(head={"observer": "none"}).with_values({"velocity_km_s": [0, 0, 20]})
    with pytest.raises(InputError, match="the motion of the observer is left out"):
        model(head={"observer": "none"}, priors={"velocity_km_s": {"distribution": "normal", "spread": 5}})
    with pytest.raises(InputError, match="halo_height_pc has a prior, but is infinite"):
        model({"halo_height_pc": math.inf}, {"halo_height_pc": {"distribution": "uniform", "low": 1e3, "high": 2e3}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vela.agee_yr": 1}, "the model here has no number 'vela.agee_yr'; did you mean 'vela.age_yr'"),
        ({"diffusion_cm2": 1e28}, "did you mean 'diffusion_cm2_s'"),
        ({"weight.Fe": 1}, "has no number 'weight.Fe'; did you mean 'weight.p'"),
        ({"vela.age_yr": -1}, "vela.age_yr of the model here must be above 0, not -1"),
        ({"vela.age_yr": 0}, "must be above 0, not 0"),
        ({"vela.age_yr": "old"}, "must be a number, not 'old'"),
        ({"vela.age_yr": True}, "must be a number, not True"),
        ({"vela.age_yr": None}, "must be a number, not None"),
        ({"vela.age_yr": math.nan}, "must be finite, not nan"),
        ({"vela.age_yr": math.inf}, "must be finite, not inf"),
        ({"vela.age_yr": 10**400}, "must be finite, not a number beyond"),
        ({"vela.power": -1e-9}, "must be of at least 0"),
        ({"vela.duration_yr": -5}, "must be of at least 0"),
        ({"vela.latitude_deg": 91}, "must be from -90 to 90, not 91"),
        ({"vela.longitude_deg": 361}, "must be from -360 to 360"),
        ({"vela.cutoff_TV": 0}, "must be above 0"),
        ({"diffusion_cm2_s": -3e28}, "diffusion_cm2_s of the model here must be above 0"),
        ({"halo_height_pc": 0}, "must be above 0"),
        ({"halo_height_pc": -math.inf}, "must be finite, not -inf"),
        ({"perpendicular": -0.1}, "must be of at least 0"),
        ({"perpendicular": 1.1}, "kappa_perp is 1.1 times kappa_par.*allow_perpendicular"),
        ({"gyration_ratio": math.inf}, "must be finite"),
        ({"field": [0, 0, 0]}, "not zero"),
        ({"field": [1e300, 0, 0]}, "finite vector that is not zero"),
        ({"field": [0, 1]}, "must have 3 components, not"),
        ({"field": "north"}, "must have 3 components, not 'north'"),
        ({"field": 3}, "must have 3 components, not 3"),
        ({"field": [0, "x", 1]}, "must be a number, not 'x'"),
        ({"field_b_deg": 90.1}, "must be from -90 to 90"),
        ({"spectral_index": -2.5}, "must be of at least -2"),
        ({"velocity_km_s": [3e5, 0, 0]}, "below 1, in units of c"),
        ({"vela.latitude_deg": 89, "vela.distance_pc": 3100}, "outside the halo"),
        ({"weight.p": 0}, "must be above 0"),
    ],
)
def test_number_out_of_its_range_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        PLAIN.with_values(changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"perpendicular": 0},
        {"perpendicular": 1},
        {"vela.power": 0},
        {"vela.distance_pc": 0},
        {"vela.duration_yr": 0},
        {"vela.latitude_deg": -90},
        {"supernova_rate_per_yr": 0},
        {"injection_cutoff_TV": math.inf},
        {"vela.age_yr": 1e-3},
        {"vela.age_yr": np.float64(5.0)},
        {"vela.age_yr": np.int64(5)},
        {"field": np.array([0.0, 0.0, -2.0])},
        {"transition_energy_TeV": 1e-9},
    ],
    ids=str,
)
def test_numbers_at_the_ends_of_their_ranges_are_taken(changes):
    PLAIN.with_values(changes)


def test_flag_lets_diffusion_across_the_field_be_the_faster():
    m = model({"perpendicular": 2}, head={"allow_perpendicular": True})
    assert float(m.parameters().perpendicular) == 2


def test_every_quantity_says_what_it_is_and_has_its_default_in_its_range():
    named = {f"vela.{name}": q for name, q in SOURCE_QUANTITIES.items()}
    for name, q in {**QUANTITIES, **named}.items():
        assert q.meaning
        low, high, size = range_of(name)
        assert (low, high) == (q.low, q.high)
        assert size == (3 if isinstance(q.default, tuple) else 1)
        if q.default is not None:
            assert np.all(np.asarray(q.default) >= low) and np.all(np.asarray(q.default) <= high)
    assert set(ANGLES) <= set(PLAIN.names)
    assert set(KINDS) == {prior.kind for prior, _ in DISTRIBUTIONS}


def test_dipole_has_a_finite_derivative_with_respect_to_every_number():
    m = model(head={"composition": "constant", "global_tensor": "tensor"}, parameters={"global_perpendicular": 0.5})
    names = [name for name in m.names if name not in ANGLES and name != "pivot_GV"]
    values = {name: m.values[name] for name in names if name in m.values}
    values |= {"vela.spectral_index": 2.4, "old.cutoff_TV": math.inf}
    values = {name: jnp.asarray(value, float) for name, value in values.items()}
    slopes = jax.jit(jax.jacfwd(lambda v: m.forward.dipole(m.parameters(v), jnp.array([5.0, 5e3]))))(values)
    for name, slope in slopes.items():
        assert np.all(np.isfinite(slope)), name
    seen = {name for name, slope in slopes.items() if np.any(slope)}
    # Without a background, and with nothing extragalactic, these do nothing.
    silent = {"supernova_rate_per_yr", "gradient_factor", "transition_energy_TeV", "transition_slope"}
    silent |= {"extragalactic_dipole", "vela.duration_yr", "old.duration_yr", "injection_cutoff_TV", "old.cutoff_TV"}
    assert set(values) - seen == silent


# Random supernovae


ENSEMBLE = {"max_age_yr": 1e6, "number": 200, "young_age_yr": 3000.0, "young_number": 310}


def test_supernovae_stand_for_the_rate_whatever_their_number():
    m = model(head={"background": "case-bhattacharya"}, ensemble=ENSEMBLE)
    drawn = m.draw_ensemble(jax.random.PRNGKey(3))
    young, old = np.asarray(drawn.age[:310]), np.asarray(drawn.age[310:])
    assert young.max() <= 3000 <= old.min() and old.max() <= 1e6
    power = np.asarray(drawn.power)
    # 1 / 30 per year: 100 of the last 3000 years (one by one), and of the 997000 before, 33233, each for 166.
    assert set(np.unique(power[:310])) <= {0.0, 1.0}
    np.testing.assert_allclose(power[310:][power[310:] > 0], 997000 / 30 / 200)
    assert np.all(np.abs(drawn.position[:, 2]) < 3000)
    joined = m.parameters(ensemble=drawn)
    assert len(joined.sources.age) == 512
    assert m.grainy.disc is None and m.forward.disc is not None
    half = m.draw_ensemble(jax.random.PRNGKey(3), {"supernova_rate_per_yr": 1 / 60})
    np.testing.assert_allclose(half.power[310:], power[310:] / 2)


def test_room_for_the_youngest_supernovae_is_checked_as_a_trace_could_not():
    head = {"background": "case-bhattacharya"}
    with pytest.raises(InputError, match="raise young_number of the ensemble to 180"):
        model(head=head, ensemble={**ENSEMBLE, "young_number": 150})
    with pytest.raises(InputError, match="young_number of the ensemble"):
        model(head=head, ensemble=ENSEMBLE).with_values({"supernova_rate_per_yr": 0.2})
    more = {"supernova_rate_per_yr": {"distribution": "log-normal", "spread": 0.5}}
    with pytest.raises(InputError, match="young_number of the ensemble"):
        model(head=head, ensemble=ENSEMBLE, priors=more)


def test_supernovae_are_reproducible_and_absent_without_an_ensemble():
    assert PLAIN.draw_ensemble(jax.random.PRNGKey(0)) is None
    assert PLAIN.grainy is PLAIN.forward
    m = model(head={"background": "uniform"}, ensemble={"number": 5})
    first, again, other = (m.draw_ensemble(jax.random.PRNGKey(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first.age, again.age)
    assert not np.any(first.age == other.age)


def test_models_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.name = "other"
