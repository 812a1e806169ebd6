"""`diffcr predict` and `diffcr sources` as users run them: what is written, and what is refused in one line."""

import csv
import json

import numpy as np
import pytest
from diffcr.inference.cli_predict import chosen_model, parse_energies, with_prior_options

from diffcr.errors import InputError


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_shipped_vela_makes_its_published_figure(run, tmp_path):
    """Equatorial amplitudes, phases and the flip of one remnant before a smooth disc, without the observer's motion."""
    code, out, _ = run("predict", "vela", "--energies", "1,10,100,1000", "--no-compton-getting", "-o", tmp_path)
    assert code == 0
    found = rows(tmp_path / "dipole.csv")
    amplitude = [float(row["amplitude"]) for row in found]
    np.testing.assert_allclose(amplitude[:3], [7.138e-4, 1.4895e-3, 4.471e-4], rtol=5e-3)
    phase = [float(row["right_ascension_deg"]) for row in found]
    np.testing.assert_allclose(phase, [48.47, 48.47, 48.47, 228.47], atol=0.02)
    share = [float(row["source_over_background"]) for row in found]
    np.testing.assert_allclose(share[:3], [0.02903, 0.06254, 0.07271], rtol=5e-3)
    content = json.loads((tmp_path / "prediction.json").read_text())
    np.testing.assert_allclose(content["flip_energy_TeV"], [152.6], rtol=1e-2)
    assert "changes sign at 152" in out
    for name in ("dipole.png", "sky.png", "sources.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_number_is_changed_by_set_and_the_band_compared_with_points(run, tmp_path):
    code, out, _ = run(
        *("predict", "vela", "--set", "vela.age_yr=20000", "--set", "vela.distance_pc=287", "--set", "observer=none"),
        *("--energies", "10,20", "--points", "published", "--prior-predictive", "--draws", "64"),
        *("--no-plots", "-o", tmp_path),
    )
    assert code == 0
    content = json.loads((tmp_path / "prediction.json").read_text())
    # 287 pc and 20 kyr: -3.4e-4 along the field, of which cos(dec) = 0.932 is equatorial.
    assert content["amplitude"][0] == pytest.approx(3.4e-4 * 0.932, rel=0.02)
    assert content["right_ascension_deg"][0] == pytest.approx(228.47, abs=0.02)
    band = content["band"]
    assert band["draws"] == 64 and band["drawn"] == "priors"
    # Of the published points two were measured between 10 and 20 TeV.
    assert band["agreement"]["points"] == 2
    assert 0 <= band["agreement"]["part_that_fits"] <= 1
    assert "agreement" in out
    assert len(rows(tmp_path / "band.csv")) == 2
    assert not list(tmp_path.glob("*.png"))


BAD = {
    "unknown model": (("predict", "velaa"), "no shipped model of that name"),
    "negative age": (("predict", "vela", "--set", "vela.age_yr=-5"), "age_yr .* must be above 0"),
    "negative diffusion": (("predict", "vela", "--set", "diffusion_cm2_s=-1"), "diffusion_cm2_s .* must be above 0"),
    "perpendicular": (("predict", "vela", "--set", "perpendicular=2"), "allow_perpendicular = true"),
    "outside": (("predict", "vela", "--set", "vela.distance_pc=1e5"), "halo"),
    "no field": (("predict", "vela", "--set", "field=0,0,0"), "field .*not zero|no direction"),
    "misspelt": (("predict", "vela", "--set", "vela.aeg_yr=5"), "did you mean 'vela.age_yr'"),
    "no number": (("predict", "vela", "--set", "vela.age_yr"), "--set takes NAME=VALUE"),
    "word": (("predict", "vela", "--set", "vela.age_yr=old"), "takes a number"),
    "observer": (("predict", "vela", "--set", "observer=lrs"), "lsr"),
    "energies": (("predict", "vela", "--energies", "10:1:5"), "--energies takes FIRST:LAST:NUMBER"),
    "zero energy": (("predict", "vela", "--energies", "0,1"), "--energies takes energies above 0"),
    "points": (("predict", "vela", "--points", "nowhere.csv"), "nowhere.csv"),
    "nothing to fit": (("sources", "vela"), "give either --counts FILE .* or --dipoles FILE"),
    "both": (("sources", "vela", "--counts", "a.nc", "--dipoles", "published"), "give either --counts"),
    "counts without energies": (("sources", "vela", "--counts", "a.nc"), "--counts needs --energies"),
    "energies of dipoles": (("sources", "vela", "--dipoles", "published", "--energies", "1"), "--energies goes with"),
    "prior": (("sources", "vela", "--dipoles", "published", "--prior", "vela.age_yr=flat"), "distribution"),
    "prior of what": (("sources", "vela", "--dipoles", "published", "--prior", "x=normal(0,1)"), "lacks"),
    "fixed": (("sources", "vela", "--dipoles", "published", "--prior", "perpendicular=fixed"), "has no prior"),
    "multipoles": (
        ("sources", "vela", "--counts", "a.nc", "--energies", "1", "--multipoles", "1e-4"),
        "--multipoles goes with --dipoles",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, case):
    arguments, message = BAD[case]
    code, _, err = run(*arguments, "-o", tmp_path / "out")
    assert code == 2
    assert err.startswith("diffcr: error: ") and err.count("\n") == 1
    import re

    assert re.search(message, err), err
    assert not list(tmp_path.rglob("*.*"))


def test_energies_are_listed_or_evenly_spread_in_their_logarithm():
    assert parse_energies("1,10,100") == [1.0, 10.0, 100.0]
    np.testing.assert_allclose(parse_energies("1:1e4:5"), [1, 10, 100, 1e3, 1e4])
    for text in ("", "a", "1:2", "1:10:1", "1:10:2.5", "-1", "inf", "1:inf:3", "nan"):
        with pytest.raises(InputError, match="--energies takes"):
            parse_energies(text)


def test_priors_are_set_and_taken_away():
    model = chosen_model("vela", None, False)
    assert "vela.age_yr" in model.priors
    model = with_prior_options(
        model,
        [
            "vela.age_yr=fixed",
            "perpendicular=log-uniform(1e-3,1)",
            "field=isotropic",
            "diffusion_index=normal(0.4,0.05)",
        ],
    )
    assert "vela.age_yr" not in model.priors
    assert model.priors["perpendicular"].numbers == (1e-3, 1.0)
    assert model.priors["field"] == "isotropic"
    assert model.priors["diffusion_index"].kind == "normal"
    for text, message in (
        ("perpendicular=uniform(1)", "uniform takes low, high"),
        ("perpendicular=uniform(a,b)", "not numbers"),
        ("=normal(0,1)", "--prior takes NAME=KIND"),
        ("perpendicular", "--prior takes NAME=KIND"),
    ):
        with pytest.raises(InputError, match=message):
            with_prior_options(model, [text])


@pytest.mark.slow
def test_the_posterior_of_published_dipoles_is_written(run, tmp_path):
    code, out, err = run(
        *("sources", "vela", "--dipoles", "published", "--warmup", "60", "--draws", "60", "--chains", "2"),
        *("--prior", "diffusion_cm2_s=fixed", "--prior", "halo_height_pc=fixed", "--boron-to-carbon"),
        *("-o", tmp_path),
    )
    content = json.loads((tmp_path / "summary.json").read_text())
    # So few draws are not enough for the verdict, and the exit code says so.
    assert code == (0 if content["converged"] else 3), err
    assert "vela.age_yr" in content["parameters"] and "diffusion_cm2_s" not in content["parameters"]
    assert "vela.age_yr" in out and "verdict" in out
    assert (tmp_path / "posterior.nc").stat().st_size > 0 and (tmp_path / "corner.png").exists()
    code, _, err = run("sources", "vela", "--dipoles", "published", "--warmup", "60", "--draws", "60", "-o", tmp_path)
    assert code == 2 and "--resume" in err
