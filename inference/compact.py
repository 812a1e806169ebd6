r"""The band-limited likelihood with few nodes per ring in place of every cell, equal to rounding.

The second-order terms are sums over cells of n (x - ln(1 + x)), where x along a ring is a trigonometric
polynomial of degree l_max. Weights at equidistant nodes that have the same Fourier modes as the counts up to
order M give the same sum for every power x^k with k l_max <= M, so what is lost is at most N b^(K+1) / (K+1)
with K = M // l_max and b the largest |x|. For a dipole of a part in a thousand, 18 nodes replace 360 cells.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from .multipoles import Block

LOST = 1e-4
"""Most that the nodes may lose of ln L."""


def fewest_nodes(n: int, l_max: int, events: float, contrast: float) -> int:
    """The smallest divisor of n that keeps ln L to `LOST`; n itself where none does.

    Args:
        n: Cells per ring.
        l_max: Highest degree of the sky.
        events: Number of events.
        contrast: Largest |x| to be met.
    """
    for nodes in (d for d in range(1, n) if n % d == 0 and (d - 1) // 2 >= 4 * l_max):
        power = (nodes - 1) // 2 // l_max
        if contrast < 1 and np.log(events / (power + 1)) + (power + 1) * np.log(contrast) < np.log(LOST):
            return nodes
    return n


def compact(block: Block, nodes: int, sky_angle: np.ndarray, local_angle: np.ndarray) -> Block:
    """The same block on `nodes` equidistant nodes per ring.

    Args:
        block: On all n cells of each ring.
        nodes: A divisor of n; n returns the block itself.
        sky_angle: Right ascension of the cells' centres, shape (n,); local_angle: hour angle alike.
    """
    n = len(sky_angle)
    if nodes == n:
        return block
    half = (nodes - 1) // 2
    place = 2 * np.pi * np.arange(nodes) / nodes
    m = np.arange(1, half + 1)

    def spread(angle):
        """Weights at the nodes (node, cell) with the Fourier modes of unit counts at each cell."""
        return (1 + 2 * np.cos(m * (place[:, None, None] - angle[:, None])).sum(-1)) / nodes

    to_sky, to_local = spread(sky_angle).T, spread(local_angle).T
    near = np.abs(np.angle(np.exp(1j * (place[:, None] - sky_angle)))) <= np.pi / nodes + 1e-9
    orders = np.arange(block.modes.sky_cosine.shape[0])
    used = orders if np.allclose(block.modes.sky_cosine[0], 1) else orders + 1
    angle = np.outer(used, place)
    data = dataclasses.replace(
        block.data,
        sky=block.data.sky @ to_sky,
        local=block.data.local @ to_local,
        residual=block.data.residual @ to_sky,
        background=((block.data.background > 0).astype(float) @ near.T > 0).astype(block.data.background.dtype),
    )
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    modes = dataclasses.replace(block.modes, sky_cosine=cosine, sky_sine=sine, local_cosine=cosine, local_sine=sine)
    return dataclasses.replace(block, data=data, modes=modes)
