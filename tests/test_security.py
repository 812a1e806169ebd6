"""Files from others are data: nothing in them runs, and no name in them leads out of the output folder."""

import ast
import json
import os
import pickle
import re

import numpy as np
import pytest
from diffcr.inference.exchange import read_array
from diffcr.inference.model_files import read_model
from diffcr.inference.simulate import read_multipoles
from diffcr.inference.spectrum_files import read_matrix
from test_layout import MODULES, calls, each_module, imports, tree_of

from diffcr.errors import InputError

RUNNING = re.compile(
    r"(builtins\.)?(eval|exec|compile|__import__)|.*\bpickle\.\w+|.*\bread_pickle|(pd|pandas)\.read_hdf|yaml\.\w+|"
    r".*\b(runpy|shelve|marshal|joblib|dill|cloudpickle)\.\w+|.*\bextractall|.*\bextract|os\.(system|popen|exec\w+)|"
    r"subprocess\.\w+"
)
"""Calls that can run what a file holds, or write where its names say."""


@each_module
def test_nothing_that_runs_content_is_called(name):
    assert [call for call, _ in calls(tree_of(name)) if RUNNING.fullmatch(call)] == []
    modules = {module.partition(".")[0] for module, _ in imports(name)}
    assert not modules & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "runpy", "code"}


@each_module
def test_numpy_files_are_read_without_pickles(name):
    """np.load and read_array say allow_pickle=False each time: so no default can change that."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Call) and re.fullmatch(
            r"(np|numpy)\.load|.*format\.read_array", ast.unparse(node.func)
        ):
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert said.get("allow_pickle") == "False", f"{name}, line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", name


def test_the_search_finds_what_it_looks_for():
    source = "eval('1')\npickle.loads(x)\npd.read_hdf(x)\narchive.extractall()\nimportlib.import_module(name)"
    found = [call for call, _ in calls(ast.parse(source)) if RUNNING.fullmatch(call)]
    assert found == ["eval", "pickle.loads", "pd.read_hdf", "archive.extractall"]
    assert len(MODULES) > 100


class Evil:
    """What runs a command when a pickle of it is loaded."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def mark(tmp_path):
    """A folder that exists once a pickle was loaded."""
    return tmp_path / "loaded"


def test_the_attack_works_on_a_reader_that_trusts(mark):
    """Otherwise the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


def evil_npy(path, mark):
    """An array of objects, in which the command is."""
    array = np.empty(1, object)
    array[0] = Evil(mark)
    np.save(path, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "reader",
    [read_multipoles, read_matrix, lambda path: read_array(path, 0.3, -1.7, 1.0, "HAWC")],
    ids=["multipoles", "covariance", "local maps"],
)
def test_arrays_with_pickles_are_refused(reader, tmp_path, mark):
    with pytest.raises(InputError, match=r"evil\.npy"):
        reader(evil_npy(tmp_path / "evil.npy", mark))
    assert not mark.exists()


def test_an_exposure_with_a_pickle_is_refused(tmp_path, mark, run):
    path = evil_npy(tmp_path / "evil.npy", mark)
    code, _, err = run("fit", "dataset:auger-8eev", "--exposure", path, "-o", tmp_path / "out")
    assert code == 2 and "evil.npy" in err
    assert not mark.exists()


MODEL = """
[model]
kappa_parallel = "__import__('os').mkdir('{mark}')"
[source.vela]
distance_pc = "os.mkdir('{mark}')"
"""


def test_expressions_in_a_model_file_are_not_run(write, mark):
    with pytest.raises(InputError):
        read_model(write(MODEL.format(mark=mark), "model.toml"))
    assert not mark.exists()


def test_an_observatory_cannot_name_a_file_outside_the_folder(tmp_path, run):
    """Local maps of an observatory called ../../escaped are written and mapped inside the folders that were named."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    code, _, err = run(
        *("simulate", "--site", "hawc", "--events", "1e5", "--grid", "24x12", "--exchange", inside, "--nside", "8"),
        *("-o", inside / "counts.nc"),
    )
    assert code == 0, err
    (configuration,) = inside.glob("*.json")
    content = json.loads(configuration.read_text())
    content["detectors"] = {"../../escaped": next(iter(content["detectors"].values()))}
    configuration.write_text(json.dumps(content))
    before = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    code, _, err = run("map", "--config", configuration, "--no-plots", "-o", inside / "map")
    after = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    assert (code == 0 and after == before) or (code == 2 and after == before), err


# Results of earlier runs, which may come from somebody else ------------------------------------------------------


def plan_of_toys():
    from diffcr.inference.toy_detectors import plan_of_sites

    from diffcr.site import site

    return plan_of_sites([site("auger")], [1e4], toys=20)


def read_segment(folder):
    from diffcr.inference import sampler

    return sampler._load(folder, "{}", None, True)


def read_realisation(folder):
    from diffcr.inference import backtrack

    from diffcr.backtracking import Setup

    return backtrack._load(folder, Setup(), 0, 4, False)


def read_point(folder):
    from diffcr.inference import scan_store

    return scan_store.load(folder, "a" * 32)


def read_block(folder):
    from diffcr.inference.toy_files import load_block

    return load_block(folder, plan_of_toys(), 0)


def read_batch(folder):
    from diffcr.inference.file_batches import load_part

    return load_part(folder, "a" * 64)


PLACES = {
    read_segment: "segment_00000.npz",
    read_realisation: "00000.npz",
    read_point: f"{'a' * 32}.npz",
    read_block: "blocks/isotropic_00000.npz",
    read_batch: f"{'a' * 64}.npz",
}


@pytest.mark.parametrize("reader", PLACES, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("member", ["about", "label", "../../escaped"])
def test_a_pickle_in_the_results_of_a_run_is_not_loaded(reader, member, tmp_path, mark):
    """Each reader says that the file cannot be read, or takes it for missing; nothing comes out of the archive."""
    folder = tmp_path / "a" / "b"
    path = folder / PLACES[reader]
    path.parent.mkdir(parents=True)
    array = np.empty(1, object)
    array[0] = Evil(mark)
    np.savez(path, **{member: array, "label.json": array, "seconds": array, "z": array})
    before = set(tmp_path.rglob("*"))
    try:
        found = reader(folder)
    except InputError as error:
        found = str(error)
    assert found is None or path.name in found
    assert not mark.exists() and set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line", ['output = "../escaped"', 'folder = "/"', '[vary]\n"../../escaped" = [1, 2]', '[best]\nquantity = "../x"']
)
def test_a_scan_file_cannot_say_where_results_go(line, write, tmp_path, run):
    text = 'run = "fit"\ninputs = ["dataset:auger-8eev"]\n' + line
    if "[vary]" not in text:
        text += "\n[vary]\nlmax = [1, 2]\n[fixed]\ngrid = '36x18'\nzenith_max = 1\n"
    code, _, err = run("scan", write(text, "scan.toml"), "--no-plots", "-o", tmp_path / "out")
    assert code in (2, 3), err
    assert {path.name for path in tmp_path.iterdir()} <= {"scan.toml", "out"}


def test_a_scan_file_with_an_expression_is_refused(write, tmp_path, run, mark):
    text = f"""
run = "predict"
[vary]
perpendicular = ["__import__('os').mkdir('{mark}')", 0.1]
"""
    code, _, err = run("scan", write(text, "scan.toml"), "-o", tmp_path / "out")
    assert code == 2 and "perpendicular" in err
    assert not mark.exists()
