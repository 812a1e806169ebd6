"""`diffcr estimate` and `diffcr fit --systematics` as their users call them."""

import json
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from diffcr.inference import cli, load_counts
from diffcr.inference.spectrum_files import read_spectrum

from diffcr.errors import FitError

GRID = ("--grid", "36x18")
QUICK = ("--methods", "rayleigh,two-harmonic,east-west,scrambling,power,stability", "--no-plots", "--lmax", "4")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def diffcr(monkeypatch, capsys):
    """Runs the command in this process, so that what JAX has compiled is shared."""

    def call(*args) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["diffcr", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Outcome(stop.value.code, *capsys.readouterr())

    return call


def _quiet(*args) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffcr", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0, args


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An event list of two years with energies, its counts with and without the cube, blinded, and in solar time."""
    folder = tmp_path_factory.mktemp("files")
    simulated = ("--events", "4000", "--dipole", "0.2,0.1", "--seed", "1", "--from", "2016-01-01", "--to", "2018-01-01")
    _quiet("simulate", "--site", "hawc", *simulated, *GRID, "--event-list", folder / "all.csv", "-o", folder / "t.nc")
    table = pd.read_csv(folder / "all.csv")[["time_unix", "ra", "dec"]]
    table.to_csv(folder / "plain.csv", index=False)
    table.assign(energy=1.0 + table.index % 5).to_csv(folder / "events.csv", index=False)
    for name, options in (
        ("counts", ()),
        ("cube", ("--cube",)),
        ("blind", ("--blind", "key")),
        ("solar", ("--time-frame", "solar")),
        ("yearly", ("--epochs", "yearly")),
    ):
        _quiet("bin", folder / "events.csv", "--site", "hawc", *GRID, *options, "-o", folder / f"{name}.nc")
    return folder


def read(folder, name="estimates"):
    return json.loads((folder / f"{name}.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.smoke
def test_everything_of_an_event_list(diffcr, files, tmp_path):
    """All methods with one command: only what needs an option or the cube is left out."""
    out = tmp_path / "out"
    outcome = diffcr("estimate", files / "events.csv", "--site", "hawc", *GRID, "--systematics", "-o", out)
    assert outcome.code == 0, outcome.err
    summary = read(out)
    assert {e["method"] for e in summary["not_run"]} == {"known-exposure", "scrambling-4h", "top-hat"}
    for entry in summary["parts"][0]["methods"].values():
        if "vector" in entry:
            assert abs(entry["vector"][0] - 0.2) < 5 * entry["covariance"][0][0] ** 0.5
            assert abs(entry["vector"][1] - 0.1) < 5 * entry["covariance"][1][1] ** 0.5
    for name in ("power", "pseudo-power"):
        # What a fit of theory needs is there: of the mean of each bin, and of noise alone.
        entry = summary["parts"][0]["methods"][name]
        spectrum, record = read_spectrum(out / "estimates.json", estimator=name)
        assert "window" not in record and spectrum.meaning == "isotropic"
        np.testing.assert_allclose(spectrum.window, entry["window"], atol=1e-9)
        np.testing.assert_allclose(np.diag(entry["isotropic_covariance"]) ** 0.5, entry["isotropic_error"])
    assert {"frames", "solar_index", "stability", "systematics"} <= set(summary)
    pictures = {path.stem for path in out.glob("*.png")}
    assert pictures == {"estimates", "power_spectrum", "two_point", "projection", "stability"}
    assert (out / "estimates.tex").exists()
    assert (out / "hepdata" / "submission.yaml").exists()
    assert not list(out.rglob(".*.part"))
    for line in ("Maximum likelihood", "stability", "systematics", "not run", "results"):
        assert line in outcome.out
    assert outcome.err.startswith("read             events.csv")


def test_counts_files_run_what_they_allow(diffcr, files, tmp_path):
    outcome = diffcr("estimate", files / "cube.nc", *QUICK, "--window", "24,8", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    methods = read(tmp_path)["parts"][0]["methods"]
    assert {"scrambling-24h", "scrambling-8h"} <= set(methods)
    assert [e["method"] for e in read(tmp_path)["not_run"]] == ["stability"]
    assert not list(tmp_path.glob("*.png"))
    outcome = diffcr("estimate", files / "yearly.nc", *QUICK, "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    assert len(read(tmp_path)["stability"]["periods"]) == 2


def test_bands_energies_and_seasons(diffcr, files, tmp_path):
    options = ("--declination=-20,20;20,60", "--energy-edges", "1,3,6", "--by", "season")
    outcome = diffcr("estimate", files / "events.csv", "--site", "hawc", *GRID, *QUICK, *options, "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    summary = read(tmp_path)
    assert [part["label"] for part in summary["parts"][:4]] == [
        *("all", "all, declination -20 to 20", "all, declination 20 to 60", "energy 1-3"),
    ]
    assert len(summary["parts"]) == 9
    numbers = [part["num_events"] for part in summary["parts"]]
    assert numbers[0] == numbers[3] + numbers[6] >= numbers[1] + numbers[2]
    assert summary["stability"]["periods"][0]["label"] == "December-February"


def test_targets_and_a_blind_search(diffcr, files, tmp_path):
    base = ("estimate", files / "events.csv", "--site", "hawc", *GRID, "--zenith-max", "45", "--methods", "top-hat")
    outcome = diffcr(*base, "--targets", "83.6,22,5;266,-5,10", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    found = read(tmp_path)["top_hat"]["targets"]
    assert [round(each["best"]["radius_deg"]) for each in found] == [5, 10]
    assert found[0]["best"]["right_ascension_deg"] == pytest.approx(83.6)
    assert outcome.out.count("disc  ") == 2
    outcome = diffcr(*base, "--blind-search", "--skies", "2", "--thresholds", "5", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    assert read(tmp_path)["top_hat"]["blind"]["num_skies"] == 2


def test_a_list_of_days_can_be_searched(diffcr, tmp_path):
    """The 231 events above 52 EeV around Cen A: 14 within 15 degrees above 58 EeV for 4.5 expected, p 2.0e-4 (rounded
    numbers of the Pierre Auger Collaboration 2015, ApJ 804, 15)."""
    options = ("--methods", "top-hat", "--targets", "201.4,-43,15", "--thresholds", "58", "--no-plots")
    outcome = diffcr("estimate", "dataset:auger-52eev", *options, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    best = json.loads((tmp_path / "out" / "estimates.json").read_text())["top_hat"]["targets"][0]["best"]
    assert best["num_on"] == 14
    assert best["expected"] == pytest.approx(4.5, abs=0.1)
    assert 10 ** best["log10_p"] == pytest.approx(2.0e-4, rel=0.15)
    outcome = diffcr("estimate", "dataset:auger-52eev", *options, "--zenith-max", "60", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "leave out --zenith-max" in outcome.err


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_event_lists_what_cannot_be_measured(diffcr, tmp_path):
    (tmp_path / "one.csv").write_text("time,ra,dec\n2016-01-01T00:00:00,10,20\n")
    outcome = diffcr("estimate", tmp_path / "one.csv", "--site", "hawc", *GRID, "--no-plots", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    missing = {entry["method"] for entry in read(tmp_path / "out")["not_run"]}
    assert {"likelihood", "power", "pseudo-power", "frames"} <= missing


def test_the_index_is_that_of_the_orbital_lines(diffcr, files, tmp_path):
    base = ("estimate", files / "events.csv", "--site", "hawc", *GRID, "--methods", "frames", "--no-plots")
    lines = []
    for gamma in ("2", "3"):
        assert diffcr(*base, "--gamma", gamma, "-o", tmp_path).code == 0
        assert read(tmp_path)["frames"]["spectral_index"] == float(gamma)
        lines.append(read(tmp_path)["frames"]["solar"]["orbital"][1])
    # (2 + Gamma) v / c towards 6 h.
    assert lines[1] / lines[0] == pytest.approx(5 / 4)
    assert lines[0] == pytest.approx(4 * 0.953e-4, rel=0.01)
    assert diffcr(*base, "--gamma", "2", "--remove-orbital", "-o", tmp_path).code == 0
    assert read(tmp_path)["frames"]["solar"]["orbital"] == [0.0, 0.0]


@pytest.mark.slow
def test_a_known_exposure_gives_the_whole_dipole(diffcr, files, tmp_path):
    base = ("estimate", files / "events.csv", "--site", "hawc", *GRID, "--methods", "known-exposure", "--no-plots")
    outcome = diffcr(*base, "--exposure", "known", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    entry = read(tmp_path)["parts"][0]["methods"]["known-exposure"]
    assert len(entry["delta"]) == 3
    assert len(entry["quadrupole"]["multipoles"]) == 8
    assert set(entry["quadrupole"]["l"]) == {1, 2}
    for value, truth, k in zip(entry["delta"], (0.2, 0.1, 0.0), range(3), strict=True):
        assert abs(value - truth) < 5 * entry["delta_covariance"][k][k] ** 0.5


def test_blinded_counts_show_no_phase(diffcr, files, tmp_path):
    outcome = diffcr(
        "estimate", files / "events.csv", "--site", "hawc", *GRID, *QUICK, "--blind", "key", "-o", tmp_path
    )
    assert outcome.code == 0, outcome.err
    assert read(tmp_path)["parts"][0]["methods"]["rayleigh"]["right_ascension_deg"] is None
    assert "right ascension hidden" in outcome.out
    reasons = {e["method"]: e["reason"] for e in read(tmp_path)["not_run"]}
    assert "unblind the counts first" in reasons["stability"]


def test_a_fit_that_does_not_converge_is_written_and_exits_3(diffcr, files, tmp_path, monkeypatch):
    def stuck(*args, **kwargs):
        raise FitError("the fit stopped after 60 steps")

    monkeypatch.setattr("diffcr.inference.estimate_parts.fit", stuck)
    outcome = diffcr("estimate", files / "counts.nc", "--methods", "rayleigh,likelihood", "--no-plots", "-o", tmp_path)
    assert outcome.code == 3
    assert "likelihood (all): the fit stopped after 60 steps; the rest was written" in outcome.err
    assert read(tmp_path)["not_run"][0]["converged"] is False
    assert "rayleigh" in read(tmp_path)["parts"][0]["methods"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "rayliegh"), "unknown method 'rayliegh'"),
        (("--declination", "10"), "--declination takes LO,HI;LO,HI in degrees"),
        (("--declination", "20,10"), "lowest first"),
        (("--declination", "a,b"), "--declination takes numbers"),
        (("--window", "0"), "--window takes hours above 0 and up to 24"),
        (("--window", "x"), "--window takes numbers"),
        (("--targets", "1,2"), "--targets takes RA,DEC,RADIUS;.. in degrees"),
        (("--targets", "1,100,2"), "the declination must lie within"),
        (("--targets", "1,2,3", "--blind-search"), "one at a time"),
        (("--thresholds", "3,2"), "--thresholds takes increasing energies"),
        (("--by", "week"), "--by must be year or season"),
        (("--search-exposure", "flat"), "--search-exposure must be sommers or fitted"),
        (("--lmax", "9"), "--lmax 9 is not resolved by the grid; choose 1 to 8"),
        (("--lmax", "0"), "--lmax 0 is not resolved"),
        (("--gamma", "nan"), "--gamma must be a number"),
        (("--methods", "frames,top-hat"), "none of the methods can run on these data: frames needs the events"),
        (("--energy-min", "1"), "--energy-min and --energy-max cannot be applied to counts"),
    ],
)
def test_bad_input_is_one_line(diffcr, files, tmp_path, options, message):
    outcome = diffcr("estimate", files / "counts.nc", *options, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(diffcr):
    outcome = diffcr("estimate", "--help")
    assert outcome.code == 0
    assert "Example: diffcr estimate" in " ".join(outcome.out.split())


# fit --systematics --------------------------------------------------------------------------------------------


def test_systematics_of_an_event_list(diffcr, files, tmp_path):
    base = ("fit", files / "events.csv", "--site", "hawc", *GRID, "--no-plots", "-o", tmp_path)
    outcome = diffcr(*base, "--systematics")
    assert outcome.code == 0, outcome.err
    block = read(tmp_path, "fit")["systematics"]
    assert {c["name"] for c in block["checks"]} == {
        *("antisidereal dipole", "solar dipole", "extended-sidereal dipole", "years", "energy halves"),
        *("zenith halves", "East-West against likelihood"),
    }
    dipole = read(tmp_path, "fit")["dipole"]
    assert block["amplitude"] == pytest.approx(dipole["amplitude"])
    assert block["amplitude_error"]["statistical"] == pytest.approx(dipole["amplitude_error"])
    assert set(block["right_ascension_error_deg"]) == {"statistical", "systematic", "total"}
    assert "systematics      7 checks" in outcome.out
    assert diffcr(*base).code == 0
    assert "systematics" not in read(tmp_path, "fit")


def test_systematics_of_counts(diffcr, files, tmp_path):
    outcome = diffcr("fit", files / "counts.nc", "--no-plots", "--systematics", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    block = read(tmp_path, "fit")["systematics"]
    assert {e["check"] for e in block["not_run"]} == {"time frames", "epochs", "energy", "zenith angle"}
    assert "not possible: time frames, epochs, energy, zenith angle" in outcome.out


@pytest.mark.parametrize(("name", "message"), [("blind", "unblinded counts"), ("solar", "sidereal time")])
def test_systematics_need_open_sidereal_counts(diffcr, files, tmp_path, name, message):
    assert load_counts(files / f"{name}.nc")
    for command in (("fit",), ("estimate", "--methods", "rayleigh")):
        outcome = diffcr(command[0], files / f"{name}.nc", *command[1:], "--systematics", "-o", tmp_path / "out")
        assert outcome.code == 2
        assert message in outcome.err
        assert not (tmp_path / "out").exists()
