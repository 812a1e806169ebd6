"""The small-scale model of counts: its sky put together by hand, its priors, its mirror image, what it refuses."""

import functools

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference import small_scale_model
from diffcr.inference.data import combine
from diffcr.inference.simulate import draw_multipoles
from diffcr.inference.sky_likelihood import sky_likelihood
from diffcr.inference.small_scale_model import check_small_scale, log_cascade_shape, small_scale, small_scale_sky
from diffcr.inference.specification import Specification
from helpers import dipole_sky, drawn
from numpyro import handlers
from numpyro.infer import util
from scipy import special

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.harmonics import to_healpy
from diffcr.pitch_angle import family
from diffcr.site import site

GRID = RingGrid(10, 16)
L_MAX = 4
FIELD = np.array([1.0, -2.0, 1.5]) / np.linalg.norm([1.0, -2.0, 1.5])
SHAPE = {"index": 5 / 3, "floor": 0.0}
"""Quasi-linear theory, whose profile is g = sign(mu) |mu|^(1/3)."""


@functools.cache
def part(energy="a"):
    local = np.asarray(acceptance(site("HAWC"), GRID, power=2.0))
    sky = dipole_sky(GRID, (0.05, 0.03))
    return drawn(site("HAWC"), GRID, local, np.full(16, 1e5), sky, seed=4, epoch_year=2000.0).replace(
        energies=(energy,)
    )


@pytest.fixture(scope="module")
def sky():
    """Of the epoch J2000, so that its frame is that of the field."""
    return sky_likelihood(part(), l_max=L_MAX, rate_bins=4, nodes=16)


@functools.cache
def made(**options):
    return functools.partial(small_scale, **options)


@functools.partial(jax.jit, static_argnames="model")
def traced(model, sky, values, key):
    trace = handlers.trace(handlers.substitute(handlers.seed(model, key), data=values)).get_trace(sky)
    fn = trace["sources"]["fn"]
    return {k: s["value"] for k, s in trace.items() if k != "counts"}, (fn.loc, fn.scale)


@functools.partial(jax.jit, static_argnames="model")
def density(model, sky, values):
    return util.log_density(model, (sky,), {}, values)[0]


def moments(s, l):
    """int_0^1 mu^s P_l of odd l, in closed form."""
    gammas = special.gamma(1 + s) / special.gamma(1 + (s - l) / 2) / special.gamma((l + s + 3) / 2)
    return np.sqrt(np.pi) * 2 ** (-s - 1) * gammas


def parts_of(coefficients, degree):
    return coefficients[degree**2 : (degree + 1) ** 2]


# The sky ------------------------------------------------------------------------------------------------------


def test_a_sky_is_the_profile_about_the_field_and_turbulence():
    """Pixel by pixel on a HEALPix map: s sum_l p_l P_l(n . B) with closed moments of quasi-linear theory."""
    turbulent = draw_multipoles(np.random.default_rng(2), [1e-6, 2e-7, 1e-7, 5e-8])
    coefficients = small_scale_sky(FIELD, -2e-3, family("quasi-linear", **SHAPE), turbulent)
    n = np.stack(healpy.pix2vec(8, np.arange(768)), axis=-1)
    x, expected = n @ FIELD, 0.0
    for l in (1, 3, 5):
        p = (2 * l + 1) / 3 * moments(1 / 3, l) / moments(1 / 3, 1)
        expected = expected - 2e-3 * p * special.eval_legendre(l, x)
    seen = healpy.alm2map(np.asarray(to_healpy(coefficients)), 8, lmax=5)
    random = healpy.alm2map(np.asarray(to_healpy(turbulent)), 8, lmax=5)
    np.testing.assert_allclose(seen - random, expected, atol=1e-12)
    # An excess is where -s B points: a density that falls along +B.
    assert seen[np.argmin(x)] - random[np.argmin(x)] > 1e-3


def test_the_model_makes_that_sky_of_its_parameters(sky):
    """Multipoles of date, here of J2000, of the strength and of each turbulent coefficient."""
    model = made(**SHAPE, dipole_scatter=1e-3)
    rng = np.random.default_rng(3)
    values = {"field": 3.0 * FIELD, "sources": 1e-3 * rng.standard_normal(1 + len(sky.degree))}
    found, _ = traced(model, sky, values, jax.random.PRNGKey(0))
    degree, order = np.array(sky.degree), np.array(sky.order)
    turbulent = np.zeros((L_MAX + 1) ** 2)
    turbulent[degree**2 + degree + order] = values["sources"][1:]
    expected = small_scale_sky(FIELD, values["sources"][0], family("quasi-linear", **SHAPE), turbulent)
    np.testing.assert_allclose(found["theta_of_date"], expected[degree**2 + degree + order], rtol=1e-9, atol=1e-15)
    vector = np.sqrt(3 / (4 * np.pi)) * expected[[3, 1, 2]]
    # The m = 0 part of the random dipole is no parameter: it is not seen.
    seen = [found["delta_0h"], found["delta_6h"], found["delta_N"]]
    np.testing.assert_allclose(seen, vector, rtol=1e-9)
    l = np.arange(2, L_MAX + 1)
    aligned = small_scale_sky(FIELD, values["sources"][0], family("quasi-linear", **SHAPE), np.zeros((L_MAX + 1) ** 2))
    power = [np.sum(parts_of(aligned, each) ** 2) / (2 * each + 1) for each in l]
    np.testing.assert_allclose(found["aligned_power"], power, rtol=1e-9, atol=1e-20)


# Priors -------------------------------------------------------------------------------------------------------


def test_turbulent_multipoles_have_the_variance_of_the_cascade(sky):
    """Nearest-neighbour chain with rates l (l + 1), by Bateman's two- and three-term sums at nu T = 0.2."""
    values = {"log_depth_scaled": jnp.array(np.log(0.2 / 0.3) / 1.0), "log_power_2_scaled": jnp.array(0.5)}
    found, (_, scale) = traced(made(median=2e-8, spread=1.0), sky, values, jax.random.PRNGKey(1))
    t = 0.2
    e = np.exp(-t * np.array([2.0, 6.0, 12.0]))
    second = 3 / 5 * 2 * (e[0] - e[1]) / 4
    third = 3 / 7 * 2 * 6 * (e[0] / (4 * 10) - e[1] / (4 * 6) + e[2] / (10 * 6))
    np.testing.assert_allclose(found["depth"], t)
    np.testing.assert_allclose(found["power"][:2], 2e-8 * np.exp(0.5) * np.array([1, third / second]), rtol=1e-10)
    degree = np.array([l for l in sky.degree if l > 1])
    np.testing.assert_allclose(scale[1:] ** 2, found["power"][degree - 2], rtol=1e-10)
    assert scale[0] == 1e-2


def test_a_power_law_has_its_slope(sky):
    values = {"power_index_scaled": jnp.array(0.7), "log_power_2_scaled": jnp.array(0.0)}
    found, _ = traced(made(power="power-law", slope=2.5, median=3e-8), sky, values, jax.random.PRNGKey(1))
    np.testing.assert_allclose(found["power"], 3e-8 * (np.arange(2, L_MAX + 1) / 2) ** -3.2, rtol=1e-10)


def test_a_cascade_that_ends_keeps_its_power_there():
    """At large depth all power has come to l = 3; (2l+1) C_l is what flows."""
    shape = np.exp(np.asarray(log_cascade_shape(1.0, 3.0, "angular-diffusion", 5)))
    e = np.exp(-np.array([2.0, 6.0]))
    second = 3 / 5 * (e[0] - e[1]) / 2
    third = (3 - 3 * e[0] - 5 * second) / 7
    np.testing.assert_allclose(shape[:2], [1, third / second], rtol=1e-7)
    assert np.all(shape[2:] < 1e-7)


@pytest.mark.parametrize(
    ("options", "name", "low", "high", "log"),
    [
        ({"index": (1.1, 1.8)}, "index", 1.1, 1.8, False),
        ({"floor": (1e-2, 0.5)}, "floor", 1e-2, 0.5, True),
        ({"profile": "enhanced", "strength": (0.5, 50.0)}, "strength", 0.5, 50.0, True),
        ({"end": (2.0, 9.0)}, "end", 2.0, 9.0, False),
    ],
)
def test_bounded_parameters_are_uniform_or_log_uniform(options, name, low, high, log):
    for place in (0.0, 0.25, 1.0):
        found = hyper_parameters(options, {f"{name}_scaled": jnp.array(place)})
        ends = np.log([low, high]) if log else np.array([low, high])
        expected = ends[0] + place * (ends[1] - ends[0])
        np.testing.assert_allclose(found[name], np.exp(expected) if log else expected, rtol=1e-12)


def hyper_parameters(options, values):
    """Sites of the profile and of the power alone: the rest of the model does not act on them."""
    given = small_scale_model._given(options)

    def model():
        bounds = {k: given[k] for k in ("index", "floor", "width", "strength", "centre")}
        small_scale_model._profile_shape(given["profile"], bounds, 2)
        names = ("power", "relaxation", "depth", "end", "median", "spread", "slope")
        small_scale_model._turbulent_power(2, *(given[k] for k in names))

    trace = handlers.trace(handlers.substitute(handlers.seed(model, jax.random.PRNGKey(0)), data=values)).get_trace()
    return {k: s["value"] for k, s in trace.items()}


def test_a_number_in_place_of_bounds_is_known():
    found = hyper_parameters(SHAPE, {})
    assert not {"index", "floor", "index_scaled"} & set(found)


# Symmetry and coordinates -------------------------------------------------------------------------------------


def test_the_mirror_image_is_exactly_as_probable_and_no_other_is(sky):
    model = made(scale=0.05, median=1e-6, dipole_scatter=1e-3)
    rng = np.random.default_rng(5)
    count = 1 + len(sky.degree)
    values = {"field": rng.standard_normal(3), "sources": 1e-3 * rng.standard_normal(count)}
    values |= {f"{k}_scaled": jnp.array(0.4) for k in ("index", "floor", "log_power_2", "log_depth")}
    values["log_rate"] = 0.02 * rng.standard_normal(sky.rate_centre.shape)
    signs = small_scale_model.small_scale_mirror(sky, scale=0.05, median=1e-6, dipole_scatter=1e-3)
    assert signs["sources"].shape == (count,)
    image = {k: v * signs.get(k, 1.0) for k, v in values.items()}
    here = float(density(model, sky, values))
    assert float(density(model, sky, image)) == pytest.approx(here, abs=1e-9)
    assert abs(float(density(model, sky, image | {"field": values["field"]})) - here) > 1e-3


@pytest.mark.parametrize("options", [{"end": (2.0, 9.0)}, {"profile": "broadened", "power": "none"}])
def test_gradients_are_those_of_finite_differences(sky, options):
    model = made(scale=0.05, median=1e-5, **options)
    potential = jax.jit(lambda z: jax.value_and_grad(lambda z: util.potential_energy(model, (sky,), {}, z))(z))
    rng = np.random.default_rng(6)

    def sites():
        trace = handlers.trace(handlers.seed(model, jax.random.PRNGKey(0))).get_trace(sky)
        return {k: s["value"] for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}

    z = {k: 0.5 * jnp.asarray(rng.standard_normal(v.shape)) for k, v in jax.eval_shape(sites).items()}
    _, gradient = potential(z)
    for _ in range(2):
        direction = {k: rng.standard_normal(v.shape) for k, v in z.items()}
        ahead, behind = (float(potential({k: v + s * 1e-5 * direction[k] for k, v in z.items()})[0]) for s in (1, -1))
        slope = sum(float(np.sum(gradient[k] * direction[k])) for k in z)
        size = np.sqrt(sum(float(np.sum(np.square(g))) for g in gradient.values()))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, atol=1e-5 * size + 1e-4)


def test_the_stretch_reaches_for_where_the_field_is(sky):
    stretch = np.asarray(small_scale_model.small_scale_stretch(sky, scale=0.1, power="none", **SHAPE))
    values, vectors = np.linalg.eigh(stretch)
    assert stretch.shape == (3, 3) and values[0] > 0
    # The data hold a dipole of RA 31 degrees alone.
    assert abs((np.degrees(np.arctan2(vectors[1, 2], vectors[0, 2])) - 31 + 90) % 180 - 90) < 15


def test_the_geometry_is_that_of_the_data_whatever_the_model():
    """A profile has no even degrees, and an ended cascade nothing beyond: the information is that of the counts."""
    others = {"profile": "none", "end": (2.0, 2.5)}, {"profile": "none", "depth": (1e-4, 1.0)}
    models = ({}, {"power": "none"}, *others)
    make = lambda priors: Specification("small-scale", L_MAX, priors, rate_bins=4).likelihood(part(), nodes=16)
    skies = [make(priors) for priors in models]
    for each in skies[1:]:
        np.testing.assert_allclose(
            each.information, skies[0].information, rtol=0.1, atol=1e-3 * skies[0].information.max()
        )
        measured = [np.linalg.solve(s.information[0], s.pull[0]) for s in (each, skies[0])]
        width = np.sqrt(np.diag(np.linalg.inv(skies[0].information[0])))
        np.testing.assert_allclose((measured[0] - measured[1]) / width, 0, atol=0.3)


# Misuse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("l_max", "priors", "message"),
    [
        (1, {}, "needs l_max of at least 2, not 1; use --model dipole"),
        (4, {"power": "flat"}, "power of the model small-scale must be one of cascade, power-law, none, not 'flat'"),
        (4, {"profile": "narrow"}, "profile of the model small-scale must be one of isotropic, quasi-linear"),
        (4, {"relaxation": "slow"}, "relaxation of the model small-scale must be one of angular-diffusion"),
        (4, {"power": "none", "profile": "none"}, "neither a profile nor turbulent multipoles leaves a dipole alone"),
        (4, {"scale": 0.0}, "the prior strength s must be positive and finite, not 0"),
        (4, {"median": -1e-8}, "the prior median of C_2 must be positive"),
        (4, {"dipole_scatter": -1.0}, "the scatter of the dipole must not be negative, got -1"),
        (4, {"slope": np.nan, "power": "power-law"}, "the slope of the prior C_l must be finite"),
        (4, {"depth": 0.3}, "the prior depth takes a median of nu T and a spread of its logarithm"),
        (4, {"depth": (0.3, -1.0)}, "both positive, such as 0.3,1, not 0.3,-1.0"),
        (4, {"end": (9.0, 3.0)}, "lies between two degrees of at least 2, lower one first, not 9.0, 3.0"),
        (4, {"end": (1.0, 3.0)}, "lies between two degrees of at least 2"),
        (
            4,
            {"end": (2.0, 9.0), "power": "power-law"},
            r"prior end is not used with power power-law \(it has slope, med",
        ),
        (4, {"width": 0.1}, r"prior width is not used with profile quasi-linear \(it has index, floor\): leave it out"),
        (4, {"slope": 2.0}, "prior slope is not used with power cascade"),
        (4, {"profile": "none", "index": 1.5}, r"prior index is not used with profile none \(it has none\)"),
        (4, {"index": (1.8, 1.2)}, "the prior index of D_mumu takes one number, or two bounds, lower one first"),
        (4, {"floor": (0.0, 1.0)}, "floor of D_mumu is log-uniform: its bounds must be above zero"),
        (4, {"index": 2.1, "floor": 0.0}, "kappa_par diverges for index q = 2.1"),
        (4, {"velocity_spread": 1e-5}, "a spread of the velocity was given, but no velocity"),
    ],
)
def test_priors_that_cannot_be_sampled_are_refused_in_one_line(l_max, priors, message):
    with pytest.raises(InputError, match=message) as caught:
        Specification("small-scale", l_max, priors)
    assert "\n" not in str(caught.value)


def test_good_priors_pass():
    check_small_scale(2)
    check_small_scale(6, profile="enhanced", end=(3.0, 8.0))
    check_small_scale(6, profile="isotropic", power="power-law")


def test_several_energy_bins_are_refused():
    with pytest.raises(InputError, match="describes one energy bin, the counts have 2: sample one at a time"):
        Specification("small-scale").likelihood(combine([part("a"), part("b")]))
