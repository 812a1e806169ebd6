"""What each model says of the sky, put together by hand; its mirror image; its gradients."""

import functools

import erfa
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import CartesianRepresentation, SkyCoord
from diffcr.inference import models
from diffcr.inference.data import combine
from diffcr.inference.sky_likelihood import sky_likelihood
from helpers import dipole_sky, drawn
from numpyro import handlers
from numpyro.infer import util
from scipy import integrate, special

from diffcr.detector import acceptance
from diffcr.grid import RingGrid
from diffcr.site import site

NORM = np.sqrt(4 * np.pi / 3)
GRID = RingGrid(8, 12)
YEAR = 2016.5
PRECESSION = erfa.bp06(2451545.0, (YEAR - 2000) * 365.25)[1]
"""Mean equator and equinox of J2000 to those of date."""
BETA = (1.1e-4, -0.4e-4, 0.7e-4)


@pytest.fixture(scope="module")
def parts():
    """Two energy bins of one observatory, with dipoles towards 2 h and 3 h."""
    local = np.asarray(acceptance(site("HAWC"), GRID, power=2.0, azimuth_terms=[(1, 0.2, 0.7)]))
    rate = 2e6 / 12 * np.repeat([1.3, 1.0, 0.7, 1.1], 3)
    dipoles = {"a": (0.05 * np.cos(np.pi / 6), 0.05 * np.sin(np.pi / 6)), "b": (0.03, 0.03)}
    return [
        drawn(site("HAWC"), GRID, local, rate, dipole_sky(GRID, d), seed=k, epoch_year=YEAR).replace(energies=(name,))
        for k, (name, d) in enumerate(dipoles.items())
    ]


@pytest.fixture(scope="module")
def two(parts):
    return sky_likelihood(combine(parts), rate_bins=4, nodes=12)


@pytest.fixture(scope="module")
def octupole(parts):
    """One energy bin, up to l = 3."""
    return sky_likelihood(parts[0], l_max=3, rate_bins=4, nodes=12)


@functools.cache
def made(model, **options):
    """A model with its options: one object for the same ones, so that nothing is compiled twice."""
    return functools.partial(model, **options)


@functools.partial(jax.jit, static_argnames="model")
def evaluated(model, sky, values):
    """Every site of a model at given values, what is not given being drawn, and the likelihood's term."""
    trace = handlers.trace(handlers.substitute(handlers.seed(model, jax.random.PRNGKey(3)), data=values)).get_trace(sky)
    found = {k: s["value"] for k, s in trace.items() if k != "counts"}
    normal = next((trace[k]["fn"] for k in ("dipole", "multipoles", "sources") if k in trace), None)
    return found, trace["counts"]["fn"].log_factor, (normal.loc, normal.scale)


@functools.partial(jax.jit, static_argnames="model")
def density(model, sky, values):
    return util.log_density(model, (sky,), {}, values)[0]


@functools.partial(jax.jit, static_argnames="model")
def potential(model, sky, z):
    """Minus ln density in the coordinates of the sampler, and its gradient."""
    return jax.value_and_grad(lambda z: util.potential_energy(model, (sky,), {}, z))(z)


likelihood = jax.jit(lambda sky, theta, u: sky.log_likelihood(theta, u))


def of_date(vector):
    """Multipoles (1, -1), (1, 1) of date of a dipole vector of J2000, shape (.., 3)."""
    seen = np.asarray(vector) @ PRECESSION.T
    return NORM * np.stack([seen[..., 1], seen[..., 0]], axis=-1)


def unit(ra, dec):
    return np.array([np.cos(ra) * np.cos(dec), np.sin(ra) * np.cos(dec), np.sin(dec)])


def check_direction(found, vector):
    """Components, equatorial amplitude and right ascension, as astropy has it."""
    for k, name in enumerate(("delta_0h", "delta_6h", "delta_N")):
        np.testing.assert_allclose(found[name], vector[..., k], rtol=1e-9, atol=1e-15)
    place = SkyCoord(CartesianRepresentation(*np.moveaxis(vector, -1, 0) * units.one), frame="icrs")
    np.testing.assert_allclose(found["right_ascension_deg"], place.spherical.lon.deg, rtol=1e-9)
    np.testing.assert_allclose(found["amplitude"], np.hypot(vector[..., 0], vector[..., 1]), rtol=1e-9)


def rates(sky, seed=0):
    return 0.02 * np.random.default_rng(seed).standard_normal(sky.rate_centre.shape)


# Dipole and multipoles ---------------------------------------------------------------------------------


def test_the_dipole_is_put_on_the_sky_of_date(two):
    """With m = 0 of date taken as zero: the vector of date whose equatorial part, back in J2000, is the one given."""
    vector, u = np.array([0.04, -0.03]), rates(two)
    values = {"dipole": vector, "log_rate": u, "delta_N_scaled": jnp.array(0.02 / 0.3)}
    found, factor, (loc, scale) = evaluated(made(models.dipole, scale=0.3), two, values)
    date = np.linalg.solve(PRECESSION.T[:2, :2], vector)
    expected = likelihood(two, NORM * date[::-1], u)
    np.testing.assert_allclose(factor, expected, rtol=1e-12)
    # Precession is seen: without it the likelihood would be another.
    assert abs(float(expected - likelihood(two, NORM * vector[::-1], u))) > 0.1
    check_direction(found, np.append(vector, 0.02))
    np.testing.assert_array_equal([*loc, *scale], [0, 0, 0.3, 0.3])


def test_the_dipole_has_no_north_component_of_its_own_but_its_prior(two):
    """Drawn with the prior's width, and unseen by the data."""
    values = {"dipole": np.array([0.04, -0.03]), "log_rate": rates(two)}
    at = [
        float(density(made(models.dipole, scale=0.3), two, values | {"delta_N_scaled": jnp.array(d)}))
        for d in (0.0, 2.0)
    ]
    np.testing.assert_allclose(at[0] - at[1], 0.5 * 2**2, rtol=1e-6)


def cascade_power(depth, l_max):
    """C_l / C_2, l = 2 .. l_max, of dC_l/dT = -nu_l C_l + (2l-1)/(2l+1) nu_{l-1} C_{l-1}, integrated by scipy."""
    l = np.arange(1, l_max + 1)
    nu = l * (l + 1.0)
    gain = np.append(0.0, (2 * l[1:] - 1) / (2 * l[1:] + 1) * nu[:-1])
    start = np.eye(l_max)[0]
    slope = lambda _, c: -nu * c + gain * np.append(0.0, c[:-1])
    power = integrate.solve_ivp(slope, (0, depth), start, rtol=1e-11, atol=1e-15).y[:, -1]
    return power[1:] / power[1]


POWERS = {
    "free": (
        {"log_power_scaled": np.array([0.5, -1.0])},
        lambda m: m * np.array([np.exp(1.0), 1.5**-3 * np.exp(-2.0)]),
    ),
    "power-law": (
        {"log_power_2_scaled": 0.5, "power_index": 1.2},
        lambda m: m * np.exp(1.0) * np.array([1, 1.5**-1.2]),
    ),
    "cascade": ({"log_power_2_scaled": -0.5, "log_depth": 0.3}, lambda m: m / np.e * cascade_power(np.exp(0.3), 3)),
    "template": (
        {"log_power_2_scaled": 0.5, "template_scatter": np.array([-2.0])},
        lambda m: m * np.exp(1.0) * np.array([1, 0.25 * np.exp(-2 * 0.3)]),
    ),
    "fixed": ({}, lambda m: m * np.array([1, 1.5**-3])),
}


@pytest.mark.parametrize("shape", POWERS)
def test_multipoles_have_the_variance_of_their_power_and_the_dipole_its_own(octupole, shape):
    values, power = POWERS[shape]
    values = {k: jnp.asarray(v) for k, v in values.items()}
    mean = np.linspace(-1e-3, 1e-3, 12)
    model = made_multipoles(shape, tuple(mean))
    given = 1e-3 * np.random.default_rng(1).standard_normal(12)
    u = rates(octupole)
    found, factor, (loc, scale) = evaluated(model, octupole, values | {"multipoles": given, "log_rate": u})
    expected = power(2e-6)
    np.testing.assert_allclose(found["power"], expected, rtol=1e-8)
    widths = np.repeat([0.4 * NORM, *np.sqrt(expected)], [2, 4, 6])
    np.testing.assert_allclose(scale, widths, rtol=1e-8)
    np.testing.assert_array_equal(loc, mean)
    np.testing.assert_allclose(factor, likelihood(octupole, octupole.turn @ given, u), rtol=1e-12)
    assert list(zip(octupole.degree[:2], octupole.order[:2], strict=True)) == [(1, -1), (1, 1)]
    check_direction(found, np.array([given[1] / NORM, given[0] / NORM, float(found["delta_N"])]))


@functools.cache
def made_multipoles(shape, mean):
    options = {"dipole_scale": 0.4, "median": 2e-6, "slope": 3.0, "spread": 2.0}
    if shape == "template":
        options |= {"template": (4.0, 1.0), "template_spread": 0.3}
    return functools.partial(models.multipoles, power=shape, mean=np.array(mean), **options)


# The local field ---------------------------------------------------------------------------------------


def by_hand(field, perpendicular, antisymmetric):
    """K / kappa_parallel: in the frame whose third axis is B it is [[r, a, 0], [-a, r, 0], [0, 0, 1]], turned."""
    first = np.cross(field, [0.3, 0.4, -0.8])
    first /= np.linalg.norm(first)
    turn = np.stack([first, np.cross(field, first), field], axis=1)
    assert np.linalg.det(turn) == pytest.approx(1)
    own = np.array([[perpendicular, antisymmetric, 0], [-antisymmetric, perpendicular, 0], [0, 0, 1.0]])
    return turn @ own @ turn.T


def test_the_tensor_makes_the_dipole_of_each_energy_from_its_own_gradient(two):
    """delta = K (3 grad n / n) + (2 + Gamma) beta in J2000, one field for both energies, then precessed."""
    model = made(
        models.local_field,
        transport="tensor",
        antisymmetric=0.5,
        perpendicular=(1e-2, 1.0),
        velocity=BETA,
        velocity_spread=2e-5,
        spectral_index=(2.6, 0.1),
        scale=0.04,
    )
    v, gradients, u = np.array([-1.3, 2.0, 0.9]), np.array([[0.05, 0.02, -0.01], [-0.02, 0.03, 0.04]]), rates(two)
    values = {
        "field": v,
        "log_perpendicular_scaled": jnp.array(0.7),
        "antisymmetric": jnp.array(-0.35),
        "spectral_index_scaled": jnp.array(0.5),
        "velocity_scaled": np.array([1.0, -2.0, 0.5]),
        "sources": gradients.ravel(),
        "log_rate": u,
    }
    found, factor, (loc, scale) = evaluated(model, two, values)
    field = v / np.linalg.norm(v)
    np.testing.assert_allclose(found["field_direction"], field)
    np.testing.assert_allclose(found["perpendicular"], 10 ** (-2 + 2 * 0.7))
    beta = np.array(BETA) + 2e-5 * np.array([1.0, -2.0, 0.5])
    tensor = by_hand(field, 10 ** (-2 + 2 * 0.7), -0.35)
    dipole = gradients @ tensor.T + (2 + 2.65) * beta
    check_direction(found, dipole)
    np.testing.assert_allclose(found["velocity"], beta)
    np.testing.assert_allclose(found["spectral_index"], 2.65)
    np.testing.assert_allclose(factor, likelihood(two, of_date(dipole), u), rtol=1e-11)
    np.testing.assert_array_equal(np.append(loc, scale), [0] * 6 + [0.04] * 6)


def test_the_projected_dipole_lies_along_the_field_and_its_equatorial_strength_is_sampled(two):
    """Towards (cos RA, sin RA, tan dec) times the strength; a negative one points the other way."""
    model = made(models.local_field, velocity=BETA, spectral_index=(2.7, 0.0))
    strengths, u = np.array([0.03, -0.05]), rates(two)
    values = {
        "field": 3 * np.array([np.cos(2.0), np.sin(2.0)]),
        "field_sine_declination": jnp.array(np.sin(-0.4)),
        "spectral_index_scaled": jnp.array(1.3),
        "sources": strengths,
        "log_rate": u,
    }
    found, factor, _ = evaluated(model, two, values)
    np.testing.assert_allclose(found["field_direction"], unit(2.0, -0.4))
    assert float(found["spectral_index"]) == 2.7
    along = np.outer(strengths, unit(2.0, -0.4) / np.cos(-0.4))
    motion = 4.7 * np.array(BETA)
    check_direction(found, along + motion)
    # What precession mixes of delta_N into the equator is left out for the part along the field, as documented.
    np.testing.assert_allclose(factor, likelihood(two, of_date(along * [1, 1, 0] + motion), u), rtol=1e-11)


def real_harmonics(l_max, vector):
    """The basis from scipy's complex one, in the order l^2 + l + m, shape (coefficient, ..)."""
    polar, azimuth = np.arccos(np.clip(vector[..., 2], -1, 1)), np.arctan2(vector[..., 1], vector[..., 0])
    rows = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            y = special.sph_harm_y(l, abs(m), polar, azimuth) * (-1.0) ** m * (np.sqrt(2) if m else 1)
            rows.append(y.imag if m < 0 else y.real)
    return np.stack(rows)


@pytest.mark.parametrize("transport", ["projected", "tensor"])
def test_the_profile_is_a_sum_of_legendre_polynomials_about_the_field(octupole, transport):
    """sum p_l P_l(n . B) of J2000 on a quadrature of the sky of date, analysed with scipy's harmonics."""
    options = {"antisymmetric": 0.5} if transport == "tensor" else {}
    model = made(models.local_field, transport=transport, profile_scale=(2e-3, 1e-3), scale=0.1, **options)
    v, u = np.array([1.0, -2.0, 1.5]), rates(octupole)
    field = v / np.linalg.norm(v)
    strengths = np.array([0.05]) if transport == "projected" else np.array([0.05, -0.02, 0.01])
    values = {
        "field": v,
        "log_perpendicular_scaled": jnp.array(0.5),
        "antisymmetric": jnp.array(0.2),
        "sources": np.append(strengths, [0.02, -0.03]),
        "log_rate": u,
    }
    found, factor, (_, scale) = evaluated(model, octupole, values)
    dipole = 0.05 * field if transport == "projected" else by_hand(field, 10**-1.5, 0.2) @ strengths
    z, w = np.polynomial.legendre.leggauss(6)
    phi = 2 * np.pi * np.arange(10) / 10
    parts = (
        np.outer(np.sqrt(1 - z**2), np.cos(phi)),
        np.outer(np.sqrt(1 - z**2), np.sin(phi)),
        np.outer(z, np.ones(10)),
    )
    vector, weight = np.stack(parts, axis=-1).reshape(-1, 3), np.repeat(w * 2 * np.pi / 10, 10)
    j2000 = vector @ PRECESSION
    sky = j2000 @ dipole + sum(p * special.eval_legendre(l, j2000 @ field) for l, p in ((2, 0.02), (3, -0.03)))
    coefficients = (real_harmonics(3, vector) * weight) @ sky
    theta = coefficients[np.array(octupole.degree) ** 2 + np.array(octupole.degree) + np.array(octupole.order)]
    np.testing.assert_allclose(factor, likelihood(octupole, theta, u), rtol=1e-9)
    np.testing.assert_array_equal(found["profile"], [0.02, -0.03])
    np.testing.assert_array_equal(scale, [*[0.1] * len(strengths), 2e-3, 1e-3])
    check_direction(found, dipole)


# The mirror image --------------------------------------------------------------------------------------

MIRRORS = {
    "projected": {"velocity": BETA},
    "projected, profile": {"profile_scale": 1e-2},
    "tensor": {"transport": "tensor"},
    "tensor, kappa_A": {"transport": "tensor", "antisymmetric": 0.5, "velocity": BETA},
    "tensor, kappa_A, profile": {"transport": "tensor", "antisymmetric": 0.5, "profile_scale": 1e-2},
}


def field_values(sky, transport="projected", antisymmetric=0.0, profile_scale=None, velocity=None):
    rng = np.random.default_rng(5)
    plain = transport == "projected" and profile_scale is None
    count = len(sky.energies) * (1 if transport == "projected" else 3) + (2 if profile_scale else 0)
    values = {"field": rng.standard_normal(2 if plain else 3), "sources": 0.01 * rng.standard_normal(count)}
    values["log_rate"] = rates(sky)
    if plain:
        values["field_sine_declination"] = jnp.array(0.3)
    if transport == "tensor":
        values["log_perpendicular_scaled"] = jnp.array(0.6)
    if antisymmetric:
        values["antisymmetric"] = jnp.array(0.21)
    if velocity:
        values["spectral_index_scaled"] = jnp.array(-0.4)
    return values


@pytest.mark.parametrize("name", MIRRORS)
def test_the_mirror_image_is_exactly_as_probable_and_no_other_is(two, octupole, name):
    options = MIRRORS[name]
    profile = "profile_scale" in options
    sky = octupole if profile else two
    model = made(models.local_field, **options)
    values = field_values(sky, **options)
    transport, most = options.get("transport", "projected"), options.get("antisymmetric", 0.0)
    signs = models.field_mirror(transport, sky.l_max, len(sky.energies), most, profile)
    image = {k: v * signs.get(k, 1.0) for k, v in values.items()}
    here = float(density(model, sky, values))
    assert np.isfinite(here)
    assert float(density(model, sky, image)) == here
    changed = {k for k in values if np.any(image[k] != values[k])}
    assert "field" in changed and changed >= {"antisymmetric"} & set(values)
    for left_out in changed:
        if left_out == "field_sine_declination" or name == "tensor":
            continue  # a declination that is not measured, with an even prior; a tensor that is even by itself
        assert abs(float(density(model, sky, image | {left_out: values[left_out]})) - here) > 1e-3


def test_the_declination_of_a_projected_field_is_free(two):
    """Its prior is uniform in the sine, and the equatorial dipoles do not change with it."""
    model, values = made(models.local_field, velocity=BETA), field_values(two, velocity=BETA)
    at = [float(density(model, two, values | {"field_sine_declination": jnp.array(s)})) for s in (-0.99, 0.0, 0.7)]
    np.testing.assert_allclose(at, at[0], rtol=1e-13)


# Gradients ---------------------------------------------------------------------------------------------

GRADIENTS = {
    "dipole": (made(models.dipole), False),
    "dipole, laplace": (made(models.dipole, rates="laplace"), False),
    "multipoles, cascade": (made(models.multipoles, power="cascade", median=1e-5), True),
    "multipoles, free": (made(models.multipoles, median=1e-5), True),
    "multipoles, power law": (made(models.multipoles, median=1e-5, power="power-law"), True),
    "projected": (made(models.local_field, velocity=BETA, velocity_spread=1e-5, scale=0.05), False),
    "projected, profile": (made(models.local_field, profile_scale=1e-2, scale=0.05), True),
    "tensor, kappa_A, profile": (
        made(models.local_field, transport="tensor", antisymmetric=0.5, profile_scale=1e-2, scale=0.05),
        True,
    ),
}
SLOW = ("multipoles, free", "multipoles, power law", "projected, profile", "dipole", "dipole, laplace")


def start(model, sky, scale):
    """Coordinates of the sampler for every site, drawn."""

    def drawn():
        trace = handlers.trace(handlers.seed(model, jax.random.PRNGKey(0))).get_trace(sky)
        return {k: s["value"] for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}

    rng = np.random.default_rng(6)
    return {k: scale * jnp.asarray(rng.standard_normal(v.shape)) for k, v in jax.eval_shape(drawn).items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in GRADIENTS])
def test_gradients_are_those_of_finite_differences(two, octupole, name):
    """Of the potential that NUTS walks on, transforms and Jacobians included, along random directions."""
    model, high = GRADIENTS[name]
    sky = octupole if high else two
    z = start(model, sky, 0.7)
    value, gradient = potential(model, sky, z)
    rng = np.random.default_rng(7)
    for _ in range(3):
        direction = {k: rng.standard_normal(v.shape) for k, v in z.items()}
        ahead, behind = (
            float(potential(model, sky, {k: v + s * 1e-5 * direction[k] for k, v in z.items()})[0]) for s in (1, -1)
        )
        slope = sum(float(np.sum(gradient[k] * direction[k])) for k in z)
        size = np.sqrt(sum(float(np.sum(np.square(g))) for g in gradient.values()))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, atol=1e-5 * size + 1e-4)
    if "field" in z:
        for pole in (1.0, -1.0):
            # Exactly on the pole, or as near as the sampler's coordinates can say.
            place = (
                {"field": jnp.array([0.0, 0.0, 4 * pole])}
                if len(z["field"]) == 3
                else {"field_sine_declination": jnp.array(20.0 * pole)}
            )
            value, gradient = potential(model, sky, z | place)
            assert np.isfinite(value)
            assert all(np.isfinite(g).all() for g in gradient.values())


# The stretch -------------------------------------------------------------------------------------------


def test_the_stretch_reaches_for_where_the_field_is(two):
    """Two dipoles, of 30 and 45 degrees and 0.05 and 0.042: the axis of the field lies between."""
    stretch = np.asarray(models.field_stretch(two, scale=0.1))
    assert stretch.shape == (2, 2)
    np.testing.assert_allclose(stretch, stretch.T)
    values, vectors = np.linalg.eigh(stretch)
    assert values[0] > 0 and values[1] > 3 * values[0]
    axis = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
    assert 30 < axis < 45


def test_harmonics_at_a_direction_are_scipys():
    for v in ([0.36, 0.48, -0.8], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]):
        np.testing.assert_allclose(models.harmonics_at(jnp.array(v), 4), real_harmonics(4, np.array(v)), atol=1e-13)
