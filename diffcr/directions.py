"""Directions of particles at a point and through a surface, such that no dipole arises from the sampling."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .errors import InputError


def isotropic_directions(key: Array, number: int, dtype=None) -> Float[Array, "3 particle"]:
    """Unit vectors uniform over the sphere.

    A density of particles that is the same everywhere and isotropic stays so in any magnetic field (Liouville), so
    directions at a *point* are drawn like this, backwards or forwards. Through a *surface* particles pass in
    proportion to the cosine of their angle to it: see `surface_directions`. Mixing up the two makes a dipole.
    """
    vector = jax.random.normal(key, (3, number), dtype or float)
    return vector / jnp.linalg.norm(vector, axis=0)


def surface_directions(key: Array, normal: Float[ArrayLike, "3 particle"]) -> Float[Array, "3 particle"]:
    """Unit vectors of isotropic particles that cross a surface along its normals: density cos(angle) / pi.

    Args:
        key: Key of jax.random.
        normal: Unit normals, pointing to the side to which the particles go, shape (3, particle).
    """
    normal = jnp.asarray(normal, float)
    # A point uniform on the unit sphere around the tip of the normal.
    vector = normal + isotropic_directions(key, normal.shape[1], normal.dtype)
    return vector / jnp.linalg.norm(vector, axis=0)


def healpix_directions(nside: int) -> Float[np.ndarray, "3 pixel"]:
    """Unit vectors of the centres of HEALPix pixels, RING order.

    Raises:
        InputError: If nside is not a power of two.
    """
    import healpy

    if isinstance(nside, bool) or not isinstance(nside, int | np.integer) or not healpy.isnsideok(nside, nest=True):
        raise InputError(f"nside must be a power of two from 1 on, not {nside!r}")
    return np.stack(healpy.pix2vec(int(nside), np.arange(healpy.nside2npix(int(nside)))))
