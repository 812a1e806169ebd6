"""Inputs read again: the same events one by one, in other frames and in parts; and the systematics block."""

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.time import Time
from diffcr.inference.blinding import blind
from diffcr.inference.control_runs import Source, _without, systematics_block, to_j2000
from diffcr.inference.dipole import Dipole
from diffcr.inference.scrambling import scramble
from diffcr.inference.simulate import Simulation, simulate_event_list
from helpers import asimov

from diffcr.clock import days_from, local_time
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 36)


def _list(path, year, dipole, seed, number=12000):
    """Events of HAWC in one year, with an energy that grows with the row."""
    first, last = (float(days_from([f"{y}-01-01"], "iso")[0]) for y in (year, year + 1))
    simulation = Simulation(site=site("hawc"), num_events=number, dipole=dipole, start=first, end=last)
    simulate_event_list(simulation, GRID, seed, path)
    table = pd.read_csv(path)
    table.assign(energy=1.0 + np.arange(len(table)) % 7).to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Two years of one sky, a third with the dipole reversed, and the first without energies."""
    folder = tmp_path_factory.mktemp("lists")
    found = [
        _list(folder / f"{year}.csv", year, dipole, year)
        for year, dipole in ((2016, (0.1, 0.05, 0.0)), (2017, (0.1, 0.05, 0.0)), (2018, (-0.1, -0.05, 0.0)))
    ]
    plain = folder / "plain.csv"
    pd.read_csv(found[0])[["time_unix", "ra", "dec"]].to_csv(plain, index=False)
    return [*found, str(plain)]


def source(*paths, **options):
    return Source(paths, "hawc", {}, {"grid": GRID} | options)


def test_events_are_those_of_the_file(lists):
    """Zenith and azimuth of the list, which is read by right ascension and declination; directions of date as astropy
    precesses them; the sidereal time of the site. A swapped East or West would move azimuths by up to 180 degrees."""
    table, events = pd.read_csv(lists[0]), source(lists[0]).events()
    np.testing.assert_allclose(events.zenith, np.radians(table["zenith"]), atol=3e-5)
    away = np.sin(events.zenith) * np.angle(np.exp(1j * (events.azimuth - np.radians(table["azimuth"]))))
    np.testing.assert_allclose(away, 0, atol=3e-5)
    given = SkyCoord(table["ra"].to_numpy(), table["dec"].to_numpy(), unit="deg", frame=FK5(equinox="J2000"))
    moment = Time(table["time_unix"].to_numpy()[0], format="unix")
    date = given[:1].transform_to(FK5(equinox=moment))
    np.testing.assert_allclose(events.right_ascension[0], date.ra.rad[0], atol=2e-6)
    np.testing.assert_allclose(events.declination[0], date.dec.rad[0], atol=2e-6)
    clock = np.asarray(local_time(events.days, site("hawc").longitude))
    np.testing.assert_allclose(np.exp(1j * events.time), np.exp(1j * clock), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zenith_max": np.radians(30.0)},
        {"energy_range": (3.0, 6.0)},
        {"energy_edges": (2.0, 4.0, 5.0)},
        {"zenith_max": "site", "time_range": (5900.0, 6000.0)},
        {"time_frame": "solar", "orbital_index": 2.7},
    ],
)
def test_events_pass_the_cuts_of_the_counts(lists, options):
    """Number, sum of weights and first harmonic are those of the counts made with the same options."""
    one = source(lists[0], **options)
    events, counts = one.events(), one.counts()
    assert len(events) == counts.num_events.sum()
    weight = np.ones(len(events)) if events.weight is None else events.weight
    assert weight.sum() == pytest.approx(counts.sum_weights)
    harmonic = weight @ np.exp(1j * events.right_ascension)
    assert harmonic == pytest.approx(complex(*counts.inputs[0]["right_ascension_harmonic"]))


def test_events_of_a_band_are_those_of_its_rings(lists):
    one = source(lists[0])
    band = np.radians((-10.0, 30.0))
    centres = GRID.declination
    rings = (centres > band[0]) & (centres < band[1])
    assert len(one.events().in_band(GRID, tuple(band))) == one.counts().n_sky[..., rings, :].sum()


def test_several_lists_keep_their_sites_apart(lists):
    two = Source((lists[0], lists[1]), ("hawc", "icetop"), {}, {"grid": GRID})
    with pytest.raises(InputError, match="below the horizon"):
        two.counts()
    events = Source((lists[0], lists[1]), ("hawc", "20,0,90"), {}, {"grid": GRID}).events()
    assert [s.latitude for s in events.sites] == [site("hawc").latitude, pytest.approx(np.radians(20))]
    assert np.array_equal(np.unique(events.site, return_counts=True)[1], [len(source(p).events()) for p in lists[:2]])


def test_counts_have_no_events(tmp_path, lists):
    path = tmp_path / "counts.nc"
    source(lists[0]).counts().save(path)
    with pytest.raises(InputError, match="holds counts; give event lists"):
        Source((str(path),)).events()
    with pytest.raises(InputError, match="holds counts; give event lists"):
        Source((str(path),)).counts(time_frame="solar")


def test_too_many_events_are_not_held(monkeypatch, lists):
    monkeypatch.setattr("diffcr.inference.control_runs.MOST_EVENTS", 1000)
    with pytest.raises(InputError, match="more than 1000 events"):
        source(lists[0]).events()


def test_what_a_cut_leaves_out_is_the_rest(tmp_path, lists):
    """The high-zenith half by subtraction, against a list of these events alone."""
    cut = np.radians(25.0)
    whole, near = source(lists[0]).counts(), source(lists[0]).counts(zenith_max=cut)
    far = _without(whole, near)
    table, events = pd.read_csv(lists[0]), source(lists[0]).events()
    path = tmp_path / "far.csv"
    table[np.cos(events.zenith) < np.cos(cut)].to_csv(path, index=False)
    alone = source(str(path)).counts()
    for name in ("n_sky", "n_time", "n_local", "n_half", "num_events"):
        np.testing.assert_allclose(getattr(far, name), getattr(alone, name), err_msg=name)
    np.testing.assert_allclose(far.mean_epoch, alone.mean_epoch, rtol=1e-12)
    np.testing.assert_allclose(far.moments, alone.moments, atol=1e-6)
    with pytest.raises(InputError, match="leaves nothing on its other side"):
        _without(whole, whole)
    with pytest.raises(InputError, match="some epochs or energy bins"):
        _without(whole, source(lists[0]).counts(energy_edges=(1.0, 3.0, 6.0)))


def test_turn_to_j2000_is_that_of_astropy():
    """A direction on the equator of date 2050, at 0 h and at 6 h, in J2000; the other sense is 1.3 degrees off."""
    counts = asimov(site("hawc"), GRID, np.ones(GRID.shape), np.full(36, 1e4), np.ones(GRID.shape), 2050.0)
    turn, name = to_j2000(counts)
    assert name == "J2000"
    for column, ra in ((0, 0.0), (1, 90.0)):
        there = SkyCoord(ra, 0.0, unit="deg", frame=FK5(equinox="J2050")).transform_to(FK5(equinox="J2000"))
        np.testing.assert_allclose(turn[:, column], there.cartesian.xyz.value[:2], atol=2e-6)
    assert to_j2000(counts.replace(time_frame="solar"))[1] == "date"


def _dipole(counts):
    """The dipole of counts for the block: scrambling, which is the likelihood to first order."""
    found, (turn, _) = scramble(counts), to_j2000(counts)
    return Dipole(turn @ found.vector, turn @ found.covariance @ turn.T)


def test_block_of_good_lists_adds_nothing(lists):
    one = source(*lists[:2])
    counts = one.counts()
    block = systematics_block(_dipole(counts), counts, one)
    assert {c["name"] for c in block["checks"]} == {
        *("antisidereal dipole", "solar dipole", "extended-sidereal dipole", "years", "energy halves"),
        *("zenith halves", "East-West against likelihood"),
    }
    assert block["not_run"] == []
    assert block["source"] is None
    np.testing.assert_array_equal(block["covariance"], np.zeros((2, 2)))
    np.testing.assert_allclose(block["total_covariance"], _dipole(counts).covariance)
    assert not next(c for c in block["checks"] if c["name"] == "energy halves")["counts"]
    assert set(block["frames"]) == {"sidereal", "solar", "antisidereal", "extended-sidereal"}


def test_block_finds_the_year_that_differs(lists):
    """One dipole of three reversed: the spread of the years, (2/3) 0.11^2 and the half of it per component over three,
    is the systematic variance to a third."""
    one = source(*lists[:3])
    counts = one.counts()
    block = systematics_block(_dipole(counts), counts, one)
    years = next(c for c in block["checks"] if c["name"] == "years")
    assert years["degrees_of_freedom"] == 4
    assert years["p_value"] < 1e-6
    # Vectors +d, +d, -d: mean d / 3, sample variance of a component (4/3) d^2 / 2, that of the mean a third of it.
    expected = 4 / 3 * (0.1**2 + 0.05**2) / 2 / 3
    assert block["source"] == "years"
    assert np.trace(block["covariance"]) / 2 == pytest.approx(expected, rel=0.4)
    total, own = np.array(block["total_covariance"]), _dipole(counts).covariance
    np.testing.assert_allclose(total - own, block["covariance"], atol=1e-12)
    error = block["amplitude_error"]
    assert error["total"] == pytest.approx(np.hypot(error["statistical"], error["systematic"]))


def test_block_says_what_could_not_run_and_why(lists):
    plain = source(lists[3])
    counts = plain.counts()
    block = systematics_block(_dipole(counts), counts, plain)
    reasons = {entry["check"]: entry["reason"] for entry in block["not_run"]}
    assert "name it with --columns energy=NAME" in reasons["energy"]
    assert "fewer than two of 1 parts" in reasons["epochs"]
    alone = systematics_block(_dipole(counts), counts)
    reasons = {entry["check"]: entry["reason"] for entry in alone["not_run"]}
    assert set(reasons) == {"time frames", "epochs", "energy", "zenith angle"}
    assert "--epochs yearly" in reasons["epochs"]
    assert "--energy-edges" in reasons["energy"]
    assert [c["name"] for c in alone["checks"]] == ["East-West against likelihood"]


def test_counts_allow_their_own_epochs_and_energies(lists):
    one = source(*lists[:2], epochs="yearly", energy_edges=(1.0, 4.0, 8.0))
    counts = one.counts()
    block = systematics_block(_dipole(counts), counts)
    ran = {c["name"]: c for c in block["checks"]}
    assert {"epochs", "energy bins"} <= set(ran)
    assert ran["epochs"]["counts"]
    assert not ran["energy bins"]["counts"]


def test_a_block_without_any_check_is_said_to_be_empty(lists):
    """With a likelihood less precise than East-West nothing can be compared."""
    counts = source(lists[3]).counts()
    vague = Dipole(np.zeros(2), np.eye(2))
    block = systematics_block(vague, counts)
    assert block["checks"] == []
    assert block["covariance"] is None
    assert len(block["not_run"]) == 5


def test_blinded_counts_and_other_frames_are_refused(lists):
    counts = source(lists[0]).counts()
    with pytest.raises(InputError, match="blinded counts would tell their phase"):
        systematics_block(_dipole(counts), blind(counts, "key"))
    with pytest.raises(InputError, match="not of one in solar time"):
        systematics_block(_dipole(counts), source(lists[0]).counts(time_frame="solar"))
