"""Model files: what the shipped one says, what is read from a file, and one clear line for whatever cannot be used."""

import math
import tomllib
from importlib import resources

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from diffcr.inference.model_files import model_of, read_model, shipped_models, with_observer, with_priors
from diffcr.inference.source_priors import Prior

from diffcr.errors import InputError
from diffcr.source import REMNANTS

VELA = {"distance_pc": 287.0, "longitude_deg": 263.9, "latitude_deg": -3.3, "age_yr": 11000}
GOOD = """
[model]
background = "none"   # quick
[source.vela]
distance_pc = 287
longitude_deg = 263.9
latitude_deg = -3.3
age_yr = 11000
"""


def refused(content, message, where="here"):
    with pytest.raises(InputError, match=message) as error:
        model_of(content, where)
    assert "\n" not in str(error.value)
    return str(error.value)


# Shipped models


def test_shipped_vela_says_what_the_published_model_is():
    assert "vela" in shipped_models()
    m = read_model("vela")
    assert m.name == "vela" and m.sources == ("vela",) and m.observer == "lsr"
    assert m.values["vela.distance_pc"] == pytest.approx(1000 * 0.3066013937879528, rel=1e-9)
    assert m.values["vela.age_yr"] == 11000
    assert m.values["diffusion_cm2_s"] == 3e28 and m.values["diffusion_index"] == pytest.approx(1 / 3)
    assert m.values["halo_height_pc"] == 3000 and m.values["supernova_rate_per_yr"] == pytest.approx(1 / 30)
    field = SkyCoord(210.5, -57.1, unit="deg", frame="galactic").icrs.cartesian.xyz.value
    np.testing.assert_allclose(m.values["field"], field, atol=1e-9)
    # 18.04 km/s to l = 47.80, b = 23.69 (Schoenrich et al. 2010).
    place = SkyCoord(*m.values["velocity_km_s"], representation_type="cartesian").galactic
    assert np.linalg.norm(m.values["velocity_km_s"]) == pytest.approx(18.044, abs=1e-3)
    assert (place.l.deg, place.b.deg) == pytest.approx((47.80, 23.69), abs=0.01)
    assert {"vela.age_yr", "vela.distance_pc", "vela.power", "diffusion_cm2_s", "halo_height_pc"} < set(m.priors)
    assert {"gradient_factor", "parallel_factor"} < set(m.priors)
    assert m.priors["parallel_factor"] == Prior("uniform", (1.0, 3.0))


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_is_read_and_describes_itself(name):
    m = read_model(name)
    assert m.name == name and m.description and (m.priors or m.ensemble)


def test_shipped_models_are_packed():
    folder = resources.files("diffcr.inference.datasets") / "models"
    assert all(tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8")) for name in shipped_models())


# Files


def test_file_is_read_as_the_same_content(write):
    path = write(GOOD, "own.toml")
    m = read_model(path)
    assert m.name == "own"
    assert m.values == model_of(tomllib.loads(GOOD), "own").values
    assert read_model(str(path)).values == m.values
    assert read_model(write("\ufeff" + GOOD.replace("\n", "\r\n"), "dos.toml")).values == m.values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "is not TOML"),
        ("distance: 3", "is not TOML"),
        ("[model]\n[model]\n", "is not TOML"),
        ("x = " + "[" * 100000, "is not TOML"),
        (b"\xff\xfe\x00", "cannot be read as a TOML text"),
        ("import os\nos.system('touch pwned')", "is not TOML"),
        ("[parameters]\ndiffusion_cm2_s = \"__import__('os').system('touch pwned')\"", "must be a number, not"),
        ('[model]\nbackground = "lambda r: r"', "background cannot be 'lambda r: r'; it has case-bhattacharya"),
        ("[parameters]\nhalo_height_pc = 1979-05-27", "must be a number, not datetime.date"),
        ("[parameters]\nhalo_height_pc = " + "9" * 500, "must be finite, not a number beyond"),
        ("[parameters]\nhalo_height_pc = " + "9" * 5000, "is not TOML that can be read"),
        ("[[source]]\nage_yr = 3", "source must be a table"),
        ("[[source.vela]]\nage_yr = 3", "must hold tables"),
        ("[source]\nage_yr = 3", r"must hold tables, \[source.age_yr\]"),
        ("ensemble = 3", r"ensemble must be a table, \[ensemble\]"),
        ("priors = []", "priors must be a table"),
    ],
    ids=lambda x: repr(x)[:30],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(write, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        read_model(write(text, "bad.toml"))
    assert "bad.toml" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["nowhere.toml", "", ".", "a\0b", "x" * 5000, "velo"])
def test_name_of_nothing_lists_the_shipped_models(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model file, and no shipped model of that name; shipped are .*vela"):
        read_model(name)


def test_file_may_not_hide_behind_the_name_of_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vela").write_text(GOOD)
    assert read_model("vela").description
    assert not read_model("./vela").description


# Unknown names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"parameter": {}}, "here: has no table 'parameter'; did you mean 'parameters'"),
        ({"sources": {}}, "did you mean 'source'"),
        ({"model": {"back_ground": "none"}}, r"the table \[model\] has no 'back_ground'; did you mean 'background'"),
        ({"model": {"halo_height_pc": 3}}, r"the table \[model\] has no 'halo_height_pc'"),
        ({"parameters": {"halo_hight_pc": 3}}, "did you mean 'halo_height_pc'"),
        ({"parameters": {"gyration": 3}}, "did you mean 'gyration_ratio'"),
        ({"parameters": {"field_l_dg": 3}}, "did you mean 'field_l_deg'"),
        ({"source": {"v": {**VELA, "age": 3}}}, r"the table \[source.v\] has no 'age'; did you mean 'age_yr'"),
        ({"weights": {"fe": 2}}, "names an element that the composition lacks, 'fe'; it has p"),
        ({"ensemble": {"max_age": 3}}, r"the table \[ensemble\] has no 'max_age'; did you mean 'max_age_yr'"),
        ({"priors": {"halo_height": {}}}, "did you mean 'halo_height_pc'"),
        ({"source": {"v": VELA}, "priors": {"v.age": {}}}, "did you mean 'v.age_yr'"),
        ({"source": {"v": VELA}, "priors": {"v": {"age": {}}}}, "did you mean 'v.age_yr'"),
        ({"priors": {"pivot_GV": {}}}, "lacks or cannot vary, 'pivot_GV'"),
        ({"priors": {"field_l_deg": {}}}, "lacks or cannot vary, 'field_l_deg'"),
        ({"model": {"remnants": ["Velar"]}}, "the table of known remnants has no 'velar'; did you mean 'vela'"),
        ({"model": {"remnants": [3]}}, "the table of known remnants has no '3'"),
        ({"model": {"composition": "protons"}}, "composition cannot be 'protons'; did you mean 'proton'"),
        ({"model": {"global_tensor": "locale"}}, "global_tensor cannot be 'locale'; did you mean 'local'"),
        ({"model": {"background": "unifrom"}}, "background cannot be 'unifrom'; did you mean 'uniform'"),
        ({"model": {"observer": "lsrr"}}, "observer: unknown velocity 'lsrr': did you mean lsr"),
        ({"model": {"observer": "lsr+earth"}}, "observer: .*date"),
        ({"priors": {"field": {"distribution": "isotropic", "spread": 1}}}, "an isotropic prior .of field. has no"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_unknown_name_is_answered_with_the_nearest(content, message):
    head = {"background": "none", **content.get("model", {})}
    assert refused({**content, "model": head}, message).startswith("here: ")


# Wrong values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": 3}, r"model must be a table, \[model\]"),
        ({"model": {"name": 3}}, "name must be a text, not 3"),
        ({"model": {"edge_pc": "far"}}, "edge_pc must be a number, not 'far'"),
        ({"model": {"edge_pc": True}}, "edge_pc must be a number, not True"),
        ({"model": {"edge_pc": -5}}, "edge of a disc must be finite and above zero"),
        ({"model": {"edge_pc": math.nan}}, "edge of a disc must be finite"),
        ({"model": {"edge_pc": 10**400}}, "edge of a disc must be finite"),
        ({"model": {"remnants": "Vela"}}, "remnants must be a list"),
        ({"model": {"allow_perpendicular": 1}}, "allow_perpendicular must be true or false"),
        ({"ensemble": {"number": 2.5}}, "number must be a whole number, not 2.5"),
        ({"ensemble": {"number": True}}, "number must be a whole number"),
        ({"ensemble": {"number": 0}}, "count supernovae"),
        ({"ensemble": {"max_age_yr": 0}}, "max_age_yr of the ensemble must be above 0"),
        ({"ensemble": {"max_age_yr": math.inf}}, "max_age_yr of the ensemble must be above 0"),
        ({"ensemble": {"height_pc": -1}}, "height_pc of the ensemble must be above 0"),
        ({"ensemble": {"young_age_yr": 100}}, "go together; give both or neither"),
        ({"ensemble": {"young_age_yr": 1e9, "young_number": 5}}, "must lie between 0 and max_age_yr"),
        ({"ensemble": {}, "model": {"background": "none"}}, "needs a background"),
        ({"parameters": {"halo_height_pc": math.inf}}, "no finite density: give the halo a height"),
        ({"model": {"global_tensor": "local"}}, "diffuses isotropically"),
        ({"source": {"a.b": VELA}}, "'a.b' cannot be the name of a source"),
        ({"source": {"": VELA}}, "cannot be the name of a source"),
        ({"source": {"weight": VELA}}, "'weight' cannot be the name of a source"),
        ({"parameters": {"velocity_km_s": [0, 0, 1]}}, 'observer is none; write observer = "given"'),
        (
            {"parameters": {"velocity_km_s": [0, 0, 1]}, "model": {"observer": "lsr"}},
            'observer is lsr; write observer = "given"',
        ),
        ({"parameters": {"gyration_ratio": 3, "perpendicular": 0.1}}, "give one or the other"),
        ({"parameters": {"perpendicular": 1.5}}, "allow_perpendicular = true"),
        ({"parameters": {"diffusion_cm2_s": -3e28}}, "here: diffusion_cm2_s must be above 0, not -3e.28"),
        ({"parameters": {"diffusion_cm2_s": math.nan}}, "here: diffusion_cm2_s must be finite, not nan"),
        ({"parameters": {"field": [0, 0, 0]}}, "field must be a finite vector that is not zero"),
        ({"weights": {"p": 0}}, "the weight of p must be above 0"),
        ({"source": {"v": {**VELA, "age_yr": -3}}}, "here: v.age_yr must be above 0, not -3"),
        ({"source": {"v": {**VELA, "distance_pc": 5e4}}}, None),
        ({"source": {"v": {**VELA, "latitude_deg": 80, "distance_pc": 5e4}}}, "outside the halo"),
        (
            {
                "priors": {
                    "gyration_ratio": {"distribution": "normal", "spread": 1},
                    "perpendicular": {"distribution": "half-normal", "spread": 1},
                }
            },
            "give priors of one or the other",
        ),
    ],
    ids=lambda x: str(x)[:40],
)
def test_value_that_cannot_be_used_is_refused(content, message):
    if message is None:
        assert model_of(content, "here")
    else:
        refused(content, message)


def test_local_tensor_along_lines_is_refused():
    refused({"model": {"background": "none", "global_tensor": "local"}}, "perpendicular must be above 0 with global")


@pytest.mark.parametrize("missing", list(VELA))
def test_source_needs_its_place_and_age(missing):
    table = {name: value for name, value in VELA.items() if name != missing}
    refused({"source": {"v": table}}, rf"the table \[source.v\] needs {missing} \(.*\[")


# What is taken


def test_empty_file_is_a_background_at_rest():
    m = model_of({}, "some/where/plain.toml")
    assert m.name == "plain" and m.sources == () and not m.forward.compton_getting
    assert m.forward.disc is not None and m.forward.halo


def test_uniform_disc_ends_at_15_kpc_unless_said():
    assert model_of({"model": {"background": "uniform"}}).forward.disc.edge == 15e3
    assert model_of({}).forward.disc.edge == 30e3
    assert model_of({"model": {"background": "uniform", "edge_pc": 12000}}).forward.disc.edge == 12e3


@pytest.mark.parametrize("name", ["Vela", "vela", " VELA "])
def test_remnant_is_taken_from_the_table_by_name(name):
    m = model_of({"model": {"background": "none", "remnants": [name]}})
    vela = REMNANTS["Vela"]
    assert m.sources == ("vela",)
    assert m.values["vela.distance_pc"] == vela.distance[1] and m.values["vela.age_yr"] == vela.age[1]
    assert (m.values["vela.longitude_deg"], m.values["vela.latitude_deg"]) == (vela.longitude, vela.latitude)


def test_all_remnants_and_what_a_table_says_of_one():
    m = model_of(
        {
            "model": {"background": "none", "remnants": ["all"]},
            "source": {"loop-i": {"age_yr": 3e5}, "mine": VELA},
            "priors": {"cygnus-loop.power": {"distribution": "log-normal", "spread": 1}},
        }
    )
    assert m.sources == ("vela", "monogem", "geminga", "cygnus-loop", "loop-i", "vela-jr", "s147", "mine")
    assert m.values["loop-i.age_yr"] == 3e5 and m.values["loop-i.distance_pc"] == REMNANTS["Loop I"].distance[1]
    assert len(m.parameters().sources.age) == 8


def test_priors_may_be_nested_or_named_in_one():
    law = {"distribution": "log-uniform", "low": 9000, "high": 31000}
    head = {"model": {"background": "none"}, "source": {"vela": VELA}}
    nested = model_of({**head, "priors": {"vela": {"age_yr": law}, "weight": {"p": {**law, "low": 1}}}})
    named = model_of({**head, "priors": {"vela.age_yr": law, "weight.p": {**law, "low": 1}}})
    assert nested.priors == named.priors
    assert nested.priors["vela.age_yr"] == Prior("log-uniform", (9000.0, 31000.0))
    more = with_priors(named, {"field": {"distribution": "isotropic"}}, "there")
    assert more.priors == {**named.priors, "field": "isotropic"}
    with pytest.raises(InputError, match="^there: "):
        with_priors(named, {"fields": {}}, "there")


def test_observer_is_replaced_or_left_out():
    m = read_model("vela")
    still = with_observer(m, "none")
    assert not still.forward.compton_getting and still.observer == "none"
    moved = with_observer(still, "ISM")
    assert moved.forward.compton_getting and moved.observer == "ism"
    assert np.linalg.norm(moved.values["velocity_km_s"]) == pytest.approx(25.4)
    assert np.linalg.norm(m.values["velocity_km_s"]) == pytest.approx(18.044, abs=1e-3)
    with pytest.raises(InputError, match="the model vela: observer: unknown velocity"):
        with_observer(m, "earthh")
    assert not model_of({"model": {"observer": "None"}}).forward.compton_getting


def test_ensemble_replaces_a_disc_where_that_could_not_be():
    content = {"model": {"global_tensor": "local"}, "parameters": {"perpendicular": 0.1}, "ensemble": {"number": 5}}
    m = model_of(content)
    assert m.forward.disc is None and m.ensemble.number == 5
    free = model_of({"parameters": {"halo_height_pc": math.inf}, "ensemble": {"number": 5, "spiral": True}})
    assert free.forward.disc is None and not free.forward.halo
    assert "spiral" in free.settings["ensemble_options"]
