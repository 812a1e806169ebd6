"""Diffusion along and across the magnetic field, and the dipole that a density gradient drives.

Units have c = 1: the diffusion coefficients here are K / c, lengths, and rates are over c, inverse lengths.
In the package's units (pc, yr) a coefficient in pc^2 / yr, or a rate per yr, is divided by `SPEED_OF_LIGHT`;
3e28 cm^2/s is `3e28 * CM**2 / SECOND / SPEED_OF_LIGHT` = 0.324 pc. Gradients of log density are in 1 / pc.

A field enters as a unit vector B along the same axes as the gradient. Nothing normalises it here, and in a
trace nothing can check it: `require_field` does so where a field comes in.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError, is_known

_LEVI_CIVITA = np.array(
    [
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]],
        [[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    ]
)


# The diffusion tensor -----------------------------------------------------------------------------------


def diffusion_tensor(
    parallel: Float[ArrayLike, "..."],
    perpendicular: Float[ArrayLike, "..."],
    antisymmetric: Float[ArrayLike, "..."],
    field: Float[ArrayLike, "... 3"],
) -> Float[Array, "... 3 3"]:
    r"""Diffusion tensor of a plasma that is symmetric about its magnetic field.

    $$ K_{ij} = \kappa_\parallel B_i B_j + \kappa_\perp (\delta_{ij} - B_i B_j) + \kappa_A \epsilon_{ijk} B_k, $$

    so K_xy = +kappa_A for B along z, and the flux -K grad n has the part -kappa_A grad n x B. Reversing
    (B, kappa_A) together changes nothing; reversing one of them transposes K.

    Args:
        parallel: kappa_parallel [length].
        perpendicular: kappa_perp [length].
        antisymmetric: kappa_A [length], of either sign; positive for positive charges scattered as in `bgk_tensor`.
        field: Unit vectors B. The leading axes of all four are broadcast together.

    References:
        Jokipii (1971), Rev. Geophys. Space Phys. 9, 27.
    """
    parallel, perpendicular, antisymmetric = (
        jnp.asarray(each)[..., None, None] for each in (parallel, perpendicular, antisymmetric)
    )
    field = jnp.asarray(field)
    along = field[..., :, None] * field[..., None, :]
    around = jnp.einsum("ijk,...k->...ij", _LEVI_CIVITA, field)
    return parallel * along + perpendicular * (jnp.eye(3) - along) + antisymmetric * around


def bgk_tensor(
    collision_rate: Float[ArrayLike, "..."],
    gyrofrequency: Float[ArrayLike, "..."],
    field: Float[ArrayLike, "... 3"],
    speed: Float[ArrayLike, "..."] = 1.0,
) -> Float[Array, "... 3 3"]:
    r"""Diffusion tensor of particles that gyrate, and forget their direction at a constant rate nu.

    $$ \kappa_\parallel = \beta^2 / (3 \nu), \qquad \kappa_\perp = \kappa_\parallel / (1 + g^2), \qquad
       \kappa_A = \kappa_\parallel\, g / (1 + g^2), \qquad g = \Omega / \nu. $$

    Args:
        collision_rate: nu, over c [1 / length]; above 0.
        gyrofrequency: Omega = q B / (gamma m), over c [1 / length], negative for negative charges:
            speed / r_L, with the Larmor radius r_L = `LARMOR_RADIUS` * rigidity / field strength.
        field: Unit vectors B. The leading axes of all four are broadcast together.
        speed: beta [c].

    References:
        Bhatnagar, Gross & Krook (1954), Phys. Rev. 94, 511.
    """
    collision_rate, gyrofrequency = jnp.asarray(collision_rate), jnp.asarray(gyrofrequency)
    parallel = jnp.asarray(speed) ** 2 / (3 * collision_rate)
    perpendicular, antisymmetric = bgk_ratios(gyrofrequency / collision_rate)
    return diffusion_tensor(parallel, perpendicular * parallel, antisymmetric * parallel, field)


def bgk_ratios(gyration_ratio: Float[ArrayLike, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """kappa_perp and kappa_A, each over kappa_parallel: 1 / (1 + g^2) and g / (1 + g^2) for g = Omega / nu.

    The dipole's angle from the field has the tangent of the gradient's over sqrt(1 + g^2): a gradient
    68 degrees off the field makes a dipole 38, 14 and 1.4 degrees off it for g = 3, 10 and 100.
    """
    gyration_ratio = jnp.asarray(gyration_ratio)
    perpendicular = 1 / (1 + gyration_ratio**2)
    return perpendicular, gyration_ratio * perpendicular


def require_field(vector) -> Float[Array, "3"]:
    """Unit vector along a magnetic field given as three numbers of any common unit.

    Raises:
        InputError: If they are not three finite numbers, or all are zero. A traced vector has no values
            to check, and is normalised as it is.
    """
    if not is_known(vector):
        return vector / jnp.linalg.norm(vector)
    remedy = "give a vector along the field, such as sky.unit_vector(longitude, latitude)"
    values = _numbers("a magnetic field", vector, remedy)
    if values.shape != (3,):
        raise InputError(f"a magnetic field must have three components, not the shape {values.shape}: {remedy}")
    if not (np.all(np.isfinite(values)) and np.any(values)):
        raise InputError(f"a magnetic field must be finite and not zero, not {values.tolist()}: {remedy}")
    # Divided twice, so that squares neither overflow nor vanish.
    values = values / np.max(np.abs(values))
    return jnp.asarray(values / np.linalg.norm(values))


def require_tensor(
    parallel, perpendicular, antisymmetric, allow_perpendicular: bool = False
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """The three coefficients of `diffusion_tensor` [length], in its order, where they make a diffusion tensor.

    Args:
        parallel: kappa_parallel; above 0.
        perpendicular: kappa_perp; not negative, and not above kappa_parallel.
        antisymmetric: kappa_A, of either sign.
        allow_perpendicular: Let kappa_perp be above kappa_parallel.

    Raises:
        InputError: If a coefficient is not finite or out of these bounds, or if the shapes do not broadcast.
            Traced coefficients have no values to check, and pass together with the others.
    """
    given = {"parallel": parallel, "perpendicular": perpendicular, "antisymmetric": antisymmetric}
    if not all(is_known(value) for value in given.values()):
        return tuple(jnp.asarray(value) for value in given.values())
    remedy = "give diffusion coefficients over c, lengths in pc"
    values = {name: _numbers(f"the {name} diffusion coefficient", value, remedy) for name, value in given.items()}
    for name, value in values.items():
        _require_all(np.isfinite(value), value, f"the {name} diffusion coefficient must be finite", remedy)
    _require_all(
        values["parallel"] > 0,
        values["parallel"],
        "the parallel diffusion coefficient must be above zero",
        "the sign of the drifts is that of the antisymmetric one",
    )
    _require_all(
        values["perpendicular"] >= 0,
        values["perpendicular"],
        "the perpendicular diffusion coefficient must not be negative",
        "zero leaves diffusion along the field alone",
    )
    try:
        broadcast = np.broadcast_arrays(*values.values())
    except ValueError:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items())
        raise InputError(
            f"diffusion coefficients of these shapes do not belong together: {shapes}; "
            "give each as one number or with the same axes"
        ) from None
    if not allow_perpendicular:
        _require_all(
            broadcast[1] <= broadcast[0],
            broadcast[1],
            "the perpendicular diffusion coefficient must not be above the parallel one",
            "check their order, or pass allow_perpendicular=True",
        )
    return tuple(jnp.asarray(value) for value in values.values())


# The dipole ---------------------------------------------------------------------------------------------


def fick_dipole(
    tensor: Float[ArrayLike, "... 3 3"],
    gradient: Float[ArrayLike, "... 3"],
    speed: Float[ArrayLike, "..."] = 1.0,
) -> Float[Array, "... 3"]:
    r"""Dipole on the sky that diffusion down a density gradient makes (Fick's law).

    $$ \delta = \frac{3}{\beta} K \frac{\nabla n}{n} $$

    The vector points to where the excess *comes from*: particles flow down the gradient, so for isotropic K
    it points up the gradient, to the source. With kappa_A there is the part 3 kappa_A (grad n x B) / n.

    K is the local tensor. Where `gradient` comes from diffusion with the same homogeneous tensor and
    kappa_A = 0, the dipole of a burst points at the source however anisotropic K is; it turns to the field
    only where the density was made by another tensor, that of scales above the field's coherence length.

    Args:
        tensor: K [length], from `diffusion_tensor` or `bgk_tensor`.
        gradient: grad n / n [1 / length], along the axes of the field.
        speed: beta of the particles [c].

    Returns:
        delta, dimensionless, in the plasma frame, along the axes of `gradient`. Diffusion holds for
        |delta| well below 1.
    """
    tensor, gradient = jnp.asarray(tensor), jnp.asarray(gradient)
    return 3 * jnp.sum(tensor * gradient[..., None, :], axis=-1) / jnp.asarray(speed)[..., None]


def projected_dipole(
    parallel: Float[ArrayLike, "..."],
    gradient: Float[ArrayLike, "... 3"],
    field: Float[ArrayLike, "... 3"],
) -> Float[Array, "... 3"]:
    """`fick_dipole` where particles diffuse along the field alone: 3 kappa_parallel (B . grad n / n) B.

    It lies along the field, on the side that sees the source, and B and -B give the same.

    Args:
        parallel: kappa_parallel [length].
        gradient: grad n / n [1 / length], along the axes of the field.
        field: Unit vectors B. The leading axes of all three are broadcast together.
    """
    gradient, field = jnp.asarray(gradient), jnp.asarray(field)
    along = jnp.sum(gradient * field, axis=-1, keepdims=True)
    return 3 * jnp.asarray(parallel)[..., None] * along * field


# Helpers ------------------------------------------------------------------------------------------------


def _numbers(what: str, value, remedy: str) -> np.ndarray:
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be made of numbers, not {value!r}: {remedy}") from None


def _require_all(good: np.ndarray | np.bool, value: np.ndarray, what: str, remedy: str) -> None:
    if not np.all(good):
        raise InputError(f"{what}, not {value.flat[np.argmin(good)]:g}: {remedy}")
