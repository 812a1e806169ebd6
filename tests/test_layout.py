"""Who may import whom, what an import may do, and that everything public says what it is."""

import ast
import builtins
import functools
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAIN = (
    "units typing errors clock grid harmonics sky observer site detector rate counts".split()
)  # each file of diffcr imports only from those before it
FOLDERS = {"diffcr": ROOT / "diffcr", "diffcr.inference": ROOT / "inference"}


def modules_under(package: str, folder: Path) -> dict[str, Path]:
    """Dotted name -> file, of a folder and the packages in it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
        found[".".join([package, *parts])] = path
    return found


DIFFCR = modules_under("diffcr", FOLDERS["diffcr"])
INFERENCE = modules_under("diffcr.inference", FOLDERS["diffcr.inference"])
MODULES = DIFFCR | INFERENCE
each_module = pytest.mark.parametrize("name", MODULES)


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports_of(tree: ast.Module, name: str, is_package: bool) -> set[tuple[str, bool]]:
    """Dotted name of everything imported, and whether inside a function, later than the import itself.

    `from a import b` counts as a.b where that is a module of ours, else as a.
    """
    found = set()

    def visit(node, late):
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            found.update((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
            base = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add((inner if inner in MODULES else base, late))
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(tree, False)
    return found


def imports(name: str) -> set[tuple[str, bool]]:
    return imports_of(tree_of(name), name, MODULES[name].name == "__init__.py")


def of_inference(name: str) -> bool:
    return name == "diffcr.inference" or name.startswith("diffcr.inference.")


def calls(tree: ast.Module) -> list[tuple[str, str]]:
    """Every call: what is called, as it is written, and the function it stands in ("" outside of any)."""
    found = []

    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), function))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(tree, "")
    return found


def test_imports_are_told_apart():
    """The reader of imports, on one of each kind: it must not pass for want of seeing."""
    source = """
import numpy.linalg, diffcr
from ..clock import local_time
from . import plots
from .data import Counts
def later():
    from diffcr.inference.fit import fit
"""
    now, late = False, True
    assert imports_of(ast.parse(source), "diffcr.inference.report", False) == {
        ("numpy.linalg", now),
        ("diffcr", now),
        ("diffcr.clock", now),
        ("diffcr.inference.plots", now),
        ("diffcr.inference.data", now),
        ("diffcr.inference.fit", late),
    }
    assert imports_of(ast.parse("from .data import Counts"), "diffcr.inference", True) == {
        ("diffcr.inference.data", now)
    }
    assert imports_of(ast.parse("from ..fit import fit"), "diffcr.inference.datasets", True) == {
        ("diffcr.inference.fit", now)
    }
    assert calls(ast.parse("a.b(1)\ndef f():\n    print()")) == [("a.b", ""), ("print", "f")]


def test_every_file_of_the_forward_model_has_its_place_in_the_chain():
    assert {name.removeprefix("diffcr.") for name in DIFFCR} - {"diffcr"} == set(CHAIN)
    assert {"fit", "cli", "datasets"} <= {name.removeprefix("diffcr.inference.") for name in INFERENCE}


@pytest.mark.parametrize("stage", CHAIN)
def test_a_stage_imports_only_from_stages_before_it(stage):
    before = {f"diffcr.{name}" for name in CHAIN[: CHAIN.index(stage)]}
    ours = {module for module, _ in imports(f"diffcr.{stage}") if module.partition(".")[0] == "diffcr"}
    assert ours <= before


@pytest.mark.parametrize("name", DIFFCR)
def test_the_forward_model_does_not_know_inference(name):
    assert not [module for module, _ in imports(name) if of_inference(module)]


@pytest.mark.parametrize("name", INFERENCE)
def test_inference_imports_modules_that_exist(name):
    """Nothing of ours but `diffcr` and `diffcr.inference`: no tests, benchmarks or files of other names."""
    ours = {module for module, _ in imports(name) if module.partition(".")[0] == "diffcr"}
    assert ours <= set(MODULES)


@each_module
def test_everything_else_is_of_python_or_declared(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w-]+", each)[0] for each in project["dependencies"]}
    optional = {re.match(r"[\w-]+", each)[0] for each in project["optional-dependencies"]["parquet"]}
    for module, late in imports(name):
        top = module.partition(".")[0]
        allowed = declared | (optional if late else set()) | {"diffcr"} | sys.stdlib_module_names
        assert top in allowed, module


def test_modules_do_not_import_each_other_in_a_circle():
    """At import time; a function may import what imports its module."""
    graph = {name: {module for module, late in imports(name) if not late and module in MODULES} for name in MODULES}
    # The package itself is where the names of its modules are gathered; `import diffcr` inside one of them is
    # complete or not, as the order has it.
    for name in ("diffcr", "diffcr.inference"):
        graph.pop(name)
    graph = {name: needed & graph.keys() for name, needed in graph.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", INFERENCE)
def test_inference_modules_do_not_import_the_package_that_gathers_them(name):
    assert name == "diffcr.inference" or not [m for m, late in imports(name) if m == "diffcr.inference" and not late]


@each_module
def test_only_the_command_line_prints_and_sets_the_precision(name):
    made = calls(tree_of(name))
    if name == "diffcr.inference.cli":
        assert [function for call, function in made if call.endswith("config.update")] == ["main"]
        assert not [call for call, function in made if call == "print" and not function]
        return
    speaking = re.compile(r"(builtins\.)?print|pprint.*|.*\bstd(out|err)\.write|.*\becho|.*\bconfig\.update|logging\..*")
    assert not [call for call, _ in made if speaking.fullmatch(call)]


@each_module
def test_everything_public_has_a_docstring(name):
    """Modules, classes, functions and methods; not what is inside a function, nor what begins with _."""

    def bare(node, prefix):
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if child.name.startswith("_"):
                continue
            overrides = isinstance(node, ast.ClassDef) and node.bases
            if ast.get_docstring(child) is None and not overrides:
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from bare(child, f"{prefix}{child.name}.")

    tree = tree_of(name)
    assert ast.get_docstring(tree)
    assert not list(bare(tree, ""))


HEAVY = ("numpyro", "arviz", "matplotlib.pyplot", "pyarrow", "dask")
IMPORT = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("an import opened a connection")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
import jax
"""


@pytest.mark.parametrize("precision", [False, True])
def test_importing_changes_and_loads_nothing_more_than_it_must(precision):
    """In a process of its own. pandas takes pyarrow wherever it finds it, so that is kept from being found."""
    program = f"""{IMPORT}
jax.config.update("jax_enable_x64", {precision})
sys.modules["pyarrow"] = None
before = {{name for name, _ in jax.config.values.items()}}, dict(jax.config.values)
import diffcr, diffcr.inference
after = {{name for name, _ in jax.config.values.items()}}, dict(jax.config.values)
print(json.dumps([before[1] == after[1], jax.config.jax_enable_x64, [m for m in {HEAVY!r} if sys.modules.get(m)]]))
"""
    outcome = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert outcome.stderr == ""
    assert json.loads(outcome.stdout) == [True, precision, []]
