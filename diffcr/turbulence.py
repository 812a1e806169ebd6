"""Magnetic turbulence: sums of plane waves and the octave ladder, behind one signature B(x).

A field is any callable that takes positions of shape (3, particle) and gives the field there, of that shape:
particles lie along the last axis, along which a processor's vector registers run. Fields here are pytrees, so they can
be arguments of jitted functions, stacked over realisations, and differentiated. Lengths are in any one unit, and
so is the field. Wavevectors are kept in turns per length, k / 2 pi: a phase then loses its whole turns by rounding.

A wave of k has its field across k, so div B = 0 exactly, whatever the draw.
"""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known

Field = Callable[[Float[Array, "3 particle"]], Float[Array, "3 particle"]]

_RESTART = 5
"""Octaves reached by doubling an angle before its sine is computed anew: in 32 bits each doubling doubles the error."""


# Fields -------------------------------------------------------------------------------------------------


class Uniform(eqx.Module):
    """The same field everywhere.

    Attributes:
        vector: The field, shape (3,).
    """

    vector: Float[Array, "3"] = eqx.field(converter=lambda v: jnp.asarray(v, float))

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        return jnp.broadcast_to(self.vector.astype(position.dtype)[:, None], position.shape)


class Sum(eqx.Module):
    """Sum of fields, such as a regular one and a turbulent one.

    Attributes:
        parts: The fields; each any callable from positions to fields.
    """

    parts: tuple[Field, ...] = eqx.field(converter=tuple)

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        return functools.reduce(jnp.add, [part(position) for part in self.parts])

    @property
    def smallest_wavelength(self) -> float:
        """Smallest wavelength of any part; infinite where none has one."""
        return min((smallest_wavelength(part) for part in self.parts), default=math.inf)


class PlaneWaves(eqx.Module):
    """Sum of plane waves, B = sum_n a_n cos 2 pi (q_n . x + phi_n) with a_n across q_n.

    Giacalone & Jokipii (1999), ApJ 520, 204. A circularly polarised wave is two of these with one q, a quarter
    of a turn apart.

    Attributes:
        wavevector: q_n = k_n / 2 pi in turns per length, shape (3, wave).
        amplitude: a_n, shape (3, wave).
        phase: phi_n in turns, shape (wave,).
        smallest_wavelength: In the unit of positions.
    """

    wavevector: Float[Array, "3 wave"]
    amplitude: Float[Array, "3 wave"]
    phase: Float[Array, " wave"]
    smallest_wavelength: float = eqx.field(static=True, default=math.inf)

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        q, a, phase = (v.astype(position.dtype) for v in (self.wavevector, self.amplitude, self.phase))
        turns = _phase(q, position) + phase[:, None]
        return _combine(a, _cosine(turns))


class OctaveLadder(eqx.Module):
    """Waves whose wavevectors along each direction stand one octave apart: three times faster than as many plane waves.

    B = sum_d e_d sum_j [ a_jd cos 2 pi 2^j q_d . x + b_jd sin 2 pi 2^j q_d . x ],  e_d across q_d,

    with an independent phase for each wave. One sine and cosine serve several octaves through the double
    angle, 5 operations a wave in place of 15; they are computed anew every few octaves.

    Attributes:
        wavevector: q_d of the lowest octave in turns per length, shape (3, direction).
        cosine: a_jd, shape (octave, direction).
        sine: b_jd, shape (octave, direction).
        polarisation: Unit vectors e_d, shape (3, direction).
        smallest_wavelength: In the unit of positions.
    """

    wavevector: Float[Array, "3 direction"]
    cosine: Float[Array, "octave direction"]
    sine: Float[Array, "octave direction"]
    polarisation: Float[Array, "3 direction"]
    smallest_wavelength: float = eqx.field(static=True, default=math.inf)

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        q, a, b, e = (v.astype(position.dtype) for v in (self.wavevector, self.cosine, self.sine, self.polarisation))
        return _combine(e, _octaves(_phase(q, position), a, b))


def smallest_wavelength(field: Field) -> float:
    """Smallest wavelength of a field in the unit of positions; infinite for one that states none."""
    return float(getattr(field, "smallest_wavelength", math.inf))


def num_waves(field: Field) -> int:
    """Number of waves summed at each point, of plane waves, ladders and sums of them; 0 for other fields."""
    if isinstance(field, Sum):
        return sum(num_waves(part) for part in field.parts)
    if isinstance(field, PlaneWaves):
        return field.phase.shape[-1]
    return math.prod(field.cosine.shape[-2:]) if isinstance(field, OctaveLadder) else 0


# Draws --------------------------------------------------------------------------------------------------


def draw_plane_waves(
    key: Array,
    spectrum,
    waves: int = 300,
    *,
    rms: Real[ArrayLike, ""] = 1.0,
    geometry: str = "isotropic",
    axis: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    helicity: float = 0.0,
    slab_fraction: float = 0.2,
    dtype=None,
) -> PlaneWaves:
    """Draw turbulence as plane waves.

    Wavenumbers are stratified in ln k, directions are those of a Fibonacci sphere turned at random, and the
    power of each wave is exactly its share of the spectrum: <B^2> = rms^2 in each realisation, averaged over space.

    Args:
        key: Key of jax.random; the same key gives the same field, in 32 bits to its rounding.
        spectrum: One of `diffcr.spectrum`.
        waves: Number of wavevectors.
        rms: Root mean square of the field, all three components together.
        geometry: "isotropic"; "slab": k along the axis; "2d": k and B across the axis; "composite" of both.
        axis: Axis of slab and 2D turbulence, shape (3,); normalised here.
        helicity: sigma from -1 to 1: <B . curl B> = sigma k <B^2> of each wave. Two entries per wave unless zero.
        slab_fraction: Share of the slab in the power of a composite.
        dtype: Of the field's numbers; the default float.

    Returns:
        The field, with wavelengths in the unit of the spectrum.

    Raises:
        InputError: If a number is out of range, or the geometry unknown.

    References:
        Giacalone & Jokipii (1999), ApJ 520, 204; Bieber, Wanner & Matthaeus (1996), J. Geophys. Res. 101, 2511.
    """
    _require_draw(waves, "waves", rms, geometry, axis, helicity, slab_fraction)
    position_key, order_key, wave_key = jax.random.split(key, 3)
    lowest, width = _range(spectrum)
    wavenumber = lowest * jnp.exp(width * _stratified(position_key, order_key, waves))
    share = spectrum.power(wavenumber) * wavenumber
    direction, polarisation, share = _geometry(wave_key, share[None], geometry, axis, slab_fraction)
    share, phase_key = share[0], jax.random.fold_in(wave_key, 1)
    phase = _uniform(phase_key, (waves,))
    amplitude = rms * jnp.sqrt(2 * share / jnp.sum(share)) * polarisation
    if helicity:
        # Wave and quarter-turned wave across it: positive helicity turns against the phase about +k.
        half = 0.5 * math.asin(helicity)
        across = jnp.cross(direction, amplitude, axis=0)
        amplitude = jnp.concatenate([math.cos(half) * amplitude, -math.sin(half) * across], axis=1)
        phase = jnp.concatenate([phase, phase - 0.25])
        wavenumber, direction = jnp.tile(wavenumber, 2), jnp.tile(direction, 2)
    fields = (wavenumber / (2 * math.pi) * direction, amplitude, phase)
    return PlaneWaves(*(jnp.asarray(v, dtype or float) for v in fields), float(spectrum.smallest))


def draw_ladder(
    key: Array,
    spectrum,
    directions: int = 80,
    *,
    rms: Real[ArrayLike, ""] = 1.0,
    geometry: str = "isotropic",
    axis: Real[ArrayLike, "3"] | tuple[float, ...] = (0.0, 0.0, 1.0),
    helicity: float = 0.0,
    slab_fraction: float = 0.2,
    dtype=None,
) -> OctaveLadder:
    """Draw turbulence as an octave ladder: `directions` times as many waves as the spectrum has octaves.

    Arguments, normalisation and errors are those of `draw_plane_waves`. The lowest wavenumbers of the directions
    are stratified within the first octave. All octaves of a direction share its linear polarisation, so that one
    realisation is less isotropic than as many plane waves: with 80 directions <B_x^2> scatters by 3 to 4 % of
    <B^2> between realisations, with 23 by 6 %, and by 2 to 3 % with 300 plane waves.
    """
    _require_draw(directions, "directions", rms, geometry, axis, helicity, slab_fraction)
    position_key, order_key, wave_key = jax.random.split(key, 3)
    lowest, width = _range(spectrum)
    octaves = max(1, math.ceil(float(width) / math.log(2) - 1e-9))
    scale = 2.0 ** np.arange(octaves)[:, None]
    first = min(float(width), math.log(2))
    wavenumber = lowest * jnp.exp(first * _stratified(position_key, order_key, directions))
    share = spectrum.power(wavenumber * scale) * wavenumber * scale
    direction, polarisation, share = _geometry(wave_key, share, geometry, axis, slab_fraction)
    phase = 2 * math.pi * _uniform(jax.random.fold_in(wave_key, 1), (octaves, directions))
    amplitude = rms * jnp.sqrt(2 * share / jnp.sum(share))
    if helicity:
        half = 0.5 * math.asin(helicity)
        across = jnp.cross(direction, polarisation, axis=0)
        polarisation = jnp.concatenate([polarisation, across], axis=1)
        amplitude = jnp.concatenate([math.cos(half) * amplitude, -math.sin(half) * amplitude], axis=1)
        phase = jnp.concatenate([phase, phase - 0.5 * math.pi], axis=1)
        wavenumber, direction = jnp.tile(wavenumber, 2), jnp.tile(direction, 2)
    fields = (
        wavenumber / (2 * math.pi) * direction,
        amplitude * jnp.cos(phase),
        -amplitude * jnp.sin(phase),
        polarisation,
    )
    return OctaveLadder(*(jnp.asarray(v, dtype or float) for v in fields), float(spectrum.smallest))


def _require_draw(number, what, rms, geometry, axis, helicity, slab_fraction) -> None:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"turbulence needs a whole number of {what} of at least 1, not {number!r}")
    if geometry not in ("isotropic", "slab", "2d", "composite"):
        raise InputError(f"geometry of turbulence must be isotropic, slab, 2d or composite, not {geometry!r}")
    if is_known(rms) and not (np.isfinite(rms) and rms >= 0):
        raise InputError(f"rms of turbulence must be finite and not negative, not {rms!r}")
    if not -1 <= helicity <= 1:
        raise InputError(f"helicity of turbulence lies between -1 and 1, not {helicity!r}")
    if geometry == "composite" and number < 2:
        raise InputError(f"a composite of slab and 2d needs at least 2 {what}, not {number}")
    if geometry == "2d" and helicity:
        raise InputError("2d turbulence has its field across the axis and can have no helicity: leave helicity at 0")
    if geometry == "composite" and helicity:
        raise InputError("a composite has no helicity here: draw slab and 2d apart and join them with Sum")
    if not 0 <= slab_fraction <= 1:
        raise InputError(f"slab_fraction lies between 0 and 1, not {slab_fraction!r}")
    if is_known(axis) and not (np.shape(axis) == (3,) and np.all(np.isfinite(axis)) and np.any(np.asarray(axis) != 0)):
        raise InputError(f"axis of turbulence must be three finite numbers, not all zero, not {axis!r}")


def _range(spectrum) -> tuple:
    """Lowest wavenumber in rad per length, and ln of the range."""
    return 2 * math.pi / spectrum.largest, np.log(spectrum.largest / spectrum.smallest)


def _uniform(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Uniform on [0, 1), the same numbers whatever the default precision."""
    return jnp.asarray(jax.random.uniform(key, shape, jnp.float32), float)


def _stratified(key: Array, order_key: Array, number: int) -> Float[Array, " wave"]:
    """One number in each of `number` equal parts of [0, 1), in random order."""
    return (jax.random.permutation(order_key, number) + _uniform(key, (number,))) / number


def _geometry(key: Array, share: Float[Array, "octave wave"], geometry: str, axis, slab_fraction):
    """Unit wavevectors, unit polarisations across them, and shares of power (which only a composite changes)."""
    number = share.shape[1]
    turn_key, angle_key = jax.random.split(key)
    angle = 2 * math.pi * _uniform(angle_key, (number,))
    if geometry == "isotropic":
        direction = _random_rotation(turn_key) @ _fibonacci_sphere(number)
        first, second = _frame(direction)
        return direction, first * jnp.cos(angle) + second * jnp.sin(angle), share
    axis = jnp.asarray(axis, float)
    axis = jnp.broadcast_to((axis / jnp.linalg.norm(axis))[:, None], (3, number))
    first, second = _frame(axis)
    across = first * jnp.cos(angle) + second * jnp.sin(angle)
    sign = jnp.where(jax.random.bernoulli(turn_key, 0.5, (number,)), 1.0, -1.0)
    slab, flat = (axis * sign, across), (across, jnp.cross(axis, across, axis=0))
    if geometry == "slab":
        return *slab, share
    if geometry == "2d":
        return *flat, share
    is_slab = jnp.arange(number) % 2 == 0
    power = jnp.sum(jnp.where(is_slab, share, 0)), jnp.sum(jnp.where(is_slab, 0, share))
    share = share * jnp.where(is_slab, slab_fraction / power[0], (1 - slab_fraction) / power[1])
    return jnp.where(is_slab, slab[0], flat[0]), jnp.where(is_slab, slab[1], flat[1]), share


def _fibonacci_sphere(number: int) -> Float[np.ndarray, "3 number"]:
    """Nearly even directions; Gonzalez (2010), Math. Geosci. 42, 49."""
    index = np.arange(number) + 0.5
    z, longitude = 1 - 2 * index / number, math.pi * (1 + math.sqrt(5)) * index
    return np.stack([np.sqrt(1 - z**2) * np.cos(longitude), np.sqrt(1 - z**2) * np.sin(longitude), z])


def _random_rotation(key: Array) -> Float[Array, "3 3"]:
    """Uniform over all rotations, from a uniform unit quaternion: Shoemake (1992), Graphics Gems III, 124."""
    share, first, second = _uniform(key, (3,))
    a, b = jnp.sqrt(1 - share), jnp.sqrt(share)
    w, x = a * jnp.sin(2 * math.pi * first), a * jnp.cos(2 * math.pi * first)
    y, z = b * jnp.sin(2 * math.pi * second), b * jnp.cos(2 * math.pi * second)
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _frame(direction: Float[Array, "3 wave"]) -> tuple[Float[Array, "3 wave"], Float[Array, "3 wave"]]:
    """Two unit vectors across each direction; (first, second, direction) is right-handed."""
    near_pole = jnp.abs(direction[2]) > 0.9
    helper = jnp.where(near_pole, jnp.array([[1.0], [0.0], [0.0]]), jnp.array([[0.0], [0.0], [1.0]]))
    first = jnp.cross(helper, direction, axis=0)
    first = first / jnp.linalg.norm(first, axis=0)
    return first, jnp.cross(direction, first, axis=0)


# Sums of waves ------------------------------------------------------------------------------------------


@jax.custom_jvp
def _phase(wavevector: Float[Array, "3 wave"], position: Float[Array, "3 particle"]) -> Float[Array, "wave particle"]:
    # Element by element: it is then fused with what follows, and no accelerator rounds it to fewer bits as a
    # matrix product.
    return sum(wavevector[i][:, None] * position[i] for i in range(3))


def _phase_jvp(primals, tangents):
    """As matrix products: transposed, three sums over waves would each compute the waves again."""
    (wavevector, position), (q_dot, x_dot) = primals, tangents
    # Times one: XLA would otherwise fuse the look-up of a position kept for the way back into the loop over waves,
    # which is then ten times slower.
    position = jnp.dot(jnp.eye(3, dtype=position.dtype), position, precision=jax.lax.Precision.HIGHEST)
    turns = _phase(wavevector, position)
    change = jnp.zeros_like(turns)
    if type(x_dot) is not SymbolicZero:
        change = change + jnp.dot(wavevector.T, x_dot, precision=jax.lax.Precision.HIGHEST)
    if type(q_dot) is not SymbolicZero:
        change = change + jnp.dot(q_dot.T, position, precision=jax.lax.Precision.HIGHEST)
    return turns, change


_phase.defjvp(_phase_jvp, symbolic_zeros=True)


def _combine(vector: Float[Array, "3 wave"], wave: Float[Array, "wave particle"]) -> Float[Array, "3 particle"]:
    return jnp.dot(vector, wave, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _sine_coefficients(dtype) -> tuple[float, ...]:
    """Coefficients c_i of sin(2 pi v) = v sum_i c_i v^(2i) for |v| <= 1/4: to 4e-9, and to 2e-16 in 64 bits."""
    degree = 8 if jnp.finfo(dtype).bits == 64 else 4
    scaled = lambda u: 2 * math.pi * np.sinc(2 * np.sqrt(np.maximum(u, 0)))
    fit = np.polynomial.Chebyshev.interpolate(scaled, degree, domain=[0, 1 / 16])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


def _quarter_sine(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """sin(2 pi v) for |v| <= 1/4. A library's sine of 32-bit numbers is twenty times slower on a CPU."""
    *rest, last = _sine_coefficients(v.dtype)
    square = v * v
    total = jnp.full_like(v, last)
    for coefficient in reversed(rest):
        total = total * square + coefficient
    return v * total


def _cosine_of(turns: Float[Array, "..."]) -> Float[Array, "..."]:
    return _quarter_sine(0.25 - jnp.abs(turns - jnp.round(turns)))


@jax.custom_jvp
def _cosine(turns: Float[Array, "..."]) -> Float[Array, "..."]:
    """cos(2 pi turns)."""
    return _cosine_of(turns)


@_cosine.defjvp
def _cosine_jvp(primals, tangents):
    (turns,), (change,) = primals, tangents
    return _cosine(turns), -2 * math.pi * _cosine(turns - 0.25) * change


def _octave_sum(turns, cosine, sine):
    """sum_j [ cosine_j cos(2 pi 2^j turns) + sine_j sin(2 pi 2^j turns) ]; the coefficients have octaves first."""
    total = 0
    for octave in range(cosine.shape[0]):
        if octave % _RESTART == 0:
            angle = turns * 2.0**octave
            angle = angle - jnp.round(angle)
            far = jnp.abs(angle)
            c = _quarter_sine(0.25 - far)
            # The far half of each half turn is folded back: sin(pi - x) = sin x.
            s = jnp.copysign(_quarter_sine(0.25 - jnp.abs(far - 0.25)), angle)
        else:
            twice = c + c
            s, c = twice * s, twice * c - 1
        total = total + (cosine[octave][:, None] * c + sine[octave][:, None] * s)
    return total


@jax.custom_jvp
def _octaves(
    turns: Float[Array, "direction particle"],
    cosine: Float[Array, "octave direction"],
    sine: Float[Array, "octave direction"],
) -> Float[Array, "direction particle"]:
    return _octave_sum(turns, cosine, sine)


def _octaves_jvp(primals, tangents):
    """The derivative is a ladder with other coefficients: as cheap as the field, and nothing need be kept for it."""
    turns, cosine, sine = primals
    turns_dot, cosine_dot, sine_dot = tangents
    change = jnp.zeros_like(turns)
    if type(turns_dot) is not SymbolicZero:
        rate = 2 * math.pi * 2.0 ** np.arange(cosine.shape[0])[:, None].astype(turns.dtype)
        change = change + _octaves(turns, rate * sine, -rate * cosine) * turns_dot
    if type(cosine_dot) is not SymbolicZero or type(sine_dot) is not SymbolicZero:
        full = [jnp.zeros_like(cosine) if type(v) is SymbolicZero else v for v in (cosine_dot, sine_dot)]
        change = change + _octave_sum(turns, *full)
    return _octaves(turns, cosine, sine), change


_octaves.defjvp(_octaves_jvp, symbolic_zeros=True)
