r"""The small-scale sky as numpyro samples it: a gradient's dipole, the profile it has about the field, and turbulence.

$$ \delta I(n) = s \sum_l p_l P_l(n \cdot B) + (2 + \Gamma)\, \beta \cdot n + \sum_{l \ge 2, m} a_{lm} Y_{lm}(n) , $$

with p_1 = 1. The first sum is what pitch-angle scattering makes of a density gradient along B: a known pattern, in
which the local turbulence shows by D_mumu. The a_lm are what one realisation of the turbulence made of the same
gradient: normal, of zero mean and power C_l, of a cascade from large scales to small ones or of a power law.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from diffcr.cascade import nearest_neighbour_power
from diffcr.cascade_rates import RELAXATION, ended_rates, relaxation_rates
from diffcr.errors import InputError
from diffcr.harmonics import dipole_to_coefficients
from diffcr.observer import compton_getting_dipole
from diffcr.pitch_angle import FAMILIES, Scattering, aligned_sky, family, relative_profile, require_scattering
from diffcr.typing import AnyArray

from .models import (
    DIPOLE_NORM,
    counts,
    foretell_degrees,
    log_evidence_of,
    name_equatorial,
    observed_motion,
    stretch_of,
)
from .prior import Direction, require_positive, sky_normal
from .sky_likelihood import SkyLikelihood

POWERS = ("cascade", "power-law", "none")
"""How the C_l of the turbulent part are tied."""

PROFILES = (*FAMILIES, "none")
"""Families of D_mumu that make the profile; "none": the gradient makes a dipole alone."""

LOGARITHMIC = {"floor", "width", "strength"}
"""Parameters of D_mumu that are log-uniform between their bounds; the others are uniform."""

ENDED = 1e-8
"""C_l / C_2 beyond the end of a cascade, where there should be none: one part in 1e4 of the amplitude."""


def small_scale(
    sky: SkyLikelihood,
    stretch: Float[AnyArray, "axis axis"] | None = None,
    scale: float = 1e-2,
    dipole_scatter: float = 0.0,
    profile: str = "quasi-linear",
    index: float | Sequence[float] = (1.0, 1.95),
    floor: float | Sequence[float] = (1e-3, 1.0),
    width: float | Sequence[float] = (0.03, 1.0),
    strength: float | Sequence[float] = (0.1, 100.0),
    centre: float | Sequence[float] = (0.0, 1.0),
    power: str = "cascade",
    relaxation: str = "angular-diffusion",
    depth: tuple[float, float] = (0.3, 1.0),
    end: tuple[float, float] | None = None,
    median: float = 1e-7,
    spread: float = 3.0,
    slope: float = 2.0,
    velocity: Sequence[float] | None = None,
    velocity_spread: float = 0.0,
    spectral_index: tuple[float, float] = (2.7, 0.05),
    rates: str = "sampled",
) -> None:
    """Gradient dipole along B, pitch-angle profile about B, and turbulent multipoles; B uniform on the sphere.

    Args:
        sky: The likelihood, of one energy bin.
        stretch: Of the sampled direction; `small_scale_stretch` finds a good one.
        scale: The strength s of the dipole along B is N(0, scale^2).
        dipole_scatter: Standard deviation of each component of a random dipole besides, such as turbulence adds; 0
            leaves it out.
        profile: Family of D_mumu, see `diffcr.pitch_angle.FAMILIES`, or "none".
        index, floor, width, strength, centre: Bounds of the parameters of the family, or one number where it is known.
            Floor, width and strength are log-uniform, the others uniform. Those that the family lacks are not used.
        power: "cascade": C_l of a nearest-neighbour cascade of depth nu T, scaled to C_2. "power-law": C_2 (l/2)^-p
            with p ~ N(slope, 1). "none": no turbulent multipoles.
        relaxation: Rates of the cascade, see `diffcr.cascade_rates.RELAXATION`.
        depth: Median of nu T, and standard deviation of its logarithm.
        end: Bounds of the degree at which the cascade ends and its power stays, uniform; None for one without end.
        median, spread: ln C_2 ~ N(ln median, spread^2).
        slope: See `power`.
        velocity, velocity_spread, spectral_index, rates: As in `models.local_field`.
    """
    site = Direction(jnp.eye(3) if stretch is None else stretch)
    field = site.direction(numpyro.sample("field", site))
    numpyro.deterministic("field_direction", field)
    bounds = {"index": index, "floor": floor, "width": width, "strength": strength, "centre": centre}
    shape = _profile_shape(profile, bounds, sky.l_max)
    log_power = _turbulent_power(sky.l_max, power, relaxation, depth, end, median, spread, slope)
    motion = observed_motion(velocity, velocity_spread, spectral_index)

    offset = sky.to_date[:, 1:4] @ dipole_to_coefficients(motion)[1:]
    design, widths = sky_design(sky, field, shape, log_power, scale, dipole_scatter)
    values = numpyro.sample("sources", sky_normal(sky, 0.0, widths, design, offset))
    counts(sky, design @ values + offset, rates)
    foretell_degrees(sky, design, 0.0, widths, offset)

    numpyro.deterministic("gradient_strength", values[0])
    dipole = values[0] * field + motion
    if dipole_scatter > 0:
        dipole = dipole + _scattered_dipole(sky, values[1:])
    x, y, z = dipole
    name_equatorial(x, y)
    numpyro.deterministic("delta_N", z)
    if profile != "none":
        l = jnp.arange(2, sky.l_max + 1)
        numpyro.deterministic("aligned_power", 4 * jnp.pi / (2 * l + 1) ** 2 * (values[0] * shape[1:]) ** 2)
    if log_power is not None:
        numpyro.deterministic("power", jnp.exp(log_power))


def sky_design(
    sky: SkyLikelihood,
    field: Float[AnyArray, "3"],
    shape: Float[AnyArray, " l"],
    log_power: Float[AnyArray, " degree"] | None,
    scale: float,
    dipole_scatter: float,
) -> tuple[Float[Array, "param n"], Float[Array, " n"]]:
    """What a unit of s and of each turbulent multipole adds to the multipoles of date, and their prior widths.

    Args:
        sky: The likelihood.
        field: Unit vector B.
        shape: p_l of l = 1 .. l_max.
        log_power: ln C_l of l = 2 .. l_max; None for no turbulent multipoles.
        scale, dipole_scatter: As in `small_scale`.
    """
    columns, widths = [(sky.to_date @ aligned_sky(shape, field))[:, None]], [jnp.full(1, scale)]
    of_each = np.array(sky.degree)
    if dipole_scatter > 0:
        columns.append(sky.turn[:, of_each == 1])
        widths.append(jnp.full(int(np.sum(of_each == 1)), dipole_scatter * DIPOLE_NORM))
    if log_power is not None:
        columns.append(sky.turn[:, of_each > 1])
        widths.append(jnp.exp(0.5 * log_power)[of_each[of_each > 1] - 2])
    return jnp.concatenate(columns, axis=1), jnp.concatenate(widths)


def small_scale_stretch(sky: SkyLikelihood, nside: int = 8, **priors: Any) -> Float[Array, "3 3"]:
    """A stretch of the field's direction for `small_scale` with these priors, all else at the middle of its prior."""
    given = _given(priors)
    bounds = {name: given[name] for name in _PARAMETERS}
    shape = _profile_shape(given["profile"], bounds, sky.l_max, sampled=False)
    log_power = _middle_power(sky.l_max, given)
    motion = jnp.zeros(3)
    if given["velocity"] is not None:
        motion = compton_getting_dipole(jnp.asarray(given["velocity"]), given["spectral_index"][0])
    offset = sky.to_date[:, 1:4] @ dipole_to_coefficients(motion)[1:]

    def log_evidence(field):
        design, widths = sky_design(sky, field, shape, log_power, given["scale"], given["dipole_scatter"])
        return log_evidence_of(sky, design, widths, offset)

    return stretch_of(log_evidence, 3, nside)


def small_scale_mirror(sky: SkyLikelihood, **priors: Any) -> dict[str, Array]:
    """Signs that make the mirror image B -> -B, s -> -s, per site: the sky stays, as an even D_mumu has odd l alone."""
    degree, given = np.array(sky.degree), _given(priors)
    count = 1 + int(np.sum(degree == 1)) * (given["dipole_scatter"] > 0)
    count += int(np.sum(degree > 1)) * (given["power"] != "none")
    return {"field": jnp.array(-1.0), "sources": jnp.ones(count).at[0].set(-1.0)}


def fiducial_power(l_max: int, **priors: Any) -> Float[np.ndarray, " l"]:
    """C_l of l = 2 .. l_max at the middle of the prior, for the geometry of the likelihood: turbulence and profile."""
    given = _given(priors)
    log_power = _middle_power(l_max, given)
    total = np.zeros(l_max - 1) if log_power is None else np.exp(np.asarray(log_power))
    if given["profile"] != "none":
        shape = _profile_shape(given["profile"], {n: given[n] for n in _PARAMETERS}, l_max, sampled=False)
        l = np.arange(2, l_max + 1)
        total = total + 4 * np.pi / (2 * l + 1) ** 2 * (given["scale"] * np.asarray(shape)[1:]) ** 2
    # Even degrees of a profile have none, and a cascade past its end next to none: an infinite precision breaks it.
    return np.maximum(total, 1e-4 * total.max())


def check_small_scale(l_max: int, **priors: Any) -> None:
    """Refuse priors that are improper, contradict each other, or hold a D_mumu of infinite kappa.

    Raises:
        InputError: It says which and why.
    """
    given = _given(priors)
    if l_max < 2:
        raise InputError(f"the model small-scale needs l_max of at least 2, not {l_max}; use --model dipole")
    for name, known in (("power", POWERS), ("profile", PROFILES), ("relaxation", tuple(RELAXATION))):
        if given[name] not in known:
            raise InputError(f"{name} of the model small-scale must be one of {', '.join(known)}, not {given[name]!r}")
    _require_used(priors, given)
    if given["power"] == "none" and given["profile"] in ("none", "isotropic"):
        raise InputError("neither a profile nor turbulent multipoles leaves a dipole alone; use --model local-field")
    for name, what in (("scale", "strength s"), ("median", "median of C_2"), ("spread", "spread of ln C_2")):
        require_positive(f"the prior {what}", given[name])
    if not (math.isfinite(given["dipole_scatter"]) and given["dipole_scatter"] >= 0):
        raise InputError(f"the scatter of the dipole must not be negative, got {given['dipole_scatter']}")
    if not math.isfinite(given["slope"]):
        raise InputError(f"the slope of the prior C_l must be finite, not {given['slope']}")
    what = "a median of nu T and a spread of its logarithm, both positive, such as 0.3,1"
    _check_pair("depth", given["depth"], what)
    if not (np.all(np.isfinite(given["depth"])) and min(given["depth"]) > 0):
        raise InputError(f"the prior depth takes {what}, not {given['depth'][0]},{given['depth'][1]}")
    if given["end"] is not None:
        _check_pair("end", given["end"], "two degrees, such as 2,20")
        low, high = given["end"]
        if not (math.isfinite(high) and 2 <= low < high):
            raise InputError(
                f"the end of a cascade lies between two degrees of at least 2, lower one first, not {low}, {high}"
            )
    if given["profile"] != "none":
        _check_family(given)


def _require_used(priors: dict, given: dict) -> None:
    """Refuse a prior that the chosen profile or power does not have: it would be silently without effect."""
    own = FAMILIES[given["profile"]][1] if given["profile"] in FAMILIES else ()
    of_power = {
        "cascade": ("relaxation", "depth", "end", "median", "spread"),
        "power-law": ("slope", "median", "spread"),
        "none": (),
    }
    for choice, used, all_of in (
        ("profile", own, _PARAMETERS),
        ("power", of_power[given["power"]], ("relaxation", "depth", "end", "median", "spread", "slope")),
    ):
        for name in all_of:
            if name in priors and name not in used and not (name == "end" and priors[name] is None):
                has = f"it has {', '.join(used)}" if used else "it has none"
                raise InputError(
                    f"the prior {name} is not used with {choice} {given[choice]} ({has}): leave it out, or choose "
                    f"another {choice}"
                )


def _check_pair(name: str, value, remedy: str) -> None:
    if np.shape(value) != (2,):
        raise InputError(f"the prior {name} takes {remedy}, not {value}")


def _check_family(given: dict) -> None:
    """Each corner of the bounds must be a D_mumu with a finite kappa."""
    names = FAMILIES[given["profile"]][1]
    corners: list[dict] = [{}]
    for name in names:
        ends = np.atleast_1d(np.asarray(given[name], float))
        if (
            ends.shape not in ((1,), (2,))
            or not np.all(np.isfinite(ends))
            or (len(ends) == 2 and not ends[0] < ends[1])
        ):
            raise InputError(
                f"the prior {name} of D_mumu takes one number, or two bounds, lower one first: not {given[name]}"
            )
        if name in LOGARITHMIC and len(ends) == 2 and not ends[0] > 0:
            raise InputError(f"{name} of D_mumu is log-uniform: its bounds must be above zero, not {given[name]}")
        corners = [corner | {name: float(end)} for corner in corners for end in ends]
    for corner in corners:
        require_scattering(family(given["profile"], **corner))


def _profile_shape(profile: str, bounds: dict, l_max: int, sampled: bool = True) -> Float[Array, " l"]:
    """p_l, with the parameters of D_mumu sampled, or in the middle of their bounds."""
    if profile == "none":
        return jnp.zeros(l_max).at[0].set(1.0)
    values = {}
    for name in FAMILIES[profile][1]:
        ends = np.atleast_1d(np.asarray(bounds[name], float))
        if len(ends) == 1:
            values[name] = ends[0]
            continue
        place = numpyro.sample(f"{name}_scaled", dist.Uniform(0.0, 1.0)) if sampled else 0.5
        low, high = np.log(ends) if name in LOGARITHMIC else ends
        value = low + (high - low) * place
        values[name] = jnp.exp(value) if name in LOGARITHMIC else value
        if sampled:
            numpyro.deterministic(name, values[name])
    return relative_profile(family(profile, **values), l_max)


def _turbulent_power(l_max, power, relaxation, depth, end, median, spread, slope) -> Float[Array, " degree"] | None:
    """ln C_l of l = 2 .. l_max, its hyper-parameters sampled."""
    if power == "none":
        return None
    second = math.log(median) + spread * numpyro.sample("log_power_2_scaled", dist.Normal(0.0, 1.0))
    if power == "power-law":
        index = slope + numpyro.sample("power_index_scaled", dist.Normal(0.0, 1.0))
        numpyro.deterministic("power_index", index)
        return second - index * jnp.log(jnp.arange(2, l_max + 1) / 2)
    time = depth[0] * jnp.exp(depth[1] * numpyro.sample("log_depth_scaled", dist.Normal(0.0, 1.0)))
    numpyro.deterministic("depth", time)
    last = None
    if end is not None:
        last = end[0] + (end[1] - end[0]) * numpyro.sample("end_scaled", dist.Uniform(0.0, 1.0))
        numpyro.deterministic("end", last)
    return second + log_cascade_shape(time, last, relaxation, l_max)


def _middle_power(l_max: int, given: dict) -> Float[Array, " degree"] | None:
    """ln C_l at the middle of the prior."""
    if given["power"] == "none":
        return None
    middle = math.log(given["median"])
    if given["power"] == "power-law":
        return middle - given["slope"] * jnp.log(jnp.arange(2, l_max + 1) / 2)
    last = None if given["end"] is None else sum(given["end"]) / 2
    return middle + log_cascade_shape(given["depth"][0], last, given["relaxation"], l_max)


def small_scale_sky(
    field: Float[AnyArray, "3"],
    strength: float,
    scattering: Scattering | None,
    turbulent: Float[AnyArray, " coefficient"],
) -> Float[np.ndarray, " coefficient"]:
    """A sky of this kind: the aligned profile of a gradient, and one realisation of the turbulent multipoles.

    Args:
        field: Unit vector B.
        strength: s, of the dipole along B.
        scattering: D_mumu; None for a dipole alone.
        turbulent: Real multipoles a_lm in the frame of B, such as those of `simulate.draw_multipoles`, shape
            ((l_max + 1)^2,).

    Returns:
        Real multipoles of the relative intensity, the dipole included, in the order of `diffcr.harmonics`.
    """
    turbulent = np.asarray(turbulent, float)
    l_max = math.isqrt(len(turbulent)) - 1
    shape = np.eye(l_max)[0] if scattering is None else np.asarray(relative_profile(scattering, l_max))
    return turbulent + np.asarray(aligned_sky(shape, field, strength))


def log_cascade_shape(
    depth: AnyArray | float, end: AnyArray | float | None, relaxation: str, l_max: int
) -> Float[Array, " degree"]:
    """ln C_l / C_2, l = 2 .. l_max, of a nearest-neighbour cascade from l = 1; not below `ENDED` past its end."""
    rates = relaxation_rates(relaxation, l_max)
    if end is not None:
        rates = ended_rates(rates, end)
    # Later the shape no longer changes, but with equal rates, and powers become too small for a number.
    power = nearest_neighbour_power(1.0, jnp.minimum(depth, 300.0), l_max, rates)[1:]
    ratio = power / power[0]
    return jnp.log(ratio if end is None else ratio + ENDED)


def _scattered_dipole(sky: SkyLikelihood, values: Array) -> Float[Array, "3"]:
    """The random dipole as a vector, from its coefficients, which lead `values` in the order of theta."""
    of_each = np.array(sky.degree) == 1
    order = np.array(sky.order)[of_each]
    vector = jnp.zeros(3)
    for k, m in enumerate(order):
        vector = vector.at[{1: 0, -1: 1, 0: 2}[int(m)]].set(values[k] / DIPOLE_NORM)
    return vector


_PARAMETERS = ("index", "floor", "width", "strength", "centre")

HYPER_PARAMETERS = tuple(
    f"{name}_scaled" for name in (*_PARAMETERS, "log_power_2", "power_index", "log_depth", "end", "spectral_index")
)
"""Sites of the hyper-parameters, of unit width."""


def _given(priors: dict[str, Any]) -> dict[str, Any]:
    """Every prior of `small_scale` by name, those left out with their defaults."""
    defaults = {
        name: p.default for name, p in inspect.signature(small_scale).parameters.items() if name not in _DERIVED
    }
    return defaults | priors


_DERIVED = ("sky", "stretch", "rates")
