r"""What becomes of an angular power spectrum C_l: windows of finite resolution, cut skies, noise, and its scatter.

Fields are relative intensities, C_l the variance of one multipole (`harmonics.power_spectrum`), from l = 0 on, where
C_0 is zero for a field that has no monopole. The correlation at separation eta is `harmonics.two_point`.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .typing import AnyArray


def sky_variance(power: Real[AnyArray, "*batch l"]) -> Float[Array, "*batch"]:
    r"""Mean square of the field over the sky, $\xi(0) = \frac{1}{4\pi} \sum_l (2l + 1) C_l$.

    Args:
        power: C_l from l = 0. With C_0 = 0 it is the variance about the mean.
    """
    return jnp.asarray(power, float) @ (2 * np.arange(power.shape[-1]) + 1.0) / (4 * jnp.pi)


# Finite resolution --------------------------------------------------------------------------------------------


def gaussian_beam(sigma: Real[ArrayLike, ""], l_max: int) -> Float[Array, " l"]:
    r"""Window $b_l = e^{-l (l + 1) \sigma^2 / 2}$: scatter by diffusion on the sphere, a Gaussian where it is narrow.

    Args:
        sigma: Width per axis [rad]; the mean square angle of scatter is 2 sigma^2.
        l_max: Highest degree.

    Raises:
        InputError: If a known sigma is negative or not finite, or l_max is negative.
    """
    if is_known(sigma) and not 0 <= sigma < np.inf:
        raise InputError(f"the width of a Gaussian beam must be finite and not negative, not {sigma}: give radians")
    l = jnp.arange(_degrees(l_max), dtype=float)
    return jnp.exp(-l * (l + 1) * sigma**2 / 2)


def disc_window(radius: Real[ArrayLike, ""], l_max: int) -> Float[Array, " l"]:
    r"""Window of means over discs,

    $$ b_l = \frac{1}{1 - x} \int_x^1 P_l(y)\, dy
           = (1 + x) \frac{P_l'(x)}{l (l + 1)}, \qquad x = \cos r, \quad b_0 = 1. $$

    Args:
        radius: Radius r of the disc [rad], in [0, pi].
        l_max: Highest degree.

    Raises:
        InputError: If a known radius is out of range, or l_max is negative.
    """
    if is_known(radius) and not 0 <= radius <= np.pi:
        raise InputError(f"the radius of a disc on the sky must be from 0 to pi, not {radius}: give radians")
    count = _degrees(l_max)
    x = jnp.cos(jnp.asarray(radius, float))
    l = np.arange(1.0, count)
    return jnp.concatenate([jnp.ones(1), (1 + x) * _legendre(x, count)[1][1:] / (l * (l + 1))])


def profile_window(
    profile: Callable[[Float[Array, " node"]], Float[Array, " node"]],
    l_max: int,
    reach: Real[ArrayLike, ""] = np.pi,
) -> Float[Array, " l"]:
    r"""Window of any axially symmetric point spread p,

    $$ b_l = \int p\, P_l(\cos\theta) \sin\theta\, d\theta \Big/ \int p \sin\theta\, d\theta. $$

    By Gauss-Legendre quadrature in theta, exact to rounding for profiles smooth within their reach; it can be
    differentiated in what the profile closes over.

    Args:
        profile: p per solid angle at angles theta [rad], vectorised, of any normalisation; not negative.
        l_max: Highest degree.
        reach: Beyond this angle p counts as zero; some ten widths for a narrow profile.

    Raises:
        InputError: If a known reach is not in (0, pi], known values of the profile are negative, not finite or all
            zero, or l_max is negative.
    """
    if is_known(reach) and not 0 < reach <= np.pi:
        raise InputError(f"a point spread must reach to an angle in (0, pi], not {reach}: give radians")
    count = _degrees(l_max)
    node, weight = _gauss(256 + l_max)
    theta = reach * (node + 1) / 2
    values = jnp.broadcast_to(jnp.asarray(profile(theta), float), theta.shape)
    if is_known(values) and not (np.all(np.isfinite(values)) and np.min(values) >= 0 < np.max(values)):
        raise InputError(
            "a point spread must be finite, not negative and somewhere above zero within its reach: "
            "give a density per solid angle at angles in radians"
        )
    mass = weight * values * jnp.sin(theta)
    return _legendre(jnp.cos(theta), count)[0] @ mass / jnp.sum(mass)


def smoothed_power(power: Real[AnyArray, "*batch l"], window: Real[AnyArray, " longer"]) -> Float[Array, "*batch l"]:
    """b_l^2 C_l: the expected power of the sky seen with finite resolution, without the noise.

    Args:
        power: C_l from l = 0.
        window: b_l from l = 0, at least as far.

    Raises:
        InputError: If the window ends before the power.
    """
    count = power.shape[-1]
    if window.shape[0] < count:
        raise InputError(
            f"a window to l = {window.shape[0] - 1} does not reach the power's l_max = {count - 1}: extend it"
        )
    return jnp.asarray(power, float) * jnp.asarray(window, float)[:count] ** 2


# Cut skies ----------------------------------------------------------------------------------------------------


def coupling_matrix(mask_power: Real[AnyArray, " L"], l_max: int) -> Float[Array, "l l"]:
    r"""How a weight W on the sky mixes C_l: <pseudo-C_l> = sum_l' M_ll' C_l' for the multipoles of W times the field.

    $$ M_{ll'} = \frac{2l' + 1}{4\pi} \sum_L (2L + 1) W_L \begin{pmatrix} l & l' & L \\ 0 & 0 & 0 \end{pmatrix}^2
               = \frac{2l' + 1}{2} \int_{-1}^1 P_l P_{l'}\, \xi_W\, dx, $$

    xi_W the two-point function of the weight: on a cut sky the two correlations multiply. Quadrature with enough nodes
    makes the integral exact, of polynomials up to the degree 4 l_max. The sum of a row over all l' is the mean of W^2.
    Ring means are not removed here; for a sky from which they were there is `inference.pseudo_power`.

    Args:
        mask_power: Power W_L of the weight from L = 0, to L = 2 l_max; what is missing counts as zero.
        l_max: Highest degree of the result.

    Returns:
        M of l, l' = 0 .. l_max. Power above l_max leaks in as well, and is not in it.

    Raises:
        InputError: If l_max is negative, or known power of the weight is negative or not finite.

    References:
        Hivon et al. (2002), ApJ 567, 2.
    """
    count = _degrees(l_max)
    if is_known(mask_power) and not (np.all(np.isfinite(mask_power)) and np.min(mask_power) >= 0):
        raise InputError("the power of a weight must be finite and not negative: give W_L from L = 0")
    node, weight = _fejer(4 * l_max + 1)
    legendre = np.polynomial.legendre.legvander(node, 2 * l_max)
    power = jnp.asarray(mask_power, float)[: 2 * l_max + 1]
    total = 2 * np.arange(power.shape[0]) + 1.0
    correlation = legendre[:, : power.shape[0]] @ (total * power) / (4 * jnp.pi)
    small = legendre[:, :count]
    return small.T @ ((weight * correlation)[:, None] * small) * (2 * np.arange(count) + 1.0) / 2


def cut_power(power: Real[AnyArray, " l"], mask_power: Real[AnyArray, " L"]) -> Float[Array, " l"]:
    """Expected pseudo-C_l of a field of power C_l times a weight, both from l = 0; without the noise.

    Its last few l lack what leaks in from above l_max: give C_l further than is wanted.
    """
    return coupling_matrix(mask_power, power.shape[0] - 1) @ jnp.asarray(power, float)


def band_power(dec_min: Real[ArrayLike, ""], dec_max: Real[ArrayLike, ""], l_max: int) -> Float[Array, " L"]:
    r"""Power of the weight 1 between two declinations and 0 elsewhere (or of a disc: from 90 degrees - r to the pole).

    $$ W_L = \frac{\pi}{(2L + 1)^2}
             \Big( \big[ P_{L+1} - P_{L-1} \big]_{\sin \delta_{min}}^{\sin \delta_{max}} \Big)^2 . $$

    Args:
        dec_min: Southern limit [rad].
        dec_max: Northern limit [rad].
        l_max: Highest degree L.

    Raises:
        InputError: If known limits are not -pi/2 <= dec_min < dec_max <= pi/2, or l_max is negative.
    """
    pole = np.pi / 2 + 1e-9
    if is_known(dec_min) and is_known(dec_max) and not -pole <= dec_min < dec_max <= pole:
        raise InputError(
            f"a band of declinations must have -pi/2 <= dec_min < dec_max <= pi/2, not {dec_min} and {dec_max}: "
            "give radians"
        )
    count = _degrees(l_max)
    x = jnp.sin(jnp.stack([jnp.asarray(dec_min, float), jnp.asarray(dec_max, float)]))
    legendre = _legendre(x, count + 1)[0]
    # P_-1 is 1, a constant.
    before = jnp.concatenate([jnp.ones((1, 2)), legendre[:-2]])
    step = jnp.diff(legendre[1:] - before, axis=1)[:, 0]
    return jnp.pi * (step / (2 * np.arange(count) + 1.0)) ** 2


# Noise and scatter --------------------------------------------------------------------------------------------


def shot_noise(number: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """Noise power 4 pi / N of N events seen evenly from the whole sky, the same for every l >= 1."""
    return 4 * jnp.pi / jnp.asarray(number, float)


def map_noise(background: Real[AnyArray, " pixel"], weight: Real[AnyArray, " pixel"] | None = None) -> Float[Array, ""]:
    r"""Noise of the pseudo-C_l of a map W (n / B - 1) of counts n, the same for every l,

    $$ N = \frac{4\pi}{N_{pix}^2} \sum_a \frac{W_a^2}{B_a}, $$

    where B is known. Where the acceptance is fitted to the same counts the noise of low l is larger.

    Args:
        background: Expected counts B of the equal pixels of the whole sky; zero where nothing is seen.
        weight: W of each pixel; 1 by default. Pixels without background do not count.

    Raises:
        InputError: If known background is negative, not finite, or zero everywhere.
    """
    if is_known(background) and not (np.all(np.isfinite(background)) and np.min(background) >= 0 < np.max(background)):
        raise InputError(
            "the background of a map must be finite, not negative and somewhere above zero: "
            "give expected counts, zero where nothing is seen"
        )
    background = jnp.asarray(background, float)
    seen = background > 0
    square = 1.0 if weight is None else jnp.asarray(weight, float) ** 2
    return 4 * jnp.pi / background.size**2 * jnp.sum(jnp.where(seen, square / jnp.where(seen, background, 1.0), 0.0))


def power_variance(
    power: Real[AnyArray, " l"],
    noise: Real[ArrayLike, "*noise"] = 0.0,
    aligned: Real[ArrayLike, "*aligned"] = 0.0,
) -> Float[Array, " l"]:
    r"""Variance of C_l measured on the whole sky, $\frac{2 (C_l + N_l)^2 + 4 A_l (C_l + N_l)}{2l + 1}$.

    C_l is that of random normal multipoles: with N_l = 0 and A_l = 0 this is the cosmic variance. A_l is power of a
    fixed pattern, such as one aligned with the magnetic field: a mean, which scatters only through what is added to
    it. The measured power is then a non-central chi2 with mean C_l + N_l + A_l.

    Args:
        power: C_l from l = 0.
        noise: N_l, one for all or from l = 0.
        aligned: A_l, likewise.
    """
    total = jnp.asarray(power, float) + noise
    return (2 * total**2 + 4 * aligned * total) / (2 * np.arange(total.shape[0]) + 1.0)


# The dipole ---------------------------------------------------------------------------------------------------


def dipole_power(amplitude: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """C_1 = (4 pi / 9) |delta|^2 of a dipole of the relative intensity."""
    return 4 * jnp.pi / 9 * jnp.asarray(amplitude, float) ** 2


def dipole_amplitude(first: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """|delta| = (3 / 2) sqrt(C_1 / pi)."""
    return 1.5 * jnp.sqrt(jnp.asarray(first, float) / jnp.pi)


def dipole_bias(noise: Real[ArrayLike, "*batch"], components: int = 3) -> Float[Array, "*batch"]:
    """What noise adds on average to |delta|^2: 3 / (4 pi) N_1 for each component.

    With N events from the whole sky, N_1 = 4 pi / N, it is 9 / N for the vector and 6 / N for its equatorial part.

    Args:
        noise: N_1.
        components: 3 for the vector, 2 for the equatorial part, 1 for one component.

    Raises:
        InputError: If there are not 1 to 3 components.
    """
    if components not in (1, 2, 3):
        raise InputError(f"a dipole has 1 to 3 components, not {components}: 3 for all, 2 for the equatorial ones")
    return 3 * components / (4 * jnp.pi) * jnp.asarray(noise, float)


def _degrees(l_max: int) -> int:
    """Number of degrees from l = 0."""
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or l_max < 0:
        raise InputError(f"l_max of a power spectrum must be a whole number of at least 0, not {l_max!r}")
    return l_max + 1


def _legendre(x: Float[Array, "*x"], count: int) -> tuple[Float[Array, "degree ..."], Float[Array, "degree ..."]]:
    """P_l and dP_l/dx of l = 0 .. count - 1."""

    def step(carry, l):
        value, before, slope, slope_before = carry
        following = ((2 * l + 1) * x * value - l * before) / (l + 1)
        slope_following = slope_before + (2 * l + 1) * value
        return (following, value, slope_following, slope), (value, slope)

    one, none = jnp.ones_like(x), jnp.zeros_like(x)
    return jax.lax.scan(step, (one, none, none, none), jnp.arange(count, dtype=float))[1]


@lru_cache(maxsize=16)
def _gauss(number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(number)


@lru_cache(maxsize=16)
def _fejer(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes cos(theta) at the centres of equal steps, exact below the degree `number`; Waldvogel (2006), BIT 46, 195.

    Twice the nodes of a Gauss-Legendre rule, but weights good to rounding: those of computed Gauss-Legendre rules
    near the poles, where nodes crowd, are off by 1e-12 at 41 nodes and by 1e-10 at 301.
    """
    theta = (np.arange(number) + 0.5) * np.pi / number
    k = np.arange(1, (number + 1) // 2)
    return np.cos(theta), 2 / number * (1 - 2 * np.cos(2 * np.outer(theta, k)) @ (1 / (4.0 * k * k - 1)))
