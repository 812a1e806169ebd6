r"""Magnetic turbulence on nested periodic grids: a field for a few dozen table look-ups, however many waves it has.

Each level is a periodic cube with a band of wavelengths of its own; the bands follow one another without overlap. The
cubes are turned against each other, so that their periods nowhere line up. In a cube the field is a Fourier sum,

$$ B(x) = \sum_k b_k e^{i k \cdot x}, \qquad b_{-k} = b_k^*, \qquad k \cdot b_k = 0, $$

evaluated with B-splines. The component along an axis is of degree p + 1 along that axis and of degree p along the
two others, its nodes half a cell from theirs; its coefficients are those of the sum, each wave's divided by the
transform of the spline. Such splines form a complex under grad, curl and div (Buffa, Sangalli & Vazquez 2010, Comput.
Methods Appl. Mech. Eng. 199, 1143), so that **div B = 0 everywhere, between the nodes too**: its rms is 5e-16 of that
of grad B, and 3e-7 in 32 bits. Trilinear interpolation of the same waves has 0.14 where the shortest are four cells
long, and 0.09 over a Kolmogorov band from there up to eight times as long.

Division by the transform keeps the amplitude of every wave. Trilinear interpolation of sampled values would lower its
power by a factor of sinc^4(k_i h / 2) for each axis: by a third for the shortest waves at four cells, by 6 % over that
band. What is left are aliases, waves shorter than two cells: the mean square of the difference from the Fourier sum, by
which <B^2> exceeds its value. Of the power of the shortest waves, and in brackets of that of the band, they are

| cells per wave | linear, p = 1   | cubic, p = 2    |
|----------------|-----------------|-----------------|
| 4              | 0.7 % (4e-4)    | 0.05 % (2e-5)   |
| 6              | 0.1 % (7e-5)    | 3e-5 (1e-6)     |
| 8              | 0.03 % (2e-5)   | 4e-6 (2e-7)     |
"""

import difflib
import functools
import math
import os
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Int, Real

from .errors import InputError, is_known, require_float64
from .spectrum import Spectrum, band

_DEGREE = {"linear": 1, "cubic": 2}
_CELLS_PER_WAVE = 4
_WAVES_PER_BOX = 2
_ORIENTATIONS = 1024


# The field ----------------------------------------------------------------------------------------------------


class NestedGrids(eqx.Module):
    """Divergence-free turbulence on periodic cubes turned against each other.

    Positions of 32 bits are reduced to a period without loss, as products that can be large are exact: the field is
    that of 64 bits at the same position within 1e-6 of its rms, at 1 as at 1000 of its bend lengths (`BendOver`, waves
    from 0.01 to 100 of them). What remains is the rounding of the position itself; with it the error is 8e-7, 8e-6,
    8e-5 and 7e-4 of the rms at distances of 1, 10, 100 and 1000.

    Attributes:
        table: Spline coefficients, flat from (level, cell, cell, cell, 3); each cube continues periodically
            beyond its faces as far as a spline reaches.
        rotation: From the frame of positions to that of each cube, shape (level, 3, 3).
        turns_high: First 12 bits of rotation / period, shape (level, 3, 3).
        turns_low: The rest of them.
        cells: Cells along the edge of each cube.
        degree: p of the splines: 1, continuous, or 2, with continuous derivatives.
        smallest_wavelength: In the unit of positions.
    """

    table: Float[Array, " coefficient"]
    rotation: Float[Array, "level 3 3"]
    turns_high: Float[Array, "level 3 3"]
    turns_low: Float[Array, "level 3 3"]
    cells: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    smallest_wavelength: float = eqx.field(static=True)

    def __call__(self, position: Float[Array, "3 particle"]) -> Float[Array, "3 particle"]:
        high, low, rotation = (v.astype(position.dtype) for v in (self.turns_high, self.turns_low, self.rotation))
        field = _interpolate(self.table, self.cells * _turns(high, low, position), self.cells, self.degree)
        return jnp.tensordot(rotation, field, ((0, 1), (0, 1)), precision=jax.lax.Precision.HIGHEST)

    @property
    def periods(self) -> Float[Array, " level"]:
        """Edges of the cubes, largest first, in the unit of positions."""
        return 1 / jnp.linalg.norm((self.turns_high + self.turns_low)[:, 0], axis=-1)


def _turns(high: Array, low: Array, position: Float[Array, "3 particle"]) -> Float[Array, "level 3 particle"]:
    """Place in each cube in periods, from -1/2 to 1/2."""
    # 12 bits times 12 bits: exact in 32-bit floats, and whole periods fall away before anything is rounded.
    bits = jnp.finfo(position.dtype).nexp
    coarse = jax.lax.stop_gradient(jax.lax.reduce_precision(position, bits, 11))
    fine = position - coarse
    turns = 0
    # Term by term: jaxlib 0.10.2 and 0.11.0 get sums of broadcast products along an axis wrong on a CPU, of 32 bits and
    # under a vmap of derivatives (as in jax-ml/jax#39103).
    for j in range(3):
        high_j, low_j = high[..., j, None], low[..., j, None]
        exact = high_j * coarse[j]
        turns = turns + (exact - jnp.round(exact)) + (low_j * coarse[j] + (high_j + low_j) * fine[j])
    return turns - jnp.round(turns)


def _interpolate(
    table: Float[Array, " coefficient"], place: Float[Array, "level 3 particle"], cells: int, degree: int
) -> Float[Array, "level 3 particle"]:
    """Splines at places in units of cells, from -cells / 2 to cells / 2."""
    corner = jnp.floor(place)
    across, along = (_splines(place - corner, d) for d in (degree, degree + 1))
    index = corner.astype(jnp.int32)
    index = jnp.clip(jnp.where(index < 0, index + cells, index), 0, cells - 1)
    edge = _edge(cells, degree)
    level = jnp.arange(place.shape[0], dtype=jnp.int32)[:, None]
    base = 3 * (((level * edge + index[:, 0]) * edge + index[:, 1]) * edge + index[:, 2])
    return jnp.stack([_component(table, base, across, along, axis, edge) for axis in range(3)], axis=1)


def _component(table: Array, base: Int[Array, "level particle"], across: dict, along: dict, axis: int, edge: int):
    """One component: the sum over the nodes that reach the place, with indices that need no check."""
    x, y, z = (
        [(offset, weight[:, i]) for offset, weight in (along if i == axis else across).items()] for i in range(3)
    )
    total = jnp.zeros_like(x[0][1])
    for i, in_x in x:
        for j, in_y in y:
            line = jnp.zeros_like(total)
            for k, in_z in z:
                # One cell of the table precedes the cube.
                offset = 3 * (((i + 1) * edge + j + 1) * edge + k + 1) + axis
                line = line + in_z * table.at[base + offset].get(mode="promise_in_bounds").astype(total.dtype)
            total = total + in_x * in_y * line
    return total


def _splines(u: Float[Array, "..."], degree: int) -> dict[int, Float[Array, "..."]]:
    """Values, u of the way through a cell, of the B-splines that reach it, by their node's offset from the cell.

    Nodes of odd degree stand at the beginning of a cell, those of even degree in its middle.
    """
    v = 1 - u
    if degree == 1:
        return {0: v, 1: u}
    if degree == 2:
        return {-1: v**2 / 2, 0: 0.75 - (u - 0.5) ** 2, 1: u**2 / 2}
    return {-1: v**3 / 6, 0: (4 - 3 * u**2 * (1 + v)) / 6, 1: (4 - 3 * v**2 * (1 + u)) / 6, 2: u**3 / 6}


def _edge(cells: int, degree: int) -> int:
    """Cells along the edge of a table: splines of degree p + 1 reach one cell back and p forward."""
    return cells + 1 + degree


# Draws --------------------------------------------------------------------------------------------------------


def draw_grids(
    key: Array,
    spectrum: Spectrum,
    cells: int = 64,
    levels: int | None = None,
    *,
    rms: Real[ArrayLike, ""] = 1.0,
    helicity: Real[ArrayLike, ""] = 0.0,
    interpolation: str = "linear",
    dtype=None,
) -> NestedGrids:
    """Draw isotropic turbulence on nested grids.

    The band is split into as many parts, equal in ln k, as there are levels. A cube is at least two of its longest
    waves wide, and its shortest wave at least four cells long; levels or cells beyond what that needs widen
    the cube and refine the cells alike. The power of each wave is exactly its share of the spectrum, and only its phase
    and polarisation are random: <B^2> = rms^2 in each realisation, averaged over space, as with plane waves, but for
    the aliases. The coherence length is that of the spectrum within 0.2 %.

    A level costs as much as any other: large cells take fewer levels, but leave the processor's cache (128 cells take
    26 MB a level in 32 bits).

    Args:
        key: Key of jax.random; the same key gives the same field, in 32 bits to its rounding.
        spectrum: One of `diffcr.spectrum`.
        cells: Cells along the edge of each cube, at least 16; fastest to draw for products of small primes.
        levels: Number of cubes; as few as possible if not given.
        rms: Root mean square of the field, all three components together.
        helicity: sigma from -1 to 1: <B . curl B> = sigma k <B^2> of the waves of wavenumber k.
        interpolation: "linear": continuous; "cubic": with continuous derivatives, two to three times slower.
        dtype: Of the table; the default float. The field takes positions of either precision with either.

    Returns:
        The field, with wavelengths in the unit of the spectrum.

    Raises:
        InputError: If a number is out of range, the levels too few, the interpolation unknown, or the memory too small.

    References:
        Giacinti, Kachelriess, Semikoz & Sigl (2012), JCAP 07, 031, for nested grids.
    """
    _require_draw(spectrum, cells, rms, helicity, interpolation)
    dtype, degree = _table_type(dtype), _DEGREE[interpolation]
    smallest, largest = float(spectrum.smallest), float(spectrum.largest)
    levels = _num_levels(cells, levels, largest / smallest)
    _require_memory(cells, levels, interpolation, dtype)
    ratio = (largest / smallest) ** (1 / levels)
    waves = int(_WAVES_PER_BOX * math.sqrt(cells / (_CELLS_PER_WAVE * _WAVES_PER_BOX * ratio)) + 1e-9)
    period = waves * largest / ratio ** np.arange(levels)

    turn_key, wave_key = jax.random.split(key)
    which = jax.random.randint(turn_key, (levels,), 0, _ORIENTATIONS, jnp.int32)
    rotation, high, low = (jnp.asarray(v, float)[which, np.arange(levels)] for v in _orientations(period))
    table = _table(
        jax.random.split(wave_key, levels),
        (rms * _moduli(spectrum, period, waves, ratio)).astype(dtype),
        jnp.asarray(helicity, dtype),
        cells=cells,
        degree=degree,
    )
    return NestedGrids(table, rotation, high, low, cells, degree, smallest)


class GridMemory(NamedTuple):
    """Memory of nested grids in bytes: of the field, and at most while it is drawn."""

    field: int
    drawing: int


def grid_memory(cells: int, levels: int, interpolation: str = "linear", dtype=None) -> GridMemory:
    """Memory that `draw_grids` will take, computed without taking any. Its arguments are as there."""
    cube = 3 * _edge(cells, _DEGREE[interpolation]) ** 3 * _table_type(dtype).itemsize
    # A level's waves, their transform and its layout come and go while the table fills.
    return GridMemory(levels * cube, (levels + 4) * cube)


def _num_levels(cells: int, levels: int | None, ratio: float) -> int:
    reach = cells / (_CELLS_PER_WAVE * _WAVES_PER_BOX)
    needed = max(1, math.ceil(math.log(ratio) / math.log(reach) - 1e-9))
    if levels is None:
        return needed
    if isinstance(levels, bool) or not isinstance(levels, int | np.integer) or levels < 1:
        raise InputError(f"levels of nested grids must be a whole number of at least 1, not {levels!r}")
    if levels < needed:
        enough = math.ceil(_CELLS_PER_WAVE * _WAVES_PER_BOX * ratio ** (1 / levels) - 1e-9)
        raise InputError(
            f"{levels} levels of {cells} cells hold wavelengths up to a ratio of {reach**levels:.4g}, but the spectrum "
            f"spans {ratio:.4g}: take {needed} levels, or {enough} cells"
        )
    return int(levels)


def _moduli(
    spectrum: Spectrum, period: Float[np.ndarray, " level"], waves: int, ratio: float
) -> Float[Array, "level square"]:
    """|b_k| of wavevectors 2 pi n / period by n^2, for rms = 1; zero outside the band, waves <= |n| < waves * ratio.

    Each |n| that occurs stands for the wavenumbers nearest to it, and its wavevectors share their power.
    """
    end = waves * ratio
    square = np.arange(math.ceil(end**2 - 1e-9) + 1)
    lattice = _lattice(math.isqrt(len(square)))
    # Of n and -n one is listed, except where n_z = 0.
    number = np.bincount(np.sum(lattice**2, axis=0).ravel(), 1.0 + (lattice[2] > 0).ravel())[: len(square)]
    used = np.flatnonzero((square >= waves**2) & (square < square[-1]) & (number > 0))
    middle = (np.sqrt(used[1:]) + np.sqrt(used[:-1])) / 2
    edge = 2 * np.pi / period[:, None] * np.concatenate([[waves], middle, [end]])

    node, weight = np.polynomial.legendre.leggauss(12)
    half = np.diff(edge)[..., None] / 2
    k = np.clip(edge[:, :-1, None] + half * (1 + node), *band(spectrum))
    power = jnp.sum(half * weight * spectrum.power(k), axis=-1)
    share = power / jnp.sum(power)
    # The square root has no derivative where there is no power.
    return (
        jnp.zeros((len(period), len(square)))
        .at[:, used]
        .set(jnp.where(share > 0, jnp.sqrt(jnp.where(share > 0, share, 1.0) / number[used]), 0.0))
    )


def _lattice(radius: int) -> Int[np.ndarray, "3 x y z"]:
    """Wavevectors n with components from -radius to radius, and n_z from 0 on."""
    line = np.arange(-radius, radius + 1)
    return np.stack(np.meshgrid(line, line, line[radius:], indexing="ij"))


@functools.partial(jax.jit, static_argnames=("cells", "degree"))
def _table(keys: Array, moduli: Float[Array, "level square"], helicity: Float[Array, ""], *, cells: int, degree: int):
    """Coefficients of all levels, flat, one level after the other so that the work space is that of one."""
    level = lambda of: _coefficients(_waves(*of, helicity), cells, degree)
    return jax.lax.map(level, (keys, moduli)).ravel()


def _waves(key: Array, moduli: Float[Array, " square"], helicity: Float[Array, ""]) -> Complex[Array, "3 x y z"]:
    """b_k of a real field without divergence, on `_lattice`: both circular polarisations with random phases.

    Of e_+- = (u +- i v) / sqrt(2), with (u, v, k) right-handed, i k x e_+- = +- |k| e_+-.
    """
    lattice = _lattice(math.isqrt(len(moduli) - 1))
    square = np.sum(lattice**2, axis=0)
    n = jnp.asarray(lattice, moduli.dtype)
    flat = jnp.sqrt(jnp.maximum(n[0] ** 2 + n[1] ** 2, 1))
    u = jnp.stack([jnp.where(lattice[0] ** 2 + lattice[1] ** 2, -n[1] / flat, 1), n[0] / flat, jnp.zeros_like(flat)])
    v = jnp.cross(n / jnp.sqrt(np.maximum(square, 1)).astype(n.dtype), u, axis=0)

    # In 32 bits whatever the default: the same numbers.
    angle = 2 * np.pi * jax.random.uniform(key, (2, *square.shape), jnp.float32).astype(n.dtype)
    size = moduli[np.minimum(square, len(moduli) - 1)] / 2
    plus, minus = size * jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
    b = jnp.sqrt(1 + helicity) * plus * (u + 1j * v) + jnp.sqrt(1 - helicity) * minus * (u - 1j * v)
    # b_-k = b_k^* where both are listed.
    first = (lattice[1] > 0) | ((lattice[1] == 0) & (lattice[0] > 0))
    return b.at[..., 0].set(jnp.where(first[..., 0], b[..., 0], jnp.conj(b[:, ::-1, ::-1, 0])))


def _coefficients(b: Complex[Array, "3 x y z"], cells: int, degree: int) -> Float[Array, "edge edge edge 3"]:
    """Spline coefficients whose waves have the amplitudes b, continued beyond the faces of the cube."""
    radius = b.shape[-1] - 1
    turn = np.arange(-radius, radius + 1) / cells

    def transform(degree):
        # Nodes of even degree stand half a cell further.
        return np.exp(1j * np.pi * turn * (degree % 2 - 1)) * np.sinc(turn) ** (degree + 1)

    across, along = transform(degree), transform(degree + 1)
    room = cells - len(turn)

    def component(axis):
        x, y, z = (1 / (along if i == axis else across) for i in range(3))
        divided = b[axis] * jnp.asarray(x[:, None, None] * y[:, None] * z[radius:], b.dtype)
        full = jnp.pad(divided, ((0, room), (0, room), (0, cells // 2 - radius)))
        values = jnp.fft.irfftn(jnp.roll(full, (-radius, -radius), (0, 1)), (cells, cells, cells), norm="forward")
        return jnp.pad(values, (1, degree), mode="wrap")

    return jnp.stack([component(axis) for axis in range(3)], axis=-1)


def _orientations(period: Float[np.ndarray, " level"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations even over all there are, and first 12 bits and rest of each over each period: (turn, level, 3, 3).

    A fixed set, because the drawn rotation has to be known to more than 32 bits where JAX has no more.

    References:
        Alexa (2022), CVPR, 8281, for the super-Fibonacci spiral; its constants from memory.
    """
    index = np.arange(_ORIENTATIONS) + 0.5
    share = index / _ORIENTATIONS
    first, second = 2 * np.pi * index / math.sqrt(2), 2 * np.pi * index / 1.533751168755204288118041
    a, b = np.sqrt(share), np.sqrt(1 - share)
    w, x, y, z = a * np.sin(first), a * np.cos(first), b * np.sin(second), b * np.cos(second)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)[:, None]
    turns = rotation / period[:, None, None]
    mantissa, exponent = np.frexp(turns)
    high = np.ldexp(np.round(mantissa * 2**12), exponent - 12)
    return np.broadcast_to(rotation, turns.shape), high, turns - high


# Checks -------------------------------------------------------------------------------------------------------


def _table_type(dtype) -> np.dtype:
    dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    if dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"dtype of nested grids must be float32 or float64, not {dtype}")
    if dtype == jnp.float64:
        require_float64("a table of dtype float64")
    return dtype


def _require_draw(spectrum, cells, rms, helicity, interpolation) -> None:
    if not (is_known(spectrum.smallest) and is_known(spectrum.largest)):
        raise InputError("the wavelengths of nested grids decide their shapes: give plain numbers, not traced ones")
    least = 2 * _CELLS_PER_WAVE * _WAVES_PER_BOX
    if isinstance(cells, bool) or not isinstance(cells, int | np.integer) or cells < least:
        raise InputError(f"cells of nested grids must be a whole number of at least {least}, not {cells!r}")
    if is_known(rms) and not (np.isfinite(rms) and rms >= 0):
        raise InputError(f"rms of turbulence must be finite and not negative, not {rms!r}")
    if is_known(helicity) and not -1 <= helicity <= 1:
        raise InputError(f"helicity of turbulence lies between -1 and 1, not {helicity!r}")
    if interpolation not in _DEGREE:
        near = difflib.get_close_matches(str(interpolation).lower(), _DEGREE, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose linear or cubic"
        raise InputError(f"unknown interpolation {interpolation!r}: {hint}")


def _require_memory(cells: int, levels: int, interpolation: str, dtype) -> None:
    """Raise where the grids do not fit: also 2^31 coefficients, which indices of 32 bits cannot tell apart."""
    needed, available = grid_memory(cells, levels, interpolation, dtype), _available_memory()
    if needed.drawing > available:
        raise InputError(
            f"{levels} levels of {cells} cells take {needed.drawing / 2**30:.3g} GiB to draw, more than the "
            f"{available / 2**30:.3g} GiB of memory available: take fewer cells (and more levels), or float32"
        )
    if needed.field // dtype.itemsize >= 2**31:
        raise InputError(
            f"{levels} levels of {cells} cells have {needed.field // dtype.itemsize:.3g} coefficients, more than 2^31: "
            "take fewer cells"
        )


def _available_memory() -> float:
    """Bytes that the default device has left, as far as it tells; else those of this machine, else infinity."""
    device = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in device:
        return device["bytes_limit"] - device.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf
