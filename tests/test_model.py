"""The chain from sources to counts against numbers computed elsewhere, closed forms, and sums by hand."""

import dataclasses

import equinox as eqx
import erfa
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from helpers import dipole_sky
from scipy.special import erfc

from diffcr.composition import EnergyResponse, constant, pure
from diffcr.disc import Disc, case_bhattacharya, uniform
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.model import Configuration, ForwardModel, Parameters, invalid, require_parameters
from diffcr.observer import cosmic_velocity, interstellar_velocity, lsr_velocity
from diffcr.source import make_sources

LIGHT = 0.3066013937879528
"""pc per yr."""

DIFFUSION = 3e29 / 2.99792458e10 / 3.0856775814913673e18
"""3e28 cm^2/s at 1 GV, growing as the cube root of rigidity: K / c at 1 TV [pc]."""

FIELD = SkyCoord(210.5, -57.1, unit="deg", frame="galactic").icrs.cartesian.xyz.value
VELA = SkyCoord(263.9, -3.3, unit="deg", frame="galactic")
TO_VELA = VELA.icrs.cartesian.xyz.value
DISTANCE = 1000 * LIGHT


def vela(distance=DISTANCE, age=11000.0, power=1.0, **others):
    """Vela, and a source without power that is there for the sake of the shape only."""
    position = distance * VELA.cartesian.xyz.value
    return make_sources(np.stack([position, -position]), age, np.array([power, 0.0]), 2.4, **others)


NONE = make_sources(np.zeros((0, 3)), 1.0)

DEFAULT = {
    "diffusion": DIFFUSION,
    "diffusion_index": 1 / 3,
    "halo_height": 3000.0,
    "parallel_factor": 1.0,
    "perpendicular": 0.0,
    "antisymmetric": 0.0,
    "field": FIELD,
    "global_field": (0.0, 0.0, 1.0),
    "global_perpendicular": 1.0,
    "supernova_rate": 1 / 30,
    "injection_index": 2.4,
    "injection_cutoff": np.inf,
    "gradient_factor": 1.0,
    "local_gradient": np.zeros(3),
    "velocity": np.zeros(3),
    "spectral_index": 2.7,
    "log_weights": np.zeros(1),
    "transition_energy": np.inf,
    "transition_slope": 2.0,
    "extragalactic_dipole": np.zeros(3),
    "multipoles": np.zeros(0),
}


def numbers(sources=None, **changes) -> Parameters:
    values = {name: jnp.asarray(value, float) for name, value in {**DEFAULT, **changes}.items()}
    return Parameters(sources=vela() if sources is None else sources, **values)


PROTON = pure("p")
CHAIN = ForwardModel(PROTON, Disc(case_bhattacharya), compton_getting=False)
BURST = ForwardModel(PROTON)
FREE = ForwardModel(PROTON, halo=False)

dipole = eqx.filter_jit(lambda model, p, energy: model.dipole(p, energy))
density = eqx.filter_jit(lambda model, p, rigidity: jax.vmap(lambda r: model.density(p, r))(rigidity))


def at(model, p, *energy):
    """Dipoles at some energies; the same shape always, so that one program serves all."""
    return np.asarray(dipole(model, p, jnp.asarray(np.resize(np.asarray(energy, float), 16))))[: len(energy)]


def along(model, p, energy):
    return at(model, p, *energy) @ (p.field / np.linalg.norm(p.field))


def flip(model, p, low, high):
    """Energy at which the dipole along the field changes sign, by halving into fifteen."""
    for _ in range(9):
        energy = np.geomspace(low, high, 16)
        values = along(model, p, energy)
        place = np.flatnonzero(values[:-1] * values[1:] <= 0)
        assert len(place) == 1
        low, high = energy[place[0]], energy[place[0] + 1]
    return np.sqrt(low * high)


def degrees(a, b):
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


# One remnant on a smooth background: numbers of a computation of its own (K_0 series, trapezoidal sums)


def test_vela_on_a_smooth_background_has_the_computed_dipole():
    p = numbers()
    d = at(CHAIN, p, 1, 10, 100)
    np.testing.assert_allclose(np.hypot(d[:, 0], d[:, 1]), [7.138e-4, 1.4895e-3, 4.471e-4], rtol=5e-3)
    np.testing.assert_allclose(np.degrees(np.arctan2(d[:, 1], d[:, 0])), 48.47, atol=0.005)
    np.testing.assert_allclose(along(CHAIN, p, (1, 10, 100)), [7.659e-4, 1.5981e-3, 4.797e-4], rtol=5e-3)
    # Nothing is across the field.
    np.testing.assert_allclose(np.cross(d, FIELD), 0, atol=1e-15)
    whole = np.linalg.norm(at(CHAIN, numbers(perpendicular=1.0), 1, 10, 100), axis=-1)
    np.testing.assert_allclose(whole, [3.956e-3, 8.255e-3, 1.0627e-2], rtol=5e-3)


def test_density_of_vela_over_that_of_the_background_is_the_computed_one():
    q = density(CHAIN, numbers(), jnp.array([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(np.exp(q.log_sources - q.log_background), [0.02903, 0.06254, 0.07271], rtol=5e-3)
    # Each of the two by itself: n K / (R Q) = 2.35218e-6 / pc, and a normal distribution.
    rigidity = np.array([1.0, 10.0, 100.0])
    spread = DIFFUSION * rigidity ** (1 / 3)
    smooth = 2.35218e-6 / 30 / (LIGHT * spread) * rigidity**-2.4
    np.testing.assert_allclose(np.exp(q.log_background), smooth, rtol=1e-3)
    path = 4 * spread * LIGHT * 11000
    burst = (np.pi * path) ** -1.5 * np.exp(-(DISTANCE**2) / path) * rigidity**-2.4
    np.testing.assert_allclose(np.exp(q.log_sources), burst, rtol=1e-10)


def test_dipole_turns_over_where_it_was_computed_to():
    assert flip(CHAIN, numbers(), 1.0, 1e4) == pytest.approx(152.6, rel=1e-2)


def test_one_remnant_is_a_knife_edge():
    # Age and distance of other publications, half and three times the power: 10 TeV, along the field.
    assert along(CHAIN, numbers(), [10])[0] == pytest.approx(1.6e-3, abs=0.05e-3)
    assert along(CHAIN, numbers(vela(287.0, 20000.0)), [10])[0] == pytest.approx(-3.4e-4, abs=0.05e-4)
    # For k times the power (-0.4680 x 3.144e-3 + 0.06254 k x 0.3716 x 0.13636) / (1 + 0.06254 k), and zero where, with
    # h^3 = E / 10 TeV, 0.06254 k exp(0.997 (1 - 1 / h)) / sqrt(h) x 0.3716 x 0.13636 = 0.4680 x 3.144e-3 h.
    assert along(CHAIN, numbers(vela(power=0.5)), [10])[0] == pytest.approx(1.10e-4, abs=0.05e-4)
    assert along(CHAIN, numbers(vela(power=3.0)), [10])[0] == pytest.approx(6.77e-3, abs=0.05e-3)
    assert flip(CHAIN, numbers(vela(power=3.0)), 1.0, 1e4) == pytest.approx(2.2e3, abs=0.05e3)


def test_uniform_disc_has_no_phase_flip():
    flat = ForwardModel(PROTON, Disc(uniform, 15000.0), compton_getting=False)
    d = at(flat, numbers(), 1, 10, 100, 1000)
    np.testing.assert_allclose(np.hypot(d[:, 0], d[:, 1]), [1.46e-3, 3.04e-3, 3.42e-3, 2.80e-3], rtol=5e-3)
    assert np.all(along(flat, numbers(), np.geomspace(1, 1e4, 16)) > 0)


def test_iron_flips_at_26_times_the_energy_of_protons():
    iron = dataclasses.replace(CHAIN, composition=pure("Fe"))
    ratio = flip(iron, numbers(), 26.0, 26e4) / flip(CHAIN, numbers(), 1.0, 1e4)
    assert ratio == pytest.approx(26, rel=1e-6)


def test_background_alone_points_to_the_galactic_centre():
    p = numbers(vela(power=0.0), perpendicular=1.0)
    centre = SkyCoord(0, 0, unit="deg", frame="galactic").icrs.cartesian.xyz.value
    # 3 K / c times 0.15001 / kpc at 10 TeV.
    np.testing.assert_allclose(at(CHAIN, p, 10)[0], 3.14e-3 * centre, atol=1e-5)
    turned = numbers(vela(power=0.0), perpendicular=1.0, gradient_factor=-0.5)
    np.testing.assert_allclose(at(CHAIN, turned, 10), -0.5 * at(CHAIN, p, 10), rtol=1e-12)


def test_background_rate_and_spectrum_weigh_against_the_remnant():
    rigidity = jnp.array([20.0, 20.0, 20.0])

    def share(sources=None, **changes):
        q = density(CHAIN, numbers(sources, **changes), rigidity)
        return float(np.exp(q.log_sources - q.log_background)[0])

    plain = share()
    assert share(supernova_rate=1 / 60) == pytest.approx(2 * plain)
    assert share(vela(power=3.0)) == pytest.approx(3 * plain)
    assert share(injection_index=2.5) == pytest.approx(20**0.1 * plain)
    assert share(injection_cutoff=40.0) == pytest.approx(np.exp(0.5) * plain)
    assert share(vela(cutoff=40.0)) == pytest.approx(np.exp(-0.5) * plain)


# Two tensors


def test_same_tensor_points_at_the_source_however_anisotropic():
    model = dataclasses.replace(BURST, global_tensor="local")
    for perpendicular in (1e-3, 0.1, 1.0):
        got = at(model, numbers(perpendicular=perpendicular, parallel_factor=2.0), 10)[0]
        # 3 r / (2 c t), the limit of age.
        np.testing.assert_allclose(got, 3 * 1000 / (2 * 11000) * TO_VELA, rtol=1e-9)


def test_other_tensor_on_large_scales_projects_on_the_field():
    got = at(BURST, numbers(), 10)[0]
    np.testing.assert_allclose(got, 0.13636363636363635 * (TO_VELA @ FIELD) * FIELD, rtol=1e-9)
    assert TO_VELA @ FIELD == pytest.approx(0.3716, abs=1e-4)
    opposite = at(BURST, numbers(field=-7 * FIELD), 10)[0]
    np.testing.assert_allclose(opposite, got, rtol=1e-12)


def test_tensor_of_its_own_gives_its_own_gradient():
    axis, ratio = np.array([1.0, 2.0, -2.0]) / 3, 0.2
    model = dataclasses.replace(FREE, global_tensor="tensor")
    p = numbers(global_field=3 * axis, global_perpendicular=ratio, perpendicular=0.05, antisymmetric=0.1)
    large = np.outer(axis, axis) + ratio * (np.eye(3) - np.outer(axis, axis))
    gradient = np.linalg.solve(large, TO_VELA) * DISTANCE / (2 * LIGHT * 11000)
    parallel = (gradient @ FIELD) * FIELD
    want = 3 * (parallel + 0.05 * (gradient - parallel) + 0.1 * np.cross(gradient, FIELD))
    np.testing.assert_allclose(at(model, p, 10)[0], want, rtol=1e-9)


def test_parallel_factor_scales_the_flux_and_not_the_density():
    got = at(CHAIN, numbers(parallel_factor=3.0), 1, 100)
    np.testing.assert_allclose(got, 3 * at(CHAIN, numbers(), 1, 100), rtol=1e-12)
    same = density(CHAIN, numbers(parallel_factor=3.0), jnp.array([1.0, 10.0, 100.0]))
    assert jax.tree.all(jax.tree.map(np.array_equal, same, density(CHAIN, numbers(), jnp.array([1.0, 10.0, 100.0]))))


@pytest.mark.parametrize(("gyration", "off"), [(3.0, 38), (10.0, 14), (100.0, 1.4), (-3.0, 38)])
def test_gyration_turns_the_dipole_to_the_field(gyration, off):
    p = numbers(perpendicular=1 / (1 + gyration**2), antisymmetric=gyration / (1 + gyration**2))
    got = at(BURST, p, 10)[0]
    assert degrees(got, FIELD) == pytest.approx(off, rel=0.03)
    # nu Phi + Omega x Phi = -grad phi / 3, solved: the sense in which it turns.
    cross = np.cross(np.eye(3), FIELD)
    want = np.linalg.solve(np.eye(3) - gyration * cross.T, TO_VELA)
    np.testing.assert_allclose(cross.T @ TO_VELA, np.cross(TO_VELA, FIELD), atol=1e-15)
    assert degrees(got, want) < 1e-6
    reverse = eqx.tree_at(lambda p: (p.field, p.antisymmetric), p, (-p.field, -p.antisymmetric))
    np.testing.assert_allclose(at(BURST, reverse, 10)[0], got, rtol=1e-12)
    wrong = eqx.tree_at(lambda p: p.field, p, -p.field)
    assert degrees(at(BURST, wrong, 10)[0], got) > 1


def test_lasting_emission_has_the_density_of_the_closed_form():
    model = dataclasses.replace(FREE, continuous=True)
    got = at(model, numbers(vela(duration=11000.0), perpendicular=1.0), 1, 100)
    spread = DIFFUSION * np.array([1, 100]) ** (1 / 3)
    width = np.sqrt(4 * spread * LIGHT * 11000)
    x = DISTANCE / width
    # ln n = ln erfc(r / width) - ln r
    slope = -2 / np.sqrt(np.pi) * np.exp(-(x**2)) / erfc(x) / width - 1 / DISTANCE
    np.testing.assert_allclose(got, (-3 * spread * slope)[:, None] * TO_VELA, rtol=1e-8)


def test_gradient_the_mean_field_leaves_out_is_added():
    extra = np.array([1e-5, -2e-5, 3e-5])
    difference = at(BURST, numbers(local_gradient=extra), 8) - at(BURST, numbers(), 8)
    np.testing.assert_allclose(difference[0], 3 * 2 * DIFFUSION * (extra @ FIELD) * FIELD, rtol=1e-6)


# Elements, the observer, extragalactic particles


TWO = make_sources(np.array([[-200.0, 150.0, 30.0], [400.0, 100.0, -50.0]]), np.array([2e4, 5e4]), 1.0, 2.4)


MIX = ForwardModel(constant({"p": 0.3, "He": 0.5, "Fe": 0.2}))


def test_mix_is_the_mean_over_elements_at_their_rigidities():
    energy = np.array([5.0, 500.0])
    got = at(MIX, numbers(TWO, log_weights=np.log([1.0, 2.0, 0.5])), *energy)
    shares = np.array([0.3, 1.0, 0.1]) / 1.4
    each = [at(BURST, numbers(TWO), *(energy / charge)) for charge in (1, 2, 26)]
    np.testing.assert_allclose(got, np.einsum("z,zek->ek", shares, each), rtol=1e-12)
    assert np.max(np.abs(each[0] / each[2] - 1)) > 0.1


@pytest.mark.parametrize(
    ("velocity", "want"),
    [
        (lsr_velocity, (-0.1335e-4, -2.5986e-4, 1.1098e-4)),
        (interstellar_velocity, (-0.9792e-4, -3.6672e-4, -1.2041e-4)),
    ],
)
def test_motion_of_the_observer_adds_its_dipole_at_every_energy(velocity, want):
    added = at(BURST, numbers(velocity=velocity()), 1, 100) - at(BURST, numbers(), 1, 100)
    np.testing.assert_allclose(added, np.broadcast_to(want, (2, 3)), atol=5e-8)
    np.testing.assert_allclose(added[1], 4.7 * velocity(), rtol=1e-9)
    steeper = numbers(velocity=velocity(), spectral_index=3.7)
    np.testing.assert_allclose(at(BURST, steeper, 1) - at(BURST, numbers(), 1), added[:1] * 5.7 / 4.7, rtol=1e-9)
    np.testing.assert_array_equal(at(CHAIN, numbers(velocity=velocity()), 1, 100), at(CHAIN, numbers(), 1, 100))


def test_extragalactic_particles_show_the_motion_against_the_microwave_background():
    got = at(BURST, numbers(velocity=lsr_velocity(), transition_energy=1e-9, spectral_index=3.0), 10)[0]
    assert np.linalg.norm(got) == pytest.approx(5 * 369.82 / 299792.458, rel=1e-9)
    place = SkyCoord(*got, representation_type="cartesian").galactic
    assert (place.l.deg, place.b.deg) == pytest.approx((264.021, 48.253), abs=1e-3)


def test_extragalactic_part_takes_over_at_its_energy():
    own = np.array([0.05, -0.02, 0.01])
    p = numbers(transition_energy=100.0, transition_slope=3.0, extragalactic_dipole=own)
    energy = np.array([50.0, 100.0, 200.0])
    part = 1 / (1 + (energy / 100) ** -3.0)
    np.testing.assert_allclose(BURST.extragalactic_fraction(p, energy), part, rtol=1e-12)
    outer = own + 4.7 * np.asarray(cosmic_velocity())
    want = (1 - part)[:, None] * at(BURST, numbers(), *energy) + part[:, None] * outer
    np.testing.assert_allclose(at(BURST, p, *energy), want, rtol=1e-10)
    np.testing.assert_array_equal(BURST.extragalactic_fraction(numbers(), energy), 0)
    # An observer at rest moves in no frame.
    np.testing.assert_array_equal(CHAIN.extragalactic(p), own)
    np.testing.assert_array_equal(CHAIN.motion_dipole(numbers(velocity=lsr_velocity())), 0)


def test_shape_of_the_energies_is_kept():
    for shape in ((), (2, 3), (0,)):
        energy = jax.ShapeDtypeStruct(shape, float)
        assert jax.eval_shape(BURST.dipole, numbers(), energy).shape == (*shape, 3)


def test_sharp_bin_shows_the_dipole_at_its_median_and_a_broad_one_its_mean():
    p = numbers(TWO, log_weights=np.array([0.3, 0.0, -0.2]), velocity=lsr_velocity(), transition_energy=300.0)
    energy, bins = np.array([10.0, 200.0]), eqx.filter_jit(MIX.bin_dipole)
    sharp = bins(p, EnergyResponse(energy, np.array([1e-6, 1e-6])))
    np.testing.assert_allclose(sharp, at(MIX, p, *energy), rtol=1e-6)
    # A trapezoidal sum, which is exact to rounding for what falls off like this.
    place = np.linspace(-4.5, 4.5, 16)
    weight = np.exp(-(place**2) / 2)
    broad = bins(p, EnergyResponse(energy, np.array([0.8, 0.8])))
    want = weight @ at(MIX, p, *(200 * np.exp(0.8 * place))) / weight.sum()
    np.testing.assert_allclose(broad[1], want, rtol=1e-3)
    assert np.max(np.abs(broad[1] / sharp[1] - 1)) > 1e-2


# Sky and counts


def test_sky_is_the_dipole_and_the_small_rest_of_the_motion():
    speed, north = 1e-3, np.array([0.0, 0.0, 1.0])
    p = numbers(velocity=speed * north)
    d = jnp.array([[2e-3, -1e-3, 4.7e-3]])
    sky = np.asarray(BURST.sky(p, d, 2))[0]
    norm = np.sqrt(4 * np.pi / 3)
    # Order in l and m: (0 0), (1 -1), (1 0), (1 1): y, z, x.
    np.testing.assert_allclose(sky[:4], [np.sqrt(4 * np.pi), -1e-3 * norm, 4.7e-3 * norm, 2e-3 * norm], rtol=1e-12)
    want = np.zeros(5)
    want[2] = np.sqrt(4 * np.pi / 5) * 4.7 * 5.7 / 3 * speed**2
    np.testing.assert_allclose(sky[4:], want, rtol=1e-4, atol=1e-18)
    given = np.r_[np.zeros(4), 1e-4 * np.arange(1, 13)]
    more = np.asarray(BURST.sky(numbers(multipoles=given), d, 3))[0]
    np.testing.assert_allclose(more[4:], given[4:], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(BURST.sky(numbers(multipoles=given), d, 2))[0], more[:9], rtol=1e-12)


GRID = RingGrid(6, 12)
RNG = np.random.default_rng(3)
ACCEPTANCE = RNG.uniform(0.2, 1.0, (6, 12))
ACCEPTANCE[0] = 0
RATE = RNG.uniform(1e5, 2e5, 12)
CONFIGURATIONS = [
    (place, Configuration(jnp.asarray(RATE), jnp.asarray(ACCEPTANCE / ACCEPTANCE.sum()), days, GRID))
    for place, days in ((0, 0.0), (1, 9000.0), (1, -9000.0))
]
RESPONSE = EnergyResponse(np.array([10.0, 200.0]), np.array([0.3, 0.5]), nodes=5)


def _log_likelihood(p: Parameters, counts):
    expected = CHAIN.expected_counts(p, RESPONSE, CONFIGURATIONS)
    mu = jnp.stack([each.sky[1:] for each in expected])
    return jnp.sum(counts * jnp.log(mu) - mu), (expected, CHAIN.bin_dipole(p, RESPONSE))


likelihood = jax.jit(jax.value_and_grad(_log_likelihood, has_aux=True))
COUNTS = RNG.poisson(RATE.mean(), (3, 5, 12)).astype(float)
THREE = make_sources(
    np.array([DISTANCE * VELA.cartesian.xyz.value, [100.0, 200.0, 50.0], [-300.0, 20.0, -80.0]]),
    np.array([11000.0, 3e4, 8e4]),
    np.array([1.0, 0.5, 2.0]),
    2.4,
    np.array([50.0, 500.0, np.inf]),
)
INSIDE = {
    "perpendicular": 0.1,
    "antisymmetric": 0.2,
    "injection_cutoff": 300.0,
    "local_gradient": np.array([1e-5, 0, 2e-5]),
    "transition_energy": 2000.0,
    "extragalactic_dipole": np.array([0.01, 0.02, 0.0]),
}


def test_counts_are_the_sum_over_time_and_cells_of_i_n_a():
    expected, dipoles = likelihood(numbers(THREE, **{**INSIDE, "parallel_factor": 3.0}), COUNTS)[0][1]
    assert np.linalg.norm(dipoles[1]) > 0.01
    for (place, each), got in zip(CONFIGURATIONS, expected, strict=True):
        of_date = erfa.pmat06(2451545.0, each.days) @ np.asarray(dipoles[place])
        intensity = dipole_sky(GRID, of_date)
        sky, time, local = np.zeros((6, 12)), np.zeros(12), np.zeros((6, 12))
        for tau in range(12):
            for ring in range(6):
                for hour in range(12):
                    cell = (tau - hour) % 12
                    mu = intensity[ring, cell] * RATE[tau] * ACCEPTANCE[ring, hour] / ACCEPTANCE.sum()
                    sky[ring, cell] += mu
                    time[tau] += mu
                    local[ring, hour] += mu
        np.testing.assert_allclose(got.sky, sky, rtol=1e-8, atol=1e-6)
        np.testing.assert_allclose(got.time, time, rtol=1e-8)
        np.testing.assert_allclose(got.local, local, rtol=1e-8, atol=1e-6)
    # Precession from one of these epochs to the other is not lost in rounding.
    assert np.max(np.abs(expected[1].sky - expected[2].sky)) > 1e-5 * np.max(expected[1].sky)


# Derivatives


@pytest.mark.parametrize(
    "leaf",
    [
        "diffusion",
        "diffusion_index",
        "halo_height",
        "parallel_factor",
        "perpendicular",
        "antisymmetric",
        "supernova_rate",
        "injection_index",
        "injection_cutoff",
        "gradient_factor",
        "transition_energy",
        "transition_slope",
        "field",
        "local_gradient",
        "sources.age",
        "sources.power",
        "sources.position",
        "sources.spectral_index",
    ],
)
def test_gradient_of_the_likelihood_is_that_of_finite_differences(leaf):
    p = numbers(THREE, **INSIDE)
    where = lambda p: getattr(p.sources, leaf[8:]) if leaf.startswith("sources.") else getattr(p, leaf)
    value = np.asarray(where(p))
    place = (0,) * value.ndim
    step = 1e-4 * max(abs(value[place]), 1e-6 if leaf == "local_gradient" else 1e-3)

    def moved(sign):
        new = value.copy()
        new[place] += sign * step
        return likelihood(eqx.tree_at(where, p, jnp.asarray(new)), COUNTS)[0][0]

    difference = (moved(-2) - 8 * moved(-1) + 8 * moved(1) - moved(2)) / (12 * step)
    exact = np.asarray(where(likelihood(p, COUNTS)[1]))[place]
    assert exact != 0
    assert exact == pytest.approx(float(difference), rel=1e-4, abs=1e-12 * abs(float(moved(0))) / step)


ORIGIN = make_sources(
    np.array([[0.0, 0.0, 0.0], [300.0, 0.0, 0.0], [0.0, 0.0, 100.0]]),
    np.array([1e4, 1e-3, 1e5]),
    np.array([1.0, 1.0, 0.0]),
    2.4,
)


@pytest.mark.parametrize(
    ("sources", "changes"),
    [
        (ORIGIN, {}),
        (eqx.tree_at(lambda s: s.power, THREE, jnp.zeros(3)), {}),
        (THREE, {"perpendicular": 0.0, "supernova_rate": 0.0, "gradient_factor": 0.0}),
        (ORIGIN, {"diffusion": 1e-8, "transition_energy": 1e-9}),
        (ORIGIN, {"diffusion": 30.0, "halo_height": 110.0, "velocity": np.array([1e-3, 0, 0])}),
    ],
    ids=["at the Sun", "no power", "edges of numbers", "slow", "fast in a thin halo"],
)
def test_no_gradient_is_not_a_number(sources, changes):
    (value, _), gradient = likelihood(numbers(sources, **changes), COUNTS)
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


total = jax.jit(jax.value_and_grad(lambda p, e: jnp.sum(FREE.dipole(p, e) @ jnp.array([1.0, 0.7, -0.4]))))


@pytest.mark.parametrize("sources", [ORIGIN, THREE, NONE], ids=["at the Sun", "away", "none"])
def test_no_gradient_is_not_a_number_in_free_space(sources):
    value, gradient = total(numbers(sources, halo_height=np.inf), jnp.array([1.0, 1e6]))
    assert np.isfinite(value) and (len(sources.age) or value == 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


# What is refused, and what is noted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion": -1.0}, "diffusion must be above 0 and finite, not -1"),
        ({"diffusion": np.nan}, "diffusion must be above 0 and finite, not nan"),
        ({"halo_height": 0.0}, "halo_height must be above 0"),
        ({"halo_height": np.inf}, "halo_height must be above 0 and finite, not inf"),
        ({"perpendicular": -0.1}, "perpendicular must not be negative"),
        ({"supernova_rate": -1.0}, "supernova_rate must not be negative"),
        ({"parallel_factor": 0.0}, "parallel_factor must be above 0"),
        ({"diffusion_index": np.inf}, "diffusion_index must be .*finite"),
        ({"injection_cutoff": -1.0}, "injection_cutoff must be above 0"),
        ({"spectral_index": -2.0}, "spectral_index must be above -2"),
        ({"field": np.zeros(3)}, "field must be a finite vector that is not zero"),
        ({"field": np.array([np.nan, 0, 0])}, "field must be a finite vector"),
        ({"local_gradient": np.array([np.inf, 0, 0])}, "local_gradient must be finite"),
        ({"velocity": np.array([0.6, 0.6, 0.6])}, "velocity of the observer must be below 1"),
        ({"extragalactic_dipole": np.array([np.nan, 0, 0])}, "extragalactic_dipole must be finite"),
    ],
)
def test_numbers_out_of_their_domain_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        require_parameters(BURST, numbers(**changes))
    assert "\n" not in str(error.value)


def test_sources_out_of_their_domain_are_refused():
    with pytest.raises(InputError, match="age must not be negative"):
        require_parameters(BURST, numbers(vela(age=-5.0)))
    high = make_sources(np.array([[0.0, 0.0, 3500.0]]), 1e5)
    with pytest.raises(InputError, match="outside the halo"):
        require_parameters(BURST, numbers(high))
    assert require_parameters(FREE, numbers(high, halo_height=np.inf))
    assert require_parameters(BURST, numbers(vela(power=0.0), supernova_rate=0.0))


def test_density_spread_along_a_line_is_refused():
    with pytest.raises(InputError, match="perpendicular must be above 0 .*global_tensor"):
        require_parameters(dataclasses.replace(FREE, global_tensor="local"), numbers())


def test_parameters_in_a_trace_are_not_looked_at():
    assert np.isfinite(jax.jit(lambda p: require_parameters(BURST, p).diffusion)(numbers()))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"global_tensor": "global"}, "global_tensor must be one of isotropic, local, tensor"),
        ({"disc": Disc(), "global_tensor": "local"}, "diffuses isotropically"),
        ({"disc": Disc(), "halo": False}, "no finite density"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(choices, message):
    with pytest.raises(InputError, match=message):
        ForwardModel(PROTON, **choices)


def test_invalid_notes_superluminal_sources_and_large_dipoles():
    def notes(sources, energy=(5.0, 10.0)):
        return invalid(FREE, numbers(sources, perpendicular=1.0), energy)

    assert notes(vela()) == []
    # 750 pc are 2446 light years; 3 r / (2 c t) of the older one is 1.22.
    beyond = notes(vela(750.0, 2400.0))
    assert len(beyond) == 2
    assert "1 of 2 sources" in beyond[0] and "r > c t" in beyond[0]
    strong = notes(vela(750.0, 3000.0))
    assert len(strong) == 1
    assert "above 0.3 at 2 of 2 energies, from 5 TeV" in strong[0]
    assert notes(vela(750.0, 700.0, 0.0)) == []
    given = invalid(FREE, numbers(), [1.0, 2.0], np.array([[0.0, 0.0, 0.0], [0.0, 0.4, 0.0]]))
    assert len(given) == 1
    assert "at 1 of 2 energies, from 2 TeV" in given[0]
