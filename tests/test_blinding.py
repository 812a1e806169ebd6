"""Blinding hides every phase and nothing else, and is undone exactly."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from diffcr.inference import (
    BinningOptions,
    Counts,
    Simulation,
    blind,
    blinding,
    fit,
    load_counts,
    rayleigh_of_counts,
    simulate_counts,
    simulate_events,
    unblind,
)
from diffcr.inference.binning import bin_chunks

from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import site as find_site

GRID = RingGrid(18, 36)
SIMULATION = Simulation(site=find_site("hawc"), num_events=3000.0, dipole=(0.3, 0.2, 0.0), weight_spread=0.3)


@pytest.fixture(scope="module")
def counts() -> Counts:
    """Weighted events of one observatory, binned, with all sums that binning keeps."""
    return bin_chunks(simulate_events(SIMULATION, 5), SIMULATION.site, BinningOptions(grid=GRID))


def angle_of(one: Counts, other: Counts) -> float:
    """Angle [degrees] by which the right ascensions of `other` are rotated, from the maps alone."""
    bins = [b for b in range(GRID.n_ra) if np.array_equal(np.roll(one.n_sky, b, -1), other.n_sky)]
    assert len(bins) == 1
    return 360 * bins[0] / GRID.n_ra


def test_unblinding_restores_every_number(counts):
    hidden = blind(counts, "secret")
    restored = unblind(hidden, "secret")
    for field in dataclasses.fields(Counts):
        value = getattr(counts, field.name)
        if field.name == "moments":
            # Rotated there and back: exact but for rounding.
            np.testing.assert_allclose(restored.moments, value, rtol=1e-12)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(restored, field.name), value)
    for name, value in counts.w2.items():
        np.testing.assert_array_equal(restored.w2[name], value)
    assert not restored.blinded
    assert restored.history.keys() == {"unblinded"}
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", restored.history["unblinded"]["time"])


def test_blind_counts_are_those_of_rotated_events(counts):
    """Right ascension and sidereal time move together; hour angles, declinations and horizons do not know."""
    hidden = blind(counts, "secret")
    bins = round(angle_of(counts, hidden) / 360 * GRID.n_ra)
    assert hidden.blinded
    assert not counts.blinded
    np.testing.assert_array_equal(hidden.n_local, counts.n_local)
    np.testing.assert_array_equal(hidden.w2["n_local"], counts.w2["n_local"])
    for name, axis in (("n_time", -1), ("n_sky", -1), ("n_half", -1)):
        np.testing.assert_array_equal(getattr(hidden, name), np.roll(getattr(counts, name), bins, axis))
        np.testing.assert_array_equal(hidden.w2[name], np.roll(counts.w2[name], bins, axis))
    # Positive rotation: an excess at 0h moves to the secret angle, in the sums over events too.
    angle = np.radians(angle_of(counts, hidden))
    sky, local, time = counts.moments[0, 0, 0] @ [1, 1j]
    turn = np.exp(1j * angle)
    np.testing.assert_allclose(hidden.moments[0, 0, 0] @ [1, 1j], [sky * turn, local, time * turn])


def test_amplitude_and_significance_stay_and_the_phase_moves_by_the_angle(counts):
    plain = counts.replace(w2={}, n_sky=counts.n_sky)
    hidden = blind(plain, "secret")
    angle = angle_of(plain, hidden)
    # One rate per bin: wider groups would begin elsewhere once time is rotated.
    before, after = (fit(c, rate_bins=plain.grid.n_ra) for c in (plain, hidden))
    assert after.test_statistic == pytest.approx(before.test_statistic, rel=1e-9)
    place = [1, 0] if before.order[0] == -1 else [0, 1]
    one, other = (r.multipoles_of_date[place] @ [1, 1j] for r in (before, after))
    assert abs(other) == pytest.approx(abs(one), rel=1e-9)
    assert np.degrees(np.angle(other / one)) % 360 == pytest.approx(angle, abs=1e-6)


def test_rayleigh_moves_by_the_angle(counts):
    """Where the sums over events are kept, they may not stay behind."""
    hidden = blind(counts, "secret")
    turned = math.degrees(rayleigh_of_counts(hidden).phase - rayleigh_of_counts(counts).phase) % 360
    # The bins of the map know the phase to a fraction of a bin.
    assert turned == pytest.approx(angle_of(counts, hidden), abs=5)


def test_key_decides_the_angle_and_no_key_hides_nothing(counts):
    angles = [angle_of(counts, blind(counts, f"key {k}")) for k in range(60)]
    assert 0 not in angles
    assert len(set(angles)) > 20
    assert angle_of(counts, blind(counts, "key 0")) == angles[0]
    # All quarters of the circle, so that a guess is worth nothing.
    assert (np.histogram(angles, 4, (0, 360))[0] >= 5).all()
    assert blind(counts, "ключ").blinded


def test_angle_is_never_zero_on_any_grid():
    for n in (4, 5, 36, 360):
        bins = [blinding._bins(f"key {k}", n) for k in range(40)]
        assert 1 <= min(bins) < max(bins) <= n - 1


def test_saved_file_holds_neither_key_nor_angle_nor_truth(counts, tmp_path):
    """The same from the counts of a simulation, whose inputs tell the truth."""
    hidden = blind(simulate_counts(SIMULATION, GRID, 3), "a secret word")
    path = hidden.save(tmp_path / "blind.nc")
    assert b"a secret word" not in path.read_bytes()
    loaded = load_counts(path)
    assert loaded.blinded
    assert loaded.history == hidden.history
    text = json.dumps([loaded.history, loaded.inputs])
    assert "truth" not in text
    assert "0.3, 0.2" not in text
    assert "harmonic" not in json.dumps([blind(counts, "x").inputs])
    np.testing.assert_array_equal(unblind(loaded, "a secret word").n_sky, unblind(hidden, "a secret word").n_sky)


def test_blinding_leaves_its_argument_alone(counts):
    copy = {f.name: np.copy(getattr(counts, f.name)) for f in dataclasses.fields(Counts) if f.name[:2] == "n_"}
    inputs = json.dumps(counts.inputs)
    blind(counts, "secret")
    for name, value in copy.items():
        np.testing.assert_array_equal(getattr(counts, name), value)
    assert json.dumps(counts.inputs) == inputs


def test_other_history_is_kept_and_old_unblinding_forgotten(counts):
    marked = counts.replace(history={"orbital_removed": {"gamma": 2.7}, "unblinded": {"time": "before"}})
    hidden = blind(marked, "secret")
    assert hidden.history.keys() == {"orbital_removed", "blind"}
    assert unblind(hidden, "secret").history["orbital_removed"] == {"gamma": 2.7}
    assert unblind(hidden, "secret").history["unblinded"]["time"] != "before"


def test_what_cannot_be_done_is_refused(counts):
    hidden = blind(counts, "secret")
    with pytest.raises(InputError, match="the blinding key is empty; give any word, and keep it"):
        blind(counts, "")
    with pytest.raises(InputError, match="blinded already; unblind them first"):
        blind(hidden, "other")
    with pytest.raises(InputError, match=r"not the key .*; give the one used with --blind"):
        unblind(hidden, "Secret")
    with pytest.raises(InputError, match="not blinded: there is nothing to unblind"):
        unblind(counts, "secret")
