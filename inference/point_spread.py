r"""Point-spread functions and what they do to multipoles: $b_l = \int p(\theta)\, P_l(\cos\theta)\, d\Omega$, b_0 = 1.

A sky blurred by an instrument of axially symmetric point spread has multipoles b_l s_lm.
"""

import csv
import functools
import os
from pathlib import Path

import numpy as np
from scipy import special

from diffcr.errors import InputError

_NODES = 1500


def gaussian_window(sigma: float, l_max: int) -> np.ndarray:
    r"""b_l of $p \propto e^{-\theta^2 / 2 \sigma^2}$ on the sphere; close to $e^{-l(l+1)\sigma^2/2}$. Shape (l_max +
    1,).

    Args:
        sigma: Width per axis [rad], in (0, 1].
        l_max: Highest degree.

    Raises:
        InputError: If sigma is out of range.
    """
    _require_width("gauss", sigma)
    return _window(lambda theta: np.exp(-0.5 * (theta / sigma) ** 2), min(12 * sigma, np.pi), l_max)


def king_window(sigma: float, gamma: float, l_max: int) -> np.ndarray:
    r"""b_l of King's profile $p \propto [1 + \theta^2 / (2 \gamma \sigma^2)]^{-\gamma}$. Shape (l_max + 1,).

    Args:
        sigma: Width of the core [rad], in (0, 1].
        gamma: Slope of the tail, above 1 (at 1 the profile cannot be normalised on a plane).
        l_max: Highest degree.

    Raises:
        InputError: If sigma or gamma is out of range.

    References:
        King (1962), AJ 67, 471; as used for gamma-ray telescopes, Ackermann et al. (2013), ApJ 765, 54.
    """
    _require_width("king", sigma)
    if not (np.isfinite(gamma) and gamma > 1):
        raise InputError(f"the slope of a King profile must be above 1, not {gamma:g}: its tail cannot be normalised")
    return _window(lambda theta: (1 + theta**2 / (2 * gamma * sigma**2)) ** -gamma, np.pi, l_max, sigma)


def table_window(theta: np.ndarray, density: np.ndarray, l_max: int) -> np.ndarray:
    """b_l of a tabulated profile, linear between its points and zero beyond the last. Shape (l_max + 1,).

    Args:
        theta: Angles from the true direction [rad], increasing from 0, shape (point,).
        density: Probability per solid angle at these angles, of any normalisation, not negative.
        l_max: Highest degree.

    Raises:
        InputError: If the angles do not increase within [0, pi], or a density is negative or all are zero.
    """
    theta, density = np.asarray(theta, float), np.asarray(density, float)
    if theta.ndim != 1 or theta.shape != density.shape or theta.size < 2:
        raise InputError("a point-spread table needs two columns of at least two numbers: angle and density")
    if not np.all(np.isfinite(theta)) or np.any(np.diff(theta) <= 0) or theta[0] < 0 or theta[-1] > np.pi:
        raise InputError("the angles of a point-spread table must increase from 0 to at most 180 degrees")
    if not np.all(np.isfinite(density)) or density.min() < 0 or not density.max() > 0:
        raise InputError("the densities of a point-spread table must be finite, not negative, and not all zero")
    return _window(lambda x: np.interp(x, theta, density), float(theta[-1]), l_max)


def window_of(text: str, l_max: int) -> np.ndarray:
    """b_l of a point-spread function in words: gauss:SIGMA, king:SIGMA:GAMMA (degrees), or a CSV file
    angle_deg,density.

    Raises:
        InputError: If it cannot be understood or read.
    """
    kind, _, rest = text.partition(":")
    try:
        numbers = [float(x) for x in rest.split(":")] if kind in ("gauss", "king") else []
    except ValueError:
        numbers = []
    if kind == "gauss" and len(numbers) == 1:
        return gaussian_window(np.radians(numbers[0]), l_max)
    if kind == "king" and len(numbers) == 2:
        return king_window(np.radians(numbers[0]), numbers[1], l_max)
    if kind in ("gauss", "king"):
        raise InputError(f"a point-spread function is gauss:SIGMA or king:SIGMA:GAMMA in degrees, not {text!r}")
    theta, density = read_table(text)
    return table_window(np.radians(theta), density, l_max)


def read_table(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Angle [deg] and density from a CSV file of two columns; a first line of words is a header.

    Raises:
        InputError: If the file is missing, or a row is not two numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such point-spread table; give gauss:SIGMA, king:SIGMA:GAMMA (degrees) or a CSV file"
        )
    rows = []
    with open(path, newline="", encoding="utf-8", errors="replace") as handle:
        for line, row in enumerate(csv.reader(handle), 1):
            if not row or row[0].lstrip().startswith("#"):
                continue
            try:
                rows.append((float(row[0]), float(row[1])))
            except (ValueError, IndexError):
                if line > 1 or rows:
                    raise InputError(f"{path}, line {line}: not two numbers, angle_deg,density; correct it") from None
    if not rows:
        raise InputError(f"{path}: the point-spread table is empty; write rows angle_deg,density")
    theta, density = np.array(rows).T
    return theta, density


def _window(profile, reach: float, l_max: int, core: float | None = None) -> np.ndarray:
    """b_l by Gauss-Legendre quadrature over theta in [0, reach]; nodes crowd around a core of given width."""
    x, w = _nodes()
    if core is None:
        theta, weight = 0.5 * reach * (x + 1), 0.5 * reach * w
    else:
        # theta = core sinh(u): even steps in u are fine in the core and wide in the tail.
        top = np.arcsinh(reach / core)
        u = 0.5 * top * (x + 1)
        theta, weight = core * np.sinh(u), 0.5 * top * w * core * np.cosh(u)
    mass = weight * profile(theta) * np.sin(theta)
    return np.array([special.eval_legendre(l, np.cos(theta)) @ mass for l in range(l_max + 1)]) / mass.sum()


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    return special.roots_legendre(_NODES)


def _require_width(kind: str, sigma: float) -> None:
    if not (np.isfinite(sigma) and 0 < sigma <= 1):
        raise InputError(
            f"the width of a {kind} point-spread function must lie in (0, 57] degrees, not {np.degrees(sigma):g}"
        )
