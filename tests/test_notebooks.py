"""Every notebook runs from top to bottom in an empty folder, and is stored without outputs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need diffcr[notebooks]")
pytest.importorskip("nbclient", reason="notebooks need diffcr[notebooks]")
pytest.importorskip("ipykernel", reason="notebooks need diffcr[notebooks]")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SLOW = {
    "02_maps_and_classical_methods",
    "03_auger_posterior",
    "04_sources_to_dipole",
    "06_trajectories_and_small_scales",
    "07_small_scale_theory",
    "08_scans_and_devices",
}
"""Notebooks that take more than half a minute; they run with the slow tests."""
each_notebook = pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in NOTEBOOKS],
    ids=[p.stem for p in NOTEBOOKS],
)

_RUN = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=1200).execute()
nbformat.write(notebook, sys.argv[1])
"""


def _execute(path: Path) -> subprocess.CompletedProcess:
    """Run a notebook in its folder and write it back with its outputs.

    In a process of its own: the sockets of the kernel's client are closed when Python pleases, which among
    warnings as errors fails the whole test run at its end.
    """
    # Settings of the test run, such as the backend of matplotlib, must not decide how a notebook behaves.
    kept = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "PYTHONWARNINGS")}
    # The kernel python3 is this Python, even where the user has one of that name.
    return subprocess.run(
        [sys.executable, "-c", _RUN, str(path)],
        cwd=path.parent,
        env=kept | {"JUPYTER_PREFER_ENV_PATH": "1"},
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )


def _written(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_there_are_notebooks():
    """A moved folder would otherwise leave nothing to run, and pass."""
    assert NOTEBOOKS


@each_notebook
def test_notebook_is_stored_clean(path):
    """No outputs and no execution counts, so that a difference between versions shows what was written."""
    notebook = nbformat.read(path, as_version=4)

    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], f"cell {cell.id} holds outputs: clear them before committing"
            assert cell.execution_count is None, f"cell {cell.id} was run: clear its count"


@each_notebook
def test_notebook_runs(path, tmp_path):
    """A copy in an empty folder runs without an error or a warning, shows pictures, and leaves no file."""
    copy = Path(shutil.copy(path, tmp_path))

    done = _execute(copy)

    assert done.returncode == 0, done.stderr[-4000:]
    cells = [c for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [(cell.id, out) for cell in cells for out in cell.outputs]
    # Python's warnings only: a library may log there, as matplotlib does when it builds its font cache.
    warned = [(name, out.text) for name, out in outputs if "Warning: " in out.get("text", "")]
    assert not warned, f"warnings in {path.name}: {warned}"
    assert any("image/png" in out.get("data", {}) for _, out in outputs)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_kernel_is_this_python(tmp_path):
    """Otherwise the notebooks would try another installation of the package."""
    path = _written(tmp_path / "which.ipynb", "import sys; print(sys.prefix, end='')")

    assert _execute(path).returncode == 0

    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == sys.prefix


def test_a_failing_cell_fails(tmp_path):
    """An exception in a cell must not go unnoticed, nor may its words get lost."""
    done = _execute(_written(tmp_path / "broken.ipynb", "1 / 0"))

    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
