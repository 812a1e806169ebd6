"""Where the sampler of a physical model moves: all uncertain numbers and the field in one vector, whitened about the
best fit."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .prior import Coordinates, Direction, _Affine
from .source_model import SourceModel, Values, range_of

ODD = ("antisymmetric", "gradient_along_field_per_kpc")
"""Numbers that change sign with the field."""

_STEPS = 60
"""Levenberg-Marquardt steps of each start."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which entries of the vector are which numbers: unit normals, and three for each direction that may be anywhere.

    Attributes:
        model: The model with its priors.
        extra: Unit normals after the model's own, such as the strengths of random effects.
    """

    model: SourceModel
    extra: int = 0

    @property
    def normals(self) -> list[tuple[str, int]]:
        """(name, components) of the numbers with a prior in unit normals, in their order."""
        return [(name, range_of(name)[2]) for name, prior in sorted(self.model.priors.items()) if prior != "isotropic"]

    @property
    def directions(self) -> list[str]:
        """Names of the directions that may be anywhere."""
        return [name for name, prior in sorted(self.model.priors.items()) if prior == "isotropic"]

    @property
    def unit_normals(self) -> int:
        """Number of entries that are unit normals under the prior; those of the directions follow."""
        return sum(size for _, size in self.normals) + self.extra

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.unit_normals + 3 * len(self.directions)

    def values(self, x: Float[AnyArray, " coordinate"]) -> Values:
        """The numbers by name, in the units of the model file."""
        out, place = {}, 0
        for name, size in self.normals:
            z = x[place] if size == 1 else x[place : place + size]
            out[name] = self.model.priors[name].value(z)
            place += size
        for k, name in enumerate(self.directions):
            v = x[self.unit_normals + 3 * k : self.unit_normals + 3 * k + 3]
            out[name] = v / jnp.sqrt(jnp.sum(v**2))
        return out

    def effects(self, x: Float[AnyArray, " coordinate"]) -> Float[Array, " effect"]:
        """The extra unit normals."""
        return jnp.asarray(x)[self.unit_normals - self.extra : self.unit_normals]

    def mirror(self) -> Float[np.ndarray, " coordinate"] | None:
        """Signs that turn the field round and leave the prior as it is; None where there is no such move.

        kappa_A and the gradient along the field change sign with the field.
        """
        if "field" not in self.directions:
            return None
        signs, place = np.ones(self.size), 0
        odd = set(ODD)
        for name, size in self.normals:
            if name in odd:
                prior = self.model.priors[name]
                centred = prior.kind == "normal" and prior.numbers[0] == 0
                centred |= prior.kind == "uniform" and prior.numbers[0] == -prior.numbers[1]
                if not centred:
                    return None
                signs[place : place + size] = -1
            place += size
        for name in odd - set(self.model.priors):
            if self.model.values[name] != 0:
                return None
        if "gyration_ratio" in self.model.priors:
            return None
        start = self.unit_normals + 3 * self.directions.index("field")
        signs[start : start + 3] = -1
        return signs


class Geometry(NamedTuple):
    """Gaussian approximation of a posterior in the coordinates of a `Layout`.

    Attributes:
        centre: The best fit.
        root: Cholesky factor of the precision there.
        cost: Half of chi2 plus the prior's share at the best fit.
        costs: The same where each start ended, in order.
        ends: Where the starts ended whose cost is within 8 of the least, the best one first, and their costs below.
        others: Ends of starts that are within 5 of the best and apart from it by more than 4 standard deviations.
    """

    centre: Float[np.ndarray, " coordinate"]
    root: Float[np.ndarray, "coordinate coordinate"]
    cost: float
    costs: Float[np.ndarray, " start"]
    ends: Float[np.ndarray, "end coordinate"]
    others: Float[np.ndarray, "other coordinate"]


class Positions(dist.Distribution):
    """Prior of the vector of a `Layout`: unit normals, then directions that are uniform on the sphere.

    Sampled in coordinates in which the Gaussian approximation of its posterior is a unit normal.

    Args:
        layout: What the entries are.
        centre, root: Of a `Geometry`.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, layout: Layout, centre, root, *, validate_args=None):
        self.layout, self.centre, self.root = layout, jnp.asarray(centre), jnp.asarray(root)
        self._direction = Direction(jnp.eye(3))
        super().__init__((), (layout.size,), validate_args=False)

    @property
    def support(self):
        """All vectors, with the whitening transform."""
        return Coordinates(_Affine(self.centre, self.root), 1)

    def sample(self, key, sample_shape=()):
        """Draws of the prior."""
        normal, where = jax.random.split(key)
        out = [jax.random.normal(normal, (*sample_shape, self.layout.unit_normals))]
        for k in range(len(self.layout.directions)):
            out.append(self._direction.sample(jax.random.fold_in(where, k), sample_shape))
        return jnp.concatenate(out, axis=-1)

    def log_prob(self, value):
        """The prior's density."""
        n = self.layout.unit_normals
        total = jnp.sum(dist.Normal(0.0, 1.0).log_prob(value[..., :n]), axis=-1)
        for k in range(len(self.layout.directions)):
            total += self._direction.log_prob(value[..., n + 3 * k : n + 3 * k + 3])
        return total


def make_locator(layout: Layout, residual: Callable[..., Array]) -> Callable[..., Geometry]:
    """A function that finds the best fit of residuals and prior, and the Gaussian approximation about it.

    What it returns takes the data, the number of prior draws that Levenberg and Marquardt's method starts from (24),
    and their seed. It is compiled once for data of one shape.

    Args:
        layout: What the coordinates are.
        residual: Whitened residuals, a function of the coordinates and the data: their squares sum to -2 ln L.
    """
    shell = math.sqrt(11.0)
    n = layout.unit_normals

    def augmented(x, data):
        # A direction's length follows a shell about the origin: sqrt(11) +- 0.7 is close to it.
        lengths = [
            (jnp.sqrt(jnp.sum(x[n + 3 * k : n + 3 * k + 3] ** 2)) - shell) * math.sqrt(2)
            for k in range(len(layout.directions))
        ]
        return jnp.concatenate([residual(x, *data), x[:n], *([jnp.stack(lengths)] if lengths else [])])

    @jax.jit
    def search(first, data):
        return jax.lax.map(lambda x: _descend(lambda y: augmented(y, data), x), first)

    slopes = jax.jit(jax.jacfwd(augmented))

    def locate(data: tuple, starts: int = 24, seed: int = 0) -> Geometry:
        flat = Positions(layout, np.zeros(layout.size), np.eye(layout.size))
        ends, costs = search(flat.sample(jax.random.PRNGKey(seed), (starts,)), data)
        ends, costs = np.asarray(ends), np.asarray(costs)
        costs = np.where(np.isfinite(costs), costs, np.inf)
        if not np.isfinite(costs.min()):
            raise InputError(
                f"no draw of the priors of the model {layout.model.name} gives a finite fit: check its priors"
            )
        centre = ends[int(np.argmin(costs))]
        j = np.asarray(slopes(centre, data))
        root = np.linalg.cholesky(j.T @ j + 1e-6 * np.eye(layout.size))
        order = np.argsort(costs)
        near = ends[order][np.sort(costs) < costs.min() + 8]
        others = _others(layout, ends, costs, centre, root)
        return Geometry(centre, root, float(costs.min()), np.sort(costs), near, others)

    return locate


def spread_starts(geometry: Geometry, chains: int, seed: int = 0) -> Float[np.ndarray, "chain coordinate"]:
    """Where chains begin: ends of the search, drawn by their probability, one each as long as there are enough.

    Along a valley of nearly the same probability the search ends anywhere, and so chains begin all along it.
    """
    rng = np.random.default_rng(seed)
    costs = geometry.costs[: len(geometry.ends)]
    weight = np.exp(-(costs - costs[0]))
    number = len(costs)
    chosen = rng.choice(number, min(chains, number), replace=False, p=weight / weight.sum())
    while len(chosen) < chains:
        chosen = np.append(chosen, rng.choice(number, p=weight / weight.sum()))
    # A step off the end, so that no two chains are the same.
    away = np.linalg.solve(geometry.root.T, rng.standard_normal((geometry.root.shape[0], chains))).T
    return geometry.ends[chosen] + 0.3 * away


def _descend(augmented: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Levenberg (1944) and Marquardt (1963) from one start: where it ends, and half of the squares there."""
    cost = lambda x: 0.5 * jnp.sum(augmented(x) ** 2)

    def step(carry, _):
        x, damping, now = carry
        r, j = augmented(x), jax.jacfwd(augmented)(x)
        normal = j.T @ j
        move = jnp.linalg.solve(normal + damping * jnp.diag(jnp.diag(normal) + 1e-12), -j.T @ r)
        there = cost(x + move)
        better = there < now
        damping = jnp.where(better, damping / 5, damping * 4).clip(1e-10, 1e12)
        return (jnp.where(better, x + move, x), damping, jnp.where(better, there, now)), None

    (x, _, now), _ = jax.lax.scan(step, (x, jnp.asarray(1e-2), cost(x)), length=_STEPS)
    return x, now


def _others(layout: Layout, ends, costs, centre, root) -> np.ndarray:
    """Ends that are as good, but neither the best one nor its mirror image."""
    apart = np.sqrt(np.sum(((ends - centre) @ root) ** 2, axis=1))
    if (signs := layout.mirror()) is not None:
        apart = np.minimum(apart, np.sqrt(np.sum(((ends * signs - centre) @ root) ** 2, axis=1)))
    return ends[(costs < costs.min() + 5) & (apart > 4)]
