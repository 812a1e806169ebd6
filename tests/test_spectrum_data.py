"""Measured power spectra: what errors mean, bins, windows, and files."""

import json

import numpy as np
import pytest
from diffcr.inference.spectrum_data import joined, mean_window, spectrum
from diffcr.inference.spectrum_files import read_matrix, read_spectrum

from diffcr.errors import InputError

L = np.arange(2, 7)
POWER = 1e-7 / L**2
NOISE = np.full(5, 2e-9)
MODES = 0.7 * (2 * L + 1)


def scatter(meaning, signal=POWER):
    """Standard errors of each meaning, by simulation of the multipoles themselves."""
    rng = np.random.default_rng(4)
    drawn = np.empty((12_000, 5))
    for k, modes in enumerate(np.round(MODES * 10).astype(int)):
        sky = rng.standard_normal(modes) * np.sqrt(signal[k])
        if meaning == "sky":
            # One sky of exactly this power, seen again and again.
            sky *= np.sqrt(signal[k] / np.mean(sky**2))
        for part in range(0, 12_000, 4000):
            noise = rng.standard_normal((4000, modes)) * np.sqrt(NOISE[k])
            if meaning == "total":
                sky = rng.standard_normal((4000, modes)) * np.sqrt(signal[k])
            seen = noise if meaning == "isotropic" else sky + noise
            drawn[part : part + 4000, k] = np.mean(seen**2, axis=-1)
    # Ten times the modes were drawn, to have whole numbers of them.
    return drawn.std(axis=0) * np.sqrt(10)


@pytest.mark.parametrize("meaning", ["sky", "total", "isotropic"])
def test_the_error_of_this_sky_is_the_same_whatever_errors_are_given(meaning):
    given = scatter(meaning)
    expected = scatter("sky")
    found = spectrum(L, L, POWER, given, noise=NOISE, modes=MODES, meaning=meaning)
    np.testing.assert_allclose(found.error, expected, rtol=0.06)
    total = np.sqrt(found.variance + found.sample_error**2)
    np.testing.assert_allclose(total, scatter("total"), rtol=0.06)


@pytest.mark.parametrize("meaning", ["sky", "total", "isotropic"])
def test_of_noise_modes_and_errors_two_give_the_third(meaning):
    size = {"total": (POWER + NOISE) ** 2, "sky": NOISE**2 + 2 * NOISE * POWER, "isotropic": NOISE**2}[meaning]
    error = np.sqrt(2 / MODES * size)
    by_noise = spectrum(L, L, POWER, error, noise=NOISE, meaning=meaning)
    np.testing.assert_allclose(by_noise.modes, MODES, rtol=1e-12)
    by_sky = spectrum(L, L, POWER, error, sky_fraction=0.7, meaning=meaning)
    np.testing.assert_allclose(by_sky.noise, NOISE, rtol=1e-9)
    np.testing.assert_allclose(by_sky.variance, by_noise.variance, rtol=1e-9)


def test_noise_and_modes_give_the_error():
    expected = spectrum(L, L, POWER, np.sqrt(2 / MODES) * (POWER + NOISE), noise=NOISE, meaning="total")
    for more in ({"modes": MODES}, {"sky_fraction": 0.7}):
        found = spectrum(L, L, POWER, noise=NOISE, **more)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12)
    # Errors beside them may be rounded, no more, and are not used.
    near = spectrum(L, L, POWER, 1.05 * expected.error, noise=NOISE, modes=MODES)
    np.testing.assert_allclose(near.variance, expected.variance, rtol=1e-12)


def test_an_over_subtracted_bin_keeps_its_error():
    """Noise alone says how many multipoles there are, whatever is left of the power."""
    error = np.sqrt(2 / 13) * 1e-10
    found = spectrum([5, 6], [5, 6], [5e-9, -1.5e-10], [error, error], noise=[1e-10, 1e-10], meaning="isotropic")
    np.testing.assert_allclose(found.modes, [11, 13])
    np.testing.assert_allclose(found.error[1], error)


def test_errors_of_a_mean_are_left_as_they_are():
    found = spectrum(L, L, POWER, 0.1 * POWER, meaning="mean")
    np.testing.assert_array_equal(found.error, 0.1 * POWER)
    assert not found.sample_error.any() and not found.noise.any()


def test_bins_average_over_multipoles():
    """A bin of l = 2 and 3 holds five multipoles of one and seven of the other."""
    window = mean_window(np.array([1, 2]), np.array([1, 3]))
    np.testing.assert_allclose(window, [[1, 0, 0], [0, 5 / 12, 7 / 12]])
    np.testing.assert_allclose(mean_window(np.array([2]), np.array([3]), 0), [[0, 4 / 10, 6 / 10]])
    found = spectrum([1, 2], [1, 3], [1e-6, 1e-7], [1e-8, 1e-8])
    np.testing.assert_allclose(found.modes, [3, 12])
    assert found.label(0) == "1" and found.label(1) == "2-3" and found.l_max == 3


def test_bins_can_be_left_out():
    covariance = 100 * (np.diag([1.0, 4.0, 9.0]) + 0.5)
    found = spectrum([2, 3, 4], [2, 3, 4], [10.0, 9.0, 8.0], covariance=covariance, noise=[5.0] * 3, meaning="sky")
    kept = found.only([0, 2])
    assert kept.low == (2, 4) and kept.correlated
    np.testing.assert_allclose(kept.correlation[0, 1], 0.5 / np.sqrt(1.5 * 9.5))
    assert found.only([0]).l_max == 4 and found.only([0]).trimmed().l_max == 2


def test_spectra_of_different_degrees_are_joined_in_order():
    first = spectrum([5, 6], [5, 6], [1e-9, 2e-9], covariance=np.array([[4.0, 1], [1, 4]]) * 1e-20)
    second = spectrum([2, 3], [2, 3], [5e-8, 4e-8], [1e-9, 1e-9])
    both = joined([first, second])
    assert both.low == (2, 3, 5, 6) and both.window.shape == (4, 6)
    np.testing.assert_allclose(both.power, [5e-8, 4e-8, 1e-9, 2e-9])
    np.testing.assert_allclose(both.correlation[2:, 2:], [[1, 0.25], [0.25, 1]])
    assert not both.correlation[:2, 2:].any()
    np.testing.assert_allclose(both.window @ np.arange(1, 7), [2, 3, 5, 6])
    with pytest.raises(InputError, match="l = 2 is in two of the spectra: they see one sky"):
        joined([second, second])
    with pytest.raises(InputError, match="cannot be joined"):
        joined([second, spectrum([5, 6], [5, 6], [1.0, 1.0], [0.1, 0.1], meaning="mean")])
    with pytest.raises(InputError, match="m = 0 cannot be joined"):
        joined([second, spectrum([5, 6], [5, 6], [1e-9, 1e-9], [1e-10, 1e-10], lost_orders=True)])


GOOD = {"low": L, "high": L, "power": POWER, "error": 0.3 * POWER}
BAD = {
    "no degree": ({"low": [], "high": [], "power": [], "error": []}, "holds no degree"),
    "degree 0": ({"low": [0, *L[1:]], "high": [0, *L[1:]]}, "first degree of row 1, 0, is no whole number"),
    "half": ({"high": [2, 3, 4.5, 5, 6]}, "last degree of row 3, 4.5,"),
    "order": ({"low": L[::-1], "high": L[::-1]}, "rise without overlap"),
    "double": ({"low": [2, 2, 3, 4, 5], "high": [2, 2, 3, 4, 5]}, "rise without overlap"),
    "dipole": ({"low": [1], "high": [1], "power": [1.0], "error": [0.1]}, "the highest degree is 1; .* at least l = 2"),
    "beyond": ({"low": [2, 300], "high": [2, 300], "power": [1, 1], "error": [1, 1]}, "reaches l = 300; cut it"),
    "power": ({"power": [*POWER[:4], np.nan]}, "C_l of row 5 is no finite number"),
    "number": ({"error": [1.0]}, "error has the shape"),
    "error": ({"error": [0.0, 1, 1, 1, 1]}, "error of row 1 must be above 0"),
    "neither": ({"error": None}, "neither errors nor a covariance"),
    "noise": ({"noise": -NOISE}, "noise of l = 2 is negative"),
    "modes": ({"modes": 0 * MODES}, "modes of l = 2 must be above 0"),
    "fraction": ({"sky_fraction": 1.5}, "sky fraction must be above 0 and at most 1, not 1.5"),
    "meaning": ({"meaning": "both"}, "errors are sky, total, isotropic, mean, not 'both'"),
    "too small": ({"error": 0.01 * POWER, "meaning": "total"}, "below the scatter of random skies .* use --errors sky"),
    "too small for modes": (
        {"error": 0.01 * POWER, "noise": NOISE, "modes": MODES, "meaning": "total"},
        "is not the .* of its noise and .* modes by --errors total",
    ),
    "too many modes": (
        {"error": 0.01 * POWER, "noise": NOISE, "meaning": "total"},
        "stand for .* modes, and there are 5: the errors are of another power or meaning",
    ),
    "errors of another size": (
        {"error": 30 * np.sqrt(2 / MODES) * NOISE, "noise": NOISE, "sky_fraction": 0.7, "meaning": "isotropic"},
        "correct one, or leave out errors, noise, or modes",
    ),
    "total error without power": (
        {
            "power": [*POWER[:4], -1.5e-10],
            "error": 5.1e-9 * np.ones(5),
            "noise": 1e-10 * np.ones(5),
            "meaning": "total",
        },
        "is not above 0, so its total error tells no number of modes",
    ),
    "nothing": (
        {"power": [*POWER[:4], 0.0], "error": None, "noise": 0 * NOISE, "modes": MODES},
        "C_l of l = 6 is not above 0 and without noise",
    ),
    "noiseless": ({"noise": 0 * NOISE}, "without noise at l = 2 its error tells no number of modes"),
    "shape": ({"covariance": np.eye(4), "error": None}, "covariance has the shape"),
    "diagonal": ({"covariance": -np.eye(5), "error": None}, "finite with a positive diagonal"),
    "triangle": ({"covariance": np.triu(np.ones((5, 5))) + np.eye(5), "error": None}, "not symmetric"),
    "singular": ({"covariance": np.ones((5, 5)), "error": None}, "not positive definite"),
    "two errors": ({"covariance": np.diag(POWER**2)}, "is not that of the covariance"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_spectrum_that_cannot_be_is_refused(name):
    change, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        spectrum(**(GOOD | change))
    assert "\n" not in str(caught.value)


# Files --------------------------------------------------------------------------------------------------


def test_a_table_is_read_with_its_checksum(write):
    path = write("# measured\nell, Cl, err, noise\n2,5e-8,1e-8,1e-9\n3,2e-8,5e-9,1e-9\n", "cl.csv")
    found, record = read_spectrum(path)
    assert found.low == found.high == (2, 3) and found.meaning == "sky"
    np.testing.assert_allclose(found.modes, [2 * (1e-18 + 1e-16) / 1e-16, 2 * (1e-18 + 4e-17) / 2.5e-17])
    assert len(record["sha256"]) == 64 and record["format"] == "table" and record["errors"] == "sky"


def test_bins_modes_and_a_covariance_are_read(write, tmp_path):
    path = write("l_low,l_high,C_l,modes\n2,3,5e-8,9\n4,8,2e-8,30\n", "cl.csv")
    covariance = np.array([[4e-18, 1e-18], [1e-18, 3e-18]])
    np.save(tmp_path / "cov.npy", covariance)
    found, record = read_spectrum(path, covariance=tmp_path / "cov.npy")
    assert found.low == (2, 4) and found.high == (3, 8)
    np.testing.assert_allclose(found.variance, np.diag(covariance))
    np.testing.assert_array_equal(found.modes, [9, 30])
    assert len(record["covariance"]["sha256"]) == 64
    text = write("4e-18,1e-18\n1e-18,3e-18\n", "cov.csv")
    np.testing.assert_allclose(read_matrix(text), covariance)


def test_the_table_of_backtracked_skies_is_a_mean(write):
    path = write("# <C_l>\nl,C_l,error,C_l_raw\n1,9e1,1e1,1e2\n2,2e1,1e0,3e1\n3,9,1,19\n", "power_parallel.csv")
    found, record = read_spectrum(path)
    assert found.meaning == "mean" and record["format"] == "backtrack table"
    np.testing.assert_allclose(found.error, [10, 1, 1])


def estimates(entries, label="all"):
    return json.dumps({"software": "diffcr 0", "parts": [{"label": label, "methods": entries}]})


ENTRY = {
    "l_low": [1, 2, 3],
    "l_high": [1, 2, 5],
    "power": [1e-6, 1e-8, 2e-9],
    "noise": [1e-9, 1e-9, 1e-9],
    "isotropic_error": (1e-9 * np.sqrt([1, 1 / 2, 1 / 10])).tolist(),
    # Of this sky's own power, which does not tell how many multipoles there are.
    "power_covariance": (
        np.outer([1e-6, 1e-8, 3e-9], [1e-6, 1e-8, 3e-9]) * [[1, 0.3, 0], [0.3, 7, -0.2], [0, -0.2, 1]]
    ).tolist(),
}


def test_an_estimate_is_read_with_modes_from_its_noise(write):
    path = write(estimates({"power": ENTRY, "pseudo-power": ENTRY | {"power": [2e-6, 1e-8, 2e-9]}}), "estimates.json")
    found, record = read_spectrum(path)
    assert record["estimator"] == "power" and record["part"] == "all" and found.lost_orders
    np.testing.assert_allclose(found.modes, [2, 4, 20])
    np.testing.assert_allclose(found.correlation[0, 1], 0.3 / np.sqrt(7))
    noise = np.outer(ENTRY["isotropic_error"], ENTRY["isotropic_error"]) * [[1, 0.1, 0], [0.1, 1, 0.1], [0, 0.1, 1]]
    newer, _ = read_spectrum(write(estimates({"power": ENTRY | {"isotropic_covariance": noise.tolist()}}), "n.json"))
    np.testing.assert_allclose(newer.correlation[0], [1, 0.1, 0])
    np.testing.assert_allclose(newer.modes, [2, 4, 20])
    np.testing.assert_allclose(found.variance, 2 / found.modes * (1e-18 + 2e-9 * found.power))
    over, _ = read_spectrum(write(estimates({"power": ENTRY | {"power": [1e-6, -3e-9, 2e-9]}}), "over.json"))
    np.testing.assert_allclose(over.modes, [2, 4, 20])
    # 2 l multipoles without m = 0 stand behind the quadratic estimator's mean of a bin.
    np.testing.assert_allclose(found.window[2], np.array([0, 0, 6, 8, 10]) / 24)
    pseudo, _ = read_spectrum(path, estimator="pseudo")
    np.testing.assert_allclose(pseudo.window[2], np.array([0, 0, 7, 9, 11]) / 27)
    with_window = ENTRY | {"window": np.eye(3, 5).tolist()}
    given, _ = read_spectrum(write(estimates({"power": with_window}), "w.json"))
    np.testing.assert_array_equal(given.window, np.eye(3, 5))


def test_files_that_cannot_be_read_are_refused_in_one_line(write, tmp_path):
    good = write("l,C_l,error\n2,1,1\n3,1,1\n", "good.csv")
    one = write(estimates({"power": ENTRY}), "one.json")
    cases = [
        ((tmp_path / "none.csv",), {}, "cannot be read"),
        ((write("", "empty.csv"),), {}, "cannot be read"),
        ((write("l,power2,error\n2,1,1\n", "a.csv"),), {}, "has no column C_l; write the header"),
        ((write("l,C_l,error\n2,x,1\n", "b.csv"),), {}, "row 1 has no number in the column C_l"),
        ((write("{}", "c.json"),), {}, "is no estimates.json"),
        (
            (write(estimates({"power": ENTRY}, "energy 1"), "d.json"),),
            {"part": "all"},
            "choose with --part one of: energy",
        ),
        ((write(estimates({"two-point": {}}), "e.json"),), {}, "holds no power spectrum"),
        ((write(estimates({"power": {"l_low": [1], "l_high": [2]}}), "f.json"),), {}, "is not complete"),
        ((one,), {"estimator": "pseudo"}, "has no estimator 'pseudo'"),
        ((one,), {"meaning": "sky"}, "--errors is for CSV files"),
        ((good,), {"part": "all"}, "--part chooses within estimates.json"),
        ((good,), {"covariance": tmp_path / "no.npy"}, "cannot be read"),
        ((good,), {"covariance": write("a,b\nc,d\n", "text.csv")}, "it holds more than numbers"),
        ((good,), {"covariance": write(b"\x93NUMPY broken", "x.npy")}, "cannot be read"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            read_spectrum(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_pickled_arrays_are_not_opened(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_matrix(tmp_path / "bad.npy")
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(InputError, match="a covariance has two axes"):
        read_matrix(tmp_path / "flat.npy")
