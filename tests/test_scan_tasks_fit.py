"""Scans of the fit and of maps: the numbers of the commands, one program for all cuts, events binned once."""

import json

import numpy as np
import pytest
from diffcr.inference import inputs
from diffcr.inference.fit import fit
from diffcr.inference.inputs import read_counts
from diffcr.inference.scan_task import Source
from diffcr.inference.scan_task_counts import counts_of
from diffcr.inference.scan_task_fit import fit_dataset
from diffcr.inference.scan_task_fit_many import FitJob, fit_many
from diffcr.inference.scan_tasks import TASKS

from diffcr.errors import InputError
from diffcr.grid import RingGrid

AUGER = Source(("dataset:auger-8eev",))
GRID = RingGrid(18, 36)


def results(task, *settings, source=AUGER):
    complete = [TASKS[task].complete(each) for each in settings]
    return TASKS[task].run(source, complete)


def auger(**options):
    return read_counts("dataset:auger-8eev", grid=GRID, **options)


def test_a_point_has_the_numbers_of_the_command(run, tmp_path):
    """With all that changes the result: cuts, dates, degree, prior, rates, orbit."""
    options = "--lmax 2 --prior-cl 1e-3 --rate-bins 12 --grid 36x18 --zenith-max 75 --from 2006-01-01 --to 2016-01-01"
    options += " --remove-orbital --gamma 2.7 --equinox j2000 --no-plots"
    code, _, errors = run("fit", "dataset:auger-8eev", *options.split(), "-o", tmp_path)
    assert code == 0, errors
    wanted = json.loads((tmp_path / "fit.json").read_text())
    settings = {"lmax": 2, "prior_cl": 1e-3, "rate_bins": 12, "grid": "36x18", "zenith_max": 75, "gamma": 2.7}
    settings |= {"from": "2006-01-01", "to": "2016-01-01", "remove_orbital": True, "equinox": "j2000"}

    (found,) = results("fit", settings)

    for name in ("num_events", "sum_weights", "converged", "test_statistic", "degrees_of_freedom", "log10_p"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, err_msg=name)
    for name in ("delta_0h", "delta_6h", "amplitude", "amplitude_error", "upper_limit_95", "right_ascension_deg",
                 "right_ascension_error_deg", "amplitude_debiased"):  # fmt: skip
        np.testing.assert_allclose(found[name], wanted["dipole"][name], rtol=1e-7, err_msg=name)
    errors = np.sqrt(np.diag(wanted["dipole"]["covariance"]))
    np.testing.assert_allclose([found["delta_0h_error"], found["delta_6h_error"]], errors, rtol=1e-7)
    rayleigh = wanted["rayleigh"]
    np.testing.assert_allclose(found["rayleigh_phase_deg"], rayleigh["phase_deg"])
    for l, m, value, error in zip(*(wanted["multipoles"][k] for k in ("l", "m", "value", "error")), strict=True):
        np.testing.assert_allclose(found["multipole"].sel(degree=l, order=m), value, rtol=1e-7)
        np.testing.assert_allclose(found["multipole_error"].sel(degree=l, order=m), error, rtol=1e-7)
    assert np.isnan(found["multipole"].sel(degree=1, order=2)) and np.isnan(found["delta_N"])
    assert found["amplitude"].attrs["ancillary_variables"] == "amplitude_error"
    assert found["right_ascension_deg"].attrs["units"] == "deg"


def test_known_exposures_measure_delta_n_as_the_command_does():
    exposed = {"exposure": "known", "grid": "36x18"}
    (found,) = results("fit", exposed)
    from diffcr.inference.cli_options import known_exposure

    counts = auger(zenith_max="site")
    wanted = fit(counts, exposure=known_exposure("known", counts))
    np.testing.assert_allclose(found["delta_N"], wanted.dipole.delta[2], rtol=1e-9)
    np.testing.assert_allclose(found["delta_N_error"], np.sqrt(wanted.dipole.covariance[2, 2]), rtol=1e-9)


def test_points_that_fail_say_why_as_the_command_would_and_leave_the_others_alone():
    found = results("fit", {"zenith_max": 3, "grid": "36x18"}, {"grid": "36x18"}, {"energy_min": 8, "grid": "36x18"})
    with pytest.raises(InputError) as told:
        fit(auger(zenith_max=np.radians(3)))
    assert found[0] == " ".join(str(told.value).split())
    assert bool(found[1]["converged"])
    assert found[2].startswith("energy cuts or bins were asked for, but the events have no energy")


@pytest.fixture(scope="module")
def cuts():
    """Counts of several zenith cuts, which see different rings; weighted, as that list is."""
    return [auger(zenith_max=np.radians(degrees)) for degrees in (50, 65, 80)]


def test_all_rings_and_stacks_give_what_fit_gives(cuts):
    """Rings without events add nothing, however many fits run side by side."""
    jobs = [FitJob(each) for each in cuts]
    wanted = [fit(each) for each in cuts]
    for stacked in (False, True):
        for found, own in zip(fit_many(jobs, stacked), wanted, strict=True):
            np.testing.assert_allclose(found.multipoles, own.multipoles, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(found.covariance, own.covariance, rtol=1e-9)
            np.testing.assert_allclose(found.test_statistic, own.test_statistic, rtol=1e-10)
            np.testing.assert_allclose(found.acceptances, own.acceptances, atol=1e-14)
            np.testing.assert_allclose(found.livetime_inflation, own.livetime_inflation)
            assert found.counts is own.counts and found.converged


def test_a_fit_does_not_depend_on_the_others_of_its_batch(cuts):
    alone = fit_many([FitJob(cuts[1])])[0]
    beside = fit_many([FitJob(each) for each in cuts])[1]
    np.testing.assert_array_equal(alone.multipoles, beside.multipoles)
    np.testing.assert_array_equal(alone.covariance, beside.covariance)


def test_jobs_of_different_shapes_go_together_and_refusals_keep_their_place(cuts):
    short = FitJob(cuts[2], rate_bins=7)
    found = fit_many([FitJob(cuts[0]), short, FitJob(cuts[2], rate_bins=4)], stacked=True)
    assert isinstance(found[1], InputError) and "rate_bins = 7 does not divide" in str(found[1])
    assert (found[0].rate_bins, found[2].rate_bins) == ((36,), (4,))
    np.testing.assert_allclose(found[2].multipoles, fit(cuts[2], rate_bins=4).multipoles, rtol=1e-9)


def test_blinded_counts_have_no_directions(cuts):
    from diffcr.inference.blinding import blind

    content = fit_dataset(fit_many([FitJob(blind(cuts[2], "key"))])[0])
    for name in ("delta_0h", "delta_6h", "right_ascension_deg", "delta_0h_error", "rayleigh_phase_deg"):
        assert np.isnan(content[name]), name
    assert np.isnan(content["multipole"]).all()
    assert content["amplitude"] > 0


def test_events_are_binned_once_for_equal_cuts_and_again_when_the_file_changes(monkeypatch, tmp_path):
    calls, path = [], tmp_path / "counts.nc"
    auger().save(path)

    def counted(*arguments, **options):
        calls.append(options)
        return read_counts(*arguments, **options)

    monkeypatch.setattr(inputs, "read_counts", counted)
    source, complete = Source((str(path),)), TASKS["fit"].complete
    first = counts_of(source, complete({"lmax": 1}))
    assert counts_of(source, complete({"lmax": 2, "rate_bins": 4})) is first
    assert len(calls) == 1
    counts_of(source, complete({"grid": "36x18"}))
    assert len(calls) == 2
    auger(time_range=(0.0, 4000.0)).save(path)
    counts_of(source, complete({"lmax": 1}))
    assert len(calls) == 3


def test_options_of_the_reader_come_from_the_scan_and_the_equinox_from_the_settings(write):
    rows = "".join(f"{57389 + k / 7:.4f},{(k * 37) % 360},{-80 + k % 20}\n" for k in range(400))
    path = write("UTC,RA,Dec\n" + rows)
    source = Source((str(path),), "auger", {"columns": "time=UTC,ra=RA,dec=Dec", "time_format": "mjd"})
    of_date = counts_of(source, TASKS["fit"].complete({"equinox": "date", "grid": "36x18"}))
    mean = counts_of(source, TASKS["fit"].complete({"grid": "36x18"}))
    assert of_date.num_events.sum() == mean.num_events.sum() == 400
    assert not np.array_equal(of_date.moments, mean.moments)


# Maps ---------------------------------------------------------------------------------------------------


def test_a_map_has_the_spots_of_the_command(run, tmp_path):
    options = "--grid 36x18 --smoothing 45 --skies 12 --seed 3 --nside 16 --no-plots"
    code, _, errors = run("map", "dataset:auger-8eev", *options.split(), "-o", tmp_path)
    assert code == 0, errors
    wanted = json.loads((tmp_path / "map.json").read_text())

    (found,) = results("map", {"grid": "36x18", "smoothing": 45, "skies": 12, "seed": 3, "nside": 16})

    for kind in ("hottest", "coldest"):
        for name in ("significance", "right_ascension_deg", "declination_deg", "contrast", "contrast_error"):
            np.testing.assert_allclose(found[f"{kind}_{name}"], wanted[kind][name], rtol=1e-9)
        for name in ("log10_p", "significance_sigma_one_sided", "chance_probability"):
            np.testing.assert_allclose(found[f"{kind}_post_trial_{name}"], wanted[kind]["post_trial"][name], rtol=1e-9)
    for name in ("test_statistic", "degrees_of_freedom", "sky_fraction", "converged"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9)
    np.testing.assert_allclose(found["amplitude"], wanted["dipole"]["amplitude"], rtol=1e-9)
    assert found["excesses"] == len(wanted["excesses"])


def test_maps_that_cannot_be_made_say_why():
    few = {"grid": "36x18", "from": "2004-01-01", "to": "2004-01-12"}
    found = results("map", few, {"grid": "36x18", "nside": 16, "method": "wiener", "lmax": 3, "psf": "HAWC=gauss:1"})
    assert "too few for a map" in found[0]
    assert "there is no observatory or configuration 'HAWC'" in found[1]
