"""`Counts`: what is saved comes back, what is joined adds up, and what cannot be joined is refused."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import xarray as xr
from diffcr.inference import Counts, combine, load_counts, read_counts

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site
from diffcr.site import site as find_site

GRID = RingGrid(6, 12)
ARRAYS = ("n_sky", "n_time", "n_local", "n_half", "num_events", "mean_epoch", "livetime", "span", "moments")


def histogram(shape, *index, weight=None):
    out = np.zeros(shape)
    np.add.at(out, index, 1.0 if weight is None else weight)
    return out


def events(rng, number: int, configurations: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Random bins of events: configuration, ring, sidereal time, right ascension, and weights."""
    return {
        "place": np.array([rng.integers(0, n, number) for n in configurations]),
        "ring": rng.integers(0, GRID.n_ring, number),
        "tau": rng.integers(0, GRID.n_ra, number),
        "ra": rng.integers(0, GRID.n_ra, number),
        "weight": rng.uniform(0.5, 2, number),
        "year": rng.uniform(2010, 2020, number),
    }


def counts_of(
    table, sites=("hawc",), energies=("all",), epochs=("all",), weighted=False, grid=GRID, **fields
) -> Counts:
    """Counts of such events, straight from the definition of the marginals, with h = tau - ra."""
    lead = (len(sites), len(energies), len(epochs))
    rings, bins = grid.shape
    place, ring, tau, ra = (table[name] for name in ("place", "ring", "tau", "ra"))
    hour_angle = (tau - ra) % bins
    half = (hour_angle < bins // 2).astype(int)  # hour angles from 0 to 12 h are west of the meridian
    weight = table["weight"] if weighted else None

    def marginals(w):
        return {
            "n_sky": histogram((*lead, rings, bins), *place, ring, ra, weight=w),
            "n_time": histogram((*lead, bins), *place, tau, weight=w),
            "n_local": histogram((*lead, rings, bins), *place, ring, hour_angle, weight=w),
            "n_half": histogram((*lead, 2, rings, bins), *place, half, ring, tau, weight=w),
        }

    number = histogram(lead, *place).astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_epoch = histogram(lead, *place, weight=table["year"]) / number
    defaults = {"livetime": np.where(number > 0, 100.0, 0.0), "inputs": ({"file": "a.csv", "sha256": "12"},)}
    return Counts(
        grid=grid,
        sites=tuple(find_site(s) for s in sites),
        energies=tuple(energies),
        epochs=tuple(epochs),
        **marginals(weight),
        num_events=number,
        mean_epoch=np.where(number > 0, mean_epoch, np.nan),
        w2=marginals(table["weight"] ** 2) if weighted else {},
        **(defaults | fields),
    )


def assert_same(one: Counts, other: Counts, rtol: float = 0) -> None:
    """Field for field; sites to the last digit but one, because files hold degrees."""
    for field in dataclasses.fields(Counts):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_allclose(b, a, rtol=rtol, err_msg=field.name)
        elif field.name == "sites":
            assert [s.name for s in a] == [s.name for s in b]
            for name in ("latitude", "longitude", "zenith_min", "zenith_max"):
                for s, t in zip(a, b, strict=True):
                    np.testing.assert_allclose(getattr(t, name), getattr(s, name), rtol=1e-15, atol=1e-16)
        elif field.name == "w2":
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_allclose(b[name], a[name], rtol=rtol, err_msg=f"w2 of {name}")
        else:
            assert a == b, field.name


@pytest.fixture(scope="module")
def table():
    return events(np.random.default_rng(3), 500, (2, 3, 2))


@pytest.fixture(scope="module")
def contents(full, tmp_path_factory):
    """What xarray reads from a saved file."""
    path = full.save(tmp_path_factory.mktemp("saved") / "counts.nc")
    with xr.open_dataset(path, engine="h5netcdf") as data:
        return data.load()


@pytest.fixture(scope="module")
def full(table):
    """Two observatories, three energy bins, two epochs, weights, moments, times and a history."""
    rng = np.random.default_rng(4)
    return counts_of(
        table,
        sites=("hawc", "-30.5,170.25,47.3"),
        energies=("1-2", "2-3", "3-9"),
        epochs=("IC86-2011", "IC86-2012 (neu)"),
        weighted=True,
        moments=rng.normal(size=(2, 3, 2, 3, 2)),
        span=np.sort(rng.uniform(4000, 6000, (2, 3, 2, 2))),
        time_frame="antisidereal",
        inputs=({"file": "ä.csv", "sha256": "00", "bad_rows": 3}, {"file": "b.nc"}),
        history={"orbital_removed": {"gamma": 2.7}, "merged_epochs": ["x", "y"]},
    )


# Files ----------------------------------------------------------------------------------------------------


def test_file_gives_back_every_field(full, tmp_path):
    path = full.save(tmp_path / "counts.nc")
    assert path == tmp_path / "counts.nc"
    assert_same(full, load_counts(path))
    # And what was loaded is saved as before.
    assert_same(load_counts(path), load_counts(load_counts(path).save(tmp_path / "again.nc")))


def test_file_of_before_the_times_were_kept_is_read(full, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(xr, "open_dataset", lambda *args, **kwargs: contents.drop_vars(["span", "end"]))
    (tmp_path / "old.nc").touch()
    assert_same(full.replace(span=None), load_counts(tmp_path / "old.nc"))


def test_unweighted_counts_stay_unweighted(table, tmp_path):
    plain = counts_of(table | {"place": np.zeros((3, 500), int)})
    loaded = load_counts(plain.save(tmp_path / "counts.nc"))
    assert_same(plain, loaded)
    assert loaded.w2 == {}
    assert not loaded.weighted
    # Moments and times that are not known stay unknown.
    assert np.isnan(loaded.moments).all() and np.isnan(loaded.span).all()


def test_file_says_what_it_holds(full, contents):
    """Names, units and frame, in degrees, readable without this package."""
    data = contents
    lead = ("observatory", "energy", "epoch")
    assert data["n_sky"].dims == data["w2_sky"].dims == (*lead, "ring", "ra")
    assert data["n_time"].dims == (*lead, "time")
    assert data["n_local"].dims == (*lead, "ring", "hour_angle")
    assert data["n_half"].dims == (*lead, "half", "ring", "time")
    assert list(data["half"].values) == ["east", "west"]
    assert data["latitude"].values == pytest.approx([19.0, -30.5])
    assert data["longitude"].values == pytest.approx([-97.3, 170.25])
    assert data["zenith_max"].values == pytest.approx([57, 47.3])
    assert data["latitude"].attrs["units"] == "degree"
    assert data["span"].dims == (*lead, "end")
    assert data["span"].attrs["long_name"] == "First and last time of the events in days since J2000.0 (UTC)"
    assert data["ra"].values == pytest.approx(np.arange(15, 360, 30))
    assert data["ring"].values == pytest.approx([-75, -45, -15, 15, 45, 75])
    assert data.attrs["time_frame"] == "antisidereal"
    assert data.attrs["equinox"] == "date"
    assert data.attrs["format_version"] == 1
    assert data.attrs["mean_epoch"] == pytest.approx(full.overall_epoch())
    assert json.loads(data.attrs["inputs"])[0]["sha256"] == "00"


@pytest.mark.parametrize("target", [(os, "replace"), (xr.Dataset, "to_netcdf")], ids=["rename", "in the middle"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_save_leaves_the_older_file_and_no_other(full, tmp_path, monkeypatch, target, error):
    path = tmp_path / "counts.nc"
    path.write_text("precious")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(*target, fail)
    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    match = "counts.nc: cannot be written .*No space left.*choose another -o" if wanted is InputError else None
    with pytest.raises(wanted, match=match):
        full.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["counts.nc"]
    assert path.read_text() == "precious"


def test_save_needs_a_folder(full, tmp_path):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist; make it"):
        full.save(tmp_path / "nowhere" / "counts.nc")


def test_unreadable_files_are_refused(full, tmp_path):
    path = full.save(tmp_path / "counts.nc")
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"none.nc: no such file; make one with `diffcr bin`"):
        load_counts(tmp_path / "none.nc")
    with pytest.raises(InputError, match="this is a folder; give the counts file in it"):
        load_counts(tmp_path)
    for length in (0, 7, 600, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"counts.nc: not a readable NetCDF file .*copy it again or repeat"):
            load_counts(path)


def _change(**changes):
    def change(data):
        for name, value in changes.items():
            data[name] = data[name] * 0 + value if np.ndim(value) == 0 else (data[name].dims, value)
        return data

    return change


def _attribute(**changes):
    return lambda data: data.assign_attrs(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_attribute(format="other"), "NetCDF, but not a counts file of diffcr; make one with `diffcr bin`"),
        (_attribute(format_version=2), "format version 2, this diffcr reads up to 1; update diffcr"),
        (
            _attribute(format_version="new"),
            "contents are not as `diffcr bin` writes them .*repeat `diffcr bin`",
        ),
        (_attribute(inputs="{"), "contents are not as `diffcr bin` writes them"),
        (_attribute(inputs="3"), "contents are not as `diffcr bin` writes them"),
        (_attribute(history="[]"), "contents are not as `diffcr bin` writes them"),
        (_attribute(time_frame="lunar"), "unknown time frame 'lunar': choose one of sidereal"),
        (lambda d: d.drop_vars("n_time"), "the counts file lacks n_time; repeat `diffcr bin`"),
        (lambda d: d.drop_vars(["latitude", "epoch"]), "the counts file lacks epoch, latitude; repeat"),
        (lambda d: d.drop_attrs(), "not a counts file"),
        (_change(latitude=100.0), r"latitude of site 'HAWC' must lie in \[-90, 90\] degrees, not 100"),
        (_change(n_time=-1.0), "n_time holds negative or non-finite counts; bin the events again"),
        (_change(w2_sky=np.nan), "w2 of n_sky holds negative or non-finite counts"),
        (lambda d: d.assign(n_sky=2 * d["n_sky"]), "n_sky and n_time do not sum to the same events"),
        (lambda d: d.assign(n_local=2 * d["n_local"]), "n_local and n_time do not sum to the same events"),
        (lambda d: d.assign(n_half=2 * d["n_half"]), "n_half and n_time do not sum to the same events"),
        (
            lambda d: d.assign(span=-d["span"]),
            r"span must be first and last time .*\(2, 3, 2, 2\); bin the events again",
        ),
        (_change(num_events=0), "num_events does not fit n_time; bin the events again"),
        (lambda d: d.isel(time=slice(8)), r"n_time has shape .*8\), the grid and labels need .*12\)"),
        (lambda d: d.isel(ra=slice(3)), "n_ra of a ring grid must be a whole number of at least 4, not 3"),
        (lambda d: d.transpose(..., "ring"), "n_sky has shape .*the grid and labels need"),
    ],
)
def test_damaged_contents_are_refused(contents, tmp_path, monkeypatch, change, message):
    """Whatever is wrong inside, the message begins with the file and fits one line."""
    # Writing each damaged file would take ten times as long as reading it tells.
    damaged = change(contents.copy(deep=True))
    monkeypatch.setattr(xr, "open_dataset", lambda *args, **kwargs: damaged)
    path = tmp_path / "bad.nc"
    path.touch()
    with pytest.raises(InputError, match=message) as caught:
        load_counts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


# Sums -----------------------------------------------------------------------------------------------------


def split(table, first):
    return ({k: v[..., part] for k, v in table.items()} for part in (slice(first), slice(first, None)))


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_one_configuration_add_up_to_the_whole(table, weighted):
    names = {"sites": ("hawc", "auger"), "energies": ("a", "b", "c"), "epochs": ("1", "2")}
    one, two = (counts_of(part, weighted=weighted, **names) for part in split(table, 123))
    whole = counts_of(table, weighted=weighted, **names)
    both = combine([one, two])
    for name in ARRAYS[:6]:
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-12, err_msg=name)
    for name in whole.w2:
        np.testing.assert_allclose(both.w2[name], whole.w2[name], rtol=1e-12)
    assert both.weighted is weighted
    assert both.sum_weights == pytest.approx(whole.sum_weights)
    assert both.effective_events == pytest.approx(whole.effective_events)
    assert both.overall_epoch() == pytest.approx(table["year"].mean())
    assert (both.livetime == one.livetime + two.livetime).all()
    assert len(both.inputs) == 2


def test_labels_decide_what_is_added_not_their_order(table):
    """The same labels in another order land in their own places; new ones stand behind."""
    one = counts_of(table, sites=("hawc", "auger"), energies=("low", "mid", "high"), epochs=("first", "second"))
    place = table["place"]
    other = table | {"place": np.array([1 - place[0], 2 - place[1], place[2]])}
    two = counts_of(other, sites=("auger", "hawc"), energies=("high", "mid", "low"), epochs=("second", "third"))
    both = combine([one, two])
    assert [s.name for s in both.sites] == ["HAWC", "Auger"]
    assert both.energies == ("low", "mid", "high")
    assert both.epochs == ("first", "second", "third")
    assert both.n_sky.shape == (2, 3, 3, *GRID.shape)
    np.testing.assert_array_equal(both.n_sky[:, :, 0], one.n_sky[:, :, 0])
    np.testing.assert_array_equal(both.n_sky[:, :, 1], one.n_sky[:, :, 1] + one.n_sky[:, :, 0])
    np.testing.assert_array_equal(both.n_sky[:, :, 2], one.n_sky[:, :, 1])
    assert both.label((1, 2, 0)) == "Auger, high, first"


def test_different_configurations_stand_side_by_side(table):
    here = table | {"place": np.zeros((3, 500), int)}
    one, two = counts_of(here), counts_of(here, sites=("icecube",), epochs=("IC86",))
    both = combine([one, two])
    assert both.configurations() == [(0, 0, 0), (1, 0, 1)]
    assert [both.label(place) for place in both.configurations()] == ["HAWC, all", "IceCube, IC86"]
    assert both.num_events.sum() == 1000
    assert np.isnan(both.mean_epoch[0, 0, 1])
    assert both.livetime[0, 0, 1] == 0


def test_joined_counts_span_both_and_live_no_longer_than_from_first_to_last(table):
    """Two streams of the same 100 days, another year, and times that are not known."""
    place = np.zeros((3, 500), int)
    stream = counts_of(table | {"place": place})
    stream, second, later = (
        stream.replace(span=np.reshape(ends, (1, 1, 1, 2))) for ends in ([0.0, 100.0], [1.0, 101.0], [400.0, 500.0])
    )
    both = combine([stream, second])
    assert (both.span.ravel().tolist(), both.livetime.item()) == ([0.0, 101.0], 101.0)
    all_three = combine([later, both])
    assert (all_three.span.ravel().tolist(), all_three.livetime.item()) == ([0.0, 500.0], 201.0)
    unknown = combine([stream.replace(span=None), second, later])
    assert np.isnan(unknown.span).all() and unknown.livetime.item() == 300
    # Where a part has no event it says nothing of the times.
    other = combine([stream, second.replace(energies=("high",))])
    assert other.span[0, :, 0].tolist() == [[0.0, 100.0], [1.0, 101.0]]
    assert combine([other, second]).span[0, :, 0].tolist() == [[0.0, 101.0], [1.0, 101.0]]
    apart = combine([stream, second.replace(energies=("high",), epochs=("2",))])
    assert np.isnan(apart.span[apart.num_events == 0]).all() and np.isfinite(apart.span[apart.num_events > 0]).all()


def test_years_stand_in_their_order_and_other_epochs_in_that_of_the_parts(table):
    here = table | {"place": np.zeros((3, 500), int)}
    for given, wanted in (
        (("2015", "2014", "2016"), ("2014", "2015", "2016")),
        (("IC86-2", "IC86-1"), ("IC86-2", "IC86-1")),
        (("2015", "first"), ("2015", "first")),
    ):
        number = dict(zip(given, (10, 20, 30), strict=False))
        parts = [counts_of({k: v[..., : number[e]] for k, v in here.items()}, epochs=(e,)) for e in given]
        both = combine(parts)
        assert both.epochs == wanted
        assert both.num_events.ravel().tolist() == [number[epoch] for epoch in wanted]


def test_unit_weights_join_weighted_events(table):
    """Events without weights have w = w^2 = 1 beside those with weights; the order does not matter."""
    here = table | {"place": np.zeros((3, 500), int)}
    first, second = split(here, 200)
    plain, weighted = counts_of(first), counts_of(second, weighted=True)
    for both in (combine([plain, weighted]), combine([weighted, plain])):
        assert both.weighted
        w = second["weight"]
        assert both.sum_weights == pytest.approx(200 + w.sum())
        assert both.w2["n_time"].sum() == pytest.approx(200 + (w**2).sum())
        assert both.effective_events == pytest.approx((200 + w.sum()) ** 2 / (200 + (w**2).sum()))
        np.testing.assert_allclose(both.w2["n_sky"], plain.n_sky + weighted.w2["n_sky"])
        assert both.num_events.item() == 500


def test_histories_are_joined(table):
    here = table | {"place": np.zeros((3, 500), int)}
    one = counts_of(here, history={"simulated": True})
    two = counts_of(here, sites=("auger",), history={"unblinded": {"time": "2026"}})
    for both in (combine([one, two]), combine([two, one])):
        assert both.history == {"simulated": True, "unblinded": {"time": "2026"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"time_frame": "solar"},
            "different time frames, sidereal and solar, .*bin both with one --time-frame",
        ),
        ({"history": {"blind": {"key_check": "a"}}}, "one of the counts is blinded.*blind all with one key"),
        (
            {"history": {"orbital_removed": {"gamma": 2.7}}},
            "orbital motion was removed from one .*bin all with",
        ),
        ({"sites": (Site("HAWC", 0.3, -1.7, 1.0),)}, "two observatories are called HAWC but differ"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_either_order(table, changes, message):
    one = counts_of(table | {"place": np.zeros((3, 500), int)})
    other = one.replace(**changes)
    with pytest.raises(InputError, match=message):
        combine([one, other])
    with pytest.raises(InputError, match=re.sub("sidereal and solar", "solar and sidereal", message)):
        combine([other, one])


def test_grids_must_agree(table):
    here = table | {"place": np.zeros((3, 500), int)}
    with pytest.raises(InputError, match=r"different grids, 12 x 6 and 12 x 7, .*bin both with one --grid"):
        combine([counts_of(here), counts_of(here, grid=RingGrid(7, 12))])


def test_empty_configurations_are_no_configurations(table):
    place = np.zeros((3, 500), int)
    place[1] = 2
    counts = counts_of(table | {"place": place}, energies=("1-2", "2-3", "3-4"))
    assert counts.configurations() == [(0, 2, 0)]
    assert counts.label((0, 2, 0)) == "HAWC, 3-4"
    assert counts.overall_epoch() == pytest.approx(table["year"].mean())
    assert not counts.blinded


def test_unknown_epochs_leave_no_overall_epoch(table):
    counts = counts_of(table | {"place": np.zeros((3, 500), int)})
    assert np.isnan(counts.replace(mean_epoch=counts.mean_epoch * np.nan).overall_epoch())


def test_moments_of_another_shape_are_refused():
    counts = read_counts("dataset:auger-8eev", grid=RingGrid(6, 12))
    with pytest.raises(InputError, match=r"moments has shape .*bin the events again"):
        counts.replace(moments=np.zeros((1, 1, 1, 2, 2)))
