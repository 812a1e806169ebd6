"""`read_counts`: files of every kind become one `Counts`, each event once, and options are not ignored."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffcr.inference import Simulation, combine, load_counts, read_counts, simulate_counts
from diffcr.inference.inputs import is_counts_file
from diffcr.inference.simulate import simulate_event_list

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site
from diffcr.site import site as find_site

GRID = RingGrid(18, 36)
HAWC = Simulation(site=find_site("hawc"), num_events=3000.0, dipole=(0.3, 0.2, 0.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    simulate_event_list(HAWC, GRID, 1, folder / "all.csv").save(folder / "truth.nc")
    events = pd.read_csv(folder / "all.csv", usecols=["time_unix", "ra", "dec"])
    events.to_csv(folder / "events.csv", index=False)
    events[:1200].to_csv(folder / "first.csv", index=False)
    events[1200:].to_parquet(folder / "second.parquet")
    events.assign(weight=0.0).to_csv(folder / "weightless.csv", index=False)
    simulate_counts(HAWC, GRID, 2).save(folder / "simulated.nc")
    shutil.copy(folder / "simulated.nc", folder / "copy.nc")
    shutil.copy(folder / "events.csv", folder / "again.csv")
    return folder


def read(inputs, site="hawc", **options):
    return read_counts(inputs, site, **({"grid": GRID} | options))


def same(one, other) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("n_sky", "n_time", "n_local", "n_half"))


# What is read ---------------------------------------------------------------------------------------------


def test_path_may_be_text_a_path_or_a_list(files):
    reference = read(files / "events.csv")
    for inputs in (str(files / "events.csv"), [files / "events.csv"], (str(files / "events.csv"),)):
        assert same(read(inputs), reference)


def test_site_may_be_a_name_numbers_or_a_site(files):
    """The counts carry the site; a longitude 15 degrees further East moves all events by one sidereal hour."""
    reference = read(files / "events.csv")
    hawc = reference.sites[0]
    assert same(read(files / "events.csv", hawc), reference)
    assert same(read(files / "events.csv", ["HAWC"]), reference)
    assert same(read(files / "events.csv", "19,-97.3,57"), reference)
    # 20 degrees are two bins of 10: exact, since tau moves while ra stays.
    east = Site("east", hawc.latitude, hawc.longitude + np.radians(20), hawc.zenith_max)
    shifted = read(files / "events.csv", east)
    np.testing.assert_array_equal(shifted.n_sky, reference.n_sky)
    np.testing.assert_array_equal(shifted.n_time, np.roll(reference.n_time, 2, -1))
    np.testing.assert_array_equal(shifted.n_local, np.roll(reference.n_local, 2, -1))


def test_several_files_add_up_in_any_order(files):
    whole = read(files / "events.csv")
    parts = [files / "first.csv", files / "second.parquet"]
    for inputs in (parts, parts[::-1]):
        counts = read(inputs)
        assert same(counts, whole)
        assert counts.num_events.item() == whole.num_events.item()
        assert [e["file"] for e in counts.inputs] == [p.name for p in inputs]
        # The first 1200 rows are spread over the whole year like the others.
        assert counts.mean_epoch.item() == pytest.approx(whole.mean_epoch.item(), rel=1e-12)


def test_events_and_counts_mix(files):
    mixed = read([files / "first.csv", files / "simulated.nc"])
    apart = combine([read(files / "first.csv"), load_counts(files / "simulated.nc")])
    assert same(mixed, apart)
    assert mixed.num_events.sum() == 1200 + load_counts(files / "simulated.nc").num_events.sum()


def test_one_site_each_belongs_to_its_file(files):
    counts = read([files / "first.csv", files / "second.parquet"], ["hawc", "19,-97.3,60"])
    assert [s.name for s in counts.sites] == ["HAWC", "19,-97.3,60"]
    assert counts.num_events[:, 0, 0].tolist() == [1200, len(pd.read_parquet(files / "second.parquet"))]


def test_counts_bring_their_own_grid_frame_and_site(files, tmp_path):
    solar = read(files / "events.csv", time_frame="solar")
    path = solar.save(tmp_path / "solar.nc")
    for options in ({}, {"time_frame": "solar"}, {"grid": GRID}):
        loaded = read_counts(path, **options)
        assert loaded.time_frame == "solar"
        assert loaded.grid == GRID
        assert loaded.sites[0].name == "HAWC"
    assert same(read_counts(path, "hawc"), solar)


def test_zenith_cut_becomes_that_of_the_site(files):
    """Where events were cut, nothing is accepted: a known exposure must end there, and other cuts are others."""
    counts = read(files / "events.csv", zenith_max=np.radians(40))
    assert np.degrees(counts.sites[0].zenith_max) == pytest.approx(40)
    assert counts.sites[0].name == "HAWC"
    # A cut beyond the site's own leaves it.
    wide = read(files / "events.csv", zenith_max=np.radians(80))
    assert wide.sites[0] == find_site("hawc")
    with pytest.raises(InputError, match=r"two observatories are called HAWC but differ .*zenith cut"):
        combine([counts, wide])


def test_accounting_of_an_event_list(files):
    seen = []
    counts = read(files / "events.csv", chunk_size=1000, progress=seen.append)
    entry = counts.inputs[0]
    number = len(pd.read_csv(files / "events.csv"))
    assert entry["rows"] == entry["events_read"] == number
    assert entry["file"] == "events.csv"
    assert entry["site"] == "HAWC"
    assert re.fullmatch("[0-9a-f]{64}", entry["sha256"])
    assert entry["columns"] == {"time": "time_unix", "ra": "ra", "dec": "dec"}
    assert entry["equinox"] == "j2000"
    assert seen == [1000] * (number // 1000) + ([number % 1000] if number % 1000 else [])
    # Memory is that of a chunk; the result is the same.
    assert same(counts, read(files / "events.csv"))


def test_shipped_list_declares_its_site_and_equinox():
    """dataset:auger-8eev prints right ascension of date; declared, not guessed, and overruled where asked."""
    counts = read_counts("dataset:auger-8eev", grid=GRID)
    assert counts.sites[0].name == "Auger"
    assert counts.num_events.sum() == 32187
    assert counts.inputs[0]["equinox"] == "date"
    assert counts.inputs[0]["file"] == "dataset:auger-8eev"
    assert read_counts("dataset:auger-8eev", equinox="j2000", grid=GRID).inputs[0]["equinox"] == "j2000"
    # First harmonic of the published analysis: 4.7 % at 100 degrees.
    ra = counts.n_sky.sum((0, 1, 2, 3)) @ np.exp(1j * GRID.right_ascension) * 2 / 32187
    assert abs(ra) == pytest.approx(0.047, abs=0.002)
    assert np.degrees(np.angle(ra)) == pytest.approx(100, abs=3)


def test_counts_files_are_told_by_suffix_or_content(files, tmp_path):
    assert is_counts_file(files / "truth.nc")
    assert is_counts_file(tmp_path / "missing.NC")
    shutil.copy(files / "truth.nc", tmp_path / "truth.h5")
    assert is_counts_file(tmp_path / "truth.h5")
    assert same(read_counts(tmp_path / "truth.h5"), load_counts(files / "truth.nc"))
    for name in ("events.csv", "second.parquet", "nowhere.csv"):
        assert not is_counts_file(files / name)
    assert not is_counts_file("dataset:auger-8eev")
    with pytest.raises(InputError, match="no data set of this name; use one of dataset:auger-8eev"):
        is_counts_file("dataset:auger")


# What is refused ------------------------------------------------------------------------------------------


def test_no_input_and_no_site_are_refused(files):
    with pytest.raises(InputError, match="no input was given: name event lists"):
        read_counts([])
    for site in (None, []):
        with pytest.raises(InputError, match=r"events.csv: the observatory is needed .*give --site NAME"):
            read_counts(files / "events.csv", site)
    with pytest.raises(InputError, match="unknown site ''"):
        read_counts(files / "events.csv", "")
    with pytest.raises(InputError, match="2 sites for 3 inputs: give one --site for all, or one for each"):
        read([files / "first.csv"] * 3, ["hawc", "hawc"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("events.csv", "events.csv"), "events.csv: the same events are already counted from events.csv"),
        (("events.csv", "again.csv"), "again.csv: the same events are already counted from events.csv"),
        (("simulated.nc", "copy.nc"), "copy.nc: holds the same counts as .*simulated.nc in every cell"),
        (("simulated.nc", "simulated.nc"), "simulated.nc: holds the same counts"),
    ],
)
def test_no_event_is_counted_twice(files, names, message):
    with pytest.raises(InputError, match=f"{message}.*name each file once"):
        read([files / name for name in names])


def test_no_event_is_counted_twice_behind_another_site_or_file(files, tmp_path):
    """Two names of one place do not make two data sets; nor does binning before."""
    with pytest.raises(InputError, match="already counted"):
        read([files / "events.csv", files / "again.csv"], ["hawc", "19,-97.3,57"])
    binned = read(files / "events.csv").save(tmp_path / "binned.nc")
    with pytest.raises(InputError, match=r"events.csv: .*already counted from events.csv"):
        read([binned, files / "events.csv"])
    joined = read([files / "first.csv", files / "second.parquet"]).save(tmp_path / "joined.nc")
    with pytest.raises(InputError, match=r"first.csv: the same events are already counted from first.csv"):
        read([joined, files / "first.csv"])
    # The same events from another file: the counts are equal in every cell.
    with pytest.raises(InputError, match=r"joined.nc: holds the same counts as .*events.csv"):
        read([files / "events.csv", joined])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zenith_max": 0.5}, "--zenith-max cannot be applied to counts: bin the event list again"),
        ({"energy_range": (1.0, 2.0)}, "--energy-min and --energy-max cannot be applied to counts"),
        ({"energy_edges": (1.0, 2.0)}, "--energy-edges cannot be applied to counts"),
        ({"time_range": (5844.0, 5900.0)}, "--from and --to cannot be applied to counts"),
        ({"epochs": "yearly"}, "--epochs cannot be applied to counts"),
        ({"orbital_index": 2.7}, "needs the time of each event: bin the event list again"),
        ({"time_frame": "solar"}, "its time frame is sidereal, not solar: bin the event list again"),
        ({"grid": RingGrid()}, "its grid is 36 x 18, not 360 x 180: bin the event list again"),
        ({"site": "auger"}, "these are counts of HAWC, not of Auger: leave out --site, or bin"),
        ({"site": "hawk"}, "unknown site 'hawk'"),
    ],
)
def test_options_that_need_events_are_not_ignored_on_counts(files, options, message):
    with pytest.raises(InputError, match=message):
        read_counts(files / "truth.nc", **options)


def test_site_of_a_mixed_list_is_that_of_its_event_lists(files, tmp_path):
    """One --site for an event list beside the counts of another observatory is no contradiction; one each is."""
    other = load_counts(files / "simulated.nc").replace(sites=(find_site("lhaaso"),)).save(tmp_path / "lhaaso.nc")
    counts = read([files / "first.csv", other], "hawc")
    assert [s.name for s in counts.sites] == ["HAWC", "LHAASO"]
    with pytest.raises(InputError, match="these are counts of LHAASO, not of HAWC"):
        read([files / "first.csv", other], ["hawc", "hawc"])


def test_orbital_motion_is_removed_once(files, tmp_path):
    path = read(files / "events.csv", orbital_index=2.7).save(tmp_path / "orbital.nc")
    with pytest.raises(InputError, match=r"already removed \(Gamma = 2.7\); it must not be removed twice"):
        read_counts(path, orbital_index=2.7)


def test_events_without_weight_are_refused(files):
    with pytest.raises(InputError, match=r"weights of all .* events of HAWC are zero; .*--columns weight="):
        read(files / "weightless.csv")
    assert read(files / "weightless.csv", columns="weight=").num_events.sum() > 2800


def test_empty_counts_are_refused(files, tmp_path):
    counts = load_counts(files / "simulated.nc")
    names = ("n_sky", "n_time", "n_local", "n_half", "num_events")
    empty = counts.replace(**{name: getattr(counts, name) * 0 for name in names})
    with pytest.raises(InputError, match=r"empty.nc: the counts hold no event"):
        read_counts(empty.save(tmp_path / "empty.nc"))
