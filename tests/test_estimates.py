"""Every method on the same data: vectors agree with the truth and with the methods on their own; nothing is lost."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import FK5, SkyCoord
from diffcr.inference.blinding import blind
from diffcr.inference.control_runs import Source
from diffcr.inference.data import combine
from diffcr.inference.estimate_parts import METHODS, Part, Settings
from diffcr.inference.estimate_spectra import _told_apart, score_cut
from diffcr.inference.estimates import estimates
from diffcr.inference.estimators import two_harmonic_dipole
from diffcr.inference.pseudo_power import pseudo_multipoles
from diffcr.inference.simulate import Simulation, simulate_event_list
from helpers import asimov, dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 36)
HAWC = site("hawc")
LOCAL = np.asarray(acceptance(HAWC, GRID, profile="triangle"))
PLANE = ("rayleigh", "two-harmonic", "east-west", "scrambling", "projection")


def with_cube(counts, sky):
    """The same counts with the cube that they are the marginals of: rate times acceptance times the sky above."""
    tau, h = np.arange(GRID.n_ra)[:, None], np.arange(GRID.n_ra)[None, :]
    above = sky[:, (tau - h) % GRID.n_ra].transpose(1, 0, 2)
    share = LOCAL / LOCAL.sum()
    cube = above * share
    cube *= counts.n_time.sum() / cube.sum()
    return counts.replace(cube=cube[None, None, None])


def expected(dipole, year=np.nan, events=1e8):
    sky = dipole_sky(GRID, dipole)
    return asimov(HAWC, GRID, LOCAL / LOCAL.sum(), np.full(36, events / 36), sky, year), sky


def methods_of(counts, *names, **settings):
    return estimates(counts, None, Settings(methods=names or PLANE, **settings))["parts"][0]["methods"]


@pytest.fixture(scope="module")
def auger():
    """The shipped list with everything that needs no further option."""
    source = Source(("dataset:auger-8eev",), None, {}, {"grid": RingGrid(36, 72)})
    return estimates(source.counts(), source, Settings(l_max=8))


def test_the_auger_list_by_every_method(auger):
    """First harmonic 4.66 % at 100.3 degrees with p = 2.6e-8, d_perp 5.96 %, d_z = -0.0262 +- 0.0148 (Science 357,
    1266); the others against what each module gives on its own on the default grid."""
    methods = auger["parts"][0]["methods"]
    first = methods["rayleigh"]["harmonics"][0]
    assert first["amplitude"] == pytest.approx(0.0466, abs=1e-4)
    assert first["amplitude_error"] == pytest.approx(0.0079, abs=5e-5)
    assert first["log10_p"] == pytest.approx(np.log10(2.6e-8), abs=0.02)
    # Precession since 2000 to the mean epoch is 0.15 degrees.
    assert first["right_ascension_deg"] == pytest.approx(100.3 - 0.15, abs=0.1)
    assert methods["two-harmonic"]["amplitude"] == pytest.approx(0.0596, rel=0.01)
    assert methods["two-harmonic"]["of"] == "events"
    assert methods["two-harmonic"]["delta"][2] == pytest.approx(-0.0262, abs=0.001)
    assert methods["two-harmonic"]["declination_deg_of_maximum"] == pytest.approx(-23.7, abs=1)
    alone = {"likelihood": (0.0525, 103.9), "east-west": (0.0812, 136.7), "east-west-directions": (0.0652, 109.9)}
    alone["scrambling-24h"] = (0.0522, 104.2)
    for name, (amplitude, phase) in alone.items():
        assert methods[name]["amplitude"] == pytest.approx(amplitude, abs=0.15 * methods[name]["amplitude_error"]), name
        assert methods[name]["right_ascension_deg"] == pytest.approx(phase, abs=2.5), name
    for name in ("likelihood", "scrambling-24h"):
        assert methods[name]["amplitude_error"] == pytest.approx(0.0135, rel=0.03)
    # C_1 is half of sum |s|^2 = (4 pi / 3) d^2, noise taken off: d = 0.049 here.
    for name in ("power", "pseudo-power"):
        own = np.sqrt(3 / (2 * np.pi) * methods[name]["power"][0])
        assert own == pytest.approx(0.049, abs=0.007)
        assert np.all(np.abs(np.array(methods[name]["power"][3:]) / methods[name]["isotropic_error"][3:]) < 4)


def test_what_needs_the_events_runs_on_them(auger):
    assert auger["equinox"] == "J2000"
    assert set(auger["frames"]) == {"spectral_index", "sidereal", "solar", "antisidereal", "extended-sidereal"}
    assert auger["frames"]["sidereal"]["dipole"]["amplitude"] == pytest.approx(0.0525, abs=0.002)
    for frame in ("solar", "antisidereal", "extended-sidereal"):
        assert auger["frames"][frame]["residual"]["p_value"] > 0.01
    # (v / c) (2 + Gamma) = 4.5e-4 against an error of 1.3 %: nothing is learned of the index, but its error is right.
    (solar,) = auger["solar_index"]["bins"]
    assert solar["index_error"] == pytest.approx(0.0133 / 0.953e-4, rel=0.05)
    assert [p["label"] for p in auger["stability"]["periods"]] == [str(y) for y in range(2004, 2017)]
    assert auger["stability"]["degrees_of_freedom"] == 24
    np.testing.assert_allclose(
        auger["stability"]["mean"], auger["parts"][0]["methods"]["rayleigh"]["vector"], atol=2e-4
    )


def test_no_method_is_silently_absent(auger):
    """Each ran, or is listed with its reason and remedy; what is not finite is null."""
    ran = {name.split("-24h")[0] for name in auger["parts"][0]["methods"]}
    ran |= {name for name in METHODS[-4:] if name.replace("-", "_") in auger}
    reasons = {entry["method"]: entry["reason"] for entry in auger["not_run"]}
    assert ran | set(reasons) == {*METHODS, "scrambling-4h"}
    assert ran.isdisjoint(reasons)
    assert "`diffcr bin --cube`" in reasons["scrambling-4h"]
    assert "--exposure" in reasons["known-exposure"]
    assert "--blind-search" in reasons["top-hat"]
    json.dumps(auger, allow_nan=False)


def test_all_methods_give_the_dipole_that_was_put_in():
    """Expected counts of HAWC under a dipole (3e-4, -2e-4): also with windows of 4 h, and weights by direction, from
    the cube. Epoch unknown: the vector is of date."""
    truth = (3e-4, -2e-4, 0.0)
    counts, sky = expected(truth)
    found = methods_of(with_cube(counts, sky), *PLANE, "likelihood", "east-west-directions", windows=(24.0, 4.0))
    assert set(found) == {
        *("likelihood", "rayleigh", "two-harmonic", "east-west", "east-west-directions"),
        *("scrambling-24h", "scrambling-4h", "projection"),
    }
    for name, entry in found.items():
        np.testing.assert_allclose(entry["vector"], truth[:2], atol=6e-6, err_msg=name)
        assert entry["amplitude"] == pytest.approx(np.hypot(*truth[:2]), rel=0.02)
        assert entry["right_ascension_deg"] == pytest.approx(360 - 33.69, abs=1)
        assert entry["log10_p"] < 0
    kept = [found[f"scrambling-{h}h"]["fraction_kept"] for h in (24, 4)]
    # HAWC keeps 27 % of a dipole in a day; a shorter window keeps less, and has the larger error.
    assert kept[0] == pytest.approx(0.27, abs=0.03)
    assert kept[1] < kept[0]
    assert found["scrambling-4h"]["amplitude_error"] > found["scrambling-24h"]["amplitude_error"]
    assert found["scrambling-24h"]["raw_amplitude"] == pytest.approx(kept[0] * np.hypot(*truth[:2]), rel=0.02)


def test_vectors_are_of_j2000():
    """A J2000 dipole at 6 h is 0.65 degrees on in 2050 (astropy): each method gives it back where it was."""
    there = SkyCoord(90.0, 0.0, unit="deg", frame=FK5(equinox="J2000")).transform_to(FK5(equinox="J2050"))
    assert there.ra.deg == pytest.approx(90.64, abs=0.02)
    counts, _ = expected(1e-3 * there.cartesian.xyz.value, 2050.0)
    found = methods_of(counts, *PLANE, "likelihood")
    # With all three components: delta_N of cells of 10 degrees is off, and the tilt of the equator mixes it in.
    measured = two_harmonic_dipole(counts).delta
    back = SkyCoord(*measured, representation_type="cartesian", frame=FK5(equinox="J2050"))
    turned = back.transform_to(FK5(equinox="J2000")).cartesian.xyz.value
    np.testing.assert_allclose(found["two-harmonic"]["delta"], turned, atol=1e-7)
    np.testing.assert_allclose(found.pop("two-harmonic")["vector"], turned[:2], atol=1e-7)
    for name, entry in found.items():
        assert entry["right_ascension_deg"] == pytest.approx(90.0, abs=0.05), name
        assert entry["amplitude"] == pytest.approx(1e-3, rel=0.01), name


@pytest.mark.parametrize("order", [1, 2, 3])
def test_harmonics_are_turned_by_the_precession_in_right_ascension(order):
    """46.124 arcsec a year in right ascension at the equator on average: 0.6406 degrees in fifty years, any order."""
    sky = np.tile(1 + 0.01 * np.cos(order * (GRID.right_ascension - np.radians(50.0))), (GRID.n_ring, 1))
    counts = asimov(HAWC, GRID, LOCAL / LOCAL.sum(), np.full(36, 1e6), sky, 2050.0)
    found = methods_of(counts, "rayleigh", "projection")
    for entry in found.values():
        phase = entry["harmonics"][order - 1]["right_ascension_deg"]
        assert phase == pytest.approx(50.0 - 0.6406, abs=0.02)
        assert entry["harmonics"][order - 1]["order"] == order


def test_the_curve_of_the_projection_is_shifted_alike():
    """Its maximum stays on the first harmonic; bins of date are 0.64 degrees further on in 2050."""
    counts, _ = expected((0.0, 0.01, 0.0), 2050.0)
    curve = methods_of(counts, "projection")["projection"]["curve"]
    bins = np.array(curve["right_ascension_deg"])
    assert np.allclose((bins + 0.6406) % 10, 5.0, atol=0.01)
    assert bins[np.argmax(curve["relative_intensity"])] == pytest.approx(90, abs=6)


# Power spectra ------------------------------------------------------------------------------------------------


def part_of(counts, l_max):
    return Part("all", None, counts, Settings(l_max=l_max), lambda: None)


@pytest.mark.parametrize("weight_spread", [0.0, 0.5])
def test_the_pseudo_multipoles_are_the_score(weight_spread):
    """Brute force over the cells, with the expected counts written out: y = sum (n - B) R, and their noise is the
    information; what the background took of the dipole is in it, 73 % at HAWC."""
    rate = np.full(36, 400.0)
    counts = drawn(HAWC, GRID, LOCAL / LOCAL.sum(), rate, np.ones(GRID.shape), 3, weight_spread, np.nan)
    part = part_of(counts, 3)
    sky, background = part.sky
    cut = score_cut(sky, background, counts, part.information)
    np.testing.assert_allclose(pseudo_multipoles(sky, cut), part.information.score, rtol=1e-9, atol=1e-9)
    if weight_spread:
        return
    n_time, n_local = counts.n_time[0, 0, 0], counts.n_local[0, 0, 0]
    mean = sum(n_time[t] * n_local[:, (t - np.arange(36)) % 36] / n_time.sum() for t in range(36))
    np.testing.assert_allclose(background, mean, rtol=0.05, atol=1e-6 * mean.max())
    dipole = dipole_sky(GRID, (1.0, 0.0)) - 1
    place = int(np.flatnonzero((part.information.degree == 1) & (part.information.order == 1))[0])
    full = (mean * dipole**2).sum() * 3 / (4 * np.pi)
    assert part.information.matrix[place, place] / full == pytest.approx(0.27, abs=0.04)


def test_pseudo_power_is_unbiased_and_its_bands_hold():
    """Forty isotropic skies of HAWC: mean zero within its error, scatter the isotropic error, 68 and 95 % bands holding
    what they should. Poisson noise in place of that of n - B would be off by a sigma and a half at l = 1."""
    rate, powers, inside = np.full(36, 1000.0), [], []
    for seed in range(40):
        counts = drawn(HAWC, GRID, LOCAL / LOCAL.sum(), rate, np.ones(GRID.shape), seed)
        entry = methods_of(counts, "pseudo-power", l_max=3)["pseudo-power"]
        powers.append(entry["power"])
        low, high = np.array(entry["isotropic_68"])
        inside.append((np.array(entry["power"]) > low) & (np.array(entry["power"]) < high))
    powers, error = np.array(powers), np.array(entry["isotropic_error"])
    np.testing.assert_allclose(powers.mean(axis=0) / (error / np.sqrt(40)), 0, atol=3)
    np.testing.assert_allclose(powers.std(axis=0) / error, 1, atol=0.35)
    assert 0.53 < np.mean(inside) < 0.83
    assert np.mean((powers > np.array(entry["isotropic_95"])[0]) & (powers < np.array(entry["isotropic_95"])[1])) > 0.88


@pytest.mark.parametrize("method", ["pseudo-power", "power"])
def test_the_power_of_a_dipole(method):
    """C_1 = (2 pi / 3) d^2 from the two multipoles m = +-1 that are seen, and nothing at l = 2 and 3."""
    d = 0.02
    counts, _ = expected((d, 0.0, 0.0), events=1e9)
    entry = methods_of(counts, method, l_max=3)[method]
    assert entry["power"][0] == pytest.approx(2 * np.pi / 3 * d**2, rel=0.02)
    np.testing.assert_allclose(entry["power"][1:], 0, atol=0.02 * entry["power"][0])
    assert entry["l_low"] == [1, 2, 3] == entry["l_high"]
    assert np.shape(entry["power_covariance"]) == (3, 3)


def test_bins_are_widened_until_they_can_be_told_apart():
    """Widths 1, 2, 3, 5, 10; the last bin ends at l_max; if nothing helps, the reason is passed on."""
    asked = []

    def make(bins):
        asked.append(bins)
        if bins[0][1] < least:
            raise InputError(f"{len(bins)} bins cannot be told apart")
        return bins

    least = 3
    assert _told_apart(make, 8) == [(1, 3), (4, 6), (7, 8)]
    assert asked[0] == [(l, l) for l in range(1, 9)]
    assert asked[1] == [(1, 2), (3, 4), (5, 6), (7, 8)]
    least = 9
    with pytest.raises(InputError, match="1 bins cannot be told apart"):
        _told_apart(make, 8)


def test_correlation_of_a_dipole():
    """Positive near, negative opposite; xi of the C_l is d^2 / 2 P_1 for C_1 = (2 pi / 3) d^2, not reduced."""
    d = 0.02
    counts, _ = expected((d, 0.0, 0.0), events=1e9)
    entry = methods_of(counts, "two-point", l_max=2)["two-point"]
    middle = np.radians(entry["separation_deg"])
    np.testing.assert_allclose(entry["xi_of_power"], d**2 / 2 * np.cos(middle), atol=0.03 * d**2)
    xi = np.array([np.nan if x is None else x for x in entry["xi"]])
    seen = np.isfinite(xi)
    # 27 % of the amplitude is left by the background, and only m != 0 of a cut sky.
    assert 0 < xi[0] < 0.27**2 * d**2
    assert xi[seen][-1] < 0
    assert len(entry["edges_deg"]) == len(entry["xi"]) + 1 == 19


# Parts, lists and reasons -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spotted(tmp_path_factory):
    """A list of HAWC with energies, 60 of the highest within 3 degrees of (120, 20) in J2000; two years."""
    path = tmp_path_factory.mktemp("spot") / "events.csv"
    simulation = Simulation(site=HAWC, num_events=4000, dipole=(0.05, 0.0, 0.0), start=5844.0, end=6574.0)
    simulate_event_list(simulation, GRID, 5, path)
    table = pd.read_csv(path)[["time_unix", "ra", "dec"]]
    rng = np.random.default_rng(1)
    energy = rng.uniform(1, 10, len(table))
    near = SkyCoord(table["ra"], table["dec"], unit="deg").separation(SkyCoord(120, 20, unit="deg")).deg < 25
    chosen = np.flatnonzero(near)[:60]
    table.loc[chosen, "ra"] = 120 + rng.uniform(-2, 2, 60)
    table.loc[chosen, "dec"] = 20 + rng.uniform(-2, 2, 60)
    energy[chosen] = 11.0
    table.assign(energy=energy).to_csv(path, index=False)
    return str(path)


def test_discs_at_targets_and_anywhere(spotted):
    source = Source((spotted,), "hawc", {}, {"grid": GRID, "zenith_max": "site"})
    counts = source.counts()
    table = pd.read_csv(spotted)
    # Of those that were moved, some are now beyond the zenith cut.
    table = table[Source((spotted,), "hawc", {}, {"grid": GRID}).events().zenith <= HAWC.zenith_max]
    settings = Settings(
        methods=("top-hat",), targets=(tuple(np.radians([120, 20, 3])), tuple(np.radians([300, 0, 10])))
    )
    found = estimates(counts, source, settings)["top_hat"]
    away = SkyCoord(table["ra"], table["dec"], unit="deg").separation(SkyCoord(120, 20, unit="deg")).deg
    first, second = (each["best"] for each in found["targets"])
    assert first["num_on"] == (away <= 3).sum()
    assert first["right_ascension_deg"] == pytest.approx(120, abs=1e-6)
    assert first["declination_deg"] == pytest.approx(20, abs=1e-6)
    assert first["log10_p"] < -10
    assert first["significance"] > 5
    assert found["exposure"] == "sommers"
    assert second["log10_p"] > -4
    for each in found["targets"]:
        # Two targets: 1 - (1 - p)^2.
        p = 10 ** each["best"]["log10_p"]
        assert each["p_of_all_targets"] == pytest.approx(1 - (1 - p) ** 2, rel=1e-6, abs=1e-14)
    blind_search = dict(blind_search=True, skies=3, radii=(0.05, 0.1), thresholds=(1.0, 10.5))
    blind_one = estimates(counts, source, Settings(methods=("top-hat",), **blind_search))["top_hat"]["blind"]
    spot = SkyCoord(blind_one["best"]["right_ascension_deg"], blind_one["best"]["declination_deg"], unit="deg")
    assert spot.separation(SkyCoord(120, 20, unit="deg")).deg < 5
    assert blind_one["best"]["threshold"] == 10.5
    assert blind_one["num_skies"] == 3
    assert blind_one["penalised_p"] == 0


def test_energy_bins_and_bands_are_parts(spotted):
    source = Source((spotted,), "hawc", {}, {"grid": GRID, "energy_edges": (1.0, 5.0, 12.0)})
    counts = source.counts()
    band = tuple(np.radians((-20.0, 20.0)))
    summary = estimates(counts, source, Settings(methods=("rayleigh", "two-harmonic", "stability"), bands=(band,)))
    labels = [part["label"] for part in summary["parts"]]
    assert labels == [
        *("all", "all, declination -20 to 20", "energy 1-5", "energy 1-5, declination -20 to 20"),
        *("energy 5-12", "energy 5-12, declination -20 to 20"),
    ]
    table = pd.read_csv(spotted)
    numbers = {part["label"]: part["num_events"] for part in summary["parts"]}
    assert numbers["energy 1-5"] == ((table["energy"] >= 1) & (table["energy"] < 5)).sum()
    assert numbers["all"] == len(table)
    ring = np.floor((table["dec"] + 90) / 10)
    assert numbers["all, declination -20 to 20"] == pytest.approx(((ring >= 7) & (ring < 11)).sum(), abs=10)
    for part in summary["parts"]:
        two, one = part["methods"]["two-harmonic"], part["methods"]["rayleigh"]
        # The events of the part, and its bins: the same harmonic within the width of a bin.
        assert two["of"] == "events"
        np.testing.assert_allclose(two["vector"], one["vector"], atol=0.4 * one["amplitude_error"])
        assert two["mean_cos_declination"] == pytest.approx(one["mean_cos_declination"], abs=0.01)
    assert len(summary["stability"]["periods"]) == 2


def test_a_band_without_events_is_listed(spotted):
    source = Source((spotted,), "hawc", {}, {"grid": GRID})
    bands = (tuple(np.radians((-90.0, -70.0))),)
    summary = estimates(source.counts(), source, Settings(methods=("rayleigh",), bands=bands))
    assert [part["label"] for part in summary["parts"]] == ["all"]
    (entry,) = summary["not_run"]
    assert entry["part"] == "all, declination -90 to -70"
    assert "holds no event" in entry["reason"]


def test_counts_alone_say_what_they_lack():
    counts = drawn(HAWC, GRID, LOCAL / LOCAL.sum(), np.full(36, 300.0), np.ones(GRID.shape), 1)
    summary = estimates(counts, None, Settings(methods=("rayleigh", *METHODS[-4:], "east-west-directions")))
    reasons = {entry["method"]: entry["reason"] for entry in summary["not_run"]}
    assert set(reasons) == {*METHODS[-4:], "east-west-directions"}
    assert "give event lists, not counts" in reasons["frames"]
    assert "--epochs yearly" in reasons["stability"]
    assert "`diffcr bin --cube`" in reasons["east-west-directions"]


def test_epochs_of_counts_give_their_stability():
    sky = dipole_sky(GRID, (0.3, 0.1))
    parts = [
        drawn(HAWC, GRID, LOCAL / LOCAL.sum(), np.full(36, 300.0), sky, k, 0.0, 2010.0 + k).replace(epochs=(str(k),))
        for k in range(3)
    ]
    found = estimates(combine(parts), None, Settings(methods=("rayleigh", "stability")))["stability"]
    assert found["method"] == "scrambling, by epoch"
    assert [p["label"] for p in found["periods"]] == ["0", "1", "2"]
    assert [p["time"] for p in found["periods"]] == [2010.0, 2011.0, 2012.0]
    assert found["p_value"] > 1e-3
    np.testing.assert_allclose(found["mean"], (0.3, 0.1), atol=4 * np.sqrt(found["mean_covariance"][0][0]))


def test_blinded_counts_show_no_phase():
    """Nothing that a rotation of the sky changes: two keys give the same, and hidden numbers are null."""
    sky = dipole_sky(GRID, (0.1, 0.2))
    counts = drawn(HAWC, GRID, LOCAL / LOCAL.sum(), np.full(36, 3000.0), sky, 1, 0.0, 2015.0)
    settings = Settings(methods=(*PLANE, "pseudo-power", "two-point", "frames"), l_max=3)
    one, two = (estimates(blind(counts, key), None, settings) for key in ("a", "bc"))
    methods = one["parts"][0]["methods"]
    for entry in methods.values():
        for name in ("vector", "covariance", "right_ascension_deg"):
            assert entry.get(name) is None
    assert methods["projection"]["curve"] is None
    assert methods["two-harmonic"]["delta"] is None
    assert methods["rayleigh"]["harmonics"][1]["right_ascension_deg"] is None
    assert methods["rayleigh"]["harmonics"][1]["cosine"] is None
    assert methods["rayleigh"]["amplitude"] == pytest.approx(np.hypot(0.1, 0.2), rel=0.1)
    _same(one["parts"], two["parts"])


def _same(one, two, path=""):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        # Drawn skies are drawn anew.
        for key in (k for k in one if not k.startswith(("isotropic_", "statistical_", "log10_p"))):
            _same(one[key], two[key], f"{path}/{key}")
    elif isinstance(one, list):
        for k, (a, b) in enumerate(zip(one, two, strict=True)):
            _same(a, b, f"{path}/{k}")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-3), path
    else:
        assert one == two, path


def test_settings_and_data_that_allow_nothing_are_refused():
    with pytest.raises(InputError, match="unknown method 'rayliegh'"):
        Settings(methods=("rayliegh",))
    with pytest.raises(InputError, match="no method was named"):
        Settings(methods=())
    with pytest.raises(InputError, match="choose sommers or fitted"):
        Settings(search_exposure="flat")
    counts, _ = expected((0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"none of the methods can run on these data: frames needs the events"):
        estimates(counts, None, Settings(methods=("frames",)))


def test_systematics_are_added_where_asked_for(spotted):
    source = Source((spotted,), "hawc", {}, {"grid": GRID})
    summary = estimates(source.counts(), source, Settings(methods=("rayleigh",)), systematic=True)
    names = {c["name"] for c in summary["systematics"]["checks"]}
    assert {"years", "zenith halves", "antisidereal dipole"} <= names
    assert np.shape(summary["systematics"]["total_covariance"]) == (2, 2)
