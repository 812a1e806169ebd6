"""Paths by adaptive Runge-Kutta methods of diffrax: slower, and accurate to a tolerance that one asks for."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError
from .turbulence import Field

Solver = Literal["tsit5", "dopri8", "midpoint"]


def integrate_adaptive(
    field: Field,
    position: Real[ArrayLike, "3 _"],
    direction: Real[ArrayLike, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    times: Real[ArrayLike, " sample"] | list[float],
    *,
    tolerance: float = 1e-9,
    solver: Solver = "dopri8",
    max_steps: int = 100_000,
) -> tuple[Float[Array, "sample 3 particle"], Float[Array, "sample 3 particle"]]:
    """Follow each particle with steps of its own, chosen to keep the local error below a tolerance.

    The equations, units and signs are those of `diffcr.trajectory.integrate`, for which this is the reference. |n| is
    kept only to the tolerance: its departure from 1 is a measure of the error.

    Args:
        field: B(x), from (3, particle) to (3, particle).
        position: Starting points, shape (3, particle).
        direction: Unit vectors of motion, shape (3, particle).
        larmor_radius: In a field of one unit, with the sign of the charge.
        times: Increasing path lengths > 0 at which to give the paths, shape (sample,).
        tolerance: Relative and absolute tolerance of the local error.
        solver: "tsit5", "dopri8" or "midpoint".
        max_steps: Most steps of one particle.

    Returns:
        Positions and directions at the times.

    Raises:
        ImportError: Without diffrax (extra `trajectories`).
        InputError: If times do not increase from above zero, or the solver is unknown.
        RuntimeError: If a particle needs more than max_steps.
    """
    try:
        import diffrax
    except ImportError:
        raise ImportError("adaptive paths need diffrax: pip install 'diffcr[trajectories]'") from None

    solvers = {"tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8, "midpoint": diffrax.Midpoint}
    if solver not in solvers:
        raise InputError(f"solver must be one of {', '.join(solvers)}, not {solver!r}")
    times = np.asarray(times, float)
    if times.ndim != 1 or times.size == 0 or not (times[0] > 0 and np.all(np.diff(times) > 0)):
        raise InputError("times of an adaptive path must increase from above 0")

    def velocity(_, state, arguments):
        field, larmor_radius = arguments
        x, n = state
        return n, jnp.cross(n, field(x[:, None])[:, 0] / larmor_radius)

    @eqx.filter_jit
    def solve(field, larmor_radius, position, direction):
        def one(x, n):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                solvers[solver](),
                0.0,
                times[-1],
                None,
                (x, n),
                args=(field, larmor_radius),
                saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
                max_steps=max_steps,
            )
            return solution.ys

        return jax.vmap(one, in_axes=1, out_axes=2)(position, direction)

    direction = jnp.asarray(direction, float)
    position = jnp.broadcast_to(jnp.asarray(position, float), direction.shape)
    return solve(field, jnp.asarray(larmor_radius, float), position, direction)
