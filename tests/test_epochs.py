"""Epochs: their table, why they are kept apart, and the test of a common acceptance."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.time import Time
from diffcr.inference.binning import BinningOptions, bin_chunks
from diffcr.inference.data import combine
from diffcr.inference.epochs import merge_epochs, merge_test, read_epochs
from diffcr.inference.events import EventChunk
from diffcr.inference.fit import fit
from helpers import asimov, dipole_sky, drawn
from scipy import stats

from diffcr.detector import acceptance
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.rate import rate
from diffcr.site import site

GRID = RingGrid(18, 36)
SITE = site("auger")
LOCAL = np.asarray(acceptance(SITE, GRID, profile="triangle"))
FLAT = np.ones(GRID.shape)
HEADER = "label,start,end\n"


def one_epoch(make, label, local, number, wave, sky, **options):
    """Counts of one epoch, with a sidereal wave (amplitude, phase) of the rate."""
    expected = np.asarray(rate(GRID, number, harmonics=[(1, *wave)]))
    return make(SITE, GRID, local, expected, sky, **options).replace(epochs=(label,))


def tilted(east: float) -> np.ndarray:
    """The acceptance, larger by `east` sin(-H) towards the east."""
    local = LOCAL * (1 + east * np.sin(-GRID.hour_angle))
    return local / local.sum()


def forged():
    """Isotropic sky, east 5 % more efficient in the first epoch than in the second, opposite rate waves."""
    first = one_epoch(asimov, "one", tilted(0.025), 1e9, (0.1, 1.0), FLAT, epoch_year=2010.0)
    second = one_epoch(asimov, "two", tilted(-0.025), 1e9, (-0.1, 1.0), FLAT, epoch_year=2014.0)
    return combine([first, second])


# Reading -------------------------------------------------------------------------------------------------


def test_table_of_epochs_in_dates_and_in_mjd(write):
    text = "# configurations\nlabel, start, end\nIC59,2009-05-20,2010-05-31\n"
    text += "IC79,55347.25,55694\nIC86,2011-05-13T12:00:00+02:00,2012-05-15T06:30:00Z\n"
    epochs = read_epochs(write(text))
    assert [label for label, _, _ in epochs] == ["IC59", "IC79", "IC86"]
    expected = [
        (Time("2009-05-20").jd, Time("2010-05-31").jd),
        (Time(55347.25, format="mjd").jd, Time(55694, format="mjd").jd),
        (Time("2011-05-13T10:00:00").jd, Time("2012-05-15T06:30:00").jd),
    ]
    np.testing.assert_allclose([e[1:] for e in epochs], np.array(expected) - 2451545.0, atol=1e-9)


def test_order_of_the_rows_and_case_of_the_header_are_free(write):
    epochs = read_epochs(write("END,Label,START\n2012-01-01,late,2011-01-01\n2011-01-01,early,2010-01-01\n"))
    assert [e[0] for e in epochs] == ["late", "early"]
    # End excluded, start included: epochs that touch do not overlap.
    assert epochs[1][2] == epochs[0][1]


BAD_TABLES = {
    "empty": ("", "not a readable CSV table .* needs columns label,start,end"),
    "binary": (b"\xff\xfe\x00label", "not a readable CSV table"),
    "no end": ("label,start\na,2010-01-01\n", "lacks column end; it needs label,start,end"),
    "no row": (HEADER, "has no row"),
    "backwards": (HEADER + "a,2012-01-01,2011-01-01\n", "epoch 'a' in row 1 ends before it starts; swap"),
    "no length": (HEADER + "a,2012-01-01,2012-01-01\n", "row 1 ends before it starts"),
    "overlap": (
        HEADER + "b,2012-01-01,2013-01-01\na,2011-01-01,2012-01-02\n",
        "epochs 'a' and 'b' overlap; every event must belong to one",
    ),
    "same label": (
        HEADER + "a,2011-01-01,2012-01-01\na,2012-01-01,2013-01-01\n",
        "two epochs have the same label",
    ),
    "no date": (HEADER + "a,2011-01-01,soon\n", "end = 'soon' in row 1 is neither a date .* nor an MJD"),
    "day or month first": (HEADER + "a,01/02/2011,2012-01-01\n", "start = '01/02/2011' in row 1 is neither"),
    "year": (HEADER + "a,2011-01-01,2012-01-01\nb,2012,2013\n", "start = '2012' in row 2 is neither"),
    "decimal year": (HEADER + "a,2012.5,2013.5\n", "start = '2012.5' in row 1 is neither"),
    "seconds": (HEADER + "a,1.3e9,1.4e9\n", "start = '1.3e9' in row 1 is neither"),
    "empty field": (HEADER + "a,,2013-01-01\n", "start = nan in row 1 is neither"),
    "infinite": (HEADER + "a,2012-01-01,inf\n", "end = 'inf' in row 1 is neither"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_refused(write, case):
    text, message = BAD_TABLES[case]
    with pytest.raises(InputError, match=message):
        read_epochs(write(text, "epochs.csv"))


def test_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; --epochs takes 'yearly' or a CSV file"):
        read_epochs(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no such file"):
        read_epochs(tmp_path)


def chunk_at(dates: list[str]) -> EventChunk:
    """Events at the zenith at the given moments."""
    days = Time(dates).jd - 2451545.0
    zero = np.zeros(len(days))
    return EventChunk(days, None, None, zero + 0.1, zero, None, None, 1, 0)


def test_yearly_epochs_are_calendar_years():
    """The year turns at midnight UTC, in leap years too."""
    dates = [
        "2011-12-31T23:59:59",
        "2012-01-01T00:00:01",
        "2012-12-31T23:59:58",
        "2013-01-01T00:00:00",
        "2012-06-01",
    ]
    counts = bin_chunks([chunk_at(dates)], SITE, BinningOptions(grid=GRID, epochs="yearly"))
    assert counts.epochs == ("2011", "2012", "2013")
    assert counts.num_events[0, 0].tolist() == [1, 3, 1]


def test_table_puts_events_into_their_epoch(write):
    """Start included, end excluded; events in no epoch are cut; an epoch without events is left out."""
    table = HEADER + "b,2012-01-01,2013-01-01\na,2011-01-01,2012-01-01\nempty,2014-01-01,2015-01-01\n"
    dates = ["2011-01-01", "2011-12-31T23:59:59", "2012-01-01", "2013-01-01", "2010-12-31T23:59:59"]
    options = BinningOptions(grid=GRID, epochs=read_epochs(write(table)))
    counts = bin_chunks([chunk_at(dates)], SITE, options)
    assert counts.epochs == ("b", "a")
    assert counts.num_events[0, 0].tolist() == [1, 2]
    assert counts.inputs[0]["cut"]["epoch"] == 2


# Merging -------------------------------------------------------------------------------------------------


def test_unlike_epochs_merged_by_force_fake_a_dipole():
    """(1 + e sin)(1 + s cos) + (1 - e sin)(1 - s cos) does not factorise: e s is left, 2.5e-3 for 2.5 % and 10 %."""
    counts = forged()
    apart = fit(counts)
    assert apart.dipole.amplitude < 1e-9
    assert apart.test_statistic < 1e-6
    merged = merge_epochs(counts, force=True)
    together = fit(merged)
    assert 1e-3 < together.dipole.amplitude < 4e-3
    assert together.dipole.amplitude > 20 * together.dipole.amplitude_error
    # The acceptance that both have on average, and the rate of both, show nothing by themselves.
    alike = combine(
        [
            one_epoch(asimov, label, LOCAL, 1e9, (s, 1.0), FLAT, epoch_year=2010.0)
            for label, s in (("one", 0.1), ("two", -0.1))
        ]
    )
    assert fit(merge_epochs(alike, force=True)).dipole.amplitude < 1e-9


def test_merged_counts_are_sums():
    counts = forged()
    weights = {name: getattr(counts, name) * 2.0 for name in ("n_sky", "n_time", "n_local", "n_half")}
    moments = np.arange(12.0).reshape(1, 1, 2, 3, 2)
    events = counts.num_events * np.array([1, 3])
    span = np.array([[3652.5, 4017.5], [5113.5, 5478.5]]).reshape(1, 1, 2, 2)
    merged = merge_epochs(counts.replace(w2=weights, moments=moments, num_events=events, span=span), force=True)
    assert merged.epochs == ("all",)
    np.testing.assert_allclose(merged.n_sky[0, 0, 0], counts.n_sky[0, 0, 0] + counts.n_sky[0, 0, 1])
    np.testing.assert_allclose(merged.n_half.sum(), counts.n_half.sum())
    np.testing.assert_allclose(merged.w2["n_local"], 2 * counts.n_local.sum(axis=2, keepdims=True))
    np.testing.assert_allclose(merged.moments[0, 0, 0], [[6, 8], [10, 12], [14, 16]])
    assert merged.num_events[0, 0, 0] == events.sum()
    # One quarter of 2010 and three of 2014.
    np.testing.assert_allclose(merged.mean_epoch, 2013.0)
    np.testing.assert_allclose(merged.livetime, 730.0)
    assert merged.span.ravel().tolist() == [3652.5, 5478.5]
    # Two streams of one year are live for a year, and an unknown time stays unknown.
    assert merge_epochs(counts.replace(span=span[:, :, [0, 0]]), force=True).livetime.item() == 365.0
    assert np.isnan(merge_epochs(counts, force=True).span).all()
    assert merged.history["merged_epochs"] == ["one", "two"]


def test_merging_is_refused_with_what_the_test_finds():
    message = (
        "epochs one, two are different detector configurations and are not merged: one acceptance for all is excluded "
        r"by a likelihood-ratio test \(TS = .* for 306 degrees of freedom, log10 p = -.*\); keep them apart"
    )
    with pytest.raises(InputError, match=message):
        merge_epochs(forged())
    alike = [one_epoch(asimov, label, LOCAL, 1e6, (0.1, 1.0), FLAT) for label in ("one", "two")]
    with pytest.raises(InputError, match="would be allowed by a likelihood-ratio test"):
        merge_epochs(combine(alike))
    with pytest.raises(InputError, match="only one epoch: nothing to merge"):
        merge_epochs(alike[0], force=True)


def pair(seed, first, second, sky, locals_=(LOCAL, LOCAL), spread=0.0):
    """Two drawn epochs with different, nearly opposite waves of the rate."""
    parts = [
        one_epoch(drawn, label, local, number, (0.3, phase), sky, seed=[seed, k], weight_spread=spread)
        for k, (label, local, number, phase) in enumerate(
            zip(("one", "two"), locals_, (first, second), (1.0, 4.0), strict=True)
        )
    ]
    return fit(combine(parts), rate_bins=36)


@pytest.mark.parametrize(("first", "second", "skies"), [(8_000, 3_000, 200), (80_000, 30_000, 100)])
def test_statistic_is_chi_squared_under_a_common_acceptance(first, second, skies):
    """Over skies with a large dipole: without the sky in the expectation it would be 1.3 dof at 80000 events.

    Of few events in a block the likelihood ratio is larger by 1 + (sum 1/p - 1)/(6 n): 1 % at most here.
    """
    sky = dipole_sky(GRID, (0.2, -0.3))
    tests = [merge_test(pair(seed, first, second, sky)) for seed in range(skies)]
    ratio = np.array([t.test_statistic / t.degrees_of_freedom for t in tests])
    freedom = np.mean([t.degrees_of_freedom for t in tests])
    error = np.sqrt(2 / freedom / len(tests))
    assert -3 * error < ratio.mean() - 1 < 0.01 + 3 * error
    assert ratio.std() == pytest.approx(np.sqrt(2 / freedom), rel=0.2)
    p_values = [10**t.log10_p for t in tests]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert np.mean([t.allowed for t in tests]) > 0.95


def test_weights_scale_the_statistic():
    tests = [merge_test(pair(seed, 30_000, 30_000, FLAT, spread=0.6)) for seed in range(30)]
    ratio = np.mean([t.test_statistic / t.degrees_of_freedom for t in tests])
    error = np.sqrt(2 / tests[0].degrees_of_freedom / len(tests))
    # Sums of few log-normal weights are skewed; without the scale it would be exp(0.36) = 1.43.
    assert ratio == pytest.approx(1, abs=0.03 + 3 * error)


def test_five_percent_between_east_and_west_are_found():
    test = merge_test(pair(1, 1e6, 1e6, FLAT, (tilted(0.025), tilted(-0.025))))
    assert not test.allowed
    assert test.log10_p < -20
    assert merge_test(pair(1, 1e6, 1e6, FLAT)).allowed


def test_degrees_of_freedom_are_blocks_less_one_for_each_further_epoch():
    """With many events every exposed cell is a block of its own."""
    parts = [one_epoch(asimov, label, LOCAL, 1e9, (0.1, k), FLAT) for k, label in enumerate("abc")]
    exposed = int((LOCAL > 0).sum())
    test = merge_test(SimpleNamespace(counts=combine(parts), acceptances=np.stack([LOCAL] * 3)))
    assert test.degrees_of_freedom == 2 * (exposed - 1)
    assert test.test_statistic == pytest.approx(0, abs=1e-5)
    assert (test.log10_p, test.allowed) == (pytest.approx(0, abs=1e-9), True)


def test_a_test_needs_two_epochs_and_enough_events():
    with pytest.raises(InputError, match="at least two epochs of one observatory; bin with --epochs"):
        merge_test(fit(one_epoch(asimov, "one", LOCAL, 1e5, (0.1, 1.0), FLAT)))
    few = pair(3, 400, 30, FLAT)
    with pytest.raises(InputError, match=r"too few events for a merge test: it needs two blocks .* 20 expected"):
        merge_test(few)
    # Two observatories with one epoch each have nothing in common to test.
    other = one_epoch(asimov, "two", LOCAL, 1e5, (0.1, 1.0), FLAT).replace(sites=(site("-20,30,60"),))
    with pytest.raises(InputError, match="at least two epochs of one observatory"):
        merge_test(fit(combine([one_epoch(asimov, "one", LOCAL, 1e5, (0.1, 1.0), FLAT), other])))
