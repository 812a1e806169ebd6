"""Files appear whole or not at all."""

import pytest
from diffcr.inference.files import atomic

from diffcr.errors import InputError


def test_content_appears_under_its_name_only_when_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match="cannot be written .* choose another -o"),
        atomic(tmp_path / "no" / "a") as part,
    ):
        part.write_text("x")
