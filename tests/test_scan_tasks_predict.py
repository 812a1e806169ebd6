"""Scans of predictions: the numbers of the command side by side, distances from published dipoles, what is refused."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest
from diffcr.inference import scan_task_predict_many
from diffcr.inference.dipole_likelihood import dipole_data, first_harmonics
from diffcr.inference.dipole_table import read_dipoles
from diffcr.inference.model_files import read_model
from diffcr.inference.predict import predict, predict_band
from diffcr.inference.scan_task import Source
from diffcr.inference.scan_tasks import TASKS

PREDICT = TASKS["predict"]
ENERGIES = "1:1000:9"
MODEL = """
[model]
background = "none"
observer = "lsr"
[source.near]
distance_pc = 300
longitude_deg = 263
latitude_deg = -3
age_yr = 12000
"""
"""One source in a halo and nothing else: quick to compile."""


def results(*settings):
    complete = [PREDICT.complete(each) for each in settings]
    assert len({PREDICT.group(each) for each in complete}) == 1
    return PREDICT.run(Source(), complete)


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "near.toml"
    path.write_text(MODEL)
    return str(path)


def test_a_point_has_the_dipole_of_the_command(run, tmp_path, near):
    changes = {"near.age_yr": 20000.0, "perpendicular": 0.1, "field_ra_deg": 50.0}
    options = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    code, _, errors = run("predict", near, "--energies", ENERGIES, *options, "--no-plots", "-o", tmp_path)
    assert code == 0, errors
    with (tmp_path / "dipole.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = json.loads((tmp_path / "prediction.json").read_text())

    # Between others, so that it is not the first of its batch.
    common = {"model": near, "energies": ENERGIES}
    found = results(common, common | changes, common | {"near.distance_pc": 500})[1]

    for name in ("delta_0h", "delta_6h", "delta_N", "amplitude", "right_ascension_deg", "total_amplitude"):
        np.testing.assert_allclose(found[name], [float(row[name]) for row in rows], rtol=1e-9, err_msg=name)
    for name in ("plasma_delta_0h", "plasma_delta_6h", "plasma_delta_N", "extragalactic_fraction"):
        np.testing.assert_allclose(found[name], [float(row[name]) for row in rows], rtol=1e-9, atol=1e-15, err_msg=name)
    np.testing.assert_allclose(found["energy"], [float(row["energy_TeV"]) for row in rows])
    assert found["flips"] == len(wanted["flip_energy_TeV"])
    assert found["notes"].item() == "; ".join(wanted["notes"])
    assert np.isnan(found["chi2"]) and bool(found["converged"])


def test_flips_are_those_of_predict_with_and_without_one():
    """Vela turns the dipole over at 12 kyr; far in the past it does not."""
    ages = (12000.0, 200000.0)
    found = results(*({"vela.age_yr": age, "energies": ENERGIES} for age in ages))
    for age, each in zip(ages, found, strict=True):
        wanted = predict(read_model("vela").with_values({"vela.age_yr": age}), np.geomspace(1, 1000, 9))
        assert each["flips"] == len(wanted.flips)
        expected = wanted.flips[0] if wanted.flips else np.nan
        np.testing.assert_allclose(each["flip_energy_TeV"], expected, rtol=1e-6)
    assert [int(each["flips"]) for each in found] == [1, 0]


def test_chi2_is_the_sum_of_squared_distances_written_out(near):
    """Per published vector: residual^T (C + systematic errors)^-1 residual. There are no limits in that range."""
    table = read_dipoles(None)
    table = table.take((table.use == "fit") & (table.energy > 1) & (table.energy < 1000))
    data = dipole_data(table)
    settings = {"model": near, "energies": ENERGIES, "points": "published"}
    settings |= {"amplitude_systematic": 0.2, "phase_systematic_deg": 5.0}
    model = read_model(near)
    vectors = predict(model, np.asarray(data.energy)).dipole
    mean = np.asarray(first_harmonics(data, model.forward.sky(model.parameters(), jnp.asarray(vectors), 3)))
    total = 0.0
    for value, covariance, foretold in zip(np.asarray(data.value), np.asarray(data.covariance), mean, strict=True):
        across = np.array([-value[1], value[0]])
        wide = covariance + 0.2**2 * np.outer(value, value) + np.radians(5) ** 2 * np.outer(across, across)
        total += (value - foretold) @ np.linalg.solve(wide, value - foretold)

    (found,) = results(settings)

    assert (found["points"], found["degrees_of_freedom"]) == (len(table), 2 * len(table))
    np.testing.assert_allclose(found["chi2"], total, rtol=1e-8)
    assert found["chi2"].attrs["statistic"] == "chi2"


def test_points_whose_numbers_cannot_be_say_so_and_leave_the_others_alone():
    found = results(
        {"energies": "10"}, {"energies": "10", "perpendicular": 2}, {"energies": "10", "halo_height_pc": "inf"}
    )
    assert bool(found[0]["converged"])
    assert "kappa_perp is 2 times kappa_par" in found[1]
    assert "free space" in found[2]


def test_observers_and_their_rest(near):
    common = {"model": near, "energies": "10"}
    still = PREDICT.run(Source(), [PREDICT.complete(common | {"no_compton_getting": True})])[0]
    cmb = PREDICT.run(Source(), [PREDICT.complete(common | {"observer": "cmb"})])[0]
    np.testing.assert_allclose(still["delta_0h"], still["plasma_delta_0h"], rtol=1e-12)
    # The dipole of the microwave background, 370 km/s, makes (2 + Gamma) v / c with Gamma = 2.7.
    motion = np.array([float(cmb[f"delta_{n}"][0] - cmb[f"plasma_delta_{n}"][0]) for n in ("0h", "6h", "N")])
    np.testing.assert_allclose(np.linalg.norm(motion), 4.7 * 370 / 299792.458, rtol=0.01)


@pytest.mark.slow
def test_bands_over_priors_are_those_of_the_command(near, tmp_path):
    path = tmp_path / "wide.toml"
    path.write_text(MODEL + '[priors]\n"near.age_yr" = { distribution = "log-uniform", low = 9000, high = 31000 }\n')
    settings = {"model": str(path), "energies": "5:900:3", "prior_predictive": True, "draws": 64, "seed": 2}
    (found,) = results(settings | {"points": "published"})
    band = predict_band(read_model(path), np.geomspace(5, 900, 3), 64, 2, table=read_dipoles(None))
    np.testing.assert_allclose(found["amplitude_median"], np.median(band.amplitude, axis=0))
    np.testing.assert_allclose(found["amplitude_low_68"], band.amplitude_band(0.68)[0])
    np.testing.assert_allclose(found["part_that_fits"], band.comparison.fits)


def test_many_points_run_in_whole_batches(near, monkeypatch):
    """Nothing is compiled anew for the last, smaller one."""
    sizes, own = [], scan_task_predict_many._columns

    def watched(base, values, energy, data):
        sizes.append(values["near.age_yr"].shape)
        return own(base, values, energy, data)

    monkeypatch.setattr(scan_task_predict_many, "_columns", watched)
    points = [{"model": near, "energies": ENERGIES, "near.age_yr": 10000.0 + 100 * k} for k in range(PREDICT.batch + 3)]
    found = results(*points)
    assert sizes == [(PREDICT.batch,)] * 2
    alone = results(points[-1])[0]
    np.testing.assert_array_equal(found[-1]["delta_0h"], alone["delta_0h"])
