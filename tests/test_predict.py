"""Predictions, their bands and their agreement with published dipoles, against brute force and simulated tables."""

import math

import numpy as np
import pytest
from diffcr.inference.dipole_table import read_dipoles
from diffcr.inference.model_files import model_of
from diffcr.inference.predict import LEVELS, Band, _flips, predict, predict_band, shortest_arc
from scipy import stats

from diffcr.errors import InputError

NEAR = {"distance_pc": 300.0, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 2e4, "power": 0.2}
OLD = {"distance_pc": 400.0, "longitude_deg": 30.0, "latitude_deg": 10.0, "age_yr": 2e5}
ENERGY = np.geomspace(1, 1e4, 9)


def model(priors=None, head=None, **tables):
    return model_of(
        {
            "model": {"name": "two", "background": "none", "observer": "lsr", **(head or {})},
            "parameters": {"field_l_deg": 210.5, "field_b_deg": -57.1, "perpendicular": 0.2},
            "source": {"near": NEAR, "old": OLD},
            "priors": priors or {},
            **tables,
        },
        "here",
    )


TINY = {"near.power": {"distribution": "log-normal", "spread": 1e-6}}
WIDE = {
    "near.power": {"distribution": "log-normal", "spread": 1.5},
    "near.age_yr": {"distribution": "log-uniform", "low": 500, "high": 50000},
    "field": {"distribution": "isotropic"},
}
TWO = model()
PREDICTED = predict(TWO, ENERGY)


# One model


def test_prediction_is_the_dipole_of_the_chain_and_its_plasma_part():
    p = TWO.parameters()
    np.testing.assert_allclose(PREDICTED.dipole, TWO.forward.dipole(p, ENERGY), rtol=1e-10)
    motion = 4.7 * np.asarray(TWO.values["velocity_km_s"]) / 299792.458
    np.testing.assert_allclose(PREDICTED.plasma + motion, PREDICTED.dipole, rtol=1e-9, atol=1e-15)
    x, y, _ = PREDICTED.dipole.T
    np.testing.assert_allclose(PREDICTED.amplitude, np.sqrt(x**2 + y**2))
    np.testing.assert_allclose(PREDICTED.amplitude * np.exp(1j * PREDICTED.right_ascension), x + 1j * y)
    assert np.all((PREDICTED.right_ascension >= 0) & (PREDICTED.right_ascension < 2 * np.pi))
    # Without a background there is nothing to compare the sources with.
    assert np.all(np.isnan(PREDICTED.source_share)) and not PREDICTED.extragalactic.any() and not PREDICTED.notes


def test_share_of_the_sources_is_at_the_rigidity_of_the_first_element():
    vela = {"distance_pc": 306.6013938, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 11000}
    got = predict(model_of({"source": {"vela": vela}, "model": {"composition": "iron"}}), [260.0, 26.0])
    np.testing.assert_allclose(got.source_share, [0.06254, 0.02903], rtol=5e-3)


def test_extragalactic_part_leaves_the_plasma_dipole_galactic():
    mixed = model(parameters={"transition_energy_TeV": 100.0, "perpendicular": 0.2, "field_l_deg": 10})
    plain = model(parameters={"perpendicular": 0.2, "field_l_deg": 10})
    got = predict(mixed, ENERGY)
    np.testing.assert_allclose(got.extragalactic, 1 / (1 + (ENERGY / 100) ** -2.0), rtol=1e-12)
    np.testing.assert_allclose(got.plasma, predict(plain, ENERGY).plasma, rtol=1e-9, atol=1e-15)
    assert np.max(np.abs(got.dipole - got.plasma)) > 1e-3


def test_superluminal_source_is_noted():
    far = TWO.with_values({"near.age_yr": 500})
    assert any("r > c t" in note for note in predict(far, ENERGY).notes)


@pytest.mark.parametrize("energy", [[], [0.0], [-1.0], [math.nan], [1.0, math.inf], np.array([[1.0, 2.0]])])
def test_energies_out_of_range_are_refused(energy):
    with pytest.raises(InputError, match="energies must be finite and above 0 TeV"):
        predict(TWO, energy)


def test_prediction_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="the model two gives no finite dipole at .* TeV"):
        predict(TWO.with_values({"pivot_GV": 1000.0, "diffusion_index": 400.0}), ENERGY)


# Where the phase flips


@pytest.mark.parametrize(
    ("along", "energy", "expected"),
    [
        (lambda e: np.log(e / 152.6), np.geomspace(1, 1e4, 30), [152.6]),
        (lambda e: np.log(e / 152.6), [100.0, 1.0, 1000.0], [152.6]),
        (lambda e: -np.sin(np.log(e)), [1.5, 10.0, 100.0, 700.0], [np.exp(np.pi), np.exp(2 * np.pi)]),
        (lambda e: 10.0 - e, [1.0, 10.0, 100.0], [10.0]),
        (lambda e: e - 10.0, [1.0, 10.0, 100.0], [10.0]),
        (lambda e: e, [1.0, 10.0, 100.0], []),
        (lambda e: e - 3.0, [2.0], []),
    ],
)
def test_flips_are_found_to_a_millionth_whatever_the_grid(along, energy, expected):
    shapes = set()

    def watched(e):
        shapes.add(e.shape)
        return along(e)

    np.testing.assert_allclose(_flips(watched, np.asarray(energy)), expected, rtol=1e-6)
    assert len(shapes) == 1


def test_flip_of_a_prediction_is_that_of_its_plasma_dipole_along_the_field():
    prediction = predict(TWO, [1.0, 3e3])
    field = np.asarray(TWO.values["field"])
    fine = predict(TWO, np.geomspace(1, 3e3, 400))
    signs = np.sign(fine.plasma @ field)
    turns = np.flatnonzero(signs[:-1] != signs[1:])
    assert len(prediction.flips) == len(turns) % 2
    for flip in fine.flips:
        at = predict(TWO, [flip * (1 - 1e-4), flip * (1 + 1e-4)])
        assert np.prod(at.plasma @ field) < 0


# The shortest arc


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.68, 0.95, 1.0])
def test_shortest_arc_is_that_of_brute_force(probability):
    rng = np.random.default_rng(4)
    for spread in (0.3, 1.0, 9.0):
        for centre in (0.0, 2.0, 6.2):
            phases = rng.normal(centre, spread, 40)
            start, end = shortest_arc(phases, probability)
            need = max(1, math.ceil(probability * 40))
            best = min(np.sort((phases - first) % (2 * np.pi))[need - 1] for first in phases)
            assert end - start == pytest.approx(best, abs=1e-12)
            assert 0 <= start < 2 * np.pi
            inside = (phases - start) % (2 * np.pi) <= end - start + 1e-9
            # The start itself may be a rounding error in front of itself.
            inside |= (phases - start) % (2 * np.pi) > 2 * np.pi - 1e-9
            assert inside.sum() >= need


def test_shortest_arc_goes_through_zero():
    start, end = shortest_arc(np.radians([350, 355, 5, 10, 180]), 0.8)
    assert (np.degrees(start), np.degrees(end)) == pytest.approx((350, 370))
    assert shortest_arc(np.array([1.0]), 0.95) == (1.0, 1.0)
    assert shortest_arc(np.full(7, -1.0), 0.68) == pytest.approx((2 * np.pi - 1, 2 * np.pi - 1))


# The band


def test_band_draws_the_priors_and_each_draw_is_a_prediction():
    m = model(WIDE)
    band = predict_band(m, ENERGY, 70, seed=3)
    assert band.dipole.shape == (70, 9, 3) and band.kind == "priors" and band.comparison is None
    assert band.amplitude.shape == band.right_ascension.shape == (70, 9)
    assert set(band.values) == set(WIDE) and band.values["field"].shape == (70, 3)
    # The last of the second batch, which is filled up.
    for draw in (0, 69):
        own = m.with_values({name: value[draw] for name, value in band.values.items()})
        np.testing.assert_allclose(band.dipole[draw], predict(own, ENERGY).dipole, rtol=1e-8, atol=1e-14)
    again = predict_band(m, ENERGY, 70, seed=3)
    np.testing.assert_array_equal(again.dipole, band.dipole)
    assert np.all(predict_band(m, ENERGY, 70, seed=4).dipole[:, 0] != band.dipole[:, 0])
    np.testing.assert_allclose(band.invalid, (np.linalg.norm(band.dipole, axis=-1) > 0.3).mean(axis=0))
    assert np.any(band.invalid > 0) and np.std(band.amplitude[:, 3]) > 1e-4


def test_bands_are_central_quantiles_and_shortest_arcs():
    rng = np.random.default_rng(1)
    angle, length = rng.normal(6.2, 0.3, (400, 2)), rng.lognormal(0, 1, (400, 2))
    dipole = np.stack([length * np.cos(angle), length * np.sin(angle), 0 * angle], axis=-1)
    band = Band(TWO, np.array([1.0, 2.0]), dipole, {}, "priors", np.zeros(2))
    for level in LEVELS:
        low, high = band.amplitude_band(level)
        assert low.shape == (2,)
        np.testing.assert_allclose(((length > low) & (length < high)).mean(axis=0), level, atol=0.006)
        np.testing.assert_allclose((length < low).mean(axis=0), (1 - level) / 2, atol=0.006)
        start, end = band.phase_band(level)
        half = stats.norm.ppf((1 + level) / 2) * 0.3
        np.testing.assert_allclose(end - start, 2 * half, rtol=0.2)
        np.testing.assert_allclose((start + end) / 2 % (2 * np.pi), 6.2, atol=0.12)


SUPERNOVAE = {"max_age_yr": 1e6, "number": 60}


def test_supernovae_differ_from_draw_to_draw_and_join_the_named_ones():
    m = model(TINY, {"background": "case-bhattacharya"}, ensemble=SUPERNOVAE)
    seen = []
    band = predict_band(m, ENERGY, 3, vary=False, progress=lambda done, of: seen.append((done, of)))
    assert band.kind == "supernovae" and band.values == {}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(np.unique(band.dipole[:, 0, 0])) == 3
    both = predict_band(m, ENERGY, 2)
    assert both.kind == "priors and supernovae" and set(both.values) == set(TINY)
    assert np.all(predict(m, ENERGY, seed=1).dipole != predict(m, ENERGY, seed=2).dipole)


def test_band_of_nothing_is_refused():
    with pytest.raises(InputError, match="the model two has no priors and no ensemble: there is nothing to draw"):
        predict_band(TWO, ENERGY, 10)
    with pytest.raises(InputError, match="nothing to draw"):
        predict_band(model(TINY), ENERGY, 10, vary=False)
    with pytest.raises(InputError, match="at least 2 draws, not 1"):
        predict_band(model(TINY), ENERGY, 1)
    with pytest.raises(InputError, match="energies must be"):
        predict_band(model(TINY), [], 10)


# Published dipoles

HEADER = (
    "experiment,sample,energy_TeV,amplitude_1e-3,amplitude_err_lo_1e-3,amplitude_err_hi_1e-3,phase_deg,phase_err_deg,"
    "upper_limit,definition,declination_min_deg,declination_max_deg,use\n"
)
WINDOW = np.radians([-20.0, 60.0])


def mean_cosine():
    """<cos dec> over the solid angle of the window."""
    dec = np.linspace(*WINDOW, 20001)
    return np.trapezoid(np.cos(dec) ** 2, dec) / np.trapezoid(np.cos(dec), dec)


def simulated(write, turn=0.0, limit=3.0, extra=""):
    """A table of the model's own dipoles at 10, 100, 1000 TeV, one in each definition, and a limit at 10 PeV."""
    d = predict(TWO, np.r_[10.0, 100.0, 1000.0, 10000.0, ENERGY[:5]])
    lines = []
    factors = {"3d": 1.0, "projected": 1.0, "ra_harmonic": mean_cosine()}
    for k, (definition, factor) in enumerate(factors.items()):
        amplitude, phase = 1e3 * factor * d.amplitude[k], np.degrees(d.right_ascension[k]) + turn
        lines.append(
            f"X,{definition},{d.energy[k]},{amplitude:.10g},0.02,0.02,{phase % 360:.10g},2,,{definition},-20,60,fit"
        )
    lines.append(f"Y,limit,{d.energy[3]},{1e3 * limit * d.amplitude[3]:.10g},,,,,0.99,projected,-90,90,fit")
    return read_dipoles(write(HEADER + "\n".join(lines) + "\n" + extra, f"points{turn}.csv"))


def test_table_of_the_models_own_dipoles_fits(write):
    band = predict_band(model(TINY), ENERGY, 5, table=simulated(write))
    got = band.comparison
    assert band.dipole.shape == (5, 9, 3)
    assert got.rows == 4 and got.fits == 1
    assert got.threshold == pytest.approx(stats.chi2(6).ppf(0.99))
    # Only the limit adds anything: -2 ln P(|d| < L) of a Rice distribution.
    true = PREDICTED.amplitude[-1]
    sigma = 3 * true / math.sqrt(-2 * math.log(0.01))
    want = -2 * stats.rice(true / sigma, scale=sigma).logcdf(3 * true)
    np.testing.assert_allclose(got.chi2, want, rtol=1e-3)
    assert got.effective == pytest.approx(5, rel=1e-3)
    assert got.log_mean_likelihood == pytest.approx(-want / 2, rel=1e-3)
    assert got.tail[3] == 0 and got.tail.shape == (4,)
    assert (got.amplitude_systematic, got.phase_systematic) == (0.1, 10.0)


def test_table_with_another_phase_or_a_limit_below_the_model_does_not_fit(write):
    wrong = predict_band(model(TINY), ENERGY, 3, table=simulated(write, turn=90.0))
    assert wrong.comparison.fits == 0 and np.all(wrong.comparison.chi2 > 50)
    low = predict_band(model(TINY), ENERGY, 3, table=simulated(write, limit=0.2)).comparison
    assert low.fits == 0 and low.tail[3] == 1


def test_systematic_errors_are_added_along_and_across_the_published_vector(write):
    lines = {}
    # The third energy is 10 TeV.
    amplitude, phase = 1e3 * PREDICTED.amplitude[2], np.degrees(PREDICTED.right_ascension[2])
    for name, (longer, turned) in {"long": (1.2, 0.0), "turned": (1.0, 15.0)}.items():
        row = f"X,s,10,{longer * amplitude:.12g},0.03,0.03,{(phase + turned) % 360:.12g},2,,3d,-20,60,fit\n"
        lines[name] = read_dipoles(write(HEADER + row, f"{name}.csv"))

    def chi2(name, amplitude_error, phase_error):
        errors = {"amplitude_systematic": amplitude_error, "phase_systematic": phase_error}
        return predict_band(model(TINY), [1.0, 1e4], 2, table=lines[name], **errors).comparison.chi2[0]

    along = 0.2 * amplitude / np.hypot(0.03, 0.1 * 1.2 * amplitude)
    assert chi2("long", 0.1, 10.0) == pytest.approx(along**2, rel=1e-4)
    assert chi2("long", 0.0, 40.0) == pytest.approx((0.2 * amplitude / 0.03) ** 2, rel=1e-3)
    angle = math.radians(15)
    off = math.sin(angle) * amplitude / (amplitude * math.radians(math.hypot(2, 10)))
    back = (1 - math.cos(angle)) * amplitude / math.hypot(0.03, 0.1 * amplitude)
    assert chi2("turned", 0.1, 10.0) == pytest.approx(off**2 + back**2, rel=1e-4)


def test_fraction_that_fits_and_tail_are_those_of_the_draws(write):
    table = simulated(write, extra="Z,drawn,50,9000,1,1,10,5,,3d,-20,60,plot\n")
    band = predict_band(model({"near.power": WIDE["near.power"]}), [10.0, 100.0, 1e4], 60, table=table)
    got = band.comparison
    assert got.rows == 4
    assert 0 < got.fits < 1
    assert got.fits == np.mean(got.chi2 < got.threshold)
    # Points beyond the energies asked for are not compared with.
    near = predict_band(model({"near.power": WIDE["near.power"]}), [10.0, 200.0], 2, table=table)
    assert near.comparison.rows == 2
    assert 1 <= got.effective < 60
    weights = np.exp(-got.chi2 / 2)
    assert got.log_mean_likelihood == pytest.approx(np.log(weights.mean()), rel=1e-9)
    assert got.effective == pytest.approx(weights.sum() ** 2 / np.sum(weights**2), rel=1e-9)
    # The first two rows are vectors at the energies of the band.
    for k in range(2):
        published = simulated(write).amplitude[k]
        assert got.tail[k] == pytest.approx(np.mean(band.amplitude[:, k] >= published), abs=0.02)
