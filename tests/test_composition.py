"""diffcr.composition against the printed fluxes, closed forms of log-normals, and events drawn one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad
from scipy.stats import norm

from diffcr import composition
from diffcr.composition import (
    COMPOSITIONS,
    Composition,
    EnergyResponse,
    TabulatedResponse,
    constant,
    h3a,
    log_width,
    named_composition,
    pure,
)
from diffcr.errors import InputError

# Compiled whole: called as they are, each of their operations would be compiled for each shape.
all_particle_index = jax.jit(composition.all_particle_index)
fractions = jax.jit(composition.fractions)
log_fluxes = jax.jit(composition.log_fluxes)
mean_log_mass = jax.jit(composition.mean_log_mass)
response_energies = jax.jit(composition.response_energies)
response_weights = jax.jit(composition.response_weights)
bin_overlap = jax.jit(composition.bin_overlap)


def dipole(rigidity):
    """A dipole that rises, falls and flips, as that of one source against a background does."""
    return 1e-3 * rigidity**0.3 * (1 - (rigidity / 150.0) ** 0.6)


def in_bins(response, mix, function, log_weights=None, secant=None):
    """What each bin shows of a function of rigidity."""
    rigidity = np.asarray(response_energies(response, mix, secant)) / np.array(mix.charges)[:, None]
    weights = np.asarray(response_weights(response, mix, log_weights, secant))
    return np.sum(weights * function(rigidity), axis=(-2, -1))


# Elements


def printed_h3a(energy):
    """Fluxes [1/(m^2 s sr GeV)] of p, He, CNO, Mg-Si and Fe at energies in GeV, as they are written in the paper."""
    e, exp = energy, np.exp
    return [
        7860 * e**-2.66 * exp(-e / 4e6) + 20 * e**-2.4 * exp(-e / 3e7) + 1.7 * e**-2.4 * exp(-e / 2e9),
        3550 * e**-2.58 * exp(-e / 8e6) + 20 * e**-2.4 * exp(-e / 6e7) + 1.7 * e**-2.4 * exp(-e / 4e9),
        2200 * e**-2.63 * exp(-e / 28e6) + 13.4 * e**-2.4 * exp(-e / 21e7) + 1.14 * e**-2.4 * exp(-e / 14e9),
        1430 * e**-2.67 * exp(-e / 52e6) + 13.4 * e**-2.4 * exp(-e / 39e7) + 1.14 * e**-2.4 * exp(-e / 26e9),
        2120 * e**-2.63 * exp(-e / 104e6) + 13.4 * e**-2.4 * exp(-e / 78e7) + 1.14 * e**-2.4 * exp(-e / 52e9),
    ]


def test_h3a_is_the_printed_model():
    energy = np.geomspace(1.0, 3e7, 40)
    expected = np.stack(printed_h3a(1e3 * energy), axis=-1)
    mix = h3a()
    assert mix.names == ("p", "He", "CNO", "Mg-Si", "Fe") and mix.charges == (1, 2, 7, 13, 26)
    np.testing.assert_allclose(np.exp(log_fluxes(mix, energy)), 1e3 * expected, rtol=1e-12)
    np.testing.assert_allclose(fractions(mix, energy), expected / expected.sum(axis=-1, keepdims=True), rtol=1e-12)


def test_index_is_the_slope_of_the_printed_model():
    energy, step = np.geomspace(1.0, 1e7, 15), 1e-5
    flux = lambda e: np.sum(printed_h3a(1e3 * e), axis=0)
    slope = -(np.log(flux(energy * np.exp(step))) - np.log(flux(energy * np.exp(-step)))) / (2 * step)
    index = np.asarray(all_particle_index(h3a(), energy))
    np.testing.assert_allclose(index, slope, rtol=1e-8)
    # The knee: Gamma of the Compton-Getting effect is not 2.7 everywhere.
    assert abs(all_particle_index(h3a(), 10.0) - 2.62) < 0.01 and abs(all_particle_index(h3a(), 1e4) - 3.06) < 0.01


def test_fractions_far_above_all_cutoffs_are_finite_and_sum_to_one():
    shares = np.asarray(fractions(h3a(), np.array([[1e9, 1e11]])))
    assert shares.shape == (1, 2, 5)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-14)
    np.testing.assert_allclose(shares[0, 1], [0, 0, 0, 0, 1], atol=1e-12)


def test_mixes_by_name():
    assert set(COMPOSITIONS) == {"h3a", "proton", "iron", "constant"}
    np.testing.assert_array_equal(fractions(named_composition("proton"), 3.0), [1.0])
    assert named_composition("iron").charges == (26.0,)
    mix = named_composition("constant")
    np.testing.assert_allclose(fractions(mix, np.array([1.0, 1e6])), [[0.35, 0.33, 0.13, 0.19]] * 2, rtol=1e-12)
    # H3a at 10 TeV, the last two together.
    shares = np.asarray(fractions(h3a(), 10.0))
    np.testing.assert_allclose([*shares[:3], shares[3] + shares[4]], [0.35, 0.33, 0.13, 0.19], atol=0.005)
    np.testing.assert_allclose(fractions(constant({"Fe": 3, "CNO": 0, "p": 1}), 7.0), [0.75, 0.25], rtol=1e-12)
    np.testing.assert_allclose(all_particle_index(constant({"p": 1, "He": 2}, index=2.65), 50.0), 2.65)


def test_weights_tilt_the_ratios_of_elements():
    weights, energy = np.array([0.3, -0.2, 0.0, 0.1, -0.5]), 100.0
    plain, tilted = np.asarray(fractions(h3a(), energy)), np.asarray(fractions(h3a(), energy, weights))
    np.testing.assert_allclose(tilted, plain * np.exp(weights) / (plain @ np.exp(weights)), rtol=1e-12)
    np.testing.assert_allclose(fractions(h3a(), energy, weights + 3.0), tilted, rtol=1e-12)
    np.testing.assert_allclose(fractions(h3a(), energy, np.zeros(5)), plain, rtol=1e-14)
    many = jax.vmap(lambda w: fractions(h3a(), energy, w))(jnp.stack([jnp.zeros(5), weights]))
    np.testing.assert_allclose(many, [plain, tilted], rtol=1e-12)


def test_mean_logarithm_of_the_mass():
    np.testing.assert_allclose(mean_log_mass(pure("p"), 1.0), 0.0)
    np.testing.assert_allclose(mean_log_mass(pure("Fe"), np.ones(3)), np.full(3, np.log(56)))
    np.testing.assert_allclose(mean_log_mass(constant({"He": 1, "CNO": 1}), 1.0), np.log(4 * 14) / 2)


# Energy bins


@pytest.mark.parametrize("mass_shift", [0.0, 0.1])
def test_iron_sees_every_energy_at_a_twenty_sixth_of_its_rigidity(mass_shift):
    median, width = np.array([3.0, 150.0, 4e3]), np.array([0.3, 0.6, 0.9])
    iron = in_bins(EnergyResponse(26 * median, width, mass_shift=mass_shift), pure("Fe"), dipole)
    protons = in_bins(EnergyResponse(median, width, mass_shift=mass_shift), pure("p"), dipole)
    np.testing.assert_allclose(iron, protons, rtol=1e-12)


def test_a_sharp_bin_shows_its_median():
    energy = np.array([10.0, 2e3])
    seen = in_bins(EnergyResponse(energy, np.full(2, 1e-5)), h3a(), dipole)
    shares = np.stack(printed_h3a(1e3 * energy), axis=-1)
    expected = np.sum(shares * dipole(energy[:, None] / [1, 2, 7, 13, 26]), axis=-1) / shares.sum(axis=-1)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


@pytest.mark.parametrize("power", [1 / 3, -0.7, 2.0])
def test_a_power_law_is_smoothed_as_a_log_normal_smooths_it(power):
    """<E^p> = median^p exp(p^2 w^2 / 2), with no weight of the spectrum; Z^-p of each element."""
    median, width = np.array([8.0, 90.0]), np.array([0.4, 1.0])
    mix = constant({"p": 0.5, "He": 0.3, "Fe": 0.2})
    seen = in_bins(EnergyResponse(median, width, 15), mix, lambda rigidity: rigidity**power)
    charges = 0.5 + 0.3 * 2.0**-power + 0.2 * 26.0**-power
    np.testing.assert_allclose(seen, charges * median**power * np.exp(power**2 * width**2 / 2), rtol=1e-9)


def test_a_bin_shows_the_mean_of_its_events():
    """Monte Carlo: particles of H3a, counted in a skew bin of energy, whose events are then histogrammed.

    Their histogram holds the spectrum already: weighted with it once more, the bin would show something else.
    """
    random, number = np.random.default_rng(3), 1_500_000
    log_energy = random.uniform(np.log(5.0), np.log(3e3), number)
    energy = np.exp(log_energy)
    fluxes = energy * np.array(printed_h3a(1e3 * energy)) / (5 * np.sum(printed_h3a(5e3)))
    accepted = random.random(number) < fluxes.sum(axis=0) / (1 + (60.0 / energy) ** 3) * 20
    energy, cumulative = energy[accepted], np.cumsum(fluxes[:, accepted], axis=0)
    assert len(energy) > 10_000
    element = np.sum(random.random(len(energy)) * cumulative[-1] > cumulative, axis=0)
    each = dipole(energy / np.array([1, 2, 7, 13, 26])[element])

    events, edges = np.histogram(np.log(energy), 100, (np.log(5.0), np.log(3e3)))
    centres = np.exp((edges[:-1] + edges[1:]) / 2)
    seen = in_bins(TabulatedResponse(centres, events[None]), h3a(), dipole)[0]
    twice = in_bins(TabulatedResponse(centres, (events * centres**-1.7)[None]), h3a(), dipole)[0]
    error = each.std() / np.sqrt(len(each))
    assert abs(seen - each.mean()) < 4 * error
    assert abs(twice - each.mean()) > 20 * error


def test_heavy_events_of_a_bin_come_from_higher_and_rarer_energies():
    """Monte Carlo: particles counted by the energy of the standard particle that they look like.

    Counted in ln E* about ln 40 with width 0.5, a spectrum E^-2.7 leaves events about ln 40 - 1.7 * 0.5^2.
    """
    random, number, shift = np.random.default_rng(5), 2_000_000, 0.15
    shares, charges, masses = np.array([0.5, 0.3, 0.2]), np.array([1, 2, 26]), np.array([1, 4, 56])
    element = random.choice(3, number, p=shares)
    energy = 2.0 * random.random(number) ** (-1 / 1.7)
    standard = np.log(energy) - shift * (np.log(masses) - shares @ np.log(masses))[element]
    counted = random.random(number) < np.exp(-((standard - np.log(40)) ** 2) / (2 * 0.5**2))
    energy, element = energy[counted], element[counted]
    assert len(energy) > 10_000

    mix = constant({"p": 0.5, "He": 0.3, "Fe": 0.2})
    response = EnergyResponse([40 * np.exp(-1.7 * 0.25)], [0.5], mass_shift=shift)
    weights = np.asarray(response_weights(response, mix))[0]
    share = np.bincount(element) / len(element)
    assert np.max(np.abs(weights.sum(axis=-1) - share) / np.sqrt(share * (1 - share) / len(element))) < 4
    # Without regard to the spectrum iron would keep its 20 %.
    assert (0.2 - share[2]) / np.sqrt(0.16 / len(element)) > 20
    log_energy = np.log(response_energies(response, mix))[0]
    for place in range(3):
        mine = np.log(energy[element == place])
        mean = np.sum(weights[place] * log_energy[place]) / weights[place].sum()
        assert abs(mean - mine.mean()) < 4 * mine.std() / np.sqrt(len(mine))
    each = dipole(energy / charges[element])
    assert abs(in_bins(response, mix, dipole)[0] - each.mean()) < 4 * each.std() / np.sqrt(len(each))


def test_inclined_showers_have_more_energy():
    response = EnergyResponse([10.0, 100.0], [0.4, 0.4], zenith_shift=0.8, mean_secant=[1.2, 1.3])
    vertical, inclined = np.asarray(response_energies(response, h3a(), np.array([1.0, 1.5])))
    np.testing.assert_allclose(inclined / vertical, np.full((2, 5, 9), np.exp(0.4)), rtol=1e-12)
    together = np.asarray(response_energies(response, h3a()))
    np.testing.assert_allclose(vertical / together, np.exp([-0.16, -0.24])[:, None, None] * np.ones((1, 5, 9)))
    assert response_energies(response, h3a(), 1.1).shape == (2, 5, 9)
    seen = in_bins(response, h3a(), dipole, secant=1.5)
    moved = EnergyResponse(np.array([10.0, 100.0]) * np.exp([0.24, 0.16]), [0.4, 0.4])
    np.testing.assert_allclose(seen, in_bins(moved, h3a(), dipole), rtol=1e-12)


def test_weights_of_elements_leave_the_energies_of_a_bin_alone():
    response, tilt = EnergyResponse([10.0, 3e3], [0.5, 0.7]), np.array([0.0, 0.4, -0.3, 0.2, 0.9])
    weights = np.asarray(response_weights(response, h3a(), tilt))
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, rtol=1e-14)
    np.testing.assert_allclose(weights.sum(axis=1), np.asarray(response_weights(response, h3a())).sum(axis=1))
    energy = np.asarray(response_energies(response, h3a()))[:, 0]
    shares = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.moveaxis(shares, 1, -1), fractions(h3a(), energy, tilt), rtol=1e-12)


def test_width_of_a_range():
    """68.27 % of a normal distribution lie within one standard deviation of its mean."""
    low, high = np.exp(norm.ppf([0.15865525, 0.84134475], np.log(30.0), 0.7))
    np.testing.assert_allclose(log_width(low, high), 0.7, rtol=1e-7)


def test_empty_cells_of_a_table_change_nothing():
    """However far beyond every cut-off they lie."""
    cells, far = np.geomspace(10.0, 1e3, 5), np.geomspace(1e6, 1e14, 5)
    events = np.array([[1.0, 3.0, 4.0, 2.0, 1.0]])
    short = TabulatedResponse(cells, events, mass_shift=-0.3)
    long = TabulatedResponse(np.concatenate([cells, far]), np.pad(events, ((0, 0), (0, 5))), mass_shift=-0.3)
    np.testing.assert_allclose(in_bins(long, h3a(), dipole), in_bins(short, h3a(), dipole), rtol=1e-12)
    slope = jax.jit(jax.grad(lambda w: composition.response_weights(long, h3a(), w)[0, 4].sum()))(jnp.zeros(5))
    assert np.all(np.isfinite(slope)) and slope[4] > 0


# Overlap of bins


def test_overlap_is_the_integral_of_the_root_of_the_product():
    median, width = np.array([10.0, 20.0, 24.0, 1e3]), np.array([0.3, 0.8, 0.5, 1.0])
    overlap = np.asarray(bin_overlap(EnergyResponse(median, width)))
    for a in range(4):
        for b in range(4):
            density = lambda x, a=a, b=b: np.sqrt(
                norm.pdf(x, np.log(median[a]), width[a]) * norm.pdf(x, np.log(median[b]), width[b])
            )
            np.testing.assert_allclose(overlap[a, b], quad(density, -6, 16, limit=200)[0], rtol=1e-7, atol=1e-10)


def test_overlap_is_a_correlation_matrix():
    random = np.random.default_rng(8)
    overlap = np.asarray(bin_overlap(EnergyResponse(10 ** random.uniform(0, 3, 30), random.uniform(0.2, 1.2, 30))))
    np.testing.assert_allclose(np.diag(overlap), 1, rtol=1e-14)
    np.testing.assert_allclose(overlap, overlap.T, rtol=1e-13)
    assert np.linalg.eigvalsh(overlap).min() > -1e-12
    apart = np.asarray(bin_overlap(EnergyResponse([1.0, 1e6], [0.3, 0.3])))
    np.testing.assert_allclose(apart, np.eye(2), atol=1e-12)


def test_overlap_of_tables_is_that_of_what_they_tabulate():
    median, width, place = np.array([10.0, 20.0]), np.array([0.3, 0.8]), np.linspace(-3, 9, 2000)
    events = norm.pdf(place, np.log(median)[:, None], width[:, None]) * np.array([[70.0], [3.0]])
    table, smooth = TabulatedResponse(np.exp(place), events), EnergyResponse(median, width)
    np.testing.assert_allclose(bin_overlap(table), bin_overlap(smooth), rtol=1e-8)
    np.testing.assert_allclose(in_bins(table, h3a(), dipole), in_bins(smooth, h3a(), dipole), rtol=2e-4)
    # Empty cells have no root to differentiate.
    total = lambda events: jnp.sum(composition.bin_overlap(TabulatedResponse([1.0, 2.0, 4.0], events)))
    slope = jax.jit(jax.grad(total))(jnp.eye(3)[:2])
    assert np.all(np.isfinite(slope))


# Gradients


def test_gradients_agree_with_finite_differences():
    def seen(log_energy, width, mass_shift, zenith_shift, log_weights, index, log_cutoff):
        mix = Composition(
            ("p", "Fe"), (1, 26), (1, 56), jnp.array([[1.0, 0.6], [0.2, 0.0]]), index, jnp.exp(log_cutoff)
        )
        response = EnergyResponse(
            jnp.exp(log_energy), width, 5, mass_shift=mass_shift, zenith_shift=zenith_shift, mean_secant=1.2
        )
        rigidity = composition.response_energies(response, mix, 1.4) / np.array([1.0, 26.0])[:, None]
        weights = composition.response_weights(response, mix, log_weights, 1.4)
        gammas = composition.all_particle_index(mix, jnp.exp(log_energy), log_weights)
        return 1e3 * jnp.sum(weights * dipole(rigidity), axis=(1, 2)), gammas, composition.bin_overlap(response)

    values = (
        np.log([10.0, 300.0]),
        np.array([0.4, 0.7]),
        0.1,
        0.3,
        np.array([0.2, -0.3]),
        np.array([[2.7, 2.6], [2.4, 2.5]]),
        np.log([100.0, 3e3]),
    )
    check_grads(jax.jit(seen), tuple(map(jnp.asarray, values)), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)


def test_no_gradient_is_lost_where_there_is_no_cutoff():
    mix = constant({"p": 1, "Fe": 2})
    total = lambda mix, energy, w: (
        jnp.sum(composition.fractions(mix, energy, w)[:, 0]) + jnp.sum(composition.all_particle_index(mix, energy, w))
    )
    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(mix, jnp.array([1.0, 1e7]), jnp.zeros(2))
    assert all(np.all(np.isfinite(each)) for each in jax.tree.leaves(slopes))
    # d f / d w = f (1 - f), at each of the two energies.
    np.testing.assert_allclose(slopes[2], 2 * np.array([2 / 9, -2 / 9]), rtol=1e-12)
    np.testing.assert_array_equal(slopes[0].cutoff, [0.0])


# Errors


def mix_of(names=("p", "He"), charges=(1, 2), masses=(1, 4), amplitude=((1, 1),), index=((2.7, 2.7),), cutoff=(5.0,)):
    return Composition(names, charges, masses, np.array(amplitude), np.array(index), np.array(cutoff))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charges": (1,)}, "a charge, a mass and a flux for each element, not 2 names, 1 charges, 2 masses and 2"),
        ({"charges": (1, 0)}, "element 'He' of a composition has charge 0 and mass number 4"),
        ({"masses": (1, 1)}, "element 'He' of a composition has charge 2 and mass number 1"),
        ({"amplitude": ((1, -1),)}, "amplitudes of a composition must be finite and not negative"),
        ({"amplitude": ((1, 0),)}, "element 'He' of a composition has no flux: leave it out"),
        ({"index": ((2.7, np.nan),)}, "spectral indices of a composition must be finite"),
        ({"cutoff": (0.0,)}, r"cut-off rigidities of a composition must be above zero \[TV\]: inf for no cut-off"),
    ],
)
def test_unusable_compositions_are_named(change, message):
    assert mix_of().names == ("p", "He")
    with pytest.raises(InputError, match=message):
        mix_of(**change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named_composition("h3b"), r"unknown composition 'h3b': did you mean h3a\?; known: h3a, proton, iron"),
        (lambda: pure("fe"), r"unknown element 'fe': did you mean Fe\?; known: p, He, CNO, Mg-Si, Fe"),
        (lambda: constant({"xyz": 1}), "unknown element 'xyz'; known: p"),
        (lambda: constant({"p": -0.1}), "the fraction of p must be a number from 0 up, not -0.1"),
        (lambda: constant({"p": 0.0}), "a composition needs an element"),
        (lambda: EnergyResponse([1.0, 2.0], [0.5]), "one width for each median energy, not 1 for 2"),
        (lambda: EnergyResponse([1.0, -2.0], [0.5, 0.5]), r"median energies \[TeV\] .* above zero .*, not -2 at 1"),
        (lambda: EnergyResponse([1.0], [0.0]), r"widths .* must be above zero and finite, not 0 at 0; 0.01 for a bin"),
        (lambda: EnergyResponse([], []), "of a response are missing: give one bin or more"),
        (lambda: EnergyResponse([1.0], [0.5], 0), "needs one quadrature node or more, not 0"),
        (lambda: EnergyResponse([1.0], [0.5], mass_shift=np.nan), "mass_shift of a response must be finite"),
        (lambda: EnergyResponse([1.0], [0.5], mean_secant=[1.0, 2.0]), "one number or one for each of its 1 bins"),
        (lambda: TabulatedResponse([1.0, 2.0], [[1.0]]), "events at each of its 2 energies, not at 1"),
        (lambda: TabulatedResponse([1.0, np.inf], [[1.0, 1.0]]), r"tabulated energies .* finite, not inf at 1"),
        (lambda: TabulatedResponse([1.0, 2.0], [[1.0, -1.0]]), "events .* must be finite and not negative"),
        (lambda: TabulatedResponse([1.0, 2.0], [[1.0, 1.0], [0.0, 0.0]]), "bin 1 of a tabulated response has no"),
    ],
)
def test_unusable_mixes_and_responses_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
