"""Who may import whom, what an import may do, and that everything public says what it is."""

import ast
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
CHAIN = "units typing errors clock grid harmonics sky source disc ensemble transport slab propagation".split()
CHAIN += "observer site detector rate counts composition window grammage".split()
CHAIN += "cascade_rates cascade_exponential cascade angular_power pitch_angle_quadrature pitch_angle".split()
CHAIN += "pitch_angle_relaxation random_walk kinetic kinetic_burst".split()
CHAIN += (
    "spectrum turbulence field_statistics turbulence_grid directions pusher trajectory trajectory_reference".split()
)
CHAIN += (
    "resampling transport_coefficients pitch_angle_scattering gyroresonance transport_emulator common_random".split()
)
CHAIN += "backtracking_setup backtracking small_scale small_scale_theory".split()
CHAIN += "liouville heliosphere galactic_field exits boundary model".split()
"""The files of diffcr, in the order in which a particle meets them: each imports only from those before it."""


def modules_under(package: str, folder: Path) -> dict[str, Path]:
    """Dotted name -> file, of a folder and the packages in it."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
        found[".".join([package, *parts])] = path
    return found


DIFFCR = modules_under("diffcr", ROOT / "diffcr")
INFERENCE = modules_under("diffcr.inference", ROOT / "inference")
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
    extras = project["optional-dependencies"]
    optional = {
        re.match(r"[\w-]+", each)[0].replace("-", "_")
        for extra in ("parquet", "evidence", "scan", "trajectories")
        for each in extras[extra]
    }
    for module, late in imports(name):
        top = module.partition(".")[0]
        allowed = declared | (optional if late else set()) | {"diffcr"} | sys.stdlib_module_names
        assert top in allowed, module


def test_modules_do_not_import_each_other_in_a_circle():
    """At import time; a function may import what imports its module."""
    graph = {name: {module for module, late in imports(name) if not late} & MODULES.keys() for name in MODULES}
    # `import diffcr` is met by the package that is already there when one of its parts is imported.
    for name in INFERENCE:
        graph[name].discard("diffcr")
    tuple(graphlib.TopologicalSorter(graph).static_order())


@each_module
def test_only_the_command_line_prints_and_sets_the_precision(name):
    made = calls(tree_of(name))
    if name.startswith("diffcr.inference.cli"):
        setting = [function for call, function in made if call.endswith("config.update")]
        assert setting == (["main"] if name == "diffcr.inference.cli" else [])
        assert not [call for call, function in made if call == "print" and not function]
        return
    speaking = re.compile(
        r"(builtins\.)?print|pprint.*|.*\bstd(out|err)\.write|.*\becho|.*\bconfig\.update|logging\..*"
    )
    # A worker is a process of its own, in which its first function stands for the command line's main.
    workers = {("jax.config.update", "prepare"), ("logging.getLogger", "_quiet")}
    allowed = workers if name == "diffcr.inference.workers" else set()
    assert not [call for call, function in made if speaking.fullmatch(call) and (call, function) not in allowed]


def bare(node: ast.Module | ast.ClassDef, methods: dict[str, set[str]], prefix: str = "") -> list[str]:
    """Public classes, functions and methods without a docstring; a method may have that of the base it stands for.

    What is inside a function is not public, nor is a class that begins with _ or what is in it.
    """
    found = []
    inherited = {each for base in getattr(node, "bases", ()) for each in methods.get(ast.unparse(base), ())}
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and child.name[0] != "_":
            if ast.get_docstring(child) is None and child.name not in inherited:
                found.append(prefix + child.name)
            if isinstance(child, ast.ClassDef):
                found += bare(child, methods, f"{prefix}{child.name}.")
    return found


@functools.cache
def documented_methods() -> dict[str, set[str]]:
    """Class -> its methods with docstrings, for all of our classes."""
    classes = [node for name in MODULES for node in ast.walk(tree_of(name)) if isinstance(node, ast.ClassDef)]
    return {
        each.name: {f.name for f in each.body if isinstance(f, ast.FunctionDef) and ast.get_docstring(f)}
        for each in classes
    }


@each_module
def test_everything_public_has_a_docstring(name):
    assert ast.get_docstring(tree_of(name))
    assert bare(tree_of(name), documented_methods()) == []


def test_a_missing_docstring_is_found():
    source = """
def f(): pass
def _g(): pass
class A(Base):
    def count(self): pass
    def other(self): pass
"""
    assert bare(ast.parse(source), {"Base": {"count"}}) == ["f", "A", "A.other"]


HEAVY = ("numpyro", "arviz", "matplotlib.pyplot", "pyarrow", "dask", "distributed")
IMPORT = """
import json, socket, sys, jax

def refuse(*args, **kwargs):
    raise OSError("an import opened a connection")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
sys.modules["pyarrow"] = None
jax.config.update("jax_enable_x64", PRECISION)
before = dict(jax.config.values)
import diffcr, diffcr.inference
loaded = [name for name in HEAVY if sys.modules.get(name)]
# Parts of JAX bring settings of their own when they are first imported; none that was there may change.
unchanged = before.items() <= dict(jax.config.values).items()
print(json.dumps([jax.config.jax_enable_x64, unchanged, loaded]))
"""


@pytest.mark.parametrize("precision", [False, True])
def test_an_import_prints_and_changes_nothing_and_loads_no_more_than_it_must(precision):
    """In a process of its own. pandas takes pyarrow wherever it finds it, so that is kept from being found."""
    program = IMPORT.replace("PRECISION", str(precision)).replace("HEAVY", repr(HEAVY))
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == [precision, True, []]
