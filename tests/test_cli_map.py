"""`diffcr map` as its users call it: inputs and configurations of multi-llh, every method, and every wrong call."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import healpy
import numpy as np
import pytest
from diffcr.inference import cli
from diffcr.inference.data import combine
from diffcr.inference.exchange import write_exchange
from diffcr.inference.local_maps import LocalMaps
from helpers import dipole_sky, drawn

from diffcr.grid import RingGrid
from diffcr.site import Site

GRID = RingGrid(18, 36)
NSIDE, BINS = 8, 24
HAWC = Site("HAWC", np.radians(19.0), np.radians(-97.3), np.radians(57.0))
POLE = Site("IceCube", np.radians(-90.0), 0.0, np.radians(65.0))
QUICK = ("--nside", "8", "--no-plots")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """`diffcr map` in this process."""

    def call(*args) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["diffcr", "map", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Outcome(stop.value.code, *capsys.readouterr())

    return call


def local_acceptance(place: Site) -> np.ndarray:
    dec, hour = GRID.declination[:, None], GRID.hour_angle
    cosine = np.sin(place.latitude) * np.sin(dec) + np.cos(place.latitude) * np.cos(dec) * np.cos(hour)
    local = np.where(cosine > np.cos(place.zenith_max), cosine, 0) * np.cos(dec)
    return local / local.sum()


def counts_of(place: Site, events: float, seed: int, spread=0.0):
    sky = dipole_sky(GRID, (0.03, 0.02))
    return drawn(place, GRID, local_acceptance(place), np.full(36, events / 36), sky, seed, spread, epoch_year=2015.0)


def local_maps(place: Site, seed: int, weights: bool = False, nside: int = NSIDE, bins: int = BINS) -> LocalMaps:
    """Counts of a dipole of 5 % towards right ascension 60 degrees, Poisson."""
    south, east, up = healpy.pix2vec(nside, np.arange(12 * nside**2))
    shape = np.where(np.arccos(up) < place.zenith_max, np.maximum(up, 0), 0)
    counts = np.empty((bins, len(up)))
    for tau in range(bins):
        t = 2 * np.pi * tau / bins + place.longitude
        s, c = np.sin(place.latitude), np.cos(place.latitude)
        x = south * s * np.cos(t) - east * np.sin(t) + up * c * np.cos(t)
        y = south * s * np.sin(t) + east * np.cos(t) + up * c * np.sin(t)
        counts[tau] = 300 * shape * (1 + 0.05 * (x * np.cos(np.pi / 3) + y * np.sin(np.pi / 3)))
    counts = np.random.default_rng(seed).poisson(counts).astype(float)
    more = (1.5 * counts, 2.5 * counts) if weights else (None, None)
    return LocalMaps(place.name, place.latitude, place.longitude, place.zenith_max, counts, *more)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Counts files and configurations; tests read them and leave them as they are."""
    folder = tmp_path_factory.mktemp("files")
    hawc, pole = counts_of(HAWC, 3e6, 1), counts_of(POLE, 3e6, 2)
    hawc.save(folder / "hawc.nc")
    combine([hawc, pole]).save(folder / "both.nc")
    counts_of(HAWC, 1e6, 3, 0.5).save(folder / "weighted.nc")
    write_exchange(folder, "plain", [local_maps(HAWC, 1), local_maps(POLE, 2)])
    write_exchange(folder, "weighted", [local_maps(HAWC, 1, weights=True)], multifits=True)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "map.json").read_text())


def the_dipole_is(content, amplitude, degrees):
    d = content["dipole"]
    assert d["amplitude"] == pytest.approx(amplitude, abs=4 * d["amplitude_error"])
    assert d["right_ascension_deg"] == pytest.approx(degrees, abs=4 * d["right_ascension_error_deg"])
    assert d["amplitude"] > 5 * d["amplitude_error"]


# What works ----------------------------------------------------------------------------------------------------


def test_counts_become_a_map(run, files, tmp_path):
    outcome = run(files / "both.nc", "-o", tmp_path / "out", "--nside", "8")
    assert outcome.code == 0 and outcome.err == ""
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"map.fits", "map.json", "relative_intensity.png", "error.png", "significance.png"}
    content = results(tmp_path / "out")
    assert content["converged"] and content["method"] == "maximum-likelihood" and content["cpu_seconds"] > 0
    the_dipole_is(content, np.hypot(0.03, 0.02), np.degrees(np.arctan2(0.02, 0.03)) - 0.19)
    assert "converged        yes" in outcome.out and "map.fits" in outcome.out
    values, header = healpy.read_map(tmp_path / "out" / "map.fits", field=None, h=True)
    header = dict(header)
    assert [header[f"TTYPE{k}"] for k in range(1, 6)] == [
        *("RELATIVE_INTENSITY", "ERROR", "SIGNIFICANCE", "BACKGROUND", "EXPOSURE")
    ]
    assert header["COORDSYS"] == "C" and header["EQUINOX"] == 2000 and header["METHOD"] == "maximum-likelihood"
    assert len(values[0]) == 768
    x, y, _ = healpy.pix2vec(8, np.arange(768))
    seen = values[1] != healpy.UNSEEN
    weight = 1 / values[1][seen] ** 2
    wave = 0.03 * x[seen] + 0.02 * y[seen]
    assert np.sum(weight * wave * values[0][seen]) / np.sum(weight * wave**2) == pytest.approx(1, abs=0.3)


def test_a_configuration_becomes_a_map_and_its_own_files(run, files, tmp_path):
    outcome = run("--config", files / "plain.json", "--timesteps", BINS, "-o", tmp_path / "out", *QUICK)
    assert outcome.code == 0, outcome.err
    content = results(tmp_path / "out")
    the_dipole_is(content, 0.05, 60)
    assert content["observatories"] == ["HAWC", "IceCube"] and content["equinox"] == "date"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"map.fits", "map.json", "CR_HAWC_IceCube__8_24_max.fits.gz", "RAW_HAWC_IceCube__8_24_max.fits.gz"} < names
    assert sum(n.startswith("norm_") for n in names) == sum(n.startswith("exposure_") for n in names) == 2
    norm = np.loadtxt(next((tmp_path / "out").glob("norm_HAWC*")))
    assert norm.shape == (BINS,) and norm.sum() == pytest.approx(local_maps(HAWC, 1).counts.sum(), rel=0.02)


def test_a_configuration_can_be_the_input(run, files, tmp_path):
    """Half a bin later is where `center` puts the sky: 7.5 degrees in right ascension."""
    angle = {}
    for reference in ("start", "center"):
        outcome = run(files / "plain.json", "--bin-reference", reference, "-o", tmp_path / reference, *QUICK)
        assert outcome.code == 0, outcome.err
        angle[reference] = results(tmp_path / reference)["dipole"]["right_ascension_deg"]
    assert angle["center"] - angle["start"] == pytest.approx(7.5, abs=0.3)


def test_weighted_files_and_their_grid(run, files, tmp_path):
    outcome = run("--config", files / "weighted.json", "--grid", "24x20", "-o", tmp_path / "out", *QUICK)
    assert outcome.code == 0, outcome.err
    content = results(tmp_path / "out")
    assert content["grid"] == [20, 24]
    assert content["sum_weights"] == pytest.approx(1.5 * content["num_events"], rel=1e-6)
    assert content["effective_events"] == pytest.approx(0.9 * content["num_events"], rel=1e-6)


def test_nested_files_are_converted_and_it_is_said(run, tmp_path):
    """The same counts in NESTED order, one FITS table per bin: the same map."""
    maps = local_maps(HAWC, 1)
    config = write_exchange(tmp_path, "ring", [maps])
    content = json.loads(config.read_text())
    content["detectors"]["HAWC"] |= {"prefix": "nest_"}
    for k, values in enumerate(maps.counts):
        nested = values[healpy.nest2ring(NSIDE, np.arange(len(values)))]
        healpy.write_map(tmp_path / f"nest_{k:03d}.fits", nested, nest=True, dtype=np.float64)
    (tmp_path / "nested.json").write_text(json.dumps(content))
    plain = run("--config", config, "-o", tmp_path / "a", *QUICK)
    nested = run("--config", tmp_path / "nested.json", "-o", tmp_path / "b", *QUICK)
    assert plain.code == nested.code == 0, nested.err
    assert "NESTED order was turned into RING" in nested.out + nested.err
    assert "NESTED" not in plain.out + plain.err
    assert results(tmp_path / "a")["dipole"] == results(tmp_path / "b")["dipole"]


def test_discs_are_judged_after_trials(run, files, tmp_path):
    out = tmp_path / "out"
    outcome = run(files / "hawc.nc", "--smoothing", "20", "--skies", "12", "--seed", "3", "-o", out, "--nside", "8")
    assert outcome.code == 0, outcome.err
    content = results(out)
    assert content["smoothing_deg"] == pytest.approx(20) and "post-trial" in outcome.out
    assert content["hottest"]["post_trial"]["isotropic_skies"] == 12
    assert content["coldest"]["significance"] < -3 < 3 < content["hottest"]["significance"]
    assert all(abs(s["significance"]) >= 3 for s in content["excesses"] + content["deficits"])
    assert content["li_ma"]["predicted_width_median"] > 0.9
    header = dict(healpy.read_map(out / "map.fits", field=(0, 5, 6), h=True)[1])
    assert header["RADIUS"] == pytest.approx(20) and header["TTYPE6"] == "LI_MA" and header["TTYPE7"] == "LI_MA_WIDTH"
    again = run(files / "hawc.nc", "--smoothing", "20", "--skies", "12", "--seed", "3", "-o", tmp_path / "b", *QUICK)
    assert again.code == 0
    assert results(tmp_path / "b")["hottest"] == content["hottest"]
    none = run(files / "hawc.nc", "--smoothing", "20", "--skies", "0", "-o", tmp_path / "c", *QUICK)
    assert none.code == 0 and results(tmp_path / "c")["hottest"]["post_trial"] is None
    assert "post-trial" not in none.out


def test_a_removed_dipole_is_not_an_excess(run, files, tmp_path):
    out = tmp_path / "out"
    options = ("--smoothing", "30", "--skies", "0", "--remove-lmax", "1")
    assert run(files / "both.nc", *options, "-o", out, *QUICK).code == 0
    content = results(out)
    assert content["removed_lmax"] == 1
    assert abs(content["hottest"]["significance"]) < 5 and abs(content["coldest"]["significance"]) < 5


def test_iterations_keep_a_part(run, files, tmp_path):
    outcome = run(files / "hawc.nc", "--method", "iterative", "--iterations", "1", "-o", tmp_path / "out", *QUICK)
    assert outcome.code == 0, outcome.err
    content = results(tmp_path / "out")
    assert content["method"] == "iterative" and content["iterations"] == 1 and content["converged"] is None
    assert content["dipole"]["amplitude"] < 0.6 * np.hypot(0.03, 0.02)


def test_wiener_maps_with_given_and_fitted_power(run, files, tmp_path):
    call = (files / "both.nc", "--method", "wiener", "--lmax", "4", *QUICK)
    assert run(*call, "-o", tmp_path / "a").code == 0
    fitted = results(tmp_path / "a")
    assert fitted["prior_cl_fitted"] is True and len(fitted["prior_cl"]) == 3 and fitted["method"] == "wiener"
    assert run(*call, "--prior-cl", "1e-6", "--psf", "HAWC=gauss:10", "-o", tmp_path / "b").code == 0
    given = results(tmp_path / "b")
    assert given["prior_cl_fitted"] is False and given["prior_cl"] == [1e-6] * 3
    the_dipole_is(fitted, np.hypot(0.03, 0.02), np.degrees(np.arctan2(0.02, 0.03)))
    table = tmp_path / "psf.csv"
    table.write_text("angle_deg,density\n0,1\n5,0.5\n10,0\n")
    assert run(*call, "--prior-cl", "1e-6,1e-6,2e-6", "--psf", table, "-o", tmp_path / "c").code == 0


def test_blinded_maps_hide_phases(run, files, tmp_path):
    out = tmp_path / "out"
    outcome = run(
        files / "hawc.nc", "--blind", "secret", "--smoothing", "30", "--skies", "0", "-o", out, "--nside", "8"
    )
    assert outcome.code == 0, outcome.err
    content = results(out)
    assert content["blinded"] is True
    assert content["dipole"]["right_ascension_deg"] is None and content["dipole"]["delta_0h"] is None
    assert content["dipole"]["amplitude"] == pytest.approx(np.hypot(0.03, 0.02), rel=0.2)
    for spot in (content["hottest"], content["coldest"], *content["excesses"], *content["deficits"]):
        assert spot["right_ascension_deg"] is None
    assert "hidden" in outcome.out and "secret" not in outcome.out + (out / "map.json").read_text()


def test_few_events_get_large_cells(run, tmp_path):
    counts_of(HAWC, 3000, 9).save(tmp_path / "few.nc")
    assert run(tmp_path / "few.nc", "-o", tmp_path / "out", *QUICK).code == 0
    content = results(tmp_path / "out")
    assert content["cells"] != [1, 1] and content["median_expectation_per_cell"] >= 20
    assert run(tmp_path / "few.nc", "--cells", "1x1", "-o", tmp_path / "b", *QUICK).code == 0
    assert results(tmp_path / "b")["cells"] == [1, 1]
    assert run(tmp_path / "few.nc", "--cells", "6x3", "-o", tmp_path / "c", *QUICK).code == 0
    assert results(tmp_path / "c")["cells"] == [3, 6]


def test_a_map_that_did_not_converge_is_written_and_ends_with_three(run, files, tmp_path, monkeypatch):
    from diffcr.inference import maps

    whole = maps.maximise
    monkeypatch.setattr(maps, "maximise", lambda problem, tolerance, _: whole(problem, tolerance, 1))
    outcome = run(files / "hawc.nc", "-o", tmp_path / "out", "--cells", "1x1", *QUICK)
    assert outcome.code == 3 and outcome.err.count("\n") == 1 and "the map has not converged" in outcome.err
    assert results(tmp_path / "out")["converged"] is False and (tmp_path / "out" / "map.fits").exists()


# What does not -------------------------------------------------------------------------------------------------


def refused(outcome: Outcome, text: str) -> None:
    """Exit code 2 and one line that says so, without a traceback."""
    assert outcome.code == 2, outcome
    assert text in outcome.err, outcome.err
    assert outcome.err.strip().count("\n") == 0 and "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "no input was given: name event lists or counts files, or --config FILE.json"),
        (("hawc.nc", "--config", "plain.json"), "inputs and --config were both given; one at a time"),
        (("hawc.nc", "--timesteps", "24"), "--timesteps has no effect without --config"),
        (("hawc.nc", "--method", "newton"), "unknown method 'newton': choose one of ml, iterative, wiener"),
        (("hawc.nc", "--lmax", "5"), "--lmax has no effect with --method ml"),
        (("hawc.nc", "--prior-cl", "1e-6", "--method", "iterative"),
         "--prior-cl has no effect with --method iterative"),
        (("hawc.nc", "--psf", "gauss:1"), "--psf has no effect with --method ml"),
        (("hawc.nc", "--smoothing", "0"), "--smoothing must lie between 0 and 180 degrees, not 0"),
        (("hawc.nc", "--smoothing", "180"), "--smoothing must lie between 0 and 180 degrees, not 180"),
        (("hawc.nc", "--smoothing", "nan"), "--smoothing must lie between 0 and 180 degrees, not nan"),
        (("hawc.nc", "--skies", "10"), "--skies judges discs: give their radius with --smoothing"),
        (("hawc.nc", "--cells", "5x1"), "cells of 5 x 1 bins and rings do not divide a grid of 36 x 18"),
        (("hawc.nc", "--cells", "two"), "--cells takes BINSxRINGS such as 2x2, not 'two'"),
        (("hawc.nc", "--nside", "12"), "--nside must be a power of two from 1 to 1024, not 12"),
        (("hawc.nc", "--iterations", "0", "--method", "iterative"), "--iterations must be at least 1, not 0"),
        (("hawc.nc", "--rate-bins", "7"), "rate_bins = 7 does not divide the 36 time bins"),
        (("hawc.nc", "--method", "wiener", "--lmax", "4", "--psf", "Auger=gauss:1"),
         "no observatory or configuration 'Auger'; there are HAWC"),
        (("hawc.nc", "--method", "wiener", "--lmax", "4", "--psf", "gauss:x"),
         "gauss:SIGMA or king:SIGMA:GAMMA in degrees"),
        (("hawc.nc", "--method", "wiener", "--lmax", "4", "--prior-cl", "-1"),
         "the prior C_l needs one positive value"),
        (("hawc.nc", "--method", "wiener", "--lmax", "40"),
         "l_max = 40 must be at least 1 and below half the 18 rings"),
        (("missing.nc",), "missing.nc"),
        (("--config", "missing.json"), "missing.json: cannot be read"),
        (("--config", "plain.json", "--timesteps", "360"),
         "it has 24 time bins, not 360; correct the number, or the files"),
        (("--config", "plain.json", "--grid", "36x18"), "these files have 24 sidereal bins, so the grid must be 24x18"),
        (("--config", "plain.json", "--zenith-max", "40"), "options of event lists have no effect with --config"),
        (("hawc.nc", "--smoothing", "0.5", "--skies", "0", "--threshold", "x"), "threshold"),
    ],
)  # fmt: skip
def test_wrong_calls_end_with_one_line(run, files, tmp_path, options, text):
    named = [files / o if o.endswith((".nc", ".json")) else o for o in options]
    refused(run(*named, "-o", tmp_path / "out"), text)
    assert not (tmp_path / "out").exists()


def changed(files: Path, folder: Path, **entries) -> Path:
    """A copy of the first detector of plain.json with other entries, its files where they are."""
    entry = json.loads((files / "plain.json").read_text())["detectors"]["HAWC"]
    entry |= {"prefix": str(files / entry["prefix"])} | entries
    path = folder / "changed.json"
    path.write_text(json.dumps({"detectors": {"HAWC": entry}}))
    return path


def test_wrong_configurations_end_with_one_line(run, files, tmp_path):
    call = lambda **entries: run("--config", changed(files, tmp_path, **entries), "-o", tmp_path / "out", *QUICK)
    refused(call(nside=16), "its nside is 8, the configuration says 16; correct one of them")
    refused(call(weights=True), "columns")
    refused(call(prefix="nowhere_"), "nowhere_")
    refused(call(thetamax=1.0), "HAWC")
    refused(call(latitude=100), "latitude 100, longitude -97.3 and thetamax")
    assert not (tmp_path / "out").exists()


def test_a_missing_bin_is_found(run, tmp_path):
    config = write_exchange(tmp_path, "gap", [local_maps(HAWC, 1)])
    (tmp_path / "gap_HAWC_011.fits").unlink()
    outcome = run("--config", config, "-o", tmp_path / "out", *QUICK)
    refused(outcome, "gap_HAWC_")
    assert "011" in outcome.err or "11" in outcome.err


def test_too_few_events_for_the_discs_are_refused(run, tmp_path):
    counts_of(HAWC, 60, 9).save(tmp_path / "few.nc")
    for skies in ("5", "0"):
        outcome = run(tmp_path / "few.nc", "--smoothing", "1", "--skies", skies, "-o", tmp_path / "out", "--nside", "8")
        refused(outcome, "no disc has enough exposure to be judged: use another --smoothing")


def test_an_output_that_is_a_file_is_refused_before_any_work(run, files, tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(run(files / "hawc.nc", "-o", tmp_path / "out", *QUICK), "is a file, not a folder; choose another -o")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.slow
def test_the_list_of_auger_runs_through(run, tmp_path):
    """The shipped events above 8 EeV: the published dipole of 4.7 % (Rayleigh) or 6 % in the equatorial plane."""
    options = ("--grid", "72x36", "--smoothing", "45", "--skies", "20")
    outcome = run("dataset:auger-8eev", *options, "-o", tmp_path / "out", "--nside", "16")
    assert outcome.code == 0, outcome.err
    content = results(tmp_path / "out")
    d = content["dipole"]
    assert d["amplitude"] == pytest.approx(0.06, abs=3 * d["amplitude_error"])
    assert d["right_ascension_deg"] % 360 == pytest.approx(100, abs=3 * d["right_ascension_error_deg"])
    assert content["hottest"]["significance"] > 3
