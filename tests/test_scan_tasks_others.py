"""Scans of posteriors, calibration, backtracking and toys: the numbers of the commands."""

import json

import numpy as np
import pytest
from diffcr.inference.scan_task import Source
from diffcr.inference.scan_task_backtrack import backtrack_dataset
from diffcr.inference.scan_task_calibrate import calibration_dataset
from diffcr.inference.scan_task_sample import posterior_dataset, priors_of
from diffcr.inference.scan_task_toys import truth_of
from diffcr.inference.scan_tasks import TASKS

from diffcr.units import KM_PER_S

AUGER = Source(("dataset:auger-8eev",))


def results(task, *settings, source=Source()):
    return TASKS[task].run(source, [TASKS[task].complete(each) for each in settings])


# Posteriors ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_posterior_has_the_numbers_of_the_command(run, tmp_path):
    options = "--grid 36x18 --chains 2 --warmup 50 --draws 60 --prior scale=0.1 --rate-bins 4 --seed 5 --no-plots"
    code, _, errors = run("sample", "dataset:auger-8eev", *options.split(), "--leave-one-ring-out", "-o", tmp_path)
    assert code in (0, 3), errors
    wanted = json.loads((tmp_path / "summary.json").read_text())
    left_out = json.loads((tmp_path / "loo.json").read_text())
    settings = {"grid": "36x18", "chains": 2, "warmup": 50, "draws": 60, "prior.scale": 0.1, "rate_bins": 4, "seed": 5}

    (found,) = results("sample", settings | {"leave_one_ring_out": True}, source=AUGER)

    assert set(found["parameter"].values) == set(wanted["parameters"])
    for name, entry in wanted["parameters"].items():
        own = found.sel(parameter=name)
        for column in ("mean", "sd", "r_hat", "ess_bulk", "ess_tail"):
            np.testing.assert_allclose(own[column], entry[column], rtol=1e-6, err_msg=f"{name} {column}")
        np.testing.assert_allclose([own["hdi_95_low"], own["hdi_95_high"]], entry["hdi_95"], rtol=1e-6)
    np.testing.assert_allclose(found["amplitude"], wanted["parameters"]["amplitude"]["mean"], rtol=1e-6)
    np.testing.assert_allclose(found["elpd"], left_out["elpd"], rtol=1e-6)
    np.testing.assert_allclose(found["elpd_error"], left_out["standard_error"], rtol=1e-6)
    assert bool(found["converged"]) == wanted["converged"]
    assert found["verdict"].item() == wanted["verdict"]


ENTRY = {"mean": 0.05, "sd": 0.01, "hdi_68": [0.04, 0.06], "hdi_95": [0.03, 0.07], "r_hat": 1.0, "ess_bulk": 500.0}
ENTRY |= {"ess_tail": 400.0, "prior_distance": 0.5, "prior_dominated": False}
SUMMARY = {"converged": True, "verdict": "converged", "num_events": 100, "effective_events": 99.0, "divergences": 0}
SUMMARY |= {"mean_steps": 3.0, "rates": None}


def test_a_posterior_without_a_predictive_density_has_none():
    hidden = ENTRY | dict.fromkeys(("mean", "sd", "hdi_68", "hdi_95"))
    found = posterior_dataset(SUMMARY | {"parameters": {"amplitude": ENTRY, "delta_0h": hidden}}, {})
    assert np.isnan(found["elpd"]) and np.isnan(found["unreliable_rings"])
    assert (float(found["amplitude"]), float(found["amplitude_sd"])) == (0.05, 0.01)
    assert np.isnan(found["delta_0h"])
    np.testing.assert_array_equal(found["hdi_68_low"], [0.04, np.nan])
    assert float(found["ess_min"]) == 400.0


def test_priors_are_those_of_the_command_line():
    complete = TASKS["sample"].complete
    found = priors_of(complete({"model": "local-field", "prior.transport": "tensor", "prior.perpendicular": [0.01, 0.5],
                                "prior.velocity": [10, 0, -5], "prior.scale": 1e-3}))  # fmt: skip
    assert found["transport"] == "tensor" and found["scale"] == 1e-3
    assert found["perpendicular"] == (0.01, 0.5)
    np.testing.assert_allclose(found["velocity"], np.array([10, 0, -5]) * KM_PER_S)
    assert priors_of(complete({"model": "local-field", "prior.velocity": "none"}))["velocity"] is None


def test_a_template_of_a_prior_is_read_from_its_file(tmp_path):
    path = tmp_path / "template.csv"
    path.write_text("l,C_l,error\n2,2e-8,1e-9\n3,1e-8,1e-9\n4,5e-9,1e-9\n")
    settings = {"model": "multipoles", "lmax": 3, "prior.template": "template.csv"}
    found = TASKS["sample"].located(settings, tmp_path)
    assert found["prior.template"] == str(path)
    assert priors_of(TASKS["sample"].complete(found)) == {"power": "template", "template": (1.0, 0.5)}


# Calibration --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_calibration_has_the_numbers_of_the_command(run, tmp_path):
    options = "--site hawc --sets 10 --events 2e4 --grid 24x12 --prior scale=0.02 --seed 3"
    code, _, errors = run("calibrate", *options.split(), "-o", tmp_path)
    assert code in (0, 3), errors
    wanted = json.loads((tmp_path / "calibration.json").read_text())
    settings = {"site": "hawc", "sets": 10, "events": 2e4, "grid": "24x12", "prior.scale": 0.02, "seed": 3}

    (found,) = results("calibrate", settings)

    for name, entry in wanted["quantities"].items():
        for column in ("coverage_68", "coverage_95", "pull_mean", "pull_width", "chi2_p", "r_hat_max"):
            np.testing.assert_allclose(found[column].sel(quantity=name), entry[column], err_msg=f"{name} {column}")
    np.testing.assert_allclose(found["holm_p"], wanted["holm_p_sky_and_hyper"])
    assert bool(found["converged"]) == wanted["calibrated"]


def test_errors_of_coverages_are_binomial():
    row = dict.fromkeys(("coverage_68", "coverage_95", "pull_mean", "pull_width", "chi2_p", "ks_p", "r_hat_max"), 0.5)
    row |= {"kind": "sky", "pull_mean_error": None, "ess_mean": 100.0}
    content = {"quantities": {"delta_0h": row}, "sets": 100, "holm_p_sky_and_hyper": 0.3, "divergences": 0}
    content |= {"share_r_hat_below_1.05": 1.0, "coverage_68": [0.5, 0.5], "coverage_95": [0.5, 0.5]}
    found = calibration_dataset(content | {"calibrated": False, "problems": ["one", "two"]})
    np.testing.assert_allclose(found["coverage_68_error"], np.sqrt(0.6827 * 0.3173 / 100))
    np.testing.assert_allclose(found["coverage_95_error"], np.sqrt(0.95 * 0.05 / 100))
    assert not found["converged"] and found["problems"].item() == "one; two"
    assert np.isnan(found["pull_mean_error"]).all()


# Backtracking -------------------------------------------------------------------------------------------


def test_a_backtracked_sky_has_the_numbers_of_the_command(run, tmp_path):
    options = "--nside 4 --realisations 3 --omega-t 3 --samples 2 --step-check 2 --sigma2 0.5 --size 8 --gradient 0,45"
    code, _, errors = run("backtrack", *options.split(), "--seed", 7, "--no-plots", "-o", tmp_path)
    assert code in (0, 3), errors
    wanted = json.loads((tmp_path / "backtrack.json").read_text())
    settings = {"nside": 4, "realisations": 3, "omega_t": 3, "samples": 2, "step_check": 2, "sigma2": 0.5, "size": 8}

    (found,) = results("backtrack", settings | {"gradient": [0, 45], "seed": 7})

    assert list(found["orientation"].values) == list(wanted["orientations"])
    for name, row in wanted["orientations"].items():
        own = found.sel(orientation=name)
        # Paths are of single precision.
        np.testing.assert_allclose(own["power"], row["power"], rtol=1e-4)
        np.testing.assert_allclose(own["power_error"], row["power_error"], rtol=1e-3)
        np.testing.assert_allclose(own["noise_analytic"], row["noise_analytic"]["value"], rtol=1e-4)
        np.testing.assert_allclose(own["plateau"], row["plateau"]["value"], rtol=1e-3)
    np.testing.assert_allclose(found["kappa_parallel"], wanted["diffusion"]["kappa_parallel"]["value"], rtol=1e-4)
    np.testing.assert_allclose(found["dipole"], wanted["orientations"]["parallel"]["power"][0], rtol=1e-4)
    assert bool(found["converged"]) == wanted["step_check"]["passed"]


def test_a_measured_spectrum_is_compared_degree_by_degree():
    """(0.5 - 0.4)^2 / (0.1^2 + 0.1^2) + (0.3 - 0.2)^2 / (0.1^2 + 0) = 0.5 + 1."""
    estimate = {"value": 0.1, "error": 0.01}
    row = {"angle_deg": 0.0, "power": [1.0, 0.5, 0.25, 0.1], "power_error": [0.1] * 4, "cascade": None}
    row |= dict.fromkeys(("plateau", "noise_analytic", "dipole_to_quadrupole"), estimate)
    row |= {"dipole_over_standard_diffusion": {"value": None, "error": None}}
    row["shape"] = {"degree": [3, 4], "value": [0.5, 0.3], "error": [0.1, 0.0]}
    diffusion = dict.fromkeys(("kappa_parallel", "kappa_perpendicular", "kappa_antisymmetric"), estimate)
    content = {"orientations": {"parallel": row}, "degree": [1, 2, 3, 4], "diffusion": diffusion, "step_check": None}
    content |= {"settings": {"coherence_length": 1.0}, "cost": {"particle_steps": 10}, "notes": []}
    measured = {"degree": np.array([2, 3, 4, 9]), "shape": np.array([1, 0.4, 0.2, 0.1])}

    found = backtrack_dataset(content, measured | {"error": np.array([0.1, 0.1, 0.1, 0.1])})

    np.testing.assert_allclose(found["chi2"], 0.5 + 1.0)
    assert found["points"] == 2 and bool(found["converged"])
    np.testing.assert_allclose(found["noise_over_quadrupole"], 0.2)
    np.testing.assert_array_equal(found["shape"][0], [np.nan, np.nan, 0.5, 0.3])
    assert np.isnan(backtrack_dataset(content)["chi2"])


# Toys ---------------------------------------------------------------------------------------------------


def test_toys_have_the_numbers_of_the_command(run, tmp_path):
    options = "--site auger --events 3e4 --toys 60 --dipole 0.06,0 --seed 4 --grid 24x12 --no-plots"
    code, _, errors = run("toys", *options.split(), "-o", tmp_path)
    assert code == 0, errors
    wanted = json.loads((tmp_path / "toys.json").read_text())
    settings = {"site": "auger", "events": 3e4, "toys": 60, "seed": 4, "grid": "24x12", "amplitude": 0.06}
    settings |= {"own_seeds": False}

    (found,) = results("toys", settings)

    for kind in ("isotropic", "dipole"):
        own = wanted[kind]["calibration"]["delta_0h"]
        for name in ("bias", "scatter", "pull_mean", "pull_width", "pull_width_error"):
            np.testing.assert_allclose(found[f"delta_0h_{name}"].sel(sky=kind), own[name], rtol=1e-9)
    quantiles = wanted["isotropic"]["distribution"]["quantiles"]
    for quantile, value in quantiles.items():
        np.testing.assert_allclose(found["test_statistic"].sel(sky="isotropic", quantile=float(quantile)), value)
    detected = wanted["dipole"]["detection"]
    np.testing.assert_allclose(found["median_test_statistic"], detected["median_test_statistic"])
    np.testing.assert_allclose(found["detection_3_sigma"], detected["3_sigma"]["share"])
    assert np.isnan(found["p"]) and bool(found["converged"])


def test_toys_of_data_give_the_p_value_of_their_fit(run, tmp_path):
    options = "dataset:auger-8eev --toys 40 --seed 2 --grid 24x12 --zenith-max 60 --no-plots"
    code, _, errors = run("toys", *options.split(), "-o", tmp_path)
    assert code == 0, errors
    wanted = json.loads((tmp_path / "toys.json").read_text())["observed"]
    settings = {"toys": 40, "seed": 2, "grid": "24x12", "zenith_max": 60, "own_seeds": False}
    (found,) = results("toys", settings, source=AUGER)
    assert found["seed_of_skies"] == 2
    np.testing.assert_allclose(found["observed_test_statistic"], wanted["test_statistic"], rtol=1e-9)
    np.testing.assert_allclose([found["p"], found["p_low_95"]], [wanted["p"], wanted["p_low_95"]])
    # Without a true dipole what would be found is what isotropic skies give.
    np.testing.assert_allclose(found["median_test_statistic"], found["test_statistic"].sel(quantile=0.5).item())


def test_points_of_toys_are_independent_unless_one_seed_is_asked_for():
    """Detectors that differ in one event of 1e9 draw nearly the same skies of one seed. With seeds of their own they do
    not, and `diffcr toys` of the seed that is told, here another point of one seed, draws the same."""
    common = {"site": "hawc", "toys": 30, "grid": "12x9", "power": 1.0}
    at = [common | {"events": 20_000.0 * (1 + k * 1e-9)} for k in (0, 1)]
    own = results("toys", *at)
    one = results("toys", *(each | {"own_seeds": False} for each in at))
    for column in ("test_statistic", "delta_0h_bias"):
        np.testing.assert_allclose(one[0][column], one[1][column], rtol=1e-6)
        assert np.abs(own[0][column] / own[1][column] - 1).max() > 1e-3
    seeds = [int(each["seed_of_skies"]) for each in own]
    assert seeds[0] != seeds[1] and max(seeds) < 2**52
    assert results("toys", at[0] | {"seed": 1})[0]["seed_of_skies"] != seeds[0]
    (again,) = results("toys", at[0] | {"own_seeds": False, "seed": seeds[0]})
    np.testing.assert_array_equal(again["test_statistic"], own[0]["test_statistic"])


def test_toys_without_a_detector_or_with_two_are_refused():
    found = results("toys", {"toys": 10}, {"toys": 10, "site": "auger", "events": 1e4, "zenith_max": 60})
    assert "give inputs, or site and events" in found[0]
    assert "zenith_max has no effect without inputs" in found[1]
    (found,) = results("toys", {"toys": 10, "events": 1e4}, source=AUGER)
    assert "events has no effect with inputs" in found


def test_the_true_dipole_is_given_by_components_or_by_amplitude_and_right_ascension():
    complete = TASKS["toys"].complete
    assert truth_of(complete({})) == (0.0, 0.0)
    assert truth_of(complete({"dipole": [0.01, -0.02]})) == (0.01, -0.02)
    assert truth_of(complete({"dipole": "fitted"})) == "fitted"
    np.testing.assert_allclose(truth_of(complete({"amplitude": 0.1, "right_ascension_deg": 90})), (0, 0.1), atol=1e-17)
    assert complete({"events": [1e4, 2e4]})["events"] == [1e4, 2e4]
