"""diffcr.source against numbers worked out by hand, astropy's directions, and wrong input of every kind."""

import csv
import io
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.coordinates import SkyCoord
from jax.test_util import check_grads

from diffcr.errors import InputError
from diffcr.source import (
    REMNANT_COLUMNS,
    REMNANTS,
    SPECTRAL_INDEX,
    Remnant,
    age_limit,
    galactic_position,
    join,
    known_sources,
    log_spectrum,
    make_sources,
    remnants_from_rows,
    require_sources,
    superluminal,
)
from diffcr.units import DEGREE

LIGHT = (constants.c * u.yr).to_value(u.pc)
FIELD = SkyCoord(210.5, -57.1, unit="deg", frame="galactic").cartesian.xyz.value
"""Of the interstellar magnetic field, as seen in the ribbon of energetic neutral atoms."""


def at(distance, age, **others):
    """Sources on the x axis."""
    distance = np.atleast_1d(np.asarray(distance, float))
    return make_sources(np.stack([distance, 0 * distance, 0 * distance], -1), age, **others)


# Places and spectra


@pytest.mark.parametrize(("longitude", "latitude"), [(0, 0), (90, 0), (12, 90), (263.9, -3.3), (74.0, -8.5)])
def test_place_is_along_its_galactic_direction(longitude, latitude):
    position = galactic_position(287.0, longitude * DEGREE, latitude * DEGREE)
    place = SkyCoord(longitude, latitude, 287.0, unit=("deg", "deg", "pc"), frame="galactic")
    np.testing.assert_allclose(position, place.cartesian.xyz.to_value(u.pc), atol=1e-10)


def test_places_broadcast_and_have_gradients_at_the_sun():
    position = galactic_position(np.array([[1.0], [2.0]]), np.array([0.0, np.pi / 2, np.pi]), 0.0)
    np.testing.assert_allclose(position[1], [[2, 0, 0], [0, 2, 0], [-2, 0, 0]], atol=1e-15)
    for distance in (0.0, 300.0):
        check_grads(jax.jit(galactic_position), (distance, 4.6, -0.06), order=1, modes=["rev"], rtol=1e-6)


def test_spectrum_is_a_power_law_with_an_exponential_cutoff():
    for rigidity, index, cutoff in itertools.product((0.5, 1.0, 30.0), (2.0, 2.4), (0.7, 100.0, math.inf)):
        expected = rigidity**-index * math.exp(-rigidity / cutoff)
        np.testing.assert_allclose(math.exp(log_spectrum(rigidity, index, cutoff)), expected, rtol=1e-13)
    assert log_spectrum(np.ones((4, 1)), np.full(3, 2.4), math.inf).shape == (4, 3)
    assert float(log_spectrum(1.0, 2.4, math.inf)) == 0


def test_spectrum_has_finite_gradients_with_and_without_a_cutoff():
    check_grads(jax.jit(log_spectrum), (3.0, 2.4, 50.0), order=1, modes=["rev"], rtol=1e-5)
    first = jax.grad(log_spectrum, (0, 1, 2))(3.0, 2.4, math.inf)
    np.testing.assert_allclose(first, [-2.4 / 3, -math.log(3), 0], rtol=1e-14)
    second = jax.jit(jax.hessian(log_spectrum, (0, 1, 2)))(3.0, 2.4, math.inf)
    assert np.isfinite(second).all()


def test_what_is_given_once_holds_for_all():
    sources = make_sources(np.zeros((3, 3)), np.array([1.0, 2, 3]), power=2, cutoff=np.array([1.0, 2.0, np.inf]))
    np.testing.assert_array_equal(sources.age, [1, 2, 3])
    np.testing.assert_array_equal(sources.power, [2, 2, 2])
    np.testing.assert_array_equal(sources.duration, [0, 0, 0])
    np.testing.assert_array_equal(sources.cutoff, [1, 2, np.inf])
    np.testing.assert_array_equal(sources.spectral_index, [SPECTRAL_INDEX] * 3)


def test_sources_are_joined_in_order():
    first = at([1.0, 2.0], 5.0, power=3.0, duration=7.0)
    second = at(3.0, 6.0, spectral_index=2.0, cutoff=9.0)
    both = join(first, second)
    np.testing.assert_array_equal(both.position[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(both.age, [5, 5, 6])
    np.testing.assert_array_equal(both.duration, [7, 7, 0])
    np.testing.assert_array_equal(both.power, [3, 3, 1])
    np.testing.assert_array_equal(both.spectral_index, [SPECTRAL_INDEX, SPECTRAL_INDEX, 2])
    np.testing.assert_array_equal(both.cutoff, [np.inf, np.inf, 9])
    with pytest.raises(InputError, match="no sources to join"):
        join()


# Light


def test_age_limit_of_vela_a_thousand_light_years_away():
    """In light years and years, 3 r / (2 c t) = 1.5 * 1000 / 11000."""
    distance = (1000 * u.lyr).to_value(u.pc)
    np.testing.assert_allclose(age_limit(at(distance, 11000.0)), 1.5 / 11, rtol=1e-9)


@pytest.mark.parametrize(
    ("distance", "age", "expected"),
    [
        (300, 1.1e4, 0.133),
        (288, 8.6e4, 0.0164),
        (250, 3.4e5, 0.0036),
        (540, 1e4, 0.26),
        (740, 2e4, 0.18),
        (170, 2e5, 0.0042),
        (750, 3e3, 1.22),
    ],
)
def test_age_limits_of_known_remnants(distance, age, expected):
    """To the printed digits."""
    assert float(age_limit(at(distance, age))[0]) == pytest.approx(expected, rel=0.02)


def test_age_limit_is_of_the_whole_distance():
    position = np.array([[3.0, 4.0, 12.0], [-3.0, -4.0, -12.0]])
    np.testing.assert_allclose(age_limit(make_sources(position, 100.0)), 1.5 * 13 / LIGHT / 100, rtol=1e-9)
    assert not superluminal(make_sources(position, 13.1 / LIGHT)).any()
    assert superluminal(make_sources(position, 12.9 / LIGHT)).all()


def test_light_decides_which_sources_can_be_seen():
    np.testing.assert_array_equal(superluminal(at([0.999 * LIGHT, 1.001 * LIGHT, 0.0], 1.0)), [False, True, False])
    # The age is that of the first emission.
    np.testing.assert_array_equal(superluminal(at([50 * LIGHT, 150 * LIGHT], 100.0, duration=80.0)), [False, True])


def test_age_limit_has_a_gradient_also_at_the_sun():
    def limit(position, age):
        return age_limit(make_sources(position, age)).sum()

    check_grads(
        jax.jit(limit), (np.array([[100.0, -200.0, 50.0], [3.0, 4.0, 0.0]]), 1e4), order=1, modes=["rev"], rtol=1e-6
    )
    at_sun = jax.grad(limit, (0, 1))(np.zeros((1, 3)), 1e4)
    np.testing.assert_array_equal(at_sun[0], np.zeros((1, 3)))
    assert float(at_sun[1]) == 0


def test_batches_are_judged_as_their_members():
    batch = jax.vmap(lambda age: at([10.0, 100.0], age))(np.array([10.0, 1000.0]))
    for function in (superluminal, age_limit):
        together = function(batch)
        for i, age in enumerate((10.0, 1000.0)):
            np.testing.assert_array_equal(together[i], function(at([10.0, 100.0], age)))
    require_sources(batch)


# The boundary

GOOD = at([10.0, 20.0, 30.0], 1e4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("age", -5.0, "source 1: the age must not be negative or zero, not -5: give the years"),
        ("age", 0.0, "source 1: the age must not be negative"),
        ("age", np.nan, "source 1: the age must be finite, not nan"),
        ("age", np.inf, "source 1: the age must be finite, not inf"),
        ("duration", -1.0, "source 1: the duration must not be negative, not -1: give years, 0 for a burst"),
        ("duration", np.inf, "source 1: the duration must be finite"),
        ("power", -0.1, "source 1: the power must not be negative, not -0.1: give a number"),
        ("power", np.nan, "source 1: the power must be finite"),
        ("spectral_index", np.nan, "source 1: the spectral_index must be finite"),
        ("cutoff", 0.0, "source 1: the cutoff must be above zero, not 0: give a rigidity in TV, inf for none"),
        ("cutoff", np.nan, "source 1: the cutoff must be above zero, not nan"),
    ],
)
def test_numbers_that_cannot_be_a_source_are_named(field, value, message):
    values = np.array(getattr(GOOD, field))
    values[1:] = value
    with pytest.raises(InputError, match=message):
        require_sources(eqx.tree_at(lambda s: getattr(s, field), GOOD, jnp.asarray(values)))


def test_places_that_cannot_be_a_source_are_named():
    bad = make_sources(np.array([[1.0, 2, 3], [1, np.nan, 4000]]), 1.0)
    with pytest.raises(InputError, match=r"source 1: the position must be finite, not \[1, nan, 4000\]: .* pc"):
        require_sources(bad)
    for z in (3000.0, -3000.0, 4000.0, -4000.0):
        sources = make_sources(np.array([[0.0, 0, 2999], [1, 2, z]]), 1.0)
        message = f"source 1: a source outside the halo: z must be between -3000 and 3000 pc, not {z:g}: raise"
        with pytest.raises(InputError, match=message):
            require_sources(sources, 3000.0)
        assert require_sources(sources) is sources
    inside = make_sources(np.array([[9e9, 0.0, -2999]]), 1.0)
    assert require_sources(inside, 3000) is inside


def test_a_bad_source_of_a_batch_is_named_by_both_indices():
    batch = jax.vmap(lambda age: at([10.0, 100.0], age))(np.array([10.0, -1.0]))
    with pytest.raises(InputError, match="source 1, 0: the age"):
        require_sources(batch)


def test_shapes_that_do_not_belong_together_are_refused():
    for field in ("age", "position"):
        bad = eqx.tree_at(lambda s, field=field: getattr(s, field), GOOD, jnp.ones(2))
        with pytest.raises(InputError, match=rf"do not belong together: .*{field} \(2,\).*make_sources"):
            require_sources(bad)


def test_traced_sources_pass_unchecked():
    @jax.jit
    def doubled(age):
        return require_sources(at(10.0, age), 3000.0).age * 2

    np.testing.assert_array_equal(doubled(-1.0), [-2])


# Known remnants


def test_table_of_remnants_is_complete_and_cites_its_sources():
    assert set(REMNANTS) == {"Vela", "Monogem", "Geminga", "Cygnus Loop", "Loop I", "Vela Jr", "S147"}
    for name, remnant in REMNANTS.items():
        assert remnant.name == name
        assert "(19" in remnant.reference or "(20" in remnant.reference
        assert isinstance(remnant.checked, bool)
        assert remnant.power is None and remnant.spectral_index is None and remnant.cutoff is None
    assert not superluminal(require_sources(known_sources(), 3000.0)).any()


@pytest.mark.parametrize(
    ("name", "cosine"),
    [
        ("Vela", 0.3716),
        ("Monogem", 0.4091),
        ("Geminga", 0.4592),
        ("Cygnus Loop", -0.2656),
        ("Loop I", -0.4997),
        ("Vela Jr", 0.3236),
        ("S147", 0.4927),
    ],
)
def test_known_remnants_lie_on_their_side_of_the_field(name, cosine):
    """Of the printed cosines between them and the field; the sign decides the phase of a projected dipole."""
    position = np.asarray(known_sources(name).position[0])
    assert position @ FIELD / np.linalg.norm(position) == pytest.approx(cosine, abs=5.1e-5)


def test_known_sources_are_at_their_best_distance_and_age():
    sources = known_sources(["s147", "VELA-JR", "cygnus_loop"], power=2.0, cutoff=100.0, duration=10.0)
    chosen = [REMNANTS[name] for name in ("S147", "Vela Jr", "Cygnus Loop")]
    np.testing.assert_allclose(np.linalg.norm(sources.position, axis=1), [r.distance[1] for r in chosen], rtol=1e-14)
    np.testing.assert_array_equal(sources.age, [r.age[1] for r in chosen])
    for name, expected in (("power", 2), ("cutoff", 100), ("duration", 10), ("spectral_index", SPECTRAL_INDEX)):
        np.testing.assert_array_equal(getattr(sources, name), [expected] * 3)
    assert known_sources().age.shape == (7,)


def test_a_remnant_keeps_what_its_table_says():
    table = {
        "A": Remnant("A", 10.0, 0.0, (1.0, 1.0, 1.0), (5.0, 5.0, 5.0), power=3.0, duration=2.0),
        "B": Remnant("B", 20.0, 0.0, (1.0, 1.0, 1.0), (6.0, 6.0, 6.0), cutoff=7.0, spectral_index=2.2),
    }
    sources = known_sources(power=10.0, spectral_index=2.0, table=table)
    np.testing.assert_array_equal(sources.power, [3, 10])
    np.testing.assert_array_equal(sources.duration, [2, 0])
    np.testing.assert_array_equal(sources.cutoff, [np.inf, 7])
    np.testing.assert_array_equal(sources.spectral_index, [2.0, 2.2])
    gradient = jax.grad(lambda power: known_sources(power=power, table=table).power.sum())(10.0)
    assert float(gradient) == 1


def test_unknown_and_double_names_are_refused():
    with pytest.raises(
        InputError, match=r"unknown remnant 'Vella'; the nearest known one is 'Vela'. Known: Vela, Mono"
    ):
        known_sources(["Vella"])
    with pytest.raises(InputError, match="unknown remnant 'x'. Known: "):
        known_sources("x", table={})
    with pytest.raises(InputError, match="'Loop I' is named twice"):
        known_sources(["Loop I", "loop-i"])
    with pytest.raises(InputError, match="no remnant is named: choose from Vela"):
        known_sources([])
    with pytest.raises(InputError, match="the table has no remnant"):
        known_sources(table={})


# Tables of one's own

NEEDED = {"name": "A", "longitude_deg": "263.9", "latitude_deg": "-3.3", "distance_pc": "287", "age_yr": "1.1e4"}


def test_rows_of_text_become_remnants():
    text = """name,longitude_deg,latitude_deg,distance_pc,age_yr,distance_low_pc,age_high_yr,cutoff_TV,power,reference
Vela, 263.9 ,-3.3,287,11300,250,27000,inf,,"Dodson et al. (2003), ApJ 596, 1137"
Mine,-10,5,1e3,2e4,,,50,2.5,
"""
    table = remnants_from_rows(csv.DictReader(io.StringIO(text)))
    assert list(table) == ["Vela", "Mine"]
    vela, mine = table.values()
    assert (vela.longitude, vela.latitude) == (263.9, -3.3)
    assert vela.distance == (250, 287, 287) and vela.age == (11300, 11300, 27000)
    assert vela.reference == "Dodson et al. (2003), ApJ 596, 1137"
    assert vela.cutoff == math.inf and vela.power is None and not vela.checked
    assert mine.distance == (1000, 1000, 1000) and mine.age == (2e4, 2e4, 2e4)
    assert (mine.cutoff, mine.power, mine.duration, mine.spectral_index) == (50, 2.5, None, None)
    sources = known_sources(power=4.0, table=table)
    np.testing.assert_array_equal(sources.power, [4, 2.5])
    np.testing.assert_allclose(sources.position[1], galactic_position(1000.0, -10 * DEGREE, 5 * DEGREE))


def test_every_column_is_read():
    """Each with a number of its own, so that none is taken for another."""
    numbers = (10, 20, 300, 4000, 250, 350, 3000, 5000, 6, 2.3, 70, 80)
    row = dict(zip(REMNANT_COLUMNS, ["A", *map(str, numbers), "me"], strict=True))
    expected = Remnant("A", 10, 20, (250, 300, 350), (3000, 4000, 5000), "me", False, 6, 2.3, 70, 80)
    assert remnants_from_rows([row]) == {"A": expected}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distnce_pc": "1"}, "row 2 of t.csv: unknown column 'distnce_pc'; the nearest valid one is 'distance_pc'"),
        ({None: ["1"]}, "row 2 of t.csv: there are more cells than columns"),
        ({"age_yr": ""}, "row 2 of t.csv: the column 'age_yr' is empty"),
        ({"age_yr": None}, "row 2 of t.csv: the column 'age_yr' is empty"),
        ({"age_yr": "old"}, "row 2 of t.csv: age_yr must be a number, not 'old'"),
        ({"age_yr": "-5"}, "row 2 of t.csv: B: the age must be above zero and finite.* not -5, -5, -5 yr"),
        ({"age_yr": "nan"}, "row 2 of t.csv: B: the age must be above zero"),
        ({"distance_pc": "0"}, "row 2 of t.csv: B: the distance must be above zero"),
        ({"distance_pc": "inf"}, "row 2 of t.csv: B: the distance must be above zero and finite"),
        (
            {"distance_low_pc": "300"},
            "row 2 of t.csv: B: the distance .*lowest <= best <= highest, not 300, 287, 287 pc",
        ),
        ({"age_high_yr": "3"}, "row 2 of t.csv: B: the age .* not 11000, 11000, 3 yr"),
        ({"longitude_deg": "361"}, r"row 2 of t.csv: B: the longitude must lie in \[-360, 360\] degrees, not 361"),
        ({"latitude_deg": "-91"}, r"row 2 of t.csv: B: the latitude must lie in \[-90, 90\] degrees, not -91"),
        ({"latitude_deg": "nan"}, "row 2 of t.csv: B: the latitude"),
        ({"power": "-1"}, "row 2 of t.csv: B: the power must be finite and not negative, not -1"),
        ({"duration_yr": "inf"}, "row 2 of t.csv: B: the duration must be finite"),
        ({"cutoff_TV": "0"}, "row 2 of t.csv: B: the cutoff must be above zero, not 0"),
        ({"spectral_index": "inf"}, "row 2 of t.csv: B: the spectral index must be finite, not inf"),
        ({"name": "a "}, "row 2 of t.csv: 'a' is there already"),
        ({"name": " "}, "row 2 of t.csv: the column 'name' is empty"),
    ],
)
def test_wrong_rows_are_named(change, message):
    with pytest.raises(InputError, match=message):
        remnants_from_rows([NEEDED, NEEDED | {"name": "B"} | change], "t.csv")


def test_missing_columns_rows_and_names_are_named():
    row = {column: text for column, text in NEEDED.items() if column != "age_yr"}
    with pytest.raises(InputError, match="row 1 of the table of remnants: the column 'age_yr' is missing"):
        remnants_from_rows([row])
    with pytest.raises(InputError, match="the table of remnants has no rows: .*name, longitude_deg"):
        remnants_from_rows([])
    with pytest.raises(InputError, match="a remnant has no name"):
        Remnant("", 0.0, 0.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
