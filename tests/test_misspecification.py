"""Each row of the misspecification table against a number that is not from this package, or a sum over events."""

import json

import numpy as np
import pytest
from diffcr.inference.misspecification import TRUTH, misspecification_table
from scipy.stats import norm

from diffcr.errors import InputError
from diffcr.grid import RingGrid

pytestmark = pytest.mark.slow

EVENTS = 1e9


@pytest.fixture(scope="module")
def rows():
    found = misspecification_table(events=EVENTS, grid=RingGrid(18, 36), skies=3)
    return {row.name: row for row in found}


@pytest.mark.parametrize("name", ["nothing", "epochs kept apart", "gaps", "weights as unit weights"])
def test_what_is_modelled_has_no_bias(rows, name):
    assert np.max(np.abs(rows[name].bias)) < 1e-3 * rows[name].error[0]


def test_the_quoted_error_is_that_of_theory(rows):
    """sqrt(2 / (<cos^2 dec> - |c_0|^2) / N) for HAWC's field of view and cos(zenith)^4, rate free: 3.6 to 3.7 at
    full resolution, from a numerical Fisher matrix."""
    for name in ("nothing", "weights as unit weights"):
        assert rows[name].error[0] * np.sqrt(EVENTS) == pytest.approx(3.6, rel=0.06)


def test_four_dead_hours_cost_information_and_are_reported(rows):
    assert "dead_bins 6" in rows["gaps"].flag
    assert rows["gaps"].flagged
    assert 1.02 < rows["gaps"].error[0] / rows["nothing"].error[0] < 1.2


def test_merged_epochs_make_a_dipole_of_a_part_in_a_thousand_and_the_merge_test_sees_it(rows):
    """The sum of the two is 1 + 0.05 x 0.05 E cos(t - 2), with the east component E = -cos(dec) sin(h) of a cell. A
    dipole towards RA a0 is A cos(dec) cos(t - h - a0) = A cos(dec) cos(h) cos(t - a0) - A E sin(t - a0), the first
    term mostly a change of rate: so a0 = 2 + pi / 2, and A is 0.0025 less what the first term takes of it."""
    row = rows["epochs added"]
    assert 1.2e-3 < np.hypot(*row.bias) < 2.5e-3
    assert np.arctan2(row.bias[1], row.bias[0]) % (2 * np.pi) == pytest.approx(2 + np.pi / 2, abs=0.02)
    assert row.flagged
    assert float(row.flag.split("=")[1]) < -100


def test_an_acceptance_in_solar_time_shows_in_antisidereal_time_as_in_sidereal(rows):
    """A season m of a diurnal amplitude S makes m S / 2 in both bands."""
    row = rows["acceptance in solar time"]
    sigma = np.hypot(row.bias_delta_0h_sigma, row.bias_delta_6h_sigma)
    assert sigma > 3
    assert row.flagged
    shown = float(row.flag.split(": ")[1].split(" ")[0])
    # Two degrees of freedom: exp(-sigma^2 / 2) as a two-sided normal deviate.
    assert shown == pytest.approx(norm.isf(np.exp(-(sigma**2) / 2) / 2), abs=0.15)


def test_half_a_year_of_orbital_motion(rows):
    """2.7e-4 from January to June for Gamma = 2.7: 2/pi of 4.7 x 1e-4, less what is along the axis of the Earth.
    The mean velocity is that between the Earth's places: from 100 to 280 degrees of ecliptic longitude, towards
    -y mostly (perihelion side of the Sun at longitude 190), so the excess is near RA 18 h."""
    row = rows["orbital dipole"]
    assert np.hypot(*row.bias) == pytest.approx(2.7e-4, abs=0.1e-4)
    assert abs(np.degrees(np.arctan2(*row.bias[::-1])) + 90) < 15
    assert not row.flagged


def test_multipoles_above_the_dipole_add_scatter(rows):
    row = rows["multipoles above the dipole"]
    assert row.scatter > 1.05
    assert row.bias[0] < 5e-4


def test_a_wrong_spectral_index_shifts_the_plasma_dipole_along_the_motion(rows):
    """0.4 x 25.4 km/s / c towards RA 255.05, dec -17.60 degrees."""
    row = rows["spectral index"]
    speed = 0.4 * 25.4 / 299792.458 * np.cos(np.radians(17.6))
    angle = np.radians(255.05)
    np.testing.assert_allclose(row.bias, [speed * np.cos(angle), speed * np.sin(angle)], rtol=2e-3)


def test_weights_of_spread_one_scatter_by_the_root_of_their_mean_square(rows):
    """E[w^2] = exp(s^2) for log-normal weights of mean 1: pulls of width exp(1/2) = 1.65; six numbers."""
    assert rows["weights as unit weights"].scatter == pytest.approx(np.exp(0.5), rel=0.6)


def test_coordinates_of_j2000_taken_for_date_fake_a_dipole_towards_the_equinox(rows):
    """20.04 arc seconds a year times cos(RA) in declination, on the steep north-south acceptance: +4.0e-3 for HAWC
    with its edge at 57 degrees in 2010.5; here without the edge, somewhat less. Along cos(RA) alone."""
    row = rows["J2000 taken for date"]
    assert 2.5e-3 < row.bias[0] < 4.5e-3
    assert abs(row.bias[1]) < 0.02 * row.bias[0]


def test_rows_become_json(rows):
    for row in rows.values():
        entry = json.loads(json.dumps(row.to_dict()))
        assert entry["bias_delta_0h_sigma"] == pytest.approx(row.bias[0] / row.error[0], rel=1e-3, abs=1e-9)
        assert entry["bias_delta_6h_sigma"] == pytest.approx(row.bias[1] / row.error[1], rel=1e-3, abs=1e-9)
        assert entry["remedy"]
        assert "counts" not in entry
    assert TRUTH == (9e-4, 7e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": 1e3}, "1000 events are too few"),
        ({"place": "IceCube"}, "too near to a pole"),
        ({"skies": 1}, "no scatter"),
    ],
)
def test_what_makes_no_table_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        misspecification_table(**arguments)
