r"""Priors, each with the coordinates in which its posterior is easy to sample.

A distribution here is what it says (`log_prob` and `sample` are the prior's); its `support` carries a bijection
from coordinates of unit variance under the *posterior's* Gaussian approximation. NUTS works in those, and the
Jacobian is accounted for, so that the answer does not depend on how good the approximation is. They are numpyro
distributions: a model that uses them stays a plain function, to be copied and changed.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from diffcr.cascade import nearest_neighbour_power
from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .sky_likelihood import SkyLikelihood


class _Affine(Transform):
    """x = mean + L z for vectors, L lower triangular's inverse transpose: L L^T = (C C^T)^-1."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, mean, root):
        self.mean, self.root = mean, root

    def __call__(self, z):
        return self.mean + solve_triangular(self.root, z, lower=True, trans="T")

    def _inverse(self, x):
        return self.root.T @ (x - self.mean)

    def log_abs_det_jacobian(self, z, x, intermediates=None):
        return -jnp.sum(jnp.log(jnp.diagonal(self.root)))

    def tree_flatten(self):
        return (self.mean, self.root), (("mean", "root"), {})


class _Ridge(Transform):
    """u = mean + H^(-1/2) z for the rates of every configuration."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.independent(constraints.real, 2)

    def __init__(self, sky, mean):
        self.sky, self.mean = sky, mean

    def __call__(self, z):
        return self.mean + self.sky.rate_root(z)

    def _inverse(self, u):
        return self.sky.rate_unroot(u - self.mean)

    def log_abs_det_jacobian(self, z, u, intermediates=None):
        eye = jnp.eye(self.sky.rate_mix.shape[-1])
        return jnp.sum(jnp.log(self.sky.rate_scale)) + jnp.sum(jnp.linalg.slogdet(eye + self.sky.rate_mix)[1])

    def tree_flatten(self):
        return (self.sky, self.mean), (("sky", "mean"), {})


class Coordinates(constraints.Constraint):
    """All real values, reached from unit normals by the transform it holds."""

    def __init__(self, transform, event_dim):
        self.transform = transform
        self._event_dim = event_dim

    @property
    def event_dim(self):
        """Number of trailing axes that make one value."""
        return self._event_dim

    def __call__(self, x):
        inside = jnp.isfinite(x)
        return jnp.all(inside, axis=tuple(range(-self._event_dim, 0)))

    def feasible_like(self, prototype):
        """The origin: the most probable point."""
        return jnp.zeros_like(prototype)

    def tree_flatten(self):
        """Leaves and the rest, for JAX."""
        return (self.transform,), (("transform",), {"_event_dim": self._event_dim})

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


biject_to.register(Coordinates)(lambda constraint: constraint.transform)


class SkyNormal(dist.Distribution):
    """Independent normals, sampled in the coordinates of their posterior given everything above them in the model.

    With the likelihood close to exp(pull . x - x F x / 2) and the prior N(loc, scale^2), the posterior of x has
    precision F + 1/scale^2. As F and scale may depend on other parameters (C_l, the field), so do the
    coordinates: there is no funnel.

    Args:
        loc: Prior mean, shape (n,) or scalar.
        scale: Prior standard deviation, shape (n,) or scalar.
        information: F, shape (n, n).
        pull: Linear term, shape (n,).
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, loc, scale, information, pull, *, validate_args=None):
        shape = jnp.shape(pull)
        self.loc, self.scale = jnp.broadcast_to(loc, shape), jnp.broadcast_to(scale, shape)
        self.information, self.pull = information, pull
        super().__init__((), shape, validate_args=False)

    @property
    def support(self):
        """All vectors, with the whitening transform."""
        weight = self.scale**-2
        root = jnp.linalg.cholesky(self.information + jnp.diag(weight))
        mean = jax.scipy.linalg.cho_solve((root, True), self.pull + weight * self.loc)
        return Coordinates(_Affine(mean, root), 1)

    def sample(self, key, sample_shape=()):
        """Draws of the prior."""
        return self.loc + self.scale * jax.random.normal(key, (*sample_shape, *self.event_shape))

    def log_prob(self, value):
        """The prior's density."""
        return jnp.sum(dist.Normal(self.loc, self.scale).log_prob(value), axis=-1)


def sky_normal(
    sky: SkyLikelihood,
    loc: Float[AnyArray, "..."] | float,
    scale: Float[AnyArray, "..."] | float,
    design: Float[AnyArray, "*energy param n"],
    offset: Float[AnyArray, "*each param"] | float = 0.0,
) -> SkyNormal:
    """Normal prior of parameters x that make the multipoles of date theta = design x + offset.

    Args:
        sky: The likelihood.
        loc, scale: Prior mean and standard deviation, scalars or shape (n,).
        design: Shape (param, n) for one sky, (energy, param, n) for one per energy bin.
        offset: What theta is at x = 0, shape (param,) or (energy, param).
    """
    energies, params = sky.centre.shape
    design = jnp.broadcast_to(design, (energies, *jnp.shape(design)[-2:]))
    offset = jnp.broadcast_to(offset, (energies, params))
    information = jnp.einsum("epn,epq,eqm->nm", design, sky.information, design)
    pull = jnp.einsum("epn,ep->n", design, sky.pull - jnp.einsum("epq,eq->ep", sky.information, offset))
    return SkyNormal(loc, scale, information, pull)


class LogRates(dist.Distribution):
    """u = ln(N / N_isotropic) of every group of time bins: a Dirichlet prior on the relative rates of each site.

    The overall scale of a site's rates is no parameter of the likelihood (see `SkyLikelihood.log_likelihood`).

    Args:
        sky: The likelihood; its concentration is the Dirichlet's alpha.
        theta: Multipoles of date, which the most probable rates follow, shape (param,) or (energy, param).
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, sky: SkyLikelihood, theta: Float[AnyArray, "*energy param"], *, validate_args=None):
        self.sky, self.theta = sky, theta
        super().__init__((), sky.rate_centre.shape, validate_args=False)

    @property
    def support(self):
        """All real arrays, with the whitening transform."""
        return Coordinates(_Ridge(self.sky, self.sky.rate_mean(self.theta)), 2)

    def sample(self, key, sample_shape=()):
        """Draws of the prior; with the improper one (concentration 0) rates as scattered as those of alpha = 1."""
        alpha = jnp.where(self.sky.concentration > 0, self.sky.concentration, 1.0)
        gamma = jax.random.loggamma(key, alpha, (*sample_shape, *self.event_shape))
        start = self.sky.block.rate_modes[:, -1]
        live = jnp.where(self.sky.alive > 0, gamma, -jnp.inf)
        relative = live - jax.scipy.special.logsumexp(live, axis=-1, keepdims=True)
        safe = jnp.where(self.sky.alive > 0, start, 1.0)
        return jnp.where(self.sky.alive > 0, relative - jnp.log(safe), 0.0)

    def log_prob(self, value):
        """The prior's density in the measure of u."""
        return self.sky.log_rate_prior(value)


class Direction(dist.Distribution):
    """Unit vectors, uniform on the circle or the sphere, without pole or seam.

    The value v is a vector of two or three components, and the direction is S v / |S v|. With the stretch S near
    the square root of the second moments of the posterior's directions, a thin ring or a pair of small caps on
    the sky becomes most of a sphere for v. The prior of the direction stays uniform: the density of v carries the
    Jacobian |S v^|^-d. The length of v follows a chi distribution of 12 degrees of freedom, a shell around the
    origin: there, where every direction meets, a sampler would have to stop.

    Args:
        stretch: S, shape (2, 2) or (3, 3), of determinant that does not matter.
    """

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real_vector

    def __init__(self, stretch, *, validate_args=None):
        self.stretch = jnp.asarray(stretch)
        super().__init__((), self.stretch.shape[:1], validate_args=False)

    def sample(self, key, sample_shape=()):
        """Draws of v whose directions S v / |S v| are uniform."""
        radius, angle = jax.random.split(key)
        to = jax.random.normal(angle, (*sample_shape, *self.event_shape))
        v = jnp.linalg.solve(self.stretch, to[..., None])[..., 0]
        length = jnp.linalg.norm(jax.random.normal(radius, (*sample_shape, _SHELL)), axis=-1, keepdims=True)
        return length * v / jnp.linalg.norm(v, axis=-1, keepdims=True)

    def log_prob(self, value):
        """The density of v."""
        d = self.event_shape[0]
        log_radius = 0.5 * jnp.log(jnp.sum(value**2, axis=-1))
        log_stretched = 0.5 * jnp.log(jnp.sum((value @ self.stretch.T) ** 2, axis=-1))
        jacobian = jnp.linalg.slogdet(self.stretch)[1] - d * (log_stretched - log_radius)
        shell = (_SHELL - d) * log_radius - 0.5 * jnp.exp(2 * log_radius)
        area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
        return jacobian + shell - (_SHELL / 2 - 1) * math.log(2) - math.lgamma(_SHELL / 2) - area

    def direction(self, value: Float[AnyArray, "*batch axis"]) -> Float[Array, "*batch axis"]:
        """S v / |S v|."""
        to = value @ self.stretch.T
        return to / jnp.sqrt(jnp.sum(to**2, axis=-1, keepdims=True))


_SHELL = 12


def log_power_prior(
    l_max: int, shape: str, median: float, slope: float, spread: float, template: Sequence[float] | None = None
) -> Float[np.ndarray, " l"]:
    """ln of the prior median of C_l for l = 2 .. l_max: `median` at l = 2, falling as l^-slope, or as a template.

    Raises:
        InputError: If a value is not positive and finite, the shape unknown, or the template not of l_max - 1 values.
    """
    if shape not in SHAPES:
        raise InputError(f"the shape of C_l must be one of {', '.join(SHAPES)}, not {shape!r}")
    require_positive("the prior median of C_2", median)
    require_positive("the spread of ln C_l", spread)
    if not math.isfinite(slope):
        raise InputError(f"the slope of the prior C_l must be finite, not {slope}")
    if shape == "template":
        if template is None or np.shape(template) != (l_max - 1,):
            given = "none" if template is None else f"{np.size(template)}"
            raise InputError(
                f"the template of C_l needs one value for each l from 2 to {l_max}, and has {given}: give as many, "
                "or another l_max"
            )
        require_positive("the template of C_l", template)
        return math.log(median) + np.log(np.asarray(template, float) / template[0])
    if template is not None:
        raise InputError(f"a template of C_l goes with the shape template, not {shape!r}")
    l = np.arange(2, l_max + 1)
    return math.log(median) - slope * np.log(l / 2)


SHAPES = ("free", "power-law", "cascade", "template", "fixed")
"""How C_l, l >= 2, are tied: not at all, by a power law in l, by a cascade from l = 1, by a given shape, or known."""


def cascade_log_power(log_first: AnyArray | float, log_depth: AnyArray | float, l_max: int) -> Float[Array, " l"]:
    """ln C_l, l = 2 .. l_max, of a cascade of depth nu T that began with ln C_1 at l = 1 (not the dipole seen now)."""
    power = nearest_neighbour_power(jnp.exp(log_first), jnp.exp(log_depth), l_max)
    return jnp.log(power[1:])


def require_positive(name: str, value: float | Sequence[float] | np.ndarray) -> None:
    """Refuse a scale or concentration that is zero, negative or not finite.

    Raises:
        InputError: It says which, and that an improper prior has no posterior to sample.
    """
    values = np.asarray(value, float)
    if not np.all(np.isfinite(values) & (values > 0)):
        raise InputError(
            f"{name} must be positive and finite, not {value}: a prior that cannot be normalised, or leaves nothing, "
            "has no posterior; give a wide but finite one"
        )
