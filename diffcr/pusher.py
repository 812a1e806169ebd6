"""One step along the path of a charged particle: a drift, a rotation about the magnetic field, a drift."""

import math
from typing import Literal

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .turbulence import Field

Method = Literal["boris-tan", "boris", "rodrigues"]


def boris_step(
    field: Field,
    position: Float[Array, "3 particle"],
    direction: Float[Array, "3 particle"],
    larmor_radius: Real[ArrayLike, ""],
    step: Real[ArrayLike, ""],
    method: Method = "boris-tan",
) -> tuple[Float[Array, "3 particle"], Float[Array, "3 particle"]]:
    r"""Half a drift, a rotation about the field there, half a drift: second order, and reversible.

    Rotation by theta = |B| dt / r_L is $n' = n + n \times t$, $n \to n + \frac{2}{1 + t^2}\, n' \times t$ with
    t along B. With $|t| = \theta / 2$ (Boris) the gyrophase lags by $\theta^2 / 12$ of itself; with
    $|t| = \tan(\theta / 2)$ ("boris-tan", by its series) it is exact in a uniform field, as "rodrigues" is.

    Args:
        field: B(x).
        position: x, shape (3, particle).
        direction: Unit vectors n of motion, shape (3, particle).
        larmor_radius: Of a field of one unit, with the sign of the charge.
        step: Path length of the step.
        method: Of rotation.

    Returns:
        Position and direction after the step. The direction is renormalised to first order in its error,
        so that |n| stays 1 to rounding however long the path.

    References:
        Boris (1970), Proc. 4th Conf. Num. Sim. Plasmas, 3; Birdsall & Langdon (1985), section 4.4.
    """
    half = 0.5 * step
    middle = position + half * direction
    turn = checkpoint_name(field(middle).astype(middle.dtype), "field") * (half / larmor_radius)
    direction = _rotate(direction, turn, method)
    direction = direction * (1.5 - 0.5 * jnp.sum(direction * direction, axis=0))
    return middle + half * direction, direction


def _rotate(direction, half_turn, method: Method):
    """Rotate about the field by twice the vector `half_turn`, left-handed."""
    square = jnp.sum(half_turn * half_turn, axis=0)
    if method == "rodrigues":
        angle = 2 * jnp.sqrt(square)
        along = jnp.sinc(angle / math.pi)
        across = 0.5 * jnp.sinc(0.5 * angle / math.pi) ** 2
        first = _cross(direction, 2 * half_turn)
        return direction + along * first + across * _cross(first, 2 * half_turn)
    if method == "boris-tan":
        # tan(x) / x, to 1e-9 at a half angle of 0.1 and 3e-4 at 0.5.
        series = 1 + square * (1 / 3 + square * (2 / 15 + square * (17 / 315 + square * (62 / 2835))))
        half_turn = half_turn * series
        square = square * series * series
    first = direction + _cross(direction, half_turn)
    return direction + _cross(first, half_turn) * (2 / (1 + square))


def _cross(a, b):
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
