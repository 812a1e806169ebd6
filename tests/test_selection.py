"""Parts of counts: against the same events binned with the cut made on the list."""

import dataclasses

import numpy as np
import pytest
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.data import MARGINALS, combine
from diffcr.inference.estimators import rayleigh, rayleigh_of_counts
from diffcr.inference.events import EventChunk
from diffcr.inference.selection import select

from diffcr.clock import local_time
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site

GRID = RingGrid(18, 36)
BAND = (np.radians(-40), np.radians(10))
HAS_CUBE = "cube" in {field.name for field in dataclasses.fields(BinningOptions)}


def events(seed, weighted=False, n=4000):
    """Directions above the horizon of Auger at random times, in the equator of date."""
    rng = np.random.default_rng(seed)
    zenith, azimuth = np.arccos(np.sqrt(rng.uniform(0.05, 1, n))), 2 * np.pi * rng.random(n)
    lat = site("auger").latitude
    east, north, up = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)
    dec = np.arcsin(north * np.cos(lat) + up * np.sin(lat))
    hour = np.arctan2(-east, up * np.cos(lat) - north * np.sin(lat))
    days = np.sort(rng.uniform(4000, 4700, n))
    ra = (np.asarray(local_time(days, site("auger").longitude)) - hour) % (2 * np.pi)
    weight = np.exp(0.4 * rng.standard_normal(n)) if weighted else None
    energy = rng.uniform(8, 32, n)
    return EventChunk(days, ra, dec, None, None, energy, weight, 1, 0)


def chosen(chunk, rows):
    return EventChunk(*(x[rows] if isinstance(x, np.ndarray) else x for x in chunk))


def binned(chunk, where="auger", **options):
    return bin_chunks([chunk], site(where), BinningOptions(grid=GRID, equinox="date", **options))


def same(part, expected):
    for name in MARGINALS:
        np.testing.assert_allclose(getattr(part, name), getattr(expected, name), rtol=1e-12, atol=1e-12, err_msg=name)
        if part.weighted:
            np.testing.assert_allclose(part.w2[name], expected.w2[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_band_holds_what_binning_the_events_of_the_band_gives(weighted):
    """The edges of the band lie on ring edges, so that a cut of the list is the same cut."""
    chunk = events(1, weighted)
    inside = (chunk.dec >= BAND[0]) & (chunk.dec < BAND[1])
    options = {"cube": True} if HAS_CUBE else {}
    part, expected = select(binned(chunk, **options), declination=BAND), binned(chosen(chunk, inside), **options)
    same(part, expected)
    assert part.weighted == weighted
    if weighted:
        assert part.num_events[0, 0, 0] == pytest.approx(inside.sum(), rel=0.03)
    else:
        assert part.num_events[0, 0, 0] == inside.sum()
    assert np.isnan(part.moments).all()
    assert np.array_equal(part.livetime, binned(chunk).livetime)
    assert part.history["selected"] == {"declination_deg": pytest.approx([-40, 10])}
    if HAS_CUBE:
        np.testing.assert_allclose(part.cube, expected.cube, rtol=1e-12)


def test_rows_of_a_band_follow_its_effective_number():
    """Weights of the same relative spread everywhere, ten times larger in the North: rows by weight would be wrong."""
    chunk = events(2, n=6000)
    rng = np.random.default_rng(0)
    north = chunk.dec > np.radians(-30)
    chunk = chunk._replace(weight=np.where(north, 10.0, 1.0) * np.exp(0.3 * rng.standard_normal(6000)))
    counts = binned(chunk)
    band = (np.radians(-90), np.radians(-30))
    part = select(counts, declination=band)
    by_weight = counts.num_events.sum() * part.sum_weights / counts.sum_weights
    assert by_weight < 0.3 * (~north).sum()
    # The relative spread of the whole list is larger than that of the part: an over-estimate, but of the right order,
    # and never more than there are rows.
    rows = int(part.num_events.sum())
    assert part.effective_events <= rows <= 6000
    even = binned(chunk._replace(weight=np.exp(0.3 * rng.standard_normal(6000))))
    assert select(even, declination=band).num_events.sum() == pytest.approx((~north).sum(), rel=0.02)


def test_rings_are_kept_whole_by_their_centres():
    """Rings of 10 degrees: the one centred on -35 is in, though the band begins at -36 and not at -40."""
    counts = binned(events(3))
    wide, tight = select(counts, declination=BAND), select(counts, declination=tuple(np.radians((-36, 6))))
    same(wide, tight)
    narrow = select(counts, declination=tuple(np.radians((-34, 6))))
    assert narrow.n_sky[0, 0, 0, 5].sum() == 0 < wide.n_sky[0, 0, 0, 5].sum()
    on_centres = select(counts, declination=(GRID.declination[5], GRID.declination[9]))
    same(wide, on_centres)


def test_a_band_that_loses_nothing_keeps_what_is_known_of_all_events():
    counts = binned(events(4, weighted=True))
    part = select(counts, declination=(-np.pi / 2, np.pi / 2))
    same(part, counts)
    assert np.array_equal(part.moments, counts.moments)
    assert np.array_equal(part.num_events, counts.num_events)
    assert select(counts) is counts


def test_configurations_are_found_by_label_and_by_index():
    chunk, other = events(5), events(6)
    options = {"energy_edges": (8, 16, 32), "epochs": "yearly"}
    auger = binned(chunk, **options)
    second = binned(other, **options).sites[0]
    second = dataclasses.replace(second, name="Second")
    both = combine([auger, binned(other, **options).replace(sites=(second,))])
    part = select(both, observatory="Second", energy="16-32", epoch=both.epochs[1])
    assert (part.sites[0].name, part.energies, part.epochs) == ("Second", ("16-32",), (both.epochs[1],))
    assert part.n_sky.shape == (1, 1, 1, *GRID.shape)
    same(part, select(both, 1, 1, 1))
    for name in (*MARGINALS, "num_events", "mean_epoch", "livetime", "span", "moments"):
        np.testing.assert_array_equal(getattr(part, name)[0, 0, 0], getattr(both, name)[1, 1, 1])
    assert select(both, energy=0).n_sky.shape[:3] == (2, 1, len(both.epochs))
    assert part.history["selected"] == {"observatory": "Second", "energy": "16-32", "epoch": both.epochs[1]}


def test_a_part_forgets_the_harmonic_of_the_whole_list():
    """Rayleigh analysis of one energy bin: that of its own events, to the width of the bins."""
    chunk = events(7)
    counts = binned(chunk, energy_edges=(8, 16, 32))
    rows = chunk.energy < 16
    own = rayleigh(chunk.ra[rows], declination=chunk.dec[rows])
    part = rayleigh_of_counts(select(counts, energy="8-16"))
    assert part.num_events == own.num_events
    assert (part.a, part.b) == pytest.approx((own.a, own.b), abs=0.1 * own.sigma)
    assert (part.a, part.b) != pytest.approx((own.a, own.b), abs=1e-9)


def test_what_cannot_be_selected_is_refused():
    counts = binned(events(8), energy_edges=(8, 16, 32))
    with pytest.raises(InputError, match="no energy '4-8'; choose one of: 8-16, 16-32"):
        select(counts, energy="4-8")
    with pytest.raises(InputError, match="no observatory 'HAWC'; choose one of: Auger"):
        select(counts, observatory="HAWC")
    with pytest.raises(InputError, match=r"epoch 1 does not exist: indices go from 0 to 0 \(all\)"):
        select(counts, epoch=1)
    with pytest.raises(InputError, match="energy -1 does not exist"):
        select(counts, energy=-1)
    with pytest.raises(InputError, match=r"band must be \(lowest, highest\), not \(0.5, 0.1\)"):
        select(counts, declination=(0.5, 0.1))
    with pytest.raises(InputError, match="give radians"):
        select(counts, declination=(-30.0, 10.0))
    with pytest.raises(InputError, match="declination_deg .* holds no event: widen the band"):
        select(counts, declination=(1.3, 1.5))
    empty = counts.replace(
        **{name: getattr(counts, name) * np.array([1, 0])[:, None, None, None] for name in ("n_sky", "n_local")},
        n_time=counts.n_time * np.array([1, 0])[:, None, None],
        n_half=counts.n_half * np.array([1, 0])[:, None, None, None, None],
        num_events=counts.num_events * np.array([1, 0])[:, None],
    )
    with pytest.raises(InputError, match=r"\(energy 16-32\) holds no event"):
        select(empty, energy="16-32")
