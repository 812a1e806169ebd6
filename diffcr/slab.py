"""Diffusion between two planes that absorb: the one-dimensional Green's function, as an accurate logarithm.

Lengths are over H, the distance of either plane from the middle, and times over H^2 / K.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_CROSSOVER = 0.3
"""Below this time the sum is over images, above it over eigenfunctions: nowhere is it short of rounding."""

_WAVENUMBER = jnp.pi / 2
_MODES = 7
_FIRST = ("z", "s", "t")
_SECOND = ("zz", "zs", "ss", "zt", "st", "tt")


def log_slab_density(
    place: Float[ArrayLike, "..."], source: Float[ArrayLike, "..."], time: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    r"""Log density at `place` of one particle set free at `source` a `time` ago, both between planes at -1 and 1.

    $$ g = (4 \pi t)^{-1/2} \sum_n (-1)^n \exp(-(z - 2 n - (-1)^n z_s)^2 / 4 t)
         = \sum_{m > 0} \sin\frac{m \pi (z + 1)}{2} \sin\frac{m \pi (z_s + 1)}{2} \exp(-(m \pi / 2)^2 t) $$

    The images are summed before t = 0.3, the eigenfunctions after, each over its leading exponential, which is added
    as a logarithm: ln g is right to rounding however small g is, and near the planes, where g vanishes.

    Args:
        place: z; within (-1, 1).
        source: z_s; within (-1, 1).
        time: t; above 0.

    References:
        Carslaw & Jaeger (1959), Conduction of Heat in Solids, section 14.3.
    """
    place, source, time = (jnp.asarray(each) for each in (place, source, time))
    early, before, after = _split(time)
    images = -((place - source) ** 2) / (4 * before) - jnp.log(4 * jnp.pi * before) / 2
    return jnp.where(early, images, -(_WAVENUMBER**2) * after) + _log_sum(place, source, time)


def short_log_slab_density(
    place: Float[ArrayLike, "..."], source: Float[ArrayLike, "..."], time: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """`log_slab_density` for few sources: the same sums over an axis of their own, a tenth of the program to compile.

    Its terms are differentiated as they stand. It is right to rounding but for places within a thousandth of H of a
    plane, where the terms cancel and digits are lost as H over the distance.
    """
    place, source, time = (jnp.asarray(each) for each in (place, source, time))
    early, before, after = _split(time)
    order = np.arange(-4, 5)
    sign = np.where(order % 2 == 0, 1.0, -1.0)
    image = 2 * order + sign * source[..., None]
    further = (place[..., None] - image) ** 2 - ((place - source) ** 2)[..., None]
    images = jnp.sum(sign * jnp.exp(-further / (4 * before[..., None])), axis=-1)
    wave = _WAVENUMBER * np.arange(1, _MODES + 1)
    sines = jnp.sin(wave * (place[..., None] + 1)) * jnp.sin(wave * (source[..., None] + 1))
    modes = jnp.sum(sines * jnp.exp((wave[0] ** 2 - wave**2) * after[..., None]), axis=-1)
    leading = jnp.where(
        early,
        -((place - source) ** 2) / (4 * before) - jnp.log(4 * jnp.pi * before) / 2,
        -(wave[0] ** 2) * after,
    )
    return leading + jnp.log(jnp.where(early, images, modes))


# Differentiating the sums twice (a gradient, and that with respect to the diffusion coefficient) makes code ten
# times slower than the derivatives written out, which are sums of the same terms.


@jax.custom_jvp
def _log_sum(z, s, t):
    """ln of the sum over its leading exponential."""
    return jnp.log(_sums(z, s, t, ())[0])


@jax.custom_jvp
def _slopes(z, s, t):
    """First derivatives of `_log_sum`."""
    total, *first = _sums(z, s, t, _FIRST)
    return tuple(each / total for each in first)


@partial(_log_sum.defjvp, symbolic_zeros=True)
def _log_sum_jvp(values, tangents):
    return _log_sum(*values), _along(_slopes(*values), tangents)


@partial(_slopes.defjvp, symbolic_zeros=True)
def _slopes_jvp(values, tangents):
    total, *second = _sums(*values, _SECOND)
    slopes = dict(zip(_FIRST, _slopes(*values), strict=True))
    second = {
        name: each / total - slopes[name[0]] * slopes[name[1]] for name, each in zip(_SECOND, second, strict=True)
    }
    rows = (("zz", "zs", "zt"), ("zs", "ss", "st"), ("zt", "st", "tt"))
    return tuple(slopes.values()), tuple(_along([second[name] for name in row], tangents) for row in rows)


def _along(derivatives, tangents):
    moving = [d * t for d, t in zip(derivatives, tangents, strict=True) if not isinstance(t, SymbolicZero)]
    return sum(moving) if moving else jnp.zeros_like(derivatives[0])


def _split(t):
    early = t < _CROSSOVER
    return early, jnp.where(early, t, _CROSSOVER), jnp.where(early, _CROSSOVER, t)


def _sums(z, s, t, names):
    """The sum, and those of its derivatives that are named, over the leading exponential."""
    z, s, t = jnp.broadcast_arrays(z, s, t)

    def late(z, s, t):
        return _mode_sums(z, s, t, ("", *names))

    def mixed(z, s, t):
        early, before, after = _split(t)
        images = (_image_sum(z, s, before), *_image_sums(z, s, before, names))
        return [jnp.where(early, *both) for both in zip(images, late(z, s, after), strict=True)]

    # Most supernovae are old: sources that come in the order of their age need images in the first steps alone.
    return jax.lax.cond(jnp.min(t) >= _CROSSOVER, late, mixed, z, s, t)


def _exponentials(z, s, t):
    """exp(-x) and 1 - exp(-x) of the four exponents that those of all images are sums of."""
    exponents = (1 - z) * (1 - s), (1 + z) * (1 + s), 2 * (1 - z) * (1 + s), 2 * (1 + z) * (1 - s)
    rate = -1 / t
    differences = [-jnp.expm1(each * rate) for each in exponents]
    return [1 - each for each in differences], differences


def _image_sum(z, s, t):
    """Images n = -4 to 4, paired to products that vanish on a plane, where the terms themselves cancel."""
    (a, b, c, d), (not_a, not_b, not_c, not_d) = _exponentials(z, s, t)
    ab, cd = a * b, c * d
    even = 1 + ab * cd * (1 + a + a * a) * (1 + b + b * b)
    odd = ab * (1 + ab * ab * ab * cd * (1 + c) * (1 + d))
    return not_a * not_b * even - not_c * not_d * odd


def _image_sums(z, s, t, names):
    """Derivatives of the sum of images n = -4 to 4: an image is (-1)^n exp(-X_n / t), with X_0 = 0."""
    (a, b, c, d), _ = _exponentials(z, s, t)
    ab, cd, rate = a * b, c * d, 1 / t
    three, four = ab * cd, ab * ab * ab * ab * cd
    images = {1: -a, -1: -b, 2: ab * c, -2: ab * d, 3: -three * a * a * a, -3: -three * b * b * b}
    images |= {4: four * c * c, -4: four * d * d}
    sums = [0.0] * len(names)
    for n, image in images.items():
        odd = n % 2
        by_z, by_s, by_t = (n - s, n - z, (n - z) * (n - s)) if odd else (n, -n, n * n - n * (z - s))
        by_z, by_s, by_t = by_z * rate, by_s * rate, by_t * rate * rate
        terms = {
            "z": by_z,
            "s": by_s,
            "t": by_t,
            "zz": by_z * by_z,
            "zs": by_z * by_s - odd * rate,
            "ss": by_s * by_s,
            "zt": by_z * (by_t - rate),
            "st": by_s * (by_t - rate),
            "tt": by_t * (by_t - 2 * rate),
        }
        sums = [total + image * terms[name] for total, name in zip(sums, names, strict=True)]
    return sums


def _mode_sums(z, s, t, names):
    """Eigenfunctions m = 1 to 7 and their derivatives over exp(-(pi / 2)^2 t), by recurrence in m."""
    (sine, cosine), (sine_s, cosine_s) = _angle(z), _angle(s)
    turn, turn_s = 2 * cosine, 2 * cosine_s
    before, before_s = (jnp.zeros_like(sine), jnp.ones_like(cosine)), (jnp.zeros_like(sine_s), jnp.ones_like(cosine_s))
    now, now_s = (sine, cosine), (sine_s, cosine_s)
    # exp(-(pi / 2)^2 (m^2 - 1) t) by multiplication: m^2 - 1 grows by 3, 5, 7 ... The compiler would make a product
    # of `exp` one `exp` each again.
    decay = 1 + jnp.expm1(-(_WAVENUMBER**2) * t)
    weight, step = 1.0, decay
    sums = [0.0] * len(names)
    for m in range(1, _MODES + 1):
        k = m * _WAVENUMBER
        rate = (1 - m**2) * _WAVENUMBER**2
        (sin, cos), (sin_s, cos_s) = now, now_s
        terms = {
            "": sin * sin_s,
            "z": k * cos * sin_s,
            "s": k * sin * cos_s,
            "t": rate * sin * sin_s,
            "zz": -(k**2) * sin * sin_s,
            "zs": k**2 * cos * cos_s,
            "ss": -(k**2) * sin * sin_s,
            "zt": rate * k * cos * sin_s,
            "st": rate * k * sin * cos_s,
            "tt": rate**2 * sin * sin_s,
        }
        sums = [total + weight * terms[name] for total, name in zip(sums, names, strict=True)]
        step = step * decay * decay
        weight = weight * step
        before, now = now, tuple(turn * x - y for x, y in zip(now, before, strict=True))
        before_s, now_s = now_s, tuple(turn_s * x - y for x, y in zip(now_s, before_s, strict=True))
    return sums


def _angle(x):
    """Sine, right to rounding near the planes where it vanishes, and cosine of pi (x + 1) / 2."""
    return jnp.sin(_WAVENUMBER * (1 - jnp.abs(x))), -jnp.sin(_WAVENUMBER * x)
