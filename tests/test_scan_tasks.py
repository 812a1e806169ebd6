"""Settings of the tasks of scans: what they accept, what they refuse in which words, and how files in them travel."""

import datetime
import hashlib
import inspect
import json
import math

import numpy as np
import pytest
from diffcr.inference import cli, cli_backtrack, cli_map, cli_posterior, cli_predict, cli_toys
from diffcr.inference.scan_spec import spec_of
from diffcr.inference.scan_task import Setting, Source, variable
from diffcr.inference.scan_tasks import TASKS, task

from diffcr.errors import InputError

READER = {"inputs", "site", "columns", "time_format", "azimuth", "prefer", "skip_bad_rows"}
"""Where the data are and how they are read: beside the settings in a scan file."""

MANNERS = {"output", "plots", "resume", "segment", "blind", "dry_run", "devices", "hosts", "precision"}
MANNERS |= {"workers", "scheduler", "slurm", "threads"}
"""Options that change no result, or (blind) hide it."""

RENAMED = {
    "start": "from",
    "end": "to",
    "compare_rings": "leave_one_ring_out",
    "number": "toys",
    "prior": "prior.scale",
    "changes": "vela.age_yr",
}
COMMANDS = {
    "fit": (cli.fit, set()),
    "map": (cli_map.sky_map, {"config", "timesteps", "bin_reference"}),
    "sample": (cli_posterior.sample, set()),
    "calibrate": (cli_posterior.calibrate, set()),
    "predict": (cli_predict.predict, set()),
    "backtrack": (cli_backtrack.backtrack, {"keep_maps"}),
    "toys": (cli_toys.toys, set()),
}
"""Command, and those of its options that a scan has no use for: files of local maps, and maps that are kept."""


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_a_command_that_changes_its_result_is_a_setting(name):
    command, without = COMMANDS[name]
    manners = MANNERS - {"precision"} if name == "backtrack" else MANNERS
    reading = READER - {"site"} if name in ("calibrate", "toys") else READER
    for option in set(inspect.signature(command).parameters) - manners - reading - without:
        assert TASKS[name].setting(RENAMED.get(option, option)).name


@pytest.mark.parametrize("name", TASKS)
def test_defaults_are_those_of_the_command(name):
    full, command = TASKS[name].complete({}), COMMANDS[name][0]
    words = {RENAMED.get(k, k): p.default for k, p in inspect.signature(command).parameters.items()}
    # The commands spell these as text, or fill in what the scan leaves open.
    other = {"gradient", "dipole", "observer", "model", "site", "leave_one_ring_out"}
    for setting in set(full) & set(words) - other:
        assert full[setting] == words[setting], setting


@pytest.mark.parametrize("name", TASKS)
def test_complete_settings_are_json_and_complete_themselves(name):
    full = TASKS[name].complete({})
    again = json.loads(json.dumps(full))
    assert again == full
    assert TASKS[name].complete({k: v for k, v in again.items() if v is not None}) == full
    assert TASKS[name].group(full) == TASKS[name].group(again)
    assert TASKS[name].memory(Source(), full) > 1e8


def test_tasks_are_known_by_name():
    assert set(TASKS) == {"fit", "sample", "predict", "backtrack", "calibrate", "map", "toys"}
    with pytest.raises(InputError, match="there is no task 'fitt'; did you mean 'fit'"):
        task("fitt")
    with pytest.raises(InputError, match="run must be one of fit, .*, not 3"):
        task(3)


NUMBER = Setting("zenith_max", float, None, "deg", "Largest zenith angle", choices=("site",), above=0, high=90)


@pytest.mark.parametrize(
    ("setting", "given", "wanted"),
    [
        (NUMBER, 60, 60.0),
        (NUMBER, np.float32(60), 60.0),
        (NUMBER, "site", "site"),
        (NUMBER, None, None),
        (Setting("lmax", int), 3.0, 3),
        (Setting("power", tuple), 1, [1.0]),
        (Setting("power", tuple), (1, 2), [1.0, 2.0]),
        (Setting("site", tuple, of=str), "HAWC", ["HAWC"]),
        (Setting("flag", bool), True, True),
    ],
)
def test_settings_take_what_means_the_same(setting, given, wanted):
    found = setting.check(given)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("setting", "given", "words"),
    [
        (NUMBER, 0, "zenith_max must be above 0 and at most 90, not 0"),
        (NUMBER, 91, "zenith_max must be above 0 and at most 90, not 91"),
        (NUMBER, math.nan, "zenith_max must be finite, not nan"),
        (NUMBER, "sight", "zenith_max must be a number, or site, not 'sight'"),
        (NUMBER, True, "zenith_max must be a number"),
        (Setting("lmax", int), 2.5, "lmax must be a whole number, not 2.5"),
        (Setting("lmax", int, low=1), 0, "lmax must be at least 1, not 0"),
        (Setting("flag", bool), 1, "flag must be true or false, not 1"),
        (Setting("grid", str), 36, "grid must be a word, not 36"),
        (Setting("rates", str, choices=("sampled", "laplace")), "sample", "rates cannot be 'sample'.*'sampled'"),
        (Setting("power", tuple), [], "power needs at least one value"),
        (Setting("seed", int, 0), None, "seed needs a value; leave it out for 0"),
    ],
)
def test_settings_refuse_what_is_meant_otherwise_in_one_line(setting, given, words):
    with pytest.raises(InputError, match=words):
        setting.check(given)


def test_dates_are_those_of_toml_of_text_or_mjd():
    start = TASKS["fit"].setting("from")
    assert start.check(datetime.date(2016, 1, 2)) == "2016-01-02"
    assert start.check("2016-01-02") == "2016-01-02"
    assert start.check(57389) == 57389.0
    for wrong, words in ((2016, "no MJD"), ("spring", "takes a date"), (True, "must be a date")):
        with pytest.raises(InputError, match=words):
            start.check(wrong)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fit", {"lmaxx": 2}, "fit has no setting 'lmaxx'; did you mean 'lmax'"),
        ("fit", {"prior_cl": 1e-3}, "prior_cl has no effect on the dipole"),
        ("fit", {"remove_orbital": True}, "remove_orbital needs the spectral index gamma"),
        ("fit", {"gamma": 2.7}, "gamma has no effect without remove_orbital"),
        ("fit", {"energy_min": 10, "energy_max": 8}, "energy_min = 10 is not below energy_max = 8"),
        ("fit", {"energy_edges": 8}, "energy_edges needs at least two"),
        ("fit", {"from": "2016-01-01", "to": "2015-01-01"}, "not before"),
        ("fit", {"grid": "18x36"}, "looks swapped"),
        ("fit", {"epochs": "nowhere.csv"}, "nowhere.csv"),
        ("map", {"lmax": 3}, "lmax has no effect with method ml"),
        ("map", {"skies": 10}, "give their radius with smoothing"),
        ("map", {"nside": 48}, "nside must be a power of two"),
        ("sample", {"prior.width": 1}, "sample of the model dipole has no setting 'prior.width'"),
        ("sample", {"prior.scale": -1}, "scale of the dipole"),
        ("sample", {"model": "dipol"}, "model cannot be 'dipol'; did you mean 'dipole'"),
        ("calibrate", {"site": "Nowhere"}, "unknown site"),
        ("predict", {"vela.agee": 1}, "predict with the model vela has no setting 'vela.agee'; .*'vela.age_yr'"),
        ("predict", {"vela.age_yr": -1}, "vela.age_yr must be above 0"),
        ("predict", {"energies": "1:2"}, "FIRST:LAST:NUMBER"),
        ("predict", {"energies": True}, "energies must be a text"),
        ("predict", {"model": "velo"}, "no such model file"),
        ("predict", {"draws": 10}, "draws has no effect"),
        ("backtrack", {"gradient": [0, 0]}, "different angles"),
        ("backtrack", {"omega_step": 1.0}, "longer than the smallest wave"),
        ("backtrack", {"data": "nowhere.csv"}, "cannot be read"),
        ("toys", {"dipole": [0, 0.1], "amplitude": 0.1}, "leave one out"),
        ("toys", {"right_ascension_deg": 3}, "no effect without amplitude"),
        ("toys", {"dipole": [0.1]}, "dipole takes two numbers"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(name, settings, words):
    with pytest.raises(InputError, match=words):
        TASKS[name].complete(settings)


def test_files_in_settings_are_found_from_the_scan_file_and_known_by_their_content(tmp_path):
    (tmp_path / "acceptance.npy").write_bytes(b"one")
    (tmp_path / "king.csv").write_bytes(b"two")
    (tmp_path / "known").write_bytes(b"a file that is not meant")
    fit, maps, sample = TASKS["fit"], TASKS["map"], TASKS["sample"]
    here = str(tmp_path / "acceptance.npy")

    assert fit.located({"exposure": "acceptance.npy", "lmax": 2}, tmp_path) == {"exposure": here, "lmax": 2}
    assert fit.located({"exposure": "known"}, tmp_path) == {"exposure": "known"}
    assert fit.located({"exposure": "known:2"}, tmp_path) == {"exposure": "known:2"}
    assert sample.located({"acceptance_prior": "acceptance.npy:0.1"}, tmp_path) == {"acceptance_prior": f"{here}:0.1"}
    found = maps.located({"psf": ["HAWC=king.csv", "gauss:1"]}, tmp_path)
    assert found == {"psf": [f"HAWC={tmp_path / 'king.csv'}", "gauss:1"]}

    digest = hashlib.sha256(b"one").hexdigest()
    assert fit.identity({"exposure": here, "lmax": 2}) == {"exposure": f"sha256:{digest}", "lmax": 2}
    assert maps.identity(found)["psf"][0] == f"HAWC=sha256:{hashlib.sha256(b'two').hexdigest()}"


def test_a_source_travels_as_json():
    source = Source(("a.csv", "b.csv"), ("Auger", "HAWC"), {"prefer": "horizon"})
    again = Source.from_json(json.loads(json.dumps(source.as_json())))
    assert again.as_json() == source.as_json()
    assert again.inputs == source.inputs


def test_axes_say_their_unit_and_name():
    assert NUMBER.attributes == {"units": "deg", "long_name": "Largest zenith angle"}
    assert Setting("lmax", int).attributes == {"long_name": "lmax"}
    number = TASKS["predict"].setting("vela.age_yr")
    assert number.attributes == {"units": "yr", "long_name": "vela: time since the (first) emission"}
    assert TASKS["predict"].setting("diffusion_cm2_s").units == "cm^2/s"
    assert TASKS["predict"].setting("supernova_rate_per_yr").units == "1/yr"
    assert TASKS["predict"].setting("velocity_km_s").units == "km/s"
    assert TASKS["predict"].setting("gradient_along_field_per_kpc").units == "1/kpc"


def test_variables_keep_words_and_truths_and_make_nan_of_nothing():
    dims, values, attrs = variable([1.0, None], "Test", "TeV", "test_error", ("energy",))
    np.testing.assert_array_equal(values, [1.0, np.nan])
    assert (dims, attrs) == (("energy",), {"long_name": "Test", "units": "TeV", "ancillary_variables": "test_error"})
    assert variable(True, "Truth")[1].dtype == bool
    assert variable("word", "Word")[1] == "word"


def test_toys_do_without_inputs_and_then_take_no_columns():
    content = {"run": "toys", "fixed": {"site": "auger"}, "vary": {"events": [1e3, 1e4]}}
    assert spec_of(content).source.inputs == ()
    with pytest.raises(InputError, match=r"columns is of inputs, and there are none"):
        spec_of(content | {"columns": "time=t"})
