"""The cube of time bins and local cells: binned event by event, kept in files, added, and held to the marginals."""

import numpy as np
import pytest
from diffcr.inference import BinningOptions, combine, load_counts, merge_epochs, read_counts
from diffcr.inference.binning import bin_chunks
from diffcr.inference.blinding import blind
from diffcr.inference.events import EventChunk
from typer.testing import CliRunner

from diffcr.clock import local_time
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(6, 12)
HAWC = site("hawc")


def chunk(number=500, seed=0, weight=False):
    rng = np.random.default_rng(seed)
    days = np.sort(rng.uniform(5844.5, 6209.5, number))
    ra, dec = rng.uniform(0, 2 * np.pi, number), rng.uniform(-0.3, 1.0, number)
    energy = rng.uniform(1, 10, number)
    return EventChunk(days, ra, dec, None, None, energy, rng.uniform(1, 3, number) if weight else None, 1, 0)


def visible(events: EventChunk) -> EventChunk:
    """Events above the horizon of the site: their hour angles are small."""
    hour = np.asarray(local_time(events.days, HAWC.longitude)) - events.ra
    good = np.cos(hour) > 0.6
    return EventChunk(*(x[good] if isinstance(x, np.ndarray) else x for x in events))


def binned(events, **options):
    return bin_chunks([visible(events)], HAWC, BinningOptions(grid=GRID, equinox="date", cube=True, **options))


@pytest.mark.parametrize("weight", [False, True])
def test_each_event_is_in_the_cell_of_its_time_ring_and_hour_angle(weight):
    """Index by index with the plain functions: transposed axes or a time from the wrong half would show."""
    events = chunk(weight=weight)
    seen = visible(events)
    counts = binned(events)
    tau = GRID.bin_of(np.asarray(local_time(seen.days, HAWC.longitude)))
    expected = np.zeros((12, 6, 12))
    cell = (tau, GRID.ring_of(seen.dec), (tau - GRID.bin_of(seen.ra)) % 12)
    np.add.at(expected, cell, 1.0 if seen.weight is None else seen.weight)
    np.testing.assert_allclose(counts.cube, expected[None, None, None], rtol=1e-12)
    assert counts.cube.sum() == pytest.approx(counts.sum_weights)


def test_energy_bins_and_several_pieces_keep_their_own():
    events = chunk(3000)
    split = binned(events, energy_edges=(1.0, 4.0, 10.0))
    assert split.cube.shape == (1, 2, 1, 12, 6, 12)
    np.testing.assert_array_equal(split.cube.sum(1), binned(events).cube[:, 0])
    assert split.cube[0, 0].sum() == split.num_events[0, 0, 0]
    halves = [EventChunk(*(x[k::2] if isinstance(x, np.ndarray) else x for x in visible(events))) for k in (0, 1)]
    several = bin_chunks(halves, HAWC, BinningOptions(grid=GRID, equinox="date", cube=True))
    np.testing.assert_array_equal(several.cube, binned(events).cube)


def test_there_is_none_unless_asked_for(tmp_path):
    plain = bin_chunks([visible(chunk())], HAWC, BinningOptions(grid=GRID, equinox="date"))
    assert plain.cube is None
    assert load_counts(plain.save(tmp_path / "a.nc")).cube is None
    np.testing.assert_array_equal(plain.n_sky, binned(chunk()).n_sky)


def test_files_keep_it_under_a_name_with_its_axes(tmp_path):
    import h5py

    counts = binned(chunk())
    path = counts.save(tmp_path / "a.nc")
    np.testing.assert_array_equal(load_counts(path).cube, counts.cube)
    with h5py.File(path) as file:
        assert file["n_cube"].shape == counts.cube.shape
        assert file["n_cube"].compression == "gzip"
        names = [d.keys()[0] for d in file["n_cube"].dims]
    assert names == ["observatory", "energy", "epoch", "time", "ring", "hour_angle"]


def test_cubes_add_up_where_all_have_one():
    one, two = binned(chunk(seed=1)), binned(chunk(seed=2))
    both = combine([one, two])
    np.testing.assert_array_equal(both.cube, one.cube + two.cube)
    plain = one.replace(cube=None)
    for parts in ([one, plain], [plain, one]):
        with pytest.raises(
            InputError, match="only some of the counts keep a cube: bin all with --cube, or all without"
        ):
            combine(parts)
    assert combine([plain, plain]).cube is None


def test_different_configurations_keep_their_places():
    one = binned(chunk(seed=1))
    two = one.replace(
        epochs=("late",),
        cube=2 * one.cube,
        n_sky=2 * one.n_sky,
        n_time=2 * one.n_time,
        n_local=2 * one.n_local,
        n_half=2 * one.n_half,
        num_events=2 * one.num_events,
    )
    both = combine([one, two])
    np.testing.assert_array_equal(both.cube[0, 0, 0], one.cube[0, 0, 0])
    np.testing.assert_array_equal(both.cube[0, 0, 1], 2 * one.cube[0, 0, 0])


def test_changed_marginals_leave_no_stale_cube():
    """Blinding turns right ascension and time, merging adds epochs: the cube of before would tell, or not fit."""
    counts = binned(chunk(), epochs=(("a", 5844.5, 6000.0), ("b", 6000.0, 6300.0)))
    assert counts.replace(time_frame="solar").cube is counts.cube
    assert blind(counts, "key").cube is None
    assert merge_epochs(counts, force=True).cube is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[..., ::-1], "cube and n_local are not of the same events; bin the events again with --cube"),
        (lambda c: np.roll(c, 1, axis=3), "cube and n_time are not of the same events"),
        (lambda c: c + 1, "cube and n_time"),
        (lambda c: np.where(c > 0, np.nan, c), "cube holds negative or non-finite counts"),
        (lambda c: -c, "cube holds negative or non-finite counts"),
        (lambda c: c[..., :-1], r"cube has shape .*the grid and labels need \(1, 1, 1, 12, 6, 12\)"),
    ],
)
def test_a_cube_of_other_events_is_refused(change, message):
    counts = binned(chunk())
    with pytest.raises(InputError, match=message):
        counts.replace(cube=change(counts.cube))


def test_the_sky_of_a_cube_is_checked_too():
    """Two events that change their time bins leave the sums over time and over cells; only the sky tells."""
    counts = binned(chunk())
    cube = counts.cube.copy()
    (t, r, h), (u, s, k) = (tuple(i[3:]) for i in np.argwhere(cube > 0)[[0, -1]])
    assert t != u and (r, h) != (s, k)
    for (a, b, c), step in (((t, r, h), -1), ((u, s, k), -1), ((u, r, h), 1), ((t, s, k), 1)):
        cube[0, 0, 0, a, b, c] += step
    with pytest.raises(InputError, match="cube and n_sky are not of the same events"):
        counts.replace(cube=cube)


def test_command_line_keeps_it(tmp_path):
    from diffcr.inference.cli import app

    seen = visible(chunk())
    rows = (f"{d + 51544.5:.9f},{np.degrees(a):.9f},{np.degrees(b):.9f}\n" for d, a, b in zip(*seen[:3], strict=True))
    path = tmp_path / "events.csv"
    path.write_text("mjd,ra,dec\n" + "".join(rows))
    command = ["bin", str(path), "--site", "hawc", "--equinox", "date", "--grid", "12x6", "-o", str(tmp_path / "c.nc")]
    result = CliRunner().invoke(app, [*command, "--cube"], catch_exceptions=False)
    assert result.exit_code == 0
    np.testing.assert_array_equal(load_counts(tmp_path / "c.nc").cube, binned(chunk()).cube)
    # Counts files bring what they have.
    assert read_counts(tmp_path / "c.nc", cube=True).cube is not None
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert load_counts(tmp_path / "c.nc").cube is None
    with pytest.raises(InputError, match="it keeps no cube, which --cube asks for: bin the event list again"):
        read_counts(tmp_path / "c.nc", cube=True)
    for more in (["--blind", "x"], ["--merge-epochs", "--force"]):
        with pytest.raises(InputError, match="--cube goes neither with --blind nor with --merge-epochs"):
            CliRunner().invoke(app, [*command, "--cube", *more], catch_exceptions=False)
