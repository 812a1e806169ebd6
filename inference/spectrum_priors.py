"""Priors of the parameters of theories of angular power: two numbers each, and a map from a standard normal number."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array

from diffcr.typing import AnyArray


class Prior(NamedTuple):
    """A prior: (median, spread of ln), (mean, standard deviation), or (lowest, highest).

    Attributes:
        kind: "log-normal", "normal", "uniform" or "log-uniform".
        first, second: Its two numbers.
        meaning: What the parameter is, with its unit.
    """

    kind: str
    first: float
    second: float
    meaning: str

    def value(self, unit: AnyArray | float) -> Array:
        """The parameter that a standard normal number stands for."""
        if self.kind == "normal":
            return self.first + self.second * jnp.asarray(unit)
        if self.kind == "log-normal":
            return self.first * jnp.exp(self.second * jnp.asarray(unit))
        if self.kind == "uniform":
            return self.first + (self.second - self.first) * ndtr(unit)
        return self.first * jnp.exp(math.log(self.second / self.first) * ndtr(unit))

    def unit(self, value: AnyArray | float) -> Array:
        """The standard normal number of a parameter within the prior."""
        value = jnp.asarray(value, float)
        if self.kind == "normal":
            return (value - self.first) / self.second
        if self.kind == "log-normal":
            return jnp.log(value / self.first) / self.second
        if self.kind == "uniform":
            return ndtri((value - self.first) / (self.second - self.first))
        return ndtri(jnp.log(value / self.first) / math.log(self.second / self.first))

    def within(self, place: AnyArray | float) -> Array:
        """The parameter at a place from -1 to 1 between the bounds of a uniform or log-uniform prior."""
        share = (1 + jnp.asarray(place)) / 2
        if self.kind == "uniform":
            return self.first + (self.second - self.first) * share
        return self.first * jnp.exp(math.log(self.second / self.first) * share)

    def place(self, value: AnyArray | float) -> Array:
        """The inverse of `within`."""
        value = jnp.asarray(value, float)
        if self.kind == "uniform":
            return 2 * (value - self.first) / (self.second - self.first) - 1
        return 2 * jnp.log(value / self.first) / math.log(self.second / self.first) - 1

    def describe(self) -> dict:
        """As JSON, its numbers by name."""
        names = {
            "normal": ("mean", "sd"),
            "log-normal": ("median", "sd_of_ln"),
        }.get(self.kind, ("lowest", "highest"))
        return {"kind": self.kind, names[0]: self.first, names[1]: self.second, "meaning": self.meaning}
