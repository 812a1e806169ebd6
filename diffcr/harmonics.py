r"""Real spherical harmonics on the ring grid and at directions, C_l, and the way to the dipole and healpy.

A field is $f(n) = \sum_{lm} s_{lm} R_{lm}(n)$; longitude is right ascension, latitude is declination. The
basis has no Condon-Shortley phase and is orthonormal over the sphere:

$$ R_{l0} = Y_{l0}, \quad R_{l,m} = (-1)^m \sqrt2\, \mathrm{Re}\, Y_{lm}, \quad
   R_{l,-m} = (-1)^m \sqrt2\, \mathrm{Im}\, Y_{lm} \quad (m > 0), $$

so m > 0 goes with cos(m RA) and m < 0 with sin(|m| RA). Coefficients have shape (..., (l_max + 1)**2), with
(l, m) at `index(l, m)`. The Legendre functions are fully normalised and formed in 64-bit floats on the host,
good to l of about 1000; `evaluate` and `rotate` in 32-bit floats are good to l of about 200, where
cos(dec)^m underflows.
"""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Int

from .errors import InputError, is_known
from .grid import RingGrid

AnyArray = Array | np.ndarray

# These functions are jitted here, and not only where they are used, because outside jit every call would
# compile its scans anew, and a synthesis would take ten times as long.


def index(l: int, m: int) -> int:
    """Place of the coefficient s_lm, m = -l..l, along the last axis."""
    if abs(m) > l:
        raise InputError(f"there is no multipole (l, m) = ({l}, {m}): the order m goes from -l to l")
    return l * l + l + m


def degrees_and_orders(l_max: int) -> tuple[Int[np.ndarray, " coefficient"], Int[np.ndarray, " coefficient"]]:
    """Degree l and order m of every coefficient, in the order of the last axis."""
    _require_degree(l_max)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    return degree, np.arange((l_max + 1) ** 2) - degree * degree - degree


def ring_basis(grid: RingGrid, l_max: int, cell_average: bool = True) -> Float[np.ndarray, "l m ring"]:
    """The basis on the rings of a grid: its amplitude in right ascension, for m >= 0.

    R_{l,m} = basis[l, m, ring] cos(m RA) and R_{l,-m} = basis[l, m, ring] sin(m RA) at the bin centres RA.

    Args:
        grid: The ring grid.
        l_max: Highest degree.
        cell_average: Whether to average over the solid angle of each cell, which is what binned counts see;
            otherwise the value at the cell centre.

    Returns:
        Read-only 64-bit array of shape (l_max + 1, l_max + 1, n_ring), zero where m > l.
    """
    _require_degree(l_max)
    return _ring_basis(grid.n_ring, grid.n_ra, l_max, cell_average)


@partial(jax.jit, static_argnames="cell_average")
def synthesis(
    coefficients: Float[AnyArray, "*batch coefficient"], grid: RingGrid, cell_average: bool = False
) -> Float[Array, "*batch ring ra"]:
    """The field on a ring grid: Legendre sums for each order m, then one FFT along each ring.

    Args:
        coefficients: Real multipoles, shape (..., (l_max + 1)**2).
        grid: The ring grid, with n_ra > 2 l_max.
        cell_average: Give the solid-angle average over each cell, in place of the value at its centre.

    Returns:
        Field of shape (..., n_ring, n_ra), in the unit of the coefficients.

    Raises:
        InputError: If the grid has too few right-ascension bins for this l_max.
    """
    coefficients = _floats(coefficients)
    l_max = _l_max(coefficients)
    _require_bins(grid, l_max)
    dtype = coefficients.dtype
    table = _table(grid.n_ring, grid.n_ra, l_max, cell_average, dtype.name)
    cosine, sine = _places(l_max)
    flat = coefficients.reshape(-1, coefficients.shape[-1])
    parts = jnp.stack([flat[:, cosine], flat[:, sine]])
    modes = jnp.einsum("mrl,kbml->kbrm", table, parts, precision=jax.lax.Precision.HIGHEST)
    # irfft wants the amplitudes n/2 (C - iS) at bin starts; ours are at the centres, half a bin later.
    orders = np.arange(l_max + 1)
    turn = np.where(orders == 0, 1, 0.5) * grid.n_ra * np.exp(0.5j * orders * grid.step)
    turn = jnp.asarray(turn, jnp.result_type(dtype, jnp.complex64))
    sky = jnp.fft.irfft(jax.lax.complex(modes[0], -modes[1]) * turn[None, None], n=grid.n_ra, axis=-1)
    return sky.reshape(*coefficients.shape[:-1], *grid.shape)


def analysis(sky: Float[AnyArray, "*batch ring ra"], grid: RingGrid, l_max: int) -> Float[Array, "*batch coefficient"]:
    """Multipoles of a field given at the cell centres, the inverse of `synthesis`.

    Fejer's first rule in cos(theta) (its nodes are the ring centres) makes this exact for a field without
    power above l_max; power above it leaks in. Cell averages come out smoothed by the cell's window.

    Args:
        sky: Field at the cell centres, shape (..., n_ring, n_ra), finite everywhere.
        grid: The ring grid, with n_ring > 2 l_max and n_ra > 2 l_max.
        l_max: Highest degree.

    Returns:
        Coefficients of shape (..., (l_max + 1)**2).

    Raises:
        InputError: If the grid is too coarse for l_max, the sky has another shape, or is not finite.
    """
    if sky.shape[-2:] != grid.shape:
        raise InputError(
            f"sky has shape {sky.shape}, but the grid has {grid.n_ring} rings of {grid.n_ra} cells: "
            "pass the grid the map was made on"
        )
    if l_max > (grid.n_ring - 1) // 2:
        raise InputError(
            f"l_max = {l_max} cannot be analysed exactly on {grid.n_ring} rings: use at least "
            f"{2 * l_max + 1} rings, or l_max <= {(grid.n_ring - 1) // 2}"
        )
    _require_bins(grid, l_max)
    if is_known(sky):
        bad = np.argwhere(~np.isfinite(np.asarray(sky)))
        if len(bad):
            raise InputError(
                f"sky must be finite for a harmonic analysis: {len(bad)} of {sky.size} cells are not, "
                f"the first is sky{bad[0].tolist()}; fill the unexposed cells, or fit the multipoles"
            )
    return _analysis(_floats(sky), grid, l_max)


@jax.jit
def evaluate(
    coefficients: Float[AnyArray, "*batch coefficient"], longitude: ArrayLike, latitude: ArrayLike
) -> Float[Array, "*result"]:
    """The field at given directions; smooth there, poles included.

    For whole maps `synthesis` is far faster: this costs a few (l_max + 1)**2 operations per direction.

    Args:
        coefficients: Real multipoles, shape (*batch, (l_max + 1)**2).
        longitude: Right ascension [rad].
        latitude: Declination [rad]; it and the longitude broadcast to the shape (*points).

    Returns:
        Field of shape (*batch, *points), in the unit of the coefficients.
    """
    longitude, latitude = jnp.broadcast_arrays(_floats(longitude), _floats(latitude))
    level = jnp.cos(latitude)
    x, y, z = level * jnp.cos(longitude), level * jnp.sin(longitude), jnp.sin(latitude)
    return _at_directions(_floats(coefficients), jnp.stack([x, y, z], axis=-1))


@jax.jit
def evaluate_at(
    coefficients: Float[AnyArray, "*batch coefficient"], direction: Float[AnyArray, "*points 3"]
) -> Float[Array, "*result"]:
    """As `evaluate`, at unit vectors of shape (*points, 3): nothing singular in value or gradient anywhere."""
    return _at_directions(_floats(coefficients), _floats(direction))


def rotate(
    coefficients: Float[AnyArray, "*batch coefficient"], matrix: Float[AnyArray, "3 3"]
) -> Float[Array, "*batch coefficient"]:
    """Multipoles of the rotated field f'(R n) = f(n): what stood at n now stands at R n.

    With R the matrix that turns coordinates of one frame into those of another (R @ n_old = n_new), these are
    the multipoles of the same sky in the new frame. Exact: the rotated field is evaluated on a grid that
    integrates it exactly. -R, a rotation and a parity, is allowed.

    Raises:
        InputError: If the matrix is not orthogonal to 1e-5.
    """
    coefficients, matrix = _floats(coefficients), _floats(matrix)
    if is_known(matrix):
        deviation = np.max(np.abs(np.asarray(matrix) @ np.asarray(matrix).T - np.eye(3)))
        if not deviation < 1e-5:
            raise InputError(
                f"matrix must be a rotation: R R^T differs from the identity by {deviation:.1e}; "
                "its columns are the images of the three axes, orthogonal and of unit length"
            )
    return _rotate(coefficients, matrix)


@jax.jit
def dipole_to_coefficients(dipole: Float[AnyArray, "*batch 3"]) -> Float[Array, "*batch 4"]:
    """Multipoles up to l = 1 of the field delta . n: zero, then sqrt(4 pi / 3) (delta_6h, delta_N, delta_0h).

    The components of the dipole are towards RA 0 h, RA 6 h and the north pole, (delta_0h, delta_6h, delta_N).
    """
    x, y, z = jnp.moveaxis(_floats(dipole), -1, 0) * math.sqrt(4 * math.pi / 3)
    return jnp.stack([jnp.zeros_like(x), y, z, x], axis=-1)


@jax.jit
def coefficients_to_dipole(coefficients: Float[AnyArray, "*batch coefficient"]) -> Float[Array, "*batch 3"]:
    """Dipole vector (delta_0h, delta_6h, delta_N) of the multipoles of a relative intensity, l_max >= 1."""
    coefficients = _floats(coefficients)
    if _l_max(coefficients) < 1:
        raise InputError("a monopole alone has no dipole: coefficients need 4 entries or more (l_max >= 1)")
    places = np.array([index(1, 1), index(1, -1), index(1, 0)])
    return coefficients[..., places] * math.sqrt(3 / (4 * math.pi))


@jax.jit
def power_spectrum(coefficients: Float[AnyArray, "*batch coefficient"]) -> Float[Array, "*batch l"]:
    """Angular power C_l = sum over m of s_lm^2 / (2 l + 1), l = 0 to l_max; C_1 = (4 pi / 9) |delta|^2."""
    coefficients = _floats(coefficients)
    degree, _ = degrees_and_orders(_l_max(coefficients))
    power = jnp.zeros((*coefficients.shape[:-1], degree[-1] + 1), coefficients.dtype)
    weight = jnp.asarray(1 / (2 * degree + 1), coefficients.dtype)
    return power.at[..., degree].add(jnp.einsum("...i,...i,i->...i", coefficients, coefficients, weight))


@jax.jit
def two_point(power: Float[AnyArray, "*batch l"], cos_eta: ArrayLike) -> Float[Array, "*result"]:
    r"""Two-point correlation of a field of given power at angular separation eta,

    $$ \xi(\eta) = \frac{1}{4\pi} \sum_l (2 l + 1) C_l P_l(\cos\eta). $$

    Args:
        power: C_l from l = 0, shape (*batch, l_max + 1).
        cos_eta: Cosine of the separation, shape (*points).

    Returns:
        xi of shape (*batch, *points); at cos_eta = 1 it is the variance of the field.
    """
    power, cos_eta = _floats(power), _floats(cos_eta)
    l_max = power.shape[-1] - 1
    rows = tuple(row[0] for row in _recursion_by_order(l_max, cos_eta.dtype))
    # lambda_l0 = sqrt((2 l + 1) / 4 pi) P_l, so one more such factor makes the weight of P_l.
    weight = jnp.asarray(np.sqrt((2 * np.arange(l_max + 1) + 1) / (4 * np.pi)), power.dtype)
    weighted = power.reshape(-1, l_max + 1) * weight[None]
    values = _map(lambda z: _dot(weighted, _legendre_at(z, rows)), cos_eta.reshape(-1))
    return values.T.reshape(*power.shape[:-1], *cos_eta.shape)


def power_from_two_point(values: Float[AnyArray, "*batch node"], l_max: int) -> Float[Array, "*batch l"]:
    r"""C_l = 2 pi times the integral of xi P_l over cos(eta), the inverse of `two_point`.

    Args:
        values: xi at the n nodes of cos(eta) from `numpy.polynomial.legendre.leggauss(n)`, ascending.
        l_max: Highest degree, below n.

    Returns:
        C_l, shape (..., l_max + 1); exact where xi has no power above 2 n - 1 - l_max.
    """
    values = _floats(values)
    nodes = values.shape[-1]
    if l_max >= nodes:
        raise InputError(f"l_max = {l_max} needs more than {nodes} Gauss-Legendre nodes: use at least {l_max + 1}")
    cosine, weight = np.polynomial.legendre.leggauss(nodes)
    matrix = 2 * np.pi * weight[:, None] * np.polynomial.legendre.legvander(cosine, l_max)
    return _dot(values, jnp.asarray(matrix, values.dtype))


def to_healpy(coefficients: Float[AnyArray, "*batch coefficient"]) -> Complex[np.ndarray, "*batch alm"]:
    """Complex a_lm (Condon-Shortley phase) in the order of healpy: every l for m = 0, then for m = 1, ..."""
    coefficients = np.asarray(coefficients, float)
    l_max = _l_max(coefficients)
    degree, order = _healpy_order(l_max)
    middle = degree * degree + degree
    alm = coefficients[..., middle + order] - 1j * coefficients[..., middle - order]
    return np.where(order == 0, coefficients[..., middle], alm * (-1.0) ** order / np.sqrt(2))


def from_healpy(alm: Complex[np.ndarray, "*batch alm"], l_max: int) -> Float[Array, "*batch coefficient"]:
    """Real multipoles up to l_max of complex a_lm in healpy's order; those above l_max are dropped.

    Raises:
        InputError: If alm is not a full triangle (m up to l), or reaches less far than l_max.
    """
    count = alm.shape[-1]
    stored = (math.isqrt(8 * count + 1) - 3) // 2
    if count != (stored + 1) * (stored + 2) // 2 or count == 0:
        raise InputError(f"alm must have (l_max + 1)(l_max + 2)/2 entries, not {count}: compute it with mmax = lmax")
    if l_max > stored:
        raise InputError(f"alm reaches l = {stored}, not l_max = {l_max}: compute it with lmax = {l_max} or more")
    degree, order = degrees_and_orders(l_max)
    size = np.abs(order)
    values = alm[..., size * (2 * stored + 1 - size) // 2 + degree]
    phase = (-1.0) ** order * np.sqrt(2)
    parts = np.where(order > 0, phase * values.real, -phase * values.imag)
    return jnp.asarray(np.where(order == 0, values.real, parts))


def _floats(values: ArrayLike) -> Array:
    """As a JAX array of floats: 32-bit ones stay 32-bit, whole numbers become the default float type."""
    values = jnp.asarray(values)
    return values.astype(jnp.result_type(values.dtype, float))


def _l_max(coefficients: AnyArray) -> int:
    count = coefficients.shape[-1] if coefficients.ndim else 0
    l_max = math.isqrt(count) - 1
    if count == 0 or (l_max + 1) ** 2 != count:
        raise InputError(
            f"coefficients must have (l_max + 1)**2 = 1, 4, 9, ... entries along the last axis, not {count}"
        )
    return l_max


def _require_bins(grid: RingGrid, l_max: int) -> None:
    if 2 * l_max >= grid.n_ra:
        raise InputError(
            f"a grid of {grid.n_ra} right-ascension bins is too coarse for l_max = {l_max}: use n_ra >= "
            f"{2 * l_max + 1}, or l_max <= {(grid.n_ra - 1) // 2}"
        )


def _require_degree(l_max: int) -> None:
    if l_max < 0:
        raise InputError(f"l_max must be 0 or more, not {l_max}")


@partial(jax.jit, static_argnames="l_max")
def _analysis(sky: Array, grid: RingGrid, l_max: int) -> Array:
    dtype = sky.dtype
    table = _table(grid.n_ring, grid.n_ra, l_max, False, dtype.name)
    flat = sky.reshape(-1, *grid.shape)
    orders = np.arange(l_max + 1)
    turn = np.outer(_fejer_weights(grid.n_ring) * grid.step, np.exp(-0.5j * orders * grid.step))
    turn = jnp.asarray(turn, jnp.result_type(dtype, jnp.complex64))
    modes = jnp.fft.rfft(flat, axis=-1)[..., : l_max + 1] * turn[None]
    parts = jnp.stack([modes.real, -modes.imag])
    sums = jnp.einsum("mrl,kbrm->kbml", table, parts, precision=jax.lax.Precision.HIGHEST)
    degree, order = degrees_and_orders(l_max)
    values = sums[np.where(order < 0, 1, 0), :, np.abs(order), degree].T
    return values.reshape(*sky.shape[:-2], -1)


@jax.jit
def _rotate(coefficients: Array, matrix: Array) -> Array:
    l_max = _l_max(coefficients)
    size = max(4, 2 * l_max + 2)
    grid = RingGrid(size, size)
    dec, ra = np.meshgrid(grid.declination, grid.right_ascension, indexing="ij")
    new = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    # A row vector times R is R^T n: the direction that is carried to n.
    old = _dot(jnp.asarray(new, matrix.dtype), matrix)
    return _analysis(_at_directions(coefficients, old), grid, l_max)


def _places(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Where s_lm and s_l,-m stand, both [m, l]; 0 where m > l, as the basis is zero there."""
    order, degree = np.ogrid[: l_max + 1, : l_max + 1]
    middle = degree * degree + degree
    return tuple(np.where(order <= degree, middle + sign * order, 0) for sign in (1, -1))


def _healpy_order(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.repeat(np.arange(l_max + 1), np.arange(l_max + 1, 0, -1))
    degree = np.concatenate([np.arange(m, l_max + 1) for m in range(l_max + 1)])
    return degree, order


@lru_cache(maxsize=16)
def _recursion(l_max: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Constants of lambda_lm = a_lm (z lambda_{l-1,m} - b_lm lambda_{l-2,m}), lambda_mm = seed_m cos(dec)^m.

    lambda_lm cos(m RA) and lambda_lm sin(m RA) are R_{l,m} and R_{l,-m}: the seeds hold the sqrt(2) of m > 0.
    a is zero for l <= m. Holmes & Featherstone (2002), J. Geodesy 76, 279.
    """
    l, m = np.ogrid[: l_max + 1, : l_max + 1]
    gap = np.where(l > m, l * l - m * m, 1)
    a = np.where(l > m, np.sqrt(np.maximum(4.0 * l * l - 1, 0) / gap), 0.0)
    b = np.where(l > m, np.sqrt(np.maximum((l - 1.0) ** 2 - m * m, 0) / np.abs(4.0 * (l - 1) ** 2 - 1)), 0.0)
    k = np.arange(1, l_max + 1)
    seed = np.concatenate([[1.0], np.sqrt(2) * np.cumprod(np.sqrt((2 * k + 1) / (2 * k)))])
    seed /= np.sqrt(4 * np.pi)
    for array in (a, b, seed):
        array.flags.writeable = False
    return a, b, seed


def _legendre(declination: np.ndarray, l_max: int) -> np.ndarray:
    """lambda_lm at declinations [rad], shape (l_max + 1, l_max + 1, n); zero where m > l."""
    a, b, seed = _recursion(l_max)
    z, level = np.sin(declination), np.cos(declination)
    values = np.zeros((l_max + 1, l_max + 1, len(z)))
    for l in range(l_max + 1):
        if l:
            values[l] = a[l, :, None] * z * values[l - 1]
        if l > 1:
            values[l] -= (a[l] * b[l])[:, None] * values[l - 2]
        values[l, l] = seed[l] * level**l
    return values


@lru_cache(maxsize=4)
def _ring_basis(n_ring: int, n_ra: int, l_max: int, cell_average: bool) -> np.ndarray:
    grid = RingGrid(n_ring, n_ra)
    if not cell_average:
        basis = _legendre(grid.declination, l_max)
    else:
        width = np.pi / n_ring
        # p Gauss-Legendre nodes integrate a wave of phase l width / 2 to rounding once p exceeds it by 12.
        node, weight = np.polynomial.legendre.leggauss(12 + math.ceil(l_max * width / 2))
        basis = np.zeros((l_max + 1, l_max + 1, n_ring))
        area = np.zeros(n_ring)
        for x, w in zip(node, weight, strict=True):
            declination = grid.declination + x * width / 2
            basis += w * np.cos(declination) * _legendre(declination, l_max)
            area += w * np.cos(declination)
        basis /= area
        # np.sinc(x) is sin(pi x) / (pi x).
        basis *= np.sinc(np.arange(l_max + 1) / n_ra)[:, None]
    basis.flags.writeable = False
    return basis


@lru_cache(maxsize=8)
def _table(n_ring: int, n_ra: int, l_max: int, cell_average: bool, dtype: str) -> np.ndarray:
    """The basis as [m, ring, l], contiguous along the sum of a synthesis."""
    table = np.ascontiguousarray(_ring_basis(n_ring, n_ra, l_max, cell_average).transpose(1, 2, 0), dtype)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=16)
def _fejer_weights(n_ring: int) -> np.ndarray:
    """Weights of the ring centres for integrals over sin(dec). Waldvogel (2006), BIT 46, 195."""
    theta = (np.arange(n_ring) + 0.5) * np.pi / n_ring
    k = np.arange(1, n_ring // 2 + 1)
    weights = 2 / n_ring * (1 - 2 * np.cos(2 * np.outer(theta, k)) @ (1 / (4.0 * k * k - 1)))
    weights.flags.writeable = False
    return weights


def _recursion_by_order(l_max: int, dtype) -> tuple[Array, Array, Array]:
    """a, a b and the seed (at l = m) of `_recursion`, each [m, l]."""
    a, b, seed = _recursion(l_max)
    return tuple(jnp.asarray(row.T, dtype) for row in (a, a * b, np.diag(seed)))


def _legendre_at(z: Float[Array, ""], rows: tuple[Array, Array, Array]) -> Float[Array, " l"]:
    """lambda_lm(z) / cos(dec)^m of one order m: polynomials in z = sin(dec), smooth at the poles."""

    def step(carry, row):
        before, last = carry
        a, ab, seed = row
        value = a * z * last - ab * before + seed
        return (last, value), value

    return jax.lax.scan(step, (jnp.zeros_like(z), jnp.zeros_like(z)), rows)[1]


def _at_directions(
    coefficients: Float[Array, "*batch coefficient"], direction: Float[Array, "*points 3"]
) -> Float[Array, "*result"]:
    """The field at unit vectors: polynomials in z times the real and imaginary part of (x + i y)^m."""
    l_max = _l_max(coefficients)
    dtype = jnp.result_type(coefficients, direction)
    flat = coefficients.reshape(-1, coefficients.shape[-1]).astype(dtype)
    rows = _recursion_by_order(l_max, dtype)
    cosine, sine = (flat[:, place].transpose(1, 0, 2) for place in _places(l_max))  # [m, batch, l]

    def value(n):
        x, y, z = n

        def order(carry, row):
            c, s, total = carry
            cosine_m, sine_m, rows_m = row
            legendre = _legendre_at(z, rows_m)
            total += _dot(cosine_m, legendre) * c + _dot(sine_m, legendre) * s
            return (c * x - s * y, c * y + s * x, total), None

        start = (jnp.ones_like(x), jnp.zeros_like(x), jnp.zeros(flat.shape[0], dtype))
        return jax.lax.scan(jax.checkpoint(order), start, (cosine, sine, rows))[0][2]

    values = _map(value, direction.reshape(-1, 3).astype(dtype))
    return values.T.reshape(*coefficients.shape[:-1], *direction.shape[:-1])


def _dot(a: Array, b: Array) -> Array:
    """Product in full precision: accelerators otherwise round 32-bit inputs to 10 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _map(function, points: Array) -> Array:
    """A function of one point at many, in pieces whose working arrays (and their gradients') stay small."""
    # No more than there are: a remainder of all the points would be compiled a second time.
    size = max(1, min(2048, points.shape[0]))
    return jax.lax.map(jax.checkpoint(function), points, batch_size=size)
