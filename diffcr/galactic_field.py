r"""A regular field of the Galaxy in closed form: a bisymmetric spiral in the disc and a toroidal halo.

With the Galactocentric radius r, the azimuth theta from the Sun towards l = 90 degrees (clockwise seen from the north
Galactic pole) and the height z, the disc of Pshirkov et al. is a logarithmic spiral of pitch p,

$$ B_r = B \sin p, \quad B_\theta = B \cos p, \quad
   B = B_0 \frac{R}{r \cos\phi} \cos\left(\theta - \frac{\ln(r / R)}{\tan p} + \phi\right) e^{-|z| / h}, \quad
   \phi = \frac{\ln(1 + D / R)}{\tan p} - \frac{\pi}{2}, $$

for r above the core's radius r_c; the field turns its sign at r = R + D on the line from the Sun to the centre. It is
$B_r = \partial_\theta \psi / r$, $B_\theta = - \partial_r \psi$ with
$\psi = B_0 R \sin p / \cos\phi\, \sin(\ldots)\, e^{-|z| / h}$. In the core, where the publication keeps B constant and
so not divergence-free, psi is multiplied here by $3 t^2 - 2 t^3$, t = r / r_c: the field is continuous, vanishes at the
centre, and is divergence-free everywhere. The halo is a ring on each side,

$$ B_{\rm anticlockwise} = \pm B_{N, S} \frac{r}{r_h} e^{1 - r / r_h}
   \left[1 + \left(\frac{|z| - z_h}{z_1}\right)^2\right]^{-1}, $$

with the upper sign in the north, and z_1 smaller below z_h than above.

Positions are Galactic Cartesian from the Sun, as those of `diffcr.source`: x to the Galactic centre, y to l = 90
degrees, z to the north pole [pc]; fields along these axes in muG.

References:
    Pshirkov, Tinyakov, Kronberg & Newton-McGee (2011), ApJ 738, 192, model "BSS" and its halo. The numbers were
    compared with those of the public program CRPropa. Sun et al. (2008), A&A 477, 573, for the shape of the halo.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .disc import SUN_RADIUS
from .units import DEGREE, KPC

GALACTIC_RADIUS = 20 * KPC
"""Where the Galaxy may be taken to end, from its centre [pc]: the disc's field falls as 1 / r and has no edge."""


class SpiralDisc(eqx.Module):
    """Bisymmetric spiral in the disc; see the top of this module.

    Attributes:
        strength: B_0, field at the Sun [muG]. It points to l = 90 degrees + pitch.
        pitch: p [rad]; negative for trailing spirals.
        reversal: D, distance from the Sun to the first reversal, negative towards the centre [pc].
        core: r_c [pc].
        height: h [pc].
        sun_radius: R [pc].
    """

    strength: float | Float[Array, ""] = 2.0
    pitch: float | Float[Array, ""] = -6 * DEGREE
    reversal: float | Float[Array, ""] = -0.6 * KPC
    core: float | Float[Array, ""] = 5 * KPC
    height: float | Float[Array, ""] = 1 * KPC
    sun_radius: float | Float[Array, ""] = SUN_RADIUS

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        x, y, z = position[0] - self.sun_radius, position[1], position[2]
        r2 = x * x + y * y
        r = jnp.sqrt(jnp.where(r2 > 0, r2, 1.0))
        t = jnp.clip(r / self.core, 0.0, 1.0)
        share, slope = t * t * (3 - 2 * t), 6 * t * t * (1 - t)
        winding = 1 / jnp.tan(self.pitch)
        offset = winding * jnp.log1p(self.reversal / self.sun_radius) - math.pi / 2
        # At the centre itself the field vanishes, and the azimuth does not matter.
        azimuth = jnp.arctan2(y, jnp.where(r2 > 0, -x, 1.0))
        phase = azimuth - winding * jnp.log(r / self.sun_radius) + offset
        size = self.strength * self.sun_radius / jnp.cos(offset) * jnp.exp(-jnp.abs(z) / self.height) / r
        radial = size * jnp.sin(self.pitch) * share * jnp.cos(phase)
        turning = size * (jnp.cos(self.pitch) * share * jnp.cos(phase) - jnp.sin(self.pitch) * slope * jnp.sin(phase))
        return jnp.stack([radial * x + turning * y, radial * y - turning * x, jnp.zeros_like(z)]) / r


class ToroidalHalo(eqx.Module):
    """Rings of field above and below the disc; see the top of this module.

    Attributes:
        north: B_N, largest field of the north, anticlockwise seen from the north pole [muG].
        south: B_S, largest field of the south, clockwise [muG].
        radius: r_h [pc].
        height: z_h [pc].
        below: z_1 for |z| < z_h [pc].
        above: z_1 for |z| > z_h [pc].
        sun_radius: R [pc].
    """

    north: float | Float[Array, ""] = 4.0
    south: float | Float[Array, ""] = 4.0
    radius: float | Float[Array, ""] = 8 * KPC
    height: float | Float[Array, ""] = 1.3 * KPC
    below: float | Float[Array, ""] = 0.25 * KPC
    above: float | Float[Array, ""] = 0.4 * KPC
    sun_radius: float | Float[Array, ""] = SUN_RADIUS

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        x, y, z = position[0] - self.sun_radius, position[1], position[2]
        r2 = x * x + y * y
        r = jnp.sqrt(jnp.where(r2 > 0, r2, 1.0))
        away = jnp.abs(z) - self.height
        profile = 1 / (1 + (away / jnp.where(away < 0, self.below, self.above)) ** 2)
        over_r = jnp.where(z > 0, self.north, -self.south) / self.radius * jnp.exp(1 - r / self.radius) * profile
        return jnp.stack([-over_r * y, over_r * x, jnp.zeros_like(z)])


class GalacticField(eqx.Module):
    """Spiral disc and toroidal halo together, with the published numbers by default.

    Attributes:
        disc: `SpiralDisc`.
        halo: `ToroidalHalo`, or None for none.
    """

    disc: SpiralDisc = SpiralDisc()
    halo: ToroidalHalo | None = ToroidalHalo()

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        """B at Galactic Cartesian positions from the Sun [pc], shape (3, particle), in muG along the same axes."""
        field = self.disc(position)
        return field if self.halo is None else field + self.halo(position)
