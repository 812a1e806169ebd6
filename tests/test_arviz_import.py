"""ArviZ in many processes at once, and without a cache folder that can be written."""

import subprocess
import sys

PROGRAM = "from diffcr.inference.arviz_import import arviz; print(arviz.__version__)"


def test_it_is_imported_where_its_note_cannot_be_written(tmp_path, monkeypatch):
    """A file stands where the cache folder would be made: no permission is needed to see the failure."""
    blocked = tmp_path / "cache"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert blocked.read_text() == ""


def test_a_note_that_another_process_moved_away_stops_nothing(tmp_path, monkeypatch):
    """Two processes write the same temporary name; the second finds it gone when it renames it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    race = """
import pathlib
rename = pathlib.Path.replace
def replace(self, target):
    if self.suffix == ".tmp" and "arviz" in self.parts:
        pathlib.Path.replace = rename
        rename(self, target)
    return rename(self, target)
pathlib.Path.replace = replace
"""
    done = subprocess.run([sys.executable, "-c", race + PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
