"""Acceptance against published integrals and drawn events."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr import detector
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.site import Site, site
from diffcr.units import DEGREE

GRID = RingGrid()
COARSE = RingGrid(18, 36)
TINY = RingGrid(6, 8)


@functools.cache
def accepted(spec, power=1):
    return detector.acceptance(site(spec), GRID, power=power)


def hour_angle_and_declination(zenith, azimuth, latitude):
    """Horizon to equator, from the components East, North and Up of the direction."""
    east, north = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth)
    up = np.cos(zenith)
    hour_angle = np.arctan2(-east, up * np.cos(latitude) - north * np.sin(latitude))
    return hour_angle, np.arcsin(up * np.sin(latitude) + north * np.cos(latitude))


@pytest.mark.parametrize("spec", ["auger", "hawc", "icecube", "90,0,60"])
def test_field_of_view_has_the_solid_angle_of_its_cone(spec):
    here = site(spec)
    seen = detector.field_of_view(here, GRID)
    area = np.sum(np.asarray(seen) * GRID.solid_angle[:, None]) / (2 * np.pi)
    np.testing.assert_allclose(area, 1 - np.cos(here.zenith_max), rtol=2e-3)
    assert float(seen.min()) == 0
    np.testing.assert_allclose(float(seen.max()), 1, rtol=1e-12)
    hollow = Site("hollow", here.latitude, here.longitude, here.zenith_max, 20 * DEGREE)
    area = np.sum(np.asarray(detector.field_of_view(hollow, GRID)) * GRID.solid_angle[:, None]) / (2 * np.pi)
    np.testing.assert_allclose(area, np.cos(20 * DEGREE) - np.cos(here.zenith_max), rtol=2e-3)


def test_a_cut_through_a_ring_leaves_a_fraction_of_it():
    """At the pole rings are circles of zenith angle: a cut at 65.25 degrees leaves the ring between
    declinations -25 and -24 the area below -24.75, whatever the hour angle."""
    seen = np.asarray(detector.field_of_view(site("-90,0,65.25"), GRID))
    np.testing.assert_allclose(seen[:65], 1, rtol=1e-12)
    expected = (np.sin(-24.75 * DEGREE) - np.sin(-25 * DEGREE)) / (np.sin(-24 * DEGREE) - np.sin(-25 * DEGREE))
    np.testing.assert_allclose(seen[65], expected, rtol=1e-5)
    np.testing.assert_array_equal(seen[66:], 0)


# |c_0|, error of a dipole component times sqrt(N) with acceptance and rate known, and with both free.
@pytest.mark.parametrize(
    ("spec", "power", "moment", "known", "free"),
    [
        ("auger", 1, 0.5587, 1.732, 2.374),
        ("-35.2,-69.25,60", 1, 0.6367, 1.730, 2.759),
        ("hawc", 1, 0.7511, 1.607, 3.086),
        ("30.1,90.5,60", 2, 0.6950, 1.682, 2.988),
        ("icecube", 1, 0.0, 2.200, 2.200),
        ("0,0,90", 0, 0.5002, 1.732, 2.191),
    ],
)
def test_dipole_information_of_known_fields_of_view(spec, power, moment, known, free):
    """Numbers of an independent quadrature; the last row is also the hemisphere, where |c_0| is 1/2 and
    <cos^2 dec> is 2/3 exactly."""
    accept = accepted(spec, power)
    information = detector.dipole_information(accept, GRID)
    np.testing.assert_allclose(abs(detector.hour_angle_moment(accept, GRID)), moment, rtol=4e-3, atol=1e-12)
    np.testing.assert_allclose(1 / np.sqrt(information.known), known, rtol=4e-3)
    np.testing.assert_allclose(1 / np.sqrt(information.free), free, rtol=4e-3)


@pytest.mark.parametrize(
    ("spec", "cosine"),
    [("auger", 0.78317), ("-35.2,0,60", 0.78341), ("19,0,60", 0.85945), ("icecube", 0.60421)],
)
def test_mean_cosine_of_declination(spec, cosine):
    mean = detector.mean_over_acceptance(np.cos(GRID.declination)[:, None], accepted(spec))
    np.testing.assert_allclose(mean, cosine, rtol=2e-4)


def test_means_over_the_auger_acceptance():
    """The sign of <sin dec> tells South from North."""
    sine = np.sin(GRID.declination)[:, None]
    np.testing.assert_allclose(detector.mean_over_acceptance(sine, accepted("auger")), -0.39416, rtol=2e-4)
    np.testing.assert_allclose(detector.mean_over_acceptance(1 - sine**2, accepted("auger")), 0.66696, rtol=2e-4)


@pytest.mark.parametrize(
    ("spec", "table"),
    [
        ("-35.2,0,60", {-70: 1.208271, -20: 0.935376, 10: 0.463178, 30: 0}),
        ("-35.2,0,80", {-70: 1.701704, -20: 1.083226, 10: 0.634252, 30: 0.288385}),
        ("hawc", {}),
        ("49.1,8.4,40", {}),
    ],
)
def test_exposure_in_declination_is_that_of_sommers(spec, table):
    """Sommers (2001), Astropart. Phys. 14, 271: a flat array at full efficiency, uniform in sidereal time."""
    here = site(spec)
    exposure = np.asarray(detector.relative_exposure(accepted(spec), GRID))
    # The integral of Sommers' omega cos(dec) over declination is (pi/2) sin^2(zenith_max); ours is 2.
    exposure = exposure * np.pi / 4 * np.sin(here.zenith_max) ** 2

    # Averaged over each ring: the exposure has a kink where a ring begins to be always above the cut.
    declination = np.linspace(-np.pi / 2, np.pi / 2, 180 * 200 + 1)
    declination = (declination[1:] + declination[:-1]) / 2
    sin, cos = np.sin(declination), np.cos(declination)
    xi = (np.cos(here.zenith_max) - np.sin(here.latitude) * sin) / (np.cos(here.latitude) * cos)
    alpha = np.arccos(np.clip(xi, -1, 1))
    omega = np.cos(here.latitude) * cos * np.sin(alpha) + alpha * np.sin(here.latitude) * sin
    omega = np.average(omega.reshape(180, 200), axis=1, weights=cos.reshape(180, 200))
    # 4 x 4 samples a cell: a few per cent where a ring is cut to a few cells, below 1 % elsewhere.
    inside = omega > 0.2 * omega.max()
    assert inside.sum() > 70
    np.testing.assert_allclose(exposure[inside], omega[inside], rtol=1e-2)
    np.testing.assert_allclose(exposure, omega, atol=0.04 * omega.max())
    np.testing.assert_allclose(np.abs(exposure - omega).mean(), 0, atol=1e-3 * omega.max())
    for declination, value in table.items():
        index = declination + 90
        np.testing.assert_allclose(exposure[index - 1 : index + 1].mean(), value, rtol=4e-3)


def test_at_the_pole_the_acceptance_does_not_depend_on_the_hour_angle():
    accept = np.asarray(accepted("icecube"))
    np.testing.assert_allclose(accept, accept[:, :1] + np.zeros(360), rtol=1e-12, atol=1e-20)
    # Zenith angle = 90 degrees + declination: A per solid angle is cos(zenith) = -sin(declination).
    inside = GRID.declination < -26 * DEGREE
    shape = accept[inside, 0] / GRID.solid_angle[inside] / -np.sin(GRID.declination[inside])
    np.testing.assert_allclose(shape, shape.mean(), rtol=1e-3)


@pytest.mark.parametrize("spec", ["auger", "hawc", "icecube"])
def test_acceptance_is_where_drawn_events_fall(spec):
    """Directions are drawn in the horizon and carried to the equator by the test's own formulas: a wrong
    hemisphere, hour-angle sign or azimuth sense gives thousands per degree of freedom."""
    here, terms = site(spec), [(1, 0.5, 1.1), (6, 0.2, 0.3)]
    choice = {"model": "attenuated", "attenuation": 1.5, "azimuth_terms": terms}
    num = 200_000
    zenith, azimuth = detector.draw_directions(here, np.random.default_rng(3), num, **choice)
    assert zenith.shape == azimuth.shape == (num,)
    assert zenith.max() <= here.zenith_max
    assert azimuth.min() >= 0
    assert azimuth.max() < 2 * np.pi

    hour_angle, declination = hour_angle_and_declination(zenith, azimuth, here.latitude)
    index = np.round(hour_angle / COARSE.step).astype(int) % 36
    counts = np.zeros(COARSE.shape)
    np.add.at(counts, (COARSE.ring_of(declination), index), 1)
    expected = num * np.asarray(detector.acceptance(here, COARSE, subdivide=12, **choice))
    np.testing.assert_allclose(expected.sum(), num, rtol=1e-12)
    well = expected > 20
    assert expected[well].sum() > 0.98 * num
    chi2 = np.sum((counts[well] - expected[well]) ** 2 / expected[well])
    assert abs(chi2 - well.sum()) < 5 * np.sqrt(2 * well.sum())


def test_triangle_profile_is_what_binned_events_fill():
    """Hour-angle bin = time bin - right-ascension bin: true hour angles up to one bin width away."""
    here, num = site("hawc", 30 * DEGREE), 200_000
    rng = np.random.default_rng(5)
    zenith, azimuth = detector.draw_directions(here, rng, num)
    hour_angle, declination = hour_angle_and_declination(zenith, azimuth, here.latitude)
    time = rng.uniform(0, 2 * np.pi, num)
    index = (COARSE.bin_of(time) - COARSE.bin_of(time - hour_angle)) % 36
    counts = np.zeros(COARSE.shape)
    np.add.at(counts, (COARSE.ring_of(declination), index), 1)

    chi2 = {}
    for profile in ("triangle", "box"):
        expected = num * np.asarray(detector.acceptance(here, COARSE, subdivide=12, profile=profile))
        well = expected > 20
        chi2[profile] = np.mean((counts[well] - expected[well]) ** 2 / expected[well])
    assert 0.5 < chi2["triangle"] < 1.6
    assert chi2["box"] > 5
    seen = detector.field_of_view(here, COARSE, subdivide=12, profile="triangle")
    assert np.all(np.asarray(seen)[counts > 0] > 0)


def test_an_acceptance_that_favours_east_sits_at_negative_hour_angle():
    """East is azimuth 90 degrees, where stars rise, H < 0: then Im <cos(dec) exp(-iH)> > 0."""
    east = detector.acceptance(site("hawc"), GRID, azimuth_terms=[(1, 0.5, np.pi / 2)])
    negative = GRID.hour_angle < 0
    assert float(east[:, negative].sum()) > 0.6
    assert float(jnp.imag(detector.hour_angle_moment(east, GRID))) > 0.05
    north = detector.acceptance(site("hawc"), GRID, azimuth_terms=[(1, 0.5, 0.0)])
    sine = np.sin(GRID.declination)[:, None]
    plain = detector.mean_over_acceptance(sine, accepted("hawc"))
    assert float(detector.mean_over_acceptance(sine, north)) > float(plain) + 0.05
    # East against West: the moment is <cos(dec) (cos H - i sin H)>, with sin H = -East / cos(dec).
    # To first order Im c_0 = <East> = (0.5 / 2) <sin(zenith)> = 0.25 (2/3) sin(57 degrees).
    np.testing.assert_allclose(
        float(jnp.imag(detector.hour_angle_moment(east, GRID))), np.sin(57 * DEGREE) / 6, rtol=2e-3
    )


def test_zenith_response_has_the_stated_form():
    zenith, azimuth = jnp.array([0.0, np.pi / 3]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(detector.zenith_response(zenith, azimuth, power=3), [1, 0.125], rtol=1e-12)
    attenuated = detector.zenith_response(zenith, azimuth, "attenuated", attenuation=2.0)
    np.testing.assert_allclose(attenuated, [1, 0.5 * np.exp(-2)], rtol=1e-12)
    default = detector.zenith_response(zenith, azimuth, "attenuated")
    np.testing.assert_allclose(default, [1, 0.5 * np.exp(-5)], rtol=1e-12)
    waves = detector.zenith_response(zenith, azimuth, azimuth_terms=[(1, 0.2, 1.0), (6, 0.3, 1 + np.pi / 6)])
    np.testing.assert_allclose(waves, [0.9, 0.45], rtol=1e-12)


@pytest.mark.parametrize("zenith_max", [40, 80])
def test_mean_sine_of_drawn_zenith_angles(zenith_max):
    """Flat array: <sin(zenith)> = (2/3) sin(zenith_max). Wave of size c: <cos(azimuth - a)> = c/2."""
    here, num = site(f"10,0,{zenith_max}"), 200_000
    rng = np.random.default_rng(1)
    zenith, azimuth = detector.draw_directions(here, rng, num, azimuth_terms=[(1, 0.4, 2.0)])
    sine = np.sin(zenith)
    error = sine.std() / np.sqrt(num)
    assert abs(sine.mean() - 2 / 3 * np.sin(zenith_max * DEGREE)) < 4 * error
    np.testing.assert_allclose(np.cos(azimuth - 2.0).mean(), 0.2, atol=4 / np.sqrt(2 * num))


def test_drawing_nothing_gives_nothing():
    zenith, azimuth = detector.draw_directions(site("hawc"), np.random.default_rng(1), 0)
    assert len(zenith) == len(azimuth) == 0


def test_acceptance_is_differentiable_in_its_parameters():
    def response(power, attenuation, amplitude, phase):
        zenith, azimuth = jnp.array([0.2, 0.9, 1.5]), jnp.array([0.1, 3.0, 5.0])
        return detector.zenith_response(zenith, azimuth, "attenuated", power, attenuation, [(2, amplitude, phase)])

    def accept(power, attenuation, amplitude, phase):
        here, terms = site("hawc", np.pi / 2), [(1, amplitude, phase)]
        return detector.acceptance(here, TINY, "attenuated", power, attenuation, terms)

    parameters = tuple(jnp.array(x) for x in (1.3, 0.7, 0.2, 0.5))
    check_grads(jax.jit(response), parameters, order=1)
    check_grads(jax.jit(accept), parameters, order=1)

    # A custom function is integrated and differentiated the same way.
    def custom(slope):
        return detector.integrate_acceptance(lambda z, a: 1 - slope * z**2, site("hawc"), TINY)

    check_grads(jax.jit(custom), (jnp.array(0.3),), order=1)


def test_averages_over_an_acceptance_are_differentiable():
    accept = detector.acceptance(site("hawc"), TINY)

    def averages(values):
        information = detector.dipole_information(values, TINY)
        moment = detector.hour_angle_moment(values, TINY)
        mean = detector.mean_over_acceptance(values, values)
        parts = jnp.stack([*information, jnp.real(moment), jnp.imag(moment), mean])
        return parts, detector.relative_exposure(values, TINY)

    check_grads(jax.jit(averages), (accept * 100,), order=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "cosine"}, r"unknown acceptance model 'cosine': use 'cos'"),
        ({"attenuation": 2.0}, r"attenuation belongs to the acceptance model 'attenuated'"),
        ({"power": -1.0}, r"power of an acceptance must be finite and at least 0, not -1"),
        ({"model": "attenuated", "attenuation": np.inf}, r"attenuation of an acceptance must be finite"),
        ({"azimuth_terms": [(0, 0.1, 0.0)]}, r"k of each azimuth term must be a whole number"),
        ({"azimuth_terms": [(1.5, 0.1, 0.0)]}, r"k of each azimuth term must be a whole number"),
        ({"azimuth_terms": [(1, np.nan, 0.0)]}, r"amplitude of azimuth term k = 1 must be finite"),
        ({"azimuth_terms": [(6, 0.1, np.inf)]}, r"phase of azimuth term k = 6 must be finite"),
        (
            {"azimuth_terms": [(1, 0.8, 0.0), (2, 0.4, np.pi / 2)]},
            r"azimuth terms make it negative, -0.2 at 180.0 degrees: reduce",
        ),
    ],
)
def test_a_bad_acceptance_model_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        detector.acceptance(site("hawc"), COARSE, **options)
    with pytest.raises(InputError, match=message):
        detector.draw_directions(site("hawc"), np.random.default_rng(1), 10, **options)


def test_azimuth_terms_above_one_in_sum_may_still_be_positive():
    terms = [(1, 0.7, 0.0), (2, 0.5, 0.0)]
    smallest = 1 - 0.5 - 0.7**2 / (8 * 0.5)
    assert smallest > 0
    accept = detector.acceptance(site("hawc"), COARSE, azimuth_terms=terms, subdivide=12)
    assert float(accept.min()) >= 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: detector.field_of_view(site("hawc"), COARSE, subdivide=0),
            r"subdivide must be a whole number",
        ),
        (lambda: detector.field_of_view(site("hawc"), COARSE, profile="gauss"), r"'box' or 'triangle'"),
        (
            lambda: detector.acceptance(site("19,0,0.01"), COARSE, subdivide=12),
            r"no direction of site '19,0,0.01' is accepted",
        ),
        (
            lambda: detector.integrate_acceptance(lambda z, a: jnp.cos(a), site("hawc"), COARSE, subdivide=12),
            r"acceptance of site 'HAWC' is negative or not finite",
        ),
        (
            lambda: detector.draw_directions(site("hawc"), np.random.default_rng(1), -1),
            r"number to draw must be a whole number of at least 0, not -1",
        ),
    ],
)
def test_a_bad_integration_or_draw_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_measured_acceptance_is_the_counts_normalised():
    counts = np.random.default_rng(2).poisson(5.0, COARSE.shape)
    np.testing.assert_allclose(detector.measured_acceptance(counts, COARSE), counts / counts.sum())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda a: a.T,
            r"must have the shape \(ring, hour_angle\) = \(18, 36\) .* not \(36, 18\); it looks trans",
        ),
        (lambda a: a[1:], r"must have the shape .* not \(17, 36\)$"),
        (
            lambda a: np.where(np.arange(36) == 5, -1.0, a),
            r"18 of 648 cells are not, the first is \[0, 5\] = -1.0",
        ),
        (lambda a: np.where(np.arange(36) == 5, np.nan, a), r"must be finite and not negative"),
        (lambda a: 0 * a, r"must have a cell above zero"),
    ],
)
def test_a_bad_measured_acceptance_is_refused(spoil, message):
    with pytest.raises(InputError, match=message):
        detector.measured_acceptance(spoil(np.ones(COARSE.shape)), COARSE)
