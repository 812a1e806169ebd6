"""estimates.json, estimates.tex, the HEPData tables and the pictures: what is written is what was measured."""

import json
import math
import re

import numpy as np
import pytest
from diffcr.inference import estimate_plots, hepdata
from diffcr.inference.blinding import blind
from diffcr.inference.data import combine
from diffcr.inference.estimate_parts import METHODS, Settings
from diffcr.inference.estimate_report import (
    describe_estimates,
    escaped,
    latex_table,
    write_estimate_pictures,
    write_estimates,
)
from diffcr.inference.estimates import estimates
from helpers import dipole_sky, drawn

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

yaml = pytest.importorskip("yaml", reason="the parser that checks what we write")

GRID = RingGrid(18, 36)
PLANE = ("rayleigh", "two-harmonic", "east-west", "scrambling", "projection", "power", "pseudo-power", "two-point")


@pytest.fixture(scope="module")
def counts():
    """Three epochs of HAWC with a dipole of 0.3."""
    local = np.asarray(acceptance(site("hawc"), GRID, profile="triangle"))
    sky = dipole_sky(GRID, (0.25, -0.15))
    parts = [
        drawn(site("hawc"), GRID, local / local.sum(), np.full(36, 300.0), sky, k, 0.0, 2010.0 + k) for k in range(3)
    ]
    return combine([part.replace(epochs=(str(2010 + k),)) for k, part in enumerate(parts)])


@pytest.fixture(scope="module")
def summary(counts):
    bands = (tuple(np.radians((-20.0, 40.0))),)
    return estimates(counts, None, Settings(methods=(*PLANE, "stability", "frames"), bands=bands, l_max=4))


@pytest.fixture(scope="module")
def folder(summary, tmp_path_factory):
    place = tmp_path_factory.mktemp("written")
    write_estimates(place, summary)
    return place


def test_everything_is_written(folder, summary):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {f"{name}{suffix}.png" for name in _PICTURES for suffix in ("", "_1")} | {"stability.png"}
    assert names == {
        *pictures,
        *("estimates.json", "estimates.tex"),
        *(f"hepdata/{stem}.yaml" for stem in ("submission", *hepdata.hepdata_tables(summary))),
    }
    read = json.loads((folder / "estimates.json").read_text(), parse_constant=pytest.fail)
    assert read == json.loads(json.dumps(summary))


_PICTURES = ("estimates", "power_spectrum", "two_point", "projection")


# LaTeX --------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_numbers(summary):
    """Each row has seven cells; components are in units of the power in the head."""
    text = latex_table(summary)
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith("Data")]
    wanted = [(p["label"], e) for p in summary["parts"] for e in p["methods"].values() if "vector" in e]
    assert len(rows) == len(wanted)
    power = int(re.search(r"\[\$10\^\{(-?\d+)\}\$\]", text)[1])
    for row, (label, entry) in zip(rows, wanted, strict=True):
        cells = row.removesuffix(r"\\").split(" & ")
        assert len(cells) == 7
        assert cells[0] == label
        numbers = [float(x) for x in re.findall(r"-?\d+\.\d+", " ".join(cells[2:]))]
        sigma = np.sqrt(np.diag(entry["covariance"]))
        expected = [entry["vector"][0], sigma[0], entry["vector"][1], sigma[1]]
        expected += [entry["amplitude"], entry["amplitude_error"]]
        np.testing.assert_allclose(numbers[:6], np.array(expected) / 10.0**power, atol=0.051)
        angles = [entry["right_ascension_deg"], entry["right_ascension_error_deg"], entry["log10_p"]]
        np.testing.assert_allclose(numbers[6:], angles, atol=0.051)
    assert text.count("{") == text.count("}")
    assert text.startswith("% diffcr")
    assert text.index(r"\begin{tabular}{llrrrrr}") < text.index(r"\end{tabular}")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10%_of $5 & #1 {x}", r"10\%\_of \$5 \& \#1 \{x\}"),
        (r"a\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("1 < E > 2\nnext", r"1 \textless{} E \textgreater{} 2 next"),
    ],
)
def test_text_is_escaped_for_latex(text, printed):
    assert escaped(text) == printed


def test_a_label_cannot_break_the_table(summary):
    part = summary["parts"][0] | {"label": r"\input{x} & 5 % _"}
    text = latex_table(summary | {"parts": [part], "software": "a\nb"})
    rows = [line for line in text.splitlines() if line.startswith(r"\textbackslash{}input")]
    assert len(rows) == 6 - 1
    assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)
    assert not re.search(r"(?<!\\)%", "\n".join(rows))
    assert text.splitlines()[0] == "% a b, J2000"


# HEPData ------------------------------------------------------------------------------------------------------


def _tables(folder):
    documents = list(yaml.safe_load_all((folder / "hepdata" / "submission.yaml").read_text()))
    return documents, {
        d["data_file"]: yaml.safe_load((folder / "hepdata" / d["data_file"]).read_text()) for d in documents[1:]
    }


def test_the_submission_is_as_hepdata_wants_it(folder):
    """hepdata-submission: name of at most 64 characters, description, keywords and data file are required; every
    column has as many rows; a zero error is refused, and only dependent variables have errors."""
    documents, tables = _tables(folder)
    assert set(documents[0]) == {"comment"}
    assert len({d["name"] for d in documents[1:]}) == len(documents) - 1
    for d in documents[1:]:
        assert set(d) == {"name", "description", "keywords", "data_file"}
        assert len(d["name"]) <= 64
        assert {k["name"] for k in d["keywords"]} == {"observables", "phrases"}
        assert all(isinstance(v, str) for k in d["keywords"] for v in k["values"])
    for name, table in tables.items():
        assert set(table) == {"independent_variables", "dependent_variables"}, name
        columns = table["independent_variables"] + table["dependent_variables"]
        assert len({len(c["values"]) for c in columns}) == 1, name
        for column in columns:
            assert set(column) <= {"header", "values", "qualifiers"}
            assert set(column["header"]) <= {"name", "units"}
        for column in table["dependent_variables"]:
            for row in column["values"]:
                assert isinstance(row["value"], float) or row["value"] == "-"
                for error in row.get("errors", ()):
                    assert isinstance(error["symerror"], float)
                    assert error["symerror"] > 0
        for column in table["independent_variables"]:
            assert not [row for row in column["values"] if "errors" in row]


def test_the_tables_hold_the_numbers(folder, summary):
    _, tables = _tables(folder)
    part = summary["parts"][0]
    entries = {k: v for k, v in part["methods"].items() if "vector" in v}
    first, second, correlation, amplitude, phase, log10_p = tables["dipole.yaml"]["dependent_variables"]
    names = [row["value"] for row in tables["dipole.yaml"]["independent_variables"][0]["values"]]
    assert names == ["Rayleigh", "Two harmonics", "East-West, halves", "Scrambling, 24 h", "Projection"]
    for k, entry in enumerate(entries.values()):
        sigma = np.sqrt(np.diag(entry["covariance"]))
        for column, i in ((first, 0), (second, 1)):
            assert column["values"][k]["value"] == entry["vector"][i]
            assert column["values"][k]["errors"][0]["symerror"] == pytest.approx(sigma[i])
        rho = entry["covariance"][0][1] / sigma[0] / sigma[1]
        assert correlation["values"][k]["value"] == pytest.approx(rho)
        assert amplitude["values"][k]["value"] == entry["amplitude"]
        assert phase["header"] == {"name": "RIGHT ASCENSION", "units": "deg"}
        assert phase["values"][k]["errors"][0]["symerror"] == entry["right_ascension_error_deg"]
        assert log10_p["values"][k] == {"value": entry["log10_p"]}
    power = part["methods"]["power"]
    column = tables["power_spectrum.yaml"]["dependent_variables"][0]["values"]
    assert [row["value"] for row in column] == power["power"]
    assert [row["errors"][0]["symerror"] for row in column] == power["error"]
    table = tables["power_spectrum_covariance.yaml"]
    one, two = ([row["value"] for row in v["values"]] for v in table["independent_variables"])
    values = [row["value"] for row in table["dependent_variables"][0]["values"]]
    matrix = np.array(power["power_covariance"])
    assert all(matrix[int(a) - 1, int(b) - 1] == v for a, b, v in zip(one, two, values, strict=True))
    separation = tables["two_point.yaml"]["independent_variables"][0]["values"]
    assert [row["low"] for row in separation] == part["methods"]["two-point"]["edges_deg"][:-1]
    assert [row["high"] for row in separation] == part["methods"]["two-point"]["edges_deg"][1:]
    assert "projection_1.yaml" in tables
    assert "stability.yaml" in tables


@pytest.mark.parametrize(
    "value", [1e-5, 1e16, 1.0, -2.5e-300, 0.0, 123456789.0, 1e22, math.pi, 5e-324, 1.7976931348623157e308]
)
def test_floats_stay_floats(value):
    """PyYAML, which HEPData reads with, takes 1e-05 for a string: a point and a signed exponent are needed."""
    read = yaml.safe_load(f"x: {hepdata.yaml_float(value)}")["x"]
    assert isinstance(read, float)
    assert read == value


@pytest.mark.parametrize(
    "content",
    [
        {
            "a": [
                "yes",
                "no",
                "1e5",
                "2001-01-01",
                "null",
                "~",
                "",
                " x ",
                "- a",
                "é: #",
                'quote " \\ end',
                "two\nlines",
                "0x1",
            ]
        },
        {"a_b": {"name": {"low": 1.0, "high": 2}}, "yes": 1, "a b": True, "x:": None, "n": "!!python/object:os.system"},
        {"list": [[1.0, [2.0]], [], {}, {"one": []}, [{"a": 1, "b": [1, 2]}, {"c": "d"}]], "empty": {}},
        [{"value": 1.0, "errors": [{"symerror": 0.5, "label": "stat"}]}, {"value": "-"}],
        {"emoji": "\U0001f30c", "nul": "\u00a0", "line": "\u2028", "tab": "\t"},
    ],
)
def test_what_is_written_is_read_back(content):
    """Strings that look like something else, nested lists, and no tags: as PyYAML reads them."""
    assert yaml.safe_load(hepdata.yaml(content)) == content


def test_tables_of_the_solar_index_and_of_discs(summary):
    best = {"right_ascension_deg": 10.0, "declination_deg": -5.0, "radius_deg": 3.0, "threshold": 50.0, "num_on": 7}
    best |= {"expected": 2.5, "significance": 2.2, "log10_p": -2.0}
    search = {"exposure": "sommers", "targets": [{"best": best, "penalised_p": None}]}
    solar = {"bins": [{"energy": "1-2", "index": 2.6, "index_error": 0.3}]}
    tables = hepdata.hepdata_tables(summary | {"top_hat": search, "solar_index": solar})
    (gamma,) = tables["solar_index"]["content"]["dependent_variables"]
    assert gamma["values"] == [{"value": 2.6, "errors": [{"symerror": 0.3, "label": "stat"}]}]
    discs = tables["discs"]["content"]
    assert [v["values"][0]["value"] for v in discs["independent_variables"]] == [10.0, -5.0, 3.0, 50.0]
    assert [v["values"][0]["value"] for v in discs["dependent_variables"]] == [7.0, 2.5, 2.2, -2.0, "-"]
    blind_search = {"exposure": "fitted", "blind": {"best": best, "penalised_p": 0.1}}
    discs = hepdata.hepdata_tables(summary | {"top_hat": blind_search})["discs"]
    assert discs["content"]["dependent_variables"][-1]["values"] == [{"value": 0.1}]
    assert "fitted exposure" in discs["description"]


def test_unknown_values_are_dashes_without_errors():
    rows = hepdata.variable("X", [1.0, None, math.nan, 2.0], [0.1, 0.2, 0.3, 0.0])["values"]
    assert rows == [
        {"value": 1.0, "errors": [{"symerror": 0.1, "label": "stat"}]},
        {"value": "-"},
        {"value": "-"},
        {"value": 2.0},
    ]
    assert hepdata.variable("X", [(1, 2)], units="deg") == {
        "header": {"name": "X", "units": "deg"},
        "values": [{"low": 1.0, "high": 2.0}],
    }


def test_tables_of_an_earlier_run_go_and_other_files_stay(tmp_path, summary):
    """HEPData refuses a folder with tables that submission.yaml does not name; what is not ours is not touched."""
    hepdata.write_hepdata(tmp_path / "hepdata", summary)
    other = tmp_path / "hepdata" / "mine.yaml"
    other.write_text("mine: 1\n")
    hepdata.write_hepdata(tmp_path / "hepdata", summary | {"parts": summary["parts"][:1], "stability": None})
    names = {path.name for path in (tmp_path / "hepdata").iterdir()}
    assert "mine.yaml" in names
    assert "dipole.yaml" in names
    assert not [n for n in names if n.endswith("_1.yaml") or n == "stability.yaml"]


def test_what_cannot_be_written_is_one_line(tmp_path, summary):
    (tmp_path / "hepdata").mkdir()
    (tmp_path / "hepdata" / "dipole.yaml").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_estimates(tmp_path, summary, pictures=False)
    assert not (tmp_path / "estimates.json").exists()


# Pictures -----------------------------------------------------------------------------------------------------


def test_the_comparison_shows_every_method(summary):
    """The ellipse of the first method: 68 % of a bivariate normal lie within chi2 = 2.279; axes are labelled, and
    right ascension increases to the left."""
    part = summary["parts"][0]
    entries = estimate_plots.measured(part)
    plane, amplitude, phase = estimate_plots.dipole_comparison(part, "J2000").axes
    assert [t.get_text() for t in amplitude.get_yticklabels()] == [estimate_plots.name_of(n) for n in entries]
    assert phase.get_xlim()[0] > phase.get_xlim()[1]
    assert phase.get_xlabel() == "Right ascension [deg]"
    assert "mathrm{h}" in plane.get_xlabel() and "mathrm{h}" in plane.get_ylabel()
    outline = next(line for line in plane.lines if len(line.get_xdata()) == 181)
    entry = next(iter(entries.values()))
    power = int((re.search(r"10\^\{(-?\d+)\}", plane.get_xlabel()) or [0, 0])[1])
    off = outline.get_xydata() * 10.0**power - entry["vector"]
    chi2 = np.einsum("ka,ab,kb->k", off, np.linalg.inv(entry["covariance"]), off)
    np.testing.assert_allclose(chi2, 2.279, rtol=1e-3)


def test_phases_are_shown_about_the_first():
    """355 and 5 degrees are neighbours."""
    assert estimate_plots._near(5.0, 355.0) == 365.0
    assert estimate_plots._near(355.0, 5.0) == -5.0


def test_pictures_say_what_they_show(summary):
    part = summary["parts"][0]
    (axes,) = estimate_plots.power_spectrum(part).axes
    assert "ell" in axes.get_xlabel()
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert {"Isotropic, 95 %", "Isotropic, 68 %", "Quadratic, noise error", "Pseudo, noise error"} <= set(labels)
    (axes,) = estimate_plots.correlation(part).axes
    assert axes.get_xlabel() == "Separation [deg]"
    top, bottom = estimate_plots.stability(summary["stability"], "J2000").axes
    assert bottom.get_xlabel() == "Time [year]"
    assert "chi" in top.get_title()
    periods = [{**p, "time": None} for p in summary["stability"]["periods"]]
    bottom = estimate_plots.stability(summary["stability"] | {"periods": periods, "drift": None}, "J2000").axes[1]
    assert bottom.get_xlabel() == "Period"


def test_while_blinded_no_picture_tells_a_phase(counts, tmp_path):
    hidden = estimates(blind(counts, "key"), None, Settings(methods=PLANE, l_max=4))
    names = {path.stem for path in write_estimate_pictures(tmp_path, hidden)}
    assert names == {"power_spectrum", "two_point"}
    assert "hidden" in "\n".join(describe_estimates(hidden))
    assert "& -- & -- &" in latex_table(hidden)
    tables = hepdata.hepdata_tables(hidden)
    assert "dipole" not in tables and "projection" not in tables


# Words --------------------------------------------------------------------------------------------------------


def test_the_terminal_lists_all_methods_and_reasons(summary):
    text = "\n".join(describe_estimates(summary))
    for name in ("Rayleigh", "Two harmonics", "East-West, halves", "Scrambling, 24 h", "Projection", "C_l, quadratic"):
        assert text.count(name) == 2
    assert "stability          chi2" in text
    assert "scrambling-4h (all): a window of 4 h needs" in text
    assert "frames (all): needs the events" in text
    assert set(METHODS) >= {"frames"}
