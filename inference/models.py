r"""What is sampled: the dipole, the multipoles and C_l, the local field direction, as plain numpyro functions.

Each takes the likelihood first and its priors by name. To change one, copy it: `counts` below is all that ties a
sky to the data. Multipoles are of the relative intensity in the frame of the likelihood (J2000 where the counts
have an epoch), excess towards the source positive.
"""

import functools
import math
from collections.abc import Sequence

import healpy
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from diffcr.harmonics import dipole_to_coefficients, evaluate_at
from diffcr.observer import compton_getting_dipole
from diffcr.transport import diffusion_tensor, fick_dipole
from diffcr.typing import AnyArray

from .degrees import log_density_of_degrees
from .prior import Direction, LogRates, cascade_log_power, log_power_prior, sky_normal
from .sky_likelihood import SkyLikelihood

DIPOLE_NORM = math.sqrt(4 * math.pi / 3)
"""s_{1,1} = sqrt(4 pi / 3) delta_0h, s_{1,-1} = sqrt(4 pi / 3) delta_6h, s_{1,0} = sqrt(4 pi / 3) delta_N."""


def counts(sky: SkyLikelihood, theta: Float[AnyArray, "*energy param"], rates: str = "sampled") -> None:
    """Tie a sky to the data: sample the rates, or integrate them by Laplace's method, and add the likelihood.

    Args:
        sky: The likelihood.
        theta: Multipoles of date, one sky (param,) or one per energy bin (energy, param).
        rates: "sampled" (exact) or "laplace".
    """
    numpyro.deterministic("theta_of_date", theta)
    if rates == "laplace":
        numpyro.factor("counts", sky.marginal_log_likelihood(theta))
        return
    log_rates = numpyro.sample("log_rate", LogRates(sky, theta))
    numpyro.factor("counts", sky.log_likelihood(theta, log_rates))


def foretell_degrees(sky: SkyLikelihood, design, mean, scale, offset=0.0) -> None:
    """Record how well the sky, and each degree l given the others, is foretold by given hyper-parameters.

    For `degrees.leave_one_degree_out`. Arguments as for `prior.sky_normal`. It is computed where draws are written, not
    while they are made.
    """
    whole, each = log_density_of_degrees(sky.information, sky.pull, sky.degree, design, mean, scale, offset)
    numpyro.deterministic("sky_density", whole)
    numpyro.deterministic("degree_density", each)


def dipole(sky: SkyLikelihood, scale: float = 1.0, rates: str = "sampled") -> None:
    """A dipole (delta_0h, delta_6h, delta_N), each N(0, scale^2), and nothing else on the sky.

    delta_N is there because it has a prior; with a free acceptance the data do not know it.
    """
    places = sky.dipole_places
    design = sky.turn[:, jnp.array(places)] * DIPOLE_NORM
    vector = numpyro.sample("dipole", sky_normal(sky, 0.0, scale, design))
    counts(sky, design @ vector, rates)
    _name_dipole(vector, scale)


def multipoles(
    sky: SkyLikelihood,
    dipole_scale: float = 1.0,
    power: str = "free",
    median: float = 1e-7,
    slope: float = 2.0,
    spread: float = 3.0,
    template: tuple[float, ...] | None = None,
    template_spread: float = 0.0,
    mean: Float[AnyArray, " param"] | float = 0.0,
    rates: str = "sampled",
) -> None:
    """All m != 0 multipoles; those of l >= 2 are N(mean, C_l), with C_l inferred. The dipole keeps its own prior.

    Args:
        sky: The likelihood.
        dipole_scale: Standard deviation of delta_0h and delta_6h (and of delta_N).
        power: "free": ln C_l independent, N(ln median_l, spread^2), with median_l = median (l/2)^-slope.
            "power-law": C_l = C_2 (l/2)^-p, ln C_2 ~ N(ln median, spread^2), p ~ N(slope, 1).
            "cascade": C_l of a nearest-neighbour cascade of depth nu T ~ LogNormal(0, 1), scaled to C_2 as above.
            "template": C_l = C_2 s_l / s_2 of a given shape s, such as that of backtracked skies; ln C_2 as above.
            "fixed": C_l = median_l, known.
        median, slope, spread: See `power`.
        template: s_l for l = 2 .. l_max, in any unit.
        template_spread: Standard deviation of ln C_l about the template for l > 2; 0 for the template itself.
        mean: Expected multipoles, such as those aligned with a known field, in the order of `sky.degree`.
        rates: As in `counts`.
    """
    degree = np.array(sky.degree)
    log_power = _log_power(sky.l_max, power, median, slope, spread, template, template_spread)
    scale = jnp.concatenate([jnp.full(1, dipole_scale * DIPOLE_NORM), jnp.exp(0.5 * log_power)])[degree - 1]
    values = numpyro.sample("multipoles", sky_normal(sky, mean, scale, sky.turn))
    counts(sky, sky.turn @ values, rates)
    foretell_degrees(sky, sky.turn, mean, scale)
    numpyro.deterministic("power", jnp.exp(log_power))
    _name_dipole(values[jnp.array(sky.dipole_places)] / DIPOLE_NORM, dipole_scale)


def _log_power(l_max: int, shape: str, median, slope, spread, template, template_spread) -> Array:
    """Sample the hyper-parameters of ln C_l, l = 2 .. l_max, and return it."""
    centre = jnp.asarray(log_power_prior(l_max, shape, median, slope, spread, template))
    if shape == "fixed" or l_max < 2:
        return centre
    if shape == "free":
        return centre + spread * numpyro.sample(
            "log_power_scaled", dist.Normal(0.0, 1.0).expand([l_max - 1]).to_event(1)
        )
    second = math.log(median) + spread * numpyro.sample("log_power_2_scaled", dist.Normal(0.0, 1.0))
    if shape == "template":
        known = second + centre - centre[0]
        if not template_spread or l_max < 3:
            return known
        scatter = numpyro.sample("template_scatter", dist.Normal(0.0, 1.0).expand([l_max - 2]).to_event(1))
        return known + template_spread * jnp.concatenate([jnp.zeros(1), scatter])
    if shape == "power-law":
        index = numpyro.sample("power_index", dist.Normal(slope, 1.0))
        return second - index * jnp.log(jnp.arange(2, l_max + 1) / 2)
    log_depth = numpyro.sample("log_depth", dist.Normal(0.0, 1.0))
    shapes = cascade_log_power(0.0, log_depth, l_max)
    return second + shapes - shapes[0]


def _name_dipole(vector: Array, scale: float) -> None:
    """Report (delta_0h, delta_6h), delta_N, the equatorial amplitude and the right ascension in degrees.

    Where the data do not measure delta_N it is drawn from its prior, to be marked as such, and there is no declination.
    """
    x, y = vector[0], vector[1]
    name_equatorial(x, y)
    if vector.shape[0] == 3:
        north = numpyro.deterministic("delta_N", vector[2])
        numpyro.deterministic("declination_deg", jnp.rad2deg(jnp.arctan2(north, jnp.hypot(x, y))))
    else:
        # In units of its width: the one coordinate that no whitening knows.
        numpyro.deterministic("delta_N", scale * numpyro.sample("delta_N_scaled", dist.Normal(0.0, 1.0)))


def name_equatorial(x: Array, y: Array) -> None:
    """Report delta_0h and delta_6h, J2000, with their amplitude and right ascension [deg]; scalars or (energy,)."""
    numpyro.deterministic("delta_0h", x)
    numpyro.deterministic("delta_6h", y)
    numpyro.deterministic("amplitude", jnp.hypot(x, y))
    numpyro.deterministic("right_ascension_deg", jnp.rad2deg(jnp.arctan2(y, x)) % 360)


def local_field(
    sky: SkyLikelihood,
    stretch: Float[AnyArray, "axis axis"] | None = None,
    transport: str = "projected",
    scale: float = 1e-2,
    perpendicular: tuple[float, float] = (1e-3, 1.0),
    antisymmetric: float = 0.0,
    velocity: Sequence[float] | None = None,
    velocity_spread: float = 0.0,
    spectral_index: tuple[float, float] = (2.7, 0.05),
    profile_scale: float | Sequence[float] | None = None,
    rates: str = "sampled",
) -> None:
    """The direction B of the local magnetic field, from the dipole that diffusion along it makes.

    delta(E) = 3 K_local grad n / n + (2 + Gamma) beta, with B uniform on the sphere and shared by all energies.

    Args:
        sky: The likelihood. With several energy bins each has its own gradient.
        stretch: Of the sampled direction, see `Direction`; `field_stretch` finds a good one. Shape (2, 2) for the
            right ascension alone (projected, no profile), else (3, 3).
        transport: "projected": the dipole lies along B. Its strength s(E) is N(0, scale^2) where there is a profile.
            Without one nothing tells s(E) from the declination, and the prior is on the equatorial strength
            t(E) = s(E) cos(dec_B), so that the declination of B stays as it was.
            "tensor": K_local = K_par [B B + r (1 - B B) + a eps B], and the vector 3 K_par grad n / n of each
            energy is N(0, scale^2) in each component.
        scale: See `transport`.
        perpendicular: Bounds of r = kappa_perp / kappa_par, log-uniform between them.
        antisymmetric: a = kappa_A / kappa_par is uniform within +- this; 0 leaves it out. BGK has |a| <= 1/2.
        velocity: beta of the observer in the plasma frame, in c, ICRS; None for no Compton-Getting term.
        velocity_spread: Standard deviation of each component of beta about it; 0 takes it as known.
        spectral_index: Mean and standard deviation of Gamma.
        profile_scale: Standard deviation of the coefficients p_l, l = 2 .. l_max, of an axisymmetric profile
            sum p_l P_l(n . B) about the field, shared by all energies: one value or one per l. None: no profile.
        rates: As in `counts`.
    """
    plain = _axis_alone(sky, transport, profile_scale is not None)
    site = Direction(jnp.eye(2 if plain else 3) if stretch is None else stretch)
    field = site.direction(numpyro.sample("field", site))
    if plain:
        sine = numpyro.sample("field_sine_declination", dist.Uniform(-1.0, 1.0))
        field = jnp.append(field * jnp.sqrt(1 - sine**2), sine)
    numpyro.deterministic("field_direction", field)
    nuisance: dict = {}
    if transport == "tensor":
        low, high = math.log(perpendicular[0]), math.log(perpendicular[1])
        share = numpyro.sample("log_perpendicular_scaled", dist.Uniform(0.0, 1.0))
        nuisance["perpendicular"] = numpyro.deterministic("perpendicular", jnp.exp(low + (high - low) * share))
        if antisymmetric > 0:
            nuisance["antisymmetric"] = numpyro.sample("antisymmetric", dist.Uniform(-antisymmetric, antisymmetric))
    motion = observed_motion(velocity, velocity_spread, spectral_index)
    design, dipoles = field_design(sky, field, transport, profile_scale is not None, **nuisance)
    offset = sky.to_date[:, 1:4] @ dipole_to_coefficients(motion)[1:]
    widths = _widths(sky, transport, scale, profile_scale)
    values = numpyro.sample("sources", sky_normal(sky, 0.0, widths, design, offset))
    counts(sky, jnp.einsum("epn,n->ep", design, values) + offset, rates)
    if sky.l_max > 1:
        foretell_degrees(sky, design, 0.0, widths, offset)
    seen = jnp.einsum("ekn,n->ek", dipoles, values) + motion
    x, y, z = seen[0] if len(sky.energies) == 1 else seen.T
    name_equatorial(x, y)
    numpyro.deterministic("delta_N", z)
    if profile_scale is not None:
        numpyro.deterministic("profile", values[-(sky.l_max - 1) :])


def observed_motion(
    velocity: Sequence[float] | None, velocity_spread: float, spectral_index: tuple[float, float]
) -> Float[Array, "3"]:
    """Compton-Getting dipole (2 + Gamma) beta of a velocity and a spectral index with priors; zero without velocity."""
    if velocity is None:
        return jnp.zeros(3)
    gamma = spectral_index[0] + spectral_index[1] * numpyro.sample("spectral_index_scaled", dist.Normal(0.0, 1.0))
    numpyro.deterministic("spectral_index", gamma)
    beta = jnp.asarray(velocity)
    if velocity_spread > 0:
        beta = beta + velocity_spread * numpyro.sample("velocity_scaled", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.deterministic("velocity", beta)
    return compton_getting_dipole(beta, gamma)


def field_design(
    sky: SkyLikelihood,
    field: Float[AnyArray, "3"],
    transport: str,
    profile: bool,
    perpendicular: AnyArray | float = 0.0,
    antisymmetric: AnyArray | float = 0.0,
) -> tuple[Float[Array, "energy param n"], Float[Array, "energy 3 n"]]:
    """What a unit of each source parameter adds to the multipoles of date, and to the dipole vector, per energy.

    The parameters are the strengths (one or three per energy bin, energies outermost), then p_2 .. p_L.
    """
    plain = _axis_alone(sky, transport, profile)
    if plain:
        # Per unit of equatorial strength: (cos RA, sin RA, tan dec).
        per_energy = (field / jnp.sqrt(field[0] ** 2 + field[1] ** 2 + 1e-24))[:, None]
    elif transport == "projected":
        per_energy = field[:, None]
    else:
        tensor = diffusion_tensor(1 / 3, perpendicular / 3, antisymmetric / 3, field)
        per_energy = jax.vmap(lambda g: fick_dipole(tensor, g))(jnp.eye(3)).T
    energies = len(sky.energies)
    dipoles = jnp.einsum("ef,kn->ekfn", jnp.eye(energies), per_energy).reshape(energies, 3, -1)
    seen = dipoles
    if plain:
        # delta_N of a steep field may be anything; what precession mixes of it into the equator is left out.
        seen = dipoles.at[:, 2].set(0.0)
    coefficients = jnp.einsum("pk,ekn->epn", sky.to_date[:, 1:4] @ _TO_COEFFICIENTS, seen)
    if profile:
        l = np.arange(2, sky.l_max + 1)
        basis = harmonics_at(field, sky.l_max)
        place = np.arange(len(basis))
        degree = np.floor(np.sqrt(place + 0.5)).astype(int)
        columns = jnp.where(degree[:, None] == l, 4 * np.pi / (2 * l + 1) * basis[:, None], 0.0)
        shared = jnp.broadcast_to(sky.to_date @ columns, (energies, len(sky.degree), len(l)))
        coefficients = jnp.concatenate([coefficients, shared], axis=-1)
        dipoles = jnp.concatenate([dipoles, jnp.zeros((energies, 3, len(l)))], axis=-1)
    return coefficients, dipoles


_TO_COEFFICIENTS = DIPOLE_NORM * np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""(delta_0h, delta_6h, delta_N) to the multipoles (1, -1), (1, 0), (1, 1)."""


def _axis_alone(sky: SkyLikelihood, transport: str, profile: bool) -> bool:
    """Whether nothing in the model or in the data tells the declination of the field."""
    return transport == "projected" and not profile and len(sky.dipole_places) == 2


def _widths(sky, transport, scale, profile_scale) -> Array:
    count = len(sky.energies) * (1 if transport == "projected" else 3)
    strengths = jnp.full(count, scale)
    if profile_scale is None:
        return strengths
    return jnp.concatenate([strengths, jnp.broadcast_to(jnp.asarray(profile_scale, float), (sky.l_max - 1,))])


def field_mirror(transport: str, l_max: int, energies: int, antisymmetric: float, profile: bool) -> dict[str, Array]:
    """Signs that make the mirror image B -> -B of a local-field model, per site.

    (B, kappa_A) -> (-B, -kappa_A) leaves the tensor as it is; strengths along B and odd multipoles of the profile
    change sign. The density is unchanged: the mirror image is as probable.
    """
    signs = {"field": jnp.array(-1.0), "field_sine_declination": jnp.array(-1.0)}
    strength = -np.ones(energies) if transport == "projected" else np.ones(3 * energies)
    odd = (-1.0) ** np.arange(2, l_max + 1) if profile else np.zeros(0)
    signs["sources"] = jnp.asarray(np.concatenate([strength, odd]))
    if transport == "tensor" and antisymmetric > 0:
        signs["antisymmetric"] = jnp.array(-1.0)
    return signs


def field_stretch(
    sky: SkyLikelihood,
    transport: str = "projected",
    scale: float = 1e-2,
    perpendicular: tuple[float, float] = (1e-3, 1.0),
    velocity: Sequence[float] | None = None,
    spectral_index: tuple[float, float] = (2.7, 0.05),
    profile_scale: float | Sequence[float] | None = None,
    nside: int = 8,
    **_,
) -> Float[Array, "axis axis"]:
    """A stretch for `local_field`: the square root of the second moments of B under its posterior, rounded out.

    All else integrated out in the Gaussian approximation. A spot or ring far smaller than a pixel is found by
    looking again on the pixels of the stretched sphere, flattened as far as it takes for a few of them to count.
    It sets the coordinates, not the answer.
    """
    plain = _axis_alone(sky, transport, profile_scale is not None)
    motion = jnp.zeros(3) if velocity is None else compton_getting_dipole(jnp.asarray(velocity), spectral_index[0])
    offset = sky.to_date[:, 1:4] @ dipole_to_coefficients(motion)[1:]
    widths = _widths(sky, transport, scale, profile_scale)
    ratio = math.sqrt(perpendicular[0] * perpendicular[1])
    d = 2 if plain else 3

    def log_evidence(field):
        field = jnp.append(field, jnp.zeros(3 - d))
        design, _ = field_design(sky, field, transport, profile_scale is not None, ratio)
        return log_evidence_of(sky, design, widths, offset)

    return stretch_of(log_evidence, d, nside)


def log_evidence_of(sky: SkyLikelihood, design, scale, offset=0.0) -> Float[Array, ""]:
    """ln of the Gaussian likelihood integrated over x ~ N(0, scale^2) of theta = design x + offset."""
    normal = sky_normal(sky, 0.0, scale, design, offset)
    scaled = jnp.eye(len(normal.scale)) + normal.scale[:, None] * normal.information * normal.scale
    pull = normal.scale * normal.pull
    return 0.5 * pull @ jnp.linalg.solve(scaled, pull) - 0.5 * jnp.linalg.slogdet(scaled)[1]


def stretch_of(log_evidence, d: int, nside: int = 8) -> Float[Array, "axis axis"]:
    """A stretch for `Direction` from ln of the evidence for a field of unit length, (d,), d = 2 or 3."""
    angle = np.linspace(0, np.pi, 96, endpoint=False)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1) if d == 2 else _pixels(nside)

    def look(stretch, _):
        to = points @ stretch.T
        length = jnp.sqrt(jnp.sum(to**2, axis=1))
        fields = to / length[:, None]
        value = jax.lax.map(log_evidence, fields, batch_size=64)
        heat = 2.0 ** jnp.arange(40)
        weight = jax.nn.softmax((value - jnp.max(value)) / heat[:, None] - d * jnp.log(length), axis=1)
        effective = 1 / jnp.sum(weight**2, axis=1)
        chosen = weight[jnp.argmax(effective > 0.02 * len(points))]
        values, vectors = jnp.linalg.eigh(jnp.einsum("i,ij,ik->jk", chosen, fields, fields))
        # Stretched all the way, a Gaussian spot would end in a wall a quarter of a turn from its centre.
        values = jnp.minimum(8 * jnp.maximum(values, 1e-12), values[-1])
        return (vectors * jnp.sqrt(d * values)) @ vectors.T, None

    return jax.lax.scan(look, jnp.eye(d), length=5)[0]


@functools.cache
def _pixels(nside: int) -> np.ndarray:
    return np.stack(healpy.pix2vec(nside, np.arange(12 * nside * nside)), axis=-1)


def harmonics_at(direction: Float[AnyArray, "3"], l_max: int) -> Float[Array, " coefficient"]:
    """Every real basis function up to l_max at one direction, smooth at the poles."""
    return evaluate_at(jnp.eye((l_max + 1) ** 2), direction[None])[:, 0]
