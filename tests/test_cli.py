"""The `diffcr` command as its users call it: every option, every exit code, and what it leaves behind."""

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import healpy
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.coordinates import FK5, SkyCoord
from astropy.table import Table
from astropy.time import Time
from diffcr.inference import cli, cli_options, load_counts

GRID = ("--grid", "36x18")
HAWC = ("--site", "hawc", *GRID)
FIELDS = {
    *("num_events", "sum_weights", "effective_events", "observatories", "time_frame", "equinox", "lmax"),
    *("converged", "condition", "test_statistic", "degrees_of_freedom", "log10_p", "significance_sigma"),
}
DIPOLE_FIELDS = {
    *("delta_0h", "delta_6h", "covariance", "amplitude", "amplitude_error", "amplitude_debiased"),
    *("upper_limit_95", "upper_limit_99", "right_ascension_deg", "right_ascension_error_deg"),
}
PICTURES = {"counts", "relative_intensity", "rate", "acceptance", "projection", "dipole", "panel"}


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
    """The command outside of a test, for the shared files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffcr", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0, args


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of event lists and counts files, good and bad. Tests read it and must leave it as it is."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(7)

    def at(name):
        return folder / name

    simulated = ("--events", "3000", "--dipole", "0.3,0.2", "--seed", "1", *GRID)
    _quiet(
        *("simulate", "--site", "hawc", *simulated, "--event-list", at("hawc.csv"), "-o", at("truth.nc")),
    )
    _quiet(
        *(
            "simulate",
            "--site",
            "icecube",
            *simulated,
            "--event-list",
            at("icecube.csv"),
            "-o",
            at("icecube.nc"),
        )
    )
    events = pd.read_csv(at("hawc.csv"))
    plain = events[["time_unix", "ra", "dec"]]
    plain.to_csv(at("events.csv"), index=False)
    plain.to_parquet(at("events.parquet"))
    Table.from_pandas(plain).write(at("events.fits"))
    with h5py.File(at("events.h5"), "w") as handle:
        for name in plain:
            handle[name] = plain[name].to_numpy()
    plain.rename(columns={"time_unix": "UTC", "ra": "RA", "dec": "Dec"}).to_csv(at("renamed.csv"), index=False)
    events[["time_unix", "zenith", "azimuth"]].to_csv(at("horizon.csv"), index=False)
    turned = events[["time_unix", "zenith"]].assign(azimuth=np.mod(90 - events["azimuth"], 360))
    turned.to_csv(at("turned.csv"), index=False)
    plain.assign(energy=np.where(rng.uniform(size=len(plain)) < 0.5, 1.5, 2.5)).to_csv(at("energies.csv"), index=False)
    plain.assign(weight=rng.uniform(0.5, 2, len(plain))).to_csv(at("weights.csv"), index=False)
    plain.assign(weight=0.0).to_csv(at("weightless.csv"), index=False)
    plain.assign(weight=-1.0).to_csv(at("negative.csv"), index=False)
    plain.head(1).to_csv(at("one.csv"), index=False)
    plain.iloc[:1500:300].to_csv(at("five.csv"), index=False)
    plain.drop(columns="dec").to_csv(at("no_dec.csv"), index=False)
    plain.drop(columns="time_unix").to_csv(at("no_time.csv"), index=False)
    for name, column, value in (
        ("word", "ra", "abc"),
        ("nan", "ra", "nan"),
        ("infinite", "dec", "inf"),
        ("dec123", "dec", "123"),
        ("gone", "time_unix", ""),
    ):
        table = plain.astype(object)
        table.loc[7, column] = value
        table.to_csv(at(f"{name}.csv"), index=False)
    steep = events[["time_unix", "zenith", "azimuth"]].astype(object)
    steep.loc[7, "zenith"] = 200
    steep.to_csv(at("zenith.csv"), index=False)

    at("empty.csv").write_text("")
    at("header.csv").write_text("time_unix,ra,dec\n")
    at("noise.dat").write_bytes(rng.bytes(5000))
    at("folder").mkdir()
    at("folder.nc").mkdir()
    shutil.copy(at("events.csv"), at("copy.csv"))
    shutil.copy(at("truth.nc"), at("copy.nc"))
    at("epochs.csv").write_text("label,start,end\na,2016-01-01,2016-07-01\nb,2016-07-01,2017-01-01\n")
    at("overlap.csv").write_text("label,start,end\na,2016-01-01,2016-07-01\nb,2016-06-01,2017-01-01\n")
    _quiet("bin", at("events.csv"), *HAWC, "-o", at("hawc.nc"))
    _quiet("bin", at("events.csv"), *HAWC, "--time-frame", "solar", "-o", at("solar.nc"))
    _quiet("bin", at("events.csv"), "--site", "hawc", "--grid", "36x9", "-o", at("coarse.nc"))
    _quiet("bin", at("events.csv"), *HAWC, "--blind", "secret", "-o", at("blind.nc"))
    _quiet("bin", at("events.csv"), *HAWC, "--remove-orbital", "--gamma", "2.7", "-o", at("orbital.nc"))
    _quiet("bin", at("truth.nc"), at("icecube.nc"), "-o", at("both.nc"))
    narrow = ("--from", "2016-01-01", "--to", "2016-01-01T02:00:00", "--events", "20000")
    _quiet("simulate", "--site", "20,0,25", *narrow, *GRID, "-o", at("two_hours.nc"))
    _quiet("simulate", "--site", "20,0,4", "--events", "20000", *GRID, "-o", at("meridian.nc"))

    whole = at("truth.nc").read_bytes()
    for percent in (0, 1, 50, 99):
        at(f"cut{percent}.nc").write_bytes(whole[: len(whole) * percent // 100])
    at("noise.nc").write_bytes(rng.bytes(3000))
    shutil.copy(at("events.csv"), at("text.nc"))
    other = xr.Dataset({"map": ("x", np.arange(3.0))})
    other.to_netcdf(at("other.nc"), engine="h5netcdf")

    np.save(at("shape.npy"), np.ones((5, 5)))
    np.save(at("below.npy"), -np.ones((18, 36)))
    np.save(at("text.npy"), np.full((18, 36), "a"))
    np.save(at("objects.npy"), np.full((18, 36), None), allow_pickle=True)
    dark = np.ones((18, 36))
    dark[12] = 0
    np.save(at("dark.npy"), dark)
    np.save(at("even.npy"), np.ones((18, 36)))
    return folder


def _tree(*folders: Path) -> dict:
    """What lies in the folders, hidden files too, and when each was written."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for top in folders for path in top.rglob("*")}


def _numbers(dipole: dict) -> np.ndarray:
    """All numbers of a dipole in fit.json, in the order of their names."""
    return np.concatenate([np.ravel(dipole[name]).astype(float) for name in sorted(dipole)])


def _read(folder: Path) -> dict:
    """fit.json, refused where it is not the JSON of the standard (NaN, Infinity)."""

    def refuse(name):
        raise AssertionError(f"{name} in fit.json")

    return json.loads((folder / "fit.json").read_text(), parse_constant=refuse)


# Commands and their documented examples ------------------------------------------------------------------


@pytest.mark.smoke
def test_demo_gives_the_published_harmonic_and_says_what_is_next(diffcr, tmp_path):
    """Auger's list above 8 EeV: 32187 events, r = 4.7 +0.8 -0.7 % at 100 +- 10 degrees, p = 2.6e-8."""
    outcome = diffcr("demo", "-o", tmp_path / "demo")

    assert outcome.code == 0
    assert outcome.err.startswith("read             dataset:auger-8eev: time=UTC, ra=RA, dec=dec")
    summary = _read(tmp_path / "demo")
    assert summary["num_events"] == 32187
    assert summary["rayleigh"]["amplitude"] == pytest.approx(0.047, abs=0.0005)
    assert summary["rayleigh"]["phase_deg"] == pytest.approx(100, abs=1)
    assert 10 ** summary["rayleigh"]["log10_p"] == pytest.approx(2.6e-8, rel=0.05)
    # Science 357 gives d_perp = 6.0 +- 1.0 %; ours does not trust that the exposure is even.
    assert summary["dipole"]["amplitude"] == pytest.approx(0.06, abs=2 * 0.0135)
    assert summary["dipole"]["right_ascension_deg"] == pytest.approx(100, abs=20)
    assert {path.stem for path in (tmp_path / "demo").glob("*.png")} == PICTURES
    assert "diffcr fit EVENTS --site NAME -o DIR" in outcome.out
    for line in ("results", "pictures", "published"):
        assert re.search(rf"^{line}  ", outcome.out, re.M)


@pytest.mark.parametrize("command", ["demo", "fit", "bin", "simulate", "unblind"])
def test_each_command_has_help_with_an_example(diffcr, command):
    outcome = diffcr(command, "--help")
    assert outcome.code == 0
    assert f"Example: diffcr {command}" in " ".join(outcome.out.split())
    # rich would swallow a unit in square brackets
    assert "angle ." not in outcome.out


def test_help_is_given_where_no_command_is(diffcr):
    assert diffcr("--help").code == 0
    outcome = diffcr()
    assert outcome.code == 2
    assert "simulate" in outcome.out
    assert outcome.err == "diffcr: error: no command was given; see diffcr --help\n"


def test_a_closed_pipe_is_no_error(monkeypatch, capsys):
    """`diffcr ... | head -1`: the reader goes first, and Python must not complain when it flushes at its exit."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["diffcr", "--help"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        print("what is flushed at the exit", file=stream, flush=True)
    assert capsys.readouterr().err == ""


# fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["events.csv", "events.parquet", "events.fits", "events.h5", "renamed.csv"])
def test_every_format_gives_the_same_fit(diffcr, files, tmp_path, name):
    columns = ("--columns", "time=UTC,ra=RA,dec=Dec", "--time-format", "unix") if name == "renamed.csv" else ()
    outcome = diffcr("fit", files / name, *HAWC, *columns, "--no-plots", "-o", tmp_path)

    assert outcome.code == 0
    summary = _read(tmp_path)
    assert FIELDS <= summary.keys()
    dipole = summary["dipole"]
    assert DIPOLE_FIELDS <= dipole.keys()
    assert np.isfinite(_numbers(dipole)).all()
    assert summary["num_events"] == summary["sum_weights"] == summary["effective_events"] > 2800
    assert summary["observatories"][0]["name"] == "HAWC"
    assert (summary["time_frame"], summary["equinox"], summary["lmax"]) == ("sidereal", "J2000", 1)
    assert summary["converged"] is True
    assert summary["condition"] >= 1
    # Wilks: TS and chi-squared of the estimate agree for a near-Gaussian likelihood.
    delta, covariance = np.array([dipole["delta_0h"], dipole["delta_6h"]]), np.array(dipole["covariance"])
    assert covariance.shape == (2, 2)
    assert delta @ np.linalg.solve(covariance, delta) == pytest.approx(summary["test_statistic"], rel=0.15)
    assert summary["degrees_of_freedom"] == 2
    assert summary["log10_p"] == pytest.approx(-summary["test_statistic"] / 2 / math.log(10), rel=1e-12)
    # Within 4 sigma of the simulated truth; the opposite sign, or the components exchanged in sign, are not.
    pull = delta - [0.3, 0.2]
    assert pull @ np.linalg.solve(covariance, pull) < 16 < delta @ np.linalg.solve(covariance, delta)
    assert dipole["amplitude"] == pytest.approx(np.hypot(*delta))
    assert dipole["right_ascension_deg"] == pytest.approx(math.degrees(math.atan2(delta[1], delta[0])) % 360)
    assert dipole["amplitude_debiased"] < dipole["amplitude"]
    assert dipole["amplitude"] < dipole["upper_limit_95"] < dipole["upper_limit_99"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.nc", "fit.json"]
    # The files hold the same numbers to their last digit.
    assert diffcr("fit", files / "hawc.nc", "--no-plots", "-o", tmp_path / "counts").code == 0
    np.testing.assert_allclose(_numbers(dipole), _numbers(_read(tmp_path / "counts")["dipole"]), rtol=1e-9)


def test_counts_file_gives_the_fit_of_its_events(diffcr, files, tmp_path):
    for name, options in (("events.csv", HAWC), ("hawc.nc", ()), ("hawc.nc", HAWC)):
        assert diffcr("fit", files / name, *options, "--no-plots", "-o", tmp_path / name).code == 0
    assert _read(tmp_path / "hawc.nc")["dipole"] == _read(tmp_path / "events.csv")["dipole"]
    # What fit writes, fit reads.
    outcome = diffcr("fit", tmp_path / "hawc.nc" / "counts.nc", "--no-plots", "-o", tmp_path / "again")
    assert outcome.code == 0
    assert _read(tmp_path / "again")["dipole"] == _read(tmp_path / "hawc.nc")["dipole"]


def test_terminal_and_notes(diffcr, files, tmp_path):
    """Results go to stdout; what was guessed or cut to stderr, each note with its file."""
    options = ("--zenith-max", "55", "--from", "2016-01-15", "--to", "57700", "--no-plots")
    outcome = diffcr("fit", files / "hawc.csv", *HAWC, *options, "-o", tmp_path)
    assert outcome.code == 0
    for name in (
        "events",
        "delta_0h",
        "delta_6h",
        "amplitude",
        "right ascension",
        "significance",
        "converged",
    ):
        assert re.search(rf"^{name} ", outcome.out, re.M), name
    assert f"results          {tmp_path / 'fit.json'}" in outcome.out
    assert re.search(r"^note +hawc.csv: zenith: column 'zenith' is not read", outcome.err, re.M)
    cut = re.search(r"^cut +(\d+) by zenith, (\d+) by time of (\d+) events of hawc.csv", outcome.err, re.M)
    zenith, time, read = map(int, cut.groups())
    events = pd.read_csv(files / "hawc.csv")
    mjd = events["time_unix"] / 86400 + 40587
    inside = (mjd >= 57402) & (mjd < 57700)
    assert (time, read) == ((~inside).sum(), len(events))
    # Precession moves zenith angles by less than 0.001 degrees of what was simulated.
    assert zenith == pytest.approx((inside & (events["zenith"] > 55)).sum(), abs=2)
    assert _read(tmp_path)["num_events"] == read - zenith - time


def test_bad_rows_are_left_out_and_counted_where_asked(diffcr, files, tmp_path):
    outcome = diffcr("fit", files / "dec123.csv", *HAWC, "--skip-bad-rows", "--no-plots", "-o", tmp_path / "fit")
    assert outcome.code == 0
    assert re.search(r"^left out +1 of \d+ rows of dec123.csv: row 8: dec = 123 is outside", outcome.err, re.M)
    summary = _read(tmp_path / "fit")
    assert summary["inputs"][0]["bad_rows"] == 1
    assert summary["num_events"] == summary["inputs"][0]["rows"] - 1


def test_horizon_directions_and_azimuth_conventions_agree(diffcr, files, tmp_path):
    """The list holds both; the other convention is azimuth -> 90 - azimuth."""
    calls = {
        "ra": ("events.csv", ()),
        "horizon": ("hawc.csv", ("--prefer", "horizon")),
        "only": ("horizon.csv", ("--azimuth", "north-east")),
        "turned": ("turned.csv", ("--azimuth", "east-counterclockwise")),
        "wrong": ("turned.csv", ()),
    }
    counts = {}
    for name, (file, options) in calls.items():
        assert diffcr("bin", files / file, *HAWC, *options, "-o", tmp_path / f"{name}.nc").code == 0
        counts[name] = load_counts(tmp_path / f"{name}.nc")

    def moved(name):
        return np.abs(counts[name].n_sky - counts["ra"].n_sky).sum() / 2 / counts["ra"].sum_weights

    assert all(moved(name) < 0.005 for name in ("horizon", "only", "turned"))
    assert moved("wrong") > 0.1


def test_equinox_says_what_right_ascension_refers_to(diffcr, files, tmp_path):
    """Histograms by astropy: as printed for date; for j2000 precessed to 2016.5, by 1/5 of a bin."""
    events = pd.read_csv(files / "events.csv")
    mean = FK5(equinox=Time("J2016.5"))
    ra = {
        "date": events["ra"],
        "j2000": SkyCoord(events["ra"], events["dec"], unit="deg", frame=FK5()).transform_to(mean).ra.degree,
    }
    found = {}
    for equinox in ("j2000", "icrs", "date"):
        path = tmp_path / f"{equinox}.nc"
        grid = ("--site", "hawc", "--grid", "360x18")
        assert diffcr("bin", files / "events.csv", *grid, "--equinox", equinox, "-o", path).code == 0
        counts = load_counts(path)
        assert counts.inputs[0]["equinox"] == equinox
        found[equinox] = counts.n_sky.sum((0, 1, 2, 3))
    wanted = {name: np.histogram(values, 360, (0, 360))[0] for name, values in ra.items()}

    def moved(one, other):
        return np.abs(one - other).sum() / 2 / len(events)

    # Within the year precession varies by 0.006 degrees, aberration of icrs by as much.
    assert moved(found["date"], wanted["date"]) == 0
    assert moved(found["j2000"], wanted["j2000"]) < 0.01
    assert moved(found["icrs"], wanted["j2000"]) < 0.02
    assert moved(wanted["date"], wanted["j2000"]) > 0.05


def test_two_observatories_share_the_sky(diffcr, files, tmp_path):
    """Sites one each, counts and events mixed, and joined beforehand: one fit of the same data."""
    calls = {
        "counts": (files / "truth.nc", files / "icecube.nc"),
        "mixed": (files / "hawc.nc", files / "icecube.nc", "--site", "hawc", "--site", "icecube"),
        "events": (files / "events.csv", files / "icecube.nc", *HAWC),
        "joined": (files / "both.nc",),
    }
    for name, inputs in calls.items():
        assert diffcr("fit", *inputs, "--no-plots", "-o", tmp_path / name).code == 0
    found = {name: _read(tmp_path / name) for name in calls}
    for summary in found.values():
        assert [o["name"] for o in summary["observatories"]] == ["HAWC", "IceCube"]
        assert summary["num_events"] == sum(o["num_events"] for o in summary["observatories"])
        assert summary["dipole"]["amplitude"] == pytest.approx(found["joined"]["dipole"]["amplitude"], rel=1e-3)
    assert diffcr("fit", files / "truth.nc", "--no-plots", "-o", tmp_path / "one").code == 0
    one, both = (np.array(s["dipole"]["covariance"]) for s in (_read(tmp_path / "one"), found["joined"]))
    assert np.trace(both) < 0.8 * np.trace(one)


def test_higher_degrees_and_their_prior(diffcr, files, tmp_path):
    for name, options in (
        ("free", ()),
        ("prior", ("--prior-cl", "1e-6")),
        ("each", ("--prior-cl", "1e-6,5")),
    ):
        outcome = diffcr("fit", files / "truth.nc", "--lmax", "2", *options, "--no-plots", "-o", tmp_path / name)
        assert outcome.code == 0
        summary = _read(tmp_path / name)
        assert summary["lmax"] == 2
        # The prior leaves the data little to say about l = 2; what remains are the two components of the dipole.
        assert summary["degrees_of_freedom"] == (6 if name == "free" else pytest.approx(2, abs=0.1))
        values, degree = np.array(summary["multipoles"]["value"]), np.array(summary["multipoles"]["l"])
        # A prior of C_2 = 1e-6 leaves |a_2m| about 1e-3, events alone 0.1; the dipole has none.
        size = np.sqrt(np.mean(values[degree == 2] ** 2))
        assert (size > 0.02) if name == "free" else (size < 5e-3)
        assert summary["dipole"]["amplitude"] == pytest.approx(0.28, abs=0.1)


def test_known_exposure_measures_the_third_component(diffcr, files, tmp_path):
    acceptance = load_counts(files / "truth.nc").n_local[0, 0, 0]
    np.save(tmp_path / "measured.npy", acceptance)
    sizes = {}
    for known in ("known", "known:1", "known:3", tmp_path / "measured.npy"):
        folder = tmp_path / f"fit {Path(known).name}"
        assert diffcr("fit", files / "truth.nc", "--exposure", known, "--no-plots", "-o", folder).code == 0
        summary = _read(folder)
        assert summary["exposure"] == "known"
        assert summary["degrees_of_freedom"] == 3
        sizes[str(known)] = summary["dipole"]["delta_N"], summary["dipole"]["delta_N_error"]
    assert sizes["known"] == sizes["known:1"]
    # Events were accepted as cos(zenith): seen through cos^3 there are too many far from the zenith.
    assert abs(sizes["known"][0]) < 4 * sizes["known"][1]
    # The South holds more of them than the cap around the North pole.
    assert sizes["known:3"][0] < sizes["known"][0] - 0.05
    # An acceptance taken from the same counts explains their declinations.
    assert abs(sizes[str(tmp_path / "measured.npy")][0]) < 0.02


def test_known_exposure_ends_where_events_were_cut(diffcr, files, tmp_path):
    """Seen through an acceptance to 57 degrees, events cut at 40 would fake a delta_N of 0.36 +- 0.01."""
    options = ("--site", "hawc", "--grid", "36x180", "--zenith-max", "40", "-o", tmp_path / "cut.nc")
    assert diffcr("bin", files / "events.csv", *options).code == 0
    (known,) = cli_options.known_exposure("known", load_counts(tmp_path / "cut.nc")).values()
    # HAWC at 19 degrees North: declinations from -21 to 59.
    seen = np.flatnonzero(known.sum(axis=1) > 0) - 90
    assert (seen.min(), seen.max()) == (-21, 58)


def test_corner_of_a_cell_at_the_edge_of_the_field_is_seen(diffcr, files, tmp_path):
    """A field that ends at declination -30.07 takes 0.07 degrees of ring [-40, -30): less than the sampling sees.

    Where an event was found there, a known acceptance is positive all the same, and as small as its share.
    """
    cut = ("--zenith-max", "49.07", "-o", tmp_path / "cut.nc")
    assert diffcr("bin", files / "events.csv", *HAWC, *cut).code == 0
    counts = load_counts(tmp_path / "cut.nc")
    local = counts.n_local.copy()
    local[0, 0, 0, 5, 0] = 1  # one event in the corner, dec -30.05
    (known,) = cli_options.known_exposure("known", _moved(counts, local)).values()
    assert (known[local[0, 0, 0] > 0] > 0).all()
    assert known[5, 0] == pytest.approx(1 / local.sum(), rel=1e-3)
    # Too many events outside are no corner, and are left for the fit to refuse.
    local[0, 0, 0, 17, 18] = 100
    (known,) = cli_options.known_exposure("known", _moved(counts, local)).values()
    assert known[17, 18] == 0


def _moved(counts, local):
    """The counts with another local map; the other marginals are scaled to its sum."""
    scale = local.sum() / counts.n_local.sum()
    names = ("n_sky", "n_time", "n_half")
    return counts.replace(n_local=local, **{name: getattr(counts, name) * scale for name in names})


def test_energy_bins_and_epochs_keep_their_own_rate_and_acceptance(diffcr, files, tmp_path):
    """Every event is counted once; two configurations of one sky."""
    # Beyond 48 degrees HAWC's outermost rings are nearly empty, and each new set of rings is compiled anew.
    for name, options, labels in (
        ("energies.csv", ("--energy-edges", "1,2,3"), ["HAWC, 1-2", "HAWC, 2-3"]),
        ("events.csv", ("--epochs", files / "epochs.csv"), ["HAWC, a", "HAWC, b"]),
    ):
        cut = ("--zenith-max", "48", "--no-plots")
        assert diffcr("fit", files / name, *HAWC, *options, *cut, "-o", tmp_path / name).code == 0
        summary = _read(tmp_path / name)
        assert [c["name"] for c in summary["configurations"]] == labels
        entry = summary["inputs"][0]
        kept = entry["events_read"] - entry["cut"]["zenith"]
        assert sum(c["num_events"] for c in summary["configurations"]) == summary["num_events"] == kept
        delta = np.array([summary["dipole"]["delta_0h"], summary["dipole"]["delta_6h"]])
        pull = delta - [0.3, 0.2]
        assert pull @ np.linalg.solve(np.array(summary["dipole"]["covariance"]), pull) < 16
    assert diffcr("bin", files / "events.csv", *HAWC, "--epochs", "yearly", "-o", tmp_path / "year.nc").code == 0
    # Days since J2000 start at noon UTC: the list spans 2016 alone.
    assert load_counts(tmp_path / "year.nc").epochs == ("2016",)


def test_weights_are_summed(diffcr, files, tmp_path):
    assert diffcr("fit", files / "weights.csv", *HAWC, "--no-plots", "-o", tmp_path).code == 0
    summary, weights = _read(tmp_path), pd.read_csv(files / "weights.csv")["weight"]
    assert summary["num_events"] == len(weights)
    assert summary["sum_weights"] == pytest.approx(weights.sum())
    assert summary["effective_events"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    options = ("--columns", "weight=", "--no-plots", "-o", tmp_path / "plain")
    assert diffcr("fit", files / "weights.csv", *HAWC, *options).code == 0
    plain = _read(tmp_path / "plain")
    assert plain["sum_weights"] == len(weights)
    # Weights that know nothing of the direction cost (sum w)^2 / sum w^2 events.
    size = {name: np.trace(s["dipole"]["covariance"]) for name, s in (("weights", summary), ("plain", plain))}
    lost = math.sqrt(size["weights"] / size["plain"])
    assert lost == pytest.approx(math.sqrt(len(weights) / summary["effective_events"]), rel=0.05)


def test_energy_cuts_keep_the_lower_edge(diffcr, files, tmp_path):
    energy = pd.read_csv(files / "energies.csv")["energy"]
    for options, kept in (
        (("--energy-min", "2.5"), energy >= 2.5),
        (("--energy-max", "2.5"), energy < 2.5),
        (("--energy-min", "1.5", "--energy-max", "2.5"), energy == 1.5),
    ):
        assert diffcr("bin", files / "energies.csv", *HAWC, *options, "-o", tmp_path / "e.nc").code == 0
        assert load_counts(tmp_path / "e.nc").num_events.sum() == kept.sum()


@pytest.mark.parametrize("frame", ["solar", "antisidereal", "extended-sidereal"])
def test_control_frames_see_no_sidereal_dipole(diffcr, files, tmp_path, frame):
    """A year of data averages a sidereal dipole of 0.36 away in every other frame."""
    outcome = diffcr("fit", files / "events.csv", *HAWC, "--time-frame", frame, "--no-plots", "-o", tmp_path)
    assert outcome.code == 0
    summary = _read(tmp_path)
    assert (summary["time_frame"], summary["equinox"]) == (frame, "date")
    assert summary["significance_sigma"] < 3.5


def test_removing_the_orbital_motion_is_recorded(diffcr, files, tmp_path):
    options = ("--remove-orbital", "--gamma", "2.7", "--no-plots")
    assert diffcr("fit", files / "events.csv", *HAWC, *options, "-o", tmp_path).code == 0
    summary = _read(tmp_path)
    assert summary["history"]["orbital_removed"] == {"gamma": 2.7}
    # The weights are 1 +- (2 + Gamma) v/c = 1 +- 4.7e-4, and even out over a year.
    assert summary["sum_weights"] == pytest.approx(summary["num_events"], rel=5e-4)
    assert summary["sum_weights"] != summary["num_events"]


def test_blinded_fit_hides_every_phase_until_unblinded(diffcr, files, tmp_path):
    # One rate per bin: wider groups of time bins would begin elsewhere once time is rotated.
    options = ("--no-plots", "--rate-bins", "36", "-o")
    assert diffcr("fit", files / "hawc.nc", *options, tmp_path / "open").code == 0
    outcome = diffcr("fit", files / "hawc.nc", "--blind", "secret", *options, tmp_path / "blind")
    assert outcome.code == 0
    clear, hidden = _read(tmp_path / "open"), _read(tmp_path / "blind")
    assert hidden["blinded"] is True
    for name in ("delta_0h", "delta_6h", "covariance", "right_ascension_deg"):
        assert hidden["dipole"][name] is None
    assert hidden["rayleigh"]["phase_deg"] is None
    assert hidden["multipoles"]["value"] is hidden["multipoles"]["covariance"] is None
    assert outcome.out.count("hidden") == 3
    for text in (outcome.out, outcome.err, (tmp_path / "blind" / "fit.json").read_text()):
        assert "secret" not in text
        assert f"{clear['dipole']['right_ascension_deg']:.1f}" not in text
    # What may be seen stays: the size and its significance.
    for name in ("amplitude", "amplitude_error", "upper_limit_95"):
        assert hidden["dipole"][name] == pytest.approx(clear["dipole"][name], rel=1e-2)
    assert hidden["test_statistic"] == pytest.approx(clear["test_statistic"], rel=1e-6)

    unblinded = tmp_path / "open.nc"
    outcome = diffcr("unblind", tmp_path / "blind" / "counts.nc", "--key", "secret", "-o", unblinded)
    assert outcome.code == 0
    before, after = load_counts(files / "hawc.nc"), load_counts(unblinded)
    for name in ("n_sky", "n_time", "n_local", "n_half", "num_events"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.history["unblinded"]["time"].startswith("20")
    assert diffcr("fit", unblinded, *options, tmp_path / "again").code == 0
    again = _read(tmp_path / "again")["dipole"]
    np.testing.assert_allclose(_numbers(again), _numbers(clear["dipole"]), rtol=1e-9)


def test_unconverged_fit_is_written_and_exits_with_3(diffcr, files, tmp_path):
    """Five events through a known exposure have their largest likelihood where the intensity touches zero."""
    outcome = diffcr("fit", files / "five.csv", *HAWC, "--exposure", "known", "--no-plots", "-o", tmp_path)
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("diffcr: the fit did not converge")
    assert "results were written" in outcome.err
    assert "NO: this is not a maximum" in outcome.out
    summary = _read(tmp_path)
    assert summary["converged"] is False
    assert summary["num_events"] == 5


# bin ----------------------------------------------------------------------------------------------------


def test_bin_joins_files_and_counts_every_event_once(diffcr, files, tmp_path):
    table = pd.read_csv(files / "events.csv")
    table[:1000].to_csv(tmp_path / "first.csv", index=False)
    table[1000:].to_csv(tmp_path / "second.csv", index=False)
    outcome = diffcr("bin", tmp_path / "first.csv", tmp_path / "second.csv", *HAWC, "-o", tmp_path / "sum.nc")
    assert outcome.code == 0
    assert f"counts           HAWC: {len(table)} events" in outcome.out
    assert f"written          {tmp_path / 'sum.nc'} (36 x 18 cells, sidereal)" in outcome.out
    np.testing.assert_array_equal(load_counts(tmp_path / "sum.nc").n_half, load_counts(files / "hawc.nc").n_half)


def test_epochs_are_merged_by_force_only(diffcr, files, tmp_path):
    options = (
        files / "events.csv",
        *HAWC,
        "--zenith-max",
        "48",
        "--epochs",
        files / "epochs.csv",
        "--merge-epochs",
    )
    outcome = diffcr("bin", *options, "-o", tmp_path / "merged.nc")
    assert outcome.code == 2
    assert re.search(r"likelihood-ratio test \(TS = [\d.]+ for \d+ degrees of freedom", outcome.err)
    assert not any(tmp_path.iterdir())
    assert diffcr("bin", *options, "--force", "-o", tmp_path / "merged.nc").code == 0
    cut = ("--zenith-max", "48", "-o", tmp_path / "plain.nc")
    assert diffcr("bin", files / "events.csv", *HAWC, *cut).code == 0
    merged, plain = load_counts(tmp_path / "merged.nc"), load_counts(tmp_path / "plain.nc")
    np.testing.assert_array_equal(merged.n_sky, plain.n_sky)
    assert merged.history["merged_epochs"] == ["a", "b"]


# simulate -----------------------------------------------------------------------------------------------


@pytest.fixture
def simulated(diffcr, tmp_path):
    """Counts, and events where asked for, of a simulation."""

    def call(*options, events="3000", site="hawc", event_list=None):
        path = tmp_path / "simulated.nc"
        extra = () if event_list is None else ("--event-list", event_list)
        outcome = diffcr("simulate", "--site", site, "--events", events, *GRID, *options, *extra, "-o", path)
        assert (outcome.code, outcome.err) == (0, "")
        return load_counts(path)

    return call


def test_simulated_dipole_is_found_again(simulated, diffcr, tmp_path):
    """A dipole of 0.2 towards 18 h with 1e5 events: the fit tells its sign and its component."""
    simulated("--dipole", "0,-0.2", events="1e5")
    assert diffcr("fit", tmp_path / "simulated.nc", "--no-plots", "-o", tmp_path).code == 0
    dipole = _read(tmp_path)["dipole"]
    pull = np.array([dipole["delta_0h"], dipole["delta_6h"] + 0.2])
    assert pull @ np.linalg.solve(np.array(dipole["covariance"]), pull) < 16
    assert dipole["upper_limit_99"] - dipole["amplitude"] < 0.05


def test_seed_decides_the_draw(simulated):
    first, again, other = simulated(), simulated("--seed", "0"), simulated("--seed", "1")
    np.testing.assert_array_equal(first.n_half, again.n_half)
    assert not np.array_equal(first.n_half, other.n_half)
    assert first.history["simulated"]


def test_third_component_moves_the_declinations(simulated):
    """A dipole of 0.9 to the North pole raises the mean sin(dec) seen; two components leave it."""
    sine = np.sin(load_rings())

    def mean(counts):
        return (counts.n_sky.sum((0, 1, 2, 4)) @ sine) / counts.sum_weights

    assert mean(simulated("--dipole", "0,0,0.9")) > mean(simulated("--dipole", "0,0")) + 0.05


def load_rings():
    return (np.arange(18) + 0.5) * np.pi / 18 - np.pi / 2


def test_acceptance_options_shape_the_local_map(simulated):
    def mean_zenith_proxy(counts):
        """Mean |dec - latitude| of the local map: how far from the zenith events come."""
        per_ring = counts.n_local.sum((0, 1, 2, 4))
        return per_ring @ np.abs(load_rings() - counts.sites[0].latitude) / per_ring.sum()

    plain = simulated()
    assert mean_zenith_proxy(simulated("--power", "8")) < mean_zenith_proxy(plain) - 0.03
    attenuated = simulated("--acceptance", "attenuated", "--attenuation", "8")
    assert mean_zenith_proxy(attenuated) < mean_zenith_proxy(plain) - 0.03
    cut = simulated("--zenith-max", "30")
    assert math.degrees(cut.sites[0].zenith_max) == pytest.approx(30)
    assert mean_zenith_proxy(cut) < mean_zenith_proxy(plain) - 0.03
    # Azimuth counts from North through East: phase 90 is an excess of the eastern half (index 0).
    halves = simulated("--azimuth-terms", "1:0.5:90").n_half.sum((0, 1, 2, 4, 5))
    assert halves[0] > 1.3 * halves[1]
    own = simulated(site="-30,120,40")
    assert own.sites[0].name == "-30,120,40"
    assert math.degrees(own.sites[0].longitude) == pytest.approx(120)


def test_weights_are_lognormal_of_mean_one(simulated):
    counts = simulated("--weight-spread", "0.5")
    assert counts.weighted
    total = counts.num_events.sum()
    assert counts.sum_weights == pytest.approx(total, rel=0.05)
    assert counts.effective_events == pytest.approx(total / math.exp(0.25), rel=0.1)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_event_list_holds_the_simulated_rate(simulated, tmp_path, suffix):
    """Dates, a gap, the seasonal and diurnal waves, seen in the written times; its counts are given back."""
    path = tmp_path / f"list{suffix}"
    dates = ("--from", "2015-01-01", "--to", "57388", "--gap", "2015-03-01,2015-05-01")
    waves = ("--seasonal", "0.3", "--diurnal", "0.6", "--modulation", "0.5", "--weight-spread", "0.2")
    counts = simulated(*dates, *waves, event_list=path)
    events = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert len(events) == counts.num_events.sum()
    assert counts.sum_weights == pytest.approx(events["weight"].sum(), rel=1e-5)
    mjd = events["time_unix"] / 86400 + 40587
    assert ((mjd >= 57023) & (mjd < 57388)).all()
    assert not ((mjd >= 57082) & (mjd < 57143)).any()
    live = np.concatenate([np.arange(57023, 57082, 0.01), np.arange(57143, 57388, 0.01)])

    def amplitude(turns, even):
        """Amplitude of a wave in the times, less what the gap makes of an even rate."""
        return 2 * abs(np.exp(2j * np.pi * turns).mean() - np.exp(2j * np.pi * even).mean())

    # The phases follow the local mean solar day; an annual wave of 0.3 and a daily one of 0.6.
    assert amplitude(mjd / 365.25, live / 365.25) == pytest.approx(0.3, abs=0.12)
    assert amplitude(mjd, live) == pytest.approx(0.6, abs=0.2)
    assert events["zenith"].max() < 57
    assert simulated("--from", "2015-01-01", "--to", "57388").livetime.item() == 365


def test_random_sky_is_written_beside_the_counts_and_used_again(simulated, diffcr, tmp_path):
    """--power-law and --sky-cl draw the same sky of one seed; a second observatory sees it with --sky."""
    counts = simulated("--dipole", "0.01,0.02", "--power-law", "4e-4,2", "--sky-lmax", "3", "--seed", "3")
    sky = np.load(tmp_path / "simulated.sky.npy")
    assert sky.shape == (16,)
    np.testing.assert_allclose(sky[1:4], np.sqrt(4 * np.pi / 3) * np.array([0.02, 0, 0.01]))
    # Five and seven normal numbers of variance 4e-4 and 4e-4 (2/3)^2.
    assert 0.1 < np.mean(sky[4:9] ** 2) / 4e-4 < 3
    assert counts.history["truth_power"][1] == pytest.approx(np.mean(sky[4:9] ** 2))
    again = simulated("--dipole", "0.01,0.02", "--sky-cl", "4e-4,1.7777777777777778e-4", "--seed", "3")
    np.testing.assert_allclose(np.load(tmp_path / "simulated.sky.npy"), sky, rtol=1e-12)
    np.testing.assert_array_equal(again.n_time, counts.n_time)
    shutil.copy(tmp_path / "simulated.sky.npy", tmp_path / "truth.npy")
    other = simulated("--sky", tmp_path / "truth.npy", "--seed", "3")
    np.testing.assert_array_equal(other.n_sky, counts.n_sky)
    simulated("--dipole", "0.01,0.02", "--power-law", "4e-4,2", "--sky-lmax", "3", "--seed", "4")
    assert not np.allclose(np.load(tmp_path / "simulated.sky.npy")[4:], sky[4:])
    simulated("--sky", tmp_path / "truth.npy", "--sky-lmax", "1")
    np.testing.assert_array_equal(np.load(tmp_path / "simulated.sky.npy"), sky[:4])


def test_published_map_is_a_sky_to_simulate(diffcr, tmp_path):
    """A map of 0.3 sin(dec) is a dipole to the north; what was assumed is said."""
    up = healpy.pix2vec(8, np.arange(768))[2]
    healpy.write_map(tmp_path / "a.fits", 0.3 * up, coord="C", column_names=["relint"], dtype=np.float64)
    options = ("--site", "hawc", "--events", "3000", *GRID, "--sky", tmp_path / "a.fits", "--sky-lmax", "2")
    outcome = diffcr("simulate", *options, "-o", tmp_path / "a.nc")
    assert outcome.code == 0
    assert "true sky" in outcome.out
    sky = np.load(tmp_path / "a.sky.npy")
    np.testing.assert_allclose(sky[2], 0.3 * np.sqrt(4 * np.pi / 3), rtol=1e-3)
    np.testing.assert_allclose(np.delete(sky, 2), 0, atol=1e-4)


def test_exchange_files_are_read_by_bin(simulated, diffcr, tmp_path):
    """The counts file and the files of multi-llh hold the same events."""
    counts = simulated("--exchange", tmp_path / "maps", "--nside", "8", events="1e5")
    assert len(list((tmp_path / "maps").glob("simulated_HAWC_*.fits"))) == 36
    again = tmp_path / "again.nc"
    assert diffcr("bin", tmp_path / "maps" / "simulated.json", *GRID, "-o", again).code == 0
    np.testing.assert_array_equal(load_counts(again).n_sky, counts.n_sky)
    assert not (tmp_path / "simulated.sky.npy").exists()
    twice = diffcr("bin", tmp_path / "simulated.nc", tmp_path / "maps" / "simulated.json", "-o", again)
    assert twice.code == 2
    assert "already counted" in twice.err


# Bad input: one line, exit code 2, nothing left behind -----------------------------------------------------

REFUSED = {
    # files
    "missing file": ("fit nope.csv", "nope.csv: there is no such file; check the path"),
    "missing counts": ("fit nope.nc", "nope.nc: no such file; make one with `diffcr bin`"),
    "empty file": ("fit empty.csv HAWC", "empty.csv: the file is empty; give a file with events"),
    "header only": ("fit header.csv HAWC", "header.csv: .* no rows; give a file with events"),
    "folder": ("fit folder HAWC", "folder: this is a directory; give an event file"),
    "folder as counts": ("fit folder.nc", "folder.nc: this is a folder; give the counts file"),
    "binary noise": ("fit noise.dat HAWC", "noise.dat: this is a binary file of unknown kind; give text"),
    "no input": ("fit HAWC", "Missing argument 'INPUT...'; see diffcr fit --help"),
    "same file": ("fit events.csv events.csv HAWC", "already counted .*name each file once"),
    "same file, other name": ("fit events.csv copy.csv HAWC", "copy.csv: .* already counted from events.csv"),
    "same file, two sites": ("fit events.csv copy.csv --site hawc --site 19,-97.3,57", "already counted"),
    "same events binned": ("fit hawc.nc events.csv HAWC", "events.csv: .* already counted from events.csv"),
    "same simulation": ("fit truth.nc copy.nc", "copy.nc: holds the same counts as .*truth.nc"),
    # sites
    "unknown site": ("fit events.csv --site hawk", "unknown site 'hawk'; the nearest known one is HAWC"),
    "no site": ("fit events.csv", "events.csv: the observatory is needed.* give --site NAME"),
    "empty site": (["fit", "events.csv", "--site", ""], "unknown site ''; .*give 'LAT,LON,ZENITH'"),
    "latitude": ("fit events.csv --site 91,0,60", r"latitude .* must lie in \[-90, 90\] degrees, not 91"),
    "two numbers": ("fit events.csv --site 1,2", "is not 'LAT,LON,ZENITH': three numbers in degrees"),
    "sites": ("fit events.csv --site hawc --site auger", "2 sites for 1 inputs: give one --site for all"),
    "longitude sign": (
        "fit events.csv --site 19,97.3,57",
        "events.csv: .* below the horizon of 19,97.3,57: check --site .longitude positive towards East",
    ),
    "other site": ("fit truth.nc --site auger", "counts of HAWC, not of Auger: leave out --site"),
    # rows
    "no dec": ("fit no_dec.csv HAWC", "only ra was found; say which with --columns"),
    "no time": ("fit no_time.csv HAWC", "no time column: .*name it with --columns time=NAME"),
    "no such column": (
        "fit events.csv HAWC --columns ra=x",
        "no column 'x' .for ra.; say which with --columns",
    ),
    "no role": ("fit events.csv HAWC --columns ra", "'ra' is not ROLE=NAME; write for example"),
    "word": (
        "fit word.csv HAWC",
        r"word.csv: row 8 \(line 9\), column 'ra': .*'abc' is not a number; correct it",
    ),
    "nan": ("fit nan.csv HAWC", "nan.csv: row 8 .*ra is missing or NaN; .*--skip-bad-rows"),
    "infinite": ("fit infinite.csv HAWC", "infinite.csv: row 8 .*dec = inf is not finite; correct it"),
    "dec 123": ("fit dec123.csv HAWC", r"row 8 .*dec = 123 is outside \[-90, 90\]; correct it"),
    "no time value": ("fit gone.csv HAWC", "row 8 .*time is missing or NaN; correct it"),
    "zenith": ("fit zenith.csv HAWC", r"row 8 .*zenith = 200(\.0)? is outside \[0, 180\]; correct it"),
    "weight": ("fit negative.csv HAWC", r"row 1 .*weight = -1.0 is negative; correct it.*--columns weight="),
    "weightless": ("fit weightless.csv HAWC", "weights of all .* are zero; correct the weights"),
    "time format": ("fit events.csv HAWC --time-format mjd", "as mjd is not in the years 1900 to 2299"),
    "whole days": ("fit dataset:auger-52eev", "times are whole days.* needs the time of day"),
    "data set": ("fit dataset:auger", "no data set of this name; use one of dataset:auger-8eev"),
    "one event": ("fit one.csv HAWC", "1 events are too few events for a fit"),
    "five events": ("fit five.csv HAWC", "5 events are too few events for a fit of rate and acceptance; add data"),
    # cuts
    "no event left": (
        "fit events.csv HAWC --from 2020-01-01",
        r"no event is left after cuts .*widen the cuts",
    ),
    "zenith cut": (
        "fit events.csv HAWC --zenith-max -1",
        r"--zenith-max must lie in \(0, 90\] degrees, not -1",
    ),
    "zenith word": (
        "fit events.csv HAWC --zenith-max a",
        "--zenith-max.* valid number.*see diffcr fit --help",
    ),
    "month 13": (
        "fit events.csv HAWC --from 2016-13-01",
        "--from takes a date such as 2016-01-01, or an MJD",
    ),
    "bare year": (
        "fit events.csv HAWC --from 2017",
        "--from 2017 is no MJD .*give a date such as 2016-01-01",
    ),
    "nan date": ("fit events.csv HAWC --to nan", "--to nan is no MJD"),
    "order": (
        "fit events.csv HAWC --from 2016-06-01 --to 2016-01-01",
        "2016-06-01 is not before .*; swap them",
    ),
    "no energy": ("fit events.csv HAWC --energy-min 3", "no energy; name it with --columns energy=NAME"),
    "energy order": ("fit energies.csv HAWC --energy-edges 3,1", r"must increase .* not \[3.0, 1.0\]"),
    "energy nan": ("fit energies.csv HAWC --energy-edges nan,1", "--energy-edges takes increasing numbers"),
    "energy word": (
        "fit energies.csv HAWC --energy-edges a,1",
        "--energy-edges takes numbers separated by commas",
    ),
    "energy range": ("fit energies.csv HAWC --energy-min 3 --energy-max 1", "--energy-min 3 is not below"),
    "overlap": ("bin events.csv HAWC --epochs overlap.csv -o OUT.nc", "'a' and 'b' overlap; every event"),
    "epochs": ("fit events.csv HAWC --epochs monthly", "--epochs takes 'yearly' or a CSV file"),
    "epochs columns": ("fit events.csv HAWC --epochs one.csv", "lacks column end; it needs label,start,end"),
    "one epoch": ("bin events.csv HAWC --merge-epochs -o OUT.nc", "only one epoch: nothing to merge"),
    "force": ("bin events.csv HAWC --force -o OUT.nc", "--force has no effect without --merge-epochs"),
    # options
    "option": ("fit events.csv --nonsense", "No such option: --nonsense; see diffcr fit --help"),
    "command": ("nonsense", "No such command 'nonsense'; see diffcr --help"),
    "grid": ("fit events.csv --site hawc --grid 18", "--grid takes BINSxRINGS such as 360x180, not '18'"),
    "grid swapped": (
        "fit events.csv --site hawc --grid 18x36",
        "looks swapped: right-ascension bins come first, so write 36x18",
    ),
    "grid sign": ("fit events.csv --site hawc --grid -36x18", "--grid takes BINSxRINGS"),
    "grid digit": ("fit events.csv --site hawc --grid ²x36", "--grid takes BINSxRINGS"),
    "grid size": ("fit events.csv --site hawc --grid 36x2", "whole number of at least 4, not 2"),
    "grid memory": ("fit events.csv --site hawc --grid 900000x900000", "out of memory; use a smaller --grid"),
    "frame": ("fit events.csv HAWC --time-frame lunar", "unknown time frame 'lunar': choose one of sidereal"),
    "gamma": ("fit events.csv HAWC --remove-orbital", "needs the spectral index: give --gamma"),
    "gamma alone": ("fit events.csv HAWC --gamma 2.7", "--gamma has no effect without --remove-orbital"),
    "gamma nan": ("fit events.csv HAWC --remove-orbital --gamma nan", "--gamma must be a number such as 2.7"),
    "azimuth": ("fit horizon.csv HAWC --azimuth up", "--azimuth must be one of north-east, east-counter"),
    "prefer": ("fit hawc.csv HAWC --prefer up", "prefer must be one of equatorial, horizon"),
    "equinox": ("fit events.csv HAWC --equinox b1950", "unknown equinox 'b1950': choose one of j2000"),
    "no key": (["fit", "hawc.nc", "--blind", ""], "the blinding key is empty; give any word"),
    "lmax": ("fit truth.nc --lmax 0", "must be at least 1"),
    "lmax grid": ("fit truth.nc --lmax 9", "resolved by the 18 rings, not 9"),
    "rate bins": ("fit truth.nc --rate-bins 7", "does not divide the 36 time bins.*choose a divisor of 36"),
    "prior": ("fit truth.nc --lmax 2 --prior-cl a", "--prior-cl takes numbers separated by commas"),
    "prior sign": (
        "fit truth.nc --lmax 2 --prior-cl -1",
        "prior C_l needs one positive value, or one for each",
    ),
    "prior nan": ("fit truth.nc --lmax 2 --prior-cl nan", "prior C_l needs one positive value"),
    "prior number": ("fit truth.nc --lmax 4 --prior-cl 1,2", "one for each l from 2 to 4"),
    "prior of a dipole": (
        "fit truth.nc --prior-cl 0.1",
        "no effect on the dipole.* raise --lmax, or leave it out",
    ),
    # exposure
    "exposure file": ("fit truth.nc --exposure x.npy", r"--exposure x.npy: no such file; give known"),
    "exposure power": ("fit truth.nc --exposure known:a", "takes numbers"),
    "exposure sign": ("fit truth.nc --exposure known:-1", "must be finite and at least 0, not -1"),
    "exposure noise": (
        "fit truth.nc --exposure noise.dat",
        "not a readable .npy array .*write it with numpy.save",
    ),
    "exposure empty": ("fit truth.nc --exposure empty.csv", "not a readable .npy array"),
    "exposure objects": ("fit truth.nc --exposure objects.npy", "not a readable .npy array"),
    "exposure text": ("fit truth.nc --exposure text.npy", "holds no real numbers .*write floats"),
    "exposure shape": (
        "fit truth.nc --exposure shape.npy",
        r"shape .* = \(18, 36\) of the grid, not \(5, 5\)",
    ),
    "exposure below": ("fit truth.nc --exposure below.npy", "finite and not negative: 648 of 648 cells"),
    "exposure dark": ("fit truth.nc --exposure dark.npy", "where its known exposure is zero: widen"),
    "exposure two": ("fit both.nc --exposure even.npy", "one file for 2 observatories"),
    # counts
    "cut to 0": ("fit cut0.nc", "cut0.nc: not a readable NetCDF file .*copy it again"),
    "cut to 1": ("fit cut1.nc", "cut1.nc: not a readable NetCDF file .*copy it again"),
    "cut to 50": ("fit cut50.nc", "cut50.nc: not a readable NetCDF file .*copy it again"),
    "cut to 99": ("fit cut99.nc", "cut99.nc: not a readable NetCDF file .*copy it again"),
    "noise": ("fit noise.nc", "noise.nc: not a readable NetCDF file"),
    "text": ("fit text.nc", "text.nc: not a readable NetCDF file"),
    "other kind": ("fit other.nc", "NetCDF, but not a counts file of diffcr; make one with `diffcr bin`"),
    "grids": ("fit icecube.nc coarse.nc", "different grids, 36 x 18 and 36 x 9, .*bin both with one --grid"),
    "frames": ("fit icecube.nc solar.nc", "different time frames, sidereal and solar, .*one --time-frame"),
    "one blinded": ("fit icecube.nc blind.nc", "one of the counts is blinded.*blind all with one key"),
    "orbital twice": (
        "fit orbital.nc --remove-orbital --gamma 2.7",
        "already removed .*must not be removed twice",
    ),
    "orbital": (
        "fit truth.nc --remove-orbital --gamma 2.7",
        "needs the time of each event: bin the event list",
    ),
    "orbital mixed": ("fit orbital.nc icecube.nc", "from one of the counts only.*bin all with the same"),
    "cut counts": (
        "fit truth.nc --zenith-max 30",
        "--zenith-max cannot be applied to counts: bin the event list",
    ),
    "cut energies": ("fit truth.nc --energy-min 3", "--energy-min .* cannot be applied to counts"),
    "cut dates": ("fit truth.nc --from 2016-02-01", "--from .* cannot be applied to counts"),
    "split counts": ("fit truth.nc --epochs yearly", "--epochs cannot be applied to counts"),
    "frame of counts": ("fit solar.nc --time-frame sidereal", "its time frame is solar, not sidereal: bin"),
    "grid of counts": ("fit truth.nc --grid 360x180", "its grid is 36 x 18, not 360 x 180: bin the event"),
    "blind twice": ("fit blind.nc --blind x", "are blinded already; unblind them first"),
    "field of view": (
        "fit icecube.nc --lmax 3",
        "cannot be measured: this field of view .*lower --lmax, add a site",
    ),
    "meridian": ("fit meridian.nc", "cannot be measured: this field of view .*add a second site or data"),
    "dead bins": ("fit two_hours.nc", "cannot be measured: the dead sidereal bins .*add"),
    # outputs
    "output is a file": ("fit truth.nc -o empty.csv", "empty.csv is a file, not a folder; choose another -o"),
    "output below a file": ("fit truth.nc -o empty.csv/fit", "empty.csv is a file, not a folder"),
    "demo below a file": ("demo -o empty.csv/demo", "empty.csv is a file, not a folder; choose another -o"),
    "bin below a file": ("bin truth.nc -o empty.csv/c.nc", "empty.csv is a file, not a folder"),
    "bin into a folder": ("bin truth.nc -o folder.nc", "this is a folder; give -o the name of a file"),
    "bin nowhere": ("bin truth.nc -o nowhere/c.nc", "the folder nowhere does not exist; make it first"),
    "bin suffix": ("bin truth.nc -o counts.fits", "counts files end in .nc; change -o"),
    # simulate
    "events 0": (
        "simulate HAWC --events 0 -o OUT.nc",
        "number of events to simulate must be positive, not 0",
    ),
    "events < 0": ("simulate HAWC --events -5 -o OUT.nc", "must be positive, not -5"),
    "events word": ("simulate HAWC --events many -o OUT.nc", "'--events'.*valid number.*simulate --help"),
    "events nan": ("simulate HAWC --events nan -o OUT.nc", "must be positive, not nan"),
    "events inf": ("simulate HAWC --events inf -o OUT.nc", "must be positive, not inf"),
    "events 1e30": (
        "simulate HAWC --events 1e30 -o OUT.nc",
        "more than can be counted exactly; ask for at most",
    ),
    "events 1e-9": ("simulate HAWC --events 1e-9 -o OUT.nc", "drew no event; ask for more --events"),
    "no events": ("simulate HAWC -o OUT.nc", "Missing option '--events'; see diffcr simulate --help"),
    "dipole": ("simulate HAWC --events 9 --dipole 1,1 -o OUT.nc", "length of at most 1, not .*negative"),
    "dipole one": ("simulate HAWC --events 9 --dipole 1 -o OUT.nc", "takes two or three numbers"),
    "dipole word": ("simulate HAWC --events 9 --dipole a,b -o OUT.nc", "--dipole takes numbers separated"),
    "dipole nan": ("simulate HAWC --events 9 --dipole nan,0 -o OUT.nc", "must be two or three numbers"),
    "seed": ("simulate HAWC --events 9 --seed -1 -o OUT.nc", "'--seed': .*see diffcr simulate --help"),
    "simulated site": ("simulate --site hawk --events 9 -o OUT.nc", "unknown site 'hawk'; the nearest"),
    "simulated dates": (
        "simulate HAWC --events 9 --from 2017-01-01 --to 2016-01-01 -o OUT.nc",
        "--from 2017-01-01 is not before --to 2016-01-01; swap them",
    ),
    "gap": ("simulate HAWC --events 9 --gap 2016-02-01 -o OUT.nc", "--gap takes START,END such as"),
    "gap order": (
        "simulate HAWC --events 9 --gap 2016-02-01,2016-01-01 -o OUT.nc",
        "ends before it starts; swap",
    ),
    "gap all": ("simulate HAWC --events 9 --gap 2015-01-01,2018-01-01 -o OUT.nc", "leave nothing live"),
    "acceptance": (
        "simulate HAWC --events 9 --acceptance sin -o OUT.nc",
        "unknown acceptance model 'sin': use",
    ),
    "power": ("simulate HAWC --events 9 --power -1 -o OUT.nc", "must be finite and at least 0"),
    "azimuth terms": (
        "simulate HAWC --events 9 --azimuth-terms 1:2 -o OUT.nc",
        "takes K:AMPLITUDE:PHASE_DEG",
    ),
    "seasonal": ("simulate HAWC --events 9 --seasonal 2 -o OUT.nc", "makes the rate negative"),
    "diurnal": ("simulate HAWC --events 9 --diurnal 0.7 --modulation 1 -o OUT.nc", "makes the rate negative"),
    "spread": ("simulate HAWC --events 9 --weight-spread -1 -o OUT.nc", "must not be negative"),
    "zenith limit": ("simulate HAWC --events 9 --zenith-max 100 -o OUT.nc", r"\(0, 90\] degrees, not 100"),
    "list suffix": ("simulate HAWC --events 9 --event-list l.txt -o OUT.nc", "as .csv or .parquet; change"),
    "list folder": (
        "simulate HAWC --events 9 --event-list nowhere/l.csv -o OUT.nc",
        "nowhere does not exist",
    ),
    "list is a folder": ("simulate HAWC --events 9 --event-list folder -o OUT.nc", "this is a folder; give"),
    "two skies": (
        "simulate HAWC --events 9 --sky-cl 1e-6 --power-law 1e-6,2 -o OUT.nc",
        "--sky, --sky-cl and --power-law each give the multipoles; choose one",
    ),
    "lmax of no sky": ("simulate HAWC --events 9 --sky-lmax 3 -o OUT.nc", "no effect without --sky or --power-law"),
    "law of three": ("simulate HAWC --events 9 --power-law 1,2,3 -o OUT.nc", "takes two numbers, C2,SLOPE, not '1,2"),
    "law to l 1": ("simulate HAWC --events 9 --power-law 1,2 --sky-lmax 1 -o OUT.nc", "l_max of 2 or more, not"),
    "negative power": ("simulate HAWC --events 9 --sky-cl=-1 -o OUT.nc", "the power must be C_l >= 0"),
    "strong sky": ("simulate HAWC --events 9 --sky-cl 9 -o OUT.nc", "make the intensity negative, down to"),
    "no sky": ("simulate HAWC --events 9 --sky nope.npy -o OUT.nc", "nope.npy: cannot be read"),
    "text as sky": ("simulate HAWC --events 9 --sky text.npy -o OUT.nc", "not the .* real multipoles of a sky"),
    "events as sky": ("simulate HAWC --events 9 --sky events.csv -o OUT.nc", "not a readable FITS file"),
    "fine sky": (
        "simulate HAWC --events 9 --grid 36x18 --power-law 1e-9,2 --sky-lmax 18 -o OUT.nc",
        "too coarse for l_max = 18",
    ),
    "nside alone": ("simulate HAWC --events 9 --nside 8 -o OUT.nc", "--nside has no effect without --exchange"),
    "nside 3": (
        "simulate HAWC --events 9 --exchange new --nside 3 -o OUT.nc",
        "must be a power of two from 1 to 1024, not 3",
    ),
    "maps and list": (
        "simulate HAWC --events 9 --exchange new --event-list l.csv -o OUT.nc",
        "--exchange and --event-list draw different events",
    ),
    "maps into a file": ("simulate HAWC --events 9 --exchange empty.csv -o OUT.nc", "is a file, not a folder"),
    "weighted maps": (
        "simulate HAWC --events 9 --exchange new --weight-spread 1 -o OUT.nc",
        "without weights; leave out --weight-spread, or --exchange",
    ),
    # unblind
    "wrong key": ("unblind blind.nc --key wrong -o OUT.nc", "not the key .*give the one used with --blind"),
    "not blinded": (
        "unblind truth.nc --key secret -o OUT.nc",
        "are not blinded: there is nothing to unblind",
    ),
    "unblind nothing": ("unblind nope.nc --key secret -o OUT.nc", "nope.nc: no such file"),
    "unblind events": ("unblind events.csv --key secret -o OUT.nc", "events.csv: not a readable NetCDF file"),
    "no unblind key": ("unblind blind.nc -o OUT.nc", "Missing option '--key'; see diffcr unblind --help"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(diffcr, files, tmp_path, monkeypatch, case):
    """Exit code 2, one line that names what, where and the remedy; nothing is made, changed or half-made."""
    command, message = REFUSED[case]
    words = command.split() if isinstance(command, str) else command
    words = [word for each in words for word in (HAWC if each == "HAWC" else (each,))]
    words = [str(tmp_path / "out.nc") if word == "OUT.nc" else word for word in words]
    if "-o" not in words:
        words += ["-o", str(tmp_path / "out")]
    # What an earlier run left must survive.
    (tmp_path / "out.nc").write_text("precious")
    if not words[-1].endswith("out.nc"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "fit.json").write_text("{}")
    monkeypatch.chdir(files)
    before = _tree(files, tmp_path)

    outcome = diffcr(*words)

    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("diffcr: error: ")
    assert re.search(message, outcome.err), outcome.err
    assert _tree(files, tmp_path) == before


def test_failed_run_makes_no_folder(diffcr, files, tmp_path):
    assert diffcr("fit", files / "five.csv", *HAWC, "-o", tmp_path / "new" / "deep").code == 2
    assert not any(tmp_path.iterdir())


# Killed while writing ------------------------------------------------------------------------------------


class _Half:
    """Stands for a writer that fails after it has put something on the disk."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *args, **kwargs):
        path = next((a for a in args if isinstance(a, Path)), None)
        if path is not None and not path.exists():
            path.write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize(
    ("command", "where"),
    [
        *(("fit", "rename"), ("fit", "netcdf"), ("fit", "picture")),
        *(("bin", "rename"), ("bin", "netcdf"), ("simulate", "netcdf"), ("unblind", "rename")),
    ],
)
def test_killed_while_writing_leaves_nothing_under_the_final_name(
    diffcr, files, tmp_path, monkeypatch, where, error, code, command
):
    target = {"rename": (os, "replace"), "netcdf": (xr.Dataset, "to_netcdf")}.get(where)
    monkeypatch.chdir(files)
    words = {
        "fit": ("fit", "truth.nc", "-o", tmp_path, *(() if where == "picture" else ("--no-plots",))),
        "bin": ("bin", "truth.nc", "-o", tmp_path / "counts.nc"),
        "simulate": ("simulate", *HAWC, "--events", "3000", "-o", tmp_path / "counts.nc"),
        "unblind": ("unblind", "blind.nc", "--key", "secret", "-o", tmp_path / "counts.nc"),
    }[command]
    (tmp_path / "counts.nc").write_text("precious")
    (tmp_path / "fit.json").write_text("{}")
    before = _tree(tmp_path)
    if where == "picture":
        from matplotlib.figure import Figure

        target = (Figure, "savefig")
    monkeypatch.setattr(*target, _Half(error))

    outcome = diffcr(*words)

    assert outcome.code == code
    assert outcome.err.count("\n") == 1
    assert outcome.err == "diffcr: interrupted\n" if code == 130 else "No space left" in outcome.err
    after = _tree(tmp_path)
    if where == "picture":
        # The counts are complete before the first picture is begun; a fit.json comes last.
        assert load_counts(tmp_path / "counts.nc").num_events.sum() > 0
        before.pop(tmp_path / "counts.nc"), after.pop(tmp_path / "counts.nc")
    assert after == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_killed_event_list_leaves_nothing(diffcr, tmp_path, monkeypatch, error):
    monkeypatch.setattr(np, "savetxt", _Half(error))
    words = (
        "simulate",
        *HAWC,
        "--events",
        "3000",
        "--event-list",
        tmp_path / "l.csv",
        "-o",
        tmp_path / "c.nc",
    )
    assert diffcr(*words).code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert not any(tmp_path.iterdir())


def test_interrupt_while_reading_exits_with_130(diffcr, files, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffcr.inference.inputs.bin_events", stop)
    outcome = diffcr("fit", files / "events.csv", *HAWC, "-o", tmp_path / "out")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "diffcr: interrupted\n")
    assert not any(tmp_path.iterdir())


def test_a_fault_of_ours_is_not_called_bad_input(diffcr, files, monkeypatch):
    """Anything but bad input keeps its traceback: a message would hide where it came from."""

    def fault(*args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("diffcr.inference.inputs.load_counts", fault)
    monkeypatch.setattr(sys, "argv", ["diffcr", "fit", str(files / "truth.nc")])
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main()
