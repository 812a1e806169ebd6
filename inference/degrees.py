r"""How well a model foretells the multipoles of one degree l from all others: its test as a model of small scales.

A cascade, a power law and a profile about the field differ in how the power of one degree goes with that of the
others. With the likelihood of the multipoles close to a Gaussian, and their prior a Gaussian for given
hyper-parameters, everything but these is integrated exactly:

$$ p(d_l | d_{-l}) = 1 / \langle p(d_{-l} | \phi) / p(d | \phi) \rangle_{\phi | d}, $$

where without its degree l the sky has multipoles there that are free: normal with a standard deviation of 1,
which is far more than any sky has.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import optimize, special

from diffcr.errors import InputError
from diffcr.typing import AnyArray

from .named import group
from .smoothed import PARETO_LIMIT, error_of_sum, smoothed

FREE = 1.0
"""Standard deviation of multipoles that are left out, the same for all models that are compared."""


def log_density_of_degrees(
    information: Float[AnyArray, "energy param param"],
    pull: Float[AnyArray, "energy param"],
    degree: Sequence[int],
    design: Float[AnyArray, "*energy param n"],
    mean: Float[AnyArray, "..."] | float,
    scale: Float[AnyArray, "..."] | float,
    offset: Float[AnyArray, "*each param"] | float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, " l"]]:
    """ln p(d | phi), and ln p(d_l | d_-l, phi) of l = 1 .. l_max, for theta = design x + offset, x ~ N(mean, scale^2).

    Args:
        information, pull: Of ln L = pull theta - theta information theta / 2, as `SkyLikelihood` has them.
        degree: l of each of theta.
        design, mean, scale, offset: As in `prior.sky_normal`, for given hyper-parameters phi.
    """
    energies, params = pull.shape
    design = jnp.broadcast_to(design, (energies, *jnp.shape(design)[-2:]))
    count = design.shape[-1]
    root = design * jnp.broadcast_to(jnp.asarray(scale, float), (count,))
    moved = jnp.einsum("epn,n->ep", design, jnp.broadcast_to(jnp.asarray(mean, float), (count,)))
    centre = moved + jnp.broadcast_to(jnp.asarray(offset, float), (energies, params))
    whole = _log_evidence(information, pull, centre, root)
    rest = [without_degree(information, pull, degree, l) for l in range(1, max(degree) + 1)]
    return whole, jnp.stack([whole - _log_evidence(*each[:2], centre, root) - each[2] for each in rest])


def without_degree(
    information: Float[AnyArray, "energy param param"],
    pull: Float[AnyArray, "energy param"],
    degree: Sequence[int],
    left_out: int,
) -> tuple[Float[Array, "energy param param"], Float[Array, "energy param"], Float[Array, ""]]:
    """What the data say of all degrees but one, free multipoles of that one integrated: information, pull, ln density.

    Args:
        information, pull: Of the whole, as `SkyLikelihood` has them.
        degree: l of each parameter.
        left_out: The degree.
    """
    place = np.flatnonzero(np.array(degree) == left_out)
    information, pull = jnp.asarray(information), jnp.asarray(pull)
    across, own = information[:, :, place], information[:, place][:, :, place]
    factor = jnp.linalg.cholesky(own + jnp.eye(len(place)) / FREE**2)
    solve = jax.vmap(lambda root, x: jax.scipy.linalg.cho_solve((root, True), x))
    kept = information - jnp.einsum("epk,ekq->epq", across, solve(factor, jnp.swapaxes(across, 1, 2)))
    weight = solve(factor, pull[:, place])
    spread = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2))) + pull.shape[0] * len(place) * math.log(FREE)
    return kept, pull - jnp.einsum("epk,ek->ep", across, weight), 0.5 * jnp.sum(pull[:, place] * weight) - spread


def _log_evidence(information, pull, centre, root) -> Float[Array, ""]:
    """ln of the integral of exp(pull theta - theta F theta / 2) over theta = centre + root z, z unit normal."""
    moved = pull - jnp.einsum("epq,eq->ep", information, centre)
    force = jnp.einsum("epn,ep->n", root, moved)
    curvature = jnp.eye(root.shape[-1]) + jnp.einsum("epn,epq,eqm->nm", root, information, root)
    factor = jnp.linalg.cholesky(curvature)
    pulled = jax.scipy.linalg.solve_triangular(factor, force, lower=True)
    start = jnp.sum(centre * (pull + moved)) / 2
    return start + 0.5 * pulled @ pulled - jnp.sum(jnp.log(jnp.diagonal(factor)))


@dataclasses.dataclass(frozen=True)
class LeaveOneDegreeOut:
    """How well each degree of the sky is foretold from all others.

    Attributes:
        degree: l of each entry, shape (l,).
        elpd: ln p(d_l | d_-l), over that of free multipoles of standard deviation `FREE`, shape (l,).
        p_loo: ln p(d_l | d) - ln p(d_l | d_-l) of the hyper-parameters: what knowing the degree is worth, shape (l,).
        pareto_k: Shape of the tail of the importance weights, shape (l,); 0 where the model was sampled again.
        refitted: Degrees without which it was.
    """

    degree: Int[np.ndarray, " l"]
    elpd: Float[np.ndarray, " l"]
    p_loo: Float[np.ndarray, " l"]
    pareto_k: Float[np.ndarray, " l"]
    refitted: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        """Sum of the elpd."""
        return float(np.sum(self.elpd))

    @property
    def unreliable(self) -> tuple[int, ...]:
        """Degrees whose Pareto k exceeds 0.7."""
        return tuple(int(l) for l in self.degree[~(self.pareto_k <= PARETO_LIMIT)])


def leave_one_degree_out(
    posterior: Any,
    refit: Callable[[int], Float[np.ndarray, "chain draw"]] | None = None,
) -> LeaveOneDegreeOut:
    """Expected log predictive density of every degree, from a posterior of multipoles, a profile or small scales.

    Args:
        posterior: What `sample` returned, or the file it was saved to opened with ArviZ.
        refit: What gives ln p(d_l | d_-l, phi) for draws of the posterior without degree l, such as
            `degree_refit.refitted`. It is called where the importance weights cannot be trusted (Pareto k above 0.7):
            where a degree holds most of what is known of a parameter, such as the dipole of the field's direction.

    Raises:
        InputError: If the posterior is of a model without multipoles of l >= 2.

    References:
        Vehtari, Gelman & Gabry (2017), Stat. Comput. 27, 1413, for the identity and the smoothed weights.
    """
    draws = group(posterior, "posterior")
    if "degree_density" not in draws:
        raise InputError(
            f"the posterior of the model {draws.attrs.get('model', 'given')} does not say how degrees are foretold: "
            "sample the model multipoles, small-scale, or local-field with a profile"
        )
    values = draws["degree_density"].values
    log_density = values.reshape(-1, values.shape[-1])
    elpd, pareto_k = smoothed(log_density, _relative_efficiency(values))
    degree = draws["l"].values[-len(elpd) :].astype(int)
    again = []
    for place in np.flatnonzero(~(pareto_k <= PARETO_LIMIT)) if refit else ():
        found = refit(int(degree[place]))
        elpd[place], error = bridged(values[..., place], found)
        again.append(int(degree[place]))
        # A refit is trusted where its chains agree and the two sets of draws meet.
        trusted = error < _BRIDGE_ERROR and _split_r_hat(found) < _REFIT_R_HAT
        pareto_k[place] = 0.0 if trusted else np.inf
    mean = np.logaddexp.reduce(log_density, axis=0) - math.log(len(log_density))
    return LeaveOneDegreeOut(degree, elpd, mean - elpd, pareto_k, tuple(again))


_BRIDGE_ERROR, _REFIT_R_HAT = 0.5, 1.05
"""Above these a refit is not trusted."""


def bridged(
    with_degree: Float[np.ndarray, "chain draw"], without: Float[np.ndarray, "other_chain other_draw"]
) -> tuple[float, float]:
    """ln p(d_l | d_-l) and its standard error, from ln p(d_l | d_-l, phi) of draws given all degrees, and all but l.

    Bennett's acceptance ratio: of all estimates from both sets of draws that of the least variance. The error counts
    effective draws; it is itself too small where hardly any draw of one set would be one of the other.

    References:
        Bennett (1976), J. Comput. Phys. 22, 245; Meng & Wong (1996), Stat. Sinica 6, 831.
    """
    one, other = (np.asarray(each, float) for each in (with_degree, without))
    log_ratio = math.log(one.size / other.size)

    def parts(c: float) -> tuple[np.ndarray, np.ndarray]:
        return special.expit(c - one - log_ratio), special.expit(other - c + log_ratio)

    low, high = min(one.min(), other.min()) - 50, max(one.max(), other.max()) + 50
    found = float(optimize.brentq(lambda c: float(np.subtract(*(x.sum() for x in parts(c)))), low, high, xtol=1e-6))
    variance = sum(np.var(x) / (np.mean(x) ** 2 * x.size * _relative_efficiency(x[..., None])) for x in parts(found))
    return found, float(np.sqrt(variance))


def _split_r_hat(values: Float[np.ndarray, "chain draw"]) -> float:
    from .arviz_import import arviz

    return float(arviz.rhat(values)) if np.ptp(values) > 1e-9 else 1.0


def _relative_efficiency(values: Float[np.ndarray, "chain draw l"]) -> float:
    """Least effective sample size of any degree's density over the number of draws, at most 1."""
    from .arviz_import import arviz

    found = [float(arviz.ess(values[..., l])) for l in range(values.shape[-1]) if np.ptp(values[..., l]) > 1e-9]
    return min([1.0, *(each / values[..., 0].size for each in found if np.isfinite(each))])


@dataclasses.dataclass(frozen=True)
class Compared:
    """One model among others, by the degrees it foretells.

    Attributes:
        name: Of the model.
        elpd: Total over all degrees.
        difference: elpd minus that of the best model, not above 0.
        difference_error: Standard error of it, sqrt(n var) of the differences degree by degree: rough for few degrees.
        by_degree: Difference of each degree, shape (l,).
        unreliable: Degrees whose Pareto k exceeds 0.7.
    """

    name: str
    elpd: float
    difference: float
    difference_error: float
    by_degree: Float[np.ndarray, " l"]
    unreliable: tuple[int, ...]


def compare_degrees(results: dict[str, LeaveOneDegreeOut]) -> list[Compared]:
    """Models of the same counts, the best first.

    Raises:
        InputError: If there is no model, or they do not have the same degrees.
    """
    if not results:
        raise InputError("no model to compare: give the results of at least one, by name")
    first = next(iter(results.values()))
    for name, other in results.items():
        if not np.array_equal(other.degree, first.degree):
            raise InputError(
                f"the model {name} has degrees to l = {other.degree[-1]}, another to {first.degree[-1]}: their "
                "predictions cannot be compared; use one l_max for all"
            )
    names = sorted(results, key=lambda name: -results[name].total)
    best = results[names[0]].elpd
    return [
        Compared(
            name,
            results[name].total,
            float(np.sum(results[name].elpd - best)),
            error_of_sum(results[name].elpd - best),
            results[name].elpd - best,
            results[name].unreliable,
        )
        for name in names
    ]
