r"""Pitch-angle diffusion in time: how an anisotropy decays, and how a density gradient builds its profile up.

Gyrotropic particles whose momenta have the cosine mu with the field obey

$$ \partial_t f = \partial_\mu (D\, \partial_\mu f), \qquad -\partial_\mu (D\, \partial_\mu f_k) = \Lambda_k f_k, $$

with D = D_mumu(mu) and no flux through mu = +-1. Everything is a sum over the eigenfunctions f_k, found in two ways
that share nothing but the quadrature: from means over cells, of any width, and from coefficients of Legendre
polynomials. Isotropic scattering, D = nu (1 - mu^2) / 2, has f_k ~ P_k and Lambda_k = nu k (k + 1) / 2.

The velocity forgets itself as <mu(0) mu(t)>, and its integral is the diffusion along the field
(Taylor 1922; Green 1951; Kubo 1957),

$$ \kappa_\parallel(t) = v^2 \int_0^t \langle \mu(0)\, \mu(t') \rangle\, dt'
   \to \frac{v^2}{8} \int_{-1}^1 \frac{(1 - \mu^2)^2}{D}\, d\mu. $$
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from .errors import InputError, is_known
from .pitch_angle_quadrature import STEP, Scattering, nodes, ratios, require_scattering, slopes

_CELL_STEP = 2 * STEP
"""Of the quadrature within one cell."""


class Modes(eqx.Module):
    r"""Eigenfunctions f_k of pitch-angle diffusion, in elements: cells of mu, or Legendre polynomials.

    Attributes:
        rates: Lambda_k, ascending, the first exactly 0 [1/time].
        functions: f_k, with $\int f_k^2\, d\mu = 1$: means over cells, or coefficients a_l of $\sum_l a_l P_l$ from
            l = 0, shape (mode, element). The sign is arbitrary.
        weights: Of the scalar product $\int f g\, d\mu$ = sum of weights f g: widths of the cells, or 2 / (2l + 1).
        cosine: mu itself, in elements.
    """

    rates: Float[Array, " mode"]
    functions: Float[Array, "mode element"]
    weights: Float[Array, " element"]
    cosine: Float[Array, " element"]


# The two solutions --------------------------------------------------------------------------------------------


def graded_faces(cells: int, grading: float = 2.0) -> Float[np.ndarray, " face"]:
    """Faces of cells from mu = -1 to 1 that crowd at mu = 0, where D may vanish: mu = +-(j / n)^grading.

    Args:
        cells: Their number, even, so that mu = 0 is a face.
        grading: 1 for equal cells; 2 suits quasi-linear D. Not above 3.

    Raises:
        InputError: If the number is not even and at least 4, or the grading not from 1 to 3.
    """
    if isinstance(cells, bool) or not isinstance(cells, int | np.integer) or cells < 4 or cells % 2:
        raise InputError(f"cells of mu must be an even number of at least 4, not {cells!r}: half on either side of 0")
    if not 1 <= grading <= 3:
        raise InputError(f"the grading of cells of mu must be from 1 (equal) to 3, not {grading!r}")
    half = (np.arange(cells // 2 + 1) / (cells // 2)) ** grading
    return np.concatenate([-half[:0:-1], half])


def cell_modes(scattering: Scattering, faces: Float[ArrayLike, " face"]) -> Modes:
    r"""Eigenfunctions by finite volumes, one for each cell.

    At its face a cell gives its neighbour $(1 - \mu^2)$ times the difference of their means of f, over that of their
    means of $g = \int (1 - \mu^2) / D\, d\mu$. This takes D as it is, zeros and all, and keeps f = g without an error:
    errors of eigenvalues and means fall as 1 / cells^2 also for quasi-linear D, if the cells are `graded_faces`.
    Particles are conserved to rounding.

    Args:
        scattering: D_mumu.
        faces: Of the cells, ascending from -1 to 1; concrete.

    Raises:
        InputError: If faces do not ascend from -1 to 1.
    """
    require_scattering(scattering, resolved=False)
    faces = _require_faces(faces)
    width = jnp.asarray(np.diff(faces))
    gaps = _gaps(scattering, faces)
    flow = jnp.asarray(1 - faces[1:-1] ** 2) / gaps
    root = jnp.sqrt(width)
    loss = (jnp.pad(flow, (1, 0)) + jnp.pad(flow, (0, 1))) / width
    beside = -flow / (root[1:] * root[:-1])
    rates, modes = _eigen(jnp.diag(loss) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    cosine = jnp.asarray(faces[1:] + faces[:-1]) / 2
    return Modes(rates.at[0].set(0.0), modes.T / root, width, cosine)


def legendre_modes(scattering: Scattering, l_max: int) -> Modes:
    r"""Eigenfunctions in Legendre polynomials up to l_max, from the inverse of the operator of diffusion.

    `time_matrix` has no error of truncation, and its eigenvalues 1 / Lambda_k are approached from below, for smooth D
    exponentially. Its first row, and so kappa_par and the multipoles of the stationary profile, are exact at any l_max.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, from 1 to 75.

    Raises:
        InputError: If l_max is out of range.
    """
    require_scattering(scattering, resolved=False)
    times, modes = _eigen(-time_matrix(scattering, l_max))
    degree = np.arange(l_max + 1)
    functions = jnp.zeros((l_max + 1, l_max + 1)).at[0, 0].set(1.0).at[1:, 1:].set(modes.T)
    cosine = jnp.zeros(l_max + 1).at[1].set(1.0)
    rates = jnp.concatenate([jnp.zeros(1), -1 / times])
    return Modes(rates, functions * np.sqrt(degree + 0.5), jnp.asarray(2 / (2 * degree + 1)), cosine)


def rate_matrix(scattering: Scattering, l_max: int) -> Float[Array, "degree degree"]:
    r"""How multipoles of a gyrotropic f drive each other: $\dot a_l = -\sum_{l'} S_{ll'} a_{l'}$, for l = 1 .. l_max.

    $S_{ll'} = \sqrt{(l + \tfrac12)(l' + \tfrac12)} \int D\, P_l' P_{l'}'\, d\mu$ with f = sum of $a_l \sqrt{l +
    \tfrac12} P_l$, so that S is symmetric. Isotropic scattering gives nu l (l + 1) / 2 on the diagonal, and nothing
    else. Eigenvalues of the truncated matrix are upper bounds of Lambda_k.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, from 1 to 75.

    Returns:
        S, shape (l_max, l_max) [1/time].

    Raises:
        InputError: If l_max is out of range.
    """
    _require_degree(l_max)
    mu, weight = nodes()
    weight = weight * scattering(jnp.asarray(mu))
    # From (1 - mu^2) P_l' / (l (l + 1)) to P_l'; at the ends, where that is 0 / 0, D is 0.
    inside = 1 - mu**2 > 1e-14
    weight = jnp.where(inside, weight / np.where(inside, 1 - mu**2, 1.0) ** 2, 0.0)
    degree = np.arange(1, l_max + 1)
    scale = degree * (degree + 1) * np.sqrt(degree + 0.5)
    table = scale[:, None] * slopes(l_max).reshape(l_max, -1)
    return (table * weight.reshape(-1)) @ table.T


def time_matrix(scattering: Scattering, l_max: int) -> Float[Array, "degree degree"]:
    r"""The inverse of `rate_matrix` of all l, for l = 1 .. l_max, with no error of truncation.

    $R_{ll'} = \frac{\sqrt{(l + 1/2)(l' + 1/2)}}{l (l + 1)\, l' (l' + 1)} \int \frac{(1 - \mu^2)^2}{D} P_l' P_{l'}'\,
    d\mu$, as the flux $-D f'$ of the decaying P_l is $(1 - \mu^2) P_l' / (l (l + 1))$. kappa_par = v^2 R_11 / 3:
    R_11 is the time of isotropisation that kappa_par sees.

    Args:
        scattering: D_mumu.
        l_max: Highest degree, from 1 to 75.

    Returns:
        R, shape (l_max, l_max) [time].

    Raises:
        InputError: If l_max is out of range.
    """
    _require_degree(l_max)
    mu, weight = nodes()
    inside = 1 - mu**2 > 1e-14
    # One factor 1 - mu^2 is in the ratio, two in the table.
    weight = weight * ratios(scattering, mu) / np.where(inside, 1 - mu**2, 1.0)
    table = np.sqrt(np.arange(1, l_max + 1) + 0.5)[:, None] * slopes(l_max).reshape(l_max, -1)
    return (table * weight.reshape(-1)) @ table.T


# What follows from the modes ----------------------------------------------------------------------------------


def relaxed(
    modes: Modes, initial: Float[ArrayLike, " element"], time: Real[ArrayLike, "*time"]
) -> Float[Array, "*time element"]:
    """f at times after an initial one, both in the elements of the modes.

    Args:
        modes: Of `cell_modes` or `legendre_modes`.
        initial: f at t = 0, shape (element,): means over the cells, or coefficients of P_l from l = 0.
        time: t, not negative, in the unit of 1 / D.

    Returns:
        f in elements, shape (*time, element).

    Raises:
        InputError: If the number of elements is another one, or a time is negative.
    """
    initial, time = jnp.asarray(initial, float), _require_time(time)
    if initial.shape != modes.weights.shape:
        raise InputError(
            f"f at t = 0 must have the shape of the modes, {modes.weights.shape}, not {initial.shape}: give a value "
            "for each cell, or for each degree from 0"
        )
    amplitude = modes.functions @ (modes.weights * initial)
    decay = jnp.exp(-modes.rates[1:] * time[..., None])
    # Apart, as 0 times an infinite time is not 0.
    return amplitude[0] * modes.functions[0] + (decay * amplitude[1:]) @ modes.functions[1:]


def relaxation(
    initial: Float[ArrayLike, " cell"],
    scattering: Scattering,
    time: Real[ArrayLike, "*time"],
    faces: Float[ArrayLike, " face"] | None = None,
) -> Float[Array, "*time cell"]:
    r"""Solution of $\partial_t f = \partial_\mu (D\, \partial_\mu f)$ from initial means over cells of mu.

    Args:
        initial: Mean of f in each cell, from mu = -1 to 1, shape (cell,).
        scattering: D_mumu.
        time: Times, not negative, in the unit of 1 / D.
        faces: Of the cells; by default they are equal, and an even number puts a face at mu = 0.

    Returns:
        Means of f in the cells, shape (*time, cell).

    Raises:
        InputError: As of `cell_modes` and `relaxed`.
    """
    initial, time = jnp.asarray(initial, float), _require_time(time)
    faces = np.linspace(-1, 1, initial.shape[0] + 1) if faces is None else faces
    return relaxed(cell_modes(scattering, faces), initial, time)


def response(modes: Modes, time: Real[ArrayLike, "*time"]) -> Float[Array, "*time element"]:
    r"""g(mu, t) of the anisotropy $f_1 = -\frac{v}{2} g\, \partial_z f_0$ at times after a gradient was switched on.

    It solves $\partial_t f_1 + v \mu\, \partial_z f_0 = \partial_\mu (D\, \partial_\mu f_1)$ with f_1 = 0 at t = 0: g
    begins as 2 mu t, with no scattering yet, and becomes the stationary $g' = (1 - \mu^2) / D$, of zero mean. Small
    scales are there once 1 / Lambda of the slowest modes has passed.

    Args:
        modes: Of `cell_modes` or `legendre_modes`.
        time: t, not negative, in the unit of 1 / D; infinity for the stationary profile.

    Returns:
        g in elements, shape (*time, element), in units of 1 / D: means over cells, or (2l + 1) / 2 times the moments
        G_l of which `diffcr.pitch_angle.legendre_moments` has the final values.

    Raises:
        InputError: If a time is negative.
    """
    built = _built(modes, _require_time(time))
    return 2 * (built * _cosine_amplitude(modes)) @ modes.functions[1:]


def velocity_correlation(modes: Modes, time: Real[ArrayLike, "*time"]) -> Float[Array, "*time"]:
    """<mu(0) mu(t)> of particles of all directions, 1/3 at t = 0: the Laplace transform of a positive measure.

    Args:
        modes: Of `cell_modes` or `legendre_modes`.
        time: t, not negative, in the unit of 1 / D.

    Raises:
        InputError: If a time is negative.
    """
    decay = jnp.exp(-modes.rates[1:] * _require_time(time)[..., None])
    return decay @ _cosine_amplitude(modes) ** 2 / 2


def running_diffusion(
    modes: Modes, time: Real[ArrayLike, "*time"], speed: Real[ArrayLike, ""] = 1.0
) -> Float[Array, "*time"]:
    r"""$\kappa_\parallel(t) = v^2 \int_0^t \langle \mu(0)\, \mu(t') \rangle\, dt'$: half of what <z^2> grows per time.

    v^2 t / 3 as long as particles stream freely, kappa_par of `diffcr.pitch_angle.parallel_diffusion` in the end;
    v^2 (1 - exp(-nu t)) / (3 nu) for isotropic scattering. The dipole of `response` at t is 3 kappa_par(t) grad n / v.

    Args:
        modes: Of `cell_modes` or `legendre_modes`.
        time: t, not negative, in the unit of 1 / D; infinity for the final value.
        speed: v, in the unit of length that kappa is wanted in.

    Raises:
        InputError: If a time is negative.
    """
    return speed**2 * _built(modes, _require_time(time)) @ _cosine_amplitude(modes) ** 2 / 2


def cell_multipoles(faces: Float[ArrayLike, " face"], l_max: int) -> Float[np.ndarray, "degree cell"]:
    r"""$\int P_l\, d\mu$ over each cell, of l = 0 .. l_max: exact.

    It makes $\int f P_l\, d\mu$ of means f over cells, and means of P_l when divided by the widths of the cells.

    Args:
        faces: Of the cells, ascending from -1 to 1.
        l_max: Highest degree.

    Raises:
        InputError: If faces do not ascend from -1 to 1.
    """
    faces = _require_faces(faces)
    table = np.polynomial.legendre.legvander(faces, l_max + 1)
    degree = np.arange(1, l_max + 1)
    integral = np.concatenate([faces[:, None], (table[:, 2:] - table[:, :-2]) / (2 * degree + 1)], axis=1)
    return np.diff(integral, axis=0).T


# Helpers ------------------------------------------------------------------------------------------------------


@jax.custom_jvp
def _eigen(matrix: Float[Array, "element element"]) -> tuple[Float[Array, " mode"], Float[Array, "element mode"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, whose derivative stands equal eigenvalues.

    Those are of functions on either side of mu = 0 that do not feel each other, and do not mix when D changes.
    """
    return tuple(jnp.linalg.eigh(matrix))


@_eigen.defjvp
def _eigen_jvp(primals, tangents):
    values, vectors = _eigen(primals[0])
    inner = vectors.T @ tangents[0] @ vectors
    gap = values - values[:, None]
    apart = jnp.abs(gap) > 1e-12 * jnp.max(jnp.abs(values))
    mixed = jnp.where(apart, inner / jnp.where(apart, gap, 1.0), 0.0)
    return (values, vectors), (jnp.diagonal(inner), vectors @ mixed)


def _gaps(scattering: Scattering, faces: np.ndarray) -> Float[Array, " face"]:
    """Differences of the means of g in neighbouring cells, for each inner face.

    By parts they are integrals of g' with a hat, 1 at the face and 0 at the next ones.
    """
    edges = np.unique(np.append(faces, 0.0))
    cell = np.searchsorted(faces, (edges[1:] + edges[:-1]) / 2) - 1
    # From the end nearest to 0, where integrands may be singular.
    ends = np.where(abs(edges[1:]) < abs(edges[:-1]), [edges[1:], edges[:-1]], [edges[:-1], edges[1:]])
    x, weight = (each[0] for each in nodes(_CELL_STEP))
    mu = ends[0][:, None] + (ends[1] - ends[0])[:, None] * x
    part = weight * abs(ends[1] - ends[0])[:, None] * ratios(scattering, mu, _CELL_STEP)
    low, high = faces[cell][:, None], faces[cell + 1][:, None]
    to_right, to_left = (jnp.sum(part * hat, axis=1) for hat in ((mu - low) / (high - low), (high - mu) / (high - low)))
    size = len(faces) - 1
    rising, falling = (jnp.zeros(size).at[cell].add(each) for each in (to_right, to_left))
    return rising[:-1] + falling[1:]


def _built(modes: Modes, time: Array) -> Float[Array, "*time mode"]:
    """(1 - exp(-Lambda t)) / Lambda of the modes that decay."""
    return -jnp.expm1(-modes.rates[1:] * time[..., None]) / modes.rates[1:]


def _cosine_amplitude(modes: Modes) -> Float[Array, " mode"]:
    return modes.functions[1:] @ (modes.weights * modes.cosine)


def _require_faces(faces) -> Float[np.ndarray, " face"]:
    faces = np.asarray(faces, float)
    if faces.ndim != 1 or faces.size < 3 or not np.all(np.diff(faces) > 0) or faces[0] != -1 or faces[-1] != 1:
        raise InputError(
            "faces of cells of mu must ascend from -1 to 1, with one in between at least: see graded_faces"
        )
    return faces


def _require_degree(l_max: int) -> None:
    if isinstance(l_max, bool) or not isinstance(l_max, int | np.integer) or not 1 <= l_max <= 75:
        raise InputError(f"l_max of pitch-angle diffusion in time must be a whole number from 1 to 75, not {l_max!r}")


def _require_time(time) -> Array:
    if is_known(time) and not np.all(np.asarray(time, float) >= 0):
        raise InputError(f"times of pitch-angle diffusion must not be negative, not {np.min(np.asarray(time)):g}")
    return jnp.asarray(time, float)
