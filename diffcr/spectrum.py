r"""Spectra of turbulence on a finite band of wavelengths, and what follows from them without drawing a field.

P(k) is the energy per dk summed over the shell |k| = k, of any normalisation, k = 2 pi / wavelength [rad / length]:

$$ \langle \delta B_i(k) \delta B_j^*(k') \rangle \propto
   \delta(k - k') \left(\delta_{ij} - \frac{k_i k_j}{k^2}\right) \frac{P(k)}{4 \pi k^2}, \qquad
   \langle \delta B^2 \rangle \propto \int P\, dk. $$

Every result here is a ratio to int P dk: multiply correlations and line spectra by <dB^2> = rms^2.

Integrals over k are taken panel by panel with Gauss-Legendre nodes; where cos(k s) turns many times within a panel,
P times the slow part of the kernel is expanded in Legendre polynomials, whose Fourier transforms are spherical Bessel
functions (Bakhvalov & Vasil'eva 1968, USSR Comput. Math. Math. Phys. 8, 241), so that no distance is too far. Exact to
rounding for spectra that are smooth on the scale of a tenth of their band in ln k.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Real

from .errors import InputError, is_known

# 12 nodes see 1 / k^(5/3) on a sixth of an octave to rounding.
_NODE, _WEIGHT = np.polynomial.legendre.leggauss(12)
_DEGREE = np.arange(len(_NODE))
_LEGENDRE = np.polynomial.legendre.legvander(_NODE, len(_NODE) - 1) * (2 * _DEGREE + 1) * 1j**_DEGREE
_PANELS = 80

# Half a panel's phase that the nodes resolve by themselves; the recurrence of j_l upwards is harmless from there on.
_RESOLVED = 6.0


# Spectra ------------------------------------------------------------------------------------------------------


class Spectrum(eqx.Module):
    """A spectrum P(k) between two wavelengths, zero outside.

    Attributes:
        smallest: Smallest wavelength lambda_min, in the unit of positions.
        largest: Largest wavelength lambda_max.
    """

    smallest: eqx.AbstractVar[Real[ArrayLike, ""]]
    largest: eqx.AbstractVar[Real[ArrayLike, ""]]

    def profile(self, k: Float[Array, "*mode"]) -> Float[Array, "*mode"]:
        """P(k) as if the band had no ends."""
        raise NotImplementedError

    def power(self, k: Real[ArrayLike, "*mode"]) -> Float[Array, "*mode"]:
        """P(k) per dk at wave numbers k = 2 pi / wavelength, any shape; zero outside the band."""
        k = jnp.asarray(k, float)
        low, high = band(self)
        inside = (k >= low) & (k <= high)
        return jnp.where(inside, jnp.broadcast_to(self.profile(jnp.where(inside, k, low)), k.shape), 0.0)


class PowerLaw(Spectrum):
    r"""P(k) ~ k^-slope.

    Attributes:
        slope: 5/3 after Kolmogorov, 3/2 after Kraichnan, 1 for the same variance in each octave. Any real number.
        smallest: Smallest wavelength, in the unit of positions.
        largest: Largest wavelength.

    Raises:
        InputError: If a wavelength is not finite and positive, the smallest is not below the largest, or the slope
            is not finite.
    """

    slope: Real[ArrayLike, ""] = 5 / 3
    smallest: Real[ArrayLike, ""] = eqx.field(kw_only=True)
    largest: Real[ArrayLike, ""] = eqx.field(kw_only=True)

    def __check_init__(self):
        _require_band(self)
        _require_finite("slope", self.slope)

    def profile(self, k):
        return (k / band(self)[0]) ** -self.slope


class BendOver(Spectrum):
    r"""P(k) ~ (k L)^2 / (1 + (k L)^(slope + 2)): k^2 on large scales, k^-slope on small ones.

    Attributes:
        bend_length: L, in the unit of positions; P has its maximum at k L = (2 / slope)^(1 / (slope + 2)).
        slope: 5/3 for the exponent 11/3.
        smallest: Smallest wavelength, in the unit of positions.
        largest: Largest wavelength.

    Raises:
        InputError: As for `PowerLaw`, and if bend_length is not finite and positive or the slope not above -2.

    References:
        Giacalone & Jokipii (1999), ApJ 520, 204.
    """

    bend_length: Real[ArrayLike, ""] = 1.0
    slope: Real[ArrayLike, ""] = 5 / 3
    smallest: Real[ArrayLike, ""] = 0.01
    largest: Real[ArrayLike, ""] = 100.0

    def __check_init__(self):
        _require_band(self)
        _require_finite("slope", self.slope)
        _require_finite("bend_length", self.bend_length)
        if is_known(self.bend_length) and self.bend_length <= 0:
            raise InputError(f"bend_length of a spectrum must be positive, not {self.bend_length}: give a length")
        if is_known(self.slope) and self.slope <= -2:
            raise InputError(
                f"slope of a spectrum that bends over must be above -2, not {self.slope}: it has no bend otherwise; "
                "P falls as k^-slope on small scales"
            )

    def profile(self, k):
        reduced = k * self.bend_length
        return reduced**2 / (1 + reduced ** (self.slope + 2))


class UserSpectrum(Spectrum):
    """P(k) given by a function.

    Attributes:
        function: P of an array of wave numbers k [rad / length], vectorised, by functions of jax.numpy; of any
            normalisation. A jump or a line narrower than a thousandth of the band in ln k is not seen.
        smallest: Smallest wavelength, in the unit of positions.
        largest: Largest wavelength.

    Raises:
        InputError: If a wavelength is not finite and positive, the smallest is not below the largest, or P is
            negative or not finite somewhere in the band, or zero throughout.
    """

    function: Callable = eqx.field(static=True)
    smallest: Real[ArrayLike, ""]
    largest: Real[ArrayLike, ""]

    def __check_init__(self):
        _require_band(self)
        if not callable(self.function):
            raise InputError(f"function of a spectrum must be callable with wave numbers, not {self.function!r}")
        k = _nodes(*band(self))[0]
        values = self.function(k)
        if not (is_known(values) and is_known(k)):
            return
        if np.shape(values) not in ((), k.shape):
            raise InputError(
                f"the function of a spectrum gave shape {np.shape(values)} for wave numbers of shape {k.shape}: it "
                "must be vectorised over arrays of any shape"
            )
        k, values = np.asarray(k).ravel(), np.broadcast_to(values, k.shape).ravel()
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if bad.size or not values.any():
            where = f"{values[bad[0]]:g} at k = {k[bad[0]]:.6g}" if bad.size else "0 throughout"
            raise InputError(
                f"P(k) of a spectrum must be finite and not negative for k from {k[0]:.4g} to {k[-1]:.4g}, not "
                f"{where}: the function takes wave numbers, 2 pi over the wavelength"
            )

    def profile(self, k):
        return jnp.asarray(self.function(k), float)


def power_law_with_coherence_length(
    length: Real[ArrayLike, ""], slope: Real[ArrayLike, ""] = 5 / 3, ratio: Real[ArrayLike, ""] = 100.0
) -> PowerLaw:
    """The power law whose isotropic turbulence has a given coherence length over the full line.

    Args:
        length: L_c, in the unit of positions.
        slope: Of P(k) ~ k^-slope.
        ratio: Largest wavelength over the smallest, above 1.

    Raises:
        InputError: If the length is not finite and positive or the ratio not finite and above 1.
    """
    _require_finite("coherence length", length)
    _require_finite("ratio", ratio)
    if is_known(length) and length <= 0:
        raise InputError(f"coherence length of a spectrum must be positive, not {length}: give a length")
    if is_known(ratio) and ratio <= 1:
        raise InputError(
            f"ratio of a spectrum must be above 1, not {ratio}: it is the largest wavelength over the smallest"
        )
    unit = coherence_length(PowerLaw(slope, smallest=1.0 / ratio, largest=1.0))
    largest = length / unit
    if is_known(largest):
        largest = float(largest)
    return PowerLaw(slope, smallest=largest / ratio, largest=largest)


def band(spectrum: Spectrum) -> tuple[Real[ArrayLike, ""], Real[ArrayLike, ""]]:
    """Smallest and largest wave number, 2 pi / largest and 2 pi / smallest [rad / length]."""
    return 2 * np.pi / spectrum.largest, 2 * np.pi / spectrum.smallest


# Lengths and shares -------------------------------------------------------------------------------------------


def coherence_length(spectrum: Spectrum) -> Float[Array, ""]:
    r"""Coherence length of isotropic turbulence, over the full line.

    $$ L_c = \int_{-\infty}^{\infty} \frac{\langle B(0) \cdot B(s) \rangle}{\langle B^2 \rangle}\, ds
           = \pi \frac{\int P / k\, dk}{\int P\, dk}. $$

    Definitions over the half line give half of it. In closed form for a `PowerLaw`: largest / 2 (q - 1) / q
    (1 - x^q) / (1 - x^(q - 1)), x = smallest / largest.

    References:
        Harari, Mollerach, Roulet & Sanchez (2002), JHEP 03, 045.
    """
    return jnp.pi * wavenumber_mean(spectrum, -1)


def wavenumber_mean(spectrum: Spectrum, exponent: int = 1) -> Float[Array, ""]:
    """int k^exponent P / int P, in radians per length to that power.

    With 2 it is the mean square gradient sum_ij <(d_i B_j)^2> / <B^2>, with 1 the largest <B . curl B> / <B^2>.
    """
    return power_moment(spectrum, exponent, *band(spectrum)) / power_moment(spectrum, 0, *band(spectrum))


def planar_coherence_length(spectrum: Spectrum) -> Float[Array, ""]:
    r"""Coherence length of `planar_correlation` over the full line, 2 int(P / k) / int P."""
    return 2 / jnp.pi * coherence_length(spectrum)


def slab_correlation_length(spectrum: Spectrum) -> Float[Array, ""]:
    r"""Distance at which `slab_correlation` first falls to 1 / e; NaN where it does not within the largest wavelength.

    The integral of that correlation over the full line is no scale: it is proportional to P(0), so zero for a band
    that ends at a finite wavelength.
    """
    low, high = band(spectrum)
    level = np.exp(-1)

    def excess(distance):
        return slab_correlation(spectrum, distance) - level

    # No cos(k s) is below cos(1) > 1 / e at the first of these.
    trial = jax.lax.stop_gradient((high / low * 2 * jnp.pi) ** jnp.linspace(0.0, 1.0, 400) / high)
    above = jax.lax.stop_gradient(excess(trial)) > 0
    first = jnp.argmin(above)

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        positive = jax.lax.stop_gradient(excess(middle)) > 0
        return jnp.where(positive, middle, ends[0]), jnp.where(positive, ends[1], middle)

    root = jax.lax.fori_loop(0, 30, halve, (trial[first - 1], trial[first]))[0]
    # One step of Newton's carries the derivatives.
    slope = jax.lax.stop_gradient(jax.grad(excess)(root))
    return jnp.where(jnp.all(above), jnp.nan, root - excess(root) / slope)


def variance_between(
    spectrum: Spectrum, k_low: Real[ArrayLike, "*#band"], k_high: Real[ArrayLike, "*#band"]
) -> Float[Array, "*band"]:
    """Share of <dB^2> in waves with k_low < k < k_high.

    Args:
        spectrum: The spectrum.
        k_low: Lower ends of the bands of wave numbers [rad / length], 0 allowed; broadcast with the upper ones.
        k_high: Upper ends, infinity allowed; the share is zero where they are not above the lower ones.

    Returns:
        int P dk over the band, over that of the whole spectrum.
    """
    low, high = band(spectrum)
    first = jnp.clip(jnp.asarray(k_low, float), low, high)
    last = jnp.maximum(first, jnp.clip(jnp.asarray(k_high, float), low, high))
    return power_moment(spectrum, 0, first, last) / power_moment(spectrum, 0, low, high)


class LineSpectra(eqx.Module):
    """Spectra along a line through isotropic turbulence, over k1 >= 0, of a field of variance 1.

    Attributes:
        longitudinal: Of the component along the line, per dk1; its integral over k1 > 0 is 1/3.
        transverse: Of either component across the line; its integral is 1/3.
    """

    longitudinal: Float[Array, "*mode"]
    transverse: Float[Array, "*mode"]

    @property
    def trace(self) -> Float[Array, "*mode"]:
        """Of all three components; its integral is 1, and P(k) / int P = -k d trace / dk."""
        return self.longitudinal + 2 * self.transverse


def line_spectra(spectrum: Spectrum, k: Real[ArrayLike, "*mode"]) -> LineSpectra:
    r"""One-dimensional spectra that a straight line through isotropic turbulence sees.

    $$ E_L(k_1) = \frac12 \int_{k_1}^\infty \frac{P}{k} \left(1 - \frac{k_1^2}{k^2}\right) dk, \qquad
       E_T(k_1) = \frac14 \int_{k_1}^\infty \frac{P}{k} \left(1 + \frac{k_1^2}{k^2}\right) dk, $$

    over int P dk. Below the band of P they go on as a plateau: long waves along the line are short ones seen
    at a slant.

    Args:
        spectrum: The spectrum.
        k: Wave numbers k1 along the line [rad / length], not negative.

    References:
        Batchelor (1953), The Theory of Homogeneous Turbulence, section 3.4.
    """
    k = jnp.asarray(k, float)
    low, high = band(spectrum)
    first = jnp.clip(k, low, high)
    total = power_moment(spectrum, 0, low, high)
    once = power_moment(spectrum, -1, first, high) / total
    # k1^2 within the integrand: P / k^3 by itself may leave the range of 32-bit floats.
    thrice = (k / first) ** 2 * first**2 * power_moment(spectrum, -3, first, high) / total
    return LineSpectra((once - thrice) / 2, (once + thrice) / 4)


# Correlation functions ----------------------------------------------------------------------------------------


class Correlation(eqx.Module):
    """Correlation functions of isotropic turbulence against distance, over <B^2>.

    Attributes:
        longitudinal: R_L = <B_1(0) B_1(s)> / <B^2> of the component along the separation, 1/3 at zero distance.
        transverse: R_T of either component across it, 1/3 at zero distance.
    """

    longitudinal: Float[Array, "*distance"]
    transverse: Float[Array, "*distance"]

    @property
    def trace(self) -> Float[Array, "*distance"]:
        """R = <B(0) . B(s)> / <B^2> = R_L + 2 R_T."""
        return self.longitudinal + 2 * self.transverse


def correlation(spectrum: Spectrum, distance: Real[ArrayLike, "*distance"]) -> Correlation:
    r"""Trace, longitudinal and transverse correlation function of isotropic turbulence.

    $$ R(s) = \frac{\int P\, \frac{\sin z}{z}\, dk}{\int P\, dk}, \qquad
       R_L(s) = \frac{\int P\, \frac{\sin z - z \cos z}{z^3}\, dk}{\int P\, dk}, \qquad
       R_T = \frac{R - R_L}{2} = \frac{1}{2 s} \frac{d}{ds} (s^2 R_L), \qquad z = k s. $$

    Args:
        spectrum: The spectrum.
        distance: s, any shape, in the unit of positions.

    References:
        Batchelor (1953), The Theory of Homogeneous Turbulence, section 3.4.
    """
    trace = _mean(spectrum, distance, lambda z: jnp.sinc(z / jnp.pi), lambda z: -1j / z)
    longitudinal = _mean(spectrum, distance, _longitudinal_kernel, lambda z: -(z + 1j) / z**3)
    return Correlation(longitudinal, (trace - longitudinal) / 2)


def slab_correlation(spectrum: Spectrum, distance: Real[ArrayLike, "*distance"]) -> Float[Array, "*distance"]:
    r"""<B(0) . B(s)> / <B^2> = int P cos(k s) dk / int P dk at a distance s along the axis that all k lie on.

    Each of the two components across the axis has half of it; the third is zero.
    """
    return _mean(spectrum, distance, jnp.cos, jnp.ones_like)


def planar_correlation(spectrum: Spectrum, distance: Real[ArrayLike, "*distance"]) -> Float[Array, "*distance"]:
    r"""<B(0) . B(s)> / <B^2> = int P J_0(k s) dk / int P dk at a distance s in the plane that all k lie in."""
    return _mean(spectrum, distance, _bessel, _bessel_amplitude)


# Quadrature ---------------------------------------------------------------------------------------------------


def _panels(low: Real[ArrayLike, "*#band"], high: Real[ArrayLike, "*#band"]) -> tuple[Array, Array]:
    """Centres and half widths of panels between two wave numbers, equal in ln k, along a new last axis."""
    low, high = jnp.asarray(low, float)[..., None], jnp.asarray(high, float)[..., None]
    edge = low * (high / low) ** jnp.linspace(0.0, 1.0, _PANELS + 1)
    return (edge[..., 1:] + edge[..., :-1]) / 2, (edge[..., 1:] - edge[..., :-1]) / 2


def _nodes(low, high) -> tuple[Array, Array]:
    """Wave numbers and weights dk, shape (*band, panel, node)."""
    centre, half = _panels(low, high)
    node, weight = jnp.asarray(_NODE, float), jnp.asarray(_WEIGHT, float)
    return centre[..., None] + half[..., None] * node, half[..., None] * weight


def power_moment(spectrum: Spectrum, exponent: int, low, high) -> Float[Array, "*band"]:
    """int P k^exponent dk over bands inside that of the spectrum."""
    if isinstance(spectrum, PowerLaw):
        # int k^(a - 1) dk = low^a (e^(a x) - 1) / a, x = ln(high / low).
        a, x = exponent + 1 - spectrum.slope, jnp.log(jnp.asarray(high, float) / low)
        return spectrum.power(low) * low ** (exponent + 1) * x * _relative_exponential(a * x)
    k, weight = _nodes(low, high)
    return jnp.sum(weight * spectrum.power(k) * k**exponent, axis=(-2, -1))


def _relative_exponential(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """(e^x - 1) / x with all its derivatives, also at 0."""
    small = jnp.abs(x) < 0.3
    series = jnp.ones_like(x)
    for n in range(13, 1, -1):
        series = 1 + x / n * series
    safe = jnp.where(small, 1.0, x)
    return jnp.where(small, series, jnp.expm1(safe) / safe)


def _mean(spectrum: Spectrum, distance, kernel: Callable, amplitude: Callable) -> Float[Array, "*distance"]:
    """Mean of kernel(k s) over P; kernel(z) = Re amplitude(z) e^{i z} for large z, the amplitude without waves."""
    distance = jnp.abs(jnp.asarray(distance, float))
    centre, half = _panels(*band(spectrum))
    k, weight = _nodes(*band(spectrum))
    power = weight * spectrum.power(k)
    legendre = jnp.asarray(_LEGENDRE, complex)

    def integral(s):
        phase = half * s
        fast = phase > _RESOLVED
        safe = jnp.where(fast, phase, 2 * _RESOLVED)
        direct = jnp.sum(power * kernel(k * jnp.where(fast, 0.0, s)[:, None]), axis=-1)
        slow = jnp.dot(power * amplitude(k * (safe / half)[:, None]), legendre, precision=jax.lax.Precision.HIGHEST)
        filon = jnp.real(jnp.exp(1j * centre * s) * jnp.sum(slow * _spherical_bessel(safe), axis=-1))
        return jnp.sum(jnp.where(fast, filon, direct))

    return jax.vmap(integral)(distance.reshape(-1)).reshape(distance.shape) / jnp.sum(power)


def _spherical_bessel(x: Float[Array, " panel"]) -> Float[Array, "panel degree"]:
    """j_l(x) upwards in l, for x not small."""
    values = [jnp.sin(x) / x, jnp.sin(x) / x**2 - jnp.cos(x) / x]
    for degree in _DEGREE[1:-1]:
        values.append((2 * degree + 1) / x * values[-1] - values[-2])
    return jnp.stack(values, axis=-1)


def _longitudinal_kernel(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """(sin z - z cos z) / z^3, 1/3 at zero."""
    small = z < 1
    square = jnp.where(small, z, 0.0) ** 2
    series = jnp.ones_like(z)
    for n in range(9, 0, -1):
        series = 1 - square / (2 * n * (2 * n + 3)) * series
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, series / 3, (jnp.sin(safe) - safe * jnp.cos(safe)) / safe**3)


def _bessel(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """J_0(z), z >= 0: below 30 the mean of cos(z sin t), whose trapezoidal sum converges exponentially."""
    small = z < 30
    angle = np.linspace(0.0, np.pi / 2, 19)
    share = np.full(19, 1 / 18)
    share[[0, -1]] /= 2
    near = jnp.cos(jnp.where(small, z, 0.0)[..., None] * jnp.asarray(np.sin(angle), float))
    near = jnp.sum(near * jnp.asarray(share, float), axis=-1)
    safe = jnp.where(small, 30.0, z)
    return jnp.where(small, near, jnp.real(_bessel_amplitude(safe) * jnp.exp(1j * safe)))


def _bessel_amplitude(z: Float[Array, "..."]) -> Complex[Array, "..."]:
    """H_0(z) e^{-i z} of large z, by Hankel's expansion (Abramowitz & Stegun 9.2.7)."""
    series = jnp.ones_like(z) + 0j
    for n in range(14, 0, -1):
        series = 1 - 1j * (2 * n - 1) ** 2 / (8 * n * z) * series
    return jnp.sqrt(2 / (jnp.pi * z)) * np.exp(-0.25j * np.pi) * series


# Checks -------------------------------------------------------------------------------------------------------


def _require_finite(name: str, value) -> None:
    if is_known(value) and not np.isfinite(value):
        raise InputError(f"{name} of a spectrum must be finite, not {value}: give a number")


def _require_band(spectrum: Spectrum) -> None:
    smallest, largest = spectrum.smallest, spectrum.largest
    for name, value in (("smallest", smallest), ("largest", largest)):
        if is_known(value) and not (np.isfinite(value) and value > 0):
            raise InputError(
                f"the {name} wavelength of a spectrum must be finite and positive, not {value}: give a length in the "
                "unit of positions"
            )
    if is_known(smallest) and is_known(largest) and smallest >= largest:
        raise InputError(
            f"the smallest wavelength of a spectrum, {smallest:g}, must be below the largest, {largest:g}: "
            "exchange them, or widen the band"
        )
