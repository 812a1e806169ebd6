"""The draped field: a line carried along by the flow, conservation laws, limits in closed form; Parker's spiral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import solve_ivp
from scipy.special import elliprd, elliprf

from diffcr.errors import InputError
from diffcr.heliosphere import DrapedField, SolarWind, _carlson, heliosphere
from diffcr.sky import angles, icrs_to_galactic
from diffcr.units import AU, DAY, KM_PER_S, SPEED_OF_LIGHT

SPEED = 1e-4
# The flow along +z, the field in the plane of x and z.
FIELD = np.array([2.0, 0.0, 1.0])


def draped(depletion=1.0, field=FIELD):
    return DrapedField(field, [0.0, 0.0, SPEED], 1.0, depletion)


def places(number, seed=0, nearest=1.0, farthest=5.0):
    """Points outside the heliopause r = 1 / sin(theta / 2), theta from downstream, between two multiples of it."""
    rng = np.random.default_rng(seed)
    theta, phi = np.arccos(rng.uniform(-1, 0.8, number)), rng.uniform(0, 2 * np.pi, number)
    r = rng.uniform(nearest, farthest, number) / np.sin(theta / 2)
    return jnp.asarray(r * np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]))


def jacobian(function, position):
    """d f_i / d x_j at each place, shape (place, i, j)."""
    return np.asarray(jax.jit(jax.vmap(jax.jacfwd(lambda x: function(x[:, None])[:, 0])))(position.T))


@pytest.mark.parametrize("depletion", [0.0, 1.0])
def test_field_is_divergence_free(depletion):
    gradient = jacobian(draped(depletion), places(300, nearest=1.02))
    size = np.linalg.norm(gradient, axis=(1, 2))
    assert np.max(np.abs(np.trace(gradient, axis1=1, axis2=2)) / size) < 1e-12


def test_field_is_the_line_that_the_flow_carries():
    """A short line of gas obeys d(line)/dt = (line . grad) u; frozen in, it stays proportional to the field."""

    def carried(_, state):
        x, line = state[:3], state[3:]
        r2 = x @ x
        stretch = (line - 3 * x * (x @ line) / r2) / r2**1.5
        return np.concatenate([x / r2**1.5 + [0, 0, 1], stretch])

    # From so far upstream, the disturbance falls as 1 / z^2.
    for impact in ([0.3, 0.2], [-0.05, 0.4], [1.5, -2.0]):
        start = np.concatenate([impact, [-3000.0], FIELD])
        path = solve_ivp(carried, (0, 3004), start, rtol=1e-11, atol=1e-12, t_eval=[2998, 3000, 3001.5, 3004])
        got = np.asarray(draped(0.0)(jnp.asarray(path.y[:3])))
        np.testing.assert_allclose(got, path.y[3:], rtol=2e-6, atol=2e-6)


def test_thin_layer_changes_nothing_far_from_the_heliopause():
    far = places(50, nearest=20.0, farthest=60.0)
    np.testing.assert_allclose(draped(1.0)(far), draped(0.0)(far), atol=3e-3)


@pytest.mark.parametrize("depletion", [0.3, 1.0])
def test_field_at_the_heliopause_is_finite_and_tangential(depletion):
    near = places(200, nearest=1 + 1e-7, farthest=1 + 1e-7)
    # The heliopause is r - z = 2 a^2 / r.
    outwards = jax.vmap(jax.grad(lambda x: jnp.linalg.norm(x) * (jnp.linalg.norm(x) - x[2])))(near.T).T
    outwards = outwards / jnp.linalg.norm(outwards, axis=0)
    field = draped(depletion)(near)
    size = jnp.linalg.norm(field, axis=0)
    assert np.max(np.abs(np.sum(field * outwards, axis=0)) / size) < 1e-6
    assert np.max(size) < 4 / depletion * np.linalg.norm(FIELD)
    velocity, density = draped(depletion).plasma(near)
    assert np.max(np.abs(np.sum(velocity * outwards, axis=0))) < 1e-6 * SPEED
    assert np.max(density) < 1e-4 / depletion**2


@pytest.mark.parametrize("depletion", [0.0, 0.5, 1.0])
def test_field_on_the_axis_upstream_is_known(depletion):
    """Along the flow 1 - a^2 / r^2 = w as the speed, across it g / w, whatever the label g."""
    r = np.array([1.05, 1.5, 3.0, 40.0])
    w = 1 - 1 / r**2
    got = draped(depletion)(jnp.asarray(np.outer([0, 0, -1.0], r)))
    square = depletion**2
    np.testing.assert_allclose(got[0], FIELD[0] * np.sqrt((1 + square) / (w + square)), rtol=1e-12)
    np.testing.assert_allclose(got[1], 0, atol=1e-14)
    if depletion == 0:
        np.testing.assert_allclose(got[2], FIELD[2] * w, rtol=1e-12)


def test_field_is_the_interstellar_one_far_upstream():
    direction = np.array([[0.3, -0.5, -1.0], [1.0, 0.0, -0.2], [0.0, 1e-9, -1.0]]).T
    for distance, close in ((1e2, 1e-3), (1e4, 1e-7)):
        # Across the flow the disturbance of Z falls as 1 / r^2 as well.
        got = draped()(jnp.asarray(distance * direction))
        np.testing.assert_allclose(got, np.broadcast_to(FIELD[:, None], got.shape), atol=close)


@pytest.mark.parametrize("depletion", [0.0, 1.0])
def test_gas_that_carries_the_field_conserves_mass_and_induction(depletion):
    field, position = draped(depletion), places(200, seed=2, nearest=1.02)
    velocity, density = (np.asarray(v) for v in field.plasma(position))
    assert np.all(density > 0)
    mass = jacobian(lambda x: field.plasma(x)[0] * field.plasma(x)[1], position)
    assert np.max(np.abs(np.trace(mass, axis1=1, axis2=2))) < 1e-12 * SPEED
    # E = -v x B and has a potential, so curl(v x B) = 0: the field does not change in time.
    electric = np.asarray(field.electric(position))
    np.testing.assert_allclose(electric, -np.cross(velocity, field(position), axis=0), atol=1e-13 * SPEED)
    slope = jax.vmap(jax.grad(lambda x: field.potential(x[:, None])[0]))(position.T).T
    np.testing.assert_allclose(electric, -slope, atol=1e-12 * SPEED)


def test_gas_flows_past_a_source_without_a_layer():
    """u / U = e + a^2 x / r^3, incompressible: the Rankine half-body."""
    position = places(50, seed=3)
    velocity, density = draped(0.0).plasma(position)
    r = np.linalg.norm(position, axis=0)
    np.testing.assert_allclose(velocity / SPEED, np.array([[0], [0], [1]]) + position / r**3, atol=1e-12)
    np.testing.assert_allclose(density, 1, rtol=1e-12)


def test_electric_field_far_upstream_pushes_charges_along_with_the_gas():
    """E = -v x B: then E x B / B^2 is the gas's velocity across the field."""
    position = jnp.asarray([[50.0, 20.0, -2e4]]).T
    electric, magnetic = draped().electric(position)[:, 0], draped()(position)[:, 0]
    across = np.array([0, 0, SPEED]) - SPEED * FIELD[2] * FIELD / (FIELD @ FIELD)
    np.testing.assert_allclose(np.cross(electric, magnetic) / (FIELD @ FIELD), across, atol=1e-6 * SPEED)


def test_field_along_the_flow_is_the_flow():
    position = places(50, seed=4)
    along = draped(0.0, np.array([0.0, 0.0, -3.0]))
    r = np.linalg.norm(position, axis=0)
    np.testing.assert_allclose(along(position), -3 * (np.array([[0], [0], [1]]) + position / r**3), atol=1e-12)
    assert np.all(np.isfinite(jacobian(along, position)))


def test_inside_is_what_was_asked_for():
    inside = jnp.asarray([[0.0, 0.0, 0.0], [0.0, 0.0, 2.5], [0.5, -0.5, -0.3]]).T
    assert np.all(np.asarray(draped()(inside)) == 0)
    assert np.all(np.asarray(draped().electric(inside)) == 0)
    ones = DrapedField(FIELD, [0.0, 0.0, SPEED], 1.0, 1.0, lambda x: jnp.ones_like(x))
    assert np.all(np.asarray(ones(inside)) == 1)
    assert np.all(np.asarray(ones(jnp.asarray([[0.0, 0.0, -1.01]]).T)[0]) > 1)


def test_carlson_integrals_agree_with_scipy():
    w, share = np.meshgrid([1e-9, 1e-5, 0.01, 0.5, 1.0], [1e-7, 0.2, 1.0])
    first, second = _carlson(jnp.asarray(w * share), jnp.ones_like(w), jnp.asarray(w))
    np.testing.assert_allclose(first, elliprf(w * share, 1, w), rtol=1e-13)
    np.testing.assert_allclose(second, elliprd(w * share, 1, w), rtol=1e-13)


def test_field_in_32_bits_is_close_to_that_in_64():
    field, position = heliosphere(wind="parker"), 120 * AU * places(200, nearest=1.05)
    single = field(position.astype(jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, field(position), atol=1e-3)


def test_gradients_are_those_of_finite_differences():
    position = places(3, seed=5, nearest=1.2)

    def size(strength, nose, depletion):
        return jnp.sum(DrapedField(strength * FIELD, [0.0, 0.0, SPEED], nose, depletion)(position) ** 2)

    check_grads(jax.jit(size), (1.3, 0.9, 0.6), order=1, rtol=1e-6)


# The Sun's wind ----------------------------------------------------------------------------------------------


def wind(**options):
    return SolarWind(jnp.array([0.0, 0.0, 1.0]), **options)


def test_spiral_is_divergence_free_off_the_sheet():
    rng = np.random.default_rng(6)
    position = jnp.asarray(rng.normal(size=(3, 200)) * 30 * AU)
    position = position[:, np.linalg.norm(position, axis=0) > 2 * AU]
    for tilt in (0.0, 0.5):
        gradient = jacobian(wind(tilt=tilt), position)
        size = np.linalg.norm(gradient, axis=(1, 2))
        assert np.max(np.abs(np.trace(gradient, axis1=1, axis2=2)) / size) < 1e-12


def test_spiral_has_its_angle_and_its_sign():
    """At the Earth a wind of 429 km/s makes 45 degrees: 2 pi AU / 25.38 d = 428.6 km/s; trailing the rotation."""
    corotation = 2 * np.pi * 1.495978707e8 / (25.38 * 86400)
    field = wind(speed=corotation * KM_PER_S)
    got = np.asarray(field(jnp.asarray([[AU * 0.999999999, 0.0, 1e-9 * AU], [3 * AU, 0, 4 * AU]]).T))
    assert np.all(got[:, 0] == 0)
    at = np.asarray(field(jnp.asarray([[2 * AU, 0.0, 1e-9 * AU], [2 * AU, 0, -1e-9 * AU]]).T))
    np.testing.assert_allclose(at[:, 0], [35 / 4, -35 / 2, 0], atol=1e-6)
    np.testing.assert_allclose(at[:, 1], -at[:, 0], atol=1e-6)
    # 5 AU away at 37 degrees of latitude above the equator: 35 / 25 (0.6, 0.8) and -3 times that across.
    np.testing.assert_allclose(got[:, 1], 35 / 25 * np.array([0.6, -3.0, 0.8]), rtol=1e-8)


def test_tilted_sheet_makes_sectors_wound_with_the_field():
    """Outwards in the equator the sign turns every half wind period: 400 km/s x 25.38 d / 2 = 2.93 AU."""
    r = np.linspace(2, 30, 100001)
    sign = np.sign(wind(tilt=0.2)(jnp.asarray(np.outer([1.0, 0, 0], r * AU)))[0])
    turns = r[1:][np.diff(sign) != 0]
    half = 400 * KM_PER_S * 25.38 * DAY * SPEED_OF_LIGHT / AU / 2
    np.testing.assert_allclose(np.diff(turns), half, rtol=2e-4)
    np.testing.assert_allclose(half, 2.932, rtol=1e-3)
    # Beyond the tilt there are no sectors.
    above = wind(tilt=0.2)(jnp.asarray(np.outer([np.cos(0.21), 0, np.sin(0.21)], r * AU)))
    assert np.all(above[2] > 0)


def test_sign_is_kept_along_a_field_line():
    """dx/ds = B traced from 2 to 40 AU stays on one side of the wavy sheet."""
    field = jax.jit(lambda x: SolarWind(jnp.array([0.6, 0.0, 0.8]), tilt=0.4, phase=1.0)(x[:, None])[:, 0])

    def line(_, x):
        b = np.asarray(field(jnp.asarray(x * AU)))
        return b * (x @ x) / (b @ x)

    # At 9 degrees of latitude, where the tilt of 23 degrees makes sectors, in two of them.
    signs = []
    for start in ([0.8, -1.9, -0.2], [0.4, 1.9, 0.1]):
        x = solve_ivp(line, (0, np.log(20)), start, rtol=1e-8).y.T * AU
        sign = np.sign(np.sum(np.asarray(jax.vmap(field)(jnp.asarray(x))) * x, axis=1))
        assert np.linalg.norm(x[-1]) > 30 * AU
        assert np.all(sign == sign[0])
        signs.append(sign[0])
    assert signs[0] != signs[1]


# By its numbers ----------------------------------------------------------------------------------------------


def test_measured_directions_are_where_they_were_published():
    """Gas from ICRS (255.05, -17.60), field towards the centre of the ribbon at ICRS (48.469, -21.244)."""
    here = heliosphere()
    np.testing.assert_allclose(np.degrees(angles(-here.velocity)), [255.05, -17.60], atol=0.01)
    np.testing.assert_allclose(np.degrees(angles(here.interstellar)), [48.469, -21.244], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(here.velocity), 25.4 / 299792.458, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(here.interstellar), 3.0, rtol=1e-12)
    upstream = -1e4 * AU * here.velocity / jnp.linalg.norm(here.velocity)
    np.testing.assert_allclose(here(upstream[:, None])[:, 0], here.interstellar, atol=1e-3)


def test_frames_are_turns_of_one_field():
    icrs, galactic = (heliosphere(wind="parker", frame=frame) for frame in ("icrs", "galactic"))
    position = jnp.asarray(np.random.default_rng(7).normal(size=(3, 100)) * 200 * AU)
    turned = icrs_to_galactic(icrs(position).T).T
    np.testing.assert_allclose(galactic(icrs_to_galactic(position.T).T), turned, atol=1e-8)


def test_default_field_is_at_most_two_and_a_half_times_the_undisturbed():
    near = heliosphere()
    axis = np.asarray(near.velocity / jnp.linalg.norm(near.velocity))
    position = jnp.asarray(np.random.default_rng(8).normal(size=(3, 20000)) * 200 * AU)
    strongest = np.argmax(np.linalg.norm(near(position), axis=0))
    assert 5 < np.linalg.norm(near(position), axis=0)[strongest] < 7.5
    nose = near(jnp.asarray(-1.0001 * 120 * AU * axis)[:, None])[:, 0]
    across = near.interstellar - axis * (axis @ near.interstellar)
    np.testing.assert_allclose(nose, np.sqrt(2) * across, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strength": -1.0}, "strength"),
        ({"strength": np.nan}, "strength"),
        ({"nose": 0.0}, "nose of a heliosphere must be finite and above 0"),
        ({"depletion": -0.1}, "depletion"),
        ({"direction": (1.0, 1.0, 0.0)}, "unit vector"),
        ({"wind": "breeze"}, "unknown solar wind 'breeze'"),
        ({"flow": "nobody"}, "unknown interstellar flow"),
        ({"frame": "ecliptic"}, "unknown frame 'ecliptic'"),
    ],
)
def test_what_cannot_be_is_refused(options, match):
    with pytest.raises((InputError, TypeError), match=match):
        heliosphere(**options)
