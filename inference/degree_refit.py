"""The hyper-parameters of a model sampled again without one degree of the sky, in the Gaussian approximation."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Float
from numpyro import handlers

from .degrees import without_degree
from .prior import SkyNormal
from .sampler import Kernel, Plan, natural, sample_segments
from .sky_likelihood import SkyLikelihood
from .specification import Specification

_PLAN = Plan(chains=4, warmup=200, draws=250, target_accept=0.9, max_tree_depth=6)


def refitted(
    spec: Specification, sky: SkyLikelihood, plan: Plan = _PLAN
) -> Callable[[int], Float[np.ndarray, "chain draw"]]:
    """A function of l that gives ln p(d_l | d_-l, phi) for draws of phi given all degrees but l.

    Multipoles and rates are integrated exactly where the likelihood is Gaussian in the multipoles; what is sampled is
    a handful of numbers. Compiled once for all degrees.

    Args:
        spec: The model.
        sky: Its likelihood.
        plan: Chains and steps.
    """
    kernel = Kernel(_hyper_parameters(spec), plan, None, spec.dense)
    kwargs = spec.arguments(sky)

    def refit(l: int) -> Float[np.ndarray, "chain draw"]:
        information, pull, constant = without_degree(sky.information, sky.pull, sky.degree, l)
        rest = dataclasses.replace(sky, information=information, pull=pull)
        positions = sample_segments(kernel, (rest,), kwargs).positions
        whole, part = (natural(kernel, positions, (each,), kwargs)["density"] for each in (sky, rest))
        return whole - part - float(constant)

    return refit


def _hyper_parameters(spec: Specification) -> Callable:
    """The prior of the hyper-parameters, with the density of the multipoles that they foretell as the only datum."""
    function = dataclasses.replace(spec, rates="laplace").function

    def hidden(site) -> bool:
        if site["type"] != "sample":
            return True
        return site["is_observed"] or isinstance(site["fn"], SkyNormal) or site["name"] == "delta_N_scaled"

    def at_zero(site):
        # What is integrated out has no value; the density does not depend on it.
        return jnp.zeros(site["fn"].shape()) if site["type"] == "sample" and hidden(site) else None

    def model(sky: SkyLikelihood, **kwargs):
        with handlers.block(hide_fn=hidden), handlers.trace() as trace:
            handlers.substitute(function, substitute_fn=at_zero)(sky, **kwargs)
        density = numpyro.deterministic("density", trace["sky_density"]["value"])
        numpyro.factor("multipoles", density)

    return model
