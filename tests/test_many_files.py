"""Many event files: the counts do not depend on who reads them or where a run was cut, and no file is lost silently."""

import csv
import dataclasses
import gzip
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from diffcr.inference import file_accounts, file_batches, read_counts
from diffcr.inference.binning import NoEventLeftError
from diffcr.inference.file_accounts import Account, BadFilesError, Listed, Reading, take_file, write_accounts
from diffcr.inference.file_batches import Part, bin_batch, cut_into_batches, load_part, remove_batches, save_part
from diffcr.inference.many_files import bin_files
from diffcr.inference.synthetic_files import FORMATS, write_synthetic_files
from diffcr.inference.workers import Workers

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site as find_site

GRID = RingGrid(18, 36)
ARRAYS = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Thirteen files of 400 events in four formats, one of them with weights and one with rows that cannot be used."""
    folder = tmp_path_factory.mktemp("events")
    paths = write_synthetic_files(folder, 6, 400, 1, "parquet", dipole=(0.3, 0.1, 0.0))
    for seed, format in ((2, "hdf5"), (3, "fits"), (4, "csv")):
        paths += write_synthetic_files(folder, 2, 400, seed, format, start=5900.5 + 10 * seed)
    table = pd.read_csv(paths[-1])
    table["weight"] = np.linspace(0.5, 1.5, len(table))
    table.to_csv(folder / "weights.csv", index=False)
    table[["time_unix", "ra", "dec", "energy"]].assign(dec=lambda t: t["dec"].where(t.index != 5)).to_csv(
        paths[-1], index=False
    )
    with gzip.open(folder / "zipped.csv.gz", "wt") as file:
        file.write(paths[-2].read_text())
    paths[-2].unlink()
    return [path for path in [*paths, folder / "weights.csv", folder / "zipped.csv.gz"] if path.exists()]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(file_batches, "MOST_FILES", 3)


def binned(files, folder, **options):
    return bin_files(files, "hawc", folder, **({"grid": GRID, "skip_bad_rows": True} | options))


def same(one, other) -> bool:
    """Whether counts agree to the last bit."""
    squares = one.w2.keys() == other.w2.keys() and all(np.array_equal(one.w2[k], other.w2[k]) for k in one.w2)
    return squares and all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=True) for n in ARRAYS)


def parts(folder) -> dict[str, tuple[int, int]]:
    """What is kept: name -> inode and time of the last change."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.npz")}


def table(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# The counts ------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_files_one_by_one(files, tmp_path):
    counts = binned(files, tmp_path / "parts").counts
    reference = read_counts(files, "hawc", grid=GRID, skip_bad_rows=True)
    for name in ("n_sky", "n_time", "n_local", "n_half", "moments", "mean_epoch", "span"):
        np.testing.assert_allclose(getattr(counts, name), getattr(reference, name), rtol=1e-12)
    np.testing.assert_array_equal(counts.num_events, reference.num_events)
    assert counts.weighted
    np.testing.assert_allclose(counts.w2["n_sky"], reference.w2["n_sky"], rtol=1e-12)
    assert [entry["file"] for entry in counts.inputs] == [path.name for path in files]
    assert [entry["sha256"] for entry in counts.inputs] == [entry["sha256"] for entry in reference.inputs]
    assert counts.num_events.sum() == sum(each.counted for each in binned(files, tmp_path / "parts").accounts)


def test_counts_do_not_depend_on_threads_or_workers(files, tmp_path, monkeypatch):
    """To the last bit, also of sums of weights."""
    pytest.importorskip("distributed", reason="workers need diffcr[scan]")
    monkeypatch.setenv("NPROC", "1")
    one = binned(files, tmp_path / "one").counts
    monkeypatch.delenv("NPROC")
    assert same(binned(files, tmp_path / "several").counts, one)
    assert same(binned(files, tmp_path / "workers", workers=Workers(number=2)).counts, one)


def test_years_stand_in_their_order_whatever_that_of_the_list(files, tmp_path):
    later = write_synthetic_files(tmp_path / "later", 1, 300, 9, start=6300.5)
    counts = binned([*later, *files[:4]], tmp_path / "parts", epochs="yearly").counts
    assert counts.epochs == ("2016", "2017")
    assert counts.num_events[0, 0].tolist() == [1600, 300]
    assert [entry["events_read"] for entry in counts.inputs] == [300, 400, 400, 400, 400]


def test_files_that_overlap_in_time_span_what_one_file_of_all_events_does(tmp_path):
    """Three streams of one detector, events in turn; and an hour of it again in another file."""
    (whole,) = write_synthetic_files(tmp_path, 1, 3000, 1, start=5900.0, days_each=200.0)
    events = pd.read_parquet(whole).sort_values("time_unix", ignore_index=True)
    days = events["time_unix"].to_numpy() / 86400 - 10957.5
    streams = [tmp_path / f"stream_{k}.parquet" for k in range(3)]
    for k, path in enumerate(streams):
        events[k::3].to_parquet(path)
    for counts in (binned(streams, tmp_path / "parts").counts, read_counts(streams, "hawc", grid=GRID)):
        np.testing.assert_allclose(counts.span.ravel(), [days[0], days[-1]], rtol=0, atol=1e-8)
        assert counts.livetime.item() == pytest.approx(np.ptp(days), abs=1e-8)
        assert counts.num_events.sum() == 3000
    # Files one after the other: the nights between them are not live.
    nights = write_synthetic_files(tmp_path / "nights", 2, 300, 2, start=5900.0, days_each=0.25)
    nights += write_synthetic_files(tmp_path / "later", 1, 300, 3, start=5990.0, days_each=0.25)
    counts = binned(nights, tmp_path / "parts").counts
    assert counts.livetime.item() == pytest.approx(0.75, abs=0.02)
    assert np.ptp(counts.span) == pytest.approx(90.25, abs=0.01)


def test_names_in_the_counts_are_relative_to_the_folder_of_all_files(tmp_path):
    for k, name in enumerate(("2016/a", "2017/a")):
        write_synthetic_files(tmp_path / name, 1, 50, k)
    paths = sorted(tmp_path.glob("*/*/*.parquet"))
    assert [e["file"] for e in binned(paths, tmp_path / "parts").counts.inputs] == [
        "2016/a/events_00000.parquet",
        "2017/a/events_00000.parquet",
    ]


def test_cube_and_options_reach_the_files(files, tmp_path):
    grid = RingGrid(6, 12)
    options = {"grid": grid, "cube": True, "zenith_max": "site", "energy_range": (1.0, 3.0), "time_frame": "solar"}
    counts = binned(files[:4], tmp_path / "parts", **options).counts
    reference = read_counts(files[:4], "hawc", skip_bad_rows=True, **options)
    np.testing.assert_array_equal(counts.cube, reference.cube)
    assert counts.time_frame == "solar"
    assert counts.num_events.sum() == reference.num_events.sum() < 1600


# Accounts --------------------------------------------------------------------------------------------------


def test_rows_of_every_file_add_up(files, tmp_path):
    found = binned(files, tmp_path / "parts", energy_range=(1.5, 4.0), zenith_max=np.radians(40)).accounts
    write_accounts(tmp_path / "accounts.csv", found)
    rows = table(tmp_path / "accounts.csv")
    assert [row["file"] for row in rows] == [str(path) for path in files]
    for row in rows:
        cuts = sum(int(row[f"cut_{name}"]) for name in ("energy", "zenith", "time", "epoch"))
        assert int(row["rows"]) == 400 == int(row["bad_rows"]) + int(row["counted"]) + cuts
        assert int(row["cut_energy"]) > 0 and int(row["cut_zenith"]) > 0
        assert row["status"] == "counted" and row["message"] == "" and float(row["seconds"]) >= 0
        assert int(row["bytes"]) == Path(row["file"]).stat().st_size
    assert [row["bad_rows"] for row in rows].count("1") == 1


def test_file_without_events_in_the_cuts_is_no_bad_file(files, tmp_path):
    """The first day alone: all other files are cut as a whole, which a list of nights is bound to be."""
    days = (5844.5, 5845.5)
    found = binned(files, tmp_path / "parts", time_range=days)
    assert [each.status for each in found.accounts] == ["counted"] + ["cut"] * (len(files) - 1)
    assert found.counts.num_events.sum() == 400
    assert found.accounts[3].cut["time"] == 400
    assert len(found.counts.inputs) == len(files)
    with pytest.raises(InputError, match=r"no event is left of 3 files after cuts \(cut: 1200 by time\); widen"):
        binned(files[1:4], tmp_path / "others", time_range=days)


# A run cut short -------------------------------------------------------------------------------------------


class Cut(Exception):
    """What ends a run in these tests."""


def test_run_that_was_cut_goes_on_and_ends_like_one_that_was_not(files, tmp_path):
    seen = []

    def stop(accounts, found):
        seen.append((len(accounts), found))
        if len(seen) == 2:
            raise Cut

    folder = tmp_path / "parts"
    with pytest.raises(Cut):
        binned(files, folder, progress=stop)
    before, seen = parts(folder), []
    assert len(before) == 2
    whole = binned(files, folder, progress=lambda accounts, found: seen.append((len(accounts), found)))
    assert [found for _, found in seen].count(True) == 2
    assert sum(number for number, _ in seen) == len(files)
    after = parts(folder)
    assert {name: after[name] for name in before} == before
    assert same(whole.counts, binned(files, tmp_path / "undisturbed").counts)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_damaged_batch_is_told_and_made_again(files, tmp_path, damage):
    folder = tmp_path / "parts"
    first = binned(files, folder)
    path = sorted(folder.glob("*.npz"))[0]
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        member = file.getinfo("n_sky.npy")
    # 59 bytes of header come first.
    content[member.header_offset + 59 + member.compress_size // 2] ^= 255
    wrong = {"cut": bytes(content[:-100]), "bit": bytes(content), "empty": b""}
    path.write_bytes(wrong.get(damage) or (b"" if damage == "empty" else sorted(folder.glob("*.npz"))[1].read_bytes()))
    again = binned(files, folder)
    assert same(again.counts, first.counts)
    # One whose label is whole was taken for good until its counts were wanted.
    assert len(again.notes) == (damage == "bit") and all("damaged" in note for note in again.notes)
    assert binned(files, folder).notes == ()


def test_only_what_a_change_concerns_is_read_again(files, tmp_path):
    own = [str(shutil.copy(path, tmp_path / path.name)) for path in files]
    folder = tmp_path / "parts"
    read = []

    def run(paths, **options):
        read.clear()
        return binned(paths, folder, progress=lambda a, found: None if found else read.extend(a), **options)

    run(own)
    assert len(read) == len(own)
    run(own)
    assert read == []
    os.utime(own[4], ns=(1, 1))
    run(own)
    assert own[4] in [each.file for each in read] and len(read) <= 3
    # Other options, another observatory: nothing fits.
    run(own, zenith_max=np.radians(30))
    assert len(read) == len(own)


def test_file_changed_in_place_with_size_and_time_of_before_is_read_again(files, tmp_path):
    path = Path(shutil.copy(next(each for each in files if each.suffix == ".csv"), tmp_path / "events.csv"))
    folder = tmp_path / "parts"
    before, content = binned([path], folder).counts, path.read_text().splitlines()
    state = path.stat()
    rows = [content[0], *(line.replace(",-", ",", 1) + " " * (",-" in line) for line in content[1:])]
    path.write_text("\n".join(rows) + "\n")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (state.st_size, state.st_mtime_ns, state.st_ino)
    after = binned([path], folder).counts
    assert same(after, binned([path], tmp_path / "fresh").counts)
    assert not np.array_equal(after.n_sky, before.n_sky)
    assert Listed.of(str(path)).changed == path.stat().st_ctime_ns


def test_file_taken_off_the_list_changes_its_own_batch_and_few_others(tmp_path):
    """Batches end where the names of files say so: those far from the change are the same."""
    listed = [Listed(f"{k}.csv", f"/data/{k}.csv", 1000, 1) for k in range(2000)]
    before = set(cut_into_batches(listed))
    for gone in (0, 777, 1999):
        after = set(cut_into_batches(listed[:gone] + listed[gone + 1 :]))
        assert len(before - after) <= 20 < len(before)


@pytest.mark.parametrize("size", [0, 10**6, 10**9])
def test_batches_hold_every_file_once_in_order_and_are_small(size, monkeypatch):
    monkeypatch.setattr(file_batches, "MOST_FILES", 32)
    listed = [Listed(f"{k}.csv", f"/data/{k}.csv", size, 1) for k in range(500)]
    batches = cut_into_batches(listed)
    assert [each for batch in batches for each in batch] == listed
    assert max(map(len, batches)) <= (1 if size == 10**9 else 32)
    assert len(batches) >= 500 / 32
    assert cut_into_batches([]) == []


def test_full_disk_loses_nothing_that_was_finished(files, tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    write, calls = np.lib.format.write_array, []

    def full(*args, **options):
        calls.append(1)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        return write(*args, **options)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(InputError, match=r"\.npz: cannot be written \(.*No space left.*free some space"):
        binned(files, folder)
    kept = parts(folder)
    assert kept and not list(folder.glob(".*"))
    monkeypatch.undo()
    monkeypatch.setattr(file_batches, "MOST_FILES", 3)
    whole = binned(files, folder).counts
    assert {name: parts(folder)[name] for name in kept} == kept
    assert same(whole, binned(files, tmp_path / "undisturbed").counts)


def test_a_job_that_two_workers_run_is_done_once(files, tmp_path):
    jobs = []

    def keep(function, given, *_):
        jobs.extend(given)
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffcr.inference.many_files.run_jobs", keep)
        with pytest.raises(Cut):
            binned(files, tmp_path / "parts")
    # What is empty was removed.
    (tmp_path / "parts").mkdir()
    job = json.loads(json.dumps(jobs[0]))
    first = bin_batch(job)
    before = parts(tmp_path / "parts")
    assert bin_batch(job) == first
    assert parts(tmp_path / "parts") == before
    with pytest.raises(InputError, match=r"a worker has diffcr .*, not diffcr 0; install the same there"):
        bin_batch(job | {"code": "diffcr 0"})


# Bad files -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path, files) -> dict[str, Path]:
    """Files with every fault, by what their accounts must say."""
    folder = tmp_path / "bad"
    folder.mkdir()
    good = pd.read_parquet(files[0])
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("time_unix,ra,dec\n")
    (folder / "cut.parquet").write_bytes(files[0].read_bytes()[:5000])
    hdf5 = next(path for path in files if path.suffix == ".h5").read_bytes()
    (folder / "cut.h5").write_bytes(hdf5[: len(hdf5) // 2])
    (folder / "flipped.h5").write_bytes(hdf5[:800] + bytes(200) + hdf5[1000:])
    good[["time_unix", "ra"]].to_csv(folder / "no_dec.csv", index=False)
    good.assign(ra=np.radians(good["ra"]), dec=np.radians(good["dec"])).to_parquet(folder / "radians.parquet")
    good.assign(weight=0.0).to_parquet(folder / "weightless.parquet")
    (folder / "folder.csv").mkdir()
    return {
        "empty.csv": "the file is empty; give a file with events",
        "header.csv": "the file has a header but no rows; give a file with events",
        "cut.parquet": "the Parquet file cannot be read",
        "cut.h5": "the HDF5 file cannot be read",
        "flipped.h5": "HDF5 file",
        "no_dec.csv": "the direction needs (ra, dec) or (zenith, azimuth), but only ra was found",
        "radians.parquet": "seems to be in radians",
        "weightless.parquet": "the weights of all 400 events of HAWC are zero",
        "folder.csv": "this is a directory; give an event file",
        "missing.csv": "there is no such file; check the path",
    }


def test_all_bad_files_are_tried_and_told_in_one_line_each(files, bad, tmp_path):
    named = [*files[:3], *(tmp_path / "bad" / name for name in bad), *files[3:]]
    folder = tmp_path / "parts"
    with pytest.raises(BadFilesError, match=r"10 of \d+ files cannot be used, the first .*empty.csv: the file is") as e:
        binned(named, folder)
    assert str(folder / "files.csv") in str(e.value) and "--skip-bad-files: what was finished is kept" in str(e.value)
    told = {Path(each.file).name: each.message for each in e.value.accounts if each.status == "bad"}
    assert told.keys() == bad.keys()
    for name, message in bad.items():
        assert message in told[name] and "\n" not in told[name], told[name]
        assert not told[name].startswith(str(tmp_path))
    assert len(table(folder / "files.csv")) == len(named)
    # Batches without bad files are kept.
    kept = parts(folder)
    assert kept
    found = binned(files, folder)
    assert same(found.counts, binned(files, tmp_path / "undisturbed").counts)
    assert {name: parts(folder)[name] for name in kept} == kept


def test_bad_files_are_skipped_where_asked_and_recorded(files, bad, tmp_path):
    named = [*files[:3], *(tmp_path / "bad" / name for name in bad), *files[3:]]
    folder, seen = tmp_path / "parts", []
    found = binned(named, folder, skip_bad_files=True)
    for name in ARRAYS:
        np.testing.assert_allclose(
            getattr(found.counts, name), getattr(binned(files, tmp_path / "good").counts, name), rtol=1e-12
        )
    skipped = found.counts.history["skipped_files"]
    assert [Path(each["file"]).name for each in skipped] == list(bad)
    assert all(message in each["reason"] for message, each in zip(bad.values(), skipped, strict=True))
    assert len(found.counts.inputs) == len(files)
    # Nothing is tried again while it is skipped; without the option it is.
    again = binned(named, folder, skip_bad_files=True, progress=lambda accounts, found: seen.append(found))
    assert all(seen) and same(again.counts, found.counts)
    with pytest.raises(BadFilesError, match="10 of"):
        binned(named, folder)
    with pytest.raises(InputError, match=r"none of the 1 files can be used, the first .*empty.csv: the file is empty"):
        binned([tmp_path / "bad" / "empty.csv"], tmp_path / "one", skip_bad_files=True)


def test_bad_file_that_was_corrected_is_read_by_the_same_command(files, tmp_path):
    own = [shutil.copy(path, tmp_path / path.name) for path in files[:6]]
    content = Path(own[4]).read_bytes()
    Path(own[4]).write_bytes(content[:1000])
    with pytest.raises(BadFilesError, match=r"1 of 6 files cannot be used"):
        binned(own, tmp_path / "parts")
    Path(own[4]).write_bytes(content)
    assert binned(own, tmp_path / "parts").counts.num_events.sum() == 2400


def test_same_events_under_another_name_are_counted_once(files, tmp_path):
    copy = shutil.copy(files[1], tmp_path / "copy.parquet")
    named = [*files, copy]
    with pytest.raises(BadFilesError, match=r"copy.parquet: the same events are already counted from .*00001.parquet"):
        binned(named, tmp_path / "parts")
    found = binned(named, tmp_path / "parts", skip_bad_files=True)
    good = binned(files, tmp_path / "good").counts
    np.testing.assert_array_equal(found.counts.n_sky, good.n_sky)
    assert found.counts.num_events.sum() == good.num_events.sum()
    assert found.accounts[-1].status == "bad" and found.accounts[-1].counted == 0
    assert found.counts.history["skipped_files"][0]["reason"].startswith("the same events are already counted")
    # The other way round the copy is the first.
    assert binned([copy, *files], tmp_path / "parts", skip_bad_files=True).accounts[2].status == "bad"


@pytest.mark.parametrize("form", ["csv.gz", "csv", "h5", "weights.parquet"])
def test_same_events_in_another_format_are_counted_once(tmp_path, form):
    """Also where times and directions are printed to fewer digits, rows are in other groups and sums are rounded."""
    (path,) = write_synthetic_files(tmp_path, 1, 500, 4)
    events, copy = pd.read_parquet(path), tmp_path / f"copy.{form}"
    if form == "weights.parquet":
        events = events.assign(weight=np.random.default_rng(1).uniform(0.1, 2.0, len(events)))
        events.to_parquet(path)
        events.to_parquet(copy, row_group_size=70)
    elif form == "h5":
        with h5py.File(copy, "w") as file:
            for name in events:
                file[name] = events[name].to_numpy()
    else:
        events.to_csv(copy, index=False, float_format="%.12g")
    with pytest.raises(BadFilesError, match=r"copy.*: the same events are already counted from .* \(equal counts in"):
        binned([path, copy], tmp_path / "parts")
    found = binned([path, copy], tmp_path / "parts", skip_bad_files=True)
    assert found.counts.num_events.sum() == 500
    assert [each.status for each in found.accounts] == ["counted", "bad"]


def test_same_events_are_known_whatever_else_a_file_holds_that_is_cut(tmp_path):
    (path,) = write_synthetic_files(tmp_path, 1, 500, 4)
    more = tmp_path / "more.parquet"
    events = pd.read_parquet(path)
    pd.concat([events, events.tail(50).assign(energy=0.5)]).to_parquet(more)
    assert binned([path, more], tmp_path / "all").counts.num_events.sum() == 1050
    with pytest.raises(BadFilesError, match=r"more.parquet: the same events are already counted"):
        binned([path, more], tmp_path / "parts", energy_range=(1.0, np.inf))


def test_different_events_in_the_same_cells_are_no_repetition(tmp_path):
    """A few events are not compared; many are told apart by their times, be they in one cell."""
    (path,) = write_synthetic_files(tmp_path, 1, 1, 4)
    event = pd.read_parquet(path)

    def write(name, number, seconds):
        repeated = pd.concat([event] * number, ignore_index=True)
        repeated.assign(time_unix=repeated["time_unix"] + seconds).to_parquet(tmp_path / name)
        return tmp_path / name

    few = [write("a.parquet", 3, 0.0), write("b.parquet", 3, 0.001)]
    assert binned(few, tmp_path / "parts").counts.num_events.sum() == 6
    many = [write("c.parquet", 50, 0.0), write("d.parquet", 50, 86164.0905)]
    counts = binned(many, tmp_path / "parts").counts
    assert counts.num_events.sum() == counts.n_sky.max() == 100
    with pytest.raises(BadFilesError, match="equal counts in every cell"):
        binned([*many, write("e.parquet", 50, 0.001)], tmp_path / "parts")


def test_file_that_changes_while_it_is_read_is_bad(files, tmp_path, monkeypatch):
    path = Path(shutil.copy(files[0], tmp_path / "growing.parquet"))
    reading = Reading.of(find_site("hawc"), {}, None, {"grid": GRID})
    listed = Listed.of(str(path))
    count = file_accounts.count_events

    def grow(*args, **options):
        counts = count(*args, **options)
        with path.open("ab") as file:
            file.write(b"more")
        return counts

    monkeypatch.setattr(file_accounts, "count_events", grow)
    taken = take_file(listed, reading)
    assert taken.counts is None
    assert taken.account.message == "was changed while it was read; run again once it is complete"
    # And one that was changed before it was its turn.
    assert take_file(listed, reading).account.message.startswith("was changed")


def test_fault_of_ours_is_not_called_a_bad_file_but_names_it(files, tmp_path, monkeypatch):
    def fault(*args, **options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(file_accounts, "count_events", fault)
    with pytest.raises(ZeroDivisionError, match="ours") as caught:
        binned(files[:1], tmp_path / "parts", skip_bad_files=True)
    assert caught.value.__notes__ == [f"while {files[0]} was read"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_damage_anywhere_makes_a_file_bad_and_is_no_fault_of_ours(tmp_path, format):
    """Bytes changed at the head, at the tail and in between, and ends cut off: the libraries raise many a thing."""
    (path,) = write_synthetic_files(tmp_path, 1, 500, 1, format)
    content, rng = path.read_bytes(), np.random.default_rng(2)
    reading, statuses = Reading.of(find_site("hawc"), {}, None, {"grid": GRID}), set()
    for kind in range(48):
        damaged = bytearray(content[: rng.integers(1, len(content))] if kind % 4 == 0 else content)
        reach = len(damaged) if kind % 4 == 1 else min(2500, len(damaged))
        for place in rng.integers(0, reach, 15) if kind % 4 else ():
            damaged[place if kind % 4 < 3 else -1 - place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        statuses.add(take_file(Listed.of(str(path)), reading).account.status)
    assert "bad" in statuses


def test_file_that_a_worker_does_not_see_is_told_as_such(files, tmp_path):
    listed = Listed.of(str(files[0]))
    elsewhere = dataclasses.replace(listed, path=str(tmp_path / "elsewhere.parquet"))
    message = take_file(elsewhere, Reading.of(find_site("hawc"), {}, None, {})).account.message
    assert message.startswith("has gone since the run began, or ") and message.endswith(
        "all workers must see all files"
    )


def test_errors_reach_another_process_whole():
    for error in (NoEventLeftError("none is left", {"rows": 3}), BadFilesError("one is bad", [Account("a", "bad")])):
        there = pickle.loads(pickle.dumps(error))
        assert str(there) == str(error) and vars(there) == vars(error)


# Faults of the call ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, "no input was given"),
        ({"files": ["dataset:auger-8eev"]}, "dataset:auger-8eev: is no event list; so many files are binned together"),
        ({"files": ["a.csv", "b.nc"]}, "b.nc: is no event list;.* then join the counts with diffcr bin"),
        ({"files": ["a.csv", "./a.csv"]}, r"./a.csv: is named also as a.csv; name each file once"),
        ({"files": ["a.csv", "a.csv"]}, r"a.csv: is named twice; name each file once"),
        ({"site": "hawk"}, "unknown site 'hawk'"),
        ({"time_format": "tai"}, "--time-format must be one of unix, mjd, jd, iso, not 'tai'"),
        ({"azimuth": "south"}, "--azimuth must be one of north-east, east-counterclockwise"),
        ({"prefer": "both"}, "--prefer must be one of equatorial, horizon, not 'both'"),
        ({"equinox": "b1950"}, "unknown equinox 'b1950'"),
        ({"columns": "ra"}, "columns"),
        ({"energy_edges": (2.0, 1.0)}, "energy edges must increase"),
        ({"folder": "nowhere/parts"}, "nowhere/parts: cannot be made"),
    ],
)
def test_what_would_make_every_file_bad_is_refused_before_any_is_read(files, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    call = {"files": files, "site": "hawc", "folder": "parts", "grid": GRID} | change
    with pytest.raises(InputError, match=message):
        bin_files(call.pop("files"), call.pop("site"), call.pop("folder"), **call)
    assert not list(tmp_path.glob("parts/*.npz"))


def test_reading_travels_as_json(tmp_path):
    options = {
        "grid": GRID,
        "energy_edges": (1.0, 2.0, np.inf),
        "epochs": (("a", 5844.5, 5850.0), ("b", 5850.0, 5900.0)),
        "energy_range": (-np.inf, 8.0),
        "time_range": (5844.5, np.inf),
        "zenith_max": 0.5,
        "time_frame": "solar",
        "orbital_index": None,
        "cube": True,
    }
    reading = Reading.of(find_site("hawc"), {"columns": "ra=RA"}, "date", options)
    there = Reading(**json.loads(json.dumps(dataclasses.asdict(reading))))
    assert there == reading
    assert there.binning == {name: value for name, value in options.items() if value is not None}


def test_batch_on_disk_is_read_as_it_was_written(files, tmp_path):
    counts = read_counts(files[-2], "hawc", grid=RingGrid(6, 12), cube=True, orbital_index=2.7).replace(inputs=())
    save_part(tmp_path, "0" * 64, Part(counts, []))
    again = load_part(tmp_path, "0" * 64).counts
    assert same(again, counts) and np.array_equal(again.cube, counts.cube)
    assert (again.sites, again.energies, again.epochs) == (counts.sites, counts.energies, counts.epochs)
    assert (again.grid, again.history, again.time_frame) == (counts.grid, counts.history, "sidereal")
    assert load_part(tmp_path, "1" * 64) is None


def test_only_what_was_kept_is_removed(tmp_path):
    own = [tmp_path / f"{'a' * 64}.npz", tmp_path / "files.csv", tmp_path / f".{'a' * 64}.npz.1.part"]
    users = [tmp_path / "counts.nc", tmp_path / "night.npz"]
    for path in [*own, *users]:
        path.write_text("")
    remove_batches(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(users)
    for path in users:
        path.unlink()
    remove_batches(tmp_path)
    assert not tmp_path.exists()
    remove_batches(tmp_path)
