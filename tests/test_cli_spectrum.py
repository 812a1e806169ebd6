"""`diffcr spectrum` as users run it: what is written, and what is refused in one line."""

import json
import sys

import numpy as np
import pytest
import typer
import xarray as xr
from diffcr.inference.cli_spectrum import parse_priors, spectrum
from typer.testing import CliRunner

from diffcr.errors import FitError, InputError

L = np.arange(1, 9)
POWER = 2e-6 * np.array([1.0, 0.3, 0.13, 0.07, 0.039, 0.025, 0.017, 0.012])


@pytest.fixture
def run():
    """Run the command in this process; gives (error or None, output)."""
    app = typer.Typer(rich_markup_mode="rich")
    app.command()(spectrum)

    def call(*arguments):
        outcome = CliRunner().invoke(app, [str(each) for each in arguments])
        return outcome.exception, outcome.output

    return call


def table(power=POWER, noise=1e-10, extra=""):
    rng = np.random.default_rng(2)
    drawn = (power + noise) * rng.chisquare(2 * L + 1) / (2 * L + 1) - noise
    error = np.sqrt(2 / (2 * L + 1) * (noise**2 + 2 * noise * np.abs(drawn)))
    rows = [f"{l},{c:.6g},{e:.4g},{noise:g}" for l, c, e in zip(L, drawn, error, strict=True)]
    return extra + "l,C_l,error,noise\n" + "\n".join(rows) + "\n"


def test_a_fit_writes_its_summary_posteriors_and_pictures(run, write, tmp_path):
    path = write(table(), "cl.csv")
    folder = tmp_path / "out"
    error, out = run(
        *(path, "--model", "cascade", "-o", folder, "--seed", "3"),
        *("--chains", "2", "--warmup", "200", "--draws", "500", "--prior", "cascade.depth=0.4,0.8", "--no-refit"),
    )
    assert error is None or isinstance(error, FitError), out
    written = {"spectrum.json", "posterior_cascade.nc", "power.png", "corner_cascade.png"}
    assert {p.name for p in folder.iterdir()} == written
    content = json.loads((folder / "spectrum.json").read_text())
    assert content["software"].startswith("diffcr ") and len(content["inputs"][0]["sha256"]) == 64
    assert content["converged"] == (error is None)
    assert content["likelihood"]["name"] == "chi2" and "once" in content["likelihood"]["sample_variance"]
    assert content["models"]["cascade"]["priors"]["depth"]["median"] == 0.4
    assert content["data"]["fitted"] == [False] + [True] * 7
    assert content["dipole"]["treatment"].startswith("free") and content["dipole"]["measured"] > 0
    ranked = content["comparison"]
    assert [row["verdict"] for row in ranked["models"]] == ["best"] and ranked["bins"] == 7
    assert "with 7 bins the standard error itself is rough" in ranked["note"]
    with xr.open_datatree(folder / "posterior_cascade.nc", engine="h5netcdf") as tree:
        assert tree["posterior"]["depth"].shape == (2, 500)
        assert list(tree["observed_data"]["bin"].values) == [str(l) for l in range(2, 9)]
    # One model alone is not ranked.
    assert "leave one out" not in out and "likelihood       chi2" in out and "spectrum.json" in out


BAD = {
    "model": (("--model", "other"), "--model must be one of cascade, pitch-angle, power-law, mixed"),
    "dipole": (("--dipole", "no"), "--dipole must be free or tie, not 'no'"),
    "errors": (("--errors", "both"), "errors are sky, total, isotropic, mean, not 'both'"),
    "likelihood": (("--likelihood", "x"), "the likelihood must be auto, normal"),
    "fraction": (("--sky-fraction", "0"), "sky fraction must be above 0"),
    "estimator": (("--estimator", "pseudo"), "--estimator chooses within estimates.json"),
    "range": (("--lmin", "20"), "no bin is left between --lmin and --lmax"),
    "one bin": (("--lmax", "2"), "fewer than two bins are left beside that of l = 1"),
    "only a dipole": (("--lmax", "1"), "fewer than two bins are left beside that of l = 1"),
    "rates": (("--rates", "fast"), "unknown model of relaxation rates 'fast'"),
    "family": (("--scattering", "isotropic"), "isotropic scattering makes a dipole alone"),
    "field": (("--field-declination", "20"), "--field-declination is for spectra without m = 0"),
    "angle": (("--field-declination", "200"), "must lie within -90 to 90 degrees"),
    "end": (("--end", "--model", "power-law"), "--end is of the cascade, which is not among the models"),
    "prior": (("--prior", "depth=1,2"), "--prior takes MODEL.NAME=A,B"),
    "prior of none": (("--prior", "mixed.depth=1,2"), "the model 'mixed' is not fitted"),
    "prior name": (("--prior", "cascade.slope=1,2"), "the model cascade has no parameter 'slope'"),
    "one number": (("--prior", "cascade.depth=1"), "takes two numbers, not '1'"),
    "words": (("--prior", "cascade.depth=a,b"), "takes numbers separated by commas"),
    "draws": (("--draws", "1"), "draws must be a whole number of at least 4"),
    "covariance": (("--covariance", "/none.csv"), "/none.csv: cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(run, write, tmp_path, name):
    options, message = BAD[name]
    path = write(table(), "cl.csv")
    error, _ = run(path, *options, "-o", tmp_path / "out")
    with pytest.raises(InputError, match=message):
        raise error
    assert "\n" not in str(error)
    assert not (tmp_path / "out").exists()


def test_files_of_one_sky_must_not_overlap(run, write, tmp_path):
    first, second = write(table(), "a.csv"), write(table(), "b.csv")
    for files, message in (((first, second), "in two of the spectra"), ((first, first), "given twice")):
        error, _ = run(*files, "-o", tmp_path / "out")
        with pytest.raises(InputError, match=message):
            raise error
    error, _ = run(first, second, "--covariance", first, "-o", tmp_path / "out")
    with pytest.raises(InputError, match="--covariance is of one file"):
        raise error


def estimates(window, correlation=0.1):
    """estimates.json of six bins of two degrees each."""
    low = np.arange(1, 12, 2)
    power = 1e-6 * low**-2.0
    apart = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    entry = {
        "l_low": low.tolist(),
        "l_high": (low + 1).tolist(),
        "power": power.tolist(),
        "noise": [1e-10] * 6,
        "isotropic_error": (1e-10 * np.sqrt(1 / (2 * low + 2))).tolist(),
        "power_covariance": (np.outer(power, power) * (-correlation) ** apart).tolist(),
        "window": window.tolist(),
    }
    return json.dumps({"parts": [{"label": "all", "methods": {"power": entry}}]})


def test_bins_that_hold_a_free_dipole_or_each_other_are_refused(run, write, tmp_path):
    window = np.kron(np.eye(6), [0.5, 0.5])
    leaking = window.copy()
    leaking[1, 0] = -0.1
    cases = (
        (leaking, 0.1, (), r"l = 3-4 holds 2e-07 of the measured C_1, its error is .* use --dipole tie"),
        (leaking, 0.1, ("--lmin", "3"), r"l = 3-4 holds 1.4e-07 of a dipole of 1e-3"),
        (leaking, 0.1, ("--lmin", "5"), None),
        (window, 0.4, (), r"correlated by up to 0.40: .* name a --likelihood"),
        (window, 0.1, (), None),
        (leaking, 0.1, ("--dipole", "tie"), None),
        (window, 0.4, ("--likelihood", "normal"), None),
    )
    for number, (each, correlation, options, message) in enumerate(cases):
        path = write(estimates(each, correlation), f"{number}.json")
        # Where nothing else is refused, the name of the model is.
        error, _ = run(path, *options, "--model", "other", "-o", tmp_path / "out")
        with pytest.raises(InputError, match=message or "--model must be one of"):
            raise error
        assert "\n" not in str(error)


def test_priors_come_by_model_and_name():
    found = parse_priors(["cascade.depth=0.5,1", "cascade.C_1=1e-6,2"], ["cascade", "mixed"])
    assert found == {"cascade": {"depth": (0.5, 1.0), "C_1": (1e-6, 2.0)}, "mixed": {}}
    with pytest.raises(InputError, match="cascade.depth is given twice"):
        parse_priors(["cascade.depth=0.5,1", "cascade.depth=1,1"], ["cascade"])


def test_the_help_has_an_example(run):
    _, out = run("--help")
    assert "Example: diffcr spectrum estimates/estimates.json" in " ".join(out.split())


def test_the_command_itself_ends_with_2_and_one_line(write, tmp_path, monkeypatch, capsys):
    from diffcr.inference.cli import main

    path = write("l,C_l,error\n2,1e-9,-1e-10\n3,1e-9,1e-10\n", "bad.csv")
    monkeypatch.setattr(sys, "argv", ["diffcr", "spectrum", str(path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "bad.csv" in error
    assert not (tmp_path / "out").exists()
