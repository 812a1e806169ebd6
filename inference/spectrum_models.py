r"""Theories of the angular power spectrum, with their priors by name: cascade, pitch-angle profile, power law, both.

A model gives the power of random skies, as a mean over them, and that of an aligned pattern, which does not scatter.
Each part is an amplitude times a shape. Every parameter has a proper prior and is a function of one standard normal
number. The sampler moves in ln of the power that each part puts into the data, not in its amplitude: at large depth the
data fix C_1 exp(-2 nu T) alone, and in C_1 and nu T that is a bent ridge.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffcr.cascade_rates import RELAXATION
from diffcr.errors import InputError
from diffcr.pitch_angle import FAMILIES, family
from diffcr.typing import AnyArray

from .spectrum_priors import Prior
from .spectrum_shapes import (
    aligned_shape,
    cascade_shape,
    cascade_table,
    ended_cascade_shape,
    orders_seen,
    profile_table,
    tabulated_shape,
)


class Part(NamedTuple):
    """One part of a model.

    Attributes:
        amplitude: Name of the parameter that the part is proportional to; its prior is log-normal.
        aligned: Whether it is a fixed pattern.
        shape: C_l of unit amplitude, l = 1 .. l_max, as a function of the parameters.
    """

    amplitude: str
    aligned: bool
    shape: Callable[[dict], Array]


@dataclasses.dataclass(frozen=True)
class Model:
    """A theory of C_l.

    Attributes:
        name: Of `MODELS`.
        words: One line on what it is.
        priors: Of each parameter by name.
        parts: What its power is the sum of.
        l_max: Highest degree.
    """

    name: str
    words: str
    priors: Mapping[str, Prior]
    parts: tuple[Part, ...]
    l_max: int

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names, in the order of coordinates."""
        return tuple(self.priors)

    def power(self, values: Mapping[str, AnyArray | float]) -> tuple[Float[Array, " degree"], Float[Array, " degree"]]:
        """C_l of l = 1 .. l_max expected of random skies, and of the aligned pattern.

        Args:
            values: Every parameter by name.
        """
        powers = [jnp.zeros(self.l_max), jnp.zeros(self.l_max)]
        for part in self.parts:
            powers[part.aligned] = powers[part.aligned] + values[part.amplitude] * part.shape(values)
        return powers[0], powers[1]

    def values(self, coordinates: Float[AnyArray, " param"], seen: Float[AnyArray, " degree"]) -> tuple[dict, Array]:
        """Parameters by name, and their standard normal numbers, at a point of the sampler.

        Args:
            coordinates: In place of an amplitude ln of sum seen_l C_l of its part; else the standard normal number.
            seen: Weights of the degrees.
        """
        amplitudes = {part.amplitude: part for part in self.parts}
        at = dict(zip(self.parameters, coordinates, strict=True))
        units = {name: value for name, value in at.items() if name not in amplitudes}
        values = {name: self.priors[name].value(unit) for name, unit in units.items()}
        for name, part in amplitudes.items():
            prior = self.priors[name]
            log_amplitude = at[name] - jnp.log(jnp.sum(seen * part.shape(values)))
            units[name] = (log_amplitude - math.log(prior.first)) / prior.second
            values[name] = jnp.exp(log_amplitude)
        return {n: values[n] for n in self.parameters}, jnp.stack([units[n] for n in self.parameters])

    def coordinates(self, units: Float[AnyArray, " param"], seen: Float[AnyArray, " degree"]) -> Array:
        """The point of the sampler where the standard normal numbers of the parameters are these."""
        values = {name: self.priors[name].value(unit) for name, unit in zip(self.parameters, units, strict=True)}
        out = dict(zip(self.parameters, units, strict=True))
        for part in self.parts:
            out[part.amplitude] = jnp.log(values[part.amplitude] * jnp.sum(seen * part.shape(values)))
        return jnp.stack([out[name] for name in self.parameters])


# Models -------------------------------------------------------------------------------------------------

MODELS = ("cascade", "pitch-angle", "power-law", "mixed")
"""Names of the models."""

_FAMILY_PRIORS = {
    "index": Prior("uniform", 1.0, 1.95, "q of D = D_0 (1 - mu^2) |mu|^(q - 1)"),
    "floor": Prior("log-uniform", 1e-3, 1.0, "h added to |mu|^(q - 1)"),
    "width": Prior("log-uniform", 0.03, 1.0, "width in mu"),
    "strength": Prior("log-uniform", 0.1, 100.0, "scattering added at |mu| = centre, over what is there"),
    "centre": Prior("uniform", 0.0, 1.0, "|mu| where scattering is added"),
}


def build_model(
    name: str,
    l_max: int,
    rates: str = "angular-diffusion",
    scattering: str = "quasi-linear",
    end: bool = False,
    declination: float | None = None,
    priors: Mapping[str, Sequence[float]] | None = None,
) -> Model:
    """One of `MODELS` for degrees up to l_max.

    cascade: C_1 in l = 1 at T = 0 flows from l to l + 1; depth is nu T. pitch-angle: the profile about the local field
    that scattering of a given family makes of a gradient, of dipole power C_1_aligned; odd l alone. power-law: C_l =
    C_2 (l / 2)^-slope, random. mixed: a cascade and a profile.

    Args:
        name: The model.
        l_max: Highest degree.
        rates: Of the cascade, a name in `diffcr.cascade_rates.RELAXATION`.
        scattering: Of the profile, a name in `diffcr.pitch_angle.FAMILIES`.
        end: Whether the cascade ends at a free degree.
        declination: Of the field [rad], for data without the multipoles m = 0; see `orders_seen`.
        priors: The two numbers of a prior by the name of its parameter, in place of the default.

    Raises:
        InputError: If a name is unknown, or a prior out of range.
    """
    for what, given, known in (
        ("model", name, MODELS),
        ("model of relaxation rates", rates, RELAXATION),
        ("family of pitch-angle scattering", scattering, FAMILIES),
    ):
        if given not in known:
            raise InputError(f"unknown {what} {given!r}: choose one of {', '.join(known)}")
    if name in ("pitch-angle", "mixed") and scattering == "isotropic":
        raise InputError("isotropic scattering makes a dipole alone, and no small scales; choose another --scattering")
    chosen: dict[str, Prior] = {}
    parts, words = [], []
    if name in ("cascade", "mixed"):
        chosen |= _cascade_priors(rates, l_max, end)
        parts.append(Part("C_1", False, _cascade(rates, l_max, end)))
        words.append(f"cascade from l = 1 with {rates} rates" + (", to a free end" if end else ""))
    if name in ("pitch-angle", "mixed"):
        chosen["C_1_aligned"] = Prior("log-normal", 1e-6, 5.0, "power of the dipole along the field")
        chosen |= {key: _FAMILY_PRIORS[key] for key in FAMILIES[scattering][1]}
        words.append(f"profile about the field of {scattering} scattering")
    if name == "power-law":
        chosen["C_2"] = Prior("log-normal", 1e-8, 5.0, "C_l at l = 2")
        chosen["slope"] = Prior("normal", 2.5, 1.5, "p of C_l = C_2 (l / 2)^-p")
        l = np.arange(1.0, l_max + 1)
        parts.append(Part("C_2", False, lambda v: (l / 2) ** -v["slope"]))
        words.append("power law of random skies")
    chosen = _with(chosen, priors or {}, name)
    if "C_1_aligned" in chosen:
        parts.append(Part("C_1_aligned", True, _profile(scattering, chosen, l_max, declination)))
    return Model(name, " and ".join(words), chosen, tuple(parts), l_max)


def _cascade_priors(rates: str, l_max: int, end: bool) -> dict[str, Prior]:
    # With equal rates power passes one degree in each unit of depth; else it is all over after the first few units.
    middle = {"angular-diffusion": 0.5, "isotropic-scattering": 1.0}.get(rates, 5.0)
    out = {
        "C_1": Prior("log-normal", 1e-6, 5.0, "C_l at l = 1 and T = 0"),
        "depth": Prior("log-normal", middle, 1.0, "nu T"),
    }
    if end:
        out["end"] = Prior("log-uniform", 2.0, 2.0 * l_max, "degree at which the cascade ends")
    return out


def _cascade(rates: str, l_max: int, end: bool):
    table = cascade_table(rates, l_max)
    if end:
        return lambda v: ended_cascade_shape(v["depth"], v["end"], table)
    return lambda v: cascade_shape(v["depth"], table)


def _profile(scattering: str, priors: Mapping[str, Prior], l_max: int, declination: float | None):
    seen = np.ones(l_max) if declination is None else orders_seen(declination, l_max)
    keys = FAMILIES[scattering][1]
    if len(keys) != 2:
        return lambda v: seen * aligned_shape(scattering, v, l_max)
    axes = (priors[keys[0]], priors[keys[1]])
    table = profile_table(scattering, axes, l_max)
    return lambda v: seen * tabulated_shape(table, axes, (v[keys[0]], v[keys[1]]))


def _with(chosen: dict[str, Prior], given: Mapping[str, Sequence[float]], name: str) -> dict[str, Prior]:
    """The priors with other numbers where given."""
    for key, numbers in given.items():
        if key not in chosen:
            raise InputError(f"the model {name} has no parameter {key!r}: it has {', '.join(chosen)}")
        kind = chosen[key].kind
        if len(numbers) != 2 or not all(math.isfinite(x) for x in numbers):
            raise InputError(f"the prior of {key} takes two numbers, {_WORDS[kind]}, not {numbers}")
        first, second = numbers
        fine = first < second if "uniform" in kind else second > 0
        if not fine or (kind in ("log-normal", "log-uniform") and not first > 0):
            raise InputError(f"the prior of {key} takes {_WORDS[kind]}, not {first:g},{second:g}")
        chosen[key] = chosen[key]._replace(first=float(first), second=float(second))
    for key in ("index", "floor", "width", "strength", "centre"):
        if key in chosen:
            for end in chosen[key][1:3]:
                # What a family refuses at the ends of a prior it would meet within.
                family(next(n for n, (_, names) in FAMILIES.items() if key in names), **{key: end})
    return chosen


_WORDS = {
    "normal": "a mean and a positive standard deviation",
    "log-normal": "a positive median and a positive spread of the logarithm",
    "uniform": "two rising bounds",
    "log-uniform": "two rising positive bounds",
}
