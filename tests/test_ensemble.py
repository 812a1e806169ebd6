"""diffcr.ensemble against analytic distributions, masers of the Perseus arm, and a sum over sources in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from scipy import integrate, spatial, special, stats

from diffcr.ensemble import (
    SpiralArms,
    _heights,
    _radii,
    draw_sources,
    enough_sources,
    expected_number,
    milky_way_arms,
    poisson_mask,
)
from diffcr.errors import InputError
from diffcr.units import DEGREE

LIGHT = (constants.c * u.yr).to_value(u.pc)
SUN = 8500.0
EDGE = 20000.0
MAX_AGE = 1e6
HALO = 300.0
NUMBER = 20_000
NARROW = SpiralArms(0.5, 9000.0, 0.3, 50.0, 2)
KEY = jax.random.key(20)


def remnants(radius):
    """(R / R_sun)^2 exp(-3.53 (R - R_sun) / R_sun) of Case & Bhattacharya (1998)."""
    return (radius / SUN) ** 2 * jnp.exp(-3.53 * (radius / SUN - 1))


def uniform(radius):
    return jnp.ones_like(radius)


@jax.jit
def compiled(key, options):
    return draw_sources(key, NUMBER, remnants, EDGE, MAX_AGE, sun_radius=SUN, halo_height=HALO, **options)


def draw(key, spiral=None, height=100.0, power=1.0, min_age=0.0):
    return compiled(key, {"spiral": spiral, "height": height, "power": power, "min_age": min_age})


def galactocentric(sources):
    """Radius, and azimuth from the Sun's direction to l = 90 degrees."""
    x, y, _ = np.asarray(sources.position).T
    return np.hypot(x - SUN, y), np.arctan2(y, SUN - x)


def radial_law(radius):
    """Of `remnants`: R^3 exp(-a R), cut at the edge."""
    law = stats.gamma(4, scale=SUN / 3.53)
    return law.cdf(radius) / law.cdf(EDGE)


# Distributions: a probability below 1e-3 of the Kolmogorov-Smirnov test fails, with fixed keys.


@pytest.mark.parametrize("spiral", [None, NARROW])
def test_radii_follow_the_surface_density(spiral):
    """Its integral over rings, R shape(R), not over radii; with arms as without."""
    radius, _ = galactocentric(draw(KEY, spiral))
    assert stats.kstest(radius, radial_law).pvalue > 1e-3
    assert radius.max() <= EDGE * (1 + 1e-12)


def test_the_table_of_radii_is_accurate():
    """Beyond what a sample can show: the quantiles of the drawn uniform numbers themselves."""

    def hollow(radius):
        return jnp.where(radius > EDGE / 2, 1.0, 0.0)

    probability = np.linspace(1e-6, 1 - 1e-6, 2001)
    shapes = (remnants, uniform, hollow)
    radii = jax.jit(lambda p: jnp.stack([_radii(p, shape, EDGE) for shape in shapes]))(probability)
    np.testing.assert_allclose(radial_law(radii[0]), probability, atol=2e-7)
    np.testing.assert_allclose((radii[1] / EDGE) ** 2, probability, rtol=1e-12)
    np.testing.assert_allclose((radii[2] / EDGE) ** 2, 0.25 + 0.75 * probability, rtol=1e-12)


def test_azimuths_are_uniform_about_the_centre_of_the_galaxy():
    _, azimuth = galactocentric(draw(KEY))
    assert stats.kstest(azimuth, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_heights_follow_a_laplace_law_cut_at_the_halo():
    z = np.asarray(draw(KEY).position[:, 2])
    law = stats.laplace(scale=100.0)
    assert np.abs(z).max() < HALO
    assert stats.kstest(z, lambda x: (law.cdf(x) - law.cdf(-HALO)) / (law.cdf(HALO) - law.cdf(-HALO))).pvalue > 1e-3
    # The cut removes 5 %, and does not pile it up at the edge.
    assert np.mean(np.abs(z) > 0.99 * HALO) < 0.005


def test_heights_without_a_halo_and_of_a_thin_disc():
    """The quantiles of the drawn uniform numbers; a number may be 0, and its height is finite."""
    probability = np.linspace(0, 1 - 1e-6, 2001)
    z = _heights(jnp.asarray(probability), 50.0, None)
    law = stats.laplace(scale=50.0)
    expected = np.where(probability < 0.5, law.ppf(0.5 - probability * (probability < 0.5)), law.ppf(probability))
    np.testing.assert_allclose(z, expected, rtol=1e-8, atol=1e-12)
    assert np.isfinite(z).all()
    assert np.all(np.asarray(draw(KEY, height=0.0).position[:, 2]) == 0)
    slope = jax.grad(lambda height: jnp.sum(_heights(jnp.asarray(probability), height, HALO)))(0.0)
    assert np.isfinite(slope)


def test_ages_are_uniform_and_never_zero():
    age = np.asarray(draw(KEY).age)
    assert age.min() > 0 and age.max() <= MAX_AGE
    assert stats.kstest(age, stats.uniform(0, MAX_AGE).cdf).pvalue > 1e-3


def test_ages_can_begin_above_zero():
    """Of the same places, so that young and old sources are drawn apart."""
    every, old = draw(KEY), draw(KEY, min_age=0.4 * MAX_AGE)
    assert stats.kstest(np.asarray(old.age), stats.uniform(0.4 * MAX_AGE, 0.6 * MAX_AGE).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(old.position, every.position)


@pytest.mark.parametrize("spiral", [None, NARROW])
def test_radius_height_and_age_are_independent(spiral):
    """One random number used twice would show here, and in no distribution of its own."""
    sources = draw(KEY, spiral)
    radius, azimuth = galactocentric(sources)
    height = np.asarray(sources.position[:, 2])
    columns = [radius, height, np.abs(height), np.asarray(sources.age)] + ([azimuth] if spiral is None else [])
    correlation = stats.spearmanr(np.stack(columns, -1)).statistic
    assert np.abs(correlation - np.eye(len(columns))).max() < 4.5 / np.sqrt(NUMBER)


# Spiral arms


def distance_to_arms(arms, x, y, number):
    """To the nearest of the arms, drawn as a chain of points; galactocentric x to the Sun, y the way of rotation."""
    radius = np.geomspace(3000, 25000, 200_000)
    turn = 2 * np.pi * np.arange(number)[:, None] / number
    azimuth = arms.azimuth + turn - np.log(radius / arms.radius) / np.tan(arms.pitch)
    chain = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth)], -1).reshape(-1, 2)
    return spatial.cKDTree(chain).query(np.stack([x, y], -1))[0]


def test_sources_lie_about_the_arms_at_the_given_width():
    radius, azimuth = galactocentric(draw(KEY, NARROW))
    inside = np.flatnonzero((radius > 6000) & (radius < 14000))[:5000]
    x, y = radius[inside] * np.cos(azimuth[inside]), radius[inside] * np.sin(azimuth[inside])
    distance = distance_to_arms(NARROW, x, y, 2)
    assert stats.kstest(distance, stats.halfnorm(scale=50.0).cdf).pvalue > 1e-3


def test_all_arms_are_as_rich():
    radius, azimuth = galactocentric(draw(KEY, NARROW))
    phase = azimuth - NARROW.azimuth + np.log(radius / NARROW.radius) / np.tan(NARROW.pitch)
    first = np.cos(phase[radius > 5000]) > 0
    assert abs(first.mean() - 0.5) < 4 * 0.5 / np.sqrt(first.size)


def test_arms_trail():
    """The Galaxy rotates to l = 90 degrees at the Sun; along an arm outwards the azimuth falls behind."""
    arms = SpiralArms(0.25, SUN, 0.0, 1.0, 2)
    radius, azimuth = galactocentric(draw(KEY, arms))
    near = np.abs(radius - SUN) < 1000
    near &= np.abs(azimuth) < 1.5
    slope = np.polyfit(np.log(radius[near]), azimuth[near], 1)
    assert slope[0] == pytest.approx(-1 / np.tan(0.25), rel=1e-3)
    assert np.polyval(slope, np.log(SUN)) == pytest.approx(0, abs=1e-3)


def test_arms_of_the_milky_way_pass_where_masers_are():
    """W3(OH) of the Perseus arm at l = 133.95 degrees, 1.95 kpc away (Xu et al. 2006, Science 311, 54)."""
    arms = milky_way_arms()
    longitude = 133.95 * DEGREE
    x, y = SUN - 1950 * np.cos(longitude), 1950 * np.sin(longitude)
    assert distance_to_arms(arms, np.array([x]), np.array([y]), 4)[0] < 1.2 * arms.width
    # Reference points of Perseus, Sagittarius, Scutum and Outer.
    for azimuth, radius in ((14.2, 9900), (25.6, 6600), (27.6, 5000), (18.6, 13000)):
        turns = (azimuth * DEGREE - arms.azimuth) / (2 * np.pi) + np.arange(-2, 3) / 4
        model = arms.radius * np.exp(-np.tan(arms.pitch) * 2 * np.pi * turns)
        assert np.min(np.abs(model / radius - 1)) < 0.1


# What light can show, and how many there are


def test_sources_outside_the_light_cone_have_no_power():
    sources = draw(KEY, power=2.0)
    distance = np.linalg.norm(sources.position, axis=1)
    outside = distance > LIGHT * np.asarray(sources.age)
    assert outside.sum() > 100
    np.testing.assert_array_equal(sources.power, np.where(outside, 0.0, 2.0))


def test_number_of_sources_is_poissonian():
    number = enough_sources(400.0)
    one = functools.partial(draw_sources, number=number, shape=uniform, edge=EDGE, max_age=MAX_AGE, causal=False)
    powers = jax.jit(jax.vmap(lambda key: one(key, expected=400.0).power))(jax.random.split(KEY, 1000))
    powers = np.asarray(powers)
    # The light cone, not asked for, would leave 4 % fewer.
    numbers = powers.sum(1)
    assert set(np.unique(powers)) == {0, 1}
    assert numbers.mean() == pytest.approx(400, abs=4 * np.sqrt(400 / 1000))
    assert numbers.var() == pytest.approx(400, rel=4 * np.sqrt(2 / 1000))
    assert len(powers[0]) > numbers.max()


@pytest.mark.parametrize("expected", [0.0, 0.1, 5.0, 100.0, 1e6])
def test_enough_sources_are_enough(expected):
    assert stats.poisson.sf(enough_sources(expected), expected) < 1e-9


def test_expected_number_of_three_supernovae_per_century():
    assert expected_number(0.03, 2.5e7) == pytest.approx(7.5e5)


TRANSPORT = (6.463e29 * u.cm**2 / u.s).to_value(u.pc**2 / u.yr)
"""Diffusion coefficient of protons of 10 TeV."""


def through_the_halo(age, halo=3000.0):
    """Green's function of the plane z = 0 between two sides from which particles escape freely."""
    spread = TRANSPORT * age / halo**2
    image = 2 * np.arange(-6, 7)[:, None]
    mode = np.arange(1, 14, 2)[:, None] * np.pi / 2
    near = np.sum((-1.0) ** (image // 2) * np.exp(-(image**2) / (4 * spread)), 0) / np.sqrt(4 * np.pi * spread)
    return np.where(spread < 0.3, near, np.sum(np.exp(-(mode**2) * spread), 0)) / halo


def mean_density(youngest, oldest=2.5e7, edge=3e4):
    """n K / (R Q) [1 / kpc] that bursts between two ages make at the Sun, by quadrature over rings and ages.

    Bursts younger than `youngest` make sigma(R_sun) sqrt(youngest K / pi), with surface density sigma, where it is so
    small that nothing changes over their spread.
    """
    radius = np.linspace(0, edge, 1001)
    ring = radius * np.asarray(remnants(radius))
    log_age = np.linspace(np.log(youngest), np.log(oldest), 201)
    age = np.exp(log_age)
    spread = 4 * TRANSPORT * age[:, None]
    along = np.exp(-((radius - SUN) ** 2) / spread) * special.i0e(2 * radius * SUN / spread) / (np.pi * spread)
    rate = integrate.simpson(along * ring, x=radius) / integrate.simpson(ring, x=radius) * through_the_halo(age)
    return 1e3 * TRANSPORT * integrate.simpson(rate * age, x=log_age)


def test_mean_density_at_the_sun():
    """Of all ages it is 2.352e-3 / kpc, known from a sum of Bessel functions over the steady disc; drawn sources have
    it from 5e5 yr on, where the scatter is finite. Wrong places of the Sun or of the sources, and ages, show."""
    number, oldest, youngest = 200_000, 2.5e7, 5e5
    radius = np.linspace(0, 3e4, 3001)
    surface = 1 / (2 * np.pi * integrate.simpson(radius * np.asarray(remnants(radius)), x=radius))
    all_ages = mean_density(3e3) + 1e3 * surface * np.sqrt(3e3 * TRANSPORT / np.pi)
    assert all_ages == pytest.approx(2.352e-3, rel=1e-3)
    sources = jax.jit(lambda key: draw_sources(key, number, remnants, 3e4, oldest, height=0.0))(KEY)
    square, age = np.sum(np.square(sources.position), -1), np.asarray(sources.age)
    along = np.exp(-square / (4 * TRANSPORT * age)) / (4 * np.pi * TRANSPORT * age)
    density = 1e3 * TRANSPORT * oldest * along * through_the_halo(age) * np.asarray(sources.power) * (age > youngest)
    error = density.std() / np.sqrt(number)
    assert error < 0.03 * density.mean()
    assert density.mean() == pytest.approx(mean_density(youngest), abs=4 * error)


# Keys, batches and gradients


def test_a_key_gives_its_ensemble_and_another_key_another():
    first, again, other = draw(KEY), draw(KEY), draw(jax.random.key(21))
    for name in ("position", "age", "power"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.any(np.asarray(first.age) == np.asarray(other.age))


def test_a_batch_is_the_ensembles_one_by_one():
    keys = jax.random.split(KEY, 3)
    one = functools.partial(draw, spiral=NARROW)
    batch = jax.jit(jax.vmap(one))(keys)
    assert batch.position.shape == (3, NUMBER, 3)
    for i, key in enumerate(keys):
        for got, expected in zip(jax.tree.leaves(batch), jax.tree.leaves(one(key)), strict=True):
            np.testing.assert_allclose(got[i], expected, rtol=1e-12)


def test_ensembles_are_differentiable():
    """Against finite differences, one argument at a time."""

    def moments(given):
        edge, max_age, height, halo, sun, pitch, azimuth, width = given
        arms = SpiralArms(pitch, 9000.0, azimuth, width, 2)
        options = dict(sun_radius=sun, height=height, halo_height=halo, spiral=arms)
        sources = draw_sources(KEY, 30, remnants, edge, max_age, **options)
        return jnp.sum(sources.position @ jnp.array([1e-4, 2e-4, 1e-2])) + jnp.sum(sources.age / 1e5)

    both = jax.jit(jax.value_and_grad(moments))
    given = np.array([EDGE, MAX_AGE, 100.0, HALO, SUN, 0.2, 0.3, 50.0])
    gradient = both(given)[1]
    for i, value in enumerate(given):
        step = 1e-5 * value * (np.arange(len(given)) == i)
        difference = (both(given + step)[0] - both(given - step)[0]) / (2e-5 * value)
        assert float(gradient[i]) == pytest.approx(float(difference), rel=1e-5)
        assert gradient[i] != 0


def test_ensembles_without_64_bit_floats():
    with jax.enable_x64(False):
        sources = jax.jit(lambda key: draw_sources(key, 1000, remnants, EDGE, MAX_AGE, halo_height=HALO))(KEY)
        assert sources.position.dtype == jnp.float32
        assert bool(jnp.isfinite(sources.position).all()) and float(jnp.min(sources.age)) > 0


# Wrong input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "number of sources must be a whole number of at least 1, not 0"),
        ({"number": True}, "number of sources must be a whole number"),
        ({"edge": 0.0}, "the edge of the disc must be above 1 and finite, in pc; not 0"),
        ({"edge": np.inf}, "the edge of the disc must be"),
        ({"max_age": -1.0}, "max_age must be above zero and finite, in yr; not -1"),
        ({"min_age": -1.0}, "min_age must be not negative and below max_age, in yr; not -1"),
        ({"min_age": MAX_AGE}, "min_age must be not negative and below max_age"),
        ({"max_age": np.nan}, "max_age must be above zero"),
        ({"sun_radius": -1.0}, "the radius of the Sun must be finite and not negative"),
        ({"height": -1.0}, "the height of the disc must be finite and not negative"),
        ({"halo_height": 0.0}, "the height of the halo must be above zero"),
        ({"expected": -1.0}, "the expected number of sources must be finite and not negative; not -1"),
        ({"expected": 99.0}, "100 sources are too few for a Poisson law of mean 99: raise .*enough_sources.* = 179"),
        ({"shape": lambda r: 1 - r}, "the radial shape must be finite and nowhere negative"),
        ({"shape": lambda r: r * np.nan}, "the radial shape must be finite"),
        ({"shape": lambda r: 0 * r}, "the integral of the radial shape must be finite and above zero"),
        ({"shape": lambda r: r * np.inf}, "the radial shape must be finite"),
    ],
)
def test_ensembles_that_cannot_be_are_refused(change, message):
    given = {"number": 100, "shape": uniform, "edge": EDGE, "max_age": MAX_AGE} | change
    with pytest.raises(InputError, match=message):
        draw_sources(KEY, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pitch": 0.0}, "the pitch of spiral arms must be between 0 and pi / 2 rad; not 0"),
        ({"pitch": 12.8}, "the pitch of spiral arms"),
        ({"radius": 0.0}, "the radius of spiral arms must be above zero"),
        ({"azimuth": np.inf}, "the azimuth of spiral arms must be finite"),
        ({"width": -1.0}, "the width of spiral arms must be not negative"),
        ({"number": 0}, "the number of spiral arms must be a whole number of at least 1, not 0"),
    ],
)
def test_arms_that_cannot_be_are_refused(change, message):
    given = {"pitch": 0.2, "radius": 9000.0, "azimuth": 0.3, "width": 50.0, "number": 2} | change
    with pytest.raises(InputError, match=message):
        SpiralArms(**given)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_rates_and_numbers_that_cannot_be_are_refused(bad):
    with pytest.raises(InputError, match="the supernova rate must be finite and not negative, in 1 / yr"):
        expected_number(bad, 1e6)
    with pytest.raises(InputError, match="max_age must be finite and not negative"):
        expected_number(0.03, bad)
    for function in (enough_sources, functools.partial(poisson_mask, KEY, 10)):
        with pytest.raises(InputError, match="the expected number of sources must be finite and not negative"):
            function(bad)
