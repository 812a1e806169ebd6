"""Acceptance against published integrals and drawn events; rates against exact integrals and sidebands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from diffcr import detector
from diffcr.detector import RateModel, Site, site
from diffcr.errors import InputError
from diffcr.grid import RingGrid
from diffcr.units import DEGREE, HOUR

GRID = RingGrid()
COARSE = RingGrid(18, 36)
TINY = RingGrid(6, 8)


@functools.cache
def accepted(spec, power=1):
    return detector.acceptance(site(spec), GRID, power=power)


def first_harmonic(rate):
    """a exp(i phase) of the wave 1 + a cos(t - phase) that bins of finite width hold."""
    n = len(rate)
    centre = (np.arange(n) + 0.5) * 2 * np.pi / n
    return 2 * np.sum(np.asarray(rate) * np.exp(1j * centre)) / np.sum(rate) / np.sinc(1 / n)


def hour_angle_and_declination(zenith, azimuth, latitude):
    """Horizon to equator, from the components East, North and Up of the direction."""
    east, north = np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth)
    up = np.cos(zenith)
    hour_angle = np.arctan2(-east, up * np.cos(latitude) - north * np.sin(latitude))
    return hour_angle, np.arcsin(up * np.sin(latitude) + north * np.cos(latitude))


# --- Sites ------------------------------------------------------------------------------------------------


def test_sites_hold_the_observatories_of_the_field():
    """Rounded positions known from elsewhere: a swapped or mirrored coordinate fails."""
    expected = {
        "IceCube": (-90, 270, 65),
        "IceTop": (-90, 270, 55),
        "HAWC": (19, -97, 57),
        "LHAASO": (29, 100, 50),
        "Auger": (-35, -69, 80),
        "Telescope Array": (39, -113, 55),
        "KASCADE-Grande": (49, 8, 40),
        "Tibet AS-gamma": (30, 91, 60),
        "ARGO-YBJ": (30, 91, 50),
        "Super-Kamiokande": (36, 137, 90),
        "GRAPES-3": (11, 77, 60),
        "Milagro": (36, -107, 50),
    }
    assert set(detector.SITES) == set(expected)
    for name, numbers in expected.items():
        entry = detector.SITES[name]
        found = np.array([entry.latitude, entry.longitude, entry.zenith_max]) / DEGREE
        np.testing.assert_allclose(found, numbers, atol=0.5)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("auger", "Auger"),
        ("ICECUBE", "IceCube"),
        ("telescope-array", "Telescope Array"),
        ("ta", "Telescope Array"),
        ("kascade grande", "KASCADE-Grande"),
        ("KG", "KASCADE-Grande"),
        ("tibet", "Tibet AS-gamma"),
        ("Tibet_AS_gamma", "Tibet AS-gamma"),
        ("sk", "Super-Kamiokande"),
        ("grapes3", "GRAPES-3"),
    ],
)
def test_names_are_found_in_any_spelling(given, name):
    assert site(given) is detector.SITES[name]


def test_a_string_of_three_numbers_is_a_site_in_degrees():
    here = site("-35.2, -69.25, 60")
    np.testing.assert_allclose(
        [here.latitude, here.longitude, here.zenith_max], np.radians([-35.2, -69.25, 60]), rtol=1e-14
    )
    assert here.zenith_min == 0


def test_a_zenith_cut_replaces_the_default():
    narrow = site("hawc", 40 * DEGREE)
    assert narrow.zenith_max == 40 * DEGREE
    assert narrow.latitude == site("hawc").latitude
    assert site(narrow) is narrow
    inner = Site("ring", 0.1, 0.2, 1.0, 0.5)
    assert site(inner, 0.9).zenith_min == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: site("agasa"), r"unknown site 'agasa'.*Known: IceCube, IceTop, HAWC.*'LAT,LON,ZENITH'"),
        (lambda: site("icecub"), r"unknown site 'icecub'; the nearest known one is IceCube"),
        (lambda: site("19,-97"), r"'19,-97' is not 'LAT,LON,ZENITH': three numbers"),
        (lambda: site("19,west,57"), r"is not 'LAT,LON,ZENITH'"),
        (lambda: site("91,0,57"), r"latitude of site '91,0,57' must lie in \[-90, 90\] degrees, not 91:"),
        (lambda: site("nan,0,57"), r"latitude of site .* not nan"),
        (lambda: site("19,400,57"), r"longitude .* must lie in \[-360, 360\] degrees, not 400:"),
        (lambda: site("19,-97,91"), r"zenith_max .* must lie in \(0, 90\] degrees, not 91:"),
        (lambda: site("19,-97,0"), r"zenith_max .* must lie in \(0, 90\] degrees, not 0:"),
        (lambda: site("hawc", 57), r"zenith_max of site 'HAWC' .* a Site takes radians"),
        (lambda: Site("x", 0.1, 0.1, 1.0, -0.1), r"zenith_min .* must lie in \[0, 90\]"),
        (lambda: Site("x", 0.1, 0.1, 0.5, 0.5), r"accepts no direction: zenith_min 28.6479 is not below"),
    ],
)
def test_a_bad_site_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- Acceptance -------------------------------------------------------------------------------------------


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


# --- Rate in sidereal time --------------------------------------------------------------------------------


def test_rate_sums_to_the_number_of_events():
    counts = detector.rate(GRID, 1e6, harmonics=[(1, 0.3, 2.0)], gaps=[(3.0, 5.5)])
    assert counts.shape == (360,)
    np.testing.assert_allclose(counts.sum(), 1e6, rtol=1e-12)
    np.testing.assert_allclose(detector.rate(GRID, 720), 2, rtol=1e-12)


def test_harmonics_have_their_amplitude_and_phase():
    """The largest bin lies at the phase; a bin averages over its width, by sin(x)/x with x = k step / 2."""
    rate = detector.relative_rate(COARSE, [(1, 0.1, 1.0), (3, 0.05, 2.0)])
    wave = lambda k, phase: np.cos(k * (COARSE.sidereal_time - phase)) * np.sinc(k / 36)  # noqa: E731
    np.testing.assert_allclose(rate, 1 + 0.1 * wave(1, 1.0) + 0.05 * wave(3, 2.0), rtol=1e-12)


@pytest.mark.parametrize(
    ("gaps", "livetime"),
    [
        ([(1.25, 2.0)], {1: 0.25}),
        ([(1.25, 3.5)], {1: 0.25, 2: 0.0, 3: 0.5}),
        ([(23.5, 0.25)], {23: 0.5, 0: 0.75}),
        ([(4.0, 4.5), (4.25, 4.75)], {4: 0.25}),
        ([(4.0, 4.25), (4.75, 5.0)], {4: 0.5}),
        ([(10, 9)], {h: 0.0 for h in range(24) if h != 9}),
    ],
)
def test_gaps_take_their_fraction_of_a_bin(gaps, livetime):
    grid = RingGrid(4, 24)
    expected = np.ones(24)
    expected[list(livetime)] = list(livetime.values())
    np.testing.assert_allclose(detector.relative_rate(grid, gaps=gaps), expected, atol=1e-12)


def test_a_gap_keeps_the_wave_of_the_part_that_was_live():
    """The bin from 6 h to 12 h of four, live to 9 h, under 1 + cos(t): (pi/4 + sin(3 pi/4) - 1) / (pi/2)."""
    rate = detector.relative_rate(RingGrid(4, 4), [(1, 1.0, 0.0)], [(9.0, 12.0)])
    np.testing.assert_allclose(rate[1], (np.pi / 4 + np.sqrt(0.5) - 1) / (np.pi / 2), rtol=1e-12)


def test_dead_bins_are_exactly_zero_and_none_is_negative():
    rate = detector.relative_rate(GRID, [(1, 1.0, 0.3)], [(2.013, 7.777)])
    assert float(rate.min()) == 0.0
    dead = (GRID.sidereal_time > 2.1 * HOUR) & (GRID.sidereal_time < 7.7 * HOUR)
    np.testing.assert_array_equal(np.asarray(rate)[dead], 0.0)


def test_noise_scatters_the_bins_by_its_size():
    noisy = detector.relative_rate(RingGrid(4, 20_000), noise=0.3, rng=np.random.default_rng(4))
    np.testing.assert_allclose(noisy.mean(), 1, atol=0.01)
    np.testing.assert_allclose(jnp.log(noisy).std(), 0.3, rtol=0.03)


def test_rate_is_differentiable():
    def f(num_events, amplitude, phase):
        return detector.rate(COARSE, num_events, [(1, amplitude, phase)], [(2.1, 5.0)])

    check_grads(jax.jit(f), (jnp.array(40.0), jnp.array(0.3), jnp.array(1.0)), order=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"harmonics": [(1, 1.2, 0.0)]}, r"rate harmonics make it negative, -0.2 at 180.0 degrees"),
        ({"harmonics": [(0, 0.2, 0.0)]}, r"k of each rate harmonic must be a whole number"),
        ({"gaps": [(3, 25)]}, r"gap \(3, 25\) of a rate must lie between 0 and 24 sidereal hours"),
        ({"gaps": [(3, 3)]}, r"gap \(3, 3\) of a rate .* end elsewhere than it starts"),
        ({"gaps": [(0, 12), (12, 24)]}, r"leave no sidereal time live"),
        ({"noise": 0.1}, r"noise of a rate must be at least 0, with rng given"),
        ({"noise": -0.1, "rng": np.random.default_rng(1)}, r"noise of a rate must be at least 0"),
        ({"num_events": 0}, r"num_events of a rate must be positive and finite, not 0"),
        ({"num_events": np.inf}, r"num_events of a rate must be positive and finite, not inf"),
    ],
)
def test_a_bad_rate_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        detector.rate(**{"grid": COARSE, "num_events": 100, **options})


# --- Rate in civil time -----------------------------------------------------------------------------------


def test_waves_are_largest_at_their_phases():
    """J2000.0 is noon at Greenwich; 6 hours later it is midnight 90 degrees to the East."""
    model = RateModel(diurnal=0.2, diurnal_phase=np.pi)
    np.testing.assert_allclose(model.relative_rate(jnp.array([0.0, 0.5, -0.5]), 0.0), [1.2, 0.8, 0.8], rtol=1e-12)
    np.testing.assert_allclose(
        model.relative_rate(jnp.array([0.25, -0.25, 0.75]), np.pi / 2), [0.8, 1.2, 1.2], rtol=1e-12
    )
    season = RateModel(seasonal=0.1, seasonal_phase=40.0)
    days = jnp.array([40.0, 40 + 365.2422, 40 + 365.2422 / 2])
    np.testing.assert_allclose(season.relative_rate(days, 0.0), [1.1, 1.1, 0.9], rtol=1e-12)
    both = RateModel(diurnal=0.2, diurnal_phase=np.pi, modulation=0.5, modulation_phase=0.0, seasonal=0.1)
    np.testing.assert_allclose(both.relative_rate(jnp.zeros(3), 0.0), [1.1 * (1 + 0.2 * 1.5)] * 3, rtol=1e-12)


def test_a_modulated_solar_wave_fakes_equal_sidereal_and_antisidereal_ones():
    """S (1 + m cos) leaves m S / 2 at both neighbouring frequencies over whole years.

    When the longitude of the mean Sun, 280.46 + 0.98564736 d degrees, is 180 (autumn equinox), sidereal,
    solar and antisidereal time agree everywhere: with the modulation largest then, all phases are equal."""
    equinox = (180 + 360 - 280.46) / 0.98564736
    model = RateModel(diurnal=0.2, diurnal_phase=2.0, modulation=0.5, modulation_phase=equinox)
    for frame, amplitude in {
        "solar": 0.2,
        "sidereal": 0.05,
        "antisidereal": 0.05,
    }.items():
        # Four years are a whole number of days and of turns in all frames, to 0.03 days.
        folded = model.sidereal_rate(COARSE, 5000.0, 6461.0, -1.2, frame)
        np.testing.assert_allclose(folded.sum(), 1, rtol=1e-12)
        wave = first_harmonic(folded)
        np.testing.assert_allclose(wave, amplitude * np.exp(2j), atol=1e-4)


def test_a_quarter_of_a_day_covers_a_quarter_of_the_sidereal_bins():
    """6 sidereal hours of data from 2015-06-01T06:00 UTC, when Greenwich is at 339.408880 degrees."""
    start = 5629.75
    end = start + 0.25 * 365.2422 / 366.2422
    edges = np.arange(361.0)
    for longitude in (0.0, 90.0):
        folded = RateModel().sidereal_rate(GRID, start, end, longitude * DEGREE)
        first = (339.408880 + longitude) % 360
        expected = np.zeros(360)
        for turn in (0, 360):
            expected += np.diff(np.clip(edges + turn, first, first + 90)) / 90
        np.testing.assert_allclose(folded, expected, atol=2e-7)
    # The same exposure left over by gaps from a longer run.
    run = RateModel(gaps=[(start - 3, start), (end, end + 3)])
    np.testing.assert_allclose(run.sidereal_rate(GRID, start - 2, end + 1, np.pi / 2), folded, atol=1e-12)


def test_sidereal_rate_agrees_on_coarse_and_fine_grids():
    """Folding is an integral, so four bins hold the sums of 360, here over no whole number of days."""
    model = RateModel(diurnal=0.3, diurnal_phase=1.0, seasonal=0.2, gaps=[(5001.1, 5001.7)])
    fine = np.asarray(model.sidereal_rate(GRID, 5000.3, 5003.77, 0.5))
    coarse = model.sidereal_rate(RingGrid(4, 4), 5000.3, 5003.77, 0.5)
    np.testing.assert_allclose(coarse, fine.reshape(4, 90).sum(axis=1), rtol=1e-5)


def test_drawn_times_follow_the_rate():
    waves = {"seasonal": 0.3, "seasonal_phase": 20.0, "diurnal": 0.3, "diurnal_phase": 1.0, "modulation": 0.9}
    model = RateModel(**waves, gaps=[(5030, 5070), (5060, 5080)])
    start, end, longitude, num = 5000.0, 5200.0, 1.2, 50_000
    days = model.draw_times(np.random.default_rng(6), num, start, end, longitude)
    assert days.shape == (num,)
    assert np.all(np.diff(days) >= 0)
    assert days[0] >= start
    assert days[-1] <= end
    assert not np.any((days > 5030) & (days < 5080))

    # Against the stated formula, written out on a fine grid of times: per 10 days, and per solar hour.
    t = start + (np.arange(200 * 480) + 0.5) / 480
    solar = 2 * np.pi * (t + 0.5) + longitude
    year = 2 * np.pi / 365.2422
    density = (1 + 0.3 * np.cos(year * (t - 20))) * (1 + 0.3 * (1 + 0.9 * np.cos(year * t)) * np.cos(solar - 1.0))
    density[(t >= 5030) & (t < 5080)] = 0
    expected = density * num / density.sum()
    turn = lambda x: (2 * np.pi * (x + 0.5) + longitude) % (2 * np.pi)  # noqa: E731
    pairs = []
    for event, fine, span, bins in ((days, t, (start, end), 20), (turn(days), turn(t), (0, 2 * np.pi), 24)):
        counts, _ = np.histogram(event, bins, span)
        pairs.append((counts, np.histogram(fine, bins, span, weights=expected)[0]))
    # The folded rate uses the package's own sidereal time, tested above.
    fraction = model.sidereal_rate(COARSE, start, end, longitude)
    sidereal = detector.local_time(jnp.asarray(days), longitude, "sidereal")
    pairs.append((np.bincount(COARSE.bin_of(np.asarray(sidereal)), minlength=36), num * np.asarray(fraction)))
    for counts, expectation in pairs:
        live = expectation > 0
        np.testing.assert_array_equal(counts[~live], 0)
        chi2 = np.sum((counts[live] - expectation[live]) ** 2 / expectation[live])
        assert abs(chi2 - live.sum()) < 4 * np.sqrt(2 * live.sum())


def test_rate_model_is_differentiable():
    days = jnp.array([5000.2, 5100.7, 5333.3])
    values = tuple(jnp.array(x) for x in (0.1, 50.0, 0.2, 1.0, 0.4, 80.0))

    def civil(*parameters):
        return detector.civil_rate(days, 2 * jnp.pi * days, *parameters)

    def folded(*parameters):
        model = RateModel(*parameters, gaps=[(5000.5, 5000.6)])
        return model.sidereal_rate(COARSE, 5000.0, 5001.5, 0.3), model.relative_rate(days, 0.3)

    check_grads(jax.jit(civil), values, order=1)
    check_grads(jax.jit(folded), values, order=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seasonal": 1.1}, r"seasonal amplitude 1.1 makes the rate negative"),
        (
            {"diurnal": 0.6, "modulation": -0.8},
            r"diurnal amplitude 0.6 with annual modulation -0.8 makes the rate",
        ),
        ({"diurnal_phase": np.nan}, r"diurnal_phase of a rate model must be finite, not nan"),
        ({"gaps": [(3, 2)]}, r"gap \(3.0, 2.0\) of a rate model must end after it starts"),
        ({"gaps": [(3, np.inf)]}, r"gap \(3.0, inf\) of a rate model"),
    ],
)
def test_a_bad_rate_model_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        RateModel(**options)


@pytest.mark.parametrize("method", ["draw_times", "sidereal_rate"])
def test_a_bad_interval_is_refused(method):
    def call(model, start, end):
        if method == "draw_times":
            return model.draw_times(np.random.default_rng(1), 5, start, end, 0.0)
        return model.sidereal_rate(COARSE, start, end, 0.0)

    with pytest.raises(InputError, match=r"from day 10 to day 10 must end after it starts"):
        call(RateModel(), 10, 10)
    with pytest.raises(InputError, match=r"gaps leave nothing live between day 10 and day 11"):
        call(RateModel(gaps=[(9, 12)]), 10, 11)


def test_a_rate_in_civil_time_needs_64_bit_floats():
    with (
        jax.enable_x64(False),
        pytest.raises(RuntimeError, match=r"a rate in civil time needs 64-bit floats"),
    ):
        RateModel().relative_rate(jnp.array([0.0]), 0.0)
