"""Scan files: what is read from them, and what is refused in one line that names file and key."""

import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from diffcr.inference import scan_tasks
from diffcr.inference.scan_spec import read_spec, spec_of
from diffcr.inference.scan_task import Setting, catalogue
from small_scan import Waves

from diffcr.errors import InputError


class Events(Waves):
    """The same of event lists."""

    name = "events"
    needs = "events"


class Named(Waves):
    """A task with settings that a file tells."""

    name = "named"
    settings = catalogue(Setting("model", str, path=True), Setting("x", float, 1.0))

    def setting(self, name, settings=None):
        if "." in name:
            assert Path(settings["model"]).read_text() == "vela"
            if name.startswith("vela."):
                return Setting(name, float, 2.0, "yr", low=0)
        return super().setting(name, settings)

    def require(self, settings):
        pass


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(scan_tasks, "TASKS", {task.name: task for task in (Waves(), Events(), Named())})


WHOLE = """
run = "events"
inputs = ["a.csv", "dataset:auger-8eev"]
site = "hawc"
columns = "time=UTC"
skip_bad_rows = true

[fixed]
strict = true
word = "odd"

[vary]
x = { from = 1, to = 3, number = 3 }
l_max = [1, 2]

[best]
quantity = "order"
sense = "smallest"
"""


def test_a_whole_file_is_read(write):
    (events := write("x", "a.csv"))
    spec = read_spec(write(WHOLE, "scan.toml"))
    assert spec.task.name == "events" and spec.best == ("order", "smallest")
    assert spec.source.inputs == (str(events), "dataset:auger-8eev") and spec.source.site == "hawc"
    assert spec.source.reader == {"columns": "time=UTC", "skip_bad_rows": True}
    assert spec.fixed == {"strict": True, "word": "odd"}
    assert spec.design.shape == (3, 2) and spec.design.rows()[3] == {"x": 2.0, "l_max": 2}
    assert spec.content["vary"]["x"] == {"from": 1, "to": 3, "number": 3}


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = write("1", "data.txt")
    spec = read_spec(write('run = "waves"\nfixed.file = "data.txt"\nvary.x = [1]\n', "scan.toml"))
    assert spec.fixed == {"file": str(data)}
    spec = read_spec(write('run = "waves"\nvary.file = ["data.txt", "none.txt"]\n', "scan.toml"))
    assert spec.design.axes[0].values == (str(data), "none.txt")


def test_settings_that_another_one_tells_are_known_by_dotted_names(write):
    write("vela", "m.toml")
    for text in ('"vela.age_yr" = [1, 2]', "vela.age_yr = [1, 2]", "[vary.vela]\nage_yr = [1, 2]"):
        spec = read_spec(write(f'run = "named"\nfixed.model = "m.toml"\n[vary]\n{text}\n', "scan.toml"))
        assert [(axis.name, axis.values) for axis in spec.design.axes] == [("vela.age_yr", (1.0, 2.0))]
        assert spec.design.axes[0].setting.units == "yr"
    with pytest.raises(InputError, match=r"scan.toml: \[vary\]: named has no setting 'gem.age'"):
        read_spec(write('run = "named"\nfixed.model = "m.toml"\nvary.gem.age = [1]\n', "scan.toml"))
    # The model itself may vary.
    spec = read_spec(write('run = "named"\nvary.model = ["m.toml"]\nvary."vela.age_yr" = [3]', "scan.toml"))
    assert spec.design.rows()[0]["vela.age_yr"] == 3.0


def test_dates_arrays_and_paths_are_what_json_has_for_them(tmp_path):
    content = {"run": "waves", "vary": {"x": np.linspace(0, 1, 3), "l_max": range(1, 3)}}
    spec = spec_of(content | {"fixed": {"file": tmp_path, "numbers": (1, np.float64(2))}})
    assert spec.design.axes[0].values == (0.0, 0.5, 1.0) and spec.design.axes[1].values == (1, 2)
    assert spec.fixed == {"file": str(tmp_path), "numbers": [1.0, 2.0]}
    spec = spec_of({"run": "waves", "fixed": {"file": datetime.date(2004, 1, 1)}, "vary": {"x": [1]}})
    assert spec.fixed == {"file": "2004-01-01"}


BAD = {
    "no toml": ("run =", "scan.toml: is not TOML"),
    "key": ('rum = "waves"', "scan.toml: has no key 'rum'; did you mean 'run'"),
    "table": ('run = "waves"\nvary = 3', r"scan.toml: vary must be a table, \[vary\]"),
    "no run": ("vary.x = [1]", "scan.toml: needs run"),
    "run": ('run = "wave"\nvary.x = [1]', "scan.toml: there is no task 'wave'; did you mean 'waves'"),
    "kind of run": ("run = 3\nvary.x = [1]", "scan.toml: needs run, what is done at each point"),
    "no axis": ('run = "waves"', "scan.toml: has nothing to vary"),
    "setting": ('run = "waves"\nvary.xx = [1]', r"scan.toml: \[vary\]: waves has no setting 'xx'"),
    "held": ('run = "waves"\nvary.x = [1]\nfixed.lmax = 2', r"\[fixed\]: waves has no setting 'lmax'.*'l_max'"),
    "held kind": ('run = "waves"\nvary.x = [1]\nfixed.l_max = "2"', r"\[fixed\]: l_max must be a whole number"),
    "held range": ('run = "waves"\nvary.x = [1]\nfixed.l_max = 10', r"\[fixed\]: l_max must be at least 1 and"),
    "both": ('run = "waves"\nvary.x = [1]\nfixed.x = 2', "x is both in"),
    "axis": ('run = "waves"\nvary.x = []', r"scan.toml: \[vary\] x is empty"),
    "nan": ('run = "waves"\nvary.x = [nan]', "scan.toml: nan is no number"),
    "endless": ('run = "waves"\nvary.x = [1]\nfixed.y = inf', r"\[fixed\]: y must be a number, not 'inf'"),
    "endless axis": ('run = "waves"\nvary.x = [inf]', r"scan.toml: \[vary\] x must be a number, not 'inf'"),
    "minus": ('run = "waves"\nvary.x = [-inf]', "scan.toml: -inf is no number"),
    "huge": (f'run = "waves"\nvary.x = [{"9" * 400}]', "scan.toml: 999.* is no number"),
    "twice": ('run = "waves"\nvary.x = [1, 1.0]', r"\[vary\] x repeats the value 1.0"),
    "law": ('run = "waves"\nvary.x = {distribution = "normal", mean = 0, spread = 1}', "a distribution needs drawn"),
    "data": ('run = "waves"\ninputs = ["a"]\nvary.x = [1]', "scan.toml: waves reads no data; leave out inputs"),
    "site of none": ('run = "waves"\nsite = "hawc"\nvary.x = [1]', "reads no data; leave out site"),
    "no data": ('run = "events"\nvary.x = [1]', "scan.toml: events needs data: give inputs"),
    "inputs": ('run = "events"\ninputs = [3]\nvary.x = [1]', "scan.toml: inputs must be a list of files"),
    "input": ('run = "events"\ninputs = ["b.csv"]\nvary.x = [1]', r"inputs: there is no file .*b.csv"),
    "dataset": ('run = "events"\ninputs = ["dataset:a"]\nvary.x = [1]', "scan.toml: dataset:a: there is no data set"),
    "maps": ('run = "events"\ninputs = ["m.json"]\nvary.x = [1]', "names local maps in other files: bin them first"),
    "site": ('run = "events"\ninputs = ["m.csv"]\nsite = 3\nvary.x = [1]', "site must be a name"),
    "sites": ('run = "events"\ninputs = ["m.csv"]\nsite = []\nvary.x = [1]', "site must be a name"),
    "reader": ('run = "events"\ninputs = ["m.csv"]\nskip_bad_rows = 1\nvary.x = [1]', "skip_bad_rows must be true or"),
    "reader text": ('run = "events"\ninputs = ["m.csv"]\ncolumns = 1\nvary.x = [1]', "columns must be a text"),
    "best": ('run = "waves"\nvary.x = [1]\nbest.sense = "largest"', r"\[best\] needs quantity"),
    "sense": ('run = "waves"\nvary.x = [1]\nbest.quantity = "a"\nbest.sense = "max"', "sense must be largest or small"),
    "best key": ('run = "waves"\nvary.x = [1]\nbest.name = "a"', r"the table \[best\] has no 'name'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_one_line_with_file_and_key(write, case):
    text, message = BAD[case]
    for name in ("m.csv", "m.json"):
        write("x", name)
    with pytest.raises(InputError) as told:
        read_spec(write(text, "scan.toml"))
    assert re.search(message, str(told.value)), told.value
    assert "scan.toml" in str(told.value) and "\n" not in str(told.value).split(" is not TOML")[0]


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no.toml: cannot be read \(No such file"):
        read_spec(tmp_path / "no.toml")


def test_python_content_of_a_strange_kind_is_refused():
    with pytest.raises(InputError, match="is no text, number or list of them"):
        spec_of({"run": "waves", "vary": {"x": [object()]}})
