"""Names, folders, patterns and lists of event files, and what each of them means."""

import os

import pytest
from diffcr.inference.file_lists import list_files, require_once

from diffcr.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """data/ with nights of two years, a hidden file, notes, counts and our own accounts; the current folder."""
    for name in (
        *("2016/b.parquet", "2016/a.parquet", "2017/c.h5", "2017/deep/d.csv.gz", "2017/.e.csv", "2017/.git/f.csv"),
        *("notes.md", "old.nc", "old.files.csv"),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_taken_as_they_are_in_their_order():
    named = list_files(["b.csv", "missing.csv", "a.csv", "dataset:auger-8eev", "x.h5:/events"])
    assert named.files == ("b.csv", "missing.csv", "a.csv", "dataset:auger-8eev", "x.h5:/events")
    assert not named.searched and named.passed_over == ()


def test_folder_stands_for_its_event_files_and_says_what_it_passes_over(folder):
    named = list_files(["data"])
    assert named.files == ("data/2016/a.parquet", "data/2016/b.parquet", "data/2017/c.h5", "data/2017/deep/d.csv.gz")
    assert named.passed_over == ("data/notes.md", "data/old.files.csv", "data/old.nc")
    assert named.searched
    os.mkdir("data/2018")
    with pytest.raises(InputError, match=r"data/2018: the folder holds no event files .*'data/2018/\*\.EXT'"):
        list_files(["data/2018"])


def test_links_are_followed_and_circles_end(folder):
    os.symlink(folder / "data" / "2016", folder / "data" / "linked")
    os.symlink(folder / "data", folder / "data" / "2017" / "circle")
    files = list_files(["data"]).files
    assert {os.path.basename(path) for path in files} == {"a.parquet", "b.parquet", "c.h5", "d.csv.gz"}
    assert len(files) == 4


def test_patterns_are_matched_in_the_order_of_names(folder):
    assert list_files(["data/*/*.parquet"]).files == ("data/2016/a.parquet", "data/2016/b.parquet")
    assert list_files(["data/**/*.csv.gz"]).files == ("data/2017/deep/d.csv.gz",)
    assert list_files(["data/201[67]/?.h5", "z.csv"]).files == ("data/2017/c.h5", "z.csv")
    # Folders and our own accounts are no event lists.
    named = list_files(["data/2017/*", "data/2016/*"])
    assert named.files == ("data/2017/c.h5", "data/2016/a.parquet", "data/2016/b.parquet")
    assert named.passed_over == ("data/2017/deep",)
    with pytest.raises(InputError, match=r"data/\*\.fits: no file matches this pattern; check it"):
        list_files(["data/*.fits"])
    with pytest.raises(InputError, match=r"data/old\*csv: no file matches"):
        list_files(["data/old*csv"])


def test_what_exists_is_no_pattern_and_parts_of_files_may_follow_one(folder):
    (folder / "night[1].csv").write_text("")
    (folder / "events.fits").write_text("")
    assert list_files(["night[1].csv"]).files == ("night[1].csv",)
    assert not list_files(["night[1].csv", "events.fits[EVENTS]"]).searched
    assert list_files(["*.fits[EVENTS]"]).files == ("events.fits[EVENTS]",)
    assert list_files(["data/2017/*.h5:/night"]).files == ("data/2017/c.h5:/night",)


def test_list_has_a_name_in_each_line(folder):
    (folder / "list.txt").write_text("# nights of 2016\n\n  data/2016/b.parquet \ndata/2016/a.parquet\n/far/x*.csv\n")
    named = list_files(["first.csv"], "list.txt")
    assert named.files == ("first.csv", "data/2016/b.parquet", "data/2016/a.parquet", "/far/x*.csv")
    assert named.searched
    for name, content, message in (
        ("gone.txt", None, "gone.txt: the list of files cannot be read .*No such file.*check --list"),
        ("empty.txt", b"# none\n", "empty.txt: the list names no file; write one path into each line"),
        ("binary.txt", b"\xff\xfe\x00", "binary.txt: the list of files cannot be read"),
    ):
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            list_files([], name)


def test_no_file_stands_twice_under_any_name(folder):
    os.symlink("2016/a.parquet", "data/link.parquet")
    require_once(["data/2016/a.parquet", "data/2016/b.parquet", "gone.csv"])
    require_once(["data/2017/c.h5:/one", "data/2017/c.h5:/two"])
    for names, message in (
        (["gone.csv", "gone.csv"], "gone.csv: is named twice; name each file once, and let no two patterns overlap"),
        (["data/2016/a.parquet", "data/../data/2016/a.parquet"], "is named also as data/2016/a.parquet"),
        (["data/link.parquet", "data/2016/a.parquet"], "data/2016/a.parquet: is named also as data/link.parquet"),
    ):
        with pytest.raises(InputError, match=message):
            require_once(names)
